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
from omenn_onnx.graph.ir import Node, Tensor

_SMALL = 1e-5
_BITS = {"2": 2, "4": 4, "8": 8, "16": 16}


def integer_range(t: Tensor) -> tuple[float, float]:
    """The least and the largest number of a quantised type."""
    name = "" if t.dtype is None else t.dtype.name
    kind, _, bits = name.partition("int")
    if kind not in ("", "u") or bits not in _BITS:
        raise OutsideCalculus(f"it quantises to {name or 'a type that is not known'}, not to an integer of 2 to 16 bits")
    half = 2.0 ** (_BITS[bits] - 1)
    return (0.0, 2 * half - 1) if kind == "u" else (-half, half - 1)


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain="com.microsoft")
def quantize_linear(
    p: Calculus, node: Node, X: Operand, scale: Operand, zero: Operand | None = None, *, axis: int = 1, block_size: int = 0
) -> Pair | None:
    if X.pair is None:
        return None
    s, z = (None if o is None else _spread(p, o, X, axis, block_size) for o in (scale, zero))
    assert s is not None
    return quantised(p, node, X, s, z)


def quantised(p: Calculus, node: Node, X: Operand, s: Tensor, z: Tensor | None) -> Pair | None:
    """The pair of the first output, X quantised by a scale and a zero point that broadcast to it."""
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
    rest = e.op("Sub", y.t, e.op("Mul", gate, u, shape=X.shape), shape=X.shape)
    return Pair(p.bias(value, rest, X.pair.ones, X.shape), X.pair.ones, X.pair.rank)


def _inside(p: Calculus, u: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """1 where bottom < u <= top: the left derivative of the clipping."""
    e = p.emit
    shape = u.shape if u.rank else bottom.shape
    inside = e.op(
        "And", e.op("Greater", u, bottom, shape=shape), e.op("LessOrEqual", u, top, shape=shape), shape=shape
    )
    return where(e, inside, 1.0, 0.0)


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    p: Calculus, node: Node, X: Operand, scale: Operand, zero: Operand | None = None, *, axis: int = 1, block_size: int = 0
) -> Pair | None:
    """(v - z o) s."""
    if X.pair is None:
        return None
    t = node.inputs[0]
    if t is not None and t.dtype is not None and t.dtype.name != "int32":
        integer_range(t)
    s, z = (None if o is None else _spread(p, o, X, axis, block_size) for o in (scale, zero))
    assert s is not None
    value = p.build.scale(X.pair.value, s, X.shape)
    if zero is not None and z is not None and (zero.value is None or zero.value.astype(np.float64).any()):
        shift = p.emit.op("Neg", p.emit.op("Mul", z, s, shape=s.shape), shape=s.shape)
        value = p.bias(value, shift, X.pair.ones, X.shape)
    return Pair(value, X.pair.ones, X.pair.rank)


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(p: Calculus, node: Node, X: Operand) -> list[Pair | None]:
    """QuantizeLinear with the scale and the zero point that it gives itself; both are weights."""
    s, z = (p.emit.cast(t) for t in node.outputs[1:3])
    return [quantised(p, node, X, s, z), None, None]


@rule("Settled", domain="omenn")
def settled(p: Calculus, node: Node, X: Operand, *, exact: int = 0) -> Pair | None:
    """The end of a decomposition X. Where the kernel is not ``exact``, what its own output differs by goes to the bias."""
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
