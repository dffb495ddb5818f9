"""EmbedLayerNormalization and its quantised form written out: the embedded words, which are explained, are a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from omenn_onnx.graph.walk import graphs_of

_OPENED = ("EmbedLayerNormalization", "QEmbedLayerNormalization")


def open_embeddings(proto: ModelProto) -> None:
    """Replace each (Q)EmbedLayerNormalization of the main graph by (DequantizeLinear,) Gather, Add and
    LayerNormalization.

    Requires: functions are inlined, opset 18 or newer. Ensures: outputs keep their names; the rows of the word table
    are an output of Gather, ``NAME/word_embedding`` behind the name of the node's output.
    """
    if all(n.op_type not in _OPENED for n in proto.graph.node):
        return
    taken = {name for g in graphs_of(proto) for n in g.node for name in (n.name, *n.input, *n.output)}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        wanted = node.op_type in _OPENED and node.domain == "com.microsoft"
        nodes += _Opened(node, taken).nodes if wanted else [NodeProto.FromString(node.SerializeToString())]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


class _Opened:
    """The nodes that stand for one EmbedLayerNormalization."""

    def __init__(self, node: NodeProto, taken: set[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.prefix = node.output[0] or node.name
        self.taken = taken
        ids, segments, words, positions, types, gamma, beta, mask, places = [*node.input, *[""] * 9][:9]
        if node.op_type == "QEmbedLayerNormalization":
            scales, zeros, places = node.input[8:13], [*node.input[13:18], *[""] * 5], ""
            quantised = zip((words, positions, types, gamma, beta), scales, zeros, strict=False)
            words, positions, types, gamma, beta = (
                self.add("DequantizeLinear", *operands) if operands[0] else "" for operands in quantised
            )
        outputs = [*node.output, "", "", ""][:3]
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-12)
        total = self.add("Gather", words, ids, what="word_embedding", axis=0)
        if places:
            row = self.add("Gather", positions, places, axis=0)
        else:
            length = self.add("Shape", ids, start=1, end=2)
            row = self.add("Slice", positions, self.number([0]), length, self.number([0]))
        parts = [row, *([self.add("Gather", types, segments, axis=0)] if types and segments else [])]
        for k, part in enumerate(parts):
            last = k == len(parts) - 1
            total = self.add("Add", total, part, out=outputs[2] if last else "")
        self.add("LayerNormalization", total, gamma, beta, out=outputs[0], epsilon=epsilon, axis=-1)
        if outputs[1] and mask:
            real = self.add("Equal", mask, self.number(1, np.int32))
            self.add("ReduceSum", self.add("Cast", real, to=6), self.number([1]), out=outputs[1], keepdims=0)
        elif outputs[1]:
            rows = self.add("Shape", ids, start=0, end=1)
            self.add("Expand", self.number(0, np.int32), rows, out=outputs[1])

    def add(self, op: str, *inputs: str, out: str = "", what: str = "", **attrs: Any) -> str:
        name = out or self.name(what or op)
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=self.name(f"{what or op}.node"), **attrs))
        return name

    def number(self, value: Any, dtype: Any = np.int64) -> str:
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def name(self, what: str) -> str:
        """A name that nothing has yet."""
        name, k = f"{self.prefix}/{what}", 1
        while name in self.taken:
            k += 1
            name = f"{self.prefix}/{what}_{k}"
        self.taken.add(name)
        return name
