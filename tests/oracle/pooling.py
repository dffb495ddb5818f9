"""Windowed pooling. Ones: the mean over the valid window, per channel; none valid: over all spatial positions."""

from __future__ import annotations

import numpy as np

from .reductions import lp_weights
from .stream import Array, Node, Tensor, carrier, constant, linear, rule, times
from .windows import Window, at, mean_of_valid, window


def _window(n: Node, x: Tensor) -> Window:
    return window(n, x.shape[2:], n.attrs["kernel_shape"], bool(n.attrs.get("ceil_mode", 0)))


def _rank(x: Tensor, w: Window) -> int:
    """Windowed pooling keeps the rank; a window that always covers everything is a mean over axes: 0."""
    count = sum(valid.astype(int) for _, _, valid, _ in w.taps())
    return 0 if (count == np.prod(w.size)).all() else x.rank


@rule("AveragePool")
def average_pool(n: Node, x: Tensor) -> Tensor:
    """Divided by the valid taps, or by those inside the padded input (count_include_pad)."""
    w = _window(n, x)
    include = n.attrs.get("count_include_pad", 0)
    count = sum((padded if include else valid).astype(float) for _, _, valid, padded in w.taps())

    def mean(s: Array) -> Array:
        total = np.zeros((*s.shape[:2], *w.out, s.shape[-1]))
        for _, coordinates, valid, _ in w.taps():
            total += at(s, coordinates) * valid[..., None]
        return total / count[..., None]

    return linear(x, mean, lambda o: mean_of_valid(o, w), _rank(x, w))


@rule("MaxPool")
def max_pool(n: Node, x: Tensor) -> list[Tensor]:
    """The winner, the first on ties (row-major order of taps)."""
    w = _window(n, x)
    best = np.full((*x.shape[:2], *w.out), -np.inf)
    filled = np.zeros(best.shape, bool)
    lin = np.zeros((*best.shape, n.columns.width)) if x.is_carrier else None
    flat = np.zeros(best.shape, dtype=np.int64)
    places = np.arange(x.value.size).reshape(x.shape)
    for _, coordinates, valid, _ in w.taps():
        candidate = at(x.value, coordinates)
        wins = valid & (~filled | (candidate > best))
        best = np.where(wins, candidate, best)
        flat = np.where(wins, at(places, coordinates), flat)
        filled |= valid
        if lin is not None:
            lin = np.where(wins[..., None], at(x.lin, coordinates), lin)
    if n.attrs.get("storage_order", 0):
        batch, channel, *spatial = np.unravel_index(flat, x.shape)
        flat = np.ravel_multi_index((batch, channel, *spatial[::-1]), (*x.shape[:2], *x.shape[2:][::-1]))
    indices = constant(flat)
    if lin is None:
        return [constant(best), indices]
    return [carrier(best, lin, mean_of_valid(x.ones, w), _rank(x, w)), indices]


@rule("LpPool")
def lp_pool(n: Node, x: Tensor) -> Tensor:
    """(sum |x|^p)^(1/p) over the window: weights as of GlobalLpPool, no rest. Rank 0."""
    w, p = _window(n, x), n.attrs.get("p", 2)
    total = np.zeros((*x.shape[:2], *w.out))
    for _, coordinates, valid, _ in w.taps():
        total += np.abs(at(x.value, coordinates)) ** p * valid
    norm = total ** (1 / p)

    def weighted(s: Array) -> Array:
        out = np.zeros((*s.shape[:2], *w.out, s.shape[-1]))
        for _, coordinates, valid, _ in w.taps():
            weight = lp_weights(at(x.value, coordinates), norm, p) * valid
            out += times(weight, at(s, coordinates))
        return out

    return linear(x, weighted, lambda o: mean_of_valid(o, w))
