"""The nine light networks of the onnx package, with seeded random weights in place of their constants."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from explaining import assert_complete, assert_same_outputs, explain
from onnx import helper, numpy_helper

import omenn_onnx
from omenn_onnx.graph.files import save_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NETWORKS = sorted(p.stem.removeprefix("light_") for p in LIGHT.glob("*.onnx"))
LARGE = ("vgg19", "zfnet512")
"""Hundreds of megabytes of weights: one rule set is enough."""
CASES = [(n, r) for n in NETWORKS for r in ("secant", "tangent") if r == "secant" or n not in LARGE]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: pytest would keep gigabytes of weights."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def weight_of(node: onnx.NodeProto, place: int, shape: list[int], random: np.random.Generator) -> np.ndarray:
    """A weight that keeps activations at their scale, for its place among the inputs of its first consumer."""
    draw = random.standard_normal(shape, dtype=np.float32)
    if node.op_type in ("Conv", "Gemm") and place == 1:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        fan = shape[0] if node.op_type == "Gemm" and not transposed else int(np.prod(shape[1:]))
        return draw * np.float32((1.7 / fan) ** 0.5)
    if node.op_type == "BatchNormalization" and place == 4:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if (node.op_type == "BatchNormalization" and place == 1) or node.op_type == "Mul":
        return draw * np.float32(0.1) + np.float32(0.9)
    return draw * np.float32(0.2)


def filled(name: str, seed: int, modern: bool) -> onnx.ModelProto:
    """The network with random weights as initializers; ``modern``: which are not listed among the inputs (IR 4)."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph, random = model.graph, np.random.default_rng(seed)
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    constants = {n.output[0]: values[n.input[0]] for n in graph.node if n.op_type == "ConstantOfShape"}
    shapes = {k: [int(d) for d in v] for k, v in constants.items()}
    shapes.update({k: list(v.shape) for k, v in values.items() if v.dtype == np.float32})
    consumers: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in graph.node:
        for place, key in enumerate(node.input):
            consumers.setdefault(key, (node, place))
    roles = {}
    for key in shapes:
        if key in consumers:
            node, place = consumers[key]
            roles[key] = consumers[node.output[0]] if node.op_type == "Unsqueeze" else (node, place)
    weights = {key: weight_of(*roles[key], shapes[key], random) for key in roles}
    kept_nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    read = {key for n in kept_nodes for key in n.input}
    kept = [i for i in graph.initializer if i.name in read and i.name not in weights]
    data = [i for i in graph.input if i.name not in values]
    graph.ClearField("initializer")
    graph.ClearField("node")
    graph.ClearField("input")
    graph.node.extend(kept_nodes)
    graph.input.extend(data)
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    if modern:
        model.ir_version = 8
    else:
        graph.input.extend(helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in graph.initializer)
    return model


def image(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    draw = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return {model.graph.input[0].name: draw}


def test_there_are_nine() -> None:
    """None of the networks of the package is left out."""
    assert len(NETWORKS) == 9


@pytest.mark.parametrize(("name", "rules"), CASES)
def test_light_network(name: str, rules: str, folder: Path) -> None:
    """Complete, with the original's outputs, the runtime's optimisation on and off; weights are stored once."""
    seed = NETWORKS.index(name)
    print(f"seed {seed}")
    model = filled(name, seed, modern=True)
    feeds = image(model, seed)
    original = folder / "model.onnx"
    onnx.save(model, original, save_as_external_data=True, location="weights", size_threshold=1024)
    del model
    proto = omenn_onnx.compile(original, rules=rules)
    path = folder / "compiled.onnx"
    save_model(proto, path, folder)
    for optimise in (True, False):
        result = explain(path, feeds, optimise)
        assert_complete(result)
        assert result.condition() < 1e4
        assert 0.1 < float(np.abs(result.score).max()) < 1e3, "the random weights are badly scaled"
        assert_same_outputs(result, original, feeds, optimise)
    weights = (folder / "weights").stat().st_size
    grown = path.stat().st_size - original.stat().st_size
    assert grown <= max(0.05 * weights, 500_000), f"{grown} bytes for {weights} bytes of weights"


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_weights_among_the_inputs(name: str) -> None:
    """Files of IR version 3 list their weights among the inputs; they are weights all the same."""
    model = filled(name, 5, modern=False)
    assert model.ir_version == 3
    feeds = image(model, 5)
    result = explain(omenn_onnx.compile(model), feeds)
    assert [x.shape for x in result.x] == [(1, 3, 224, 224)]
    assert_complete(result)
    same = explain(omenn_onnx.compile(filled(name, 5, modern=True)), feeds)
    np.testing.assert_allclose(result.c_w[0], same.c_w[0], atol=1e-4 * float(np.abs(same.c_w[0]).max()))
