"""Scale, Select, Add, Broadcast, Sum, Centre."""

from __future__ import annotations

import numpy as np

from omenn_onnx.graph.emit import broadcast_shapes
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.lowering.base import Lowered, Lowering, lowers


def _against(low: Lowering, x: Var, c: Tensor) -> tuple[Tensor, Shape]:
    """x's tensor and the sizes of its product with ``c``; repeated first if these cannot be told."""
    dims = broadcast_shapes([low[x].dims, c.shape])
    if dims is None or len(dims) != x.rank or any(d not in (1, n) for d, n in zip(dims, x.shape, strict=True)):
        return low.full(x), x.shape
    return low[x].tensor, dims


@lowers(lp.Scale)
def scale(low: Lowering, p: lp.Scale, e: Equation) -> Lowered:
    """Where a coefficient is not finite the model's own value is not, or nothing looks at it: it counts as 0."""
    c = low.emit.finite(p.coefficient)
    x, dims = _against(low, e.inputs[0], c)
    return Lowered(low.emit.op("Mul", x, c, shape=low.dims(dims)), dims)


@lowers(lp.Select)
def select(low: Lowering, p: lp.Select, e: Equation) -> Lowered:
    """Where; behind a Relu of images a product with its 0/1 mask, which leaves ONNX Runtime's blocked layout alone."""
    x, dims = _against(low, e.inputs[0], p.mask)
    rectified = _rectified(low, p.mask) if low.provider == "cpu" else None  # (no other provider has that layout)
    if rectified is not None and dims == rectified.shape:
        mask = low.emit.op("HardSigmoid", rectified, alpha=3e38, beta=0.0, shape=rectified.shape)
        return Lowered(low.emit.op("Mul", x, mask, shape=low.dims(dims)), dims)
    if low.lead is not None:  # (a Where that repeats its condition is 20 times as slow as a Mul)
        return Lowered(low.emit.op("Mul", x, low.emit.cast(p.mask), shape=low.dims(dims)), dims)
    return Lowered(low.emit.op("Where", p.mask, x, 0.0, shape=low.dims(dims)), dims)


def _rectified(low: Lowering, mask: Tensor) -> Tensor | None:
    """y if the mask is y > 0 of a Relu y = [N, C, H, W] in float32, or of its MaxPool. (3e38 y is at least 1 for every
    normal y > 0.)"""
    test = mask.producer
    y = test.inputs[0] if test is not None and test.op == "Greater" else None
    maker = None if y is None else y.producer
    if maker is not None and maker.op == "MaxPool":
        maker = None if maker.inputs[0] is None else maker.inputs[0].producer
    if y is None or maker is None or maker.op != "Relu" or y.rank != 4 or y.dtype != np.dtype(np.float32):
        return None
    return y if low.lead is None and low.emit.dtype == np.dtype(np.float32) else None


@lowers(lp.Add)
def add(low: Lowering, p: lp.Add, e: Equation) -> Lowered:
    parts = [low[x] for x in e.inputs]
    total, dims = parts[0].tensor, parts[0].dims
    for part in parts[1:]:
        joined = broadcast_shapes([dims, part.dims])
        if joined is None:
            raise AssertionError(f"terms of one sum have sizes {dims} and {part.dims}")
        dims = joined
        total = low.emit.op("Add", total, part.tensor, shape=low.dims(dims))
    return Lowered(total, dims)


@lowers(lp.Broadcast)
def broadcast(low: Lowering, p: lp.Broadcast, e: Equation) -> Lowered:
    x = e.inputs[0]
    unsure = [i for i, (a, b) in enumerate(zip(x.shape, e.out.shape, strict=True)) if a != b and a != 1]
    if not unsure:
        return low[x]
    source = low.full(x)
    target = low.emit.shape([*([1] if low.lead is not None else []), *e.out.shape])
    return Lowered(low.emit.op("Expand", source, target, shape=low.dims(e.out.shape)), e.out.shape)


