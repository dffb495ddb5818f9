"""The compiled file at every graph optimisation level of the runtime, thread count and execution mode.

What the lowering emits is fused, re-laid and folded differently at each; C_w, C_b and the outputs must not notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from explaining import Result, assert_close, assert_complete, assert_same_outputs, compiled, explain
from onnx import TensorProto, helper, numpy_helper

STATES = (Path(__file__).resolve().parents[1] / "models").glob("*.state.npz")
MODELS = sorted(path.with_name(path.name.replace(".state.npz", ".onnx")) for path in STATES)
LEVELS = list(onnxruntime.GraphOptimizationLevel.__members__.values())
MODES = [onnxruntime.ExecutionMode.ORT_SEQUENTIAL, onnxruntime.ExecutionMode.ORT_PARALLEL]
MATRIX = list(itertools.product(LEVELS, (1, 2, 4), MODES))
BAR = 1e-5


class Net:
    """A graph that grows node by node from the image x [batch, channels, size, size]."""

    def __init__(self, name: str, batch: int | str, channels: int, size: int) -> None:
        self.random = np.random.default_rng(sorted(NETWORKS).index(name))
        self.shape: list[int | str] = [batch, channels, size, size]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def weight(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        return self.constant((self.random.standard_normal(shape) * scale + shift).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}", *(f"t{len(self.nodes)}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def conv(self, x: str, a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True) -> str:
        scale = (kernel * kernel * a / groups) ** -0.5
        inputs = [x, self.weight(b, a // groups, kernel, kernel, scale=scale)]
        inputs += [self.weight(b, scale=0.2)] if bias else []
        return self.op("Conv", *inputs, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)

    def norm(self, x: str, width: int) -> str:
        gain, bias, mean = (self.weight(width, scale=0.1, shift=s) for s in (1.0, 0.1, 0.0))
        variance = self.constant(self.random.uniform(0.5, 1.5, width).astype(np.float32))
        return self.op("BatchNormalization", x, gain, bias, mean, variance)

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        bounds = ["" if b is None else self.constant(np.float32(b)) for b in (low, high)]
        return self.op("Clip", x, *bounds)

    def linear(self, x: str, a: int, b: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(a, b, scale=a**-0.5)), self.weight(b, scale=0.2))

    def model(self, x: str, width: int) -> onnx.ModelProto:
        """Global pooling and a classifier of seven classes behind x."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        self.op("Gemm", flat, self.weight(7, width, scale=2 * width**-0.5), self.weight(7, scale=0.2), transB=1)
        self.nodes[-1].output[0] = "z"
        graph = helper.make_graph(
            self.nodes, "levels", [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [self.shape[0], 7])], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def resnet(batch: int | str) -> onnx.ModelProto:
    """Stem 7x7 stride 2, MaxPool, a block with a projected shortcut of stride 2, one without; AveragePool between."""
    net = Net("resnet", batch, 3, 32)
    x = net.op("Relu", net.norm(net.conv("x", 3, 16, 7, 2, bias=False), 16))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for a, stride in ((16, 2), (32, 1)):
        y = net.op("Relu", net.norm(net.conv(x, a, 16, 1, bias=False), 16))
        y = net.op("Relu", net.norm(net.conv(y, 16, 16, 3, stride, bias=False), 16))
        y = net.norm(net.conv(y, 16, 32, 1, bias=False), 32)
        x = net.norm(net.conv(x, a, 32, 1, stride, bias=False), 32) if stride > 1 else x
        x = net.op("Relu", net.op("Add", y, x))
    return net.model(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 32)


def mobilenet(batch: int | str) -> onnx.ModelProto:
    """Inverted residuals: expand, ReLU6, depthwise of stride 2 and 1, ReLU6, project."""
    net = Net("mobilenet", batch, 3, 24)
    x = net.clip(net.conv("x", 3, 16, 3, 2), 0, 6)
    for stride in (2, 1):
        y = net.clip(net.conv(x, 16, 48, 1), 0, 6)
        y = net.clip(net.norm(net.conv(y, 48, 48, 3, stride, groups=48), 48), 0, 6)
        y = net.conv(y, 48, 16, 1)
        x = net.op("Add", x, y) if stride == 1 else y
    return net.model(x, 16)


