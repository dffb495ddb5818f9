"""The graph as the calculus sees it: nodes and tensors with what is known of them at compile time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dim = int | str
"""A dimension: a number, or a symbol. Equal symbols are equal sizes; different symbols may or may not be."""

Shape = tuple[Dim, ...]
Array = NDArray[Any]


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor of the forward graph, original or emitted. Identity is the object's, never the name's.

    ``shape`` is None when not even the rank is known. ``const`` says that the value cannot depend on any graph input;
    ``load`` then gives it when it is known at compile time (initializers, small folded values).
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: Shape | None = None
    producer: Node | None = None
    const: bool = False
    load: Callable[[], Array] | None = None
    _value: Array | None = field(default=None, repr=False)

    @property
    def value(self) -> Array | None:
        """The value when it is known at compile time, else None."""
        if self._value is None and self.load is not None:
            self._value = self.load()
        return self._value

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its type is a float: numpy's, or bfloat16, float8, float4."""
        return self.dtype is not None and self.dtype.name.startswith(("float", "bfloat"))


@dataclass(eq=False, slots=True)
class Node:
    """An operator application. ``inputs`` holds None for an omitted optional input.

    ``captured`` are the outer tensors that its subgraphs use. ``refusal`` says why it has no decomposition, if one was
    tried. ``origin`` is the user-visible name of the node that it
    stands for: its own, or that of the last node of a recognised decomposition. ``step`` is the body of a Scan,
    ready to be linearised (graph.step.Step).
    """

    op: str
    domain: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    attrs: dict[str, Any]
    name: str
    captured: list[Tensor] = field(default_factory=list)
    refusal: str = ""
    step: Any = None

    @property
    def origin(self) -> str:
        return self.name or (self.outputs[0].name if self.outputs else self.op)

    def input(self, i: int) -> Tensor | None:
        return self.inputs[i] if i < len(self.inputs) else None


@dataclass(eq=False, slots=True)
class Graph:
    """The nodes of a model in topological order, its tensors by name, its inputs and outputs."""

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]
    opset: int
    domains: dict[str, int]
