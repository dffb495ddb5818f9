"""What a spectrum costs: `python tools/bench_spectrum.py [NETWORK...] [--layers NAME...] [--runs 3] [--json FILE]`.

AlexNet and VGG-11 with BatchNorm at 224 (tools/spectral_convnets.py, random weights) at one photograph: the k largest
singular triplets of R, the operator from the image to a layer, found by this package and, interleaved in one run, by
what one would write oneself: the Jacobian's products of torch.func as a LinearOperator for scipy's svds. R^T u is a vjp
closure made once; R v is jvp called anew (what one writes first), or a closure of linearize (what one finds to be
faster), with either Lanczos solver of svds. ARPACK is given the root of the tolerance, as it squares it; residuals
max(|R v - s u|, |R^T u - s v|) / s are measured afterwards, for all with the same operator.

A contestant's time includes what it does anew for an image (coefficients of the linear map; closures of torch.func);
what is made once for a model (graphs, sessions) is listed apart. Also: the adjoint identity
|<u, R v> - <R^T u, v>| / (|u| |R v|), the worst of several random pairs; and with --full the full spectrum, in a fresh
process with its peak memory. Prints the bars that are missed: the exit status is 1 where one is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_contestants import THREADS, Array, peak_of_this_process, say, timed
from bench_report import machine
from scipy.sparse.linalg import LinearOperator, svds

Row = dict[str, Any]
NETWORKS, LAYERS = ("alexnet", "vgg11_bn"), ("penultimate", "last_conv")
CONTESTANTS = ("jvp arpack", "linearize arpack", "linearize propack")
SECONDS = {("alexnet", "penultimate"): 60.0, ("alexnet", "last_conv"): 120.0}  # bars of the leading triplets
FULL_SECONDS, FULL_MB = 360.0, 10_000.0  # bars of AlexNet's full spectrum at its penultimate layer
TIMES = 2.0  # bar: times faster than torch.func's jvp and vjp with svds, which is ARPACK unless one says otherwise
ADJOINT = 1e-5


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", help=f"of {', '.join(NETWORKS)} (default: alexnet)")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--torch", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS), help="none: ours alone")
    parser.add_argument("--full", action="store_true", help="the full spectrum at the penultimate layer too")
    parser.add_argument("--folder", type=Path, help="keep the exported models here, and use those that lie here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)  # FILE LAYER: the fresh process of --full
    options = parser.parse_args(argv)
    if options.alone:
        print(json.dumps(alone(*options.alone)))
        return 0
    names = options.network or ["alexnet"]
    if unknown := [n for n in names if n not in NETWORKS]:
        parser.error(f"no network {', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the machine is not quiet (load average {load:.1f}): its figures will not be those of the bars")
    command = shlex.join(["python", "tools/bench_spectrum.py", *(sys.argv[1:] if argv is None else argv)])
    found: Row = {"machine": machine(), "command": command, "load": load, "rows": []}
    print(found["machine"])
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = exported(name, folder)
            for layer in options.layers:
                keep(found, leading(name, layer, path, options), options.json)
            if options.full:
                keep(found, full(name, path), options.json)
    lost = [f"MISSED {r['network']} {r['what']}: {m}" for r in found["rows"] for m in r["missed"]]
    print(*lost, sep="\n")
    return 1 if lost else 0


def keep(found: Row, row: Row, path: Path | None) -> None:
    """Print a row and write what there is so far: a long run that breaks off leaves what it found."""
    found["rows"].append(row)
    print(*lines(row), sep="\n", flush=True)
    if path:
        path.write_text(json.dumps(found, indent=1))


def exported(name: str, folder: Path) -> Path:
    """The ONNX file of a network; made where it does not lie there yet."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        import onnx
        from spectral_convnets import model

        say(f"{name}: exporting")
        onnx.save(model(name), path)
        np.save(folder / "image.npy", photograph())
    return path


def photograph() -> Array:
    """The image [1,3,224,224]."""
    from spectral_convnets import inputs

    return inputs()[:1]


