"""Several inputs, embeddings, distances, regressors, tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import mlp, module, parameter, unit


def two_tower() -> nn.Module:
    """A user and an item, each by its own network; their product and biases."""
    return module(
        lambda m, user, item: (m.user(user) * m.item(item)).sum(-1, keepdim=True) + m.a(user) + m.b(item),
        user=mlp(6, 10, 8), item=mlp(5, 10, 8), a=nn.Linear(6, 1), b=nn.Linear(5, 1),
    )  # fmt: skip


def clip() -> nn.Module:
    """Image and text codes normalised; similarities of all pairs in a batch, scaled by a learned temperature."""

    def forward(m: Any, image: Tensor, words: Tensor) -> Tensor:
        a = F.normalize(m.image(image), dim=-1)
        h = m.words(words)
        b = F.normalize(m.text(m.norm(h + m.layer(h)).mean(1)), dim=-1)
        return m.scale.exp() * a @ b.T

    return module(
        forward, image=nn.Sequential(unit(1, 6, stride=2), nn.Flatten(), nn.Linear(96, 8)), words=nn.Embedding(30, 8),
        layer=mlp(8, 12, 8, act=nn.GELU), norm=nn.LayerNorm(8), text=nn.Linear(8, 8), scale=parameter(1),
    )  # fmt: skip


def multimodal() -> nn.Module:
    """An image, a signal and numbers fused by gates."""

    def forward(m: Any, image: Tensor, signal: Tensor, numbers: Tensor) -> Tensor:
        parts = torch.stack([m.image(image), m.signal(signal), m.numbers(numbers)], 1)
        gates = m.gate(parts.flatten(1)).softmax(-1)
        return m.head((gates[:, :, None] * parts).sum(1))

    return module(
        forward, image=nn.Sequential(unit(1, 4, stride=2), nn.Flatten(), nn.Linear(64, 6)),
        signal=nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 6)), numbers=mlp(5, 8, 6),
        gate=nn.Linear(18, 3), head=nn.Linear(6, 4),
    )  # fmt: skip


def visual_question() -> nn.Module:
    """Words attend to image positions; bilinear fusion."""

    def forward(m: Any, image: Tensor, words: Tensor) -> Tensor:
        places = m.image(image).flatten(2).transpose(1, 2)
        h = m.words(words)
        h = m.norm(h + m.cross(h, places, places)[0])
        return m.head(h.mean(1), places.mean(1))

    return module(
        forward,
        image=unit(1, 8, stride=2),
        words=nn.Embedding(30, 8),
        cross=nn.MultiheadAttention(8, 2, batch_first=True),
        norm=nn.LayerNorm(8),
        head=nn.Bilinear(8, 8, 4),
    )


def film() -> nn.Module:
    """A question scales and shifts an image's channels."""

    def forward(m: Any, image: Tensor, question: Tensor) -> Tensor:
        scale, shift = m.film(question)[:, :, None, None].chunk(2, 1)
        return m.head(F.relu(m.net(image) * scale + shift).mean((2, 3)))

    return module(forward, net=unit(1, 6, stride=2), film=mlp(5, 8, 12), head=nn.Linear(6, 4))


def siamese() -> nn.Module:
    """Two images by one network: minus the distance of their codes (an energy)."""
    net = nn.Sequential(unit(1, 6, stride=2), nn.Flatten(), nn.Linear(96, 8))
    return module(lambda m, a, b: -(m.net(a) - m.net(b)).pow(2).sum(-1, keepdim=True).add(1e-6).sqrt(), net=net)


