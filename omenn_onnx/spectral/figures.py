"""The figures of a spectral analysis: singular vectors, spectra, their evolution over layers, similarity of samples."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from omenn_onnx.runtime.panels import GREY, INK, NEGATIVE, PALE, POSITIVE, plain, spell
from omenn_onnx.spectral.analysis import LayerSpectrum
from omenn_onnx.spectral.biases import LayerBiases
from omenn_onnx.spectral.evolution import Evolution
from omenn_onnx.spectral.panels import Face, draw, draw_input, order_of
from omenn_onnx.spectral.similarity import Common

Array = np.ndarray[Any, Any]

SHOWN = 6
"""Singular vectors that a figure has at most."""
MANY_BARS, BIAS_COLUMNS = 64, 6
_LAYER_COLOURS = "viridis"


def vectors(found: LayerSpectrum, face: Face, x: Array, back: Face, title: str, count: int = SHOWN) -> Figure:
    """The leading singular vectors of a layer: the right ones over the input, contracted with its values (23) and as
    they are (averaged over its features), the left ones over the layer. ``face``, ``x``: the input; ``back``: the
    layer."""
    count = min(count, len(found.triplets))
    bands = [(face, found.right.by_value), (face, found.right.average), (back, found.left.average)]
    heights = [one.height for one, _ in bands for _ in range(one.lines)]
    made = _figure(_width(count + 1, face), sum(heights) + 0.42 * len(heights) + 0.9, title)
    grid = made.subplots(len(heights), count + 1, squeeze=False, height_ratios=heights)
    by_value, plain_ones, left = np.split(grid, np.cumsum([face.lines, face.lines]))
    order = order_of(face, list(found.right.average[:count]))
    draw_input(by_value[:, 0], x, face, order)
    _words(plain_ones[:, 0], "right vectors\n" + ("averaged over\nthe features" if face.averaged else "as they are"))
    _words(left[:, 0], f"left vectors,\nover the layer\n({_sizes(found.layer.shape)})")
    behind = order_of(back, list(found.left.average[:count]))
    times = "x" if face.kind == "features" or not face.averaged else "x, summed over features"
    for k in range(count):
        sign = f"$v_{{{k + 1}}}$"
        adds = f"adds {spell(float(found.alpha[k]), '+.3g')}"
        if share := float(found.reduced.shares[0, k]):
            adds += f"   share {share:.1%}" if share < 0.1 else f"   share {share:.0%}"
        says = f"s = {spell(float(found.s[k]), '.3g')}   c = {spell(float(found.coefficients[k]), '.3g')}"
        title_ = f"{sign} · {times}" if k == 0 else f"{sign} · x"
        draw(by_value[:, k + 1], found.right.by_value[k], face, order, False, title_, adds)
        draw(plain_ones[:, k + 1], found.right.average[k], face, order, k == 0, sign, says)
        draw(left[:, k + 1], found.left.average[k], back, behind, k == 0, f"$u_{{{k + 1}}}$", "")
    return made


def spectra(layers: Sequence[LayerSpectrum], title: str) -> Figure:
    """Of each layer the singular values, and the contributions before and after opposite signs are cancelled (21)."""
    made = _figure(2.7 * max(len(layers), 2) + 0.6, 5.2, title)
    grid = made.subplots(2, len(layers), squeeze=False)
    for number, found in enumerate(layers):
        upper, lower = grid[:, number]
        ranks = np.arange(1, len(found.s) + 1)
        upper.plot(ranks, found.s, color=INK, lw=1.2, marker="." if len(ranks) <= MANY_BARS else None, ms=4)
        upper.set_yscale("log")
        for ax in (upper, lower):
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        _floor(upper, found.s)
        upper.set_title(plain(found.name), fontsize=9, color=INK)
        known = f"rank {len(found.s)}" if found.full else f"the largest {len(found.s)}"
        upper.set_xlabel(f"{known}, R is {found.sides[0]} × {found.sides[1]}", fontsize=8, color=GREY)
        _contributions(lower, ranks, found)
        if number == 0:
            upper.set_ylabel("singular value $s_k$", fontsize=9, color=GREY)
            lower.set_ylabel("contribution $\\alpha_k$", fontsize=9, color=GREY)
        for ax in (upper, lower):
            _light(ax)
        upper.set_xlim(0.4, max(len(ranks), 2) + 0.6)
        lower.set_xlim(0.4, min(max(len(ranks), 2), MANY_BARS) + 0.6)
    return made


def evolution(layers: Sequence[LayerSpectrum], found: Evolution, title: str) -> Figure:
    """Spectra on one scale, effective ranks, how the shares concentrate, how the right vectors turn."""
    made = _figure(13.0, 3.7, title)
    decay, ranks, shares, turn = made.subplots(1, 4, width_ratios=[1.15, 1, 1.15, 1.1])
    colours = _colours(len(layers))
    for layer, colour in zip(layers, colours, strict=True):
        decay.plot(np.arange(1, len(layer.s) + 1), layer.s / layer.s[0], color=colour, lw=1.3, label=plain(layer.name))
        p = np.sort(np.abs(layer.alpha))[::-1]
        if p.sum() > 0:
            shares.plot(np.arange(1, len(p) + 1), np.cumsum(p) / p.sum(), color=colour, lw=1.3)
    # Few components stand side by side, of many the first ones count.
    many = max(len(layer.s) for layer in layers) > MANY_BARS
    for ax in (decay, shares):
        if many:
            ax.set_xscale("log")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    decay.set_yscale("log")
    _floor(decay, np.concatenate([layer.s / layer.s[0] for layer in layers]))
    decay.legend(fontsize=7, frameon=False, loc="lower left")
    _named(decay, "singular values, $s_k / s_1$", "component k")
    shares.set_ylim(0, 1.03)
    _named(shares, "sum of the largest $|\\alpha|$, of all", "components")
    places = np.arange(len(layers))
    ranks.plot(places, found.effective_rank, color=INK, marker="o", ms=4, lw=1.2, label="effective rank of $s^2$")
    ranks.plot(places, found.participation_ratio, color=POSITIVE, marker="s", ms=4, lw=1.2, label="participation ratio")
    effective = [c.effective for c in found.concentration]
    ranks.plot(places, effective, color=NEGATIVE, marker="^", ms=4, lw=1.2, label="effective number of $|\\alpha|$")
    ranks.set_yscale("log")
    ranks.legend(fontsize=7, frameon=False)
    known = zip(found.layers, found.full, layers, strict=True)
    said = [plain(n) if full else f"{plain(n)} (first {len(layer.s)})" for n, full, layer in known]
    ranks.set_xticks(places, said, rotation=40, ha="right", fontsize=7)
    _named(ranks, "directions that count", None)
    for ax in (decay, ranks, shares):
        _light(ax)
    _matrix(made, turn, found.turn, [plain(n) for n in found.layers], "leading right vectors, layer by layer")
    return made


def evolving_vectors(layers: Sequence[LayerSpectrum], face: Face, x: Array, title: str, count: int = 3) -> Figure:
    """The first right singular vectors of every layer, one column a layer: what each looks at in the input. Contracted
    with its values (23) where places have several features, whose plain average says little."""
    heights = [face.height] * (count * face.lines)
    made = _figure(_width(len(layers) + 1, face), sum(heights) + 0.22 * count * face.lines + 0.6, title)
    grid = made.subplots(len(heights), len(layers) + 1, squeeze=False, height_ratios=heights)
    shown = [layer.right.by_value if face.averaged else layer.right.average for layer in layers]
    maps = [one for values in shown for one in values[:count]]
    order = order_of(face, maps)
    draw_input(grid[: face.lines, 0], x, face, order)
    for ax in grid[face.lines :, 0]:
        ax.axis("off")
    for number, layer in enumerate(layers, 1):
        for k in range(count):
            block = grid[k * face.lines : (k + 1) * face.lines, number]
            if k >= len(layer.triplets):
                for ax in block:
                    ax.axis("off")
                continue
            name = plain(layer.name) if k == 0 else ""
            says = (
                f"$v_{{{k + 1}}}$,  s = {spell(float(layer.s[k]), '.3g')},  adds {spell(float(layer.alpha[k]), '+.2g')}"
            )
            draw(block, shown[number - 1][k], face, order, number == 1, name, says)
    return made


def bias_maps(found: LayerBiases, face: Face, title: str) -> Figure:
    """An output that is an image as the sum of what the input adds and what each layer's constants add (beta_l, eq. 9),
    averaged over its features, each map on a scale of its own."""
    parts = [("output", found.linear + found.bias), ("R x, from the input", found.linear), ("all biases", found.bias)]
    parts += [(plain(name), beta) for name, beta in zip(found.layers, found.pushed, strict=True)]
    columns = min(len(parts), BIAS_COLUMNS)
    lines = -(-len(parts) // columns)
    made = _figure(_width(columns, face), (face.height + 0.42) * lines + 0.6, title)
    grid = made.subplots(lines, columns, squeeze=False).reshape(-1)
    for ax, (name, values) in zip(grid, parts, strict=False):
        shown = np.asarray(values, np.float64).reshape(face.shape).mean(axis=face.axis)
        says = (
            f"length {spell(float(np.linalg.norm(values)), '.3g')},  up to {spell(float(np.abs(shown).max()), '.2g')}"
        )
        draw([ax], shown, face, np.arange(0), False, name, says)
    for ax in grid[len(parts) :]:
        ax.axis("off")
    return made


def similarity(matrices: Sequence[tuple[str, Array]], names: Sequence[str], order: Array, title: str) -> Figure:
    """Similarity matrices between samples (named), all in the same ``order``."""
    size = 2.9 if len(names) <= 12 else 3.8
    made = _figure(size * len(matrices) + 0.8, size + 0.35, title)
    grid = made.subplots(1, len(matrices), squeeze=False)[0]
    shown = [plain(str(names[i])) for i in order]
    for ax, (what, values) in zip(grid, matrices, strict=True):
        _matrix(made, ax, values[np.ix_(order, order)], shown, what)
    return made


def common_vectors(shared: Sequence[Common], maps: Sequence[Array], face: Face, samples: int, title: str) -> Figure:
    """The directions that most of ``samples`` samples share; ``maps``: the first vector of each, contracted."""
    count = len(shared)
    made = _figure(_width(max(count, 2), face), face.height * face.lines + 0.42 * face.lines + 0.6, title)
    grid = made.subplots(face.lines, count, squeeze=False)
    order = order_of(face, list(maps))
    for number, (one, values) in enumerate(zip(shared, maps, strict=True)):
        components = [place + 1 for _, place in one.members]
        usual = int(np.bincount(components).argmax())
        name = f"in {len(one.samples)} of {samples} samples"
        says = f"mostly as $v_{{{usual}}}$\nagreement {one.agreement:.2f}"
        if one.basis.shape[1] > 1:
            says += f"\n(the first of {one.basis.shape[1]} that coincide)"
        draw(grid[:, number], values, face, order, number == 0, name, says)
    return made


def _contributions(ax: Any, ranks: Array, found: LayerSpectrum) -> None:
    """Light bars: all alpha; solid ones: what is left after the reduction. Many: the largest, as stems without room."""
    shown = ranks <= MANY_BARS
    x, alpha, kept = ranks[shown], found.alpha[shown], found.reduced.alpha[0][shown]
    ax.bar(x, alpha, color=[_tint(a) for a in alpha], width=0.85, label="all")
    ax.bar(x, kept, color=[POSITIVE if a > 0 else NEGATIVE for a in kept], width=0.45, label="reduced")
    ax.axhline(0, lw=0.6, color=GREY)
    tail = "" if shown.all() else f", the first {MANY_BARS}"
    left = int(np.count_nonzero(found.reduced.alpha))
    ax.set_xlabel(f"component{tail}\nsolid: left by the reduction, {left}", fontsize=8, color=GREY)


def _tint(value: float) -> str:
    return "#f4b9a9" if value > 0 else "#a9cbe4"


def _figure(width: float, height: float, title: str) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05)
    made = Figure(figsize=(min(width, 24.0), min(height, 30.0)), facecolor="white", layout=layout)
    FigureCanvasAgg(made)
    lines = textwrap.wrap(plain(title), max(30, int(10.5 * width)), break_long_words=False)
    made.suptitle("\n".join(lines), fontsize=11, fontweight="bold", color=INK, x=0.012, ha="left")
    return made


def _width(columns: int, face: Face) -> float:
    """Inches for so many panels; bars have names beside them."""
    return 2.0 * columns + (0.5 if face.kind in ("image", "volume") else 1.4)


def _words(axes: Any, text: str) -> None:
    """Panels that hold words instead."""
    for ax in axes:
        ax.axis("off")
    axes[0].text(0.98, 0.5, text, ha="right", va="center", fontsize=9, color=GREY, transform=axes[0].transAxes)


def _matrix(made: Figure, ax: Any, values: Array, names: Sequence[str], title: str) -> None:
    image = ax.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=9, color=INK)
    if len(names) <= 40:
        size = 7 if len(names) <= 12 else 6 if len(names) <= 24 else 5
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        ax.set_yticks(range(len(names)), names, fontsize=size)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(f"{len(names)} samples, similar ones side by side", fontsize=8, color=GREY)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_color(PALE)
    bar = made.colorbar(image, ax=ax, fraction=0.045, pad=0.03)
    bar.ax.tick_params(labelsize=7, colors=GREY)
    bar.outline.set_edgecolor(PALE)


def _floor(ax: Any, values: Array) -> None:
    """Values of rounding size do not stretch a logarithmic axis."""
    top = float(np.max(values, initial=0.0))
    low = float(np.min(values[values > 0], initial=top)) if top > 0 else 1.0
    if top > 0:
        ax.set_ylim(bottom=max(low * 0.7, top * 1e-8))


def _named(ax: Any, title: str, below: str | None) -> None:
    ax.set_title(title, fontsize=9, color=INK)
    if below:
        ax.set_xlabel(below, fontsize=8, color=GREY)


def _light(ax: Any) -> None:
    ax.tick_params(which="both", labelsize=7, colors=GREY)
    ax.spines[["top", "right"]].set_visible(False)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps[_LAYER_COLOURS](0.85 * i / max(count - 1, 1)) for i in range(count)]


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(str(d) for d in shape if d != 1) or "1"
