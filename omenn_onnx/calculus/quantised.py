"""Quantisers. Integers that they make are carriers: the value stream of an integer tensor is the integer itself.

QuantizeLinear gives y = sat(round(x / s) + z). With u = x / s and lo <= y <= hi the range of the integer type,

    secant:   W = clip(u, lo - z, hi - z) / (u s)     tangent:  W = [lo - z < u <= hi - z] / s

and the bias y - W x: the rounding residual and the zero point (in the tangent rules what is cut off too). |u| <= 1e-5
counts as x = 0, where W is the left derivative: 1 / s, or 0 where the range begins at 0 (a ReLU by saturation).
DequantizeLinear gives (x - z) s. Scales and zero points are weights, those that are computed from x too.
"""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import where
from omenn_onnx.calculus.shape_ops import arange
from omenn_onnx.graph.ir import Node, Shape, Tensor

_SMALL = 1e-5
_MOVES = frozenset("MaxPool Reshape Slice Squeeze Transpose Unsqueeze".split())
_BITS = {"2": 2, "4": 4, "8": 8, "16": 16}


def integer_range(t: Tensor) -> tuple[float, float]:
    """The least and the largest number of a quantised type."""
    name = "" if t.dtype is None else t.dtype.name
    kind, _, bits = name.partition("int")
    if kind not in ("", "u") or bits not in _BITS:
        raise OutsideCalculus(
            f"it quantises to {name or 'a type that is not known'}, not to an integer of 2 to 16 bits"
        )
    half = 2.0 ** (_BITS[bits] - 1)
    return (0.0, 2 * half - 1) if kind == "u" else (-half, half - 1)


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain="com.microsoft")
def quantize_linear(
    p: Calculus,
    node: Node,
    X: Operand,
    scale: Operand,
    zero: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> Pair | None:
    if X.pair is None:
        return None
    s, z = (None if o is None else _spread(p, o, X, axis, block_size) for o in (scale, zero))
    assert s is not None
    return quantised(p, node, _apart(p, X, node.inputs[0]), s, z, node.input(2))


def _apart(p: Calculus, X: Operand, t: Tensor | None) -> Operand:
    """X, computed anew where it is a DequantizeLinear of int8 that was moved. From opset 21 on ONNX Runtime (1.31) puts
    quantisers between those moves, takes int8 for uint8 there, and refuses the file, unless X is read here alone."""
    moves = []
    node = None if t is None else t.producer
    while node is not None and node.op in _MOVES and node.inputs[0] is not None:
        moves.append(node)
        node = node.inputs[0].producer
    source = node.inputs[0] if node is not None and node.op == "DequantizeLinear" else None
    if p.graph.opset < 21 or not moves or source is None or source.dtype != np.int8:
        return X
    start = moves[-1].inputs[0]
    assert start is not None
    y = p.emit.op("Sum", start, shape=start.shape)
    for move in reversed(moves):
        y = p.emit.op(move.op, y, *move.inputs[1:], shape=move.outputs[0].shape, **move.attrs)
    return Operand(p.emit.cast(y), X.pair)


def quantised(p: Calculus, node: Node, X: Operand, s: Tensor, z: Tensor | None, zero: Tensor | None) -> Pair | None:
    """The pair of the first output, X quantised by a scale and a zero point that broadcast to it (``zero`` as the model
    has it). The zero point is added last: a DequantizeLinear that takes it off again takes what is in front of it, so
    that no large numbers cancel."""
    if X.pair is None:
        return None
    e, y = p.emit, p.out(node)
    low, high = integer_range(node.outputs[0])
    u = e.op("Div", X.t, s, shape=X.shape)
    bottom = e.const(np.asarray(low, e.dtype)) if z is None else e.op("Sub", low, z, shape=z.shape)
    top = e.const(np.asarray(high, e.dtype)) if z is None else e.op("Sub", high, z, shape=z.shape)
    if p.tangent:
        gate = _inside(p, u, bottom, top)
    else:
        gate = e.op("Div", e.op("Min", e.op("Max", u, bottom, shape=X.shape), top, shape=X.shape), u, shape=X.shape)
    still = e.op("LessOrEqual", e.op("Abs", u, shape=X.shape), _SMALL, shape=X.shape)
    origin = _inside(p, e.const(np.zeros((), e.dtype)), bottom, top)
    gate = e.op("Where", still, origin, gate, dtype=e.dtype, shape=X.shape)
    value = p.build.scale(X.pair.value, e.op("Div", gate, s, shape=X.shape))
    whole = y.t if z is None else e.op("Sub", y.t, z, shape=X.shape)
    rest = e.op("Sub", whole, e.op("Mul", gate, u, shape=X.shape), shape=X.shape)
    value = p.bias(value, rest, X.pair.ones, X.shape)
    if z is None or zero is None or _is_zero(zero):
        return Pair(value, X.pair.ones, X.pair.rank)
    shifted = p.bias(value, z, X.pair.ones, X.shape)
    p.centred[shifted] = value, zero
    return Pair(shifted, X.pair.ones, X.pair.rank)


def _is_zero(zero: Tensor) -> bool:
    return zero.value is not None and not zero.value.astype(np.float64).any()


def _inside(p: Calculus, u: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """1 where bottom < u <= top: the left derivative of the clipping."""
    e = p.emit
    shape = u.shape if u.rank else bottom.shape
    inside = e.op("And", e.op("Greater", u, bottom, shape=shape), e.op("LessOrEqual", u, top, shape=shape), shape=shape)
    return where(e, inside, 1.0, 0.0)


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    p: Calculus,
    node: Node,
    X: Operand,
    scale: Operand,
    zero: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> Pair | None:
    """(v - z o) s."""
    if X.pair is None:
        return None
    t = node.inputs[0]
    if t is not None and t.dtype is not None and t.dtype.name != "int32":
        integer_range(t)
    s, z = (None if o is None else _spread(p, o, X, axis, block_size) for o in (scale, zero))
    assert s is not None
    taken = node.input(2)
    if z is None or taken is None or _is_zero(taken):
        return Pair(p.build.scale(X.pair.value, s, X.shape), X.pair.ones, X.pair.rank)
    centred, added = p.centred.get(X.pair.value, (None, None))
    if centred is not None and added is not None and _same(added, taken):
        return Pair(p.build.scale(centred, s, X.shape), X.pair.ones, X.pair.rank)
    shift = p.emit.op("Neg", p.emit.op("Mul", z, s, shape=_join(z, s)), shape=_join(z, s))
    value = p.bias(p.build.scale(X.pair.value, s, X.shape), shift, X.pair.ones, X.shape)
    return Pair(value, X.pair.ones, X.pair.rank)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two zero points are one tensor or equal constants."""
    if a is b:
        return True
    return a.value is not None and b.value is not None and a.shape == b.shape and bool((a.value == b.value).all())


def _join(z: Tensor, s: Tensor) -> Shape | None:
    return s.shape if z.rank == 0 else z.shape if s.rank == 0 else s.shape


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(p: Calculus, node: Node, X: Operand) -> list[Pair | None]:
    """QuantizeLinear with the scale and the zero point that it gives itself; both are weights."""
    s, z = (p.emit.cast(t) for t in node.outputs[1:3])
    return [quantised(p, node, X, s, z, node.outputs[2]), None, None]


@rule("Settled", domain="omenn")
def settled(p: Calculus, node: Node, X: Operand, *, exact: int = 0) -> Pair | None:
    """The end of a decomposition X. Where the kernel is not ``exact``, what its output differs by goes to the bias."""
    if X.pair is None or exact:
        return X.pair
    residual = p.emit.op("Sub", p.out(node).t, X.t, shape=X.shape)
    return Pair(p.bias(X.pair.value, residual, X.pair.ones, X.shape), X.pair.ones, X.pair.rank)


def _spread(p: Calculus, o: Operand, X: Operand, axis: int, block: int) -> Tensor:
    """A scale or a zero point in the explanation's type, so that it broadcasts to X: one number, one for each place
    along an axis, or one for each block along it."""
    e = p.emit
    t = e.cast(o.t)
    shape = o.shape
    if len(shape) == 0:
        return t
    if len(shape) == 1 and (shape[0] == 1 or X.rank == 0):
        return e.op("Reshape", t, np.zeros(0, np.int64), shape=())
    axis %= X.rank
    if block:
        places = e.op("Div", arange(p, X.shape[axis]), np.asarray(block, np.int64), shape=(X.shape[axis],))
        wide = tuple(d if i == axis else n for i, (d, n) in enumerate(zip(X.shape, shape, strict=True)))
        return e.op("Gather", t, places, axis=axis, shape=wide)
    if len(shape) != 1:
        raise OutsideCalculus("its scale has neither one number nor one for each place along its axis")
    behind = X.rank - 1 - axis
    return e.op("Reshape", t, [-1, *[1] * behind], shape=(*shape, *[1] * behind)) if behind else t
