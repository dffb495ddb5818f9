"""The operator tables of docs/ and README.md are what the registry says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from omenn_onnx.calculus.base import CONSTANTS, RULES

TOOL = Path(__file__).resolve().parents[1] / "tools" / "operator_table.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operator_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_tables_are_up_to_date(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    status = tool.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_every_operator_has_one_row_and_a_note(tool: ModuleType) -> None:
    found = tool.rows()
    assert len({(r.domain, r.op) for r in found}) == len(found)
    assert {r.kind for r in found} <= set(tool.KINDS)
    assert not [r.op for r in found if not r.note]
    kinds = {(r.domain, r.op): r.kind for r in found}
    assert all(kinds[k] in ("rule", "constant") for k in RULES if k in kinds)
    assert all(kinds[k] == "constant" for k in CONSTANTS if k in kinds)
    assert {op for d, op in RULES if d == ""} - {op for d, op in kinds if d == ""} == tool.INTERNAL


def test_another_onnx_is_no_reason_to_fail(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of an onnx that knows other operators is compared in the rows that this project decides."""
    page = tmp_path / "operators.md"
    lines = tool.PAGE.read_text(encoding="utf-8").replace("with onnx ", "with onnx 0.").splitlines()
    page.write_text("\n".join(x for x in lines if not x.startswith("| BitCast ")), encoding="utf-8")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGE", page)
    assert tool.check(tool.rows()) == []
    page.write_text("\n".join(x for x in lines if not x.startswith("| Conv ")), encoding="utf-8")
    assert len(tool.check(tool.rows())) == 1


def test_check_sees_a_change(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "README"):
        copy = tmp_path / getattr(tool, name).name
        copy.write_text(getattr(tool, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(tool, name, copy)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(["--check"]) == 0
    tool.PAGE.write_text(tool.PAGE.read_text(encoding="utf-8").replace("| Conv | rule |", "| Conv | refused |"))
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
