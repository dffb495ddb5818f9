"""Attention and rotary embedding of com.microsoft as their decompositions, from ONNX Runtime's documentation."""

from __future__ import annotations

import numpy as np

from .bodies import Body, Name, body
from .stream import Tensor

MS = "com.microsoft"
LOWEST = float(np.finfo(np.float32).min)
"""What ONNX Runtime puts on keys that come later, whatever the filter value of the mask."""


def heads(b: Body, x: Name, batch: int, length: int, count: int, size: int) -> Name:
    """[B, S, N H] as [B, N, S, H]."""
    return b.transpose(b.reshape(x, batch, length, count, size), 0, 2, 1, 3)


def attend(b: Body, q: Name, k: Name, v: Name, factor: float, masks: list[Name], softcap: float = 0.0) -> Name:
    """softmax(factor q k^T + masks) v on [B, N, S, H]."""
    s = b.scaled(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), factor)
    if softcap:
        s = b.scaled(b.op("Tanh", b.scaled(s, 1 / softcap)), softcap)
    for m in masks:
        s = b.op("Add", s, m)
    return b.op("MatMul", b.op("Softmax", s, axis=-1), v)


def joined(b: Body, x: Name, batch: int, length: int, width: int) -> Name:
    return b.reshape(b.transpose(x, 0, 2, 1, 3), batch, length, width)


def causal(b: Body, length: int, total: int, lowest: float) -> Name:
    reach = np.arange(total)[None, :] > np.arange(length)[:, None] + total - length
    return b.const(np.where(reach, lowest, 0.0))


