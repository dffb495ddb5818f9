"""Gather and scatter in all their forms, TopK, Compress."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import Case, Fed, case, i0, ints, w

THREE = {"x": (2, 3, 4)}


def gathers() -> Iterator[Case]:
    index = np.array([[0, -1], [2, 2]])
    yield case("Gather", "y = Gather <axis=1> (x, i)", i=index, dyn="n.b", **THREE)
    yield case("Gather-scalar", "y = Gather <axis=1> (x, i)", i=i0(-1), dyn="nab", **THREE)
    yield case("Gather-front", "y = Gather (x, i)", i=ints(1, 0, 1), dyn=".ab", **THREE)
    yield case("Gather-last", "y = Gather <axis=-1> (x, i)", i=ints(0, 3, -1), dyn="na.", **THREE)
    yield case("Gather-run", "y = Gather <axis=2> (x, i)", i=ints(1, 2), dyn="na.", **THREE)
    yield case(
        "Gather-fed",
        "y = Gather <axis=1> (x, i)",
        i=Fed(ints(2, 0, -1), "k", lambda s: ints(0, 1, 1, -1)),
        dyn="n.b",
        **THREE,
    )
    yield case("Gather-of-weights", "e = Gather (t, i); y = Mul (x, e)", t=w(5, 3), i=Fed(ints(4, 0)), x=(2, 3))
    yield case(
        "Gather-ArgMax", "a = ArgMax <axis=1> (x); f = ReduceMax <keepdims=0> (a); y = Gather <axis=1> (x, f)", x=(2, 4)
    )
    of = np.array([[0, -1, 2], [2, 0, 1]])
    yield case("GatherElements", "y = GatherElements (x, i)", i=of, x=(3, 3))
    yield case("GatherElements-last", "y = GatherElements <axis=-1> (x, i)", i=of, x=(2, 4))
    yield case("GatherElements-shorter", "y = GatherElements <axis=1> (x, i)", i=of[:1, :2], x=(2, 4))
    yield case(
        "GatherElements-fed",
        "y = GatherElements <axis=1> (x, i)",
        i=Fed(of, "nk", lambda s: np.resize(of, (s["n"], 2))),
        x=(2, 4),
        dyn="n.",
    )
    nd = "y = GatherND (x, i)"
    yield case("GatherND", nd, i=np.array([[1, 2], [0, -1], [1, 2]]), dyn="..b", **THREE)
    yield case("GatherND-rows", nd, i=np.array([[[1]], [[0]]]), dyn=".ab", **THREE)
    yield case("GatherND-points", nd, i=np.array([[1, 2, 3], [0, 0, 0]]), **THREE)
    yield case(
        "GatherND-batch",
        "y = GatherND <batch_dims=1> (x, i)",
        i=np.array([[[1], [0]], [[2], [-1]]]),
        dyn="..b",
        **THREE,
    )
    yield case("GatherND-11", nd, opset=11, i=np.array([[1, 2]]), **THREE)
    yield case(
        "TopK-unsorted",
        "v, i = TopK <axis=1, sorted=0> (x, k); y = ReduceSum (v, a)",
        k=ints(2),
        a=ints(1),
        x=(3, 5),
        dyn="ab",
    )
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
    yield case(
        "Compress-fed",
        "h = Compress <axis=-1> (x, c); y = ReduceSum (h, a)",
        c=Fed(keep),
        a=ints(1),
        x=(2, 3),
        dyn="n.",
    )
    yield case("ReverseSequence", "y = ReverseSequence (x, l)", l=ints(4, 2, 1), x=(4, 3, 2), dyn="..b")
    yield case(
        "ReverseSequence-batch-first",
        "y = ReverseSequence <batch_axis=0, time_axis=1> (x, l)",
        l=ints(4, 2, 1),
        x=(3, 4, 2),
    )


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
                inputs = (
                    dict(shapes) | ({"z": (n, 3)} if updates == "z" else {}) | ({"x": (n, 3)} if updates == "x" else {})
                )
                text = f'y = {op} <reduction="{reduction}"> ({data}, i, {updates})'
                dyn = {"x": ".a" if op == "ScatterND" and updates == "x" else ".."}
                yield case(
                    f"{op}-{data}-{updates}-{reduction}",
                    text,
                    opset=18,
                    i=i,
                    u=w(n, 3),
                    c=w(4, 3, seed=1),
                    dyn=dyn if updates != "x" else {},
                    **inputs,
                )
    y = "y = ScatterElements <axis=-1> (x, i, z)"
    yield case("ScatterElements-axis", y, i=np.array([[0, -1], [2, 1]]), x=(2, 4), z=(2, 2))
    yield case(
        "ScatterElements-shorter", "y = ScatterElements <axis=1> (x, i, z)", i=np.array([[0, 3]]), x=(2, 4), z=(1, 2)
    )
    yield case("ScatterElements-fed", y, i=Fed(np.array([[0, -1], [2, 1]])), x=(2, 4), z=(2, 2), dyn={"x": ".b"})
    yield case("Scatter-9", "y = Scatter <axis=1> (x, i, z)", opset=9, i=np.array([[0, 3], [2, 1]]), x=(2, 4), z=(2, 2))
    yield case("ScatterElements-11", y, opset=11, i=np.array([[0, 3], [2, 1]]), x=(2, 4), z=(2, 2))
    many = np.array([[0, 1], [0, 1], [2, 1]])
    yield case("ScatterElements-repeated", "y = ScatterElements (c, i, x)", i=many, c=w(4, 2), x=(3, 2))
    nd = "y = ScatterND (x, i, z)"
    yield case("ScatterND-points", nd, i=np.array([[0, 1], [1, -1]]), x=(2, 3), z=(2,), channel=0)
    yield case("ScatterND-rows", nd, i=np.array([[[0, 2]], [[1, 0]]]), x=(2, 3, 4), z=(2, 1, 4))
    yield case("ScatterND-dynamic-rest", nd, i=np.array([[1]]), x=(3, 4), z=(1, 4), dyn={"x": ".b", "z": ".b"})
    yield case(
        "ScatterND-onto-the-input",
        "r = Relu (x); u = Gather (r, j); y = ScatterND (x, i, u)",
        i=np.array([[1]]),
        j=ints(0),
        x=(3, 4),
        dyn=".b",
    )
    yield case("ScatterND-11", nd, opset=11, i=np.array([[2], [0]]), x=(4, 3), z=(2, 3))
    for best in ("max", "min"):
        nd = f'y = ScatterND <reduction="{best}"> '
        rows, points = np.array([[1], [1], [3]]), np.array([[0, 1], [0, 1], [2, 1], [0, 0]])
        for text in (f"{nd} (x, i, z)", f"{nd} (c, i, z)", f"{nd} (x, i, d)"):
            both = {"x": (4, 2)} if "x" in text else {}
            both |= {"z": (3, 2)} if "z" in text else {}
            name = f"ScatterND-{best}-{text[-8:-1].replace(', i, ', '')}"
            yield case(name, text, opset=18, i=rows, c=w(4, 2) / 2, d=w(3, 2), draw="ties", channel=1, dyn="", **both)
        text = f'y = ScatterElements <axis=0, reduction="{best}"> (x, i, z)'
        yield case(f"ScatterElements-{best}", text, opset=18, i=points, x=(4, 2), z=(4, 2), draw="ties", channel=1)
    for op, i in (("ScatterND", np.array([[1], [1]])), ("ScatterElements", np.array([[0, 1], [0, 2]]))):
        yield case(f"{op}-mul", f'y = {op} <reduction="mul"> (x, i, d)', opset=18, i=i, d=w(2, 2), x=(3, 2))
    yield case("OneHot-values", "y = OneHot <axis=0> (i, d, x)", x=(2,), i=ints(1, -1, 2), d=ints(3))
    shown = 'y = ScatterND <reduction="add"> (c, i, x)'
    yield case("ScatterND-duplicates", shown, opset=18, i=np.array([[1], [1], [3]]), c=w(4, 2), x=(3, 2), dyn="..")
    zeros = 's = Shape (t); b = ConstantOfShape (s); y = ScatterElements <reduction="add"> (b, i, x)'
    yield case(
        "ScatterElements-graph-pool", zeros, opset=18, t=w(3, 2), i=np.array([[0, 0], [0, 2], [2, 0], [0, 2]]), x=(4, 2)
    )


CASES = [*gathers(), *scatters()]
