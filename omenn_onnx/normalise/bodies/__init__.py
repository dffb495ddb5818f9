"""Decompositions that ONNX itself does not give: operators of ONNX Runtime, of ai.onnx.ml, recurrent networks."""

from omenn_onnx.normalise.bodies import (
    few_bits,
    geometry,
    microsoft,
    microsoft_attention,
    microsoft_moves,
    ml,
    quantised,
    recurrent,
)
from omenn_onnx.normalise.bodies.base import BODIES, Body

__all__ = [
    "BODIES",
    "Body",
    "few_bits",
    "geometry",
    "microsoft",
    "microsoft_attention",
    "microsoft_moves",
    "ml",
    "quantised",
    "recurrent",
]
