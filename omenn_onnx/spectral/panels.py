"""One vector over a tensor, drawn as what the tensor is: an image, a sequence, a volume, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.runtime.grid_panels import as_picture
from omenn_onnx.runtime.panels import COLOURS, GREY, INK, NEGATIVE, POSITIVE, bare, plain, spell, symmetric

Array = np.ndarray[Any, Any]
Axes = Array | list[Any]
"""Panels, one below the other."""

MOST_BARS = 14
MOST_WORDS = 24
MANY = 60  # entries that are drawn as a curve rather than as bars
LONGEST = 22


@dataclass(frozen=True)
class Face:
    """What a tensor looks like: its ``shape``, the ``axis`` of its features, and names: ``words`` for the places of a
    sequence, ``names`` for the features of a vector, a ``picture`` for an image."""

    shape: tuple[int, ...]
    axis: int
    words: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    picture: Array | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes of the axes but the features', those of size 1 left out."""
        return tuple(d for i, d in enumerate(self.shape) if i != self.axis and d != 1)

    @property
    def kind(self) -> str:
        """How it is drawn: "features" (no places), "sequence", "image", "volume"; more axes are a long sequence."""
        return {0: "features", 1: "sequence", 2: "image", 3: "volume"}.get(len(self.places), "sequence")

    @property
    def averaged(self) -> bool:
        """Whether places have several features."""
        return self.kind != "features" and self.shape[self.axis] > 1

    @property
    def lines(self) -> int:
        """Lines of panels that a vector takes."""
        return 3 if self.kind == "volume" else 1

    @property
    def height(self) -> float:
        """Inches of a line of panels that are two inches wide."""
        if self.kind == "image":
            return 2.0 * float(np.clip(self.places[0] / self.places[1], 0.3, 2.2))
        if self.kind == "volume":
            return 2.0
        bars = self.bars
        return 0.19 * bars + 0.35 if bars else 1.4

    @property
    def bars(self) -> int:
        """How many bars a panel has; 0: a curve."""
        if self.kind == "sequence":
            return min(len(self.words), MOST_WORDS) if self.words is not None else 0
        if self.kind != "features":
            return 0
        count = int(np.prod(self.shape))
        return min(count, MOST_BARS) if count <= MANY or self.names is not None else 0

    def of_layer(self, shape: Sequence[int], axis: int) -> Face:
        """What a layer of ``shape`` looks like behind an input that looks like this: as the input where it has as many
        elements, one at each place, and no places of its own."""
        own = Face(tuple(shape), axis)
        alike = own.kind == "features" and int(np.prod(shape)) == int(np.prod(self.places, dtype=np.int64))
        return Face(self.shape, self.axis) if alike and self.kind in ("image", "volume") else own

    def contracted(self, values: Array) -> Array:
        """``values`` over the places as they are drawn: a sequence of all where there are more than three axes."""
        kept = values.reshape(self.places or (-1,))
        return kept.reshape(-1) if kept.ndim > 3 else kept


def order_of(face: Face, vectors: Sequence[Array]) -> Array:
    """Which entries are shown as bars, the same ones in all panels: the largest of all, or the places in order."""
    if face.kind == "sequence" or not vectors:
        return np.arange(face.bars)
    size = np.max([np.abs(v.reshape(-1)) for v in vectors], axis=0)
    order = np.argsort(-size, kind="stable")[: face.bars]
    return np.asarray(order[size[order] > 0] if size.any() else order)


def draw(axes: Axes, values: Array, face: Face, order: Array, first: bool, title: str, below: str) -> None:
    """Draw contracted ``values`` of one vector into ``face.lines`` axes, on a scale of its own around zero."""
    values = face.contracted(np.asarray(values, np.float64))
    scale, _ = symmetric(values)
    if face.kind == "image":
        near = "nearest" if max(face.places) < 200 else "antialiased"
        axes[0].imshow(values, cmap=COLOURS, norm=scale, interpolation=near)
        bare(axes[0])
    elif face.kind == "volume":
        for axis, ax in enumerate(axes):
            ax.imshow(values.take(values.shape[axis] // 2, axis=axis), cmap=COLOURS, norm=scale, aspect="auto")
            bare(ax)
            if first:
                ax.set_ylabel(f"slice across axis {axis}", fontsize=8, color=GREY)
    elif len(order):
        _bars(axes[0], values, face, order, first)
    else:
        _curve(axes[0], values)
    axes[0].set_title(title, fontsize=9, color=INK)
    axes[-1].set_xlabel(below, fontsize=8, color=GREY)


def draw_input(axes: Axes, x: Array, face: Face, order: Array) -> None:
    """The value of the tensor itself, grey."""
    x = np.moveaxis(np.asarray(x, np.float64).reshape(face.shape), face.axis, 0)
    x = x.reshape(len(x), *face.places)
    axes[0].set_title("input", fontsize=9, color=INK)
    if face.kind == "image":
        shown = as_picture(x) if face.picture is None else face.picture
        axes[0].imshow(shown, cmap="gray", interpolation="nearest" if max(shown.shape[:2]) < 200 else "antialiased")
        bare(axes[0])
    elif face.kind == "volume":
        for axis, ax in enumerate(axes):
            ax.imshow(as_picture(x.take(x.shape[axis + 1] // 2, axis=axis + 1)), cmap="gray", aspect="auto")
            bare(ax)
    else:
        values = face.contracted(x.mean(axis=0) if face.kind == "sequence" else x)
        if face.kind == "sequence" and face.words is not None:
            values = np.sqrt(np.square(x).sum(axis=0)).reshape(-1)
            axes[0].set_title("input: length of the embedding", fontsize=9, color=INK)
        if len(order):
            _bars(axes[0], values, face, order, True, grey=True)
        else:
            _curve(axes[0], values)


def _bars(ax: Any, values: Array, face: Face, order: Array, named: bool, grey: bool = False) -> None:
    shown = values.reshape(-1)[order]
    colours = GREY if grey else [POSITIVE if v > 0 else NEGATIVE for v in shown]
    ax.barh(range(len(order)), shown, height=0.74, color=colours)
    labels = [_label(face, int(i)) for i in order] if named else [""] * len(order)
    ax.set_yticks(range(len(order)), labels, fontsize=8, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, lw=0.7, color=GREY)
    limit = float(np.abs(shown).max(initial=0.0)) or 1.0
    ends = [0.0, limit] if grey and shown.min(initial=0.0) >= 0 else [-limit, limit]
    ax.set_xlim(1.1 * ends[0], 1.1 * ends[1])
    ax.set_xticks(ends, [spell(v, ".2g") for v in ends], fontsize=7, color=GREY)
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)


def _label(face: Face, index: int) -> str:
    known = face.words if face.kind == "sequence" else face.names
    text = str(known[index]) if known is not None and index < len(known) else str(index)
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _curve(ax: Any, values: Array) -> None:
    flat = values.reshape(-1)
    edges = np.arange(len(flat) + 1) - 0.5
    ax.stairs(np.maximum(flat, 0), edges, fill=True, color=POSITIVE)
    ax.stairs(np.minimum(flat, 0), edges, fill=True, color=NEGATIVE)
    ax.axhline(0, lw=0.5, color=GREY)
    ax.margins(x=0)
    ax.tick_params(labelsize=7, colors=GREY)
    ax.locator_params(axis="both", nbins=4)
    ax.spines[["top", "right"]].set_visible(False)
