"""omenn-spectrum on networks of models/ and on small ones made here."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.parser import parse_model
from PIL import Image

from omenn_onnx.cli.spectrum import main, parser
from omenn_onnx.cli.spectrum_run import SHOWN

MODELS = Path(__file__).resolve().parents[1] / "models"
HEAD = '<ir_version: 9, opset_import: ["" : 20]>'


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, entered."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    """Status, stdout and stderr of a call."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def said_of(err: str) -> list[str]:
    """The lines of stderr but for those that say where long work is (on a busy machine there are some)."""
    return [line for line in err.splitlines() if ": spectra: " not in line]


def of(name: str, *options: Any) -> list[Any]:
    """The command line for a network of models/ with its own inputs."""
    return [MODELS / f"{name}.onnx", MODELS / f"{name}.npz", *options]


def written(folder: str = "spectrum") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays of a folder."""
    with np.load(Path(folder) / "spectrum.npz") as held:
        arrays = {name: held[name] for name in held.files}
    return json.loads((Path(folder) / "spectrum.json").read_text(encoding="utf-8")), arrays


def pictures(folder: str = "spectrum") -> set[str]:
    """The figures of a folder, each of which shows something."""
    found = set()
    for path in Path(folder).glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
        assert min(pixels.shape[:2]) > 100, path
        assert pixels.std() > 5, path
        found.add(path.stem)
    return found


def relu_chain(widths: list[int], scale: float = 1.0) -> onnx.ModelProto:
    """x [N,widths[0]] through matrix products with ReLUs to z, without biases."""
    random = np.random.default_rng(3)
    lines, weights, last = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        values = (scale * random.normal(size=(a, b))).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{i}"))
        end = i == len(widths) - 2
        lines.append(f"{'z' if end else f'm{i}'} = MatMul({last}, w{i})")
        if not end:
            lines.append(f"h{i} = Relu(m{i})")
        last = f"h{i}"
    text = f"{HEAD} g (float[N,{widths[0]}] x) => (float[N,{widths[-1]}] z) {{ {chr(10).join(lines)} }}"
    model = parse_model(text)
    model.graph.initializer.extend(weights)
    return model


def test_a_table_of_features_end_to_end(capsys):
    status, out, err = run(capsys, *of("breast_cancer_mlp", "--rows", "0:6", "--figures", "1"))
    assert (status, said_of(err)) == (0, [])
    said, arrays = written()
    assert [one["name"] for one in said["layers"]] == ["relu", "relu_1"]
    assert len(said["inputs"]) == 6
    model = onnx.load(MODELS / "breast_cancer_mlp.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("linear_2", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(MODELS / "breast_cancer_mlp.npz") as data:
        x = data["features"][:6]
    for number, one in enumerate(said["inputs"]):
        index, y = one["target"]["index"], one["target"]["value"]
        logits = session.run(["linear_2"], {"features": x[number : number + 1]})[0].ravel()
        assert index == int(np.argmax(logits))
        assert y == pytest.approx(float(logits[index]), rel=1e-5)
        for layer in one["layers"]:
            assert y == pytest.approx(layer["sum_alpha"] + layer["remainder"] + layer["bias"], rel=1e-5)
            assert layer["residual"] < 1e-6
            assert abs(layer["remainder"]) < 1e-4
            terms = layer["symbolic"]
            total = sum(t["amount"] for t in terms["terms"]) + terms["remainder"] + terms["bias"]
            assert total == pytest.approx(y)
            key = layer["arrays"]
            v, s = arrays[f"{key}/v"], arrays[f"{key}/s"]
            np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-4)
            np.testing.assert_allclose(
                arrays[f"{key}/coefficients"][: len(v)], s[: len(v)] * (v @ x[number]), atol=1e-3
            )
            assert arrays[f"{key}/alpha"].sum() == pytest.approx(layer["sum_alpha"])
            assert arrays[f"{key}/reduced"].sum() == pytest.approx(layer["sum_alpha"])
        assert sum(one["biases"]["pushed"]) == pytest.approx(one["biases"]["bias"], abs=1e-4)
        np.testing.assert_allclose(one["biases"]["pushed"], one["biases"]["telescoped"], atol=1e-4)
    for word in ("penultimate", "eff. rank", "remainder", "bias, by layers", "linear_2[", "mean similarity", "wrote"):
        assert word in out
    assert out.count("explained:") == SHOWN
    assert f"{6 - SHOWN} more input(s)" in out
    assert {len(one["order"]) for one in said["similarity"]} == {6}
    assert sorted(i for c in said["similarity"][0]["clusters"] for i in c) == sorted(o["input"] for o in said["inputs"])
    matrix = arrays["similarity/relu_1/leading"]
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    names = pictures()
    assert {f"{name}.png" for name in names} == set(said["figures"])
    row = "breast_cancer_mlp_0"
    assert {f"{row}-1-relu", f"{row}-2-relu_1", f"{row}-spectra", f"{row}-evolution", f"{row}-layers"} <= names
    assert {"similarity-1-relu", "similarity-2-relu_1", "common-1-relu"} <= names
    assert not any("mlp_1" in n for n in names)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("digits_cnn", ["--layers", "relu_7,mean", "--rows", "1"], {"digits_cnn_1-1-relu_7", "digits_cnn_1-2-mean"}),
        ("grammar_text", ["--layers", "div", "--rows", "5"], {"grammar_text_5-1-div", "grammar_text_5-spectra"}),
        ("shapes", ["--layers", "latent", "--rows", "0,2", "--figures", "1"], {"shapes_0-1-latent", "common-1-latent"}),
        ("squares_bias", ["--layers", "bottleneck,pixels", "--target", "norm", "--rows", "0"],
         {"squares_bias_0-2-pixels", "squares_bias_0-biases", "squares_bias_0-layers"}),
    ],
)  # fmt: skip
def test_images_texts_volumes_and_autoencoders(capsys, name, options, expected):
    status, out, _ = run(capsys, *of(name, *options))
    assert status == 0
    assert expected <= pictures()
    for one in written()[0]["inputs"]:
        for layer in one["layers"]:
            total = layer["sum_alpha"] + layer["remainder"] + layer["bias"]
            assert layer["y"] == pytest.approx(total, rel=1e-9)
    assert "wrote" in out


def test_only_numbers_where_no_figure_is_wanted(capsys):
    status, out, _ = run(capsys, *of("tsne", "--rows", "0:2", "--no-figure", "-k", "3", "--rules", "secant"))
    assert status == 0
    assert {p.name for p in Path("spectrum").iterdir()} == {"spectrum.json", "spectrum.npz"}
    said, arrays = written()
    assert said["rules"] == "secant"
    assert arrays["tsne[0]/hidden_1/v"].shape == (3, 256)
    assert not said["inputs"][0]["layers"][0]["full"]
    assert "figures" not in out


def test_layers_are_listed(capsys):
    status, out, _ = run(capsys, *of("digits_cnn", "--list-layers"))
    assert status == 0
    assert "last convolution" in out
    assert not Path("spectrum").exists()


def test_reductions_targets_and_sympy(capsys):
    pytest.importorskip("sympy")
    common = ["--rows", "0", "--no-figure", "--layers", "relu_1", "--force"]
    run(capsys, *of("breast_cancer_mlp", *common, "--target", "0-1", "--sympy"))
    one = written()[0]["inputs"][0]
    assert one["target"]["label"] == "linear_2[0] (malignant) − linear_2[1] (benign)"
    assert "c1" in one["layers"][0]["symbolic"]["sympy"]
    run(capsys, *of("breast_cancer_mlp", *common, "--threshold", "1e9"))
    assert written()[0]["inputs"][0]["layers"][0]["symbolic"]["terms"] == []
    run(capsys, *of("breast_cancer_mlp", *common, "--quantile", "0.5", "--target", "benign"))
    shown = written()[0]["inputs"][0]
    assert shown["target"]["index"] == 1
    assert 0 < sum(c["reduced"] != 0 for c in shown["layers"][0]["components"]) < len(shown["layers"][0]["components"])


def test_regions(capsys):
    """How far the operator holds: to the next region of a piecewise linear network, as fast as a smooth one changes."""
    common = ["--rows", "0", "--no-figure", "-k", "1", "--regions", "4"]
    status, out, _ = run(capsys, *of("breast_cancer_mlp", *common, "--layers", "relu"))
    assert status == 0
    told = written()[0]["inputs"][0]["region"]
    assert len(told["distances"]) == len(told["nodes"]) == 4
    assert all(0 < t <= told["limit"] for t in told["distances"])
    assert f"{min(told['distances']):.3g}" in out
    assert "in the median of 4 random directions" in out
    status, out, _ = run(capsys, *of("digits_vit", *common, "--layers", "add_74", "-o", "smooth"))
    assert status == 0
    told = written("smooth")[0]["inputs"][0]["region"]
    assert told["smooth"]
    assert 0 < told["change"][0] < told["change"][-1]
    assert "changes smoothly" in out
    assert run(capsys, *of("digits_vit", "--regions", "0"))[0] == 2


def test_maps_are_contracted_over_the_axis_that_is_asked_for(capsys):
    """Over the rows of an image instead of its channels: a map sums to v . x all the same."""
    common = ["--rows", "0", "-k", "2", "--layers", "mean"]
    assert run(capsys, *of("digits_cnn", *common))[0] == 0
    assert run(capsys, *of("digits_cnn", *common, "--axis", "-2", "-o", "rows"))[0] == 0
    (said, plain), (_, turned) = written(), written("rows")
    key = said["inputs"][0]["layers"][0]["arrays"]
    assert plain[f"{key}/right_by_value"].shape == (2, 1, 16, 16)
    assert turned[f"{key}/right_by_value"].shape == (2, 1, 1, 16)
    sums = [t[f"{key}/right_by_value"].reshape(2, -1).sum(axis=1) for t in (plain, turned)]
    np.testing.assert_allclose(*sums, rtol=1e-6)
    status, _, err = run(capsys, *of("digits_cnn", *common, "--axis", "4", "-o", "none"))
    assert (status, "axis 4 does not exist: 'image' has shape [1, 1, 16, 16]" in err) == (2, True)


def test_components_are_dropped_and_kept(capsys):
    common = ["--rows", "0", "--no-figure", "--layers", "relu,relu_1", "--force"]
    status, out, _ = run(capsys, *of("breast_cancer_mlp", *common, "--drop", "1", "--export"))
    assert status == 0
    assert "without 1" in out
    one = written()[0]["inputs"][0]
    for layer, cut in zip(one["layers"], one["pruned"], strict=True):
        assert cut["affine"] == pytest.approx(cut["y"] - layer["components"][0]["alpha"], abs=1e-3)
    session = onnxruntime.InferenceSession(
        Path("spectrum") / one["pruned"][1]["file"], providers=["CPUExecutionProvider"]
    )
    with np.load(MODELS / "breast_cancer_mlp.npz") as data:
        got = session.run(None, {session.get_inputs()[0].name: data["features"][:1]})[0].ravel()
    assert got[one["target"]["index"]] == pytest.approx(one["pruned"][1]["affine"], abs=1e-3)
    run(capsys, *of("breast_cancer_mlp", *common, "--keep", "100%"))
    for cut in written()[0]["inputs"][0]["pruned"]:
        assert cut["rerun"] == pytest.approx(cut["y"], abs=1e-2)


def test_what_exists_is_kept_unless_forced(capsys):
    first = of("tsne", "--rows", "0", "--no-figure", "--layers", "hidden_2")
    assert run(capsys, *first)[0] == 0
    status, _, err = run(capsys, *first)
    assert status == 2
    assert "exists (--force overwrites it)" in err
    assert run(capsys, *first, "--force")[0] == 0


WRONG = {
    "no-such-layer": (["--layers", "nope"], "tensor 'nope' is not in the model"),
    "the-input": (["--layers", "image"], "is the explained input itself"),
    "no-layer": (["--layers", ","], "names no layer"),
    "behind-no-input": (["--layers", "hidden_1.linear.weight"], "does not lie behind"),
    "too-many": (["--layers", "hidden_1", "-k", "500"], "at most 128"),
    "too-many-everywhere": (["-k", "500"], "ask for at most"),
    "beyond-the-rank": (["--layers", "hidden_2", "-k", "64"], "rank"),
    "memory": (["--memory-limit", "1e-6"], "raise --memory-limit"),
    "memory-of-the-matrix": (["--memory-limit", "1e-4", "--layers", "hidden_1"], "raise memory_limit"),
    "target": (["--target", "2"], "out of range"),
    "target-word": (["--target", "dog"], "cannot be read"),
    "quantile": (["--quantile", "1.5"], "--quantile must lie between 0 and 1"),
    "threshold": (["--threshold", "-1"], "--threshold must not be negative"),
    "component": (["--drop", "99"], "component 99 does not exist"),
    "component-0": (["--keep", "0"], "counted from 1"),
    "component-word": (["--keep", "x"], "not components such as"),
    "share": (["--keep", "x%"], "not a share such as 90%"),
    "export-alone": (["--export"], "give one of them"),
    "row": (["--rows", "99"], "row 99 does not exist"),
    "k": (["-k", "0"], "-k must be at least 1"),
    "tolerance": (["--tolerance", "0"], "--tolerance must lie between 0 and 1"),
    "figures": (["--figures", "-1"], "--figures must not be negative"),
    "output": (["--output", "nope"], "explained output 'nope' is not in the model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_one_clear_line(capsys, case):
    options, said = WRONG[case]
    rows = [] if "--rows" in options else ["--rows", "0"]
    status, _, err = run(capsys, *of("tsne", "--no-figure", *rows, *options))
    assert status == 2
    lines = [line for line in err.splitlines() if "spectra:" not in line]
    assert len(lines) == 1, err
    assert said in lines[0]
    assert ": error: " in lines[0]
    assert not (Path("spectrum") / "spectrum.json").exists()


def test_nan_is_one_clear_line(capsys):
    with np.load(MODELS / "tsne.npz") as data:
        x = data["image"][:2].copy()
    x[1, 0, 3, 3] = np.nan
    np.save("x.npy", x)
    status, _, err = run(capsys, MODELS / "tsne.onnx", "x.npy", "--no-figure")
    assert status == 2
    assert "NaN or Inf" in err.splitlines()[-1]


def test_a_layer_that_is_zero_leaves_its_input_out(capsys):
    """All units dead at one of three inputs: said, and the others are analysed; an error where there is no other."""
    model = relu_chain([4, 6, 3])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 6), np.float32), "w0"))
    onnx.save(model, "m.onnx")
    np.save("x.npy", np.array([[1, 2, 3, 4], [-1, -1, -1, -1], [2, 1, 0, 1]], np.float32))
    status, _, err = run(capsys, "m.onnx", "x.npy", "--no-figure", "--layers", "h0")
    assert status == 0
    assert "x[1]" in err
    assert "left out" in err
    said = written()[0]
    assert [one["input"] for one in said["inputs"]] == ["x[0]", "x[2]"]
    assert len(said["left_out"]) == 1
    np.save("dead.npy", np.full((1, 4), -1, np.float32))
    status, _, err = run(capsys, "m.onnx", "dead.npy", "--no-figure", "--layers", "h0", "--force")
    assert status == 2
    assert "zero at this input" in err


def test_auto_layers_of_lower_rank_have_fewer_components(capsys):
    onnx.save(relu_chain([30, 20, 3, 18, 9]), "m.onnx")
    np.save("x.npy", np.random.default_rng(1).normal(size=(1, 30)).astype(np.float32))
    status, _, _ = run(capsys, "m.onnx", "x.npy", "--no-figure", "-k", "5")
    assert status == 0
    counts = [one["components_known"] for one in written()[0]["inputs"][0]["layers"]]
    assert max(counts) == 5
    assert min(counts) <= 3


def test_inputs_of_different_size_are_not_compared(capsys):
    body = "c = Conv<pads=[1,1,1,1]>(x, w)\n r = Relu(c)\n z = Conv<pads=[1,1,1,1]>(r, w)"
    text = f"{HEAD} g (float[N,1,H,W] x) => (float[N,1,H,W] z) {{ {body} }}"
    model = parse_model(text)
    weights = np.random.default_rng(2).normal(size=(1, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, "m.onnx")
    for n in (5, 6):
        np.save(f"x{n}.npy", np.random.default_rng(n).normal(size=(1, 1, n, n)).astype(np.float32))
    status, out, err = run(capsys, "m.onnx", "x5.npy", "x6.npy", "--figures", "1")
    assert status == 0
    assert "differ in size" in err
    assert "--target norm" in out
    assert written()[0]["similarity"] == []
    assert {"x5-biases"}.isdisjoint(pictures())


def test_the_commands_of_the_readme_are_commands():
    text = (MODELS.parent / "README.md").read_text(encoding="utf-8")
    inside = text.partition("<!-- spectrum -->")[2].partition("<!-- end spectrum -->")[0]
    lines = [line.partition("#")[0].split()[1:] for line in inside.splitlines() if line.startswith("omenn-spectrum ")]
    assert len(lines) >= 3
    for line in lines:
        args = parser().parse_intermixed_args(line)
        assert (MODELS.parent / args.model).is_file()
        assert all((MODELS.parent / f).is_file() for f in args.files)
