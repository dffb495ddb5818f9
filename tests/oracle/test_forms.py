"""Fused and decomposed forms give the same C_w and C_b; canonical forms; masks; owners of biases; cuts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from .engine import Result, explain, forward_values
from .stream import NotInOracle

X, Z = "float[2,3,4] x", "float[2,3,4] z"
CONSTANTS = (
    "float one = {1}, float half = {0.5}, float two = {2}, float three = {3}, float six = {6}, float zero = {0}, "
    "float root = {1.4142135623730951}, float eps = {0.00001}, float minus = {-1}, float k = {0.7}, "
    "int64[1] last = {-1}, int64[1] mid = {1}, float[4] s = {1.5, -0.5, 2, 0.3}, float[4] b = {0.1, 0.2, -0.3, 0.4}, "
    "float[4,4] w = {0.1,-0.2,0.3,0.4,0.5,-0.6,0.7,0.8,-0.9,1.0,1.1,-1.2,1.3,0.4,-0.5,0.6}, "
    "float[3] s3 = {1.5, -0.5, 2}, float[3] b3 = {0.1, 0.2, -0.3}"
)


def build(body: str, opset: int = 18, inputs: str = f"{X}, {Z}") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => (float y) <{CONSTANTS}> {{ {body} }}'
    return parser.parse_model(text)


def feeds(scale: float = 1.0) -> dict[str, np.ndarray]:
    r = np.random.default_rng(0)
    return {n: (scale * r.normal(size=(2, 3, 4))).astype(np.float32) for n in ("x", "z")}


def run(body: str, rules: str = "secant", scale: float = 1.0, opset: int = 18, **kw) -> Result:
    model, data = build(body, opset), feeds(scale)
    value = forward_values(model, data, ["y"])["y"]
    seed = np.random.default_rng(1).normal(size=value.shape)
    r = explain(model, data, kw.pop("inputs", ["x", "z"]), "y", seed, rules, **kw)
    size = sum(np.abs(r.C_w[k] * r.values[k]).sum() + np.abs(r.C_b[k]).sum() for k in r.C_w)
    assert abs(r.residual) <= 1e-9 * max(1, abs(r.score), size)
    return r


def same(a: Result, b: Result, bias: bool = True) -> None:
    assert a.score == pytest.approx(b.score, rel=1e-6)
    for name in a.C_w:
        np.testing.assert_allclose(a.C_w[name], b.C_w[name], rtol=1e-5, atol=1e-6 * max(1, np.abs(a.C_w[name]).max()))
        if bias:
            np.testing.assert_allclose(
                a.C_b[name], b.C_b[name], rtol=1e-5, atol=1e-6 * max(1, np.abs(a.C_b[name]).max())
            )


LAYER_NORM = "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) ve = Add(v, eps) "
FORMS = {
    "gelu": ("y = Gelu(x)", "a = Div(x, root) e = Erf(a) o = Add(e, one) p = Mul(x, o) y = Mul(p, half)", 20),
    "gelu2": ("y = Gelu(x)", "a = Div(x, root) e = Erf(a) o = Add(e, one) h = Mul(x, half) y = Mul(h, o)", 20),
    "silu": ("y = Swish(x)", "g = Sigmoid(x) y = Mul(x, g)", 24),
    "silu-exp": (
        "g = Sigmoid(x) y = Mul(x, g)",
        "n = Neg(x) e = Exp(n) t = Add(e, one) y = Div(x, t)",
        18,
    ),
    "sigmoid-exp": ("y = Sigmoid(x)", "n = Mul(x, minus) e = Exp(n) t = Add(one, e) y = Div(one, t)", 18),
    "sigmoid-reciprocal": ("y = Sigmoid(x)", "n = Neg(x) e = Exp(n) t = Add(one, e) y = Reciprocal(t)", 18),
    "hardswish": ("y = HardSwish(x)", "a = Add(x, three) c = Clip(a, zero, six) p = Mul(x, c) y = Div(p, six)", 18),
    "hardswish-chain": (
        "y = HardSwish(x)",
        "a = Add(x, three) r = Relu(a) c = Min(r, six) p = Mul(x, c) y = Div(p, six)",
        18,
    ),
    "mish": ("y = Mish(x)", "e = Exp(x) t = Add(e, one) l = Log(t) h = Tanh(l) y = Mul(x, h)", 18),
    "softplus": ("y = Softplus(x)", "e = Exp(x) t = Add(one, e) y = Log(t)", 18),
    "logsigmoid": ("n = Neg(x) p = Softplus(n) y = Neg(p)", "g = Sigmoid(x) y = Log(g)", 18),
    "clip": ("y = Clip(x, minus, half)", "a = Max(x, minus) y = Min(a, half)", 18),
    "relu-max": ("y = Relu(x)", "y = Max(zero, x)", 18),
    "layernorm": (
        "y = LayerNormalization(x, s, b)",
        LAYER_NORM + "r = Sqrt(ve) n = Div(d, r) g = Mul(n, s) y = Add(g, b)",
        18,
    ),
    "layernorm-reciprocal": (
        "y = LayerNormalization(x, s, b)",
        LAYER_NORM + "r = Sqrt(ve) i = Reciprocal(r) n = Mul(i, d) g = Mul(n, s) y = Add(g, b)",
        18,
    ),
    "rmsnorm": (
        "y = RMSNormalization(x, s)",
        "q = Pow(x, two) m = ReduceMean(q, last) e = Add(m, eps) r = Sqrt(e) n = Div(x, r) y = Mul(n, s)",
        23,
    ),
    "instancenorm": (
        "y = InstanceNormalization(x, s3, b3)",
        LAYER_NORM + "r = Sqrt(ve) n = Div(d, r) s_ = Unsqueeze(s3, last) b_ = Unsqueeze(b3, last) "
        "g = Mul(n, s_) y = Add(g, b_)",
        18,
    ),
    "softmax": (
        "y = Softmax(x)",
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, last) y = Div(e, t)",
        18,
    ),
    "softmax-plain": ("y = Softmax(x)", "e = Exp(x) t = ReduceSum(e, last) r = Reciprocal(t) y = Mul(r, e)", 18),
    "logsoftmax": ("y = LogSoftmax(x)", "p = Softmax(x) y = Log(p)", 18),
    "logsoftmax-exp": ("y = LogSoftmax(x)", "e = Exp(x) t = ReduceSum(e, last) p = Div(e, t) y = Log(p)", 18),
    "logsumexp": (
        "y = ReduceLogSumExp(x, last)",
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, last) l = Log(t) y = Add(m, l)",
        18,
    ),
    "logsumexp-flat": (
        "y = ReduceLogSumExp <keepdims = 0> (x, last)",
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) t = ReduceSum <keepdims = 0> (e, last) l = Log(t) "
        "f = Squeeze(m, last) y = Add(l, f)",
        18,
    ),
    "isnan": (
        "p = Softmax(x) y = MatMul(p, w)",
        "p = Softmax(x) n = IsNaN(p) q = Where(n, zero, p) y = MatMul(q, w)",
        18,
    ),
    "gemm": (
        "f = Flatten <axis = 2> (x) a = MatMul(f, w) y = Add(a, b)",
        "f = Flatten <axis = 2> (x) y = Gemm(f, w, b)",
        18,
    ),
    "pow": ("y = Mul(x, x)", "y = Pow(x, two)", 18),
    "mean": ("y = ReduceMean(x, last)", "t = ReduceSum(x, last) four = Add(two, two) y = Div(t, four)", 18),
    "reciprocal": ("y = Div(k, x)", "r = Reciprocal(x) y = Mul(r, k)", 18),
    "einsum": (
        'y = Einsum <equation = "bij,bkj->bik"> (x, z)',
        "t = Transpose <perm = [0, 2, 1]> (z) y = MatMul(x, t)",
        18,
    ),
    "glu": ("g = Sigmoid(z) y = Mul(x, g)", "g = Sigmoid(z) y = Mul(g, x)", 18),
}
TANGENT_BIAS_DIFFERS = {"silu-exp", "layernorm", "layernorm-reciprocal", "rmsnorm", "instancenorm", "mish"}
"""Known: norms, quotients, and products whose parts have rests of their own."""


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("name", FORMS)
def test_fused_is_decomposed(name: str, rules: str) -> None:
    fused, parts, opset = FORMS[name]
    inputs = [i for i in ("x", "z") if f"({i}" in fused + parts or f", {i})" in fused + parts]
    bias = rules == "secant" or not (
        name in TANGENT_BIAS_DIFFERS or name.startswith(("gelu", "silu", "hardswish", "pow"))
    )
    a, b = (run(t, rules, opset=opset, inputs=inputs) for t in (fused, parts))
    same(a, b, bias)


@pytest.mark.parametrize("rules", ["secant", "tangent"])
def test_attention_and_masks(rules: str) -> None:
    """Softmax attention with masks of -inf and of the lowest float: finite, complete, the same."""
    body = "t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(z, t) m = Add(a, c) p = Softmax(m) y = MatMul(p, x)"
    mask = "j = Constant <value = float[3] {0, 0, 1}> () q = Greater(j, half) c = Where(q, i, zero) "
    low = "i = Constant <value = float {%s}> () "
    sources = ("i = Log(zero) ", low % "-3.4028234e38", low % "-1e30")
    results = [run(source + mask + body, rules) for source in sources]
    for r in results:
        assert all(np.isfinite(v).all() for v in [*r.C_w.values(), *r.C_b.values()])
        same(r, results[0])


def test_attention_weight_is_softmax() -> None:
    """P @ V: only V carries in secant; the ones are P o, so that C_b is exact for all-ones rows."""
    body = "t = Transpose <perm = [0, 2, 1]> (x) a = MatMul(z, t) p = Softmax(a) y = MatMul(p, x)"
    r = run(body)
    assert not r.C_w["z"].any()
    p, seed = r.values["p"], np.random.default_rng(1).normal(size=(2, 3, 4))
    np.testing.assert_allclose(r.C_w["x"], np.einsum("bqk,bqd->bkd", p, seed))
    assert not r.C_b["x"].any()


def test_function_bodies() -> None:
    """Attention-23 is its own decomposition."""
    body = "a = Unsqueeze(x, mid) c = Unsqueeze(z, mid) y = Attention(a, c, c)"
    scaled = "t = Transpose <perm = [0, 1, 3, 2]> (c) q = MatMul(a, t) h = Mul(q, half) p = Softmax(h) y = MatMul(p, c)"
    parts = "a = Unsqueeze(x, mid) c = Unsqueeze(z, mid) " + scaled
    same(run(body, opset=23), run(parts, opset=23))


def test_owners_add_up() -> None:
    body = "a = MatMul(x, w) c = Add(a, b) g = Sigmoid(c) h = LayerNormalization(g, s, b) y = Sub(h, z)"
    r = run(body)
    shares = r.bias_by_node
    assert set(shares) == {"c", "g", "h"}
    for name in ("x", "z"):
        np.testing.assert_allclose(sum(s[name] for s in shares.values()), r.C_b[name], atol=1e-12)


def test_linear_network_doubling_a_bias() -> None:
    first = run("a = MatMul(x, w) c = Add(a, b) y = MatMul(c, w)", inputs=["x"])
    double = run("a = MatMul(x, w) d = Add(b, b) c = Add(a, d) y = MatMul(c, w)", inputs=["x"])
    np.testing.assert_allclose(double.C_b["x"] - first.C_b["x"], first.bias_by_node["c"]["x"])


def test_explained_tensor_cuts() -> None:
    """An explained tensor that depends on another one starts afresh."""
    body = "a = MatMul(x, w) h = Add(a, b) y = Add(h, x)"
    r = run(body, inputs=["x", "h"])
    seed = np.random.default_rng(1).normal(size=(2, 3, 4))
    np.testing.assert_allclose(r.C_w["x"], seed)
    np.testing.assert_allclose(r.C_w["h"], seed)
    assert not r.C_b["x"].any()
    assert not r.C_b["h"].any()


def test_channel_axis() -> None:
    r = run("y = Add(x, b)", inputs=["x"], channel_axis={"x": 1})
    assert r.C_b["x"].shape == (2, 1, 4)
    assert run("y = Add(x, b)", inputs=["x"]).C_b["x"].shape == (2, 3, 1)


def test_zero_pad_is_the_convolutions() -> None:
    f = "f = Constant <value = float[1,3,2] {1, 2, 3, -1, 0.5, 2}> () p = Constant <value = int64[6] {0,0,1,0,0,2}> () "
    same(
        run(f + "a = Pad(x, p) y = Conv(a, f)", inputs=["x"]),
        run(f + "y = Conv <pads = [1, 2]> (x, f)", inputs=["x"]),
    )


@pytest.mark.parametrize("scale", [1e-9, 1.0, 50.0, 3000.0])
def test_softmax_as_carrier_is_complete(scale: float) -> None:
    run("y = Softmax(x)", scale=scale, inputs=["x"])


def test_secant_at_zero_is_the_left_derivative() -> None:
    for op, slope in (("Relu", 0), ("Abs", -1), ("Gelu", 0.5), ("LeakyRelu", 0.01), ("Sigmoid", 0.25), ("Sqrt", 0)):
        r = run(f"y = {op}(x)", scale=0, inputs=["x"], opset=20)
        np.testing.assert_allclose(r.C_w["x"], slope * np.random.default_rng(1).normal(size=(2, 3, 4)), rtol=1e-6)


def test_outside_raises_by_name() -> None:
    with pytest.raises(NotInOracle, match="Det"):
        run("t = Transpose <perm = [0, 2, 1]> (z) q = MatMul(x, t) y = Det(q)")


def test_constants_do_not_carry() -> None:
    with pytest.raises(ValueError, match="carrier path"):
        run("y = Sign(x)", inputs=["x"])
    r = run("g = Sign(x) y = Mul(g, x)", inputs=["x"])
    np.testing.assert_allclose(r.C_w["x"], r.values["g"] * np.random.default_rng(1).normal(size=(2, 3, 4)))


def test_training_batch_normalisation() -> None:
    ones = "s1 = Identity(s3) v = Mul(s3, s3) "
    body = ones + "y, m, q = BatchNormalization <training_mode = 1> (x, s1, b3, b3, v)"
    axes = "a = Constant <value = int64[2] {0, 2}> () "
    parts = axes + "m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a) ve = Add(v, eps) "
    parts += (
        "r = Sqrt(ve) n = Div(d, r) s_ = Unsqueeze(s3, last) b_ = Unsqueeze(b3, last) g = Mul(n, s_) y = Add(g, b_)"
    )
    same(run(body, inputs=["x"]), run(parts, inputs=["x"]))
    same(run(body, "tangent", inputs=["x"]), run(parts, "tangent", inputs=["x"]), bias=False)


CARRIERS = {
    "g = Sigmoid(z) h = Tanh(x) y = Mul(h, g)": "x",
    "g = Exp(z) h = Sigmoid(x) y = Mul(g, h)": "x",
    "g = Reciprocal(z) h = Exp(x) y = Mul(g, h)": "x",
    "g = Div(one, z) h = Softmax(x) y = Mul(g, h)": "x",
    "g = Clip(z, minus, half) y = Mul(g, x)": "x",
    "g = Relu(z) y = Mul(g, x)": "xz",
    "g = Clip(z, minus) y = Mul(g, x)": "xz",
    "g = Relu(z) c = Min(g, six) y = Mul(c, x)": "x",
    "g = Sigmoid(z) m = ReduceMean(g, last) y = Mul(m, x)": "xz",
    "g = Sigmoid(z) e = Sub(one, g) y = Mul(e, x)": "x",
    "g = Sigmoid(z) e = Mul(g, z) y = Mul(e, x)": "xz",
    "g = Sigmoid(z) e = Sqrt(g) y = Mul(e, x)": "xz",
    "g = Sigmoid(z) e = Mul(x, x) c = Concat <axis = 1> (g, e) f = Concat <axis = 1> (x, x) y = Mul(c, f)": "xz",
    "g = Erf(z) h = Tanh(x) y = Mul(g, h)": "xz",
    "y = Div(x, z)": "x",
    "e = Tanh(z) g = Sigmoid(x) y = Div(e, g)": "z",
    "g = Sigmoid(z) r = RMSNormalization(g, s) y = Mul(r, x)": "x",
    "g = Sigmoid(z) r = LayerNormalization(g, s) y = Mul(r, x)": "xz",
}


@pytest.mark.parametrize("body", CARRIERS)
def test_who_is_the_weight(body: str) -> None:
    r = run(body, opset=23)
    assert "".join(k for k in ("x", "z") if r.C_w[k].any()) == CARRIERS[body]


def test_ones_rules_by_hand() -> None:
    """With channel axis last and [2, 3, 1] ones: a bias after each operator lands where its ones say."""
    seed = np.random.default_rng(1).normal(size=(2, 3, 4))
    bias = np.array([0.1, 0.2, -0.3, 0.4], np.float32)
    total = (seed * bias).sum(axis=-1, keepdims=True)
    mean = total.mean(axis=1, keepdims=True) * np.ones((1, 3, 1))
    expected = {
        "y = Add(x, b)": (total, None),
        "m = Add(x, z) y = Add(m, b)": (total / 2, total / 2),
        "m = Sum(x, z, x) y = Add(m, b)": (total * 2 / 3, total / 3),
        "m = Mul(x, z) y = Add(m, b)": (total / 2, total / 2),
        "g = Tanh(z) m = Mul(x, g) y = Add(m, b)": (total, total * 0),
        "m = MatMul(x, w) y = Add(m, b)": (total, None),
        "m = ReduceMean(x, mid) e = Sub(x, m) y = Add(e, b)": ((total + mean) / 2, None),
        "m = Neg(x) y = Add(m, b)": (total, None),
    }
    for body, (x, z) in expected.items():
        r = run(body, inputs=["x"] if z is None else ["x", "z"])
        np.testing.assert_allclose(r.bias_by_node["y"]["x"], x, rtol=1e-6)
        if z is not None:
            got = r.bias_by_node["y"]["z"]
            np.testing.assert_allclose(got, z, rtol=1e-6, atol=1e-12)
