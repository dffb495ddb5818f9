"""Integers that quantised operators read as they come, as real numbers: x is explained as (x - zero) scale.

They are what the user hands in, or rows of a quantised table that token ids choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.graph.ir import Array
from omenn_onnx.graph.walk import graphs_of

_Places = tuple[tuple[int, int | None, int], ...]
_ONE: _Places = ((0, 1, 2),)
_TWO: _Places = ((0, 1, 2), (3, 4, 5))
_PLAIN: _Places = ((0, None, 2), (1, None, 3))
_PLACES: dict[str, _Places] = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul"), _TWO),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean"), _ONE),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), _ONE),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), _PLAIN),
    "MatMulIntegerToFloat": ((0, 2, 4), (1, 3, 5)),
    "QAttention": ((0, 3, 6),),
    "QLinearWhere": ((1, 2, 3), (4, 5, 6)),
}
"""Where integers stand, their scale (None: 1) and their zero point."""
_MOVES = frozenset(
    "DepthToSpace Flatten Identity MaxPool Pad Reshape Slice SpaceToDepth Squeeze Transpose Unsqueeze".split()
)
_IDS = frozenset("Cast Flatten Identity Reshape Squeeze Unsqueeze".split())
_TYPES = {
    c: helper.tensor_dtype_to_np_dtype(c)
    for c in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
}


def open_integers(proto: ModelProto) -> None:
    """Put DequantizeLinear and QuantizeLinear, which give the same integers again, behind each integer input of the
    main graph, and each row of a stored table, that a quantised operator reads, directly or moved.

    Requires: functions are inlined, opset 13 or newer. Ensures: outputs keep their names and values; the real numbers
    are ``NAME/real``. Where the scale is not stored in the file, or there are several, nothing is put.
    """
    graph = proto.graph
    stored: dict[str, Any] = {n.output[0]: a.t for n in graph.node for a in n.attribute if a.name == "value"}
    stored |= {i.name: i for i in graph.initializer}
    sources = _sources(proto, stored)
    if not sources:
        return
    taken = {name for g in graphs_of(proto) for n in g.node for name in (n.name, *n.input, *n.output)} | set(stored)
    behind: dict[str, list[NodeProto]] = {}
    for name, kind in sources.items():
        numbers = _quantisation(graph.node, name, stored)
        if numbers is None:
            continue
        new = [_free(f"{name}/{what}", taken) for what in ("scale", "zero_point", "real", "integer")]
        for given, value, dtype in zip(new, numbers, (np.dtype(np.float32), kind), strict=False):
            graph.initializer.append(numpy_helper.from_array(value.astype(dtype).reshape(()), given))
        for node in graph.node:
            node.input[:] = [new[3] if i == name else i for i in node.input]
        behind[name] = [
            helper.make_node("DequantizeLinear", [name, *new[:2]], [new[2]], name=new[2]),
            helper.make_node("QuantizeLinear", [new[2], *new[:2]], [new[3]], name=new[3]),
        ]
    nodes = [n for i in graph.input for n in behind.get(i.name, [])]
    for node in graph.node:
        nodes.append(NodeProto.FromString(node.SerializeToString()))
        nodes += [n for o in node.output for n in behind.get(o, [])]
    del graph.node[:]
    graph.node.extend(nodes)


def _sources(proto: ModelProto, stored: dict[str, Any]) -> dict[str, np.dtype[Any]]:
    """Integers of 8 or 16 bits that are inputs, or that inputs choose from a stored table; and their types."""
    given = {i.name: i.type.tensor_type.elem_type for i in proto.graph.input if i.name not in stored}
    found = {name: _TYPES[code] for name, code in given.items() if code in _TYPES}
    ids = {name for name, code in given.items() if code in (TensorProto.INT32, TensorProto.INT64)}
    for node in proto.graph.node:
        if node.op_type in _IDS and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in stored:
            code = stored[node.input[0]].data_type
            found |= {node.output[0]: _TYPES[code]} if code in _TYPES else {}
    return found


def _quantisation(nodes: Any, x: str, stored: dict[str, Any]) -> tuple[Array, Array] | None:
    """The scale and the zero point that the first quantised operator reads ``x`` with."""
    scale, zero = next(_readings(nodes, x), (None, None))
    if scale is None or zero is None or any(p and p not in stored for p in (scale, zero)):
        return None
    numbers = [
        numpy_helper.to_array(stored[p]) if p else np.asarray(d) for p, d in zip((scale, zero), (1.0, 0), strict=True)
    ]
    return (numbers[0], numbers[1]) if all(n.size == 1 for n in numbers) else None


def _readings(nodes: Any, x: str) -> Iterator[tuple[str, str]]:
    """Scale and zero point ("" where there is none) of each quantised operator that reads ``x``, moved or not."""
    moved = {x}
    for node in nodes:
        inputs = list(node.input)
        if node.op_type in _MOVES and node.domain == "" and inputs[0] in moved:
            moved.add(node.output[0])
        places = _PLACES.get(node.op_type, ())
        if node.op_type == "QLinearConcat":
            places = tuple((k, k + 1, k + 2) for k in range(2, len(inputs), 3))
        for k, scale, zero in places:
            if k < len(inputs) and inputs[k] in moved:
                yield "" if scale is None else inputs[scale], inputs[zero] if zero < len(inputs) else ""


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
