"""The zoo: `python tools/zoo FOLDER [--only WORD...] [--quick] [--build | --operators] [--jobs N]`.

Builds the networks of tools/zoo/*_networks.py into FOLDER (what lies there is not built again), compiles each in both
rule sets, and checks: completeness, with the runtime's optimisation on and off; C_w and C_b against the dense oracle
of the tests; the model's own outputs; in tangent the framework's gradient; the maps of twins (other exporters, opsets,
optimised or fused copies). Prints a table, writes FOLDER/zoo.json. The exit status is 1 where a bar is missed.

With --operators instead: the adjoint identity and the completeness of the linear operators X -> Z, X -> a middle layer
and that layer -> Z of each network; FOLDER/operators.json.

TensorFlow and JAX want environments of their own: `--build --only keras` there, with the same FOLDER, builds what this
environment then checks. Networks that are not built and cannot be built here are listed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from zoo.catalogue import networks
from zoo.entry import Network

RULES = ("secant", "tangent")
LIMIT_S = 900
Row = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="networks whose name, kind or exporter has the word")
    parser.add_argument("--quick", action="store_true", help="the part that the tests run")
    parser.add_argument("--build", action="store_true", help="build, and check nothing")
    parser.add_argument("--operators", action="store_true", help="check the linear operators, and nothing else")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    chosen = [n for n in networks() if selected(n, options)]
    absent = {n.name: n.missing() for n in chosen if not n.sample(options.folder).exists() and n.missing()}
    rows, errors = run_all([n for n in chosen if n.name not in absent], options)
    for name, packages in absent.items():
        print(f"not built: {name} (needs {', '.join(packages)})")
    if options.operators:
        show_operators(chosen, rows)
        (options.folder / "operators.json").write_text(json.dumps(rows, indent=1))
    elif not options.build:
        twins(chosen, options.folder, rows)
        show(chosen, rows)
        (options.folder / "zoo.json").write_text(json.dumps(rows, indent=1))
    for name, error in errors.items():
        print(f"FAILED {name}: {error}")
    failed = [r for r in rows if r["failed"]]
    for r in failed:
        print(f"FAILED {r['network']} {r['rules']}: {'; '.join(r['failed'])}")
    exporters = Counter(n.exporter.split()[0].rstrip(",") for n in chosen if n.name in {r["network"] for r in rows})
    print("checked: " + ", ".join(f"{e} {count}" for e, count in exporters.most_common()))
    done = len({r["network"] for r in rows})
    print(f"{len(chosen)} networks, {done} checked, {len(absent)} not built, {len(failed) + len(errors)} failures")
    return 1 if failed or errors or not chosen else 0


def selected(network: Network, options: argparse.Namespace) -> bool:
    text = f"{network.name} {network.kind} {network.exporter}"
    return (not options.quick or network.quick) and (not options.only or any(w in text for w in options.only))


def findings(network: Network, options: argparse.Namespace) -> Path:
    """Where what was found of a network lies."""
    found: Path = options.folder / f"{network.name}{'.operators' if options.operators else ''}.json"
    return found


def one(network: Network, options: argparse.Namespace) -> None:
    """In a process of its own: build a network where it is not built, and examine it. What it prints goes to a file."""
    folder = options.folder
    with open(folder / f"{network.name}.log", "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        if not network.sample(folder).exists():
            network.make(folder)
        if not options.build:
            examine = importlib.import_module("zoo.operators" if options.operators else "zoo.examine").examine
            rows = [asdict(examine(network, folder, rules)) for rules in RULES]
            findings(network, options).write_text(json.dumps(rows))


def preload(chosen: list[Network]) -> None:
    """Import once what every process would import: they are forked."""
    import zoo.examine
    import zoo.operators  # noqa: F401

    for package in ("torch", "transformers", "skl2onnx"):
        if any(package in n.needs for n in chosen) and importlib.util.find_spec(package):
            importlib.import_module(package)


def run_all(chosen: list[Network], options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Every network in a process of its own. What was found, and what ended a process."""
    if not options.build:
        preload(chosen)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    rows: list[Row] = []
    errors: dict[str, str] = {}
    by_name = {n.name: n for n in chosen}
    waiting, running = list(reversed(chosen)), {}
    with tqdm(total=len(chosen), disable=not sys.stderr.isatty()) as bar:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                network = waiting.pop()
                findings(network, options).unlink(missing_ok=True)
                process = context.Process(target=one, args=(network, options))
                process.start()
                running[network.name] = process, time.monotonic()
            multiprocessing.connection.wait([p.sentinel for p, _ in running.values()], timeout=1)
            for name, (process, start) in list(running.items()):
                late = time.monotonic() - start > LIMIT_S
                if process.is_alive() and not late:
                    continue
                process.kill()
                process.join()
                del running[name]
                if late or process.exitcode != 0:
                    said = (options.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
                    why = f"took more than {LIMIT_S} s" if late else f"exit status {process.exitcode}"
                    errors[name] = f"{why}: {said[-1] if said else ''}"[:500]
                elif not options.build:
                    rows += json.loads(findings(by_name[name], options).read_text())
                bar.update()
                if bar.disable:
                    done = len(chosen) - len(waiting) - len(running)
                    print(f"{done}/{len(chosen)} {name} {errors.get(name, '')}".rstrip(), file=sys.stderr, flush=True)
    order = {n.name: i for i, n in enumerate(chosen)}
    rows.sort(key=lambda r: (order[r["network"]], RULES.index(r["rules"])))
    return rows, errors


def twins(chosen: list[Network], folder: Path, rows: list[Row]) -> None:
    """Compare the maps of twins."""
    from zoo.examine import Finding, compare_with_float, compare_with_twin, to_json

    by_name = {n.name: n for n in chosen}
    for i, row in enumerate(rows):
        network = by_name[row["network"]]
        if (network.twin or network.float_twin) and not row["failed"]:
            finding = Finding(**row)
            if network.twin:
                compare_with_twin(network, folder, finding)
            if network.float_twin:
                compare_with_float(network, folder, finding)
            rows[i] = to_json(finding)


def show_operators(chosen: list[Network], rows: list[Row]) -> None:
    """The table of the operators, worst of each network."""
    by_name = {n.name: n for n in chosen}
    head = ["network", "kind", "exporter", "rules", "operators", "X -> Z", "adjoint", "residual", "compiled", "note"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        n = by_name[r["network"]]
        cells = [n.name, n.kind, n.exporter, r["rules"], str(r["operators"]), r["size"]]
        cells += [f"{r[k]:.0e}" for k in ("adjoint", "residual", "compiled")]
        print("| " + " | ".join([*cells, r["note"]]) + " |")


def show(chosen: list[Network], rows: list[Row]) -> None:
    """The table, and the accepted differences with their sizes."""
    by_name = {n.name: n for n in chosen}

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.0e}"

    head = ["network", "kind", "exporter", "rules", "nodes", "compile", "residual", "k", "outputs", "C_w", "C_b",
            "gradient", "twin C_w", "twin C_b", "correlation"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        n = by_name[r["network"]]
        cells = [n.name, n.kind, n.exporter, r["rules"], str(r["nodes"]), f"{r['seconds']:.2f} s"]
        cells += [number(r["residual"]), f"{r['condition']:.0f}", number(r["outputs"])]
        cells += [number(r[k]) for k in ("oracle_w", "oracle_b", "gradient", "twin_w", "twin_b")]
        cells.append("-" if r["correlation"] is None else f"{r['correlation']:.3f}")
        print("| " + " | ".join(cells) + " |")
    accepted = [
        (r, part, n.accepted.get(part) or n.accepted[f"{part} {r['rules']}"])
        for r in rows
        for n in [by_name[r["network"]]]
        for part in ("C_w", "C_b")
        if part in n.accepted or f"{part} {r['rules']}" in n.accepted
    ]
    if accepted:
        print("\n| accepted difference | rules | from | map | size | why |\n|---|---|---|---|---|---|")
    for r, part, (_, why) in accepted:
        twin = by_name[r["network"]].twin
        print(f"| {r['network']} | {r['rules']} | {twin} | {part} | {number(r[f'twin_{part[-1]}'])} | {why} |")


if __name__ == "__main__":
    sys.exit(main())
