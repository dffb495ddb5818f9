"""omenn-linearize: the maps that it writes, what it says, what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_networks as nets
from onnx import TensorProto

import omenn_onnx
from omenn_onnx.cli import linear_files
from omenn_onnx.cli.linearize import main

MODELS = Path(__file__).resolve().parents[1] / "models"
SEED = 21
RNG = np.random.default_rng(SEED)
print(f"seed {SEED}")


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def save(name: str, net: nets.Net, z: str, **feeds: Any) -> None:
    model, own = net.finished(z)
    onnx.save(model, f"{name}.onnx")
    np.savez(f"{name}.npz", **own | feeds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and inputs."""
    made = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        net = nets.Net(1, "N")
        x = net.given("x", numbers(5, 3), ["N", 3])
        hidden = net.op("Relu", net.op("Gemm", x, net.weight(3, 4), net.weight(4)))
        second = net.op("Relu", net.op("Gemm", hidden, net.weight(4, 6), net.weight(6)))
        residual = net.op("Add", second, net.op("Tanh", net.op("Gemm", second, net.weight(6, 6))))
        classes = [f"class {i}" for i in range(nets.CLASSES)]
        about = {"class_names": classes, "feature_names": ["age", "size", "mass"], "other": 1}
        save("mlp", net, net.op("Gemm", residual, net.weight(6, nets.CLASSES), net.weight(nets.CLASSES)), **about)
        np.savez("nan.npz", x=np.full((1, 3), np.nan, np.float32))
        np.save("row.npy", numbers(3))
        onnx.save(omenn_onnx.compile("mlp.onnx", target="input"), "compiled.onnx")

        net = nets.Net(2, 2)
        x = net.given("x", numbers(4, 3), [2, 3])
        save("fixed", net, net.op("Gemm", x, net.weight(3, nets.CLASSES)))

        net = nets.Net(3, "N")
        a, b = net.given("a", numbers(2, 3), ["N", 3]), net.given("b", numbers(2, 2), ["N", 2])
        both = net.op("Relu", net.op("Add", net.op("Gemm", a, net.weight(3, 4)), net.op("Gemm", b, net.weight(2, 4))))
        save("two", net, net.op("Gemm", both, net.weight(4, nets.CLASSES), net.weight(nets.CLASSES)))

        net = nets.Net(4, "n")
        x, adjacency = net.given("x", numbers(4, 3), ["n", 3]), net.given("adj", np.abs(numbers(4, 4)), ["n", "n"])
        mixed = net.op("Relu", net.op("MatMul", adjacency, net.op("MatMul", x, net.weight(3, 5))))
        save("graph", net, net.op("MatMul", mixed, net.weight(5, nets.CLASSES)))

        net = nets.Net(5, "N")
        logs = net.op("Log", net.given("x", -np.abs(numbers(1, 3)), ["N", 3]))
        save("logs", net, net.op("Gemm", logs, net.weight(3, nets.CLASSES)))

        net = nets.Net(6, "N")
        x = net.given("x", RNG.integers(0, 255, (2, 4, 4, 3)).astype(np.uint8), ["N", 4, 4, 3])
        real = net.op("Mul", net.op("Cast", x, to=TensorProto.FLOAT), net.put(np.float32(1 / 255)))
        flat = net.op("Flatten", real)
        hidden = net.op("Relu", net.op("Gemm", flat, net.weight(48, 5), net.weight(5)))
        save("bytes", net, net.op("Gemm", hidden, net.weight(5, nets.CLASSES), net.weight(nets.CLASSES)))
    return made


