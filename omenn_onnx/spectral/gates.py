"""What a linear program takes from its constants, as an operator from one number for each of them.

Every constant term of a node is a multiple of a ones stream, which is 1. Here it is a multiple of a gate instead, with
one gate for each node, and the program becomes linear in the gates: what each node's constants bring to the target is
the image of a unit vector, in one run forward for all, and its part of a seed's score is one run backward for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from omenn_onnx.errors import NoPath
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var, needed
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.graphs import OperatorGraphs, program_graphs, unmasked
from omenn_onnx.spectral.instances import Instance, Segment
from omenn_onnx.spectral.operators import Array, TensorOperator, cotangents, images


class GateOperator(TensorOperator):
    """y = B g for gates g [n]: column i of B [M,n] is what gate i, named ``labels[i]``, lets through to the target."""

    def __init__(self, labels: Sequence[str], instance: Instance, segment: Segment) -> None:
        self._segment, self._coefficients = segment, segment.coefficients(instance.feeds)
        super().__init__("gates", segment.target, *segment.shapes(self._coefficients), segment.dtype)
        self.labels = tuple(labels)

    def _images(self, vectors: Array) -> Array:
        return images(self._segment, self._coefficients, vectors.reshape(-1, *self.source_shape))

    def _cotangents(self, vectors: Array) -> Array:
        return cotangents(self._segment, self._coefficients, vectors.reshape(-1, *self.target_shape))


class Gated:
    """A linear program that is being written anew with gates, each under a label."""

    def __init__(self, lin: Linearised) -> None:
        self.lin = lin
        self.build = Builder(lin.emit)
        self.switches: dict[str, Var] = {}

    def gate(self, label: str, shape: Shape) -> Var:
        """The gate of that label, repeated to ``shape``."""
        switch = self.switches.setdefault(label, Var((1,)))
        return self.build.broadcast(self.build.reshape(switch, (1,) * len(shape)), shape)

    def value(self, label: str, tensor: Tensor, shape: Shape) -> Var:
        """A tensor's value, masks in it as 0, times the gate of that label."""
        scaled = Equation(lp.Scale(self.lin.emit.cast(tensor)), (self.gate(label, shape),), Var(shape), bias=True)
        self.build.equations.append(unmasked(scaled, self.lin.emit))
        return scaled.out

    def write(self, e: Equation, inputs: Sequence[Var], out: Var | None = None) -> None:
        """An equation of the program with other ends. (Its variables keep the definitions that they have.)"""
        ends = tuple(inputs), e.out if out is None else out
        self.build.equations.append(Equation(e.primitive, *ends, e.owner, e.bias))

    def set(self, var: Var, value: Var) -> None:
        """A variable of the program that stands, given a value."""
        self.build.equations.append(Equation(lp.Reshape(), (value,), var))

    def equations(self, end: Var) -> list[Equation]:
        """Those on which ``end`` depends."""
        return needed(self.build.equations, [end])

    def labels(self, end: Var) -> list[str]:
        """The gates that ``end`` depends on, in the order of the program."""
        used = {x for e in self.equations(end) for x in e.inputs}
        return [label for label, switch in self.switches.items() if switch in used]

    def graphs(self, target: Tensor, order: Sequence[str], folder: str) -> OperatorGraphs | None:
        """The graphs from the gates, in this order, to ``target``; None where none leads there."""
        gates = Var((len(order),))
        heads = [Equation(lp.Slice((i,)), (gates,), self.switches[label]) for i, label in enumerate(order)]
        return program_graphs(self.lin, [*heads, *self.build.equations], gates, target, folder=folder)


Label = Callable[[Equation], str]


def constants(lin: Linearised, source: Tensor, label: Label, beside: Callable[[Tensor], str]) -> Gated:
    """The program behind ``source``, whose value is cut off, with a gate at every constant term, named by ``label``,
    and one at the value of every other explained input, named by ``beside``."""
    gated, pairs = Gated(lin), lin.calculus.pairs
    for t in lin.sources:
        var = pairs[t].value
        if var is not pairs[source].value:
            gated.set(var, gated.value(beside(t), t, var.shape))
    for e in lin.equations:
        if e.out is pairs[source].value:
            continue
        inputs = list(e.inputs)
        for i in _ones_among(e):
            inputs[i] = gated.gate(label(e), inputs[i].shape)
        gated.write(unmasked(e, lin.emit), inputs)
    return gated


def values_at(lin: Linearised, layers: Mapping[Var, tuple[Tensor, str]]) -> Gated:
    """The program without constants, with the values of some tensors put in, each through a gate of its own."""
    gated = Gated(lin)
    made = {e.out for e in lin.equations}
    for var, (t, label) in layers.items():
        if var not in made:
            gated.set(var, gated.value(label, t, var.shape))
    for e in lin.equations:
        if e.bias:
            continue
        if e.out not in layers:
            gated.write(e, e.inputs)
            continue
        t, label = layers[e.out]
        before = Var(e.out.shape)
        gated.write(e, e.inputs, before)
        gated.write(Equation(lp.Add(), (), e.out), [before, gated.value(label, t, e.out.shape)])
    return gated


def _ones_among(e: Equation) -> list[int]:
    """Which inputs of an equation are ones that become values in it: that of a constant term; every second stream that
    a recurrence or a choice takes, whose constants are inside."""
    if e.bias:
        return [0]
    if isinstance(e.primitive, lp.Recurrence):
        there = [i for i, present in enumerate(e.primitive.present) if present]
        return [k for k, i in enumerate(there) if i % 2]
    return list(range(1, len(e.inputs), 2)) if isinstance(e.primitive, lp.Choice) else []


def operator_of(
    gated: Gated, instance: Instance, key: str, source: Tensor, target: Tensor, order: Sequence[str]
) -> GateOperator:
    """The operator from gates to ``target`` at an instance; its graphs are kept under ``key``. Raises NoPath."""

    def make() -> OperatorGraphs:
        graphs = gated.graphs(target, order, instance.sized.folder)
        if graphs is None:
            raise NoPath(f"no constant reaches {gated.lin.name(target)!r}")
        return graphs

    return GateOperator(order, instance, instance.sized.kept((key, source, target, *order), make))