@body("RotaryEmbedding", domain=MS)
def rotary(b: Body, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> tuple:
    """[B, S, N H] or [B, N, S, H]; position ids [1] (an offset) or [B, S]."""
    size = b.attr("rotary_embedding_dim", 0) or cos.shape[1] * 2
    count = b.attr("num_heads", 0)
    if x.ndim == 3:
        width = x.shape[2] // count if count else cos.shape[1] * 2
        y = heads(b, b.given(0), x.shape[0], x.shape[1], x.shape[2] // width, width)
        batch, length = x.shape[:2]
    else:
        y, (batch, _, length, width) = b.given(0), x.shape
    place = positions.value.astype(int)
    place = place.reshape(-1)[0] + np.tile(np.arange(length), (batch, 1)) if place.size == 1 else place
    y = rotated(b, y, cos.value[place], sin.value[place], size, width, b.attr("interleaved", 0))
    return (joined(b, y, batch, length, x.shape[2]) if x.ndim == 3 else y,)


def rotated(b: Body, x: Name, cos: np.ndarray, sin: np.ndarray, size: int, width: int, interleaved: int) -> Name:
    """Pairs of the first ``size`` entries of [B, N, S, H] turned by [B, S, size / 2] angles."""
    half = size // 2
    first = np.arange(0, size, 2) if interleaved else np.arange(half)
    second = np.arange(1, size, 2) if interleaved else np.arange(half, size)
    a, c = (b.op("Gather", x, b.const(i), axis=3) for i in (first, second))
    co, si = (b.const(t[:, None]) for t in (cos[..., :half], sin[..., :half]))
    left = b.op("Sub", b.op("Mul", a, co), b.op("Mul", c, si))
    right = b.op("Add", b.op("Mul", a, si), b.op("Mul", c, co))
    y = b.op("Concat", left, right, axis=3)
    order = np.argsort(np.concatenate([first, second]))
    y = b.op("Gather", y, b.const(order), axis=3)
    return b.op("Concat", y, b.slice(x, 3, size, width), axis=3) if size < width else y


def key_mask(b: Body, mask: Tensor, batch: int, length: int, total: int, lowest: float) -> Name:
    """mask_index of Attention: [B] lengths (right padding), [2B] ends and starts, [B, T] raw, [B, S, T] raw."""
    m = mask.value
    if m.ndim == 1:
        keep = np.arange(total)[None] < m[:batch, None]
        if m.size >= 2 * batch and m.size != 3 * batch + 2:
            keep &= np.arange(total)[None] >= m[batch : 2 * batch, None]
        return b.const(np.where(keep, 0.0, lowest)[:, None, None])
    if m.ndim == 2:
        return b.const(np.where(m > 0, 0.0, lowest)[:, None, None])
    return b.const(np.where(m > 0, 0.0, lowest)[:, None])


@body("Attention", domain=MS)
def attention(b: Body, x: Tensor, w: Tensor, bias: Tensor | None = None, mask: Tensor | None = None,
              past: Tensor | None = None, extra: Tensor | None = None, *_: Tensor) -> tuple:  # fmt: skip
    """q, k, v from one MatMul with [D, Dq + Dk + Dv]; past and present [2, B, N, P, H]."""
    batch, length, _ = x.shape
    count = b.attr("num_heads")
    sizes = list(b.attr("qkv_hidden_sizes") or [w.shape[1] // 3] * 3)
    lowest = b.attr("mask_filter_value", -10000.0)
    qkv = b.plus(b.op("MatMul", b.given(0), b.given(1)), b.given(2))
    q, k, v = b.op("Split", qkv, b.ints(*sizes), axis=2, outputs=3)
    q, k, v = (heads(b, t, batch, length, count, s // count) for t, s in zip((q, k, v), sizes, strict=True))
    total, present = length, None
    if b.given(4):
        old = [b.op("Squeeze", b.slice(b.given(4), 0, i, i + 1), b.ints(0)) for i in (0, 1)]
        k, v = (b.op("Concat", o, t, axis=2) for o, t in zip(old, (k, v), strict=True))
        total += past.shape[3]
    if len(b.n.outputs) > 1 and b.n.outputs[1]:
        present = b.op("Concat", b.op("Unsqueeze", k, b.ints(0)), b.op("Unsqueeze", v, b.ints(0)), axis=0)
    masks = []
    if mask is not None:
        masks.append(key_mask(b, mask, batch, length, total, lowest))
    if b.attr("unidirectional", 0):
        masks.append(causal(b, length, total, LOWEST))
    if b.given(5):
        masks.append(b.given(5))
    scale = b.attr("scale", 0.0) or (sizes[0] // count) ** -0.5
    return joined(b, attend(b, q, k, v, scale, masks), batch, length, sizes[2]), present


@body("MultiHeadAttention", domain=MS)
def multi_head(b: Body, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, bias: Tensor | None = None,
               padding: Tensor | None = None, extra: Tensor | None = None, past_k: Tensor | None = None,
               past_v: Tensor | None = None, *_: Tensor) -> tuple:  # fmt: skip
    """q [B, S, D], k and v [B, T, D] or [B, N, T, H]; packed [B, S, N, 3, H] or k, v packed [B, T, N, 2, H]."""
    count, batch, length = b.attr("num_heads"), q.shape[0], q.shape[1]
    parts = np.split(bias.value, [n := q.shape[2], 2 * n]) if bias is not None and q.ndim == 3 else [None] * 3

    def wide(index: int, part: np.ndarray | None, t: Tensor) -> Name:
        name = b.given(index)
        if t.ndim == 4:
            return name
        if part is not None:
            name = b.op("Add", name, b.const(part))
        return heads(b, name, batch, t.shape[1], count, t.shape[2] // count)

    def packed(name: Name, i: int) -> Name:
        return b.transpose(b.op("Squeeze", b.slice(name, 3, i, i + 1), b.ints(3)), 0, 2, 1, 3)

    if q.ndim == 5:
        qs, ks, vs = (packed(b.given(0), i) for i in range(3))
        size = width = q.shape[4]
        total = length
    else:
        qs = wide(0, parts[0], q)
        size = q.shape[2] // count
        if k.ndim == 5:
            ks, vs = packed(b.given(1), 0), packed(b.given(1), 1)
            total, width = k.shape[1], k.shape[4]
        else:
            ks, vs = wide(1, parts[1], k), wide(2, parts[2], v)
            total = k.shape[1] if k.ndim == 3 else k.shape[2]
            width = v.shape[2] // count if v.ndim == 3 else v.shape[3]
    if b.given(6):
        ks, vs = b.op("Concat", b.given(6), ks, axis=2), b.op("Concat", b.given(7), vs, axis=2)
        total += past_k.shape[2]
    lowest = b.attr("mask_filter_value", -10000.0)
    masks = [key_mask(b, padding, batch, length, total, lowest)] if padding is not None else []
    if b.attr("unidirectional", 0):
        masks.append(causal(b, length, total, LOWEST))
    if b.given(5):
        masks.append(b.given(5))
    y = attend(b, qs, ks, vs, b.attr("scale", 0.0) or size**-0.5, masks)
    return joined(b, y, batch, length, count * width), ks, vs


@body("GroupQueryAttention", domain=MS)
def group_query(b: Body, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, past_k: Tensor | None = None,
                past_v: Tensor | None = None, lengths: Tensor | None = None, total: Tensor | None = None,
                cos: Tensor | None = None, sin: Tensor | None = None, *_: Tensor) -> tuple:  # fmt: skip
    """Causal, shared keys and values; seqlens_k: the index of the last key. Rows of one length only."""
    count, shared = b.attr("num_heads"), b.attr("kv_num_heads")
    batch, length, _ = q.shape
    if k is None:
        size = q.shape[2] // (count + 2 * shared)
        names = b.op("Split", b.given(0), b.ints(count * size, shared * size, shared * size), axis=2, outputs=3)
    else:
        size, names = q.shape[2] // count, [b.given(i) for i in range(3)]
    qs, ks, vs = (heads(b, t, batch, length, c, size) for t, c in zip(names, (count, shared, shared), strict=True))
    known = past_k.shape[2] if past_k is not None else 0
    whole = int(total.value.reshape(-1)[0])
    before = whole - length
    if b.attr("do_rotary", 0):
        place = np.tile(np.arange(before, whole), (batch, 1))
        angles, turn = cos.shape[1] * 2, b.attr("rotary_interleaved", 0)
        qs, ks = (rotated(b, t, cos.value[place], sin.value[place], angles, size, turn) for t in (qs, ks))
    if known and before:
        ks, vs = (b.op("Concat", b.slice(b.given(i), 2, 0, before), t, axis=2) for i, t in ((3, ks), (4, vs)))
    present = ks, vs
    ks, vs = (b.op("Gather", t, b.const(np.repeat(np.arange(shared), count // shared)), axis=1) for t in (ks, vs))
    masks = [causal(b, length, whole, -np.inf)] if length > 1 else []
    window = b.attr("local_window_size", -1)
    if window > 0:
        far = np.arange(whole)[None] <= np.arange(before, whole)[:, None] - window
        masks.append(b.const(np.where(far, -np.inf, 0.0)))
    y = attend(b, qs, ks, vs, b.attr("scale", 0.0) or size**-0.5, masks, b.attr("softcap", 0.0))
    return joined(b, y, batch, length, count * size), *present


@body("QAttention", domain=MS)
def qattention(b: Body, *_: Tensor | None) -> tuple:
    """Attention of the dequantised input and weights; weight scales and zero points by column."""
    per_column = {"axis": 1} if b.n.input(4).value.size > 1 else {}
    x = b.op("DequantizeLinear", b.given(0), b.given(3), b.given(6))
    w = b.op("DequantizeLinear", b.given(1), b.given(4), b.given(7), **per_column)
    kept = {k: b.attr(k) for k in ("num_heads", "unidirectional", "scale", "mask_filter_value")}
    y = b.op("Attention", x, w, b.given(2), b.given(5), b.given(8), domain=MS, **kept)
    return (y,)
