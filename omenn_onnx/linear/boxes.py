"""Zeros that are known are not computed with.

An Embed puts a box into zeros. Whatever multiplies, moves or sums elements keeps the zeros in place, so it is applied
to the box alone, and the Embed put off until something needs the whole. The cotangent of a transformer's last block is
a single row this way, if the model's head looks at one token only; of a joint projection to queries, keys and values,
the columns of the values alone are contracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.box import Box, regroup
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Primitive, Var

P = TypeVar("P", bound=Primitive, contravariant=True)
Rule = Callable[["Boxes", P, Equation, Box], "Box | None"]
_RULES: dict[type[Primitive], Rule[Any]] = {}


def _keeps(*kinds: type[Primitive]) -> Callable[[Rule[P]], Rule[P]]:
    """Registers what a primitive of one input makes of a box; None: it needs the whole."""

    def register(rule: Rule[P]) -> Rule[P]:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def put_off_zeros(equations: Sequence[Equation], wanted: Iterable[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``, with every Embed of a small box as late as can be. Variables stay who
    they are."""
    boxes = Boxes(build)
    for equation in equations:
        build.owner = equation.owner
        boxes.follow(equation)
    for v in wanted:
        boxes.whole(v)


class Boxes:
    """The walk. ``held`` are the variables that are known as boxes and not written yet."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.held: dict[Var, Box] = {}

    def follow(self, e: Equation) -> None:
        """Write one equation, or hold its result as a box."""
        found: Box | None = None
        p, before = e.primitive, len(self.build.equations)
        given = [self.held.get(x) for x in e.inputs]
        if isinstance(p, lp.Embed):
            found = self._embed(p, e, given[0])
        elif isinstance(p, lp.Add):
            found = self._add(e, given)
            if found is None:
                return
        elif isinstance(p, lp.Concat):
            found = self._concat(p, e, given)
        elif given and given[0] is not None and type(p) in _RULES:
            found = _RULES[type(p)](self, p, e, given[0])
        if found is None:
            for x in e.inputs:
                self.whole(x)
            self.build.write(p, e.inputs, e.out)
        elif found.inner.shape == found.whole:
            self._settle(found, e, len(self.build.equations) > before)
        else:
            self.held[e.out] = found

    def whole(self, v: Var) -> None:
        """Write a variable that is held as a box."""
        box = self.held.pop(v, None)
        if box is not None:
            inner = box.inner
            if box.merged:
                inner = self.build.apply(lp.Embed(box.begin), [inner], box.whole)
            self.build.write(lp.Reshape() if box.merged else lp.Embed(box.begin), [inner], v)

    def _settle(self, box: Box, e: Equation, new: bool) -> None:
        """A box that fills everything is its inner variable: if it is ``new``, its equation gives ``e.out`` itself."""
        if new and box.inner.shape == e.out.shape:
            last = self.build.equations.pop()
            self.build.write(last.primitive, last.inputs, e.out)
        else:
            self.build.write(lp.Reshape(), [box.inner], e.out)

    # Rules that several inputs need

    def _embed(self, p: lp.Embed, e: Equation, given: Box | None) -> Box | None:
        """A box within a box is a box."""
        if given is None:
            box = Box(e.inputs[0], p.begin, e.out.shape, e.out.shape)
            return box if _small(box) else None
        begin: list[Dim | Tensor] = []
        if given.merged:
            return None
        for a, b in zip(given.begin, p.begin, strict=True):
            if a == 0 or b == 0:
                begin.append(a if b == 0 else b)
            elif isinstance(a, int) and isinstance(b, int):
                begin.append(a + b)
            else:
                return None
        return Box(given.inner, tuple(begin), e.out.shape, e.out.shape)

    def _add(self, e: Equation, given: Sequence[Box | None]) -> Box | None:
        """Equal boxes are added as boxes; the rest as it is."""
        groups: list[tuple[Box, list[Var]]] = []
        others: list[Var] = []
        for x, box in zip(e.inputs, given, strict=True):
            if box is None:
                others.append(x)
                continue
            same = next((g for b, g in groups if b.alike(box)), None)
            if same is None:
                groups.append((box, [box.inner]))
            else:
                same.append(box.inner)
        sums = [(box, self.build.add(inner, box.inner.shape)) for box, inner in groups]
        if len(sums) == 1 and not others:
            return replace(sums[0][0], inner=sums[0][1])
        for box, total in sums:
            part = Var(e.out.shape)
            self.held[part] = replace(box, inner=total)
            self.whole(part)
            others.append(part)
        self.build.write(e.primitive, others, e.out)
        return None

    def _concat(self, p: lp.Concat, e: Equation, given: Sequence[Box | None]) -> Box | None:
        boxes = [b for b in given if b is not None]
        if len(boxes) < len(given) or p.axis in boxes[0].axes:
            return None
        if any(b.merged or not b.placed_as(boxes[0]) for b in boxes):
            return None
        inner, *others = (_resized(b, e.out.shape, [p.axis]) for b in boxes)
        if any(shape != inner for shape in others):
            return None
        joined = self.build.apply(p, [b.inner for b in boxes], inner)
        return Box(joined, boxes[0].begin, e.out.shape, e.out.shape)

    # What rules use

    def inside(self, p: Primitive, e: Equation, box: Box, inner: Shape) -> Box:
        """The primitive applied to the box alone, for an output of the box's axes and ``e.out``'s sizes."""
        merged = box.merged
        whole = (*box.whole[: merged + 1], *e.out.shape[1:]) if merged else e.out.shape
        y = self.build.apply(p, [box.inner], inner)
        begin = tuple(b if i in box.axes else 0 for i, b in enumerate(box.begin))
        return Box(y, begin, whole, e.out.shape)

    def cut(self, t: Tensor, box: Box) -> Tensor | None:
        """The part of a coefficient that meets the box; None if its sizes do not tell."""
        if t.shape is None or len(t.shape) > len(box.shape):
            return None
        missing = len(box.shape) - len(t.shape)
        sizes: Shape = (1,) * missing + t.shape
        if any(d not in (1, n) for d, n in zip(sizes, box.shape, strict=True)):
            return None
        merged = box.merged
        if merged and not missing:
            front = (1,) * (merged + 1) if sizes[0] == 1 else box.whole[: merged + 1]
            sizes = (*front, *sizes[1:])
            t = self.build.emit.op("Reshape", t, self.build.emit.shape(sizes), shape=sizes)
        else:
            sizes = (1,) * merged + sizes
        rank = len(sizes)
        cut = [i for i in box.axes if sizes[i] != 1]
        return self.slice(t, [i - rank for i in cut], [box.begin[i] for i in cut], [box.inner.shape[i] for i in cut])

    def slice(self, t: Tensor, axes: list[int], begin: Sequence[Dim | Tensor], sizes: Sequence[Dim]) -> Tensor:
        """t[begin : begin + size] along ``axes``, counted from the end."""
        if not axes:
            return t
        emit = self.build.emit
        ends: list[Dim | Tensor] = []
        for a, b in zip(begin, sizes, strict=True):
            known = isinstance(a, int) and isinstance(b, int)
            ends.append(a + b if known else emit.op("Add", emit.shape([a]), emit.shape([b]), shape=(1,)))  # type: ignore
        assert t.shape is not None
        shape = list(t.shape)
        for axis, d in zip(axes, sizes, strict=True):
            shape[axis] = d
        return emit.op("Slice", t, emit.shape(begin), emit.shape(ends), axes, shape=tuple(shape), dtype=t.dtype)


def _small(box: Box) -> bool:
    """Whether a box is worth the slices of coefficients: at most half of the whole."""
    inside, around = 1, 1
    for i in box.axes:
        a, b = box.inner.shape[i], box.whole[i]
        if isinstance(a, int) and isinstance(b, int):
            inside, around = inside * a, around * b
        elif a == 1:
            around *= 2
        else:
            return False
    return 2 * inside <= around


# Elementwise


@_keeps(lp.Scale)
def _(boxes: Boxes, p: lp.Scale, e: Equation, box: Box) -> Box | None:
    c = boxes.cut(p.coefficient, box)
    return None if c is None else boxes.inside(lp.Scale(c), e, box, box.inner.shape)


@_keeps(lp.Select)
def _(boxes: Boxes, p: lp.Select, e: Equation, box: Box) -> Box | None:
    mask = boxes.cut(p.mask, box)
    return None if mask is None else boxes.inside(lp.Select(mask), e, box, box.inner.shape)


# Sums and repeats


@_keeps(lp.Broadcast)
def _(boxes: Boxes, p: lp.Broadcast, e: Equation, box: Box) -> Box | None:
    changed = _changed(box, e.out.shape)
    if changed is None or any(i in box.axes or box.whole[i] != 1 for i in changed):
        return None
    return boxes.inside(p, e, box, _resized(box, e.out.shape, changed))


@_keeps(lp.Sum)
def _(boxes: Boxes, p: lp.Sum, e: Equation, box: Box) -> Box | None:
    changed = _changed(box, e.out.shape)
    if changed is None or any(_from_end(e.out.shape, box, i) != 1 for i in changed):
        return None
    inner = tuple(1 if i in changed else d for i, d in enumerate(box.inner.shape))
    rest = replace(box, begin=tuple(0 if i in changed else b for i, b in enumerate(box.begin)))
    return boxes.inside(p, e, rest, inner)


@_keeps(lp.Centre)
def _(boxes: Boxes, p: lp.Centre, e: Equation, box: Box) -> Box | None:
    merged = box.merged
    if (merged and 0 in p.axes) or any(a + merged in box.axes for a in p.axes):
        return None
    return boxes.inside(lp.Centre(tuple(a + merged for a in p.axes)), e, box, box.inner.shape)


def _changed(box: Box, out: Shape) -> list[int] | None:
    """The axes of the whole whose size an equation changes; None if these are merged ones."""
    merged = box.merged
    changed = [i for i, (a, b) in enumerate(zip(box.shape, out, strict=True)) if a != b]
    return None if merged and 0 in changed else [i + merged for i in changed]


def _from_end(out: Shape, box: Box, i: int) -> Dim:
    return out[i - len(box.whole)]


def _resized(box: Box, out: Shape, changed: list[int]) -> Shape:
    return tuple(_from_end(out, box, i) if i in changed else d for i, d in enumerate(box.inner.shape))


# Contractions


@_keeps(lp.MatMul)
def _(boxes: Boxes, p: lp.MatMul, e: Equation, box: Box) -> Box | None:
    w, rank = p.weight, len(box.whole)
    if w.shape is None or len(w.shape) < 2:
        return None
    if box.merged and (p.left or len(w.shape) > 2):
        return None
    contracted = -2 if p.left else -1
    within = -1 if p.left != p.transposed else -2  # of W's two axes, the one that is contracted
    axes, begin, sizes = [], [], []
    for i in box.axes:
        from_end = i - rank
        if from_end == contracted:
            axis = within
        elif from_end >= -2 or -from_end > len(w.shape) or w.shape[from_end] == 1:
            continue
        else:
            axis = from_end
        if w.shape[axis] != box.whole[i]:
            return None
        axes.append(axis)
        begin.append(box.begin[i])
        sizes.append(box.inner.shape[i])
    inner = list(box.inner.shape)
    inner[contracted] = e.out.shape[contracted]
    product = lp.MatMul(boxes.slice(w, axes, begin, sizes), p.left, p.transposed)
    return boxes.inside(product, e, _without(box, rank + contracted), tuple(inner))


@_keeps(lp.Einsum)
def _(boxes: Boxes, p: lp.Einsum, e: Equation, box: Box) -> Box | None:
    w = p.weight
    if box.merged or w.shape is None:
        return None
    sizes: dict[str, Dim] = dict(zip(p.out_labels, e.out.shape, strict=True))
    begins: dict[str, Dim | Tensor] = {}
    axes = []
    for i in box.axes:
        label = p.x_labels[i]
        if label in p.w_labels:
            if p.w_labels.count(label) != 1 or w.shape[p.w_labels.index(label)] != box.whole[i]:
                return None
            axes.append((p.w_labels.index(label) - len(w.shape), i))
        sizes[label], begins[label] = box.inner.shape[i], box.begin[i]
    cut = boxes.slice(w, [a for a, _ in axes], [box.begin[i] for _, i in axes], [box.inner.shape[i] for _, i in axes])
    inner = tuple(sizes[label] for label in p.out_labels)
    product = lp.Einsum(cut, p.x_labels, p.w_labels, p.out_labels)
    y = boxes.build.apply(product, [box.inner], inner)
    return Box(y, tuple(begins.get(label, 0) for label in p.out_labels), e.out.shape, e.out.shape)


@_keeps(lp.Conv)
def _(boxes: Boxes, p: lp.Conv, e: Equation, box: Box) -> Box | None:
    """Rows of the batch, and channels of an ungrouped convolution."""
    if box.merged or not box.axes <= {0, 1} or (1 in box.axes and p.group != 1):
        return None
    w = p.weight
    if 1 in box.axes:
        assert w.shape is not None
        axis = (0 if p.adjoint else 1) - len(w.shape)
        w = boxes.slice(w, [axis], [box.begin[1]], [box.inner.shape[1]])
    conv = lp.Conv(w, p.window, p.group, p.adjoint)
    return boxes.inside(conv, e, _without(box, 1), (box.inner.shape[0], *e.out.shape[1:]))


@_keeps(lp.WindowSum)
def _(boxes: Boxes, p: lp.WindowSum, e: Equation, box: Box) -> Box | None:
    front = len(box.whole) - len(p.window.kernel)
    if box.merged or any(i >= front for i in box.axes):
        return None
    return boxes.inside(p, e, box, (*box.inner.shape[:front], *e.out.shape[front:]))


def _without(box: Box, axis: int) -> Box:
    return replace(box, begin=tuple(0 if i == axis else b for i, b in enumerate(box.begin)))


# Moves


@_keeps(lp.Reshape)
def _(boxes: Boxes, p: lp.Reshape, e: Equation, box: Box) -> Box | None:
    found = regroup(box, e.out.shape)
    if found is None:
        return None
    inner, begin, whole = found
    y = box.inner if inner == box.inner.shape else boxes.build.apply(lp.Reshape(), [box.inner], inner)
    return Box(y, begin, whole, e.out.shape)


@_keeps(lp.Permute)
def _(boxes: Boxes, p: lp.Permute, e: Equation, box: Box) -> Box | None:
    if box.merged:
        return None
    y = boxes.build.apply(p, [box.inner], tuple(box.inner.shape[i] for i in p.perm))
    return Box(y, tuple(box.begin[i] for i in p.perm), e.out.shape, e.out.shape)


@_keeps(lp.Slice)
def _(boxes: Boxes, p: lp.Slice, e: Equation, box: Box) -> Box | None:
    """A slice that keeps the whole box, or that takes none of its axes."""
    if box.merged:
        return None
    begin, first, inner = list(box.begin), list(p.begin), list(box.inner.shape)
    for i, (a, n) in enumerate(zip(p.begin, e.out.shape, strict=True)):
        b, m = box.begin[i], box.inner.shape[i]
        if i not in box.axes:
            begin[i], inner[i] = 0, n
        elif a == 0 and n == box.whole[i]:
            first[i] = 0
        elif n == m and (a is b or (isinstance(a, int) and a == b)):
            begin[i] = first[i] = 0
        elif all(isinstance(d, int) for d in (a, b, n, m)) and a <= b and b + m <= a + n:  # type: ignore[operator]
            begin[i], first[i] = b - a, 0  # type: ignore[operator]
        else:
            return None
    y = boxes.build.slice(box.inner, tuple(first), tuple(inner))
    return Box(y, tuple(begin), e.out.shape, e.out.shape)


@_keeps(lp.Gather, lp.ScatterAdd, lp.CumSum)
def _(boxes: Boxes, p: lp.Gather | lp.ScatterAdd | lp.CumSum, e: Equation, box: Box) -> Box | None:
    if box.merged or p.axis in box.axes:
        return None
    return boxes.inside(p, e, box, tuple(e.out.shape[i] if i == p.axis else d for i, d in enumerate(box.inner.shape)))
