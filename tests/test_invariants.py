"""The ten invariants of the calculus, each a test, on the trained networks of models/."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from explaining import Result, assert_close, assert_complete, compiled, distance, explain, run
from onnx import TensorProto, helper, numpy_helper

from omenn_onnx.compiler import adjoint_maps
from omenn_onnx.graph.files import load_model
from omenn_onnx.graph.ir import Tensor
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Var, needed
from omenn_onnx.linear.transpose import transpose
from omenn_onnx.linearise import Linearised, forward_model, linearise
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered
from omenn_onnx.seeds import make_seed, parse_target

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS.parent / "tools"))

import networks  # noqa: E402

torch.set_num_threads(1)

NETWORKS = ("digits_cnn", "digits_vit", "grammar_text", "breast_cancer_mlp")
RULES = ("secant", "tangent")
CLASSES = {"digits_cnn": 10, "digits_vit": 10, "grammar_text": 3, "breast_cancer_mlp": 2}
INSIDE = [
    ("digits_cnn", "relu_2", "conv2d_6"),
    ("digits_cnn", "max_pool2d", "logits"),
    ("digits_vit", "layer_norm", "select_9"),
    ("digits_vit", "add_74", "gelu_1"),
    ("grammar_text", "add_79", "sum_1"),
    ("breast_cancer_mlp", "div", "relu_1"),
]
"""Segments between two tensors inside a network."""

both_rules = pytest.mark.parametrize("rules", RULES)
every_network = pytest.mark.parametrize("name", NETWORKS)


def model(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


def real_inputs(name: str, rows: int = 4) -> dict[str, np.ndarray]:
    with np.load(MODELS / f"{name}.npz") as data:
        return {key: data[key][:rows] for key in networks.INPUT_NAMES[name]}


@functools.cache
def program(name: str, rules: str, target: str = "argmax", dtype: str = "float32") -> onnx.ModelProto:
    return compiled(model(name), rules=rules, target=target, dtype=dtype)


def seeds(name: str, rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, CLASSES[name])).astype(np.float32)


def linear_program(name: str, rules: str, **options: object) -> Linearised:
    return linearise(load_model(MODELS / f"{name}.onnx"), rules=rules, **options)


def source_of(lin: Linearised) -> Tensor:
    (source,) = lin.sources
    return source


def completed(lin: Linearised, outputs: list[tuple[Tensor, str]], inputs: Iterable[Tensor] = ()) -> onnx.ModelProto:
    """The model with further outputs."""
    append_nodes(lin.proto, live_nodes(lin.emit.nodes, [t for t, _ in outputs]), list(inputs), outputs)
    return lin.proto


def value_of(name: str, tensor: str, rows: int = 4) -> np.ndarray:
    """A tensor inside the original network."""
    proto = model(name)
    if tensor not in {i.name for i in proto.graph.input} | {o.name for o in proto.graph.output}:
        proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    feeds = real_inputs(name, rows)
    return feeds[tensor] if tensor in feeds else run(proto, feeds)[tensor]


# 1. Completeness


@both_rules
@every_network
@pytest.mark.parametrize("target", ["argmax", "0", "top:2", "0-1", "seed", "input"])
def test_1_completeness(name: str, target: str, rules: str) -> None:
    """Real and random inputs, batches of 1, 3 and 7, every kind of target."""
    proto = program(name, rules, target)
    random = np.random.default_rng(1)
    for rows in (1, 3, 7):
        real = real_inputs(name, rows)
        if name == "grammar_text":
            mask = np.ones_like(real["attention_mask"])
            drawn = {"token_ids": random.integers(1, 52, mask.shape), "attention_mask": mask}
        else:
            drawn = {
                k: (v.std(0) * random.standard_normal(v.shape) + v.mean(0)).astype(v.dtype) for k, v in real.items()
            }
        extra = {"seed": {"seed": seeds(name, rows, 2)}, "input": {"target": random.integers(0, CLASSES[name], rows)}}
        for feeds in (real, drawn):
            result = explain(proto, {**feeds, **extra.get(target, {})})
            columns = range(2) if target == "top:2" else [None]
            for k in columns:
                one = result if k is None else column(result, k)
                assert_complete(one)
                assert np.isfinite(one.condition())


def column(result: Result, k: int) -> Result:
    """One of several targets."""
    maps = [c[:, k] for c in result.c_w], [c[:, k] for c in result.c_b]
    return Result(result.outputs, result.score[:, k], result.target[:, k], result.x, *maps)


@both_rules
@pytest.mark.parametrize("name", [*NETWORKS, "breast_cancer_sklearn"])
def test_1_completeness_in_double(name: str, rules: str) -> None:
    """In double the residual is that of double arithmetic: nothing but rounding is left of it."""
    feeds = real_inputs(name, 2)
    result = explain(program(name, rules, dtype="float64"), feeds, reference=True)
    assert result.score.dtype == np.float64
    assert_complete(result, 1e-12)
    assert_close(result.c_w[0], explain(program(name, rules), feeds).c_w[0], 1e-4, "C_w")


# 2. The tangent rule set is the gradient


@every_network
def test_2_tangent_is_the_gradient_in_double(name: str) -> None:
    """In double, C_w equals torch's gradient in double far below the bar of float32."""
    feeds = real_inputs(name, 2)
    result = explain(program(name, "tangent", dtype="float64"), feeds, reference=True)
    network = networks.load(name).double()
    if name == "grammar_text":
        x = network.words(torch.from_numpy(feeds["token_ids"])).detach().requires_grad_()
        z = network.from_embeddings(x, torch.from_numpy(feeds["attention_mask"]))
    else:
        x = torch.from_numpy(next(iter(feeds.values()))).double().requires_grad_()
        z = network.logits(x)
    y = z.gather(1, torch.tensor(result.target)[:, None]).sum()
    (gradient,) = torch.autograd.grad(y, x)
    # What remains is that exporters fold and round weights in float32 (BatchNorm into convolutions, sqrt of scales).
    assert_close(result.c_w[0], gradient.numpy(), 1e-5, "C_w")


