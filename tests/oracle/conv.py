"""Conv and ConvTranspose. Ones: the mean over all input channels and the taps inside the unpadded input."""

from __future__ import annotations

import itertools

import numpy as np

from .canonical import zero_pad_in_front
from .stream import Array, Node, Tensor, constant, linear, move, on_value, rule
from .sums import add
from .windows import Window, at, mean_of_valid, window


def _filtered(x: Array, filter_tap: Array, groups: int) -> Array:
    """[N, C, ...] with filter [M, C/groups] -> [N, M, ...], group by group."""
    parts = []
    for part, weight in zip(np.split(x, groups, axis=1), np.split(filter_tap, groups, axis=0), strict=True):
        parts.append(np.moveaxis(np.tensordot(weight, part, axes=(1, 1)), 0, 1))
    return np.concatenate(parts, axis=1)


def convolve(x: Array, filters: Array, w: Window, groups: int) -> Array:
    out = np.zeros((x.shape[0], filters.shape[0], *w.out, x.shape[-1]))
    for tap, coordinates, valid, _ in w.taps():
        out += _filtered(at(x, coordinates) * valid[..., None], filters[(slice(None), slice(None), *tap)], groups)
    return out


def _check_filter(n: Node, x: Tensor, filters: Tensor) -> None:
    if filters.is_carrier and n.tangent:
        raise n.refuse("the filter is a carrier (tangent)")
    if filters.is_carrier and not x.is_carrier:
        raise n.refuse("only the filter is a carrier")


def _apply(n: Node, x: Tensor, bias: Tensor | None, f, ones) -> Tensor:
    y = linear(x, f, ones) if x.is_carrier else constant(on_value(f, x.value))
    if bias is None:
        return y
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return add(n, [y, move(bias, lambda i: i.reshape(shape))])


@rule("Conv")
def conv(n: Node, x: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    _check_filter(n, x, filters)
    w = window(n, x.shape[2:], filters.shape[2:])
    x, w = zero_pad_in_front(n, x, w)
    groups = n.attrs.get("group", 1)

    def ones(o: Array) -> Array:
        mean = mean_of_valid(o.mean(axis=1, keepdims=True), w)
        return np.repeat(mean, filters.shape[0], axis=1)

    return _apply(n, x, bias, lambda s: convolve(s, filters.value, w, groups), ones)


def transposed_window(n: Node, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Window, list[int]]:
    """The window whose ``out`` is the output of a ConvTranspose over inputs of ``size``; and the output padding."""
    rank = len(kernel)
    strides = list(n.attrs.get("strides", [1] * rank))
    dilations = list(n.attrs.get("dilations", [1] * rank))
    extra = list(n.attrs.get("output_padding", [0] * rank))
    pads = list(n.attrs.get("pads", [0] * (2 * rank)))
    auto = n.attrs.get("auto_pad", "NOTSET")
    w = Window(size, list(kernel), strides, dilations, pads[:rank], pads[rank:])
    full = [(size[a] - 1) * strides[a] + w.extent[a] + extra[a] for a in range(rank)]
    wanted = n.attrs.get("output_shape")
    if wanted is not None:
        wanted = list(wanted)[-rank:]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size[a] * strides[a] for a in range(rank)]
    elif auto == "VALID":
        w.begin, w.end = [0] * rank, [0] * rank
    if wanted is not None:
        for a in range(rank):
            total = max(0, full[a] - wanted[a])
            small, large = total // 2, total - total // 2
            w.begin[a], w.end[a] = (small, large) if auto == "SAME_UPPER" else (large, small)
        w.out = tuple(wanted)
    else:
        w.out = tuple(full[a] - w.begin[a] - w.end[a] for a in range(rank))
    return w, extra


def scatter_taps(w: Window):
    """For each tap: its index, and per axis the inputs that land inside the output and where they land."""
    for tap in itertools.product(*(range(k) for k in w.kernel)):
        sources, targets = [], []
        for a, k in enumerate(tap):
            landed = np.arange(w.size[a]) * w.strides[a] + k * w.dilations[a] - w.begin[a]
            inside = (landed >= 0) & (landed < w.out[a])
            sources.append(np.flatnonzero(inside))
            targets.append(landed[inside])
        yield tap, tuple(sources), tuple(targets)


@rule("ConvTranspose")
def conv_transpose(n: Node, x: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    """Filters [C, M/groups, *kernel]: input i, tap k land on i * stride + k * dilation - pad."""
    _check_filter(n, x, filters)
    groups = n.attrs.get("group", 1)
    w, _ = transposed_window(n, x.shape[2:], filters.shape[2:])
    channels = filters.shape[1] * groups

    def spread_out(s: Array) -> Array:
        out = np.zeros((s.shape[0], channels, *w.out, s.shape[-1]))
        for tap, sources, targets in scatter_taps(w):
            weight = filters.value[(slice(None), slice(None), *tap)]  # [C, M/groups]
            weight = np.concatenate([part.T for part in np.split(weight, groups, axis=0)], axis=0)  # [M, C/groups]
            out[(slice(None), slice(None), *np.ix_(*targets))] += _filtered(at(s, sources), weight, groups)
        return out

    def ones(o: Array) -> Array:
        mean = o.mean(axis=1, keepdims=True)
        total, count = np.zeros((o.shape[0], 1, *w.out, o.shape[-1])), np.zeros(w.out)
        for _, sources, targets in scatter_taps(w):
            total[(slice(None), slice(None), *np.ix_(*targets))] += at(mean, sources)
            count[np.ix_(*targets)] += 1
        empty = (count == 0)[..., None]
        everywhere = mean.mean(axis=tuple(range(2, o.ndim - 1)), keepdims=True)
        result = np.where(empty, everywhere, total / np.where(empty, 1, count[..., None]))
        return np.repeat(result, channels, axis=1)

    return _apply(n, x, bias, spread_out, ones)
