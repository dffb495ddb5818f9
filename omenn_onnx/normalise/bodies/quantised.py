"""Operators of quantised files, written as DequantizeLinear, the float operator, QuantizeLinear.

The last node of each stands for the kernel's own output: what the kernel rounds differently is in that node's bias.
Products of plain integers are not dequantised: their operands are cast and their zero points subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omenn_onnx.graph.emit import type_code
from omenn_onnx.normalise.bodies.base import Body, body, refuse
from omenn_onnx.normalise.bodies.microsoft_attention import self_attention

_DOMAIN = "com.microsoft"
_WINDOW = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_RANGE = "omenn"


# Pieces


def _bits8(b: Body, k: int) -> np.dtype[np.generic]:
    """The type of a quantised operand, uint8 as long as it is not known."""
    t = b.tensor(k)
    dtype = np.dtype(np.uint8) if t is None or t.dtype is None else t.dtype
    if dtype.name not in ("int8", "uint8"):
        raise b.refuse(f"its operand {k} is not int8 or uint8")
    return dtype


def _scale_axis(b: Body, k: int, axis: int) -> dict[str, Any]:
    """The attribute of DequantizeLinear that a scale of several numbers needs."""
    t = b.tensor(k)
    shape = None if t is None else t.shape
    if shape is not None and len(shape) > 1:
        raise b.refuse(f"its scale (operand {k}) has {len(shape)} axes")
    return {} if shape in ((), (1,), None) else {"axis": axis}


def real(b: Body, x: int, scale: int, zero: int, axis: int = 0) -> str:
    """Operand ``x`` as real numbers."""
    _bits8(b, x)
    return b.op("DequantizeLinear", b.operand(x), b.operand(scale), b.operand(zero), **_scale_axis(b, scale, axis))


def quantise(b: Body, y: str, scale: int, zero: int, like: int) -> None:
    """Output 0 is ``y`` quantised; without a zero point it has the type of operand ``like``."""
    z = b.operand(zero) if b.operand(zero) is not None else np.zeros((), _bits8(b, like))
    b.into(0, "QuantizeLinear", y, b.operand(scale), z)


def settle(b: Body, y: str, exact: bool = True, output: int = 0) -> None:
    """An output is ``y``; where the kernel is not exact, the difference is a bias."""
    b.into(output, "Settled", y, domain=_RANGE, exact=int(exact))


def as_float(b: Body, name: str | None) -> str:
    """Integers as real numbers of the node's type."""
    return b.op("Cast", name, to=type_code(np.dtype(b.dtype)))


def _centred(b: Body, x: str | None, zero: str | None) -> str:
    """Integers as real numbers, less their zero point."""
    return b.op("Sub", as_float(b, x), 0.0 if zero is None else as_float(b, zero))


def _last(b: Body, k: int) -> list[int] | None:
    """The permutation from channels-last to channels-first if the node works in the former."""
    if not b.attr("channels_last", 0):
        return None
    rank = len(b.shape(k))
    return [0, rank - 1, *range(1, rank - 1)]


def _front(b: Body, x: str, perm: list[int] | None) -> str:
    return x if perm is None else b.op("Transpose", x, perm=perm)


def _back(b: Body, x: str, perm: list[int] | None) -> str:
    return x if perm is None else b.op("Transpose", x, perm=[0, *range(2, len(perm)), 1])


def _kept(b: Body, *names: str) -> dict[str, Any]:
    return {k: v for k, v in b.node.attrs.items() if k in names}


# Products


@body("QLinearConv", domain="")
@body("QLinearConv", domain=_DOMAIN)
def qlinear_conv(b: Body) -> None:
    """The bias is an integer in units of the scales of x and w."""
    perm = _last(b, 0)
    x = _front(b, real(b, 0, 1, 2), perm)
    bias = b.operand(8)
    if bias is not None:
        bias = b.op("Mul", as_float(b, bias), b.op("Mul", b.operand(1), b.operand(4)))
    y = b.op("Conv", x, real(b, 3, 4, 5, axis=0), bias, **_kept(b, *_WINDOW))
    quantise(b, _back(b, y, perm), 6, 7, 0)


