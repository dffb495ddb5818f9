"""Canonical forms: decompositions that are recognised before linearising, because their parts would act differently
from the whole. A recogniser is given the last node of its form, and returns the nodes that this counts as, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from omenn_onnx.graph.ir import Node, Tensor

if TYPE_CHECKING:
    from omenn_onnx.normalise.views import Views

Recogniser = Callable[["Views", Node], "list[Node] | None"]


def scalar(t: Tensor | None) -> float | None:
    """The value of a known constant of one element."""
    if t is None or not t.const or t.value is None or t.value.size != 1 or not t.is_float:
        return None
    return float(t.value.reshape(()))


def split_constant(node: Node) -> tuple[Tensor, float] | None:
    """(x, c) of a binary node with one known scalar, on either side."""
    a, b = (node.inputs[0], node.inputs[1]) if len(node.inputs) == 2 else (None, None)
    if a is None or b is None:
        return None
    for x, c in ((a, b), (b, a)):
        value = scalar(c)
        if value is not None and not x.const and x.rank is not None and len(c.shape or ()) <= x.rank:
            return x, value
    return None


def _one_plus_exp(v: Views, t: Tensor | None) -> Tensor | None:
    """u of 1 + Exp(u)."""
    add = v.made_by(t, "Add")
    parts = None if add is None else split_constant(add)
    if parts is None or parts[1] != 1.0:
        return None
    exp = v.made_by(parts[0], "Exp")
    return None if exp is None else exp.inputs[0]


def _negated(v: Views, node: Node, u: Tensor) -> tuple[list[Node], Tensor]:
    """-u: its operand if it is itself a negation, else a new node."""
    neg = v.made_by(u, "Neg")
    if neg is not None and neg.inputs[0] is not None:
        return [], neg.inputs[0]
    mul = v.made_by(u, "Mul")
    parts = None if mul is None else split_constant(mul)
    if parts is not None and parts[1] == -1.0:
        return [], parts[0]
    new = v.part(node, "Neg", u)
    return [new], new.outputs[0]


def sigmoid(v: Views, node: Node) -> list[Node] | None:
    """c / (1 + Exp(-x)) = c Sigmoid(x)."""
    c, bottom = (None, node.inputs[0]) if node.op == "Reciprocal" else (node.inputs[0], node.inputs[1])
    u = _one_plus_exp(v, bottom)
    if u is None or (c is not None and not c.const):
        return None
    before, x = _negated(v, node, u)
    if c is None or scalar(c) == 1.0:
        return before + v.whole(node, "Sigmoid", x)
    inner = v.part(node, "Sigmoid", x)
    return [*before, inner, *v.whole(node, "Mul", c, inner.outputs[0])]


def log_forms(v: Views, node: Node) -> list[Node] | None:
    """Log(Sigmoid(x)) = -Softplus(-x), Log(1 + Exp(x)) = Softplus(x), Log(Softmax(x)) = LogSoftmax(x)."""
    t = node.inputs[0]
    inner = v.made_by(t, "Sigmoid")
    if inner is not None and inner.inputs[0] is not None:
        first = v.part(node, "Neg", inner.inputs[0])
        second = v.part(node, "Softplus", first.outputs[0])
        return [first, second, *v.whole(node, "Neg", second.outputs[0])]
    soft = v.made_by(t, "Softmax")
    if soft is not None:
        return v.whole(node, "LogSoftmax", soft.inputs[0], **soft.attrs)
    u = _one_plus_exp(v, t)
    return None if u is None else v.whole(node, "Softplus", u)


def _axes(node: Node) -> list[int] | None:
    """The reduced axes, if they are known."""
    axes = node.input(1)
    t = node.inputs[0]
    if axes is None or axes.value is None or t is None or t.rank is None:
        return None
    return sorted(int(a) % t.rank for a in axes.value.reshape(-1))


def _keeps(node: Node) -> bool:
    return bool(node.attrs.get("keepdims", 1))


def _exp_sum(v: Views, t: Tensor | None) -> tuple[Tensor, list[int], bool] | None:
    """(e, axes, keepdims) of ReduceSum(e) with e = Exp(...)."""
    total = v.made_by(t, "ReduceSum")
    if total is None or total.inputs[0] is None:
        return None
    axes = _axes(total)
    if axes is None or v.made_by(total.inputs[0], "Exp") is None:
        return None
    return total.inputs[0], axes, _keeps(total)


def _unshifted(v: Views, e: Tensor, axes: list[int]) -> tuple[Tensor | None, Tensor | None]:
    """(x, max) of e = Exp(x - max over axes); (u, None) of any other Exp(u)."""
    exp = v.made_by(e, "Exp")
    assert exp is not None
    u = exp.inputs[0]
    sub = v.made_by(u, "Sub")
    if sub is not None:
        best = v.made_by(sub.inputs[1], "ReduceMax")
        if best is not None and best.inputs[0] is sub.inputs[0] and _axes(best) == axes and _keeps(best):
            return sub.inputs[0], sub.inputs[1]
    return u, None


def softmax(v: Views, node: Node) -> list[Node] | None:
    """Exp(x - max) / ReduceSum(Exp(x - max)) over the same axes, the max optional; also times a Reciprocal."""
    a, b = node.inputs
    pairs = [(a, b)]
    if node.op == "Mul":
        inverses = [(x, v.made_by(y, "Reciprocal")) for x, y in ((a, b), (b, a))]
        pairs = [(x, r.inputs[0]) for x, r in inverses if r is not None]
    for top, bottom in pairs:
        found = _exp_sum(v, bottom)
        if found is None or found[0] is not top or not found[2] or not found[1]:
            continue
        x, _ = _unshifted(v, found[0], found[1])
        over = {"axis": found[1][0]} if len(found[1]) == 1 else {"axes": found[1]}
        return v.whole(node, "Softmax", x, **over)
    return None


def log_sum_exp(v: Views, node: Node) -> list[Node] | None:
    """max + Log(ReduceSum(Exp(x - max))) = ReduceLogSumExp(x)."""
    a, b = node.inputs
    for shift, rest in ((a, b), (b, a)):
        log = v.made_by(rest, "Log")
        found = None if log is None else _exp_sum(v, log.inputs[0])
        if found is None:
            continue
        x, best = _unshifted(v, found[0], found[1])
        if best is None or not _is_max(v, shift, best, found[1], found[2]):
            continue
        axes = v.emit.const(np.asarray(found[1], np.int64))
        return v.whole(node, "ReduceLogSumExp", x, axes, keepdims=int(found[2]))
    return None


def _is_max(v: Views, shift: Tensor | None, best: Tensor, axes: list[int], kept: bool) -> bool:
    """Whether ``shift`` is the maximum ``best``, without its reduced axes unless they are kept."""
    if kept:
        return shift is best
    squeezed = v.made_by(shift, "Squeeze", "Reshape")
    if squeezed is not None and squeezed.inputs[0] is best:
        return True
    again, first = v.made_by(shift, "ReduceMax"), v.made_by(best, "ReduceMax")
    return again is not None and first is not None and again.inputs[0] is first.inputs[0] and _axes(again) == axes


def clip_chain(v: Views, node: Node) -> list[Node] | None:
    """Chains of Clip, Relu, Min and Max with scalar constants are one Clip; so is a single Max or Min."""
    bounds = _clip_bounds(node)
    if bounds is None:
        return None
    x, low, high = bounds
    inner = v.made_by(x, "Clip", "Relu", "Min", "Max")
    deeper = None if inner is None else _clip_bounds(inner)
    if deeper is None and node.op in ("Clip", "Relu"):
        return None
    if deeper is not None:
        x, first_low, first_high = deeper
        low, high = min(max(first_low, low), high), min(max(first_high, low), high)
    limits = [v.emit.const(np.asarray(b, v.emit.dtype)) if np.isfinite(b) else None for b in (low, high)]
    return v.whole(node, "Clip", x, *limits)


def _clip_bounds(node: Node) -> tuple[Tensor, float, float] | None:
    """(x, low, high) of one node."""
    t = node.inputs[0]
    if node.op == "Relu":
        return None if t is None else (t, 0.0, np.inf)
    if node.op == "Clip":
        limits = [node.input(1), node.input(2)]
        values = [d if b is None else scalar(b) for b, d in zip(limits, (-np.inf, np.inf), strict=True)]
        if t is None or values[0] is None or values[1] is None:
            return None
        return t, values[0], values[1]
    free = [i for i in node.inputs if i is not None and not i.const]
    fixed = [i for i in node.inputs if i is not None and i.const]
    known = [n for i in fixed if (n := scalar(i)) is not None]
    rank = free[0].rank if len(free) == 1 else None
    if rank is None or not known or len(known) < len(fixed) or max(len(i.shape or ()) for i in fixed) > rank:
        return None
    return (free[0], max(known), np.inf) if node.op == "Max" else (free[0], -np.inf, min(known))


def padded_conv(v: Views, node: Node) -> list[Node] | None:
    """Zero Pads of the spatial axes in front of a Conv are that Conv's padding."""
    x = node.inputs[0]
    if x is None or x.rank is None:
        return None
    pads = _own_pads(node, x)
    if pads is None:
        return None
    source = x
    while (around := _zero_pad(v, source)) is not None:
        source, added = around
        pads = [a + b for a, b in zip(pads, added, strict=True)]
    if source is x:
        return None
    attrs = {k: a for k, a in node.attrs.items() if k != "auto_pad"}
    return v.whole(node, "Conv", source, *node.inputs[1:], **{**attrs, "pads": pads})


