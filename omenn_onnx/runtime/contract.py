"""What a compiled file says about itself: the metadata under ``omenn.``, read once and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omenn_onnx.errors import ModelFileError

FORMAT = "1"

#: Completeness bar per arithmetic, relative to max(1, |y|, sum|C_w*X|, sum|C_b|).
BARS = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}

#: Above this condition number the explanation is ill-conditioned, and the user is told.
ILL_CONDITIONED = 1e4


@dataclass(frozen=True)
class ExplainedInput:
    """One explained tensor X: where its value and its two coefficient maps are found."""

    name: str
    x: str  # graph input or output that carries X
    graph_input: bool
    C_w: str
    C_b: str
    channel_axis: int  # with respect to X


@dataclass(frozen=True)
class TargetSpec:
    """How the target was asked for at compile time. ``k`` is None when C_w has no target axis of known length."""

    kind: str
    spec: str
    k: int | None
    dynamic_k: bool


@dataclass(frozen=True)
class Contract:
    """All that the runtime needs to know of a compiled file; nothing of it comes from the compiler's code."""

    version: str
    rules: str
    dtype: str
    precision: str  # the coarsest float type between X and Z: its rounding stays in the residual
    provider: str  # where it was compiled to run
    output: str
    outputs: tuple[str, ...]
    target: TargetSpec
    inputs: tuple[ExplainedInput, ...]
    score: str
    target_output: str
    target_input: str | None
    seed_input: str | None
    opaque_share: str | None
    opaque: tuple[str, ...]
    rows: bool
    output_shape: tuple[int | None, ...] | None  # of the explained tensor Z, when the file states it

    @property
    def bar(self) -> float:
        """Completeness bar of the arithmetic that the file was compiled for, and of the model's own."""
        return max(BARS.get(name, BARS["float32"]) for name in (self.dtype, self.precision))

    @property
    def choosing(self) -> tuple[str, ...]:
        """Inputs that the compiler added, which choose the target."""
        return tuple(n for n in (self.target_input, self.seed_input) if n is not None)

    @property
    def own_names(self) -> frozenset[str]:
        """Outputs that the compiler added."""
        names = {self.score, self.target_output}
        names.update(n for i in self.inputs for n in (i.C_w, i.C_b) + (() if i.graph_input else (i.x,)))
        if self.opaque_share:
            names.add(self.opaque_share)
        return frozenset(names) - set(self.outputs)


def read_contract(metadata: Mapping[str, str], where: str) -> Contract:
    """The contract of a compiled file from its ``metadata_props``. ``where`` names the file in messages.

    Raises ModelFileError when the file was not made by omenn-compile, or by one of another format.
    """
    if "omenn.format" not in metadata:
        raise ModelFileError(f"{where} is not a compiled model: run omenn-compile on it first")
    if metadata["omenn.format"] != FORMAT:
        raise ModelFileError(
            f"{where} has omenn.format {metadata['omenn.format']!r}, this version reads {FORMAT!r}: compile it again"
        )
    try:
        return _parse(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{where}: damaged omenn metadata ({type(error).__name__}: {error})") from error


def _parse(metadata: Mapping[str, str]) -> Contract:
    def load(key: str) -> Any:
        return json.loads(metadata[f"omenn.{key}"])

    names = load("names")
    shape = json.loads(metadata.get("omenn.output_shape", "null"))
    return Contract(
        version=metadata["omenn.version"],
        rules=metadata["omenn.rules"],
        dtype=metadata["omenn.dtype"],
        precision=metadata.get("omenn.precision", metadata["omenn.dtype"]),
        provider=metadata.get("omenn.provider", "cpu"),
        output=metadata["omenn.output"],
        outputs=tuple(load("outputs")),
        target=TargetSpec(**load("target")),
        inputs=tuple(ExplainedInput(**entry) for entry in load("inputs")),
        score=names["score"],
        target_output=names["target"],
        target_input=names.get("target_input"),
        seed_input=names.get("seed_input"),
        opaque_share=names.get("opaque_share"),
        opaque=tuple(load("opaque")),
        rows=bool(load("rows")),
        output_shape=None if shape is None else tuple(d if isinstance(d, int) else None for d in shape),
    )
