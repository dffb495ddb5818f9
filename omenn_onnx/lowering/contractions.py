"""MatMul and Einsum."""

from __future__ import annotations

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation
from omenn_onnx.lowering.base import MERGED, Lowered, Lowering, lowers


def swapped(low: Lowering, w: Tensor) -> Tensor:
    """The matrix transposed; ONNX Runtime fuses it into the product, or folds it when the weight is constant."""
    rank = w.rank
    if rank is None:
        raise AssertionError(f"weight {w.name!r} has no known rank")
    assert w.shape is not None
    shape = (*w.shape[:-2], w.shape[-1], w.shape[-2])
    return low.emit.op("Transpose", w, perm=[*range(rank - 2), rank - 1, rank - 2], shape=shape)


def known_weight(low: Lowering, w: Tensor) -> Tensor:
    """Computed weights count as 0 where they are not finite, as all coefficients do; stored ones are finite."""
    return w if w.load is not None else low.emit.finite(w)


def stored(low: Lowering, p: lp.MatMul) -> tuple[Tensor, bool]:
    """The matrix of a product and whether it is used transposed; where the model turns a stored one (a classifier that
    shares its matrix with an embedding), that one: the runtime then keeps no second copy for us."""
    node = p.weight.producer
    source = node.inputs[0] if node is not None and node.op == "Transpose" and p.weight.rank == 2 else None
    if source is None or not source.const or source.rank != 2 or source.dtype != low.emit.dtype:
        return known_weight(low, p.weight), p.transposed
    assert node is not None
    turned = list(node.attrs.get("perm", [1, 0])) == [1, 0]
    return known_weight(low, source), p.transposed != turned


@lowers(lp.MatMul)
def matmul(low: Lowering, p: lp.MatMul, e: Equation) -> Lowered:
    x, (weight, transposed) = e.inputs[0], stored(low, p)
    if weight.rank == 2:
        tensor = low.full(x, [-2 if p.left else -1])
        dims = low[x].dims
    else:
        tensor = low.full(x)
        dims = x.shape
    dims = (*dims[:-2], e.out.shape[-2], dims[-1]) if p.left else (*dims[:-1], e.out.shape[-1])
    if not p.left and weight.rank == 2 and x.rank == 2 and low.lead is None:
        return Lowered(low.emit.op("Gemm", tensor, weight, transB=int(transposed), shape=dims), dims)
    whole = low.dims(dims)
    stays = not p.left and transposed and weight.const and weight.rank == 2 and low.lead is None
    if stays and sum(isinstance(d, str) for d in whole) < 2:
        # Rows as one axis: Gemm takes the stored matrix as it is, and the runtime turns no copy of it at load (ViT-B/16
        # starts in .38 instead of .5 s). With several targets MatMul is some 3 % faster.
        flat = low.reshape(tensor, low.dims((*low[x].dims[:-1], x.shape[-1])), (MERGED, x.shape[-1]))
        y = low.emit.op("Gemm", flat, weight, transB=1, shape=(MERGED, dims[-1]))
        return Lowered(low.reshape(y, (MERGED, dims[-1]), whole), dims)
    w = swapped(low, weight) if transposed else weight
    operands = (w, tensor) if p.left else (tensor, w)
    return Lowered(low.emit.op("MatMul", *operands, shape=low.dims(dims)), dims)


@lowers(lp.Einsum)
def einsum(low: Lowering, p: lp.Einsum, e: Equation) -> Lowered:
    x, shape = low.full(e.inputs[0]), e.out.shape
    lead = ""
    if low.lead is not None:
        used = set(p.x_labels + p.w_labels + p.out_labels)
        lead = next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in used)
    equation = f"{lead}{p.x_labels},{p.w_labels}->{lead}{p.out_labels}"
    weight = known_weight(low, p.weight)
    return Lowered(low.emit.op("Einsum", x, weight, equation=equation, shape=low.dims(shape)), shape)
