"""The rotated squares and the parametric t-SNE of models/: their files, what the scripts of tools/ measure, and the
statements of docs/spectral that hold."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
sys.path.insert(0, str(ROOT / "tools"))

import reproduce_squares as squares  # noqa: E402
import reproduce_tsne as tsne  # noqa: E402
import spectral_squares  # noqa: E402
import spectral_tsne  # noqa: E402
import train_spectral  # noqa: E402
from export_models import ExportError  # noqa: E402
from spectral_networks import Trained, export, layer  # noqa: E402

from omenn_onnx.spectral.instances import Linearization  # noqa: E402

Array = NDArray[np.float64]
BAR = 1e-5
ROWS = 8
LAYERS = {
    "squares": ["encoder_1", "encoder_2", "bottleneck", "decoder_1", "decoder_2", "pixels"],
    "tsne": ["hidden_1", "hidden_2", "point"],
}


def affine(name: str, x: Array) -> tuple[Array, Array, Array]:
    """R, b and y of a network of models/ at one flat image, in front of the sigmoid: from its weights and the signs in
    front of its ReLUs, in float64."""
    weights = {
        i.name: numpy_helper.to_array(i).astype(np.float64)
        for i in onnx.load(MODELS / f"{name}.onnx").graph.initializer
    }
    r, b, value = np.eye(len(x)), np.zeros(len(x)), x
    for step in LAYERS[name.split("_")[0]]:
        relu = f"{step}.linear.weight" in weights
        part = f"{step}.linear" if relu else step
        w, c = weights[f"{part}.weight"], weights.get(f"{part}.bias", np.zeros(1))
        r, b, value = w @ r, w @ b + c, w @ value + c
        if relu:
            r, b, value = r * (value > 0)[:, None], b * (value > 0), value * (value > 0)
    return r, b, value


def kept(name: str) -> dict[str, NDArray[np.generic]]:
    with np.load(MODELS / f"{name}.npz") as data:
        return dict(data)


@functools.cache
def splits(name: str) -> list[squares.Split]:
    model = squares.linearised(name)
    return [squares.split(model, image) for image in kept(name)["image"][:ROWS]]


@functools.cache
def measured(name: str) -> dict[str, object]:
    return squares.measure(splits(name), kept(name)["angles"][:ROWS])


@functools.cache
def digits(name: str) -> list[tsne.Placed]:
    return tsne.placed(name)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", train_spectral.NAMES)
def test_files_belong_together(name: str) -> None:
    """The ONNX file is the one that NAME.json tells of, and takes the inputs of NAME.npz, in any number."""
    data = (MODELS / f"{name}.onnx").read_bytes()
    facts = json.loads((MODELS / f"{name}.json").read_text())
    assert hashlib.sha256(data).hexdigest() == facts["onnx"]["sha256"]
    inputs = onnx.load_from_string(data).graph.input
    for i in inputs:
        shape = [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        assert shape[0] == "batch"
        assert list(kept(name)[i.name].shape[1:]) == shape[1:]
    family = facts["command"].split()[-1]
    assert name in train_spectral.FAMILIES[family]


def test_the_table_is_the_networks() -> None:
    assert train_spectral.table(train_spectral.NAMES) in (MODELS / "README.md").read_text()


@pytest.mark.parametrize("name", [*spectral_squares.NETWORKS, *spectral_tsne.NETWORKS])
def test_tensors_have_the_names_of_the_layers(name: str) -> None:
    """A layer's name is that of its value, LAYER.linear that of what its ReLU gets."""
    graph = onnx.load(MODELS / f"{name}.onnx").graph
    made = {node.output[0]: node for node in graph.node}
    for step in LAYERS[name.split("_")[0]]:
        if made[step].op_type == "Relu":
            assert list(made[step].input) == [f"{step}.linear"]
    assert graph.node[-1].output[0] == graph.output[0].name
    if name == "squares_sigmoid":
        assert list(made["reconstruction"].input) == ["logits"]


def test_a_module_that_is_named_like_the_output_is_refused() -> None:
    """Two tensors of one name would be no ONNX file."""
    network = torch.nn.Sequential()
    network.add_module("out", layer(3, 2, True))
    network.add_module("last", torch.nn.Linear(2, 2))
    x = {"x": np.ones((3, 3), np.float32)}
    trained = Trained(network.eval(), x, ("out",), "", "", "", {}, 0, {})
    with pytest.raises(ExportError, match="a module within the network is called like an input or output: out"):
        export("clash", trained)


# --- data and loss --------------------------------------------------------------------------------------------------


