"""MatMul, Gemm, Einsum, attention, perceptrons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, Fed, case, ints, pos, w

INF = F32(-np.inf)
SCALE = F32(0.7)


def mlp() -> Iterator[Case]:
    text = "a = Gemm <transB=1> (x, w, b); r = ACT; h = Gemm <transB=1> (r, v, c); z = Softmax (h); y = Identity (z)"
    c = {"w": w(5, 4), "b": w(5), "v": w(3, 5), "c": w(3)}
    for act in ("Relu", "Tanh", "Sigmoid", "Gelu", "LeakyRelu", "Elu"):
        yield case(f"mlp-{act}", text.replace("ACT", f"{act} (a)"), x=(2, 4), dyn="n.", **c)
    head = "a = Gemm (x, w, b); r = Relu (a); y = MatMul (r, v)"
    yield case("mlp-logits", head, x=(3, 4), w=w(4, 5), b=w(5), v=w(5, 2), dyn="n.")


def attention() -> Iterator[Case]:
    heads = """q0 = MatMul (x, wq); k0 = MatMul (x, wk); v0 = MatMul (x, wv)
        q1 = Reshape (q0, s); k1 = Reshape (k0, s); v1 = Reshape (v0, s)
        q = Transpose <perm=[0, 2, 1, 3]> (q1); k = Transpose <perm=[0, 2, 3, 1]> (k1)
        v = Transpose <perm=[0, 2, 1, 3]> (v1)
        a0 = MatMul (q, k); a = Mul (a0, scale); MASK p = Softmax <axis=-1> (m); GUARD o = MatMul (r, v)
        t = Transpose <perm=[0, 2, 1, 3]> (o); u = Reshape (t, back); h = MatMul (u, wo); y = Add (x, h)"""
    c = {
        "wq": w(4, 4),
        "wk": w(4, 4, seed=1),
        "wv": w(4, 4, seed=2),
        "wo": w(4, 4, seed=3),
        "scale": SCALE,
        "s": ints(0, 0, 2, 2),
        "back": ints(0, 0, 4),
    }

    def text(mask: str = "m = Identity (a);", guard: str = "r = Identity (p);") -> str:
        return heads.replace("MASK", mask).replace("GUARD", guard)

    x = {"x": (2, 3, 4), "dyn": "nt."}
    yield case("attention", text(), **x, **c)
    causal = np.where(np.tri(3) > 0, 0, -np.inf).astype(F32)
    yield case("attention-causal", text("m = Add (a, c);"), c=causal, x=(2, 3, 4), dyn="n..", **c)
    where = "m = Where (keep, a, low);"
    keep = Fed(np.array([[[[True, True, False]]], [[[True, False, True]]]]))
    yield case("attention-where-inf", text(where), keep=keep, low=INF, x=(2, 3, 4), **c)
    yield case("attention-where-large", text(where), keep=keep, low=F32(-3e38), x=(2, 3, 4), **c)
    yield case("attention-where-1e9", text(where), keep=keep, low=F32(-1e9), x=(2, 3, 4), **c)
    guard = "nan = IsNaN (p); r = Where (nan, zero, p);"
    yield case(
        "attention-nan-guard",
        text(where, guard),
        keep=keep,
        low=INF,
        zero=F32(0),
        x=(2, 3, 4),
        covers=("NaNGuard",),
        **c,
    )
    yield case("attention-cast", text(guard="r0 = Cast <to=1> (p); r = Dropout (r0);"), **x, **c)
    moved = "r0 = Transpose <perm=[1, 0, 2, 3]> (p); r = Transpose <perm=[1, 0, 2, 3]> (r0);"
    yield case("attention-moved", text(guard=moved), **x, **c)
    unit = "r0 = Unsqueeze (p, one); r = Squeeze (r0, one);"
    yield case("attention-unit-axes", text(guard=unit), one=ints(1), **x, **c)
    flat = "r0 = Reshape (p, f); r = Reshape (r0, g);"
    yield case("attention-reshaped", text(guard=flat), f=ints(4, 3, 3), g=ints(2, 2, 3, 3), x=(2, 3, 4), **c)
    scaled = "r = Mul (p, half);"
    yield case("attention-scaled-is-no-softmax", text(guard=scaled), half=F32(0.5), **x, **c)
    other = text().replace("Softmax <axis=-1>", "Softmax <axis=-2>")
    yield case("attention-other-axis", other, **x, **c)
    merged = """p = Softmax (x); s = Shape <start=0, end=1> (x); n = Mul (s, two); t = Concat <axis=0> (n, three, rest)
        q = Reshape (p, t); v = Reshape (z, t); y = MatMul (q, v)"""
    numbers = {"two": ints(2), "three": ints(3), "rest": ints(-1)}  # heads merged into a free batch
    free = {"x": "n...", "z": "n..."}
    yield case("MatMul-softmax-merged", merged, x=(2, 2, 3, 3), z=(2, 2, 3, 4), dyn=free, **numbers)
    pooled = "l = MatMul (x, k); p = Softmax <axis=1> (l); m = Mul (x, p); y = ReduceSum <keepdims=0> (m, one)"
    yield case("attention-pooling", pooled, k=w(4, 1), one=ints(1), **x)
    cross = "k = Transpose <perm=[0, 2, 1]> (z); s = MatMul (x, k); p = Softmax (s); y = MatMul (p, z)"
    yield case("attention-cross", cross, x=(2, 3, 4), z=(2, 5, 4), dyn={"x": "nt.", "z": "ns."})
    left = "s = MatMul (x, k); p = Softmax <axis=0> (s); t = Transpose (x); y = MatMul (t, p)"
    yield case("softmax-weight-on-the-right", left, x=(3, 4), k=w(4, 2), dyn="t.")
    constant = "y = MatMul (p, x)"
    yield case("constant-rows-are-no-softmax", constant, x=(2, 3, 4), p=np.full((3, 3), 1 / 3, F32), dyn="n.c")
    linear = """k = Softmax <axis=1> (x); kt = Transpose <perm=[0, 2, 1]> (k); m = MatMul (kt, x); q = Softmax (x)
        y = MatMul (q, m)"""
    yield case("linear-attention", linear, x=(2, 3, 4), dyn="nt.")
    for opset in (11, 13):
        yield case(f"attention-{opset}", text(), opset=opset, x=(2, 3, 4), **c)
    block = """n = LayerNormalization (x, g, b); q = MatMul (n, wq); k = MatMul (n, wk)
        kt = Transpose <perm=[0, 2, 1]> (k)
        s0 = MatMul (q, kt); s = Mul (s0, scale); p = Softmax (s); v = MatMul (n, wv); o = MatMul (p, v); r = Add (x, o)
        m = LayerNormalization (r, g, b); f = MatMul (m, wo); e = Gelu (f); d = MatMul (e, wq); t = Add (r, d)
        y = Gather <axis=1> (t, zero)"""
    rest = {k: c[k] for k in ("wq", "wk", "wv", "wo", "scale")}
    yield case("transformer-block", block, g=pos(4), b=w(4), zero=ints(0)[0], **x, **rest)
    vit = """f0 = Conv <strides=[2, 2]> (x, w); f1 = Reshape (f0, s); f = Transpose <perm=[0, 2, 1]> (f1)
        c = Expand (cls, one); t = Concat <axis=1> (c, f); y = Add (t, pe)"""
    yield case(
        "vit-embedding",
        vit,
        x=(2, 2, 4, 4),
        w=w(3, 2, 2, 2),
        s=ints(0, 0, -1),
        cls=w(1, 1, 3),
        one=ints(2, 1, 1),
        pe=w(5, 3),
    )


def contractions() -> Iterator[Case]:
    b3 = {"x": (2, 3, 4), "dyn": "nt."}
    yield case("MatMul-weight", "y = MatMul (x, w)", w=w(4, 5), **b3)
    yield case("MatMul-batched-weight", "y = MatMul (x, w)", w=w(2, 4, 5), x=(2, 3, 4), dyn=".t.")
    yield case("MatMul-weight-grows", "y = MatMul (x, w)", w=w(5, 1, 4, 3), **b3)
    yield case("MatMul-matrix-times-batch", "y = MatMul (x, w)", w=w(2, 4, 5), x=(3, 4), dyn="t.")
    yield case("MatMul-left", "y = MatMul (w, x)", w=w(5, 3), x=(2, 3, 4), dyn="n.c")
    yield case("MatMul-left-batched", "y = MatMul (w, x)", w=w(2, 1, 5, 3), x=(2, 3, 4), dyn="n.c")
    yield case("MatMul-left-batch-to-matrix", "y = MatMul (w, x)", w=w(2, 5, 3), x=(3, 4), dyn=".c")
    yield case("MatMul-vector", "y = MatMul (x, w)", w=w(4), **b3)
    yield case("MatMul-vector-left", "y = MatMul (w, x)", w=w(3), x=(2, 3, 4), dyn="n.c")
    yield case("MatMul-carried-vector", "y = MatMul (x, w)", w=w(4, 3), x=(4,))
    yield case("MatMul-carried-vector-batched", "y = MatMul (x, w)", w=w(2, 4, 3), x=(4,))
    yield case("MatMul-carried-vector-right", "y = MatMul (w, x)", w=w(2, 3, 4), x=(4,))
    yield case("MatMul-dot", "y = MatMul (x, w)", w=w(4), x=(4,))
    yield case("MatMul-dot-two", "y = MatMul (x, z)", x=(4,), z=(4,), dyn={"x": "n", "z": "n"})
    yield case("MatMul-two", "y = MatMul (x, z)", x=(2, 3, 4), z=(2, 4, 5), dyn={"x": "nta", "z": "nab"})
    yield case("MatMul-two-broadcast", "y = MatMul (x, z)", x=(2, 3, 4), z=(4, 5), dyn={"x": "nta", "z": "ab"})
    yield case("MatMul-two-grow", "y = MatMul (x, z)", x=(3, 1, 3, 4), z=(2, 4, 5), dyn={"x": "n.ta", "z": "mab"})
    yield case("MatMul-gram", "t = Transpose <perm=[0, 2, 1]> (x); y = MatMul (x, t)", x=(2, 3, 4), dyn="nta")
    yield case("MatMul-9", "y = MatMul (x, w)", opset=9, w=w(4, 5), x=(2, 4))
    g = {"w": w(4, 5), "x": (3, 4), "dyn": "n."}
    yield case("Gemm", "y = Gemm (x, w, b)", b=w(5), **g)
    yield case("Gemm-no-C", "y = Gemm (x, w)", **g)
    yield case(
        "Gemm-all",
        "y = Gemm <transA=1, transB=1, alpha=0.5, beta=2.0> (x, w, b)",
        x=(4, 3),
        w=w(5, 4),
        b=w(3, 1),
        dyn="..",
    )
    yield case("Gemm-transA", "y = Gemm <transA=1, alpha=-1.5> (x, w, b)", x=(4, 3), w=w(4, 5), b=w(1, 5), dyn=".n")
    yield case("Gemm-beta-0", "y = Gemm <beta=0.0> (x, w, b)", b=w(5), **g)
    yield case("Gemm-scalar-C", "y = Gemm <beta=0.5> (x, w, b)", b=F32(1.5), **g)
    yield case("Gemm-right", "y = Gemm <transB=1> (w, x, b)", x=(3, 4), w=w(5, 4), b=w(3), dyn="..")
    yield case("Gemm-C-carries", "y = Gemm <alpha=2.0, beta=0.5> (a, b, x)", x=(1, 5), a=w(3, 4), b=w(4, 5), dyn="..")
    yield case(
        "Gemm-A-and-C-carry", "y = Gemm <beta=0.5> (x, w, z)", x=(3, 4), w=w(4, 4), z=(4,), channel=0, dyn={"x": "n."}
    )
    yield case(
        "Gemm-two", "y = Gemm <transB=1, alpha=0.5> (x, z, b)", x=(3, 4), z=(5, 4), b=w(5), dyn={"x": "na", "z": ".a"}
    )
    yield case("Gemm-all-carry", "y = Gemm (x, z, x)", x=(3, 3), z=(3, 3))
    yield case("Gemm-7", "y = Gemm <transB=1> (x, w, b)", opset=7, x=(3, 4), w=w(5, 4), b=w(5))


def einsums() -> Iterator[Case]:
    def e(name: str, equation: str, operands: str, **kw: object) -> Case:
        return case(f"Einsum-{name}", f'y = Einsum <equation="{equation}"> ({operands})', **kw)

    yield e("matrix", "ij,jk->ik", "x, w", x=(3, 4), w=w(4, 5), dyn="i.")
    yield e("transposed", "ij,kj->ki", "x, w", x=(3, 4), w=w(5, 4), dyn="i.")
    yield e("right", "ij,bjk->bik", "w, x", x=(2, 4, 3), w=w(5, 4), dyn="n.k")
    yield e("spaces", " i j , j k -> i k ", "x, w", x=(3, 4), w=w(4, 5))
    yield e("implicit", "ij,jk", "x, w", x=(3, 4), w=w(4, 5), dyn="i.")
    yield e("implicit-sorted", "ba", "x", x=(3, 4), dyn="ij")
    yield e("implicit-dots", "...j,jk", "x, w", x=(2, 3, 4), w=w(4, 5), dyn="nt.")
    yield e("dots", "...j,jk->...k", "x, w", x=(2, 3, 4), w=w(4, 5), dyn="nt.")
    yield e("dots-batch", "...ij,...jk->...ik", "x, z", x=(2, 3, 4), z=(2, 4, 5), dyn={"x": "nia", "z": "nab"})
    yield e("dots-broadcast", "...ij,...jk->...ik", "x, w", x=(2, 3, 4), w=w(1, 4, 2), dyn="ni.")
    yield e("dots-grow", "...ij,...jk->...ik", "x, w", x=(1, 3, 4), w=w(2, 4, 2), dyn=".i.")
    yield e("dots-middle", "a...c,c->...a", "x, w", x=(2, 3, 4), w=w(4), dyn="nt.")
    yield e("dots-sum", "...i->...", "x", x=(2, 3, 4), dyn="nti")
    yield e("unit-axis", "ij,ij->i", "x, w", x=(3, 4), w=w(3, 1), dyn="..")
    yield e("unit-axis-carried", "ij,ij->ij", "w, x", x=(3, 1), w=w(3, 4))
    yield e("unit-axis-summed", "ij,ij->i", "w, x", x=(3, 1), w=w(3, 4))
    yield e("sum", "ij->j", "x", x=(3, 4), dyn="ij")
    yield e("total", "ij->", "x", x=(3, 4), dyn="ij")
    yield e("transpose", "ijk->kij", "x", x=(2, 3, 4), dyn="ijk")
    yield e("outer", "i,j->ij", "x, w", x=(3,), w=w(4), dyn="i")
    yield e("outer-two", "i,j->ij", "x, z", x=(3,), z=(4,), dyn={"x": "i", "z": "j"})
    yield e("elementwise", "ij,ij->ij", "x, z", x=(3, 4), z=(3, 4), dyn={"x": "ij", "z": "ij"})
    yield e("lone-label-of-weight", "ij,jk->i", "x, w", x=(3, 4), w=w(4, 5), dyn="i.")
    yield e("lone-label-of-carrier", "ijl,jk->ik", "x, w", x=(3, 4, 2), w=w(4, 5), dyn="i.l")
    yield e("two", "bij,bkj->bik", "x, z", x=(2, 3, 4), z=(2, 5, 4), dyn={"x": "nia", "z": "nka"})
    yield e("three-weights", "ij,jk,kl->il", "x, w, v", x=(3, 4), w=w(4, 2), v=w(2, 3), dyn="i.")
    yield e("three-carriers", "ij,jk,kl->il", "x, z, x", x=(3, 3), z=(3, 3))
    yield case(
        "Einsum-three-one-gate", 's = Sigmoid (z); y = Einsum <equation="ij,jk,ik->ik"> (x, s, x)', x=(3, 3), z=(3, 3)
    )
    yield case(
        "Einsum-three-two-gates",
        's = Sigmoid (z); e = Exp (x); y = Einsum <equation="ij,jk,ik->ik"> (x, s, e)',
        x=(3, 3),
        z=(3, 3),
    )
    yield case("Einsum-gate", 's = Sigmoid (z); y = Einsum <equation="bij,bjk->bik"> (s, x)', x=(2, 3, 4), z=(2, 5, 3))
    attention = """s = Einsum <equation="bqhd,bkhd->bhqk"> (x, z); p = Softmax (s)
        y = Einsum <equation="bhqk,bkhd->bqhd"> (p, x)"""
    yield case("Einsum-attention", attention, x=(2, 3, 2, 2), z=(2, 3, 2, 2), dyn={"x": "nthd", "z": "nthd"})
    yield e("diagonal", "ii->i", "x", x=(3, 3))
    yield e("trace", "bii->b", "x", x=(2, 3, 3), dyn="n..")
    yield e("diagonal-of-three", "iii->i", "x", x=(3, 3, 3))
    yield e("diagonal-times-weight", "bii,ij->bj", "x, w", x=(2, 3, 3), w=w(3, 4), dyn="n..")
    yield e("diagonal-of-weight", "bi,ii->bi", "x, w", x=(2, 3), w=w(3, 3), dyn="n.")
    yield e("12", "bij,bkj->bik", "x, w", opset=12, x=(2, 3, 4), w=w(2, 5, 4))


CASES = [*mlp(), *attention(), *contractions(), *einsums()]
