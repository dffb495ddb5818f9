"""Subgraphs as nodes of the graph around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from omenn_onnx.graph.walk import subgraphs_of


@dataclass
class Flat:
    """What a subgraph holds, by names of its own, and the names of its outputs."""

    nodes: list[NodeProto]
    initializers: list[TensorProto]
    sparse: list[SparseTensorProto]
    outputs: list[str]


def flatten(graph: GraphProto, prefix: str) -> Flat:
    """The nodes and weights of a subgraph, every name that it defines with ``prefix`` in front; names of the graph
    around it stay."""
    own = {i.name for i in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    own.update(o for n in graph.node for o in n.output if o)
    names = {name: prefix + name for name in own}
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    for node in nodes:
        rename_uses(node, names)
        node.name = prefix + (node.name or node.op_type)
        node.output[:] = [names.get(o, o) for o in node.output]
    initializers = [TensorProto.FromString(i.SerializeToString()) for i in graph.initializer]
    for i in initializers:
        i.name = names[i.name]
    sparse = [SparseTensorProto.FromString(s.SerializeToString()) for s in graph.sparse_initializer]
    for s in sparse:
        s.values.name = names[s.values.name]
    return Flat(nodes, initializers, sparse, [names.get(o.name, o.name) for o in graph.output])


def rename_uses(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, its subgraphs too, read other names."""
    node.input[:] = [names.get(i, i) for i in node.input]
    for graph in subgraphs_of(node):
        rename_captured(graph, names)


def rename_captured(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let a subgraph read other names of the graph around it; those that it defines itself stay."""
    inner = {v.name for v in graph.input} | {i.name for i in graph.initializer}
    inner |= {s.values.name for s in graph.sparse_initializer} | {o for n in graph.node for o in n.output}
    names = {a: b for a, b in names.items() if a not in inner}
    for node in graph.node:
        rename_uses(node, names)
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def branch_of(node: NodeProto, taken: bool) -> GraphProto:
    """The branch of an If."""
    name = "then_branch" if taken else "else_branch"
    graph: GraphProto = next(a.g for a in node.attribute if a.name == name and a.type == AttributeProto.GRAPH)
    return graph
