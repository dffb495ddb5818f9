"""Decompositions that ONNX itself does not give: operators of ONNX Runtime, of ai.onnx.ml, recurrent networks."""

from omenn_onnx.normalise.bodies import (
    few_bits,
    geometry,
    microsoft,
    microsoft_attention,
    microsoft_experts,
    microsoft_moves,
    microsoft_refused,
    microsoft_streams,
    ml,
    quantised,
    quantised_recurrent,
    recurrent,
)
from omenn_onnx.normalise.bodies.base import BODIES, REFUSED, Body

__all__ = [
    "BODIES",
    "REFUSED",
    "Body",
    "few_bits",
    "geometry",
    "microsoft",
    "microsoft_attention",
    "microsoft_experts",
    "microsoft_moves",
    "microsoft_refused",
    "microsoft_streams",
    "ml",
    "quantised",
    "quantised_recurrent",
    "recurrent",
]
