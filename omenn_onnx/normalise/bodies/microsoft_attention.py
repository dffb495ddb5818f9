"""Attention as ONNX Runtime fuses it (com.microsoft), written in ONNX: softmax(scale Q K' + masks) V by heads.

A padded key's score has ``mask_filter_value`` added to it, a later key of a causal attention -inf.
"""

from __future__ import annotations

import numpy as np

from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.microsoft import DOMAIN
from omenn_onnx.normalise.bodies.microsoft_positions import (
    INT64,
    Rotation,
    by_heads,
    counted,
    joined,
    known,
    length_of,
    unset,
)


@body("Attention", domain=DOMAIN)
def attention(b: Body) -> None:
    """Self-attention with its input projection x W + bias, split into Q, K and V."""
    unset(b, "do_rotary", "past_present_share_buffer")
    if b.operand(6) is not None:
        raise b.refuse("it shares a buffer between past and present; export it without")
    heads, sizes = int(b.attr("num_heads")), b.attr("qkv_hidden_sizes")
    x = b.op("MatMul", b.operand(0), b.operand(1))
    if b.operand(2) is not None:
        x = b.op("Add", x, b.operand(2))
    width = b.shape(1)[-1] if b.tensor(2) is None else b.shape(2)[0]
    if sizes is None:
        sizes = [known(b, width) // 3] * 3
    b.give(0, self_attention(b, x, [int(s) for s in sizes], heads, mask=3, past=4, bias=b.operand(5)))


def self_attention(b: Body, x: str, sizes: list[int], heads: int, *, mask: int, past: int, bias: str | None) -> str:
    """Attention of Q, K and V side by side, and the present cache; ``mask`` and ``past`` are operands."""
    q, k, v = (by_heads(b, part, heads) for part in b.ops("Split", 3, x, sizes, axis=-1))
    if b.operand(past) is not None:
        pasts = (b.op("Gather", b.operand(past), np.asarray(i), axis=0) for i in (0, 1))
        k, v = (b.op("Concat", before, new, axis=2) for before, new in zip(pasts, (k, v), strict=True))
    b.give(1, b.op("Concat", b.op("Unsqueeze", k, [0]), b.op("Unsqueeze", v, [0]), axis=0) if b.wants(1) else k)
    biases = [_padding(b, mask, k), _causal(b, q, k) if b.attr("unidirectional", 0) else None, bias]
    return joined(b, _attend(b, q, k, v, _scale(b, sizes[0] // heads), biases))


@body("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(b: Body) -> None:
    """Attention behind its input projection, of which the bias is left: Q, K and V apart, or packed by head."""
    if b.wants(3):
        raise b.refuse("its product of query and key is used")
    if b.operand(8) is not None or b.operand(9) is not None:
        raise b.refuse("it shares a buffer between past and present; export it without")
    heads = int(b.attr("num_heads"))
    q, k, v, size = _queries_keys_values(b, heads)
    k, v = (new if b.operand(i) is None else b.op("Concat", b.operand(i), new, axis=2) for i, new in ((6, k), (7, v)))
    b.give(1, k)
    b.give(2, v)
    biases = [_padding(b, 4, k), _causal(b, q, k) if b.attr("unidirectional", 0) else None, b.operand(5)]
    b.give(0, joined(b, _attend(b, q, k, v, _scale(b, size), biases)))


def _queries_keys_values(b: Body, heads: int) -> tuple[str, str, str, int]:
    """Q, K and V as [batch, heads, length, size], and the size of a query's head."""
    given, rank = b.shape(0), len(b.shape(0))
    if rank == 5:
        parts = b.ops("Split", 3, b.operand(0), [1, 1, 1], axis=3)
        q, k, v = (b.op("Reshape", part, [0, 0, -1]) for part in parts)
        size = known(b, given[4])
    else:
        q, size = str(b.operand(0)), known(b, given[2]) // heads
        if b.operand(2) is None:
            k, v = (b.op("Reshape", part, [0, 0, -1]) for part in b.ops("Split", 2, b.operand(1), [1, 1], axis=3))
        else:
            k, v = str(b.operand(1)), str(b.operand(2))
    apart = rank == 3 and b.operand(2) is not None and len(b.shape(1)) == 4
    if b.operand(3) is not None:
        wide = size * heads
        last = known(b, b.shape(3)[0]) - 2 * wide
        parts = b.ops("Split", 3, b.operand(3), [wide, wide, last], axis=0)
        q = b.op("Add", q, parts[0])
        k, v = (k, v) if apart else (b.op("Add", k, parts[1]), b.op("Add", v, parts[2]))
    q = by_heads(b, q, heads)
    return (q, k, v, size) if apart else (q, by_heads(b, k, heads), by_heads(b, v, heads), size)


@body("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(b: Body) -> None:
    """Causal attention in which groups of query heads share a key and value head, perhaps with rotary positions, a
    window, a soft cap, attention sinks, and a cache of the past."""
    if any(b.operand(k) is not None for k in (12, 13)) or b.attr("kv_cache_bit_width", 0):
        raise b.refuse("its cache is quantised")
    if b.operand(14) is not None or b.operand(15) is not None:
        raise b.refuse("it normalises queries and keys, which ONNX Runtime's CPU kernel does not")
    unset(b, "sliding_window_cache")
    if b.wants(3):
        raise b.refuse("its product of query and key is used")
    own, shared = int(b.attr("num_heads")), int(b.attr("kv_num_heads"))
    q, k, v = str(b.operand(0)), b.operand(1), b.operand(2)
    count = own if k is not None else own + 2 * shared
    size = known(b, b.shape(0)[2]) // count
    if k is None:
        q, k, v = b.ops("Split", 3, q, [own * size, shared * size, shared * size], axis=-1)
    q, k, v = by_heads(b, q, own), by_heads(b, str(k), shared), by_heads(b, str(v), shared)
    length = length_of(b, q)
    lengths = b.op("Add", b.op("Cast", b.op("Reshape", b.operand(5), [-1]), to=INT64), [1])
    before = b.op("Sub", lengths, length) if b.operand(3) is not None else None  # of each row, the length of its past
    if b.attr("do_rotary", 0):
        positions = _positions(b, length, before)
        turn = Rotation(b, positions, b.operand(7), b.operand(8), bool(b.attr("rotary_interleaved", 0)))
        q, k = (turn(x, size) for x in (q, k))
    if before is None:
        b.give(1, k)
        b.give(2, v)
    else:
        index, filled = _places(b, k, before)
        both = (b.op("Concat", b.operand(i), new, axis=2) for i, new in ((3, k), (4, v)))
        k, v = (b.op("GatherElements", x, index, axis=2) for x in both)
        # The outputs are nodes of their own: ONNX Runtime takes their static shapes from the past, which is wrong.
        for output, x in ((1, k), (2, v)):
            b.give(output, b.op("Where", filled, x, 0.0) if b.wants(output) else x)
    y = _attend(
        b,
        b.op("Reshape", q, [0, shared, own // shared, -1, size]),
        b.op("Unsqueeze", k, [2]),
        b.op("Unsqueeze", v, [2]),
        _scale(b, size),
        [_window(b, q, k, lengths, before), _grouped(b, shared, own)],
        float(b.attr("softcap", 0.0)),
        _sink(b, shared, own),
    )
    b.give(0, joined(b, b.op("Reshape", y, b.op("Shape", q))))


def _positions(b: Body, length: str, before: str | None) -> str:
    """The position of each new token, [batch or 1, length]. Of those given for a whole prompt only the first counts."""
    if b.operand(9) is not None and before is not None:
        return str(b.operand(9))
    new = b.op("Unsqueeze", counted(b, length), [0])
    if b.operand(9) is not None:
        return b.op("Add", new, b.op("Slice", b.operand(9), [0], [1], [1]))
    return new if before is None else b.op("Add", new, b.op("Unsqueeze", before, [1]))


def _places(b: Body, new: str, before: str) -> tuple[str, str]:
    """For the past of each row, as far as it goes, followed by what is new: where each entry is when the whole past is
    joined with ``new``, as long as the longest row says and the past is; and whether there is one."""
    both = b.op("Concat", b.operand(3), new, axis=2)
    capacity, total = length_of(b, str(b.operand(3))), b.op("Cast", b.op("Reshape", b.operand(6), [1]), to=INT64)
    place = b.op("Unsqueeze", counted(b, b.op("Max", total, capacity)), [0])
    start = b.op("Unsqueeze", before, [1])
    shifted = b.op("Add", place, b.op("Sub", capacity, start))
    index = b.op("Where", b.op("Less", place, start), place, shifted)
    index = b.op("Unsqueeze", b.op("Min", index, b.op("Sub", length_of(b, both), [1])), [1, 3])
    shape = b.op("Concat", b.op("Shape", both, end=2), [1], b.op("Shape", both, start=3), axis=0)
    filled = b.op("Less", place, b.op("Add", start, length_of(b, new)))
    return b.op("Expand", index, shape), b.op("Unsqueeze", filled, [1, 3])


def _window(b: Body, q: str, k: str, lengths: str, before: str | None) -> str:
    """What is added to the scores: -inf for keys later, before the window or padded, [batch, 1, 1, query, key]."""
    causal, width = int(b.attr("causal", 1)), int(b.attr("local_window_size", -1))
    row = b.op("Reshape", counted(b, length_of(b, q)), [1, 1, 1, -1, 1])
    column = b.op("Reshape", counted(b, length_of(b, k)), [1, 1, 1, 1, -1])
    lengths = b.op("Reshape", lengths, [-1, 1, 1, 1, 1])
    if not causal:
        return b.op("Where", b.op("Less", column, lengths), 0.0, -np.inf)
    if before is not None:
        row = b.op("Add", row, b.op("Reshape", before, [-1, 1, 1, 1, 1]))
    row = b.op("Min", row, b.op("Sub", lengths, [1]))
    seen = b.op("LessOrEqual", column, row)
    if width > 0:
        seen = b.op("And", seen, b.op("Greater", column, b.op("Sub", row, [width])))
    return b.op("Where", seen, 0.0, -np.inf)


def _grouped(b: Body, shared: int, own: int) -> str | None:
    """The operand that is added to the scores, with the heads as [shared heads, group]."""
    bias = b.operand(10)
    if bias is None or b.shape(10)[1] == 1:
        return None if bias is None else b.op("Unsqueeze", bias, [2])
    shape = b.op("Concat", b.op("Shape", bias, end=1), [shared, own // shared], b.op("Shape", bias, start=2), axis=0)
    return b.op("Reshape", bias, shape)


def _sink(b: Body, shared: int, own: int) -> str | None:
    """A score beside those of the keys, which takes its share and gives nothing."""
    if b.operand(11) is not None:
        return b.op("Reshape", b.operand(11), [1, shared, own // shared, 1, 1])
    if int(b.attr("smooth_softmax", -1)) > 0:
        return b.op("Reshape", np.zeros(1, b.dtype), [1, 1, 1, 1, 1])
    return None


# The parts


def _attend(
    b: Body,
    q: str,
    k: str,
    v: str,
    scale: float,
    biases: list[str | None],
    softcap: float = 0.0,
    sink: str | None = None,
) -> str:
    """softmax(scale q k' + biases) v over the last two axes."""
    axes = [0, 1, 2, 4, 3] if b.node.op == "GroupQueryAttention" else [0, 1, 3, 2]
    scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=axes)), scale)
    if softcap > 0:
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, softcap)), softcap)
    for bias in biases:
        scores = scores if bias is None else b.op("Add", scores, bias)
    if sink is None:
        return b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    column = b.op("Add", b.op("Mul", b.op("Slice", scores, [0], [1], [-1]), 0.0), sink)
    weights = b.op("Softmax", b.op("Concat", scores, column, axis=-1), axis=-1)
    return b.op("MatMul", b.op("Slice", weights, [0], [-1], [-1]), v)


def _scale(b: Body, size: int) -> float:
    return float(b.attr("scale", 0.0)) or float(1 / np.sqrt(size))


def _causal(b: Body, q: str, k: str) -> str:
    """-inf where a key is later than its query, the last of both being at the same place: [query, key]."""
    rows, columns = length_of(b, q), length_of(b, k)
    row = b.op("Add", b.op("Unsqueeze", counted(b, rows), [1]), b.op("Sub", columns, rows))
    column = b.op("Unsqueeze", counted(b, columns), [0])
    return b.op("Where", b.op("LessOrEqual", column, row), 0.0, -np.inf)


def _padding(b: Body, index: int, k: str) -> str | None:
    """What is added to the scores of padded keys. The operand is a mask [batch, key] or [batch, query, key], 0 where
    padded, or a vector of each row's end, perhaps followed by each row's start."""
    mask = b.operand(index)
    if mask is None:
        return None
    rank, filler = len(b.shape(index)), float(b.attr("mask_filter_value", -10000.0))
    if rank > 3:
        raise b.refuse(f"its mask has {rank} axes, for which ONNX Runtime's CPU kernel does not stand")
    if rank > 1:
        seen = b.op("Greater", mask, np.asarray(0, np.int32))
        seen = b.op("Unsqueeze", seen, [1, 2] if rank == 2 else [1])
    else:
        column = b.op("Cast", b.op("Unsqueeze", counted(b, length_of(b, k)), [0]), to=6)
        rows = b.op("Shape", k, end=1)
        ends = b.op("Unsqueeze", b.op("Slice", mask, [0], rows, [0]), [1])
        seen = b.op("Less", column, ends)
        if b.node.op != "MultiHeadAttention":
            both = b.op("Concat", mask, b.op("Expand", np.asarray(0, np.int32), rows), axis=0)
            starts = b.op("Slice", both, rows, b.op("Add", rows, rows), [0])
            seen = b.op("And", seen, b.op("GreaterOrEqual", column, b.op("Unsqueeze", starts, [1])))
        seen = b.op("Unsqueeze", seen, [1, 2])
    return b.op("Where", seen, 0.0, filler)
