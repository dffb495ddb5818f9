"""Files that ONNX Runtime saved at its highest optimisation level: from its blocked channels back to ONNX's layout.

On the CPU that level keeps images as [batch, channels / b, height, width, b] (com.microsoft.nchwc), b being the
processor's own, and pads channels and filters to a multiple of b. Here filters are put back in order and lose their
padding. In the new file ONNX Runtime chooses its layout again.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.errors import CompileError
from omenn_onnx.graph.facts import collect_facts
from omenn_onnx.graph.ir import Array, Shape
from omenn_onnx.graph.skeleton import skeleton

_DOMAIN = "com.microsoft.nchwc"
_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_ADVICE = "save the model with optimisation level extended, or compile the model that was optimised"


def unblock(proto: ModelProto, folder: str = "") -> None:
    """Rewrite the nodes of com.microsoft.nchwc in place as plain ONNX.

    Requires: opset 18 or newer. Ensures: no node of that domain is left; tensors outside the blocked region keep their
    names, shapes and values. Raises CompileError where a filter is not stored or the blocks' size cannot be told.
    """
    if any(n.domain == _DOMAIN for n in proto.graph.node):
        _Unblocking(proto, folder).run()


class _Unblocking:
    """One model. ``channels`` is the real number of channels of each blocked tensor."""

    def __init__(self, proto: ModelProto, folder: str) -> None:
        self.proto = proto
        self.graph = proto.graph
        self.weights = {i.name: i for i in proto.graph.initializer}
        self.folder = folder
        self.nodes: list[NodeProto] = []
        self.same: dict[str, str] = {}  # tensors with the same channels, as trees
        self.channels: dict[str, int] = {}  # by the root of their tree
        self.blocked: set[str] = set()

    def run(self) -> None:
        self._find_blocked()
        self.block = self._block_size()
        self._count_channels()
        for node in self.graph.node:
            if node.domain == _DOMAIN:
                self._rewrite(node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
            else:
                self.nodes.append(NodeProto.FromString(node.SerializeToString()))
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {i for n in self.nodes for i in n.input} | {o.name for o in self.graph.output}
        for k in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[k].name not in used:
                del self.graph.initializer[k]
        for k in reversed(range(len(self.graph.value_info))):
            if self.graph.value_info[k].name in self.blocked:
                del self.graph.value_info[k]

    # What is blocked, and how many channels there are

    def _find_blocked(self) -> None:
        """Between a ReorderInput, or a Conv that reads plain channels, and the ReorderOutputs everything is blocked."""
        for node in self.graph.node:
            inner = node.domain == _DOMAIN and node.op_type != "ReorderOutput"
            if inner or (node.domain != _DOMAIN and any(i in self.blocked for i in node.input)):
                self.blocked.update(o for o in node.output if o)
            if node.domain != _DOMAIN and node.op_type == "Concat":
                continue
            tied = [i for i in node.input if i in self.blocked]
            if node.domain == _DOMAIN and node.op_type == "Conv" and not self._depthwise(node):
                tied = [i for i in node.input[3:] if i in self.blocked]
            for name in tied if inner or node.domain != _DOMAIN else []:
                self.same[self._root(name)] = self._root(node.output[0])

    def _root(self, name: str) -> str:
        while self.same.get(name, name) != name:
            name = self.same[name]
        return name

    def _depthwise(self, node: NodeProto) -> bool:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        return group > 1 and self._weight(node, 1).dims[1] == 1

    def _count_channels(self) -> None:
        """What a ReorderOutput or the shape in front of a ReorderInput says; else the filters that are not zero."""
        entries: list[tuple[NodeProto, int]] = []
        for node in self.graph.node:
            attrs = {a.name: a.i for a in node.attribute}
            if node.domain == _DOMAIN and node.op_type == "ReorderOutput":
                self.channels[self._root(node.input[0])] = attrs["channels"]
            elif node.domain == _DOMAIN and node.op_type == "ReorderInput":
                entries.append((node, 3 if attrs.get("channels_last") else 1))
        shapes = self._outer_shapes() if entries else {}
        for node, axis in entries:
            shape = shapes.get(node.input[0], ())
            count = shape[axis] if len(shape) == 4 else None
            if not isinstance(count, int):
                raise CompileError(f"node {node.name!r}: the channels of {node.input[0]!r} are not known: {_ADVICE}")
            self.channels[self._root(node.output[0])] = count
        found: dict[str, int] = {}
        for node in self.graph.node:
            if node.op_type == "Concat" and node.domain != _DOMAIN and node.output[0] in self.blocked:
                parts = [self.channels.get(self._root(i), found.get(self._root(i), 0)) for i in node.input]
                found[self._root(node.output[0])] = sum(parts)
            if node.domain == _DOMAIN and node.op_type == "Conv":
                root = self._root(node.output[0])
                found[root] = max(found.get(root, 0), self._filters(node))
        self.channels = found | self.channels

    def _outer_shapes(self) -> Mapping[str, Shape]:
        """Shapes outside the blocked regions, as far as the channels that come out of them tell."""
        bare = skeleton(self.proto)
        kept = [n for n in bare.graph.node if n.domain != _DOMAIN and not self.blocked.intersection(n.output)]
        for node in bare.graph.node:
            if node.op_type == "ReorderOutput" and node.domain == _DOMAIN:
                attrs = {a.name: a.i for a in node.attribute}
                dims: list[int | None] = [None] * 4
                dims[3 if attrs.get("channels_last") else 1] = attrs["channels"]
                bare.graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, dims))
        nodes = [NodeProto.FromString(n.SerializeToString()) for n in kept]
        del bare.graph.node[:], bare.graph.value_info[:]
        bare.graph.node.extend(nodes)
        return collect_facts(bare).shapes

    def _filters(self, node: NodeProto) -> int:
        """The number of filters up to the last that is not all zero; all but the last block's count anyway."""
        w = self._plain(node)
        rows = np.abs(w).reshape(len(w), -1).max(axis=1)
        if len(node.input) > 2 and node.input[2]:
            rows = rows + np.abs(self._value(node, 2)[: len(w)])
        kept = int(np.max(np.nonzero(rows)[0], initial=0)) + 1
        return max(kept, len(w) - self.block + 1)

    def _block_size(self) -> int:
        """8 if some number of channels is no multiple of 16, else what ONNX Runtime uses on this machine."""
        counts = [self._weight(n, 1).dims[0] for n in self.graph.node if n.domain == _DOMAIN and n.op_type == "Conv"]
        if any(c % 16 for c in counts):
            return 8
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError:
            raise CompileError(f"the model's blocked layout needs onnxruntime to be read: {_ADVICE}") from None
        return _block_of(runtime)

    # Nodes

    def _rewrite(self, node: NodeProto, attrs: dict[str, Any]) -> None:
        x, y = node.input[0], node.output[0]
        if node.op_type in ("ReorderInput", "ReorderOutput"):
            perm = [0, 3, 1, 2] if node.op_type == "ReorderInput" else [0, 2, 3, 1]
            if attrs.get("channels_last"):
                self._add("Transpose", [x], y, perm=perm)
            else:
                self._add("Identity", [x], y)
        elif node.op_type == "Conv":
            self._conv(node, attrs)
        elif node.op_type in _POOLS:
            self._add(node.op_type, [x], y, **attrs)
        elif node.op_type == "Upsample":
            scales = self._store(f"{y}/scales", np.asarray(attrs["scales"], np.float32))
            mode = attrs.get("mode", b"nearest").decode()
            where = "asymmetric" if mode == "nearest" else attrs["coordinate_transformation_mode"].decode()
            rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
            self._add("Resize", [x, "", scales], y, mode=mode, coordinate_transformation_mode=where, **rounding)
        else:
            raise CompileError(f"node {node.name!r}: {_DOMAIN}.{node.op_type} is not known here: {_ADVICE}")

    def _conv(self, node: NodeProto, attrs: dict[str, Any]) -> None:
        """activation(Conv(x) + sum), with the filters in order and cut to the real channels."""
        x, y = node.input[0], node.output[0]
        count = self.channels[self._root(y)]
        w = self._plain(node)[:count]
        if self._depthwise(node):
            attrs["group"] = count
        elif attrs.get("group", 1) == 1 and x in self.blocked:
            w = w[:, : self.channels[self._root(x)]]
        inputs = [x, self._store(f"{y}/filters", w)]
        if len(node.input) > 2 and node.input[2]:
            inputs.append(self._store(f"{y}/bias", self._value(node, 2)[:count]))
        name, params = attrs.pop("activation", b"").decode(), attrs.pop("activation_params", [])
        summand = node.input[3] if len(node.input) > 3 else ""
        last = y if not name and not summand else f"{y}/conv"
        self._add("Conv", inputs, last, **attrs)
        if summand:
            last = self._add("Add", [last, summand], f"{y}/sum" if name else y)
        if name == "Clip":
            bounds = [
                self._store(f"{y}/{side}", np.float32(p)) for side, p in zip(("low", "high"), params, strict=True)
            ]
            self._add("Clip", [last, *bounds], y)
        elif name:
            self._add(name, [last], y, **dict(zip(_PARAMETERS.get(name, ()), params, strict=False)))

    def _plain(self, node: NodeProto) -> Array:
        """The filters of a Conv as [output channels, input channels, height, width], padding included."""
        w, b = self._value(node, 1), self.block
        out, into, height, width = w.shape
        if node.input[0] not in self.blocked or self._depthwise(node):
            ordered = w.reshape(out // b, into, height, width, b).transpose(0, 4, 1, 2, 3)
        else:
            ordered = w.reshape(out // b, into // b, height, width, b, b).transpose(0, 5, 1, 4, 2, 3)
        return np.ascontiguousarray(ordered.reshape(w.shape))

    def _weight(self, node: NodeProto, k: int) -> TensorProto:
        if node.input[k] not in self.weights:
            raise CompileError(f"node {node.name!r}: its filters are not stored in the file: {_ADVICE}")
        weight: TensorProto = self.weights[node.input[k]]
        return weight

    def _value(self, node: NodeProto, k: int) -> Array:
        value: Array = np.asarray(numpy_helper.to_array(self._weight(node, k), self.folder))
        return value

    def _store(self, name: str, value: Any) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, op: str, inputs: Iterable[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attrs))
        return output


_PARAMETERS = {
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
}


def _block_of(runtime: Any) -> int:
    """How many channels ONNX Runtime keeps side by side here: where the second position of channel 0 goes."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, 1, 2]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)], "block", infos[:1], infos[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)
    return int(np.flatnonzero(session.run(None, {"x": x})[0].reshape(-1) == 1)[0])