def triplet() -> nn.Module:
    """Anchor, positive, negative: the difference of cosine similarities."""

    def forward(m: Any, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a, b, c = m.net(a), m.net(b), m.net(c)
        return (F.cosine_similarity(a, b) - F.cosine_similarity(a, c))[:, None]

    return module(forward, net=mlp(6, 10, 5, act=nn.Tanh))


def embedding() -> nn.Module:
    """A normalised code of an image; the seed is what it is compared with."""
    net = nn.Sequential(
        unit(3, 6, stride=2), unit(6, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)
    )
    return module(lambda m, x: F.normalize(m.net(x), dim=-1), net=net)


def prototypes() -> nn.Module:
    """Distances to learned prototypes as logits."""
    return module(
        lambda m, x: -torch.linalg.vector_norm(m.net(x)[:, None] - m.prototypes, dim=-1) ** 2, net=mlp(6, 10, 5),
        prototypes=parameter(4, 5),
    )  # fmt: skip


def radial_basis() -> nn.Module:
    """Gaussians around centres."""
    return module(
        lambda m, x: m.head(torch.exp(-(x[:, None] - m.centres).pow(2).sum(-1) * 0.2)),
        centres=parameter(6, 5),
        head=nn.Linear(6, 3),
    )


def regressor() -> nn.Module:
    """A network without an axis of classes: one number a row, and its logarithm of variance."""
    return module(
        lambda m, x: (m.mean(h := m.net(x)).squeeze(-1), m.variance(h).squeeze(-1)),
        net=mlp(7, 12, 12, act=nn.Softplus),
        mean=nn.Linear(12, 1),
        variance=nn.Linear(12, 1),
    )


def poisson() -> nn.Module:
    """A count: the exponential of a sum of functions of one feature each (additive)."""
    nets = nn.ModuleList(mlp(1, 5, 1, act=nn.Tanh) for _ in range(4))
    return module(lambda m, x: torch.exp(sum(n(x[:, i : i + 1]) for i, n in enumerate(m.nets)) * 0.3), nets=nets)


def reconstruction_error() -> nn.Module:
    """The error of a reconstruction (anomaly score)."""
    return module(lambda m, x: (x - m.net(x)).pow(2).mean(-1, keepdim=True), net=mlp(8, 4, 8, act=nn.ELU))


def ensemble() -> nn.Module:
    """The mean of the members' probabilities, in logarithms."""
    nets = nn.ModuleList(mlp(6, 8, 3, act=a) for a in (nn.ReLU, nn.Tanh, nn.GELU))
    return module(lambda m, x: torch.stack([n(x).softmax(-1) for n in m.nets]).mean(0).log(), nets=nets)


def multitask() -> nn.Module:
    """Three heads; the first output is explained."""
    return module(
        lambda m, x: (m.a(h := m.net(x)).softmax(-1), m.b(h), m.c(h).sigmoid()),
        net=mlp(6, 10, 8), a=nn.Linear(8, 3), b=nn.Linear(8, 1), c=nn.Linear(8, 2),
    )  # fmt: skip


# Tables


def ft_transformer() -> nn.Module:
    """A token for each number, a token that is read out."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.cat([m.token.expand(x.shape[0], -1, -1), x[:, :, None] * m.weight + m.bias], 1)
        return m.head(F.relu(m.norm(m.net(h)[:, 0])))

    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return module(
        forward,
        token=parameter(1, 1, 8),
        weight=parameter(6, 8),
        bias=parameter(6, 8),
        net=net,
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 3),
    )


def tabnet() -> nn.Module:
    """Steps of gated units; each step's mask of features lowers what the next may use."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.norm(x)
        prior, code, total = torch.ones_like(x), m.first(x), 0.0
        for mask, step in zip(m.masks, m.units, strict=True):
            chosen = (mask(code[:, 4:]) * prior).softmax(-1)
            prior = prior * (1.3 - chosen)
            code = F.glu(step(chosen * x)) * math.sqrt(0.5)
            total = total + F.relu(code[:, :4])
        return m.head(total)

    return module(
        forward, norm=nn.BatchNorm1d(6), first=nn.Linear(6, 8), masks=nn.ModuleList(nn.Linear(4, 6) for _ in range(2)),
        units=nn.ModuleList(nn.Linear(6, 16) for _ in range(2)), head=nn.Linear(4, 3),
    )  # fmt: skip


def deepfm() -> nn.Module:
    """Factorisation machine (square of the sum less sum of the squares) and a deep part, categories and numbers."""

    def forward(m: Any, numbers: Tensor, a: Tensor, b: Tensor) -> Tensor:
        fields = torch.cat([m.a(a), m.b(b), numbers[:, :, None] * m.factors], 1)
        pairs = 0.5 * (fields.sum(1) ** 2 - (fields**2).sum(1)).sum(-1, keepdim=True)
        return m.wide(numbers) + pairs + m.deep(fields.flatten(1))

    return module(
        forward,
        a=nn.Embedding(9, 4),
        b=nn.Embedding(9, 4),
        factors=parameter(3, 4),
        wide=nn.Linear(3, 1),
        deep=mlp(24, 12, 1),
    )


def cross_network() -> nn.Module:
    """DCN: x0 (W x + b) + x, and a factorised one; self-normalising layers beside it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = x
        for layer in m.cross:
            h = x * layer(h) + h
        return m.head(torch.cat([h, m.deep(x)], -1))

    deep = nn.Sequential(nn.Linear(6, 8), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(8, 6), nn.SELU())
    return module(forward, cross=nn.ModuleList(nn.Linear(6, 6) for _ in range(2)), deep=deep, head=nn.Linear(12, 3))


def soft_tree() -> nn.Module:
    """A differentiable tree of depth two: products of sigmoids as weights of its leaves."""

    def forward(m: Any, x: Tensor) -> Tensor:
        p = m.split(x).sigmoid()
        left, right = p[:, 0] * torch.stack([p[:, 1], 1 - p[:, 1]]), (1 - p[:, 0]) * torch.stack([p[:, 2], 1 - p[:, 2]])
        return torch.cat([left, right]).T @ m.leaves

    return module(forward, split=nn.Linear(5, 3), leaves=parameter(4, 3))


def kan() -> nn.Module:
    """Splines on edges: SiLU and B-splines of degree one on a grid."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for base, spline in m.layers:
            hats = F.relu(1 - (x[..., None] - m.grid).abs())
            x = base(F.silu(x)) + spline(hats.flatten(1))
        return x

    layers = nn.ModuleList(nn.ModuleList([nn.Linear(a, b), nn.Linear(5 * a, b)]) for a, b in ((4, 5), (5, 3)))
    return module(forward, layers=layers, grid=torch.linspace(-2, 2, 5))
