"""Which layers are proposed, and what becomes of the spectrum over layers and over inputs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.linalg
from onnx.parser import parse_model

from omenn_onnx.errors import NameNotFound, NoPath, OmennError, OperatorError, RankError, SpectrumError, TargetError
from omenn_onnx.spectral.analysis import LayerSpectrum, Settings, analyse, layers_of
from omenn_onnx.spectral.evolution import Concentration, Evolution, effective_rank, participation_ratio, stable_rank
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.layers import separating
from omenn_onnx.spectral.proposals import proposed
from omenn_onnx.spectral.similarity import (
    Directions,
    Gathered,
    clusters,
    principal_cosines,
    subspace_similarity,
)
from omenn_onnx.spectral.targets import explained

MODELS = Path(__file__).resolve().parents[1] / "models"
SEED = 20
HEAD = '<ir_version: 9, opset_import: ["" : 20]>'


def instance(name: str, row: int = 0) -> Instance:
    """A row of a network of models/."""
    model = Linearization(MODELS / f"{name}.onnx")
    with np.load(MODELS / f"{name}.npz") as data:
        return model.at({i.name: data[i.name][row : row + 1] for i in model.inputs})


def dense(widths: list[int], skip: bool = False) -> onnx.ModelProto:
    """x [1,widths[0]] through matrix products with ReLUs to z; ``skip`` adds x to the second layer."""
    random = np.random.default_rng(SEED)
    lines, weights, last = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        weights.append(onnx.numpy_helper.from_array(random.normal(size=(a, b)).astype(np.float32), f"w{i}"))
        weights.append(onnx.numpy_helper.from_array(random.normal(size=b).astype(np.float32), f"b{i}"))
        end = i == len(widths) - 2
        out = "z" if end else f"h{i}"
        lines += [f"m{i} = MatMul({last}, w{i})", f"{'z' if end else f'a{i}'} = Add(m{i}, b{i})"]
        if skip and i == 1:
            lines += [f"r{i} = Relu(a{i})", f"{out} = Add(r{i}, h0)"]
        elif not end:
            lines.append(f"{out} = Relu(a{i})")
        last = out
    body = "\n".join(lines)
    text = f"{HEAD} g (float[1,{widths[0]}] x) => (float[1,{widths[-1]}] z) {{ {body} }}"
    model = parse_model(text)
    model.graph.initializer.extend(weights)
    return model


def at(model: onnx.ModelProto, seed: int = SEED) -> Instance:
    """A model of one input at random values."""
    made = Linearization(model)
    shape = [int(d) for d in made.inputs[0].dims or ()]
    return made.at(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# Which layers

EXPECTED = {
    "digits_cnn": ["relu", "max_pool2d", "relu_4", "relu_7", "mean"],
    "digits_vit": ["add_17", "add_95", "add_173", "select_9"],
    "grammar_text": ["add_100", "div"],
    "breast_cancer_mlp": ["relu", "relu_1"],
    "squares": ["encoder_1", "encoder_2", "bottleneck", "decoder_1", "decoder_2", "pixels"],
    "tsne": ["hidden_1", "hidden_2"],
    "alexnet_digits": ["conv1", "conv2", "conv3", "conv5", "hidden", "penultimate"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_are_proposed_where_stages_and_blocks_end(name):
    made = instance(name)
    layers, left_out = proposed(made)
    assert [one.name for one in layers] == EXPECTED[name]
    assert left_out == 0
    inner = [one.name for one in layers if one.name != made.target]
    assert set(inner) <= set(separating(made)), "a proposal does not separate input and output"
    assert all(one.reason and one.shape == made.value(one.name).shape for one in layers)
    last = next(one for one in layers if one.name == inner[-1])
    assert "penultimate" in last.reason


def test_reasons_name_what_a_layer_is():
    said = {one.name: one.reason for one in proposed(instance("alexnet_digits"))[0]}
    assert "last convolution" in said["conv5"]
    assert "stage" in said["conv1"]
    assert "bottleneck: 8 values" in {one.name: one.reason for one in proposed(instance("squares"))[0]}["bottleneck"]


def test_names_do_not_matter():
    """The same layers are proposed when every tensor and node is called otherwise."""
    model = onnx.load(MODELS / "digits_cnn.onnx")
    kept = {v.name for v in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}

    def other(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"t{7919 * len(names) % 10007}")

    for node in model.graph.node:
        node.input[:] = [other(n) for n in node.input]
        node.output[:] = [other(n) for n in node.output]
        node.name = ""
    for held in (*model.graph.initializer, *model.graph.value_info):
        held.name = other(held.name)
    with np.load(MODELS / "digits_cnn.npz") as data:
        renamed = Linearization(model).at(data["image"][:1])
    got = [(one.name, one.shape, one.reason) for one in proposed(renamed)[0]]
    assert got == [(other(one.name), one.shape, one.reason) for one in proposed(instance("digits_cnn"))[0]]


def test_equal_widths_are_blocks_and_a_skip_joins_them():
    plain = [one.name for one in proposed(at(dense([6, 5, 5, 5, 3])))[0]]
    assert plain == ["h0", "h1", "h2"]
    assert [one.name for one in proposed(at(dense([6, 5, 5, 5, 3], skip=True)))[0]] == ["h0", "h1", "h2"]


def test_a_network_of_one_product_has_its_output_as_layer():
    layers, _ = proposed(at(dense([6, 3])))
    assert [(one.name, one.shape) for one in layers] == [("z", (1, 3))]
    assert "no layer stands" in layers[0].reason


def test_many_stages_are_thinned_and_counted():
    made = at(dense([9, 8, 7, 6, 5, 4, 3, 2]))
    everything, none = proposed(made)
    few, dropped = proposed(made, most=3)
    assert none == 0
    assert len(everything) == 6
    assert dropped == 3
    assert {one.name for one in few} < {one.name for one in everything}
    assert few[-1].name == everything[-1].name


def test_layers_by_name_stand_in_the_order_of_the_network():
    made = at(dense([6, 5, 4, 3]))
    assert [one.name for one in layers_of(made, ["z", "h0", "h1", "h0"])[0]] == ["h0", "h1", "z"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("h9", NameNotFound, "h9"),
        ("x", OperatorError, "'x' is the explained input itself"),
        ("w0", NoPath, "'w0' does not lie behind the explained input"),
        ("beside", NoPath, "'beside' does not lie in front of the explained output"),
    ],
)
def test_a_layer_that_does_not_lie_between_is_one_clear_line(name, kind, said):
    model = dense([6, 5, 4, 3])
    model.graph.node.append(onnx.helper.make_node("Exp", ["h0"], ["beside"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("beside", onnx.TensorProto.FLOAT, [1, 5]))
    with pytest.raises(kind, match=said) as caught:
        layers_of(at(model), [name])
    assert "\n" not in str(caught.value)


# One layer


def spectrum(made: Instance, name: str, settings: Settings, target: str = "0") -> LayerSpectrum:
    """The analysis of a layer asked for by name."""
    asked = explained(target, made.value(made.target), made.target)
    return analyse(made, layers_of(made, [name])[0][0], asked, settings)


@pytest.mark.parametrize("name", ["h0", "h1", "z"])
def test_contributions_are_those_of_the_dense_matrices(name):
    """R and L dense in float64, by numpy's SVD."""
    made = at(dense([6, 7, 5, 4]))
    found = spectrum(made, name, Settings(), "2")
    r = made.operator(None, name).dense().astype(np.float64)
    left = np.eye(4)[2] if name == "z" else made.operator(name).dense().astype(np.float64)[2]
    u, s, v = np.linalg.svd(r, full_matrices=False)
    x = made.value("x").ravel().astype(np.float64)
    alpha = (left @ u) * s * (v @ x)
    rank = int(np.sum(s > 1e-6 * s[0]))
    assert found.full
    assert len(found.s) == rank
    np.testing.assert_allclose(found.s, s[:rank], rtol=1e-5)
    np.testing.assert_allclose(found.alpha, alpha[:rank], atol=1e-5 * np.abs(alpha).sum())
    np.testing.assert_allclose(found.coefficients, np.abs(s * (v @ x))[:rank], atol=1e-5 * s[0])
    assert found.y == pytest.approx(float(made.value("z")[0, 2]), rel=1e-6)
    assert found.y == pytest.approx(found.alpha.sum() + found.remainder + found.bias, rel=1e-12)
    assert found.bias == pytest.approx(float(made.operator().bias[2]), abs=1e-5)  # (not what the rest leaves of y)
    assert found.residual < 1e-6
    assert abs(found.remainder) < 1e-5 * max(1.0, np.abs(alpha).sum())
    maps = found.right.by_value.sum(axis=1) * found.s[: len(found.triplets)]
    np.testing.assert_allclose(maps, found.coefficients[: len(found.triplets)], atol=1e-5)


