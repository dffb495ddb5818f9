"""Masks and dead rows: what is not finite in a branch that nobody looks at is not in C_w and C_b either.

Each case against the dense oracle, in which a coefficient that is not finite counts as 0, and for completeness.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures import export
from explaining import assert_complete, compiled, explain, run
from onnx import numpy_helper, parser
from oracle import explain as oracle

from omenn_onnx.graph.files import load_model
from omenn_onnx.graph.read import read_graph
from omenn_onnx.graph.signs import FINITE, NAN, NEGATIVE, POSITIVE, ZERO, Signs

F = np.float32
RULES = ("secant", "tangent")
MODELS = Path(__file__).resolve().parent.parent / "models"
LOWEST = np.finfo(F).min

LINE = np.array([[1.5, -2, 0, 0.5, 0, 3]], F)
ROWS = np.array([[[1, -2, 0.5], [0, 0, 0], [2, 2, 2]]], F)
SCORES = np.array([[[0.3, -1, 2], [0.1, 0.2, 0.3], [1, 2, -1]]], F)
SOME = np.array([[0, 1, 0, 1, 0, 0]], bool)
"""Masked elements of LINE."""
CONSTANTS = {
    "zero": F(0), "one": F(1), "two": F(2), "half": F(0.5), "far": F(-1.5), "tenth": F(0.1), "hundred": F(100),
    "low": F(-5), "high": F(5), "tiny": F(1e-12), "huge": F(1e30), "last": np.array([-1]),
    "picked": np.array([0, 3, 5]),
    "scale": np.array([1, 2, 3], F), "shift": np.array([0.1, 0.2, 0.3], F), "from": np.array([3]),
    "to": np.array([4]),
    "w": np.eye(3, dtype=F) * F(0.5) + F(0.1), "masked": np.where(SOME, -np.inf, 0).astype(F), "some": SOME,
    "lowered": np.where(SOME, LOWEST, 0).astype(F), "minus": F(-np.inf), "lowest": F(LOWEST), "lows": np.full(6, -5, F),
}  # fmt: skip

# (x > 0 ? f(x) : 0) and its kind
GUARDS = {
    "log": "p = Greater (x, zero) l = Log (x) y = Where (p, l, zero)",
    "log-or": "l = Log (x) p = IsNaN (l) q = IsInf (l) r = Or (p, q) y = Where (r, zero, l)",
    "log-size": "l = Log (x) a = Abs (l) p = Less (a, huge) y = Where (p, l, zero)",
    "x-log-x": "a = Abs (x) l = Log (a) m = Mul (a, l) p = Equal (a, zero) y = Where (p, zero, m)",
    "sqrt": "p = Greater (x, zero) l = Sqrt (x) y = Where (p, l, zero)",
    "reciprocal": "p = Equal (x, zero) l = Reciprocal (x) y = Where (p, zero, l)",
    "constant-over": "p = Equal (x, zero) l = Div (two, x) y = Where (p, zero, l)",
    "over": "b = Neg (x) r = Relu (b) p = Equal (r, zero) l = Div (x, r) y = Where (p, zero, l)",
    "over-then-times": "r = Relu (x) p = Equal (r, zero) l = Div (x, r) m = Mul (l, x) y = Where (p, zero, m)",
    "power": "p = Greater (x, zero) l = Pow (x, half) y = Where (p, l, zero)",
    "negative-power": "p = Greater (x, zero) l = Pow (x, far) y = Where (p, l, zero)",
    "acos": "a = Abs (x) p = Less (a, one) l = Acos (x) y = Where (p, l, zero)",
    "atanh": "a = Abs (x) p = Less (a, one) l = Atanh (x) y = Where (p, l, zero)",
    "acosh": "p = Greater (x, one) l = Acosh (x) y = Where (p, l, zero)",
    "exp": "p = Less (x, tenth) b = Mul (x, hundred) l = Exp (b) y = Where (p, l, x)",
    "elu": "b = Mul (x, hundred) p = Greater (b, zero) l = Exp (b) m = Sub (l, one) y = Where (p, b, m)",
    "softplus": "b = Mul (x, hundred) p = Greater (b, high) l = Exp (b) m = Add (l, one) n = Log (m) "
    "y = Where (p, b, n)",
    "gathered": "l = Sqrt (x) y = Gather <axis = 1> (l, picked)",
    "sliced": "l = Log (x) y = Slice (l, from, to, last)",
}
# an infinite value into a function that bounds it: W is 0, the bias f(x)
BOUNDED = {
    "relu-log": "a = Abs (x) l = Log (a) y = Relu (l)",
    "clip-log": "a = Abs (x) l = Log (a) y = Clip (l, low, high)",
    "max-log": "a = Abs (x) l = Log (a) y = Max (l, low)",
    "max-log-rows": "a = Abs (x) l = Log (a) y = Max (l, lows)",
    "exp-log": "a = Abs (x) l = Log (a) y = Exp (l)",
    "tanh-log": "a = Abs (x) l = Log (a) y = Tanh (l)",
    "atan-reciprocal": "a = Abs (x) l = Reciprocal (a) y = Atan (l)",
    "reciprocal-twice": "a = Abs (x) l = Reciprocal (a) y = Reciprocal (l)",
}
# 0 / 0 and rows without spread
NORMS = {
    "l2-max": "n = ReduceL2 (x, last) m = Max (n, tiny) y = Div (x, m)",
    "l2-clip": "n = ReduceL2 (x, last) m = Clip (n, tiny) y = Div (x, m)",
    "l2-where": "s = Mul (x, x) n = ReduceSum (s, last) m = Sqrt (n) p = Equal (m, zero) d = Where (p, one, m) "
    "y = Div (x, d)",
    "lp-norm": "y = LpNormalization <axis = 2> (x)",
    "layer-norm": "y = LayerNormalization (x, scale, shift)",
    "layer-norm-without-epsilon": "m = LayerNormalization <epsilon = 0.0> (x, scale, shift) p = IsNaN (m) "
    "y = Where (p, zero, m)",
    "instance-norm": "y = InstanceNormalization (x, scale, shift)",
    "rms-norm": "y = RMSNormalization (x, scale)",
    "spread-or-one": "m = ReduceMean (x, last) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) s = Sqrt (v) "
    "p = Equal (s, zero) t = Where (p, one, s) y = Div (d, t)",
    "spread-guarded-behind": "m = ReduceMean (x, last) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) "
    "s = Sqrt (v) p = Equal (s, zero) r = Div (d, s) y = Where (p, zero, r)",
    "by-its-sum": "r = Relu (x) s = ReduceSum (r, last) p = Equal (s, zero) l = Div (x, s) y = Where (p, zero, l)",
    "masked-mean": "c = Greater (x, shift) f = Cast <to = 1> (c) m = Mul (x, f) s = ReduceSum (m, last) "
    "n = ReduceSum (f, last) d = Div (s, n) p = Equal (n, zero) y = Where (p, zero, d)",
    "norm": "y = ReduceL2 <keepdims = 0> (x, last)",
    "norm-in-parts": "s = Mul (x, x) n = ReduceSum <keepdims = 0> (s, last) y = Sqrt (n)",
}
BEHIND_A_MASK = {
    **{op: f"y = {op} (m)" for op in "Sigmoid Tanh Relu Softplus Exp Erf Elu HardSigmoid Atan Softmax".split()},
    "Clip": "y = Clip (m, low, high)",
    "LogSoftmax": "l = LogSoftmax (m) y = Gather <axis = 1> (l, zeroth)",
    "ReduceLogSumExp": "y = ReduceLogSumExp (m, last)",
    "ReduceMax": "l = LeakyRelu (m) y = ReduceMax (l, last)",
}
MASKS = {"added": "m = Add (x, masked)", "lowered": "m = Add (x, lowered)", "where": "m = Where (some, minus, x)",
         "where-lowest": "m = Where (some, lowest, x)"}  # fmt: skip
CASES = {
    **{name: (text, LINE) for name, text in (GUARDS | BOUNDED).items()},
    **{name: (text, ROWS) for name, text in NORMS.items()},
    **{f"{op}-{how}": (f"{mask} {text}", LINE) for op, text in BEHIND_A_MASK.items() for how, mask in MASKS.items()},
    **{f"{op}-of-zeros": (f"y = {op} (x)", np.zeros((1, 6), F))
       for op in "Abs Relu Sigmoid Tanh Exp Softplus Erf Sqrt Gelu HardSwish Elu Selu Softsign Mish Softmax".split()},
}  # fmt: skip


def model(text: str, x: np.ndarray, **more: np.ndarray) -> onnx.ModelProto:
    constants = {**CONSTANTS, "zeroth": np.array([0, 2]), **more}
    shape = ",".join(map(str, x.shape))
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> g (float[{shape}] x) => (float y) {{ {text} }}'
    )
    used = {i for n in proto.graph.node for i in n.input} & set(constants)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(constants[n]), n) for n in sorted(used))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto)


def assert_equal(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    top = max(np.max(np.abs(expected)), 1e-2)
    assert np.isfinite(actual).all(), f"{what}: {actual}"
    assert np.max(np.abs(actual - expected)) <= 1e-4 * top, f"{what}: {actual} against {expected}"


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", CASES)
def test_case(name, rules):
    text, x = CASES[name]
    proto, axis = model(text, x), x.ndim - 1
    y = run(proto, {"x": x})["y"]
    assert np.isfinite(y).all()
    program = compiled(proto, rules=rules, target="seed", output="y", channel_axis=axis)
    seed = np.random.default_rng(len(name)).normal(size=y.shape).astype(F)
    dense = oracle(proto, {"x": x}, ["x"], "y", seed, rules, {"x": axis}, check=False)
    for optimise in (True, False):
        found = explain(program, {"x": x, "seed": seed}, optimise)
        assert_complete(found)
        assert_equal(found.c_w[0], dense.C_w["x"], "C_w")
        assert_equal(found.c_b[0], dense.C_b["x"], "C_b")


# --- attention whose second row is masked as a whole: without that row the same network ------------------------------

DEAD = np.zeros((1, 3, 3), F)
DEAD[0, 1] = DEAD[0, 2, 0] = -np.inf
ALIVE = np.where(np.isinf(DEAD), DEAD, 0)
ALIVE[0, 1] = 0
ROW = np.isinf(DEAD).all(axis=-1, keepdims=True)
SCORED = "s = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (x) q = MatMul (s, t) m = Add (q, mask)"
ATTENTION = {
    "guarded-softmax": f"{SCORED} P = Softmax (m) n = IsNaN (P) g = Where (n, zero, P) y = MatMul (g, x)",
    "guarded-product": f"{SCORED} P = Softmax (m) o = MatMul (P, x) n = IsNaN (o) y = Where (n, zero, o)",
    "guarded-row": f"{SCORED} P = Softmax (m) o = MatMul (P, x) y = Where (row, zero, o)",
    "picked-row": f"{SCORED} P = Softmax (m) o = MatMul (P, x) y = Gather <axis = 1> (o, zeroth)",
    "in-parts": f"{SCORED} b = ReduceMax (m, last) d = Sub (m, b) e = Exp (d) S = ReduceSum (e, last) P = Div (e, S) "
    "n = IsNaN (P) g = Where (n, zero, P) y = MatMul (g, x)",
    "carried-softmax": f"{SCORED} P = Softmax (m) n = IsNaN (P) y = Where (n, zero, P)",
    "log-sum": f"{SCORED} l = ReduceLogSumExp (m, last) n = IsInf (l) y = Where (n, zero, l)",
    "log-softmax": f"{SCORED} l = LogSoftmax (m) a = Abs (l) n = Less (a, huge) y = Where (n, l, zero)",
    "entropy": f"{SCORED} P = Softmax (m) l = Log (P) e = Mul (P, l) n = Equal (P, zero) f = Where (n, zero, e) "
    "u = IsNaN (f) v = Where (u, zero, f) y = ReduceSum (v, last)",
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", ATTENTION)
def test_a_row_masked_as_a_whole(name, rules):
    programs = {}
    for kind, mask in (("dead", DEAD), ("alive", ALIVE)):
        proto = model(ATTENTION[name], SCORES, mask=mask, row=ROW)
        programs[kind] = compiled(proto, rules=rules, target="seed", output="y", channel_axis=2)
    y = run(proto, {"x": SCORES})["y"]
    seed = np.random.default_rng(3).normal(size=y.shape).astype(F)
    other = seed.copy()
    if name != "picked-row":
        other[:, 1] = 0
    expected = explain(programs["alive"], {"x": SCORES, "seed": other})
    for optimise in (True, False):
        found = explain(programs["dead"], {"x": SCORES, "seed": seed}, optimise)
        assert_complete(found)
        assert_equal(found.c_w[0], expected.c_w[0], "C_w")
        assert_equal(found.c_b[0], expected.c_b[0], "C_b")


@pytest.mark.parametrize("rules", RULES)
def test_a_mask_that_is_fed(rules):
    """A mask that is an input, not explained, may be -inf; so may one that is made of token ids."""
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x, float[N,4] mask) => (float[N,4] y) '
        "{ m = Add (x, mask) y = Sigmoid (m) }"
    )
    feeds = {"x": np.arange(8, dtype=F).reshape(2, 4) - 3, "mask": np.tile(F([0, -np.inf, 0, -np.inf]), (2, 1))}
    program = compiled(proto, rules=rules, inputs=["x"], target="1,0", output="y")
    found = explain(program, feeds)
    for k in (0, 1):  # element 1 is masked: it is 0 and takes nothing from anywhere
        total = (found.c_w[0][:, k] * feeds["x"]).sum(axis=1) + found.c_b[0][:, k, 0]
        np.testing.assert_allclose(total, run(proto, feeds)["y"][:, 1 - k], atol=1e-6)
    assert not found.c_w[0][:, 0].any()


# --- what it costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    "name", ["digits_cnn", "digits_vit", "breast_cancer_mlp", "resnet_basic", "efficientnet", "vit"]
)
def test_ordinary_networks_need_no_guard(name, rules, monkeypatch):
    file = MODELS / f"{name}.onnx"
    proto = onnx.load(file) if file.exists() else export(name, "torchscript", 17)
    counts = [len(compiled(proto, rules=rules).graph.node)]
    monkeypatch.setattr(Signs, "finite", lambda self, t: True)
    counts.append(len(compiled(proto, rules=rules).graph.node))
    assert counts[0] == counts[1]


def signs_of(text: str, **constants: np.ndarray) -> int:
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x) => (float[2,3] y) {{ {text} }}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return Signs()(read_graph(load_model(proto).proto).tensors["y"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = Mul (x, x)", ZERO | POSITIVE),
        ("s = Mul (x, x) t = Add (s, c) r = Sqrt (t) y = Reciprocal (r)", POSITIVE),
        ("e = Exp (x) s = Add (e, c) y = Reciprocal (s)", ZERO | POSITIVE),
        ("b = ReduceMax (x, axes) d = Sub (x, b) e = Exp (d) t = ReduceSum (e, axes) y = Div (e, t)", POSITIVE),
        ("p = Greater (x, zero) l = Log (x) y = Where (p, l, zero)", FINITE),
        ("p = LessOrEqual (x, zero) l = Log (x) y = Where (p, zero, l)", FINITE),
        ("n = Neg (x) p = Less (n, zero) l = Log (x) y = Where (p, l, zero)", FINITE),
        ("p = Equal (x, zero) q = Not (p) d = Div (c, x) y = Where (q, d, zero)", FINITE),
        ("a = Neg (x) b = Abs (a) y = Neg (b)", NEGATIVE | ZERO),
        ("y = Softmax (x)", ZERO | POSITIVE),
        ("m = Add (x, causal) y = Softmax (m)", ZERO | POSITIVE),
        ("m = Add (x, dead) y = Softmax (m)", ZERO | POSITIVE | NAN),
    ],
)
def test_signs(text, expected):
    causal, dead = F([[0, -np.inf, -np.inf], [0, 0, -np.inf]]), F([[0, 0, 0], [-np.inf] * 3])
    assert signs_of(text, c=F(1e-6), zero=F(0), axes=np.array([1]), causal=causal, dead=dead) == expected


@pytest.mark.parametrize(
    "text", ["y = Log (x)", "y = Sqrt (x)", "y = Reciprocal (x)", "s = Mul (x, x) y = Div (x, s)", "y = Exp (x)",
             "p = Greater (x, minus) l = Log (x) y = Where (p, l, zero)",
             "y = LayerNormalization <epsilon = 0.0> (x, w)"]
)  # fmt: skip
def test_signs_that_are_not_finite(text):
    assert signs_of(text, zero=F(0), minus=F(-1), w=np.ones(3, F)) & ~FINITE
