"""LSTM, GRU and RNN in plain ONNX, step by step.

The contributions of x_t and h_{t-1} are a sum of two, both biases together are added to that sum, peepholes after it.
The products with x are taken of the whole sequence at once, those of gates and candidate by themselves:
in the secant rules only the candidate's get an adjoint. An all-zero initial state is absent. Past a row's length the
state is kept and Y is 0. What ONNX leaves open is as ONNX Runtime's kernels have it (input_forget: f = 1 - i).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, helper

from omenn_onnx.graph.emit import type_code
from omenn_onnx.graph.ir import Dim
from omenn_onnx.graph.zeros import is_zero
from omenn_onnx.normalise.bodies.base import Body, body

State = list["str | None"]
"""The names of h (and c); None where a state is absent."""

UNROLLED = 64
"""Longer sequences, and those whose length only the run tells, are a Scan."""


@body("LSTM", "GRU", "RNN", domain="")
def recurrent(b: Body) -> None:
    """ONNX's own, whose outputs are what the steps give."""
    write_recurrent(b, Body.give)


def write_recurrent(b: Body, give: Callable[[Body, int, str], None]) -> None:
    """Each direction by itself; Y is [T, D, B, H], the final states are [D, B, H] (layout 1: the batch comes first)."""
    first = bool(b.attr("layout", 0))
    steps = b.shape(0)[1 if first else 0]
    if steps == 0:
        raise b.refuse("its sequence is empty")
    direction = str(b.attr("direction", "forward"))
    sequences, finals = [], []
    for d in range(2 if direction == "bidirectional" else 1):
        backwards = direction == "reverse" or d == 1
        turned = backwards and _ragged(b, steps)
        cell = CELLS[b.node.op](b, d, turned)
        short = isinstance(steps, int) and steps <= UNROLLED
        walk = _unrolled if short else _scanned
        y, last = walk(b, cell, steps, backwards and not turned)
        if b.wants(0):
            sequences.append(b.op("Unsqueeze", _turned(b, y) if turned else y, [1]))
        finals.append([_final(b, cell, k, s) for k, s in enumerate(last)])
    if b.wants(0):
        y = sequences[0] if len(sequences) == 1 else b.op("Concat", *sequences, axis=1)
        give(b, 0, b.op("Transpose", y, perm=[2, 0, 1, 3]) if first else y)
    for k in range(len(finals[0])):
        if b.wants(k + 1):
            rows = [b.op("Unsqueeze", final[k], [1 if first else 0]) for final in finals]
            give(b, k + 1, rows[0] if len(rows) == 1 else b.op("Concat", *rows, axis=1 if first else 0))


def _turned(b: Body, sequence: str) -> str:
    """Each row of [T, B, ...] reversed within its length: so a row's padding comes last in both directions, and a state
    that is absent or constant meets the row's first step as such."""
    lengths = b.op("Max", b.op("Cast", b.operand(4), to=7), np.ones(1, np.int64))
    return b.op("ReverseSequence", sequence, lengths, time_axis=0, batch_axis=1)


def _unrolled(b: Body, cell: Cell, steps: Dim, backwards: bool) -> tuple[str, list[str]]:
    """Y [T, B, H] and the final states, step by step."""
    assert isinstance(steps, int)
    streams = [_steps(b, s, steps) for s in cell.streams]
    masks = [b.op("Less", np.asarray(t, np.int64), _lengths(b)) if _ragged(b, steps) else None for t in range(steps)]
    state: State = list(cell.initial)
    new: list[str] = []
    shown = [""] * steps
    for t in range(steps)[:: -1 if backwards else 1]:
        new = cell.kept(b, cell.step(b, [s[t] for s in streams], state), state, masks[t])
        shown[t] = b.op("Unsqueeze", _shown(b, new[0], masks[t]), [0])
        state = list(new)
    return (b.op("Concat", *shown, axis=0) if b.wants(0) else "", new)


