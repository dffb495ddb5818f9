"""Maps of one explained input, reduced over its channel axis, plain or relative to another input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from omenn_onnx.errors import NameNotFound, OmennError
from omenn_onnx.runtime.contract import ExplainedInput
from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.sums import Sums, channel_sum, target_axis, weighted


@dataclass(frozen=True)
class Maps:
    """The maps of one explained input X, relative to ``origin`` X0 where it is given. All results are float64."""

    part: ExplainedInput
    x: Array
    C_w: Array
    C_b: Array
    origin: Array | None = None

    @cached_property
    def from_x(self) -> Array:
        """C_w * (X - X0) summed over channels; the channel axis stays with size 1."""
        plain = channel_sum(self.C_w, self.x, self.part.channel_axis)
        return plain if self.origin is None else plain - self._moved

    @cached_property
    def from_b(self) -> Array:
        """C_b, plus what moves to it: C_w * X0 summed over channels."""
        plain: Array = self.C_b.astype(np.float64)
        return plain if self.origin is None else plain + self._moved

    @property
    def total(self) -> Array:
        """C = from_x + from_b; X0 does not change it."""
        return self.from_x + self.from_b

    @property
    def product(self) -> Array:
        """C_w * (X - X0), of C_w's shape."""
        return weighted(self.C_w, self.x if self.origin is None else self.x.astype(np.float64) - self.origin)

    @cached_property
    def _moved(self) -> Array:
        return channel_sum(self.C_w, self.x if self.origin is None else self.origin, self.part.channel_axis)

    @property
    def axis(self) -> int | None:
        """The axis of C_w and C_b that counts targets."""
        return target_axis(self.C_w, self.x)

    @property
    def targets(self) -> int:
        """Number of targets K."""
        return 1 if self.axis is None else int(self.C_w.shape[self.axis])

    def of_target(self, values: Array, k: int) -> Array:
        """``values`` (shaped as C_w or C_b) of target ``k`` alone. Raises OmennError where there is no such target."""
        if not 0 <= k < self.targets:
            raise OmennError(f"target number {k} was asked for, but there are {self.targets}, counted from 0")
        return values if self.axis is None else values.take(k, axis=self.axis)

    def view(self, kind: str, k: int = 0) -> Array:
        """``C``, ``C_w*X`` or ``C_b`` of target ``k`` with the channel axis dropped: [N, ...]."""
        if kind not in ("C", "C_w*X", "C_b"):
            raise NameNotFound("map", kind, ("C", "C_w*X", "C_b"))
        values = {"C": lambda: self.total, "C_w*X": lambda: self.from_x, "C_b": lambda: self.from_b}[kind]()
        chosen = self.of_target(values, k)
        return np.squeeze(chosen, axis=self.part.channel_axis) if self.part.channel_axis else chosen


@dataclass(frozen=True)
class Relative:
    """An explanation relative to another input X0: y = sum(C_w * (X - X0)) + base, base = sum(C_b) + sum(C_w * X0).

    The coefficients stay those of X; what they give on X0 moves to the bias. ``moved`` = sum(C_w * X0) has the shape of
    the explanation's ``sums``; ``parts`` are the maps by explained input.
    """

    sums: Sums
    moved: Array
    parts: Mapping[str, Maps]

    @property
    def base(self) -> Array:
        """The score that the map gives X0: [N] or [N,K], in total where rows interact."""
        return self.sums.b + self.moved

    def maps(self, name: str | None = None) -> Maps:
        """C_w*(X - X0) summed over channels, and C_b plus C_w*X0 summed over channels."""
        if name is None:
            return next(iter(self.parts.values()))
        if name not in self.parts:
            raise NameNotFound("explained input", name, self.parts)
        return self.parts[name]

    def contribution(self, name: str | None = None) -> Array:
        """C_w * (X - X0), of C_w's shape, float64."""
        return self.maps(name).product

    def arrays(self) -> dict[str, Array]:
        """By name, for files."""
        found: dict[str, Array] = {"baseline.base": self.base, "baseline.moved": self.moved}
        for name, maps in self.parts.items():
            end = "" if len(self.parts) == 1 else f".{name}"
            found |= {f"baseline.contribution{end}": maps.product, f"baseline.X0{end}": np.asarray(maps.origin)}
        return found


def origin_of(baseline: Any, x: Array, name: str) -> Array:
    """X0 of X's shape, float64, from "zero", "mean" (over the rows of X) or an array. Raises OmennError."""
    if isinstance(baseline, str):
        if baseline not in ("zero", "mean"):
            raise OmennError(f"baseline {baseline!r} is not known: zero, mean, or an array")
        value = np.zeros(()) if baseline == "zero" else x.mean(axis=0, keepdims=True, dtype=np.float64)
    else:
        try:
            value = np.asarray(baseline, np.float64)
        except (TypeError, ValueError) as error:
            raise OmennError(f"the baseline of {name!r} is not an array of numbers: {error}") from error
    if not np.isfinite(value).all():
        raise OmennError(f"the baseline of {name!r} has NaN or Inf values")
    try:
        return np.asarray(np.broadcast_to(value, x.shape))
    except ValueError as error:
        told = f"the baseline of {name!r}, shape {list(value.shape)}, does not fit {list(x.shape)}"
        raise OmennError(told) from error
