"""Operators that only move elements: linear, and the same on the ones. Ones stay compact (size 1) where they can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear.program import Var


def reshape_ones(p: Calculus, o: Var, source: Shape, target: Shape) -> Var:
    """Ones of a tensor of shape ``source`` reshaped to ``target``: groups of axes along which they are uniform stay of
    size 1, axes carried over whole stay as they are, the others are written out."""
    full = list(o.shape)
    result: list[Dim] = []
    for left, right in shape_groups(source, target):
        if all(o.shape[i] == 1 for i in left):
            result += [1] * len(right)
        elif len(left) == len(right) == 1:
            result.append(o.shape[left[0]])
        else:
            for i in left:
                full[i] = source[i]
            result += [target[j] for j in right]
    return p.build.reshape(p.build.broadcast(o, tuple(full)), tuple(result))


def shape_groups(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of both shapes that hold the same number of elements, as short as can be told."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left, right = [i] if i < len(source) else [], [j] if j < len(target) else []
        i, j = i + len(left), j + len(right)
        while not _same_size(source, left, target, right):
            grow_left = i < len(source) and (j >= len(target) or _smaller(source, left, target, right))
            if grow_left:
                left.append(i)
                i += 1
            elif j < len(target):
                right.append(j)
                j += 1
            elif i < len(source):
                left.append(i)
                i += 1
            else:
                break
        groups.append((left, right))
    if groups and not _same_size(source, groups[-1][0], target, groups[-1][1]):
        return _outer_groups(source, target)
    return groups


def _outer_groups(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Equal sizes in front and behind carried over, the middle one group."""
    front = 0
    while front < min(len(source), len(target)) and source[front] == target[front]:
        front += 1
    back = 0
    while back < min(len(source), len(target)) - front and source[-1 - back] == target[-1 - back]:
        back += 1
    middle = list(range(front, len(source) - back)), list(range(front, len(target) - back))
    ends = [([len(source) - k], [len(target) - k]) for k in range(back, 0, -1)]
    return [([k], [k]) for k in range(front)] + ([middle] if middle[0] or middle[1] else []) + ends


def _size(shape: Shape, axes: list[int]) -> tuple[int, Counter[str]]:
    number, symbols = 1, Counter[str]()
    for a in axes:
        d = shape[a]
        if isinstance(d, int):
            number *= d
        else:
            symbols[d] += 1
    return number, symbols


def _same_size(source: Shape, left: list[int], target: Shape, right: list[int]) -> bool:
    return _size(source, left) == _size(target, right)


def _smaller(source: Shape, left: list[int], target: Shape, right: list[int]) -> bool:
    (a, u), (b, v) = _size(source, left), _size(target, right)
    if u == v:
        return a < b
    return not (v - u) or bool(u - v) is False


def reshape_pair(p: Calculus, X: Operand, shape: Shape) -> Pair | None:
    """The pair of X in another shape."""
    if X.pair is None:
        return None
    return Pair(p.build.reshape(X.pair.value, shape), reshape_ones(p, X.pair.ones, X.shape, shape), X.pair.rank)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(p: Calculus, node: Node, X: Operand, _: Operand | None = None) -> Pair | None:
    return reshape_pair(p, X, p.out(node).shape)


@rule("Identity", "Cast", "CastLike", "NaNGuard")
def identity(p: Calculus, node: Node, X: Operand, _: Operand | None = None) -> Pair | None:
    """Itself; a cast between float types too. What a cast rounds belongs to no stream: coefficients are taken behind
    it. Only where that is not small (float8, float4) it is the bias: it is a quantiser then."""
    y = node.outputs[0]
    if X.pair is None or y.dtype is None or y.dtype.itemsize > 1:
        return X.pair
    residual = p.emit.op("Sub", p.out(node).t, X.t)
    return Pair(p.bias(X.pair.value, residual, X.pair.ones, X.shape), X.pair.ones, X.pair.rank)


@rule("Dropout")
def dropout(
    p: Calculus, node: Node, X: Operand, ratio: Operand | None = None, training_mode: Operand | None = None
) -> list[Pair | None]:
    if training_mode is not None and (training_mode.value is None or bool(training_mode.value.any())):
        raise OutsideCalculus("Dropout in training mode is random; export the model for inference")
    return [X.pair]


@rule("Transpose")
def transpose(p: Calculus, node: Node, X: Operand, *, perm: Sequence[int] | None = None) -> Pair | None:
    if X.pair is None:
        return None
    order = list(range(X.rank))[::-1] if perm is None else list(perm)
    return Pair(p.build.permute(X.pair.value, order), p.build.permute(X.pair.ones, order), X.pair.rank)


@rule("Expand")
def expand(p: Calculus, node: Node, X: Operand, _: Operand) -> Pair | None:
    if X.pair is None:
        return None
    y = p.out(node)
    return Pair(p.build.broadcast(X.pair.value, y.shape), p.to_rank(X.pair.ones, y.rank), X.pair.rank)


@rule("Tile")
def tile(p: Calculus, node: Node, X: Operand, repeats: Operand) -> Pair | None:
    if X.pair is None:
        return None
    times = [int(r) for r in p.number(repeats, "repeats").reshape(-1)]
    shape = p.out(node).shape
    ones = [1 if d == 1 else r for d, r in zip(X.pair.ones.shape, times, strict=True)]
    ones_shape = tuple(1 if d == 1 else s for d, s in zip(X.pair.ones.shape, shape, strict=True))
    return Pair(_tile(p, X.pair.value, times, shape), _tile(p, X.pair.ones, ones, ones_shape), X.pair.rank)


