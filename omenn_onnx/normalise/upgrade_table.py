"""The decisions of the opset upgrade: every change of an operator after opset 7 that needs no adapter, and why.

With ``upgrade_rules.ADAPTERS`` this covers every operator and version that onnx knows; a test holds it, by name.
"""

from __future__ import annotations

_SAME_SIGNATURE: dict[tuple[int, ...], tuple[str, ...]] = {
    (8, 12, 13): (
        "Max",
        "Min",
    ),
    (8, 13): (
        "Mean",
        "Sum",
    ),
    (9, 11, 13, 21, 23, 24, 25): ("Flatten",),
    (9, 13): (
        "Gemm",
        "Greater",
        "Less",
        "MatMul",
    ),
    (9, 13, 19, 21, 23, 24, 25): ("Constant",),
    (9, 13, 21, 23, 25, 28): ("Cast",),
    (9, 16): ("PRelu",),
    (11,): (
        "AveragePool",
        "Hardmax",
        "LogSoftmax",
        "NonMaxSuppression",
        "ReduceSum",
        "Softmax",
        "Split",
    ),
    (11, 12): ("MaxPool",),
    (11, 12, 13, 20): (
        "ReduceMax",
        "ReduceMin",
    ),
    (11, 13): (
        "ArgMax",
        "ArgMin",
        "Concat",
        "Gather",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSumSquare",
        "Slice",
    ),
    (11, 13, 16, 19, 21, 23, 24, 25): (
        "If",
        "Loop",
    ),
    (11, 13, 19): ("Equal",),
    (11, 16, 19, 21, 23, 24, 25): ("Scan",),
    (11, 21, 23, 24, 25): (
        "Squeeze",
        "Unsqueeze",
    ),
    (11, 22): (
        "Conv",
        "LpPool",
        "MaxUnpool",
    ),
    (11, 28): ("Compress",),
    (12,): ("Clip",),
    (12, 13, 15): ("Pow",),
    (13,): (
        "Abs",
        "Ceil",
        "Exp",
        "Expand",
        "Floor",
        "GatherElements",
        "GatherND",
        "LRN",
        "Log",
        "MeanVarianceNormalization",
        "Neg",
        "NonZero",
        "Reciprocal",
        "Sigmoid",
        "Sign",
        "SoftmaxCrossEntropyLoss",
        "SpaceToDepth",
        "Sqrt",
        "Tanh",
        "Tile",
    ),
    (13, 14): (
        "Add",
        "Div",
        "Mul",
        "Relu",
        "Sub",
    ),
    (13, 14, 16, 19, 21, 23, 24, 25): ("Identity",),
    (13, 18): (
        "ScatterElements",
        "ScatterND",
    ),
    (13, 19, 21, 23, 24, 25): (
        "Pad",
        "Reshape",
        "Shape",
        "Size",
    ),
    (13, 20): ("IsNaN",),
    (13, 21, 23, 24, 25): ("Transpose",),
    (13, 22): (
        "Dropout",
        "NegativeLogLikelihoodLoss",
    ),
    (13, 28): (
        "DepthToSpace",
        "Mod",
    ),
    (14,): ("CumSum",),
    (15,): ("BatchNormalization",),
    (16,): (
        "GreaterOrEqual",
        "LeakyRelu",
        "LessOrEqual",
        "Where",
    ),
    (18, 28): ("OptionalGetElement",),
    (19, 24, 25, 28): ("DequantizeLinear",),
    (20,): ("IsInf",),
    (20, 21, 23, 24, 25): ("ConstantOfShape",),
    (21,): ("QLinearMatMul",),
    (21, 23, 25): ("CastLike",),
    (22,): (
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Bernoulli",
        "ConvTranspose",
        "Cos",
        "Cosh",
        "DeformConv",
        "Det",
        "Elu",
        "EyeLike",
        "GRU",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "GridSample",
        "HardSigmoid",
        "HardSwish",
        "InstanceNormalization",
        "LSTM",
        "LpNormalization",
        "MaxRoiPool",
        "Mish",
        "Multinomial",
        "RNN",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "RoiAlign",
        "Round",
        "Selu",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Tan",
        "ThresholdedRelu",
    ),
    (24,): (
        "SplitToSequence",
        "TopK",
    ),
    (24, 25, 28): ("QuantizeLinear",),
    (28,): (
        "BitShift",
        "Celu",
        "Einsum",
        "OneHot",
        "Optional",
        "OptionalHasElement",
        "ReverseSequence",
        "Unique",
    ),
}
"""Versions -> operators whose inputs, outputs and attributes are the same there as before: more element types, negative
axes, broadcasting where equal shapes were asked for, or a clearer text."""

_NEW_OPTIONS = {
    "ArgMax": (12,),
    "ArgMin": (12,),
    "AveragePool": (10, 19),
    "Cast": (19,),
    "CastLike": (19,),
    "Constant": (11, 12),
    "DepthToSpace": (11,),
    "DequantizeLinear": (13, 21, 23),
    "GRU": (14,),
    "GatherND": (12,),
    "Gemm": (11,),
    "LSTM": (14,),
    "LpPool": (18,),
    "MaxPool": (8, 10),
    "OptionalHasElement": (18,),
    "Pad": (18,),
    "QuantizeLinear": (13, 21, 23),
    "RNN": (14,),
    "Reshape": (14,),
    "Resize": (18,),
    "ScatterElements": (16,),
    "ScatterND": (16,),
    "Shape": (15,),
    "SpaceToDepth": (28,),
    "TopK": (11,),
}
"""Operator -> versions that added optional inputs or attributes whose default is what the operator did before."""

_READ_WITH_CARE = {
    "Attention": (25,),
    "AveragePool": (22,),
    "Cast": (24,),
    "CastLike": (24,),
    "Clip": (13,),
    "ConvTranspose": (11,),
    "Dropout": (10,),
    "MaxPool": (22,),
    "OneHot": (11,),
    "Range": (27,),
    "Resize": (19,),
}
"""Operator -> versions whose text changed in meaning, but not what ONNX Runtime computes (measured, see the tests):

- OneHot 11: negative indices count from the end; the runtime did so in 9 too, where the text says "no class".
- ConvTranspose 11: which side gets the odd padding of SAME_UPPER was stated the wrong way round before.
- AveragePool, MaxPool 22: windows that start in the right padding are dropped; the runtime always did.
- Dropout 10: the mask became boolean; the adapter to 12 sees to it.
- Attention 25: sliding windows, off by default.
- Range 27, Cast and CastLike 24: precision of 16-bit ranges and infinities in 8-bit floats, which was left open before.
- Resize 19: the text of the coordinate formulas, and a new one.
- Clip 13: min above max was left open before.
"""


def _collect() -> dict[str, frozenset[int]]:
    versions: dict[str, set[int]] = {}
    for where, operators in _SAME_SIGNATURE.items():
        for op in operators:
            versions.setdefault(op, set()).update(where)
    for table in (_NEW_OPTIONS, _READ_WITH_CARE):
        for op, where in table.items():
            versions.setdefault(op, set()).update(where)
    return {op: frozenset(found) for op, found in versions.items()}


COMPATIBLE = _collect()
"""Operator -> versions to which a node of the version before can be carried as it is."""
