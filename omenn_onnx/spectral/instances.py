"""A model cut open: its values and operators at one input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from omenn_onnx.errors import NameNotFound, NoPath, OperatorError
from omenn_onnx.graph.files import LoadedModel, load_model
from omenn_onnx.graph.fixed import fix_sizes, settle_defaults
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.linear.program import needed
from omenn_onnx.linearise import Linearised, linearise
from omenn_onnx.runtime import feeds as fed
from omenn_onnx.runtime.engines import Held, OrtEngine, infos_of
from omenn_onnx.runtime.sessions import Model, Providers, describe, on_cuda
from omenn_onnx.spectral.graphs import OperatorGraphs, bypass, operator_graphs, value_graph
from omenn_onnx.spectral.operators import InstanceOperator
from omenn_onnx.spectral.original import Choices, is_compiled, take_out

Array = NDArray[Any]

_SIZES = 8
"""Sets of input shapes that a model stays linearised for."""
_KEPT_BYTES, _KEPT_LEAST, _KEPT_MOST = 10**9, 2, 64
"""Operators of a model that stay ready: so many bytes of their graphs, each of which holds the weights between its ends
(and again once it has run), and how many they are at least and at most."""


class Linearization:
    """A model that is linear at each instance:  target = R source + bias  between any two tensors X leads through.

    ``model``: a path, bytes or ModelProto, an original model or one that omenn-compile made (what that was told holds
    here too, but for the rules). ``rules``: "tangent" (gradients, SpecXAI's) or "secant" (OMENN's). ``inputs``,
    ``output``, ``channel_axis``, ``opaque``, ``dtype``: as :func:`omenn_onnx.compile` takes them; ``providers`` as
    ``Explainer``. Graphs are made once for each pair of tensors and each set of input shapes, coefficients once for
    each instance.
    """

    def __init__(
        self,
        model: Model,
        *,
        rules: str = "tangent",
        inputs: Sequence[str] | str = (),
        output: str | None = None,
        channel_axis: int | Mapping[str, int] | None = None,
        dtype: str | None = None,
        opaque: Sequence[str] | str = (),
        providers: Providers = None,
    ) -> None:
        self._loaded = load_model(model)
        said = Choices()
        if is_compiled(self._loaded.proto):
            said = take_out(self._loaded.proto, describe(model))
        names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        refused = (opaque,) if isinstance(opaque, str) else tuple(opaque)
        axis = {"": channel_axis} if isinstance(channel_axis, int) else dict(channel_axis or {})
        self.rules, self.dtype, self.providers = rules, dtype or said.dtype, providers
        self._said = Choices(names or said.inputs, output or said.output, axis or said.axes, refused or said.opaque)
        self.inputs, self._optional = infos_of(self._loaded.proto)
        self._sized: OrderedDict[tuple[Any, ...], Sized] = OrderedDict()

    def at(self, feeds: Any) -> Instance:
        """The instance of these inputs: a dictionary by name, or the array of the only input. Raises FeedError (names,
        shapes, types, NaN or Inf) and what compiling raises."""
        given = fed.by_name(feeds, self.inputs)
        fed.check_names(given, self.inputs, self._optional)
        known = {i.name: i for i in (*self.inputs, *self._optional)}
        ready = {name: Held(fed.checked(value, known[name], None)).numpy() for name, value in given.items()}
        return Instance(self._for({n: tuple(np.shape(v)) for n, v in ready.items()}), ready)

    def _for(self, shapes: Mapping[str, tuple[int, ...]]) -> Sized:
        key = tuple(sorted(shapes.items()))
        if key not in self._sized:
            loaded = LoadedModel(ModelProto(), self._loaded.path, self._loaded.folder, self._loaded.weight_bytes)
            loaded.proto.CopyFrom(self._loaded.proto)
            settle_defaults(loaded.proto, shapes)
            fix_sizes(loaded.proto, shapes)
            s = self._said
            explained = s.inputs
            changed = {i.name for i in self._optional} & set(shapes)
            if changed and not explained:  # an input with a default is not explained, fed or not
                plain = self._for({n: size for n, size in shapes.items() if n not in changed}).lin
                explained = tuple(plain.name(t) for t in plain.sources)
            device = "cuda" if on_cuda(self.providers) else "cpu"
            lin = linearise(loaded, explained, s.output, self.rules, s.axes, self.dtype, s.opaque, provider=device)
            self._sized[key] = Sized(lin, str(loaded.folder or ""), self.providers)
        self._sized.move_to_end(key)
        while len(self._sized) > _SIZES:
            self._sized.popitem(last=False)
        return self._sized[key]


class Segment:
    """The graphs between two tensors, ready to run."""

    def __init__(self, graphs: OperatorGraphs, names: tuple[str, str], dtype: Any, providers: Providers) -> None:
        self.graphs, self.dtype = graphs, dtype
        self.source, self.target = names
        self._providers = providers
        self._coefficients = None if graphs.coefficients is None else OrtEngine(graphs.coefficients, providers)

    @cached_property
    def bytes(self) -> int:
        """What its graphs take as they are stored."""
        parts = (self.graphs.coefficients, self.graphs.forward, self.graphs.adjoint)
        return sum(part.ByteSize() for part in parts if part is not None)

    @cached_property
    def forward(self) -> OrtEngine:
        """What runs the forward graph, made on first use: each of the two holds the weights between the ends."""
        return OrtEngine(self.graphs.forward, self._providers, spinning=False)

    @cached_property
    def adjoint(self) -> OrtEngine:
        """What runs the adjoint graph."""
        return OrtEngine(self.graphs.adjoint, self._providers, spinning=False)

    def coefficients(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All that the graphs take, at these inputs, where it lies."""
        found: dict[str, Any] = dict(feeds)
        if self._coefficients is not None:
            needed = {i.name: feeds[i.name] for i in self._coefficients.inputs}
            for name, held in self._coefficients.run(needed).held.items():
                found[name] = held.numpy() if held.ortvalue is None else held.ortvalue
        return found

    def flat(self, coefficients: Mapping[str, Any], name: str | None) -> Array:
        """A tensor of those as a vector of the explanation's type; None: the zero bias."""
        if name is None:
            return np.zeros(int(np.prod(self.shapes(coefficients)[1], dtype=np.int64)), self.dtype)
        value: Array = np.asarray(Held(coefficients[name]).numpy())
        return value.astype(self.dtype).reshape(-1)

    def shapes(self, coefficients: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of both ends: as they are declared or, where a size depends on values, as these are."""
        g = self.graphs
        return self._shape(coefficients, g.source, g.source_shape), self._shape(coefficients, g.target, g.target_shape)

    def _shape(self, coefficients: Mapping[str, Any], name: str | None, declared: Shape) -> tuple[int, ...]:
        if all(isinstance(d, int) for d in declared):
            return tuple(int(d) for d in declared)
        if name is None:
            raise OperatorError(f"sizes on the way to {self.target!r} depend on values: {list(declared)}")
        return tuple(int(d) for d in np.shape(Held(coefficients[name]).numpy()))


class Sized:
    """A linearised model of known sizes, with the segments that were asked for last."""

    def __init__(self, lin: Linearised, folder: str, providers: Providers) -> None:
        self.lin, self.providers = lin, providers
        self.folder = folder
        self._segments: OrderedDict[tuple[Hashable, ...], Segment] = OrderedDict()
        self._values: dict[tuple[str, ...], OrtEngine] = {}

    def carrier(self, name: str | None, end: str) -> Tensor:
        """The tensor of that name, which must depend on the explained input; by default the explained one."""
        lin = self.lin
        if name is None:
            if end == "target":
                return lin.output
            if len(lin.sources) > 1:
                named = ", ".join(repr(lin.name(t)) for t in lin.sources)
                raise OperatorError(f"several tensors are explained ({named}): say which one is the source")
            return next(iter(lin.sources))
        inside = {lin.name(t): t for t in (*lin.sources, lin.output)}  # (one may lie inside an operator of the model)
        t = inside.get(name) or lin.graph.tensors.get(name) or lin.graph.tensors.get(f"{name}/own")
        if t is None:
            raise NameNotFound("tensor", name, (lin.name(t) for t in between(lin)))
        if t not in lin.calculus.pairs:
            why = "is constant" if t.const else "does not depend on it through floating-point arithmetic"
            named = ", ".join(repr(lin.name(s)) for s in lin.sources)
            raise NoPath(f"tensor {name!r} does not lie behind the explained input {named}: it {why}")
        return t

    def segment(self, source: Tensor, target: Tensor) -> Segment:
        """The graphs between two carriers; made on first use."""
        return self.kept((source, target), lambda: operator_graphs(self.lin, source, target, self.folder))

    def kept(self, key: tuple[Hashable, ...], make: Callable[[], OperatorGraphs]) -> Segment:
        """The segment of that key, from the graphs that ``make`` gives when it is not at hand. The two tensors in the
        key are its source and target."""
        if key not in self._segments:
            graphs = make()
            source, target = (t for t in key if isinstance(t, Tensor))
            names = self.lin.name(source), self.lin.name(target)
            self._segments[key] = Segment(graphs, names, self.lin.emit.dtype, self.providers)
        self._segments.move_to_end(key)
        sizes = [segment.bytes for segment in self._segments.values()]
        while len(sizes) > _KEPT_MOST or (len(sizes) > _KEPT_LEAST and sum(sizes) > _KEPT_BYTES):
            self._segments.popitem(last=False)
            del sizes[0]
        return self._segments[key]

    def values(self, names: tuple[str, ...], given: str = "") -> OrtEngine:
        """What computes tensors of the model, all in its file's names; with the tensor ``given`` as a further input."""
        key = (*names, "", given)
        if key not in self._values:
            made = value_graph(self.lin, names, self.folder, [given] if given else [])
            self._values[key] = OrtEngine(made, self.providers)
        return self._values[key]


class Instance:
    """A model at one input. Made by :meth:`Linearization.at`."""

    def __init__(self, sized: Sized, feeds: Mapping[str, Any]) -> None:
        self._sized, self.feeds = sized, dict(feeds)

    @property
    def sized(self) -> Sized:
        """The linearised model of these sizes."""
        return self._sized

    @property
    def sources(self) -> list[str]:
        """The explained inputs."""
        return [self._sized.lin.name(t) for t in self._sized.lin.sources]

    @property
    def source(self) -> str:
        """The explained input. Raises OperatorError where there are several."""
        return self._sized.lin.name(self._sized.carrier(None, "source"))

    @property
    def target(self) -> str:
        """The explained output."""
        return self._sized.lin.name(self._sized.lin.output)

    def operator(self, source: str | None = None, target: str | None = None) -> InstanceOperator:
        """The operator from ``source`` (default: the explained input) to ``target`` (the explained output).

        Raises NameNotFound, NoPath where the target does not depend on the source, UnsupportedOperators.
        """
        ends = self._sized.carrier(source, "source"), self._sized.carrier(target, "target")
        segment = self._sized.segment(*ends)
        return InstanceOperator(self, segment, segment.coefficients(self.feeds))

    def value(self, name: str) -> Array:
        """The value of a tensor of the model, in its own shape."""
        return self.values([name])[name]

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """The values of tensors of the model, in one run."""
        tensors = {name: self._sized.carrier(name, "tensor").name for name in names}
        inner = tuple(dict.fromkeys(n for n in tensors.values() if n not in self.feeds))
        found: Mapping[str, Any] = self.feeds
        if inner:
            engine = self._sized.values(inner)
            results = engine.run({i.name: self.feeds[i.name] for i in engine.inputs})
            found = {**self.feeds, **{n: results[n] for n in inner}}
        return {name: np.asarray(found[inside]) for name, inside in tensors.items()}

    def bypass(self, start: str, second: InstanceOperator, other: Instance) -> str | None:
        """The tensor by which a path leads from ``start`` to the end of ``second`` past its beginning, or None. Raises
        OperatorError where ``second`` belongs to another instance."""
        same = self._sized is other._sized and all(np.array_equal(v, other.feeds[n]) for n, v in self.feeds.items())
        if not same:
            raise OperatorError(
                "these operators belong to different instances: make both of one model, with the same rules, at the "
                "same input"
            )
        ends = self._sized.carrier(start, "source"), self._sized.carrier(second.source, "source")
        past = bypass(self._sized.lin, *ends, self._sized.carrier(second.target, "target"))
        return None if past is None else self._sized.lin.name(past)

    def channel_axis(self, name: str) -> int:
        """The axis of a tensor along which its features stand. Raises as ``value``."""
        return self._sized.lin.channel_axis(self._sized.carrier(name, "tensor"))

    def carriers(self) -> list[str]:
        """The tensors that the explained output depends on and that depend on the explained input, in order."""
        return [self._sized.lin.name(t) for t in between(self._sized.lin)]


def between(lin: Linearised) -> list[Tensor]:
    """The model's tensors on linear paths from the explained inputs to the explained output, in order."""
    end = lin.calculus.pairs[lin.output].value
    used = {e.out for e in needed(lin.equations, [end])} | {lin.calculus.pairs[t].value for t in lin.sources}
    own = {id(t) for t in (*lin.graph.tensors.values(), *lin.sources, lin.output)}
    return [t for t, p in lin.calculus.pairs.items() if p.value in used and id(t) in own]
