"""LSTM, GRU, RNN against the same network written out step by step in MatMul, Add, Sigmoid, ...: equal C_w and C_b.

The twin follows the equations of ONNX's operators, not the compiler's decomposition: x_t W + h R, then both biases
together, then peepholes; GRU with linear_before_reset keeps the recurrent bias inside the reset; past a row's length
the state is kept and Y is 0; an initial state that is absent, or a constant of zeros, makes no term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from explaining import assert_close, compiled, explain
from onnx import helper, numpy_helper
from test_recurrent import BLOCKS, HIDDEN, STEPS, VARIANTS, explained, network

Array = np.ndarray[Any, Any]
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
PARAMETERS = {
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "LeakyRelu": {"alpha": 0.01}, "ThresholdedRelu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0}, "ScaledTanh": {"alpha": 0.0, "beta": 0.0}, "Affine": {"alpha": 0.0, "beta": 0.0},
}  # fmt: skip


class Twin:
    """The plain nodes that stand for one recurrent node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.cell = next(n for n in model.graph.node if n.name == "cell")
        self.attrs = {a.name: helper.get_attribute_value(a) for a in self.cell.attribute}
        self.values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.directions = 2 if self.attrs.get("direction") == b"bidirectional" else 1

    def op(self, op: str, *inputs: str | Array, **attributes: Any) -> str:
        """One node; arrays become initializers."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.constants.append(numpy_helper.from_array(value, f"k{len(self.constants)}"))
                value = self.constants[-1].name
            names.append(value)
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], out, **attributes))
        return out

    def operand(self, k: int) -> str:
        return self.cell.input[k] if k < len(self.cell.input) else ""

    def part(self, name: str, k: int, axis: int) -> str:
        """name[k] along an axis."""
        return self.op("Gather", name, np.asarray(k), axis=axis)

    def sum(self, *terms: str | Array | None) -> str:
        present = [t for t in terms if t is not None]
        total = present[0]
        for t in present[1:]:
            total = self.op("Add", total, t)
        assert isinstance(total, str)
        return total

    def act(self, d: int, k: int, x: str) -> str:
        """Activation k of direction d, behind the clip."""
        names = [n.decode() for n in self.attrs.get("activations", [])] or DEFAULTS[self.cell.op_type] * self.directions
        lists = {key: list(self.attrs.get(f"activation_{key}", [])) for key in ("alpha", "beta")}
        given = [
            {key: lists[key].pop(0) if lists[key] else v for key, v in PARAMETERS.get(n, {}).items()} for n in names
        ]
        place = d * len(DEFAULTS[self.cell.op_type]) + k
        name, values = names[place], given[place]
        if "clip" in self.attrs and k < 2:  # as ONNX Runtime: not what is behind the cell state
            c = np.float32(self.attrs["clip"])
            x = self.op("Clip", x, np.asarray(-c), np.asarray(c))
        if name == "Affine":
            return self.op("Add", self.op("Mul", x, f32(values["alpha"])), f32(values["beta"]))
        if name == "ScaledTanh":
            return self.op("Mul", self.op("Tanh", self.op("Mul", x, f32(values["beta"]))), f32(values["alpha"]))
        return self.op(name, x, **values)

    def initial(self, k: int, d: int) -> str | None:
        name = self.operand(k)
        if not name or (name in self.values and not self.values[name].any()):
            return None
        return self.part(name, d, 0)

    def direction(self, d: int) -> tuple[str, list[str]]:
        """h of all steps in the order of the sequence, [T, N, H], and the final states."""
        op, w, r = self.cell.op_type, self.values["W"][d], self.values["R"][d]
        blocks = BLOCKS[op]
        b = self.values["B"][d] if self.operand(3) else np.zeros(2 * blocks * HIDDEN, np.float32)
        some = b.any()
        wb, rb = np.split(b, 2)

        def gate(k: int) -> slice:
            return slice(k * HIDDEN, (k + 1) * HIDDEN)

        def affine(k: int, x: str, h: str | None, bias: bool = True) -> str:
            inner = None if h is None else self.op("MatMul", h, r[gate(k)].T.copy())
            total = self.sum(self.op("MatMul", x, w[gate(k)].T.copy()), inner)
            return self.sum(total, (wb + rb)[gate(k)] if some and bias else None)

        state = [self.initial(k, d) for k in ((5, 6) if op == "LSTM" else (5,))]
        begun = list(state)
        shown = [""] * STEPS
        backwards = self.attrs.get("direction") == b"reverse" or d == 1
        sequence = self.operand(0) if not backwards else self.turned(self.operand(0))
        for t in range(STEPS):
            x, h = self.part(sequence, t, 0), state[0]
            if op == "LSTM":
                new = self.lstm(d, lambda k, x=x, h=h: affine(k, x, h), state[1])
            elif op == "GRU":
                z, reset = self.act(d, 0, affine(0, x, h)), self.act(d, 0, affine(1, x, h))
                matrix = r[gate(2)].T.copy()
                inner: str | None = None
                if self.attrs.get("linear_before_reset"):
                    product = None if h is None else self.op("MatMul", h, matrix)
                    terms = [product, rb[gate(2)] if some else None]
                    if any(t is not None for t in terms):
                        inside = self.sum(*terms) if h is not None else self.op("Identity", rb[gate(2)])
                        inner = self.op("Mul", reset, inside)
                    bias = wb[gate(2)]
                else:
                    inner = None if h is None else self.op("MatMul", self.op("Mul", reset, h), matrix)
                    bias = (wb + rb)[gate(2)]
                total = self.sum(self.op("MatMul", x, w[gate(2)].T.copy()), inner)
                n = self.act(d, 1, self.sum(total, bias if some else None))
                kept = None if h is None else self.op("Mul", z, h)
                new = [self.sum(self.op("Mul", self.op("Sub", f32(1), z), n), kept)]
            else:
                new = [self.act(d, 0, affine(0, x, h))]
            shown[t] = new[0]
            if self.operand(4):
                runs = self.op("Less", np.asarray(t, np.int32), self.op("Unsqueeze", self.operand(4), np.asarray([1])))
                shown[t] = self.op("Where", runs, new[0], f32(0))
                new = [self.op("Where", runs, n, f32(0) if s is None else s) for n, s in zip(new, state, strict=True)]
            state = list(new)
        final = [s for s in state if s is not None]
        if self.operand(4) and begun[0] is not None:
            lengths = self.op("Unsqueeze", self.operand(4), np.asarray([1]))
            some_step = self.op("Greater", lengths, np.asarray(0, np.int32))
            final = [self.op("Where", some_step, s, f32(0)) for s in final]
        zero = np.asarray([0])
        y = self.op("Concat", *(self.op("Unsqueeze", h, zero) for h in shown), axis=0)
        return self.turned(y) if backwards else y, final

    def turned(self, sequence: str) -> str:
        """[T, N, ...] with the steps of each row in the other order, within its length."""
        if self.operand(4):
            lengths = self.op("Cast", self.operand(4), to=onnx.TensorProto.INT64)
            return self.op("ReverseSequence", sequence, lengths, time_axis=0, batch_axis=1)
        return self.op("Gather", sequence, np.arange(STEPS)[::-1].copy(), axis=0)

    def lstm(self, d: int, affine: Any, c: str | None) -> list[str]:
        i, o, f, g = (affine(k) for k in range(4))
        p = np.split(self.values["P"][d], 3) if self.operand(7) else None  # of i, o, f

        def peep(gate: str, k: int, state: str | None) -> str:
            return gate if p is None or state is None else self.op("Add", gate, self.op("Mul", state, p[k]))

        i = self.act(d, 0, peep(i, 0, c))
        f = self.op("Sub", f32(1), i) if self.attrs.get("input_forget") else self.act(d, 0, peep(f, 2, c))
        new = self.op("Mul", i, self.act(d, 1, g))
        new = new if c is None else self.op("Add", self.op("Mul", f, c), new)
        o = self.act(d, 0, peep(o, 1, new))
        return [self.op("Mul", o, self.act(d, 2, new)), new]


def f32(value: float) -> Array:
    return np.asarray(value, np.float32)


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its recurrent node step by step (layout 0)."""
    twin = Twin(model)
    found = [twin.direction(d) for d in range(twin.directions)]
    zero, one = np.asarray([0]), np.asarray([1])
    outputs = [twin.op("Concat", *(twin.op("Unsqueeze", y, one) for y, _ in found), axis=1)]
    for k in range(len(twin.cell.output) - 1):
        outputs.append(twin.op("Concat", *(twin.op("Unsqueeze", f[k], zero) for _, f in found), axis=0))
    ends = [helper.make_node("Identity", [a], [b]) for a, b in zip(outputs, twin.cell.output, strict=True)]
    made = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [n for old in made.graph.node for n in ([*twin.nodes, *ends] if old.name == "cell" else [old])]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(twin.constants)
    return made


TANGENT = ("lstm_peepholes", "gru_reset_last_states", "rnn_both")


@pytest.mark.parametrize(("name", "rules"), [*((n, "secant") for n in VARIANTS), *((n, "tangent") for n in TANGENT)])
def test_twin(name: str, rules: str) -> None:
    model, feeds = network(**VARIANTS[name])
    inputs = explained(VARIANTS[name])
    found = explain(compiled(model, rules=rules, inputs=inputs), feeds)
    expected = explain(compiled(written_out(model), rules=rules, inputs=inputs), feeds)
    assert_close(found.outputs["z"], expected.outputs["z"], 1e-5, "z")
    for a, b in zip(found.c_w, expected.c_w, strict=True):
        assert_close(a, b, 1e-4, "C_w")
    for a, b in zip(found.c_b, expected.c_b, strict=True):
        assert_close(a, b, 1e-4, "C_b")
