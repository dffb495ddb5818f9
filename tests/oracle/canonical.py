"""Canonical forms: decompositions that are recognised on the graph before they are linearised.

Each matcher gets the last node of the form and returns the linearised whole, or None if the form is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .elementwise import apply, clip, elementwise, negative_softplus_of_minus
from .reductions import reduce_log_sum_exp, reduced_axes
from .softmax import log_softmax, softmax, softmax_axes
from .stream import Node, Tensor, rule
from .sums import scale
from .windows import Window

FLOAT_MAX = 3.4028234e38  # Clip-6 writes "no bound" like this


def _is_all(t: Tensor | None, value: float) -> bool:
    return t is not None and not t.is_carrier and bool((t.value == value).all())


def _made_by(n: Node, name: str, *ops: str) -> Node | None:
    p = n.producer(name)
    return p if p is not None and p.op in ops and p.domain == "" else None


def _constant_and_other(n: Node) -> tuple[Tensor, str] | None:
    """A binary node with one constant operand: it, and the name of the other."""
    for i in (0, 1):
        c, other = n.tensor(n.inputs[i]), n.inputs[1 - i]
        if not c.is_carrier and n.tensor(other).is_carrier:
            return c, other
    return None


def _minus(n: Node, name: str) -> Tensor:
    """-x for the tensor x; what is under a Neg, a product with -1 or 0 - x is taken from there (no difference)."""
    return scale(n.tensor(name), np.array(-1.0))


def _one_plus_exp(n: Node, name: str) -> Node | None:
    """The Exp node, if the tensor is 1 + Exp(u) of u's shape."""
    p = _made_by(n, name, "Add")
    found = _constant_and_other(p) if p else None
    if not found or not _is_all(found[0], 1.0) or p.tensor(found[1]).shape != n.tensor(name).shape:
        return None
    return _made_by(p, found[1], "Exp")


def sigmoid_from_exp(n: Node) -> Tensor | None:
    """c / (1 + Exp(-x)) is c Sigmoid(x); Reciprocal too (c = 1)."""
    exp = _one_plus_exp(n, n.inputs[-1])
    x = _minus(exp, exp.inputs[0]) if exp else None
    if x is None or not x.is_carrier or (n.op == "Div" and n.input(0).is_carrier):
        return None
    y = apply(n, "Sigmoid", x)
    return y if n.op == "Reciprocal" else scale(y, n.input(0).value)


def softmax_from_exp(n: Node) -> Tensor | None:
    """Exp(u) / ReduceSum(Exp(u)), as quotient or times the Reciprocal, over the same axes; u may be x - max(x)."""
    pairs = [(n.inputs[0], n.inputs[1])]
    if n.op == "Mul":
        pairs = []
        for e, r in (n.inputs, n.inputs[::-1]):
            p = _made_by(n, r, "Reciprocal")
            if p is not None:
                pairs.append((e, p.inputs[0]))
    for e, s in pairs:
        exp, total = _made_by(n, e, "Exp"), _made_by(n, s, "ReduceSum")
        if exp is None or total is None or total.inputs[0] != e or not total.attrs.get("keepdims", 1):
            continue
        axes = reduced_axes(total, total.input(0), total.input(1))
        if axes and exp.input(0).is_carrier:
            return softmax(n, _without_max(exp, exp.inputs[0], axes), axes)
    return None


def _without_max(n: Node, name: str, axes: tuple[int, ...]) -> Tensor:
    """x, if the tensor is x - ReduceMax(x) over ``axes``; else the tensor itself."""
    p = _made_by(n, name, "Sub")
    m = _made_by(p, p.inputs[1], "ReduceMax") if p else None
    if m is not None and m.inputs[0] == p.inputs[0] and m.attrs.get("keepdims", 1):
        x = m.input(0)
        if x.is_carrier and reduced_axes(m, x, m.input(1)) == axes:
            return x
    return n.tensor(name)


