"""Whole files in the forms that exporters give them: names that clash, functions of another opset, shapes changed last,
outputs that are sequences; and what the runtime's optimiser does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from explaining import Array, assert_close, assert_complete, assert_same_outputs, compiled, explain
from onnx import helper, parser

import omenn_onnx
from omenn_onnx.errors import CompileError, UnsupportedOperators

RULES = ("secant", "tangent")
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def model(text: str, imports: str = '"" : 20') -> onnx.ModelProto:
    return parser.parse_model(f"<ir_version: 9, opset_import: [{imports}]> {text}")


def maps(proto: onnx.ModelProto, feeds: dict[str, Array], **options: Any) -> tuple[Array, Array]:
    """C_w and C_b, of a complete explanation with the model's own outputs, optimised or not."""
    program = compiled(proto, **options)
    for optimise in (True, False):
        result = explain(program, feeds, optimise)
        assert_complete(result)
        own = {k: v for k, v in feeds.items() if k in {i.name for i in proto.graph.input}}
        assert_same_outputs(result, proto, own, optimise)
    return result.c_w[0], result.c_b[0]


CLASH = """g (float[N,4] x) => (float[N,2] y)
<float[4,2] W = {1, -2, 0.5, 1, 3, -1, 2, 0.3}, float[2] target = {0.5, -1}>
{ C_w = MatMul(x, W)  score = Add(C_w, target)  y = Tanh(score) }"""


