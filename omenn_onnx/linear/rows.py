"""Do the rows of a batch stay apart? Follows the batch axis of the explained inputs through a linear program.

Completeness holds row by row where they do, else for the whole batch only. In doubt the answer is no.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from omenn_onnx.graph.ir import Shape
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var


def rows_stay_apart(
    equations: Sequence[Equation], sources: Collection[Var], reached: Collection[Var], output: Var
) -> bool:
    """Whether every equation that a cotangent reached keeps axis 0 of ``sources`` apart, up to axis 0 of ``output``."""
    batch: dict[Var, _Axes] = dict.fromkeys(sources, 0)
    return _follow([e for e in equations if e.out in reached], batch) and batch.get(output) == 0


_Axes = int | None | tuple[int | None, ...]
"""The batch axis of a variable, or those of the parts of a bundle; None if rows met."""


def _follow(equations: Iterable[Equation], batch: dict[Var, _Axes]) -> bool:
    """Find the batch axis behind every equation; whether there always is one."""
    for equation in equations:
        p = equation.primitive
        if isinstance(p, lp.Recurrence):
            parts = _through_steps(equation, p, batch)
            if parts is None:
                return False
            batch[equation.out] = parts
            continue
        if isinstance(p, lp.Choice):
            either = _through_branches(equation, p, batch)
            if either is None:
                return False
            batch[equation.out] = either
            continue
        if isinstance(p, lp.Part):
            bundle = batch.get(equation.inputs[0])
            moved = {bundle[p.index] if isinstance(bundle, tuple) else None}
        else:
            axes = [batch.get(x) for x in equation.inputs]
            pairs = zip(equation.inputs, axes, strict=True)
            moved = {_moved(equation, x, a) if isinstance(a, int) else None for x, a in pairs}
        if len(moved) != 1 or None in moved:
            return False
        batch[equation.out] = moved.pop()
    return True


def _through_steps(equation: Equation, p: lp.Recurrence, batch: dict[Var, _Axes]) -> tuple[int | None, ...] | None:
    """The batch axes of what a recurrence gives: those of its states stay, and no sequence runs along them."""
    given = iter(equation.inputs)
    axes = [batch.get(next(given)) if there else None for there in p.present]
    n = len(p.before)
    inner: dict[Var, _Axes] = dict(zip(p.before, axes, strict=False))
    for lane, axis in zip(p.inputs, axes[n:], strict=False):
        if not isinstance(axis, int) or axis == lane.axis:
            return None
        inner[lane.var] = axis - (axis > lane.axis)
    inner.update(zip(p.shared, axes[n + len(p.inputs) :], strict=True))
    wanted = {v for v in p.behind if v is not None} | {lane.var for lane in p.outputs}
    if not _follow(lp.needed(p.equations, wanted), inner):
        return None
    before = [inner[v] for v in p.before]
    behind = [axis if v is None else inner.get(v) for v, axis in zip(p.behind, before, strict=True)]
    if before != behind:
        return None
    found: list[int | None] = [a if isinstance(a, int) else None for a in before]
    for lane in p.outputs:
        axis = inner.get(lane.var)
        found.append(axis + (axis >= lane.axis) if isinstance(axis, int) else None)
    return tuple(found)


def _through_branches(equation: Equation, p: lp.Choice, batch: dict[Var, _Axes]) -> tuple[int | None, ...] | None:
    """The batch axes of what a choice gives, equal in both branches; what is zero in one of them has the other's."""
    found: list[int | None] = [None] * len(p.arms[0].outputs)
    for arm in p.arms:
        inner = dict(zip(arm.inputs, (batch.get(x) for x in equation.inputs), strict=True))
        wanted = {v for v in arm.outputs if v is not None}
        if not _follow(lp.needed(arm.equations, wanted), inner):
            return None
        for k, v in enumerate(arm.outputs):
            axis = None if v is None else inner.get(v)
            if v is not None and (not isinstance(axis, int) or found[k] not in (None, axis)):
                return None
            found[k] = found[k] if v is None else axis if isinstance(axis, int) else None
    return tuple(found)


def _moved(equation: Equation, x: Var, axis: int) -> int | None:
    """Where the batch axis of ``x`` stands behind an equation; None where its rows meet."""
    p, out = equation.primitive, equation.out.shape
    if isinstance(p, lp.Reshape):
        return _reshaped(x.shape, out, axis)
    if isinstance(p, lp.Permute):
        return p.perm.index(axis)
    if isinstance(p, lp.Einsum):
        found = p.out_labels.find(p.x_labels[axis])
        return None if found < 0 else found
    if isinstance(p, lp.Centre):
        return None if axis in p.axes else axis
    if isinstance(p, lp.Conv):
        return axis if axis == 0 else None
    if isinstance(p, lp.WindowSum):
        return axis if axis < x.rank - len(p.window.kernel) else None
    if isinstance(p, lp.Winners):
        return axis if axis < 2 else None
    if isinstance(p, lp.MatMul):
        return axis if axis != x.rank - (2 if p.left else 1) else None
    if isinstance(p, (lp.Gather, lp.ScatterAdd)) and p.within_rows:
        return axis if axis == 0 else None
    if isinstance(p, (lp.Gather, lp.ScatterAdd, lp.GatherElements, lp.ScatterElements, lp.CumSum, lp.Concat)):
        return axis if axis != p.axis else None
    return axis if out[axis] == x.shape[axis] else None


def _reshaped(source: Shape, target: Shape, axis: int) -> int | None:
    """The batch axis behind a reshape: the axes in front of it must stay, but for axes of size 1. Rows may be merged
    with what follows them, since they stay one after the other."""
    front = [d for d in source[:axis] if d != 1]
    place = 0
    while front and place < len(target):
        if target[place] == front[0]:
            front.pop(0)
        elif target[place] != 1:
            return None
        place += 1
    if front:
        return None
    while place < len(target) and target[place] == 1 != source[axis]:
        place += 1
    return place if place < len(target) else None
