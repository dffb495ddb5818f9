"""Attributions of other methods, from the operators of a network: what the singular vectors are compared with.

    input gradient         dy/dx                                         y = <seed, target>
    gradient x input       x dy/dx
    integrated gradients   (x - x') times the mean of dy/dx on the straight way from the baseline x' to x
                           (Sundararajan et al. 2017; midpoint rule); sums to y(x) - y(x') as the steps get finer
    Grad-CAM               relu of sum_c a_c A_c, a_c = the mean over the places of dy/dA_c, of the feature maps A of a
                           convolution (Selvaraju et al. 2017), interpolated linearly to the places of the input

All are of the tangent rules, where C_w is the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.errors import OperatorError
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import needed
from omenn_onnx.linear.rows import rows_stay_apart
from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.functionals import functional
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.layers import between_two, tensors_of
from omenn_onnx.spectral.operators import Array
from omenn_onnx.spectral.regions import Surroundings

_ALONG = (lp.Scale, lp.Select, lp.Add, lp.Broadcast)
"""What elementwise operators are made of."""


@dataclass(frozen=True)
class IntegratedGradients:
    """``attribution`` [*source shape], which sums to ``gained`` = y(x) - y(baseline) up to the integration error
    ``missing`` = gained - sum; ``steps``: how many gradients were averaged."""

    attribution: Array
    gained: float
    steps: int

    @property
    def missing(self) -> float:
        return self.gained - float(self.attribution.sum(dtype=np.float64))


@dataclass(frozen=True)
class GradCam:
    """``map`` [N, *places of the source], not negative; ``coarse`` [N, *places of the layer]: before interpolation;
    ``weights`` [N, channels]: a_c; ``layer``: where the feature maps were taken."""

    map: Array
    coarse: Array
    weights: Array
    layer: str


def input_gradient(instance: Instance, seed: Any, source: str | None = None, target: str | None = None) -> Array:
    """dy/dx [*source shape] for y = <seed, target>; ``seed``: a flat index of the target, or weights of its shape.
    Raises OperatorError for an instance of the secant rules, TargetError, NameNotFound, NoPath."""
    _need_tangent(instance)
    op = instance.operator(source, target)
    gradient = op.rmatvec(functional(seed, op.target, op.target_shape, op.dtype))
    return np.asarray(gradient).reshape(op.source_shape)


def gradient_x_input(instance: Instance, seed: Any, source: str | None = None, target: str | None = None) -> Array:
    """x dy/dx [*source shape], elementwise. Raises as :func:`input_gradient`."""
    op = instance.operator(source, target)
    product: Array = input_gradient(instance, seed, source, target) * op.x.reshape(op.source_shape)
    return product


def integrated_gradients(
    model: Linearization,
    feeds: Any,
    seed: Any,
    *,
    baseline: Any = 0.0,
    steps: int = 64,
    batch: int = 16,
    source: str | None = None,
    target: str | None = None,
    show: bool | None = None,
) -> IntegratedGradients:
    """The gradient integrated from ``baseline`` (a number, or an array of the source's shape) to x in ``steps`` steps.

    One row is explained at a time: ``batch`` steps are run as the rows of one batch where the model takes any number
    of rows and keeps them apart, else one after the other. ``show``: whether to say where it is (None: when it takes
    long). Raises OperatorError, TargetError, FeedError, NameNotFound, NoPath.
    """
    if steps < 1 or batch < 1:
        raise OperatorError(f"integrated gradients need at least 1 step and batches of 1, not {min(steps, batch)}")
    instance = model.at(feeds)
    _need_tangent(instance)
    op = instance.operator(source, target)
    weights = functional(seed, op.target, op.target_shape, op.dtype)
    start = _baseline(baseline, op.source, op.source_shape)
    way = op.x.astype(np.float64) - start
    points = start + (np.arange(steps) + 0.5)[:, None] / steps * way
    together = min(batch, steps) if _batches(model, instance, op.source, op.target) else 1
    around = Surroundings(instance, op.source, op.target)
    mean = np.zeros(len(way))
    with progress("integrated gradients", steps, "step", show) as done:
        for k in range(0, steps, together):
            block = points[k : k + together]
            if together > 1:
                found = _rows_of_gradients(model, instance, op.source, op.target, block, together, weights)
            else:
                found = around.at(block[0]).rmatvec(weights)[None]
            mean += found.sum(axis=0, dtype=np.float64) / steps
            done(len(block))
    gained = float(weights.astype(np.float64) @ (op.y - around.at(start).y))
    return IntegratedGradients((way * mean).astype(op.dtype).reshape(op.source_shape), gained, steps)


def grad_cam(
    instance: Instance, seed: Any, layer: str | None = None, source: str | None = None, target: str | None = None
) -> GradCam:
    """Grad-CAM of y = <seed, target> at the feature maps ``layer`` [N,C,places]; default: :func:`last_feature_maps`.

    Raises OperatorError where the layer or the source has no places; else as :func:`input_gradient`.
    """
    _need_tangent(instance)
    name = last_feature_maps(instance, source, target) if layer is None else layer
    op = instance.operator(name, target)
    goal = instance.operator(source, target).source_shape
    if len(op.source_shape) < 3 or len(goal) != len(op.source_shape):
        raise OperatorError(
            f"Grad-CAM needs feature maps [N, C, places] of an input of the same rank; {name!r} is "
            f"{list(op.source_shape)}, the input {list(goal)}"
        )
    gradient = op.rmatvec(functional(seed, op.target, op.target_shape, op.dtype)).reshape(op.source_shape)
    places = tuple(range(2, len(op.source_shape)))
    weights = gradient.mean(axis=places, dtype=np.float64)
    maps = op.x.reshape(op.source_shape)
    coarse = np.maximum(np.einsum("nc,nc...->n...", weights, maps), 0.0).astype(op.dtype)
    fine = coarse
    for axis, size in enumerate(goal[2:], 1):
        fine = _stretched(fine, axis, size)
    return GradCam(fine, coarse, weights.astype(op.dtype), op.source)


def last_feature_maps(instance: Instance, source: str | None = None, target: str | None = None) -> str:
    """The last convolution on the way, and what follows it elementwise (normalisation, residual sum, activation) while
    nothing else reads it. Raises OperatorError where there is none."""
    sized = instance.sized
    lin, pairs = sized.lin, sized.lin.calculus.pairs
    ends = sized.carrier(source, "source"), sized.carrier(target, "target")
    equations = between_two(lin, pairs[ends[0]].value, pairs[ends[1]].value)
    last = next((e.out for e in reversed(equations) if isinstance(e.primitive, lp.Conv)), None)
    if last is None:
        raise OperatorError(f"no convolution leads to {lin.name(ends[1])!r}: say at which layer Grad-CAM is to look")
    found = ""
    while True:
        named = tensors_of(lin, last)
        found = lin.name(named[0]) if named else found
        readers = [e for e in equations if last in e.inputs]
        if len(readers) != 1 or not isinstance(readers[0].primitive, _ALONG) or readers[0].out.shape != last.shape:
            return found
        last = readers[0].out


def _need_tangent(instance: Instance) -> None:
    if not instance.sized.lin.calculus.tangent:
        raise OperatorError("gradients are those of the tangent rules: make the Linearization with rules='tangent'")


def _baseline(baseline: Any, name: str, shape: tuple[int, ...]) -> Array:
    try:
        start = np.broadcast_to(np.asarray(baseline, np.float64), shape).reshape(-1)
    except (TypeError, ValueError):
        raise OperatorError(f"the baseline does not have the shape of {name!r}, {list(shape)}") from None
    if not np.isfinite(start).all():
        raise OperatorError("the baseline holds NaN or infinite numbers")
    return start


def _batches(model: Linearization, instance: Instance, source: str, target: str) -> bool:
    """Whether one row was fed to a model that takes any number of them, and keeps them apart."""
    infos = {i.name: i for i in model.inputs}
    lin = instance.sized.lin
    if source not in infos or not _batch_of(model, source) or np.shape(instance.feeds[source])[0] != 1:
        return False
    end = lin.calculus.pairs[instance.sized.carrier(target, "target")].value
    if not end.shape or end.shape[0] != 1:
        return False
    streams = [v for pair in lin.sources.values() for v in pair]
    return rows_stay_apart(lin.equations, streams, {e.out for e in needed(lin.equations, [end])}, end)


def _batch_of(model: Linearization, name: str) -> str:
    """The symbol of the batch axis of an input; "" where it is fixed."""
    dims = next(i.dims for i in model.inputs if i.name == name)
    return dims[0] if dims and isinstance(dims[0], str) else ""


def _rows_of_gradients(
    model: Linearization, instance: Instance, source: str, target: str, points: Array, rows: int, weights: Array
) -> Array:
    """The gradients at some points [n, D], as the rows of a batch that is filled up to ``rows``."""
    symbol = _batch_of(model, source)
    feeds = {}
    for name, value in instance.feeds.items():
        repeated = _batch_of(model, name) == symbol
        feeds[name] = np.repeat(value, rows, axis=0) if repeated else value
    filled = np.concatenate([points, np.repeat(points[-1:], rows - len(points), axis=0)])
    shape = (rows, *np.shape(instance.feeds[source])[1:])
    feeds[source] = filled.reshape(shape).astype(instance.feeds[source].dtype)
    op = model.at(feeds).operator(source, target)
    found: Array = op.rmatvec(np.tile(weights, rows)).reshape(rows, -1)
    return found[: len(points)]


def _stretched(maps: Array, axis: int, size: int) -> Array:
    """Linear interpolation along an axis, between the middles of the elements."""
    count = maps.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(at.astype(np.int64), max(count - 2, 0))
    part = (at - low).astype(maps.dtype).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    first, second = np.take(maps, low, axis), np.take(maps, np.minimum(low + 1, count - 1), axis)
    stretched: Array = first + (second - first) * part
    return stretched
