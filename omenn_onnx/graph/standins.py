"""Stand-ins for operators whose shapes ONNX's inference does not know: standard nodes of equal output types and shapes.

They are put into the copy of the model that shape inference reads, and never run. None of them is an operator that
constant folding evaluates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

Put = Callable[["Stand", dict[str, Any]], None]
STAND_INS: dict[tuple[str, str], Put] = {}
_ML = "ai.onnx.ml"


def stands_for(*ops: str, domain: str) -> Callable[[Put], Put]:
    """Registers the stand-in of some operators."""

    def register(function: Put) -> Put:
        for op in ops:
            STAND_INS[domain, op] = function
        return function

    return register


class Stand:
    """The nodes, and the weights known by their shape only, that stand for one node."""

    def __init__(self, node: NodeProto, model: ModelProto) -> None:
        self.node = node
        self.model = model
        self.nodes: list[NodeProto] = []
        self.weights: list[ValueInfoProto] = []

    def declared_rank(self, name: str) -> int | None:
        """The rank of a tensor, if the file says it or the Transpose that makes the tensor does."""
        graph = self.model.graph
        said = (v for v in (*graph.input, *graph.value_info) if v.name == name and v.type.tensor_type.HasField("shape"))
        ranks = [len(v.type.tensor_type.shape.dim) for v in said]
        ranks += [len(i.dims) for i in graph.initializer if i.name == name]
        for node in graph.node:
            if name in node.output and node.op_type == "Transpose":
                ranks += [len(a.ints) for a in node.attribute if a.name == "perm"]
        return ranks[0] if ranks else None

    def like(self, k: int, source: str, code: int | None = None) -> str:
        """Output k has the shape of ``source``, and its type or the one of ``code``."""
        out = str(self.node.output[k])
        inner = out if code is None else f"{out}/like"
        self.nodes.append(helper.make_node("Elu", [source], [inner], name=inner))
        if code is not None:
            self.nodes.append(helper.make_node("Cast", [inner], [out], name=out, to=code))
        return out

    def columns(self, k: int, source: str, count: int) -> str:
        """Output k is float, with ``count`` columns for each row of ``source``."""
        out = str(self.node.output[k])
        weight = f"{out}/weight"
        self.weights.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [None, count]))
        self.nodes.append(helper.make_node("Elu", [source], [f"{out}/like"]))
        self.nodes.append(helper.make_node("Cast", [f"{out}/like"], [f"{out}/rows"], to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("MatMul", [f"{out}/rows", weight], [out], name=out))
        return out

    def labels(self, k: int, scores: str, text: bool) -> None:
        """Output k holds one label for each row of ``scores``."""
        if not self.node.output[k]:
            return
        out = self.node.output[k]
        inner = f"{out}/index" if text else out
        self.nodes.append(helper.make_node("ArgMax", [scores], [inner], name=inner, axis=-1, keepdims=0))
        if text:
            self.nodes.append(helper.make_node("Cast", [inner], [out], name=out, to=TensorProto.STRING))


def put_stand_ins(model: ModelProto) -> None:
    """Replace the main graph's nodes that have a stand-in."""
    for node in model.graph.node:
        if node.op_type == "STFT" and all(a.name != "onesided" for a in node.attribute):
            node.attribute.append(helper.make_attribute("onesided", 1))  # inference takes the default as 0
    if not any((n.domain, n.op_type) in STAND_INS for n in model.graph.node):
        return
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        put = STAND_INS.get((node.domain, node.op_type))
        stand = Stand(node, model)
        if put is not None:
            put(stand, {a.name: helper.get_attribute_value(a) for a in node.attribute})
        nodes += stand.nodes or [NodeProto.FromString(node.SerializeToString())]
        model.graph.input.extend(stand.weights)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


# ai.onnx.ml


@stands_for("Scaler", "Normalizer", domain=_ML)
def _float_like(s: Stand, attrs: dict[str, Any]) -> None:
    s.like(0, s.node.input[0], TensorProto.FLOAT)


@stands_for("GroupNormalization", "MeanVarianceNormalization", domain="")
@stands_for("Imputer", domain=_ML)
def _same(s: Stand, attrs: dict[str, Any]) -> None:
    s.like(0, s.node.input[0])


@stands_for("LinearRegressor", domain=_ML)
def _targets(s: Stand, attrs: dict[str, Any]) -> None:
    s.columns(0, s.node.input[0], attrs.get("targets", 1))


@stands_for("TreeEnsembleRegressor", domain=_ML)
def _tree_targets(s: Stand, attrs: dict[str, Any]) -> None:
    s.columns(0, s.node.input[0], attrs.get("n_targets", 1))


@stands_for("SVMRegressor", domain=_ML)
def _one_target(s: Stand, attrs: dict[str, Any]) -> None:
    s.columns(0, s.node.input[0], 1)


@stands_for("FeatureVectorizer", domain=_ML)
def _features(s: Stand, attrs: dict[str, Any]) -> None:
    s.columns(0, s.node.input[0], sum(attrs.get("inputdimensions", [])))


@stands_for("SVMClassifier", "TreeEnsembleClassifier", domain=_ML)
def _classes(s: Stand, attrs: dict[str, Any]) -> None:
    texts = attrs.get("classlabels_strings", [])
    count = len(texts or attrs.get("classlabels_ints", attrs.get("classlabels_int64s", [])))
    pairs = s.node.op_type == "SVMClassifier" and attrs.get("vectors_per_class") and not attrs.get("prob_a")
    count = count * (count - 1) // 2 if pairs and count > 2 else count
    if len(s.node.output) > 1 and s.node.output[1]:
        s.labels(0, s.columns(1, s.node.input[0], count), bool(texts))
