"""The benchmark: end to end on a tiny network, what "without C_b" leaves out, its bars, the tables of the README."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import omenn_onnx

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import bench  # noqa: E402
import bench_contestants  # noqa: E402
from bench_report import lines, markdown, missed  # noqa: E402


def row(**changes: Any) -> dict[str, Any]:
    """A row that keeps all bars."""
    kept: dict[str, Any] = {
        "network": "some", "what": "batch 8", "batch": 8, "runs": 15, "ratio": 2.0, "bar": 2.2, "quartiles": [1.9, 2.1],
        "seconds": {"forward": 0.01, "compiled": 0.02, "without C_b": 0.0196, "torch": 0.05}, "times": 2.5,
        "torch_bar": 1.9, "C_b": 0.02, "residual": 1e-7, "compile_s": 2.0, "nodes": 900, "growth": 0.01,
        "memory": {"forward": 400.0, "compiled": 800.0, "torch": 900.0}, "start": {"forward": 0.1, "compiled": 0.2},
    }  # fmt: skip
    return {**kept, **changes}


def chunks(**changes: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "network": "some", "what": "K = 1000", "k": 1000, "chunk": 10, "chunks": 100, "timed": 100, "ratio": 900.0,
        "bar": 1000.0, "chunk_memory": {"1": 300.0, "2": 500.0, "4": 501.0},
    }  # fmt: skip
    return {**kept, **changes}


def scaled(small: float, large: float) -> dict[str, Any]:
    return {"network": "some", "what": "batch 8, 32", "per_image": {"forward": [1.0, 0.9], "compiled": [small, large]}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (row(ratio=2.3), "2.30 forwards, not 2.20"),
        (row(ratio=float("nan")), "nan forwards, not 2.20"),
        (row(times=1.8), "1.80 times faster than torch, not 1.9"),
        (row(C_b=0.05), "C_b costs 5.0%, not 3%"),
        (row(residual=2e-5), "residual 2.0e-05, not 1e-05"),
        (row(growth=0.06), "file +6.0%, not 5%"),
        (row(compile_s=5.5), "compiled in 5.5 s, not 5"),
        (row(compile_s=31.0, nodes=1001), "compiled in 31.0 s, not 30"),
        (row(memory={"forward": 400.0, "compiled": 950.0, "torch": 900.0}), "950 MB, torch 900"),
        (row(memory={"forward": 300.0, "compiled": 800.0, "torch": 900.0}), "2.67 times the memory of the model"),
        (row(start={"forward": 0.1, "compiled": 0.26}), "session start 2.60 times the model's, not 2.5"),
        (chunks(ratio=1001.0), "1001.00 forwards, not 1000.00"),
        (chunks(chunk_memory={"1": 500.0, "2": 500.0, "4": 600.0}), "4 chunks take 600 MB, 2 chunks 500"),
        (scaled(0.01, 0.011), "0.011 s an image, at the smaller batch 0.01"),
    ],
)
def test_a_missed_bar_is_told(found: dict[str, Any], words: str) -> None:
    """One line for the bar that is missed, and no other."""
    (line,) = missed(found)
    assert words in line


@pytest.mark.parametrize(
    "found",
    [
        row(),
        row(bar=None, torch_bar=None, ratio=9.0, times=0.1, batch=32),
        row(batch=1, memory={"forward": 300.0, "compiled": 800.0, "torch": 900.0}),
        row(compile_s=25.0, nodes=1001),
        chunks(),
        chunks(bar=None, ratio=5000.0),
        scaled(0.01, 0.01),
    ],
)
def test_a_kept_bar_is_not(found: dict[str, Any]) -> None:
    """At a batch size without bars, or within them, nothing is missed; the memory's factor is held at batch 8 alone."""
    assert missed(found) == []


