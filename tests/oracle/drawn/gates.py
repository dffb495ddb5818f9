"""Gates of every rank, and what keeps a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from .core import Graph, T, Unfit


def gate(g: Graph) -> T:
    """A carrier of rank 1 to 4."""
    x = g.any()
    kind = g.pick(
        "Sigmoid", "Tanh", "Erf", "HardSigmoid", "Softsign", "Atan", "Clip", "Softmax", "Softmax", "Exp", "Reciprocal",
        "Pow", "Div", "written sigmoid", "written softmax", "clip chain",
    )  # fmt: skip
    if kind == "Clip":
        return g.op(kind, x, g.constant(-0.7), g.constant(g.pick(0.9, 0.0, 1.4)))
    if kind == "Softmax":
        return g.op(kind, x, axis=g.axis(x) - (x.rank if g.flag() else 0))
    if kind == "Exp":
        return g.op(kind, g.op("Mul", x, g.constant(0.3)))
    if kind in ("Reciprocal", "Pow", "Div"):
        above = g.op("Add", g.op(g.pick("Softplus", "Abs", "Exp"), g.op("Mul", x, g.constant(0.4))), g.constant(0.6))
        if kind == "Pow":
            return g.op(kind, above, g.constant(g.pick(-1.0, -0.5, -2.0)))
        return g.op("Div", g.small(x), above) if kind == "Div" else g.op(kind, above)
    if kind == "written sigmoid":
        e = g.op("Exp", g.op("Neg", x))
        t = g.op("Add", *g.pick((e, g.constant(1.0)), (g.constant(1.0), e)))
        return g.pick(
            lambda: g.op("Reciprocal", t), lambda: g.op("Div", g.constant(1.0), t), lambda: g.op("Div", g.small(x), t)
        )()
    if kind == "written softmax":
        axes = g.ints(g.axis(x))
        d = g.op("Sub", x, g.op("ReduceMax", x, axes)) if g.flag() else x
        e = g.op("Exp", d)
        s = g.op("ReduceSum", e, axes)
        return g.op("Div", e, s) if g.flag() else g.op("Mul", e, g.op("Reciprocal", s))
    if kind == "clip chain":
        for _ in range(g.integer(2, 3)):
            kind = g.pick("Relu", "Clip", "Max", "Min")
            c = g.constant(g.pick(-0.5, 0.3, 1.1))
            if kind == "Relu":
                x = g.op(kind, x)
            elif kind == "Clip":
                x = g.op(kind, x, *g.pick((c,), ("", c), (g.constant(-0.9), c)))
            else:
                x = g.op(kind, *g.pick((x, c), (c, x)))
        return x
    return g.op(kind, x)


def keeps(g: Graph) -> T:
    x = g.any()
    kind = g.pick(
        "Add", "Sub", "Mul", "Div", "BatchNormalization", "Pow", "Cast", "Identity", "Dropout", "Neg", "Relu", "Clip",
        "Max", "Min", "Where", "Where", "Concat", "Pad", "TopK", "ScatterElements", "quantised", "MaxPool",
        "AveragePool", "Resize", "RMSNorm", "LpNormalization", "LRN", "weighted", "Trilu",
    )  # fmt: skip
    if kind in ("Add", "Sub", "Mul", "Max", "Min"):
        c = g.small(x)
        return g.op(kind, *g.pick((x, c), (c, x)))
    if kind == "Div":
        return g.op(kind, x, g.constant(g.pick(2.0, -0.7, 3.0)))
    if kind == "BatchNormalization":
        if x.rank < 2:
            raise Unfit
        c = x.shape[1]
        v = g.constant(g.random.uniform(0.4, 2, c))
        return g.op(kind, x, g.weight(c), g.weight(c), g.weight(c), v)
    if kind == "Pow":
        return g.op(kind, g.op("Abs", x) if g.flag() else x, g.constant(g.pick(2.0, 3.0, 1.0)))
    if kind == "Cast":
        return g.op(kind, g.op(kind, x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    if kind == "Clip":
        return g.op(kind, x, *g.pick((g.constant(-0.2),), ("", g.constant(0.4))))
    if kind == "Where":
        return where(g, x, g.small(x) if g.flag(0.7) else g.like(x))
    if kind == "Concat":
        return concat(g)
    if kind == "Pad":
        return pad(g, x)
    if kind == "TopK":
        a = g.axis(x)
        values, _ = g.op(kind, x, g.ints(g.integer(1, x.shape[a])), axis=a, largest=int(g.flag()), outputs=2)
        return values
    if kind == "ScatterElements":
        return scatter(g, x)
    if kind == "quantised":
        return quantised(g, x)
    if kind in ("MaxPool", "AveragePool"):
        return pool(g, kind)
    if kind == "Resize":
        return resize(g)
    if kind == "RMSNorm":
        q = g.op("ReduceMean", g.op("Mul", x, x), g.ints(x.rank - 1)) if x.rank > 1 else g.op("Abs", x)
        r = g.op("Sqrt", g.op("Add", q, g.constant(0.1)))
        return g.op("Div", x, r)
    if kind == "LpNormalization":
        return g.op(kind, x, axis=g.axis(x), p=g.pick(1, 2))
    if kind == "LRN":
        if x.rank < 3:
            raise Unfit
        return g.op(kind, x, size=3, alpha=0.4, beta=0.6, bias=1.0)
    if kind == "weighted":
        y = g.like(x)
        w = g.op("Sign", y) if g.flag() else g.op("Cast", g.op("Greater", y, g.constant(0.1)), to=TensorProto.FLOAT)
        return g.op("Mul", *g.pick((x, w), (w, x)))
    if kind == "Trilu":
        return g.op(kind, x, upper=int(g.flag()))
    return g.op(kind, x)


def where(g: Graph, x: T, other: T | str) -> T:
    y = g.like(x)
    if g.flag(0.4):
        mask: Any = g.constant(g.random.integers(0, 2, x.shape[1:] if g.dynamic else x.shape).astype(bool))
    else:
        mask = g.op(g.pick("Greater", "LessOrEqual"), y, g.constant(0.2))
    return g.op("Where", mask, *g.pick((x, other), (other, x)))


def concat(g: Graph) -> T:
    """Carriers and constants of several lengths."""
    x = g.any()
    a = g.axis(x)
    parts: list[Any] = [x]
    fitting = [t for t in g.found if t.rank == x.rank and all(i == a or t.shape[i] == d for i, d in enumerate(x.shape))]
    for _ in range(g.integer(1, 2)):
        constant = g.flag() and not (g.dynamic and True)
        shape = (*x.shape[:a], g.integer(1, 2), *x.shape[a + 1 :])
        parts.append(g.weight(*shape) if constant else g.pick(*fitting))
    g.random.shuffle(parts)
    return g.op("Concat", *parts, axis=a)


def pad(g: Graph, x: T) -> T:
    mode = g.pick("constant", "reflect", "edge", "wrap")
    most = [0 if (g.dynamic and i == 0) else min(2, d - 1) if mode == "reflect" else 2 for i, d in enumerate(x.shape)]
    widths = [g.integer(-1 if d > 2 and i >= g.first_axis() and g.flag(0.3) else 0, m)
              for i, (d, m) in enumerate(zip(x.shape * 2, most * 2, strict=True))]  # fmt: skip
    if mode != "constant":
        widths = [max(0, w) for w in widths]
    if g.dynamic:
        widths[0] = widths[x.rank] = 0
    value = [g.constant(g.pick(0.4, 0.0, -1.0))] if mode == "constant" and g.flag() else []
    return g.op("Pad", x, g.ints(*widths), *value, mode=mode)


def scatter(g: Graph, x: T) -> T:
    """Carrier or constant, data or updates, replacing or adding; no place twice unless it adds."""
    if g.dynamic:
        raise Unfit
    a, n = g.axis(x), x.shape
    count = g.integer(1, n[a])
    add = g.flag()
    rows = [g.random.permutation(n[a])[:count] if not add else g.random.integers(0, n[a], count)]
    index = np.broadcast_to(np.array(rows[0]).reshape([-1 if i == a else 1 for i in range(x.rank)]),
                            (*n[:a], count, *n[a + 1 :])).copy()  # fmt: skip
    updates: Any = g.weight(*index.shape)
    fitting = [t for t in g.found if t.shape == index.shape]
    if fitting and g.flag(0.7):
        updates = g.pick(*fitting)
    data: Any = x if isinstance(updates, str) or g.flag(0.6) else g.weight(*n)
    return g.op("ScatterElements", data, g.constant(index), updates, axis=a, reduction="add" if add else "none")


def quantised(g: Graph, x: T) -> T:
    """There and back, by tensor or by axis, int8 or uint8, some of it saturating."""
    dtype: Any = g.pick(np.int8, np.uint8)
    by_axis = x.rank > 1 and g.flag(0.3)
    a = g.integer(g.first_axis(), x.rank - 1) if by_axis else 0
    n = x.shape[a] if by_axis else 1
    scale = g.random.uniform(0.01, 0.03, n)
    zero = g.random.integers(-20, 20, n).astype(np.int8) if dtype is np.int8 else g.random.integers(0, 200, n)
    shape: Any = (n,) if by_axis else ()
    s, z = g.constant(scale.reshape(shape)), g.constant(np.asarray(zero).reshape(shape), dtype)
    extra = {"axis": a} if by_axis else {}
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, s, z, **extra), s, z, **extra)


def pool(g: Graph, kind: str) -> T:
    x = g.any(3, 4)
    n = x.rank - 2
    kernel = [g.integer(1, min(3, d)) for d in x.shape[2:]]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [g.integer(1, 2) for _ in range(n)]}
    if g.flag():
        attributes["pads"] = [g.integer(0, k - 1) for k in kernel * 2]
    if kind == "AveragePool" and g.flag():
        attributes["count_include_pad"] = 1
    ends = attributes.get("pads", [0] * 2 * n)[n:]
    if g.flag(0.3) and all(s <= k - p for s, k, p in zip(attributes["strides"], kernel, ends, strict=True)):
        attributes["ceil_mode"] = 1  # (a last window behind the input is refused)
    return g.op(kind, x, **attributes)


def resize(g: Graph) -> T:
    x = g.any(3, 4)
    scales = [1.0, 1.0, *(g.pick(1.0, 2.0, 1.5) for _ in x.shape[2:])]
    mode, how = g.pick("nearest", "linear", "cubic"), g.pick("half_pixel", "align_corners", "asymmetric")
    if x.rank == 3 and mode == "cubic":
        mode = "linear"
    return g.op("Resize", x, "", g.constant(scales), mode=mode, coordinate_transformation_mode=how)
