"""Small seeded networks of the shapes that the simplifier looks for: transformers, and convolutions with joined or
normalised channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Network = tuple[onnx.ModelProto, dict[str, np.ndarray]]
WIDTH, TOKENS, HEADS, CLASSES = 6, 5, 2, 7


class Net:
    """Nodes and weights of a network under construction."""

    def __init__(self, seed: int, batch: int | str) -> None:
        self.rng = np.random.default_rng(seed)
        self.batch = batch
        self.rows = -1 if isinstance(batch, str) else batch
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, np.ndarray] = {}

    def put(self, value: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int, scale: float = 0.5, shift: float = 0.0) -> str:
        return self.put((self.rng.normal(size=shape) * scale + shift).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.put(np.asarray(values, np.int64))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attrs))
        return names[0] if outputs == 1 else names

    def given(self, name: str, value: np.ndarray, shape: list[int | str]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.feeds[name] = value
        return name

    def image(self, *shape: int) -> str:
        rows = 3 if isinstance(self.batch, str) else self.batch
        x = self.rng.normal(size=(rows, *shape)).astype(np.float32)
        return self.given("x", x, [self.batch, *shape])

    def finished(self, z: str) -> Network:
        self.nodes.append(helper.make_node("Identity", [z], ["z"]))
        out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [self.batch, CLASSES])
        graph = helper.make_graph(self.nodes, "g", self.inputs, [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), self.feeds

    # Layers

    def normed(self, x: str, bias: bool) -> str:
        shift = [self.weight(WIDTH)] if bias else []
        return self.op("LayerNormalization", x, self.weight(WIDTH, shift=1.0), *shift, axis=-1)

    def linear(self, x: str, a: int, b: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(a, b)), self.weight(b))

    def batch_norm(self, x: str, c: int, zero: bool = False) -> str:
        gain = self.rng.normal(size=c).astype(np.float32) + 1
        if zero:
            gain[0] = 0
        var = self.put((self.rng.random(c) + 0.5).astype(np.float32))
        return self.op("BatchNormalization", x, self.put(gain), self.weight(c), self.weight(c), var)

    def conv(self, x: str, a: int, b: int, k: int = 1, bias: bool = False, **attrs: Any) -> str:
        group = attrs.get("group", 1)
        more = [self.weight(b)] if bias else []
        return self.op("Conv", x, self.weight(b, a // group, k, k), *more, pads=[k // 2] * 4, **attrs)

    def head(self, x: str, c: int) -> str:
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", flat, self.weight(CLASSES, c), self.weight(CLASSES), transB=1)


def transformer(batch: int | str, bias: bool = True, token: str = "class", joint: str = "split") -> Network:
    """Two blocks. ``token``: what the head reads: the class token, the one at an index given as an input, or all."""
    net = Net(7, batch)
    x = net.linear(net.image(TOKENS - 1, WIDTH), WIDTH, WIDTH)
    rows = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    cls = net.op("Expand", net.weight(1, 1, WIDTH), net.op("Concat", rows, net.ints(1, WIDTH), axis=0))
    x = net.op("Add", net.op("Concat", cls, x, axis=1), net.weight(1, TOKENS, WIDTH))
    for _ in range(2):
        x = net.op("Add", x, _attention(net, net.normed(x, bias), joint))
        wide = net.op("Gelu", net.linear(net.normed(x, bias), WIDTH, 8))
        x = net.op("Add", x, net.linear(wide, 8, WIDTH))
    x = net.normed(x, bias)
    if token == "flat":
        flat = net.op("Reshape", x, net.ints(net.rows, TOKENS * WIDTH))
        return net.finished(net.op("Gemm", flat, net.weight(TOKENS * WIDTH, CLASSES), net.weight(CLASSES)))
    at = net.put(np.asarray(0)) if token == "class" else net.given("at", np.asarray(-2), [])
    row = net.op("Gather", x, at, axis=1)
    return net.finished(net.op("Gemm", row, net.weight(CLASSES, WIDTH), net.weight(CLASSES), transB=1))


def _attention(net: Net, h: str, joint: str) -> str:
    size = WIDTH // HEADS
    qkv = net.linear(h, WIDTH, 3 * WIDTH)
    heads = net.ints(net.rows, TOKENS, HEADS, size)
    if joint == "split":
        parts = net.op("Split", qkv, outputs=3, axis=2, num_outputs=3)
        q, k, v = (net.op("Transpose", net.op("Reshape", p, heads), perm=[0, 2, 1, 3]) for p in parts)
    else:
        parts = net.op("Reshape", qkv, net.ints(net.rows, TOKENS, 3, HEADS, size))
        parts = net.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
        q, k, v = (net.op("Gather", parts, net.put(np.asarray(i)), axis=0) for i in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    back = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(net.rows, TOKENS, WIDTH))
    return net.linear(back, WIDTH, WIDTH)


def densenet(batch: int | str, zero: bool = False) -> Network:
    net = Net(8, batch)
    x, c = net.conv(net.image(2, 6, 6), 2, 3, 3), 3
    for i in range(3):
        y = net.conv(net.op("Relu", net.batch_norm(x, c, zero)), c, 4)
        y = net.conv(net.op("Relu", net.batch_norm(y, 4, zero and i == 1)), 4, 2, 3)
        x, c = net.op("Concat", x, y, axis=1), c + 2
    x = net.op("AveragePool", net.conv(net.op("Relu", net.batch_norm(x, c)), c, 4), kernel_shape=[2, 2], strides=[2, 2])
    return net.finished(net.head(net.op("Relu", net.batch_norm(x, 4)), 4))


def inception(batch: int | str, pooled: bool = False) -> Network:
    """Branches side by side, twice. ``pooled``: with the mean over rows, channels and positions added."""
    net = Net(9, batch)
    x, c = net.image(2, 6, 6), 2
    for _ in range(2):
        narrow = net.op("Relu", net.conv(x, c, 2, bias=True))
        wide = net.op("Relu", net.conv(net.conv(x, c, 2, bias=True), 2, 3, 3, bias=True))
        pool = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        x = net.op("Concat", narrow, wide, net.conv(pool, c, 1, bias=True), axis=1)
        c = 6
        x = net.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    if pooled:
        mean = net.op("ReduceMean", x, net.ints(0, 1, 2, 3), keepdims=0)
        x = net.op("Add", x, mean)
    return net.finished(net.head(x, c))


def pre_activation(batch: int | str, zero: bool = False) -> Network:
    net = Net(10, batch)
    x = net.conv(net.image(2, 6, 6), 2, 4, 3, bias=True)
    for group in (1, 4, 2):
        y = net.op("Relu", net.batch_norm(x, 4, zero))
        y = net.conv(y, 4, 4, 3, group=group)
        y = net.op("Clip", net.batch_norm(y, 4), net.put(np.float32(0)), net.put(np.float32(6)))
        x = net.op("Add", x, net.conv(y, 4, 4, bias=True))
    return net.finished(net.head(net.op("Relu", net.batch_norm(x, 4)), 4))


NETWORKS: dict[str, Callable[[], Network]] = {
    "transformer": lambda: transformer("N"),
    "transformer-1": lambda: transformer(1, joint="gather"),
    "transformer-3-plain": lambda: transformer(3, bias=False),
    "transformer-flat": lambda: transformer("N", token="flat", joint="gather"),
    "transformer-at": lambda: transformer("N", token="at"),
    "transformer-at-1": lambda: transformer(1, token="at", joint="gather"),
    "densenet": lambda: densenet("N"),
    "densenet-1-zero": lambda: densenet(1, zero=True),
    "inception": lambda: inception("N"),
    "inception-pooled": lambda: inception(3, pooled=True),
    "inception-1-pooled": lambda: inception(1, pooled=True),
    "pre_activation": lambda: pre_activation(3),
    "pre_activation-zero": lambda: pre_activation("N", zero=True),
}
