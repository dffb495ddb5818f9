"""Function bodies of ai.onnx operators without a rule (Attention, RotaryEmbedding, MeanVarianceNormalization ...)."""

from __future__ import annotations

import itertools

import onnx
from onnx import defs, helper

from .stream import Node, Tensor

_fresh = itertools.count()


def _type_of(t: Tensor | None) -> bytes:
    if t is None:
        return onnx.TypeProto().SerializeToString()
    kind = onnx.TensorProto.FLOAT if t.value.dtype.kind == "f" else helper.np_dtype_to_tensor_dtype(t.value.dtype)
    return helper.make_tensor_type_proto(kind, t.shape).SerializeToString()


def _function(n: Node, inputs: list[Tensor | None]) -> onnx.FunctionProto | None:
    try:
        schema = defs.get_schema(n.op, n.opset, n.domain)
    except defs.SchemaError:
        return None
    text = None
    if schema.has_function:
        text = schema.function_body.SerializeToString()
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= n.opset] or [
            schema.since_version
        ]
        text = schema.get_context_dependent_function_with_opset_version(
            max(versions), n.proto.SerializeToString(), [_type_of(t) for t in inputs]
        )
    if not text:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    return function


def function_body(n: Node, inputs: list[Tensor | None]) -> tuple[list[onnx.NodeProto], dict[str, int]] | None:
    """The nodes that replace n, with fresh names and n's attributes filled in, and their opsets."""
    function = _function(n, inputs)
    if function is None:
        return None
    prefix = f"__{n.name}_{next(_fresh)}_"
    rename = dict(itertools.zip_longest(function.input, n.inputs[: len(function.input)], fillvalue=""))
    rename |= dict(zip(function.output, n.outputs, strict=False))
    rename = {k: v or (prefix + k if k in function.output else "") for k, v in rename.items()}
    own = {a.name: a for a in n.proto.attribute}
    defaults = {a.name: a for a in function.attribute_proto}
    protos = []
    for original in function.node:
        proto = onnx.NodeProto()
        proto.CopyFrom(original)
        proto.name = ""
        for names in (proto.input, proto.output):
            for i, name in enumerate(names):
                names[i] = rename.setdefault(name, prefix + name) if name else ""
        kept = []
        for a in proto.attribute:
            if a.ref_attr_name:
                source = own.get(a.ref_attr_name, defaults.get(a.ref_attr_name))
                if source is None and a.ref_attr_name in n.attrs:  # the schema's default
                    source = helper.make_attribute(a.name, n.attrs[a.ref_attr_name])
                if source is None:
                    continue
                renamed = onnx.AttributeProto()
                renamed.CopyFrom(source)
                renamed.name = a.name
                a = renamed
            kept.append(a)
        kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        protos.append(proto)
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import}
    return protos, opsets or {"": n.opset}
