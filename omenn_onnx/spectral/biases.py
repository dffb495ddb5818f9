"""What the biases of a network add to its output, node by node and layer by layer (SpecXAI, eq. 9).

    y = L_l h_l + sum over the layers behind l of beta     h_l: the values of layer l, L_l: the operator from there to y
    beta_l = (W_n D_n ... W_l+1 D_l+1) b_l                 the constants of layer l, pushed through what follows them
           = L_l h_l - L_l-1 h_l-1                         what of y the values at l explain and those at l-1 do not

Both ways are computed, and agree to rounding. The paper's equation was at hand only by its number and title; that these
are its two ways is this project's reading. A layer's constants are all that its nodes add to a linear image of their
inputs: biases, and in both rule sets what linearising leaves over (f(x) - W(x) x), whose node it is (semantics,
section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.errors import OperatorError
from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.functionals import functional
from omenn_onnx.spectral.gates import Gated, GateOperator, constants, operator_of, values_at
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import separators, tensors_of
from omenn_onnx.spectral.operators import MEMORY_LIMIT, AffineOperator, Array, masked


@dataclass(frozen=True)
class BiasContributions:
    """y = R x + sum over the owners of beta.

    ``owners`` [n]: the nodes whose constants count, by name, in the order of the network. ``operators`` [n]: their
    operators; "" for the value of an explained input (named as the owner) that reaches the target past the source.
    ``beta`` [n, *target shape], in the units of the target; with a seed [n]: <seed, beta>. ``bias`` [*target shape] or
    a number: the whole of it, computed for itself. ``total``: the sum of beta.
    """

    source: str
    target: str
    owners: tuple[str, ...]
    operators: tuple[str, ...]
    beta: Array
    bias: Array

    @property
    def total(self) -> Array:
        return np.asarray(self.beta.sum(axis=0, dtype=np.float64))

    @property
    def residual(self) -> float:
        """max|bias - sum beta| / max(1, max|bias|, max of sum|beta|): rounding and nothing else."""
        return _off(self.bias, self.total, self.beta)

    def __getitem__(self, owner: str) -> Array:
        """The contribution of one owner."""
        if owner not in self.owners:
            known = ", ".join(repr(o) for o in self.owners[:12]) + (", ..." if len(self.owners) > 12 else "")
            raise OperatorError(f"{owner!r} adds no constant to {self.target!r}; those that do: {known}")
        return np.asarray(self.beta[self.owners.index(owner)])


@dataclass(frozen=True)
class LayerBiases:
    """beta_l of the layers between source and target, both ways.

    ``layers`` [n]: the tensors at which the layers end, the target last; each stretch between two of them is a layer,
    named after its end. ``owners`` [n]: the nodes of each whose constants count. ``pushed``, ``telescoped``
    [n, *target shape], with a seed [n]: the constants pushed to the target; the differences of what the values at the
    ends explain. ``bias``: as in :class:`BiasContributions`; ``linear``: R x, the rest of y.
    """

    source: str
    target: str
    layers: tuple[str, ...]
    owners: tuple[tuple[str, ...], ...]
    pushed: Array
    telescoped: Array
    bias: Array
    linear: Array

    @property
    def residual(self) -> float:
        """max|bias - sum of the pushed| / max(1, max|bias|, max of sum|pushed|): rounding and nothing else."""
        return _off(self.bias, self.pushed.sum(axis=0, dtype=np.float64), self.pushed)

    @property
    def disagreement(self) -> float:
        """max|pushed - telescoped| / max(1, max|y|, max of sum|pushed|): rounding and nothing else."""
        real = np.abs(self.bias) < masked(self.bias.dtype)
        scale = max(1.0, _largest((self.linear + self.bias)[real]), _largest(np.abs(self.pushed).sum(axis=0)[real]))
        return _largest((self.pushed - self.telescoped)[:, real]) / scale


def bias_operator(instance: Instance, source: str | None = None, target: str | None = None) -> GateOperator:
    """B [M,n] with  y = R x + B 1:  column i is what the constants of node ``labels[i]`` bring to the target.

    ``B.rmatvec(seed)`` gives every node's part of <seed, y> in one run of the network, ``B.dense()`` all columns.
    ``source``, ``target``: as for ``Instance.operator``. Raises NameNotFound, NoPath (where no constant counts, too).
    """
    start, end = _ends(instance, source, target)
    gated = _by_node(instance.sized.lin, start)
    return operator_of(gated, instance, "nodes", start, end, gated.labels(_value(instance, end)))


def bias_contributions(
    instance: Instance,
    source: str | None = None,
    target: str | None = None,
    seed: Any = None,
    *,
    memory_limit: int = MEMORY_LIMIT,
    show: bool | None = None,
) -> BiasContributions:
    """What each node's constants bring to the target; with ``seed`` (a flat index of the target, or weights of its
    shape) to <seed, target>. Between any two tensors of any network; a recurrence or a branch counts as one node.

    ``show``: whether to say where it is (None: when it takes long). Raises NameNotFound, NoPath, TargetError, and
    OperatorError where the maps take more than ``memory_limit`` bytes.
    """
    reader = _Reader(instance, source, target, seed, memory_limit, show)
    lin = instance.sized.lin
    gated = _by_node(lin, reader.start)
    labels = gated.labels(_value(instance, reader.end))
    kinds = {n.origin: n.op for n in (*lin.views.nodes, *lin.graph.nodes)}
    operators = tuple(kinds.get(label, "") for label in labels)
    beta = reader.rows(gated, "nodes", labels)
    return BiasContributions(reader.op.source, reader.op.target, tuple(labels), operators, beta, reader.bias)


def layer_biases(
    instance: Instance,
    layers: Sequence[str] | None = None,
    source: str | None = None,
    target: str | None = None,
    seed: Any = None,
    *,
    memory_limit: int = MEMORY_LIMIT,
    show: bool | None = None,
) -> LayerBiases:
    """beta_l layer by layer, both ways; with ``seed`` as in :func:`bias_contributions`.

    ``layers``: tensors between source and target that every path passes, in order (what a residual connection spans is
    one layer); default: all at which constants have come in since the one before. Raises OperatorError where one does
    not separate, NameNotFound, NoPath, TargetError.
    """
    reader = _Reader(instance, source, target, seed, memory_limit, show)
    lin, end = instance.sized.lin, _value(instance, reader.end)
    by_node = _by_node(lin, reader.start)
    chosen, first = _layers(instance, by_node, reader, layers)
    names = [*chosen.values(), reader.op.target]

    def layer(var: Var) -> str:
        return names[first.get(var, -1)]

    pushed = constants(lin, reader.start, lambda e: layer(e.out), lambda t: layer(lin.calculus.pairs[t].value))
    owners: dict[str, list[str]] = {name: [] for name in names}
    for label in by_node.labels(end):
        owners[layer(by_node.switches[label])].append(label)
    tensors = {v: (tensors_of(lin, v)[0], name) for v, name in chosen.items()}
    begin = {_value(instance, reader.start): (reader.start, reader.op.source)}
    explained = reader.rows(values_at(lin, {**begin, **tensors}), "values", [reader.op.source, *names[:-1]])
    beta = reader.rows(pushed, "layers", names)
    steps = np.diff(np.concatenate([explained, reader.y[None]]), axis=0)
    held = tuple(tuple(owners[name]) for name in names)
    return LayerBiases(reader.op.source, reader.op.target, tuple(names), held, beta, steps, reader.bias, explained[0])


class _Reader:
    """Rows of gate operators, as maps or for a seed, with what they are compared with."""

    def __init__(
        self, instance: Instance, source: str | None, target: str | None, seed: Any, limit: int, show: bool | None
    ) -> None:
        self._instance, self._limit, self._show = instance, limit, show
        self.start, self.end = _ends(instance, source, target)
        self.op = op = instance.operator(source, target)
        self._seed = None if seed is None else functional(seed, op.target, op.target_shape, op.dtype)
        self.bias, self.y = self._read(op.bias), self._read(op.y)

    def _read(self, values: Array) -> Array:
        if self._seed is None:
            return values.reshape(self.op.target_shape)
        return np.asarray(np.dot(self._seed.astype(np.float64), values)).astype(self.op.dtype)

    def rows(self, gated: Gated, key: str, order: Sequence[str]) -> Array:
        """What each gate of ``order`` lets through: [n, *target shape], or [n] for a seed; zeros for one that leads
        nowhere."""
        labels = set(gated.labels(_value(self._instance, self.end)))
        live = [i for i, label in enumerate(order) if label in labels]
        found = np.zeros((len(order), *self.bias.shape), self.op.dtype)
        if not live:
            return found
        gates = operator_of(gated, self._instance, key, self.start, self.end, [order[i] for i in live])
        if self._seed is None:
            found[live] = gates.dense(self._limit, self._show).T.reshape(len(live), *self.op.target_shape)
        else:
            found[live] = gates.rmatvec(self._seed)
        return found


def _ends(instance: Instance, source: str | None, target: str | None) -> tuple[Tensor, Tensor]:
    return instance.sized.carrier(source, "source"), instance.sized.carrier(target, "target")


def _value(instance: Instance, t: Tensor) -> Var:
    return instance.sized.lin.calculus.pairs[t].value


def _by_node(lin: Linearised, source: Tensor) -> Gated:
    """A gate for each node, and for each explained input beside the source."""
    return constants(lin, source, lambda e: e.owner, lambda t: f"value of {lin.name(t)}")


def _layers(
    instance: Instance, gated: Gated, reader: _Reader, names: Sequence[str] | None
) -> tuple[dict[Var, str], dict[Var, int]]:
    """The tensors that end the layers in front of the last one, in order, and for every variable the number of the
    layer that it belongs to."""
    lin, end = instance.sized.lin, _value(instance, reader.end)
    equations = gated.equations(end)
    found = [(v, t) for v in separators(lin, _value(instance, reader.start), end) for t in tensors_of(lin, v)[:1]]
    cuts = {v: lin.name(t) for v, t in found}
    while True:
        first, passed = _stretches(equations, [*cuts, end])
        if not passed:
            break
        cuts = {v: name for i, (v, name) in enumerate(cuts.items()) if i not in passed}
    if names is None:
        used = {first[switch] for switch in gated.switches.values() if switch in first}
        last = max(used, default=0)
        cuts = {v: name for i, (v, name) in enumerate(cuts.items()) if i in used and i != last}
    else:
        cuts = _chosen(instance, names, cuts, reader.op)
    return cuts, _stretches(equations, [*cuts, end])[0]


def _chosen(instance: Instance, names: Sequence[str], cuts: Mapping[Var, str], op: AffineOperator) -> dict[Var, str]:
    """The cuts of these names."""
    chosen: dict[Var, str] = {}
    for name in [names] if isinstance(names, str) else names:
        var = _value(instance, instance.sized.carrier(name, "layer"))
        if var not in cuts:
            known = ", ".join(repr(n) for n in cuts.values()) or "none"
            raise OperatorError(
                f"{name!r} does not separate {op.source!r} from {op.target!r}, so that no layer ends there; tensors "
                f"that do: {known}"
            )
        chosen[var] = name
    return {v: chosen[v] for v in cuts if v in chosen}


def _stretches(equations: Sequence[Equation], ends: Sequence[Var]) -> tuple[dict[Var, int], set[int]]:
    """For every variable the number of the first of ``ends`` that it leads to; and the numbers of those that a constant
    leads to and past as well."""
    place = {v: i for i, v in enumerate(ends)}
    first, last = {ends[-1]: len(ends) - 1}, {ends[-1]: len(ends) - 1}
    for e in reversed(equations):
        to = place.get(e.out, first[e.out])
        for x in e.inputs:
            first[x] = min(first.get(x, to), to)
            last[x] = max(last.get(x, to), to)
    passed: set[int] = set()
    for x, begin in first.items():
        passed.update(range(place[x] + 1 if x in place else begin, last[x]))
    return {x: place.get(x, i) for x, i in first.items()}, passed


def _off(bias: Array, total: Array, beta: Array) -> float:
    real = np.abs(bias) < masked(bias.dtype)  # (what a mask covers is told by the bias alone)
    scale = max(1.0, _largest(bias[real]), _largest(np.abs(beta).sum(axis=0)[real]))
    return _largest((bias - total)[real]) / scale


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))
