"""Adjoints of strided convolutions and of MaxPool, in every form that the lowering chooses, against torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from explaining import compiled, distance, run
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]


def model(op: str, x: tuple[Any, ...], weights: dict[str, Array], attrs: dict[str, Any]) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", *weights], ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(x))],
        [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


CONVOLUTIONS: list[tuple[str, int, int, int, tuple[int, int], dict[str, Any]]] = [
    # form, C, M, group, (H, W), attributes
    ("depthwise", 6, 6, 6, (8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("depthwise", 6, 6, 6, (7, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("depthwise", 16, 16, 16, (9, 12), {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    ("depthwise", 6, 6, 6, (10, 8), {"kernel_shape": [5, 3], "pads": [2, 0, 1, 1]}),
    ("depthwise", 6, 6, 6, (9, 11), {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ("depthwise", 6, 6, 6, (8, 9), {"kernel_shape": [2, 4]}),
    ("transposed", 6, 6, 6, (8, 8), {"kernel_shape": [3, 3], "pads": [3, 3, 3, 3]}),
    ("transposed", 6, 12, 6, (8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("parities", 16, 24, 1, (8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("parities", 16, 24, 1, (7, 9), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("parities", 20, 8, 1, (7, 8), {"kernel_shape": [3, 3]}),
    ("parities", 16, 8, 1, (10, 9), {"kernel_shape": [5, 4], "pads": [2, 1, 1, 2]}),
    ("parities", 16, 8, 1, (12, 9), {"kernel_shape": [7, 3], "pads": [3, 0, 2, 1]}),
    ("parities", 32, 16, 4, (8, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("parities", 16, 32, 16, (8, 8), {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0]}),
    ("pointwise", 16, 24, 1, (8, 8), {"kernel_shape": [1, 1]}),
    ("pointwise", 16, 24, 1, (7, 10), {"kernel_shape": [1, 1]}),
    ("pointwise", 32, 16, 4, (9, 7), {"kernel_shape": [1, 1]}),
    ("at once", 3, 16, 1, (12, 12), {"kernel_shape": [7, 7], "pads": [3, 3, 3, 3]}),
    ("at once", 1, 8, 1, (11, 9), {"kernel_shape": [5, 6], "pads": [2, 1, 2, 3]}),
    ("at once", 4, 8, 1, (10, 13), {"kernel_shape": [5, 5]}),
    ("at once", 3, 16, 1, (35, 33), {"kernel_shape": [11, 11], "pads": [2, 2, 2, 2], "strides": [4, 4]}),
    ("at once", 3, 8, 1, (30, 21), {"kernel_shape": [11, 12], "pads": [0, 3, 5, 1], "strides": [4, 4]}),
    ("at once", 4, 8, 1, (31, 40), {"kernel_shape": [8, 8], "strides": [4, 4]}),
    ("at once", 3, 8, 1, (20, 22), {"kernel_shape": [9, 9], "pads": [4, 4, 4, 4], "strides": [3, 3]}),
    ("transposed", 3, 8, 1, (22, 22), {"kernel_shape": [7, 7], "pads": [3, 3, 3, 3], "strides": [4, 4]}),
    ("transposed", 3, 16, 1, (8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("transposed", 8, 24, 1, (8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("transposed", 16, 24, 1, (8, 8), {"kernel_shape": [2, 2]}),
    ("transposed", 16, 24, 1, (8, 8), {"kernel_shape": [1, 1], "pads": [1, 0, 0, 0]}),
    ("transposed", 16, 24, 1, (9, 9), {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    ("transposed", 16, 24, 1, (9, 9), {"kernel_shape": [4, 4], "strides": [3, 3]}),
    ("transposed", 16, 24, 1, (9, 9), {"kernel_shape": [3, 3], "strides": [1, 2]}),
]
NODES = {
    "depthwise": {"Conv": 1, "Pad": 1, "ConvTranspose": 0},
    "parities": {"Conv": 5, "Pad": 0, "ConvTranspose": 0},
    "pointwise": {"Conv": 2, "Pad": 1, "ConvTranspose": 0},
    "at once": {"Conv": 1, "DepthToSpace": 1, "ConvTranspose": 0},
    "transposed": {"Conv": 0, "ConvTranspose": 1},
}


def convolution(row: int) -> tuple[dict[str, Any], Array, Array]:
    _, c, m, group, size, given = CONVOLUTIONS[row]
    random = np.random.default_rng(row)
    weight = random.normal(size=(m, c // group, *given["kernel_shape"])).astype(np.float32)
    x = random.normal(size=(3, c, *size)).astype(np.float32)
    return {"strides": [2, 2], "group": group, **given}, weight, x


def gradient(x: Array, weight: Array, attrs: dict[str, Any], seed: Array) -> Array:
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(
        torch.nn.functional.pad(at, (left, right, top, bottom)),
        torch.tensor(weight, dtype=torch.float64),
        stride=attrs["strides"],
        dilation=attrs.get("dilations", [1, 1]),
        groups=attrs["group"],
    )
    (y * torch.tensor(seed, dtype=torch.float64)).sum().backward()
    assert at.grad is not None
    return at.grad.numpy()


@cache
def explained_convolution(row: int, batch: int | str) -> onnx.ModelProto:
    attrs, weight, x = convolution(row)
    return compiled(model("Conv", (batch, *x.shape[1:]), {"w": weight}, attrs), target="seed", output="y")


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("batch", [3, "n"])
@pytest.mark.parametrize("row", range(len(CONVOLUTIONS)))
def test_strided_convolution(row: int, batch: int | str, optimise: bool) -> None:
    attrs, weight, x = convolution(row)
    program = explained_convolution(row, batch)
    made = [n.op_type for n in program.graph.node if n.name.startswith("omenn")]
    assert {op: made.count(op) for op in NODES[CONVOLUTIONS[row][0]]} == NODES[CONVOLUTIONS[row][0]]
    y = run(model("Conv", x.shape, {"w": weight}, attrs), {"x": x})["y"]
    seed = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    got = run(program, {"x": x, "seed": seed}, optimise)["C_w"]
    expected = gradient(x, weight, attrs, seed)
    assert distance(got, expected) < 2e-6


POOLS: list[tuple[bool, tuple[int, int, int], dict[str, Any]]] = [
    # whether taps are compared, (C, H, W), attributes
    (True, (16, 8, 8), {"kernel_shape": [2, 2]}),
    (True, (5, 7, 9), {"kernel_shape": [2, 2]}),
    (True, (5, 9, 8), {"kernel_shape": [3, 3]}),
    (True, (16, 8, 8), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    (True, (5, 7, 10), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    (True, (5, 8, 9), {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1]}),
    (True, (5, 8, 7), {"kernel_shape": [2, 4], "pads": [0, 1, 0, 2]}),
    (True, (5, 7, 7), {"kernel_shape": [2, 2], "ceil_mode": 1}),
    (True, (5, 8, 8), {"kernel_shape": [3, 3], "ceil_mode": 1}),
    (True, (5, 8, 7), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    (False, (5, 8, 8), {"kernel_shape": [2, 2], "strides": [1, 1]}),
    (False, (5, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 1]}),
    (False, (5, 8, 8), {"kernel_shape": [4, 3]}),
    (False, (5, 8, 8), {"kernel_shape": [1, 2]}),
    (False, (5, 9, 9), {"kernel_shape": [2, 2], "dilations": [2, 2]}),
]


def first_winners(x: Array, seed: Array, attrs: dict[str, Any]) -> Array:
    """sum over windows of seed at the window's first maximum, by loops; -inf around x."""
    back = np.zeros(x.shape)
    (kh, kw), (sh, sw) = attrs["kernel_shape"], attrs["strides"]
    dh, dw = attrs.get("dilations", [1, 1])
    top, left = attrs.get("pads", [0, 0])[:2]
    for n, c, i, j in np.ndindex(*seed.shape):
        taps = [(i * sh + u * dh - top, j * sw + v * dw - left) for u in range(kh) for v in range(kw)]
        inside = [(p, q) for p, q in taps if 0 <= p < x.shape[2] and 0 <= q < x.shape[3]]
        p, q = max(inside, key=lambda place: x[n, c, place[0], place[1]])  # (the first of equals)
        back[n, c, p, q] += seed[n, c, i, j]
    return back


