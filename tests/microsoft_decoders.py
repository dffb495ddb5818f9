"""Cases of the operators of ONNX Runtime for recurrent decoders, for several residual streams, and of small movers:
those with a kernel on the CPU, and those that numpy stands for."""

from __future__ import annotations

import numpy as np
from microsoft_case import F32, Array, a, case, i


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rms(x: Array, scale: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale


def nbits(rows: int, columns: int, seed: int) -> tuple[Array, Array]:
    """Packed weights of 4 bits and their scales, in blocks of 16."""
    r = np.random.default_rng(seed)
    packed = r.integers(0, 256, (rows, columns // 16, 8)).astype(np.uint8)
    return packed, r.uniform(0.02, 0.05, (rows, columns // 16)).astype(F32)


def real(packed: Array, scales: Array) -> Array:
    """Those weights as [N, K]."""
    q = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1).astype(F32) - 8
    return (q * scales[..., None]).reshape(len(packed), -1)


def numpy_mlp(x: Array, skip: Array, g: Array, wg: Array, sg: Array, bg: Array, wu: Array, su: Array) -> Array:
    n = rms(x + skip, g)
    gate = n @ real(wg, sg).T + bg
    return gate * sigmoid(gate) * (n @ real(wu, su).T)


X = a(2, 5, 8)
Q, K, V = a(2, 5, 8), a(2, 5, 4, seed=1, scale=0.5), a(2, 5, 6, seed=2)
DECAY, BETA = -np.abs(a(2, 5, 2, seed=3, scale=0.3)), sigmoid(a(2, 5, 2, seed=4))
HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
COS, SIN = (np.stack([f(np.arange(9) * r) for r in (1.0, 0.5, 0.2)], 1).astype(F32) for f in (np.cos, np.sin))
PLACES = np.stack([np.arange(10).reshape(2, 5) % 7, np.arange(10).reshape(2, 5) % 3, np.arange(10).reshape(2, 5) // 2])
LORA = [*nbits(16, 32, 3), *nbits(6, 16, 4)]
FEW = [*nbits(6, 32, 0), *nbits(6, 32, 1), *nbits(4, 32, 2)]
WIDE = a(2, 3, 32)

DECODERS = [
    case("attention-gate", "LinearAttentionGate", a(2, 5, 3), a(3), -np.abs(a(3, seed=1)), a(2, 5, 3, seed=2),
        explained=(0, 3), outputs=(0, 1)),
    case("engram", "EngramGate", a(2, 5, 3, 8), a(2, 5, 3, 8, seed=1) + 2 * a(2, 5, 3, 8),
        a(2, 5, 8, seed=2), np.abs(a(3, 8)), np.abs(a(3, 8, seed=1)),
        a(3, 8, seed=2), explained=(0, 1, 2), outputs=(0, 1)),
    case("branch-norm", "BranchwiseRMSNorm", a(2, 5, 3, 4), a(3, 4, seed=1), epsilon=1e-3),
    case("branch-norm-flat", "BranchwiseRMSNorm", a(2, 5, 12), a(12, seed=1), num_branches=3, free=(0,)),
    case("branch-norm-shared", "BranchwiseRMSNorm", a(2, 5, 12, scale=2), a(4, seed=1), num_branches=3),
    case("pre-mix", "HyperConnectionPreMix", a(2, 5, 3, 4), a(2, 5, 3), explained=(0, 1), reduction_scale=0.5),
    case("pre-mix-flat", "HyperConnectionPreMix", a(2, 5, 12), a(2, 5, 12, seed=1), explained=(0, 1), num_branches=3),
    case("pre-mix-column", "HyperConnectionPreMix", a(2, 5, 12), a(2, 5, 3, 1), explained=(0, 1), num_branches=3),
    case("post-mix", "HyperConnectionPostMix", a(2, 5, 3, 4), a(2, 5, 4), a(2, 5, 3, 1), a(2, 5, 3, 3, seed=1),
        explained=(0, 1, 2, 3)),
    case("post-mix-flat", "HyperConnectionPostMix", a(2, 5, 12), a(2, 5, 4), a(2, 5, 3), explained=(0, 1, 2),
        num_branches=3),
    case("causal-conv", "CausalConvWithState", a(2, 6, 5), a(6, 1, 4), a(6), activation="silu", outputs=(0, 1)),
    case("causal-conv-past", "CausalConvWithState", a(2, 6, 5), a(6, 1, 3), None, a(2, 6, 4, seed=1), dilation=2,
        explained=(0, 3), outputs=(0, 1)),
    case("causal-conv-last", "CausalConvWithState", a(2, 5, 3, 2), a(6, 1, 3), a(6), a(2, 2, 3, 2, seed=1),
        channels_last=1, explained=(0, 3), outputs=(0, 1)),
    case("linear-attention", "LinearAttention", Q, K, V, explained=(0, 1, 2), update_rule="linear", outputs=(0, 1),
        **HEADS),
    case("linear-attention-gated", "LinearAttention", Q, K, V, a(2, 2, 2, 3), DECAY, explained=(0, 1, 2, 3, 4),
        update_rule="gated", outputs=(0, 1), **HEADS),
    case("linear-attention-delta", "LinearAttention", Q, K, V, None, None, BETA, explained=(0, 1, 2, 5),
        update_rule="delta", scale=0.7, outputs=(0, 1), **HEADS),
    case("linear-attention-both", "LinearAttention", Q, K, V, None, DECAY, BETA, explained=(0, 1, 2), fed=(4, 5),
        outputs=(0, 1), **HEADS),
    case("rotary-three", "MRotaryEmbedding", a(2, 2, 5, 6), PLACES, COS, SIN, fed=(1,), mrope_section=[1, 1, 1]),
    case("rotary-three-mixed", "MRotaryEmbedding", a(2, 5, 16), PLACES, COS, SIN, fed=(1,), mrope_section=[1, 1, 1],
        mrope_layout=1, rotary_embedding_dim=6, num_heads=2),
    case("numbers", "Range", np.asarray([0.3], F32), np.asarray(2.0, F32), np.asarray(0.4, F32)),
    case("unfold", "UnfoldTensor", a(2, 7, 3), dim=1, size=3, step=2, free=(0,)),
    case("unfold-last", "UnfoldTensor", a(2, 7), size=1),
]  # fmt: skip


def numpy_swiglu(gate: Array, up: Array) -> Array:
    gate = np.minimum(gate, 1.2)
    return gate * sigmoid(1.7 * gate) * (np.clip(up, -1.2, 1.2) + 1)


def numpy_ifft(x: Array) -> Array:
    return np.fft.irfft(x[..., 0] + 1j * x[..., 1])


def pairs(z: Array) -> Array:
    return np.stack([z.real, z.imag], -1)


def complex_of(x: Array) -> Array:
    return x[..., 0] + 1j * x[..., 1]


WITHOUT_KERNEL = [
    case("swiglu", "SwiGLU", X, X * 0.7 + 0.2, explained=(0, 1), activation_alpha=1.7, activation_beta=1.0, limit=1.2,
        expected=numpy_swiglu),
    case("swiglu-halves", "SwiGLU", X, activation_alpha=1.0, free=(0,),
        expected=lambda x: x[..., :4] * sigmoid(x[..., :4]) * x[..., 4:]),
    case("rfft", "Rfft", X, signal_ndim=1, onesided=1, expected=lambda x: pairs(np.fft.rfft(x))),
    case("irfft", "Irfft", a(2, 5, 2), signal_ndim=1, onesided=1, expected=numpy_ifft),
    case("complex", "ComplexMul", a(2, 5, 2), a(2, 5, 2, seed=1), explained=(0, 1),
        expected=lambda x, y: pairs(complex_of(x) * complex_of(y))),
    case("complex-conjugate", "ComplexMulConj", a(2, 5, 2), a(2, 5, 2, seed=1), explained=(0, 1),
        expected=lambda x, y: pairs(complex_of(x) * complex_of(y).conj())),
    case("gemma-rotary", "GemmaRotaryEmbedding", a(2, 5, 4), a(2, 3, 5, 4), a(2, 3, 5, 4, seed=1),
        a(2, 3, 5, 4, seed=2), a(2, 3, 5, 4, seed=3), explained=(1, 2, 3, 4),
        expected=lambda e, q, r, *_: q * np.cos(e)[:, None] + r * np.sin(e)[:, None]),
    case("torch-embedding", "TorchEmbedding", a(6, 4), i([0, 5], [3, 3]).astype(np.int64),
        expected=lambda w, k: w[k]),
    case("bitmask-dropout", "BitmaskDropout", X, expected=lambda x: x),
    case("bitmask-bias-dropout", "BitmaskBiasDropout", X, a(8), X * 2, explained=(0, 2),
        expected=lambda x, b, r: x + b + r),
    case("few-bits-mlp", "MatMulNBitsMlp", WIDE, WIDE * 0.5, a(32, seed=1), *FEW[:2], a(6), *FEW[2:4], None, N=6, K=32,
        block_size=16, bits=4, activation="silu", explained=(0, 1), expected=numpy_mlp),
    case("few-bits-lora", "MatMulNBitsQLoRA", WIDE, *FEW[:2], *LORA, K=32, N=6, block_size=16, lora_block_size=16,
        bits=4, lora_bits=4,
        expected=lambda x, w, s, d, ds, u, us: x @ real(w, s).T + x @ real(d, ds).T @ real(u, us).T),
    case("few-bits-qkv", "MatMulNBitsQkv", WIDE, None, a(32, seed=1), *FEW[:2], a(6), *FEW[4:6], None, *FEW[4:6], None,
        Nq=6, Nkv=4, K=32, block_size=16, bits=4,
        expected=lambda x, g, w, s, b, *_: rms(x, g) @ real(w, s).T + b),
]  # fmt: skip
