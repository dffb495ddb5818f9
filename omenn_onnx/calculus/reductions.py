"""Reductions over axes. Ones: the mean over the reduced axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, Pair, rule
from omenn_onnx.calculus.elementwise import FUNCTIONS, apply_function, at_zero, where
from omenn_onnx.calculus.pooling import winners
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var


def reduced_axes(p: Calculus, X: Operand, axes: Operand | None, noop: int) -> list[int]:
    """The axes of a reduction, all when none are given; [] for the noop flag."""
    given = p.number(axes, "axes")
    if given is None or given.size == 0:
        return [] if noop else list(range(X.rank))
    return sorted(int(a) % X.rank for a in given.reshape(-1))


def _reduce(
    p: Calculus, X: Operand, axes: list[int], keepdims: int, linear: Callable[[Var, list[int]], Var]
) -> Pair | None:
    """``linear`` maps the value stream to the reduced one with the axes kept; then they are dropped if asked."""
    if X.pair is None:
        return None
    value, ones = linear(X.pair.value, axes), p.build.mean(X.pair.ones, axes)
    if not keepdims:
        value, ones = _drop(p, value, axes), _drop(p, ones, axes)
    return Pair(value, ones)


def _drop(p: Calculus, v: Var, axes: list[int]) -> Var:
    return p.build.reshape(v, tuple(d for i, d in enumerate(v.shape) if i not in axes))


def _keep(p: Calculus, y: Operand, X: Operand, axes: list[int]) -> Tensor:
    """The output with its reduced axes in place."""
    shape: Shape = tuple(1 if i in axes else d for i, d in enumerate(X.shape))
    return y.t if y.rank == X.rank else p.emit.op("Unsqueeze", y.t, axes, shape=shape)


@rule("ReduceSum")
def reduce_sum(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    return _reduce(p, X, reduced, keepdims, p.build.sum)


@rule("ReduceMean")
def reduce_mean(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    return _reduce(p, X, reduced, keepdims, p.build.mean)


@rule("ReduceMax", "ReduceMin")
def reduce_max(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    """The winners in equal shares."""
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    best = _keep(p, p.out(node), X, reduced)
    if node.outputs[0].dtype != p.emit.dtype:  # a runtime may keep the operand of a half unrounded
        best = p.emit.op(node.op, X.t, reduced, keepdims=1, shape=best.shape)
    return _reduce(p, X, reduced, keepdims, lambda v, a: winners(p, X.t, best, v, a) if a else v)


@rule("ReduceL1", "ReduceL2", "ReduceSumSquare")
def reduce_norm(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    """L2: x / norm per element, 0 at norm 0. L1: sign(x). Sum of squares: x (tangent: 2x, and -y to the bias)."""
    e = p.emit
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    if node.op == "ReduceL1":
        w = e.op("Sign", X.t)
    elif node.op == "ReduceL2":
        norm = _keep(p, p.out(node), X, reduced)
        w = e.op("Mul", X.t, at_zero(e, norm, e.op("Reciprocal", norm), 0.0), shape=X.t.shape)
    else:
        w = e.op("Mul", X.t, 2.0) if p.tangent else X.t
    pair = _reduce(p, X, reduced, keepdims, lambda v, a: p.build.sum(p.build.scale(v, w), a))
    if pair is not None and p.tangent and node.op == "ReduceSumSquare":
        y = p.out(node)
        pair.value = p.bias(pair.value, e.op("Neg", y.t), pair.ones, y.shape)
    return pair


@rule("ReduceLogSum")
def reduce_log_sum(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    """Log(ReduceSum(x))."""
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    y = p.out(node)
    inner = _reduce(p, X, reduced, keepdims, p.build.sum)
    return apply_function(p, FUNCTIONS["Log"], Operand(p.emit.op("Exp", y.t), inner), y, {})


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    """sum p v, with p the softmax over the axes; its entropy to the bias."""
    e = p.emit
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    y = p.out(node)
    soft = e.op("Exp", e.op("Sub", X.t, _keep(p, y, X, reduced)), shape=X.t.shape)
    pair = _reduce(p, X, reduced, keepdims, lambda v, a: p.build.sum(p.build.scale(v, soft), a))
    if pair is None:
        return None
    finite = where(e, e.op("Equal", soft, 0.0), 0.0, X.t)
    inner = e.op("Mul", soft, finite)
    if reduced:
        inner = e.op("ReduceSum", inner, reduced, keepdims=keepdims, shape=y.t.shape)
    return Pair(p.bias(pair.value, e.op("Sub", y.t, inner), pair.ones, y.shape), pair.ones)


@rule("ReduceProd")
def reduce_prod(
    p: Calculus,
    node: Node,
    X: Operand,
    axes: Operand | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Pair | None:
    """Each factor 1/n, with the product of the others as its weight (tangent: each whole, and -(n-1) y to the bias)."""
    e = p.emit
    reduced = reduced_axes(p, X, axes, noop_with_empty_axes)
    if X.pair is None or not reduced:
        return X.pair
    zero = e.op("Equal", X.t, 0.0)
    safe = where(e, zero, 1.0, X.t)
    others = e.op("Div", e.op("ReduceProd", safe, reduced, keepdims=1), safe, shape=X.t.shape)
    zeros = e.op("ReduceSum", e.cast(zero), reduced, keepdims=1)
    alive = e.op("Equal", e.op("Sub", zeros, e.cast(zero), shape=X.t.shape), 0.0)
    w = where(e, alive, others, 0.0)
    count = e.count([X.shape[a] for a in reduced])
    n = e.const(np.asarray(count, e.dtype)) if isinstance(count, float) else count
    if not p.tangent:
        w = e.op("Div", w, n, shape=X.t.shape)
    pair = _reduce(p, X, reduced, keepdims, lambda v, a: p.build.sum(p.build.scale(v, w), a))
    assert pair is not None
    if p.tangent:
        y = p.out(node)
        pair.value = p.bias(pair.value, e.op("Mul", y.t, e.op("Sub", 1.0, n)), pair.ones, y.shape)
    return pair


@rule("CumSum")
def cumsum(p: Calculus, node: Node, X: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> Pair | None:
    """Running sums; ones: the mean over the prefix (exclusive: where it is empty, over all)."""
    if X.pair is None:
        return None
    a = int(p.number(axis, "axis").reshape(())) % X.rank
    primitive = lp.CumSum(a, bool(exclusive), bool(reverse))
    value = p.build.apply(primitive, [X.pair.value], X.shape)
    o = X.pair.ones
    if o.shape[a] == 1:
        return Pair(value, o)
    e = p.emit
    size = X.shape[a]
    line: Shape = (size, *[1] * (X.rank - 1 - a))
    steps = e.op("Expand", 1.0, e.shape(line), shape=line)
    count = e.op("CumSum", steps, np.asarray(0, np.int64), exclusive=exclusive, reverse=reverse, shape=line)
    run = p.build.apply(primitive, [o], o.shape)
    ones = p.build.scale(run, e.op("Reciprocal", e.op("Max", count, 1.0)))
    if exclusive:
        empty = e.op("Equal", count, 0.0)
        ones = p.build.add([ones, p.build.select(p.build.mean(o, [a]), empty, o.shape)], o.shape)
    return Pair(value, ones)
