"""Canonical forms (decomposed against whole), opaque operators, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, i0, ints, pos, w

C = {
    "one": F32(1),
    "zero": F32(0),
    "minus": F32(-1),
    "two": F32(2),
    "six": F32(6),
    "half": F32(0.5),
    "low": F32(-0.5),
    "a": ints(-1),
}


def form(name: str, nodes: str, whole: str, **kw: object) -> Case:
    """``nodes`` are recognised as ``whole``."""
    shape = kw.pop("x", (3, 5))
    dyn = kw.pop("dyn", "ab")
    return case(f"form-{name}", nodes, same_as=whole, x=shape, dyn=dyn, **{**C, **kw})


def forms() -> Iterator[Case]:
    s = "h = Neg (x); e = Exp (h); d = Add (e, one); "
    sigmoid = "y = Sigmoid (x)"
    yield form("sigmoid", s + "y = Div (one, d)", sigmoid)
    yield form("sigmoid-reciprocal", s + "y = Reciprocal (d)", sigmoid)
    yield form("sigmoid-one-first", s.replace("(e, one)", "(one, e)") + "y = Reciprocal (d)", sigmoid)
    yield form("sigmoid-times-minus-one", s.replace("Neg (x)", "Mul (x, minus)") + "y = Reciprocal (d)", sigmoid)
    yield form("sigmoid-numerator", s + "y = Div (two, d)", "g = Sigmoid (x); y = Mul (two, g)")
    yield form("sigmoid-numerator-vector", s + "y = Div (c, d)", "g = Sigmoid (x); y = Mul (c, g)", c=w(5), dyn="a.")
    yield form(
        "sigmoid-without-minus", "e = Exp (x); d = Add (e, one); y = Div (one, d)", "h = Neg (x); y = Sigmoid (h)"
    )
    yield form("silu", s + "g = Div (one, d); y = Mul (x, g)", "g = Sigmoid (x); y = Mul (x, g)")
    yield form("silu-as-quotient", s + "y = Div (x, d)", "g = Sigmoid (x); y = Mul (x, g)")
    yield form("log-sigmoid", "g = Sigmoid (x); y = Log (g)", "h = Neg (x); g = Softplus (h); y = Neg (g)")
    yield form(
        "log-sigmoid-decomposed", s + "g = Reciprocal (d); y = Log (g)", "h = Neg (x); g = Softplus (h); y = Neg (g)"
    )
    yield form("softplus", "e = Exp (x); d = Add (e, one); y = Log (d)", "y = Softplus (x)")
    yield form("softplus-one-first", "e = Exp (x); d = Add (one, e); y = Log (d)", "y = Softplus (x)")
    yield form("log-softmax", "p = Softmax (x); y = Log (p)", "y = LogSoftmax (x)")
    yield form(
        "log-softmax-axis",
        "p = Softmax <axis=1> (x); y = Log (p)",
        "y = LogSoftmax <axis=1> (x)",
        x=(2, 3, 4),
        dyn="nab",
    )
    e = "m = ReduceMax (x, a); u = Sub (x, m); e = Exp (u); t = ReduceSum (e, a); "
    yield form("softmax", e + "y = Div (e, t)", "y = Softmax (x)")
    yield form("softmax-no-max", "e = Exp (x); t = ReduceSum (e, a); y = Div (e, t)", "y = Softmax (x)")
    yield form("softmax-reciprocal", e + "r = Reciprocal (t); y = Mul (e, r)", "y = Softmax (x)")
    yield form("softmax-reciprocal-first", e + "r = Reciprocal (t); y = Mul (r, e)", "y = Softmax (x)")
    yield form("softmax-axis", e + "y = Div (e, t)", "y = Softmax <axis=1> (x)", x=(2, 3, 4), dyn="nab", a=ints(1))
    yield form(
        "softmax-11",
        "m = ReduceMax <axes=[-1]> (x); u = Sub (x, m); e = Exp (u); t = ReduceSum <axes=[-1]> (e); y = Div (e, t)",
        "y = Softmax (x)",
        opset=11,
        same_opset=13,
    )
    yield form("log-softmax-decomposed", e + "p = Div (e, t); y = Log (p)", "y = LogSoftmax (x)")
    yield form(
        "softmax-attention",
        e + "p = Div (e, t); y = MatMul (p, v)",
        "p = Softmax (x); y = MatMul (p, v)",
        v=w(5, 2),
        dyn="a.",
    )
    both = "k = Softmax (x); y = MatMul (k, z)"
    yield form("softmax-as-weight", e + "k = Div (e, t); y = MatMul (k, z)", both, z=(5, 2), channel=0, dyn={"x": "a."})
    lse = e + "l = Log (t); y = Add (m, l)"
    yield form("log-sum-exp", lse, "y = ReduceLogSumExp (x, a)")
    yield form("log-sum-exp-first", lse.replace("(m, l)", "(l, m)"), "y = ReduceLogSumExp (x, a)")
    dropped = (
        e.replace("t = ReduceSum", "t = ReduceSum <keepdims=0>") + "l = Log (t); q = Squeeze (m, a); y = Add (l, q)"
    )
    yield form("log-sum-exp-dropped", dropped, "y = ReduceLogSumExp <keepdims=0> (x, a)")
    yield form("relu6", "r = Relu (x); y = Min (r, six)", "y = Clip (x, zero, six)")
    yield form("relu-by-max", "y = Max (x, zero)", "y = Clip (x, zero)")
    yield form("relu-by-max-first", "y = Max (zero, x)", "y = Clip (x, zero)")
    yield form(
        "clip-chain",
        "p = Max (x, low); q = Min (p, half); r = Relu (q); y = Clip (r, , one)",
        "y = Clip (x, zero, half)",
    )
    yield form("clip-of-clip", "p = Clip (x, low, one); y = Clip (p, zero, two)", "y = Clip (x, zero, one)")
    yield form("clip-crossed", "p = Clip (x, one, two); y = Clip (p, zero, half)", "y = Clip (x, half, half)")
    yield form("min-single", "y = Min (x, low)", "y = Clip (x, , low)")
    yield form(
        "hardsigmoid-by-clip",
        "h = Add (x, one); c = Clip (h, zero, two); g = Div (c, two); y = Mul (x, g)",
        "h = Add (x, one); c = Clip (h, zero, two); g = Mul (c, half); y = Mul (x, g)",
    )
    conv = {"x": (1, 2, 4, 5), "w": w(3, 2, 3, 3), "b": w(3), "dyn": "n.hk"}
    yield form(
        "padded-conv",
        "h = Pad (x, p); y = Conv (h, w, b)",
        "y = Conv <pads=[1, 0, 2, 1]> (x, w, b)",
        p=ints(0, 0, 1, 0, 0, 0, 2, 1),
        **conv,
    )
    yield form(
        "padded-conv-axes",
        "h = Pad (x, p, zero, v); y = Conv <pads=[1, 1, 1, 1], strides=[2, 2]> (h, w, b)",
        "y = Conv <pads=[2, 1, 3, 2], strides=[2, 2]> (x, w, b)",
        p=ints(1, 0, 2, 1),
        v=ints(2, 3),
        **conv,
    )
    padded = "h = Pad (x, p); y = Conv (h, w, b)"
    yield form(
        "padded-channels-are-no-padding",
        padded,
        padded,
        x=(1, 2, 4, 5),
        w=w(3, 3, 2, 2),
        b=w(3),
        p=ints(0, 1, 0, 0, 0, 0, 0, 0),
        dyn="n.hk",
    )
    guard = "p = Softmax (x); n = IsNaN (p); g = Where (n, zero, p); y = MatMul (g, z)"
    yield form(
        "nan-guard",
        guard,
        "p = Softmax (x); y = MatMul (p, z)",
        z=(5, 2),
        channel=0,
        dyn={"x": "a."},
        covers=("NaNGuard",),
    )
    yield form(
        "nan-guard-cast",
        guard.replace("n = IsNaN (p)", "c = Cast <to=1> (p); n = IsNaN (c)").replace("zero, p", "zero, c"),
        "p = Softmax (x); c = Cast <to=1> (p); y = MatMul (c, z)",
        z=(5, 2),
        channel=0,
        dyn={"x": "a."},
    )
    masked = "k = Where (q, x, inf); " + guard.replace("Softmax (x)", "Softmax (k)")
    yield form(
        "nan-guard-partly-masked",
        masked,
        masked,
        z=(5, 2),
        channel=0,
        dyn={},
        inf=F32(-np.inf),
        q=np.array([[True] * 5, [False] * 4 + [True], [True, False] * 2 + [True]]),
    )
    # the parts of a form that are also read elsewhere keep their own rule there
    yield form(
        "shared-parts",
        s + "g = Reciprocal (d); y = Add (g, e)",
        "h = Neg (x); e = Exp (h); g = Sigmoid (x); y = Add (g, e)",
    )
    fused = "g = GroupNormalization <num_groups=2> (x, s, b); y = Add (x, g)"
    split = """v = Reshape (x, r); i = InstanceNormalization (v, o, z0); u = Reshape (i, k); m = Mul (u, s2)
        g = Add (m, b2)
        y = Add (x, g)"""
    scale, shift = w(4), w(4, seed=1)
    yield case(
        "form-group-norm-by-instance-norm",
        split,
        same_as=fused,
        same_opset=21,
        x=(2, 4, 3),
        r=ints(0, 2, -1),
        k=ints(2, 4, 3),
        o=np.ones(2, F32),
        z0=np.zeros(2, F32),
        s=scale,
        b=shift,
        s2=scale[:, None],
        b2=shift[:, None],
    )
    norm = """m = ReduceMean (x, a); c = Sub (x, m); q = Mul (c, c); v = ReduceMean (q, a); e = Add (v, eps)
        r = Sqrt (e)
        n = Div (c, r); t = Mul (n, s); y = Add (t, b)"""
    whole = "y = LayerNormalization (x, s, b)"
    norms = {"s": pos(4), "b": w(4), "eps": F32(1e-5), "a": ints(-1), "x": (2, 3, 4), "same_as": whole}
    yield case("form-layer-norm", norm, rules=("secant",), dyn="nt.", **norms)
    for name, nodes in (
        ("gelu", "d = Mul (x, k); e = Erf (d); f = Add (e, one); g = Mul (x, f); y = Mul (g, half)"),
        ("gelu-half-inside", "d = Mul (x, k); e = Erf (d); f = Add (e, one); g = Mul (f, half); y = Mul (x, g)"),
    ):
        yield form(name, nodes, "y = Gelu (x)", k=F32(np.sqrt(0.5)))
    yield form("hard-swish", "y = HardSwish (x)", "g = HardSigmoid <alpha=0.16666667, beta=0.5> (x); y = Mul (x, g)")
    yield form("mish", "y = Mish (x)", "s = Softplus (x); t = Tanh (s); y = Mul (x, t)")
    yield form("softmax-cross-entropy-log", "p = Softmax <axis=0> (x); y = Log (p)", "y = LogSoftmax <axis=0> (x)")


def bodies() -> Iterator[Case]:
    """Operators without a rule: their function body."""
    yield case("body-CenterCropPad", "y = CenterCropPad <axes=[1, 2]> (x, s)", x=(1, 4, 5), s=ints(3, 2))
    yield case("body-Attention", "y = Attention <q_num_heads=2, kv_num_heads=2> (x, x, x)", opset=23, x=(2, 3, 4))


def opaque() -> Iterator[Case]:
    x = {"x": (2, 3), "opaque": ("Det",)}
    square = "m = Reshape (x, r); d = Det (m); e = Expand (d, s); y = Add (h, e)"
    yield case("opaque", "h = Tanh (x); " + square, x=(1, 4), r=ints(2, 2), s=ints(1, 4), opaque=("Det",))
    yield case("opaque-known-operator", "h = Tanh (x); y = Mul (h, x)", x=x["x"], opaque=("Tanh",))
    yield case("opaque-two-carriers", "h = Mul (x, z); y = Add (h, x)", x=(2, 3), z=(2, 1), opaque=("Mul",))


CASES = [*forms(), *bodies(), *opaque()]


def refused() -> Iterator[tuple[Case, str]]:
    yield case("refused-Det", "y = Det (x)", x=(2, 2)), "a determinant is a polynomial"
    yield (
        case(
            "refused-filter",
            "f = Reshape (z, s); y = Conv (x, f)",
            x=(1, 2, 5),
            z=(1, 12),
            s=ints(3, 2, 2),
            rules=("tangent",),
        ),
        "kernel",
    )
    yield case("refused-Pow", "y = Pow (x, z)", x=(2, 3), z=(2, 3)), "its base and its exponent"
    yield (
        case("refused-grid", "t = Tanh (z); y = GridSample (x, t)", x=(1, 1, 3, 3), z=(1, 2, 2, 2), rules=("tangent",)),
        "grid",
    )
    yield case("refused-norm-scale", "y = LayerNormalization (x, z)", x=(2, 3), z=(3,), rules=("secant",)), "scale"
    yield (
        case("refused-statistic", "h, m, d = LayerNormalization (x, s); y = Mul (h, d)", x=(2, 3), s=w(3)),
        "statistic",
    )
    product = 'y = ScatterND <reduction="mul"> (x, i, z)'
    yield case("refused-scatter-mul", product, opset=18, x=(2, 3), z=(1, 3), i=np.array([[0]])), "reduction"
    yield case("refused-Mod", "y = Mod <fmod=1> (c, x)", x=(2, 3), c=w(2, 3)), "divisor"
    yield case("refused-Dropout", "y = Dropout (x, r, t)", x=(2, 3), r=F32(0.5), t=np.array(True)), "training"
    fed = Fed(ints(1, 1))
    yield case("refused-computed-pads", "y = Pad (x, p)", x=(3,), p=fed), "pads"
    axis = case("refused-computed-axis", "y = CumSum (x, a)", x=(2, 3), a=Fed(i0(1)))
    yield axis, "axis"


REFUSED = list(refused())
