"""Components dropped or kept: the affine model against matrices, the rerun against an edited network, the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from small_spectral import Perceptron, bypassed
from test_recurrent import network as recurrent

from omenn_onnx.errors import NameNotFound, OutputExists, SpectrumError, TargetError
from omenn_onnx.spectral.full import full_spectrum
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.surgery import Surgery
from omenn_onnx.spectral.svd import Triplets, triplets

MODELS = Path(__file__).resolve().parents[1] / "models"
Array = np.ndarray[Any, Any]


def digit(row: int = 5) -> Instance:
    with np.load(MODELS / "digits_cnn.npz") as data:
        return Linearization(str(MODELS / "digits_cnn.onnx")).at(data["image"][row : row + 1])


def surgery_of(instance: Instance, layer: str, seed: Any = None, **ends: Any) -> Surgery:
    found = full_spectrum(instance.operator(ends.get("source"), layer))
    return Surgery(instance, layer, found, seed=seed, **ends)


def edited(model: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """The model with everything that reads ``layer`` reading a further input instead."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for node in made.graph.node:
        for i, name in enumerate(node.input):
            if name == layer:
                node.input[i] = "edited"
    made.graph.input.append(onnx.helper.make_tensor_value_info("edited", 1, None))
    return made


def run(model: onnx.ModelProto | bytes | str, feeds: dict[str, Array]) -> list[Array]:
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_against_matrices(seed: int) -> None:
    """Both ways with every product in numpy, for a network of two hidden layers."""
    net = Perceptron(seed)
    x = np.random.default_rng(seed + 20).normal(size=5).astype(np.float32)
    D = [np.diag(m.astype(np.float64)) for m in net.masks(x)]
    R, L = net.W[1] @ D[0] @ net.W[0].astype(np.float64), net.W[2] @ D[1]
    u, s, vt = np.linalg.svd(R)
    cut = surgery_of(Linearization(net.model).at(x[None]), "a1", seed=1)
    assert [c.s for c in cut.components] == pytest.approx(s[: len(cut.components)], rel=1e-5)
    alpha = (L @ u[:, :5]) * (s[:, None] * vt @ x[:, None]).T
    np.testing.assert_allclose(cut.contributions.alpha, alpha[:, : len(cut.components)], atol=1e-5)
    h = net.preactivations(x)[0][1]
    y = net.W[2] @ np.maximum(h, 0) + net.b[2]
    for dropped in ([0], [1, 2], [0, 2]):
        made = cut.drop(dropped)
        gone = sum(s[k] * u[:, k] * (vt[k] @ x) for k in dropped)
        np.testing.assert_allclose(made.linear[0], y - alpha[:, dropped].sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(made.edited[0], h - gone, atol=1e-5)
        np.testing.assert_allclose(made.rerun()[0], net.W[2] @ np.maximum(h - gone, 0) + net.b[2], atol=1e-5)
        kept = cut.keep([k for k in range(len(cut.components)) if k not in dropped])
        np.testing.assert_allclose(kept.linear, made.linear, atol=1e-5)
        np.testing.assert_allclose(kept.rerun(), made.rerun(), atol=1e-5)


@pytest.mark.parametrize("layer", ["mean", "relu_4", "conv2d_6"])
def test_a_trained_network(layer: str) -> None:
    """Nothing dropped is the network; what is dropped and what is kept are one; a rerun is the edited network's, also
    beside a residual connection (conv2d_6), where the other path stays as it is."""
    instance = digit()
    cut = surgery_of(instance, layer, seed=0)
    nothing = cut.drop([])
    np.testing.assert_allclose(nothing.linear, nothing.y, atol=1e-5)
    np.testing.assert_allclose(nothing.rerun(), nothing.y, atol=1e-5)
    half = cut.leading(0.5)
    made = cut.drop(half)
    assert np.abs(made.linear - made.y).max() > 1e-2
    model = onnx.load(MODELS / "digits_cnn.onnx")
    feeds = {"image": instance.feeds["image"], "edited": made.edited}
    np.testing.assert_allclose(made.rerun(), run(edited(model, layer), feeds)[0], atol=1e-5)
    both = made.rerun("logits", layer)
    np.testing.assert_array_equal(both[layer], made.edited)
    np.testing.assert_array_equal(both["logits"], made.rerun())


def test_choices() -> None:
    """By index, by share, by a predicate; shares and contributions of a seed and of the whole target."""
    cut = surgery_of(digit(), "mean", seed=3)
    shares = np.array([c.share for c in cut.components])
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose([c.contribution for c in cut.components], cut.contributions.alpha[3], rtol=1e-6)
    order = np.argsort(-shares)
    assert cut.leading(0) == ()
    assert shares[list(cut.leading(1))].sum() == pytest.approx(1)
    leading = cut.leading(0.8)
    assert list(leading) == list(order[: len(leading)])
    assert shares[list(leading)].sum() >= 0.8 > shares[list(leading[:-1])].sum()
    assert cut.drop(lambda c: c.contribution < 0).indices == tuple(np.flatnonzero(cut.contributions.alpha[3] < 0))
    assert cut.drop(4).indices == (4,)
    assert cut.keep([2, 0, 2]).indices == (0, 2)
    whole = surgery_of(digit(), "mean")
    np.testing.assert_allclose(
        [c.contribution for c in whole.components], np.linalg.norm(whole.contributions.alpha, axis=0), rtol=1e-6
    )


def test_some_triplets_are_enough() -> None:
    """With a few of the triplets: dropping leaves what they do not hold, keeping does not; both exact in themselves."""
    instance = digit()
    op = instance.operator(None, "mean")
    few, full = Surgery(instance, "mean", triplets(op, 5, seed=1)), surgery_of(instance, "mean")
    np.testing.assert_allclose(few.drop([0, 2]).linear, full.drop([0, 2]).linear, atol=1e-4)
    np.testing.assert_allclose(few.keep([0, 2]).linear, full.keep([0, 2]).linear, atol=1e-4)
    assert np.abs(few.keep(range(5)).linear - few.drop([]).y).max() > 1e-2, "the rest of the spectrum is gone"
    np.testing.assert_allclose(few.drop(range(5)).linear, full.keep(range(5, len(full.components))).linear, atol=1e-4)


@pytest.mark.parametrize("layer", ["relu_4", "conv2d_6"])
@pytest.mark.parametrize("how", ["drop", "keep"])
def test_export(tmp_path: Path, how: str, layer: str) -> None:
    """The pruned model is plain, valid and affine: y' at x, and L (I - P) R its change."""
    instance = digit()
    cut = surgery_of(instance, layer, seed=0)
    made = getattr(cut, how)([0, 3, 7])
    path = tmp_path / "pruned.onnx"
    made.export(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx"}
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
    said = {p.key: p.value for p in model.metadata_props}
    assert json.loads(said[f"omenn.spectral.{'dropped' if how == 'drop' else 'kept'}"]) == [0, 3, 7]
    assert said["omenn.spectral.layer"] == layer
    assert "at one input" in said["omenn.spectral.holds"]
    x = instance.feeds["image"]
    np.testing.assert_allclose(run(str(path), {"image": x})[0], made.linear, atol=2e-5)
    other = onnx.reference.ReferenceEvaluator(model).run(None, {"image": x})[0]
    np.testing.assert_allclose(other, made.linear, atol=2e-5)
    step = np.random.default_rng(4).normal(size=x.shape).astype(np.float32)
    basis = cut.u[:, [0, 3, 7]]
    image = cut.right.matvec(step.reshape(-1)).astype(np.float64)
    gone = basis @ (basis.T @ image) if how == "drop" else image - basis @ (basis.T @ image)
    change = cut.whole.matvec(step.reshape(-1)) - cut.left.matvec(gone)
    moved = run(str(path), {"image": x + step})[0] - run(str(path), {"image": x})[0]
    np.testing.assert_allclose(moved.reshape(-1), change, atol=1e-4 * np.abs(change).max())


def test_export_is_the_network_in_its_region(tmp_path: Path) -> None:
    net = Perceptron(1)
    x = np.random.default_rng(30).normal(size=(1, 5)).astype(np.float32)
    near, far = x + np.float32(1e-3), x + np.float32(5)
    made = surgery_of(Linearization(net.model).at(x), "a1").drop([])
    path = str(tmp_path / "all.onnx")
    made.export(path)
    np.testing.assert_allclose(run(path, {"x": near})[0], run(net.model, {"x": near})[0], atol=1e-5)
    assert np.abs(run(path, {"x": far})[0] - run(net.model, {"x": far})[0]).max() > 1e-2


def test_export_of_a_recurrence(tmp_path: Path) -> None:
    """A frozen Scan, with what it reads stored beside it."""
    proto, feeds = recurrent("LSTM", bias=True)
    instance = Linearization(proto, inputs="x").at(feeds)
    made = surgery_of(instance, "q").drop(range(3))
    made.export(tmp_path / "lstm.onnx")
    np.testing.assert_allclose(run(str(tmp_path / "lstm.onnx"), {"x": feeds["x"]})[0], made.linear, atol=1e-5)


def test_from_an_embedding(tmp_path: Path) -> None:
    """Token ids: the source is the word embedding, and so is the input of the exported model."""
    made = Linearization(str(MODELS / "grammar_text.onnx"))
    with np.load(MODELS / "grammar_text.npz") as data:
        instance = made.at({i.name: data[i.name][:1] for i in made.inputs})
    found = triplets(instance.operator(None, "add_79"), 4, seed=0)
    cut = Surgery(instance, "add_79", found, seed=0).drop([0, 1])
    np.testing.assert_allclose(Surgery(instance, "add_79", found).drop([]).rerun(), cut.y, atol=1e-5)
    cut.export(tmp_path / "text.onnx")
    embedded = {instance.source: instance.value(instance.source)}
    np.testing.assert_allclose(run(str(tmp_path / "text.onnx"), embedded)[0], cut.linear, atol=1e-5)


def test_half_precision() -> None:
    """A network of halves is pruned to the bar of halves."""
    made = onnx.ModelProto.FromString(Perceptron(0).model.SerializeToString())
    for t in made.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16), t.name))
    for v in (*made.graph.input, *made.graph.output):
        v.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cut = surgery_of(Linearization(made).at(np.full((1, 5), 0.3, np.float16)), "a1").drop([0])
    assert np.abs(cut.linear - cut.y).max() > 0.1
    x = np.full((1, 5), np.float16(0.3), np.float32)
    np.testing.assert_allclose(run(cut.model(), {"x": x})[0], cut.linear, atol=1e-3)
    assert cut.rerun().dtype == np.float16


