"""The audit mode: the whole model in double.

Float weights, constants and casts become double; float inputs are widened behind the graph's input, float outputs are
narrowed in front of the graph's output, so that the model keeps its interface. Runs of it measure what the arithmetic,
and not the calculus, leaves of a residual.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.errors import CompileError
from omenn_onnx.graph.walk import graphs_of

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype",
                    "RandomNormal": "dtype", "RandomUniform": "dtype", "Bernoulli": "dtype"}  # fmt: skip
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
_STASHED = ("LayerNormalization", "RMSNormalization")


def to_double(proto: ModelProto, folder: str = "") -> dict[str, str]:
    """Rewrite ``proto`` in place; returns the name of the double tensor behind each float output of the graph."""
    for node in (n for g in graphs_of(proto) for n in g.node):
        if node.domain not in ("", "ai.onnx"):
            raise CompileError(
                f"node {node.name!r}: {node.domain}.{node.op_type} has no double form; dtype float64 needs a model of "
                "plain ai.onnx operators"
            )
        if node.op_type in _QUANTISERS:
            raise CompileError(f"node {node.name!r}: {node.op_type} has no double form; explain the model in float32")
    _decompose_norms(proto)
    for depth, graph in enumerate(graphs_of(proto)):
        for v in (*graph.value_info, *(() if depth == 0 else (*graph.input, *graph.output))):
            if v.type.tensor_type.elem_type in _FLOATS:
                v.type.tensor_type.elem_type = TensorProto.DOUBLE
        for initializer in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
            _widen(initializer, folder)
        for node in graph.node:
            _widen_node(node, folder)
    graph = proto.graph
    _widen_inputs(graph)
    return _narrow_outputs(graph)


def _decompose_norms(proto: ModelProto) -> None:
    """Norms whose first stage is defined in float32 are written out, so that double goes through them."""
    for graph in graphs_of(proto):
        taken = _taken(graph)
        nodes: list[NodeProto] = []
        for node in graph.node:
            stashed = node.op_type in _STASHED and not any(node.output[1:])
            nodes += _norm_parts(node, taken) if stashed else [NodeProto.FromString(node.SerializeToString())]
        del graph.node[:]
        graph.node.extend(nodes)


def _norm_parts(node: NodeProto, taken: set[str]) -> list[NodeProto]:
    """LayerNormalization: scale (x - mean x) / sqrt(var x + epsilon) + bias; RMSNormalization without mean and bias."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, scale, *bias = (i for i in node.input)
    parts: list[NodeProto] = []

    def add(op: str, *inputs: str, out: str = "", **kwargs: Any) -> str:
        name = out or _free(f"{node.output[0]}/{op}", taken)
        parts.append(helper.make_node(op, list(inputs), [name], name=name, **kwargs))
        return name

    def constant(value: object, dtype: type) -> str:
        return add("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    axis = int(attrs.get("axis", -1))
    first = constant(axis, np.int64)
    end = add("Size", add("Shape", x)) if axis >= 0 else constant(0, np.int64)
    axes = add("Range", first, end, constant(1, np.int64))
    if node.op_type == "LayerNormalization":
        x = add("Sub", x, add("ReduceMean", x, axes, keepdims=1))
    power = add("ReduceMean", add("Mul", x, x), axes, keepdims=1)
    deviation = add("Sqrt", add("Add", power, constant(attrs.get("epsilon", 1e-5), np.float32)))
    scaled = [add("Div", x, deviation), scale]
    if bias and bias[0]:
        add("Add", add("Mul", *scaled), bias[0], out=node.output[0])
    else:
        add("Mul", *scaled, out=node.output[0])
    return parts


def _widen(tensor: TensorProto, folder: str) -> None:
    if tensor.data_type in _FLOATS:
        value = np.asarray(numpy_helper.to_array(tensor, folder)).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _widen_node(node: NodeProto, folder: str) -> None:
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            _widen(a.t, folder)
        elif a.name == _TYPE_ATTRIBUTES.get(node.op_type) and a.i in _FLOATS:
            a.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
            value = np.asarray(helper.get_attribute_value(a), np.float32).astype(np.float64)
            a.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _taken(graph: GraphProto) -> set[str]:
    names = {i for n in graph.node for i in (*n.input, *n.output)}
    return names | {v.name for v in graph.input} | {i.name for i in graph.initializer}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _widen_inputs(graph: GraphProto) -> None:
    taken = _taken(graph)
    own = {i.name for i in graph.initializer}
    renamed = {
        v.name: _free(f"{v.name}/double", taken)
        for v in graph.input
        if v.type.tensor_type.elem_type in _FLOATS and v.name not in own
    }
    for v in graph.input:
        if v.name in own and v.type.tensor_type.elem_type in _FLOATS:
            v.type.tensor_type.elem_type = TensorProto.DOUBLE
    _rename_uses(graph, renamed)
    casts = [helper.make_node("Cast", [a], [b], name=b, to=TensorProto.DOUBLE) for a, b in renamed.items()]
    nodes = [*casts, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_uses(graph: GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]
        for a in node.attribute:
            for inner in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
                _rename_uses(inner, renamed)


def _narrow_outputs(graph: GraphProto) -> dict[str, str]:
    taken = _taken(graph)
    produced = {o for n in graph.node for o in n.output}
    renamed: dict[str, str] = {}
    for v in graph.output:
        code = v.type.tensor_type.elem_type
        if code in _FLOATS and v.name in produced:
            renamed[v.name] = _free(f"{v.name}/double", taken)
    _rename_uses(graph, renamed)
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name in renamed:
                node.output[i] = renamed[name]
    for v in graph.output:
        if v.name in renamed:
            code = v.type.tensor_type.elem_type
            graph.node.append(helper.make_node("Cast", [renamed[v.name]], [v.name], name=v.name, to=code))
    return renamed
