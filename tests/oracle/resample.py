"""Pad, Resize, Upsample, GridSample: linear maps given by dense interpolation matrices or index maps."""

from __future__ import annotations

import numpy as np

from .stream import Array, Node, Tensor, carrier, linear, plus_bias, rule

# -- Pad --------------------------------------------------------------------------------------------------------------


def pad_widths(n: Node, x: Tensor) -> tuple[list[int], list[int]]:
    """Padding before and after every axis (attribute or input; ``axes`` since opset 18)."""
    given = n.attrs.get("pads", n.attrs.get("paddings")) if n.input(1) is None else [int(p) for p in n.input(1).value]
    axes = list(range(x.ndim)) if n.input(3) is None else [int(a) % x.ndim for a in np.ravel(n.input(3).value)]
    begin, end = [0] * x.ndim, [0] * x.ndim
    for k, a in enumerate(axes):
        begin[a], end[a] = given[k], given[k + len(axes)]
    return begin, end


def _source(size: int, begin: int, end: int, mode: str) -> tuple[Array, Array]:
    """Where the entries of a padded axis come from, and which of them are inside. Negative pads crop."""
    where = np.arange(size + begin + end) - begin
    inside = (where >= 0) & (where < size)
    low, high = max(0, -begin), size - 1 - max(0, -end)
    if mode == "reflect":
        span = max(high - low, 1)
        folded = np.abs((where - low + span) % (2 * span) - span)
        return np.where(inside, where, low + folded), inside
    if mode == "wrap":
        return low + (where - low) % (high - low + 1), inside
    return np.clip(where, low, high), inside


@rule("Pad")
def pad(n: Node, x: Tensor, *_: Tensor) -> Tensor:
    """Constant mode: c * o on the pad, edge replication for the ones. Other modes move entries, the ones too."""
    begin, end = pad_widths(n, x)
    mode = n.attrs.get("mode", "constant")
    fill = n.input(2)
    if fill is not None and fill.is_carrier:
        raise n.refuse("the padding value is a carrier")
    c = float(np.ravel(fill.value)[0]) if fill is not None and fill.value.size else n.attrs.get("value", 0.0)
    sources = [_source(x.shape[a], begin[a], end[a], mode) for a in range(x.ndim)]
    grid = np.ix_(*(s for s, _ in sources)) if x.ndim else ()
    value, lin, ones = x.value[grid], x.lin[grid], x.ones[grid]
    if mode == "constant":
        inside = np.ones(value.shape, bool)
        for a, (_, axis_inside) in enumerate(sources):
            inside &= axis_inside.reshape([-1 if i == a else 1 for i in range(x.ndim)])
        value = np.where(inside, value, c)
        lin = np.where(inside[..., None], lin, 0.0)
        lin = plus_bias(n, lin, ones, np.where(inside, 0.0, c))
    return carrier(value, lin, ones, x.rank)


# -- Resize -----------------------------------------------------------------------------------------------------------


def _coordinates(mode: str, out: int, size: int, scale: float, roi: tuple[float, float]) -> Array:
    """x_original of every x_resized, by coordinate_transformation_mode."""
    i = np.arange(out, dtype=float)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return (i + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return np.zeros(out)
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * size)
        return size / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    if mode == "align_corners":
        return i * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return i / scale
    if mode == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if out > 1:
            return start * (size - 1) + i * (end - start) * (size - 1) / (out - 1)
        return np.full(out, 0.5 * (start + end) * (size - 1))
    raise ValueError(mode)


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic convolution kernel."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _nearest(x: Array, mode: str) -> Array:
    if mode == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.floor(x) if mode == "floor" else np.ceil(x)


def interpolation_matrix(n: Node, x: Array, size: int, scale: float, mode: str, nearest_mode: str) -> Array:
    """Rows: output entries; columns: input entries of one axis. Neighbours outside are the border entry,
    or left out (exclude_outside) with the rest scaled to sum 1."""
    matrix = np.zeros((len(x), size))
    if mode == "nearest":
        matrix[np.arange(len(x)), np.clip(_nearest(x, nearest_mode), 0, size - 1).astype(int)] = 1
        return matrix
    stretch = min(scale, 1.0) if n.attrs.get("antialias", 0) else 1.0
    reach = (2 if mode == "cubic" else 1) / stretch
    exclude = n.attrs.get("exclude_outside", 0)
    for row, at in enumerate(x):
        near = np.arange(int(np.floor(at - reach)), int(np.ceil(at + reach)) + 1)
        t = (near - at) * stretch
        weight = _cubic(t, n.attrs.get("cubic_coeff_a", -0.75)) if mode == "cubic" else np.maximum(0, 1 - np.abs(t))
        if exclude:
            weight = np.where((near >= 0) & (near < size), weight, 0.0)
        np.add.at(matrix[row], np.clip(near, 0, size - 1), weight / weight.sum())
    return matrix


def _along(stream: Array, axis: int, matrix: Array) -> Array:
    return np.moveaxis(np.tensordot(matrix, stream, axes=(1, axis)), 0, axis)


