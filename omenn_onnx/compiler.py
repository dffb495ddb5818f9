"""The pipeline: load, normalise, linearise, transpose, lower, save."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner

import omenn_onnx
from omenn_onnx.calculus import Calculus
from omenn_onnx.errors import CompileError, NameNotFound, NoPath, UnsupportedOperators
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.files import LoadedModel, load_model
from omenn_onnx.graph.ir import Graph, Node, Shape, Tensor
from omenn_onnx.graph.read import read_graph
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.walk import graphs_of
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linear.rows import rows_stay_apart
from omenn_onnx.linear.transpose import transpose
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered
from omenn_onnx.normalise.blocked import unblock
from omenn_onnx.normalise.canonical import Views
from omenn_onnx.normalise.double import to_double
from omenn_onnx.normalise.embeddings import open_embeddings
from omenn_onnx.normalise.explained import channel_axes, class_axis, find_inputs, find_outputs
from omenn_onnx.normalise.upgrade import upgrade
from omenn_onnx.seeds import Seeded, Target, make_seed, parse_target

CORE_OPSET = 20
RULES = ("secant", "tangent")


@dataclass
class Linearised:
    """A model as a linear program: what every use of it starts from."""

    proto: onnx.ModelProto
    graph: Graph
    views: Views
    emit: Emitter
    calculus: Calculus
    sources: dict[Tensor, tuple[Var, Var]]
    axes: dict[Tensor, int]
    output: Tensor
    public: dict[str, str]
    reached: set[Var] = field(default_factory=set)

    def name(self, t: Tensor) -> str:
        """The name that the user knows a tensor by (in the audit mode a double twin stands for an output)."""
        return self.public.get(t.name, t.name)

    @property
    def equations(self) -> Sequence[Equation]:
        return self.calculus.build.equations


def linearise(
    loaded: LoadedModel,
    inputs: Sequence[str] = (),
    output: str | None = None,
    rules: str = "secant",
    axis: Mapping[str, int] | None = None,
    dtype: str = "float32",
    opaque: Sequence[str] = (),
    prefix: str = "",
) -> Linearised:
    """The linear program of a model between its explained inputs and its explained output."""
    if rules not in RULES:
        raise CompileError(f"rules {rules!r}: give secant or tangent")
    proto = core_model(loaded)
    doubles = to_double(proto, str(loaded.folder or "")) if dtype == "float64" else {}
    graph = read_graph(proto, str(loaded.folder or ""))
    for op in opaque:
        if all(op != n.op for n in graph.nodes):
            raise NameNotFound("operator", op, (n.op for n in graph.nodes))
    emit = Emitter(graph, explanation_type(graph, dtype), _free_prefix(proto, f"{prefix}omenn"))
    sources = find_inputs(graph, [doubles.get(n, n) for n in inputs])
    views = Views(graph, emit, sources, opaque)
    calculus = Calculus(graph, emit, rules == "tangent", frozenset(opaque), views)
    candidates = find_outputs(graph, views, output if output is None else doubles.get(output, output))
    public = {twin: name for name, twin in doubles.items()}
    axes = channel_axes(views.nodes, sources, {doubles.get(n, n): a for n, a in (axis or {}).items()})
    variables: dict[Tensor, tuple[Var, Var]] = {}
    for t in sources:
        assert t.shape is not None
        ones: Shape = tuple(1 if i == axes[t] else d for i, d in enumerate(t.shape))
        variables[t] = (Var(t.shape), Var(ones))
        calculus.source(t, *variables[t])
    for node in views.nodes:
        calculus.linearise(node)
    z = next((t for t in candidates if t in calculus.pairs), candidates[0])
    if z.shape is None:
        said = f"the rank of the explained output {z.name!r} is not known; declare shapes in the model"
        raise misfit(proto) or CompileError(said)
    if z not in calculus.pairs:
        named = ", ".join(repr(t.name) for t in sources)
        why = "is constant" if z.const else "does not depend on it through floating-point arithmetic"
        said = f"no path leads from the explained input {named} to the explained output {z.name!r}, which {why}"
        raise misfit(proto) or NoPath(said)
    return Linearised(proto, graph, views, emit, calculus, variables, axes, z, public)


def core_model(loaded: LoadedModel) -> onnx.ModelProto:
    """A copy of the model with functions inlined, at the core opset or its own if that is newer, and without what ONNX
    Runtime's optimiser does to layouts and embeddings."""
    proto = onnx.ModelProto()
    proto.CopyFrom(loaded.proto)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    upgrade(proto, CORE_OPSET)
    unblock(proto, str(loaded.folder or ""))
    open_embeddings(proto)
    return proto


def explanation_type(graph: Graph, dtype: str) -> np.dtype[Any]:
    """float32, float64, or the type of the model's own first float input or weight."""
    if dtype in ("float32", "float64"):
        return np.dtype(dtype)
    if dtype != "model":
        raise CompileError(f"dtype {dtype!r}: give float32, model or float64")
    for t in (*graph.inputs, *graph.tensors.values()):
        if t.is_float and t.dtype is not None:
            return t.dtype
    return np.dtype(np.float32)


