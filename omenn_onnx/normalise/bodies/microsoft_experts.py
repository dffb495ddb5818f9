"""Mixtures of experts (com.microsoft), dense: every expert's y_e, weighted by its share of the routing, 0 where it is
not among the best k of a token."""

from __future__ import annotations

from math import ceil, prod

import numpy as np

from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.few_bits import unpacked
from omenn_onnx.normalise.bodies.microsoft import DOMAIN, silu
from omenn_onnx.normalise.bodies.microsoft_positions import known
from omenn_onnx.normalise.bodies.quantised import as_float, settle

Layer = tuple[str, "str | None"]
"""Weights [experts, columns, rows] and biases [experts, columns]."""


@body("MoE", domain=DOMAIN)
def mixture(b: Body) -> None:
    """sum_e p_e (act(x W1_e' + b1_e) W2_e' + b2_e) with p the softmax of the router's best k."""
    first, second, third = ((b.operand(k), b.operand(k + 1)) for k in (2, 4, 6))
    gated = None if third[0] is None else (str(third[0]), third[1])
    b.give(0, _mixed(b, (str(first[0]), first[1]), (str(second[0]), second[1]), gated, None))


@body("QMoE", domain=DOMAIN)
def quantised_mixture(b: Body) -> None:
    """MoE with weights (q - zero) scale of a few bits, perhaps in blocks along their rows. With blocks of 8 bits, and
    at accuracy level 4, the kernel rounds what enters a product: a bias."""
    if b.attr("quant_type", "int") != "int" or int(b.attr("weights_prepacked", -1)) == 1:
        raise b.refuse("its weights have a packed format of one device; export the mixture of experts as plain ONNX")
    layers = [(_table(b, n, k, z), b.operand(k + 2)) for n, k, z in ((1, 2, 11), (2, 5, 12))]
    gated = None if b.operand(8) is None else (_table(b, 3, 8, 13), b.operand(10))
    rounds = int(b.attr("block_size", 0)) > 0 and (_bits(b, 1) == 8 or int(b.attr("accuracy_level", 0)) == 4)
    settle(b, _mixed(b, layers[0], layers[1], gated, b.operand(14)), exact=not rounds)


def _mixed(b: Body, first: Layer, second: Layer, gated: Layer | None, weights: str | None) -> str:
    """The mixture; ``weights`` [tokens, experts] take the place of the softmax where they are given. QMoE's softmax is
    one over the chosen experts."""
    if b.attr("use_sparse_mixer", 0):
        raise b.refuse("it uses the sparse mixer, which jumps; export the mixture of experts as plain ONNX")
    width, count = known(b, b.shape(0)[-1]), known(b, b.shape(1)[-1])
    x = b.op("Unsqueeze", b.op("Reshape", b.operand(0), [-1, width]), [0])
    h = _layer(b, x, first)
    h = _activated(b, h, None if gated is None else _layer(b, x, gated))
    y = _layer(b, h, second)
    # Of equal scores the kernel takes the last.
    turned = b.op("Slice", b.operand(1), [-1], [-count - 1], [-1], [-1])
    best = b.ops("TopK", 2, turned, [int(b.attr("k", 1))], axis=-1)[1]
    chosen = b.op("OneHot", b.op("Sub", [count - 1], best), np.asarray(count), np.asarray([0, 1], b.dtype), axis=-1)
    share = weights or b.op("Softmax", b.operand(1), axis=-1)
    share = b.op("Mul", share, b.op("ReduceSum", chosen, [1], keepdims=0))
    if b.attr("normalize_routing_weights", 0) or (weights is None and b.node.op == "QMoE"):
        share = b.op("Div", share, b.op("ReduceSum", share, [-1], keepdims=1))
    share = b.op("Unsqueeze", b.op("Transpose", share, perm=[1, 0]), [2])
    total = b.op("ReduceSum", b.op("Mul", y, share), [0], keepdims=0)
    return b.op("Reshape", total, b.op("Shape", b.operand(0)))


