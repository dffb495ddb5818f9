"""The opset upgrade: every case runs as it is and upgraded in ONNX Runtime, unoptimised, and must give the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from omenn_onnx.errors import CompileError
from omenn_onnx.graph.files import load_model
from omenn_onnx.normalise.upgrade import upgrade
from omenn_onnx.normalise.upgrade_rules import ADAPTERS
from omenn_onnx.normalise.upgrade_table import COMPATIBLE

rng = np.random.default_rng(20)


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(nodes, feeds, constants, opset, outputs=None, ranks=True) -> ModelProto:
    """A model of ``nodes``; ``ranks=False`` hides the shapes of its inputs."""
    made = {o for n in nodes for o in n.output if o}
    read = {i for n in nodes for i in n.input}
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape if ranks else None)
        for k, v in feeds.items()
    ]
    names = outputs or [o for n in nodes for o in n.output if o in made - read]
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=n) for n in names], initializers)
    ir = helper.OP_SET_ID_VERSION_MAP[("ai.onnx", opset)]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=max(ir, 4))


def run(model: ModelProto, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def upgraded(model: ModelProto, target: int) -> ModelProto:
    """``model`` at ``target``, checked for what every upgrade has to keep."""
    new = ModelProto()
    new.CopyFrom(model)
    upgrade(new, target)
    load_model(new)  # the checker, lenient where ONNX Runtime is
    assert [(o.domain, o.version) for o in new.opset_import] == [("", target)]
    assert new.ir_version >= helper.OP_SET_ID_VERSION_MAP[("ai.onnx", target)]
    assert [o.name for o in new.graph.output] == [o.name for o in model.graph.output]
    names = [n.name for n in new.graph.node if n.name]
    assert len(set(names)) == len(names)
    assert {n.name for n in model.graph.node} <= {n.name for n in new.graph.node}
    assert {o for n in model.graph.node for o in n.output if o in used(model)} <= {
        o for n in new.graph.node for o in n.output
    }
    return new


def used(model: ModelProto) -> set[str]:
    return {i for n in model.graph.node for i in n.input} | {o.name for o in model.graph.output}


def assert_same(model: ModelProto, feeds, targets=(20,)) -> None:
    expected = run(model, feeds)
    for target in targets:
        actual = run(upgraded(model, target), feeds)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == e.dtype
            assert a.shape == e.shape
            np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6)


# --- every change has a decision -----------------------------------------------------------------------------------

VERSIONS: dict[str, list[int]] = {}
for schema in onnx.defs.get_all_schemas_with_history():
    if schema.domain == "":
        VERSIONS.setdefault(schema.name, []).append(schema.since_version)
CHANGES = sorted((op, v) for op, versions in VERSIONS.items() for v in versions if v > max(7, min(versions)))


@pytest.mark.parametrize(("op", "version"), CHANGES, ids=[f"{op}-{v}" for op, v in CHANGES])
def test_every_change_of_an_operator_has_one_decision(op, version):
    decided = [(op, version) in ADAPTERS, version in COMPATIBLE.get(op, ())]
    assert sum(decided) == 1, (
        f"opset {version} changed {op}: write an adapter, or say in upgrade_table why none is needed"
    )


def test_no_decision_is_about_nothing():
    runtime_only = {("MeanVarianceNormalization", 9)}  # before 9 it is ONNX Runtime's own
    newest = onnx.defs.onnx_opset_version()  # of the installed onnx, which may know fewer
    decided = set(ADAPTERS) | {(op, v) for op, versions in COMPATIBLE.items() for v in versions}
    assert {d for d in decided - runtime_only if d[1] <= newest} <= set(CHANGES)


# --- one operator at a time ----------------------------------------------------------------------------------------


@dataclass
class Case:
    """One node, the opsets at which it is valid in this form, and what it is fed. ``ins`` maps names to values."""

    op: str
    opsets: tuple[int, ...]
    ins: dict[str, np.ndarray]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    note: str = ""
    inputs: tuple[str, ...] | None = None
    targets: tuple[int, ...] = (18, 20, 21)

    def model(self, opset: int, ranks: bool = True) -> ModelProto:
        inputs = self.inputs or (*self.ins, *self.constants)
        node = helper.make_node(self.op, inputs, self.outputs, "n", **self.attrs)
        return model_of([node], self.ins, self.constants, opset, ranks=ranks)


X = f32(2, 3, 4, 5)
UNIT = f32(2, 3, 1, 1)
MATRIX = f32(4, 6)
POSITIVE = np.abs(X) + 0.1
CHANNEL = {k: np.abs(f32(3)) + 0.1 for k in ("scale", "bias", "mean", "var")}
PLACE = {k: np.abs(f32(3, 4, 5)) + 0.1 for k in ("scale", "bias", "mean", "var")}
ROW = {k: np.abs(f32(6)) + 0.1 for k in ("scale", "bias", "mean", "var")}
BEFORE = {v: tuple(range(7, v)) for v in (9, 10, 11, 12, 13, 14, 16, 18, 20)}
RNN = {"W": f32(1, 4, 3), "R": f32(1, 4, 4), "B": f32(1, 8)}
LSTM = {"W": f32(1, 16, 3), "R": f32(1, 16, 4), "B": f32(1, 32)}
GRU = {"W": f32(1, 12, 3), "R": f32(1, 12, 4), "B": f32(1, 24)}

CASES = [
    # softmax on a matrix
    *(
        Case(op, BEFORE[13], {"x": x}, attrs={} if axis is None else {"axis": axis}, note=f"{x.ndim}d{axis}")
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for x, axis in ((X, None), (X, 0), (X, 2), (X, 3), (MATRIX, None), (MATRIX, 0), (UNIT, 1), (UNIT, 2), (UNIT, 0))
    ),
    *(Case(op, (11, 12), {"x": X}, attrs={"axis": -2}, note="-2") for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Case("Softmax", (7, 12), {"x": np.zeros((0, 3, 2), np.float32)}, note="empty"),
    # resizing
    *(
        Case("Upsample", (7, 8), {"x": X}, attrs={"mode": mode, "scales": scales}, note=f"{mode}{scales[3]}")
        for mode in ("nearest", "linear")
        for scales in ([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.5, 2.3])
    ),
    *(
        Case(
            "Upsample",
            (9,),
            {"x": X},
            {"s": np.array(scales, np.float32)},
            attrs={"mode": mode},
            note=f"{mode}{scales[3]}",
        )
        for mode in ("nearest", "linear")
        for scales in ([1, 1, 2, 2], [1, 1, 1.5, 2.3])
    ),
    *(
        Case(
            "Resize", (10,), {"x": X}, {"s": np.array(s, np.float32)}, attrs={"mode": mode}, note=f"{mode}{s[2]}x{s[3]}"
        )
        for mode in ("nearest", "linear")
        for s in ([1, 1, 2, 2], [1, 1, 1.5, 2.3], [1, 1, 0.6, 0.6], [1, 1, 0.6, 2], [1, 1, 2.3, 0.4], [1, 1, 1, 0.5])
    ),
    *(
        Case(
            "Resize",
            (10,),
            {"x": X, "s": np.array(s, np.float32)},
            attrs={"mode": "nearest"},
            note=f"computed{s[2]}x{s[3]}",
        )
        for s in ([1, 1, 2, 2], [1, 1, 0.6, 0.6], [1, 1, 0.6, 1.7])
    ),
    *(
        Case(
            "Resize",
            (11, 12),
            {"x": X},
            {"roi": np.zeros(0, np.float32), "s": np.array(s, np.float32)},
            attrs=attrs,
            note=f"{n}{s[2]}x{s[3]}",
        )
        for n, attrs in enumerate(
            [
                {},
                {"mode": "linear"},
                {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
                {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel", "cubic_coeff_a": -0.5},
                {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
                {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
            ]
        )
        for s in ([1, 1, 2, 2], [1, 1, 0.6, 1.7])
    ),
    Case(
        "Resize",
        (11, 13, 17),
        {"x": X},
        {"roi": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "sizes": i64(2, 3, 7, 3)},
        note="sizes",
    ),
    Case(
        "Resize",
        (11, 12, 17),
        {"x": X},
        {"roi": np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.7], np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        attrs={"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear", "extrapolation_value": 2.0},
        note="crop",
    ),
    # attributes that became inputs
    *(
        Case("Pad", (7, 10), {"x": X}, attrs={"pads": [0, 0, 1, 2, 0, 0, 2, 1], **a}, note=n)
        for n, a in (
            ("zero", {}),
            ("value", {"value": 1.5}),
            ("inf", {"value": float("-inf")}),
            ("reflect", {"mode": "reflect"}),
            ("edge", {"mode": "edge", "value": 2.0}),
        )
    ),
    Case("Pad", (7, 10), {"x": X}, attrs={"pads": [0, -1, 1, -2, 0, 0, -1, 1]}, note="negative"),
    Case("Pad", (7, 10), {"x": X.astype(np.float64)}, attrs={"pads": [0] * 7 + [1], "value": 0.25}, note="double"),
    Case("Pad", (11, 13), {"x": X}, {"pads": i64(0, 0, 1, 2, 0, 0, 2, 1)}),
    Case("Slice", (7, 9), {"x": X}, attrs={"starts": [1, 0], "ends": [2, -1]}),
    Case("Slice", (7, 9), {"x": X}, attrs={"starts": [1, -3], "ends": [1000, 2**62], "axes": [2, 3]}, note="axes"),
    Case("Slice", (10, 11), {"x": X}, {"s": i64(3), "e": i64(-100), "a": i64(3), "t": i64(-2)}),
    *(
        Case("Clip", (7, 8, 10), {"x": X}, attrs=a, note=n)
        for n, a in (
            ("none", {}),
            ("min", {"min": 0.1}),
            ("max", {"max": 0.2}),
            ("both", {"min": -0.5, "max": 0.5}),
        )
    ),
    Case("Clip", (7,), {"x": X.astype(np.float16)}, attrs={"min": -0.5, "max": 0.5}, note="half"),
    Case("Clip", (11, 12), {"x": X}, {"lo": np.array(-0.5, np.float32), "hi": np.array(0.5, np.float32)}),
    Case("TopK", (7, 9), {"x": X}, attrs={"k": 2}, outputs=("v", "i")),
    Case("TopK", (7, 9), {"x": X}, attrs={"k": 1, "axis": 1}, outputs=("v", "i"), note="axis"),
    Case("TopK", (10, 11), {"x": X}, {"k": i64(3)}, outputs=("v", "i")),
    Case("Split", (7, 11, 12), {"x": X}, attrs={"axis": 2}, outputs=("a", "b"), note="equal"),
    Case("Split", (7, 11, 12), {"x": X}, attrs={"axis": 3, "split": [1, 4]}, outputs=("a", "b")),
    Case("Split", (13, 17), {"x": X}, {"s": i64(1, 4)}, attrs={"axis": 3}, outputs=("a", "b")),
    Case("Split", (13, 17), {"x": X}, attrs={"axis": -2}, outputs=("a", "b"), note="equal"),
    Case("Squeeze", (7, 11, 12), {"x": UNIT}, attrs={"axes": [2]}),
    Case("Squeeze", (7, 11, 12), {"x": UNIT}, note="all"),
    Case("Squeeze", (13, 17), {"x": UNIT}, {"a": i64(-1)}),
    Case("Unsqueeze", (7, 11, 12), {"x": MATRIX}, attrs={"axes": [0, 3]}),
    Case("Unsqueeze", (11, 12), {"x": MATRIX}, attrs={"axes": [-1]}, note="negative"),
    *(
        Case(op, (*BEFORE[13], 17) if op != "ReduceSum" else BEFORE[13], {"x": POSITIVE}, attrs=a, note=n)
        for op in (
            *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
            *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
        )
        for n, a in (("all", {}), ("some", {"axes": [1, 3]}), ("prune", {"axes": [2], "keepdims": 0}))
    ),
    *(Case(op, (11, 17), {"x": X}, attrs={"axes": [-1]}, note="-1") for op in ("ReduceMean", "ReduceMax", "ReduceL2")),
    Case("ReduceMax", (11, 17), {"x": np.arange(6).reshape(2, 3)}, attrs={"axes": [1]}, note="int"),
    Case("ReduceSum", (13, 17), {"x": X}, {"a": i64(1)}, note="input"),
    Case("Dropout", (7, 10, 11), {"x": X}, attrs={"ratio": 0.3}),
    Case("Dropout", (7, 10), {"x": X}, note="default"),
    Case("Dropout", (7, 10, 11), {"x": X}, outputs=("y", "mask"), note="mask"),
    Case("Dropout", (12, 13), {"x": X}, {"r": np.array(0.4, np.float32)}),
    Case("DFT", (17,), {"x": f32(2, 8, 1)}, attrs={"onesided": 1}, targets=(18, 20)),
    Case("DFT", (17,), {"x": f32(2, 8, 4, 2)}, {"n": np.array(6)}, attrs={"axis": 2}, note="axis", targets=(18, 20)),
    Case("DFT", (17,), {"x": f32(2, 8, 2)}, attrs={"inverse": 1}, note="inverse", targets=(18, 20)),
    # normalisation
    Case("BatchNormalization", (7, 8, 9, 13, 14, 17), {"x": X}, CHANNEL, attrs={"epsilon": 1e-3}),
    Case("BatchNormalization", (7, 8), {"x": X}, CHANNEL, attrs={"spatial": 1}, note="spatial1"),
    Case("BatchNormalization", (7, 8), {"x": X}, PLACE, attrs={"spatial": 0}, note="places"),
    Case("BatchNormalization", (7, 8), {"x": MATRIX}, ROW, attrs={"spatial": 0}, note="rows"),
    Case(
        "GroupNormalization",
        (18, 20),
        {"x": f32(2, 6, 3)},
        {"s": f32(2), "b": f32(2)},
        {"num_groups": 2},
        targets=(21,),
    ),
    Case("InstanceNormalization", (7, 17), {"x": X}, {"s": f32(3), "b": f32(3)}),
    Case("LRN", (7, 12), {"x": X}, attrs={"size": 3}),
    Case("LpNormalization", (7, 17), {"x": X}),
    Case("MeanVarianceNormalization", (9, 12), {"x": X}),
    Case("LayerNormalization", (17,), {"x": X}, {"s": f32(5), "b": f32(5)}),
    Case("LayerNormalization", (11, 16), {"x": X}, {"s": f32(5), "b": f32(5)}, note="the runtime's own"),
    # convolutions and pooling
    *(
        Case(op, (7, 10, 11, 17), {"x": X}, attrs={"kernel_shape": [2, 3], "strides": [2, 1], **a}, note=n)
        for op in ("MaxPool", "AveragePool", "LpPool")
        for n, a in (
            ("pads", {"pads": [1, 1, 0, 1]}),
            ("same", {"auto_pad": "SAME_LOWER"}),
            ("valid", {"auto_pad": "VALID"}),
        )
    ),
    *(
        Case(
            op,
            (10, 11, 17),
            {"x": f32(1, 2, n)},
            attrs={"kernel_shape": [3], "strides": [s], "pads": [1, 0], "ceil_mode": 1},
            note=f"ceil{n}{s}",
            targets=(18, 20, 21, 22),
        )
        for op in ("MaxPool", "AveragePool")
        for n in (5, 6, 7)
        for s in (2, 3)
    ),
    Case(
        "AveragePool",
        (7, 10, 17),
        {"x": X},
        attrs={"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1},
        note="pad",
    ),
    Case("MaxPool", (8, 10, 11), {"x": X}, attrs={"kernel_shape": [2, 2]}, outputs=("y", "i"), note="indices"),
    Case(
        "MaxUnpool",
        (9, 10),
        {"x": f32(1, 1, 2, 2)},
        {"i": i64(0, 3, 9, 15).reshape(1, 1, 2, 2)},
        attrs={"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    *(
        Case("Conv", (7, 10, 11), {"x": X}, {"w": f32(4, 3, 2, 3)}, attrs={"auto_pad": a}, note=a)
        for a in ("SAME_UPPER", "SAME_LOWER")
    ),
    Case(
        "Conv",
        (7, 11),
        {"x": X},
        {"w": f32(3, 1, 3, 3), "b": f32(3)},
        attrs={"group": 3, "dilations": [1, 2], "pads": [1, 2, 1, 2]},
    ),
    *(
        Case(
            "ConvTranspose", (7, 10, 11), {"x": X}, {"w": f32(3, 2, 3, 3)}, attrs={"strides": [2, 2], **a}, note=str(n)
        )
        for n, a in enumerate(
            (
                {"pads": [1, 0, 0, 1]},
                {"output_padding": [1, 0]},
                {"auto_pad": "SAME_LOWER"},
                {"auto_pad": "SAME_UPPER"},
                {"output_shape": [8, 10]},
            )
        )
    ),
    Case(
        "RoiAlign",
        (10, 15),
        {"x": X},
        {"r": np.array([[0, 0, 3, 3], [1, 1, 4, 2]], np.float32), "b": i64(0, 1)},
        attrs={"output_height": 2, "output_width": 3},
    ),
    Case(
        "RoiAlign",
        (10,),
        {"x": X},
        {"r": np.array([[0, 0, 3, 3]], np.float32), "b": i64(1)},
        attrs={"mode": "max"},
        note="max",
    ),
    Case("RoiAlign", (16,), {"x": X}, {"r": np.array([[0, 0, 3, 3]], np.float32), "b": i64(1)}, note="16"),
    *(
        Case(
            "GridSample",
            (16, 19),
            {"x": X},
            {"g": f32(2, 3, 4, 2)},
            attrs={"mode": m, "align_corners": c},
            note=f"{m}{c}",
            targets=(20,),
        )
        for m in ("bilinear", "nearest", "bicubic")
        for c in (0, 1)
    ),
    Case("GridSample", (16,), {"x": X}, {"g": f32(2, 3, 4, 2)}, note="default", targets=(18, 20)),
    # selection
    Case("Scatter", (9, 10), {"x": MATRIX}, {"i": i64(1, 0, 2).reshape(1, 3), "u": f32(1, 3)}),
    Case(
        "Scatter",
        (9, 10),
        {"x": MATRIX},
        {"i": i64(1, 5, 2).reshape(1, 3), "u": f32(1, 3)},
        attrs={"axis": 1},
        note="axis",
    ),
    Case("ScatterElements", (11, 13, 16), {"x": MATRIX}, {"i": i64(1, 0, -1).reshape(1, 3), "u": f32(1, 3)}),
    Case("ScatterND", (11, 13, 16), {"x": MATRIX}, {"i": i64(1, 3).reshape(2, 1), "u": f32(2, 6)}),
    Case("Gather", (7, 11), {"x": MATRIX}, {"i": i64(1, 0, 3)}, attrs={"axis": 1}),
    Case("GatherElements", (11,), {"x": MATRIX}, {"i": i64(1, -1).reshape(1, 2)}),
    Case("GatherND", (11, 12), {"x": MATRIX}, {"i": i64(1, 2, 3, 0).reshape(2, 2)}),
    Case("OneHot", (9, 10, 11), {"i": i64(-4, -3, -1, 0, 2, 3)}, {"d": np.array(3), "v": f32(2)}),
    Case("ArgMax", (7, 11, 12), {"x": np.round(X)}, attrs={"axis": 1}),
    Case("ArgMin", (7, 11, 12), {"x": np.round(X)}, attrs={"axis": 3, "keepdims": 0}),
    Case("Where", (9, 15), {"c": X > 0, "a": X}, {"b": f32(5)}),
    Case("Compress", (9, 10), {"x": MATRIX}, {"c": np.array([True, False, True])}, attrs={"axis": 1}),
    Case("NonZero", (9, 12), {"x": np.maximum(X, 0)}),
    Case("Unique", (11,), {"x": i64(3, 1, 3, 2)}, outputs=("y", "a", "b", "c")),
    Case(
        "NonMaxSuppression",
        (10, 11),
        {"b": np.abs(f32(1, 6, 4)), "s": np.abs(f32(1, 1, 6))},
        {"n": i64(3), "t": np.array([0.3], np.float32), "u": np.array([0.1], np.float32)},
    ),
    # shapes
    Case("Reshape", (7, 13), {"x": X}, {"s": i64(0, -1, 10)}),
    Case("Flatten", (7, 9, 11, 13), {"x": X}, attrs={"axis": 2}),
    Case("Shape", (7, 13), {"x": X}),
    Case("Size", (7, 13), {"x": X}),
    Case("Transpose", (7, 13), {"x": X}, attrs={"perm": [0, 2, 3, 1]}),
    Case("Concat", (7, 11), {"a": X, "b": X}, attrs={"axis": 1}),
    Case("Expand", (8, 12), {"x": MATRIX}, {"s": i64(2, 1, 6)}),
    Case("Tile", (7, 12), {"x": MATRIX}, {"r": i64(2, 1)}),
    Case("DepthToSpace", (7, 11), {"x": f32(1, 8, 2, 3)}, attrs={"blocksize": 2}),
    Case("SpaceToDepth", (7, 12), {"x": f32(1, 2, 4, 6)}, attrs={"blocksize": 2}),
    Case("ReverseSequence", (10, 17), {"x": MATRIX}, {"l": i64(1, 2, 3, 4, 4, 1)}),
    Case("EyeLike", (9, 17), {"x": MATRIX}),
    Case("ConstantOfShape", (9, 17), {"s": i64(2, 3)}),
    Case("Constant", (7, 9, 11, 12), {}, attrs={"value": numpy_helper.from_array(MATRIX)}),
    Case("Constant", (12, 17), {}, attrs={"value_floats": [1.0, 2.0]}, note="floats"),
    Case(
        "Range",
        (11, 17),
        {"a": np.array(0.0, np.float32), "b": np.array(5.0, np.float32), "c": np.array(1.5, np.float32)},
    ),
    Case("CumSum", (11, 13), {"x": MATRIX}, {"a": np.array(1)}, attrs={"reverse": 1}),
    # arithmetic
    *(Case(op, (7, 13, 17), {"a": X, "b": f32(5)}) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, (7, 11), {"a": X, "b": f32(5)}) for op in ("Greater", "Less")),
    *(Case(op, (12, 15), {"a": X, "b": f32(5)}) for op in ("GreaterOrEqual", "LessOrEqual")),
    Case("Equal", (7, 11, 13), {"a": i64(1, 2), "b": i64(1, 3)}),
    *(Case(op, (7, 8, 12), {"a": X, "b": np.roll(X, 1)}) for op in ("Max", "Min", "Sum", "Mean")),
    *(Case(op, (8, 12), {"a": X, "b": f32(5)}, note="broadcast") for op in ("Max", "Min", "Sum", "Mean")),
    *(
        Case(op, (7, 12, 17), {"x": POSITIVE})
        for op in ("Abs", "Ceil", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid")
    ),
    *(
        Case(op, (7, 17), {"x": X / 4})
        for op in ("Sqrt", "Tanh", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "LeakyRelu")
    ),
    *(Case(op, (7, 17), {"x": np.clip(X / 4, -0.9, 0.9)}) for op in ("Acos", "Asin", "Atan", "Cos", "Sin", "Tan")),
    *(Case(op, (9, 12), {"x": X}) for op in ("Erf", "Sign", "IsNaN", "Sinh", "Cosh", "Asinh", "Shrink")),
    *(Case(op, (10, 17), {"x": X}) for op in ("ThresholdedRelu", "IsInf")),
    Case("ThresholdedRelu", (8,), {"x": X}, attrs={"alpha": 0.4}, note="the runtime's own"),
    *(Case(op, (v, 17), {"x": X}) for op, v in (("Round", 11), ("Celu", 12), ("HardSwish", 14))),
    Case("PRelu", (7, 9, 15), {"x": X}, {"s": f32(3, 1, 1)}),
    Case("Pow", (7, 12, 13), {"x": POSITIVE}, {"e": np.array(1.5, np.float32)}),
    Case("Mod", (10, 13), {"x": i64(-5, 5, 7)}, {"d": i64(3, -3, 4)}),
    Case("Mod", (10, 13), {"x": X}, {"d": f32(5)}, attrs={"fmod": 1}, note="float"),
    Case("Cast", (7, 9, 13, 18), {"x": X * 3}, attrs={"to": TensorProto.INT64}, targets=(19, 20, 21)),
    Case("Gemm", (7, 9, 10), {"a": MATRIX, "b": f32(6, 3)}, {"c": f32(3)}, attrs={"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (11, 12), {"a": MATRIX, "b": f32(3, 6)}, attrs={"transB": 1}, note="no C"),
    Case("MatMul", (7, 9, 12), {"a": X}, {"b": f32(5, 2)}),
    Case("Einsum", (12,), {"a": MATRIX}, {"b": f32(6, 2)}, attrs={"equation": "ij,jk->ki"}),
    Case("Det", (11, 17), {"x": f32(2, 3, 3)}),
    Case("GlobalAveragePool", (7, 17), {"x": X}),
    Case("GlobalMaxPool", (7, 17), {"x": X}),
    Case("GlobalLpPool", (7, 17), {"x": X}),
    Case("Identity", (7, 13, 14, 17), {"x": X}),
    # quantised and recurrent
    Case("QuantizeLinear", (10, 13, 18), {"x": X}, {"s": np.array(0.1, np.float32), "z": np.array(7, np.uint8)}),
    Case(
        "QuantizeLinear",
        (13, 18),
        {"x": X},
        {"s": np.abs(f32(3)), "z": np.zeros(3, np.int8)},
        attrs={"axis": 1},
        note="axis",
    ),
    Case("DequantizeLinear", (10, 13, 18), {"x": np.arange(6, dtype=np.uint8)}, {"s": np.array(0.1, np.float32)}),
    Case(
        "QLinearMatMul",
        (10, 17),
        {"a": np.arange(6, dtype=np.uint8).reshape(2, 3)},
        {
            "sa": np.array(0.1, np.float32),
            "za": np.array(1, np.uint8),
            "b": np.arange(6, dtype=np.uint8).reshape(3, 2),
            "sb": np.array(0.2, np.float32),
            "zb": np.array(2, np.uint8),
            "sy": np.array(0.05, np.float32),
            "zy": np.array(3, np.uint8),
        },
    ),
    Case("RNN", (7, 13, 14), {"x": f32(5, 2, 3)}, RNN, attrs={"hidden_size": 4}, outputs=("y", "h")),
    Case(
        "GRU",
        (7, 13, 14),
        {"x": f32(5, 2, 3)},
        GRU,
        attrs={"hidden_size": 4, "linear_before_reset": 1},
        outputs=("y", "h"),
    ),
    Case("LSTM", (7, 13, 14), {"x": f32(5, 2, 3)}, LSTM, attrs={"hidden_size": 4}, outputs=("y", "h", "c")),
]


def covered(case: Case) -> list[int]:
    return [o for o in case.opsets if any(t > o for t in case.targets)]


@pytest.mark.parametrize("case", CASES, ids=[f"{c.op}-{c.note}" if c.note else c.op for c in CASES])
def test_same_outputs(case):
    for opset in covered(case):
        targets = [t for t in case.targets if t > opset]
        assert_same(case.model(opset), case.ins, targets)


@pytest.mark.parametrize("case", CASES, ids=[f"{c.op}-{c.note}" if c.note else c.op for c in CASES])
def test_same_outputs_when_ranks_are_unknown(case):
    for opset in covered(case)[:1]:
        targets = [t for t in case.targets if t > opset][-1:]
        assert_same(case.model(opset, ranks=False), case.ins, targets)


def test_every_adapter_has_a_case():
    refusing = {("Scan", 9), ("MeanVarianceNormalization", 9), ("Attention", 24)}
    refusing |= {("ReduceLogSum", 28), ("ReduceLogSumExp", 28)}  # of integers
    for op, version in set(ADAPTERS) - refusing:
        assert any(c.op == op and o < version <= max(c.targets) for c in CASES for o in c.opsets), (op, version)


# --- details -------------------------------------------------------------------------------------------------------


def test_softmax_of_one_axis_needs_no_reshape():
    for x, axis, expected in ((X, 3, -1), (UNIT, 1, 1), (UNIT, 2, -1), (MATRIX, None, -1)):
        attrs = {} if axis is None else {"axis": axis}
        new = upgraded(Case("Softmax", (11,), {"x": x}, attrs=attrs).model(11), 20)
        assert [n.op_type for n in new.graph.node] == ["Softmax"]
        assert new.graph.node[0].attribute[0].i == expected


def test_clip_without_bounds_gets_none():
    new = upgraded(Case("Clip", (7,), {"x": X}, attrs={"min": 0.0}).model(7), 20)
    assert len(new.graph.node[0].input) == 2


def test_batch_normalization_in_training_mode():
    names = ["y", "m", "v", "sm", "sv"]
    for opset in (7, 9, 13):
        for count, outputs in ((5, names[:1]), (5, names[:3]), (3, names[:1]), (2, names[:2])):
            node = helper.make_node("BatchNormalization", ["x", *CHANNEL], names[:count], "n")
            if count != 5:  # ONNX Runtime wants all five or one; the upgrade does not
                upgraded(model_of([node], {"x": X}, CHANNEL, opset, outputs=outputs), 20)
                continue
            assert_same(model_of([node], {"x": X}, CHANNEL, opset, outputs=outputs), {"x": X}, (18, 20))
            with pytest.raises(CompileError, match=r"'n'.*saved statistics"):
                upgrade(model_of([node], {"x": X}, CHANNEL, opset, outputs=["y", "sm"]))


def test_dropout_with_an_unused_mask():
    node = helper.make_node("Dropout", ["x"], ["y", "mask"])
    new = upgraded(model_of([node], {"x": X}, {}, 7, outputs=["y"]), 20)
    assert list(new.graph.node[0].output) == ["y"]
    assert len(new.graph.node) == 1


def test_names_do_not_collide():
    nodes = [
        helper.make_node("Squeeze", ["x"], ["upgrade.axes"], "a", axes=[3]),
        helper.make_node("Softmax", ["upgrade.axes"], ["a.Shape"], "a.Shape", axis=1),
        helper.make_node("ReduceSum", ["a.Shape"], ["y"], "", axes=[1]),
        helper.make_node("ReduceSum", ["y"], ["z"], "b", axes=[1]),
    ]
    model = model_of(nodes, {"x": UNIT}, {}, 9, outputs=["z"], ranks=False)
    assert_same(model, {"x": UNIT})
    names = [i.name for i in upgraded(model, 20).graph.initializer]
    assert names == ["upgrade.axes.1", "upgrade.axes.2"]  # equal constants once


def test_same_bytes():
    model = Case("Resize", (10,), {"x": X, "s": f32(4)}).model(10)
    assert upgraded(model, 20).SerializeToString() == upgraded(model, 20).SerializeToString()


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_opset_import_and_ir(domain):
    model = Case("Softmax", (11,), {"x": X}, attrs={"axis": 2}).model(11)
    model.opset_import[0].domain = domain
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node[0].domain = domain
    upgrade(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20), ("com.microsoft", 1)]
    assert model.ir_version == 9
    run(model, {"x": X})
    before = model.SerializeToString()
    upgrade(model, 18)
    upgrade(model, 20)
    assert model.SerializeToString() == before
    upgrade(model, 21)
    assert model.ir_version == 10


def test_initializers_that_are_inputs():
    model = Case("Gemm", (7,), {"a": MATRIX}, {"b": f32(6, 3), "c": f32(3)}).model(8)
    for tensor in list(model.graph.initializer):
        model.graph.input.add().CopyFrom(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    assert_same(model, {"a": MATRIX})
    new = upgraded(model, 20)
    assert [v.name for v in new.graph.input] == ["a"]  # as ONNX Runtime has it before IR 4: constants
    model.ir_version = 4
    new = upgraded(model, 20)
    assert [v.name for v in new.graph.input] == ["a", "b", "c"]  # defaults that can be overridden
    other = {"a": MATRIX, "b": f32(6, 3)}
    np.testing.assert_array_equal(run(new, other)[0], run(model, other)[0])


def test_scales_that_can_be_overridden_are_not_constants():
    model = Case("Resize", (10,), {"x": X}, {"s": np.array([1, 1, 2, 2], np.float32)}).model(10)
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]))
    assert_same(model, {"x": X, "s": np.array([1, 1, 0.6, 0.7], np.float32)})


def test_subgraphs():
    def branch(name, axis):
        nodes = [
            helper.make_node("Softmax", ["x"], [f"{name}_s"], f"{name}_softmax", axis=axis),
            helper.make_node("ReduceSum", [f"{name}_s"], [f"{name}_y"], f"{name}_sum", axes=[axis], keepdims=0),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])

    inner = helper.make_node("If", ["c"], ["y"], "if", then_branch=branch("t", 1), else_branch=branch("e", 3))
    for ranks in (True, False):
        for c in (True, False):
            feeds = {"x": X, "c": np.array(c)}
            assert_same(model_of([inner], feeds, {}, 11, ranks=ranks), feeds, (18, 20, 21))


def test_loop_body():
    body = helper.make_graph(
        [
            helper.make_node("Clip", ["v"], ["w"], "clip", min=-1.0, max=1.0),
            helper.make_node("Add", ["w", "x"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, MATRIX.shape),
        ],
        [
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, MATRIX.shape),
        ],
    )
    body.node.insert(0, helper.make_node("Identity", ["keep"], ["keep_out"]))
    body.output[0].name = "keep_out"
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], "loop", body=body)
    assert_same(model_of([loop], {"x": MATRIX}, {"n": i64(3)}, 10), {"x": MATRIX}, (18, 20, 21))


# --- refusals ------------------------------------------------------------------------------------------------------


def refusal(model: ModelProto, target: int = 20) -> str:
    with pytest.raises(CompileError) as caught:
        upgrade(model, target)
    return str(caught.value)


def test_old_opsets_are_refused():
    model = Case("Relu", (7,), {"x": X}).model(7)
    model.opset_import[0].version = 6
    assert "opset 6" in refusal(model)


def test_all_refused_nodes_are_named():
    nodes = [
        helper.make_node("MeanVarianceNormalization", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("MeanVarianceNormalization", ["b"], ["y"]),
    ]
    message = refusal(model_of(nodes, {"x": X}, {}, 8))
    assert "2 node(s)" in message
    assert message.index("'first'") < message.index("'y'")
    assert "opset 8" in message
    assert "fine" not in message


def scan_8(lengths="", **attributes):
    """A running sum and its last value, row by row."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["n"]), helper.make_node("Flatten", ["n"], ["f"], axis=0),
         helper.make_node("Squeeze", ["f"], ["o"], axes=[0])],
        "body",
        [info("s", TensorProto.FLOAT, [3]), info("e", TensorProto.FLOAT, [3])],
        [info("n", TensorProto.FLOAT, [3]), info("o", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    return helper.make_node(
        "Scan", [lengths, "s0", "x"], ["last", "y"], "scan", body=body, num_scan_inputs=1, **attributes
    )


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_8(backwards):
    x, start = f32(2, 4, 3), f32(2, 3)
    new = model_of([scan_8(directions=[backwards])], {"s0": start, "x": x}, {}, 8)
    upgrade(new)
    last, steps = run(new, {"s0": start, "x": x})
    sums = start[:, None] + np.cumsum(x[:, ::-1] if backwards else x, axis=1)
    np.testing.assert_allclose(steps, sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, sums[:, -1], rtol=1e-5, atol=1e-6)


def test_scan_8_with_lengths_is_refused():
    made = model_of([scan_8("n")], {"s0": f32(2, 3), "x": f32(2, 4, 3), "n": np.array([4, 2])}, {}, 8)
    assert "lengths" in refusal(made)


def test_integers_where_newer_opsets_take_none():
    ints = np.arange(6, dtype=np.int32)
    assert "cast" in refusal(Case("Erf", (9,), {"x": ints}).model(9))
    assert "cast" in refusal(Case("ReduceLogSum", (18,), {"x": ints}).model(18), 28)
    assert "cast" in refusal(Case("QuantizeLinear", (13,), {"x": ints}, {"s": np.array(1, np.float32)}).model(13))


def test_short_attention_masks_are_refused():
    def attention(mask):
        q = f32(1, 2, 4, 8)
        return Case("Attention", (23,), {"q": q, "k": q, "v": q, "m": mask}).model(23)

    assert "mask" in refusal(attention(f32(4, 1)), 24)
    upgrade(attention(f32(4, 4)), 24)


def test_a_change_without_a_decision_is_refused(monkeypatch):
    monkeypatch.delitem(COMPATIBLE, "Relu")
    assert "newer omenn-onnx" in refusal(Case("Relu", (7,), {"x": X}).model(7))


def test_functions_must_be_inlined():
    model = Case("Relu", (7,), {"x": X}).model(7)
    model.functions.add(name="f", domain="d")
    with pytest.raises(ValueError, match="inline"):
        upgrade(model)
    with pytest.raises(ValueError, match="target"):
        upgrade(Case("Relu", (7,), {"x": X}).model(7), 17)


# --- whole networks ------------------------------------------------------------------------------------------------

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=[p.stem for p in LIGHT])
def test_light_networks(path):
    model = load_model(path).proto
    constants = {i.name for i in model.graph.initializer}
    feeds = {
        v.name: f32(*(d.dim_value for d in v.type.tensor_type.shape.dim))
        for v in model.graph.input
        if v.name not in constants
    }
    assert_same(model, feeds)
