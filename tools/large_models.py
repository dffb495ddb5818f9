"""Models beyond protobuf's 2 GB: compile, save, move, verify and explain one, and see what that takes.

    python tools/large_models.py [--layers 10] [--width 8192] [--folder DIR]

builds a network of that many products of width x width (2.7 GB as it stands, all of it external data), then runs the
commands in processes of their own and prints their time and the memory that they took at most. Exit status 0: every
command succeeded, compiling took less memory than the model and 2 GB, the weights on disk are what they were, and the
compiled file was right in another folder too. Needs some 6 GB of disk and 9 GB of memory: ONNX Runtime, not the
compiler, holds the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

GIGA = 1e9
_PEAK = """
import json, sys
from importlib import import_module
code = import_module("omenn_onnx.cli." + sys.argv[1]).main(sys.argv[2:])
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({"code": code, "peak": peak}), file=sys.stderr)
"""
"""(Linux; getrusage would count what the parent held.)"""


@dataclass
class Run:
    """One command: its exit status, seconds, and the most memory that it held, in bytes."""

    code: int
    seconds: float
    peak: float
    said: str


def command(*args: str | Path) -> Run:
    """Run ``omenn-ARGS`` in a process of its own."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _PEAK, *map(str, args)], capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    if done.returncode or not lines:
        return Run(done.returncode or 1, time.monotonic() - start, 0.0, done.stderr)
    told = json.loads(lines[-1])
    return Run(told["code"], time.monotonic() - start, told["peak"], done.stdout + "\n".join(lines[:-1]))


def build(folder: Path, layers: int, width: int, values: bool = True) -> Path:
    """relu(x W + b), ``layers`` times, and a softmax, with all weights in ``weights.bin``. Without ``values`` that file
    is a hole of its size: zeros that take no space on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    stored: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    offset, x = 0, "x"
    with open(folder / "weights.bin", "wb") as file:
        for k in range(layers):
            for name, shape, scale in ((f"W{k}", (width, width), width**-0.5), (f"b{k}", (width,), 0.1)):
                size = int(np.prod(shape)) * 4
                if values:
                    file.write((rng.standard_normal(shape, np.float32) * np.float32(scale)).tobytes())
                stored.append(_external(name, shape, offset, size))
                offset += size
            nodes.append(helper.make_node("MatMul", [x, f"W{k}"], [f"m{k}"], f"product_{k}"))
            nodes.append(helper.make_node("Add", [f"m{k}", f"b{k}"], [f"a{k}"], f"bias_{k}"))
            nodes.append(
                helper.make_node("Relu" if k < layers - 1 else "Tanh", [f"a{k}"], [f"r{k}"], f"activation_{k}")
            )
            x = f"r{k}"
        file.truncate(offset)
    nodes.append(helper.make_node("Softmax", [x], ["y"], "softmax"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def _external(name: str, shape: tuple[int, ...], offset: int, size: int) -> TensorProto:
    t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", size)):
        t.external_data.add(key=key, value=str(value))
    return t


def digest(path: Path) -> str:
    """The content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path, layers: int, width: int) -> bool:
    """All of it, with a line for each command; whether it went well."""
    model = build(folder / "original", layers, width)
    weights = model.with_name("weights.bin")
    size, before = weights.stat().st_size, digest(weights)
    print(f"{layers} products of {width} x {width}: {size / GIGA:.2f} GB in {weights}")
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((1, width), np.float32))
    beside, elsewhere, moved = (
        model.with_name("compiled.onnx"),
        folder / "elsewhere" / "compiled.onnx",
        folder / "moved",
    )
    elsewhere.parent.mkdir()
    good = _row("compile, beside the weights", command("compile", model, "-o", beside), size + 2 * GIGA)
    good &= _row("compile, into another folder", command("compile", model, "-o", elsewhere), size + 2 * GIGA)
    good &= digest(weights) == before and digest(elsewhere.with_name("weights.bin")) == before
    shutil.rmtree(elsewhere.parent)  # (disks are small)
    os.rename(model.parent, moved)
    here = moved / beside.name
    shape = f"x=1x{width}"
    one = command("verify", here, "--original", moved / "model.onnx", "--samples", "1", "--shape", shape)
    good &= _row("verify against the original, moved", one)
    good &= _row("explain", command("explain", here, folder / "x.npy", "-o", folder / "maps"))
    good &= digest(moved / "weights.bin") == before
    print("all well" if good else "NOT well")
    return good


def _row(what: str, run: Run, limit: float = float("inf")) -> bool:
    good = run.code == 0 and run.peak <= limit
    print(f"{what:36}{'ok' if good else 'FAIL':6}{run.seconds:7.1f} s {run.peak / GIGA:7.2f} GB at most")
    if not good:
        print(run.said)
    return good


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where the files go while it runs (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        return 0 if check(Path(folder), args.layers, args.width) else 1


if __name__ == "__main__":
    raise SystemExit(main())
