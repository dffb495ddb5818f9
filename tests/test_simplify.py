"""The simplified adjoint program gives what the program itself gives, and is smaller where it ought to be."""

from __future__ import annotations

import numpy as np
import pytest

from omenn_onnx.linear.boxes import put_off_zeros
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import needed
from omenn_onnx.linear.simplify import simplified

from random_programs import Maker, Model

MOVES = "reshape permute slice embed concat gather scatter_add cumsum".split()
ALL = ["scale", "select", "add", "twin", "broadcast", "sum", "centre", "matmul", "matmul", "einsum", "conv", "window_sum", *MOVES]


def _put_off(equations, wanted, emit):
    build = Builder(emit)
    put_off_zeros(equations, wanted, build)
    return build.equations


@pytest.mark.parametrize("rewrite", [_put_off, simplified], ids=["zeros", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_boxes(seed, rewrite) -> None:
    """Random programs that begin with boxes in zeros."""
    model = Model(np.random.default_rng(seed))
    for _ in range(100):
        make = Maker(model)
        rank = int(make.rng.integers(1, 6))
        whole = tuple(make.pick([1, 2, 3, 4, 6, 6, "N", "T"]) for _ in range(rank))
        first = make.box(whole)
        make.pool.append(first) if first not in make.pool else None
        for _ in range(int(make.rng.integers(3))):
            make.pool.append(make.box(whole, first.definition))
        for _ in range(int(make.rng.integers(2, 9))):
            make.step(ALL)
        if make.build.equations:
            model.add(make.finished(), rewrite)
    model.check()
