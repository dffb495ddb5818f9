"""A PyTorch module from its parts and its forward function: networks of the zoo as formulas."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def module(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """``forward(m, x, ...)`` as the forward method, ``parts`` as attributes; plain tensors as buffers."""
    made: nn.Module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            made.register_buffer(name, part)
        else:
            setattr(made, name, part)
    return made


def parameter(*shape: int) -> nn.Parameter:
    """A parameter; ``randomise`` fills it."""
    return nn.Parameter(torch.zeros(*shape))


def conv(a: int, b: int, k: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size (stride 1, odd k)."""
    return nn.Conv2d(a, b, k, **{"padding": k // 2 * options.get("dilation", 1), **options})


def unit(a: int, b: int, k: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(conv(a, b, k, **options), nn.BatchNorm2d(b), nn.ReLU())


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])
