"""Sums, products and quotients: who carries, who is the weight.

Of two carriers in a product the one of higher gate rank is the weight; equal ranks share half and half,
y = 1/2 w(b) a + 1/2 w(a) b. In the tangent rule set all carry and the rest, -y for a product of two, multiplies the
ones of the equal-rank rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import FUNCTIONS, Function, apply_function, at_zero, quotient
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Node, Tensor

Carry = Callable[[Pair], Pair]


def bilinear(p: Calculus, a: Operand, b: Operand, carry_a: Carry, carry_b: Carry, y: Operand) -> Pair | None:
    """A product that is linear in each operand; ``carry_a`` maps a's pair through it with b as the weight."""
    if a.pair is None and b.pair is None:
        return None
    if b.pair is None:
        assert a.pair is not None
        return carry_a(a.pair)
    if a.pair is None:
        return carry_b(b.pair)
    if not p.tangent and a.pair.rank != b.pair.rank:
        return carry_b(b.pair) if a.pair.rank > b.pair.rank else carry_a(a.pair)
    return shared(p, [carry_a(a.pair), carry_b(b.pair)], y)


def shared(p: Calculus, terms: list[Pair], y: Operand) -> Pair:
    """Several carriers of one product: equal shares, or all of them and the rest in the tangent rules."""
    ones = p.average([t.ones for t in terms], y.shape)
    rank = min(t.rank for t in terms)
    if p.tangent:
        value = p.build.add([t.value for t in terms], y.shape)
        rest = p.emit.op("Mul", y.t, float(1 - len(terms)))
        return Pair(p.bias(value, rest, ones, y.shape), ones, rank)
    value = p.build.add([p.build.scale(t.value, 1.0 / len(terms)) for t in terms], y.shape)
    return Pair(value, ones, rank)


def total(p: Calculus, signed: list[tuple[Operand, float]], y: Operand) -> Pair | None:
    """A sum: values add, constants multiply the ones, and the ones are the mean of the carriers' ones."""
    carriers = [(o.pair, sign) for o, sign in signed if o.pair is not None]
    if not carriers:
        return None
    ones = p.to_rank(p.average([pair.ones for pair, _ in carriers], y.shape), y.rank)
    value = p.build.add([p.build.scale(pair.value, sign) for pair, sign in carriers], y.shape)
    for o, sign in signed:
        if o.pair is None and not _zero(o):
            c = o.t if sign == 1.0 else p.emit.op("Neg", o.t, shape=o.t.shape)
            value = p.bias(value, c, ones, y.shape)
    return Pair(value, ones, min(pair.rank for pair, _ in carriers))


def _zero(o: Operand) -> bool:
    return o.value is not None and not o.value.any()


