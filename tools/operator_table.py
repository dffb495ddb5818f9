"""The table of operators, from the registry of the calculus: docs/operators.md, and the short form in README.md.

    python tools/operator_table.py            writes both
    python tools/operator_table.py --check    fails where they are out of date

An operator is one of: ``rule`` (it has one), ``decomposition`` (taken as its ONNX function body), ``constant`` (its
output depends on no explained input through floating-point arithmetic), ``refused`` (an error when it lies on a path
from the explained input to the explained output).
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from omenn_onnx.calculus.base import CONSTANTS, RULES
from omenn_onnx.normalise.bodies import BODIES, microsoft_moves

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "operators.md", ROOT / "README.md"
BEGIN, END = "<!-- operators -->", "<!-- end operators -->"
KINDS = {
    "rule": "has a rule of its own",
    "decomposition": "taken as its ONNX function body, or as one that this project writes",
    "constant": "its output depends on no explained input through floating-point arithmetic",
    "refused": "an error on a path from the explained input to the explained output",
}
INTERNAL = {"NaNGuard"}
"""Names of recognised forms that are no operators of ONNX."""

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
    "Upsample": "deprecated: upgraded to Resize",
    "Scatter": "deprecated: as ScatterElements",
    "Constant": "a stored value",
}
NEXT = {
    "next release: recurrent": "LSTM GRU RNN",
    "next release: quantised": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul "
    "MatMulInteger ConvInteger",
    "next release: control flow": "If Loop Scan SequenceMap LinearAttention",
    "next release: sequences and optional values": "SequenceAt SequenceConstruct SequenceEmpty SequenceErase "
    "SequenceInsert SequenceLength SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement",
    "no rule yet": "BitCast CumProd DeformConv Det MaxRoiPool MaxUnpool Mod RoiAlign TensorScatter",
}
REFUSED = {op: why for why, ops in NEXT.items() for op in ops.split()}
"""Refused unless they have got a rule or a body by now."""
TREES = "piecewise constant: the exact local affine map is a constant"
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
OPENED = ("com.microsoft", "EmbedLayerNormalization")
"""Written out in the model itself (normalise/embeddings.py)."""


@dataclass(frozen=True)
class Row:
    domain: str
    op: str
    kind: str
    note: str


def rows() -> list[Row]:
    """A row for each operator of ai.onnx and ai.onnx.ml in the installed onnx, and each that this project knows."""
    schemas: dict[tuple[str, str], Any] = {}
    for s in onnx.defs.get_all_schemas_with_history():
        key = (s.domain, s.name)
        if s.domain in DOMAINS and (key not in schemas or s.since_version > schemas[key].since_version):
            schemas[key] = s
    keys = {k for k in {*RULES, *CONSTANTS, *BODIES, *schemas, OPENED} if k[0] in DOMAINS and k[1] not in INTERNAL}
    return [Row(*key, *_kind_and_note(key, schemas.get(key))) for key in sorted(keys)]


def _kind_and_note(key: tuple[str, str], schema: Any) -> tuple[str, str]:
    op = key[1]
    if key in CONSTANTS:
        return "constant", NOTES.get(op, "integers, booleans, shapes, labels, or random numbers")
    if key in RULES:
        return "rule", _note(key)
    if op.startswith("TreeEnsemble"):
        return "refused", TREES
    if key[0] == "com.microsoft" and op in microsoft_moves.REFUSED:
        return "refused", microsoft_moves.REFUSED[op]
    if key == OPENED:
        return "decomposition", "Gather, Add and LayerNormalization; the rows of its word table are what is explained"
    if key in BODIES:
        said = (BODIES[key].__doc__ or "").strip().split("\n\n")[0]
        return "decomposition", " ".join(said.split()) or "this project's own body"
    if op == "Upsample":
        return "decomposition", NOTES[op]
    if op in REFUSED:
        return "refused", REFUSED[op]
    if not any("tensor(float)" in _types(schema, i) for i in schema.inputs):
        return "constant", NOTES.get(op, "takes no floating-point tensor")
    if op in ("Range", "MelWeightMatrix"):
        return "constant", "its inputs are parameters"
    if schema.has_function or schema.has_context_dependent_function:
        return "decomposition", "its ONNX function body"
    return "refused", "no rule yet"


def _types(schema: Any, value: Any) -> set[str]:
    """The types that an input of an operator may have."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == value.type_str:
            return set(constraint.allowed_type_strs)
    return {value.type_str}