def _own_pads(node: Node, x: Tensor) -> list[int] | None:
    """The padding of a Conv of ``x``, if it is known: all begins, then all ends."""
    assert x.rank is not None
    n = x.rank - 2
    mode = node.attrs.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b"VALID"):
        return list(node.attrs.get("pads", [0] * (2 * n))) if mode == b"NOTSET" else [0] * (2 * n)
    weight = node.inputs[1]
    kernel = node.attrs.get("kernel_shape", None if weight is None or weight.shape is None else weight.shape[2:])
    strides, dilations = (node.attrs.get(k, [1] * n) for k in ("strides", "dilations"))
    begins, ends = [], []
    for i, size in enumerate((x.shape or ())[2:]):
        if kernel is None or not isinstance(size, int) or not isinstance(kernel[i], int):
            return None
        total = max((-(-size // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size, 0)
        less = total // 2
        begins.append(less if mode == b"SAME_UPPER" else total - less)
        ends.append(total - begins[-1])
    return begins + ends


def _zero_pad(v: Views, t: Tensor) -> tuple[Tensor, list[int]] | None:
    """(x, begins and ends of the spatial axes) of a Pad with zeros, if it pads nothing else and cuts nothing."""
    pad = v.made_by(t, "Pad")
    if pad is None or t.rank is None or pad.inputs[0] is None or pad.attrs.get("mode", b"constant") != b"constant":
        return None
    amounts, fill, listed = pad.input(1), pad.input(2), pad.input(3)
    if amounts is None or amounts.value is None or (listed is not None and listed.value is None):
        return None
    if fill is not None and (fill.value is None or fill.value.any()):
        return None
    given = range(t.rank) if listed is None or listed.value is None else listed.value.reshape(-1)
    axes = [int(a) % t.rank for a in given]
    values = [int(a) for a in amounts.value.reshape(-1)]
    around = {a: (values[i], values[i + len(axes)]) for i, a in enumerate(axes)}
    if any(around.get(a, (0, 0)) != (0, 0) for a in (0, 1)) or min(values, default=0) < 0:
        return None
    spatial = [around.get(a, (0, 0)) for a in range(2, t.rank)]
    return pad.inputs[0], [begin for begin, _ in spatial] + [end for _, end in spatial]


_BEHIND_SOFTMAX = tuple(
    "Softmax NaNGuard Cast CastLike Identity Dropout QuantizeLinear DequantizeLinear Transpose Squeeze Unsqueeze "
    "Reshape".split()
)


def nan_guard(v: Views, node: Node) -> list[Node] | None:
    """Where(IsNaN(P), 0, P) behind a Softmax is P; so is the guard of fully masked rows in the body of Attention."""
    condition, zero, kept = node.inputs
    test = v.made_by(condition, "IsNaN")
    guards = v.inside == "Attention" or (test is not None and test.inputs[0] is kept)
    if not guards or kept is None or not _is_zero(v, zero):
        return None
    source = v.made_by(kept, *_BEHIND_SOFTMAX)
    while source is not None and source.op != "Softmax":
        source = v.made_by(source.inputs[0], *_BEHIND_SOFTMAX)
    return None if source is None else v.whole(node, "NaNGuard", kept)


def _is_zero(v: Views, t: Tensor | None) -> bool:
    while (cast := v.made_by(t, "Cast", "CastLike")) is not None:
        t = cast.inputs[0]
    return t is not None and t.value is not None and not t.value.any()


FORMS: dict[str, tuple[Recogniser, ...]] = {
    "Add": (log_sum_exp,),
    "Clip": (clip_chain,),
    "Conv": (padded_conv,),
    "Div": (sigmoid, softmax),
    "Log": (log_forms,),
    "Max": (clip_chain,),
    "Min": (clip_chain,),
    "Mul": (softmax,),
    "Reciprocal": (sigmoid,),
    "Relu": (clip_chain,),
    "Where": (nan_guard,),
}
