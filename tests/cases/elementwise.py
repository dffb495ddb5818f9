"""Elementwise functions, clips, powers, rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, floats, ints, pos, w

DRAW = {
    "Acos": "unit",
    "Acosh": "above one",
    "Asin": "unit",
    "Atanh": "unit",
    "Log": "positive",
    "Sqrt": "not negative",
    "Reciprocal": "nonzero",
    "Tan": "unit",
}
PLAIN = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp HardSigmoid HardSwish LeakyRelu Log "
    "Reciprocal Relu Selu Shrink Sigmoid Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Identity"
).split()
OPSETS = {"Gelu": 20, "Mish": 18, "Swish": 24}
# at ends and kinks
VARIANTS = {
    "Celu": ["alpha=2.0", "alpha=0.3"],
    "Elu": ["alpha=2.0", "alpha=0.3"],
    "HardSigmoid": [
        "alpha=0.4, beta=0.3",
        "alpha=1.0, beta=1.5",
        "alpha=0.5, beta=-0.2",
        "alpha=-0.5, beta=0.5",
        "alpha=0.5, beta=0.0",
        "alpha=0.5, beta=1.0",
        "alpha=-0.5, beta=0.0",
    ],
    "LeakyRelu": ["alpha=-0.3", "alpha=0.0"],
    "Selu": ["alpha=1.2, gamma=0.7"],
    "Shrink": ["lambd=0.3, bias=0.2", "lambd=1.0"],
    "ThresholdedRelu": ["alpha=0.3", "alpha=-0.5"],
    "Gelu": ['approximate="tanh"'],
    "Swish": ["alpha=1.3"],
}


def functions() -> Iterator[Case]:
    for op in [*PLAIN, *OPSETS]:
        kw = {"opset": OPSETS.get(op, 20), "runtime": op != "Swish", "draw": DRAW.get(op, "mixed")}
        yield case(op, f"y = {op} (x)", x=(3, 7), dyn="ab", **kw)
        # ones that are not those of x in front of it, its own carried further
        yield case(
            f"{op}-inside",
            f"h = Add (x, c); t = Transpose (h); f = {op} (t); y = MatMul (f, w)",
            x=(3, 4),
            c=F32(0.05),
            w=w(3, 2),
            **kw,
        )
        for attrs in VARIANTS.get(op, []):
            yield case(f"{op}-{attrs}", f"y = {op} <{attrs}> (x)", x=(3, 7), **kw)
    for op in (
        "Celu",
        "Elu",
        "Exp",
        "Gelu",
        "HardSwish",
        "Mish",
        "Selu",
        "Sigmoid",
        "Sin",
        "Sinh",
        "Asinh",
        "Erf",
        "Tanh",
        "Atan",
        "Softplus",
        "Cos",
        "Cosh",
        "Softsign",
        "Atanh",
        "Asin",
        "Acos",
        "Tan",
    ):
        yield case(f"{op}-near-0", f"y = {op} (x)", draw="small", x=(3, 7))
    for op in (
        "Celu",
        "Elu",
        "Gelu",
        "HardSwish",
        "Mish",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Tanh",
        "Erf",
        "Cos",
        "Softsign",
        "HardSigmoid",
    ):
        yield case(f"{op}-far", f"y = {op} (x)", draw="large", x=(3, 7))
    yield case("Exp-below-100", "s = Mul (x, c); y = Exp (s)", draw="not negative", x=(3, 7), c=F32(-80))
    yield case("scalar", "s = ReduceSum <keepdims=0> (x, a); t = Tanh (s); y = Exp (t)", x=(3,), a=ints(0), dyn="n")
    for op in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Exp", "Selu", "Elu"):
        yield case(f"{op}-7", f"y = {op} (x)", opset=7, x=(2, 3))
    for op in ("HardSwish", "Celu", "Softplus", "Mish", "Gelu"):
        yield case(f"{op}-22", f"y = {op} (x)", opset=22, x=(2, 3))
    for name, slope, shape in (
        ("", pos(3, 1), (2, 3, 4)),
        ("-scalar", floats(0.2), (2, 3, 4)),
        ("-full", w(2, 3), (2, 3)),
    ):
        yield case(f"PRelu{name}", "y = PRelu (x, s)", x=shape, s=slope, dyn="n.." if len(shape) == 3 else "..")
    yield case("PRelu-7", "y = PRelu (x, s)", opset=7, x=(2, 3, 4), s=pos(3, 1))
    yield case("PRelu-slope-carries", "y = PRelu (x, z)", x=(2, 3), z=(2, 3))
    yield case("PRelu-slope-alone-carries", "y = PRelu (c, x)", x=(2, 3), c=w(2, 3))


def powers() -> Iterator[Case]:
    y = "y = Pow (x, c)"
    for name, c, draw in (
        ("2", F32(2), "mixed"),
        ("3", F32(3), "mixed"),
        ("half", F32(0.5), "not negative"),
        ("1", F32(1), "mixed"),
        ("0", F32(0), "mixed"),
        ("-1", F32(-1), "nonzero"),
        ("-half", F32(-0.5), "positive"),
        ("1.5", F32(1.5), "not negative"),
        ("int", ints(2)[0], "mixed"),
        ("vector-of-one", floats(2), "mixed"),
        ("one-grows", np.full((1, 1, 1), 2, F32), "mixed"),
        ("4", F32(4), "mixed"),
        ("-2", F32(-2), "nonzero"),
    ):
        yield case(f"Pow-{name}", y, x=(3, 5), c=c, draw=draw, dyn="ab")
    yield case("Pow-tensor", y, x=(2, 3), c=np.array([[[-1, 0, 3]], [[1, 2, 0.3]]], F32), draw="positive", dyn="a.")
    yield case("Pow-tensor-at-0", y, x=(4, 3), c=floats(1, 2, 3), dyn="a.")
    yield case("Pow-fed", y, x=(2, 3), c=Fed(np.array([2, 3, 1], F32)))
    yield case("Pow-base", "y = Pow (c, x)", x=(2, 3), c=F32(1.7), dyn="ab")
    yield case("Pow-base-vector", "y = Pow (c, x)", x=(2, 3), c=floats(0.5, 1, 3), dyn="a.")
    yield case("Pow-base-0", "y = Pow (c, x)", x=(2, 3), c=floats(0, 1.5, 2), draw="positive", dyn="a.")
    yield case("Pow-7", y, opset=7, x=(2, 3), c=floats(2))
    yield case("Pow-gate", "p = Pow (x, c); y = Mul (x, p)", draw="positive", x=(2, 3), c=F32(-0.5))


def clips() -> Iterator[Case]:
    for name, lo, hi in (
        ("both", -0.5, 1),
        ("above-0", 0.5, 1),
        ("below-0", -1, -0.5),
        ("low-0", 0, 1),
        ("high-0", -1, 0),
        ("low", 0.5, None),
        ("low-negative", -0.5, None),
        ("high", None, 0.5),
        ("high-negative", None, -0.5),
        ("none", None, None),
        ("float-max", -3.4028234663852886e38, 1),
    ):
        bounds = {k: F32(v) for k, v in (("l", lo), ("h", hi)) if v is not None}
        text = f"y = Clip (x, {'l' if 'l' in bounds else ''}, {'h' if 'h' in bounds else ''})"
        if not bounds:
            text = "y = Clip (x)"
        yield case(f"Clip-{name}", text, x=(3, 7), dyn="ab", **bounds)
    yield case("Clip-at-the-bounds", "y = Clip (x, l, h)", draw="ties", x=(3, 7), l=F32(-1), h=F32(1))
    yield case("Clip-6", "y = Clip <min=-0.5, max=1.0> (x)", opset=7, x=(3, 5))
    yield case("Clip-6-low", "y = Clip <min=0.0> (x)", opset=10, x=(3, 5))
    yield case("Clip-11", "y = Clip (x, l)", opset=11, x=(3, 5), l=F32(-0.2))
    fed = {"l": Fed(np.array(-0.5, F32)), "h": Fed(np.array(0.7, F32))}
    yield case("Clip-fed", "y = Clip (x, l, h)", x=(3, 5), **fed)
    yield case("Clip-fed-above-0", "y = Clip (x, l, h)", x=(3, 5), l=Fed(np.array(0.3, F32)), h=Fed(np.array(0.7, F32)))
    yield case("relu6", "r = Relu (x); y = Min (r, c)", draw="large", x=(3, 5), c=F32(6))
    yield case("Clip-gate", "c = Clip (x, l, h); y = Mul (x, c)", x=(2, 3), l=F32(-1), h=F32(1))


def rounding() -> Iterator[Case]:
    for op in ("Floor", "Ceil", "Round"):
        yield case(op, f"y = {op} (x)", x=(3, 5), rules=("secant",), dyn="ab")
        yield case(
            f"{op}-ties", f"h = Mul (x, half); y = {op} (h)", draw="ties", x=(3, 5), half=F32(0.5), rules=("secant",)
        )
        yield case(f"{op}-beside-a-path", f"r = {op} (x); y = Add (x, r)", x=(3, 5))


def remainders() -> Iterator[Case]:
    for name, sort, opset in (("floor", 0, 28), ("floor-of-either-sign", 0, 28), ("C", 1, 13)):
        c = w(5) if "sign" in name else np.abs(w(5)) + F32(0.2)
        text = f"y = Mod <fmod={sort}> (x, c)"
        yield case(f"Mod-{name}", text, opset=opset, x=(3, 5), c=c, dyn="a.", runtime=opset == 13)
    yield case("Mod-one-row", "y = Mod <fmod=1> (x, c)", x=(1, 5), c=np.abs(w(4, 1)) + F32(0.2), dyn=".b")


def types() -> Iterator[Case]:
    yield case("Cast", "h = Cast <to=11> (x); y = Cast <to=1> (h)", x=(2, 3), dyn="ab")
    yield case("Cast-half", "h = Cast <to=10> (x); t = Tanh (h); y = Cast <to=1> (t)", draw="ties", x=(2, 3))
    yield case("CastLike", "y = CastLike (x, c)", x=(2, 3), c=floats(1))
    like = "l = CastLike (c, x); h = CastLike (d, x); m = Min (x, h); g = Max (m, l); y = Mul (x, g)"
    yield case("CastLike-of-bounds", like, x=(2, 3), c=np.float64(-0.4), d=np.float64(0.9))
    yield case("double-model", "h = Mul (x, c); y = Tanh (h)", dtype=np.float64, x=(2, 3), c=np.float64(0.3))
    yield case("Dropout", "y = Dropout (x)", x=(2, 3), dyn="ab")
    yield case("Dropout-mask", "y, m = Dropout (x, r, t)", x=(2, 3), r=F32(0.5), t=np.array(False))
    yield case("Dropout-7", "y = Dropout <ratio=0.3> (x)", opset=7, x=(2, 3))
    yield case("Dropout-10", "y = Dropout <ratio=0.3> (x)", opset=10, x=(2, 3))
    constant = "s = Sign (x); g = Greater (x, z); f = Cast <to=1> (g); h = Add (s, f); y = Mul (x, h)"
    yield case("constants", constant, x=(3, 5), z=F32(0.3), dyn="ab")
    shapes = "s = Shape (x); f = Cast <to=1> (s); t = ReduceProd <keepdims=0> (f); y = Div (x, t)"
    yield case("shape-as-constant", shapes, x=(3, 5), dyn="ab")
    yield case(
        "OneHot-of-ArgMax",
        "a = ArgMax <axis=1, keepdims=0> (x); h = OneHot (a, d, v); y = Mul (x, h)",
        x=(3, 5),
        d=ints(5),
        v=floats(0, 1),
        dyn="a.",
    )
    hard = "h = Hardmax (x); y = Mul (x, h)"
    yield case("Hardmax-is-constant", hard, x=(3, 5), dyn="ab")


CASES = [*functions(), *powers(), *clips(), *rounding(), *remainders(), *types()]
