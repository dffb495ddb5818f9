"""Contractions: MatMul, Gemm, Einsum. One function on labelled axes does them all."""

from __future__ import annotations

import numpy as np

from .stream import Array, Node, Tensor, carrier, constant, plus_bias, rule
from .sums import add, scale

Labels = list[int]


def _dense_einsum(operands: list[tuple[Array, Labels]], out: Labels) -> Array:
    args: list = []
    for array, labels in operands:
        args += [array, labels]
    return np.einsum(*args, out, optimize=len(operands) > 1)


def _mean_ones(o: Array, labels: Labels, out: Labels, sizes: dict[int, int]) -> Array:
    """Mean over the axes that are not in the output; broadcast over output axes that o does not have."""
    columns = 51
    kept = [label for label in out if label in labels]
    summed = {label for label in labels if label not in out}
    mean = _dense_einsum([(o, [*labels, columns])], [*kept, columns]) / np.prod([sizes[s] for s in summed])
    shape = [sizes[label] if label in kept else 1 for label in out]
    return np.broadcast_to(mean.reshape(*shape, o.shape[-1]), (*(sizes[label] for label in out), o.shape[-1]))


def contract(n: Node, operands: list[Tensor], labels: list[Labels], out: Labels) -> Tensor:
    """y[out] = sum over the other labels of the product of the operands.

    Secant: the k carriers of lowest rank share 1/k, the others are weights. Tangent: every carrier, and the rest
    (1 - k) y. Ones of a share: the mean over the contracted axes; with two operands of which the other one, P, is a
    softmax over exactly the contracted axis: P o + (1 - row sum of P) mean(o).
    """
    columns = 51
    sizes: dict[int, int] = {}
    for t, ls in zip(operands, labels, strict=True):
        for label, size in zip(ls, t.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))

    def grown(array: Array, ls: Labels) -> Array:
        return np.broadcast_to(array, tuple(sizes[label] for label in ls) + array.shape[len(ls) :])

    values = [grown(t.value, ls) for t, ls in zip(operands, labels, strict=True)]
    value = _dense_einsum(list(zip(values, labels, strict=True)), out)
    carriers = [i for i, t in enumerate(operands) if t.is_carrier]
    if not carriers:
        return constant(value)
    lowest = min(operands[i].rank for i in carriers)
    shared = carriers if n.tangent else [i for i in carriers if operands[i].rank == lowest]
    contracted = {label for ls in labels for label in ls if label not in out}

    def ones_of(i: int) -> Array:
        o = grown(operands[i].ones, labels[i])
        mean = _mean_ones(o, labels[i], out, sizes)
        if len(operands) != 2:
            return mean
        j = 1 - i
        p = operands[j]
        if p.softmax_axes is None or not p.is_carrier or {labels[j][a] for a in p.softmax_axes} != contracted:
            return mean
        weighted = _dense_einsum([(values[j], labels[j]), (o, [*labels[i], columns])], [*out, columns])
        row_sum = _dense_einsum([(values[j], labels[j]), (np.ones(o.shape[:-1]), labels[i])], out)
        return weighted + (1 - row_sum)[..., None] * mean

    lin = np.zeros((*value.shape, n.columns.width))
    ones = np.zeros((*value.shape, n.columns.n_ones))
    for i in shared:
        terms = [(v, ls) for j, (v, ls) in enumerate(zip(values, labels, strict=True)) if j != i]
        stream = (grown(operands[i].lin, labels[i]), [*labels[i], columns])
        lin += _dense_einsum([*terms, stream], [*out, columns]) / (1 if n.tangent else len(shared))
        ones += ones_of(i) / len(shared)
    if n.tangent and len(shared) > 1:
        lin = plus_bias(n, lin, ones, (1 - len(shared)) * value)
    return carrier(value, lin, ones, 0)


def matmul(n: Node, a: Tensor, b: Tensor) -> Tensor:
    """numpy.matmul: vectors, and batch axes broadcast from the right."""
    batch_rank = max(a.ndim, b.ndim, 2) - 2
    row, inner, column = 40, 41, 42
    la = [*range(batch_rank - (a.ndim - 2), batch_rank), row, inner] if a.ndim > 1 else [inner]
    lb = [*range(batch_rank - (b.ndim - 2), batch_rank), inner, column] if b.ndim > 1 else [inner]
    batch = sorted({label for label in la + lb if label < 40})
    out = batch + [row] * (a.ndim > 1) + [column] * (b.ndim > 1)
    return contract(n, [a, b], [la, lb], out)


@rule("MatMul")
def _matmul(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return matmul(n, a, b)


@rule("Gemm")
def gemm(n: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha A' B' + beta C: a contraction, then a sum."""
    la = [1, 0] if n.attrs.get("transA", 0) else [0, 1]
    lb = [2, 1] if n.attrs.get("transB", 0) else [1, 2]
    y = scale(contract(n, [a, b], [la, lb], [0, 2]), np.array(n.attrs.get("alpha", 1.0)))
    if c is None:
        return y
    return add(n, [y, scale(c, np.array(n.attrs.get("beta", 1.0)))])


@rule("Einsum")
def einsum(n: Node, *operands: Tensor) -> Tensor:
    equation = n.attrs["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    letters = sorted(set(equation) - set(",.->"))
    number = {c: i for i, c in enumerate(letters)}
    ellipsis_rank = 0
    for term, t in zip(terms, operands, strict=True):
        if "..." in term:
            ellipsis_rank = max(ellipsis_rank, t.ndim - (len(term) - 3))
    dots = list(range(len(letters), len(letters) + ellipsis_rank))

    def labels(term: str, ndim: int | None) -> Labels:
        if "..." not in term:
            return [number[c] for c in term]
        before, _, after = term.partition("...")
        rank = ellipsis_rank if ndim is None else ndim - len(before) - len(after)
        return [number[c] for c in before] + dots[ellipsis_rank - rank :] + [number[c] for c in after]

    if not arrow:  # implicit output: ellipsis, then the letters that occur once, in alphabetical order
        once = [c for c in letters if left.count(c) == 1]
        right = ("..." if ellipsis_rank or "..." in left else "") + "".join(once)
    operand_labels = [labels(s, t.ndim) for s, t in zip(terms, operands, strict=True)]
    return contract(n, list(operands), operand_labels, labels(right, None))
