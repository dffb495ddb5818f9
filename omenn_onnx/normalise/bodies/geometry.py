"""Operators that read or write at computed places: DeformConv, RoiAlign, MaxUnpool, TensorScatter; CumProd; what is
refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from omenn_onnx.graph.ir import Shape
from omenn_onnx.normalise.bodies.base import Body, body, refuse

refuse(
    "Det",
    domain="",
    why="a determinant is a polynomial of the degree of its matrix, and has no linear form by elements",
)
refuse("MaxRoiPool", domain="", why="the sizes of its bins are known only at run time: use RoiAlign")
refuse("BitCast", domain="", why="the bits of a number are no linear image of it: convert it with Cast")


refuse(
    "Adagrad",
    "Adam",
    "Gradient",
    "Momentum",
    domain="ai.onnx.preview.training",
    why="it is a step of training: export the model for inference",
)


def static(b: Body, shape: Shape | None, what: str) -> list[int]:
    """Sizes that must be known."""
    sizes = [d for d in shape or ["?"] if isinstance(d, int)]
    if shape is None or len(sizes) != len(shape):
        raise b.refuse(f"the size of its {what} must be known at compile time")
    return sizes


@body("DeformConv", domain="")
def deform_conv(b: Body) -> None:
    """Taps read by GridSample at their places plus offset, times the mask, then one product with the filter."""
    channels, *size = static(b, b.shape(0)[1:], "input")
    outer, inner, *taps = static(b, b.shape(1), "filter")
    if len(size) != 2:
        raise b.refuse("it has other than two spatial axes")
    places = static(b, b.shape(2)[2:], "output")
    strides, dilations = b.attr("strides", [1, 1]), b.attr("dilations", [1, 1])
    pads = b.attr("pads", [0, 0, 0, 0])
    groups, apart = int(b.attr("group", 1)), int(b.attr("offset_group", 1))
    count = taps[0] * taps[1]
    offset = b.op("Reshape", b.operand(2), [-1, count, 2, *places])
    offset = b.op("Transpose", offset, perm=[0, 1, 3, 4, 2])  # [rows, taps, y, x, (dy, dx)]
    centre = np.zeros((1, count, *places, 2), np.float32)
    for i in range(2):
        first = np.arange(places[i]) * strides[i] - pads[i]
        shift = np.arange(taps[i]) * dilations[i]
        along = first.reshape([-1, 1] if i == 0 else [1, -1])
        steps = np.repeat(shift, taps[1]) if i == 0 else np.tile(shift, taps[0])
        centre[0, ..., i] = along[None] + steps[:, None, None]
    place = b.op("Add", offset, centre.astype(b.dtype))
    wide = np.asarray([2.0 / n for n in size], b.dtype), np.asarray([1.0 / n - 1.0 for n in size], b.dtype)
    grid = b.op("Add", b.op("Mul", place, wide[0]), wide[1])
    grid = b.op("Gather", grid, [1, 0], axis=-1)  # x first
    grid = b.op("Reshape", grid, [-1, count * places[0], places[1], 2])
    x = b.op("Reshape", b.operand(0), [-1, channels // apart, *size])
    read = b.op("GridSample", x, grid, mode="linear", padding_mode="zeros", align_corners=0)
    read = b.op("Reshape", read, [-1, channels // apart, count, *places])
    if b.operand(4) is not None:
        read = b.op("Mul", read, b.op("Reshape", b.operand(4), [-1, 1, count, *places]))
    columns = b.op("Reshape", read, [-1, groups, inner * count, places[0] * places[1]])
    weight = b.op("Reshape", b.operand(1), [1, groups, outer // groups, inner * count])
    y = b.op("Reshape", b.op("MatMul", weight, columns), [-1, outer, *places])
    if b.operand(3) is not None:
        y = b.op("Add", y, b.op("Reshape", b.operand(3), [1, -1, 1, 1]))
    b.give(0, y)


@body("RoiAlign", domain="")
def roi_align(b: Body) -> None:
    """A_y X A_x' for each box, with the mean over its samples of their interpolation weights along each axis."""
    if b.attr("mode", "avg") != "avg":
        raise b.refuse("the maximum of its mode 'max' is over weighted neighbours, which is not an interpolation")
    size = static(b, b.shape(0)[2:], "input")
    scale = float(b.attr("spatial_scale", 1.0))
    half = b.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    ratio = int(b.attr("sampling_ratio", 0))
    corners = b.op("Mul", b.operand(1), scale)
    corners = b.op("Sub", corners, 0.5) if half else corners
    boxes = b.op("Gather", b.operand(0), b.operand(2), axis=0)
    matrices = []
    for i, n in enumerate((int(b.attr("output_height", 1)), int(b.attr("output_width", 1)))):
        first, last = (b.op("Gather", corners, [k], axis=1) for k in (1 - i, 3 - i))  # [boxes, 1]
        length = b.op("Sub", last, first)
        length = length if half else b.op("Max", length, 1.0)
        matrices.append(_samples(b, first, length, n, size[i], ratio))
    down = b.op("MatMul", matrices[0], boxes)
    b.give(0, b.op("MatMul", down, b.op("Transpose", matrices[1], perm=[0, 1, 3, 2])))


