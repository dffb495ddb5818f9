"""Canonical forms: decompositions that are recognised before linearising, because their parts would act differently
from the whole.

Nothing is rewritten: the model's own nodes stay. A view tells the calculus to take a tensor as the output of another
operator: the last node of a recognised decomposition is seen as the whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Graph, Node, Tensor


class Views:
    """The graph as the calculus takes it."""

    def __init__(self, graph: Graph, emit: Emitter) -> None:
        self.graph = graph
        self.emit = emit
        self.seen: dict[Tensor, list[Node]] = {}

    def __call__(self, t: Tensor) -> Node | None:
        """The node that ``t`` counts as the output of."""
        nodes = self.seen.get(t)
        return nodes[-1] if nodes else t.producer

    def nodes(self) -> Iterator[Node]:
        """All nodes in order, recognised decompositions as the operators they are."""
        for node in self.graph.nodes:
            first = node.outputs[0] if node.outputs else None
            if first is not None and first in self.seen:
                yield from self.seen[first]
            else:
                yield node