def test_squares() -> None:
    """As large at every angle, upright at 0, the same again after a quarter turn; what is kept was never trained on."""
    images = spectral_squares.squares(np.array([0.0, 17.0, 45.0, 62.5, 107.0]))
    np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 32 * 32, rtol=5e-3)
    upright = np.zeros((64, 64))
    upright[16:48, 16:48] = 1
    np.testing.assert_array_equal(images[0, 0], upright)
    np.testing.assert_allclose(images[4], images[1], atol=1e-6)
    assert ((images > 0) & (images < 1)).sum(axis=(1, 2, 3))[1:].min() > 80  # anti-aliased edges
    train, held_out, angles = spectral_squares.data()
    for name in spectral_squares.NETWORKS:
        found = kept(name)
        np.testing.assert_array_equal(found["image"], held_out[: len(found["image"])])
        np.testing.assert_array_equal(found["angles"], angles[: len(found["angles"])])
    assert not {i.tobytes() for i in train} & {i.tobytes() for i in held_out}


def test_affinities() -> None:
    """P is symmetric, sums to 1, and its rows have the perplexity: checked row by row, in plain numpy."""
    print("seed 3")
    x = np.random.default_rng(3).standard_normal((40, 5)) * np.linspace(0.1, 4, 40)[:, None]
    p = spectral_tsne.affinities(torch.from_numpy(x), 7.0).numpy()
    np.testing.assert_allclose(p, p.T)
    np.testing.assert_allclose(p.sum(), 1)
    assert np.all(np.diag(p) == 0)
    expected = np.zeros_like(p)
    for i in range(40):
        distances = np.delete(((x - x[i]) ** 2).sum(axis=1), i)

        def entropy(beta: float, distances: Array = distances) -> tuple[float, Array]:
            q = np.exp(-beta * (distances - distances.min()))
            q /= q.sum()
            return float(-(q[q > 0] * np.log(q[q > 0])).sum()), q

        low, high = 1e-8, 1e6
        for _ in range(200):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if entropy(middle)[0] > np.log(7.0) else (low, middle)
        expected[i, np.arange(40) != i] = entropy(low)[1]
    np.testing.assert_allclose(p, (expected + expected.T) / 80, atol=1e-9)


def test_too_few_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="a perplexity of 30 needs more than 31 rows, not 12"):
        spectral_tsne.affinities(torch.zeros(12, 3), 30.0)


def test_divergence() -> None:
    """KL(P || Q), pair by pair; zero for points whose Q is P."""
    print("seed 4")
    random = np.random.default_rng(4)
    points = random.standard_normal((9, 2))
    q = np.array([[0 if i == j else 1 / (1 + ((a - b) ** 2).sum()) for j, b in enumerate(points)]
                  for i, a in enumerate(points)])  # fmt: skip
    q /= q.sum()
    p = spectral_tsne.affinities(torch.from_numpy(random.standard_normal((9, 4))), 3.0)
    expected = sum(float(p[i, j]) * np.log(float(p[i, j]) / q[i, j]) for i in range(9) for j in range(9) if i != j)
    assert float(spectral_tsne.divergence(p, torch.from_numpy(points))) == pytest.approx(float(expected))
    assert float(spectral_tsne.divergence(torch.from_numpy(q), torch.from_numpy(points))) == pytest.approx(0, abs=1e-12)


# --- rotated squares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spectral_squares.NETWORKS)
def test_the_operator_is_the_masked_weights(name: str) -> None:
    """R and b of an image against the product of the weights in float64; behind the sigmoid, with its slope."""
    image = kept(name)["image"][1]
    op = squares.linearised(name).at({"image": image[None]}).operator()
    r, b, y = affine(name, image.astype(np.float64).ravel())
    if name == "squares_sigmoid":
        p = 1 / (1 + np.exp(-y))
        slope = p * (1 - p)
        r, b, y = slope[:, None] * r, p - slope * (y - b), p
    np.testing.assert_allclose(op.dense(), r, atol=2e-5 * np.abs(r).max())
    np.testing.assert_allclose(op.bias, b, atol=2e-5 * np.abs(y).max())
    np.testing.assert_allclose(op.y, y, atol=2e-5 * np.abs(y).max())


@pytest.mark.parametrize("name", spectral_squares.NETWORKS)
def test_components_and_bias_add_up(name: str) -> None:
    """y = sum alpha + b; the triplets of the Krylov iteration are those of the factors through the bottleneck."""
    for s in splits(name):
        assert s.residual <= BAR
        first = s.spectrum[0]
        np.testing.assert_allclose(
            np.sort(s.triplets.s)[::-1], s.spectrum[: len(s.triplets)], rtol=1e-4, atol=1e-6 * first
        )
        assert np.all(s.triplets.converged | (s.triplets.s < 1e-2 * first))  # smaller ones are near float32's rounding
        if name == "squares":
            assert not s.bias.any()


