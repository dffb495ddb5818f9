"""Compiled models against the dense oracle: random graphs that mix the clauses of the calculus, operators with random
attributes, and what such comparisons found, as small as it gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from explaining import explain, run
from onnx import TensorProto, helper, numpy_helper, parser
from oracle import NoCarrierPath
from oracle import explain as dense
from oracle.drawn import KINDS, graph, operator

import omenn_onnx

Array = np.ndarray
RULES = ("secant", "tangent")
BAR = 1e-4
"""Of the largest entry of the oracle's map. (The issue asks for 1e-3; 1e-6 is typical.)"""
ILL = 1e5
"""Above this condition number float32 has too few digits to compare."""

CLAUSES = Path(__file__).parent / "oracle" / "clauses.txt"
GRAPHS = range(100)
OPERATORS = range(40)


def off(maps: dict[str, Array], expected: dict[str, Array], carried: float) -> float:
    """The largest difference in units of the largest entry of all maps of that kind; of C_b, where large parts of C_w X
    nearly cancel, in units of a hundredth of those."""
    worst = 0.0
    for kind in ("C_w", "C_b"):
        keys = [k for k in expected if k.startswith(kind)]
        largest = max(np.abs(expected[k]).max(initial=0) for k in keys)
        largest = max(largest, 1e-2, 0.01 * carried if kind == "C_b" else 0)
        for k in keys:
            assert maps[k].shape == expected[k].shape, f"{k}: shape {maps[k].shape}, not {expected[k].shape}"
            gap = np.abs(maps[k] - expected[k]).max(initial=0)
            worst = max(worst, float(gap / largest) if np.isfinite(gap) else np.inf)
    return worst


def dense_maps(model: onnx.ModelProto, feeds: dict[str, Array], inputs: list[str], seed: Array, rules: str, axis: int):
    found = dense(model, feeds, inputs, "y", seed, rules, dict.fromkeys(inputs, axis))
    maps = {f"{m}.{n}": getattr(found, m)[n] for n in inputs for m in ("C_w", "C_b")}
    return maps, found


