"""The figures of `tools/reproduce_squares.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from spectral_squares import BOTTLENECK, SIZE

from omenn_onnx.runtime.panels import COLOURS, GREY, INK, NEGATIVE, POSITIVE
from omenn_onnx.spectral.biases import LayerBiases
from omenn_onnx.spectral.contributions import contracted

if TYPE_CHECKING:
    from reproduce_squares import Split

Vector = NDArray[np.float64]
SHAPE = (1, SIZE, SIZE)
LINES = (NEGATIVE, POSITIVE, "#5aae61")  # the three networks
LABELS = {"squares": "no biases", "squares_bias": "biases", "squares_sigmoid": "biases, sigmoid"}


def blank(width: float, height: float, title: str) -> Figure:
    """An empty figure."""
    made = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, fontsize=11, color=INK)
    return made


def picture(ax: Axes, values: Vector, title: str, limit: float | None = None, below: str = "") -> None:
    """An image: grey from 0 to 1, or signed with zero white where `limit` is given (0: the largest entry)."""
    image = np.asarray(values).reshape(SIZE, SIZE)
    if limit is None:
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    else:
        limit = limit or float(np.abs(image).max())
        ax.imshow(image, cmap=COLOURS, vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize=8.5, color=INK)
    ax.set_xlabel(below, fontsize=8, color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])


def part(v: Vector, of: Vector) -> float:
    """|v| / |of|."""
    return float(np.linalg.norm(v) / np.linalg.norm(of))


def spectra(matrices: dict[str, Vector], operators: dict[str, Vector]) -> Figure:
    """Singular values relative to the first, and the energy that the first k leave out; of the operators the median and
    the range over the images."""
    made = blank(10.5, 4, "Spectra of the operator at an image and of the images")
    values, energy = made.subplots(1, 2)
    lines = [(name, s[None], line, INK) for (name, s), line in zip(matrices.items(), (":", "--"), strict=True)]
    lines += [(f"operator, {LABELS[name]}", s, "-", c) for (name, s), c in zip(operators.items(), LINES, strict=True)]
    for name, s, line, colour in lines:
        left = 1 - np.cumsum(s**2, axis=1) / (s**2).sum(axis=1, keepdims=True)
        for ax, drawn in ((values, s / s[:, :1]), (energy, left[:, :-1])):
            k = np.arange(1, drawn.shape[1] + 1)
            ax.plot(k, np.median(drawn, axis=0), line, color=colour, lw=1.4, marker=".", ms=4, label=name)
            if len(s) > 1:
                ax.fill_between(k, drawn.min(axis=0), drawn.max(axis=0), color=colour, alpha=0.15, lw=0)
    for ax, label in ((values, "$s_k / s_1$"), (energy, "energy that the first k leave out")):
        ax.set(yscale="log", ylim=(3e-4, 1.5), xlabel="k", xlim=(0.5, 32))
        ax.set_ylabel(label, color=GREY)
        ax.spines[["top", "right"]].set_visible(False)
    values.legend(fontsize=8, frameon=False)
    return made


def vectors(shown: Split) -> Figure:
    """Right, contracted and left singular vectors of one instance, in the order of what they add."""
    made = blank(11, 5.4, "No biases, one image: singular vectors in the order of what they add to the reconstruction")
    count = min(len(shown.alpha), 6)
    grid = made.subplots(3, count + 1)
    picture(grid[0, 0], shown.x, "image x")
    picture(grid[1, 0], shown.y, "reconstruction R x")
    picture(grid[2, 0], shown.y - shown.x, "R x - x", 0, f"{part(shown.y - shown.x, shown.x):.1%} of |x|")
    t = shown.triplets.oriented(shown.x)
    maps = contracted(t.v, SHAPE, 0, shown.x)
    for k in range(count):
        picture(grid[0, k + 1], t.v[:, k], f"$v_{{{k + 1}}}$", 0, f"s = {t.s[k]:.3g}")
        picture(grid[1, k + 1], maps[k], f"$v_{{{k + 1}}} \\circ x$", 0, f"v . x = {maps[k].sum():.3g}")
        picture(grid[2, k + 1], t.u[:, k], f"$u_{{{k + 1}}}$", 0, f"adds {part(shown.alpha[k], shown.y):.1%} of |y|")
    for ax, name in zip(grid[:, 1], ("right", "contracted", "left"), strict=True):
        ax.set_ylabel(name, fontsize=9, color=INK)
    return made


def components(shown: dict[str, Split], missing: dict[str, Vector]) -> Figure:
    """The sums of the first components, and what they leave over all images."""
    made = blank(14, 6.2, "A few components carry the reconstruction")
    panels, curve = made.subfigures(1, 2, width_ratios=[2.4, 1])
    counts = (0, 1, 2, 3, 4, 8)
    for row, (name, s) in zip(panels.subplots(len(shown), len(counts) + 1), shown.items(), strict=True):
        picture(row[0], s.x, "image x")
        row[0].set_ylabel(LABELS[name], fontsize=9, color=INK)
        for ax, k in zip(row[1:], counts, strict=True):
            title = f"{'b + ' if s.bias.any() else ''}{k} component{'s' * (k != 1)}"
            picture(ax, s.bias + s.alpha[:k].sum(axis=0), title, None, f"{s.missing[k]:.1%} missing")
    ax = curve.subplots()
    for (name, m), colour in zip(missing.items(), LINES, strict=True):
        k = np.arange(BOTTLENECK)
        ax.plot(k, np.median(m, axis=0)[:-1], color=colour, marker=".", label=LABELS[name])
        ax.fill_between(k, m.min(axis=0)[:-1], m.max(axis=0)[:-1], color=colour, alpha=0.15, lw=0)
    ax.set(yscale="log", xlabel="components, those that add most first")
    ax.set_ylabel(f"missing of |y|: median and range of {len(m)} images", color=GREY, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    return made


def biases(shown: Split, layers: LayerBiases, name: str) -> Figure:
    """What the bias term draws, what the components add, and the layers that the bias term comes from. Each map has a
    scale of its own."""
    made = blank(12.5, 4.9, f"Network with {LABELS[name]}: y = b + components (above), and b layer by layer (below)")
    columns = max(4 + 3, len(layers.layers))
    upper, lower = made.subplots(2, columns)
    for ax in (*upper, *lower):
        ax.axis("off")

    def term(ax: Axes, values: Vector, title: str) -> None:
        ax.axis("on")
        picture(ax, values, title, 0, f"{part(values, shown.y):.1%} of |y|, to {np.abs(values).max():.2g}")

    for ax, values, title in ((upper[0], shown.x, "image x"), (upper[1], shown.y, "reconstruction y")):
        ax.axis("on")
        picture(ax, values, title)
    term(upper[2], shown.bias, "bias term b")
    term(upper[3], shown.linear, "R x")
    for k, ax in enumerate(upper[4:7]):
        term(ax, shown.alpha[k], f"component {k + 1}")
    for ax, layer, beta in zip(lower, layers.layers, layers.pushed, strict=False):
        term(ax, beta, f"$\\beta$ of {layer.removesuffix('.linear')}")
    return made
