"""The transpose of a linear program: one rule a primitive, one walk over the equations.

For y = P x and any cotangent c,  <P x, c> = <x, P^T c>.  The adjoint program is written in the same primitives, so its
transpose is the program again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import singledispatch

from omenn_onnx.errors import Unsupported, UnsupportedOperators
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Primitive, Var


def transpose(
    equations: Sequence[Equation],
    seeds: Mapping[Var, Var],
    wanted: Iterable[Var],
    build: Builder,
    keep: Callable[[Equation], bool] = lambda equation: True,
) -> tuple[dict[Var, Var | None], set[Var]]:
    """Cotangents of ``wanted`` for the given cotangents of some variables, as equations of ``build``, and all variables
    that a cotangent reached.

    None stands for zero. ``keep`` may drop equations (to follow the bias terms of one owner). Refused operators that a
    cotangent reaches are collected and raised together.
    """
    wanted = list(wanted)
    live = _live(equations, wanted)
    pending: dict[Var, list[Var]] = {v: [c] for v, c in seeds.items() if v in live}
    refused: list[Unsupported] = []
    for equation in reversed(equations):
        terms = pending.get(equation.out)
        if terms is None or not keep(equation):
            continue
        if isinstance(equation.primitive, lp.Refused):
            refused.append(equation.primitive.reason)
        build.owner = equation.owner
        cotangent = build.add(terms, equation.out.shape)
        pending[equation.out] = [cotangent]
        reached = [v in live for v in equation.inputs]
        if not any(reached):
            continue
        contributions: Sequence[Var | None]
        try:
            if isinstance(equation.primitive, lp.Recurrence):
                contributions = _recurrence(equation.primitive, build, cotangent, equation, keep)
            elif isinstance(equation.primitive, lp.Choice):
                contributions = _choice(equation.primitive, build, cotangent, equation, keep)
            else:
                contributions = transpose_primitive(equation.primitive, build, cotangent, equation)
        except UnsupportedOperators as inside:
            refused += inside.nodes[::-1]
            continue
        for x, c in zip(equation.inputs, contributions, strict=True):
            if x in live and c is not None:
                pending.setdefault(x, []).append(c)
    if refused:
        raise UnsupportedOperators(list(dict.fromkeys(refused[::-1])))
    return {v: build.add(pending[v], v.shape) if v in pending else None for v in wanted}, set(pending)


def _live(equations: Sequence[Equation], wanted: Iterable[Var]) -> set[Var]:
    """The variables that depend on one of ``wanted``."""
    live = set(wanted)
    for equation in equations:
        if any(v in live for v in equation.inputs):
            live.add(equation.out)
    return live


@singledispatch
def transpose_primitive(primitive: Primitive, build: Builder, c: Var, equation: Equation) -> list[Var]:
    """The cotangents of the inputs of one equation, given that of its output."""
    raise TypeError(f"{type(primitive).__name__} has no transpose")


@transpose_primitive.register
def _(primitive: lp.Scale, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.scale(c, primitive.coefficient)]


@transpose_primitive.register
def _(primitive: lp.Select, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.select(c, primitive.mask)]


@transpose_primitive.register
def _(primitive: lp.Add, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [c] * len(equation.inputs)


@transpose_primitive.register
def _(primitive: lp.Broadcast, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.sum_to(c, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Sum, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.broadcast(c, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Centre, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.centre(c, primitive.axes)]


@transpose_primitive.register
def _(primitive: lp.Reshape, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.reshape(c, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Permute, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.permute(c, [primitive.perm.index(i) for i in range(c.rank)])]


@transpose_primitive.register
def _(primitive: lp.MatMul, build: Builder, c: Var, equation: Equation) -> list[Var]:
    shape = equation.inputs[0].shape
    return [build.matmul(c, primitive.weight, shape, left=primitive.left, transposed=not primitive.transposed)]


@transpose_primitive.register
def _(primitive: lp.Einsum, build: Builder, c: Var, equation: Equation) -> list[Var]:
    x, w, out = primitive.x_labels, primitive.w_labels, primitive.out_labels
    return [build.einsum(c, primitive.weight, out, w, x, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Conv, build: Builder, c: Var, equation: Equation) -> list[Var]:
    adjoint = lp.Conv(primitive.weight, primitive.window, primitive.group, not primitive.adjoint)
    return [build.apply(adjoint, [c], equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.WindowSum, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.window_sum(c, primitive.window, equation.inputs[0].shape, adjoint=not primitive.adjoint)]


@transpose_primitive.register
def _(primitive: lp.Winners, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.apply(replace(primitive, adjoint=not primitive.adjoint), [c], equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Slice, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.embed(c, primitive.begin, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Embed, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.slice(c, primitive.begin, equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.Concat, build: Builder, c: Var, equation: Equation) -> list[Var]:
    parts: list[Var] = []
    offset = 0
    running = None
    axis = primitive.axis
    for x in equation.inputs:
        start = offset if running is None else build.emit.op("Add", running, [offset], shape=(1,))
        begin = tuple(start if i == axis else 0 for i in range(c.rank))
        parts.append(build.slice(c, begin, x.shape))
        size = x.shape[axis]
        if isinstance(size, int):
            offset += size
        else:
            running = (
                build.emit.dim(size)
                if running is None
                else build.emit.op("Add", running, build.emit.dim(size), shape=(1,))
            )
    return parts


@transpose_primitive.register
def _(primitive: lp.Gather, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [
        build.apply(
            lp.ScatterAdd(primitive.axis, primitive.indices, primitive.within_rows), [c], equation.inputs[0].shape
        )
    ]


@transpose_primitive.register
def _(primitive: lp.ScatterAdd, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [
        build.apply(lp.Gather(primitive.axis, primitive.indices, primitive.within_rows), [c], equation.inputs[0].shape)
    ]


@transpose_primitive.register
def _(primitive: lp.GatherElements, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.apply(lp.ScatterElements(primitive.axis, primitive.indices), [c], equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.ScatterElements, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.apply(lp.GatherElements(primitive.axis, primitive.indices), [c], equation.inputs[0].shape)]


@transpose_primitive.register
def _(primitive: lp.CumSum, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.apply(lp.CumSum(primitive.axis, primitive.exclusive, not primitive.reverse), [c], c.shape)]


@transpose_primitive.register
def _(primitive: lp.Part, build: Builder, c: Var, equation: Equation) -> list[Var]:
    bundle = equation.inputs[0]
    assert isinstance(bundle, lp.Bundle)
    parts = tuple(c if i == primitive.index else None for i in range(len(bundle.shapes)))
    return [lp.Bundle((), None, bundle.shapes, parts)]


def _recurrence(
    p: lp.Recurrence, build: Builder, c: Var, equation: Equation, keep: Callable[[Equation], bool]
) -> list[Var | None]:
    """The steps in the other order, each transposed: the cotangents of the states run through them, those of what all
    steps share add up."""
    assert isinstance(c, lp.Bundle)
    n = len(p.before)
    inner = Builder(p.step.emit)
    states = [Var(v.shape) if b is None else Var(b.shape) for v, b in zip(p.before, p.behind, strict=True)]
    sums = [Var(v.shape) for v in p.shared]
    lanes = [(lane, part) for lane, part in zip(p.outputs, c.parts[n:], strict=True) if part is not None]
    reads = [lp.Lane(Var(lane.var.shape), lane.axis, not lane.backwards) for lane, _ in lanes]
    terms: dict[Var, list[Var]] = {}
    for b, s in zip(p.behind, states, strict=True):
        if b is not None:
            terms.setdefault(b, []).append(s)
    for (lane, _), read in zip(lanes, reads, strict=True):
        terms.setdefault(lane.var, []).append(read.var)
    seeds = {v: inner.add(given, v.shape) for v, given in terms.items()}
    wanted = [*p.before, *(lane.var for lane in p.inputs), *p.shared]
    found, _ = transpose(p.equations, seeds, wanted, inner, keep)
    totals: list[Var | None] = []
    for s, v in zip(sums, p.shared, strict=True):
        cotangent = found[v]
        totals.append(s if cotangent is None else inner.add([s, cotangent], s.shape))
    given_shapes = iter([x.shape for x in equation.inputs])
    outer = [next(given_shapes) if there else None for there in p.present]
    written = [(k, lane) for k, lane in enumerate(p.inputs) if found[lane.var] is not None and p.present[n + k]]
    outputs = []
    for _, lane in written:
        cotangent = found[lane.var]
        assert cotangent is not None
        outputs.append(lp.Lane(cotangent, lane.axis, not lane.backwards))
    shared_shapes = [shape or () for shape in outer[n + len(p.inputs) :]]
    first = [v is not None for v in c.parts[:n]]
    adjoint = lp.Recurrence(
        p.step,
        tuple(inner.equations),
        (*states, *sums),
        (*(found[v] for v in p.before), *totals),
        tuple(reads),
        (),
        tuple(outputs),
        (*p.shapes, *shared_shapes),
        (*first, *[False] * len(sums), *[True] * len(reads)),
        not p.reverse,
    )
    inputs = [v for v in c.parts[:n] if v is not None] + [part for _, part in lanes if part is not None]
    shapes = [*adjoint.shapes, *(outer[n + k] or () for k, _ in written)]
    parts = build.parts(adjoint, inputs, shapes)
    results: list[Var | None] = [*parts[:n], *[None] * len(p.inputs), *parts[n : n + len(sums)]]
    for (k, _), part in zip(written, parts[n + len(sums) :], strict=True):
        results[n + k] = part
    return [v for v, there in zip(results, p.present, strict=True) if there]


def _choice(
    p: lp.Choice, build: Builder, c: Var, equation: Equation, keep: Callable[[Equation], bool]
) -> list[Var | None]:
    """Each branch transposed, and the same choice between them."""
    assert isinstance(c, lp.Bundle)
    given = [k for k, v in enumerate(c.parts) if v is not None]
    arms: list[lp.Arm] = []
    refused: list[Unsupported] = []
    for arm in p.arms:
        inner = Builder(arm.branch.emit)
        seeds: list[Var] = []
        terms: dict[Var, list[Var]] = {}
        for k in given:
            y = arm.outputs[k]
            seeds.append(Var(c.shapes[k] if y is None else y.shape))
            if y is not None:
                terms.setdefault(y, []).append(seeds[-1])
        summed = {y: inner.add(several, y.shape) for y, several in terms.items()}
        try:
            found, _ = transpose(arm.equations, summed, arm.inputs, inner, keep)
        except UnsupportedOperators as inside:
            refused += inside.nodes
            continue
        arms.append(lp.Arm(arm.branch, tuple(inner.equations), tuple(seeds), tuple(found[x] for x in arm.inputs)))
    if refused:
        raise UnsupportedOperators(refused)
    first, second = arms
    live = [k for k, pair in enumerate(zip(first.outputs, second.outputs, strict=True)) if pair != (None, None)]
    for arm in arms:
        arm.outputs = tuple(arm.outputs[k] for k in live)
    results: list[Var | None] = [None] * len(equation.inputs)
    if live:
        cotangents = [v for v in c.parts if v is not None]
        shapes = [equation.inputs[k].shape for k in live]
        for k, v in zip(live, build.parts(lp.Choice(p.condition, (first, second)), cotangents, shapes), strict=True):
            results[k] = v
    return results


@transpose_primitive.register
def _(primitive: lp.Refused, build: Builder, c: Var, equation: Equation) -> list[Var]:
    return [build.apply(primitive, [c], x.shape) for x in equation.inputs]
