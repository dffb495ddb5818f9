"""omenn-explain: run a compiled model on real input; print the sums, write the maps and their figure."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from omenn_onnx.cli import Parser, UsageError, add_reading_options, run_cli, table
from omenn_onnx.cli.reading import batch_size, check_outputs, files_of, label_names, preprocessing, samples
from omenn_onnx.errors import TargetError
from omenn_onnx.runtime.contract import ILL_CONDITIONED
from omenn_onnx.runtime.explainer import Explainer
from omenn_onnx.runtime.explanation import Explanation
from omenn_onnx.runtime.figures import figure, target_name, write
from omenn_onnx.runtime.files import save_arrays
from omenn_onnx.runtime.maps import Relative
from omenn_onnx.runtime.prediction import predictions
from omenn_onnx.runtime.readers import Sample, baseline_from

SHOWN_LINES = 24  # of the table; the file has all rows


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="omenn-explain", description=__doc__)
    made.add_argument("compiled", metavar="COMPILED.onnx", help="a file that omenn-compile wrote")
    made.add_argument("input", metavar="INPUT", nargs="+", type=Path, help=".npz, .npy, .csv, image, or folder of them")
    made.add_argument("-o", "--output-dir", type=Path, default=Path("explanations"), help="default: explanations")
    made.add_argument("--target", help="for files compiled with --target input: 3, or 3,7 for several, or label names")
    made.add_argument("--seed", type=Path, metavar="FILE.npy", help="for files compiled with --target seed")
    made.add_argument("--labels", metavar="FILE|A,B,C", help="class names: a file with one a line, or a list")
    made.add_argument("--baseline", metavar="FILE|zero|mean", help="state the map relative to another input")
    made.add_argument("--vocabulary", type=Path, metavar="FILE", help="tokens, one a line, or JSON {token: id}")
    made.add_argument("--tokens", metavar="TEXT", help="the words to show for a text, separated by spaces")
    made.add_argument("--figures", type=int, default=8, metavar="N", help="most figures a file (default: 8)")
    made.add_argument("--no-figure", action="store_true", help="write the .npz only")
    made.add_argument("--force", action="store_true", help="overwrite existing outputs")
    add_reading_options(made)
    return made


@run_cli
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_intermixed_args(argv)
    explainer = Explainer(args.compiled, args.provider)
    paths = files_of(args.input)
    check_outputs(paths, args.output_dir, (".npz",) if args.no_figure else (".npz", ".png"), args.force)
    many = len(paths) > 1
    if not many:
        _print_contract(explainer)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(paths), unit="file", disable=not (many and sys.stderr.isatty()))
    with bar:
        for done, sample in enumerate(samples(paths, explainer.inputs, args, explainer.contract.choosing), 1):
            _explain(explainer, _described(sample, args), paths[done - 1], args, brief=many)
            bar.update()
            if many and bar.disable:
                print(f"{done}/{len(paths)} {paths[done - 1].name}", file=sys.stderr)
    return 0


def _print_contract(explainer: Explainer) -> None:
    contract = explainer.contract
    names = ", ".join(i.name for i in contract.inputs)
    rules = f"{contract.rules} rules, {contract.dtype}"
    print(f"{names} -> {contract.output}, target {contract.target.spec}, {rules}, {explainer.engine.label}")


def _explain(explainer: Explainer, sample: Sample, path: Path, args: Namespace, brief: bool) -> None:
    feeds = dict(sample.feeds)
    contract = explainer.contract
    target, seed = _target(args.target, sample), None if args.seed is None else np.load(args.seed, allow_pickle=False)
    if target is not None and contract.target_input is not None:
        feeds.pop(contract.target_input, None)
    if seed is not None and contract.seed_input is not None:
        feeds.pop(contract.seed_input, None)
    found = explainer(
        feeds, target, seed, allow_nonfinite=args.allow_nonfinite, batch_size=batch_size(explainer, args.batch_size)
    )
    baseline = None
    if args.baseline is not None:
        origin: Any = args.baseline
        if origin not in ("zero", "mean"):
            names = [i.name for i in contract.inputs]
            origin = baseline_from(Path(origin), explainer.inputs, names, preprocessing(args))
        baseline = found.relative_to(origin)
    _print(found, sample, baseline, path.name if brief else None)
    stem = args.output_dir / path.stem
    written = [save_arrays(f"{stem}.npz", found.arrays() | (baseline.arrays() if baseline else {}))]
    if not args.no_figure:
        written += _figures(found, sample, baseline, stem, args)
    if not brief:
        print("wrote " + ", ".join(str(w) for w in written))


def _described(sample: Sample, args: Namespace) -> Sample:
    """The sample with what the options say about it."""
    if args.labels is not None:
        sample = replace(sample, class_names=label_names(args.labels))
    if args.vocabulary is not None:
        sample = replace(sample, vocabulary=_vocabulary(args.vocabulary))
    for note in sample.notes:
        print(note, file=sys.stderr)
    return sample


def _vocabulary(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() != ".json":
        return text.splitlines()
    import json

    try:
        ids = {str(token): int(i) for token, i in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is not a JSON object of token: id ({error})") from error
    by_id = {i: token for token, i in ids.items()}
    return [by_id.get(i, f"#{i}") for i in range(max(by_id, default=-1) + 1)]


def _target(text: str | None, sample: Sample) -> Any:
    """``3`` for all rows, ``3,7`` as [N,K]; label names count as their index."""
    if text is None:
        return None
    found = []
    for word in (w.strip() for w in text.split(",")):
        if sample.class_names is not None and word in sample.class_names and not word.isdigit():
            found.append(sample.class_names.index(word))
        elif word.lstrip("-").isdigit():
            found.append(int(word))
        else:
            raise TargetError(f"--target {word!r} is neither an index nor one of the labels")
    return found[0] if len(found) == 1 else np.tile(np.asarray(found, np.int64), (sample.rows, 1))


def _print(found: Explanation, sample: Sample, baseline: Relative | None, file: str | None) -> None:
    """The table of sums, one line a row and target, and the warnings."""
    sums, score, target = found.sums, np.asarray(found.score), np.asarray(found.target)
    predicted = predictions(found, sample.class_names)
    total = sums.y.shape != score.shape
    shape = sums.y.shape if total else score.shape
    head = ["row", "prediction", "target", "score", "sum C_w*X", "sum C_b", "residual", "condition"]
    columns = [sums.y, sums.x, sums.b]
    if baseline is not None:
        head[6:6] = ["sum C_w*(X-X0)", "base"]
        columns += [sums.x - baseline.moved, baseline.base]
    lines = []
    for at in list(np.ndindex(shape))[:SHOWN_LINES]:
        row = "total" if total else str(at[0]) if at else "0"
        index = int(target[at]) if not total else None
        name = "" if index is None else target_name(index, sample.class_names)
        said = "" if total or not predicted else predicted[at[0] if at else 0]
        if sample.truth is not None and not total and at:
            said += f", true {_truth(sample.truth[at[0]], sample.class_names)}"
        numbers = [f"{float(c[at]):.6g}" for c in columns]
        numbers += [f"{float(found.residual[at]):.1e}", f"{float(found.condition[at]):.3g}"]
        lines.append([row, said, name, *numbers])
    if file is not None:
        tqdm.write(file, file=sys.stdout)
    tqdm.write(table(head, lines, left=(0, 1, 2)), file=sys.stdout)
    if np.size(sums.y) > SHOWN_LINES:
        tqdm.write(f"... and {np.size(sums.y) - SHOWN_LINES} more, all of them in the file", file=sys.stdout)
    for line in _warnings(found):
        tqdm.write(f"omenn-explain: warning: {line}", file=sys.stderr)


def _truth(value: Any, names: Sequence[str] | None) -> str:
    is_index = np.asarray(value).dtype.kind in "iu" and int(value) >= 0
    return target_name(int(value), names) if is_index else str(value)


def _warnings(found: Explanation) -> Iterable[str]:
    condition, relative = np.ravel(found.condition), np.ravel(found.relative_residual)
    ill = int(np.sum(~(condition <= ILL_CONDITIONED)))
    if ill:
        worst = float(np.max(condition))
        yield f"{ill} explanation(s) are ill-conditioned: condition number {worst:.3g} is above {ILL_CONDITIONED:.0e}"
    open_ = int(np.sum(~(relative <= found.contract.bar)))
    if open_:
        yield (
            f"{open_} explanation(s) do not add up: relative residual {float(np.max(relative)):.1e} is above "
            f"{found.contract.bar:.0e} (omenn-verify tells more)"
        )
    if found.opaque_share is not None:
        ops = ", ".join(found.contract.opaque)
        yield f"opaque operators ({ops}) hold {float(np.max(np.abs(found.opaque_share))):.3g} of the score at most"


def _figures(found: Explanation, sample: Sample, baseline: Relative | None, stem: Path, args: Namespace) -> list[Path]:
    """NAME.png for the first row, NAME-1.png ... for the others; with several explained inputs NAME-INPUT.png too."""
    inputs = found.contract.inputs
    rows = range(min(max(args.figures, 0), sample.rows))
    written = []
    for row in rows:
        for number, part in enumerate(inputs):
            end = ("" if row == 0 else f"-{row}") + ("" if number == 0 else "-" + part.name.replace("/", "_"))
            title = f"{sample.name}" + (f", row {row}" if sample.rows > 1 else "")
            if len(inputs) > 1:
                title += f": {part.name}"
            made = figure(
                found, row, labels=sample.class_names, feature_names=sample.feature_names if number == 0 else None,
                vocabulary=sample.vocabulary, tokens=None if args.tokens is None else args.tokens.split(),
                picture=sample.picture if number == 0 else None, title=title, name=part.name, baseline=baseline,
            )  # fmt: skip
            path = Path(f"{stem}{end}.png")
            write(made, path)
            written.append(path)
    return written
