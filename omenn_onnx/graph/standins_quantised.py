"""Stand-ins for the quantised operators of ONNX Runtime: what shape inference needs to know of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from omenn_onnx.graph.standins import Stand, stands_for

_DOMAIN = "com.microsoft"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides")
_REAL = TensorProto.FLOAT


def _put(s: Stand, op: str, inputs: list[str], **attrs: Any) -> str:
    """A node in front of the last one."""
    out = f"{s.node.output[0]}/stand{len(s.nodes)}"
    s.nodes.append(helper.make_node(op, inputs, [out], name=out, **attrs))
    return out


def _number(s: Stand, value: list[int]) -> str:
    return _put(s, "Constant", [], value=numpy_helper.from_array(np.asarray(value, np.int64)))


def _input(s: Stand, k: int) -> str:
    return s.node.input[k] if k < len(s.node.input) else ""


def _real(s: Stand, k: int) -> str:
    return _put(s, "Cast", [s.node.input[k]], to=_REAL)


def _end(s: Stand, source: str, like: str) -> None:
    """Output 0 has the shape of ``source`` and the type of the tensor ``like``."""
    s.nodes.append(helper.make_node("CastLike", [source, like], [s.node.output[0]], name=s.node.output[0]))


def _last(
    s: Stand, x: str, attrs: dict[str, Any], op: str, weights: list[str], kept: tuple[str, ...], like: str
) -> None:
    """A convolution or pooling, with the channels last if the node has them there."""
    own = {k: v for k, v in attrs.items() if k in kept}
    last = bool(attrs.get("channels_last"))
    # The rank is not known here: two spatial axes, as every kernel with channels last has.
    x = _put(s, "Transpose", [x], perm=[0, 3, 1, 2]) if last else x
    y = _put(s, op, [x, *weights], **own)
    _end(s, _put(s, "Transpose", [y], perm=[0, 2, 3, 1]) if last else y, like)


@stands_for("QuantizeLinear", "DequantizeLinear", domain=_DOMAIN)
def _namesake(s: Stand, attrs: dict[str, Any]) -> None:
    if s.node.op_type == "DequantizeLinear":
        _end(s, s.node.input[0], s.node.input[1])
    elif _input(s, 2):
        _end(s, s.node.input[0], s.node.input[2])
    else:
        s.like(0, s.node.input[0], TensorProto.UINT8)


@stands_for("QLinearConv", domain=_DOMAIN)
def _conv(s: Stand, attrs: dict[str, Any]) -> None:
    like = _input(s, 7) or s.node.input[0]
    _last(s, _real(s, 0), attrs, "Conv", [_real(s, 3)], _CONV, like)


@stands_for("QLinearAveragePool", "QLinearGlobalAveragePool", domain=_DOMAIN)
def _pool(s: Stand, attrs: dict[str, Any]) -> None:
    op = s.node.op_type.removeprefix("QLinear")
    _last(s, _real(s, 0), attrs, op, [], _POOL if op == "AveragePool" else (), s.node.input[0])


@stands_for("QLinearAdd", "QLinearMul", domain=_DOMAIN)
def _binary(s: Stand, attrs: dict[str, Any]) -> None:
    _end(s, _put(s, "Pow", [_real(s, 0), _real(s, 3)]), s.node.input[0])


@stands_for("QLinearReduceMean", domain=_DOMAIN)
def _mean(s: Stand, attrs: dict[str, Any]) -> None:
    axes = _number(s, list(attrs["axes"]))
    _end(s, _put(s, "ReduceMean", [_real(s, 0), axes], keepdims=attrs["keepdims"]), s.node.input[0])


@stands_for("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=_DOMAIN)
def _like_first(s: Stand, attrs: dict[str, Any]) -> None:
    s.like(0, s.node.input[0])


@stands_for("QLinearConcat", domain=_DOMAIN)
def _joined(s: Stand, attrs: dict[str, Any]) -> None:
    parts = [_real(s, k) for k in range(2, len(s.node.input), 3)]
    _end(s, _put(s, "Concat", parts, axis=attrs["axis"]), s.node.input[2])


@stands_for("QLinearWhere", domain=_DOMAIN)
def _selected(s: Stand, attrs: dict[str, Any]) -> None:
    s.nodes.append(helper.make_node("Where", [s.node.input[0], s.node.input[1], s.node.input[4]], [s.node.output[0]]))


@stands_for("QGemm", domain=_DOMAIN)
def _gemm(s: Stand, attrs: dict[str, Any]) -> None:
    own = {k: v for k, v in attrs.items() if k in ("transA", "transB")}
    _end(s, _put(s, "Gemm", [_real(s, 0), _real(s, 3)], **own), s.node.input[0] if _input(s, 7) else s.node.input[1])


@stands_for("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=_DOMAIN)
def _product(s: Stand, attrs: dict[str, Any]) -> None:
    _end(s, _put(s, "MatMul", [_real(s, 0), _real(s, 1)]), s.node.input[2])


@stands_for("QAttention", domain=_DOMAIN)
def _attention(s: Stand, attrs: dict[str, Any]) -> None:
    parts = [f"{s.node.output[0]}/{p}" for p in "qkv"]
    s.nodes.append(helper.make_node("Split", [_real(s, 1)], parts, axis=1, num_outputs=3))
    _end(s, _put(s, "MatMul", [_real(s, 0), parts[2]]), s.node.input[3])


@stands_for("DynamicQuantizeLSTM", domain=_DOMAIN)
def _recurrent(s: Stand, attrs: dict[str, Any]) -> None:
    own = {k: v for k, v in attrs.items() if k in ("direction", "hidden_size")}
    operands = [s.node.input[0], _real(s, 1), _real(s, 2)]
    s.nodes.append(helper.make_node("LSTM", operands, s.node.output, name=s.node.output[0], **own))


@stands_for("QEmbedLayerNormalization", domain=_DOMAIN)
def _embedded(s: Stand, attrs: dict[str, Any]) -> None:
    _end(s, _put(s, "Gather", [_real(s, 2), s.node.input[0]], axis=0), s.node.input[8])


@stands_for("MatMulNBits", "MatMulBnb4", domain=_DOMAIN)
def _few_bits(s: Stand, attrs: dict[str, Any]) -> None:
    weight = f"{s.node.output[0]}/weight"
    s.weights.append(helper.make_tensor_value_info(weight, _REAL, [attrs["K"], attrs["N"]]))
    _end(s, _put(s, "MatMul", [_real(s, 0), weight]), s.node.input[0])


@stands_for("GatherBlockQuantized", domain=_DOMAIN)
def _gathered(s: Stand, attrs: dict[str, Any]) -> None:
    """As long, along the quantised axis, as its blocks say (the last axis; the body checks that)."""
    rows = _put(s, "Gather", [s.node.input[2], s.node.input[1]], axis=attrs.get("gather_axis", 0))
    s.nodes.append(helper.make_node("Concat", [rows] * attrs.get("block_size", 128), [s.node.output[0]], axis=-1))
