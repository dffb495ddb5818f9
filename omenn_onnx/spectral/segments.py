"""A network at one input, segment by segment: matrices whose product is the whole map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.errors import OperatorError
from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.graphs import bypass
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import only_moved, separating
from omenn_onnx.spectral.operators import MEMORY_LIMIT

Array = NDArray[Any]


@dataclass(frozen=True)
class Segment:
    """What a part of the network does at one input:  target = W source + b, both flat.

    ``W`` [M, D] and ``b`` [M] for M elements of the target and D of the source (a convolution is its matrix),
    ``source_shape`` and ``target_shape`` their own shapes: W.reshape(*target_shape, *source_shape) has W by axes.
    """

    source: str
    target: str
    W: Array
    b: Array
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]


def segments(
    instance: Instance,
    names: Sequence[str] | None = None,
    *,
    source: str | None = None,
    target: str | None = None,
    memory_limit: int = MEMORY_LIMIT,
    show: bool | None = None,
) -> list[Segment]:
    """The network as matrices  W = W_n ... W_1,  b = sum_l W_n ... W_{l+1} b_l, cut at the tensors ``names``.

    Default: at every tensor that separates ``source`` (the explained input) from ``target`` (the explained output), but
    for those that only hold the elements of the one before in another shape or order. What a residual connection spans
    is one segment. ``show``: whether to say where it is. Raises OperatorError where a name does not separate, and where
    the matrices take more than ``memory_limit`` bytes; NameNotFound, NoPath.
    """
    ends = cuts(instance, names, source, target)
    check_memory(matrix_bytes(instance, ends), memory_limit, f"the matrices of {len(ends) - 1} segment(s)")
    return [segment(instance, a, b, show) for a, b in pairwise(ends)]


def segment(instance: Instance, source: str, target: str, show: bool | None = None) -> Segment:
    """The matrix and the bias between two tensors of the network."""
    op = instance.operator(source, target)
    matrix = op.dense(op.dense_bytes, show)
    return Segment(op.source, op.target, matrix, op.bias, op.source_shape, op.target_shape)


def product(parts: Sequence[Segment]) -> Segment:
    """The map of consecutive segments as one. Raises OperatorError where they do not meet."""
    for a, b in pairwise(parts):
        if a.target != b.source:
            raise OperatorError(f"the segments do not meet: one ends at {a.target!r}, the next begins at {b.source!r}")
    if not parts:
        raise OperatorError("no segments are given")
    first, last = parts[0], parts[-1]
    bias = first.b
    for part in parts[1:]:
        bias = part.W @ bias + part.b
    matrix = first.W if len(parts) == 1 else np.linalg.multi_dot([p.W for p in reversed(parts)])
    return Segment(first.source, last.target, matrix, bias, first.source_shape, last.target_shape)


def cuts(
    instance: Instance, names: Sequence[str] | None = None, source: str | None = None, target: str | None = None
) -> list[str]:
    """Where the network is cut: the source, tensors that separate it from the target, in order, and the target."""
    sized = instance.sized
    lin, start, end = sized.lin, sized.carrier(source, "source"), sized.carrier(target, "target")
    known = separating(instance, source, target)
    if names is None:
        found = [start]
        for t in [*(sized.carrier(n, "layer") for n in known), end]:
            if not _only_moved(lin, found[-1], t):
                found.append(t)
            elif t is end and len(found) > 1:
                found[-1] = end
        return [lin.name(t) for t in (found if found[-1] is end else [*found, end])]
    wanted = {lin.name(sized.carrier(n, "layer")) for n in names} - {lin.name(start), lin.name(end)}
    for name in names:
        if lin.name(sized.carrier(name, "layer")) in wanted - set(known):
            raise OperatorError(_no_cut(instance, name, lin.name(start), lin.name(end)))
    return [lin.name(start), *(n for n in known if n in wanted), lin.name(end)]


def matrix_bytes(instance: Instance, ends: Sequence[str]) -> int:
    """What the matrices of the segments between consecutive ``ends`` take."""
    sizes = [elements(instance, name) for name in ends]
    return instance.sized.lin.emit.dtype.itemsize * sum(a * b for a, b in pairwise(sizes))


def elements(instance: Instance, name: str) -> int:
    """How many elements a tensor has at the instance."""
    shape = instance.sized.lin.calculus.pairs[instance.sized.carrier(name, "layer")].value.shape
    known = [d for d in shape if isinstance(d, int)]
    return math.prod(known) if len(known) == len(shape) else int(instance.value(name).size)


def check_memory(need: int, limit: int, what: str) -> None:
    """Raises OperatorError where ``need`` bytes are above the limit."""
    if need > limit:
        raise OperatorError(
            f"{what} take {need / 1e9:.3g} GB, the limit is {limit / 1e9:.3g} GB: raise memory_limit, or name other "
            "layers"
        )


def _only_moved(lin: Linearised, first: Tensor, second: Tensor) -> bool:
    return only_moved(lin, lin.calculus.pairs[first].value, lin.calculus.pairs[second].value)


def _no_cut(instance: Instance, name: str, source: str, target: str) -> str:
    lin, carrier = instance.sized.lin, instance.sized.carrier
    past = bypass(lin, carrier(source, "source"), carrier(name, "layer"), carrier(target, "target"))
    assert past is not None
    return (
        f"{name!r} does not separate {source!r} from {target!r}: a path leads past it, through {lin.name(past)!r} "
        "(a residual connection?)"
    )
