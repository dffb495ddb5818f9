"""What the commands that cut a model open share: which rows of an input are one instance, and some options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from omenn_onnx.cli import UsageError
from omenn_onnx.linear.program import needed
from omenn_onnx.linearise import rows_are_independent
from omenn_onnx.runtime import feeds as fed
from omenn_onnx.runtime.readers import Sample
from omenn_onnx.spectral.instances import Linearization
from omenn_onnx.spectral.operators import MEMORY_LIMIT


@dataclass(frozen=True)
class Group:
    """Rows that are one instance, by their numbers in the file."""

    rows: tuple[int, ...]
    feeds: dict[str, Any]


def groups_of(model: Linearization, sample: Sample) -> tuple[list[Group], str]:
    """The instances of a sample, and why they have several rows (where they do)."""
    fixed = next((i.dims[0] for i in model.inputs if i.dims), None)
    size, why = 1, ""
    if isinstance(fixed, int) and fixed > 0:
        size, why = fixed, f"the model takes {fixed} rows at a time: they are one instance"
    elif sample.rows > 1:
        lin = model.at(sample.feeds).sized.lin
        z = lin.calculus.pairs[lin.output]
        if not rows_are_independent(lin, {e.out for e in needed(lin.equations, [z.value, z.ones])}):
            size, why = sample.rows, f"rows of this model interact: the {sample.rows} rows are one instance"
    if sample.rows % size:
        raise UsageError(
            f"{sample.name}: the model takes {size} rows at a time, {sample.rows} are given: choose a multiple of "
            f"{size} with --rows"
        )
    numbers = sample.numbers or tuple(range(sample.rows))
    groups = []
    for start in range(0, sample.rows, size):
        feeds = fed.rows_of(sample.feeds, model.inputs, slice(start, start + size), sample.rows)
        groups.append(Group(numbers[start : start + size], feeds))
    return groups, why if size > 1 else ""


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that cut a model open."""
    parser.add_argument("--memory-limit", type=float, default=MEMORY_LIMIT / 1e9, metavar="GB", help="most that may be "
                        f"held in memory (default: {MEMORY_LIMIT / 1e9:g})")  # fmt: skip
    parser.add_argument("--opaque", metavar="OP", action="append", default=[], help="accept an operator outside the "
                        "calculus as a constant (repeatable)")  # fmt: skip
    parser.add_argument("--labels", metavar="FILE|A,B,C", help="class names: a file with one a line, or a list")
