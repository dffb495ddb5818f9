"""Operators of ONNX Runtime's optimisers (com.microsoft), written in ONNX: activations, norms, products,
convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from omenn_onnx.normalise.bodies.base import Body, body

DOMAIN = "com.microsoft"
_NHWC = "com.ms.internal.nhwc"

# Activations


@body("BiasGelu", domain=DOMAIN)
def bias_gelu(b: Body) -> None:
    """Gelu(x + bias)."""
    b.give(0, b.op("Gelu", b.op("Add", b.operand(0), b.operand(1))))


@body("Gelu", domain=DOMAIN)
def gelu(b: Body) -> None:
    """Gelu(x)."""
    b.give(0, b.op("Gelu", b.operand(0)))


@body("FastGelu", domain=DOMAIN)
def fast_gelu(b: Body) -> None:
    """Gelu's tanh form, of x + bias if there is one."""
    x = b.operand(0)
    if b.operand(1) is not None:
        x = b.op("Add", x, b.operand(1))
    b.give(0, b.op("Gelu", x, approximate="tanh"))


@body("QuickGelu", domain=DOMAIN)
def quick_gelu(b: Body) -> None:
    """x sigmoid(alpha x)."""
    scaled = b.op("Mul", b.operand(0), float(b.attr("alpha", 1.702)))
    b.give(0, b.op("Mul", b.operand(0), b.op("Sigmoid", scaled)))


@body("ScaledSiLU", domain=DOMAIN)
def scaled_silu(b: Body) -> None:
    """z sigmoid(z) with z = x times the scale."""
    z = b.op("Mul", b.operand(0), b.operand(1) or float(b.attr("alpha", 1.0)))
    b.give(0, silu(b, z))


