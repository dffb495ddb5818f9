"""Adapters: for each operator whose signature or meaning changed, how to write the old node in the new opset.

An adapter registered for version v takes a node as the version before v meant it and makes it one of version v. They
are applied one after the other, so each needs to know one change only. Where ONNX's text and ONNX Runtime differ in
what an old version means, the runtime decides: the outputs of the model must stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from omenn_onnx.normalise.upgrade_site import Site

Adapter = Callable[[Site], None]

ADAPTERS: dict[tuple[str, int], Adapter] = {}
"""(operator, version) -> what brings a node from the version before to this one."""

_FLOAT_MAX = float(np.finfo(np.float32).max)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)
_FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def adapter(version: int, *operators: str) -> Callable[[Adapter], Adapter]:
    """Register an adapter to ``version`` of each of ``operators``."""

    def register(rule: Adapter) -> Adapter:
        ADAPTERS.update({(op, version): rule for op in operators})
        return rule

    return register


# --- attributes that became inputs ---------------------------------------------------------------------------------


@adapter(13, "Squeeze", "Unsqueeze", "ReduceSum")
@adapter(18, *_REDUCTIONS)
def axes_to_input(s: Site) -> None:
    """axes: attribute -> input 1. Empty or absent, in both forms: all axes (Squeeze: all of size 1)."""
    axes = s.take("axes")
    if axes:
        s.set_inputs([s.input(0), s.int64(list(axes), "axes")])


@adapter(10, "Slice")
def slice_10(s: Site) -> None:
    """starts, ends, axes: attributes -> inputs."""
    starts, ends, axes = s.take("starts"), s.take("ends"), s.take("axes")
    inputs = [s.input(0), s.int64(list(starts), "starts"), s.int64(list(ends), "ends")]
    s.set_inputs([*inputs, s.int64(list(axes), "axes")] if axes else inputs)


@adapter(10, "TopK")
def top_k_10(s: Site) -> None:
    """k: attribute -> input of one element."""
    s.set_inputs([s.input(0), s.int64([s.take("k")], "k")])


@adapter(13, "Split")
def split_13(s: Site) -> None:
    """split: attribute -> input."""
    split = s.take("split")
    if split:
        s.set_inputs([s.input(0), s.int64(list(split), "split")])


@adapter(18, "Split")
def split_18(s: Site) -> None:
    """Without sizes the number of parts must be said."""
    if not s.input(1):
        s.set_inputs([s.input(0)])
        s.put(num_outputs=len(s.node.output))


@adapter(11, "Pad")
def pad_11(s: Site) -> None:
    """pads and value: attributes -> inputs; the value has the data's type."""
    pads, value, mode = s.take("pads"), s.take("value", 0.0), s.take("mode", "constant")
    if mode != "constant":
        s.put(mode=mode)
        value = 0.0
    constant = s.typed_scalar(value, 0, "pad") if value != 0 else ""
    s.set_inputs([s.input(0), s.int64(list(pads), "pads"), constant])


@adapter(11, "Clip")
def clip_11(s: Site) -> None:
    """min and max: attributes -> inputs of the data's type. The limits of float32, the defaults, mean no bound."""
    low, high = s.take("min", -_FLOAT_MAX), s.take("max", _FLOAT_MAX)
    minimum = s.typed_scalar(low, 0, "min") if low > -_FLOAT_MAX else ""
    maximum = s.typed_scalar(high, 0, "max") if high < _FLOAT_MAX else ""
    s.set_inputs([s.input(0), minimum, maximum])


@adapter(20, "DFT")
def dft_20(s: Site) -> None:
    """axis: attribute, default 1 -> input, default -2."""
    s.set_inputs([s.input(0), s.input(1), s.int64(s.take("axis", 1), "axis")])


@adapter(12, "Dropout")
def dropout_12(s: Site) -> None:
    """ratio: attribute -> input; without training_mode it still passes its input on.

    The mask was all zero at inference (ONNX Runtime), of the data's type before opset 10; now it is all true.
    """
    ratio = s.take("ratio")
    s.set_inputs([s.input(0), "" if ratio is None else s.constant(ratio, np.float32, "ratio")])
    if s.is_used(1):
        code = TensorProto.BOOL if s.opset >= 10 else s.type(0)
        if code is None:
            raise s.refuse("its mask is used, and the type of its data is unknown: leave the mask away")
        zero = helper.make_tensor("zero", code, [1], [0])
        s.emit("ConstantOfShape", [s.emit("Shape", [s.input(0)])], s.node.output[1], value=zero)
    s.set_outputs([s.node.output[0]])


# --- operators that flattened their input --------------------------------------------------------------------------


