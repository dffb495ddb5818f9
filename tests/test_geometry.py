"""Operators that read or write at computed places, and sequences of known structure, against the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from explaining import explain, run
from onnx import TensorProto, helper, parser

import omenn_onnx
from omenn_onnx.errors import UnsupportedOperators

Array = np.ndarray[Any, Any]
RULES = ("secant", "tangent")
RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def model(
    nodes: str, inputs: dict[str, Array], weights: dict[str, Array], rank: int, opset: int = 20
) -> onnx.ModelProto:
    made = [parser.parse_node(t.strip()) for t in nodes.split(";")]
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    held = [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(made, "g", infos, [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def residual(nodes: str, inputs: dict[str, Array], weights: dict[str, Array], x: str, rules: str) -> float:
    """Of the whole batch, in units of the completeness scale."""
    made = model(nodes, inputs, weights, 4)
    z = run(made, inputs)["y"]
    made = model(nodes, inputs, weights, z.ndim)
    program = omenn_onnx.compile(made, inputs=x, output="y", target="seed", rules=rules)
    result = explain(program, {**inputs, "seed": np.random.default_rng(1).normal(size=z.shape).astype(np.float32)})
    terms = [result.c_w[0].astype(np.float64) * inputs[x], result.c_b[0].astype(np.float64)]
    assert np.abs(result.c_w[0]).max() > 0
    scale = max(1.0, *(float(np.abs(t).sum()) for t in terms), float(np.abs(result.score).sum()))
    return abs(float(result.score.sum(dtype=np.float64)) - sum(float(t.sum()) for t in terms)) / scale


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("x", ["x", "mask"])
@pytest.mark.parametrize(
    ("attrs", "inner", "offsets", "size"),
    [
        ("", 4, 1, (5, 4)),
        ("pads=[1,0,1,2], strides=[2,1]", 4, 1, (4, 6)),
        ("dilations=[2,1], pads=[1,1,1,1]", 4, 2, (5, 6)),
        ("group=2, offset_group=2, pads=[1,1,1,1]", 2, 2, (7, 6)),
    ],
)
def test_deform_conv(attrs: str, inner: int, offsets: int, size: tuple[int, int], x: str, rules: str) -> None:
    """Groups, strides, pads and dilations; explained through its input and through its mask."""
    text = ", ".join(t for t in (attrs, f"offset_group={offsets}" if "offset_group" not in attrs else "") if t)
    inputs = {"x": draw(2, 4, 7, 6), "offset": draw(2, offsets * 18, *size), "mask": draw(2, offsets * 9, *size)}
    weights = {"W": draw(6, inner, 3, 3), "B": draw(6)}
    assert residual(f"y = DeformConv<{text}>(x, W, offset, B, mask)", inputs, weights, x, rules) < 1e-5


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 3, 3, 4, 2)])
def test_affine_grid(sizes: tuple[int, ...], aligned: int, rules: str) -> None:
    """The grid is linear in theta: complete against ONNX Runtime's own kernel."""
    n = len(sizes) - 2
    inputs, weights = {"x": draw(2, n, n + 1)}, {"s": np.array(sizes, np.int64)}
    assert residual(f"y = AffineGrid<align_corners={aligned}>(x, s)", inputs, weights, "x", rules) < 1e-5


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, ratio: int, rules: str) -> None:
    """Boxes of several sizes, some of them over the border; samples of a fixed number and of one that fits the box."""
    boxes = np.array([[0, 0, 9, 9], [1, 2, 3.5, 4], [-3, -2, 4, 13.7], [2, 2, 2.2, 2.1]], np.float32)
    inputs = {"x": draw(2, 3, 8, 7), "boxes": boxes, "rows": np.array([0, 1, 1, 0])}
    text = f"output_height=3, output_width=2, sampling_ratio={ratio}, spatial_scale=0.8"
    text += f', coordinate_transformation_mode="{mode}"'
    assert residual(f"y = RoiAlign<{text}>(x, boxes, rows)", inputs, {}, "x", rules) < 1e-5


@pytest.mark.parametrize("rules", RULES)
def test_max_unpool(rules: str) -> None:
    """The decoder of a SegNet: what MaxPool took goes back to where it was."""
    pool = "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)"
    nodes = f"{pool}; r = Sigmoid(p); y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(r, i)"
    assert residual(nodes, {"x": draw(2, 3, 6, 4)}, {}, "x", rules) < 1e-5


SEQUENCES = {
    "stack": "a = Relu(x); b = Sigmoid(x); s = SequenceConstruct(a, x, b); "
    "y = ConcatFromSequence<axis=1, new_axis=1>(s)",
    "insert": "a = Relu(x); e = SequenceEmpty(); s = SequenceInsert(e, a); t = SequenceInsert(s, x, zero); "
    "y = ConcatFromSequence<axis=-1>(t)",
    "at": "a = Relu(x); b = Tanh(x); s = SequenceConstruct(a, b); t = SequenceErase(s, zero); y = SequenceAt(t, last)",
    "split": "s = SplitToSequence<axis=1>(x, two); a = SequenceAt(s, zero); b = SequenceAt(s, last); "
    "c = ReduceSum(b, one); y = Mul(a, c)",
    "rows": "s = SplitToSequence<axis=1, keepdims=0>(x); a = SequenceAt(s, zero); b = SequenceAt(s, last); "
    "y = Sub(a, b)",
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences(kind: str, rules: str) -> None:
    """Sequences of known structure are their elements."""
    held = {"zero": np.array(0), "last": np.array(-1), "two": np.array(2), "one": np.array([1])}
    assert residual(SEQUENCES[kind], {"x": draw(3, 5)}, held, "x", rules) < 1e-5


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("y = Det(x)", "a determinant is a polynomial"),
        ("y = Mod<fmod=1>(x, x)", "its divisor depends"),
        ('y = RoiAlign<mode="max">(x, boxes, rows)', "maximum of its mode"),
        ("s = SequenceConstruct(x, x); y = SequenceAt(s, rows)", "place that it reads in a sequence"),
    ],
)
def test_refused(node: str, why: str) -> None:
    rank = 2 if "Det" in node else 4
    made = model(node, {"x": draw(1, 2, 3, 3), "boxes": draw(1, 4), "rows": np.array([0])}, {}, rank)
    with pytest.raises(UnsupportedOperators, match=why):
        omenn_onnx.compile(made, inputs="x", output="y", target="seed")
