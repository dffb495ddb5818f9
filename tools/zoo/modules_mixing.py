"""Ways of mixing positions, channels and experts; networks of unusual form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import conv, mlp, module, parameter, unit


def mixture() -> nn.Module:
    """Dense mixture of experts: a softmax of gates times all experts."""
    experts = nn.ModuleList(mlp(6, 8, 4, act=nn.GELU) for _ in range(3))
    return module(
        lambda m, x: (m.gate(x).softmax(-1)[:, None] @ torch.stack([e(x) for e in m.experts], 1))[:, 0],
        gate=nn.Linear(6, 3), experts=experts,
    )  # fmt: skip


def sparse_mixture() -> nn.Module:
    """The two best of four experts per token, weights gathered, logits of the kept ones through a softmax."""

    def forward(m: Any, x: Tensor) -> Tensor:
        weights, chosen = m.gate(x).topk(2, dim=-1)
        up, down = m.up[chosen], m.down[chosen]
        h = F.silu(torch.einsum("nti,ntkio->ntko", x, up))
        return m.head((weights.softmax(-1)[..., None] * torch.einsum("ntko,ntkoi->ntki", h, down)).sum(2).mean(1))

    return module(forward, gate=nn.Linear(5, 4), up=parameter(4, 5, 8), down=parameter(4, 8, 5), head=nn.Linear(5, 3))


def squeeze_excitation() -> nn.Module:
    """Channel gates by hard sigmoids, spatial gates by pooled maps (CBAM)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        h = h * F.hardsigmoid(m.up(F.hardswish(m.down(h.mean((2, 3), keepdim=True)))))
        h = h * m.place(torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)).sigmoid()
        return m.head(h.mean((2, 3)))

    return module(
        forward, stem=unit(3, 8, stride=2), down=conv(8, 4, 1), up=conv(4, 8, 1), place=conv(2, 1), head=nn.Linear(8, 4)
    )


def perceiver() -> nn.Module:
    """A few latents attend to many positions, then to each other."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([x, m.places.expand(x.shape[0], -1, -1)], -1)
        h = m.latents.expand(x.shape[0], -1, -1)
        h = h + m.cross(m.norms[0](h), x, x)[0]
        h = h + m.own(n := m.norms[1](h), n, n)[0]
        return m.head((h + m.net(h)).mean(1))

    cross = nn.MultiheadAttention(8, 2, batch_first=True, kdim=7, vdim=7)
    return module(
        forward,
        places=parameter(1, 12, 3),
        latents=parameter(1, 4, 8),
        cross=cross,
        own=nn.MultiheadAttention(8, 2, batch_first=True),
        norms=nn.ModuleList(nn.LayerNorm(8) for _ in range(2)),
        net=mlp(8, 16, 8, act=nn.GELU),
        head=nn.Linear(8, 4),
    )


def gmlp() -> nn.Module:
    """A gate that is a linear map over positions."""

    def forward(m: Any, x: Tensor) -> Tensor:
        u, v = F.gelu(m.up(m.norm(x))).chunk(2, -1)
        v = m.mix(m.gate(v).transpose(1, 2)).transpose(1, 2)
        return m.head((x + m.down(u * v)).mean(1))

    return module(
        forward,
        norm=nn.LayerNorm(6),
        up=nn.Linear(6, 16),
        gate=nn.LayerNorm(8),
        mix=nn.Linear(7, 7),
        down=nn.Linear(8, 6),
        head=nn.Linear(6, 3),
    )


def linear_attention() -> nn.Module:
    """elu + 1 features, sums of outer products, a quotient."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = k.transpose(1, 2) @ v
        return m.head((q @ context / (q @ k.sum(1)[..., None])).mean(1))

    return module(forward, qkv=nn.Linear(5, 24), head=nn.Linear(8, 3))


def performer() -> nn.Module:
    """Causal attention by random features: exponentials, cumulative sums."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        a, b = (torch.exp(t @ m.features - 0.5 * (t**2).sum(-1, keepdim=True)) for t in (q * 0.5, k * 0.5))
        context = torch.cumsum(b[..., :, None] * v[..., None, :], 1)
        return m.head(torch.einsum("ntf,ntfd->ntd", a, context) / (a * b.cumsum(1)).sum(-1, keepdim=True))

    return module(forward, qkv=nn.Linear(5, 12), features=parameter(4, 6), head=nn.Linear(4, 3))


def linformer() -> nn.Module:
    """Keys and values projected to fewer positions; ALiBi-like slopes; a gated output."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        k, v = (m.fewer(t.transpose(1, 2)).transpose(1, 2) for t in (k, v))
        h = (q @ k.transpose(1, 2) / math.sqrt(8) - 0.1 * torch.arange(3.0)).softmax(-1) @ v
        return m.head((h * m.gate(x).sigmoid()).amax(1))

    return module(forward, qkv=nn.Linear(5, 24), fewer=nn.Linear(8, 3), gate=nn.Linear(5, 8), head=nn.Linear(8, 3))


