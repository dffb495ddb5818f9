"""omenn_onnx: an explainer compiler for ONNX."""

from __future__ import annotations

__version__ = "0.1.0"

from omenn_onnx.compiler import compile

__all__ = ["__version__", "compile"]
