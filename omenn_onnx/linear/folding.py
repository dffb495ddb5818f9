"""Constant factors become part of the matrix in front of them.

In the adjoint of  y = (gain * normalised + shift) W + b  a product with W^T is followed by the gain, the norm's own
1/std (one number a row) and its centring. Gain and centring act on columns, 1/std on rows: the former two are folded
into W^T (by nodes on the constant, which a runtime works out once), and a sum of the product with a constant vector,
such as the shift, becomes a sum of what stands in front of W^T. Sums of one variable with two vectors are one sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linear.uses import Uses


@dataclass(slots=True)
class _Stage:
    """A step behind a product: it acts on columns (``folds``) or on rows. ``sums`` are what else reads the variable in
    front of it: a factor and the sum of that."""

    step: Equation
    folds: bool
    sums: list[tuple[Equation, Equation]]


def fold_columns(equations: Sequence[Equation], wanted: Collection[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with factors of columns folded into constant matrices."""
    uses = Uses(equations, wanted)
    written: set[Var] = set()
    for e in equations:
        if e.out in written:
            continue
        build.owner = e.owner
        p = e.primitive
        stages: list[_Stage] = []
        if isinstance(p, lp.MatMul) and not p.left and p.weight.const and p.weight.rank == 2:
            stages = [] if _given(e.inputs[0]) else _stages(e.out, uses)
        if stages and isinstance(p, lp.MatMul):
            _fold(e, p, stages, build)
            written.update(eq.out for s in stages for eq in (s.step, *(x for pair in s.sums for x in pair)))
        else:
            build.write(p, e.inputs, e.out)


def _given(x: Var) -> bool:
    """Whether ``x`` is given from outside: the seed, of few rows, for which no classifier's matrix is worked over."""
    while x.definition is not None and isinstance(x.definition.primitive, lp.Reshape | lp.Embed | lp.Broadcast):
        x = x.definition.inputs[0]
    return x.definition is None


def _stages(v: Var, uses: Uses) -> list[_Stage]:
    """What follows ``v`` up to the last step that can be folded."""
    stages: list[_Stage] = []
    while True:
        pairs = [(r, _summed(r, uses)) for r in uses.of(v)]
        sums = [(r, s) for r, s in pairs if s is not None]
        others = [r for r, s in pairs if s is None]
        if len(others) != 1:
            break
        p = others[0].primitive
        folds = (isinstance(p, lp.Scale) and _along_last(p.coefficient)) or (
            isinstance(p, lp.Centre) and p.axes == (v.rank - 1,)
        )
        if not folds and not _on_rows(p, v, others[0].out):
            break
        stages.append(_Stage(others[0], folds, sums))
        v = others[0].out
    while stages and not stages[-1].folds:
        stages.pop()
    return stages


def _summed(e: Equation, uses: Uses) -> Equation | None:
    """If ``e`` multiplies by a constant vector along the last axis and is only summed over that: the sum."""
    if not isinstance(e.primitive, lp.Scale) or not _along_last(e.primitive.coefficient):
        return None
    total = uses.only(e.out)
    if total is None or not isinstance(total.primitive, lp.Sum):
        return None
    return total if total.out.shape == (*e.out.shape[:-1], 1) else None


def _along_last(c: Tensor) -> bool:
    """Whether a factor is a constant that differs along the last axis alone, or nowhere."""
    return c.const and c.shape is not None and all(d == 1 for d in c.shape[:-1])


def _on_rows(p: lp.Primitive, v: Var, out: Var) -> bool:
    """Whether a step treats all columns alike."""
    if isinstance(p, lp.Scale):
        shape = p.coefficient.shape
        return shape is not None and (not shape or shape[-1] == 1)
    return isinstance(p, lp.Reshape) and v.rank > 0 and out.rank > 0 and v.shape[-1] == out.shape[-1] != 1


