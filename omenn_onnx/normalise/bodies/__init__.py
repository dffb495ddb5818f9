"""Decompositions that ONNX itself does not give: operators of ONNX Runtime, of ai.onnx.ml, recurrent networks."""

from omenn_onnx.normalise.bodies import microsoft, ml, quantised
from omenn_onnx.normalise.bodies.base import BODIES, Body

__all__ = ["BODIES", "Body", "microsoft", "ml", "quantised"]
