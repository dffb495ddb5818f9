"""Operators that only move, repeat, drop or join entries: the same operator acts on the ones."""

from __future__ import annotations

import itertools

import numpy as np

from .stream import Array, Node, Tensor, carrier, constant, lowest_rank, move, plus_bias, rule

FLOAT_TYPES = {1, 10, 11, 16, 17, 18, 19, 20, 23, 24}  # FLOAT, FLOAT16, DOUBLE, BFLOAT16, FLOAT8*, FLOAT4, E8M0


def _ints(t: Tensor) -> list[int]:
    return [int(v) for v in np.ravel(t.value)]


def _list(n: Node, name: str, given: Tensor | None) -> list[int] | None:
    """A list of integers that is an attribute in old opsets, an input in new ones."""
    return _ints(given) if given is not None else n.attrs.get(name)


def with_softmax(x: Tensor, y: Tensor, axis_of: dict[int, int]) -> Tensor:
    """Carry the softmax mark of x to y; ``axis_of``: where each axis of x is in y."""
    if x.softmax_axes is not None and y.is_carrier and all(a in axis_of for a in x.softmax_axes):
        y.softmax_axes = frozenset(axis_of[a] for a in x.softmax_axes)
    return y


def identity(x: Tensor) -> Tensor:
    return with_softmax(x, move(x, lambda i: i), {a: a for a in range(x.ndim)})


@rule("Identity")
def _identity(n: Node, x: Tensor) -> Tensor:
    return identity(x)


@rule("Cast")
def cast(n: Node, x: Tensor) -> Tensor:
    if x.value.dtype.kind != "f":  # a quantised carrier
        y = identity(x)
        y.value = x.value.astype(np.float64 if n.attrs["to"] in FLOAT_TYPES else np.int64)
        return y
    if n.attrs["to"] not in FLOAT_TYPES:
        import onnx

        return constant(x.value.astype(onnx.helper.tensor_dtype_to_np_dtype(n.attrs["to"])))
    return identity(x)


@rule("CastLike")
def cast_like(n: Node, x: Tensor, like: Tensor) -> Tensor:
    if like.value.dtype.kind != "f":
        return constant(x.value.astype(like.value.dtype))
    return identity(x)


