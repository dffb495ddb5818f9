"""Small networks written by hand for the tests of the spectral package, with the numpy arithmetic they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

Array = np.ndarray[Any, Any]


def model(
    nodes: str, weights: dict[str, Array], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], opset: int = 18
) -> onnx.ModelProto:
    """A model of nodes as text, one a line; a node is named after its (first) output."""
    made = [parser.parse_node(line.strip()) for line in nodes.strip().splitlines()]
    for node in made:
        node.name = f"node_{node.output[0]}"
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info(n, 1, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, 1, s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(proto)
    return proto


class Perceptron:
    """x [N,5] -> 7 -> 6 -> z [N,3], Relu between: weights W [out,in] and biases b, and the same in numpy."""

    sizes = (5, 7, 6, 3)

    def __init__(self, seed: int, bias: bool = True) -> None:
        random = np.random.default_rng(seed)
        pairs = list(zip(self.sizes[1:], self.sizes, strict=False))
        self.W = [random.normal(size=p).astype(np.float32) / np.sqrt(p[1]).astype(np.float32) for p in pairs]
        self.b = [(random.normal(size=p[0]) * (0.5 if bias else 0)).astype(np.float32) for p in pairs]
        weights = {f"W{i}": w for i, w in enumerate(self.W)} | {f"b{i}": b for i, b in enumerate(self.b)}
        self.model = model(
            """
            a0 = Gemm <transB = 1> (x, W0, b0)
            h0 = Relu(a0)
            a1 = Gemm <transB = 1> (h0, W1, b1)
            h1 = Relu(a1)
            z = Gemm <transB = 1> (h1, W2, b2)
            """,
            weights,
            {"x": ["N", 5]},
            {"z": ["N", 3]},
        )

    def masks(self, x: Array) -> list[Array]:
        """Which units are on at x [5], layer by layer."""
        found = []
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            a = W.astype(np.float64) @ x + b
            found.append(a > 0)
            x = np.maximum(a, 0)
        return found

    def preactivations(self, x: Array) -> tuple[list[Array], list[Array]]:
        """a_l and da_l/dx of the two hidden layers at x [5]."""
        values, slopes = [], []
        h, J = x.astype(np.float64), np.eye(len(x))
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            a, J = W.astype(np.float64) @ h + b, W.astype(np.float64) @ J
            values.append(a)
            slopes.append(J)
            h, J = np.maximum(a, 0), J * (a > 0)[:, None]
        return values, slopes


BYPASS_WEIGHTS = {
    "A": np.random.default_rng(7).normal(size=(4, 4)).astype(np.float32),
    "B": np.random.default_rng(8).normal(size=(4, 4)).astype(np.float32),
    "C": np.random.default_rng(9).normal(size=(4, 2)).astype(np.float32),
    "p": np.array([0.5, -0.3, 0.2, 1.0], np.float32),
    "q": np.array([-0.1, 0.7, 0.4, -0.6], np.float32),
}


def bypassed() -> onnx.ModelProto:
    """x [N,4] -> m -> r, with x added to r: ``h`` and ``r`` lie beside a residual connection, ``s`` behind it."""
    return model(
        """
        m = MatMul(x, A)
        h = Add(m, p)
        g = Tanh(h)
        k = MatMul(g, B)
        r = Add(k, q)
        s = Add(r, x)
        u = Relu(s)
        z = MatMul(u, C)
        """,
        BYPASS_WEIGHTS,
        {"x": ["N", 4]},
        {"z": ["N", 2]},
    )
