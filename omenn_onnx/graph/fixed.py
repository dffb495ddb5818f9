"""A model for inputs of known sizes: free sizes take the values that they have there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, ValueInfoProto

from omenn_onnx.errors import FeedError
from omenn_onnx.graph.walk import graphs_of


def fix_sizes(proto: ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs of ``proto`` these shapes, in place, and every size of the same name the same value.

    Raises FeedError where a name would have two values.
    """
    sizes: dict[str, int] = {}
    for v in proto.graph.input:
        if v.name not in shapes or not v.type.tensor_type.HasField("shape"):
            continue
        for d, size in zip(v.type.tensor_type.shape.dim, shapes[v.name], strict=True):
            if d.dim_param and sizes.setdefault(d.dim_param, size) != size:
                raise FeedError(
                    f"input {v.name!r}: size {d.dim_param!r} is {size} here and {sizes[d.dim_param]} elsewhere"
                )
            d.dim_value = size
    for graph in graphs_of(proto):
        for v in (*graph.value_info, *graph.output):
            _fill(v, sizes)


def _fill(value: ValueInfoProto, sizes: Mapping[str, int]) -> None:
    for d in value.type.tensor_type.shape.dim:
        if d.dim_param in sizes:
            d.dim_value = sizes[d.dim_param]
