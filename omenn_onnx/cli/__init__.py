"""What the commands share: one line for what a user can cause, tables, and the options that read input files."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from omenn_onnx.errors import OmennError

Main = Callable[[Sequence[str] | None], int]

BAD_USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class UsageError(OmennError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raised, so that ``run_cli`` prints it as every other error."""
        raise UsageError(f"{message} ({self.prog} --help)")


def run_cli(main: Main) -> Callable[..., int]:
    """Decorate a command's ``main(argv)``: what a user can cause becomes one line on stderr and exit status 2.

    The command's name is its module's: omenn_onnx.cli.explain is omenn-explain. Warnings are one line too. Anything
    else is a defect of this package and keeps its traceback.
    """
    name = "omenn-" + main.__module__.rsplit(".", 1)[-1].replace("_", "-")

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        def say(what: str, text: object) -> None:
            print(f"{name}: {what}: {' '.join(str(text).split())}", file=sys.stderr)

        def warn(message: Warning | str, *_: Any, **__: Any) -> None:
            say("warning", message)

        with warnings.catch_warnings():
            warnings.simplefilter("always", RuntimeWarning)
            warnings.showwarning = warn
            try:
                return main(argv)
            except OmennError as error:
                say("error", error)
            except KeyboardInterrupt:
                say("error", "interrupted")
                return INTERRUPTED
            except BrokenPipeError:  # the reader of stdout has gone: nobody is left to tell
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return BROKEN_PIPE
            except MemoryError as error:
                say("error", f"out of memory ({error})")
            except OSError as error:
                say("error", f"{error.filename!r}: {error.strerror}" if error.filename else error)
        return BAD_USAGE

    return guarded


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns aligned to the right, those in ``left`` to the left."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]

    def spell(line: Sequence[str]) -> str:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join([spell(head), "  ".join("-" * w for w in widths), *(spell(line) for line in rows)])


def add_reading_options(parser: argparse.ArgumentParser, batches: bool = True) -> None:
    """The options that say how input files become feeds. ``batches``: whether several rows are run at a time."""
    group = parser.add_argument_group(
        "images", "An image becomes (pixel * scale - mean) / std; scale, layout and order must be said."
    )
    group.add_argument("--resize", metavar="HxW", help="size the image is brought to, e.g. 224x224 or 224")
    group.add_argument("--scale", metavar="S", help="factor of the pixel values 0..255, e.g. 1/255 or 1")
    group.add_argument("--mean", metavar="M[,M,M]", help="subtracted after scaling, one a channel or one for all")
    group.add_argument("--std", metavar="S[,S,S]", help="divides after subtracting the mean")
    group.add_argument("--layout", choices=("NCHW", "NHWC"), help="order of the axes that the model wants")
    group.add_argument("--order", choices=("rgb", "bgr", "gray"), help="order of the colour channels")
    parser.add_argument(
        "--rows", "--index", metavar="ROWS", help="rows of the input to take: 3, 0:10, 1,5,7 or all (default: all)"
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), help="default: CUDA where it works, else the CPU")
    if not batches:
        return
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows that are run at a time")
    parser.add_argument("--allow-nonfinite", action="store_true", help="run inputs with NaN or Inf, with a warning")