def resize(
    n: Node, x: Tensor, scales: list[float], sizes: list[int] | None, roi: Tensor | None, transform: str
) -> Tensor:
    """Separable interpolation; tf_crop_and_resize fills outside with extrapolation_value * o (ones: the border's)."""
    axes = [a % x.ndim for a in n.attrs.get("axes", range(x.ndim))]
    mode, nearest_mode = n.attrs.get("mode", "nearest"), n.attrs.get("nearest_mode", "round_prefer_floor")
    if n.op == "Upsample" or n.opset < 11:
        nearest_mode = "floor"
    given = list(np.ravel(roi.value)) if roi is not None and roi.value.size else []
    out = list(x.shape)
    if sizes is not None:
        policy = n.attrs.get("keep_aspect_ratio_policy", "stretch")
        ratios = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
        if policy != "stretch":
            common = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [common] * len(axes)
            sizes = [int(np.floor(common * x.shape[a] + 0.5)) for a in axes]
        scales = ratios
        for a, s in zip(axes, sizes, strict=True):
            out[a] = s
    stream_steps = []
    inside = np.ones(out if sizes is not None else [1] * x.ndim, bool)
    for k, (a, scale) in enumerate(zip(axes, scales, strict=True)):
        size = x.shape[a]
        length = sizes[k] if sizes is not None else int(np.floor(size * scale))
        span = (given[k], given[k + len(axes)]) if given else (0.0, 1.0)
        at = _coordinates(transform, length, size, scale, span)
        if transform == "tf_crop_and_resize":
            shape = [-1 if i == a else 1 for i in range(x.ndim)]
            inside = inside & ((at >= 0) & (at <= size - 1)).reshape(shape)
            at = np.clip(at, 0, size - 1)
        if length == size and scale == 1 and transform != "tf_crop_and_resize":
            continue
        stream_steps.append((a, interpolation_matrix(n, at, size, scale, mode, nearest_mode)))

    def f(s: Array) -> Array:
        for a, matrix in stream_steps:
            s = _along(s, a, matrix)
        return s

    y = linear(x, f, rank=x.rank)
    inside = np.broadcast_to(inside, y.shape)
    if inside.all():
        return y
    fill = n.attrs.get("extrapolation_value", 0.0)
    lin = plus_bias(n, np.where(inside[..., None], y.lin, 0.0), y.ones, np.where(inside, 0.0, fill))
    return carrier(np.where(inside, y.value, fill), lin, y.ones, y.rank)


@rule("Resize")
def _resize(
    n: Node, x: Tensor, second: Tensor | None = None, third: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if n.opset < 11:  # Resize(X, scales): asymmetric
        return resize(n, x, [float(s) for s in second.value], None, None, "asymmetric")
    transform = n.attrs.get("coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.value.size:
        return resize(n, x, [], [int(s) for s in sizes.value], second, transform)
    return resize(n, x, [float(s) for s in third.value], None, second, transform)


@rule("Upsample")
def upsample(n: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    given = n.attrs.get("scales") if scales is None else scales.value
    return resize(n, x, [float(s) for s in given], None, None, "asymmetric")


# -- GridSample -------------------------------------------------------------------------------------------------------


def _reflect(x: Array, low: float, high: float) -> Array:
    """Reflect at the borders until inside."""
    span = high - low
    if span == 0:
        return np.full_like(x, low)
    folded = np.mod(x - low, 2 * span)
    return low + np.where(folded > span, 2 * span - folded, folded)


def _axis_weights(x: Array, size: int, mode: str, padding: str, align: bool) -> Array:
    """[points, size]: the weights of one axis of a sampled image."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    if mode == "nearest":
        x = np.rint(x)
    outside = (x < low) | (x > high)
    if padding == "border" and "cubic" not in mode:
        x = np.where(outside, np.clip(x, 0, size - 1), x)
    elif padding == "reflection":
        x = np.where(outside, _reflect(x, low, high), x)
    base = np.floor(x)
    if mode == "nearest":
        neighbours = [(x, np.ones_like(x))]
    elif mode in ("linear", "bilinear"):
        neighbours = [(base + k, 1 - np.abs(x - base - k)) for k in (0, 1)]
    else:
        neighbours = [(base + k, _cubic(x - base - k, -0.75)) for k in (-1, 0, 1, 2)]
    weights = np.zeros((len(x), size))
    rows = np.arange(len(x))
    for place, weight in neighbours:
        valid = (place >= 0) & (place < size)
        if padding == "zeros":
            weight = np.where(valid, weight, 0.0)
        elif padding == "reflection":
            place = np.where(valid, place, np.trunc(_reflect(place, low, high)))
        np.add.at(weights, (rows, np.clip(place, 0, size - 1).astype(int)), weight)
    return weights


@rule("GridSample")
def grid_sample(n: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Linear in x; the grid is a weight. Zeros padding: the ones are sampled with border padding."""
    if grid.is_carrier and (n.tangent or not x.is_carrier):
        raise n.refuse("the grid is a carrier")
    mode, padding = n.attrs.get("mode", "linear"), n.attrs.get("padding_mode", "zeros")
    align, space = bool(n.attrs.get("align_corners", 0)), x.shape[2:]
    points = grid.value.reshape(grid.shape[0], -1, len(space))[:, :, ::-1]  # the last coordinate is the last axis

    def sample(s: Array, pad_mode: str) -> Array:
        out = np.zeros((*s.shape[:2], points.shape[1], s.shape[-1]))
        for b in range(s.shape[0]):
            weights = np.ones((points.shape[1], 1))
            for a, size in enumerate(space):
                p = points[b, :, a]
                at = (p + 1) / 2 * (size - 1) if align else ((p + 1) * size - 1) / 2
                axis = _axis_weights(at, size, mode, pad_mode, align)
                weights = (weights[:, :, None] * axis[:, None, :]).reshape(points.shape[1], -1)
            flat = s[b].reshape(s.shape[1], weights.shape[1], s.shape[-1])
            out[b] = np.einsum("pi,cik->cpk", weights, flat)
        return out.reshape(*s.shape[:2], *grid.shape[1:-1], s.shape[-1])

    return linear(x, lambda s: sample(s, padding), lambda o: sample(o, "border" if padding == "zeros" else padding))
