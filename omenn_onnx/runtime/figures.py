"""Figures of an explanation: the input, C_w*X, C_b and C, with the sums that make the score."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from omenn_onnx.errors import OmennError
from omenn_onnx.runtime import grid_panels, list_panels
from omenn_onnx.runtime.contract import ILL_CONDITIONED
from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.runtime.maps import Relative
from omenn_onnx.runtime.panels import GREY, INK, Drawing, Scene, plain, spell

if TYPE_CHECKING:
    from omenn_onnx.runtime.explanation import Explanation

MANY_FEATURES = 60  # unnamed features beyond this number are drawn as a signal, not as bars


def figure(
    explanation: Explanation,
    row: int = 0,
    *,
    labels: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    picture: Array | None = None,
    title: str | None = None,
    name: str | None = None,
    baseline: Relative | None = None,
) -> Figure:
    """The figure of one ``row`` of ``explanation``: a block for each target.

    Two spatial axes are drawn as images, none as bars (with ``feature_names``), one as coloured tokens (``tokens``, or
    ``vocabulary``, indexed by the fed ids) or as a signal, three as central slices. ``labels`` names the targets,
    ``picture`` [H,W,3] or [H,W] replaces the image shown for X, ``name`` picks one of several explained inputs,
    ``baseline`` draws the map relative to another input. Raises OmennError for a row or name that does not exist.
    """
    maps = baseline.maps(name) if baseline is not None else explanation.maps(name)
    scene = Scene.of(maps, row)
    words = None
    if scene.signal:
        words = list(tokens) if tokens is not None else _words(explanation, scene, row, vocabulary)
    draw = _drawing(scene, words, feature_names)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05)
    made = Figure(figsize=draw.size(scene, words), facecolor="white", layout=layout)
    FigureCanvasAgg(made)
    if title:
        made.suptitle(plain(title), fontsize=12, fontweight="bold", color=INK, x=0.012, ha="left")
    blocks = made.subfigures(scene.targets, 1, squeeze=False)
    for k, block in enumerate(np.ravel(blocks)):
        block.suptitle(_heading(explanation, row, k, labels), fontsize=11, color=INK)
        draw.block(block, scene, k, words if words is not None else feature_names, picture)
        text, bad = _sums(explanation, baseline, row, k)
        block.supxlabel(text, fontsize=9, color="#b2182b" if bad else GREY)
    return made


def write(made: Figure, path: str | os.PathLike[str], dpi: int = 150) -> None:
    """Write the figure (its type by the suffix, .png without one), whole or not at all."""
    path = Path(path)
    kind = path.suffix.removeprefix(".") or "png"
    if kind not in made.canvas.get_supported_filetypes():
        raise OmennError(f"figures of type {kind!r} cannot be written (png, pdf, svg, jpg can)")
    with whole_file(path) as file:
        made.savefig(file, format=kind, dpi=dpi)


def _drawing(scene: Scene, words: Sequence[str] | None, feature_names: Sequence[str] | None) -> type[Drawing]:
    """How the explained input is drawn, by the number of its spatial axes."""
    rank = scene.x.ndim - 1
    ranks: dict[int, type[Drawing]] = {2: grid_panels.Images, 3: grid_panels.Volume}
    if rank == 0:
        few = scene.x.size <= MANY_FEATURES or feature_names is not None
        return list_panels.Bars if few else grid_panels.Signal
    if rank == 1:
        return list_panels.Tokens if words is not None else grid_panels.Signal
    return ranks.get(rank, list_panels.Bars)


def _words(
    explanation: Explanation, scene: Scene, row: int, vocabulary: Sequence[str] | None
) -> list[str] | None:
    """The tokens of a row: its ids in the vocabulary; ids alone where the explained input are embeddings."""
    if explanation.part(scene.maps.part.name).graph_input:
        return None
    ids = ids_among(explanation.feeds, scene.maps.x.shape[:2])
    return None if ids is None else token_names(ids[row], vocabulary)


def token_names(ids: Iterable[int], vocabulary: Sequence[str] | None) -> list[str]:
    """The tokens of a vocabulary by their ids; #id where it has none."""
    size = 0 if vocabulary is None else len(vocabulary)
    return [str(vocabulary[i]) if vocabulary is not None and 0 <= i < size else f"#{i}" for i in ids]


def ids_among(feeds: Mapping[str, Any], shape: Sequence[int]) -> Array | None:
    """The token ids among ``feeds``: an integer array of that ``shape`` [N,T], masks last; None where there is none."""
    found = []
    for name, held in feeds.items():
        value = np.asarray(held)
        if value.dtype.kind in "iu" and value.shape == tuple(shape):
            said = any(part in name.lower() for part in ("id", "tok", "word", "text"))
            masks = any(part in name.lower() for part in ("mask", "type", "position", "segment"))
            found.append(((masks, not said, -int(value.max(initial=0))), name, value))
    return min(found, key=lambda f: f[:2])[2] if found else None


def target_name(index: int, labels: Sequence[str] | None) -> str:
    """``3 (cat)``, or the index alone; ``seed`` for -1."""
    if index < 0:
        return "seed"
    known = labels is not None and index < len(labels) and str(labels[index]) != str(index)
    return f"{index} ({labels[index]})" if known and labels is not None else str(index)


def _heading(explanation: Explanation, row: int, k: int, labels: Sequence[str] | None) -> str:
    index = _at(explanation.target, row, k)
    rules = "" if explanation.contract.rules == "secant" else f"   ·   {explanation.contract.rules} rules"
    return f"target {plain(target_name(int(index), labels))}   ·   score {spell(_at(explanation.score, row, k))}{rules}"


def _sums(explanation: Explanation, baseline: Relative | None, row: int, k: int) -> tuple[str, bool]:
    """The caption of a block, and whether it is a warning."""
    sums = explanation.sums
    y, x, b = (_at(v, row, k) for v in (sums.y, sums.x, sums.b))
    residual, condition = (_at(v, row, k) for v in (explanation.residual, explanation.condition))
    if baseline is None:
        split = rf"score {spell(y)}  =  $\Sigma\,C_w X$ ({spell(x)})  +  $\Sigma\,C_b$ ({spell(b)})"
    else:
        moved = _at(baseline.moved, row, k)
        split = rf"score {spell(y)}  =  $\Sigma\,C_w (X-X_0)$ ({spell(x - moved)})  +  base ({spell(b + moved)})"
    bad = not condition <= ILL_CONDITIONED
    text = f"{split}      residual {spell(residual, '.1e')}      condition number {condition:.3g}"
    if sums.y.shape != explanation.score.shape:
        text += "\ntotals of the whole batch: its rows interact"
    if bad:
        text += "\nill-conditioned: large shares cancel"
    if not _at(explanation.relative_residual, row, k) <= explanation.contract.bar:
        text, bad = text + "\ndoes not add up: the residual is above the bar", True
    return text, bad


def _at(values: Array, row: int, k: int) -> float:
    """The entry of a row and target in an array [N], [N,K], or in total [] or [K]."""
    values = np.asarray(values)
    if values.ndim == 2:
        return float(values[row, k])
    if values.ndim == 0 or values.size == 1:
        return float(values.reshape(-1)[0])
    return float(values[row] if row < len(values) else values[k])
