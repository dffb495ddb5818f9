"""Loop and Scan, unrolled: every pass is a copy of the body with names of its own."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import helper

_fresh = itertools.count()


def renamed(graph: onnx.GraphProto, inputs: list[str], tag: str) -> tuple[list[onnx.NodeProto], list[str]]:
    """The body's nodes and outputs, with ``inputs`` for its inputs and fresh names for all that it makes."""
    table = dict(zip((i.name for i in graph.input), inputs, strict=True))
    prefix = f"__{tag}_{next(_fresh)}_"
    nodes = []
    for init in graph.initializer:
        table[init.name] = prefix + init.name
        nodes.append(helper.make_node("Constant", [], [prefix + init.name], value=init))
    for node in graph.node:
        for output in node.output:
            table[output] = prefix + output if output else ""
    for node in graph.node:
        nodes.append(renamed_node(node, table))
    return nodes, [table.get(o.name, o.name) for o in graph.output]


def renamed_node(node: onnx.NodeProto, table: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    for names in (copy.input, copy.output):
        for i, name in enumerate(names):
            names[i] = table.get(name, name)
    for attribute in copy.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            own = {i.name for i in [*graph.input, *graph.initializer]} | {o for n in graph.node for o in n.output}
            outer = {k: v for k, v in table.items() if k not in own}
            for i, inner in enumerate(list(graph.node)):
                graph.node[i].CopyFrom(renamed_node(inner, outer))
            for output in graph.output:
                output.name = outer.get(output.name, output.name)
    return copy


def scan(proto: onnx.NodeProto, attrs: dict, shapes: list[tuple[int, ...]], opset: int) -> list[onnx.NodeProto]:
    """The nodes of a Scan (opset 9 or later)."""
    tag = f"{proto.name or 'scan'}"
    count = attrs["num_scan_inputs"]
    states, sequences = list(proto.input[:-count]), list(proto.input[-count:])
    n_out = len(proto.output) - len(states)
    in_axes = attrs.get("scan_input_axes") or [0] * count
    in_way = attrs.get("scan_input_directions") or [0] * count
    out_axes = attrs.get("scan_output_axes") or [0] * n_out
    out_way = attrs.get("scan_output_directions") or [0] * n_out
    length = shapes[-1][in_axes[-1]]
    nodes: list[onnx.NodeProto] = []
    collected: list[list[str]] = [[] for _ in range(n_out)]
    for t in range(length):
        given = []
        for name, axis, way in zip(sequences, in_axes, in_way, strict=True):
            index = f"__{tag}_{next(_fresh)}"
            place = length - 1 - t if way else t
            nodes.append(constant(index + "i", np.array(place, np.int64)))
            nodes.append(helper.make_node("Gather", [name, index + "i"], [index], axis=axis))
            given.append(index)
        body, outputs = renamed(attrs["body"], [*states, *given], tag)
        nodes += body
        states = outputs[: len(states)]
        for k, name in enumerate(outputs[len(states) :]):
            collected[k].append(name)
    for name, output in zip(states, proto.output, strict=False):
        if output:
            nodes.append(helper.make_node("Identity", [name], [output]))
    for parts, output, axis, way in zip(collected, proto.output[len(states) :], out_axes, out_way, strict=True):
        if output:
            nodes += stacked(parts[::-1] if way else parts, output, axis, tag)
    return nodes


def loop(proto: onnx.NodeProto, attrs: dict, trips: int) -> list[onnx.NodeProto]:
    """The nodes of a Loop whose body keeps its condition true for all ``trips``."""
    tag = f"{proto.name or 'loop'}"
    states = list(proto.input[2:])
    n_out = len(proto.output) - len(states)
    nodes: list[onnx.NodeProto] = []
    collected: list[list[str]] = [[] for _ in range(n_out)]
    for t in range(trips):
        index = f"__{tag}_{next(_fresh)}"
        nodes += [constant(index + "i", np.array(t, np.int64)), constant(index + "c", np.array(True))]
        body, outputs = renamed(attrs["body"], [index + "i", index + "c", *states], tag)
        nodes += body
        states = outputs[1 : 1 + len(states)]
        for k, name in enumerate(outputs[1 + len(states) :]):
            collected[k].append(name)
    for name, output in zip(states, proto.output, strict=False):
        if output:
            nodes.append(helper.make_node("Identity", [name], [output]))
    for parts, output in zip(collected, proto.output[len(states) :], strict=True):
        if output:
            nodes += stacked(parts, output, 0, tag)
    return nodes


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))


def stacked(parts: list[str], output: str, axis: int, tag: str) -> list[onnx.NodeProto]:
    """The parts side by side on a new axis."""
    base = f"__{tag}_{next(_fresh)}"
    nodes = [constant(base + "a", np.array([axis], np.int64))]
    nodes += [helper.make_node("Unsqueeze", [p, base + "a"], [f"{base}_{k}"]) for k, p in enumerate(parts)]
    return [*nodes, helper.make_node("Concat", [f"{base}_{k}" for k in range(len(parts))], [output], axis=axis)]
