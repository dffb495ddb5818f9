"""Files for other providers: what of them finds no kernel there, and that on the CPU they compute the same."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import CASES
from cases.base import Case, case, w
from explaining import assert_close, assert_complete, compiled, explain, run

import omenn_onnx
from omenn_onnx.cli.compile import main
from omenn_onnx.compiler import Compiled, compile_loaded
from omenn_onnx.errors import CompileError
from omenn_onnx.graph.files import load_model
from omenn_onnx.providers.placement import Fallback
from omenn_onnx.seeds import parse_target

MODELS = Path(__file__).resolve().parents[1] / "models"
FILES = sorted(MODELS.rglob("*.onnx"))

ACCEPTED = {
    "cuda": {
        "Asin": "the slope of Acos, which has no kernel there either",
        "Cast": "at opset 28, which is newer than the table",
        "DFT": "of free length; the model's own has no kernel there either",
        "MaxPool": "from opset 22 on, of free sizes; the model's own has no kernel there either",
        "EyeLike": "from opset 22 on, of free size",
    },
    "webgpu": {
        "Cast": "at opset 28, which is newer than the table",
        "ConvTranspose": "from opset 22 on; and of three axes",
        "Cos": "from opset 22 on",
        "EyeLike": "of free size",
        "HardSigmoid": "from opset 22 on",
        "MaxPool": "its Indices, where the padding follows from free sizes",
        "Pad": "from opset 24 on",
        "Round": "nearest neighbours of GridSample",
        "Scan": "a loop of free length",
        "Sin": "from opset 22 on",
        "Sinh": "from opset 22 on",
        "Squeeze": "from opset 25 on",
        "Transpose": "from opset 25 on",
    },
}
"""Operators of the explanation that may find no kernel, and where."""


def compiled_for(model: onnx.ModelProto | Path, provider: str, **options: Any) -> Compiled:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        settings: dict[str, Any] = {"inputs": (), "output": None, "rules": "secant", "axis": {}, "opaque": ()}
        inputs, output, rules, axis, opaque = (settings | options).values()
        target = parse_target("argmax")
        loaded = load_model(model)
        return compile_loaded(loaded, inputs, output, target, rules, axis, "float32", opaque, "", provider)


def whole(f: Fallback) -> bool:
    """Whether a node works on whole numbers, which WebGPU has no kernels for (int32 apart), or turns them into others,
    or double ones."""
    return bool({"int64", "int8", "uint16", "double"} & set(f.about))


def variants(c: Case) -> Iterator[onnx.ModelProto]:
    yield c.model()
    if c.dyn and any(name in c.name for name in ("Conv", "Pool", "cnn", "Resize", "GridSample")):
        yield c.model(dynamic=True)


@pytest.mark.parametrize("provider", ["cuda", "webgpu"])
@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_cases_find_kernels_and_compute_the_same(c: Case, provider: str) -> None:
    """Every node of ours has a kernel, or is accepted above; where the file differs from the CPU's, the results do
    not."""
    axis = dict.fromkeys(c.inputs, c.channels()[0])
    options = {"inputs": c.inputs, "output": c.output, "rules": c.rules[0], "axis": axis, "opaque": c.opaque}
    for i, model in enumerate(variants(c)):
        there = compiled_for(model, provider, **options)
        assert there.placement is not None
        for f in there.placement.ours:
            if not (provider == "webgpu" and whole(f)):
                assert f.op in ACCEPTED[provider], f
        here = compiled_for(model, "cpu", **options)
        if here.proto.graph == there.proto.graph or not c.runtime:
            continue
        feeds = c.feeds(other=bool(i))
        one, other = run(here.proto, feeds), run(there.proto, feeds)
        for name, value in one.items():
            np.testing.assert_array_equal(np.isnan(value), np.isnan(other[name]), err_msg=name)
            assert_close(np.nan_to_num(other[name]), np.nan_to_num(value), 2e-6, f"{provider}: {name}")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_models_find_cuda_kernels(path: Path) -> None:
    """None of our nodes falls back, in no export of the trained models."""
    found = compiled_for(path, "cuda").placement
    assert found is not None
    assert not found.ours


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "grammar_text", "breast_cancer_mlp"])
def test_models_find_web_kernels(name: str) -> None:
    """Not even for the choice of the class, which is an integer."""
    found = compiled_for(MODELS / f"{name}.onnx", "webgpu").placement
    assert found is not None
    assert not found.ours


@pytest.mark.parametrize("provider", ["cuda", "webgpu"])
@pytest.mark.parametrize("target", ["argmax", "input", "top:3", "3-7", "seed"])
def test_a_trained_network_is_explained_the_same(provider: str, target: str) -> None:
    model, data = MODELS / "digits_cnn.onnx", np.load(MODELS / "digits_cnn.npz")
    feeds = {"image": data["image"][:3]}
    if target == "input":
        feeds["target"] = np.asarray([1, 0, 9], np.int64)
    if target == "seed":
        feeds["seed"] = np.random.default_rng(5).normal(size=(3, 10)).astype(np.float32)
    with warnings.catch_warnings():  # (a class that is given is an integer, which WebGPU does not compute with)
        warnings.simplefilter("ignore", RuntimeWarning)
        there = compiled(str(model), target=target, provider=provider)
    found, wanted = explain(there, feeds), explain(compiled(str(model), target=target), feeds)
    assert_complete(found)
    np.testing.assert_array_equal(found.target, wanted.target)
    for a, b, what in zip(found.c_w + found.c_b, wanted.c_w + wanted.c_b, ("C_w", "C_b"), strict=True):
        assert_close(a, b, 2e-6, what)


# Choices by provider


def for_provider(c: Case, provider: str) -> onnx.ModelProto:
    return omenn_onnx.compile(c.model(), provider=provider)


def operators(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node if n.name.startswith("omenn")]


def test_the_mask_of_the_blocked_layout_is_the_cpus_alone() -> None:
    c = case("relu", "h = Relu(x); y = ReduceSum(h, a)", x=(1, 4, 6, 6), a=np.asarray([2, 3]))
    found = {p: operators(for_provider(c, p)) for p in ("cpu", "cuda", "webgpu")}
    assert "HardSigmoid" in found["cpu"]
    for provider in ("cuda", "webgpu"):
        assert "HardSigmoid" not in found[provider]
        assert "Where" in found[provider]


def test_the_adjoint_of_a_strided_convolution_is_one_node_on_a_gpu() -> None:
    c = case("conv", "y = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w)", x=(1, 32, 16, 16), w=w(32, 32, 3, 3))
    assert operators(for_provider(c, "cuda")).count("ConvTranspose") == 1


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 0, 0], [2, 0, 0, 1], [0, 2, 2, 0]])
@pytest.mark.parametrize("size", [8, 9])
def test_uneven_padding_is_cut_off_on_cuda(pads: list[int], size: int) -> None:
    """CUDA leaves a ConvTranspose with uneven padding to the CPU: TensorFlow's SAME has it at every second size."""
    text = f"y = Conv <strides=[2,3], pads={pads}, dilations=[1,2]> (x, w)"
    c = case(f"uneven-{pads}-{size}", text, x=(2, 3, size, size), w=w(4, 3, 3, 3))
    there = for_provider(c, "cuda")
    turned = [n for n in there.graph.node if n.op_type == "ConvTranspose"]
    assert turned
    for node in turned:
        given = list(next(a.ints for a in node.attribute if a.name == "pads"))
        assert given[:2] == given[2:]
    found, wanted = explain(there, c.feeds()), explain(for_provider(c, "cpu"), c.feeds())
    assert_close(found.c_w[0], wanted.c_w[0], 2e-6, "C_w")
    assert_close(found.c_b[0], wanted.c_b[0], 2e-6, "C_b")


