"""Bodies of operators that are taken as their decomposition, from their specifications: nodes that replace them.

    @body("RNN")
    def rnn(b: Body, *inputs: Tensor | None) -> tuple[str | None, ...]: names of the outputs

All shapes are known here, so bodies are static and loops are unrolled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .stream import Array, Node, Tensor

_fresh = itertools.count()
Name = str


class Body:
    """The nodes written so far, with names of their own."""

    opset = 23

    def __init__(self, n: Node) -> None:
        self.n = n
        self.prefix = f"__{n.name}_{next(_fresh)}_"
        self.protos: list[onnx.NodeProto] = []

    def attr(self, name: str, default: Any = None) -> Any:
        return self.n.attrs.get(name, default)

    def given(self, index: int) -> Name:
        """The name of an input, "" if absent."""
        return self.n.inputs[index] if index < len(self.n.inputs) else ""

    def op(self, kind: str, *inputs: Name, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{self.prefix}{len(self.protos)}_{i}" for i in range(outputs)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.protos.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value: Any) -> Name:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        return self.op("Constant", value=numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape)))

    def ints(self, *values: int) -> Name:
        return self.const(np.array(values, np.int64))

    def reshape(self, x: Name, *shape: int) -> Name:
        return self.op("Reshape", x, self.ints(*shape), allowzero=1 if 0 in shape else None)

    def transpose(self, x: Name, *perm: int) -> Name:
        return self.op("Transpose", x, perm=list(perm))

    def scaled(self, x: Name, factor: float) -> Name:
        return x if factor == 1 else self.op("Mul", x, self.const(float(factor)))

    def plus(self, *terms: Name | None) -> Name:
        """The sum of the terms that are there, two by two."""
        present = [t for t in terms if t]
        total = present[0]
        for t in present[1:]:
            total = self.op("Add", total, t)
        return total

    def slice(self, x: Name, axis: int, begin: int, end: int) -> Name:
        return self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(axis))

    def finish(self, results: tuple[Name | None, ...]) -> list[onnx.NodeProto]:
        for result, output in zip(results, self.n.outputs, strict=False):
            if output:
                assert result is not None, f"output {output} of {self.n.op} has no body"
                self.protos.append(helper.make_node("Identity", [result], [output]))
        return self.protos


Writer = Callable[..., tuple]
BODIES: dict[tuple[str, str], Writer] = {}


def body(*ops: str, domain: str = "") -> Callable[[Writer], Writer]:
    def register(f: Writer) -> Writer:
        for op in ops:
            assert (domain, op) not in BODIES, op
            BODIES[domain, op] = f
        return f

    return register


def written_body(n: Node, inputs: list[Tensor | None]) -> tuple[list[onnx.NodeProto], dict[str, int]] | None:
    write = BODIES.get((n.domain, n.op))
    if write is None:
        return None
    b = Body(n)
    results = write(b, *inputs)
    return b.finish(results), {"": b.opset, "ai.onnx.ml": 3, "com.microsoft": 1}


# -- recurrent networks -----------------------------------------------------------------------------------------------

ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}
SPELLED = {k.lower(): k for k in [*ALPHA, "Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"]}


def activations(b: Body, defaults: list[str], directions: int) -> list[Callable[[Name], Name]]:
    """Of all directions, in order: each takes its alpha and beta from the lists if it has one."""
    names = [SPELLED[(a.decode() if isinstance(a, bytes) else a).lower()]
             for a in b.attr("activations", defaults * directions)]  # fmt: skip
    alphas, betas = iter(b.attr("activation_alpha") or []), iter(b.attr("activation_beta") or [])
    limit = b.attr("clip", 0.0)

    def make(position: int, name: str) -> Callable[[Name], Name]:
        alpha = next(alphas, ALPHA[name]) if name in ALPHA else None
        beta = next(betas, BETA[name]) if name in BETA else None

        def apply(x: Name) -> Name:
            if limit and position % len(defaults) != 2:  # as ONNX Runtime: the cell of an LSTM is not clipped
                x = b.op("Clip", x, b.const(-limit), b.const(limit))
            if name == "Affine":
                return b.op("Add", b.op("Mul", x, b.const(alpha)), b.const(beta))
            if name == "ScaledTanh":
                return b.op("Mul", b.op("Tanh", b.op("Mul", x, b.const(beta))), b.const(alpha))
            return b.op(name, x, **{k: v for k, v in (("alpha", alpha), ("beta", beta)) if v is not None})

        return apply

    return [make(position, name) for position, name in enumerate(names)]


def _is_zero(t: Tensor | None) -> bool:
    return t is None or (not t.is_carrier and not t.value.any())


def _part(t: Tensor | None, d: int, count: int) -> list[Array | None]:
    """The ``count`` gates' parts of a constant weight [D, count * H, ...] of one direction."""
    return [None] * count if t is None else list(np.split(t.value[d].astype(float), count, axis=0))


