"""A seed with a single one in each row needs no product: the row of the classifier's matrix is looked up."""

from __future__ import annotations

from collections.abc import Sequence

from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.lowering.base import Lowered, Lowering
from omenn_onnx.lowering.contractions import stored


def look_up(low: Lowering, equations: Sequence[Equation], seed: Var, places: Tensor) -> list[Equation]:
    """Bind what contracts ``seed`` [N, classes] with a matrix or a vector to the rows at ``places`` [K?, N]; the
    equations that are left."""
    alike = {seed}  # the seed in other shapes, classes last
    summed: dict[Var, Tensor] = {}
    left: list[Equation] = []
    classes = seed.shape[-1]
    for e in equations:
        p, x = e.primitive, e.inputs[0] if e.inputs else None
        if x not in alike and x not in summed:
            left.append(e)
        elif isinstance(p, lp.Reshape) and x in alike and [d for d in e.out.shape if d != 1] == [
            d for d in seed.shape if d != 1
        ] and e.out.shape[-1] == classes != 1:  # fmt: skip
            alike.add(e.out)
            left.append(e)
        elif isinstance(p, lp.MatMul) and x in alike and not p.left and p.weight.rank == 2:
            table, transposed = stored(low, p)
            _bind(low, e, table, places, e.out.shape[-1:], int(transposed))
        elif isinstance(p, lp.Scale) and x in alike and p.coefficient.shape == (classes,):
            summed[e.out] = low.emit.finite(p.coefficient)
            left.append(e)
        elif isinstance(p, lp.Sum) and x in summed and e.out.shape == (*x.shape[:-1], 1):
            _bind(low, e, summed[x], places, (), 0)
        else:
            left.append(e)
    return left


def _bind(low: Lowering, e: Equation, table: Tensor, places: Tensor, row: Shape, axis: int) -> None:
    """The rows, or columns, of ``table`` at ``places``: columns are picked before they are turned, few as they are."""
    assert places.shape is not None
    rank = len(places.shape)
    shape = (*row, *places.shape) if axis else (*places.shape, *row)
    picked = low.emit.op("Gather", table, places, axis=axis, shape=shape)
    if axis:
        picked = low.emit.op("Transpose", picked, perm=[*range(1, rank + 1), 0], shape=(*places.shape, *row))
    low.bind(e.out, Lowered(low.reshape(picked, (*places.shape, *row), low.dims(e.out.shape)), e.out.shape))