def leading(name: str, layer: str, path: Path, options: argparse.Namespace) -> Row:
    """The k largest triplets at a layer, by all contestants."""
    from omenn_onnx.spectral.instances import Linearization
    from omenn_onnx.spectral.svd import triplets

    x = np.load(path.parent / "image.npy")
    say(f"{name}, {layer}: preparing")
    start = time.perf_counter()
    model = Linearization(path)
    operator = model.at(x).operator(target=layer)
    prepared = time.perf_counter() - start
    results: dict[str, tuple[Array, Array, Array]] = {}
    counts: dict[str, int] = {}

    def ours() -> None:
        t = triplets(model.at(x).operator(target=layer), options.k, tolerance=options.tolerance)
        results["ours"], counts["ours"] = (t.u, t.s, t.v), t.applications

    contestants: dict[str, Callable[[], None]] = {"ours": ours}
    row: Row = {"network": name, "layer": layer, "what": f"{layer}, k = {options.k}", "shape": list(operator.shape)}
    if options.torch:
        import torch
        from spectral_convnets import built

        torch.set_num_threads(THREADS)
        products = TorchProducts(built(name), layer, x)
        for contestant in options.torch:

            def theirs(contestant: str = contestant) -> None:
                way, solver = contestant.split()
                results[contestant] = by_svds(products.operator(way), options.k, options.tolerance, solver)
                counts[contestant] = products.applications

            contestants[contestant] = theirs
    say(f"{name}, {layer}: {options.runs} runs of {', '.join(contestants)}")
    seconds = timed(contestants, options.runs, warm=0)
    medians = {n: float(np.median(s)) for n, s in seconds.items()}
    row |= {
        "k": options.k, "tolerance": options.tolerance, "runs": options.runs, "prepared": prepared, "seconds": medians,
        "all_seconds": {n: [float(v) for v in s] for n, s in seconds.items()}, "applications": counts,
        "residual": {n: residual(operator, *r) for n, r in results.items()},
        "values": [float(v) for v in results["ours"][1]],
        "apart": {n: float(np.max(np.abs(r[1] / results["ours"][1] - 1))) for n, r in results.items() if n != "ours"},
        "adjoint": adjoint_error(operator),
    }  # fmt: skip
    row["times"] = medians.get("jvp arpack", float("nan")) / medians["ours"]
    row["missed"] = missed(row)
    return row


def by_svds(operator: LinearOperator, k: int, tolerance: float, solver: str) -> tuple[Array, Array, Array]:
    """U [M,k], s [k] (descending) and V [D,k] by scipy, so that residuals meet the tolerance: ARPACK works on R^T R and
    is told to converge to the square of what it is given, relative to s^2; PROPACK takes the tolerance as it is."""
    given = tolerance**0.5 if solver == "arpack" else tolerance
    u, s, vt = svds(operator, k, tol=given, solver=solver, rng=np.random.default_rng(0))
    order = np.argsort(-s)
    return u[:, order], s[order], vt[order].T


class TorchProducts:
    """R v and R^T u of a torch network, a Sequential, up to a layer, as somebody who knows torch.func writes them."""

    def __init__(self, network: Any, layer: str, x: Array) -> None:
        import torch

        front = network[: 1 + [n for n, _ in network.named_children()].index(layer)]
        parameters = {n: p.detach() for n, p in (*front.named_parameters(), *front.named_buffers())}
        self._torch, self._x, self.applications = torch, torch.from_numpy(x), 0
        self._function = lambda image: torch.func.functional_call(front, parameters, (image,))

    def _jvp(self, vector: Any) -> Any:
        return self._torch.func.jvp(self._function, (self._x,), (vector,))[1]

    def operator(self, way: str) -> LinearOperator:
        """R at the image, its closures made anew; R v by "jvp" or "linearize"."""
        torch, self.applications = self._torch, 0
        forward = torch.func.linearize(self._function, self._x)[1] if way == "linearize" else self._jvp
        y, backward = torch.func.vjp(self._function, self._x)

        def image(v: Array) -> Array:
            self.applications += 1
            with torch.no_grad():
                return forward(torch.from_numpy(v.reshape(self._x.shape))).numpy().ravel()

        def cotangent(u: Array) -> Array:
            self.applications += 1
            return backward(torch.from_numpy(np.ascontiguousarray(u.reshape(y.shape))))[0].numpy().ravel()

        return LinearOperator((y.numel(), self._x.numel()), image, cotangent, dtype=np.float32)


def residual(operator: LinearOperator, u: Array, s: Array, v: Array) -> float:
    """max(|R v - s u|, |R^T u - s v|) / s of the worst triplet; u [M,k], s [k], v [D,k]."""
    there = np.linalg.norm(operator.matmat(v) - s * u, axis=0)
    back = np.linalg.norm(operator.rmatmat(u) - s * v, axis=0)
    return float(np.max(np.maximum(there, back) / s))


