"""If: the branch that is taken, inlined; both branches where that is known only at run time; nested; refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from explaining import Result, assert_close, assert_complete, assert_same_outputs, compiled, explain
from onnx import TensorProto, helper, numpy_helper, parser

import omenn_onnx
from omenn_onnx.errors import UnsupportedOperators

Array = np.ndarray[Any, Any]
RULES = ("secant", "tangent")
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
V = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


def graph(name: str, nodes: str, outputs: str = "z", weights: dict[str, Array] | None = None) -> onnx.GraphProto:
    """A branch: nodes as text, over names of its own and of the graph around it."""
    made = [parser.parse_node(t.strip()) for t in nodes.split(";") if t.strip()]
    infos = [helper.make_empty_tensor_value_info(o) for o in outputs.split()]
    return helper.make_graph(made, name, [], infos, [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()])


def if_node(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, outputs: str = "y") -> onnx.NodeProto:
    node = helper.make_node("If", [condition], outputs.split(), name="choice")
    pairs = (("then_branch", then), ("else_branch", other))  # as PyTorch writes them, not in the order of the alphabet
    node.attribute.extend(helper.make_attribute(k, g) for k, g in pairs)
    return node


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array] | None = None,
    more: list[onnx.ValueInfoProto] | None = None,
    rows: int | str = "N",
    output: list[Any] | None = None,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3] if output is None else output)
    held = [numpy_helper.from_array(v, k) for k, v in {"W": W, "V": V, **(weights or {})}.items()]
    made = helper.make_graph(nodes, "g", [x, *(more or [])], [y], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


THEN = "h = MatMul(x, W); b = Tanh(h); z = Add(b, c)"
ELSE = "h = MatMul(x, V); z = Sigmoid(h)"
SHIFT = np.array([0.5, -1.0, 2.0], np.float32)
FLAG = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])


def choice(outputs: str = "y") -> onnx.NodeProto:
    """An If whose branches use an outer weight, weights of their own and the same inner names."""
    return if_node("flag", graph("t", THEN, weights={"c": SHIFT}), graph("e", ELSE), outputs)


def plain(taken: bool) -> onnx.ModelProto:
    """The branch by itself."""
    nodes = [parser.parse_node(t) for t in (THEN if taken else ELSE).replace("z =", "y =").split("; ")]
    return model(nodes, {"c": SHIFT} if taken else {})


def same(actual: Result, expected: Result) -> None:
    np.testing.assert_array_equal(actual.target, expected.target)
    assert_close(actual.score, expected.score, 1e-6, "score")
    assert_close(actual.c_w[0], expected.c_w[0], 1e-6, "C_w")
    assert_close(actual.c_b[0], expected.c_b[0], 1e-6, "C_b")


def flag(value: bool) -> Array:
    return np.array(value)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_both_branches(known: bool, taken: bool, rules: str) -> None:
    """An If is its branch, whether its condition is known at compile time or only at run time."""
    made = model([choice()], {"flag": flag(taken)} if known else {}, [] if known else [FLAG])
    feeds = {"x": X} if known else {"x": X, "flag": flag(taken)}
    for optimise in (True, False):
        result = explain(compiled(made, rules=rules, output="y"), feeds, optimise)
        assert_complete(result)
        assert_same_outputs(result, made, feeds, optimise)
        same(result, explain(compiled(plain(taken), rules=rules, output="y"), {"x": X}))


@pytest.mark.parametrize("taken", [True, False])
def test_the_part_that_is_not_taken_is_not_run(taken: bool) -> None:
    """A known condition leaves nothing of the other branch in the compiled file."""
    program = compiled(model([choice()], {"flag": flag(taken)}))
    new = {n.op_type for n in program.graph.node}
    assert ("Tanh" in new) == taken
    assert "If" in new, "the model's own node stays"


@pytest.mark.parametrize("rules", RULES)
def test_condition_from_shapes(rules: str) -> None:
    """A squeeze that depends on a size, as TorchScript writes it: with a fixed size the rank of the output is known."""
    nodes = [
        helper.make_node("Gemm", ["x", "W"], ["h"]),
        helper.make_node("Unsqueeze", ["h", "one"], ["u"]),
        *(parser.parse_node(t) for t in ("s = Shape(u)", "d = Gather(s, one)", "flag = Equal(d, one)")),
        if_node("flag", graph("t", "z = Squeeze(u, one)"), graph("e", "z = Identity(u)"), "v"),
        parser.parse_node("y = Relu(v)"),
    ]
    made = model(nodes, {"one": np.array([1], np.int64)}, rows=5)
    result = explain(compiled(made, rules=rules, output="y"), {"x": X})
    assert_complete(result)
    other = [parser.parse_node("h = Gemm(x, W)"), parser.parse_node("y = Relu(h)")]
    same(result, explain(compiled(model(other), rules=rules, output="y"), {"x": X}))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("known", ["both", "outer", "none"])
def test_nested(known: str, first: bool, second: bool, rules: str) -> None:
    """An If within a branch, each condition known at compile time or at run time; a weight of the outer branch is used
    in the inner one."""
    inner = if_node("other", graph("t", "i = Mul(h, c)", "i"), graph("e", "q = Tanh(h); i = Sub(q, c)", "i"), "k")
    then = graph("t", "h = MatMul(x, W)", "z", {"c": SHIFT})
    then.node.extend([inner, parser.parse_node("m = Sigmoid(k)"), parser.parse_node("z = Mul(m, k)")])
    nodes = [if_node("flag", then, graph("e", ELSE), "v"), parser.parse_node("y = Add(v, v)")]
    values = {"flag": flag(first), "other": flag(second)}
    fixed = {k: v for k, v in values.items() if known == "both" or (known == "outer" and k == "flag")}
    more = [helper.make_tensor_value_info(k, TensorProto.BOOL, []) for k in values if k not in fixed]
    feeds = {"x": X, **{k: v for k, v in values.items() if k not in fixed}}
    made = model(nodes, fixed, more)
    result = explain(compiled(made, rules=rules, output="y"), feeds)
    assert_complete(result)
    assert_same_outputs(result, made, feeds, True)
    if not first:
        text = "h = MatMul(x, V); v = Sigmoid(h); y = Add(v, v)"
    else:
        kept = "k = Mul(h, c)" if second else "q = Tanh(h); k = Sub(q, c)"
        text = f"h = MatMul(x, W); {kept}; m = Sigmoid(k); v = Mul(m, k); y = Add(v, v)"
    twin = model([parser.parse_node(t) for t in text.split("; ")], {"c": SHIFT})
    same(result, explain(compiled(twin, rules=rules, output="y"), {"x": X}))


@pytest.mark.parametrize("rules", RULES)
def test_a_branch_that_is_an_outer_tensor_or_a_constant(rules: str) -> None:
    """A branch without nodes, and one that does not depend on the input: a constant, on the other branch's ones."""
    for then, other, text in (
        (graph("t", "z = Identity(h)"), graph("e", "z = Relu(h)"), ("y = Identity(h)", "y = Relu(h)")),
        (graph("t", "", "c", {"c": np.tile(SHIFT, (5, 1))}), graph("e", "z = Relu(h)"), ("", "y = Relu(h)")),
    ):
        nodes = [parser.parse_node("h = MatMul(x, W)"), if_node("flag", then, other)]
        made = model(nodes, more=[FLAG], rows=5, output=[5, 3])
        for taken in (True, False):
            result = explain(compiled(made, rules=rules, output="y"), {"x": X, "flag": flag(taken)})
            assert_complete(result)
            if text[not taken]:
                twin = model([nodes[0], parser.parse_node(text[not taken])])
                same(result, explain(compiled(twin, rules=rules, output="y"), {"x": X}))
            else:
                assert not result.c_w[0].any()


