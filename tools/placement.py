"""Where ONNX Runtime's CUDA provider puts the nodes of models, asked of itself, on a machine without a GPU:
`python tools/placement.py MODEL.onnx...`.

Making a session takes no GPU, only libraries that answer to the names of CUDA's. Stand-ins for them are compiled (with
gcc, from what nm and readelf tell): functions that return success and do nothing. Sessions are made, never run: a run
would return whatever lay in memory. With compiled files the exit status is 1 where a node of the explanation that
works on more than sizes falls back to the CPU. Needs onnxruntime-gpu in place of onnxruntime.

--run COMMAND...: run a command with the stand-ins, e.g. `--run python tools/kernel_table.py cuda`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

MARK = "OMENN_STAND_INS"
"""Set in the process that runs with them."""
PROVIDERS = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")
DLOPENED = {"libcudnn.so.9": "cudnn", "libcufft.so.12": "cufft"}
"""Opened by name, not linked; their functions are named in the provider's strings."""
# What must do a little more than nothing: memory is the host's, and there is one device, of no particular kind.
SPECIAL = {
    "cudaGetDevice": "int cudaGetDevice(int *p) { *p = 0; return 0; }",
    "cudaGetDeviceCount": "int cudaGetDeviceCount(int *p) { *p = 1; return 0; }",
    "cudaGetErrorName": 'const char *cudaGetErrorName(int e) { return "stand-in"; }',
    "cudaGetErrorString": 'const char *cudaGetErrorString(int e) { return "stand-in"; }',
    "cudaMemGetInfo": "int cudaMemGetInfo(size_t *a, size_t *b) { *a = *b = (size_t)1 << 34; return 0; }",
    "cudaMalloc": "int cudaMalloc(void **p, size_t n) { *p = aligned_alloc(256, (n + 256) / 256 * 256); return 0; }",
    "cudaFree": "int cudaFree(void *p) { free(p); return 0; }",
    "cudaMallocHost": "int cudaMallocHost(void **p, size_t n) { *p = malloc(n + 1); return 0; }",
    "cudaHostAlloc": "int cudaHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n + 1); return 0; }",
    "cudaFreeHost": "int cudaFreeHost(void *p) { free(p); return 0; }",
    "cudaMemcpy": "int cudaMemcpy(void *a, void *b, size_t n, int k) { memcpy(a, b, n); return 0; }",
    "cudaMemcpyAsync": "int cudaMemcpyAsync(void *a, void *b, size_t n, int k, void *s) { memcpy(a, b, n); return 0; }",
    "cudaGetDeviceProperties": "int cudaGetDeviceProperties(void *p, int d) { memset(p, 0, 600); return 0; }",
    "cudnnGetVersion": "size_t cudnnGetVersion(void) { return 91000; }",
}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", type=Path)
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(argv)
    if MARK in os.environ:
        return max([show(path) for path in options.model], default=0)
    spec = find_spec("onnxruntime")
    wheel = Path(spec.origin or "").parent / "capi" if spec else Path()
    if not (wheel / PROVIDERS[0]).exists():
        print(f"placement.py: no {PROVIDERS[0]} in the installed onnxruntime; onnxruntime-gpu has it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="stand-ins-") as folder:
        for name, functions in wanted(wheel).items():
            build(Path(folder), name, functions)
        command = options.run or [sys.executable, __file__, *map(str, options.model)]
        return subprocess.run(command, env={**os.environ, "LD_LIBRARY_PATH": folder, MARK: "1"}).returncode


def wanted(wheel: Path) -> dict[str, set[str]]:
    """CUDA's libraries, and the functions that the providers want of each. One that carries no version may be in any of
    them, so that all have it."""
    found: dict[str, set[str]] = defaultdict(set)
    anywhere: set[str] = set()
    for provider in PROVIDERS:
        told = subprocess.run(["readelf", "-d", wheel / provider], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"NEEDED.*\[(lib(?:cu|nv).+)\]", told))
        told = subprocess.run(["nm", "-D", "-u", wheel / provider], capture_output=True, text=True, check=True).stdout
        for symbol in (line.split()[-1] for line in told.splitlines()):
            name, _, library = symbol.partition("@")
            if library in needed:
                found[library].add(name)
            elif not library and not name.startswith(("_", "Provider_")):
                anywhere.add(name)
        for library in needed:
            found[library] |= set()
    text = (wheel / PROVIDERS[0]).read_bytes()
    for library, start in DLOPENED.items():
        found[library] |= {n.decode() for n in re.findall(rb"\x00(%s[A-Z]\w+)(?=\x00)" % start.encode(), text)}
    return {library: functions | anywhere for library, functions in found.items()}


def build(folder: Path, library: str, functions: set[str]) -> None:
    """The library, its functions under its own name as their version, as CUDA's are."""
    lines = ["#include <stdlib.h>", "#include <string.h>"]
    lines += [SPECIAL.get(n, f"long {n}(void) {{ return 0; }}") for n in sorted(functions)]
    source, versions = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("\n".join(lines) + "\n")
    versions.write_text(f"{library} {{ global: *; }};\n")
    flags = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
    subprocess.run(["gcc", *flags, "-o", str(folder / library), str(source)], check=True)


def show(path: Path) -> int:
    """One line for a model: nodes on the provider, operators on the CPU. 1 where ours work there on more than sizes."""
    import onnx
    import onnxruntime as ort

    graph = onnx.load(path, load_external_data=False).graph
    sized, computed = {i.name for i in graph.initializer} | {""}, set()
    for node in graph.node:
        if node.op_type in ("Constant", "Shape", "Size") or (node.input and sized.issuperset(node.input)):
            sized.update(node.output)
        else:
            computed.add(node.name)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(path), options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("the CUDA provider does not start with these stand-ins: this onnxruntime wants more of CUDA")
    there, here, fallen = 0, Counter[str](), []
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if part.ep_name == "CUDAExecutionProvider":
                there += 1
                continue
            here[node.op_type] += 1
            if node.name.startswith("omenn") and node.name in computed:
                fallen.append(f"{node.op_type} {node.name}")
    print(f"{path.name}: {there} nodes on CUDA, on the CPU {dict(here) or 'none'}; ours among them {fallen or 'none'}")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
