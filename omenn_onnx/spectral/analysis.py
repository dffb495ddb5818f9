"""One layer of a network at one input: its spectrum, and what the components add to the explained number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from omenn_onnx.errors import NoPath, OperatorError, RankError
from omenn_onnx.spectral.contributions import Contributions, coefficients, contracted, contributions
from omenn_onnx.spectral.full import Spectrum, full_spectrum
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import between_two
from omenn_onnx.spectral.operators import MEMORY_LIMIT, AffineOperator
from omenn_onnx.spectral.proposals import Layer, proposed
from omenn_onnx.spectral.svd import Triplets, triplets
from omenn_onnx.spectral.symbolic import Symbolic, symbolic
from omenn_onnx.spectral.targets import Explained

Array = np.ndarray[Any, Any]

COUNT = 8
"""Triplets that are computed, and vectors that are kept, when nobody says how many."""
SMALL = 512
"""Smaller sides up to which the whole spectrum is computed when nobody says how many."""
NAMED = 4
"""Components that the symbolic form names."""


@dataclass(frozen=True)
class Settings:
    """How much of a spectrum is computed, and how it is reduced.

    ``k``: triplets (None: the whole spectrum where the smaller side is at most ``SMALL``, else ``COUNT`` or as many as
    there are); ``fewer``: as many as there are where the rank is below ``k``, too. ``full``: the whole spectrum; ``k``
    or ``COUNT`` vectors are kept, with ``all_vectors`` as many as there are. ``tolerance``: of the residuals, relative
    to each singular value. ``memory_limit``: bytes. ``quantile``, ``threshold``: which contributions count, in place of
    cancelling opposite signs. ``axis``: of the source, which maps are contracted over (None: that of its channels).
    ``show``: whether long work says where it is (None: when it takes long).
    """

    k: int | None = None
    fewer: bool = False
    full: bool = False
    all_vectors: bool = False
    tolerance: float = 1e-4
    memory_limit: int = MEMORY_LIMIT
    quantile: float | None = None
    threshold: float | None = None
    seed: int = 0
    show: bool | None = None
    axis: int | None = None

    def reduced(self, found: Contributions) -> Contributions:
        """What the contributions leave: opposite signs cancelled (21), or those above a quantile or threshold."""
        if self.threshold is not None:
            return found.above(self.threshold)
        return found.reduced() if self.quantile is None else found.quantile(self.quantile)


@dataclass(frozen=True)
class Maps:
    """Singular vectors [k, ...] over the places of their tensor: contracted with its values (23), ``by_value``, and
    averaged over the features, ``average``; a tensor of features alone keeps them: products, and the vector itself."""

    by_value: Array
    average: Array

    @classmethod
    def of(cls, vectors: Array, shape: Sequence[int], axis: int, values: Array) -> Maps:
        """Of ``vectors`` [D,k] over a tensor of ``shape`` whose features lie along ``axis``, with D ``values``."""
        if all(d == 1 for i, d in enumerate(shape) if i != axis):
            return cls(vectors.T * values.astype(np.float64), vectors.T.astype(np.float64))
        return cls(contracted(vectors, shape, axis, values), contracted(vectors, shape, axis))


@dataclass(frozen=True)
class LayerSpectrum:
    """R = U S V^T from the input x to a layer, and what its components add to the explained number:

        y = L R x + bias = sum_k alpha_k + remainder + bias        alpha_k = (L u_k)(u_k^T R x)    (SpecXAI, eq. 20)

    ``sides``: R's shape; ``full``: whether all K components up to rounding are here. ``s``, ``coefficients``
    (s_k v_k . x, none negative: 17-18) [K]. ``triplets``: the first k <= K with their vectors, oriented alike.
    ``split``: the contributions, of one output; ``reduced``: what a reduction leaves of them. ``right``, ``left``: the
    vectors of ``triplets`` over input and layer. ``past``: the tensor through which a path leads past the layer, where
    it does not separate input and output; what it brings is in the bias. ``residual``: |y of the network - L R x -
    bias| / max(1, |y|, sum |L_j (R x)_j|, |bias|), all three computed for themselves: rounding and nothing else.
    """

    layer: Layer
    sides: tuple[int, int]
    full: bool
    s: Array
    coefficients: Array
    triplets: Triplets
    split: Contributions
    reduced: Contributions
    right: Maps
    left: Maps
    past: str | None
    residual: float

    @property
    def name(self) -> str:
        """The layer's."""
        return self.layer.name

    @property
    def y(self) -> float:
        """The explained number, as L R x + bias."""
        return float(self.split.y[0])

    @property
    def bias(self) -> float:
        """What reaches y otherwise than through R x: L (the layer's bias) + the bias from the layer on."""
        return float(self.split.bias[0])

    @property
    def alpha(self) -> Array:
        """The contributions [K]."""
        return np.asarray(self.split.alpha[0])

    @property
    def remainder(self) -> float:
        """What the components at hand leave of L R x; rounding where the spectrum is full."""
        return float(self.split.remainder[0])

    def symbolic(self, label: str, count: int = NAMED) -> Symbolic:
        """y as a short sum of named components (24-26), after the reduction."""
        return symbolic(self.reduced, count=count, label=label)