def _tile(p: Calculus, v: Var, times: Sequence[int], shape: Shape) -> Var:
    if all(r == 1 for r in times):
        return v
    thin = tuple(d for s in v.shape for d in (1, s))
    wide = tuple(d for r, s in zip(times, v.shape, strict=True) for d in (r, s))
    return p.build.reshape(p.build.broadcast(p.build.reshape(v, thin), wide), shape)


@rule("DepthToSpace")
def depth_to_space(p: Calculus, node: Node, X: Operand, *, blocksize: int, mode: str = "DCR") -> Pair | None:
    n, c, h, w = X.shape
    if isinstance(c, str):
        raise OutsideCalculus("its number of channels is not known")
    b = blocksize
    inner: Shape = (n, b, b, c // b**2, h, w) if mode == "DCR" else (n, c // b**2, b, b, h, w)
    order = [0, 3, 4, 1, 5, 2] if mode == "DCR" else [0, 1, 4, 2, 5, 3]
    return _rearrange(p, X, inner, order, p.out(node).shape)


@rule("SpaceToDepth")
def space_to_depth(p: Calculus, node: Node, X: Operand, *, blocksize: int, mode: str = "DCR") -> Pair | None:
    n, c, _, _ = X.shape
    y = p.out(node)
    b = blocksize
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return _rearrange(p, X, (n, c, y.shape[2], b, y.shape[3], b), order, y.shape)


def _rearrange(p: Calculus, X: Operand, inner: Shape, order: list[int], shape: Shape) -> Pair | None:
    if X.pair is None:
        return None
    value = p.build.permute(p.build.reshape(X.pair.value, inner), order)
    ones = p.build.permute(reshape_ones(p, X.pair.ones, X.shape, inner), order)
    moved = tuple(inner[i] for i in order)
    return Pair(p.build.reshape(value, shape), reshape_ones(p, ones, moved, shape), X.pair.rank)


@rule("Slice")
def slice_(
    p: Calculus,
    node: Node,
    X: Operand,
    starts: Operand,
    ends: Operand,
    axes: Operand | None = None,
    steps: Operand | None = None,
) -> Pair | None:
    if X.pair is None:
        return None
    shape = p.out(node).shape
    which = p.number(axes, "axes")
    count = starts.shape[0]
    if which is None:
        if not isinstance(count, int):
            raise OutsideCalculus("the number of its starts is not known")
        which = np.arange(count)
    value, ones = X.pair.value, X.pair.ones
    for i, a in enumerate(int(a) % X.rank for a in which.reshape(-1)):
        cut = _cut(p, X.shape[a], shape[a], i, starts, ends, steps)
        value = cut(value, a)
        if ones.shape[a] != 1:
            ones = cut(ones, a)
    return Pair(value, ones, X.pair.rank)


def _cut(
    p: Calculus, size: Dim, kept: Dim, i: int, starts: Operand, ends: Operand, steps: Operand | None
) -> Callable[[Var, int], Var]:
    """One axis of a Slice, as a function of a stream and the axis."""
    start = None if starts.value is None else int(starts.value.reshape(-1)[i])
    step = 1 if steps is None else None if steps.value is None else int(steps.value.reshape(-1)[i])
    if step == 1 and start is not None:
        begin: Dim | Tensor
        if isinstance(size, int):
            begin = min(max(start + size if start < 0 else start, 0), size)
        elif start >= 0:
            begin = start
        else:
            begin = p.emit.op("Max", p.emit.op("Add", p.emit.dim(size), [start], shape=(1,)), [0], shape=(1,))
        return lambda v, a: along(p, v, a, begin, kept)
    line = arange(p, size)
    known = [t for t in (starts, ends, steps) if t is not None]
    pieces = [p.emit.cast(p.emit.op("Gather", t.t, [i], axis=0, shape=(1,)), np.dtype(np.int64)) for t in known]
    pieces.insert(2, p.emit.const(np.asarray([0], np.int64)))
    indices = p.emit.op("Slice", line, *pieces, shape=(kept,))
    return lambda v, a: p.build.gather(v, a, indices, kept)


def along(p: Calculus, v: Var, axis: int, begin: Dim | Tensor, size: Dim) -> Var:
    """The piece of ``v`` of ``size`` from ``begin`` along one axis."""
    begins: list[Dim | Tensor] = [0] * v.rank
    begins[axis] = begin
    return p.build.slice(v, begins, tuple(size if i == axis else d for i, d in enumerate(v.shape)))


def arange(p: Calculus, size: Dim) -> Tensor:
    """0, 1, ..., size - 1 as int64."""
    if isinstance(size, int):
        return p.emit.const(np.arange(size, dtype=np.int64))
    end = p.emit.op("Squeeze", p.emit.dim(size), [0], shape=())
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    return p.emit.op("Range", zero, end, one, shape=(size,), dtype=np.dtype(np.int64))


def eye(p: Calculus, size: Dim) -> Tensor:
    """The identity matrix."""
    zeros = p.emit.op("Expand", 0.0, p.emit.shape([size, size]), shape=(size, size))
    return p.emit.op("EyeLike", zeros, shape=(size, size))


@rule("Split")
def split(p: Calculus, node: Node, X: Operand, _: Operand | None = None, *, axis: int = 0) -> list[Pair | None]:
    if X.pair is None:
        return [None]
    axis %= X.rank
    pairs: list[Pair | None] = []
    offset: Dim | Tensor = 0
    for t in node.outputs:
        size = (t.shape or X.shape)[axis]
        value = along(p, X.pair.value, axis, offset, size)
        o = X.pair.ones
        pairs.append(Pair(value, o if o.shape[axis] == 1 else along(p, o, axis, offset, size), X.pair.rank))
        if isinstance(offset, int) and isinstance(size, int):
            offset += size
        else:
            offset = p.emit.op("Add", p.emit.shape([offset]), p.emit.dim(size), shape=(1,))
    return pairs
