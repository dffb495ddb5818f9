"""The trained networks of models/ and all their exports on real inputs: completeness, gradients, rows, agreement."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from explaining import Result, assert_close, assert_complete, assert_same_outputs, compiled, explain

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS.parent / "tools"))

import networks  # noqa: E402
import train_spectral  # noqa: E402

torch.set_num_threads(1)

RULES = ("secant", "tangent")
INDEX = json.loads((MODELS / "exports" / "index.json").read_text())
EXPORTS = [(name, file) for name, entry in INDEX.items() for file in entry["files"]]
FILES = [*((name, f"{name}.onnx") for name in INDEX), *EXPORTS]
ROWS = 12


def model(file: str) -> onnx.ModelProto:
    path = MODELS / file
    return onnx.load(path if path.exists() else MODELS / "exports" / file)


def real_inputs(name: str, rows: slice = slice(0, ROWS)) -> dict[str, np.ndarray]:
    with np.load(MODELS / f"{name}.npz") as data:
        return {key: data[key][rows] for key in networks.INPUT_NAMES[name]}


@functools.cache
def program(file: str, rules: str) -> onnx.ModelProto:
    return compiled(model(file), rules=rules)


@functools.cache
def explained(name: str, file: str, rules: str, optimise: bool = True) -> Result:
    return explain(program(file, rules), real_inputs(name), optimise)


def test_every_export_is_tested() -> None:
    """Every file of models/exports is in its index, and so in this file; the networks for the spectrum are tested by
    tests/test_spectral_reproductions.py."""
    files = {p.name for p in (MODELS / "exports").glob("*.onnx")}
    assert files == {file for entry in INDEX.values() for file in entry["files"]}
    assert {p.stem for p in MODELS.glob("*.onnx")} == set(INDEX) | set(train_spectral.NAMES)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("name", "file"), FILES)
def test_complete(name: str, file: str, rules: str) -> None:
    """score = sum(C_w * X) + sum(C_b) with the runtime's optimisation on and off; the outputs stay what they were."""
    for optimise in (True, False):
        result = explained(name, file, rules, optimise)
        assert_complete(result)
        assert_same_outputs(result, model(file), real_inputs(name), optimise)
        assert result.condition() < 1e4


@pytest.mark.parametrize(("name", "file"), FILES)
def test_tangent_is_the_gradient(name: str, file: str) -> None:
    """C_w in the tangent rule set is torch's gradient of the score with respect to the input or the word embeddings."""
    result = explained(name, file, "tangent")
    network = networks.load(name)
    inputs = [torch.from_numpy(v) for v in real_inputs(name).values()]
    if name == "grammar_text":
        x = network.words(inputs[0]).detach().requires_grad_()
        z = network.from_embeddings(x, inputs[1])
    else:
        x = inputs[0].requires_grad_()
        z = network(x) if name == "breast_cancer_sklearn" else network.logits(x)
    y = z.gather(1, torch.tensor(result.target)[:, None]).sum()
    (gradient,) = torch.autograd.grad(y, x)
    assert_close(result.score, z.gather(1, torch.tensor(result.target)[:, None])[:, 0].detach().numpy(), 1e-5, "score")
    assert_close(result.x[0], x.detach().numpy(), 1e-6, "X")
    assert_close(result.c_w[0], gradient.numpy(), 1e-3, "C_w")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("name", "file"), EXPORTS)
def test_exports_agree(name: str, file: str, rules: str) -> None:
    """Exporters, opsets, fused and written-out attention: one network, one explanation."""
    main, other = explained(name, f"{name}.onnx", rules), explained(name, file, rules)
    np.testing.assert_array_equal(other.target, main.target)
    assert_close(other.score, main.score, 1e-5, "score")
    assert_close(other.c_w[0], main.c_w[0], 1e-4, "C_w")
    assert_close(other.c_b[0], main.c_b[0], 1e-4, "C_b")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", INDEX)
def test_rows_one_by_one(name: str, rules: str) -> None:
    """A batch is explained as its rows are, one by one."""
    together = explained(name, f"{name}.onnx", rules)
    for i in range(ROWS):
        alone = explain(program(f"{name}.onnx", rules), real_inputs(name, slice(i, i + 1)))
        assert_close(alone.c_w[0], together.c_w[0][i : i + 1], 1e-4, f"C_w of row {i}")
        assert_close(alone.c_b[0], together.c_b[0][i : i + 1], 1e-4, f"C_b of row {i}")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", INDEX)
def test_all_kept_inputs(name: str, rules: str) -> None:
    """Completeness on all 64 inputs of each network."""
    assert_complete(explain(program(f"{name}.onnx", rules), real_inputs(name, slice(None))))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("target", ["input", "seed", "top:2", "1", "0,1", "0-1"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "grammar_text"])
def test_targets(name: str, target: str, rules: str) -> None:
    """Every kind of target is complete; several targets put an axis behind the batch axis."""
    random = np.random.default_rng(5)
    feeds = real_inputs(name, slice(0, 4))
    classes = 3 if name == "grammar_text" else 10
    extra = {
        "input": {"target": random.integers(0, classes, 4)},
        "seed": {"seed": random.standard_normal((4, classes)).astype(np.float32)},
    }
    proto = compiled(model(f"{name}.onnx"), rules=rules, target=target)
    result = explain(proto, {**feeds, **extra.get(target, {})})
    if target in ("top:2", "0,1"):
        assert result.c_w[0].shape[:2] == (4, 2)
        for k in range(2):
            one = Result(
                result.outputs,
                result.score[:, k],
                result.target,
                result.x,
                [result.c_w[0][:, k]],
                [result.c_b[0][:, k]],
            )
            assert_complete(one)
    else:
        assert_complete(result)
