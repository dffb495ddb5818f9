"""Shapes and types of operators that onnx does not know (ONNX Runtime's): what their decompositions give."""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, helper

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import type_code
from omenn_onnx.graph.facts import collect_facts
from omenn_onnx.graph.ir import Graph, Node
from omenn_onnx.graph.read import read_graph
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.normalise.bodies import BODIES, Body

_MAX_ROUNDS = 8
_SAME = frozenset({("omenn", "Settled"), ("", "SimplifiedLayerNormalization")})
"""Operators whose output is like their first input."""
_NAMESAKES = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators of ONNX Runtime that onnx has under the same name."""


def declare_shapes(proto: ModelProto, folder: str = "") -> None:
    """Write into ``proto``, as value_info, the types and shapes of outputs of operators that onnx does not know.

    Requires: functions are inlined. Ensures: only value_info is added. What cannot be told stays unknown.
    """
    if not any(_has_standin(n.domain, n.op_type) and not onnx.defs.has(n.op_type, n.domain) for n in proto.graph.node):
        return
    for _ in range(_MAX_ROUNDS):
        graph = read_graph(proto, folder)
        unknown = {id(n): n for n in graph.nodes if _is_unknown(n)}
        if not unknown:
            return
        bare = _with_standins(proto, graph, {n.outputs[0].name: n for n in unknown.values() if n.outputs})
        facts = collect_facts(bare)
        before = len(proto.graph.value_info)
        own = {v.name: v for v in proto.graph.value_info}
        for node in unknown.values():
            for t in node.outputs:
                code, shape = facts.types.get(t.name), facts.shapes.get(t.name)
                if not t.name or code is None or shape is None or (t.dtype is not None and t.shape is not None):
                    continue
                if t.name in own:
                    proto.graph.value_info.remove(own.pop(t.name))
                dims = [None if isinstance(d, str) and "#" in d else d for d in shape]
                code = code if t.dtype is None else type_code(t.dtype)
                proto.graph.value_info.append(helper.make_tensor_value_info(t.name, code, dims))
        if len(proto.graph.value_info) == before:
            return


def _is_unknown(node: Node) -> bool:
    unknown = any(o.name and (o.dtype is None or o.shape is None) for o in node.outputs)
    return unknown and _has_standin(node.domain, node.op)


def _has_standin(domain: str, op: str) -> bool:
    return (domain, op) in BODIES or (domain, op) in _SAME or (domain == "com.microsoft" and op in _NAMESAKES)


def _with_standins(proto: ModelProto, graph: Graph, unknown: dict[str, Node]) -> ModelProto:
    """A copy of the model without its large weights, decompositions in the place of ``unknown`` nodes."""
    bare = skeleton(proto, limit=4096)
    nodes: list[NodeProto] = []
    for k, n in enumerate(bare.graph.node):
        node = unknown.get(n.output[0]) if n.output else None
        nodes += [n] if node is None else _standin(bare, n, node, f"omenn/standin_{k}/")
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del bare.graph.node[:]
    bare.graph.node.extend(copies)
    return bare


def _standin(bare: ModelProto, own: NodeProto, node: Node, prefix: str) -> list[NodeProto]:
    """The decomposition over the model's names; the node itself where there is none."""
    key = (node.domain, node.op)
    if key in _SAME:
        return [helper.make_node("Identity", [own.input[0]], [own.output[0]])]
    if node.op in _NAMESAKES:
        renamed = NodeProto.FromString(own.SerializeToString())
        renamed.domain = ""
        return [renamed]
    b = Body(node)
    try:
        BODIES[key](b)
    except OutsideCalculus:
        return [own]
    names = {f"i{k}": name for k, name in enumerate(own.input)} | {f"o{k}": name for k, name in enumerate(own.output)}

    def outer(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    parts = []
    for part in b.nodes:
        same = (part.domain, part.op_type) in _SAME
        op, domain = ("Identity", "") if same else (part.op_type, part.domain)
        inputs = [outer(i) for i in part.input][: 1 if same else None]
        new = helper.make_node(op, inputs, [outer(o) for o in part.output], domain=domain)
        if not same:
            new.attribute.extend(part.attribute)
        parts.append(new)
    for c in b.constants:
        renamed_constant = onnx.TensorProto.FromString(c.SerializeToString())
        renamed_constant.name = outer(c.name)
        bare.graph.initializer.append(renamed_constant)
    return parts