def _scanned(b: Body, cell: Cell, steps: Dim, backwards: bool) -> tuple[str, list[str]]:
    """The same as a Scan. What the first step does differently, since its state is another tensor or absent, is chosen
    in the body."""
    x = cell.streams[0]
    count = b.op("Shape", x, start=0, end=1)
    line = b.op("Range", _int(0), b.op("Squeeze", count, [0]), _int(1))
    first = b.op("Sub", count, [1]) if backwards else np.zeros(1, np.int64)
    scanned = [*cell.streams, b.op("Equal", line, first)]
    if _ragged(b, steps):
        scanned.append(b.op("Less", b.op("Unsqueeze", line, [1, 2]), b.op("Unsqueeze", _lengths(b), [0])))
    sizes = b.op("Concat", b.op("Shape", x, start=1, end=2), [cell.hidden], axis=0)
    states = [b.op("Expand", _zero(b), sizes) for _ in cell.initial]
    inner = b.inner()
    before = [inner.new_name("state") for _ in states]
    elements = [inner.new_name("element") for _ in scanned]
    n = len(cell.streams)
    mask = elements[n + 1] if len(elements) > n + 1 else None
    cell.first = elements[n], b
    new = cell.kept(inner, cell.step(inner, elements[:n], list(before)), list(before), mask)
    results = [*new, _shown(inner, new[0], mask)]
    results = [inner.op("Identity", r) for r in results]
    kinds = [*[_kind(b)] * (len(states) + n), np.dtype(bool), np.dtype(bool)]
    outputs = b.ops(
        "Scan", len(results), *states, *scanned,
        body=_graph(inner, [*before, *elements], results, kinds),
        num_scan_inputs=len(scanned), scan_input_directions=[int(backwards)] * len(scanned),
        scan_output_directions=[int(backwards)],
    )  # fmt: skip
    return outputs[-1], outputs[:-1]


def _graph(b: Body, inputs: Sequence[str], outputs: Sequence[str], types: Sequence[np.dtype[Any]]) -> GraphProto:
    given = [helper.make_tensor_value_info(n, type_code(t), None) for n, t in zip(inputs, types, strict=False)]
    results = [helper.make_tensor_value_info(n, type_code(_kind(b)), None) for n in outputs]
    return helper.make_graph(b.nodes, "step", given, results, b.constants)


def _steps(b: Body, stream: str, steps: int) -> list[str]:
    """[T, ...] as T names."""
    if steps == 1:
        return [b.op("Squeeze", stream, [0])]
    return [b.op("Squeeze", part, [0]) for part in b.ops("Split", steps, stream, [1] * steps, axis=0)]


def _ragged(b: Body, steps: Dim) -> bool:
    """Whether some row may be shorter than the sequence."""
    t = b.tensor(4)
    return t is not None and not (t.value is not None and isinstance(steps, int) and bool((t.value >= steps).all()))


def _lengths(b: Body) -> str:
    """The lengths of the rows, [B, 1]."""
    return b.op("Unsqueeze", b.op("Cast", b.operand(4), to=7), [1])


def _shown(b: Body, h: str, mask: str | None) -> str:
    return h if mask is None else b.op("Where", mask, h, _zero(b))


def _final(b: Body, cell: Cell, k: int, state: str) -> str:
    """ONNX Runtime gives 0, not the initial state, for rows of length 0."""
    t = b.tensor(4)
    if cell.initial[k] is None or t is None or (t.value is not None and bool(t.value.all())):
        return state
    return b.op("Where", b.op("Less", _int(0), _lengths(b)), state, _zero(b))


def _kind(b: Body) -> np.dtype[Any]:
    return np.dtype(np.float32) if b.dtype is None else b.dtype


def _zero(b: Body) -> np.ndarray[Any, Any]:
    return np.zeros((), b.dtype)


def _int(value: int) -> np.ndarray[Any, Any]:
    return np.asarray(value, np.int64)


