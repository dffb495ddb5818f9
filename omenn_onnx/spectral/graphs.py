"""The operator between two tensors as plain ONNX: what computes its coefficients, and what applies it either way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, helper

from omenn_onnx.errors import NoPath
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.extract import depending, extract, reads
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Scale, Var, needed
from omenn_onnx.linear.simplify import simplified
from omenn_onnx.linear.transpose import transpose
from omenn_onnx.linearise import Linearised, tensor_names
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered
from omenn_onnx.spectral.operators import masked


@dataclass(frozen=True)
class OperatorGraphs:
    """target = R source + bias at one instance, as three models.

    ``coefficients``: the model's own inputs -> everything that depends on them: the coefficients that the other two
    take as inputs, the bias (``bias``, None: zero) and the values of both tensors. A size that depends on values is a
    name in the shapes here: the values have it.
    ``forward``: V [K, *source shape] and coefficients -> R V [K, *target shape] (output ``forward_output``).
    ``adjoint``: U [K, *target shape] and coefficients -> R^T U [K, *source shape] (output ``adjoint_output``).
    """

    coefficients: ModelProto | None
    forward: ModelProto
    adjoint: ModelProto
    source: str | None
    target: str
    bias: str | None
    source_shape: Shape
    target_shape: Shape
    forward_input: str
    forward_output: str
    adjoint_input: str
    adjoint_output: str


def operator_graphs(lin: Linearised, source: Tensor, target: Tensor, folder: str = "") -> OperatorGraphs:
    """The graphs of the operator from ``source`` to ``target``, both carriers of ``lin``. Raises NoPath
    where the target does not depend on the source."""
    start = lin.calculus.pairs[source].value
    made = program_graphs(lin, lin.equations, start, target, source.name, _bias(lin, source, target), folder)
    if made is None:
        raise NoPath(_why_not(lin, source, target))
    return made


def _why_not(lin: Linearised, source: Tensor, target: Tensor) -> str:
    told = f"no linear path leads from {lin.name(source)!r} to {lin.name(target)!r}"
    if target.name in depending(lin.proto, [source.name]):
        return (
            f"{told}: there it only weighs other tensors, or lies inside nodes that are taken as one operator (as "
            "those of a softmax written out); take a tensor before or behind it"
        )
    if source.name in depending(lin.proto, [target.name]):
        return f"{told}, which lies before it"
    return f"{told}, which does not depend on it"


def program_graphs(
    lin: Linearised,
    equations: Sequence[Equation],
    start: Var,
    target: Tensor,
    source: str | None = None,
    bias: Tensor | None = None,
    folder: str = "",
) -> OperatorGraphs | None:
    """The graphs of the operator that ``equations`` are, from ``start`` to the value of ``target``; None where no path
    leads there. ``source`` is the tensor whose value ``start`` stands for, where it is one.

    The adjoint is the transposed program between the two, simplified; the operator is the transpose of that.
    """
    emit, end = lin.emit, lin.calculus.pairs[target].value
    u, v = Var(end.shape), Var(start.shape)
    build = Builder(emit)
    cotangent = transpose(equations, {end: u}, [start], build)[0][start]
    if cotangent is None:
        return None
    adjoint = simplified(build.equations, [cotangent], emit)
    back = Builder(emit)
    image = transpose(adjoint, {cotangent: v}, [u], back)[0][u]
    assert image is not None
    free = _FreeNames(tensor_names(lin.proto))
    names = [free(n) for n in ("v", "Rv", "u", "RTu", "bias")]
    ends = [_lowered(lin, v, names[0], needed(back.equations, [image]), image)]
    ends.append(_lowered(lin, u, names[2], adjoint, cotangent))
    outputs = [(ends[0][1], names[1]), (ends[1][1], names[3])]
    if bias is not None:
        outputs.append((bias, names[4]))
    values = [target.name] if source is None else [source, target.name]
    whole = _written(lin, values, [t for t, _ in ends], outputs)
    infos = _Infos(lin, whole)
    own = [i for i in whole.graph.input if i.name not in (names[0], names[2])]
    varying = depending(whole, [*(i.name for i in own), *_dequantised(whole)], random=True)
    forward, wanted = _part(whole, names[0], names[1], varying, infos, folder)
    reverse, also = _part(whole, names[2], names[3], varying, infos, folder)
    asked = [*wanted, *also, *values, *([names[4]] if bias is not None else [])]
    given = {i.name for i in own}
    computed = [infos(n) for n in dict.fromkeys(asked) if n not in given]
    return OperatorGraphs(
        extract(whole, own, computed, folder) if computed else None,
        forward,
        reverse,
        source,
        target.name,
        names[4] if bias is not None else None,
        start.shape,
        end.shape,
        *names[:4],
    )


def _dequantised(whole: ModelProto) -> list[str]:
    """Weights that are stored as integers: coefficients too, as ONNX Runtime fuses them into products that round their
    other operand (MatMulNBits)."""
    return [o for n in whole.graph.node if n.op_type == "DequantizeLinear" for o in n.output]


def value_graph(lin: Linearised, names: Sequence[str], folder: str = "", given: Sequence[str] = ()) -> ModelProto:
    """The model that computes tensors of the model, none of which is an input, from its inputs and, instead of what
    leads there, the tensors ``given``."""
    whole = _written(lin, names)
    infos = _Infos(lin, whole)
    inputs = [*whole.graph.input, *(infos(n) for n in given)]
    return extract(whole, inputs, [infos(n) for n in names], folder)


def _written(
    lin: Linearised, names: Sequence[str], inputs: Sequence[Tensor] = (), outputs: Sequence[tuple[Tensor, str]] = ()
) -> ModelProto:
    """The model with what was emitted for ``outputs``, and for those of ``names`` that lie inside an operator of it."""
    nodes = lin.emit.nodes
    inside = [o for n in nodes for o in n.outputs if o.name in names]
    if not inside and not outputs:
        return lin.proto
    whole = ModelProto()
    whole.CopyFrom(lin.proto)
    append_nodes(whole, live_nodes(nodes, [*(t for t, _ in outputs), *inside]), inputs, outputs)
    return whole


def bypass(lin: Linearised, start: Tensor, middle: Tensor, end: Tensor) -> Tensor | None:
    """The first tensor by which a path leads from ``start`` to ``end`` past ``middle``; None where there is none: then
    the operator from start to end is the product of its two parts."""
    pairs = lin.calculus.pairs
    stop = pairs[middle].value
    if stop in (pairs[start].value, pairs[end].value):
        return None
    reached = {pairs[start].value}
    equations = [e for e in lin.equations if e.out is not stop and e.out not in reached]
    for e in equations:
        if any(x in reached for x in e.inputs):
            reached.add(e.out)
    if pairs[end].value not in reached:
        return None
    used = {e.out for e in needed(equations, [pairs[end].value])}
    past = False
    for t, pair in pairs.items():
        past = past or t is middle
        if past and t is not middle and pair.value in reached and pair.value in used:
            return t
    return end


def _lowered(
    lin: Linearised, given: Var, name: str, equations: Sequence[Equation], result: Var
) -> tuple[Tensor, Tensor]:
    """The new input for ``given``, and the tensor of ``result``, both with an axis for several vectors in front."""
    tensor = Tensor(name, lin.emit.dtype)
    lead = lin.emit.new_dim(tensor, 0)
    tensor.shape = (lead, *given.shape)
    low = Lowering(lin.emit, {given: Lowered(tensor, given.shape)}, lead)
    low.run(equations)
    return tensor, low.full(result)


def _bias(lin: Linearised, source: Tensor, target: Tensor) -> Tensor | None:
    """target - R source: what the ones streams bring to the target, and what reaches it from the explained inputs past
    the source. All ones are 1; the program is transposed twice, which leaves the paths that matter."""
    emit, pairs = lin.emit, lin.calculus.pairs
    start, end = pairs[source].value, pairs[target].value  # (one and the same behind an Identity or a Cast)
    if start is end:
        return None
    ones = [p.ones for p in pairs.values()]
    others = {p.value: t for t in lin.sources if (p := pairs[t]).value is not start}
    begin = {*ones, *others, start}
    equations = [unmasked(e, emit) for e in lin.equations if e.out not in begin]
    u, build = Var(end.shape), Builder(emit)
    cotangents = transpose(equations, {end: u}, [*ones, *others], build)[0]
    found = {var: c for var, c in cotangents.items() if c is not None}
    if not found:
        return None
    back = Builder(emit)
    given = {c: Var(var.shape) for var, c in found.items()}
    image = transpose(needed(build.equations, found.values()), given, [u], back)[0][u]
    assert image is not None
    values: dict[Var, Tensor] = {}
    for var, c in found.items():
        value = emit.cast(others[var]) if var in others else emit.const(np.ones((1,) * var.rank, emit.dtype))
        if c in values:  # (summands of one sum have one cotangent)
            value = emit.op("Add", values[c], value)
        values[c] = value
    bindings = {given[c]: Lowered(value, value.shape or ()) for c, value in values.items()}
    low = Lowering(emit, bindings)
    low.run(needed(back.equations, [image]))
    return low.full(image)


def unmasked(e: Equation, emit: Emitter) -> Equation:
    """An equation whose bias term is 0 where it masks: of two masks of -3.4e38 the sum is infinite, and no weight of 0
    brings that back."""
    if not e.bias or not isinstance(e.primitive, Scale):
        return e
    c, limit = e.primitive.coefficient, np.asarray(masked(emit.dtype), emit.dtype)
    if c.value is not None:
        kept = c if np.all(np.abs(c.value) < limit) else emit.const(np.where(np.abs(c.value) < limit, c.value, 0))
    else:
        small = emit.op("Less", emit.op("Abs", c, shape=c.shape), limit, shape=c.shape)
        kept = emit.op("Where", small, c, np.zeros((), emit.dtype), dtype=emit.dtype, shape=c.shape)
    return e if kept is c else Equation(Scale(kept), e.inputs, e.out, e.owner, bias=True)


class _FreeNames:
    """Names that the model does not use."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def __call__(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


