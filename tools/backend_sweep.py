"""onnx's own backend test cases, compiled: `python tools/backend_sweep.py [WORD...]`.

Every model of onnx.backend.test (the node cases, which are made here, and the data that the wheel ships) with a float
input and a float output is compiled in both rule sets: each float output is explained by each float input that leads to
it, with a drawn seed. It is run in ONNX Runtime, or in onnx's reference evaluator where that has no kernel, and held to
completeness over the whole batch and to the model's own outputs. Where a compiler needs a value that a case feeds
(axes, pads), the fed integers are stored in the model, as exporters do; opsets below 7 are raised by onnx first. Cases
that do not run themselves, or whose values float32 does not hold, are void. Prints how many are complete, constant (no
float input leads to an output through floating-point arithmetic), refused (why) or failed, each failed one by name; the
exit status is 1 if one failed. WORD: only the cases whose name contains one of these. --refused prints every case that
is not complete.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, OptionalProto, SequenceProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

import omenn_onnx
from omenn_onnx.errors import NoPath, OmennError

RULES = ("secant", "tangent")
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
BARS = {TensorProto.FLOAT16: 5e-3, TensorProto.BFLOAT16: 4e-2}
"""Of the completeness scale and of the outputs; 1e-5 for the other types."""
PREFIX = "omenn_"
KINDS = ("complete", "constant", "refused", "failed", "void")
Feeds = dict[str, Any]


@dataclass
class Case:
    """A model and values of its inputs."""

    name: str
    model: ModelProto
    feeds: Feeds


@dataclass
class Outcome:
    """What became of a case in one rule set: "complete", "constant", "refused", "failed" or "void", and why."""

    kind: str
    why: str = ""
    name: str = ""


def cases() -> Iterator[Case]:
    """The node cases, and those that the wheel ships."""
    for made in collect_testcases(None):
        if made.model is None or not made.data_sets:
            continue
        inputs, _ = made.data_sets[0]
        yield Case(made.name, raised(made.model), _named(made.model, list(inputs)))
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for shipped in load_model_tests(kind=kind):
            folder = Path(shipped.model_dir or "")
            model = onnx.load(folder / "model.onnx")
            values = []
            for i in range(len(model.graph.input)):
                path = folder / "test_data_set_0" / f"input_{i}.pb"
                if path.exists():
                    values.append(_loaded(path, model.graph.input[i].type))
            yield Case(f"{kind}/{shipped.name}", raised(model), _named(model, values))


def raised(model: ModelProto) -> ModelProto:
    """A model of opset 6 or older at opset 13, if onnx can do that."""
    if any(o.domain in ("", "ai.onnx") and o.version < 7 for o in model.opset_import):
        with contextlib.suppress(Exception):
            return onnx.version_converter.convert_version(model, 13)
    return model


def frozen(case: Case, x: str) -> Case:
    """The case with its small integer inputs stored in the model."""
    model, feeds = ModelProto.FromString(case.model.SerializeToString()), dict(case.feeds)
    for info in list(model.graph.input):
        value = feeds.get(info.name)
        small = isinstance(value, np.ndarray) and value.dtype.kind in "iub" and value.size <= 16
        if small and info.name != x:
            model.graph.input.remove(info)
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(info.name), info.name))
    return Case(case.name, model, feeds)


def _named(model: ModelProto, values: list[Any]) -> Feeds:
    held = {i.name for i in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in held or len(values) == len(model.graph.input)]
    return {n: np.asarray(v) if np.isscalar(v) else v for n, v in zip(names, values, strict=False) if v is not None}


def _loaded(path: Path, kind: Any) -> Any:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(OptionalProto.FromString(data))
    return numpy_helper.to_array(TensorProto.FromString(data))


def float_names(infos: Any) -> list[str]:
    """Float tensors among the inputs or outputs of a graph."""
    return [v.name for v in infos if v.type.tensor_type.elem_type in FLOATS]


def run(model: ModelProto, feeds: Feeds) -> dict[str, Any]:
    """All outputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        values = session.run(names, feeds)
    except Exception:  # no kernel, or an opset that it does not know yet
        evaluator = ReferenceEvaluator(model)
        names, values = evaluator.output_names, evaluator.run(None, feeds)
    return dict(zip(names, values, strict=True))


