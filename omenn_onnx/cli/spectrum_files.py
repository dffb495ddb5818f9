"""What omenn-spectrum writes: figures on the way, numbers and arrays at the end."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omenn_onnx.cli.reading import check_output
from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import save_arrays, whole_file
from omenn_onnx.runtime.panels import spell
from omenn_onnx.spectral import figures
from omenn_onnx.spectral.analysis import LayerSpectrum, Maps
from omenn_onnx.spectral.biases import LayerBiases
from omenn_onnx.spectral.instances import Linearization
from omenn_onnx.spectral.panels import Face
from omenn_onnx.spectral.proposals import Layer
from omenn_onnx.spectral.regions import Region
from omenn_onnx.spectral.study import InstanceSpectra, LayerSimilarity
from omenn_onnx.spectral.surgery import Pruned

Array = np.ndarray[Any, Any]

MOST_COMMON = 6
"""Common directions that are drawn and written at most, for each layer."""


def check_folder(folder: Path, force: bool) -> None:
    """Raises OutputExists where the folder holds an analysis that may not be overwritten."""
    for name in ("spectrum.json", "spectrum.npz"):
        check_output(folder / name, force)


class Folder:
    """The output folder. ``drawn``: whether there are figures; ``most``: inputs with figures of their own."""

    def __init__(self, path: Path, drawn: bool, most: int) -> None:
        self.path, self.drawn, self.most = path, drawn, most
        self.inputs = 0
        self.figures: list[str] = []
        self.face: Face | None = None
        self.pruned: dict[str, list[dict[str, Any]]] = {}

    @property
    def takes_figures(self) -> bool:
        """Whether the next input gets figures of its own."""
        return self.drawn and self.inputs < self.most

    def draw(self, found: InstanceSpectra, face: Face, backs: Sequence[Face]) -> None:
        """Draw one input; ``backs``: the faces of its layers."""
        self.inputs += 1
        name = _plain(found.label)
        what = f"{found.label}: {found.explained.label} = {spell(found.layers[0].y)}"
        for number, (one, back) in enumerate(zip(found.layers, backs, strict=True), 1):
            sum_, left, bias = (spell(v, "+.4g") for v in (float(one.split.explained[0]), one.remainder, one.bias))
            parts = f"{sum_} from components" + ("" if one.full else f", {left} from others") + f", {bias} from biases"
            title = f"{what}   ·   layer {one.name}: {parts}"
            self._draw(figures.vectors(one, face, found.x, back, title), f"{name}-{number}-{_plain(one.name)}")
        self._draw(figures.spectra(found.layers, what), f"{name}-spectra")
        if len(found.layers) > 1:
            self._draw(figures.evolution(found.layers, found.evolution, what), f"{name}-evolution")
            self._draw(figures.evolving_vectors(found.layers, face, found.x, what), f"{name}-layers")

    def draw_biases(self, found: InstanceSpectra, maps: LayerBiases, output: Face) -> None:
        """Draw what the biases of each layer add to an output that is an image."""
        title = f"{found.label}: {maps.target} = what the input adds + what the biases of each layer add"
        self._draw(figures.bias_maps(maps, output, title), f"{_plain(found.label)}-biases")

    def keep_pruned(
        self, found: InstanceSpectra, one: LayerSpectrum, pruned: Pruned, values: dict[str, float], export: bool
    ) -> None:
        """Keep the numbers of a pruned network for the JSON; write its affine model if asked."""
        which = "dropped" if pruned.dropping else "kept"
        said: dict[str, Any] = {"layer": one.name, which: [k + 1 for k in pruned.indices], **values}
        if export:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.path / f"{_plain(found.label)}-{_plain(one.name)}.pruned.onnx"
            pruned.export(file, force=True)
            said["file"] = file.name
        self.pruned.setdefault(found.label, []).append(said)

    def write(
        self,
        model: Linearization,
        args: Namespace,
        layers: Sequence[Layer],
        found: Sequence[InstanceSpectra],
        similar: Sequence[LayerSimilarity],
        skipped: Sequence[str],
    ) -> str:
        """Figures of all inputs together, the JSON and the arrays; says what was written."""
        self.path.mkdir(parents=True, exist_ok=True)
        names = [one.label for one in found]
        for number, one in enumerate(similar, 1):
            self._draw_similar(one, f"{number}-{_plain(one.name)}", found)
        arrays: dict[str, Array] = {}
        said = {
            "model": str(args.model),
            "rules": model.rules,
            "layers": [{"name": one.name, "shape": list(one.shape), "reason": one.reason} for one in layers],
            "inputs": [_input(one, arrays, self.pruned.get(one.label), args.sympy) for one in found],
            "left_out": list(skipped),
            "similarity": [_similar(one, names, arrays) for one in similar],
            "figures": self.figures,
        }
        save_arrays(self.path / "spectrum.npz", arrays)
        with whole_file(self.path / "spectrum.json") as file:
            file.write((json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
        count = f", {len(self.figures)} figures" if self.figures else ""
        return f"{self.path / 'spectrum.json'}, {self.path / 'spectrum.npz'}{count}"

    def _draw_similar(self, one: LayerSimilarity, name: str, found: Sequence[InstanceSpectra]) -> None:
        if not self.drawn:
            return
        matrices = [(f"$v_{{{k + 1}}}$", m) for k, m in enumerate(one.components)]
        if len(matrices) > 1:
            matrices.append((f"the space of $v_1$ to $v_{{{len(matrices)}}}$", one.leading))
        title = f"similarity of the inputs at layer {one.name}: |cos| of their right vectors"
        self._draw(figures.similarity(matrices, _short(found), one.order, title), f"similarity-{name}")
        shared = one.common[:MOST_COMMON]
        if shared and self.face is not None:
            words = None if self.face.words is None else tuple(f"place {i}" for i in range(len(self.face.words)))
            face = replace(self.face, words=words, picture=None)
            mean = np.mean([i.x for i in found], axis=0).ravel()
            maps = [Maps.of(c.basis[:, :1], face.shape, face.axis, mean) for c in shared]
            drawn = [m.by_value[0] if face.averaged else m.average[0] for m in maps]
            title = f"right vectors that several inputs share at layer {one.name}"
            title += ", times the mean input" if face.averaged else ""
            self._draw(figures.common_vectors(shared, drawn, face, len(found), title), f"common-{name}")

    def _draw(self, made: Any, name: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write(made, self.path / f"{name}.png", dpi=110)
        self.figures.append(f"{name}.png")


def _input(
    found: InstanceSpectra, arrays: dict[str, Array], pruned: list[dict[str, Any]] | None, sympy: bool
) -> dict[str, Any]:
    evolution = found.evolution
    layers = []
    for i, one in enumerate(found.layers):
        held = evolution.concentration[i]
        over = {
            "effective_rank": float(evolution.effective_rank[i]),
            "participation_ratio": float(evolution.participation_ratio[i]),
            "stable_rank": float(evolution.stable_rank[i]),
            "concentration": {
                "largest": held.largest, "half": held.half, "nine_tenths": held.most, "effective": held.effective,
            },
        }  # fmt: skip
        layers.append(_layer(one, f"{found.label}/{one.name}", found.explained.label, arrays, sympy) | over)
    target = {"label": found.explained.label, "index": found.explained.index, "value": found.layers[0].y}
    said = {
        "input": found.label,
        "truth": found.truth,
        "target": target,
        "layers": layers,
        "turn": evolution.turn.tolist(),
    }
    if found.biases is not None:
        b = found.biases
        said["biases"] = {
            "layers": list(b.layers), "owners": [list(o) for o in b.owners], "pushed": b.pushed.tolist(),
            "telescoped": b.telescoped.tolist(), "bias": float(b.bias), "disagreement": b.disagreement,
        }  # fmt: skip
    if found.region is not None:
        said["region"] = _region(found.region)
    return said if pruned is None else said | {"pruned": pruned}


def _region(found: Region) -> dict[str, Any]:
    if found.distances is None:
        assert found.profile is not None
        p = found.profile
        held = {"t": p.t.tolist(), "change": p.change.tolist(), "deviation": p.deviation.tolist()}
        return {"norm": found.norm, "smooth": list(found.smooth), **held}
    d = found.distances
    far = [float(t) if np.isfinite(t) else None for t in d.t]
    return {"norm": found.norm, "distances": far, "nodes": [list(n) for n in d.nodes], "limit": d.limit}


def _layer(one: LayerSpectrum, key: str, label: str, arrays: dict[str, Array], sympy: bool) -> dict[str, Any]:
    held = {
        "s": one.s,
        "coefficients": one.coefficients,
        "alpha": one.alpha,
        "reduced": one.reduced.alpha[0],
        "shares": one.reduced.shares[0],
        "u": one.triplets.u.T,
        "v": one.triplets.v.T,
        "residuals": one.triplets.residuals,
        "right_by_value": one.right.by_value,
        "right_average": one.right.average,
        "left_by_value": one.left.by_value,
        "left_average": one.left.average,
    }
    arrays.update({f"{key}/{name}": value for name, value in held.items()})
    components = [
        {
            "component": k + 1,
            "s": float(one.s[k]),
            "coefficient": float(one.coefficients[k]),
            "alpha": float(one.alpha[k]),
            "reduced": float(one.reduced.alpha[0, k]),
            "share": float(one.reduced.shares[0, k]),
            "residual": float(one.triplets.residuals[k]),
        }
        for k in range(len(one.triplets))
    ]
    said = one.symbolic(label)
    extra = {"sympy": str(said.sympy())} if sympy else {}
    return {
        "layer": one.name,
        "R": list(one.sides),
        "full": one.full,
        "components_known": len(one.s),
        "y": one.y,
        "sum_alpha": float(one.split.explained[0]),
        "remainder": one.remainder,
        "bias": one.bias,
        "residual": one.residual,
        "past": one.past,
        "symbolic": said.as_dict() | {"sentence": said.sentence()} | extra,
        "arrays": key,
        "components": components,
    }


def _similar(one: LayerSimilarity, names: Sequence[str], arrays: dict[str, Array]) -> dict[str, Any]:
    key = f"similarity/{one.name}"
    arrays |= {f"{key}/components": one.components, f"{key}/leading": one.leading}
    common = []
    for number, c in enumerate(one.common[:MOST_COMMON]):
        arrays[f"{key}/common_{number + 1}"] = c.basis.T
        members = [{"input": names[i], "component": place + 1} for i, place in c.members]
        common.append({"inputs": len(c.samples), "agreement": c.agreement, "members": members})
    groups = [[names[int(i)] for i in np.flatnonzero(one.clusters == c)] for c in range(one.clusters.max() + 1)]
    return {"layer": one.name, "clusters": groups, "order": [names[i] for i in one.order], "common": common}


def _short(found: Sequence[InstanceSpectra]) -> list[str]:
    """Names of inputs on the axes of a figure: without the file where there is one, with the class."""
    names = [one.label for one in found]
    if len({name.partition("[")[0] for name in names}) == 1 and all("[" in name for name in names):
        names = [name.partition("[")[2].removesuffix("]") for name in names]
    true = [one.truth.partition(" (")[2].removesuffix(")") or one.truth for one in found]
    return [f"{name}: {known}" if known else name for name, known in zip(names, true, strict=True)]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "x"
