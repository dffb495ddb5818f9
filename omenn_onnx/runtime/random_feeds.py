"""Random inputs for a model that nobody gave inputs for: shapes from its declaration, ids within its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from omenn_onnx.errors import FeedError, NameNotFound
from omenn_onnx.runtime.contract import Contract
from omenn_onnx.runtime.engines import Array, Dim, TensorInfo, load_proto
from omenn_onnx.runtime.feeds import fits, spell
from omenn_onnx.runtime.sessions import Model

BATCH, SPATIAL, LENGTH = 2, 32, 8  # for dynamic dimensions: the first, those of images, all others
TARGETS = 2  # for a dynamic number of targets

#: Operators through which an id tensor keeps its values on the way to the table.
_KEEPS_IDS = frozenset(
    ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Clip", "Slice", "Expand")
)


def shapes_for(
    inputs: Sequence[TensorInfo], asked: Mapping[str, tuple[int, ...]], batch: int = BATCH
) -> dict[str, tuple[int, ...]]:
    """A shape for every input: as ``asked``, else the declared one with small sizes where it is dynamic.

    Dimensions of one name have one size. Raises NameNotFound and FeedError for what was asked wrongly.
    """
    infos = {i.name: i for i in inputs}
    sizes: dict[str, int] = {}
    for name, shape in asked.items():
        if name not in infos:
            raise NameNotFound("input", name, infos)
        dims = infos[name].dims
        if dims is None:
            continue
        if not fits(shape, dims):
            raise FeedError(f"--shape of {name!r}: {spell(shape)} does not fit {spell(dims)}")
        sizes.update({d: s for d, s in zip(dims, shape, strict=True) if isinstance(d, str)})

    def size(place: int, dim: Dim, rank: int) -> int:
        if isinstance(dim, int):
            return dim
        if dim is not None and dim in sizes:
            return sizes[dim]
        chosen = batch if place == 0 else SPATIAL if rank == 4 and place > 0 else LENGTH
        if dim is not None:
            sizes[dim] = chosen
        return chosen

    return {
        i.name: asked.get(i.name, tuple(size(p, d, len(i.dims or ())) for p, d in enumerate(i.dims or ())))
        for i in inputs
    }


def random_feeds(
    inputs: Sequence[TensorInfo],
    contract: Contract,
    tables: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    classes: int | None,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """One random value for every input, the target and the seed included.

    Floats are standard normal. Integers that index a table (``tables``: its length by input) lie within it; bytes take
    all values; others are 0 or 1, with 1 in the first place of each row, so that no mask is empty. Targets lie within
    ``classes``, the size of Z per row, and are 0 where it is unknown.
    """
    made: dict[str, Array] = {}
    for info in inputs:
        shape = shapes[info.name]
        dtype = info.dtype
        if dtype is None or dtype.kind == "O":
            raise FeedError(f"input {info.name!r} is {info.type}: random values make no sense, give an input file")
        if info.name == contract.target_input:
            made[info.name] = rng.integers(0, classes or 1, shape).astype(np.int64)
        elif dtype.kind == "f":
            made[info.name] = rng.standard_normal(shape).astype(dtype)
        elif info.name in tables:
            made[info.name] = rng.integers(0, max(tables[info.name], 1), shape).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            made[info.name] = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)
        else:
            value = rng.integers(0, 2, shape)
            if value.ndim:
                value[..., :1] = 1
            made[info.name] = value.astype(dtype)
    return made


def tables_of(model: Model) -> dict[str, int]:
    """The length of the shortest table that each graph input indexes: from Gather back to the input."""
    graph = load_proto(model, weights=False).graph
    sizes = {i.name: list(i.dims) for i in graph.initializer}
    constants = [n for n in graph.node if n.op_type == "Constant"]
    sizes |= {n.output[0]: list(a.t.dims) for n in constants for a in n.attribute if a.name == "value"}
    makers: dict[str, Any] = {o: n for n in graph.node for o in n.output}
    names = {i.name for i in graph.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type != "Gather" or not sizes.get(node.input[0]):
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        length = int(sizes[node.input[0]][axis])
        name = _source(node.input[1], makers)
        if name in names:
            found[name] = min(found.get(name, length), length)
    return found


def _source(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    while name in makers and makers[name].op_type in _KEEPS_IDS:
        name = makers[name].input[0]
    return name
