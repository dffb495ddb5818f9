"""Elementwise functions: v -> W v + (f(x) - W x) o, with W the secant to the origin's value or the left derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from .stream import Array, Node, Tensor, carrier, constant, plus_bias, rule, spread, times
from .sums import mul, where

Map = Callable[[Array], Array]


@dataclass(frozen=True)
class Function:
    """f, its left derivative, and (f(x) - f(0))/x in a form that is stable near 0 where plain division is not."""

    f: Map
    slope: Map
    weight: Map | None = None

    def secant(self, x: Array) -> Array:
        """W(x) = (f(x) - f(0)) / x, f(0) := 0 where not finite; at 0 the left derivative where finite, else 0."""
        if self.weight is not None:
            w = self.weight(x)
        else:
            f0 = self.f(np.zeros_like(x))
            w = (self.f(x) - np.where(np.isfinite(f0), f0, 0.0)) / x
        return np.where(x == 0, self.tangent(np.zeros_like(x)), w)

    def tangent(self, x: Array) -> Array:
        s = np.asarray(self.slope(x), dtype=float)
        return np.where(np.isfinite(s), s, 0.0)


def elementwise(n: Node, x: Tensor, fn: Function, rank: int = 0, shape: tuple[int, ...] | None = None) -> Tensor:
    """y = f(x): W v + (f(x) - W x) o, ones o. ``shape``: broadcast x first (a parameter of f has more axes)."""
    shape = x.shape if shape is None else shape
    v = np.array(np.broadcast_to(x.value, shape), dtype=float)
    fx = np.asarray(fn.f(v), dtype=float)
    if not x.is_carrier:
        return constant(fx)
    w = fn.tangent(v) if n.tangent else fn.secant(v)
    bias = np.where(w == 0, fx, fx - w * v)
    ones = np.array(spread(x.ones, shape))
    return carrier(fx, plus_bias(n, times(w, spread(x.lin, shape)), ones, bias), ones, rank)


def sigmoid_(x: Array) -> Array:
    return special.expit(x)


def softplus_(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def reciprocal() -> Function:
    """f(0) := 0, so W = 1/x^2."""
    return Function(lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 1 / x**2)


def sigmoid() -> Function:
    return Function(sigmoid_, lambda x: sigmoid_(x) * sigmoid_(-x), lambda x: np.tanh(x / 2) / (2 * x))


def softplus() -> Function:
    def weight(x: Array) -> Array:
        near = 0.5 + np.log1p(2 * np.sinh(np.clip(x, -2, 2) / 4) ** 2) / x
        return np.where(np.abs(x) < 2, near, (softplus_(x) - np.log(2.0)) / x)

    return Function(softplus_, sigmoid_, weight)


def exp() -> Function:
    """W = (e^x - 1)/x; below -100 W = 0 and the bias is f(x)."""
    return Function(np.exp, np.exp, lambda x: np.where(x < -100, 0.0, np.expm1(x) / x))


def clip(lo: float, hi: float) -> Function:
    """min(max(x, lo), hi) with lo <= hi; left derivative 1 where lo < x <= hi."""
    return Function(lambda x: np.minimum(np.maximum(x, lo), hi), lambda x: ((x > lo) & (x <= hi)).astype(float))


def power(exponent: Array) -> Function:
    """x^c: f(0) = 0 for c > 0, 1 for c = 0, := 0 for c < 0."""
    c = np.asarray(exponent, dtype=float)

    def weight(x: Array) -> Array:
        return np.where(c == 0, 0.0, x ** (c - 1))

    return Function(lambda x: x**c, lambda x: np.where(c == 0, 0.0, c * x ** (c - 1)), weight)


def gelu(approximate: str) -> Function:
    if approximate == "tanh":
        k = np.sqrt(2 / np.pi)

        def gate(x: Array) -> Array:
            return sigmoid_(2 * k * (x + 0.044715 * x**3))

        def slope(x: Array) -> Array:
            s = gate(x)
            return s + x * s * (1 - s) * 2 * k * (1 + 3 * 0.044715 * x**2)

        return Function(lambda x: x * gate(x), slope, gate)
    density = lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    return Function(lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * density(x), special.ndtr)


def hard_sigmoid(alpha: float, beta: float) -> Function:
    def slope(x: Array) -> Array:
        y = alpha * x + beta
        inside = ((y > 0) & (y <= 1)) if alpha > 0 else ((y >= 0) & (y < 1))
        return alpha * inside

    def weight(x: Array) -> Array:
        linear = (0 < beta < 1) & (alpha * x + beta > 0) & (alpha * x + beta < 1)
        return np.where(linear, alpha, (np.clip(alpha * x + beta, 0, 1) - np.clip(beta, 0, 1)) / x)

    return Function(lambda x: np.clip(alpha * x + beta, 0, 1), slope, weight)


def hard_swish() -> Function:
    gate = lambda x: np.clip(x / 6 + 0.5, 0, 1)  # noqa: E731
    slope = lambda x: np.where(x <= -3, 0.0, np.where(x <= 3, (2 * x + 3) / 6, 1.0))  # noqa: E731
    return Function(lambda x: x * gate(x), slope, gate)


def mish() -> Function:
    gate = lambda x: np.tanh(softplus_(x))  # noqa: E731
    return Function(lambda x: x * gate(x), lambda x: gate(x) + x * (1 - gate(x) ** 2) * sigmoid_(x), gate)


def swish(alpha: float) -> Function:
    gate = lambda x: sigmoid_(alpha * x)  # noqa: E731
    return Function(lambda x: x * gate(x), lambda x: gate(x) * (1 + alpha * x * (1 - gate(x))), gate)


def elu(alpha: float) -> Function:
    return Function(
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
    )


def celu(alpha: float) -> Function:
    return Function(
        lambda x: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha)),
        lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0) / alpha)),
    )


def selu(alpha: float, gamma: float) -> Function:
    base = elu(alpha)
    return Function(lambda x: gamma * base.f(x), lambda x: gamma * base.slope(x))


def shrink(lambd: float, bias: float) -> Function:
    return Function(
        lambda x: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0)),
        lambda x: ((x <= -lambd) | (x > lambd)).astype(float),
    )


def cosine() -> Function:
    return Function(np.cos, lambda x: -np.sin(x), lambda x: -2 * np.sin(x / 2) ** 2 / x)


def leaky(alpha: Array | float) -> Function:
    return Function(
        lambda x: np.where(x < 0, alpha * x, x),
        lambda x: np.where(x > 0, 1.0, alpha),
        lambda x: np.where(x < 0, alpha, 1.0) * np.ones_like(x),
    )


SELU_ALPHA, SELU_GAMMA = 1.6732632423543772, 1.0507009873554805
F = Function
FUNCTIONS: dict[str, Callable[[dict], Function]] = {
    "Abs": lambda a: F(np.abs, lambda x: np.where(x > 0, 1.0, -1.0)),
    "Acos": lambda a: F(np.arccos, lambda x: -1 / np.sqrt(1 - x * x), lambda x: -np.arcsin(x) / x),
    "Acosh": lambda a: F(np.arccosh, lambda x: 1 / np.sqrt(x * x - 1)),
    "Asin": lambda a: F(np.arcsin, lambda x: 1 / np.sqrt(1 - x * x)),
    "Asinh": lambda a: F(np.arcsinh, lambda x: 1 / np.sqrt(1 + x * x)),
    "Atan": lambda a: F(np.arctan, lambda x: 1 / (1 + x * x)),
    "Atanh": lambda a: F(np.arctanh, lambda x: 1 / (1 - x * x)),
    "Celu": lambda a: celu(a.get("alpha", 1.0)),
    "Cos": lambda a: cosine(),
    "Cosh": lambda a: F(np.cosh, np.sinh, lambda x: 2 * np.sinh(x / 2) ** 2 / x),
    "Elu": lambda a: elu(a.get("alpha", 1.0)),
    "Erf": lambda a: F(special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "Exp": lambda a: exp(),
    "Gelu": lambda a: gelu(a.get("approximate", "none")),
    "HardSigmoid": lambda a: hard_sigmoid(a.get("alpha", 0.2), a.get("beta", 0.5)),
    "HardSwish": lambda a: hard_swish(),
    "LeakyRelu": lambda a: leaky(a.get("alpha", 0.01)),
    "Log": lambda a: F(np.log, lambda x: 1 / x),
    "Mish": lambda a: mish(),
    "Neg": lambda a: F(np.negative, lambda x: -np.ones_like(x)),
    "Reciprocal": lambda a: reciprocal(),
    "Relu": lambda a: F(lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "Selu": lambda a: selu(a.get("alpha", SELU_ALPHA), a.get("gamma", SELU_GAMMA)),
    "Shrink": lambda a: shrink(a.get("lambd", 0.5), a.get("bias", 0.0)),
    "Sigmoid": lambda a: sigmoid(),
    "Sin": lambda a: F(np.sin, np.cos),
    "Sinh": lambda a: F(np.sinh, np.cosh),
    "Softplus": lambda a: softplus(),
    "Softsign": lambda a: F(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "Sqrt": lambda a: F(np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "Swish": lambda a: swish(a.get("alpha", 1.0)),
    "Tan": lambda a: F(np.tan, lambda x: 1 / np.cos(x) ** 2),
    "Tanh": lambda a: F(np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "ThresholdedRelu": lambda a: F(
        lambda x: np.where(x > a.get("alpha", 1.0), x, 0.0), lambda x: (x > a.get("alpha", 1.0)).astype(float)
    ),
}
RANK = {"Reciprocal": 4, "Exp": 3, "Sigmoid": 2, "HardSigmoid": 2, "Tanh": 1, "Erf": 1, "Softsign": 1, "Atan": 1}
KEEPS_RANK = {"Neg", "Relu"}


def apply(n: Node, op: str, x: Tensor) -> Tensor:
    """The elementwise operator ``op`` with n's attributes, at n's expense."""
    rank = x.rank if op in KEEPS_RANK else RANK.get(op, 0)
    return elementwise(n, x, FUNCTIONS[op](n.attrs), rank)


def _elementwise_rule(n: Node, x: Tensor) -> Tensor:
    return apply(n, n.op, x)


for _op in FUNCTIONS:
    rule(_op)(_elementwise_rule)


@rule("PRelu")
def prelu(n: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Elementwise for a constant slope; a carried slope is Where(x < 0, slope x, x)."""
    if not slope.is_carrier:
        shape = np.broadcast_shapes(x.shape, slope.shape)
        return elementwise(n, x, leaky(np.broadcast_to(slope.value, shape)), shape=shape)
    y = where(n, x.value < 0, mul(n, slope, x), x)
    y.rank = 0
    return y


