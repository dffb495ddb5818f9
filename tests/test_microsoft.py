"""The operators that ONNX Runtime's optimisers write (com.microsoft): each one's decomposition against its kernel,
complete maps, gradients; and whole networks, optimised against plain."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from architectures import ARCHITECTURES, export, export_module, quiet, randomise
from explaining import assert_close, assert_complete, assert_same_outputs, explain, run
from microsoft_case import F32, I32, MICROSOFT, Array, Case, a, case, i
from microsoft_decoders import DECODERS, WITHOUT_KERNEL
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from torch import nn

import omenn_onnx
from omenn_onnx.errors import UnsupportedOperators

RULES = ("secant", "tangent")
NHWC = "com.ms.internal.nhwc"


X = a(2, 5, 8)
W = a(8, 24, seed=1, scale=0.5)
B = a(24, seed=2, scale=0.3)
PAST = a(2, 2, 2, 3, 4, seed=3)
BIAS = a(1, 2, 5, 5, seed=4)
Q, K, V = a(2, 5, 8), a(2, 6, 8, seed=1), a(2, 6, 8, seed=2)
COS, SIN = (np.stack([f(np.arange(9) * r) for r in (1.0, 0.3)], 1).astype(F32) for f in (np.cos, np.sin))
COS16, SIN16 = (np.stack([f(np.arange(9) * r) for r in 0.7 ** np.arange(8)], 1).astype(F32) for f in (np.cos, np.sin))
WITH_HEADS = {"num_heads": 2}


def soft(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_attention(*packed: Array) -> Array:
    """Of [batch, length, heads, parts, size]: Q, K and V are the parts."""
    q, k, v = (p[:, :, :, n].transpose(0, 2, 1, 3) for p in packed for n in range(p.shape[3]))
    y = soft(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])) @ v
    return y.transpose(0, 2, 1, 3).reshape(*y.shape[::2], -1)


ATTENTION = [
    case("attention", "Attention", X, W, B, num_heads=2),
    case("attention-free", "Attention", X, W, B, num_heads=2, free=(0,)),
    case("attention-mask", "Attention", X, W, B, i([1] * 5, [1, 1, 1, 0, 0]), num_heads=2, fed=(3,)),
    case("attention-mask3", "Attention", X, W, B, i(*np.tril(np.ones((2, 5, 5)))), num_heads=2, fed=(3,)),
    case("attention-ends", "Attention", X, W, B, i(5, 3), num_heads=2, fed=(3,), free=(0, 3)),
    case("attention-starts", "Attention", X, W, B, i(5, 4, 0, 1), num_heads=2, fed=(3,)),
    case("attention-causal", "Attention", X, W, B, num_heads=2, unidirectional=1, scale=0.3),
    case(
        "attention-causal-mask", "Attention", X, W, B, i([1] * 5, [1, 1, 1, 0, 0]), None, BIAS,
        num_heads=2, unidirectional=1, fed=(3,), explained=(0, 5), mask_filter_value=-50.0,
    ),
    case(
        "attention-past", "Attention", X, W, B, None, PAST, num_heads=2, unidirectional=1, explained=(0, 4),
        outputs=(0, 1),
    ),
    case(
        "attention-past-only", "Attention", X, W, B, None, PAST, num_heads=2, explained=(0,), fed=(4,), outputs=(0, 1),
    ),
    case(
        "attention-sizes", "Attention", X, a(8, 22, seed=1, scale=0.5), a(22, seed=2), num_heads=2,
        qkv_hidden_sizes=[8, 8, 6],
        free=(0,),
    ),
    case("multihead", "MultiHeadAttention", Q, K, V, num_heads=2, explained=(0, 1, 2)),
    case("multihead-free", "MultiHeadAttention", Q, K, V, num_heads=2, explained=(0, 1, 2), free=(0, 1, 2)),
    case("multihead-bias", "MultiHeadAttention", Q, K, V, B, num_heads=2, explained=(0, 1, 2), scale=0.7),
    case("multihead-wide", "MultiHeadAttention", Q, K, a(2, 6, 4), num_heads=2, explained=(0, 1, 2)),
    case(
        "multihead-mask", "MultiHeadAttention", Q, K, V, None, i([1] * 6, [1, 1, 1, 1, 0, 0]), num_heads=2,
        explained=(2,), fed=(0, 1, 4),
    ),
    case("multihead-ends", "MultiHeadAttention", Q, K, V, None, i(6, 4), num_heads=2, explained=(0, 1, 2), fed=(4,)),
    case(
        "multihead-causal", "MultiHeadAttention", X, X + 1, X * 2, None, None, BIAS, num_heads=2, unidirectional=1,
        explained=(0, 1, 2, 5),
    ),
    case(
        "multihead-past", "MultiHeadAttention", Q, Q + 1, Q * 2, B, None, None, a(2, 2, 3, 4, seed=5),
        a(2, 2, 3, 4, seed=6),
        num_heads=2, explained=(0, 1, 2, 6, 7), outputs=(0, 1, 2),
    ),
    case(
        "multihead-by-heads", "MultiHeadAttention", Q, a(2, 2, 6, 4), a(2, 2, 6, 4, seed=1), num_heads=2,
        explained=(0, 1, 2),
    ),
    case("multihead-packed", "MultiHeadAttention", a(2, 5, 2, 3, 4), num_heads=2, expected=numpy_attention),
    case(
        "multihead-packed-free", "MultiHeadAttention", a(2, 5, 2, 3, 4), num_heads=2, free=(0,),
        expected=numpy_attention,
    ),
    case(
        "multihead-packed-kv", "MultiHeadAttention", Q, a(2, 6, 2, 2, 4), num_heads=2, explained=(0, 1),
        expected=lambda q, kv: numpy_attention(q.reshape(2, 5, 2, 1, 4), kv),
    ),
    case(
        "grouped", "GroupQueryAttention", a(2, 5, 32), a(2, 5, 16), a(2, 5, 16, seed=1), None, None, i(4, 4),
        np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, explained=(0, 1, 2), fed=(5, 6),
    ),
    case(
        "grouped-packed", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, softcap=2.0, fed=(5, 6), free=(0,),
    ),
    case(
        "grouped-rotary", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        COS16, SIN16,
        num_heads=2, kv_num_heads=1, do_rotary=1, fed=(5, 6), local_window_size=2,
    ),
    case(
        "grouped-interleaved", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        COS16, SIN16,
        num_heads=2, kv_num_heads=1, do_rotary=1, rotary_interleaved=1, fed=(5, 6), scale=0.4,
    ),
    case(
        "grouped-past", "GroupQueryAttention", a(2, 1, 64), None, None, a(2, 1, 4, 16, seed=1), a(2, 1, 4, 16, seed=2),
        i(4, 4),
        np.asarray(5, I32), COS16, SIN16, num_heads=2, kv_num_heads=1, do_rotary=1, fed=(5, 6), explained=(0, 3, 4),
        outputs=(0, 1, 2), free=(3, 4),
    ),
    case(
        "grouped-ragged", "GroupQueryAttention", a(2, 1, 64), None, None, a(2, 1, 4, 16, seed=1),
        a(2, 1, 4, 16, seed=2), i(4, 2),
        np.asarray(5, I32), COS16, SIN16, num_heads=2, kv_num_heads=1, do_rotary=1, fed=(3, 4, 5, 6), explained=(0,),
        outputs=(0, 1, 2), free=(3, 4),
    ),
    case(
        "grouped-bias", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32), None,
        None,
        None, a(1, 4, 5, 5, seed=3), a(4, seed=4), num_heads=4, kv_num_heads=2, fed=(5, 6), explained=(0, 10),
    ),
    case(
        "grouped-smooth", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, smooth_softmax=1, fed=(5, 6),
    ),
    case(
        "grouped-all", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, causal=0, fed=(5, 6),
    ),
    case(
        "grouped-padded", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 2), np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, fed=(5, 6), local_window_size=3,
    ),
    case(
        "grouped-padded-all", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 2), np.asarray(5, I32),
        num_heads=4, kv_num_heads=2, fed=(5, 6), causal=0,
    ),
    case(
        "grouped-positions", "GroupQueryAttention", a(2, 5, 64), None, None, None, None, i(4, 4), np.asarray(5, I32),
        COS16, SIN16, i([1, 2, 3, 4, 5], [3, 9, 9, 9, 9]).astype(np.int64), num_heads=2, kv_num_heads=1, do_rotary=1,
        fed=(5, 6, 9),
    ),
    case(
        "grouped-chunk", "GroupQueryAttention", a(1, 3, 64), None, None, a(1, 1, 4, 16), a(1, 1, 4, 16), i(6),
        np.asarray(7, I32), COS16, SIN16, i([2, 3, 4]).astype(np.int64), num_heads=2, kv_num_heads=1, do_rotary=1,
        fed=(5, 6, 9), outputs=(0, 1, 2), explained=(0, 3, 4), free=(3, 4),
    ),
    case("rotary", "RotaryEmbedding", X, np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]), COS, SIN, fed=(1,)),
    case("rotary-offset", "RotaryEmbedding", X, np.array([2]), COS, SIN, fed=(1,), interleaved=1),
    case("rotary-heads", "RotaryEmbedding", a(2, 2, 5, 4), np.array([1]), COS, SIN, fed=(1,)),
    case(
        "rotary-part", "RotaryEmbedding", a(2, 5, 12), np.array([1]), COS, SIN, num_heads=2, rotary_embedding_dim=4,
        fed=(1,),
    ),
]  # fmt: skip

G, S = a(8, seed=7, scale=0.3) + 1, a(8, seed=8)
IMAGE = a(2, 6, 5, 4)
FILTER = a(4, 6, 3, 3, seed=1, scale=0.3)
EXPERTS = (a(10, 8), a(10, 4), a(4, 6, 8, scale=0.4), a(4, 6), a(4, 8, 6, scale=0.4), a(4, 8))
"""x, the router's scores, two layers of four experts."""

