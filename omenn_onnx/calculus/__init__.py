"""The dynamic-linear calculus: one file an operator family, the only place where operators have mathematics."""

from omenn_onnx.calculus import (
    contractions,
    convolutions,
    einsum,
    elementwise,
    grid,
    indexing,
    norms,
    pooling,
    products,
    quantised,
    reductions,
    resampling,
    selection,
    shape_ops,
    softmax,
    spectral_ops,
)
from omenn_onnx.calculus.base import Calculus, Operand, Pair

__all__ = [
    "Calculus",
    "Operand",
    "Pair",
    "contractions",
    "convolutions",
    "einsum",
    "elementwise",
    "grid",
    "indexing",
    "norms",
    "pooling",
    "products",
    "quantised",
    "reductions",
    "resampling",
    "selection",
    "shape_ops",
    "softmax",
    "spectral_ops",
]
