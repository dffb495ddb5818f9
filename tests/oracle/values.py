"""Values of nodes that no explained input reaches, and of operators without a rule, by onnx's reference evaluator.

Where the evaluator is wrong or narrows to float32 (BatchNormalization-9, LRN, norms with stash_type, casts, pooling,
Resize ...) the oracle's own rule computes the value: it is run on a carrier with no columns.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .stream import RULES, Array, Node, NotInOracle, Tensor

BY_RULE = {
    "AveragePool", "BatchNormalization", "Cast", "CastLike", "Col2Im", "Conv", "ConvTranspose", "DFT", "Dropout", "Erf",
    "GatherND", "Gelu", "GlobalAveragePool", "GlobalLpPool", "GridSample", "GroupNormalization", "HardSwish",
    "Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LogSoftmax", "LpNormalization", "LpPool",
    "MaxPool", "Mish",
    "Pad", "RMSNormalization", "Resize", "STFT", "Softmax", "Swish", "Upsample",
}  # fmt: skip
QUANTISERS = ("DequantizeLinear", "QuantizeLinear")
BY_BODY = {"Attention", "MeanVarianceNormalization", "RotaryEmbedding", "SwiGLU"}  # always expanded


def widen(value: Array) -> Array:
    """Floats of every width to float64; the rest as it is."""
    value = np.asarray(value)
    is_float = value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))
    return value.astype(np.float64) if is_float else value


def evaluate(n: Node, values: list[Array | None]) -> list[Array]:
    """The node's outputs by the reference evaluator, floats as float64."""
    proto = onnx.NodeProto()
    proto.CopyFrom(n.proto)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if v is None else f"i{k}" for k, v in enumerate(values))
    proto.output.extend("" if not o else f"o{k}" for k, o in enumerate(n.outputs))
    feeds = {f"i{k}": v for k, v in enumerate(values) if v is not None}

    def info(name: str) -> onnx.ValueInfoProto:
        dtype = feeds[name].dtype if name in feeds else np.dtype(np.float64)
        kind = helper.np_dtype_to_tensor_dtype(dtype) if dtype.kind not in "OU" else onnx.TensorProto.STRING
        return helper.make_tensor_value_info(name, kind, None)

    graph = helper.make_graph([proto], "one", [info(f) for f in feeds], [info(o) for o in proto.output if o])
    opsets = [helper.make_opsetid(n.domain, n.opset)] + ([helper.make_opsetid("", n.opset)] if n.domain else [])
    try:
        outputs = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except Exception as error:
        raise n.refuse(f"no value: {type(error).__name__}: {error}") from error
    found = iter(outputs)
    return [widen(next(found)) if o else np.zeros(0) for o in n.outputs]


def constant_node(n: Node, inputs: list[Tensor | None]) -> list[Tensor]:
    """Outputs of a node without carrier inputs."""
    if n.op == "Constant":
        return [Tensor(_constant_value(n))]
    first = inputs[0] if inputs else None
    # The evaluator refuses a depth of shape [1], and has not all versions of the quantisers.
    if n.op in ("OneHot", *QUANTISERS) and (n.domain, n.op) in RULES:
        return [RULES[n.domain, n.op](n, *inputs)]
    if (n.domain, n.op) in RULES and n.op in BY_RULE and first is not None and first.value.dtype.kind == "f":
        empty = np.zeros((*first.shape, 0))
        promoted = Tensor(first.value, empty, empty)
        columns, n.columns = n.columns, type(n.columns)(0, 0)
        try:
            y = RULES[n.domain, n.op](n, promoted, *inputs[1:])
        finally:
            n.columns = columns
        return [Tensor(t.value) for t in (y if isinstance(y, list) else [y])]
    return [Tensor(v) for v in evaluate(n, [None if t is None else t.value for t in inputs])]


def _constant_value(n: Node) -> Array:
    for key, value in n.attrs.items():
        if key == "value":
            return widen(onnx.numpy_helper.to_array(value))
        if key in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float64)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
        if key in ("value_string", "value_strings"):
            return np.asarray(value, dtype=object)
    raise NotInOracle(f"Constant {n.name!r} without a dense value")
