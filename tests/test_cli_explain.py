"""omenn-explain on files that were compiled by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compiled_by_hand as hand
import numpy as np
import onnx
import pytest
from PIL import Image

from omenn_onnx.cli import run_cli, table
from omenn_onnx.cli.explain import main
from omenn_onnx.cli.reading import rows_of
from omenn_onnx.errors import OmennError

RNG = np.random.default_rng(5)
GRAY_AS_RGB = ["--scale", "1", "--layout", "NCHW", "--order", "rgb", "--resize", "6"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and inputs, entered."""
    monkeypatch.chdir(tmp_path)
    models = {
        "linear": hand.linear(),
        "asked": hand.linear("input"),
        "seeded": hand.linear("seed"),
        "wrong": hand.linear(wrong=0.5),
        "image": hand.relu_image(channels=3),
        "gray": hand.relu_image(),
        "text": hand.text(),
        "two": hand.two_inputs(),
        "original": hand.linear_original(),
        "loose": hand.linear(rows=False),
    }
    for name, model in models.items():
        onnx.save(model, f"{name}.onnx")
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    np.save("x.npy", x)
    np.save("row.npy", x[0])
    np.savez("t.npz", x=x, labels=[0, 1, 2], class_names=["cat", "dog", "cow"], feature_names=list("abcd"), other=x)
    np.savez("misspelt.npz", xx=x)
    np.savez("any.npz", inputs=x)
    np.savez("two.npz", a=x, b=RNG.normal(size=(3, hand.HIDDEN)).astype(np.float32))
    np.savez("ids.npz", token_ids=RNG.integers(0, 9, (2, 4)), vocabulary=[f"word{i}" for i in range(9)])
    np.savez("bad.npz", x=np.where(np.eye(3, 4) > 0, np.nan, x))
    np.savez("wide.npz", x=x.astype(np.float64) + 1e-13)
    Path("d.csv").write_text("age,size,mass,tone,label\n1,2,3,4,1\n.5,-1,2,0.25,0\n")
    Path("plain.csv").write_text("1;2;3;4\n\n5;6;7;8\n")
    Image.fromarray(RNG.integers(0, 255, (12, 9, 3)).astype(np.uint8)).save("photo.png")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def logits(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64) @ hand.W + hand.B


def test_prints_the_sums_and_writes_maps_and_figures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "linear.onnx", "t.npz")
    assert status == 0
    for word in ("prediction", "score", "sum C_w*X", "sum C_b", "residual", "condition", "true 1 (dog)", "secant"):
        assert word in out
    assert err == "t.npz: not an input, ignored: other\n"
    names = {p.name for p in (work / "explanations").iterdir()}
    assert names == {"t.npz", "t.png", "t-1.png", "t-2.png"}
    with np.load("explanations/t.npz") as saved, np.load("t.npz") as given:
        np.testing.assert_allclose(saved["score"], logits(given["x"]).max(axis=1), rtol=1e-5)
        total = (saved["C_w"] * given["x"]).sum(axis=1) + saved["C_b"][:, 0]
        np.testing.assert_allclose(total, saved["score"], rtol=1e-5)


