"""Scan: the body is linearised once, for any step; its coefficients are computed step by step.

Where a state starts as a constant and depends on the explained input later, the body is linearised once more with the
constant, for the first step. A state that is still a constant behind that step is c * o, with o the mean of the ones
of what the Scan reads, over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.graph.step import Step
from omenn_onnx.graph.zeros import is_zero
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder, join_shapes
from omenn_onnx.linear.program import Lane, Var


@dataclass
class _Carried:
    """A tensor of the body that carries: the shape of its ones and its gate rank."""

    tensor: Tensor
    ones: Shape
    rank: int


@rule("Scan", "Loop")
def scan(p: Calculus, node: Node, *operands: Operand) -> list[Pair | None]:
    """(s', y_t) = body(s, x_t) with what the body captures the same at every step."""
    step = node.step
    if not isinstance(step, Step):
        raise OutsideCalculus(node.refusal or "its body is not known")
    count = len(step.states)
    captured = [t for t in dict.fromkeys(node.captured) if t in p.pairs]
    sequences: list[tuple[int, Pair]] = []
    for k, (o, s) in enumerate(zip(operands[count:], step.sequences, strict=False)):
        if o.pair is not None:
            ones = o.pair.ones
            full = tuple(d if i != s.axis else o.shape[s.axis] for i, d in enumerate(ones.shape))
            sequences.append((k, Pair(o.pair.value, p.build.broadcast(ones, full), o.pair.rank)))
    carried: list[_Carried | None] = [
        None if o.pair is None else _Carried(t, o.pair.ones.shape, o.pair.rank)
        for o, t in zip(operands[:count], step.states, strict=True)
    ]
    read = [
        _Carried(step.inputs[k], _without(pair.ones.shape, step.sequences[k].axis), pair.rank) for k, pair in sequences
    ]
    shared = [_Carried(t, p.pairs[t].ones.shape, p.pairs[t].rank) for t in captured]
    started = {c.tensor: c for c in carried if c is not None}
    late = len(started) < count
    if late:  # what the states are behind the first step
        own = {c.tensor: _pair(c) for c in (*started.values(), *read, *shared)}
        found = _linearised(p, step, own, Builder(step.emit)).pairs
        for k, (t, new) in enumerate(zip(step.states, step.new_states, strict=True)):
            if t not in started and new in found:
                carried[k] = _behind(t, found[new])
    inner, pairs = _fixed_point(p, step, carried, read, shared)
    results = {t: pair for t in (*step.new_states, *step.outputs) if (pair := inner.pairs.get(t)) is not None}
    if late and any(c is not None and c.tensor not in started for c in carried):
        own = {t: pair for t, pair in pairs.items() if t in started or t not in step.states}
        own |= {t: Pair(pairs[t].value, pairs[t].ones, c.rank) for t, c in started.items()}
        first = _linearised(p, step, own, inner.build).pairs
        results = {t: _either(inner, step.first, first.get(t), pair) for t, pair in results.items()}
    others: list[tuple[Var, int | None]] = [(q.ones, step.sequences[k].axis) for k, q in sequences]
    others += [(o.pair.ones, None) for o in operands[:count] if o.pair is not None]
    others += [(p.pairs[t].ones, None) for t in captured]
    initial = _initial(p, operands[:count], carried, others)
    return _recurrence(p, node, step, inner, pairs, results, carried, read, shared, initial, sequences, captured)


def _pair(c: _Carried) -> Pair:
    return Pair(Var(c.tensor.shape or ()), Var(c.ones), c.rank)


def _behind(state: Tensor, new: Pair) -> _Carried:
    """A state as it is behind a step."""
    shape = state.shape or ()
    if new.ones.rank != len(shape):
        raise OutsideCalculus("the rank of one of its states changes")
    return _Carried(state, tuple(1 if a == 1 else d for a, d in zip(new.ones.shape, shape, strict=True)), new.rank)


def _linearised(p: Calculus, step: Step, pairs: dict[Tensor, Pair], build: Builder) -> Calculus:
    """The body, given the pairs of what it reads."""
    inner = Calculus(step.graph, step.emit, p.tangent, p.opaque, step.view)
    inner.build = build
    inner.pairs.update(pairs)
    for node in step.nodes:
        inner.linearise(node)
    return inner


def _either(inner: Calculus, at_first: Tensor, first: Pair | None, later: Pair) -> Pair:
    """A tensor of the body at the first step and at all others."""
    if first is None or (first.value is later.value and first.ones is later.ones):
        return later
    no = inner.emit.op("Not", at_first, shape=())
    shape = join_shapes([first.value.shape, later.value.shape])
    ones = join_shapes([first.ones.shape, later.ones.shape])
    choose, add = inner.build.select, inner.build.add
    return Pair(
        add([choose(first.value, at_first, shape), choose(later.value, no, shape)], shape),
        add([choose(first.ones, at_first, ones), choose(later.ones, no, ones)], ones),
        min(first.rank, later.rank),
    )


def _fixed_point(
    p: Calculus, step: Step, carried: list[_Carried | None], read: Sequence[_Carried], shared: Sequence[_Carried]
) -> tuple[Calculus, dict[Tensor, Pair]]:
    """Linearise the body until the states behind a step have the form of those before it: which of them carry, along
    which axes their ones vary, and their gate ranks."""
    for _ in range(sum((t.rank or 0) + 8 for t in step.states) + 2):
        pairs = {c.tensor: _pair(c) for c in (*(c for c in carried if c is not None), *read, *shared)}
        inner = _linearised(p, step, pairs, Builder(step.emit))
        changed = False
        for k, (old, t, new) in enumerate(zip(carried, step.states, step.new_states, strict=True)):
            pair = inner.pairs.get(new)
            if pair is None:
                continue
            shape = t.shape or ()
            if pair.ones.rank != len(shape):
                raise OutsideCalculus("the rank of one of its states changes")
            before = old.ones if old is not None else (1,) * len(shape)
            ones = tuple(1 if a == b == 1 else d for a, b, d in zip(before, pair.ones.shape, shape, strict=True))
            rank = pair.rank if old is None else min(old.rank, pair.rank)
            if old is None or ones != before or rank != old.rank:
                carried[k], changed = _Carried(t, ones, rank), True
        if not changed:
            p.opaque_nodes += inner.opaque_nodes
            for op, times in inner.used.items():
                p.used[op] = p.used.get(op, 0) + times
            return inner, pairs
    raise OutsideCalculus("no form of its states is kept by its body")


def _initial(
    p: Calculus,
    operands: Sequence[Operand],
    carried: Sequence[_Carried | None],
    others: Sequence[tuple[Var, int | None]],
) -> list[Pair | None]:
    """The pairs that the states start with."""
    found: list[Pair | None] = []
    for o, c in zip(operands, carried, strict=True):
        if c is None:
            found.append(None)
        elif o.pair is not None:
            wide = tuple(a if b == 1 else d for a, b, d in zip(o.pair.ones.shape, c.ones, o.shape, strict=True))
            found.append(Pair(o.pair.value, p.build.broadcast(o.pair.ones, wide)))
        else:
            ones = p.average([_mean(p, v, axis, o.shape) for v, axis in others])
            wide = tuple(1 if b == 1 else d for b, d in zip(c.ones, o.shape, strict=True))
            value = Var(o.shape) if is_zero(o.t) else p.bias(None, o.t, ones, o.shape)
            found.append(Pair(value, p.build.broadcast(p.build.mean(ones, _apart(ones.shape, wide)), wide)))
    return found


def _mean(p: Calculus, ones: Var, axis: int | None, shape: Shape) -> Var:
    """The mean of ones over the steps and over all axes but those, in front of the last, of a state's own sizes (a
    batch)."""
    if axis is not None:
        ones = p.build.mean(ones, [axis])
        ones = p.build.reshape(ones, _without(ones.shape, axis))
    kept: dict[int, int] = {}  # axis of the state: axis of the ones
    for i, d in enumerate(shape[:-1]):
        places = [i] if ones.rank == len(shape) else range(ones.rank - 1)
        found = [k for k in places if ones.shape[k] == d != 1 and k not in kept.values()]
        if len(found) == 1:
            kept[i] = found[0]
    rest = [k for k in range(ones.rank) if k not in kept.values()]
    mean = p.build.permute(p.build.mean(ones, rest), [*kept.values(), *rest])
    return p.build.reshape(mean, tuple(d if i in kept else 1 for i, d in enumerate(shape)))


def _apart(a: Shape, b: Shape) -> list[int]:
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def _without(shape: Shape, axis: int) -> Shape:
    return tuple(d for i, d in enumerate(shape) if i != axis)


def _recurrence(
    p: Calculus, node: Node, step: Step, inner: Calculus, pairs: dict[Tensor, Pair], results: dict[Tensor, Pair],
    carried: Sequence[_Carried | None], read: Sequence[_Carried], shared: Sequence[_Carried],
    initial: Sequence[Pair | None], sequences: Sequence[tuple[int, Pair]], captured: Sequence[Tensor],
) -> list[Pair | None]:  # fmt: skip
    """Both streams of all states, sequences and captured tensors as one primitive."""
    before: list[Var] = []
    behind: list[Var | None] = []
    inputs: list[Var] = []
    shapes: list[Shape] = []
    present: list[bool] = []
    known = {pair.value for pair in p.pairs.values()}
    for c, start, new in zip(carried, initial, step.new_states, strict=True):
        if c is None or start is None:
            continue
        own, pair = pairs[c.tensor], results.get(new)
        before += [own.value, own.ones]
        behind += (
            [None, None] if pair is None else [_wide(inner, pair.value, own.value), _wide(inner, pair.ones, own.ones)]
        )
        zero = start.value.definition is None and start.value not in known
        present += [not zero, True]
        inputs += [start.ones] if zero else [start.value, start.ones]
        shapes += [start.value.shape, start.ones.shape]
    lanes: list[Lane] = []
    for c, (k, pair) in zip(read, sequences, strict=True):
        s, own = step.sequences[k], pairs[c.tensor]
        lanes += [Lane(own.value, s.axis, s.backwards), Lane(own.ones, s.axis, s.backwards)]
        inputs += [pair.value, pair.ones]
    kept: list[Var] = []
    for c, t in zip(shared, captured, strict=True):
        kept += [pairs[c.tensor].value, pairs[c.tensor].ones]
        inputs += [p.pairs[t].value, p.pairs[t].ones]
    outputs: list[Lane] = []
    found: list[Shape] = []
    count = len(step.states)
    for t, out, (axis, backwards) in zip(step.outputs, node.outputs[count:], step.output_axes, strict=True):
        y = results.get(t)
        if y is None:
            continue
        shape = out.shape
        if shape is None:
            raise OutsideCalculus("the rank of one of its outputs is not known")
        value = inner.build.broadcast(y.value, t.shape or ())
        ones = tuple(
            d if i == axis else (1 if o == 1 else d)
            for i, (o, d) in enumerate(zip(_with(y.ones.shape, axis), shape, strict=True))
        )
        outputs += [Lane(value, axis, backwards), Lane(y.ones, axis, backwards)]
        found += [shape, ones]
    primitive = lp.Recurrence(
        step, tuple(inner.build.equations), tuple(before), tuple(behind), tuple(lanes), tuple(kept), tuple(outputs),
        tuple(shapes), (*present, *[True] * (2 * len(sequences) + 2 * len(captured))),
    )  # fmt: skip
    parts = iter(p.build.parts(primitive, inputs, [*shapes, *found]))
    result: list[Pair | None] = []
    for c, new in zip(carried, step.new_states, strict=True):
        if c is None:
            result.append(None)
            continue
        value_part, ones_part = next(parts), next(parts)
        last = results.get(new)
        result.append(None if last is None else Pair(value_part, ones_part, last.rank))
    for t in step.outputs:
        y = results.get(t)
        result.append(None if y is None else Pair(next(parts), next(parts), y.rank))
    return result


def _with(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], 0, *shape[axis:])


def _wide(inner: Calculus, v: Var, like: Var) -> Var:
    """v at the shape of the state before the step."""
    return inner.build.broadcast(v, tuple(b if a == 1 else a for a, b in zip(v.shape, like.shape, strict=True)))
