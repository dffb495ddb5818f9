"""An operator as algorithms on its smaller side see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from omenn_onnx.errors import RankError, SpectrumError

Array = np.ndarray[Any, Any]


def negligible(dtype: Any) -> float:
    """The length, relative to the largest singular value, up to which a vector from an operator counts as rounding."""
    return 16 * float(np.finfo(dtype).eps)


@dataclass
class Sides:
    """The wide one of R and R^T, [small,large], applied to rows in their own type: float32, or float64.

    Counts the vectors that it is applied to. Raises SpectrumError for complex operators and values that are not finite.
    """

    operator: LinearOperator
    transposed: bool
    dtype: Any
    applications: int = 0

    @classmethod
    def of(cls, operator: LinearOperator | Array) -> Sides:
        made = aslinearoperator(operator)
        dtype = np.dtype(np.float64 if made.dtype is None else made.dtype)
        if dtype.kind not in "fiub":
            raise SpectrumError(f"the spectrum is computed for real operators; this one is of type {dtype}")
        if not all(made.shape):
            raise SpectrumError(f"an operator of shape {spell(made)} has no singular values")
        return cls(made, made.shape[0] > made.shape[1], np.promote_types(dtype, np.float32))

    @property
    def shape(self) -> tuple[int, int]:
        """(small, large)"""
        m, d = self.operator.shape
        return min(m, d), max(m, d)

    def to_large(self, rows: Array) -> Array:
        """[b,small] -> [b,large]"""
        return self._apply(rows, not self.transposed)

    def to_small(self, rows: Array) -> Array:
        """[b,large] -> [b,small]"""
        return self._apply(rows, self.transposed)

    def __str__(self) -> str:
        return spell(self.operator)

    @property
    def described(self) -> str:
        """As messages about its rank name it: values below the rounding of its type do not count."""
        return f"operator of shape {self} ({self.dtype})"

    def _apply(self, rows: Array, adjoint: bool) -> Array:
        self.applications += len(rows)
        found = self.operator.rmatmat(rows.T) if adjoint else self.operator.matmat(rows.T)
        found = np.asarray(found, self.dtype).T
        if not np.isfinite(found).all():
            raise SpectrumError(
                f"the operator of shape {self} gives NaN or infinite values: look for them in the input and in "
                "the weights"
            )
        return found


def spell(operator: LinearOperator) -> str:
    return f"{operator.shape[0]} x {operator.shape[1]}"


def beyond_rank(asked: int, rank: int, what: str) -> RankError:
    if not rank:
        return RankError(f"the {what} is zero at this input: it has no singular triplets", 0)
    said = f"{asked} singular triplets are asked for, but the {what} has rank {rank}: ask for at most {rank}"
    return RankError(said if asked > rank else f"the number of singular triplets must be at least 1, not {asked}", rank)