def pool_model(batch: int | str, size: tuple[int, int, int], attrs: dict[str, Any], before: str) -> onnx.ModelProto:
    """MaxPool, behind a Relu (whose mask goes through it) or Abs (which is not negative either) if asked."""
    made = model("MaxPool", (batch, *size), {}, attrs)
    if before:
        made.graph.node[0].input[0] = "before"
        made.graph.node.insert(0, helper.make_node(before, ["x"], ["before"]))
    return made


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("batch", [3, "n"])
@pytest.mark.parametrize("before", ["", "Relu", "Abs"])
@pytest.mark.parametrize("row", range(len(POOLS)))
def test_max_pool(row: int, before: str, batch: int | str, optimise: bool) -> None:
    compared, size, given = POOLS[row]
    attrs = {"strides": [2, 2], **given}
    program = compiled(pool_model(batch, size, attrs, before), target="seed", output="y")
    outside = "pads" in attrs or "ceil_mode" in attrs or "auto_pad" in attrs
    by_index = any(n.op_type == "ScatterElements" for n in program.graph.node)
    assert by_index == (not compared or (outside and not before))
    random = np.random.default_rng(row)
    x = random.integers(-2, 3, (3, *size)).astype(np.float32)  # (many ties, at zero and elsewhere)
    x[1] = random.normal(size=size)
    x[2] = -0.0
    y = run(pool_model(3, size, attrs, before), {"x": x})["y"]
    seed = random.normal(size=y.shape).astype(np.float32)
    got = run(program, {"x": x, "seed": seed}, optimise)["C_w"]
    if attrs.get("auto_pad"):
        attrs["pads"] = [0, 1, 1, 1]  # (8 -> 4 takes one row behind, 7 -> 4 one column on both sides)
    pooled, slope = {
        "": (x, np.ones_like(x)),
        "Relu": (np.maximum(x, 0), x > 0),
        "Abs": (np.abs(x), np.where(x > 0, 1, -1)),
    }[before]
    expected = first_winners(pooled, seed, attrs) * slope
    assert distance(got, expected) < 1e-6


