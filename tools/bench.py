"""What an explanation costs: `python tools/bench.py [NETWORK...] [--batch 1 8] [--runs 15] [--json FILE]`.

Builds the networks of tools/bench_networks.py (random weights, published sizes), compiles them, and times, interleaved
in one run: the model itself in ONNX Runtime (forward), the compiled model (C_w, C_b and the outputs), the compiled
model without C_b and what only C_b needs, and PyTorch's eager forward with the gradient of the score with respect to
the input. Prints medians, the ratio of medians, its spread (quartiles of the ratios taken run by run), what C_b costs
(median of the runs), the completeness residual, and the bars that are missed: the exit status is 1 where one is.
Compile time and file growth are held to their bars too. Progress goes to stderr.

--batch 8 32: the cost of an image at the largest batch against that at 8, interleaved.
--targets K...: K targets, in chunks that share a run, in units of the forward at batch 1; every chunk is timed, each
beside a forward, or the first few (--timed-chunks): the median chunk times their number. With --memory the peak memory
after 1, 2 and 4 chunks: ONNX Runtime plans the second run's memory from the first; from there on it must not grow.
--memory: peak memory of a fresh process of each contestant. --start: time to create a session (medians of 5, the first
thrown away). --others: Captum (InputXGradient, IntegratedGradients with 50 steps) and SHAP's DeepExplainer where they
are installed and run: time of one explanation, and how far its sum is off.
--markdown FILE: the tables of the README. --from JSON...: those of earlier runs, without a new one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_contestants import Files, gradient, make, peak, runner, say, session, timed
from bench_report import HEAD, Row, lines, machine, markdown, missed


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--targets", type=int, nargs="*", default=[], metavar="K")
    parser.add_argument("--chunk", type=int, default=10, help="targets that share a run (10)")
    parser.add_argument("--timed-chunks", type=int, metavar="N", help="time the first N chunks (default: all)")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--free", action="store_true", help="models with a free batch size (default: a fixed one)")
    parser.add_argument("--no-torch", action="store_true", help="without PyTorch's gradient among the contestants")
    parser.add_argument("--folder", type=Path, help="keep the exported models here, and use those that lie here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--from", type=Path, nargs="+", dest="earlier", metavar="JSON", help="run nothing")
    options = parser.parse_args(argv)
    if options.earlier:
        if not options.markdown:
            parser.error("--from reads earlier runs: say with --markdown where their tables go")
        options.markdown.write_text(together([json.loads(p.read_text()) for p in options.earlier]))
        return 0
    from bench_networks import NETWORKS

    unknown = [n for n in options.network if n not in NETWORKS]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        return bench(options, options.folder, argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return bench(options, Path(folder), argv)


def bench(options: argparse.Namespace, folder: Path, argv: list[str] | None) -> int:
    """All that is asked for; 1 where a bar is missed."""
    from bench_networks import NETWORKS

    rows: list[Row] = []
    command = shlex.join(["python", "tools/bench.py", *(sys.argv[1:] if argv is None else argv)])
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the machine is not quiet (load average {load:.1f}): its figures will not be those of the bars")
    found = {"machine": machine(), "command": command, "load": load, "rows": rows}

    def add(row: Row) -> None:
        row["missed"] = missed(row)
        rows.append(row)
        print(*lines(row), sep="\n", flush=True)
        if options.json:  # (row by row: a long run that breaks off leaves what it found)
            options.json.write_text(json.dumps(found, indent=1))

    print(found["machine"])
    print(HEAD)
    for name in options.network or [n for n, b in NETWORKS.items() if b.listed]:
        for batch in options.batch:
            add(compete(name, batch, make(name, 0 if options.free else batch, folder), options))
        if 8 in options.batch and max(options.batch) > 8:
            add(scaling(name, 8, max(options.batch), folder, options))
        for k in options.targets:
            add(several(name, k, make(name, 0 if options.free else 1, folder), options))
    if options.markdown:
        options.markdown.write_text(together([found]))
    lost = [f"MISSED {r['network']} {r['what']}: {m}" for r in rows for m in r["missed"]]
    print(*lost, sep="\n")
    return 1 if lost else 0


def together(runs: list[dict[str, Any]]) -> str:
    """The tables of several runs; a later run's row takes the place of an earlier one's."""
    rows = {(r["network"], r["what"]): r for run in runs for r in run["rows"]}
    return markdown(list(rows.values()), *(list(dict.fromkeys(run[k] for run in runs)) for k in ("machine", "command")))


def compete(name: str, batch: int, files: Files, options: argparse.Namespace) -> Row:
    """One network at one batch size."""
    from bench_networks import NETWORKS

    bars = NETWORKS[name]
    held = batch in (1, 8)  # the batch sizes that the bars are for
    inputs = files.inputs(name, batch)
    with np.load(inputs) as given:
        x = given["x"]
    contestants: dict[str, Callable[..., Any]] = {
        "forward": runner(files.model, x=x),
        "compiled": runner(files.compiled, x=x),
        "without C_b": runner(files.weight, x=x),
    }
    if not options.no_torch:
        contestants["torch"] = gradient(name, batch)
    say(f"{name}: batch {batch}, {options.runs} runs of {', '.join(contestants)}")
    seconds = timed(contestants, options.runs)
    medians = {n: float(np.median(s)) for n, s in seconds.items()}
    row: Row = {
        "network": name, "what": f"batch {batch}", "batch": batch, "runs": options.runs, "seconds": medians,
        "ratio": medians["compiled"] / medians["forward"], "bar": bars.forward if held else None,
        "quartiles": quartiles(seconds["compiled"] / seconds["forward"]),
        "spread": {n: quartiles(s) for n, s in seconds.items()},
        "C_b": 1 - float(np.median(seconds["without C_b"] / seconds["compiled"])),
        "residual": residual(files.compiled, x),
        "compile_s": files.compile_s, "nodes": files.nodes, "growth": files.growth,
    }  # fmt: skip
    if "torch" in medians:
        row["times"] = medians["torch"] / medians["compiled"]
        row["torch_bar"] = bars.torch[batch > 1] if held else None
    del contestants
    if options.memory:
        say(f"{name}: memory, batch {batch}")
        row["memory"] = {
            "forward": peak("onnxruntime", files.model, inputs),
            "compiled": peak("onnxruntime", files.compiled, inputs),
            "torch": peak("torch", name, str(batch)),
        }
    if options.start:
        say(f"{name}: session start")
        models = {"forward": files.model, "compiled": files.compiled}
        starts = timed({n: (lambda p=p: session(p)) for n, p in models.items()}, 5, 1)
        row["start"] = {n: float(np.median(s)) for n, s in starts.items()}
    if options.others:
        from bench_others import others

        row["others"] = others(name, batch, max(1, options.runs // 5), files, medians["compiled"])
    return row


def quartiles(values: np.ndarray[Any, Any]) -> list[float]:
    """The first and the third."""
    return [float(q) for q in np.quantile(values, [0.25, 0.75])]


def residual(path: str, x: np.ndarray[Any, Any]) -> float:
    """The completeness residual of the worst row."""
    import omenn_onnx

    return float(np.max(omenn_onnx.Explainer(path, providers=["CPUExecutionProvider"])(x).relative_residual))


def scaling(name: str, small: int, large: int, folder: Path, options: argparse.Namespace) -> Row:
    """Seconds an image at a small and at a large batch, of the model and of the compiled model, interleaved."""
    contestants: dict[str, Callable[..., Any]] = {}
    for batch in (small, large):
        files = make(name, 0 if options.free else batch, folder)
        with np.load(files.inputs(name, batch)) as given:
            for what, path in (("forward", files.model), ("compiled", files.compiled)):
                contestants[f"{what} {batch}"] = runner(path, x=given["x"])
    say(f"{name}: batch {large} against {small}")
    seconds = timed(contestants, max(3, options.runs // 3), 1)
    each = {
        what: [float(np.median(seconds[f"{what} {batch}"])) / batch for batch in (small, large)]
        for what in ("forward", "compiled")
    }
    return {"network": name, "what": f"batch {small}, {large}", "per_image": each}


def several(name: str, k: int, files: Files, options: argparse.Namespace) -> Row:
    """K targets, chunk by chunk, in units of the forward: K classes from 0 on, the last chunk filled up."""
    from bench_networks import NETWORKS

    chunk = min(k, options.chunk)
    first = [min(i, k - chunk) for i in range(0, k, chunk)]
    targets = np.asarray(first, np.int64)[:, None, None] + np.arange(chunk, dtype=np.int64)
    inputs, path = files.inputs(name, 1), files.chunk(chunk)
    with np.load(inputs) as given:
        x = given["x"]
    model, compiled = runner(files.model, x=x), runner(path, x=x)
    timed_chunks = min(options.timed_chunks or len(first), len(first))
    passes = -(-options.runs // timed_chunks)
    say(f"{name}: K = {k}, {passes} times {timed_chunks} of {len(first)} chunks of {chunk}")
    next_chunk = iter([t for _ in range(passes) for t in targets[:timed_chunks]] + [targets[0]] * 2)
    contestants = {"forward": model, "targets": lambda: compiled(target=next(next_chunk))}
    seconds = timed(contestants, passes * timed_chunks)
    forward, each = float(np.median(seconds["forward"])), float(np.median(seconds["targets"]))
    row: Row = {
        "network": name, "what": f"K = {k}", "k": k, "chunk": chunk, "chunks": len(first), "timed": timed_chunks,
        "passes": passes, "forward_s": forward, "chunk_s": each, "ratio": each * len(first) / forward,
        "bar": NETWORKS[name].targets.get(k),
    }  # fmt: skip
    if options.memory and len(first) > 1:
        feeds = f"{files.stem}.k{k}.npz"
        np.savez(feeds, x=x, target=targets)
        counts = [n for n in (1, 2, 4) if n <= len(first)]
        row["chunk_memory"] = {str(n): peak("onnxruntime", path, feeds, n) for n in counts}
    return row


if __name__ == "__main__":
    sys.exit(main())
