"""Reading, describing, extending and writing ONNX graphs; the only package that imports onnx_graphsurgeon."""
