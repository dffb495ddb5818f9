"""Model-local functions put in place of their calls."""

from __future__ import annotations

from onnx import ModelProto, inliner

from omenn_onnx.graph.walk import nodes_of


def inline_functions(proto: ModelProto) -> ModelProto:
    """``proto`` without functions.

    onnx's inliner leaves a function alone that imports another opset than the model. The checker has seen to it that
    the operators of such a function are the same in both, so it takes the model's.
    """
    if not proto.functions:
        return proto
    versions = {o.domain: o.version for o in proto.opset_import}
    for function in proto.functions:
        for o in function.opset_import:
            o.version = versions.get(o.domain, o.version)
    _give_defaults(proto)
    return inliner.inline_local_functions(proto)


def _give_defaults(proto: ModelProto) -> None:
    """Write the default attributes of a function where it is called without them: onnx's inliner forgets them."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in proto.functions}
    for node in nodes_of(proto):
        given = {a.name for a in node.attribute}
        missing = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(a for a in missing if a.name not in given)
