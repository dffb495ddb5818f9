"""Putting emitted nodes into the original file.

The original model is never taken apart: its protobuf keeps its nodes, metadata and weights byte for byte, but that a
node may give one more of its optional outputs (a norm's 1/std), which its operator computes anyhow. The emitted
nodes are built as an onnx_graphsurgeon graph of their own, whose inputs are tensors of the original, and appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from omenn_onnx.graph.flatten import rename_captured
from omenn_onnx.graph.ir import Node, Tensor
from omenn_onnx.graph.read import captured_by


def live_nodes(nodes: Sequence[Node], wanted: Iterable[Tensor]) -> list[Node]:
    """The emitted ``nodes`` on which ``wanted`` depend, in their order."""
    needed = {id(t) for t in wanted}
    kept: list[Node] = []
    for node in reversed(nodes):
        if any(id(o) in needed for o in node.outputs):
            kept.append(node)
            needed.update(id(i) for i in (*node.inputs, *node.captured) if i is not None)
    return kept[::-1]


def _ask_further(proto: onnx.ModelProto, nodes: Sequence[Node]) -> None:
    """Declare the optional outputs of the model's nodes that emitted ``nodes`` read (Emitter.further_output)."""
    own = {n.output[0]: n for n in proto.graph.node if n.output}
    emitted = {id(o) for n in nodes for o in n.outputs}
    for t in (t for n in nodes for t in n.inputs if t is not None and id(t) not in emitted):
        if t.producer is None:
            continue
        maker = own.get(t.producer.outputs[0].name)
        place = next((i for i, o in enumerate(t.producer.outputs) if o is t), 0)
        if maker is not None and t.name not in maker.output:
            maker.output.extend([""] * (place + 1 - len(maker.output)))
            maker.output[place] = t.name


def append_nodes(
    proto: onnx.ModelProto,
    nodes: Sequence[Node],
    inputs: Sequence[Tensor],
    outputs: Sequence[tuple[Tensor, str]],
) -> None:
    """Append emitted ``nodes`` to ``proto`` in place, with new graph ``inputs`` and ``outputs`` (tensor, name)."""
    variables: dict[int, gs.Tensor] = {}

    def variable(t: Tensor | None) -> gs.Tensor:
        if t is None:
            return gs.Variable.empty()
        if id(t) not in variables:
            if t.producer is None and t.load is not None and t.name not in original:
                variables[id(t)] = gs.Constant(t.name, t.value)
            else:
                variables[id(t)] = gs.Variable(t.name)
        return variables[id(t)]

    _ask_further(proto, nodes)
    original = {i.name for i in proto.graph.initializer} | {v.name for v in proto.graph.input}
    original.update(o for n in proto.graph.node for o in n.output)
    original.update(s.values.name for s in proto.graph.sparse_initializer)
    emitted = {id(o) for n in nodes for o in n.outputs}
    copies = []
    for t, name in outputs:  # an emitted tensor takes the public name; an original one, or a second name, is copied
        if id(t) in emitted and id(t) not in variables:
            variables[id(t)] = gs.Variable(name)
        elif t.name != name:  # (a new input may be an output as it is)
            copies.append((t, name))
    extension = gs.Graph(opset=next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")))
    held: dict[str, Tensor] = {}
    for node in nodes:
        attrs = node.attrs
        if node.captured:
            now = [variable(t).name for t in node.captured]
            held.update(zip(now, node.captured, strict=True))
            attrs = reading(node, now)
        inner = [variable(i) for i in node.inputs], [variable(o) for o in node.outputs]
        extension.nodes.append(gs.Node(node.op, node.name, attrs, *inner))
    for t, name in copies:
        extension.nodes.append(gs.Node("Identity", f"{name}/output", {}, [variable(t)], [gs.Variable(name)]))
    exported = gs.export_onnx(extension, do_type_check=False)
    proto.graph.node.extend(exported.graph.node)
    proto.graph.initializer.extend(exported.graph.initializer)
    written = {i.name for i in exported.graph.initializer}
    for name, t in held.items():  # constants that only subgraphs read
        if isinstance(variables[id(t)], gs.Constant) and name not in written:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(t.value), name))
    for t in inputs:
        proto.graph.input.append(_value_info(t, t.name))
    for t, name in outputs:
        proto.graph.output.append(_value_info(t, name))


def reading(node: Node, names: Sequence[str]) -> dict[str, Any]:
    """The attributes of a node whose subgraphs read ``node.captured`` by these names."""
    graphs = {k: v for k, v in node.attrs.items() if isinstance(v, onnx.GraphProto)}
    now = dict(zip(captured_by(node), names, strict=True))
    copies = {k: onnx.GraphProto.FromString(v.SerializeToString()) for k, v in graphs.items()}
    for graph in copies.values():
        rename_captured(graph, now)
    return {**node.attrs, **copies}


def _value_info(t: Tensor, name: str) -> onnx.ValueInfoProto:
    dtype = np.dtype(np.float32) if t.dtype is None else t.dtype
    shape = None if t.shape is None else [None if isinstance(d, str) and "#" in d else d for d in t.shape]
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), shape)
