"""Explanation: the affine map behind a prediction, its sums, and what can be made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omenn_onnx.errors import NameNotFound, OmennError
from omenn_onnx.runtime.contract import ILL_CONDITIONED, Contract, ExplainedInput
from omenn_onnx.runtime.engines import Array, Results
from omenn_onnx.runtime.files import save_arrays
from omenn_onnx.runtime.maps import Maps, Relative, origin_of
from omenn_onnx.runtime.sums import Sums, sums_of, weighted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: An array, or a dictionary of arrays by explained input where there are several.
Arrays = Any
Kind = Literal["C", "C_w*X", "C_b"]


class Explanation:
    """y = sum(C_w * X) + sum(C_b): the score, split exactly over the input and the biases (OMENN).

    Shapes, for one explained input X [N, ...] and K targets:

    - ``score``, ``target``: [N] or [N,K]; targets are flat indices into the non-batch dimensions of Z, -1 for a seed
    - ``C_w``: X's shape, with K targets [N, K, ...]: the coefficient of every input value
    - ``C_b``: as C_w with the channel axis reduced to 1: the coefficient of the ones channel, the share of all biases
    - ``C``: C_w * X summed over the channel axis, plus C_b; C_b's shape, float64
    - ``X``: the explained input; for token ids, their embeddings

    Where several inputs are explained C_w, C_b, C and X are dictionaries by name. Arrays are fetched from the device
    when they are looked at; sums run in float64. ``outputs`` has the model's own outputs, ``feeds`` what was fed.
    """

    def __init__(self, contract: Contract, feeds: Results, results: Results) -> None:
        self.contract = contract
        self.feeds = feeds
        self.results = results
        self.outputs = Results({n: results.held[n] for n in contract.outputs})

    def __repr__(self) -> str:
        worst = float(np.max(np.abs(self.residual), initial=0.0))
        return f"Explanation(score {list(self.score.shape)}, {self.contract.rules} rules, largest residual {worst:.2g})"

    def fetched(self) -> Explanation:
        """Self, with everything on the host."""
        for name in (*self.results, *self.feeds):
            self._lookup(name)
        return self

    def _lookup(self, name: str) -> Any:
        return self.results[name] if name in self.results else self.feeds[name]

    # -- the parts -------------------------------------------------------------------------------------------------

    @property
    def score(self) -> Array:
        """y = <seed, Z>, [N] or [N,K]."""
        return np.asarray(self.results[self.contract.score])

    @property
    def target(self) -> Array:
        """Flat index of the explained element of Z, -1 for a seed; the shape of ``score``."""
        return np.asarray(self.results[self.contract.target_output])

    @property
    def opaque_share(self) -> Array | None:
        """What operators that were declared opaque contribute, None where there are none."""
        name = self.contract.opaque_share
        return None if name is None else np.asarray(self.results[name])

    @property
    def C_w(self) -> Arrays:
        """Coefficients of X."""
        return self._each(lambda i: self._lookup(i.C_w))

    @property
    def C_b(self) -> Arrays:
        """Coefficients of the ones channel."""
        return self._each(lambda i: self._lookup(i.C_b))

    @property
    def X(self) -> Arrays:
        """The explained input."""
        return self._each(lambda i: self._lookup(i.x))

    @cached_property
    def C(self) -> Arrays:
        """Contribution map: C_w * X summed over channels, plus C_b."""
        return self._each(lambda i: self.maps(i.name).total)

    def _each(self, of: Any) -> Arrays:
        inputs = self.contract.inputs
        return of(inputs[0]) if len(inputs) == 1 else {i.name: of(i) for i in inputs}

    def part(self, name: str | None = None) -> ExplainedInput:
        """The explained input of that name; without a name, the first."""
        inputs = {i.name: i for i in self.contract.inputs}
        if name is None:
            return self.contract.inputs[0]
        if name not in inputs:
            raise NameNotFound("explained input", name, inputs)
        return inputs[name]

    def maps(self, name: str | None = None) -> Maps:
        """The maps of one explained input, reduced over its channel axis."""
        part = self.part(name)
        return Maps(part, *self._arrays(part))

    def _arrays(self, part: ExplainedInput) -> tuple[Array, Array, Array]:
        """X, C_w, C_b on the host."""
        return np.asarray(self._lookup(part.x)), np.asarray(self._lookup(part.C_w)), np.asarray(self._lookup(part.C_b))

    # -- the sums --------------------------------------------------------------------------------------------------

    @cached_property
    def sums(self) -> Sums:
        """sum(C_w*X), sum(C_b) and their absolute sums, in float64: per row, or in total where rows interact."""
        return sums_of([self._arrays(p) for p in self.contract.inputs], self.score, self.contract.rows)

    @property
    def residual(self) -> Array:
        """score - (sum(C_w*X) + sum(C_b)): [N] or [N,K]; where rows interact, of the total."""
        return np.asarray(self.sums.y - self.sums.x - self.sums.b)

    @property
    def condition(self) -> Array:
        """k = (sum|C_w*X| + sum|C_b|) / max(1, |y|). Above 1e4 the explanation is ill-conditioned."""
        return np.asarray((self.sums.abs_x + self.sums.abs_b) / np.maximum(1, np.abs(self.sums.y)))

    @property
    def relative_residual(self) -> Array:
        """|residual| / max(1, |y|, sum|C_w*X|, sum|C_b|): what the completeness bar is about."""
        scale = np.maximum.reduce([np.ones_like(self.sums.y), np.abs(self.sums.y), self.sums.abs_x, self.sums.abs_b])
        return np.asarray(np.abs(self.residual) / scale)

    @property
    def complete(self) -> bool:
        """True where every relative residual is within the bar: 1e-5 in float32, 1e-12 in float64, 5e-3 in float16."""
        return bool(np.all(self.relative_residual <= self.contract.bar))

    @property
    def ill_conditioned(self) -> bool:
        """True where a condition number exceeds 1e4."""
        return bool(np.any(~(self.condition <= ILL_CONDITIONED)))

    # -- what can be made of it ------------------------------------------------------------------------------------

    def heatmap(self, kind: Kind = "C", *, k: int = 0, name: str | None = None, normalise: bool = False) -> Array:
        """One map a row without its channel axis, [N, ...]: ``C``, ``C_w*X`` or ``C_b``, of target ``k``.

        ``normalise`` divides each row by its largest absolute value: -1 to 1, with zero kept in the middle.
        """
        chosen = self.maps(name).view(kind, k)
        if normalise:
            axes = tuple(range(1, chosen.ndim))
            chosen = chosen / np.maximum(np.abs(chosen).max(axis=axes, keepdims=True), np.finfo(np.float64).tiny)
        return chosen

    def plot(self, row: int = 0, path: str | os.PathLike[str] | None = None, **shown: Any) -> Figure:
        """A figure of one row: the input, C_w*X, C_b and C as images, bars, tokens or curves; a line of maps a target.

        ``shown`` goes to :func:`omenn_onnx.runtime.figures.figure`: labels, feature_names, vocabulary, tokens, picture,
        title, name. With ``path`` the figure is written there too.
        """
        from omenn_onnx.runtime.figures import figure, write  # matplotlib is slow to import, and not all need it

        made = figure(self, row, **shown)
        if path is not None:
            write(made, path)
        return made

    def relative_to(self, baseline: Any) -> Relative:
        """The map relative to another input X0: y = sum(C_w * (X - X0)) + [sum(C_b) + sum(C_w * X0)].

        ``baseline``: "zero", "mean" (of the rows explained here), an array that broadcasts to X, or a dictionary of
        such by explained input. The coefficients stay those of X; what they give on X0 moves to the bias.
        """
        given = baseline if isinstance(baseline, Mapping) else {i.name: baseline for i in self.contract.inputs}
        for name in given:
            self.part(name)
        parts, moved = {}, []
        for part in self.contract.inputs:
            x, C_w, C_b = self._arrays(part)
            origin = origin_of(given.get(part.name, "zero"), x, part.name)
            parts[part.name] = Maps(part, x, C_w, C_b, origin)
            moved.append((origin, C_w, C_b))
        return Relative(self.sums, sums_of(moved, self.score, self.contract.rows).x, parts)

    def arrays(self) -> dict[str, Array]:
        """Everything by name, as ``save`` writes it."""
        found: dict[str, Array] = {f"outputs.{n}": np.asarray(v) for n, v in self.outputs.items()}
        sums = self.sums
        found |= {"score": self.score, "target": self.target, "sum_C_w_X": sums.x, "sum_C_b": sums.b}
        found |= {"residual": self.residual, "condition": self.condition}
        for part in self.contract.inputs:
            end = "" if len(self.contract.inputs) == 1 else f".{part.name}"
            found |= {f"C_w{end}": self._lookup(part.C_w), f"C_b{end}": self._lookup(part.C_b)}
            found |= {f"C{end}": self.maps(part.name).total, f"X{end}": self._lookup(part.x)}
        facts = {"rules": self.contract.rules, "dtype": self.contract.dtype, "output": self.contract.output}
        return found | {"about": np.asarray(json.dumps(facts | {"target": self.contract.target.spec}))}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all arrays as .npz: whole or not at all. Returns the path, with .npz appended where it lacks it."""
        return save_arrays(path, self.arrays())

    def to_shap(self, feature_names: Sequence[str] | None = None) -> Any:
        """A shap.Explanation: values C_w*X (targets on the last axis), base_values sum(C_b), data X.

        Values and base add up to the score, as SHAP's do; where in X the bias acts (C_b) has no place there. Raises
        OmennError where shap is not installed, where rows interact, or where several inputs are explained.
        """
        try:
            import shap
        except ImportError as error:
            raise OmennError("to_shap() needs the shap package: pip install shap") from error
        if not self.contract.rows or len(self.contract.inputs) > 1:
            raise OmennError("to_shap() takes one explained input whose rows do not interact")
        x, C_w, _ = self._arrays(self.contract.inputs[0])
        values = weighted(C_w, x)
        values = np.moveaxis(values, 1, -1) if values.ndim > x.ndim else values
        return shap.Explanation(values=values, base_values=self.sums.b, data=x, feature_names=feature_names)