def test_a_truncated_spectrum_says_what_it_leaves():
    made = at(dense([20, 16, 12, 4]))
    whole, some = spectrum(made, "h1", Settings()), spectrum(made, "h1", Settings(k=2))
    assert not some.full
    assert len(some.s) == 2
    np.testing.assert_allclose(some.alpha, whole.alpha[:2], atol=1e-4)
    assert some.remainder == pytest.approx(whole.alpha[2:].sum(), abs=1e-4)
    assert some.bias == pytest.approx(whole.bias, abs=1e-5)
    assert abs(some.remainder) > 1e-3


def test_reduced_contributions_have_one_sign_and_the_same_sum():
    found = spectrum(instance("digits_cnn"), "relu_4", Settings())
    reduced = found.reduced.alpha[0]
    assert np.all(reduced >= 0) or np.all(reduced <= 0)
    assert reduced.sum() == pytest.approx(found.alpha.sum())
    assert (found.alpha > 0).any()
    assert (found.alpha < 0).any()
    assert found.reduced.shares.sum() == pytest.approx(1)
    top = spectrum(instance("digits_cnn"), "relu_4", Settings(quantile=0.9)).reduced.alpha[0]
    assert 0 < np.count_nonzero(top) <= 0.11 * len(top)
    above = spectrum(instance("digits_cnn"), "relu_4", Settings(threshold=0.5)).reduced.alpha[0]
    assert set(np.flatnonzero(above)) == set(np.flatnonzero(np.abs(found.alpha) >= 0.5))


