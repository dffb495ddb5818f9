"""Softmax and LogSoftmax as carriers.

Softmax, secant: exp(z) / Z with z = x - m, m the mean of the axis' entries within 1e4 of the maximum, Z = sum exp(z) a
weight, Exp elementwise: W = (exp(z) - 1) / (z Z), bias 1/Z. With p the softmax:  W = p (1 - e^-z)/z for z > 0;
1/Z = max(p) exp(m - max x); for z < -100 W = 0 and the bias is p. All is counted from the maximum: in a row masked
with -3e38 nothing else has a digit left. A row that is masked as a whole, whose softmax is NaN, counts as 0: a guard
behind it takes it out of the model.
"""

from __future__ import annotations

from omenn_onnx.calculus.base import Calculus, Operand, Pair, rule
from omenn_onnx.calculus.elementwise import exprel, where
from omenn_onnx.calculus.norms import half_mean
from omenn_onnx.graph.ir import Node


@rule("Softmax")
def softmax(p: Calculus, node: Node, X: Operand, *, axis: int = -1, axes: list[int] | None = None) -> Pair | None:
    """``axes``: of a softmax over several axes, which only a model that writes it out has."""
    if X.pair is None:
        return None
    e, v, shape = p.emit, X.pair.value, X.shape
    axes = axes or [axis % X.rank]
    y = p.out(node).t
    dead = e.op("IsNaN", y)
    y = where(e, dead, 0.0, y)
    ones = half_mean(p, X.pair.ones, axes)
    if p.tangent:
        weighted = p.build.scale(v, y)
        mean = p.build.sum(weighted, axes)
        value = p.build.add([weighted, p.build.scale(mean, e.op("Neg", y), shape)], shape)
        # p_i (x_i - sum_j p_j x_j), with x of -inf (p = 0) counting as 0
        finite = where(e, e.op("Equal", y, 0.0), 0.0, X.t)
        inner = e.op("ReduceSum", e.op("Mul", y, finite), axes, keepdims=1)
        rest = e.op("Sub", y, e.op("Mul", y, e.op("Sub", finite, inner)))
        return Pair(p.bias(value, rest, ones, shape), ones, 3)
    down_from = e.op("Sub", X.t, e.op("ReduceMax", X.t, axes, keepdims=1), shape=X.t.shape)
    near = e.op("GreaterOrEqual", down_from, -1e4, shape=X.t.shape)
    share = e.cast(near)
    count = e.op("Max", e.op("ReduceSum", share, axes, keepdims=1), 1.0)
    share = e.op("Div", share, count, shape=X.t.shape)
    middle = e.op("ReduceSum", e.op("Mul", where(e, near, down_from, 0.0), share), axes, keepdims=1)
    z = e.op("Sub", down_from, middle, shape=X.t.shape)
    inverse = e.op("Mul", e.op("ReduceMax", y, axes, keepdims=1), e.op("Exp", middle))
    far = e.op("Less", z, -100.0)
    up = e.op("Mul", y, exprel(e, e.op("Neg", e.op("Max", z, 0.0))))
    down = e.op("Mul", exprel(e, e.op("Min", e.op("Max", z, -100.0), 0.0)), inverse, shape=X.t.shape)
    w = where(e, e.op("Greater", z, 0.0), up, where(e, e.op("Or", far, dead), 0.0, down))
    b = e.op("Where", e.op("Or", far, dead), y, inverse, dtype=e.dtype, shape=X.t.shape)
    mean = p.build.sum(p.build.scale(v, share), axes)
    centred = p.build.add([v, p.build.scale(mean, -1.0)], shape)
    return Pair(p.bias(p.build.scale(centred, w), b, ones, shape), ones, 3)


@rule("LogSoftmax")
def log_softmax(p: Calculus, node: Node, X: Operand, *, axis: int = -1, axes: list[int] | None = None) -> Pair | None:
    """secant: x - logsumexp(x), the latter to the bias. tangent: v - sum p v, the rest to the bias. Ones: o."""
    if X.pair is None:
        return None
    e, v, o, shape = p.emit, X.pair.value, X.pair.ones, X.shape
    axes = axes or [axis % X.rank]
    y = p.out(node).t
    if not p.tangent:
        shift = e.op("Neg", e.op("ReduceLogSumExp", X.t, axes, keepdims=1))
        return Pair(p.bias(v, shift, o, shape), o)
    soft = e.op("Exp", y)
    mean = p.build.sum(p.build.scale(v, soft), axes)
    value = p.build.add([v, p.build.scale(mean, -1.0)], shape)
    finite = where(e, e.op("Equal", soft, 0.0), 0.0, X.t)
    inner = e.op("ReduceSum", e.op("Mul", soft, finite), axes, keepdims=1)
    rest = e.op("Sub", inner, e.op("ReduceLogSumExp", X.t, axes, keepdims=1))
    return Pair(p.bias(value, rest, o, shape), o)
