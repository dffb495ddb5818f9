"""What decides the coefficients of an operator: comparisons, winners, roundings. Between decisions they are constant.

A network is piecewise linear in an operator's sense where every coefficient follows from decisions alone. The inputs
that give the same decisions are then a convex polytope, for each decision is a comparison of functions that are affine
as long as the others stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass

import onnx
from onnx import ModelProto, NodeProto

from omenn_onnx.graph.extract import depending, reads
from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.graphs import OperatorGraphs
from omenn_onnx.spectral.layers import between_two

_DECIDING = frozenset(
    "ArgMax ArgMin Ceil Equal Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual NonZero Round Sign".split()
)
_WHOLE = frozenset(
    onnx.TensorProto.DataType.Value(name) for name in "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


@dataclass(frozen=True)
class Decisions:
    """``deciders``: the tensors that hold decisions, with the name of the node (of the model) whose they are.
    ``smooth``: tensors of the model on which some coefficient depends in another way."""

    deciders: dict[str, str]
    smooth: tuple[str, ...]

    @property
    def piecewise(self) -> bool:
        """Whether the operator changes at decisions only."""
        return not self.smooth


def decisions(lin: Linearised, graphs: OperatorGraphs, source: Tensor, target: Tensor) -> Decisions:
    """What decides the coefficients of the operator from ``source`` to ``target`` as the source changes."""
    if graphs.coefficients is None:
        return Decisions({}, ())
    model = graphs.coefficients
    varying = depending(model, [source.name]) - {source.name}
    maker = {o: n for n in model.graph.node for o in n.output if o}
    steps, raw = _steps(model, varying, source.name)
    frozen = _frozen(graphs)
    bad = [n for n in frozen if n in varying and n not in steps]
    owners = _owners(lin, source, target)
    named = {n: owners.get(n, "") or _near(lin, maker, n) for n in _behind(frozen, maker, steps, raw)}
    return Decisions(named, tuple(dict.fromkeys(t for n in bad for t in _own(lin, maker, n, varying))))


def _frozen(graphs: OperatorGraphs) -> list[str]:
    """The inputs of the forward and the adjoint graph that are no vectors."""
    given = {graphs.forward_input, graphs.adjoint_input}
    names = (i.name for m in (graphs.forward, graphs.adjoint) for i in m.graph.input)
    return list(dict.fromkeys(n for n in names if n not in given))


def _steps(model: ModelProto, varying: set[str], source: str) -> tuple[set[str], set[str]]:
    """The varying tensors that are piecewise constant, and those among them that are decisions, not made of such."""
    moving = varying | {source}
    steps: set[str] = set()
    raw: set[str] = set()
    for node in model.graph.node:
        smooth = any(n in moving and n not in steps for n in reads(node))
        for place, name in enumerate(node.output):
            if name not in varying:
                continue
            if not smooth:
                steps.add(name)
            elif _decides(node, place):
                steps.add(name)
                raw.add(name)
    return steps, raw


def _decides(node: NodeProto, place: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in ("MaxPool", "TopK"):
        return place == 1
    if node.op_type == "Cast":
        return next(a.i for a in node.attribute if a.name == "to") in _WHOLE
    return node.op_type in _DECIDING


def _behind(frozen: Iterable[str], maker: dict[str, NodeProto], steps: set[str], raw: set[str]) -> list[str]:
    """The decisions that ``frozen`` are made of."""
    found: dict[str, None] = {}
    todo = [n for n in frozen if n in steps]
    seen = set(todo)
    while todo:
        name = todo.pop()
        if name in raw:
            found[name] = None
            continue
        new = [n for n in reads(maker[name]) if n in steps and n not in seen]
        seen.update(new)
        todo += new
    return list(found)


def _own(lin: Linearised, maker: dict[str, NodeProto], name: str, varying: set[str]) -> list[str]:
    """The model's own tensors from which a coefficient is computed."""
    found: dict[str, None] = {}
    todo, seen = [name], {name}
    while todo:
        n = todo.pop()
        if not n.startswith(f"{lin.emit.prefix}/") or n not in maker:
            found[n] = None
            continue
        new = [r for r in reads(maker[n]) if r in varying and r not in seen]
        seen.update(new)
        todo += new
    return list(found)


def _near(lin: Linearised, maker: dict[str, NodeProto], name: str) -> str:
    """The node of the model that gives what a decision looks at."""
    own = [n for n in _own(lin, maker, name, set(maker)) if n in maker]
    return maker[own[0]].name or own[0] if own else name


def _owners(lin: Linearised, source: Tensor, target: Tensor) -> dict[str, str]:
    """By the names of emitted tensors, the node in whose coefficients they stand."""
    pairs = lin.calculus.pairs
    found: dict[str, str] = {}
    emitted = {id(t): n for n in lin.emit.nodes for t in n.outputs}
    pools: dict[tuple[str, str], str] = {}
    for e in between_two(lin, pairs[source].value, pairs[target].value):
        if isinstance(e.primitive, lp.Winners):
            pools[e.primitive.pooled.name, str(sorted(e.primitive.attributes.items()))] = e.owner
        todo = list(_tensors(e.primitive))
        while todo:
            t = todo.pop()
            node = emitted.get(id(t))
            if node is not None and t.name not in found:
                found[t.name] = e.owner
                todo += [i for i in node.inputs if i is not None]
    for n in lin.emit.nodes:
        key = (n.inputs[0].name, str(sorted(n.attrs.items()))) if n.inputs and n.inputs[0] is not None else ("", "")
        if n.op == "MaxPool" and len(n.outputs) == 2 and key in pools:
            found[n.outputs[1].name] = pools[key]
    return found


def _tensors(primitive: lp.Primitive) -> Iterator[Tensor]:
    """The coefficients that a primitive holds."""
    if is_dataclass(primitive):
        for f in fields(primitive):
            value = getattr(primitive, f.name)
            if isinstance(value, Tensor):
                yield value
