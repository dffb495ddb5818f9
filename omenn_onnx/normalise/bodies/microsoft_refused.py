"""Operators of ONNX Runtime that have no linear form, or none that ONNX can write, each with what to do instead."""

from __future__ import annotations

from omenn_onnx.normalise.bodies.base import refuse
from omenn_onnx.normalise.bodies.microsoft import DOMAIN

_REASONS = (
    (
        "Inverse",
        "the inverse of a matrix is no linear image of its entries, which are not frozen as a weight either; invert "
        "outside the explained path",
    ),
    ("CropAndResize", "its boxes and its resampling have no ONNX form; use RoiAlign or Resize"),
    ("RelativePositionBias", "its table depends on the explained input"),
    ("SparseToDenseMatMul", "its weights are a sparse tensor, which ONNX has no product for; store them dense"),
    ("MaxpoolWithMask", "its mask has no ONNX form; export MaxPool"),
    ("WordConvEmbedding", "it has no ONNX form; export its Gather, Conv and ReduceMax"),
    ("AttnLSTM", "it is an attention of its own around an LSTM; export LSTM and MatMul"),
    (
        "MoEGroupRouter MoEPacked RouterGateUpProj",
        "its experts are chosen inside; export the mixture of experts as plain ONNX",
    ),
    (
        "DynamicSparseAttention LongformerAttention PackedSparseAttentionIndexer PackedSparseAttentionIndexerMerge "
        "QOrderedLongformerAttention SparseAttention SparseAttentionIndexer SparsePagedAttention",
        "its sparse layout has no ONNX form; export plain attention",
    ),
    (
        "GatedDeltaNet PackedAttention PackedMultiHeadAttention PagedAttention RemovePadding RestorePadding "
        "VarlenCausalConvWithState",
        "it works on sequences packed without their padding; save the model without packing (RemovePadding)",
    ),
    (
        "DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention",
        "it is one step of a decoding loop over a shared cache; explain the decoder that the step was made from "
        "(optimise it without the beam-search conversion)",
    ),
    (
        "ConvStateReplay GatedDeltaNetStateReplay Mamba2Verify SpeculativePrefixCommit",
        "it checks or replays guessed tokens in a server's decoding loop; explain the decoder by itself",
    ),
    (
        "BeamSearch GreedySearch Sampling WhisperBeamSearch",
        "it chooses tokens in a loop; explain the decoder inside it by itself",
    ),
    (
        "DequantizeBFP DequantizeWithOrder GatherPacked GemmFloat8 MatMulBlockQuantizedFp4Weight "
        "MatMulBlockQuantizedFp8Weight MatMulFpQ4 MatMulPacked QOrderedAttention QOrderedGelu "
        "QOrderedLayerNormalization QOrderedMatMul QuantizeBFP QuantizeWithOrder",
        "it works on numbers packed for one device; export the model in plain ONNX, or quantise it with "
        "onnxruntime.quantization",
    ),
    (
        "HyperConnectionLowRankMix RMSNormRotary",
        "it is several operators fused for one device; export the model in plain ONNX",
    ),
    ("EPContext Snpe", "it holds a program of one device; compile the model that the program was made from"),
    ("SampleOp", "it is a sample without use"),
)
for _ops, _why in _REASONS:
    refuse(*_ops.split(), domain=DOMAIN, why=_why)

refuse(
    *("Affine", "Crop", "DynamicSlice", "GivenTensorFill", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"),
    domain="",
    why="it is an experiment that ONNX gave up and ONNX Runtime alone still runs; export the model again, at opset 13 "
    "or newer",
)

refuse(
    *("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput", "ReorderOutput"),
    "Upsample",
    domain="com.microsoft.nchwc",
    why="its layout of blocked channels is that of one processor; save the model with optimisation level extended, or "
    "compile the model that was optimised",
)
