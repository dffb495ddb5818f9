"""Products, sums and selections of carriers; softmax contractions with operators in between."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .core import Array, Graph, T, Unfit, run_node
from .gates import quantised


def product(g: Graph) -> T:
    x = g.any()
    kind = g.pick("Mul", "Mul", "Mul", "Div", "Sum", "Add", "Sub", "Max", "Min", "Mean", "MatMul", "Einsum", "Einsum3",
                  "Gemm")  # fmt: skip
    if kind in ("Mul", "Add", "Sub"):
        return g.op(kind, *g.pick((x, y := g.like(x)), (y, x)))
    if kind in ("Sum", "Max", "Min", "Mean"):
        more = [g.small(x)] if g.flag() else []
        return g.op(kind, x, g.like(x), *more)
    if kind == "Div":
        y = g.like(x)
        return g.op(kind, x, g.op("Add", g.op(g.pick("Abs", "Softplus", "Sigmoid"), y), g.constant(0.5)))
    if x.rank < 2:
        raise Unfit
    if kind == "Gemm":
        fitting = [t for t in g.found if t.rank == 2 and x.rank == 2 and not g.dynamic]
        if not fitting:
            raise Unfit
        return g.op(kind, x, g.pick(*fitting), *([g.pick(*fitting)] if g.flag() else []), transA=int(g.flag()),
                    transB=int(g.flag()), alpha=0.8, beta=0.7)  # fmt: skip
    if kind == "MatMul":
        turned = g.op("Transpose", x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])
        if x.rank == 2 and g.dynamic:
            raise Unfit
        other = g.pick(*[t for t in (*g.found, turned) if t.rank >= 2])
        return g.op(kind, *g.pick((x, other), (other, x)))
    return einsum(g, 3 if kind == "Einsum3" else 2)


def einsum(g: Graph, count: int) -> T:
    """Random labels by size: axes of one size may meet."""
    letters: dict[int, list[str]] = {}
    free = iter("abcdefghijklmnop")
    terms, operands = [], []
    for k in range(count):
        t = g.any() if k == 0 or g.flag(0.8) else None
        if t is None:
            first = operands[0]
            shape = first.shape[1:] if g.dynamic else first.shape
            name = g.weight(*shape)
            operand: Any = T(name, g.values[name], False)
        else:
            operand = t
        term = ""
        for i, d in enumerate(operand.shape):
            if g.dynamic and i == 0 and operand.carries:
                term += "z"
                continue
            known = [c for c in letters.get(d, []) if c not in term]
            c = g.pick(*known) if known and g.flag(0.75) else next(free, "q")
            letters.setdefault(d, [])
            if c not in letters[d]:
                letters[d].append(c)
            term += c
        terms.append(term)
        operands.append(operand)
    used = sorted(set("".join(terms)))
    kept = [c for c in used if c == "z" or g.flag(0.6)]
    g.random.shuffle(kept)
    if g.dynamic:
        kept = ["z", *(c for c in kept if c != "z")]
    return g.op("Einsum", *operands, equation=",".join(terms) + "->" + "".join(kept))


SOFTMAX_MOVES = ("Transpose", "Reshape", "Cast", "Identity", "Dropout", "Unsqueeze", "Squeeze", "quantised", "IsNaN",
                 "Mul", "Slice", "Expand", "Flatten", "Pad0", "DynamicQuantize", "Where")  # fmt: skip


def attention(g: Graph) -> T:
    """A softmax of a carrier, moved about, in a contraction with something that fits."""
    v = g.any(2, 3, 4)
    if g.dynamic and v.rank < 3:
        raise Unfit
    keys, queries = v.shape[-2], g.integer(1, 4)
    s = g.op("MatMul", v, g.weight(v.shape[-1], queries))  # [..., keys, queries]
    axis = g.pick(s.rank - 2, s.rank - 2, s.rank - 1)
    if g.flag(0.4):
        mask = np.where(g.random.random((keys, queries)) < 0.3, g.pick(-np.inf, -1e9, -3.4028234e38), 0)
        mask[0] = mask[:, 0] = 0
        if np.isfinite(mask).all() or axis == s.rank - 2:
            s = masked(g, s, mask)
    if axis == s.rank - 2 and g.flag(0.5):
        s = g.op("Transpose", s, perm=[*range(s.rank - 2), s.rank - 1, s.rank - 2])
        axis = s.rank - 1
    p = g.op("Softmax", s, axis=axis)
    turned = axis == s.rank - 1 and p.shape[-1] == keys
    lead = p.shape[:-2]
    for _ in range(g.integer(0, 3)):
        kind = g.pick(*SOFTMAX_MOVES)
        if kind == "Transpose":
            p = g.op(kind, p, perm=[*range(p.rank - 2), p.rank - 1, p.rank - 2])
            turned = not turned
        elif kind == "Reshape":
            flat = g.op(kind, p, g.ints(*([0] if g.dynamic else []), -1, p.shape[-1]))
            p = g.op(kind, flat, g.ints(*([0] if g.dynamic else lead[:1]), *p.shape[1:]) if lead or not g.dynamic
                     else g.ints(*p.shape))  # fmt: skip
        elif kind == "Cast":
            p = g.op(kind, g.op(kind, p, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
        elif kind in ("Identity", "Dropout"):
            p = g.op(kind, p)
        elif kind in ("Squeeze", "Unsqueeze"):
            at = g.ints(g.integer(g.first_axis(), p.rank))
            p = g.op("Squeeze", g.op("Unsqueeze", p, at), at)
        elif kind == "quantised":
            p = quantised(g, p)
        elif kind == "IsNaN":
            p = g.op("Where", g.op("IsNaN", p), g.constant(0.0), p)
        elif kind == "Mul":
            p = g.op(kind, p, g.constant(0.8))
        elif kind == "Slice":
            p = g.op(kind, p, g.ints(0), g.ints(2**40), g.ints(p.rank - 1))
        elif kind == "DynamicQuantize":
            q, s1, z1 = g.op("DynamicQuantizeLinear", p, outputs=3)
            p = g.op("DequantizeLinear", q, s1, z1)
    if turned or (p.shape[-1] == keys and g.flag()):
        a, b = p, v
    else:
        a, b = g.op("Transpose", p, perm=[*range(p.rank - 2), p.rank - 1, p.rank - 2]), v
    kind = g.pick("MatMul", "Einsum", "swapped")
    if kind == "Einsum":
        return g.op(kind, a, b, equation="...ij,...jk->...ik")
    if kind == "swapped":
        turn = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
        return g.op("MatMul", g.op("Transpose", v, perm=turn), g.op("Transpose", a, perm=turn))
    return g.op(kind, a, b)


def masked(g: Graph, s: T, mask: Array) -> T:
    """-inf is not finite: not by op, which would refuse it."""
    name = g.constant(mask)
    node = helper.make_node("Add", [s.name, name], [f"t{len(g.nodes)}"], name=f"n{len(g.nodes)}")
    (value,) = run_node(node, g.values)
    g.nodes.append(node)
    g.values[node.output[0]] = value
    return T(node.output[0], value)