def misfit(proto: onnx.ModelProto) -> CompileError | None:
    """What strict shape inference finds wrong with a model: the cause, where sizes do not fit, of what follows."""
    try:
        onnx.shape_inference.infer_shapes(skeleton(proto), strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as e:
        found = [line for line in str(e).splitlines() if "instead is null" not in line]  # (not known is no misfit)
        if found:
            return CompileError(f"the shapes do not fit: {' '.join(' '.join(found).split())}")
    return None


def tensor_names(proto: onnx.ModelProto) -> set[str]:
    """Every name that a model uses for a tensor, in its subgraphs and for unused weights too."""
    names: set[str] = set()
    for graph in graphs_of(proto):
        names.update(v.name for v in (*graph.input, *graph.output, *graph.initializer))
        names.update(s.values.name for s in graph.sparse_initializer)
        for node in graph.node:
            names.update((*node.input, *node.output))
    return names


def _free_prefix(proto: onnx.ModelProto, prefix: str) -> str:
    names = tensor_names(proto) | {n.name for n in proto.graph.node}
    while any(n.startswith(prefix + "/") for n in names):
        prefix += "_"
    return prefix


@dataclass
class Names:
    """Public names of the compiled file."""

    prefix: str
    taken: set[str]

    def __call__(self, name: str) -> str:
        full = self.prefix + name
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
        dtype: arithmetic of the explanation: float32, model, float64.
        opaque: operators outside the calculus that are accepted as constants.
        prefix: put before the names of all new inputs and outputs.

    Raises:
        OmennError: one clear line for everything that a user can cause.
    """
    loaded = load_model(model)
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    opaque = [opaque] if isinstance(opaque, str) else list(opaque)
    axis = {"": channel_axis} if isinstance(channel_axis, int) else dict(channel_axis or {})
    return compile_loaded(loaded, names, output, parse_target(target), rules, axis, dtype, opaque, prefix).proto


@dataclass
class Compiled:
    """The compiled model and what the report tells of it."""

    proto: onnx.ModelProto
    linear: Linearised
    target: Target
    output: str
    original_nodes: int
    nodes: list[Node]


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
) -> Compiled:
    """Compile a loaded model."""
    lin = linearise(loaded, inputs, output, rules, axis, dtype, opaque, prefix)
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
        x = t.name if own_input else public(f"X{suffix}")
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
    proto = lin.proto
    before = len(proto.graph.node)
    own = [o.name for o in proto.graph.output]
    append_nodes(proto, nodes, [seeded.new_input] if seeded.new_input is not None else [], outputs)
    meta = {
        "format": "1",
        "version": omenn_onnx.__version__,
        "onnx": onnx.__version__,
        "rules": rules,
        "dtype": emit.dtype.name,
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
        "rows": json.dumps(rows_are_independent(lin)),
    }
    own_meta = {p.key: p.value for p in proto.metadata_props if not p.key.startswith("omenn.")}
    helper.set_model_props(proto, own_meta | {f"omenn.{key}": value for key, value in meta.items()})
    return Compiled(proto, lin, target, lin.name(z), before, nodes)


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
    low = Lowering(emit, {seed: Lowered(seeded.seed, seeded.seed_dims)}, seeded.lead)
    low.run(adjoint.equations)
    maps: dict[Tensor, tuple[Tensor, Tensor]] = {}
    for t, (v, o) in lin.sources.items():
        maps[t] = _public_map(low, v, cotangents[v]), _public_map(low, o, cotangents[o])
    return maps


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


def rows_are_independent(lin: Linearised) -> bool:
    """Whether completeness holds row by row, or only for the whole batch."""
    z = lin.calculus.pairs[lin.output].value
    sources = [v for pair in lin.sources.values() for v in pair]
    batch = z.shape[0] if z.shape else 1
    if any(v.shape[0] != batch for v in sources):
        return False
    if batch == 1:
        return True
    return rows_stay_apart(lin.equations, sources, lin.reached, z)


def forward_model(lin: Linearised) -> onnx.ModelProto:
    """The linear program run forward: the model with the further inputs ``v.NAME`` and ``o.NAME`` (of the shapes of an
    explained tensor and of its ones channel) and the outputs ``R_value`` and ``R_ones``, the images of both at the
    explained output, every coefficient held at the model's own input."""
    pair = lin.calculus.pairs[lin.output]
    bindings: dict[Var, Lowered] = {}
    new: list[Tensor] = []
    for t, streams in lin.sources.items():
        for letter, var in zip("vo", streams, strict=True):
            given = Tensor(f"{letter}.{t.name}", lin.emit.dtype, var.shape)
            new.append(given)
            bindings[var] = Lowered(given, var.shape)
    low = Lowering(lin.emit, bindings)
    low.run(needed_equations(lin.equations, [pair.value, pair.ones]))
    outputs = [(low.full(pair.value), "R_value"), (low.full(pair.ones), "R_ones")]
    append_nodes(lin.proto, live_nodes(lin.emit.nodes, [t for t, _ in outputs]), new, outputs)
    return lin.proto


def needed_equations(equations: Sequence[Equation], wanted: Sequence[Var]) -> list[Equation]:
    """The equations on which ``wanted`` depend, in order."""
    needed = set(wanted)
    kept = []
    for equation in reversed(equations):
        if equation.out in needed:
            kept.append(equation)
            needed.update(equation.inputs)
    return kept[::-1]
