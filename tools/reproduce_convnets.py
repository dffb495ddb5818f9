"""AlexNet and VGG-11 with BatchNorm: `python tools/reproduce_convnets.py [NETWORK...]`.

The small trained ones of models/ on a digit (alexnet_digits, vgg_digits: the default), and those at their published
sizes with random weights on a photograph (alexnet, vgg11_bn: minutes and several GB each). For each, at the last
convolution and the penultimate layer: the first three singular vectors, the spectrum (all of it where the smaller side
is at most --full), and the contributions to the best logit, whole and reduced. Writes
docs/spectral/convnets_NETWORK_*.png and convnets_NETWORK.json. The photograph in these figures is china.jpg of
scikit-learn's sample images, by danielbuechele, CC BY 2.0, cut square and scaled.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_spectrum import adjoint_error
from reproduce_shapes import DOCS, ROOT, compact
from spectral_convnets import ARCHITECTURES, inputs, model, photographs
from spectral_digits import SMALL

from omenn_onnx.runtime.figures import write
from omenn_onnx.runtime.files import whole_file
from omenn_onnx.spectral import figures
from omenn_onnx.spectral.analysis import LayerSpectrum, Settings, analyse, layers_of
from omenn_onnx.spectral.evolution import Concentration, effective_rank, stable_rank
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.panels import Face
from omenn_onnx.spectral.targets import Explained, explained

LAYERS = ("last_conv", "penultimate")
COUNT, LEADING = 3, 64  # vectors in the figures; triplets where the whole spectrum would be too much
DIGIT, PHOTOGRAPH = 1, 0
MEMORY = 10 * 10**9
Array = np.ndarray[Any, Any]


def opened(name: str, folder: Path) -> tuple[Linearization, Array, Array | None]:
    """The network, its input, and the picture [224,224,3] that stands for a photograph."""
    if name in ARCHITECTURES:
        path = folder / f"{name}.onnx"
        if not path.exists():
            onnx.save(model(name), path)
        shown = np.moveaxis(photographs()[PHOTOGRAPH], 0, -1)
        return Linearization(path), inputs()[PHOTOGRAPH : PHOTOGRAPH + 1], shown
    with np.load(ROOT / "models" / f"{name}.npz") as file:
        return Linearization(ROOT / "models" / f"{name}.onnx"), file["image"][DIGIT : DIGIT + 1], None


def spectra_at(instance: Instance, best: Explained, full_side: int) -> list[LayerSpectrum]:
    """R at both layers: all of it, or the leading triplets where its smaller side is above ``full_side``."""
    found = []
    for layer in layers_of(instance, LAYERS)[0]:
        small = min(instance.operator(target=layer.name).shape)
        whole = small <= full_side
        settings = Settings(k=COUNT if whole else LEADING, full=whole, fewer=True, memory_limit=MEMORY)
        found.append(analyse(instance, layer, best, settings))
    return found


def facts_of(instance: Instance, one: LayerSpectrum) -> dict[str, Any]:
    """What the JSON says of a layer."""
    operator = instance.operator(target=one.name)
    alpha, reduced = Concentration.of(one.alpha), Concentration.of(one.reduced.alpha[0])
    return {
        "R": list(one.sides),
        "components": len(one.s),
        "all of them": one.full,
        "s": rounded(one.s[:LEADING]),
        "effective rank": rounded(effective_rank(one.s)),
        "stable rank": rounded(stable_rank(one.s)),
        "logit": rounded(one.y),
        "bias": rounded(one.bias),
        "first contributions": rounded(one.alpha[:COUNT]),
        "what the components leave of L R x": rounded(one.remainder),
        "components that hold nine tenths of |alpha|": alpha.most,
        "components left by the reduction": int(np.count_nonzero(one.reduced.alpha)),
        "of these, that hold nine tenths": reduced.most,
        "largest residual of the first triplets": rounded(one.triplets.residuals.max()),
        "completeness residual": rounded(operator.residual),
        "adjoint identity": rounded(adjoint_error(operator)),
    }


def rounded(values: Any) -> Any:
    """Four digits."""
    return [rounded(v) for v in values] if np.ndim(values) else float(f"{float(values):.4g}")


def reproduce(name: str, folder: Path, full_side: int) -> None:
    """Measure, draw and write one network."""
    network, x, picture = opened(name, folder)
    instance = network.at(x)
    best = explained("argmax", instance.value("logits"), "logits")
    found = spectra_at(instance, best, full_side)
    face, title = Face(x.shape, 1, picture=picture), f"{name}, {best.label}: "
    made = {
        f"{one.name}_vectors": figures.vectors(
            one, face, x, Face(one.layer.shape, 1), f"{title}{one.name}, the first {COUNT} of {len(one.s)}", COUNT
        )
        for one in found
    }
    made["spectra"] = figures.spectra(found, f"{name}: spectra, contributions")
    DOCS.mkdir(parents=True, exist_ok=True)
    for key, figure in made.items():
        write(figure, DOCS / f"convnets_{name}_{key}.png", dpi=90 if picture is None else 65)
    facts = {"command": f"python tools/reproduce_convnets.py {name}", **{o.name: facts_of(instance, o) for o in found}}
    with whole_file(DOCS / f"convnets_{name}.json") as file:
        file.write(compact(facts).encode())
    print(compact(facts))


def main() -> None:
    """Read the names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SMALL, *ARCHITECTURES]
    parser.add_argument("network", nargs="*", help=f"of {', '.join(known)}")
    parser.add_argument("--full", type=int, default=4096, metavar="SIDE", help="whole spectrum up to this smaller side")
    parser.add_argument("--folder", type=Path, help="keep the exported models here, and use those that lie here")
    options = parser.parse_args()
    if unknown := [n for n in options.network if n not in known]:
        parser.error(f"no network {', '.join(unknown)}: choose from {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="convnets-") as temporary:
        for name in options.network or SMALL:
            reproduce(name, options.folder or Path(temporary), options.full)


if __name__ == "__main__":
    main()
