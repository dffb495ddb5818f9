"""The whole map W x + b, the segments whose product it is, and what feeds their layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_networks as nets
from onnx import TensorProto, helper, numpy_helper

from omenn_onnx.errors import NameNotFound, NoPath, OperatorError
from omenn_onnx.runtime.engines import OrtEngine
from omenn_onnx.runtime.files import whole_array
from omenn_onnx.spectral.flow import feature_flow
from omenn_onnx.spectral.flow_figures import Score, flow_figure
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.layer_maps import choose, layer_arrays, layer_bytes, layer_maps
from omenn_onnx.spectral.layers import separating
from omenn_onnx.spectral.linear_map import Sums, chosen_units, common_bias, completeness_bar, fill, operators_to
from omenn_onnx.spectral.segments import cuts, matrix_bytes, product, segments

MODELS = Path(__file__).resolve().parents[1] / "models"
RULES = ["tangent", "secant"]
SEED = 11
RNG = np.random.default_rng(SEED)
print(f"seed {SEED}")


@functools.cache
def made(name: str, rules: str = "tangent") -> Instance:
    """A network of models/, or one of the small ones, at its first row."""
    if (MODELS / f"{name}.onnx").exists():
        model: Any = MODELS / f"{name}.onnx"
        with np.load(MODELS / f"{name}.npz") as data:
            feeds = {i.name: data[i.name] for i in Linearization(model).inputs}
    else:
        build = {
            "transformer": lambda: nets.transformer("N"),
            "token": lambda: nets.transformer("N", token="at"),
            "densenet": lambda: nets.densenet("N"),
            "inception": lambda: nets.inception("N"),
        }[name]
        model, feeds = build()
    linear = Linearization(model, rules=rules)
    return linear.at({n: v[:1] if np.ndim(v) else v for n, v in feeds.items()})


NETWORKS = ["breast_cancer_mlp", "transformer", "densenet"]


TANGENT = [(n, "tangent") for n in ("transformer", "densenet", "inception")]


def graph_of(instance: Instance) -> Iterator[tuple[Any, Any]]:
    for e in instance.sized.lin.equations:
        for x in e.inputs:
            yield x, e.out


@pytest.mark.parametrize("name", [*NETWORKS, "grammar_text", "digits_cnn", "digits_vit", "token", "inception"])
def test_separating_tensors_are_those_without_which_no_path_is_left(name: str) -> None:
    instance = made(name)
    sized = instance.sized
    pairs = sized.lin.calculus.pairs
    start, end = (pairs[sized.carrier(None, e)].value for e in ("source", "target"))
    readers: dict[Any, list[Any]] = {}
    for x, out in graph_of(instance):
        readers.setdefault(x, []).append(out)

    def connected(without: Any) -> bool:
        seen, todo = {start}, [start]
        while todo:
            for out in readers.get(todo.pop(), []):
                if out is not without and out not in seen:
                    seen.add(out)
                    todo.append(out)
        return end in seen

    inner = [n for n in instance.carriers() if pairs[sized.carrier(n, "layer")].value not in (start, end)]
    wanted = [n for n in inner if not connected(pairs[sized.carrier(n, "layer")].value)]
    assert separating(instance) == wanted
    assert 0 < len(wanted) < len(inner) or name == "breast_cancer_mlp"


@pytest.mark.parametrize(("name", "rules"), [("breast_cancer_mlp", "tangent"), ("token", "secant"), *TANGENT])
def test_the_product_of_the_segments_is_the_whole(name: str, rules: str) -> None:
    instance = made(name, rules)
    names = cuts(instance)[1:-1]
    parts = segments(instance, names if len(names) < 8 else names[::3])
    assert len(parts) > 2
    assert [p.source for p in parts[1:]] == [p.target for p in parts[:-1]]
    op, whole = instance.operator(), product(parts)
    matrix = op.dense()
    scale = np.abs(matrix).max()
    np.testing.assert_allclose(whole.W, matrix, atol=3e-6 * scale)
    np.testing.assert_allclose(whole.b, op.bias, atol=3e-6 * max(1.0, np.abs(op.bias).max()))
    for part in parts:
        x, y = (instance.value(n).reshape(-1).astype(np.float64) for n in (part.source, part.target))
        size = np.maximum(1.0, np.abs(part.W.astype(np.float64)) @ np.abs(x) + np.abs(part.b))
        assert np.max(np.abs(part.W @ x + part.b - y) / size) < 1e-5
        assert part.W.shape == (np.prod(part.target_shape), np.prod(part.source_shape))


def test_every_cut_is_taken_where_none_are_named() -> None:
    instance = made("breast_cancer_mlp")
    assert [p.target for p in segments(instance)] == cuts(instance)[1:]
    assert cuts(instance)[1:-1] == separating(instance)


def test_what_only_moves_elements_makes_no_segment_of_its_own() -> None:
    instance = made("tsne")
    assert "flat" in separating(instance)
    assert "flat" not in cuts(instance)
    assert segments(instance, ["flat", "hidden_1"])[0].target == "flat"
    np.testing.assert_array_equal(segments(instance, ["flat"])[0].W, np.eye(256))


def test_a_convolution_is_its_matrix() -> None:
    net = nets.Net(3, 1)
    x = net.image(2, 4, 5)
    kernel = net.weight(3, 2, 3, 3)
    y = net.op("Conv", x, kernel, net.weight(3), pads=[1, 1, 1, 1])
    model, feeds = net.finished(net.head(net.op("Relu", y), 3))
    w, b = (numpy_helper.to_array(t) for t in model.graph.initializer[:2])
    part = segments(Linearization(model).at(feeds), [y])[0]
    wanted = np.zeros((3, 4, 5, 2, 4, 5))
    for i, j, a, c in np.ndindex(4, 5, 3, 3):
        if 0 <= i + a - 1 < 4 and 0 <= j + c - 1 < 5:
            wanted[:, i, j, :, i + a - 1, j + c - 1] = w[:, :, a, c]
    np.testing.assert_allclose(part.W, wanted.reshape(60, 40), atol=1e-6)
    np.testing.assert_allclose(part.b, np.repeat(b, 20), atol=1e-6)


def test_a_residual_connection_is_one_segment() -> None:
    instance = made("digits_cnn")
    inside = next(n for n in instance.carriers() if n not in separating(instance) and n.startswith("relu"))
    with pytest.raises(OperatorError, match=rf"{inside!r} does not separate 'image' from 'logits': a path leads past"):
        segments(instance, ["relu", inside])
    assert inside not in cuts(instance)


def test_segments_between_tensors_inside() -> None:
    instance = made("digits_cnn")
    parts = segments(instance, ["relu_4", "max_pool2d"], source="relu_2", target="mean")  # (order does not matter)
    assert [p.target for p in parts] == ["max_pool2d", "relu_4", "mean"]
    wanted = instance.operator("relu_2", "mean").dense()
    np.testing.assert_allclose(product(parts).W, wanted, atol=1e-6 * np.abs(wanted).max())


def test_sizes_that_only_the_run_tells() -> None:
    linear = Linearization(MODELS.parent / "tests" / "data" / "exporters" / "keras-gru_any_length-tf2onnx15.onnx")
    instance = linear.at(RNG.normal(size=(1, 8, 4)).astype(np.float32))
    inside = next(n for n in cuts(instance) if "while_loop" in n)
    shape = instance.sized.lin.calculus.pairs[instance.sized.carrier(inside, "layer")].value.shape
    assert not all(isinstance(d, int) for d in shape)
    parts = segments(instance)
    assert matrix_bytes(instance, cuts(instance)) == sum(p.W.nbytes for p in parts)
    np.testing.assert_allclose(product(parts).W, instance.operator().dense(), atol=1e-6)
    assert choose(instance, "auto", None, None).names


def test_segments_are_refused() -> None:
    instance = made("breast_cancer_mlp")
    ends = cuts(instance)
    assert matrix_bytes(instance, ends) == sum(p.W.nbytes for p in segments(instance))
    with pytest.raises(OperatorError, match=r"matrices of 7 segment\(s\) take .* raise memory_limit"):
        segments(instance, memory_limit=1000)
    with pytest.raises(NameNotFound):
        segments(instance, ["nothing"])
    with pytest.raises(NoPath):
        segments(instance, source="relu_1", target="relu")
    parts = segments(instance)
    with pytest.raises(OperatorError, match="do not meet: one ends at 'sub', the next begins at 'div'"):
        product([parts[0], parts[2]])
    with pytest.raises(OperatorError, match="no segments"):
        product([])


@pytest.mark.parametrize("units", [[3], [0, 9, 4], list(range(10))])
def test_the_rows_asked_for(units: list[int]) -> None:
    op = made("digits_vit").operator()
    wanted = op.dense()[units]
    steps: list[int] = []
    matrix, sums = np.empty((len(units), 256), np.float32), Sums(len(units))
    fill(op, units, matrix, sums, steps.append)
    assert sum(steps) == len(units)
    np.testing.assert_allclose(matrix, wanted, atol=1e-6 * np.abs(wanted).max())
    assert np.max(sums.check(op.bias[units], op.y[units]).relative) < 1e-5
    np.testing.assert_allclose(sums.image, wanted.astype(np.float64) @ op.x, atol=1e-5)


def test_more_rows_than_columns_go_by_columns() -> None:
    op = made("digits_cnn").operator(None, "relu")
    assert op.shape == (4096, 256)
    units = [5, 4095, *range(2000, 2300)]
    steps: list[int] = []
    matrix, sums = np.empty((len(units), 256), np.float32), Sums(len(units))
    fill(op, units, matrix, sums, steps.append)
    assert sum(steps) == 256
    np.testing.assert_allclose(matrix, op.dense()[units], atol=1e-6)
    assert np.max(sums.check(op.bias[units], op.y[units]).relative) < 1e-5


def test_a_check_sees_a_wrong_map() -> None:
    op = made("breast_cancer_mlp").operator()
    matrix, sums = np.empty(op.shape, np.float32), Sums(2)
    fill(op, [0, 1], matrix, sums, lambda steps: None)
    assert np.max(sums.check(op.bias, op.y).relative) < 1e-5
    assert np.max(sums.check(op.bias + np.float32(1e-2), op.y).relative) > 1e-5
    assert not np.max(sums.check(op.bias * np.float32(np.nan), op.y).relative) < 1e-5


def two_inputs() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    net = nets.Net(5, "N")
    a = net.given("a", RNG.normal(size=(1, 3)).astype(np.float32), ["N", 3])
    b = net.given("b", RNG.normal(size=(1, 5)).astype(np.float32), ["N", 5])
    only_a = net.op("Relu", net.op("Gemm", a, net.weight(3, 4), net.weight(4)))
    both = net.op("Relu", net.op("Add", only_a, net.op("Gemm", b, net.weight(5, 4))))
    return net.finished(net.op("Gemm", both, net.weight(4, nets.CLASSES), net.weight(nets.CLASSES)))


@pytest.mark.parametrize("rules", RULES)
def test_several_inputs_share_one_bias(rules: str) -> None:
    model, feeds = two_inputs()
    instance = Linearization(model, rules=rules).at(feeds)
    ops = operators_to(instance, None, None)
    assert [op.source for op in ops] == ["a", "b"]
    total = sum(op.dense().astype(np.float64) @ op.x for op in ops) + common_bias(ops)
    np.testing.assert_allclose(total, ops[0].y, atol=1e-5)
    assert [op.source for op in operators_to(instance, None, "Relu_1_0")] == ["a"]  # b does not lead there
    assert [op.source for op in operators_to(instance, "b", None)] == ["b"]
    with pytest.raises(NoPath):
        operators_to(instance, "b", "Relu_1_0")


def test_units_are_checked() -> None:
    op = made("breast_cancer_mlp").operator()
    assert chosen_units(None, op) == [0, 1]
    assert chosen_units([-1, 0], op) == [1, 0]
    for wrong in (2, -3):
        with pytest.raises(OperatorError, match=f"unit {wrong} of 'linear_2' does not exist: there are 2"):
            chosen_units([wrong], op)


def test_the_bar_is_that_of_the_coarsest_type() -> None:
    assert completeness_bar(made("breast_cancer_mlp")) == 1e-5
    half = [numpy_helper.from_array(RNG.normal(size=(3, 2)).astype(np.float16), "w")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, s) for n, s in (("x", ["N", 3]), ("z", ["N", 2]))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "g", ends[:1], ends[1:], half)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert completeness_bar(Linearization(model).at(np.ones((1, 3), np.float16))) == 5e-3


# What feeds the layers


@pytest.mark.parametrize(("name", "rules"), [("breast_cancer_mlp", "tangent"), ("transformer", "secant")])
def test_flows_add_up(name: str, rules: str) -> None:
    instance = made(name, rules)
    total = instance.operator()
    unit = int(np.argmax(total.y))
    row = total.dense()[unit].astype(np.float64) * total.x
    rest = [n for n in instance.carriers() if n not in separating(instance)]
    for layer in [*cuts(instance)[1:-1], *(n for n in rest if n not in (instance.source, instance.target))][::4]:
        op, onward = instance.operator(None, layer), instance.operator(layer)
        seed = np.zeros(len(total.y), np.float32)
        seed[unit] = 1
        g = onward.rmatvec(seed)
        flow = feature_flow(op, g)
        wanted = op.dense().astype(np.float64) * op.x
        np.testing.assert_allclose(flow.contributions, wanted, atol=1e-5 * np.abs(wanted).max())
        np.testing.assert_allclose(wanted.sum(axis=1) + flow.bias, flow.y, atol=2e-5 * max(1.0, np.abs(wanted).max()))
        assert np.max(flow.check.relative) < 1e-5
        assert layer == flow.layer
        weight = g.astype(np.float64)[:, None]
        for found, what in (
            (flow.feeds, np.abs(wanted)),
            (flow.through, np.abs(weight * wanted)),
            (flow.signed, weight * wanted),
        ):
            np.testing.assert_allclose(found, what.sum(axis=0), atol=1e-5 * max(1.0, np.abs(what).sum(axis=0).max()))
        through = max(1.0, float(np.abs(g) @ np.abs(op.y)))
        assert flow.signed.sum() + flow.signed_bias == pytest.approx(float(g @ op.y), abs=1e-5 * through)
        assert np.all(flow.through - np.abs(flow.signed) > -1e-6 * through)
        if layer in separating(instance):
            np.testing.assert_allclose(flow.signed, row, atol=1e-5 * max(1.0, np.abs(row).max(), flow.through.max()))


def test_layers_are_chosen() -> None:
    instance = made("digits_cnn")
    every = choose(instance, "all", None, None)
    assert every.ends == cuts(instance)
    assert every.names == every.ends[1:-1]
    auto = choose(instance, "auto", None, None)
    assert auto.names
    assert set(auto.names) <= set(instance.carriers())
    mixed = choose(instance, ["mean", "relu_3", "relu"], None, None)
    assert mixed.names == ["relu", "relu_3", "mean"]
    assert mixed.ends == ["image", "relu", "mean", "logits"]
    with pytest.raises(OperatorError, match="'logits' is no layer between 'image' and 'logits'"):
        choose(instance, ["logits"], None, None)
    with pytest.raises(NameNotFound):
        choose(instance, ["nowhere"], None, None)
    with pytest.raises(OperatorError, match="no layer stands between 'mean' and 'logits'"):
        choose(instance, "all", "mean", None)


def test_layers_of_several_instances() -> None:
    linear = Linearization(MODELS / "breast_cancer_mlp.onnx")
    with np.load(MODELS / "breast_cancer_mlp.npz") as data:
        instances = [linear.at(data["features"][n : n + 1]) for n in range(2)]
    layers = choose(instances[0], ["relu", "relu_1"], None, None)
    maps = layer_maps(instances, layers, [0, 1])
    arrays = layer_arrays(maps, layers)
    assert list(arrays["layers"]) == ["relu", "relu_1", "linear_2"]
    for n, instance in enumerate(instances):
        whole = arrays["linear_2/W"][n] @ arrays["relu_1/W"][n] @ arrays["relu/W"][n]
        np.testing.assert_allclose(whole, instance.operator().dense(), atol=1e-6 * np.abs(whole).max())
        assert np.max(maps.check[n].relative) < 1e-5
        total = arrays["relu_1/contribution"][n].sum(axis=1) + arrays["relu_1/contribution_b"][n]
        np.testing.assert_allclose(total, instance.value("relu_1")[0], atol=1e-5)
    held = sum(arrays[k][0].nbytes for k in arrays if k.endswith(("/W", "/contribution")))
    assert layer_bytes(instances[0], layers) == held + maps.whole[0].W.nbytes


# Figures


@pytest.mark.parametrize(
    ("shape", "axis", "panels"), [((1, 2, 4, 3), 1, 6), ((1, 4, 3, 2), 3, 6), ((1, 24), 1, 3), ((1, 1, 2, 3, 4), 1, 6)]
)
def test_figures_of_flows(shape: tuple[int, ...], axis: int, panels: int) -> None:
    size = int(np.prod(shape))
    net = nets.Net(8, 1)
    x = net.given("x", RNG.normal(size=shape).astype(np.float32), list(shape))
    flat = net.op("Reshape", x, net.ints(1, size))
    hidden = net.op("Relu", net.op("Gemm", flat, net.weight(size, 5), net.weight(5)))
    second = net.op("Relu", net.op("Gemm", hidden, net.weight(5, 6), net.weight(6)))
    model, feeds = net.finished(net.op("Gemm", second, net.weight(6, nets.CLASSES)))
    instance = Linearization(model).at(feeds)
    maps = layer_maps([instance], choose(instance, [hidden, second], None, None), [3])
    op = instance.operator()
    score = Score("z[3]", float(op.y[3]), maps.whole[0].W[3] * op.x, float(maps.whole[0].b[3]), op.x, shape, axis)
    drawn = flow_figure(maps.flows[0], score, "a row", [f"name {i}" for i in range(size)])
    drawn.canvas.draw()
    axes = [a for a in drawn.axes if a.images]
    assert len(axes) == panels
    shown = axes[0].images[0].get_array()
    flow = maps.flows[0][0]
    assert float(np.sum(shown)) == pytest.approx(
        float(flow.feeds.sum() / (flow.feeds.sum() + flow.feeds_bias)) * (2 if len(shape) == 2 else 1), rel=0.5
    )
    signed = axes[2].images[0].get_array() if len(axes) == 6 else axes[-1].images[0].get_array()
    assert float(np.sum(signed)) == pytest.approx(float(score.signed.sum()), abs=1e-5)
    assert "z[3]" in drawn._supxlabel.get_text()  # type: ignore[attr-defined]


def test_places_sums_channels_and_looks_along_the_first_of_three_axes() -> None:
    values = np.arange(24.0)
    x = values.astype(np.float32)
    image = Score("z", 0.0, values, 0.0, x, (1, 2, 3, 4), 1)
    np.testing.assert_array_equal(image.places(values), values.reshape(2, 3, 4).sum(axis=0))
    last = Score("z", 0.0, values, 0.0, x, (1, 3, 4, 2), 3)
    np.testing.assert_array_equal(last.places(values), values.reshape(3, 4, 2).sum(axis=2))
    body = Score("z", 0.0, values, 0.0, x, (1, 1, 2, 3, 4), 1)
    np.testing.assert_array_equal(body.places(values), values.reshape(2, 3, 4).sum(axis=0))
    tokens = Score("z", 0.0, values, 0.0, x, (1, 6, 4), 2)
    np.testing.assert_array_equal(tokens.places(values), values.reshape(6, 4).sum(axis=1))
    plain = Score("z", 0.0, values, 0.0, x, (1, 24), 1)
    np.testing.assert_array_equal(plain.places(values), values)


# Files and feeds


def test_a_mapped_array_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with whole_array(path, (3, 4), np.float32) as room:
        room[:] = np.arange(12).reshape(3, 4)
        assert not path.exists()
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), np.arange(12).reshape(3, 4))

    def fail() -> None:
        with whole_array(tmp_path / "b.npy", (2,), np.float32):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_numbers_without_axes_are_fed_as_they_are() -> None:
    model, feeds = nets.transformer("N", token="at")
    assert np.shape(feeds["at"]) == ()
    assert OrtEngine(model).run(feeds)["z"].shape == (3, nets.CLASSES)
