"""The kernels of ONNX Runtime's providers, by operator, version and type: tables that tools/kernel_table.py wrote.

A kernel that is registered for versions 13 to 17 serves every node whose operator last changed in between. One without
an end serves the nodes of exactly its first version: a later change of the operator may mean anything.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import onnx

from omenn_onnx.errors import CompileError

PROVIDERS = ("cpu", "cuda", "webgpu")
"""``cpu`` has no table: what runs anywhere runs there."""

Attributes = Mapping[str, Any]
Types = Mapping[str, str | None]
"""The element type of each parameter of a node, by its name and by the name of its type constraint; None: not known."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One registration: the versions of the operator, and the types that each constraint may take."""

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]

    def serves(self, since: int, types: Types) -> bool:
        """Whether a node of an operator as of version ``since`` finds it."""
        if since != self.first and (self.last is None or not self.first <= since <= self.last):
            return False
        return all(types.get(name) is None or types[name] in allowed for name, allowed in self.types.items())


@dataclass(frozen=True)
class Kernels:
    """All kernels of a provider. ``source`` says where the table was read from."""

    provider: str
    source: str
    table: Mapping[tuple[str, str], tuple[Kernel, ...]] = field(repr=False)

    def has(self, op: str, since: int, types: Types | None = None, domain: str = "") -> bool:
        """Whether some kernel serves a node."""
        return any(k.serves(since, types or {}) for k in self.table.get((domain, op), ()))


def read_table(provider: str, text: str) -> Kernels:
    """A table as tools/kernel_table.py writes it: a line a kernel, behind one line that names the source."""
    head, *lines = text.splitlines()
    found: dict[tuple[str, str], list[Kernel]] = {}
    sets: dict[str, frozenset[str]] = {}
    for line in lines:
        domain, op, versions, constraints = line.split("\t")
        first, _, last = versions.partition("-")
        types = {}
        for constraint in constraints.split():
            name, _, allowed = constraint.partition("=")
            types[name] = sets.setdefault(allowed, frozenset(allowed.split(",")))
        kernel = Kernel(int(first), int(last) if last else None, types)
        found.setdefault(("" if domain == "ai.onnx" else domain, op), []).append(kernel)
    return Kernels(provider, head.removeprefix("# "), {key: tuple(kernels) for key, kernels in found.items()})


@functools.cache
def kernels_of(provider: str) -> Kernels | None:
    """The table of a provider; None for the CPU. Raises CompileError for a name that is none."""
    if provider not in PROVIDERS:
        raise CompileError(f"provider {provider!r}: give {', '.join(PROVIDERS[:-1])} or {PROVIDERS[-1]}")
    if provider == "cpu":
        return None
    table = resources.files("omenn_onnx.providers").joinpath(f"{provider}.tsv")
    return read_table(provider, table.read_text(encoding="utf-8"))


@functools.cache
def schema_of(op: str, opset: int, domain: str = "") -> onnx.defs.OpSchema | None:
    """The operator as of an opset; None where onnx does not define it."""
    try:
        return onnx.defs.get_schema(op, max_inclusive_version=opset, domain=domain)
    except onnx.defs.SchemaError:
        return None
