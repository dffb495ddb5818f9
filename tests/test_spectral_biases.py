"""Bias contributions beta_l: against products written out, against torch, both ways, and summing to the bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from architectures import export_module
from small_networks import NETWORKS
from small_spectral import BYPASS_WEIGHTS, Perceptron, bypassed, model
from test_branches import FLAG, choice
from test_branches import model as branching
from test_recurrent import network as recurrent
from torch import nn

from omenn_onnx.errors import NoPath, OperatorError, TargetError
from omenn_onnx.spectral.biases import bias_contributions, bias_operator, layer_biases
from omenn_onnx.spectral.instances import Instance, Linearization

MODELS = Path(__file__).resolve().parents[1] / "models"
CASES = [("digits_cnn", "tangent"), ("digits_vit", "tangent"), ("digits_vit", "secant"), ("grammar_text", "secant"),
         ("breast_cancer_sklearn", "tangent"), ("squares_bias", "tangent")]  # fmt: skip
RULES = ("tangent", "secant")
BAR = 1e-6


def trained(name: str, rules: str = "tangent", row: int = 3) -> Instance:
    made = Linearization(str(MODELS / f"{name}.onnx"), rules=rules)
    with np.load(MODELS / f"{name}.npz") as data:
        return made.at({i.name: data[i.name][row : row + 1] for i in made.inputs})


def check(instance: Instance, bar: float = BAR, **ends: Any) -> None:
    """Nodes and layers sum to the bias, both ways agree, and a seed's contributions are the seed times the maps."""
    op = instance.operator(ends.get("source"), ends.get("target"))
    nodes, layers = bias_contributions(instance, **ends), layer_biases(instance, **ends)
    assert nodes.beta.shape == (len(nodes.owners), *op.target_shape)
    assert len(nodes.operators) == len(nodes.owners) == len(set(nodes.owners))
    np.testing.assert_array_equal(nodes.bias.reshape(-1), op.bias)
    assert max(nodes.residual, layers.residual, layers.disagreement) <= bar
    seed = np.random.default_rng(5).normal(size=op.shape[0]).astype(np.float32)
    seeded, by_layer = bias_contributions(instance, seed=seed, **ends), layer_biases(instance, seed=seed, **ends)
    for found, maps in ((seeded.beta, nodes.beta), (by_layer.pushed, layers.pushed)):
        expected = maps.reshape(len(maps), op.shape[0]).astype(np.float64) @ seed
        np.testing.assert_allclose(found, expected, atol=20 * bar * max(1.0, np.abs(expected).max(initial=0.0)))
    assert max(seeded.residual, by_layer.residual, by_layer.disagreement) <= bar


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_products_written_out(seed: int) -> None:
    """beta_l = W_n D_n ... W_l+1 D_l+1 b_l, with every matrix in numpy."""
    net = Perceptron(seed)
    x = np.random.default_rng(seed + 10).normal(size=5).astype(np.float32)
    D = [np.diag(m.astype(np.float64)) for m in net.masks(x)]
    expected = [net.W[2] @ D[1] @ net.W[1] @ D[0] @ net.b[0], net.W[2] @ D[1] @ net.b[1], net.b[2]]
    instance = Linearization(net.model).at(x[None])
    nodes = bias_contributions(instance)
    assert nodes.owners == ("node_a0", "node_a1", "node_z"), "in the order of the network"
    assert nodes.operators == ("Gemm", "Gemm", "Gemm")
    np.testing.assert_allclose(nodes.beta[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(nodes["node_a1"][0], expected[1], atol=1e-6)
    layers = layer_biases(instance)
    assert layers.layers == ("a0", "a1", "z")
    assert layers.owners == (("node_a0",), ("node_a1",), ("node_z",))
    np.testing.assert_allclose(layers.pushed[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(layers.telescoped[:, 0], expected, atol=2e-6)


@pytest.mark.parametrize(("name", "rules"), CASES)
def test_trained_networks(name: str, rules: str) -> None:
    check(trained(name, rules))


SMALL = {"densenet": "secant", "inception-pooled": "tangent", "pre_activation": "secant", "transformer-at": "tangent"}


@pytest.mark.parametrize(("name", "rules"), SMALL.items())
def test_small_networks(name: str, rules: str) -> None:
    """Concatenations, norms, residual sums; a batch of rows."""
    made, feeds = NETWORKS[name]()
    check(Linearization(made, rules=rules).at(feeds))


class Residual(nn.Module):
    """Two convolutions beside a residual connection, between two others; all with biases, ReLU and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, 4, 3, padding=1) for a in (2, 4, 4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *inner, last = self.convolutions
        x = torch.max_pool2d(torch.relu(first(x)), 2)
        x = torch.relu(x + inner[1](torch.relu(inner[0](x))))
        return self.head(torch.relu(last(x)).mean((2, 3)))


def test_against_torch() -> None:
    """In a network of ReLUs a node's part of z is <dz/db, b> of its bias b."""
    torch.manual_seed(3)
    net, x = Residual(), torch.randn(1, 2, 8, 8)
    proto = export_module(net, (x,), ["x"], "torchscript", 17, {})
    biases = [c.bias for c in net.convolutions] + [net.head.bias]
    gradients = torch.autograd.grad(net(x)[0, 1], biases)
    expected = [float((g * b).sum().detach()) for b, g in zip(biases, gradients, strict=True)]
    found = bias_contributions(Linearization(proto).at(x.numpy()), seed=1)
    np.testing.assert_allclose(found.beta, expected, atol=1e-6)
    layers = layer_biases(Linearization(proto).at(x.numpy()), seed=1)
    assert [len(o) for o in layers.owners] == [1, 2, 1, 1], "what the residual connection spans is one layer"
    np.testing.assert_allclose(layers.pushed, [expected[0], expected[1] + expected[2], *expected[3:]], atol=1e-6)


@pytest.mark.parametrize(("op", "rules"), [("LSTM", "tangent"), ("GRU", "secant")])
def test_recurrences(op: str, rules: str) -> None:
    """A recurrence is one node, its constant initial state included; other explained inputs come in past the source."""
    made, feeds = recurrent(op, initial="const", batch=3)
    instance = Linearization(made, rules=rules, inputs="x").at(feeds)
    check(instance)
    assert bias_contributions(instance).owners == ("cell",)
    assert bias_contributions(instance).operators == (op,)
    made, feeds = recurrent(op, initial="input")
    both = Linearization(made, rules=rules, inputs=["x", "h0"]).at(feeds)
    check(both, source="x")
    beside = bias_contributions(both, source="x")
    assert sorted(beside.owners) == ["cell", "value of h0"]
    assert dict(zip(beside.owners, beside.operators, strict=True)) == {"cell": op, "value of h0": ""}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("taken", [True, False])
def test_branches(taken: bool, rules: str) -> None:
    """An If is one node, with the constants of the branch that is taken."""
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    made = Linearization(branching([choice()], {}, [FLAG]), rules=rules, output="y")
    instance = made.at({"x": x, "flag": np.array(taken)})
    check(instance)
    assert bias_contributions(instance).operators == ("If",)


@pytest.mark.parametrize("rules", RULES)
def test_past_a_residual_connection(rules: str) -> None:
    """From a tensor beside a residual connection: what x brings past it is an owner, and no layer can end there."""
    x = np.random.default_rng(2).normal(size=(1, 4)).astype(np.float32)
    instance = Linearization(bypassed(), rules=rules).at(x)
    check(instance)
    check(instance, source="k")
    found = bias_contributions(instance, source="k")
    assert found.owners == ("value of x", "node_r")
    on = instance.value("s")[0] > 0
    np.testing.assert_allclose(found["value of x"][0], (x[0] * on) @ BYPASS_WEIGHTS["C"], atol=1e-6)
    with pytest.raises(OperatorError, match=r"'k' does not separate 'x' from 'z'.*'s'"):
        layer_biases(instance, ["k"])


def test_remainder_of_a_function_belongs_to_its_node() -> None:
    """f(x) - W x: all of it in tangent, f(0) in secant."""
    made = model("y = Exp(x)\nz = Neg(y)", {}, {"x": [1, 3]}, {"z": [1, 3]})
    x = np.array([[0.3, -1.0, 2.0]], np.float32)
    tangent = bias_contributions(Linearization(made).at(x))
    np.testing.assert_allclose(tangent["node_y"], -(np.exp(x) - np.exp(x) * x), rtol=1e-6)
    secant = bias_contributions(Linearization(made, rules="secant").at(x))
    np.testing.assert_allclose(secant["node_y"], -np.ones_like(x), rtol=1e-6)


def test_opaque_operator_is_an_owner() -> None:
    made = model("a = Add(x, c)\nb = Floor(a)\nd = Sin(a)\nz = Add(b, d)", {"c": np.full(3, 0.6, np.float32)},
                 {"x": [1, 3]}, {"z": [1, 3]})  # fmt: skip
    instance = Linearization(made, opaque="Floor").at(np.array([[0.3, -1.0, 2.0]], np.float32))
    check(instance)
    np.testing.assert_allclose(bias_contributions(instance)["node_b"], instance.value("b"), atol=1e-6)


def test_constant_that_comes_in_early_and_late() -> None:
    """A tensor is no end of a layer where a constant of before reaches the target past it as well."""
    made = model(
        "a = MatMul(x, A)\nb = Tanh(a)\nc = Add(b, p)\nd = Exp(c)\ne = Add(d, f)\nz = MatMul(e, C)",
        {"A": BYPASS_WEIGHTS["A"], "p": BYPASS_WEIGHTS["p"], "f": BYPASS_WEIGHTS["q"], "C": BYPASS_WEIGHTS["C"]},
        {"x": [1, 4]}, {"z": [1, 2]},
    )  # fmt: skip
    check(Linearization(made, rules="secant").at(np.ones((1, 4), np.float32)))
    chosen = layer_biases(Linearization(made).at(np.ones((1, 4), np.float32)), ["c"])
    assert chosen.layers == ("c", "z")
    assert chosen.owners == (("node_b", "node_c"), ("node_d", "node_e"))


@pytest.mark.parametrize("low", [-np.inf, -3.4e38])
def test_masked_logits(low: float) -> None:
    """What a mask covers is told by the bias alone; the rest adds up."""
    weights = {"A": BYPASS_WEIGHTS["A"], "p": BYPASS_WEIGHTS["p"], "m": np.array([True, False, True, True]),
               "low": np.array(low, np.float32)}  # fmt: skip
    made = model("a = MatMul(x, A)\nb = Add(a, p)\nz = Where(m, b, low)", weights, {"x": [1, 4]}, {"z": [1, 4]})
    instance = Linearization(made).at(np.ones((1, 4), np.float32))
    nodes, layers = bias_contributions(instance), layer_biases(instance)
    assert max(nodes.residual, layers.residual, layers.disagreement) <= BAR
    np.testing.assert_allclose(nodes["node_b"][0], BYPASS_WEIGHTS["p"] * weights["m"], atol=1e-7)
    assert nodes.bias[0, 1] <= -3e38


def test_without_constants() -> None:
    """No biases, no owners: an empty result that sums to the zero bias."""
    net = Perceptron(0, bias=False)
    made = onnx.ModelProto.FromString(net.model.SerializeToString())
    for node in made.graph.node:
        del node.input[2:]
    instance = Linearization(made).at(np.ones((1, 5), np.float32))
    found = bias_contributions(instance)
    assert found.owners == ()
    assert found.residual == 0
    assert not found.total.any()
    assert layer_biases(instance).layers == ("z",)
    assert bias_contributions(instance, seed=0).beta.shape == (0,)
    with pytest.raises(NoPath, match="no constant"):
        bias_operator(instance)


def test_operator_of_all_constants() -> None:
    """B 1 is the bias; rows and columns agree."""
    instance = trained("squares_bias")
    B, op = bias_operator(instance), instance.operator()
    assert B.shape == (4096, 6)
    assert B.labels[2] == "bottleneck"
    np.testing.assert_allclose(B.matvec(np.ones(6, np.float32)), op.bias, atol=1e-6)
    u = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    np.testing.assert_allclose(B.rmatvec(u), B.dense().T @ u, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 3}, TargetError, r"index 3 is out of range: 'z' \[1, 3\] has indices 0 to 2"),
        ({"seed": -1}, TargetError, "out of range"),
        ({"seed": [1.0, 2.0]}, TargetError, "the seed has 2 weights, 'z' .* has 3 elements"),
        ({"seed": [1.0, np.nan, 0.0]}, TargetError, "NaN"),
        ({"seed": "three"}, TargetError, "a seed is an index or an array of numbers"),
        ({"memory_limit": 10}, OperatorError, "the limit is"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    instance = Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32))
    with pytest.raises(error, match=message) as told:
        bias_contributions(instance, **options)
    assert "\n" not in str(told.value)


def test_unknown_owner() -> None:
    instance = Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32))
    with pytest.raises(OperatorError, match="'node_h0' adds no constant to 'z'; those that do: 'node_a0'"):
        bias_contributions(instance)["node_h0"]
