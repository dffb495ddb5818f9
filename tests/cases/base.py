"""How a case of the table is written: the nodes as text, explained inputs as shapes, everything else as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper, parser

Array = np.ndarray
F32 = np.float32


def _mixed(r: np.random.Generator, shape: Sequence[int]) -> Array:
    """Both signs, and some exact zeros."""
    return np.where(r.random(shape) < 0.12, 0.0, r.uniform(-2, 2, shape))


def _masked(r: np.random.Generator, shape: Sequence[int]) -> Array:
    return np.where(r.random(shape) < 0.25, -np.inf, r.uniform(-2, 2, shape))


DRAWS: dict[str, Callable[[np.random.Generator, Sequence[int]], Array]] = {
    "mixed": _mixed,
    "normal": lambda r, s: r.normal(size=s),
    "positive": lambda r, s: r.uniform(0.3, 2, s),
    "unit": lambda r, s: np.where(r.random(s) < 0.12, 0.0, r.uniform(-0.9, 0.9, s)),
    "nonzero": lambda r, s: r.uniform(0.3, 2, s) * r.choice([-1, 1], s),
    "above one": lambda r, s: r.uniform(1.1, 3, s),
    "not negative": lambda r, s: np.abs(_mixed(r, s)),
    "ties": lambda r, s: r.integers(-2, 3, s).astype(float),
    "small": lambda r, s: r.choice([0, 1e-30, -1e-6, 1e-4, -1e-3, 0.02], s),
    "large": lambda r, s: r.uniform(-40, 40, s),
}


@dataclass(frozen=True)
class Fed:
    """A graph input that is not explained. ``grow``: its value at the other size of the dynamic test."""

    value: Array
    dims: str = ""
    grow: Callable[[dict[str, int]], Array] | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """``nodes`` compute y from the explained inputs (name -> shape), constants and fed inputs.

    dyn: for each explained input a letter per axis that is also tested as a symbol, "." for a static axis; its other
    size is one more, or ``other[letter]``. channel: the channel axis of every explained input. draw: how the inputs are
    drawn. runtime: False where ONNX Runtime has no kernel (onnx's reference evaluator runs the file).
    covers: rules that the nodes do not name. declared: a tensor of x's shape, which onnx does not
    infer: the file says it. same_as: nodes (of opset same_opset) that the oracle is given instead; they must
    come to the same.
    """

    name: str
    nodes: str
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, Array]
    fed: dict[str, Fed]
    opset: int = 20
    dyn: dict[str, str] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    channel: int | None = None
    draw: str | dict[str, str] = "mixed"
    dtype: type = np.float32
    rules: tuple[str, ...] = ("secant", "tangent")
    runtime: bool = True
    opaque: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    output: str = "y"
    declared: str = ""
    same_as: str = ""
    same_opset: int = 0

    @property
    def inputs(self) -> list[str]:
        return list(self.shapes)

    def channels(self) -> list[int]:
        """The channel axes to test: the case's own (default 1) first, then others that every explained input has."""
        rank = min(len(s) for s in self.shapes.values())
        first = (1 if rank > 1 else 0) if self.channel is None else self.channel % rank
        return [first, *(a for a in (0, rank - 1, 2) if a != first and a < rank)][: 3 if rank > 2 else 2]

    def sizes(self) -> dict[str, int]:
        """The other size of every symbol."""
        found = {}
        for name, letters in self.dyn.items():
            for letter, size in zip(letters, self.shapes[name], strict=True):
                if letter != ".":
                    found[letter] = self.other.get(letter, size + 1)
        return found

    def feeds(self, other: bool = False) -> dict[str, Array]:
        """Values for every graph input, by the case's name as the seed."""
        sizes = self.sizes() if other else {}
        feeds = {}
        for name, shape in self.shapes.items():
            if other:
                letters = self.dyn.get(name, "." * len(shape))
                shape = tuple(sizes.get(letter, n) for letter, n in zip(letters, shape, strict=True))
            r = np.random.default_rng(crc32(f"{self.name} {name}".encode()))
            draw = self.draw if isinstance(self.draw, str) else self.draw.get(name, "mixed")
            feeds[name] = DRAWS[draw](r, shape).astype(self.dtype)
        for name, f in self.fed.items():
            feeds[name] = f.grow(sizes) if other and f.grow is not None else f.value
        return feeds

    def reference(self, dynamic: bool = False) -> ModelProto:
        """The model that the oracle explains."""
        if not self.same_as:
            return self.model(dynamic)
        return replace(self, nodes=self.same_as, opset=self.same_opset or self.opset, same_as="").model(dynamic)

    def model(self, dynamic: bool = False) -> ModelProto:
        """The model, its sizes as symbols if asked."""
        inputs = [
            (n, s, helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)), self.dyn.get(n))
            for n, s in self.shapes.items()
        ]
        inputs += [
            (n, f.value.shape, helper.np_dtype_to_tensor_dtype(f.value.dtype), f.dims or None)
            for n, f in self.fed.items()
        ]
        infos = []
        for name, shape, code, letters in inputs:
            dims: list[int | str] = list(shape)
            if dynamic and letters is not None:
                dims = [n if c == "." else c for c, n in zip(letters, shape, strict=True)]
            infos.append(helper.make_tensor_value_info(name, code, dims))
        nodes = []
        for i, text in enumerate(t for t in self.nodes.replace("\n", ";").split(";") if t.strip()):
            node = parser.parse_node(text.strip())
            node.name = f"{node.op_type}_{i}"
            nodes.append(node)
        code = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        y = helper.make_tensor_value_info(self.output, code, None)
        said = []
        if self.declared:
            dims = [d.dim_param or d.dim_value for d in infos[0].type.tensor_type.shape.dim]
            said = [helper.make_tensor_value_info(self.declared, code, dims)]
        used = {i for node in nodes for i in node.input}
        weights = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in used]
        graph = helper.make_graph(nodes, "case", infos, [y], weights, value_info=said)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in nodes} - {"", "ai.onnx"})]
        ir = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        return helper.make_model(graph, opset_imports=opsets, ir_version=max(ir, 4))


_OWN = frozenset(Case.__dataclass_fields__) - {"name", "nodes", "shapes", "constants", "fed"}


def case(name: str, nodes: str, **kw: object) -> Case:
    """A case: a tuple is the shape of an explained input, an array a constant, Fed a fed input, the rest as in Case."""
    own = {k: kw.pop(k) for k in list(kw) if k in _OWN and not isinstance(kw[k], (np.ndarray, np.generic))}
    shapes = {k: v for k, v in kw.items() if isinstance(v, tuple)}
    fed = {k: v for k, v in kw.items() if isinstance(v, Fed)}
    constants = {k: np.asarray(v) for k, v in kw.items() if k not in shapes and k not in fed}
    dyn = own.get("dyn", {})
    if isinstance(dyn, str):
        own["dyn"] = {next(iter(shapes)): dyn} if dyn else {}
    return Case(name, nodes, shapes, constants, fed, **own)  # type: ignore[arg-type]


def w(*shape: int, seed: int = 0) -> Array:
    """A constant float tensor."""
    return np.random.default_rng([seed, 7, *shape]).normal(size=shape).astype(F32)


def pos(*shape: int, seed: int = 0) -> Array:
    """A constant positive float tensor."""
    return np.abs(w(*shape, seed=seed)) + F32(0.4)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def i0(value: int) -> Array:
    """An int64 scalar."""
    return np.array(value, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, F32)
