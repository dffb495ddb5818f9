"""Operators of ONNX Runtime's optimisers (com.microsoft), written in ONNX."""

from __future__ import annotations

from typing import Any

from omenn_onnx.normalise.bodies.base import Body, body

_DOMAIN = "com.microsoft"


@body("BiasGelu", domain=_DOMAIN)
def bias_gelu(b: Body) -> None:
    """Gelu(x + bias)."""
    b.give(0, b.op("Gelu", b.op("Add", b.operand(0), b.operand(1))))


@body("Gelu", domain=_DOMAIN)
def gelu(b: Body) -> None:
    b.give(0, b.op("Gelu", b.operand(0)))


@body("FastGelu", domain=_DOMAIN)
def fast_gelu(b: Body) -> None:
    """Gelu's tanh form, of x + bias if there is one."""
    x = b.operand(0)
    if b.operand(1) is not None:
        x = b.op("Add", x, b.operand(1))
    b.give(0, b.op("Gelu", x, approximate="tanh"))


@body("QuickGelu", domain=_DOMAIN)
def quick_gelu(b: Body) -> None:
    """x sigmoid(alpha x)."""
    scaled = b.op("Mul", b.operand(0), float(b.attr("alpha", 1.702)))
    b.give(0, b.op("Mul", b.operand(0), b.op("Sigmoid", scaled)))


@body("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_DOMAIN)
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


@body("FusedMatMul", domain=_DOMAIN)
def fused_matmul(b: Body) -> None:
    """alpha A' B', each operand's last two axes swapped if asked."""
    names = []
    for k, flag in ((0, "transA"), (1, "transB")):
        name = b.operand(k)
        rank = len(b.shape(k))
        if b.attr(flag, 0) and rank > 1:
            name = b.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])
        if b.attr(flag.replace("trans", "transBatch"), 0):
            raise b.refuse("its batch axes are transposed")
        names.append(name)
    y = b.op("MatMul", *names)
    alpha = float(b.attr("alpha", 1.0))
    b.give(0, y if alpha == 1.0 else b.op("Mul", y, alpha))


@body("FusedConv", domain=_DOMAIN)
def fused_conv(b: Body) -> None:
    """activation(Conv(x) + z)."""
    kept = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attrs = {k: v for k, v in b.node.attrs.items() if k in kept}
    y = b.op("Conv", b.operand(0), b.operand(1), b.operand(2), **attrs)
    if b.operand(3) is not None:
        y = b.op("Add", y, b.operand(3))
    b.give(0, activation(b, y))


@body("FusedGemm", domain=_DOMAIN)
def fused_gemm(b: Body) -> None:
    """activation(Gemm)."""
    attrs = {k: v for k, v in b.node.attrs.items() if k in ("alpha", "beta", "transA", "transB")}
    b.give(0, activation(b, b.op("Gemm", b.operand(0), b.operand(1), b.operand(2), **attrs)))


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
    if alpha is not None and name in ("LeakyRelu", "HardSigmoid", "Elu"):
        attrs["alpha"] = float(alpha)
    if beta is not None and name == "HardSigmoid":
        attrs["beta"] = float(beta)
    return b.op(name, x, **attrs)
