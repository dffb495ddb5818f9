"""Elementwise functions.

secant:   v -> W v + b o,  W(x) = (f(x) - f(0)) / x,  b = f(0)   (f(0) := 0 where it is not finite);
          at x = 0, W is the left derivative where finite, else 0;
tangent:  v -> f'(x) v + (f(x) - f'(x) x) o,  f' the left derivative at kinks.

Each function below gives (W, b) and f' as tensors, in forms that lose nothing near 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, Pair, constant, rule
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Node, Tensor

Coefficients = tuple[Tensor, "Tensor | float"]


@dataclass(frozen=True, slots=True)
class Function:
    """secant(e, x, y, attrs) gives (W, b); derivative(e, x, y, attrs) gives f'; y = f(x) is at hand."""

    secant: Callable[[Emitter, Tensor, Tensor, dict[str, Any]], Coefficients]
    derivative: Callable[[Emitter, Tensor, Tensor, dict[str, Any]], Tensor]
    gate: int = 0


def apply_function(p: Calculus, f: Function, X: Operand, y: Operand, attrs: dict[str, Any]) -> Pair | None:
    """The pair of f(X)."""
    if X.pair is None:
        return None
    e, v, o = p.emit, X.pair.value, X.pair.ones
    if p.tangent:
        w = f.derivative(e, X.t, y.t, attrs)
        w, rest = at_infinity(e, X.t, y.t, w, e.op("Sub", y.t, e.op("Mul", w, X.t)))
        return Pair(p.bias(p.build.scale(v, w), rest, o, X.shape), o, f.gate)
    w, b = at_infinity(e, X.t, y.t, *f.secant(e, X.t, y.t, attrs))
    value = p.build.scale(v, w)
    if not (isinstance(b, float) and b == 0.0):
        value = p.bias(value, b, o, X.shape)
    return Pair(value, o, f.gate)


# Pieces


def at_infinity(e: Emitter, x: Tensor, y: Tensor, w: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor | float]:
    """W and b, but 0 and f(x) where x is infinite (masked with -inf): what W x would be there nobody can add up."""
    if e.signs.finite(x):
        return w, b
    real = e.op("Less", e.op("Abs", x), math.inf)
    return where(e, real, w, 0.0), e.op("Where", real, b, y, dtype=e.dtype, shape=y.shape)