@pytest.fixture
def work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of them, entered."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def saved(name: str, folder: str = "linear_maps") -> dict[str, np.ndarray]:
    with np.load(f"{folder}/{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def outputs(name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(ort.InferenceSession(f"{name}.onnx").run(None, feeds)[0])


@pytest.mark.parametrize("rules", [(), ("--rules", "secant")])
def test_the_map_of_every_row(work: Path, capsys: pytest.CaptureFixture[str], rules: tuple[str, ...]) -> None:
    status, out, err = run(capsys, "mlp.onnx", "mlp.npz", *rules)
    assert (status, err) == (0, "mlp.npz: not an input, ignored: other\n")
    found = saved("mlp")
    x = np.load("mlp.npz")["x"]
    assert found["W"].shape == (5, nets.CLASSES, 3)
    np.testing.assert_array_equal(found["x"], x)
    logits = outputs("mlp", {"x": x})
    np.testing.assert_allclose(found["y"], logits, atol=1e-6)
    np.testing.assert_allclose(np.einsum("nud,nd->nu", found["W"], x) + found["b"], logits, atol=1e-5)
    assert found["relative_residual"].max() < found["bar"] == 1e-5
    assert found["residual"].shape == (5, nets.CLASSES)
    assert list(found["source_shape"]) == [1, 3]
    assert list(found["target_shape"]) == [1, nets.CLASSES]
    assert found["rules"] == ("secant" if rules else "tangent")
    assert found["rows"].tolist() == [[0], [1], [2], [3], [4]]
    assert f"x -> {found['target']}, {found['rules']} rules, float32" in out
    best = int(np.argmax(logits[0]))
    assert f"{best} (class {best})" in out
    assert "W: 5 x 7 x 3 (rows, units, inputs), 420 bytes of memory (.npz)" in out


def test_tangent_rows_are_gradients(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "mlp.onnx", "mlp.npz", "--rows", 2)
    found, step = saved("mlp"), 1e-3
    x = found["x"][0].astype(np.float64)
    for i in range(3):
        ends = [(x + s * step * np.eye(3)[i]).astype(np.float32)[None] for s in (1, -1)]
        slope = (outputs("mlp", {"x": ends[0]}) - outputs("mlp", {"x": ends[1]}))[0] / (ends[0] - ends[1])[0, i]
        np.testing.assert_allclose(found["W"][0][:, i], slope, atol=5e-3)


def test_chosen_rows_units_and_layers(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "mlp.onnx", "mlp.npz", "-o", "all")
    status, out, _ = run(capsys, "mlp.onnx", "mlp.npz", "--rows", "4,1", "--units", "5,0:2,-1")
    assert status == 0
    whole, found = saved("mlp", "all"), saved("mlp")
    assert found["rows"].tolist() == [[4], [1]]
    assert found["units"].tolist() == [5, 0, 1, 6]
    np.testing.assert_allclose(found["W"], whole["W"][[4, 1]][:, [5, 0, 1, 6]], atol=1e-6)
    np.testing.assert_allclose(found["b"], whole["b"][[4, 1]][:, [5, 0, 1, 6]], atol=1e-6)
    assert "\n4 " in out
    status, out, _ = run(capsys, "mlp.onnx", "mlp.npz", "--layer", "Relu_1_0", "--force")
    layer = saved("mlp")
    assert layer["W"].shape == (5, 4, 3)
    np.testing.assert_allclose(np.einsum("nud,nd->nu", layer["W"], layer["x"]) + layer["b"], layer["y"], atol=1e-5)
    run(capsys, "mlp.onnx", "mlp.npz", "--source", "Relu_1_0", "--force")
    onward = saved("mlp")
    np.testing.assert_allclose(onward["W"] @ layer["W"], whole["W"], atol=1e-5)


def test_memory_map(work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(capsys, "mlp.onnx", "mlp.npz", "-o", "all")
    status, out, _ = run(capsys, "mlp.onnx", "mlp.npz", "--format", "npy")
    assert status == 0
    assert "420 bytes on the disk (.npy)" in out
    assert "mlp.W.npy" in out
    np.testing.assert_array_equal(np.load("linear_maps/mlp.W.npy", mmap_mode="r"), saved("mlp", "all")["W"])
    assert "W" not in saved("mlp")
    Path("linear_maps/mlp.npz").unlink()
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz", "--format", "npy")
    assert (status, "mlp.W.npy' exists (--force overwrites it)" in err) == (2, True)
    monkeypatch.setattr(linear_files, "NPZ_LIMIT", 400)
    run(capsys, "mlp.onnx", "mlp.npz", "-o", "auto")
    assert {p.name for p in Path("auto").iterdir()} == {"mlp.npz", "mlp.W.npy"}


def test_room_is_asked_for_first(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(capsys, "mlp.onnx", "mlp.npz", "--memory-limit", "4e-7")
    assert (status, out) == (2, "")
    assert "take 420 bytes of memory, the limit is 400 bytes: raise --memory-limit, or ask for fewer --rows" in err
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz", "--layers", "auto", "--memory-limit", "2e-6")
    assert (status, "the layers of mlp.npz take" in err) == (2, True)
    free = namedtuple("free", "free")(100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz", "--format", "npy")
    assert (status, "W takes 420 bytes on the disk, and 'linear_maps' has 100 bytes left" in err) == (2, True)
    assert not list(Path("linear_maps").iterdir())


def test_layer_by_layer(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "mlp.onnx", "mlp.npz", "--rows", "0:3", "--layers", "auto", "--figure")
    assert status == 0
    found = saved("mlp")
    *layers, end = found["layers"]
    assert len(layers) >= 2
    whole = found[f"{layers[0]}/W"]
    bias = found[f"{layers[0]}/b"]
    for name in [*layers[1:], end]:
        whole = found[f"{name}/W"] @ whole
        bias = np.einsum("nij,nj->ni", found[f"{name}/W"], bias) + found[f"{name}/b"]
    np.testing.assert_allclose(whole, found["W"], atol=1e-5)
    np.testing.assert_allclose(bias, found["b"], atol=1e-5)
    best = found["y"].argmax(axis=1)
    np.testing.assert_array_equal(found["unit"], best)
    row = found["W"][np.arange(3), best] * found["x"]
    for name in layers:
        total = found[f"{name}/contribution"].sum(axis=2) + found[f"{name}/contribution_b"]
        np.testing.assert_allclose(total, found[f"{name}/y"], atol=1e-5)
        np.testing.assert_allclose(found[f"{name}/feeds"], np.abs(found[f"{name}/contribution"]).sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}/signed"], row, atol=1e-5)
        assert name in out
    assert "(the product of the segments)" in out
    assert {p.name for p in Path("linear_maps").iterdir()} == {"mlp.npz", "mlp.png", "mlp-1.png", "mlp-2.png"}
    inside = next(n.output[0] for n in onnx.load("mlp.onnx").graph.node if n.op_type == "Tanh")
    status, out, _ = run(capsys, "mlp.onnx", "mlp.npz", "--layers", f"Relu_1_0,{inside}", "--force")
    assert (status, "none: a path leads past it" in out) == (0, True)
    found = saved("mlp")
    assert f"{inside}/contribution" in found
    assert f"{inside}/W" not in found
    assert [list(s) for s in found["segments"]] == [["x", "Relu_1_0"], ["Relu_1_0", str(found["target"])]]


def test_one_unit_is_the_one_that_layers_lead_to(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "mlp.onnx", "mlp.npz", "--rows", 0, "--layers", "Relu_1_0", "--units", 3)
    found = saved("mlp")
    assert found["unit"].tolist() == [3]
    np.testing.assert_allclose(found["Relu_1_0/signed"], found["W"][:, 0] * found["x"], atol=1e-6)


def test_several_inputs(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "two.onnx", "two.npz")
    assert (status, "a, b -> " in out, "7 x (3 + 2)" in out) == (0, True, True)
    found = saved("two")
    total = found["b"] + sum(np.einsum("nud,nd->nu", found[f"W.{n}"], found[f"x.{n}"]) for n in "ab")
    with np.load("two.npz") as feeds:
        np.testing.assert_allclose(total, outputs("two", dict(feeds)), atol=1e-5)
    status, _, err = run(capsys, "two.onnx", "two.npz", "--layers", "auto", "--force")
    assert (status, "several are explained (a, b): say --source" in err) == (2, True)
    status, _, _ = run(capsys, "two.onnx", "two.npz", "--source", "b", "--layers", "auto", "--force")
    one = saved("two")
    assert status == 0
    np.testing.assert_allclose(np.einsum("nud,nd->nu", one["W"], one["x"]) + one["b"], one["y"], atol=1e-5)


def test_rows_that_belong_together(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "fixed.onnx", "fixed.npz")
    assert (status, err) == (0, "fixed.npz: the model takes 2 rows at a time: they are one instance\n")
    found = saved("fixed")
    assert found["W"].shape == (2, 2 * nets.CLASSES, 6)
    assert found["rows"].tolist() == [[0, 1], [2, 3]]
    with np.load("fixed.npz") as feeds:
        np.testing.assert_allclose(found["y"][1].reshape(2, -1), outputs("fixed", {"x": feeds["x"][2:]}), atol=1e-6)
    status, _, err = run(capsys, "fixed.onnx", "fixed.npz", "--rows", "0:3", "--force")
    assert (status, "takes 2 rows at a time, 3 are given: choose a multiple of 2 with --rows" in err) == (2, True)
    status, _, err = run(capsys, "graph.onnx", "graph.npz", "--source", "x")
    assert (status, err) == (0, "graph.npz: rows of this model interact: the 4 rows are one instance\n")
    assert saved("graph")["W"].shape == (1, 4 * nets.CLASSES, 12)


def test_a_compiled_file_and_a_single_row(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, _ = run(capsys, "compiled.onnx", "row.npy")
    assert status == 0
    found = saved("row")
    assert found["W"].shape == (1, nets.CLASSES, 3)
    np.testing.assert_allclose(found["y"], outputs("mlp", {"x": np.load("row.npy")[None]}), atol=1e-6)


def test_bytes_are_mapped_behind_their_cast(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, _ = run(capsys, "bytes.onnx", "bytes.npz", "--layers", "auto", "--figure")
    assert status == 0
    found = saved("bytes")
    assert found["W"].shape == (2, nets.CLASSES, 48)
    assert Path("linear_maps/bytes-1.png").stat().st_size > 1000


def test_words(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = MODELS / "grammar_text"
    status, out, _ = run(capsys, f"{text}.onnx", f"{text}.npz", "--rows", 3, "--layers", "div", "--figure")
    assert (status, "embedding -> logits" in out) == (0, True)
    found = saved("grammar_text")
    width = found["source_shape"][-1]
    assert found["W"].shape == (1, 3, 16 * width)
    assert Path("linear_maps/grammar_text.png").exists()


def test_what_does_not_add_up_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "logs.onnx", "logs.npz")
    assert (status, "wrote" in out) == (1, True)
    assert "1 map(s) do not add up: W, b or the values of the model are NaN or infinite there" in err


def test_missing_the_bar_is_said(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_files, "completeness_bar", lambda instance: 1e-12)
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz")
    assert status == 1
    assert "do not add up: relative residual" in err
    assert "is above 1e-12" in err
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz", "--layers", "all", "--force")
    assert status == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("mlp.onnx nan.npz", "input 'x' has 3 NaN or Inf value(s), the first at [0, 0]"),
        ("mlp.onnx mlp.npz --units 7", "does not exist: there are 7, counted from 0"),
        ("mlp.onnx mlp.npz --units x", "--units 'x': not a unit, a range such as 0:10, or all"),
        ("mlp.onnx mlp.npz --units 3:3", "--units '3:3' chooses none of the 7 unit(s)"),
        ("mlp.onnx mlp.npz --rows 5", "row 5 does not exist, there are 5"),
        ("mlp.onnx mlp.npz --target Relu_1", "tensor 'Relu_1' is not in the model; did you mean 'Relu_1_0'"),
        ("mlp.onnx mlp.npz --source z --target x", "no linear path leads from"),
        ("mlp.onnx mlp.npz --layers x", "'x' is no layer between 'x' and"),
        ("mlp.onnx mlp.npz --layers ,", "--layers ',' names no tensor"),
        ("mlp.onnx mlp.npz --layers nowhere", "tensor 'nowhere' is not in the model"),
        ("fixed.onnx fixed.npz --layers auto", "no layer stands between 'x' and"),
        ("mlp.onnx mlp.npz --figure", "--figure shows layers: say which"),
        ("mlp.onnx mlp.npz --memory-limit 0", "--memory-limit must be above 0"),
        ("mlp.onnx mlp.npz --rules best", "invalid choice: 'best'"),
        ("mlp.onnx missing.npz", "there is no such file"),
        ("missing.onnx mlp.npz", "missing.onnx: no such file"),
        ("mlp.onnx mlp.npz -o .", "'mlp.npz' is an input and would be overwritten"),
        ("mlp.onnx mlp.npz -o . --force", "is an input and would be overwritten"),
        ("mlp.onnx mlp.npz row.npy ./row.npy", "two inputs are called 'row'"),
    ],
)
def test_one_line_for_what_is_wrong(work: Path, capsys: pytest.CaptureFixture[str], argv: str, said: str) -> None:
    status, _, err = run(capsys, *argv.split())
    assert status == 2
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("omenn-linearize: error: ")
    assert not Path("linear_maps").exists()


def test_outputs_are_not_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "mlp.onnx", "mlp.npz")[0] == 0
    before = Path("linear_maps/mlp.npz").stat().st_mtime_ns
    status, _, err = run(capsys, "mlp.onnx", "mlp.npz", "--rows", 0)
    assert (status, "mlp.npz' exists (--force overwrites it)" in err) == (2, True)
    assert Path("linear_maps/mlp.npz").stat().st_mtime_ns == before
    assert run(capsys, "mlp.onnx", "mlp.npz", "--rows", 0, "--force")[0] == 0
    assert saved("mlp")["W"].shape[0] == 1


@pytest.mark.parametrize("language", ["bash", "python"])
def test_what_the_readme_shows(tmp_path: Path, language: str) -> None:
    """It runs as it stands, and the table is what it prints."""
    text = (MODELS.parent / "README.md").read_text(encoding="utf-8")
    inside = text.partition("<!-- linearize -->")[2].partition("<!-- end linearize -->")[0]
    block, shown = (inside.partition(f"```{kind}\n")[2].partition("\n```")[0] for kind in (language, "text"))
    (tmp_path / "models").symlink_to(MODELS, target_is_directory=True)
    commands = ["bash", "-euo", "pipefail", "-c", block] if language == "bash" else [sys.executable, "-c", block]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(commands, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if language == "python":
        assert done.stdout.startswith("(10, 256) (10,) (10, 512) ")
        return
    assert np.load(tmp_path / "pixels" / "squares.W.npy", mmap_mode="r").shape == (1, 4096, 4096)
    for line in shown.splitlines()[5:]:  # (rounding differs from machine to machine)
        if "--" not in line:
            start = line.split("e-")[0].rsplit(" ", 1)[0]
            assert start in done.stdout, start
