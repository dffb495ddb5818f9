"""Operators without a rule of their own are their decomposition: this project's, or ONNX's function body.

The decomposition is not put into the model: its nodes are what the calculus takes the operator for. Its inner values
are computed next to the model's own node, and only those that become coefficients stay in the file.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import FunctionProto, NodeProto, helper, inliner

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import Emitter, type_code
from omenn_onnx.graph.ir import Graph, Node, Tensor
from omenn_onnx.normalise.bodies import BODIES, REFUSED, Body
from omenn_onnx.normalise.fragment import fragment_model, splice

_DOMAIN = "omenn.body"


def decompose(node: Node, graph: Graph, emit: Emitter) -> list[Node] | None:
    """The nodes that stand for ``node``, over its own input and output tensors; None if there is no decomposition."""
    if (node.domain, node.op) in REFUSED:
        raise OutsideCalculus(REFUSED[node.domain, node.op])
    inputs = {f"i{k}": t for k, t in enumerate(node.inputs) if t is not None}
    outputs = {f"o{k}": t for k, t in enumerate(node.outputs) if t.name}
    if any(t.dtype is None or t.shape is None for t in inputs.values()):
        return None
    if (node.domain, node.op) in BODIES:
        b = Body(node)
        BODIES[node.domain, node.op](b)
        model = fragment_model(b.nodes, b.constants, inputs, outputs, graph.domains | {"omenn": 1})
        return splice(model, inputs | outputs, node, emit)
    call = helper.make_node(
        node.op,
        [f"i{k}" if t is not None else "" for k, t in enumerate(node.inputs)],
        [f"o{k}" if t.name else "" for k, t in enumerate(node.outputs)],
        domain=node.domain,
        **node.attrs,
    )
    _write_defaults(call, graph)
    function = _function(call, node.inputs, graph)
    if function is None:
        return None
    function.name, function.domain, call.domain = node.op, _DOMAIN, _DOMAIN
    domains = graph.domains | {o.domain: o.version for o in function.opset_import} | {_DOMAIN: 1}
    model = fragment_model([call], [], inputs, outputs, domains, [function])
    return splice(inliner.inline_local_functions(model), inputs | outputs, node, emit)


def _function(call: NodeProto, inputs: list[Tensor | None], graph: Graph) -> FunctionProto | None:
    """The function body that ONNX gives for an operator at the model's opset."""
    opset = graph.domains.get(call.domain, 1)
    if not onnx.defs.has(call.op_type, domain=call.domain, max_inclusive_version=opset):
        return None
    schema: Any = onnx.defs.get_schema(call.op_type, opset, call.domain)
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        if versions:
            types = [_type(t) for t in inputs]
            raw = schema.get_context_dependent_function_with_opset_version(
                max(versions), call.SerializeToString(), types
            )
            return _parse(raw)
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            return _parse(schema.get_function_with_opset_version(max(versions)))
    return None


def _write_defaults(call: NodeProto, graph: Graph) -> None:
    """A body that refers to an attribute needs it written out."""
    opset = graph.domains.get(call.domain, 1)
    if onnx.defs.has(call.op_type, opset, call.domain):
        given = {a.name for a in call.attribute}
        for name, attribute in onnx.defs.get_schema(call.op_type, opset, call.domain).attributes.items():
            if name not in given and attribute.default_value.name:
                call.attribute.append(attribute.default_value)


def _type(t: Tensor | None) -> bytes:
    if t is None or t.dtype is None:
        return b""
    return bytes(helper.make_tensor_type_proto(type_code(t.dtype), list(t.shape or ())).SerializeToString())


def _parse(raw: bytes) -> FunctionProto:
    body = FunctionProto()
    body.ParseFromString(raw)
    return body
