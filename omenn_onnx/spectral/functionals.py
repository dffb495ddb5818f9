"""Which linear functional of a tensor is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.errors import TargetError

Array = NDArray[Any]


def functional(seed: Any, name: str, shape: Sequence[int], dtype: Any) -> Array:
    """The weights [M] of <seed, y> for the tensor ``name`` of ``shape``, M elements: ``seed`` is one of its flat
    indices, or M weights in any shape. Raises TargetError."""
    size = int(np.prod(shape, dtype=np.int64))
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        if not 0 <= seed < size:
            raise TargetError(f"index {seed} is out of range: {name!r} {list(shape)} has indices 0 to {size - 1}")
        weights: Array = np.zeros(size, dtype)
        weights[seed] = 1
        return weights
    try:
        given = np.asarray(seed, dtype)
    except (TypeError, ValueError):
        raise TargetError(f"a seed is an index or an array of numbers, not {seed!r}") from None
    if given.size != size:
        raise TargetError(f"the seed has {given.size} weights, {name!r} {list(shape)} has {size} elements")
    if not np.isfinite(given).all():
        raise TargetError("the seed holds NaN or infinite weights")
    return given.reshape(-1)