def test_an_inner_branch_gives_a_coefficient() -> None:
    """What an inner If gives becomes a coefficient: its copy next to the graph reads the renamed tensors around it."""
    inner = if_node("other", graph("t", "i = Exp(h)", "i"), graph("e", "q = Add(h, c); i = Cos(q)", "i"), "k")
    then = graph("t", "h = MatMul(x, W)", "z", {"c": SHIFT})
    then.node.extend([inner, parser.parse_node("k2 = Mul(k, k)"), parser.parse_node("z = Tanh(k2)")])
    more = [helper.make_tensor_value_info("other", TensorProto.BOOL, [])]
    made = model([if_node("flag", then, graph("e", ELSE))], {"flag": flag(True)}, more)
    for taken in (True, False):
        for rules in RULES:
            feeds = {"x": X, "other": flag(taken)}
            result = explain(compiled(made, rules=rules, output="y"), feeds)
            assert_complete(result)
            assert_same_outputs(result, made, feeds, True)


REFUSALS = {
    "other shapes": (graph("t", "z = MatMul(x, W)"), graph("e", "z = Identity(x)"), "its branches give other shapes"),
    "places": (
        graph("t", "h = MatMul(x, W); s = Shape(x); m = ArgMax<axis=0, keepdims=0>(x); g = Gather<axis=0>(h, m); "
                   "t = ReduceSum(g); z = Add(h, t)"),
        graph("e", "z = MatMul(x, W)"),
        "Gather reads places that are computed",
    ),
    "sizes": (
        graph("t", "h = MatMul(x, W); n = NonZero(x); c = Cast<to=1>(n); t = ReduceMax(c); z = Add(h, t)"),
        graph("e", "z = MatMul(x, W)"),
        "a size in its NonZero is not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_refused_at_run_time(kind: str) -> None:
    """Where the branch that is not taken could fail, or the shapes differ: an error that says what to do. The same with
    a known condition compiles."""
    then, other, why = REFUSALS[kind]
    with pytest.raises(UnsupportedOperators, match=rf"choice.*{why}.*known at compile time"):
        omenn_onnx.compile(model([if_node("flag", then, other)], more=[FLAG]))
    for taken in (True, False):
        made = model([if_node("flag", then, other)], {"flag": flag(taken)}, output=["N", "M"])
        result = explain(compiled(made, output="y"), {"x": X})
        total = sum(float(a.sum()) for a in (result.c_w[0] * X, result.c_b[0]))
        assert abs(total - result.score.sum()) < 1e-4  # (rows of one of them interact)
