"""Compiled files made by hand: small networks whose C_w and C_b are derived on paper.

They keep the tests of the runtime apart from the compiler: whatever runs here needs the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
FEATURES, CLASSES, HIDDEN, SIDE, WORDS, WIDTH = 4, 3, 8, 6, 9, 5
W = RNG.normal(size=(FEATURES, CLASSES))
B = RNG.normal(size=CLASSES)
W1, B1 = RNG.normal(size=(SIDE * SIDE, HIDDEN)), RNG.normal(size=HIDDEN)
W2, B2 = RNG.normal(size=(HIDDEN, CLASSES)), RNG.normal(size=CLASSES)
TABLE, WT = RNG.normal(size=(WORDS, WIDTH)), RNG.normal(size=(WIDTH, CLASSES))

CODES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}


class Graph:
    """Collects nodes and weights of one file."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, value: Any, name: str | None = None) -> str:
        value = np.asarray(value)
        value = value.astype(self.dtype) if value.dtype.kind == "f" else value.astype(np.int64)
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes))
        return out

    def seed_for(self, kind: str, wide: bool, k: int | None) -> tuple[str, list[onnx.ValueInfoProto]]:
        """The seed [N,classes], or [N,K,classes]; emits `target` and `score`. Returns its name and the added inputs."""
        code = CODES[self.dtype]
        added: list[onnx.ValueInfoProto] = []
        axis = self.weight([-1])
        if kind == "seed":
            added.append(helper.make_tensor_value_info("seed", code, ["N", CLASSES]))
            self.op("ReduceSum", self.op("Mul", "seed", "Z"), axis, out="score", keepdims=0)
            shape = self.op("Shape", "score")
            self.op("ConstantOfShape", shape, out="target", value=helper.make_tensor("v", TensorProto.INT64, [1], [-1]))
            return "seed", added
        if kind == "input":
            added.append(helper.make_tensor_value_info("target_in", TensorProto.INT64, ["N", "K"] if wide else ["N"]))
            chosen = self.op("Identity", "target_in", out="target")
        elif kind == "top":
            self.nodes.append(helper.make_node("TopK", ["Z", self.weight([k])], ["best", "target"], axis=1))
            chosen, wide = "target", True
        else:
            chosen = self.op("ArgMax", "Z", out="target", axis=1, keepdims=0)
        onehot = self.op("OneHot", chosen, self.weight(CLASSES), self.weight([0, 1]), axis=-1)
        onehot = self.op("Cast", onehot, to=code)
        z = self.op("Unsqueeze", "Z", self.weight([1])) if wide else "Z"
        self.op("ReduceSum", self.op("Mul", onehot, z), axis, out="score", keepdims=0)
        return onehot, added

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        explained: Sequence[dict[str, Any]],
        outputs: Sequence[tuple[str, Any]],
        kind: str,
        extra: Sequence[onnx.ValueInfoProto],
        k: int | None = None,
        wide: bool = False,
        rows: bool = True,
        own: Sequence[tuple[str, int, Any]] = (),
    ) -> onnx.ModelProto:
        code = CODES[self.dtype]
        score = ["N", "K"] if wide or kind == "top" else ["N"]
        graph = helper.make_graph(
            self.nodes,
            "by_hand",
            [*inputs, *extra],
            [helper.make_tensor_value_info(n, c, s) for n, c, s in own]
            + [helper.make_tensor_value_info(n, code, s) for n, s in outputs]
            + [
                helper.make_tensor_value_info("score", code, score),
                helper.make_tensor_value_info("target", TensorProto.INT64, score),
            ],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        spec = {"top": f"top:{k}"}.get(kind, kind)
        names = {
            "score": "score",
            "target": "target",
            "target_input": "target_in" if kind == "input" else None,
            "seed_input": "seed" if kind == "seed" else None,
            "opaque_share": None,
        }
        helper.set_model_props(
            made,
            {
                "omenn.format": "1",
                "omenn.version": "0.1.0",
                "omenn.rules": "secant",
                "omenn.dtype": self.dtype,
                "omenn.output": "Z",
                "omenn.outputs": json.dumps([n for n, _, _ in own]),
                "omenn.target": json.dumps({"kind": kind, "spec": spec, "k": k, "dynamic_k": wide}),
                "omenn.inputs": json.dumps(list(explained)),
                "omenn.names": json.dumps(names),
                "omenn.opaque": "[]",
                "omenn.rows": json.dumps(rows),
            },
        )
        onnx.checker.check_model(made)
        return made


def part(name: str, x: str | None = None, end: str = "", axis: int = 1) -> dict[str, Any]:
    """An entry of omenn.inputs."""
    return {
        "name": name,
        "x": x or name,
        "graph_input": x is None,
        "C_w": f"C_w{end}",
        "C_b": f"C_b{end}",
        "channel_axis": axis,
    }


def linear(
    kind: str = "argmax", dtype: str = "float32", wide: bool = False, k: int | None = None, wrong: float = 0.0,
    batch: Any = "N", tail: str | None = None, rows: bool = True,
) -> onnx.ModelProto:  # fmt: skip
    """Z = X W + b on [N,4]: C_w = W s, C_b = <b, s>. ``wrong`` is added to C_b; ``tail`` hides Z."""
    g = Graph(dtype)
    code = CODES[dtype]
    x = helper.make_tensor_value_info("x", code, [batch, FEATURES])
    g.op("Add", g.op("MatMul", "x", g.weight(W)), g.weight(B), out="Z")
    seed, extra = g.seed_for(kind, wide, k)
    g.op("MatMul", seed, g.weight(W.T), out="C_w")
    bias = g.op("MatMul", seed, g.weight(B[:, None]))
    g.op("Add", bias, g.weight(np.array(wrong)), out="C_b")
    deep = wide or kind == "top"
    own = [("Z", code, [batch, CLASSES])]
    if tail:
        g.op(tail, "Z", out="p")
        own = [("p", code, [batch, CLASSES])]
    outputs = [("C_w", ["N", "K", FEATURES] if deep else ["N", FEATURES]), ("C_b", ["N", "K", 1] if deep else ["N", 1])]
    return g.model([x], [part("x")], outputs, kind, extra, k, wide, rows, own)


def linear_original(dtype: str = "float32", shift: float = 0.0) -> onnx.ModelProto:
    """The network of ``linear`` before compilation."""
    g = Graph(dtype)
    g.op("Add", g.op("MatMul", "x", g.weight(W)), g.weight(B + shift), out="Z")
    ends = [helper.make_tensor_value_info(n, CODES[dtype], ["N", d]) for n, d in (("x", FEATURES), ("Z", CLASSES))]
    graph = helper.make_graph(g.nodes, "original", [ends[0]], [ends[1]], g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu_image(
    kind: str = "argmax", dtype: str = "float32", k: int | None = None, channels: int = 1
) -> onnx.ModelProto:
    """Z = relu(X W1 + b1) W2 + b2 on images: g = (s W2') * [h > 0], C_w = g W1', C_b = (g b1 + s b2) / places.

    With more channels each weighs the same: X is averaged over them first.
    """
    g = Graph(dtype)
    code = CODES[dtype]
    size = [channels, SIDE, SIDE]
    x = helper.make_tensor_value_info("image", code, ["N", *size])
    flat = g.op("Reshape", g.op("ReduceMean", "image", axes=[1], keepdims=0), g.weight([0, SIDE * SIDE]))
    h = g.op("Relu", g.op("Add", g.op("MatMul", flat, g.weight(W1)), g.weight(B1)))
    g.op("Add", g.op("MatMul", h, g.weight(W2)), g.weight(B2), out="Z")
    seed, extra = g.seed_for(kind, False, k)
    mask = g.op("Sign", h)
    deep = kind == "top"
    if deep:
        mask = g.op("Unsqueeze", mask, g.weight([1]))
    cotangent = g.op("Mul", g.op("MatMul", seed, g.weight(W2.T)), mask)
    maps = [0, 0, 1, SIDE, SIDE] if deep else [0, 1, SIDE, SIDE]
    weights = g.op("Reshape", g.op("MatMul", cotangent, g.weight(W1.T)), g.weight(maps))
    ones = [1, 1, *size] if deep else [1, *size]
    g.op("Mul", weights, g.weight(np.full(ones, 1 / channels)), out="C_w")
    bias = g.op("Add", g.op("MatMul", cotangent, g.weight(B1[:, None])), g.op("MatMul", seed, g.weight(B2[:, None])))
    spread = g.op("MatMul", bias, g.weight(np.full((1, SIDE * SIDE), 1 / SIDE**2)))
    g.op("Reshape", spread, g.weight(maps), out="C_b")
    lead: list[Any] = ["N", "K"] if deep else ["N"]
    outputs = [("C_w", [*lead, *size]), ("C_b", [*lead, 1, SIDE, SIDE])]
    return g.model([x], [part("image")], outputs, kind, extra, k, False, True, [("Z", code, ["N", CLASSES])])


def text(kind: str = "argmax") -> onnx.ModelProto:
    """Z = mean over places of E[ids], times W: C_w = W s / T at every place, C_b = <b, s> / T; X is an output."""
    g = Graph("float32")
    ids = helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["N", 4])
    g.op("Gather", g.weight(TABLE), "token_ids", out="X")
    g.op("Add", g.op("MatMul", g.op("ReduceMean", "X", axes=[1], keepdims=0), g.weight(WT)), g.weight(B), out="Z")
    seed, extra = g.seed_for(kind, False, None)
    row = g.op("Unsqueeze", g.op("MatMul", seed, g.weight(WT.T / 4)), g.weight([1]))
    g.op("Mul", row, g.weight(np.ones((1, 4, 1))), out="C_w")
    bias = g.op("Unsqueeze", g.op("MatMul", seed, g.weight(B[:, None] / 4)), g.weight([1]))
    g.op("Mul", bias, g.weight(np.ones((1, 4, 1))), out="C_b")
    outputs = [("C_w", ["N", 4, WIDTH]), ("C_b", ["N", 4, 1]), ("X", ["N", 4, WIDTH])]
    own = [("Z", TensorProto.FLOAT, ["N", CLASSES])]
    return g.model([ids], [part("embedded", "X", axis=2)], outputs, kind, extra, own=own)


def two_inputs() -> onnx.ModelProto:
    """Z = a W + b W2' + bias: two explained inputs, the bias with the first."""
    g = Graph("float32")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in (("a", FEATURES), ("b", HIDDEN))]
    g.op("Add", g.op("Add", g.op("MatMul", "a", g.weight(W)), g.weight(B)), g.op("MatMul", "b", g.weight(W2)), out="Z")
    seed, extra = g.seed_for("argmax", False, None)
    g.op("MatMul", seed, g.weight(W.T), out="C_w.a")
    g.op("MatMul", seed, g.weight(B[:, None]), out="C_b.a")
    g.op("MatMul", seed, g.weight(W2.T), out="C_w.b")
    g.op("MatMul", seed, g.weight(np.zeros((CLASSES, 1))), out="C_b.b")
    outputs = [("C_w.a", ["N", FEATURES]), ("C_b.a", ["N", 1]), ("C_w.b", ["N", HIDDEN]), ("C_b.b", ["N", 1])]
    own = [("Z", TensorProto.FLOAT, ["N", CLASSES])]
    return g.model(ends, [part("a", end=".a"), part("b", end=".b")], outputs, "argmax", extra, own=own)
