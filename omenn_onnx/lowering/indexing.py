"""Gather, scatter, running sums."""

from __future__ import annotations

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation
from omenn_onnx.lowering.base import Lowered, Lowering, lowers


@lowers(lp.Gather)
def gather(low: Lowering, p: lp.Gather, e: Equation) -> Lowered:
    x = low.full(e.inputs[0], [p.axis])
    dims = list(low[e.inputs[0]].dims)
    dims[p.axis] = e.out.shape[p.axis]
    axis = p.axis + (0 if low.lead is None else 1)
    return Lowered(low.emit.op("Gather", x, p.indices, axis=axis, shape=low.dims(tuple(dims))), tuple(dims))


@lowers(lp.ScatterAdd)
def scatter_add(low: Lowering, p: lp.ScatterAdd, e: Equation) -> Lowered:
    x, shape = low.full(e.inputs[0]), e.out.shape
    behind = e.out.rank - 1 - p.axis
    places = low.emit.op("Reshape", p.indices, [-1, *[1] * behind])
    if low.lead is not None or e.out.rank > 1:
        places = low.emit.op("Expand", places, low.emit.shape(low.dims(e.inputs[0].shape)))
    return Lowered(low.emit.scatter_add(places, x, p.axis - e.out.rank, low.dims(shape)), shape)


def _led(low: Lowering, indices: Tensor, e: Equation) -> Tensor:
    if low.lead is None:
        return indices
    return low.emit.op("Expand", indices, low.emit.shape(low.dims((1,) * e.out.rank)))


@lowers(lp.GatherElements)
def gather_elements(low: Lowering, p: lp.GatherElements, e: Equation) -> Lowered:
    x, shape = low.full(e.inputs[0]), e.out.shape
    y = low.emit.op("GatherElements", x, _led(low, p.indices, e), axis=p.axis - e.out.rank, shape=low.dims(shape))
    return Lowered(y, shape)


@lowers(lp.ScatterElements)
def scatter_elements(low: Lowering, p: lp.ScatterElements, e: Equation) -> Lowered:
    x, shape = low.full(e.inputs[0]), e.out.shape
    return Lowered(low.emit.scatter_add(_led(low, p.indices, e), x, p.axis - e.out.rank, low.dims(shape)), shape)


@lowers(lp.CumSum)
def cumsum(low: Lowering, p: lp.CumSum, e: Equation) -> Lowered:
    x, shape = low.full(e.inputs[0]), e.out.shape
    axis = low.emit.op("Squeeze", [p.axis - e.out.rank], shape=())
    y = low.emit.op("CumSum", x, axis, exclusive=int(p.exclusive), reverse=int(p.reverse), shape=low.dims(shape))
    return Lowered(y, shape)
