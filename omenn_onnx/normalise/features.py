"""Integer features that an operator of ai.onnx.ml reads: cast to the floats that it computes with, which are what is
explained."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper

from omenn_onnx.graph.walk import graphs_of

_READERS = frozenset(
    "FeatureVectorizer LinearClassifier LinearRegressor Normalizer SVMClassifier SVMRegressor Scaler".split()
)
"""Operators that take any number and compute in float."""
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def cast_features(proto: ModelProto) -> None:
    """Put a Cast to float behind each integer input of the main graph that such an operator reads.

    Requires: functions are inlined. Ensures: outputs keep their names and values; the floats are ``NAME/real``.
    """
    graph = proto.graph
    integers = {i.name for i in graph.input if i.type.tensor_type.elem_type in _INTEGERS}
    read = {i for n in graph.node if n.domain == "ai.onnx.ml" and n.op_type in _READERS for i in n.input} & integers
    if not read:
        return
    taken = {name for g in graphs_of(proto) for n in g.node for name in (n.name, *n.input, *n.output)}
    casts: dict[str, NodeProto] = {}
    for name in sorted(read):
        real = f"{name}/real"
        while real in taken:
            real += "_"
        casts[name] = helper.make_node("Cast", [name], [real], name=real, to=TensorProto.FLOAT)
    nodes = list(casts.values())
    for node in graph.node:
        copy = NodeProto.FromString(node.SerializeToString())
        if copy.domain == "ai.onnx.ml" and copy.op_type in _READERS:
            copy.input[:] = [casts[i].output[0] if i in casts else i for i in copy.input]
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
