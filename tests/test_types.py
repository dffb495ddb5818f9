"""Numeric types: half floats, double, mixed precision, casts to few bits. The explanation is float32 unless asked."""

from __future__ import annotations

import functools
import json

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from architectures import export_module
from explaining import assert_close, assert_complete, compiled, distance, evaluate, explain, run
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from oracle import explain as oracle
from torch import nn

import omenn_onnx
from omenn_onnx.errors import NoPath
from omenn_onnx.runtime.contract import read_contract

RULES = ("secant", "tangent")
HALF_BAR = 5e-3
"""Of the scale: what a model in half floats rounds stays in the residual."""

both_rules = pytest.mark.parametrize("rules", RULES)


class Small(nn.Module):
    """A convolution, a pooling, attention, norms and an MLP: every kind of coefficient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(4)
        self.heads, self.wide, self.narrow = nn.Linear(4, 12), nn.Linear(4, 8), nn.Linear(8, 4)
        self.classes = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.heads(self.norm(x)).chunk(3, -1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norm(x))))
        return self.classes(x.mean(1))


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@functools.cache
def exported(exporter: str, dtype: torch.dtype = torch.float32, opset: int = 18) -> onnx.ModelProto:
    torch.manual_seed(0)
    module = Small().eval().to(dtype)
    return export_module(module, (X.to(dtype),), ["x"], exporter, opset, {})


@functools.cache
def twin(rules: str) -> tuple[np.ndarray, np.ndarray]:
    """C_w and C_b of class 1 of the network in float32."""
    found = explain(compiled(exported("torchscript"), rules=rules, target=1), {"x": X.numpy()})
    return found.c_w[0], found.c_b[0]


def of_type(dtype: np.dtype) -> dict[str, np.ndarray]:
    return {"x": X.numpy().astype(dtype)}


def output_types(model: onnx.ModelProto) -> dict[str, int]:
    return {o.name: o.type.tensor_type.elem_type for o in model.graph.output}


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def assert_like_twin(found, rules: str, bar: float) -> None:
    for actual, expected in zip((found.c_w[0], found.c_b[0]), twin(rules), strict=True):
        assert_close(actual.astype(np.float64), expected, bar, "a map against that of the float32 network")


# --- half floats ---------------------------------------------------------------------------------------------------


@both_rules
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_float16(exporter, rules):
    model = exported(exporter, torch.float16)
    program = compiled(model, rules=rules, target=1)
    types = output_types(program)
    assert types["z"] == TensorProto.FLOAT16
    assert {types[n] for n in ("C_w", "C_b", "score")} == {TensorProto.FLOAT}
    feeds = of_type(np.float16)
    for optimise in (True, False):
        found = explain(program, feeds, optimise)
        assert_complete(found, HALF_BAR)
        assert_like_twin(found, rules, 1e-2)
        # ONNX Runtime rounds other tensors to half when the explanation reads them: two units in the last place
        assert_close(found.outputs["z"], run(model, feeds, optimise)["z"].astype(np.float64), 2e-3, "the output")
    dense = oracle(model, feeds, ["x"], "z", np.eye(5)[[1, 1]], rules)  # in double, of the same half weights
    for actual, name in ((found.c_w[0], "C_w"), (found.c_b[0], "C_b")):
        assert_close(actual, getattr(dense, name)["x"], 1e-2, name)


@both_rules
def test_float16_in_its_own_type(rules):
    """dtype "model": the adjoint in halves, but for what ONNX Runtime does not add in halves (the pooling)."""
    program = compiled(exported("dynamo", torch.float16), rules=rules, target=1, dtype="model")
    assert output_types(program)["C_w"] == TensorProto.FLOAT16
    for optimise in (True, False):
        found = explain(program, of_type(np.float16), optimise)
        assert_complete(found, HALF_BAR)
        assert_like_twin(found, rules, 1e-2)


@both_rules
@pytest.mark.parametrize("dtype", ["float32", "model"])
@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 17), ("dynamo", 23)])
def test_bfloat16(exporter, opset, dtype, rules):
    """ONNX Runtime's CPU provider has few kernels for it: onnx's reference evaluator runs these."""
    program = compiled(exported(exporter, torch.bfloat16, opset), rules=rules, target=1, dtype=dtype)
    types = output_types(program)
    assert types["z"] == TensorProto.BFLOAT16
    assert types["C_w"] == (TensorProto.FLOAT if dtype == "float32" else TensorProto.BFLOAT16)
    found = explain(program, of_type(ml_dtypes.bfloat16), reference=True)
    assert found.residual() <= HALF_BAR
    assert_like_twin(found, rules, 4e-2)


@both_rules
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("blocked", [[], ["LayerNormalization", "Relu", "Softmax"]])
def test_converted_to_float16(keep, blocked, rules):
    """Mixed precision: float32 at the interface, or around some operators, or nowhere."""
    whole = onnx.ModelProto()
    whole.CopyFrom(exported("dynamo"))
    model = convert_float_to_float16(whole, keep_io_types=keep, op_block_list=blocked or None)
    program = compiled(model, rules=rules, target=1)
    types = output_types(program)
    assert types["z"] == (TensorProto.FLOAT if keep else TensorProto.FLOAT16)
    assert types["C_w"] == TensorProto.FLOAT
    for optimise in (True, False):
        found = explain(program, of_type(np.float32 if keep else np.float16), optimise)
        assert_complete(found, HALF_BAR)
        assert_like_twin(found, rules, 1e-2)


def test_the_bar_is_that_of_the_model():
    """The explanation of a half model keeps the bar of halves, that of a float32 model its own."""
    bars = {torch.float16: 5e-3, torch.bfloat16: 5e-3, torch.float32: 1e-5}
    for dtype, bar in bars.items():
        about = metadata(compiled(exported("torchscript", dtype, 17), target=1))
        assert about["omenn.dtype"] == "float32"
        assert about["omenn.precision"] == str(dtype).removeprefix("torch.")
        assert read_contract(about, "it").bar == bar
    audit = metadata(compiled(exported("torchscript", torch.float16, 17), target=1, dtype="float64"))
    assert read_contract(audit, "it").bar == 1e-12


def test_explainer_of_a_half_model():
    explainer = omenn_onnx.Explainer(compiled(exported("torchscript", torch.float16), target="input"))
    found = explainer(X.half().numpy(), target=[1, 2])
    assert found.complete
    assert found.C_w.dtype == np.float32


# --- double and mixed ----------------------------------------------------------------------------------------------


@both_rules
def test_float64(rules):
    model = exported("torchscript", torch.float64)
    program = compiled(model, rules=rules, target=1)
    assert [output_types(program)[n] for n in ("z", "C_w")] == [TensorProto.DOUBLE, TensorProto.FLOAT]
    found = explain(program, of_type(np.float64), reference=True)
    assert_complete(found)
    assert_like_twin(found, rules, 1e-5)
    exact = explain(compiled(model, rules=rules, target=1, dtype="model"), of_type(np.float64), reference=True)
    assert exact.c_w[0].dtype == np.float64
    assert_complete(exact, 1e-12)
    assert_close(exact.outputs["z"], evaluate(model, of_type(np.float64))["z"], 1e-15, "the output")


def graph(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return model


W64 = np.random.default_rng(0).normal(size=(4, 3))
MIXED = {
    "statistics in double": (
        "(float[N,4] x) => (float[N,3] y) { d = Cast <to=11> (x) s = Mul (d, d) m = ReduceMean <keepdims=1> (s, last) "
        "r = Sqrt (m) q = Div (d, r) f = Cast <to=1> (q) y = MatMul (f, w) }",
        {"last": np.array([1]), "w": W64.astype(np.float32)},
    ),
    "double weights": (
        "(float[N,4] x) => (double[N,3] y) { d = Cast <to=11> (x) m = MatMul (d, w) t = Tanh (m) y = Add (t, b) }",
        {"w": W64, "b": W64[0]},
    ),
    "like another": (
        "(float[N,4] x) => (float[N,3] y) { d = CastLike (x, w) m = MatMul (d, w) y = CastLike (m, x) }",
        {"w": W64},
    ),
    "an integer detour": (  # the integer part is a constant, the path around it carries
        "(float[N,4] x) => (float[N,4] y) { i = Cast <to=7> (x) f = Cast <to=1> (i) r = Sub (x, f) y = Mul (r, r) }",
        {},
    ),
}


@both_rules
@pytest.mark.parametrize("name", MIXED)
def test_mixed(name, rules):
    text, constants = MIXED[name]
    model = graph(text, **constants)
    x = np.random.default_rng(1).normal(size=(1, 4)).astype(np.float32) * 3
    width = run(model, {"x": x})["y"].shape[1]
    for optimise in (True, False):
        found = explain(compiled(model, rules=rules, target=1), {"x": x}, optimise)
        assert_complete(found)
        dense = oracle(model, {"x": x}, ["x"], "y", np.eye(width)[[1]], rules)
        assert_close(found.c_w[0], dense.C_w["x"], 1e-5, "C_w")
        assert_close(found.c_b[0], dense.C_b["x"], 1e-5, "C_b")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integer_input_is_explained_behind_its_cast(dtype):
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = graph("(float[2,4] i) => (float[2,3] y) { x = Cast <to=1> (i) y = MatMul (x, w) }", w=np.float32(W64))
    model.graph.input[0].type.tensor_type.elem_type = code
    found = explain(compiled(model), {"i": np.arange(8, dtype=dtype).reshape(2, 4)})
    assert json.loads(metadata(compiled(model))["omenn.inputs"])[0]["name"] == "x"
    assert_complete(found)
    assert found.x[0].dtype == np.float32


# --- casts to few bits ---------------------------------------------------------------------------------------------

FEW_BITS = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1")


@both_rules
@pytest.mark.parametrize("name", FEW_BITS)
def test_cast_to_few_bits_carries(name, rules):
    """It is linear; what it rounds, up to a quarter of the value, is its bias."""
    code = TensorProto.DataType.Value(name)
    model = graph(
        f"(float[2,4] x) => (float[2,3] y) {{ f = Cast <to={code}> (x) d = Cast <to=1> (f) y = MatMul (d, w) }}",
        w=np.float32(W64),
    )
    model.opset_import[0].version = 23
    x = np.float32(W64[:2].repeat(2, 1)[:, :4])
    found = explain(compiled(model, rules=rules, target=1), {"x": x}, reference=name.startswith("FLOAT4"))
    assert_complete(found)
    assert_close(found.c_w[0], np.tile(W64[:, 1], (2, 1)), 1e-6, "C_w")
    assert distance(found.c_b[0], np.zeros_like(found.c_b[0])) > 0


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.BOOL])
def test_cast_to_an_integer_is_a_constant_and_said_to_be(code):
    model = graph(f"(float[2,4] x) => (float[2,4] y) {{ i = Cast <to={code}> (x) f = Cast <to=1> (i) y = Exp (f) }}")
    with pytest.raises(NoPath, match="floating-point arithmetic"):
        compiled(model, inputs=["x"])
