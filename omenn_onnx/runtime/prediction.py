"""What the model says, in words: read from its own outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.explanation import Explanation

MOST_CLASSES = 100_000  # beyond this an output is dense (a picture), and its largest entry no prediction


def predictions(found: Explanation, labels: Sequence[str] | None = None) -> list[str]:
    """One phrase a row: the class and its probability, a value, or a label; empty where the outputs give none.

    A label output (integers or strings, one a row) speaks first, then the largest entry of the first numeric output.
    """
    rows = len(found.score) if np.ndim(found.score) else 1
    numeric: list[Array] = []
    for value in found.outputs.values():
        array: Any = np.asarray(value) if isinstance(value, np.ndarray) else np.zeros(0)
        if array.ndim and len(array) == rows and array.size:
            numeric.append(array.reshape(rows, -1))
    if not numeric:
        return []
    probabilities = next((a for a in numeric if _probabilities(a)), None)
    first = next((a for a in numeric if a.dtype.kind in "iuOUSb" and a.shape[1] == 1), numeric[0])
    return [_phrase(first[r], None if probabilities is None else probabilities[r], labels) for r in range(rows)]


def _phrase(row: Array, probabilities: Array | None, labels: Sequence[str] | None) -> str:
    if row.dtype.kind not in "fiu" or row.size > MOST_CLASSES:
        return str(row[0]) if row.size == 1 else ""
    if row.size == 1 and row.dtype.kind == "f":
        return f"{float(row[0]):.5g}"
    index = int(row[0]) if row.size == 1 else int(np.argmax(row))
    said = str(index) if labels is None or not 0 <= index < len(labels) else str(labels[index])
    return said + (f" (p {float(probabilities.max()):.3f})" if probabilities is not None else "")


def _probabilities(array: Array) -> bool:
    if array.dtype.kind != "f" or array.shape[1] < 2:
        return False
    wide = array.astype(np.float64)
    return bool(np.all(wide >= 0) and np.all(np.abs(wide.sum(axis=1) - 1) < 1e-2))