@rule("Dropout")
def dropout(n: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> list[Tensor]:
    if training is not None and bool(training.value) and (ratio is None or float(ratio.value) > 0):
        raise n.refuse("training mode is random")
    return [identity(x), constant(np.ones(x.shape, dtype=bool))]


@rule("Reshape")
def reshape(n: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target = list(_list(n, "shape", shape) or [])
    if not n.attrs.get("allowzero", 0):
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    y = move(x, lambda i: i.reshape(target))
    if x.ndim and y.ndim and x.softmax_axes == {x.ndim - 1} and x.shape[-1] == y.shape[-1]:
        y.softmax_axes = frozenset([y.ndim - 1])
    return y


@rule("Flatten")
def flatten(n: Node, x: Tensor) -> Tensor:
    axis = n.attrs.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return move(x, lambda i: i.reshape(int(np.prod(x.shape[:axis])), -1))


@rule("Transpose")
def transpose(n: Node, x: Tensor) -> Tensor:
    perm = n.attrs.get("perm", list(range(x.ndim))[::-1])
    return with_softmax(x, move(x, lambda i: i.transpose(perm)), {a: k for k, a in enumerate(perm)})


@rule("Squeeze")
def squeeze(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _list(n, "axes", axes)
    gone = {a % x.ndim for a in given} if given else {a for a, s in enumerate(x.shape) if s == 1}
    kept = [a for a in range(x.ndim) if a not in gone]
    return with_softmax(x, move(x, lambda i: np.squeeze(i, tuple(gone))), {a: k for k, a in enumerate(kept)})


@rule("Unsqueeze")
def unsqueeze(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _list(n, "axes", axes) or []
    rank = x.ndim + len(given)
    new = {a % rank for a in given}
    kept = [a for a in range(rank) if a not in new]
    return with_softmax(x, move(x, lambda i: np.expand_dims(i, tuple(new))), dict(enumerate(kept)))


@rule("Slice")
def slice_(
    n: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    start, end = _list(n, "starts", starts), _list(n, "ends", ends)
    axis = _list(n, "axes", axes) or list(range(len(start)))
    step = _ints(steps) if steps is not None else [1] * len(start)
    cut = [slice(None)] * x.ndim
    for a, s, e, k in zip(axis, start, end, step, strict=True):
        size = x.shape[a % x.ndim]
        if k < 0:  # numpy reads -1 as the last entry: an end before the first entry is None
            s = min(s + size if s < 0 else s, size - 1)
            e = e + size if e < 0 else e
            cut[a % x.ndim] = slice(s, None if e < 0 else e, k) if s >= 0 else slice(0, 0)
        else:
            cut[a % x.ndim] = slice(s, e, k)
    return move(x, lambda i: i[tuple(cut)])


@rule("Split")
def split(n: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    axis = n.attrs.get("axis", 0) % x.ndim
    parts = _list(n, "split", sizes)
    if not parts:
        count = n.attrs.get("num_outputs", len(n.outputs))
        each = -(-x.shape[axis] // count)
        parts = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    edges = np.cumsum([0, *parts])
    return [move(x, lambda i, a=a, b=b: np.take(i, np.arange(a, b), axis=axis)) for a, b in itertools.pairwise(edges)]


@rule("Expand")
def expand(n: Node, x: Tensor, shape: Tensor) -> Tensor:
    target = np.broadcast_shapes(x.shape, tuple(_ints(shape)))
    return move(x, lambda i: np.broadcast_to(i, target))


@rule("Tile")
def tile(n: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return move(x, lambda i: np.tile(i, _ints(repeats)))


@rule("Gather")
def gather(n: Node, x: Tensor, indices: Tensor) -> Tensor:
    return move(x, lambda i: np.take(i, indices.value.astype(np.int64), axis=n.attrs.get("axis", 0)))


@rule("GatherElements")
def gather_elements(n: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = n.attrs.get("axis", 0) % x.ndim
    grid = list(np.indices(indices.shape))
    grid[axis] = indices.value % x.shape[axis]
    return move(x, lambda i: i[tuple(grid)])


@rule("GatherND")
def gather_nd(n: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch, index = n.attrs.get("batch_dims", 0), indices.value.astype(np.int64)
    depth = index.shape[-1]

    def pick(i: Array) -> Array:
        out = np.empty(index.shape[:-1] + i.shape[batch + depth :], dtype=i.dtype)
        for place in np.ndindex(*index.shape[:-1]):
            out[place] = i[place[:batch] + tuple(index[place])]
        return out

    return move(x, pick)


@rule("TopK")
def top_k(n: Node, x: Tensor, k: Tensor | None = None) -> list[Tensor]:
    """Values follow their indices; ties: the lower index first."""
    axis = n.attrs.get("axis", -1) % x.ndim
    count = _list(n, "k", k)
    count = count[0] if isinstance(count, list) else int(count)
    key = -x.value if n.attrs.get("largest", 1) else x.value
    order = np.take(np.argsort(key, axis=axis, kind="stable"), np.arange(count), axis=axis)
    return [move(x, lambda i: np.take_along_axis(i, order, axis)), constant(order.astype(np.int64))]


@rule("DepthToSpace")
def depth_to_space(n: Node, x: Tensor) -> Tensor:
    b, (batch, c, h, w) = n.attrs["blocksize"], x.shape
    if n.attrs.get("mode", "DCR") == "DCR":
        split, order = (batch, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (batch, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return move(x, lambda i: i.reshape(split).transpose(order).reshape(batch, c // b**2, h * b, w * b))


@rule("SpaceToDepth")
def space_to_depth(n: Node, x: Tensor) -> Tensor:
    b, (batch, c, h, w) = n.attrs["blocksize"], x.shape
    split, order = (batch, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    return move(x, lambda i: i.reshape(split).transpose(order).reshape(batch, c * b**2, h // b, w // b))


@rule("Compress")
def compress(n: Node, x: Tensor, condition: Tensor) -> Tensor:
    keep = np.flatnonzero(condition.value)
    if "axis" in n.attrs:
        return move(x, lambda i: np.take(i, keep, axis=n.attrs["axis"]))
    return move(x, lambda i: i.reshape(-1)[keep])


@rule("ReverseSequence")
def reverse_sequence(n: Node, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = n.attrs.get("time_axis", 0), n.attrs.get("batch_axis", 1)

    def reverse(i: Array) -> Array:
        i = np.moveaxis(i, (batch, time), (0, 1)).copy()
        for row, length in enumerate(_ints(lengths)):
            i[row, :length] = i[row, :length][::-1]
        return np.moveaxis(i, (0, 1), (batch, time))

    return move(x, reverse)


@rule("OneHot")
def one_hot(n: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Picks values[0] (off) or values[1] (on): depends on the indices through integers only."""
    size = int(np.ravel(depth.value)[0])
    axis = n.attrs.get("axis", -1)
    index = np.ravel(indices.value).astype(np.int64).reshape(indices.shape)
    hot = np.expand_dims(np.where(index < 0, index + size, index), axis) == np.arange(size).reshape(
        [-1 if a == axis % (index.ndim + 1) else 1 for a in range(index.ndim + 1)]
    )
    return move(values, lambda i: i[hot.astype(int)])


@rule("Concat")
def concat(n: Node, *parts: Tensor) -> Tensor:
    """Constant parts: constant * o with the mean, along the axis, of all carriers' ones."""
    axis = n.attrs.get("axis", 1) % parts[0].ndim
    value = np.concatenate([t.value for t in parts], axis=axis)
    carriers = [t for t in parts if t.is_carrier]
    if not carriers:
        return constant(value)
    mean = np.concatenate([t.ones for t in carriers], axis=axis).mean(axis=axis, keepdims=True)
    lins, ones = [], []
    for t in parts:
        o = t.ones if t.is_carrier else np.repeat(mean, t.shape[axis], axis=axis)
        lin = t.lin if t.is_carrier else plus_bias(n, np.zeros((*t.shape, n.columns.width)), o, t.value)
        lins.append(lin)
        ones.append(o)
    return carrier(value, np.concatenate(lins, axis), np.concatenate(ones, axis), lowest_rank(carriers))


@rule("Sign", "Hardmax", "EyeLike", "ConstantOfShape")
def piecewise_constant(n: Node, x: Tensor) -> Tensor:
    """Constants for the calculus: the value is all there is."""
    from .values import evaluate

    return constant(evaluate(n, [x.value])[0])