class Cell(ABC):
    """One direction of a recurrent layer. ``streams`` are the products of the whole sequence with the input weights,
    [T, B, n H]."""

    blocks: int
    states: tuple[int, ...]
    """Which operands are the initial states."""
    activations: tuple[str, ...]
    hidden_axis = 2
    """Where the shape of R has the hidden size."""

    def __init__(self, b: Body, d: int, turned: bool) -> None:
        self.hidden = self._hidden(b)
        self.d = d
        self.both = b.attr("direction", "forward") in ("bidirectional",)
        self._rows_first = bool(b.attr("layout", 0))
        self.clip = float(b.attr("clip", 0.0))
        self.functions = _functions(b, self.activations, d, self.both)
        self.initial: State = [self._initial(b, k) for k in self.states]
        self._rows = [self._mine(b, self.matrix(b, k), 0) for k in (1, 2)]
        bias = b.operand(3)
        known = b.tensor(3)
        dead = known is None or (known.value is not None and not known.value.any())
        self._bias = None if bias is None or dead else self._mine(b, bias, 0)
        x = b.operand(0)
        self._x = self.read(b, b.op("Transpose", x, perm=[1, 0, 2]) if self._rows_first else str(x))
        self._x = _turned(b, self._x) if turned else self._x
        self.streams: list[str] = []
        self.first: tuple[str, Body] | None = None
        self._hoisted: dict[str, str] = {}
        self.prepare(b)

    @abstractmethod
    def prepare(self, b: Body) -> None:
        """Everything that is the same at all steps."""

    @abstractmethod
    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        """The states behind one step."""

    def matrix(self, b: Body, k: int) -> str:
        """W (1) or R (2) as ONNX has them: [D, n H, columns]."""
        return str(b.operand(k))

    def read(self, b: Body, x: str) -> str:
        """What the products take x or h for."""
        return x

    def _hidden(self, b: Body) -> int:
        size = b.shape(2)[self.hidden_axis]
        if not isinstance(size, int):
            raise b.refuse("its hidden size is not known")
        return size

    def _mine(self, b: Body, name: str | None, axis: int) -> str:
        """This direction's part of an operand, without the axis of directions."""
        if self.both:
            name = b.op("Slice", name, [self.d], [self.d + 1], [axis])
        return b.op("Squeeze", name, [axis])

    def _initial(self, b: Body, k: int) -> str | None:
        t = b.tensor(k)
        return None if t is None or is_zero(t) else self._mine(b, b.operand(k), 1 if self._rows_first else 0)

    def weight(self, b: Body, k: int, begin: int, count: int) -> str:
        """Some blocks of W (0) or R (1), as a matrix to multiply by from the right."""
        rows = self._rows[k]
        if count != self.blocks:
            rows = b.op("Slice", rows, [begin * self.hidden], [(begin + count) * self.hidden], [0])
        return b.op("Transpose", rows, perm=[1, 0])

    def product(self, b: Body, begin: int, count: int) -> str:
        """The whole sequence times some blocks of W."""
        return b.op("MatMul", self._x, self.weight(b, 0, begin, count))

    def bias(self, b: Body, begin: int, count: int, parts: str = "WR") -> str | None:
        """Wb + Rb (or one of them) of some blocks."""
        if self._bias is None:
            return None
        found = []
        for letter in parts:
            first = (begin + (self.blocks if letter == "R" else 0)) * self.hidden
            found.append(b.op("Slice", self._bias, [first], [first + count * self.hidden], [0]))
        return found[0] if len(found) == 1 else b.op("Add", *found)

    def chosen(self, b: Body, term: Callable[[State], str], state: State) -> str:
        """A term of the state. In a Scan the first step's is that of the initial state, which may be absent."""
        if self.first is None:
            return term(state)
        return b.op("Where", self.first[0], term(self.initial), term(state))

    def kept(self, b: Body, new: Sequence[str], state: State, mask: str | None) -> list[str]:
        """The new states of the rows that still run, the old ones of the others."""
        if mask is None:
            return list(new)
        found = []
        for k, n in enumerate(new):

            def old(s: State, k: int = k) -> str | np.ndarray[Any, Any]:
                name = s[k]
                return _zero(b) if name is None else name

            found.append(self.chosen(b, lambda s, n=n, old=old: b.op("Where", mask, n, old(s)), state))  # type: ignore[misc]
        return found

    def times(self, b: Body, h: str | None, w: str) -> str | None:
        """h R; that of the initial state once, not at every step."""
        if h is None:
            return None
        if self.first is None or h != self.initial[0]:
            return b.op("MatMul", self.read(b, h), w)
        if w not in self._hoisted:
            self._hoisted[w] = self.first[1].op("MatMul", self.read(self.first[1], h), w)
        return self._hoisted[w]

    def total(self, b: Body, x: str, w: str, state: State, bias: str | None) -> str:
        """x_t W + h R + bias."""
        return _sum(b, self.chosen(b, lambda s: _sum(b, x, self.times(b, s[0], w)), state), bias)

    def activate(self, b: Body, k: int, x: str) -> str:
        """Activation k of x, clipped first."""
        if self.clip > 0:
            x = b.op("Clip", x, np.asarray(-self.clip, b.dtype), np.asarray(self.clip, b.dtype))
        return self.functions[k](b, x)


