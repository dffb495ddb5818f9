"""Do the rows of a batch stay apart? Follows the batch axis of the explained inputs through a linear program.

Completeness holds row by row where they do, else for the whole batch only. In doubt the answer is no.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from omenn_onnx.graph.ir import Shape
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var


def rows_stay_apart(
    equations: Sequence[Equation], sources: Collection[Var], reached: Collection[Var], output: Var
) -> bool:
    """Whether every equation that a cotangent reached keeps axis 0 of ``sources`` apart, up to axis 0 of ``output``."""
    batch: dict[Var, int] = dict.fromkeys(sources, 0)
    for equation in equations:
        if equation.out not in reached:
            continue
        axes = [batch.get(x) for x in equation.inputs]
        moved = {None if a is None else _moved(equation, x, a) for x, a in zip(equation.inputs, axes, strict=True)}
        if len(moved) != 1 or None in moved:
            return False
        batch[equation.out] = moved.pop()  # type: ignore[assignment]
    return batch.get(output) == 0


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
    if isinstance(p, lp.Conv):
        return axis if axis == 0 else None
    if isinstance(p, lp.WindowSum):
        return axis if axis < x.rank - len(p.window.kernel) else None
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
