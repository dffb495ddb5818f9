"""The affine map of an instance with components taken out, as a plain ONNX model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from omenn_onnx.errors import SpectrumError
from omenn_onnx.linearise import precision
from omenn_onnx.runtime.contract import BARS
from omenn_onnx.runtime.engines import Held, OrtEngine
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.layers import between_two
from omenn_onnx.spectral.operators import Array, InstanceOperator, masked

HOLDS = (
    "affine map of a network at one input, frozen there: it equals the network, less what was taken out, at that "
    "input, and where the network is piecewise linear in the linear region around it; elsewhere it is an approximation"
)


class _Parts:
    """Nodes and weights of a model under construction."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.sparse: list[SparseTensorProto] = []

    def put(self, name: str, value: Array) -> str:
        full = f"{self.prefix}/{name}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), full))
        return full

    def op(self, op: str, *inputs: str, out: str = "") -> str:
        result = out or f"{self.prefix}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=result))
        return result

    def line(self, rows: str) -> str:
        """[1, ...] as [1, n]"""
        return self.op("Flatten", rows)

    def applied(self, operator: InstanceOperator, what: str, rows: str) -> str:
        """R v for the rows [1, *source shape], through the operator's own graph with its coefficients stored."""
        g = operator.segment.graphs
        part = onnx.compose.add_prefix(g.forward, f"{self.prefix}/{what}/")
        given = f"{self.prefix}/{what}/{g.forward_input}"
        for name in (i.name for i in g.forward.graph.input if i.name != g.forward_input):
            held = np.asarray(Held(operator.coefficients[name]).numpy())
            self.weights.append(numpy_helper.from_array(held, f"{self.prefix}/{what}/{name}"))
        self.weights.extend(part.graph.initializer)
        self.sparse.extend(part.graph.sparse_initializer)
        self.nodes.append(helper.make_node("Identity", [rows], [given], name=f"{given}/given"))
        self.nodes.extend(part.graph.node)
        return f"{self.prefix}/{what}/{g.forward_output}"


def pruned_model(
    instance: Instance,
    right: InstanceOperator,
    left: InstanceOperator,
    whole: InstanceOperator,
    basis: Array,
    dropping: bool,
    expected: Array,
    described: dict[str, Any],
) -> ModelProto:
    """x -> M x + b - L (R - P R) x, the operators M = ``whole``, R = ``right`` and L = ``left`` frozen; P takes
    U = ``basis`` [layer, d] out (I - U U^T) or keeps it alone (U U^T). ``expected``: its value at the instance.

    M x stands in the model only where something of it stays: with U alone kept, and no path past the layer, it is
    b + (L U)(R^T U)^T x. Raises SpectrumError where the model does not give ``expected``.
    """
    prefix = "omenn"
    while whole.source.startswith(prefix) or whole.target.startswith(prefix):
        prefix += "_"
    parts = _Parts(prefix)
    rows = parts.op("Unsqueeze", whole.source, parts.put("first", np.asarray([0], np.int64)))
    terms: list[str] = []
    if basis.shape[1]:
        read, written = right.rmatmat(basis.astype(right.dtype)), left.matmat(basis.astype(left.dtype))
        sign = -1 if dropping else 1
        thin = parts.op("MatMul", parts.line(rows), parts.put("read", read.astype(whole.dtype)))
        terms.append(parts.op("MatMul", thin, parts.put("written", (sign * written.T).astype(whole.dtype))))
    if dropping or instance.bypass(right.source, left, instance) is not None:
        terms.append(parts.line(parts.applied(whole, "whole", rows)))
        if not dropping:
            layer = parts.applied(right, "right", rows)
            terms.append(parts.op("Neg", parts.line(parts.applied(left, "left", layer))))
    total = parts.op("Sum", *terms, parts.put("bias", whole.bias.reshape(1, -1)))
    shape = parts.put("shape", np.asarray(whole.target_shape, np.int64))
    parts.op("Reshape", total, shape, out=whole.target)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(whole.dtype))
    graph = helper.make_graph(
        parts.nodes,
        "pruned",
        [helper.make_tensor_value_info(whole.source, code, whole.source_shape)],
        [helper.make_tensor_value_info(whole.target, code, whole.target_shape)],
        parts.weights,
        doc_string=HOLDS,
        sparse_initializer=parts.sparse,
    )
    frozen = whole.segment.graphs.forward
    model = helper.make_model(graph, opset_imports=frozen.opset_import, ir_version=frozen.ir_version)
    said = {"kind": "pruned instance", "source": whole.source, "target": whole.target, "holds": HOLDS, **described}
    helper.set_model_props(
        model, {f"omenn.spectral.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
    )
    _check(model, whole, expected, _precision(instance, whole))
    return model


def _precision(instance: Instance, whole: InstanceOperator) -> str:
    """The coarsest float type between source and target."""
    lin = instance.sized.lin
    ends = (lin.calculus.pairs[instance.sized.carrier(n, "tensor")].value for n in (whole.source, whole.target))
    return precision(lin, {e.out for e in between_two(lin, *ends)})


def _check(model: ModelProto, whole: InstanceOperator, expected: Array, precise: str) -> None:
    """That the model is valid and gives ``expected`` at the instance, to the bar of the type ``precise``."""
    onnx.checker.check_model(model)
    engine = OrtEngine(model, "cpu")
    found = engine.run({whole.source: whole.x.reshape(whole.source_shape)})[whole.target]
    real = np.abs(expected) < masked(expected.dtype)
    sizes = (np.abs(t.reshape(real.shape)[real]).max(initial=0.0) for t in (expected, whole.y, whole.bias))
    scale = max(1.0, *(float(size) for size in sizes))
    off = float(np.abs(found - expected, where=real, out=np.zeros(real.shape)).max(initial=0.0)) / scale
    if not off <= 10 * BARS[precise]:
        raise SpectrumError(
            f"the pruned model misses the pruned output by {off:.1e} of its scale: {precise} is too coarse for it; "
            "make the Linearization with dtype='float64', or take out fewer components"
        )
