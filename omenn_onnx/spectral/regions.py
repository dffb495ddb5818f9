"""Linear regions: how far an instance's operator holds.

Along x + t d, |d| = 1, t is a distance. Where the network is piecewise linear its operator is constant up to the first
decision that comes out otherwise (a Relu's sign, a pool's winner), and since the inputs with equal decisions are a
convex polytope, equal decisions at t say that the operator is the same all the way to t: the border is found by
bisection, to the resolution that is asked for, whatever the operators are. Where coefficients change smoothly (GELU,
attention, norms) there are no regions, and what can be told is how fast the operator changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ValueInfoProto

from omenn_onnx.errors import OperatorError
from omenn_onnx.graph.extract import extract
from omenn_onnx.runtime.engines import OrtEngine
from omenn_onnx.runtime.progress import progress
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.kinks import Decisions, decisions
from omenn_onnx.spectral.operators import Array, InstanceOperator

RESOLUTION = 1e-6
"""Width of the interval that a border is narrowed down to, in units of its distance."""
_FAR = 10.0
"""How far is looked by default, in units of |x|."""
_EXACT = 64
"""Rows or columns up to which the change of an operator is computed from its whole matrix; above, from so many:"""
_PROBES = 16
_PARTS = (0.001, 0.01, 0.1)
"""Steps at which a smooth operator is compared with that at x, in units of |x|."""


@dataclass(frozen=True)
class Crossing:
    """A border of linear regions on the way x + t d.

    ``t``: its distance from x, between ``t_before`` (still inside) and ``t``; with ``t_before`` 0 x lies on the border,
    as far as its numbers can tell (windows of equal values in a pool do that). ``switched``: the nodes whose decisions
    come out otherwise behind it, and how many of their decisions do. ``change``: |R' - R| / |R|, Frobenius norms of the
    operators on both sides; 0 where what switched does not count. ``deviation``: what the affine map misses of the
    target just in front of it, in units of the largest |y|: rounding, which says that the map holds up to there.
    """

    t: float
    t_before: float
    switched: dict[str, int]
    change: float
    deviation: float


@dataclass(frozen=True)
class Distances:
    """Distances to the nearest border along directions: ``t`` [n], inf where there is none within ``limit``;
    ``nodes`` [n]: what switches there first."""

    t: Array
    nodes: tuple[tuple[str, ...], ...]
    limit: float

    @property
    def nearest(self) -> float:
        """The least of the distances."""
        return float(self.t.min())

    @property
    def median(self) -> float:
        return float(np.median(self.t))


@dataclass(frozen=True)
class Profile:
    """How the operator changes along x + t d: at each ``t`` [n], ``change`` [n]: |R(x + t d) - R(x)| / |R(x)|, and
    ``deviation`` [n]: |F(x + t d) - (R(x) (x + t d) + b)| / |F(x)|, what the affine map of x misses there."""

    t: Array
    change: Array
    deviation: Array


@dataclass(frozen=True)
class Region:
    """How far the operator of an instance holds, along random directions: the ``distances`` to the next linear region,
    or, where it changes smoothly with the tensors ``smooth``, its ``profile`` along one. ``norm``: |x|."""

    norm: float
    distances: Distances | None
    profile: Profile | None
    smooth: tuple[str, ...]


def region(instance: Instance, source: str | None = None, directions: int = 16, seed: int = 0) -> Region:
    """The surroundings of an instance in short, along so many random directions. Raises as ``Surroundings``."""
    around = Surroundings(instance, source)
    norm = float(np.linalg.norm(around.operator.x))
    if around.piecewise:
        return Region(norm, around.distances(directions, seed=seed), None, ())
    way = np.random.default_rng(seed).normal(size=around.operator.shape[1])
    steps = [part * (norm or 1.0) for part in _PARTS]
    return Region(norm, None, around.profile(way, steps), tuple(around.smooth))


class Surroundings:
    """What is around an instance, seen from the operator between two of its tensors.

    ``source``, ``target``: as for ``Instance.operator``; the source is what is moved, other explained inputs stay.
    ``piecewise``: whether the operator changes at borders only. ``smooth``: the tensors on which it depends in another
    way, none where it is piecewise. What is computed inside a recurrence's loop counts as smooth. Raises NameNotFound,
    NoPath.
    """

    def __init__(self, instance: Instance, source: str | None = None, target: str | None = None) -> None:
        sized = instance.sized
        ends = sized.carrier(source, "source"), sized.carrier(target, "target")
        self._instance, self._start = instance, ends[0]
        self._segment = sized.segment(*ends)
        self.operator = instance.operator(source, target)
        self._decisions: Decisions = decisions(sized.lin, self._segment.graphs, *ends)
        self.piecewise, self.smooth = self._decisions.piecewise, self._decisions.smooth
        self._engines: dict[str, OrtEngine] = {}

    def at(self, x: Array) -> InstanceOperator:
        """The operator where the source has the value ``x`` [D] instead; what does not lie behind it stays as it is."""
        found = dict(self._instance.feeds) | {self._start.name: self._as_source(x)}
        if self._segment.graphs.coefficients is not None:
            asked = [o.name for o in self._segment.graphs.coefficients.graph.output if o.name != self._start.name]
            found |= self._run("coefficients", asked, x)
        return InstanceOperator(self._instance, self._segment, found)

    def crossing(self, direction: Array, limit: float | None = None, resolution: float = RESOLUTION) -> Crossing | None:
        """The nearest border along ``direction`` (of the source's size; its length does not count), None within
        ``limit`` (default: ten times |x|). Raises OperatorError where the operator changes smoothly."""
        found = self.crossings(direction, limit, most=1, resolution=resolution)
        return found[0] if found else None

    def crossings(
        self, direction: Array, limit: float | None = None, most: int = 16, resolution: float = RESOLUTION
    ) -> list[Crossing]:
        """The first ``most`` borders along a direction up to ``limit``, in order."""
        self._need_borders()
        way, reach = self._way(direction), self._limit(limit)
        found: list[Crossing] = []
        begin, here = 0.0, self.operator
        while len(found) < most:
            border = self._border(way, begin, reach, resolution)
            if border is None:
                break
            before, behind, switched = border
            ahead = self.at(self.operator.x + behind * way)
            inside = self.at(self.operator.x + before * way)
            missed = np.abs(inside.y - here.matvec(inside.x) - here.bias).max(initial=0.0)
            scale = max(float(np.abs(inside.y).max(initial=0.0)), 1e-30)
            found.append(Crossing(behind, before, switched, change(here, ahead), float(missed) / scale))
            begin, here = behind, ahead
        return found

    def distances(
        self,
        directions: int | Sequence[Array] | Array = 100,
        limit: float | None = None,
        *,
        seed: int = 0,
        resolution: float = RESOLUTION,
        show: bool | None = None,
    ) -> Distances:
        """The distance to the nearest border along each of some directions, or along so many random ones (uniform on
        the sphere, ``seed``). ``show``: whether to say where it is (None: when it takes long)."""
        self._need_borders()
        if isinstance(directions, int | np.integer):
            if directions < 1:
                raise OperatorError(f"the number of directions must be at least 1, not {directions}")
            random = np.random.default_rng(seed)
            directions = random.normal(size=(int(directions), self.operator.shape[1]))
        ways = [self._way(d) for d in directions]
        reach = self._limit(limit)
        found, nodes = [], []
        with progress("linear regions", len(ways), "direction", show) as done:
            for way in ways:
                border = self._border(way, 0.0, reach, resolution)
                found.append(np.inf if border is None else border[1])
                nodes.append(() if border is None else tuple(border[2]))
                done(1)
        return Distances(np.asarray(found), tuple(nodes), reach)

    def profile(self, direction: Array, steps: int | Sequence[float] = 16, limit: float | None = None) -> Profile:
        """How far the operator at x + t d is from that at x: at these t, or at so many of equal distance up to
        ``limit`` (default |x|). For any network."""
        way = self._way(direction)
        if isinstance(steps, int | np.integer):
            if steps < 1:
                raise OperatorError(f"the number of steps must be at least 1, not {steps}")
            t = np.linspace(0.0, self._limit(limit, 1.0), int(steps) + 1)[1:]
        else:
            t = np.asarray(steps, np.float64).reshape(-1)
        op, changes, missed = self.operator, [], []
        scale = max(float(np.linalg.norm(op.y)), 1e-30)
        for step in t:
            there = self.at(op.x + step * way)
            changes.append(change(op, there))
            missed.append(float(np.linalg.norm(there.y - op.matvec(there.x) - op.bias)) / scale)
        return Profile(t, np.asarray(changes), np.asarray(missed))

    def _border(
        self, way: Array, begin: float, reach: float, resolution: float
    ) -> tuple[float, float, dict[str, int]] | None:
        """The nearest border behind x + begin d: the last t at which decisions are those at ``begin``, the first at
        which they are not, and what switched."""
        if not 0 < resolution < 1:
            raise OperatorError(f"the resolution is between 0 and 1, not {resolution}")
        x = self.operator.x.astype(np.float64)
        if begin >= reach or not self._decisions.deciders:
            return None
        first = self._decided(x + begin * way)
        before, behind = 0.0, None
        step = min((reach - begin), max(1e-3 * reach, 1e-30))
        while behind is None:
            if self._differ(first, self._decided(x + (begin + step) * way)):
                behind = step
            elif step >= reach - begin:
                return None
            else:
                before, step = step, min(4 * step, reach - begin)
        finest = self._finest(way, begin)
        while behind - before > max(resolution * (begin + behind), finest):
            middle = _between(before, behind)
            if self._differ(first, self._decided(x + (begin + middle) * way)):
                behind = middle
            else:
                before = middle
        before = 0.0 if before <= finest else before
        switched: dict[str, int] = {}
        for name, count in self._differ(first, self._decided(x + (begin + behind) * way)).items():
            node = self._decisions.deciders[name]
            switched[node] = switched.get(node, 0) + count
        return begin + before, begin + behind, switched

    def _finest(self, way: Array, begin: float) -> float:
        """The least step along the way that the source's numbers can tell."""
        x = np.abs(self.operator.x + begin * way).max(initial=0.0)
        eps = max(float(np.finfo(t).eps) for t in (self.operator.dtype, self._start.dtype or np.float32))
        return eps * max(float(x), 1e-30) / float(np.abs(way).max())

    def _decided(self, x: Array) -> dict[str, Array]:
        return self._run("decisions", list(self._decisions.deciders), x)

    @staticmethod
    def _differ(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, int]:
        """How many of which decisions came out otherwise."""
        counts = {n: int(np.sum(a[n] != b[n])) if a[n].shape == b[n].shape else max(a[n].size, b[n].size) for n in a}
        return {n: c for n, c in counts.items() if c}

    def _run(self, what: str, names: list[str], x: Array) -> dict[str, Array]:
        """Tensors that the coefficients are made of, with another source."""
        if what not in self._engines:
            model = self._segment.graphs.coefficients
            assert model is not None
            given = [*model.graph.input]
            if all(i.name != self._start.name for i in given):
                given += [o for o in model.graph.output if o.name == self._start.name]
            known = {o.name: o for o in model.graph.output}
            infos = [known[n] if n in known else ValueInfoProto(name=n) for n in names]
            made = extract(model, given, infos)
            self._engines[what] = OrtEngine(made, self._instance.sized.providers)
        engine = self._engines[what]
        feeds = {i.name: self._instance.feeds[i.name] for i in engine.inputs if i.name != self._start.name}
        kind = next(i.dtype for i in engine.inputs if i.name == self._start.name)
        feeds[self._start.name] = self._as_source(x).astype(kind)
        results = engine.run(feeds)
        return {n: np.asarray(results[n]) for n in names}

    def _as_source(self, x: Array) -> Array:
        """x in the source's shape, as its own type holds it."""
        held = np.asarray(x).astype(self._start.dtype or self.operator.dtype).astype(self.operator.dtype)
        return np.asarray(held.reshape(self.operator.source_shape), order="C")

    def _way(self, direction: Array) -> Array:
        """The direction as a unit vector [D], in float64."""
        op = self.operator
        try:
            d = np.asarray(direction, np.float64).reshape(-1)
        except (TypeError, ValueError):
            raise OperatorError("a direction is an array of numbers") from None
        if d.size != op.shape[1]:
            raise OperatorError(f"the direction has {d.size} numbers, {op.source!r} has {op.shape[1]}")
        length = float(np.linalg.norm(d))
        if not np.isfinite(length):
            raise OperatorError("the direction holds NaN or infinite numbers")
        if length == 0:
            raise OperatorError("the direction is zero: it leads nowhere")
        return d / length

    def _limit(self, limit: float | None, units: float = _FAR) -> float:
        if limit is None:
            return units * (float(np.linalg.norm(self.operator.x.astype(np.float64))) or 1.0)
        if not (np.isfinite(limit) and limit > 0):
            raise OperatorError(f"the limit is a positive distance, not {limit}")
        return float(limit)

    def _need_borders(self) -> None:
        if not self.piecewise:
            named = ", ".join(repr(n) for n in self.smooth[:3]) + (", ..." if len(self.smooth) > 3 else "")
            raise OperatorError(
                f"{self.operator.source!r} -> {self.operator.target!r} has no linear regions: its operator changes "
                f"smoothly with {named}; take the profile along the direction instead"
            )


def change(a: InstanceOperator, b: InstanceOperator, seed: int = 0) -> float:
    """|B - A| / |A| in Frobenius norms; estimated from random vectors (``seed``) where neither side has few elements.
    0 for two zero operators, inf from zero to another."""
    rows = a.shape[0] <= a.shape[1]
    count = min(a.shape)
    if count <= _EXACT:
        probes = np.eye(count, dtype=a.dtype)
    else:
        probes = np.random.default_rng(seed).normal(size=(count, _PROBES)).astype(a.dtype)
    first, second = (op.rmatmat(probes) if rows else op.matmat(probes) for op in (a, b))
    size = float(np.linalg.norm(first.astype(np.float64)))
    off = float(np.linalg.norm(second.astype(np.float64) - first))
    return off / size if size else float("inf") if off else 0.0


def _between(before: float, behind: float) -> float:
    """Where to look next: by orders of magnitude while these are open, then in the middle."""
    if before == 0:
        return behind / 16
    return (before + behind) / 2 if behind < 4 * before else float(np.sqrt(before * behind))
