"""Large weights of subgraphs become weights of the main graph, which their subgraphs see from outside: they stay where
they are stored, external ones in their file, and what is taken out of a subgraph does not take a copy along."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto

from omenn_onnx.graph.flatten import rename_captured
from omenn_onnx.graph.skeleton import all_names, constant_value, is_large, unused
from omenn_onnx.graph.walk import graphs_of


def lift_weights(proto: ModelProto, limit: int = 1024) -> None:
    """Move initializers and constants of subgraphs that are external or have more than ``limit`` elements, in place."""
    inner = list(graphs_of(proto))[1:]
    if not any(_large(graph, limit) for graph in inner):
        return
    taken = all_names(proto.graph)
    for graph in inner:
        names: dict[str, str] = {}
        for tensor, name in _large(graph, limit):
            names[name] = unused(name, taken)
            lifted = proto.graph.initializer.add()
            lifted.CopyFrom(tensor)
            lifted.name = names[name]
        for k in reversed(range(len(graph.initializer))):
            if graph.initializer[k].name in names:
                del graph.initializer[k]
        for k in reversed(range(len(graph.node))):
            if names.keys() & set(graph.node[k].output):
                del graph.node[k]
        rename_captured(graph, names)


def _large(graph: GraphProto, limit: int) -> list[tuple[TensorProto, str]]:
    """The large weights of a graph by name, but for those that are its inputs or outputs."""
    ends = {v.name for v in (*graph.input, *graph.output)}
    found = [(t, t.name) for t in graph.initializer]
    for node in graph.node:
        value = constant_value(node)
        if value is not None:
            found.append((value, node.output[0]))
    return [(t, name) for t, name in found if is_large(t, limit) and name not in ends]
