"""Checks of a compiled file on given inputs: completeness, condition number, outputs against the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omenn_onnx.errors import ModelFileError
from omenn_onnx.runtime.contract import ILL_CONDITIONED, Contract
from omenn_onnx.runtime.engines import Engine
from omenn_onnx.runtime.explanation import Explanation

SAME_OUTPUTS = 1e-5


@dataclass
class Check:
    """The worst value of one quantity, where it was met, and whether it is within its bar."""

    name: str
    bar: float
    binding: bool = True  # a bar that is only told about does not fail the whole
    worst: float = 0.0
    where: str = ""
    note: str = ""

    def see(self, value: float, where: str) -> None:
        """Take a value into account; NaN is worse than everything."""
        if not self.where or value > self.worst or (np.isnan(value) and not np.isnan(self.worst)):
            self.worst, self.where = value, where

    @property
    def within(self) -> bool:
        """True where the worst value keeps the bar."""
        return bool(self.worst <= self.bar)


@dataclass
class Verification:
    """All checks of a file. ``passed`` where every binding check is within its bar."""

    contract: Contract
    tolerance: float | None = None
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether something was checked, and all of it is within its bar."""
        return bool(self.checks) and all(c.within for c in self.checks.values() if c.binding)

    def explanation(self, found: Explanation, where: str, first: int = 0) -> None:
        """Completeness and condition number of every row and target; rows count from ``first``."""
        bar = self.contract.bar if self.tolerance is None else self.tolerance
        complete = self._check("completeness", bar)
        condition = self._check("condition number", ILL_CONDITIONED, binding=False)
        for at in np.ndindex(found.sums.y.shape):
            place = where + (f" row {first + at[0]}" if found.sums.y.shape == np.shape(found.score) and at else "")
            complete.see(float(found.relative_residual[at]), place)
            condition.see(float(found.condition[at]), place)

    def outputs(
        self,
        found: Mapping[str, Any],
        original: Mapping[str, Any],
        where: str,
        unoptimised: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """Every output of the original, in the compiled file: type exactly, values relative to the largest of them.

        ONNX Runtime computes parts of a half float model in float32, other parts when the explanation reads a tensor:
        a few units in the last place of halves are no difference. Nor is, in a quantised model, what the runtime's own
        optimisation changes: where the bar is not kept, it is that to the outputs of the ``unoptimised`` original.
        """
        bar = max(SAME_OUTPUTS, self.contract.bar)
        for name, want in original.items():
            check, gap = self._check(f"output {name}", bar), difference(found[name], want)
            if gap > check.bar and unoptimised is not None:
                check.bar = max(check.bar, difference(unoptimised()[name], want))
            check.see(gap, where)

    def interface(self, compiled: Engine, original: Engine) -> None:
        """Names, order and types of the original's inputs and outputs. Raises ModelFileError where not kept."""
        names = [o.name for o in original.outputs]
        kept = list(self.contract.outputs)
        if kept != names or [o.name for o in compiled.outputs][: len(names)] != names:
            raise ModelFileError(f"the outputs are not the original's: {', '.join(kept)} instead of {', '.join(names)}")
        inputs = {i.name: i.type for i in compiled.inputs}
        for info in original.inputs:
            if inputs.get(info.name) != info.type:
                here = inputs.get(info.name, "missing")
                raise ModelFileError(f"input {info.name!r} of the original ({info.type}) is {here} in this file")
        types = {o.name: o.type for o in compiled.outputs}
        wrong = [f"{o.name} {types[o.name]} for {o.type}" for o in original.outputs if types[o.name] != o.type]
        if wrong:
            raise ModelFileError(f"outputs of another type than the original's: {', '.join(wrong)}")

    def _check(self, name: str, bar: float, binding: bool = True) -> Check:
        return self.checks.setdefault(name, Check(name, bar, binding))


def difference(found: Any, want: Any) -> float:
    """max |found - want| / max |want| for numbers; 0 or infinity for what must be equal: shapes, integers, text."""
    if isinstance(want, Mapping):
        same = isinstance(found, Mapping) and list(found) == list(want)
        return max((difference(found[k], want[k]) for k in want), default=0.0) if same else np.inf
    if isinstance(want, list):
        same = isinstance(found, list) and len(found) == len(want)
        return max((difference(f, w) for f, w in zip(found, want, strict=True)), default=0.0) if same else np.inf
    a, b = np.asarray(found), np.asarray(want)
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if b.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    top = float(np.max(np.abs(b[finite]), initial=0.0))
    gap = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
    return gap / top if top > 0 else (0.0 if gap == 0 else np.inf)


def lines(checks: Sequence[Check]) -> list[list[str]]:
    """One table line a check: name, worst, bar, verdict, where."""
    verdict = {True: "ok", False: "FAIL"}
    return [
        [c.name, f"{c.worst:.3g}", f"{c.bar:.0e}", verdict[c.within] if c.binding or c.within else "warn", c.where]
        for c in checks
    ]
