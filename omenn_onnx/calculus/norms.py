"""Normalisations.

Centred norms: (x - mean x) is linear, 1/std a weight, then scale and bias; ones 1/2 o + 1/2 mean(o) over the normalised
axes. Norms that only multiply (RMS, Lp, LRN): x times a weight; ones o. In the tangent rules the weight's own Jacobian
is added and the rest goes to the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omenn_onnx.calculus.base import Calculus, Operand, OutsideCalculus, Pair, rule
from omenn_onnx.calculus.elementwise import at_zero, square
from omenn_onnx.graph.ir import Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var


def half_mean(p: Calculus, o: Var, axes: Sequence[int]) -> Var:
    """1/2 o + 1/2 mean(o)."""
    axes = [a % o.rank for a in axes]
    if all(o.shape[a] == 1 for a in axes):
        return o
    return p.build.add([p.build.scale(o, 0.5), p.build.scale(p.build.mean(o, axes), 0.5)], o.shape)


def centred_norm(
    p: Calculus,
    x: Tensor,
    pair: Pair,
    axes: Sequence[int],
    epsilon: float,
    eps_outside: bool = False,
    inverse: Tensor | None = None,
) -> Pair:
    """(x - mean x) / sqrt(var x + epsilon), the mean and variance over ``axes``. ``inverse``: 1/std, where an operator
    tells it."""
    e = p.emit
    axes = [a % pair.value.rank for a in axes]
    if inverse is not None and not p.tangent:
        return Pair(p.build.scale(p.build.centre(pair.value, axes), inverse), half_mean(p, pair.ones, axes))
    centred = e.op("Sub", x, e.op("ReduceMean", x, axes, keepdims=1, shape=_kept(x, axes)), shape=x.shape)
    variance = e.op("ReduceMean", square(e, centred), axes, keepdims=1, shape=_kept(x, axes))
    deviation = e.op("Sqrt", e.op("Add", variance, epsilon) if not eps_outside else variance)
    if eps_outside:
        deviation = e.op("Add", deviation, epsilon)
    inverse = e.op("Reciprocal", deviation)
    ones = half_mean(p, pair.ones, axes)
    value = p.build.scale(p.build.centre(pair.value, axes), inverse)
    if not p.tangent:
        return Pair(value, ones)
    # d/dx of 1/std: - xhat mean(xhat .) ; at v = x it gives - xhat var / (var + epsilon)
    normal = e.op("Mul", centred, inverse, shape=x.shape)
    along = p.build.mean(p.build.scale(value, normal), axes)
    value = p.build.add([value, p.build.scale(along, e.op("Neg", normal), pair.value.shape)], pair.value.shape)
    rest = e.op("Mul", normal, e.op("ReduceMean", square(e, normal), axes, keepdims=1, shape=_kept(x, axes)))
    return Pair(p.bias(value, rest, ones, pair.value.shape), ones)


def _kept(x: Tensor, axes: Sequence[int]) -> Shape | None:
    return None if x.shape is None else tuple(1 if i in axes else d for i, d in enumerate(x.shape))


def scale_and_shift(p: Calculus, pair: Pair, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Pair:
    """scale * v + shift * o."""
    value = pair.value if scale is None else p.build.scale(pair.value, scale, shape)
    if shift is not None:
        value = p.bias(value, shift, pair.ones, shape)
    return Pair(value, pair.ones, pair.rank)


def _weights_only(*operands: Operand | None) -> None:
    if any(o is not None and o.pair is not None for o in operands):
        raise OutsideCalculus("its scale or bias depends on the explained input")


@rule("LayerNormalization")
def layer_normalization(
    p: Calculus,
    node: Node,
    X: Operand,
    scale: Operand,
    B: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> list[Pair | None] | None:
    """y = scale (x - mean x) / std + B over the axes from ``axis`` on."""
    _weights_only(scale, B)
    if X.pair is None:
        return None
    axes = list(range(axis % X.rank, X.rank))
    statistics = _statistics(p, node)  # (of those that the model asks for)
    inverse = None
    if p.emit.dtype == np.dtype(np.float32):  # the operator's own 1/std is in float32
        operands = [X.t, scale.t, *([] if B is None else [B.t])]
        single = np.dtype(np.float32)
        if X.t is node.inputs[0] and not _only_reader_of_a_sum(p, X.t):
            inverse = p.emit.further_output(node, 2, single, _kept(X.t, axes))
        if inverse is None:
            inverse = p.emit.ops("LayerNormalization", 3, *operands, axis=axis, epsilon=epsilon, shape=X.shape)[2]
            inverse.shape = _kept(X.t, axes)
    normal = centred_norm(p, X.t, X.pair, axes, epsilon, inverse=inverse)
    y = scale_and_shift(p, normal, scale.t, None if B is None else B.t, X.shape)
    return [y, *statistics]


def _only_reader_of_a_sum(p: Calculus, x: Tensor) -> bool:
    """Whether ONNX Runtime would make one SkipLayerNormalization of an Add and the norm that alone reads it: six times
    as slow on the CPU (BERT-base 1.7 instead of 10 ms), and not done where somebody else reads the sum too."""
    added = x.producer is not None and x.producer.op == "Add"
    return added and sum(t is x for n in p.graph.nodes for t in n.inputs) == 1


def _statistics(p: Calculus, node: Node) -> list[Pair | None]:
    """Mean and deviation, where they are outputs, are weights; a graph that carries on with them is refused."""
    return p.refused(node, "its outputs after the first (statistics) have no rule")[1:]


@rule("InstanceNormalization")
def instance_normalization(
    p: Calculus, node: Node, X: Operand, scale: Operand, B: Operand, *, epsilon: float = 1e-5
) -> Pair | None:
    _weights_only(scale, B)
    if X.pair is None:
        return None
    normal = centred_norm(p, X.t, X.pair, range(2, X.rank), epsilon)
    return scale_and_shift(p, normal, channels(p, scale.t, X.rank), channels(p, B.t, X.rank), X.shape)


def channels(p: Calculus, t: Tensor, rank: int) -> Tensor:
    """A vector along axis 1 of a tensor of ``rank``."""
    assert t.shape is not None
    return p.emit.op("Reshape", t, [-1, *[1] * (rank - 2)], shape=(t.shape[0], *[1] * (rank - 2)))


@rule("GroupNormalization")
def group_normalization(
    p: Calculus, node: Node, X: Operand, scale: Operand, B: Operand, *, epsilon: float = 1e-5, num_groups: int
) -> Pair | None:
    """The channels in groups, normalised over each group and all positions; opset 18 scales by group, 21 by channel."""
    _weights_only(scale, B)
    if X.pair is None:
        return None
    size = X.shape[1]
    if not isinstance(size, int) and p.graph.opset >= 21:
        size = scale.shape[0]
    if not isinstance(size, int):
        raise OutsideCalculus("its number of channels is not known")
    grouped: Shape = (X.shape[0], num_groups, size // num_groups, *X.shape[2:])
    axes = range(2, len(grouped))
    x = p.emit.op("Reshape", X.t, p.emit.shape(grouped), shape=grouped)
    o = X.pair.ones
    if o.shape[1] == 1:
        o = p.build.reshape(o, (o.shape[0], 1, *o.shape[1:]))
    else:
        o = p.build.reshape(o, (o.shape[0], num_groups, size // num_groups, *o.shape[2:]))
    normal = centred_norm(p, x, Pair(p.build.reshape(X.pair.value, grouped), o), list(axes), epsilon)
    by_group = scale.shape[0] == num_groups and num_groups != size
    parts = [
        p.emit.op(
            "Reshape",
            t.t,
            [num_groups, 1 if by_group else size // num_groups, *[1] * (X.rank - 2)],
            shape=(num_groups, 1 if by_group else size // num_groups, *[1] * (X.rank - 2)),
        )
        for t in (scale, B)
    ]
    y = scale_and_shift(p, normal, parts[0], parts[1], grouped)
    ones = y.ones
    if ones.shape[1] == 1 and ones.shape[2] == 1:
        ones = p.build.reshape(ones, (ones.shape[0], 1, *ones.shape[3:]))
    else:
        ones = p.build.broadcast(ones, (ones.shape[0], num_groups, size // num_groups, *ones.shape[3:]))
        ones = p.build.reshape(ones, (ones.shape[0], size, *ones.shape[3:]))
    return Pair(p.build.reshape(y.value, X.shape), ones)


@rule("BatchNormalization")
def batch_normalization(
    p: Calculus,
    node: Node,
    X: Operand,
    scale: Operand,
    B: Operand,
    mean: Operand,
    var: Operand,
    *,
    epsilon: float = 1e-5,
    training_mode: int = 0,
) -> list[Pair | None] | None:
    """Inference: scale / sqrt(var + epsilon), then a bias. Training mode: a centred norm over batch and positions."""
    _weights_only(scale, B, mean, var)
    if X.pair is None:
        return None
    gain, shift = channels(p, scale.t, X.rank), channels(p, B.t, X.rank)
    if training_mode:
        axes = [0, *range(2, X.rank)]
        y = scale_and_shift(p, centred_norm(p, X.t, X.pair, axes, epsilon), gain, shift, X.shape)
        return [y, *_statistics(p, node)]
    e = p.emit
    factor = e.op("Mul", gain, e.op("Reciprocal", e.op("Sqrt", e.op("Add", channels(p, var.t, X.rank), epsilon))))
    if scale.value is not None and var.value is not None:  # (a known factor can be folded into kernels)
        known = scale.value / np.sqrt(var.value.astype(np.float64) + epsilon)
        factor = e.const(known.astype(e.dtype).reshape(-1, *[1] * (X.rank - 2)))
    offset = e.op("Sub", shift, e.op("Mul", channels(p, mean.t, X.rank), factor))
    value = p.bias(p.build.scale(X.pair.value, factor), offset, X.pair.ones, X.shape)
    return [Pair(value, X.pair.ones, X.pair.rank)]


@rule("MeanVarianceNormalization")
def mean_variance_normalization(p: Calculus, node: Node, X: Operand, *, axes: Sequence[int] = (0, 2, 3)) -> Pair | None:
    """(x - mean) / (sqrt(mean x^2 - mean^2) + 1e-9), as its function body says; tangent: every part of that body."""
    if X.pair is None:
        return None
    axes = [a % X.rank for a in axes]
    if not p.tangent:
        return centred_norm(p, X.t, X.pair, axes, 1e-9, eps_outside=True)
    e, b, v, o, thin = p.emit, p.build, X.pair.value, X.pair.ones, _kept(X.t, axes) or ()
    mean = e.op("ReduceMean", X.t, axes, keepdims=1, shape=thin)
    variance = e.op("Sub", e.op("ReduceMean", square(e, X.t), axes, keepdims=1, shape=thin), square(e, mean))
    deviation = e.op("Sqrt", variance)
    slope = at_zero(e, deviation, e.op("Div", 0.5, deviation), 0.0)
    mean_v, mean_o = b.mean(v, axes), b.mean(o, axes)
    power = p.bias(b.scale(v, e.op("Mul", X.t, 2.0)), e.op("Neg", square(e, X.t)), o, X.shape)
    squared_mean = p.bias(b.scale(mean_v, e.op("Mul", mean, 2.0)), e.op("Neg", square(e, mean)), mean_o, thin)
    spread = b.scale(b.add([b.mean(power, axes), b.scale(squared_mean, -1.0)], thin), slope)
    spread = p.bias(spread, e.op("Sub", deviation, e.op("Mul", slope, variance)), mean_o, thin)
    spread = p.bias(spread, 1e-9, mean_o, thin)
    y, inverse = p.out(node).t, e.op("Reciprocal", e.op("Add", deviation, 1e-9))
    ones = half_mean(p, o, axes)
    spread = b.scale(spread, e.op("Neg", e.op("Mul", y, inverse)), X.shape)
    value = b.add([b.scale(b.centre(v, axes), inverse), spread], X.shape)
    return Pair(p.bias(value, y, ones, X.shape), ones)


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(
    p: Calculus, node: Node, X: Operand, scale: Operand, *, axis: int = -1, epsilon: float = 1e-5
) -> Pair | None:
    """y = scale x / sqrt(mean x^2 + epsilon): x times a weight."""
    _weights_only(scale)
    if X.pair is None:
        return None
    e = p.emit
    axes = list(range(axis % X.rank, X.rank))
    power = e.op("ReduceMean", square(e, X.t), axes, keepdims=1, shape=_kept(X.t, axes))
    inverse = e.op("Reciprocal", e.op("Sqrt", e.op("Add", power, epsilon)))
    pair = Pair(p.build.scale(X.pair.value, inverse), X.pair.ones, X.pair.rank)
    if p.tangent:
        normal = e.op("Mul", X.t, inverse)
        along = p.build.mean(p.build.scale(pair.value, normal), axes)
        pair = _less(p, pair, along, normal, e.op("ReduceMean", square(e, normal), axes, keepdims=1))
    return scale_and_shift(p, pair, scale.t, None, X.shape)


def _less(p: Calculus, pair: Pair, along: Var, direction: Tensor, lost: Tensor) -> Pair:
    """v - direction * along, and what that takes from the value, direction * lost, to the bias."""
    shape = pair.value.shape
    value = p.build.add([pair.value, p.build.scale(along, p.emit.op("Neg", direction), shape)], shape)
    return Pair(p.bias(value, p.emit.op("Mul", direction, lost), pair.ones, shape), pair.ones, pair.rank)


@rule("LpNormalization")
def lp_normalization(p: Calculus, node: Node, X: Operand, *, axis: int = -1) -> Pair | None:
    """x / |x|_p: x times a weight, 0 where the norm is 0."""
    if X.pair is None:
        return None
    e = p.emit
    order = int(node.attrs.get("p", 2))
    norm = e.op("ReduceL1" if order == 1 else "ReduceL2", X.t, [axis], keepdims=1, shape=_kept(X.t, [axis % X.rank]))
    inverse = at_zero(e, norm, e.op("Reciprocal", norm), 0.0)
    pair = Pair(p.build.scale(X.pair.value, inverse), X.pair.ones, X.pair.rank)
    if not p.tangent:
        return pair
    y = p.out(node).t
    slope = e.op("Sign", X.t) if order == 1 else y
    along = p.build.sum(p.build.scale(pair.value, slope), [axis])
    lost = e.op("ReduceSum", e.op("Mul", y, slope), [axis], keepdims=1)
    return _less(p, pair, along, y, lost)


@rule("LRN")
def lrn(
    p: Calculus, node: Node, X: Operand, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Pair | None:
    """x / (bias + alpha/size * sum of squares over neighbouring channels)^beta: x times a weight."""
    if X.pair is None:
        return None
    e = p.emit
    before, behind = (size - 1) // 2, size - 1 - (size - 1) // 2
    line: Shape = (X.shape[0], 1, X.shape[1], p.emit.new_size(X.shape[2:]))
    flat = e.op("Reshape", square(e, X.t), e.shape(line), shape=line)
    kernel = np.ones((1, 1, size, 1), e.dtype)
    window = lp.Window((size, 1), (1, 1), (before, 0, behind, 0), (1, 1))
    summed = e.op("Conv", flat, kernel, kernel_shape=[size, 1], pads=[before, 0, behind, 0], shape=line)
    energy = e.op("Reshape", summed, e.shape_of(X.t), shape=X.t.shape)
    base = e.op("Add", e.op("Mul", energy, alpha / size), bias)
    weight = e.op("Pow", base, -beta)
    pair = Pair(p.build.scale(X.pair.value, weight), X.pair.ones, X.pair.rank)
    if not p.tangent:
        return pair
    # - x 2 alpha/size beta base^(-beta-1) * sum over the window of x v
    slope = e.op("Mul", e.op("Mul", X.t, e.op("Pow", base, -beta - 1.0)), -2.0 * alpha * beta / size)
    products = p.build.reshape(p.build.scale(X.pair.value, X.t), line)
    around = p.build.reshape(p.build.window_sum(products, window, line), X.shape)
    value = p.build.add([pair.value, p.build.scale(around, slope)], X.shape)
    rest = e.op("Neg", e.op("Mul", slope, energy))
    return Pair(p.bias(value, rest, pair.ones, X.shape), pair.ones, pair.rank)
