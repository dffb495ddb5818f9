"""Targets: which linear functional of the explained tensor Z is explained.

Every kind becomes a seed s of Z's shape, a score <s, Z> per batch row, and the flat index of what was chosen. Several
targets put a leading K axis in front of the seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from omenn_onnx.errors import TargetError
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Shape, Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed ``--target``. ``choices`` are (index, None) or the margin (index, other)."""

    kind: str
    spec: str
    choices: tuple[tuple[int, int | None], ...] = ()
    k: int | None = None
    dynamic_k: bool = False


def parse_target(spec: str | int | list[int] | tuple[int, ...]) -> Target:
    """Read a target: argmax, input, input:K, seed, top:K, 3, 3,7,9, 3-7, last, class:3."""
    if isinstance(spec, int) and not isinstance(spec, bool):
        spec = str(spec)
    elif isinstance(spec, (list, tuple)):
        spec = ",".join(str(s) for s in spec)
    text = str(spec).strip()
    if text in ("argmax", "seed", "last", "input"):
        return Target(text, text)
    if text == "input:K":
        return Target("input", text, dynamic_k=True)
    if match := re.fullmatch(r"input:(\d+)", text):
        return Target("input", text, k=_positive(match[1], text))
    if match := re.fullmatch(r"top:(\d+)", text):
        return Target("top", text, k=_positive(match[1], text))
    if match := re.fullmatch(r"class:(\d+)", text):
        return Target("class", text, ((int(match[1]), None),))
    if re.fullmatch(r"\d+(-\d+)?(\s*,\s*\d+(-\d+)?)*", text):
        choices: list[tuple[int, int | None]] = []
        for part in text.split(","):
            a, _, b = part.strip().partition("-")
            choices.append((int(a), int(b) if b else None))
        return Target("fixed", text, tuple(choices), k=len(choices) if len(choices) > 1 else None)
    raise TargetError(
        f"target {text!r} cannot be read: give argmax, input, input:K, seed, top:5, 3, 3,7,9, 3-7 (a margin), last, "
        "or class:3"
    )


def _positive(number: str, text: str) -> int:
    if int(number) < 1:
        raise TargetError(f"target {text!r}: the number of targets must be at least 1")
    return int(number)


@dataclass(slots=True)
class Seeded:
    """seed: [K?, *Z's shape] or broadcasting to it; score and index: [N] or [N, K]; the new graph input, if any.

    ``places`` [K?, N]: of a Z [N, classes], where each row of the seed has its only 1."""

    seed: Tensor
    seed_dims: Shape
    score: Tensor
    index: Tensor
    lead: Dim | None
    new_input: Tensor | None
    places: Tensor | None = None

    def only(self, e: Emitter, k: int) -> Seeded:
        """The seed of target ``k`` by itself."""
        place = np.asarray(k, np.int64)
        seed = e.op("Gather", self.seed, place, axis=0, shape=self.seed_dims)
        row = self.places
        if row is not None:
            assert row.shape is not None
            row = e.op("Gather", row, place, axis=0, shape=row.shape[1:])
        return Seeded(seed, self.seed_dims, self.score, self.index, None, self.new_input, row)


def make_seed(e: Emitter, target: Target, z: Tensor, class_axis: int, input_name: str) -> Seeded:
    """The nodes that compute seed, score and index. ``z`` is in the explanation's type."""
    shape = z.shape
    assert shape is not None
    batch: Dim = shape[0] if shape else 1
    width: Dim = e.new_size(shape[1:]) if len(shape) > 1 else 1
    _check_range(target, shape, width, class_axis)
    flat_shape: Shape = (batch, width)
    flat = e.op("Reshape", z, _flat_target(e, shape), shape=flat_shape)
    if target.kind == "seed":
        seed = Tensor(input_name, e.dtype, shape)
        product = e.op("Mul", e.op("Reshape", seed, _flat_target(e, shape), shape=flat_shape), flat)
        score = e.op("ReduceSum", product, [1], keepdims=0, shape=(batch,))
        none = e.op("Expand", np.asarray(-1, np.int64), e.shape((batch,)), shape=(batch,))
        return Seeded(seed, shape, score, none, None, seed)
    if target.kind == "class":
        return _class_seed(e, target.choices[0][0], z, shape, batch, class_axis)
    new_input = None
    minus = None
    if target.kind == "argmax":
        index = e.op("ArgMax", flat, axis=1, keepdims=1, shape=(batch, 1))
    elif target.kind == "last":
        index = _last(e, z, shape, batch)
    elif target.kind == "top":
        index = e.ops("TopK", 2, flat, [target.k or 1], axis=1, shape=(batch, target.k or 1))[1]
    elif target.kind == "input":
        many = target.dynamic_k or target.k is not None
        columns: Dim = "targets" if target.dynamic_k else target.k or 1
        new_input = Tensor(input_name, np.dtype(np.int64), (batch, columns) if many else (batch,))
        index = new_input if many else e.op("Unsqueeze", new_input, [1], shape=(batch, 1))
        if target.dynamic_k:
            columns = e.new_dim(new_input, 1)
            index.shape = (batch, columns)
    else:
        index = _fixed(e, [a for a, _ in target.choices], batch)
        if any(b is not None for _, b in target.choices):
            minus = _fixed(e, [-1 if b is None else b for _, b in target.choices], batch)
    index.dtype = np.dtype(np.int64)
    assert index.shape is not None
    columns = index.shape[1]
    flat_z = len(shape) == 2
    several = target.kind == "top" or target.k is not None or target.dynamic_k
    picked = e.op("GatherElements", flat, index, axis=1, shape=index.shape)
    hot = one_hot(e, index, width, batch, columns)
    if minus is not None:
        real = e.op("GreaterOrEqual", minus, np.asarray(0, np.int64))
        other = e.op("GatherElements", flat, e.op("Max", minus, np.asarray(0, np.int64)), axis=1, shape=index.shape)
        picked = e.op("Sub", picked, e.op("Where", real, other, 0.0, dtype=e.dtype))
        hot = e.op("Sub", hot, one_hot(e, minus, width, batch, columns))
    if several:
        seed = e.op("Reshape", hot, e.shape((columns, *shape)), shape=(columns, *shape))
        places = e.op("Transpose", index, perm=[1, 0], shape=(columns, batch)) if minus is None and flat_z else None
        return Seeded(seed, shape, picked, index, columns, new_input, places)
    seed = e.op("Reshape", hot, e.shape(shape), shape=shape)
    line = (batch,)
    score = e.op("Squeeze", picked, [1], shape=line)
    chosen = index if new_input is None else new_input
    if new_input is None:
        chosen = e.op("Squeeze", index, [1], shape=line)
    places = chosen if minus is None and flat_z else None
    return Seeded(seed, shape, score, chosen, None, new_input, places)


