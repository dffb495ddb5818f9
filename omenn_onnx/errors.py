"""What can go wrong, in the user's words. Every message names what it is about and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class OmennError(Exception):
    """Base of every error that a user can cause or meet. The command line prints it as one line."""


class ModelFileError(OmennError):
    """The model file cannot be read, is not valid ONNX, or misses a part."""


class NameNotFound(OmennError):
    """A tensor, input or output of that name does not exist."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(set(known))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(repr(n) for n in near)}?" if near else ""
        if not near and len(known) <= 12:
            hint = f"; known: {', '.join(repr(n) for n in known)}"
        super().__init__(f"{what} {name!r} is not in the model{hint}")


class NoPath(OmennError):
    """No floating-point path leads from the explained inputs to the explained output."""


class TargetError(OmennError):
    """The target cannot be read, or lies outside the explained output."""


class FeedError(OmennError):
    """The values fed to a compiled model have a wrong name, shape or type, or are not finite."""


class OutputExists(OmennError):
    """The output file exists and may not be overwritten."""


class CompileError(OmennError):
    """The model cannot be compiled as asked."""


@dataclass(frozen=True)
class Unsupported:
    """One node on a carrier path that has no linear form."""

    node: str
    op: str
    domain: str
    opset: int
    advice: str

    def __str__(self) -> str:
        return f"node {self.node!r}: {self.domain or 'ai.onnx'}.{self.op} (opset {self.opset}): {self.advice}"


class UnsupportedOperators(CompileError):
    """All operators on carrier paths that are outside the calculus, listed at once."""

    def __init__(self, nodes: Sequence[Unsupported]) -> None:
        self.nodes = tuple(nodes)
        super().__init__(
            f"{len(nodes)} node(s) on the path from the explained input to the explained output have no exact linear "
            "form: " + "; ".join(str(n) for n in nodes)
        )


class OperatorError(OmennError):
    """A linear operator cannot be made, composed or held as asked."""


class SpectrumError(OmennError):
    """The singular values asked for do not exist, cannot be reached, or do not fit in memory."""


class RankError(SpectrumError):
    """More singular triplets are asked for than an operator has: ``rank``."""

    def __init__(self, said: str, rank: int) -> None:
        self.rank = rank
        super().__init__(said)