def _sum(b: Body, *terms: str | None) -> str:
    """The sum from left to right of what is there."""
    present = [t for t in terms if t is not None]
    total = present[0]
    for t in present[1:]:
        total = b.op("Add", total, t)
    return total


class LSTM(Cell):
    """i, o, f = sigmoid(...), c = f c + i tanh(...), h = o tanh(c)."""

    blocks, states, activations = 4, (5, 6), ("Sigmoid", "Tanh", "Tanh")

    def prepare(self, b: Body) -> None:
        self.streams = [self.product(b, 0, 3), self.product(b, 3, 1)]
        self._r = self.weight(b, 1, 0, 3), self.weight(b, 1, 3, 1)
        self._b = self.bias(b, 0, 3), self.bias(b, 3, 1)
        self._coupled = bool(b.attr("input_forget", 0))
        self._peepholes: list[str] | None = None
        p = b.tensor(7)
        if p is not None and not is_zero(p):
            mine = self._mine(b, b.operand(7), 0)
            self._peepholes = b.ops("Split", 3, mine, [self.hidden] * 3, axis=0)

    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        sums = [self.total(b, xs, r, state, bias) for xs, r, bias in zip(x, self._r, self._b, strict=True)]
        i, o, f = b.ops("Split", 3, sums[0], [self.hidden] * 3, axis=-1)
        i = self.activate(b, 0, self._peep(b, i, 0, state))
        f = b.op("Sub", np.ones((), b.dtype), i) if self._coupled else self.activate(b, 0, self._peep(b, f, 2, state))
        new = b.op("Mul", i, self.activate(b, 1, sums[1]))
        new = self.chosen(b, lambda s: new if s[1] is None else b.op("Add", b.op("Mul", f, s[1]), new), state)
        o = self.activate(b, 0, self._peep(b, o, 1, [None, new], now=True))
        return [b.op("Mul", o, self.functions[2](b, new)), new]

    def _peep(self, b: Body, gate: str, k: int, state: State, now: bool = False) -> str:
        p = self._peepholes
        if p is None:
            return gate

        def term(s: State) -> str:
            return gate if s[1] is None else b.op("Add", gate, b.op("Mul", p[k], s[1]))

        return term(state) if now else self.chosen(b, term, state)


