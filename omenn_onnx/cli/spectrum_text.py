"""What omenn-spectrum prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.cli import table
from omenn_onnx.spectral.proposals import Layer
from omenn_onnx.spectral.regions import Region
from omenn_onnx.spectral.study import InstanceSpectra, LayerSimilarity
from omenn_onnx.spectral.surgery import Pruned

MOST_LAYERS = 6
"""Layers whose biases are named in a line."""


def say_layers(layers: Sequence[Layer], left_out: int) -> None:
    """The layers with their sizes, and why they are looked at."""
    rows = [[one.name, " x ".join(str(d) for d in one.shape), one.reason] for one in layers]
    print(table(["layer", "size", "why"], rows, (0, 1, 2)))
    if left_out:
        print(f"{left_out} more ends of stages and blocks are left out: name them with --layers")


def say_input(found: InstanceSpectra, best: str) -> None:
    """One input: a line a layer, the symbolic form at each, the biases."""
    true = f", true {found.truth}" if found.truth else ""
    print(f"\n{found.label}: largest output {best}{true}; explained: {found.explained.label} = {found.layers[0].y:.6g}")
    rows = []
    for i, one in enumerate(found.layers):
        known = f"all {len(one.s)}" if one.full else str(len(one.s))
        held, rank = found.evolution.concentration[i], found.evolution.effective_rank[i]
        of = "" if one.full else f" of {len(one.s)}"
        numbers = [f"{one.s[0]:.4g}", f"{rank:.3g}{of}", f"{held.most}{of}", f"{one.split.explained[0]:+.5g}"]
        numbers += [f"{one.remainder:+.2g}", f"{one.bias:+.5g}"]
        rows.append([one.name, f"{one.sides[0]} x {one.sides[1]}", known, *numbers])
    print(table(["layer", "R", "components", "s_1", "eff. rank", "hold 90 %", "they add", "remainder", "bias"], rows))
    print("what the largest components add (c1: that of the largest singular value), opposite signs cancelled:")
    width = max(len(one.name) for one in found.layers)
    for one in found.layers:
        print(f"{one.name:<{width}}  {one.symbolic(found.explained.label).sentence()}")
    for one in found.layers:
        if one.past is not None:
            print(f"{one.name}: a path leads past it, through {one.past}; what that brings is in its bias")
    if found.biases is not None and len(found.biases.layers) > 1:
        beta = found.biases.pushed
        order = np.argsort(-np.abs(beta), kind="stable")[:MOST_LAYERS]
        named = ", ".join(f"{beta[i]:+.4g} {found.biases.layers[i]}" for i in sorted(order))
        more = len(beta) - len(order)
        print(f"bias, by layers: {named}" + (f", {more} more" if more else ""))
    if found.region is not None:
        print(_surroundings(found.region))


def _surroundings(found: Region) -> str:
    """How far the operator holds, in one line."""
    if found.distances is None:
        assert found.profile is not None
        steps = ", ".join(
            f"{change:.2g} at {t / (found.norm or 1):.3g} |x|"
            for t, change in zip(found.profile.t, found.profile.change, strict=True)
        )
        return f"the operator changes smoothly, along a random direction by {steps}"
    met = found.distances.t[np.isfinite(found.distances.t)]
    count = len(found.distances.t)
    if not len(met):
        return f"no other linear region within {found.distances.limit:.3g} along {count} random directions"
    first = found.distances.nodes[int(np.argmin(found.distances.t))]
    nearest, median = found.distances.nearest, found.distances.median
    parts = f" ({nearest / found.norm:.2g} |x|)" if found.norm else ""
    return (
        f"the next linear region is {nearest:.3g}{parts} away at the nearest, {median:.3g} in the median of {count} "
        f"random directions; first to switch: {', '.join(first)}"
    )


def say_pruned(found: Sequence[tuple[str, Pruned, dict[str, float], str]], label: str) -> None:
    """What is left without some components of each layer: in the affine model, and when the network runs on from
    there; with the largest output of the latter."""
    rows = []
    for name, pruned, values, best in found:
        numbers = [str(k + 1) for k in pruned.indices]
        shown = ",".join(numbers[:MOST_LAYERS]) + (",..." if len(numbers) > MOST_LAYERS else "")
        what = ("without " if pruned.dropping else "only ") + (shown or "none")
        rows.append([name, what, *(f"{values[k]:.5g}" for k in ("y", "affine", "rerun")), best])
    print(table(["layer", "components", label, "affine model", "network run on", "largest then"], rows, (0, 1)))


def say_similar(similar: Sequence[LayerSimilarity], count: int) -> None:
    """How like the inputs are, layer by layer."""
    rows = []
    for one in similar:
        apart = one.leading[~np.eye(count, dtype=bool)]
        most = max((len(c.samples) for c in one.common), default=0)
        sizes = np.bincount(one.clusters)
        shared = f"{most} of {count}" if most else "none in two"
        rows.append([one.name, f"{apart.mean():.2f}", str(len(sizes)), str(sizes.max()), shared])
    print(f"\n{count} inputs compared, by the spaces of their leading right vectors:")
    print(table(["layer", "mean similarity", "clusters", "largest", "most common vector"], rows))