def analyse(
    instance: Instance, layer: Layer, explained: Explained, settings: Settings, source: str | None = None
) -> LayerSpectrum:
    """The spectrum of R at ``layer``, and the split of the ``explained`` number of the explained output.

    Raises NoPath, OperatorError, and SpectrumError: RankError where ``settings.k`` exceeds the rank or R is zero.
    """
    right = instance.operator(source, layer.name)
    weights = explained.weights.astype(np.float64)
    past = None
    if layer.name == instance.target:
        row, y, bias = weights, float(weights @ right.y), float(weights @ right.bias)
    else:
        left = instance.operator(layer.name, None)
        row, y = left.rmatvec(weights.astype(left.dtype)).astype(np.float64), float(weights @ left.y)
        bias = float(row @ right.bias + weights @ left.bias)
        past = instance.bypass(right.source, left, instance)
    image = right.matvec(right.x).astype(np.float64)
    found, leading = spectrum_of(right, settings)
    full = isinstance(found, Spectrum) or len(leading) < (settings.k or COUNT)
    leading = leading.oriented(right.x)
    split = contributions(found, row, image, bias)
    split = replace(split, weights=split.weights * _signs(split), coordinates=np.abs(split.coordinates))
    off = abs(y - float(split.y[0])) / max(1.0, abs(y), float(np.abs(row * image).sum()), abs(bias))
    known = found.rank if isinstance(found, Spectrum) else len(found)
    split = _first(split, known)
    axes = source_axis(instance, settings.axis, right.source), instance.channel_axis(layer.name)
    return LayerSpectrum(
        replace(layer, shape=right.target_shape),
        right.shape,
        full,
        found.s[:known],
        np.abs(coefficients(found, right.x)[:known]),
        leading,
        split,
        settings.reduced(split),
        Maps.of(leading.v, right.source_shape, axes[0], right.x),
        Maps.of(leading.u, right.target_shape, axes[1], right.y),
        past,
        off,
    )


def source_axis(instance: Instance, axis: int | None, source: str | None = None) -> int:
    """The axis of the source over which maps are contracted, counted from the front: ``axis``, or that of its channels.
    Raises OperatorError where the source has no such axis."""
    name = instance.source if source is None else source
    if axis is None:
        return instance.channel_axis(name)
    shape = instance.value(name).shape
    if not -len(shape) <= axis < len(shape):
        raise OperatorError(f"axis {axis} does not exist: {name!r} has shape {list(shape)}")
    return axis % len(shape)


def spectrum_of(operator: AffineOperator, settings: Settings) -> tuple[Spectrum | Triplets, Triplets]:
    """What ``settings`` ask for, and the leading triplets of it. Raises SpectrumError."""
    wanted = COUNT if settings.k is None else settings.k
    if settings.full or (settings.k is None and min(operator.shape) <= SMALL):
        limit = settings.memory_limit
        found = full_spectrum(operator, memory_limit=limit, max_side=max(operator.shape), show=settings.show)
        if settings.all_vectors and settings.k is None:
            wanted = found.rank
        elif settings.k is None or settings.fewer:
            wanted = min(wanted, found.rank)
        return found, found.triplets(max(1, wanted), settings.tolerance)
    while True:
        try:
            leading = _triplets(operator, wanted, settings)
            return leading, leading
        except RankError as error:
            if (settings.k is not None and not settings.fewer) or not error.rank:
                raise
            wanted = error.rank


def layers_of(instance: Instance, said: str | Sequence[str], source: str | None = None) -> tuple[list[Layer], int]:
    """The layers that ``said`` means, "auto" (those proposed) or names, in the order of the network; and how many
    proposals were left out. The explained output may be among them. Raises NameNotFound, NoPath, OperatorError."""
    if said == "auto":
        return proposed(instance, source)
    lin, carrier = instance.sized.lin, instance.sized.carrier
    start, end = carrier(source, "source"), carrier(None, "target")
    values = {t: pair.value for t, pair in lin.calculus.pairs.items()}
    found = {}
    for name in [said] if isinstance(said, str) else said:
        t = carrier(name, "layer")
        if t is start:
            raise OperatorError(f"layer {name!r} is the explained input itself: give a tensor behind it")
        if values[t] is not values[start] and not between_two(lin, values[start], values[t]):
            raise NoPath(f"layer {name!r} does not lie behind {lin.name(start)!r}")
        if values[t] is not values[end] and not between_two(lin, values[t], values[end]):
            raise NoPath(f"layer {name!r} does not lie in front of the explained output {lin.name(end)!r}")
        found[t] = Layer(lin.name(t), tuple(int(d) for d in values[t].shape), "asked for")
    order = list(values)
    return [found[t] for t in sorted(found, key=order.index)], 0


def _triplets(operator: AffineOperator, count: int, settings: Settings) -> Triplets:
    return triplets(
        operator,
        count,
        tolerance=settings.tolerance,
        seed=settings.seed,
        memory_limit=settings.memory_limit,
        show=settings.show,
    )


def _signs(split: Contributions) -> Array:
    return np.where(split.coordinates < 0, -1.0, 1.0)


def _first(split: Contributions, count: int) -> Contributions:
    """The first components. (Those beyond the rank add rounding, which the remainder then holds.)"""
    return replace(
        split,
        alpha=split.alpha[:, :count],
        weights=split.weights[:, :count],
        coordinates=split.coordinates[:count],
        indices=split.indices[:count],
    )