@pytest.mark.parametrize("provider", ["cuda", "webgpu"])
def test_winners_without_indices(provider: str) -> None:
    """MaxPool-22 has no CUDA kernel, WebGPU's gives no Indices: the first of equal taps wins there too, NaN fails
    nothing."""
    c = case("ties", "y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x)", x=(2, 3, 7, 6), draw="ties",
             opset=22)  # fmt: skip
    there = for_provider(c, provider)
    ours = [n for n in there.graph.node if n.name.startswith("omenn")]
    assert "MaxPool" not in {n.op_type for n in ours}
    found, wanted = explain(there, c.feeds()), explain(for_provider(c, "cpu"), c.feeds())
    np.testing.assert_array_equal(found.c_w[0], wanted.c_w[0])
    broken = {"x": np.where(c.feeds()["x"] > 1, np.nan, c.feeds()["x"]).astype(np.float32)}
    assert explain(there, broken).c_w[0].shape == (2, 3, 7, 6)


# Half precision


def half(path: Path) -> onnx.ModelProto:
    """A model with float16 weights, activations, inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(path), disable_shape_infer=True)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_a_float16_network_with_maps_in_float32(provider: str) -> None:
    """dtype "float32", the default: every product of the adjoint, and every sum behind it, is one of float32."""
    model, data = half(MODELS / "digits_cnn.onnx"), np.load(MODELS / "digits_cnn.npz")
    found = compiled_for(model, provider)
    for node in found.nodes:
        if node.op in ("Conv", "ConvTranspose", "MatMul", "Gemm", "ReduceSum", "Add", "Mul", "ScatterElements"):
            kinds = {t.dtype for t in (*node.inputs, *node.outputs) if t is not None and t.dtype is not None}
            assert np.dtype(np.float16) not in kinds, node.name
    result = explain(found.proto, {"image": data["image"][:4].astype(np.float16)})
    assert {a.dtype for a in (*result.c_w, *result.c_b, result.score)} == {np.dtype(np.float32)}
    assert_complete(result, 5e-3)
    plain = explain(compiled(str(MODELS / "digits_cnn.onnx")), {"image": data["image"][:4]})
    assert_close(result.c_w[0], plain.c_w[0], 0.1, "C_w")


# What the user is told

ACOS = case("acos", "y = Acos(x)", x=(2, 3), draw="unit")
"""Its slope has no CUDA kernel."""


def test_what_falls_back_is_said() -> None:
    options = {"inputs": "x", "output": "y", "provider": "cuda"}
    said = r"1 node\(s\) of the explanation have no cuda kernel .* 'omenn/Asin_1': Asin-7 \(float\)"
    with pytest.warns(RuntimeWarning, match=said):
        proto = omenn_onnx.compile(ACOS.model(), **options)  # type: ignore[arg-type]
    assert_complete(explain(proto, ACOS.feeds()))
    with pytest.raises(CompileError, match=said):
        omenn_onnx.compile(ACOS.model(), strict_provider=True, **options)  # type: ignore[arg-type]
    with pytest.raises(CompileError, match="provider 'tpu'"):
        omenn_onnx.compile(ACOS.model(), provider="tpu")


def test_the_file_knows_its_provider() -> None:
    for provider in ("cpu", "cuda", "webgpu"):
        proto = omenn_onnx.compile(MODELS / "breast_cancer_mlp.onnx", provider=provider)
        assert {p.key: p.value for p in proto.metadata_props}["omenn.provider"] == provider
        assert omenn_onnx.Explainer(proto, providers="cpu").contract.provider == provider


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "acos.onnx", str(tmp_path / "out.onnx")
    onnx.save(ACOS.model(), path)
    assert main([str(path), "-o", out, "--provider", "cuda", "--report"]) == 0
    told = capsys.readouterr()
    assert "provider          cuda, by CUDAExecutionProvider: " in told.out
    assert "without a kernel  1 of the nodes added, 1 of the model's own: Acos-7 1" in told.out
    assert "'omenn/Asin_1': Asin-7 (float)" in told.out
    assert told.err.count("warning: 1 node(s)") == 1
    assert json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["omenn.rows"]) is True
    assert main([str(path), "-o", out, "--force", "--provider", "cuda", "--strict-provider"]) == 2
    assert "error: 1 node(s) of the explanation have no cuda kernel" in capsys.readouterr().err
    assert main([str(path), "-o", out, "--provider", "tpu"]) == 2
    assert "argument --provider: invalid choice: 'tpu'" in capsys.readouterr().err
