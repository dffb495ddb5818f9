"""JAX networks: Flax (nnx and linen), Equinox, plain jax.numpy with lax control flow.

``MODELS``: name -> (input shapes without the batch, maker of the function). Token ids are written as ("ids", length).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

Array = Any
Function = Callable[..., Array]
MODELS: dict[str, tuple[Sequence[tuple[Any, ...]], Callable[[], Function]]] = {}
TOKENS = 20


def model(*shapes: tuple[Any, ...]) -> Callable[[Callable[[], Function]], Callable[[], Function]]:
    def register(make: Callable[[], Function]) -> Callable[[], Function]:
        MODELS[make.__name__] = (shapes, make)
        return make

    return register


def weight(seed: int, *shape: int, scale: float = 0.5) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * scale)


def drawn(role: str, value: Array, rng: np.random.Generator) -> Array:
    """Biases, scales and statistics that are not the neutral ones."""
    if role in ("scale", "var", "weight_norm"):
        return jnp.asarray(rng.uniform(0.6, 1.4, value.shape).astype(np.float32))
    if role in ("bias", "mean"):
        return jnp.asarray(rng.normal(0, 0.3, value.shape).astype(np.float32))
    return value


def shaken(module: nnx.Module) -> nnx.Module:
    """An nnx module with random biases and statistics, as it is at inference."""
    rng = np.random.default_rng(5)
    state = nnx.state(module)
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] in ("bias", "scale", "mean", "var"):
            leaf[...] = drawn(path[-1], leaf[...], rng)
    nnx.update(module, state)
    module.eval()
    return module


def shaken_leaves(tree: Any) -> Any:
    """The same for the leaves of an Equinox module or of linen's parameters."""
    rng = np.random.default_rng(6)

    def visit(path: Any, leaf: Any) -> Any:
        last = path[-1]
        role = getattr(last, "name", getattr(last, "key", ""))
        return drawn(role, leaf, rng) if eqx.is_array(leaf) else leaf

    return jax.tree_util.tree_map_with_path(visit, tree)


# ---------------------------------------------------------------------------------------------- Flax, nnx


