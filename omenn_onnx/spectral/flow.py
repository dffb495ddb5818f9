"""How much each input feature feeds the units of a layer, and the explained output through them.

With R_l (input -> layer l), its bias b_l and g, the cotangent at the layer of one unit k of the explained output
(g = L_l^T e_k for L_l: layer -> output), all of one instance:

    contribution  C_l[i,j] = R_l[i,j] x_j                 sum_j C_l[i,j] + b_l[i] = the value of unit i
    feeds         a_l[j]   = sum_i |C_l[i,j]|             how much of feature j is in the layer
    through       t_l[j]   = sum_i |g_i C_l[i,j]|         how much of it goes on from there to unit k
    signed        s_l[j]   = sum_i g_i C_l[i,j]           and what is left of that when opposite signs cancel

C_l and its row sums are Instance-wise Linearization's; the summaries over the units are this project's own choice.
sum_j s_l[j] + g.b_l = g.y_l. At every layer that separates input and output s_l is the same, W[k,j] x_j; t_l - |s_l|
then is what cancels behind the layer, unit against unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omenn_onnx.spectral.linear_map import Check, Sums, fill
from omenn_onnx.spectral.operators import AffineOperator

Array = NDArray[Any]

_BLOCK = 1 << 20
"""Numbers of a layer's contributions that are summed at a time."""


@dataclass(frozen=True)
class Flow:
    """What the features bring to one layer.

    ``contributions`` [M, D], ``bias`` [M], ``y`` [M]: C_l, b_l and the layer's values. ``feeds``, ``through`` and
    ``signed`` [D] as the module says, each with what the bias brings (``feeds_bias`` ...). ``check``: the row sums
    against y.
    """

    layer: str
    contributions: Array
    bias: Array
    y: Array
    feeds: Array
    through: Array
    signed: Array
    feeds_bias: float
    through_bias: float
    signed_bias: float
    check: Check


def feature_flow(
    op: AffineOperator, cotangent: Array, room: Array | None = None, done: Callable[[int], None] = lambda steps: None
) -> Flow:
    """The flow into the target of ``op`` (input -> layer). ``cotangent`` [M]: g. ``room`` [M, D]: where the
    contributions are written (default: a new array). ``done``: called with the number of vectors just used."""
    rows, columns = op.shape
    found = np.empty((rows, columns), op.dtype) if room is None else room
    sums = Sums(rows)
    fill(op, range(rows), found, sums, done)
    g = cotangent.astype(np.float64)
    feeds, through, signed = np.zeros(columns), np.zeros(columns), np.zeros(columns)
    step = max(1, _BLOCK // max(1, columns))
    for start in range(0, rows, step):
        at = slice(start, start + step)
        found[at] *= op.x
        shares = found[at].astype(np.float64)
        signed += g[at] @ shares
        size = np.abs(shares, out=shares)
        feeds += size.sum(axis=0)
        through += np.abs(g[at]) @ size
    bias = op.bias.astype(np.float64)
    return Flow(
        op.target, found, op.bias, op.y, feeds, through, signed,
        float(np.abs(bias).sum()), float(np.abs(g) @ np.abs(bias)), float(g @ bias), sums.check(op.bias, op.y),
    )  # fmt: skip
