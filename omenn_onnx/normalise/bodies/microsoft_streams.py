"""Operators of ONNX Runtime for recurrent decoders: linear attention and its gates, causal convolutions, several
residual streams mixed into one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from omenn_onnx.graph.emit import type_code
from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.microsoft import DOMAIN, silu
from omenn_onnx.normalise.bodies.microsoft_positions import known

# Gates


@body("SwiGLU", domain=DOMAIN)
def swiglu(b: Body) -> None:
    """G sigmoid(alpha G) (L + beta) with G and L the gate and the other half, clipped where there is a limit."""
    gate, up = b.operand(0), b.operand(1)
    if up is None:
        gate, up = b.ops("Split", 2, gate, axis=-1, num_outputs=2)
    limit, alpha = float(b.attr("limit", 0.0)), float(b.attr("activation_alpha", 1.0))
    beta = float(b.attr("activation_beta", 0.0))
    if limit > 0:
        gate, up = b.op("Clip", gate, None, limit), b.op("Clip", up, -limit, limit)
    y = b.op("Mul", gate, b.op("Sigmoid", gate if alpha == 1.0 else b.op("Mul", gate, alpha)))
    b.give(0, b.op("Mul", y, up if beta == 0.0 else b.op("Add", up, beta)))


@body("LinearAttentionGate", domain=DOMAIN)
def linear_attention_gate(b: Body) -> None:
    """decay_scale softplus(a + bias), sigmoid(b)."""
    a = b.op("Add", b.operand(0), b.operand(1))
    b.give(0, b.op("Mul", b.op("Softplus", a), b.operand(2)))
    if b.wants(1):
        b.give(1, b.op("Sigmoid", b.operand(3)))


@body("EngramGate", domain=DOMAIN)
def engram_gate(b: Body) -> None:
    """gate value with gate = sigmoid(sign(d) sqrt(max(|d|, 1e-6))), d = sum(rms(key) rms(query)) / sqrt(size)."""
    size = known(b, b.shape(0)[-1])
    key, query = (_rms(b, b.operand(k), b.operand(3 + k)) for k in (0, 1))
    dot = b.op("ReduceSum", b.op("Mul", key, query), [-1], keepdims=1)
    dot = b.op("Div", dot, float(np.sqrt(size)))
    root = b.op("Sqrt", b.op("Max", b.op("Abs", dot), 1e-6))
    gate = b.op("Sigmoid", b.op("Mul", b.op("Sign", dot), root))
    y = b.op("Mul", gate, b.op("Unsqueeze", b.operand(2), [2]))
    b.give(0, y)
    if b.wants(1):
        b.give(1, _rms(b, y, b.operand(5)))


def _rms(b: Body, x: str | None, scale: str | None) -> str:
    """x / rms(x) over the last axis, times a scale that broadcasts."""
    one = np.ones(1, b.dtype)
    y = b.op("SimplifiedLayerNormalization", x, one, epsilon=float(b.attr("epsilon", 1e-5)), axis=-1)
    return y if scale is None else b.op("Mul", y, scale)


# Several streams


def _streams(b: Body, x: str | None) -> tuple[str, bool]:
    """[..., C, H], and whether it was flattened to [..., C H]."""
    count = int(b.attr("num_branches", 0))
    if not count:
        return str(x), False
    return b.op("Reshape", x, [*[0] * (len(b.shape(0)) - 1), count, -1]), True


def _flat(b: Body, y: str) -> str:
    return b.op("Reshape", y, [*[0] * (len(b.shape(0)) - 1), -1])


def _by_stream(b: Body, k: int) -> str:
    """Gates [..., C], [..., C, 1], [..., C, H] or [..., C H] as factors of [..., C, H]."""
    gates, shape, grouped = str(b.operand(k)), b.shape(k), bool(int(b.attr("num_branches", 0)))
    rank = len(b.shape(0)) + (1 if grouped else 0)
    if len(shape) == rank:
        return gates
    count = int(b.attr("num_branches", 0)) or known(b, b.shape(0)[-2])
    wide = shape[-1] != count
    return b.op("Reshape", gates, [*[0] * (len(shape) - 1), count, -1 if wide else 1])


@body("BranchwiseRMSNorm", domain=DOMAIN)
def branchwise_rms_norm(b: Body) -> None:
    """x / rms(x), scaled, each stream by itself."""
    x, flat = _streams(b, b.operand(0))
    scale = b.operand(1)
    if scale is not None and len(b.shape(1)) == 1:
        count = int(b.attr("num_branches", 0)) or known(b, b.shape(0)[-2])
        size = known(b, b.shape(0)[-1]) // (count if flat else 1)
        if known(b, b.shape(1)[0]) != size:
            scale = b.op("Reshape", scale, [count, size])
    y = _rms(b, x, scale)
    b.give(0, _flat(b, y) if flat else y)


@body("HyperConnectionPreMix", domain=DOMAIN)
def pre_mix(b: Body) -> None:
    """y_h = scale sum_c x_ch g_ch."""
    x, _ = _streams(b, b.operand(0))
    y = b.op("ReduceSum", b.op("Mul", x, _by_stream(b, 1)), [-2], keepdims=0)
    scale = float(b.attr("reduction_scale", 1.0))
    b.give(0, y if scale == 1.0 else b.op("Mul", y, scale))


@body("HyperConnectionPostMix", domain=DOMAIN)
def post_mix(b: Body) -> None:
    """y_kh = sum_c m_ck x_ch + g_kh z_h."""
    x, flat = _streams(b, b.operand(0))
    if b.operand(3) is not None:
        x = b.op("Einsum", b.operand(3), x, equation="...ck,...ch->...kh")
    put = b.op("Mul", _by_stream(b, 2), b.op("Unsqueeze", b.operand(1), [-2]))
    y = b.op("Add", x, put)
    b.give(0, _flat(b, y) if flat else y)


# Recurrences


@body("CausalConvWithState", domain=DOMAIN)
def causal_conv(b: Body) -> None:
    """A depthwise Conv of what was before x, or zeros, and x; perhaps through SiLU. The last places are the state."""
    changed = ("state_window", "state_update_capacity", "state_length", "input_channel_offset", "input_channels")
    if int(b.attr("ndim", 1)) != 1 or any(int(b.attr(name, 0)) for name in changed) or b.wants(2):
        raise b.refuse(f"it has more than one axis of positions, or sets one of {', '.join(changed)}")
    channels, _, taps = (known(b, d) for d in b.shape(1))
    dilation, last = int(b.attr("dilation", 1)), bool(int(b.attr("channels_last", 0)))
    before = (taps - 1) * dilation
    x, past = (None if b.operand(k) is None else _channels_first(b, k, last) for k in (0, 3))
    padded = b.op("Pad", x, [0, 0, before, 0, 0, 0]) if past is None else b.op("Concat", past, x, axis=-1)
    attrs: dict[str, Any] = {"group": channels, "dilations": [dilation], "kernel_shape": [taps]}
    y = b.op("Conv", padded, b.operand(1), b.operand(2), **attrs)
    y = silu(b, y) if b.attr("activation", "none") in ("silu", "swish") else y
    b.give(0, _channels_back(b, y, 0) if last else y)
    if b.wants(1):
        kept = b.op("Slice", padded, b.op("Sub", b.op("Shape", padded, start=2, end=3), [before]), [2**62], [2])
        b.give(1, _channels_back(b, kept, 0) if last else kept)


def _channels_first(b: Body, k: int, last: bool) -> str:
    """[batch, length, d_1, ...] as [batch, channels, length]."""
    if not last:
        return str(b.operand(k))
    return b.op("Transpose", b.op("Reshape", b.operand(k), [0, 0, -1]), perm=[0, 2, 1])


def _channels_back(b: Body, y: str, k: int) -> str:
    sizes = [known(b, d) for d in b.shape(k)[2:]]
    return b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1]), [0, 0, *sizes])


@body("LinearAttention", domain=DOMAIN)
def linear_attention(b: Body) -> None:
    """S_t = e^g S_{t-1} + beta k (v - e^g S_{t-1}' k)' with or without decay g and correction, o_t = scale S_t' q, as a
    Scan over the positions."""
    if int(b.attr("state_window", 0)):
        raise b.refuse("its attribute state_window is set; export the model without")
    rule = str(b.attr("update_rule", "gated_delta"))
    heads, inner_heads = int(b.attr("q_num_heads")), int(b.attr("kv_num_heads"))
    keys = known(b, b.shape(1)[2]) // inner_heads
    scale = float(b.attr("scale", 0.0)) or keys**-0.5
    own = [(0, heads), (1, inner_heads), (2, inner_heads)]
    own += [(4, inner_heads)] if "gated" in rule else []
    names = [_positions_first(b, k, n) for k, n in own]
    if "delta" in rule:
        beta = b.op("Unsqueeze", b.op("Transpose", b.operand(5), perm=[1, 0, 2]), [3])
        names.append(beta)
    state = b.operand(3)
    if state is None:
        sizes = b.op("Concat", b.op("Shape", b.operand(0), start=0, end=1), [inner_heads, keys], axis=0)
        sizes = b.op("Concat", sizes, [known(b, b.shape(2)[2]) // inner_heads], axis=0)
        state = b.op("Expand", np.zeros((), b.dtype), sizes)
    inner = b.inner()
    before, *elements = (inner.new_name("element") for _ in range(len(names) + 1))
    q, k, v, *rest = elements
    s = before
    if "gated" in rule:
        s = inner.op("Mul", s, inner.op("Unsqueeze", inner.op("Exp", rest[0]), [-1]))
    if "delta" in rule:
        found = inner.op("Einsum", s, k, equation="bhkv,bhk->bhv")
        v = inner.op("Mul", rest[-1], inner.op("Sub", v, found))
    s = inner.op("Add", s, inner.op("MatMul", inner.op("Unsqueeze", k, [-1]), inner.op("Unsqueeze", v, [-2])))
    grouped = inner.op("Reshape", q, [0, inner_heads, heads // inner_heads, -1])
    y = inner.op("Mul", inner.op("MatMul", grouped, s), scale)
    y = inner.op("Reshape", y, [0, heads, -1])
    outputs = [inner.op("Identity", name) for name in (s, y)]
    kind = type_code(np.dtype(b.dtype))
    given, made = (
        [helper.make_tensor_value_info(n, kind, None) for n in names] for names in ([before, *elements], outputs)
    )
    step = helper.make_graph(inner.nodes, "step", given, made, inner.constants)
    last, all_y = b.ops("Scan", 2, state, *names, body=step, num_scan_inputs=len(names))
    b.give(0, b.op("Reshape", b.op("Transpose", all_y, perm=[1, 0, 2, 3]), [0, 0, -1]))
    b.give(1, last)


def _positions_first(b: Body, k: int, heads: int) -> str:
    """[batch, length, heads * size] as [length, batch, heads, size]."""
    return b.op("Transpose", b.op("Reshape", b.operand(k), [0, 0, heads, -1]), perm=[1, 0, 2, 3])