class Block(nnx.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, a: int, b: int, strides: int, rngs: nnx.Rngs) -> None:
        self.c1 = nnx.Conv(a, b, (3, 3), strides=strides, use_bias=False, rngs=rngs)
        self.n1 = nnx.BatchNorm(b, rngs=rngs)
        self.c2 = nnx.Conv(b, b, (3, 3), rngs=rngs)
        self.n2 = nnx.BatchNorm(b, rngs=rngs)
        self.short = nnx.Conv(a, b, (1, 1), strides=strides, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.relu(self.n1(self.c1(x)))
        return nnx.relu(self.n2(self.c2(h)) + self.short(x))


@model((8, 8, 3))
def resnet() -> Function:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
            self.b1, self.b2 = Block(6, 6, 1, rngs), Block(6, 8, 2, rngs)
            self.head = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = self.b2(self.b1(nnx.relu(self.stem(x))))
            return self.head(jnp.mean(h, axis=(1, 2)))

    return shaken(Net(nnx.Rngs(0)))


@model((9, 8, 3))
def mobile() -> Function:
    """Depthwise, dilated and transposed convolutions; swish; squeeze and excitation; max and average pools."""

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.a = nnx.Conv(3, 8, (3, 3), strides=2, padding="SAME", rngs=rngs)
            self.b = nnx.Conv(8, 8, (3, 3), feature_group_count=8, kernel_dilation=2, rngs=rngs)
            self.n = nnx.BatchNorm(8, rngs=rngs)
            self.s1, self.s2 = nnx.Linear(8, 4, rngs=rngs), nnx.Linear(4, 8, rngs=rngs)
            self.c = nnx.Conv(8, 6, (2, 2), padding="VALID", rngs=rngs)
            self.head = nnx.Linear(12, 4, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = nnx.swish(self.n(self.b(nnx.hard_swish(self.a(x)))))
            gate = nnx.sigmoid(self.s2(nnx.relu(self.s1(h.mean((1, 2))))))
            h = self.c(h * gate[:, None, None, :])
            h = [
                nnx.max_pool(h, window_shape=(2, 2), strides=(2, 1)),
                nnx.avg_pool(h, window_shape=(2, 2), strides=(2, 1)),
            ]
            return self.head(jnp.concatenate(h, -1).max((1, 2)))

    return shaken(Net(nnx.Rngs(1)))


@model((6, 6, 2))
def autoencoder() -> Function:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.a = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
            self.n = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
            self.b = nnx.ConvTranspose(4, 4, (3, 3), strides=2, rngs=rngs)
            self.c = nnx.Conv(4, 2, (3, 3), rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.c(nnx.gelu(self.b(nnx.elu(self.n(self.a(x))))))

    return shaken(Net(nnx.Rngs(2)))


@model((8, 8, 3))
def unet() -> Function:
    """Down, jax.image.resize up, skips; a class for each pixel."""

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.a = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.b = nnx.Conv(4, 6, (3, 3), rngs=rngs)
            self.n = nnx.InstanceNorm(6, rngs=rngs)
            self.c = nnx.Conv(10, 4, (3, 3), rngs=rngs)
            self.d = nnx.Conv(4, 3, (1, 1), rngs=rngs)

        def __call__(self, x: Array) -> Array:
            a = nnx.leaky_relu(self.a(x))
            b = nnx.silu(self.n(self.b(nnx.max_pool(a, window_shape=(2, 2), strides=(2, 2)))))
            b = jax.image.resize(b, (b.shape[0], 8, 8, 6), "bilinear", antialias=False)
            return self.d(nnx.relu(self.c(jnp.concatenate([a, b], -1))))

    return shaken(Net(nnx.Rngs(3)))


@model((7,))
def mlp() -> Function:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.a, self.b = nnx.Linear(7, 12, rngs=rngs), nnx.Linear(12, 12, rngs=rngs)
            self.n, self.r = nnx.LayerNorm(12, rngs=rngs), nnx.RMSNorm(12, rngs=rngs)
            self.drop = nnx.Dropout(0.3, rngs=rngs)
            self.head = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = self.drop(nnx.gelu(self.n(self.a(x))))
            h = h + nnx.tanh(self.r(self.b(h)))
            return self.head(h)

    return shaken(Net(nnx.Rngs(4)))


class Layer(nnx.Module):
    """A transformer layer, norm first."""

    def __init__(self, width: int, causal: bool, rngs: nnx.Rngs) -> None:
        self.n1, self.n2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.a, self.b = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)
        self.causal = causal

    def __call__(self, x: Array) -> Array:
        n = self.n1(x)
        mask = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool)) if self.causal else None
        x = x + self.attention(n, mask=mask)
        return x + self.b(nnx.gelu(self.a(self.n2(x)), approximate=not self.causal))


@model((8, 8, 3))
def vit() -> Function:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.patch = nnx.Conv(3, 8, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
            self.first, self.place = nnx.Param(weight(1, 1, 1, 8)), nnx.Param(weight(2, 1, 5, 8))
            self.a, self.b = Layer(8, False, rngs), Layer(8, False, rngs)
            self.n, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = self.patch(x)
            h = h.reshape(h.shape[0], 4, 8)
            first = jnp.broadcast_to(self.first[...], (h.shape[0], 1, 8))
            h = jnp.concatenate([first, h], 1) + self.place[...]
            return self.head(self.n(self.b(self.a(h)))[:, 0])

    return shaken(Net(nnx.Rngs(5)))


@model(("ids", 6))
def gpt() -> Function:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.words = nnx.Embed(TOKENS, 8, rngs=rngs)
            self.place = nnx.Param(weight(3, 1, 6, 8))
            self.a = Layer(8, True, rngs)
            self.n, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, TOKENS, rngs=rngs)

        def __call__(self, ids: Array) -> Array:
            return self.head(self.n(self.a(self.words(ids) + self.place[...])))

    return shaken(Net(nnx.Rngs(6)))


