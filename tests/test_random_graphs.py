"""Properties of random small graphs: completeness, forward against reverse, ones, a batch against its rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from explaining import assert_close, assert_complete, assert_same_outputs, compiled, explain, run
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import parser
from random_graphs import BATCH, random_model

from omenn_onnx.errors import NoPath
from omenn_onnx.graph.files import load_model
from omenn_onnx.linearise import forward_model, linearise

EXAMPLES = 300
RULES = ("secant", "tangent")


def drawn(data: st.DataObject, dynamic: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A random model whose tensors are neither huge nor not finite, and an input for it."""
    model, feeds = random_model(data.draw, dynamic)
    onnx.checker.check_model(model)
    all_outputs = onnx.ModelProto()
    all_outputs.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    inner = [o for n in model.graph.node for o in n.output if o not in known]
    all_outputs.graph.output.extend(onnx.ValueInfoProto(name=o) for o in inner)
    values = run(all_outputs, feeds, optimise=False)
    assume(all(np.isfinite(v).all() and np.abs(v).max() < 300 for v in values.values() if v.dtype.kind == "f"))
    return model, feeds


@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), dynamic=st.sampled_from(["none", "batch", "all"]))
def test_random_graph(rules: str, data: st.DataObject, dynamic: str) -> None:
    """All properties of one graph at once: each is compiled once for its argmax and once for a seed."""
    model, feeds = drawn(data, dynamic)
    axis = data.draw(st.integers(1, feeds["x"].ndim - 1), label="channel axis")
    options = {"output": model.graph.output[0].name, "rules": rules}
    try:
        proto = compiled(model, channel_axis=axis, **options)
    except NoPath:
        assume(False)
        return
    result = explain(proto, feeds)
    assert_complete(result)
    assert_complete(explain(proto, feeds, optimise=False))
    assert_same_outputs(result, model, feeds, optimise=True)
    if dynamic != "none":
        for i in range(BATCH):
            alone = explain(proto, {"x": feeds["x"][i : i + 1]})
            assert_close(alone.c_w[0], result.c_w[0][i : i + 1], 1e-4, f"C_w of row {i}")
            assert_close(alone.c_b[0], result.c_b[0][i : i + 1], 1e-4, f"C_b of row {i}")
    forward_is_reverse(model, feeds, axis, options)


def forward_is_reverse(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], axis: int, options: dict[str, str]
) -> None:
    """<u, R (v, o)> = <C_w, v> + <C_b, o>; and from (x, 1) R gives Z itself, and ones."""
    x, random = feeds["x"], np.random.default_rng(17)
    forward = forward_model(linearise(load_model(model), axis={"": axis}, **options))
    ones_shape = [1 if k == axis else n for k, n in enumerate(x.shape)]
    z = run(model, feeds)[model.graph.output[0].name]
    at_x = run(forward, {**feeds, "v.x": x, "o.x": np.ones(ones_shape, np.float32)})
    size = max(1.0, float(np.abs(z).max()))
    assert np.abs(at_x["R_ones"] - 1).max() <= 1e-5, "ones do not stay ones"
    assert np.abs(at_x["R_value"] - z).max() <= 1e-4 * size, "the value stream is not the tensor"
    v, o = (random.standard_normal(s).astype(np.float32) for s in (x.shape, ones_shape))
    u = random.standard_normal(z.shape).astype(np.float32)
    image = run(forward, {**feeds, "v.x": v, "o.x": o})["R_value"].astype(np.float64)
    result = explain(compiled(model, channel_axis=axis, target="seed", **options), {**feeds, "seed": u})
    weights, biases = result.c_w[0].astype(np.float64) * v, result.c_b[0].astype(np.float64) * o
    left, right = np.sum(u * image), np.sum(weights) + np.sum(biases)
    scale = np.abs(u * image).sum() + np.abs(weights).sum() + np.abs(biases).sum()
    assert abs(left - right) <= 1e-5 * max(scale, 1.0), f"<u, R v> = {left}, <R^T u, v> = {right}"


FOUND = {
    "zeros without a shape": """
        g (float[N,3] x) => (float[N,4] z) <int64[1] k={1}, int64[4] pads={0,2,0,1}>
        { t, i = TopK<axis=1>(x, k)
          z = Pad<mode="edge">(t, pads) }""",
    "norm without an inferred shape": """
        g (float[N,4,6] x) => (float[N,2,6] z)
        <float[4] s={1.0,2.0,3.0,4.0}, float[4] b={1.0,2.0,3.0,4.0}, float[2,4,1] w={1.0,2.0,3.0,4.0,1.0,2.0,3.0,4.0}>
        { t = GroupNormalization<num_groups=2>(x, s, b)
          z = Conv(t, w) }""",
    "norm without a known channel size": """
        g (float[N,C,6] x) => (float[N,C,6] z) <float[4] s={1.0,2.0,3.0,4.0}, float[4] b={1.0,2.0,3.0,4.0}>
        { z = GroupNormalization<num_groups=2>(x, s, b) }""",
    "output padding without taps": """
        g (float[N,1,H,1] x) => (float[N,1,P,1] z) <float[1,1,3,1] w={1.0,2.0,3.0}, float[1] b={5.0}>
        { z = ConvTranspose<kernel_shape=[3,1],strides=[2,1],pads=[1,0,0,0],output_padding=[1,0]>(x, w, b) }""",
    "pad between transposes": """
        g (float[2,3,4] x) => (float[2,3,4] z) <int64[1] a={1}, int64[1] e={3}>
        { t = Transpose<perm=[0,2,1]>(x)
          c = Slice(t, a, e, a)
          s = Transpose<perm=[0,2,1]>(c)
          m = Relu(s)
          z = Concat<axis=2>(m, m) }""",
}
"""What these tests found, as small as it gets."""


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, rules: str) -> None:
    """Graphs that were compiled wrongly once."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {FOUND[name]}')
    sizes = {"N": 2, "C": 4, "H": 3}
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [sizes.get(d.dim_param, d.dim_value) for d in dims]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    z = run(model, {"x": x})["z"]
    proto = compiled(model, rules=rules, target="seed", channel_axis=1)
    for place in range(z[0].size):
        seed = np.zeros_like(z)
        seed.reshape(len(z), -1)[:, place] = 1
        for optimise in (True, False):
            assert_complete(explain(proto, {"x": x, "seed": seed}, optimise))
    forward_is_reverse(model, {"x": x}, 1, {"output": "z", "rules": rules})
