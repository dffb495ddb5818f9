"""Sizes that a model computes from shapes, followed symbolically.

Exporters write reshape targets as Shape, Gather, Concat, ...; ONNX's own data propagation gives up on some of these and
makes a new symbol up for a size that already has a name. Here integer vectors are followed as lists of numbers, symbols
and unknowns, and what they say of the outputs of Reshape, Expand and ConstantOfShape is collected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx

from omenn_onnx.graph.ir import Array, Dim

MADE_UP = "unk__"
"""How onnx's data propagation names the sizes that it makes up."""
_PRODUCT = re.compile(r"\w+(\*\w+)+")
Sizes = list["Dim | None"]
Attrs = dict[str, Any]
Vector = Callable[[str], "Sizes | None"]


def follow_sizes(
    nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, Sizes], values: Mapping[str, Array]
) -> dict[str, Sizes]:
    """Better shapes of outputs, as far as the integer arithmetic of the graph tells them."""
    follower = _Follower(shapes, values)
    for node in nodes:
        if node.domain in ("", "ai.onnx"):
            follower.visit(node)
    return follower.found


def follow_vectors(
    nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, Sizes], values: Mapping[str, Array]
) -> dict[str, list[int]]:
    """Integer vectors whose elements are all known, though they come from shapes that are not."""
    follower = _Follower(shapes, values)
    for node in nodes:
        if node.domain in ("", "ai.onnx"):
            follower.visit(node)
    found = {name: [d for d in v if isinstance(d, int)] for name, v in follower.vectors.items()}
    return {name: v for name, v in found.items() if len(v) == len(follower.vectors[name])}


