"""Where, Max, Min, Concat, Pad: which of several tensors shows."""

from __future__ import annotations

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import positive, where
from omenn_onnx.calculus.products import times
from omenn_onnx.calculus.shape_ops import along, arange
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear.build import join_shapes
from omenn_onnx.linear.program import Var


@rule("Where")
def where_(p: Calculus, node: Node, condition: Operand, A: Operand, B: Operand) -> Pair | None:
    """The operand that is selected; a constant one is constant * o, with the carrier's ones."""
    return chosen(p, condition, A, B, p.out(node))


def chosen(p: Calculus, condition: Operand, A: Operand, B: Operand, y: Operand) -> Pair | None:
    """A where the condition holds, else B."""
    e = p.emit
    other = e.op("Not", condition.t)
    if A.pair is not None and B.pair is not None:
        value = p.build.add(
            [p.build.select(A.pair.value, condition.t, y.shape), p.build.select(B.pair.value, other, y.shape)], y.shape
        )
        ones = A.pair.ones
        if ones is not B.pair.ones:
            parts = [p.to_rank(o, y.rank) for o in (A.pair.ones, B.pair.ones)]
            joint = join_shapes([*(o.shape for o in parts), condition.shape], y.shape)
            ones = p.build.add(
                [p.build.select(parts[0], condition.t, joint), p.build.select(parts[1], other, joint)], joint
            )
        return Pair(value, p.to_rank(ones, y.rank), min(A.pair.rank, B.pair.rank))
    carrier, constant, mask = (A, B, condition.t) if A.pair is not None else (B, A, other)
    if carrier.pair is None:
        return None
    ones = p.to_rank(carrier.pair.ones, y.rank)
    value = p.build.select(carrier.pair.value, mask, y.shape)
    if constant.value is None or constant.value.any():
        value = p.bias(value, where(e, mask, 0.0, constant.t), ones, y.shape)
    return Pair(value, ones, carrier.pair.rank)


@rule("PRelu")
def prelu(p: Calculus, node: Node, X: Operand, slope: Operand) -> Pair | None:
    """W = 1 where x > 0, else the slope; a slope that depends on the input: Where(x < 0, slope x, x)."""
    y = p.out(node)
    if slope.pair is None:
        if X.pair is None:
            return None
        w = where(p.emit, positive(p.emit, X.t), 1.0, slope.t)
        return Pair(p.build.scale(X.pair.value, w, y.shape), p.to_rank(X.pair.ones, y.rank))
    product = Operand(p.emit.op("Mul", slope.t, X.t, shape=y.shape), None)
    product.pair = times(p, slope, X, product)
    below = Operand(p.emit.op("Less", X.t, 0.0), None)
    pair = chosen(p, below, product, X, y)
    return None if pair is None else Pair(pair.value, pair.ones)


@rule("Max", "Min")
def extremum(p: Calculus, node: Node, *operands: Operand) -> Pair | None:
    """The winners in equal shares; a constant that wins is constant * o; ones in the same shares among the carriers."""
    y = p.out(node)
    e = p.emit
    carriers = [o for o in operands if o.pair is not None]
    if not carriers:
        return None
    if len(operands) == 1:
        return operands[0].pair
    best = y.t
    if node.outputs[0].dtype != e.dtype:  # a runtime may keep the operands of a half unrounded
        best = e.op(node.op, *[o.t for o in operands], shape=y.shape)
    won = [e.op("Equal", o.t, best, shape=y.shape) for o in operands]
    flags = [e.cast(w) for w in won]
    count = e.op("Max", e.op("Sum", *flags, shape=y.shape), 1.0)  # (0 where y is NaN)
    shares = [e.op("Div", f, count, shape=y.shape) for f in flags]
    carried = [(o, o.pair, f, s) for o, f, s in zip(operands, flags, shares, strict=True) if o.pair is not None]
    value = p.build.add([p.build.scale(pair.value, s, y.shape) for _, pair, _, s in carried], y.shape)
    ones = p.to_rank(carried[0][1].ones, y.rank)
    if any(pair.ones is not carried[0][1].ones for _, pair, _, _ in carried):
        among = e.op("Sum", *[f for _, _, f, _ in carried], shape=y.shape)
        nobody = e.op("Equal", among, 0.0)
        terms = []
        for _, pair, f, _ in carried:
            share = where(e, nobody, 1.0 / len(carried), e.op("Div", f, among, shape=y.shape))
            terms.append(p.build.scale(p.to_rank(pair.ones, y.rank), share, y.shape))
        ones = p.build.add(terms, y.shape)
    for o, w, s in zip(operands, won, shares, strict=True):
        if o.pair is None:
            value = p.bias(value, where(e, w, e.op("Mul", s, o.t, shape=y.shape), 0.0), ones, y.shape)
    return Pair(value, ones, min(pair.rank for _, pair, _, _ in carried))


