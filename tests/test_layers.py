"""Imports go one way:

errors <- graph <- linear <- {calculus, lowering} <- normalise, linearise, seeds, compiler <- report <- cli, beside it
graph <- providers <- linearise, compiler, and
errors <- runtime <- cli:  whoever runs a compiled file needs the file, not the compiler. What cuts a model open needs
both: {linearise, runtime} <- spectral <- cli."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "omenn_onnx"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "errors": "",
    "graph": "errors",
    "linear": "errors graph",
    "calculus": "errors graph linear",
    "lowering": "errors graph linear",
    "normalise": "errors graph linear calculus",
    "seeds": "errors graph",
    "providers": "errors graph",
    "linearise": "errors graph linear calculus lowering normalise providers",
    "compiler": "errors graph linear calculus lowering normalise linearise seeds providers",
    "report": "errors graph linear calculus lowering normalise linearise seeds providers compiler",
    "runtime": "errors",
    "spectral": "errors graph linear lowering linearise runtime",
    "cli": "errors graph linear calculus lowering normalise linearise seeds providers compiler report runtime spectral",
}
FROM_CALCULUS = {"omenn_onnx.calculus.base", "omenn_onnx.calculus.shape_ops"}
"""What normalise may take from the calculus: which operators have rules, and which axes a reshape joins."""


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def part_of(path: Path) -> str:
    """errors, graph, ...: the layer that a file belongs to; "" for the package's own __init__."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def statements(tree: ast.AST, loading: bool = False) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import of a file; with ``loading`` those that run when the module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (loading and _runs_later(node)):
            yield from statements(node, loading)


def _runs_later(node: ast.AST) -> bool:
    """A function's body, and what only a type checker reads."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def modules(path: Path, loading: bool = False) -> set[str]:
    """The modules that a file imports. ``from a import b`` is a.b where that is a module of this package, else a."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), loading):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
            continue
        assert node.level == 0, f"{ids(path)}: a relative import"
        module = node.module or ""
        for alias in node.names:
            inner = ROOT.joinpath(*module.split("."), alias.name)
            is_module = module.startswith("omenn_onnx") and (inner.is_dir() or inner.with_suffix(".py").is_file())
            found.add(f"{module}.{alias.name}" if is_module else module)
    return found


def test_every_part_is_in_the_rule():
    assert {part_of(f) for f in FILES} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_one_way(path):
    part = part_of(path)
    if not part:
        return
    allowed = {part, *MAY_IMPORT[part].split()}
    for module in sorted(modules(path)):
        if module.split(".")[0] != "omenn_onnx":
            continue
        if module == "omenn_onnx":
            assert part == "compiler", f"{ids(path)} imports the package itself"
            continue
        assert module.split(".")[1] in allowed, f"{ids(path)} ({part}) must not import {module}"


def test_the_compiler_takes_only_the_version_from_the_package():
    tree = ast.parse((PACKAGE / "compiler.py").read_text(encoding="utf-8"))
    used = {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "omenn_onnx"
    }
    assert used == {"__version__"}


def test_normalise_takes_only_facts_from_the_calculus():
    for path in (PACKAGE / "normalise").rglob("*.py"):
        found = {m for m in modules(path) if m.startswith("omenn_onnx.calculus")}
        assert found <= FROM_CALCULUS, (path.name, found)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_only_graph_knows_onnx_graphsurgeon(path):
    if part_of(path) != "graph":
        assert not any(m.split(".")[0] == "onnx_graphsurgeon" for m in modules(path)), ids(path)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_training_frameworks_are_not_needed(path):
    roots = {m.split(".")[0] for m in modules(path)}
    assert not roots & {"torch", "transformers", "sklearn", "skl2onnx", "tensorflow"}, ids(path)


def test_modules_load_in_one_order():
    """No module needs, while it is being loaded, one that needs it."""
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
    needs = {n: {m for m in modules(f, loading=True) if m in names} for n, f in names.items()}
    needs = {n: m - {"omenn_onnx", n} for n, m in needs.items()}
    while ready := [n for n, m in needs.items() if not m]:
        for n in ready:
            del needs[n]
        needs = {n: m - set(ready) for n, m in needs.items()}
    assert not needs, f"these import each other: {sorted(needs)}"


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tools").glob("*.py"))], ids=lambda p: p.name)
def test_no_star_imports(path):
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        assert all(a.name != "*" for a in node.names), f"{path.name}, line {node.lineno}"


def test_no_drawer_for_everything():
    vague = {"util.py", "utils.py", "helpers.py", "common.py", "misc.py"}
    assert not [ids(f) for f in FILES if f.name in vague]
