"""Operators of an instance: adjoint identity, completeness, matrices and biases of the dense oracle, composition,
forms of models, errors, and the graphs that they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import CASES
from cases.base import Case
from explaining import evaluate, run
from onnx import numpy_helper, parser
from operator_checks import Array, adjoint_gap, assert_as_oracle, assert_operator, on_one_thread, operators
from oracle import NoCarrierPath, NotInOracle
from oracle import explain as dense
from oracle.drawn import KINDS, graph
from oracle.drawn import operator as drawn_operator
from scipy.sparse.linalg import aslinearoperator

import omenn_onnx
from omenn_onnx.cli.compile import main as compile_file
from omenn_onnx.errors import FeedError, NameNotFound, NoPath, OmennError, OperatorError, UnsupportedOperators
from omenn_onnx.runtime import engines
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.operators import AffineOperator

RULES = ("secant", "tangent")
both = pytest.mark.parametrize("rules", RULES)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_session", on_one_thread)


def net(text: str, opset: int = 20, ir: int = 10, more: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{more}]> g {text}')


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded_away(op: AffineOperator, wide: AffineOperator) -> bool:
    """Whether both directions are within rounding of the operator in float64, which is 0 or nearly so."""
    exact = wide.dense()
    columns = op.matmat(np.eye(op.shape[1], dtype=op.dtype))
    rows = op.rmatmat(np.eye(op.shape[0], dtype=op.dtype)).T
    return all(np.abs(m - exact).max() <= 1e-6 for m in (columns, rows))


# --- every rule ------------------------------------------------------------------------------------------------------

SOME_CASES = [c for c in CASES if c.runtime][::9]


@pytest.mark.parametrize(
    ("case", "rules"), [pytest.param(c, r, id=f"{c.name}-{r}") for c in SOME_CASES for r in c.rules]
)
def test_case(case: Case, rules: str) -> None:
    """The table of operator rules: between the tensors of a case, and against the oracle."""
    model, feeds, axis = case.model(), case.feeds(), case.channels()[0]
    options = {"inputs": case.inputs, "output": case.output, "channel_axis": axis, "opaque": case.opaque}
    dtype = "float64" if case.dtype == np.float64 else "float32"
    instance = Linearization(model, rules=rules, dtype=dtype, **options).at(feeds)
    check(instance, lambda: Linearization(model, rules=rules, dtype="float64", **options).at(feeds))
    if not case.same_as and not case.opaque:
        assert_as_oracle(instance, model, feeds, rules, dict.fromkeys(case.inputs, axis))


def check(instance: Instance, wide: Callable[[], Instance], most: int = 2) -> None:
    for op in operators(instance, most):
        if adjoint_gap(op) > 1e-5:
            assert rounded_away(op, wide().operator(op.source, op.target)), op
            assert op.residual <= 1e-5
        else:
            assert_operator(op)


@both
@pytest.mark.parametrize("number", range(24))
def test_random_graph(number: int, rules: str) -> None:
    """Random graphs that mix the clauses of the calculus."""
    model, feeds, inputs = graph(number, number % 2 == 1)
    against_oracle(model, feeds, inputs, rules, number)


@both
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_random_operator(kind: str, number: int, rules: str) -> None:
    drawn = drawn_operator(kind, number)
    if drawn is None:
        pytest.skip("no kernel in ONNX Runtime")
    against_oracle(*drawn, rules, number)


def against_oracle(model: onnx.ModelProto, feeds: dict[str, Array], inputs: list[str], rules: str, number: int) -> None:
    axis = number % min(v.ndim for v in feeds.values())
    options: dict[str, Any] = {"inputs": inputs, "output": "y", "channel_axis": axis, "rules": rules}
    instance = Linearization(model, **options).at(feeds)
    check(instance, lambda: Linearization(model, dtype="float64", **options).at(feeds), most=3)
    with contextlib.suppress(NotInOracle, NoCarrierPath):
        assert assert_as_oracle(instance, model, feeds, rules, dict.fromkeys(inputs, axis))


# --- scipy's interface -----------------------------------------------------------------------------------------------

WEIGHTS = (
    "float[4,3] w = {0.1,0.2,0.3,-0.4,0.5,0.6,-0.7,0.8,0.9,0.1,-0.2,0.3}, float[3] b = {0.1,0.2,-0.3}, "
    "float[3,3] k = {0.1,0.2,-0.3,0.4,-0.5,0.6,0.7,0.8,-0.9}"
)
CHAIN = net(
    f"(float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ h = MatMul(x,w) g = Add(h,b) r = Relu(g) c = Cast<to=1>(r) "
    "z = MatMul(c,k) t = Tanh(z) s = Add(t,b) y = Softmax(s) }"
)
"""x -> g -> r -> t -> s, each separates; c is r by another name."""
AT = {"x": normal(2, 4)}


def test_products_are_the_matrix() -> None:
    op = Linearization(CHAIN).at(AT).operator()
    assert (op.shape, op.dtype, op.source, op.target) == ((6, 8), np.float32, "x", "s")
    matrix = op.dense()
    assert np.abs(matrix).max() > 0.1
    v, u = np.random.default_rng(0).standard_normal((8, 150)), np.random.default_rng(1).standard_normal((6, 131))
    op.batch = 64  # (neither 150 nor 131 is a multiple)
    np.testing.assert_allclose(op.matmat(v), matrix @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(op.rmatmat(u), matrix.T @ u, rtol=1e-5, atol=1e-5)
    for k in (0, 64, 149):
        np.testing.assert_array_equal(op.matvec(v[:, k]), op @ v[:, k])
        np.testing.assert_allclose(op.matvec(v[:, [k]]), op.matmat(v)[:, [k]], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(op.rmatvec(u[:, k % 131]), op.rmatmat(u)[:, k % 131], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(op.matvec(np.arange(8)), matrix @ np.arange(8.0), rtol=1e-5)
    assert op.matvec(v[:, 0]).dtype == np.float32
    assert op.matmat(np.zeros((8, 0))).shape == (6, 0)
    np.testing.assert_allclose(op.rmatmat(np.eye(6)).T, matrix, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(op.T.dense(), matrix.T, rtol=1e-6, atol=1e-6)
    assert op.T.T is op
    np.testing.assert_allclose(op.H @ u[:, 0], op.rmatvec(u[:, 0]))


@pytest.mark.parametrize("batch", [1, 4, 5, 8, 100])
def test_batches(batch: int) -> None:
    """By columns (12 x 8, twice as wide as x is) and by rows, whatever the batch is."""
    model = net("(float[N,4] x) => (float[N,8] y) { n = Neg(x) y = Concat<axis=1>(x, n) }")
    op = Linearization(model, output="y").at(normal(2, 4)).operator()
    expected = op.dense()
    op.batch = batch
    assert op.shape == (16, 8)
    np.testing.assert_array_equal(op.dense(), expected)
    np.testing.assert_array_equal(op.rmatmat(np.eye(16)).T, expected)
    np.testing.assert_array_equal(op.T.dense(), expected.T)
    rows = np.kron(np.eye(2), np.concatenate([np.eye(4), -np.eye(4)]))
    np.testing.assert_array_equal(expected, rows)


def test_other_operators_and_arrays_as_in_scipy() -> None:
    op = Linearization(CHAIN).at(AT).operator()
    matrix, other = op.dense(), np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    v = normal(6)
    np.testing.assert_allclose((op @ aslinearoperator(other)) @ v, matrix @ (other @ v), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(op @ other, matrix @ other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other @ op, other @ matrix, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((op @ op.T) @ v, matrix @ (matrix.T @ v), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((op.T @ op) @ normal(8), matrix.T @ (matrix @ normal(8)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((2 * op + op) @ normal(8), 3 * (matrix @ normal(8)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.ones(5), np.ones((7, 2)), np.ones((2, 4))], ids=str)
def test_wrong_sizes(bad: Array) -> None:
    """As scipy says it."""
    op = Linearization(CHAIN).at(AT).operator()
    with pytest.raises(ValueError, match="dimension mismatch"):
        op @ bad
    with pytest.raises(ValueError, match="dimension mismatch"):
        op.T @ bad


def test_complex_vectors_are_refused() -> None:
    op = Linearization(CHAIN).at(AT).operator()
    for apply, size in ((op.matvec, 8), (op.rmatvec, 6)):
        with pytest.raises(OperatorError, match="give real vectors"):
            apply(1j * np.ones(size))


# --- composition -----------------------------------------------------------------------------------------------------


def same(a: AffineOperator, b: AffineOperator, bar: float = 1e-5) -> None:
    assert (a.source, a.target, a.shape) == (b.source, b.target, b.shape)
    for found, expected in ((a.dense(), b.dense()), (a.bias, b.bias), (a.x, b.x), (a.y, b.y)):
        assert np.abs(found - expected).max() <= bar * max(1.0, np.abs(expected).max())


@both
@pytest.mark.parametrize("middle", ["g", "r", "c", "z", "t", "s", "x"])
def test_composition(middle: str, rules: str) -> None:
    """R_b c R_a b is R_a c in matrix and bias, in either order of writing; a tensor by another name separates too."""
    instance = Linearization(CHAIN, rules=rules).at(AT)
    first, second = instance.operator(None, middle), instance.operator(middle)
    for whole in (first @ second, second @ first):
        same(whole, instance.operator())
        assert_operator(whole)
        np.testing.assert_allclose(whole.T.dense(), whole.dense().T, rtol=1e-5, atol=1e-5)


def test_chain_of_three() -> None:
    at = omenn_onnx.Explainer(omenn_onnx.compile(CHAIN))
    a, b, c = at.operator(AT, "x", "r"), at.operator(AT, "r", "t"), at.operator(AT, "t", "s")
    for whole in (a @ b @ c, a @ (b @ c), c @ b @ a, (b @ c) @ a):
        same(whole, at.operator(AT))
    with pytest.raises(OperatorError, match="do not meet"):
        a @ c


RESIDUAL = net(
    f"(float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ h = MatMul(x,w) r = Relu(h) z = MatMul(r,k) u = Tanh(z) "
    "q = Add(u,r) y = Neg(q) }"
)


@both
def test_what_does_not_separate(rules: str) -> None:
    instance = Linearization(RESIDUAL, rules=rules).at(AT)
    same(instance.operator("x", "r") @ instance.operator("r", "y"), instance.operator("x", "y"))
    same(instance.operator("r", "z") @ instance.operator("z", "u"), instance.operator("r", "u"))
    for middle in ("z", "u"):
        with pytest.raises(
            OperatorError, match=f"'{middle}' does not separate 'x' from 'y': a path leads past it, t"
        ):
            instance.operator("x", middle) @ instance.operator(middle, "y")
    with pytest.raises(OperatorError, match="past it, straight to the end"):
        instance.operator("x", "z") @ instance.operator("z", "q")


def test_operators_of_different_instances() -> None:
    tangent, secant = (Linearization(CHAIN, rules=r) for r in ("tangent", "secant"))
    op = tangent.at(AT).operator("x", "r")
    same(op @ tangent.at(AT).operator("r", "s"), tangent.at(AT).operator())  # (the same input, again)
    other = {"x": normal(2, 4, seed=1)}
    for second in (tangent.at(other), tangent.at(normal(3, 4)), secant.at(AT), Linearization(RESIDUAL).at(AT)):
        with pytest.raises(OperatorError, match="different instances"):
            op @ second.operator("r")


# --- the bias --------------------------------------------------------------------------------------------------------


@both
def test_bias_is_the_sum_of_c_b(rules: str) -> None:
    """bias of output k = sum of C_b of target k, in the compiled file too."""
    op = Linearization(CHAIN, rules=rules).at(AT).operator()
    for k in range(3):
        found = run(omenn_onnx.compile(CHAIN, target=k, rules=rules), AT)
        np.testing.assert_allclose(op.bias.reshape(2, 3)[:, k], found["C_b"].sum(axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(op.dense().reshape(2, 3, 2, 4)[:, k].sum(axis=1), found["C_w"], atol=1e-6)


@both
def test_without_biases_the_bias_is_zero(rules: str) -> None:
    text = "(float[N,4] x) => (float[N,3] y) <%s> { h = MatMul(x,w) r = Relu(h) z = MatMul(r,k) y = LeakyRelu(z) }"
    instance = Linearization(net(text % WEIGHTS), rules=rules).at(AT)
    for op in operators(instance):
        assert not op.bias.any(), op


@both
def test_summands_of_one_sum(rules: str) -> None:
    """What reaches the target past the source from two inputs that are added has both, not one of them twice."""
    model = net("(float[N,3] x, float[N,3] z) => (float[N,3] y) { s = Add(x, z) t = Tanh(s) y = Mul(t, s) }")
    feeds = {"x": normal(2, 3), "z": normal(2, 3, seed=1)}
    instance = Linearization(model, rules=rules, output="y").at(feeds)
    for op in operators(instance):
        assert_operator(op)
    sums = feeds["x"] + feeds["z"]
    if rules == "secant":  # tanh is the gate: y = tanh(s) s
        assert not instance.operator("s").bias.any()
    else:  # y = s dt + t ds - s t, past t: t ds
        op = instance.operator("t")
        np.testing.assert_allclose(np.diag(op.dense()), sums.reshape(-1), rtol=1e-5)
        assert np.abs(op.bias).max() <= 1e-6


@both
def test_the_explained_input_by_another_name(rules: str) -> None:
    """Behind an Identity or a Cast the explained input is the same tensor: nothing of it is a bias."""
    model = net(f"(float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ i = Identity(x) d = Cast<to=11>(i) c = Cast<to=1>(d) "
                "h = MatMul(c,w) g = Add(h,b) y = Relu(g) }")  # fmt: skip
    instance = Linearization(model, rules=rules, output="y").at(AT)
    whole = instance.operator("x")
    for name in "idc":
        op = instance.operator(name)
        np.testing.assert_array_equal(op.dense(), whole.dense())
        np.testing.assert_array_equal(op.bias, whole.bias)
        assert_operator(instance.operator("x", name) @ op)


@both
@pytest.mark.parametrize("mask", [-np.inf, -3.4028235e38, -1e9])
def test_masks(mask: float, rules: str) -> None:
    """Masked scores, twice masked too: their rows have the mask as their bias, nothing else has anything of it."""
    low = np.where(np.arange(3)[:, None] < np.arange(3), mask, 0).astype(np.float32)
    model = net(
        f"(float[3,4] x) => (float[3,3] y) <{WEIGHTS}> {{ q = MatMul(x,w) t = Transpose(q) a = MatMul(q,t) "
        "m = Add(a,low) n = Add(m,low) p = Softmax(n) y = MatMul(p,q) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(low, "low"))
    instance = Linearization(model, rules=rules, output="y").at(normal(3, 4))
    seen = 0
    for op in operators(instance, most=50):
        assert_operator(op)
        assert np.isfinite(op.dense()).all()
        seen += 1
        if op.target not in ("m", "n"):
            assert np.abs(op.bias).max() < 10
        elif op.source not in ("m", "n"):
            assert (op.bias[low.reshape(-1) < 0] < -1e8).all()
    assert seen > (2 if rules == "secant" else 20)  # (in secant the scores only weigh)


# --- forms of models -------------------------------------------------------------------------------------------------

MODELS = Path(__file__).resolve().parent.parent / "models"


def agree(model: Any, feeds: Any, ends: Any = ((None, None),), bar: float = 1e-5, **options: Any) -> None:
    """The model and the file that is compiled of it give the same operators, which are right."""
    explainer = omenn_onnx.Explainer(omenn_onnx.compile(model, **options))
    for rules in RULES:
        instance = Linearization(model, rules=rules, **options).at(feeds)
        for source, target in ends:
            op = instance.operator(source, target)
            assert_operator(op)
            same(explainer.operator(feeds, source, target, rules=rules), op, bar)


@pytest.mark.parametrize("target", ["argmax", "input", "seed", "top:2", "0", "0-1", "0,1"])
@pytest.mark.parametrize("options", [{}, {"prefix": "omenn_"}, {"rules": "tangent"}, {"dtype": "model"}], ids=str)
def test_compiled_for_any_target(options: dict[str, str], target: str) -> None:
    """What the file was compiled for does not matter; a target or a seed is not fed."""
    explainer = omenn_onnx.Explainer(omenn_onnx.compile(CHAIN, target=target, **options))
    for rules in RULES:
        same(explainer.operator(AT, rules=rules), Linearization(CHAIN, rules=rules).at(AT).operator())
    assert explainer.operator(AT).source == "x"


def test_compiled_in_float64(tmp_path: Path) -> None:
    op = omenn_onnx.Explainer(omenn_onnx.compile(CHAIN, dtype="float64")).operator(AT)
    assert op.dtype == np.float64
    assert (op.source, op.target) == ("x", "s")
    assert adjoint_gap(op) <= 1e-14
    assert op.residual <= 1e-14
    assert np.abs(op.dense() - Linearization(CHAIN).at(AT).operator().dense()).max() <= 1e-6


@pytest.mark.parametrize("dtype", ["float32", "model", "float64"])
def test_half_precision(dtype: str) -> None:
    """A float16 network: float32 operators of what it rounds."""
    model = net(
        f"(float16[N,4] x) => (float16[N,3] y) <{WEIGHTS}> {{ a = Cast<to=10>(w) c = Cast<to=10>(b) h = MatMul(x,a) "
        "g = Add(h,c) r = Relu(g) y = Mul(r,g) }"
    )
    x = {"x": normal(2, 4).astype(np.float16)}
    op = omenn_onnx.Explainer(omenn_onnx.compile(model, dtype=dtype, output="y")).operator(x)
    assert op.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert adjoint_gap(op) <= 1e-5
    assert op.residual <= 5e-3


def test_where_the_model_lies(tmp_path: Path) -> None:
    """A path, its text, bytes, a ModelProto; weights in a file beside it."""
    expected = Linearization(CHAIN).at(AT).operator()
    compiled = omenn_onnx.compile(CHAIN)
    onnx.save(compiled, tmp_path / "c.onnx")
    for model in (tmp_path / "c.onnx", str(tmp_path / "c.onnx"), compiled.SerializeToString(), compiled):
        same(omenn_onnx.Explainer(model).operator(AT), expected)
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save_model(CHAIN, tmp_path / "m.onnx", **external)
    assert compile_file([str(tmp_path / "m.onnx"), "-o", str(tmp_path / "mc.onnx")]) == 0
    same(omenn_onnx.Explainer(tmp_path / "mc.onnx").operator(AT), expected)
    same(Linearization(tmp_path / "m.onnx").at(AT).operator(), expected)


def test_several_explained_inputs() -> None:
    model = net(
        f"(float[N,4] x, float[N,3] z) => (float[N,3] y) <{WEIGHTS}> {{ h = MatMul(x,w) g = Add(h,z) r = Relu(g) "
        "s = Mul(r,z) y = Softmax(s) }"
    )
    feeds = {"x": normal(2, 4), "z": normal(2, 3, seed=1)}
    agree(model, feeds, [("x", None), ("z", None), ("x", "r"), ("z", "r"), ("g", None)])
    with pytest.raises(OperatorError, match=r"several tensors are explained \('x', 'z'\): say which one is the source"):
        Linearization(model).at(feeds).operator()
    with pytest.raises(NoPath, match="from 'z' to 'h', which does not depend on it"):
        Linearization(model).at(feeds).operator("z", "h")


def test_token_ids() -> None:
    """The source is the embedding."""
    with np.load(MODELS / "grammar_text.npz") as data:
        feeds = {i.name: data[i.name][:2] for i in onnx.load(MODELS / "grammar_text.onnx").graph.input}
    agree(str(MODELS / "grammar_text.onnx"), feeds)
    op = Linearization(str(MODELS / "grammar_text.onnx")).at(feeds).operator()
    assert op.source == "embedding"
    assert op.shape == (6, 1536)


FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[Any]]] = {
    "fixed batch": (
        "(float[2,4] x) => (float[2,3] y) <%s> { h = MatMul(x,w) r = Relu(h) y = Add(r,b) }", {}, {}, ["r"],
    ),
    "sizes without names": (
        "(float[?,?] x) => (float[?,?] y) <%s> { h = MatMul(x,w) r = Relu(h) y = Add(r,b) }", {}, {}, ["r"],
    ),
    "rows that meet": (
        "(float[N,4] x) => (float[N,3] y) <%s, int64[1] a = {0}> { h = MatMul(x,w) m = ReduceMean(h,a) d = Sub(h,m) "
        "y = Tanh(d) }", {}, {"output": "y"}, ["m", "d"],
    ),
    "opaque": (
        "(float[2,4] x) => (float[2] y) <int64[3] t = {2,2,2}, int64[1] a = {1}> { r = Reshape(x,t) d = Det(r) "
        "m = ReduceSum<keepdims=0>(x,a) y = Add(d,m) }", {}, {"opaque": ["Det"], "output": "y"}, [],
    ),
    "names of ours": (
        "(float[N,4] x) => (float[N,3] y) <%s> { u = MatMul(x,w) v = Add(u,b) Rv = Relu(v) bias = Add(Rv,b) "
        "RTu = Mul(bias,v) C_w = Tanh(RTu) score = Mul(C_w,bias) C_b = Sigmoid(score) target = Mul(C_b,score) "
        "seed = Add(target,u) X = Identity(seed) opaque_share = Neg(X) y = Add(opaque_share,b) }", {}, {},
        ["u", "v", "Rv", "bias", "C_w", "score", "C_b", "target", "seed", "X"],
    ),
    "initializers among the inputs": (
        "(float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) <%s> { h = MatMul(x,w) r = Relu(h) y = Add(r,b) }",
        {"ir": 3, "opset": 8}, {}, ["r"],
    ),
    "an input with a default": (
        "(float[N,4] x, float[3] b) => (float[N,3] y) <%s> { h = MatMul(x,w) r = Relu(h) y = Add(r,b) }", {}, {}, ["r"],
    ),
    "If": (
        "(float[N,4] x) => (float[N,3] y) <%s> { h = MatMul(x,w) s = ReduceSum<keepdims=0>(h) n = Neg(s) "
        "c = LessOrEqual(n,s) i = If(c) <then_branch = t () => (float[N,3] a) { a = Relu(h) }, "
        "else_branch = e () => (float[N,3] a) { a = Tanh(h) }> y = Add(i,b) }", {}, {}, ["h", "i"],
    ),
    "Scan": (
        "(float[2,4] x) => (float[2,3] y) <%s, float[3] o = {0,0,0}> { h = MatMul(x,w) l, y = Scan<num_scan_inputs=1, "
        "body = step (float[3] s, float[3] e) => (float[3] n, float[3] c) { a = Add(s,e) n = Tanh(a) c = Mul(n,e) }>"
        "(o,h) }", {}, {"output": "y"}, ["h"],
    ),
    "sizes that depend on values": (
        "(float[2,4] x) => (float[2,?] y) <%s, int64[1] a = {0}> { h = MatMul(x,w) s = ReduceMax<keepdims=0>(h, a) "
        "z = Sub(s,s) c = LessOrEqual(z,z) r = Relu(h) y = Compress<axis=1>(r,c) }", {}, {"output": "y"}, ["r"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str) -> None:
    text, kind, options, inner = FORMS[form]
    model = net(text % WEIGHTS if "%s" in text else text, **kind)
    agree(model, AT, [(None, None), *((None, n) for n in inner)], **options)


def test_an_input_with_a_default_is_fed() -> None:
    """A given value takes the default's place; what is explained stays."""
    model = net(FORMS["an input with a default"][0] % WEIGHTS)
    b = normal(3, seed=2)
    agree(model, {**AT, "b": b}, [(None, None), (None, "r")])
    for made in (Linearization(model), omenn_onnx.Explainer(omenn_onnx.compile(model))):
        instance = made.at({**AT, "b": b}) if isinstance(made, Linearization) else None
        op = instance.operator() if instance is not None else made.operator({**AT, "b": b})
        np.testing.assert_allclose(op.bias.reshape(2, 3), np.tile(b, (2, 1)), rtol=1e-6)
        assert op.source == "x"


