"""If: the calculus of both branches, and at run time that of the branch which is taken.

A branch that gives a constant c while the other one carries gives c * o, with o the mean of the ones of what the
branches read, over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.graph.step import Branch
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var


@rule("If")
def branches(p: Calculus, node: Node, condition: Operand) -> list[Pair | None]:
    """y = then(k) or else(k), with k what they read of the graph around them."""
    if not isinstance(node.step, tuple):
        raise OutsideCalculus(node.refusal or "its branches are not known")
    read = [t for t in dict.fromkeys(node.captured) if t in p.pairs]
    inner = [_linear(p, branch, read) for branch in node.step]
    inputs = [v for t in read for v in (p.pairs[t].value, p.pairs[t].ones)]
    given: list[Pair | None] = []
    outputs: tuple[list[Var], list[Var]] = ([], [])
    shapes: list[Shape] = []
    for out, first, second in zip(node.outputs, node.step[0].outputs, node.step[1].outputs, strict=True):
        sides = list(zip(inner, (first, second), strict=True))
        pairs = [c.pairs.get(t) for c, t in sides]
        if not out.name or pairs == [None, None]:
            given.append(None)
            continue
        shape = _shape(out, (first, second))
        made = [q or _constant(c, t, read) for (c, t), q in zip(sides, pairs, strict=True)]
        repeats = [all(q.ones.shape[i] == 1 for q in made) for i in range(len(shape))]
        for k, (t, q) in enumerate(zip((first, second), made, strict=True)):
            own = t.shape or ()
            wide = tuple(1 if repeated else d for repeated, d in zip(repeats, own, strict=True))
            outputs[k].append(inner[k].build.broadcast(q.value, own))
            outputs[k].append(inner[k].build.broadcast(q.ones, wide))
        shapes += [shape, tuple(1 if repeated else d for repeated, d in zip(repeats, shape, strict=True))]
        given.append(Pair(Var(()), Var(()), min(q.rank for q in pairs if q is not None)))
    if not shapes:
        return given
    arms = []
    for c, branch, results in zip(inner, node.step, outputs, strict=True):
        own_inputs = tuple(v for t in read for v in (c.sources[t].value, c.sources[t].ones))
        arms.append(lp.Arm(branch, tuple(c.build.equations), own_inputs, tuple(results)))
        p.opaque_nodes += c.opaque_nodes
        for op, times in c.used.items():
            p.used[op] = p.used.get(op, 0) + times
    parts = iter(p.build.parts(lp.Choice(condition.t, (arms[0], arms[1])), inputs, shapes))
    return [None if q is None else Pair(next(parts), next(parts), q.rank) for q in given]


class _Inner(Calculus):
    """The calculus of a branch, with the pairs of what it reads."""

    sources: dict[Tensor, Pair]


def _linear(p: Calculus, branch: Branch, read: Sequence[Tensor]) -> _Inner:
    """The branch linearised, over variables of its own for what it reads."""
    inner = _Inner(branch.graph, branch.emit, p.tangent, p.opaque, branch.view)
    inner.sources = {t: Pair(Var(t.shape or ()), Var(p.pairs[t].ones.shape), p.pairs[t].rank) for t in read}
    inner.pairs.update(inner.sources)
    for node in branch.nodes:
        inner.linearise(node)
    return inner


def _shape(out: Tensor, results: Sequence[Tensor]) -> Shape:
    """The shape of an output, of a rank that both branches have."""
    ranks = {t.rank for t in results}
    if None in ranks:
        raise OutsideCalculus("the rank of what its branches give is not known")
    if len(ranks) > 1 or out.shape is None:
        shapes = " and ".join(str(list(t.shape or ())) for t in results)
        raise OutsideCalculus(
            f"its branches give tensors of different ranks ({shapes}), and only the run tells which; make its "
            "condition known at compile time: store the input that it depends on as an initializer, or give the model "
            "fixed shapes"
        )
    return out.shape


def _constant(inner: _Inner, t: Tensor, read: Sequence[Tensor]) -> Pair:
    """c * o of a branch that does not carry."""
    shape = t.shape or ()
    ones = inner.average([inner.everywhere(inner.sources[s], shape) for s in read])
    return Pair(inner.bias(None, inner.emit.cast(t), ones, shape), ones)
