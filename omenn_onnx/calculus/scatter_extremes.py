"""ScatterElements and ScatterND that keep the largest, or the smallest, of what meets at a place.

As Max and Min of the entry of data and all updates of the place: the winners in equal shares, a constant that wins is
constant * o. Ones: the winners' ones in the same shares, shared among the winning carriers; where only constants win,
those of the carrying data, or the mean of all updates' ones.
"""

from __future__ import annotations

from omenn_onnx.calculus.base import Calculus, Operand, Pair
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var


def scatter_extreme(p: Calculus, y: Tensor, data: Operand, rows: Tensor, updates: Operand, depth: int) -> Pair:
    """``rows`` are the places of the updates along the first ``depth`` axes of ``data`` as one."""
    e, b = p.emit, p.build
    front, rest = data.shape[:depth], data.shape[depth:]
    full: Shape = (e.new_size(front), *rest)
    many: Shape = (e.new_size(updates.shape[: updates.rank - len(rest)]), *rest)
    flat = e.op("Reshape", rows, [-1], shape=many[:1])
    places = e.op("Expand", e.op("Reshape", flat, [-1, *[1] * len(rest)]), e.shape(many), shape=many)

    def lines(t: Tensor, shape: Shape) -> Tensor:
        return e.op("Reshape", t, e.shape(shape), shape=shape)

    def read(t: Tensor) -> Tensor:
        return e.op("Gather", t, flat, axis=0, shape=many)

    def placed(v: Var) -> Var:
        return b.apply(lp.ScatterAdd(0, flat), [v], full)

    best = lines(e.cast(y), full)
    own = e.cast(e.op("Equal", lines(data.t, full), best))
    new = e.cast(e.op("Equal", lines(updates.t, many), read(best)))
    added = e.scatter_add(places, new, 0, full)
    share = e.op("Reciprocal", e.op("Add", own, added, shape=full), shape=full)
    values: list[Var] = []
    if data.pair is not None:
        values.append(b.scale(b.reshape(data.pair.value, full), e.op("Mul", own, share, shape=full)))
    if updates.pair is not None:
        values.append(placed(b.scale(b.reshape(updates.pair.value, many), e.op("Mul", new, read(share), shape=many))))
    value = b.add(values, full)
    if updates.pair is None:
        assert data.pair is not None
        ones, constants = b.reshape(b.broadcast(data.pair.ones, data.shape), full), added
    else:
        o = updates.pair.ones
        carrying = added if data.pair is None else e.op("Add", own, added, shape=full)
        weight = e.op("Reciprocal", e.op("Max", carrying, 1.0), shape=full)
        wide = b.reshape(b.broadcast(o, updates.shape), many)
        terms = [placed(b.scale(wide, e.op("Mul", new, read(weight), shape=many)))]
        if data.pair is not None:
            base = b.reshape(b.broadcast(data.pair.ones, data.shape), full)
            terms.append(b.scale(base, e.op("Mul", own, weight, shape=full)))
        else:
            mean = b.reshape(b.mean(o, range(o.rank)), (1,) * len(full))
            terms.append(b.select(b.broadcast(mean, full), e.op("Equal", added, 0.0)))
        ones, constants = b.add(terms, full), own
    if data.pair is None or updates.pair is None:
        won = e.op("Mul", constants, share, shape=full)
        rest_value = e.op("Where", e.op("Greater", won, 0.0), e.op("Mul", best, won, shape=full), 0.0, shape=full)
        value = p.bias(value, rest_value, ones, full)
    rank = min(o.pair.rank for o in (data, updates) if o.pair is not None)
    return Pair(b.reshape(value, data.shape), b.reshape(ones, data.shape), rank)
