"""The layers that an analysis looks at when it is not told: stages, blocks, last convolution, penultimate layer.

By the linear program, not by names. The tensors that separate input and output (``layers.separators``) are the trunk of
a network. Contractions (matrix products, convolutions, recurrences) cut it into runs: what one of them gives with all
that follows it elementwise, pools included. A run that can only be reached through contractions and begins with other
sizes than the one before it begins a stage; one to which a residual connection or a concatenation leads as well goes on
with its stage, as a block. A branch without exchange between places (the MLP of a transformer) belongs to the block in
front of it. All of this is this project's own choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linearise import Linearised
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import between_two, only_moved, separators, tensors_of

MOST = 12
"""Layers that are proposed at most, if stages and blocks are more than that."""

_CONTRACTIONS = (lp.MatMul, lp.Einsum, lp.Conv, lp.Recurrence)
_CARRYING = (lp.Add, lp.Concat, lp.Embed, lp.Slice, lp.Reshape, lp.Permute)
"""What an identity path is made of."""
_MIXING = (lp.Permute, lp.WindowSum, lp.Winners, lp.CumSum, lp.Recurrence, lp.Gather, lp.ScatterAdd)


@dataclass(frozen=True)
class Layer:
    """A tensor of the network with its shape, and why it is looked at."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass
class _Run:
    """A contraction (none at the start) and the tensors of the trunk behind it."""

    carried: bool = False
    mixing: bool = False
    convolution: bool = False
    tensors: list[tuple[Var, Tensor]] = field(default_factory=list)


class _End(NamedTuple):
    """A place to look at, and why; whether a stage ends there."""

    at: Var
    reason: str
    stage: bool = False


def proposed(
    instance: Instance, source: str | None = None, target: str | None = None, most: int = MOST
) -> tuple[list[Layer], int]:
    """The layers between ``source`` and ``target`` (defaults as for ``Instance.operator``) that are worth looking at,
    in order: where stages and blocks end, the bottleneck of an autoencoder, the last convolution, the penultimate
    layer; the target itself where nothing stands between, or where it is as large as the source. And how many ends of
    stages and blocks were left out to keep to ``most``. Raises NameNotFound, NoPath.
    """
    lin = instance.sized.lin
    start, goal = instance.sized.carrier(source, "source"), instance.sized.carrier(target, "target")
    first, last = lin.calculus.pairs[start].value, lin.calculus.pairs[goal].value
    runs = list(_runs(lin, first, last))
    reasons: dict[Var, list[str]] = {}
    tensors = dict(pair for run in runs for pair in run.tensors)
    ends, dropped = _thinned(_ends(lin, runs), most)
    for end in ends + _special(lin, runs, first):
        reasons.setdefault(end.at, []).append(end.reason)
    found = [Layer(lin.name(tensors[v]), _sizes(v), "; ".join(reasons[v])) for v in tensors if v in reasons]
    if _elements(first) == _elements(last) and found:
        found.append(Layer(lin.name(goal), _sizes(last), "the explained output, of the size of the input"))
    if not found:
        found = [Layer(lin.name(goal), _sizes(last), "the explained output: no layer stands between it and the input")]
    return found, dropped


def _runs(lin: Linearised, first: Var, last: Var) -> Iterator[_Run]:
    """The runs from ``first``, whose tensors the first one lacks, to ``last``, which the last one has not either."""
    trunk = {v: own[0] for v in separators(lin, first, last) if (own := tensors_of(lin, v))}
    run, before, step = _Run(), first, []
    for e in between_two(lin, first, last):
        step.append(e)
        if e.out not in trunk and e.out is not last:
            continue
        if any(isinstance(s.primitive, _CONTRACTIONS) for s in step):
            yield run
            run = _Run(
                _carried(step, before, e.out),
                any(_mixes(s) for s in step),
                any(isinstance(s.primitive, lp.Conv) for s in step),
            )
        if e.out is not last:
            run.tensors.append((e.out, trunk[e.out]))
        before, step = e.out, []
    run.tensors = [(v, t) for v, t in run.tensors if not _same_but_constants(lin, v, last)]
    yield run


def _ends(lin: Linearised, runs: Sequence[_Run]) -> list[_End]:
    """Where stages and blocks end. What stands in front of the first contraction is the input, the last contraction
    the head where nothing but the explained output follows it."""
    stages: list[list[_Run]] = []
    for before, run in zip([None, *runs[1:]], runs[1:], strict=False):
        if run.tensors and (before is None or (_begins(run) != _begins(before) and not run.carried)):
            stages.append([])
        if run.tensors:
            stages[-1].append(run)
    found = []
    for number, stage in enumerate(stages, 1):
        for place, run in enumerate(_blocks(stage, alone=len(stages) == 1), 1):
            if run is stage[-1]:
                found.append(_End(_end_of(lin, run), f"end of stage {number} of {len(stages)}", True))
            else:
                found.append(_End(_end_of(lin, run), f"end of block {place} of stage {number}", False))
    return found


