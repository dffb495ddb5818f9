"""Every operator rule, by table (tests/cases): each case, in both rule sets, against the dense oracle and itself."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import CASES, REFUSED
from cases.base import Array, Case
from onnx.reference import ReferenceEvaluator
from oracle import explain

import omenn_onnx
from omenn_onnx.calculus.base import RULES
from omenn_onnx.errors import UnsupportedOperators
from omenn_onnx.graph.files import load_model
from omenn_onnx.linearise import forward_model, linearise

BAR = 1e-4
"""Of the largest entry of the oracle's map. (The issue asks for 1e-3; 1e-6 is typical.)"""
COMPLETE = 1e-5

BOTH = [pytest.param(c, r, id=f"{c.name}-{r}") for c in CASES for r in c.rules]
every_case = pytest.mark.parametrize(("case", "rules"), BOTH)


class Runner:
    """A file in ONNX Runtime (or, where that has no kernel, in onnx's reference evaluator)."""

    def __init__(self, model: onnx.ModelProto, case: Case, optimised: bool = False) -> None:
        self.names = [o.name for o in model.graph.output]
        self.wanted = {i.name for i in model.graph.input}
        if not case.runtime:
            self.run = ReferenceEvaluator(model).run
            return
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        self.run = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run

    def __call__(self, feeds: dict[str, Array]) -> dict[str, Array]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = self.run(None, {k: v for k, v in feeds.items() if k in self.wanted})
        return dict(zip(self.names, values, strict=True))


@lru_cache(maxsize=8)
def compiled(case: Case, rules: str, axis: int, dynamic: bool = False, target: str = "seed") -> onnx.ModelProto:
    return omenn_onnx.compile(
        case.model(dynamic),
        inputs=case.inputs,
        output=case.output,
        target=target,
        rules=rules,
        channel_axis=axis,
        opaque=case.opaque,
    )


@lru_cache(maxsize=8)
def maps_runner(case: Case, rules: str, axis: int) -> Runner:
    return Runner(compiled(case, rules, axis), case)


@lru_cache(maxsize=4)
def original(case: Case) -> dict[str, Array]:
    return Runner(case.model(), case)(case.feeds())


def seed_for(z: Array) -> Array:
    return np.random.default_rng(z.size).normal(size=z.shape).astype(np.float32)


def maps_of(result: dict[str, Array], case: Case) -> dict[str, Array]:
    """C_w and C_b by "C_w.NAME"."""
    if len(case.inputs) == 1:
        return {f"{m}.{case.inputs[0]}": result[m] for m in ("C_w", "C_b")}
    return {f"{m}.{n}": result[f"{m}.{n}"] for n in case.inputs for m in ("C_w", "C_b")}


def assert_same_maps(got: dict[str, Array], expected: dict[str, Array], feeds: dict[str, Array]) -> None:
    """Within BAR of the largest entry of all expected maps of the same kind; where C_b is what large parts of C_w X
    leave over, within BAR of a hundredth of those."""
    assert got.keys() == expected.keys()
    carried = max(np.abs(v * feeds[k[4:]]).max(initial=0) for k, v in expected.items() if k.startswith("C_w"))
    for kind in ("C_w", "C_b"):
        largest = max([np.abs(v).max(initial=0) for k, v in expected.items() if k.startswith(kind)])
        if kind == "C_b":
            largest = max(largest, 0.01 * carried)
        for k, v in expected.items():
            if k.startswith(kind):
                assert got[k].shape == v.shape, f"{k}: shape {got[k].shape}, not {v.shape}"
                gap = np.abs(got[k] - v).max(initial=0)
                assert gap <= BAR * max(largest, 1e-2), f"{k} is off by {gap:.3g} of {largest:.3g}\n{got[k]}\n{v}"


def oracle_maps(case: Case, rules: str, axis: int, feeds: dict[str, Array], seed: Array, dynamic: bool = False):
    r = explain(case.reference(dynamic), feeds, case.inputs, case.output, seed, rules, dict.fromkeys(case.inputs, axis))
    return {f"{m}.{n}": getattr(r, m)[n] for n in case.inputs for m in ("C_w", "C_b")}


