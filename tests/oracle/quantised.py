"""Quantisers, and integer operators as their float decompositions. Integers are carriers here; their scales and zero
points, computed ones too, are weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto

from .conv import conv
from .products import gemm, matmul
from .stream import Array, Node, Tensor, carrier, constant, move, plus_bias, rule, times
from .sums import add, scale

RANGES = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1), "uint4": (0, 15), "int4": (-8, 7), "uint2": (0, 3), "int2": (-2, 1),
}  # fmt: skip


def per_element(p: Array, x: Tensor, axis: int, block: int) -> Array:
    """A scale or zero point as an array that broadcasts to x: one, one per entry of the axis, or one per block."""
    if p.size == 1:
        return p.reshape(())
    axis %= x.ndim
    if block:
        return np.take(np.repeat(p, block, axis=axis), np.arange(x.shape[axis]), axis=axis)
    return p.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


def number(t: Tensor | None) -> Array:
    return np.zeros(()) if t is None else t.value.astype(np.float64)


def type_name(n: Node, zero: Tensor | None) -> str:
    if zero is not None:
        return zero.value.dtype.name
    code = n.attrs.get("output_dtype", 0)
    return "uint8" if not code else TensorProto.DataType.Name(code).lower()


def quantise(n: Node, x: Tensor, s: Array, z: Array, kind: str) -> Tensor:
    """y = round(clip(x) / s) + z, clip to what the type holds: v -> (clip(x)/x)/s v, the rest * o.

    Tangent: 1 where lo < x <= hi instead of clip(x)/x. |x| <= 1e-5 s counts as x = 0: there the left derivative.
    """
    if kind not in RANGES:
        raise n.refuse(f"type {kind}")
    lo, hi = RANGES[kind]
    s, z = (np.broadcast_to(p, x.shape).astype(np.float64) for p in (s, z))
    v = x.value.astype(np.float64)
    y = np.clip(np.rint(v / s) + z, lo, hi)
    store = np.dtype(kind) if hasattr(np, kind) else np.dtype(getattr(ml_dtypes, kind))
    if not x.is_carrier:
        return constant(y.astype(store))
    low, high = (lo - z) * s, (hi - z) * s
    near = np.abs(v) <= 1e-5 * s
    at = np.where(near, 0.0, v)
    edge = 1e-4 * s  # a scale that was computed from x puts its extremes on the edges, but for rounding
    inside = ((at > low + edge) & (at <= high + edge)).astype(float)
    w = inside if n.tangent else np.where(near, inside, np.clip(v, low, high) / np.where(near, 1.0, v))
    lin = plus_bias(n, times(w / s, x.lin), x.ones, y - w / s * v)
    return carrier(y.astype(store), lin, x.ones, x.rank, x.softmax_axes)


def dequantise(n: Node, q: Tensor, s: Array, z: Array) -> Tensor:
    """(q - z) s."""
    shape = q.shape
    s, z = (np.broadcast_to(p, shape).astype(np.float64) for p in (s, z))
    value = (q.value.astype(np.float64) - z) * s
    if not q.is_carrier:
        return constant(value)
    lin = times(s, plus_bias(n, q.lin, q.ones, -z))
    return carrier(value, lin, q.ones, q.rank, q.softmax_axes)


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain="com.microsoft")
def quantize_linear(n: Node, x: Tensor, s: Tensor, z: Tensor | None = None) -> Tensor:
    axis, block = n.attrs.get("axis", 1), n.attrs.get("block_size", 0)
    return quantise(n, x, per_element(s.value, x, axis, block), per_element(number(z), x, axis, block), type_name(n, z))


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(n: Node, q: Tensor, s: Tensor, z: Tensor | None = None) -> Tensor:
    axis, block = n.attrs.get("axis", 1), n.attrs.get("block_size", 0)
    return dequantise(n, q, per_element(s.value, q, axis, block), per_element(number(z), q, axis, block))


def dynamic(n: Node, x: Tensor) -> tuple[Tensor, Array, Array]:
    """uint8 over the range of x, widened to hold 0; arithmetic of the scale in float32."""
    v = x.value.astype(np.float32)
    low, high = np.minimum(v.min(), np.float32(0)), np.maximum(v.max(), np.float32(0))
    s = (high - low) / np.float32(255)
    s = s if s > 0 else np.float32(1)
    z = np.rint(np.clip(-low / s, 0, 255)).astype(np.float64)
    y = quantise(n, x, np.asarray(s, np.float64), z, "uint8")
    y.softmax_axes = None  # "not behind DynamicQuantizeLinear"
    return y, np.asarray(s, np.float64), z


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(n: Node, x: Tensor) -> list[Tensor]:
    """The quantised x, its scale and zero point (weights: constants for all that follows)."""
    y, s, z = dynamic(n, x)
    return [y, constant(s), constant(z.astype(np.uint8))]


# -- integer products -------------------------------------------------------------------------------------------------


def unmarked(t: Tensor) -> Tensor:
    """The softmax form of the ones is not taken in integer products."""
    if t.softmax_axes is None:
        return t
    return carrier(t.value, t.lin, t.ones, t.rank)


def rows(p: Array, ndim: int, axis: int) -> Array:
    """A zero point or scale per row (axis -2) or column (axis -1) of a matrix; others broadcast as they are."""
    return p.reshape(*p.shape, 1) if axis == -2 and p.ndim == 1 and p.size > 1 and ndim > 1 else p


ONE = np.ones(())


def minus(n: Node, q: Tensor, z: Array) -> Tensor:
    return unmarked(dequantise(n, q, ONE, z))


@rule("MatMulInteger")
def matmul_integer(n: Node, a: Tensor, b: Tensor, za: Tensor | None = None, zb: Tensor | None = None) -> Tensor:
    """(A - za) (B - zb)."""
    return matmul(n, minus(n, a, rows(number(za), a.ndim, -2)), minus(n, b, number(zb)))


def filters_of(n: Node, w: Tensor, s: Array, z: Array) -> Tensor:
    """Filters by output channel."""
    shape = (-1, *(1,) * (w.ndim - 1))
    return dequantise(n, w, *(p.reshape(shape) if p.size > 1 else p.reshape(()) for p in (s, z)))


@rule("ConvInteger")
def conv_integer(n: Node, x: Tensor, w: Tensor, zx: Tensor | None = None, zw: Tensor | None = None) -> Tensor:
    return conv(n, minus(n, x, number(zx)), filters_of(n, w, ONE, number(zw)))


def requantised(n: Node, y: Tensor, s: Tensor | None, z: Tensor | None) -> Tensor:
    if s is None:
        return y
    return quantise(n, y, number(s).reshape(()), number(z).reshape(()), type_name(n, z))


@rule("QLinearMatMul")
def qlinear_matmul(
    n: Node, a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor
) -> Tensor:
    """Float: unlike in MatMulInteger, a quantised softmax keeps its form, as between QuantizeLinear and MatMul."""
    left = dequantise(n, a, *(rows(number(p), a.ndim, -2) for p in (sa, za)))
    return requantised(n, matmul(n, left, dequantise(n, b, number(sb), number(zb))), sy, zy)


@rule("QLinearConv")
@rule("QLinearConv", domain="com.microsoft")
def qlinear_conv(
    n: Node, x: Tensor, sx: Tensor, zx: Tensor, w: Tensor, sw: Tensor, zw: Tensor, sy: Tensor, zy: Tensor,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Float convolution of the dequantised operands, its bias an integer of scale sx sw, quantised again."""
    last = bool(n.attrs.get("channels_last", 0))
    x = dequantise(n, x, number(sx).reshape(()), number(zx).reshape(()))
    if last:
        x = move(x, lambda i: np.moveaxis(i, -1, 1))
    if bias is not None:
        bias = constant(number(bias) * number(sx).reshape(()) * number(sw).reshape(-1))
    y = requantised(n, conv(n, x, filters_of(n, w, number(sw), number(zw)), bias), sy, zy)
    return move(y, lambda i: np.moveaxis(i, 1, -1)) if last else y


