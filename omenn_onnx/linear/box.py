"""A box in zeros, and what a reshape makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.linear.program import Var


@dataclass(frozen=True, slots=True)
class Box:
    """Zeros of sizes ``whole`` with ``inner`` at ``begin``, as ``shape``: ``whole`` with some of its first axes as one
    (rows of a batch one after the other), or ``whole`` itself."""

    inner: Var
    begin: tuple[Dim | Tensor, ...]
    whole: Shape
    shape: Shape

    @property
    def axes(self) -> set[int]:
        """The axes of ``whole`` that the box does not fill."""
        return {i for i, (a, b) in enumerate(zip(self.inner.shape, self.whole, strict=True)) if a != b}

    @property
    def merged(self) -> int:
        """How many axes fewer ``shape`` has."""
        return len(self.whole) - len(self.shape)

    def placed_as(self, other: Box) -> bool:
        """Whether both stand at the same places along the same axes."""
        return self.axes == other.axes and all(
            a is b or (not isinstance(a, Tensor) and a == b) for a, b in zip(self.begin, other.begin, strict=True)
        )

    def alike(self, other: Box) -> bool:
        """Whether the sum of both is the box of the sum of what they hold."""
        same = (self.whole, self.shape, self.inner.shape) == (other.whole, other.shape, other.inner.shape)
        return same and self.placed_as(other)


def regroup(box: Box, target: Shape) -> tuple[Shape, tuple[Dim | Tensor, ...], Shape] | None:
    """Sizes of the inner variable, begin and whole of a box in zeros reshaped to ``target``; None: it is a box no more.

    Axes are matched in runs of equal size. A box axis must stay as it is, or be the first of its run on both sides, so
    that the box stays one piece. Rows that are merged with a batch in front of them are remembered by their old sizes.
    """
    runs = _runs(box.whole, target)
    if runs is None:
        return None
    inner: list[Dim] = []
    begin: list[Dim | Tensor] = []
    whole: list[Dim] = []
    for k, (old, new) in enumerate(runs):
        boxed = [i for i in old if i in box.axes]
        sizes = [target[j] for j in new]
        if not boxed:
            inner += sizes
            begin += [0] * len(sizes)
            whole += sizes
            continue
        found = _one_piece(box, old, boxed, sizes)
        if found is not None:
            inner += found[0]
            begin += found[1]
            whole += sizes
        elif k == 0 and len(new) == 1:
            inner += [box.inner.shape[i] for i in old]
            begin += [box.begin[i] for i in old]
            whole += [box.whole[i] for i in old]
        else:
            return None
    return tuple(inner), tuple(begin), tuple(whole)


def _one_piece(
    box: Box, old: Sequence[int], boxed: Sequence[int], sizes: Sequence[Dim]
) -> tuple[list[Dim], list[Dim | Tensor]] | None:
    """Sizes and begins along the new axes of a run whose only box axis is its first but for axes of size 1."""
    real = [i for i in old if box.whole[i] != 1]
    if len(boxed) != 1 or boxed != real[:1]:
        return None
    a = boxed[0]
    first = next(j for j, d in enumerate(sizes) if d != 1)
    size, start = box.inner.shape[a], box.begin[a]
    if len(real) > 1 or sum(d != 1 for d in sizes) > 1:  # counted in elements behind the first axis of either side
        before = _product([box.whole[i] for i in real[1:]])
        behind = _product(sizes[first + 1 :])
        if before is None or behind is None or not isinstance(size, int) or not isinstance(start, int):
            return None
        if size * before % behind or start * before % behind:
            return None
        size, start = size * before // behind, start * before // behind
    inner = [size if j == first else d for j, d in enumerate(sizes)]
    begins: list[Dim | Tensor] = [start if j == first else 0 for j in range(len(sizes))]
    return inner, begins


def _product(dims: Sequence[Dim]) -> int | None:
    n = 1
    for d in dims:
        if not isinstance(d, int):
            return None
        n *= d
    return n


def _runs(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]] | None:
    """The axes of both shapes in runs of equal numbers of elements, as short as can be; None if sizes do not tell."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        old, new = list(range(i, i + 1)), list(range(j, j + 1))
        if i == len(source) or j == len(target):  # what is left over has size 1
            rest = (*source[i:], *target[j:])
            if any(d != 1 for d in rest) or not runs:
                return None
            runs[-1][0].extend(range(i, len(source)))
            runs[-1][1].extend(range(j, len(target)))
            return runs
        while (a := _size(source, old)) != (b := _size(target, new)):
            if a[0] < b[0] or (a[0] == b[0] and len(a[1]) < len(b[1])):
                if old[-1] + 1 == len(source):
                    return None
                old.append(old[-1] + 1)
            else:
                if new[-1] + 1 == len(target):
                    return None
                new.append(new[-1] + 1)
        runs.append((old, new))
        i, j = old[-1] + 1, new[-1] + 1
    return runs


def _size(shape: Shape, axes: Sequence[int]) -> tuple[int, list[str]]:
    """Numbers and symbols of a product of sizes."""
    n, symbols = 1, []
    for i in axes:
        d = shape[i]
        if isinstance(d, int):
            n *= d
        else:
            symbols.append(d)
    return n, sorted(symbols)
