"""Sums, products, quotients, gates: who carries and who is the weight."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, floats, ints, pos, w

INF = F32(-np.inf)
SCALE = F32(0.7)


def sums() -> Iterator[Case]:
    for op in ("Add", "Sub", "Mul", "Div"):
        draw = "nonzero" if op == "Div" else "mixed"
        yield case(f"{op}-two", f"y = {op} (x, z)", draw=draw, x=(2, 3, 4), z=(2, 3, 4), dyn={"x": "nab", "z": "nab"})
        yield case(f"{op}-same", f"y = {op} (x, x)", draw=draw, x=(2, 3), dyn="ab")
        yield case(f"{op}-right", f"y = {op} (x, c)", x=(2, 3, 4), c=pos(3, 1), dyn="n.b")
        yield case(f"{op}-left", f"y = {op} (c, x)", draw=draw, x=(2, 3), c=w(4, 1, 3), dyn="n.")
        yield case(f"{op}-scalar", f"y = {op} (x, c)", x=(2, 3), c=F32(1.5), dyn="ab")
        yield case(f"{op}-scalar-left", f"y = {op} (c, x)", draw=draw, x=(2, 3), c=F32(-0.5), dyn="ab")
        yield case(f"{op}-grows", f"y = {op} (x, c)", x=(3, 1), c=pos(2, 1, 4), dyn="a.")
        yield case(
            f"{op}-each-broadcasts", f"y = {op} (x, z)", draw=draw, x=(2, 1, 3), z=(4, 1), dyn={"x": "n.b", "z": "c."}
        )
        yield case(f"{op}-rank", f"y = {op} (z, x)", draw=draw, x=(2, 3, 4), z=(3, 1), channel=0, dyn={"x": "n.b"})
        yield case(f"{op}-7", f"y = {op} (x, c)", opset=7, x=(2, 3), c=pos(3))
    yield case("Add-column-and-row", "y = Add (x, z)", x=(3, 1), z=(1, 4), dyn={"x": "a.", "z": ".b"})
    yield case(
        "Add-vector-to-matrix", "m = ReduceMean <keepdims=0> (x, a); y = Add (x, m)", x=(3, 3), a=ints(0), dyn=".a"
    )
    yield case("Add-fed", "y = Add (x, c)", x=(2, 3), c=Fed(w(2, 3), "ab", lambda s: w(s["a"], s["b"])), dyn="ab")
    yield case("Add-mask", "y0 = Add (x, c); y = Softmax (y0)", x=(2, 4), c=floats(0, 0, INF, 0), dyn="a.")
    yield case("Sum-one", "y = Sum (x)", x=(2, 3))
    yield case("Sum-three", "y = Sum (x, z, c)", x=(2, 3), z=(3,), c=w(2, 1), channel=0, dyn={"x": ".b", "z": "b"})
    yield case("Sum-three-carriers", "h = Relu (x); s = Transpose (x); y = Sum (x, h, s)", x=(3, 3))
    yield case("Mean-two", "y = Mean (x, z)", x=(2, 3), z=(2, 1), dyn={"x": "ab", "z": "a."})
    yield case("Mean-three", "y = Mean (x, c, z)", x=(2, 3), z=(2, 3), c=w(3))
    yield case("Sum-of-constants", "y = Sum (c, x, d)", x=(2, 3), c=w(3), d=w(2, 1))
    yield case("Neg", "y = Neg (x)", x=(2, 3), dyn="ab")
    yield case("Div-by-weight", "s = Sigmoid (z); y = Div (x, s)", x=(2, 3), z=(2, 3))
    yield case(
        "Div-same-carrier", "s = ReduceSum (x, a); y = Div (x, s)", draw="positive", x=(2, 3), a=ints(1), dyn="ab"
    )
    yield case(
        "Div-deviation",
        """m = ReduceMean (x, a); c = Sub (x, m); q = Mul (c, c); v = ReduceMean (q, a)
        e = Add (v, eps); s = Sqrt (e); y = Div (c, s)""",
        x=(2, 5),
        a=ints(-1),
        eps=F32(1e-3),
        dyn="ab",
    )
    yield case(
        "Div-inverse-deviation",
        """m = ReduceMean (x, a); c = Sub (x, m); q = Pow (c, two); v = ReduceMean (q, a)
        e = Add (v, eps); s = Sqrt (e); r = Reciprocal (s); y = Mul (c, r)""",
        x=(2, 5),
        a=ints(-1),
        two=F32(2),
        eps=F32(1e-3),
        dyn="ab",
    )


def gates() -> Iterator[Case]:
    """The rank table: of a product the operand of higher rank is the weight."""
    x = {"x": (2, 3, 4), "dyn": "nab"}
    producers = {
        "Reciprocal": "Reciprocal (p)",
        "quotient": "Div (c, p)",
        "negative-Pow": "Pow (p, m)",
        "Softmax": "Softmax (h)",
        "Exp": "Exp (h)",
        "Sigmoid": "Sigmoid (h)",
        "HardSigmoid": "HardSigmoid (h)",
        "Tanh": "Tanh (h)",
        "Erf": "Erf (h)",
        "Softsign": "Softsign (h)",
        "Atan": "Atan (h)",
        "Clip": "Clip (h, n, c)",
        "Clip-one-side": "Clip (h, , c)",
        "Relu": "Relu (h)",
        "Sqrt": "Sqrt (p)",
        "Gelu": "Gelu (h)",
        "Pow": "Pow (p, c)",
        "Softplus": "Softplus (h)",
    }
    c = {"c": F32(1.5), "m": F32(-2), "n": F32(-0.5), "one": F32(1.2)}
    for name, text in producers.items():
        # h and p: shifted and permuted, so that its ones are not those of x
        shared = "h = Transpose <perm=[0, 2, 1]> (x); a = Abs (h); p = Add (a, one)"
        body = f"{shared}; g = {text}; y = Mul (x, g)"
        yield case(f"gate-{name}", body, x=(2, 3, 3), dyn="n..", **c)
    keep = {
        "arithmetic": "t = Mul (s, c); g = Add (t, n)",
        "Neg": "g = Neg (s)",
        "weight": "e = Exp (x); g = Mul (s, e)",
        "divided": "q = Abs (x); e = Add (q, c); g = Div (s, e)",
        "Pow": "q = Relu (s); g = Pow (q, c)",
        "Cast": "g = Cast <to=1> (s)",
        "Identity": "g = Identity (s)",
        "Dropout": "g = Dropout (s)",
        "Relu": "g = Relu (s)",
        "Clip": "g = Clip (s, n)",
        "Clip-two": "g = Clip (s, n, c)",
        "Max": "g = Max (s, n)",
        "Where": "q = Greater (x, n); g = Where (q, s, c)",
        "Where-low": "q = Greater (x, n); g = Where (q, s, x)",
        "Sum": "g = Add (s, x)",
        "Sum-high": "e = Exp (x); g = Add (s, e)",
        "Sqrt": "q = Relu (s); g = Sqrt (q)",
        "CumSum": "g = CumSum (s, one)",
        "Round": "g = Floor (s)",
        "Reshape": "q = Reshape (s, f); g = Reshape (q, b)",
        "Expand": "g = Expand (s, b)",
        "Transpose": "g = Transpose <perm=[0, 2, 1]> (s)",
        "Concat": "u, v = Split <axis=1> (s, sp); g = Concat <axis=1> (v, u)",
        "Slice": "g = Slice (s, z0, z9)",
        "Pad": "u, v = Split <axis=1> (s, sp); g = Pad (v, pd)",
        "TopK": "g, gi = TopK (s, k)",
        "Gather": "g = Gather <axis=1> (s, ix)",
        "RMSNormalization": "q = Mul (s, s); v = ReduceMean (q, k1); e = Add (v, c); u = Sqrt (e); g = Div (s, u)",
        "LpNormalization": "g = LpNormalization (s)",
        "BatchNormalization": "g = BatchNormalization (s, v3, v3, v3, v3)",
        "ReduceMean": "g = ReduceMean (s, k1)",
        "MatMul": "g = MatMul (s, w3)",
        "GlobalAveragePool": "g = GlobalAveragePool (s)",
        "MaxPool": "g = MaxPool <kernel_shape=[3], pads=[1, 1]> (s)",
        "AveragePool": "g = AveragePool <kernel_shape=[3], pads=[1, 1]> (s)",
        "AveragePool-whole": "g = AveragePool <kernel_shape=[3]> (s)",
        "MaxPool-whole": "g = MaxPool <kernel_shape=[3]> (s)",
        "LayerNormalization": "g = LayerNormalization (s, v3)",
        "LRN": "u = Unsqueeze (s, k1); q = LRN <size=3> (u); g = Squeeze (q, k1)",
        "InstanceNormalization": "g = InstanceNormalization (s, v3, v3)",
        "ScatterND": "g = ScatterND (s, i00, u00)",
        "ReduceMax": "g = ReduceMax (s, k1)",
        "LpPool": "g = LpPool <kernel_shape=[3], pads=[1, 1]> (s)",
        "Tanh-of": "g = Tanh (s)",
        "Sigmoid-of-Exp": "e = Exp (s); g = Sigmoid (e)",
        "Resize": "g = Resize (s, , sc)",
    }
    c |= {
        "one": ints(1)[0],
        "f": ints(2, 9),
        "b": ints(2, 3, 3),
        "sp": ints(1, 2),
        "z0": ints(0),
        "z9": ints(9),
        "k": ints(3),
        "pd": ints(0, 1, 0, 0, 0, 0),
        "ix": ints(2, 0, 1),
        "k1": ints(2),
        "v3": pos(3),
        "w3": w(3, 3),
        "i00": ints(0, 1).reshape(1, 2),
        "u00": w(1, 3),
        "sc": floats(1, 1, 1.0),
    }
    for name, text in keep.items():
        for producer in ("Sigmoid", "Tanh"):
            # against a Sigmoid: equal rank shares, lower rank carries
            body = f"h = Transpose <perm=[0, 2, 1]> (x); s = {producer} (h); {text}; r = Sigmoid (x); y = Mul (r, g)"
            used = {k: v for k, v in c.items() if k in body}
            yield case(f"rank-{producer}-{name}", body, x=(2, 3, 3), **used)
    yield case("silu-decomposed", "s = Sigmoid (x); y = Mul (x, s)", **x)
    yield case(
        "gelu-decomposed",
        "d = Div (x, r); e = Erf (d); a = Add (e, one); m = Mul (x, a); y = Mul (m, h)",
        r=F32(np.sqrt(2)),
        one=F32(1),
        h=F32(0.5),
        **x,
    )
    yield case(
        "gelu-decomposed-half-first",
        "t = Mul (x, h); d = Div (x, r); e = Erf (d); a = Add (e, one); y = Mul (t, a)",
        r=F32(np.sqrt(2)),
        one=F32(1),
        h=F32(0.5),
        **x,
    )
    yield case(
        "gelu-tanh-decomposed",
        """u = Pow (x, three); v = Mul (u, k); a = Add (x, v); b = Mul (a, l); t = Tanh (b)
        o = Add (t, one); m = Mul (x, o); y = Mul (m, h)""",
        three=F32(3),
        k=F32(0.044715),
        l=F32(np.sqrt(2 / np.pi)),
        one=F32(1),
        h=F32(0.5),
        **x,
    )
    yield case(
        "hardswish-decomposed",
        "a = Add (x, three); c = Clip (a, lo, hi); m = Mul (x, c); y = Div (m, hi)",
        three=F32(3),
        lo=F32(0),
        hi=F32(6),
        **x,
    )
    yield case("mish-decomposed", "s = Softplus (x); t = Tanh (s); y = Mul (x, t)", **x)
    yield case(
        "swiglu",
        "g = MatMul (x, a); s = Sigmoid (g); h = Mul (g, s); u = MatMul (x, b); y = Mul (h, u)",
        x=(2, 3, 4),
        a=w(4, 5),
        b=w(4, 5, seed=1),
        dyn="nt.",
    )
    yield case(
        "lstm-cell",
        """i = MatMul (x, a); f = MatMul (x, b); si = Sigmoid (i); sf = Sigmoid (f); t = Tanh (x)
        c = Mul (si, t); d = Mul (sf, z); e = Add (c, d); u = Tanh (e); y = Mul (u, sf)""",
        x=(2, 4),
        z=(2, 4),
        a=w(4, 4),
        b=w(4, 4, seed=1),
    )


CASES = [*sums(), *gates()]
