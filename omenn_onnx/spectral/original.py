"""The model inside a compiled file."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import ModelProto

from omenn_onnx.errors import ModelFileError
from omenn_onnx.graph.extract import reads
from omenn_onnx.runtime.contract import read_contract


@dataclass(frozen=True)
class Choices:
    """What was said when a file was compiled: explained inputs and output, channel axes, opaque operators, and float64
    where it was that (an operator has no half precision: float32 else)."""

    inputs: tuple[str, ...] = ()
    output: str | None = None
    axes: dict[str, int] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()
    dtype: str = "float32"


def is_compiled(proto: ModelProto) -> bool:
    """Whether omenn-compile made the file."""
    return any(p.key == "omenn.format" for p in proto.metadata_props)


def take_out(proto: ModelProto, where: str) -> Choices:
    """Take from a compiled model, in place, what the compiler put in; what it had been told.

    Raises ModelFileError where the file does not say what is whose.
    """
    contract = read_contract({p.key: p.value for p in proto.metadata_props}, where)
    graph = proto.graph
    own = set(contract.outputs)
    if not own <= {o.name for o in graph.output}:
        raise ModelFileError(f"{where} lacks outputs that its metadata names: {', '.join(sorted(own))}")
    wanted = own | {i.name for i in contract.inputs}
    kept = []
    for node in reversed(graph.node):
        if any(o in wanted for o in node.output):
            kept.append(node)
            wanted.update(reads(node))
    nodes = kept[::-1]
    outputs = [o for o in graph.output if o.name in own]
    new_inputs = {contract.target_input, contract.seed_input}
    inputs = [v for v in graph.input if v.name not in new_inputs]
    weights = [i for i in graph.initializer if i.name in wanted]
    for field_, values in ((graph.node, nodes), (graph.output, outputs), (graph.input, inputs)):
        del field_[:]
        field_.extend(values)
    del graph.initializer[:]
    graph.initializer.extend(weights)
    said = [p for p in proto.metadata_props if not p.key.startswith("omenn.")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(said)
    axes = {i.name: i.channel_axis for i in contract.inputs}
    dtype = "float64" if contract.dtype == "float64" else "float32"
    known = wanted | {o for n in nodes for o in n.output}
    output = contract.output if contract.output in known else None  # (inside an operator, as the default is at times)
    return Choices(tuple(axes), output, axes, contract.opaque, dtype)
