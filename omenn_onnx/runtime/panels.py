"""What all panels share: colours, the symmetric scale around zero, and one row of an explanation ready to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.colors import Normalize

from omenn_onnx.errors import OmennError
from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.maps import Maps

INK, GREY, PALE = "#222222", "#555555", "#dddddd"
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
COLOURS = "RdBu_r"  # red adds to the score, blue takes from it, white is zero
FAINT = 5  # a map that reaches less than this part of the common scale is magnified, and says so
CLIPPED = 99.7  # percentile that ends the scale of large maps, so that single pixels do not bleach the rest


@dataclass(frozen=True)
class Scene:
    """One row: ``x`` with its channel axis first, [channels, ...], and the maps it belongs to."""

    maps: Maps
    row: int
    x: Array

    @classmethod
    def of(cls, maps: Maps, row: int) -> Scene:
        """Row ``row`` of ``maps``; an input without batch axis has one row."""
        axis = maps.part.channel_axis
        x = maps.x[None] if axis == 0 else maps.x
        axis = max(axis, 1)
        if not 0 <= row < len(x):
            raise OmennError(f"row {row} does not exist: there are {len(x)}, counted from 0")
        return cls(maps, row, np.moveaxis(x[row], axis - 1, 0))

    @property
    def targets(self) -> int:
        """Number of blocks."""
        return self.maps.targets

    @property
    def signal(self) -> bool:
        """True where there is one spatial axis."""
        return self.x.ndim == 2

    def map(self, kind: str, k: int) -> Array:
        """A map of target ``k`` without channels: [...]."""
        values = self.maps.view(kind, k)
        return values if self.maps.x.ndim < 2 else values[self.row]

    def product(self, k: int) -> Array:
        """C_w * X of target ``k`` by channel: [channels, ...]."""
        axis = self.maps.part.channel_axis
        values = self.maps.of_target(self.maps.product, k)
        values = values[None] if axis == 0 else values
        return np.moveaxis(values[self.row], max(axis, 1) - 1, 0)

    @property
    def symbol(self) -> str:
        """How the share of the input is written."""
        return "$C_w X$" if self.maps.origin is None else "$C_w (X-X_0)$"

    @property
    def bias_symbol(self) -> str:
        """How the share of the biases is written."""
        return "$C_b$" if self.maps.origin is None else "$C_b + C_w X_0$"


class Drawing(Protocol):
    """One way to draw: the size of the whole figure, and one block of it."""

    @staticmethod
    def size(scene: Scene, names: Any) -> tuple[float, float]:
        """Width and height in inches."""

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Any, picture: Array | None) -> None:
        """Draw target ``k`` into a subfigure."""


def spell(value: float, form: str = ".5g") -> str:
    """A number with a minus sign that is one."""
    return format(value, form).replace("-", "\N{MINUS SIGN}", 1 if value < 0 else 0)


def plain(text: str) -> str:
    """``text`` as it is, for a renderer that takes $ for mathematics."""
    return text.replace("$", r"\$")


def symmetric(*maps: Array) -> tuple[Normalize, bool]:
    """One scale around zero for all ``maps``, and whether it clips the largest values."""
    values = np.abs(np.concatenate([np.ravel(m) for m in maps]))
    values = values[np.isfinite(values)]
    top = float(values.max(initial=0.0))
    limit = float(np.percentile(values, CLIPPED)) if values.size > 2000 else top
    limit = limit if limit > 0 else top or 1.0
    return Normalize(-limit, limit), limit < top


def magnification(values: Array, scale: Normalize) -> float:
    """1, or the round factor (1, 2 or 5 times a power of ten) that brings a faint map onto the common scale."""
    own, _ = symmetric(values)
    ratio = float(scale.vmax or 1.0) / float(own.vmax or 1.0)
    if not np.any(values) or not FAINT <= ratio < np.inf:
        return 1.0
    power = 10.0 ** np.floor(np.log10(ratio))
    return float(next(step * power for step in (5, 2, 1) if step * power <= ratio * (1 + 1e-9)))


def magnified(title: str, factor: float) -> str:
    """``title``, with the factor where there is one."""
    return title if factor == 1 else f"{title}, colours × {factor:g}"


def bare(axes: Any, title: str | None = None) -> None:
    """No ticks, a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(PALE)
    if title:
        axes.set_title(title, fontsize=10, color=INK)


def colour_bar(block: Any, image: Any, axes: Any, clipped: bool, label: str = "share of the score") -> None:
    """The scale of a block."""
    bar = block.colorbar(image, ax=axes, extend="both" if clipped else "neither", fraction=0.035, pad=0.015, aspect=22)
    bar.ax.tick_params(labelsize=8, colors=GREY)
    bar.set_label(label, fontsize=8, color=GREY)
    bar.outline.set_edgecolor(PALE)
