"""One kind of layer at a time between affine layers: activations, norms, pooling, padding, resizing, loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import conv, module, parameter, unit


def activation(name: str, *args: Any) -> nn.Module:
    """A layer of torch.nn between linear layers; GLU halves what it gets."""
    act = getattr(nn, name)(*args)
    return nn.Sequential(nn.Linear(6, 10), act, nn.Linear(5 if name == "GLU" else 10, 4))


def function(name: str) -> nn.Module:
    """A function of torch of positive numbers, on a linear layer's softplus."""
    return module(
        lambda m, x: m.b(getattr(torch, name)(F.softplus(m.a(x)) + 1.1)), a=nn.Linear(6, 8), b=nn.Linear(8, 4)
    )


def pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(conv(2, 5), nn.Tanh(), pool, nn.Flatten(), nn.LazyLinear(4))


def initialised(net: nn.Module, *shape: int) -> nn.Module:
    net(torch.zeros(2, *shape))
    return net


def pooling(name: str, *args: Any, **options: Any) -> nn.Module:
    """A pooling layer of torch.nn between a convolution and a linear layer."""
    return initialised(pooled(getattr(nn, name)(*args)), 2, 9, 9)


def average_pooling(stride: int, padding: int, ceil: bool, count: bool) -> nn.Module:
    return initialised(pooled(nn.AvgPool2d(3, stride, padding, ceil_mode=ceil, count_include_pad=count)), 2, 9, 9)


def max_pooling(stride: int, padding: int, dilation: int, ceil: bool) -> nn.Module:
    return initialised(pooled(nn.MaxPool2d(3, stride, padding, dilation, ceil_mode=ceil)), 2, 9, 9)


def unpooling() -> nn.Module:
    """Maxima put back to where they were (SegNet)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h, where = F.max_pool2d(m.a(x), 2, return_indices=True)
        n, c = h.shape[:2]
        flat = torch.zeros(n, c, 64).scatter(2, where.flatten(2), m.b(h).flatten(2))
        return m.c(flat.unflatten(-1, (8, 8)))

    return module(forward, a=conv(1, 4), b=conv(4, 4), c=conv(4, 2))


def padded(mode: str) -> nn.Module:
    """A convolution whose padding is reflect, replicate, circular or zeros, at two sizes of padding."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode), nn.ReLU(), nn.Conv2d(4, 3, 5, 2, 2, padding_mode=mode)
    )


def pad_layer(name: str, *args: Any) -> nn.Module:
    """A padding layer of torch.nn, also negative."""
    return nn.Sequential(conv(2, 4), nn.ReLU(), getattr(nn, name)(*args), nn.Conv2d(4, 3, 3))


def transposed(*args: Any) -> nn.Module:
    """ConvTranspose2d(stride, padding, output_padding, groups, bias, dilation)."""
    return nn.Sequential(conv(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, *args))


def convolved(rank: int, groups: int, stride: int, dilation: int) -> nn.Module:
    """Convolutions over 1 to 3 axes: grouped, depthwise, strided, dilated."""
    make = getattr(nn, f"Conv{rank}d")
    return nn.Sequential(make(4, 8, 3, padding=1), nn.ReLU(), make(8, 8, 2, stride, 1, dilation, groups), nn.Flatten())


def resized(mode: str, scale: float, aligned: bool | None, antialias: bool = False) -> nn.Module:
    """F.interpolate, up or down."""
    options = {"mode": mode, "align_corners": aligned, "antialias": antialias}
    return module(lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=scale, **options)), a=conv(2, 3), b=conv(3, 2))


def resized_line(mode: str, scale: float, aligned: bool) -> nn.Module:
    """The same over one axis."""
    return module(
        lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=scale, mode=mode, align_corners=aligned)),
        a=nn.Conv1d(2, 3, 3),
        b=nn.Conv1d(3, 2, 3),
    )


def normalised(name: str, *args: Any) -> nn.Module:
    """A norm of torch.nn between convolutions."""
    return nn.Sequential(conv(2, 6), getattr(nn, name)(*args), nn.SiLU(), conv(6, 2), nn.Flatten())


def reparametrised(name: str) -> nn.Module:
    """weight_norm, spectral_norm: the weights are formulas in the graph or folded."""
    norm = getattr(nn.utils.parametrizations, name)
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), norm(nn.Linear(8, 4)))


def standardised() -> nn.Module:
    """Weights standardised in the forward pass, GroupNorm, stochastic depth off, layer scale."""

    def forward(m: Any, x: Tensor) -> Tensor:
        w = m.first.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        h = m.norm(F.conv2d(x, w, m.first.bias, padding=1))
        return m.head((x.mean(1, keepdim=True) + m.gain[:, None, None] * F.relu(h)).flatten(1))

    return module(forward, first=conv(2, 6), norm=nn.GroupNorm(3, 6), gain=parameter(6), head=nn.Linear(216, 3))


def recurrent(name: str, layers: int, two: bool, *args: Any) -> nn.Module:
    """nn.LSTM, GRU or RNN: stacked, bidirectional; the last step and the state are read."""
    net = getattr(nn, name)(4, 5, layers, *args, batch_first=True, bidirectional=two)

    def forward(m: Any, x: Tensor) -> Tensor:
        y, state = m.net(x)
        state = state[0] if isinstance(state, tuple) else state
        return m.head(torch.cat([y[:, -1], y.amax(1), state[-1]], -1))

    return module(forward, net=net, head=nn.Linear(25 if two else 15, 3))


