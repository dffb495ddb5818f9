"""Block Lanczos on A A^T with a basis of the smaller side only.

A [p,q], p <= q, is R or R^T, whichever is wide. An orthonormal basis P [m,p] (rows) of the block Krylov space of A A^T,
reorthogonalised in full, gives H = P A A^T P^T, whose eigenpairs (t, z) approximate s^2 and u = z P with

    |A A^T u - t u| = |remainder z_last|,   so that with v = A^T u / s   |A v - s u| / s = |remainder z_last| / t.

The larger side, 150,528 numbers a vector for an image, is never kept nor orthogonalised, which is most of the work of
a bidiagonalisation (:mod:`.krylov`) beside the operator's own. What is squared loses half of the digits: s_k well below
s_1 does not come out, and is left to that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from omenn_onnx.spectral.krylov import Basis
from omenn_onnx.spectral.sides import Array, Sides, negligible

EXPECTED = 24  # vectors for each triplet, before H is copied to a larger place
STALLED = 1.5  # times more vectors without a better residual: rounding stands in the way
EQUAL = 1e-5  # relative distance of values that may be the same one, found as often as the block has vectors
MARGIN = 8  # times the rounding of s_1^2 that the residual of the smallest value has to reach


def leading(
    sides: Sides, k: int, *, block: int, bound: float, seed: int, most: int, tell: Callable[[int], None]
) -> Array | None:
    """u [k,p], orthonormal rows, for the ``k`` largest values, each with a residual of at most ``bound`` s.

    ``block``: random rows to begin with; ``most``: rows that the basis may have. None where the values cannot be told
    from rounding, or might be equal more often than a block of that size shows.
    """
    # A BLAS library's threads wait busily after each product, on the cores that the operator runs on.
    with threadpool_limits(1, "blas"):
        return _grown(sides, k, block, bound, seed, most, tell)


def _grown(
    sides: Sides, k: int, block: int, bound: float, seed: int, most: int, tell: Callable[[int], None]
) -> Array | None:
    size = sides.shape[0]
    basis = Basis(size, sides.dtype, min(most, size))
    waiting, _, _ = basis.split(np.random.default_rng(seed).standard_normal((block, size)), 0.0)
    h = np.zeros((min(most, EXPECTED * k) + block,) * 2)
    check, stalled, told = 2 * k, (0, np.inf), 0
    while basis.count + 2 * block <= most:
        basis.extend(waiting)
        image = sides.to_small(sides.to_large(waiting))
        scale = float(np.sqrt(np.max(np.sum(image.astype(np.float64) ** 2, axis=1))))
        new, within, across = basis.split(image, negligible(sides.dtype) * scale)
        n, last = basis.count, len(waiting)
        if n > len(h):
            h = np.pad(h, (0, len(h)))
        h[:n, n - last : n], h[n - last : n, :n] = within, within.T
        if len(new) < last:
            return None  # the space is whole, or nearly
        waiting = new
        if n < check:
            continue
        t, z = scipy.linalg.eigh(h[:n, :n], subset_by_index=(n - k, n - 1))
        if bound * t[0] < MARGIN * np.finfo(sides.dtype).eps * t[-1]:
            return None
        residuals = np.linalg.norm(across @ z[n - last :], axis=0) / t
        done = int(np.sum(residuals <= bound))
        tell(done - told)
        told = done
        if done == k:
            return None if _repeated(np.sqrt(t), block) else basis.combine(z[:, ::-1].T)
        worst = float(np.max(residuals))
        if worst < 0.5 * stalled[1]:
            stalled = n, worst
        elif n > STALLED * stalled[0] + 8 * k:
            return None
        check = n + max(block, n // 24)
    return None


def _repeated(s: Array, block: int) -> bool:
    """Whether ``block`` of the values, in rising order, are the same one: it may occur more often."""
    return bool(np.any(s[block - 1 :] - s[: len(s) - block + 1] <= EQUAL * s[block - 1 :]))
