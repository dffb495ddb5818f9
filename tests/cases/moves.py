"""Operators that move elements: shapes, slices, selection, padding, gather and scatter, resampling, Fourier."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, floats, i0, ints, w

THREE = {"x": (2, 3, 4)}


def shapes() -> Iterator[Case]:
    for name, target, dyn in (
        ("split-front", (3, 2, 2, 2), ""), ("merge", (6, 4), ""), ("flat", (-1,), "nab"), ("keep", (0, 0, -1), "nab"), ("split-last", (0, 0, 2, 2), "na."),
        ("merge-last", (0, -1), "na."), ("cross", (4, 6), ""), ("unit", (2, 1, 3, 1, 4), ""), ("heads", (2, -1, 2, 6), ""),
    ):  # fmt: skip
        yield case(f"Reshape-{name}", "y = Reshape (x, s)", s=ints(*target), dyn=dyn, **THREE)
    yield case("Reshape-there-and-back", "h = Reshape (x, s); r = Relu (h); y = Reshape (r, t)", s=ints(4, 6), t=ints(2, 3, 4), **THREE)
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
    yield case("Expand-then-sum", "e = Expand (x, s); r = Mul (e, c); y = ReduceSum <keepdims=0> (r, a)", x=(3, 1), s=ints(2, 1, 4), c=w(2, 3, 4), a=ints(0))
    yield case("Tile", "y = Tile (x, r)", x=(2, 3), r=ints(2, 3), dyn="ab")
    yield case("Tile-one-axis", "y = Tile (x, r)", x=(2, 1, 3), r=ints(1, 4, 1), dyn="n.b")
    yield case("Tile-6", "y = Tile (x, r)", opset=7, x=(2, 3), r=ints(1, 2))
    for mode in ("DCR", "CRD"):
        yield case(f"DepthToSpace-{mode}", f'y = DepthToSpace <blocksize=2, mode="{mode}"> (x)', x=(2, 8, 2, 3), dyn="n.hk")
    yield case("DepthToSpace-7", "y = DepthToSpace <blocksize=2> (x)", opset=7, x=(1, 4, 2, 3))
    yield case("SpaceToDepth", "y = SpaceToDepth <blocksize=2> (x)", x=(2, 2, 4, 6), dyn="n.hk", other={"h": 6, "k": 4})
    shuffle = "a = Reshape (x, s); t = Transpose <perm=[0, 2, 1, 3, 4]> (a); y = Reshape (t, u)"
    yield case("channel-shuffle", shuffle, x=(2, 4, 2, 3), s=ints(0, 2, 2, 2, 3), u=ints(0, 4, 2, 3), dyn="n...")


def slices() -> Iterator[Case]:
    for name, start, end, step, dyn in (
        ("plain", 1, 3, 1, "nab"), ("to-the-end", 1, 1000, 1, "nab"), ("negative", -2, -1, 1, "nab"), ("back", -1, -1000, -1, "nab"), ("step", 0, 4, 2, "nab"),
        ("back-step", 3, 0, -2, "n.."), ("far-start", -9, 2, 1, "nab"), ("one", 2, 3, 1, "nab"), ("all", 0, 2**62, 1, "nab"),
    ):  # fmt: skip
        yield case(f"Slice-{name}", "y = Slice (x, a, b, c, d)", a=ints(start), b=ints(end), c=ints(-1), d=ints(step), dyn=dyn, **THREE)
    two = {"a": ints(2, -1), "b": ints(-9, 1000), "c": ints(1, -1), "d": ints(-1, 1)}
    yield case("Slice-two", "y = Slice (x, a, b, c, d)", **two, **THREE)
    yield case("Slice-no-axes", "y = Slice (x, a, b)", a=ints(0, 1), b=ints(2, 3), **THREE)
    yield case("Slice-no-steps", "y = Slice (x, a, b, c)", a=ints(1), b=ints(3), c=ints(1), dyn="n.b", **THREE)
    yield case("Slice-int32", "y = Slice (x, a, b, c)", a=np.array([1], np.int32), b=np.array([3], np.int32), c=np.array([1], np.int32), **THREE)
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
    yield case("rotary", """a, b = Split <axis=-1, num_outputs=2> (x); m = Neg (b); r = Concat <axis=-1> (m, a)
        c = Mul (x, cos); s = Mul (r, sin); y = Add (c, s)""", cos=w(3, 4), sin=w(3, 4, seed=1), dyn="n..", **THREE)  # fmt: skip


def selection() -> Iterator[Case]:
    mask = np.array([[True, False, True], [False, False, True]])
    yield case("Where-two", "y = Where (q, x, z)", q=mask, x=(2, 3), z=(2, 3))
    yield case("Where-constant", "y = Where (q, x, c)", q=mask, x=(2, 3), c=w(2, 3))
    yield case("Where-constant-first", "y = Where (q, c, x)", q=mask, x=(2, 3), c=F32(0.5))
    yield case("Where-inf", "m = Where (q, x, c); y = ReduceMax (m, a)", q=mask, x=(2, 3), c=F32(-np.inf), a=ints(1))
    yield case("Where-broadcast", "y = Where (q, x, z)", q=np.array([[True], [False]]), x=(2, 1, 3), z=(2, 1), dyn={"x": "n.b", "z": ".."})
    yield case("Where-grows", "y = Where (q, x, c)", q=mask, x=(3,), c=w(1))
    yield case("Where-same", "r = Relu (x); y = Where (q, r, x)", q=mask, x=(2, 3))
    yield case("Where-fed", "y = Where (q, x, c)", q=Fed(mask, "ab", lambda s: np.resize(mask, (s["a"], s["b"]))), x=(2, 3), c=F32(2), dyn="ab")
    yield case("Where-of-values", "q = Greater (x, c); y = Where (q, x, c)", x=(2, 3), c=F32(0.2), dyn="ab")
    for op in ("Max", "Min"):
        for draw in ("mixed", "ties"):
            y = f"y = {op} "
            two = {"x": (3, 4), "z": (3, 4), "draw": draw}
            yield case(f"{op}-two-{draw}", y + "(x, z)", dyn={"x": "ab", "z": "ab"}, **two)
            yield case(f"{op}-broadcast-{draw}", y + "(x, z)", x=(2, 1, 4), z=(3, 1), draw=draw, channel=0, dyn={"x": "n.b", "z": "c."})
            yield case(f"{op}-constant-{draw}", y + "(x, c)", x=(3, 4), c=floats(0, 1, -1, 0.5), draw=draw, dyn="a.")
            yield case(f"{op}-scalar-{draw}", y + "(c, x)", x=(3, 4), c=F32(0.5), draw=draw, dyn="ab")
            yield case(f"{op}-three-{draw}", y + "(x, c, z)", c=F32(0), **two)
            yield case(f"{op}-two-constants-{draw}", y + "(c, x, d)", c=floats(0, 1, -1, 0.5), d=F32(0), x=(3, 4), draw=draw)
        yield case(f"{op}-one", f"y = {op} (x)", x=(2, 3))
        yield case(f"{op}-two-streams", f"t = Transpose (x); y = {op} (x, t, c)", x=(3, 3), c=F32(0.5), draw="ties")
        yield case(f"{op}-7", f"y = {op} (x, c)", opset=7, x=(2, 3), c=w(2, 3))
    yield case("Concat-two", "y = Concat <axis=1> (x, z)", x=(2, 3, 4), z=(2, 2, 4), dyn={"x": "nab", "z": "ncb"})
    yield case("Concat-one", "y = Concat <axis=1> (x)", x=(2, 3))
    yield case("Concat-constant", "y = Concat <axis=-1> (x, c, z)", x=(2, 3), z=(2, 2), c=w(2, 2), dyn={"x": ".a", "z": ".b"})
    yield case("Concat-constant-front", "y = Concat <axis=0> (c, x)", x=(2, 3), c=w(1, 3), dyn="n.")
    yield case("Concat-other-axis", "y = Concat <axis=2> (c, x)", c=w(2, 3, 1), dyn="..b", **THREE)
    yield case("Concat-inf", "h = Concat <axis=1> (x, c); y = Softmax (h)", x=(2, 3), c=np.full((2, 1), -np.inf, F32), dyn=".a")
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
    yield case("Pad-inf", "h = Pad (x, p, c); y = MaxPool <kernel_shape=[2]> (h)", p=ints(0, 0, 1, 0, 0, 1), c=F32(-np.inf), dyn="na.", **THREE)
    yield case("Pad-attribute", "y = Pad <pads=[0, 1, 1, 0], value=0.5> (x)", opset=7, x=(2, 3))
    yield case("Pad-11", 'y = Pad <mode="reflect"> (x, p)', opset=11, p=ints(0, 1, 0, 2), x=(2, 3))
    yield case("Pad-25", "y = Pad (x, p)", opset=25, p=ints(0, 1, 0, 2), x=(2, 3), runtime=False)


def gathers() -> Iterator[Case]:
    index = np.array([[0, -1], [2, 2]])
    yield case("Gather", "y = Gather <axis=1> (x, i)", i=index, dyn="n.b", **THREE)
    yield case("Gather-scalar", "y = Gather <axis=1> (x, i)", i=i0(-1), dyn="nab", **THREE)
    yield case("Gather-front", "y = Gather (x, i)", i=ints(1, 0, 1), dyn=".ab", **THREE)
    yield case("Gather-last", "y = Gather <axis=-1> (x, i)", i=ints(0, 3, -1), dyn="na.", **THREE)
    yield case("Gather-run", "y = Gather <axis=2> (x, i)", i=ints(1, 2), dyn="na.", **THREE)
    yield case("Gather-fed", "y = Gather <axis=1> (x, i)", i=Fed(ints(2, 0, -1), "k", lambda s: ints(0, 1, 1, -1)), dyn="n.b", **THREE)
    yield case("Gather-of-weights", "e = Gather (t, i); y = Mul (x, e)", t=w(5, 3), i=Fed(ints(4, 0)), x=(2, 3))
    yield case("Gather-ArgMax", "a = ArgMax <axis=1> (x); f = ReduceMax <keepdims=0> (a); y = Gather <axis=1> (x, f)", x=(2, 4))
    of = np.array([[0, -1, 2], [2, 0, 1]])
    yield case("GatherElements", "y = GatherElements (x, i)", i=of, x=(3, 3))
    yield case("GatherElements-last", "y = GatherElements <axis=-1> (x, i)", i=of, x=(2, 4))
    yield case("GatherElements-shorter", "y = GatherElements <axis=1> (x, i)", i=of[:1, :2], x=(2, 4))
    yield case("GatherElements-fed", "y = GatherElements <axis=1> (x, i)", i=Fed(of, "nk", lambda s: np.resize(of, (s["n"], 2))), x=(2, 4), dyn="n.")
    nd = "y = GatherND (x, i)"
    yield case("GatherND", nd, i=np.array([[1, 2], [0, -1], [1, 2]]), dyn="..b", **THREE)
    yield case("GatherND-rows", nd, i=np.array([[[1]], [[0]]]), dyn=".ab", **THREE)
    yield case("GatherND-points", nd, i=np.array([[1, 2, 3], [0, 0, 0]]), **THREE)
    yield case("GatherND-batch", "y = GatherND <batch_dims=1> (x, i)", i=np.array([[[1], [0]], [[2], [-1]]]), dyn="..b", **THREE)
    yield case("GatherND-11", nd, opset=11, i=np.array([[1, 2]]), **THREE)
    yield case("TopK-unsorted", "v, i = TopK <axis=1, sorted=0> (x, k); y = ReduceSum (v, a)", k=ints(2), a=ints(1), x=(3, 5), dyn="ab")
    for attrs in ("", "<largest=0>", "<axis=0>"):
        yield case(f"TopK-{attrs}", f"y, i = TopK {attrs} (x, k)", k=ints(2), x=(3, 5), dyn="ab")
    yield case("TopK-ties", "y, i = TopK (x, k)", draw="ties", k=ints(3), x=(3, 5))
    yield case("TopK-no-indices", "y, _ = TopK (x, k); d = Identity (_)", k=ints(3), x=(3, 5))
    yield case("TopK-1", "y, i = TopK <k=2, axis=1> (x)", opset=7, x=(3, 5))
    yield case("TopK-10", "y, i = TopK (x, k)", opset=10, k=ints(2), x=(3, 5))
    keep = np.array([True, False, True])
    yield case("Compress", "y = Compress <axis=1> (x, c)", c=keep, x=(2, 3), dyn="n.")
    yield case("Compress-short", "y = Compress <axis=1> (x, c)", c=keep[:2], dyn="n.b", **THREE)
    yield case("Compress-flat", "y = Compress (x, c)", c=np.array([True, False, True, True, False, True]), x=(2, 3))
    yield case("Compress-fed", "h = Compress <axis=-1> (x, c); y = ReduceSum (h, a)", c=Fed(keep), a=ints(1), x=(2, 3), dyn="n.")
    yield case("ReverseSequence", "y = ReverseSequence (x, l)", l=ints(4, 2, 1), x=(4, 3, 2), dyn="..b")
    yield case("ReverseSequence-batch-first", "y = ReverseSequence <batch_axis=0, time_axis=1> (x, l)", l=ints(4, 2, 1), x=(3, 4, 2))


def scatters() -> Iterator[Case]:
    at, many = np.array([[0, 2, 1], [1, 0, -1]]), np.array([[0, 2, 1], [1, 0, 1], [0, 2, 1]])
    for op in ("ScatterElements", "ScatterND"):
        for data, updates, shapes in (("x", "u", {"x": (4, 3)}), ("c", "x", {}), ("x", "z", {"x": (4, 3)})):
            for reduction in ("none", "add"):
                if op == "ScatterND":
                    i = np.array([[2], [0]]) if reduction == "none" else np.array([[2], [0], [2]])
                else:
                    i = at if reduction == "none" else many
                n = len(i)
                inputs = dict(shapes) | ({"z": (n, 3)} if updates == "z" else {}) | ({"x": (n, 3)} if updates == "x" else {})
                text = f'y = {op} <reduction="{reduction}"> ({data}, i, {updates})'
                dyn = {"x": ".a" if op == "ScatterND" and updates == "x" else ".."}
                yield case(f"{op}-{data}-{updates}-{reduction}", text, opset=18, i=i, u=w(n, 3), c=w(4, 3, seed=1), dyn=dyn if updates != "x" else {}, **inputs)  # fmt: skip
    y = "y = ScatterElements <axis=-1> (x, i, z)"
    yield case("ScatterElements-axis", y, i=np.array([[0, -1], [2, 1]]), x=(2, 4), z=(2, 2))
    yield case("ScatterElements-shorter", "y = ScatterElements <axis=1> (x, i, z)", i=np.array([[0, 3]]), x=(2, 4), z=(1, 2))
    yield case("ScatterElements-fed", y, i=Fed(np.array([[0, -1], [2, 1]])), x=(2, 4), z=(2, 2), dyn={"x": ".b"})
    yield case("Scatter-9", "y = Scatter <axis=1> (x, i, z)", opset=9, i=np.array([[0, 3], [2, 1]]), x=(2, 4), z=(2, 2))
    yield case("ScatterElements-11", y, opset=11, i=np.array([[0, 3], [2, 1]]), x=(2, 4), z=(2, 2))
    nd = "y = ScatterND (x, i, z)"
    yield case("ScatterND-points", nd, i=np.array([[0, 1], [1, -1]]), x=(2, 3), z=(2,), channel=0)
    yield case("ScatterND-rows", nd, i=np.array([[[0, 2]], [[1, 0]]]), x=(2, 3, 4), z=(2, 1, 4))
    yield case("ScatterND-dynamic-rest", nd, i=np.array([[1]]), x=(3, 4), z=(1, 4), dyn={"x": ".b", "z": ".b"})
    yield case("ScatterND-onto-the-input", "r = Relu (x); u = Gather (r, j); y = ScatterND (x, i, u)", i=np.array([[1]]), j=ints(0), x=(3, 4), dyn=".b")
    yield case("ScatterND-11", nd, opset=11, i=np.array([[2], [0]]), x=(4, 3), z=(2, 3))
    shown = 'y = ScatterND <reduction="add"> (c, i, x)'
    yield case("ScatterND-duplicates", shown, opset=18, i=np.array([[1], [1], [3]]), c=w(4, 2), x=(3, 2), dyn="..")
    zeros = 's = Shape (t); b = ConstantOfShape (s); y = ScatterElements <reduction="add"> (b, i, x)'
    yield case("ScatterElements-graph-pool", zeros, opset=18, t=w(3, 2), i=np.array([[0, 0], [0, 2], [2, 0], [0, 2]]), x=(4, 2))


def resampling() -> Iterator[Case]:
    modes = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    scales = floats(1, 1, 1.7, 0.6)
    for mode in ("nearest", "linear", "cubic"):
        for transform in modes:
            runtime = True
            text = f'y = Resize <mode="{mode}", coordinate_transformation_mode="{transform}"> (x, , s)'
            yield case(f"Resize-{mode}-{transform}", text, s=scales, x=(1, 2, 4, 5), runtime=runtime, dyn="n...")
        yield case(f"Resize-{mode}-sizes", f'y = Resize <mode="{mode}"> (x, , , s)', s=ints(1, 2, 7, 3), x=(1, 2, 4, 5))
        yield case(f"Resize-{mode}-twice", f'y = Resize <mode="{mode}"> (x, , s)', s=floats(1, 1, 2, 2), x=(1, 2, 3, 4), dyn="n.hk")
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for transform in ("half_pixel", "asymmetric", "align_corners"):
            attrs = f'nearest_mode="{nearest}", coordinate_transformation_mode="{transform}"'
            yield case(f"Resize-{nearest}-{transform}", f"y = Resize <{attrs}> (x, , s)", s=floats(1, 1, 2, 1.5), x=(1, 2, 3, 4), dyn="n...")
    yield case("Resize-exclude-outside", 'y = Resize <mode="cubic", exclude_outside=1> (x, , s)', s=scales, x=(1, 2, 4, 5))
    yield case("Resize-cubic-a", 'y = Resize <mode="cubic", cubic_coeff_a=-0.5> (x, , s)', s=scales, x=(1, 2, 4, 5))
    for mode in ("linear", "cubic"):
        yield case(f"Resize-antialias-{mode}", f'y = Resize <mode="{mode}", antialias=1> (x, , s)', s=floats(1, 1, 0.5, 0.6), x=(1, 1, 6, 7))
    yield case("Resize-axes", 'y = Resize <mode="linear", axes=[3, 2]> (x, , s)', s=floats(0.6, 2), x=(1, 2, 4, 5))
    policy = 'y = Resize <axes=[2, 3], mode="MODE", keep_aspect_ratio_policy="POLICY"> (x, , , s)'
    for mode in ("nearest", "linear", "cubic"):
        for keep in ("not_larger", "not_smaller"):
            text = policy.replace("MODE", mode).replace("POLICY", keep)
            yield case(f"Resize-{keep}-{mode}", text, s=ints(7, 8), x=(1, 1, 4, 6), dyn="n...")
    crop = 'y = Resize <mode="MODE", extrapolation_value=0.7, coordinate_transformation_mode="tf_crop_and_resize"> (x, r, , s)'
    boxes = {"": (0.2, 0.1, 0.7, 0.87), "-outside": (0.2, -0.3, 0.7, 1.23), "-flipped": (0.9, 1.17, -0.1, 0.23)}
    for mode in ("nearest", "linear"):
        for name, (top, left, bottom, right) in boxes.items():
            box = floats(0, 0, top, left, 1, 1, bottom, right)
            yield case(f"Resize-crop{name}-{mode}", crop.replace("MODE", mode), s=ints(1, 1, 3, 6), r=box, x=(1, 1, 4, 5))
    one = crop.replace("MODE", "linear").replace("tf_crop_and_resize\"", "tf_crop_and_resize\", axes=[2, 3]")
    yield case("Resize-crop-axes", one, s=ints(1, 4), r=floats(-0.4, 0, 0.2, 1.5), x=(2, 1, 4, 5), dyn="n...")
    yield case("Resize-1d", 'y = Resize <mode="linear"> (x, , s)', s=floats(1, 1, 2.5), x=(2, 2, 4), dyn="n..")
    yield case("Resize-3d", 'y = Resize <mode="linear"> (x, , s)', s=floats(1, 1, 2, 1, 0.5), x=(1, 1, 2, 3, 4))
    yield case("Resize-10", 'y = Resize <mode="linear"> (x, s)', opset=10, s=floats(1, 1, 2, 1.5), x=(1, 1, 4, 5))
    yield case("Resize-11", 'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (x, r, s)',
               opset=11, r=np.zeros(0, F32), s=floats(1, 1, 2, 2), x=(1, 1, 4, 5))  # fmt: skip
    yield case("Upsample-7", "y = Upsample <scales=[1.0, 1.0, 2.0, 3.0]> (x)", opset=7, x=(1, 1, 2, 3))
    yield case("Upsample-9", 'y = Upsample <mode="linear"> (x, s)', opset=9, s=floats(1, 1, 2, 3), x=(1, 1, 2, 3))
    grid = np.random.default_rng(3).uniform(-1.6, 1.6, (2, 3, 4, 2)).astype(F32)
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                text = f'y = GridSample <mode="{mode}", padding_mode="{padding}", align_corners={align}> (x, g)'
                yield case(f"GridSample-{mode}-{padding}-{align}", text, g=grid, x=(2, 2, 4, 5), dyn="..hk")
    yield case("GridSample-16", 'y = GridSample <mode="bilinear"> (x, g)', opset=16, g=grid, x=(2, 2, 4, 5))
    yield case("GridSample-batch-of-one", "y = GridSample (x, g)", g=grid[:1], x=(1, 2, 4, 5), dyn="..hk")
    yield case("GridSample-grid-carries", "t = Tanh (z); y = GridSample (x, t)", x=(2, 2, 4, 5), z=(2, 3, 4, 2), channel=0, rules=("secant",))
    for name, attrs, image, blocks in (
        ("", "", (5, 4), 12), ("-odd", "<pads=[0, 1, 0, 0], strides=[2, 1]>", (5, 4), 8), ("-apart", "<strides=[3, 3]>", (5, 5), 4),
        ("-dilated", "<dilations=[2, 1]>", (5, 4), 9), ("-patches", "<strides=[2, 2]>", (4, 4), 4),
    ):  # fmt: skip
        yield case(f"Col2Im{name}", f"y = Col2Im {attrs} (x, i, b)", i=ints(*image), b=ints(2, 2), x=(2, 8, blocks), dyn="n..")
    yield case("Col2Im-1d", "y = Col2Im (x, i, b)", i=ints(6), b=ints(3), x=(1, 6, 4))


def fourier() -> Iterator[Case]:
    real, both = (2, 6, 1), (2, 5, 2)
    yield case("DFT-real", "y = DFT (x, , a)", a=i0(1), x=real, dyn="n..")
    yield case("DFT-dynamic", "y = DFT (x, , a)", a=i0(1), x=real, dyn="nl.")
    yield case("DFT-complex", "y = DFT (x, , a)", a=i0(1), x=both, dyn="n..")
    yield case("DFT-inverse", "y = DFT <inverse=1> (x, , a)", a=i0(-2), x=both, dyn="n..")
    yield case("DFT-onesided", "y = DFT <onesided=1> (x, l, a)", l=i0(8), a=i0(-2), x=real, dyn="n..")
    yield case("DFT-shorter", "y = DFT (x, l, a)", l=i0(4), a=i0(1), x=real)
    yield case("DFT-front", "y = DFT (x, , a)", a=i0(0), x=(3, 4, 2))
    yield case("DFT-default", "y = DFT (x)", x=(2, 3, 4, 1))
    yield case("DFT-17", "y = DFT <axis=1> (x)", opset=17, x=real)
    stft = {"h": i0(4), "l": i0(6), "g": np.abs(w(6))}
    yield case("STFT", "y = STFT <onesided=1> (x, h, g, l)", x=(1, 16, 1), **stft)
    yield case("STFT-two-sided", "y = STFT <onesided=0> (x, h, g, l)", x=(2, 14, 1), **stft)
    yield case("STFT-no-length", "y = STFT <onesided=1> (x, h, g)", x=(2, 16, 1), h=i0(4), g=stft["g"])
    yield case("STFT-no-window", "y = STFT <onesided=1> (x, h, , l)", x=(2, 16, 1), h=i0(3), l=i0(6))
    yield case("STFT-onesided-by-default", "y = STFT (x, h, g, l)", x=(1, 16, 1), **stft)
    power = "s = STFT <onesided=1> (x, h, g, l); q = Mul (s, s); e = ReduceSum <keepdims=0> (q, a); m = MatMul (e, f); c = Clip (m, lo); y = Log (c)"
    yield case("log-mel", power, x=(1, 16, 1), a=ints(-1), f=np.abs(w(4, 3)), lo=F32(1e-5), **stft)


CASES = [*shapes(), *slices(), *selection(), *pads(), *gathers(), *scatters(), *resampling(), *fourier()]