@rule("QGemm", domain="com.microsoft")
def qgemm(
    n: Node, a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, c: Tensor | None = None,
    sy: Tensor | None = None, zy: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """alpha A B + C, C an integer of scale alpha sa sb."""
    columns = [number(p) for p in (sb, zb)]
    if n.attrs.get("transB", 0):
        columns = [rows(p, b.ndim, -2) for p in columns]
    left = unmarked(dequantise(n, a, number(sa).reshape(()), number(za).reshape(())))
    y = gemm(n, left, unmarked(dequantise(n, b, *columns)))
    if c is not None:
        unit = n.attrs.get("alpha", 1.0) * number(sa).reshape(()) * number(sb)
        y = add(n, [y, scale(constant(number(c)), unit)])
    return requantised(n, y, sy, zy)


@rule("MatMulIntegerToFloat", domain="com.microsoft")
def matmul_integer_to_float(
    n: Node, a: Tensor, b: Tensor, sa: Tensor, sb: Tensor, za: Tensor | None = None, zb: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    y = matmul(n, minus(n, a, number(za)), minus(n, b, number(zb)))
    y = scale(y, number(sa) * number(sb))
    return y if bias is None else add(n, [y, bias])


@rule("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_quantize_matmul(
    n: Node, a: Tensor, b: Tensor, sb: Tensor, zb: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    q, s, z = dynamic(n, a)
    y = scale(matmul(n, minus(n, q, z), minus(n, b, number(zb))), s * number(sb))
    return y if bias is None else add(n, [y, bias])


# -- weights in few bits ----------------------------------------------------------------------------------------------


def unpacked(packed: Array, bits: int) -> Array:
    """uint8 [..., n] as [..., n * 8 / bits], low bits first."""
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


@rule("MatMulNBits", domain="com.microsoft")
def matmul_n_bits(
    n: Node, a: Tensor, b: Tensor, s: Tensor, z: Tensor | None = None, groups: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A B^T, B [N, K] in blocks of K of ``bits`` bits, each with a scale and a zero point (default 2^(bits-1))."""
    if groups is not None and groups.value.size:
        raise n.refuse("g_idx")
    inner, columns, bits, block = (n.attrs[k] for k in ("K", "N", "bits", "block_size"))
    blocks = -(-inner // block)
    q = unpacked(b.value.reshape(columns, blocks, -1), bits)[:, :, :block].astype(np.float64)
    zero = np.full((columns, blocks), 2.0 ** (bits - 1))
    if z is not None and z.value.dtype == np.uint8:
        zero = unpacked(z.value.reshape(columns, -1), bits)[:, :blocks].astype(np.float64)
    elif z is not None:
        zero = z.value.reshape(columns, blocks).astype(np.float64)
    w = ((q - zero[..., None]) * s.value.reshape(columns, blocks)[..., None]).reshape(columns, -1)[:, :inner]
    y = matmul(n, a, constant(w.T))
    return y if bias is None else add(n, [y, bias])
