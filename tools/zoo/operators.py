"""A network of the zoo as linear operators of one instance: adjoint identity and completeness between its tensors."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import onnx

import omenn_onnx
from omenn_onnx.errors import NoPath
from omenn_onnx.runtime import engines
from omenn_onnx.spectral.instances import Instance, Linearization
from zoo.entry import Network, Sample
from zoo.examine import told

TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

import explaining  # noqa: E402
import operator_checks  # noqa: E402

ADJOINT = 1e-5
"""|<u, R v> - <R^T u, v>| over the larger of |u| |R v| and |R^T u| |v|."""
COMPILED = 1e-5
"""The operator of the model inside the compiled file against that of the original, relative to the largest entry."""
_OPTIONS = ("inputs", "output", "channel_axis", "opaque", "dtype")


@dataclass
class Finding:
    """What was measured of a network in one rule set, of the worst operator. ``size``: rows x columns of X -> Z."""

    network: str
    rules: str
    operators: int = 0
    size: str = ""
    adjoint: float = 0.0
    residual: float = 0.0
    compiled: float = 0.0
    note: str = ""
    failed: list[str] = field(default_factory=list)


def examine(network: Network, folder: Path, rules: str) -> Finding:
    """X -> Z, X -> a middle layer, that layer -> Z, for each explained X: with random vectors, whatever the size."""
    finding = Finding(network.name, rules)
    with mock.patch.object(engines, "open_session", operator_checks.on_one_thread):  # (checked side by side)
        run = partial(_examine, network, folder, rules, finding)
        finding.note = told(run, network.refused.get(rules, ""), finding.failed)
    return finding


def _examine(network: Network, folder: Path, rules: str, finding: Finding) -> None:
    path, sample = network.model(folder), Sample.load(network.sample(folder))
    options = {k: v for k, v in network.options.items() if k in _OPTIONS}
    known = {i.name for i in onnx.load(path, load_external_data=False).graph.input}
    feeds = {k: v for k, v in sample.feeds.items() if k in known}
    instance = Linearization(path, rules=rules, **options).at(feeds)
    bar, first = max(network.bar, 1e-5), ""
    for source, target in _pairs(instance):
        try:
            op = instance.operator(source, target)
        except NoPath:
            continue
        first = first or (source if source in instance.sources else "")
        finding.operators += 1
        finding.size = finding.size or f"{op.shape[0]} x {op.shape[1]}"
        gap, off = operator_checks.adjoint_gap(op, cancelling=True), op.residual
        finding.adjoint, finding.residual = max(finding.adjoint, gap), max(finding.residual, off)
        for what, value, limit in (("adjoint", gap, ADJOINT), ("residual", off, bar)):
            if not value <= limit:
                finding.failed.append(f"{what} of {source!r} -> {target!r} {value:.1e} > {limit:.0e}")
    if not finding.operators:
        finding.failed.append("no operator")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        program = omenn_onnx.compile(path, rules=rules, prefix="omenn_", **options)
    if not first:
        return
    op, other = (made.operator(first) for made in (instance, Linearization(program, rules=rules).at(feeds)))
    u = np.random.default_rng(3).standard_normal(op.shape[0]).astype(op.dtype)
    finding.compiled = max(
        explaining.distance(other.rmatvec(u), op.rmatvec(u)),
        float(np.max(np.abs(other.bias - op.bias) / np.maximum(np.abs(op.bias), max(1.0, np.abs(op.y).max())))),
    )
    if not finding.compiled <= COMPILED:
        finding.failed.append(f"the compiled file's operator differs by {finding.compiled:.1e} > {COMPILED:.0e}")


def _pairs(instance: Instance) -> list[tuple[str, str]]:
    """The middle layer is the largest of the three tensors in the middle of the list that have finite values."""
    sources, target = instance.sources, instance.target
    values = instance.values([n for n in instance.carriers() if n not in (*sources, target)])
    inner = [n for n, value in values.items() if np.isfinite(value).all()]
    found = [(s, target) for s in sources]
    if inner:
        middle = len(inner) // 2
        layer = max(inner[max(0, middle - 1) : middle + 2], key=lambda n: np.size(values[n]))
        found += [*((s, layer) for s in sources), (layer, target)]
    return found
