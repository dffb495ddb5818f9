"""Sliding windows, tap by tap: where each tap of each output position lies in the input, and whether it is inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .stream import Array, Node


@dataclass
class Window:
    size: tuple[int, ...]  # spatial input size, unpadded
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]  # padding before
    end: list[int]  # padding after
    out: tuple[int, ...] = ()

    @property
    def extent(self) -> list[int]:
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[Array, ...], Array, Array]]:
        """For each tap: its index; the input coordinates per axis (clipped to the input) by output position;
        a mask over output positions: inside the input; a mask: inside the padded input."""
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            coordinates, valid, padded = [], np.ones(self.out, bool), np.ones(self.out, bool)
            for a, k in enumerate(tap):
                where = np.arange(self.out[a]) * self.strides[a] + k * self.dilations[a] - self.begin[a]
                shape = [-1 if i == a else 1 for i in range(len(tap))]
                valid &= ((where >= 0) & (where < self.size[a])).reshape(shape)
                padded &= (where < self.size[a] + self.end[a]).reshape(shape)
                coordinates.append(np.clip(where, 0, self.size[a] - 1))
            yield tap, tuple(coordinates), valid, padded


def at(x: Array, coordinates: tuple[Array, ...]) -> Array:
    """x[N, C, *spatial, ...] at a grid of spatial coordinates."""
    return x[(slice(None), slice(None), *np.ix_(*coordinates))]


def window(n: Node, size: Sequence[int], kernel: Sequence[int], ceil_mode: bool = False) -> Window:
    """The window of a convolution or pooling: pads, auto_pad, output size."""
    rank = len(kernel)
    strides = list(n.attrs.get("strides", [1] * rank))
    dilations = list(n.attrs.get("dilations", [1] * rank))
    pads = list(n.attrs.get("pads", [0] * (2 * rank)))
    w = Window(tuple(size), list(kernel), strides, dilations, pads[:rank], pads[rank:])
    auto = n.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        w.begin, w.end = [0] * rank, [0] * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for a in range(rank):
            out = -(-size[a] // strides[a])
            total = max(0, (out - 1) * strides[a] + w.extent[a] - size[a])
            small, large = total // 2, total - total // 2
            w.begin[a], w.end[a] = (small, large) if auto == "SAME_UPPER" else (large, small)
    out = []
    for a in range(rank):
        steps = (size[a] + w.begin[a] + w.end[a] - w.extent[a]) / strides[a]
        count = math.ceil(steps) + 1 if ceil_mode else math.floor(steps) + 1
        if ceil_mode and (count - 1) * strides[a] >= size[a] + w.begin[a]:
            count -= 1  # the last window must start inside the input or its left padding
        out.append(count)
    w.out = tuple(out)
    return w


def mean_of_valid(o: Array, w: Window) -> Array:
    """Per channel: mean over the window's taps inside the input; none: mean over all positions."""
    total, count = np.zeros((*o.shape[:2], *w.out, o.shape[-1])), np.zeros(w.out)
    for _, coordinates, valid, _ in w.taps():
        total += at(o, coordinates) * valid[..., None]
        count += valid
    everywhere = o.mean(axis=tuple(range(2, o.ndim - 1)), keepdims=True)
    empty = (count == 0)[..., None]
    return np.where(empty, everywhere, total / np.where(empty, 1, count[..., None]))
