"""Integer operators of ai.onnx and of ONNX Runtime between quantisers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Graph, T

MS = "com.microsoft"
Quantised = tuple[Any, str, str, Any]
"""Integers, scale, zero point, and their numpy type."""


def number(g: Graph, low: float, high: float, *shape: int) -> str:
    return g.constant(np.asarray(g.random.uniform(low, high, shape)))


def zero_point(g: Graph, dtype: Any) -> str:
    return g.constant(np.asarray(g.integer(-20, 20) if dtype is np.int8 else g.integer(60, 180)), dtype)


def quantise(g: Graph, x: T, dtype: Any = None, step: float | None = None) -> Quantised:
    dtype = dtype or g.pick(np.int8, np.uint8)
    s = g.constant(step) if step else number(g, 0.01, 0.03)
    z = zero_point(g, dtype)
    return g.op("QuantizeLinear", x, s, z), s, z, dtype


def weights(g: Graph, *shape: int, dtype: Any = None) -> Quantised:
    dtype = dtype or g.pick(np.int8, np.uint8)
    low, high = (0, 256) if dtype is np.uint8 else (-127, 128)
    zero = g.constant(np.asarray(0 if dtype is np.int8 else 128), dtype)
    return g.constant(g.random.integers(low, high, shape), dtype), number(g, 0.004, 0.01), zero, dtype


def back(g: Graph, kind: str, inputs: list[Any], dtype: Any, domain: str = "", step: float | None = None,
         end: tuple = (), **attributes: Any) -> T:  # fmt: skip
    """An operator that gives integers of its own scale, and those as floats."""
    s, z = (g.constant(step) if step else number(g, 0.02, 0.05)), zero_point(g, dtype)
    y = g.op(kind, *inputs, s, z, *end, domain=domain, **attributes)
    return g.op("DequantizeLinear", y, s, z)


def two(g: Graph) -> T:
    """QLinearAdd and QLinearMul of carriers, gates and constants."""
    a = quantise(g, g.explain("x", 2, 3, 4))
    if g.flag(0.3):
        a = quantise(g, g.op("Sigmoid", g.explain("u", 2, 3, 4)), a[3], 0.005)
    g.explained = [n for n in g.explained if n != "x" or "u" not in g.explained]
    if g.flag(0.7):
        b = quantise(g, g.explain("z", *g.pick((2, 3, 4), (2, 1, 4))), a[3])
    else:
        b = weights(g, 3, 4, dtype=a[3])
    return back(g, g.pick("QLinearAdd", "QLinearMul"), [*a[:3], *b[:3]], a[3], MS)


def joined(g: Graph) -> T:
    a = quantise(g, g.explain("x", 2, 3, 4))
    b = quantise(g, g.explain("z", *((2, 2, 4) if (concat := g.flag()) else (2, 3, 4))), a[3])
    if not concat:
        mask = g.constant(g.random.random((2, 3, 4)) < 0.5)
        return back(g, "QLinearWhere", [mask, *a[:3], *b[:3]], a[3], MS)
    parts = [*a[:3], *b[:3], *(weights(g, 2, 1, 4, dtype=a[3])[:3] if g.flag() else ())]
    s, z = number(g, 0.02, 0.05), zero_point(g, a[3])
    return g.op("DequantizeLinear", g.op("QLinearConcat", s, z, *parts, domain=MS, axis=1), s, z)


def pools(g: Graph) -> T:
    last = int(g.flag(0.4))
    a = quantise(g, g.explain("x", 2, 3, 4, 4))
    if g.flag():
        return back(g, "QLinearGlobalAveragePool", list(a[:3]), a[3], MS, channels_last=last)
    return back(g, "QLinearAveragePool", list(a[:3]), a[3], MS, kernel_shape=[2, 2], pads=[1, 0, 0, 1], strides=[1, 2],
                count_include_pad=int(g.flag()), channels_last=last)  # fmt: skip


def elementwise(g: Graph) -> T:
    """Sigmoid, Softmax, LeakyRelu; gates are multiplied with what they come from."""
    x = g.explain("x", 2, 3, 4)
    a = quantise(g, x)
    kind = g.pick("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax")
    if kind == "QLinearLeakyRelu":
        return back(g, kind, list(a[:3]), a[3], MS, alpha=0.3)
    s, z = g.constant(1 / 256), g.constant(np.asarray(0 if a[3] is np.uint8 else -128), a[3])
    extra = {"axis": 2, "opset": 13} if kind == "QLinearSoftmax" else {}
    y = g.op("DequantizeLinear", g.op(kind, *a[:3], s, z, domain=MS, **extra), s, z)
    if g.flag():
        return g.op("Mul", y, x) if not extra else g.op("MatMul", y, g.op("Transpose", x, perm=[0, 2, 1]))
    return y


def matrices(g: Graph) -> T:
    kind = g.pick("QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")
    bias = [g.weight(5)] if g.flag() else []
    if kind == "QGemm":
        a, turned = quantise(g, g.explain("x", 3, 4)), g.flag()
        b = weights(g, *((5, 4) if turned else (4, 5)))
        if g.flag():
            b = (b[0], number(g, 0.004, 0.01, 5), g.constant(g.random.integers(0, 20, 5), b[3]), b[3])
        c = g.constant(g.random.integers(-2000, 2000, 5), np.int32) if g.flag(0.7) else ""
        if g.flag():
            return back(g, kind, [*a[:3], *b[:3], c], a[3], MS, transB=int(turned), alpha=1.0)
        return g.op(kind, *a[:3], *b[:3], c, domain=MS, transB=int(turned), alpha=1.0)
    x, b = g.explain("x", 2, 3, 4), weights(g, 4, 5)
    if kind == "QLinearMatMul":
        a = quantise(g, x, np.uint8)
        b = g.pick(b, quantise(g, g.explain("z", 2, 4, 3), np.uint8)) if g.flag() else b
        g.explained = ["x"] if b[0] in g.values and isinstance(b[0], str) else g.explained
        return back(g, kind, [*a[:3], *b[:3]], a[3])
    if kind == "DynamicQuantizeMatMul":
        return g.op(kind, x, *b[:3], *bias, domain=MS)
    q, s, z = g.op("DynamicQuantizeLinear", x, outputs=3)
    if kind == "MatMulIntegerToFloat":
        return g.op(kind, q, b[0], s, b[1], z, b[2], *bias, domain=MS)
    y = g.op("Cast", g.op(kind, q, b[0], z, b[2]), to=1)
    return g.op("Add", g.op("Mul", y, g.op("Mul", s, b[1])), g.weight(5))


def convolutions(g: Graph) -> T:
    kind = g.pick("QLinearConv", "QLinearConv", "ConvInteger")
    last = kind == "QLinearConv" and g.flag(0.4)
    x = g.explain("x", *((2, 4, 4, 3) if last else (2, 3, 4, 4)))
    w = weights(g, 4, 3, 2, 2, dtype=np.uint8 if kind == "ConvInteger" else None)
    if kind == "ConvInteger":
        q, s, z = g.op("DynamicQuantizeLinear", x, outputs=3)
        y = g.op("Cast", g.op(kind, q, w[0], z, w[2], pads=[1, 0, 0, 1]), to=1)
        return g.op("Mul", g.op("Mul", y, s), w[1])
    a = quantise(g, x, np.uint8)
    if g.flag():
        w = (w[0], number(g, 0.004, 0.01, 4), g.constant(np.full(4, 0 if w[3] is np.int8 else 128), w[3]), w[3])
    bias = (g.constant(g.random.integers(-2000, 2000, 4), np.int32),) if g.flag() else ()
    extra = {"domain": MS, "channels_last": 1} if last else {}
    return back(g, kind, [*a[:3], *w[:3]], a[3], end=bias, pads=[1, 0, 0, 1], strides=[1, 2], **extra)


def few_bits(g: Graph) -> T:
    inner, columns, block, bits = g.pick(32, 40), 5, 16, g.pick(4, 8)
    blocks = -(-inner // block)
    packed = g.constant(g.random.integers(0, 256, (columns, blocks, block * bits // 8)), np.uint8)
    zero = g.constant(g.random.integers(0, 256, (columns, -(-blocks * bits // 8))), np.uint8) if g.flag() else ""
    x = g.explain("x", 1, 2, inner)
    return g.op("MatMulNBits", x, packed, number(g, 0.02, 0.05, columns, blocks), zero, domain=MS, K=inner, N=columns,
                bits=bits, block_size=block)  # fmt: skip


def attention(g: Graph) -> T:
    """softmax(x W) x between quantisers, as integers and by QAttention."""
    x = g.explain("x", 2, 3, 4)
    if g.flag(0.3):
        a, w = quantise(g, x), weights(g, 4, 12)
        return g.op("QAttention", a[0], w[0], g.weight(12), a[1], w[1], "", a[2], w[2], domain=MS, num_heads=2,
                    unidirectional=int(g.flag()))  # fmt: skip
    p = g.op("Softmax", g.op("MatMul", x, g.weight(4, 3)), axis=2)
    a, v = quantise(g, p, np.uint8, 0.004), quantise(g, g.op("Add", x, g.weight(4)), np.uint8)
    kind = g.pick("float", "QLinearMatMul", "MatMulInteger")
    if kind == "float":
        return g.op("MatMul", g.op("DequantizeLinear", *a[:3]), g.op("DequantizeLinear", *v[:3]))
    if kind == "QLinearMatMul":
        return back(g, kind, [*a[:3], *v[:3]], a[3])
    y = g.op("Cast", g.op(kind, a[0], v[0], a[2], v[2]), to=1)
    return g.op("Mul", y, g.op("Mul", a[1], v[1]))


def quantised(g: Graph) -> T:
    return g.pick(two, joined, pools, elementwise, matrices, convolutions, few_bits, attention)(g)
