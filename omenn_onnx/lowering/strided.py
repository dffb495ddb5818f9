"""Adjoints of convolutions with stride 2, and of stems with more, by convolutions of stride 1, which ONNX Runtime's CPU
provider runs in its blocked layout on all threads.

x_2i+a = sum_k w_k y_j over 2j + k - p = 2i + a: a tap k reaches the positions of one parity a only. So either y with
zeros in between is convolved with the flipped kernel, or each parity of x is a convolution of y with every second tap.
Rows and columns meet in the channels-last order, where they are whole blocks of memory; a convolution that reads from
there goes straight back into the blocked layout. Milliseconds against ConvTranspose with layout changes and the layers
around (1.32, 2 threads, batch 1 and 8):

    depthwise, zeros in between    3x3 96@56->112 1.47 -> .69, 19.9 -> 15.9; 5x5 144@28->56 1.36 -> .37, 11.7 -> 6.3;
                                   7x7 96@28->56 1.40 -> .28, 11.7 -> 3.6; 3x3 576@7->14 .29 -> .16, 2.2 -> 1.0
    four convolutions, one each    3x3 128@28->56 1.61 -> 1.37, 45 -> 37; 512@7->14 1.53 -> 1.23, 48 -> 30; group 32
    pair of parities               256@28->56 2.12 -> 1.77; 5x5 64@28->56 1.29 -> .54, 7.5 -> 4.2;
                                   3x3 to 16@112 .59 -> .34, 4.0 -> 2.9, but to 8@112 .36 -> .48, 3.2 -> 4.6
    1x1, zeros behind it           256@28->56 1.24 -> 1.20, 15.1 -> 14.2; 1024@7->14 1.08 -> .95, 9.0 -> 8.0
    one for all, DepthToSpace      7x7 64@112 -> 3@224 1.66 -> 1.57, 16.1 -> 16.6 (inside ResNet-50 1.36 -> 1.22);
                                   ones 1@112 -> 1@224 .26 -> .17, 2.0 -> .9; but 3x3 32@112 -> 3@224 .31 -> .39;
                                   stride 4: 11x11 64@55 -> 3@224 .87 -> .45, 7.6 -> 6.7

Not faster than ConvTranspose: a kernel as wide as its stride, as 1x1 convolutions or a matrix product (2x2 to 96@56
.77 -> .75, 4x4 to 3@224 .28 -> .34, 16x16 1.18 -> 1.08).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear.program import Window
from omenn_onnx.lowering.base import MERGED, Lowering
from omenn_onnx.lowering.kernels import convolve, every, flip, taken

_BLOCK = 16
"""Channels of a block of the layout: the four convolutions pay from there on, one for all of them if it fits."""
_WIDE = 5
"""Taps from which on one convolution for all parities pays."""
_MORE = 1.5
"""So many times the work of the transpose, one convolution for all phases of a larger stride still pays."""


def strided_adjoint(
    low: Lowering, y: Tensor, weight: Tensor, window: Window, group: int, source: Shape, target: Shape
) -> Tensor | None:
    """The transpose of a strided convolution; None for what is left to ConvTranspose."""
    if low.provider != "cpu" or low.emit.dtype != np.dtype(np.float32):  # (only there is a blocked layout)
        return None
    sizes = [d for d in (*source[1:], *target[1:], *(weight.shape or ())) if isinstance(d, int)]
    if len(window.strides) != 2 or len(set(window.strides)) != 1 or len(sizes) < 10:
        return None
    m, c = sizes[0], sizes[3]
    if window.strides[0] > 2:
        fits = group == 1 and window.dilations == (1, 1) and _stem(window, c)
        return _at_once(low, y, weight, window, source, target) if fits else None
    if window.strides != (2, 2):
        return None
    if group == m == c > 1:
        return _depthwise(low, y, weight, window, source, target)
    if window.dilations != (1, 1):
        return None
    if group == 1 and 4 * c <= _BLOCK and min(window.kernel) >= _WIDE:
        return _at_once(low, y, weight, window, source, target)
    if c < _BLOCK:
        return None
    if window.kernel == (1, 1):
        return _pointwise(low, y, weight, window, group, source, target)
    return _by_parity(low, y, weight, window, group, source, target) if min(window.kernel) > 2 else None


def _stem(window: Window, c: int) -> bool:
    """Whether one convolution for all phases has about the work of the transpose, in blocks of channels that are full:
    a few channels and a kernel of at least two strides."""
    s = window.strides[0]
    phases = -(-s * s * c // _BLOCK) * _BLOCK
    taps = [-(-k // s) for k in window.kernel]
    return min(window.kernel) >= 2 * s and phases * taps[0] * taps[1] <= _MORE * c * window.kernel[0] * window.kernel[1]


def _depthwise(low: Lowering, y: Tensor, weight: Tensor, window: Window, source: Shape, target: Shape) -> Tensor | None:
    """x = w~ * z with z_2j = y_j and zeros in between."""
    begin = [n - 1 - p for n, p in zip(window.spans, window.pads, strict=False)]
    end = [b + p - 2 * a for a, b, p in zip(_sizes(source), _sizes(target), window.pads, strict=False)]
    if min(*begin, *end) < 0:
        return None
    z = _to_channels_first(low, _spread(low, y, source))
    c = _channels(source)
    return convolve(low, z, flip(low, weight, c), begin + end, c, target, dilations=window.dilations)


def _pointwise(
    low: Lowering, y: Tensor, weight: Tensor, window: Window, group: int, source: Shape, target: Shape
) -> Tensor | None:
    """x_2i = w y_i, zeros in between."""
    if any(window.pads) or any(b > 2 * a for a, b in zip(_sizes(source), _sizes(target), strict=True)):
        return None
    middle: Shape = (source[0], target[1], *source[2:])
    z = _spread(low, convolve(low, y, flip(low, weight, group), [0] * 4, group, middle), middle)
    return _into_blocks(low, z, target)


def _by_parity(
    low: Lowering, y: Tensor, weight: Tensor, window: Window, group: int, source: Shape, target: Shape
) -> Tensor | None:
    """For each pair of parities a convolution."""
    parts = _parities(low, weight, window, group, source, target)
    if parts is None:
        return None
    shape: Shape = (*target[:2], *_parts(target, 2))
    return interleaved(low, [convolve(low, y, k, pads, group, shape) for k, pads in parts], target)


def _at_once(low: Lowering, y: Tensor, weight: Tensor, window: Window, source: Shape, target: Shape) -> Tensor | None:
    """One convolution with all kernels, padded to one size, as output channels. With larger strides it begins at
    -(padding mod stride), so that all phases read the same places; that much is cut off again (stride 2: no gain)."""
    c, s = _channels(target), window.strides[0]
    shift = [p % s if s > 2 else 0 for p in window.pads[:2]]
    wide = (*target[:2], *(n + q for n, q in zip(_sizes(target), shift, strict=True)))
    begins = tuple(p - q for p, q in zip(window.pads, shift, strict=False))
    parts = _parities(low, weight, replace(window, pads=(*begins, *window.pads[2:])), 1, source, wide)
    if parts is None:
        return None
    h, w = _parts(wide, s)
    widest = [max(side) for side in zip(*(pads for _, pads in parts), strict=True)]
    size = [a + widest[i] + widest[i + 2] + 1 - b for i, (a, b) in enumerate(zip(_sizes(source), (h, w), strict=True))]
    kernels = []
    for k, pads in parts:
        top, left, bottom, right = (a - b for a, b in zip(widest, pads, strict=True))
        around, shape = [0, 0, top, left, 0, 0, bottom, right], (c, source[1], *size)
        kernels.append(low.emit.op("Pad", k, around, 0.0, mode="constant", shape=shape))
    kernel = low.emit.op("Concat", *kernels, axis=0, shape=(s * s * c, source[1], *size))
    z = convolve(low, y, kernel, widest, 1, (target[0], s * s * c, h, w))
    z = low.emit.op("DepthToSpace", z, blocksize=s, mode="DCR", shape=(target[0], c, s * h, s * w))
    end = _sizes(wide)
    return z if not any(shift) and end == [s * h, s * w] else low.emit.op("Slice", z, shift, end, [2, 3], shape=target)


def _parities(
    low: Lowering, weight: Tensor, window: Window, group: int, source: Shape, target: Shape
) -> list[tuple[Tensor, list[int]]] | None:
    """x_si+a = sum_m w_t+sm y_i+o-m with a + p = t + s o, 0 <= t < s, for stride s: the kernel of each pair of phases
    and its padding. None where the padding would be negative."""
    s = window.strides[0]
    axes: list[list[tuple[int, int, int]]] = []  # for each phase: the first tap of the reversed kernel, pads
    for k, p, n, given in zip(window.kernel, window.pads, _parts(target, s), _sizes(source), strict=False):
        pairs = [divmod(a + p, s) for a in range(s)]
        axes.append([((k - 1 - t) % s, (k - t - 1) // s - o, n + o - given) for o, t in pairs])
    if min(pad for axis in axes for _, *pads in axis for pad in pads) < 0:
        return None
    turned = flip(low, weight, group)
    return [
        (every(low, s, turned, (top, first)), [above, left, below, right])
        for top, above, below in axes[0]
        for first, left, right in axes[1]
    ]


def interleaved(low: Lowering, phases: Sequence[Tensor], target: Shape) -> Tensor:
    """x_2i+a,2j+b = phases[2a + b]_ij, cut to sizes ``target``."""
    c, (h, w) = _channels(target), _parts(target, 2)
    rows = []
    for pair in (phases[:2], phases[2:]):
        row = low.emit.op("Concat", *pair, axis=1, shape=(target[0], 2 * c, h, w))
        row = low.emit.op("Transpose", row, perm=[0, 2, 3, 1], shape=(target[0], h, w, 2 * c))
        rows.append(low.emit.op("Reshape", row, [-1, h, 2 * w * c], shape=(target[0], h, 2 * w * c)))
    z = low.emit.op("Concat", *rows, axis=2, shape=(target[0], h, 4 * w * c))
    z = low.emit.op("Reshape", z, [-1, 2 * h, 2 * w, c], shape=(target[0], 2 * h, 2 * w, c))
    return _into_blocks(low, z, target)


def _spread(low: Lowering, y: Tensor, shape: Shape) -> Tensor:
    """[N, C, h, w] -> [N, 2h, 2w, C] with zeros behind every element and every row: one padding of [N h, w, C] to
    [N h, 2w, 2C], of which the first w entries are a row and the others the zeros below it."""
    c, (h, w) = _channels(shape), _sizes(shape)
    z = low.emit.op("Transpose", y, perm=[0, 2, 3, 1], shape=(shape[0], h, w, c))
    z = low.emit.op("Reshape", z, [-1, w, c], shape=(MERGED, w, c))
    z = low.emit.op("Pad", z, [0, 0, 0, 0, w, c], 0.0, mode="constant", shape=(MERGED, 2 * w, 2 * c))
    return low.emit.op("Reshape", z, [-1, 2 * h, 2 * w, c], shape=(shape[0], 2 * h, 2 * w, c))


def _into_blocks(low: Lowering, z: Tensor, target: Shape) -> Tensor:
    """[N, 2h, 2w, C] -> [N, C, H, W], cut to size, through the identity as a convolution: it enters the layout."""
    sizes = _sizes(target)
    assert z.shape is not None
    if list(z.shape[1:3]) != sizes:
        z = low.emit.op("Slice", z, [0, 0], sizes, [1, 2], shape=(target[0], *sizes, z.shape[3]))
    return taken(low, _to_channels_first(low, z))


def _to_channels_first(low: Lowering, z: Tensor) -> Tensor:
    assert z.shape is not None
    n, h, w, c = z.shape
    return low.emit.op("Transpose", z, perm=[0, 3, 1, 2], shape=(n, c, h, w))


def _channels(shape: Shape) -> int:
    assert isinstance(shape[1], int)
    return shape[1]


def _sizes(shape: Shape) -> list[int]:
    return [d for d in shape[2:] if isinstance(d, int)]


def _parts(shape: Shape, stride: int) -> list[int]:
    return [-(-n // stride) for n in _sizes(shape)]
