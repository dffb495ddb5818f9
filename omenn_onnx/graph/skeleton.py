"""The model without its weights: what shape inference and the checker need, small for models of any size."""

from __future__ import annotations

import math
from typing import Any, cast

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper


def skeleton(proto: ModelProto, limit: int = 1024) -> ModelProto:
    """A copy of ``proto`` in which each large or external constant is a graph input of its name, type and shape.

    Large means more than ``limit`` elements, or sparse; initializers and Constant nodes count. Those in
    subgraphs become inputs of the main graph with a new name, handed in through an Identity node of the old name; those
    in functions become zeros of that type and shape (ConstantOfShape). The weights are never copied.
    """
    bare = ModelProto()
    for field, value in proto.ListFields():
        if field.name not in ("graph", "functions"):
            _copy_field(bare, field.name, value)
    for function in proto.functions:
        _copy_function(function, bare.functions.add(), limit)
    inputs: list[ValueInfoProto] = []
    taken = all_names(proto.graph)
    _copy_graph(proto.graph, bare.graph, limit, None, inputs, taken)
    present = {v.name for v in bare.graph.input}
    bare.graph.input.extend(v for v in inputs if v.name not in present)
    return bare


Inputs = list[ValueInfoProto] | None
"""Where large constants go; None in a function, which has no access to the inputs of the graph."""


def _copy_graph(
    source: GraphProto, target: GraphProto, limit: int, inner: str | None, inputs: Inputs, taken: set[str]
) -> None:
    """Fill ``target`` from ``source``; large constants go to ``inputs``. ``inner`` is None for the main graph."""
    for field, value in source.ListFields():
        if field.name in ("node", "initializer", "sparse_initializer"):
            continue
        _copy_field(target, field.name, value)

    def replace(name: str, data_type: int, dims: list[int]) -> None:
        if inputs is None:
            target.node.extend(_zeros(name, data_type, dims))
            return
        outer = name if inner is None else unused(f"{name}.weight", taken)
        info = ValueInfoProto(name=outer)
        info.type.tensor_type.elem_type = data_type
        info.type.tensor_type.shape.SetInParent()
        for d in dims:
            info.type.tensor_type.shape.dim.add(dim_value=d)
        inputs.append(info)
        if inner is not None:
            target.node.add(op_type="Identity", input=[outer], output=[name])

    for tensor in source.initializer:
        if is_large(tensor, limit):
            replace(tensor.name, tensor.data_type, list(tensor.dims))
        else:
            target.initializer.add().CopyFrom(tensor)
    for sparse in source.sparse_initializer:  # (inference does not know the shape of any)
        replace(sparse.values.name, sparse.values.data_type, list(sparse.dims))
    for node in source.node:
        value = constant_value(node)
        if value is not None and is_large(value, limit):
            replace(node.output[0], value.data_type, list(value.dims))
        else:
            _copy_node(node, target.node.add(), limit, inputs, taken)


def _copy_function(source: FunctionProto, target: FunctionProto, limit: int) -> None:
    for field, value in source.ListFields():
        if field.name != "node":
            _copy_field(target, field.name, value)
    for node in source.node:
        constant = constant_value(node)
        if constant is not None and is_large(constant, limit):
            target.node.extend(_zeros(node.output[0], constant.data_type, list(constant.dims)))
        else:
            _copy_node(node, target.node.add(), limit, None, set())


def _zeros(name: str, data_type: int, dims: list[int]) -> list[NodeProto]:
    """Nodes that give zeros of a type and shape."""
    size = helper.tensor_dtype_to_np_dtype(data_type).itemsize
    zero = TensorProto(data_type=data_type, dims=[1], raw_data=bytes(size))
    return [
        helper.make_node("Constant", [], [f"{name}.shape"], value_ints=dims),
        helper.make_node("ConstantOfShape", [f"{name}.shape"], [name], value=zero),
    ]


def _copy_node(source: NodeProto, target: NodeProto, limit: int, inputs: Inputs, taken: set[str]) -> None:
    if not any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in source.attribute):
        target.CopyFrom(source)
        return
    for field, value in source.ListFields():
        if field.name == "attribute":
            continue
        _copy_field(target, field.name, value)
    for attribute in source.attribute:
        copy = target.attribute.add()
        if attribute.type == AttributeProto.GRAPH:
            copy.name, copy.type = attribute.name, attribute.type
            copy.g.SetInParent()
            _copy_graph(attribute.g, copy.g, limit, attribute.name, inputs, taken)
        elif attribute.type == AttributeProto.GRAPHS:
            copy.name, copy.type = attribute.name, attribute.type
            for graph in attribute.graphs:
                _copy_graph(graph, copy.graphs.add(), limit, attribute.name, inputs, taken)
        else:
            copy.CopyFrom(attribute)


def _copy_field(target: ModelProto | GraphProto | FunctionProto | NodeProto, name: str, value: Any) -> None:
    """Copy one field; lists and messages merge, numbers and texts are set."""
    if hasattr(value, "add") or hasattr(value, "append"):
        getattr(target, name).MergeFrom(value)
    else:
        setattr(target, name, value)


def constant_value(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        for a in node.attribute:
            if a.name == "value" and a.type == AttributeProto.TENSOR:
                return cast(TensorProto, a.t)
    return None


def is_large(tensor: TensorProto, limit: int) -> bool:
    """Whether a tensor is external or has more than ``limit`` elements."""
    return tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > limit


def all_names(graph: GraphProto) -> set[str]:
    """Every tensor name of ``graph`` and its subgraphs."""
    names: set[str] = set()
    pending = [graph]
    while pending:
        g = pending.pop()
        names.update(v.name for v in (*g.input, *g.output, *g.initializer))
        names.update(s.values.name for s in g.sparse_initializer)
        for node in g.node:
            names.update(node.input)
            names.update(node.output)
            for a in node.attribute:
                pending.extend([a.g] if a.type == AttributeProto.GRAPH else a.graphs)
    return names


def unused(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it when it is in use; it is then in use."""
    candidate, k = name, 0
    while candidate in taken:
        k += 1
        candidate = f"{name}.{k}"
    taken.add(candidate)
    return candidate
