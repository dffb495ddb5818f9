"""The layers of a network: which tensors separate its input from its output."""

from __future__ import annotations

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear.program import Equation, Permute, Reshape, Var, needed
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.instances import Instance


def separating(instance: Instance, source: str | None = None, target: str | None = None) -> list[str]:
    """The tensors that every linear path from ``source`` to ``target`` passes, in order, without both ends.

    At each of them the operator splits: (source -> t) @ (t -> target) is the operator from source to target. A tensor
    beside a residual connection is none of them. Defaults as for ``Instance.operator``. Raises NameNotFound, NoPath.
    """
    lin = instance.sized.lin
    start, end = instance.sized.carrier(source, "source"), instance.sized.carrier(target, "target")
    found = separators(lin, lin.calculus.pairs[start].value, lin.calculus.pairs[end].value)
    return [lin.name(t) for v in found for t in tensors_of(lin, v)]


def separators(lin: Linearised, start: Var, end: Var) -> list[Var]:
    """The variables, in order, that every path from ``start`` to ``end`` passes, without both.

    One sweep: in a topological order of what lies on such paths, a variable is passed by all of them where no equation
    leads from one before it to one behind it.
    """
    equations = between_two(lin, start, end)
    place = {start: 0} | {e.out: i for i, e in enumerate(equations, 1)}
    reach = [0] * (len(equations) + 1)  # the last reader of each
    for e in equations:
        for x in e.inputs:
            if x in place:
                reach[place[x]] = place[e.out]
    found, furthest = [], 0
    for v, at in place.items():
        if furthest <= at and v is not start and v is not end:
            found.append(v)
        furthest = max(furthest, reach[at])
    return found


def between_two(lin: Linearised, start: Var, end: Var) -> list[Equation]:
    """The equations on paths from ``start`` to ``end``."""
    reached = {start}
    forward = []
    for e in lin.equations:
        if e.out is not start and any(x in reached for x in e.inputs):
            reached.add(e.out)
            forward.append(e)
    return needed(forward, [end])


def only_moved(lin: Linearised, start: Var, end: Var) -> bool:
    """Whether ``end`` holds the elements of ``start`` and nothing else, in another shape or order."""
    equations = between_two(lin, start, end)
    return start is end or (bool(equations) and all(isinstance(e.primitive, Reshape | Permute) for e in equations))


def tensors_of(lin: Linearised, v: Var) -> list[Tensor]:
    """The model's own tensors with this value stream: several where an Identity or a Cast leads from one to another."""
    own = {id(t) for t in lin.graph.tensors.values()}
    return [t for t, p in lin.calculus.pairs.items() if p.value is v and id(t) in own]
