"""What an explanation costs: `python tools/bench.py [NETWORK...] [--batch 1 8] [--runs 15] [--json FILE]`.

Builds the networks of tools/bench_networks.py (random weights, published sizes), compiles them, and times, interleaved
in one run: the model itself in ONNX Runtime (forward), the compiled model (C_w, C_b and the outputs), the compiled
model without C_b, and PyTorch's eager forward with the gradient of the score with respect to the input. Prints medians,
the ratios of medians, the spread (quartiles) of the ratios taken run by run, the completeness residual, and the bars;
the exit status is 1 where a bar is missed.

--targets K...: K targets in one run against K forwards at batch 1. --memory: peak memory of a fresh process of each
contestant. --start: time to create a session. --others: Captum (InputXGradient, IntegratedGradients with 50 steps) and
SHAP's DeepExplainer where they are installed and run: time of one explanation, and how far its sum is off the score.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
THREADS = 2
PAUSE_S = 0.05
"""Between two contestants: the threads of the last one spin for a while, and would take the next one's cores."""
CHUNK = 10
"""Targets that share a run."""


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--targets", type=int, nargs="*", default=[])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--free", action="store_true", help="models with a free batch size (default: a fixed one)")
    parser.add_argument("--no-torch", action="store_true", help="without PyTorch's gradient among the contestants")
    parser.add_argument("--folder", type=Path, help="keep the exported models here, and use those that lie here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=3, metavar=("CONTESTANT", "MODEL", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.alone:
        return alone(options.alone[0], options.alone[1], int(options.alone[2]))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    from bench_networks import NETWORKS

    unknown = [n for n in options.network if n not in NETWORKS]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    rows: list[Row] = []
    print(machine())
    print(f"{'network':16}{'batch':>6}{'forward':>10}{'compiled':>10}{'ratio':>7}{'':15}{'bar':>6}{'torch':>10}{'times':>7}"
          f"{'bar':>6}{'C_b':>8}{'residual':>10}")  # fmt: skip
    for name in options.network or NETWORKS:
        for batch in options.batch:
            stem = make(name, 0 if options.free else batch, folder)
            rows.append(compete(name, batch, stem, options))
            show(rows[-1])
        for k in options.targets:
            stem = make(name, 0 if options.free else 1, folder, [k])
            rows.append(several(name, k, options.runs, stem))
            show_targets(rows[-1])
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    missed = [f"{r['network']} {r['what']}: {m}" for r in rows for m in r["missed"]]
    print(*(f"MISSED {m}" for m in missed), sep="\n")
    return 1 if missed else 0


def machine() -> str:
    """Processor, threads, versions."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnx", "torch", "transformers", "numpy")
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


def make(name: str, batch: int, folder: Path, targets: Sequence[int] = ()) -> str:
    """The exported model STEM.onnx, and its compiled forms: with C_w and C_b, with C_w alone, with K targets. STEM."""
    import onnx
    from bench_networks import export

    import omenn_onnx

    stem = str(folder / f"{name}.{batch or 'free'}")
    path = Path(f"{stem}.onnx")
    if not path.exists():
        export(name, batch, path)
    start = time.perf_counter()
    proto = omenn_onnx.compile(path)
    seconds, size = time.perf_counter() - start, proto.ByteSize() / path.stat().st_size
    print(f"{path.stem}: compiled in {seconds:.2f} s, file x {size:.4f}", file=sys.stderr)
    onnx.save(proto, f"{stem}.omenn.onnx")
    kept = [o for o in proto.graph.output if not o.name.startswith("C_b")]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    onnx.save(proto, f"{stem}.weight.onnx")
    for k in targets:
        chunk = min(k, CHUNK)
        onnx.save(omenn_onnx.compile(path, target=f"input:{chunk}"), f"{stem}.k{chunk}.onnx")
    return stem


def session(path: str) -> Any:
    """A session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: str, **feeds: Any) -> Callable[[], list[Any]]:
    """Runs a model again and again on the same inputs, all outputs asked for."""
    s = session(path)
    return lambda: s.run(None, feeds)


def gradient(name: str, batch: int) -> Callable[[], Any]:
    """PyTorch: forward, and the gradient of the best score of each row with respect to the image or the embeddings."""
    import torch
    from bench_networks import NETWORKS, network

    torch.set_num_threads(THREADS)
    module, inputs = network(name), NETWORKS[name].inputs(batch)
    for p in module.parameters():
        p.requires_grad_(False)

    def run() -> Any:
        if NETWORKS[name].tokens:
            x = module.embed(inputs).detach().requires_grad_()
            z = module.from_embeddings(x)
        else:
            x = inputs.clone().requires_grad_()
            z = module(x)
        return torch.autograd.grad(z.max(dim=1).values.sum(), x)

    return run


