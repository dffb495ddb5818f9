"""Resize and Col2Im: linear, with weights that do not depend on the carried values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.shape_ops import arange, eye
from omenn_onnx.calculus.windows import valid_taps
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var

_LETTERS = "abcdefghijklmnopqrstuvw"


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
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Pair | None:
    """Interpolation along one axis after the other; ONNX's own Resize, run on an identity matrix, gives each matrix.
    What an interpolation between integers rounds goes to the bias."""
    if X.pair is None:
        return None
    y = p.out(node)
    rounded = mode != "nearest" and not node.outputs[0].is_float
    if rounded and coordinate_transformation_mode == "tf_crop_and_resize":
        raise OutsideCalculus("it crops integers: dequantise in front of it")
    listed = list(range(X.rank)) if axes is None else [int(a) % X.rank for a in axes]
    if coordinate_transformation_mode == "tf_crop_and_resize":
        return _crop(p, node, X, roi, scales, sizes, listed, extrapolation_value)
    together = keep_aspect_ratio_policy != "stretch" and len(listed) > 1 and not _given(scales)
    if together and len(listed) > 3:
        raise OutsideCalculus(f"keep_aspect_ratio_policy {keep_aspect_ratio_policy!r} needs the resized axes named")
    known = scales.value if scales is not None and _given(scales) else None
    value, ones = X.pair.value, X.pair.ones
    for i, a in enumerate(listed):
        if X.shape[a] == y.shape[a] and (known is None or known[i] == 1.0) and not together:
            continue
        factor = None if known is None else float(known[i])
        if _repeats(factor, mode, coordinate_transformation_mode, nearest_mode):
            assert factor is not None
            value = _repeat(p, value, a, int(factor), y.shape[a])
            ones = ones if ones.shape[a] == 1 else _repeat(p, ones, a, int(factor), y.shape[a])
            continue
        if together:
            matrix = _matrix_of_several(p, node, X, y, sizes, listed, i)
        else:
            matrix = _resize_matrix(p, node, X.shape[a], y.shape[a], scales, i)
        value = _mix(p, value, a, matrix, y.shape[a])
        ones = ones if ones.shape[a] == 1 else _mix(p, ones, a, matrix, y.shape[a])
    if rounded:
        operands = (None if o is None else o.t for o in (roi, scales, sizes))
        real = p.emit.op("Resize", X.t, *operands, shape=y.shape, **node.attrs)
        value = p.bias(value, p.emit.op("Sub", y.t, real, shape=y.shape), ones, y.shape)
    return Pair(value, ones, X.pair.rank)


def _given(o: Operand | None) -> bool:
    """Whether an optional vector is there and not empty."""
    return o is not None and (o.value is None or o.value.size > 0) and o.t.shape != (0,)


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


def _resize_matrix(
    p: Calculus, node: Node, size: Dim, out: Dim, scales: Operand | None, i: int, roi: Tensor | None = None
) -> Tensor:
    """[in, out]: row j is what the unit vector j becomes."""
    e = p.emit
    source: Shape = (1, 1, size, size)
    rows = e.op("Reshape", eye(p, size), e.shape(source), shape=source)
    kept = {k: v for k, v in node.attrs.items() if k not in ("axes", "keep_aspect_ratio_policy", "extrapolation_value")}
    if scales is not None and _given(scales):
        one = np.ones(3, np.float32)
        factor = e.op("Gather", e.cast(scales.t, np.dtype(np.float32)), [i], axis=0, shape=(1,))
        wide = e.op("Concat", one, factor, axis=0, shape=(4,))
        resized = e.op("Resize", rows, roi, wide, shape=(1, 1, size, out), **kept)
    else:
        resized = e.op("Resize", rows, roi, None, e.shape((1, 1, size, out)), shape=(1, 1, size, out), **kept)
    return e.op("Reshape", resized, e.shape((size, out)), shape=(size, out))


def _matrix_of_several(
    p: Calculus, node: Node, X: Operand, y: Operand, sizes: Operand | None, listed: list[int], i: int
) -> Tensor:
    """[in, out] along the i-th of several axes that share one scale (keep_aspect_ratio_policy): all are resized, and
    one line along the axis is read off."""
    e, n, a = p.emit, len(listed), listed[i]
    size, out = X.shape[a], y.shape[a]
    thin: Shape = (size, 1, *(X.shape[b] if b == a else 1 for b in listed))
    full: Shape = (size, 1, *(X.shape[b] for b in listed))
    rows = e.op("Expand", e.op("Reshape", eye(p, size), e.shape(thin), shape=thin), e.shape(full), shape=full)
    attrs = {**node.attrs, "axes": list(range(2, n + 2))}
    assert sizes is not None
    resized = e.op("Resize", rows, None, None, sizes.t, shape=(size, 1, *(y.shape[b] for b in listed)), **attrs)
    others = [k + 2 for k in range(n) if k != i]
    line = e.op("Slice", resized, [0] * (n - 1), [1] * (n - 1), others)
    return e.op("Reshape", line, e.shape((size, out)), shape=(size, out))


def _crop(
    p: Calculus,
    node: Node,
    X: Operand,
    roi: Operand | None,
    scales: Operand | None,
    sizes: Operand | None,
    listed: list[int],
    fill: float,
) -> Pair:
    """tf_crop_and_resize: the box ``roi`` of the input; outside of it ``fill`` * o, with the ones of the border."""
    assert X.pair is not None
    e, y, n = p.emit, p.out(node), len(listed)
    if roi is None:
        raise OutsideCalculus("tf_crop_and_resize without a roi")
    value, ones = X.pair.value, X.pair.ones
    inside: Tensor | None = None
    for i, a in enumerate(listed):
        size, out = X.shape[a], y.shape[a]
        first, last = (e.op("Gather", roi.t, [k], axis=0, shape=(1,)) for k in (i, i + n))
        box = e.op("Concat", np.zeros(3, e.dtype), first, np.ones(3, e.dtype), last, axis=0, shape=(8,))
        matrix = _resize_matrix(p, node, size, out, scales, i, e.cast(box, np.dtype(np.float32)))
        covered = e.op("ReduceSum", matrix, [0], keepdims=0, shape=(out,))
        column = e.op("Reshape", covered, [-1, *[1] * (X.rank - 1 - a)], shape=(out, *[1] * (X.rank - 1 - a)))
        inside = column if inside is None else e.op("Mul", inside, column)
        value = _mix(p, value, a, matrix, out)
        if ones.shape[a] != 1:
            ones = _mix(p, ones, a, _with_border(p, matrix, covered, first, last, size, out), out)
    if fill and inside is not None:
        value = p.bias(value, e.op("Mul", e.op("Sub", 1.0, inside), fill), ones, y.shape)
    return Pair(value, ones, X.pair.rank)


def _with_border(
    p: Calculus, matrix: Tensor, covered: Tensor, first: Tensor, last: Tensor, size: Dim, out: Dim
) -> Tensor:
    """The matrix with places outside of the input reading its border: before it its first element, behind it its
    last."""
    e = p.emit
    steps = e.op("Div", e.cast(arange(p, out)), e.op("Max", e.cast(e.op("Sub", e.dim(out), [1], shape=(1,))), 1.0))
    place = e.op("Add", first, e.op("Mul", steps, e.op("Sub", last, first)), shape=(out,))
    if out == 1:
        place = e.op("Mul", e.op("Add", first, last), 0.5)
    before = e.op("Mul", e.op("Sub", 1.0, covered), e.cast(e.op("Less", place, 0.0)))
    behind = e.op("Mul", e.op("Sub", 1.0, covered), e.cast(e.op("GreaterOrEqual", place, 0.0)))
    line = e.op("Unsqueeze", arange(p, size), [1], shape=(size, 1))
    zero = e.cast(e.op("Equal", line, np.asarray(0, np.int64)))
    end = e.cast(e.op("Equal", line, e.op("Sub", e.dim(size), [1], shape=(1,))))
    return e.op("Sum", matrix, e.op("Mul", zero, before), e.op("Mul", end, behind), shape=(size, out))


def _mix(p: Calculus, v: Var, axis: int, matrix: Tensor, size: Dim) -> Var:
    """y[.., o, ..] = sum_i v[.., i, ..] matrix[i, o]."""
    shape = (*v.shape[:axis], size, *v.shape[axis + 1 :])
    if axis == v.rank - 1:
        return p.build.matmul(v, matrix, shape)
    if axis == v.rank - 2:
        flipped = p.emit.op(
            "Transpose", matrix, perm=[1, 0], shape=None if matrix.shape is None else matrix.shape[::-1]
        )
        return p.build.matmul(v, flipped, shape, left=True)
    labels = _LETTERS[: v.rank]
    return p.build.einsum(v, matrix, labels, labels[axis] + "z", labels.replace(labels[axis], "z"), shape)


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
    """Blocks added where they belong: the adjoint of taking them out. Ones: the mean of taps that land on a place."""
    if X.pair is None:
        return None
    y = p.out(node)
    image = [int(d) for d in p.number(image_shape, "image_shape")]
    block = [int(d) for d in p.number(block_shape, "block_shape")]
    n = len(block)
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * (2 * n)
    window = lp.Window(tuple(block), tuple(strides), tuple(pads), tuple(dilations))
    grid = tuple((image[i] + pads[i] + pads[i + n] - window.spans[i]) // strides[i] + 1 for i in range(n))
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