def cells(text: str) -> list[list[str]]:
    """The rows of all tables."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_tables_of_the_readme() -> None:
    """Every figure has its column, what misses its bar is bold, and the conditions stand below."""
    fails = {"Captum": {"failed": "not installed"}}
    deep = {"seconds": 0.5, "times": 25.0, "completeness": 0.25, "against": "f(x) - f(0)", "remark": "A as linear"}
    rows = [row(), row(what="batch 1", batch=1, ratio=2.3, C_b=0.05, others={"DeepExplainer": deep, **fails})]
    text = markdown([*rows, chunks(timed=3), scaled(0.01, 0.011)], ["a day, a machine"], ["python tools/bench.py some"])
    head, _, kept, lost, *rest = cells(text)
    assert len(head) == len(kept) == len(lost) == 12
    assert dict(zip(head[:5], kept, strict=False)) == {
        "network": "some", "batch": "8", "forward, ms": "10.0", "compiled, ms": "20.0", "ratio": "2.00 (1.90-2.10)",
    }  # fmt: skip
    assert kept[5:] == ["2.20", "50.0", "2.50", "1.9", "2.0%", "1.0e-07", "400, 800, 900"]
    assert [c for c in lost if "**" in c] == ["**2.30 (1.90-2.10)**", "**5.0%**"]
    assert ["some", "1000", "10", "900.0", "1000.0", "3 of 100 timed, the rest reckoned", "300, 500, 501"] in rest
    assert ["some", "batch 8, 32", "1000.00, 900.00", "**10.00, 11.00**"] in rest
    error = "off f(x) - f(0) by 2.5e-01"
    assert ["some", "1", "DeepExplainer", "500.0 ms (25.0 x)", error, "A as linear"] in rest
    assert ["some", "1", "Captum", "", "", "failed: not installed"] in rest
    assert "Medians of 15 interleaved runs" in text
    assert "by `python tools/bench.py some` on a day, a machine." in text


def test_later_runs_replace_earlier_ones() -> None:
    """Several JSON files make one table; a network and batch measured again stands there once, with the new figure."""
    runs = [
        {"machine": "m", "command": "first", "rows": [row(ratio=1.5), row(network="other")]},
        {"machine": "m", "command": "second", "rows": [row(ratio=1.7)]},
    ]
    body = cells(bench.together(runs))[2:]
    assert sorted((r[0], r[4][:4]) for r in body) == [("other", "2.00"), ("some", "1.70")]


def small_model() -> onnx.ModelProto:
    """relu(x W + b) V + c, with a node that nobody reads."""
    random = np.random.default_rng(5)
    weights = {"W": (4, 6), "b": (6,), "V": (6, 3), "c": (3,)}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["t0"]), helper.make_node("Add", ["t0", "b"], ["t1"]),
        helper.make_node("Relu", ["t1"], ["t2"]), helper.make_node("Exp", ["t2"], ["unread"]),
        helper.make_node("MatMul", ["t2", "V"], ["t3"]), helper.make_node("Add", ["t3", "c"], ["z"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_without_bias_map(tmp_path: Path) -> None:
    """What only C_b needs is gone: no dead end is left but the model's own, all else is as it was, values too."""
    proto = omenn_onnx.compile(small_model())
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    onnx.save(proto, tmp_path / "full.onnx")
    full = [o.name for o in proto.graph.output]
    bias_reads = {i for n in proto.graph.node for i in n.input if "C_b" in n.output}
    assert bias_reads, "C_b is computed by a node"
    before = len(proto.graph.node)
    bench_contestants.without_bias_map(proto)
    onnx.save(proto, tmp_path / "weight.onnx")
    names = [o.name for o in proto.graph.output]
    assert names == [n for n in full if n != "C_b"]
    assert len(proto.graph.node) < before
    read = {i for n in proto.graph.node for i in n.input} | set(names)
    ends = [n for n in proto.graph.node if not read.intersection(n.output)]
    assert [n.op_type for n in ends] == ["Exp"], "the model's own dead end is in every contestant"
    assert {w.name for w in proto.graph.initializer} <= read
    whole = dict(zip(full, bench_contestants.runner(str(tmp_path / "full.onnx"), x=x)(), strict=True))
    part = dict(zip(names, bench_contestants.runner(str(tmp_path / "weight.onnx"), x=x)(), strict=True))
    for name, value in part.items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-6)


