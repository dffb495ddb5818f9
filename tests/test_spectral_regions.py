"""Linear regions: borders against those worked out unit by unit in float64, and what is told where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_spectral import Perceptron, bypassed, model
from torch.nn import functional as F

from omenn_onnx.errors import OperatorError
from omenn_onnx.spectral.instances import Linearization
from omenn_onnx.spectral.regions import Surroundings, change

MODELS = Path(__file__).resolve().parents[1] / "models"
Array = np.ndarray[Any, Any]


def first_border(values: list[Array], slopes: list[Array]) -> tuple[float, int, int]:
    """The least t > 0 with v + t s = 0 for some unit, and where it stands."""
    t = [np.where(-v / s > 0, -v / s, np.inf) for v, s in zip(values, slopes, strict=True)]
    layer = int(np.argmin([x.min() for x in t]))
    return float(t[layer].min()), layer, int(t[layer].argmin())


@pytest.mark.parametrize("seed", range(4))
def test_perceptron(seed: int) -> None:
    """Along a direction the first border is the first preactivation to change its sign: distance, node and number, the
    change of the operator, and the affine map up to there."""
    net, random = Perceptron(seed), np.random.default_rng(seed + 40)
    x, d = random.normal(size=5).astype(np.float32), random.normal(size=5)
    d /= np.linalg.norm(d)
    around = Surroundings(Linearization(net.model).at(x[None]))
    assert around.piecewise
    assert around.smooth == ()
    values, jacobians = net.preactivations(x)
    t, layer, _ = first_border(values, [J @ d for J in jacobians])
    found = around.crossing(7 * d, limit=1e3)
    assert found is not None
    assert found.t == pytest.approx(t, rel=1e-4)
    assert found.t_before < found.t
    assert found.switched == {f"node_h{layer}": 1}
    assert found.deviation < 1e-5
    behind = Surroundings(Linearization(net.model).at((x + 1.001 * t * d).astype(np.float32)[None])).operator
    here = around.operator.dense()
    assert found.change == pytest.approx(np.linalg.norm(behind.dense() - here) / np.linalg.norm(here), rel=1e-3)


def test_borders_one_after_the_other() -> None:
    """Every border on a line, each found from the region in front of it."""
    net, random = Perceptron(0), np.random.default_rng(5)
    x, d = random.normal(size=5).astype(np.float32), random.normal(size=5)
    d /= np.linalg.norm(d)
    found = Surroundings(Linearization(net.model).at(x[None])).crossings(d, limit=4.0, most=50)
    dense = np.linspace(0, 4.0, 40_001)
    masks = np.array([np.concatenate(net.masks(x + t * d)) for t in dense])
    steps = dense[1:][np.any(masks[1:] != masks[:-1], axis=1)]
    assert len(found) == len(steps) > 3
    np.testing.assert_allclose([c.t for c in found], steps, atol=2e-4)
    assert all(c.deviation < 1e-5 for c in found)


WEIGHTS = {
    "K": np.random.default_rng(0).normal(size=(3, 1, 3)).astype(np.float32),
    "k": np.random.default_rng(1).normal(size=3).astype(np.float32),
    "G": np.random.default_rng(2).normal(size=(6, 15)).astype(np.float32),
    "g": np.random.default_rng(3).normal(size=6).astype(np.float32),
    "H": np.random.default_rng(4).normal(size=(2, 6)).astype(np.float32),
    "low": np.array(-1.0, np.float32),
    "high": np.array(2.0, np.float32),
}
PIECES = model(
    """
    c = Conv (x, K, k)
    r = LeakyRelu <alpha = 0.1> (c)
    p = MaxPool <kernel_shape = [2], strides = [2]> (r)
    f = Flatten (p)
    a = Gemm <transB = 1> (f, G, g)
    b = Clip (a, low, high)
    z = Gemm <transB = 1> (b, H)
    """,
    WEIGHTS,
    {"x": ["N", 1, 12]},
    {"z": ["N", 2]},
)


@pytest.mark.parametrize("seed", range(4))
def test_pools_and_clips(seed: int) -> None:
    """LeakyRelu, the winners of a MaxPool and both ends of a Clip, against the exact borders, from torch in float64."""
    random = np.random.default_rng(seed + 60)
    x, d = random.normal(size=12).astype(np.float32), random.normal(size=12)
    d /= np.linalg.norm(d)
    w = {n: torch.from_numpy(v.astype(np.float64)) for n, v in WEIGHTS.items()}

    def kinks(v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c = F.conv1d(v.reshape(1, 1, -1), w["K"], w["k"])
        r = F.leaky_relu(c, 0.1)
        a = F.max_pool1d(r, 2).flatten(1) @ w["G"].T + w["g"]
        return c.flatten(), (r[..., 0::2] - r[..., 1::2]).flatten(), a.flatten() + 1, a.flatten() - 2

    start, way = torch.from_numpy(x.astype(np.float64)), torch.from_numpy(d)
    jacobians = torch.autograd.functional.jacobian(kinks, start)
    t, kind, _ = first_border([v.numpy() for v in kinks(start)], [(J @ way).numpy() for J in jacobians])
    found = Surroundings(Linearization(PIECES).at(x[None, None])).crossing(d, limit=100.0)
    assert found is not None
    assert found.t == pytest.approx(t, rel=1e-3, abs=1e-6)
    assert set(found.switched) == {("node_r", "node_p", "node_b", "node_b")[kind]}
    assert found.deviation < 1e-5


def test_random_directions() -> None:
    """Distances along random directions are those one by one; seeds fix them; the nearest is the least."""
    with np.load(MODELS / "digits_cnn.npz") as data:
        around = Surroundings(Linearization(str(MODELS / "digits_cnn.onnx")).at(data["image"][:1]))
    found = around.distances(12, seed=3)
    again = around.distances(12, seed=3)
    np.testing.assert_array_equal(found.t, again.t)
    assert found.nearest == found.t.min()
    assert found.median == np.median(found.t)
    assert 0 < found.nearest < found.median < found.limit
    ways = np.random.default_rng(3).normal(size=(12, 256))
    one = around.crossing(ways[4])
    assert one is not None
    assert found.t[4] == one.t
    assert found.nodes[4] == tuple(one.switched)
    assert 0 < one.change < 2
    np.testing.assert_array_equal(around.distances(ways[3:5]).t, found.t[3:5])


def test_an_input_on_a_border() -> None:
    """Equal values in a window of a pool: x itself lies on a border, which its numbers cannot be told from."""
    made = model("p = MaxPool <kernel_shape = [2], strides = [2]> (x)", {}, {"x": [1, 1, 4]}, {"p": [1, 1, 2]})
    around = Surroundings(Linearization(made).at(np.ones((1, 1, 4), np.float32)))
    found = around.crossing(np.array([0.0, 1.0, 0.0, 0.0]))
    assert found is not None
    assert found.t_before == 0
    assert found.t < 1e-6
    assert found.switched == {"node_p": 1}
    assert found.change == pytest.approx(1.0)
    assert around.crossing(np.array([1.0, 0.0, 1.0, 0.0])) is None


def test_a_linear_network_has_no_borders() -> None:
    made = model("z = MatMul(x, A)", {"A": np.eye(3, dtype=np.float32)}, {"x": [1, 3]}, {"z": [1, 3]})
    around = Surroundings(Linearization(made).at(np.ones((1, 3), np.float32)))
    assert around.piecewise
    assert around.crossing(np.ones(3)) is None
    assert np.isinf(around.distances(3).t).all()
    np.testing.assert_array_equal(around.profile(np.ones(3), 4).change, 0)


def test_smooth_networks_have_no_regions() -> None:
    """Said so, naming what is smooth; the operator of tanh(x) changes as its derivative does."""
    made = model("z = Tanh(x)", {}, {"x": [1, 1]}, {"z": [1, 1]})
    around = Surroundings(Linearization(made).at(np.full((1, 1), 0.5, np.float32)))
    assert not around.piecewise
    with pytest.raises(OperatorError, match=r"'x' -> 'z' has no linear regions: .* with 'z'; take the profile"):
        around.crossing(np.ones(1))
    with pytest.raises(OperatorError, match="no linear regions"):
        around.distances(2)
    found = around.profile(np.ones(1), [0.1, 0.5, 1.0])
    slopes = 1 - np.tanh(0.5 + np.array([0.0, 0.1, 0.5, 1.0])) ** 2
    np.testing.assert_allclose(found.change, np.abs(slopes[1:] - slopes[0]) / slopes[0], rtol=1e-4)
    affine = np.tanh(0.5) + slopes[0] * found.t
    np.testing.assert_allclose(found.deviation, np.abs(np.tanh(0.5 + found.t) - affine) / np.tanh(0.5), atol=1e-6)
    mixed = model("a = MatMul(x, A)\nb = Relu(a)\nc = Gelu(b)\nz = MatMul(c, A)", {"A": np.eye(2, dtype=np.float32)},
                  {"x": [1, 2]}, {"z": [1, 2]}, opset=20)  # fmt: skip
    assert Surroundings(Linearization(mixed).at(np.ones((1, 2), np.float32))).smooth == ("b",), "what the GELU reads"


def test_from_a_tensor_inside() -> None:
    """The source may be any tensor; what reaches the target past it stays as it is."""
    x = np.random.default_rng(6).normal(size=(1, 4)).astype(np.float32)
    instance = Linearization(bypassed()).at(x)
    around = Surroundings(instance, "k")
    assert around.piecewise, "behind the Tanh there is but a Relu"
    d = np.array([0.0, 0.0, 1.0, 0.0])
    s = float(instance.value("s")[0, 2])
    found = around.crossing(-np.sign(s) * d, limit=100.0)
    assert found is not None
    assert found.t == pytest.approx(abs(s), rel=1e-5)
    assert found.switched == {"node_u": 1}
    moved = around.at(instance.value("k").reshape(-1) + 0.1 * d)
    assert moved.residual < 1e-6
    np.testing.assert_allclose(moved.x, instance.value("k")[0] + 0.1 * d, rtol=1e-6)


def test_change_of_large_operators_is_estimated() -> None:
    """Random vectors tell the ratio of the norms to a tenth or so."""
    net = "a = MatMul(x, A)\nb = Relu(a)\nz = MatMul(b, B)"
    random = np.random.default_rng(0)
    weights = {n: random.normal(size=(100, 100)).astype(np.float32) for n in "AB"}
    made = Linearization(model(net, weights, {"x": [1, 100]}, {"z": [1, 100]}))
    first, second = (made.at(random.normal(size=(1, 100)).astype(np.float32)).operator() for _ in range(2))
    exact = np.linalg.norm(second.dense() - first.dense()) / np.linalg.norm(first.dense())
    assert change(first, second) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.crossing(np.zeros(5)), "the direction is zero"),
        (lambda s: s.crossing(np.ones(4)), "the direction has 4 numbers, 'x' has 5"),
        (lambda s: s.crossing(np.full(5, np.nan)), "NaN"),
        (lambda s: s.crossing(["a"] * 5), "a direction is an array of numbers"),
        (lambda s: s.crossing(np.ones(5), limit=-1), "the limit is a positive distance, not -1"),
        (lambda s: s.crossing(np.ones(5), limit=float("nan")), "the limit is a positive distance"),
        (lambda s: s.distances(0), "at least 1, not 0"),
        (lambda s: s.profile(np.ones(5), 0), "at least 1, not 0"),
        (lambda s: s.crossing(np.ones(5), resolution=0), "the resolution is between 0 and 1, not 0"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    around = Surroundings(Linearization(Perceptron(0).model).at(np.ones((1, 5), np.float32)))
    with pytest.raises(OperatorError, match=message):
        call(around)
