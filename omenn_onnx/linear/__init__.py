"""Linear programs: variables, primitives, and their transposition. No ONNX operator is known here."""
