"""LSTM, GRU, RNN: every variant equals ONNX Runtime's kernel, is complete, and has the framework's gradient."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from architectures import export_module
from explaining import Result, assert_close, assert_complete, compiled, explain, run
from onnx import helper, numpy_helper
from torch import nn

from omenn_onnx.graph.files import load_model
from omenn_onnx.linearise import forward_model, linearise

Case = dict[str, Any]
Feeds = dict[str, np.ndarray[Any, Any]]
BLOCKS = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, WIDTH, HIDDEN, ROWS = 5, 3, 4, 3


def network(
    op: str, out: str = "Y", bias: bool = True, lengths: str | list[int] = "", peepholes: bool = False,
    initial: str = "", batch: int | str = "N", steps: int | str = STEPS, seed: int = 0, **attributes: Any,
) -> tuple[onnx.ModelProto, Feeds]:  # fmt: skip
    """x [N, T, I] -> one recurrent layer -> a projection, summed: z [N, 3]. ``initial``: zero, const, input."""
    random, drawn = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    blocks = BLOCKS[op] * HIDDEN
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    first = bool(attributes.get("layout"))
    initializers: list[onnx.TensorProto] = []
    inputs = [helper.make_tensor_value_info("x", 1, (batch, steps, WIDTH))]
    length = steps if isinstance(steps, int) else STEPS
    feeds: Feeds = {"x": drawn.normal(size=(ROWS, length, WIDTH)).astype(np.float32)}
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int, scale: float = 0.6) -> str:
        value = random.normal(size=shape) * scale if scale else np.zeros(shape)
        initializers.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def turned(name: str) -> str:
        if first:
            return name
        nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=[1, 0, 2]))
        return f"{name}_t"

    operands = [turned("x"), weight("W", directions, blocks, WIDTH), weight("R", directions, blocks, HIDDEN)]
    operands.append(weight("B", directions, 2 * blocks) if bias else "")
    operands.append("lengths" if lengths else "")
    if lengths == "input":
        inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, (batch,)))
        feeds["lengths"] = np.asarray([length, 2, length - 1][:ROWS], np.int32)
    elif lengths:
        initializers.append(numpy_helper.from_array(np.asarray(lengths, np.int32), "lengths"))
    for name in ("h0", "c0") if op == "LSTM" else ("h0",):
        if initial == "input":
            inputs.append(helper.make_tensor_value_info(name, 1, (batch, directions, HIDDEN)))
            feeds[name] = drawn.normal(size=(ROWS, directions, HIDDEN)).astype(np.float32)
            operands.append(turned(name))
        elif initial:
            shape = (ROWS, directions, HIDDEN) if first else (directions, ROWS, HIDDEN)
            operands.append(weight(name, *shape, scale=0.0 if initial == "zero" else 0.6))
        else:
            operands.append("")
    if peepholes:
        operands.append(weight("P", directions, 3 * HIDDEN))
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    nodes.append(helper.make_node(op, operands, outputs, name="cell", hidden_size=HIDDEN, **attributes))
    weight("V", HIDDEN, 3)
    nodes.append(helper.make_node("MatMul", [out, "V"], ["q"]))
    rank = 4 if out == "Y" else 3
    perm = list(range(rank)) if first else [2, 0, 1, 3] if out == "Y" else [1, 0, 2]
    nodes.append(helper.make_node("Transpose", ["q"], ["rows"], perm=perm))
    initializers.append(numpy_helper.from_array(np.arange(1, rank - 1), "axes"))
    nodes.append(helper.make_node("ReduceSum", ["rows", "axes"], ["z"], keepdims=0))
    z = helper.make_tensor_value_info("z", 1, (batch, 3))
    graph = helper.make_graph(nodes, "recurrent", inputs, [z], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), feeds


VARIANTS: dict[str, Case] = {
    "lstm": {"op": "LSTM"},
    "lstm_reverse": {"op": "LSTM", "direction": "reverse"},
    "lstm_both_final": {"op": "LSTM", "direction": "bidirectional", "out": "Y_h"},
    "lstm_cell_state": {"op": "LSTM", "out": "Y_c"},
    "lstm_no_bias": {"op": "LSTM", "bias": False},
    "lstm_peepholes": {"op": "LSTM", "peepholes": True, "direction": "bidirectional"},
    "lstm_zero_state": {"op": "LSTM", "initial": "zero", "batch": ROWS},
    "lstm_constant_state": {"op": "LSTM", "initial": "const", "batch": ROWS},
    "lstm_states_given": {"op": "LSTM", "initial": "input", "direction": "bidirectional"},
    "lstm_lengths": {"op": "LSTM", "lengths": "input", "direction": "bidirectional"},
    "lstm_lengths_final": {"op": "LSTM", "lengths": "input", "direction": "reverse", "out": "Y_h", "initial": "input"},
    "lstm_empty_row": {"op": "LSTM", "lengths": [5, 0, 2], "batch": ROWS, "out": "Y_h", "initial": "input"},
    "lstm_clip": {"op": "LSTM", "clip": 0.4, "peepholes": True},
    "lstm_coupled": {"op": "LSTM", "input_forget": 1, "peepholes": True},
    "lstm_activations": {
        "op": "LSTM", "direction": "bidirectional", "activation_alpha": [0.3, 0.1, 1.2], "activation_beta": [0.4],
        "activations": ["HardSigmoid", "LeakyRelu", "Softsign", "Sigmoid", "ThresholdedRelu", "Tanh"],
    },
    "gru": {"op": "GRU"},
    "gru_both": {"op": "GRU", "direction": "bidirectional", "lengths": [2, 5, 3], "batch": ROWS},
    "gru_reset_last": {"op": "GRU", "linear_before_reset": 1},
    "gru_reset_last_states": {"op": "GRU", "linear_before_reset": 1, "initial": "input", "direction": "bidirectional"},
    "gru_reset_last_no_bias": {"op": "GRU", "linear_before_reset": 1, "bias": False, "out": "Y_h"},
    "gru_activations": {"op": "GRU", "activations": ["HardSigmoid", "Relu"], "initial": "const", "batch": ROWS},
    "gru_clip": {"op": "GRU", "clip": 0.5},
    "rnn": {"op": "RNN"},
    "rnn_both": {"op": "RNN", "direction": "bidirectional", "initial": "input", "lengths": "input"},
    "rnn_relu": {"op": "RNN", "activations": ["Relu"], "out": "Y_h", "direction": "reverse"},
    "rnn_scaled_tanh": {
        "op": "RNN", "activations": ["ScaledTanh"], "activation_alpha": [1.7], "activation_beta": [0.6],
    },
    "rnn_affine": {"op": "RNN", "activations": ["Affine"], "activation_alpha": [0.4], "activation_beta": [0.1]},
    "rnn_softplus": {"op": "RNN", "activations": ["Softplus"]},
    "rnn_elu": {"op": "RNN", "activations": ["Elu"], "activation_alpha": [0.7]},
}  # fmt: skip


def explained(case: Case) -> list[str]:
    """The explained inputs of a case: x, and initial states that are inputs."""
    return ["x"] + [n for n in ("h0", "c0") if case.get("initial") == "input" and (n == "h0" or case["op"] == "LSTM")]


@functools.cache
def result(name: str, rules: str, steps: int | str = STEPS) -> Result:
    model, feeds = network(**VARIANTS[name], steps=steps)
    return explain(compiled(model, rules=rules, inputs=explained(VARIANTS[name])), feeds)


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_complete(name: str, rules: str) -> None:
    """The maps add up to the model's own score."""
    assert_complete(result(name, rules))


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_equals_the_kernel(name: str, rules: str) -> None:
    """Run forward at the model's own input, the linear program gives what ONNX Runtime's kernel gives, and all-ones."""
    model, feeds = network(**VARIANTS[name])
    assert_forward(model, feeds, rules, explained(VARIANTS[name]))


