"""Scan and Loop: unrolled where the number of steps is known and small, else a Scan whose body is linearised once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto, helper, numpy_helper

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Graph, Node, Shape, Tensor
from omenn_onnx.graph.loop_counts import deciding, steps_of
from omenn_onnx.graph.read import captured_by
from omenn_onnx.graph.step import InnerEmitter, Scanned, Step
from omenn_onnx.graph.walk import captured_names
from omenn_onnx.normalise.fragment import fragment_model, splice

UNROLLED = 64
"""More steps than these are a Scan."""

Views = Callable[[Graph, Emitter], Any]


def is_loop(node: Node) -> bool:
    """Whether a node is a Scan or Loop that :func:`linear_loop` has not seen yet."""
    return node.domain == "" and node.op in ("Scan", "Loop") and node.step is None


@dataclass
class Form:
    """What a Scan and a Loop have in common. Body inputs and outputs by name; ``sequences`` are scanned."""

    node: Node
    graph: Graph
    emit: Emitter
    body: GraphProto
    given: dict[str, Tensor]
    initial: list[Tensor]
    state_names: list[str]
    sequences: list[Scanned]
    sequence_names: list[str]
    new_states: list[str]
    collected: list[str]
    output_axes: list[tuple[int, bool]]
    outputs: list[Tensor]
    condition: str = ""
    steps: int | None = None
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def keep_states(self) -> None:
        """A state that every step hands through is no state: the body reads its initial value from around it."""
        makers = {n.output[0]: n.input[0] for n in self.body.node if n.op_type == "Identity"}
        for k in reversed(range(len(self.state_names))):
            source = self.new_states[k]
            while source in makers:
                source = makers[source]
            if source == self.state_names[k]:
                self.given[source] = self.initial[k]
                self.kept.append((self.initial[k], self.outputs[k]))
                for row in (self.initial, self.state_names, self.new_states, self.outputs):
                    del row[k]

    def nodes(self, given: Mapping[str, Tensor], emit: Emitter) -> tuple[list[Node], dict[str, Tensor]]:
        """The body's nodes over some tensors, and its outputs by name."""
        results: dict[str, Tensor] = {}
        known = {**self.given, **given}
        outputs = {o.name: Tensor(o.name, _dtype(o.type.tensor_type.elem_type)) for o in self.body.output}
        outputs |= {name: known[name] for name in outputs if name in known}
        model = fragment_model(list(self.body.node), [], known, outputs, self.graph.domains)
        return splice(model, known, self.node, emit, results), results


def _dtype(code: int) -> np.dtype[Any] | None:
    return helper.tensor_dtype_to_np_dtype(code) if code else None


def linear_loop(node: Node, graph: Graph, emit: Emitter, views: Views) -> list[Node]:
    """The nodes that stand for a Scan or Loop; ``views`` normalises a graph."""
    form = _loop(node, graph, emit) if node.op == "Loop" else _scan(node, graph, emit)
    origin = node.origin
    kept = [Node("Identity", "", [t], [out], {}, origin) for t, out in form.kept if out.name]
    steps = form.steps
    if steps is not None and steps <= UNROLLED:
        return [*_unrolled(form, steps), *kept]
    return [_scanned(form, views), *kept]


def _given(node: Node, emit: Emitter) -> tuple[GraphProto, dict[str, Tensor]]:
    """The body, and the tensors that it captures and stores by their names in it."""
    body: GraphProto = node.attrs["body"]
    if body.sparse_initializer:
        raise OutsideCalculus("its body has sparse weights")
    given = dict(zip(captured_names(helper.make_node(node.op, [], [], body=body)), node.captured, strict=True))
    for i in body.initializer:
        given[i.name] = _stored(emit, i)
    return body, given


