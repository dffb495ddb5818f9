"""The adjoint of MaxPool, forward and transposed: exact, the first winner on ties.

In general by MaxPool's Indices: Gather, and ScatterElements that adds. Both are slow on ONNX Runtime's CPU provider and
leave its blocked layout. Windows of up to 3x3 with stride 2 are compared tap by tap instead: d_k = 1 where tap k is
below the maximum y, r_k = c d_0 ... d_k-1 is what the first k taps leave of a cotangent c, and r_k - r_k+1 belongs to
tap k. Every step is a convolution with one tap (with Add and HardSigmoid fused into it) or a product, on the small
image; the four parities of the large one meet at the end. Milliseconds with a convolution before and behind (1.32, 2
threads, batch 1 and 8), and in brackets with an upsampling in its place:

    2x2 64@224     15.0 -> 8.3, 157 -> 94 (6.4, 48)
    2x2 256@56      2.9 -> 1.4,  62 -> 55 (1.0, 32)
    3x3 64@112      3.9 -> 2.3,  35 -> 33 (1.1, 14)

Slower: comparing with the maximum on the large image and breaking ties by a code 8, 4, 2, 1 of each window (2x2 64@224
9.1, 128@112 3.4 against 2.8).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.graph.signs import FINITE, NEGATIVE
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.pools import tested
from omenn_onnx.linear.program import Equation, Window
from omenn_onnx.lowering.base import Lowered, Lowering, lowers
from omenn_onnx.lowering.kernels import taken
from omenn_onnx.lowering.strided import interleaved

_FEW = 9
"""Taps up to which comparing one by one pays."""
_LIFT = 1e-30
"""Added to x >= 0, so that the zeros of the padding are below everything."""


@lowers(lp.Winners)
def winners(low: Lowering, p: lp.Winners, e: Equation) -> Lowered:
    x, out = e.inputs[0].shape, e.out.shape
    tensor = low.full(e.inputs[0])
    if p.adjoint and (window := _compared(low, p)) is not None:
        # The zeros of the padding lose against a y > 0 and win nothing where c is zero; x >= 0 is lifted above them.
        made = e.inputs[0].definition
        lift = _padded(p, window) and (made is None or tested(made.primitive) is not p.best)
        if not (lift and low.emit.signs(p.pooled) & NEGATIVE):
            return Lowered(_back_to_winners(low, tensor, p, window, lift, out), out)
    indices = low.emit.ops("MaxPool", 2, p.pooled, shape=p.best.shape, **p.attributes)[1]
    indices.dtype = np.dtype(np.int64)
    flat = low.emit.op("Reshape", indices, [-1])
    source, target = (low.emit.new_size(x),), (low.emit.new_size(out),)
    line = low.reshape(tensor, low.dims(x), low.dims(source))
    if p.adjoint:
        if low.lead is not None:
            flat = low.emit.op("Expand", flat, low.emit.shape(low.dims(source)))
        y = low.emit.scatter_add(flat, line, -1, low.dims(target))
    else:
        y = low.emit.op("Gather", line, flat, axis=0 if low.lead is None else 1, shape=low.dims(target))
    return Lowered(low.reshape(y, low.dims(target), low.dims(out)), out)


def _compared(low: Lowering, p: lp.Winners) -> Window | None:
    """The window, if its taps may be compared one by one."""
    window, float32 = p.window, np.dtype(np.float32)
    if low.provider != "cpu" or low.lead is not None:  # (elsewhere Gather and ScatterElements run on all threads)
        return None
    if {p.pooled.dtype, low.emit.dtype} != {float32} or low.emit.signs(p.pooled) & ~FINITE:
        return None
    if window is None or window.strides != (2, 2) or window.dilations != (1, 1):
        return None
    if min(window.kernel) < 2 or math.prod(window.kernel) > _FEW:
        return None
    static = all(isinstance(d, int) for t in (p.pooled, p.best) for d in (t.shape or ("?", "?"))[1:])
    return window if static else None


def _padded(p: lp.Winners, window: Window) -> bool:
    """Whether a tap may stand outside of x: in front of it, or behind its end (ceil_mode too)."""
    last = [b + (k - 1) - q for b, k, q in zip(_sizes(p.best, 2), window.kernel, window.pads, strict=False)]
    return any(window.pads[:2]) or any(n >= size for n, size in zip(last, _sizes(p.pooled), strict=True))


def _sizes(t: Tensor, stride: int = 0) -> list[int]:
    """Height and width, or where the last window begins."""
    sizes = [d for d in (t.shape or ())[2:] if isinstance(d, int)]
    return [stride * (d - 1) for d in sizes] if stride else sizes


def _back_to_winners(low: Lowering, c: Tensor, p: lp.Winners, window: Window, lift: bool, out: Shape) -> Tensor:
    """x_w += c where w is the first place of a window with x_w = y."""
    emit, x, y = low.emit, p.pooled, p.best
    if lift:
        x, y = taken(low, x, bias=_LIFT), taken(low, y, bias=_LIFT)
    count = _sizes(p.best)
    offsets = [
        (i - window.pads[0], j - window.pads[1]) for i in range(window.kernel[0]) for j in range(window.kernel[1])
    ]
    left = [c]
    for offset in offsets[:-1]:
        gap = emit.op("Add", taken(low, x, offset, 2, count, -1.0), y, shape=y.shape)
        below = emit.op("HardSigmoid", gap, alpha=3e38, beta=0.0, shape=y.shape)  # (1 for every normal gap > 0)
        left.append(emit.op("Mul", left[-1], below, shape=y.shape))
    won = [emit.op("Add", taken(low, b, factor=-1.0), a, shape=y.shape) for a, b in pairwise(left)]
    phases: dict[tuple[int, int], Tensor] = {}
    half = [-(-n // 2) for n in _sizes(p.pooled)]
    shape: Shape = (*out[:2], *half)
    for (i, j), t in zip(reversed(offsets), [left[-1], *reversed(won)], strict=True):
        parity, back = (i % 2, j % 2), (-(i // 2), -(j // 2))
        term = t if back == (0, 0) and half == count else taken(low, t, back, 1, half)
        phases[parity] = emit.op("Add", term, phases[parity], shape=shape) if parity in phases else term
    return interleaved(low, [phases[a, b] for a in (0, 1) for b in (0, 1)], out)