def assert_forward(model: onnx.ModelProto, feeds: Feeds, rules: str, inputs: list[str]) -> None:
    linear = linearise(load_model(model), inputs, None, rules)
    given = dict(feeds)
    for t in linear.sources:
        x = feeds[t.name]
        given[f"v.{t.name}"] = x
        given[f"o.{t.name}"] = np.ones([1 if i == linear.axes[t] else d for i, d in enumerate(x.shape)], np.float32)
    found = run(forward_model(linear), given)
    np.testing.assert_allclose(found["R_value"], found["z"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["R_ones"], np.ones_like(found["R_ones"]))


@pytest.mark.parametrize("name", ["lstm_lengths", "gru_reset_last_states", "rnn_both"])
def test_batch_is_its_rows(name: str) -> None:
    model, feeds = network(**VARIANTS[name])
    proto = compiled(model, inputs=explained(VARIANTS[name]))
    whole = explain(proto, feeds)
    for i in range(ROWS):
        row = explain(proto, {k: v[i : i + 1] for k, v in feeds.items()})
        for a, b in zip((*whole.c_w, *whole.c_b), (*row.c_w, *row.c_b), strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=1e-4, atol=1e-6)


def test_layout_1_equals_layout_0() -> None:
    """ONNX Runtime has no kernel for layout 1: the decompositions are compared."""
    for case in (VARIANTS["lstm_states_given"], VARIANTS["gru_reset_last_states"], VARIANTS["lstm_cell_state"]):
        model, feeds = network(**case)
        other, _ = network(**case, layout=1)
        maps = []
        for m in (model, other):
            linear = linearise(load_model(m), explained(case))
            given = {f"v.{t.name}": feeds[t.name] for t in linear.sources}
            given |= {f"o.{t.name}": np.ones((*feeds[t.name].shape[:-1], 1), np.float32) for t in linear.sources}
            proto = forward_model(linear)
            only_outputs(proto, 2)
            maps.append(run(proto, {**feeds, **given}))
        np.testing.assert_allclose(maps[0]["R_value"], maps[1]["R_value"], rtol=1e-5, atol=1e-6)


def only_outputs(proto: onnx.ModelProto, count: int) -> None:
    """Keep the last outputs and what they need."""
    del proto.graph.output[:-count]
    needed = {o.name for o in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if needed.isdisjoint(node.output):
            proto.graph.node.remove(node)
        else:
            needed.update(node.input)


def test_zero_state_counts_as_absent() -> None:
    """Also where zeros of the batch's size are made at run time."""
    absent, zero = result("lstm", "secant"), result("lstm_zero_state", "secant")
    assert_close(zero.c_w[0], absent.c_w[0], 1e-6, "C_w")
    assert_close(zero.c_b[0], absent.c_b[0], 1e-6, "C_b")


class Recurrent(nn.Module):
    """A recurrent network with a head, as PyTorch users write it."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(WIDTH, HIDDEN, batch_first=True, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.layer(x)
        z: torch.Tensor = self.head(y[:, -1] + y.mean(1))
        return z


NETWORKS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm_deep_both": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": (nn.LSTM, {"proj_size": 2}),
    "gru": (nn.GRU, {"bidirectional": True}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "rnn_tanh": (nn.RNN, {"num_layers": 2}),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_tangent_is_the_gradient(name: str, exporter: str) -> None:
    """C_w is torch's own gradient, whatever the exporter writes."""
    kind, options = NETWORKS[name]
    torch.manual_seed(3)
    if "proj_size" in options:
        pytest.skip("ONNX has no LSTM with a projection; neither exporter writes it as one")
    module = Recurrent(kind, **options).eval()
    x = torch.randn(ROWS, STEPS, WIDTH, requires_grad=True)
    with torch.no_grad():
        model = export_module(module, (x.detach(),), ["x"], exporter, 17 if exporter == "torchscript" else 18, {0: "N"})
    for rules in ("tangent", "secant"):
        found = explain(compiled(model, rules=rules), {"x": x.detach().numpy()})
        assert_complete(found)
        if rules == "tangent":
            z = module(x)
            (gradient,) = torch.autograd.grad(z.max(dim=1).values.sum(), x)
            assert_close(found.c_w[0], gradient.numpy(), 1e-5, "C_w")


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("name", VARIANTS)
def test_dynamic_length_equals_static(name: str, rules: str) -> None:
    """A sequence whose length only the run tells is a Scan; its maps are those of the unrolled steps."""
    whole, scanned = result(name, rules), result(name, rules, "T")
    assert_complete(scanned)
    for a, b in zip((*scanned.c_w, *scanned.c_b), (*whole.c_w, *whole.c_b), strict=True):
        assert_close(a, b, 1e-5, "a map")


@pytest.mark.parametrize("name", ["lstm_lengths_final", "lstm_peepholes", "gru_reset_last_states", "rnn_both"])
@pytest.mark.parametrize("rules", ["secant", "tangent"])
def test_scan_forward(name: str, rules: str) -> None:
    """A Scan run forward gives the kernel's values and keeps all-ones; with its transpose, <R v, s> = <v, C_w>."""
    model, feeds = network(**VARIANTS[name], steps="T")
    inputs = explained(VARIANTS[name])
    assert_forward(model, feeds, rules, inputs)
    found = result(name, rules, "T")
    linear = linearise(load_model(model), inputs, None, rules)
    random = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        return np.asarray(random.normal(size=shape), np.float32)

    v = {t.name: draw(*feeds[t.name].shape) for t in linear.sources}
    ones = {t.name: draw(*feeds[t.name].shape[:-1], 1) for t in linear.sources}
    given = {f"v.{n}": a for n, a in v.items()} | {f"o.{n}": a for n, a in ones.items()}
    assert all(linear.axes[t] == len(feeds[t.name].shape) - 1 for t in linear.sources)
    image = run(forward_model(linear), {**feeds, **given})["R_value"]
    forward = image[np.arange(ROWS), found.outputs["z"].argmax(axis=1)].sum()
    terms = [a * b for a, b in zip((*v.values(), *ones.values()), (*found.c_w, *found.c_b), strict=True)]
    backward, size = sum(float(t.sum()) for t in terms), sum(float(np.abs(t).sum()) for t in terms)
    assert abs(forward - backward) <= 1e-5 * size


def test_other_length_than_the_feeds() -> None:
    """One file for every length: 1 step, and more than are unrolled."""
    model, _ = network("GRU", steps="T", direction="bidirectional")
    proto = compiled(model)
    for steps in (1, 2, 100):
        x = np.random.default_rng(steps).normal(size=(ROWS, steps, WIDTH)).astype(np.float32)
        static = compiled(network("GRU", steps=steps, direction="bidirectional")[0])
        found, expected = explain(proto, {"x": x}), explain(static, {"x": x})
        assert_complete(found)
        assert_close(found.c_w[0], expected.c_w[0], 1e-5, "C_w")
        assert_close(found.c_b[0], expected.c_b[0], 1e-5, "C_b")


def test_several_targets_through_a_scan() -> None:
    model, feeds = network("LSTM", steps="T", lengths="input")
    single, several = explain(compiled(model), feeds), explain(compiled(model, target="top:2"), feeds)
    assert_close(several.c_w[0][:, 0], single.c_w[0], 1e-6, "C_w")
    assert_close(several.c_b[0][:, 0], single.c_b[0], 1e-6, "C_b")


def scan_network(steps: int | str, kind: str, backwards: int = 0) -> tuple[onnx.ModelProto, Feeds]:
    """h = tanh(x W + h R + b) written out by a Scan (or a Loop that gathers x), and its mean and last state."""
    random = np.random.default_rng(0)
    shapes = {"W": (WIDTH, HIDDEN), "R": (HIDDEN, HIDDEN), "b": (HIDDEN,), "V": (HIDDEN, 3)}
    weights = {n: (random.normal(size=s) * 0.5).astype(np.float32) for n, s in shapes.items()}
    weights |= {"axis": np.asarray([0]), "one": np.asarray([1]), "always": np.asarray(True), "far": np.asarray(10**9)}
    node, info = helper.make_node, helper.make_tensor_value_info
    step = [node("MatMul", ["xt", "W"], ["a"]), node("MatMul", ["h", "R"], ["c"]), node("Add", ["a", "c"], ["d"])]
    step += [node("Add", ["d", "b"], ["e"]), node("Tanh", ["e"], ["new"]), node("Identity", ["new"], ["y"])]
    states, outputs = [info("h", 1, None)], [info("new", 1, None), info("y", 1, ("N", HIDDEN))]
    nodes = [node("Transpose", ["x"], ["X"], perm=[1, 0, 2]), node("MatMul", ["h0", "R"], ["start"])]
    nodes.append(node("Shape", ["x"], ["count"], start=1, end=2))
    if kind == "scan":
        body = helper.make_graph(step, "body", [*states, info("xt", 1, None)], outputs)
        way: Case = {"scan_input_directions": [backwards], "scan_output_directions": [backwards]}
        nodes.append(node("Scan", ["start", "X"], ["last", "Y"], "steps", body=body, num_scan_inputs=1, **way))
    else:
        nodes += [node("Sub", ["count", "one"], ["end"]), node("Squeeze", ["end"], ["final"])]
        goes_on = node("Less", ["i", "final"], ["on"]) if kind == "while" else node("Identity", ["go"], ["on"])
        loop = [node("Gather", ["X", "i"], ["xt"], axis=0), *step, goes_on]
        given = [info("i", 7, ()), info("go", 9, ()), *states]
        body = helper.make_graph(loop, "body", given, [info("on", 9, ()), *outputs])
        reads = ["far", "always", "start"] if kind == "while" else ["count", "", "start"]
        nodes.append(node("Loop", reads, ["last", "Y"], "steps", body=body))
    nodes += [node("ReduceMean", ["Y", "axis"], ["mean"], keepdims=0), node("Add", ["mean", "last"], ["sum"])]
    nodes.append(node("MatMul", ["sum", "V"], ["z"]))
    inputs = [info("x", 1, ("N", steps, WIDTH)), info("h0", 1, ("N", HIDDEN))]
    stored = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "scan", inputs, [info("z", 1, ("N", 3))], stored)
    length = steps if isinstance(steps, int) else STEPS
    feeds = {"x": random.normal(size=(ROWS, length, WIDTH)), "h0": random.normal(size=(ROWS, HIDDEN))}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, {k: v.astype(np.float32) for k, v in feeds.items()}


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("kind", ["scan", "loop", "while"])
def test_scan_and_loop(kind: str, rules: str) -> None:
    """Unrolled, as a Scan, and with the initial state explained or not."""
    for backwards in (0, 1) if kind == "scan" else (0,):
        model, feeds = scan_network(STEPS, kind, backwards)
        other, _ = scan_network("T", kind, backwards)
        static = explain(compiled(model, rules=rules, inputs=["x", "h0"]), feeds)
        dynamic = explain(compiled(other, rules=rules, inputs=["x", "h0"]), feeds)
        assert_complete(static)
        for a, b in zip((*dynamic.c_w, *dynamic.c_b), (*static.c_w, *static.c_b), strict=True):
            assert_close(a, b, 1e-5, "a map")
        assert_forward(other, feeds, rules, ["x", "h0"])
        assert_forward(other, feeds, rules, ["x"])
        proto = compiled(other, rules=rules, inputs=["x"])
        whole = explain(proto, feeds)
        assert_complete(whole)
        row = explain(proto, {k: v[1:2] for k, v in feeds.items()})
        assert_close(row.c_b[0][0], whole.c_b[0][1], 1e-5, "C_b")


def test_scan_in_double() -> None:
    """The audit mode reaches into bodies."""
    model, feeds = scan_network("T", "scan")
    assert_complete(explain(compiled(model, dtype="float64", inputs=["x", "h0"]), feeds), 1e-12)
