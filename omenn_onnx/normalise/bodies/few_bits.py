"""Products and tables whose weights have a few bits each, packed into bytes and quantised in blocks."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.normalise.bodies.base import Body, body, refuse
from omenn_onnx.normalise.bodies.quantised import as_float, settle

_DOMAIN = "com.microsoft"


def unpacked(b: Body, packed: str | None, bits: int) -> str:
    """Bytes to numbers of a few bits, the lowest first: the last axis grows."""
    if bits == 8 or packed is None:
        return str(packed)
    places = []
    for k in range(0, 8, bits):
        part = packed if k == 0 else b.op("BitShift", packed, np.asarray(k, np.uint8), direction="RIGHT")
        places.append(b.op("Unsqueeze", b.op("BitwiseAnd", part, np.asarray(2**bits - 1, np.uint8)), [-1]))
    joined = b.op("Concat", *places, axis=-1)
    return joined


@body("MatMulNBits", domain=_DOMAIN)
def matmul_n_bits(b: Body) -> None:
    """A W' + bias with W [N, K] = (q - zero) scale in blocks along K. At accuracy level 4 the kernel rounds A."""
    bits, rows, width = int(b.attr("bits", 4)), int(b.attr("N")), int(b.attr("K"))
    block = int(b.attr("block_size"))
    blocks = ceil(width / block)
    if bits not in (2, 4, 8):
        raise b.refuse(f"its weights have {bits} bits")
    if b.operand(4) is not None:
        raise b.refuse("its weights have a g_idx")
    q = as_float(b, b.op("Reshape", unpacked(b, b.operand(1), bits), [rows, blocks, block]))
    q = b.op("Sub", q, _block_zeros(b, bits, rows, blocks))
    w = b.op("Mul", q, b.op("Reshape", b.operand(2), [rows, blocks, 1]))
    w = b.op("Slice", b.op("Reshape", w, [rows, blocks * block]), [0], [width], [1])
    y = b.op("MatMul", b.operand(0), b.op("Transpose", w, perm=[1, 0]))
    if b.operand(5) is not None:
        y = b.op("Add", y, b.operand(5))
    settle(b, y, exact=int(b.attr("accuracy_level", 0)) < 2)


