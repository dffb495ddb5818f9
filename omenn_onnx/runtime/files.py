"""Files written whole or not at all."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` only when the block ends well. Raises OSError where it cannot."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write ``arrays`` as a compressed .npz. Returns its path, with .npz appended where it lacks it."""
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)
    return path


@contextmanager
def whole_array(path: Path, shape: Sequence[int], dtype: Any) -> Iterator[np.ndarray[Any, Any]]:
    """A .npy file of that shape as a memory map to be filled: it appears under ``path`` only when the block ends well.
    Its room on the disk is taken at once, where the system can. Raises OSError where there is none."""
    with whole_file(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_2_0(file, header)
        file.flush()
        start, size = file.tell(), math.prod(shape) * np.dtype(dtype).itemsize
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), start, size)
        if not size:
            yield np.empty(tuple(shape), dtype)
            return
        mapped = np.memmap(file, dtype, "r+", start, tuple(shape))
        yield mapped
        mapped.flush()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
