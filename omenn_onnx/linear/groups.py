"""Ones that are equal over groups of channels are carried once a group.

Where streams of one value each are concatenated along channels, the ones stream would become as wide as the values,
and so would its cotangents. Here it stays one channel a group, [N, groups, ...], and is widened by the 0/1 matrix of
the groups for each equation that needs it whole. Transposed, each cotangent is summed group by group (with the bias in
front folded in: one narrow product) before anything is added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var, Window


@dataclass(frozen=True, slots=True)
class _Groups:
    """A variable of ``shape`` that repeats each channel (axis 1) of ``thin`` as often as ``sizes`` says."""

    thin: Var
    sizes: tuple[int, ...]
    shape: Shape


def group_channels(equations: Sequence[Equation], wanted: Iterable[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with what is equal over groups of channels carried once a group."""
    held: dict[Var, _Groups] = {}
    for e in equations:
        build.owner = e.owner
        found = _concatenated(build, e, held) if isinstance(e.primitive, lp.Concat) else _kept(build, e, held)
        if found is not None:
            held[e.out] = found
            continue
        given = [_widened(build, held[x]) if x in held else x for x in e.inputs]
        if all(a is b for a, b in zip(given, e.inputs, strict=True)):
            build.equations.append(e)
        else:
            build.write(e.primitive, given, e.out, e.bias)
    for v in wanted:
        if v in held:
            build.write(lp.Broadcast(), [_widened(build, held[v])], v)


def _concatenated(build: Builder, e: Equation, held: dict[Var, _Groups]) -> _Groups | None:
    """Streams that are one channel repeated, or groups already, side by side."""
    assert isinstance(e.primitive, lp.Concat)
    if e.primitive.axis != 1 or e.out.rank < 3:
        return None
    parts: list[_Groups] = []
    for x in e.inputs:
        part = held.get(x) or _repeated(x)
        if part is None:
            return None
        parts.append(part)
    sizes = tuple(n for p in parts for n in p.sizes)
    if max(sizes) == 1:
        return None
    around = {(p.thin.shape[0], *p.thin.shape[2:]) for p in parts}
    front, *rest = around.pop() if len(around) == 1 else (e.out.shape[0], *e.out.shape[2:])
    thins = [build.broadcast(p.thin, (front, len(p.sizes), *rest)) for p in parts]
    return _Groups(build.concat(thins, 1, (front, len(sizes), *rest)), sizes, e.out.shape)


def _repeated(x: Var) -> _Groups | None:
    """A variable that repeats one channel, of known number; or is one."""
    d = x.definition
    size = x.shape[1] if x.rank > 1 else 0
    if d is not None and isinstance(d.primitive, lp.Broadcast) and isinstance(size, int) and d.inputs[0].shape[1] == 1:
        return _Groups(d.inputs[0], (size,), x.shape)
    return _Groups(x, (1,), x.shape) if size == 1 else None


def _kept(build: Builder, e: Equation, held: dict[Var, _Groups]) -> _Groups | None:
    """What treats all channels of a group alike leaves groups; a sum over channels is written from them at once."""
    p, given = e.primitive, [held.get(x) for x in e.inputs]
    first = given[0] if given else None
    if first is None or (len(given) > 1 and any(g is None or g.sizes != first.sizes for g in given)):
        return None
    thin, shape = first.thin, (first.thin.shape[0], len(first.sizes), *e.out.shape[2:])
    if isinstance(p, lp.Add):
        others = [g.thin for g in given if g is not None]
        if any(t.shape != thin.shape for t in others):
            return None
        return _Groups(build.apply(p, others, thin.shape), first.sizes, e.out.shape)
    if isinstance(p, lp.Scale):
        c = p.coefficient.shape
        if c is None or (len(c) >= e.out.rank - 1 and c[1 - e.out.rank] != 1):
            return None
        whole = build.broadcast(thin, (e.out.shape[0], *shape[1:]))
        return _Groups(build.scale(whole, p.coefficient, bias=e.bias), first.sizes, e.out.shape)
    if isinstance(p, lp.Broadcast) and e.out.shape[1] == first.shape[1]:
        return _Groups(thin, first.sizes, e.out.shape) if shape == thin.shape else None
    if isinstance(p, lp.WindowSum) and e.out.rank - len(p.window.kernel) > 1 and thin.shape[2:] == first.shape[2:]:
        return _Groups(build.apply(p, [thin], shape), first.sizes, e.out.shape)
    if isinstance(p, lp.Sum) and e.out.shape[1] == 1 and thin.shape[2:] == first.shape[2:]:
        meet = e.out.shape[0] != first.shape[0]
        if meet and thin.shape[0] != first.shape[0]:  # (rows that are not there yet)
            return None
        rows = e.out.shape[0] if meet else thin.shape[0]
        counts = np.asarray(first.sizes, build.emit.dtype).reshape(-1, *[1] * (e.out.rank - 2))
        weighted = build.scale(thin, build.emit.const(counts))
        build.write(lp.Broadcast(), [build.sum_to(weighted, (rows, *e.out.shape[1:]))], e.out, e.bias)
        return _Groups(e.out, (1,), e.out.shape)
    return None


def _widened(build: Builder, g: _Groups) -> Var:
    """The variable itself: a product of the channels with the matrix of the groups."""
    if g.sizes == (1,):
        return build.broadcast(g.thin, g.shape)
    n = len(g.shape) - 2
    matrix = membership(build.emit, g.sizes)
    sizes = (sum(g.sizes), len(g.sizes), *[1] * n)
    kernel = build.emit.op("Reshape", matrix, list(sizes), shape=sizes)
    window = Window((1,) * n, (1,) * n, (0,) * (2 * n), (1,) * n)
    wide = build.apply(lp.Conv(kernel, window), [g.thin], (g.thin.shape[0], sum(g.sizes), *g.thin.shape[2:]))
    return build.broadcast(wide, g.shape)


def membership(emit: Emitter, sizes: Sequence[int]) -> Tensor:
    """[channels, groups], 1 where a channel is of a group: from the groups' ends, so that the file stays small."""
    count, ends = sum(sizes), np.cumsum(np.asarray(sizes, np.int64))
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    line = emit.op("Range", zero, np.asarray(count, np.int64), one, shape=(count,), dtype=np.dtype(np.int64))
    line = emit.op("Reshape", line, [count, 1], shape=(count, 1))
    below = emit.op("Less", line, ends, shape=(count, len(sizes)))
    above = emit.op("GreaterOrEqual", line, ends - np.asarray(sizes, np.int64), shape=(count, len(sizes)))
    return emit.cast(emit.op("And", above, below, shape=(count, len(sizes))))
