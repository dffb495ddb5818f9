"""ONNX Runtime's own operators as their decompositions (com.microsoft), from its operator documentation."""

from __future__ import annotations

from .bodies import Body, Name, body
from .stream import Tensor

MS = "com.microsoft"


# -- activations ------------------------------------------------------------------------------------------------------


@body("Gelu", domain=MS)
def gelu(b: Body, x: Tensor) -> tuple:
    return (b.op("Gelu", b.given(0)),)


@body("BiasGelu", domain=MS)
def bias_gelu(b: Body, x: Tensor, bias: Tensor) -> tuple:
    return (b.op("Gelu", b.op("Add", b.given(0), b.given(1))),)


@body("FastGelu", domain=MS)
def fast_gelu(b: Body, x: Tensor, bias: Tensor | None = None) -> tuple:
    return (b.op("Gelu", b.plus(b.given(0), b.given(1)), approximate="tanh"),)


@body("QuickGelu", domain=MS)
def quick_gelu(b: Body, x: Tensor) -> tuple:
    """x sigmoid(alpha x)."""
    return (b.op("Mul", b.given(0), b.op("Sigmoid", b.scaled(b.given(0), b.attr("alpha", 1.702)))),)


@body("BiasSplitGelu", domain=MS)
def bias_split_gelu(b: Body, x: Tensor, bias: Tensor) -> tuple:
    """Two halves of the last axis: the first times Gelu of the second."""
    left, right = b.op("Split", b.op("Add", b.given(0), b.given(1)), axis=-1, num_outputs=2, outputs=2)
    return (b.op("Mul", left, b.op("Gelu", right)),)


@body("BiasAdd", domain=MS)
def bias_add(b: Body, *_: Tensor) -> tuple:
    return (b.plus(b.given(0), b.given(1), b.given(2)),)


@body("BiasSoftmax", domain=MS)
def bias_softmax(b: Body, x: Tensor, bias: Tensor) -> tuple:
    axis = b.attr("axis", 1) % x.ndim
    s = b.op("Add", b.given(0), b.given(1))
    if axis == x.ndim - 1:
        return (b.op("Softmax", s, axis=axis),)
    flat = b.op("Softmax", b.reshape(s, *x.shape[:axis], -1), axis=-1)
    return (b.reshape(flat, *x.shape),)


def activation(b: Body, y: Name, name: str | None, params: list | None) -> Name:
    """Of a fused operator."""
    if not name:
        return y
    keys = {"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"], "Elu": ["alpha"], "ThresholdedRelu": ["alpha"]}
    if name == "Clip":
        return b.op("Clip", y, b.const(params[0]), b.const(params[1]))
    return b.op(name, y, **dict(zip(keys.get(name, []), params or [], strict=False)))


CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@body("FusedConv", domain=MS)
def fused_conv(b: Body, x: Tensor, w: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> tuple:
    y = b.op("Conv", b.given(0), b.given(1), b.given(2), **{k: b.attr(k) for k in CONV})
    return (activation(b, b.plus(y, b.given(3)), b.attr("activation"), b.attr("activation_params")),)


@body("NhwcConv", "NhwcFusedConv", domain=MS)
def nhwc_conv(b: Body, x: Tensor, w: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> tuple:
    last = x.ndim - 1
    turned = b.transpose(b.given(0), 0, last, *range(1, last))
    y = b.op("Conv", turned, b.given(1), b.given(2), **{k: b.attr(k) for k in CONV})
    y = b.plus(b.transpose(y, 0, *range(2, last + 1), 1), b.given(3))
    return (activation(b, y, b.attr("activation"), b.attr("activation_params")),)


@body("FusedGemm", domain=MS)
def fused_gemm(b: Body, x: Tensor, w: Tensor, c: Tensor | None = None) -> tuple:
    y = b.op(
        "Gemm", b.given(0), b.given(1), b.given(2), **{k: b.attr(k) for k in ("alpha", "beta", "transA", "transB")}
    )
    params = [b.attr(k) for k in ("activation_alpha", "activation_beta") if b.attr(k) is not None]
    return (activation(b, y, b.attr("activation"), params),)


def turned(b: Body, name: Name, t: Tensor, plain: int, batch: int) -> Name:
    """transX swaps the last two axes; transBatchX moves the first axis in front of the last one (before that)."""
    if t.ndim < 2:
        return name
    axes = list(range(t.ndim))
    if batch:
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if plain:
        axes[-1], axes[-2] = axes[-2], axes[-1]
    return name if axes == list(range(t.ndim)) else b.transpose(name, *axes)


@body("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=MS)
def fused_matmul(b: Body, x: Tensor, w: Tensor) -> tuple:
    left = turned(b, b.given(0), x, b.attr("transA", 0), b.attr("transBatchA", 0))
    right = turned(b, b.given(1), w, b.attr("transB", 0), b.attr("transBatchB", 0))
    y = b.scaled(b.op("MatMul", left, right), b.attr("alpha", 1.0))
    params = [b.attr(k) for k in ("activation_alpha", "activation_beta") if b.attr(k) is not None]
    return (activation(b, y, b.attr("activation"), params),)


# -- norms ------------------------------------------------------------------------------------------------------------


@body("SimplifiedLayerNormalization")
def simplified(b: Body, x: Tensor, gain: Tensor) -> tuple:
    axis, epsilon = b.attr("axis", -1), b.attr("epsilon", 1e-5)
    return (b.op("RMSNormalization", b.given(0), b.given(1), axis=axis, epsilon=epsilon),)


@body("SkipLayerNormalization", domain=MS)
def skip_layer_norm(b: Body, x: Tensor, skip: Tensor, gain: Tensor, beta: Tensor | None = None,
                    bias: Tensor | None = None) -> tuple:  # fmt: skip
    """LayerNormalization((x + bias) + skip)."""
    total = b.op("Add", b.plus(b.given(0), b.given(4)), b.given(1))
    y = b.op("LayerNormalization", total, b.given(2), b.given(3), axis=-1, epsilon=b.attr("epsilon", 1e-12))
    return y, None, None, total


@body("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified(b: Body, x: Tensor, skip: Tensor, gain: Tensor, bias: Tensor | None = None) -> tuple:
    total = b.op("Add", b.plus(b.given(0), b.given(3)), b.given(1))
    y = b.op("RMSNormalization", total, b.given(2), axis=-1, epsilon=b.attr("epsilon", 1e-12))
    return y, None, None, total


def channels_last_norm(b: Body, x: Name, ndim: int) -> Name:
    """GroupNorm on [N, H, W, C], then x sigmoid(x) if asked for."""
    last = bool(b.attr("channels_last", 1))
    y = b.transpose(x, 0, ndim - 1, *range(1, ndim - 1)) if last else x
    gain, beta = (b.n.input(k).value for k in (1, 2))
    y = b.op("GroupNormalization", y, b.const(gain), b.const(beta), num_groups=b.attr("groups"),
             epsilon=b.attr("epsilon", 1e-5))  # fmt: skip
    y = b.transpose(y, 0, *range(2, ndim), 1) if last else y
    return b.op("Mul", y, b.op("Sigmoid", y)) if b.attr("activation") else y


@body("GroupNorm", domain=MS)
def group_norm(b: Body, x: Tensor, gain: Tensor, beta: Tensor) -> tuple:
    return (channels_last_norm(b, b.given(0), x.ndim),)


@body("SkipGroupNorm", domain=MS)
def skip_group_norm(b: Body, x: Tensor, gain: Tensor, beta: Tensor, skip: Tensor, bias: Tensor | None = None) -> tuple:
    batch, channels = x.shape[0], x.shape[-1]
    other = b.given(3) if skip.ndim == 4 else b.reshape(b.given(3), batch, 1, 1, channels)
    total = b.op("Add", b.plus(b.given(0), b.given(4)), other)
    return channels_last_norm(b, total, x.ndim), total
