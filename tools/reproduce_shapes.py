"""Three-dimensional bodies with the network of models/: `python tools/reproduce_shapes.py`.

Cuts models/shapes.onnx open at the kept held-out bodies: what the layers look at to find the volume, how that changes
from layer to layer and from body to body, and how symmetric the singular vectors are. Writes docs/spectral/shapes_*.png
and shapes.json; prints what was measured. Axes 0, 1, 2 of a body are x, y, z.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from spectral_networks import to_onnx
from spectral_shapes import FAMILIES, QUANTITIES, SEED, SIDE, Shapes

from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.runtime.panels import GREY, INK, NEGATIVE, PALE, POSITIVE
from omenn_onnx.spectral import figures
from omenn_onnx.spectral.analysis import LayerSpectrum, Settings, analyse, layers_of
from omenn_onnx.spectral.evolution import Evolution
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.panels import Face
from omenn_onnx.spectral.study import InstanceSpectra, LayerSimilarity
from omenn_onnx.spectral.targets import Explained, explained

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "spectral"
LAYERS = ("encoder_1", "encoder_2", "latent", "regressor_1", "penultimate")
COUNT = 3  # leading vectors whose symmetry is measured
AXES = ("x", "y", "z")
Array = np.ndarray[Any, Any]


def evenness(vector: Array, axis: int) -> float:
    """<v, P v> / <v, v> with P the reflection of an axis: 1 for even, -1 for odd vectors, 0 on average for chance."""
    v = vector.reshape((SIDE,) * 3).astype(np.float64)
    return float(np.sum(v * np.flip(v, axis)) / np.sum(v * v))


def spectrum_at(instance: Instance, name: str, quantity: int) -> LayerSpectrum:
    """All of R at a layer, and what its components add to a quantity."""
    (layer,), _ = layers_of(instance, name)
    return analyse(instance, layer, explained_at(instance, quantity), Settings(full=True, k=COUNT, show=False))


def spectra_of(instances: list[Instance]) -> list[dict[str, LayerSpectrum]]:
    """All layers at all instances, towards the volume; layer by layer, so that its graphs are made once."""
    by_layer = [[spectrum_at(instance, name, 0) for instance in instances] for name in LAYERS]
    return [dict(zip(LAYERS, one, strict=True)) for one in zip(*by_layer, strict=True)]


def explained_at(instance: Instance, quantity: int) -> Explained:
    """The quantity as the number that is explained."""
    return explained(str(quantity), instance.value("quantities"), "quantities", QUANTITIES)


def symmetries(spectra: list[dict[str, LayerSpectrum]]) -> dict[str, Array]:
    """The evenness of the leading vectors of each layer: [bodies,COUNT,3]."""
    return {
        name: np.array([[[evenness(v, a) for a in range(3)] for v in one[name].triplets.v.T] for one in spectra])
        for name in spectra[0]
    }


def untrained(bodies: Array) -> dict[str, Array]:
    """The same for the network as it was before training: what chance gives."""
    torch.manual_seed(SEED)
    example = {"body": torch.from_numpy(bodies[:1])}
    model = Linearization(to_onnx("untrained", Shapes().eval(), example, ("quantities", "reconstruction"), free=False))
    return symmetries(spectra_of([model.at(bodies[i : i + 1]) for i in range(8)]))


# --- figures --------------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, title: str) -> Figure:
    made = Figure(figsize=(width, height), facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    FigureCanvasAgg(made)
    made.suptitle(title, fontsize=11, fontweight="bold", color=INK, x=0.012, ha="left")
    return made


def quantities_figure(found: Array, known: Array, families: Array) -> Figure:
    """What the network says against the closed form."""
    made = new_figure(8.0, 3.6, "Held-out bodies: the network and the closed form")
    for k, ax in enumerate(made.subplots(1, 2)):
        top = 1.05 * float(known[:, k].max())
        ax.plot([0, top], [0, top], color=PALE, lw=1, zorder=0)
        for family, (colour, mark) in enumerate(((NEGATIVE, "o"), (POSITIVE, "^"))):
            rows = families == family
            ax.scatter(known[rows, k], found[rows, k], s=14, color=colour, marker=mark, label=FAMILIES[family], lw=0)
        ax.set_xlabel(f"{QUANTITIES[k].replace('_', ' about ')}, closed form", fontsize=9, color=GREY)
        ax.set_ylabel("network", fontsize=9, color=GREY)
        ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    return made


def symmetry_figure(trained: dict[str, Array], chance: dict[str, Array]) -> Figure:
    """The evenness of all leading vectors, by layer and axis."""
    made = new_figure(10.0, 3.6, f"Symmetry of the first {COUNT} right singular vectors: even 1, odd -1")
    random = np.random.default_rng(0)
    for ax, (found, title) in zip(
        made.subplots(1, 2, sharey=True), ((trained, "trained"), (chance, "before training")), strict=True
    ):
        for axis, (colour, mark) in enumerate(((POSITIVE, "o"), (NEGATIVE, "^"), ("#4d9221", "s"))):
            for place, values in enumerate(found.values()):
                shown = values[:, :, axis].ravel()
                x = place + 0.26 * (axis - 1) + random.uniform(-0.08, 0.08, len(shown))
                label = f"reflection of {AXES[axis]}" if place == 0 else None
                ax.scatter(x, shown, s=7, color=colour, marker=mark, lw=0, alpha=0.6, label=label)
        ax.axhline(0, lw=0.6, color=GREY)
        ax.set_xticks(range(len(found)), list(found), fontsize=8)
        ax.set_ylim(-1.05, 1.05)
        ax.set_title(title, fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return made


def instance_figures(found: InstanceSpectra, body: str) -> dict[str, Figure]:
    """The figures of one body."""
    face, last = Face((1, 1, SIDE, SIDE, SIDE), 1), found.layers[-1]
    back = Face(last.layer.shape, 1)
    title = f"{body}, volume: "
    return {
        "vectors": figures.vectors(last, face, found.x, back, title + "vectors of the penultimate layer", COUNT),
        "evolution": figures.evolution(found.layers, found.evolution, title + "from layer to layer"),
        "layers": figures.evolving_vectors(found.layers, face, found.x, title + "leading vectors of each layer", 2),
        "spectra": figures.spectra(found.layers, title + "spectra, and contributions before and after the reduction"),
    }


def similarity_figures(found: LayerSimilarity, names: list[str]) -> dict[str, Figure]:
    """The figures of all bodies."""
    matrices = [(f"$v_{{{k + 1}}}$", m) for k, m in enumerate(found.components)]
    matrices.append((f"space of $v_1$ to $v_{{{len(matrices)}}}$", found.leading))
    title = f"{len(names)} bodies, {found.name}: "
    face, shared = Face((1, 1, SIDE, SIDE, SIDE), 1), found.common[:6]
    maps = [c.basis[:, 0].reshape((SIDE,) * 3) for c in shared]
    return {
        "similarity": figures.similarity(matrices, names, found.order, title + "similarity of right vectors"),
        "common": figures.common_vectors(shared, maps, face, len(names), title + "vectors that bodies share"),
    }


# --- what was measured ----------------------------------------------------------------------------------------------


def evolution_of(layers: tuple[LayerSpectrum, ...]) -> Evolution:
    """How the spectrum of one body changes over the layers."""
    nothing = Explained("volume", np.empty(0), None)
    return InstanceSpectra("", np.empty(0), nothing, layers).evolution


def quartiles(values: Array) -> list[float]:
    """Least, quartiles, largest."""
    return [float(f"{v:.4g}") for v in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]


def facts_of(
    spectra: list[dict[str, LayerSpectrum]], trained: dict[str, Array], chance: dict[str, Array], families: Array
) -> dict[str, Any]:
    """What shapes.json says, least, quartiles and largest over the bodies."""
    similar = LayerSimilarity.of("penultimate", [one["penultimate"] for one in spectra])
    alike, pairs = similar.leading, families[:, None] == families
    others = ~np.eye(len(families), dtype=bool)
    turn = [evolution_of(tuple(one.values())) for one in spectra]
    return {
        "bodies": len(spectra),
        "layers": list(LAYERS),
        "evenness of the leading vectors by axis x, y, z": {
            name: [quartiles(values[:, :, a]) for a in range(3)] for name, values in trained.items()
        },
        "the same before training": {n: [quartiles(v[:, :, a]) for a in range(3)] for n, v in chance.items()},
        "effective rank": {
            name: quartiles(np.array([t.effective_rank[i] for t in turn])) for i, name in enumerate(LAYERS)
        },
        "components that hold nine tenths of |alpha|": {
            name: quartiles(np.array([t.concentration[i].most for t in turn])) for i, name in enumerate(LAYERS)
        },
        "similarity of the leading vectors to those of the penultimate layer": {
            name: quartiles(np.array([t.turn[i, -1] for t in turn])) for i, name in enumerate(LAYERS)
        },
        "volume = sum alpha + b, largest residual": max(abs(s.remainder) for one in spectra for s in one.values()),
        "penultimate: similarity of bodies of one family": quartiles(alike[pairs & others]),
        "penultimate: similarity of bodies of two families": quartiles(alike[~pairs]),
        "penultimate: clusters": int(similar.clusters.max()) + 1,
        "penultimate: bodies that share the most common vector": len(similar.common[0].samples),
    }


def compact(facts: dict[str, Any]) -> str:
    """JSON with a list of numbers on one line."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), json.dumps(facts, indent=2)) + "\n"


