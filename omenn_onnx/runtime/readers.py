"""From files to feeds: .npz, .npy, .csv and images."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omenn_onnx.errors import FeedError
from omenn_onnx.runtime.engines import Array, TensorInfo
from omenn_onnx.runtime.feeds import batch_of, check_names, fits, rows_of, spell

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
READABLE = (".npz", ".npy", ".csv", *IMAGES)

#: Keys of an .npz that describe its arrays and are never fed.
ABOUT = frozenset(
    ("labels", "label", "y", "class_names", "feature_names", "vocabulary", "padding_id", "tokens", "target_names")
)
#: Keys that stand for the only input of a model.
ANY_INPUT = ("inputs", "input", "x", "X", "data", "arr_0")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: (pixel * scale - mean) / std, in ``layout`` and channel ``order``.

    ``resize`` is (height, width), None keeps the size. Nothing is guessed: what is None is asked for.
    """

    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    order: str | None = None


@dataclass(frozen=True)
class Sample:
    """What a file holds: feeds by input name, and what describes them. ``numbers``: which rows of the file they are
    (None: all)."""

    name: str
    feeds: dict[str, Any]
    rows: int
    picture: Array | None = None
    truth: Array | None = None
    class_names: list[str] | None = None
    feature_names: list[str] | None = None
    vocabulary: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    numbers: tuple[int, ...] | None = None

    def take(self, rows: Sequence[int], inputs: Sequence[TensorInfo]) -> Sample:
        """The chosen rows only."""
        wrong = [r for r in rows if not -self.rows <= r < self.rows]
        if wrong:
            raise FeedError(f"{self.name}: row {wrong[0]} does not exist, there are {self.rows}, counted from 0")
        index = np.asarray(rows, dtype=np.int64)
        feeds = {**self.feeds, **rows_of(self.feeds, inputs, index, self.rows)}
        truth = None if self.truth is None else self.truth[index]
        numbers = tuple((self.numbers or range(self.rows))[r] for r in rows)
        return replace(self, feeds=feeds, rows=len(index), truth=truth, numbers=numbers)


def read(path: Path, inputs: Sequence[TensorInfo], options: Preprocessing, known: Sequence[str] = ()) -> Sample:
    """Read ``path`` for a model with ``inputs``; ``known`` names what else an .npz may feed (target, seed).

    Raises FeedError for what cannot be read or does not fit, FileNotFoundError where there is no file.
    """
    kind = path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file", str(path))
    if kind == ".npz":
        return _from_npz(path, inputs, known)
    if kind == ".npy":
        info = only(inputs, path)
        return _sample(path, {info.name: batched(_load(path), info)}, inputs)
    if kind == ".csv":
        return _from_csv(path, inputs)
    if kind in IMAGES:
        return _from_image(path, inputs, options)
    raise FeedError(f"{str(path)!r}: cannot read {kind or 'files without suffix'} (readable: {', '.join(READABLE)})")


def only(inputs: Sequence[TensorInfo], path: Path) -> TensorInfo:
    """The single input of a model. Raises FeedError where there are more."""
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        raise FeedError(f"{str(path)!r} holds one array, but the model has {len(inputs)} inputs ({names}): use an .npz")
    return inputs[0]


def batched(value: Array, info: TensorInfo) -> Array:
    """``value`` with a batch axis where only that is missing."""
    dims = info.dims
    lacks = dims is not None and value.ndim == len(dims) - 1 and fits(value.shape, dims[1:])
    return value[None] if lacks else value


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FeedError(f"{str(path)!r} cannot be read: {error}") from error


def _from_npz(path: Path, inputs: Sequence[TensorInfo], known: Sequence[str]) -> Sample:
    with _load(path) as archive:
        try:
            arrays = {key: archive[key] for key in archive.files}
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise FeedError(f"{str(path)!r} cannot be read: {error}") from error
    names = {i.name for i in inputs}
    feeds = {n: a for n, a in arrays.items() if n in names or n in known}
    rest = [n for n in arrays if n not in feeds and n not in ABOUT and not n.startswith("__")]
    if len(inputs) == 1 and inputs[0].name not in feeds:
        stand_in = [n for n in rest if n in ANY_INPUT]
        if stand_in:
            feeds[inputs[0].name] = arrays[stand_in[0]]
            rest.remove(stand_in[0])
    missing = names - set(feeds)
    if missing and rest:  # a misspelt name, most likely: the near matches say so
        check_names(dict.fromkeys(rest), inputs)
    check_names({n: None for n in feeds if n in names}, inputs)
    about: dict[str, Any] = {
        key: [str(v) for v in np.ravel(arrays[key])]
        for key in ("class_names", "feature_names", "vocabulary")
        if key in arrays and key not in names
    }
    made = _sample(path, {n: batched(a, i) for i in inputs for n, a in feeds.items() if n == i.name}, inputs)
    truth = next((arrays[k] for k in ("labels", "label", "y") if k in arrays and k not in names), None)
    if truth is not None and (truth.ndim != 1 or len(truth) != made.rows):
        truth = None
    notes = [f"{path.name}: not an input, ignored: {', '.join(rest)}"] if rest else []
    extra = {n: feeds[n] for n in known if n in feeds}
    return replace(made, feeds={**made.feeds, **extra}, truth=truth, notes=notes, **about)


def _sample(path: Path, feeds: dict[str, Any], inputs: Sequence[TensorInfo]) -> Sample:
    return Sample(path.stem, feeds, batch_of(feeds, inputs))


