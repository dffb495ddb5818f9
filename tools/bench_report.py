"""What tools/bench.py says of its rows: lines on the screen, the bars that are missed, and the tables of the README."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench_contestants import THREADS

Row = dict[str, Any]
HEAD = (
    f"{'network':16}{'batch':>6}{'forward':>10}{'compiled':>10}{'ratio':>7}{'':15}{'bar':>6}{'torch':>10}{'times':>7}"
    f"{'bar':>6}{'C_b':>8}{'residual':>10}"
)


def machine() -> str:
    """Day, processor, threads, versions."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnx", "torch", "transformers", "numpy", "captum", "shap")
    found = []
    for n in names:
        try:
            found.append(f"{n} {version(n)}")
        except PackageNotFoundError:
            continue
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x), model)
    python = f"Python {platform.python_version()}"
    return ", ".join([time.strftime("%Y-%m-%d"), model, f"{THREADS} threads", python, *found])


def missed(r: Row) -> list[str]:
    """The bars that a row misses, in words. What is not a number misses its bar."""
    lines = []

    def hold(value: float | None, bar: float | None, words: str) -> None:
        if value is not None and bar is not None and not value <= bar:
            lines.append(words.format(value, bar))

    hold(r.get("ratio"), r.get("bar"), "{:.2f} forwards, not {:.2f}")
    if r.get("torch_bar") is not None and not r["times"] >= r["torch_bar"]:
        lines.append(f"{r['times']:.2f} times faster than torch, not {r['torch_bar']:.1f}")
    hold(r.get("C_b"), 0.03, "C_b costs {:.1%}, not {:.0%}")
    hold(r.get("residual"), 1e-5, "residual {:.1e}, not {:.0e}")
    hold(r.get("growth"), 0.05, "file {:+.1%}, not {:.0%}")
    if "compile_s" in r and r["nodes"] <= 5000:
        hold(r["compile_s"], 5.0 if r["nodes"] <= 1000 else 30.0, "compiled in {:.1f} s, not {:.0f}")
    memory = r.get("memory", {})
    hold(memory.get("compiled"), memory.get("torch"), "{:.0f} MB, torch {:.0f}")
    if r.get("batch") == 8 and memory:
        hold(memory["compiled"] / memory["forward"], 2.5, "{:.2f} times the memory of the model, not {:.1f}")
    if "start" in r:
        hold(r["start"]["compiled"] / r["start"]["forward"], 2.5, "session start {:.2f} times the model's, not {:.1f}")
    if "per_image" in r:
        hold(*r["per_image"]["compiled"][::-1], "{:.4g} s an image, at the smaller batch {:.4g}")
    if "4" in r.get("chunk_memory", {}):
        two, four = r["chunk_memory"]["2"], r["chunk_memory"]["4"]
        hold(four, 1.05 * two, f"4 chunks take {{:.0f}} MB, 2 chunks {two:.0f}")
    return lines


def lines(r: Row) -> list[str]:
    """A row on the screen."""
    if "k" in r:
        bar = "" if r["bar"] is None else f", bar {r['bar']:.1f}"
        found = [f"    K = {r['k']} in chunks of {r['chunk']}, {_timed_chunks(r)}: {r['ratio']:.1f} forwards{bar}"]
        if "chunk_memory" in r:
            each = ", ".join(f"{v:.0f} after {n}" for n, v in r["chunk_memory"].items())
            found.append(f"    peak memory in chunks, MB: {each}")
        return found
    if "per_image" in r:
        each = ", ".join(f"{n} {1e3 * a:.2f}, {1e3 * b:.2f}" for n, (a, b) in r["per_image"].items())
        return [f"    {r['what']}, ms an image: {each}"]
    ms = {n: f"{1e3 * s:.1f}" for n, s in r["seconds"].items()}
    low, high = r["quartiles"]
    bars = [f"{r['bar']:.2f}" if r["bar"] else "-", f"{r['torch_bar']:.1f}" if r.get("torch_bar") else "-"]
    times, spread = f"{r['times']:.2f}" if "times" in r else "-", f"({low:.2f}-{high:.2f})"
    found = [
        f"{r['network']:16}{r['batch']:6}{ms['forward']:>10}{ms['compiled']:>10}{r['ratio']:7.2f} {spread:14}"
        f"{bars[0]:>6}{ms.get('torch', '-'):>10}{times:>7}{bars[1]:>6}{r['C_b']:8.1%}{r['residual']:10.1e}"
    ]
    if "memory" in r:
        found.append("    peak memory, MB: " + ", ".join(f"{n} {v:.0f}" for n, v in r["memory"].items()))
    if "start" in r:
        found.append("    session start, s: " + ", ".join(f"{n} {v:.2f}" for n, v in r["start"].items()))
    for label, value in r.get("others", {}).items():
        found.append(f"    {label}: " + ", ".join(v for v in _other(value) if v))
    return found


