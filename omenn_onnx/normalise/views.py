"""The graph as the calculus takes it: wholes in place of recognised decompositions, parts in place of operators that
have no rule of their own.

Nothing is rewritten: the model's own nodes stay. A view tells the calculus to take a tensor as the output of another
operator: the last node of a recognised decomposition is seen as the whole. No view looks through an explained tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omenn_onnx.calculus.base import OutsideCalculus, knows
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Graph, Node, Tensor
from omenn_onnx.normalise.branches import is_branching, linear_branches
from omenn_onnx.normalise.canonical import FORMS
from omenn_onnx.normalise.decompose import decompose
from omenn_onnx.normalise.loops import is_loop, linear_loop
from omenn_onnx.normalise.sequences import READERS, read_sequence


class Views:
    """The graph as the calculus takes it. ``barriers`` are tensors that no view looks through, ``opaque`` operators
    that are taken as they are."""

    def __init__(
        self, graph: Graph, emit: Emitter, barriers: Iterable[Tensor] = (), opaque: Iterable[str] = ()
    ) -> None:
        self.graph = graph
        self.emit = emit
        self.barriers = frozenset(barriers)
        self.opaque = frozenset(opaque)
        self.recognised: dict[str, int] = {}
        self.decomposed: dict[str, int] = {}
        self.nodes: list[Node] = []
        self.inside = ""
        self._seen: dict[Tensor, Node] = {}
        for node in graph.nodes:
            self._take(node)

    def __call__(self, t: Tensor) -> Node | None:
        """The node that ``t`` counts as the output of."""
        return self._seen.get(t, t.producer)

    def _take(self, node: Node) -> None:
        """Append a node as it is, as the whole that it completes, or as its decomposition."""
        if node.outputs and all(o.const for o in node.outputs):
            self.nodes.append(node)
            return
        if (not knows(node) or is_loop(node) or is_branching(node)) and node.op not in self.opaque:
            parts = self._parts(node)
            if parts is not None:
                self.decomposed[node.op] = self.decomposed.get(node.op, 0) + 1
                around, self.inside = self.inside, node.op
                for part in parts:
                    for o in part.outputs:
                        self._seen[o] = part
                    self._take(part)
                self.inside = around
                return
        whole = self._recognise(node)
        if whole is None:
            self.nodes.append(node)
            return
        self.nodes += whole
        self._seen[node.outputs[0]] = whole[-1]
        self.recognised[whole[-1].op] = self.recognised.get(whole[-1].op, 0) + 1

    def _parts(self, node: Node) -> list[Node] | None:
        """The nodes that stand for one without a rule; None, and why in its refusal, if there are none."""
        try:
            if is_branching(node):
                return linear_branches(node, self.graph, self.emit, self._inside)
            if node.op in READERS and node.domain == "":
                return read_sequence(node, self.graph, self, self.emit)
            if is_loop(node):
                return linear_loop(node, self.graph, self.emit, self._inside)
            if node.op == "Range" and node.domain == "" and not any(t is not None and t.is_float for t in node.inputs):
                return None
            return None if node.captured else decompose(node, self.graph, self.emit)
        except OutsideCalculus as e:
            node.refusal = str(e)
            return None

    def _inside(self, graph: Graph, emit: Emitter) -> Views:
        """The views of a body."""
        return Views(graph, emit, (), self.opaque)

    def _recognise(self, node: Node) -> list[Node] | None:
        if node.domain != "" or node.op not in FORMS or len(node.outputs) != 1:
            return None
        return next((nodes for form in FORMS[node.op] if (nodes := form(self, node)) is not None), None)

    def made_by(self, t: Tensor | None, *ops: str) -> Node | None:
        """The node that gives ``t`` if it is one of ``ops`` and may be looked through."""
        node = None if t is None or t in self.barriers else self(t)
        return node if node is not None and node.domain == "" and node.op in ops else None

    def whole(self, node: Node, op: str, *inputs: Tensor | None, **attrs: Any) -> list[Node]:
        """``node`` seen as one operator."""
        return [Node(op, "", list(inputs), node.outputs, attrs, node.name)]

    def part(self, node: Node, op: str, *inputs: Tensor) -> Node:
        """An operator in front of the last one; its value is computed next to the graph."""
        out = self.emit.op(op, *(self.emit.cast(t) for t in inputs))
        return Node(op, "", list(inputs), [out], {}, node.name)