def test_contestants_are_interleaved() -> None:
    """Each runs once a round, the rounds to warm up are not counted."""
    calls: list[str] = []
    contestants: dict[str, Callable[[], Any]] = {n: (lambda n=n: calls.append(n)) for n in ("a", "b", "c")}
    seconds = bench_contestants.timed(contestants, runs=3, warm=1)
    assert {n: len(s) for n, s in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(sorted(calls[i : i + 3]) == ["a", "b", "c"] for i in range(0, 12, 3))


def test_memory_is_of_a_fresh_process(tmp_path: Path) -> None:
    """What this process holds does not count; what the run allocates does."""
    path, feeds = tmp_path / "small.onnx", tmp_path / "feeds.npz"
    onnx.save(small_model(), path)
    np.savez(feeds, x=np.ones((2, 4), np.float32))
    held = np.ones(600_000_000 // 8)
    small = bench_contestants.peak("onnxruntime", str(path), str(feeds))
    assert held.sum() > 0
    assert 10 < small < 400
    np.savez(feeds, x=np.ones((4_000_000, 4), np.float32))
    assert bench_contestants.peak("onnxruntime", str(path), str(feeds)) > small + 4_000_000 * 10 * 4 / 2**20


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every contestant on a tiny network: rows, lines, JSON, tables, the exit status."""
    pytest.importorskip("torch")
    common = ["tiny", "--free", "--runs", "3", "--folder", str(tmp_path / "models")]
    files = [tmp_path / "first.json", tmp_path / "second.json", tmp_path / "table.md", tmp_path / "again.md"]
    first, second, table, again = (str(f) for f in files)
    status = bench.main([*common, "--batch", "8", "16", "--json", first])
    rest = ["--batch", "8", "--targets", "12", "--chunk", "5", "--memory", "--start", "--others"]
    bench.main([*common, *rest, "--json", second, "--markdown", table])
    said = capsys.readouterr()
    runs = [json.loads(f.read_text()) for f in files[:2]]
    assert [[r["what"] for r in run["rows"]] for run in runs] == [
        ["batch 8", "batch 16", "batch 8, 16"],
        ["batch 8", "K = 12"],
    ]
    (eight, sixteen, scaling), (full, targets) = (run["rows"] for run in runs)
    for r in (eight, sixteen, full):
        assert set(r["seconds"]) == {"forward", "compiled", "without C_b", "torch"}
        assert all(0 < s < 10 for s in (*r["seconds"].values(), r["compile_s"]))
        assert r["residual"] < 1e-5
        assert 0 < r["quartiles"][0] <= r["quartiles"][1]
    assert (eight["bar"], sixteen["bar"]) == (1000.0, None)
    assert all(0 < s < 10 for s in full["start"].values())
    assert full["memory"]["torch"] > full["memory"]["compiled"] > 10
    assert full["others"]["omenn"]["completeness"] < 1e-4
    assert all(v.get("failed") or v["seconds"] > 0 for v in full["others"].values())
    assert (targets["chunk"], targets["chunks"], targets["timed"]) == (5, 3, 3)
    assert set(targets["chunk_memory"]) == {"1", "2"}
    assert set(scaling["per_image"]) == {"forward", "compiled"}
    rows = [r for run in runs for r in run["rows"]]
    lost = [f"MISSED tiny {r['what']}: {m}" for r in rows for m in missed(r)]
    assert [line for line in said.out.splitlines() if line.startswith("MISSED")] == lost
    assert any("file +" in line for line in lost), "nodes weigh more than weights in so small a file"
    assert status == 1
    assert all(line in said.out for r in rows for line in lines(r))
    assert "tiny: batch 8, 3 runs of forward, compiled, without C_b, torch" in said.err
    assert "--memory" in runs[1]["command"]
    assert cells(files[2].read_text())[2][:2] == ["tiny", "8"]
    assert bench.main(["--from", second, "--markdown", again]) == 0
    assert files[3].read_text() == files[2].read_text()


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with the list."""
    pytest.importorskip("torch")
    with pytest.raises(SystemExit):
        bench.main(["resnet5000"])
    assert "no network resnet5000: choose from vit_b16" in capsys.readouterr().err
