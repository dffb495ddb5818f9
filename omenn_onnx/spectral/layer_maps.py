"""The layers of several instances of one model: the matrix of each segment, and what the features bring to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.errors import OperatorError
from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.flow import Flow, feature_flow
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import separating
from omenn_onnx.spectral.linear_map import Check, Sums
from omenn_onnx.spectral.proposals import proposed
from omenn_onnx.spectral.segments import Segment, cuts, elements, matrix_bytes, product, segment

Array = NDArray[Any]


@dataclass(frozen=True)
class Layers:
    """Which layers of a model are looked at.

    ``names``: in the order of the network; ``ends``: the source, those of them that separate it from the target, and
    the target: consecutive ones bound the segments. ``left_out``: how many proposals there were beside.
    """

    names: list[str]
    ends: list[str]
    left_out: int = 0


def choose(instance: Instance, said: str | Sequence[str], source: str | None, target: str | None) -> Layers:
    """The layers that ``said`` means: "auto" (those proposed), "all" (every tensor that separates, each once), or
    names. Raises NameNotFound, NoPath, OperatorError where a name is one of the ends."""
    lin, carrier = instance.sized.lin, instance.sized.carrier
    ends = lin.name(carrier(source, "source")), lin.name(carrier(target, "target"))
    left_out = 0
    if said == "all":
        names = cuts(instance, None, source, target)[1:-1]
    elif said == "auto":
        layers, left_out = proposed(instance, source, target)
        names = [layer.name for layer in layers if layer.name not in ends]
    else:
        names = [lin.name(carrier(n, "layer")) for n in ([said] if isinstance(said, str) else said)]
        end = next((n for n in names if n in ends), None)
        if end is not None:
            raise OperatorError(f"{end!r} is no layer between {ends[0]!r} and {ends[1]!r}: it is one of the two")
    if not names:
        raise OperatorError(f"no layer stands between {ends[0]!r} and {ends[1]!r}: their operator is all there is")
    order = [lin.name(t) for t in lin.calculus.pairs]
    names = sorted(dict.fromkeys(names), key=order.index)
    known = set(separating(instance, source, target))
    return Layers(names, cuts(instance, [n for n in names if n in known], source, target), left_out)


def layer_bytes(instance: Instance, layers: Layers) -> int:
    """What the matrices of one instance take: of its segments, of their product, and of its contributions."""
    size = instance.sized.lin.emit.dtype.itemsize * elements(instance, layers.ends[0])
    shown = [*layers.names, layers.ends[-1]]
    return matrix_bytes(instance, layers.ends) + size * sum(elements(instance, n) for n in shown)


@dataclass(frozen=True)
class LayerMaps:
    """``segments`` and ``flows`` of each instance; ``whole``: the product of its segments, ``check``: how well that
    maps the source to the target."""

    segments: list[list[Segment]]
    flows: list[list[Flow]]
    whole: list[Segment]
    check: list[Check]


def layer_maps(
    instances: Sequence[Instance], layers: Layers, units: Sequence[int], show: bool | None = None
) -> LayerMaps:
    """Segments and flows of instances of one model. ``units``: the unit of the target that each flow leads to."""
    source, target = layers.ends[0], layers.ends[-1]
    pairs = list(pairwise(layers.ends))
    first, count = instances[0], len(instances)
    width = elements(first, source)
    steps = sum(min(elements(first, a), elements(first, b)) for a, b in pairs)
    steps += sum(min(elements(first, n), width) for n in layers.names)
    made: list[list[Segment]] = [[] for _ in instances]
    flows: list[list[Flow]] = [[] for _ in instances]
    with progress(f"{len(pairs)} segments, {len(layers.names)} layers", steps * count, show=show) as done:
        for a, b in pairs:  # (the instances inside: graphs are kept for a few operators only)
            for parts, instance in zip(made, instances, strict=True):
                parts.append(segment(instance, a, b, show=False))
                if parts[-1].W.shape != made[0][len(parts) - 1].W.shape:
                    raise OperatorError(f"the sizes of {b!r} differ between the instances: take them one at a time")
                done(min(parts[-1].W.shape))
        for name in layers.names:
            for found, instance, unit in zip(flows, instances, units, strict=True):
                onward = instance.operator(name, target)
                seed = np.zeros(onward.shape[0], onward.dtype)
                seed[unit] = 1
                found.append(feature_flow(instance.operator(source, name), onward.rmatvec(seed), None, done))
    whole = [product(parts) for parts in made]
    return LayerMaps(made, flows, whole, [_checked(i, w) for i, w in zip(instances, whole, strict=True)])


def _checked(instance: Instance, whole: Segment) -> Check:
    values = instance.values([whole.source, whole.target])
    sums = Sums(len(whole.b))
    x = values[whole.source].reshape(-1)
    step = max(1, (1 << 20) // max(1, len(x)))
    for start in range(0, len(whole.b), step):
        sums.add(slice(start, start + step), whole.W[start : start + step], x)
    return sums.check(whole.b, values[whole.target].reshape(-1))


def layer_arrays(maps: LayerMaps, layers: Layers) -> dict[str, Array]:
    """All of it by name, instances first: LAYER/W, LAYER/b (of the segment that ends at the layer), LAYER/contribution,
    LAYER/contribution_b, LAYER/y, LAYER/feeds, LAYER/through, LAYER/signed and each of these with _b for the bias."""
    arrays: dict[str, Array] = {
        "layers": np.asarray([*layers.names, layers.ends[-1]]),
        "segments": np.asarray(list(pairwise(layers.ends))),
    }
    for k, name in enumerate(layers.ends[1:]):
        parts = [m[k] for m in maps.segments]
        arrays[f"{name}/W"] = np.stack([p.W for p in parts])
        arrays[f"{name}/b"] = np.stack([p.b for p in parts])
        arrays[f"{name}/shape"] = np.asarray(parts[0].target_shape)
    for k, name in enumerate(layers.names):
        flows = [f[k] for f in maps.flows]
        arrays[f"{name}/y"] = np.stack([f.y for f in flows])
        arrays[f"{name}/contribution"] = np.stack([f.contributions for f in flows])
        arrays[f"{name}/contribution_b"] = np.stack([f.bias for f in flows])
        for what in ("feeds", "through", "signed"):
            arrays[f"{name}/{what}"] = np.stack([getattr(f, what) for f in flows])
            arrays[f"{name}/{what}_b"] = np.asarray([getattr(f, f"{what}_bias") for f in flows])
    return arrays