def assert_as_oracle(
    model: onnx.ModelProto,
    feeds: dict[str, Array],
    inputs: list[str],
    rules: str,
    axis: int,
    optimise: bool,
    bar: float = BAR,
) -> None:
    """C_w and C_b of a random seed."""
    z = run(model, feeds, False)["y"]
    seed = np.random.default_rng(z.size).normal(size=z.shape).astype(np.float32)
    try:
        expected, found = dense_maps(model, feeds, inputs, seed, rules, axis)
    except NoCarrierPath:
        pytest.skip("no path")
    if found.condition > ILL:
        pytest.skip("ill-conditioned")
    size = max(1.0, float(np.abs(z).max(initial=0)))
    assert np.abs(found.values["y"] - z).max(initial=0) <= bar * size, "the oracle's value is not the model's"
    proto = omenn_onnx.compile(model, inputs=inputs, output="y", target="seed", rules=rules, channel_axis=axis)
    kind = next(i.type.tensor_type.elem_type for i in proto.graph.input if i.name == "seed")
    seed_fed = seed.astype(helper.tensor_dtype_to_np_dtype(kind))
    result = explain(proto, {**feeds, "seed": seed_fed}, optimise)
    maps = {f"C_w.{n}": w for n, w in zip(inputs, result.c_w, strict=True)}
    maps |= {f"C_b.{n}": b for n, b in zip(inputs, result.c_b, strict=True)}
    carried = max(np.abs(found.C_w[n] * feeds[n]).max(initial=0) for n in inputs)
    gap = off(maps, expected, carried)
    if gap > bar:  # is it rounding? the oracle at an input that differs in the last bits
        random = np.random.default_rng(3)
        near = {k: (v * (1 + 1e-6 * random.normal(size=v.shape))).astype(np.float32) for k, v in feeds.items()}
        noise = off(dense_maps(model, near, inputs, seed, rules, axis)[0], expected, carried)
        assert gap <= 30 * noise, f"differs by {gap:.2g}\n{onnx.printer.to_text(model)}\n{maps}\n{expected}"


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "batch"])
@pytest.mark.parametrize("number", GRAPHS)
def test_random_graph(number: int, dynamic: bool, rules: str) -> None:
    model, feeds, inputs = graph(number, dynamic)
    axis = number % min(v.ndim for v in feeds.values())
    assert_as_oracle(model, feeds, inputs, rules, axis, optimise=False)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("number", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_operator(kind: str, number: int, rules: str) -> None:
    drawn = operator(kind, number)
    if drawn is None:
        pytest.skip("no kernel in ONNX Runtime")
    model, feeds, inputs = drawn
    assert_as_oracle(model, feeds, inputs, rules, number % min(v.ndim for v in feeds.values()), optimise=False)


def clauses() -> Iterator[tuple[str, int, str, int, str]]:
    """Of tests/oracle/clauses.txt: name, opset, explained inputs, channel axis, nodes."""
    opset = 0
    for line in CLAUSES.read_text().splitlines():
        if line.startswith("[opset"):
            opset = int(line[7:-1])
        elif opset and line:
            name, inputs, axis, body = (part.strip() for part in line.split("|", 3))
            yield name, opset, inputs, int(axis), body


def clause_constants() -> str:
    text = CLAUSES.read_text()
    return ", ".join(line for line in text[text.index("[constants]") : text.index("[opset")].splitlines()[1:] if line)


def parsed(inputs: str, constants: str, body: str, opset: int) -> onnx.ModelProto:
    """The nodes, and those constants that they use."""
    opsets = f'"": {opset}, "com.microsoft": 1'
    text = f"<ir_version: 10, opset_import: [{opsets}]> g ({inputs}) => (float[] y) <{constants}> {{ {body} }}"
    model = parser.parse_model(text)
    made = {o for node in model.graph.node for o in node.output}
    used = {i for node in model.graph.node for i in node.input} - made
    weights = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    return model


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("clause", [pytest.param(c, id=c[0]) for c in clauses()])
def test_clause(clause: tuple[str, int, str, int, str], rules: str) -> None:
    """Combinations of clauses, written by hand."""
    _, opset, names, axis, body = clause
    model = parsed(", ".join(f"float[2,3,4] {n}" for n in names), clause_constants(), body, opset)
    random = np.random.default_rng(5)
    feeds = {n: random.normal(size=(2, 3, 4)).astype(np.float32) for n in names}
    assert_as_oracle(model, feeds, list(names), rules, axis, optimise=False)


X = "float[2,3,4] x"
XZ = f"{X}, float[2,3,4] z"
CONSTANTS = """
    int64[2] flat = {-1, 3}, int64[3] again = {2, 4, 3}, float[4] third = {0.3, 0.1, -0.2, 0.5},
    float one = {1}, float half = {0.5}, float zero = {0}, int64[1] first = {0}, int64[2] both = {1, 2},
    int64[1] four = {4}, float[3, 1] column = {0.7, -0.2, 0.1}, float[3] b = {0.3, -0.2, 0.5}, float[1, 1, 1,
    1] wide = {0.5}, float[3, 3, 2] f = {1, -0.5, 0.3, 0.2, 0.4, -0.6, 0.7, 0.3, -0.2, 0.5, 0.1, -0.3, 0.2, 0.8, 0.4,
    -0.1, 0.6, 0.9}, int64[6] p1 = {0, 0, 1, 0, 0, 1}, int64[6] p2 = {0, 0, 2, 0, 0, 0}, float[4, 1] v = {1.5, -0.7,
    0.3, 0.9}, int32[3] lengths = {1, 2, 1}, float[1, 6, 4] wg = {0.5, -0.3, 0.2, 0.8, -0.6, 0.4, 0.1, 0.3, -0.2, 0.7,
    0.6, -0.5, 0.2, 0.4, -0.1, 0.9, -0.3, 0.1, 0.8, -0.7, 0.3, 0.5, -0.4, 1}, float[1, 6, 2] rg = {0.3, -0.5, 0.7,
    0.2, -0.4, 0.6, 0.1, 0.8, -0.2, 0.5, 0.9, -0.3}, float[1, 12] bg = {0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8,
    0.9, 0.2, -0.3, 0.4}"""
LOOK = "u = Transpose<perm = [0, 2, 1]>(w) "
FOUND: dict[str, tuple[str, str]] = {
    "two zero pads before a convolution": (X, "a = Pad(x, p1) c = Pad(a, p2) y = Conv(c, f, b)"),
    "zero pad before auto_pad": (X, 'a = Pad(x, p2) y = Conv<auto_pad = "SAME_UPPER", strides = [2]>(a, f, b)'),
    "zero pad before lower auto_pad": (X, 'a = Pad(x, p2) y = Conv<auto_pad = "SAME_LOWER", strides = [2]>(a, f, b)'),
    "vector of a softmax on the left": (
        "float[4,4] x",
        "a = MatMul(x, v) s = Reshape(a, four) p = Softmax<axis = 0>(s) y = MatMul(p, x)",
    ),
    "vector of a softmax on the right": (
        "float[4,4] x",
        "a = MatMul(x, v) s = Reshape(a, four) p = Softmax<axis = 0>(s) y = MatMul(x, p)",
    ),
    "transposed product of a softmax": (
        "float[6,4] x, float[6,3] z",
        "p = Softmax<axis = 0>(x) w = Add(z, b) y = Gemm<transA = 1>(p, w, b)",
    ),
    "softmax through reshapes of a symbol": (
        "float[c,e,g] x",
        "a = Sigmoid(x) t = Transpose<perm = [0, 2, 1]>(a) p = Softmax<axis = 2>(t) r = Reshape(p, flat) "
        'q = Reshape(r, again) y = Einsum<equation = "...ij,...jk->...ik">(q, a)',
    ),
    "constant with more axes": (X, "y = Max(x, wide)"),
    "guard behind a moved softmax": (
        XZ,
        "s = Softmax(x) t = Unsqueeze(s, first) p = Squeeze(t, first) n = IsNaN(p) q = Where(n, zero, p) "
        f"w = Add(z, column) {LOOK} y = MatMul(q, u)",
    ),
    "guarded twice": (
        XZ,
        "p = Softmax(x) n = IsNaN(p) q = Where(n, zero, p) m = IsNaN(q) r = Where(m, zero, q) "
        f"w = Add(z, column) {LOOK} y = MatMul(r, u)",
    ),
    "softmax over two axes, written out": (X, "e = Exp(x) s = ReduceSum(e, both) y = Div(e, s)"),
    "remainder": (X, "y = Mod<fmod = 1>(x, half)"),
    "reversed within lengths": (
        "float[2,3,4] x",
        "y, h = GRU<direction = \"reverse\", hidden_size = 2, linear_before_reset = 1>(x, wg, rg, bg, lengths)",
    ),
    "bias between symbols that broadcast": ("float[a,3] x, float[c,3] z", "t = Add(x, z) y = Add(t, half)"),
    "product of symbols that broadcast": ("float[a,3] x, float[c,3] z", "t = Mul(x, z) y = Add(t, half)"),
    "matrices of symbols that broadcast": (
        "float[a,2,3] x, float[c,3,d] z",
        "s = Softmax(x) t = MatMul(s, z) y = Add(t, half)",
    ),
}
SIZES = {"a": 1, "c": 2, "d": 4, "e": 3, "g": 4}


@pytest.mark.parametrize("optimise", [False, True], ids=["plain", "optimised"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, rules: str, optimise: bool) -> None:
    """What was compiled otherwise than the page says."""
    inputs, body = FOUND[name]
    model = parsed(inputs, CONSTANTS, body, 18)
    feeds = {}
    for k, i in enumerate(model.graph.input):
        shape = [SIZES.get(d.dim_param, d.dim_value) for d in i.type.tensor_type.shape.dim]
        feeds[i.name] = np.random.default_rng(k).normal(size=shape).astype(np.float32)
    assert_as_oracle(model, feeds, list(feeds), rules, 1, optimise)


BODIES = {
    "scan": (
        "float[2,3] s, float[4,2,3] x",
        """l, y = Scan<num_scan_inputs = 1, body = step (float[2,3] h, float[2,3] e) => (float[2,3] n, float[2,3] o)
        { a = MatMul(h, m) c = Add(a, e) d = Add(c, b) n = Tanh(d) g = Sigmoid(e) o = Mul(n, g) }>(s, x)""",
    ),
    "scan backwards, axes, a constant state": (
        "float[2,4,3] x",
        """l, r = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [2], scan_input_directions = [1],
        scan_output_directions = [1], body = step (float[2,3] h, float[2,3] e) => (float[2,3] n, float[2,3] o)
        { a = MatMul(h, m) c = Add(a, e) n = Tanh(c) g = Softmax(e) o = Mul(n, g) }>(still, x)
        u = Unsqueeze(l, second) y = Mul(r, u)""",
    ),
    "scan whose state becomes a gate": (
        "float[2,3] s, float[2,4,3] x",
        """l, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], body = step (float[2,3] h, float[2,3] e) =>
        (float[2,3] n, float[2,3] o) { n = Sigmoid(h) o = Mul(h, e) }>(s, x)""",
    ),
    "loop": (
        "float[2,3] x",
        """y, r = Loop<body = step (int64 i, bool c, float[2,3] h) => (bool d, float[2,3] k, float[2,3] o)
        { d = Identity(c) a = MatMul(h, m) e = Add(a, b) k = Relu(e) g = Sigmoid(h) o = Mul(k, g) }>(trips, on, x)""",
    ),
    "loop over an index": (
        "float[2,3,3] x",
        """y, r = Loop<body = step (int64 i, bool c, float[2,3] h) => (bool d, float[2,3] k, float[2,3] o)
        { d = Identity(c) a = Gather<axis = 1>(x, i) e = Add(a, b) u = Tanh(h) k = Add(e, u) o = Identity(k) }>
        (trips, on, still)""",
    ),
    "branch by data": (
        "float[2,3] x",
        """h = Relu(x) v = ReduceMean<keepdims = 0>(x) t = Greater(v, none) y = If<then_branch = a () => (float[2,3] u)
        { u = Add(h, b) }, else_branch = e () => (float[2,3] w) { w = Mul(h, b) }>(t)""",
    ),
}
STATE = """float[3,3] m = {0.1, 0.5, -0.3, 0.2, 0.4, -0.6, 0.7, 0.3, -0.2}, float[3] b = {0.1, -0.2, 0.3},
    int64 trips = {3}, bool on = {1}, float[2,3] still = {0, 0, 0, 0, 0, 0}, int64[1] second = {2}, float none = {0}"""


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", BODIES)
def test_body(name: str, rules: str) -> None:
    """Scan, Loop and If: every pass written out by the oracle."""
    inputs, body = BODIES[name]
    text = f'<ir_version: 10, opset_import: ["": 18]> g ({inputs}) => (float[] y) <{STATE}> {{ {body} }}'
    model = parser.parse_model(text)
    feeds = {}
    for k, i in enumerate(model.graph.input):
        shape = [d.dim_value for d in i.type.tensor_type.shape.dim]
        feeds[i.name] = np.random.default_rng(k).normal(size=shape).astype(np.float32)
    assert_as_oracle(model, feeds, list(feeds), rules, 1, optimise=True)


OTHER_TYPES = {
    "negative power as a gate": ("xz", "a = Abs(x) c = Add(a, half) d = Pow(c, minus) y = Mul(d, z)"),
    "square of a gate": ("xz", "a = Sigmoid(x) d = Pow(a, two) e = Tanh(z) y = Mul(d, e)"),
    "larger of two": ("xz", "c = PRelu(x, half) d = Abs(z) y = Max(c, d)"),
    "smaller than a constant": ("x", "c = Softsign(x) y = Min(c, row)"),
    "largest": ("x", "c = Softsign(x) y = ReduceMax(c, last)"),
    "chain of clips as a gate": ("xz", "a = Max(x, minus) c = Min(a, half) y = Mul(c, z)"),
    "written sigmoid": ("xz", "n = Neg(x) e = Exp(n) o = Add(half, half) p = Add(e, o) y = Div(z, p)"),
    "guarded softmax": (
        "xz",
        "p = Softmax(x) n = IsNaN(p) o = Sub(half, half) q = Where(n, o, p) w = Add(z, row) "
        "t = Transpose<perm = [0, 2, 1]>(w) y = MatMul(q, t)",
    ),
    "softmax": ("x", "y = Softmax(x)"),
    "norm": ("x", "y = LayerNormalization(x, row, row)"),
}
TYPES = {TensorProto.FLOAT16: (np.float16, 2e-2), TensorProto.DOUBLE: (np.float64, BAR)}
SCALARS = """float half = {0.5}, float minus = {-1}, float two = {2}, float[4] row = {0.1, 0.2, -0.3, 0.4},
    int64[1] last = {-1}"""


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("code", TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("name", OTHER_TYPES)
def test_other_types(name: str, code: int, rules: str) -> None:
    """The rules do not depend on the model's type."""
    names, body = OTHER_TYPES[name]
    dtype, bar = TYPES[code]
    model = parsed(", ".join(f"float[2,3,4] {n}" for n in names), SCALARS, body, 20)
    for i in (*model.graph.input, *model.graph.output):
        i.type.tensor_type.elem_type = code
    for t in model.graph.initializer:
        value = numpy_helper.to_array(t)
        if value.dtype == np.float32:
            t.CopyFrom(numpy_helper.from_array(value.astype(dtype), t.name))
    random = np.random.default_rng(5)
    feeds = {n: random.normal(size=(2, 3, 4)).astype(dtype) for n in names}
    try:
        run(model, feeds, False)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        pytest.skip("no kernel in ONNX Runtime")
    assert_as_oracle(model, feeds, list(names), rules, 1, optimise=False, bar=bar)
