"""Compile times of large generated graphs: 1,000 nodes within 5 s, 5,000 within 30 s, without recursion limits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from explaining import assert_complete, explain
from onnx import TensorProto, helper, numpy_helper

import omenn_onnx


class Net:
    """A graph that grows node by node from the input x."""

    def __init__(self, shape: list[int | str]) -> None:
        self.shape = shape
        self.random = np.random.default_rng(11)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        value = self.random.standard_normal(shape).astype(np.float32) * np.float32(scale) + np.float32(shift)
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes))
        return out

    def model(self, last: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [last], ["z"]))
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * len(self.shape))],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def chain(nodes: int) -> onnx.ModelProto:
    """One path: MatMul, Add, activation, over and over."""
    net, t = Net(["N", 8]), "x"
    while len(net.nodes) < nodes:
        t = net.op("Add", net.op("MatMul", t, net.weight(8, 8, scale=0.5)), net.weight(8, scale=0.3))
        t = net.op(("Relu", "Gelu", "Tanh", "Sigmoid")[len(net.nodes) % 4], t)
    return net.model(t)


def residual_mlp(nodes: int) -> onnx.ModelProto:
    """Pre-norm residual blocks: x + W2 gelu(W1 norm(x) + b1) + b2, so that every tensor reaches every later one."""
    net, t = Net(["N", 4, 8]), "x"
    while len(net.nodes) < nodes:
        y = net.op("LayerNormalization", t, net.weight(8, scale=0.1, shift=1.0), net.weight(8, scale=0.1))
        y = net.op("Gelu", net.op("Add", net.op("MatMul", y, net.weight(8, 8, scale=0.3)), net.weight(8, scale=0.1)))
        y = net.op("Add", net.op("MatMul", y, net.weight(8, 8, scale=0.1)), net.weight(8, scale=0.1))
        t = net.op("Add", t, y)
    return net.model(t)


def residual_conv(nodes: int) -> onnx.ModelProto:
    """Residual blocks of convolutions: relu(x + conv(relu(conv(x))))."""
    net, t = Net(["N", 4, 6, 6]), "x"
    while len(net.nodes) < nodes:
        y = net.op("Conv", t, net.weight(4, 4, 3, 3, scale=0.1), net.weight(4, scale=0.1), pads=[1, 1, 1, 1])
        y = net.op(
            "Conv", net.op("Relu", y), net.weight(4, 4, 3, 3, scale=0.05), net.weight(4, scale=0.1), pads=[1] * 4
        )
        t = net.op("Relu", net.op("Add", t, y))
    return net.model(t)


def dense(nodes: int) -> onnx.ModelProto:
    """Every block concatenates to all before it, cut back every 16: many consumers a tensor."""
    net, t, width = Net(["N", 4, 5, 5]), "x", 4
    while len(net.nodes) < nodes:
        y = net.op("Relu", net.op("Conv", t, net.weight(2, width, 1, 1, scale=width**-0.5), net.weight(2, scale=0.1)))
        t, width = net.op("Concat", t, y, axis=1), width + 2
        if width > 32:
            t, width = net.op("Conv", t, net.weight(4, width, 1, 1, scale=width**-0.5), net.weight(4, scale=0.1)), 4
    return net.model(t)


def fan(nodes: int) -> onnx.ModelProto:
    """One tensor with very many consumers, all summed."""
    net, parts = Net(["N", 8]), []
    while len(net.nodes) < nodes - 2:
        parts.append(net.op("Relu", net.op("Mul", "x", net.weight(8, scale=0.5))))
    return net.model(net.op("Sum", *parts))


def written_out(nodes: int) -> onnx.ModelProto:
    """Shapes computed at run time, as TorchScript writes them: Shape, Gather, Unsqueeze, Concat, Reshape, Transpose."""
    net, t = Net(["N", "T", 8]), "x"
    while len(net.nodes) < nodes:
        index = [net.op("Constant", value=numpy_helper.from_array(np.array(i, np.int64))) for i in (0, 1)]
        zero = net.op("Constant", value=numpy_helper.from_array(np.array([0], np.int64)))
        sizes = [net.op("Unsqueeze", net.op("Gather", net.op("Shape", t), i), zero) for i in index]
        two, four = (net.op("Constant", value=numpy_helper.from_array(np.array([n], np.int64))) for n in (2, 4))
        split = net.op("Reshape", t, net.op("Concat", *sizes, two, four, axis=0))
        y = net.op("Transpose", net.op("Relu", split), perm=[0, 1, 3, 2])
        eight = net.op("Constant", value=numpy_helper.from_array(np.array([8], np.int64)))
        y = net.op("Reshape", y, net.op("Concat", *sizes, eight, axis=0))
        t = net.op("Add", t, net.op("MatMul", y, net.weight(8, 8, scale=0.1)))
    return net.model(t)


MAKERS: list[Callable[[int], onnx.ModelProto]] = [chain, residual_mlp, residual_conv, dense, fan, written_out]


@pytest.mark.parametrize(("nodes", "limit"), [(1000, 5.0), (5000, 30.0)])
@pytest.mark.parametrize("maker", MAKERS, ids=lambda f: f.__name__)
def test_compile_time(maker: Callable[[int], onnx.ModelProto], nodes: int, limit: float) -> None:
    """Time from a model in memory to the compiled model, saved to bytes; the result is complete at 1,000 nodes."""
    model = maker(nodes)
    start = time.perf_counter()
    proto = omenn_onnx.compile(model)
    proto.SerializeToString()
    seconds = time.perf_counter() - start
    print(f"{maker.__name__}: {len(model.graph.node)} nodes in {seconds:.2f} s, {len(proto.graph.node)} nodes out")
    assert seconds <= limit


@pytest.mark.parametrize(
    ("maker", "nodes"),
    [(chain, 1000), (residual_mlp, 600), (residual_conv, 300), (dense, 200), (fan, 300), (written_out, 300)],
)
def test_complete(maker: Callable[[int], onnx.ModelProto], nodes: int) -> None:
    """The same graphs, as large as the runtime loads quickly, are explained completely."""
    model = maker(nodes)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or 2 + i for i, d in enumerate(dims)]
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    assert_complete(explain(omenn_onnx.compile(model), {"x": x}, optimise=False))


@pytest.mark.parametrize("maker", [chain, residual_mlp], ids=lambda f: f.__name__)
def test_compile_time_tangent(maker: Callable[[int], onnx.ModelProto]) -> None:
    """The tangent rule set, whose programs are larger, keeps the limit too."""
    model = maker(5000)
    start = time.perf_counter()
    omenn_onnx.compile(model, rules="tangent")
    seconds = time.perf_counter() - start
    print(f"{maker.__name__}, tangent: {len(model.graph.node)} nodes in {seconds:.2f} s")
    assert seconds <= 30