@model((5, 3))
def nnx_recurrent() -> Function:
    """A GRU and an LSTM cell of nnx, step by step."""

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.gru, self.lstm = nnx.GRUCell(3, 4, rngs=rngs), nnx.LSTMCell(4, 4, rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = jnp.zeros((x.shape[0], 4))
            state = (h, h)
            for t in range(5):
                h, _ = self.gru(h, x[:, t])
                state, y = self.lstm(state, h)
            return self.head(y)

    return shaken(Net(nnx.Rngs(7)))


# ---------------------------------------------------------------------------------------------- Flax, linen


@model((10, 2))
def linen_cnn() -> Function:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            h = nn.selu(nn.Conv(6, (3,), padding="CAUSAL")(x))
            h = nn.softplus(nn.Conv(6, (3,), strides=2)(h))
            h = nn.avg_pool(h, window_shape=(2,), strides=(1,))
            return nn.Dense(3)(nn.soft_sign(nn.Dense(5)(h.reshape(h.shape[0], -1))))

    net = Net()
    parameters = shaken_leaves(net.init(jax.random.key(0), jnp.zeros((1, 10, 2))))
    return lambda x: net.apply(parameters, x)


@model((5, 8))
def linen_transformer() -> Function:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            x = nn.LayerNorm()(x + nn.SelfAttention(2)(x))
            x = nn.LayerNorm()(x + nn.Dense(8)(nn.relu(nn.Dense(12)(x))))
            return nn.Dense(3)(x.mean(1))

    net = Net()
    parameters = shaken_leaves(net.init(jax.random.key(1), jnp.zeros((1, 5, 8))))
    return lambda x: net.apply(parameters, x)


# ---------------------------------------------------------------------------------------------- Equinox


@model((6,))
def eqx_mlp() -> Function:
    return jax.vmap(shaken_leaves(eqx.nn.MLP(6, 3, 8, 2, activation=jax.nn.mish, key=jax.random.key(0))))


@model((3, 8, 8))
def eqx_cnn() -> Function:
    """Channels first; adaptive pooling."""
    keys = jax.random.split(jax.random.key(1), 3)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 6, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.leaky_relu),
            eqx.nn.GroupNorm(2, 6),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(6, 4, 2, key=keys[1]),
            eqx.nn.Lambda(lambda h: jax.nn.relu6(h).reshape(-1)),
            eqx.nn.Linear(4, 3, key=keys[2]),
        ]
    )
    return jax.vmap(shaken_leaves(net))


@model((5, 8))
def eqx_attention() -> Function:
    keys = jax.random.split(jax.random.key(2), 2)
    attention = shaken_leaves(eqx.nn.MultiheadAttention(2, 8, use_output_bias=True, key=keys[0]))
    norm = shaken_leaves(eqx.nn.LayerNorm(8))
    head = shaken_leaves(eqx.nn.Linear(8, 3, key=keys[1]))

    def one(x: Array) -> Array:
        h = jax.vmap(norm)(x)
        return head((x + attention(h, h, h)).max(0))

    return jax.vmap(one)


@model((5, 3))
def eqx_gru() -> Function:
    """A GRU cell under lax.scan, batched by vmap."""
    keys = jax.random.split(jax.random.key(3), 2)
    cell, head = shaken_leaves(eqx.nn.GRUCell(3, 4, key=keys[0])), shaken_leaves(eqx.nn.Linear(4, 3, key=keys[1]))

    def one(x: Array) -> Array:
        last, _ = lax.scan(lambda h, v: (cell(v, h), None), jnp.zeros(4), x)
        return head(last)

    return jax.vmap(one)


# ---------------------------------------------------------------------------------------------- plain functions


@model((5, 3))
def scan() -> Function:
    """lax.scan with collected outputs."""
    a, b, c = weight(0, 4, 4), weight(1, 3, 4), weight(2, 4)

    def f(x: Array) -> Array:
        def step(h: Array, v: Array) -> tuple[Array, Array]:
            h = jnp.tanh(h @ a + v @ b + c)
            return h, h * h

        _, collected = lax.scan(step, jnp.zeros((x.shape[0], 4)), jnp.swapaxes(x, 0, 1))
        return collected.sum(0) @ weight(3, 4, 3)

    return f


@model((4,))
def loops() -> Function:
    """fori_loop, while_loop with a counter, cond on a fixed place, switch."""
    a, b = weight(0, 4, 4), weight(1, 4)

    def f(x: Array) -> Array:
        h, _ = lax.fori_loop(0, 3, lambda i, s: (jax.nn.relu(s[0] @ a + b) + 0.1 * s[1], s[1]), (x, x))
        _, h = lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, jnp.sin(s[1] @ a)), (0, h))
        h = lax.cond(h.sum() > 0, lambda v: v * 2.0 + 0.1, lambda v: jnp.tanh(v), h)
        return h @ weight(2, 4, 3)

    return f


@model((3, 4), (5, 4))
def einsums() -> Function:
    def f(x: Array, y: Array) -> Array:
        s = jnp.einsum("bid,de,bje->bij", x, weight(0, 4, 4), y)
        h = jnp.einsum("bij,bjd->bid", jax.nn.softmax(s, -1), y) + weight(1, 4)
        return jnp.einsum("bid,idc->bc", h, weight(2, 3, 4, 3))

    return f