def _flat_target(e: Emitter, shape: Shape) -> Tensor:
    if not shape:
        return e.shape((1, 1))
    return e.const(np.asarray([0, -1] if len(shape) > 1 else [-1, 1], np.int64))


def one_hot(e: Emitter, index: Tensor, width: Dim, batch: Dim, columns: Dim) -> Tensor:
    """[K, N, width] with a one where the index [N, K] points."""
    if e.provider == "webgpu" and columns == 1 and index.producer is not None and index.producer.op == "ArgMax":
        # No integer kernels there, but scattering takes int64 places: the seed never leaves the device.
        zeros = e.op("Expand", 0.0, e.shape((batch, width)), shape=(batch, width))
        ones = e.op("Expand", 1.0, e.shape((batch, 1)), shape=(batch, 1))
        line = e.op("ScatterElements", zeros, index, ones, axis=1, shape=(batch, width))
        return e.op("Unsqueeze", line, [0], shape=(1, batch, width))
    turned = e.op("Transpose", index, perm=[1, 0], shape=(columns, batch))
    places = e.op("Unsqueeze", turned, [2], shape=(columns, batch, 1))
    end = e.op("Squeeze", e.dim(width), [0], shape=())
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    line = e.op("Range", zero, end, one, shape=(width,), dtype=np.dtype(np.int64))
    return e.cast(e.op("Equal", places, line, shape=(columns, batch, width)))


def _fixed(e: Emitter, indices: list[int], batch: Dim) -> Tensor:
    row = np.asarray([indices], np.int64)
    return e.op("Expand", row, e.shape((batch, 1)), shape=(batch, len(indices)))


def _last(e: Emitter, z: Tensor, shape: Shape, batch: Dim) -> Tensor:
    """The best logit of the last position: axis -2 of [N, T, V]."""
    if len(shape) != 3:
        raise TargetError(f"target 'last' needs an output [batch, position, class]; this one has {len(shape)} axes")
    tail = e.op("Gather", z, np.asarray(-1, np.int64), axis=-2)
    lines = e.op("Reshape", tail, [0, -1])
    best = e.op("ArgMax", lines, axis=1, keepdims=1, shape=(batch, 1))
    before = e.op("Mul", e.op("Sub", e.dim(shape[1]), [1], shape=(1,)), e.dim(shape[2]), shape=(1,))
    return e.op("Add", best, before, shape=(batch, 1))


def _class_seed(e: Emitter, choice: int, z: Tensor, shape: Shape, batch: Dim, axis: int) -> Seeded:
    """One at the class, along its axis, at every position."""
    size = shape[axis]
    dims: Shape = tuple(size if i == axis else 1 for i in range(len(shape)))
    if isinstance(size, int):
        seed = e.const(
            np.eye(size, dtype=e.dtype)[choice].reshape([size if i == axis else 1 for i in range(len(shape))])
        )
    else:
        hot = one_hot(e, e.const(np.asarray([[choice]], np.int64)), size, 1, 1)
        seed = e.op("Reshape", hot, e.shape(dims), shape=dims)
    rest: Shape = shape[:axis] + shape[axis + 1 :]
    picked = e.op("Gather", z, np.asarray(choice, np.int64), axis=axis, shape=rest)
    axes = list(range(1, len(rest)))
    score = e.op("ReduceSum", picked, axes, keepdims=0, shape=(batch,)) if axes else picked
    index = e.op("Expand", np.asarray(choice, np.int64), e.shape((batch,)), shape=(batch,))
    return Seeded(seed, dims, score, index, None, None)


def _check_range(target: Target, shape: Shape, width: Dim, class_axis: int) -> None:
    if target.kind == "class":
        size = shape[class_axis] if shape else 1
        if isinstance(size, int) and target.choices[0][0] >= size:
            raise TargetError(f"target {target.spec!r}: the explained output {list(shape)} has {size} classes")
        return
    if not isinstance(width, int):
        return
    highest = max((i for pair in target.choices for i in pair if i is not None), default=-1)
    if highest >= width:
        raise TargetError(f"target {highest} is out of range: the output {list(shape)} has {width} values a row")
    if target.kind == "top" and (target.k or 1) > width:
        raise TargetError(f"target {target.spec!r}: the explained output {list(shape)} has only {width} values a row")
