"""Operators that move elements: shapes, slices, selection, padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, floats, i0, ints, w

THREE = {"x": (2, 3, 4)}


def shapes() -> Iterator[Case]:
    for name, target, dyn in (
        ("split-front", (3, 2, 2, 2), ""),
        ("merge", (6, 4), ""),
        ("flat", (-1,), "nab"),
        ("keep", (0, 0, -1), "nab"),
        ("split-last", (0, 0, 2, 2), "na."),
        ("merge-last", (0, -1), "na."),
        ("cross", (4, 6), ""),
        ("unit", (2, 1, 3, 1, 4), ""),
        ("heads", (2, -1, 2, 6), ""),
    ):
        yield case(f"Reshape-{name}", "y = Reshape (x, s)", s=ints(*target), dyn=dyn, **THREE)
    yield case(
        "Reshape-there-and-back",
        "h = Reshape (x, s); r = Relu (h); y = Reshape (r, t)",
        s=ints(4, 6),
        t=ints(2, 3, 4),
        **THREE,
    )
    yield case("Reshape-allowzero", "y = Reshape <allowzero=1> (x, s)", s=ints(3, 8), **THREE)
    yield case("Reshape-5", "y = Reshape (x, s)", opset=7, s=ints(0, 12), **THREE)
    computed = "d = Shape <start=0, end=1> (x); t = Concat <axis=0> (d, m); y = Reshape (x, t)"
    yield case("Reshape-computed", computed, m=ints(-1), dyn="nab", **THREE)
    for axis in (0, 1, 2, 3, -1):
        yield case(f"Flatten-{axis}", f"y = Flatten <axis={axis}> (x)", dyn="nab", **THREE)
    yield case("Squeeze", "y = Squeeze (x, a)", x=(2, 1, 4), a=ints(1), dyn="n.b")
    yield case("Squeeze-all", "y = Squeeze (x)", x=(2, 1, 3, 1))
    yield case("Squeeze-negative", "y = Squeeze (x, a)", x=(1, 4, 1), a=ints(-1, 0), dyn=".n.")
    yield case("Squeeze-attribute", "y = Squeeze <axes=[1]> (x)", opset=11, x=(2, 1, 4))
    yield case("Unsqueeze", "y = Unsqueeze (x, a)", x=(2, 4), a=ints(0, -1), dyn="ab")
    yield case("Unsqueeze-attribute", "y = Unsqueeze <axes=[1]> (x)", opset=11, x=(2, 4))
    yield case("Transpose", "y = Transpose <perm=[2, 0, 1]> (x)", dyn="nab", **THREE)
    yield case("Transpose-default", "y = Transpose (x)", dyn="nab", **THREE)
    yield case("Expand", "y = Expand (x, s)", x=(2, 1, 4), s=ints(3, 1), dyn="n.b")
    yield case("Expand-rank", "y = Expand (x, s)", x=(3, 1), s=ints(2, 1, 4), dyn="n.")
    yield case(
        "Expand-then-sum",
        "e = Expand (x, s); r = Mul (e, c); y = ReduceSum <keepdims=0> (r, a)",
        x=(3, 1),
        s=ints(2, 1, 4),
        c=w(2, 3, 4),
        a=ints(0),
    )
    yield case("Tile", "y = Tile (x, r)", x=(2, 3), r=ints(2, 3), dyn="ab")
    yield case("Tile-one-axis", "y = Tile (x, r)", x=(2, 1, 3), r=ints(1, 4, 1), dyn="n.b")
    yield case("Tile-6", "y = Tile (x, r)", opset=7, x=(2, 3), r=ints(1, 2))
    for mode in ("DCR", "CRD"):
        yield case(
            f"DepthToSpace-{mode}", f'y = DepthToSpace <blocksize=2, mode="{mode}"> (x)', x=(2, 8, 2, 3), dyn="n.hk"
        )
    yield case("DepthToSpace-7", "y = DepthToSpace <blocksize=2> (x)", opset=7, x=(1, 4, 2, 3))
    yield case("SpaceToDepth", "y = SpaceToDepth <blocksize=2> (x)", x=(2, 2, 4, 6), dyn="n.hk", other={"h": 6, "k": 4})
    shuffle = "a = Reshape (x, s); t = Transpose <perm=[0, 2, 1, 3, 4]> (a); y = Reshape (t, u)"
    yield case("channel-shuffle", shuffle, x=(2, 4, 2, 3), s=ints(0, 2, 2, 2, 3), u=ints(0, 4, 2, 3), dyn="n...")


def slices() -> Iterator[Case]:
    for name, start, end, step, dyn in (
        ("plain", 1, 3, 1, "nab"),
        ("to-the-end", 1, 1000, 1, "nab"),
        ("negative", -2, -1, 1, "nab"),
        ("back", -1, -1000, -1, "nab"),
        ("step", 0, 4, 2, "nab"),
        ("back-step", 3, 0, -2, "n.."),
        ("far-start", -9, 2, 1, "nab"),
        ("one", 2, 3, 1, "nab"),
        ("all", 0, 2**62, 1, "nab"),
    ):
        yield case(
            f"Slice-{name}",
            "y = Slice (x, a, b, c, d)",
            a=ints(start),
            b=ints(end),
            c=ints(-1),
            d=ints(step),
            dyn=dyn,
            **THREE,
        )
    two = {"a": ints(2, -1), "b": ints(-9, 1000), "c": ints(1, -1), "d": ints(-1, 1)}
    yield case("Slice-two", "y = Slice (x, a, b, c, d)", **two, **THREE)
    yield case("Slice-no-axes", "y = Slice (x, a, b)", a=ints(0, 1), b=ints(2, 3), **THREE)
    yield case("Slice-no-steps", "y = Slice (x, a, b, c)", a=ints(1), b=ints(3), c=ints(1), dyn="n.b", **THREE)
    yield case(
        "Slice-int32",
        "y = Slice (x, a, b, c)",
        a=np.array([1], np.int32),
        b=np.array([3], np.int32),
        c=np.array([1], np.int32),
        **THREE,
    )
    yield case("Slice-1", "y = Slice <starts=[0, 1], ends=[1, 3], axes=[0, 2]> (x)", opset=7, **THREE)
    yield case("Slice-1-no-axes", "y = Slice <starts=[0, 1], ends=[1, 3]> (x)", opset=9, **THREE)
    fed = {"a": Fed(ints(1)), "b": Fed(ints(3))}
    yield case("Slice-fed", "y = Slice (x, a, b, c)", c=ints(1), x=(2, 3, 4), **fed)
    last = "s = Shape <start=1, end=2> (x); m = Sub (s, one); h = Slice (x, m, s, one); y = Squeeze (h, one)"
    yield case("Slice-computed-last", last, one=ints(1), dyn="nt.", **THREE)
    yield case("Split-even", "a, b = Split <axis=2, num_outputs=2> (x); y = Sub (b, a)", dyn="n..", **THREE)
    yield case("Split-uneven", "a, y = Split <axis=-1, num_outputs=2> (x)", x=(2, 5), dyn="n.")
    yield case("Split-sizes", "a, y, b = Split <axis=1> (x, s)", s=ints(1, 2, 1), x=(2, 4, 3), dyn="n.b")
    yield case("Split-attribute", "a, y = Split <axis=1, split=[1, 2]> (x)", opset=11, **THREE)
    yield case("Split-7", "y, b = Split <axis=2> (x)", opset=7, **THREE)
    yield case("Split-13", "y, b = Split <axis=2> (x)", opset=13, **THREE)
    yield case("Split-dynamic-axis", "a, b = Split <axis=1, num_outputs=2> (x); y = Add (a, b)", x=(2, 4), dyn="n.")
    yield case(
        "rotary",
        """a, b = Split <axis=-1, num_outputs=2> (x); m = Neg (b); r = Concat <axis=-1> (m, a)
        c = Mul (x, cos); s = Mul (r, sin); y = Add (c, s)""",
        cos=w(3, 4),
        sin=w(3, 4, seed=1),
        dyn="n..",
        **THREE,
    )


def selection() -> Iterator[Case]:
    mask = np.array([[True, False, True], [False, False, True]])
    yield case("Where-two", "y = Where (q, x, z)", q=mask, x=(2, 3), z=(2, 3))
    yield case("Where-constant", "y = Where (q, x, c)", q=mask, x=(2, 3), c=w(2, 3))
    yield case("Where-constant-first", "y = Where (q, c, x)", q=mask, x=(2, 3), c=F32(0.5))
    yield case("Where-inf", "m = Where (q, x, c); y = ReduceMax (m, a)", q=mask, x=(2, 3), c=F32(-np.inf), a=ints(1))
    yield case(
        "Where-broadcast",
        "y = Where (q, x, z)",
        q=np.array([[True], [False]]),
        x=(2, 1, 3),
        z=(2, 1),
        dyn={"x": "n.b", "z": ".."},
    )
    yield case("Where-grows", "y = Where (q, x, c)", q=mask, x=(3,), c=w(1))
    yield case("Where-same", "r = Relu (x); y = Where (q, r, x)", q=mask, x=(2, 3))
    yield case(
        "Where-fed",
        "y = Where (q, x, c)",
        q=Fed(mask, "ab", lambda s: np.resize(mask, (s["a"], s["b"]))),
        x=(2, 3),
        c=F32(2),
        dyn="ab",
    )
    yield case("Where-of-values", "q = Greater (x, c); y = Where (q, x, c)", x=(2, 3), c=F32(0.2), dyn="ab")
    for op in ("Max", "Min"):
        for draw in ("mixed", "ties"):
            y = f"y = {op} "
            two = {"x": (3, 4), "z": (3, 4), "draw": draw}
            yield case(f"{op}-two-{draw}", y + "(x, z)", dyn={"x": "ab", "z": "ab"}, **two)
            yield case(
                f"{op}-broadcast-{draw}",
                y + "(x, z)",
                x=(2, 1, 4),
                z=(3, 1),
                draw=draw,
                channel=0,
                dyn={"x": "n.b", "z": "c."},
            )
            yield case(f"{op}-constant-{draw}", y + "(x, c)", x=(3, 4), c=floats(0, 1, -1, 0.5), draw=draw, dyn="a.")
            yield case(f"{op}-scalar-{draw}", y + "(c, x)", x=(3, 4), c=F32(0.5), draw=draw, dyn="ab")
            yield case(f"{op}-three-{draw}", y + "(x, c, z)", c=F32(0), **two)
            yield case(
                f"{op}-two-constants-{draw}", y + "(c, x, d)", c=floats(0, 1, -1, 0.5), d=F32(0), x=(3, 4), draw=draw
            )
        yield case(f"{op}-one", f"y = {op} (x)", x=(2, 3))
        yield case(f"{op}-two-streams", f"t = Transpose (x); y = {op} (x, t, c)", x=(3, 3), c=F32(0.5), draw="ties")
        yield case(f"{op}-7", f"y = {op} (x, c)", opset=7, x=(2, 3), c=w(2, 3))
    yield case("Concat-two", "y = Concat <axis=1> (x, z)", x=(2, 3, 4), z=(2, 2, 4), dyn={"x": "nab", "z": "ncb"})
    yield case("Concat-one", "y = Concat <axis=1> (x)", x=(2, 3))
    yield case(
        "Concat-constant", "y = Concat <axis=-1> (x, c, z)", x=(2, 3), z=(2, 2), c=w(2, 2), dyn={"x": ".a", "z": ".b"}
    )
    yield case("Concat-constant-front", "y = Concat <axis=0> (c, x)", x=(2, 3), c=w(1, 3), dyn="n.")
    yield case("Concat-other-axis", "y = Concat <axis=2> (c, x)", c=w(2, 3, 1), dyn="..b", **THREE)
    yield case(
        "Concat-inf", "h = Concat <axis=1> (x, c); y = Softmax (h)", x=(2, 3), c=np.full((2, 1), -np.inf, F32), dyn=".a"
    )
    yield case("Concat-streams", "r = Transpose (x); y = Concat <axis=0> (x, r, c)", x=(3, 3), c=w(1, 3))
    yield case("Concat-7", "y = Concat <axis=1> (x, c)", opset=7, x=(2, 3), c=w(2, 2))
    yield case("Trilu", "y = Trilu (x)", dyn="nab", **THREE)
    yield case("Trilu-lower", "y = Trilu <upper=0> (x, k)", x=(3, 4), k=i0(1), dyn="ab")
    yield case("Trilu-upper", "y = Trilu <upper=1> (x, k)", x=(3, 4), k=i0(-1), dyn="ab")


def pads() -> Iterator[Case]:
    for mode in ("constant", "reflect", "edge", "wrap"):
        y = f'y = Pad <mode="{mode}"> (x, p)'
        yield case(f"Pad-{mode}", y, p=ints(0, 1, 2, 0, 2, 3), dyn="nab", **THREE)
        yield case(f"Pad-{mode}-front", y, p=ints(1, 0, 0, 0, 0, 2), dyn=".ab", **THREE)
    y = "y = Pad (x, p, c, a)"
    yield case("Pad-crop", y, p=ints(-1, 1, 1, -1), c=F32(1.5), a=ints(2, -2), dyn="nab", **THREE)
    yield case("Pad-crop-only", y, p=ints(-1, -1), c=F32(1.5), a=ints(2), dyn="n.b", **THREE)
    yield case("Pad-value", "y = Pad (x, p, c)", p=ints(0, 1, 0, 1, 0, 2), c=F32(-0.7), dyn="nab", **THREE)
    yield case(
        "Pad-inf",
        "h = Pad (x, p, c); y = MaxPool <kernel_shape=[2]> (h)",
        p=ints(0, 0, 1, 0, 0, 1),
        c=F32(-np.inf),
        dyn="na.",
        **THREE,
    )
    yield case("Pad-attribute", "y = Pad <pads=[0, 1, 1, 0], value=0.5> (x)", opset=7, x=(2, 3))
    yield case("Pad-11", 'y = Pad <mode="reflect"> (x, p)', opset=11, p=ints(0, 1, 0, 2), x=(2, 3))
    yield case("Pad-25", "y = Pad (x, p)", opset=25, p=ints(0, 1, 0, 2), x=(2, 3), runtime=False)


CASES = [*shapes(), *slices(), *selection(), *pads()]
