"""MatMul and Gemm. Ones: the mean over the contracted axes; with a softmax P over exactly that axis,
P o + (1 - row sum of P) mean(o)."""

from __future__ import annotations

from omenn_onnx.calculus.base import Calculus, Operand, Pair, rule
from omenn_onnx.calculus.products import bilinear, total
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor

_CARRIES_SOFTMAX = frozenset(
    {
        "Cast",
        "Identity",
        "Dropout",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)


def softmax_axis(p: Calculus, t: Tensor | None) -> tuple[int, bool] | None:
    """If ``t`` is a softmax, possibly behind operators that only move it: its axis, and whether its rows sum to 1
    exactly (nothing in between rounds or masks it). A softmax of constants is a constant like any other, so that
    folding it away changes nothing."""
    node = None if t is None else p.view(t)
    if t is None or node is None or t.rank is None or t not in p.pairs:
        return None
    source = node.input(0)
    if node.op == "Softmax" and node.domain == "":
        if "axes" in node.attrs:
            return None
        return int(node.attrs.get("axis", -1)) % t.rank, True
    if node.op == "NaNGuard":
        found = softmax_axis(p, source)
        idle = source is not None and p.emit.signs.finite(source)  # (no row is masked as a whole: nothing to guard)
        return None if found is None else (found[0], found[1] and idle)
    if node.op not in _CARRIES_SOFTMAX or node.domain not in ("", "com.microsoft") or source is None:
        return None
    found = softmax_axis(p, source)
    if found is None or source.shape is None or t.shape is None:
        return None
    axis, exact = found
    if node.op == "Transpose":
        perm = node.attrs.get("perm", list(range(t.rank))[::-1])
        return list(perm).index(axis), exact
    if node.op == "Reshape":
        if axis == len(source.shape) - 1 and source.shape[-1] == t.shape[-1]:
            return t.rank - 1, exact
        return None
    if node.op in ("Squeeze", "Unsqueeze"):
        return _through_unit_axes(p, node, axis, len(source.shape), t.rank, exact)
    return axis, exact and node.op in ("Identity", "Dropout")


def _through_unit_axes(
    p: Calculus, node: Node, axis: int, before: int, after: int, exact: bool
) -> tuple[int, bool] | None:
    axes = node.input(1)
    value = None if axes is None else axes.value
    if value is None:
        return None
    if node.op == "Unsqueeze":
        added = {int(a) % after for a in value}
        kept = [i for i in range(after) if i not in added]
        return kept[axis], exact
    removed = {int(a) % before for a in value}
    if axis in removed:
        return None
    return axis - sum(1 for r in removed if r < axis), exact


def matmul_pair(
    p: Calculus, pair: Pair, w: Operand, shape: Shape, left: bool, softmax: tuple[int, bool] | None
) -> Pair:
    """x W, or W x (``left``), with batch axes broadcast. ``softmax``: along which axis W is one, as softmax_axis."""
    rank = len(shape)
    value = p.build.matmul(p.to_rank(pair.value, rank), w.t, shape, left=left)
    ones = p.to_rank(pair.ones, rank)
    axis = rank - 2 if left else rank - 1
    weight_axis = w.rank - 1 if left else w.rank - 2
    if softmax is not None and softmax[0] == weight_axis and ones.shape[axis] != 1:
        out = [_wider(a, b) for a, b in zip(ones.shape[:-2], (1,) * (rank - w.rank) + w.shape[:-2], strict=True)]
        tail = (shape[-2], ones.shape[-1]) if left else (ones.shape[-2], shape[-1])
        mixed = p.build.matmul(ones, w.t, (*out, *tail), left=left)
        if not softmax[1]:
            rows = p.emit.op("ReduceSum", w.t, [-1 if left else -2], keepdims=1)
            missing = p.emit.op("Sub", 1.0, rows)
            mixed = p.build.add([mixed, p.build.scale(p.build.mean(ones, [axis]), missing, mixed.shape)], mixed.shape)
        return Pair(value, mixed)
    return Pair(value, p.build.mean(ones, [axis]))


def _wider(a: Dim, b: Dim) -> Dim:
    return b if a == 1 else a


@rule("MatMul")
def matmul(p: Calculus, node: Node, A: Operand, B: Operand) -> Pair | None:
    """numpy.matmul, vectors included."""
    y = p.out(node)
    a, b = _as_matrix(p, A, True), _as_matrix(p, B, False)
    shape = list(y.shape)
    left, right = (softmax_axis(p, t) for t in node.inputs)
    if left is not None and A.rank == 1:  # a vector that stands as a row
        left = 1, left[1]
    if A.rank == 1:
        shape.insert(len(shape) - (0 if B.rank == 1 else 1), 1)
    if B.rank == 1:
        shape.append(1)
    pair = bilinear(
        p,
        a,
        b,
        lambda pair: matmul_pair(p, pair, b, tuple(shape), False, right),
        lambda pair: matmul_pair(p, pair, a, tuple(shape), True, left),
        Operand(
            p.emit.op("Reshape", y.t, p.emit.shape(shape), shape=tuple(shape)) if len(shape) != y.rank else y.t, None
        ),
    )
    if pair is None or len(shape) == y.rank:
        return pair
    ones_shape = [d for i, d in enumerate(pair.ones.shape) if not _added(i, len(shape), A.rank == 1, B.rank == 1)]
    return Pair(p.build.reshape(pair.value, y.shape), p.build.reshape(pair.ones, tuple(ones_shape)), pair.rank)


def _added(i: int, rank: int, row: bool, column: bool) -> bool:
    return (row and i == rank - 2) or (column and i == rank - 1)


def _as_matrix(p: Calculus, o: Operand, row: bool) -> Operand:
    """A vector operand as a row (left operand) or a column."""
    if o.rank != 1:
        return o
    shape: Shape = (1, o.shape[0]) if row else (o.shape[0], 1)
    t = p.emit.op("Unsqueeze", o.t, [0 if row else 1], shape=shape)
    if o.pair is None:
        return Operand(t, None)
    ones: Shape = (1, o.pair.ones.shape[0]) if row else (o.pair.ones.shape[0], 1)
    return Operand(t, Pair(p.build.reshape(o.pair.value, shape), p.build.reshape(o.pair.ones, ones), o.pair.rank))


@rule("Gemm")
def gemm(
    p: Calculus,
    node: Node,
    A: Operand,
    B: Operand,
    C: Operand | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Pair | None:
    """alpha A' B' + beta C: a product of two and a sum of two."""
    y = p.out(node)
    a, b = (_transposed(p, o) if flag else o for o, flag in ((A, transA), (B, transB)))
    product_value = p.emit.op("MatMul", a.t, b.t, shape=y.t.shape)
    left, right = (_turned(softmax_axis(p, node.input(i)), flag) for i, flag in ((0, transA), (1, transB)))
    pair = bilinear(
        p,
        a,
        b,
        lambda pair: matmul_pair(p, pair, b, y.shape, False, right),
        lambda pair: matmul_pair(p, pair, a, y.shape, True, left),
        Operand(product_value, None),
    )
    if alpha != 1.0:
        product_value = p.emit.op("Mul", product_value, alpha)
        if pair is not None:
            pair = Pair(p.build.scale(pair.value, alpha), pair.ones, pair.rank)
    if C is None or beta == 0.0:
        return pair
    if C.pair is not None:
        C = Operand(C.t, Pair(p.build.scale(C.pair.value, beta), C.pair.ones, C.pair.rank))
    elif beta != 1.0:
        C = Operand(p.emit.op("Mul", C.t, beta), None)
    result = total(p, [(Operand(product_value, pair), 1.0), (C, 1.0)], y)
    return None if result is None else Pair(result.value, result.ones)


def _turned(softmax: tuple[int, bool] | None, flag: int) -> tuple[int, bool] | None:
    return (1 - softmax[0], softmax[1]) if softmax is not None and flag else softmax


def _transposed(p: Calculus, o: Operand) -> Operand:
    t = p.emit.op("Transpose", o.t, perm=[1, 0], shape=(o.shape[1], o.shape[0]))
    if o.pair is None:
        return Operand(t, None)
    return Operand(t, Pair(p.build.permute(o.pair.value, [1, 0]), p.build.permute(o.pair.ones, [1, 0]), o.pair.rank))