def examine(case: Case, rules: str) -> list[Outcome]:
    """What becomes of a case, for each float input that leads to a float output; nothing if it has none of either."""
    outputs = float_names(case.model.graph.output)
    shaped = [n for n in float_names(case.model.graph.input) if n in case.feeds and np.ndim(case.feeds[n]) > 0]
    found: list[Outcome] = []
    for x, y in itertools.product(shaped, outputs):
        outcome = attempt(case, x, y, rules)
        if outcome.kind in ("refused", "failed"):
            outcome = attempt(frozen(case, x), x, y, rules)
        if outcome.kind != "no path":
            outcome.name = f"{case.name} ({x} -> {y}) [{rules}]"
            found.append(outcome)
    if shaped and outputs and not found:
        return [Outcome("constant", "", f"{case.name} [{rules}]")]
    return found


def attempt(case: Case, x: str, y: str, rules: str) -> Outcome:
    """What becomes of a case with an explained input and output."""
    try:
        program = omenn_onnx.compile(case.model, inputs=x, output=y, target="seed", rules=rules, prefix=PREFIX)
    except NoPath:
        return Outcome("no path")
    except OmennError as e:
        return Outcome("failed" if "its rule failed" in str(e) else "refused", reason(e))
    except Exception as e:
        return Outcome("failed", f"compile: {type(e).__name__}: {e}")
    return completeness(case, program, x, y)


def reason(e: OmennError) -> str:
    """The part of a refusal that says why."""
    text = re.sub(r"(; rewrite it|, or accept it).*", "", str(e).split("no exact linear form: ")[-1])
    return re.sub(r"node '[^']*': ", "", text)[:150]


def completeness(case: Case, program: ModelProto, x: str, y: str) -> Outcome:
    """Runs a compiled model and holds it to score = sum(C_w * X) + sum(C_b)."""
    try:
        z = np.asarray(run(case.model, case.feeds)[y])
    except Exception as e:
        return Outcome("void", f"{type(e).__name__}: {e}")
    try:
        seed = np.random.default_rng(0).normal(size=z.shape).astype(np.float32)
        found = run(program, {**case.feeds, f"{PREFIX}seed": seed})
    except Exception as e:
        if case.name.startswith("pytorch-converted/test_PReLU"):  # onnx raises these to models that are not valid
            return Outcome("void", f"{type(e).__name__}: {e}")
        return Outcome("failed", f"run: {type(e).__name__}: {e}")
    own = np.asarray(found[y]).astype(np.float64)
    bar = BARS.get(next(v.type.tensor_type.elem_type for v in case.model.graph.output if v.name == y), 1e-5)
    if not np.allclose(own, z.astype(np.float64), rtol=bar, atol=bar, equal_nan=True):
        return Outcome("failed", f"the output {y!r} differs from the original's")
    value = np.asarray(case.feeds[x]).astype(np.float64)
    if any(not (np.abs(np.asarray(a).astype(np.float64)) < 1e30).all() for a in (value, z)):
        return Outcome("void", "not finite in float32")
    c_w, c_b, scores = (found[PREFIX + n].astype(np.float64) for n in ("C_w", "C_b", "score"))
    product, bias, score = c_w * value, c_b, float(scores.sum())
    scale = max(1.0, float(np.abs(scores).sum()), float(np.abs(product).sum()), float(np.abs(bias).sum()))
    gap = abs(score - float(product.sum()) - float(bias.sum())) / scale
    code = next(v.type.tensor_type.elem_type for v in case.model.graph.input if v.name == x)
    if not gap <= BARS.get(code, 1e-5):
        return Outcome("failed", f"residual {gap:.1e}")
    return Outcome("complete")


def main() -> int:
    """The sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*")
    parser.add_argument("--refused", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    counts: dict[str, Counter[str]] = {r: Counter() for r in RULES}
    refused: dict[str, list[str]] = defaultdict(list)
    failed: list[str] = []
    skipped, start = 0, time.monotonic()
    for case in cases():
        if options.word and not any(w in case.name for w in options.word):
            continue
        for rules in RULES:
            outcomes = examine(case, rules)
            skipped += rules == RULES[0] and not outcomes
            for outcome in outcomes:
                counts[rules][outcome.kind] += 1
                why = " ".join(outcome.why.split())
                if outcome.kind == "failed":
                    failed.append(f"{outcome.name}: {why[:300]}")
                elif outcome.kind != "complete":
                    refused[f"{outcome.kind}: {why[:150]}"].append(outcome.name)
    for why, names in sorted(refused.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):4}  {why}")
        if options.refused:
            print(*(f"              {n}" for n in names), sep="\n")
    for line in failed:
        print("FAILED", line)
    print(f"\n{'':10}" + "".join(f"{kind:>10}" for kind in KINDS))
    for rules, c in counts.items():
        print(f"{rules:10}" + "".join(f"{c[kind]:10}" for kind in KINDS))
    print(f"{skipped} cases without a float input or output left out; {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
