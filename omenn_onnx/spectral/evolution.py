"""How the spectrum changes from layer to layer: effective ranks, the concentration of shares, the turn of the vectors.

SpecXAI looks at top vectors and spectra from the first to the penultimate layer (figures 6 and 7). The numbers that sum
them up here are this project's own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.spectral.similarity import Directions, subspace_similarity

Array = np.ndarray[Any, Any]


def effective_rank(s: Array) -> float:
    """exp(entropy of p), p_k = s_k^2 / sum s^2: how many directions share the energy; 1 to the rank, 0 for s = 0."""
    return _perplexity(np.square(np.asarray(s, np.float64)))


def participation_ratio(s: Array) -> float:
    """(sum s^2)^2 / sum s^4 = 1 / sum p^2: as the effective rank, with less weight on the tail; 0 for s = 0."""
    p = _normalised(np.square(np.asarray(s, np.float64)))
    return float(1.0 / np.sum(p * p)) if p.size else 0.0


def stable_rank(s: Array) -> float:
    """sum s^2 / s_1^2: the squared Frobenius norm in units of the squared spectral norm; 0 for s = 0."""
    p = _normalised(np.square(np.asarray(s, np.float64)))
    return float(1.0 / p.max()) if p.size else 0.0


@dataclass(frozen=True)
class Concentration:
    """How few components carry the contributions alpha: of |alpha| / sum |alpha|, the largest part, how many components
    hold half and nine tenths, and the effective number exp(entropy)."""

    largest: float
    half: int
    most: int
    effective: float

    @classmethod
    def of(cls, alpha: Array) -> Concentration:
        """Of contributions [k], in any order and of either sign."""
        p = np.sort(_normalised(np.abs(np.asarray(alpha, np.float64))))[::-1]
        if not p.size:
            return cls(0.0, 0, 0, 0.0)
        sums = np.cumsum(p)
        half, most = (int(np.searchsorted(sums, part - 1e-12)) + 1 for part in (0.5, 0.9))
        return cls(float(p[0]), half, most, _perplexity(p))


@dataclass(frozen=True)
class Evolution:
    """Layers in order, each with its singular values, contributions and right singular vectors.

    ``effective_rank``, ``participation_ratio``, ``stable_rank`` [layers] are of the singular values that are known:
    where ``full`` is False, of the largest ones. ``concentration``: of the contributions. ``turn`` [layers,layers]: the
    similarity of the leading right singular subspaces, all of them in the space of the input (similarity.py): 1 where
    two layers look at the same directions of the input.
    """

    layers: tuple[str, ...]
    full: tuple[bool, ...]
    effective_rank: Array
    participation_ratio: Array
    stable_rank: Array
    concentration: tuple[Concentration, ...]
    turn: Array

    @classmethod
    def of(
        cls,
        layers: Sequence[str],
        values: Sequence[Array],
        alphas: Sequence[Array],
        vectors: Sequence[Array],
        full: Sequence[bool],
        leading: int = 3,
    ) -> Evolution:
        """``values`` [K_l], ``alphas`` [K_l], ``vectors`` [D,k_l], k_l <= K_l, of each layer l; ``leading``: how many
        right vectors are compared between layers (with all that have nearly the singular value of the last one)."""
        heads = [Directions(v, s[: v.shape[1]]).leading(leading) for v, s in zip(vectors, values, strict=True)]
        turn = np.array([[subspace_similarity(a, b) for b in heads] for a in heads])
        return cls(
            tuple(layers),
            tuple(full),
            np.array([effective_rank(s) for s in values]),
            np.array([participation_ratio(s) for s in values]),
            np.array([stable_rank(s) for s in values]),
            tuple(Concentration.of(a) for a in alphas),
            turn,
        )


def _normalised(weights: Array) -> Array:
    """``weights`` that are not 0, scaled to sum to 1."""
    top = float(weights.max(initial=0.0))
    if not top > 0:
        return np.empty(0)
    p = weights[weights > 0] / top
    return np.asarray(p / p.sum())


def _perplexity(weights: Array) -> float:
    p = _normalised(weights)
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p)))) if p.size else 0.0
