"""Sequences and optionals whose structure is known at compile time: what reads them reads their elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import GraphProto

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Graph, Node, Tensor
from omenn_onnx.graph.read import captured_by
from omenn_onnx.normalise.fragment import fragment_model, splice

READERS = frozenset({"ConcatFromSequence", "OptionalGetElement", "SequenceAt"})
"""Operators that make a tensor of a sequence or of an optional."""
_UNKNOWN = "the structure of the sequence that it reads is known only at run time"
View = Callable[[Tensor], Node | None]


def read_sequence(node: Node, graph: Graph, view: View, emit: Emitter) -> list[Node]:
    """The nodes that stand for one of READERS."""
    source = node.inputs[0]
    assert source is not None
    if node.op == "OptionalGetElement":
        held = _behind(source, view)
        if not held.is_float:
            raise OutsideCalculus("the optional that it reads holds no tensor that is known at compile time")
        return [Node("Identity", "", [held], node.outputs, {}, node.origin)]
    nodes: list[Node] = []
    whole = _joined_again(node, view(_behind(source, view)), emit, nodes) if node.op == "ConcatFromSequence" else None
    if whole is not None:
        return [*nodes, Node("Identity", "", [whole], node.outputs, {}, node.origin)]
    elements = _elements(source, graph, view, emit, nodes)
    if node.op == "SequenceAt":
        k = _position(node.inputs[1], len(elements), len(elements))
        return [*nodes, Node("Identity", "", [elements[k]], node.outputs, {}, node.origin)]
    axis = int(node.attrs["axis"])
    if node.attrs.get("new_axis", 0):
        elements = [_with_axis(e, axis, emit, nodes, node) for e in elements]
    return [*nodes, Node("Concat", "", list(elements), node.outputs, {"axis": axis}, node.origin)]


def _behind(t: Tensor, view: View) -> Tensor:
    """What an Optional or an Identity of a sequence holds."""
    node = view(t)
    while node is not None and node.op in ("Optional", "Identity", "OptionalGetElement") and node.inputs:
        if node.inputs[0] is None:
            break
        t = node.inputs[0]
        node = view(t)
    return t


def _elements(t: Tensor, graph: Graph, view: View, emit: Emitter, nodes: list[Node]) -> list[Tensor]:
    """The elements of a sequence; nodes that make them, where no node of the model does, are appended to ``nodes``."""
    t = _behind(t, view)
    node = view(t)
    if node is None or node.domain != "":
        raise OutsideCalculus(_UNKNOWN)
    inputs = [i for i in node.inputs if i is not None]
    if node.op == "SequenceEmpty":
        return []
    if node.op == "SequenceConstruct":
        return inputs
    if node.op == "SplitToSequence":
        return _split(node, emit, nodes)
    if node.op in ("SequenceInsert", "SequenceErase"):
        known = list(_elements(inputs[0], graph, view, emit, nodes))
        place = node.input(2 if node.op == "SequenceInsert" else 1)
        if node.op == "SequenceInsert":
            known.insert(_position(place, len(known), len(known)), inputs[1])
        else:
            del known[_position(place, len(known), len(known) - 1)]
        return known
    if node.op == "SequenceMap":
        return _mapped(node, node.outputs.index(t), graph, view, emit, nodes)
    raise OutsideCalculus(_UNKNOWN)


def _mapped(node: Node, k: int, graph: Graph, view: View, emit: Emitter, nodes: list[Node]) -> list[Tensor]:
    """The elements of output k of a SequenceMap: its body once for each element."""
    body: GraphProto = node.attrs["body"]
    inputs = [t for t in node.inputs if t is not None]
    first = _elements(inputs[0], graph, view, emit, nodes)
    rows = [first]
    for t in inputs[1:]:
        rows.append([t] * len(first) if t.dtype is not None else _elements(t, graph, view, emit, nodes))
    around = dict(zip(captured_by(node), node.captured, strict=True))
    made: list[Tensor] = []
    for elements in zip(*rows, strict=True):
        given = around | {v.name: t for v, t in zip(body.input, elements, strict=True)}
        outputs = {o.name: Tensor(o.name) for o in body.output}
        found: dict[str, Tensor] = {}
        model = fragment_model(list(body.node), list(body.initializer), given, outputs, graph.domains)
        nodes += splice(model, given, node, emit, found)
        made.append(found[body.output[k].name])
    return made


def _joined_again(node: Node, split: Node | None, emit: Emitter, nodes: list[Node]) -> Tensor | None:
    """What ConcatFromSequence makes of the single slices of a tensor, of which only the run tells how many there are:
    the tensor with the axis that was split in front of the axis of its elements, and as one with it if no axis is new.
    """
    if split is None or split.op != "SplitToSequence" or split.domain != "":
        return None
    x, pieces = split.inputs[0], split.input(1)
    if x is None or x.shape is None or (pieces is not None and (pieces.value is None or pieces.value.shape)):
        return None
    rank, each = len(x.shape), 1 if pieces is None or pieces.value is None else int(pieces.value)
    axis = int(split.attrs.get("axis", 0)) % rank
    if isinstance(x.shape[axis], int) or each != 1:
        return None
    if split.attrs.get("keepdims", 1):
        axes = emit.const(np.asarray([axis + 1], np.int64))
        x = _one("Unsqueeze", x, axes, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]), emit, nodes, node)
        rank += 1
    assert x.shape is not None
    new = bool(node.attrs.get("new_axis", 0))
    place = int(node.attrs["axis"]) % (rank if new else rank - 1)
    perm = [i for i in range(rank) if i != axis]
    perm.insert(place, axis)
    shape = tuple(x.shape[i] for i in perm)
    moved = emit.op("Transpose", x, perm=perm, shape=shape, dtype=x.dtype)
    nodes.append(Node("Transpose", "", [x], [moved], {"perm": perm}, node.origin))
    if new:
        return moved
    merged = (*shape[:place], emit.new_size(shape[place : place + 2]), *shape[place + 2 :])
    return _one("Reshape", moved, emit.shape(merged), merged, emit, nodes, node)


def _position(t: Tensor | None, count: int, default: int) -> int:
    """A place in a sequence of ``count``."""
    if t is None:
        return default
    if t.value is None:
        raise OutsideCalculus("the place that it reads in a sequence must be known at compile time")
    k = int(t.value.reshape(()))
    return k + count if k < 0 else k


def _split(node: Node, emit: Emitter, nodes: list[Node]) -> list[Tensor]:
    """The pieces that SplitToSequence makes, by Split."""
    x, split = node.inputs[0], node.input(1)
    assert x is not None
    if x.shape is None or (split is not None and split.value is None):
        raise OutsideCalculus(_UNKNOWN)
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    size = x.shape[axis]
    value = None if split is None else split.value
    if value is not None and value.ndim:
        sizes = [int(s) for s in value]
    elif isinstance(size, int):
        each = 1 if value is None else int(value)
        sizes = [min(each, size - k) for k in range(0, size, each)]
    else:
        raise OutsideCalculus(_UNKNOWN)
    shapes: list[tuple[Dim, ...]] = [(*x.shape[:axis], s, *x.shape[axis + 1 :]) for s in sizes]
    pieces = emit.ops("Split", len(sizes), x, sizes, axis=axis)
    for piece, shape in zip(pieces, shapes, strict=True):
        piece.shape = shape
    held = emit.const(np.asarray(sizes, np.int64))
    nodes.append(Node("Split", "", [x, held], pieces, {"axis": axis}, node.origin))
    if (value is None or (value.ndim == 0 and value == 1)) and not node.attrs.get("keepdims", 1):
        axes = emit.const(np.asarray([axis], np.int64))
        pieces = [
            _one("Squeeze", p, axes, (*s[:axis], *s[axis + 1 :]), emit, nodes, node)
            for p, s in zip(pieces, shapes, strict=True)
        ]
    return pieces


def _with_axis(t: Tensor, axis: int, emit: Emitter, nodes: list[Node], node: Node) -> Tensor:
    """``t`` with a new axis."""
    if t.shape is None:
        raise OutsideCalculus("the rank of an element of its sequence is not known")
    axis %= len(t.shape) + 1
    axes = emit.const(np.asarray([axis], np.int64))
    return _one("Unsqueeze", t, axes, (*t.shape[:axis], 1, *t.shape[axis:]), emit, nodes, node)


def _one(
    op: str, x: Tensor, axes: Tensor, shape: tuple[Dim, ...], emit: Emitter, nodes: list[Node], node: Node, **attrs: Any
) -> Tensor:
    out = emit.op(op, x, axes, shape=shape, dtype=x.dtype)
    nodes.append(Node(op, "", [x, axes], [out], attrs, node.origin))
    return out
