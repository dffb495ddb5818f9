"""Baselines from the operators against torch: gradient, gradient x input, integrated gradients, Grad-CAM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_spectral import Perceptron
from torch.nn import functional as F

from omenn_onnx.errors import OperatorError, TargetError
from omenn_onnx.spectral.baselines import (
    grad_cam,
    gradient_x_input,
    input_gradient,
    integrated_gradients,
    last_feature_maps,
)
from omenn_onnx.spectral.instances import Linearization

MODELS = Path(__file__).resolve().parents[1] / "models"
sys.path.insert(0, str(MODELS.parent / "tools"))

import networks  # noqa: E402

Array = np.ndarray[Any, Any]
CNN = str(MODELS / "digits_cnn.onnx")


def digit(row: int) -> Array:
    with np.load(MODELS / "digits_cnn.npz") as data:
        return data["image"][row : row + 1]


def gradients(x: torch.Tensor, target: int) -> Array:
    """dy/dx of every row by torch."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(networks.load("digits_cnn").logits(x)[:, target].sum(), x)
    return g.numpy()


def close(found: Array, expected: Array, bar: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= bar * np.abs(expected).max()


@pytest.mark.parametrize("row", [0, 7])
def test_gradients(row: int) -> None:
    x = digit(row)
    instance = Linearization(CNN).at(x)
    expected = gradients(torch.from_numpy(x), 4)
    close(input_gradient(instance, 4), expected)
    close(gradient_x_input(instance, 4), expected * x)
    margin = np.eye(10)[3] - np.eye(10)[8]
    close(input_gradient(instance, margin), gradients(torch.from_numpy(x), 3) - gradients(torch.from_numpy(x), 8))


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_integrated_gradients(batch: int) -> None:
    """The midpoint rule of torch's gradients; as one batch, in parts with a remainder, and one by one."""
    x, steps, baseline = digit(2), 12, np.float32(0.1)
    at = (torch.arange(steps) + 0.5).reshape(-1, 1, 1, 1) / steps
    points = baseline + at * (torch.from_numpy(x) - baseline)
    expected = (x - baseline) * gradients(points, 6).mean(0, keepdims=True)
    found = integrated_gradients(Linearization(CNN), x, 6, baseline=baseline, steps=steps, batch=batch)
    close(found.attribution, expected)
    with torch.no_grad():
        y = networks.load("digits_cnn").logits(torch.from_numpy(np.concatenate([x, np.full_like(x, baseline)])))[:, 6]
    assert found.gained == pytest.approx(float(y[0] - y[1]), abs=1e-4)
    assert found.missing == pytest.approx(found.gained - float(expected.sum()), abs=1e-3)


def test_integrated_gradients_sum_to_what_is_gained() -> None:
    """Finer steps miss less, in a model of one fixed row too (which runs its steps one by one)."""
    x = digit(9)
    coarse, fine = (integrated_gradients(Linearization(CNN), x, 1, steps=n) for n in (4, 128))
    assert abs(fine.missing) < 0.02 * abs(fine.gained)
    assert abs(fine.missing) < abs(coarse.missing)
    fixed = onnx.load(CNN)
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for d in value.type.tensor_type.shape.dim:
            if d.dim_param:
                d.dim_value = 1
    one = integrated_gradients(Linearization(fixed), x, 1, steps=4)
    close(one.attribution, coarse.attribution, 1e-5)


@pytest.mark.parametrize("row", [0, 7])
def test_grad_cam(row: int) -> None:
    """At the last block's output, found by itself, against torch with a hook."""
    x, seen = torch.from_numpy(digit(row)), []
    net = networks.load("digits_cnn")
    blocks = [m for m in net.modules() if isinstance(m, networks.ResidualBlock | networks.PreActivationBlock)]
    hook = blocks[-1].register_forward_hook(lambda module, given, out: seen.append(out))
    y = net.logits(x.requires_grad_())
    hook.remove()
    maps = torch.relu(seen[0])
    (g,) = torch.autograd.grad(y[0, 5], seen[0])
    instance = Linearization(CNN).at(digit(row))
    before = grad_cam(instance, 5, layer="add_127")
    weights = g.mean((2, 3), keepdim=True)
    expected = torch.relu((weights * seen[0]).sum(1)).detach()
    close(before.coarse, expected.numpy(), 1e-3)
    fine = F.interpolate(expected[:, None], size=16, mode="bilinear", align_corners=False)[:, 0]
    close(before.map, fine.numpy(), 1e-3)
    close(before.weights, weights[..., 0, 0].numpy(), 1e-3)
    found = grad_cam(instance, 5)
    assert found.layer == last_feature_maps(instance) == "relu_7", "the convolution, the sum and the ReLU behind it"
    assert found.map.shape == (1, 16, 16)
    assert found.map.min() >= 0
    after = torch.autograd.grad(net.head(maps.mean((2, 3)))[0, 5], maps)[0].mean((2, 3), keepdim=True)
    close(found.coarse, torch.relu((after * maps).sum(1)).detach().numpy(), 1e-3)


def test_bad_input() -> None:
    made = Linearization(CNN)
    instance = made.at(digit(0))
    with pytest.raises(TargetError, match="index 10 is out of range"):
        input_gradient(instance, 10)
    secant = Linearization(CNN, rules="secant").at(digit(0))
    for call in (input_gradient, gradient_x_input, grad_cam):
        with pytest.raises(OperatorError, match="rules='tangent'"):
            call(secant, 1)
    with pytest.raises(OperatorError, match="at least 1 step"):
        integrated_gradients(made, digit(0), 1, steps=0)
    with pytest.raises(OperatorError, match=r"the baseline does not have the shape of 'image', \[1, 1, 16, 16\]"):
        integrated_gradients(made, digit(0), 1, baseline=np.zeros(3))
    with pytest.raises(OperatorError, match="NaN"):
        integrated_gradients(made, digit(0), 1, baseline=np.nan)
    with pytest.raises(OperatorError, match="no convolution leads to 'z'"):
        grad_cam(Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32)), 0)
    with pytest.raises(OperatorError, match=r"'view' is \[1, 32\], the input \[1, 1, 16, 16\]"):
        grad_cam(instance, 0, layer="view")
