"""The options that read input files, as the commands share them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from omenn_onnx.cli import UsageError
from omenn_onnx.errors import OutputExists
from omenn_onnx.runtime.engines import TensorInfo
from omenn_onnx.runtime.explainer import Explainer
from omenn_onnx.runtime.readers import Preprocessing, Sample, read, readable_files


def preprocessing(args: argparse.Namespace) -> Preprocessing:
    """What the image options say."""
    return Preprocessing(
        resize=None if args.resize is None else _size(args.resize),
        scale=None if args.scale is None else _numbers("--scale", args.scale)[0],
        mean=None if args.mean is None else _numbers("--mean", args.mean),
        std=None if args.std is None else _divisors(args.std),
        layout=args.layout,
        order=args.order,
    )


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files, folders replaced by what can be read in them."""
    return [file for path in paths for file in (readable_files(path) if path.is_dir() else [path])]


def samples(
    paths: Sequence[Path], inputs: Sequence[TensorInfo], args: argparse.Namespace, known: Sequence[str] = ()
) -> Iterator[Sample]:
    """Every file, with the chosen rows, for a model with ``inputs``; ``known`` names what else an .npz may feed."""
    options = preprocessing(args)
    for path in paths:
        sample = read(path, inputs, options, known)
        yield sample if args.rows is None else sample.take(rows_of(args.rows, sample.rows), inputs)


def label_names(text: str) -> list[str]:
    """What --labels says: a file with a name a line, or a list."""
    file = Path(text)
    known = file.read_text(encoding="utf-8").splitlines() if file.is_file() else text.split(",")
    return [name.strip() for name in known if name.strip()]


def rows_of(text: str, count: int, option: str = "--rows", what: str = "row") -> list[int]:
    """``3``, ``0:10``, ``1,5,7`` (and mixtures) or ``all`` as numbers of rows, or of what else ``option`` chooses.
    Raises UsageError."""
    if text == "all":
        return list(range(count))
    found: list[int] = []
    for word in text.split(","):
        try:
            if ":" in word:
                start, stop, *step = (int(w) if w else None for w in word.split(":"))
                found += range(count)[slice(start, stop, *step)]
            else:
                found.append(int(word))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{option} {text!r}: not a {what}, a range such as 0:10, or all") from error
    if not found:
        raise UsageError(f"{option} {text!r} chooses none of the {count} {what}(s)")
    return found


def batch_size(explainer: Explainer, asked: int | None) -> int | None:
    """Rows at a time: as asked, as the model declares, else 32; all at once where rows interact."""
    if asked is not None and asked < 1:
        raise UsageError(f"--batch-size must be at least 1, got {asked}")
    if asked is not None or not explainer.contract.rows:
        return asked
    first = next((i.dims[0] for i in explainer.inputs if i.dims), None)
    return first if isinstance(first, int) and first > 0 else 32


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(Fraction(word.strip())) for word in text.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{option} {text!r}: not numbers such as 0.5, 1/255 or 0.485,0.456,0.406") from error


def _divisors(text: str) -> tuple[float, ...]:
    values = _numbers("--std", text)
    if 0.0 in values:
        raise UsageError(f"--std {text!r} would divide by zero")
    return values


def _size(text: str) -> tuple[int, int]:
    words = text.lower().split("x")
    if not 1 <= len(words) <= 2 or not all(w.isdigit() and int(w) for w in words):
        raise UsageError(f"--resize {text!r}: not a size such as 224x224 (height x width) or 224")
    return int(words[0]), int(words[-1])


def check_outputs(paths: Sequence[Path], folder: Path, ends: Sequence[str], force: bool) -> None:
    """Raises before anything runs: two inputs with one output (``folder``/STEM``end``), an input that would be
    overwritten, existing files."""
    stems = [p.stem for p in paths]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        raise UsageError(f"two inputs are called {twice!r}: their outputs would overwrite each other")
    inputs = {p.resolve() for p in paths}
    for out in (folder / f"{stem}{end}" for stem in stems for end in ends):
        if out.resolve() in inputs:
            raise UsageError(f"{str(out)!r} is an input and would be overwritten: choose another --output-dir")
        check_output(out, force)


def check_output(path: Path, force: bool) -> None:
    """Raises OutputExists where there is such a file and it may not be overwritten."""
    if path.exists() and not force:
        raise OutputExists(f"{str(path)!r} exists (--force overwrites it)")
