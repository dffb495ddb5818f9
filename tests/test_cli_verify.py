"""omenn-verify on files that were compiled by hand, right and wrong ones."""

from __future__ import annotations

from pathlib import Path

import compiled_by_hand as hand
import numpy as np
import onnx
import pytest

from omenn_onnx.cli.verify import main
from omenn_onnx.errors import FeedError
from omenn_onnx.runtime.contract import read_contract
from omenn_onnx.runtime.engines import OrtEngine, TensorInfo
from omenn_onnx.runtime.random_feeds import random_feeds, shapes_for, tables_of
from omenn_onnx.runtime.verification import Check, Verification, difference

RNG = np.random.default_rng(9)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    models = {
        "linear": hand.linear(),
        "hidden": hand.linear(tail="Softmax"),
        "wrong": hand.linear(wrong=1e-3),
        "double": hand.linear(dtype="float64"),
        "elu": hand.linear(dtype="float64", tail="Elu"),
        "half": hand.linear(dtype="float16"),
        "asked": hand.linear("input"),
        "columns": hand.linear("input", wide=True),
        "seeded": hand.linear("seed"),
        "image": hand.relu_image(),
        "text": hand.text(),
        "two": hand.two_inputs(),
        "loose": hand.linear(rows=False),
        "original": hand.linear_original(),
        "shifted": hand.linear_original(shift=1e-3),
        "original64": hand.linear_original("float64"),
    }
    for name, model in models.items():
        onnx.save(model, f"{name}.onnx")
    np.save("x.npy", RNG.normal(size=(5, 4)).astype(np.float32))
    np.savez("bad.npz", x=np.full((2, 4), np.nan, np.float32))
    Path("broken.onnx").write_bytes(b"not a model")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


@pytest.mark.parametrize(
    "argv",
    [
        ["linear.onnx"],
        ["linear.onnx", "x.npy"],
        ["linear.onnx", "x.npy", "--batch-size", "2", "--rows", "1:"],
        ["linear.onnx", "--original", "original.onnx"],
        ["linear.onnx", "x.npy", "--original", "original.onnx"],
        ["linear.onnx", "--original", "original.onnx", "x.npy"],
        ["linear.onnx", "--shape", "x=7x4", "--samples", "1", "--seed", "4"],
        ["wrong.onnx", "--tolerance", "0.1"],
        ["double.onnx"],
        ["double.onnx", "--exact", "--original", "original64.onnx"],
        ["elu.onnx", "--exact"],
        ["half.onnx"],
        ["asked.onnx"],
        ["asked.onnx", "x.npy", "--target", "2"],
        ["columns.onnx"],
        ["seeded.onnx"],
        ["image.onnx"],
        ["text.onnx"],
        ["two.onnx"],
        ["loose.onnx"],
    ],
)
def test_within_the_bars(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 0, out + err
    assert "completeness" in out
    assert "condition number" in out
    assert out.splitlines()[-1].startswith("within the bars on ")
    assert ("output Z" in out) == ("--original" in argv)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["wrong.onnx"], "completeness"),
        (["linear.onnx", "--tolerance", "1e-12"], "completeness"),
        (["linear.onnx", "--original", "shifted.onnx"], "output Z"),
        (["linear.onnx", "bad.npz", "--allow-nonfinite"], "completeness"),
    ],
)
def test_outside_the_bars(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], line: str) -> None:
    status, out, _ = run(capsys, *argv)
    assert status == 1
    assert [row for row in out.splitlines() if row.startswith(line) and "FAIL" in row]
    assert out.splitlines()[-1].startswith("OUTSIDE the bars")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required"),
        (["no.onnx"], "'no.onnx' does not exist"),
        (["broken.onnx"], "'broken.onnx' cannot be loaded"),
        (["original.onnx"], "run omenn-compile"),
        (["linear.onnx", "--exact"], "compiled with --dtype float64"),
        (["elu.onnx"], "omenn-verify --exact runs it"),
        (["linear.onnx", "--original", "no.onnx"], "'no.onnx' does not exist"),
        (["hidden.onnx", "--original", "original.onnx"], "not the original's: p instead of Z"),
        (["double.onnx", "--original", "original.onnx"], "input 'x' of the original (tensor(float)) is tensor(double)"),
        (["linear.onnx", "bad.npz"], "NaN or Inf"),
        (["linear.onnx", "no.npz"], "no.npz"),
        (["linear.onnx", "--samples", "0"], "at least 1"),
        (["linear.onnx", "--tolerance", "-1"], "above 0"),
        (["linear.onnx", "--shape", "x"], "not of the form"),
        (["linear.onnx", "--shape", "y=2x4"], "input 'y' is not in the model"),
        (["linear.onnx", "--shape", "x=2x5"], "does not fit [N,4]"),
        (["linear.onnx", "--target", "1", "x.npy", "--what"], "unrecognized arguments"),
    ],
)
def test_bad_use_is_one_line(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("omenn-verify: error: ")
    assert message in err


def test_the_engine_of_exact_runs_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys, "elu.onnx", "--exact")
    assert "reference evaluator" in out.splitlines()[0]
    assert "Could not find an implementation for Elu" in err
    assert "onnxruntime" in run(capsys, "double.onnx", "--exact")[1].splitlines()[0]


