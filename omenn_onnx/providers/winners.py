"""Where a window's maximum lies, by comparing its taps: for providers whose MaxPool gives no Indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.providers.kernels import Attributes

_EXACT = 1 << 24
"""Whole numbers up to here are exact in float32, which every provider compares."""
_FLOAT, _SHORT, _LONG = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)


def winners(e: Emitter, inputs: Sequence[Tensor | None], attrs: Attributes, shape: Shape | None) -> list[Tensor] | None:
    """MaxPool with its Indices. A tap t of a window reads x[o s + t d - p]; of those that equal the maximum the first
    has the smallest offset t d, counted in flat places of the plane; o s - p is where the window begins.

    None where the padding follows from free sizes, or there are more places than float32 (in a plane) or int32 counts.
    """
    (x,) = inputs
    if x is None or x.shape is None or shape is None or x.dtype is None:
        return None
    n = len(attrs["kernel_shape"])
    kernel, strides = list(attrs["kernel_shape"]), list(attrs.get("strides") or [1] * n)
    dilations = list(attrs.get("dilations") or [1] * n)
    sizes, out = x.shape[-n:], shape[-n:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin = _begins(attrs, sizes, out, strides, reach)
    known = [math.prod(d for d in dims if isinstance(d, int)) for dims in (sizes, x.shape)]
    if begin is None or known[0] >= _EXACT or known[1] > np.iinfo(_SHORT).max:
        return None
    lead = len(x.shape) - n
    # Behind the input as much as any window may reach: what is too much is not looked at.
    pads = [*[0] * lead, *begin, *[0] * lead, *(r + s - 2 for r, s in zip(reach, strides, strict=True))]
    padded = e.op("Pad", x, pads, np.asarray(-np.inf, x.dtype), mode="constant") if any(pads) else x
    axes = list(range(lead, lead + n))
    span = e.op("Mul", e.op("Sub", e.shape(out), [1], shape=(n,)), strides, shape=(n,))
    taps = []
    for steps in itertools.product(*map(range, kernel)):
        start = [t * d for t, d in zip(steps, dilations, strict=True)]
        stop = e.op("Add", span, [a + 1 for a in start], shape=(n,))
        taps.append(e.op("Slice", padded, start, stop, axes, strides, shape=shape, dtype=x.dtype))
    best = e.op("Max", *taps, shape=shape, dtype=x.dtype)
    first: Tensor | None = None
    for tap, offset in zip(reversed(taps), reversed(_offsets(e, sizes, kernel, dilations)), strict=True):
        behind = np.asarray(0, _FLOAT) if first is None else first  # (nothing equals a maximum that is NaN)
        first = e.op("Where", e.op("Equal", tap, best), offset, behind, dtype=_FLOAT, shape=shape)
    assert first is not None
    place = e.op("Add", first, _origins(e, sizes, out, strides, begin), shape=shape)
    plane = _product(e, sizes)
    last = e.cast(e.op("Squeeze", e.op("Sub", plane, [1], shape=(1,)), [0], shape=()), _FLOAT)
    place = e.op("Clip", place, np.asarray(0, _FLOAT), last, shape=shape)  # (that then may be one of the padding)
    begins = e.op("Mul", _planes(e, x.shape[:lead], n), e.cast(plane, _SHORT), shape=(*x.shape[:lead], *[1] * n))
    return [best, e.cast(e.op("Add", e.cast(place, _SHORT), begins, shape=shape), _LONG)]


def _begins(
    attrs: Attributes, sizes: Shape, out: Shape, strides: Sequence[int], reach: Sequence[int]
) -> list[int] | None:
    """The padding in front of each axis."""
    auto = attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if not auto.startswith("SAME"):
        return list(attrs.get("pads") or [0] * len(sizes))[: len(sizes)] if auto == "NOTSET" else [0] * len(sizes)
    found = []
    for size, o, s, r in zip(sizes, out, strides, reach, strict=True):
        if not isinstance(size, int) or not isinstance(o, int):
            return None
        found.append((max(0, (o - 1) * s + r - size) + (auto == "SAME_LOWER")) // 2)
    return found


def _product(e: Emitter, dims: Sequence[Dim]) -> Tensor:
    """The product of sizes: [1]."""
    return e.op("ReduceProd", e.shape(dims), keepdims=1, shape=(1,))


def _offsets(e: Emitter, sizes: Shape, kernel: list[int], dilations: list[int]) -> list[Tensor]:
    """How many places behind the window's beginning each tap lies: the sum over the axes of t d, times the places that
    one step along the axis takes."""
    taps = np.asarray(list(itertools.product(*map(range, kernel))), np.int64) * dilations
    n, count = len(sizes), len(taps)
    step = [_product(e, sizes[i + 1 :]) for i in range(n)]
    steps = e.op("Concat", *step, axis=0, shape=(n,), dtype=_LONG)
    total = e.op("ReduceSum", e.op("Mul", taps, steps, shape=(count, n)), [1], keepdims=0, shape=(count,))
    places = e.cast(total, _FLOAT)
    return [e.op("Gather", places, np.asarray(i, np.int64), axis=0, shape=()) for i in range(count)]


def _origins(e: Emitter, sizes: Shape, out: Shape, strides: list[int], begin: list[int]) -> Tensor:
    """The place of the plane where each window begins (before the plane, if it begins in the padding)."""
    zero, one, total = np.asarray(0, np.int64), np.asarray(1, np.int64), None
    for i, (o, s, b) in enumerate(zip(out, strides, begin, strict=True)):
        end = e.op("Squeeze", e.dim(o), [0], shape=())
        line = e.op("Range", zero, end, one, shape=(o,), dtype=_LONG)
        starts = e.op("Sub", e.op("Mul", line, [s], shape=(o,)), [b], shape=(o,))
        places = e.cast(e.op("Mul", starts, _product(e, sizes[i + 1 :]), shape=(o,)), _FLOAT)
        rest = [1] * (len(out) - 1 - i)
        along = e.op("Reshape", places, [-1, *rest], shape=(o, *rest))
        total = along if total is None else e.op("Add", total, along, shape=(*out[: i + 1], *rest))
    assert total is not None
    return total


def _planes(e: Emitter, dims: Shape, n: int) -> Tensor:
    """The number of each plane: [N, C, 1, ...]."""
    count = e.op("Squeeze", _product(e, dims), [0], shape=())
    line = e.op("Range", np.asarray(0, np.int64), count, np.asarray(1, np.int64), dtype=_LONG, shape=("planes",))
    shape: Shape = dims + (1,) * n
    return e.op("Reshape", e.cast(line, _SHORT), e.shape(shape), shape=shape, dtype=_SHORT)