class GRU(Cell):
    """z, r = sigmoid(...), n = tanh(x W + (r h) R) or, with linear_before_reset, tanh(x W + r (h R + Rb)),
    h = (1 - z) n + z h."""

    blocks, states, activations = 3, (5,), ("Sigmoid", "Tanh")

    def prepare(self, b: Body) -> None:
        self._linear = bool(b.attr("linear_before_reset", 0))
        self.streams = [self.product(b, 0, 2), self.product(b, 2, 1)]
        self._r = self.weight(b, 1, 0, 2), self.weight(b, 1, 2, 1)
        self._b = self.bias(b, 0, 2), self.bias(b, 2, 1, "W" if self._linear else "WR")
        self._inner = self.bias(b, 2, 1, "R") if self._linear else None

    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        z, r = b.ops("Split", 2, self.total(b, x[0], self._r[0], state, self._b[0]), [self.hidden] * 2, axis=-1)
        z, r = self.activate(b, 0, z), self.activate(b, 0, r)

        def candidate(s: State) -> str:
            inner: str | None = None
            if s[0] is not None and not self._linear:
                inner = b.op("MatMul", b.op("Mul", r, s[0]), self._r[1])
            elif s[0] is not None or self._inner is not None:
                parts = [t for t in (self.times(b, s[0], self._r[1]), self._inner) if t is not None]
                inner = b.op("Mul", r, _sum(b, *parts))
            return _sum(b, x[1], inner)

        n = self.activate(b, 1, _sum(b, self.chosen(b, candidate, state), self._b[1]))
        new = b.op("Mul", b.op("Sub", np.ones((), b.dtype), z), n)
        return [self.chosen(b, lambda s: new if s[0] is None else b.op("Add", new, b.op("Mul", z, s[0])), state)]


class RNN(Cell):
    """h = tanh(x W + h R + bias)."""

    blocks, states, activations = 1, (5,), ("Tanh",)

    def prepare(self, b: Body) -> None:
        self.streams = [self.product(b, 0, 1)]
        self._r = self.weight(b, 1, 0, 1)
        self._b = self.bias(b, 0, 1)

    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        return [self.activate(b, 0, self.total(b, x[0], self._r, state, self._b))]


CELLS: dict[str, type[Cell]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


# Activations

_PARAMETERS: dict[str, tuple[tuple[str, float], ...]] = {
    "affine": (("alpha", 0.0), ("beta", 0.0)),
    "elu": (("alpha", 1.0),),
    "hardsigmoid": (("alpha", 0.2), ("beta", 0.5)),
    "leakyrelu": (("alpha", 0.01),),
    "relu": (),
    "scaledtanh": (("alpha", 0.0), ("beta", 0.0)),
    "sigmoid": (),
    "softplus": (),
    "softsign": (),
    "tanh": (),
    "thresholdedrelu": (("alpha", 1.0),),
}
_OPERATORS = {
    "elu": "Elu",
    "hardsigmoid": "HardSigmoid",
    "leakyrelu": "LeakyRelu",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
    "thresholdedrelu": "ThresholdedRelu",
}


def _functions(b: Body, default: Sequence[str], d: int, both: bool) -> list[Callable[[Body, str], str]]:
    """The activations of direction ``d``; each takes from the lists of parameters what it has use for, in order."""
    count = len(default)
    given = [a.decode() if isinstance(a, bytes) else a for a in b.attr("activations", [])]
    names = given or [*default] * (2 if both else 1)
    lists = {key: list(b.attr(f"activation_{key}", [])) for key in ("alpha", "beta")}
    found = []
    for name in names:
        kind = str(name).lower()
        if kind not in _PARAMETERS:
            raise b.refuse(f"activation {name!r} is not one of ONNX")
        values = {key: float(lists[key].pop(0)) if lists[key] else start for key, start in _PARAMETERS[kind]}
        found.append(_function(kind, values))
    return found[d * count : (d + 1) * count]


def _function(kind: str, values: dict[str, float]) -> Callable[[Body, str], str]:
    if kind == "affine":
        return lambda b, x: b.op("Add", b.op("Mul", x, values["alpha"]), values["beta"])
    if kind == "scaledtanh":
        return lambda b, x: b.op("Mul", b.op("Tanh", b.op("Mul", x, values["beta"])), values["alpha"])
    attrs: dict[str, Any] = dict(values)
    return lambda b, x: b.op(_OPERATORS[kind], x, **attrs)
