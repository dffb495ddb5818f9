"""Compile a network of the zoo, run it, and hold it to the bars, in both rule sets, runtime optimisation on and off."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import omenn_onnx
from omenn_onnx.errors import OmennError
from omenn_onnx.linearise import tensor_names
from zoo.entry import Array, Network, Sample

TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

import explaining  # noqa: E402
import oracle  # noqa: E402

RULES = ("secant", "tangent")
MAPS, GRADIENT, OUTPUTS, TWIN = 1e-3, 1e-3, 1e-5, 1e-4
"""Bars: maps against the oracle and the framework's gradient, outputs against the original's, maps against a twin's."""
WIDE = 4000
"""Inputs with more elements show the dense oracle their first row alone."""


@dataclass
class Finding:
    """What was measured of a network in one rule set. Distances are relative to the largest entry."""

    network: str
    rules: str
    nodes: int = 0
    seconds: float = 0.0
    residual: float = 0.0
    condition: float = 0.0
    outputs: float = 0.0
    oracle_w: float | None = None
    oracle_b: float | None = None
    gradient: float | None = None
    twin_w: float | None = None
    twin_b: float | None = None
    correlation: float | None = None
    note: str = ""
    failed: list[str] = field(default_factory=list)

    def hold(self, what: str, value: float, bar: float) -> None:
        """A value above its bar (or not a number) is a failure."""
        if not value <= bar:
            self.failed.append(f"{what} {value:.1e} > {bar:.0e}")


def maps_file(folder: Path, network: str, rules: str) -> Path:
    return folder / f"{network}.{rules}.maps.npz"


def examine(network: Network, folder: Path, rules: str) -> Finding:
    """Every check but the comparison with a twin. The maps are left in the folder."""
    finding = Finding(network.name, rules)
    refusal = network.refused.get(rules, "")

    def run() -> None:
        _examine(network, folder, rules, finding)
        if refusal:
            finding.failed.append(f"compiled, where {refusal!r} should be refused")

    finding.note = told(run, refusal, finding.failed)
    return finding


def told(run: Callable[[], None], refusal: str, failed: list[str]) -> str:
    """Run a check; what it raises goes to ``failed``; a refusal that is expected is returned as a note."""
    try:
        run()
    except OmennError as e:
        said = " ".join(str(e).split())
        if refusal and refusal in said:
            return f"refused: {refusal}"
        failed.append(f"{type(e).__name__}: {said[:400]}")
    except Exception as e:  # (whatever a network makes go wrong is a finding)
        failed.append(f"{type(e).__name__}: {' '.join(str(e).split())[:400]}")
    return ""


def _examine(network: Network, folder: Path, rules: str, finding: Finding) -> None:
    path, sample = network.model(folder), Sample.load(network.sample(folder))
    start = time.perf_counter()
    program = omenn_onnx.compile(path, rules=rules, **network.options)
    finding.seconds = time.perf_counter() - start
    finding.nodes = len(onnx.load(path, load_external_data=False).graph.node)
    meta = {p.key: p.value for p in program.metadata_props}
    feeds = {k: v for k, v in sample.feeds.items() if k not in _added(meta)}
    original: dict[bool, dict[str, Any]] = {o: explaining.run(path, feeds, o) for o in (True, False)}
    on, off = original[True], original[False]
    spread = {n: 1.01 * max(_gap(on[n], off[n]), _gap(off[n], on[n])) for n in on} if network.quantised else {}
    for optimise in (True, False):
        result = explaining.explain(program, sample.feeds, optimise)
        for a in (*result.c_w, *result.c_b, result.score):
            if not np.isfinite(a).all():
                finding.failed.append("not finite")
        by_row = json.loads(meta["omenn.rows"])
        finding.residual = max(finding.residual, result.residual(by_row))
        finding.condition = max(finding.condition, result.condition(by_row))
        for name, want in original[optimise].items():
            gap = _gap(result.outputs[name], want)
            finding.outputs = max(finding.outputs, gap)
            finding.hold(f"output {name}", gap, max(OUTPUTS, network.bar, spread.get(name, 0.0)))
        if optimise:
            _compare(network, rules, result, sample, finding)
            parts = {f"C_w/{i}": a for i, a in enumerate(result.c_w)}
            parts |= {f"C_b/{i}": a for i, a in enumerate(result.c_b)} | {f"X/{i}": a for i, a in enumerate(result.x)}
            np.savez(maps_file(folder, network.name, rules), target=result.target, **parts)
    finding.hold("residual", finding.residual, network.bar)
    for name, want in sample.outputs.items():
        finding.hold(f"{name} against the framework", _gap(original[True][name], want), max(1e-3, network.bar))
    if not network.oracle:
        given = sample.feeds
        if sum(x.size for x in result.x) > WIDE and _rows_are_free(path):
            feeds, given = ({k: v[:1] for k, v in some.items()} for some in (feeds, given))
        z = _intermediate(program, given, meta["omenn.output"])
        _ask_oracle(network, path, feeds, z.shape, rules, finding)


