"""omenn_onnx: an explainer compiler for ONNX."""

from __future__ import annotations

__version__ = "0.1.0"

from omenn_onnx.compiler import compile
from omenn_onnx.runtime.explanation import Explanation
from omenn_onnx.spectral.explainer import Explainer

__all__ = ["Explainer", "Explanation", "__version__", "compile"]