class _Infos:
    """What is known of the type and shape of a tensor, by its name in the written model."""

    def __init__(self, lin: Linearised, whole: ModelProto) -> None:
        self._whole = whole
        self._written: dict[str, ValueInfoProto] = {v.name: v for v in (*whole.graph.output, *whole.graph.input)}
        nodes = (*lin.graph.nodes, *lin.emit.nodes)
        self._tensors: dict[str, Tensor] = {t.name: t for n in nodes for t in n.outputs}

    def __call__(self, name: str) -> ValueInfoProto:
        if name not in self._written:
            t = self._tensors[name]
            if t.dtype is None or t.shape is None:
                bare = onnx.shape_inference.infer_shapes(skeleton(self._whole), data_prop=True)
                self._written = {v.name: v for v in bare.graph.value_info} | self._written
            if name not in self._written:
                dtype = np.dtype(np.float32) if t.dtype is None else t.dtype
                shape = None if t.shape is None else [d if isinstance(d, int) else None for d in t.shape]
                code = helper.np_dtype_to_tensor_dtype(dtype)
                self._written[name] = helper.make_tensor_value_info(name, code, shape)
        return self._written[name]


def _part(
    whole: ModelProto, given: str, result: str, varying: set[str], infos: _Infos, folder: str
) -> tuple[ModelProto, list[str]]:
    """The model from ``given`` to ``result`` with all else that varies as inputs, and the names of those."""
    moving = depending(whole, [given])
    needed_nodes: list[onnx.NodeProto] = []
    wanted = {result}
    for node in reversed(whole.graph.node):
        if any(o in wanted for o in node.output) and any(name in moving for name in reads(node)):
            needed_nodes.append(node)
            wanted.update(reads(node))
    frozen = dict.fromkeys(
        name for node in needed_nodes[::-1] for name in reads(node) if name in varying and name not in moving
    )
    model = extract(whole, [infos(given), *(infos(n) for n in frozen)], [infos(result)], folder)
    return model, list(frozen)
