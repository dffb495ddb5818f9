"""Convolutions and their kernels, computed from the shared weights: the file does not grow, and the runtime folds them
at load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.lowering.base import Lowering


def convolve(
    low: Lowering,
    x: Tensor,
    kernel: Tensor,
    pads: Sequence[int],
    group: int,
    shape: Shape,
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    bias: Tensor | None = None,
) -> Tensor:
    """Conv of ``x`` to sizes ``shape``."""
    ones = [1] * (len(pads) // 2)
    return low.emit.op(
        "Conv",
        x,
        kernel,
        *([] if bias is None else [bias]),
        kernel_shape=list(kernel.shape[2:]) if kernel.shape else None,
        strides=list(strides or ones),
        pads=list(pads),
        dilations=list(dilations or ones),
        group=group,
        shape=shape,
    )


def flip(low: Lowering, weight: Tensor, group: int) -> Tensor:
    """[M, C/g, k] -> [C, M/g, k], kernel reversed."""
    emit = low.emit
    if weight.shape is None:
        raise AssertionError(f"kernel {weight.name!r} has no known shape")
    m, c = weight.shape[:2]
    spatial = [d for d in weight.shape[2:] if isinstance(d, int)]
    n = len(spatial)
    assert isinstance(m, int)
    assert isinstance(c, int)
    if group == 1:
        turned = emit.op("Transpose", weight, perm=[1, 0, *range(2, n + 2)], shape=(c, m, *spatial))
    elif c == 1 and m == group:
        turned = weight
    else:
        parts = emit.op("Reshape", weight, [group, m // group, c, *spatial], shape=(group, m // group, c, *spatial))
        parts = emit.op("Transpose", parts, perm=[0, 2, 1, *range(3, n + 3)], shape=(group, c, m // group, *spatial))
        turned = emit.op("Reshape", parts, [group * c, m // group, *spatial], shape=(group * c, m // group, *spatial))
    axes = [i + 2 for i, d in enumerate(spatial) if d != 1]
    if not axes:
        return turned
    far = np.iinfo(np.int64).min + 1
    return emit.op("Slice", turned, [-1] * len(axes), [far] * len(axes), axes, [-1] * len(axes), shape=turned.shape)


def every(low: Lowering, step: int, kernel: Tensor, first: Sequence[int]) -> Tensor:
    """Every ``step``-th place of a kernel along each spatial axis, from ``first`` on."""
    assert kernel.shape is not None
    sizes = [d for d in kernel.shape[2:] if isinstance(d, int)]
    shape = (*kernel.shape[:2], *(-(-(k - i) // step) for k, i in zip(sizes, first, strict=True)))
    axes = range(2, len(sizes) + 2)
    return low.emit.op("Slice", kernel, list(first), sizes, list(axes), [step] * len(sizes), shape=shape)


def taken(
    low: Lowering,
    x: Tensor,
    offset: Sequence[int] = (0, 0),
    stride: int = 1,
    count: Sequence[int] | None = None,
    factor: float = 1.0,
    bias: float = 0.0,
) -> Tensor:
    """y_i = factor x_(stride i + offset) + bias for ``count`` places along both axes of an image, x zero outside: as a
    depthwise convolution with one tap, which stays in the blocked layout of ONNX Runtime's CPU provider and takes a
    following Add and activation into itself. x must be finite."""
    assert x.shape is not None
    c, *sizes = [d for d in x.shape[1:] if isinstance(d, int)]
    count = sizes if count is None else count
    place, begin, end, spans = [], [], [], []
    for size, o, n in zip(sizes, offset, count, strict=True):
        place.append(max(o, 0))
        begin.append(max(-o, 0))
        missing = (n - 1) * stride + place[-1] + 1 - begin[-1] - size
        end.append(max(missing, 0))
        spans.append(place[-1] + 1 + max(-missing - (stride - 1), 0))  # (longer where n places are not all there are)
    tap = np.zeros((1, 1, *spans), low.emit.dtype)
    tap[0, 0, place[0], place[1]] = factor
    kernel = low.emit.op("Expand", tap, [c, 1, 1, 1], shape=(c, 1, *spans))
    shift = low.emit.const(np.full(c, bias, low.emit.dtype)) if bias else None
    return convolve(low, x, kernel, begin + end, c, (x.shape[0], c, *count), [stride] * 2, bias=shift)