def test_reconstructions() -> None:
    """The kept images come back, the networks with biases no worse."""
    for name, least in (("squares", 0.05), ("squares_bias", 0.05), ("squares_sigmoid", 0.05)):
        assert max(squares.norm(s.y - s.x) / squares.norm(s.x) for s in splits(name)) < least, name


def test_the_operators_spectrum_decays_faster() -> None:
    """Than that of the images less their mean, from the first value on; than that of the images in the end."""
    one = "values of at least 1 % of the largest"
    data = {name: squares.spectrum_facts(s) for name, s in squares.data_spectra(256).items()}
    for name in spectral_squares.NETWORKS:
        found = measured(name)["spectrum"]
        for values, expected in zip(found["s_k / s_1"], data["images less their mean"]["s_k / s_1"], strict=True):
            assert values <= expected, name
        for spectrum in data.values():
            assert found[one] <= 5 < 15 < spectrum[one]


@pytest.mark.parametrize("name", spectral_squares.NETWORKS)
def test_a_few_components_carry_the_reconstruction(name: str) -> None:
    """Three leave at most a tenth of it on the median image, which is what no component leaves only with a sigmoid."""
    missing = measured(name)["missing after b and k components"]
    assert missing[3] <= 0.1
    assert (missing[0] > 0.5) == (name != "squares_sigmoid")


def test_what_biases_carry() -> None:
    """Through the sigmoid the bulk, and components correct edges; behind a linear layer neither."""
    linear, sigmoid = measured("squares_bias"), measured("squares_sigmoid")
    assert sigmoid["|b| / |y|"] > 0.9 > 0.2 > sigmoid["|R x| / |y|"]
    assert sigmoid["share of |R x|^2 at the edge"] > 0.95
    assert linear["|b| / |y|"] < 0.4 < 0.8 < linear["|R x| / |y|"]
    assert linear["share of |R x|^2 at the edge"] < 0.5


def test_the_share_at_the_edge() -> None:
    """Of an even image the share of its area: the frame between squares of 38 and 26 pixels."""
    assert squares.at_the_edge(np.ones(4096), 0.0) == pytest.approx((38**2 - 26**2) / 4096)
    assert squares.at_the_edge(np.ones(4096), 45.0) == pytest.approx((38**2 - 26**2) / 4096, rel=0.1)


def test_the_page_tells_what_is_stored() -> None:
    """The statements in docs/spectral/squares.json follow from the numbers beside them, and these from the networks."""
    page = json.loads((squares.DOCS / "squares.json").read_text())
    assert squares.statements(page["measured"]) == page["statements"]
    assert {s["holds"] for s in page["statements"]} == {True, False}
    told = {**page["measured"], **json.loads((tsne.DOCS / "tsne.json").read_text())}
    for name in (*spectral_squares.NETWORKS, *spectral_tsne.NETWORKS):
        assert told[name]["onnx"] == hashlib.sha256((MODELS / f"{name}.onnx").read_bytes()).hexdigest(), name


# --- parametric t-SNE -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spectral_tsne.NETWORKS)
def test_contributions_add_up_to_the_coordinates(name: str) -> None:
    """point = sum of the contributions + b on every kept digit, b = 0 without biases; W against the masked weights."""
    for d in digits(name):
        assert d.residual <= BAR
        assert d.b.any() == (name == "tsne_bias")
    d = digits(name)[5]
    w, b, point = affine(name, d.x)
    np.testing.assert_allclose(d.w, w, atol=1e-5 * np.abs(w).max())
    np.testing.assert_allclose(d.b, b, atol=1e-5 * np.abs(point).max())


@pytest.mark.parametrize("name", spectral_tsne.NETWORKS)
def test_a_pixel_moves_the_point_as_its_column_says(name: str) -> None:
    """The network itself, run with one pixel a little brighter, within the same linear region."""
    model = Linearization(MODELS / f"{name}.onnx")
    d, step = digits(name)[2], 1e-3
    for pixel in (70, 120, 200):
        x = d.x.copy()
        x[pixel] += step
        moved = model.at({"image": x.reshape(1, 1, 16, 16).astype(np.float32)}).value("point").ravel() - d.point
        np.testing.assert_allclose(moved / step, d.w[:, pixel], atol=2e-2 * np.abs(d.w).max())


@pytest.mark.parametrize("name", spectral_tsne.NETWORKS)
def test_digits_of_a_class_lie_together(name: str) -> None:
    """The nearest other kept digit is of the same class for most; by chance it were a tenth."""
    points = np.array([d.point for d in digits(name)])
    labels = np.array([d.label for d in digits(name)])
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.7