# 3. Different forms of one network


def decomposed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """LayerNormalization, Gelu and Softmax written out by the operators that define them."""
    made: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type not in ("LayerNormalization", "Gelu", "Softmax"):
            made.append(node)
            continue
        parts, out = written_out(node, f"{node.name}/parts")
        made += [*parts, helper.make_node("Identity", [out], [node.output[0]])]
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.ClearField("node")
    changed.graph.node.extend(made)
    constants = {"half": 0.5, "one": 1.0, "root2": 2**0.5, "eps": 1e-5}
    changed.graph.initializer.extend(numpy_helper.from_array(np.float32(v), k) for k, v in constants.items())
    changed.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    onnx.checker.check_model(changed)
    return changed


def written_out(node: onnx.NodeProto, prefix: str) -> tuple[list[onnx.NodeProto], str]:
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, *inputs: str) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"{prefix}/{len(nodes)}"], name=f"{prefix}/{len(nodes)}"))
        return nodes[-1].output[0]

    x = node.input[0]
    if node.op_type == "Gelu":
        phi = op("Mul", op("Add", op("Erf", op("Div", x, "root2")), "one"), "half")
        return nodes, op("Mul", x, phi)
    if node.op_type == "Softmax":
        e = op("Exp", op("Sub", x, op("ReduceMax", x, "last")))
        return nodes, op("Div", e, op("ReduceSum", e, "last"))
    centred = op("Sub", x, op("ReduceMean", x, "last"))
    deviation = op("Sqrt", op("Add", op("ReduceMean", op("Mul", centred, centred), "last"), "eps"))
    y = op("Mul", op("Div", centred, deviation), node.input[1])
    return nodes, op("Add", y, node.input[2])


