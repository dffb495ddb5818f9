"""What attention as ONNX Runtime fuses it is made of: heads, positions, rotations; and
the operators that are no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omenn_onnx.graph.ir import Dim
from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.microsoft import DOMAIN

INT64 = 7


def by_heads(b: Body, x: str, heads: int) -> str:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    return b.op("Transpose", b.op("Reshape", x, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def joined(b: Body, x: str) -> str:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    return b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3]), [0, 0, -1])


def known(b: Body, d: Dim) -> int:
    if not isinstance(d, int):
        raise b.refuse("its hidden size is not known; declare the shapes of its inputs")
    return d


def unset(b: Body, *flags: str) -> None:
    for flag in flags:
        if b.attr(flag, 0):
            raise b.refuse(f"its attribute {flag} is set; export the model without")


def length_of(b: Body, x: str) -> str:
    """The size along axis 2, as a vector of one element."""
    return b.op("Shape", x, start=2, end=3)


def counted(b: Body, end: str) -> str:
    """0, 1, ... as many as ``end``, a vector of one element, says."""
    limit = b.op("Squeeze", end, [0])
    return b.op("Range", np.asarray(0), limit, np.asarray(1))


@dataclass
class Rotation:
    """Pairs of a head's first columns turned by an angle that grows with the position."""

    b: Body
    positions: str
    cos: str | None
    sin: str | None
    interleaved: bool

    def __call__(self, x: str, size: int) -> str:
        """``x`` is [batch, heads, length, size]."""
        b, k = self.b, (7 if self.b.node.op == "GroupQueryAttention" else 2)
        half = known(b, b.shape(k)[1])
        cos, sin = (b.op("Gather", t, self.positions, axis=0) for t in (self.cos, self.sin))
        return turn(b, x, size, half, cos, sin, self.interleaved)


def turn(b: Body, x: str, size: int, half: int, cos: str, sin: str, interleaved: bool) -> str:
    """The first ``2 half`` columns of x [batch, heads, length, size], in pairs, by angles of which cos and sin
    [batch, length, half] are given."""
    rest = None
    if 2 * half < size:
        x, rest = b.ops("Split", 2, x, [2 * half, size - 2 * half], axis=-1)
    cos, sin = (b.op("Unsqueeze", t, [1]) for t in (cos, sin))
    if interleaved:
        pairs = b.op("Reshape", x, [0, 0, 0, half, 2])
        first, second = (b.op("Squeeze", p, [4]) for p in b.ops("Split", 2, pairs, [1, 1], axis=4))
    else:
        first, second = b.ops("Split", 2, x, [half, half], axis=-1)
    real = b.op("Sub", b.op("Mul", first, cos), b.op("Mul", second, sin))
    imaginary = b.op("Add", b.op("Mul", first, sin), b.op("Mul", second, cos))
    if interleaved:
        both = b.op("Concat", b.op("Unsqueeze", real, [4]), b.op("Unsqueeze", imaginary, [4]), axis=4)
        y = b.op("Reshape", both, [0, 0, 0, 2 * half])
    else:
        y = b.op("Concat", real, imaginary, axis=-1)
    return y if rest is None else b.op("Concat", y, rest, axis=-1)


@body("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(b: Body) -> None:
    """Pairs of columns turned by cos and sin of their position."""
    unset(b, "is_packed_batching")
    shape, width = b.shape(0), int(b.attr("rotary_embedding_dim", 0))
    x, half = str(b.operand(0)), known(b, b.shape(2)[1])
    if len(shape) == 3:
        heads = int(b.attr("num_heads", 0)) if width else known(b, shape[2]) // (2 * half)
        if heads == 0:
            raise b.refuse("its num_heads is not given")
        size = known(b, shape[2]) // heads
        x = by_heads(b, x, heads)
    else:
        size = known(b, shape[3])
    positions = str(b.operand(1))
    if len(b.shape(1)) == 1:
        positions = b.op("Unsqueeze", b.op("Add", counted(b, length_of(b, x)), positions), [0])
    y = Rotation(b, positions, b.operand(2), b.operand(3), bool(b.attr("interleaved", 0)))(x, size)
    b.give(0, joined(b, y) if len(shape) == 3 else y)


@body("GatedRelativePositionBias", domain=DOMAIN)
def gated_relative_position_bias(b: Body) -> None:
    """rel_pos (u (r eco_a - 1) + 2), with the gates u and r from the queries."""
    if b.operand(6) is not None:
        raise b.refuse("it works on sequences packed without their padding; save the model without packing")
    heads, columns = int(b.attr("num_heads")), known(b, b.shape(3)[1])
    q = by_heads(b, b.op("Add", b.operand(0), b.operand(1)), heads)
    gates = b.op("Add", b.op("MatMul", q, b.operand(3)), b.operand(4))
    gates = b.op("ReduceSum", b.op("Reshape", gates, [0, 0, 0, 2, columns // 2]), [4], keepdims=0)
    u, r = b.ops("Split", 2, b.op("Sigmoid", gates), [1, 1], axis=3)
    gate = b.op("Add", b.op("Mul", u, b.op("Sub", b.op("Mul", r, b.operand(5)), 1.0)), 2.0)
    b.give(0, b.op("Mul", gate, b.operand(2)))


@body("GemmaRotaryEmbedding", domain=DOMAIN)
def gemma_rotary_embedding(b: Body) -> None:
    """x cos(angle) + turned x sin(angle), of queries and of keys."""
    cos, sin = (b.op("Unsqueeze", b.op(f, b.operand(0)), [1]) for f in ("Cos", "Sin"))
    for k in (0, 1):
        x, turned = b.operand(1 + 2 * k), b.operand(2 + 2 * k)
        if b.wants(k):
            b.give(k, b.op("Add", b.op("Mul", x, cos), b.op("Mul", turned, sin)))


@body("MRotaryEmbedding", domain=DOMAIN)
def multimodal_rotary_embedding(b: Body) -> None:
    """RotaryEmbedding with three positions of each token, each for some of the pairs of columns."""
    unset(b, "is_packed_batching")
    if float(b.attr("scale", 1.0)) != 1.0:
        raise b.refuse("its attribute scale is set; export the model without")
    shape, half = b.shape(0), known(b, b.shape(2)[1])
    width, sections = int(b.attr("rotary_embedding_dim", 0)), [int(n) for n in b.attr("mrope_section")]
    which = np.repeat(np.arange(3), sections)
    if int(b.attr("mrope_layout", 0)):
        which = np.zeros(half, np.int64)
        for k in (1, 2):
            which[k : 3 * sections[k] : 3] = k
    tables = []
    for k in (2, 3):
        rows = b.op("Gather", b.operand(k), b.operand(1), axis=0)  # [3, batch, length, pairs]
        chosen = [b.op("Mul", r, np.asarray(which == i, b.dtype)) for i, r in enumerate(_thirds(b, rows))]
        tables.append(b.op("Sum", *chosen))
    x = str(b.operand(0))
    heads = 0
    if len(shape) == 3:
        heads = int(b.attr("num_heads", 0)) if width else known(b, shape[2]) // (2 * half)
        if heads == 0:
            raise b.refuse("its num_heads is not given")
        x = by_heads(b, x, heads)
    size = known(b, shape[-1]) // (heads or 1)
    y = turn(b, x, size, half, tables[0], tables[1], bool(b.attr("interleaved", 0)))
    b.give(0, joined(b, y) if heads else y)


def _thirds(b: Body, rows: str) -> list[str]:
    return [b.op("Squeeze", r, [0]) for r in b.ops("Split", 3, rows, [1, 1, 1], axis=0)]
