"""What an explanation costs on a GPU: `python tools/gpu.py [NETWORK...] [--batch 1 32] [--tf32] [--json FILE]`.

Builds the networks of tools/bench_networks.py, compiles them for the provider, checks where their nodes run (from the
session's profile: operators that fell back to the CPU, copies between devices), checks completeness, and times,
interleaved, with inputs and outputs bound on the device: the model itself and the compiled model in ONNX Runtime,
each also as a CUDA graph, and PyTorch's forward and gradient, eager and by torch.compile. TF32 is off, or on for all
(--tf32). Prints medians and ratios, writes JSON; the exit status is 1 where a bar is missed: at batch 32 at most 2.0
forwards for convolutional networks and 1.8 for transformers, no operator that falls back, completeness 1e-5, maps as
on the CPU.

--float16: the network in float16, explained in float32 (C_w and C_b accumulate in float32). --provider cpu: a dry run,
of the same files on the CPU. Needs onnxruntime-gpu, PyTorch with CUDA (else PyTorch is left out), transformers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_contestants import say, timed
from bench_report import machine
from gpu_contestants import Array, bound, checked, gradients, placement

Row = dict[str, Any]
TRANSFORMERS = ("vit_b16", "swin_t", "bert_base", "gpt2_small")
BARRED_BATCH = 32
SAME_MAPS = 1e-2
"""Maps on two devices, in units of their largest entry: a Relu at 1e-8 may be open on one of them only."""


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, BARRED_BATCH])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tf32", action="store_true", help="round the operands of products to TF32, everywhere")
    parser.add_argument("--float16", action="store_true", help="the network in float16, the explanation in float32")
    parser.add_argument("--no-torch", action="store_true", help="without PyTorch's gradient")
    parser.add_argument("--folder", type=Path, help="keep the models here, and use those that lie here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.provider == "cuda" and (reason := no_cuda()):
        print(f"gpu.py: CUDA does not work here: {reason} (--provider cpu is a dry run)", file=sys.stderr)
        return 2
    from bench_networks import NETWORKS

    if unknown := [n for n in options.network if n not in NETWORKS]:
        parser.error(f"no network {', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    names = options.network or [n for n, b in NETWORKS.items() if b.listed]
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print(about := f"{machine()}, {gpu() if options.provider == 'cuda' else 'dry run on the CPU'}, "
                       f"TF32 {'on' if options.tf32 else 'off'}")  # fmt: skip
        rows = []
        for name in names:
            for batch in options.batch:
                rows.append(compete(name, batch, folder, options))
                print(*lines(rows[-1]), sep="\n", flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    bad = [f"MISSED {r['network']}, batch {r['batch']}: {m}" for r in rows for m in r["missed"]]
    if bad:
        print(*bad, sep="\n")
    return 1 if bad else 0


def no_cuda() -> str:
    """Why a session does not run on CUDA here; nothing where it does."""
    import onnxruntime

    from omenn_onnx.runtime.sessions import CUDA, cuda_failure

    if CUDA not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider; onnxruntime-gpu has"
    return cuda_failure() or ""


def gpu() -> str:
    """The device and its driver, as nvidia-smi tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "a GPU (no nvidia-smi to name it)"
    done = subprocess.run([tool, "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True)
    return " / ".join(done.stdout.decode().splitlines()) or "a GPU"


def make(name: str, batch: int, folder: Path, options: argparse.Namespace) -> tuple[Path, Path, list[str]]:
    """The exported model, its compiled form, and what the compiler warned of."""
    import onnx
    from bench_networks import export

    import omenn_onnx

    stem = f"{name}.{batch}{'.half' if options.float16 else ''}"
    path, compiled = folder / f"{stem}.onnx", folder / f"{stem}.omenn.onnx"
    if not path.exists():
        say(f"{name}: exporting, batch {batch}")
        export(name, batch, path)
        if options.float16:
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    say(f"{name}: compiling for CUDA")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        onnx.save(omenn_onnx.compile(path, provider="cuda"), compiled)
    return path, compiled, [str(w.message) for w in caught if w.category is RuntimeWarning]


def compete(name: str, batch: int, folder: Path, options: argparse.Namespace) -> Row:
    """One network at one batch size: where its nodes run, completeness, times, and the bars that are missed."""
    from bench_networks import NETWORKS

    path, compiled, warned = make(name, batch, folder, options)
    x, provider = NETWORKS[name].inputs(batch).numpy(), options.provider
    say(f"{name}, batch {batch}: where nodes run, completeness")
    row: Row = {"network": name, "batch": batch, "warned": warned, "missed": [], "not run": {}}
    for what, file in (("forward", path), ("compiled", compiled)):
        profile = bound(file, x, provider, options.tf32, False, str(folder / f"{file.stem}.profile"))()
        row[f"{what} placement"] = placement(Path(profile), provider)
    row |= checked(compiled, x, provider, options.tf32)
    say(f"{name}, batch {batch}: {options.runs} runs")
    contestants = starting(row, name, {"forward": path, "compiled": compiled}, x, options)
    row["seconds"] = {n: float(np.median(s)) for n, s in timed(contestants, options.runs, warm=4).items()}
    judge(row, options)
    return row


def starting(
    row: Row, name: str, files: dict[str, Path], x: Array, options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """The contestants that run here; why others do not is noted in the row."""
    found: dict[str, Callable[[], Any]] = {}
    cuda = options.provider == "cuda"
    for what, file in files.items():
        found[what] = bound(file, x, options.provider, options.tf32, False)
        if cuda:
            try:
                found[f"{what} graph"] = bound(file, x, "cuda", options.tf32, True)
                found[f"{what} graph"]()
            except Exception as error:  # ONNX Runtime's exceptions share no narrower base
                found.pop(f"{what} graph", None)
                row["not run"][f"{what} graph"] = " ".join(str(error).split())[:200]
    if options.no_torch:
        return found
    import torch

    if cuda and not torch.cuda.is_available():
        row["not run"]["torch"] = f"PyTorch {torch.__version__} has no CUDA here"
        return found
    for what, run in gradients(name, len(x), options.provider, options.tf32).items():
        try:
            run()
        except Exception as error:  # whatever a contestant fails with is reported
            row["not run"][what] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            found[what] = run
    return found


def judge(row: Row, options: argparse.Namespace) -> None:
    """Ratios, and the bars."""
    s = row["seconds"]
    row["ratio"] = s["compiled"] / s["forward"]
    if {"forward graph", "compiled graph"} <= s.keys():
        row["graph ratio"] = s["compiled graph"] / s["forward graph"]
    best = min(s["compiled"], s.get("compiled graph", np.inf))
    row["times"] = {n: s[n] / best for n in ("torch", "torch.compile") if n in s}
    row["bar"] = (1.8 if row["network"] in TRANSFORMERS else 2.0) if row["batch"] == BARRED_BATCH else None
    here, own = row["compiled placement"], row["forward placement"]
    fallen = {op: n - own["elsewhere"].get(op, 0) for op, n in here["elsewhere"].items()}
    if fallen := {op: n for op, n in fallen.items() if n > 0}:
        row["missed"].append(f"fell back to the CPU: {fallen}")
    if sum(here["copies"].values()) > sum(own["copies"].values()):
        row["missed"].append(f"copies between devices: {here['copies']}, the model's own {own['copies']}")
    bar = 5e-3 if options.float16 or options.tf32 else 1e-5
    if not row["residual"] <= bar:
        row["missed"].append(f"residual {row['residual']:.1e}, not {bar:.0e}")
    for name in ("C_w", "C_b"):
        if not row[name] <= (0.1 if options.float16 or options.tf32 else SAME_MAPS):
            row["missed"].append(f"{name} differs from the CPU's by {row[name]:.1e} of its largest entry")
    if row["bar"] and options.provider == "cuda" and not options.float16 and not row["ratio"] <= row["bar"]:
        row["missed"].append(f"{row['ratio']:.2f} forwards, not {row['bar']:.1f}")


def lines(r: Row) -> list[str]:
    """A row on the screen."""
    there = r["compiled placement"]
    ms = ", ".join(f"{n} {1e3 * t:.2f}" for n, t in r["seconds"].items())
    told = [f"{r['network']}, batch {r['batch']}: {r['ratio']:.2f} forwards"
            + (f", {r['graph ratio']:.2f} as CUDA graphs" if "graph ratio" in r else "")
            + (f" (bar {r['bar']})" if r["bar"] else "") + "".join(f", {t:.2f} x {n}" for n, t in r["times"].items())
            + f", residual {r['residual']:.1e}, from the CPU's C_w {r['C_w']:.1e}, C_b {r['C_b']:.1e}",
            f"    ms: {ms}",
            f"    nodes: {there['there']} on the device, elsewhere {there['elsewhere'] or 'none'}, "
            f"copies {there['copies'] or 'none'}"]  # fmt: skip
    told += [f"    not run: {n}: {why}" for n, why in r["not run"].items()]
    return told + [f"    compiler: {w}" for w in r["warned"]]


if __name__ == "__main__":
    sys.exit(main())