@pytest.mark.parametrize("rules", RULES)
def test_inner_names_make_room(rules: str) -> None:
    """Tensors inside a model that are called as the new outputs are; they are still found by their names."""
    plain = CLASH.replace("C_w", "h").replace("score", "s").replace("target", "b")
    expected = maps(model(plain), {"x": X}, rules=rules)
    for a, b in zip(maps(model(CLASH), {"x": X}, rules=rules), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    by_name = maps(model(CLASH), {"x": X}, rules=rules, output="score")
    for a, b in zip(by_name, maps(model(plain), {"x": X}, rules=rules, output="s"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_outer_names_stay() -> None:
    """An output of the model that is called so is an error, which says what to do."""
    with pytest.raises(CompileError, match="--prefix"):
        omenn_onnx.compile(model(CLASH.replace("y)", "score)", 1).replace("y = Tanh(score)", "")))


FUNCTIONS = """g (float[N,4] x) => (float[N,4] y) { h = own.norm<axis=-1>(x)  y = own.outer(h) }
<domain: "own", opset_import: ["" : OLD]> norm<axis>(a) => (b)
{ c = Neg(a)  s = Softmax<axis: int = @axis>(c)  b = Mul(s, a) }
<domain: "own", opset_import: ["" : 20, "own" : 1]> outer(a) => (b) { c = own.norm<axis=-1>(a)  b = Add(c, a) }"""


@pytest.mark.parametrize("rules", RULES)
def test_functions_of_another_opset(rules: str) -> None:
    """A function that imports opset 14 in a model at opset 20, called directly and from another function."""
    old, new = (model(FUNCTIONS.replace("OLD", version), '"" : 20, "own" : 1') for version in ("14", "20"))
    for a, b in zip(maps(old, {"x": X}, rules=rules), maps(new, {"x": X}, rules=rules), strict=True):
        np.testing.assert_array_equal(a, b)


def with_vector(text: str, sizes: list[int]) -> onnx.ModelProto:
    proto = model(text)
    proto.graph.initializer.append(helper.make_tensor("v", onnx.TensorProto.FLOAT, sizes, [0.5, -1.0, 2.0, 0.3]))
    return proto


@pytest.mark.parametrize("rules", RULES)
def test_a_matrix_times_a_vector_behind_a_transpose(rules: str) -> None:
    """ONNX Runtime fuses such a Transpose into the MatMul, whose numbers are then wrong: not in a compiled file."""
    body = "h = Transpose<perm=[1,0]>(x)  z = MatMul(h, v)  y = Tanh(z)"
    proto = with_vector(f"g (float[4,N] x) => (float[N] y) {{ {body} }}", [4])
    seed = np.array([1.0, -2.0, 0.5], np.float32)
    plain = with_vector("g (float[N,4] x) => (float[N,1] y) { z = MatMul(x, v)  y = Tanh(z) }", [4, 1])
    expected = explain(compiled(plain, rules=rules, target="seed", output="y"), {"x": X, "seed": seed[:, None]})
    program = compiled(proto, rules=rules, target="seed", channel_axis=0, output="y")
    for optimise in (True, False):
        result = explain(program, {"x": np.ascontiguousarray(X.T), "seed": seed}, optimise)
        assert_close(result.outputs["y"], expected.outputs["y"][:, 0], 1e-6, "y")
        assert_close(result.c_w[0].T, expected.c_w[0], 1e-6, "C_w")
        assert_close(result.c_b[0].T, expected.c_b[0], 1e-6, "C_b")


ROWS = """g (float[N,4] x) => (float[N,1] y)
<float[4,1] W = {1, -2, 0.5, 1}, float[1,1] b = {0.3}, int64[1] a = {1}, int64[2] s = {-1, 1}>
{ z = MatMul(x, W)  v = Squeeze(z, a)  line = Add(v, b)  y = Reshape(line, s) }"""


@pytest.mark.parametrize("rules", RULES)
def test_rows_are_those_of_the_output(rules: str) -> None:
    """A regressor that works on a line [1, N] and gives a column [N, 1]: every row is explained, not the largest."""
    c_w, _ = maps(model(ROWS), {"x": X}, rules=rules)
    np.testing.assert_allclose(c_w, [[1, -2, 0.5, 1]] * 3, rtol=1e-6)


def test_a_reshaped_softmax_is_still_a_tail() -> None:
    proto = model(
        "g (float[N,4] x) => (float[M] y) <int64[1] s = {-1}> "
        "{ z = Softplus(x)  p = Softmax<axis=-1>(z)  y = Reshape(p, s) }"
    )
    for a, b in zip(maps(proto, {"x": X}), maps(proto, {"x": X}, output="z"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sequence_as_output() -> None:
    """Its first tensor that depends on the input is explained."""
    proto = model(
        "g (float[N,4] x) => (seq(float[N,4]) y) "
        "{ a = Softplus(x)  p = Softmax<axis=-1>(a)  b = Neg(x)  y = SequenceConstruct(p, b) }"
    )
    for a, b in zip(maps(proto, {"x": X}), maps(proto, {"x": X}, output="a"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rules", RULES)
def test_a_body_for_every_element(rules: str) -> None:
    """SequenceMap over the columns of a tensor is its body on the whole; what it captures and shares stays."""
    mapped = model(
        "g (float[N,4] x) => (float[N,4] y) <float c = {0.5}> { s = SplitToSequence<axis=1>(x)  n = Neg(x) "
        "r = SplitToSequence<axis=1>(n)  k = Softplus(c)  m = SequenceMap<body=b (float[N,1] e, float[N,1] d, float w) "
        "=> (float[N,1] f) { t = Tanh(e)  h = Mul(t, d)  l = Mul(h, w)  f = Add(l, k) }>(s, r, c) "
        "y = ConcatFromSequence<axis=1>(m) }"
    )
    plain = model(
        "g (float[N,4] x) => (float[N,4] y) <float c = {0.5}> "
        "{ n = Neg(x)  k = Softplus(c)  t = Tanh(x)  h = Mul(t, n)  l = Mul(h, c)  y = Add(l, k) }"
    )
    for a, b in zip(*(maps(m, {"x": X}, rules=rules) for m in (mapped, plain)), strict=True):
        assert_close(a, b, 1e-6, "map")


def test_what_is_refused_is_said_behind_operators_without_a_schema() -> None:
    """Strict shape inference does not know ai.onnx.ml: that is no misfit of shapes, and hides no refusal."""
    proto = model(
        """g (float[N,4] x) => (float[N,N] y) { s = ai.onnx.ml.Scaler<offset=[0.5], scale=[2.0]>(x)
        l = Scan<num_scan_inputs=1, body=step (float[4] e) => (float[4] o) { o = Tanh(e) }>(s)
        t = Transpose<perm=[1,0]>(l)  g = MatMul(l, t)  y = com.microsoft.Inverse(g) }""",
        '"" : 20, "ai.onnx.ml" : 3, "com.microsoft" : 1',
    )
    with pytest.raises(UnsupportedOperators, match=r"com\.microsoft\.Inverse"):
        omenn_onnx.compile(proto)
