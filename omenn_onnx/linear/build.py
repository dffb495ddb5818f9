"""Writing equations. What is trivial (a sum over axes of size 1, a scale by 1) is never written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Equation, Primitive, Var, Window


class Builder:
    """Appends equations to ``equations``. ``owner`` names the node they come from."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self.equations: list[Equation] = []
        self.owner = ""
        self._sums: dict[tuple[Var, Shape], Var] = {}

    def rewind(self, count: int) -> None:
        """Take back all but the first ``count`` equations."""
        del self.equations[count:]
        self._sums.clear()

    def apply(self, primitive: Primitive, inputs: Sequence[Var], shape: Shape, bias: bool = False) -> Var:
        """The equation ``out = primitive(inputs)``, as it stands."""
        out = Var(tuple(shape))
        out.definition = Equation(primitive, tuple(inputs), out, self.owner, bias)
        self.equations.append(out.definition)
        return out

    def write(self, primitive: Primitive, inputs: Sequence[Var], out: Var, bias: bool = False) -> None:
        """The equation that gives ``out``, a variable that stands already."""
        out.definition = Equation(primitive, tuple(inputs), out, self.owner, bias)
        self.equations.append(out.definition)

    # Elementwise

    def scale(self, x: Var, c: Tensor | float, shape: Shape | None = None, *, bias: bool = False) -> Var:
        """c x, first repeated to ``shape``. A factor known to be 1 is dropped."""
        x = self.broadcast(x, x.shape if shape is None else shape)
        if isinstance(c, (int, float)):
            c = self.emit.const(np.asarray(c, self.emit.dtype))
        if not bias and c.load is not None and c.shape is not None and _elements(c.shape) == 1:
            value = c.value
            if value is not None and value.reshape(()) == 1:
                return x
        return self.apply(lp.Scale(c), [x], x.shape, bias)

    def select(self, x: Var, mask: Tensor, shape: Shape | None = None) -> Var:
        """x where mask, else 0, first repeated to ``shape``."""
        x = self.broadcast(x, x.shape if shape is None else shape)
        return self.apply(lp.Select(mask), [x], x.shape)

    def add(self, terms: Sequence[Var], shape: Shape | None = None) -> Var:
        """The sum of ``terms``, each repeated to ``shape`` (default: their common shape)."""
        if isinstance(terms[0], lp.Bundle):
            return self._add_bundles([t for t in terms if isinstance(t, lp.Bundle)])
        shape = join_shapes([t.shape for t in terms]) if shape is None else shape
        terms = [self.broadcast(t, shape) for t in terms]
        if len(terms) == 1:
            return terms[0]
        tiles = _tiles(terms, shape)
        return self.apply(lp.Add(), terms, shape) if tiles is None else self.concat(tiles[1], tiles[0], shape)

    def _add_bundles(self, terms: Sequence[lp.Bundle]) -> Var:
        """Part by part."""
        parts = []
        for shape, *given in zip(terms[0].shapes, *(t.parts for t in terms), strict=True):
            there = [v for v in given if v is not None]
            parts.append(self.add(there, shape) if there else None)
        return lp.Bundle((), None, terms[0].shapes, tuple(parts))

    # Recurrences and choices

    def parts(self, primitive: lp.Recurrence | lp.Choice, inputs: Sequence[Var], shapes: Sequence[Shape]) -> list[Var]:
        """The parts of a bundle, of these shapes: final states and collected sequences, or what a branch gives."""
        out = lp.Bundle((), None, tuple(shapes), (None,) * len(shapes))
        out.definition = Equation(primitive, tuple(inputs), out, self.owner)
        self.equations.append(out.definition)
        return [self.apply(lp.Part(i), [out], shape) for i, shape in enumerate(shapes)]

    # Sums and repeats

    def broadcast(self, x: Var, shape: Shape) -> Var:
        """x repeated to ``shape``; missing leading axes are added."""
        shape = tuple(shape)
        if len(shape) > x.rank:
            x = self.reshape(x, (1,) * (len(shape) - x.rank) + x.shape)
        if x.shape == shape:
            return x
        return self.apply(lp.Broadcast(), [x], shape)

    def sum_to(self, x: Var, shape: Shape) -> Var:
        """x summed over the axes along which ``shape`` has size 1."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        d = x.definition
        axes = [i for i, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if a != b]
        if d is not None and all(shape[i] == 1 for i in axes):
            if isinstance(d.primitive, lp.Broadcast):
                source = d.inputs[0]
                repeated = [i for i in axes if source.shape[i] == 1]
                if repeated:
                    kept = tuple(1 if i in repeated else n for i, n in enumerate(x.shape))
                    inner = self.sum_to(self.broadcast(source, kept), shape)
                    return self.scale(inner, self.number([x.shape[i] for i in repeated]))
            if isinstance(d.primitive, lp.Concat) and d.primitive.axis in axes:
                if (x, shape) not in self._sums:  # (of a chain of them, each once)
                    self._sums[x, shape] = self.add([self.sum_to(part, shape) for part in d.inputs], shape)
                return self._sums[x, shape]
        return self.apply(lp.Sum(), [x], shape)

    def sum(self, x: Var, axes: Iterable[int]) -> Var:
        """x summed over ``axes``, which are kept with size 1."""
        axes = {a % x.rank for a in axes}
        return self.sum_to(x, tuple(1 if i in axes else d for i, d in enumerate(x.shape)))

    def mean(self, x: Var, axes: Iterable[int]) -> Var:
        """x averaged over ``axes``, which are kept with size 1."""
        axes = {a % x.rank for a in axes}
        d = x.definition
        if d is not None and isinstance(d.primitive, lp.Broadcast):  # repeats do not change a mean
            source = d.inputs[0]
            if all(source.shape[i] in (1, n) for i, n in enumerate(x.shape)):
                mean = self.mean(source, axes)
                return self.broadcast(mean, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
        count = self.number([x.shape[i] for i in axes])
        return self._divide(self.sum(x, axes), count)

    def _divide(self, x: Var, count: Tensor | float) -> Var:
        if isinstance(count, Tensor):
            return self.scale(x, self.emit.op("Reciprocal", count))
        return self.scale(x, 1.0 / count)

    def centre(self, x: Var, axes: Iterable[int]) -> Var:
        """x less its mean over ``axes``."""
        return self.apply(lp.Centre(tuple(sorted(a % x.rank for a in axes))), [x], x.shape)

    def number(self, dims: Sequence[Dim]) -> Tensor | float:
        """The product of some sizes."""
        return self.emit.count(dims)

    # Shapes

    def reshape(self, x: Var, shape: Shape) -> Var:
        """x in another shape."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        d = x.definition
        if d is not None and isinstance(d.primitive, lp.Reshape):
            return self.reshape(d.inputs[0], shape)
        return self.apply(lp.Reshape(), [x], shape)

    def permute(self, x: Var, perm: Sequence[int]) -> Var:
        """x with its axes in the order ``perm``."""
        perm = tuple(p % x.rank for p in perm)
        if perm == tuple(range(x.rank)):
            return x
        return self.apply(lp.Permute(perm), [x], tuple(x.shape[p] for p in perm))

    def slice(self, x: Var, begin: Sequence[Dim | Tensor], shape: Shape) -> Var:
        """The box of ``shape`` that begins at ``begin``."""
        if tuple(shape) == x.shape:
            return x
        return self.apply(lp.Slice(tuple(begin)), [x], tuple(shape))

    def embed(self, x: Var, begin: Sequence[Dim | Tensor], shape: Shape) -> Var:
        """x as the box at ``begin`` of a zero tensor of ``shape``."""
        if tuple(shape) == x.shape:
            return x
        return self.apply(lp.Embed(tuple(begin)), [x], tuple(shape))

    def concat(self, parts: Sequence[Var], axis: int, shape: Shape) -> Var:
        """The parts joined along ``axis``."""
        return self.apply(lp.Concat(axis % len(shape)), parts, shape)

    def gather(self, x: Var, axis: int, indices: Tensor, size: Dim, within_rows: bool = False) -> Var:
        """x at an index vector of length ``size`` along ``axis``."""
        axis %= x.rank
        return self.apply(lp.Gather(axis, indices, within_rows), [x], (*x.shape[:axis], size, *x.shape[axis + 1 :]))

    # Contractions

    def matmul(self, x: Var, w: Tensor, shape: Shape, *, left: bool = False, transposed: bool = False) -> Var:
        """x W or W x to ``shape``; batch axes broadcast, missing ones are added."""
        axis = -2 if left else -1
        full = list(shape)
        full[axis] = x.shape[axis]
        return self.apply(lp.MatMul(w, left, transposed), [self.broadcast(x, tuple(full))], shape)

    def einsum(self, x: Var, w: Tensor, x_labels: str, w_labels: str, out_labels: str, shape: Shape) -> Var:
        """Contraction by labels; labels of x alone are summed first."""
        lone = [i for i, label in enumerate(x_labels) if label not in w_labels and label not in out_labels]
        if lone:
            x = self.sum(x, lone)
            x = self.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in lone))
            x_labels = "".join(label for i, label in enumerate(x_labels) if i not in lone)
        return self.apply(lp.Einsum(w, x_labels, w_labels, out_labels), [x], shape)

    def window_sum(self, x: Var, window: Window, shape: Shape, *, adjoint: bool = False) -> Var:
        """Sums over windows of the trailing axes (or their transpose). A window of one element is that element."""
        if shape == x.shape and window.trivial:
            return x
        return self.apply(lp.WindowSum(window, adjoint), [x], shape)


