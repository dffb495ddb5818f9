"""Operators where CUDA is to run them: their nodes have kernels there; with a GPU, they give what the CPU gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import omenn_onnx
from omenn_onnx.graph.files import load_model
from omenn_onnx.graph.fixed import fix_sizes
from omenn_onnx.graph.read import read_graph
from omenn_onnx.linearise import linearise
from omenn_onnx.providers.kernels import kernels_of
from omenn_onnx.providers.placement import fallbacks
from omenn_onnx.runtime.sessions import on_cuda
from omenn_onnx.spectral.graphs import operator_graphs

MODELS = Path(__file__).parents[1] / "models"
NAMES = ("digits_cnn", "digits_vit", "grammar_text", "breast_cancer_mlp")


def feeds_of(name: str, inputs: list[str]) -> dict[str, np.ndarray]:
    data = np.load(MODELS / f"{name}.npz")
    return {i: data[i][:1] for i in inputs}


@pytest.mark.parametrize("rules", ["tangent", "secant"])
@pytest.mark.parametrize("name", NAMES)
def test_the_operators_nodes_have_cuda_kernels(name: str, rules: str) -> None:
    loaded = load_model(MODELS / f"{name}.onnx")
    feeds = feeds_of(name, [i.name for i in loaded.proto.graph.input])
    fix_sizes(loaded.proto, {n: v.shape for n, v in feeds.items()})
    lin = linearise(loaded, rules=rules, provider="cuda")
    graphs = operator_graphs(lin, next(iter(lin.sources)), lin.output)
    kernels = kernels_of("cuda")
    assert kernels is not None
    for model in (graphs.coefficients, graphs.forward, graphs.adjoint):
        assert model is not None
        graph = read_graph(model)
        assert len(graph.nodes) > 1
        assert not fallbacks(kernels, graph.nodes, graph.opset, graph.domains)


def test_providers_are_known_before_a_session_is_made() -> None:
    assert on_cuda("cuda")
    assert on_cuda(["CPUExecutionProvider", ("CUDAExecutionProvider", {})])
    assert not on_cuda("cpu")
    assert not on_cuda(["CPUExecutionProvider"])


@pytest.mark.skipif(not on_cuda(None), reason="there is no CUDA here")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_gives_what_the_cpu_gives(name: str) -> None:
    compiled = omenn_onnx.compile(MODELS / f"{name}.onnx")
    random = np.random.default_rng(5)
    found = []
    for provider in ("cpu", "cuda"):
        explainer = omenn_onnx.Explainer(compiled, provider)
        operator = explainer.operator(feeds_of(name, [i.name for i in explainer.inputs]))
        assert operator.residual < 1e-5
        u, v = (random.standard_normal((n, 3)).astype(np.float32) for n in operator.shape)
        image, cotangent = operator.matmat(v), operator.rmatmat(u)
        assert abs(np.vdot(u, image) - np.vdot(cotangent, v)) <= 1e-5 * np.linalg.norm(u) * np.linalg.norm(image)
        found.append(operator.dense())
    assert np.abs(found[0] - found[1]).max() <= 1e-4 * np.abs(found[0]).max()