def _rows_are_free(path: Path) -> bool:
    """Whether the first size of every input is a symbol."""
    shapes = [v.type.tensor_type.shape.dim for v in onnx.load(path, load_external_data=False).graph.input]
    return all(len(dims) > 0 and bool(dims[0].dim_param) for dims in shapes)


def _compare(network: Network, rules: str, result: explaining.Result, sample: Sample, finding: Finding) -> None:
    """tangent: C_w is the framework's gradient."""
    if rules != "tangent" or not sample.gradients:
        return
    several = result.score.ndim == 2
    found = [c.sum(axis=1) if several else c for c in result.c_w]
    finding.gradient = max(explaining.distance(a, b) for a, b in zip(found, sample.gradients, strict=True))
    finding.hold("gradient", finding.gradient, max(GRADIENT, 10 * network.bar))


def _ask_oracle(
    network: Network, path: Path, feeds: Mapping[str, Array], z_shape: tuple[int, ...], rules: str, finding: Finding
) -> None:
    """C_w and C_b of a random seed, against the dense oracle on the same model."""
    options = {k: v for k, v in network.options.items() if k != "target"}
    program = omenn_onnx.compile(path, rules=rules, target="seed", prefix="omenn_", **options)
    meta = {p.key: p.value for p in program.metadata_props}
    model = onnx.load(path)
    floats = [o.name for o in model.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    if meta["omenn.output"] not in tensor_names(model) and floats:  # inside an operator: what that gives, instead
        options["output"] = floats[0]
        program = omenn_onnx.compile(path, rules=rules, target="seed", prefix="omenn_", **options)
        meta = {p.key: p.value for p in program.metadata_props}
        z_shape = explaining.run(path, feeds)[floats[0]].shape
    inputs, output = json.loads(meta["omenn.inputs"]), meta["omenn.output"]
    axes = {i["name"]: i["channel_axis"] for i in inputs}
    inner = [n for n in (*axes, output) if n not in tensor_names(model)]
    if inner:
        finding.note = f"oracle: {inner[0]!r} is a tensor of the compiled file alone"
        return
    seed = np.random.default_rng(7).normal(size=z_shape).astype(np.float32)
    # Of quantised networks the nodes as they are: the runtime's integer kernels round in other places.
    found = explaining.run(program, {**feeds, "omenn_seed": seed}, not network.quantised)
    try:
        expected = oracle.explain(model, dict(feeds), list(axes), output, seed, rules, axes)
    except oracle.NotInOracle as e:
        finding.note = f"oracle: {e}"[:120]
        return
    size = max(np.abs(expected.C_w[n] * expected.values[n]).sum() + np.abs(expected.C_b[n]).sum() for n in axes)
    finding.oracle_w = max(explaining.distance(found[i["C_w"]], expected.C_w[i["name"]]) for i in inputs)
    finding.oracle_b = max(_distance_of_biases(found[i["C_b"]], expected.C_b[i["name"]], size) for i in inputs)
    score = float(found["omenn_score"].sum(dtype=np.float64))
    if network.quantised and abs(score - expected.score) > 1e-5 * max(1, abs(score), size):
        finding.note = f"oracle: another score, by {abs(score - expected.score):.0e}: an integer rounds the other way"
        return
    bar = max(MAPS, 10 * network.bar if network.bar > 1e-5 else 0)
    finding.hold("C_w against the oracle", finding.oracle_w, bar)
    finding.hold("C_b against the oracle", finding.oracle_b, bar)


def _added(meta: Mapping[str, str]) -> set[str]:
    """Inputs that compiling added: a target or a seed."""
    names = json.loads(meta["omenn.names"])
    return {names[k] for k in ("target_input", "seed_input") if names[k]}


def _distance_of_biases(found: Array, expected: Array, size: float) -> float:
    """The largest difference relative to the largest entry, or to a thousandth of what the sum is made of where all
    entries are less: such a C_b is what large biases leave of each other, and mostly rounding in float32."""
    unit = max(np.max(np.abs(expected), initial=0.0), 1e-3 * size, 1e-30)
    return float(np.max(np.abs(found - expected), initial=0.0) / unit)


def _intermediate(program: onnx.ModelProto, feeds: Mapping[str, Array], name: str) -> Array:
    """A tensor inside a model: the explained tensor Z, whose shape the seed has."""
    probe = onnx.ModelProto()
    probe.CopyFrom(program)
    if name not in [o.name for o in probe.graph.output]:
        probe.graph.output.append(onnx.ValueInfoProto(name=name))
    return explaining.run(probe, feeds)[name]


def compare_with_twin(network: Network, folder: Path, finding: Finding) -> None:
    """C_w and C_b as the twin's, but for the differences that semantics.md accepts."""
    files = [maps_file(folder, n, finding.rules) for n in (network.name, network.twin)]
    if not all(f.exists() for f in files):
        finding.note = finding.note or f"no maps of {network.twin}"
        return
    with np.load(files[0]) as own, np.load(files[1]) as other:
        if not np.array_equal(own["target"], other["target"]):
            finding.failed.append(f"another target than {network.twin}")
            return
        for part in ("C_w", "C_b"):
            pairs = [(own[k], other[k]) for k in own.files if k.startswith(part)]
            turned = [(a.transpose(network.layout) if network.layout else a, b) for a, b in pairs]
            gap = max(explaining.distance(a, b) if a.shape == b.shape else np.inf for a, b in turned)
            limit, _ = network.accepted.get(part) or network.accepted.get(f"{part} {finding.rules}") or (TWIN, "")
            setattr(finding, f"twin_{part[-1]}", gap)
            finding.hold(f"{part} against {network.twin}", gap, limit)


def compare_with_float(network: Network, folder: Path, finding: Finding) -> None:
    """How C_w * X of a quantised network correlates with the float network's, in the rows that have the same target."""
    files = [maps_file(folder, n, finding.rules) for n in (network.name, network.float_twin)]
    if not all(f.exists() for f in files):
        finding.note = finding.note or f"no maps of {network.float_twin}"
        return
    with np.load(files[0]) as own, np.load(files[1]) as other:
        same = own["target"] == other["target"]
        if own["target"].shape != other["target"].shape or own["C_w/0"].shape != other["C_w/0"].shape or not same.any():
            finding.note = finding.note or f"another target than {network.float_twin}"
            return
        rows = same if same.shape == own["C_w/0"].shape[:1] else ...  # (rows stand elsewhere: all of them)
        maps = [(data["C_w/0"] * data["X/0"])[rows].ravel() for data in (own, other)]
        finding.correlation = float(np.corrcoef(*maps)[0, 1])


def _gap(found: Any, want: Any) -> float:
    """The largest difference relative to the largest entry; what is not a float array must be equal."""
    if isinstance(want, list | dict):
        return 0.0 if str(found) == str(want) else float("inf")
    a, b = np.asarray(found), np.asarray(want)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind in "fV" and b.dtype.kind in "fV":
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = np.isfinite(b)
        if not np.array_equal(a[~same], b[~same], equal_nan=True):
            return float("inf")
        return explaining.distance(a[same], b[same]) if same.any() else 0.0
    return 0.0 if np.array_equal(a, b) else float("inf")


def to_json(finding: Finding) -> dict[str, Any]:
    return asdict(finding)