def adjoint_error(operator: LinearOperator, pairs: int = 5, seed: int = 0) -> float:
    """|<u, R v> - <R^T u, v>| / (|u| |R v|), the worst of random pairs."""
    random = np.random.default_rng(seed)
    v, u = (random.standard_normal((n, pairs)).astype(operator.dtype) for n in operator.shape[::-1])
    image, cotangent = (m.astype(np.float64) for m in (operator.matmat(v), operator.rmatmat(u)))
    off = np.abs(np.sum(u * image, axis=0) - np.sum(cotangent * v, axis=0))
    return float(np.max(off / (np.linalg.norm(u, axis=0) * np.linalg.norm(image, axis=0))))


def full(name: str, path: Path, layer: str = "penultimate") -> Row:
    """The full spectrum in a fresh process."""
    say(f"{name}, {layer}: full spectrum")
    command = [sys.executable, __file__, "--alone", str(path), layer]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    row: Row = {"network": name, "what": f"{layer}, full", **json.loads(done.stdout.splitlines()[-1])}
    return {**row, "missed": missed(row)}


def alone(path: str, layer: str) -> Row:
    """All singular values at a layer, and the vectors of the smaller side, in a process that never imports torch."""
    from omenn_onnx.spectral.full import full_spectrum
    from omenn_onnx.spectral.instances import Linearization

    x = np.load(Path(path).parent / "image.npy")
    start = time.perf_counter()
    operator = Linearization(path).at(x).operator(target=layer)
    prepared = time.perf_counter() - start
    start = time.perf_counter()
    found = full_spectrum(operator)
    seconds, peak = time.perf_counter() - start, peak_of_this_process()
    sample = range(min(16, found.rank))
    return {
        "layer": layer, "shape": list(operator.shape), "prepared": prepared, "seconds": {"ours": seconds}, "MB": peak,
        "count": len(found), "rank": found.rank, "values": [float(v) for v in found.s[:: max(1, len(found) // 256)]],
        "residual": {"ours": residual(operator, found.left(sample), found.s[sample], found.right(sample))},
    }  # fmt: skip


def missed(row: Row) -> list[str]:
    """The bars that a row misses, in words. What is not a number misses its bar."""
    found = []

    def hold(value: float, bar: float, words: str) -> None:
        if not value <= bar:
            found.append(words.format(value, bar))

    seconds = row["seconds"]["ours"] + row["prepared"]
    if "count" in row:
        if row["network"] == "alexnet":
            hold(seconds, FULL_SECONDS, "{:.0f} s, not {:.0f}")
            hold(row["MB"], FULL_MB, "{:.0f} MB, not {:.0f}")
        return found
    if (row["network"], row["layer"]) in SECONDS:
        hold(seconds, SECONDS[row["network"], row["layer"]], "{:.1f} s, not {:.0f}")
    if "jvp arpack" in row["seconds"] and not row["times"] >= TIMES:
        found.append(f"{row['times']:.2f} times faster than jvp, vjp and svds, not {TIMES:.0f}")
    hold(row["residual"]["ours"], row["tolerance"], "residual {:.1e}, not {:.0e}")
    hold(row["adjoint"], ADJOINT, "adjoint identity off by {:.1e}, not {:.0e}")
    return found


def lines(row: Row) -> list[str]:
    """A row on the screen."""
    size = " x ".join(map(str, row["shape"]))
    if "count" in row:
        return [
            f"{row['network']}, {row['layer']} ({size}): full spectrum, {row['count']} values, rank {row['rank']}",
            f"    ours{row['seconds']['ours']:20.1f} s, {row['MB']:.0f} MB at most, residual "
            f"{row['residual']['ours']:.1e}; prepared in {row['prepared']:.1f} s",
        ]
    found = [
        f"{row['network']}, {row['layer']} ({size}): {row['k']} leading triplets, tolerance {row['tolerance']:g}, "
        f"median of {row['runs']}, adjoint identity {row['adjoint']:.1e}"
    ]
    for name, seconds in row["seconds"].items():
        spread = ", ".join(f"{s:.1f}" for s in sorted(row["all_seconds"][name]))
        label = name if name == "ours" else f"torch {name}, {seconds / row['seconds']['ours']:.2f} x"
        apart = f", values within {row['apart'][name]:.1e} of ours" if name in row["apart"] else ""
        found.append(
            f"    {label:32}{seconds:8.1f} s ({spread}), {row['applications'][name]} applications, residual "
            f"{row['residual'][name]:.1e}{apart}"
        )
    return [*found, f"    ours is prepared once for the model, in {row['prepared']:.1f} s"]


if __name__ == "__main__":
    sys.exit(main())
