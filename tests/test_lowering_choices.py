"""Choices that are made for speed change no number: each compiled with and without, and that it is made at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from explaining import Feeds, compiled, run
from onnx import TensorProto, helper
from small_networks import CLASSES, WIDTH, Net, densenet, pre_activation, transformer

import omenn_onnx.compiler as compiler
import omenn_onnx.lowering.elementwise as elementwise
from omenn_onnx.calculus import norms
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.order import leaves


def assert_same(one: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds) -> None:
    """Outputs and maps of two files, with the runtime's optimisation on and off, to 1e-5 of the largest entry."""
    for optimise in (True, False):
        a, b = run(one, feeds, optimise), run(other, feeds, optimise)
        assert set(a) == set(b)
        for name, value in a.items():
            size = max(1e-6, float(np.abs(value.astype(np.float64)).max(initial=0)))
            np.testing.assert_allclose(b[name], value, rtol=0, atol=1e-5 * size, err_msg=name)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def masked(batch: int | str) -> tuple[onnx.ModelProto, Feeds]:
    """Convolutions with Relu, whose masks may be products."""
    net = Net(3, batch)
    h = net.image(3, 6, 6)
    for a, b in ((3, 4), (4, 4)):
        h = net.op("Relu", net.op("Conv", h, net.weight(b, a, 3, 3), net.weight(b), pads=[1] * 4))
    h = net.op("Reshape", net.op("GlobalAveragePool", h), net.ints(net.rows, 4))
    return net.finished(net.op("Gemm", h, net.weight(4, CLASSES), net.weight(CLASSES)))


