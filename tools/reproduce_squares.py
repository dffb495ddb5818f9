"""The rotated squares of SpecXAI with the networks of models/: `python tools/reproduce_squares.py`.

Cuts squares.onnx (no biases), squares_bias.onnx and squares_sigmoid.onnx (biases, and a sigmoid that is explained too)
open at the kept held-out images. Measures what is known of the paper's text: that the operator's spectrum decays faster
than the data's, that a few components carry the reconstruction, that bias terms carry the bulk of it and components
correct edges. Writes docs/spectral/squares_*.png and squares.json; prints, statement by statement, what holds here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reproduce_squares_figures as figures
from numpy.typing import NDArray
from scipy.sparse import identity
from scipy.sparse.linalg import aslinearoperator
from spectral_squares import BOTTLENECK, NETWORKS, SIDE, SIZE, data
from tqdm import tqdm

from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.spectral.biases import layer_biases
from omenn_onnx.spectral.contributions import contributions
from omenn_onnx.spectral.evolution import effective_rank
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.svd import Triplets, triplets

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "spectral"
BIASED = ("squares_bias", "squares_sigmoid")
EDGE = 3.0  # pixels on both sides of the square's outline that count as its edge
SHOWN = 2  # the held-out image in the figures
ROUNDING = 1e-5  # singular values below this part of the largest one are left out, components with them
PRESENT = 0.1  # a reconstruction is carried when no more than this part of |y| is missing
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """A reconstruction y = sum_k alpha_k + bias at one image; all flat, float64. `spectrum` [8]: all singular values
    that the bottleneck leaves, descending. `alpha` [r,4096]: the components u_k (u_k . R x) of those that are more than
    rounding, those that add most first, and `triplets` in the same order."""

    x: Vector
    y: Vector
    bias: Vector
    spectrum: Vector
    alpha: Vector
    triplets: Triplets

    @property
    def linear(self) -> Vector:
        """R x."""
        return np.asarray(self.y - self.bias)

    @property
    def residual(self) -> float:
        """|y - sum alpha - bias| / |y|."""
        return norm(self.y - self.alpha.sum(axis=0) - self.bias) / norm(self.y)

    @property
    def missing(self) -> Vector:
        """What the bias and the first 0, 1, ... 8 components leave of the reconstruction: |y - their sum| / |y|."""
        sums = [self.alpha[:k].sum(axis=0) for k in range(BOTTLENECK + 1)]
        return np.array([norm(self.linear - s) for s in sums]) / norm(self.y)


def norm(v: Vector) -> float:
    """The Euclidean length."""
    return float(np.linalg.norm(v))


def linearised(name: str) -> Linearization:
    """A network of models/, explained at its reconstruction: through the sigmoid too, where there is one."""
    return Linearization(ROOT / "models" / f"{name}.onnx", output="reconstruction")


def split(model: Linearization, image: NDArray[np.float32]) -> Split:
    """The components of the reconstruction of an image [1,64,64]."""
    instance = model.at({"image": image[None]})
    op, spectrum = instance.operator(), through_the_bottleneck(instance)
    found = triplets(op, int(np.sum(spectrum >= ROUNDING * spectrum[0])))
    every = contributions(found, aslinearoperator(identity(op.shape[0])), op.matvec(op.x), op.bias)
    order = np.argsort(-np.linalg.norm(every.alpha, axis=0))
    x, y, bias = (np.asarray(values, np.float64) for values in (op.x, op.y, op.bias))
    return Split(x, y, bias, spectrum, every.alpha.T[order], found.select(order.tolist()))


def through_the_bottleneck(instance: Instance) -> Vector:
    """All singular values [8] of the operator, from its factors: image to bottleneck, bottleneck to reconstruction."""
    right, left = instance.operator(target="bottleneck"), instance.operator(source="bottleneck")
    r = [np.linalg.qr(m.astype(np.float64), mode="r") for m in (left.dense(), right.dense().T)]
    return np.linalg.svd(r[0] @ r[1].T, compute_uv=False)


def at_the_edge(v: Vector, angle: float) -> float:
    """Share of |v|^2 within `EDGE` pixels of the outline of the square that is turned by `angle` degrees."""
    places = np.arange(SIZE) + 0.5 - SIZE / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    outside = np.maximum(np.abs(x * cosine + y * sine), np.abs(y * cosine - x * sine)).ravel() - SIDE / 2
    return float((v[np.abs(outside) <= EDGE] ** 2).sum() / (v**2).sum())


def singular_values(matrix: NDArray[np.float32]) -> Vector:
    """All singular values of a data matrix [N,D], descending, through its Gram matrix."""
    rows = matrix.astype(np.float64)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(rows @ rows.T)[::-1], 0.0))


def data_spectra(count: int) -> dict[str, Vector]:
    """Singular values of the first `count` training images as a matrix [N,4096], as they are and less their mean."""
    rows = data()[0][:count].reshape(count, -1)
    return {"images": singular_values(rows), "images less their mean": singular_values(rows - rows.mean(axis=0))}


# --- what was measured ----------------------------------------------------------------------------------------------


def spectrum_facts(s: Vector) -> dict[str, Any]:
    """How a spectrum decays: of the values, how many reach a part of the largest; of the energy, how much is left."""
    energy = s**2 / (s**2).sum()
    return {
        "s_k / s_1": [short(v) for v in s[:BOTTLENECK] / s[0]],
        "values of at least 1 % of the largest": int(np.sum(s >= 0.01 * s[0])),
        "energy that the first 3 leave out": short(1 - min(1.0, float(energy[:3].sum()))),
        "effective rank": short(effective_rank(s)),
    }


def measure(splits: Sequence[Split], angles: Vector) -> dict[str, Any]:
    """Over the images of one network: medians, unless they say otherwise."""
    missing = np.array([s.missing for s in splits])
    facts = [spectrum_facts(s.spectrum) for s in splits]
    parts = {"R x": [s.linear for s in splits], "b": [s.bias for s in splits]}
    found: dict[str, Any] = {
        "images": len(splits),
        "largest of |y - sum alpha - b| / |y|": short(max(s.residual for s in splits)),
        "spectrum": {
            key: [short(v) for v in np.median([f[key] for f in facts], axis=0)]
            if isinstance(facts[0][key], list)
            else short(np.median([f[key] for f in facts]))
            for key in facts[0]
        },
        "missing after b and k components": [short(v) for v in np.median(missing, axis=0)],
        "missing after b and k components, largest": [short(v) for v in missing.max(axis=0)],
        f"components until {PRESENT:.0%} is missing": int(np.median(np.argmax(missing <= PRESENT, axis=1))),
    }
    for name, vectors in parts.items():
        if any(norm(v) for v in vectors):
            sizes = [norm(v) / norm(s.y) for v, s in zip(vectors, splits, strict=True)]
            found[f"|{name}| / |y|"] = short(np.median(sizes))
            found[f"share of |{name}|^2 at the edge"] = short(
                np.median([at_the_edge(v, a) for v, a in zip(vectors, angles, strict=True)])
            )
    return found


def short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def statements(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of the paper's text, whether our networks show it, and by which numbers."""
    plain, bias, sigmoid = (found[name] for name in NETWORKS)
    images, centred = found["images"], found["images less their mean"]
    one, until = "values of at least 1 % of the largest", f"components until {PRESENT:.0%} is missing"

    def faster(operator: dict[str, Any], data: dict[str, Any]) -> bool:
        pairs = zip(operator["s_k / s_1"], data["s_k / s_1"], strict=True)
        return all(a <= b for a, b in pairs) and operator[one] < data[one]

    def decay(name: str, of: dict[str, Any]) -> str:
        values = ", ".join(f"{v:.3g}" for v in of["s_k / s_1"][1:5])
        return f"{name}: s_2 to s_5 are {values} of s_1, {of[one]:g} reach 1 %"

    def carried(of: dict[str, Any]) -> str:
        return f"b is {of['|b| / |y|']:.1%} of |y|, R x {of['|R x| / |y|']:.1%}"

    def edges(of: dict[str, Any]) -> str:
        return f"{of['share of |R x|^2 at the edge']:.1%} of |R x|^2 lies within {EDGE:g} pixels of the outline"

    both = [decay("operator without biases", plain["spectrum"]), decay("data", centred), decay("data", images)]
    return [
        {
            "statement": "the operator's spectrum decays faster than that of the data less their mean",
            "holds": faster(plain["spectrum"], centred),
            "because": f"{both[0]}; {both[1]}",
        },
        {
            "statement": "the operator's spectrum decays faster than that of the data as they are",
            "holds": faster(plain["spectrum"], images),
            "because": f"{both[0]}; {both[2]}. The mean image makes the data's first value large; the "
            "operator's values start flatter and cross the data's",
        },
        {
            "statement": "a few components carry the reconstruction",
            "holds": max(n[until] for n in (plain, bias, sigmoid)) <= 3,
            "because": f"{1 - PRESENT:.0%} of |y| takes {plain[until]} components (median) without biases, "
            f"{bias[until]} beside the bias term, {sigmoid[until]} through the sigmoid",
        },
        {
            "statement": "bias terms carry the bulk of the reconstruction, behind a linear layer",
            "holds": bias["|b| / |y|"] > bias["|R x| / |y|"],
            "because": f"{carried(bias)}. All images are equally bright: weights on that do what biases do",
        },
        {
            "statement": "bias terms carry the bulk of the reconstruction, through a sigmoid",
            "holds": sigmoid["|b| / |y|"] > sigmoid["|R x| / |y|"],
            "because": f"{carried(sigmoid)}. Nearly all of b is what the sigmoid's tangent leaves over, "
            f"f(z) - f'(z) z, and no layer's bias: {sigmoid['beta of the sigmoid / |y|']:.1%} in the image shown",
        },
        {
            "statement": "components correct edges, behind a linear layer",
            "holds": bias["share of |R x|^2 at the edge"] > 0.5,
            "because": edges(bias),
        },
        {
            "statement": "components correct edges, through a sigmoid",
            "holds": sigmoid["share of |R x|^2 at the edge"] > 0.5,
            "because": edges(sigmoid),
        },
    ]


