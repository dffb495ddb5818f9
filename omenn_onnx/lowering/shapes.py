"""Reshape, Permute, Slice, Embed, Concat."""

from __future__ import annotations

from collections.abc import Sequence

from omenn_onnx.graph.ir import Dim, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation
from omenn_onnx.lowering.base import Lowered, Lowering, lowers


@lowers(lp.Reshape)
def reshape(low: Lowering, p: lp.Reshape, e: Equation) -> Lowered:
    x, shape = e.inputs[0], e.out.shape
    kept = _aligned(x.shape, shape)
    compact = [i for i, d in enumerate(low[x].dims) if d != x.shape[i]]
    if compact and all(i in kept for i in compact):
        dims = low[x].dims
        target = tuple(1 if j in {kept[i] for i in compact} else d for j, d in enumerate(shape))
        return Lowered(low.reshape(low[x].tensor, low.dims(dims), low.dims(target)), target)
    return Lowered(low.reshape(low.full(x), low.dims(x.shape), low.dims(shape)), shape)


def _aligned(source: Sequence[Dim], target: Sequence[Dim]) -> dict[int, int]:
    """Axes that a reshape carries over whole: equal leading sizes, equal trailing sizes."""
    kept: dict[int, int] = {}
    front = 0
    while front < min(len(source), len(target)) and source[front] == target[front]:
        kept[front] = front
        front += 1
    back = 1
    while back <= min(len(source), len(target)) - front and source[-back] == target[-back]:
        kept[len(source) - back] = len(target) - back
        back += 1
    return kept


@lowers(lp.Permute)
def permute(low: Lowering, p: lp.Permute, e: Equation) -> Lowered:
    x = low[e.inputs[0]]
    shift = 0 if low.lead is None else 1
    perm = [*range(shift), *(i + shift for i in p.perm)]
    dims = tuple(x.dims[i] for i in p.perm)
    return Lowered(low.emit.op("Transpose", x.tensor, perm=perm, shape=low.dims(dims)), dims)


def _begin(low: Lowering, begin: Sequence[Dim | Tensor], axes: Sequence[int]) -> Tensor:
    return low.emit.shape([begin[i] for i in axes])


@lowers(lp.Slice)
def slice_(low: Lowering, p: lp.Slice, e: Equation) -> Lowered:
    x, shape = e.inputs[0], e.out.shape
    axes = [i for i in range(x.rank) if shape[i] != x.shape[i] or p.begin[i] != 0]
    tensor = low.full(x, axes)
    starts = _begin(low, p.begin, axes)
    sizes = low.emit.shape([shape[i] for i in axes])
    ends = low.emit.op("Add", starts, sizes, shape=(len(axes),))
    numbers = [p.begin[i] for i in axes], [shape[i] for i in axes]
    if all(isinstance(d, int) for part in numbers for d in part):
        ends = low.emit.shape(
            [a + b for a, b in zip(*numbers, strict=True) if isinstance(a, int) and isinstance(b, int)]
        )
    dims = tuple(shape[i] if i in axes else d for i, d in enumerate(low[x].dims))
    sliced = low.emit.op("Slice", tensor, starts, ends, [i - x.rank for i in axes], shape=low.dims(dims))
    return Lowered(sliced, dims)


@lowers(lp.Embed)
def embed(low: Lowering, p: lp.Embed, e: Equation) -> Lowered:
    x, shape = e.inputs[0], e.out.shape
    axes = [i for i in range(x.rank) if shape[i] != x.shape[i] or p.begin[i] != 0]
    tensor = low.full(x, axes)
    # Pads of all axes: ONNX Runtime's transpose optimiser misreads a Pad that names its axes.
    lead: list[Dim | Tensor] = [] if low.lead is None else [0]
    before, after = list(lead), list(lead)
    for i in range(x.rank):
        a, b, n = p.begin[i], x.shape[i], shape[i]
        if i not in axes:
            before.append(0)
            after.append(0)
            continue
        before.append(a)
        if isinstance(a, int) and isinstance(b, int) and isinstance(n, int):
            after.append(n - a - b)
        else:
            used = low.emit.op("Add", low.emit.shape([a]), low.emit.shape([b]), shape=(1,))
            after.append(low.emit.op("Sub", low.emit.shape([n]), used, shape=(1,)))
    pads = low.emit.shape([*before, *after])
    dims = tuple(shape[i] if i in axes else d for i, d in enumerate(low[x].dims))
    padded = low.emit.op("Pad", tensor, pads, 0.0, mode="constant", shape=low.dims(dims))
    return Lowered(padded, dims)


@lowers(lp.Concat)
def concat(low: Lowering, p: lp.Concat, e: Equation) -> Lowered:
    parts = [low.full(x) for x in e.inputs]
    joined = low.emit.op("Concat", *parts, axis=p.axis - e.out.rank, shape=low.dims(e.out.shape))
    return Lowered(joined, e.out.shape)
