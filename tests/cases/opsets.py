"""The same small networks at every opset from 7 on, as exporters of that time wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx

from .base import F32, Case, case, floats, ints, pos, w

NEWEST = onnx.defs.onnx_opset_version()
RUNTIME = 26
"""ONNX Runtime 1.31 loads models up to here; onnx's reference evaluator runs the newer ones."""


def cnn(opset: int) -> Case:
    drop = "d = Dropout (p)" if opset >= 12 else "d = Dropout <ratio=0.3> (p)"
    clip = "k = Clip (h, lo, hi)" if opset >= 11 else "k = Clip <min=0.0, max=6.0> (h)"
    pad = "q = Pad (x, pd)" if opset >= 11 else "q = Pad <pads=[0, 0, 1, 0, 0, 0, 1, 1]> (x)"
    text = f"""{pad}; c = Conv <pads=[1, 1, 1, 1]> (q, w, b); h = BatchNormalization (c, s, t, m, v); {clip}
        p = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (k); {drop}; g = GlobalAveragePool (d); f = Flatten (g)
        y = Gemm <transB=1> (f, u, l)"""
    c = {
        "w": w(4, 2, 3, 3),
        "b": w(4),
        "s": w(4),
        "t": w(4, seed=1),
        "m": w(4, seed=2),
        "v": pos(4),
        "u": w(3, 4),
        "l": w(3),
    }
    return case(
        f"cnn-{opset}",
        text,
        opset=opset,
        x=(2, 2, 4, 4),
        dyn="n.hk",
        pd=ints(0, 0, 1, 0, 0, 0, 1, 1),
        lo=F32(0),
        hi=F32(6),
        **c,
    )


def encoder(opset: int) -> Case:
    """Attention, layer norm and GELU written out; axes and splits as attributes or inputs, by opset."""
    mean = "ReduceMean (OF, last)" if opset >= 18 else "ReduceMean <axes=[-1]> (OF)"
    split = "q, k, v = Split <axis=2> (j, three)" if opset >= 13 else "q, k, v = Split <axis=2, split=[4, 4, 4]> (j)"
    unit = (
        "z = Unsqueeze (x, front); r = Squeeze (z, front)"
        if opset >= 13
        else "z = Unsqueeze <axes=[0]> (x); r = Squeeze <axes=[0]> (z)"
    )
    axis = "<axis=2>" if opset < 13 else "<axis=-1>"
    gelu = (
        "e = Erf (h); i = Add (e, one); g = Mul (h, i)"
        if opset >= 9
        else "e = Tanh (h); i = Add (e, one); g = Mul (h, i)"
    )
    norm = (
        f"m = {mean.replace('OF', 'r')}; c = Sub (r, m); s = Mul (c, c); a = {mean.replace('OF', 's')}"
        "; b = Add (a, eps); d = Sqrt (b); n = Div (c, d)"
    )
    text = f"""{unit}; {norm}; j = MatMul (n, wide); {split}; t = Transpose <perm=[0, 2, 1]> (k); o = MatMul (q, t)
        p = Softmax {axis} (o); u = MatMul (p, v); h = Add (u, r); {gelu}; y = Gather <axis=1> (g, first)"""
    c = {"wide": w(4, 12), "eps": F32(1e-3), "one": F32(1), "last": ints(-1), "three": ints(4, 4, 4), "front": ints(0)}
    return case(f"encoder-{opset}", text, opset=opset, x=(2, 3, 4), dyn="nt.", first=np.array(0, np.int64), **c)


def shapes(opset: int) -> Case:
    cut = "s = Slice (x, one, big, one)" if opset >= 10 else "s = Slice <starts=[1], ends=[1000], axes=[1]> (x)"
    scale = "u = Resize (t, , wide)" if opset >= 13 else "u = Resize (t, roi, wide)"
    if opset < 11:
        early = {7: "Upsample <scales=[1.0, 1.0, 2.0, 2.0]> (t)", 9: "Upsample (t, wide)", 10: "Resize (t, wide)"}
        scale = f"u = {early[7 if opset == 8 else opset]}"
    total = "y = ReduceSum (q, two)" if opset >= 13 else "y = ReduceSum <axes=[2]> (q)"
    text = f"""{cut}; t = Reshape (s, form); {scale}; l = LeakyRelu <alpha=0.2> (u); m = Max (l, z)
        q = Concat <axis=1> (m, l); {total}"""
    return case(
        f"shapes-{opset}",
        text,
        opset=opset,
        x=(2, 3, 4),
        dyn="n.." if opset >= 8 else "",
        one=ints(1),
        big=ints(1000),
        form=ints(0, 2, 2, 2),
        wide=floats(1, 1, 2, 2),
        roi=np.zeros(0, F32),
        z=w(1 if opset >= 8 else 2, 2, 4, 4),
        two=ints(2),
    )


def networks() -> Iterator[Case]:
    for opset in range(7, NEWEST + 1):
        for network in (cnn, encoder, shapes):
            yield replace(network(opset), runtime=opset <= RUNTIME)


CASES = list(networks())
