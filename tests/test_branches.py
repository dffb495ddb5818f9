"""If: the branch that is taken, inlined; chosen by an If of the explanation's own where only the run tells; nested."""

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


CHOICES = {
    "other shapes": ("z = MatMul(x, W)", "z = Identity(x)"),
    "places": (
        "h = MatMul(x, W); m = ArgMax<axis=0, keepdims=0>(x); g = Gather(h, m); t = ReduceSum(g); z = Add(h, t)",
        "z = MatMul(x, W)",
    ),
    "sizes": ("h = MatMul(x, W); n = NonZero(x); f = Cast<to=1>(n); t = ReduceMax(f); z = Add(h, t)", ELSE),
    "not finite": ("l = Log(x); r = Sqrt(l); h = MatMul(r, W); z = Softmax(h)", ELSE),
    "fails": ("h = MatMul(x, W); s = Reshape(h, bad); z = Tanh(s)", ELSE),
    "layers": ("h = MatMul(x, W); g = Sigmoid(h); z = Mul(h, g)", "z = LayerNormalization(x, d)"),
}
"""Branches whose shapes differ, and which fail or are not finite where they are not taken."""


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", CHOICES)
def test_only_the_branch_that_is_taken_is_run(kind: str, rules: str) -> None:
    """Its maps are those of the branch by itself, whatever the other one is."""
    then, other = CHOICES[kind]
    weights = {"bad": np.array([7, 3], np.int64), "d": np.array([1.0, 0.5, 2.0, -1.0], np.float32)}
    nodes = [if_node("flag", graph("t", then), graph("e", other), "v"), parser.parse_node("y = Sigmoid(v)")]
    made = model(nodes, weights, [FLAG], output=["N", "M"])
    program = compiled(made, rules=rules, output="v")
    for taken in (True, False):
        if taken and kind in ("fails", "not finite"):
            continue
        plain = [parser.parse_node(t) for t in (then if taken else other).split("; ")]
        plain.append(parser.parse_node("y = Sigmoid(z)"))
        twin = compiled(model(plain, weights, output=["N", "M"]), rules=rules, output="z")
        for optimise in (True, False):
            feeds = {"x": X, "flag": flag(taken)}
            result = explain(program, feeds, optimise)
            assert_same_outputs(result, made, feeds, optimise)
            same(result, explain(twin, {"x": X}))


def test_several_targets_and_double() -> None:
    """A branch with the axis of the targets, and in the audit mode."""
    made = model([choice()], more=[FLAG])
    for taken in (True, False):
        feeds = {"x": X, "flag": flag(taken)}
        single = explain(compiled(made, output="y"), feeds)
        several = explain(compiled(made, output="y", target="top:2"), feeds)
        assert_close(several.c_w[0][:, 0], single.c_w[0], 1e-6, "C_w")
        assert_close(several.c_b[0][:, 0], single.c_b[0], 1e-6, "C_b")
        assert_complete(explain(compiled(made, output="y", dtype="float64"), feeds), 1e-12)


def test_condition_that_depends_on_the_input() -> None:
    """The branch that the input takes; rows stay apart, but for the condition."""
    nodes = [parser.parse_node(t) for t in ("t = ReduceSum<keepdims=0>(x)", "flag = Greater(t, zero)")]
    program = compiled(model([*nodes, choice()], {"zero": np.array(0, np.float32)}), output="y")
    for x in (X, -X):
        found = explain(program, {"x": x})
        assert_complete(found)
        same(found, explain(compiled(plain(bool(x.sum() > 0)), output="y"), {"x": x}))


def test_refused_in_a_branch() -> None:
    """What has no linear form in one of the branches is named, from both branches at once."""
    branches = graph("t", "d = Det(x); z = Add(x, d)"), graph("e", "p = Softmax(x); z = Mod<fmod=1>(x, p)")
    made = model([if_node("flag", *branches)], more=[FLAG], output=["N", "M"])
    with pytest.raises(UnsupportedOperators, match=r"2 node\(s\).*Det.*Mod"):
        omenn_onnx.compile(made, output="y")


def test_refused_ranks() -> None:
    """Outputs of different ranks: an error that says what to do."""
    made = model([if_node("flag", graph("t", "z = MatMul(x, W)"), graph("e", "z = ReduceSum(x, one)"), "v"),
                  parser.parse_node("y = Relu(v)")], {"one": np.array([1], np.int64)}, [FLAG])  # fmt: skip
    made.graph.node[0].attribute[1].g.node[0].attribute.append(helper.make_attribute("keepdims", 0))
    with pytest.raises(UnsupportedOperators, match=r"choice.*different ranks.*known at compile time"):
        omenn_onnx.compile(made, output="y")
