"""Networks on tokens, time series, waveforms, and with states that are carried in and out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import mlp, module, parameter


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention written out; ``mask`` is added to the scores."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


# Tokens


def bag_of_words() -> nn.Module:
    """fastText: the mean of the embeddings of real tokens."""

    def forward(m: Any, words: Tensor, mask: Tensor) -> Tensor:
        kept = mask.float()[:, :, None]
        return m.head((m.words(words) * kept).sum(1) / kept.sum(1))

    return module(forward, words=nn.Embedding(30, 8), head=nn.Linear(8, 4))


def text_cnn() -> nn.Module:
    """Convolutions of several widths over embeddings, maxima over time."""

    def forward(m: Any, words: Tensor) -> Tensor:
        h = m.words(words).transpose(1, 2)
        return m.head(torch.cat([F.relu(c(h)).amax(-1) for c in m.convs], 1))

    convs = nn.ModuleList(nn.Conv1d(8, 6, k) for k in (2, 3, 4))
    return module(forward, words=nn.Embedding(30, 8), convs=convs, head=nn.Linear(18, 4))


def tagger() -> nn.Module:
    """BiLSTM tagger: scores of every token."""
    lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
    return module(
        lambda m, x: m.head(m.lstm(m.words(x))[0]), words=nn.Embedding(30, 8), lstm=lstm, head=nn.Linear(12, 5)
    )


def packed() -> nn.Module:
    """A GRU over packed sequences: lengths are an input, the maxima of what is padded again decide."""

    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(m.gru(rows)[0], batch_first=True)
        return m.head(y.amax(1))

    return module(forward, gru=nn.GRU(5, 6, batch_first=True), head=nn.Linear(6, 3))


def language_model() -> nn.Module:
    """A causal transformer with tied embeddings and a bias on the logits: logits of every token."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.words(x) + m.places[: x.shape[1]]
        for norm, qkv, out, last, net in m.blocks:
            q, k, v = qkv(norm(h)).chunk(3, -1)
            h = h + out(attend(q, k, v, 2, m.mask[: x.shape[1], : x.shape[1]]))
            h = h + net(last(h))
        return m.norm(h) @ m.words.weight.T + m.bias

    def block() -> nn.ModuleList:
        net = mlp(12, 24, 12, act=nn.GELU)
        return nn.ModuleList([nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12), nn.LayerNorm(12), net])

    mask = torch.full((8, 8), float("-inf")).triu(1)
    return module(
        forward,
        words=nn.Embedding(40, 12),
        places=parameter(8, 12),
        blocks=nn.ModuleList([block(), block()]),
        mask=mask,
        norm=nn.LayerNorm(12),
        bias=parameter(40),
    )


def translator() -> nn.Module:
    """nn.Transformer, source and target tokens both explained."""

    def forward(m: Any, source: Tensor, target: Tensor) -> Tensor:
        a, b = (m.words(t) + m.places[: t.shape[1]] for t in (source, target))
        return m.head(m.net(a, b, tgt_mask=m.mask, tgt_is_causal=False))

    net = nn.Transformer(12, 2, 1, 1, 20, dropout=0.0, batch_first=True)
    return module(
        forward, words=nn.Embedding(30, 12), places=parameter(8, 12), net=net, head=nn.Linear(12, 30),
        mask=torch.full((5, 5), float("-inf")).triu(1),
    )  # fmt: skip


def seq2seq() -> nn.Module:
    """Recurrent encoder and decoder with additive attention."""

    def forward(m: Any, source: Tensor, target: Tensor) -> Tensor:
        keys, state = m.encoder(source)
        h, _ = m.decoder(target, state)
        scores = m.score(torch.tanh(m.key(keys)[:, None] + m.query(h)[:, :, None])).squeeze(-1)
        return m.head(torch.cat([h, scores.softmax(-1) @ keys], -1))

    return module(
        forward, encoder=nn.GRU(4, 6, batch_first=True), decoder=nn.GRU(3, 6, batch_first=True), key=nn.Linear(6, 5),
        query=nn.Linear(6, 5, bias=False), score=nn.Linear(5, 1), head=nn.Linear(12, 4),
    )  # fmt: skip


def pointer() -> nn.Module:
    """A pointer network: the scores of attention are the logits."""
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    return module(
        lambda m, x: (m.key(h := m.net(m.start(x))) @ m.query(h.mean(1))[:, :, None]).squeeze(-1).tanh() * 5,
        start=nn.Linear(3, 8), net=net, key=nn.Linear(8, 6), query=nn.Linear(8, 6),
    )  # fmt: skip


def sentence_pair() -> nn.Module:
    """Two sentences by one encoder; |a - b| and a * b decide."""

    def forward(m: Any, a: Tensor, b: Tensor) -> Tensor:
        u, v = (m.encoder(m.words(t)).mean(1) for t in (a, b))
        return m.head(torch.cat([u, v, (u - v).abs(), u * v], -1))

    return module(forward, words=nn.Embedding(30, 8), encoder=mlp(8, 12, 8, act=nn.Tanh), head=nn.Linear(32, 3))


# States