def densenet(batch: int | str) -> onnx.ModelProto:
    """Concatenated layers conv(relu(BN x)), a transition with AveragePool."""
    net, width = Net("densenet", batch, 3, 16), 16
    x = net.conv("x", 3, 16, 3)
    for _ in range(3):
        y = net.conv(net.op("Relu", net.norm(x, width)), width, 16, 1)
        y = net.conv(net.op("Relu", net.norm(y, 16)), 16, 8, 3)
        x, width = net.op("Concat", x, y, axis=1), width + 8
    x = net.conv(net.op("Relu", net.norm(x, width)), width, 16, 1)
    return net.model(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 16)


def transformer(batch: int | str) -> onnx.ModelProto:
    """Patches of 4x4, two pre-norm blocks with four heads and Gelu, read as an image again."""
    net = Net("transformer", batch, 3, 16)
    patches = net.op("Conv", "x", net.weight(32, 3, 4, 4, scale=0.15), net.weight(32, scale=0.2), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", patches, net.constant(np.array([0, 32, 16]))), perm=[0, 2, 1])
    x = net.op("Add", x, net.weight(1, 16, 32, scale=0.3))
    heads, tokens = net.constant(np.array([0, 16, 4, 8])), net.constant(np.array([0, 16, 32]))
    for _ in range(2):
        y = net.op("LayerNormalization", x, net.weight(32, scale=0.1, shift=1.0), net.weight(32, scale=0.1), axis=-1)
        q, k, v = (net.op("Reshape", net.linear(y, 32, 32), heads) for _ in range(3))
        q, v = (net.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1]))
        scores = net.op("Softmax", net.op("Mul", scores, net.constant(np.float32(8**-0.5))), axis=-1)
        y = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = net.op("Add", x, net.linear(net.op("Reshape", y, tokens), 32, 32))
        y = net.op("LayerNormalization", x, net.weight(32, scale=0.1, shift=1.0), net.weight(32, scale=0.1), axis=-1)
        x = net.op("Add", x, net.linear(net.op("Gelu", net.linear(y, 32, 64)), 64, 32))
    image = net.constant(np.array([0, 32, 4, 4]))
    return net.model(net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), image), 32)


def squeeze_excite(batch: int | str) -> onnx.ModelProto:
    """Depthwise 5x5, SiLU, times sigmoid(expand(silu(reduce(mean)))), twice, stride 2 and 1."""
    net = Net("squeeze_excite", batch, 3, 20)

    def silu(x: str) -> str:
        return net.op("Mul", x, net.op("Sigmoid", x))

    x = silu(net.conv("x", 3, 16, 3))
    for stride in (2, 1):
        x = silu(net.norm(net.conv(x, 16, 16, 5, stride, groups=16), 16))
        gate = net.conv(silu(net.conv(net.op("ReduceMean", x, net.constant(np.array([2, 3]))), 16, 4, 1)), 4, 16, 1)
        x = net.conv(net.op("Mul", x, net.op("Sigmoid", gate)), 16, 16, 1)
    return net.model(x, 16)


def groups(batch: int | str) -> onnx.ModelProto:
    """Convolutions in groups, of stride 1, 2 and dilated; LeakyRelu, HardSwish, Tanh, PRelu between."""
    net = Net("groups", batch, 4, 18)
    x = net.op("LeakyRelu", net.conv("x", 4, 16, 3, groups=2), alpha=0.1)
    x = net.op("HardSwish", net.conv(x, 16, 32, 3, 2, groups=8))
    x = net.op("Tanh", net.conv(x, 32, 32, 1, groups=4))
    dilated = net.op("Conv", x, net.weight(16, 8, 3, 3, scale=0.1), dilations=[2, 2], pads=[2] * 4, group=4)
    return net.model(net.op("PRelu", dilated, net.weight(16, 1, 1, scale=0.1, shift=0.2)), 16)