def test_a_layer_that_is_passed_says_by_what():
    made = at(dense([6, 5, 5, 3], skip=True))
    assert spectrum(made, "h1", Settings()).past is None
    beside = spectrum(made, "r1", Settings())
    assert beside.past is not None
    assert beside.y == pytest.approx(beside.alpha.sum() + beside.bias, rel=1e-5)


def test_more_components_than_the_rank_is_one_clear_line():
    made = at(dense([9, 3, 8, 4]))
    with pytest.raises(RankError, match=r"rank|at most") as caught:
        spectrum(made, "h1", Settings(k=5))
    assert caught.value.rank <= 3
    with pytest.raises(RankError, match="rank"):
        spectrum(made, "h1", Settings(k=5, full=True))
    for full in (True, False):
        assert 0 < len(spectrum(made, "h1", Settings(k=5, fewer=True, full=full)).triplets) <= 3


def test_without_a_number_the_rank_is_enough(monkeypatch):
    """A large layer behind a bottleneck has fewer components than are computed by default."""
    monkeypatch.setattr("omenn_onnx.spectral.analysis.SMALL", 4)
    found = spectrum(at(dense([20, 3, 18, 16])), "h1", Settings())
    assert found.full
    assert len(found.s) == np.linalg.matrix_rank(at(dense([20, 3, 18, 16])).operator(None, "h1").dense(), tol=1e-4)


def test_too_little_memory_is_one_clear_line():
    with pytest.raises(SpectrumError, match="memory_limit") as caught:
        spectrum(at(dense([9, 8, 4])), "h0", Settings(memory_limit=100))
    assert "\n" not in str(caught.value)


# The explained number


