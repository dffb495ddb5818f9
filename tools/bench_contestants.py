"""What tools/bench.py times: models in ONNX Runtime, PyTorch's gradient, and fresh processes of each for their memory.

A process that measures ONNX Runtime's memory imports this file and nothing of torch."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
THREADS = 2
PAUSE_S = 0.05
"""Between two contestants: the threads of the last one spin for a while, and would take the next one's cores."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Files:
    """What lies in the folder for a network: STEM.onnx, STEM.omenn.onnx (C_w and C_b), STEM.weight.onnx (C_w)."""

    stem: str
    compile_s: float
    nodes: int  # of the model, before
    growth: float  # of the file: 0.05 is 5 %

    @property
    def model(self) -> str:
        return f"{self.stem}.onnx"

    @property
    def compiled(self) -> str:
        return f"{self.stem}.omenn.onnx"

    @property
    def weight(self) -> str:
        return f"{self.stem}.weight.onnx"

    def inputs(self, name: str, batch: int) -> str:
        """A file with the network's random inputs; made where it does not lie there yet."""
        from bench_networks import NETWORKS

        path = Path(f"{self.stem}.x{batch}.npz")
        if not path.exists():
            np.savez(path, x=NETWORKS[name].inputs(batch).numpy())
        return str(path)

    def chunk(self, size: int) -> str:
        """The model compiled for ``size`` targets given at run time."""
        import onnx

        import omenn_onnx

        path = f"{self.stem}.k{size}.onnx"
        onnx.save(omenn_onnx.compile(self.model, target=f"input:{size}"), path)
        return path


@functools.cache
def make(name: str, batch: int, folder: Path) -> Files:
    """Export the network (unless it lies there) and compile it. Batch 0: a free batch size."""
    import onnx
    from bench_networks import export

    import omenn_onnx

    stem = str(folder / f"{name}.{batch or 'free'}")
    path = Path(f"{stem}.onnx")
    if not path.exists():
        say(f"{name}: exporting, batch {batch or 'free'}")
        export(name, batch, path)
    before = len(onnx.load(path, load_external_data=False).graph.node)
    start = time.perf_counter()
    proto = omenn_onnx.compile(path)
    seconds = time.perf_counter() - start
    onnx.save(proto, f"{stem}.omenn.onnx")
    growth = Path(f"{stem}.omenn.onnx").stat().st_size / path.stat().st_size - 1
    say(f"{name}: {before} nodes compiled in {seconds:.2f} s to {len(proto.graph.node)}, file {growth:+.2%}")
    without_bias_map(proto)
    onnx.save(proto, f"{stem}.weight.onnx")
    return Files(stem, seconds, before, growth)


def without_bias_map(proto: Any) -> None:
    """Take C_b out of a compiled model, in place, with every node and weight that nothing else needs, and with nodes
    that nobody reads but that read these.

    ONNX Runtime runs a node whose outputs nobody reads: taking the output's declaration away leaves all its work."""
    graph = proto.graph
    before = _live(graph)
    kept = [o for o in graph.output if not o.name.startswith("C_b")]
    del graph.output[:]
    graph.output.extend(kept)
    after = _live(graph)
    gone = {o for i in before - after for o in graph.node[i].output}
    nodes = [n for i, n in enumerate(graph.node) if i in after or (i not in before and not gone & _read([n]))]
    del graph.node[:]
    graph.node.extend(nodes)
    read = _read(nodes) | {o.name for o in graph.output}
    weights = [w for w in graph.initializer if w.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _live(graph: Any) -> set[int]:
    """Places of the nodes that the outputs depend on."""
    needed, live = {o.name for o in graph.output}, set()
    for i in range(len(graph.node) - 1, -1, -1):
        if needed.intersection(graph.node[i].output):
            live.add(i)
            needed |= _read([graph.node[i]])
    return live


def _read(nodes: list[Any]) -> set[str]:
    from omenn_onnx.graph.walk import captured_names

    return {name for n in nodes for name in (*n.input, *captured_names(n))}


def session(path: str) -> Any:
    """A session on the CPU, of a model or its compiled form alike."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # as the package's own sessions: less memory, the same time
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: str, **feeds: Any) -> Callable[..., list[Any]]:
    """Runs a model again and again on the same inputs (or those given), all outputs asked for."""
    s = session(path)
    return lambda **other: s.run(None, {**feeds, **other})


def gradient(name: str, batch: int, statistics: bool = True) -> Callable[[], Any]:
    """PyTorch: forward, and the gradient of the best score of each row with respect to the image or the embeddings."""
    import torch
    from bench_networks import NETWORKS, network

    torch.set_num_threads(THREADS)
    module, inputs = network(name, statistics), NETWORKS[name].inputs(batch)

    def run() -> Any:
        if NETWORKS[name].tokens:
            x = module.embed(inputs).detach().requires_grad_()
            z = module.from_embeddings(x)
        else:
            x = inputs.clone().requires_grad_()
            z = module(x)
        return torch.autograd.grad(z.max(dim=1).values.sum(), x)

    return run


def timed(contestants: dict[str, Callable[[], Any]], runs: int, warm: int = 2) -> dict[str, Array]:
    """Seconds of each contestant in each run, interleaved, in a new order each time; ``warm`` runs do not count."""
    seconds: dict[str, list[float]] = {n: [] for n in contestants}
    random = np.random.default_rng(0)
    for i in range(runs + warm):
        for name in random.permutation(list(contestants)):
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            contestants[name]()
            if i >= warm:
                seconds[name].append(time.perf_counter() - start)
    return {n: np.asarray(s) for n, s in seconds.items()}


def peak(contestant: str, what: str, feeds: str, runs: int = 2) -> float:
    """Peak resident memory in MB of a fresh process that runs a contestant so many times: "torch" the network
    ``what`` at the batch size ``feeds``, "onnxruntime" the model ``what`` on the arrays of the file ``feeds``."""
    command = [sys.executable, __file__, contestant, what, feeds, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def alone(contestant: str, what: str, feeds: str, runs: int) -> None:
    """The fresh process. Targets [chunks, 1, K] are given chunk by chunk, and no result is kept."""
    if contestant == "torch":
        run = gradient(what, int(feeds), statistics=False)
        for _ in range(runs):
            run()
    else:
        s = session(what)
        with np.load(feeds) as file:
            given = {key: file[key] for key in file.files}
        chunks = given.pop("target", None)
        for i in range(runs):
            s.run(None, given if chunks is None else {**given, "target": chunks[i]})
    print(peak_of_this_process())


def peak_of_this_process() -> float:
    """Peak resident memory in MB. (getrusage would not do: its maximum is handed on from the process that started
    this one.)"""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    alone(*sys.argv[1:4], int(sys.argv[4]))
