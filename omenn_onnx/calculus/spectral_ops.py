"""DFT and STFT: contractions over the axis and over real and imaginary parts; ones: the mean over both."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.shape_ops import arange, eye
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor
from omenn_onnx.linear.program import Var

_LETTERS = "abefghijmnopqrstuvwxyz"


def _matrix(
    p: Calculus, size: Dim, parts: int, out: Dim, out_parts: int, length: Tensor | None, inverse: int, onesided: int
) -> Tensor:
    """[l, c, k, d]: the transform of the unit vector at place l of part c (0 real, 1 imaginary), by ONNX's own DFT."""
    e = p.emit
    plane: Shape = (size, size, 1)
    real = e.op("Reshape", eye(p, size), e.shape(plane), shape=plane)
    rows = []
    for part in range(parts):
        unit = real
        if parts == 2:
            pads = [0, 0, part, 0, 0, 1 - part]
            unit = e.op("Pad", real, pads, shape=(size, size, 2))
        spectrum = e.op(
            "DFT",
            unit,
            length,
            np.asarray(1, np.int64),
            inverse=inverse,
            onesided=onesided,
            shape=(size, out, out_parts),
        )
        rows.append(e.op("Unsqueeze", spectrum, [1], shape=(size, 1, out, out_parts)))
    return rows[0] if parts == 1 else e.op("Concat", *rows, axis=1, shape=(size, 2, out, out_parts))


def _contract(p: Calculus, v: Var, ones: Var, axis: int, matrix: Tensor, shape: Shape) -> tuple[Var, Var]:
    labels = list(_LETTERS[: v.rank])
    labels[axis], labels[-1] = "l", "c"
    out = list(labels)
    out[axis], out[-1] = "k", "d"
    value = p.build.einsum(v, matrix, "".join(labels), "lckd", "".join(out), shape)
    return value, p.build.mean(ones, [axis, ones.rank - 1])


@rule("DFT")
def dft(
    p: Calculus,
    node: Node,
    X: Operand,
    dft_length: Operand | None = None,
    axis: Operand | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Pair | None:
    if X.pair is None:
        return None
    y = p.out(node)
    a = -2 if axis is None else int(p.number(axis, "axis").reshape(()))
    a %= X.rank
    parts, out_parts = X.shape[-1], y.shape[-1]
    if not isinstance(parts, int) or not isinstance(out_parts, int):
        raise OutsideCalculus("whether its input is real or complex is not known")
    length = None if dft_length is None else dft_length.t
    matrix = _matrix(p, X.shape[a], parts, y.shape[a], out_parts, length, inverse, onesided)
    value, ones = _contract(p, X.pair.value, X.pair.ones, a, matrix, y.shape)
    return Pair(value, ones)


@rule("STFT")
def stft(
    p: Calculus,
    node: Node,
    signal: Operand,
    frame_step: Operand,
    window: Operand | None = None,
    frame_length: Operand | None = None,
    *,
    onesided: int = 1,
) -> Pair | None:
    """Frames are picked, weighted by the window, and transformed."""
    if signal.pair is None:
        raise OutsideCalculus("its window depends on the explained input")
    if window is not None and window.pair is not None:
        raise OutsideCalculus("its window depends on the explained input")
    y, e = p.out(node), p.emit
    step = int(p.number(frame_step, "frame_step").reshape(()))
    if frame_length is not None:
        n = int(p.number(frame_length, "frame_length").reshape(()))
    elif window is not None and isinstance(window.shape[0], int):
        n = window.shape[0]
    else:
        raise OutsideCalculus("its frame_length is not known")
    frames, size = y.shape[1], signal.shape[1]
    parts = signal.shape[2] if signal.rank == 3 else 1
    if not isinstance(parts, int):
        raise OutsideCalculus("whether its signal is real or complex is not known")
    starts = e.op("Mul", arange(p, frames), np.asarray([step], np.int64), shape=(frames,))
    grid = e.op(
        "Add", e.op("Unsqueeze", starts, [1], shape=(frames, 1)), np.arange(n, dtype=np.int64), shape=(frames, n)
    )
    count = e.new_size((frames, n))
    flat = e.op("Reshape", grid, [-1], shape=(count,))

    def framed(v: Var) -> Var:
        v = p.build.reshape(v, (*v.shape[:2], v.shape[2] if v.rank == 3 else 1))
        if v.shape[1] == 1 and size != 1:
            return p.build.reshape(v, (v.shape[0], 1, 1, v.shape[2]))
        return p.build.reshape(p.build.gather(v, 1, flat, count), (v.shape[0], frames, n, v.shape[2]))

    value, ones = framed(signal.pair.value), framed(signal.pair.ones)
    if window is not None:
        value = p.build.scale(value, e.op("Unsqueeze", window.t, [1], shape=(n, 1)))
    matrix = _matrix(p, n, parts, y.shape[2], 2, None, 0, onesided if parts == 1 else 0)
    transformed, mean = _contract(p, value, ones, 2, matrix, y.shape)
    return Pair(transformed, mean)