def test_only_the_path_through_the_layer_is_cut() -> None:
    """Beside a residual connection everything can be dropped, and x still comes through."""
    x = np.random.default_rng(2).normal(size=(1, 4)).astype(np.float32)
    instance = Linearization(bypassed()).at(x)
    cut = surgery_of(instance, "r")
    made = cut.keep([])
    h = instance.value("r").reshape(-1) - cut.right.matvec(x.reshape(-1))
    np.testing.assert_allclose(made.edited[0], h, atol=1e-6)
    np.testing.assert_allclose(made.rerun("s")[0], h + x[0], atol=1e-6)
    model = made.model()
    other = x + np.float32(0.25)
    expected = made.linear + (cut.whole.matvec(np.full(4, 0.25)) - cut.left.matvec(cut.right.matvec(np.full(4, 0.25))))
    np.testing.assert_allclose(run(model, {"x": other})[0], expected, atol=1e-5)


def test_existing_file_is_kept(tmp_path: Path) -> None:
    made = surgery_of(Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32)), "h0").drop([0])
    path = tmp_path / "p.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExists, match="exists already"):
        made.export(path)
    assert path.read_bytes() == b"mine"
    made.export(path, force=True)
    onnx.checker.check_model(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["p.onnx"], "nothing else is left"


def test_bad_input() -> None:
    instance = Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32))
    cut = surgery_of(instance, "h0")
    count = len(cut.components)
    for wrong in (count, -1, [0, count], [0.5], True):
        with pytest.raises(SpectrumError, match=f"is not there: {count} are at hand, 0 to {count - 1}"):
            cut.drop(wrong)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(SpectrumError, match="a share lies between 0 and 1"):
            cut.leading(share)
    with pytest.raises(SpectrumError, match=r"the triplets are those of a 7 x 5 operator; 'x' -> 'h1' is 6 x 5"):
        Surgery(instance, "h1", cut.triplets)
    t = cut.triplets
    with pytest.raises(SpectrumError, match="NaN"):
        Surgery(instance, "h0", Triplets(t.u * np.nan, t.s, t.v, t.residuals, t.tolerance, 0))
    with pytest.raises(TargetError, match="index 9 is out of range"):
        Surgery(instance, "h0", t, seed=9)
    with pytest.raises(NameNotFound, match="'h7'"):
        Surgery(instance, "h7", t)
    with pytest.raises(NameNotFound, match="'probabilities' is not in the model"):
        cut.drop([0]).rerun("probabilities")