PLAIN = [
    case("bias-gelu", "BiasGelu", X, S),
    case("gelu", "Gelu", X),
    case("fast-gelu", "FastGelu", X),
    case("fast-gelu-bias", "FastGelu", X, S, free=(0,)),
    case("quick-gelu", "QuickGelu", X, alpha=1.3),
    case("scaled-silu", "ScaledSiLU", X, alpha=1.3),
    case("skip-norm", "SkipLayerNormalization", X, X + 1, G, S, explained=(0, 1)),
    case(
        "skip-norm-bias", "SkipLayerNormalization", X, X * 2, G, S, S * 2, explained=(0, 1), outputs=(0, 3),
        epsilon=1e-3,
    ),
    case("skip-norm-flat", "SkipLayerNormalization", X, a(5, 8, seed=3), G, None, S, explained=(0, 1), free=(0,)),
    case(
        "skip-rms", "SkipSimplifiedLayerNormalization", X, X + 1, G, S, explained=(0, 1), outputs=(0, 3), epsilon=1e-3,
    ),
    case("gated-rms", "GatedRMSNorm", X, a(4, seed=4), a(2, 5, 8, seed=5), explained=(0, 2)),
    case("gated-add", "GatedAdd", X, X * 2, a(2, 5, 1), explained=(0, 1, 2)),
    case("matmul", "FusedMatMul", X, a(2, 8, 3), explained=(0, 1), alpha=0.5),
    case("matmul-trans", "FusedMatMul", a(2, 8, 5), a(2, 3, 8), explained=(0, 1), transA=1, transB=1, free=(0,)),
    case(
        "matmul-batch", "FusedMatMul", a(5, 2, 8), a(3, 2, 8), explained=(0, 1), transBatchA=1, transBatchB=1, transB=1,
    ),
    case("matmul-batch-a", "FusedMatMul", a(8, 3, 2, 5), a(3, 2, 8, 4), explained=(0,), transBatchA=1, transA=1),
    case("matmul-weight", "FusedMatMul", a(2, 8, 5), a(8, 4), transA=1),
    case("matmul-weight-trans", "FusedMatMul", a(3, 2, 8), a(4, 8), transB=1),
    case("matmul-old", "TransposeMatMul", a(8, 5), a(8, 3), explained=(0,), transA=1),
    case("gemm", "FusedGemm", a(3, 8), a(8, 4), a(4), activation="Relu"),
    case("gemm-leaky", "FusedGemm", a(3, 8), a(4, 8), a(4), transB=1, activation="LeakyRelu", activation_alpha=0.3),
    *(
        case(
            f"conv-{name.lower()}", "FusedConv", IMAGE, FILTER, a(4), activation=name, activation_params=p, pads=[1] * 4
        )
        for name, p in (
            ("Relu", [0.0]), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.7]), ("HardSigmoid", [0.3, 0.4]), ("Tanh", [0.0]),
            ("Sigmoid", [0.0])
        )
    ),
    case("conv-sum", "FusedConv", IMAGE, FILTER, a(4), a(2, 4, 3, 2), explained=(0, 3), activation="Relu"),
    case("conv-grouped", "FusedConv", IMAGE, a(4, 3, 2, 2), None, activation="Relu", group=2, strides=[2, 1]),
    case(
        "transposed", "ConvTransposeWithDynamicPads", IMAGE, a(6, 3, 3, 3), np.array([0, 1, 1, 0]), a(3),
        strides=[2, 2],
    ),
    case("experts", "MoE", *EXPERTS, explained=(0, 1), k=2, activation_type="silu", normalize_routing_weights=1),
    case("experts-one", "MoE", *EXPERTS, activation_type="gelu", free=(0,), explained=(0,), fed=(1,)),
    case(
        "experts-gated", "MoE", EXPERTS[0], EXPERTS[1], a(4, 12, 8, scale=0.4), a(4, 12), *EXPERTS[4:],
        explained=(0, 1), k=3, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.7, activation_beta=1.0,
        swiglu_limit=0.8,
    ),
    case("trilu", "Trilu", a(3, 4, 4), np.asarray(1), upper=0),
    case("gather-nd", "GatherND", a(3, 4), np.array([[0], [2]])),
    case("grid", "GridSample", IMAGE, a(2, 3, 3, 2, scale=0.4), align_corners=1),
    case("grid-nearest", "GridSample", IMAGE, a(2, 3, 3, 2, scale=0.4), mode="nearest", padding_mode="border"),
    case("pad", "Pad", a(3, 4), np.array([0, 1, 1, 2]), np.array([0.5], F32)),
    case("pad-reflect", "Pad", a(3, 4), np.array([0, 1, 1, 2]), mode="reflect"),
    case("expand-dims", "ExpandDims", a(3, 4), np.asarray(1, I32)),
    case("distances", "CDist", a(3, 4), a(5, 4), metric="sqeuclidean"),
    case("distances-root", "CDist", a(3, 4), a(5, 4, seed=1), metric="euclidean"),
]  # fmt: skip


