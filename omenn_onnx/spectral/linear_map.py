"""The full linear map of an instance, F(x) = W x + b (Instance-wise Linearization), row by row into given room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.errors import NoPath, OperatorError
from omenn_onnx.linear.program import needed
from omenn_onnx.linearise import precision
from omenn_onnx.runtime.contract import BARS
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.operators import AffineOperator

Array = NDArray[Any]


@dataclass(frozen=True)
class Check:
    """How well W x + b = y holds, unit by unit.

    ``residual`` [U]: |W x + b - y|, summed in float64. ``scale`` [U]: max(1, |y|, sum_j |W_ij x_j|, |b|), what the
    completeness bar is relative to.
    """

    residual: Array
    scale: Array

    @property
    def relative(self) -> Array:
        """The residual in units of the scale [U]: what has to stay below the bar. NaN where W has one."""
        relative: Array = self.residual / self.scale
        return relative


class Sums:
    """W x and sum_j |W_ij x_j| of rows that are found one block after the other, in float64."""

    def __init__(self, units: int) -> None:
        self.image, self.size = np.zeros(units), np.zeros(units)

    def add(self, rows: slice, block: Array, x: Array) -> None:
        """Some rows and columns of W, and the x of those columns."""
        shares = block.astype(np.float64) * x.astype(np.float64)
        self.image[rows] += shares.sum(axis=1)
        self.size[rows] += np.abs(shares).sum(axis=1)

    def check(self, b: Array, y: Array) -> Check:
        """Against the bias and the values."""
        off = np.abs(self.image + b.astype(np.float64) - y)
        scale = np.maximum.reduce([np.ones(len(off)), np.abs(y), self.size, np.abs(b)])
        return Check(off, scale.astype(np.float64))


def vectors(op: AffineOperator, units: Sequence[int]) -> int:
    """How many vectors :func:`fill` sends through the operator: one a unit, or one a column where they are fewer."""
    return min(len(units), int(op.shape[1]))


def fill(op: AffineOperator, units: Sequence[int], matrix: Array, sums: Sums, done: Callable[[int], None]) -> None:
    """Write the rows ``units`` of the operator's matrix into ``matrix`` [U, D] and add them up into ``sums``.

    By rows through the adjoint, by columns through the operator where these are fewer. ``done`` is called with the
    number of vectors just used.
    """
    wanted = np.asarray(units, np.int64)
    rows, columns = op.shape
    if len(wanted) <= columns:
        for start in range(0, len(wanted), op.batch):
            some = wanted[start : start + op.batch]
            at = slice(start, start + len(some))
            block = op.rmatmat(_one_hot(some, rows, op.dtype)).T
            matrix[at] = block
            sums.add(at, block, op.x)
            done(len(some))
        return
    for start in range(0, columns, op.batch):
        some = np.arange(start, min(start + op.batch, columns))
        block = op.matmat(_one_hot(some, columns, op.dtype))[wanted]
        matrix[:, start : start + len(some)] = block
        sums.add(slice(None), block, op.x[some])
        done(len(some))


def operators_to(instance: Instance, source: str | None, target: str | None) -> list[AffineOperator]:
    """The operators to ``target`` from ``source``, or from every explained input that leads there.

    Raises NameNotFound, NoPath where none does.
    """
    if source is not None:
        return [instance.operator(source, target)]
    found: list[AffineOperator] = []
    failed: NoPath | None = None
    for name in instance.sources:
        try:
            found.append(instance.operator(name, target))
        except NoPath as error:
            failed = error
    if not found and failed is not None:
        raise failed
    return found


def common_bias(operators: Sequence[AffineOperator]) -> Array:
    """b in  y = sum of W_s x_s over the operators + b [M]. The bias of the first one holds what the others bring."""
    first, *others = operators
    b: Array = first.bias.astype(np.float64)
    for op in others:
        b = b - op.matvec(op.x)
    return b.astype(first.bias.dtype)


def completeness_bar(instance: Instance) -> float:
    """What the relative residual of this model may be: that of the coarsest float type between X and Z."""
    lin = instance.sized.lin
    reached = {e.out for e in needed(lin.equations, [lin.calculus.pairs[lin.output].value])}
    return max(BARS[lin.emit.dtype.name], BARS[precision(lin, reached)])


def chosen_units(units: Sequence[int] | None, op: AffineOperator) -> list[int]:
    """The flat units of the operator's target that were asked for (None: all). Raises OperatorError."""
    count = op.shape[0]
    if units is None:
        return list(range(count))
    wrong = next((u for u in units if not -count <= u < count), None)
    if wrong is not None:
        raise OperatorError(f"unit {wrong} of {op.target!r} does not exist: there are {count}, counted from 0")
    return [u % count for u in units]


def _one_hot(places: Array, size: int, dtype: Any) -> Array:
    """Unit vectors as columns [size, K]."""
    made = np.zeros((len(places), size), dtype)
    made[np.arange(len(places)), places] = 1
    return made.T
