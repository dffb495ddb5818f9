"""Resize, GridSample, Col2Im: linear interpolation, with weights that do not depend on the carried values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import where
from omenn_onnx.calculus.indexing import gather_rows
from omenn_onnx.calculus.shape_ops import arange
from omenn_onnx.calculus.windows import valid_taps
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var

_LETTERS = "abcdefghijklmnopqrstuvw"


def eye(p: Calculus, size: Dim) -> Tensor:
    """The identity matrix."""
    zeros = p.emit.op("Expand", 0.0, p.emit.shape([size, size]), shape=(size, size))
    return p.emit.op("EyeLike", zeros, shape=(size, size))


@rule("Resize")
def resize(
    p: Calculus,
    node: Node,
    X: Operand,
    roi: Operand | None = None,
    scales: Operand | None = None,
    sizes: Operand | None = None,
    *,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Pair | None:
    """Interpolation along one axis after the other; ONNX's own Resize, run on an identity matrix, gives each matrix."""
    if X.pair is None:
        return None
    if coordinate_transformation_mode == "tf_crop_and_resize":
        raise OutsideCalculus("its crop (tf_crop_and_resize) has no rule")
    if keep_aspect_ratio_policy != "stretch":
        raise OutsideCalculus(f"keep_aspect_ratio_policy {keep_aspect_ratio_policy!r} has no rule")
    y = p.out(node)
    listed = list(range(X.rank)) if axes is None else [int(a) % X.rank for a in axes]
    known = scales.value if scales is not None and scales.value is not None and scales.value.size else None
    value, ones = X.pair.value, X.pair.ones
    for i, a in enumerate(listed):
        if X.shape[a] == y.shape[a] and (known is None or known[i] == 1.0):
            continue
        factor = None if known is None else float(known[i])
        if _repeats(factor, mode, coordinate_transformation_mode, nearest_mode):
            assert factor is not None
            value = _repeat(p, value, a, int(factor), y.shape[a])
            ones = ones if ones.shape[a] == 1 else _repeat(p, ones, a, int(factor), y.shape[a])
            continue
        matrix = _resize_matrix(p, node, X.shape[a], y.shape[a], scales, i, node.attrs)
        value = _mix(p, value, a, matrix, y.shape[a])
        ones = ones if ones.shape[a] == 1 else _mix(p, ones, a, matrix, y.shape[a])
    return Pair(value, ones, X.pair.rank)


def _repeats(factor: float | None, mode: str, coordinates: str, nearest_mode: str) -> bool:
    """Whether nearest interpolation repeats every element a whole number of times."""
    if factor is None or mode != "nearest" or factor != int(factor) or factor < 1:
        return False
    plain = coordinates == "asymmetric" and nearest_mode == "floor"
    centred = coordinates in ("half_pixel", "pytorch_half_pixel") and nearest_mode.startswith("round")
    return plain or centred


def _repeat(p: Calculus, v: Var, axis: int, times: int, size: Dim) -> Var:
    front, rest = v.shape[:axis], v.shape[axis + 1 :]
    thin = p.build.reshape(v, (*front, v.shape[axis], 1, *rest))
    wide = p.build.broadcast(thin, (*front, v.shape[axis], times, *rest))
    return p.build.reshape(wide, (*front, size, *rest))


