"""A model for inputs of known sizes: free sizes take the values that they have there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx
from onnx import ModelProto, TensorShapeProto, ValueInfoProto

from omenn_onnx.errors import FeedError
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.walk import graphs_of


def settle_defaults(proto: ModelProto, fed: Collection[str]) -> None:
    """Inputs with a default, in place: one that is fed has none any more, the others are constants."""
    stored = {i.name for i in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name in fed or v.name not in stored]
    weights = [i for i in proto.graph.initializer if i.name not in fed]
    for field, values in ((proto.graph.input, inputs), (proto.graph.initializer, weights)):
        del field[:]
        field.extend(values)


def fix_sizes(proto: ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs of ``proto`` these shapes, in place; sizes inside that have a name of theirs are what follows.

    Raises FeedError where a name would have two values.
    """
    sizes: dict[str, int] = {}
    for v in proto.graph.input:
        if v.name not in shapes:
            continue
        if not v.type.tensor_type.HasField("shape"):
            v.type.tensor_type.shape.dim.extend(TensorShapeProto.Dimension() for _ in shapes[v.name])
        for d, size in zip(v.type.tensor_type.shape.dim, shapes[v.name], strict=True):
            if d.dim_param and sizes.setdefault(d.dim_param, size) != size:
                raise FeedError(
                    f"input {v.name!r}: size {d.dim_param!r} is {size} here and {sizes[d.dim_param]} elsewhere"
                )
            d.dim_value = size
    inner = [v for graph in graphs_of(proto) for v in (*graph.value_info, *graph.output)]
    named = [(v.name, i, d) for v in inner for i, d in _dims(v) if d.dim_param in sizes]
    for _, _, d in named:  # exporters give one name to unlike sizes: what follows from the inputs' counts
        d.Clear()
    if named:
        graph = onnx.shape_inference.infer_shapes(skeleton(proto), data_prop=True).graph
        found = {(v.name, i): d.dim_value for v in (*graph.value_info, *graph.output) for i, d in _dims(v)}
        for name, i, d in named:
            if found.get((name, i)):
                d.dim_value = found[name, i]


def _dims(value: ValueInfoProto) -> Iterable[tuple[int, TensorShapeProto.Dimension]]:
    return enumerate(value.type.tensor_type.shape.dim)
