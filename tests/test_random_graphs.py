"""Properties of random small graphs: completeness, forward against reverse, ones, a batch against its rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from explaining import assert_close, assert_complete, assert_same_outputs, compiled, explain, run
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import BATCH, random_model

from omenn_onnx.compiler import forward_model, linearise
from omenn_onnx.errors import NoPath
from omenn_onnx.graph.files import load_model

EXAMPLES = 100
RULES = ("secant", "tangent")


def drawn(data: st.DataObject, dynamic: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A random model whose tensors are neither huge nor not finite, and an input for it."""
    model = random_model(data.draw, dynamic)
    onnx.checker.check_model(model)
    shape = [BATCH, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    x = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed")).standard_normal(shape).astype(np.float32)
    all_outputs = onnx.ModelProto()
    all_outputs.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    inner = [o for n in model.graph.node for o in n.output if o not in known]
    all_outputs.graph.output.extend(onnx.ValueInfoProto(name=o) for o in inner)
    values = run(all_outputs, {"x": x}, optimise=False)
    assume(all(np.isfinite(v).all() and np.abs(v).max() < 300 for v in values.values() if v.dtype.kind == "f"))
    return model, {"x": x}


@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), dynamic=st.booleans())
def test_random_graph(rules: str, data: st.DataObject, dynamic: bool) -> None:
    """All properties of one graph at once: each is compiled once for its argmax and once for a seed."""
    model, feeds = drawn(data, dynamic)
    try:
        proto = compiled(model, rules=rules)
    except NoPath:
        assume(False)
        return
    result = explain(proto, feeds)
    assert_complete(result)
    assert_complete(explain(proto, feeds, optimise=False))
    assert_same_outputs(result, model, feeds, optimise=True)
    if dynamic:
        for i in range(BATCH):
            alone = explain(proto, {"x": feeds["x"][i : i + 1]})
            assert_close(alone.c_w[0], result.c_w[0][i : i + 1], 1e-4, f"C_w of row {i}")
            assert_close(alone.c_b[0], result.c_b[0][i : i + 1], 1e-4, f"C_b of row {i}")
    forward_is_reverse(model, feeds, rules)


def forward_is_reverse(model: onnx.ModelProto, feeds: dict[str, np.ndarray], rules: str) -> None:
    """<u, R (v, o)> = <C_w, v> + <C_b, o>; and from (x, 1) R gives Z itself, and ones."""
    x, random = feeds["x"], np.random.default_rng(17)
    forward = forward_model(linearise(load_model(model), rules=rules))
    declared = next(i for i in forward.graph.input if i.name == "o.x")
    ones_shape = [n if k == 0 else d.dim_value for k, (n, d) in enumerate(zip(x.shape, declared.type.tensor_type.shape.dim, strict=True))]
    z = run(model, feeds)[model.graph.output[0].name]
    at_x = run(forward, {**feeds, "v.x": x, "o.x": np.ones(ones_shape, np.float32)})
    size = max(1.0, float(np.abs(z).max()))
    assert np.abs(at_x["R_ones"] - 1).max() <= 1e-5, "ones do not stay ones"
    assert np.abs(at_x["R_value"] - z).max() <= 1e-4 * size, "the value stream is not the tensor"
    v, o = (random.standard_normal(s).astype(np.float32) for s in (x.shape, ones_shape))
    u = random.standard_normal(z.shape).astype(np.float32)
    image = run(forward, {**feeds, "v.x": v, "o.x": o})["R_value"].astype(np.float64)
    result = explain(compiled(model, rules=rules, target="seed"), {**feeds, "seed": u})
    weights, biases = result.c_w[0].astype(np.float64) * v, result.c_b[0].astype(np.float64) * o
    left, right = np.sum(u * image), np.sum(weights) + np.sum(biases)
    scale = np.abs(u * image).sum() + np.abs(weights).sum() + np.abs(biases).sum()
    assert abs(left - right) <= 1e-5 * max(scale, 1.0), f"<u, R v> = {left}, <R^T u, v> = {right}"
