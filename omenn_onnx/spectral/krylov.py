"""Block Golub-Kahan bidiagonalisation with full reorthogonalisation and thick restarts.

Vectors are stored as rows, as networks take them. A [p,q], p <= q, maps the large side (size q) to the small one (p):
A is the operator R or R^T, whichever is wide. Two bases of orthonormal rows, P [m,p] and Q [n,q], grow by blocks, with

    A^T P = Q B   up to rounding,      A Q = P B^T + the remainder of Q's last block,

so the singular triplets of the small matrix B give approximate triplets of A of which one residual vanishes and the
other is the remainder times the last entries of B's vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omenn_onnx.spectral.sides import Array, Sides, negligible

STRIP = 16384  # columns of a basis that are rotated at once
HIDDEN = 1e-4  # directions of a block shorter than this part of its longest are orthonormalised after the others


class Basis:
    """Orthonormal rows [count,size], with room for ``expected`` of them before the first copy."""

    def __init__(self, size: int, dtype: Any, expected: int) -> None:
        self._rows = np.empty((min(expected, size), size), dtype)
        self.count = 0

    @property
    def rows(self) -> Array:
        return self._rows[: self.count]

    @property
    def room(self) -> int:
        """How many rows can be added before they span the whole space."""
        return int(self._rows.shape[1]) - self.count

    def extend(self, rows: Array) -> None:
        needed = self.count + len(rows)
        if needed > len(self._rows):
            grown = np.empty((min(max(needed, 2 * len(self._rows)), self._rows.shape[1]), rows.shape[1]), rows.dtype)
            grown[: self.count] = self.rows
            self._rows = grown
        self._rows[self.count : needed] = rows
        self.count = needed

    def rotate(self, mixing: Array) -> None:
        """The first m rows become ``mixing`` [kept,m] @ rows, in place; the rows behind them stay."""
        kept, mixed = mixing.shape
        mixing = mixing.astype(self._rows.dtype)
        for start in range(0, self._rows.shape[1], STRIP):
            strip = self.rows[:, start : start + STRIP]
            strip[: kept + self.count - mixed] = np.concatenate([mixing @ strip[:mixed], strip[mixed:]])
        self.count += kept - mixed

    def combine(self, mixing: Array) -> Array:
        """``mixing`` [k,m] @ the first m rows: k vectors, as rows."""
        return mixing.astype(self._rows.dtype) @ self.rows[: mixing.shape[1]]

    def split(self, block: Array, floor: float) -> tuple[Array, Array, Array]:
        """``block`` [b,size] = within^T rows + across^T new, ``new`` [r,size] orthonormal and orthogonal to the rows.

        Directions not longer than ``floor`` are left out, so r <= b. The second projection, of the normalised rows,
        takes out what the first left through cancellation.
        """
        block = np.array(block, dtype=self._rows.dtype)
        within = self._project(block)
        new, across = _orthonormal(block, floor)
        within += self._project(new) @ across
        new, change = _orthonormal(new, 0.5)
        return new[: self.room], within, (change @ across)[: self.room]

    def _project(self, block: Array) -> Array:
        """Take the part within the rows out of ``block``, in place; gives its coefficients [count,b]."""
        coefficients = self.rows @ block.T
        block -= coefficients.T @ self.rows
        return coefficients.astype(np.float64)


def _orthonormal(block: Array, floor: float) -> tuple[Array, Array]:
    """``block`` [b,size] = across^T new, ``new`` [r,size] orthonormal. Leaves out directions not longer than ``floor``.

    By the eigenvectors of the Gram matrix, which takes matrix products only. Its rounding hides short directions behind
    long ones, so these are taken out first and what is left goes through it again.
    """
    exact = block.astype(np.float64)
    squares, directions = np.linalg.eigh(exact @ exact.T)
    lengths = np.sqrt(np.maximum(squares, 0.0))
    long = lengths > max(floor, HIDDEN * float(np.max(lengths, initial=0.0)))
    new = (directions[:, long] / lengths[long]).T @ exact
    across = (directions[:, long] * lengths[long]).T
    if np.any(long) and not np.all(long):
        short = directions[:, ~long]
        rest = short.T @ exact
        overlap = new @ rest.T
        rest_new, rest_across = _orthonormal(rest - overlap.T @ new, floor)
        new = np.concatenate([new, rest_new])
        across = np.concatenate([across + overlap @ short.T, rest_across @ short.T])
    return new.astype(block.dtype), across


class GolubKahan:
    """The bases of ``sides``, started from ``block`` random rows."""

    def __init__(self, sides: Sides, *, block: int, seed: int, expected: int = 0) -> None:
        self._sides = sides
        self.small, self.large = (Basis(size, sides.dtype, expected) for size in sides.shape)
        self.block = 0
        self.complete = False
        """Whether the bases hold all of A but rounding."""
        self._between = np.zeros((0, 0))  # B: [large.count, small.count - waiting]
        self._remainder = np.zeros((0, 0))
        self._waiting = 0  # the last rows of P, whose images are not known yet
        self._generic = False  # whether a random row is among them
        self._random = np.random.default_rng(seed)
        self._floor = negligible(sides.dtype)
        self._scale = 0.0
        self.widen(block)

    @property
    def size(self) -> int:
        return self.small.count

    def widen(self, count: int) -> None:
        """Add ``count`` random directions to this and every later block."""
        self.block += count
        self._add_random(count)

    def step(self) -> None:
        """Apply A^T to the waiting rows, and A to what is new in their images."""
        rows = self.small.rows[-self._waiting :]
        generic = self._generic
        image = self._sides.to_large(rows)
        self._scale = max(self._scale, float(np.sqrt(np.max(np.sum(image.astype(np.float64) ** 2, axis=1)))))
        new, within, across = self.large.split(image, self._floor * self._scale)
        self.large.extend(new)
        self._between = np.block([[self._between, within], [np.zeros((len(new), self._between.shape[1])), across]])
        self._waiting, self._generic, self._remainder = 0, False, np.zeros((0, 0))
        # What a random row's image adds nothing to holds the whole range, with probability one.
        if not self.small.room or (generic and not len(new)):
            self.complete = True
            return
        if len(new):
            rows, _, self._remainder = self.small.split(self._sides.to_small(new), self._floor * self._scale)
            self.small.extend(rows)
            self._waiting = len(rows)
        self._add_random(self.block - self._waiting)
        self.complete = not self._waiting

    def ritz(self, k: int) -> tuple[Array, Array, Array, Array]:
        """Approximate triplets, at most ``k``: values s, residuals |A q - s p|, and the mixings of P's and Q's rows."""
        x, s, y = np.linalg.svd(self._between, full_matrices=False)
        self._scale = max(self._scale, float(s[0]) if len(s) else 0.0)
        last = self._remainder.shape[1]
        residuals = np.linalg.norm(self._remainder @ x[len(x) - last :, :k], axis=0)
        return s[:k], residuals, y[:k], x[:, :k].T

    def restart(self, kept: int) -> None:
        """Shrink both bases to the ``kept`` largest approximate triplets; the waiting rows go on from there."""
        s, _, small, large = self.ritz(kept)
        self.small.rotate(small)
        self.large.rotate(large)
        self._between = np.diag(s)

    def _add_random(self, count: int) -> None:
        count = min(count, self.small.room)
        if count > 0:
            drawn = self._random.standard_normal((count, self.small.rows.shape[1]))
            rows, _, _ = self.small.split(drawn, 0.0)
            self.small.extend(rows)
            self._waiting += len(rows)
            self._generic = True
