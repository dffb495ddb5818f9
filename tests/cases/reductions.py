"""Reductions, norms, Softmax as a carrier, running sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, case, floats, i0, ints, pos, w


def reductions() -> Iterator[Case]:
    for kind in "Sum Mean L1 L2 SumSquare LogSum LogSumExp Prod Max Min".split():
        op = f"Reduce{kind}"
        draw = "positive" if kind == "LogSum" else "mixed"
        x = {"x": (2, 3, 4), "draw": draw}
        yield case(f"{op}-all", f"y = {op} (x)", dyn="nab", **x)
        yield case(f"{op}-last", f"y = {op} (x, a)", a=ints(-1), dyn="nab", **x)
        yield case(f"{op}-two", f"y = {op} <keepdims=0> (x, a)", a=ints(0, -1), dyn="nab", **x)
        yield case(f"{op}-dropped", f"y = {op} <keepdims=0> (x, a)", a=ints(1), dyn="nab", **x)
        yield case(f"{op}-to-a-scalar", f"y = {op} <keepdims=0> (x)", dyn="nab", **x)
        yield case(f"{op}-attribute", f"y = {op} <axes=[-1, 0], keepdims=0> (x)", opset=9 if kind != "Sum" else 11, **x)
        yield case(
            f"{op}-inside", f"t = Transpose (x); m = {op} (t, a); y = Mul (t, m)", a=ints(1), x=(3, 4), draw=draw
        )
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"):
        text = f"y = {op} <noop_with_empty_axes=1> (x, a)"
        if op in ("ReduceSum", "ReduceMean"):
            yield case(f"{op}-noop", text, a=np.zeros(0, np.int64), x=(2, 3))
    for op in ("ReduceMax", "ReduceMin", "ReduceProd"):
        yield case(f"{op}-ties", f"y = {op} (x, a)", draw="ties", a=ints(1), x=(3, 7), dyn="ab")
    zero = "z = Mul (x, c); y = ReduceL2 (z, a)"
    yield case("ReduceL2-of-0", zero, x=(3, 4), c=F32(0) * w(3, 1) + np.array([[0], [1], [1]], F32), a=ints(1))
    yield case(
        "ReduceLogSumExp-masked",
        "z = Add (x, c); y = ReduceLogSumExp (z, a)",
        x=(3, 4),
        c=floats(0, 0, -np.inf, 0),
        a=ints(1),
        dyn="a.",
    )
    yield case("ReduceLogSumExp-far", "y = ReduceLogSumExp (x, a)", draw="large", x=(3, 7), a=ints(1))
    yield case("ReduceProd-no-zeros", "y = ReduceProd (x, a)", draw="nonzero", x=(3, 4), a=ints(1))
    yield case("ReduceMax-20", "y = ReduceMax (x)", opset=20, x=(2, 3))
    yield case("ReduceMean-13", "y = ReduceMean <axes=[1]> (x)", opset=13, x=(2, 3, 4))
    yield case("ReduceSum-13", "y = ReduceSum (x, a)", opset=13, a=ints(1), x=(2, 3, 4))
    for k in range(4):
        attrs = f"exclusive={k % 2}, reverse={k // 2}"
        yield case(f"CumSum-{attrs}", f"y = CumSum <{attrs}> (x, a)", x=(2, 5), a=i0(1), dyn="ab", channel=0)
        yield case(f"CumSum-front-{attrs}", f"y = CumSum <{attrs}> (x, a)", x=(4, 2, 3), a=i0(-3), dyn="abc")
    yield case("CumSum-11", "y = CumSum (x, a)", opset=11, x=(2, 5), a=i0(-1))


def norms() -> Iterator[Case]:
    four = {"s": w(4), "b": w(4, seed=1), "m": w(4, seed=2), "v": pos(4, seed=3)}
    batch = "y = BatchNormalization (x, s, b, m, v)"
    yield case("BatchNormalization", batch, x=(2, 4, 3, 2), dyn="n.hk", **four)
    yield case("BatchNormalization-2d", batch, x=(3, 4), dyn="n.", **four)
    yield case("BatchNormalization-1d-maps", batch, x=(2, 4, 3), dyn="n.h", **four)
    yield case(
        "BatchNormalization-epsilon", "y = BatchNormalization <epsilon=0.1> (x, s, b, m, v)", x=(2, 4, 3), **four
    )
    yield case(
        "BatchNormalization-training",
        "y, rm, rv = BatchNormalization <training_mode=1> (x, s, b, m, v)",
        x=(2, 4, 3),
        dyn="n.h",
        **four,
    )
    for opset in (7, 9, 14):
        yield case(f"BatchNormalization-{opset}", batch, opset=opset, x=(2, 4, 3), **four)
    yield case(
        "LayerNormalization", "y = LayerNormalization (x, s, b)", x=(2, 3, 4), s=four["s"], b=four["b"], dyn="nt."
    )
    yield case("LayerNormalization-no-bias", "y = LayerNormalization (x, s)", x=(2, 3, 4), s=four["s"], dyn="nt.")
    yield case(
        "LayerNormalization-axis",
        "y = LayerNormalization <axis=1, epsilon=0.01> (x, s)",
        x=(2, 3, 4),
        s=w(3, 4),
        dyn="n..",
    )
    yield case(
        "LayerNormalization-axis-negative", "y = LayerNormalization <axis=-2> (x, s)", x=(2, 3, 4), s=w(4), dyn="n.."
    )
    yield case(
        "LayerNormalization-constant-row",
        "z = Mul (x, c); y = LayerNormalization (z, s, b)",
        x=(2, 4),
        c=np.array([[0], [1]], F32),
        s=four["s"],
        b=four["b"],
    )
    yield case(
        "LayerNormalization-inside",
        "h = Relu (x); n = LayerNormalization (h, s, b); a = Add (n, x); y = Tanh (a)",
        x=(2, 3, 4),
        s=four["s"],
        b=four["b"],
        dyn="nt.",
    )
    instance = "y = InstanceNormalization (x, s, b)"
    yield case("InstanceNormalization", instance, x=(2, 4, 3, 2), s=four["s"], b=four["b"], dyn="n.hk")
    yield case("InstanceNormalization-1d-maps", instance, x=(2, 4, 3), s=four["s"], b=four["b"], dyn="n.h")
    yield case("InstanceNormalization-7", instance, opset=7, x=(2, 4, 3), s=four["s"], b=four["b"])
    group = "g = GroupNormalization <num_groups=2> (x, s, b); y = Add (x, g)"
    yield case("GroupNormalization-18", group, opset=18, x=(2, 4, 3), s=w(2), b=w(2, seed=1), dyn="n.h", declared="g")
    yield case("GroupNormalization-21", group, opset=21, x=(2, 4, 3), s=four["s"], b=four["b"], dyn="n.h", declared="g")
    yield case("GroupNormalization-18-square", group, opset=18, x=(2, 2, 3), s=w(2), b=w(2, seed=1), declared="g")
    yield case(
        "GroupNormalization-21-2d-maps",
        group,
        opset=21,
        x=(2, 4, 3, 2),
        s=four["s"],
        b=four["b"],
        dyn="n.hk",
        declared="g",
    )
    many = "g = GroupNormalization <num_groups=4, epsilon=0.01> (x, s, b); y = Add (g, x)"
    yield case("GroupNormalization-21-each", many, opset=21, x=(2, 4, 3), s=four["s"], b=four["b"], declared="g")
    one = "g = GroupNormalization <num_groups=1> (x, s, b); y = Add (g, x)"
    yield case(
        "GroupNormalization-21-one", one, opset=21, x=(2, 4, 3), s=four["s"], b=four["b"], dyn="n.h", declared="g"
    )
    rms = "y = RMSNormalization (x, s)"
    yield case("RMSNormalization", rms, opset=23, x=(2, 3, 4), s=four["s"], dyn="nt.")
    yield case(
        "SimplifiedLayerNormalization",
        "g = SimplifiedLayerNormalization (x, s); y = Add (g, x)",
        x=(2, 3, 4),
        s=four["s"],
        dyn="nt.",
        declared="g",
        same_as="g = RMSNormalization (x, s); y = Add (g, x)",
        same_opset=23,
    )
    yield case(
        "RMSNormalization-axis", "y = RMSNormalization <axis=1, epsilon=0.1> (x, s)", opset=23, x=(2, 3, 4), s=w(3, 4)
    )
    yield case(
        "RMSNormalization-decomposed",
        """q = Pow (x, two); m = ReduceMean (q, a); e = Add (m, eps); r = Sqrt (e)
        i = Reciprocal (r); n = Mul (x, i); y = Mul (n, s)""",
        x=(2, 3, 4),
        two=F32(2),
        a=ints(-1),
        eps=F32(1e-5),
        s=four["s"],
        dyn="nt.",
    )
    for p in (1, 2):
        yield case(f"LpNormalization-{p}", f"y = LpNormalization <p={p}, axis=1> (x)", x=(2, 3, 4), dyn="nab")
        yield case(f"LpNormalization-{p}-last", f"y = LpNormalization <p={p}> (x)", x=(3, 4), dyn="ab")
    yield case("LpNormalization-of-0", "z = Mul (x, c); y = LpNormalization (z)", x=(2, 4), c=np.array([[0], [1]], F32))
    for size in (1, 3, 5):
        lrn = f"y = LRN <size={size}, alpha=0.5, beta=0.6, bias=1.5> (x)"
        yield case(f"LRN-{size}", lrn, x=(2, 5, 2, 2), dyn="n.hk")
    yield case("LRN-default", "y = LRN <size=3> (x)", opset=13, x=(1, 4, 3, 2))
    yield case(
        "MeanVarianceNormalization",
        "g = MeanVarianceNormalization (x); y = Add (x, g)",
        x=(2, 3, 4, 2),
        dyn="n.hk",
        declared="g",
    )
    yield case(
        "GroupNormalization-undeclared",
        group.split(";")[0].replace("g =", "y ="),
        opset=21,
        x=(2, 4, 3),
        s=four["s"],
        b=four["b"],
    )
    yield case(
        "MeanVarianceNormalization-axes",
        "y = MeanVarianceNormalization <axes=[1, 2]> (x)",
        opset=13,
        x=(2, 3, 4),
        dyn="n..",
    )


def softmaxes() -> Iterator[Case]:
    for op in ("Softmax", "LogSoftmax"):
        yield case(op, f"y = {op} (x)", x=(2, 3, 4), dyn="nab")
        yield case(f"{op}-axis", f"y = {op} <axis=1> (x)", x=(2, 3, 4), dyn="nab")
        yield case(f"{op}-front", f"y = {op} <axis=-3> (x)", x=(2, 3, 4), dyn="nab")
        yield case(f"{op}-far", f"y = {op} (x)", draw="large", x=(3, 7))
        yield case(f"{op}-very-far", f"z = Mul (x, c); y = {op} (z)", draw="large", x=(3, 7), c=F32(20))
        yield case(f"{op}-ties", f"y = {op} (x)", draw="ties", x=(3, 7))
        for opset in (7, 11):
            yield case(f"{op}-{opset}", f"y = {op} <axis=1> (x)", opset=opset, x=(2, 3, 4))
        yield case(f"{op}-{opset}-middle", f"y = {op} <axis=2> (x)", opset=11, x=(2, 3, 2, 2))
    mask = floats(0, 0, -np.inf, 0)
    yield case("Softmax-masked", "z = Add (x, c); y = Softmax (z)", x=(2, 3, 4), c=mask, dyn="na.")
    yield case(
        "Softmax-masked-finite", "z = Add (x, c); y = Softmax (z)", x=(2, 3, 4), c=floats(0, -1e9, 0, -3e38), dyn="na."
    )
    yield case(
        "Softmax-masked-by-Where",
        "z = Where (k, x, c); y = Softmax (z)",
        x=(2, 4),
        k=np.array([True, True, False, True]),
        c=F32(-np.inf),
    )
    yield case("Softmax-temperature", "z = Div (x, t); p = Softmax (z); y = Mul (p, x)", x=(2, 4), t=F32(0.3), dyn="ab")


CASES = [*reductions(), *norms(), *softmaxes()]
