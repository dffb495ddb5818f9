"""What each singular component of a layer adds to the output (SpecXAI, eq. 17-23)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.sparse.linalg import LinearOperator

from omenn_onnx.errors import SpectrumError
from omenn_onnx.spectral.full import Spectrum
from omenn_onnx.spectral.sides import Array
from omenn_onnx.spectral.svd import Triplets


def coefficients(found: Triplets | Spectrum, x: Array) -> Array:
    """Spectral coefficients c = S V^T x [k] (17-18) of a source ``x`` of D values, in float64. R x = U c.

    A full spectrum gives as many as it has vectors v: all p where D <= M, those up to its rank otherwise.
    """
    x = _flat(x, "source")
    if isinstance(found, Spectrum):
        _sized(x, found.shape[1], "source")
        if not found.wide:
            return np.asarray(found.s * (found.small.T @ x))
        # v = R^T u / s: the vectors of the larger side are not needed.
        return np.asarray(found.small[:, : found.rank].T @ (found.rows @ x))
    _sized(x, len(found.v), "source")
    return np.asarray(found.s * (found.v.T @ x))


@dataclass(frozen=True)
class Contributions:
    """y = sum_k alpha_k + remainder + bias for each of n outputs (20).

    ``alpha`` [n,k] = (L u_k)(u_k^T R x), or what a reduction leaves of it; ``weights`` [n,k]: L u_k; ``coordinates``
    [k]: u_k^T R x; ``linear`` [n]: L R x; ``bias`` [n]; ``indices`` [k]: which triplets, counted from 0. All float64.
    """

    alpha: Array
    weights: Array
    coordinates: Array
    linear: Array
    bias: Array
    indices: Array

    @property
    def y(self) -> Array:
        """[n] L R x + bias: the output."""
        return np.asarray(self.linear + self.bias)

    @property
    def explained(self) -> Array:
        """[n] sum_k alpha_k."""
        return np.array([math.fsum(row) for row in self.alpha])

    @property
    def remainder(self) -> Array:
        """[n] L R x - sum_k alpha_k: what the components at hand leave. Rounding where the spectrum is full."""
        return np.array([math.fsum([v, *-row]) for v, row in zip(self.linear, self.alpha, strict=True)])

    @property
    def shares(self) -> Array:
        """[n,k] normalised contributions (22): |alpha_k| / sum_j |alpha_j|, so that each output's sum to 1.

        Bias and remainder do not count. All zero for an output without contributions.
        """
        sizes = np.abs(self.alpha)
        total = sizes.sum(axis=1, keepdims=True)
        return np.asarray(sizes / np.where(total == 0, 1.0, total))

    @property
    def order(self) -> Array:
        """[n,k] positions by falling |alpha|, equal ones in the order that they have."""
        return np.argsort(-np.abs(self.alpha), axis=1, kind="stable")

    def reduced(self) -> Contributions:
        """Opposite signs cancelled, output by output, until one sign is left (21): see ``cancelled``."""
        return self._with(np.array([cancelled(row) for row in self.alpha]).reshape(self.alpha.shape))

    def above(self, threshold: float) -> Contributions:
        """The components of |alpha| >= ``threshold``; what is left out goes to the remainder."""
        if not threshold >= 0:
            raise SpectrumError(f"the threshold of contributions must not be negative; it is {threshold}")
        return self._with(np.where(np.abs(self.alpha) >= threshold, self.alpha, 0.0))

    def quantile(self, q: float) -> Contributions:
        """The components whose |alpha| reaches the ``q``-quantile of their output's; the others go to the remainder."""
        if not 0 <= q <= 1:
            raise SpectrumError(f"the quantile of contributions must lie between 0 and 1; it is {q}")
        sizes = np.abs(self.alpha)
        if not sizes.shape[1]:
            return self
        return self._with(np.where(sizes >= np.quantile(sizes, q, axis=1, keepdims=True), self.alpha, 0.0))

    def largest(self, count: int) -> Contributions:
        """The ``count`` components of largest |alpha| of each output; the others go to the remainder."""
        if count < 0:
            raise SpectrumError(f"the number of components must not be negative; it is {count}")
        kept = np.zeros(self.alpha.shape, bool)
        np.put_along_axis(kept, self.order[:, :count], True, axis=1)
        return self._with(np.where(kept, self.alpha, 0.0))

    def _with(self, alpha: Array) -> Contributions:
        return Contributions(alpha, self.weights, self.coordinates, self.linear, self.bias, self.indices)