@both_rules
@pytest.mark.parametrize("name", ["digits_vit", "grammar_text"])
def test_3_fused_and_decomposed(name: str, rules: str) -> None:
    """Norms, GELU and softmax written out give the same maps (C_b of norms in tangent is an accepted difference)."""
    feeds = real_inputs(name)
    fused, parts = explain(program(name, rules), feeds), explain(compiled(decomposed(model(name)), rules=rules), feeds)
    assert_close(parts.c_w[0], fused.c_w[0], 1e-4, "C_w")
    if rules == "secant":
        assert_close(parts.c_b[0], fused.c_b[0], 1e-4, "C_b")


@both_rules
@every_network
def test_3_optimised_offline(name: str, rules: str, tmp_path: Path) -> None:
    """A copy that ONNX Runtime's basic optimisation wrote (constants folded, nodes fused and removed)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model(name).SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = real_inputs(name)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert all(n.domain in ("", "ai.onnx") for n in optimised.graph.node)
    other = explain(compiled(optimised, rules=rules), feeds)
    main = explain(program(name, rules), feeds)
    assert_close(other.c_w[0], main.c_w[0], 1e-4, "C_w")
    assert_close(other.c_b[0], main.c_b[0], 1e-4, "C_b")


# 4. A batch is explained as its rows are


@both_rules
@every_network
def test_4_batch_and_rows(name: str, rules: str) -> None:
    """Six rows together and each by itself."""
    proto, feeds = program(name, rules), real_inputs(name, 6)
    together = explain(proto, feeds)
    for i in range(6):
        alone = explain(proto, {k: v[i : i + 1] for k, v in feeds.items()})
        assert_close(alone.c_w[0], together.c_w[0][i : i + 1], 1e-4, "C_w")
        assert_close(alone.c_b[0], together.c_b[0][i : i + 1], 1e-4, "C_b")


# 5. Forward and reverse


def forward_and_reverse(name: str, rules: str, options: dict[str, object]) -> None:
    """<u, R (v, o)> = <C_w, v> + <C_b, o> for random u, v and o."""
    lin = linear_program(name, rules, **options)
    source, z = source_of(lin), lin.output.name
    x = value_of(name, source.name)
    ones_shape = [1 if i == lin.axes[source] else n for i, n in enumerate(x.shape)]
    random = np.random.default_rng(8)
    v = random.standard_normal(x.shape).astype(np.float32)
    o = random.uniform(-1, 1, ones_shape).astype(np.float32)  # a mask of -3.4e38 times more than 1 overflows
    feeds = real_inputs(name)
    forward = run(forward_model(lin), {**feeds, f"v.{source.name}": v, f"o.{source.name}": o})
    u = random.standard_normal(forward["R_value"].shape).astype(np.float32)
    names = {"inputs": options.get("inputs", ()), "output": z, "target": "seed", "rules": rules}
    result = explain(compiled(model(name), **names), {**feeds, "seed": u})
    c_w, c_b = result.c_w[0].astype(np.float64), result.c_b[0].astype(np.float64)
    left, right = np.sum(u.astype(np.float64) * forward["R_value"]), np.sum(c_w * v) + np.sum(c_b * o)
    scale = np.sum(np.abs(u * forward["R_value"])) + np.sum(np.abs(c_w * v)) + np.sum(np.abs(c_b * o))
    assert abs(left - right) <= 1e-5 * scale, f"<u, R v> = {left}, <R^T u, v> = {right}"


@both_rules
@every_network
def test_5_forward_and_reverse(name: str, rules: str) -> None:
    """From the input to the logits."""
    forward_and_reverse(name, rules, {})


@both_rules
@pytest.mark.parametrize(("name", "start", "end"), INSIDE)
def test_5_between_any_tensors(name: str, start: str, end: str, rules: str) -> None:
    """From a tensor inside to another one."""
    forward_and_reverse(name, rules, {"inputs": [start], "output": end})


@both_rules
@every_network
def test_5_ones_stream(name: str, rules: str) -> None:
    """<u, R_ones o> = <R_ones^T u, o> for random o: the ones stream has the same adjoint."""
    lin = linear_program(name, rules)
    source = source_of(lin)
    ones_in, ones_out = lin.sources[source][1], lin.calculus.pairs[lin.output].ones
    given = Tensor("u", lin.emit.dtype, ones_out.shape)
    seed = Var(ones_out.shape)
    adjoint = Builder(lin.emit)
    found = transpose(lin.equations, {ones_out: seed}, [ones_in], adjoint)
    cotangent = (found[0] if isinstance(found, tuple) else found)[ones_in]
    assert cotangent is not None
    low = Lowering(lin.emit, {seed: Lowered(given, ones_out.shape)})
    low.run(adjoint.equations)
    proto = completed(lin, [(low.full(cotangent), "adjoint")], [given])
    forward = forward_model(linear_program(name, rules))
    x = value_of(name, source.name)
    shape = [1 if d == 1 else x.shape[i] for i, d in enumerate(ones_in.shape)]
    random = np.random.default_rng(9)
    o, feeds = random.standard_normal(shape).astype(np.float32), real_inputs(name)
    image = run(forward, {**feeds, f"v.{source.name}": np.zeros_like(x), f"o.{source.name}": o})["R_ones"]
    u = random.standard_normal(image.shape).astype(np.float32)
    back = run(proto, {**feeds, "u": u})["adjoint"]
    left, right = np.sum(u.astype(np.float64) * image), np.sum(back.astype(np.float64) * o)
    assert abs(left - right) <= 1e-5 * (np.sum(np.abs(u * image)) + np.sum(np.abs(back * o)))


# 6. Seeds


@both_rules
@every_network
def test_6_seeds_are_linear(name: str, rules: str) -> None:
    """C_w and C_b of 2.5 s + t are 2.5 times those of s and those of t."""
    proto, feeds = program(name, rules, "seed"), real_inputs(name)
    s, t = seeds(name, 4, 3), seeds(name, 4, 4)
    first, second, sum_ = (explain(proto, {**feeds, "seed": seed}) for seed in (s, t, 2.5 * s + t))
    assert_close(sum_.c_w[0], 2.5 * first.c_w[0] + second.c_w[0], 1e-5, "C_w")
    assert_close(sum_.c_b[0], 2.5 * first.c_b[0] + second.c_b[0], 1e-5, "C_b")
    assert_close(sum_.score, 2.5 * first.score + second.score, 1e-5, "score")


@both_rules
@every_network
def test_6_margins_are_differences(name: str, rules: str) -> None:
    """The margin 1-0 is class 1 less class 0."""
    feeds = real_inputs(name)
    one, zero, margin = (explain(program(name, rules, t), feeds) for t in ("1", "0", "1-0"))
    assert_close(margin.c_w[0], one.c_w[0] - zero.c_w[0], 1e-5, "C_w")
    assert_close(margin.c_b[0], one.c_b[0] - zero.c_b[0], 1e-5, "C_b")


# 7. Symmetries


@both_rules
@every_network
def test_7_permuted_rows(name: str, rules: str) -> None:
    """Rows in another order: maps in that order."""
    proto, feeds = program(name, rules), real_inputs(name, 6)
    order = np.random.default_rng(6).permutation(6)
    before, after = explain(proto, feeds), explain(proto, {k: v[order] for k, v in feeds.items()})
    assert_close(after.c_w[0], before.c_w[0][order], 1e-5, "C_w")
    assert_close(after.c_b[0], before.c_b[0][order], 1e-5, "C_b")


@both_rules
def test_7_translation(rules: str) -> None:
    """In a network of unpadded convolutions and pools, moving image and seed moves the map."""
    random = np.random.default_rng(12)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) * 0.4, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], dilations=[2, 2]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2]),
        helper.make_node("AveragePool", ["e"], ["z"], kernel_shape=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "unpadded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 20, 20])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [weight("w1", 4, 2, 3, 3), weight("b1", 4), weight("w2", 3, 4, 3, 3), weight("b2", 3)],
    )
    proto = compiled(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
                     rules=rules, target="seed")  # fmt: skip
    x = random.standard_normal((1, 2, 20, 20)).astype(np.float32)
    seed = np.zeros((1, 3, 12, 12), np.float32)
    seed[0, :, 3, 4] = random.standard_normal(3)
    here = explain(proto, {"x": x, "seed": seed})
    moved = explain(proto, {"x": np.roll(x, (5, 4), (2, 3)), "seed": np.roll(seed, (5, 4), (2, 3))})
    assert_complete(here)
    assert_close(moved.c_w[0], np.roll(here.c_w[0], (5, 4), (2, 3)), 1e-5, "C_w")
    assert_close(moved.c_b[0], np.roll(here.c_b[0], (5, 4), (2, 3)), 1e-5, "C_b")
    assert np.count_nonzero(here.c_w[0][:, :, :3]) == 0, "the map leaves the receptive field"


# 8. No biases


def without_biases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """All additive constants set to zero: biases, positions, class token, running means."""
    places = {"Conv": (2,), "Gemm": (2,), "BatchNormalization": (2, 3), "LayerNormalization": (2,), "Sub": (1,)}
    weights = {i.name: i for i in proto.graph.initializer}
    names = {n.input[i] for n in proto.graph.node for i in places.get(n.op_type, ())}
    names |= {k for n in proto.graph.node if n.op_type == "Add" for k in n.input if k in weights and weights[k].dims}
    names |= {"positions", "class_token"}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for i in changed.graph.initializer:
        if i.name in names:
            i.CopyFrom(numpy_helper.from_array(np.zeros(i.dims, np.float32), i.name))
    return changed


@both_rules
@every_network
def test_8_no_biases(name: str, rules: str) -> None:
    """Without biases C_b is zero. (In tangent only where every operator is homogeneous: no GELU, softmax or norm.)"""
    if rules == "tangent" and name in ("digits_vit", "grammar_text"):
        name = "breast_cancer_mlp"
    result = explain(compiled(without_biases(model(name)), rules=rules), real_inputs(name))
    assert_complete(result)
    assert np.abs(result.c_b[0]).sum() <= 1e-6 * np.abs(result.c_w[0] * result.x[0]).sum()


# 9. Per-layer bias maps


def layer_maps(proto: onnx.ModelProto, rules: str, target: str = "seed") -> tuple[onnx.ModelProto, list[str]]:
    """The model with C_b and the bias map of every layer that has one as outputs."""
    lin = linearise(load_model(proto), rules=rules)
    seeded = make_seed(lin.emit, parse_target(target), lin.emit.cast(lin.output), 1, "seed")
    owners = list(dict.fromkeys(e.owner for e in lin.equations if e.bias))

    def biases_of(owner: str) -> Callable[..., bool]:
        return lambda e: not e.bias or e.owner == owner

    source = source_of(lin)
    outputs = [(adjoint_maps(lin, seeded)[source][1], "all")]
    outputs += [(adjoint_maps(lin, seeded, keep=biases_of(owner))[source][1], f"layer.{owner}") for owner in owners]
    assert seeded.new_input is not None
    return completed(lin, outputs, [seeded.new_input]), owners


@both_rules
@every_network
def test_9_sum_of_the_layers(name: str, rules: str) -> None:
    """C_b is the sum of the bias maps of all layers, and more than one layer has one."""
    proto, owners = layer_maps(model(name), rules)
    found = run(proto, {**real_inputs(name), "seed": seeds(name, 4, 5)})
    assert_close(sum(found[f"layer.{o}"].astype(np.float64) for o in owners), found["all"], 1e-5, "sum of the layers")
    assert sum(np.abs(found[f"layer.{o}"]).max() > 0 for o in owners) >= 4


def linear_network(name: str) -> onnx.ModelProto:
    """The network without what is not linear: Identity for Relu, averages for maxima."""
    proto = model(name)
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Identity"
        elif node.op_type == "MaxPool":
            node.op_type = "AveragePool"
            for attribute in [a for a in node.attribute if a.name in ("storage_order", "dilations")]:
                node.attribute.remove(attribute)
    return proto


@both_rules
@pytest.mark.parametrize("name", ["digits_cnn", "breast_cancer_mlp"])
def test_9_doubled_biases(name: str, rules: str) -> None:
    """In a linear network, doubling one bias adds exactly that layer's map to C_b and leaves C_w."""
    proto = linear_network(name)
    feeds = {**real_inputs(name), "seed": seeds(name, 4, 6)}
    maps, owners = layer_maps(proto, rules)
    layers = run(maps, feeds)
    before = explain(compiled(proto, rules=rules, target="seed"), feeds)
    place = {"Conv": 2, "Gemm": 2, "BatchNormalization": 2, "Sub": 1}
    affine = [n for n in proto.graph.node if n.op_type in place]
    assert {n.name for n in affine} <= set(owners)
    uneven = 0
    for node in affine:
        bias = node.input[place[node.op_type]]
        doubled = onnx.ModelProto()
        doubled.CopyFrom(proto)
        for i in doubled.graph.initializer:
            if i.name == bias:
                i.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(i), bias))
        after = explain(compiled(doubled, rules=rules, target="seed"), feeds)
        expected = layers[f"layer.{node.name}"].astype(np.float64)
        if node.op_type == "BatchNormalization":  # its map holds the running mean's part too
            no_bias = explain(compiled(without(proto, node.input[2]), rules=rules, target="seed"), feeds)
            expected = before.c_b[0].astype(np.float64) - no_bias.c_b[0]
        change = after.c_b[0].astype(np.float64) - before.c_b[0]
        assert np.abs(change - expected).max() <= 1e-5 * max(np.abs(before.c_b[0]).max(), np.abs(expected).max())
        assert_close(after.c_w[0], before.c_w[0], 1e-6, "C_w")
        uneven += np.ptp(change[0]) > 1e-3 * np.abs(change[0]).max()
    assert uneven >= 3 or name == "breast_cancer_mlp", "bias maps are spread evenly"


