"""Einsum: a contraction by labels. Ones as of every contraction."""

from __future__ import annotations

import string

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, Pair, rule
from omenn_onnx.calculus.contractions import softmax_axis
from omenn_onnx.calculus.products import shared
from omenn_onnx.calculus.shape_ops import eye
from omenn_onnx.graph.ir import Dim, Node, Tensor
from omenn_onnx.linear.build import join_shapes
from omenn_onnx.linear.program import Var


@rule("Einsum")
def einsum(p: Calculus, node: Node, *operands: Operand, equation: str) -> Pair | None:
    """Contraction by labels; of several carriers the k of lowest rank share 1/k (tangent: all carry)."""
    y = p.out(node)
    labels, out = _parse(equation, [o.rank for o in operands])
    carriers = [i for i, o in enumerate(operands) if o.pair is not None]
    if not carriers:
        return None
    plain = [_diagonal(p, o, t) for o, t in zip(operands, labels, strict=True)]
    operands, labels = tuple(o for o, _ in plain), [t for _, t in plain]
    if not p.tangent:
        ranks = {i: pair.rank for i in carriers if (pair := operands[i].pair) is not None}
        carriers = [i for i in carriers if ranks[i] == min(ranks.values())]
    terms = [_einsum_of(p, node, operands, labels, out, i, y) for i in carriers]
    return terms[0] if len(terms) == 1 else shared(p, terms, y)


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Labels of each operand and of the output, the ellipsis written out with letters of its own."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    widest = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    dots = "".join(free[:widest])
    labels = []
    for t, r in zip(terms, ranks, strict=True):
        n = r - len(t.replace("...", ""))
        labels.append(t.replace("...", dots[len(dots) - n :] if n else ""))
    if not arrow:
        joined = "".join(t.replace("...", "") for t in terms)
        out = ("..." if "..." in left else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return labels, out.replace("...", dots)


def _diagonal(p: Calculus, o: Operand, labels: str) -> tuple[Operand, str]:
    """An operand without repeated labels: its diagonal over axes that share one."""
    j = next((k for k, c in enumerate(labels) if c in labels[:k]), None)
    if j is None:
        return o, labels
    i, size = labels.index(labels[j]), o.shape[j]
    own = string.ascii_letters[: o.rank]
    kept = own[:j] + own[j + 1 :]
    shape = o.shape[:j] + o.shape[j + 1 :]
    t = p.emit.op("Einsum", o.t, equation=f"{own[:j]}{own[i]}{own[j + 1 :]}->{kept}", shape=shape)

    def line(v: Var) -> Var:
        if v.shape[i] == v.shape[j] == 1:
            return p.build.reshape(v, v.shape[:j] + v.shape[j + 1 :])
        full = tuple(size if k in (i, j) else d for k, d in enumerate(v.shape))
        shape = full[:j] + full[j + 1 :]
        return p.build.einsum(p.build.broadcast(v, full), eye(p, size), own, own[i] + own[j], kept, shape)

    pair = None if o.pair is None else Pair(line(o.pair.value), line(o.pair.ones), o.pair.rank)
    return _diagonal(p, Operand(t, pair), labels[:j] + labels[j + 1 :])


def _einsum_of(
    p: Calculus, node: Node, operands: tuple[Operand, ...], labels: list[str], out: str, i: int, y: Operand
) -> Pair:
    """The line through operand ``i``; the others are multiplied into one weight first."""
    mine = labels[i]
    pair = operands[i].pair
    assert pair is not None
    others = [(o, t, node.input(j)) for j, (o, t) in enumerate(zip(operands, labels, strict=True)) if j != i]
    squeezed = [_without_unit_axes(p, o, t, mine + out, labels, operands) for o, t, _ in others]
    sizes = _sizes(labels, operands)
    shape = tuple(sizes[c] for c in out)
    x, x_labels = _drop_units(p, pair.value, mine, sizes)
    ones_var, ones_labels = pair.ones, mine
    if not squeezed:
        weight = p.emit.const(np.ones((), p.emit.dtype))
        value = p.build.einsum(x, weight, x_labels, "", out, shape)
        w_labels, softmax = "", None
    else:
        needed = "".join(dict.fromkeys(c for _, t in squeezed for c in t if c in x_labels or c in out))
        whole = others[0][2] if len(others) == 1 and others[0][2] is not None else None
        softmax = softmax_axis(p, whole) if whole is not None and whole.rank == len(others[0][1]) else None
        softmax_label = others[0][1][softmax[0]] if softmax is not None else ""
        if len(squeezed) == 1 and squeezed[0][1] == needed:
            weight = squeezed[0][0]
        else:
            weight = p.emit.op(
                "Einsum", *[t for t, _ in squeezed], equation=f"{','.join(t for _, t in squeezed)}->{needed}"
            )
        w_labels = needed
        value = p.build.einsum(x, weight, x_labels, w_labels, out, shape)
    contracted = [c for c in mine if c not in out]
    summed = {c for t in labels for c in t} - set(out)
    if squeezed and softmax is not None and contracted == [softmax_label] and len(summed) == 1 and w_labels:
        o, o_labels = _drop_units(p, ones_var, ones_labels, sizes)
        if softmax_label in o_labels:
            kept = "".join(c for c in out if c in o_labels or c in w_labels)
            mixed_shape = tuple(sizes[c] for c in kept)
            mixed = p.build.einsum(o, weight, o_labels, w_labels, kept, mixed_shape)
            full = tuple(sizes[c] if c in kept else 1 for c in out)
            ones = p.build.reshape(mixed, full)
            if not softmax[1]:
                rows = p.emit.op(
                    "Einsum",
                    p.emit.op("Sub", 1.0, _row_sums(p, weight, w_labels, softmax_label)),
                    equation=f"{w_labels.replace(softmax_label, '')}->{''.join(c for c in out if c in w_labels)}",
                )
                spread = p.emit.op(
                    "Reshape",
                    rows,
                    p.emit.shape([sizes[c] if c in w_labels else 1 for c in out]),
                    shape=tuple(sizes[c] if c in w_labels else 1 for c in out),
                )
                mean = _to_out(p, p.build.mean(ones_var, [mine.index(softmax_label)]), mine, out)
                ones = p.build.add([ones, p.build.scale(mean, spread, join_shapes([mean.shape, spread.shape or ()]))])
            return Pair(value, ones)
    mean = p.build.mean(ones_var, [mine.index(c) for c in contracted]) if contracted else ones_var
    return Pair(value, _to_out(p, mean, mine, out))


def _row_sums(p: Calculus, weight: Tensor, labels: str, label: str) -> Tensor:
    return p.emit.op("ReduceSum", weight, [labels.index(label)], keepdims=0)


def _to_out(p: Calculus, ones: Var, mine: str, out: str) -> Var:
    """Ones with contracted axes of size 1, moved to the output's axes; new axes have size 1."""
    kept = [mine.index(c) for c in out if c in mine]
    dropped = [i for i in range(len(mine)) if i not in kept]
    moved = p.build.permute(ones, [*dropped, *kept])
    return p.build.reshape(moved, tuple(ones.shape[mine.index(c)] if c in mine else 1 for c in out))


def _sizes(labels: list[str], operands: tuple[Operand, ...]) -> dict[str, Dim]:
    """The size of each label; an axis of size 1 broadcasts."""
    sizes: dict[str, Dim] = {}
    for t, o in zip(labels, operands, strict=True):
        for c, d in zip(t, o.shape, strict=True):
            if sizes.get(c, 1) == 1 or (isinstance(sizes[c], str) and isinstance(d, int) and d != 1):
                sizes[c] = d
    return sizes


def _drop_units(p: Calculus, x: Var, labels: str, sizes: dict[str, Dim]) -> tuple[Var, str]:
    """Without axes of size 1 that stand for a larger label."""
    kept = [i for i, c in enumerate(labels) if x.shape[i] != 1 or sizes[c] == 1]
    if len(kept) == len(labels):
        return x, labels
    return p.build.reshape(x, tuple(x.shape[i] for i in kept)), "".join(labels[i] for i in kept)


def _without_unit_axes(
    p: Calculus, o: Operand, labels: str, used: str, all_labels: list[str], operands: tuple[Operand, ...]
) -> tuple[Tensor, str]:
    sizes = _sizes(all_labels, operands)
    drop = [i for i, c in enumerate(labels) if o.shape[i] == 1 and sizes[c] != 1]
    if not drop:
        return o.t, labels
    kept = [i for i in range(len(labels)) if i not in drop]
    t = p.emit.op("Squeeze", o.t, drop, shape=tuple(o.shape[i] for i in kept))
    return t, "".join(labels[i] for i in kept)
