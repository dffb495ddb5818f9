"""Recurrences: a Scan whose body holds the equations of one step, and whatever of the model's own step their
coefficients need. The states that these start from are recorded by a Scan in the model's direction.

Choices: an If whose branches hold their equations, and whatever of the model's own branch their coefficients need."""

from __future__ import annotations

from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.graph.step import Scanned, write_if
from omenn_onnx.graph.write import live_nodes
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.lowering.base import Lowered, Lowering, lowers


@lowers(lp.Recurrence)
def recurrence(low: Lowering, p: lp.Recurrence, e: Equation) -> Lowered:
    out = e.out
    assert isinstance(out, lp.Bundle)
    given = iter(e.inputs)
    outer = [next(given) if there else None for there in p.present]
    n, m = len(p.before), len(p.inputs)
    shift = 0 if low.lead is None else 1
    inner = Lowering(p.step.emit, {}, low.lead)

    def bind(v: Var) -> Tensor:
        t = Tensor(p.step.emit.new_name("carried"), low.emit.dtype, low.dims(v.shape))
        p.step.emit.announce(t)
        inner.bind(v, Lowered(t, v.shape))
        return t

    before = [bind(v) for v in p.before]
    read = [bind(lane.var) for lane in p.inputs]
    for v, x in zip(p.shared, outer[n + m :], strict=True):
        assert x is not None
        inner.bind(v, Lowered(low.full(x), v.shape))
    inner.run(p.equations)
    zero = {id(v): low.emit.op("Expand", 0.0, low.emit.shape(low.dims(s)), shape=low.dims(s))
            for v, s, x in zip(p.before, p.shapes, outer[:n], strict=True) if x is None}  # fmt: skip
    states: list[tuple[Tensor, Tensor, Tensor]] = []
    for v, b, t, x in zip(p.before, p.behind, before, outer[:n], strict=True):
        start = zero[id(v)] if x is None else low.full(x)
        new = inner.full(b) if b is not None else _zeros(inner, v.shape)
        states.append((start, t, new))
    outputs = [Scanned(inner.full(lane.var), lane.axis + shift, lane.backwards) for lane in p.outputs]
    lanes = []
    for lane, t, x in zip(p.inputs, read, outer[n : n + m], strict=True):
        assert x is not None
        lanes.append((Scanned(low.full(x), lane.axis + shift, lane.backwards), t))
    lanes += _coefficients(p, [*(s for _, _, s in states), *(o.tensor for o in outputs)])
    made = p.step.write(states, lanes, outputs, [low.dims(shape) for shape in out.shapes[n:]])
    parts = []
    for t, shape in zip(made, out.shapes, strict=True):
        t.shape = low.dims(shape)
        parts.append(Lowered(t, shape))
    low.bundles[out] = parts
    return Lowered(made[0], out.shapes[0])


def _zeros(inner: Lowering, shape: Shape) -> Tensor:
    dims = inner.dims(shape)
    return inner.emit.op("Expand", 0.0, inner.emit.shape(dims), shape=dims)


def _coefficients(p: lp.Recurrence, results: list[Tensor]) -> list[tuple[Scanned, Tensor]]:
    """What the coefficients of one step are computed from: the model's own sequences and recorded states."""
    step = p.step
    nodes = live_nodes(step.emit.nodes, results)
    used = {id(t) for node in nodes for t in (*node.inputs, *node.captured) if t is not None} | {id(t) for t in results}
    found = [
        (Scanned(s.tensor, s.axis, s.backwards != p.reverse), t)
        for s, t in zip(step.sequences, step.inputs, strict=True)
        if id(t) in used
    ]
    if any(id(t) in used for t in step.states):
        stacks = zip(step.recorded(), step.states, strict=True)
        found += [(Scanned(stack, 0, p.reverse), t) for stack, t in stacks if id(t) in used]
    return found


@lowers(lp.Choice)
def choice(low: Lowering, p: lp.Choice, e: Equation) -> Lowered:
    out = e.out
    assert isinstance(out, lp.Bundle)
    branches = []
    for arm in p.arms:
        inner = Lowering(arm.branch.emit, {}, low.lead)
        for v, x in zip(arm.inputs, e.inputs, strict=True):
            inner.bind(v, Lowered(low.full(x), v.shape))
        inner.run(arm.equations)
        outputs = zip(arm.outputs, out.shapes, strict=True)
        results = [_zeros(inner, shape) if v is None else inner.full(v) for v, shape in outputs]
        branches.append((arm.branch.emit, results))
    made = write_if(low.emit, p.condition, branches)
    for t, shape in zip(made, out.shapes, strict=True):
        t.shape = low.dims(shape)
    low.bundles[out] = [Lowered(t, shape) for t, shape in zip(made, out.shapes, strict=True)]
    return low.bundles[out][0]


@lowers(lp.Part)
def part(low: Lowering, p: lp.Part, e: Equation) -> Lowered:
    return low.bundles[e.inputs[0]][p.index]
