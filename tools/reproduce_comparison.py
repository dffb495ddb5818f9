"""Singular vectors beside other attributions (SpecXAI, section 3.3): `python tools/reproduce_comparison.py`.

For held-out digits of two trained networks of models/, a residual network and a small AlexNet, and the class that each
is given: input gradient, gradient x input, integrated gradients, Grad-CAM, OMENN's contributions C_w X + C_b, and the
three components of the penultimate layer that add most to the class: singular vector v_k, contracted with the input
(eq. 23) and in units of the logit, so that a map sums to its alpha_k. All of it is computed from graphs that this
package compiles. Writes comparison.png and comparison.json (what each map sums to) into docs/spectral/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import omenn_onnx
from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.runtime.panels import COLOURS, GREY, INK
from omenn_onnx.spectral.baselines import grad_cam, gradient_x_input, input_gradient, integrated_gradients
from omenn_onnx.spectral.contributions import contracted, contributions
from omenn_onnx.spectral.full import full_spectrum
from omenn_onnx.spectral.instances import Linearization

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "spectral"
NETWORKS = {"digits_cnn": "mean", "alexnet_digits": "penultimate"}
"""Models, and their penultimate layers."""
DIGITS = (0, 3, 8)
STEPS = 128
VECTORS = 3
Array = NDArray[Any]


@dataclass(frozen=True)
class Panel:
    """One map [H,W]: its column, what stands below it, and how it is coloured (grey, signed, positive)."""

    title: str
    map: Array
    below: str
    colours: str


@dataclass(frozen=True)
class Row:
    """One digit of one network, with its panels and what was measured."""

    network: str
    label: int
    panels: list[Panel]
    measured: dict[str, Any]


def rows() -> Iterator[Row]:
    """The rows of the figure: of each network the first held-out input of each digit that it gets right."""
    for name, layer in NETWORKS.items():
        path = ROOT / "models" / f"{name}.onnx"
        model = Linearization(path)
        explainer = omenn_onnx.Explainer(omenn_onnx.compile(path, target="input"), providers="cpu")
        with np.load(path.with_suffix(".npz")) as data:
            images, labels = data["image"], data["labels"]
        for digit in DIGITS:
            for index in np.flatnonzero(labels == digit):
                x = images[index : index + 1]
                if int(model.at(x).operator().y.argmax()) == digit:
                    yield row(name, layer, digit, x, model, explainer)
                    break


def row(name: str, layer: str, digit: int, x: Array, model: Linearization, explainer: Any) -> Row:
    """All maps of the logit of ``digit`` at ``x`` [1,1,H,W]."""
    instance = model.at(x)
    logit = float(instance.operator().y[digit])
    gradient, product = input_gradient(instance, digit), gradient_x_input(instance, digit)
    integrated = integrated_gradients(model, x, digit, steps=STEPS, show=False)
    cam = grad_cam(instance, digit)
    omenn = explainer(x, target=digit)
    right, left = instance.operator(None, layer), instance.operator(layer)
    found = full_spectrum(right).triplets().oriented(right.x)
    parts = contributions(found, left.rmatvec(np.eye(left.shape[0], dtype=left.dtype)[digit]), right.matvec(right.x))
    chosen = parts.order[0][:VECTORS]
    added = contracted(found.v[:, chosen], x.shape, 1, right.x)
    added *= (parts.weights[0, chosen] * found.s[chosen]).reshape(-1, 1, 1, 1)  # each sums to its alpha
    panels = [
        Panel("input", x[0, 0], f"logit {logit:.1f}", "grey"),
        Panel("gradient", gradient[0, 0], "", "signed"),
        Panel("gradient × input", product[0, 0], f"Σ {product.sum():+.1f}", "signed"),
        Panel("integrated gradients", integrated.attribution[0, 0], f"Σ {integrated.attribution.sum():+.1f}", "signed"),
        Panel("Grad-CAM", cam.map[0], f"at {cam.layer}", "positive"),
        Panel("OMENN  C", np.reshape(omenn.C, x.shape[2:]), f"Σ {omenn.C.sum():+.1f}", "signed"),
    ]
    for place, k in enumerate(chosen):
        below = f"v{k + 1}:  Σ {parts.alpha[0, k]:+.1f}, {100 * parts.shares[0, k]:.0f} %"
        panels.append(Panel(f"component {place + 1}", added[place, 0], below, "signed"))
    measured = {
        "network": name,
        "digit": digit,
        "logit": logit,
        "gradient x input": float(product.sum()),
        "integrated gradients": float(integrated.attribution.sum()),
        "gained from the black image": integrated.gained,
        "OMENN": float(omenn.C.sum()),
        "Grad-CAM at": cam.layer,
        "components at": layer,
        "components": [int(k) for k in chosen],
        "alpha": [float(parts.alpha[0, k]) for k in chosen],
        "sum of all alpha": float(parts.explained[0]),
        "bias": logit - float(parts.linear[0]),
    }
    return Row(name, digit, panels, measured)


def draw(found: list[Row]) -> Figure:
    """A line for each digit, a column for each method; every map on a scale of its own, symmetric about 0."""
    columns = len(found[0].panels)
    made = Figure(figsize=(1.28 * columns, 1.42 * len(found) + 0.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(len(found), columns, squeeze=False)
    for line, drawn in zip(axes, found, strict=True):
        for ax, panel in zip(line, drawn.panels, strict=True):
            show(ax, panel)
            if ax in axes[0]:
                ax.set_title(panel.title, fontsize=8, color=INK)
        line[0].set_ylabel(f"{drawn.network}\nclass {drawn.label}", fontsize=8, color=INK)
    made.supxlabel(
        "red adds to the logit, blue takes from it (gradient: would), each map on its own scale; Σ: what it sums to; "
        "components: and their shares; Grad-CAM: dark is high", fontsize=8, color=GREY
    )  # fmt: skip
    return made


def show(ax: Axes, panel: Panel) -> None:
    """One map."""
    limit = float(np.abs(panel.map).max()) or 1.0
    if panel.colours == "signed":
        ax.imshow(panel.map, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
    else:
        colours = "gray" if panel.colours == "grey" else "Greys"
        ax.imshow(panel.map, cmap=colours, vmin=0, vmax=limit, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(panel.below.replace("-", "−"), fontsize=7, color=GREY, labelpad=2)


def main() -> None:
    found = list(rows())
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "comparison.png"
    write(draw(found), path, dpi=100)
    with whole_file(OUT / "comparison.json") as file:
        file.write(json.dumps([r.measured for r in found], indent=1).encode() + b"\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