def clips(batch: int | str) -> onnx.ModelProto:
    """Clip with both bounds, either one, bounds away from 0; Max and Min with constants; a MaxPool with ties."""
    net = Net("clips", batch, 3, 17)
    x = net.clip(net.conv("x", 3, 16, 3), 0, 6)
    for low, high in ((None, 0.7), (-0.3, None), (0.1, 0.9), (-1, 1)):
        x = net.clip(net.conv(x, 16, 16, 3), low, high)
    x = net.op("Max", net.op("Min", net.conv(x, 16, 16, 3), net.constant(np.float32(0.4))), net.constant(np.float32(0)))
    return net.model(net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]), 16)


NETWORKS: dict[str, Callable[[int | str], onnx.ModelProto]] = {
    f.__name__: f for f in (resnet, mobilenet, densenet, transformer, squeeze_excite, groups, clips)
}


def options(level: Any, threads: int, mode: Any) -> onnxruntime.SessionOptions:
    found = onnxruntime.SessionOptions()
    found.graph_optimization_level, found.intra_op_num_threads, found.execution_mode = level, threads, mode
    found.inter_op_num_threads = 2
    found.log_severity_level = 4
    found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    found.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return found


def same(found: Result, base: Result, where: str) -> None:
    """The same target, C_w, C_b, score and outputs, and complete."""
    np.testing.assert_array_equal(found.target, base.target, where)
    assert_complete(found, BAR)
    for name, value in base.outputs.items():
        assert_close(found.outputs[name], value, BAR, f"output {name}, {where}")
    for what in ("c_w", "c_b"):
        for value, expected in zip(getattr(found, what), getattr(base, what), strict=True):
            assert_close(value, expected, BAR, f"{what}, {where}")
    assert_close(found.score, base.score, BAR, f"score, {where}")


def hold(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]], **compiling: Any) -> None:
    """Every cell of the matrix gives what the runtime gives without optimisation, on each of ``feeds``."""
    proto = compiled(model, **compiling)
    base = [explain(proto, f, optimise=False) for f in feeds]
    for result, given in zip(base, feeds, strict=True):
        assert_same_outputs(result, model, given, optimise=False)
        assert all(np.abs(c).max() > 0 for c in (*result.c_w, *result.c_b))
    for level, threads, mode in MATRIX:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options(level, threads, mode), providers=["CPUExecutionProvider"]
        )
        for given, expected in zip(feeds, base, strict=True):
            found = explain(proto, given, session=session)
            same(found, expected, f"{level.name}, {threads} threads, {mode.name}, batch {len(expected.score)}")


def images(name: str, batch: int) -> dict[str, np.ndarray]:
    shape = [d.dim_value for d in NETWORKS[name](batch).graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(batch).standard_normal(shape, dtype=np.float32)}


def test_the_matrix() -> None:
    """No level of the installed runtime is left out."""
    names = {level.name for level in LEVELS}
    assert {"ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"} <= names
    assert len(MATRIX) == 6 * len(LEVELS)


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("batch", [1, 3, "batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str, batch: int | str, rules: str) -> None:
    """A fixed batch size, where the lowering knows all shapes, and a free one, run with one row and with three."""
    rows = [batch] if isinstance(batch, int) else [1, 3]
    hold(NETWORKS[name](batch), [images(name, n) for n in rows], rules=rules)


@pytest.mark.parametrize("name", NETWORKS)
def test_several_targets(name: str) -> None:
    """Three classes in one run."""
    hold(NETWORKS[name](1), [images(name, 1)], target="top:3")


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_trained_models(path: Path) -> None:
    """The trained classifiers of the repository on their own data."""
    model = onnx.load(path)
    with np.load(path.with_suffix(".npz")) as data:
        held_out = {i.name: data[i.name] for i in model.graph.input}
    hold(model, [{k: v[:rows] for k, v in held_out.items()} for rows in (1, 3)])