def main() -> None:
    """Measure, say, draw."""
    DOCS.mkdir(parents=True, exist_ok=True)
    with np.load(ROOT / "models" / "squares.npz") as kept:
        images, angles = kept["image"], kept["angles"]
    models = {name: linearised(name) for name in NETWORKS}
    splits = {
        name: [split(model, image) for image in tqdm(images, name, unit="image")] for name, model in models.items()
    }
    spectra = data_spectra(1024)
    found: dict[str, Any] = {name: spectrum_facts(s) for name, s in spectra.items()}
    found |= {name: measure(of, angles) for name, of in splits.items()}
    shown = {name: of[SHOWN] for name, of in splits.items()}
    layers = {name: layer_biases(models[name].at({"image": images[SHOWN : SHOWN + 1]})) for name in BIASED}
    for name in NETWORKS:
        found[name]["onnx"] = json.loads((ROOT / "models" / f"{name}.json").read_text())["onnx"]["sha256"]
    sigmoid = layers["squares_sigmoid"].pushed[-1].ravel()
    found["squares_sigmoid"]["beta of the sigmoid / |y|"] = short(norm(sigmoid) / norm(shown["squares_sigmoid"].y))
    said = statements(found)
    for s in said:
        print(f"{'agrees' if s['holds'] else 'disagrees'}: {s['statement']}. {s['because']}")
    with whole_file(DOCS / "squares.json") as file:
        file.write((json.dumps({"measured": found, "statements": said}, indent=2) + "\n").encode())
    operators = {name: np.array([s.spectrum for s in of]) for name, of in splits.items()}
    write(figures.spectra(spectra, operators), DOCS / "squares_spectra.png", 90)
    write(figures.vectors(shown["squares"]), DOCS / "squares_vectors.png", 80)
    missing = {name: np.array([s.missing for s in of]) for name, of in splits.items()}
    write(figures.components(shown, missing), DOCS / "squares_components.png", 80)
    for name in BIASED:
        write(figures.biases(shown[name], layers[name], name), DOCS / f"{name}.png", 80)


if __name__ == "__main__":
    main()