def _resize_matrix(p: Calculus, node: Node, size: Dim, out: Dim, scales: Operand | None, i: int, attrs: dict[str, object]) -> Tensor:
    """[in, out]: row j is what the unit vector j becomes."""
    e = p.emit
    source: Shape = (1, 1, size, size)
    rows = e.op("Reshape", eye(p, size), e.shape(source), shape=source)
    kept = {k: v for k, v in attrs.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    if scales is not None and scales.value is None or scales is not None and scales.value is not None and scales.value.size:
        one = np.ones(3, np.float32)
        factor = e.op("Gather", e.cast(scales.t, np.dtype(np.float32)), [i], axis=0, shape=(1,))
        wide = e.op("Concat", one, factor, axis=0, shape=(4,))
        resized = e.op("Resize", rows, None, wide, shape=(1, 1, size, out), **kept)
    else:
        resized = e.op("Resize", rows, None, None, e.shape((1, 1, size, out)), shape=(1, 1, size, out), **kept)
    return e.op("Reshape", resized, e.shape((size, out)), shape=(size, out))


def _mix(p: Calculus, v: Var, axis: int, matrix: Tensor, size: Dim) -> Var:
    """y[.., o, ..] = sum_i v[.., i, ..] matrix[i, o]."""
    shape = (*v.shape[:axis], size, *v.shape[axis + 1 :])
    if axis == v.rank - 1:
        return p.build.matmul(v, matrix, shape)
    if axis == v.rank - 2:
        flipped = p.emit.op("Transpose", matrix, perm=[1, 0], shape=None if matrix.shape is None else matrix.shape[::-1])
        return p.build.matmul(v, flipped, shape, left=True)
    labels = _LETTERS[: v.rank]
    return p.build.einsum(v, matrix, labels, labels[axis] + "z", labels.replace(labels[axis], "z"), shape)


@rule("GridSample")
def grid_sample(
    p: Calculus,
    node: Node,
    X: Operand,
    grid: Operand,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Pair | None:
    """Interpolation at the places of the grid, which is a weight; ones with zeros padding: with border padding."""
    if grid.pair is not None and (p.tangent or X.pair is None):
        raise OutsideCalculus("its grid depends on the explained input")
    if X.pair is None:
        return None
    y = p.out(node)
    value = _sample(p, X, X.pair.value, grid.t, align_corners, mode, padding_mode, y.shape)
    o = X.pair.ones
    if all(d == 1 for d in o.shape[2:]):
        return Pair(value, o)
    wide = p.build.broadcast(o, (*o.shape[:2], *X.shape[2:]))
    shape = (*o.shape[:2], *y.shape[2:])
    border = "border" if padding_mode == "zeros" else padding_mode
    return Pair(value, _sample(p, X, wide, grid.t, align_corners, mode, border, shape))


def _sample(
    p: Calculus, X: Operand, v: Var, grid: Tensor, align: int, mode: str, padding: str, shape: Shape
) -> Var:
    """Sum over the taps of all axes of weight * gathered element."""
    n = v.rank - 2
    e = p.emit
    places = shape[2:]
    lines: Shape = (X.shape[0], *places)
    along_axes = []
    for i in range(n):
        column = e.op("Gather", grid, np.asarray(n - 1 - i, np.int64), axis=-1, shape=lines)
        along_axes.append(_taps(p, column, X.shape[2 + i], align, mode, padding))
    rows_last = p.build.permute(v, [0, *range(2, v.rank), 1])
    front = rows_last.shape[:-1]
    batch = e.op("Reshape", arange(p, X.shape[0]), [-1, *[1] * n], shape=(X.shape[0], *[1] * n))
    if v.shape[0] == 1 and X.shape[0] != 1:
        rows_last = p.build.broadcast(rows_last, (X.shape[0], *rows_last.shape[1:]))
        front = rows_last.shape[:-1]
    combined: list[tuple[Tensor, Tensor | None]] = [(batch, None)]
    for i, taps in enumerate(along_axes):
        size = e.dim(X.shape[2 + i])
        combined = [
            (
                e.op("Add", e.op("Mul", index, size), tap, shape=None),
                w if weight is None else e.op("Mul", weight, w, shape=lines),
            )
            for index, weight in combined
            for tap, w in taps
        ]
    terms = []
    channels = rows_last.shape[-1]
    for index, weight in combined:
        assert weight is not None
        picked = gather_rows(p, rows_last, index, front, (*lines, channels), within_rows=True)
        terms.append(p.build.scale(picked, e.op("Unsqueeze", weight, [-1], shape=(*lines, 1))))
    summed = p.build.add(terms)
    return p.build.permute(summed, [0, v.rank - 1, *range(1, v.rank - 1)])


def _taps(p: Calculus, place: Tensor, size: Dim, align: int, mode: str, padding: str) -> list[tuple[Tensor, Tensor]]:
    """(index, weight) of the elements along one axis that a normalised coordinate in [-1, 1] reads."""
    e = p.emit
    n = e.cast(e.op("Squeeze", e.dim(size), [0], shape=()))
    if align:
        x = e.op("Mul", e.op("Add", place, 1.0), e.op("Mul", e.op("Sub", n, 1.0), 0.5))
        low: Tensor | float = 0.0
        high = e.op("Sub", n, 1.0)
    else:
        x = e.op("Mul", e.op("Sub", e.op("Mul", e.op("Add", place, 1.0), n), 1.0), 0.5)
        low = -0.5
        high = e.op("Sub", n, 0.5)
    last = e.op("Sub", n, 1.0)
    if padding == "border" and mode != "cubic":
        x = e.op("Min", e.op("Max", x, 0.0), last)
    elif padding == "reflection" and mode != "cubic":
        x = e.op("Min", e.op("Max", _reflect(p, x, low, high), 0.0), last)
    if mode == "nearest":
        taps = [(e.op("Round", x), e.op("Add", e.op("Mul", x, 0.0), 1.0))]
    else:
        floor = e.op("Floor", x)
        t = e.op("Sub", x, floor)
        if mode == "linear":
            taps = [(floor, e.op("Sub", 1.0, t)), (e.op("Add", floor, 1.0), t)]
        else:
            taps = [(e.op("Add", floor, float(k)), _cubic(p, t, k)) for k in (-1, 0, 1, 2)]
    result = []
    for index, weight in taps:
        if padding == "reflection" and mode == "cubic":
            index = _reflect(p, index, low, high)
        inside = e.op("And", e.op("GreaterOrEqual", index, 0.0), e.op("LessOrEqual", index, last))
        if padding == "zeros":
            weight = where(e, inside, weight, 0.0)
        kept = e.op("Min", e.op("Max", index, 0.0), last)
        result.append((e.cast(kept, np.dtype(np.int64)), weight))
    return result


def _reflect(p: Calculus, x: Tensor, low: Tensor | float, high: Tensor) -> Tensor:
    """x folded back into [low, high]."""
    e = p.emit
    span = e.op("Sub", high, low)
    away = e.op("Abs", e.op("Sub", x, low))
    double = e.op("Mul", span, 2.0)
    safe = e.op("Max", double, 1e-30)
    rest = e.op("Sub", away, e.op("Mul", e.op("Floor", e.op("Div", away, safe)), double))
    return e.op("Add", e.op("Min", rest, e.op("Sub", double, rest)), low)


def _cubic(p: Calculus, t: Tensor, k: int) -> Tensor:
    """Cubic convolution with A = -0.75 at distance |t - k|."""
    e, a = p.emit, -0.75
    d = e.op("Abs", e.op("Sub", t, float(k)))
    if k in (0, 1):
        inner = e.op("Sub", e.op("Mul", d, a + 2.0), a + 3.0)
        return e.op("Add", e.op("Mul", e.op("Mul", inner, d), d), 1.0)
    inner = e.op("Sub", e.op("Mul", d, a), 5.0 * a)
    return e.op("Sub", e.op("Mul", e.op("Add", e.op("Mul", inner, d), 8.0 * a), d), 4.0 * a)


@rule("Col2Im")
def col2im(
    p: Calculus,
    node: Node,
    X: Operand,
    image_shape: Operand,
    block_shape: Operand,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Pair | None:
    """Blocks added where they belong: the adjoint of taking them out. Ones: the mean of the taps that land on a place."""
    if X.pair is None:
        return None
    y = p.out(node)
    image = [int(d) for d in p.number(image_shape, "image_shape")]
    block = [int(d) for d in p.number(block_shape, "block_shape")]
    n = len(block)
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * (2 * n)
    window = lp.Window(tuple(block), tuple(strides), tuple(pads), tuple(dilations))
    grid = tuple(
        (image[i] + pads[i] + pads[i + n] - window.spans[i]) // strides[i] + 1 for i in range(n)
    )
    taps = int(np.prod(block))
    kernel = p.emit.op("Reshape", eye(p, taps), [taps, 1, *block], shape=(taps, 1, *block))

    def spread(v: Var, planes: Dim) -> Var:
        stacked = p.build.reshape(v, (planes, taps, *grid))
        return p.build.apply(lp.Conv(kernel, window, 1, adjoint=True), [stacked], (planes, 1, *image))

    value = p.build.reshape(spread(X.pair.value, p.emit.new_size(y.shape[:2])), y.shape)
    o = X.pair.ones
    if o.shape[1] == 1:
        o = p.build.broadcast(o, (o.shape[0], taps, X.shape[2]))
    o = p.build.broadcast(o, (*o.shape[:2], X.shape[2]))
    channels = 1 if X.pair.ones.shape[1] == 1 else y.shape[1]
    planes = p.emit.new_size((o.shape[0], channels))
    landed = p.build.reshape(spread(o, planes), (o.shape[0], channels, *image))
    count = valid_taps(p, grid, window, tuple(image), adjoint=True)
    ones = p.build.scale(landed, p.emit.op("Reciprocal", p.emit.op("Max", count, 1.0), shape=count.shape))
    if count.value is None or not count.value.all():
        everywhere = p.build.reshape(p.build.mean(o, range(1, o.rank)), (o.shape[0], 1, *[1] * n))
        ones = p.build.add([ones, p.build.select(everywhere, p.emit.op("Equal", count, 0.0), ones.shape)], ones.shape)
    return Pair(value, ones)
