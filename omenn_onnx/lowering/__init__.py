"""From linear equations to ONNX nodes: the only place that chooses kernels."""

from omenn_onnx.lowering import contractions, convolutions, elementwise, indexing, pools, recurrences, shapes
from omenn_onnx.lowering.base import Lowering

__all__ = ["Lowering", "contractions", "convolutions", "elementwise", "indexing", "pools", "recurrences", "shapes"]
