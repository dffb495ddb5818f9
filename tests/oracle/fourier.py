"""CumSum, Fourier transforms, Col2Im: sums over prefixes, axes and overlapping blocks."""

from __future__ import annotations

import itertools

import numpy as np

from .stream import Array, Node, Tensor, linear, move, rule


@rule("CumSum")
def cum_sum(n: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Prefix sums; ones: the mean over the prefix (an empty prefix: over the whole axis, as of an empty window)."""
    a = int(np.ravel(axis.value)[0]) % x.ndim
    size = x.shape[a]
    prefix = np.tril(np.ones((size, size)), -1 if n.attrs.get("exclusive", 0) else 0)
    if n.attrs.get("reverse", 0):
        prefix = prefix[::-1, ::-1]
    count = prefix.sum(axis=1, keepdims=True)
    mean = np.where(count == 0, 1 / size, prefix / np.maximum(count, 1))

    def along(s: Array, matrix: Array) -> Array:
        return np.moveaxis(np.tensordot(matrix, s, axes=(1, a)), 0, a)

    return linear(x, lambda s: along(s, prefix), lambda o: along(o, mean))


def _rotation(out: int, size: int, length: int, inverse: bool) -> Array:
    """exp(-+ 2 pi i k t / length), over length for the inverse: complex [out, size]."""
    angle = 2 * np.pi * np.outer(np.arange(out), np.arange(size)) / length
    return np.exp(1j * angle) / length if inverse else np.exp(-1j * angle)


def _complex_matrix(turn: Array, parts_in: int, parts_out: int = 2) -> Array:
    """Real form [out, part_out, in, part_in] of a complex matrix; a real input has one part."""
    real, imaginary = turn.real, turn.imag
    matrix = np.zeros((turn.shape[0], 2, turn.shape[1], 2))
    matrix[:, 0, :, 0], matrix[:, 0, :, 1] = real, -imaginary
    matrix[:, 1, :, 0], matrix[:, 1, :, 1] = imaginary, real
    return matrix[:, :parts_out, :, :parts_in]


def _transform(s: Array, axis: int, matrix: Array) -> Array:
    """Contract ``axis`` and the parts axis (the last before the columns) with [out, part, in, part]."""
    s = np.moveaxis(s, axis, -3)  # [..., in, part, columns]
    out = np.einsum("fpgq,...gqk->...fpk", matrix, s)
    return np.moveaxis(out, -3, axis)


@rule("DFT")
def dft(n: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """A contraction over the axis and over real and imaginary parts; ones: the mean over both (entries used)."""
    a = int(np.ravel(axis.value)[0]) if axis is not None else n.attrs.get("axis", 1 if n.opset < 20 else -2)
    a %= x.ndim
    size, inverse, onesided = x.shape[a], bool(n.attrs.get("inverse", 0)), bool(n.attrs.get("onesided", 0))
    total = int(np.ravel(length.value)[0]) if length is not None else size
    if onesided and inverse:
        if length is None:
            total = 2 * (size - 1)
        used = min(size, total // 2 + 1)
        turn = _rotation(total, used, total, True)
        double = np.ones(used)
        double[1 : (total + 1) // 2] = 2  # conjugate symmetry: all but the ends count twice
        matrix = _complex_matrix(turn * double, x.shape[-1], 1)
    else:
        used = min(size, total)
        turn = _rotation(total // 2 + 1 if onesided else total, used, total, inverse)
        matrix = _complex_matrix(turn, x.shape[-1])
    mean = np.full(matrix.shape, 1 / (used * x.shape[-1]))

    def cut(s: Array) -> Array:
        return np.take(s, np.arange(used), axis=a)

    return linear(x, lambda s: _transform(cut(s), a, matrix), lambda o: _transform(cut(o), a, mean))


@rule("STFT")
def stft(n: Node, x: Tensor, step: Tensor, window: Tensor | None = None, frame_length: Tensor | None = None) -> Tensor:
    """Frames of the signal [batch, time, parts], windowed, each transformed; ones: the mean over frame and parts."""
    if window is not None and window.is_carrier:
        raise n.refuse("the window is a carrier")
    if x.ndim == 2:  # a real signal without its axis of parts, which ONNX Runtime takes
        x = move(x, lambda i: i[..., None])
    hop = int(np.ravel(step.value)[0])
    length = int(np.ravel(frame_length.value)[0]) if frame_length is not None else window.shape[0]
    taper = np.ones(length) if window is None else window.value
    onesided = bool(n.attrs.get("onesided", 1))
    turn = _rotation(length // 2 + 1 if onesided else length, length, length, False) * taper
    matrix = _complex_matrix(turn, x.shape[-1])
    mean = np.full(matrix.shape, 1 / (length * x.shape[-1]))
    frames = (x.shape[1] - length) // hop + 1
    index = np.arange(frames)[:, None] * hop + np.arange(length)

    def framed(s: Array, weights: Array) -> Array:
        return _transform(s[:, index], 2, weights)  # [batch, frame, time in frame, part, columns]

    return linear(x, lambda s: framed(s, matrix), lambda o: framed(o, mean))


@rule("Col2Im")
def col2im(n: Node, x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """[N, C * block, L] -> [N, C, *image], overlapping blocks add up; ones: the mean of the taps that land on a place
    (none: the mean over all taps of the channel)."""
    image = [int(v) for v in image_shape.value]
    block = [int(v) for v in block_shape.value]
    rank = len(image)
    dilations, strides = n.attrs.get("dilations", [1] * rank), n.attrs.get("strides", [1] * rank)
    pads = n.attrs.get("pads", [0] * (2 * rank))
    steps = [
        (image[a] + pads[a] + pads[a + rank] - (block[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a in range(rank)
    ]
    taps, channels = int(np.prod(block)), x.shape[1] // int(np.prod(block))

    def land(s: Array) -> tuple[Array, Array]:
        split = s.reshape(s.shape[0], channels, taps, x.shape[2], s.shape[-1])
        out, count = np.zeros((s.shape[0], channels, *image, s.shape[-1])), np.zeros(image)
        for t, tap in enumerate(itertools.product(*(range(b) for b in block))):
            for column, step in enumerate(itertools.product(*(range(c) for c in steps))):
                place = tuple(step[a] * strides[a] + tap[a] * dilations[a] - pads[a] for a in range(rank))
                if all(0 <= p < size for p, size in zip(place, image, strict=True)):
                    out[(slice(None), slice(None), *place)] += split[:, :, t, column]
                    count[place] += 1
        return out, count[..., None]

    def mean(o: Array) -> Array:
        total, count = land(o)
        everything = o.reshape(o.shape[0], channels, taps * x.shape[2], o.shape[-1]).mean(axis=2)
        everything = everything.reshape(o.shape[0], channels, *(1,) * rank, o.shape[-1])
        return np.where(count == 0, everything, total / np.maximum(count, 1))

    return linear(x, lambda s: land(s)[0], mean)
