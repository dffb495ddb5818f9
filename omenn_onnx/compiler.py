"""The pipeline: load, normalise, linearise, transpose, lower, save."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import onnx
from onnx import helper

import omenn_onnx
from omenn_onnx.errors import CompileError, UnsupportedOperators
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.files import LoadedModel, load_model
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.graph.order import leaves
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linear.simplify import simplified
from omenn_onnx.linear.transpose import transpose
from omenn_onnx.linearise import Linearised, linearise, misfit, precision, rows_are_independent, tensor_names
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered
from omenn_onnx.lowering.one_hot import look_up
from omenn_onnx.normalise.explained import class_axis
from omenn_onnx.providers.placement import Placement, place
from omenn_onnx.seeds import Seeded, Target, make_seed, parse_target


@dataclass
class Names:
    """Public names of the compiled file."""

    prefix: str
    taken: set[str]

    def __call__(self, name: str, other: str = "") -> str:
        """``name``, or ``other`` if that is taken."""
        full = self.prefix + name
        if other and full in self.taken:
            full = self.prefix + other
        if full in self.taken:
            raise CompileError(f"the model already has a tensor {full!r}: compile with --prefix, e.g. --prefix omenn_")
        self.taken.add(full)
        return full


def compile(
    model: str | PathLike[str] | bytes | onnx.ModelProto,
    *,
    inputs: Sequence[str] | str = (),
    output: str | None = None,
    target: str | int | list[int] | tuple[int, ...] = "argmax",
    rules: str = "secant",
    channel_axis: int | Mapping[str, int] | None = None,
    dtype: str = "float32",
    opaque: Sequence[str] | str = (),
    prefix: str = "",
    provider: str = "cpu",
    strict_provider: bool = False,
) -> onnx.ModelProto:
    """The model with C_w and C_b among its outputs:  score = sum(C_w * X) + sum(C_b)  for every input (OMENN).

    Args:
        model: a file, its bytes, or a ModelProto (which is not changed).
        inputs: explained tensors by name; default: the float inputs, the word embedding of token ids, the first cast of
            an integer image.
        output: the explained tensor Z by name; default: what stands before the first output's softmax or similar tail.
        target: argmax, input, input:K, seed, top:K, an index or several, a margin "3-7", last, class:3.
        rules: "secant" (OMENN) or "tangent" (gradients).
        channel_axis: where the ones channel is appended, for all explained tensors or by name.
        dtype: arithmetic of the explanation: float32 (of a float16 network too: what is multiplied and summed for its
            maps is float32), model (the network's own), float64.
        opaque: operators outside the calculus that are accepted as constants.
        prefix: put before the names of all new inputs and outputs.
        provider: where the file is to run: cpu, cuda, webgpu. It runs anywhere; there it keeps to what has kernels, and
            a RuntimeWarning names the nodes that fall back to the CPU.
        strict_provider: such nodes are an error.

    Raises:
        OmennError: one clear line for everything that a user can cause.
    """
    loaded = load_model(model)
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    opaque = [opaque] if isinstance(opaque, str) else list(opaque)
    axis = {"": channel_axis} if isinstance(channel_axis, int) else dict(channel_axis or {})
    chosen = parse_target(target)
    return compile_loaded(
        loaded, names, output, chosen, rules, axis, dtype, opaque, prefix, provider, strict_provider
    ).proto


@dataclass
class Compiled:
    """The compiled model and what the report tells of it."""

    proto: onnx.ModelProto
    linear: Linearised
    target: Target
    output: str
    original_nodes: int
    nodes: list[Node]
    placement: Placement | None


def compile_loaded(
    loaded: LoadedModel,
    inputs: Sequence[str],
    output: str | None,
    target: Target,
    rules: str,
    axis: Mapping[str, int],
    dtype: str,
    opaque: Sequence[str],
    prefix: str,
    provider: str = "cpu",
    strict_provider: bool = False,
) -> Compiled:
    """Compile a loaded model."""
    lin = linearise(loaded, inputs, output, rules, axis, dtype, opaque, prefix, provider)
    emit, z = lin.emit, lin.output
    public = Names(prefix, tensor_names(lin.proto))
    input_name = public({"input": "target", "seed": "seed"}[target.kind]) if target.kind in ("input", "seed") else ""
    seeded = make_seed(emit, target, emit.cast(z), class_axis(lin.views, z), input_name)
    try:
        maps = adjoint_maps(lin, seeded)
    except UnsupportedOperators as refused:
        raise misfit(lin.proto) or refused from None
    outputs: list[tuple[Tensor, str]] = []
    carried: list[tuple[Tensor, str]] = []
    described: list[dict[str, Any]] = []
    several = len(lin.sources) > 1
    for t, (c_w, c_b) in maps.items():
        suffix = f".{lin.name(t)}" if several else ""
        own_input = t in lin.graph.inputs
        w, b = public(f"C_w{suffix}"), public(f"C_b{suffix}")
        x = t.name if own_input else public(f"X{suffix}", f"X.{lin.name(t)}")
        outputs += [(c_w, w), (c_b, b)]
        carried += [] if own_input else [(t, x)]
        entry = {"name": lin.name(t), "x": x, "graph_input": own_input, "C_w": w, "C_b": b}
        described.append({**entry, "channel_axis": lin.axes[t]})
    score = public("score")
    chosen = input_name if target.kind == "input" else public("target")
    outputs += [(seeded.score, score), (seeded.index, chosen)]
    outputs += carried
    share = None
    if opaque:
        share = public("opaque_share")
        outputs.append((opaque_share(lin, seeded), share))
    nodes = live_nodes(emit.nodes, [t for t, _ in outputs])
    nodes += leaves(emit, nodes, [w for w, _ in maps.values()])
    placement = place(provider, lin.graph, nodes)
    if placement is not None and placement.ours:
        if strict_provider:
            raise CompileError(str(placement))
        warnings.warn(str(placement), RuntimeWarning, stacklevel=3)
    proto = lin.proto
    before = len(proto.graph.node)
    own = list(dict.fromkeys(o.name for o in proto.graph.output))  # (one may stand twice)
    append_nodes(proto, nodes, [seeded.new_input] if seeded.new_input is not None else [], outputs)
    meta = {
        "format": "1",
        "version": omenn_onnx.__version__,
        "onnx": onnx.__version__,
        "rules": rules,
        "dtype": emit.dtype.name,
        "precision": precision(lin, lin.reached),
        "provider": provider,
        "output": lin.name(z),
        "output_shape": json.dumps(list(z.shape or ())),
        "outputs": json.dumps(own),
        "target": json.dumps({"kind": target.kind, "spec": target.spec, "k": target.k, "dynamic_k": target.dynamic_k}),
        "inputs": json.dumps(described),
        "names": json.dumps(
            {
                "score": score,
                "target": chosen,
                "target_input": input_name if target.kind == "input" else None,
                "seed_input": input_name if target.kind == "seed" else None,
                "opaque_share": share,
            }
        ),
        "opaque": json.dumps(sorted({n.op for n in lin.calculus.opaque_nodes})),
        "rows": json.dumps(rows_are_independent(lin, lin.reached)),
    }
    own_meta = {p.key: p.value for p in proto.metadata_props if not p.key.startswith("omenn.")}
    helper.set_model_props(proto, own_meta | {f"omenn.{key}": value for key, value in meta.items()})
    return Compiled(proto, lin, target, lin.name(z), before, nodes, placement)


def adjoint_maps(lin: Linearised, seeded: Seeded, keep: Any = None) -> dict[Tensor, tuple[Tensor, Tensor]]:
    """C_w and C_b of each explained tensor as tensors [N, K?, ...]. ``keep`` restricts the bias terms that count."""
    emit = lin.emit
    adjoint = Builder(emit)
    seed = Var(seeded.seed_dims)
    z_value = lin.calculus.pairs[lin.output].value
    start = adjoint.broadcast(seed, z_value.shape)
    wanted = [v for pair in lin.sources.values() for v in pair]
    extra = {} if keep is None else {"keep": keep}
    cotangents, lin.reached = transpose(lin.equations, {z_value: start}, wanted, adjoint, **extra)
    equations = simplified(adjoint.equations, [v for v in cotangents.values() if v is not None], emit)
    count = seeded.lead if isinstance(seeded.lead, int) and _one_by_one(equations, seeded.lead) else None
    if count is None:
        found = [_lowered_maps(lin, seeded, seed, equations, cotangents)]
    else:
        found = [_lowered_maps(lin, seeded.only(emit, k), seed, equations, cotangents) for k in range(count)]
    maps: dict[Tensor, tuple[Tensor, Tensor]] = {}
    for t, streams in lin.sources.items():
        w, b = (_stacked(emit, [m[t][i] for m in found], v.shape, count) for i, v in enumerate(streams))
        maps[t] = w, b
    return maps


_UNROLLED = 20_000
"""Equations that are written at most for targets one by one."""


def _one_by_one(equations: Sequence[Equation], count: int) -> bool:
    """Whether several targets are written one after the other rather than as one more axis: with convolutions, whose
    masks then stay in ONNX Runtime's blocked layout and in its caches (ResNet-50, 10 targets: 14.1 forwards, 16.7
    as an axis). Matrix products gain more from an axis."""
    convolutions = sum(isinstance(e.primitive, lp.Conv) for e in equations)
    products = sum(isinstance(e.primitive, lp.MatMul) for e in equations)
    return convolutions > products and count * len(equations) <= _UNROLLED


def _lowered_maps(
    lin: Linearised, seeded: Seeded, seed: Var, equations: Sequence[Equation], cotangents: Mapping[Var, Var | None]
) -> dict[Tensor, tuple[Tensor, Tensor]]:
    """C_w and C_b of each explained tensor, from the equations as nodes."""
    low = Lowering(lin.emit, {seed: Lowered(seeded.seed, seeded.seed_dims)}, seeded.lead)
    if seeded.places is not None:
        equations = look_up(low, equations, seed, seeded.places)
    low.run(equations)
    return {
        t: (_public_map(low, v, cotangents[v]), _public_map(low, o, cotangents[o])) for t, (v, o) in lin.sources.items()
    }


def _stacked(emit: Emitter, parts: Sequence[Tensor], shape: Shape, count: int | None) -> Tensor:
    """The maps of ``count`` targets side by side: [N, K, ...]."""
    if count is None:
        return parts[0]
    sizes = (shape[0], 1, *shape[1:])
    rows = [emit.op("Unsqueeze", t, [1], shape=sizes) for t in parts]
    return emit.op("Concat", *rows, axis=1, shape=(shape[0], count, *shape[1:]))


def _public_map(low: Lowering, x: Var, cotangent: Var | None) -> Tensor:
    """The cotangent with the batch axis first and the K axis second; zeros where nothing arrived."""
    if cotangent is None:
        tensor = low.emit.op("Expand", 0.0, low.emit.shape(low.dims(x.shape)), shape=low.dims(x.shape))
    else:
        tensor = low.full(cotangent)
    if low.lead is None:
        return tensor
    perm = [1, 0, *range(2, x.rank + 1)]
    shape = (x.shape[0], low.lead, *x.shape[1:])
    return low.emit.op("Transpose", tensor, perm=perm, shape=shape)


def opaque_share(lin: Linearised, seeded: Seeded) -> Tensor:
    """What the operators accepted as constants contribute to sum(C_b), over the whole batch (per target: [K])."""
    owners = {n.origin for n in lin.calculus.opaque_nodes}
    emit = lin.emit
    maps = adjoint_maps(lin, seeded, lambda e: not e.bias or e.owner in owners)
    first = 0 if seeded.lead is None else 1
    sums = []
    for t, (_, c_b) in maps.items():
        axes = [i for i in range(len(lin.sources[t][1].shape) + first) if i != 1 or not first]
        sums.append(
            emit.op("ReduceSum", c_b, axes, keepdims=0, shape=(seeded.lead,) if seeded.lead is not None else ())
        )
    return sums[0] if len(sums) == 1 else emit.op("Sum", *sums, shape=sums[0].shape)