@body("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(b: Body) -> None:
    """The left half of x + bias times Gelu of its right half."""
    left, right = b.ops("Split", 2, b.op("Add", b.operand(0), b.operand(1)), axis=-1, num_outputs=2)
    b.give(0, b.op("Mul", left, b.op("Gelu", right)))


@body("BiasSoftmax", domain=DOMAIN)
def bias_softmax(b: Body) -> None:
    """Softmax(x + bias) over all axes from ``axis`` on."""
    x = b.op("Add", b.operand(0), b.operand(1))
    rank = len(b.shape(0))
    axis = int(b.attr("axis", 1)) % rank
    if axis == rank - 1:
        b.give(0, b.op("Softmax", x, axis=-1))
        return
    flat = b.op("Softmax", b.op("Flatten", x, axis=axis), axis=-1)
    b.give(0, b.op("Reshape", flat, b.op("Shape", x)))


@body("BiasAdd", domain=DOMAIN)
def bias_add(b: Body) -> None:
    """x + bias + skip."""
    b.give(0, b.op("Add", b.op("Add", b.operand(0), b.operand(1)), b.operand(2)))


def _in_inference(b: Body, k: int) -> None:
    """Refuses a dropout whose training mode (operand k) may be on."""
    training = b.tensor(k)
    if training is not None and (training.value is None or training.value.any()):
        raise b.refuse("it drops values at random (training mode); export the model in evaluation mode")
    if b.wants(1):
        raise b.refuse("its mask is used")


@body("BiasDropout", "BitmaskBiasDropout", domain=DOMAIN)
def bias_dropout(b: Body) -> None:
    """x + bias + residual, as in inference."""
    _in_inference(b, 4)
    y = b.op("Add", b.operand(0), b.operand(1))
    b.give(0, y if b.operand(2) is None else b.op("Add", y, b.operand(2)))


@body("BitmaskDropout", domain=DOMAIN)
def bitmask_dropout(b: Body) -> None:
    """x itself, as in inference."""
    _in_inference(b, 2)
    b.give(0, b.op("Identity", b.operand(0)))


@body("GatedAdd", domain=DOMAIN)
def gated_add(b: Body) -> None:
    """x + y gate."""
    b.give(0, b.op("Add", b.operand(0), b.op("Mul", b.operand(1), b.operand(2))))


def silu(b: Body, x: str) -> str:
    """x sigmoid(x)."""
    return b.op("Mul", x, b.op("Sigmoid", x))


def activation(b: Body, x: str) -> str:
    """The activation that a fused operator names, with its parameters."""
    name = b.attr("activation", "")
    p = list(b.attr("activation_params", []))
    alpha = b.attr("activation_alpha", p[0] if p else None)
    beta = b.attr("activation_beta", p[1] if len(p) > 1 else None)
    if name == "":
        return x
    if name == "Clip":
        return b.op("Clip", x, None if alpha is None else float(alpha), None if beta is None else float(beta))
    attrs: dict[str, Any] = {}
    if alpha is not None and name in ("LeakyRelu", "HardSigmoid", "Elu", "ThresholdedRelu"):
        attrs["alpha"] = float(alpha)
    if beta is not None and name == "HardSigmoid":
        attrs["beta"] = float(beta)
    if name in ("Softmax", "LogSoftmax"):
        attrs["axis"] = int(b.attr("activation_axis", -1))
    return b.op(name, x, **attrs)


# Norms


@body("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(b: Body) -> None:
    """LayerNormalization(input + bias + skip); the bias belongs to the first input."""
    simplified = b.node.op == "SkipSimplifiedLayerNormalization"
    x = b.operand(0)
    bias = b.operand(3 if simplified else 4)
    if bias is not None:
        x = b.op("Add", x, bias)
    total = b.op("Add", x, b.operand(1))
    epsilon = float(b.attr("epsilon", 1e-12))
    if b.wants(1) or b.wants(2):
        raise b.refuse("its statistics are used")
    if simplified:
        y = b.op("SimplifiedLayerNormalization", total, b.operand(2), epsilon=epsilon, axis=-1)
    else:
        y = b.op("LayerNormalization", total, b.operand(2), b.operand(3), epsilon=epsilon, axis=-1)
    b.give(0, y)
    b.give(3, total)


@body("GroupNorm", "SkipGroupNorm", domain=DOMAIN)
def group_norm(b: Body) -> None:
    """Each group of channels of x (+ bias + skip) normalised over the group and all positions, scaled and shifted by
    channel, perhaps through SiLU."""
    x, rank = str(b.operand(0)), len(b.shape(0))
    last = bool(b.attr("channels_last", 1))
    if b.operand(4) is not None:
        x = b.op("Add", x, b.operand(4) if last else _by_channel(b, b.operand(4), rank))
    if b.operand(3) is not None:
        skip = str(b.operand(3))
        if len(b.shape(3)) == 2 and rank > 2:
            skip = b.op("Unsqueeze", skip, list(range(1, rank - 1)))
        x = b.op("Add", x, skip)
    b.give(1, x)
    groups = int(b.attr("groups", 1))
    front = b.op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]) if last else x
    ones, zeros = (np.full(groups, c, b.dtype) for c in (1, 0))
    grouped = b.op("Reshape", front, [0, groups, -1])
    normal = b.op("InstanceNormalization", grouped, ones, zeros, epsilon=float(b.attr("epsilon", 1e-5)))
    y = b.op("Reshape", normal, b.op("Shape", front))
    y = b.op("Mul", y, _by_channel(b, b.operand(1), rank))
    y = b.op("Add", y, _by_channel(b, b.operand(2), rank))
    if b.attr("activation", 0):
        y = silu(b, y)
    b.give(0, b.op("Transpose", y, perm=[0, *range(2, rank), 1]) if last else y)


def _by_channel(b: Body, vector: str | None, rank: int) -> str:
    """A vector along axis 1."""
    return b.op("Reshape", vector, [-1, *[1] * (rank - 2)])


@body("GatedRMSNorm", domain=DOMAIN)
def gated_rms_norm(b: Body) -> None:
    """x / rms(x) scale act(gate), each run of as many columns as the scale has."""
    count = b.shape(1)[0]
    if not isinstance(count, int):
        raise b.refuse("the length of its scale is not known")
    rank = len(b.shape(0))
    x = b.op("Reshape", b.operand(0), [*[0] * (rank - 1), -1, count])
    normal = b.op("SimplifiedLayerNormalization", x, b.operand(1), epsilon=float(b.attr("epsilon", 1e-5)), axis=-1)
    gate = b.op("Sigmoid", b.operand(2))
    if b.attr("activation", "silu") != "sigmoid":
        gate = b.op("Mul", b.operand(2), gate)
    b.give(0, b.op("Mul", b.op("Reshape", normal, [*[0] * (rank - 1), -1]), gate))


