"""LSTM, GRU and RNN with random attributes, states and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Graph, T

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
BETA = ("Affine", "ScaledTanh", "HardSigmoid")
PLAIN = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")


def recurrent(g: Graph) -> T:
    kind = g.pick(*GATES)
    gates, time, batch, wide, hidden = GATES[kind], g.integer(1, 3), 2, g.integer(1, 3), g.integer(1, 3)
    way = g.pick("forward", "reverse", "bidirectional")
    ways = 2 if way == "bidirectional" else 1
    attributes: dict[str, Any] = {"direction": way, "hidden_size": hidden}
    if g.flag(0.4):
        names = [g.pick(*ALPHA, *PLAIN) for _ in range(ways * FUNCTIONS[kind])]
        attributes["activations"] = names
        for key, having in (("activation_alpha", ALPHA), ("activation_beta", BETA)):
            values = [float(g.random.uniform(0.3, 0.8)) for n in names if n in having]
            attributes |= {key: values} if values else {}
    if g.flag(0.25):
        attributes["clip"] = float(g.random.uniform(0.3, 0.8))
    if g.flag(0.5):
        attributes |= {"GRU": {"linear_before_reset": 1}, "LSTM": {"input_forget": int(g.flag(0.4))}}.get(kind, {})
    x = g.explain("x", time, batch, wide)
    inputs = [g.op("Sigmoid", x) if g.flag(0.3) else x, g.weight(ways, gates * hidden, wide, scale=0.7),
              g.weight(ways, gates * hidden, hidden, scale=0.7)]  # fmt: skip
    inputs.append(g.weight(ways, 2 * gates * hidden, scale=0.7) if g.flag(0.7) else "")
    inputs.append(g.constant(g.random.integers(1, time + 1, batch), np.int32) if g.flag(0.4) else "")
    for name in ("h0", "c0") if kind == "LSTM" else ("h0",):
        inputs.append(state(g, name, ways, batch, hidden))
    if kind == "LSTM" and g.flag(0.4):
        inputs.append(g.weight(ways, 3 * hidden, scale=0.7))
    ys = g.op(kind, *inputs, outputs=3 if kind == "LSTM" else 2, **attributes)
    how = g.pick("all", "last", "sum", "gated")
    if how == "sum":
        return g.op("Add", ys[0], ys[-1])
    return g.op("Mul", ys[0], g.op("Sigmoid", ys[1])) if how == "gated" else ys[0] if how == "all" else ys[1]


def state(g: Graph, name: str, *shape: int) -> T | str:
    """Absent, zero, constant, explained or only fed."""
    kind = g.pick("", "", "zero", "constant", "explained", "explained", "fed")
    if kind == "zero":
        return g.constant(np.zeros(shape))
    if kind == "constant":
        return g.weight(*shape, scale=0.7)
    return g.explain(name, *shape, scale=0.7, fed=kind == "fed") if kind else ""
