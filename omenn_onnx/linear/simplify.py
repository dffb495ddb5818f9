"""The same linear program with less to compute."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.linear.boxes import put_off_zeros
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.channels import fold_behind, fold_in_front
from omenn_onnx.linear.folding import fold_columns, merge_sums
from omenn_onnx.linear.pools import mask_before_pools
from omenn_onnx.linear.program import Equation, Var, needed


def simplified(equations: Sequence[Equation], wanted: Collection[Var], emit: Emitter) -> list[Equation]:
    """Equations that give ``wanted`` from the same variables: those that count, without known zeros, with constant
    factors folded into matrices and masks in front of poolings. Every pass writes the program anew and leaves the
    variables who they are."""
    for rewrite in (put_off_zeros, fold_columns, fold_behind, fold_in_front, mask_before_pools, merge_sums):
        build = Builder(emit)
        rewrite(needed(equations, wanted), wanted, build)
        equations = build.equations
    return needed(equations, wanted)