def of_log(n: Node) -> Tensor | None:
    """Log(Sigmoid(x)) is -Softplus(-x); Log(1 + Exp(x)) is Softplus(x); Log(Softmax(x)) is LogSoftmax(x)."""
    exp = _one_plus_exp(n, n.inputs[0])
    if exp is not None:
        return apply(n, "Softplus", exp.input(0))
    p = _made_by(n, n.inputs[0], "Sigmoid", "Div", "Reciprocal", "Softmax", "Mul")
    if p is None or not p.tensor(n.inputs[0]).is_carrier:
        return None
    if p.op == "Sigmoid":
        return negative_softplus_of_minus(n, p.input(0))
    if p.op == "Softmax":
        return log_softmax(n, p.input(0), softmax_axes(p, p.input(0)))
    if p.op in ("Div", "Reciprocal"):
        inner = _one_plus_exp(p, p.inputs[-1])
        x = _minus(inner, inner.inputs[0]) if inner else None
        if x is not None and (p.op == "Reciprocal" or _is_all(p.input(0), 1.0)):
            return negative_softplus_of_minus(n, x)
    if p.op in ("Div", "Mul") and softmax_from_exp(p) is not None:
        axes = tuple(sorted(softmax_from_exp(p).softmax_axes))
        return log_softmax(n, _softmax_source(p), axes)
    return None


def _softmax_source(p: Node) -> Tensor:
    """x of a softmax that softmax_from_exp recognised."""
    for e in p.inputs:
        exp = _made_by(p, e, "Exp")
        if exp is not None:
            axes = tuple(sorted(softmax_from_exp(p).softmax_axes))
            return _without_max(exp, exp.inputs[0], axes)
    raise AssertionError("no Exp")


def log_sum_exp(n: Node) -> Tensor | None:
    """max + Log(ReduceSum(Exp(x - max))) is ReduceLogSumExp(x)."""
    for m_name, l_name in (n.inputs, n.inputs[::-1]):
        log = _made_by(n, l_name, "Log")
        total = _made_by(log, log.inputs[0], "ReduceSum") if log else None
        exp = _made_by(total, total.inputs[0], "Exp") if total else None
        sub = _made_by(exp, exp.inputs[0], "Sub") if exp else None
        m = _made_by(sub, sub.inputs[1], "ReduceMax") if sub else None
        if m is None or m.inputs[0] != sub.inputs[0] or not m.attrs.get("keepdims", 1) or not m.input(0).is_carrier:
            continue
        x = m.input(0)
        axes = reduced_axes(m, x, m.input(1))
        keep = bool(total.attrs.get("keepdims", 1))
        if axes == reduced_axes(total, total.input(0), total.input(1)) and _same_max(n, m_name, m, x, axes, keep):
            return reduce_log_sum_exp(n, x, axes, keep)
    return None


def _same_max(n: Node, name: str, m: Node, x: Tensor, axes: tuple[int, ...], keep: bool) -> bool:
    """Is the tensor the maximum that m computes, with or without its reduced axes?"""
    if name == m.outputs[0]:
        return keep
    p = _made_by(n, name, "Squeeze", "Reshape", "ReduceMax")
    if p is None or n.tensor(name).ndim != x.ndim - (0 if keep else len(axes)):
        return False
    if p.op == "ReduceMax":
        return p.inputs[0] == m.inputs[0] and reduced_axes(p, x, p.input(1)) == axes
    return p.inputs[0] == m.outputs[0]


def softmax_behind_isnan(n: Node) -> Tensor | None:
    """Where(IsNaN(P), 0, P) behind a Softmax is P."""
    test = _made_by(n, n.inputs[0], "IsNaN")
    p = n.input(2)
    if test is None or test.inputs[0] != n.inputs[2] or not _is_all(n.input(1), 0.0) or p.softmax_axes is None:
        return None
    return p if n.tensor(n.inputs[2]).shape == np.broadcast_shapes(p.shape, n.input(1).shape) else None