def without(proto: onnx.ModelProto, bias: str) -> onnx.ModelProto:
    """The model with one constant set to zero."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for i in changed.graph.initializer:
        if i.name == bias:
            i.CopyFrom(numpy_helper.from_array(np.zeros(i.dims, np.float32), bias))
    return changed


# 10. Ones stay ones


@both_rules
@every_network
def test_10_ones_stay_ones(name: str, rules: str) -> None:
    """Run forward from (X, 1), every tensor's value stream is the tensor itself and its ones stream is all ones."""
    lin = linear_program(name, rules)
    source = source_of(lin)
    value, ones = lin.sources[source]
    given = Tensor("v", lin.emit.dtype, value.shape), Tensor("o", lin.emit.dtype, ones.shape)
    low = Lowering(lin.emit, {value: Lowered(given[0], value.shape), ones: Lowered(given[1], ones.shape)})
    pairs = {t: p for t, p in lin.calculus.pairs.items() if t is not source and t.is_float}
    low.run(needed(lin.equations, [v for p in pairs.values() for v in (p.value, p.ones)]))
    outputs: list[tuple[Tensor, str]] = []
    for i, (t, p) in enumerate(pairs.items()):
        outputs += [(low.full(p.value), f"value.{i}"), (low.full(p.ones), f"ones.{i}"), (t, f"tensor.{i}")]
    proto = completed(lin, outputs, given)
    x = value_of(name, source.name)
    o = np.ones([1 if d == 1 else x.shape[i] for i, d in enumerate(ones.shape)], np.float32)
    found = run(proto, {**real_inputs(name), "v": x, "o": o}, optimise=False)
    assert len(pairs) >= 8
    for i, t in enumerate(pairs):
        assert np.abs(found[f"ones.{i}"] - 1).max() <= 1e-5, f"ones of {t.name!r}"
        assert distance(found[f"value.{i}"], found[f"tensor.{i}"]) <= 2e-5, f"value of {t.name!r}"
