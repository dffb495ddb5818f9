"""Loops that scripts write: how often they run depends on the data, Ifs inside them, lists that they fill and read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from explaining import assert_close, assert_complete, assert_same_outputs, compiled, explain, run
from onnx import helper, numpy_helper, parser
from torch import nn

Array = np.ndarray[Any, Any]
RULES = ("secant", "tangent")
R = (np.random.default_rng(0).normal(size=(3, 3)) * 0.6).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
STEP = "h{n} = MatMul({s}, R); g{n} = Tanh(h{n}); k{n} = Mul({s}, rate); {t} = Add(g{n}, k{n})"
INFO = helper.make_tensor_value_info


def nodes(text: str) -> list[onnx.NodeProto]:
    return [parser.parse_node(t.strip()) for t in text.split(";") if t.strip()]


def model(
    made: list[onnx.NodeProto], weights: dict[str, Array], inputs: dict[str, Any], rank: int = 2
) -> onnx.ModelProto:
    infos = [INFO(name, 7 if name == "count" else 1, dims) for name, dims in inputs.items()]
    held = [numpy_helper.from_array(v, k) for k, v in {"R": R, "rate": np.float32(1.3), **weights}.items()]
    graph = helper.make_graph(
        made, "g", infos, [INFO("z", 1, [None] * rank)], [h for h in held if h.name not in inputs]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loop(body: str, condition: str, reads: list[str], collected: bool = False) -> onnx.NodeProto:
    """A Loop over the state s, whose next value is t; it goes on while ``condition`` gives on."""
    outputs = [INFO("on", 9, ()), INFO("t", 1, None), *([INFO("y", 1, None)] if collected else [])]
    made = nodes(f"{body}; {condition}" + ("; y = Identity(t)" if collected else ""))
    graph = helper.make_graph(made, "body", [INFO("i", 7, ()), INFO("go", 9, ()), INFO("s", 1, None)], outputs)
    return helper.make_node("Loop", reads, ["last", "all"][: 1 + collected], "steps", body=graph)


def written_out(steps: int) -> onnx.ModelProto:
    names = ["x", *(f"s{k}" for k in range(steps))]
    text = ";".join(STEP.format(n=k, s=names[k], t=names[k + 1]) for k in range(steps))
    return model(nodes(f"{text}; z = Identity({names[-1]})"), {}, {"x": ("N", 3)})


def same(found: Any, expected: Any) -> None:
    assert_complete(found)
    for a, b in ((found.c_w[0], expected.c_w[0]), (found.c_b[0], expected.c_b[0])):
        assert_close(a, b, 1e-5, "a map")


SIZE = "a = Abs(t); m = ReduceSum<keepdims=0>(a); on = Less(m, limit)"
ON = "on = Identity(go)"


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("collected", [False, True])
def test_as_long_as_the_data_say(collected: bool, rules: str) -> None:
    """A while loop over a condition of its state, run not at all, once, and several times."""
    start = nodes("a0 = Abs(x); m0 = ReduceSum<keepdims=0>(a0); begin = Less(m0, limit)")
    step = loop(STEP.format(n="", s="s", t="t"), SIZE, ["", "begin", "x"], collected)
    made = model([*start, step, *nodes("z = Identity(last)")], {"limit": np.float32(20)}, {"x": ("N", 3)})
    program = compiled(made, rules=rules)
    counts = []
    for size in (8.0, 3.0, 0.5):
        x = X * np.float32(size)
        total, h = 0, x
        while np.abs(h).sum() < 20:
            h, total = np.tanh(h @ R) + np.float32(1.3) * h, total + 1
        counts.append(total)
        for optimise in (True, False):
            found = explain(program, {"x": x}, optimise)
            assert_same_outputs(found, made, {"x": x}, optimise)
            same(found, explain(compiled(written_out(total), rules=rules), {"x": x}))
    assert counts[0] == 0 < counts[1] < counts[2]


@pytest.mark.parametrize(
    ("reads", "condition", "steps"),
    [
        (["five", "", "x"], ON, 5),
        (["five", "never", "x"], ON, 0),
        (["none", "", "x"], ON, 0),
        (["five", "", "x"], "on = Not(always)", 1),
        (["", "always", "x"], "on = Not(always)", 1),
        (["count", "", "x"], ON, 4),
        (["count", "", "x"], "on = Not(always)", 1),
    ],
)
def test_how_often(reads: list[str], condition: str, steps: int) -> None:
    """A trip count and a condition that are known at compile time, or a count that is an input."""
    weights = {"five": np.array(5), "none": np.array(0), "never": np.array(False), "always": np.array(True)}
    step = loop(STEP.format(n="", s="s", t="t"), condition, reads)
    dynamic = "count" in reads
    made = model([step, *nodes("z = Identity(last)")], weights, {"x": ("N", 3), **({"count": ()} if dynamic else {})})
    feeds = {"x": X, **({"count": np.array(4)} if dynamic else {})}
    same(explain(compiled(made), feeds), explain(compiled(written_out(steps)), {"x": X}))
    if dynamic:
        none = explain(compiled(made), {"x": X, "count": np.array(0)})
        same(none, explain(compiled(written_out(0)), {"x": X}))


@pytest.mark.parametrize("rules", RULES)
def test_a_state_that_grows_until_it_is_long_enough(rules: str) -> None:
    """Its size ends the loop: each step has other shapes."""
    body = "l = Slice(s, first, second, first); h = MatMul(l, R); n = Tanh(h); t = Concat<axis=0>(s, n)"
    condition = "q = Shape(t); e = Gather(q, zero); on = Less(e, six)"
    weights = {"first": np.array([0]), "second": np.array([1]), "zero": np.array(0), "six": np.array(6)}
    made = model([loop(body, condition, ["", "always", "x"]), *nodes("z = Identity(last)")],
                 {**weights, "always": np.array(True)}, {"x": (2, 3)})  # fmt: skip
    text = "a = Slice(x, first, second, first); b = MatMul(a, R); c = Tanh(b); z = Concat<axis=0>(x, c, c, c, c)"
    twin = model(nodes(text), weights, {"x": (2, 3)})
    seed = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    maps = []
    for m in (made, twin):
        program = compiled(m, rules=rules, target="seed", output="z")
        maps.append(run(program, {"x": X, "seed": seed}))
    for name in ("C_w", "C_b"):
        assert_close(maps[0][name], maps[1][name], 1e-5, name)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_ifs_in_a_loop_in_an_if(dynamic: bool, rules: str) -> None:
    """Each condition is of the data; what is computed around the If is read in the innermost branch."""

    def branch(name: str, text: str, out: str) -> onnx.GraphProto:
        return helper.make_graph(nodes(text), name, [], [helper.make_empty_tensor_value_info(out)])

    choose = helper.make_node("If", ["positive"], ["t"], "inner",
                              then_branch=branch("p", "b = MatMul(s, R); u = Tanh(b)", "u"),
                              else_branch=branch("q", "c = Sigmoid(s); d = Mul(c, s); v = Sub(d, w)", "v"))  # fmt: skip
    step = loop(
        "r = ReduceSum<keepdims=0>(s); positive = Greater(r, nought)", ON, ["count" if dynamic else "five", "", "w"]
    )
    body = next(a.g for a in step.attribute if a.name == "body")
    body.node.insert(2, choose)
    long = helper.make_graph([step], "long", [], [helper.make_empty_tensor_value_info("last")])
    short = branch("short", "e = Relu(w); f = Neg(e)", "f")
    outer = helper.make_node("If", ["large"], ["chosen"], "outer", then_branch=long, else_branch=short)
    text = "w = MatMul(x, R); m = ReduceMax<keepdims=0>(x); large = Greater(m, nought)"
    weights = {"five": np.array(5), "nought": np.float32(0)}
    made = model([*nodes(text), outer, *nodes("z = Add(chosen, x)")], weights,
                 {"x": ("N", 3), **({"count": ()} if dynamic else {})})  # fmt: skip
    program = compiled(made, rules=rules)
    for x in (X, -X, -np.abs(X)):
        s, lines = x @ R, ["w = MatMul(x, R)"]
        if x.max() > 0:
            for k in range(5):
                before = "w" if k == 0 else f"t{k - 1}"
                if s.sum() > 0:
                    s = np.tanh(s @ R)
                    lines.append(f"b{k} = MatMul({before}, R); t{k} = Tanh(b{k})")
                else:
                    s = s / (1 + np.exp(-s)) - x @ R
                    lines.append(f"c{k} = Sigmoid({before}); d{k} = Mul(c{k}, {before}); t{k} = Sub(d{k}, w)")
            lines.append("z = Add(t4, x)")
        else:
            lines.append("e = Relu(w); f = Neg(e); z = Add(f, x)")
        expected = explain(compiled(model(nodes(";".join(lines)), {}, {"x": ("N", 3)}), rules=rules), {"x": x})
        feeds = {"x": x, **({"count": np.array(5)} if dynamic else {})}
        for optimise in (True, False):
            found = explain(program, feeds, optimise)
            assert_same_outputs(found, made, feeds, optimise)
            same(found, expected)


class Lists(nn.Module):
    """A recurrent cell that reads a list and writes one, as scripts do."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.keep, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.size(0), 4)
        found: list[torch.Tensor] = []
        for e in x.unbind(1):
            h = torch.tanh(self.read(e) + self.keep(h))
            found += [h]
        pieces = [self.head(p).sum(1) for p in torch.stack(found, 1).split(2, 1)]
        z: torch.Tensor = torch.stack(pieces, 0).sum(0) + self.head(torch.cat(found, 1)[:, :4])
        return z


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_lists(dynamic: bool) -> None:
    """As TorchScript exports them: sequences in loops. tangent is torch's gradient."""
    torch.manual_seed(0)
    module, x, file = Lists().eval(), torch.randn(2, 5, 3), io.BytesIO()
    axes = {"x": {0: "N", 1: "T"}} if dynamic else None
    torch.onnx.export(torch.jit.script(module), (x,), file, dynamo=False, opset_version=17, input_names=["x"],
                      output_names=["z"], dynamic_axes=axes)  # fmt: skip
    made = onnx.load_from_string(file.getvalue())
    for rules in RULES:
        program = compiled(made, rules=rules)
        for given in (x, torch.randn(3, 8, 3)) if dynamic else (x,):
            given.requires_grad_()
            found = explain(program, {"x": given.detach().numpy()})
            assert_same_outputs(found, made, {"x": given.detach().numpy()}, True)
            assert_complete(found)
            if rules == "tangent":
                (gradient,) = torch.autograd.grad(module(given).max(1).values.sum(), given)
                assert_close(found.c_w[0], gradient.numpy(), 1e-5, "C_w")