# Products


@body("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=DOMAIN)
def fused_matmul(b: Body) -> None:
    """activation(alpha A' B'), each operand's axes moved if asked: the first behind the batch axes, the last two
    swapped."""
    names = []
    for k, letter in ((0, "A"), (1, "B")):
        name, rank = b.operand(k), len(b.shape(k))
        perm = list(range(rank))
        if rank > 1 and b.attr(f"transBatch{letter}", 0):
            perm = [*perm[1:-1], 0, perm[-1]]
        if rank > 1 and b.attr(f"trans{letter}", 0):
            perm = [*perm[:-2], perm[-1], perm[-2]]
        names.append(name if perm == list(range(rank)) else b.op("Transpose", name, perm=perm))
    y = b.op("MatMul", *names)
    alpha = float(b.attr("alpha", 1.0))
    b.give(0, activation(b, y if alpha == 1.0 else b.op("Mul", y, alpha)))


@body("GemmFastGelu", domain=DOMAIN)
def gemm_fast_gelu(b: Body) -> None:
    """Gelu's tanh form of x W + bias."""
    y = b.op("MatMul", b.operand(0), b.operand(1))
    if b.operand(2) is not None:
        y = b.op("Add", y, b.operand(2))
    b.give(0, b.op("Gelu", y, approximate="tanh"))


@body("FusedGemm", domain=DOMAIN)
def fused_gemm(b: Body) -> None:
    """activation(Gemm)."""
    attrs = {k: v for k, v in b.node.attrs.items() if k in ("alpha", "beta", "transA", "transB")}
    b.give(0, activation(b, b.op("Gemm", b.operand(0), b.operand(1), b.operand(2), **attrs)))


# Convolutions and layouts

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides")


@body("FusedConv", domain=DOMAIN)
def fused_conv(b: Body) -> None:
    """activation(Conv(x) + z)."""
    y = b.op("Conv", b.operand(0), b.operand(1), b.operand(2), **_some(b, _CONV))
    if b.operand(3) is not None:
        y = b.op("Add", y, b.operand(3))
    b.give(0, activation(b, y))


@body("NhwcConv", "NhwcFusedConv", domain=DOMAIN)
def nhwc_conv(b: Body) -> None:
    """activation(Conv(x) + z), the channels last."""
    y = b.op("Conv", _first(b, b.operand(0)), b.operand(1), b.operand(2), **_some(b, _CONV))
    y = _last(b, y)
    if b.operand(3) is not None:
        y = b.op("Add", y, b.operand(3))
    b.give(0, activation(b, y))


@body("NhwcMaxPool", domain=DOMAIN)
def nhwc_max_pool(b: Body) -> None:
    """MaxPool with the channels last."""
    attrs = _some(b, ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"))
    b.give(0, _last(b, b.op("MaxPool", _first(b, b.operand(0)), **attrs)))


@body(
    *(
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalMaxPool",
        "GlobalAveragePool",
        "GlobalLpPool",
    ),
    *("BatchNormalization", "InstanceNormalization", "LRN"),
    domain=_NHWC,
)
def channels_last(b: Body) -> None:
    """ONNX's operator of that name with the channels last."""
    others = [b.operand(k) for k in range(1, len(b.node.inputs))]
    b.give(0, _last(b, b.op(b.node.op, _first(b, b.operand(0)), *others, **b.node.attrs)))


@body("ConvTransposeWithDynamicPads", domain=DOMAIN)
def conv_transpose(b: Body) -> None:
    """ConvTranspose whose pads are an operand."""
    attrs = _some(b, _CONV)
    if b.operand(2) is not None:
        attrs["pads"] = [int(p) for p in b.number(2, "pads").reshape(-1)]
    b.give(0, b.op("ConvTranspose", b.operand(0), b.operand(1), b.operand(3), **attrs))


def _some(b: Body, names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in b.node.attrs.items() if k in names}


def _first(b: Body, x: str | None) -> str:
    """NHWC to NCHW."""
    rank = len(b.shape(0))
    return b.op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def _last(b: Body, x: str) -> str:
    """NCHW to NHWC."""
    rank = len(b.shape(0))
    return b.op("Transpose", x, perm=[0, *range(2, rank), 1])
