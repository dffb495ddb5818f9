"""Lists that a script writes and reads in its loops, as tensors with one axis more.

A Loop that starts from an empty sequence and appends one element a step collects these elements instead. A position in
a sequence that SplitToSequence makes is read from the tensor that was split. Both are what the sequence held; elements
of different shapes, which a Loop cannot collect, are an error at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.graph.walk import graphs_of, subgraphs_of


@dataclass(frozen=True)
class _Split:
    """A sequence of pieces of ``size`` along an axis of a tensor; one of size 1 loses the axis unless ``kept`` (in ONNX
    Runtime also where the size is written out)."""

    tensor: str
    axis: int
    size: int
    kept: bool


def open_lists(proto: ModelProto) -> None:
    """Rewrite ``proto`` in place, where it holds sequences."""
    nodes = [n for g in graphs_of(proto) for n in g.node]
    if any("Sequence" in n.op_type for n in nodes):
        values = {i.name: i for g in graphs_of(proto) for i in g.initializer}
        values |= {n.output[0]: a.t for n in nodes if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
        _Lists(proto, values).open(proto.graph, {}, {n.output[0]: n for n in nodes if n.op_type == "SequenceEmpty"})
        _drop_unused(proto.graph)


class _Lists:
    def __init__(self, proto: ModelProto, values: Mapping[str, TensorProto]) -> None:
        self.values = values
        self.taken = {name for g in graphs_of(proto) for n in g.node for name in (*n.input, *n.output)}
        self.taken |= {v.name for g in graphs_of(proto) for v in (*g.input, *g.output, *g.initializer)}

    def open(
        self, graph: GraphProto, around: Mapping[str, _Split], empty: Mapping[str, NodeProto], inside: str = ""
    ) -> None:
        """Rewrite a graph and those inside it; ``around`` are the sequences that the graphs around it split, ``inside``
        is the operator that it belongs to."""
        splits = dict(around)
        counters = {graph.input[0].name} if inside == "Loop" else set()  # the number of the iteration
        nodes: list[NodeProto] = []
        for old in graph.node:
            node = NodeProto.FromString(old.SerializeToString())
            new = [node]
            if node.op_type == "Loop":
                new += self._collect(node, empty)
            elif node.op_type in ("SequenceAt", "SequenceLength") and node.input[0] in splits:
                new = self._read(node, splits[node.input[0]], counters) or new
            nodes += new
            for n in new:
                split = self._split(n)
                if split is not None:
                    splits[n.output[0]] = split
                for inner in subgraphs_of(n):
                    self.open(inner, splits, empty, n.op_type)
        if len(nodes) != len(graph.node):  # what exporters think that sequences hold is not to be trusted
            del graph.value_info[:]
            for v in graph.output if inside else ():
                v.type.tensor_type.ClearField("shape")
        del graph.node[:]
        graph.node.extend(nodes)

    def _name(self, like: str) -> str:
        name = f"{like}/list"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _constant(self, value: object, nodes: list[NodeProto], like: str) -> str:
        name = self._name(like)
        array = np.asarray(value, np.int64)
        nodes.append(helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array, name)))
        return name

    def _split(self, node: NodeProto) -> _Split | None:
        """What a SplitToSequence of equal pieces makes."""
        if node.op_type != "SplitToSequence":
            return None
        attrs = {a.name: a.i for a in node.attribute}
        size = 1
        if len(node.input) > 1 and node.input[1]:
            stored = self.values.get(node.input[1])
            if stored is None or stored.dims:
                return None
            size = int(numpy_helper.to_array(stored))
        return _Split(node.input[0], attrs.get("axis", 0), size, bool(attrs.get("keepdims", 1)))

    def _read(self, node: NodeProto, split: _Split, counters: set[str]) -> list[NodeProto] | None:
        """SequenceAt as Gather, or as Slice for pieces of several; SequenceLength from the size of the axis."""
        nodes: list[NodeProto] = []
        out = node.output[0]

        def op(kind: str, *inputs: str, last: bool = False, **attrs: Any) -> str:
            name = out if last else self._name(out)
            nodes.append(helper.make_node(kind, list(inputs), [name], node.name if last else name, **attrs))
            return name

        def number(value: object) -> str:
            return self._constant(value, nodes, out)

        if node.op_type == "SequenceLength":
            size = op("Gather", op("Shape", split.tensor), number(split.axis), last=split.size == 1)
            if split.size > 1:
                op("Div", op("Add", size, number(split.size - 1)), number(split.size), last=True)
            return nodes
        place = node.input[1]
        if split.size == 1:
            index = op("Reshape", place, number([1] if split.kept else np.zeros(0)))
            op("Gather", split.tensor, index, last=True, axis=split.axis)
            return nodes
        known = self.values.get(place)
        if place not in counters and (known is None or int(numpy_helper.to_array(known)) < 0):
            return None
        first = op("Mul", op("Reshape", op("Cast", place, to=TensorProto.INT64), number([1])), number([split.size]))
        op("Slice", split.tensor, first, op("Add", first, number([split.size])), number([split.axis]), last=True)
        return nodes

    def _collect(self, loop: NodeProto, empty: Mapping[str, NodeProto]) -> Iterator[NodeProto]:
        """Let a Loop collect what it appends to empty sequences; the nodes that make these sequences of that."""
        body = next(iter(subgraphs_of(loop)))
        for k in reversed(range(len(loop.input) - 2)):
            start = empty.get(loop.input[2 + k])
            insert = None if start is None else _appended(body, body.input[2 + k].name, body.output[1 + k].name)
            if start is None or insert is None:
                continue
            kind = next((a.i for a in start.attribute if a.name == "dtype"), TensorProto.FLOAT)
            element, stack = self._name(insert.input[1]), self._name(loop.output[k] or loop.output[0])
            body.node.append(helper.make_node("Identity", [insert.input[1]], [element], element))
            body.node.remove(insert)
            del body.input[2 + k], body.output[1 + k], loop.input[2 + k]
            body.output.append(helper.make_tensor_value_info(element, kind, None))
            sequence = loop.output[k]
            del loop.output[k]
            loop.output.append(stack)
            if sequence:
                yield helper.make_node("SplitToSequence", [stack], [sequence], sequence, axis=0, keepdims=0)


def _appended(body: GraphProto, before: str, behind: str) -> NodeProto | None:
    """The node that appends to a sequence, if nothing else reads it."""
    readers = [n for n in body.node if before in n.input or any(before in _names(g) for g in subgraphs_of(n))]
    if len(readers) != 1 or readers[0].op_type != "SequenceInsert" or len(readers[0].input) > 2:
        return None
    uses = sum(behind in n.input or any(behind in _names(g) for g in subgraphs_of(n)) for n in body.node)
    uses += sum(o.name == behind for o in body.output)
    return readers[0] if readers[0].output[0] == behind and uses == 1 else None


def _names(graph: GraphProto) -> set[str]:
    """Every name that a graph or one inside it reads."""
    names = {o.name for o in graph.output}
    for n in graph.node:
        names.update(n.input)
        names.update(*(_names(g) for g in subgraphs_of(n)))
    return names


def _drop_unused(graph: GraphProto) -> None:
    """Sequences that nothing reads any more are not made."""
    for k in reversed(range(len(graph.node))):
        node = graph.node[k]
        if node.op_type in ("SplitToSequence", "SequenceEmpty"):
            read = {o.name for o in graph.output} | {i for n in graph.node for i in n.input}
            read.update(*(_names(g) for n in graph.node for g in subgraphs_of(n)))
            if node.output[0] not in read:
                del graph.node[k]