@lowers(lp.Sum)
def sum_(low: Lowering, p: lp.Sum, e: Equation) -> Lowered:
    """ReduceSum; a sum of products with one constant vector is one contraction instead."""
    x = e.inputs[0]
    axes = [i for i, (a, b) in enumerate(zip(x.shape, e.out.shape, strict=True)) if a != b]
    if any(e.out.shape[i] != 1 for i in axes):
        return _sum_unsure(low, x, e.out)
    contracted = _vector_contraction(low, x, e.out, axes)
    if contracted is not None:
        return contracted
    dims = list(low[x].dims)
    tensor = low[x].tensor
    summed = [i for i in axes if dims[i] != 1]
    repeated: list[Dim] = [x.shape[i] for i in axes if dims[i] == 1]
    for i in axes:
        dims[i] = 1
    if summed:
        tensor = low.emit.op("ReduceSum", tensor, [i - x.rank for i in summed], keepdims=1, shape=low.dims(tuple(dims)))
    if repeated:
        tensor = low.emit.op("Mul", tensor, low.emit.count(repeated), shape=low.dims(tuple(dims)))
    return Lowered(tensor, tuple(dims))


@lowers(lp.Centre)
def centre(low: Lowering, p: lp.Centre, e: Equation) -> Lowered:
    x = e.inputs[0]
    tensor = low.full(x, p.axes)
    dims = tuple(x.shape[i] if i in p.axes else d for i, d in enumerate(low[x].dims))
    kept = tuple(1 if i in p.axes else d for i, d in enumerate(dims))
    mean = low.emit.op("ReduceMean", tensor, [i - x.rank for i in p.axes], keepdims=1, shape=low.dims(kept))
    return Lowered(low.emit.op("Sub", tensor, mean, shape=low.dims(dims)), dims)


def _sum_unsure(low: Lowering, x: Var, out: Var) -> Lowered:
    """Sizes that only the run tells: sum over the axes along which they differ."""
    differ = low.emit.op("Not", low.emit.op("Equal", low.emit.shape(x.shape), low.emit.shape(out.shape)))
    axes = low.emit.op("Squeeze", low.emit.op("NonZero", differ), [0])
    if low.lead is not None:
        axes = low.emit.op("Add", axes, np.asarray([1], np.int64))
    tensor = low.emit.op("ReduceSum", low.full(x), axes, keepdims=1, noop_with_empty_axes=1, shape=low.dims(out.shape))
    return Lowered(tensor, out.shape)


def vector_along(low: Lowering, x: Var, axis: int) -> tuple[Var, Tensor] | None:
    """(source, b) if x = b * source with a constant vector b along ``axis``."""
    d = x.definition
    if d is None or not isinstance(d.primitive, lp.Scale):
        return None
    vector = low.emit.finite(d.primitive.coefficient)
    size = x.shape[axis]
    if not vector.const or vector.shape is None or not isinstance(size, int) or size == 1:
        return None
    padded = (1,) * (x.rank - len(vector.shape)) + vector.shape
    if len(padded) != x.rank or any(n != (size if i == axis else 1) for i, n in enumerate(padded)):
        return None
    return None if low[d.inputs[0]].dims[axis] == 1 else (d.inputs[0], vector)


def _vector_contraction(low: Lowering, x: Var, out: Var, axes: list[int]) -> Lowered | None:
    """sum_c x_c b_c as a 1x1 convolution (channel axis) or a matrix product (last axis): the bias of most layers."""
    found = vector_along(low, x, axes[0]) if len(axes) == 1 else None
    if found is None:
        return None
    axis, (source, vector) = axes[0], found
    size, dims = x.shape[axis], low[source].dims
    reduced = tuple(1 if i == axis else n for i, n in enumerate(dims))
    if axis == x.rank - 1:
        column = low.emit.op("Reshape", vector, low.emit.shape([size, 1]), shape=(size, 1))
        return Lowered(low.emit.op("MatMul", low[source].tensor, column, shape=low.dims(reduced)), reduced)
    if axis == 1 and x.rank in (3, 4, 5) and low.lead is None:
        sizes = (1, size, *[1] * (x.rank - 2))
        kernel = low.emit.op("Reshape", vector, low.emit.shape(sizes), shape=sizes)
        return Lowered(low.emit.op("Conv", low[source].tensor, kernel, shape=reduced), reduced)
    return None