@body("QLinearMatMul", domain="")
def qlinear_matmul(b: Body) -> None:
    """Scales of a along its rows, of b along its columns."""
    quantise(b, b.op("MatMul", real(b, 0, 1, 2, axis=-2), real(b, 3, 4, 5, axis=-1)), 6, 7, 0)


@body("QGemm", domain=_DOMAIN)
def qgemm(b: Body) -> None:
    """alpha A' B' + alpha s_a s_b C; without an output scale the result stays real."""
    alpha = float(b.attr("alpha", 1.0))
    turned = int(b.attr("transB", 0))
    scale = b.op("Mul", b.operand(1), b.operand(4))
    bias = b.operand(6)
    if bias is not None:
        bias = b.op("Mul", as_float(b, bias), scale if alpha == 1.0 else b.op("Mul", scale, alpha))
    operands = real(b, 0, 1, 2), real(b, 3, 4, 5, axis=0 if turned else 1), bias
    y = b.op("Gemm", *operands, **_kept(b, "alpha", "transA", "transB"))
    if b.operand(7) is None:
        settle(b, y)
    else:
        quantise(b, y, 7, 8, 0)


@body("MatMulInteger", domain="")
def matmul_integer(b: Body) -> None:
    """(A - a) (B - b), a along the rows."""
    a_zero, t = b.operand(2), b.tensor(2)
    if a_zero is not None and t is not None and t.shape is not None and len(t.shape) == 1 and t.shape[0] != 1:
        a_zero = b.op("Unsqueeze", a_zero, [-1])
    settle(b, b.op("MatMul", _centred(b, b.operand(0), a_zero), _centred(b, b.operand(1), b.operand(3))))


@body("ConvInteger", domain="")
def conv_integer(b: Body) -> None:
    """(x - x0) * (w - w0), w0 along the output channels."""
    w_zero, t = b.operand(3), b.tensor(3)
    if w_zero is not None and t is not None and t.shape not in ((), None):
        w_zero = b.op("Reshape", w_zero, [-1, *[1] * (len(b.shape(1)) - 1)])
    operands = _centred(b, b.operand(0), b.operand(2)), _centred(b, b.operand(1), w_zero)
    settle(b, b.op("Conv", *operands, **_kept(b, *_WINDOW)))


def _scaled_product(b: Body, a: str, a_scale: str | None, w: int, w_scale: int, w_zero: int, bias: int) -> None:
    product = b.op("MatMul", a, _centred(b, b.operand(w), b.operand(w_zero)))
    y = b.op("Mul", product, b.op("Mul", a_scale, b.operand(w_scale)))
    settle(b, y if b.operand(bias) is None else b.op("Add", y, b.operand(bias)))


@body("MatMulIntegerToFloat", domain=_DOMAIN)
def matmul_integer_toas_float(b: Body) -> None:
    """(A - a) (B - b) s_a s_b + bias."""
    _scaled_product(b, _centred(b, b.operand(0), b.operand(4)), b.operand(2), 1, 3, 5, 6)


@body("DynamicQuantizeMatMul", domain=_DOMAIN)
def dynamic_quantize_matmul(b: Body) -> None:
    """MatMulIntegerToFloat of a DynamicQuantizeLinear."""
    q, scale, zero = b.ops("DynamicQuantizeLinear", 3, b.operand(0))
    _scaled_product(b, _centred(b, q, zero), scale, 1, 2, 3, 4)


# Elementwise, pooling, and what moves


@body("QLinearAdd", "QLinearMul", domain=_DOMAIN)
def qlinear_binary(b: Body) -> None:
    quantise(b, b.op(b.node.op.removeprefix("QLinear"), real(b, 0, 1, 2), real(b, 3, 4, 5)), 6, 7, 0)


