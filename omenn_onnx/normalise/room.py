"""Room for the public names of a compiled file, where a tensor inside the model has one of them."""

from __future__ import annotations

from onnx import ModelProto

from omenn_onnx.graph.flatten import rename_uses
from omenn_onnx.graph.walk import graphs_of

_PUBLIC = ("C_w", "C_b", "score", "target", "seed", "X", "opaque_share")


def make_room(proto: ModelProto, prefix: str) -> dict[str, str]:
    """Give tensors inside the main graph that have a public name another one, in place; what they were called -> what
    they are called.

    Ensures: inputs and outputs of the model keep their names, a clash with one of them stays.
    """
    graph = proto.graph
    used = {name for g in graphs_of(proto) for n in g.node for name in (*n.input, *n.output)}
    used |= {i.name for g in graphs_of(proto) for i in g.initializer}
    used |= {v.name for g in graphs_of(proto) for v in (*g.input, *g.output)}
    kept = {v.name for v in (*graph.input, *graph.output)}
    own = {o for n in graph.node for o in n.output} | {i.name for i in graph.initializer}
    names: dict[str, str] = {}
    for name in {prefix + p for p in _PUBLIC} & own - kept:
        new = f"{name}/own"
        while new in used:
            new += "_"
        names[name] = new
    if names:
        for node in graph.node:
            rename_uses(node, names)
            node.output[:] = [names.get(o, o) for o in node.output]
        for i in (*graph.initializer, *(s.values for s in graph.sparse_initializer), *graph.value_info):
            i.name = names.get(i.name, i.name)
    return names
