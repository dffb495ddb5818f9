"""Networks as tf2onnx, Keras, TFLite and jax2onnx write them, held to every bar of the zoo.

tools/zoo/README.md says how the files of tests/data/exporters are made.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from zoo.catalogue import networks  # noqa: E402
from zoo.examine import RULES, compare_with_twin, examine  # noqa: E402

FILES = ROOT / "tests" / "data" / "exporters"
BUILT = [n for n in networks(["keras_networks", "jax_networks", "twin_networks"]) if n.model(FILES).exists()]
NOT_IN_ORACLE = ("jax-loops-23", "tensorflow-while_loop-15")
"""Loops that nothing but their condition ends."""


def test_every_file_is_a_network_of_the_zoo() -> None:
    assert {p.stem for p in FILES.glob("*.onnx")} == {n.name for n in BUILT}
    assert len(BUILT) >= 14


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", [n.name for n in BUILT if not n.twin.startswith("twin-")])
def test_exported(name: str, rules: str, tmp_path: Path) -> None:
    """Completeness, outputs, oracle, the framework's gradient and outputs."""
    network = next(n for n in BUILT if n.name == name)
    for path in (network.model(FILES), network.sample(FILES)):
        shutil.copy(path, tmp_path)
    finding = examine(network, tmp_path, rules)
    assert not finding.failed
    assert finding.oracle_w is not None or name in NOT_IN_ORACLE, finding.note


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", [n.name for n in BUILT if n.twin.startswith("twin-")])
def test_twins(name: str, rules: str, tmp_path: Path) -> None:
    """The same weights by another framework: the same maps, in the other layout."""
    network = next(n for n in BUILT if n.name == name)
    other = next(n for n in BUILT if n.name == network.twin)
    findings = []
    for n in (other, network):
        for path in (n.model(FILES), n.sample(FILES)):
            shutil.copy(path, tmp_path)
        findings.append(examine(n, tmp_path, rules))
    compare_with_twin(network, tmp_path, findings[1])
    assert not findings[0].failed
    assert not findings[1].failed
    assert findings[1].twin_w is not None
