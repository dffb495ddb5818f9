"""From a loaded model to its linear program, and that program run forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from omenn_onnx.calculus import Calculus
from omenn_onnx.errors import CompileError, NameNotFound, NoPath
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.files import LoadedModel
from omenn_onnx.graph.ir import Graph, Shape, Tensor
from omenn_onnx.graph.lift import lift_weights
from omenn_onnx.graph.read import read_graph
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.standins import put_stand_ins
from omenn_onnx.graph.walk import graphs_of
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.groups import group_channels
from omenn_onnx.linear.program import Equation, Var, needed
from omenn_onnx.linear.rows import rows_stay_apart
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered
from omenn_onnx.normalise.blocked import unblock
from omenn_onnx.normalise.double import to_double
from omenn_onnx.normalise.embeddings import open_embeddings
from omenn_onnx.normalise.explained import channel_axes, find_inputs, find_outputs
from omenn_onnx.normalise.features import cast_features
from omenn_onnx.normalise.functions import inline_functions
from omenn_onnx.normalise.integers import open_integers
from omenn_onnx.normalise.lists import open_lists
from omenn_onnx.normalise.room import make_room
from omenn_onnx.normalise.upgrade import upgrade
from omenn_onnx.normalise.vectors import raise_vectors
from omenn_onnx.normalise.views import Views
from omenn_onnx.providers.forms import forms_of

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

    def channel_axis(self, t: Tensor) -> int:
        """The axis of a tensor that its readers contract, its features; where they do not say, or disagree, axis 1 of
        images and the last one of all else."""
        if t in self.axes:
            return self.axes[t]
        try:
            return channel_axes(self.views.nodes, [t], {})[t]
        except CompileError:
            rank = self.calculus.pairs[t].value.rank
            return 1 if rank >= 4 else max(rank - 1, 0)


def linearise(
    loaded: LoadedModel,
    inputs: Sequence[str] = (),
    output: str | None = None,
    rules: str = "secant",
    axis: Mapping[str, int] | None = None,
    dtype: str = "float32",
    opaque: Sequence[str] = (),
    prefix: str = "",
    provider: str = "cpu",
) -> Linearised:
    """The linear program of a model between its explained inputs and its explained output."""
    if rules not in RULES:
        raise CompileError(f"rules {rules!r}: give secant or tangent")
    proto = core_model(loaded)
    moved = make_room(proto, prefix)
    doubles = moved | (to_double(proto, str(loaded.folder or "")) if dtype == "float64" else {})
    graph = read_graph(proto, str(loaded.folder or ""))
    for op in opaque:
        if all(op != n.op for n in graph.nodes):
            raise NameNotFound("operator", op, (n.op for n in graph.nodes))
    own_prefix, forms = _free_prefix(proto, f"{prefix}omenn"), forms_of(provider, graph.opset)
    emit = Emitter(graph, explanation_type(graph, dtype), own_prefix, provider, forms)
    sources = find_inputs(graph, [doubles.get(n, n) for n in inputs])
    emit.signs.unbounded.update(t for t in graph.inputs if t not in sources)
    views = Views(graph, emit, sources, opaque)
    calculus = Calculus(graph, emit, rules == "tangent", frozenset(opaque), views)
    candidates = find_outputs(graph, views, output if output is None else doubles.get(output, output))
    public = {twin: name for name, twin in doubles.items() if name not in moved}
    axes = channel_axes(views.nodes, sources, {doubles.get(n, n): a for n, a in (axis or {}).items()})
    variables: dict[Tensor, tuple[Var, Var]] = {}
    for t in sources:
        assert t.shape is not None
        ones: Shape = tuple(1 if i == axes[t] else d for i, d in enumerate(t.shape))
        variables[t] = (Var(t.shape), Var(ones))
        calculus.source(t, *variables[t])
    for node in views.nodes:
        calculus.linearise(node)
    grouped = Builder(emit)
    group_channels(calculus.build.equations, [v for p in calculus.pairs.values() for v in (p.value, p.ones)], grouped)
    calculus.build = grouped
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
    Runtime's optimiser does to layouts and embeddings; integers that quantised operators read, as real numbers."""
    proto = onnx.ModelProto()
    proto.CopyFrom(loaded.proto)
    proto = inline_functions(proto)
    lift_weights(proto)
    upgrade(proto, CORE_OPSET)
    open_lists(proto)
    raise_vectors(proto)
    cast_features(proto)
    unblock(proto, str(loaded.folder or ""))
    open_embeddings(proto)
    open_integers(proto)
    return proto


def explanation_type(graph: Graph, dtype: str) -> np.dtype[Any]:
    """float32, float64, or the type of the model's own first float input or weight."""
    if dtype in ("float32", "float64"):
        return np.dtype(dtype)
    if dtype != "model":
        raise CompileError(f"dtype {dtype!r}: give float32, model or float64")
    for t in (*graph.inputs, *graph.tensors.values()):
        if t.is_float and t.dtype is not None and t.dtype.itemsize > 1:
            return t.dtype
    return np.dtype(np.float32)


def misfit(proto: onnx.ModelProto) -> CompileError | None:
    """What strict shape inference finds wrong with a model: the cause, where sizes do not fit, of what follows."""
    try:
        bare = skeleton(proto)
        put_stand_ins(bare)
        onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as e:
        found = [line for line in str(e).splitlines() if "instead is null" not in line]  # (not known is no misfit)
        if found:
            return CompileError(f"the shapes do not fit: {' '.join(' '.join(found).split())}")
    return None


_COARSE_FIRST = ("bfloat16", "float16", "float32", "float64")


def precision(lin: Linearised, reached: Collection[Var]) -> str:
    """The coarsest float type of the explanation and of the tensors between X and Z, whose variables are ``reached``:
    what they round stays in the residual."""
    names = {lin.emit.dtype.name}
    for t, pair in lin.calculus.pairs.items():
        if pair.value in reached and t not in lin.sources and t.dtype is not None:
            names.add(t.dtype.name)
        if t is lin.output:
            break
    return next(name for name in _COARSE_FIRST if name in names)


def rows_are_independent(lin: Linearised, reached: Collection[Var]) -> bool:
    """Whether completeness holds row by row, or only for the whole batch. ``reached``: the variables on the way."""
    z = lin.calculus.pairs[lin.output].value
    sources = [v for pair in lin.sources.values() for v in pair]
    batch = z.shape[0] if z.shape else 1
    if any(v.shape[0] != batch for v in sources):
        return False
    if batch == 1:
        return True
    return rows_stay_apart(lin.equations, sources, reached, z)


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
    low.run(needed(lin.equations, [pair.value, pair.ones]))
    outputs = [(low.full(pair.value), "R_value"), (low.full(pair.ones), "R_ones")]
    append_nodes(lin.proto, live_nodes(lin.emit.nodes, [t for t, _ in outputs]), new, outputs)
    return lin.proto
