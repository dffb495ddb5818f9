"""The quick part of the zoo (`python tools/zoo`): networks of other kinds and exporters, held to all its bars."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from zoo import operators  # noqa: E402
from zoo.catalogue import networks  # noqa: E402
from zoo.entry import Network  # noqa: E402
from zoo.examine import RULES, Finding, compare_with_twin, examine  # noqa: E402

ALL = {n.name: n for n in networks()}
QUICK = [n for n in ALL.values() if n.quick]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@functools.cache
def found(name: str, rules: str, folder: Path) -> Finding:
    network = ALL[name]
    if not network.sample(folder).exists():
        network.make(folder)
    return examine(network, folder, rules)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", [pytest.param(n, id=n.name) for n in QUICK])
def test_bars(network: Network, rules: str, folder: Path) -> None:
    """Complete, as the oracle and the framework have it, own outputs kept; as its twin, where it has one."""
    finding = found(network.name, rules, folder)
    if network.twin:
        assert found(network.twin, rules, folder).failed == []
        compare_with_twin(network, folder, finding)
        assert finding.twin_w is not None
    assert finding.failed == []


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", [pytest.param(n, id=n.name) for n in (*QUICK[::4], ALL["cnn-aware"])])
def test_operators(network: Network, rules: str, folder: Path) -> None:
    """The linear operators of the network, as --operators checks them."""
    if not network.sample(folder).exists():
        network.make(folder)
    finding = operators.examine(network, folder, rules)
    assert finding.failed == []
    assert finding.operators or finding.note


def test_a_missed_bar_is_a_failure() -> None:
    """What is not a number or above its bar fails; what is within does not."""
    finding = Finding("any", "secant")
    finding.hold("residual", 1e-6, 1e-5)
    assert finding.failed == []
    finding.hold("residual", float("nan"), 1e-5)
    finding.hold("residual", 2e-5, 1e-5)
    assert len(finding.failed) == 2


def test_the_catalogue() -> None:
    """At least 120 networks; every twin exists."""
    assert len(ALL) >= 120
    assert [n.name for n in ALL.values() if n.twin and n.twin not in ALL] == []