def scan(steps: int | str, axis: int, out_axis: int, backwards: int, local: bool) -> onnx.ModelProto:
    """Two states and two collected sequences, read and written along other axes and in other directions."""
    body = helper.make_graph(
        nodes("m = MatMul(s, R); a = Add(m, e); h = Tanh(a); q = Sub(c, h); w = Sigmoid(q); d = Mul(w, q); "
              "y = Add(h, d); k = Identity(e)"),
        "body", [INFO(n, 1, None) for n in "sce"], [INFO(n, 1, None) for n in "hdyk"],
    )  # fmt: skip
    perms = ([1, 0, 2], [0, 1, 2], [0, 2, 1])  # their own inverses: the steps at axis 0, 1, 2 of what is [N, T, 3]
    step = helper.make_node(
        "Scan", ["s0", "c0", "xt"], ["sl", "cl", "Y", "K"], "steps", body=body, num_scan_inputs=1,
        scan_input_axes=[axis], scan_output_axes=[out_axis] * 2, scan_input_directions=[backwards],
        scan_output_directions=[0, 1],
    )  # fmt: skip
    made = [helper.make_node("Transpose", ["x"], ["xt"], perm=perms[axis]), step]
    made += [helper.make_node("Transpose", [n], [f"{n}b"], perm=perms[out_axis]) for n in "YK"]
    made += nodes("p = Mul(Yb, Kb); r = ReduceSum<keepdims=0>(p, one); f = Add(r, sl); z = Add(f, cl)")
    reads, weights = ["x", "s0", "c0", "R", "one"], {"one": np.array([1])}
    functions = []
    if local:
        functions = [helper.make_function("own", "Net", reads, ["z"], made, [helper.make_opsetid("", 17)])]
        made = [helper.make_node("Net", reads, ["z"], domain="own")]
    whole = model(made, weights, {"x": ("N", steps, 3), "s0": ("N", 3), "c0": ("N", 3)})
    whole.functions.extend(functions)
    whole.opset_import.extend([helper.make_opsetid("own", 1)] if local else [])
    return whole


