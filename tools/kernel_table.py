"""Writes the kernel tables of omenn_onnx/providers: `python tools/kernel_table.py cuda|webgpu [SOURCE] [-o FILE]`.

SOURCE is one of

- a list that ONNX Runtime publishes: docs/OperatorKernels.md of its repository for CUDA;
  js/web/docs/webgpu-operators.md for WebGPU, which is the older JavaScript backend and says no types;
- the shared library of a provider that is a plugin (onnxruntime-ep-webgpu): its registry is read. ONNX Runtime lists a
  plugin's kernels only where it sees a device that the plugin takes;
- nothing: the registry of the installed onnxruntime-gpu. CUDA's libraries must load, which takes no GPU, only
  something that answers to their names: `python tools/placement.py --run python tools/kernel_table.py cuda`.

A registry is what is really there, a published list what is planned for the next release: prefer the registry.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROVIDERS = {"cuda": "CUDAExecutionProvider", "webgpu": "WebGpuExecutionProvider"}
DOMAINS = ("ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Those that a file may name; com.ms.internal.nhwc holds what ONNX Runtime makes of them by itself."""

Types = dict[str, frozenset[str]]
Row = tuple[str, str, int, int | None, Types]
"""domain, operator, first version, last version (None: no end), types by constraint."""


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--says", help="how the table names its source (default: the file, or the installed packages)")
    parser.add_argument("-o", "--out", type=Path, help="default: the table of the package")
    options = parser.parse_args(argv)
    if options.source is not None and options.source.suffix == ".md":
        text = options.source.read_text(encoding="utf-8")
        rows = list(published(text, PROVIDERS[options.provider]) if "## Operators implemented by" in text
                    else published_web(text))  # fmt: skip
        source = options.source.name
    else:
        rows, source = registered(PROVIDERS[options.provider], options.source)
    if not rows:
        parser.error(f"no kernel of {PROVIDERS[options.provider]} in {options.source or 'the installed onnxruntime'}")
    out = options.out or ROOT / "omenn_onnx" / "providers" / f"{options.provider}.tsv"
    out.write_text(write(rows, f"{PROVIDERS[options.provider]}: {options.says or source}"), encoding="utf-8")
    print(f"{out}: {len(rows)} registrations read")
    return 0


def write(rows: Iterable[Row], source: str) -> str:
    """The table as text: its source, then a line a kernel, sorted; kernels that differ in one constraint are one."""
    merged: dict[tuple[str, str, int, int | None], list[Types]] = {}
    for domain, op, first, last, types in rows:
        if domain in DOMAINS:
            _join(merged.setdefault((domain, op, first, last), []), types)
    lines = [f"# {source}"]
    for (domain, op, first, last), kinds in sorted(merged.items(), key=lambda item: (*item[0][:3], item[0][3] or 0)):
        for types in kinds:
            spelt = " ".join(f"{name}={','.join(sorted(allowed))}" for name, allowed in sorted(types.items()))
            lines.append(f"{domain}\t{op}\t{first if last is None else f'{first}-{last}'}\t{spelt}")
    return "\n".join(lines) + "\n"


def _join(known: list[Types], types: Types) -> None:
    """Add ``types`` to ``known``; two that differ in one constraint come to one, which then may join another."""
    for i, other in enumerate(known):
        if other.keys() != types.keys():
            continue
        differ = [name for name in types if types[name] != other[name]]
        if len(differ) <= 1:
            del known[i]
            _join(known, types | {name: types[name] | other[name] for name in differ})
            return
    known.append(types)


def published(text: str, provider: str) -> Iterator[Row]:
    """The rows of a provider in docs/OperatorKernels.md."""
    _, _, section = text.partition(f"## Operators implemented by {provider}")
    section = section.partition("\n## ")[0]
    domain = op = ""
    for line in section.splitlines():
        named = re.match(r"\|\*\*Operator Domain:\*\* \*(.+?)\*", line)
        if named:
            domain = named[1]
        cells = line.split("|")[1:-1] if line.startswith("|") else []
        if len(cells) != 4 or not (versions := re.fullmatch(r"\[(\d+), (\d+)\]|(\d+)(\+?)", cells[2].strip())):
            continue
        op = cells[0].strip() or op
        low, high, single, more = versions.groups()
        first, last = (int(low), int(high)) if low else (int(single), None if more else int(single))
        types = {}
        for part in cells[3].split("<br/>"):
            constraint = re.fullmatch(r"\s*\*\*(\w+)\*\* = (.+?)\s*", part)
            if constraint:
                types[constraint[1]] = frozenset(map(_short, constraint[2].split(", ")))
        yield domain, op, first, last, types


def published_web(text: str) -> Iterator[Row]:
    """The rows of js/web/docs/webgpu-operators.md: | Abs | ai.onnx(6-12,13+); com.microsoft(1+) | |."""
    for line in text.splitlines():
        cells = [c.strip() for c in line.split("|")[1:-1]]
        if len(cells) != 3:
            continue
        for domain, versions in re.findall(r"([\w.]+)\(([\d,+-]+)\)", cells[1]):
            for version in versions.split(","):
                first, dash, last = version.rstrip("+").partition("-")
                end = None if version.endswith("+") else int(last if dash else first)
                yield domain, cells[0], int(first), end, {}


def registered(provider: str, library: Path | None) -> tuple[list[Row], str]:
    """What a provider registers, and the packages that said so."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    source = f"onnxruntime {onnxruntime.__version__}"
    if library is None:
        kernels = [k for k in state.get_all_opkernel_def() if k.provider == provider]
    else:
        onnxruntime.register_execution_provider_library(provider, str(library))
        kernels = state.get_registered_ep_kernel_defs(provider)
        source = f"{library.name} under {source}"
    rows: list[Row] = []
    for k in kernels:
        first, last = k.version_range
        types = {name: frozenset(map(_short, allowed)) for name, allowed in k.type_constraints.items()}
        rows.append((k.domain or "ai.onnx", k.op_name, first, None if last > 10**6 else last, types))
    return rows, source


def _short(name: str) -> str:
    """float for tensor(float)."""
    return name.removeprefix("tensor(").removesuffix(")") if name.startswith("tensor(") else name


if __name__ == "__main__":
    sys.exit(main())