# Operators without a kernel on the CPU, against numpy


def erf_gelu(x: Array) -> Array:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def tanh_gelu(x: Array) -> Array:
    return torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def numpy_group_norm(x: Array, groups: int, last: bool) -> Array:
    x = np.moveaxis(x, -1, 1) if last else x
    flat = x.reshape(len(x), groups, -1)
    flat = (flat - flat.mean(-1, keepdims=True)) / np.sqrt(flat.var(-1, keepdims=True) + 1e-5)
    return np.moveaxis(flat.reshape(x.shape), 1, -1) if last else flat.reshape(x.shape)


def torch_conv(x: Array, w: Array, b: Array, **options: Any) -> Array:
    y = torch.nn.functional.conv2d(*(torch.from_numpy(t) for t in (np.moveaxis(x, -1, 1), w, b)), **options)
    return np.moveaxis(y.numpy(), 1, -1)


def torch_pool(x: Array) -> Array:
    return np.moveaxis(torch.nn.functional.max_pool2d(torch.from_numpy(np.moveaxis(x, -1, 1)), 2).numpy(), 1, -1)


def numpy_gated_bias(query: Array, q_bias: Array, rel: Array, w: Array, b: Array, eco: Array) -> Array:
    q = (query + q_bias).reshape(2, 5, 2, 4).transpose(0, 2, 1, 3)
    u, r = np.split(sigmoid((q @ w + b).reshape(2, 2, 5, 2, -1).sum(-1)), 2, axis=-1)
    return (u * (r * eco - 1) + 2) * rel