@rule("Concat")
def concat(p: Calculus, node: Node, *operands: Operand, axis: int) -> Pair | None:
    """Joined; a constant part is constant * o with the mean, along the axis, of all carriers' ones."""
    y = p.out(node)
    axis %= y.rank
    operands = tuple(o for o in operands if o.shape[axis] != 0)
    carriers = [(o, o.pair) for o in operands if o.pair is not None]
    if not carriers:
        return None
    rank = min(pair.rank for _, pair in carriers)
    first = carriers[0][1].ones
    uniform = first.shape[axis] == 1 and all(pair.ones is first for _, pair in carriers)
    outer = join_shapes([pair.ones.shape for _, pair in carriers])
    mean = first if uniform else _mean_along(p, carriers, axis, outer)
    values, ones = [], []
    for o in operands:
        part = outer if uniform else tuple(o.shape[axis] if i == axis else d for i, d in enumerate(outer))
        stream = p.build.broadcast(mean if o.pair is None else o.pair.ones, part)
        ones.append(stream)
        if o.pair is None:
            values.append(p.bias(None, o.t, mean, o.shape))
        else:
            values.append(o.pair.value)
    joined = first if uniform else p.build.concat(ones, axis, (*outer[:axis], y.shape[axis], *outer[axis + 1 :]))
    return Pair(p.build.concat(values, axis, y.shape), joined, rank)


def _mean_along(p: Calculus, carriers: list, axis: int, outer: Shape) -> Var:  # type: ignore[type-arg]
    """The mean along the axis of all carriers' ones, longer parts weighing more."""
    target = tuple(1 if i == axis else d for i, d in enumerate(outer))
    sums, sizes = [], []
    for o, pair in carriers:
        wide = tuple(o.shape[axis] if i == axis else d for i, d in enumerate(outer))
        sums.append(p.build.sum_to(p.build.broadcast(pair.ones, wide), target))
        sizes.append(o.shape[axis])
    whole = p.build.add(sums, target)
    if all(isinstance(n, int) for n in sizes):
        return p.build.scale(whole, 1.0 / sum(n for n in sizes if isinstance(n, int)))
    count = p.emit.op("ReduceSum", p.emit.shape(sizes), keepdims=0, shape=())
    return p.build.scale(whole, p.emit.op("Reciprocal", p.emit.cast(count)))


@rule("Pad")
def pad(
    p: Calculus,
    node: Node,
    X: Operand,
    pads: Operand,
    constant_value: Operand | None = None,
    axes: Operand | None = None,
    *,
    mode: str = "constant",
) -> Pair | None:
    """Constant: the padded value, c * o on the pad, ones by edge replication. Other modes: the same on both streams."""
    if X.pair is None:
        raise OutsideCalculus("its padding value depends on the explained input")
    if constant_value is not None and constant_value.pair is not None:
        raise OutsideCalculus("its padding value depends on the explained input")
    y = p.out(node)
    amounts = [int(a) for a in p.number(pads, "pads").reshape(-1)]
    which = p.number(axes, "axes")
    listed = list(range(X.rank)) if which is None else [int(a) % X.rank for a in which.reshape(-1)]
    around = {a: (amounts[i], amounts[i + len(listed)]) for i, a in enumerate(listed)}
    around = {a: ends for a, ends in around.items() if ends != (0, 0)}
    value, ones = X.pair.value, X.pair.ones
    replicate = "edge" if mode == "constant" else mode
    for a, ends in around.items():
        if mode != "constant":
            value = _by_index(p, value, a, ends, mode, y.shape[a])
        if ones.shape[a] != 1:
            ones = _by_index(p, ones, a, ends, replicate, y.shape[a])
    if mode == "constant":
        value = _pad_zeros(p, value, around, y.shape)
        c = None if constant_value is None else constant_value
        if c is not None and (c.value is None or c.value.any()):
            zeros = p.emit.op("Expand", 0.0, p.emit.shape(X.shape), shape=X.shape)
            edges = [around.get(a, (0, 0))[end] for end in (0, 1) for a in range(X.rank)]
            frame = p.emit.op("Pad", zeros, edges, c.t, shape=y.shape, mode="constant")
            value = p.bias(value, frame, ones, y.shape)
    return Pair(value, ones, X.pair.rank)


def _by_index(p: Calculus, v: Var, axis: int, ends: tuple[int, int], mode: str, size: Dim) -> Var:
    """The padding as a gather: ONNX's own Pad, run on the positions, tells which element stands where."""
    indices = p.emit.op("Pad", arange(p, v.shape[axis]), list(ends), mode=mode, shape=(size,))
    return p.build.gather(v, axis, indices, size)


def _pad_zeros(p: Calculus, v: Var, around: dict[int, tuple[int, int]], shape: Shape) -> Var:
    for a, (before, behind) in around.items():
        if before < 0 or behind < 0:
            d = v.shape[a]
            cut = min(before, 0) + min(behind, 0)
            kept: Dim = d + cut if isinstance(d, int) else p.emit.derived_dim(d, cut)
            v = along(p, v, a, max(-before, 0), kept)
    begin: list[Dim | Tensor] = [max(around.get(i, (0, 0))[0], 0) for i in range(v.rank)]
    return p.build.embed(v, begin, shape)


@rule("Trilu")
def trilu(p: Calculus, node: Node, X: Operand, k: Operand | None = None, *, upper: int = 1) -> Pair | None:
    """Times a 0/1 constant."""
    if X.pair is None:
        return None
    plane = X.shape[-2:]
    ones = p.emit.op("Expand", 1.0, p.emit.shape(plane), shape=plane)
    kept = p.emit.op("Greater", p.emit.op("Trilu", ones, None if k is None else k.t, upper=upper, shape=plane), 0.0)
    return Pair(p.build.select(X.pair.value, kept), X.pair.ones, X.pair.rank)
