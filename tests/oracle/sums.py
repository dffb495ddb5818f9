"""Sums, products of two, quotients, selection: the operators that mix streams."""

from __future__ import annotations

import numpy as np

from .stream import (
    Array,
    Node,
    Tensor,
    carrier,
    constant,
    linear,
    lowest_rank,
    plus_bias,
    rule,
    spread,
    times,
)


def add(n: Node, terms: list[Tensor], signs: list[float] | None = None) -> Tensor:
    """y = sum of s_i t_i. Carriers: the sum, and the mean of their ones. Constants: c * o."""
    signs = signs or [1.0] * len(terms)
    shape = np.broadcast_shapes(*(t.shape for t in terms))
    value: Array = np.zeros(shape)
    for t, s in zip(terms, signs, strict=True):
        value = value + s * t.value
    carriers = [(t, s) for t, s in zip(terms, signs, strict=True) if t.is_carrier]
    if not carriers:
        return constant(value)
    lin = sum(s * spread(t.lin, shape) for t, s in carriers)
    ones = sum(spread(t.ones, shape) for t, _ in carriers) / len(carriers)
    bias: Array = np.zeros(shape)
    for t, s in zip(terms, signs, strict=True):
        if not t.is_carrier:
            bias = bias + s * t.value
    return carrier(value, plus_bias(n, lin, ones, bias), np.array(ones), lowest_rank(terms))


def scale(x: Tensor, c: Array, rank: int | None = None) -> Tensor:
    """y = c x with c a constant or a weight: v * c, ones o."""
    c = np.asarray(c)
    shape = np.broadcast_shapes(x.shape, c.shape)
    value = x.value * c
    if not x.is_carrier:
        return constant(value)
    c = np.broadcast_to(c, shape)
    rank = x.rank if rank is None else rank
    return carrier(value, times(c, spread(x.lin, shape)), np.array(spread(x.ones, shape)), rank)


def mul(n: Node, a: Tensor, b: Tensor) -> Tensor:
    """y = a b. Secant: the operand of higher rank is the weight, equal ranks share half and half.
    Tangent: both are carriers, the rest -ab goes to the mean of their ones."""
    if not (a.is_carrier and b.is_carrier):
        return scale(a, b.value) if a.is_carrier else scale(b, a.value)
    if not n.tangent and a.rank != b.rank:
        return scale(a, b.value) if a.rank < b.rank else scale(b, a.value)
    left, right = scale(a, b.value), scale(b, a.value)
    ones = (left.ones + right.ones) / 2
    lin = plus_bias(n, left.lin + right.lin, ones, -left.value) if n.tangent else (left.lin + right.lin) / 2
    return carrier(left.value, lin, ones, min(a.rank, b.rank))


def div(n: Node, a: Tensor, b: Tensor) -> Tensor:
    """y = a / b. A carrier b is always a weight; constant / carrier is the elementwise Reciprocal (rank 4)."""
    from .elementwise import elementwise, reciprocal

    if not b.is_carrier:
        return scale(a, 1 / b.value)
    if not a.is_carrier:
        return scale(elementwise(n, b, reciprocal(), rank=4), a.value)
    y = scale(a, 1 / b.value)
    if not n.tangent:
        return y
    shape = y.shape
    lin = y.lin - times(np.broadcast_to(a.value / b.value**2, shape), spread(b.lin, shape))
    return carrier(y.value, plus_bias(n, lin, y.ones, y.value), y.ones, y.rank)


