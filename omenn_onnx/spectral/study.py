"""Several layers at one input, and one layer at several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from omenn_onnx.spectral.analysis import LayerSpectrum
from omenn_onnx.spectral.biases import LayerBiases
from omenn_onnx.spectral.evolution import Evolution
from omenn_onnx.spectral.regions import Region
from omenn_onnx.spectral.similarity import THRESHOLD, Common, Directions, Gathered, clusters
from omenn_onnx.spectral.targets import Explained

Array = np.ndarray[Any, Any]

COMPARED = 3
"""Leading components that are compared between layers and between samples."""


@dataclass(frozen=True)
class InstanceSpectra:
    """The spectra of several layers at one input ``x``, in order, with the number that they explain, and what the
    biases of each stretch of the network add to it (beta_l, eq. 9). ``truth``: the input's class, if known;
    ``region``: how far the operator from x to the explained output holds, if asked for."""

    label: str
    x: Array
    explained: Explained
    layers: tuple[LayerSpectrum, ...]
    biases: LayerBiases | None = None
    truth: str = ""
    region: Region | None = None

    @cached_property
    def evolution(self) -> Evolution:
        """How the spectrum changes over the layers."""
        return Evolution.of(
            [one.name for one in self.layers],
            [one.s for one in self.layers],
            [one.alpha for one in self.layers],
            [one.triplets.v for one in self.layers],
            [one.full for one in self.layers],
            COMPARED,
        )


@dataclass(frozen=True)
class LayerSimilarity:
    """The right singular vectors of one layer at n inputs, compared.

    ``components`` [c,n,n]: of each of the first c components; ``leading`` [n,n]: of the spaces of the first c together;
    ``clusters`` [n]: which inputs belong together by these spaces, ``order`` [n]: similar ones side by side;
    ``common``: the directions that several inputs share, those of the most inputs first.
    """

    name: str
    components: Array
    leading: Array
    clusters: Array
    order: Array
    common: tuple[Common, ...]

    @classmethod
    def of(cls, name: str, spectra: Sequence[LayerSpectrum], threshold: float = THRESHOLD) -> LayerSimilarity:
        """Of the same layer at several inputs. Raises SpectrumError where these differ in size."""
        gathered = Gathered([Directions(one.triplets.v, one.triplets.s) for one in spectra])
        count = min(COMPARED, *(len(one.triplets) for one in spectra))
        leading = gathered.leading(count)
        labels, order = clusters(leading, threshold)
        shared = tuple(c for c in gathered.common(threshold) if len(c.samples) > 1)
        components = np.array([gathered.component(k) for k in range(count)])
        return cls(name, components, leading, labels, order, shared)
