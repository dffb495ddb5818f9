"""Masks go to the small side of a pooling."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from omenn_onnx.graph.ir import Tensor
from omenn_onnx.graph.zeros import is_zero
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Var
from omenn_onnx.linear.uses import Uses


def mask_before_pools(equations: Sequence[Equation], wanted: Collection[Var], build: Builder) -> None:
    """Write ``equations`` again into ``build``: what is put back to the maxima y of windows of x, and kept where x > 0,
    is what y > 0 keeps of it, put back."""
    uses = Uses(equations, wanted)
    put_back: dict[Var, Equation] = {}
    for e in equations:
        build.owner = e.owner
        p = e.primitive
        reader = uses.only(e.out)
        if isinstance(p, lp.Winners) and reader is not None and tested(reader.primitive) is p.pooled:
            put_back[e.out] = e
            continue
        before = put_back.get(e.inputs[0]) if e.inputs else None
        if before is None:
            build.write(p, e.inputs, e.out, e.bias)
            continue
        pool = before.primitive
        assert isinstance(pool, lp.Winners)
        mask = build.emit.op("Greater", pool.best, 0.0, shape=pool.best.shape)
        build.write(pool, [build.select(before.inputs[0], mask)], e.out)


def tested(p: lp.Primitive) -> Tensor | None:
    """x of a mask x > 0."""
    node = p.mask.producer if isinstance(p, lp.Select) else None
    if node is None or node.op != "Greater":
        return None
    x, bound = node.inputs
    return x if bound is not None and is_zero(bound) else None
