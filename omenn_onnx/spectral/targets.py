"""Which number of the explained output is split: a class, a margin, the length of a dense output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.errors import TargetError
from omenn_onnx.runtime.figures import target_name
from omenn_onnx.spectral.functionals import functional

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Explained:
    """y = <weights, Z>: ``label`` for a reader, ``weights`` [M], the flat ``index`` of a single element (else None)."""

    label: str
    weights: Array
    index: int | None


def explained(spec: str, z: Array, output: str, labels: Sequence[str] | None = None) -> Explained:
    """``argmax`` (the largest element of Z), ``3`` (a flat index) or a label, ``3-7`` (a margin, 3 minus 7), ``norm``
    (|Z|, by the weights Z / |Z|: all of a dense output). ``output`` names Z in messages. Raises TargetError."""
    flat = np.asarray(z, np.float64).reshape(-1)
    if spec == "norm":
        length = float(np.linalg.norm(flat))
        if length == 0:
            raise TargetError(f"target 'norm': {output!r} is zero at this input")
        return Explained(f"|{output}|", flat / length, None)
    if spec == "argmax":
        return _single(int(np.argmax(flat)), z, output, labels)
    if labels is not None and spec in labels:
        return _single(list(labels).index(spec), z, output, labels)
    if margin := re.fullmatch(r"(\d+)-(\d+)", spec):
        first, second = (_single(int(i), z, output, labels) for i in margin.groups())
        return Explained(f"{first.label} − {second.label}", first.weights - second.weights, None)
    if re.fullmatch(r"-?\d+", spec):
        return _single(int(spec), z, output, labels)
    raise TargetError(f"target {spec!r} cannot be read: give argmax, an index such as 3, a margin such as 3-7, or norm")


def _single(index: int, z: Array, output: str, labels: Sequence[str] | None) -> Explained:
    weights = functional(index, output, np.shape(z), np.float64)
    name = target_name(index, labels).removeprefix(str(index))
    return Explained(f"{output}[{index}]{name}", weights, index)
