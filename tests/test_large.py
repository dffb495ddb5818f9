"""Models beyond 2 GB, as tools/large_models.py checks them with real weights and a real run.

Here the weights are a hole in a file, which takes neither disk nor time: compiling must not read them. What runs is
small.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from explaining import assert_complete, explain
from onnx import TensorProto, helper, numpy_helper

import omenn_onnx
from omenn_onnx.errors import ModelFileError
from omenn_onnx.graph import files
from omenn_onnx.graph.files import load_model, save_model
from omenn_onnx.graph.walk import tensors_of
from omenn_onnx.runtime import sessions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import large_models


def test_compiling_more_than_2_gb_reads_none_of_it(tmp_path):
    model = large_models.build(tmp_path / "a", 10, 8192, values=False)
    weights = model.with_name("weights.bin")
    size = weights.stat()
    assert size.st_size > 2**31
    run = large_models.command("compile", model, "-o", model.with_name("c.onnx"), "--report")
    assert run.code == 0, run.said
    assert run.peak < 0.5e9
    assert model.with_name("c.onnx").stat().st_size < 30_000
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (size.st_size, size.st_mtime_ns)
    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_model(Path(moved) / "c.onnx").weight_bytes > 2**31


def test_the_heavy_check_on_a_small_model(tmp_path, capsys):
    assert large_models.main(["--layers", "3", "--width", "64", "--folder", str(tmp_path)]) == 0
    assert "all well" in capsys.readouterr().out


def test_larger_than_protobuf_in_memory(tmp_path, monkeypatch):
    """No file holds it, but a session does: its weights go through a folder of their own."""
    model = onnx.load(large_models.build(tmp_path, 2, 64))
    program = omenn_onnx.compile(model)
    monkeypatch.setattr(sessions, "PROTOBUF_LIMIT", sessions._ROOM + 1000)
    found = omenn_onnx.Explainer(program)(np.ones((1, 64), np.float32))
    assert found.complete
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelFileError, match="no ONNX file is larger than 2 GB"):
        omenn_onnx.compile(model.SerializeToString())


# --- where external data can be: initializers, subgraphs, Constant nodes, functions ----------------------------------

N = 48


def _info(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _weights(k: int) -> np.ndarray:
    return np.random.default_rng(k).normal(size=(N, N)).astype(np.float32) / 7


def _in_constants() -> onnx.ModelProto:
    w = helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(_weights(0)))
    nodes = [w, helper.make_node("MatMul", ["x", "W"], ["y"])]
    return helper.make_model(helper.make_graph(nodes, "g", [_info("x", 2, N)], [_info("y", 2, N)]))


def _in_branches() -> onnx.ModelProto:
    def branch(op: str, value: np.ndarray) -> onnx.GraphProto:
        weight = numpy_helper.from_array(value, "W")
        return helper.make_graph([helper.make_node(op, ["h", "W"], [op])], op, [], [_info(op, 2, N)], [weight])

    other = branch("Mul", _weights(2)[:2])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("MatMul", _weights(1)), else_branch=other),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return helper.make_model(helper.make_graph(nodes, "g", [_info("x", 2, N)], [_info("y", 2, N)], [zero]))


def _in_a_function() -> onnx.ModelProto:
    w = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(_weights(3)))
    nodes = [w, helper.make_node("MatMul", ["a", "w"], ["b"])]
    function = helper.make_function("mine", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("F", ["x"], ["h"], domain="mine"), helper.make_node("F", ["h"], ["y"], domain="mine")]
    graph = helper.make_graph(nodes, "g", [_info("x", 2, N)], [_info("y", 2, N)])
    return helper.make_model(graph, functions=[function])


def _moved_out(model: onnx.ModelProto, folder: Path) -> Path:
    """The model with every large tensor in a file of its own, some in a folder further down."""
    model = _plain(model)
    (folder / "deep").mkdir(parents=True)
    large = (t for t in tensors_of(model) if len(t.raw_data) > 1000)
    for k, tensor in enumerate(large):
        name = f"deep/{k}.bin" if k % 2 else f"{k}.bin"
        (folder / name).write_bytes(b"\0" * 64 + tensor.raw_data)
        for key, value in (("location", name), ("offset", 64), ("length", len(tensor.raw_data))):
            tensor.external_data.add(key=key, value=str(value))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("build", [_in_constants, _in_branches, _in_a_function])
def test_external_data_anywhere(tmp_path, build, rules):
    """As the same model with its weights inside; still external, and right where the folder is moved to."""
    inside = omenn_onnx.compile(_plain(build()), rules=rules)
    path = _moved_out(build(), tmp_path / "a")
    loaded = load_model(path)
    save_model(omenn_onnx.compile(path, rules=rules), path.with_name("c.onnx"), loaded.folder)
    assert path.with_name("c.onnx").stat().st_size < N * N * 4
    moved = Path(shutil.move(tmp_path / "a", tmp_path / "b"))
    for sign in (1, -1):  # either branch
        x = np.abs(np.random.default_rng(5).normal(size=(2, N))).astype(np.float32) * np.float32(sign)
        found, expected = explain(moved / "c.onnx", {"x": x}), explain(inside, {"x": x})
        assert_complete(found)
        np.testing.assert_allclose(found.c_w[0], expected.c_w[0], atol=1e-6)
        np.testing.assert_allclose(found.c_b[0], expected.c_b[0], atol=1e-6)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(d, v) for d, v in (("", 17), ("mine", 1)))
    model.ir_version = 9
    return model