def _known(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    if any(t is None or t.shape is None or t.dtype is None for t in tensors):
        raise OutsideCalculus("the type or rank of one of its inputs is not known")
    return [t for t in tensors if t is not None]


def _loop(node: Node, graph: Graph, emit: Emitter) -> Form:
    """A Loop as a Scan over its iteration numbers."""
    body, given = _given(node, emit)
    initial = _known(node.inputs[2:])
    inputs, outputs = [v.name for v in body.input], [v.name for v in body.output]
    n = len(initial)
    given[inputs[1]] = emit.const(np.asarray(True))
    form = Form(
        node, graph, emit, body, given, initial, inputs[2:], [], inputs[:1], outputs[1 : n + 1], outputs[n + 1 :],
        [(0, False)] * (len(outputs) - n - 1), list(node.outputs), outputs[0],
    )  # fmt: skip
    count = _count(form)
    form.keep_states()
    if isinstance(count, int):
        form.steps, count = count, emit.const(np.asarray(count, np.int64))
    scalar = emit.op("Reshape", count, np.zeros(0, np.int64), shape=())
    line = emit.op("Range", np.asarray(0, np.int64), scalar, np.asarray(1, np.int64), dtype=np.dtype(np.int64))
    line.shape = (form.steps if form.steps is not None else emit.new_dim(line, 0),)
    form.sequences = [Scanned(line, 0, False)]
    return form


def _count(form: Form) -> int | Tensor:
    """How often a Loop runs: as often as it may, unless its condition ends it; if only the run tells, the length of
    what it collects, or of the iteration numbers that a copy of it collects."""
    node, emit = form.node, form.emit
    limit, condition = node.input(0), node.input(1)
    if condition is not None and condition.value is not None and not condition.value.any():
        return 0
    trial = Emitter(form.graph, emit.dtype, emit.new_name("trial"))
    before = {name: Tensor(name, t.dtype, t.shape) for name, t in zip(form.state_names, form.initial, strict=True)}
    before |= {name: Tensor(name, np.dtype(np.int64), ()) for name in form.sequence_names}
    goes_on = form.nodes(before, trial)[1][form.condition].value
    if goes_on is not None and (condition is None or condition.value is not None):
        most = None if limit is None or limit.value is None else max(0, int(limit.value.reshape(())))
        if not goes_on.any():
            if limit is None or most is not None:
                return 1 if most is None else min(most, 1)
            return emit.op("Min", limit, np.asarray(1, np.int64), shape=limit.shape)
        if limit is None:  # (unless a size ends it, which is seen step by step)
            return UNROLLED
        return limit if most is None else most
    found = steps_of(
        form.body,
        None if limit is None else limit.value,
        None if condition is None else condition.value,
        [t.value for t in form.initial],
        {name: t.value for name, t in form.given.items() if t.value is not None},
        [helper.make_opsetid(domain, version) for domain, version in form.graph.domains.items()],
    )
    if found is not None and all(t is None or t.value is not None for t in (limit, condition)):
        form.condition = ""
        return found
    collected = next((t for t in node.outputs[len(form.initial) :] if t.name), None)
    if collected is None:
        collected = _numbers(form)
    return emit.op("Shape", collected, start=0, end=1, shape=(1,))


def _numbers(form: Form) -> Tensor:
    """The iteration numbers of a Loop, by a copy of it that decides whether it goes on and nothing else."""
    node, emit = form.node, form.emit
    body, kept = deciding(form.body)
    made = [Tensor(emit.new_name("Loop"), form.initial[k].dtype, None) for k in kept]
    numbers = Tensor(emit.new_name("Loop"), np.dtype(np.int64), None)
    inputs = [node.input(0), node.input(1), *(form.initial[k] for k in kept)]
    copy = Node("Loop", "", inputs, [*made, numbers], {**node.attrs, "body": body}, numbers.name)
    around = dict(zip(captured_by(node), node.captured, strict=True))
    copy.captured = [around[name] for name in captured_by(copy)]
    for t in copy.outputs:
        t.producer = copy
    emit.nodes.append(copy)
    return numbers


def _scan(node: Node, graph: Graph, emit: Emitter) -> Form:
    body, given = _given(node, emit)
    operands = _known(node.inputs)
    count = int(node.attrs["num_scan_inputs"])
    states = len(operands) - count
    inputs, outputs = [v.name for v in body.input], [v.name for v in body.output]
    axes = list(node.attrs.get("scan_input_axes", [0] * count))
    directions = list(node.attrs.get("scan_input_directions", [0] * count))
    sequences = [
        Scanned(t, axis % (t.rank or 1), bool(d))
        for t, axis, d in zip(operands[states:], axes, directions, strict=True)
    ]
    collected = outputs[states:]
    out_axes = list(node.attrs.get("scan_output_axes", [0] * len(collected)))
    out_directions = list(node.attrs.get("scan_output_directions", [0] * len(collected)))
    for k, t in enumerate(node.outputs[states:]):
        if out_axes[k] < 0:
            if t.rank is None:
                raise OutsideCalculus("the rank of one of its outputs is not known")
            out_axes[k] += t.rank
    length = _length(sequences[0])
    form = Form(
        node, graph, emit, body, given, operands[:states], inputs[:states], sequences, inputs[states:],
        outputs[:states], collected, [(a, bool(d)) for a, d in zip(out_axes, out_directions, strict=True)],
        list(node.outputs),
    )  # fmt: skip
    form.keep_states()
    form.steps = length if isinstance(length, int) else None
    return form


def _length(s: Scanned) -> Dim:
    assert s.tensor.shape is not None
    return s.tensor.shape[s.axis]


def _stored(emit: Emitter, proto: TensorProto) -> Tensor:
    """A weight of the body as a constant of the graph."""
    value = numpy_helper.to_array(proto)
    return Tensor(emit.new_name(proto.name), value.dtype, value.shape, const=True, load=lambda: value)


# A Scan whose body is linearised once


def _scanned(form: Form, views: Views) -> Node:
    node = form.node
    own = Graph([], {}, [], [], form.graph.opset, form.graph.domains)
    inner = InnerEmitter(own, form.emit)
    states = [Tensor(inner.new_name("state"), t.dtype, t.shape) for t in form.initial]
    inputs = [
        Tensor(inner.new_name("element"), s.tensor.dtype, _without(s.tensor.shape or (), s.axis))
        for s in form.sequences
    ]
    own.inputs = [*states, *inputs]
    names = [*form.state_names, *form.sequence_names]
    own.nodes, results = form.nodes(dict(zip(names, own.inputs, strict=True)), inner)
    new_states = [results[n] for n in form.new_states]
    outputs = [results[n] for n in form.collected]
    for before, behind in zip(states, new_states, strict=True):
        if not _fits(before.shape, behind.shape):
            raise OutsideCalculus(f"one of its states changes its shape from {before.shape} to {behind.shape}")
    empty = node.op == "Loop" and form.steps is None
    step = Step(inner, own, states, inputs, new_states, outputs, form.initial, form.sequences, form.output_axes, empty)
    view = views(own, inner)
    step.nodes, step.view = view.nodes, view
    reads: list[Tensor | None] = [*form.initial, *(s.tensor for s in form.sequences)]
    captured = list(dict.fromkeys([*node.captured, *(t for t, _ in form.kept)]))
    return Node(node.op, "", reads, form.outputs, node.attrs, node.origin, captured, step=step)


def _fits(before: Shape | None, behind: Shape | None) -> bool:
    """Whether two shapes may be the same: a size that only the run tells is taken to stay."""
    if before is None or behind is None or len(before) != len(behind):
        return False
    return all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(before, behind, strict=True))


