"""From a ModelProto to the graph that the calculus works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from omenn_onnx.graph.facts import collect_facts
from omenn_onnx.graph.ir import Array, Graph, Node, Tensor
from omenn_onnx.graph.walk import captured_names


def read_graph(proto: onnx.ModelProto, folder: str = "") -> Graph:
    """The main graph of ``proto`` with the facts of every tensor. ``folder`` holds its external data, if any."""
    facts = collect_facts(proto)
    tensors: dict[str, Tensor] = {}
    initializers = {i.name: i for i in proto.graph.initializer}
    sparse = {s.values.name: s for s in proto.graph.sparse_initializer}
    overridable = {v.name for v in proto.graph.input}

    def tensor(name: str) -> Tensor:
        if name not in tensors:
            code = facts.types.get(name)
            t = Tensor(
                name, None if code is None else onnx.helper.tensor_dtype_to_np_dtype(code), facts.shapes.get(name)
            )
            if name in initializers and name not in overridable:
                t.const, t.load = True, _loader(initializers[name], folder)
            elif name in sparse:
                t.const, t.load = True, _dense(sparse[name], folder)
            elif name in facts.values:
                t.const, t.load = True, _giver(facts.values[name])
            tensors[name] = t
        return tensors[name]

    nodes = []
    for n in proto.graph.node:
        node = Node(
            n.op_type,
            "" if n.domain == "ai.onnx" else n.domain,
            [tensor(i) if i else None for i in n.input],
            [tensor(o) if o else Tensor("") for o in n.output],
            {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute},
            n.name,
            [tensor(c) for c in captured_names(n)],
        )
        for output in node.outputs:
            output.producer = node
        if all(i is None or i.const for i in (*node.inputs, *node.captured)):
            for output in node.outputs:
                output.const = True
            if node.op == "Constant" and "value" in node.attrs and node.outputs[0].load is None:
                node.outputs[0].load = _loader(node.attrs["value"], folder)
        if node.op == "CastLike":
            _cast_constant(node)
        nodes.append(node)
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    return Graph(
        nodes,
        tensors,
        [tensor(v.name) for v in proto.graph.input if v.name not in initializers],
        [tensor(v.name) for v in proto.graph.output],
        opsets.get("", 1),
        opsets,
    )


def captured_by(node: Node) -> list[str]:
    """The names by which the subgraphs of ``node`` read its ``captured`` tensors."""
    proto = onnx.NodeProto(op_type=node.op)
    graphs = ((k, v) for k, v in node.attrs.items() if isinstance(v, onnx.GraphProto))
    proto.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in graphs)  # in their order, as they were read
    return captured_names(proto)


def _loader(proto: onnx.TensorProto, folder: str) -> Callable[[], Array]:
    def load() -> Array:
        value: Any = onnx.numpy_helper.to_array(proto, folder)
        return np.asarray(value)

    return load


def _dense(proto: onnx.SparseTensorProto, folder: str) -> Callable[[], Array]:
    """A sparse tensor written out: its indices are positions, or places of the flattened tensor."""

    def load() -> Array:
        values = np.asarray(onnx.numpy_helper.to_array(proto.values, folder))
        indices = np.asarray(onnx.numpy_helper.to_array(proto.indices, folder))
        dense = np.zeros(tuple(proto.dims), values.dtype)
        places = np.ravel_multi_index(tuple(indices.T), dense.shape) if indices.ndim == 2 else indices
        dense.reshape(-1)[places] = values
        return dense

    return load


def _cast_constant(node: Node) -> None:
    """CastLike of a constant is one: of the second input only the type matters."""
    source, y = node.inputs[0], node.outputs[0]
    if source is None or not source.const:
        return
    y.const = True
    if y.load is None and y.dtype is not None and source.value is not None:
        y.load = _giver(source.value.astype(y.dtype))


def _giver(value: Array) -> Callable[[], Array]:
    return lambda: value
