"""Reductions over axes. Ones: always the mean over the reduced axes. Rank 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from .elementwise import FUNCTIONS, elementwise
from .stream import Array, Node, Tensor, carrier, linear, plus_bias, rule, times
from .sums import mean_axes

Axes = tuple[int, ...]


def reduced_axes(n: Node, x: Tensor, axes: Tensor | None) -> Axes:
    """Axes as attribute or input, negative ones too; absent or empty: all, unless noop_with_empty_axes."""
    given = n.attrs.get("axes") if axes is None else [int(a) for a in np.ravel(axes.value)]
    if given is None or len(given) == 0:
        return () if n.attrs.get("noop_with_empty_axes", 0) else tuple(range(x.ndim))
    return tuple(sorted(a % x.ndim for a in given))


def drop(stream: Array, axes: Axes, keep: bool) -> Array:
    return stream if keep else np.squeeze(stream, axes)


def weighted_sum(n: Node, x: Tensor, axes: Axes, keep: bool, weight: Array, rest: Array | None = None) -> Tensor:
    """y = sum over axes of weight * x + rest."""

    def total(s: Array) -> Array:
        return drop(times(weight, s).sum(axis=axes, keepdims=True), axes, keep) if axes else times(weight, s)

    y = linear(x, total, lambda o: drop(mean_axes(o, axes), axes, keep))
    if rest is not None:
        rest = drop(rest, axes, keep)
        y = carrier(y.value + rest, plus_bias(n, y.lin, y.ones, rest), y.ones)
    return y


def _reduction(op: str) -> Callable[[Callable], Callable]:
    """Register f(n, x, axes, keep) under its operator, axes resolved."""

    def register(f: Callable) -> Callable:
        def with_axes(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
            return f(n, x, reduced_axes(n, x, axes), bool(n.attrs.get("keepdims", 1)))

        rule(op)(with_axes)
        return f

    return register


@_reduction("ReduceSum")
def reduce_sum(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return weighted_sum(n, x, axes, keep, np.ones(x.shape))


@_reduction("ReduceMean")
def reduce_mean(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    size = np.prod([x.shape[a] for a in axes])
    return weighted_sum(n, x, axes, keep, np.ones(x.shape) / size)


@_reduction("ReduceL1")
def reduce_l1(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return weighted_sum(n, x, axes, keep, np.sign(x.value))


@_reduction("ReduceL2")
def reduce_l2(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """x_i / norm, 0 at norm 0."""
    norm = np.sqrt((x.value**2).sum(axis=axes, keepdims=True)) if axes else np.abs(x.value)
    return weighted_sum(n, x, axes, keep, np.where(norm == 0, 0.0, x.value / np.where(norm == 0, 1.0, norm)))


@_reduction("ReduceSumSquare")
def reduce_sum_square(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Secant x_i; tangent 2 x_i with the rest -y."""
    if not n.tangent:
        return weighted_sum(n, x, axes, keep, x.value)
    total = (x.value**2).sum(axis=axes, keepdims=True) if axes else x.value**2
    return weighted_sum(n, x, axes, keep, 2 * x.value, -total)


@_reduction("ReduceLogSumExp")
def reduce_log_sum_exp(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Softmax weights p, and the entropy logsumexp(x) - <p, x> to the bias."""
    if not axes:
        return weighted_sum(n, x, axes, keep, np.ones(x.shape))
    lse = special.logsumexp(x.value, axis=axes, keepdims=True)
    p = np.exp(x.value - lse)
    px = np.where(p == 0, 0.0, p * x.value).sum(axis=axes, keepdims=True)
    y = weighted_sum(n, x, axes, keep, p, lse - px)
    y.value = drop(lse, axes, keep)
    return y


@_reduction("ReduceLogSum")
def reduce_log_sum(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Log(ReduceSum(x))."""
    return elementwise(n, reduce_sum(n, x, axes, keep), FUNCTIONS["Log"]({}))


@_reduction("ReduceProd")
def reduce_prod(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Each factor 1/n with the product of the others as weight; tangent: all of it, rest -(n - 1) y."""
    if not axes:
        return weighted_sum(n, x, axes, keep, np.ones(x.shape))
    inner = tuple(range(-len(axes), 0))
    moved = np.moveaxis(x.value, axes, inner)
    flat = moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)
    size = flat.shape[-1]
    others = np.stack([np.delete(flat, i, axis=-1).prod(axis=-1) for i in range(size)], axis=-1)
    others = np.moveaxis(others.reshape(moved.shape), inner, axes)
    if not n.tangent:
        return weighted_sum(n, x, axes, keep, others / size)
    return weighted_sum(n, x, axes, keep, others, -(size - 1) * x.value.prod(axis=axes, keepdims=True))


def winners(n: Node, x: Tensor, axes: Axes, keep: bool, largest: bool) -> Tensor:
    """The winners in equal shares."""
    if not axes:
        return weighted_sum(n, x, axes, keep, np.ones(x.shape))
    best = (np.max if largest else np.min)(x.value, axis=axes, keepdims=True)
    wins = (x.value == best).astype(float)
    y = weighted_sum(n, x, axes, keep, wins / wins.sum(axis=axes, keepdims=True))
    y.value = drop(best, axes, keep)
    return y


@_reduction("ReduceMax")
def reduce_max(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return winners(n, x, axes, keep, True)


@_reduction("ReduceMin")
def reduce_min(n: Node, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return winners(n, x, axes, keep, False)


def _spatial(x: Tensor) -> Axes:
    return tuple(range(2, x.ndim))


@rule("GlobalAveragePool")
def global_average_pool(n: Node, x: Tensor) -> Tensor:
    return reduce_mean(n, x, _spatial(x), True)


@rule("GlobalMaxPool")
def global_max_pool(n: Node, x: Tensor) -> Tensor:
    return winners(n, x, _spatial(x), True, True)


@rule("GlobalLpPool")
def global_lp_pool(n: Node, x: Tensor) -> Tensor:
    """(sum |x|^p)^(1/p): weights |x_i|^p / (x_i norm^(p-1)), the gradient too; no rest."""
    p = n.attrs.get("p", 2)
    axes = _spatial(x)
    norm = (np.abs(x.value) ** p).sum(axis=axes, keepdims=True) ** (1 / p)
    return weighted_sum(n, x, axes, True, lp_weights(x.value, norm, p))


def lp_weights(v: Array, norm: Array, p: float) -> Array:
    """sign(v) |v|^(p-1) / norm^(p-1), 0 at norm 0."""
    safe = np.where(norm == 0, 1.0, norm)
    return np.where(norm == 0, 0.0, np.sign(v) * np.abs(v) ** (p - 1) / safe ** (p - 1))