@pytest.mark.parametrize(
    ("argv", "rows"),
    [
        (["linear.onnx", "x.npy"], 3),
        (["linear.onnx", "row.npy"], 1),
        (["linear.onnx", "any.npz"], 3),
        (["linear.onnx", "d.csv"], 2),
        (["linear.onnx", "plain.csv"], 2),
        (["linear.onnx", "x.npy", "--rows", "1:"], 2),
        (["linear.onnx", "x.npy", "--index", "2"], 1),
        (["linear.onnx", "--rows", "0", "x.npy"], 1),
        (["linear.onnx", "x.npy", "--batch-size", "2"], 3),
        (["linear.onnx", "x.npy", "--provider", "cpu"], 3),
        (["linear.onnx", "x.npy", "--baseline", "mean"], 3),
        (["linear.onnx", "x.npy", "--baseline", "row.npy"], 3),
        (["linear.onnx", "x.npy", "--baseline", "t.npz"], 3),
        (["asked.onnx", "x.npy", "--target", "1"], 3),
        (["asked.onnx", "t.npz", "--target", "dog,0"], 3),
        (["seeded.onnx", "x.npy", "--seed", "seed.npy"], 3),
        (["two.onnx", "two.npz"], 3),
        (["text.onnx", "ids.npz"], 2),
        (["loose.onnx", "x.npy"], 3),
        (["linear.onnx", "bad.npz", "--allow-nonfinite"], 3),
    ],
)
def test_ways_to_ask(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], rows: int) -> None:
    np.save("seed.npy", RNG.normal(size=(3, 3)))
    status, _, err = run(capsys, *argv, "--figures", "1", "-o", "out")
    assert status == 0, err
    (written,) = (work / "out").glob("*.npz")
    with np.load(written) as saved:
        assert len(saved["score"]) == rows
        assert ("baseline.base" in saved) == ("--baseline" in argv)
    assert list((work / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required"),
        (["linear.onnx", "x.npy", "--rows", "7"], "row 7 does not exist, there are 3"),
        (["linear.onnx", "x.npy", "--rows", "a"], "not a row"),
        (["linear.onnx", "x.npy", "--rows", "5:9"], "chooses none"),
        (["linear.onnx", "x.npy", "--batch-size", "0"], "at least 1"),
        (["linear.onnx", "x.npy", "--target", "1"], "its target is not an input"),
        (["linear.onnx", "x.npy", "--baseline", "no.npy"], "no.npy"),
        (["linear.onnx", "x.npy", "--provider", "cuda"], "provider 'cuda'"),
        (["asked.onnx", "x.npy"], "give a target"),
        (["asked.onnx", "x.npy", "--target", "9"], "target 9 is out of range: 0 to 2"),
        (["asked.onnx", "x.npy", "--target", "bird"], "'bird' is neither an index nor one of the labels"),
        (["seeded.onnx", "x.npy"], "give a seed"),
        (["original.onnx", "x.npy"], "run omenn-compile on it first"),
        (["no.onnx", "x.npy"], "'no.onnx' does not exist"),
        (["x.npy", "x.npy"], "'x.npy' cannot be loaded"),
        (["linear.onnx", "no.npz"], "'no.npz'"),
        (["linear.onnx", "misspelt.npz"], "input 'xx' is not in the model"),
        (["linear.onnx", "bad.npz"], "3 NaN or Inf"),
        (["linear.onnx", "wide.npz"], "the cast would round it"),
        (["linear.onnx", "broken.npz"], "broken.npz"),
        (["linear.onnx", "objects.npz"], "objects.npz"),
        (["linear.onnx", "short.csv"], "different numbers of columns"),
        (["linear.onnx", "words.csv"], "'many' is not a number"),
        (["linear.onnx", "empty.csv"], "has no rows"),
        (["linear.onnx", "three.csv"], "[N,4]"),
        (["linear.onnx", "linear.onnx"], "cannot read .onnx"),
        (["linear.onnx", "photo.png"], "the model has 0 inputs"),
        (["two.onnx", "x.npy"], "use an .npz"),
        (["linear.onnx", "hollow"], "holds no file"),
        (["image.onnx", "photo.png"], "--scale, --layout, --order missing"),
        (["image.onnx", "photo.png", "--scale", "1/255", "--layout", "NCHW", "--order", "rgb"], "--resize 6x6"),
        (["gray.onnx", "photo.png", *GRAY_AS_RGB], "check --layout"),
        (["image.onnx", "photo.png", "--scale", "x"], "not numbers"),
        (["image.onnx", "photo.png", "--std", "0"], "divide by zero"),
        (["image.onnx", "photo.png", "--resize", "ax3"], "not a size"),
        (["image.onnx", "fake.png", "--scale", "1", "--layout", "NCHW", "--order", "rgb"], "not an image"),
        (["linear.onnx", "t.npz", "x.npy", "two/x.npy"], "two inputs are called 'x'"),
        (["linear.onnx", "t.npz", "-o", "."], "is an input and would be overwritten"),
        (["linear.onnx", "x.npy", "-o", "x.npy"], "x.npy"),
        (["text.onnx", "ids.npz", "--vocabulary", "broken.json"], "not a JSON object"),
    ],
)
def test_bad_use_is_one_line(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    Path("broken.npz").write_bytes(b"PK\x03\x04 nothing")
    Path("fake.png").write_bytes(b"no picture")
    Path("broken.json").write_text("[1]")
    np.savez("objects.npz", x=np.array([{}], object))
    Path("short.csv").write_text("1,2,3,4\n1,2\n")
    Path("words.csv").write_text("1,2,3,4\n1,2,many,4\n")
    Path("empty.csv").write_text("a,b,c,d\n")
    Path("three.csv").write_text("1,2,3\n")
    Path("hollow").mkdir()
    before = sorted(work.rglob("*"))
    status, _, err = run(capsys, *argv)
    assert status == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("omenn-explain: error: ")
    assert message in line
    assert [p for p in sorted(work.rglob("*")) if p not in before and p.name != "explanations"] == []


def test_existing_output_needs_force(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "linear.onnx", "x.npy", "--no-figure")[0] == 0
    assert [p.name for p in (work / "explanations").iterdir()] == ["x.npz"]
    status, _, err = run(capsys, "linear.onnx", "x.npy", "--no-figure")
    assert status == 2
    assert "exists (--force overwrites it)" in err
    assert run(capsys, "linear.onnx", "x.npy", "--no-figure", "--force")[0] == 0


@pytest.mark.parametrize(
    ("options", "want"),
    [
        (["--scale", "1/255", "--order", "rgb"], lambda p: p / 255),
        (["--scale", "1", "--order", "bgr", "--mean", "104,117,123"], lambda p: p[..., ::-1] - [104, 117, 123]),
        (["--scale", "1/255", "--order", "rgb", "--mean", "0.5", "--std", "0.25"], lambda p: (p / 255 - 0.5) / 0.25),
    ],
)
def test_images_are_prepared_as_said(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], want: Any
) -> None:
    pixels = RNG.integers(0, 255, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("small.png")
    assert run(capsys, "image.onnx", "small.png", "--layout", "NCHW", *options)[0] == 0
    with np.load("explanations/small.npz") as saved:
        np.testing.assert_allclose(saved["X"][0].transpose(1, 2, 0), want(pixels.astype(np.float64)), atol=1e-4)


def test_grey_images(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["gray.onnx", "photo.png", "--scale", "1", "--layout", "NCHW", "--order", "gray", "--resize", "6x6"]
    assert run(capsys, *argv)[0] == 0


def test_labels_and_vocabulary(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.txt").write_text("ape\nbee\ncod\n")
    Path("vocabulary.json").write_text(json.dumps({f"w{i}": i for i in range(9)}))
    best = ["ape", "bee", "cod"][int(logits(np.load("x.npy"))[0].argmax())]
    for labels in ("names.txt", "ape,bee,cod"):
        _, out, _ = run(capsys, "linear.onnx", "x.npy", "--labels", labels, "--no-figure", "--force")
        assert f"({best})" in out
    argv = ["text.onnx", "ids.npz", "--vocabulary", "vocabulary.json", "--tokens", "so it goes on"]
    assert run(capsys, *argv)[0] == 0


def test_a_folder_says_how_far_it_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many").mkdir()
    for name in "ab":
        np.save(f"many/{name}.npy", np.load("x.npy"))
    status, out, err = run(capsys, "linear.onnx", "many", "--no-figure")
    assert status == 0
    assert err.splitlines() == ["1/2 a.npy", "2/2 b.npy"]
    assert "a.npy" in out
    assert {p.name for p in (work / "explanations").iterdir()} == {"a.npz", "b.npz"}


def test_warnings(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "wrong.onnx", "x.npy", "--no-figure")
    assert "omenn-explain: warning: 3 explanation(s) do not add up" in err
    np.save("seed.npy", np.tile(np.array([1e-6, 0, 0]), (3, 1)))
    np.save("huge.npy", (RNG.normal(size=(3, 4)) * 1e12).astype(np.float32))
    _, _, err = run(capsys, "seeded.onnx", "huge.npy", "--seed", "seed.npy", "--no-figure")
    assert "do not add up" not in err
    x = np.linalg.lstsq(hand.W[:, :1].T, -hand.B[:1], rcond=None)[0]
    null = np.array([0, hand.W[2, 0], -hand.W[1, 0], 0]) * 1e6
    np.save("flat.npy", (x + null).astype(np.float32)[None])
    np.save("seed.npy", np.array([[1.0, 0, 0]]))
    _, out, err = run(capsys, "seeded.onnx", "flat.npy", "--seed", "seed.npy", "--no-figure")
    assert "ill-conditioned" in err
    assert "seed" in out.splitlines()[-2]


def test_long_tables_are_cut(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("long.npy", RNG.normal(size=(40, 4)).astype(np.float32))
    _, out, _ = run(capsys, "linear.onnx", "long.npy", "--no-figure")
    assert "... and 16 more, all of them in the file" in out


def test_what_the_wrapper_turns_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: BaseException) -> Any:
        def body(argv: Any = None) -> int:
            raise error

        body.__module__ = "omenn_onnx.cli.some_thing"
        return run_cli(body)

    for error, status, line in (
        (OmennError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: '/x': Permission denied"),
        (MemoryError("big"), 2, "error: out of memory (big)"),
    ):
        assert failing(error)() == status
        assert capsys.readouterr().err == f"omenn-some-thing: {line}\n"
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())()


def test_rows_and_tables() -> None:
    assert rows_of("all", 3) == [0, 1, 2]
    assert rows_of("0:4:2,-1", 5) == [0, 2, -1]
    assert table(["a", "bb"], [["ccc", "1"]]) == "a    bb\n---  --\nccc   1"


@pytest.mark.parametrize("option", ["--help"])
def test_help(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([option])
    assert caught.value.code == 0
    assert "--baseline" in capsys.readouterr().out
