"""omenn-verify: does a compiled file keep its word? Completeness, condition number, outputs as the original's."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omenn_onnx.cli import Parser, UsageError, add_reading_options, run_cli, table
from omenn_onnx.cli.reading import batch_size, files_of, samples
from omenn_onnx.errors import ModelFileError
from omenn_onnx.runtime.engines import Engine, OrtEngine, ReferenceEngine, Results
from omenn_onnx.runtime.explainer import Explainer
from omenn_onnx.runtime.feeds import rows_of
from omenn_onnx.runtime.random_feeds import random_feeds, shapes_for, tables_of
from omenn_onnx.runtime.sessions import one_line, runtime
from omenn_onnx.runtime.targets import size_of_output
from omenn_onnx.runtime.verification import Verification, lines

WITHIN, OUTSIDE = 0, 1


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="omenn-verify",
        description=__doc__,
        epilog="Exit status: 0 within the bars, 1 outside, 2 for an error. A high condition number is a warning.",
    )
    made.add_argument("compiled", metavar="COMPILED.onnx", help="a file that omenn-compile wrote")
    made.add_argument("input", metavar="INPUT", nargs="*", type=Path, help="files or folders (default: random inputs)")
    made.add_argument("--original", metavar="MODEL.onnx", help="compare the outputs with those of this model")
    made.add_argument("--exact", action="store_true", help="for files compiled with --dtype float64: the 1e-12 bar")
    made.add_argument("--samples", type=int, default=3, metavar="N", help="random inputs to try (default: 3)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the random inputs (default: 0)")
    made.add_argument("--shape", action="append", default=[], metavar="NAME=2x3x16x16", help="of a random input")
    made.add_argument("--target", type=int, help="for files compiled with --target input")
    made.add_argument("--tolerance", type=float, metavar="T", help="completeness bar in place of the file's own")
    add_reading_options(made)
    return made


@run_cli
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_intermixed_args(argv)
    if args.samples < 1:
        raise UsageError(f"--samples must be at least 1, got {args.samples}")
    if args.tolerance is not None and not args.tolerance > 0:
        raise UsageError(f"--tolerance must be above 0, got {args.tolerance}")
    explainer = Explainer(args.compiled, engine=_engine(args))
    contract = explainer.contract
    if args.exact and contract.dtype != "float64":
        raise UsageError(f"--exact needs a file compiled with --dtype float64; this one has {contract.dtype}")
    original: Engine | None = None
    if args.original is not None:
        reference = isinstance(explainer.engine, ReferenceEngine)
        original = ReferenceEngine(args.original) if reference else OrtEngine(args.original, args.provider)
    found = Verification(contract, args.tolerance)
    if original is not None:
        found.interface(explainer.engine, original)
    tried = 0
    for feeds, where, first in _given(explainer, args) if args.input else _random(explainer, args):
        explanation = explainer(feeds, allow_nonfinite=args.allow_nonfinite)
        found.explanation(explanation, where, first)
        if original is not None:
            wanted = {i.name for i in (*original.inputs, *original.optional)}
            own = {n: v for n, v in explanation.feeds.items() if n in wanted}
            plain = None if isinstance(original, ReferenceEngine) else partial(_unoptimised, args, own)
            found.outputs(explanation.outputs, original.run(own), where, plain)
        tried += 1
    _print(found, explainer, args, tried)
    return WITHIN if found.passed else OUTSIDE


def _engine(args: Namespace) -> Engine:
    """ONNX Runtime; for --exact, where it lacks double kernels, onnx's reference evaluator."""
    try:
        return OrtEngine(args.compiled, args.provider)
    except ModelFileError as error:
        if not args.exact or "implement" not in str(error).lower():
            raise
        said = one_line(error).split(" (a float64")[0]
        print(f"omenn-verify: {said}: onnx's reference evaluator runs it, slowly", file=sys.stderr)
        return ReferenceEngine(args.compiled)


def _unoptimised(args: Namespace, feeds: Mapping[str, Any]) -> Results:
    """What the original gives without the runtime's optimisation."""
    options = runtime().SessionOptions()
    options.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return OrtEngine(args.original, args.provider, options).run(feeds)


def _given(explainer: Explainer, args: Namespace) -> Iterator[tuple[dict[str, Any], str, int]]:
    """The inputs of the files in batches: feeds, file, first row."""
    paths = files_of(args.input)
    inputs = (*explainer.engine.inputs, *explainer.engine.optional)
    for path, sample in zip(paths, samples(paths, explainer.inputs, args, explainer.contract.choosing), strict=True):
        step = batch_size(explainer, args.batch_size) or sample.rows
        for start in range(0, sample.rows, step):
            stop = min(start + step, sample.rows)
            feeds = sample.feeds
            if step < sample.rows:
                feeds = rows_of(feeds, inputs, slice(start, stop), sample.rows)
            name = explainer.contract.target_input
            if args.target is not None and name is not None:
                feeds = {**feeds, name: args.target}
            yield feeds, path.name, start


def _random(explainer: Explainer, args: Namespace) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Random inputs, each sample from a seed of its own."""
    contract, engine = explainer.contract, explainer.engine
    shapes = shapes_for(engine.inputs, dict(_shape(s) for s in args.shape))
    tables = tables_of(args.compiled)
    classes = size_of_output(contract, {o.name: o for o in engine.outputs})
    for number in range(args.samples):
        rng = np.random.default_rng([args.seed, number])
        feeds = random_feeds(engine.inputs, contract, tables, shapes, classes, rng)
        if args.target is not None and contract.target_input is not None:
            feeds[contract.target_input] = np.asarray(args.target)
        yield feeds, f"random {number}", 0


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, shape = text.rpartition("=")
    words = shape.lower().split("x") if shape else []
    if not name or not all(w.isdigit() and int(w) > 0 for w in words):
        raise UsageError(f"--shape {text!r}: not of the form NAME=2x3x16x16")
    return name, tuple(int(w) for w in words)


def _print(found: Verification, explainer: Explainer, args: Namespace, tried: int) -> None:
    contract = found.contract
    rules = f"{contract.rules} rules, {contract.dtype}"
    print(f"{contract.output}, target {contract.target.spec}, {rules}, {explainer.engine.label}")
    print(table(["check", "worst", "bar", "", "where"], lines(list(found.checks.values())), left=(0, 3, 4)))
    if args.original is None:
        print("outputs: not compared (--original MODEL.onnx compares them)")
    for check in found.checks.values():
        if not check.binding and not check.within:
            said = f"{check.name} {check.worst:.3g} is above {check.bar:.0e}: the explanation is ill-conditioned"
            print(f"omenn-verify: warning: {said}", file=sys.stderr)
    what = "input file batch(es)" if args.input else "random input(s)"
    print(f"{'within' if found.passed else 'OUTSIDE'} the bars on {tried} {what}")