def _without(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return tuple(d for i, d in enumerate(shape) if i != axis)


# Unrolled


def _unrolled(form: Form, steps: int) -> list[Node]:
    """Every step by itself."""
    unroll = _Unrolling(form)
    if form.node.op == "Loop":
        elements = [[form.emit.const(np.asarray(t, np.int64)) for t in range(steps)]]
    else:
        elements = [unroll.elements(s, steps) for s in form.sequences]
    states = list(form.initial)
    collected: list[list[Tensor]] = [[] for _ in form.collected]
    for t in range(steps):
        given = dict(zip(form.state_names, states, strict=True))
        given |= {n: e[t] for n, e in zip(form.sequence_names, elements, strict=True)}
        states, goes_on = unroll.step(given, collected)
        if not goes_on:
            break
    else:
        if form.node.op == "Loop" and form.node.input(0) is None and form.condition:
            raise OutsideCalculus("nothing that is known at compile time ends it")
    unroll.finish(states, collected)
    return unroll.parts


class _Unrolling:
    """The nodes of an unrolled loop, one after the other."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.parts: list[Node] = []

    def op(self, op: str, count: int, *inputs: Any, shape: tuple[Dim, ...], **attrs: Any) -> list[Tensor]:
        """One node, computed next to the graph."""
        outputs = self.form.emit.ops(op, count, *inputs, shape=shape, **attrs)
        node = outputs[0].producer
        assert node is not None
        self.parts.append(Node(op, "", node.inputs, outputs, node.attrs, self.form.node.origin))
        return outputs

    def elements(self, s: Scanned, steps: int) -> list[Tensor]:
        """A sequence, element by element, in the order of the steps."""
        shape = s.tensor.shape or ()
        thin = tuple(1 if i == s.axis else d for i, d in enumerate(shape))
        pieces = [s.tensor]
        if steps > 1:
            pieces = self.op("Split", steps, s.tensor, [1] * steps, shape=thin, axis=s.axis)
        flat = [self.op("Squeeze", 1, p, [s.axis], shape=_without(shape, s.axis))[0] for p in pieces]
        return flat[::-1] if s.backwards else flat

    def step(self, given: Mapping[str, Tensor], collected: list[list[Tensor]]) -> tuple[list[Tensor], bool]:
        """One run of the body: the new states, and whether it goes on; what is collected is appended."""
        nodes, results = self.form.nodes(given, self.form.emit)
        self.parts += nodes
        for k, name in enumerate(self.form.collected):
            collected[k].append(results[name])
        condition = results.get(self.form.condition)
        if condition is not None and condition.value is None:
            raise OutsideCalculus("whether it goes on depends on a size that only the run tells")
        goes_on = condition is None or condition.value is None or bool(condition.value.any())
        return [results[n] for n in self.form.new_states], goes_on

    def finish(self, states: Sequence[Tensor], collected: Sequence[Sequence[Tensor]]) -> None:
        """The outputs of the loop itself."""
        outputs, origin = self.form.outputs, self.form.node.origin
        for t, out in zip(states, outputs, strict=False):
            self.parts.append(Node("Identity", "", [t], [out], {}, origin))
        for k, out in enumerate(outputs[len(states) :]):
            if not out.name or not collected[k]:
                continue
            axis, backwards = self.form.output_axes[k]
            thin = []
            for t in collected[k][:: -1 if backwards else 1]:
                if t.shape is None:
                    raise OutsideCalculus("the rank of what it collects is not known")
                thin.append(self.op("Unsqueeze", 1, t, [axis], shape=(*t.shape[:axis], 1, *t.shape[axis:]))[0])
            self.parts.append(Node("Concat", "", list(thin), [out], {"axis": axis}, origin))