def _samples(b: Body, first: str, length: str, bins: int, size: int, ratio: int) -> str:
    """[boxes, 1, bins, size]: along one axis, the weights of each bin, which starts at ``first``."""
    step = b.op("Div", length, float(bins))
    if ratio > 0:
        number = b.op("Add", b.op("Mul", first, 0.0), float(ratio))
        line = b.op("Cast", np.arange(ratio), to=_code(b))
    else:
        number = b.op("Max", b.op("Ceil", step), 1.0)
        most = b.op("Cast", b.op("ReduceMax", number, keepdims=0), to=TensorProto.INT64)
        line = b.op("Cast", b.op("Range", np.asarray(0), most, np.asarray(1)), to=_code(b))
    number, step, first = (b.op("Unsqueeze", t, [2]) for t in (number, step, first))  # [boxes, 1, 1]
    within = b.op("Div", b.op("Add", line, 0.5), number)  # [boxes, 1, samples]
    bin_ = np.arange(bins, dtype=b.dtype).reshape(1, bins, 1)
    place = b.op("Add", first, b.op("Mul", step, b.op("Add", within, bin_)))  # [boxes, bins, samples]
    inside = b.op("And", b.op("GreaterOrEqual", place, -1.0), b.op("LessOrEqual", place, float(size)))
    counts = b.op("And", inside, b.op("Less", line, number))
    kept = b.op("Unsqueeze", b.op("Clip", place, 0.0, float(size - 1)), [3])
    away = b.op("Abs", b.op("Sub", kept, np.arange(size, dtype=b.dtype)))
    near = b.op("Relu", b.op("Sub", 1.0, away))  # [boxes, bins, samples, size]
    shown = b.op("Mul", near, b.op("Cast", b.op("Unsqueeze", counts, [3]), to=_code(b)))
    mean = b.op("Div", b.op("ReduceSum", shown, [2], keepdims=0), number)
    return b.op("Unsqueeze", mean, [1])


def _code(b: Body) -> int:
    return int(
        TensorProto.DOUBLE
        if b.dtype == np.float64
        else TensorProto.FLOAT16
        if b.dtype == np.float16
        else TensorProto.FLOAT
    )


@body("MaxUnpool", domain="")
def max_unpool(b: Body) -> None:
    """x at its places among zeros."""
    y = b.node.outputs[0].shape
    if b.operand(2) is not None and b.tensor(2) is not None:
        raise b.refuse("its places do not refer to the output_shape that it is given")
    planes = b.op("Shape", b.operand(0), end=2)
    shape = b.op("Concat", planes, _list(static(b, None if y is None else y[2:], "output")), axis=0)
    zeros = b.op("Expand", np.zeros(1, b.dtype), b.op("ReduceProd", shape, keepdims=1))
    flat = b.op(
        "ScatterElements", zeros, b.op("Reshape", b.operand(1), [-1]), b.op("Reshape", b.operand(0), [-1]), axis=0
    )
    b.give(0, b.op("Reshape", flat, shape))


def _list(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(values, np.int64)


@body("TensorScatter", domain="")
def tensor_scatter(b: Body) -> None:
    """The update in the cache, in each row from its index on; around the end if it is circular."""
    rank = len(b.shape(0))
    axis = int(b.attr("axis", -2)) % rank
    size = b.op("Shape", b.operand(1))
    length = b.op("Squeeze", b.op("Shape", b.operand(1), start=axis, end=axis + 1), [0])
    line = b.op("Range", np.asarray(0), length, np.asarray(1))
    line = b.op("Reshape", line, _list([-1, *[1] * (rank - 1 - axis)]))
    if b.operand(2) is not None:
        line = b.op("Add", b.op("Reshape", b.operand(2), _list([-1, *[1] * (rank - 1)])), line)
    if b.attr("mode", "linear") == "circular":
        line = b.op("Mod", line, b.op("Shape", b.operand(0), start=axis, end=axis + 1))
    b.give(0, b.op("ScatterElements", b.operand(0), b.op("Expand", line, size), b.operand(1), axis=axis))


@body("AffineGrid", domain="")
def affine_grid(b: Body) -> None:
    """The places (x, y, 1), or (x, y, z, 1), of the output times theta transposed."""
    sizes = [int(n) for n in b.number(1, "size")[2:]]
    aligned = bool(b.attr("align_corners", 0))
    lines = [np.linspace(-1, 1, n) if aligned else (2 * np.arange(n) + 1) / n - 1 for n in sizes]
    axes = np.meshgrid(*lines, indexing="ij")[::-1]  # x is the last axis
    places = np.stack([*axes, np.ones(sizes)], axis=-1).reshape(-1, len(sizes) + 1).astype(b.dtype)
    grid = b.op("MatMul", places, b.op("Transpose", b.operand(0), perm=[0, 2, 1]))
    b.give(0, b.op("Reshape", grid, [-1, *sizes, len(sizes)]))


_MOST_FACTORS = 64


@body("CumProd", domain="")
def running_product(b: Body) -> None:
    """y_i is the product of x_1, ..., x_i; without x_i, and 1 at first, if it is exclusive."""
    shape = b.shape(0)
    axis = int(b.number(1, "axis").reshape(-1)[0]) % len(shape)
    count = shape[axis]
    if not isinstance(count, int) or count > _MOST_FACTORS:
        raise b.refuse(f"the size of its axis must be known at compile time, and at most {_MOST_FACTORS}")
    exclusive, reverse = bool(b.attr("exclusive", 0)), bool(b.attr("reverse", 0))
    parts = []
    for i in range(count):
        first, last = (i + exclusive, count) if reverse else (0, i + 1 - exclusive)
        if first == last:
            size = b.op("Shape", b.op("Slice", b.operand(0), [0], [1], [axis]))
            parts.append(b.op("Expand", np.ones((), b.dtype), size))
        else:
            factors = b.op("Slice", b.operand(0), [first], [last], [axis])
            parts.append(b.op("ReduceProd", factors, [axis], keepdims=1))
    b.give(0, b.op("Concat", *parts, axis=axis))
