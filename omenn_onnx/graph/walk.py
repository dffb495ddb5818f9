"""Ways through a ModelProto: its graphs, its tensors, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

_BITS = {
    **dict.fromkeys(("COMPLEX128",), 128),
    **dict.fromkeys(("INT64", "UINT64", "DOUBLE", "COMPLEX64"), 64),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT"), 32),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("BOOL", "INT8", "UINT8", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ"), 8),
    **dict.fromkeys(("FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
}
"""Bits per element, by the type's name: not every onnx release knows all of them."""

_BITS_BY_CODE: dict[int, int] = {code: _BITS.get(name, 0) for name, code in TensorProto.DataType.items()}


def tensor_bytes(tensor: TensorProto) -> int:
    """How many bytes the values of ``tensor`` take, by its type and dimensions (packed; strings: their text)."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(s) for s in tensor.string_data)
    elements = int(math.prod(tensor.dims))
    return -(-elements * _BITS_BY_CODE.get(tensor.data_type, 0) // 8)


def graphs_of(proto: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all subgraphs, outer before inner."""
    pending = [proto.graph]
    while pending:
        graph = pending.pop()
        yield graph
        pending.extend(g for n in graph.node for g in subgraphs_of(n))


def subgraphs_of(node: NodeProto) -> list[GraphProto]:
    """The graphs that ``node`` holds as attributes."""
    found: list[GraphProto] = []
    for a in node.attribute:
        found.extend([a.g] if a.type == AttributeProto.GRAPH else a.graphs)
    return found


def nodes_of(proto: ModelProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs and functions included."""
    pending = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(n for g in subgraphs_of(node) for n in g.node)


def tensors_of(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model: initializers, sparse ones, attributes; subgraphs and functions included."""
    nodes = list(nodes_of(proto))
    inside = [g for n in nodes for g in subgraphs_of(n)]
    for graph in (proto.graph, *inside):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in nodes:
        for a in node.attribute:
            if a.type == AttributeProto.TENSOR:
                yield a.t
            elif a.type == AttributeProto.SPARSE_TENSOR:
                yield a.sparse_tensor.values
                yield a.sparse_tensor.indices
            yield from a.tensors


def captured_names(node: NodeProto) -> list[str]:
    """Names of outer tensors that the subgraphs of ``node`` use, in order, once each."""
    found: dict[str, None] = {}
    for a in node.attribute:
        for g in [a.g] if a.type == AttributeProto.GRAPH else list(a.graphs):
            inner = (
                {v.name for v in g.input}
                | {i.name for i in g.initializer}
                | {i.values.name for i in g.sparse_initializer}
            )
            for n in g.node:
                for name in [*n.input, *captured_names(n)]:
                    if name and name not in inner:
                        found.setdefault(name)
                inner.update(n.output)
            found.update(dict.fromkeys(o.name for o in g.output if o.name not in inner))
    return list(found)