def _note(key: tuple[str, str]) -> str:
    """The first paragraph of the rule's docstring, or what holds for its family."""
    function = RULES[key]
    if key[1] in NOTES:
        return NOTES[key[1]]
    said = " ".join((function.__doc__ or "").strip().split("\n\n")[0].split())
    return said or FAMILIES.get(function.__module__.rsplit(".", 1)[-1], "as the operator of that name in ai.onnx")


def page(found: list[Row]) -> str:
    """docs/operators.md."""
    counts = ", ".join(f"{sum(r.kind == k for r in found)} {k}" for k in KINDS)
    lines = [
        "# Operators",
        "",
        f"Made by `python tools/operator_table.py` with onnx {onnx.__version__}; do not edit. {counts}.",
        "",
        *(f"- **{kind}**: {what}" for kind, what in KINDS.items()),
        "",
        "W is the coefficient that multiplies the value, o the ones stream (what biases travel on). A carrier is a",
        "tensor that the linear path goes through; everything else is a frozen weight or a constant. Without a prefix",
        "a note is about the default rules, `secant`. Functions inside a model are inlined; what is not listed here",
        "is refused.",
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
    """The table of README.md: names by kind."""
    lines = ["| | operators |", "|---|---|"]

    def line(head: str, chosen: list[Row]) -> None:
        groups = []
        for domain in DOMAINS:
            names = ", ".join(r.op for r in chosen if r.domain == domain)
            if names:
                groups.append(f"{domain}: {names}" if domain else names)
        if groups:
            lines.append(f"| {head} | {'; '.join(groups)} |")

    for kind, what in KINDS.items():
        if kind != "refused":
            line(f"**{kind}**: {what}", [r for r in found if r.kind == kind])
    refused = [r for r in found if r.kind == "refused"]
    for why in dict.fromkeys([*NEXT, *(r.note for r in refused)]):
        line(f"**refused**, {why}", [r for r in refused if r.note == why])
    return "\n".join(lines)


def own_lines(text: str) -> Iterator[str]:
    """Rows of a page that depend on this project alone: rules, own bodies, and declared constants."""
    domain = ""
    known = {*RULES, *CONSTANTS, *BODIES}
    for line in text.splitlines():
        if line.startswith("## "):
            domain = "" if line == "## ai.onnx" else line[3:]
        cells = line.split(" | ")
        if len(cells) == 3 and (domain, cells[0].removeprefix("| ")) in known:
            yield line


def replaced(readme: str, table: str) -> str:
    """``readme`` with the table between its markers."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"README.md lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def check(found: list[Row]) -> list[str]:
    """What is out of date. Where another onnx is installed than the tables were made with, it knows other operators:
    then only the rows that this project decides are compared."""
    old_page, old_readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    stale = []
    if f"with onnx {onnx.__version__};" in old_page:
        if old_page != page(found):
            stale.append(f"{PAGE.relative_to(ROOT)} is out of date")
        if old_readme != replaced(old_readme, short(found)):
            stale.append(f"{README.name} is out of date")
    elif list(own_lines(old_page)) != list(own_lines(page(found))):
        stale.append(f"{PAGE.relative_to(ROOT)} is out of date")
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
            print(f"{line}: run python tools/operator_table.py", file=sys.stderr)
        return 1 if stale else 0
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(found), encoding="utf-8")
    README.write_text(replaced(README.read_text(encoding="utf-8"), short(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
