"""The leading singular triplets of a linear operator, by block Krylov iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.linalg import LinearOperator

from omenn_onnx.errors import SpectrumError
from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.krylov import GolubKahan
from omenn_onnx.spectral.lanczos import leading
from omenn_onnx.spectral.sides import Array, Sides, beyond_rank, negligible

MEMORY = 1e9  # bytes for the Krylov bases
BLOCK = 16  # vectors applied at once: a network reads its weights once for all of them
EXPECTED = 24  # vectors in a basis for each triplet: seldom more are needed
PAIR = 2  # vectors applied at once where the squares do: one would not show that a value occurs twice
WIDE = 8  # vectors on the smaller side for each triplet, from which on the squares pay
CLOSE = 0.9  # of the tolerance: their residuals are known to a few percent
SAFETY = 0.5  # the iteration stops at this part of the tolerance; the residuals are then computed afresh
NOISE = 0.5  # what leaves a residual of this part of its value is no triplet but rounding


@dataclass(frozen=True)
class Triplets:
    """R v_k = s_k u_k and R^T u_k = s_k v_k for k of the singular values of R [M,D].

    ``u`` [M,k], ``s`` [k] (descending, float64), ``v`` [D,k]; ``residuals`` [k]: max(|R v - s u|, |R^T u - s v|) / s,
    from the operator itself; ``tolerance``: what was asked of them; ``applications``: vectors R or R^T was applied to.
    The entry of v_k that is largest in magnitude is positive (``oriented`` goes by an input instead).
    """

    u: Array
    s: Array
    v: Array
    residuals: Array
    tolerance: float
    applications: int

    def __len__(self) -> int:
        return len(self.s)

    @property
    def converged(self) -> Array:
        """[k] bool: residual within the tolerance. Only rounding in the operator leaves one out: see ``triplets``."""
        return np.asarray(self.residuals <= self.tolerance)

    def oriented(self, x: Array) -> Triplets:
        """The same triplets with the signs that make v_k . x >= 0, ``x`` of D values: no coefficient is negative."""
        return self.signed(self.v.T @ np.asarray(x, np.float64).ravel() < 0)

    def positive(self) -> Triplets:
        """The same triplets with the signs that make the entry of v_k that is largest in magnitude positive."""
        return self.signed(self.v[np.argmax(np.abs(self.v), axis=0), np.arange(len(self))] < 0)

    def select(self, indices: Sequence[int]) -> Triplets:
        """Some of the triplets, in the order of ``indices``."""
        c = list(indices)
        return replace(self, u=self.u[:, c], s=self.s[c], v=self.v[:, c], residuals=self.residuals[c])

    def signed(self, flipped: Array) -> Triplets:
        """The same triplets, u and v negated where ``flipped`` [k]."""
        signs = np.where(flipped, -1, 1).astype(self.u.dtype)
        return replace(self, u=self.u * signs, v=self.v * signs)


def triplets(
    operator: LinearOperator | Array,
    k: int,
    *,
    tolerance: float = 1e-4,
    seed: int = 0,
    block: int | None = None,
    memory_limit: float = MEMORY,
    max_applications: int = 100_000,
    show: bool | None = None,
) -> Triplets:
    """The ``k`` largest singular triplets of ``operator`` [M,D], with max(|R v - s u|, |R^T u - s v|) <= tolerance s.

    Block Lanczos on R R^T or R^T R, whichever is smaller, from two random vectors (the same for the same ``seed``).
    Where that cannot tell values from rounding (s_k far below s_1), or shows a value twice, which may then occur more
    often, and with a ``block`` that is given: block Golub-Kahan bidiagonalisation from ``block`` vectors (default k, at
    most 16), fully reorthogonalised, restarted thick where its bases would take more than ``memory_limit`` bytes. A
    block of k or more finds equal singular values as often as they occur; a smaller one is widened by fresh random
    vectors when it has converged, and goes on until these bring nothing larger. ``show``: whether to say where it is
    (None: when it takes long).

    Vectors are kept in the operator's type (float32, else float64). Values up to 16 eps s_1 are rounding and count as
    zero. In float32 a value below some 1e-3 s_1 may miss the tolerance through the rounding of the operator itself:
    ``Triplets.converged``. Raises RankError where k exceeds the rank, SpectrumError where the operator gives values
    that are not finite, and where ``max_applications`` or the memory do not suffice.
    """
    sides = Sides.of(operator)
    if k < 1:
        raise SpectrumError(f"the number of singular triplets must be at least 1, not {k}")
    if k > sides.shape[0]:
        raise beyond_rank(k, sides.shape[0], f"operator of shape {sides}")
    if not tolerance > 0:
        raise SpectrumError(f"the tolerance of singular triplets must be positive, not {tolerance}")
    if block is not None and block < 1:
        raise SpectrumError(f"the block of the Krylov iteration must have at least 1 vector, not {block}")
    if block is None and sides.shape[0] >= WIDE * k:
        with progress("singular triplets", k, "triplet", show) as done:
            found = _by_squares(sides, k, tolerance, seed, memory_limit, max_applications, done)
        if found is not None:
            return found
    block = min(block or min(k, BLOCK), sides.shape[0])
    goal = _Goal(k, tolerance, _capacity(k, block, sides, memory_limit), max_applications)
    # Memory that is never written costs nothing.
    bases = GolubKahan(sides, block=block, seed=seed, expected=min(goal.capacity + block, EXPECTED * k))
    with progress("singular triplets", k, "triplet", show) as done:
        s, small, large = _grow(bases, goal, sides, done)
    return _measured(s, bases.small.combine(small), bases.large.combine(large), goal, sides)


def _by_squares(
    sides: Sides,
    k: int,
    tolerance: float,
    seed: int,
    memory_limit: float,
    max_applications: int,
    tell: Callable[[int], None],
) -> Triplets | None:
    """The triplets by Lanczos on the smaller side; None where ``leading`` gives none or they miss the tolerance."""
    rows = int(min(memory_limit / (1.5 * sides.shape[0] * np.dtype(sides.dtype).itemsize), max_applications / 2))
    small = leading(sides, k, block=PAIR, bound=CLOSE * tolerance, seed=seed, most=rows, tell=tell)
    if small is None:
        return None
    image = sides.to_large(small)
    exact = image.astype(np.float64)
    squares, mixing = np.linalg.eigh(exact @ exact.T)
    s, mixing = np.sqrt(squares[::-1]), mixing[:, ::-1]
    small = (mixing.T @ small).astype(sides.dtype)
    large = (mixing.T @ exact / s[:, None]).astype(sides.dtype)
    back = sides.to_small(large) - s[:, None] * small  # (the other residual is rounding: s v is the image of u)
    residuals = np.linalg.norm(back, axis=1) / s
    return _made(small, s, large, residuals, tolerance, sides) if residuals.max() <= tolerance else None


@dataclass(frozen=True)
class _Goal:
    k: int
    tolerance: float
    capacity: int
    max_applications: int


def _capacity(k: int, block: int, sides: Sides, memory_limit: float) -> int:
    """How many vectors each basis may have."""
    # Bases double when they grow: while one is copied, half of it exists twice.
    vector = 1.5 * sum(sides.shape) * np.dtype(sides.dtype).itemsize
    least = min(k + 4 * max(block, min(k, BLOCK)), sides.shape[0])
    if memory_limit < least * vector:
        raise SpectrumError(
            f"{k} singular triplets need bases of {least} vectors on both sides, {least * vector / 1e9:.3g} GB: "
            f"raise memory_limit (now {memory_limit / 1e9:.3g} GB) or ask for fewer"
        )
    return int(memory_limit / vector)


def _grow(bases: GolubKahan, goal: _Goal, sides: Sides, tell: Callable[[int], None]) -> tuple[Array, Array, Array]:
    """Grow ``bases`` until their k largest values hold. Gives these, and how both bases mix to their vectors."""
    k, tolerance = goal.k, goal.tolerance
    steps, until, checked, told, before = 0, 0, 0, 0, np.zeros(k)
    while True:
        bases.step()
        steps += 1
        full = bases.size + bases.block > goal.capacity
        if not (bases.complete or full or bases.size >= checked + max(bases.block, checked // 12)):
            continue
        checked = bases.size
        s, residuals, small, large = bases.ritz(k)
        nonzero = s > negligible(sides.dtype) * s[:1]
        done = int(np.sum(nonzero & (residuals <= SAFETY * tolerance * s)))
        tell(done - told)
        told = done
        if bases.complete:
            if np.sum(nonzero) < k:
                raise beyond_rank(k, int(np.sum(nonzero)), sides.described)
            return s, small, large
        if done == k and steps >= until:
            # What was missed can only raise the values, once fresh directions had some steps to show it.
            if bases.block >= k or np.all(s - before <= tolerance * s):
                return s, small, large
            bases.widen(min(bases.block, k - bases.block))
            before, until = s, steps + max(3, steps // 3)
        if sides.applications >= goal.max_applications:
            raise SpectrumError(
                f"{done} of {k} singular triplets have residuals within {tolerance:g} s after {sides.applications} "
                "applications of the operator: raise max_applications or the tolerance, or ask for fewer"
            )
        if full:
            bases.restart(k + max(bases.block, (goal.capacity - k) // 3))
            checked = bases.size


def _measured(s: Array, small: Array, large: Array, goal: _Goal, sides: Sides) -> Triplets:
    """The triplets with the residuals that the operator itself gives. ``small`` [k,p], ``large`` [k,q]"""
    residuals = np.empty(goal.k)
    for start in range(0, goal.k, BLOCK):
        part = slice(start, start + BLOCK)
        there = sides.to_large(small[part]) - s[part, None] * large[part]
        back = sides.to_small(large[part]) - s[part, None] * small[part]
        residuals[part] = np.maximum(np.linalg.norm(there, axis=1), np.linalg.norm(back, axis=1)) / s[part]
    if np.any(residuals > NOISE):
        raise beyond_rank(goal.k, int(np.argmax(residuals > NOISE)), sides.described)
    return _made(small, s, large, residuals, goal.tolerance, sides)


def _made(small: Array, s: Array, large: Array, residuals: Array, tolerance: float, sides: Sides) -> Triplets:
    u, v = (large, small) if sides.transposed else (small, large)
    return Triplets(u.T, s, v.T, residuals, tolerance, sides.applications).positive()
