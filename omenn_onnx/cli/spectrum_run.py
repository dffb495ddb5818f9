"""The work of omenn-spectrum: inputs one after the other, then what they have in common."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omenn_onnx.cli import UsageError
from omenn_onnx.cli.groups import Group, groups_of
from omenn_onnx.cli.reading import label_names
from omenn_onnx.cli.spectrum_files import Folder
from omenn_onnx.cli.spectrum_text import say_input, say_layers, say_pruned, say_similar
from omenn_onnx.errors import RankError, SpectrumError
from omenn_onnx.runtime.figures import ids_among, target_name
from omenn_onnx.runtime.progress import progress
from omenn_onnx.runtime.readers import Sample
from omenn_onnx.spectral.analysis import COUNT, SMALL, LayerSpectrum, Settings, analyse, layers_of, source_axis
from omenn_onnx.spectral.biases import layer_biases
from omenn_onnx.spectral.instances import Instance, Linearization
from omenn_onnx.spectral.linear_map import completeness_bar
from omenn_onnx.spectral.panels import Face
from omenn_onnx.spectral.proposals import Layer
from omenn_onnx.spectral.regions import region
from omenn_onnx.spectral.study import InstanceSpectra, LayerSimilarity
from omenn_onnx.spectral.surgery import Pruned, Surgery
from omenn_onnx.spectral.targets import Explained, explained

Array = np.ndarray[Any, Any]

SHOWN = 3
"""Inputs whose numbers are printed."""


@dataclass(frozen=True)
class Named:
    """What a file says about a row: its name, its true class, the names of classes, and what the input looks like."""

    label: str
    truth: str
    classes: Sequence[str] | None
    face: Face


class Run:
    """One call of omenn-spectrum: what was analysed so far, and where it goes."""

    def __init__(self, model: Linearization, args: Namespace) -> None:
        self.model, self.args = model, args
        self.found: list[InstanceSpectra] = []
        self.layers: list[Layer] = []
        self.skipped: list[str] = []
        self.folder = Folder(args.output_dir, not args.no_figure, args.figures)

    @property
    def _cuts(self) -> bool:
        """Whether components are dropped or kept, which takes all vectors that there are."""
        return self.args.drop is not None or self.args.keep is not None

    def list_layers(self, sample: Sample) -> None:
        """Print the layers of the first instance of ``sample``."""
        self._begin(self.model.at(groups_of(self.model, sample)[0][0].feeds))

    def add(self, sample: Sample) -> None:
        """Analyse every instance of a file, draw its figures, print its numbers."""
        for note in sample.notes:
            print(note, file=sys.stderr)
        groups, why = groups_of(self.model, sample)
        if why:
            _warn(f"{sample.name}: {why}")
        if not self.layers:
            self._begin(self.model.at(groups[0].feeds))
        self._check_memory(groups[0], len(groups))
        a = self.args
        limit, show = int(a.memory_limit * 1e9), None if len(groups) == 1 else False
        settings = Settings(
            a.k,
            a.layers == "auto",
            a.full,
            self._cuts,
            a.tolerance,
            limit,
            a.quantile,
            a.threshold,
            show=show,
            axis=a.axis,
        )
        steps = len(groups) * len(self.layers)
        with progress(f"{sample.name}: spectra", steps, "layer", None if len(groups) > 1 else False) as done:
            for number, group in enumerate(groups):
                self._instance(sample, number, group, settings, done)

    def finish(self) -> None:
        """Compare the inputs, write the files. Raises SpectrumError where no input could be analysed."""
        if not self.found:
            raise SpectrumError(f"nothing was analysed: {self.skipped[0]}")
        similar = []
        if len(self.found) > SHOWN:
            print(f"\n{len(self.found) - SHOWN} more input(s): the numbers are in the files")
        if len(self.found) > 1:
            if len({one.x.shape for one in self.found}) == 1:
                for number, layer in enumerate(self.layers):
                    similar.append(LayerSimilarity.of(layer.name, [one.layers[number] for one in self.found]))
                say_similar(similar, len(self.found))
            else:
                _warn("the inputs differ in size: their singular vectors are not compared")
        written = self.folder.write(self.model, self.args, self.layers, self.found, similar, self.skipped)
        print(f"wrote {written}")

    def _begin(self, instance: Instance) -> None:
        said = self.args.layers if self.args.layers == "auto" else [n for n in self.args.layers.split(",") if n]
        if not said:
            raise UsageError("--layers names no layer")
        source = self._source(instance)
        self.layers, left_out = layers_of(instance, said, source)
        print(f"{source} -> {instance.target}, {self.model.rules} rules")
        say_layers(self.layers, left_out)

    def _instance(
        self, sample: Sample, number: int, group: Group, settings: Settings, done: Callable[[int], None]
    ) -> None:
        instance = self.model.at(group.feeds)
        source = self._source(instance)
        named = self._named(sample, number, group, instance, source)
        asked = explained(self.args.target, instance.value(instance.target), instance.target, named.classes)
        try:
            spectra = self._spectra(instance, asked, settings, source, done)
        except RankError as error:
            said = f"{named.label}, {error}"
            if error.rank or sample.rows == 1:
                raise RankError(said, error.rank) from error
            _warn(f"{said}; this input is left out")
            self.skipped.append(said)
            return
        worst, bar = max(one.residual for one in spectra), completeness_bar(instance)
        if not worst <= bar:
            _warn(f"{named.label}: L R x + bias misses the output by {worst:.1e}, the completeness bar is {bar:.0e}")
        biases = layer_biases(instance, None, source, None, asked.weights)
        x = instance.value(source)
        around = None if self.args.regions is None else region(instance, source, self.args.regions)
        found = InstanceSpectra(named.label, x, asked, tuple(spectra), biases, named.truth, around)
        self.found.append(found)
        if len(self.found) == 1 and asked.index is not None and len(asked.weights) == x.size:
            print("\nThe output is as large as the input: --target norm explains all of it, not one element.")
        if len(self.found) <= SHOWN:
            best = target_name(int(np.argmax(instance.value(instance.target))), named.classes)
            say_input(found, best)
        self._prune(instance, found, source, named)
        if self.folder.takes_figures:
            backs = [named.face.of_layer(one.layer.shape, instance.channel_axis(one.name)) for one in spectra]
            self.folder.draw(found, named.face, backs)
            target = instance.target
            output = named.face.of_layer(instance.value(target).shape, instance.channel_axis(target))
            if output.kind == "image" and len(biases.layers) > 1:
                self.folder.draw_biases(found, layer_biases(instance, None, source), output)
        self.folder.face = named.face

    def _spectra(
        self, instance: Instance, asked: Explained, settings: Settings, source: str, done: Callable[[int], None]
    ) -> list[LayerSpectrum]:
        """All layers. Where auto chose them, one of a rank below -k has as many components as its rank, so long as
        another one has all. Raises RankError."""
        found: list[LayerSpectrum] = []
        for layer in self.layers:
            try:
                found.append(analyse(instance, layer, asked, settings, source))
            except RankError as error:
                raise RankError(f"layer {layer.name!r}: {error}", error.rank) from error
            done(1)
        rank = max(len(one.s) for one in found)
        if self.args.k is not None and rank < self.args.k:
            raise RankError(f"-k {self.args.k}: no layer has more than {rank} components: ask for at most {rank}", rank)
        return found

    def _prune(self, instance: Instance, found: InstanceSpectra, source: str, named: Named) -> None:
        """Drop or keep components at each layer, as asked."""
        if not self._cuts:
            return
        said = []
        weights = found.explained.weights
        for one in found.layers:
            surgery = Surgery(instance, one.name, one.triplets, source=source, seed=weights)
            pruned = _pruned(surgery, self.args.drop, self.args.keep)
            again = pruned.rerun()
            left = {"affine": pruned.linear, "rerun": again}
            values = {"y": one.y} | {k: float(weights @ np.ravel(v).astype(np.float64)) for k, v in left.items()}
            said.append((one.name, pruned, values, target_name(int(np.argmax(again)), named.classes)))
            self.folder.keep_pruned(found, one, pruned, values, self.args.export)
        if len(self.found) <= SHOWN:
            say_pruned(said, found.explained.label)

    def _source(self, instance: Instance) -> str:
        return instance.source if self.args.source is None else str(self.args.source)

    def _check_memory(self, group: Group, count: int) -> None:
        """Raises UsageError where the vectors that are kept do not fit."""
        instance, total = self.model.at(group.feeds), count + len(self.found)
        size = instance.value(self._source(instance)).size
        sizes = [int(np.prod(one.shape)) for one in self.layers]
        counts = [self.args.k or (min(size, n) if self._cuts and min(size, n) <= SMALL else COUNT) for n in sizes]
        need = 4 * total * sum(k * (size + n) for k, n in zip(counts, sizes, strict=True))
        if need > self.args.memory_limit * 1e9:
            raise UsageError(
                f"the singular vectors of {total} input(s) take {need / 1e9:.2g} GB, the limit is "
                f"{self.args.memory_limit:g} GB: raise --memory-limit, or take fewer --rows, --layers or a smaller -k"
            )

    def _named(self, sample: Sample, number: int, group: Group, instance: Instance, source: str) -> Named:
        rows = ",".join(str(r) for r in group.rows)
        label = sample.name if sample.rows == 1 and sample.numbers is None else f"{sample.name}[{rows}]"
        classes = sample.class_names if self.args.labels is None else label_names(self.args.labels)
        truth = ""
        if sample.truth is not None and len(group.rows) == 1:
            value = np.asarray(sample.truth[number])
            truth = target_name(int(value), classes) if value.dtype.kind in "iu" else str(value)
        x = instance.value(source)
        words = None
        if source not in instance.feeds and (ids := ids_among(instance.feeds, x.shape[:2])) is not None:
            known = sample.vocabulary or []
            words = tuple(known[i] if 0 <= i < len(known) else f"#{i}" for i in ids.reshape(-1))
        names = None if sample.feature_names is None else tuple(sample.feature_names)
        picture = sample.picture if sample.rows == 1 else None
        axis = source_axis(instance, self.args.axis, source)
        return Named(label, truth, classes, Face(x.shape, axis, words, names, picture))


def _pruned(surgery: Surgery, drop: str | None, keep: str | None) -> Pruned:
    """Components as the command line counts them: from 1, or the fewest that hold a share, such as 90%."""
    option, text = ("--drop", drop) if drop is not None else ("--keep", keep or "")
    count = len(surgery.components)
    if text.endswith("%"):
        try:
            chosen: Sequence[int] = surgery.leading(float(text[:-1]) / 100)
        except ValueError as error:
            raise UsageError(f"{option} {text!r}: not a share such as 90%") from error
    else:
        try:
            chosen = [int(word) - 1 for word in text.split(",")]
        except ValueError as error:
            raise UsageError(f"{option} {text!r}: not components such as 1 or 1,3, nor a share such as 90%") from error
        wrong = next((k for k in chosen if not 0 <= k < count), None)
        if wrong is not None:
            said = f"component {wrong + 1} does not exist at layer {surgery.right.target!r}: {count} were computed"
            raise UsageError(f"{option} {text!r}: {said}, counted from 1 (-k computes more)")
    return surgery.drop(chosen) if drop is not None else surgery.keep(chosen)


def _warn(text: str) -> None:
    print(f"omenn-spectrum: warning: {text}", file=sys.stderr)
