"""Parametric t-SNE of the digits, linearised at each digit: `python tools/reproduce_tsne.py`.

A network that puts an image on the plane is, at one image, the affine map  point = W x + b  with W [2,256]: the column
of a pixel says which way, and how far, brightening it moves the point; column times pixel is what the pixel adds to the
point. Shows both for several digits with the networks of models/ (tsne.onnx without biases, tsne_bias.onnx with),
checks that the contributions add up at all kept images, and writes docs/spectral/tsne*.png and tsne.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from spectral_tsne import NETWORKS

from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.runtime.panels import COLOURS, GREY, INK
from omenn_onnx.spectral.instances import Linearization

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "spectral"
SHOWN = (0, 1, 3, 4, 6, 7)  # digits in the figures
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """A digit on the plane: point [2] = w @ x + b, with x [256], w [2,256] and b [2]."""

    label: int
    x: Array
    w: Array
    b: Array
    point: Array

    @property
    def contributions(self) -> Array:
        """What each pixel adds to the point: [2,256]."""
        return np.asarray(self.w * self.x)

    @property
    def residual(self) -> float:
        """|sum of the contributions + b - point|, relative to the largest of 1, |point| and their sum of magnitudes."""
        off = np.abs(self.contributions.sum(axis=1) + self.b - self.point).max()
        return float(off / max(1.0, np.abs(self.point).max(), np.abs(self.contributions).sum(axis=1).max()))


def placed(name: str) -> list[Placed]:
    """All kept digits of models/NAME.npz, each linearised at its own image."""
    model = Linearization(ROOT / "models" / f"{name}.onnx")
    found = []
    with np.load(ROOT / "models" / f"{name}.npz") as kept:
        for image, label in zip(kept["image"], kept["labels"], strict=True):
            op = model.at({"image": image[None]}).operator()
            w, b = op.dense().astype(np.float64), op.bias.astype(np.float64)
            found.append(Placed(int(label), op.x.astype(np.float64), w, b, op.y.astype(np.float64)))
    return found


def effective_directions(maps: Sequence[Array]) -> float:
    """exp(entropy) of the energy shares of the singular values of all maps, stacked: how many different ways there are
    in which the network looks at images; 2 for one linear map."""
    s = np.linalg.svd(np.concatenate(maps), compute_uv=False)
    share = s**2 / (s**2).sum()
    return float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))


def measure(digits: Sequence[Placed]) -> dict[str, object]:
    """Over all kept digits of one network."""
    length = np.array([np.linalg.norm(d.point) for d in digits])
    magnitude = np.array([np.abs(d.contributions).sum() for d in digits])
    return {
        "digits": len(digits),
        "largest residual of W x + b - point": max(d.residual for d in digits),
        "|b| / |point|, median": float(f"{np.median([np.linalg.norm(d.b) for d in digits] / length):.4g}"),
        "sum of |contributions| / sum of |coordinates|, median": float(
            f"{np.median(magnitude / [np.abs(d.point).sum() for d in digits]):.4g}"
        ),
        "distinct maps among them": len({d.w.astype(np.float32).tobytes() for d in digits}),
        "effective number of directions of all maps": float(f"{effective_directions([d.w for d in digits]):.4g}"),
    }


# --- figures --------------------------------------------------------------------------------------------------------


def picture(ax: Axes, values: Array, limit: float | None, title: str = "", below: str = "") -> None:
    """A digit in grey, or a signed map on the scale -limit to limit."""
    if limit is None:
        ax.imshow(values.reshape(16, 16), cmap="gray_r", vmin=0, vmax=1)
    else:
        ax.imshow(values.reshape(16, 16), cmap=COLOURS, vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xlabel(below, fontsize=8, color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])


def arrows(ax: Axes, d: Placed, longest: float) -> None:
    """Each pixel as an arrow over the digit: what it adds to the point, on the plane's own axes."""
    ax.imshow(d.x.reshape(16, 16), cmap="gray_r", vmin=0, vmax=2.5)
    rows, columns = np.divmod(np.flatnonzero(d.x), 16)
    dx, dy = d.contributions[:, d.x != 0]
    # The image's vertical axis points down, the plane's up: the arrows are drawn as on the plane.
    ax.quiver(columns, rows, dx, dy, angles="uv", scale_units="xy", scale=longest / 2.2, width=0.009, color="#b35806")
    ax.set_xticks([])
    ax.set_yticks([])