def lstm_step() -> nn.Module:
    """One step with the state as inputs and outputs."""

    def forward(m: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = m.cell(x, (h, c))
        return m.head(h), h, c

    return module(forward, cell=nn.LSTMCell(5, 6), head=nn.Linear(6, 3))


def lstm_states() -> nn.Module:
    """A whole LSTM with its states as inputs and outputs (layers first, as PyTorch has them)."""

    def forward(m: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = m.lstm(x, (h.transpose(0, 1), c.transpose(0, 1)))
        return m.head(y[:, -1]), h.transpose(0, 1), c.transpose(0, 1)

    return module(forward, lstm=nn.LSTM(5, 6, 2, batch_first=True), head=nn.Linear(6, 3))


def streaming() -> nn.Module:
    """Causal convolutions that keep the end of what they saw: caches in, caches out."""

    def forward(m: Any, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([a, x], -1)
        h = torch.cat([b, F.relu(m.first(x))], -1)
        return m.last(h).mean(-1), x[..., -2:], h[..., -4:]

    return module(forward, first=nn.Conv1d(3, 6, 3), last=nn.Conv1d(6, 4, 3, dilation=2))


def cached_attention() -> nn.Module:
    """One token against keys and values of the past, which come in and go out longer."""

    def forward(m: Any, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = m.qkv(m.norm(x)).chunk(3, -1)
        keys, values = torch.cat([keys, k], 1), torch.cat([values, v], 1)
        return m.head(x + attend(q, keys, values, 2)), keys, values

    return module(forward, norm=nn.LayerNorm(8), qkv=nn.Linear(8, 24), head=nn.Linear(8, 5))


# Time series


def tcn() -> nn.Module:
    """Dilated causal convolutions, weight norm, residuals."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for i, (first, last, skip) in enumerate(m.blocks):
            pad = (2 * 2**i, 0)
            x = F.relu(skip(x) + F.relu(last(F.pad(F.relu(first(F.pad(x, pad))), pad))))
        return m.head(x[..., -1])

    def block(a: int, i: int) -> nn.ModuleList:
        norm = nn.utils.parametrizations.weight_norm
        return nn.ModuleList(
            [norm(nn.Conv1d(a, 6, 3, dilation=2**i)), norm(nn.Conv1d(6, 6, 3, dilation=2**i)), nn.Conv1d(a, 6, 1)]
        )

    return module(forward, blocks=nn.ModuleList([block(3, 0), block(6, 1)]), head=nn.Linear(6, 4))


def wavenet() -> nn.Module:
    """Gated activations, skips summed."""

    def forward(m: Any, x: Tensor) -> Tensor:
        total = None
        for i, (gate, out) in enumerate(m.blocks):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            h, s = out(a.tanh() * b.sigmoid()).chunk(2, 1)
            x, total = x + h, s if total is None else total + s
        return m.head(F.relu(total))

    blocks = nn.ModuleList(nn.ModuleList([nn.Conv1d(4, 8, 2, dilation=2**i), nn.Conv1d(4, 8, 1)]) for i in range(3))
    return module(forward, blocks=blocks, head=nn.Conv1d(4, 3, 1))


def n_beats() -> nn.Module:
    """Doubly residual: each block takes its backcast away and adds its forecast (polynomial basis)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        forecast = x.new_zeros(x.shape[0], 4)
        for block in m.blocks:
            theta = block(x)
            x = x - theta[:, :3] @ m.back
            forecast = forecast + theta[:, 3:] @ m.ahead
        return forecast

    def basis(n: int) -> Tensor:
        return torch.stack([torch.linspace(0, 1, n) ** k for k in range(3)])

    return module(forward, blocks=nn.ModuleList(mlp(12, 16, 16, 6) for _ in range(3)), back=basis(12), ahead=basis(4))


def informer() -> nn.Module:
    """Sparse queries: those with the sharpest scores attend, the others take the mean; a distilling pool."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.start(x)
        q, k, v = m.qkv(h).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / math.sqrt(8)
        sharp = (scores.amax(-1) - scores.mean(-1)).topk(4, dim=1).indices
        rows = sharp[:, :, None].expand(-1, -1, 12)
        chosen = scores.gather(1, rows).softmax(-1) @ v
        mixed = v.mean(1, keepdim=True).expand(-1, 12, -1).scatter(1, sharp[:, :, None].expand(-1, -1, 8), chosen)
        h = F.elu(m.conv((h + mixed).transpose(1, 2)))
        return m.head(F.max_pool1d(h, 3, 2, 1).flatten(1))

    conv = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
    return module(forward, start=nn.Linear(3, 8), qkv=nn.Linear(8, 24), conv=conv, head=nn.Linear(48, 4))


def autoformer() -> nn.Module:
    """Trend by a moving average and the season apart, each with a linear forecast; reversible standardisation."""

    def forward(m: Any, x: Tensor) -> Tensor:
        mean, deviation = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False).add(1e-5).sqrt()
        h = (x - mean) / deviation
        trend = F.avg_pool1d(F.pad(h[:, None], (2, 2), mode="replicate"), 5, 1)[:, 0]
        return (m.trend(trend) + m.season(h - trend)) * deviation + mean

    return module(forward, trend=nn.Linear(16, 4), season=nn.Linear(16, 4))


def patch_tst() -> nn.Module:
    """Overlapping patches of a series as tokens."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
    return module(
        lambda m, x: m.head(m.net(m.start(x.unfold(-1, 4, 2).transpose(1, 2).flatten(2)) + m.places).flatten(1)),
        start=nn.Linear(8, 8), places=parameter(7, 8), net=layer, head=nn.Linear(56, 4),
    )  # fmt: skip


def neural_ode() -> nn.Module:
    """Runge-Kutta steps of a small field, unrolled."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            a = m.field(x)
            b = m.field(x + 0.25 * a)
            c = m.field(x + 0.25 * b)
            x = x + (a + 2 * b + 2 * c + m.field(x + 0.5 * c)) / 12
        return m.head(x)

    return module(forward, field=mlp(5, 8, 5, act=nn.Tanh), head=nn.Linear(5, 3))


def echo_state() -> nn.Module:
    """A leaky recurrence written out step by step."""

    def forward(m: Any, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for step in x.unbind(1):
            state = 0.7 * state + 0.3 * torch.tanh(m.inner(step) + m.outer(state))
        return m.head(state)

    return module(forward, inner=nn.Linear(3, 6), outer=nn.Linear(6, 6, bias=False), head=nn.Linear(6, 3))


# Waveforms


def wav2vec() -> nn.Module:
    """Strided convolutions with GroupNorm, positions by a grouped convolution, one encoder layer, frame logits."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.project(m.norm(m.features(x[:, None]).transpose(1, 2)))
        h = h + F.gelu(m.places(h.transpose(1, 2))).transpose(1, 2)
        return m.head(m.layer(h))

    features = nn.Sequential(
        nn.Conv1d(1, 6, 10, 5, bias=False), nn.GroupNorm(6, 6), nn.GELU(), nn.Conv1d(6, 6, 3, 2), nn.GELU()
    )
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu", norm_first=True)
    places = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1, groups=2), dim=2)
    return module(
        forward, features=features, norm=nn.LayerNorm(6), project=nn.Linear(6, 8), places=places, layer=layer,
        head=nn.Linear(8, 7),
    )  # fmt: skip


def windowed_dft(size: int) -> Tensor:
    """Filters [2 (size/2 + 1), 1, size] of a Hann-windowed Fourier transform: cosines, then sines."""
    angles = 2 * math.pi * torch.arange(size // 2 + 1)[:, None] * torch.arange(size) / size
    return (torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(size))[:, None]


def spectrogram() -> nn.Module:
    """Fourier transform as a convolution, power, mel bands as a matrix, logarithm, standardisation, convolutions."""

    def forward(m: Any, x: Tensor) -> Tensor:
        parts = F.conv1d(F.pad(x[:, None], (8, 8), mode="reflect"), m.filters, stride=8)
        real, imaginary = parts.chunk(2, 1)
        h = torch.log((m.mel @ (real**2 + imaginary**2)).clamp(min=1e-5))
        h = (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-3)
        return m.net(h)

    net = nn.Sequential(
        nn.Conv1d(6, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    mel = torch.rand(6, 9, generator=torch.Generator().manual_seed(1))
    return module(forward, filters=windowed_dft(16), mel=mel, net=net)


def stft() -> nn.Module:
    """torch.stft inside the network, magnitudes, a linear head."""

    def forward(m: Any, x: Tensor) -> Tensor:
        z = torch.stft(x, 16, 8, window=m.window, center=False, return_complex=False)
        return m.head(torch.sqrt(z.pow(2).sum(-1) + 1e-6).mean(-1))

    return module(forward, window=torch.hann_window(16), head=nn.Linear(9, 4))


def enhancer() -> nn.Module:
    """Conv-TasNet: an encoder, a sigmoid mask on it, a transposed convolution back to the waveform."""

    def forward(m: Any, x: Tensor) -> Tensor:
        code = F.relu(m.encode(x[:, None]))
        return m.decode(code * m.mask(code).sigmoid())[:, 0]

    mask = nn.Sequential(
        nn.GroupNorm(1, 8), nn.Conv1d(8, 8, 1), nn.PReLU(), nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.Conv1d(8, 8, 1)
    )
    return module(forward, encode=nn.Conv1d(1, 8, 8, 4), mask=mask, decode=nn.ConvTranspose1d(8, 1, 8, 4))


def speaker() -> nn.Module:
    """X-vectors: statistics pooled over time, a normalised embedding; similarity to a given voice as the seed."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.net(x)
        weights = m.attention(h).softmax(-1)
        mean = (h * weights).sum(-1)
        deviation = ((h**2 * weights).sum(-1) - mean**2).clamp(min=1e-4).sqrt()
        return F.normalize(m.head(torch.cat([mean, deviation], 1)), dim=-1)

    net = nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU(), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3, dilation=2), nn.ReLU())
    attention = nn.Sequential(nn.Conv1d(8, 4, 1), nn.Tanh(), nn.Conv1d(4, 8, 1))
    return module(forward, net=net, attention=attention, head=nn.Linear(16, 5))