def where(e: Emitter, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    return e.op("Where", condition, a, b, dtype=e.dtype)


def at_zero(e: Emitter, x: Tensor, w: Tensor, w0: float) -> Tensor:
    """w, but w0 where x is 0."""
    return where(e, e.op("Equal", x, 0.0), w0, w)


def quotient(w0: float) -> Callable[[Emitter, Tensor, Tensor, dict[str, Any]], Coefficients]:
    """W = f(x) / x for f(0) = 0, or not finite; w0 at 0."""
    return lambda e, x, y, attrs: (at_zero(e, x, e.op("Div", y, x), w0), 0.0)


def positive(e: Emitter, x: Tensor, above: float = 0.0) -> Tensor:
    return e.op("Greater", x, above)


def exprel(e: Emitter, x: Tensor) -> Tensor:
    """(exp(x) - 1) / x = (exp(x) + 1) tanh(x/2) / x; 1 at 0."""
    t = e.op("Tanh", e.op("Mul", x, 0.5))
    return at_zero(e, x, e.op("Div", e.op("Mul", e.op("Add", e.op("Exp", x), 1.0), t), x), 1.0)


def sigmoid(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Sigmoid", x)


def normal_cdf(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Mul", e.op("Add", e.op("Erf", e.op("Mul", x, math.sqrt(0.5))), 1.0), 0.5)


def square(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Mul", x, x)


def one_minus(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Sub", 1.0, x)


def _piecewise(
    right: float, left: Callable[[Emitter, Tensor, dict[str, Any]], Tensor | float]
) -> Callable[[Emitter, Tensor, Tensor, dict[str, Any]], Coefficients]:
    return lambda e, x, y, attrs: (where(e, positive(e, x), right, left(e, x, attrs)), 0.0)


def _exp_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    far = e.op("Less", x, -100.0)
    near = e.op("Max", x, -100.0)
    return where(e, far, 0.0, exprel(e, near)), where(e, far, y, 1.0)


def _sigmoid_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    t = e.op("Tanh", e.op("Mul", x, 0.5))
    return at_zero(e, x, e.op("Div", e.op("Mul", t, 0.5), x), 0.25), 0.5


def _softplus_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    """1/2 + log(1 + 2 sinh^2(x/4)) / x; for large |x| (softplus(x) - log 2) / x."""
    small = e.op("Clip", x, -40.0, 40.0)
    u = e.op("Mul", square(e, e.op("Sinh", e.op("Mul", small, 0.25))), 2.0)
    near = e.op("Add", e.op("Div", e.op("Log", e.op("Add", u, 1.0)), small), 0.5)
    far = e.op("Div", e.op("Sub", y, math.log(2.0)), x)
    w = where(e, e.op("Greater", e.op("Abs", x), 20.0), far, near)
    return at_zero(e, x, w, 0.5), math.log(2.0)


def _cos_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    s = e.op("Sin", e.op("Mul", x, 0.5))
    return at_zero(e, x, e.op("Div", e.op("Mul", square(e, s), -2.0), x), 0.0), 1.0


def _cosh_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    s = e.op("Sinh", e.op("Mul", x, 0.5))
    return at_zero(e, x, e.op("Div", e.op("Mul", square(e, s), 2.0), x), 0.0), 1.0


def _acos_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    return at_zero(e, x, e.op("Neg", e.op("Div", e.op("Asin", x, shape=x.shape), x)), -1.0), math.pi / 2


def _hard_sigmoid_attrs(attrs: dict[str, Any]) -> tuple[float, float]:
    return float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5))


def _hard_sigmoid_secant(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Coefficients:
    """f(0) = clip(beta, 0, 1) =: c; f(x) - c = clip(alpha x + (beta - c), -c, 1 - c)."""
    alpha, beta = _hard_sigmoid_attrs(attrs)
    c = min(max(beta, 0.0), 1.0)
    line = e.op("Mul", x, alpha)
    if beta != c:
        line = e.op("Add", line, beta - c)
    rise = e.op("Clip", line, -c, 1.0 - c)
    left = alpha if (0 < beta <= 1 and alpha > 0) or (0 <= beta < 1 and alpha < 0) else 0.0
    return at_zero(e, x, e.op("Div", rise, x), left), c


def _hard_sigmoid_slope(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    alpha, beta = _hard_sigmoid_attrs(attrs)
    line = e.op("Add", e.op("Mul", x, alpha), beta)
    up, down = ("Greater", "LessOrEqual") if alpha > 0 else ("GreaterOrEqual", "Less")
    return where(e, e.op("And", e.op(up, line, 0.0), e.op(down, line, 1.0)), alpha, 0.0)


def _hard_swish_slope(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    middle = e.op("And", e.op("Greater", x, -3.0), e.op("LessOrEqual", x, 3.0))
    slope = e.op("Add", e.op("Div", x, 3.0), 0.5)
    return where(e, middle, slope, where(e, positive(e, x), 1.0, 0.0))


_TANH_SCALE, _TANH_CUBE = math.sqrt(2.0 / math.pi), 0.044715


def _gelu_gate(e: Emitter, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    if attrs.get("approximate", "none") == "tanh":
        return e.op("Mul", e.op("Add", e.op("Tanh", _gelu_inner(e, x)), 1.0), 0.5)
    return normal_cdf(e, x)


def _gelu_inner(e: Emitter, x: Tensor) -> Tensor:
    cube = e.op("Mul", square(e, x), x)
    return e.op("Mul", e.op("Add", x, e.op("Mul", cube, _TANH_CUBE)), _TANH_SCALE)


def _gelu_slope(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    gate = _gelu_gate(e, x, attrs)
    if attrs.get("approximate", "none") == "tanh":
        t = e.op("Tanh", _gelu_inner(e, x))
        inner = e.op("Mul", e.op("Add", e.op("Mul", square(e, x), 3 * _TANH_CUBE), 1.0), _TANH_SCALE * 0.5)
        return e.op("Add", gate, e.op("Mul", e.op("Mul", x, one_minus(e, square(e, t))), inner))
    density = e.op("Mul", e.op("Exp", e.op("Mul", square(e, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return e.op("Add", gate, e.op("Mul", x, density))


def _swish(e: Emitter, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    return sigmoid(e, e.op("Mul", x, float(attrs.get("alpha", 1.0))))


def _swish_slope(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    s = _swish(e, x, attrs)
    return e.op("Add", s, e.op("Mul", e.op("Mul", y, one_minus(e, s)), float(attrs.get("alpha", 1.0))))


def _softplus_of(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Softplus", x)


def _mish_slope(e: Emitter, x: Tensor, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    t = e.op("Tanh", _softplus_of(e, x))
    return e.op("Add", t, e.op("Mul", e.op("Mul", x, one_minus(e, square(e, t))), sigmoid(e, x)))


def _shrink(e: Emitter, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    return e.op("Greater", e.op("Abs", x), float(attrs.get("lambd", 0.5)))


def _celu(e: Emitter, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    return e.op("Div", e.op("Min", x, 0.0), float(attrs.get("alpha", 1.0)))


_SELU = 1.67326319217681884765625, 1.05070102214813232421875


def _selu(attrs: dict[str, Any]) -> tuple[float, float]:
    return float(attrs.get("alpha", _SELU[0])), float(attrs.get("gamma", _SELU[1]))


def _selu_piece(e: Emitter, x: Tensor, attrs: dict[str, Any], rise: Tensor) -> Tensor:
    alpha, gamma = _selu(attrs)
    return where(e, positive(e, x), gamma, e.op("Mul", rise, alpha * gamma))


def _negative(e: Emitter, x: Tensor) -> Tensor:
    return e.op("Min", x, 0.0)


def _inverse_root(e: Emitter, x: Tensor, sign: float, offset: float) -> Tensor:
    """1 / sqrt(offset + sign x^2); 0 where that is not finite."""
    root = e.op("Sqrt", e.op("Add", e.op("Mul", square(e, x), sign), offset))
    return at_zero(e, root, e.op("Reciprocal", root), 0.0)


FUNCTIONS: dict[str, Function] = {
    "Abs": Function(_piecewise(1.0, lambda e, x, a: -1.0), lambda e, x, y, a: where(e, positive(e, x), 1.0, -1.0)),
    "Acos": Function(_acos_secant, lambda e, x, y, a: e.op("Neg", _inverse_root(e, x, -1.0, 1.0))),
    "Acosh": Function(quotient(0.0), lambda e, x, y, a: _inverse_root(e, x, 1.0, -1.0)),
    "Asin": Function(quotient(1.0), lambda e, x, y, a: _inverse_root(e, x, -1.0, 1.0)),
    "Asinh": Function(quotient(1.0), lambda e, x, y, a: _inverse_root(e, x, 1.0, 1.0)),
    "Atan": Function(quotient(1.0), lambda e, x, y, a: e.op("Reciprocal", e.op("Add", square(e, x), 1.0)), gate=1),
    "Atanh": Function(quotient(1.0), lambda e, x, y, a: e.op("Reciprocal", one_minus(e, square(e, x)))),
    "Celu": Function(
        _piecewise(1.0, lambda e, x, a: exprel(e, _celu(e, x, a))),
        lambda e, x, y, a: where(e, positive(e, x), 1.0, e.op("Exp", _celu(e, x, a))),
    ),
    "Cos": Function(_cos_secant, lambda e, x, y, a: e.op("Neg", e.op("Sin", x))),
    "Cosh": Function(_cosh_secant, lambda e, x, y, a: e.op("Sinh", x)),
    "Elu": Function(
        _piecewise(1.0, lambda e, x, a: e.op("Mul", exprel(e, _negative(e, x)), float(a.get("alpha", 1.0)))),
        lambda e, x, y, a: where(
            e, positive(e, x), 1.0, e.op("Mul", e.op("Exp", _negative(e, x)), float(a.get("alpha", 1.0)))
        ),
    ),
    "Erf": Function(
        quotient(2 / math.sqrt(math.pi)),
        lambda e, x, y, a: e.op("Mul", e.op("Exp", e.op("Neg", square(e, x))), 2 / math.sqrt(math.pi)),
        gate=1,
    ),
    "Exp": Function(_exp_secant, lambda e, x, y, a: y, gate=3),
    "Gelu": Function(lambda e, x, y, a: (_gelu_gate(e, x, a), 0.0), _gelu_slope),
    "HardSigmoid": Function(_hard_sigmoid_secant, _hard_sigmoid_slope, gate=2),
    "HardSwish": Function(lambda e, x, y, a: (e.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), 0.0), _hard_swish_slope),
    "LeakyRelu": Function(
        _piecewise(1.0, lambda e, x, a: float(a.get("alpha", 0.01))),
        lambda e, x, y, a: where(e, positive(e, x), 1.0, float(a.get("alpha", 0.01))),
    ),
    "Log": Function(quotient(0.0), lambda e, x, y, a: e.op("Reciprocal", x)),
    "Mish": Function(lambda e, x, y, a: (e.op("Tanh", _softplus_of(e, x)), 0.0), _mish_slope),
    "Reciprocal": Function(
        lambda e, x, y, a: (square(e, y), 0.0), lambda e, x, y, a: e.op("Neg", square(e, y)), gate=4
    ),
    "Selu": Function(
        lambda e, x, y, a: (_selu_piece(e, x, a, exprel(e, _negative(e, x))), 0.0),
        lambda e, x, y, a: _selu_piece(e, x, a, e.op("Exp", _negative(e, x))),
    ),
    "Shrink": Function(quotient(0.0), lambda e, x, y, a: where(e, _shrink(e, x, a), 1.0, 0.0)),
    "Sigmoid": Function(_sigmoid_secant, lambda e, x, y, a: e.op("Mul", y, one_minus(e, y)), gate=2),
    "Sin": Function(quotient(1.0), lambda e, x, y, a: e.op("Cos", x)),
    "Sinh": Function(quotient(1.0), lambda e, x, y, a: e.op("Cosh", x)),
    "Softplus": Function(_softplus_secant, lambda e, x, y, a: sigmoid(e, x)),
    "Softsign": Function(
        lambda e, x, y, a: (e.op("Reciprocal", e.op("Add", e.op("Abs", x), 1.0)), 0.0),
        lambda e, x, y, a: square(e, e.op("Reciprocal", e.op("Add", e.op("Abs", x), 1.0))),
        gate=1,
    ),
    "Sqrt": Function(quotient(0.0), lambda e, x, y, a: at_zero(e, x, e.op("Div", 0.5, y), 0.0)),
    "Swish": Function(lambda e, x, y, a: (_swish(e, x, a), 0.0), _swish_slope),
    "Tan": Function(quotient(1.0), lambda e, x, y, a: e.op("Add", square(e, y), 1.0)),
    "Tanh": Function(quotient(1.0), lambda e, x, y, a: one_minus(e, square(e, y)), gate=1),
}


@rule(*FUNCTIONS)
def elementwise(p: Calculus, node: Node, X: Operand) -> Pair | None:
    attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in node.attrs.items()}
    return apply_function(p, FUNCTIONS[node.op], X, p.out(node), attrs)


@rule("Relu")
def relu(p: Calculus, node: Node, X: Operand) -> Pair | None:
    """v where x > 0, else 0: in both rule sets, with no bias."""
    if X.pair is None:
        return None
    return Pair(p.build.select(X.pair.value, positive(p.emit, p.out(node).t)), X.pair.ones, X.pair.rank)


@rule("ThresholdedRelu")
def thresholded_relu(p: Calculus, node: Node, X: Operand, *, alpha: float = 1.0) -> Pair | None:
    """v where x > alpha, else 0."""
    if X.pair is None:
        return None
    return Pair(p.build.select(X.pair.value, positive(p.emit, X.t, alpha)), X.pair.ones)


@rule("Neg")
def neg(p: Calculus, node: Node, X: Operand) -> Pair | None:
    return None if X.pair is None else Pair(p.build.scale(X.pair.value, -1.0), X.pair.ones, X.pair.rank)


@rule("Floor", "Ceil", "Round")
def rounding(p: Calculus, node: Node, X: Operand) -> Pair | None:
    """secant: the identity, and the rounding residual to the bias. tangent: a constant."""
    if X.pair is None or p.tangent:
        return None
    residual = p.emit.op("Sub", p.out(node).t, X.t)
    return Pair(p.bias(X.pair.value, residual, X.pair.ones, X.shape), X.pair.ones)


@rule("Clip")
def clip(p: Calculus, node: Node, X: Operand, low: Operand | None = None, high: Operand | None = None) -> Pair | None:
    """secant: W = (clip(x) - clip(0)) / x; tangent: 1 for low < x <= high. Two finite bounds make a gate of rank 1."""
    if X.pair is None:
        return None
    e, y = p.emit, p.out(node)
    bounds = [None if b is None or _unbounded(b) else b.t for b in (low, high)]
    lo, hi = bounds
    rank = max(1, X.pair.rank) if lo is not None and hi is not None else X.pair.rank
    if p.tangent:
        inside: Tensor | None = None
        if lo is not None:
            inside = e.op("Greater", X.t, lo)
        if hi is not None:
            below = e.op("LessOrEqual", X.t, hi)
            inside = below if inside is None else e.op("And", inside, below)
        if inside is None:
            return X.pair
        rest = where(e, inside, 0.0, y.t)
        return Pair(p.bias(p.build.select(X.pair.value, inside), rest, X.pair.ones, X.shape), X.pair.ones, rank)
    known = True
    if _from_zero(e, lo, hi):
        # y / x where x > 0, else 0: two passes without a comparison (ONNX Runtime's Where is three times a Div)
        zero = e.const(np.zeros((), e.dtype))
        above = e.op("Max", X.t, float(np.finfo(e.dtype).tiny), shape=X.shape)
        w = e.op("Div", y.t, above, shape=X.shape)
    else:
        zero = _clip_of_zero(e, lo, hi)
        known = zero.value is not None and not zero.value.any()
        # left derivative at 0: 1 when 0 lies in (low, high]
        left = None if lo is None else e.op("Less", lo, 0.0)
        if hi is not None:
            above = e.op("GreaterOrEqual", hi, 0.0)
            left = above if left is None else e.op("And", left, above)
        w0 = 1.0 if left is None else e.cast(left)
        rise = y.t if known else e.op("Sub", y.t, zero)
        w = e.op("Where", e.op("Equal", X.t, 0.0), w0, e.op("Div", rise, X.t), dtype=e.dtype, shape=X.t.shape)
    w, b = at_infinity(e, X.t, y.t, w, 0.0 if known else zero)
    value = p.build.scale(X.pair.value, w)
    if isinstance(b, Tensor):
        value = p.bias(value, b, X.pair.ones, X.shape)
    return Pair(value, X.pair.ones, rank)


def _from_zero(e: Emitter, lo: Tensor | None, hi: Tensor | None) -> bool:
    """Whether the bounds are 0 and a known positive number, in a type whose smallest numbers nobody meets."""
    known = all(b is not None and b.value is not None and b.value.size == 1 for b in (lo, hi))
    wide = e.dtype in (np.dtype(np.float32), np.dtype(np.float64))
    return known and wide and float(lo.value) == 0.0 < float(hi.value)  # type: ignore[union-attr, arg-type]


def _unbounded(b: Operand) -> bool:
    """Whether a bound is known to bound nothing."""
    return b.value is not None and bool(
        np.isinf(b.value).all() | (np.abs(b.value.astype(np.float64)) >= 3.4028234e38).all()
    )


def _clip_of_zero(e: Emitter, lo: Tensor | None, hi: Tensor | None) -> Tensor:
    if (lo is None or lo.value is not None) and (hi is None or hi.value is not None):
        zero = np.zeros((), e.dtype)
        if lo is not None and lo.value is not None:
            zero = np.maximum(zero, lo.value.astype(e.dtype))
        if hi is not None and hi.value is not None:
            zero = np.minimum(zero, hi.value.astype(e.dtype))
        return e.const(zero)
    zero_t = e.const(np.zeros((), e.dtype))
    if lo is not None:
        zero_t = e.op("Max", zero_t, lo)
    return zero_t if hi is None else e.op("Min", zero_t, hi)


constant(
    "Sign", "IsNaN", "IsInf", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not",
    "ArgMax", "ArgMin", "Shape", "Size", "NonZero", "NonMaxSuppression", "Hardmax", "EyeLike", "ConstantOfShape",
    "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "BitShift", "BitwiseAnd", "BitwiseOr",
    "BitwiseXor", "BitwiseNot", "Unique",
)  # fmt: skip
