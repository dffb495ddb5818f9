"""How often a Loop runs, where that does not depend on what the model is given.

Exporters write a counter as a state, and a condition that compares it with a length. Only the nodes and states behind
the condition matter; where they start from constants, they are run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from omenn_onnx.graph.ir import Array
from omenn_onnx.graph.walk import captured_names

_MOST = 1 << 16
"""Loops of more steps are not counted."""
_COUNTING = frozenset(
    "Add And Cast Concat Constant Div Equal Gather Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul "
    "Neg Not Or Pow ReduceMax ReduceMin ReduceProd ReduceSum Reshape Slice Squeeze Sub Unsqueeze Where Xor".split()
)
"""What a condition is made of: operators that give the same at every run."""
_SMALL = 4096


def deciding(body: GraphProto) -> tuple[GraphProto, list[int]]:
    """A copy of a Loop's body that decides whether it goes on and collects nothing but the iteration numbers; and which
    of the states that takes."""
    inputs, outputs = [v.name for v in body.input], [v.name for v in body.output]
    makers = {o: n for n in body.node for o in n.output}
    seen: set[str] = set()
    pending = [outputs[0]]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in inputs[2:]:
            pending.append(outputs[inputs.index(name) - 1])
        elif name in makers:
            pending += [*makers[name].input, *captured_names(makers[name])]
    kept = [k for k, name in enumerate(inputs[2:]) if name in seen]
    taken = {*inputs, *outputs, *makers, *(i for n in body.node for i in n.input), *(i.name for i in body.initializer)}
    number = "number"
    while number in taken:
        number += "_"
    copy = GraphProto(name=body.name)
    copy.node.extend(n for n in body.node if any(o in seen for o in n.output))
    copy.node.append(helper.make_node("Identity", inputs[:1], [number], name=number))
    copy.initializer.extend(i for i in body.initializer if i.name in seen)
    copy.input.extend([*body.input[:2], *(body.input[2 + k] for k in kept)])
    copy.output.extend([body.output[0], *(body.output[1 + k] for k in kept)])
    copy.output.append(helper.make_tensor_value_info(number, TensorProto.INT64, []))
    return copy, kept


def steps_of(
    body: GraphProto,
    limit: Array | None,
    condition: Array | None,
    initial: Sequence[Array | None],
    captured: Mapping[str, Array],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> int | None:
    """How often a Loop runs that is given ``limit``, ``condition`` and the states ``initial`` (None: not known, or for
    the first two, not there); None if that cannot be told."""
    copy, kept = deciding(body)
    values = {name: captured.get(name) for name in captured_names(NodeProto(attribute=[_attribute(copy)]))}
    if any(v is None for v in [*values.values(), *(initial[k] for k in kept)]):
        return None
    if any(n.domain or n.op_type not in _COUNTING for n in copy.node):
        return None
    if any(math.prod(i.dims) > _SMALL for i in copy.initializer):
        return None
    allowed = _MOST + 1 if limit is None else max(0, int(limit.reshape(())))
    most = min(allowed, _MOST)
    names = [f"given {k}" for k in range(2 + len(kept))]
    start = np.asarray(True) if condition is None else condition.reshape(())
    if most == 0 or not start:
        return 0
    given = [np.asarray(most, np.int64), start, *(initial[k] for k in kept)]
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, given, strict=True)]
    stored += [numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()]
    results = [f"result {k}" for k in range(len(kept) + 1)]
    node = helper.make_node("Loop", names, results, body=copy)
    output = helper.make_tensor_value_info(results[-1], TensorProto.INT64, [None])
    graph = helper.make_graph([node], "count", [], [output], stored)
    (numbers,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(opsets))).run(None, {})
    return None if len(numbers) == most < allowed else len(numbers)


def _attribute(body: GraphProto) -> onnx.AttributeProto:
    return helper.make_attribute("body", body)