def assert_complete(result: dict[str, Array], maps: dict[str, Array], feeds: dict[str, Array], case: Case) -> None:
    parts = [np.asarray(maps[f"C_w.{n}"], np.float64) * feeds[n].astype(np.float64) for n in case.inputs]
    parts += [np.asarray(maps[f"C_b.{n}"], np.float64) for n in case.inputs]
    score = float(np.sum(result["score"], dtype=np.float64))
    size = max(1.0, abs(score), sum(np.abs(p).sum() for p in parts))
    assert abs(score - sum(p.sum() for p in parts)) <= COMPLETE * size


def check_against_oracle(
    case: Case, rules: str, axis: int, runner: Runner, feeds: dict[str, Array], dynamic=False
) -> Array:
    """Maps and completeness for a random seed, which is returned."""
    shape = Runner(case.model(dynamic), case)(feeds)[case.output] if dynamic else original(case)[case.output]
    seed = seed_for(shape)
    if case.opaque:
        return seed
    result = runner({**feeds, "seed": seed})
    maps = maps_of(result, case)
    assert_same_maps(maps, oracle_maps(case, rules, axis, feeds, seed, dynamic), feeds)
    assert_complete(result, maps, feeds, case)
    return seed


@every_case
def test_maps(case: Case, rules: str) -> None:
    """C_w and C_b of a random seed as the oracle's, for several channel axes, optimisation off and on; complete; the
    model's own output bit for bit as before (4 ulp where the upgrade takes another kernel)."""
    feeds = case.feeds()
    for axis in case.channels():
        runner = (
            maps_runner(case, rules, axis) if axis == case.channels()[0] else Runner(compiled(case, rules, axis), case)
        )
        seed = check_against_oracle(case, rules, axis, runner, feeds)
    axis = case.channels()[0]
    result = maps_runner(case, rules, axis)({**feeds, "seed": seed})
    ulps = 0 if case.opset >= 20 else 4  # an older operator may have had another kernel
    np.testing.assert_array_max_ulp(result[case.output], original(case)[case.output], ulps)
    assert_complete(result, maps_of(result, case), feeds, case)
    if case.runtime:
        optimised = Runner(compiled(case, rules, axis), case, optimised=True)({**feeds, "seed": seed})
        assert_same_maps(maps_of(optimised, case), maps_of(result, case), feeds)
        assert_complete(optimised, maps_of(optimised, case), feeds, case)


@every_case
def test_forward_and_reverse_agree(case: Case, rules: str) -> None:
    """<R(v, o), s> = <C_w, v> + <C_b, o>; R maps (X, 1) to Z, and every ones rule maps all-ones to all-ones."""
    axis = case.channels()[0]
    feeds = case.feeds()
    lin = linearise(
        load_model(case.model()), case.inputs, case.output, rules, dict.fromkeys(case.inputs, axis), opaque=case.opaque
    )
    forward = Runner(forward_model(lin), case)
    z = original(case)[case.output].astype(np.float64)
    r = np.random.default_rng(0)
    thin = {n: tuple(1 if i == axis % len(s) else d for i, d in enumerate(s)) for n, s in case.shapes.items()}
    v = {n: r.normal(size=s).astype(np.float32) for n, s in case.shapes.items()}
    o = {n: r.normal(size=s).astype(np.float32) for n, s in thin.items()}

    def image(v: dict[str, Array], o: dict[str, Array]) -> tuple[Array, Array]:
        given = {f"v.{n}": a for n, a in v.items()} | {f"o.{n}": a for n, a in o.items()}
        result = forward({**feeds, **given})
        return result["R_value"].astype(np.float64), result["R_ones"].astype(np.float64)

    ones = {n: np.ones(s, np.float32) for n, s in thin.items()}
    zero = {n: np.zeros(s, np.float32) for n, s in case.shapes.items()}
    assert np.abs(np.broadcast_to(image(zero, ones)[1], z.shape) - 1).max(initial=0) <= 2e-6, "ones are not all ones"
    itself = {n: feeds[n].astype(np.float32) for n in case.inputs}
    finite = np.isfinite(z)
    gap = np.abs(image(itself, ones)[0] - z)[finite].max(initial=0)
    assert gap <= 2e-5 * max(1, np.abs(z[finite]).max(initial=0)), f"R maps (X, 1) to Z but for {gap}"

    seed = seed_for(z)
    maps = maps_of(maps_runner(case, rules, axis)({**feeds, "seed": seed}), case)
    value, _ = image(v, o)
    left = float((value * seed).sum())
    right = sum(float((maps[f"C_w.{n}"] * v[n]).sum(dtype=np.float64)) for n in case.inputs)
    right += sum(float((maps[f"C_b.{n}"] * o[n]).sum(dtype=np.float64)) for n in case.inputs)
    size = np.linalg.norm(value) * np.linalg.norm(seed)
    size += sum(np.linalg.norm(maps[f"C_w.{n}"]) * np.linalg.norm(v[n]) for n in case.inputs)
    size += sum(np.linalg.norm(maps[f"C_b.{n}"]) * np.linalg.norm(o[n]) for n in case.inputs)
    assert abs(left - right) <= 1e-4 * max(size, 1e-3), f"<R v, s> = {left}, <v, R' s> = {right}"