def _fold(e: Equation, p: lp.MatMul, stages: list[_Stage], build: Builder) -> None:
    """x W, then the stages, as x W' and what acts on rows."""
    (x,), w = e.inputs, p.weight
    rows: list[Equation] = []
    for stage in stages:
        for scaled, total in stage.sums:
            assert isinstance(scaled.primitive, lp.Scale)
            vector = _times(build.emit, w, p.transposed, scaled.primitive.coefficient, e.out.shape)
            product = build.apply(lp.Scale(vector), [x], x.shape)
            _replay(build, lp.Sum(), product, (*x.shape[:-1], 1), rows, total.out)
        if stage.folds:
            w = _folded(build.emit, w, p.transposed, stage.step.primitive)
        else:
            rows.append(stage.step)
    _replay(build, lp.MatMul(w, transposed=p.transposed), x, e.out.shape, rows, stages[-1].step.out)


def _replay(build: Builder, p: lp.Primitive, x: Var, shape: Shape, rows: list[Equation], out: Var) -> None:
    """``p`` of ``x``, of ``shape``, and then the steps ``rows``: the last one gives ``out``."""
    for row in rows:
        x = build.apply(p, [x], shape)
        p, shape = row.primitive, (*row.out.shape[:-1], shape[-1])
    build.write(p, [x], out)


def _folded(emit: Emitter, w: Tensor, transposed: bool, step: lp.Primitive) -> Tensor:
    """The matrix with its columns scaled or centred (rows, of a matrix that is used transposed)."""
    assert w.shape is not None
    if isinstance(step, lp.Scale):
        c = step.coefficient
        size = c.shape[-1] if c.shape else 1
        shape: Shape = (size, 1) if transposed else (1, size)
        return emit.op("Mul", w, emit.op("Reshape", c, emit.shape(shape), shape=shape), shape=w.shape)
    axis = 0 if transposed else 1
    kept = tuple(1 if i == axis else d for i, d in enumerate(w.shape))
    return emit.op("Sub", w, emit.op("ReduceMean", w, [axis], keepdims=1, shape=kept), shape=w.shape)


def _times(emit: Emitter, w: Tensor, transposed: bool, c: Tensor, out: Shape) -> Tensor:
    """The matrix times a vector of factors."""
    assert w.shape is not None
    size = out[-1]
    if not c.shape or c.shape[-1] != size:  # one factor for all columns
        total = emit.op("ReduceSum", w, [0 if transposed else 1], keepdims=0, shape=(w.shape[1 if transposed else 0],))
        return emit.op("Mul", total, emit.op("Reshape", c, [1], shape=(1,)), shape=total.shape)
    line = emit.op("Reshape", c, [-1], shape=(size,))
    operands = (line, w) if transposed else (w, line)
    return emit.op("MatMul", *operands, shape=(w.shape[1 if transposed else 0],))


def merge_sums(equations: Sequence[Equation], wanted: Collection[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with one sum where a variable is summed with several vectors, all of
    which are only added up."""
    uses = Uses(equations, wanted)
    for e in equations:
        build.owner = e.owner
        inputs = list(e.inputs)
        if isinstance(e.primitive, lp.Add):
            alike: dict[tuple[Var, Shape], list[Var]] = {}
            for x in e.inputs:
                source = _vector_sum(x, uses)
                if source is not None:
                    alike.setdefault(source, []).append(x)
            for (x, _), parts in alike.items():
                if len(parts) > 1:
                    first, *others = (_factor(v) for v in parts)
                    for c in others:
                        first = build.emit.op("Add", first, c, shape=first.shape)
                    total = build.sum_to(build.scale(x, first), parts[0].shape)
                    inputs = [v for v in inputs if v not in parts] + [total]
        if len(inputs) == 1 < len(e.inputs):
            build.write(lp.Reshape(), inputs, e.out)
        else:
            build.write(e.primitive, inputs, e.out)


def _vector_sum(v: Var, uses: Uses) -> tuple[Var, Shape] | None:
    """(x, sizes of c) if ``v`` is the sum of c x with a constant c, and nobody else reads either."""
    d = v.definition
    inner = d.inputs[0].definition if d is not None and isinstance(d.primitive, lp.Sum) else None
    if d is None or inner is None or not isinstance(inner.primitive, lp.Scale):
        return None
    c = inner.primitive.coefficient
    if not c.const or c.shape is None or uses.only(v) is None or uses.only(d.inputs[0]) is None:
        return None
    return inner.inputs[0], c.shape


def _factor(v: Var) -> Tensor:
    d = v.definition
    inner = None if d is None else d.inputs[0].definition
    assert inner is not None
    assert isinstance(inner.primitive, lp.Scale)
    return inner.primitive.coefficient
