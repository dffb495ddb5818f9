"""What an opset adapter sees of the model: one node, facts about its tensors, and a way to add constants and nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from omenn_onnx.errors import Unsupported
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.walk import graphs_of

_VALUE_LIMIT = 1024

Array = NDArray[Any]


class Refused(Exception):
    """An adapter cannot keep the meaning exactly; ``upgrade`` collects these."""

    def __init__(self, entry: Unsupported) -> None:
        super().__init__(str(entry))
        self.entry = entry


@dataclass
class Facts:
    """What is known of a model's tensors, by name. A name that means different tensors in two subgraphs is unknown."""

    types: dict[str, int | None] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...] | None] = field(default_factory=dict)
    values: dict[str, Array | None] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)
    tensor_names: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)


def collect(proto: ModelProto) -> Facts:
    """Element types, shapes and small constant values of all tensors, subgraphs included, before anything is changed.

    Shape inference only helps: what it does not find is None, and adapters then take their general form.
    """
    facts = Facts()
    bare = skeleton(proto, limit=_VALUE_LIMIT)
    try:
        bare = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        bare = skeleton(proto, limit=_VALUE_LIMIT)
    for graph in graphs_of(bare):
        for info in (*graph.value_info, *graph.input, *graph.output):
            if info.type.HasField("tensor_type"):
                _record(facts, info.name, info.type.tensor_type.elem_type or None, _dims(info))
        for tensor in graph.initializer:
            _record(facts, tensor.name, tensor.data_type, tuple(tensor.dims))
    overridable = {v.name for v in proto.graph.input} if proto.ir_version >= 4 else set()
    for graph in graphs_of(proto):
        facts.tensor_names.update(v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
        facts.tensor_names.update(s.values.name for s in graph.sparse_initializer)
        facts.uses.update(v.name for v in graph.output)
        for tensor in graph.initializer:
            if tensor.name not in overridable and _is_small(tensor):
                _record_value(facts, tensor.name, numpy_helper.to_array(tensor))
        for node in graph.node:
            facts.node_names.add(node.name)
            facts.uses.update(node.input)
            facts.tensor_names.update((*node.input, *node.output))
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for value in _constant_values(node):
                    _record_value(facts, node.output[0], value)
    return facts


def _dims(info: ValueInfoProto) -> tuple[int | None, ...] | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _record(facts: Facts, name: str, code: int | None, shape: tuple[int | None, ...] | None) -> None:
    facts.types[name] = code if facts.types.get(name, code) == code else None
    known = facts.shapes.get(name, shape)
    facts.shapes[name] = shape if known == shape else None


def _record_value(facts: Facts, name: str, value: Array) -> None:
    facts.values[name] = None if name in facts.values else value


def _is_small(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL and int(np.prod(tensor.dims)) <= _VALUE_LIMIT


def _constant_values(node: NodeProto) -> Iterator[Array]:
    for a in node.attribute:
        if a.name == "value" and _is_small(a.t):
            yield numpy_helper.to_array(a.t)
        elif a.name in ("value_float", "value_floats"):
            yield np.array(helper.get_attribute_value(a), np.float32)
        elif a.name in ("value_int", "value_ints"):
            yield np.array(helper.get_attribute_value(a), np.int64)


class Additions:
    """New constants (initializers of the main graph, equal ones once) and new names, none of which collides."""

    def __init__(self, graph: GraphProto, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, value: Array, label: str) -> str:
        """The name of an initializer that holds ``value``."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            name = self.tensor_name(f"upgrade.{label}")
            self.graph.initializer.append(numpy_helper.from_array(value, name))
            self._known[key] = name
        return self._known[key]

    def tensor_name(self, wanted: str) -> str:
        return _unused(wanted, self.facts.tensor_names)

    def node_name(self, wanted: str) -> str:
        return _unused(wanted, self.facts.node_names)


def _unused(wanted: str, taken: set[str]) -> str:
    name, k = wanted, 0
    while name in taken:
        k += 1
        name = f"{wanted}.{k}"
    taken.add(name)
    return name


@dataclass
class Site:
    """One node on its way to a newer opset. Adapters change ``node`` in place and add nodes before and after it."""

    node: NodeProto
    opset: int
    additions: Additions
    before: list[NodeProto] = field(default_factory=list)
    after: list[NodeProto] = field(default_factory=list)

    @property
    def facts(self) -> Facts:
        return self.additions.facts

    @property
    def label(self) -> str:
        """What the node is called in messages and in the names of what is added for it."""
        return self.node.name or next((o for o in self.node.output if o), self.node.op_type)

    # --- facts -------------------------------------------------------------------------------------------------

    def input(self, k: int) -> str:
        """The name of input ``k``; empty when it is omitted."""
        return self.node.input[k] if k < len(self.node.input) else ""

    def type(self, k: int) -> int | None:
        """The element type of input ``k`` when known."""
        return self.facts.types.get(self.input(k))

    def shape(self, k: int) -> tuple[int | None, ...] | None:
        """The shape of input ``k`` when its rank is known; None for each unknown size."""
        return self.facts.shapes.get(self.input(k))

    def value(self, k: int) -> Array | None:
        """The value of input ``k`` when it is a small constant."""
        return self.facts.values.get(self.input(k))

    def is_used(self, k: int) -> bool:
        """Whether anything reads output ``k``."""
        return k < len(self.node.output) and bool(self.node.output[k]) and self.node.output[k] in self.facts.uses

    # --- changes -----------------------------------------------------------------------------------------------

    def take(self, name: str, default: Any = None) -> Any:
        """The value of attribute ``name``, which is removed from the node."""
        for k, a in enumerate(self.node.attribute):
            if a.name == name:
                value = helper.get_attribute_value(a)
                del self.node.attribute[k]
                return value.decode() if isinstance(value, bytes) else value
        return default

    def put(self, **attributes: Any) -> None:
        """Set attributes, replacing those of the same names."""
        for name, value in attributes.items():
            self.take(name)
            self.node.attribute.append(helper.make_attribute(name, value))

    def set_inputs(self, names: Sequence[str]) -> None:
        """Replace all inputs; omitted ones at the end are left away."""
        kept = list(names)
        while kept and not kept[-1]:
            kept.pop()
        del self.node.input[:]
        self.node.input.extend(kept)

    def set_outputs(self, names: Sequence[str]) -> None:
        del self.node.output[:]
        self.node.output.extend(names)

    def constant(self, values: Any, dtype: Any, label: str) -> str:
        return self.additions.constant(np.array(values, dtype), label)

    def int64(self, values: int | Sequence[int], label: str) -> str:
        return self.constant(values, np.int64, label)

    def emit(self, op: str, inputs: Sequence[str], output: str = "", after: bool = False, **attributes: Any) -> str:
        """Add a node before or after this one; return the name of its output, new unless given."""
        output = output or self.additions.tensor_name(f"{self.label}.{op}")
        node = helper.make_node(op, inputs, [output], self.additions.node_name(f"{self.label}.{op}"), **attributes)
        (self.after if after else self.before).append(node)
        return output

    def typed_scalar(self, value: float, like: int, label: str) -> str:
        """A scalar constant with the element type of input ``like``, by a CastLike node where that is unknown."""
        code = self.type(like)
        if code is None:
            return self.emit("CastLike", [self.constant(value, np.float32, label), self.input(like)])
        return self.constant(value, helper.tensor_dtype_to_np_dtype(code), label)

    def refuse(self, advice: str) -> Refused:
        """The error to raise when the meaning cannot be kept."""
        return Refused(Unsupported(self.label, self.node.op_type, self.node.domain, self.opset, advice))
