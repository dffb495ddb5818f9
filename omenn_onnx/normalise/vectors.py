"""Matrices times vectors behind a Transpose, as matrices times one column.

ONNX Runtime (seen in 1.32) moves a Transpose towards a MatMul and fuses both; where the second operand is a vector the
fused kernel gives wrong numbers. What the compiler appends can make it do so where it did not in the model by itself.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, helper, numpy_helper

from omenn_onnx.graph.walk import graphs_of


def raise_vectors(proto: ModelProto) -> None:
    """Rewrite MatMul(A, b), with b known to be a vector and a Transpose somewhere in front of A, as
    Squeeze(MatMul(A, Unsqueeze(b))) in place.

    Requires: functions are inlined, opset 13 or newer. Ensures: outputs keep their names and, within rounding, values.
    """
    graphs = list(graphs_of(proto))
    if all(n.op_type != "Transpose" for g in graphs for n in g.node):
        return
    taken = {name for g in graphs for n in g.node for name in (n.name, *n.input, *n.output)}
    taken |= {i.name for g in graphs for i in g.initializer}
    for graph in graphs:
        _raise_in(graph, taken)


def _raise_in(graph: GraphProto, taken: set[str]) -> None:
    vectors = {i.name for i in graph.initializer if len(i.dims) == 1}
    for v in (*graph.input, *graph.value_info):
        t = v.type.tensor_type
        if t.HasField("shape") and len(t.shape.dim) == 1:
            vectors.add(v.name)
    behind: set[str] = set()
    for k in range(len(graph.node) - 1, -1, -1):  # (places stay right: nodes are put in from the end)
        node = graph.node[k]
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or node.input[1] not in vectors:
            continue
        behind = behind or _behind_transposes(graph)
        if node.input[0] not in behind:
            continue
        y = node.output[0]
        axis, column, product = (_new(f"{y}/{part}", taken) for part in ("axis", "column", "product"))
        last = helper.make_node("Constant", [], [axis], name=axis, value=numpy_helper.from_array(np.array([-1])))
        first = helper.make_node("Unsqueeze", [node.input[1], axis], [column], name=column)
        node.input[1] = column
        node.output[0] = product
        end = helper.make_node("Squeeze", [product, axis], [y], name=_new(f"{y}/squeezed", taken))
        graph.node.insert(k + 1, end)
        graph.node.insert(k, first)
        graph.node.insert(k, last)


def _behind_transposes(graph: GraphProto) -> set[str]:
    """Every tensor that a Transpose comes before."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Transpose" or any(i in found for i in node.input):
            found.update(o for o in node.output if o)
    return found


def _new(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
