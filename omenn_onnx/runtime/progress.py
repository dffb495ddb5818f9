"""How long work says where it is: a bar on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_EVERY = 10.0
"""Seconds between plain lines."""


@contextmanager
def progress(what: str, total: int, unit: str = "vector", show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Gives what is to be called with the number of steps just done. On a terminal there is a bar; else a line on
    stderr every ten seconds. ``show``: None leaves out what is done at once, True always says it, False never."""
    if show is False or (show is None and total <= 1):
        yield lambda steps: None
    elif sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=unit, leave=show is True, delay=0 if show else 0.5) as bar:

            def advance(steps: int) -> None:
                bar.update(steps)

            yield advance
    else:
        done, said = 0, time.monotonic()

        def step(steps: int) -> None:
            nonlocal done, said
            done += steps
            if time.monotonic() - said >= _EVERY or (show and done >= total):
                said = time.monotonic()
                print(f"{what}: {done} of {total} {unit}s", file=sys.stderr, flush=True)

        yield step
