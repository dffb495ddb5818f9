"""Networks on graphs and point clouds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import mlp, module, parameter

# Dense adjacency


def gcn() -> nn.Module:
    """Kipf and Welling: the adjacency normalised on both sides, node logits."""

    def forward(m: Any, x: Tensor, linked: Tensor) -> Tensor:
        scale = linked.sum(-1).rsqrt()
        a = scale[:, :, None] * linked * scale[:, None, :]
        return a @ m.last(F.relu(a @ m.first(x)))

    return module(forward, first=nn.Linear(5, 8), last=nn.Linear(8, 3))


def gat() -> nn.Module:
    """Attention of two heads with LeakyReLU scores, masked to the edges by -inf."""

    def forward(m: Any, x: Tensor, linked: Tensor) -> Tensor:
        h = m.project(x).unflatten(-1, (2, 4)).transpose(1, 2)
        scores = F.leaky_relu((h * m.ours).sum(-1)[..., None] + (h * m.theirs).sum(-1)[..., None, :], 0.2)
        p = scores.masked_fill(linked[:, None] == 0, float("-inf")).softmax(-1)
        return m.head(F.elu((p @ h).transpose(1, 2).flatten(2)).mean(1))

    return module(
        forward,
        project=nn.Linear(5, 8, bias=False),
        ours=parameter(2, 1, 4),
        theirs=parameter(2, 1, 4),
        head=nn.Linear(8, 3),
    )


def gin() -> nn.Module:
    """Sums of neighbours through an MLP, graphs read out by sums of all layers."""

    def forward(m: Any, x: Tensor, linked: Tensor) -> Tensor:
        total = m.heads[0](x.sum(1))
        for net, head in zip(m.nets, m.heads[1:], strict=True):
            x = net(1.2 * x + linked @ x)
            total = total + head(x.sum(1))
        return total

    nets, heads = [mlp(5, 6, 6), mlp(6, 6, 6)], [nn.Linear(w, 3) for w in (5, 6, 6)]
    return module(forward, nets=nn.ModuleList(nets), heads=nn.ModuleList(heads))


def relational() -> nn.Module:
    """Three kinds of edges with a matrix each, shared by bases (einsum of three)."""

    def forward(m: Any, x: Tensor, kinds: Tensor) -> Tensor:
        weights = torch.einsum("rb,bio->rio", m.share, m.bases)
        return m.head(F.relu(m.own(x) + torch.einsum("nruv,nvi,rio->nuo", kinds, x, weights)).mean(1))

    return module(forward, share=parameter(3, 2), bases=parameter(2, 5, 6), own=nn.Linear(5, 6), head=nn.Linear(6, 3))


def chebyshev() -> nn.Module:
    """A filter by Chebyshev polynomials of the Laplacian, which is an input."""

    def forward(m: Any, x: Tensor, laplacian: Tensor) -> Tensor:
        terms = [x, laplacian @ x]
        for _ in range(2):
            terms.append(2 * laplacian @ terms[-1] - terms[-2])
        return m.head(F.relu(m.mix(torch.cat(terms, -1))))

    return module(forward, mix=nn.Linear(16, 6), head=nn.Linear(6, 2))


def graphormer() -> nn.Module:
    """Attention over nodes with a learned bias for each distance, a node for the whole graph in front."""

    def forward(m: Any, x: Tensor, distance: Tensor) -> Tensor:
        n = x.shape[0]
        h = torch.cat([m.whole.expand(n, 1, 8), m.start(x)], 1)
        bias = F.pad(m.bias(distance).permute(0, 3, 1, 2), (1, 0, 1, 0))
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in m.qkv(m.norm(h)).chunk(3, -1))
        h = h + (((q @ k.transpose(-1, -2)) / 2 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return m.head(h[:, 0])

    return module(
        forward, whole=parameter(1, 1, 8), start=nn.Linear(5, 8), bias=nn.Embedding(4, 2), norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24), head=nn.Linear(8, 3),
    )  # fmt: skip


# Edge lists


def message_passing() -> nn.Module:
    """Edges as index pairs: messages from both ends and the edge's features, added up at their targets, a GRU cell."""

    def forward(m: Any, x: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        h = m.start(x).tanh()
        for _ in range(2):
            source, target = edges[0], edges[1]
            sent = m.message(torch.cat([h[source], h[target], features], -1))
            h = m.update((h * 0).index_add(0, target, sent), h)
        return m.head(h)

    return module(forward, start=nn.Linear(4, 6), message=mlp(15, 8, 6), update=nn.GRUCell(6, 6), head=nn.Linear(6, 3))


def scatter_mean() -> nn.Module:
    """GraphSAGE: the mean of the neighbours by scatter_add and counts, normalised; graphs by their node's number."""

    def forward(m: Any, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        for own, other in m.layers:
            sent = x[edges[0]]
            where = edges[1][:, None].expand(-1, sent.shape[1])
            total = torch.zeros_like(x).scatter_add(0, where, sent)
            count = x.new_zeros(x.shape[0]).scatter_add(0, edges[1], x.new_ones(edges.shape[1])).clamp(min=1)
            x = F.normalize(F.relu(own(x) + other(total / count[:, None])), dim=-1)
        pooled = x.new_zeros(2, x.shape[1]).scatter_add(0, graph[:, None].expand(-1, x.shape[1]), x)
        return m.head(pooled)

    layers = nn.ModuleList(nn.ModuleList([nn.Linear(a, 6), nn.Linear(a, 6, bias=False)]) for a in (4, 6))
    return module(forward, layers=layers, head=nn.Linear(6, 3))


def edge_softmax() -> nn.Module:
    """Attention over the edges that end in a node, its softmax by scattered maxima and sums."""

    def forward(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        h = m.project(x)
        score = F.leaky_relu((h[edges[0]] * m.ours).sum(-1) + (h[edges[1]] * m.theirs).sum(-1), 0.2)
        most = torch.full((x.shape[0],), -1e9).scatter_reduce(0, edges[1], score, "amax")
        e = (score - most[edges[1]]).exp()
        total = torch.zeros(x.shape[0]).scatter_add(0, edges[1], e)
        sent = h[edges[0]] * (e / (total[edges[1]] + 1e-6))[:, None]
        return m.head(F.elu(torch.zeros_like(h).index_add(0, edges[1], sent)))

    return module(forward, project=nn.Linear(4, 6), ours=parameter(6), theirs=parameter(6), head=nn.Linear(6, 3))


def scatter_max() -> nn.Module:
    """The largest message at each node."""

    def forward(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        sent = m.message(x[edges[0]] - x[edges[1]])
        where = edges[1][:, None].expand(-1, 6)
        return m.head(F.relu(m.own(x).scatter_reduce(0, where, sent, "amax", include_self=True)))

    return module(forward, message=nn.Linear(4, 6), own=nn.Linear(4, 6), head=nn.Linear(6, 3))


def knowledge_graph() -> nn.Module:
    """DistMult and a translation: head, relation and tail as embeddings; a distance as the energy."""

    def forward(m: Any, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        h, r, t = m.things(head), m.relations(relation), m.things(tail)
        return torch.stack([(h * r * t).sum(-1), -(h + r - t).norm(dim=-1)], -1)

    return module(forward, things=nn.Embedding(20, 6), relations=nn.Embedding(20, 6))


# Point clouds


def pointnet() -> nn.Module:
    """Shared layers and a maximum over points; an input transform by a small network of the same kind."""

    def shared(*widths: int) -> nn.Sequential:
        layers = [
            nn.Sequential(nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()) for a, b in itertools.pairwise(widths)
        ]
        return nn.Sequential(*layers)

    def forward(m: Any, x: Tensor) -> Tensor:
        turn = 0.2 * m.place(m.look(x).amax(-1)).reshape(-1, 3, 3) + torch.eye(3)
        h = m.net(torch.bmm(turn, x))
        return m.head(h.amax(-1))

    return module(forward, look=shared(3, 8), place=mlp(8, 9), net=shared(3, 8, 12), head=mlp(12, 8, 4))


def pointnet_segments() -> nn.Module:
    """Point features and the cloud's together: logits of every point."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.net(x)
        whole = h.amax(1, keepdim=True).expand(-1, x.shape[1], -1)
        return m.head(torch.cat([h, whole], -1))

    return module(forward, net=mlp(3, 8, 8), head=mlp(16, 8, 4))


def dgcnn() -> nn.Module:
    """Edge convolutions on the nearest neighbours, found by distances and TopK."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for net in m.nets:
            squares = (x**2).sum(-1)
            distance = squares[:, :, None] - 2 * x @ x.transpose(1, 2) + squares[:, None, :]
            near = distance.topk(3, dim=-1, largest=False).indices
            rows = near.flatten(1)[:, :, None].expand(-1, -1, x.shape[-1])
            others = x.gather(1, rows).reshape(x.shape[0], -1, 3, x.shape[-1])
            own = x[:, :, None].expand_as(others)
            x = F.leaky_relu(net(torch.cat([own, others - own], -1)), 0.2).amax(2)
        return m.head(torch.cat([x.amax(1), x.mean(1)], -1))

    return module(forward, nets=nn.ModuleList([nn.Linear(6, 6), nn.Linear(12, 8)]), head=nn.Linear(16, 4))


def set_transformer() -> nn.Module:
    """Induced points attend to the set, the set to them; pooling by a seed."""

    def forward(m: Any, x: Tensor) -> Tensor:
        n, h = x.shape[0], m.start(x)
        induced = m.one(m.points.expand(n, -1, -1), h, h)[0]
        h = m.norm(h + m.two(h, induced, induced)[0])
        return m.head(m.three(m.seed.expand(n, -1, -1), h, h)[0][:, 0])

    def attention() -> nn.Module:
        return nn.MultiheadAttention(8, 2, batch_first=True)

    return module(
        forward,
        start=nn.Linear(3, 8),
        points=parameter(1, 4, 8),
        seed=parameter(1, 1, 8),
        one=attention(),
        two=attention(),
        three=attention(),
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 4),
    )


def equivariant() -> nn.Module:
    """EGNN: messages from squared distances, coordinates moved along differences."""

    def forward(m: Any, h: Tensor, x: Tensor) -> Tensor:
        for message, move, update in m.layers:
            away = x[:, :, None] - x[:, None]
            square = (away**2).sum(-1, keepdim=True)
            pair = torch.cat([h[:, :, None].expand(-1, -1, 6, -1), h[:, None].expand(-1, 6, -1, -1), square], -1)
            sent = F.silu(message(pair))
            x = x + (away * move(sent)).mean(2)
            h = h + update(torch.cat([h, sent.sum(2)], -1))
        return m.head(h.sum(1)) + (x**2).mean((1, 2))[:, None]

    layers = nn.ModuleList(nn.ModuleList([nn.Linear(9, 6), nn.Linear(6, 1), mlp(10, 6, 4)]) for _ in range(2))
    return module(forward, layers=layers, head=nn.Linear(4, 2))


def schnet() -> nn.Module:
    """Energies of atoms: Gaussians of distances as filters, shifted softplus, a sum over atoms."""

    def forward(m: Any, kinds: Tensor, x: Tensor) -> Tensor:
        distance = ((x[:, :, None] - x[:, None]).pow(2).sum(-1) + 1e-3).sqrt()
        basis = torch.exp(-2 * (distance[..., None] - m.centres) ** 2)
        h = m.atoms(kinds)
        weights = m.filter(basis) * (0.5 * (torch.cos(distance * math.pi / 6) + 1))[..., None]
        h = h + m.out((m.into(h)[:, None] * weights).sum(2))
        return m.energy(F.softplus(h) - math.log(2)).sum((1, 2))[:, None]

    return module(
        forward, atoms=nn.Embedding(8, 6), centres=torch.linspace(0, 4, 5), filter=mlp(5, 6, 6, act=nn.Softplus),
        into=nn.Linear(6, 6, bias=False), out=nn.Linear(6, 6), energy=nn.Linear(6, 1),
    )  # fmt: skip