def _bounds(n: Node) -> tuple[str, float, float] | None:
    """(x, lo, hi) if the node is Relu, Clip, or Max / Min of one carrier and scalar constants."""
    if n.domain or n.op not in ("Relu", "Clip", "Max", "Min"):
        return None
    if n.op == "Relu":
        return n.inputs[0], 0.0, np.inf
    if n.op == "Clip":
        limits = []
        for i, key, default in ((1, "min", -np.inf), (2, "max", np.inf)):
            t = n.input(i)
            if t is not None and t.is_carrier:
                return None
            limits.append(float(np.ravel(t.value)[0]) if t is not None else n.attrs.get(key, default))
        lo, hi = (np.copysign(np.inf, v) if abs(v) >= FLOAT_MAX else v for v in limits)
        return n.inputs[0], lo, hi
    carriers = [name for name in n.inputs if n.tensor(name).is_carrier]
    constants = [n.tensor(name).value for name in n.inputs if not n.tensor(name).is_carrier]
    if len(carriers) != 1 or not constants or any(c.size != 1 for c in constants):
        return None
    if any(c.ndim > n.tensor(carriers[0]).ndim for c in constants):
        return None
    values = [float(np.ravel(c)[0]) for c in constants]
    return (carriers[0], max(values), np.inf) if n.op == "Max" else (carriers[0], -np.inf, min(values))


def clip_chain(n: Node) -> Tensor | None:
    """Chains of Clip, Relu, Min and Max with scalar constants are one Clip from the chain's root."""
    found = _bounds(n)
    if found is None or not n.tensor(found[0]).is_carrier:
        return None
    chain = [found[1:]]
    name, here = found[0], n
    while (p := here.producer(name)) is not None and (step := _bounds(p)) is not None and n.tensor(step[0]).is_carrier:
        chain.append(step[1:])
        name, here = step[0], p
    lo, hi = -np.inf, np.inf
    for low, high in reversed(chain):
        lo, hi = min(max(lo, low), high), min(max(hi, low), high)
    x = n.tensor(name)
    rank = max(x.rank, 1) if np.isfinite(lo) and np.isfinite(hi) else x.rank
    return elementwise(n, x, clip(lo, hi), rank)


@rule("Clip")
def _clip(n: Node, *inputs: Tensor) -> Tensor:
    raise n.refuse("its bounds are carriers")


def zero_pad_in_front(n: Node, x: Tensor, w: Window) -> tuple[Tensor, Window]:
    """A zero Pad of spatial axes in front of a Conv is that Conv's padding."""
    name = n.inputs[0]
    while (p := _made_by(n, name, "Pad")) is not None and p.input(0).is_carrier:
        from .resample import pad_widths

        begin, end = pad_widths(p, p.input(0))
        fill = p.input(2)
        zero = _is_all(fill, 0.0) if fill is not None else p.attrs.get("value", 0.0) == 0
        spatial = not any(begin[:2] + end[:2]) and min(begin + end) >= 0
        if p.attrs.get("mode", "constant") != "constant" or not zero or not spatial:
            break
        name, x = p.inputs[0], p.input(0)
        w = replace(
            w,
            size=x.shape[2:],
            begin=[a + b for a, b in zip(w.begin, begin[2:], strict=True)],
            end=[a + b for a, b in zip(w.end, end[2:], strict=True)],
        )
    return x, w


CANONICAL: dict[str, list[Callable[[Node], Tensor | None]]] = {
    "Div": [sigmoid_from_exp, softmax_from_exp],
    "Reciprocal": [sigmoid_from_exp],
    "Mul": [softmax_from_exp],
    "Log": [of_log],
    "Add": [log_sum_exp],
    "Where": [softmax_behind_isnan],
    "Relu": [clip_chain],
    "Clip": [clip_chain],
    "Max": [clip_chain],
    "Min": [clip_chain],
}


def canonical(n: Node) -> Tensor | None:
    """The whole that ends in n, if any canonical form does."""
    for match in CANONICAL.get(n.op, []) if n.domain == "" else []:
        y = match(n)
        if y is not None:
            return y
    return None