def _timed_chunks(r: Row) -> str:
    count = r["chunks"]
    if count == 1:
        return "timed"
    return f"all {count} timed" if r["timed"] == count else f"{r['timed']} of {count} timed, the rest reckoned"


def _other(value: Mapping[str, Any]) -> tuple[str, str, str]:
    """Time, error and remark of another explainer."""
    if "failed" in value:
        return "", "", f"failed: {value['failed']}"
    error = f"off {value['against']} by {value['completeness']:.1e}"
    return f"{1e3 * value['seconds']:.1f} ms ({value['times']:.1f} x)", error, value.get("remark", "")


def markdown(rows: Sequence[Row], machines: Sequence[str], commands: Sequence[str]) -> str:
    """The tables of the README; what misses its bar is bold."""
    parts = [_main_table([r for r in rows if "seconds" in r]), _target_table([r for r in rows if "k" in r])]
    parts += [_scaling_table([r for r in rows if "per_image" in r]), _other_table([r for r in rows if "others" in r])]
    runs = ", ".join(sorted({str(r["runs"]) for r in rows if "seconds" in r}))
    said = f"Medians of {runs} interleaved runs (in brackets the quartiles of the ratio, run by run). " if runs else ""
    parts.append(
        f"{said}Bold: above the bar. Measured by {', '.join(f'`{c}`' for c in commands)} on {'; '.join(machines)}."
    )
    return "\n\n".join(p for p in parts if p) + "\n"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body))


def _bold(text: str, within: bool) -> str:
    return text if within else f"**{text}**"


def _main_table(rows: Sequence[Row]) -> str:
    head = ["network", "batch", "forward, ms", "compiled, ms", "ratio", "bar", "torch, ms", "times faster", "bar"]
    head += ["C_b", "residual"] + (["memory, MB: forward, compiled, torch"] if any("memory" in r for r in rows) else [])
    body = []
    for r in rows:
        ms = {n: f"{1e3 * s:.1f}" for n, s in r["seconds"].items()}
        bar, torch_bar, memory = r["bar"], r.get("torch_bar"), r.get("memory")
        cells = [r["network"], str(r["batch"]), ms["forward"], ms["compiled"]]
        ratio = f"{r['ratio']:.2f} ({r['quartiles'][0]:.2f}-{r['quartiles'][1]:.2f})"
        cells += [_bold(ratio, bar is None or r["ratio"] <= bar), f"{bar:.2f}" if bar else ""]
        times = _bold(f"{r['times']:.2f}", torch_bar is None or r["times"] >= torch_bar) if "times" in r else ""
        cells += [ms.get("torch", ""), times, f"{torch_bar:.1f}" if torch_bar else ""]
        cells += [_bold(f"{r['C_b']:.1%}", r["C_b"] <= 0.03), _bold(f"{r['residual']:.1e}", r["residual"] <= 1e-5)]
        if len(head) > len(cells):
            within = memory is None or not any("MB" in m or "memory" in m for m in missed(r))
            cells.append(_bold(", ".join(f"{v:.0f}" for v in memory.values()), within) if memory else "")
        body.append(cells)
    return _table(head, body)


def _target_table(rows: Sequence[Row]) -> str:
    head = ["network", "targets", "chunk", "forwards at batch 1", "bar", "timed", "memory, MB, after 1, 2, 4 chunks"]
    body = []
    for r in rows:
        forwards = _bold(f"{r['ratio']:.1f}", r["bar"] is None or r["ratio"] <= r["bar"])
        memory = ", ".join(f"{v:.0f}" for v in r.get("chunk_memory", {}).values())
        bar = "" if r["bar"] is None else f"{r['bar']:.1f}"
        body.append([r["network"], str(r["k"]), str(r["chunk"]), forwards, bar, _timed_chunks(r), memory])
    return _table(head, body)


def _scaling_table(rows: Sequence[Row]) -> str:
    head = ["network", "batches", "forward, ms an image", "compiled, ms an image"]
    body = []
    for r in rows:
        cells = [r["network"], r["what"]]
        cells += [", ".join(f"{1e3 * s:.2f}" for s in r["per_image"][n]) for n in ("forward", "compiled")]
        body.append([*cells[:3], _bold(cells[3], not missed(r))])
    return _table(head, body)


def _other_table(rows: Sequence[Row]) -> str:
    head = ["network", "batch", "explainer", "time of an explanation", "sum of the map", "remark"]
    body = [
        [r["network"], str(r["batch"]), label, *_other(value)]
        for r in rows
        for label, value in r["others"].items()
    ]  # fmt: skip
    return _table(head, body)
