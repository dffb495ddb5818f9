"""If: the nodes of the branch that is taken; where only the run tells which, both as graphs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import GraphProto, helper

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.flatten import Flat, flatten
from omenn_onnx.graph.ir import Graph, Node, Tensor
from omenn_onnx.graph.read import captured_by
from omenn_onnx.graph.step import Branch, InnerEmitter
from omenn_onnx.normalise.fragment import fragment_model, splice

Views = Callable[[Graph, Emitter], Any]


def is_branching(node: Node) -> bool:
    """Whether a node is an If that :func:`linear_branches` has not seen yet."""
    return node.domain == "" and node.op == "If" and node.step is None


def linear_branches(node: Node, graph: Graph, emit: Emitter, views: Views) -> list[Node]:
    """The nodes that stand for an If, over its own outputs and the outer tensors that its branches use; ``views``
    normalises a graph."""
    condition = node.inputs[0]
    assert condition is not None
    then, other = node.attrs["then_branch"], node.attrs["else_branch"]
    around = dict(zip(captured_by(node), node.captured, strict=True))
    for name, t in around.items():
        if t.dtype is None or t.shape is None:
            raise OutsideCalculus(f"the shape of {name!r}, which a branch uses, is not known")
    if condition.value is not None:
        return _taken(node, then if condition.value.any() else other, around, graph, emit)
    step = tuple(_branch(node, b, around, graph, emit, views) for b in (then, other))
    return [Node("If", "", [condition], node.outputs, node.attrs, node.origin, node.captured, step=step)]


def _flat(branch: GraphProto) -> Flat:
    flat = flatten(branch, "")
    if flat.sparse:
        raise OutsideCalculus("a branch holds sparse weights")
    return flat


def _taken(node: Node, branch: GraphProto, around: dict[str, Tensor], graph: Graph, emit: Emitter) -> list[Node]:
    """The nodes of one branch in the graph itself."""
    flat = _flat(branch)
    outputs = {f"o{k}": t for k, t in enumerate(node.outputs) if t.name}
    ends = [helper.make_node("Identity", [o], [f"o{k}"], name=f"o{k}") for k, o in enumerate(flat.outputs)]
    ends = [n for n in ends if n.output[0] in outputs]
    model = fragment_model([*flat.nodes, *ends], flat.initializers, around, outputs, graph.domains)
    return splice(model, around | outputs, node, emit)


def _branch(
    node: Node, branch: GraphProto, around: dict[str, Tensor], graph: Graph, emit: Emitter, views: Views
) -> Branch:
    """A branch as a graph of its own, which is computed only where it is taken."""
    flat = _flat(branch)
    outputs = {f"o{k}": Tensor("", t.dtype) for k, t in enumerate(node.outputs)}
    ends = [helper.make_node("Identity", [o], [f"o{k}"], name=f"o{k}") for k, o in enumerate(flat.outputs)]
    model = fragment_model([*flat.nodes, *ends], flat.initializers, around, outputs, graph.domains)
    own = Graph([], {}, [], [], graph.opset, graph.domains)
    inner = InnerEmitter(own, emit)
    results: dict[str, Tensor] = {}
    own.nodes = splice(model, around, node, inner, results)
    view = views(own, inner)
    return Branch(inner, own, [results[name] for name in outputs], view.nodes, view)