def test_a_model_without_shapes() -> None:
    """What compiling refuses: here the value has a shape."""
    model = net(f"(float[] x) => (float[] y) <{WEIGHTS}> {{ h = MatMul(x,w) r = Relu(h) y = Add(r,b) }}")
    assert_operator(Linearization(model).at(AT).operator())


def test_explained_output_inside_an_operator() -> None:
    """The scores inside a LinearClassifier have a name that only we give."""
    model = net(
        "(float[N,2] x) => (int64[N] l, float[N,3] p) { l, p = ai.onnx.ml.LinearClassifier<classlabels_ints=[0,1,2], "
        'coefficients=[0.1,0.2,-0.3,0.4,0.5,0.6], intercepts=[0.1,0.2,0.3], post_transform="SOFTMAX">(x) }',
        more=', "ai.onnx.ml": 3',
    )
    x = {"x": normal(2, 2)}
    instance = Linearization(model).at(x)
    agree(model, x)
    same(instance.operator("x", "x") @ instance.operator("x", instance.target), instance.operator())
    np.testing.assert_allclose(instance.operator().dense()[:3, :2].ravel(), [0.1, 0.2, -0.3, 0.4, 0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(instance.value(instance.target).ravel(), instance.operator().y)


# --- errors ----------------------------------------------------------------------------------------------------------

STATED = net(
    f"(float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ hidden = MatMul(x,w) relu = Relu(hidden) z = MatMul(relu,k) "
    "last = Tanh(z) label = ArgMax(last) back = Cast<to=1>(label) size = Shape(last) y = Softmax(last) }"
)
ENDS = [
    ("hiden", None, NameNotFound, "tensor 'hiden' is not in the model; did you mean 'hidden'?"),
    (None, "reluu", NameNotFound, "tensor 'reluu' is not in the model; did you mean 'relu'?"),
    ("w", None, NoPath, "tensor 'w' does not lie behind the explained input 'x': it is constant"),
    (None, "k", NoPath, "tensor 'k' does not lie behind the explained input 'x': it is constant"),
    (
        None,
        "label",
        NoPath,
        "'label' does not lie behind the explained input 'x': it does not depend on it",
    ),
    (
        "back",
        None,
        NoPath,
        "'back' does not lie behind the explained input 'x': it does not depend on it",
    ),
    (None, "size", NoPath, "'size' does not lie behind the explained input 'x': it is constant"),
    ("last", "relu", NoPath, "no linear path leads from 'last' to 'relu', which lies before it"),
    ("y", None, NoPath, "no linear path leads from 'y' to 'last', which lies before it"),
]


@both
@pytest.mark.parametrize(("source", "target", "kind", "said"), ENDS)
def test_ends_that_cannot_be(source: str | None, target: str | None, kind: type, said: str, rules: str) -> None:
    with pytest.raises(kind) as error:
        Linearization(STATED, rules=rules).at(AT).operator(source, target)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@both
@pytest.mark.parametrize("name", ["m", "d", "e", "s"])
def test_inside_a_decomposition(name: str, rules: str) -> None:
    """Of a softmax written out the parts are behind x, and nothing goes on from them."""
    model = net(
        f"(float[N,4] x) => (float[N,3] y) <{WEIGHTS}, int64[1] a = {{-1}}> {{ h = MatMul(x,w) m = ReduceMax(h,a) "
        "d = Sub(h,m) e = Exp(d) s = ReduceSum(e,a) p = Div(e,s) y = MatMul(p,k) }"
    )
    instance = Linearization(model, rules=rules, output="y").at(AT)
    assert_operator(instance.operator(None, name))
    assert name not in instance.carriers()
    with pytest.raises(
        NoPath, match=rf"from '{name}' to 'y': .* taken as one operator .*; take a tensor bef"
    ):
        instance.operator(name)


FEEDS: list[tuple[Any, str]] = [
    ({"x": np.full((2, 4), np.nan, np.float32)}, "input 'x' has 8 NaN or Inf value(s), the first at [0, 0]"),
    ({"x": normal(2, 5)}, "input 'x' wants shape [N,4], got [2,5]"),
    ({"x": normal(4)}, "the batch axis is missing"),
    ({"x": normal(0, 4)}, "input 'x' is empty"),
    ({}, "missing input 'x'"),
    ({"xx": normal(2, 4)}, "input 'xx' is not in the model; did you mean 'x'?"),
    ({"x": normal(2, 4).astype(np.float64) + 1e-12}, "the cast would round it"),
    (None, "input 'x' wants float32, got object"),
]


@pytest.mark.parametrize(("feeds", "said"), FEEDS, ids=[said for _, said in FEEDS])
def test_feeds_that_cannot_be(feeds: Any, said: str) -> None:
    with pytest.raises(FeedError) as error:
        omenn_onnx.Explainer(omenn_onnx.compile(STATED)).operator(feeds)
    assert said in str(error.value)
    assert "allow_nonfinite" not in str(error.value)


def test_too_large_for_memory() -> None:
    op = Linearization(STATED).at(AT).operator()
    with pytest.raises(OperatorError, match=r"'x' -> 'last' is 6 x 8 and takes .* raise memory_limit"):
        op.dense(op.dense_bytes - 1)
    assert op.dense(op.dense_bytes).nbytes == op.dense_bytes


def test_an_operator_without_a_linear_form() -> None:
    model = net(
        "(float[2,3,3] x) => (float[2] d, float[2] y) <int64[2] a = {1,2}> { d = Det(x) "
        "m = ReduceSum<keepdims=0>(x,a) s = Add(d,m) y = Neg(m) }"
    )
    x = {"x": normal(2, 3, 3)}
    instance = Linearization(model, output="y").at(x)
    assert_operator(instance.operator())
    with pytest.raises(UnsupportedOperators, match=r"node .*: ai\.onnx\.Det"):
        instance.operator(None, "s")


def test_other_errors() -> None:
    with pytest.raises(OmennError, match="rules 'x': give secant or tangent"):
        omenn_onnx.Explainer(omenn_onnx.compile(STATED)).operator(AT, rules="x")
    with pytest.raises(NameNotFound, match="explained output 'lastt' is not in the model; did you mean 'last'"):
        Linearization(STATED, output="lastt").at(AT)
    with pytest.raises(NameNotFound, match="tensor 'lasst'"):
        Linearization(STATED).at(AT).value("lasst")


# --- the graphs ------------------------------------------------------------------------------------------------------

ATTENTION = net(
    f"(float[N,2,4] x) => (float[N,2,3] y) <{WEIGHTS}, float[3] g = {{1,2,0.5}}> {{ q = MatMul(x,w) "
    "t = Transpose<perm=[0,2,1]>(q) a = MatMul(q,t) p = Softmax(a) c = MatMul(p,q) n = LayerNormalization(c,g,b) "
    "e = Gelu(n) f = MatMul(e,k) y = Add(f,q) }"
)


@both
@pytest.mark.parametrize(("source", "target"), [("x", "y"), ("x", "c"), ("c", "y"), ("q", "n")])
def test_graphs_are_plain_onnx(source: str, target: str, rules: str) -> None:
    """The checker takes them; onnx's reference evaluator and ONNX Runtime without optimisation give the same."""
    x = normal(3, 2, 4)
    op = Linearization(ATTENTION, rules=rules, output="y").at(x).operator(source, target)
    assert_operator(op)
    graphs = op.segment.graphs
    v, u = normal(2, *op.source_shape), normal(2, *op.target_shape, seed=1)
    expected = op.matmat(v.reshape(2, -1).T).T, op.rmatmat(u.reshape(2, -1).T).T
    for execute in (evaluate, lambda model, feeds: run(model, feeds, optimise=False)):
        known: Mapping[str, Any] = {"x": x, **execute(graphs.coefficients, {"x": x})}
        parts = (graphs.forward, v, graphs.forward_input, graphs.forward_output, expected[0]), (
            graphs.adjoint, u, graphs.adjoint_input, graphs.adjoint_output, expected[1],
        )  # fmt: skip
        for model, vectors, given, result, want in parts:
            onnx.checker.check_model(model, full_check=True)
            feeds = {i.name: known[i.name] for i in model.graph.input if i.name != given}
            found = execute(model, {**feeds, given: vectors})[result].reshape(2, -1)
            assert np.abs(found - want).max() <= 1e-5 * max(1, np.abs(want).max())
        if graphs.bias is not None:
            np.testing.assert_allclose(known[graphs.bias].reshape(-1), op.bias, rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(graphs.coefficients, full_check=True)


def test_graphs_hold_what_they_need() -> None:
    """Weights in front of the source or behind the target are in neither graph, and none is there without a reader."""
    op = Linearization(CHAIN).at(AT).operator("r", "t")
    graphs = op.segment.graphs
    for model in (graphs.forward, graphs.adjoint):
        shapes = [tuple(i.dims) for i in model.graph.initializer]
        assert (4, 3) not in shapes
        assert (3, 3) in shapes
        read = {name for n in model.graph.node for name in n.input}
        assert {i.name for i in model.graph.initializer} <= read
        assert {i.name for i in model.graph.input} <= read
        assert not {"x", "w", "b"} & read


def test_coefficients_once_for_each_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made once for each pair and set of sizes, coefficients once for each x, products run nothing else."""
    runs: list[set[str]] = []
    sessions: list[Any] = []
    run_engine, make = engines.OrtEngine.run, engines.open_session

    def counted(engine: engines.OrtEngine, feeds: Mapping[str, Any]) -> Any:
        runs.append({i.name for i in engine.inputs})
        return run_engine(engine, feeds)

    monkeypatch.setattr(engines.OrtEngine, "run", counted)
    monkeypatch.setattr(engines, "open_session", lambda *a, **k: sessions.append(a) or make(*a, **k))
    made = Linearization(CHAIN)
    op = made.at(AT).operator()
    assert [names for names in runs if "x" in names] == [{"x"}]
    op.dense()
    op.matvec(np.ones(8))
    op.rmatmat(np.ones((6, 100)))
    assert len(sessions) == 3
    assert [names for names in runs if "x" in names] == [{"x"}]
    second = made.at(normal(2, 4, seed=5)).operator()
    assert len(sessions) == 3
    assert [names for names in runs if "x" in names] == [{"x"}] * 2
    assert np.abs(second.dense() - op.dense()).max() > 1e-3
    made.at(normal(3, 4)).operator()
    known = len(sessions)
    assert known > 3
    for rows in range(4, 13):  # what was linearised for other sizes is let go; operators that stand stay what they are
        made.at(normal(rows, 4))
    np.testing.assert_array_equal(made.at(AT).operator().dense(), op.dense())
    assert len(sessions) > known


def test_operators_keep_their_instance() -> None:
    """An operator stays what it was when others are made of the same graphs."""
    made = Linearization(CHAIN)
    first = made.at(AT).operator()
    before, bias = first.dense(), first.bias.copy()
    made.at(normal(2, 4, seed=9)).operator().dense()
    np.testing.assert_array_equal(first.dense(), before)
    np.testing.assert_array_equal(first.bias, bias)
    assert_operator(first)


def test_bias_is_the_oracles_c_b() -> None:
    """C_b of the oracle by target is the bias, where ones move through padding and pooling too."""
    model = net(
        "(float[1,2,4,4] x) => (float[1,3,1,1] y) <float[3,2,3,3] f, float[3] c = {0.1,-0.2,0.3}> "
        "{ h = Conv<pads=[1,1,1,1]>(x,f,c) r = Relu(h) m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r) "
        "y = GlobalAveragePool(m) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(normal(3, 2, 3, 3), "f"))
    x = normal(1, 2, 4, 4)
    for rules in RULES:
        op = Linearization(model, rules=rules).at(x).operator()
        for k in range(3):
            seed = np.zeros((1, 3, 1, 1))
            seed[0, k] = 1
            found = dense(model, {"x": x}, ["x"], "y", seed, rules, {"x": 1})
            np.testing.assert_allclose(op.bias[k], found.C_b["x"].sum(), rtol=1e-5)
            np.testing.assert_allclose(op.dense()[k], found.C_w["x"].reshape(-1), rtol=1e-4, atol=1e-6)
