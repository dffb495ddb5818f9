"""What a decomposition works with: the node's operands, and nodes to be written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.ir import Array, Node, Shape, Tensor

Value = str | Array | float | Sequence[int] | None
"""A name, a constant, a number (of the first float operand's type), a list of int64, or nothing."""

BODIES: dict[tuple[str, str], Callable[[Body], None]] = {}
REFUSED: dict[tuple[str, str], str] = {}
"""Operators that have no linear form, and why, with what to do."""


def refuse(*ops: str, domain: str, why: str) -> None:
    """Declares operators that are refused by name."""
    REFUSED.update({(domain, op): why for op in ops})


def body(*ops: str, domain: str) -> Callable[[Callable[[Body], None]], Callable[[Body], None]]:
    """Registers the decomposition of some operators."""

    def register(function: Callable[[Body], None]) -> Callable[[Body], None]:
        for op in ops:
            BODIES[domain, op] = function
        return function

    return register


class Body:
    """One node that is being decomposed. Its operand k is named ``ik``, its output ``ok``."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        floats = (t.dtype for t in node.inputs if t is not None and t.dtype is not None and t.is_float)
        self.dtype = next((d for d in floats if d.itemsize > 1), np.dtype(np.float32))  # (float8 is only stored)
        self._names = itertools.count(1)
        self._alias: dict[str, str] = {}

    # The node

    def operand(self, k: int) -> str | None:
        """The name of operand k; None if it is omitted."""
        return f"i{k}" if self.tensor(k) is not None else None

    def tensor(self, k: int) -> Tensor | None:
        """What is known of operand k."""
        return self.node.input(k)

    def shape(self, k: int) -> Shape:
        """The shape of operand k."""
        t = self.tensor(k)
        if t is None or t.shape is None:
            raise OutsideCalculus(f"the shape of its operand {k} is not known")
        return t.shape

    def number(self, k: int, what: str) -> Array:
        """The value of operand k, which must be known at compile time."""
        t = self.tensor(k)
        if t is None or t.value is None:
            raise OutsideCalculus(f"its {what} must be known at compile time")
        return t.value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; text as str."""
        value = self.node.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def wants(self, k: int) -> bool:
        """Whether output k is used."""
        return k < len(self.node.outputs) and bool(self.node.outputs[k].name)

    def refuse(self, why: str) -> OutsideCalculus:
        """The error that this node has no linear form; raise it."""
        return OutsideCalculus(why)

    # Nodes

    def op(self, op: str, *inputs: Value, domain: str = "", **attrs: Any) -> str:
        """One node with one output."""
        return self.ops(op, 1, *inputs, domain=domain, **attrs)[0]

    def ops(self, op: str, count: int, *inputs: Value, domain: str = "", **attrs: Any) -> list[str]:
        """One node with several outputs."""
        outputs = [self._new(op) for _ in range(count)]
        names = [self._name(i) for i in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, name=outputs[0], domain=domain, **attrs))
        return outputs

    def give(self, k: int, name: str) -> None:
        """Let output k be ``name``, which a node of one output then gives by that name."""
        if not self.wants(k):
            return
        name, out = self._alias.get(name, name), f"o{k}"
        maker = next((n for n in self.nodes if list(n.output) == [name] and name not in self._alias.values()), None)
        if maker is None:
            self.nodes.append(helper.make_node("Identity", [name], [out], name=out))
            return
        self._alias[name] = out
        for node in self.nodes:
            node.input[:] = [out if i == name else i for i in node.input]
            node.output[:] = [out if o == name else o for o in node.output]

    def into(self, k: int, op: str, *inputs: Value, domain: str = "", **attrs: Any) -> None:
        """Let output k be that of one node, which counts as the kernel's own last step: its value is the output's."""
        names = [self._name(i) for i in inputs]
        self.nodes.append(helper.make_node(op, names, [f"o{k}"], name=f"o{k}", domain=domain, **attrs))

    def inner(self) -> Body:
        """For the nodes of a subgraph: names differ from those of this body, whose tensors may be read."""
        other = Body(self.node)
        other.dtype = self.dtype
        other._names = self._names
        return other

    def new_name(self, what: str) -> str:
        """A name that nothing has yet."""
        return self._new(what)

    def _new(self, what: str) -> str:
        return f"{what}_{next(self._names)}"

    def _name(self, value: Value) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return self._alias.get(value, value)
        if isinstance(value, (int, float)):
            value = np.asarray(value, self.dtype)
        array = np.asarray(value, np.int64) if not isinstance(value, np.ndarray) else value
        name = self._new("constant")
        self.constants.append(numpy_helper.from_array(array, name))
        return name
