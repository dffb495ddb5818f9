"""Normalisations: x - mean(x) is linear, 1/std is a weight (secant); the full Jacobian (tangent)."""

from __future__ import annotations

import numpy as np

from .reductions import lp_weights
from .stream import Array, Node, Tensor, carrier, move, on_value, plus_bias, rule, times
from .sums import add, centre, mean_axes, mul, scale

Axes = tuple[int, ...]


def standardise(n: Node, x: Tensor, axes: Axes, epsilon: float) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over ``axes``; ones 1/2 o + 1/2 mean(o)."""
    centred = centre(x, axes)
    std = np.sqrt((centred.value**2).mean(axis=axes, keepdims=True) + epsilon)
    y = scale(centred, 1 / std, rank=0)
    if not n.tangent:
        return y
    hat = y.value

    def jacobian(s: Array) -> Array:
        s = s - mean_axes(s, axes)
        return (s - hat[..., None] * mean_axes(hat[..., None] * s, axes)) / std[..., None]

    lin = jacobian(x.lin)
    rest = hat - on_value(jacobian, x.value)
    return carrier(hat, plus_bias(n, lin, y.ones, rest), y.ones, 0)


def affine(n: Node, y: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    if gain is not None:
        y = mul(n, y, gain)
    return y if bias is None else add(n, [y, bias])


def per_channel(t: Tensor, ndim: int) -> Tensor:
    """[C] -> [1, C, 1, ...] (any further axes of t follow C)."""
    shape = (1, *t.shape, *(1,) * (ndim - 1 - t.ndim))
    return move(t, lambda i: i.reshape(shape))


@rule("LayerNormalization")
def layer_normalization(n: Node, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    axes = tuple(range(n.attrs.get("axis", -1) % x.ndim, x.ndim))
    y = affine(n, standardise(n, x, axes, n.attrs.get("epsilon", 1e-5)), gain, bias)
    mean = x.value.mean(axis=axes, keepdims=True)
    inv_std = 1 / np.sqrt(x.value.var(axis=axes, keepdims=True) + n.attrs.get("epsilon", 1e-5))
    lost = f"output of LayerNormalization {n.name!r} other than the first"
    return [y, Tensor(mean, refused=lost), Tensor(inv_std, refused=lost)]


@rule("InstanceNormalization")
def instance_normalization(n: Node, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    y = standardise(n, x, tuple(range(2, x.ndim)), n.attrs.get("epsilon", 1e-5))
    return affine(n, y, per_channel(gain, x.ndim), per_channel(bias, x.ndim))


@rule("GroupNormalization")
def group_normalization(n: Node, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Standardise each group of channels; scale and bias by group (opset 18) or by channel (21)."""
    groups, channels = n.attrs["num_groups"], x.shape[1]
    grouped = move(x, lambda i: i.reshape(x.shape[0], groups, -1))
    hat = standardise(n, grouped, (2,), n.attrs.get("epsilon", 1e-5))
    y = move(hat, lambda i: i.reshape(x.shape))
    if gain.shape[0] != channels:
        gain, bias = (move(t, lambda i: np.repeat(i, channels // groups)) for t in (gain, bias))
    return affine(n, y, per_channel(gain, x.ndim), per_channel(bias, x.ndim))


@rule("BatchNormalization")
def batch_normalization(
    n: Node, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor | list[Tensor]:
    """Inference: scale (x - mean) / std + bias, all constant. Training: batch statistics over all axes but 1."""
    epsilon = n.attrs.get("epsilon", 1e-5)
    training = n.attrs.get("training_mode", 0) if n.opset >= 14 else len([o for o in n.outputs if o]) > 1
    if x.ndim == 1:
        raise n.refuse("input of rank 1")
    if not training:
        if var.is_carrier:
            raise n.refuse("the variance is a carrier")
        inv_std = 1 / np.sqrt(per_channel(var, x.ndim).value + epsilon)
        centred = add(n, [x, per_channel(mean, x.ndim)], [1.0, -1.0])
        gain_by_std = scale(per_channel(gain, x.ndim), inv_std)
        return affine(n, centred, gain_by_std, per_channel(bias, x.ndim))
    axes = (0, *range(2, x.ndim))
    y = affine(n, standardise(n, x, axes, epsilon), per_channel(gain, x.ndim), per_channel(bias, x.ndim))
    momentum = n.attrs.get("momentum", 0.9)
    lost = f"running statistics of BatchNormalization {n.name!r}"
    new_mean = momentum * mean.value + (1 - momentum) * x.value.mean(axis=axes)
    new_var = momentum * var.value + (1 - momentum) * x.value.var(axis=axes)
    return [y, Tensor(new_mean, refused=lost), Tensor(new_var, refused=lost)]


def times_weight(n: Node, x: Tensor, weight: Array, weight_differential) -> Tensor:
    """y = x w(x), w a weight; tangent: + x dw, given as a function of streams. Ones o, rank kept."""
    y = scale(x, weight)
    if not n.tangent:
        return y

    def jacobian(s: Array) -> Array:
        return times(np.broadcast_to(weight, x.shape), s) + times(x.value, weight_differential(s))

    rest = y.value - on_value(jacobian, x.value)
    return carrier(y.value, plus_bias(n, jacobian(x.lin), y.ones, rest), y.ones, y.rank)


@rule("RMSNormalization")
def rms_normalization(n: Node, x: Tensor, gain: Tensor) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) * scale."""
    axes = tuple(range(n.attrs.get("axis", -1) % x.ndim, x.ndim))
    rms = np.sqrt((x.value**2).mean(axis=axes, keepdims=True) + n.attrs.get("epsilon", 1e-5))

    def differential(s: Array) -> Array:
        return -times(1 / rms**3, mean_axes(times(x.value, s), axes))

    return affine(n, times_weight(n, x, 1 / rms, differential), gain, None)


@rule("LpNormalization")
def lp_normalization(n: Node, x: Tensor) -> Tensor:
    """x / ||x||_p over one axis; 0 where the norm is 0."""
    axis, p = n.attrs.get("axis", -1) % x.ndim, n.attrs.get("p", 2)
    norm = (np.abs(x.value) ** p).sum(axis=axis, keepdims=True) ** (1 / p)
    weight = np.where(norm == 0, 0.0, 1 / np.where(norm == 0, 1.0, norm))

    def differential(s: Array) -> Array:
        return -times(weight**2, times(lp_weights(x.value, norm, p), s).sum(axis=axis, keepdims=True))

    return times_weight(n, x, weight, differential)


@rule("LRN")
def lrn(n: Node, x: Tensor) -> Tensor:
    """x (bias + alpha/size * sum of squares over neighbouring channels)^-beta."""
    size, alpha, beta = n.attrs["size"], n.attrs.get("alpha", 1e-4), n.attrs.get("beta", 0.75)

    def window_sum(s: Array) -> Array:
        out = np.zeros_like(s)
        for c in range(x.shape[1]):
            low, high = max(0, c - (size - 1) // 2), min(x.shape[1], c + size // 2 + 1)
            out[:, c] = s[:, low:high].sum(axis=1)
        return out

    base = n.attrs.get("bias", 1.0) + alpha / size * window_sum(x.value**2)

    def differential(s: Array) -> Array:
        return times(-beta * base ** (-beta - 1) * 2 * alpha / size, window_sum(times(x.value, s)))

    return times_weight(n, x, base**-beta, differential)
