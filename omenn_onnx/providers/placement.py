"""Which nodes find no kernel of a provider, so that ONNX Runtime puts them on the CPU and copies their tensors there.

Not counted: constants, which are folded when the file is loaded, and the arithmetic of sizes, which ONNX Runtime keeps
on the CPU by design (Shape gives its result there, and Reshape, Slice and Expand read it there).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from omenn_onnx.graph.ir import Graph, Node, Tensor
from omenn_onnx.providers.forms import refused
from omenn_onnx.providers.kernels import Attributes, Kernels, kernels_of, schema_of

_NAMES = {"float32": "float", "float64": "double", "object": "string"}
_SIZES = ("Shape", "Size")
_NAMED = 8
"""So many nodes are named in one line."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A node without a kernel: ``since`` is the version of its operator that the file's opset means, ``about`` its
    types, or what of it the kernel does not take."""

    node: str
    op: str
    domain: str
    since: int
    about: tuple[str, ...]

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"{self.node!r}: {domain}{self.op}-{self.since}" + (f" ({', '.join(self.about)})" if self.about else "")


@dataclass(frozen=True)
class Placement:
    """What of a compiled file falls back: of the explanation's nodes, and of the model's own."""

    kernels: Kernels
    ours: tuple[Fallback, ...]
    own: tuple[Fallback, ...]

    def __str__(self) -> str:
        named = "; ".join(map(str, self.ours[:_NAMED]))
        more = f"; and {len(self.ours) - _NAMED} more (--report names all)" if len(self.ours) > _NAMED else ""
        return (
            f"{len(self.ours)} node(s) of the explanation have no {self.kernels.provider} kernel and run on the CPU, "
            f"with copies there and back, unless it says otherwise: {named}{more}"
        )


def place(provider: str, graph: Graph, nodes: Iterable[Node]) -> Placement | None:
    """Where the emitted ``nodes`` and those of the model's ``graph`` run; None for the CPU, which has them all."""
    kernels = kernels_of(provider)
    if kernels is None:
        return None
    ours, own = (fallbacks(kernels, some, graph.opset, graph.domains) for some in (nodes, graph.nodes))
    return Placement(kernels, tuple(ours), tuple(own))


def fallbacks(
    kernels: Kernels, nodes: Iterable[Node], opset: int, domains: Mapping[str, int] | None = None
) -> list[Fallback]:
    """The ``nodes`` of a graph, and those in their subgraphs, that no kernel serves."""
    versions = {**(domains or {}), "": opset, "ai.onnx": opset}
    found: list[Fallback | None] = []
    on_host: set[int] = set()
    for node in nodes:
        if _is_size(node, on_host):
            on_host.update(id(t) for t in node.outputs)
        elif not node.outputs or not all(t.const for t in node.outputs):
            types = [[None if t is None else _type(t) for t in side] for side in (node.inputs, node.outputs)]
            found.append(_missing(kernels, (node.name, node.op, node.domain), versions, node.attrs, *types))
        for inner in _inner(node.attrs.values()):
            if inner.op_type in ("Constant", *_SIZES):
                continue
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in inner.attribute}
            untyped: list[list[str | None]] = [[None] * len(inner.input), [None] * len(inner.output)]
            found.append(_missing(kernels, (inner.name, inner.op_type, inner.domain), versions, attrs, *untyped))
    return [f for f in found if f is not None]


def _is_size(node: Node, on_host: set[int]) -> bool:
    """Whether a node computes a few numbers from sizes alone."""
    if node.domain != "" or node.op in _SIZES:
        return node.op in _SIZES
    given = [t for t in (*node.inputs, *node.captured) if t is not None]
    few = all(t.rank is not None and t.rank <= 1 for t in node.outputs) or _counts(node)
    return few and bool(given) and all(t.const or id(t) in on_host for t in given)


def _counts(node: Node) -> bool:
    """Whether a node works on integers and truth values alone."""
    return all(t.dtype is not None and t.dtype.kind in "iub" for t in (*node.inputs, *node.outputs) if t is not None)


def _type(t: Tensor) -> str | None:
    return None if t.dtype is None else _NAMES.get(t.dtype.name, t.dtype.name)


def _missing(
    kernels: Kernels,
    named: tuple[str, str, str],
    versions: Mapping[str, int],
    attrs: Attributes,
    inputs: Sequence[str | None],
    outputs: Sequence[str | None],
) -> Fallback | None:
    """The node (name, operator, domain) if it falls back. Of a type that is not known the best is assumed."""
    name, op, domain = named
    domain = "" if domain == "ai.onnx" else domain
    version = versions.get(domain, 1)
    schema = schema_of(op, version, domain)
    since = version if schema is None else schema.since_version
    types: dict[str, str | None] = {}
    if schema is not None:
        for formal, actual in ((schema.inputs, inputs), (schema.outputs, outputs)):
            for i, given in enumerate(actual):
                parameter = formal[min(i, len(formal) - 1)]
                for key in (parameter.name, parameter.type_str):
                    types[key] = given or types.get(key)
    why = refused(kernels.provider, op, attrs, len(outputs))
    if not why and kernels.has(op, since, types, domain):
        return None
    return Fallback(
        name,
        op,
        domain,
        since,
        (why,) if why else tuple(dict.fromkeys(t for t in (*inputs, *outputs) if t is not None)),
    )


def _inner(attributes: Iterable[object]) -> Iterator[onnx.NodeProto]:
    """The nodes of subgraphs, at any depth."""
    for value in attributes:
        if isinstance(value, onnx.GraphProto):
            for node in value.node:
                yield node
                yield from _inner(onnx.helper.get_attribute_value(a) for a in node.attribute)
