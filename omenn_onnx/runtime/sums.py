"""Products and sums of maps, in float64: the explanation's own arithmetic must not blur what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omenn_onnx.runtime.engines import Array

BLOCK = 2**22  # elements that are widened to float64 at a time


@dataclass(frozen=True)
class Sums:
    """``y`` the score, ``x`` = sum(C_w*X), ``b`` = sum(C_b), and their absolute sums; all of one shape, float64."""

    y: Array
    x: Array
    b: Array
    abs_x: Array
    abs_b: Array


def target_axis(C_w: Array, x: Array) -> int | None:
    """The axis of C_w that counts targets: behind the batch axis; in front where X has no batch axis; None without."""
    if C_w.ndim == x.ndim:
        return None
    second = x.ndim > 0 and C_w.shape[:1] + C_w.shape[2:] == x.shape
    return 1 if second else 0


def aligned(x: Array, C_w: Array) -> Array:
    """X with an axis of size 1 where C_w counts targets."""
    axis = target_axis(C_w, x)
    return x if axis is None else np.expand_dims(x, axis)


def weighted(C_w: Array, x: Array) -> Array:
    """C_w * X in float64, of C_w's shape."""
    product: Array = np.multiply(C_w, aligned(x, C_w), dtype=np.float64)
    return product


def channel_sum(C_w: Array, x: Array, axis: int) -> Array:
    """C_w * X summed over the channel axis of X, which stays with size 1; float64."""
    targets = target_axis(C_w, x)
    total: Array = weighted(C_w, x).sum(axis=axis if targets is None or axis < targets else axis + 1, keepdims=True)
    return total


def sums_of(parts: Sequence[Sequence[Array]], score: Array, rows: bool) -> Sums:
    """Sums over ``parts``, each (X, C_w, C_b): [N] or [N,K].

    In total, [] or [K], where rows interact or a part has not the rows of the score.
    """
    y = np.asarray(score, np.float64)
    alone = rows or len(np.atleast_1d(y)) == 1  # a single row has nothing to interact with
    per_row = alone and y.ndim > 0 and all(C_w.ndim > 0 and len(C_w) == len(y) for _, C_w, _ in parts)
    with_targets = parts[0][1].ndim > parts[0][0].ndim
    if not per_row and y.ndim > with_targets:
        y = y.sum(axis=0)
    x_sum, b_sum, x_abs, b_abs = (np.zeros(y.shape) for _ in range(4))
    for x, C_w, C_b in parts:
        targets = target_axis(C_w, x)
        kept = (() if targets is None else (targets,)) + ((0,) if per_row else ())
        whole = np.broadcast_to(aligned(x, C_w), C_w.shape)
        for start, stop in _blocks(C_w):
            product = np.multiply(C_w[start:stop], whole[start:stop], dtype=np.float64) if C_w.ndim else C_w * whole
            where = slice(start, stop) if 0 in kept else ...
            x_sum[where] += _reduced(product, kept)
            x_abs[where] += _reduced(np.abs(product), kept)
        bias = C_b.astype(np.float64)
        b_sum += _reduced(bias, kept)
        b_abs += _reduced(np.abs(bias), kept)
    return Sums(y, x_sum, b_sum, x_abs, b_abs)


def _blocks(C_w: Array) -> list[tuple[int, int]]:
    if C_w.ndim == 0:
        return [(0, 1)]
    step = max(1, BLOCK * len(C_w) // max(1, C_w.size))
    return [(i, min(i + step, len(C_w))) for i in range(0, len(C_w), step)]


def _reduced(values: Array, kept: Sequence[int]) -> Array:
    return np.asarray(values.sum(axis=tuple(a for a in range(values.ndim) if a not in kept)))
