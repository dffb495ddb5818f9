"""Tensors that hold zeros only."""

from __future__ import annotations

from onnx import numpy_helper

from omenn_onnx.graph.ir import Tensor

_KEEPS_ZERO = frozenset(
    "Cast Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split()
)


def is_zero(t: Tensor) -> bool:
    """Whether a tensor is known to hold zeros only, whatever its run-time size."""
    while True:
        if t.value is not None:
            return not t.value.any()
        node = t.producer
        if node is None or node.domain != "":
            return False
        if node.op == "ConstantOfShape":
            fill = node.attrs.get("value")
            return fill is None or not numpy_helper.to_array(fill).any()
        if node.op == "Concat":
            return all(i is not None and is_zero(i) for i in node.inputs)
        source = node.input(0)
        if node.op not in _KEEPS_ZERO or source is None:
            return False
        t = source
