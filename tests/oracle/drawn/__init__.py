"""Seeded random models for the comparison with the oracle.

graph(seed, dynamic=False) -> (model, feeds, explained inputs)     operators of all kinds, mixed
operator(kind, seed) -> the same, or None where ONNX Runtime has no kernel     one large operator: KINDS
"""

from __future__ import annotations

import itertools

import onnx

from .core import Array, Graph, Step, Unfit
from .gates import gate, keeps
from .microsoft import microsoft
from .ml import ml
from .products import attention, product
from .quantised import quantised
from .recurrent import recurrent
from .shapes import ends, shape_operator

Drawn = tuple[onnx.ModelProto, dict[str, Array], list[str]]
STEPS: tuple[Step, ...] = (
    gate, gate, gate, keeps, keeps, keeps, shape_operator, shape_operator, ends, ends, product, product, product,
    attention,
)  # fmt: skip


def graph(seed: int, dynamic: bool = False, longest: int = 9) -> Drawn:
    """Several steps on an input x, and sometimes z."""
    for attempt in itertools.count():
        g = Graph(seed * 1000 + attempt, dynamic)
        shape = (2, *(g.integer(1, 4) for _ in range(g.integer(1, 3))))
        g.found = [g.explain(name, *shape) for name in (("x", "z") if g.flag() else ("x",))]
        for _ in range(g.integer(3, longest)):
            before = len(g.nodes), len(g.weights)
            try:
                g.found.append(g.pick(*STEPS)(g))
            except Unfit:
                del g.nodes[before[0] :], g.weights[before[1] :]
        model = g.model(g.found[-1])
        used = {i for node in model.graph.node for i in node.input}
        if len(model.graph.node) > 2 and used >= set(g.explained):
            return model, g.feeds, g.explained
    raise AssertionError


KINDS: dict[str, Step] = {"recurrent": recurrent, "ml": ml, "quantised": quantised, "microsoft": microsoft}


def operator(kind: str, seed: int) -> Drawn | None:
    """One operator of a kind with random attributes, some of it behind or in front of others."""
    g = Graph(seed, False)
    g.largest = 600
    try:
        model = g.model(KINDS[kind](g))
    except Unfit:
        return None
    used = {i for node in model.graph.node for i in node.input}
    del_unused(g, model, used)
    return model, g.feeds, g.explained


def del_unused(g: Graph, model: onnx.ModelProto, used: set[str]) -> None:
    """Inputs that another draw replaced."""
    g.infos = [i for i in g.infos if i.name in used]
    g.explained = [n for n in g.explained if n in used]
    del model.graph.input[:]
    model.graph.input.extend(g.infos)
