"""Nodes that stand for one node of the model: read like a model of their own, then put over the model's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.graph.emit import Emitter, type_code
from omenn_onnx.graph.ir import Dim, Graph, Node, Tensor
from omenn_onnx.graph.read import read_graph

_SMALL = 4096
OUTER = "outer:"
"""In front of the symbols of the graph: those that shape inference makes up within a fragment must not meet them."""


def fragment_model(
    nodes: Sequence[NodeProto],
    initializers: Sequence[TensorProto],
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    domains: Mapping[str, int],
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    """A model of some nodes, with what is known of the tensors that it reads and gives."""
    given: list[onnx.ValueInfoProto] = []
    known: list[TensorProto] = []
    for name, t in inputs.items():
        value = t.value if t.const and t.shape is not None and _is_small(t) else None
        if value is not None:
            known.append(numpy_helper.from_array(value, name))
        else:
            given.append(_value_info(name, t))
    graph = helper.make_graph(
        list(nodes),
        "fragment",
        given,
        [_value_info(name, t) for name, t in outputs.items()],
        [*known, *initializers],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def _is_small(t: Tensor) -> bool:
    size = 1
    for d in t.shape or ():
        size *= d if isinstance(d, int) else _SMALL + 1
    return size <= _SMALL


def _value_info(name: str, t: Tensor) -> onnx.ValueInfoProto:
    if t.dtype is None:  # (inference tells)
        return onnx.ValueInfoProto(name=name)
    code = type_code(t.dtype)
    shape = None if t.shape is None else [f"{OUTER}{d}" if isinstance(d, str) else d for d in t.shape]
    return helper.make_tensor_value_info(name, code, shape)


def splice(
    model: ModelProto, given: Mapping[str, Tensor], node: Node, emit: Emitter, results: dict[str, Tensor] | None = None
) -> list[Node]:
    """The nodes of ``model`` over the tensors of the graph; ``given`` maps the names of its inputs and outputs to them.
    What is between them is computed next to the graph, by emitted nodes, as far as it becomes a coefficient.
    ``results`` is given the tensors of its outputs by name."""
    inner: Graph = read_graph(model)
    known: dict[Tensor, Tensor] = {inner.tensors[n]: t for n, t in given.items() if n in inner.tensors}
    symbols = {f"{OUTER}{d}": d for t in given.values() for d in t.shape or () if isinstance(d, str)}

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
        captured = [c for c in map(outer, n.captured) if c is not None]
        own = Node(n.op, n.domain, [outer(i) for i in n.inputs], [], n.attrs, node.origin, captured)
        for o in n.outputs:
            t = outer(o) if o.name else o
            assert t is not None
            own.outputs.append(t)
        if all(o is known.get(o) for o in own.outputs if o.name):
            for o in own.outputs:
                o.producer = own
            emit.nodes.append(Node(n.op, n.domain, own.inputs, own.outputs, n.attrs, emit.new_name(n.op), captured))
        nodes.append(own)
    if results is not None:
        for v, t in zip(model.graph.output, inner.outputs, strict=True):
            found = outer(t)
            assert found is not None
            results[v.name] = found
    return nodes