def main() -> None:
    """Measure, draw and write."""
    with np.load(ROOT / "models" / "shapes.npz") as file:
        bodies, known, families = file["body"], file["quantities"], file["families"]
    model = Linearization(ROOT / "models" / "shapes.onnx")
    instances = [model.at(bodies[i : i + 1]) for i in range(len(bodies))]
    spectra = spectra_of(instances)
    trained, chance = symmetries(spectra), untrained(bodies)
    found = np.concatenate([instance.value("quantities") for instance in instances])
    made = {"quantities": quantities_figure(found, known, families), "symmetry": symmetry_figure(trained, chance)}
    for family, body in enumerate(FAMILIES):
        i = int(np.argmax(families == family))
        one = InstanceSpectra(body, bodies[i], explained_at(instances[i], 0), tuple(spectra[i].values()))
        made |= {f"{body}_{key}": figure for key, figure in instance_figures(one, body).items()}
    names = [f"{FAMILIES[f][0]}{i}" for i, f in enumerate(families)]
    similar = LayerSimilarity.of("penultimate", [one["penultimate"] for one in spectra])
    made |= similarity_figures(similar, names)
    DOCS.mkdir(parents=True, exist_ok=True)
    for key, figure in made.items():
        write(figure, DOCS / f"shapes_{key}.png", dpi=100)
    facts = {"command": "python tools/reproduce_shapes.py", **facts_of(spectra, trained, chance, families)}
    with whole_file(DOCS / "shapes.json") as file:
        file.write(compact(facts).encode())
    print(compact(facts))


if __name__ == "__main__":
    main()
