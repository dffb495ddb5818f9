"""ONNX Runtime's quantised elementwise operators, pools and joins: the float operator between quantisers."""

from __future__ import annotations

import numpy as np

from .elementwise import apply
from .moves import concat
from .pooling import average_pool
from .quantised import dequantise, number, requantised
from .reductions import reduce_mean, reduced_axes
from .softmax import softmax
from .stream import Node, Tensor, move, rule
from .sums import add, mul, where


def as_float(n: Node, q: Tensor, s: Tensor, z: Tensor | None) -> Tensor:
    return dequantise(n, q, number(s).reshape(()), number(z).reshape(()))


def by_float(op: str):
    """Register op(X, sx, zx, sy, zy) as its float operator between quantisers."""

    def register(f):
        @rule(op, domain="com.microsoft")
        def whole(n: Node, x: Tensor, sx: Tensor, zx: Tensor | None, sy: Tensor, zy: Tensor | None = None) -> Tensor:
            return requantised(n, f(n, as_float(n, x, sx, zx)), sy, zy)

        return f

    return register


@by_float("QLinearSigmoid")
def _sigmoid(n: Node, x: Tensor) -> Tensor:

    return apply(n, "Sigmoid", x)


@by_float("QLinearLeakyRelu")
def _leaky(n: Node, x: Tensor) -> Tensor:

    return apply(n, "LeakyRelu", x)


@by_float("QLinearSoftmax")
def _softmax(n: Node, x: Tensor) -> Tensor:

    axis = n.attrs.get("axis", -1)
    first = axis % x.ndim
    return softmax(n, x, (first,) if n.attrs.get("opset", 13) >= 13 else tuple(range(first, x.ndim)))


@by_float("QLinearGlobalAveragePool")
def _global_average(n: Node, x: Tensor) -> Tensor:

    last = bool(n.attrs.get("channels_last", 0))
    return reduce_mean(n, x, tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim)), True)


@by_float("QLinearAveragePool")
def _average(n: Node, x: Tensor) -> Tensor:

    if not n.attrs.get("channels_last", 0):
        return average_pool(n, x)
    return move(average_pool(n, move(x, lambda i: np.moveaxis(i, -1, 1))), lambda i: np.moveaxis(i, 1, -1))


@by_float("QLinearReduceMean")
def _reduce_mean(n: Node, x: Tensor) -> Tensor:

    return reduce_mean(n, x, reduced_axes(n, x, None), bool(n.attrs.get("keepdims", 1)))


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def qlinear_binary(
    n: Node, a: Tensor, sa: Tensor, za: Tensor | None, b: Tensor, sb: Tensor, zb: Tensor | None, sy: Tensor,
    zy: Tensor | None = None,
) -> Tensor:  # fmt: skip

    left, right = as_float(n, a, sa, za), as_float(n, b, sb, zb)
    return requantised(n, add(n, [left, right]) if n.op == "QLinearAdd" else mul(n, left, right), sy, zy)


@rule("QLinearConcat", domain="com.microsoft")
def qlinear_concat(n: Node, sy: Tensor, zy: Tensor, *parts: Tensor) -> Tensor:

    floats = [as_float(n, *parts[i : i + 3]) for i in range(0, len(parts), 3)]
    return requantised(n, concat(n, *floats), sy, zy)


@rule("QLinearWhere", domain="com.microsoft")
def qlinear_where(
    n: Node, condition: Tensor, a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor,
    zy: Tensor,
) -> Tensor:  # fmt: skip

    return requantised(n, where(n, condition.value, as_float(n, a, sa, za), as_float(n, b, sb, zb)), sy, zy)