def mamba() -> nn.Module:
    """A selective state space: steps, inputs and outputs chosen by the input, the recurrence written out."""

    def forward(m: Any, x: Tensor) -> Tensor:
        u, gate = m.into(x).chunk(2, -1)
        u = F.silu(m.conv(F.pad(u.transpose(1, 2), (2, 0))).transpose(1, 2))
        step = F.softplus(m.step(u))
        b, c = m.choose(u).chunk(2, -1)
        decay = torch.exp(step[..., None] * -m.rates.exp())
        state, out = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (step[:, t] * u[:, t])[..., None] * b[:, t, None]
            out.append((state * c[:, t, None]).sum(-1) + m.skip * u[:, t])
        return m.head(torch.stack(out, 1) * F.silu(gate))

    return module(
        forward, into=nn.Linear(4, 12), conv=nn.Conv1d(6, 6, 3, groups=6), step=nn.Linear(6, 6), choose=nn.Linear(6, 6),
        rates=parameter(6, 3), skip=parameter(6), head=nn.Linear(6, 3),
    )  # fmt: skip


def state_space() -> nn.Module:
    """S4: a convolution with a long kernel, written as a Toeplitz matrix."""

    def forward(m: Any, x: Tensor) -> Tensor:
        kernel = (m.c[:, :, None] * torch.exp(-m.a.exp()[:, :, None] * torch.arange(8.0))).sum(1)
        index = (torch.arange(8)[:, None] - torch.arange(8)).clamp(min=0)
        toeplitz = kernel[:, index] * torch.ones(8, 8).tril()
        h = F.gelu(torch.einsum("dts,nsd->ntd", toeplitz, x) + m.d * x)
        return m.head(F.glu(m.mix(h)).mean(1))

    return module(
        forward, a=parameter(4, 3), c=parameter(4, 3), d=parameter(4), mix=nn.Linear(4, 8), head=nn.Linear(4, 3)
    )


def rwkv() -> nn.Module:
    """Time mixing: exponentials of keys accumulated with decay, a quotient, a receptance gate, a squared ReLU."""

    def forward(m: Any, x: Tensor) -> Tensor:
        past = F.pad(x, (0, 0, 1, 0))[:, :-1]
        mixed = x * m.share + past * (1 - m.share)
        k, v, r = m.key(mixed), m.value(mixed), m.receive(mixed).sigmoid()
        top = bottom = torch.zeros_like(k[:, 0])
        out = []
        for t in range(x.shape[1]):
            now = torch.exp(m.bonus + k[:, t])
            out.append((top + now * v[:, t]) / (bottom + now))
            keep, new = torch.exp(-m.decay.exp()), torch.exp(k[:, t])
            top, bottom = keep * top + new * v[:, t], keep * bottom + new
        h = x + m.out(r * torch.stack(out, 1))
        return m.head(h + m.down(F.relu(m.up(h)).square()))

    return module(
        forward,
        share=parameter(4),
        key=nn.Linear(4, 4),
        value=nn.Linear(4, 4),
        receive=nn.Linear(4, 4),
        bonus=parameter(4),
        decay=parameter(4),
        out=nn.Linear(4, 4),
        up=nn.Linear(4, 8),
        down=nn.Linear(8, 4),
        head=nn.Linear(4, 3),
    )


def capsules() -> nn.Module:
    """Squashed vectors, predictions by matrices, two rounds of routing; lengths as logits."""

    def squash(v: Tensor) -> Tensor:
        square = (v**2).sum(-1, keepdim=True)
        return square / (1 + square) * v / (square + 1e-6).sqrt()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = squash(m.first(x).unflatten(1, (4, 3)).flatten(3).transpose(2, 3).flatten(1, 2))
        votes = torch.einsum("nic,icod->niod", h, m.matrices)
        routes = votes.new_zeros(votes.shape[:3])
        for _ in range(2):
            out = squash((routes.softmax(2)[..., None] * votes).sum(1))
            routes = routes + (votes * out[:, None]).sum(-1)
        return (squash((routes.softmax(2)[..., None] * votes).sum(1)) ** 2).sum(-1).add(1e-6).sqrt()

    return module(forward, first=conv(1, 12, stride=2), matrices=parameter(36, 3, 4, 3))


def flow() -> nn.Module:
    """RealNVP: couplings with exponentials; the logarithm of the density."""

    def forward(m: Any, x: Tensor) -> Tensor:
        total = 0.0
        for net in m.nets:
            a, b = x.chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            scale = scale.tanh()
            x, total = torch.cat([b * scale.exp() + shift, a], -1), total + scale.sum(-1)
        return (total - 0.5 * (x**2).sum(-1))[:, None]

    return module(forward, nets=nn.ModuleList(mlp(3, 8, 6) for _ in range(2)))


