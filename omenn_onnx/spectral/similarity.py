"""Singular vectors of several instances compared: similarity matrices, clusters, the vectors that come up most.

A singular vector has no sign, and vectors of equal singular values are any basis of one space: what can be compared are
the spaces. The similarity of two spaces with orthonormal bases A [D,p] and B [D,q] is here

    sqrt(mean of cos^2 over the min(p,q) principal angles) = |A^T B|_F / sqrt(min(p,q)),

the absolute cosine for single vectors: 1 where one space holds the other, 0 where they are orthogonal. SpecXAI shows
similarity matrices between samples (figure 5); groups, this measure and the clustering are this project's own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from omenn_onnx.errors import SpectrumError

Array = np.ndarray[Any, Any]

GAP = 0.01
"""Singular values that lie less than this part below the first of their group belong to it: the basis within the group
is chance."""
THRESHOLD = 0.5
"""Samples or vectors belong together from this similarity on."""


@dataclass(frozen=True)
class Directions:
    """Singular vectors of one instance on one side: ``vectors`` [D,k], orthonormal, and their ``values`` [k],
    descending."""

    vectors: Array
    values: Array

    def groups(self, gap: float = GAP) -> list[slice]:
        """Runs of components of nearly one singular value. The last one may go on behind the k that are known."""
        s = np.asarray(self.values, np.float64)
        found, start = [], 0
        while start < len(s):
            inside = s[start:] > (1 - gap) * s[start]
            stop = start + int(np.argmin(inside) if not inside.all() else len(inside))
            stop = max(stop, start + 1)
            found.append(slice(start, stop))
            start = stop
        return found

    def group_of(self, component: int, gap: float = GAP) -> slice:
        """The group of a component. Raises SpectrumError where there is none."""
        for group in self.groups(gap):
            if group.start <= component < group.stop:
                return group
        raise SpectrumError(f"component {component} was asked for, {len(self.values)} are known, counted from 0")

    def leading(self, count: int, gap: float = GAP) -> Array:
        """The first ``count`` vectors (fewer where there are fewer), with the whole group of the last: [D,p]."""
        last = self.group_of(min(count, len(self.values)) - 1, gap)
        return self.vectors[:, : last.stop]


def principal_cosines(a: Array, b: Array) -> Array:
    """Cosines of the principal angles between the spans of orthonormal columns [D,p] and [D,q],
    descending [min(p,q)]."""
    found = np.linalg.svd(np.asarray(a, np.float64).T @ np.asarray(b, np.float64), compute_uv=False)
    return np.asarray(np.minimum(found, 1.0))


def subspace_similarity(a: Array, b: Array) -> float:
    """The similarity of the spans of orthonormal columns [D,p] and [D,q], 0 to 1."""
    cosines = principal_cosines(a, b)
    return float(np.sqrt(np.mean(cosines**2)))


class Gathered:
    """The vectors of several instances with all their scalar products, computed once.

    ``samples``: one ``Directions`` each, all of one length D. Raises SpectrumError where lengths differ.
    """

    def __init__(self, samples: Sequence[Directions], gap: float = GAP) -> None:
        lengths = sorted({len(s.vectors) for s in samples})
        if len(lengths) != 1:
            raise SpectrumError(
                f"singular vectors of different length cannot be compared: {lengths} (inputs of one size have one)"
            )
        self.samples, self.gap = list(samples), gap
        self.vectors = np.concatenate([s.vectors for s in samples], axis=1)
        self._starts = np.cumsum([0, *(len(s.values) for s in samples)])
        self.products = np.asarray(self.vectors.T @ self.vectors, np.float64)

    def component(self, number: int) -> Array:
        """Similarities [n,n] of component ``number`` (from 0) between samples, each with its whole group."""
        return self._matrix([self._place(i, s.group_of(number, self.gap)) for i, s in enumerate(self.samples)])

    def leading(self, count: int) -> Array:
        """Similarities [n,n] of the spaces of the first ``count`` components."""
        spans = [slice(0, s.leading(count, self.gap).shape[1]) for s in self.samples]
        return self._matrix([self._place(i, span) for i, span in enumerate(spans)])

    def common(self, threshold: float = THRESHOLD) -> list[Common]:
        """The directions that samples share, those of the most samples first.

        Groups of all samples are clustered (average linkage on 1 - similarity); what represents a cluster is the
        space nearest to its members: the leading eigenvectors of the sum of their projectors, as many as most of its
        members have.
        """
        groups = [(i, g) for i, s in enumerate(self.samples) for g in s.groups(self.gap)]
        places = [self._place(i, g) for i, g in groups]
        labels = clusters(self._matrix(places), threshold)[0]
        found = []
        for label in range(labels.max() + 1):
            members = np.flatnonzero(labels == label)
            sizes = [len(places[m]) for m in members]
            count = int(np.bincount(sizes).argmax())
            columns = np.concatenate([places[m] for m in members])
            found.append(self._shared([groups[m] for m in members], columns, count))
        return sorted(found, key=lambda c: (-len(c.samples), -c.agreement))

    def _shared(self, members: list[tuple[int, slice]], columns: Array, count: int) -> Common:
        # The sum of projectors V V^T has the eigenvectors V c / sqrt(e), c and e those of V^T V.
        values, inner = np.linalg.eigh(self.products[np.ix_(columns, columns)])
        inner, values = inner[:, ::-1][:, :count], values[::-1][:count]
        mixing = inner / np.sqrt(values)
        basis = self.vectors[:, columns] @ mixing.astype(self.vectors.dtype)
        basis = basis * np.sign(basis[np.argmax(np.abs(basis), axis=0), np.arange(count)])
        spans = [self._place(i, g) for i, g in members]
        images = [self.products[np.ix_(place, columns)] @ mixing for place in spans]
        near = [np.sqrt(np.sum(m**2) / min(m.shape)) for m in images]
        return Common(
            basis,
            tuple(sorted({i for i, _ in members})),
            tuple((i, g.start) for i, g in members),
            float(np.mean(near)),
        )

    def _place(self, sample: int, group: slice) -> Array:
        return np.asarray(self._starts[sample] + np.arange(group.start, group.stop))

    def _matrix(self, places: Sequence[Array]) -> Array:
        """Similarities of groups of columns. (Sums over blocks of squared products, by two reductions.)"""
        columns = np.concatenate(places)
        sizes = np.array([len(p) for p in places])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        squares = self.products[np.ix_(columns, columns)] ** 2
        sums = np.add.reduceat(np.add.reduceat(squares, starts, axis=0), starts, axis=1)
        return np.asarray(np.minimum(np.sqrt(sums / np.minimum.outer(sizes, sizes)), 1.0))


@dataclass(frozen=True)
class Common:
    """A direction (or space, where singular values coincide) that several samples have among their singular vectors.

    ``basis`` [D,p]; ``samples``: which of them have it; ``members``: (sample, first component) of each;
    ``agreement``: mean similarity of the members to it.
    """

    basis: Array
    samples: tuple[int, ...]
    members: tuple[tuple[int, int], ...]
    agreement: float


def clusters(similarity: Array, threshold: float = THRESHOLD) -> tuple[Array, Array]:
    """Labels [n], the largest cluster 0, and an order [n] in which similar ones stand side by side.

    Average linkage on the distance 1 - similarity, cut at 1 - ``threshold``.
    """
    n = len(similarity)
    if n < 2:
        return np.zeros(n, np.int64), np.arange(n)
    distance = np.clip(1.0 - (similarity + similarity.T) / 2, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    tree = linkage(condensed, method="average")
    order = leaves_list(optimal_leaf_ordering(tree, condensed) if n <= 500 else tree)
    raw = fcluster(tree, 1.0 - threshold, criterion="distance")
    names, counts = np.unique(raw, return_counts=True)
    rank = {name: place for place, name in enumerate(names[np.argsort(-counts, kind="stable")])}
    return np.array([rank[r] for r in raw]), order
