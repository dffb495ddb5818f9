"""All singular values of an operator whose smaller side is not too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator

from omenn_onnx.errors import SpectrumError
from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.gram import extra_bytes, factor
from omenn_onnx.spectral.sides import Array, Sides, beyond_rank
from omenn_onnx.spectral.svd import Triplets

MEMORY = 10e9
SIDE = 10_000
BATCH = 32  # vectors applied at a time where the operator has no batch of its own


@dataclass(frozen=True)
class Spectrum:
    """R = U S V^T [M,D] with all p = min(M,D) singular values.

    ``s`` [p]: descending, float64; ``rank``: how many are above ``rounding``, the value up to which one cannot be told
    from zero (see ``gram.factor``). The vectors of the smaller side are held, those of the larger one are
    computed when asked for, from ``rows`` [p,q]: R itself where M <= D, else R^T. ``shape``: (M, D).
    """

    s: Array
    rounding: float
    small: Array
    rows: Array
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.s)

    @property
    def rank(self) -> int:
        return int(np.sum(self.s > self.rounding))

    @property
    def wide(self) -> bool:
        """Whether the smaller side is the target's: M <= D."""
        return self.shape[0] <= self.shape[1]

    def left(self, indices: Sequence[int] | None = None) -> Array:
        """u_k [M,n] for the given k, by default all up to the rank. SpectrumError: beyond the rank, M > D."""
        return self._vectors(indices, self.wide)

    def right(self, indices: Sequence[int] | None = None) -> Array:
        """v_k [D,n] for the given k, by default all up to the rank. SpectrumError: beyond the rank, D > M."""
        return self._vectors(indices, not self.wide)

    def triplets(self, k: int | None = None, tolerance: float = 1e-4) -> Triplets:
        """The k largest, by default all up to the rank, as ``svd.triplets`` gives them; residuals from the rows.

        The vectors of the larger side take k q numbers. Raises RankError where k exceeds the rank.
        """
        k = self.rank if k is None else k
        if not 1 <= k <= self.rank:
            raise beyond_rank(k, self.rank, f"operator of shape {self.shape[0]} x {self.shape[1]}")
        s, small, large = self.s[:k], self.small[:, :k].T.astype(self.rows.dtype), self._large(range(k))
        off = np.empty((2, k))
        for start in range(0, k, BATCH):
            part = slice(start, start + BATCH)
            lengths = s[part, None]
            off[0, part] = np.linalg.norm(large[part] @ self.rows.T - lengths * small[part], axis=1)
            off[1, part] = np.linalg.norm(small[part] @ self.rows - lengths * large[part], axis=1)
        u, v = (small, large) if self.wide else (large, small)
        return Triplets(u.T, s, v.T, off.max(axis=0) / s, tolerance, len(self.rows)).positive()

    def _vectors(self, indices: Sequence[int] | None, held: bool) -> Array:
        chosen = list(range(self.rank) if indices is None else indices)
        if outside := [i for i in chosen if not 0 <= i < len(self)]:
            raise SpectrumError(f"singular value {outside[0]} does not exist: there are {len(self)}, counted from 0")
        if held:
            return self.small[:, chosen]
        if lost := [i for i in chosen if i >= self.rank]:
            raise SpectrumError(
                f"singular value {lost[0]} is rounding error (rank {self.rank}): it has no vector on the larger side"
            )
        return self._large(chosen).T

    def _large(self, indices: Sequence[int]) -> Array:
        """The vectors of the larger side, [n,q] in the type of the rows."""
        chosen = list(indices)
        mixing = (self.small[:, chosen] / self.s[chosen]).T.astype(self.rows.dtype)
        return np.asarray(mixing @ self.rows)


def full_spectrum(
    operator: LinearOperator | Array,
    *,
    memory_limit: float = MEMORY,
    max_side: int = SIDE,
    show: bool | None = None,
) -> Spectrum:
    """All singular values of ``operator`` [M,D], and the vectors of its smaller side.

    Applies the operator to the unit vectors of that side, p = min(M,D) <= ``max_side`` of them, and keeps the p rows in
    the operator's type (float32, else float64); see ``gram.factor`` for what follows and how exact it is. ``show``:
    whether to say where it is, and what memory it takes (None: when it takes long). Raises SpectrumError where p is
    larger, where ``memory_limit`` bytes do not suffice (the message says how much does), and for values that are not
    finite.
    """
    sides = Sides.of(operator)
    p, q = sides.shape
    if p > max_side:
        raise SpectrumError(
            f"the smaller side of the operator of shape {sides} is above {max_side}: raise max_side, or take the "
            "leading singular triplets only"
        )
    need = p * q * np.dtype(sides.dtype).itemsize + extra_bytes(p, q)
    if need > memory_limit:
        raise SpectrumError(
            f"the full spectrum of an operator of shape {sides} takes {need / 1e9:.3g} GB: raise memory_limit (now "
            f"{memory_limit / 1e9:.3g} GB), or take the leading singular triplets only"
        )
    rows = np.empty((p, q), sides.dtype)
    batch = int(getattr(operator, "batch", BATCH))
    with progress(f"rows of {sides}, {need / 1e9:.2g} GB", p, "row", show) as done:
        for start in range(0, p, batch):
            units = np.eye(min(batch, p - start), p, start, sides.dtype)
            rows[start : start + batch] = sides.to_large(units)
            done(len(units))
    s, small, rounding = factor(rows, show)
    return Spectrum(s, rounding, small, rows, tuple(sides.operator.shape))
