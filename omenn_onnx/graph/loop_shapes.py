"""Shapes of what a Loop, Scan or If gives. ONNX's inference says nothing of a Loop's, since a state may change its
shape, and not always something of a Scan's: here the body is inferred with the initial states' shapes; sizes that it
changes are unknown. It says nothing of an If that holds one of them: here each branch is inferred by itself."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from omenn_onnx.graph.ir import Array
from omenn_onnx.graph.loop_counts import steps_of
from omenn_onnx.graph.walk import captured_names

Sizes = list[int | str | None]


def tell_loops(model: ModelProto, inferred: ModelProto, values: Mapping[str, Array]) -> bool:
    """Add to ``model`` what Loops, Scans and Ifs give, by what ``inferred`` knows of their inputs; is there news?"""
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    known |= {i.name: helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in inferred.graph.initializer}
    outputs = {v.name: v for v in model.graph.output}
    told = {v.name for v in (*model.graph.value_info, *model.graph.output) if v.type.tensor_type.HasField("shape")}
    news = False
    for node in model.graph.node:
        if node.op_type not in ("If", "Loop", "Scan") or all(not o or o in told for o in node.output):
            continue
        given = _either if node.op_type == "If" else _outputs
        for name, type_, shape in given(node, model, known, values):
            old = known.get(name)
            if name and name not in told and (old is None or not old.type.tensor_type.HasField("shape")):
                info = helper.make_tensor_value_info(name, type_, shape)
                if name in outputs:
                    outputs[name].CopyFrom(info)
                else:
                    model.graph.value_info.append(info)
                told.add(name)
                news = True
    return news


def _outputs(
    node: NodeProto, model: ModelProto, known: Mapping[str, ValueInfoProto], values: Mapping[str, Array]
) -> list[tuple[str, int, Sizes]]:
    """Name, type and shape of the outputs of a Loop or Scan; nothing if they cannot be told."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    body: GraphProto = attrs["body"]
    front = 2 if node.op_type == "Loop" else 0  # iteration number and condition, which comes back
    back = front // 2
    captured = captured_names(node)
    around = [known[n] for n in captured if n in known and n not in values]
    stored = [*body.initializer, *(numpy_helper.from_array(values[n], n) for n in captured if n in values)]
    read: list[tuple[int, Sizes]] = []
    for name in node.input[front:]:
        v = known.get(name)
        shape = None if v is None else _shape(v)
        if v is None or shape is None:
            return []
        read.append((v.type.tensor_type.elem_type, shape))
    n = len(read) - int(attrs.get("num_scan_inputs", 0))
    states, elements = read[:n], []
    steps: int | str | None = _steps(node, body, model, values) if front else None
    axes = attrs.get("scan_input_axes", [0] * (len(read) - n))
    for (kind, shape), axis in zip(read[n:], axes, strict=True):
        length = shape.pop(axis)
        steps = length if steps is None else steps
        elements.append((kind, shape))
    for _ in range(n + 2):
        given = list(body.input[:front])
        kinds = zip(body.input[front:], [*states, *elements], strict=True)
        given += [helper.make_tensor_value_info(v.name, *s) for v, s in kinds]
        said = {v.name: v for v in given}  # of an output that is an input, inference reads the shape given here
        outputs = [said.get(v.name, ValueInfoProto(name=v.name)) for v in body.output]
        graph = helper.make_graph(list(body.node), "body", [*given, *around], outputs, stored)
        found = _inferred(helper.make_model(graph, opset_imports=list(model.opset_import)), values)
        results = [(v.type.tensor_type.elem_type, _shape(v)) for v in found.graph.output[back:]]
        kept: list[tuple[int, Sizes]] = []
        for (kind, before), (_, behind) in zip(states if front else [], results, strict=False):
            if behind is None or len(before) != len(behind):
                return []
            kept.append((kind, [a if a == b else None for a, b in zip(before, behind, strict=True)]))
        if kept != states and front:
            states = kept
            continue
        told = [(name, *state) for name, state in zip(node.output, states, strict=False)]
        axes = attrs.get("scan_output_axes", [0] * (len(results) - n))
        for name, (kind, element), axis in zip(node.output[n:], results[n:], axes, strict=False):
            if element is not None:
                place = axis % (len(element) + 1)
                told.append((name, kind, [*element[:place], steps, *element[place:]]))
        return told
    return []


def _inferred(model: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """A body with the shapes of its tensors, those of the Loops, Scans and Ifs in it too."""
    found = onnx.shape_inference.infer_shapes(model)
    for _ in model.graph.node:
        if not tell_loops(model, found, values):
            break
        found = onnx.shape_inference.infer_shapes(model)
    return found


def _either(
    node: NodeProto, model: ModelProto, known: Mapping[str, ValueInfoProto], values: Mapping[str, Array]
) -> list[tuple[str, int, Sizes]]:
    """Name, type and shape of the outputs of an If, where both branches give the same rank."""
    captured = captured_names(node)
    around = [known[n] for n in captured if n in known and n not in values]
    stored = [numpy_helper.from_array(values[n], n) for n in captured if n in values]
    sides = []
    for branch in (helper.get_attribute_value(a) for a in node.attribute):
        outputs = [ValueInfoProto(name=v.name) for v in branch.output]
        own = {i.name for i in branch.initializer}
        held = [*branch.initializer, *(i for i in stored if i.name not in own)]
        graph = helper.make_graph(list(branch.node), "branch", around, outputs, held)
        found = _inferred(helper.make_model(graph, opset_imports=list(model.opset_import)), values)
        sides.append([(v.type.tensor_type.elem_type, _shape(v)) for v in found.graph.output])
    told: list[tuple[str, int, Sizes]] = []
    for name, (kind, a), (_, b) in zip(node.output, *sides, strict=True):
        if a is not None and b is not None and len(a) == len(b):
            told.append((name, kind, [x if x == y else None for x, y in zip(a, b, strict=True)]))
    return told


def _steps(node: NodeProto, body: GraphProto, model: ModelProto, values: Mapping[str, Array]) -> int | None:
    """How often a Loop runs, if that is known."""
    limit, condition, *initial = [*node.input, ""][: max(2, len(node.input))]
    if (limit and limit not in values) or (condition and condition not in values):
        return None
    given = [values.get(name) for name in initial]
    return steps_of(body, values.get(limit), values.get(condition), given, values, model.opset_import)


def _shape(v: ValueInfoProto) -> Sizes | None:
    if not v.type.HasField("tensor_type") or not v.type.tensor_type.HasField("shape"):
        return None
    dims = v.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims]
