"""The runtime on files that were compiled by hand: it needs the file alone."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import compiled_by_hand as hand
import numpy as np
import onnx
import pytest

from omenn_onnx.errors import FeedError, ModelFileError, NameNotFound, OmennError, TargetError
from omenn_onnx.runtime import sessions
from omenn_onnx.runtime.contract import read_contract
from omenn_onnx.runtime.engines import OrtEngine, ReferenceEngine, TensorInfo
from omenn_onnx.runtime.explainer import Explainer
from omenn_onnx.runtime.feeds import checked
from omenn_onnx.runtime.figures import ids_among, target_name
from omenn_onnx.runtime.files import save_arrays, whole_file
from omenn_onnx.runtime.grid_panels import support
from omenn_onnx.runtime.list_panels import padding_start
from omenn_onnx.runtime.panels import magnification, magnified, symmetric
from omenn_onnx.runtime.prediction import predictions
from omenn_onnx.runtime.sums import channel_sum, sums_of, target_axis

RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, hand.FEATURES)).astype(np.float32)
IMAGES = RNG.normal(size=(3, 1, hand.SIDE, hand.SIDE)).astype(np.float32)
IDS = RNG.integers(0, hand.WORDS, (2, 4))


def logits(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64) @ hand.W + hand.B


# -- what a file says ------------------------------------------------------------------------------------------------


def test_contract_is_read_from_the_metadata() -> None:
    contract = Explainer(hand.linear("top", k=2)).contract
    assert (contract.output, contract.outputs, contract.rules) == ("Z", ("Z",), "secant")
    assert (contract.target.kind, contract.target.k, contract.rows) == ("top", 2, True)
    assert contract.own_names == {"C_w", "C_b", "score", "target"}
    assert contract.bar == 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"omenn.format": None}, "not a compiled model: run omenn-compile"),
        ({"omenn.format": "9"}, "omenn.format '9'"),
        ({"omenn.names": "{"}, "damaged omenn metadata"),
        ({"omenn.inputs": '[{"name": "x"}]'}, "damaged omenn metadata"),
        ({"omenn.outputs": '["other"]'}, "lacks outputs that its metadata names: other"),
    ],
)
def test_foreign_and_damaged_files_are_refused(change: dict[str, str | None], message: str) -> None:
    model = hand.linear()
    metadata: dict[str, Any] = {p.key: p.value for p in model.metadata_props} | change
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(ModelFileError, match=message):
        Explainer(model)


def test_model_as_path_bytes_and_proto(tmp_path: Path) -> None:
    model = hand.linear()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    scores = [Explainer(m)(X).score for m in (model, model.SerializeToString(), path, str(path))]
    for score in scores:
        np.testing.assert_array_equal(score, scores[0])


@pytest.mark.parametrize("kind", ["missing", "folder", "garbage", "truncated"])
def test_unreadable_files_are_one_clear_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"not onnx at all" if kind == "garbage" else hand.linear().SerializeToString()[:300])
    with pytest.raises(ModelFileError) as caught:
        Explainer(path)
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_external_data_stays_where_the_path_is(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(hand.linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=60)
    np.testing.assert_allclose(Explainer(path)(X).score, logits(X).max(axis=1), rtol=1e-5)
    with pytest.raises(ModelFileError, match="external data that is not loaded: save the model beside its data"):
        Explainer(onnx.load(path, load_external_data=False))


def test_models_beyond_protobufs_limit_go_through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PROTOBUF_LIMIT", 10)
    np.testing.assert_allclose(Explainer(hand.linear())(X).score, logits(X).max(axis=1), rtol=1e-5)


# -- providers -------------------------------------------------------------------------------------------------------


def test_provider_names() -> None:
    assert Explainer(hand.linear(), "cpu").engine.label.endswith("on CPU")
    assert Explainer(hand.linear(), ["CPUExecutionProvider"]).engine.label.endswith("on CPU")
    with pytest.raises(OmennError, match="provider 'tpu' is not in the installed onnxruntime"):
        Explainer(hand.linear(), "tpu")


class FakeRuntime:
    """An onnxruntime that offers CUDA; ``broken`` says how its sessions fail."""

    def __init__(self, broken: str | None) -> None:
        self.real = sessions.runtime()
        self.broken = broken
        self.asked: list[Any] = []
        self.OrtValue, self.SessionOptions = self.real.OrtValue, self.real.SessionOptions
        self.__version__ = "0"

    def get_available_providers(self) -> list[str]:
        return [sessions.CUDA, sessions.CPU]

    def set_default_logger_severity(self, level: int) -> None:
        self.real.set_default_logger_severity(level)

    def preload_dlls(self) -> None:
        if self.broken == "libraries":
            raise RuntimeError("libcudnn.so.9 is missing\nlong story")

    def InferenceSession(self, model: Any, options: Any, providers: list[Any]) -> Any:
        self.asked.append(providers)
        session = self.real.InferenceSession(model, options, providers=[sessions.CPU])
        if self.broken is None:
            session.get_providers = lambda: [sessions.CUDA, sessions.CPU]
        return session


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(broken: str | None) -> FakeRuntime:
        fake = FakeRuntime(broken)
        monkeypatch.setattr(sessions, "runtime", lambda: fake)
        sessions.cuda_failure.cache_clear()
        sessions._say_fallback.cache_clear()
        return fake

    yield install
    sessions.cuda_failure.cache_clear()
    sessions._say_fallback.cache_clear()


@pytest.mark.parametrize(
    ("broken", "reason"), [("libraries", "libcudnn.so.9 is missing"), ("silent", "libraries could not")]
)
def test_cuda_that_does_not_work_falls_back_with_one_line(fake_cuda: Any, broken: str, reason: str) -> None:
    fake_cuda(broken)
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        _ = [sessions.open_session(hand.linear().SerializeToString()) for _ in range(2)]
    assert len([w for w in caught if "CUDA" in str(w.message)]) == 1
    assert "\n" not in str(caught[0].message)
    with pytest.raises(OmennError, match="CUDA does not work here"):
        sessions.open_session(hand.linear().SerializeToString(), "cuda")


def test_cuda_that_works_is_taken_without_tf32(fake_cuda: Any) -> None:
    fake = fake_cuda(None)
    for providers in (None, "cuda"):
        sessions.open_session(hand.linear().SerializeToString(), providers)
        assert fake.asked[-1][0] == (sessions.CUDA, {"use_tf32": "0"})


def test_missing_runtime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OmennError, match=r'pip install "omenn-onnx\[cpu\]"'):
        sessions.runtime()
    sessions.runtime.cache_clear()


def test_results_are_fetched_when_looked_at() -> None:
    found = Explainer(hand.linear())(X)
    held = found.results.held["C_w"]
    assert held.ortvalue is not None
    assert held.ortvalue.device_name() == "cpu"
    assert found.C_w.shape == X.shape
    assert held.ortvalue is None


def test_ortvalues_are_fed_where_they_lie() -> None:
    value = sessions.runtime().OrtValue.ortvalue_from_numpy(X)
    found = Explainer(hand.linear())({"x": value})
    np.testing.assert_allclose(found.score, logits(X).max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.X, X)


# -- feeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"X": X}, "input 'X' is not in the model; known: 'x'"),
        ({"x": X, "y": X}, "input 'y' is not in the model"),
        ({}, "missing input 'x'"),
        (X[0], r"wants shape \[N,4\], got \[4\]: the batch axis is missing"),
        (X[:, :3], r"wants shape \[N,4\], got \[5,3\]"),
        (X[None], r"got \[1,5,4\]"),
        (X[:0], r"is empty: shape \[0,4\]"),
        (X.astype(np.float64) + 1e-12, "the cast would round it"),
        ([["a"] * 4], "wants float32, got <U1"),
        ([[1, 2], [3]], "not an array"),
        ([[1e300] * 4], "the cast would round it"),
        (np.where(X > 9, 0, np.nan).astype(np.float32), r"has 20 NaN or Inf value\(s\), the first at \[0, 0\]"),
        (np.full_like(X, np.inf), "NaN or Inf"),
    ],
)
def test_wrong_feeds(feeds: Any, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        Explainer(hand.linear())(feeds)


@pytest.mark.parametrize(
    "x", [X.astype(np.float64), X.tolist(), [[1, 2, 3, 4]], np.eye(4, dtype=bool), X.astype(np.float16)]
)
def test_casts_that_keep_the_values(x: Any) -> None:
    found = Explainer(hand.linear())(x)
    np.testing.assert_allclose(found.score, logits(x).max(axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("value", "type_", "message"),
    [
        ([1.0], "tensor(int64)", "floats are not cast to integers"),
        ([2**40], "tensor(int32)", "value 1099511627776 does not fit"),
        ([-1], "tensor(uint8)", "value -1 does not fit"),
        (np.array([2**64 - 1], np.uint64), "tensor(int64)", "does not fit"),
        ([3], "tensor(bool)", "value 3 does not fit"),
        (np.array([2**53 + 1]), "tensor(double)", "the cast would round it"),
        (["a"], "tensor(int64)", "wants int64"),
    ],
)
def test_casts_that_lose_values(value: Any, type_: str, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        checked(value, TensorInfo("i", type_, None))


def test_casts_between_integers_and_text() -> None:
    assert checked(np.array([3], np.int32), TensorInfo("i", "tensor(int64)", (1,))).dtype == np.int64
    assert checked([1, 0], TensorInfo("i", "tensor(bool)", (2,))).tolist() == [True, False]
    assert checked(["a"], TensorInfo("i", "tensor(string)", ("N",))).dtype == object


def test_several_inputs_want_a_dictionary() -> None:
    with pytest.raises(FeedError, match=r"one array was given, but the model has 2 inputs \('a', 'b'\)"):
        Explainer(hand.two_inputs())(X)


def test_nonfinite_input_is_run_when_allowed_and_told() -> None:
    with pytest.warns(RuntimeWarning, match="NaN or Inf"):
        found = Explainer(hand.linear())(np.full((1, 4), np.nan, np.float32), allow_nonfinite=True)
    assert not found.complete
    assert found.ill_conditioned


def test_what_the_model_refuses_is_one_line() -> None:
    with pytest.raises(FeedError, match=r"the model refused its inputs \(token_ids \[1,? ?4\]\)") as caught:
        Explainer(hand.text())(np.full((1, 4), 99))
    assert "\n" not in str(caught.value)


def test_fixed_batch_sizes() -> None:
    explainer = Explainer(hand.linear(batch=1))
    with pytest.raises(FeedError, match=r"the model takes 1 row\(s\) a time \(batch_size=1\)"):
        explainer(X)
    np.testing.assert_allclose(explainer(X, batch_size=1).score, logits(X).max(axis=1), rtol=1e-5)


# -- targets and seeds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("target", [1, np.int32(2), [0, 1, 2, 0, 1], [[0, 1]] * 5, np.tile([2, 0, 1], (5, 1))])
def test_targets(wide: bool, target: Any) -> None:
    found = Explainer(hand.linear("input", wide=wide))(X, target=target)
    want = np.asarray(target)
    want = np.full(5, want) if want.ndim == 0 else want
    if wide and want.ndim == 1:
        want = want[:, None]
    np.testing.assert_array_equal(found.target, want)
    chosen = np.take_along_axis(logits(X), want.reshape(5, -1), 1).reshape(want.shape)
    np.testing.assert_allclose(found.score, chosen, rtol=1e-4)
    assert found.C_w.shape == (5, *want.shape[1:], 4)
    assert found.C_b.shape == (5, *want.shape[1:], 1)
    assert found.C.shape == found.C_b.shape
    assert found.complete
    assert found.residual.shape == want.shape


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("input", None, "compiled with --target input: give a target"),
        ("argmax", 1, "compiled with --target argmax: its target is not an input"),
        ("input", 3, "target 3 is out of range: 0 to 2"),
        ("input", -1, "target -1 is out of range: 0 to 2"),
        ("input", 1.5, "target must be integers"),
        ("input", [1, 2], r"target \[2\] does not fit 5 row\(s\)"),
        ("input", [[[1]]], "target must be integers"),
    ],
)
def test_wrong_targets(kind: str, target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        Explainer(hand.linear(kind))(X, target=target)


def test_target_range_from_metadata_and_from_a_score_of_nothing() -> None:
    model = hand.linear("input", tail="Softmax")
    with pytest.warns(RuntimeWarning, match="it may lie outside 'Z'"):
        Explainer(model)(X, target=7)
    onnx.helper.set_model_props(
        model, {p.key: p.value for p in model.metadata_props} | {"omenn.output_shape": json.dumps(["N", 3])}
    )
    with pytest.raises(TargetError, match="0 to 2"):
        Explainer(model)(X, target=7)


def test_target_among_the_feeds_but_not_twice() -> None:
    explainer = Explainer(hand.linear("input"))
    feeds = {"x": X, "target_in": np.zeros(5, np.int64)}
    np.testing.assert_allclose(explainer(feeds).score, logits(X)[:, 0], rtol=1e-4)
    with pytest.raises(FeedError, match="given twice"):
        explainer(feeds, target=1)


def test_seeds_add_up_and_are_checked() -> None:
    explainer = Explainer(hand.linear("seed"))
    a, b = RNG.normal(size=(2, 5, 3))
    one, two, both = explainer(X, seed=a), explainer(X, seed=b), explainer(X, seed=a + b)
    np.testing.assert_allclose(one.C_w + two.C_w, both.C_w, atol=1e-5)
    assert both.complete
    assert (both.target == -1).all()
    for seed, error, message in (
        (None, TargetError, "give a seed"),
        (a[:, :2], FeedError, "wants shape"),
        (["a"], FeedError, "seed must be numbers"),
        (np.full((5, 3), np.nan), FeedError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            explainer(X, seed=seed)
    with pytest.raises(TargetError, match="no seed input"):
        Explainer(hand.linear())(X, seed=a)


# -- the explanation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_linear_model_is_its_own_explanation(dtype: str) -> None:
    x = X.astype(dtype)
    found = Explainer(hand.linear(dtype=dtype))(x)
    best = logits(x).argmax(axis=1)
    tolerance = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_array_equal(found.target, best)
    np.testing.assert_allclose(found.C_w, hand.W.T[best], rtol=tolerance)
    np.testing.assert_allclose(found.C_b, hand.B[best][:, None], rtol=tolerance)
    np.testing.assert_allclose(found.outputs["Z"], logits(x), atol=tolerance * 10)
    np.testing.assert_array_equal(found.X, x)
    np.testing.assert_allclose(found.C.sum(axis=1) + found.residual, found.score)
    assert found.complete
    assert not found.ill_conditioned
    magnitude = (np.abs(hand.W.T[best] * x).sum(axis=1) + np.abs(hand.B[best])) / np.maximum(1, np.abs(found.score))
    np.testing.assert_allclose(found.condition, magnitude, rtol=1e-2)


def test_wrong_bias_is_found_out() -> None:
    found = Explainer(hand.linear(wrong=0.01))(X)
    np.testing.assert_allclose(found.residual, -0.01, atol=1e-5)
    assert not found.complete


def test_relu_network_is_complete_at_every_target() -> None:
    found = Explainer(hand.relu_image("top", k=3))(IMAGES)
    assert found.C_w.shape == (3, 3, 1, 6, 6)
    assert found.complete
    np.testing.assert_allclose(found.score, np.sort(found.outputs["Z"], axis=1)[:, ::-1], rtol=1e-6)


def test_rows_that_interact_are_summed() -> None:
    found = Explainer(hand.linear(rows=False))(X)
    assert np.shape(found.residual) == ()
    assert found.complete
    np.testing.assert_allclose(found.sums.y, found.score.sum(), rtol=1e-6)
    assert Explainer(hand.linear(rows=False))(X[:1]).residual.shape == (1,)
    with pytest.raises(FeedError, match="rows of this model interact"):
        Explainer(hand.linear(rows=False))(X, batch_size=2)


def test_several_explained_inputs_are_dictionaries() -> None:
    feeds = {"a": X, "b": RNG.normal(size=(5, hand.HIDDEN)).astype(np.float32)}
    found = Explainer(hand.two_inputs())(feeds)
    assert set(found.C_w) == set(found.C_b) == set(found.C) == set(found.X) == {"a", "b"}
    assert found.complete
    assert found.heatmap(name="b").shape == (5,)
    with pytest.raises(NameNotFound, match="explained input 'c' is not in the model"):
        found.heatmap(name="c")


def test_embedded_tokens_come_with_their_values() -> None:
    found = Explainer(hand.text())(IDS)
    np.testing.assert_allclose(found.X, hand.TABLE[IDS], rtol=1e-6)
    assert found.complete
    assert found.heatmap().shape == (2, 4)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_a_batch_in_parts_is_the_batch(size: int) -> None:
    explainer = Explainer(hand.linear("input"))
    target = np.array([0, 1, 2, 1, 0])
    whole, parts = explainer(X, target=target), explainer(X, target=target, batch_size=size)
    for name in ("score", "target", "C_w", "C_b", "C", "X", "outputs.Z", "condition"):
        np.testing.assert_allclose(parts.arrays()[name], whole.arrays()[name], rtol=1e-5)
    with pytest.raises(FeedError, match="at least 1"):
        explainer(X, target=target, batch_size=0)


def test_heatmaps() -> None:
    found = Explainer(hand.relu_image("top", k=2))(IMAGES)
    for k in (0, 1):
        total, x, b = (found.heatmap(kind, k=k) for kind in ("C", "C_w*X", "C_b"))  # type: ignore[arg-type]
        assert total.shape == (3, 6, 6)
        np.testing.assert_allclose(total, x + b)
        np.testing.assert_allclose(total.sum(axis=(1, 2)), found.score[:, k], rtol=1e-5)
    assert np.abs(found.heatmap(normalise=True)).max(axis=(1, 2)) == pytest.approx(1)
    with pytest.raises(OmennError, match="target number 2"):
        found.heatmap(k=2)
    with pytest.raises(NameNotFound, match="map 'D'"):
        found.heatmap("D")  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", ["zero", "mean", 0.5, RNG.normal(size=4), X[::-1], {"x": X[0]}])
def test_relative_to_another_input(baseline: Any) -> None:
    found = Explainer(hand.linear())(X)
    relative = found.relative_to(baseline)
    value = baseline["x"] if isinstance(baseline, dict) else baseline
    origin = {"zero": 0.0, "mean": X.mean(axis=0)}[value] if isinstance(value, str) else value
    origin = np.broadcast_to(origin, X.shape)
    np.testing.assert_allclose(relative.contribution(), found.C_w * (X - origin), atol=1e-6)
    np.testing.assert_allclose(relative.base, (found.C_w * origin).sum(axis=1) + found.C_b[:, 0], atol=1e-6)
    np.testing.assert_allclose(relative.contribution().sum(axis=1) + relative.base, found.score, atol=1e-5)
    np.testing.assert_allclose(relative.maps().total, found.C, atol=1e-6)
    np.testing.assert_allclose(relative.maps("x").view("C_b"), relative.base, atol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [("median", "not known"), (np.zeros(3), "does not fit"), (["a"], "array of numbers"), (np.nan, "NaN or Inf")],
)
def test_wrong_baselines(baseline: Any, message: str) -> None:
    with pytest.raises(OmennError, match=message):
        Explainer(hand.linear())(X).relative_to(baseline)


def test_save_is_whole_or_not_at_all(tmp_path: Path) -> None:
    found = Explainer(hand.linear())(X)
    path = found.save(tmp_path / "e")
    assert path == tmp_path / "e.npz"
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["C_w"], found.C_w)
        np.testing.assert_array_equal(saved["outputs.Z"], found.outputs["Z"])
        assert json.loads(str(saved["about"]))["rules"] == "secant"
    with pytest.raises(RuntimeError, match="half way"), whole_file(tmp_path / "f"):
        raise RuntimeError("half way")
    with pytest.raises(FileNotFoundError):
        save_arrays(tmp_path / "no" / "e.npz", {})
    assert os.listdir(tmp_path) == ["e.npz"]


def test_to_shap(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Explainer(hand.linear("top", k=2))(X)
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(OmennError, match="pip install shap"):
        found.to_shap()
    fake = types.ModuleType("shap")
    fake.Explanation = lambda **given: types.SimpleNamespace(**given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shap", fake)
    made = found.to_shap(feature_names=list("abcd"))
    assert made.values.shape == (5, 4, 2)
    np.testing.assert_allclose(made.values.sum(axis=1) + made.base_values, found.score, rtol=1e-5)
    with pytest.raises(OmennError, match="do not interact"):
        Explainer(hand.linear(rows=False))(X).to_shap()


def test_predictions() -> None:
    found = Explainer(hand.linear(tail="Softmax"))(X)
    best = logits(X).argmax(axis=1)
    names = ["cat", "dog", "cow"]
    assert [p.split(" ")[0] for p in predictions(found, names)] == [names[i] for i in best]
    assert all("(p 0." in p or "(p 1." in p for p in predictions(found))


# -- sums ------------------------------------------------------------------------------------------------------------


def test_sums_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, C_w = RNG.normal(size=(7, 3, 4)), RNG.normal(size=(7, 2, 3, 4))
    C_b, score = RNG.normal(size=(7, 2, 1, 4)), np.zeros((7, 2))
    monkeypatch.setattr("omenn_onnx.runtime.sums.BLOCK", 30)
    sums = sums_of([(x, C_w, C_b)], score, rows=True)
    np.testing.assert_allclose(sums.x, np.einsum("nct,nkct->nk", x, C_w))
    np.testing.assert_allclose(sums.abs_x, np.einsum("nct,nkct->nk", np.abs(x), np.abs(C_w)))
    np.testing.assert_allclose(sums.b, C_b.sum(axis=(2, 3)))
    total = sums_of([(x, C_w, C_b)], score, rows=False)
    np.testing.assert_allclose(total.x, sums.x.sum(axis=0))
    np.testing.assert_allclose(channel_sum(C_w, x, 1), (x[:, None] * C_w).sum(axis=2, keepdims=True))


def test_sums_without_a_batch_axis() -> None:
    x, C_w = RNG.normal(size=(3, 4)), RNG.normal(size=(2, 3, 4))  # two targets in front
    assert target_axis(C_w, x) == 0
    sums = sums_of([(x, C_w, C_w[:, :1])], np.zeros((1, 2)), rows=False)
    np.testing.assert_allclose(sums.x, np.einsum("ct,kct->k", x, C_w))
    scalar = sums_of([(np.array(2.0), np.array(3.0), np.array(1.0))], np.array(7.0), rows=True)
    assert (scalar.y, scalar.x, scalar.b) == (7, 6, 1)


# -- engines ---------------------------------------------------------------------------------------------------------


def test_reference_evaluator_gives_the_same() -> None:
    model = hand.relu_image()
    fast, slow = Explainer(model)(IMAGES), Explainer(model, engine=ReferenceEngine(model))(IMAGES)
    np.testing.assert_allclose(slow.C_w, fast.C_w, atol=1e-5)
    np.testing.assert_allclose(slow.score, fast.score, rtol=1e-5)
    assert slow.complete


def test_sequences_and_text_are_not_bound() -> None:
    text = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (string[N] s, float[N] x) => (string[N] t, seq(float[N]) q)'
        "{ t = Identity(s) q = SequenceConstruct(x, x) }"
    )
    engine = OrtEngine(text)
    found = engine.run({"s": np.array(["a", "b"], object), "x": np.ones(2, np.float32)})
    assert list(found["t"]) == ["a", "b"]
    assert len(found["q"]) == 2


# -- figures ---------------------------------------------------------------------------------------------------------


def texts(made: Any) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in made.findobj(Text))


@pytest.mark.parametrize(
    ("model", "feeds", "shown", "words"),
    [
        (hand.relu_image(), IMAGES, {"labels": ["cat", "dog", "cow"]}, ["input $X$", "C_w X", "C_b", "residual"]),
        (hand.relu_image("top", k=2, channels=3), np.repeat(IMAGES, 3, 1), {}, ["condition number", "score"]),
        (hand.linear(), X, {"feature_names": ["age", "b$d", "size", "tone"]}, ["age = ", r"b\$d = ", "biases"]),
        (hand.linear("top", k=3), X, {}, ["feature 3 = "]),
        (hand.text(), IDS, {"vocabulary": [f"w{i}" for i in range(9)]}, [f"w{IDS[0, 0]}", "C_b"]),
        (hand.text(), IDS, {}, [f"#{IDS[0, 0]}"]),
        (hand.text(), IDS, {"tokens": ["so", "it", "goes", "on"]}, ["goes"]),
    ],
)
def test_figures(tmp_path: Path, model: onnx.ModelProto, feeds: Any, shown: dict[str, Any], words: list[str]) -> None:
    found = Explainer(model)(feeds)
    path = tmp_path / "f.png"
    said = texts(found.plot(0, path, title="A title", **shown))
    assert path.read_bytes()[:4] == b"\x89PNG"
    for word in [*words, "A title"]:
        assert word in said


@pytest.mark.parametrize("spatial", [(20,), (9, 20), (4, 5, 6), (2, 2, 2, 2), ()])
@pytest.mark.parametrize("channels", [2, 8, 70])
def test_figures_of_every_rank(tmp_path: Path, spatial: tuple[int, ...], channels: int) -> None:
    found = Explainer(hand.linear())(X)
    shape = (5, channels, *spatial)
    from omenn_onnx.runtime.engines import Held

    found.feeds.held["x"] = Held(RNG.normal(size=shape))
    found.results.held |= {"C_w": Held(RNG.normal(size=shape)), "C_b": Held(RNG.normal(size=(5, 1, *spatial)))}
    found.plot(1, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_figure_of_a_baseline_and_an_ill_conditioned_row() -> None:
    found = Explainer(hand.linear())(X)
    said = texts(found.plot(baseline=found.relative_to("mean")))
    assert "C_w (X-X_0)" in said
    assert "base" in said
    found = Explainer(hand.linear("seed"))(X * np.float32(1e6), seed=np.tile([1, -1, 0], (5, 1)))
    assert "seed" in texts(found.plot())
    assert "does not add up" in texts(Explainer(hand.linear(wrong=1.0))(X).plot())
    loose = Explainer(hand.linear(rows=False))(X)
    assert "rows interact" in texts(loose.plot())


def test_figure_errors(tmp_path: Path) -> None:
    found = Explainer(hand.linear())(X)
    with pytest.raises(OmennError, match="row 5 does not exist: there are 5"):
        found.plot(5)
    with pytest.raises(OmennError, match="'xyz' cannot be written"):
        found.plot(0, tmp_path / "f.xyz")
    assert not list(tmp_path.iterdir())


def test_scale_is_symmetric_and_says_when_it_clips() -> None:
    scale, clipped = symmetric(np.array([-3.0, 1.0]))
    assert (scale.vmin, scale.vmax, clipped) == (-3.0, 3.0, False)
    scale, clipped = symmetric(np.r_[np.ones(5000), 100.0])
    assert clipped
    assert symmetric(np.zeros(3))[0].vmax == 1.0


def test_faint_maps_are_magnified_by_round_factors() -> None:
    scale, _ = symmetric(np.array([10.0]))
    for top, factor in ((10.0, 1), (3.0, 1), (2.0, 5), (0.03, 200), (0.0, 1)):
        assert magnification(np.array([top, -top / 2]), scale) == pytest.approx(factor)
    assert magnified("C_b", 200.0) == "C_b, colours × 200"


def test_small_supports_are_zoomed() -> None:
    values = np.zeros((40, 60))
    assert support(values) is None
    values[10:12, 20:22] = 1.0
    assert support(values) == (8, 14, 18, 24)
    values[30, 30] = 1.0
    assert support(values) is None


def test_padding_is_one_box() -> None:
    assert padding_start(["a", "b", "p", "p", "p"], 5) == (2, 3)
    assert padding_start(["a", "b", "p", "p"], 4) == (4, 4)
    assert padding_start(["p"] * 4, 4) == (0, 1)
    assert padding_start([], 4) == (4, 4)
    assert padding_start(["a"], 1) == (1, 1)


def test_token_ids_are_told_from_masks() -> None:
    found = Explainer(hand.text())(IDS)
    from omenn_onnx.runtime.engines import Held

    found.feeds.held["attention_mask"] = Held(np.ones_like(IDS))
    np.testing.assert_array_equal(ids_among(found.feeds, IDS.shape), IDS)
    assert ids_among(found.feeds, (9, 9)) is None
    assert target_name(2, ["a", "b", "c"]) == "2 (c)"
    assert target_name(-1, None) == "seed"


def test_contract_reader_needs_no_session() -> None:
    metadata = {p.key: p.value for p in hand.linear().metadata_props}
    assert read_contract(metadata, "it").inputs[0].channel_axis == 1
