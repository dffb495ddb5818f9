"""Singular triplets and full spectra against dense SVD, ARPACK and PROPACK."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator, svds

from omenn_onnx.errors import RankError, SpectrumError
from omenn_onnx.spectral import gram
from omenn_onnx.spectral.full import full_spectrum
from omenn_onnx.spectral.lanczos import leading
from omenn_onnx.spectral.sides import Sides
from omenn_onnx.spectral.svd import triplets

SEED = 5
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Counted(LinearOperator):
    """A matrix that counts the vectors it is applied to, and the applications."""

    def __init__(self, matrix):
        super().__init__(matrix.dtype, matrix.shape)
        self.matrix, self.vectors, self.calls = matrix, 0, 0

    def _matmat(self, x):
        self.vectors, self.calls = self.vectors + x.shape[1], self.calls + 1
        return self.matrix @ x

    def _rmatmat(self, x):
        self.vectors, self.calls = self.vectors + x.shape[1], self.calls + 1
        return self.matrix.T @ x


def with_spectrum(s, m, d, dtype, seed=SEED):
    """A random matrix [m,d] of singular values ``s``."""
    print("seed", seed)
    random = np.random.default_rng(seed)
    u, v = (np.linalg.qr(random.standard_normal((n, len(s))))[0] for n in (m, d))
    return ((u * s) @ v.T).astype(dtype)


def check(matrix, found, tolerance=1e-4):
    """The triplets satisfy both equations, are orthonormal, and are the largest that dense SVD knows."""
    a, u, s, v = (np.asarray(t, np.float64) for t in (matrix, found.u, found.s, found.v))
    dense = np.linalg.svd(a, compute_uv=False)[: len(s)]
    assert np.all(np.linalg.norm(a @ v - s * u, axis=0) <= 1.01 * tolerance * s)
    assert np.all(np.linalg.norm(a.T @ u - s * v, axis=0) <= 1.01 * tolerance * s)
    assert np.allclose(s, dense, rtol=1e-6, atol=1e-6 * dense[0])
    assert np.all(np.diff(s) <= 0)
    for vectors in (u, v):
        assert np.abs(vectors.T @ vectors - np.eye(len(s))).max() < 1e-5
    assert found.converged.all()
    assert np.all(found.residuals <= tolerance)


SPECTRA = {
    "flat": np.linspace(1.0, 0.5, 200),
    "decaying": np.exp(-np.arange(200) / 8.0) + 1e-4,
    "power": 1 / (1 + np.arange(200.0)),
    "pairs": np.repeat(1 / (1 + np.arange(100.0)), 2),
    "twenty alike": np.repeat(1 / (1 + np.arange(10.0)), 20),
    "all alike": np.ones(200),
}


@BOTH
@pytest.mark.parametrize("shape", [(200, 700), (500, 200), (200, 200)], ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_triplets_are_those_of_dense_svd(name, shape, dtype):
    matrix = with_spectrum(SPECTRA[name], *shape, dtype)
    check(matrix, triplets(matrix, 16))


@pytest.mark.parametrize("k", [1, 3, 40, 150, 200])
@pytest.mark.parametrize("block", [None, 1, 5, 300])
def test_any_number_of_triplets_by_any_block(k, block):
    matrix = with_spectrum(SPECTRA["power"], 200, 300, np.float64)
    check(matrix, triplets(matrix, k, block=block))


@pytest.mark.parametrize("solver", ["arpack", "propack"])
def test_triplets_agree_with_scipy(solver):
    print("seed", SEED)
    random = np.random.default_rng(SEED)
    matrix = random.standard_normal((120, 900))
    u, s, vt = svds(aslinearoperator(matrix), 8, solver=solver, rng=SEED)
    order = np.argsort(-s)
    found = triplets(matrix, 8, tolerance=1e-8)
    assert np.allclose(found.s, s[order], rtol=1e-10)
    assert np.allclose(np.abs(np.sum(found.u * u[:, order], axis=0)), 1, atol=1e-6)
    assert np.allclose(np.abs(np.sum(found.v.T * vt[order], axis=1)), 1, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4, None])
def test_a_value_that_many_blocks_share_is_found_as_often_as_it_occurs(block):
    """Each token through the same weights: every singular value occurs once for each token."""
    print("seed", SEED)
    matrix = np.kron(np.eye(20), np.random.default_rng(SEED).standard_normal((12, 15)))
    found = triplets(matrix, 16, block=block)
    check(matrix, found)
    assert np.ptp(found.s) < 1e-6 * found.s[0]


def test_a_small_memory_restarts_and_comes_to_the_same():
    matrix = with_spectrum(SPECTRA["flat"], 400, 600, np.float64)
    operator = Counted(matrix)
    found = triplets(operator, 6, memory_limit=1.5 * 1000 * 8 * 45)
    assert operator.vectors > 90  # more than the bases hold
    check(matrix, found)


@BOTH
@pytest.mark.parametrize("times", [2, 3, 7])
def test_a_value_that_occurs_several_times_on_a_large_side_is_found_as_often(times, dtype):
    """Two vectors show it twice; how often it really occurs takes a block of more."""
    s = np.linspace(1.0, 0.5, 500)
    s[3 : 3 + times] = s[3]
    matrix = with_spectrum(s, 500, 600, dtype)
    found = triplets(matrix, 12)
    check(matrix, found)
    assert np.sum(np.abs(found.s - found.s[3]) < 1e-5) == times


@BOTH
@pytest.mark.parametrize("below", [0.5, 0.03, 1e-3])
def test_values_far_below_the_first_come_out(below, dtype):
    """Squares lose half of the digits: what they do not tell is found by both sides."""
    matrix = with_spectrum(np.concatenate([[1.0], below * np.linspace(1.0, 0.9, 399)]), 400, 500, dtype)
    check(matrix, triplets(matrix, 6))


def test_the_squares_tell_what_they_cannot():
    """Equal values, and values below the rounding of s_1^2, are left to the bidiagonalisation; others are found."""
    flat = np.linspace(1.0, 0.5, 400)
    twice, falling = np.where(np.arange(400) < 2, 1.0, flat * 0.9), 0.5 ** np.arange(400.0)
    for s, found in ((flat, True), (twice, False), (falling, False)):
        matrix = with_spectrum(s, 400, 500, np.float32)
        sides = Sides.of(matrix)
        u = leading(sides, 12, block=2, bound=1e-4, seed=0, most=400, tell=lambda steps: None)
        assert (u is not None) == found
        if u is not None:
            assert np.abs(u @ u.T - np.eye(12)).max() < 1e-5
            image = sides.to_small(sides.to_large(u))
            squares = np.sum(u * image, axis=1)
            assert np.all(np.linalg.norm(image - squares[:, None] * u, axis=1) <= 1.2e-4 * squares)


def test_applications_are_few_and_counted():
    """A flat random spectrum, the hard case: about what the bases of the smaller side need, far below p * 2."""
    print("seed", SEED)
    matrix = np.random.default_rng(SEED).standard_normal((1000, 1500)).astype(np.float32)
    operator = Counted(matrix)
    found = triplets(operator, 16)
    check(matrix, found)
    assert found.applications == operator.vectors
    assert operator.vectors <= 400
    operator = Counted(matrix)
    check(matrix, triplets(operator, 16, block=16))
    assert operator.vectors <= 1000
    assert operator.calls <= 64
    easy = Counted(with_spectrum(0.5 ** np.arange(60.0), 600, 900, np.float64))
    triplets(easy, 16)
    assert easy.vectors <= 16 * 8


def test_the_seed_decides():
    matrix = with_spectrum(SPECTRA["flat"], 200, 300, np.float32)
    a, b, c = (triplets(matrix, 5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(a.u, b.u)
    assert np.array_equal(a.v, b.v)
    assert not np.array_equal(a.v, c.v)
    assert np.abs(np.abs(np.sum(a.v * c.v, axis=0)) - 1).max() < 1e-3
    assert np.all(a.v[np.abs(a.v).argmax(axis=0), np.arange(5)] > 0)


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_scale_does_not_matter(scale):
    matrix = with_spectrum(SPECTRA["power"], 200, 300, np.float64)
    found, large = triplets(matrix, 5), triplets(matrix * scale, 5)
    assert np.allclose(found.s * scale, large.s, rtol=1e-8, atol=0)
    assert np.allclose(full_spectrum(matrix * scale).s, full_spectrum(matrix).s * scale, rtol=1e-8, atol=0)


def test_orientation_and_selection():
    matrix = with_spectrum(SPECTRA["power"], 200, 300, np.float64)
    found, x = triplets(matrix, 6), np.random.default_rng(SEED).standard_normal(300)
    assert np.all(found.oriented(x).v.T @ x >= 0)
    check(matrix, found.oriented(x))
    assert np.array_equal(found.select([4, 1]).s, found.s[[4, 1]])


@BOTH
@pytest.mark.parametrize("block", [None, 2])
def test_beyond_the_rank(dtype, block):
    matrix = with_spectrum(np.array([3.0, 2.0, 2.0, 1.0, 0.1]), 100, 150, dtype)
    check(matrix, triplets(matrix, 5, block=block))
    for k in (6, 20):
        with pytest.raises(RankError, match=rf"{k} singular triplets .* has rank 5") as error:
            triplets(matrix, k, block=block)
        assert error.value.rank == 5
    with pytest.raises(RankError, match="has rank 100: ask for at most 100"):
        triplets(matrix, 101)
    assert full_spectrum(matrix).rank == 5
    with pytest.raises(RankError, match="has rank 5"):
        full_spectrum(matrix).triplets(6)
    with pytest.raises(SpectrumError, match="singular value 7 is rounding error"):
        full_spectrum(matrix).right([7])
    with pytest.raises(SpectrumError, match="singular value 100 does not exist"):
        full_spectrum(matrix).left([100])


def test_what_cannot_be_done_is_said():
    eye = np.eye(30)
    for k in (0, -1):
        with pytest.raises(SpectrumError, match="at least 1"):
            triplets(eye, k)
    with pytest.raises(SpectrumError, match="is zero at this input"):
        triplets(np.zeros((20, 30)), 2)
    bad = eye.copy()
    bad[3, 4] = np.nan
    for compute in (lambda m: triplets(m, 2), full_spectrum):
        with pytest.raises(SpectrumError, match="NaN or infinite"):
            compute(bad)
        with pytest.raises(SpectrumError, match="real operators; this one is of type complex128"):
            compute(eye * 1j)
    with pytest.raises(SpectrumError, match="no singular values"):
        triplets(np.zeros((0, 3)), 1)
    with pytest.raises(SpectrumError, match="tolerance"):
        triplets(eye, 2, tolerance=0)
    with pytest.raises(SpectrumError, match="block"):
        triplets(eye, 2, block=0)
    with pytest.raises(SpectrumError, match="raise memory_limit"):
        triplets(eye, 2, memory_limit=1000)
    flat = with_spectrum(SPECTRA["flat"], 200, 300, np.float64)
    with pytest.raises(SpectrumError, match="raise max_applications"):
        triplets(flat, 5, max_applications=20)
    with pytest.raises(SpectrumError, match=r"takes 0\.\d+ GB: raise memory_limit"):
        full_spectrum(flat, memory_limit=1e5)
    with pytest.raises(SpectrumError, match="raise max_side"):
        full_spectrum(flat, max_side=100)


@BOTH
@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)], ids=str)
def test_a_single_row_or_column(shape, dtype):
    matrix = np.arange(1.0, 41.0)[: max(shape)].reshape(shape).astype(dtype)
    for found in (triplets(matrix, 1), full_spectrum(matrix).triplets()):
        check(matrix, found)


@BOTH
@pytest.mark.parametrize("direct", [10**10, 0], ids=["svd", "gram"])
@pytest.mark.parametrize("shape", [(200, 700), (500, 200), (200, 200)], ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_full_spectrum_is_that_of_dense_svd(name, shape, direct, dtype, monkeypatch):
    monkeypatch.setattr(gram, "DIRECT", direct)
    monkeypatch.setattr(gram, "STRIP", 64)
    matrix = with_spectrum(SPECTRA[name], *shape, dtype)
    found = full_spectrum(matrix)
    dense = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    assert np.abs(found.s - dense).max() <= 1e-6 * dense[0]
    assert found.rank == 200
    u, v = found.left(), found.right()
    assert np.abs(u * found.s @ v.T - matrix).max() <= 1e-5 * dense[0]
    assert np.allclose(found.left([3, 7]), u[:, [3, 7]], atol=1e-6)
    check(matrix, found.triplets(20))


def test_values_below_the_rounding_of_the_gram_matrix_are_told(monkeypatch):
    monkeypatch.setattr(gram, "DIRECT", 0)
    matrix = with_spectrum(10.0 ** -np.arange(12.0), 60, 80, np.float64)
    found = full_spectrum(matrix)
    assert found.rounding == pytest.approx(np.sqrt(60 * np.finfo(float).eps))
    assert found.rank == 7
    assert np.allclose(found.s[:6], 10.0 ** -np.arange(6.0), rtol=1e-3)
    monkeypatch.setattr(gram, "DIRECT", 10**10)
    assert full_spectrum(matrix).rank == 12


def test_a_zero_operator_has_rank_zero():
    found = full_spectrum(np.zeros((4, 9), np.float32))
    assert found.rank == 0
    assert not found.s.any()
    assert found.right().shape == (9, 0)
    with pytest.raises(RankError, match="is zero"):
        found.triplets()
