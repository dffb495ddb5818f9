"""The walk over equations, and what every lowering rule needs.

A lowered variable is a tensor that may be compact: size 1 along an axis that the variable only repeats. Consumers that
broadcast take it as it is, the others ask for :meth:`Lowering.full`. With several targets every tensor carries one more
leading axis (``lead``), which no variable knows of: rules address axes from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from omenn_onnx.errors import UnsupportedOperators
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear.program import Equation, Primitive, Refused, Var

MERGED = "*"
"""A size that only ever stands once in a shape: written as -1."""

_SMALL_ONES = 65536


@dataclass(slots=True)
class Lowered:
    """A tensor and its sizes without the lead; 1 where it is compact."""

    tensor: Tensor
    dims: Shape


Rule = Callable[["Lowering", Primitive, Equation], Lowered]
_RULES: dict[type[Primitive], Rule] = {}
P = TypeVar("P", bound=Primitive)



def lowers(
    kind: type[P],
) -> Callable[[Callable[[Lowering, P, Equation], Lowered]], Callable[[Lowering, P, Equation], Lowered]]:
    """Registers the rule that writes a primitive as nodes."""

    def register(rule: Callable[[Lowering, P, Equation], Lowered]) -> Callable[[Lowering, P, Equation], Lowered]:
        _RULES[kind] = rule  # type: ignore[assignment]
        return rule

    return register


class Lowering:
    """Writes equations as nodes of ``emit``; ``bindings`` are the tensors of the variables that are given."""

    def __init__(self, emit: Emitter, bindings: Mapping[Var, Lowered], lead: Dim | None = None) -> None:
        self.emit = emit
        self.lead = lead
        self._bound = dict(bindings)
        self.bundles: dict[Var, list[Lowered]] = {}

    @property
    def provider(self) -> str:
        """Where the file is to run: cpu, cuda, webgpu. Choices by provider ask this, and say why."""
        return self.emit.provider

    def run(self, equations: Sequence[Equation]) -> None:
        """Lower every equation, in order."""
        refused = [e.primitive.reason for e in equations if isinstance(e.primitive, Refused)]
        if refused:
            raise UnsupportedOperators(refused)
        for equation in equations:
            self._bound[equation.out] = _RULES[type(equation.primitive)](self, equation.primitive, equation)

    def bind(self, var: Var, low: Lowered) -> None:
        """Give a variable its tensor."""
        self._bound[var] = low

    def __getitem__(self, var: Var) -> Lowered:
        return self._bound[var]

    def dims(self, shape: Shape) -> Shape:
        """``shape`` with the lead in front."""
        return shape if self.lead is None else (self.lead, *shape)

    def full(self, var: Var, axes: Sequence[int] | None = None) -> Tensor:
        """The tensor of ``var`` without compact axes (or with none among ``axes``)."""
        low = self[var]
        rank = len(var.shape)
        wanted = range(rank) if axes is None else [a % rank for a in axes]
        compact = [i for i in wanted if low.dims[i] != var.shape[i]]
        if not compact:
            return low.tensor
        sizes = [var.shape[i] for i in compact]
        dims = tuple(var.shape[i] if i in compact else d for i, d in enumerate(low.dims))
        if all(isinstance(n, int) for n in sizes) and np.prod(np.asarray(sizes, np.int64)) <= _SMALL_ONES:
            ones = np.ones(
                [d if i in compact and isinstance(d, int) else 1 for i, d in enumerate(dims)], self.emit.dtype
            )
            tensor = self.emit.op("Mul", low.tensor, ones, shape=self.dims(dims))
        else:
            repeat = [var.shape[i] if i in compact else 1 for i in range(rank)]
            tensor = self.emit.op("Expand", low.tensor, self.emit.shape(repeat), shape=self.dims(dims))
        if axes is None:
            self._bound[var] = Lowered(tensor, dims)
        return tensor

    def reshape(self, tensor: Tensor, source: Sequence[Dim], target: Sequence[Dim]) -> Tensor:
        """Reshape from sizes to sizes (leads included); run-time sizes are read only where 0 and -1 do not do."""
        if tuple(source) == tuple(target):
            return tensor
        return self.emit.op("Reshape", tensor, self._reshape_target(source, target), shape=tuple(target))

    def _reshape_target(self, source: Sequence[Dim], target: Sequence[Dim]) -> Tensor:
        written: list[Dim | Tensor] = []
        free = MERGED not in target
        for i, d in enumerate(target):
            if d == MERGED:
                written.append(-1)
            elif isinstance(d, int):
                written.append(d)
            elif i < len(source) and source[i] == d:
                written.append(0)
            elif free:
                written.append(-1)
                free = False
            else:
                written.append(d)
        return self.emit.shape(written)
