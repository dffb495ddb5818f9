"""Gather and scatter in all their forms, TopK, Compress, ReverseSequence, OneHot.

Every form is one index vector on rows: where an element comes from is found by running the operator itself on the
positions 0, 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import where
from omenn_onnx.calculus.scatter_extremes import scatter_extreme
from omenn_onnx.calculus.shape_ops import along, arange
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var


def normalised(p: Calculus, indices: Tensor, size: Dim) -> Tensor:
    """Indices as int64, negative ones counted from the end."""
    if indices.value is not None and isinstance(size, int):
        value = indices.value.astype(np.int64)
        return p.emit.const(np.where(value < 0, value + size, value))
    t = p.emit.cast(indices, np.dtype(np.int64))
    zero = np.asarray(0, np.int64)
    return p.emit.op(
        "Where", p.emit.op("Less", t, zero), p.emit.op("Add", t, p.emit.dim(size), shape=t.shape), t, shape=t.shape
    )


@rule("Gather")
def gather(p: Calculus, node: Node, X: Operand, indices: Operand, *, axis: int = 0) -> Pair | None:
    if X.pair is None:
        return None
    y = p.out(node)
    axis %= X.rank
    pick = normalised(p, indices.t, X.shape[axis])
    spread = indices.shape

    def stream(v: Var) -> Var:
        shape = (*v.shape[:axis], *spread, *v.shape[axis + 1 :])
        if v.shape[axis] == 1 and X.shape[axis] != 1:
            return p.build.reshape(v, tuple(1 if axis <= i < axis + len(spread) else d for i, d in enumerate(shape)))
        run = _run(pick, spread)
        if run is not None:
            return p.build.reshape(along(p, v, axis, run[0], run[1]), shape)
        count = p.emit.new_size(spread)
        if count == 1:  # a slice, whose transpose is zero but for a box
            place = p.emit.op("Reshape", pick, [1], shape=(1,))
            begin = tuple(place if i == axis else 0 for i in range(v.rank))
            return p.build.reshape(p.build.slice(v, begin, (*v.shape[:axis], 1, *v.shape[axis + 1 :])), shape)
        return p.build.reshape(p.build.gather(v, axis, p.emit.op("Reshape", pick, [-1], shape=(count,)), count), shape)

    value = p.build.reshape(stream(X.pair.value), y.shape)
    return Pair(value, stream(X.pair.ones), X.pair.rank)


def _run(pick: Tensor, spread: Shape) -> tuple[int, int] | None:
    """(first, count) of indices known to be consecutive."""
    if pick.value is None or pick.value.size == 0:
        return None
    flat = pick.value.reshape(-1)
    if flat[0] < 0 or not np.array_equal(flat, np.arange(flat[0], flat[0] + flat.size)):
        return None
    return int(flat[0]), int(flat.size)


def gather_rows(p: Calculus, v: Var, rows: Tensor, front: Shape, shape: Shape, within_rows: bool = False) -> Var:
    """v [front, rest] with its front axes as one, picked by ``rows``, as ``shape`` (rows' sizes, then rest)."""
    count = p.emit.new_size(front)
    rest = v.shape[len(front) :]
    lines = p.build.reshape(v, (count, *rest))
    picked = p.emit.new_size(shape[: len(shape) - len(rest)])
    flat = p.emit.op("Reshape", rows, [-1], shape=(picked,))
    return p.build.reshape(p.build.gather(lines, 0, flat, picked, within_rows), shape)


def positions(p: Calculus, shape: Shape) -> Tensor:
    """0, 1, 2, ... laid out in ``shape``."""
    line = arange(p, p.emit.new_size(shape))
    return p.emit.op("Reshape", line, p.emit.shape(shape), shape=shape)


@rule("GatherElements")
def gather_elements(p: Calculus, node: Node, X: Operand, indices: Operand, *, axis: int = 0) -> Pair | None:
    if X.pair is None:
        return None
    axis %= X.rank
    return _elements(p, X, normalised(p, indices.t, X.shape[axis]), axis, p.out(node).shape)


def _elements(p: Calculus, X: Operand, indices: Tensor, axis: int, shape: Shape) -> Pair:
    assert X.pair is not None
    primitive = lp.GatherElements(axis, indices)
    value = p.build.apply(primitive, [X.pair.value], shape)
    o = X.pair.ones
    if all(d == 1 for d in o.shape):
        return Pair(value, o, X.pair.rank)
    if o.shape[axis] == 1 and all(a == b for i, (a, b) in enumerate(zip(X.shape, shape, strict=True)) if i != axis):
        return Pair(value, o, X.pair.rank)
    return Pair(value, p.build.apply(primitive, [p.build.broadcast(o, X.shape)], shape), X.pair.rank)


@rule("TopK")
def top_k(
    p: Calculus, node: Node, X: Operand, K: Operand, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> list[Pair | None]:
    """The values, by the indices that TopK itself gives."""
    if X.pair is None:
        return [None]
    indices = node.outputs[1]
    if not indices.name:
        indices = p.emit.ops("TopK", 2, X.t, K.t, axis=axis, largest=largest, sorted=sorted)[1]
    return [_elements(p, X, indices, axis % X.rank, p.out(node).shape)]


@rule("GatherND")
def gather_nd(p: Calculus, node: Node, X: Operand, indices: Operand, *, batch_dims: int = 0) -> Pair | None:
    if X.pair is None:
        return None
    depth = indices.shape[-1]
    if isinstance(depth, str):
        raise OutsideCalculus("the length of its index tuples is not known")
    front = X.shape[: batch_dims + depth]
    rows = p.emit.op("GatherND", positions(p, front), indices.t, batch_dims=batch_dims)
    shape = p.out(node).shape
    value = gather_rows(p, X.pair.value, rows, front, shape)
    o = X.pair.ones
    rest = o.shape[len(front) :]
    if all(d == 1 for d in o.shape[: len(front)]):
        return Pair(value, p.build.reshape(o, (1,) * (len(shape) - len(rest)) + rest), X.pair.rank)
    wide = p.build.broadcast(o, (*front, *rest))
    return Pair(value, gather_rows(p, wide, rows, front, (*shape[: len(shape) - len(rest)], *rest)), X.pair.rank)


@rule("Compress")
def compress(p: Calculus, node: Node, X: Operand, condition: Operand, *, axis: int | None = None) -> Pair | None:
    if X.pair is None:
        return None
    shape = p.out(node).shape
    kept = p.emit.op("Squeeze", p.emit.op("NonZero", condition.t), [0])
    if axis is None:
        size = p.emit.new_size(X.shape)
        wide = p.build.broadcast(X.pair.ones, X.shape)
        streams = [p.build.gather(p.build.reshape(v, (size,)), 0, kept, shape[0]) for v in (X.pair.value, wide)]
        return Pair(streams[0], streams[1], X.pair.rank)
    a = axis % X.rank
    o = X.pair.ones
    ones = o if o.shape[a] == 1 else p.build.gather(o, a, kept, shape[a])
    return Pair(p.build.gather(X.pair.value, a, kept, shape[a]), ones, X.pair.rank)


@rule("ReverseSequence")
def reverse_sequence(
    p: Calculus, node: Node, X: Operand, lengths: Operand, *, batch_axis: int = 1, time_axis: int = 0
) -> Pair | None:
    if X.pair is None:
        return None
    front = X.shape[:2]
    rows = p.emit.op("ReverseSequence", positions(p, front), lengths.t, batch_axis=batch_axis, time_axis=time_axis)
    value = gather_rows(p, X.pair.value, rows, front, X.shape)
    o = X.pair.ones
    if o.shape[time_axis] == 1:
        return Pair(value, o, X.pair.rank)
    wide = p.build.broadcast(o, (*front, *o.shape[2:]))
    return Pair(value, gather_rows(p, wide, rows, front, wide.shape), X.pair.rank)


@rule("OneHot")
def one_hot(
    p: Calculus, node: Node, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1
) -> Pair | None:
    """The off and on values, gathered."""
    if values.pair is None:
        return None
    e, b, shape = p.emit, p.build, p.out(node).shape
    which = e.op("OneHot", indices.t, depth.t, np.asarray([0, 1], np.int64), axis=axis, shape=shape)
    flat = e.op("Reshape", which, [-1], shape=(e.new_size(shape),))
    streams = (values.pair.value, b.broadcast(values.pair.ones, values.shape))
    value, ones = (b.reshape(b.gather(v, 0, flat, e.new_size(shape)), shape) for v in streams)
    return Pair(value, ones, values.pair.rank)


@rule("ScatterElements", "Scatter")
def scatter_elements(
    p: Calculus,
    node: Node,
    data: Operand,
    indices: Operand,
    updates: Operand,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> Pair | None:
    if reduction == "mul":
        return _multiplied(p, node, data, indices, updates, axis=axis)
    pick = normalised(p, indices.t, data.shape[axis % data.rank])
    rows = p.emit.op("GatherElements", positions(p, data.shape), pick, axis=axis)
    return _scatter(p, node, data, rows, updates, reduction, data.rank)


@rule("ScatterND")
def scatter_nd(
    p: Calculus, node: Node, data: Operand, indices: Operand, updates: Operand, *, reduction: str = "none"
) -> Pair | None:
    if reduction == "mul":
        return _multiplied(p, node, data, indices, updates)
    depth = indices.shape[-1]
    if isinstance(depth, str):
        raise OutsideCalculus("the length of its index tuples is not known")
    rows = p.emit.op("GatherND", positions(p, data.shape[:depth]), indices.t)
    return _scatter(p, node, data, rows, updates, reduction, depth)


def _multiplied(
    p: Calculus, node: Node, data: Operand, indices: Operand, updates: Operand, **attrs: Any
) -> Pair | None:
    """Data times what meets at each place, which must be constants."""
    if updates.pair is not None:
        raise OutsideCalculus("reduction 'mul' multiplies updates that depend on the explained input: use ReduceProd")
    if data.pair is None:
        return None
    ones = p.emit.op("Expand", 1.0, p.emit.shape_of(data.t), shape=data.shape)
    factor = p.emit.op(node.op, ones, indices.t, updates.t, reduction="mul", shape=data.shape, **attrs)
    return Pair(p.build.scale(data.pair.value, factor), data.pair.ones, data.pair.rank)


def _scatter(
    p: Calculus, node: Node, data: Operand, rows: Tensor, updates: Operand, reduction: str, depth: int
) -> Pair | None:
    """Rows of ``data`` (its first ``depth`` axes as one) replaced by, or increased by, ``updates``.

    Ones: the same operator; where a constant base shows, the mean of all updates' ones; where updates add up, the mean
    of what adds up.
    """
    if data.pair is None and updates.pair is None:
        return None
    if reduction in ("max", "min"):
        return scatter_extreme(p, p.out(node).t, data, rows, updates, depth)
    e, b = p.emit, p.build
    front, rest = data.shape[:depth], data.shape[depth:]
    count = e.new_size(front)
    number = e.new_size(updates.shape[: updates.rank - len(rest)])
    flat = e.op("Reshape", rows, [-1], shape=(number,))
    column: Shape = (count, *[1] * len(rest))
    hits = e.scatter_add(flat, e.op("Expand", 1.0, e.dim(number), shape=(number,)), 0, (count,))
    hits = e.op("Reshape", hits, e.shape(column), shape=column)
    hit = e.op("Greater", hits, 0.0)
    winning = None
    if reduction == "none":  # the last of several updates of one row stands
        line = arange(p, number)
        nobody = e.op("Expand", np.asarray([-1], np.int64), e.dim(count))
        last = e.op("Gather", e.op("ScatterElements", nobody, flat, line), flat)
        winning = e.op("Reshape", e.op("Equal", last, line), [-1, *[1] * len(rest)], shape=(number, *[1] * len(rest)))

    def lines(v: Var, size: Dim) -> Var:
        return b.reshape(v, (size, *rest))

    def placed(v: Var) -> Var:
        v = lines(v, number)
        return b.apply(lp.ScatterAdd(0, flat), [v if winning is None else b.select(v, winning)], (count, *rest))

    untouched = e.op("Not", hit)
    values: list[Var] = []
    ones = _scatter_ones(p, data, updates, lines, placed, hits, hit, reduction, count, rest)
    if data.pair is not None:
        line_value = lines(data.pair.value, count)
        values.append(b.select(line_value, untouched) if reduction == "none" else line_value)
    if updates.pair is not None:
        values.append(placed(updates.pair.value))
    value = b.add(values)
    if data.pair is None or updates.pair is None:
        value = p.bias(
            value,
            _constant_part(p, data, updates, flat, winning, hit, reduction, count, number, rest),
            ones,
            value.shape,
        )
    rank = min(o.pair.rank for o in (data, updates) if o.pair is not None)
    return Pair(b.reshape(value, data.shape), b.reshape(ones, data.shape), rank)


def _constant_part(
    p: Calculus,
    data: Operand,
    updates: Operand,
    flat: Tensor,
    winning: Tensor | None,
    hit: Tensor,
    reduction: str,
    count: Dim,
    number: Dim,
    rest: Shape,
) -> Tensor:
    e = p.emit
    if data.pair is None:
        base = e.op("Reshape", data.t, e.shape((count, *rest)), shape=(count, *rest))
        return where(e, hit, 0.0, base) if reduction == "none" else base
    rows = e.op("Reshape", updates.t, e.shape((number, *rest)), shape=(number, *rest))
    if winning is not None:
        rows = where(e, winning, rows, 0.0)
    index = e.op("Expand", e.op("Reshape", flat, [-1, *[1] * len(rest)]), e.shape((number, *rest)))
    return e.scatter_add(index, rows, 0, (count, *rest))


def _scatter_ones(
    p: Calculus,
    data: Operand,
    updates: Operand,
    lines: Callable[[Var, Dim], Var],
    placed: Callable[[Var], Var],
    hits: Tensor,
    hit: Tensor,
    reduction: str,
    count: Dim,
    rest: Shape,
) -> Var:
    e, b = p.emit, p.build
    base = None if data.pair is None else lines(b.broadcast(data.pair.ones, data.shape), count)
    if updates.pair is None:
        assert base is not None
        return base
    new = placed(b.broadcast(updates.pair.ones, updates.shape))
    shape: Shape = (count, *rest)
    if base is None:
        o = updates.pair.ones
        base = b.broadcast(b.reshape(b.mean(o, range(o.rank)), (1,) * len(shape)), shape)
        if reduction == "add":
            new = b.scale(new, e.op("Reciprocal", e.op("Max", hits, 1.0)))
        return b.add([new, b.select(base, e.op("Not", hit))], shape)
    if reduction == "none":
        return b.add([new, b.select(base, e.op("Not", hit))], shape)
    return b.scale(b.add([new, base], shape), e.op("Reciprocal", e.op("Add", hits, 1.0)))
