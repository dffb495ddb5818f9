"""Conv and ConvTranspose. Ones: the mean over all input channels and the taps that fall inside the unpadded input;
where there is no such tap, the mean over all positions."""

from __future__ import annotations

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.windows import mean_of_taps, same_padding, window_of
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.linear import program as lp


@rule("Conv")
def conv(
    p: Calculus,
    node: Node,
    X: Operand,
    W: Operand,
    B: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Pair | None:
    """y = W * X + B; the kernel is always a weight."""
    _kernel_is_weight(p, W, B)
    if X.pair is None:
        raise OutsideCalculus("its kernel depends on the explained input, but its input does not")
    window = window_of(X, W.shape[2:], strides, dilations, pads, auto_pad)
    y = p.out(node)
    v, o, shape, begin = X.pair.value, X.pair.ones, X.shape, None
    if window is None:
        window, shape, begin = same_padding(p, X, W.shape[2:], strides, dilations, auto_pad)
        v = p.build.embed(v, (0, 0, *begin), shape)
    value = p.build.apply(lp.Conv(W.t, window, group), [v], y.shape)
    ones = mean_of_taps(p, p.build.mean(o, [1]), X.shape, window, y.shape, begin=begin, padded=shape)
    if B is not None:
        value = p.bias(value, _along_channels(p, B, y.shape), ones, y.shape)
    return Pair(value, ones)


@rule("ConvTranspose")
def conv_transpose(
    p: Calculus,
    node: Node,
    X: Operand,
    W: Operand,
    B: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Pair | None:
    """The adjoint of a convolution by W [C, M/group, kernel], from the padded geometry that gives y's size."""
    _kernel_is_weight(p, W, B)
    if X.pair is None:
        raise OutsideCalculus("its kernel depends on the explained input, but its input does not")
    y = p.out(node)
    n = X.rank - 2
    kernel = W.shape[2:]
    strides, dilations = strides or [1] * n, dilations or [1] * n
    extra = output_padding or [0] * n
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = _pads_from_output(X, y.shape, kernel, strides, dilations, extra, auto_pad)
    window = window_of(X, kernel, strides, dilations, pads or [0] * (2 * n), "NOTSET")
    assert window is not None
    value = p.build.apply(lp.Conv(W.t, window, group, adjoint=True), [X.pair.value], y.shape)
    ones = mean_of_taps(p, p.build.mean(X.pair.ones, [1]), X.shape, window, y.shape, adjoint=True)
    if B is not None:
        value = p.bias(value, _along_channels(p, B, y.shape), ones, y.shape)
    return Pair(value, ones)


def _pads_from_output(
    X: Operand, out: Shape, kernel: Shape, strides: list[int], dilations: list[int], extra: list[int], auto_pad: str
) -> list[int]:
    """total = stride (in - 1) + output_padding + span - out, split by auto_pad (the odd one behind for SAME_UPPER)."""
    begins, ends = [], []
    for i, (a, b) in enumerate(zip(X.shape[2:], out[2:], strict=True)):
        k = kernel[i]
        if isinstance(k, str):
            raise OutsideCalculus("the size of its kernel is not known")
        if isinstance(a, int) and isinstance(b, int):
            whole = strides[i] * (a - 1) + extra[i] + (k - 1) * dilations[i] + 1 - b
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            whole = extra[i] + (k - 1) * dilations[i] + 1 - strides[i]
        else:
            raise OutsideCalculus("its output_shape needs a static input size")
        whole = max(whole, 0)
        small = whole // 2
        begins.append(small if auto_pad == "SAME_UPPER" else whole - small)
        ends.append(whole - begins[-1])
    return begins + ends


def _kernel_is_weight(p: Calculus, W: Operand, B: Operand | None) -> None:
    if W.pair is not None and p.tangent:
        raise OutsideCalculus("its kernel depends on the explained input, which the tangent rules refuse")
    if B is not None and B.pair is not None:
        raise OutsideCalculus("its bias depends on the explained input")
    if any(isinstance(d, str) for d in W.shape[2:]):
        raise OutsideCalculus("the size of its kernel is not known")


def _along_channels(p: Calculus, B: Operand, shape: Shape) -> Tensor:
    """B as [C, 1, ...]; nothing at all if it is known to be zero."""
    n = len(shape) - 2
    if B.value is not None and not B.value.any():
        return p.emit.const(np.zeros((), p.emit.dtype))
    return p.emit.op("Reshape", B.t, [-1, *[1] * n], shape=(*B.shape, *[1] * n))
