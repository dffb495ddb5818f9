"""ONNX Runtime's own operators, and attention of ai.onnx."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Array, Graph, T

MS = "com.microsoft"


def lengths(g: Graph, high: int) -> str:
    return g.constant(g.random.integers(1, high + 1, 2), np.int32)


def keys(g: Graph, *shape: int) -> str:
    """0/1, the first key always there."""
    mask: Array = g.random.random(shape) < 0.7
    mask[..., 0] = True
    return g.constant(mask, np.int32)


def extra(g: Graph, heads: int, queries: int, total: int) -> Any:
    """An attention bias: none, constant, or explained."""
    kind = g.pick("", "", "constant", "explained")
    if kind == "explained":
        return g.explain("bias", 2, heads, queries, total)
    return g.weight(g.pick(1, 2), g.pick(1, heads), queries, total) if kind else ""


def attention(g: Graph) -> T:
    queries, heads, size, inner = g.integer(2, 4), g.integer(1, 2), g.integer(1, 2), g.integer(2, 3)
    width = heads * size
    value = heads * g.integer(1, 2) if g.flag(0.3) else width
    x = g.explain("x", 2, queries, inner)
    attributes: dict[str, Any] = {"num_heads": heads, "unidirectional": int(g.flag(0.3))}
    if value != width:
        attributes["qkv_hidden_sizes"] = [width, width, value]
    if g.flag(0.3):
        attributes["scale"] = 0.37
    past, known = "", 0
    if g.flag(0.3) and value == width:
        known = g.integer(1, 2)
        past = g.explain("past", 2, 2, heads, known, size, fed=g.flag())
    total = queries + known
    mask = g.pick("", lengths(g, total), keys(g, 2, total), keys(g, 2, queries, total))
    bias = "" if past else extra(g, heads, queries, total)
    inputs = [x, g.weight(inner, 2 * width + value), g.weight(2 * width + value), mask, past, bias]
    return g.op("Attention", *inputs, outputs=2, domain=MS, **attributes)[0] if past else g.op(
        "Attention", *inputs, domain=MS, **attributes)  # fmt: skip


def multi_head(g: Graph) -> T:
    queries, total, heads, size = g.integer(1, 3), g.integer(1, 3), g.integer(1, 2), g.integer(1, 2)
    width, value = heads * size, heads * g.integer(1, 2)
    attributes: dict[str, Any] = {"num_heads": heads}
    if g.flag(0.3):
        attributes["scale"] = 0.37
    if g.flag(0.3) and queries == total:
        attributes["unidirectional"] = 1
    q = g.explain("q", 2, queries, width)
    if g.flag(0.3):
        k, v = g.explain("k", 2, heads, total, size), g.explain("v", 2, heads, total, size)
        return g.op("MultiHeadAttention", q, k, v, "", "", extra(g, heads, queries, total), domain=MS, **attributes)
    k, v = g.explain("k", 2, total, width), g.explain("v", 2, total, value, fed=g.flag(0.2))
    bias = g.weight(2 * width + value) if g.flag() else ""
    past: list[Any] = []
    if value == width and g.flag(0.3):
        past = [g.explain(n, 2, heads, 2, size, fed=g.flag()) for n in ("pk", "pv")]
        total += 2
    mask = g.pick("", "", keys(g, 2, total), *([] if past else [lengths(g, total)]))
    found = g.op("MultiHeadAttention", q, k, v, bias, mask, extra(g, heads, queries, total), *past, domain=MS,
                 outputs=3 if past else 1, **attributes)  # fmt: skip
    return g.op("ReduceSum", found[0]) if past else found


def group_query(g: Graph) -> T:
    queries, group, shared, size = g.integer(1, 3), g.integer(1, 2), g.integer(1, 2), 16
    attributes: dict[str, Any] = {"num_heads": group * shared, "kv_num_heads": shared}
    for key, value in (("scale", 0.37), ("softcap", 0.9), ("local_window_size", g.integer(1, 3))):
        attributes |= {key: value} if g.flag(0.3) else {}
    known, rows = g.integer(0, 2), 1
    if g.flag(0.3):
        width = (group + 2) * shared * size
        inputs: list[Any] = [g.explain("q", rows, queries, width, scale=0.7), "", ""]
    else:
        inputs = [g.explain("q", rows, queries, group * shared * size, scale=0.7)]
        inputs += [g.explain(n, rows, queries, shared * size, scale=0.7) for n in ("k", "v")]
    past = [g.explain(n, rows, shared, known, size, fed=g.flag()) for n in ("pk", "pv")] if known else ["", ""]
    total = queries + known
    inputs += [*past, g.constant(np.full(rows, total - 1), np.int32), g.constant(np.asarray(total), np.int32)]
    if g.flag():
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(g.flag())}
        angles = g.random.normal(size=(6, size // 2))
        inputs += [g.constant(np.cos(angles)), g.constant(np.sin(angles))]
    return g.op("GroupQueryAttention", *inputs, outputs=3, domain=MS, **attributes)[0]


def rotary(g: Graph) -> T:
    batch, length, heads, size = 2, 3, 2, 8
    x = g.explain("x", *((batch, heads, length, size) if g.flag() else (batch, length, heads * size)))
    angles = g.random.normal(size=(6, size // 2))
    places = g.constant(np.array([1])) if g.flag() else g.constant(g.random.integers(0, 6, (batch, length)))
    return g.op("RotaryEmbedding", x, places, g.constant(np.cos(angles)), g.constant(np.sin(angles)), domain=MS,
                interleaved=int(g.flag()))  # fmt: skip


def norm(g: Graph) -> T:
    x, full = g.explain("x", 2, 3, 4), g.flag()
    skip: Any = g.explain("z", 2, 3, 4) if g.flag(0.7) else g.weight(*g.pick((2, 3, 4), (3, 4)))
    inputs = [
        x,
        skip,
        g.weight(4),
        *([g.weight(4) if g.flag() else ""] if full else []),
        g.weight(4) if g.flag() else "",
    ]
    kind = "SkipLayerNormalization" if full else "SkipSimplifiedLayerNormalization"
    y, total = g.op(kind, *inputs, outputs=(0, 3), domain=MS, epsilon=0.01)
    return g.op(g.pick("Mul", "Add"), y, total) if g.flag() else y


def activation(g: Graph) -> T:
    x, kind = g.explain("x", 2, 3, 4), g.pick("Gelu", "BiasGelu", "FastGelu", "FastGelu", "QuickGelu")
    if kind == "QuickGelu":
        return g.op(kind, x, domain=MS, alpha=g.pick(1.702, 1.0, -0.5))
    bias = [g.weight(4)] if kind == "BiasGelu" or (kind == "FastGelu" and g.flag()) else []
    return g.op(kind, x, *bias, domain=MS)


def fused(g: Graph) -> T:
    kind = g.pick("FusedMatMul", "FusedGemm", "FusedConv")
    if kind == "FusedMatMul":
        x, turned = g.explain("x", 2, 3, 4), int(g.flag())
        p = g.op("Softmax", x, axis=1 + (not turned)) if g.flag() else x
        other: Any = g.explain("z", 2, 3, 4) if g.flag() else g.weight(2, 3, 4)
        return g.op(kind, p, other, domain=MS, transA=turned, transB=1 - turned, alpha=g.pick(1.0, 0.7))
    name = g.pick("Relu", "LeakyRelu", "Tanh", "Sigmoid", "HardSigmoid", "")
    if kind == "FusedGemm":
        x = g.explain("x", 6, 4)
        extra = {"activation": name} if name else {}
        extra |= {"activation_alpha": 0.3} if name in ("LeakyRelu", "HardSigmoid") else {}
        extra |= {"activation_beta": 0.2} if name == "HardSigmoid" else {}
        return g.op(kind, x, g.weight(5, 4), g.weight(5), domain=MS, transB=1, alpha=0.6, beta=0.7, **extra)
    x = g.explain("x", 2, 2, 4, 4)
    extra = {"activation": name} if name else {}
    extra |= {"activation_params": [0.3, 0.4]} if name == "HardSigmoid" else {}
    extra |= {"activation_params": [0.3]} if name == "LeakyRelu" else {}
    more = [g.explain("z", 2, 3, 4, 4)] if g.flag() else []
    return g.op(
        kind, x, g.weight(3, 2, 3, 3), g.weight(3), *more, domain=MS, pads=[1] * 4, kernel_shape=[3, 3], **extra
    )


def microsoft(g: Graph) -> T:
    y = g.pick(attention, attention, multi_head, multi_head, group_query, rotary, norm, activation, fused)(g)
    return g.op("Tanh", y) if g.flag(0.3) else y
