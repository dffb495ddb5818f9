"""Operators of com.microsoft that have a namesake in ONNX, and those of ONNX Runtime that are refused."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import constant
from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.microsoft import DOMAIN

constant("MurmurHash3", "NGramRepeatBlock", "Tokenizer", domain=DOMAIN)


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


@body("Unique", domain=DOMAIN)
def unique(b: Body) -> None:
    """ONNX's Unique in the order of occurrence: its values; places and counts are integers."""
    y, _, index, counts = b.ops("Unique", 4, b.operand(0), sorted=0)
    for k, name in enumerate((y, index, counts)):
        b.give(k, name)


_SOLVED = "the inverse of a matrix is no linear image of its entries, which are not frozen as a weight either"
REFUSED = {  # with the reasons
    "Inverse": f"{_SOLVED}; invert outside the explained path",
    "CropAndResize": "its boxes and its resampling have no ONNX form; use RoiAlign or Resize",
    "RelativePositionBias": "its table depends on the explained input",
    "MoE": "its experts are chosen inside; export the mixture of experts as plain ONNX",
    "SparseAttention": "its block-sparse layout has no ONNX form; export plain attention",
    "LongformerAttention": "its sliding-window layout has no ONNX form; export plain attention",
    "MaxpoolWithMask": "its mask has no ONNX form; export MaxPool",
    "WordConvEmbedding": "it has no ONNX form; export its Gather, Conv and ReduceMax",
    **dict.fromkeys(
        ("PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "RemovePadding", "RestorePadding"),
        "it works on sequences packed without their padding; save the model without packing (RemovePadding)",
    ),
    **dict.fromkeys(
        ("DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "DecoderAttention"),
        "it is one step of a decoding loop over a shared cache; explain the decoder that the step was made from "
        "(optimise it without the beam-search conversion)",
    ),
    **dict.fromkeys(
        ("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"),
        "it chooses tokens in a loop; explain the decoder inside it by itself",
    ),
}


def _refuse(b: Body) -> None:
    raise b.refuse(REFUSED[b.node.op])


body(*REFUSED, domain=DOMAIN)(_refuse)


def _refuse_blocked(b: Body) -> None:
    raise b.refuse(
        "its layout of blocked channels is that of one processor; save the model with optimisation level extended, or "
        "compile the model that was optimised"
    )


body(
    *(
        "AveragePool",
        "Conv",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "ReorderInput",
        "ReorderOutput",
        "Upsample",
    ),
    domain="com.microsoft.nchwc",
)(_refuse_blocked)