def _layer(b: Body, x: str, layer: Layer) -> str:
    """[experts, tokens, columns]."""
    weights, bias = layer
    y = b.op("MatMul", x, b.op("Transpose", weights, perm=[0, 2, 1]))
    return y if bias is None else b.op("Add", y, b.op("Unsqueeze", bias, [1]))


def _activated(b: Body, h: str, linear: str | None) -> str:
    """act(h), times the linear part of a gated activation, which may stand in the same columns."""
    name = b.attr("activation_type", "relu")
    if name == "swiglu":
        return _swiglu(b, h, linear)
    plain = {
        "relu": lambda: b.op("Relu", h),
        "gelu": lambda: b.op("Gelu", h, approximate="tanh"),
        "silu": lambda: silu(b, h),
        "identity": lambda: h,
    }
    if name not in plain:
        raise b.refuse(f"activation {name!r} is not known")
    y = plain[name]()
    return y if linear is None else b.op("Mul", y, linear)


def _swiglu(b: Body, h: str, linear: str | None) -> str:
    """g sigmoid(alpha g) (l + beta), g and l clipped."""
    if b.attr("swiglu_limit_after_activation", 0):
        raise b.refuse("its attribute swiglu_limit_after_activation is set, for which the CPU kernel does not stand")
    fusion, g = int(b.attr("swiglu_fusion", 0)), h
    if fusion == 1:
        pairs = b.op("Reshape", h, [0, 0, -1, 2])
        g, linear = (b.op("Squeeze", part, [3]) for part in b.ops("Split", 2, pairs, [1, 1], axis=3))
    elif fusion == 2:
        g, linear = b.ops("Split", 2, h, axis=-1, num_outputs=2)
    if linear is None:
        raise b.refuse("its gate has no linear part")
    limit = float(b.attr("swiglu_limit", np.inf))
    if np.isfinite(limit):
        g, linear = b.op("Clip", g, None, limit), b.op("Clip", linear, -limit, limit)
    gate = b.op("Mul", g, b.op("Sigmoid", b.op("Mul", g, float(b.attr("activation_alpha", 1.0)))))
    return b.op("Mul", gate, b.op("Add", linear, float(b.attr("activation_beta", 0.0))))


def _bits(b: Body, n: int) -> int:
    return int(b.attr(f"fc{n}_expert_weight_bits", 0) or b.attr("expert_weight_bits", 4))


def _table(b: Body, n: int, k: int, zero: int) -> str:
    """Layer n's weights, operand k, as real numbers; its scales are the operand behind, its zero points ``zero``."""
    bits = _bits(b, n)
    if bits not in (2, 4, 8):
        raise b.refuse(f"its weights have {bits} bits")
    shape = [known(b, d) for d in b.shape(k)]
    count, rows, columns = shape[0], shape[1], shape[2] * 8 // bits
    groups = prod(known(b, d) for d in b.shape(k + 1)[2:])
    q = b.op("Reshape", as_float(b, unpacked(b, b.operand(k), bits)), [count, rows, groups, columns // groups])
    zeros: str | float = 2.0 ** (bits - 1)
    if b.operand(zero) is not None:
        size = groups if len(b.shape(zero)) == 3 else rows
        packed = b.op("Reshape", b.operand(zero), [-1, ceil(size * bits / 8)])
        flat = b.op("Slice", b.op("Reshape", unpacked(b, packed, bits), [-1, ceil(size * bits / 8) * 8 // bits]),
                    [0], [size], [1])  # fmt: skip
        zeros = b.op("Reshape", as_float(b, flat), [count, rows, groups, 1])
    real = b.op("Mul", b.op("Sub", q, zeros), b.op("Reshape", b.operand(k + 1), [count, rows, groups, 1]))
    return b.op("Reshape", real, [count, rows, columns])
