"""Where nodes run: the kernels that ONNX Runtime's providers have, and what of a compiled graph finds one."""
