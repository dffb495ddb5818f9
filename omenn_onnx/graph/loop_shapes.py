"""Shapes of what a Loop gives. ONNX's inference says nothing of them, since a state may change its shape: here the body
is inferred with the initial states' shapes, and sizes that it changes are unknown."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from omenn_onnx.graph.ir import Array
from omenn_onnx.graph.walk import captured_names

Sizes = list[int | str | None]


def tell_loops(model: ModelProto, inferred: ModelProto, values: Mapping[str, Array]) -> bool:
    """Add to ``model`` what its Loops' outputs are, by what ``inferred`` knows of their inputs. True if it is news."""
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    known |= {i.name: helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in inferred.graph.initializer}
    told = {v.name for v in model.graph.value_info}
    news = False
    for node in model.graph.node:
        if node.op_type != "Loop" or all(not o or o in told for o in node.output):
            continue
        for name, type_, shape in _outputs(node, model, known, values):
            old = known.get(name)
            if name and name not in told and (old is None or not old.type.tensor_type.HasField("shape")):
                model.graph.value_info.append(helper.make_tensor_value_info(name, type_, shape))
                told.add(name)
                news = True
    return news


def _outputs(
    node: NodeProto, model: ModelProto, known: Mapping[str, ValueInfoProto], values: Mapping[str, Array]
) -> list[tuple[str, int, Sizes]]:
    """Name, type and shape of the outputs of a Loop; nothing if they cannot be told."""
    body: GraphProto = next(a.g for a in node.attribute if a.name == "body")
    initial = [known.get(i) for i in node.input[2:]]
    around = [known[n] for n in captured_names(node) if n in known]
    states: list[tuple[int, Sizes]] = []
    for v in initial:
        shape = None if v is None else _shape(v)
        if v is None or shape is None:
            return []
        states.append((v.type.tensor_type.elem_type, shape))
    n = len(states)
    for _ in range(n + 2):
        given = list(body.input[:2])
        given += [helper.make_tensor_value_info(v.name, *s) for v, s in zip(body.input[2:], states, strict=True)]
        outputs = [ValueInfoProto(name=v.name) for v in body.output]
        graph = helper.make_graph(list(body.node), "body", [*given, *around], outputs, list(body.initializer))
        found = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=list(model.opset_import)))
        shapes = [_shape(v) for v in found.graph.output[1:]]
        if any(s is None for s in shapes) or any(
            len(s or []) != len(t) for s, (_, t) in zip(shapes, states, strict=False)
        ):
            return []
        types = [v.type.tensor_type.elem_type for v in found.graph.output[1:]]
        kept = [(t, [a if a == b else None for a, b in zip(s, shape or [], strict=True)])
                for (t, s), shape in zip(states, shapes, strict=False)]  # fmt: skip
        if kept == states:
            steps = _steps(node, body, values)
            collected = [(t, [steps, *(s or [])]) for t, s in zip(types[n:], shapes[n:], strict=True)]
            return [(name, *s) for name, s in zip(node.output, [*states, *collected], strict=False)]
        states = kept
    return []


def _steps(node: NodeProto, body: GraphProto, values: Mapping[str, Array]) -> int | None:
    """How often it runs, if that is known: the condition is handed through."""
    limit = values.get(node.input[0]) if node.input[0] else None
    maker = next((n for n in body.node if body.output[0].name in n.output), None)
    handed = maker is not None and maker.op_type == "Identity" and maker.input[0] == body.input[1].name
    return int(limit.reshape(-1)[0]) if limit is not None and handed and not (node.input[1:2] or [""])[0] else None


def _shape(v: ValueInfoProto) -> Sizes | None:
    if not v.type.HasField("tensor_type") or not v.type.tensor_type.HasField("shape"):
        return None
    dims = v.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims]
