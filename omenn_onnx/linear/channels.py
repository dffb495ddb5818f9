"""Constant factors of channels become part of the kernels beside them.

A factor in front of a convolution multiplies its input channels, one behind it its output channels; what lies between
and only masks or scales element by element commutes with it. What else reads the variable in front of a factor (the
sums that give the bias) reads the variable behind it divided by the factor, if that is known and nowhere near 0, and
takes the division into its own kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linear.uses import Uses

_SANE = 1e18
"""Factors between this and its reciprocal can be divided by in float32."""


def fold_behind(equations: Sequence[Equation], wanted: Collection[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with factors of channels behind a convolution in its kernel."""
    uses = Uses(equations, wanted)
    gains: dict[Var, Tensor] = {}  # of convolutions
    same: dict[Var, Var] = {}  # what a factor gave is what it was applied to
    parted: dict[Var, Tensor] = {}  # variables that the sums now read multiplied
    for e in equations:
        if isinstance(e.primitive, lp.Conv) and e.primitive.group == 1 and e.primitive.weight.const:
            step = _factor_behind(e.out, uses)
            if step is not None and uses.of(step.out):
                assert isinstance(step.primitive, lp.Scale)
                gains[e.out] = step.primitive.coefficient
                same[step.out] = step.inputs[0]
                parted[step.inputs[0]] = step.primitive.coefficient
    for e in equations:
        build.owner = e.owner
        p = e.primitive
        if e.out in same:
            continue
        inputs = [same.get(x, x) for x in e.inputs]
        for i, x in enumerate(e.inputs):
            if x in parted:
                value = parted[x].value
                assert value is not None
                inputs[i] = build.scale(inputs[i], build.emit.const(1 / value))
        if e.out in gains and isinstance(p, lp.Conv):
            kernel = _scaled(build.emit, p.weight, gains[e.out], 1 if p.adjoint else 0)
            p = lp.Conv(kernel, p.window, p.group, p.adjoint)
        build.write(p, inputs, e.out)


def _factor_behind(v: Var, uses: Uses) -> Equation | None:
    """The factor of channels that follows ``v``, if all that stands between commutes with it, and all else that reads
    the same variable can take its reciprocal."""
    while True:
        readers = uses.of(v)
        others = [r for r in readers if _takes(r, uses)]  # (sums with a bias, and products that take any factor)
        steps = [r for r in readers if r not in others]
        if len(steps) == 1 and isinstance(steps[0].primitive, lp.Scale) and _known(steps[0].primitive.coefficient, v):
            return steps[0]
        if len(readers) != 1 or not isinstance(readers[0].primitive, lp.Scale | lp.Select):
            return None
        v = readers[0].out


def _takes(e: Equation, uses: Uses) -> bool:
    """Whether an equation can take a factor of its input's channels into a constant of its own."""
    p = e.primitive
    if isinstance(p, lp.Conv):
        return p.group == 1 and p.weight.const
    if not isinstance(p, lp.Scale) or not _of_channels(p.coefficient, e.out):
        return False
    behind = uses.only(e.out)
    return behind is not None and (isinstance(behind.primitive, lp.Sum) or _takes(behind, uses))


def _of_channels(c: Tensor, v: Var) -> bool:
    """Whether a factor is a constant that differs along axis 1 alone."""
    if not c.const or c.shape is None or v.rank < 3 or len(c.shape) < v.rank - 1:
        return False
    return all(d == 1 for i, d in enumerate(c.shape) if i - len(c.shape) != 1 - v.rank)


def _known(c: Tensor, v: Var) -> bool:
    """Whether a factor of channels is known to be nowhere near 0."""
    if not _of_channels(c, v) or c.value is None:
        return False
    size = np.abs(c.value.astype(np.float64))
    return bool(np.all((size > 1 / _SANE) & (size < _SANE)))


def _scaled(emit: Emitter, kernel: Tensor, c: Tensor, axis: int) -> Tensor:
    """A kernel with its channels along ``axis`` multiplied."""
    assert kernel.shape is not None
    shape = tuple(-1 if i == axis else 1 for i in range(len(kernel.shape)))
    sizes = tuple(d if i == axis else 1 for i, d in enumerate(kernel.shape))
    return emit.op("Mul", kernel, emit.op("Reshape", c, list(shape), shape=sizes), shape=kernel.shape)


def fold_in_front(equations: Sequence[Equation], wanted: Collection[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with factors of channels in front of a convolution in its kernel, and
    two factors one behind the other as one."""
    uses = Uses(equations, wanted)
    for e in equations:
        build.owner = e.owner
        p, x = e.primitive, e.inputs[0] if e.inputs else None
        d = None if x is None or uses.only(x) is None else x.definition
        c = d.primitive.coefficient if d is not None and isinstance(d.primitive, lp.Scale) else None
        if x is None or d is None or c is None or not _of_channels(c, x):
            build.write(p, e.inputs, e.out)
            continue
        if isinstance(p, lp.Conv) and p.group == 1 and p.weight.const:
            kernel = _scaled(build.emit, p.weight, c, 0 if p.adjoint else 1)
            build.write(lp.Conv(kernel, p.window, p.group, p.adjoint), d.inputs, e.out)
        elif isinstance(p, lp.Scale) and _of_channels(p.coefficient, x) and p.coefficient.shape == c.shape:
            build.write(lp.Scale(build.emit.op("Mul", c, p.coefficient, shape=c.shape)), d.inputs, e.out)
        else:
            build.write(p, e.inputs, e.out)
