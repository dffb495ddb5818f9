"""Figure of a feature flow: what feeds each layer, how much goes on to the output, and what is left in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from omenn_onnx.runtime.grid_panels import as_picture
from omenn_onnx.runtime.list_panels import feature
from omenn_onnx.runtime.panels import COLOURS, GREY, INK, PALE, bare, colour_bar, plain, spell, symmetric
from omenn_onnx.spectral.flow import Flow

Array = NDArray[Any]

SIZES = "Purples"  # white is nothing
MOST_NAMED = 40  # features beyond this number get no names of their own
MOST_WIDE = 30  # layers beyond this number make the maps smaller
_LONGEST = 18
_KINDS = (("feeds", "feeds the layer", "Σ|R x|"), ("through", "goes on to the unit", "Σ|g R x|"))


@dataclass(frozen=True)
class Score:
    """The target's unit that a flow leads to: what it is called, its value, and how that is made: ``signed`` [D], the
    unit's row of W times x, which with ``bias`` sums to it. ``x`` [D]: the input, whose shape is ``shape``, with the
    channels along ``channel_axis``."""

    name: str
    value: float
    signed: Array
    bias: float
    x: Array
    shape: tuple[int, ...]
    channel_axis: int

    @property
    def grid(self) -> tuple[int, ...]:
        """The axes of places that have more than one."""
        return tuple(d for i, d in enumerate(self.shape) if i not in (0, self.channel_axis) and d > 1)

    def places(self, values: Array) -> Array:
        """A value for each feature [D] as one for each place, channels summed; as it is where there are no places,
        and seen along the first axis where there are three."""
        if not self.grid:
            return values
        summed = values.reshape(self.shape)
        if 0 < self.channel_axis < len(self.shape):
            summed = summed.sum(axis=self.channel_axis)
        if summed.size != _size(self.grid):  # (several rows in one instance)
            return np.asarray(summed.reshape(-1))
        found: Array = summed.reshape(self.grid)
        return found.sum(axis=0) if found.ndim == 3 else found

    @property
    def sums(self) -> str:
        """The sums that make the value."""
        parts = f"inputs ({spell(float(self.signed.sum()))}) + biases ({spell(self.bias)})"
        return f"{plain(self.name)} = {spell(self.value)} = {parts}"


def flow_figure(
    flows: Sequence[Flow], score: Score, title: str | None = None, feature_names: Sequence[str] | None = None
) -> Figure:
    """The flow through layers of one instance, in the order of the network, towards a unit of the target.

    Two axes of places are drawn as maps, channels summed (three are seen along the first), anything else as a heat map
    of features x layers, with ``feature_names``. Shares are those of a layer's whole sum, the biases' part included.
    """
    maps = score.places(score.x).ndim == 2
    size = (2.0 + 1.75 * (min(len(flows), MOST_WIDE) + 1), 5.1) if maps else (11.0, 3.2 + 0.66 * len(flows))
    made = Figure(figsize=size, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    FigureCanvasAgg(made)
    if title:
        made.suptitle(plain(title), fontsize=12, fontweight="bold", color=INK, x=0.012, ha="left")
    if maps:
        _maps(made, flows, score)
    else:
        _heat(made, flows, score, feature_names)
    made.supxlabel(score.sums, fontsize=9, color=GREY)
    return made


def _share(flow: Flow, kind: str) -> tuple[Array, float]:
    """The features' shares of a layer's sum, and the biases'."""
    values, bias = getattr(flow, kind), float(getattr(flow, f"{kind}_bias"))
    whole = float(values.sum()) + bias
    return (values / whole, bias / whole) if whole > 0 else (values, 0.0)


def _short(name: str) -> str:
    return plain(name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :])


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _maps(made: Figure, flows: Sequence[Flow], score: Score) -> None:
    axes = made.subplots(2, len(flows) + 1, squeeze=False)
    near = {"interpolation": "nearest" if max(score.grid, default=0) < 200 else "antialiased"}
    for line, (kind, said, formula) in zip(axes, _KINDS, strict=True):
        shares = [_share(flow, kind) for flow in flows]
        shown = [score.places(values) for values, _ in shares]
        scale = Normalize(0, max(float(s.max(initial=0.0)) for s in shown) or 1.0)
        for ax, flow, values, (_, bias) in zip(line, flows, shown, shares, strict=False):
            ax.imshow(values, cmap=SIZES, norm=scale, **near)
            bare(ax, _short(flow.layer) if kind == "feeds" else None)
            ax.set_xlabel(f"biases {bias:.0%}", fontsize=8, color=GREY)
        line[0].set_ylabel(f"{said}\n{formula}", fontsize=9, color=INK)
        colour_bar(made, ScalarMappable(scale, SIZES), list(line[:-1]), False, "share of the layer")
    signed = score.places(score.signed)
    scale, clipped = symmetric(signed)
    top, bottom = axes[0][-1], axes[1][-1]
    top.imshow(signed, cmap=COLOURS, norm=scale, **near)
    bare(top, _short(score.name.split(" (")[0]))
    colour_bar(made, ScalarMappable(scale, COLOURS), [top], clipped, "share of the score")
    picture = np.moveaxis(score.x.reshape(score.shape), score.channel_axis, 0).reshape(-1, *score.grid)
    bottom.imshow(as_picture(picture if picture.ndim == 3 else picture.sum(axis=1)), cmap="gray", **near)
    bare(bottom)
    bottom.set_xlabel("input", fontsize=8, color=GREY)


def _heat(made: Figure, flows: Sequence[Flow], score: Score, names: Sequence[str] | None) -> None:
    panels = made.subplots(3, 1, height_ratios=[len(flows) + 0.5, len(flows) + 0.5, 1.6])
    for ax, (kind, said, formula) in zip(panels, _KINDS, strict=False):
        shares = [_share(flow, kind) for flow in flows]
        rows = np.stack([score.places(values).ravel() for values, _ in shares])
        scale = Normalize(0, float(rows.max(initial=0.0)) or 1.0)
        ax.imshow(rows, cmap=SIZES, norm=scale, aspect="auto", interpolation="nearest")
        ax.set_title(f"{said}, {formula}", fontsize=10, color=INK, loc="left")
        labels = [f"{_short(f.layer)}\nbiases {bias:.0%}" for f, (_, bias) in zip(flows, shares, strict=True)]
        ax.set_yticks(range(len(labels)), labels, fontsize=8)
        ax.set_xticks([])
        ax.spines[:].set_color(PALE)
        colour_bar(made, ScalarMappable(scale, SIZES), [ax], False, "share of\nthe layer")
    signed = score.places(score.signed).ravel()
    scale, clipped = symmetric(signed)
    ax = panels[-1]
    ax.imshow(signed[None], cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
    ax.set_title(f"what is left of it in {plain(score.name)}, signed", fontsize=10, color=INK, loc="left")
    ax.set_yticks([])
    ax.spines[:].set_color(PALE)
    count = len(signed)
    if count <= MOST_NAMED:
        called = [feature(i, (count,), names) for i in range(count)]
        ax.set_xticks(range(count), called, fontsize=8, rotation=90)
    else:
        ax.tick_params(labelsize=8)
    colour_bar(made, ScalarMappable(scale, COLOURS), [ax], clipped, "share of\nthe score")
