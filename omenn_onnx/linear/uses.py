"""Who reads a variable."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from omenn_onnx.linear.program import Equation, Var


class Uses:
    """The readers of the variables of a program, of which ``wanted`` are read from outside as well."""

    def __init__(self, equations: Sequence[Equation], wanted: Collection[Var]) -> None:
        self._wanted = set(wanted)
        self._readers: dict[Var, list[Equation]] = {}
        for e in equations:
            for x in e.inputs:
                self._readers.setdefault(x, []).append(e)

    def of(self, v: Var) -> list[Equation]:
        """The equations that read ``v``; none if it is wanted itself."""
        return [] if v in self._wanted else self._readers.get(v, [])

    def only(self, v: Var) -> Equation | None:
        """The one equation that reads ``v``, once; None if there are several, or none."""
        readers = self.of(v)
        return readers[0] if len(readers) == 1 else None
