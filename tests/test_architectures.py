"""Architectures with random weights, from both PyTorch exporters: completeness, gradients, batches, agreement."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from architectures import ARCHITECTURES, Architecture, export, network
from explaining import Result, assert_close, assert_complete, assert_same_outputs, compiled, explain, run
from torch import Tensor

FORMS = {
    "dynamo18": ("dynamo", 18, True),
    "torchscript17": ("torchscript", 17, True),
    "dynamo20-static": ("dynamo", 20, False),
    "torchscript13-static": ("torchscript", 13, False),
}
STATIC_DYNAMO = ("resnet_basic", "convnext", "vit", "swin", "unet", "gpt2_sdpa", "bert_eager", "llama_sdpa")
ROWS = 2
EVERY = [(name, form) for name in ARCHITECTURES for form in FORMS if form != "dynamo20-static" or name in STATIC_DYNAMO]
SDPA = ("vit", "bert_sdpa", "gpt2_sdpa", "llama_sdpa")
"""Networks with scaled_dot_product_attention, which the TorchScript exporter knows from opset 14 on."""
RULES = ("secant", "tangent")
LAYER_NORMS = ("convnext", "vit", "swin", "mixer", "bert_eager", "bert_sdpa", "gpt2_eager", "gpt2_sdpa")
"""Networks with LayerNormalization, which below opset 17 is written out: an accepted difference of C_b in tangent."""


def model(name: str, form: str) -> onnx.ModelProto:
    exporter, opset, dynamic = FORMS[form]
    opset = max(opset, 14) if name in SDPA else opset
    return export(name, exporter, opset, dynamic, ROWS)


@functools.cache
def program(name: str, form: str, rules: str) -> onnx.ModelProto:
    return compiled(model(name, form), rules=rules, target=ARCHITECTURES[name].target)


def feeds_of(architecture: Architecture, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return {key: t.numpy() for key, t in zip(architecture.names, inputs, strict=True)}


@functools.cache
def explained(name: str, form: str, rules: str, optimise: bool = True) -> Result:
    architecture = ARCHITECTURES[name]
    return explain(program(name, form, rules), feeds_of(architecture, architecture.inputs(ROWS)), optimise)


def gradient(name: str, inputs: tuple[Tensor, ...], target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dy/dX by torch (X: the image, or the word embeddings), X, and the outputs, all in float32."""
    architecture, module = ARCHITECTURES[name], network(name)
    if architecture.text:
        x = module.embeddings(inputs[0]).detach().requires_grad_()
        z = module.from_embeddings(x, inputs[1])
    else:
        x = inputs[0].clone().requires_grad_()
        z = module(x)
    if architecture.target.startswith("class:"):
        y = z[:, int(architecture.target[6:])].sum()
    else:
        y = z.reshape(len(z), -1).gather(1, torch.tensor(target)[:, None]).sum()
    (found,) = torch.autograd.grad(y, x)
    return found.numpy(), x.detach().numpy(), z.detach().numpy()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("name", "form"), EVERY)
def test_complete(name: str, form: str, rules: str) -> None:
    """score = sum(C_w * X) + sum(C_b), with the runtime's optimisation on and off; the outputs stay what they were."""
    architecture = ARCHITECTURES[name]
    feeds = feeds_of(architecture, architecture.inputs(ROWS))
    for optimise in (True, False):
        result = explained(name, form, rules, optimise)
        assert_complete(result)
        assert_same_outputs(result, model(name, form), feeds, optimise)
        assert result.condition() < 1e4


@pytest.mark.parametrize(("name", "form"), EVERY)
def test_tangent_is_the_gradient(name: str, form: str) -> None:
    """C_w in the tangent rule set is the gradient of the score by torch.autograd; Z and X are torch's."""
    result = explained(name, form, "tangent")
    expected, x, z = gradient(name, ARCHITECTURES[name].inputs(ROWS), result.target)
    assert_close(result.outputs["z"], z, 1e-5, "Z")
    assert_close(result.x[0], x, 1e-6, "X")
    assert_close(result.c_w[0], expected, 1e-3, "C_w")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in EVERY if f != "dynamo18"])
def test_exports_agree(name: str, form: str, rules: str) -> None:
    """Exporters, opsets, static and dynamic shapes: one network, one explanation."""
    first, other = explained(name, "dynamo18", rules), explained(name, form, rules)
    np.testing.assert_array_equal(other.target, first.target)
    assert_close(other.c_w[0], first.c_w[0], 1e-4, "C_w")
    if not (rules == "tangent" and form == "torchscript13-static" and name in LAYER_NORMS):
        assert_close(other.c_b[0], first.c_b[0], 1e-4, "C_b")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_one_by_one(name: str, rules: str) -> None:
    """A batch is explained as its rows are."""
    architecture = ARCHITECTURES[name]
    proto, inputs = program(name, "dynamo18", rules), architecture.inputs(3, seed=1)
    together = explain(proto, feeds_of(architecture, inputs))
    assert_complete(together)
    for i in range(3):
        alone = explain(proto, feeds_of(architecture, tuple(t[i : i + 1] for t in inputs)))
        assert_close(alone.c_w[0], together.c_w[0][i : i + 1], 1e-4, f"C_w of row {i}")
        assert_close(alone.c_b[0], together.c_b[0][i : i + 1], 1e-4, f"C_b of row {i}")


@pytest.mark.parametrize("form", ["dynamo18", "torchscript17"])
@pytest.mark.parametrize(
    ("name", "size"),
    [("fully_convolutional", (25, 31)), *((n, (5,)) for n, a in ARCHITECTURES.items() if a.text)],
)
def test_other_sizes(name: str, size: tuple[int, ...], form: str) -> None:
    """Height, width and sequence length stay dynamic in the compiled file."""
    architecture = ARCHITECTURES[name]
    inputs = architecture.inputs(1, seed=2, size=size)
    feeds = feeds_of(architecture, inputs)
    for rules in RULES:
        result = explain(program(name, form, rules), feeds)
        assert_complete(result)
        assert_same_outputs(result, model(name, form), feeds, True)
        if rules == "tangent":
            assert_close(result.c_w[0], gradient(name, inputs, result.target)[0], 1e-3, "C_w")


def test_the_compiled_file_keeps_dynamic_sizes() -> None:
    """The maps have the symbols of X where X has them."""
    proto = program("fully_convolutional", "dynamo18", "secant")
    shapes = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in proto.graph.output}
    assert shapes["C_w"] == ["batch", 3, "height", "width"]
    assert shapes["C_b"] == ["batch", 1, "height", "width"]
    found = run(proto, feeds_of(ARCHITECTURES["fully_convolutional"], ARCHITECTURES["fully_convolutional"].inputs(1)))
    assert found["C_b"].shape == (1, 1, 18, 22)