def recurrent(b: Body, gates: int, defaults: list[str], step: Callable, x: Tensor, w: Tensor, r: Tensor,
              bias: Tensor | None, lens: Tensor | None, states: list[Tensor | None], state_names: list[Name],
              peepholes: Tensor | None = None) -> tuple:  # fmt: skip
    """Runs ``step`` over time; Y [T, D, N, H] and the last states [D, N, H] (layout 1: batch first)."""
    for t in (w, r, bias, peepholes):
        if t is not None and t.is_carrier:
            raise b.n.refuse("weights are carriers")
    layout, direction = b.attr("layout", 0), b.attr("direction", "forward")
    xs, x_shape = b.given(0), x.shape
    if layout:
        xs, x_shape = b.transpose(xs, 1, 0, 2), (x.shape[1], x.shape[0], x.shape[2])
        state_names = [b.transpose(s, 1, 0, 2) if s else s for s in state_names]
    time, batch, _ = x_shape
    ways = ["forward", "reverse"] if direction == "bidirectional" else [direction]
    lengths = np.full(batch, time) if lens is None else lens.value.astype(int)
    functions = activations(b, defaults, len(ways))
    each = len(functions) // len(ways)
    all_ys, finals = [], []
    for d, way in enumerate(ways):
        f = functions[d * each : (d + 1) * each]
        seq = xs if way == "forward" else b.op("ReverseSequence", xs, b.const(lengths.astype(np.int64)))
        both = _part(bias, d, 2 * gates)
        weights = {
            "W": [m.T for m in _part(w, d, gates)], "R": [m.T for m in _part(r, d, gates)],
            "Wb": both[:gates], "Rb": both[gates:], "P": _part(peepholes, d, 3),
        }  # fmt: skip
        now: list[Name | None] = [
            None if _is_zero(t) else b.reshape(b.slice(name, 0, d, d + 1), batch, -1)
            for t, name in zip(states, state_names, strict=True)
        ]
        ys = []
        for t in range(time):
            xt = b.reshape(b.slice(seq, 0, t, t + 1), batch, -1)
            new = step(b, f, weights, xt, now)
            y = new[0]
            alive = (t < lengths).reshape(-1, 1)
            if not alive.all():
                mask, zero = b.const(alive), b.const(0.0)
                y = b.op("Where", mask, y, zero)
                new = [b.op("Where", mask, fresh, old or zero) for fresh, old in zip(new, now, strict=True)]
            now = new
            ys.append(b.op("Unsqueeze", y, b.ints(0, 1)))
        ys_of = b.op("Concat", *ys, axis=0)
        if way == "reverse":
            flat = b.op("Squeeze", ys_of, b.ints(1))
            ys_of = b.op("Unsqueeze", b.op("ReverseSequence", flat, b.const(lengths.astype(np.int64))), b.ints(1))
        all_ys.append(ys_of)
        finals.append([b.op("Unsqueeze", s, b.ints(0)) for s in now])
    y = b.op("Concat", *all_ys, axis=1)
    last = [b.op("Concat", *s, axis=0) for s in zip(*finals, strict=True)]
    if layout:
        return b.transpose(y, 2, 0, 1, 3), *(b.transpose(s, 1, 0, 2) for s in last)
    return y, *last


def _bias(b: Body, *parts: Array | None) -> Name | None:
    """The parts' sum as one constant."""
    return b.const(sum(parts)) if parts[0] is not None else None


def _times(b: Body, x: Name | None, w: Array) -> Name | None:
    return b.op("MatMul", x, b.const(w)) if x else None


@body("RNN")
def rnn(b: Body, x, w, r, bias=None, lens=None, h0=None) -> tuple:
    def step(b, f, weights, xt, now):
        total = b.plus(_times(b, xt, weights["W"][0]), _times(b, now[0], weights["R"][0]))
        return [f[0](b.plus(total, _bias(b, weights["Wb"][0], weights["Rb"][0])))]

    return recurrent(b, 1, ["Tanh"], step, x, w, r, bias, lens, [h0], [b.given(5)])


@body("GRU")
def gru(b: Body, x, w, r, bias=None, lens=None, h0=None) -> tuple:
    inside = b.attr("linear_before_reset", 0)

    def step(b, f, weights, xt, now):
        (h,) = now
        xw = [_times(b, xt, m) for m in weights["W"]]
        z, reset = (
            f[0](b.plus(xw[k], _times(b, h, weights["R"][k]), _bias(b, weights["Wb"][k], weights["Rb"][k])))
            for k in (0, 1)
        )
        if inside:
            inner = b.plus(_times(b, h, weights["R"][2]), _bias(b, weights["Rb"][2])) if h or bias is not None else None
            candidate = b.plus(xw[2], b.op("Mul", reset, inner) if inner else None, _bias(b, weights["Wb"][2]))
        else:
            kept = b.op("Mul", reset, h) if h else None
            candidate = b.plus(xw[2], _times(b, kept, weights["R"][2]), _bias(b, weights["Wb"][2], weights["Rb"][2]))
        fresh = b.op("Mul", b.op("Sub", b.const(1.0), z), f[1](candidate))
        return [b.plus(fresh, b.op("Mul", z, h) if h else None)]

    return recurrent(b, 3, ["Sigmoid", "Tanh"], step, x, w, r, bias, lens, [h0], [b.given(5)])


@body("LSTM")
def lstm(b: Body, x, w, r, bias=None, lens=None, h0=None, c0=None, peepholes=None) -> tuple:
    coupled = b.attr("input_forget", 0)

    def step(b, f, weights, xt, now):
        h, c = now

        def total(k: int, peephole: int | None, cell: Name | None) -> Name:
            p = weights["P"][peephole] if peephole is not None else None
            seen = b.op("Mul", cell, b.const(p)) if p is not None and cell else None
            return b.plus(_times(b, xt, weights["W"][k]), _times(b, h, weights["R"][k]),
                          _bias(b, weights["Wb"][k], weights["Rb"][k]), seen)  # fmt: skip

        i = f[0](total(0, 0, c))
        forget = b.op("Sub", b.const(1.0), i) if coupled else f[0](total(2, 2, c))
        cell = b.plus(b.op("Mul", forget, c) if c else None, b.op("Mul", i, f[1](total(3, None, None))))
        o = f[0](total(1, 1, cell))
        return [b.op("Mul", o, f[2](cell)), cell]

    return recurrent(b, 4, ["Sigmoid", "Tanh", "Tanh"], step, x, w, r, bias, lens, [h0, c0],
                     [b.given(5), b.given(6)], peepholes)  # fmt: skip