def _blocks(stage: Sequence[_Run], alone: bool) -> list[_Run]:
    """The runs of a stage that end a block: the last one always."""
    behind = [*stage[1:], None]
    if any(run.carried for run in stage):
        mixed = any(run.mixing for run in stage if run.carried)
        return [r for r, n in zip(stage, behind, strict=True) if n is None or not n.carried or n.mixing or not mixed]
    vectors = all(len(_spread(v)) < 2 for run in stage for v, _ in run.tensors)
    return list(stage) if vectors or alone else list(stage[-1:])


def _special(lin: Linearised, runs: Sequence[_Run], first: Var) -> list[_End]:
    """The last convolution, the penultimate layer, the bottleneck."""
    found: list[_End] = []
    last = max((i for i, run in enumerate(runs) if run.convolution), default=None)
    if last is not None and not any(run.mixing and not run.convolution for run in runs[last:]):
        held = [v for v, _ in runs[last].tensors if len(_spread(v)) > 1]
        if held:
            found.append(_End(_not_moved(lin, held), "last convolution"))
        elif not runs[last].tensors and last > 1 and runs[last - 1].tensors:
            found.append(_End(_end_of(lin, runs[last - 1]), "read by the last convolution"))
    if len(runs) > 2 and runs[-2].tensors:
        found.append(_End(_end_of(lin, runs[-2]), "penultimate: read by the last matrix product"))
    inner = [run for run in runs[1:] if run.tensors]
    narrow = min(inner, key=_width, default=None)
    if narrow is not None and 2 * _width(narrow) <= _elements(first):
        behind = runs[runs.index(narrow) + 1 :]
        if any(not run.carried and run.tensors and _width(run) >= 2 * _width(narrow) for run in behind):
            found.append(_End(_end_of(lin, narrow), f"bottleneck: {_width(narrow)} values"))
    return found


def _begins(run: _Run) -> list[int]:
    return _spread(run.tensors[0][0]) if run.tensors else []


def _width(run: _Run) -> int:
    return min(_elements(v) for v, _ in run.tensors)


def _end_of(lin: Linearised, run: _Run) -> Var:
    return _not_moved(lin, [v for v, _ in run.tensors])


def _not_moved(lin: Linearised, variables: Sequence[Var]) -> Var:
    """The last of them before what only changes the shape."""
    chosen = variables[-1]
    for v in variables[-2::-1]:
        if not only_moved(lin, v, chosen):
            break
        chosen = v
    return chosen


def _thinned(ends: list[_End], most: int) -> tuple[list[_End], int]:
    """At most ``most`` of them: blocks go before stages, what stays is spread evenly, with the last. And how many were
    left out."""
    stages, blocks = [e for e in ends if e.stage], [e for e in ends if not e.stage]
    kept = _spread_evenly(stages, most)
    kept += _spread_evenly(blocks, most - len(kept))
    return [e for e in ends if e in kept], len(ends) - len(kept)


def _spread_evenly(ends: list[_End], count: int) -> list[_End]:
    if len(ends) <= count:
        return ends
    return [ends[(i + 1) * len(ends) // count - 1] for i in range(count)]


def _same_but_constants(lin: Linearised, v: Var, last: Var) -> bool:
    """Whether the output differs from a tensor by constants and its form only: a product whose bias is to come."""
    equations = [e.primitive for e in between_two(lin, v, last)]
    return all(isinstance(p, _CARRYING) or (isinstance(p, lp.Scale) and p.coefficient.const) for p in equations)


def _carried(step: Sequence[Equation], before: Var, behind: Var) -> bool:
    """Whether a path without contraction or factor leads from one to the other."""
    reached = {before}
    for e in step:
        if isinstance(e.primitive, _CARRYING) and any(x in reached for x in e.inputs):
            reached.add(e.out)
    return behind in reached


def _mixes(e: Equation) -> bool:
    """Whether an equation brings places together: not so a matrix product over the last axis with constants, which acts
    on the features of each."""
    p = e.primitive
    if isinstance(p, lp.MatMul):
        return p.left or not p.weight.const
    if isinstance(p, lp.Einsum):
        return not p.weight.const
    if isinstance(p, lp.Conv):
        return not p.window.trivial
    return isinstance(p, _MIXING)


def _spread(v: Var) -> list[int]:
    """The sizes behind the batch axis that are not 1, in order of size."""
    return sorted(d for d in _sizes(v)[1:] if d != 1)


def _sizes(v: Var) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in v.shape)  # (sizes that depend on values count as one)


def _elements(v: Var) -> int:
    return math.prod(_sizes(v))
