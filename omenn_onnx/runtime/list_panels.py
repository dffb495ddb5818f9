"""Explained inputs without spatial axes, as bars; and tokens, coloured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.patches import FancyBboxPatch, Rectangle

from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.panels import (
    COLOURS,
    GREY,
    INK,
    NEGATIVE,
    PALE,
    POSITIVE,
    Scene,
    colour_bar,
    plain,
    spell,
    symmetric,
)

MOST_BARS = 15
TOKENS_A_LINE = 12
LONGEST_WORD = 13


class Bars:
    """One bar a feature, the largest first; the rest in one bar, the biases in one of their own."""

    @staticmethod
    def size(scene: Scene, names: Sequence[str] | None) -> tuple[float, float]:
        """As high as there are bars."""
        return 8.2, (0.27 * min(scene.x.size, MOST_BARS + 1) + 1.5) * scene.targets + 0.25

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Sequence[str] | None, picture: Array | None) -> None:
        """The bars of a target."""
        values, x = np.ravel(scene.product(k)), np.ravel(scene.x)
        order = np.argsort(-np.abs(values), kind="stable")
        shown, rest = order[:MOST_BARS], order[MOST_BARS:]
        bars = [(f"{feature(int(i), scene.x.shape, names)} = {x[i]:.4g}", float(values[i]), True) for i in shown]
        if rest.size:
            bars.append((f"{rest.size} others", float(values[rest].sum()), True))
        bars.append((f"biases, $\\Sigma$ {scene.bias_symbol}", float(np.sum(scene.map("C_b", k))), False))
        ax = block.subplots()
        for place, (_, value, solid) in enumerate(bars):
            colour = POSITIVE if value > 0 else NEGATIVE
            style = {"color": colour} if solid else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
            ax.barh(place, value, height=0.72, linewidth=0.8, **style)
            ax.annotate(
                spell(value, "+.3g"), (value, place), (3 if value >= 0 else -3, 0), textcoords="offset points",
                va="center", ha="left" if value >= 0 else "right", fontsize=8, color=GREY,
            )  # fmt: skip
        ax.set_yticks(range(len(bars)), [b[0] for b in bars], fontsize=9, color=INK)
        ax.axhline(len(bars) - 1.5, lw=0.7, color=PALE)
        ax.axvline(0, lw=0.8, color=GREY)
        ax.invert_yaxis()
        ax.margins(x=0.14)
        ax.tick_params(axis="x", labelsize=8, colors=GREY)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.set_xlabel(f"{scene.symbol} by feature", fontsize=9, color=GREY)


def feature(index: int, shape: Sequence[int], names: Sequence[str] | None) -> str:
    """The name of a feature, or its index in a row of X."""
    if names is not None and index < len(names):
        return plain(str(names[index]))
    return f"feature {index}" if len(shape) == 1 else str([int(i) for i in np.unravel_index(index, shape)])


class Tokens:
    """Every token on the colour of its C, its value below it, and below that the shares of input and biases."""

    @staticmethod
    def size(scene: Scene, names: Sequence[str] | None) -> tuple[float, float]:
        """Lines of some 1.3 inches, as wide as there are tokens."""
        cells = padding_start(names or (), scene.x.shape[1])[1]
        lines, wide = -(-cells // TOKENS_A_LINE), min(cells, TOKENS_A_LINE)
        return max(8.2, 0.95 * wide + 1.3), (1.25 * lines + 0.95) * scene.targets + 0.25

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Sequence[str] | None, picture: Array | None) -> None:
        """The lines of a target. Padding counts too, in one box with its sums."""
        maps = [scene.map(kind, k) for kind in ("C", "C_w*X", "C_b")]
        words = list(names or ())[: len(maps[0])]
        start, cells = padding_start(words, len(maps[0]))
        if start < len(maps[0]):
            words = [*words[:start], f"{len(maps[0]) - start} × {words[start]}"]
            maps = [np.append(values[:start], values[start:].sum()) for values in maps]
        scale, clipped = symmetric(*maps)
        ax = block.subplots()
        ax.set_xlim(-0.75, max(min(TOKENS_A_LINE, cells), 6))
        lines = -(-cells // TOKENS_A_LINE)
        ax.set_ylim(lines * 3.2 - 0.3, -0.15)
        ax.axis("off")
        for i in range(cells):
            across, top = i % TOKENS_A_LINE, i // TOKENS_A_LINE * 3.2  # column, and line
            word = words[i] if i < len(words) else ""
            _cell(ax, across, top, 1.5, float(maps[0][i]), scale, word)
            for place, values in enumerate(maps[1:]):
                below = top + 1.6 + 0.62 * place
                _cell(ax, across, below, 0.56, float(values[i]), scale, None)
        for line in range(lines):
            for middle, text in ((0.75, "$C$"), (1.88, scene.symbol), (2.5, scene.bias_symbol)):
                ax.text(-0.08, line * 3.2 + middle, text, ha="right", va="center", fontsize=9, color=INK)
        colour_bar(block, ScalarMappable(scale, COLOURS), ax, clipped)


def padding_start(words: Sequence[str], count: int) -> tuple[int, int]:
    """Where a run of three or more equal words at the end starts, else ``count``; and how many boxes that leaves."""
    start = count
    while len(words) >= count and start > 1 and words[start - 2] == words[count - 1]:
        start -= 1
    start -= 1
    return (start, start + 1) if count - start >= 3 else (count, count)


def _cell(ax: Any, across: int, top: float, height: float, value: float, scale: Any, word: str | None) -> None:
    """One box in the colour of ``value``, with the value and, where there is one, the token."""
    colour = colormaps[COLOURS](scale(value)) if np.isfinite(value) else (0.8, 0.8, 0.8, 1.0)
    dark = float(np.dot(colour[:3], (0.299, 0.587, 0.114))) < 0.55
    ink = "white" if dark else INK
    if word is None:
        ax.add_patch(Rectangle((across + 0.02, top), 0.96, height, facecolor=colour, edgecolor=PALE, lw=0.5))
        ax.text(across + 0.5, top + height / 2, spell(value, "+.2g"), ha="center", va="center", fontsize=7, color=ink)
        return
    shape = FancyBboxPatch(
        (across + 0.04, top + 0.04), 0.92, height - 0.08, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour, edgecolor=PALE, lw=0.8, mutation_aspect=2.5,
    )  # fmt: skip
    ax.add_patch(shape)
    word = word if len(word) <= LONGEST_WORD else word[: LONGEST_WORD - 1] + "…"
    size = 10 if len(word) <= 9 else 8
    ax.text(across + 0.5, top + height * 0.36, plain(word), ha="center", va="center", fontsize=size, color=ink)
    ax.text(across + 0.5, top + height * 0.74, spell(value, "+.2g"), ha="center", va="center", fontsize=8, color=ink)
