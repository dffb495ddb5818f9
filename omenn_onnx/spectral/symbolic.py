"""An output as a short sum of named components (SpecXAI, eq. 24-26): text, JSON and SymPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from omenn_onnx.errors import SpectrumError
from omenn_onnx.spectral.contributions import Contributions


@dataclass(frozen=True)
class Term:
    """weight * coordinate = amount: what singular component ``index`` (from 0) adds, and its ``share`` of all.

    ``weight`` is L u_k and ``coordinate`` u_k^T R x. After a reduction the weight is what is left of the amount by the
    coordinate.
    """

    name: str
    index: int
    weight: float
    coordinate: float
    amount: float
    share: float


@dataclass(frozen=True)
class Symbolic:
    """output = sum of the terms + remainder + bias. ``remainder`` is what components that are not named here add."""

    output: str
    y: float
    terms: tuple[Term, ...]
    remainder: float
    bias: float

    def text(self, digits: int = 4) -> str:
        """One line for each term, largest first, with its share. The numbers, rounded to ``digits`` significant digits
        of the largest, add up to y as printed: the remainder takes up the rounding."""
        parts = [t.amount for t in self.terms]
        place = _place([self.y, self.bias, *parts], digits)
        y, bias = _rounded(self.y, place), _rounded(self.bias, place)
        amounts = [_rounded(a, place) for a in parts]
        rest = y - bias - sum(amounts, Decimal(0))
        numbers = [*amounts, rest, bias]
        names = [t.name for t in self.terms] + ["remainder", "bias"]
        shares = [f"  {100 * t.share:.1f} %" for t in self.terms] + ["", ""]
        width, wide = max(map(len, names)), max(len(f"{n:+f}") for n in numbers)
        lines = [
            f"  {n:+{wide}f}  {name:<{width}}{s}".rstrip() for n, name, s in zip(numbers, names, shares, strict=True)
        ]
        return "\n".join([f"{self.output} = {y:f}", *lines])

    def sentence(self, digits: int = 4) -> str:
        """The same sum in one line."""
        lines = [line.split() for line in self.text(digits).splitlines()[1:]]
        said = " ".join(f"{n[0]} {n[1:]} {name}" for n, name, *_ in lines)
        return f"{self.text(digits).splitlines()[0]} = {said.removeprefix('+ ')}"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return asdict(self) | {"terms": [asdict(t) for t in self.terms]}

    def sympy(self) -> Any:
        """sum_k weight_k * name_k + remainder + bias as a SymPy expression in the coordinates.

        ``sympy().subs(sympy_values())`` is y. Raises SpectrumError where SymPy is not installed.
        """
        sp = _sympy()
        terms = [sp.Float(t.weight, 17) * sp.Symbol(t.name, real=True) for t in self.terms]
        return sp.Add(*terms, sp.Float(self.remainder, 17), sp.Float(self.bias, 17))

    def sympy_values(self) -> dict[Any, float]:
        """The coordinates at this input by the symbols of ``sympy``."""
        sp = _sympy()
        return {sp.Symbol(t.name, real=True): t.coordinate for t in self.terms}


def symbolic(
    found: Contributions,
    output: int = 0,
    *,
    count: int | None = None,
    label: str | None = None,
    names: Sequence[str] | None = None,
) -> Symbolic:
    """Output ``output`` of ``found`` as the sum of its ``count`` largest components (default: all that are not zero).

    ``found`` may be reduced or thresholded before. ``names``: one for each triplet of ``found``, by default c1, c2, ...
    in the order of the singular values; ``label``: the output's name. Shares are of all components of ``found`` (22);
    those that are not named count as remainder. How the sum is written is this project's own choice. Raises
    SpectrumError for an output, number or names that do not fit.
    """
    outputs, total = found.alpha.shape
    if not 0 <= output < outputs:
        raise SpectrumError(
            f"output {output} does not exist: the contributions are those of {outputs} output(s), from 0"
        )
    if count is not None and count < 0:
        raise SpectrumError(f"the number of components must not be negative; it is {count}")
    called = list(names) if names is not None else [f"c{int(i) + 1}" for i in found.indices]
    if len(called) != total or len(set(called)) != total:
        raise SpectrumError(f"{total} components need {total} different names; {len(set(called))} are given")
    alpha, shares = found.alpha[output], found.shares[output]
    chosen = [int(k) for k in found.order[output] if alpha[k]][:count]
    terms = tuple(
        Term(
            called[k], int(found.indices[k]), float(alpha[k] / found.coordinates[k]), float(found.coordinates[k]),
            float(alpha[k]), float(shares[k]),
        )
        for k in chosen
    )  # fmt: skip
    remainder = math.fsum([found.linear[output], *(-t.amount for t in terms)])
    said = label if label is not None else f"y[{output}]"
    return Symbolic(said, float(found.y[output]), terms, remainder, float(found.bias[output]))


def _place(values: Sequence[float], digits: int) -> Decimal:
    """The unit of the last printed digit."""
    if digits < 1:
        raise SpectrumError(f"at least 1 digit must be printed, not {digits}")
    if not all(math.isfinite(v) for v in values):
        raise SpectrumError("a sum with NaN or infinite values cannot be written")
    largest = max((abs(v) for v in values), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    return Decimal(1).scaleb(min(exponent - digits + 1, 0))


def _rounded(value: float, place: Decimal) -> Decimal:
    # Not quantize: it is bound to the context's precision.
    return Decimal(round(value / float(place))) * place + Decimal(0)


def _sympy() -> Any:
    try:
        import sympy
    except ImportError:
        raise SpectrumError(
            "SymPy expressions need SymPy, which is not installed: pip install 'omenn-onnx[symbolic]'"
        ) from None
    return sympy