@rule("Add")
def _add(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return add(n, [a, b])


@rule("Sub")
def _sub(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return add(n, [a, b], [1.0, -1.0])


@rule("Sum")
def _sum(n: Node, *terms: Tensor) -> Tensor:
    return add(n, list(terms))


@rule("Mean")
def _mean(n: Node, *terms: Tensor) -> Tensor:
    """Sum, then division by the number of terms."""
    return scale(add(n, list(terms)), np.array(1 / len(terms)))


@rule("Mul")
def _mul(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return mul(n, a, b)


@rule("Div")
def _div(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return div(n, a, b)


def where(n: Node, condition: Array, a: Tensor, b: Tensor) -> Tensor:
    """Select; a constant branch is constant * o and takes the carrier's ones."""
    condition = condition.astype(bool)
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    condition = np.broadcast_to(condition, shape)
    value = np.where(condition, a.value, b.value)
    if not (a.is_carrier or b.is_carrier):
        return constant(value)
    pick = condition[..., None]
    zero = np.zeros((1,))
    lin = np.where(pick, spread(a.lin, shape) if a.is_carrier else zero, spread(b.lin, shape) if b.is_carrier else zero)
    ones_a, ones_b = (a if a.is_carrier else b).ones, (b if b.is_carrier else a).ones
    ones = np.where(pick, spread(ones_a, shape), spread(ones_b, shape))
    bias = np.where(condition, 0.0 if a.is_carrier else a.value, 0.0 if b.is_carrier else b.value)
    return carrier(value, plus_bias(n, lin, ones, bias), ones, lowest_rank([a, b]))


@rule("Where")
def _where(n: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Attention blanks fully masked rows of its softmax: that stays a softmax (with row sum 0)."""
    y = where(n, condition.value, a, b)
    if n.inside == "Attention" and not a.is_carrier and not a.value.any() and y.shape == b.shape:
        y.softmax_axes = b.softmax_axes
    return y


@rule("Max", "Min")
def extremum(n: Node, *terms: Tensor) -> Tensor:
    """The winners in equal shares; a winning constant's share is constant * o.
    Ones: the mean of the winning carriers' ones; where only constants win, the mean of all carriers' ones."""
    if n.op == "Max":
        value = np.maximum.reduce(np.broadcast_arrays(*(t.value for t in terms)))
    else:
        value = np.minimum.reduce(np.broadcast_arrays(*(t.value for t in terms)))
    carriers = [t for t in terms if t.is_carrier]
    if not carriers:
        return constant(value)
    shape = value.shape
    wins = [np.broadcast_to(t.value, shape) == value for t in terms]
    winners = sum(w.astype(float) for w in wins)
    carrier_wins = [w.astype(float) for t, w in zip(terms, wins, strict=True) if t.is_carrier]
    total = sum(carrier_wins)
    lin, ones = np.zeros((*shape, n.columns.width)), np.zeros((*shape, n.columns.n_ones))
    for t, w in zip(carriers, carrier_wins, strict=True):
        lin += times(w / winners, spread(t.lin, shape))
        share = np.where(total > 0, w / np.maximum(total, 1), 1 / len(carriers))
        ones += times(share, spread(t.ones, shape))
    bias = np.zeros(shape)
    for t, w in zip(terms, wins, strict=True):
        if not t.is_carrier:
            bias += np.where(w, t.value, 0.0) / winners
    return carrier(value, plus_bias(n, lin, ones, bias), ones, lowest_rank(carriers))


@rule("Trilu")
def trilu(n: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """x times a 0/1 mask (infinities outside of the triangle become 0)."""
    offset = 0 if k is None else int(k.value)
    mask = (np.triu if n.attrs.get("upper", 1) else np.tril)(np.ones(x.shape), offset)
    y = scale(x, mask)
    y.value = np.where(mask == 0, 0.0, x.value)
    return y


def mean_axes(stream: Array, axes: tuple[int, ...], keepdims: bool = True) -> Array:
    """Mean over tensor axes of a stream; axes are non-negative (the trailing columns are not counted)."""
    return stream.mean(axis=axes, keepdims=keepdims) if axes else stream


def centre(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x - mean(x): linear; ones 1/2 o + 1/2 mean(o), as of a difference of two carriers."""
    return linear(
        x,
        lambda s: s - mean_axes(s, axes),
        ones=lambda o: (o + mean_axes(o, axes)) / 2,
    )