def test_targets():
    z = np.array([[1.0, -2.0, 5.0]], np.float32)
    weights = {
        "argmax": [0, 0, 1],
        "1": [0, 1, 0],
        "dog": [0, 1, 0],
        "2-1": [0, -1, 1],
        "norm": np.asarray([1, -2, 5]) / np.sqrt(30),
    }
    for spec, wanted in weights.items():
        np.testing.assert_allclose(explained(spec, z, "logits", ["cat", "dog", "cow"]).weights, wanted)
    assert explained("argmax", z, "logits", ["cat", "dog", "cow"]).label == "logits[2] (cow)"
    assert explained("2-1", z, "logits").label == "logits[2] − logits[1]"
    assert explained("argmax", z, "logits").index == 2


@pytest.mark.parametrize("spec", ["3", "-1", "3-0", "mouse", "", "1,2"])
def test_a_target_that_is_none_is_refused(spec):
    with pytest.raises(TargetError):
        explained(spec, np.ones((1, 3)), "logits", ["cat", "dog", "cow"])
    with pytest.raises(TargetError, match="zero at this input"):
        explained("norm", np.zeros((1, 3)), "logits")


# Over layers


def test_effective_ranks_count_equal_values():
    for n in (1, 3, 10):
        for scale in (1e-30, 1.0, 1e30):
            s = np.full(n, scale)
            assert effective_rank(s) == pytest.approx(n)
            assert participation_ratio(s) == pytest.approx(n)
            assert stable_rank(s) == pytest.approx(n)
    s = np.array([3.0, 1.0])
    p = np.array([0.9, 0.1])
    assert effective_rank(s) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert participation_ratio(s) == pytest.approx(1 / (p**2).sum())
    assert stable_rank(s) == pytest.approx(10 / 9)
    assert effective_rank(np.zeros(3)) == participation_ratio(np.zeros(3)) == stable_rank(np.zeros(3)) == 0


def test_concentration_counts_components():
    found = Concentration.of(np.array([0.1, -6.0, 2.0, 1.9]))
    assert found.largest == pytest.approx(0.6)
    assert (found.half, found.most) == (1, 3)
    assert Concentration.of(np.ones(10)).half == 5
    assert Concentration.of(np.ones(10)).effective == pytest.approx(10)
    assert Concentration.of(np.zeros(4)) == Concentration(0.0, 0, 0, 0.0)


def test_evolution_compares_leading_spaces():
    q = scipy.linalg.qr(np.random.default_rng(SEED).normal(size=(12, 12)))[0]
    s = np.array([4.0, 2.0, 1.0, 0.5])
    found = Evolution.of(["a", "b", "c"], [s, s, s], [s, s, s], [q[:, :4], -q[:, [1, 0, 2, 3]], q[:, 4:8]], [True] * 3)
    np.testing.assert_allclose(found.turn, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-7)


# Over inputs


