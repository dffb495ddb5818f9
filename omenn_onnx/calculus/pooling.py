"""Pooling. The winner of a maximum carries (the first on ties); ones: the mean over the valid window, per channel."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, Pair, rule
from omenn_onnx.calculus.elementwise import at_zero
from omenn_onnx.calculus.windows import counted_alike, mean_of_taps, same_padding, valid_taps, window_of
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var, Window


@rule("MaxPool")
def max_pool(
    p: Calculus,
    node: Node,
    X: Operand,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    storage_order: int = 0,
    ceil_mode: int = 0,
) -> Pair | None:
    """y = x[winner]."""
    if X.pair is None:
        return None
    y = p.out(node)
    n = len(kernel_shape)
    attrs = {k: v for k, v in node.attrs.items() if k != "storage_order"}
    window = window_of(X, kernel_shape, strides, dilations, pads, auto_pad)
    counted_alike(X, window, ceil_mode)
    value = p.build.apply(lp.Winners(X.t, y.t, attrs, window), [X.pair.value], y.shape)
    if window is not None:
        ones = mean_of_taps(p, X.pair.ones, X.shape, window, y.shape)
    else:
        window, shape, begin = same_padding(p, X, kernel_shape, strides, dilations, auto_pad)
        ones = mean_of_taps(p, X.pair.ones, X.shape, window, (*X.shape[:-n], *y.shape[-n:]), begin=begin, padded=shape)
    return Pair(value, ones, _pooled_rank(X, kernel_shape, dilations, y))


@rule("AveragePool")
def average_pool(
    p: Calculus,
    node: Node,
    X: Operand,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Pair | None:
    """The sum over the window divided by its taps: the valid ones, or all inside the padded input."""
    if X.pair is None:
        return None
    y = p.out(node)
    n = len(kernel_shape)
    v, o = X.pair.value, X.pair.ones
    window = window_of(X, kernel_shape, strides, dilations, pads, auto_pad)
    counted_alike(X, window, ceil_mode)
    begin, padded = None, None
    if window is None:
        window, padded, begin = same_padding(p, X, kernel_shape, strides, dilations, auto_pad)
        v = p.build.embed(v, (0, 0, *begin), padded)
    summed = p.build.window_sum(v, window, y.shape)
    if count_include_pad:
        count = _padded_taps(p, X.shape[-n:] if padded is None else padded[-n:], window, y.shape[-n:], ceil_mode)
    else:
        count = valid_taps(p, X.shape[-n:], window, y.shape[-n:], begin=begin)
    value = p.build.scale(summed, p.emit.op("Reciprocal", count, shape=count.shape))
    return Pair(
        value,
        mean_of_taps(p, o, X.shape, window, y.shape, begin=begin, padded=padded),
        _pooled_rank(X, kernel_shape, dilations, y),
    )


def _pooled_rank(X: Operand, kernel: list[int], dilations: list[int] | None, y: Operand) -> int:
    """Windowed pooling keeps a gate's rank; one window over everything is a reduction of the axes, which has rank 0."""
    n = len(kernel)
    whole = y.shape[-n:] == (1,) * n and X.shape[-n:] == tuple(kernel) and all(d == 1 for d in dilations or ())
    return 0 if whole or X.pair is None else X.pair.rank


def _padded_taps(p: Calculus, source: Shape, window: Window, out: Shape, ceil_mode: int) -> Tensor:
    """Taps inside the padded input: fewer than the kernel's only behind its end (ceil_mode)."""
    n = len(window.kernel)
    if not ceil_mode:
        return p.emit.const(np.asarray(np.prod(window.kernel), p.emit.dtype))
    extra = [window.pads[i] + window.pads[i + n] for i in range(n)]
    grown = tuple(d + k if isinstance(d, int) else p.emit.derived_dim(d, k) for d, k in zip(source, extra, strict=True))
    return valid_taps(p, grown, Window(window.kernel, window.strides, (0,) * (2 * n), window.dilations), out)


@rule("GlobalAveragePool")
def global_average_pool(p: Calculus, node: Node, X: Operand) -> Pair | None:
    if X.pair is None:
        return None
    axes = range(2, X.rank)
    return Pair(p.build.mean(X.pair.value, axes), p.build.mean(X.pair.ones, axes))


@rule("GlobalMaxPool")
def global_max_pool(p: Calculus, node: Node, X: Operand) -> Pair | None:
    """The winners in equal shares."""
    if X.pair is None:
        return None
    axes, best = list(range(2, X.rank)), p.out(node).t
    if node.outputs[0].dtype != p.emit.dtype:  # a runtime may keep the operand of a half unrounded
        best = p.emit.op("ReduceMax", X.t, axes, keepdims=1, shape=best.shape)
    value = winners(p, X.t, best, X.pair.value, axes)
    return Pair(value, p.build.mean(X.pair.ones, axes))


def winners(p: Calculus, x: Tensor, best: Tensor, v: Var, axes: list[int]) -> Var:
    """v summed over ``axes`` where x equals ``best`` (axes kept), each winner with an equal share."""
    won = p.emit.cast(p.emit.op("Equal", x, best, shape=x.shape))
    count = p.emit.op("Max", p.emit.op("ReduceSum", won, axes, keepdims=1), 1.0)  # (0 where best is NaN)
    share = p.emit.op("Div", won, count, shape=x.shape)
    return p.build.sum(p.build.scale(v, share), axes)


@rule("LpPool")
def lp_pool(
    p: Calculus,
    node: Node,
    X: Operand,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Pair | None:
    """(sum |x|^p)^(1/p) = Pow(WindowSum(Pow(Abs(x), p)), 1/p): the coefficients of the three multiply."""
    if X.pair is None:
        return None
    y = p.out(node)
    power = int(node.attrs.get("p", 2))
    window = window_of(X, kernel_shape, strides, dilations, pads, auto_pad)
    counted_alike(X, window, ceil_mode)
    begin, padded = None, None
    inner, outer = _norm_coefficients(p, X.t, y.t, power)
    v = p.build.scale(X.pair.value, inner)
    if window is None:
        window, padded, begin = same_padding(p, X, kernel_shape, strides, dilations, auto_pad)
        v = p.build.embed(v, (0, 0, *begin), padded)
    value = p.build.scale(p.build.window_sum(v, window, y.shape), outer)
    return Pair(value, mean_of_taps(p, X.pair.ones, X.shape, window, y.shape, begin=begin, padded=padded))


@rule("GlobalLpPool")
def global_lp_pool(p: Calculus, node: Node, X: Operand) -> Pair | None:
    if X.pair is None:
        return None
    inner, outer = _norm_coefficients(p, X.t, p.out(node).t, int(node.attrs.get("p", 2)))
    axes = range(2, X.rank)
    value = p.build.scale(p.build.sum(p.build.scale(X.pair.value, inner), axes), outer)
    return Pair(value, p.build.mean(X.pair.ones, axes))


def _norm_coefficients(p: Calculus, x: Tensor, y: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """d|x|^p and s^(1/p) at s = y^p, by the secant rule: sign(x) |x|^(p-1) and y / y^p. The tangent differs by p and
    1/p, which cancel: the norm is homogeneous."""
    e = p.emit
    size = e.op("Abs", x)
    inner = e.op("Sign", x)
    if power > 1:
        inner = e.op("Mul", inner, e.op("Pow", size, float(power - 1)) if power > 2 else size)
    outer = at_zero(e, y, e.op("Pow", y, float(1 - power)), 0.0)
    return inner, outer