@adapter(13, "Softmax", "LogSoftmax", "Hardmax")
def softmax_13(s: Site) -> None:
    """Before 13 the input was taken as a matrix, [product of the axes before axis, product of the others].

    That is one axis when at most one of the axes from ``axis`` on is longer than 1; otherwise the matrix is made.
    """
    axis, shape = s.take("axis", 1), s.shape(0)
    if shape is not None and -len(shape) <= axis < len(shape):
        first = axis % len(shape)
        long = [k for k in range(first, len(shape)) if shape[k] != 1]
        if len(long) <= 1:
            only = long[0] if long else len(shape) - 1
            s.put(axis=-1 if only == len(shape) - 1 else only)
            return
    size = s.emit("Shape", [s.input(0)])
    matrix = s.emit("Flatten", [s.input(0)], axis=axis)
    result = s.node.output[0]
    s.set_inputs([matrix])
    s.set_outputs([s.additions.tensor_name(f"{s.label}.matrix")])
    s.put(axis=-1)
    s.emit("Reshape", [s.node.output[0], size], result, after=True, allowzero=1)


@adapter(9, "BatchNormalization")
def batch_normalization_9(s: Site) -> None:
    """spatial=0, statistics for each place too: the same on the input flattened to [N, C*D1*...*Dn], as ONNX says."""
    if s.take("spatial", 1) or len(s.shape(0) or ()) == 2:
        return
    if any(s.node.output[1:]):
        raise s.refuse("spatial=0 in training mode: export the model in inference mode")
    size = s.emit("Shape", [s.input(0)])
    result, flat = s.node.output[0], s.int64([-1], "flat")
    s.set_inputs(
        [s.emit("Flatten", [s.input(0)], axis=1), *(s.emit("Reshape", [s.input(k), flat]) for k in range(1, 5))]
    )
    s.set_outputs([s.additions.tensor_name(f"{s.label}.matrix")])
    s.emit("Reshape", [s.node.output[0], size], result, after=True, allowzero=1)


@adapter(14, "BatchNormalization")
def batch_normalization_14(s: Site) -> None:
    """More than one output used to mean training mode (batch statistics). Now an attribute does, with three outputs."""
    if not any(s.node.output[1:]):
        s.set_outputs(s.node.output[:1])
        return
    if s.is_used(3) or s.is_used(4):
        raise s.refuse(
            "it is in training mode and its saved statistics are used, which newer opsets do not have: "
            "export the model in inference mode, or without these outputs"
        )
    names = [*s.node.output, "", ""][:3]
    s.set_outputs([name or s.additions.tensor_name(f"{s.label}.unused") for name in names])
    s.put(training_mode=1)


# --- resizing ------------------------------------------------------------------------------------------------------


@adapter(9, "Upsample")
def upsample_9(s: Site) -> None:
    """scales: attribute -> input."""
    s.set_inputs([s.input(0), s.constant(list(s.take("scales")), np.float32, "scales")])


@adapter(10, "Upsample")
def upsample_10(s: Site) -> None:
    """Upsample -> Resize. Its scales are at least 1 and nearest rounds down."""
    s.node.op_type = "Resize"
    _as_resize_11(s, s.input(1), "floor")


@adapter(11, "Resize")
def resize_11(s: Site) -> None:
    """Coordinates are x / scale; nearest rounds down along axes that grow and up along axes that shrink."""
    if any(a.name == "coordinate_transformation_mode" for a in s.node.attribute):
        return  # an Upsample, written as a newer Resize already
    nearest = all(a.s == b"nearest" for a in s.node.attribute if a.name == "mode")
    scales = s.value(1)
    if not nearest or (scales is not None and (scales >= 1).all()):
        _as_resize_11(s, s.input(1), "floor")
    elif scales is not None and (scales <= 1).all():
        _as_resize_11(s, s.input(1), "ceil")
    else:
        one = s.constant(1, np.float32, "one")
        growing, shrinking = s.emit("Max", [s.input(1), one]), s.emit("Min", [s.input(1), one])
        grown = s.emit("Resize", [s.input(0), "", growing], **_resize_options("floor"))
        s.set_inputs([grown])
        _as_resize_11(s, shrinking, "ceil")


def _resize_options(nearest_mode: str) -> dict[str, Any]:
    return {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest_mode}


def _as_resize_11(s: Site, scales: str, nearest_mode: str) -> None:
    mode = s.take("mode", "nearest")
    s.set_inputs([s.input(0), "", scales])
    if mode == "nearest":
        s.put(**_resize_options(nearest_mode))
    else:
        s.put(mode=mode, coordinate_transformation_mode="asymmetric")