class _Follower:
    """What is known so far: integer vectors, comparisons of them, and shapes."""

    def __init__(self, shapes: Mapping[str, Sizes], values: Mapping[str, Array]) -> None:
        self.values = values
        self.shapes = dict(shapes)
        self.found: dict[str, Sizes] = {}
        self.vectors: dict[str, Sizes] = {}
        self._truth: dict[str, list[bool | None]] = {}

    def vector(self, name: str) -> Sizes | None:
        """The elements of an integer tensor of at most one axis, as far as they are known."""
        if name in self.vectors:
            return self.vectors[name]
        value = self.values.get(name)
        if value is None or value.dtype.kind not in "iu" or value.ndim > 1:
            return None
        return [int(v) for v in value.reshape(-1)]

    def visit(self, node: onnx.NodeProto) -> None:
        """Learn what one node tells."""
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("Equal", "Where"):
            self._compare(node)
        if node.op_type in _VECTORS:
            result = _VECTORS[node.op_type](node, attrs, self.vector, self.shapes)
            if result is not None:
                self.vectors[node.output[0]] = result
        elif node.op_type == "Split":
            self._split(node, attrs)
        for name, shape in zip(node.output, self._shapes_of(node, attrs), strict=False):
            if shape is not None:
                ours = self.shapes.get(name)
                if ours is not None and len(ours) == len(shape):
                    shape = [a if b is None else b for a, b in zip(ours, shape, strict=True)]
                self.found[name] = self.shapes[name] = shape

    def _compare(self, node: onnx.NodeProto) -> None:
        """Where(sizes == -1, ones, sizes), as TorchScript writes an expand."""
        a, b = (self.vector(i) for i in node.input[-2:])
        if a is None or b is None:
            return
        if node.op_type == "Equal":
            if len(b) == 1:
                b = b * len(a)
            self._truth[node.output[0]] = [_equal(x, y) for x, y in zip(a, b, strict=False)]
        elif len(a) == len(b) == len(self._truth.get(node.input[0], [])):
            chosen = zip(self._truth[node.input[0]], a, b, strict=True)
            self.vectors[node.output[0]] = [None if t is None else x if t else y for t, x, y in chosen]

    def _split(self, node: onnx.NodeProto, attrs: Attrs) -> None:
        """Pieces of a vector, of the lengths given or of one length."""
        data = self.vector(node.input[0])
        given = self.vector(node.input[1]) if len(node.input) > 1 else attrs.get("split")
        if data is None or (given is None and len(data) % len(node.output)):
            return
        lengths = given or [len(data) // len(node.output)] * len(node.output)
        if all(isinstance(n, int) for n in lengths) and len(lengths) == len(node.output):
            for name, n in zip(node.output, lengths, strict=True):
                self.vectors[name], data = data[:n], data[n:]

    def _shapes_of(self, node: onnx.NodeProto, attrs: Attrs) -> list[Sizes | None]:
        """What the node says of the shapes of its outputs."""
        op = node.op_type
        source = self.shapes.get(node.input[0]) if node.input else None
        if op in _ELEMENTWISE:
            return [_joined([self.shapes.get(i) for i in node.input if i])]
        if op == "MatMul":
            return [_product([self.shapes.get(i) for i in node.input])]
        if op == "Concat":
            return [_together([self.shapes.get(i) for i in node.input], attrs.get("axis", 0))]
        if op == "Range":
            return [_counted([self.vector(i) for i in node.input])]
        if op == "ConstantOfShape":
            return [self.vector(node.input[0])]
        arguments = [self.vector(i) if i else None for i in node.input[1:]]
        if source is None:
            return []
        if op == "Slice":
            return [_sliced(source, arguments)]
        if op == "Split" and arguments and arguments[0] is not None:
            axis = attrs.get("axis", 0) % len(source)
            return [[*source[:axis], n, *source[axis + 1 :]] for n in arguments[0]]
        if op == "Resize":
            scales = self.values.get(node.input[2]) if len(node.input) > 2 else None
            return [_resized(source, scales, arguments[2] if len(arguments) > 2 else None, attrs.get("axes"))]
        target = arguments[0] if arguments else None
        if op == "Reshape" and target is not None and not (attrs.get("allowzero") and 0 in target):
            return [_reshaped(source, target)]
        if op == "Expand" and target is not None:
            return [_expanded(source, target)]
        return []


_ELEMENTWISE = frozenset("Add Sub Mul Div Pow Where Max Min Sum Mean Mod PRelu Equal Less Greater And Or".split())


def _equal(x: Dim | None, y: Dim | None) -> bool | None:
    if isinstance(x, int) and isinstance(y, int):
        return x == y
    sizes = [d for d in (x, y) if isinstance(d, int)]
    return False if sizes and sizes[0] < 0 and x is not None and y is not None else None


def _joined(shapes: list[Sizes | None]) -> Sizes | None:
    """The broadcast of shapes, None along axes that cannot be told."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or not known:
        return None
    rank = max(len(s) for s in known)
    padded: list[Sizes] = [[*[1] * (rank - len(s)), *s] for s in known]
    return [_join(list(dims)) for dims in zip(*padded, strict=True)]


def _product(shapes: list[Sizes | None]) -> Sizes | None:
    """Of matrices with batch axes."""
    a, b = shapes
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    batch = _joined([a[:-2], b[:-2]]) if len(a) > 2 or len(b) > 2 else []
    return None if batch is None else [*batch, a[-2], b[-1]]


def _together(shapes: list[Sizes | None], axis: int) -> Sizes | None:
    """Joined along ``axis``; the other axes are equal."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or len({len(s) for s in known}) != 1:
        return None
    axis %= len(known[0])
    result: Sizes = []
    for i, dims in enumerate(zip(*known, strict=True)):
        numbers = [d for d in dims if isinstance(d, int)]
        if i == axis:
            result.append(sum(numbers) if len(numbers) == len(dims) else None)
        else:
            result.append(numbers[0] if numbers else next((d for d in dims if d is not None), None))
    return result


def _resized(source: Sizes, scales: Array | None, sizes: Sizes | None, axes: list[int] | None) -> Sizes:
    """Axes that are not scaled keep their size."""
    result = list(source)
    for i, a in enumerate(range(len(source)) if axes is None else axes):
        if scales is not None and scales.size:
            result[a] = source[a] if scales[i] == 1 else None
        else:
            result[a] = None if sizes is None else sizes[i]
    return result


def _counted(arguments: list[Sizes | None]) -> Sizes | None:
    """0, 1, ..., n - 1 has n elements."""
    start, limit, delta = arguments
    return limit if start == [0] and delta == [1] and limit is not None and isinstance(limit[0], str) else None


def _join(dims: list[Dim | None]) -> Dim | None:
    """One axis. A piece min(d, s) of a longer axis next to a size s must be s, or the operator could not run."""
    large = [d for d in dims if d != 1]
    if not large:
        return 1
    numbers = [d for d in large if isinstance(d, int)]
    if numbers:
        return numbers[0]
    names = {d for d in large if isinstance(d, str)}
    whole = {d for d in names if not d.startswith("min(")}
    if None in large or len(whole) != 1:
        return None if len(names) != 1 or None in large else names.pop()
    size = whole.pop()
    return size if all(d == size or d.endswith(f",{size})") for d in names) else None


def _piece(length: Dim | None, end: Dim | None) -> str:
    """The name of the size of x[:end] along an axis of ``length``."""
    return f"min({length},{end})"


def _sliced(source: Sizes, arguments: list[Sizes | None]) -> Sizes | None:
    """Axes that a Slice does not name keep their size; x[:s] of an axis of known length d > 1 has min(d, s)."""
    if len(arguments) < 3:
        return None
    starts, ends, axes, *steps = arguments
    if axes is None:
        return None
    result = list(source)
    for i, a in enumerate(axes):
        if not isinstance(a, int):
            return None
        d = source[a]
        start, end = (v[i] if v is not None else None for v in (starts, ends))
        step = 1 if not steps else None if steps[0] is None else steps[0][i]
        named = isinstance(end, str) and isinstance(d, int) and d > 1 and start == 0 and step == 1
        result[a] = _piece(d, end) if named else None
    return result


def _shape(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    dims = shapes.get(node.input[0])
    return None if dims is None else dims[attrs.get("start", 0) : attrs.get("end", len(dims))]


def _gather(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    data, index = vector(node.input[0]), vector(node.input[1])
    if data is None or index is None:
        return None
    places = [i for i in index if isinstance(i, int) and -len(data) <= i < len(data)]
    return [data[i] for i in places] if len(places) == len(index) else None


def _slice(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    data = vector(node.input[0])
    bounds: list[int] = []
    for name in node.input[1:]:
        v = vector(name)
        if v is None or len(v) != 1 or not isinstance(v[0], int):
            return None
        bounds.append(v[0])
    step = bounds[3] if len(bounds) > 3 else 1
    return None if data is None or step <= 0 else data[bounds[0] : bounds[1] : step]


def _concat(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    parts = [vector(i) for i in node.input]
    whole: Sizes = []
    for part in parts:
        if part is None:
            return None
        whole += part
    return whole


def _same(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    return vector(node.input[0])


def _negated(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    data = vector(node.input[0])
    return None if data is None else [-d if isinstance(d, int) else None for d in data]


def _arithmetic(node: onnx.NodeProto, attrs: Attrs, vector: Vector, shapes: Mapping[str, Sizes]) -> Sizes | None:
    if len(node.input) != 2:
        return None
    a, b = vector(node.input[0]), vector(node.input[1])
    if a is None or b is None:
        return None
    n = max(len(a), len(b))
    a, b = (list(v) * n if len(v) == 1 else v for v in (a, b))
    return [_combine(node.op_type, x, y) for x, y in zip(a, b, strict=False)]


def _combine(op: str, x: Dim | None, y: Dim | None) -> Dim | None:
    if isinstance(x, int) and isinstance(y, int):
        if op == "Div":
            return x // y if y > 0 and x >= 0 else None
        return {"Mul": x * y, "Add": x + y, "Sub": x - y, "Max": max(x, y), "Min": min(x, y)}[op]
    if op in ("Mul", "Div") and y == 1:
        return x
    if op == "Mul" and x == 1:
        return y
    if op in ("Add", "Sub") and y == 0:
        return x
    if op == "Mul":
        number, symbols = _factors([x, y])
        return _named(number, symbols) if number > 0 else None
    if op == "Div":
        return _quotient([x], [y])
    return y if op == "Add" and x == 0 else None


_VECTORS = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Identity": _same,
    "Cast": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Max": _arithmetic,
    "Min": _arithmetic,
    "Neg": _negated,
}


def _reshaped(source: Sizes, target: Sizes) -> Sizes:
    result: Sizes = [source[i] if d == 0 and i < len(source) else d for i, d in enumerate(target)]
    if -1 in result:
        place = result.index(-1)
        result[place] = _quotient(source, [d for d in result if d != -1])
    return result


def _quotient(whole: Sizes, parts: Sizes) -> Dim | None:
    """The size that is left of ``whole`` when ``parts`` are taken out, if it is a number or a product of symbols."""
    number, symbols = _factors(whole)
    divisor, taken = _factors(parts)
    if not number or not divisor or number % divisor or taken - symbols:
        return None
    return _named(number // divisor, symbols - taken)


def _factors(sizes: Sizes) -> tuple[int, Counter[str]]:
    """A product of sizes: its number, and its symbols with their powers. (0, ...) where it is not known."""
    number, symbols = 1, Counter[str]()
    for d in sizes:
        if isinstance(d, str):
            for part in d.split("*") if _PRODUCT.fullmatch(d) else [d]:
                if part.isdigit():
                    number *= int(part)
                else:
                    symbols[part] += 1
        else:
            number *= 0 if d is None else d
    return number, symbols


def _named(number: int, symbols: Counter[str]) -> Dim | None:
    """The name of a product: 2*batch. Products of symbols that inference made up have none yet."""
    words = sorted(symbols.elements())
    if len(words) + (number != 1) > 1 and any(w.startswith(MADE_UP) for w in words):
        return None
    return "*".join([*([str(number)] if number != 1 else []), *words]) if words else number


def _expanded(source: Sizes, target: Sizes) -> Sizes:
    rank = max(len(source), len(target))
    a: Sizes = [*[1] * (rank - len(source)), *source]
    b: Sizes = [*[1] * (rank - len(target)), *target]
    return [
        y if x == 1 else x if y == 1 or x == y else x if isinstance(x, int) else None for x, y in zip(a, b, strict=True)
    ]
