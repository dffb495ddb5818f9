"""The target and the seed, as the compiled file wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from omenn_onnx.errors import FeedError, NameNotFound, TargetError
from omenn_onnx.runtime.contract import Contract
from omenn_onnx.runtime.engines import Array, TensorInfo
from omenn_onnx.runtime.feeds import check_finite, check_shape, spell


def check_kind(contract: Contract, target: Any, seed: Any) -> None:
    """Raises TargetError unless exactly what the file was compiled for is given."""
    kind = contract.target.kind
    compiled = f"the file was compiled with --target {contract.target.spec}"
    if target is not None and contract.target_input is None:
        raise TargetError(f"{compiled}: its target is not an input (compile with --target input to choose it here)")
    if seed is not None and contract.seed_input is None:
        raise TargetError(f"{compiled}: it has no seed input (compile with --target seed)")
    if target is None and kind == "input":
        raise TargetError(f"{compiled}: give a target, a flat index into a row of {contract.output!r}")
    if seed is None and kind == "seed":
        raise TargetError(f"{compiled}: give a seed, an array of the shape of {contract.output!r}")


def target_columns(target: Any, info: TensorInfo, batch: int, size: int | None) -> tuple[list[Array], bool]:
    """The int64 arrays to run one after the other, and whether their results are stacked on axis 1.

    ``target``: an int (for all rows), [N], or [N,K]. A file that takes [N] runs once a column of [N,K]; one that takes
    [N,K] runs once. ``size`` is the number of elements of Z per row, where known. Raises TargetError.
    """
    array = np.asarray(target)
    if array.dtype.kind not in "iu" or array.ndim > 2:
        raise TargetError(f"target must be integers: one, [N] or [N,K]; got {array.dtype} {spell(array.shape)}")
    if array.size and (array.min() < 0 or (size is not None and array.max() >= size)):
        wrong = int(array.min() if array.min() < 0 else array.max())
        raise TargetError(f"target {wrong} is out of range: " + (f"0 to {size - 1}" if size is not None else "below 0"))
    array = array.astype(np.int64)
    if info.dims == ():
        if array.size != 1:
            raise TargetError("the file takes one target for all rows")
        return [array.reshape(())], False
    if array.ndim == 0:
        array = np.full(batch, array)
    if array.shape[0] != batch:
        raise TargetError(f"target {spell(array.shape)} does not fit {batch} row(s): give [{batch}] or [{batch},K]")
    wide = info.dims is not None and len(info.dims) == 2
    if not wide:
        return ([array], False) if array.ndim == 1 else ([np.ascontiguousarray(c) for c in array.T], True)
    if array.ndim == 1:
        array = array[:, None]
    wanted = info.dims[1] if info.dims else None
    if isinstance(wanted, int) and array.shape[1] != wanted:
        raise TargetError(f"the file takes {wanted} targets a row, got {array.shape[1]}")
    return [array], False


def checked_seed(seed: Any, info: TensorInfo, allow_nonfinite: bool) -> Array:
    """The seed in its declared type; weights may be rounded to it. Raises FeedError."""
    array = np.asarray(seed)
    if array.dtype.kind not in "biuf":
        raise FeedError(f"seed must be numbers, got {array.dtype}")
    array = array.astype(info.dtype or np.float32)
    check_shape(array.shape, info)
    check_finite(array, info.name, allow_nonfinite)
    return array


def size_of_output(contract: Contract, outputs: Mapping[str, TensorInfo]) -> int | None:
    """Elements of the explained tensor per row, where the file states them."""
    dims: Any = contract.output_shape
    if dims is None and contract.output in outputs:
        dims = outputs[contract.output].dims
    if not dims or not all(isinstance(d, int) for d in dims[1:]):
        return None
    return int(np.prod(dims[1:], dtype=np.int64))


def find(infos: Mapping[str, TensorInfo], name: str) -> TensorInfo:
    """The declared input of that name."""
    if name not in infos:
        raise NameNotFound("input", name, infos)
    return infos[name]
