"""Operators that move entries, and what ends a rank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .core import Array, Graph, T, Unfit
from .gates import pool


def shape_operator(g: Graph) -> T:
    x = g.any()
    kind = g.pick("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Expand", "Tile", "Gather",
                  "Flatten", "GatherElements",
                  "DepthToSpace", "Reverse", "CenterCropPad", "GatherND", "Compress")  # fmt: skip
    first = g.first_axis()
    if kind == "Reshape":
        size = math.prod(x.shape[first:])
        a = g.pick(*[d for d in range(1, size + 1) if size % d == 0])
        b = g.pick(*[d for d in range(1, size // a + 1) if (size // a) % d == 0])
        target = g.pick((size,), (a, size // a), (a, b, size // a // b), (-1, a))
        return g.op(kind, x, g.ints(*([0] * first), *target))
    if kind == "Transpose" and x.rank > first:
        return g.op(kind, x, perm=[*range(first), *(g.random.permutation(x.rank - first) + first).tolist()])
    a = g.axis(x)
    n = x.shape[a]
    if kind in ("Slice", "Reverse"):
        if kind == "Reverse":
            return g.op("Slice", x, g.ints(-1), g.ints(-(2**40)), g.ints(a), g.ints(-g.integer(1, 2)))
        return g.op("Slice", x, g.ints(g.integer(0, n - 1)), g.ints(2**40), g.ints(a), g.ints(g.integer(1, 2)))
    if kind == "Split":
        if n < 2:
            raise Unfit
        k = g.integer(1, n - 1)
        return g.op(kind, x, g.ints(k, n - k), axis=a, outputs=2)[g.integer(0, 1)]
    if kind == "Squeeze":
        if n != 1:
            raise Unfit
        return g.op(kind, x, g.ints(a))
    if kind == "Unsqueeze":
        return g.op(kind, x, g.ints(g.integer(first, x.rank)))
    if kind == "Expand":
        return g.op(kind, x, g.ints(*(1 if i < first else 2 if d == 1 else d for i, d in enumerate(x.shape))))
    if kind == "Tile":
        return g.op(kind, x, g.ints(*(1 if i < first else g.integer(1, 2) for i in range(x.rank))))
    if kind == "Gather":
        index = g.random.integers(-n, n, g.pick((), (1,), (3,), (2, 2)))
        return g.op(
            kind, x, g.constant(index.astype(np.int64) if isinstance(index, Array) else np.int64(index)), axis=a
        )
    if kind == "Flatten":
        return g.op(kind, x, axis=1 if g.dynamic else g.integer(0, x.rank))
    if kind == "GatherElements" and not g.dynamic:
        return g.op(kind, x, g.constant(g.random.integers(0, n, x.shape)), axis=a)
    if kind == "GatherND" and not g.dynamic:
        index = np.stack([g.random.integers(0, d, 3) for d in x.shape[: g.integer(1, x.rank)]], axis=-1)
        return g.op(kind, x, g.constant(index))
    if kind == "Compress":
        keep = g.random.integers(0, 2, n).astype(bool)
        return g.op(kind, x, g.constant(keep), axis=a)
    if kind == "DepthToSpace" and x.rank == 4:
        if x.shape[1] % 4 == 0:
            return g.op(kind, x, blocksize=2, mode=g.pick("DCR", "CRD"))
        return g.op("SpaceToDepth", x, blocksize=2)
    raise Unfit


def ends(g: Graph) -> T:
    x = g.any()
    kind = g.pick("MatMul", "MatMul", "Conv", "ConvTranspose", "Reduce", "Reduce", "LayerNormalization", "Sqrt",
                  "CumSum",
                  "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "GroupNormalization", "Floor", "Gemm",
                  "unary", "unary", "LogSoftmax", "LpPool", "PRelu", "MeanVarianceNormalization")  # fmt: skip
    if kind == "MatMul":
        if x.rank < 1:
            raise Unfit
        if x.rank > 2 and g.flag(0.3):
            return g.op(kind, g.weight(g.integer(1, 3), x.shape[-2]), x)
        if g.flag(0.15) and x.rank > first_of(g):
            return g.op(kind, x, g.weight(x.shape[-1]))
        return g.op(kind, x, g.weight(x.shape[-1], g.integer(1, 4), scale=x.shape[-1] ** -0.5))
    if kind == "Gemm":
        if x.rank != 2:
            raise Unfit
        m = g.integer(1, 4)
        c = [g.weight(*g.pick((m,), (1, m), ()))] if g.flag(0.7) else []
        return g.op(kind, x, g.weight(m, x.shape[1]), *c, transB=1, alpha=0.6, beta=1.4)
    if kind in ("Conv", "ConvTranspose"):
        return convolution(g, kind)
    if kind == "Reduce":
        return reduction(g, x)
    if kind == "LayerNormalization":
        a = max(1, g.axis(x)) if g.dynamic else g.axis(x)
        shape = x.shape[a:]
        bias = [g.weight(*shape)] if g.flag() else []
        return g.op(kind, x, g.weight(*shape), *bias, axis=a, epsilon=0.02)
    if kind == "Sqrt":
        return g.op(kind, g.op("Add", g.op("Abs", x), g.constant(0.3)))
    if kind == "CumSum":
        return g.op(kind, x, g.constant(np.int64(g.axis(x))), exclusive=int(g.flag(0.3)), reverse=int(g.flag()))
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return g.op(kind, g.any(3, 4))
    if kind in ("InstanceNormalization", "GroupNormalization"):
        x = g.any(3, 4)
        c = x.shape[1]
        extra = {"num_groups": g.pick(*[k for k in range(1, c + 1) if c % k == 0])} if kind[0] == "G" else {}
        return g.op(kind, x, g.weight(c), g.weight(c), epsilon=0.02, **extra)
    if kind in ("Floor",):
        return g.op(g.pick("Floor", "Ceil", "Round"), x)
    if kind == "unary":
        unary = "Gelu Softplus Elu LeakyRelu HardSwish Mish Abs Sin Cos Selu Celu ThresholdedRelu Sinh Shrink"
        return g.op(g.pick(*unary.split()), x)
    if kind == "LogSoftmax":
        return g.op(kind, x, axis=g.axis(x))
    if kind == "LpPool":
        return pool(g, kind)
    if kind == "PRelu":
        return g.op(kind, x, g.small(x))
    if x.rank != 4:
        raise Unfit
    return g.op(kind, x, axes=[2, 3])


def first_of(g: Graph) -> int:
    return 1 + g.first_axis()


def convolution(g: Graph, kind: str) -> T:
    x = g.any(3, 4)
    n, c = x.rank - 2, x.shape[1]
    group = c if c > 1 and g.flag(0.3) else 1
    m = group * g.integer(1, 2)
    kernel = [g.integer(1, min(3, d)) for d in x.shape[2:]]
    attributes: dict[str, Any] = {"strides": [g.integer(1, 2) for _ in range(n)], "group": group}
    if g.flag():
        attributes["pads"] = [g.integer(0, 2) for _ in kernel * 2]
    shape = (m, c // group, *kernel) if kind == "Conv" else (c, m // group, *kernel)
    bias = [g.weight(m)] if g.flag() else []
    if kind == "Conv" and g.flag(0.3):
        widths = [0, 0, *(g.integer(0, 1) for _ in kernel)] * 2
        x = g.op("Pad", x, g.ints(*widths))
    return g.op(kind, x, g.weight(*shape, scale=0.5), *bias, kernel_shape=kernel, **attributes)


def reduction(g: Graph, x: T) -> T:
    kind = g.pick(*"Mean Sum Max Min L1 L2 LogSumExp SumSquare Prod".split())
    a = sorted({g.axis(x), g.axis(x)} if g.flag() else {g.axis(x)})
    return g.op(f"Reduce{kind}", x, g.ints(*(i - x.rank if g.flag() else i for i in a)), keepdims=int(g.flag(0.7)))