@rule("Pow")
def pow_(n: Node, x: Tensor, exponent: Tensor) -> Tensor:
    """Constant exponent: x^c, rank 4 for c < 0, kept for c > 0. Constant base: the function c^x of the exponent."""
    shape = np.broadcast_shapes(x.shape, exponent.shape)
    if not exponent.is_carrier:
        c = np.broadcast_to(exponent.value, shape)
        rank = x.rank if (c > 0).all() else 4 if (c < 0).all() else 0
        return elementwise(n, x, power(c), rank, shape)
    if x.is_carrier:
        raise n.refuse("base and exponent are both carriers")
    base = np.broadcast_to(x.value, shape)
    log = np.log(base)
    fn = Function(lambda e: base**e, lambda e: base**e * log, lambda e: np.expm1(e * log) / e)
    return elementwise(n, exponent, fn, shape=shape)


@rule("Mod")
def mod(n: Node, x: Tensor, divisor: Tensor) -> Tensor:
    """Elementwise in the dividend (f(0) = 0, derivative 1)."""
    if divisor.is_carrier:
        raise n.refuse("the divisor is a carrier")
    shape = np.broadcast_shapes(x.shape, divisor.shape)
    c = np.broadcast_to(divisor.value, shape)
    f = np.fmod if n.attrs.get("fmod", 0) else np.mod
    return elementwise(n, x, Function(lambda v: f(v, c), np.ones_like), shape=shape)


@rule("Floor", "Ceil", "Round")
def rounding(n: Node, x: Tensor) -> Tensor:
    """Secant: identity, the rounding residual is bias. Tangent: a constant."""
    value = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.round}[n.op](x.value)
    if n.tangent or not x.is_carrier:
        return constant(value)
    return carrier(value, plus_bias(n, x.lin, x.ones, value - x.value), x.ones, 0)


def negative_softplus_of_minus(n: Node, x: Tensor) -> Tensor:
    """log sigmoid(x) = -Softplus(-x)."""
    minus = Function(lambda v: -softplus_(-v), lambda v: sigmoid_(-v), lambda v: softplus().weight(-v))  # type: ignore[misc]
    return elementwise(n, x, minus)
