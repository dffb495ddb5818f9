"""Operators of the networks of models/, of some of their exports and of architectures with random weights: adjoint
identity and completeness between their layers, and the Jacobian of the PyTorch modules."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from architectures import ARCHITECTURES, export, network
from operator_checks import Array, adjoint_gap, assert_operator, incomplete, on_one_thread, operators

from omenn_onnx import Explainer, compile
from omenn_onnx.runtime import engines
from omenn_onnx.spectral.instances import Linearization

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS.parent / "tools"))

import networks  # noqa: E402

torch.set_num_threads(1)

RULES = ("secant", "tangent")
both = pytest.mark.parametrize("rules", RULES)
NAMES = sorted(p.stem for p in MODELS.glob("*.onnx"))
EXPORTS = [
    "digits_cnn.ts11", "digits_cnn.dyn23", "digits_vit.ts11-explicit", "digits_vit.dyn23", "grammar_text.ts14",
    "grammar_text.dyn23-expanded", "breast_cancer_sklearn.skl14-zipmap", "breast_cancer_mlp.ts13",
]  # fmt: skip
SMALL = ("resnet_basic", "vit", "gpt2_eager", "unet")
"""Architectures; the others are networks of the zoo: tools/zoo FOLDER --operators."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_session", on_one_thread)


def inputs(name: str, rows: slice = slice(0, 1)) -> dict[str, Array]:
    """Kept inputs of a network."""
    wanted = [i.name for i in onnx.load(MODELS / f"{name}.onnx", load_external_data=False).graph.input]
    with np.load(MODELS / f"{name}.npz") as data:
        return {key: data[key][rows] for key in wanted}


@both
@pytest.mark.parametrize("name", NAMES)
def test_models(name: str, rules: str) -> None:
    """Between all kinds of layers of each network of models/."""
    instance = Linearization(str(MODELS / f"{name}.onnx"), rules=rules).at(inputs(name))
    found = list(operators(instance, most=3, seed=NAMES.index(name)))
    assert len(found) >= 4
    for op in found:
        assert_operator(op)


@both
@pytest.mark.parametrize("file", EXPORTS)
def test_exports_agree(file: str, rules: str) -> None:
    """The operator from X to Z of another exporter's file is the same; of two rows at a time."""
    name = file.partition(".")[0]
    feeds = inputs(name, slice(0, 2))
    first, other = (
        Linearization(str(path), rules=rules).at(feeds).operator()
        for path in (MODELS / f"{name}.onnx", MODELS / "exports" / f"{file}.onnx")
    )
    assert_operator(other)
    expected = first.dense()
    assert np.abs(other.dense() - expected).max() <= 1e-4 * np.abs(expected).max()
    assert incomplete(other, expected) <= 1e-4
    np.testing.assert_allclose(other.y, first.y, rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("name", ["digits_cnn", "grammar_text", "breast_cancer_sklearn"])
def test_compiled(name: str, rules: str) -> None:
    """The operator of the model inside a compiled file."""
    path, feeds = str(MODELS / f"{name}.onnx"), inputs(name)
    op = Linearization(path, rules=rules).at(feeds).operator()
    other = Explainer(compile(path, target="top:2", prefix="omenn_")).operator(feeds, rules=rules)
    assert (op.source, op.target) == (other.source, other.target)
    assert np.abs(op.dense() - other.dense()).max() <= 1e-5 * np.abs(op.dense()).max()
    np.testing.assert_allclose(op.bias, other.bias, rtol=1e-4, atol=1e-5)


TORCH = ["digits_cnn", "digits_vit", "breast_cancer_mlp", "grammar_text"]


@pytest.mark.parametrize("name", TORCH)
def test_tangent_is_the_jacobian(name: str) -> None:
    """R is torch's Jacobian by reverse mode, and R v its product by forward mode."""
    feeds, module = inputs(name), networks.load(name)
    given = [torch.from_numpy(v) for v in feeds.values()]
    if name == "grammar_text":
        x = module.words(given[0]).detach()

        def logits(e: torch.Tensor) -> torch.Tensor:
            return module.from_embeddings(e, given[1])  # type: ignore[no-any-return]
    else:
        x, logits = given[0], module.logits
    op = Linearization(str(MODELS / f"{name}.onnx")).at(feeds).operator()
    np.testing.assert_allclose(op.x, x.numpy().reshape(-1), rtol=1e-6, atol=1e-6)
    expected = torch.func.jacrev(logits)(x).detach().numpy().reshape(op.shape)
    assert np.abs(op.dense() - expected).max() <= 1e-4 * np.abs(expected).max()
    v = torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape).astype(np.float32))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # (the others have no forward mode)
        product = torch.func.jvp(logits, (x,), (v,))[1].detach().numpy().reshape(-1)
    assert np.abs(op.matvec(v.numpy().reshape(-1)) - product).max() <= 1e-4 * np.abs(product).max()
    np.testing.assert_allclose(op.y - op.bias, expected @ op.x, rtol=1e-3, atol=1e-3 * np.abs(op.y).max())


def test_layers_are_the_jacobian() -> None:
    """From X to a layer and from that layer to Z, of the module cut open there."""
    feeds, module = inputs("breast_cancer_mlp"), networks.load("breast_cancer_mlp")
    instance = Linearization(str(MODELS / "breast_cancer_mlp.onnx")).at(feeds)
    x = torch.from_numpy(feeds["features"])

    def hidden(t: torch.Tensor) -> torch.Tensor:
        return module.layers[:2]((t - module.mean) / module.scale)  # type: ignore[no-any-return]

    right, left = instance.operator(None, "relu"), instance.operator("relu")
    expected = torch.func.jacrev(hidden)(x).detach().numpy().reshape(right.shape)
    assert np.abs(right.dense() - expected).max() <= 1e-4 * np.abs(expected).max()
    expected = torch.func.jacfwd(module.layers[2:])(hidden(x)).detach().numpy().reshape(left.shape)
    assert np.abs(left.dense() - expected).max() <= 1e-4 * np.abs(expected).max()


@both
@pytest.mark.parametrize("name", SMALL)
def test_architectures(name: str, rules: str) -> None:
    """Networks with random weights, and in tangent their Jacobian's product with a vector."""
    architecture, module = ARCHITECTURES[name], network(name)
    given = architecture.inputs(1)
    feeds = {key: t.numpy() for key, t in zip(architecture.names, given, strict=True)}
    instance = Linearization(export(name, "torchscript", 17), rules=rules, output="z").at(feeds)
    for op in operators(instance, most=1):
        assert_operator(op)
    if rules == "tangent" and not architecture.text:
        op = instance.operator()
        u = np.random.default_rng(2).standard_normal(op.shape[0]).astype(np.float32)
        _, pull = torch.func.vjp(lambda t: module(t).reshape(-1), given[0])
        expected = pull(torch.from_numpy(u))[0].detach().numpy().reshape(-1)
        assert np.abs(op.rmatvec(u) - expected).max() <= 1e-4 * np.abs(expected).max()
        assert adjoint_gap(op, seed=7) <= 1e-5
