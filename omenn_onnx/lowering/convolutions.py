"""Conv, its adjoint, and sums over windows.

Stride 1: the adjoint is a convolution with the flipped, transposed kernel (ONNX Runtime's Conv is 1.5 to 40 times
faster than its ConvTranspose, most on depthwise shapes). Stride 2: several such (:mod:`.strided`). Else ConvTranspose,
whose output_padding restores the size; where the size is only known at run time the output is made as large as it can
be and cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Window
from omenn_onnx.lowering.base import MERGED, Lowered, Lowering, lowers
from omenn_onnx.lowering.kernels import convolve, flip
from omenn_onnx.lowering.strided import strided_adjoint

_WIDE = 7
"""Windows from this size on are summed along one axis after the other."""


@lowers(lp.Conv)
def conv(low: Lowering, p: lp.Conv, e: Equation) -> Lowered:
    x, shape = e.inputs[0], e.out.shape
    tensor = low.full(x)
    batch: Dim = x.shape[0]
    if low.lead is not None:
        tensor = low.reshape(tensor, low.dims(x.shape), (MERGED, *x.shape[1:]))
        batch = MERGED
    if p.adjoint:
        y = conv_adjoint(low, tensor, p.weight, p.window, p.group, (batch, *x.shape[1:]), (batch, *shape[1:]))
    else:
        w = p.window
        y = convolve(low, tensor, p.weight, w.pads, p.group, (batch, *shape[1:]), w.strides, w.dilations)
    if low.lead is not None:
        y = low.reshape(y, (batch, *shape[1:]), low.dims(shape))
    return Lowered(y, shape)


def conv_adjoint(
    low: Lowering, y: Tensor, weight: Tensor, window: Window, group: int, source: Shape, target: Shape
) -> Tensor:
    """The transpose of a convolution: from sizes ``source`` (of its output) to ``target`` (of its input)."""
    n = len(window.kernel)
    reach = window.spans
    flipped_pads = tuple(reach[i % n] - 1 - p for i, p in enumerate(window.pads))
    if all(s == 1 for s in window.strides) and min(flipped_pads) >= 0:
        kernel = flip(low, weight, group)
        return convolve(low, y, kernel, flipped_pads, group, target, dilations=window.dilations)
    strided = strided_adjoint(low, y, weight, window, group, source, target)
    if strided is not None:
        return strided
    attrs: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "group": group,
    }
    sizes = list(zip(source[2:], target[2:], strict=True))
    if all(isinstance(a, int) and isinstance(b, int) for a, b in sizes):
        extra = []
        for i, (a, b) in enumerate(sizes):
            assert isinstance(a, int)
            assert isinstance(b, int)
            extra.append(b - ((a - 1) * window.strides[i] + reach[i] - window.pads[i] - window.pads[i + n]))
        if all(0 <= o < max(s, d) for o, s, d in zip(extra, window.strides, window.dilations, strict=True)):
            return low.emit.op(
                "ConvTranspose", y, weight, pads=list(window.pads), output_padding=extra, shape=target, **attrs
            )
    # Uncropped transpose, then the box of the target's size that begins behind the padding; unreached places are zero.
    full = low.emit.op("ConvTranspose", y, weight, pads=[0] * (2 * n), **attrs)
    begin = low.emit.const(np.asarray(window.pads[:n], np.int64))
    end = low.emit.op("Add", low.emit.shape(target[2:]), begin, shape=(n,))
    axes = list(range(2, n + 2))
    reached = low.emit.op("Shape", full, start=2, end=n + 2, shape=(n,))
    missing = low.emit.op("Max", low.emit.op("Sub", end, reached, shape=(n,)), np.asarray([0], np.int64), shape=(n,))
    pads = low.emit.op("Concat", np.zeros(n + 4, np.int64), missing, axis=0)
    grown = low.emit.op("Pad", full, pads, 0.0, mode="constant")
    return low.emit.op("Slice", grown, begin, end, axes, shape=target)


@lowers(lp.WindowSum)
def window_sum(low: Lowering, p: lp.WindowSum, e: Equation) -> Lowered:
    """A convolution with an all-ones kernel on every plane by itself, planes in the batch."""
    x, shape = e.inputs[0], e.out.shape
    n = len(p.window.kernel)
    front = x.rank - n
    dims = low[x].dims
    tensor = low.full(x, range(front, x.rank))
    single = front == 2 and dims[1] == 1 and low.lead is None
    planes: Shape = (dims[0] if single else MERGED, 1, *x.shape[front:])
    flat = low.reshape(tensor, low.dims((*dims[:front], *x.shape[front:])), planes)
    target: Shape = (*planes[:2], *shape[front:])
    kernel = low.emit.const(np.ones((1, 1, *p.window.kernel), low.emit.dtype))
    if min(p.window.kernel) >= _WIDE and set(p.window.strides) == {1}:
        y = _one_axis_at_a_time(low, flat, p, planes, target)
    elif p.adjoint:
        y = conv_adjoint(low, flat, kernel, p.window, 1, planes, target)
    else:
        y = _window_sums(low, flat, kernel, p.window, x.shape[front:], target)
    out = (*dims[:front], *shape[front:])
    return Lowered(low.reshape(y, target, low.dims(out)), out)


def _one_axis_at_a_time(low: Lowering, x: Tensor, p: lp.WindowSum, source: Shape, target: Shape) -> Tensor:
    """Sums over a wide window as sums along one axis, then the other: 2 k taps instead of k^2 (microseconds at batch 1
    and 8: 7x7 at 56 35 -> 17, 139 -> 116; 7x7 at 28 14 -> 9, 45 -> 32; but 5x5 at 56 20 -> 17, 80 -> 101)."""
    w, n = p.window, len(p.window.kernel)
    for i in range(n):
        only = Window(*(tuple(v if j % n == i else rest for j, v in enumerate(values)) for values, rest in (
            (w.kernel, 1), (w.strides, 1), (w.pads, 0), (w.dilations, 1))))  # fmt: skip
        kernel = low.emit.const(np.ones((1, 1, *only.kernel), low.emit.dtype))
        after = tuple(target[j] if j == i + 2 else d for j, d in enumerate(source))
        x = (
            conv_adjoint(low, x, kernel, only, 1, source, after)
            if p.adjoint
            else _window_sums(low, x, kernel, only, source[2:], after)
        )
        source = after
    return x


def _window_sums(low: Lowering, x: Tensor, kernel: Tensor, window: Window, source: Shape, target: Shape) -> Tensor:
    """Sums over as many windows as ``target`` has: of a pooling in ceil_mode the last ones reach behind the padding."""
    n = len(window.kernel)
    ends = []
    for i, (a, b) in enumerate(zip(source, target[2:], strict=True)):
        end = window.pads[i + n]
        if isinstance(a, int) and isinstance(b, int):
            end = max(end, (b - 1) * window.strides[i] + window.spans[i] - a - window.pads[i])
        else:
            end += window.strides[i] - 1
        ends.append(end)
    pads = (*window.pads[:n], *ends)
    y = convolve(low, x, kernel, pads, 1, target, window.strides, window.dilations)
    unsure = [i + 2 for i in range(n) if isinstance(target[i + 2], str) and window.strides[i] > 1]
    if not unsure:
        return y
    sizes = low.emit.shape([target[i] for i in unsure])
    return low.emit.op("Slice", y, [0] * len(unsure), sizes, unsure, shape=target)
