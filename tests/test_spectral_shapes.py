"""Bodies and convolutional networks for the spectrum: quantities in closed form, and what is said of their vectors."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy.integrate import quad

from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.svd import Triplets, triplets

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import bench_spectrum  # noqa: E402
import reproduce_convnets  # noqa: E402
import reproduce_shapes  # noqa: E402
import spectral_convnets  # noqa: E402
import spectral_digits  # noqa: E402
import spectral_shapes as shapes  # noqa: E402
from spectral_shapes import Superellipsoid, Torus  # noqa: E402

torch.set_num_threads(1)

LAYERS = ("encoder_2", "latent", "regressor_1", "penultimate", "quantities")


def integrated(body: shapes.Body, points: int = 160) -> tuple[float, float]:
    """Volume and moment of inertia about z, by counting points."""
    x, y, z = shapes.coordinates(points)
    inside, cell = body.inside(x, y, z), (2 / points) ** 3
    return float(inside.sum() * cell), float(((x**2 + y**2) * inside).sum() * cell)


# --- quantities -----------------------------------------------------------------------------------------------------


def test_known_bodies() -> None:
    """A ball, a box (the limit of large exponents), an octahedron, a cylinder and a round torus."""
    three = np.ones(3)
    r, a, b, c = 0.6, 0.3, 0.5, 0.7
    ball = Superellipsoid(r * three, 2 * three).quantities()
    assert ball == pytest.approx((4 / 3 * np.pi * r**3, 8 / 15 * np.pi * r**5), rel=1e-12)
    box = Superellipsoid(np.array([a, b, c]), 1e6 * three).quantities()
    assert box == pytest.approx((8 * a * b * c, 8 * a * b * c * (a**2 + b**2) / 3), rel=1e-5)
    octahedron = Superellipsoid(r * three, three).quantities()
    assert octahedron == pytest.approx((4 / 3 * r**3, 4 / 15 * r**5), rel=1e-12)
    cylinder = Superellipsoid(np.array([r, r, c]), np.array([2, 2, 1e6])).quantities()
    assert cylinder == pytest.approx((2 * np.pi * r**2 * c, np.pi * r**4 * c), rel=1e-5)
    ring = Torus(r, np.array([a, a]), np.array([2.0, 2.0])).quantities()
    volume = 2 * np.pi**2 * r * a**2
    assert ring == pytest.approx((volume, volume * (r**2 + 3 / 4 * a**2)), rel=1e-12)


@pytest.mark.parametrize("alphas", [(1, 1), (3, 1), (1, 3), (2.5, 1.5)])
def test_integral_of_dirichlet(alphas: tuple[float, float]) -> None:
    """In the plane, against one-dimensional quadrature."""
    (a, b), (p, q) = (0.4, 0.9), (1.7, 3.2)

    def strip(x: float) -> float:
        return 4 * x ** (alphas[0] - 1) * (b * (1 - (x / a) ** p) ** (1 / q)) ** alphas[1] / alphas[1]

    expected = quad(strip, 0, a, epsabs=1e-13)[0]
    got = shapes.dirichlet(np.array(alphas), np.array([p, q]), np.array([a, b]))
    assert got == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_quantities_against_integration(family: int, seed: int) -> None:
    print("seed", seed)
    body = shapes.random_body(np.random.default_rng(seed), family)
    assert body.quantities() == pytest.approx(integrated(body), rel=1e-2)


def test_occupancy_is_what_lies_inside() -> None:
    """The voxels hold the volume, and y and z reflect every body onto itself."""
    occupied, quantities, families = shapes.bodies(60, seed=5)
    assert set(families) == {0, 1}
    assert occupied.min() >= 0
    assert occupied.max() <= 1
    np.testing.assert_allclose(occupied.sum(axis=(1, 2, 3, 4)) * (2 / shapes.SIDE) ** 3, quantities[:, 0], rtol=0.05)
    for axis in (3, 4):
        np.testing.assert_array_equal(occupied, np.flip(occupied, axis))
    assert not np.array_equal(occupied, np.flip(occupied, 2))


@pytest.mark.parametrize("family", [0, 1])
def test_bodies_stay_inside_the_cube(family: int) -> None:
    random = np.random.default_rng(6)
    (x, y, z), faces = shapes.coordinates(64), np.array([-1.0, 1.0])
    for _ in range(100):
        body = shapes.random_body(random, family)
        touched = [body.inside(faces[:, None, None], y, z), body.inside(x, faces[:, None], z), body.inside(x, y, faces)]
        assert not any(t.any() for t in touched), body


# --- the network ----------------------------------------------------------------------------------------------------


@functools.cache
def kept() -> dict[str, np.ndarray[Any, Any]]:
    with np.load(ROOT / "models" / "shapes.npz") as file:
        return dict(file)


@functools.cache
def model(name: str = "shapes") -> Linearization:
    return Linearization(ROOT / "models" / f"{name}.onnx")


def body_at(i: int) -> Instance:
    return model().at(kept()["body"][i : i + 1])


def evenness(vector: np.ndarray[Any, Any], axis: int) -> float:
    """<v, P v> / <v, v> with the reflection P of an axis."""
    v = vector.reshape((shapes.SIDE,) * 3).astype(np.float64)
    return float(np.sum(v * np.flip(v, axis)) / np.sum(v * v))


def test_quantities_are_learnt() -> None:
    """The stored network finds the quantities of the kept bodies, which it never saw."""
    wanted = kept()["quantities"]
    found = np.concatenate([body_at(i).value("quantities") for i in range(len(wanted))])
    unexplained = np.sum((found - wanted) ** 2, axis=0) / np.sum((wanted - wanted.mean(axis=0)) ** 2, axis=0)
    assert (unexplained < 0.02).all(), unexplained


@pytest.mark.parametrize("layer", LAYERS)
def test_vectors_are_even_where_every_body_is(layer: str) -> None:
    """Right vectors are even in y and z, which no body tells from their reflections; not so in x, where only the
    distribution of bodies is symmetric: nothing makes a single vector even or odd there."""
    along_x = []
    for i in (0, 1):
        operator = body_at(i).operator(target=layer)
        for v in triplets(operator, min(3, operator.shape[0])).v.T:
            assert min(evenness(v, 1), evenness(v, 2)) > 0.999
            along_x.append(evenness(v, 0))
    assert min(along_x) < 0.9


def test_chance_is_not_even() -> None:
    """The same network with random weights: its vectors are neither even nor odd, so the evenness is learnt."""
    untrained, random = onnx.load(ROOT / "models" / "shapes.onnx"), np.random.default_rng(0)
    for tensor in untrained.graph.initializer:
        if tensor.name.endswith(".weight"):
            weights = random.standard_normal(tuple(tensor.dims)) / tensor.dims[1] ** 0.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float32), tensor.name))
    operator = Linearization(untrained).at(kept()["body"][:1]).operator(target="latent")
    for v in triplets(operator, 3).v.T:
        assert max(abs(evenness(v, axis)) for axis in range(3)) < 0.2


def test_both_outputs_are_explained() -> None:
    """R x + bias is the latent point, the quantities and the reconstruction; the pieces multiply to the whole."""
    instance = body_at(3)
    for layer in ("latent", "quantities", "reconstruction"):
        assert instance.operator(target=layer).residual < 1e-5
    whole = instance.operator(target="quantities")
    pieces = instance.operator(target="latent") @ instance.operator("latent", "quantities")
    np.testing.assert_allclose(pieces.dense(), whole.dense(), atol=1e-5 * np.abs(whole.dense()).max())


# --- convolutional networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), [("alexnet", 61_100_840), ("vgg11_bn", 132_868_840)])
def test_published_sizes(name: str, parameters: int) -> None:
    """As many parameters as published, and the layers that issue 5 names, without any weight in memory."""
    with torch.device("meta"):
        network = spectral_convnets.ARCHITECTURES[name]().eval()
        x, sizes = torch.empty(1, 3, 224, 224), {}
        for layer, part in network.named_children():
            x = part(x)
            sizes[layer] = tuple(x.shape[1:])
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sizes["penultimate"] == (4096,)
    assert sizes["last_conv"] == ((256, 6, 6) if name == "alexnet" else (512, 7, 7))
    assert sizes["logits"] == (1000,)


@pytest.mark.parametrize("name", spectral_digits.SMALL)
@pytest.mark.parametrize("rules", ["tangent", "secant"])
def test_small_networks(name: str, rules: str) -> None:
    """The kept digits are recognised; adjoint identity and completeness at the layers that issue 5 names."""
    path = ROOT / "models" / f"{name}.onnx"
    assert path.stat().st_size < 10**6
    with np.load(path.with_suffix(".npz")) as file:
        images, labels = file["image"], file["labels"]
    linearization = Linearization(path, rules=rules)
    for i in range(4):
        instance = linearization.at(images[i : i + 1])
        assert int(instance.value("logits").argmax()) == labels[i]
    for layer in ("last_conv", "penultimate", "logits"):
        operator = instance.operator(target=layer)
        assert operator.residual < 1e-5
        assert bench_spectrum.adjoint_error(operator) < 1e-5


# --- what the reproductions say -------------------------------------------------------------------------------------


def test_volume_is_the_sum_of_its_contributions() -> None:
    """All of R at every layer: y = sum alpha + b to rounding; fewer directions count from layer to layer."""
    for i in (0, 1):
        spectra = [reproduce_shapes.spectrum_at(body_at(i), name, 0) for name in reproduce_shapes.LAYERS]
        for one in spectra:
            assert one.y == pytest.approx(float(body_at(i).value("quantities")[0, 0]), rel=1e-5)
            assert abs(one.remainder) < 1e-5 * abs(one.y)
            assert one.alpha.sum() + one.bias == pytest.approx(one.y, rel=1e-5)
        ranks = reproduce_shapes.evolution_of(tuple(spectra)).effective_rank
        assert ranks[0] > ranks[-1]
        assert ranks.max() <= 32


@pytest.mark.parametrize("name", spectral_digits.SMALL)
def test_logit_is_the_sum_of_its_contributions(name: str, tmp_path: Path) -> None:
    """The trained convolutional networks at both layers; the first component carries most at the penultimate layer."""
    network, x, _ = reproduce_convnets.opened(name, tmp_path)
    instance = network.at(x)
    best = reproduce_convnets.explained("argmax", instance.value("logits"), "logits")
    found = reproduce_convnets.spectra_at(instance, best, 4096)
    for one in found:
        assert one.full
        assert abs(one.remainder) < 1e-5 * abs(one.y)
        assert one.triplets.residuals.max() < 1e-4
        assert one.y == pytest.approx(float(instance.value("logits").max()), rel=1e-5)
    assert one.name == "penultimate"
    assert abs(one.alpha[0]) > 0.5 * np.abs(one.alpha).sum()


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_products_of_torch_are_ours() -> None:
    """Both contestants of the benchmark hold the same operator, and svds is given the tolerance that it meets."""
    random = np.random.default_rng(3)
    x = random.standard_normal((1, 1, 32, 32)).astype(np.float32)
    network, stored = spectral_digits.SMALL["alexnet_digits"](), onnx.load(ROOT / "models" / "alexnet_digits.onnx")
    weights = {w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in stored.graph.initializer}
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    network.eval().requires_grad_(False)
    ours = Linearization(stored).at(x).operator(target="penultimate")
    products = bench_spectrum.TorchProducts(network, "penultimate", x)
    theirs = products.operator("jvp")
    v, u = (random.standard_normal(n).astype(np.float32) for n in theirs.shape[::-1])
    scale = np.linalg.norm(ours.matvec(v))
    assert np.linalg.norm(ours.matvec(v) - theirs.matvec(v)) < 1e-5 * scale
    assert np.linalg.norm(ours.rmatvec(u) - theirs.rmatvec(u)) < 1e-5 * np.linalg.norm(ours.rmatvec(u))
    assert products.applications == 2
    found: Triplets = triplets(ours, 4)
    for way, solver in (c.split() for c in bench_spectrum.CONTESTANTS):
        left, s, right = bench_spectrum.by_svds(products.operator(way), 4, 1e-4, solver)
        assert bench_spectrum.residual(ours, left, s, right) < 1e-4
        np.testing.assert_allclose(s, found.s, rtol=1e-4)
    worst = bench_spectrum.residual(ours, left[:, ::-1], s, right)
    assert worst > 0.1, "the residual of wrong triplets"