def join_shapes(shapes: Sequence[Shape], whole: Shape | None = None) -> Shape:
    """The common shape of operands. Where two different symbols meet, either may be 1: the size is that of ``whole``,
    which they are broadcast to (without it the first)."""
    rank = max(len(s) for s in shapes)
    result: list[Dim] = []
    for i in range(-rank, 0):
        sizes = list(dict.fromkeys(s[i] for s in shapes if len(s) >= -i and s[i] != 1))
        known = [d for d in sizes if isinstance(d, int)]
        between = sizes[:1] if whole is None or len(sizes) == 1 else [whole[i]]
        result.append(known[0] if known else between[0] if sizes else 1)
    return tuple(result)


def _elements(shape: Shape) -> int:
    return int(np.prod([d if isinstance(d, int) else 2 for d in shape], dtype=np.int64))


def _tiles(terms: Sequence[Var], shape: Shape) -> tuple[int, list[Var]] | None:
    """If the terms are pieces of known sizes side by side that fill ``shape``: the axis, and the pieces in order."""
    pieces: list[tuple[int, Var]] = []
    axes: set[int] = set()
    for t in terms:
        d = t.definition
        if d is None or not isinstance(d.primitive, lp.Embed):
            return None
        axes.update(i for i, (a, b) in enumerate(zip(d.inputs[0].shape, shape, strict=True)) if a != b)
        begin = d.primitive.begin[min(axes)] if len(axes) == 1 else None
        if not isinstance(begin, int):
            return None
        pieces.append((begin, d.inputs[0]))
    axis, end = axes.pop(), 0
    for begin, piece in sorted(pieces, key=lambda p: p[0]):
        size = piece.shape[axis]
        if begin != end or not isinstance(size, int) or size == 0:
            return None
        end += size
    return (axis, [piece for _, piece in sorted(pieces, key=lambda p: p[0])]) if end == shape[axis] else None