@body("QLinearSigmoid", "QLinearLeakyRelu", domain=_DOMAIN)
def qlinear_function(b: Body) -> None:
    attrs = _kept(b, "alpha") if b.node.op == "QLinearLeakyRelu" else {}
    quantise(b, b.op(b.node.op.removeprefix("QLinear"), real(b, 0, 1, 2), **attrs), 3, 4, 0)


@body("QLinearSoftmax", domain=_DOMAIN)
def qlinear_softmax(b: Body) -> None:
    """Before opset 13 over all axes from ``axis`` on."""
    axis = int(b.attr("axis", -1))
    x = real(b, 0, 1, 2)
    if int(b.attr("opset", 13)) >= 13 or axis in (-1, len(b.shape(0)) - 1):
        y = b.op("Softmax", x, axis=axis)
    else:
        flat = b.op("Softmax", b.op("Flatten", x, axis=axis), axis=1)
        y = b.op("Reshape", flat, b.op("Shape", x))
    quantise(b, y, 3, 4, 0)


@body("QLinearAveragePool", domain=_DOMAIN)
def qlinear_average_pool(b: Body) -> None:
    perm = _last(b, 0)
    y = b.op("AveragePool", _front(b, real(b, 0, 1, 2), perm), **_kept(b, *_WINDOW))
    quantise(b, _back(b, y, perm), 3, 4, 0)


@body("QLinearGlobalAveragePool", domain=_DOMAIN)
def qlinear_global_average_pool(b: Body) -> None:
    perm = _last(b, 0)
    quantise(b, _back(b, b.op("GlobalAveragePool", _front(b, real(b, 0, 1, 2), perm)), perm), 3, 4, 0)


@body("QLinearReduceMean", domain=_DOMAIN)
def qlinear_reduce_mean(b: Body) -> None:
    axes, kept = [int(a) for a in b.attr("axes")], int(b.attr("keepdims"))
    quantise(b, b.op("ReduceMean", real(b, 0, 1, 2), axes, keepdims=kept), 3, 4, 0)


@body("QLinearConcat", domain=_DOMAIN)
def qlinear_concat(b: Body) -> None:
    """Scale and zero point of the output stand first."""
    parts = [real(b, k, k + 1, k + 2) for k in range(2, len(b.node.inputs), 3)]
    quantise(b, b.op("Concat", *parts, axis=int(b.attr("axis"))), 0, 1, 2)


@body("QLinearWhere", domain=_DOMAIN)
def qlinear_where(b: Body) -> None:
    quantise(b, b.op("Where", b.operand(0), real(b, 1, 2, 3), real(b, 4, 5, 6)), 7, 8, 1)


# Attention


@body("QAttention", domain=_DOMAIN)
def q_attention(b: Body) -> None:
    """softmax(scale Q K' + mask) V with [Q K V] = x W s_x s_w + bias; the products behind it are in float."""
    if b.attr("do_rotary", 0):
        raise b.refuse("it rotates its queries and keys itself")
    width = b.shape(1)[1]
    if not isinstance(width, int):
        raise b.refuse("the size of its weights is not known")
    centred = _centred(b, b.operand(0), b.operand(6)), _centred(b, b.operand(1), b.operand(7))
    product = b.op("MatMul", *centred)
    qkv = b.op("Add", b.op("Mul", product, b.op("Mul", b.operand(3), b.operand(4))), b.operand(2))
    settle(b, self_attention(b, qkv, [width // 3] * 3, int(b.attr("num_heads")), mask=5, past=8, bias=None))



refuse(
    *("MatMulInteger16", "MulInteger", "ReduceSumInteger"),
    domain=_DOMAIN,
    why="its operands are plain integers, as no quantiser writes it; quantise with onnxruntime.quantization",
)
