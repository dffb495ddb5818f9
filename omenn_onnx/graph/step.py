"""Scan and If: bodies as graphs of their own, and writing new Scan and If nodes.

A body's emitter writes nodes that are computed at every step, or if its branch is taken. They may read tensors of the
graph around it, which the body then captures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, helper, numpy_helper

from omenn_onnx.graph.emit import Emitter, type_code
from omenn_onnx.graph.ir import Dim, Graph, Node, Shape, Tensor
from omenn_onnx.graph.read import captured_by
from omenn_onnx.graph.write import live_nodes, reading


class InnerEmitter(Emitter):
    """Writes nodes of a body. A size that no tensor of the body has is read from the graph around it."""

    def __init__(self, graph: Graph, outer: Emitter) -> None:
        super().__init__(graph, outer.dtype, outer.new_name("step"), outer.provider, outer.forms)
        self.outer = outer

    def dim(self, d: Dim) -> Tensor:
        """One size as an int64 tensor of shape [1]."""
        if isinstance(d, int) or d in self._derived or d in self._source_table():
            return super().dim(d)
        return self.outer.dim(d)

    def announce(self, t: Tensor) -> None:
        """Let the sizes of a new input of the body be read from it."""
        for axis, d in enumerate(t.shape or ()):
            if isinstance(d, str):
                self._source_table().setdefault(d, (t, axis))


@dataclass(eq=False, slots=True)
class Scanned:
    """A sequence that is read or written along ``axis``, from its end if ``backwards``."""

    tensor: Tensor
    axis: int
    backwards: bool


@dataclass(eq=False)
class Step:
    """The body of one Scan. ``nodes`` are its nodes as the calculus takes them, ``view`` what a tensor counts as the
    output of; ``states``, ``inputs``, ``new_states`` and ``outputs`` are tensors of the body, ``initial`` and
    ``sequences`` those that the Scan itself reads. ``may_be_empty``: there may be no step at all."""

    emit: InnerEmitter
    graph: Graph
    states: list[Tensor]
    inputs: list[Tensor]
    new_states: list[Tensor]
    outputs: list[Tensor]
    initial: list[Tensor]
    sequences: list[Scanned]
    output_axes: list[tuple[int, bool]]
    may_be_empty: bool = False
    nodes: list[Node] = field(default_factory=list)
    view: Callable[[Tensor], Node | None] = lambda t: t.producer
    _recorded: list[Tensor] | None = None
    _first: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """A tensor of the body that is true at the first step alone."""
        if self._first is None:
            outer = self.emit.outer
            count = outer.op("Squeeze", outer.dim(self.length), [0], shape=())
            line = outer.op(
                "Range", np.asarray(0, np.int64), count, np.asarray(1, np.int64), shape=(self.length,),
                dtype=np.dtype(np.int64),
            )  # fmt: skip
            flags = outer.op("Equal", line, np.asarray(0, np.int64), shape=(self.length,))
            self._first = Tensor(self.emit.new_name("element"), np.dtype(bool), ())
            self.graph.inputs.append(self._first)
            self.inputs.append(self._first)
            self.sequences.append(Scanned(flags, 0, False))
        return self._first

    @property
    def length(self) -> Dim:
        """The number of steps."""
        s = self.sequences[0]
        assert s.tensor.shape is not None
        return s.tensor.shape[s.axis]

    def recorded(self) -> list[Tensor]:
        """The states before every step, along a first axis, in the order of the steps."""
        if self._recorded is None:
            states = list(zip(self.initial, self.states, self.new_states, strict=True))
            inputs = list(zip(self.sequences, self.inputs, strict=True))
            outputs = [Scanned(t, 0, False) for t in self.states]
            shapes = [(self.length, *(t.shape or ())) for t in self.states]
            self._recorded = self.write(states, inputs, outputs, shapes)[len(states) :]
        return self._recorded

    def write(
        self,
        states: Sequence[tuple[Tensor, Tensor, Tensor]],
        inputs: Sequence[tuple[Scanned, Tensor]],
        outputs: Sequence[Scanned],
        shapes: Sequence[Shape],
    ) -> list[Tensor]:
        """:func:`write_scan` in the graph around the body; ``shapes`` are those of the outputs. ONNX Runtime's Scan
        wants a step: where there may be none, the Scan stands in an If."""
        emit = self.emit.outer
        if not self.may_be_empty:
            return write_scan(emit, self.emit, states, inputs, outputs)
        then, other = (InnerEmitter(emit.graph, emit) for _ in range(2))
        results = write_scan(then, self.emit, states, inputs, outputs)
        kept = [other.op("Identity", start, shape=start.shape) for start, _, _ in states]
        for made, shape in zip(results[len(states) :], shapes, strict=True):
            zero = other.const(np.zeros((), made.dtype or emit.dtype))
            kept.append(other.op("Expand", zero, other.shape(shape), shape=shape))
            made.shape = shape
        length = emit.dim(self.length)
        some = emit.op("Greater", emit.op("Squeeze", length, [0], shape=()), np.asarray(0, np.int64))
        return write_if(emit, some, [(then, results), (other, kept)])


@dataclass(eq=False)
class Branch:
    """One branch of an If. ``nodes`` are its nodes as the calculus takes them, ``view`` what a tensor counts as the
    output of; ``outputs`` are tensors of the branch or of the graph around it."""

    emit: InnerEmitter
    graph: Graph
    outputs: list[Tensor]
    nodes: list[Node] = field(default_factory=list)
    view: Callable[[Tensor], Node | None] = lambda t: t.producer


def write_if(
    emit: Emitter, condition: Tensor, branches: Sequence[tuple[InnerEmitter, Sequence[Tensor]]]
) -> list[Tensor]:
    """One If in the graph around two branches, then and else: the results of the one that is taken."""
    attrs: dict[str, GraphProto] = {}
    around: dict[str, Tensor] = {}
    for name, (inner, results) in zip(("then_branch", "else_branch"), branches, strict=True):
        attrs[name], read = _body(emit, inner, live_nodes(inner.nodes, results), [], results)
        around |= read
    made = [Tensor(emit.new_name("If"), t.dtype) for t in branches[0][1]]
    node = Node("If", "", [condition], made, attrs, made[0].name)
    node.captured = [around[name] for name in captured_by(node)]
    for t in made:
        t.producer = node
    emit.nodes.append(node)
    return made


def write_scan(
    emit: Emitter,
    inner: InnerEmitter,
    states: Sequence[tuple[Tensor, Tensor, Tensor]],
    inputs: Sequence[tuple[Scanned, Tensor]],
    outputs: Sequence[Scanned],
) -> list[Tensor]:
    """One Scan, by ``emit``, around a body: states as (initial, before, behind), sequences with the body's tensor for
    an element of them, and tensors of the body to be collected. The final states and the collected tensors."""
    results = [*(new for _, _, new in states), *(o.tensor for o in outputs)]
    nodes = live_nodes(inner.nodes, results)
    used = {id(t) for n in nodes for t in (*n.inputs, *n.captured) if t is not None} | {id(t) for t in results}
    kept = [(s, t) for s, t in inputs if id(t) in used] or list(inputs[:1])
    own_inputs = [*(t for _, t, _ in states), *(t for _, t in kept)]
    body, around = _body(emit, inner, nodes, own_inputs, results)
    made = [Tensor(emit.new_name("Scan"), t.dtype) for t in results]
    attrs: dict[str, Any] = {
        "body": body,
        "num_scan_inputs": len(kept),
        "scan_input_axes": [s.axis for s, _ in kept],
        "scan_input_directions": [int(s.backwards) for s, _ in kept],
    }
    if outputs:
        attrs["scan_output_axes"] = [o.axis for o in outputs]
        attrs["scan_output_directions"] = [int(o.backwards) for o in outputs]
    given: list[Tensor | None] = [*(t for t, _, _ in states), *(s.tensor for s, _ in kept)]
    node = Node("Scan", "", given, made, attrs, made[0].name)
    node.captured = [around[name] for name in captured_by(node)]
    for t in made:
        t.producer = node
    emit.nodes.append(node)
    return made


def _body(
    emit: Emitter, inner: InnerEmitter, nodes: Sequence[Node], inputs: Sequence[Tensor], results: Sequence[Tensor]
) -> tuple[GraphProto, dict[str, Tensor]]:
    """The body as a protobuf, and the tensors that it captures by name."""
    made = {id(o) for n in nodes for o in n.outputs}
    given = {id(t) for t in inputs}
    protos: list[onnx.NodeProto] = []
    constants: dict[str, Tensor] = {}
    around: dict[str, Tensor] = {}

    def read(t: Tensor | None) -> str:
        if t is None:
            return ""
        if id(t) not in made and id(t) not in given:
            stored = t.producer is None and t.load is not None and t.name.startswith(f"{inner.prefix}/")
            (constants if stored else around)[t.name] = t
        return t.name

    for n in nodes:
        attrs = reading(n, [read(t) for t in n.captured]) if n.captured else n.attrs
        names, outputs = [read(t) for t in n.inputs], [o.name for o in n.outputs]
        protos.append(helper.make_node(n.op, names, outputs, emit.new_name("node"), domain=n.domain, **attrs))
    infos: list[onnx.ValueInfoProto] = []
    for t in results:  # (each output of a body has a name of its own, and is no input)
        name = emit.new_name("result")
        protos.append(helper.make_node("Identity", [read(t)], [name], name))
        infos.append(_value_info(name, t, True))
    stored = [numpy_helper.from_array(_value(c), c.name) for c in constants.values()]
    graph = helper.make_graph(protos, emit.new_name("body"), [_value_info(t.name, t) for t in inputs], infos, stored)
    return graph, around


def _value(t: Tensor) -> np.ndarray[Any, Any]:
    value = t.value
    assert value is not None
    return value


def _value_info(name: str, t: Tensor, rank: bool = False) -> onnx.ValueInfoProto:
    """With the ``rank``, which ONNX Runtime wants to know of what a Scan collects."""
    code = type_code(np.dtype(np.float32) if t.dtype is None else t.dtype)
    shape = [d if isinstance(d, int) else f"{name}#{i}" for i, d in enumerate(t.shape or ())]
    return helper.make_tensor_value_info(name, code, shape if rank and t.shape is not None else None)