def test_ill_conditioned_files_warn(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("s.npz", x=np.array([[0, hand.W[2, 0], -hand.W[1, 0], 0]], np.float32) * 1e6, seed=[[1.0, 0, 0]])
    status, out, err = run(capsys, "seeded.onnx", "s.npz", "--tolerance", "1")
    assert status == 0
    assert "warn" in out
    assert "ill-conditioned" in err


def test_random_inputs_are_repeatable(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (run(capsys, "image.onnx", "--seed", s)[1] for s in ("1", "1", "2"))
    assert first == again != other


def test_shapes_of_random_inputs() -> None:
    inputs = [
        TensorInfo("a", "tensor(float)", ("N", 3, "H", "W")),
        TensorInfo("b", "tensor(int64)", ("N", "T")),
        TensorInfo("c", "tensor(float)", (None, "T", 5)),
        TensorInfo("d", "tensor(float)", ()),
    ]
    assert shapes_for(inputs, {}) == {"a": (2, 3, 32, 32), "b": (2, 8), "c": (2, 8, 5), "d": ()}
    assert shapes_for(inputs, {"b": (4, 6)}) == {"a": (4, 3, 32, 32), "b": (4, 6), "c": (2, 6, 5), "d": ()}


def test_values_of_random_inputs() -> None:
    contract = read_contract({p.key: p.value for p in hand.linear("input").metadata_props}, "it")
    inputs = [
        TensorInfo("ids", "tensor(int64)", (50,)),
        TensorInfo("mask", "tensor(int64)", (50, 4)),
        TensorInfo("pixels", "tensor(uint8)", (500,)),
        TensorInfo("flag", "tensor(bool)", (3, 3)),
        TensorInfo("target_in", "tensor(int64)", (50,)),
    ]
    made = random_feeds(inputs, contract, {"ids": 7}, shapes_for(inputs, {}), 3, np.random.default_rng(0))
    assert (made["ids"].min(), made["ids"].max()) == (0, 6)
    assert set(np.unique(made["mask"])) == {0, 1}
    assert (made["mask"][:, 0] == 1).all()
    assert made["pixels"].max() > 200
    assert made["flag"].dtype == bool
    assert set(np.unique(made["target_in"])) == {0, 1, 2}
    words = [TensorInfo("words", "tensor(string)", (1,))]
    with pytest.raises(FeedError, match="give an input file"):
        random_feeds(words, contract, {}, {"words": (1,)}, None, np.random.default_rng(0))


def test_tables_are_found_through_casts_and_constants() -> None:
    assert tables_of(hand.text()) == {"token_ids": hand.WORDS}
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (int32[N] i) => (float[N,2] y)'
        "{ e = Constant <value = float[3,2] {0,1,2,3,4,5}> () c = Cast <to = 7> (i) u = Identity(c) y = Gather(e, u) }"
    )
    assert tables_of(model) == {"i": 3}


@pytest.mark.parametrize(
    ("found", "want", "gap"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.0),
        (np.array([1.0, 2.2]), np.array([1.0, 2.0]), 0.1),
        (np.array([1.0]), np.array([1.0], np.float32), np.inf),
        (np.array([1.0]), np.array([[1.0]]), np.inf),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array(["a"], object), np.array(["a"], object), 0.0),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0),
        (np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), np.inf),
        (np.array([0.0]), np.array([0.0]), 0.0),
        (np.array([1e-9]), np.array([0.0]), np.inf),
        ([{1: 0.5}], [{1: 0.5}], 0.0),
        ([{1: 0.5}], [{2: 0.5}], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_differences(found: object, want: object, gap: float) -> None:
    assert difference(found, want) == pytest.approx(gap)


def test_nan_is_worse_than_everything() -> None:
    check = Check("c", 1.0)
    for value in (0.5, float("nan"), 0.1):
        check.see(value, "there")
    assert np.isnan(check.worst)
    assert not check.within


def test_outputs_are_compared_through_sequences() -> None:
    text = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (seq(float[N]) q) { q = SequenceConstruct(x, x) }'
    )
    found = OrtEngine(text).run({"x": np.ones(2, np.float32)})["q"]
    assert difference(found, [np.ones(2, np.float32)] * 2) == 0.0


@pytest.mark.parametrize(("plain", "passed"), [(1.012, True), (1.0, False), (None, False)])
def test_what_the_runtime_itself_changes_is_no_difference(plain: float | None, passed: bool) -> None:
    """A quantised model's outputs move when its optimisation is switched off: as far as that, but no further."""
    contract = read_contract({p.key: p.value for p in hand.linear().metadata_props}, "it")
    found = Verification(contract)
    unoptimised = None if plain is None else lambda: {"y": np.array([plain, 0.5])}
    found.outputs({"y": np.array([1.01, 0.5])}, {"y": np.array([1.0, 0.5])}, "here", unoptimised)
    assert found.passed is passed