def post_norm() -> tuple[onnx.ModelProto, Feeds]:
    """Add, then a norm that alone reads the sum; then a norm of a sum that goes on."""
    net = Net(4, 2)
    x = net.given("x", net.rng.normal(size=(2, WIDTH)).astype(np.float32), [2, WIDTH])
    norm = lambda h: net.op("LayerNormalization", h, net.weight(WIDTH, shift=1.0), net.weight(WIDTH))  # noqa: E731
    h = norm(net.op("Add", x, net.op("Gemm", x, net.weight(WIDTH, WIDTH), net.weight(WIDTH))))
    total = net.op("Add", h, net.op("Gemm", h, net.weight(WIDTH, WIDTH), net.weight(WIDTH)))
    h = net.op("Add", total, norm(total))
    return net.finished(net.op("Gemm", h, net.weight(WIDTH, CLASSES), net.weight(CLASSES)))


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_masks_as_products(batch: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HardSigmoid(y, 3e38) * c against Where(y > 0, c, 0)."""
    model, feeds = masked(batch)
    fast = compiled(model)
    assert "HardSigmoid" in kinds(fast)
    monkeypatch.setattr(elementwise, "_rectified", lambda *_: None)
    slow = compiled(model)
    assert "HardSigmoid" not in kinds(slow)
    assert_same(slow, fast, feeds)


NETWORKS = [lambda: masked(1), lambda: masked("N"), lambda: densenet(3), lambda: pre_activation(1)]


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("target", ["input:3", "top:2", "3,5,1", "3-6"])
def test_targets_one_by_one(
    make: Callable[[], tuple[onnx.ModelProto, Feeds]], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against targets as one more axis."""
    model, feeds = make()
    rows = next(iter(feeds.values())).shape[0]
    given = {"target": np.tile(np.asarray([4, 0, 2], np.int64), (rows, 1))} if target == "input:3" else {}
    monkeypatch.setattr(compiler, "_one_by_one", lambda *_: True)
    unrolled = compiled(model, target=target)
    monkeypatch.setattr(compiler, "_one_by_one", lambda *_: False)
    together = compiled(model, target=target)
    assert (len(unrolled.graph.node) > len(together.graph.node)) == (target != "3-6")
    assert_same(together, unrolled, {**feeds, **given})


def test_convolutions_go_one_by_one() -> None:
    """Where convolutions prevail, and not where matrix products do, nor without end."""
    model, _ = masked(1)
    several, one = (kinds(compiled(model, target=t)).count("Conv") for t in ("top:3", "argmax"))
    assert several > 2 * one
    attention, _ = transformer(1)
    together, alone = (len(compiled(attention, target=t).graph.node) for t in ("top:3", "argmax"))
    assert together < 1.3 * alone
    assert len(compiled(model, target=list(range(7)) * 400).graph.node) < 20_000


@pytest.mark.parametrize("make", [lambda: masked(2), lambda: transformer(3), lambda: densenet("N")])
def test_leaves(make: Callable[[], tuple[onnx.ModelProto, Feeds]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What orders the sums of C_b: unread, behind everything, of no effect; each reads what only C_b needs."""
    model, feeds = make()
    proto = compiled(model)
    nodes = list(proto.graph.node)
    read = {i for n in nodes for i in n.input} | {o.name for o in proto.graph.output}
    unread = [i for i, n in enumerate(nodes) if not read.intersection(n.output)]
    assert unread
    assert unread == list(range(len(nodes) - len(unread), len(nodes)))
    assert {nodes[i].op_type for i in unread} == {"Neg"}
    needed = {"C_w"}
    for n in reversed(nodes):
        if needed.intersection(n.output):
            needed.update(n.input)
    assert not any(needed.intersection(nodes[i].input) for i in unread)
    first = [next(k for k, n in enumerate(nodes) if nodes[i].input[0] in n.output) for i in unread]
    assert first == sorted(first, reverse=True)
    monkeypatch.setattr(compiler, "leaves", lambda emit, nodes, first: leaves(emit, nodes, first)[:0])
    assert_same(compiled(model), proto, feeds)


def test_a_norm_tells_its_own_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's node gives 1/std, but where that would have a runtime fuse it with the Add in front."""
    model, feeds = post_norm()
    proto = compiled(model)
    own = [n.name for n in model.graph.node if n.op_type == "LayerNormalization"]
    outputs = {n.name: len(n.output) for n in proto.graph.node if n.op_type == "LayerNormalization"}
    assert [outputs[name] for name in own] == [1, 3]
    assert len(outputs) == 3, "the first one stands twice"
    monkeypatch.setattr(norms, "_only_reader_of_a_sum", lambda *_: True)
    assert_same(compiled(model), proto, feeds)


def test_small_constants_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer nodes, the same numbers."""
    model, feeds = densenet(2)
    proto = compiled(model)
    monkeypatch.setattr(Emitter, "_folded", lambda *_: None)
    longer = compiled(model)
    assert len(longer.graph.node) > len(proto.graph.node) + 10
    assert_same(longer, proto, feeds)


def test_a_shared_matrix_is_read_as_it_is_stored() -> None:
    """A classifier that is the embedding turned: its rows are looked up in the embedding."""
    net = Net(5, 2)
    table = net.weight(CLASSES, WIDTH)
    x = net.given("x", net.rng.normal(size=(2, WIDTH)).astype(np.float32), [2, WIDTH])
    h = net.op("Tanh", net.op("MatMul", x, net.weight(WIDTH, WIDTH)))
    model, feeds = net.finished(net.op("MatMul", h, net.op("Transpose", table, perm=[1, 0])))
    proto = compiled(model)
    assert [n.op_type for n in proto.graph.node if table in n.input] == ["Transpose", "Gather"]
    found = run(proto, feeds)
    np.testing.assert_allclose((found["C_w"] * feeds["x"]).sum(1) + found["C_b"].sum(1), found["score"], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_from_zero(dtype: str) -> None:
    """W = clip(x, 0, 6) / x, 0 at 0 of either sign, and finite everywhere."""
    x: Any = np.asarray([[0.0, -0.0, 1e-30, 3, 6, 6.5, 1e9, 3e38, -1, -1e-30, -3e38, np.inf, -np.inf]], np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "lo", "hi"], ["y"])], "g", [info("x", TensorProto.FLOAT, x.shape)],
        [info("y", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("lo", 0.0), ("hi", 6.0))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    proto = compiled(model, target="seed", dtype=dtype)
    found = run(proto, {"x": x, "seed": np.ones(x.shape, dtype)})
    with np.errstate(all="ignore"):
        wanted = np.where(x > 0, np.clip(x, 0, 6) / x, 0)
    wanted[~np.isfinite(x)] = 0
    np.testing.assert_allclose(found["C_w"], wanted, rtol=1e-6)
    assert not found["C_b"].any() or not np.isfinite(x).all()
