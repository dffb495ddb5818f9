"""LSTM, GRU and RNN in plain ONNX, step by step.

The contributions of x_t and h_{t-1} are a sum of two, both biases together are added to that sum, peepholes after it. The
products with x are taken of the whole sequence at once, those of the gates and those of the candidate by themselves: in
the secant rules only the candidate's get an adjoint. An all-zero initial state is absent. Past a row's length the state
is kept and Y is 0. What ONNX leaves open is as ONNX Runtime's kernels have it (input_forget: f = 1 - i).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.normalise.bodies.base import Body, body

State = list["str | None"]
"""The names of h (and c); None where a state is absent."""

UNROLLED = 64
"""Longer sequences, and those whose length only the run tells, are a Scan."""


@body("LSTM", "GRU", "RNN", domain="")
def recurrent(b: Body) -> None:
    """Each direction by itself; Y is [T, D, B, H], the final states are [D, B, H] (layout 1: the batch comes first)."""
    steps = b.shape(0)[1 if b.attr("layout", 0) else 0]
    if not isinstance(steps, int) or not 0 < steps <= UNROLLED:
        raise b.refuse("its sequence is longer than 64 steps or of a length that only the run tells")
    direction = str(b.attr("direction", "forward"))
    both = direction == "bidirectional"
    masks = _masks(b, steps)
    sequences, finals = [], []
    for d in range(2 if both else 1):
        cell = CELLS[b.node.op](b, d)
        backwards = direction == "reverse" or d == 1
        states = _unrolled(b, cell, steps, masks, backwards)
        if b.wants(0):
            parts = [b.op("Unsqueeze", _shown(b, s[0], masks, t), [0, 1]) for t, s in enumerate(states)]
            sequences.append(b.op("Concat", *parts, axis=0))
        last = states[0 if backwards else -1]
        finals.append([_final(b, cell, k, s) for k, s in enumerate(last)])
    first = bool(b.attr("layout", 0))
    if b.wants(0):
        y = sequences[0] if len(sequences) == 1 else b.op("Concat", *sequences, axis=1)
        b.give(0, b.op("Transpose", y, perm=[2, 0, 1, 3]) if first else y)
    for k in range(len(finals[0])):
        if b.wants(k + 1):
            rows = [b.op("Unsqueeze", final[k], [1 if first else 0]) for final in finals]
            b.give(k + 1, rows[0] if len(rows) == 1 else b.op("Concat", *rows, axis=1 if first else 0))


def _unrolled(b: Body, cell: Cell, steps: int, masks: list[str], backwards: bool) -> list[list[str]]:
    """The states behind every step, in the order of the sequence."""
    streams = [_steps(b, s, steps) for s in cell.streams]
    state: State = list(cell.initial)
    found: list[list[str]] = [[] for _ in range(steps)]
    for t in range(steps)[:: -1 if backwards else 1]:
        new = cell.step(b, [s[t] for s in streams], state)
        if masks:
            new = [b.op("Where", masks[t], n, _zero(b) if s is None else s) for n, s in zip(new, state, strict=True)]
        found[t] = new
        state = list(new)
    return found


def _steps(b: Body, stream: str, steps: int) -> list[str]:
    """[T, ...] as T names."""
    if steps == 1:
        return [b.op("Squeeze", stream, [0])]
    return [b.op("Squeeze", part, [0]) for part in b.ops("Split", steps, stream, [1] * steps, axis=0)]


def _masks(b: Body, steps: int) -> list[str]:
    """For every step which rows still run, [B, 1]; empty if all do."""
    lengths = b.tensor(4)
    if lengths is None or (lengths.value is not None and bool((lengths.value >= steps).all())):
        return []
    column = b.op("Unsqueeze", b.op("Cast", b.operand(4), to=7), [1])
    return [b.op("Less", np.asarray(t, np.int64), column) for t in range(steps)]


def _shown(b: Body, h: str, masks: list[str], t: int) -> str:
    return b.op("Where", masks[t], h, _zero(b)) if masks else h


def _final(b: Body, cell: Cell, k: int, state: str) -> str:
    """ONNX Runtime gives 0, not the initial state, for rows of length 0."""
    lengths = b.tensor(4)
    if cell.initial[k] is None or lengths is None or (lengths.value is not None and bool(lengths.value.all())):
        return state
    column = b.op("Unsqueeze", b.op("Cast", b.operand(4), to=7), [1])
    return b.op("Where", b.op("Less", np.asarray(0, np.int64), column), state, _zero(b))


def _zero(b: Body) -> np.ndarray[Any, Any]:
    return np.zeros((), b.dtype)


class Cell(ABC):
    """One direction of a recurrent layer. ``streams`` are the products of the whole sequence with the input weights,
    [T, B, n H]."""

    blocks: int
    states: tuple[int, ...]
    """Which operands are the initial states."""
    activations: tuple[str, ...]

    def __init__(self, b: Body, d: int) -> None:
        self.hidden = self._hidden(b)
        self.d = d
        self.both = b.attr("direction", "forward") in ("bidirectional",)
        self.first = bool(b.attr("layout", 0))
        self.clip = float(b.attr("clip", 0.0))
        self.functions = _functions(b, self.activations, d, self.both)
        self.initial: State = [self._initial(b, k) for k in self.states]
        self._rows = [self._mine(b, b.operand(k), 0) for k in (1, 2)]
        bias = b.operand(3)
        known = b.tensor(3)
        dead = known is None or (known.value is not None and not known.value.any())
        self._bias = None if bias is None or dead else self._mine(b, bias, 0)
        x = b.operand(0)
        self._x = b.op("Transpose", x, perm=[1, 0, 2]) if self.first else str(x)
        self.streams: list[str] = []
        self.prepare(b)

    @abstractmethod
    def prepare(self, b: Body) -> None:
        """Everything that is the same at all steps."""

    @abstractmethod
    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        """The states behind one step."""

    def _hidden(self, b: Body) -> int:
        size = b.shape(2)[-1]
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
        return None if t is None or is_zero(t) else self._mine(b, b.operand(k), 1 if self.first else 0)

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


def _times(b: Body, h: str | None, w: str) -> str | None:
    return None if h is None else b.op("MatMul", h, w)


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
        h, c = state
        sums = [_sum(b, xs, _times(b, h, r), bias) for xs, r, bias in zip(x, self._r, self._b, strict=True)]
        i, o, f = b.ops("Split", 3, sums[0], [self.hidden] * 3, axis=-1)
        i = self.activate(b, 0, self._peep(b, i, 0, c))
        f = b.op("Sub", np.ones((), b.dtype), i) if self._coupled else self.activate(b, 0, self._peep(b, f, 2, c))
        new = b.op("Mul", i, self.activate(b, 1, sums[1]))
        if c is not None:
            new = b.op("Add", b.op("Mul", f, c), new)
        o = self.activate(b, 0, self._peep(b, o, 1, new))
        return [b.op("Mul", o, self.functions[2](b, new)), new]

    def _peep(self, b: Body, gate: str, k: int, c: str | None) -> str:
        if self._peepholes is None or c is None:
            return gate
        return b.op("Add", gate, b.op("Mul", self._peepholes[k], c))


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
        (h,) = state
        z, r = b.ops("Split", 2, _sum(b, x[0], _times(b, h, self._r[0]), self._b[0]), [self.hidden] * 2, axis=-1)
        z, r = self.activate(b, 0, z), self.activate(b, 0, r)
        recurrent: str | None = None
        if h is not None and not self._linear:
            recurrent = b.op("MatMul", b.op("Mul", r, h), self._r[1])
        elif h is not None:
            recurrent = b.op("Mul", r, _sum(b, b.op("MatMul", h, self._r[1]), self._inner))
        elif self._inner is not None:
            recurrent = b.op("Mul", r, self._inner)
        n = self.activate(b, 1, _sum(b, x[1], recurrent, self._b[1]))
        new = b.op("Mul", b.op("Sub", np.ones((), b.dtype), z), n)
        return [new if h is None else b.op("Add", new, b.op("Mul", z, h))]


class RNN(Cell):
    """h = tanh(x W + h R + bias)."""

    blocks, states, activations = 1, (5,), ("Tanh",)

    def prepare(self, b: Body) -> None:
        self.streams = [self.product(b, 0, 1)]
        self._r = self.weight(b, 1, 0, 1)
        self._b = self.bias(b, 0, 1)

    def step(self, b: Body, x: Sequence[str], state: State) -> list[str]:
        return [self.activate(b, 0, _sum(b, x[0], _times(b, state[0], self._r), self._b))]


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
    return lambda b, x: b.op(_OPERATORS[kind], x, **values)


# Zeros

_KEEPS_ZERO = frozenset(
    "Cast Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split()
)


def is_zero(t: Tensor) -> bool:
    """Whether a tensor is known to hold zeros only, whatever its run-time size."""
    while True:
        if t.value is not None:
            return not t.value.any()
        node = t.producer
        if node is None or node.domain != "":
            return False
        if node.op == "ConstantOfShape":
            fill = node.attrs.get("value")
            return fill is None or not any(fill.raw_data) and not any(fill.float_data) and not any(fill.double_data)
        if node.op == "Concat":
            return all(i is not None and is_zero(i) for i in node.inputs)
        source = node.input(0)
        if node.op not in _KEEPS_ZERO or source is None:
            return False
        t = source
