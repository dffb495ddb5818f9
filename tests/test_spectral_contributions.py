"""What singular components add to an output: sums, reductions, shares, maps."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from omenn_onnx.errors import SpectrumError
from omenn_onnx.spectral.contributions import cancelled, coefficients, contracted, contributions
from omenn_onnx.spectral.full import full_spectrum
from omenn_onnx.spectral.svd import triplets

SEED = 11
SHAPES = pytest.mark.parametrize("shape", [(20, 60), (60, 20), (30, 30)], ids=str)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def case(shape, dtype=np.float64, outputs=3):
    """R [M,D], L [n,M], x [D], b [n]"""
    print("seed", SEED)
    random = np.random.default_rng(SEED)
    m, d = shape
    right = random.standard_normal(shape).astype(dtype)
    return right, random.standard_normal((outputs, m)), random.standard_normal(d), random.standard_normal(outputs)


@SHAPES
@BOTH
def test_a_full_spectrum_explains_the_output_to_the_bar(shape, dtype):
    right, left, x, b = case(shape, dtype)
    image = right.astype(np.float64) @ x
    y = left @ image + b
    spectrum = full_spectrum(right)
    bar = (1e-5 if dtype is np.float32 else 1e-12) * np.maximum(1, np.abs(y))
    for found in (spectrum, spectrum.triplets()):
        split = contributions(found, left, image, b)
        assert np.allclose(split.y, y, rtol=1e-14)
        assert np.all(np.abs(split.alpha.sum(axis=1) + b - y) <= bar)
        assert np.all(np.abs(split.remainder) <= bar)


@SHAPES
def test_contributions_are_those_of_the_formula(shape):
    right, left, x, b = case(shape)
    u, s, vt = np.linalg.svd(right, full_matrices=False)
    expected = (left @ u) * (s * (vt @ x))
    found = triplets(right, 5, tolerance=1e-9)
    split = contributions(found, left, right @ x, b)
    assert np.allclose(split.alpha, expected[:, :5], atol=1e-6)
    assert np.allclose(split.remainder, expected[:, 5:].sum(axis=1), atol=1e-6)
    assert np.array_equal(split.weights * split.coordinates, split.alpha)
    one = contributions(found, left[1], right @ x, b[1])
    assert np.allclose(one.alpha, split.alpha[1:2])
    by_operator = contributions(found, aslinearoperator(left), right @ x, b)
    assert np.allclose(by_operator.alpha, split.alpha)
    assert np.allclose(by_operator.linear, split.linear)


@SHAPES
def test_coefficients(shape):
    right, _, x, _ = case(shape)
    spectrum = full_spectrum(right)
    found = spectrum.triplets()
    c = coefficients(found, x)
    assert np.allclose(c, found.u.T @ right @ x)
    assert np.allclose(found.u @ c, right @ x)
    assert np.allclose(np.abs(coefficients(spectrum, x)), np.abs(c))
    assert np.allclose(spectrum.left() @ coefficients(spectrum, x), right @ x)
    assert np.all(coefficients(found.oriented(x), x) >= 0)


def test_components_of_rank_zero_or_beyond_add_nothing():
    left, x = np.ones((2, 4)), np.ones(6)
    split = contributions(full_spectrum(np.zeros((4, 6))), left, np.zeros(4), 1.5)
    assert np.array_equal(split.y, [1.5, 1.5])
    assert not split.shares.any()
    tall = contributions(full_spectrum(np.zeros((6, 4))), np.ones((2, 6)), np.zeros(6))
    assert tall.alpha.shape == (2, 0)
    for f in (tall.reduced, lambda: tall.quantile(0.5), lambda: tall.largest(3)):
        assert not f().explained.any()
    low = np.outer(np.arange(1.0, 5.0), np.arange(1.0, 7.0))
    split = contributions(full_spectrum(low), left, low @ x)
    assert np.abs(split.alpha[:, 1:]).max() < 1e-10
    assert np.abs(split.remainder).max() < 1e-10


def test_cancelling_by_hand():
    assert cancelled([5.0, -3.0, 2.0, -1.0]).tolist() == [2.0, 0.0, 1.0, 0.0]
    # 5 takes -4, 1 takes none of what is left; then nothing is negative.
    assert cancelled([5.0, -4.0, 1.0]).tolist() == [1.0, 0.0, 1.0]
    # Rounds: (4,-6) leaves -2, (1) has no partner; then (1,-2) leaves -1.
    assert cancelled([4.0, 1.0, -6.0]).tolist() == [0.0, 0.0, -1.0]
    assert cancelled([1.0, -1.0]).tolist() == [0.0, 0.0]
    assert cancelled([0.0, 2.0]).tolist() == [0.0, 2.0]
    assert cancelled([]).tolist() == []
    assert cancelled([-2.0, -1.0]).tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("seed", range(40))
def test_cancelling_keeps_the_sum_exactly_and_one_sign(seed):
    print("seed", seed)
    random = np.random.default_rng(seed)
    alpha = random.standard_normal(random.integers(1, 300)) * 10.0 ** random.integers(-9, 9)
    alpha *= np.exp(random.standard_normal(alpha.size) * random.integers(0, 10))
    if seed % 3 == 0:
        alpha = alpha.astype(np.float32).astype(np.float64)
    left = cancelled(alpha)
    assert math.fsum(left) == math.fsum(alpha)
    assert np.all(left >= 0) or np.all(left <= 0)
    kept = np.nonzero(left)[0]
    assert np.all(left[kept] * alpha[kept] > 0)  # what survives is a part of itself
    assert np.all(np.abs(left[kept]) <= np.abs(alpha[kept]) * (1 + 1e-12))
    assert np.array_equal(cancelled(left), left)


def test_cancelling_to_nothing_is_exact():
    alpha = np.array([0.1, 0.2, -0.3])
    rest = float(sum(map(Fraction, alpha.tolist())))
    assert rest != 0
    assert cancelled(alpha).sum() == rest


def test_reductions_keep_y_and_move_what_they_drop_to_the_remainder():
    right, left, x, b = case((30, 40))
    split = contributions(triplets(right, 12), left, right @ x, b)
    reduced = split.reduced()
    assert np.array_equal(reduced.explained, split.explained)
    assert np.all(np.sign(reduced.alpha).max(axis=1) - np.sign(reduced.alpha).min(axis=1) <= 1)
    threshold = float(np.median(np.abs(split.alpha)))
    for part, kept in (
        (split.above(threshold), np.abs(split.alpha) >= threshold),
        (split.largest(4), np.argsort(np.argsort(-np.abs(split.alpha), axis=1), axis=1) < 4),
        (split.quantile(0.75), np.argsort(np.argsort(-np.abs(split.alpha), axis=1), axis=1) < 3),
        (split.quantile(0), np.ones_like(split.alpha, bool)),
        (split.largest(99), np.ones_like(split.alpha, bool)),
    ):
        assert np.array_equal(part.alpha, np.where(kept, split.alpha, 0))
        assert np.array_equal(part.y, split.y)
        assert np.allclose(part.explained + part.remainder + part.bias, split.y, rtol=1e-13)


def test_shares_sum_to_one():
    right, left, x, b = case((30, 40))
    split = contributions(triplets(right, 6), left, right @ x, b)
    assert np.allclose(split.shares.sum(axis=1), 1)
    assert np.allclose(split.shares, np.abs(split.alpha) / np.abs(split.alpha).sum(axis=1, keepdims=True))
    reduced = split.reduced()
    assert np.allclose(reduced.shares, reduced.alpha / reduced.alpha.sum(axis=1, keepdims=True))
    sizes = np.take_along_axis(np.abs(split.alpha), split.order, axis=1)
    assert np.all(np.diff(sizes, axis=1) <= 0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_contracted_maps(axis):
    print("seed", SEED)
    random = np.random.default_rng(SEED)
    shape = (1, 3, 4, 5)
    vectors, x = random.standard_normal((60, 7)), random.standard_normal(60)
    maps = contracted(vectors, shape, axis, x)
    assert maps.shape == (7, *np.delete(shape, axis))
    assert np.allclose(maps.reshape(7, -1).sum(axis=1), vectors.T @ x)
    means = contracted(vectors, shape, axis)
    for k in range(7):
        block = vectors[:, k].reshape(shape)
        assert np.allclose(maps[k], (block * x.reshape(shape)).sum(axis=axis))
        assert np.allclose(means[k], block.mean(axis=axis))


def test_maps_sum_to_the_coefficients():
    right, _, x, _ = case((20, 60))
    found = triplets(right, 4)
    maps = contracted(found.v, (1, 3, 4, 5), 1, x)
    assert np.allclose(found.s * maps.reshape(4, -1).sum(axis=1), coefficients(found, x))


def test_bad_input():
    right, left, x, b = case((20, 60))
    found, image = triplets(right, 3), right @ x
    with pytest.raises(SpectrumError, match="the source has 59 values"):
        coefficients(found, x[:-1])
    with pytest.raises(SpectrumError, match="the target has 19 values"):
        contributions(found, left, image[:-1])
    for wrong in (left[:, :-1], aslinearoperator(left[:, :-1])):
        with pytest.raises(SpectrumError, match="left operator has 19 values"):
            contributions(found, wrong, image)
    with pytest.raises(SpectrumError, match="not finite"):
        contributions(found, left, image * np.nan)
    with pytest.raises(SpectrumError, match="left operator gives NaN"):
        contributions(found, left * np.nan, image)
    with pytest.raises(SpectrumError, match="bias must be finite"):
        contributions(found, left, image, b[:2])
    split = contributions(found, left, image, b)
    with pytest.raises(SpectrumError, match="threshold"):
        split.above(-1)
    with pytest.raises(SpectrumError, match="quantile"):
        split.quantile(1.5)
    with pytest.raises(SpectrumError, match="number of components"):
        split.largest(-1)
    with pytest.raises(SpectrumError, match="cannot be reduced"):
        cancelled([1.0, np.nan])
    with pytest.raises(SpectrumError, match="axis 4 does not exist"):
        contracted(found.v, (1, 3, 4, 5), 4)
    with pytest.raises(SpectrumError, match="the vectors has 60 values"):
        contracted(found.v, (3, 4, 4), 0)
