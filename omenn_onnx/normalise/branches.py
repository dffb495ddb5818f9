"""If: the nodes of the branch that is taken; where that is known only at run time, both and a Where between them."""

from __future__ import annotations

from onnx import helper

from omenn_onnx.calculus.base import OutsideCalculus
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.flatten import Flat, flatten
from omenn_onnx.graph.ir import Graph, Node
from omenn_onnx.graph.read import captured_by, read_graph
from omenn_onnx.normalise.fragment import OUTER, fragment_model, splice

_CONDITION = "the condition"
_MAY_FAIL = frozenset(
    "Compress Gather GatherElements GatherND Loop OneHot Scan Scatter ScatterElements ScatterND SequenceAt "
    "Unique".split()
)
"""Operators that a value, and not a shape, can make fail."""
_ADVICE = (
    "; make its condition known at compile time: store the input that it depends on as an initializer, or give the "
    "model fixed shapes"
)


def linear_branches(node: Node, graph: Graph, emit: Emitter) -> list[Node]:
    """The nodes that stand for an If, over its own outputs and the outer tensors that its branches use."""
    condition = node.inputs[0]
    assert condition is not None
    then, other = node.attrs["then_branch"], node.attrs["else_branch"]
    inputs = dict(zip(captured_by(node), node.captured, strict=True))
    outputs = {f"o{k}": t for k, t in enumerate(node.outputs) if t.name}
    for name, t in inputs.items():
        if t.dtype is None or t.shape is None:
            raise OutsideCalculus(f"the shape of {name!r}, which a branch uses, is not known")
    if condition.value is not None:
        flat = flatten(then if condition.value.any() else other, "")
        ends = [helper.make_node("Identity", [o], [f"o{k}"], name=f"o{k}") for k, o in enumerate(flat.outputs)]
        flats = [flat]
    else:
        flats = [flatten(then, "then/"), flatten(other, "else/")]
        inputs[_CONDITION] = condition
        ends = [helper.make_node("Squeeze", [_CONDITION], ["taken"], name="taken")]
        for k, pair in enumerate(zip(flats[0].outputs, flats[1].outputs, strict=True)):
            ends.append(helper.make_node("Where", ["taken", *pair], [f"o{k}"], name=f"o{k}"))
    if any(f.sparse for f in flats):
        raise OutsideCalculus("a branch holds sparse weights")
    ends = [n for n in ends if n.output[0] in outputs or n.output[0] == "taken"]
    model = fragment_model(
        [n for f in flats for n in f.nodes] + ends,
        [i for f in flats for i in f.initializers],
        inputs,
        outputs,
        graph.domains,
    )
    if len(flats) > 1:
        _may_both_run(read_graph(model), flats)
    return splice(model, inputs | outputs, node, emit)


def _may_both_run(inner: Graph, flats: list[Flat]) -> None:
    """Both branches run whatever the condition: refused unless the one that is not taken cannot fail, and unless their
    outputs have equal shapes."""
    for first, second in zip(*(f.outputs for f in flats), strict=True):
        a, b = (inner.tensors[name] for name in (first, second))
        if a.is_float and (a.shape is None or a.shape != b.shape or a.dtype != b.dtype):
            raise OutsideCalculus(f"its branches give other shapes ({a.shape} and {b.shape}){_ADVICE}")
    for n in inner.nodes:
        if n.op in _MAY_FAIL and not all(t is None or t.const for t in n.inputs[1:]):
            raise OutsideCalculus(
                f"the branch that is not taken may fail: {n.op} reads places that are computed{_ADVICE}"
            )
        for t in n.outputs:
            if t.shape is None or any(isinstance(d, str) and not d.startswith(OUTER) for d in t.shape):
                raise OutsideCalculus(
                    f"the branch that is not taken may fail: a size in its {n.op} is not known{_ADVICE}"
                )