@rule("Add")
def add(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    return total(p, [(A, 1.0), (B, 1.0)], p.out(node))


@rule("Sub")
def sub(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    return total(p, [(A, 1.0), (B, -1.0)], p.out(node))


@rule("Sum")
def sum_(p: Calculus, node: Node, *terms: Operand) -> Pair | None:
    return total(p, [(t, 1.0) for t in terms], p.out(node))


@rule("Mean")
def mean(p: Calculus, node: Node, *terms: Operand) -> Pair | None:
    """Sum / n."""
    y = p.out(node)
    whole = total(p, [(t, 1.0) for t in terms], y)
    if whole is None:
        return None
    # The sum's constants are its bias; dividing it is a scale by a constant.
    return Pair(p.build.scale(whole.value, 1.0 / len(terms)), whole.ones, whole.rank)


def _times(p: Calculus, w: Tensor, y: Operand) -> Carry:
    def carry(pair: Pair) -> Pair:
        value = p.build.scale(pair.value, w, y.shape)
        return Pair(value, p.to_rank(pair.ones, y.rank), pair.rank)

    return carry


@rule("Mul")
def mul(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    return times(p, A, B, p.out(node))


def times(p: Calculus, A: Operand, B: Operand, y: Operand) -> Pair | None:
    """The elementwise product y of two operands."""
    return bilinear(p, A, B, _times(p, B.t, y), _times(p, A.t, y), y)


@rule("Div")
def div(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    """a / b: b is a weight; constant / b is the elementwise Reciprocal. tangent: (1/b) a - (y/b) b + y o."""
    y = p.out(node)
    if A.pair is None and B.pair is None:
        return None
    inverse = p.emit.op("Reciprocal", B.t, shape=B.t.shape)
    if A.pair is None:
        reciprocal = apply_function(p, FUNCTIONS["Reciprocal"], B, Operand(inverse, None), {})
        assert reciprocal is not None
        return _times(p, A.t, y)(reciprocal)
    carried = _times(p, inverse, y)(A.pair)
    if B.pair is None or not p.tangent:
        return carried
    slope = p.emit.op("Neg", p.emit.op("Mul", y.t, inverse))
    value = p.build.add([carried.value, p.build.scale(B.pair.value, slope, y.shape)], y.shape)
    return Pair(p.bias(value, y.t, carried.ones, y.shape), carried.ones, carried.rank)


@rule("Mod")
def mod(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    """Elementwise in the dividend: W = y / x, 1 at 0; the slope is 1."""
    if B.pair is not None:
        raise OutsideCalculus("its divisor depends on the explained input: what it keeps of that jumps")
    y = p.out(node)
    f = Function(quotient(1.0), lambda e, x, _, a: e.const(np.ones((), e.dtype)))
    return apply_function(p, f, _wide(p, node, A, y), y, {})


def _wide(p: Calculus, node: Node, X: Operand, y: Operand) -> Operand:
    """X repeated to the shape of y."""
    if X.pair is None or X.shape == y.shape:
        return X
    pair = Pair(p.build.broadcast(X.pair.value, y.shape), p.to_rank(X.pair.ones, y.rank), X.pair.rank)
    return Operand(p.emit.op("Expand", X.t, p.emit.shape_of(node.outputs[0]), shape=y.t.shape), pair)


@rule("Pow")
def pow_(p: Calculus, node: Node, X: Operand, Y: Operand) -> Pair | None:
    """x^c: W = x^(c-1) for f(0) = 0 or not finite; c^x is Exp(x log c)."""
    y = p.out(node)
    exponent = p.emit.cast(Y.t) if Y.t.dtype != p.emit.dtype else Y.t
    if X.pair is None:
        if Y.pair is None:
            return None
        return _exponential(p, X.t, Y, y)
    if Y.pair is not None:
        raise OutsideCalculus("its base and its exponent both depend on the explained input")
    known = Y.value
    if known is not None and known.size == 1:
        c = float(known.reshape(()))
        if c == 1.0:
            return Pair(p.build.broadcast(X.pair.value, y.shape), p.to_rank(X.pair.ones, y.rank), X.pair.rank)
        gate = 4 if c < 0 else X.pair.rank
        f = Function(_power_secant(c), lambda e, x, _, a: _power_slope(e, x, c), gate=gate)
        return apply_function(p, f, _wide(p, node, X, y), y, {})
    return _power_by_tensor(p, X, exponent, y)


def _exponential(p: Calculus, c: Tensor, X: Operand, y: Operand) -> Pair:
    """c^x = Exp(x log c); where c is 0, or negative (with whole x), W = (c^x - 1) / x, 0 at 0; tangent: a constant."""
    e = p.emit
    assert X.pair is not None
    positive = e.op("Greater", c, 0.0)
    log = e.op("Log", e.op("Where", positive, c, 1.0, dtype=e.dtype))
    scaled = Operand(e.op("Mul", X.t, log, shape=y.t.shape), _times(p, log, y)(X.pair))
    power = Operand(e.op("Where", positive, y.t, 1.0, dtype=e.dtype, shape=y.t.shape), None)
    pair = apply_function(p, FUNCTIONS["Exp"], scaled, power, {})
    assert pair is not None
    value, rest = p.build.select(pair.value, positive), y.t
    if not p.tangent:
        w = at_zero(e, X.t, e.op("Div", e.op("Sub", y.t, 1.0), X.t, shape=y.t.shape), 0.0)
        w = e.op("Where", positive, 0.0, w, dtype=e.dtype, shape=y.t.shape)
        value, rest = (
            p.build.add([value, p.build.scale(X.pair.value, w, y.shape)], y.shape),
            e.const(np.ones((), e.dtype)),
        )
    rest = e.op("Where", positive, 0.0, rest, dtype=e.dtype, shape=y.t.shape)
    return Pair(p.bias(value, rest, pair.ones, y.shape), pair.ones, pair.rank)


def _power_secant(c: float) -> Callable[..., tuple[Tensor, Tensor | float]]:
    def secant(e: Emitter, x: Tensor, y: Tensor, attrs: object) -> tuple[Tensor, Tensor | float]:
        if c == 0.0:
            return e.op("Mul", x, 0.0), 1.0
        if c == 2.0:
            return x, 0.0
        return at_zero(e, x, e.op("Pow", x, c - 1.0), 0.0), 0.0

    return secant


def _power_slope(e: Emitter, x: Tensor, c: float) -> Tensor:
    if c == 2.0:
        return e.op("Mul", x, 2.0)
    slope = e.op("Mul", e.op("Pow", x, c - 1.0), c)
    return slope if c > 1.0 else at_zero(e, x, slope, 0.0)


def _power_by_tensor(p: Calculus, X: Operand, exponent: Tensor, y: Operand) -> Pair:
    """x^c with c a tensor: W = x^(c-1), 0 at x = 0 or c = 0; where c = 0 the value 1 is the bias."""
    e = p.emit
    assert X.pair is not None
    below = e.op("Pow", X.t, e.op("Sub", exponent, 1.0), shape=y.t.shape)
    ones = p.to_rank(X.pair.ones, y.rank)
    flat = e.op("Equal", exponent, 0.0)
    at_origin = e.op("And", e.op("Equal", X.t, 0.0), e.op("Not", e.op("Equal", exponent, 1.0)))
    dead = e.op("Or", at_origin, flat)
    w = e.op("Where", dead, 0.0, below, dtype=e.dtype, shape=y.t.shape)
    if p.tangent:
        w = e.op("Mul", w, exponent, shape=y.t.shape)
        value = p.build.scale(X.pair.value, w, y.shape)
        rest = e.op("Sub", y.t, e.op("Mul", w, X.t, shape=y.t.shape), shape=y.t.shape)
        return Pair(p.bias(value, rest, ones, y.shape), ones)
    value = p.build.scale(X.pair.value, w, y.shape)
    constant_part = e.op("Where", flat, 1.0, 0.0, dtype=e.dtype)
    return Pair(p.bias(value, constant_part, ones, y.shape), ones)
