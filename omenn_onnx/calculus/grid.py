"""GridSample: linear interpolation at the places of a grid, which is a weight."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import where
from omenn_onnx.calculus.indexing import gather_rows
from omenn_onnx.calculus.shape_ops import arange
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear.program import Var


@rule("GridSample")
def grid_sample(
    p: Calculus,
    node: Node,
    X: Operand,
    grid: Operand,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Pair | None:
    """Interpolation at the places of the grid, which is a weight; ones with zeros padding: with border padding."""
    if grid.pair is not None and (p.tangent or X.pair is None):
        raise OutsideCalculus("its grid depends on the explained input")
    if X.pair is None:
        return None
    y = p.out(node)
    value = _sample(p, X, X.pair.value, grid.t, align_corners, mode, padding_mode, y.shape)
    o = X.pair.ones
    if all(d == 1 for d in o.shape[2:]):
        return Pair(value, o)
    wide = p.build.broadcast(o, (*o.shape[:2], *X.shape[2:]))
    shape = (*o.shape[:2], *y.shape[2:])
    border = "border" if padding_mode == "zeros" else padding_mode
    return Pair(value, _sample(p, X, wide, grid.t, align_corners, mode, border, shape))


def _sample(p: Calculus, X: Operand, v: Var, grid: Tensor, align: int, mode: str, padding: str, shape: Shape) -> Var:
    """Sum over the taps of all axes of weight * gathered element."""
    n = v.rank - 2
    e = p.emit
    places = shape[2:]
    lines: Shape = (X.shape[0], *places)
    along_axes = []
    for i in range(n):
        column = e.op("Gather", grid, np.asarray(n - 1 - i, np.int64), axis=-1, shape=lines)
        along_axes.append(_taps(p, column, X.shape[2 + i], align, mode, padding))
    rows_last = p.build.permute(v, [0, *range(2, v.rank), 1])
    front = rows_last.shape[:-1]
    batch = e.op("Reshape", arange(p, X.shape[0]), [-1, *[1] * n], shape=(X.shape[0], *[1] * n))
    if v.shape[0] == 1 and X.shape[0] != 1:
        rows_last = p.build.broadcast(rows_last, (X.shape[0], *rows_last.shape[1:]))
        front = rows_last.shape[:-1]
    combined: list[tuple[Tensor, Tensor | None]] = [(batch, None)]
    for i, taps in enumerate(along_axes):
        size = e.dim(X.shape[2 + i])
        combined = [
            (
                e.op("Add", e.op("Mul", index, size), tap, shape=None),
                w if weight is None else e.op("Mul", weight, w, shape=lines),
            )
            for index, weight in combined
            for tap, w in taps
        ]
    terms = []
    channels = rows_last.shape[-1]
    for index, weight in combined:
        assert weight is not None
        picked = gather_rows(p, rows_last, index, front, (*lines, channels), within_rows=True)
        terms.append(p.build.scale(picked, e.op("Unsqueeze", weight, [-1], shape=(*lines, 1))))
    summed = p.build.add(terms)
    return p.build.permute(summed, [0, v.rank - 1, *range(1, v.rank - 1)])


def _taps(p: Calculus, place: Tensor, size: Dim, align: int, mode: str, padding: str) -> list[tuple[Tensor, Tensor]]:
    """(index, weight) of the elements along one axis that a normalised coordinate in [-1, 1] reads."""
    e = p.emit
    n = e.cast(e.op("Squeeze", e.dim(size), [0], shape=()))
    if align:
        x = e.op("Mul", e.op("Add", place, 1.0), e.op("Mul", e.op("Sub", n, 1.0), 0.5))
        low: Tensor | float = 0.0
        high = e.op("Sub", n, 1.0)
    else:
        x = e.op("Mul", e.op("Sub", e.op("Mul", e.op("Add", place, 1.0), n), 1.0), 0.5)
        low = -0.5
        high = e.op("Sub", n, 0.5)
    last = e.op("Sub", n, 1.0)
    if padding == "border" and mode != "cubic":
        x = e.op("Min", e.op("Max", x, 0.0), last)
    elif padding == "reflection" and mode != "cubic":
        x = e.op("Min", e.op("Max", _reflect(p, x, low, high), 0.0), last)
    if mode == "nearest":
        taps = [(e.op("Round", x), e.op("Add", e.op("Mul", x, 0.0), 1.0))]
    else:
        floor = e.op("Floor", x)
        t = e.op("Sub", x, floor)
        if mode == "linear":
            taps = [(floor, e.op("Sub", 1.0, t)), (e.op("Add", floor, 1.0), t)]
        else:
            taps = [(e.op("Add", floor, float(k)), _cubic(p, t, k)) for k in (-1, 0, 1, 2)]
    result = []
    for index, weight in taps:
        if padding == "reflection" and mode == "cubic":
            index = _reflect(p, index, low, high)
        inside = e.op("And", e.op("GreaterOrEqual", index, 0.0), e.op("LessOrEqual", index, last))
        if padding == "zeros":
            weight = where(e, inside, weight, 0.0)
        kept = e.op("Min", e.op("Max", index, 0.0), last)
        result.append((e.cast(kept, np.dtype(np.int64)), weight))
    return result


def _reflect(p: Calculus, x: Tensor, low: Tensor | float, high: Tensor) -> Tensor:
    """x folded back into [low, high]."""
    e = p.emit
    span = e.op("Sub", high, low)
    away = e.op("Abs", e.op("Sub", x, low))
    double = e.op("Mul", span, 2.0)
    safe = e.op("Max", double, 1e-30)
    rest = e.op("Sub", away, e.op("Mul", e.op("Floor", e.op("Div", away, safe)), double))
    return e.op("Add", e.op("Min", rest, e.op("Sub", double, rest)), low)


def _cubic(p: Calculus, t: Tensor, k: int) -> Tensor:
    """Cubic convolution with A = -0.75 at distance |t - k|."""
    e, a = p.emit, -0.75
    d = e.op("Abs", e.op("Sub", t, float(k)))
    if k in (0, 1):
        inner = e.op("Sub", e.op("Mul", d, a + 2.0), a + 3.0)
        return e.op("Add", e.op("Mul", e.op("Mul", inner, d), d), 1.0)
    inner = e.op("Sub", e.op("Mul", d, a), 5.0 * a)
    return e.op("Sub", e.op("Mul", e.op("Add", e.op("Mul", inner, d), 8.0 * a), d), 4.0 * a)