def hypernetwork() -> nn.Module:
    """One input makes the weights of a linear network on the other."""

    def forward(m: Any, x: Tensor, task: Tensor) -> Tensor:
        weights = m.make(task).unflatten(-1, (4, 5))
        return m.head(F.relu((weights @ x[..., None])[..., 0] + m.bias(task)))

    return module(forward, make=mlp(3, 8, 20), bias=nn.Linear(3, 4), head=nn.Linear(4, 3))


def dynamic_filter() -> nn.Module:
    """Filters of a convolution made from the image itself (each row its own, by groups)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        filters = m.make(x.mean((2, 3))).reshape(-1, 3, 3, 3)
        return m.head(F.conv2d(x.reshape(1, -1, *x.shape[2:]), filters, groups=x.shape[0]).reshape(x.shape[0], -1))

    return module(forward, make=nn.Linear(3, 27), head=nn.Linear(16, 3))


def fourier_operator() -> nn.Module:
    """FNO: low frequencies of the transform times complex weights, back, and a pointwise path."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.lift(x)
        spectrum = torch.view_as_real(torch.fft.rfft(h, dim=-1))[:, :, :4]
        real, imaginary = spectrum.unbind(-1)
        a = torch.einsum("nik,iok->nok", real, m.real) - torch.einsum("nik,iok->nok", imaginary, m.imaginary)
        b = torch.einsum("nik,iok->nok", real, m.imaginary) + torch.einsum("nik,iok->nok", imaginary, m.real)
        back = a @ m.cosines - b @ m.sines
        return m.head(F.gelu(back + m.point(h)))

    angles = 2 * math.pi * torch.arange(4)[:, None] * torch.arange(12) / 12
    scale = torch.tensor([1.0, 2, 2, 2])[:, None] / 12
    return module(
        forward,
        lift=nn.Conv1d(2, 4, 1),
        real=parameter(4, 4, 4),
        imaginary=parameter(4, 4, 4),
        cosines=angles.cos() * scale,
        sines=angles.sin() * scale,
        point=nn.Conv1d(4, 4, 1),
        head=nn.Conv1d(4, 1, 1),
    )


def fnet() -> nn.Module:
    """Two Fourier transforms, over positions and channels, their real part, in place of attention."""
    return module(
        lambda m, x: m.head(
            m.norm(x + m.net(torch.view_as_real(torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1))[..., 0] * 0.2)).mean(1)
        ),
        net=mlp(4, 8, 4, act=nn.GELU),
        norm=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
    )


def nerf() -> nn.Module:
    """Coordinates as sines and cosines, a skip; densities composed along a ray by cumulative products in logarithms."""

    def forward(m: Any, x: Tensor) -> Tensor:
        angles = (x[..., None] * 2.0 ** torch.arange(3)).flatten(2)
        code = torch.cat([x, angles.sin(), angles.cos()], -1)
        out = m.last(torch.cat([m.first(code), code], -1))
        density = F.softplus(out[..., :1])
        through = torch.exp(density - density.cumsum(1))
        return (through * (1 - torch.exp(-density)) * out[..., 1:].sigmoid()).sum(1)

    return module(forward, first=mlp(21, 12, 8), last=mlp(29, 10, 4))


def siren() -> nn.Module:
    """Sines as activations."""
    return module(
        lambda m, x: m.c(torch.sin(3 * m.b(torch.sin(3 * m.a(x))))),
        a=nn.Linear(2, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(8, 3),
    )


def hopfield() -> nn.Module:
    """Retrieval from stored patterns, three steps of softmax."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = (2 * x @ m.patterns.T).softmax(-1) @ m.patterns
        return x

    return module(forward, patterns=parameter(6, 5))


def attention_pooling() -> nn.Module:
    """Instances of a bag: gated attention (multiple-instance learning)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.net(x)
        weights = m.w(m.v(h).tanh() * m.u(h).sigmoid()).softmax(1)
        return m.head((weights * h).sum(1))

    return module(
        forward, net=mlp(5, 8, 6), v=nn.Linear(6, 4), u=nn.Linear(6, 4), w=nn.Linear(4, 1), head=nn.Linear(6, 2)
    )


def logic() -> nn.Module:
    """Hand-written decisions: where, comparisons, clamps, sorting, medians, minima."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.net(x)
        h = torch.where(h > 0.3, h * 2, torch.where(h < -0.3, h / 2, h**2))
        ordered = h.sort(-1, descending=True).values
        return m.head(torch.cat([ordered[:, :3], h.clamp(-1, 1), torch.minimum(h, ordered)], -1))

    return module(forward, net=nn.Linear(5, 6), head=nn.Linear(15, 3))
