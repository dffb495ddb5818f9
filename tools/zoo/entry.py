"""What a network of the zoo is, and how it lies on disk. Needs numpy alone: builders also run in other environments."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Sample:
    """Inputs of a built network, and what its framework says at them.

    feeds: by graph input. gradients: dy/dX of the score that ``Network.options`` asks for, summed over rows, in the
    order of the explained tensors (empty: not known). outputs: the framework's own, by name, for the outputs known.
    """

    feeds: dict[str, Array]
    gradients: list[Array] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write as .npz."""
        parts = {f"feed/{k}": v for k, v in self.feeds.items()} | {f"output/{k}": v for k, v in self.outputs.items()}
        np.savez(path, **parts, **{f"gradient/{i}": g for i, g in enumerate(self.gradients)})

    @classmethod
    def load(cls, path: Path) -> Sample:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=True) as data:  # string tensors are object arrays
            parts = dict(data)

        def under(head: str) -> dict[str, Array]:
            return {k[len(head) :]: v for k, v in parts.items() if k.startswith(head)}

        gradients = under("gradient/")
        return cls(under("feed/"), [gradients[str(i)] for i in range(len(gradients))], under("output/"))


@dataclass(frozen=True)
class Network:
    """One network by one exporter.

    name: unique, also the file name (letters, digits, "-", "_", "."). kind: the kind of task.
    exporter: as the table shows it ("dynamo 20", "keras", "onnxruntime all", ...).
    build(path): writes the model to ``path``, seeded, and returns its sample (two rows where rows are free to choose).
    needs: packages that ``build`` imports, besides numpy and onnx.
    options: keyword arguments of ``omenn_onnx.compile`` other than rules.
    twin: the name of a network that must have the same maps: C_w to 1e-4 of the largest entry, C_b too;
      ``layout``: the permutation that takes this X to the twin's.
    float_twin: the name of the float network that this one was quantised from: how well C_w * X correlates is printed.
    accepted: differences from the twin that semantics.md lists: "C_b", "C_b secant", ... -> (limit, reason). They are
      printed with their size.
    bar: completeness, of max(1, |score|, sum|C_w*X|, sum|C_b|); 5e-3 for half precision.
    quantised: outputs may differ from the original's by the spread that the runtime's optimisation causes in it.
    refused: by rule set, words of the error where compiling must be refused.
    oracle: why the dense oracle of the tests is not asked ("": it is).
    quick: part of the test suite.
    """

    name: str
    kind: str
    exporter: str
    build: Callable[[Path], Sample]
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    twin: str = ""
    layout: tuple[int, ...] = ()
    float_twin: str = ""
    accepted: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    bar: float = 1e-5
    quantised: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    oracle: str = ""
    quick: bool = False

    def model(self, folder: Path) -> Path:
        """Where the model lies in a zoo's folder."""
        return folder / f"{self.name}.onnx"

    def sample(self, folder: Path) -> Path:
        """Where its inputs lie. Written last: where it exists, the network is built."""
        return folder / f"{self.name}.npz"

    def missing(self) -> list[str]:
        """Packages that the builder needs and this environment lacks."""
        return [p for p in self.needs if importlib.util.find_spec(p) is None]

    def make(self, folder: Path) -> None:
        """Build it into a folder."""
        self.build(self.model(folder)).save(self.sample(folder))