def timed(contestants: dict[str, Callable[[], Any]], runs: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of each contestant in each run, interleaved; two runs to warm up."""
    seconds: dict[str, list[float]] = {n: [] for n in contestants}
    for i in range(runs + 2):
        for name, run in contestants.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run()
            if i >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {n: np.asarray(s) for n, s in seconds.items()}


def compete(name: str, batch: int, stem: str, options: argparse.Namespace) -> Row:
    """One network at one batch size."""
    from bench_networks import NETWORKS

    bench = NETWORKS[name]
    x = bench.inputs(batch).numpy()
    contestants: dict[str, Callable[[], Any]] = {
        "forward": runner(f"{stem}.onnx", x=x),
        "compiled": runner(f"{stem}.omenn.onnx", x=x),
        "without C_b": runner(f"{stem}.weight.onnx", x=x),
    }
    if not options.no_torch:
        contestants["torch"] = gradient(name, batch)
    seconds = timed(contestants, options.runs)
    medians = {n: float(np.median(s)) for n, s in seconds.items()}
    ratios = seconds["compiled"] / seconds["forward"]
    ratio, share = medians["compiled"] / medians["forward"], 1 - medians["without C_b"] / medians["compiled"]
    row: Row = {
        "network": name, "what": f"batch {batch}", "batch": batch, "seconds": medians, "ratio": ratio,
        "quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])], "bar": bench.forward, "C_b": share,
        "residual": residual(f"{stem}.omenn.onnx", x), "missed": [],
    }  # fmt: skip
    if ratio > bench.forward:
        row["missed"].append(f"{ratio:.2f} forwards, not {bench.forward:.2f}")
    if share > 0.03:
        row["missed"].append(f"C_b costs {share:.1%}, not 3 %")
    if "torch" in medians:
        row["times"], row["torch_bar"] = medians["torch"] / medians["compiled"], bench.torch[batch > 1]
        if row["times"] < row["torch_bar"]:
            row["missed"].append(f"{row['times']:.2f} times faster than torch, not {row['torch_bar']:.1f}")
    if options.memory:
        row["memory"] = memory(name, batch, stem)
    if options.start:
        models = {"forward": f"{stem}.onnx", "compiled": f"{stem}.omenn.onnx"}
        starts = timed({n: (lambda p=p: session(p)) for n, p in models.items()}, 3)
        row["start"] = {n: float(np.median(s)) for n, s in starts.items()}
        if row["start"]["compiled"] > 2.5 * row["start"]["forward"]:
            times = row["start"]["compiled"] / row["start"]["forward"]
            row["missed"].append(f"session start {times:.1f} times the model's")
    if options.others:
        row["others"] = others(name, batch, options.runs)
    return row


def residual(path: str, x: np.ndarray[Any, Any]) -> float:
    """The completeness residual of the worst row."""
    import omenn_onnx

    return float(np.max(omenn_onnx.Explainer(path, providers=["CPUExecutionProvider"])(x).relative_residual))


def several(name: str, k: int, runs: int, stem: str) -> Row:
    """K targets in one run, or in several of CHUNK, in forwards at batch 1."""
    from bench_networks import NETWORKS

    bar, chunk = NETWORKS[name].targets.get(k), min(k, CHUNK)
    x = NETWORKS[name].inputs(1).numpy()
    target = np.arange(chunk, dtype=np.int64)[None]
    compiled = runner(f"{stem}.k{chunk}.onnx", x=x, target=target)
    seconds = timed({"forward": runner(f"{stem}.onnx", x=x), "targets": compiled}, runs)
    ratio = float(np.median(seconds["targets"]) / np.median(seconds["forward"])) * -(-k // chunk)
    missed = [] if bar is None or ratio <= bar else [f"{ratio:.1f} forwards, not {bar:.1f}"]
    return {"network": name, "what": f"K = {k}", "k": k, "chunk": chunk, "ratio": ratio, "bar": bar, "missed": missed}


def memory(name: str, batch: int, stem: str) -> dict[str, float]:
    """Peak resident memory in MB of a fresh process of each contestant."""
    found = {}
    for contestant, path in (("forward", f"{stem}.onnx"), ("compiled", f"{stem}.omenn.onnx"), ("torch", name)):
        command = [sys.executable, __file__, "--alone", contestant, path, str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[contestant] = float(done.stdout.split()[-1])
    return found


def alone(contestant: str, path: str, batch: int) -> int:
    """Run one contestant twice and print its peak memory. ONNX Runtime's processes do not import torch."""
    if contestant == "torch":
        run = gradient(path, batch)
    else:
        s = session(path)
        (given,) = s.get_inputs()
        free = {1: 224, 2: 224, 3: 224}
        shape = [batch, *(d if isinstance(d, int) else free[i] for i, d in enumerate(given.shape) if i)]
        value = np.ones(shape, np.int64 if "int" in given.type else np.float32)

        def run() -> Any:
            return s.run(None, {given.name: value})

    run()
    run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return 0


def others(name: str, batch: int, runs: int) -> dict[str, Any]:
    """Other explainers on the torch module: median seconds, and |sum - what it should be| / max(1, |score|)."""
    import torch
    from bench_networks import NETWORKS, network

    torch.set_num_threads(THREADS)
    bench = NETWORKS[name]
    if bench.tokens:
        return {}
    module, x = network(name), bench.inputs(batch)
    target = module(x).argmax(1)
    score = module(x).gather(1, target[:, None])[:, 0].detach()
    base = module(torch.zeros_like(x)).gather(1, target[:, None])[:, 0].detach()
    found: dict[str, Any] = {}

    def measure(label: str, run: Callable[[], Any], wanted: Any) -> None:
        try:
            seconds = timed({label: run}, max(1, runs // 5))[label]
            total = torch.as_tensor(run()).reshape(batch, -1).sum(1)
        except Exception as e:  # a contestant that fails is reported as such
            found[label] = f"{type(e).__name__}: {' '.join(str(e).split())[:100]}"
            return
        gap = ((total - wanted).abs() / score.abs().clamp(min=1)).max().item()
        found[label] = {"seconds": float(np.median(seconds)), "completeness": gap}

    try:
        from captum.attr import InputXGradient, IntegratedGradients
    except ImportError:
        found["captum"] = "not installed"
    else:
        measure("InputXGradient", lambda: InputXGradient(module).attribute(x, target=target).detach(), score)
        ig = IntegratedGradients(module)
        measure("IntegratedGradients(50)", lambda: ig.attribute(x, target=target, n_steps=50).detach(), score - base)
    try:
        import shap
    except ImportError:
        found["shap"] = "not installed"
    else:

        def deep() -> Any:
            explainer = shap.DeepExplainer(module, torch.zeros_like(x[:1]))
            values = np.asarray(explainer.shap_values(x, check_additivity=False))
            rows = [values[i, ..., int(t)] for i, t in enumerate(target)]
            return np.stack(rows)

        measure("DeepExplainer", deep, score - base)
    return found


def show(r: Row) -> None:
    """A line of the table."""
    ms = {n: f"{1e3 * s:.1f}" for n, s in r["seconds"].items()}
    low, high = r["quartiles"]
    times, spread = f"{r['times']:.2f}" if "times" in r else "-", f"({low:.2f}-{high:.2f})"
    print(f"{r['network']:16}{r['batch']:6}{ms['forward']:>10}{ms['compiled']:>10}{r['ratio']:7.2f} {spread:14}"
          f"{r['bar']:6.2f}{ms.get('torch', '-'):>10}{times:>7}{r.get('torch_bar', 0):6.1f}{r['C_b']:8.1%}"
          f"{r['residual']:10.1e}", flush=True)  # fmt: skip
    if "memory" in r:
        print("    peak memory, MB: " + ", ".join(f"{n} {v:.0f}" for n, v in r["memory"].items()))
    if "start" in r:
        print("    session start, s: " + ", ".join(f"{n} {v:.2f}" for n, v in r["start"].items()))
    for label, value in r.get("others", {}).items():
        if not isinstance(value, str):
            value = f"{1e3 * value['seconds']:.1f} ms, off by {value['completeness']:.1e}"
        print(f"    {label}: {value}")


def show_targets(r: Row) -> None:
    """A line for K targets."""
    bar = "" if r["bar"] is None else f", bar {r['bar']:.1f}"
    print(f"    K = {r['k']} (chunks of {r['chunk']}): {r['ratio']:.1f} forwards{bar}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