def projected_lstm() -> nn.Module:
    """Cells stepped in a Python loop, layer norm on the state between them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 5)
        for t in range(4):
            h, c = m.cell(x[:, t], (h, c))
            h = m.norm(h)
        return m.head(h)

    return module(forward, cell=nn.LSTMCell(4, 5), norm=nn.LayerNorm(5), head=nn.Linear(5, 3))


def einsum(equation: str, *shapes: tuple[int, ...]) -> nn.Module:
    """An einsum of the input and constant operands, after a pointwise layer."""
    parts = {f"w{i}": parameter(*s) for i, s in enumerate(shapes)}
    return module(
        lambda m, x: torch.einsum(equation, F.gelu(m.first(x)), *(getattr(m, k) for k in parts)),
        first=nn.Linear(4, 4),
        **parts,
    )


def einsum_self(equation: str) -> nn.Module:
    """An einsum of two linear images of the input."""
    return module(lambda m, x: torch.einsum(equation, m.a(x), m.b(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))


def reductions() -> nn.Module:
    """Norms, variances, products, logsumexp, extrema over axes, side by side."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x)
        parts = [
            h.mean(1), h.amin(1), h.logsumexp(1), h.norm(dim=1), h.abs().sum(1), h.var(1), h.std(1, unbiased=False),
            (1 + 0.2 * h).prod(1), h.cumsum(1)[:, -2],
        ]  # fmt: skip
        return m.head(torch.cat(parts, -1))

    return module(forward, first=nn.Linear(4, 5), head=nn.Linear(45, 3))


def moves() -> nn.Module:
    """Shape operators: roll, flip, chunk, stack, repeat, unfold, permute, narrow, index, tril, masked_fill, gather."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x).roll(2, 1).flip(-1)
        a, b = h.chunk(2, 1)
        h = torch.stack([a, b], 1).repeat(1, 1, 1, 2).permute(0, 3, 1, 2)
        h = h.unfold(1, 3, 2).narrow(3, 0, 2).flatten(2).transpose(1, 2)
        h = h[:, [0, 3, 1, 2, 5]][..., m.order]
        h = torch.cat([h.tril(), h.masked_fill(m.mask, 0.5)], 1).index_select(1, m.order)
        return m.head(h.gather(1, m.order.flip(0)[None, :, None].expand(h.shape[0], -1, 3)).flatten(1))

    order = torch.tensor([2, 0, 1])
    return module(forward, first=nn.Linear(4, 4), order=order, mask=torch.eye(5, 3).bool(), head=nn.Linear(9, 3))


def folded() -> nn.Module:
    """Patches by unfold, a matrix, summed back by fold."""
    return module(
        lambda m, x: F.fold(m.w @ F.unfold(m.a(x), 3, padding=1), (6, 6), 3, padding=1),
        a=conv(2, 3),
        w=parameter(18, 27),
    )


class Loop(nn.Module):
    """Scripted: as many steps as an input says, a branch on a sum of values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        h = x
        for _ in range(int(steps)):
            h = torch.tanh(self.a(h)) + h
        if bool(h.sum() > 0):  # (scripted as an If)
            h = self.b(h)
        else:
            h = torch.relu(h) * 2
            h = h - 0.1
        return self.c(h)


def scripted_loop() -> nn.Module:
    return torch.jit.script(Loop())


class Scripted(nn.Module):
    """Scripted: a recurrence over the steps that are there, outputs collected in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 5)
        total = torch.zeros(x.size(0), 3)
        for t in range(x.size(1)):
            h = torch.tanh(self.a(x[:, t]) + self.b(h))
            total = total + self.c(h)
        return total


def scripted_steps() -> nn.Module:
    return torch.jit.script(Scripted())


def scanned() -> nn.Module:
    """torch's scan: a cell carried over the first axis."""
    from torch._higher_order_ops.scan import scan

    def forward(m: Any, x: Tensor) -> Tensor:
        def step(h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(now @ m.inner + h @ m.outer + m.bias)
            return h, h * 1.0

        _, states = scan(step, x.new_zeros(x.shape[0], 5), m.first(x).transpose(0, 1))
        return m.head(states.mean(0))

    return module(
        forward,
        first=nn.Linear(4, 4),
        inner=parameter(4, 5),
        outer=parameter(5, 5),
        bias=parameter(5),
        head=nn.Linear(5, 3),
    )


def branch() -> nn.Module:
    """torch.cond on a value."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x)
        return m.head(torch.cond(h.mean() > 0, lambda t: t.relu(), lambda t: t.sigmoid() - 1, (h,)))

    return module(forward, first=nn.Linear(4, 5), head=nn.Linear(5, 3))


def half() -> nn.Module:
    """A block in half precision between float32 layers."""
    return module(lambda m, x: m.b(F.gelu(m.a(x).half()).float()), a=nn.Linear(6, 10), b=nn.Linear(10, 4))


def dense_block() -> nn.Module:
    """Concatenations, shuffled channels, a shortcut by strides."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        for block in m.blocks:
            h = torch.cat([h, block(h)], 1)
        h = h.unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)
        return m.head((m.short(x) + m.last(h)).flatten(2).amax(-1))

    blocks = nn.ModuleList([unit(4, 4), unit(8, 4)])
    return module(
        forward,
        stem=unit(2, 4),
        blocks=blocks,
        short=conv(2, 6, 1, stride=2),
        last=conv(12, 6, stride=2),
        head=nn.Linear(6, 3),
    )