def contributions(
    found: Triplets | Spectrum, left: Array | LinearOperator, image: Array, bias: Array | float = 0.0
) -> Contributions:
    """alpha_k = (L u_k)(u_k^T R x), without a division by s_k, and y = sum_k alpha_k + remainder + bias (20).

    ``left``: L [n,M], or [M] for one output, or an operator of shape (n, M); ``image``: R x [M]; ``bias``: b [n], what
    reaches the outputs otherwise. With a full spectrum the u_k span what R reaches: the remainder is rounding.
    Raises SpectrumError for sizes that do not fit and values that are not finite.
    """
    u = found.left() if isinstance(found, Spectrum) and not found.wide else _lefts(found)
    image = _flat(image, "target")
    _sized(image, len(u), "target")
    if isinstance(left, LinearOperator):
        _sized(np.empty(left.shape[1]), len(u), "left operator")
        columns = np.concatenate([u, image[:, None]], axis=1)
        applied = np.asarray(left.matmat(columns.astype(left.dtype or np.float64)), np.float64)
        weights, linear = applied[:, :-1], applied[:, -1]
    else:
        rows = np.atleast_2d(np.asarray(left, np.float64))
        _sized(rows[0], len(u), "left operator")
        weights, linear = rows @ u, rows @ image
    if not (np.isfinite(weights).all() and np.isfinite(linear).all()):
        raise SpectrumError(
            "the left operator gives NaN or infinite values: look for them in the input and in the weights"
        )
    b = np.asarray(bias, np.float64).ravel()
    if len(b) not in (1, len(linear)) or not np.isfinite(b).all():
        raise SpectrumError(f"the bias must be finite, one value or one for each of the {len(linear)} outputs")
    coordinates = np.asarray(u.T @ image)
    return Contributions(
        weights * coordinates, weights, coordinates, linear, np.broadcast_to(b, linear.shape), np.arange(u.shape[1])
    )


def cancelled(alpha: Array) -> Array:
    """Contributions of both signs reduced to one sign with the same sum (21): what is left of each, 0 where nothing is.

    How opposite signs are paired is this project's own choice: in each round the largest positive with the largest
    negative one, the second with the second, and so on; of each pair the larger keeps the difference, the other
    vanishes. Rounds are repeated until one sign is left. Computed in exact arithmetic and rounded at the end, such that
    ``math.fsum`` of the result is that of ``alpha``.
    """
    given = [float(a) for a in np.asarray(alpha, np.float64).ravel()]
    if not all(math.isfinite(a) for a in given):
        raise SpectrumError("contributions with NaN or infinite values cannot be reduced")
    left = {i: Fraction(a) for i, a in enumerate(given) if a}
    while True:
        falling = sorted(left, key=lambda i: -abs(left[i]))
        up, down = [i for i in falling if left[i] > 0], [i for i in falling if left[i] < 0]
        if not up or not down:
            break
        for i, j in zip(up, down, strict=False):
            gone, kept = (i, j) if abs(left[i]) < abs(left[j]) else (j, i)
            left[kept] += left.pop(gone)
            if not left[kept]:
                del left[kept]
    amounts = np.zeros(len(given))
    for i, exact in left.items():
        amounts[i] = float(exact)
    _settle(amounts, math.fsum(given))
    return amounts


def _settle(amounts: Array, total: float) -> None:
    """Where rounding moved ``math.fsum`` of the amounts off ``total``, move the last bits of one amount, in place."""
    if math.fsum(amounts) == total:
        return
    off = Fraction(total) - sum((Fraction(float(a)) for a in amounts), Fraction(0))
    # The largest changes least for its size; a smaller one has the finer bits.
    for i in np.argsort(-np.abs(amounts), kind="stable"):
        before = amounts[i]
        amounts[i] = float(Fraction(float(before)) + off)
        if math.fsum(amounts) == total:
            return
        amounts[i] = before


def contracted(vectors: Array, shape: Sequence[int], axis: int, x: Array | None = None) -> Array:
    """Signed heat maps of singular vectors [D,k]: contracted over one ``axis`` of ``shape`` (23), [k, the other axes].

    With ``x``, the D values of the tensor: map_k = sum_c v_k[c] x[c], this project's own reading of (23). A map sums to
    v_k . x, and times s_k to the spectral coefficient. Without ``x``: the plain average over the axis.
    """
    vectors = np.asarray(vectors)
    shape = tuple(int(d) for d in shape)
    if not -len(shape) <= axis < len(shape):
        raise SpectrumError(f"axis {axis} does not exist in a tensor of shape {list(shape)}")
    _sized(vectors, math.prod(shape), "vectors")
    maps = vectors.T.reshape(-1, *shape).astype(np.float64)
    along = axis % len(shape) + 1
    if x is None:
        return np.asarray(maps.mean(axis=along))
    values = _flat(x, "tensor")
    _sized(values, math.prod(shape), "tensor")
    return np.asarray((maps * values.reshape(shape)).sum(axis=along))


def _lefts(found: Triplets | Spectrum) -> Array:
    """u [M,k] in float64; all M of them where a full spectrum holds them."""
    return found.small if isinstance(found, Spectrum) else found.u.astype(np.float64)


def _flat(values: Array, what: str) -> Array:
    flat = np.asarray(values, np.float64).ravel()
    if not np.isfinite(flat).all():
        raise SpectrumError(f"the values of the {what} are not finite")
    return flat


def _sized(values: Array, size: int, what: str) -> None:
    if len(values) != size:
        raise SpectrumError(f"the {what} has {len(values)} values where the singular vectors have {size}")