@pytest.mark.parametrize("size", [("h", "w"), (8, "w")])
def test_free_sizes(size: tuple[int | str, int | str]) -> None:
    """Sizes that only the run tells: by ConvTranspose and by Indices."""
    attrs = {"strides": [2, 2], "kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": 1}
    random = np.random.default_rng(0)
    weight, x = random.normal(size=(8, 16, 3, 3)).astype(np.float32), random.normal(size=(2, 16, 8, 7))
    x = x.astype(np.float32)
    program = compiled(model("Conv", (2, 16, *size), {"w": weight}, attrs), target="seed", output="y")
    seed = random.normal(size=(2, 8, 4, 4)).astype(np.float32)
    assert distance(run(program, {"x": x, "seed": seed})["C_w"], gradient(x, weight, attrs, seed)) < 2e-6
    pool = {k: v for k, v in attrs.items() if k != "group"}
    program = compiled(model("MaxPool", (2, 16, *size), {}, pool), target="seed", output="y")
    seed = random.normal(size=(2, 16, 4, 4)).astype(np.float32)
    assert distance(run(program, {"x": x, "seed": seed})["C_w"], first_winners(x, seed, pool)) < 1e-6


def test_masks_go_through_pools() -> None:
    """The mask of a Relu in front of a MaxPool is taken on the small side."""
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    program = compiled(pool_model(2, (16, 8, 8), attrs, "Relu"), target="seed", output="y")
    masked = [n.input[0] for n in program.graph.node if n.op_type == "HardSigmoid"]
    assert "y" in masked
    assert "before" not in masked