@model((6, 2, 4))
def rotary_attention() -> Function:
    """jax.nn.dot_product_attention over rotated queries and keys."""
    angles = np.outer(np.arange(6), 1.0 / 10.0 ** np.arange(2)).astype(np.float32)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]

    def turned(t: Array) -> Array:
        a, b = jnp.split(t, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def f(x: Array) -> Array:
        q, k, v = (x @ weight(i, 4, 4) + 0.1 for i in range(3))
        h = jax.nn.dot_product_attention(turned(q), turned(k), v)
        return h.reshape(h.shape[0], 48) @ weight(4, 48, 3)

    return f


@model((6,))
def activations() -> Function:
    names = (
        "relu relu6 leaky_relu elu selu celu gelu silu mish softplus soft_sign sigmoid hard_sigmoid hard_silu "
        "hard_tanh log_sigmoid squareplus sparse_plus glu softmax log_softmax identity"
    ).split()

    def f(x: Array) -> Array:
        parts = [getattr(jax.nn, n)(x @ weight(i, 6, 6) + weight(50 + i, 6)) for i, n in enumerate(names)]
        h = jnp.concatenate([*parts, jax.nn.gelu(x + 0.1, approximate=False)], -1)
        return h @ weight(99, h.shape[-1], 3, scale=0.2)

    return f


@model((6,))
def elementwise() -> Function:
    def f(x: Array) -> Array:
        h = x @ weight(0, 6, 6) + weight(1, 6)
        p = jnp.abs(h) + 0.5
        parts = [jnp.exp(h), jnp.log(p), jnp.log1p(p), jnp.expm1(h), jnp.sin(h), jnp.cos(h), jnp.tanh(h), jnp.sqrt(p)]
        parts += [lax.rsqrt(p), 1.0 / p, h / p, p**1.7, h**3, jnp.square(h), lax.erf(h), jnp.arctan(h), jnp.sinh(h)]
        parts += [jnp.maximum(h, 0.2), jnp.minimum(h, p), jnp.clip(h, -0.5, 0.7), jnp.where(h > 0.1, h, 0.3 * p)]
        parts += [
            jnp.logaddexp(h, p),
            jnp.round(h),
            jnp.floor(2 * h),
            jnp.cumsum(h, axis=1),
            jnp.sort(h, axis=1),
            h[:, ::-1],
        ]
        g = jnp.concatenate(parts, -1)
        return g @ weight(2, g.shape[-1], 3, scale=0.2)

    return f


@model((5, 6))
def reductions() -> Function:
    def f(x: Array) -> Array:
        h = x @ weight(0, 6, 6) + weight(1, 6)
        parts = [h.sum(2), h.mean(2), h.max(2), h.min(2), h[:, :, :3].prod(2), h.std(2), h.var(2)]
        parts += [jax.nn.logsumexp(h, 2), jnp.linalg.norm(h, axis=2), lax.top_k(h, 2)[0][:, :, 1]]
        g = jnp.concatenate(parts, -1)
        return g @ weight(2, g.shape[-1], 3, scale=0.3)

    return f


@model((5, 3))
def moves() -> Function:
    """take, take_along_axis, dynamic slices, pads, rolls, stacks, one-hot rows, segment sums over the nodes."""

    def f(x: Array) -> Array:
        a = jnp.take(x, jnp.asarray([4, 0, 0]), axis=1)
        b = jnp.take_along_axis(x, jnp.argmax(x, 2)[:, :, None], axis=2)
        c = jnp.pad(x, ((0, 0), (1, 0), (0, 1)), constant_values=0.3)
        d = jnp.roll(x, 2, 1) + jnp.flip(x, 2)
        e = lax.dynamic_slice_in_dim(x, 1, 3, axis=1)
        g = jnp.stack([x[:, 0], x[:, 1]], 1).transpose(0, 2, 1)
        s = jnp.zeros((x.shape[0], 2, 3)).at[:, jnp.asarray([0, 1, 1, 0, 1])].add(jax.nn.relu(x + 0.1))
        parts = [t.reshape(t.shape[0], n) for t, n in ((a, 9), (b, 5), (c, 24), (d, 15), (e, 9), (g, 6), (s, 6))]
        return jnp.concatenate(parts, 1) @ weight(0, 74, 3)

    return f