@adapter(13, "Resize")
def resize_13(s: Site) -> None:
    """An unused roi, scales or sizes was an empty tensor; now it is left away. tf_half_pixel_for_nn is gone:
    its floor((i + 1/2) / scale) is half_pixel, (i + 1/2) / scale - 1/2, rounded half up."""
    scales, sizes = s.value(2), s.value(3)
    names = [s.input(k) for k in range(4)]
    if names[3] and not (sizes is not None and sizes.size == 0):
        if scales is not None and scales.size:
            raise s.refuse("it has both scales and sizes: leave one of them empty")
        names[2] = ""
    else:
        names[3] = ""
    roi = s.value(1)
    mode = s.take("coordinate_transformation_mode", "half_pixel")
    if mode != "tf_crop_and_resize" or (roi is not None and roi.size == 0):
        names[1] = ""
    s.set_inputs(names)
    if mode == "tf_half_pixel_for_nn":
        if s.take("mode", "nearest") != "nearest" or s.take("nearest_mode", "round_prefer_floor") != "floor":
            raise s.refuse("coordinate_transformation_mode tf_half_pixel_for_nn is only known with nearest_mode floor")
        s.put(mode="nearest", nearest_mode="round_prefer_ceil")
        mode = "half_pixel"
    s.put(coordinate_transformation_mode=mode)


@adapter(20, "GridSample")
def grid_sample_20(s: Site) -> None:
    """bilinear is called linear, bicubic cubic."""
    mode = s.take("mode", "bilinear")
    s.put(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


@adapter(16, "RoiAlign")
def roi_align_16(s: Site) -> None:
    """The default of the new attribute is not the old behaviour."""
    s.put(coordinate_transformation_mode="output_half_pixel")


# --- other changes -------------------------------------------------------------------------------------------------


@adapter(11, "Scatter")
def scatter_11(s: Site) -> None:
    """Scatter is called ScatterElements."""
    s.node.op_type = "ScatterElements"


@adapter(21, "GroupNormalization")
def group_normalization_21(s: Site) -> None:
    """scale and bias: one for each group -> one for each channel; the arithmetic stays in the data's type."""
    code, shape = s.type(0), s.shape(0)
    if code not in _FLOATING:
        raise s.refuse("the type of its input is unknown: run ONNX shape inference on the model first")
    groups = next(a.i for a in s.node.attribute if a.name == "num_groups")
    if shape is not None and shape[1] is not None:
        repeat = s.int64([1, shape[1] // groups], "repeat")
    else:
        channels = s.emit("Shape", [s.input(0)], start=1, end=2)
        each = s.emit("Div", [channels, s.int64([groups], "groups")])
        repeat = s.emit("Concat", [s.int64([1], "one"), each], axis=0)
    column, flat = s.int64([-1, 1], "column"), s.int64([-1], "flat")
    widened = [s.emit("Expand", [s.emit("Reshape", [s.input(k), column]), repeat]) for k in (1, 2)]
    s.set_inputs([s.input(0), *(s.emit("Reshape", [name, flat]) for name in widened)])
    s.put(stash_type=int(code))


@adapter(24, "Attention")
def attention_24(s: Site) -> None:
    """A mask of last size 1 used to be broadcast over the keys; now a short mask is filled up with -inf."""
    shape = s.shape(3)
    if s.input(3) and (shape is None or not shape or shape[-1] in (None, 1)):
        raise s.refuse("opset 24 reads a mask of unknown or single length differently: expand the mask to all keys")


@adapter(13, "Erf")
@adapter(19, "QuantizeLinear")
@adapter(28, "ReduceLogSum", "ReduceLogSumExp")
def floats_only(s: Site) -> None:
    """Integers are no longer allowed."""
    code = s.type(0)
    if code is not None and code not in _FLOATING:
        raise s.refuse("newer opsets do not take integers here: cast its input to float")


@adapter(9, "Scan")
def scan_9(s: Site) -> None:
    """Scan-8 runs over every row of a batch by itself: a Scan over the rows, whose body is the Scan over the steps."""
    if s.input(0):
        raise s.refuse("the lengths of its sequences have no place in Scan from opset 9 on: export at opset 9 or newer")
    count, directions = int(s.take("num_scan_inputs")), s.take("directions")
    body = s.take("body")
    states = len(body.input) - count

    def row(v: ValueInfoProto) -> ValueInfoProto:
        return helper.make_tensor_value_info(s.additions.tensor_name(v.name), v.type.tensor_type.elem_type, None)

    given, results = [row(v) for v in body.input], [row(v) for v in body.output]
    inner = helper.make_node(
        "Scan", [v.name for v in given], [v.name for v in results], s.additions.node_name(f"{s.label}.row"), body=body,
        num_scan_inputs=count, scan_input_directions=directions or [0] * count,
    )  # fmt: skip
    s.set_inputs(list(s.node.input)[1:])
    s.put(body=helper.make_graph([inner], "rows", given, results), num_scan_inputs=states + count)


# --- what cannot be brought over -----------------------------------------------------------------------------------


@adapter(9, "MeanVarianceNormalization")
def mean_variance_normalization_9(s: Site) -> None:
    """Before 9 it is ONNX Runtime's own operator, with other attributes."""
    raise s.refuse("before opset 9 this is ONNX Runtime's own operator: export at opset 9 or newer")
