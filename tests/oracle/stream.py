"""The two streams of a tensor, held densely, and the columns they are linear in.

A carrier T keeps its value, ``lin`` = [A | B] of shape T.shape + (K,) and ``ones`` of shape T.shape + (n_ones,):

    value = A @ x + B @ 1        (every carrier, at every node: checked)
    ones @ 1 = 1                 (every ones rule maps all-ones to all-ones: checked)

The columns of ``lin`` are the entries of the explained inputs, then blocks of ones channels. Normally there is one
block; to split C_b by owner, each owner gets a block of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


class NotInOracle(Exception):
    """An operator that the oracle does not cover lies on a carrier path."""


class NoCarrierPath(ValueError):
    """The explained output depends on no explained input by a carrier path."""


class OracleError(AssertionError):
    """The oracle contradicts itself (a stream does not reproduce its value, or ones are not all ones)."""


@dataclass
class Columns:
    """Layout of the trailing axis of ``lin``."""

    n_values: int
    n_ones: int
    blocks: dict[str, int] | None = None  # owner -> block; None: all owners share block 0

    @property
    def width(self) -> int:
        return self.n_values + self.n_ones * (1 if self.blocks is None else len(self.blocks))

    def block(self, owner: str) -> slice | None:
        """Columns that take the bias of ``owner``; None if its bias is not recorded in this run."""
        index = 0 if self.blocks is None else self.blocks.get(owner)
        if index is None:
            return None
        start = self.n_values + index * self.n_ones
        return slice(start, start + self.n_ones)


@dataclass
class Tensor:
    """A value and, for carriers, its streams. ``softmax_axes``: the axes over which it is a softmax."""

    value: Array
    _lin: Array | None = None
    _ones: Array | None = None
    rank: int = 0
    softmax_axes: frozenset[int] | None = None
    refused: str | None = None  # depends on X, but there is no rule: an error as soon as a stream is asked for

    @property
    def is_carrier(self) -> bool:
        return self._lin is not None or self.refused is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def lin(self) -> Array:
        if self.refused is not None:
            raise NotInOracle(self.refused)
        assert self._lin is not None, "a constant has no linear stream"
        return self._lin

    @property
    def ones(self) -> Array:
        if self.refused is not None:
            raise NotInOracle(self.refused)
        assert self._ones is not None, "a constant has no ones stream"
        return self._ones

    def release(self) -> None:
        """Forget the streams (memory); the value stays."""
        if self._lin is not None:
            self._lin = self._ones = None
            self.refused = "internal: released stream asked for"


def constant(value: Array | float) -> Tensor:
    return Tensor(np.asarray(value))


def carrier(value: Array, lin: Array, ones: Array, rank: int = 0, softmax_axes: frozenset[int] | None = None) -> Tensor:
    assert lin.shape[:-1] == value.shape, (lin.shape, value.shape)
    assert ones.shape[:-1] == value.shape, (ones.shape, value.shape)
    return Tensor(value, lin, ones, rank, softmax_axes)


@dataclass
class Node:
    """One ONNX node on its way through the oracle, with what rules may ask about it."""

    op: str
    domain: str
    name: str
    owner: str  # who owns the biases that this node causes
    inputs: list[str]
    outputs: list[str]
    attrs: dict
    opset: int
    tangent: bool
    columns: Columns
    tensor: Callable[[str], Tensor]
    producer: Callable[[str], Node | None]  # what makes a tensor; None for graph inputs, constants, explained tensors
    proto: object = field(repr=False, default=None)
    inside: str = ""  # the operator whose function body this node comes from

    def refuse(self, why: str) -> NotInOracle:
        return NotInOracle(f"{self.op} ({self.domain or 'ai.onnx'}, opset {self.opset}), node {self.name!r}: {why}")

    def input(self, index: int) -> Tensor | None:
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        return self.tensor(self.inputs[index])


def times(coefficient: Array, stream: Array) -> Array:
    """coefficient * stream over the trailing columns, with 0 * anything = 0."""
    coefficient = np.asarray(coefficient)[..., None]
    out = coefficient * stream
    if not np.isfinite(out).all():
        out = np.where(coefficient == 0, 0.0, out)
    return out


def plus_bias(n: Node, lin: Array, ones: Array, bias: Array) -> Array:
    """B += bias * O, in the owner's block. A non-finite bias (a mask) is 0: any finite result multiplies it by 0."""
    block = n.columns.block(n.owner)
    if block is None:
        return lin
    bias = np.where(np.isfinite(bias), bias, 0.0)
    lin = lin.copy()
    lin[..., block] += np.asarray(bias)[..., None] * ones
    return lin


def spread(stream: Array, shape: tuple[int, ...]) -> Array:
    """Broadcast a stream (trailing columns) of a tensor to ``shape`` by numpy's rules."""
    own, width = stream.shape[:-1], stream.shape[-1]
    return np.broadcast_to(stream.reshape((1,) * (len(shape) - len(own)) + own + (width,)), (*shape, width))


def on_value(f: Callable[[Array], Array], value: Array) -> Array:
    """A function of streams (trailing columns) applied to a value."""
    return f(value[..., None])[..., 0]


def linear(
    x: Tensor, f: Callable[[Array], Array], ones: Callable[[Array], Array] | None = None, rank: int = 0
) -> Tensor:
    """y = f(x) for a linear f on arrays with trailing columns; ``ones``: what it does to the ones (default: f)."""
    return carrier(on_value(f, x.value), f(x.lin), (ones or f)(x.ones), rank)


def move(x: Tensor, f: Callable[[Array], Array], rank: int | None = None) -> Tensor:
    """y = f(x) for an f that only moves, repeats or drops entries: found by applying it to the entries' indices."""
    index = np.asarray(f(np.arange(x.value.size).reshape(x.shape)))
    value = x.value.reshape(-1)[index]
    if not x.is_carrier:
        return constant(value)
    lin = x.lin.reshape(x.value.size, x.lin.shape[-1])[index]
    ones = x.ones.reshape(x.value.size, x.ones.shape[-1])[index]
    return carrier(value, lin, ones, x.rank if rank is None else rank)


def lowest_rank(tensors: list[Tensor]) -> int:
    return min(t.rank for t in tensors if t.is_carrier)


Rule = Callable[..., "Tensor | list[Tensor]"]
RULES: dict[tuple[str, str], Rule] = {}
"""(domain, operator) -> rule(node, *input tensors). Other domains, recurrent and quantised operators register here."""


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for op in ops:
            assert (domain, op) not in RULES, op
            RULES[domain, op] = function
        return function

    return register