HWC = a(2, 5, 4, 6)
C6, D6 = a(6, seed=1, scale=0.3) + 1, a(6, seed=2)
NUMPY = [
    case("bias-add", "BiasAdd", X, S, X * 2, explained=(0, 2), expected=lambda x, b, s: x + b + s),
    case("bias-split-gelu", "BiasSplitGelu", X, S, expected=lambda x, b: (x + b)[..., :4] * erf_gelu((x + b)[..., 4:])),
    case("bias-softmax", "BiasSoftmax", X, a(2, 1, 8), axis=2, is_inner_broadcast=1, expected=lambda x, b: soft(x + b)),
    case(
        "bias-softmax-two", "BiasSoftmax", X, a(1, 5, 8), axis=1, is_inner_broadcast=0,
        expected=lambda x, b: soft((x + b).reshape(2, 40)).reshape(2, 5, 8),
    ),
    case("gemm-fast-gelu", "GemmFastGelu", X, a(8, 4), a(4), expected=lambda x, w, b: tanh_gelu(x @ w + b)),
    case(
        "matmul-activation", "FusedMatMulActivation", X, a(8, 4), activation="Relu", alpha=0.5,
        expected=lambda x, w: np.maximum(0.5 * x @ w, 0),
    ),
    case(
        "group-norm", "GroupNorm", HWC, C6, D6, activation=1, groups=3,
        expected=lambda x, g, b: (lambda y: y * sigmoid(y))(numpy_group_norm(x, 3, True) * g + b),
    ),
    case(
        "group-norm-first", "GroupNorm", IMAGE, C6, D6, activation=0, groups=2, channels_last=0, free=(0,),
        expected=lambda x, g, b: numpy_group_norm(x, 2, False) * g[:, None, None] + b[:, None, None],
    ),
    case(
        "skip-group-norm", "SkipGroupNorm", HWC, C6, D6, a(2, 6), D6 * 2, activation=0, groups=2, explained=(0, 3),
        expected=lambda x, g, b, s, c: numpy_group_norm(x + s[:, None, None] + c, 2, True) * g + b,
    ),
    case(
        "nhwc-conv", "NhwcConv", HWC, FILTER, a(4), pads=[1, 1, 1, 1], strides=[2, 1],
        expected=lambda x, w, b: torch_conv(x, w, b, padding=1, stride=(2, 1)),
    ),
    case(
        "nhwc-fused-conv", "NhwcFusedConv", HWC, FILTER, a(4), a(2, 3, 2, 4), activation="Relu", explained=(0, 3),
        expected=lambda x, w, b, z: np.maximum(torch_conv(x, w, b) + z, 0),
    ),
    case("nhwc-max-pool", "MaxPool", HWC, domain=NHWC, kernel_shape=[2, 2], strides=[2, 2], expected=torch_pool),
    case("nhwc-inner-conv", "Conv", HWC, FILTER, a(4), domain=NHWC, expected=torch_conv),
    case("bias-dropout", "BiasDropout", X, S, X * 2, explained=(0, 2), expected=lambda x, b, r: x + b + r),
    case("nhwc-uint8-max-pool", "NhwcMaxPool", HWC, kernel_shape=[2, 2], strides=[2, 2], expected=torch_pool),
    case(
        "gated-positions", "GatedRelativePositionBias", X, S, a(1, 2, 5, 5), a(4, 6), a(6), a(1, 2, 1, 1), num_heads=2,
        expected=numpy_gated_bias,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", [*ATTENTION, *PLAIN, *DECODERS, *NUMPY, *WITHOUT_KERNEL], ids=lambda c: c.name)
def test_decomposition_is_the_kernel(case: Case) -> None:
    """The decomposition gives what ONNX Runtime's own kernel gives (numpy, where it has none on the CPU)."""
    plain = run(case.plain(), case.plain_feeds(), optimise=False)
    if case.expected is None:
        wanted = run(case.model(), case.feeds(), optimise=False)
    else:
        wanted = {"y0": case.expected(*(v for v in case.operands if v is not None))}
    for name, value in wanted.items():
        got = plain["o" + name[1:]]
        assert got.shape == value.shape
        np.testing.assert_allclose(got, value, rtol=2e-5, atol=2e-5)


def score(case: Case, feeds: dict[str, Array], seed: Array) -> float:
    model, name = (case.model(), "y0") if case.expected is None else (case.plain(), "o0")
    given = feeds if case.expected is None else {"i" + k[1:]: v for k, v in feeds.items()}
    return float((run_session(case, model)(given)[name].astype(np.float64) * seed).sum())


@functools.cache
def _session(key: tuple[str, bytes]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(key[1], options, providers=["CPUExecutionProvider"])


def run_session(case: Case, model: onnx.ModelProto) -> Callable[[dict[str, Array]], dict[str, Array]]:
    session = _session((case.name, model.SerializeToString()))
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("case", [*ATTENTION, *PLAIN, *DECODERS, *NUMPY, *WITHOUT_KERNEL], ids=lambda c: c.name)
def test_complete(case: Case, rules: str) -> None:
    """The maps of a random seed are complete; in tangent C_w is the gradient, by differences along random directions.
    Where there is no kernel the decomposition stands for the node, which must compile all the same."""
    prefix = "x"
    model, feeds = case.model(), case.feeds()
    inputs = [f"x{k}" for k in case.explained]
    proto = omenn_onnx.compile(model, inputs=inputs, output="y0", target="seed", rules=rules, channel_axis=-1)
    if case.expected is not None:
        prefix, model, feeds = "i", case.plain(), case.plain_feeds()
        inputs = [f"i{k}" for k in case.explained]
        proto = omenn_onnx.compile(model, inputs=inputs, output="o0", target="seed", rules=rules, channel_axis=-1)
    y = run(model, feeds, optimise=False)["y0" if prefix == "x" else "o0"]
    r = np.random.default_rng(5)
    seed = r.normal(size=y.shape).astype(F32)
    for optimise in (True, False):
        result = explain(proto, {**feeds, "seed": seed}, optimise)
        parts = [c.astype(np.float64) * x for c, x in zip(result.c_w, result.x, strict=True)] + result.c_b
        found, size = float(result.score.sum()), sum(float(np.abs(p).sum()) for p in parts)
        assert all(np.isfinite(p).all() for p in parts)
        assert abs(found - sum(float(p.astype(np.float64).sum()) for p in parts)) <= 1e-5 * max(1, abs(found), size)
    if rules == "secant" or "nearest" in case.name:
        return
    run_it, bar = run_session(case, model), 2e-2 if "conv" in case.name else 2e-3  # (kinks)
    for _ in range(3):
        step = [r.normal(size=x.shape).astype(F32) * F32(3e-3) for x in result.x]
        ends = []
        for sign in (1, -1):
            moved = dict(feeds) | {n: feeds[n] + F32(sign) * d for n, d in zip(inputs, step, strict=True)}
            ends.append(run_it(moved)["y0" if prefix == "x" else "o0"].astype(np.float64))
        slope = float(((ends[0] - ends[1]) * seed).sum()) / 2
        expected = sum(float((c.astype(np.float64) * d).sum()) for c, d in zip(result.c_w, step, strict=True))
        norm = np.sqrt(
            sum(float((c * d).astype(np.float64).__pow__(2).sum()) for c, d in zip(result.c_w, step, strict=True))
        )
        assert abs(slope - expected) <= bar * norm + 1e-6


REFUSED = [
    ("Inverse", (a(2, 3, 3),), {}, "inverse"),
    ("CropAndResize", (a(1, 2, 6, 6), a(1, 4), i(0), np.array([2, 2], I32)), {}, "RoiAlign"),
    ("PackedAttention", (a(5, 8), W, B, i([0, 1, 2, 3, 4]), i(0, 5)), WITH_HEADS, "packed"),
    ("DecoderMaskedMultiHeadAttention", (a(2, 1, 8), a(2, 1, 8), a(2, 1, 8)), WITH_HEADS, "decoding loop"),
    ("Attention", (X, W, B), {"num_heads": 2, "do_rotary": 1}, "do_rotary"),
    ("MaxpoolWithMask", (a(1, 2, 4, 4), i([[[[1]]]])), {"kernel_shape": [2, 2]}, "mask"),
]


@pytest.mark.parametrize(("op", "operands", "attrs", "why"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refused(op: str, operands: tuple[Array, ...], attrs: dict[str, Any], why: str) -> None:
    """What has no linear form is refused by name, with the reason."""
    one = Case(op, op, operands, attrs=attrs).model()
    free = [None] * operands[0].ndim
    one.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y0", onnx.TensorProto.FLOAT, free))
    with pytest.raises(UnsupportedOperators) as error:
        omenn_onnx.compile(one, output="y0", target="seed")
    assert op in str(error.value)
    assert why in str(error.value)


# EmbedLayerNormalization, which is opened before anything else

IDS = np.random.default_rng(0).integers(0, 11, (2, 5)).astype(I32)
TYPES = (np.arange(10).reshape(2, 5) % 2).astype(I32)
MASK = i([1, 1, 1, 1, 0], [1, 1, 0, 0, 0])
PLACES = i([4, 3, 2, 1, 0], [0, 1, 2, 3, 4])
TABLES8 = [
    np.random.default_rng(k).integers(0, 256, s).astype(np.uint8) for k, s in enumerate([(11, 8), (6, 8), (2, 8), 8, 8])
]
TABLES = (a(11, 8), a(6, 8, seed=1), a(2, 8, seed=2))
EMBEDDINGS = [
    case("words", "EmbedLayerNormalization", IDS, None, *TABLES[:2], None, G, S,
        explained=(), fed=(0,), outputs=(0, 1), integers=("y1",)),
    case(
        "all", "EmbedLayerNormalization", IDS, TYPES, *TABLES, G, S, MASK,
        explained=(), fed=(0, 1, 7), outputs=(0, 1, 2), integers=("y1",), epsilon=1e-3,
    ),
    case(
        "places", "EmbedLayerNormalization", IDS, TYPES, *TABLES, G, S, None, PLACES,
        explained=(), fed=(0, 1, 8), outputs=(0, 2), free=(0, 1, 8),
    ),
    case(
        "quantised", "QEmbedLayerNormalization", IDS, TYPES, *TABLES8, None,
        *np.float32([0.02, 0.01, 0.01, 0.02, 0.02]), *np.uint8([120, 130, 110, 90, 140]),
        explained=(), fed=(0, 1), outputs=(0, 1), integers=("y1",),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda c: c.name)
def test_embedding(case: Case) -> None:
    """The opened node gives what the kernel gives; the rows of the word table are explained, completely."""
    model, feeds = case.model(), case.feeds()
    wanted = run(model, feeds, optimise=False)
    for rules in RULES:
        proto = omenn_onnx.compile(model, rules=rules, target="seed", output="y0")
        seed = a(2, 5, 8, seed=9)
        result = explain(proto, {**feeds, "seed": seed})
        for name, value in wanted.items():
            np.testing.assert_allclose(result.outputs[name], value, rtol=2e-5, atol=2e-5)
        words = TABLES[0] if case.name != "quantised" else (TABLES8[0].astype(F32) - 120) * F32(0.02)
        np.testing.assert_array_equal(result.x[0], words[IDS])
        assert_complete(result)


# Whole networks: optimised against plain

LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
MODELS = Path(__file__).resolve().parent.parent / "models"
TRAINED = ("digits_cnn", "digits_vit", "grammar_text")
DRAWN = {
    "mobilenet_v3": "all",
    "densenet": "all",
    "unet": "all",
    "convnext": "all",
    "vgg": "all",
    "gpt2_sdpa": "extended",
}
C_W, C_B = 1e-4, 1e-2
"""Of the largest entry; a fused bias may have belonged to either summand."""


def saved(model: onnx.ModelProto, level: str, path: Path) -> onnx.ModelProto:
    """The file that ONNX Runtime writes when it optimises a model offline."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = LEVELS[level], 4
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def operators(model: onnx.ModelProto) -> set[str]:
    return {f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain}


def trained(name: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    model, data = onnx.load(MODELS / f"{name}.onnx"), np.load(MODELS / f"{name}.npz")
    names = [i.name for i in model.graph.input]
    return model, {n: data[n][:3] for n in names}


def same_maps(
    model: onnx.ModelProto, optimised: onnx.ModelProto, feeds: dict[str, Array], target: str = "argmax"
) -> None:
    """One network, one explanation, in both rule sets; the optimised file's own outputs stay what they were."""
    for rules in RULES:
        plain = explain(omenn_onnx.compile(model, rules=rules, target=target), feeds)
        result = explain(omenn_onnx.compile(optimised, rules=rules, target=target), feeds)
        assert_complete(result)
        assert_same_outputs(result, optimised, feeds, True)
        np.testing.assert_array_equal(result.target, plain.target)
        assert_close(result.c_w[0], plain.c_w[0], C_W, f"C_w, {rules}")
        assert_close(result.c_b[0], plain.c_b[0], C_B, f"C_b, {rules}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", TRAINED)
def test_offline_optimised(name: str, level: str, tmp_path: Path) -> None:
    model, feeds = trained(name)
    optimised = saved(model, level, tmp_path / "optimised.onnx")
    wanted = {
        "basic": "",
        "extended": "com.microsoft.",
        "all": "nchwc" if name.startswith("digits") else "com.microsoft.",
    }
    assert any(wanted[level] in op for op in operators(optimised) or {""})
    same_maps(model, optimised, feeds)


@pytest.mark.parametrize("name", DRAWN)
def test_offline_optimised_architectures(name: str, tmp_path: Path) -> None:
    """Blocked channels with depthwise convolutions, concatenation, upsampling, pooling; attention."""
    model = export(name, "torchscript", 17)
    architecture = ARCHITECTURES[name]
    feeds = {k: t.numpy() for k, t in zip(architecture.names, architecture.inputs(2), strict=True)}
    optimised = saved(model, DRAWN[name], tmp_path / "optimised.onnx")
    assert operators(optimised)
    same_maps(model, optimised, feeds, architecture.target)


def test_blocked_layout_is_left(tmp_path: Path) -> None:
    """The compiled file is portable: no blocked channels, no filters of this processor's order."""
    optimised = saved(trained("digits_cnn")[0], "all", tmp_path / "optimised.onnx")
    assert any("nchwc" in op for op in operators(optimised))
    assert not any("nchwc" in op for op in operators(omenn_onnx.compile(optimised)))


# The transformers optimiser


class Layer(nn.Module):
    """A layer of BERT as it was first exported, which is what the optimiser looks for."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), x.size(1), self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(f(x)) for f in (self.q, self.k, self.v))
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / (self.width / self.heads) ** 0.5 + mask, -1)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        x = self.norms[0](self.out(y.view(y.size(0), y.size(1), self.width)) + x)
        return self.norms[1](self.down(nn.functional.gelu(self.up(x))) + x)


class Bert(nn.Module):
    """Words, positions and token types; two layers; a classifier of the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = (nn.Embedding(n, 16) for n in (60, 12, 2))
        self.norm, self.classify = nn.LayerNorm(16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(Layer(16, 2) for _ in range(2))
        self.register_buffer("row", torch.arange(12)[None])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids) + self.types(types) + self.places(self.row[:, : ids.size(1)]))
        bias = (1.0 - mask[:, None, None, :].float()) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        return self.classify(x[:, 0])


@functools.cache
def bert() -> tuple[onnx.ModelProto, dict[str, Array]]:
    torch.manual_seed(0)
    module = Bert()
    randomise(module, torch.Generator().manual_seed(0))
    ids = torch.randint(1, 60, (2, 8))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, -2:], types[:, 5:] = 0, 1
    names = ["input_ids", "attention_mask", "token_type_ids"]
    args = (ids, mask, types)
    model = export_module(module.eval(), args, names, "torchscript", 17, {0: "batch", 1: "length"})
    return model, {n: t.numpy() for n, t in zip(names, args, strict=True)}


def transformed(
    model: onnx.ModelProto, kind: str, heads: int, width: int, path: Path, **options: bool
) -> onnx.ModelProto:
    """What onnxruntime.transformers.optimizer makes of a model."""
    onnx.save(model, path)
    fusions = FusionOptions(kind)
    fusions.use_multi_head_attention = options.get("apart", False)
    fusions.use_raw_attention_mask(not options.get("ends", False))
    logging.disable(logging.ERROR)
    try:
        with quiet():
            made = optimizer.optimize_model(
                str(path),
                model_type=kind,
                num_heads=heads,
                hidden_size=width,
                opt_level=0,
                optimization_options=fusions,
            )
    finally:
        logging.disable(logging.NOTSET)
    return made.model


@pytest.mark.parametrize(
    ("options", "op"), [({}, "Attention"), ({"ends": True}, "Attention"), ({"apart": True}, "MultiHeadAttention")]
)
def test_transformers_optimiser(options: dict[str, bool], op: str, tmp_path: Path) -> None:
    """Attention with a raw mask, with the rows' lengths, and behind its projections; embeddings and residuals fused."""
    model, feeds = bert()
    optimised = transformed(model, "bert", 2, 16, tmp_path / "model.onnx", **options)
    for wanted in (op, "EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu"):
        assert f"{MICROSOFT}.{wanted}" in operators(optimised)
    same_maps(model, optimised, feeds)


@pytest.mark.parametrize(
    ("name", "kind", "op"),
    [
        ("bert_eager", "bert", "SkipLayerNormalization"),
        ("gpt2_eager", "gpt2", "FastGelu"),
        ("llama_eager", "gpt2", "SkipSimplifiedLayerNormalization"),
    ],
)
def test_transformers_optimiser_architectures(name: str, kind: str, op: str, tmp_path: Path) -> None:
    model, architecture = export(name, "torchscript", 17), ARCHITECTURES[name]
    feeds = {k: t.numpy() for k, t in zip(architecture.names, architecture.inputs(2), strict=True)}
    optimised = transformed(model, kind, 0, 0, tmp_path / "model.onnx")
    assert f"{MICROSOFT}.{op}" in operators(optimised)
    same_maps(model, optimised, feeds, architecture.target)