def _from_csv(path: Path, inputs: Sequence[TensorInfo]) -> Sample:
    info = only(inputs, path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise FeedError(f"{str(path)!r} is not text: {error}") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if any(c.strip() for c in line)]
    except csv.Error as error:
        raise FeedError(f"{str(path)!r} cannot be read: {error}") from error
    header = lines.pop(0) if lines and not all(_number(c) for c in lines[0]) else None
    if not lines:
        raise FeedError(f"{str(path)!r} has no rows")
    widths = {len(line) for line in ([header] if header else []) + lines}
    if len(widths) > 1:
        raise FeedError(f"{str(path)!r}: lines have different numbers of columns ({sorted(widths)})")
    truth, notes = None, []
    wanted = info.dims[-1] if info.dims else None
    if header and isinstance(wanted, int) and len(header) == wanted + 1:
        about = [i for i, name in enumerate(header) if name.strip().lower() in (*ABOUT, "target", "class")]
        if len(about) == 1:
            notes.append(f"{path.name}: column {header[about[0]]!r} is not an input, ignored")
            truth = np.asarray([line[about[0]] for line in lines])
            lines = [line[: about[0]] + line[about[0] + 1 :] for line in lines]
            header = header[: about[0]] + header[about[0] + 1 :]
    for number, line in enumerate(lines):
        bad = next((c for c in line if not _number(c)), None)
        if bad is not None:
            raise FeedError(f"{str(path)!r}, data row {number}: {bad!r} is not a number")
    whole = info.dtype is not None and info.dtype.kind in "iu"
    try:
        value = np.asarray([[int(c) if whole else float(c) for c in line] for line in lines])
    except ValueError as error:
        raise FeedError(f"{str(path)!r}: input {info.name!r} wants {info.dtype}: {error}") from error
    if info.dtype is not None and info.dtype.kind == "f":
        value = value.astype(info.dtype)  # decimal text has no precision of its own
    names = None if header is None else [name.strip() for name in header]
    return replace(_sample(path, {info.name: value}, inputs), truth=truth, feature_names=names, notes=notes)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_image(path: Path, inputs: Sequence[TensorInfo], options: Preprocessing) -> Sample:
    info = only([i for i in inputs if i.dims is None or len(i.dims) in (3, 4)], path)
    asked = [f"--{n}" for n in ("scale", "layout", "order") if getattr(options, n) is None]
    if asked:
        raise FeedError(f"{str(path)!r}: say how the image becomes input {info.name!r}: {', '.join(asked)} missing")
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if options.order == "gray" else "RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise FeedError(f"{str(path)!r} is not an image that can be read: {error}") from error
    first = options.layout == "NCHW"
    places = None if info.dims is None or len(info.dims) != 4 else info.dims[2:] if first else info.dims[1:3]
    if options.resize is not None:
        image = image.resize(options.resize[::-1], Image.Resampling.BILINEAR)
    elif places is not None and not fits((image.height, image.width), places):
        size = "x".join("?" if not isinstance(p, int) else str(p) for p in places)
        raise FeedError(f"{str(path)!r} is {image.height}x{image.width}, the model wants {size}: give --resize {size}")
    picture = np.asarray(image)
    pixels = picture.astype(np.float64).reshape(*picture.shape[:2], -1)
    if options.order == "bgr":
        pixels = pixels[..., ::-1]
    mean, std = _channels(options.mean, 0.0, pixels), _channels(options.std, 1.0, pixels)
    value = (pixels * (options.scale or 0.0) - mean) / std
    value = (np.moveaxis(value, -1, 0) if first else value)[None]
    if info.dims is not None and len(info.dims) == 3:
        value = value[:, 0] if first else value[..., 0]
    if info.dims is not None and not fits(value.shape[1:], info.dims[1:]):
        raise FeedError(
            f"{str(path)!r} becomes {spell(value.shape)}, input {info.name!r} wants {spell(info.dims)}: "
            "check --layout, --order and --resize"
        )
    if info.dtype is not None and info.dtype.kind in "iu":
        if not np.array_equal(value, np.rint(value)):
            raise FeedError(f"input {info.name!r} wants {info.dtype}: give --scale 1 and no --mean or --std")
        value = np.rint(value)
    ready = np.ascontiguousarray(value, dtype=info.dtype or np.float32)
    return replace(_sample(path, {info.name: ready}, inputs), picture=picture)


def _channels(values: Sequence[float] | None, default: float, pixels: Array) -> Array:
    given = np.asarray([default] if values is None else values, np.float64)
    if given.size not in (1, pixels.shape[-1]):
        raise FeedError(f"{given.size} values were given for {pixels.shape[-1]} channel(s) in --mean or --std")
    return given


def readable_files(folder: Path) -> list[Path]:
    """The files of a folder that ``read`` reads, by name. Raises FeedError where there are none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE and p.is_file())
    if not found:
        raise FeedError(f"{str(folder)!r} holds no file that can be read ({', '.join(READABLE)})")
    return found


def baseline_from(path: Path, inputs: Sequence[TensorInfo], names: Sequence[str], options: Preprocessing) -> Any:
    """A baseline: an array from .npy, .csv or an image, a dictionary by explained input from .npz."""
    if path.suffix.lower() == ".npz" and path.is_file():
        with _load(path) as archive:
            arrays: Mapping[str, Array] = {n: archive[n] for n in archive.files if n in names}
        if not arrays:
            raise FeedError(f"{str(path)!r} holds none of the explained inputs ({', '.join(names)})")
        return dict(arrays)
    if path.suffix.lower() == ".npy" and path.is_file():
        return _load(path)
    return next(iter(read(path, inputs, options).feeds.values()))