@pytest.mark.parametrize(("axis", "out_axis", "backwards"), [(0, -1, 0), (1, 0, 1), (-1, 1, 0), (2, -1, 1)])
def test_axes_and_directions_of_a_scan(axis: int, out_axis: int, backwards: int) -> None:
    """Unrolled, as a Scan, and in a function."""
    random = np.random.default_rng(3)
    feeds = {"x": random.normal(size=(2, 4, 3)), **{n: random.normal(size=(2, 3)) for n in ("s0", "c0")}}
    feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
    results = []
    for steps, local in ((4, False), ("T", False), ("T", True)):
        made = scan(steps, axis, out_axis, backwards, local)
        results.append(explain(compiled(made, inputs=["x", "s0", "c0"]), feeds))
        assert_same_outputs(results[-1], made, feeds, True)
        assert_complete(results[-1])
    for found in results[1:]:
        for a, b in zip((*found.c_w, *found.c_b), (*results[0].c_w, *results[0].c_b), strict=True):
            assert_close(a, b, 1e-5, "a map")


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("backwards", [0, 1])
def test_a_state_that_starts_as_a_constant(backwards: int, rules: str) -> None:
    """A gated Scan of free length is what it is unrolled: its first step has a constant in place of the state."""
    body = nodes(
        "a = Add(e, s); u = Sigmoid(a); m = MatMul(s, R); b = Add(e, m); c = Tanh(b); d = Sub(s, c); k = Mul(u, d); "
        "t = Add(c, k); y = Mul(u, t)"
    )
    made = helper.make_graph(
        body, "body", [INFO("s", 1, (2, 3)), INFO("e", 1, (2, 3))], [INFO("t", 1, (2, 3)), INFO("y", 1, (2, 3))]
    )
    scan = helper.make_node(
        "Scan", ["start", "x"], ["last", "all"], "steps", body=made, num_scan_inputs=1,
        scan_input_directions=[backwards],
    )  # fmt: skip
    start = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    x = np.random.default_rng(2).normal(size=(5, 2, 3)).astype(np.float32)
    seed = np.random.default_rng(3).normal(size=(5, 2, 3)).astype(np.float32)
    found = []
    for length in ("T", 5):
        file = model([scan, *nodes("z = Add(all, last)")], {"start": start}, {"x": (length, 2, 3)}, 3)
        found.append(run(compiled(file, rules=rules, target="seed", channel_axis=2), {"x": x, "seed": seed}))
    for name in ("C_w", "C_b"):
        assert_close(found[0][name], found[1][name], 1e-5, name)
