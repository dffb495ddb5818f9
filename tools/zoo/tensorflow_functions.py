"""TensorFlow functions that are no Keras layers: control flow, tf.image, tf.signal, tf.linalg and the like.

``FUNCTIONS``: name -> (input shapes without the batch, function of the inputs). Weights are drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Tensor = Any
Function = Callable[..., Tensor]
FUNCTIONS: dict[str, tuple[Sequence[tuple[int, ...]], Function]] = {}


def weight(seed: int, *shape: int, scale: float = 0.5) -> Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * scale)


def function(*shapes: tuple[int, ...]) -> Callable[[Function], Function]:
    def register(f: Function) -> Function:
        FUNCTIONS[f.__name__] = (shapes, f)
        return f

    return register


@function((4,))
def while_loop(x: Tensor) -> Tensor:
    """h <- tanh(h A + x B + b), five times: a Loop with the count as its condition."""
    a, b, c = weight(0, 6, 6), weight(1, 4, 6), weight(2, 6)

    def step(i: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, tf.tanh(h @ a + x @ b + c)

    start = tf.zeros((tf.shape(x)[0], 6))
    _, h = tf.while_loop(lambda i, h: i < 5, step, [0, start])
    return h @ weight(3, 6, 3) + weight(4, 3)


@function((5, 3))
def scan_over_time(x: Tensor) -> Tensor:
    """tf.scan over the time axis, all states kept."""
    a, b = weight(0, 4, 4), weight(1, 3, 4)
    steps = tf.transpose(x, (1, 0, 2))
    states = tf.scan(lambda h, v: tf.nn.elu(h @ a + v @ b + 0.1), steps, initializer=tf.zeros((tf.shape(x)[0], 4)))
    return tf.reshape(tf.transpose(states, (1, 0, 2)), (-1, 20)) @ weight(2, 20, 3)


@function((4, 3))
def map_over_rows(x: Tensor) -> Tensor:
    """tf.map_fn: an independent step for each row of the batch."""
    a = weight(0, 3, 4)
    return tf.map_fn(lambda v: tf.reduce_sum(tf.nn.relu(v @ a + 0.2), axis=0), x)


@function((4,))
def condition(x: Tensor) -> Tensor:
    """tf.cond on a sum over the batch."""
    a, b = weight(0, 4, 3), weight(1, 4, 3)
    return tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.nn.relu(x @ a) + 0.3, lambda: tf.sin(x @ b) - 0.1)


@function((3, 4), (5, 4))
def einsums(x: Tensor, y: Tensor) -> Tensor:
    """Scores, their softmax, and a contraction of three."""
    p = tf.nn.softmax(tf.einsum("bid,bjd->bij", x, tf.einsum("bjd,de->bje", y, weight(0, 4, 4))))
    h = tf.einsum("bij,bjd->bid", p, y) + weight(1, 4)
    return tf.einsum("bid,idc->bc", h, weight(2, 3, 4, 3))


@function((4, 5))
def gathers(x: Tensor) -> Tensor:
    """gather, gather_nd, batch_dims, boolean and strided slices, reverse, roll, tile."""
    a = tf.gather(x, [3, 0, 0], axis=1)
    b = tf.gather_nd(tf.transpose(x, (1, 2, 0)), [[0, 1], [3, 4], [2, 2]])
    c = tf.gather(x, tf.argmax(tf.stop_gradient(x), axis=2)[:, :, None], axis=2, batch_dims=2)
    d = tf.reverse(x[:, ::2, -3:], [1, 2])
    e = tf.roll(x, [1, 2], [1, 2])[:, tf.newaxis, ..., 1]
    parts = [tf.reshape(t, (-1, n)) for t, n in ((a, 15), (tf.transpose(b), 3), (c, 4), (d, 6), (e, 4))]
    return tf.nn.relu(tf.concat(parts, 1) @ weight(0, 32, 6) + weight(1, 6)) @ weight(2, 6, 3)


@function((6, 6, 3))
def image_resize(x: Tensor) -> Tensor:
    """tf.image.resize by three methods, half-pixel centres; crop and pad."""
    h = tf.nn.conv2d(x, weight(0, 3, 3, 3, 4), 1, [[0, 0], [1, 2], [0, 1], [0, 0]])
    a = tf.image.resize(h, (9, 4), "bilinear")
    b = tf.image.resize(h, (9, 4), "nearest")
    c = tf.image.resize(h, (9, 4), "bicubic")
    h = tf.image.resize_with_crop_or_pad(tf.nn.relu(a + 0.1) + b * 0.5 + c * 0.3, 7, 6)
    return tf.reduce_mean(h, [1, 2]) @ weight(1, 4, 3) + weight(2, 3)


@function((32,))
def spectrogram(x: Tensor) -> Tensor:
    """Frames, a window, their Fourier transform, power, a mel-like matrix, Log (tf2onnx takes a matrix of frames)."""
    frames = tf.reshape(tf.signal.frame(x, 8, 4), (-1, 8)) * tf.signal.hann_window(8)
    power = tf.math.square(tf.abs(tf.signal.rfft(frames, [8])))
    mel = tf.math.log(tf.matmul(power, tf.abs(weight(0, 5, 4))) + 0.1)
    return tf.reduce_mean(tf.reshape(mel, (-1, 7, 4)), 1) @ weight(1, 4, 3) + weight(2, 3)


@function((6, 6, 4))
def image_ops(x: Tensor) -> Tensor:
    """Local response normalisation, moments, space and depth, pads, pools with explicit sizes, dilation."""
    h = tf.nn.local_response_normalization(tf.nn.relu(x + 0.2), 2, bias=1.0, alpha=0.3, beta=0.6)
    h = tf.nn.depth_to_space(tf.nn.conv2d(tf.nn.space_to_depth(h, 2), weight(0, 2, 2, 16, 8), 1, "SAME"), 2)
    h = tf.pad(h, [[0, 0], [1, 1], [2, 0], [0, 0]], "REFLECT")
    h = tf.nn.atrous_conv2d(h, weight(1, 2, 2, 2, 3), 2, "VALID")
    mean, variance = tf.nn.moments(h, [1, 2], keepdims=True)
    h = tf.nn.batch_normalization(h, mean, variance, weight(2, 3), weight(3, 3), 1e-3)
    h = tf.pad(h, [[0, 0], [1, 0], [0, 1], [0, 0]], constant_values=0.3)
    return tf.reduce_max(h, [1, 2]) @ weight(4, 3, 3)


@function((4, 6))
def reductions(x: Tensor) -> Tensor:
    """Every reduction, cumulative sums, norms, top-k, sort."""
    h = tf.tensordot(x, weight(0, 6, 6), 1) + weight(1, 6)
    parts = [f(h, axis=2) for f in (tf.reduce_sum, tf.reduce_mean, tf.reduce_max, tf.reduce_min, tf.reduce_logsumexp)]
    parts += [tf.reduce_prod(h[:, :, :3], axis=2), tf.math.reduce_std(h, axis=2), tf.math.reduce_variance(h, axis=2)]
    parts += [tf.norm(h, axis=2), tf.norm(h, ord=1, axis=2), tf.math.top_k(h, 2).values[:, :, 1]]
    parts += [tf.cumsum(h, axis=1, exclusive=True, reverse=True)[:, :, 0], tf.math.l2_normalize(h, 2)[:, :, 1]]
    parts += [tf.sort(h, axis=2, direction="DESCENDING")[:, :, 2], tf.linalg.band_part(h[:, :4, :4], 1, 0)[:, :, 1]]
    return tf.concat(parts, 1) @ weight(2, 60, 3, scale=0.3)


@function((6,))
def elementwise(x: Tensor) -> Tensor:
    """Functions of tf.math that Keras has no layer for."""
    h = x @ weight(0, 6, 6) + weight(1, 6)
    p = tf.abs(h) + 0.5
    parts = [tf.math.erf(h), tf.math.atan(h), tf.math.asinh(h), tf.sin(h), tf.cos(h), tf.math.log(1 + p), tf.exp(h)]
    parts += [
        tf.math.rsqrt(p),
        tf.math.reciprocal(p),
        tf.sqrt(p),
        tf.pow(p, 1.7),
        tf.square(h),
        h**3,
        tf.math.log(p) * p,
    ]
    parts += [tf.math.divide_no_nan(h, p), tf.math.squared_difference(h, p), tf.clip_by_value(h, -0.5, 0.7), tf.sinh(h)]
    parts += [tf.where(h > 0.1, h, 0.3 * p), tf.maximum(h, 0.2), tf.math.floormod(h, 0.7), tf.round(h), tf.floor(3 * h)]
    parts += [tf.math.atan2(h, p), tf.nn.crelu(h), tf.nn.leaky_relu(h), tf.nn.relu6(2 * h), tf.math.sigmoid(h) * h]
    return tf.concat(parts, 1) @ weight(2, 6 * len(parts) + 6, 3, scale=0.2)


@function((5, 3))
def scatters(x: Tensor) -> Tensor:
    """scatter_nd, tensor_scatter_nd_update, segment sums: messages of a small graph, one row after the other."""
    send, receive = [0, 1, 2, 3, 4], [1, 2, 0, 4, 3]
    h = tf.transpose(tf.nn.relu(x @ weight(0, 3, 4) + 0.1), (1, 0, 2))
    rows = tf.shape(h)[1]
    got = tf.scatter_nd([[r] for r in receive], tf.gather(h, send), tf.stack([5, rows, 4]))
    got = tf.tensor_scatter_nd_update(got, [[2]], h[:1] * 0.5)
    pooled = tf.math.unsorted_segment_sum(got, [0, 0, 1, 1, 1], 2)
    return tf.reshape(tf.transpose(pooled, (1, 0, 2)), (-1, 8)) @ weight(1, 8, 3)


@function((3, 4), (4, 3))
def matrix_products(x: Tensor, y: Tensor) -> Tensor:
    """Products with transposed operands, of two carriers, an identity, a triangle, one-hot rows."""
    a = tf.linalg.matmul(x, y) + tf.eye(3)
    b = tf.linalg.matmul(x, y, transpose_a=True, transpose_b=True) * tf.sequence_mask([1, 2, 3, 4], 4, tf.float32)
    c = tf.linalg.matvec(x, tf.reduce_mean(y, 2))
    d = tf.one_hot(tf.argmax(x, 2), 4) * x
    parts = [tf.reshape(t, (-1, n)) for t, n in ((a, 9), (b, 16), (c, 3), (d, 12))]
    return tf.concat(parts, 1) @ weight(0, 40, 3)


@function((4, 4, 3))
def layout_ops(x: Tensor) -> Tensor:
    """Split, stack, unstack, squeeze, broadcast, meshgrid of constants, extract_patches."""
    a, b = tf.split(x, [1, 2], axis=3)
    rows = tf.unstack(b, axis=1)
    h = tf.stack(rows[::-1], axis=2) * tf.broadcast_to(tf.squeeze(a, 3)[..., None], tf.shape(b))
    grid = tf.stack(tf.meshgrid(tf.range(4.0), tf.range(4.0)), -1)
    h = tf.concat([h, tf.zeros_like(a) + 0.5, b - 0.1 * grid], 3)
    return tf.reshape(h, (-1, 80)) @ weight(0, 80, 3)
