"""The simplified adjoint program gives what the program itself gives, and is smaller where it ought to be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from explaining import assert_close, assert_complete, compiled, explain
from random_patterns import Boxes, Channels, Columns, Groups
from random_programs import Maker, Model, Program
from small_networks import CLASSES, NETWORKS, WIDTH, transformer

from omenn_onnx import compiler, linearise
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.files import load_model
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.boxes import put_off_zeros
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.channels import fold_behind, fold_in_front
from omenn_onnx.linear.folding import fold_columns, merge_sums
from omenn_onnx.linear.groups import group_channels
from omenn_onnx.linear.program import Equation, Var, needed
from omenn_onnx.linear.simplify import simplified
from omenn_onnx.linear.uses import Uses

MODELS = Path(__file__).parents[1] / "models"
PROGRAMS = 200
"""How many random programs one ONNX model holds."""

Pass = Callable[[Sequence[Equation], Collection[Var], Builder], None]


def passes(*rewrites: Pass) -> Callable[[Sequence[Equation], list[Var], Emitter], list[Equation]]:
    """The passes one after the other, as :func:`simplified` runs them."""

    def rewrite(equations: Sequence[Equation], wanted: list[Var], emit: Emitter) -> list[Equation]:
        for one in rewrites:
            build = Builder(emit)
            one(needed(equations, wanted), wanted, build)
            equations = build.equations
        return needed(equations, wanted)

    return rewrite


# name, programs, passes, the share of programs that should come out other than they went in
PATTERNS: list[tuple[str, type[Maker], Any, float]] = [
    ("zeros", Boxes, passes(put_off_zeros), 0.5),
    ("zeros-all", Boxes, simplified, 0.5),
    ("columns", Columns, passes(fold_columns), 0.2),
    ("sums", Columns, passes(fold_columns, merge_sums), 0.2),
    ("columns-all", Columns, simplified, 0.2),
    ("behind", Channels, passes(fold_behind), 0.05),
    ("in-front", Channels, passes(fold_in_front), 0.1),
    ("channels-all", Channels, simplified, 0.2),
    ("groups", Groups, passes(group_channels), 0.1),
]


@pytest.mark.parametrize(("name", "kind", "rewrite", "share"), PATTERNS, ids=[p[0] for p in PATTERNS])
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(name: str, kind: type[Maker], rewrite: Any, share: float, seed: int) -> None:
    """Programs with several wanted variables, symbolic sizes and targets, as they are and rewritten."""
    model, changed = Model(np.random.default_rng(seed)), 0
    for _ in range(PROGRAMS):
        program = kind(model).grow(12)
        if program is not None:
            before = [(type(e.primitive), e.inputs, e.out) for e in needed(program.equations, program.wanted)]
            after = model.add(program, rewrite)
            changed += before != [(type(e.primitive), e.inputs, e.out) for e in after]
    model.check()
    assert changed >= share * PROGRAMS


def repeated(make: Maker, front: Any, sizes: Sequence[int], rows: Any = "N") -> Var:
    """One channel repeated, for each of ``sizes``, side by side."""
    parts = [make.put(lp.Broadcast(), [make.leaf((front, 1, 4))], (rows, n, 4)) for n in sizes]
    return make.put(lp.Concat(1), parts, (rows, sum(sizes), 4))


def other_sizes(make: Maker) -> Var:
    """Boxes at the same place that cannot be joined as boxes."""
    parts = [make.put(lp.Embed((0, 0)), [make.leaf((n, 3))], (6, 3)) for n in (1, 2)]
    return make.put(lp.Concat(1), parts, (6, 6))


def nothing(make: Maker) -> Var:
    """A box of no elements."""
    x = make.put(lp.Embed((0, 0)), [make.leaf((0, 1))], (1, 1))
    return make.put(lp.Reshape(), [x], (1,))


def merged_rows(make: Maker) -> Var:
    """A mean over the rows that a batch was merged with."""
    x = make.put(lp.Embed((0, 2, 0)), [make.leaf((3, 1, 4))], (3, 5, 4))
    return make.put(lp.Centre((0,)), [make.put(lp.Reshape(), [x], (15, 4))], (15, 4))


def other_groups(make: Maker) -> Var:
    return make.put(lp.Add(), [repeated(make, "N", (2, 3)), repeated(make, "N", (3, 2))], ("N", 5, 4))


def over_rows(make: Maker) -> Var:
    return make.put(lp.Sum(), [repeated(make, "N", (2, 3))], (1, 1, 4))


def over_repeated_rows(make: Maker) -> Var:
    return make.put(lp.Sum(), [repeated(make, 1, (2, 3))], (1, 1, 4))


def places_differ(make: Maker) -> Var:
    """Groups of which one has a value for each position, the other one for all."""
    parts = [make.put(lp.Broadcast(), [make.leaf(("N", 1, d))], ("N", 2, 4)) for d in (1, 4)]
    return make.put(lp.Sum(), [make.put(lp.Concat(1), parts, ("N", 4, 4))], ("N", 1, 1))


BOXED, GROUPED = passes(put_off_zeros), passes(group_channels)
NEAR_MISSES = {
    other_sizes: BOXED, nothing: BOXED, merged_rows: BOXED,
    other_groups: GROUPED, over_rows: GROUPED, over_repeated_rows: GROUPED, places_differ: GROUPED,
}  # fmt: skip


@pytest.mark.parametrize("lead", [None, 2])
@pytest.mark.parametrize("build", NEAR_MISSES, ids=lambda f: f.__name__)
def test_near_misses(build: Callable[[Maker], Var], lead: int | None) -> None:
    model = Model(np.random.default_rng(3))
    make = Maker(model)
    y = build(make)
    model.add(Program(build.__name__, make.build.equations, [y], make.leaves, lead), NEAR_MISSES[build])
    model.check()


# Whole networks


def target_feeds(target: str, rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    if target == "seed":
        return {"seed": random.standard_normal((rows, CLASSES)).astype(np.float32)}
    shapes = {"input": (rows,), "input:3": (rows, 3), "input:K": (rows, 2)}
    return {"target": random.integers(CLASSES, size=shapes[target])} if target in shapes else {}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., onnx.ModelProto]:
    """Compiles with nothing simplified: no pass, no rows looked up, targets as an axis."""

    def compile_plainly(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        with monkeypatch.context() as m:
            m.setattr(compiler, "simplified", lambda equations, wanted, emit: needed(equations, wanted))
            m.setattr(compiler, "look_up", lambda low, equations, seed, places: list(equations))
            m.setattr(compiler, "_one_by_one", lambda equations, count: False)
            m.setattr(linearise, "group_channels", lambda equations, wanted, build: build.equations.extend(equations))
            return compiled(model, **options)

    return compile_plainly


ALL_TARGETS = ("argmax", "input", "input:3", "input:K", "top:2", "3-6", "1,4,2-5", "seed", "class:1")
TARGETS = {"secant": ALL_TARGETS, "tangent": ("input:K", "top:2")}


@pytest.mark.parametrize("rules", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, rules: str, plain: Callable[..., onnx.ModelProto]) -> None:
    """The maps are those of the program that nothing was done to."""
    model, feeds = NETWORKS[name]()
    for target in TARGETS[rules]:
        given = {**feeds, **target_feeds(target, feeds["x"].shape[0])}
        expected = explain(plain(model, target=target, rules=rules), given, optimise=False)
        result = explain(compiled(model, target=target, rules=rules), given)
        np.testing.assert_array_equal(result.target, expected.target)
        assert_close(result.score, expected.score, 1e-5, f"{target}: score")
        assert_close(result.c_w[0], expected.c_w[0], 2e-5, f"{target}: C_w")
        assert_close(result.c_b[0], expected.c_b[0], 2e-5, f"{target}: C_b")
        assert result.residual(by_row="pooled" not in name) <= 1e-5
        if "pooled" not in name:
            assert_complete(result)


# What it is for


@pytest.fixture
def adjoint(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Equation], onnx.ModelProto]]:
    """Compiles, and gives the simplified adjoint program too."""

    def of(model: Any, **options: Any) -> tuple[list[Equation], onnx.ModelProto]:
        found: list[list[Equation]] = []

        def kept(*given: Any) -> list[Equation]:
            found.append(simplified(*given))
            return found[-1]

        with monkeypatch.context() as m:
            m.setattr(compiler, "simplified", kept)
            proto = compiled(model, **options)
        return found[0], proto

    return of


def products(equations: Sequence[Equation]) -> list[tuple[lp.MatMul, Var]]:
    return [(e.primitive, e.inputs[0]) for e in equations if isinstance(e.primitive, lp.MatMul)]


@pytest.mark.parametrize("source", ["digits_vit.onnx", "split", "gather"])
def test_last_block(source: str, adjoint: Any) -> None:
    """Behind the class token's row the last block has one row, up to the values of its attention, and the products
    with joint weights are with the columns of the values alone."""
    file = source.endswith(".onnx")
    model = str(MODELS / source) if file else transformer("N", joint=source)[0]
    blocks, tokens, width = (3, 17, 48) if file else (2, 5, WIDTH)
    equations, proto = adjoint(model)
    weighted = [x for p, x in products(equations) if not p.left and x.rank == 3]
    own = 4 * blocks  # (two of the MLP, the output projection, the values)
    assert [x.shape[1] for x in weighted[:own]] == [1, 1, 1, tokens] + [tokens] * (own - 4)
    assert all(x.shape[2] <= 2 * width for x in weighted), "a product with all of the joint weights"
    mixed = [x for p, x in products(equations) if p.left]  # (values and ones)
    assert [x.shape[-2] for x in mixed] == [1, 1] + [tokens] * (2 * blocks - 2)
    assert "Equal" not in {n.op_type for n in proto.graph.node}, "the seed is not looked up"


@pytest.mark.parametrize("name", ["transformer-at", "transformer-at-1"])
def test_row_at_run_time(name: str, adjoint: Any) -> None:
    """So it is where only the run tells which row the head reads."""
    equations, _ = adjoint(NETWORKS[name]()[0])
    assert [x.shape[1] for p, x in products(equations) if not p.left and x.rank == 3][:3] == [1, 1, 1]


@pytest.mark.parametrize(("name", "groups"), [("densenet", [2, 3, 4]), ("inception", [3, 3])])
def test_thin_ones(name: str, groups: list[int]) -> None:
    """Behind a concatenation the ones have as many channels as it has parts."""
    found = linearise.linearise(load_model(NETWORKS[name]()[0]))
    z = found.calculus.pairs[found.output]
    joined = [e for e in needed(found.equations, [z.value, z.ones]) if isinstance(e.primitive, lp.Concat)]
    thin = [e.out.shape[1] for e in joined if all(d.shape[1] == 1 or d.shape[1] in groups for d in e.inputs)]
    assert len(joined) == 2 * len(groups)
    assert [n for n in thin if n in groups][: len(groups)] == groups


def factors(equations: Sequence[Equation]) -> int:
    """How many constant factors of channels are more than the terms of a sum (the bias)."""
    readers = Uses(equations, ())
    return sum(
        isinstance(e.primitive, lp.Scale)
        and e.out.rank == 4
        and e.primitive.coefficient.const
        and e.primitive.coefficient.shape == (e.out.shape[1], 1, 1)
        and any(not isinstance(r.primitive, lp.Sum) for r in readers.of(e.out))
        for e in equations
    )


@pytest.mark.parametrize(("name", "left"), [("densenet", 1), ("densenet-1-zero", 4), ("pre_activation", 3)])
def test_factors_in_kernels(name: str, left: int, adjoint: Any) -> None:
    """The gains of norms are factors of no image any more, but for the last one (behind a pooling, not a convolution),
    those with a 0, and those beside grouped convolutions."""
    equations, _ = adjoint(NETWORKS[name]()[0])
    assert factors(equations) == left
