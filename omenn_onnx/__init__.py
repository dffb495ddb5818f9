"""omenn_onnx: an explainer compiler for ONNX."""

__version__ = "0.1.0"
