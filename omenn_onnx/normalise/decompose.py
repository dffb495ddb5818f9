"""Operators without a rule of their own are their ONNX function body.

The body is not put into the model: its nodes are what the calculus takes the operator for. Its inner values are
computed next to the model's own node, and only those that become coefficients stay in the file.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from omenn_onnx.graph.emit import Emitter, type_code
from omenn_onnx.graph.ir import Dim, Graph, Node, Tensor
from omenn_onnx.graph.read import read_graph

_SMALL = 4096
_DOMAIN = "omenn.body"


def decompose(node: Node, graph: Graph, emit: Emitter) -> list[Node] | None:
    """The nodes of the function body of ``node``, over its own input and output tensors; None if ONNX gives none."""
    inputs = [t for t in node.inputs if t is not None]
    if any(t.dtype is None or t.shape is None for t in inputs):
        return None
    proto = helper.make_node(
        node.op,
        [f"i{k}" if t is not None else "" for k, t in enumerate(node.inputs)],
        [f"o{k}" if t.name else "" for k, t in enumerate(node.outputs)],
        domain=node.domain,
        **node.attrs,
    )
    body = _body(proto, node.inputs, graph)
    if body is None:
        return None
    inner = read_graph(_model(proto, body, node))
    given = {f"i{k}": t for k, t in enumerate(node.inputs) if t is not None}
    given.update({f"o{k}": t for k, t in enumerate(node.outputs) if t.name})
    return _splice(inner, given, node, emit)


def _body(proto: NodeProto, inputs: list[Tensor | None], graph: Graph) -> FunctionProto | None:
    opset = graph.domains.get(proto.domain, 1)
    if not onnx.defs.has(proto.op_type, domain=proto.domain, max_inclusive_version=opset):
        return None
    schema: Any = onnx.defs.get_schema(proto.op_type, opset, proto.domain)
    types = [
        helper.make_tensor_type_proto(_code(t), _dims(t)).SerializeToString() if t is not None else b"" for t in inputs
    ]
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        if versions:
            raw = schema.get_context_dependent_function_with_opset_version(
                max(versions), proto.SerializeToString(), types
            )
            return _function(raw)
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            return _function(schema.get_function_with_opset_version(max(versions)))
    return None


def _function(raw: bytes) -> FunctionProto:
    body = FunctionProto()
    body.ParseFromString(raw)
    return body


def _code(t: Tensor) -> int:
    assert t.dtype is not None
    return type_code(t.dtype)


def _dims(t: Tensor) -> list[int | str]:
    return list(t.shape or ())


def _model(proto: NodeProto, body: FunctionProto, node: Node) -> ModelProto:
    """A model of this one node whose operator is a function of its own, inlined."""
    body.name, body.domain = proto.op_type, _DOMAIN
    call = NodeProto()
    call.CopyFrom(proto)
    call.domain = _DOMAIN
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[TensorProto] = []
    for k, t in enumerate(node.inputs):
        if t is None or f"i{k}" in {v.name for v in inputs}:
            continue
        value = t.value if t.const else None
        if value is not None and value.size <= _SMALL:
            initializers.append(numpy_helper.from_array(value, f"i{k}"))
        else:
            inputs.append(helper.make_tensor_value_info(f"i{k}", _code(t), _dims(t)))
    outputs = []
    for k, t in enumerate(node.outputs):
        if t.name:
            dims = None if t.shape is None else _dims(t)
            outputs.append(
                helper.make_tensor_value_info(f"o{k}", TensorProto.FLOAT if t.dtype is None else _code(t), dims)
            )
    graph = helper.make_graph([call], "body", inputs, outputs, initializers)
    imports = [*body.opset_import, helper.make_opsetid(_DOMAIN, 1)]
    return inliner.inline_local_functions(helper.make_model(graph, functions=[body], opset_imports=imports))


def _splice(inner: Graph, given: dict[str, Tensor], node: Node, emit: Emitter) -> list[Node]:
    """The body's nodes over the tensors of the model; what is between them becomes emitted nodes."""
    known: dict[Tensor, Tensor] = {inner.tensors[n]: t for n, t in given.items() if n in inner.tensors}
    symbols = {d: d for t in given.values() for d in t.shape or () if isinstance(d, str)}

    def size(t: Tensor, axis: int, d: Dim) -> Dim:
        if isinstance(d, str) and d not in symbols:
            symbols[d] = emit.new_dim(t, axis)
        return symbols[d] if isinstance(d, str) else d

    def outer(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        if t not in known:
            t.name = emit.new_name(t.name or node.op)
            t.shape = None if t.shape is None else tuple(size(t, i, d) for i, d in enumerate(t.shape))
            known[t] = t
        return known[t]

    nodes = []
    for n in inner.nodes:
        own = Node(
            n.op,
            n.domain,
            [outer(i) for i in n.inputs],
            [],
            n.attrs,
            node.origin,
            [c for c in map(outer, n.captured) if c],
        )
        for o in n.outputs:
            t = outer(o) if o.name else o
            assert t is not None
            own.outputs.append(t)
        if all(o is known.get(o) for o in own.outputs if o.name):  # inner values: computed next to the graph
            for o in own.outputs:
                o.producer = own
            emit.nodes.append(Node(n.op, n.domain, own.inputs, own.outputs, n.attrs, emit.new_name(n.op)))
        nodes.append(own)
    return nodes
