"""Softmax and LogSoftmax as carriers, over any set of axes."""

from __future__ import annotations

import numpy as np
from scipy import special

from .stream import Node, Tensor, carrier, constant, plus_bias, rule, times
from .sums import mean_axes

Axes = tuple[int, ...]


def softmax(n: Node, x: Tensor, axes: Axes) -> Tensor:
    """p = exp(z)/Z with z = x - m, m the mean of the entries within 1e4 of the maximum; Z is a weight.

    Secant: W = expm1(z)/(z Z), bias 1/Z; z < -100: W = 0, bias p. Tangent: the full Jacobian p (dx - <p, dx>).
    Ones in both: 1/2 o + 1/2 mean over the axis of o. Rank 3.
    """
    v = x.value - x.value.max(axis=axes, keepdims=True)  # (a row of -3e38 has no digits to subtract)
    total = np.exp(v).sum(axis=axes, keepdims=True)
    p = np.exp(v) / total
    if not x.is_carrier:
        return constant(p)
    near = v >= -1e4
    count = near.sum(axis=axes, keepdims=True)
    ones = (x.ones + mean_axes(x.ones, axes)) / 2
    if n.tangent:
        lin = times(p, x.lin)
        lin = lin - times(p, lin.sum(axis=axes, keepdims=True))
        pv = np.where(p == 0, 0.0, p * x.value)
        rest = np.where(p == 0, 0.0, p - (pv - p * pv.sum(axis=axes, keepdims=True)))
        return carrier(p, plus_bias(n, lin, ones, rest), ones, 3, frozenset(axes))
    m = np.where(near, v, 0.0).sum(axis=axes, keepdims=True) / count
    m_lin = np.where(near[..., None], x.lin, 0.0).sum(axis=axes, keepdims=True) / count[..., None]
    z = v - m
    inverse_z = np.broadcast_to(np.exp(m) / total, z.shape)
    above = p * -np.expm1(-np.maximum(z, 0)) / z
    below = np.expm1(np.minimum(z, 0)) / z * inverse_z
    w = np.where(z > 0, above, np.where(z < 0, below, inverse_z))
    w = np.where(z < -100, 0.0, w)
    bias = np.where(w == 0, p, p - w * z)
    return carrier(p, plus_bias(n, times(w, x.lin - m_lin), ones, bias), ones, 3, frozenset(axes))


def log_softmax(n: Node, x: Tensor, axes: Axes) -> Tensor:
    """x - logsumexp(x); secant: the latter to the bias. Tangent: dx - <p, dx>. Ones o."""
    lse = special.logsumexp(x.value, axis=axes, keepdims=True)
    value = x.value - lse
    if not x.is_carrier:
        return constant(value)
    lin, rest = x.lin, np.broadcast_to(-lse, value.shape)
    if n.tangent:
        p = np.exp(value)
        lin = lin - times(p, x.lin).sum(axis=axes, keepdims=True)
        rest = rest + np.where(p == 0, 0.0, p * x.value).sum(axis=axes, keepdims=True)
    return carrier(value, plus_bias(n, lin, x.ones, rest), x.ones, 0)


def softmax_axes(n: Node, x: Tensor) -> Axes:
    """Opset 13: one axis. Before: all axes from ``axis`` on, as one."""
    if n.opset >= 13:
        return (n.attrs.get("axis", -1) % max(x.ndim, 1),)
    axis = n.attrs.get("axis", 1)
    return tuple(range(axis % x.ndim if axis < 0 else axis, x.ndim))


@rule("Softmax")
def _softmax(n: Node, x: Tensor) -> Tensor:
    return softmax(n, x, softmax_axes(n, x))


@rule("LogSoftmax")
def _log_softmax(n: Node, x: Tensor) -> Tensor:
    return log_softmax(n, x, softmax_axes(n, x))