def orthonormal(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random orthonormal columns."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


def test_principal_angles_are_scipys():
    a, b = orthonormal(20, 3, 1), orthonormal(20, 5, 2)
    np.testing.assert_allclose(principal_cosines(a, b), np.sort(np.cos(scipy.linalg.subspace_angles(a, b)))[::-1])
    assert subspace_similarity(a[:, :1], b[:, :1]) == pytest.approx(abs(a[:, 0] @ b[:, 0]))
    assert subspace_similarity(b[:, :2], b) == pytest.approx(1)


def test_groups_are_runs_of_nearly_equal_values():
    values = np.array([5.0, 4.99, 3.0, 2.0, 1.995, 1.99, 1.0])
    found = Directions(orthonormal(9, 7, 0), values).groups(gap=0.01)
    assert [(g.start, g.stop) for g in found] == [(0, 2), (2, 3), (3, 6), (6, 7)]
    slow = 0.994 ** np.arange(8)  # a slow decay is no single group
    assert max(g.stop - g.start for g in Directions(orthonormal(9, 8, 0), slow).groups(gap=0.01)) == 2
    with pytest.raises(SpectrumError, match="component 7"):
        Directions(orthonormal(9, 7, 0), values).group_of(7)


def test_similarity_sees_neither_signs_nor_the_basis_of_a_degenerate_pair():
    v, s = orthonormal(30, 4, 3), np.array([5.0, 3.0, 3.0, 1.0])
    turn = scipy.linalg.block_diag(-1, [[0.6, -0.8], [0.8, 0.6]], -1)
    gathered = Gathered([Directions(v, s), Directions(v @ turn, s)])
    for k in range(4):
        np.testing.assert_allclose(gathered.component(k), np.ones((2, 2)), atol=1e-12)
    np.testing.assert_allclose(gathered.leading(2), np.ones((2, 2)), atol=1e-12)
    distinct = np.array([5.0, 3.0, 2.0, 1.0])
    apart = Gathered([Directions(v, distinct), Directions(v @ turn, distinct)])
    assert apart.component(1)[0, 1] == pytest.approx(0.6)


def test_clusters_are_found_whatever_the_order():
    random = np.random.default_rng(SEED)
    centres = orthonormal(40, 3, 4)
    truth = np.array([0, 1, 2, 0, 0, 1, 0, 2, 1, 0])
    samples = []
    for t in truth:
        noisy = centres[:, t] + 0.05 * random.normal(size=40)
        v = (noisy / np.linalg.norm(noisy) * random.choice([-1, 1]))[:, None]
        samples.append(Directions(v, np.ones(1)))
    labels, order = clusters(Gathered(samples).component(0))
    assert len(set(labels)) == 3
    assert all(len(set(labels[truth == t])) == 1 for t in range(3))
    assert set(truth[labels == 0]) == {0}  # the largest
    assert len([1 for a, b in zip(labels[order], labels[order][1:], strict=False) if a != b]) == 2
    assert clusters(np.ones((1, 1)))[0].tolist() == [0]


def test_common_directions_are_recovered():
    """A line that all samples have, in other places of their spectra and of either sign, and a plane that some have."""
    random = np.random.default_rng(SEED)
    q = orthonormal(50, 50, 5)
    line, plane = q[:, :1], q[:, 1:3]
    samples = []
    for i in range(6):
        noise = q[:, 10 + 3 * i : 13 + 3 * i]
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        parts = [(4.0, -line if i % 2 else line), (3.0 if i < 4 else 1.0, noise[:, :1])]
        if i < 4:
            parts.append((2.0, plane @ turn))
        values = np.concatenate([np.full(v.shape[1], s) for s, v in parts])
        order = np.argsort(-values, kind="stable")
        samples.append(Directions(np.concatenate([v for _, v in parts], axis=1)[:, order], values[order]))
    first, second, *rest = Gathered(samples).common()
    assert first.samples == (0, 1, 2, 3, 4, 5)
    assert abs(first.basis[:, 0] @ line[:, 0]) == pytest.approx(1)
    assert second.samples == (0, 1, 2, 3)
    assert second.basis.shape == (50, 2)
    assert subspace_similarity(second.basis, plane) == pytest.approx(1)
    np.testing.assert_allclose(second.basis.T @ second.basis, np.eye(2), atol=1e-12)
    assert first.agreement == second.agreement == pytest.approx(1)
    assert all(len(c.samples) == 1 for c in rest)


def test_vectors_of_different_length_are_not_compared():
    with pytest.raises(OmennError, match="different length"):
        Gathered([Directions(orthonormal(5, 2, 0), np.ones(2)), Directions(orthonormal(6, 2, 0), np.ones(2))])


def test_operators_stay_ready_as_far_as_memory_goes(monkeypatch):
    """Graphs of small networks are made once, those of large ones again rather than all held."""
    made = at(dense([6, 5, 4, 3, 2]))
    first = [made.operator(None, name).segment for name in ("h0", "h1", "h2", "z")]
    assert [made.operator(None, name).segment for name in ("h0", "h1", "h2", "z")] == first
    monkeypatch.setattr("omenn_onnx.spectral.instances._KEPT_BYTES", 1)
    last = [made.operator(name).segment for name in ("h0", "h1", "h2")]
    assert made.operator("h2").segment is last[2]
    assert made.operator("h1").segment is last[1]
    assert made.operator(None, "h0").segment is not first[0]
