"""The table of operators, from the registries that the compiler reads: docs/operators.md, and in short in README.md.

    python tools/operator_table.py            writes both
    python tools/operator_table.py --check    fails where they are out of date, or where the installed onnx or
                                              ONNX Runtime has an operator that nobody has decided, by name

An operator is one of: ``rule`` (it has one), ``decomposition`` (taken as a few other operators), ``constant`` (its
output depends on no explained input through floating-point arithmetic), ``refused`` (an error when it lies on a path
from the explained input to the explained output). The rows are those that are decided here, whatever is installed.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from omenn_onnx import linearise  # noqa: F401  (registers all rules)
from omenn_onnx.calculus.base import CONSTANTS, RULES
from omenn_onnx.normalise.bodies import BODIES, REFUSED

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "operators.md", ROOT / "README.md"
BEGIN, END = "<!-- operators -->", "<!-- end operators -->"
KINDS = {
    "rule": "has a rule of its own",
    "decomposition": "taken as its ONNX function body, or as other operators that this project writes",
    "constant": "its output depends on no explained input through floating-point arithmetic",
    "refused": "an error on a path from the explained input to the explained output",
}
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
INTERNAL = {"NaNGuard"}
"""Names of recognised forms that are no operators of ONNX."""

Key = tuple[str, str]
FUNCTIONS = {
    ("", op)
    for op in "Attention CausalConvWithState CenterCropPad LinearAttention NegativeLogLikelihoodLoss Range "
    "RotaryEmbedding SoftmaxCrossEntropyLoss SwiGLU".split()
}
"""Operators without a rule or a body of ours whose ONNX function body the calculus knows."""
PASSES: dict[Key, str] = {
    ("", "Upsample"): "deprecated: upgraded to Resize",
    ("com.microsoft", "QEmbedLayerNormalization"): "its tables dequantised, then as EmbedLayerNormalization",
    ("com.microsoft", "EmbedLayerNormalization"): "Gather, Add and LayerNormalization; the rows of its word table are "
    "what is explained",
    **{
        ("", op): "what reads the sequence or optional reads its elements; its structure must be known at compile time"
        for op in "ConcatFromSequence Optional OptionalGetElement SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceMap SplitToSequence".split()
    },
}
"""Operators that a pass of its own takes apart."""
NOT_FLOAT: dict[Key, str] = {
    ("", "Constant"): "a stored value",
    ("", "MelWeightMatrix"): "its inputs are parameters",
    **{("", op): "gives an integer or a boolean" for op in "OptionalHasElement SequenceLength".split()},
    **{
        ("", op): "takes no floating-point tensor"
        for op in "BlackmanWindow HammingWindow HannWindow ImageDecoder RandomNormal RandomUniform RegexFullMatch "
        "StringConcat StringNormalizer StringSplit TfIdfVectorizer".split()
    },
}
"""Operators that carry nothing by the types of their inputs and outputs."""

FAMILIES = {
    "elementwise": "elementwise: W = (f(x) - f(0)) / x, f(0) to the bias; tangent: f'(x)",
    "shape_ops": "the same on values and ones",
    "indexing": "the same on values and ones",
}
NOTES = {
    "Add": "the sum; ones: the mean of the carriers' ones",
    "Sub": "the difference; ones: the mean of the carriers' ones",
    "Sum": "the sum; ones: the mean of the carriers' ones",
    "Mul": "the operand of higher gate rank is the weight; equal ranks: half and half. tangent: both carry",
    "ReduceMean": "linear; ones: the mean over the reduced axes",
    "ReduceSum": "linear; ones: the mean over the reduced axes",
    "GlobalAveragePool": "linear; ones: the mean over all positions",
    "GlobalLpPool": "as LpPool, over all positions",
    "InstanceNormalization": "centred: (x - mean x) / std with 1/std a weight; ones: half and half with their mean",
    "Softmax": "exp(z) / Z with Z a weight; behind a product it is the weight itself",
    "DFT": "a contraction over the axis and over real and imaginary parts",
    "Scatter": "deprecated: as ScatterElements",
    "Range": "its ONNX function body; of integers a constant",
    "If": "at run time the rule of the branch that is taken; where that is known at compile time, its nodes",
}


@dataclass(frozen=True)
class Row:
    domain: str
    op: str
    kind: str
    note: str


def rows() -> list[Row]:
    """A row for each operator that is decided."""
    known = {*RULES, *CONSTANTS, *BODIES, *REFUSED, *FUNCTIONS, *PASSES, *NOT_FLOAT}
    return [Row(*key, *_kind_and_note(key)) for key in sorted(known) if key[0] in DOMAINS and key[1] not in INTERNAL]


def _kind_and_note(key: Key) -> tuple[str, str]:
    """In the order in which the compiler asks."""
    if key in CONSTANTS:
        return "constant", NOTES.get(key[1], "integers, booleans, shapes, labels, or random numbers")
    if key in RULES:
        return "rule", _rule_note(key)
    if key in REFUSED:
        return "refused", REFUSED[key]
    if key in BODIES:
        return "decomposition", _first_paragraph(BODIES[key].__doc__) or "this project's own body"
    if key in PASSES:
        return "decomposition", PASSES[key]
    if key in FUNCTIONS:
        return "decomposition", NOTES.get(key[1], "its ONNX function body")
    return "constant", NOT_FLOAT[key]


def _rule_note(key: Key) -> str:
    """The first paragraph of the rule's docstring, or what holds for its family."""
    function = RULES[key]
    if key[1] in NOTES:
        return NOTES[key[1]]
    family = FAMILIES.get(function.__module__.rsplit(".", 1)[-1], "as the operator of that name in ai.onnx")
    return _first_paragraph(function.__doc__) or family


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def installed() -> set[Key]:
    """Every operator of the three domains that the installed onnx and ONNX Runtime have, of any opset. What ONNX
    Runtime alone has in ai.onnx is not ONNX."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime  # (the table itself needs no runtime)

    schemas = [*onnx.defs.get_all_schemas_with_history()]
    schemas += [s for s in runtime.get_all_operator_schema() if s.domain]
    return {(s.domain, s.name) for s in schemas if s.domain in DOMAINS}


def undecided(found: Iterable[Row]) -> list[str]:
    """Installed operators without a row."""
    decided = {(r.domain, r.op) for r in found}
    return [f"{d or 'ai.onnx'}.{op}" for d, op in sorted(installed() - decided)]


def page(found: list[Row]) -> str:
    """docs/operators.md."""
    counts = ", ".join(f"{sum(r.kind == k for r in found)} {k}" for k in KINDS)
    lines = [
        "# Operators",
        "",
        f"Made by `python tools/operator_table.py`; do not edit. {counts}.",
        "",
        *(f"- **{kind}**: {what}" for kind, what in KINDS.items()),
        "",
        "W is the coefficient that multiplies the value, o the ones stream (what biases travel on). A carrier is a",
        "tensor that the linear path goes through; everything else is a frozen weight or a constant. Without a prefix",
        "a note is about the default rules, `secant`. Functions inside a model are inlined; what is not listed here",
        "is refused. A test holds the table against the installed onnx and ONNX Runtime: an operator that they have",
        "and that is not here fails it, by name.",
    ]
    for domain in DOMAINS:
        lines += ["", f"## {domain or 'ai.onnx'}", "", "| operator | | note |", "|---|---|---|"]
        lines += [f"| {r.op} | {r.kind} | {_cell(r.note)} |" for r in found if r.domain == domain]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    for character in "\\|*_<>":
        text = text.replace(character, "\\" + character)
    return text


def short(found: list[Row]) -> str:
    """The table of README.md: how many operators of a domain work, and which are refused, with the reason."""
    lines = ["| | |", "|---|---|"]
    for domain in DOMAINS:
        own = [r for r in found if r.domain == domain]
        counts = {k: sum(r.kind == k for r in own) for k in KINDS}
        parts = [f"{counts[k]} {what}" for k, what in _SHORT.items() if counts[k]]
        head = f"{domain or 'ai.onnx'}{'' if domain else ', opset 7 and newer'}"
        works = len(own) - counts["refused"]
        lines.append(f"| **{head}** | {works} operators work, all but those below: {', '.join(parts)} |")
    for domain in DOMAINS:
        refused: dict[str, list[str]] = {}
        for r in found:
            if r.domain == domain and r.kind == "refused":
                refused.setdefault(r.note, []).append(r.op)
        head = f"{domain}: " if domain else ""
        lines += [f"| refused: {head}{', '.join(ops)} | {_cell(why)} |" for why, ops in refused.items()]
    return "\n".join(lines)


_SHORT = {"rule": "by a rule of their own", "decomposition": "by decomposition", "constant": "constants"}


def replaced(readme: str, table: str) -> str:
    """``readme`` with the table between its markers."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"README.md lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def check(found: list[Row]) -> list[str]:
    """What is out of date."""
    old_page, old_readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    stale = []
    if old_page != page(found):
        stale.append(f"{PAGE.relative_to(ROOT)} is out of date: run python tools/operator_table.py")
    if old_readme != replaced(old_readme, short(found)):
        stale.append(f"{README.name} is out of date: run python tools/operator_table.py")
    unknown = undecided(found)
    if unknown:
        stale.append(
            f"the installed onnx {onnx.__version__} or ONNX Runtime has operators that nobody has decided: "
            f"{', '.join(unknown)}. Give each a rule, a body, or a refusal with its reason"
        )
    return stale


def main(argv: list[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__).splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the tables are out of date")
    args = parser.parse_args(argv)
    found = rows()
    if args.check:
        stale = check(found)
        for line in stale:
            print(line, file=sys.stderr)
        return 1 if stale else 0
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(found), encoding="utf-8")
    README.write_text(replaced(README.read_text(encoding="utf-8"), short(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