@every_case
def test_several_targets(case: Case, rules: str) -> None:
    """Several targets at once are the single ones, stacked on axis 1."""
    axis = case.channels()[0]
    feeds, z = case.feeds(), original(case)[case.output]
    lines = z.reshape(z.shape[0] if z.ndim else 1, -1)
    count = min(2, lines.shape[1])
    chosen = "0,1" if count == 2 else "0,0"
    several = maps_of(Runner(compiled(case, rules, axis, target=chosen), case)(feeds), case)
    one = maps_runner(case, rules, axis)
    for k in range(2):
        seed = np.zeros(lines.shape, np.float32)
        seed[:, k % count] = 1
        single = maps_of(one({**feeds, "seed": seed.reshape(z.shape)}), case)
        assert_same_maps({n: m[:, k] for n, m in several.items()}, single, feeds)


@pytest.mark.parametrize(("case", "rules"), [p for p in BOTH if p.values[0].dyn])
def test_dynamic_shapes(case: Case, rules: str) -> None:
    """The same with sizes as symbols, at two sizes."""
    axis = case.channels()[0]
    runner = Runner(compiled(case, rules, axis, dynamic=True), case)
    for other in (False, True):
        check_against_oracle(case, rules, axis, runner, case.feeds(other), dynamic=True)


ELSEWHERE = {("", "Scan"): "test_recurrent.py", ("", "Loop"): "test_recurrent.py"}
"""Rules for nodes with a body, which the oracle does not run: they have a suite of their own."""


@pytest.mark.parametrize("key", sorted(set(RULES) - set(ELSEWHERE)), ids="-".join)
def test_every_rule_has_a_case(key: tuple[str, str]) -> None:
    """A registered rule without a case in tests/cases fails here, by its name."""
    domain, op = key
    covered = {(n.domain, n.op_type) for c in CASES for n in c.model().graph.node}
    covered |= {(domain, name) for c in CASES for name in c.covers}
    covered |= {(n.domain, n.op_type) for c, _ in REFUSED for n in c.model().graph.node}
    assert key in covered, f"no case in tests/cases for the rule of {op}"


@pytest.mark.parametrize(("case", "why"), [pytest.param(c, why, id=c.name) for c, why in REFUSED])
def test_refused(case: Case, why: str) -> None:
    """What the calculus does not cover is an error that names the node and says why."""
    for rules in case.rules:
        with pytest.raises(UnsupportedOperators) as caught:
            omenn_onnx.compile(case.model(), inputs=case.inputs, output=case.output, rules=rules, target="seed")
        assert why in str(caught.value)
        assert any(f"node {n.name!r}: ai.onnx.{n.op_type} (opset" in str(caught.value) for n in case.model().graph.node)


def test_names_are_unique() -> None:
    names = [c.name for c in CASES]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})