def maps_figure(digits: Sequence[Placed], title: str) -> Figure:
    """A row for each digit: the image, the two rows of W, the contributions to both coordinates, and both as arrows."""
    made = Figure(figsize=(10.5, 1.75 * len(digits) + 0.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, fontsize=11, color=INK)
    grid = made.subplots(len(digits), 6)
    heads = ["image x", "W, to the right", "W, upwards", "W x, to the right", "W x, upwards", "each pixel's push"]
    slope = max(np.percentile(np.abs(d.w), 98) for d in digits)
    share = max(np.percentile(np.abs(d.contributions), 99.5) for d in digits)
    for row, d in zip(grid, digits, strict=True):
        titles = heads if d is digits[0] else [""] * 6
        picture(row[0], d.x, None, titles[0], f"at ({d.point[0]:.1f}, {d.point[1]:.1f})")
        for axis in (0, 1):
            c, b = d.contributions[axis], d.b[axis]
            sums = f"{c.sum():+.1f}" + (f" with b {b:+.1f}: {c.sum() + b:+.1f}" if d.b.any() else "")
            picture(row[1 + axis], d.w[axis], slope, titles[1 + axis])
            picture(row[3 + axis], c, share, titles[3 + axis], f"adds {sums}")
        arrows(row[5], d, share)
        row[5].set_title(titles[5], fontsize=9, color=INK)
    return made


def plane_figure(networks: dict[str, Sequence[Placed]]) -> Figure:
    """All kept digits on the plane; thin lines from b, where each digit's own contributions begin, to its point."""
    made = Figure(figsize=(11, 5.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle("From b (cross) the pixels' contributions lead to the point (digit)", fontsize=11, color=INK)
    for ax, (name, digits) in zip(made.subplots(1, len(networks)), networks.items(), strict=True):
        for d in digits:
            colour = f"C{d.label}"
            ax.plot(*np.stack([d.b, d.point], axis=1), color=colour, lw=0.5, alpha=0.6)
            ax.plot(*d.b, "+", color=colour, ms=5)
            ax.text(*d.point, str(d.label), color=colour, fontsize=10, fontweight="bold", ha="center", va="center")
        ax.set_title(name, fontsize=9, color=INK)
        ax.set_aspect("equal", "datalim")
        ax.spines[["top", "right"]].set_visible(False)
    return made


def main() -> None:
    """Measure and draw."""
    DOCS.mkdir(parents=True, exist_ok=True)
    networks = {name: placed(name) for name in NETWORKS}
    facts = {name: measure(digits) for name, digits in networks.items()}
    for name, of in facts.items():
        of["onnx"] = json.loads((ROOT / "models" / f"{name}.json").read_text())["onnx"]["sha256"]
    for name, digits in networks.items():
        for key, value in facts[name].items():
            print(f"{name}: {key}: {value:.3g}" if isinstance(value, float) else f"{name}: {key}: {value}")
        chosen = [next(d for d in digits if d.label == label) for label in SHOWN]
        with_b = "with biases" if any(d.b.any() for d in digits) else "without biases"
        made = maps_figure(chosen, f"Parametric t-SNE {with_b}: how each pixel moves the point")
        write(made, DOCS / f"{name}.png", 90)
    write(plane_figure(networks), DOCS / "tsne_plane.png", 80)
    with whole_file(DOCS / "tsne.json") as file:
        file.write((json.dumps(facts, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
