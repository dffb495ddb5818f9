"""Parts of a model as models of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from omenn_onnx.graph.walk import captured_names

_RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


def reads(node: NodeProto) -> list[str]:
    """The tensors that a node and its subgraphs take from outside."""
    return [name for name in (*node.input, *captured_names(node)) if name]


def depending(proto: ModelProto, roots: Iterable[str], random: bool = False) -> set[str]:
    """The tensors of the main graph that depend on one of ``roots``; with ``random`` on what is drawn, too."""
    found = set(roots)
    for node in proto.graph.node:
        if (random and node.op_type in _RANDOM) or any(name in found for name in reads(node)):
            found.update(o for o in node.output if o)
    return found


def extract(
    proto: ModelProto,
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    folder: str = "",
) -> ModelProto:
    """The model that computes ``outputs`` from ``inputs``: the nodes and weights between them, weights of external
    files (which lie in ``folder``) inside. Any tensor of ``proto`` may be an input or an output, but none both."""
    given = {v.name for v in inputs}
    wanted = {v.name for v in outputs}
    nodes: list[NodeProto] = []
    for node in reversed(proto.graph.node):
        if any(o in wanted for o in node.output):
            nodes.append(node)
            wanted.update(name for name in reads(node) if name not in given)
    part = ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    graph = part.graph
    graph.name = proto.graph.name
    graph.node.extend(nodes[::-1])
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    graph.initializer.extend(i for i in proto.graph.initializer if i.name in wanted)
    graph.sparse_initializer.extend(s for s in proto.graph.sparse_initializer if s.values.name in wanted)
    for tensor in graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return part
