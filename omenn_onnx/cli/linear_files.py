"""One input file of omenn-linearize on its way to its outputs: maps, layers, tables, figures."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.cli import UsageError, table
from omenn_onnx.cli.groups import groups_of
from omenn_onnx.cli.reading import check_output, label_names, rows_of
from omenn_onnx.runtime.figures import ids_among, target_name, token_names, write
from omenn_onnx.runtime.files import save_arrays, whole_array
from omenn_onnx.runtime.progress import progress
from omenn_onnx.runtime.readers import Sample
from omenn_onnx.spectral.flow_figures import Score, flow_figure
from omenn_onnx.spectral.instances import Linearization
from omenn_onnx.spectral.layer_maps import LayerMaps, Layers, choose, layer_arrays, layer_bytes, layer_maps
from omenn_onnx.spectral.linear_map import (
    Check,
    Sums,
    chosen_units,
    common_bias,
    completeness_bar,
    fill,
    operators_to,
    vectors,
)
from omenn_onnx.spectral.segments import Segment

Array = NDArray[Any]

NPZ_LIMIT = 64 * 10**6
"""Bytes of W up to which it goes into the .npz unless --format says otherwise."""
SHOWN_LINES, SHOWN_FIGURES = 24, 8


class LinearFile:
    """One input file on its way to its outputs."""

    def __init__(self, model: Linearization, path: Path, sample: Sample, args: Namespace, many: bool) -> None:
        self.model, self.path, self.sample, self.args, self.many = model, path, sample, args, many
        self.names = sample.class_names if args.labels is None else label_names(args.labels)
        for note in sample.notes:
            print(note, file=sys.stderr)
        self.groups, why = groups_of(model, sample)
        self.instances = [model.at(g.feeds) for g in self.groups]
        self.first = self.instances[0]
        self.operators = operators_to(self.first, args.source, args.target)
        op = self.operators[0]
        asked = None if args.units is None else rows_of(args.units, op.shape[0], "--units", "unit")
        self.units = chosen_units(asked, op)
        self.bar = completeness_bar(self.first)
        self.layers = self._layers()
        if why:
            print(f"{path.name}: {why}", file=sys.stderr)

    def _layers(self) -> Layers | None:
        said = self.args.layers
        if said is None:
            return None
        if len(self.operators) > 1:
            named = ", ".join(op.source for op in self.operators)
            raise UsageError(f"--layers begins at one tensor, and several are explained ({named}): say --source")
        names = said if said in ("auto", "all") else [n.strip() for n in said.split(",") if n.strip()]
        if not names:
            raise UsageError(f"--layers {said!r} names no tensor: give auto, all, or names such as A,B")
        return choose(self.first, names, self.operators[0].source, self.operators[0].target)

    def run(self) -> bool:
        """Compute, print, write. Whether all residuals are within the bar."""
        args, stem = self.args, self.args.output_dir / self.path.stem
        several = len(self.operators) > 1
        labels = [f"W.{op.source}" if several else "W" for op in self.operators]
        shapes = [(len(self.groups), len(self.units), op.shape[1]) for op in self.operators]
        sizes = [int(np.prod(s)) * self.operators[0].dtype.itemsize for s in shapes]
        mapped = args.format == "npy" or (args.format == "auto" and sum(sizes) > NPZ_LIMIT)
        files = [Path(f"{stem}.{label.replace('/', '_')}.npy") for label in labels] if mapped else []
        for file in files:
            check_output(file, args.force)
        self._state_needs(sum(sizes), mapped, shapes)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        dtype = self.operators[0].dtype
        with ExitStack() as stack:
            if mapped:
                _check_disk(args.output_dir, sum(sizes))
                rooms = [stack.enter_context(whole_array(f, s, dtype)) for f, s in zip(files, shapes, strict=True)]
            else:
                rooms = [np.empty(s, dtype) for s in shapes]
            arrays, checks = self._maps(rooms)
            maps = self._layer_maps(arrays)
            if self.layers is not None and maps is not None:
                arrays |= layer_arrays(maps, self.layers)
            if not mapped:
                arrays |= dict(zip(labels, rooms, strict=True))
            written = [save_arrays(f"{stem}.npz", arrays)]
        written += files
        if args.figure and maps is not None:
            written += self._figures(stem, maps, arrays)
        within = self._print(arrays, checks, maps)
        print("wrote " + ", ".join(str(w) for w in written))
        return within

    def _state_needs(self, size: int, mapped: bool, shapes: Sequence[tuple[int, ...]]) -> None:
        """Say what is about to be made and what it takes. Raises UsageError above the limit."""
        layers = 0
        if self.layers is not None:
            copies = 1 if len(self.groups) == 1 else 2
            layers = copies * len(self.groups) * layer_bytes(self.first, self.layers)
        memory = layers + (0 if mapped else size)
        limit = self.args.memory_limit * 1e9
        if memory > limit:
            ways = ["fewer --rows or --units", *(["fewer or other --layers"] if layers else ["--format npy"])]
            raise UsageError(
                f"the {'layers' if layers > memory / 2 else 'maps'} of {self.path.name} take {_bytes(memory)} of "
                f"memory, the limit is {_bytes(limit)}: raise --memory-limit, or ask for {', '.join(ways)}"
            )
        spelt = " and ".join(" x ".join(str(n) for n in s) for s in shapes)
        place = f"{_bytes(size)} on the disk (.npy)" if mapped else f"{_bytes(size)} of memory (.npz)"
        told = f"W: {spelt} (rows, units, inputs), {place}"
        if layers:
            told += f"; layers: {_bytes(layers)} of memory"
        op = self.operators[0]
        sources = ", ".join(o.source for o in self.operators)
        head = f"{sources} -> {op.target}, {self.model.rules} rules, {op.dtype}, {op.segment.forward.label}"
        print(f"{self.path.name + ': ' if self.many else ''}{head}\n{told}", flush=True)

    def _maps(self, rooms: Sequence[Array]) -> tuple[dict[str, Array], list[Check]]:
        """Fill the rooms; all else that the file holds, and the checks."""
        ops, args = self.operators, self.args
        x: list[list[Array]] = [[] for _ in ops]
        b, y, checks = [], [], []
        steps = sum(vectors(op, self.units) for op in ops) * len(self.groups)
        with progress(f"{len(self.groups)} map(s)", steps) as done:
            for n, instance in enumerate(self.instances):
                made = ops if n == 0 else operators_to(instance, args.source, args.target)
                if [op.shape for op in made] != [op.shape for op in ops]:
                    sizes = f"{made[0].shape} in row {self._row(n)}, {ops[0].shape} in row {self._row(0)}"
                    raise UsageError(f"{self.path.name}: W is {sizes}: choose rows of one size with --rows")
                sums = Sums(len(self.units))
                for op, room, values in zip(made, rooms, x, strict=True):
                    fill(op, self.units, room[n], sums, done)
                    values.append(op.x)
                b.append(common_bias(made)[self.units])
                y.append(made[0].y[self.units])
                checks.append(sums.check(b[-1], y[-1]))
        first = ops[0]
        arrays: dict[str, Array] = {"b": np.stack(b), "y": np.stack(y)}
        for op, values in zip(ops, x, strict=True):
            several = f".{op.source}" if len(ops) > 1 else ""
            arrays[f"x{several}"] = np.stack(values)
            arrays[f"source_shape{several}"] = np.asarray(op.source_shape)
        arrays |= {
            "residual": np.stack([c.residual for c in checks]),
            "relative_residual": np.stack([c.relative for c in checks]),
            "rows": np.asarray([g.rows for g in self.groups]),
            "units": np.asarray(self.units),
            "target_shape": np.asarray(first.target_shape),
            "source": np.asarray([op.source for op in ops]),
            "target": np.asarray(first.target),
            "rules": np.asarray(self.model.rules),
            "bar": np.asarray(self.bar),
        }
        return arrays, checks

    def _layer_maps(self, arrays: dict[str, Array]) -> LayerMaps | None:
        """The layers, towards the unit asked for if it is one, else the largest of each instance."""
        if self.layers is None:
            return None
        units = [self.units[int(np.argmax(y))] for y in arrays["y"]]
        arrays["unit"] = np.asarray(units)
        return layer_maps(self.instances, self.layers, units)

    def _figures(self, stem: Path, maps: LayerMaps, arrays: dict[str, Array]) -> list[Path]:
        """NAME.png for the first instance, NAME-1.png ... for the others."""
        written, units = [], arrays["unit"]
        for n, flows in enumerate(maps.flows[:SHOWN_FIGURES]):
            path = Path(f"{stem}{f'-{n}' if n else ''}.png")
            title = f"{self.sample.name}, row {self._row(n)}"
            score = self._score(maps.whole[n], int(units[n]), arrays["x"][n])
            write(flow_figure(flows, score, title, self._feature_names(n)), path)
            written.append(path)
        return written

    @property
    def _labels(self) -> list[str] | None:
        """The class names, where the target is what they name."""
        return self.names if self.operators[0].target == self.first.target else None

    def _feature_names(self, n: int) -> list[str] | None:
        """Those of the file; for an embedding the tokens of the instance."""
        ids = ids_among(self.groups[n].feeds, self.operators[0].source_shape[:2])
        if ids is not None and len(ids) == 1 and len(self.operators[0].source_shape) == 3:
            return token_names(ids[0], self.sample.vocabulary)
        return self.sample.feature_names

    def _score(self, whole: Segment, unit: int, x: Array) -> Score:
        """A unit of the target. The channel axis of a source inside the network is taken to be the second."""
        sized = self.first.sized
        axis = sized.lin.axes.get(sized.carrier(whole.source, "source"), 1) % len(whole.source_shape)
        signed, bias = whole.W[unit].astype(np.float64) * x, float(whole.b[unit])
        number, _, label = target_name(unit, self._labels).partition(" ")
        name = f"{whole.target}[{number}] {label}".strip()
        return Score(name, float(signed.sum()) + bias, signed, bias, x, whole.source_shape, axis)

    def _row(self, n: int) -> str:
        rows = self.groups[n].rows
        return ",".join(str(r) for r in rows) if len(rows) <= 3 else f"{rows[0]},...,{rows[-1]}"

    def _print(self, arrays: dict[str, Array], checks: Sequence[Check], maps: LayerMaps | None) -> bool:
        """The table, one line an instance, and that of the layers; the verdict."""
        head = ["row", "largest unit", "value", "W", "max|W x + b - y|", "relative", "bar"]
        size = " + ".join(str(op.shape[1]) for op in self.operators)
        size = f"({size})" if len(self.operators) > 1 else size
        lines = []
        for n, check in enumerate(checks[:SHOWN_LINES]):
            k = int(np.argmax(arrays["y"][n])) if self.units else 0
            lines.append([
                self._row(n), target_name(self.units[k], self._labels), f"{arrays['y'][n][k]:.6g}",
                f"{len(self.units)} x {size}", f"{np.max(check.residual):.1e}", f"{np.max(check.relative):.1e}",
                f"{self.bar:.0e}",
            ])  # fmt: skip
        print(table(head, lines, left=(0, 1)))
        if len(checks) > SHOWN_LINES:
            print(f"... and {len(checks) - SHOWN_LINES} more, all of them in the file")
        missed = sum(not np.max(c.relative) <= self.bar for c in checks)
        if missed:
            worst = float(np.max([np.max(c.relative) for c in checks]))
            _warn(f"{missed} map(s) do not add up: {_above(worst, self.bar)}")
        return not missed and (maps is None or self._print_layers(maps))

    def _print_layers(self, maps: LayerMaps) -> bool:
        """One line a layer: its segment, its contributions, the worst residuals of all instances."""
        assert self.layers is not None
        segments = {s.target: s for s in maps.segments[0]}
        lines, found = [], []
        for k, name in enumerate(self.layers.names):
            flows = [f[k] for f in maps.flows]
            found.append(np.max([np.max(f.check.relative) for f in flows]))
            lines.append([name, *_spelt(segments.get(name)), _by(flows[0].contributions), f"{found[-1]:.1e}"])
        end = self.layers.ends[-1]
        found.append(np.max([np.max(c.relative) for c in maps.check]))
        lines.append([end, *_spelt(segments[end]), "", f"{found[-1]:.1e}  (the product of the segments)"])
        head = ["layer", "segment from", "W", "contributions", "relative residual"]
        print(table(head, lines, left=(0, 1, 4)))
        if self.layers.left_out:
            print(f"{self.layers.left_out} ends of stages and blocks were left out (--layers all takes every tensor)")
        worst = float(np.max(found))
        if not worst <= self.bar:
            _warn(f"the layers do not add up: {_above(worst, self.bar)}")
        return worst <= self.bar


def _warn(told: str) -> None:
    print(f"omenn-linearize: warning: {told}", file=sys.stderr)


def _above(worst: float, bar: float) -> str:
    if np.isfinite(worst):
        return f"relative residual {worst:.1e} is above {bar:.0e}"
    return "W, b or the values of the model are NaN or infinite there"


def _spelt(part: Segment | None) -> tuple[str, str]:
    return ("none: a path leads past it", "") if part is None else (part.source, _by(part.W))


def _by(matrix: Array) -> str:
    return " x ".join(str(n) for n in matrix.shape)


def _check_disk(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UsageError(
            f"W takes {_bytes(need)} on the disk, and {str(folder)!r} has {_bytes(free)} left: ask for fewer --rows or "
            "--units, or choose another --output-dir"
        )


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
