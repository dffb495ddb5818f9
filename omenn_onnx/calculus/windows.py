"""Geometry of sliding windows: padding, how many taps are valid, means over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus
from omenn_onnx.graph.ir import Array, Dim, Shape, Tensor
from omenn_onnx.linear.program import Var, Window


def window_of(
    X: Operand,
    kernel: Sequence[Dim],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Window | None:
    """The window with explicit padding; None when SAME padding depends on a size that only the run tells."""
    n = len(kernel)
    k = tuple(d for d in kernel if isinstance(d, int))
    if len(k) != n:
        raise OutsideCalculus("the size of its kernel is not known")
    s, d = tuple(strides or (1,) * n), tuple(dilations or (1,) * n)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for i, size in enumerate(X.shape[-n:]):
            span = (k[i] - 1) * d[i] + 1
            if s[i] == 1:
                total = span - 1
            elif isinstance(size, int):
                total = max((-(-size // s[i]) - 1) * s[i] + span - size, 0)
            else:
                return None
            begins.append(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)
            ends.append(total - begins[-1])
        pads = begins + ends
    elif auto_pad == "VALID" or not pads:
        pads = [0] * (2 * n)
    return Window(k, s, tuple(pads), d)


def counted_alike(X: Operand, window: Window | None, ceil_mode: int) -> None:
    """In ceil_mode a last window that would start behind the input and its first padding is dropped by runtimes but
    counted by ONNX's shape inference, which they believe: with fixed sizes, whatever follows goes wrong."""
    if window is None or not ceil_mode:
        return
    n = len(window.kernel)
    for i, size in enumerate(X.shape[-n:]):
        if isinstance(size, int):
            room = size + window.pads[i] + window.pads[n + i] - window.spans[i]
            if -(-room // window.strides[i]) * window.strides[i] >= size + window.pads[i]:
                raise OutsideCalculus(
                    "its last window starts behind the input (ceil_mode): ONNX's shape inference counts this window "
                    "and runtimes do not; set ceil_mode to 0 where that is meant, or export with free sizes"
                )


def same_padding(
    p: Calculus,
    X: Operand,
    kernel: Sequence[Dim],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    auto_pad: str,
) -> tuple[Window, Shape, list[Dim | Tensor]]:
    """SAME padding computed at run time: the unpadded window, the padded sizes, where the input begins in them."""
    bare = window_of(X, kernel, strides, dilations, None, "VALID")
    assert bare is not None
    n = len(bare.kernel)
    sizes = p.emit.shape(X.shape[-n:])
    stride = np.asarray(bare.strides, np.int64)
    steps = p.emit.op("Div", p.emit.op("Add", sizes, stride - 1, shape=(n,)), stride, shape=(n,))
    reach = p.emit.op("Mul", p.emit.op("Sub", steps, np.ones(n, np.int64), shape=(n,)), stride, shape=(n,))
    reach = p.emit.op("Add", reach, np.asarray(bare.spans, np.int64), shape=(n,))
    total = p.emit.op("Max", p.emit.op("Sub", reach, sizes, shape=(n,)), np.zeros(n, np.int64), shape=(n,))
    less = p.emit.op("Div", total, np.full(n, 2, np.int64), shape=(n,))
    begin = less if auto_pad == "SAME_UPPER" else p.emit.op("Sub", total, less, shape=(n,))
    grown = p.emit.op("Add", sizes, total, shape=(n,))
    # A tensor that has the padded sizes, so that they are sizes of a known tensor like all others.
    model = p.emit.op("ConstantOfShape", grown)
    model.shape = tuple(p.emit.new_dim(model, i) for i in range(n))
    begins: list[Dim | Tensor] = [p.emit.op("Slice", begin, [i], [i + 1], shape=(1,)) for i in range(n)]
    return bare, (*X.shape[:-n], *model.shape), begins


def mean_of_taps(
    p: Calculus,
    o: Var,
    source: Shape,
    window: Window,
    out: Shape,
    *,
    adjoint: bool = False,
    begin: Sequence[Dim | Tensor] | None = None,
    padded: Shape | None = None,
) -> Var:
    """Mean of ones over the taps of each window that fall inside the input; over all positions where there is none.

    ``source`` and ``out`` are the sizes of the value before and after; ``begin`` and ``padded`` describe a padding that
    was written out before the window.
    """
    n = len(window.kernel)
    front = o.rank - n
    if all(d == 1 for d in o.shape[front:]):  # uniform over positions
        return o
    target = (*o.shape[:front], *out[-n:])
    full = p.build.broadcast(o, (*o.shape[:front], *source[-n:]))
    if begin is not None and padded is not None:
        full = p.build.embed(full, (*[0] * front, *begin), (*o.shape[:front], *padded[-n:]))
    count = valid_taps(p, source[-n:], window, out[-n:], adjoint=adjoint, begin=begin)
    summed = p.build.window_sum(full, window, target, adjoint=adjoint)
    if count.value is not None and count.value.all():
        counts = count.value.reshape(-1)
        inverse = 1.0 / (counts[0] if (counts == counts[0]).all() else count.value)
        return p.build.scale(summed, p.emit.const(np.asarray(inverse, p.emit.dtype)))
    inverse = p.emit.op("Reciprocal", p.emit.op("Max", count, 1.0))
    inside = p.build.scale(summed, inverse)
    if not _may_be_empty(window, source[-n:], out[-n:], adjoint, count):
        return inside
    empty = p.emit.op("Equal", count, 0.0)
    everywhere = p.build.mean(o, range(front, o.rank))
    return p.build.add([inside, p.build.select(everywhere, empty, target)], target)


def _may_be_empty(window: Window, source: Shape, out: Shape, adjoint: bool, count: Tensor) -> bool:
    """Whether a window may hold no input at all. Known exactly for static sizes, else judged by the geometry."""
    if count.value is not None:
        return not count.value.all()
    n = len(window.kernel)
    if adjoint:  # output_padding needs a stride or a dilation
        return any(s > 1 for s in window.strides) or any(d > 1 for d in window.dilations)
    return any(d > 1 for d in window.dilations) or any(p >= window.spans[i % n] for i, p in enumerate(window.pads))


def valid_taps(
    p: Calculus,
    source: Shape,
    window: Window,
    out: Shape,
    *,
    adjoint: bool = False,
    begin: Sequence[Dim | Tensor] | None = None,
) -> Tensor:
    """How many taps of each window fall inside the input, as a tensor of the output's spatial sizes."""
    n = len(window.kernel)
    along = []
    for i in range(n):
        a, b = source[i], out[i]
        if begin is None and isinstance(a, int) and isinstance(b, int):
            along.append(p.emit.const(_taps_along(a, b, window, i, adjoint).astype(p.emit.dtype)))
        else:
            offset = window.pads[i] if begin is None else begin[i]
            along.append(_run_time_taps(p, a, b, offset, window, i, adjoint))
    known = [t.value for t in along if t.value is not None]
    if len(known) == n:
        count = np.ones((), p.emit.dtype)
        for line in known:
            count = np.multiply.outer(count, line)
        return p.emit.const(count.astype(p.emit.dtype))
    total: Tensor | None = None
    for i, t in enumerate(along):
        column = p.emit.op("Reshape", t, [-1, *[1] * (n - 1 - i)], shape=(out[i], *[1] * (n - 1 - i)))
        total = column if total is None else p.emit.op("Mul", total, column, shape=(*out[: i + 1], *[1] * (n - 1 - i)))
    assert total is not None
    return total


def _taps_along(source: int, out: int, window: Window, i: int, adjoint: bool) -> Array:
    """Window row r holds the positions r stride + tap dilation - pad; adjoint: how many rows hold each position."""
    s, d, k, pad = window.strides[i], window.dilations[i], window.kernel[i], window.pads[i]
    rows, columns = (source, out) if adjoint else (out, source)
    position = np.arange(rows)[:, None] * s + np.arange(k)[None, :] * d - pad
    inside = (position >= 0) & (position < columns)
    return np.bincount(position[inside], minlength=columns) if adjoint else inside.sum(1)


def _run_time_taps(
    p: Calculus, source: Dim, out: Dim, pad: Dim | Tensor, window: Window, i: int, adjoint: bool
) -> Tensor:
    """The same where a size is only known at run time."""
    e = p.emit

    def whole(op: str, a: Tensor, b: Tensor | int) -> Tensor:
        return e.op(op, a, np.asarray([b], np.int64) if isinstance(b, int) else b)

    scalar = e.op("Squeeze", e.dim(out), [0], shape=())
    rows = e.op(
        "Range", np.asarray(0, np.int64), scalar, np.asarray(1, np.int64), shape=(out,), dtype=np.dtype(np.int64)
    )
    rows = e.op("Unsqueeze", rows, [1], shape=(out, 1))
    taps = e.const(np.arange(window.kernel[i], dtype=np.int64)[None, :] * window.dilations[i])
    offset = pad if isinstance(pad, Tensor) else e.dim(pad)
    if adjoint:
        reached = e.op("Sub", e.op("Add", rows, offset), taps)
        position = whole("Div", reached, window.strides[i])
        hit = e.op(
            "And",
            e.op("Equal", whole("Mul", position, window.strides[i]), reached),
            whole("GreaterOrEqual", reached, 0),
        )
    else:
        position = e.op("Sub", e.op("Add", whole("Mul", rows, window.strides[i]), taps), offset)
        hit = whole("GreaterOrEqual", position, 0)
    inside = e.op("And", hit, e.op("Less", position, e.dim(source)))
    return e.op("ReduceSum", e.cast(inside), [1], keepdims=0, shape=(out,))
