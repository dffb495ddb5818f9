"""The factors of a wide matrix of rows: all singular values, and the vectors of its smaller side."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dsyrk

from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.sides import Array, negligible

STRIP = 2048  # columns that are held in float64 at a time
DIRECT = 10**10  # p p q up to which the rows are factored themselves: seconds


def extra_bytes(p: int, q: int) -> int:
    """What ``factor`` takes beside the rows [p,q]: copies of them, or the Gram matrix and room for its eigenvectors."""
    return 8 * (3 * p * q if _direct(p, q) else p * (3 * p + STRIP))


def factor(rows: Array, show: bool | None) -> tuple[Array, Array, float]:
    """Singular values [p] (descending) and left vectors [p,p] of ``rows`` [p,q], p <= q, in float64, and the value
    up to which singular values are rounding error.

    Small matrices by their SVD, others by the eigenvectors of rows rows^T, accumulated in float64: its rounding moves
    an eigenvalue by up to p eps s_1^2, so values up to sqrt(p eps) s_1 are lost (eps that of float64). In either case
    values up to 16 eps s_1, eps that of the rows' own type, are rounding of the rows.
    """
    p, q = rows.shape
    unit = float(np.max(np.abs(rows), initial=0.0)) or 1.0  # squares must neither overflow nor vanish
    if _direct(p, q):
        u, s, _ = scipy.linalg.svd(rows / np.float64(unit), full_matrices=False, overwrite_a=True, check_finite=False)
        lost = p * float(np.finfo(np.float64).eps)
    else:
        values, u = scipy.linalg.eigh(_gram(rows, unit, show), overwrite_a=True, check_finite=False, driver="evd")
        s, u = np.sqrt(np.maximum(values[::-1], 0.0)), u[:, ::-1]
        lost = math.sqrt(p * float(np.finfo(np.float64).eps))
    return s * unit, u, max(lost, negligible(rows.dtype)) * float(s[0]) * unit


def _direct(p: int, q: int) -> bool:
    return p * p * q <= DIRECT


def _gram(rows: Array, unit: float, show: bool | None) -> Array:
    """The lower triangle of (rows / unit) (rows / unit)^T in float64."""
    p, q = rows.shape
    gram = np.zeros((p, p), order="F")
    with progress(f"Gram matrix {p} x {p}", q, "column", show) as done:
        for start in range(0, q, STRIP):
            strip = np.divide(rows[:, start : start + STRIP], unit, dtype=np.float64)
            gram = dsyrk(1.0, strip.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
            done(strip.shape[1])
    return gram
