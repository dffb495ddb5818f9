"""Operators of com.microsoft that move, look up or transform, most with a namesake in ONNX."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import constant
from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.microsoft import DOMAIN

constant(
    *("BifurcationDetector", "DynamicTimeWarping", "IsAllFinite", "MurmurHash3", "NGramHashMapping"),
    *("NGramRepeatBlock", "Tokenizer", "Unique", "VarlenNGramHashMapping"),
    domain=DOMAIN,
)


@body("Trilu", domain=DOMAIN)
def trilu(b: Body) -> None:
    """ONNX's Trilu."""
    b.give(0, b.op("Trilu", b.operand(0), b.operand(1), upper=int(b.attr("upper", 1))))


@body("GatherND", domain=DOMAIN)
def gather_nd(b: Body) -> None:
    """ONNX's GatherND."""
    b.give(0, b.op("GatherND", b.operand(0), b.op("Cast", b.operand(1), to=7)))


@body("GridSample", domain=DOMAIN)
def grid_sample(b: Body) -> None:
    """ONNX's GridSample, whose modes have other names."""
    modes = {"bilinear": "linear", "bicubic": "cubic"}
    mode = str(b.attr("mode", "bilinear"))
    attrs = {"align_corners": b.attr("align_corners", 0), "padding_mode": b.attr("padding_mode", "zeros")}
    b.give(0, b.op("GridSample", b.operand(0), b.operand(1), mode=modes.get(mode, mode), **attrs))


@body("Pad", domain=DOMAIN)
def pad(b: Body) -> None:
    """ONNX's Pad."""
    pads = b.op("Reshape", b.operand(1), [-1])
    value = None if b.operand(2) is None else b.op("Reshape", b.operand(2), np.zeros(0, np.int64))
    b.give(0, b.op("Pad", b.operand(0), pads, value, mode=str(b.attr("mode", "constant"))))


@body("ExpandDims", domain=DOMAIN)
def expand_dims(b: Body) -> None:
    """ONNX's Unsqueeze."""
    b.give(0, b.op("Unsqueeze", b.operand(0), [int(b.number(1, "axis").reshape(()))]))


@body("CDist", domain=DOMAIN)
def pairwise_distances(b: Body) -> None:
    """The Euclidean distance, or its square, of each row of A to each row of B."""
    metric = str(b.attr("metric", "sqeuclidean"))
    if metric not in ("euclidean", "sqeuclidean"):
        raise b.refuse(f"metric {metric!r} has no ONNX form")
    difference = b.op("Sub", b.op("Unsqueeze", b.operand(0), [1]), b.op("Unsqueeze", b.operand(1), [0]))
    squares = b.op("ReduceSumSquare", difference, [2], keepdims=0)
    b.give(0, squares if metric == "sqeuclidean" else b.op("Sqrt", squares))


@body("TorchEmbedding", domain=DOMAIN)
def torch_embedding(b: Body) -> None:
    """Gather of rows."""
    b.give(0, b.op("Gather", b.operand(0), b.operand(1), axis=0))


@body("Range", domain=DOMAIN)
def numbers(b: Body) -> None:
    """ONNX's Range, whose step may be left out."""
    one = np.ones((), b.tensor(0).dtype) if b.tensor(0) is not None else None  # type: ignore[union-attr]
    start, limit = (b.op("Squeeze", b.operand(k)) for k in (0, 1))
    b.give(0, b.op("Range", start, limit, one if b.operand(2) is None else b.op("Squeeze", b.operand(2))))


@body("UnfoldTensor", domain=DOMAIN)
def unfold_tensor(b: Body) -> None:
    """All windows of ``size`` along an axis, ``step`` apart; the places in a window become the last axis."""
    rank = len(b.shape(0))
    axis, size, step = int(b.attr("dim", -1)) % rank, int(b.attr("size")), int(b.attr("step", 1))
    length = b.op("Squeeze", b.op("Shape", b.operand(0), start=axis, end=axis + 1), [0])
    end = b.op("Sub", length, np.asarray(size - 1))
    starts = b.op("Range", np.asarray(0), end, np.asarray(step))
    places = b.op("Add", b.op("Unsqueeze", starts, [1]), list(range(size)))
    windows = b.op("Gather", b.operand(0), places, axis=axis)
    perm = [k for k in range(rank + 1) if k != axis + 1]
    b.give(0, b.op("Transpose", windows, perm=[*perm, axis + 1]))


# Fourier


def _real_transform(b: Body) -> None:
    if int(b.attr("normalized", 0)) or not int(b.attr("onesided", 1)) or int(b.attr("signal_ndim", 1)) != 1:
        raise b.refuse("its kernel has only the one-sided transform of one axis, not normalised")


@body("Rfft", domain=DOMAIN)
def real_fourier(b: Body) -> None:
    """The one-sided discrete Fourier transform of the last axis, real and imaginary parts as a new one."""
    _real_transform(b)
    rank = len(b.shape(0))
    signal = b.op("Unsqueeze", b.operand(0), [rank])
    b.give(0, b.op("DFT", signal, None, np.asarray(rank - 1), onesided=1))


@body("Irfft", domain=DOMAIN)
def inverse_real_fourier(b: Body) -> None:
    """The real signal of n = 2 (count - 1) numbers whose transform's first half is given:
    x_t = 1/n sum_k w_k (Re_k cos(2 pi k t / n) - Im_k sin(2 pi k t / n)), w_k = 1 at both ends and 2 between."""
    _real_transform(b)
    *_, count, _parts = b.shape(0)
    if not isinstance(count, int) or count < 2:
        raise b.refuse("the size of its axis is not known")
    n = 2 * (count - 1)
    angle = 2 * np.pi * np.outer(np.arange(count), np.arange(n)) / n
    weight = np.full((count, 1), 2.0)
    weight[[0, -1]] = 1.0
    table = np.stack([weight * np.cos(angle), -weight * np.sin(angle)]) / n
    b.give(0, b.op("Einsum", b.operand(0), table.astype(b.dtype), equation="...kc,ckt->...t"))


@body("ComplexMul", "ComplexMulConj", domain=DOMAIN)
def complex_product(b: Body) -> None:
    """The product of complex numbers, as pairs along the last axis; B perhaps conjugated."""
    (a, c), (d, e) = (b.ops("Split", 2, b.operand(k), [1, 1], axis=-1) for k in (0, 1))
    if b.node.op == "ComplexMulConj":
        e = b.op("Neg", e)
    real = b.op("Sub", b.op("Mul", a, d), b.op("Mul", c, e))
    imaginary = b.op("Add", b.op("Mul", a, e), b.op("Mul", c, d))
    b.give(0, b.op("Concat", real, imaginary, axis=-1))