def _block_zeros(b: Body, bits: int, rows: int, blocks: int) -> str | float:
    """The zero points of MatMulNBits as [rows, blocks, 1]: packed like the weights, or real numbers."""
    t: Tensor | None = b.tensor(3)
    if t is None:
        return 2.0 ** (bits - 1)
    zeros = b.operand(3)
    if t.dtype is not None and t.dtype.name == "uint8":
        count = ceil(blocks * bits / 8)
        flat = b.op("Reshape", unpacked(b, b.op("Reshape", zeros, [rows, count]), bits), [rows, count * 8 // bits])
        zeros = as_float(b, b.op("Slice", flat, [0], [blocks], [1]))
    return b.op("Reshape", zeros, [rows, blocks, 1])


@body("MatMulNBitsMlp", domain=_DOMAIN)
def matmul_n_bits_mlp(b: Body) -> None:
    """act(n Wg' + bg) (n Wu' + bu) with n = A, or its RMSNorm, perhaps of A + skip."""
    normal = _normal(b, 1)
    gate, up = (_part(b, normal, k, int(b.attr("N"))) for k in (3, 6))
    name = str(b.attr("activation"))
    if name not in _GATES:
        raise b.refuse(f"activation {name!r} is not known")
    b.give(0, b.op("Mul", _GATES[name](b, gate), up))


_GATES: dict[str, Callable[[Body, str], str]] = {
    "silu": lambda b, x: b.op("Mul", x, b.op("Sigmoid", x)),
    "gelu": lambda b, x: b.op("Gelu", x),
    "relu": lambda b, x: b.op("Relu", x),
}


@body("MatMulNBitsQkv", domain=_DOMAIN)
def matmul_n_bits_qkv(b: Body) -> None:
    """n W' + bias three times, with n the RMSNorm of A, perhaps of A + skip."""
    normal = _normal(b, 3)
    for k, (first, size) in enumerate(((3, "Nq"), (6, "Nkv"), (9, "Nkv"))):
        if b.wants(k):
            b.give(k, _part(b, normal, first, int(b.attr(size))))


def _normal(b: Body, total: int) -> str:
    """RMSNorm of operand 0, plus operand 1 if it is there, scaled by operand 2; without a scale operand 0 itself.
    Output ``total`` is the sum."""
    x = str(b.operand(0))
    if b.operand(1) is not None:
        x = b.op("Add", x, b.operand(1))
        b.give(total, x)
    if b.operand(2) is None:
        return x
    return b.op("SimplifiedLayerNormalization", x, b.operand(2), epsilon=float(b.attr("epsilon", 1e-5)), axis=-1)


@body("MatMulNBitsQLoRA", domain=_DOMAIN)
def matmul_n_bits_qlora(b: Body) -> None:
    """x W' + (x A') B', with A and B of few rows, or columns."""
    rank = b.shape(3)[0]
    if not isinstance(rank, int):
        raise b.refuse("the rank of its correction is not known")
    own = {"bits": int(b.attr("lora_bits", 4)), "block_size": int(b.attr("lora_block_size", b.attr("block_size")))}
    whole = {"bits": int(b.attr("bits", 4)), "block_size": int(b.attr("block_size"))}
    width, size = int(b.attr("K")), int(b.attr("N"))
    x, w, scales, *lora = (str(b.operand(k)) for k in range(7))
    down = b.op("MatMulNBits", x, *lora[:2], domain=_DOMAIN, K=width, N=rank, **own)
    up = b.op("MatMulNBits", down, *lora[2:], domain=_DOMAIN, K=rank, N=size, **own)
    b.give(0, b.op("Add", b.op("MatMulNBits", x, w, scales, domain=_DOMAIN, K=width, N=size, **whole), up))


def _part(b: Body, x: str, first: int, size: int) -> str:
    """MatMulNBits of the weight, scales and bias that are operands ``first`` to ``first + 2``."""
    own = {k: int(b.attr(k)) for k in ("K", "block_size") if b.attr(k) is not None}
    operands = (b.operand(first), b.operand(first + 1), None, None, b.operand(first + 2))
    return b.op("MatMulNBits", x, *operands, domain=_DOMAIN, bits=int(b.attr("bits", 4)), N=size, **own)


@body("GatherBlockQuantized", domain=_DOMAIN)
def gather_block_quantized(b: Body) -> None:
    """Gather of (q - zero) scale, in blocks along the last axis."""
    t = b.tensor(0)
    name = "" if t is None or t.dtype is None else t.dtype.name
    *front, count = b.shape(2)
    rank, block, bits = len(front) + 1, int(b.attr("block_size", 128)), int(b.attr("bits", 4))
    packed = 8 // bits if name == "uint8" else 1
    data, zeros = b.operand(0), b.operand(3)
    lead = [d for d in front if isinstance(d, int)]
    if int(b.attr("quantize_axis", 1)) % rank != rank - 1 or len(lead) < len(front) or isinstance(count, str):
        raise b.refuse("it is not quantised along its last axis, or the size of its table is not known")
    wide = [*lead, count * block]
    stored = b.shape(0)[-1]
    if isinstance(stored, str) or stored * packed != wide[-1]:
        raise b.refuse("its last axis is not a whole number of blocks")
    grouped = [*lead, count, 1]
    zero: str | float = 2.0 ** (bits - 1) if name == "uint8" else 0.0
    if zeros is not None:
        if packed > 1:
            zeros = b.op("Reshape", unpacked(b, zeros, bits), [*lead, -1])
            zeros = b.op("Slice", zeros, [0], [count], [-1])
        zero = b.op("Reshape", as_float(b, zeros), grouped)
    if packed > 1:
        data = unpacked(b, data, bits)
    blocks = b.op("Reshape", as_float(b, data), [*lead, count, block])
    real_numbers = b.op("Mul", b.op("Sub", blocks, zero), b.op("Reshape", b.operand(2), grouped))
    table = b.op("Reshape", real_numbers, wide)
    b.into(0, "Gather", table, b.operand(1), axis=int(b.attr("gather_axis", 0)))


refuse(
    "MatMulBnb4",
    domain=_DOMAIN,
    why="the number formats of bitsandbytes (FP4, NF4) are not supported; export with MatMulNBits instead",
)
