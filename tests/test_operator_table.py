"""The operator tables of docs/ and README.md: what the registries say, nothing undecided, what the compiler does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from explaining import Result, assert_complete, evaluate, explain, run
from microsoft_decoders import DECODERS, WITHOUT_KERNEL
from onnx import helper, parser
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from test_microsoft import ATTENTION, NUMPY, PLAIN
from test_quantised import KERNELS
from test_quantised import WITHOUT_KERNEL as QUANTISED

import omenn_onnx
from omenn_onnx.calculus.base import CONSTANTS, RULES
from omenn_onnx.errors import UnsupportedOperators
from omenn_onnx.normalise.bodies import BODIES, REFUSED

TOOL = Path(__file__).resolve().parents[1] / "tools" / "operator_table.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operator_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load()
ROWS = tool.rows()
"""All rows."""
SCHEMAS: dict[tuple[str, str], Any] = {(s.domain, s.name): s for s in runtime.get_all_operator_schema()}
SCHEMAS |= {(s.domain, s.name): s for s in onnx.defs.get_all_schemas()}


def of_kind(kind: str) -> list[tuple[str, str]]:
    return [(r.domain, r.op) for r in ROWS if r.kind == kind]


# The tables


def test_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    status = tool.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_every_installed_operator_is_decided() -> None:
    """An operator of ai.onnx, ai.onnx.ml or com.microsoft in the installed onnx or ONNX Runtime that has no row."""
    unknown = tool.undecided(ROWS)
    assert not unknown, f"decide in omenn_onnx/calculus or omenn_onnx/normalise/bodies: {', '.join(unknown)}"


def test_an_unknown_operator_fails_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    new = {("", "Frobnicate"), ("com.microsoft", "FusedFrobnicate")}
    was = tool.installed()
    monkeypatch.setattr(tool, "installed", lambda: was | new)
    assert tool.undecided(ROWS) == ["ai.onnx.Frobnicate", "com.microsoft.FusedFrobnicate"]
    assert tool.main(["--check"]) == 1
    assert "ai.onnx.Frobnicate, com.microsoft.FusedFrobnicate" in capsys.readouterr().err


def test_an_older_onnx_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are those that are decided, not those that are installed."""
    some = {key for key in tool.installed() if key[1] < "M"}
    monkeypatch.setattr(tool, "installed", lambda: some)
    assert tool.main(["--check"]) == 0


def test_every_operator_has_one_row_and_a_note() -> None:
    assert len({(r.domain, r.op) for r in ROWS}) == len(ROWS)
    assert {r.kind for r in ROWS} == set(tool.KINDS)
    assert not [r.op for r in ROWS if not r.note]
    assert {op for d, op in RULES if d == ""} - {r.op for r in ROWS if r.domain == ""} == tool.INTERNAL


def test_no_operator_is_decided_twice() -> None:
    """But the rules that have a decomposition behind them for what they do not take."""
    parts = [set(RULES), CONSTANTS, set(BODIES), set(REFUSED), tool.FUNCTIONS, set(tool.PASSES), set(tool.NOT_FLOAT)]
    seen: set[tuple[str, str]] = set()
    for part in parts:
        assert not seen & part
        seen |= part


def test_check_sees_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "README"):
        copy = tmp_path / getattr(tool, name).name
        copy.write_text(getattr(tool, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(tool, name, copy)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(["--check"]) == 0
    tool.PAGE.write_text(tool.PAGE.read_text(encoding="utf-8").replace("| Conv | rule |", "| Conv | refused |"))
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0


# What the compiler does


DRAWN: dict[tuple[str, str], str] = {
    ("", "Det"): "(float[2,3,3] x) => (float[2] z) { z = Det(x) }",
    ("", "MaxRoiPool"): "(float[1,2,6,6] x) => (float[1,2,2,2] z) <float[1,5] r = {0, 0, 0, 3, 3}> "
    "{ z = MaxRoiPool<pooled_shape=[2,2]>(x, r) }",
    ("com.microsoft", "RelativePositionBias"): "(float[4,2] x) => (float[1,2,3,3] z) <int64 n = {3}> "
    "{ z = com.microsoft.RelativePositionBias<max_distance=8>(x, n, n) }",
    (
        "com.microsoft",
        "MatMulBnb4",
    ): "(float[2,4] x) => (float[2,3] z) <uint8[6] w = {0, 0, 0, 0, 0, 0}, float[1] a = {1}> "
    "{ z = com.microsoft.MatMulBnb4<K=4, N=3, block_size=16, quant_type=1>(x, w, a) }",
    ("ai.onnx.ml", "TreeEnsemble"): "(float[2,3] x) => (float[2,1] z) { z = ai.onnx.ml.TreeEnsemble<n_targets=1, "
    "tree_roots=[0], nodes_featureids=[0], nodes_splits=float[1] {0.5}, nodes_modes=uint8[1] {0}, "
    "nodes_truenodeids=[0], nodes_falsenodeids=[0], nodes_trueleafs=[1], nodes_falseleafs=[1], leaf_targetids=[0], "
    "leaf_weights=float[1] {1.0}>(x) }",
    **{
        ("ai.onnx.ml", f"TreeEnsemble{kind}"): f"(float[2,3] x) => (float[2,1] z) {{ {result} = "
        f"ai.onnx.ml.TreeEnsemble{kind}<{labels}>(x) }}"
        for kind, result, labels in (
            ("Classifier", "l, z", "classlabels_int64s=[0]"),
            ("Regressor", "z", "n_targets=1"),
        )
    },
}
"""Refused operators whose operands must fit one another."""


def text_model(text: str, opset: int = 20, domain: str = "") -> onnx.ModelProto:
    """A model of one graph, as text."""
    imports = f'"" : {opset}' + (
        f', "{domain}" : {5 if "TreeEnsemble<" in text else SCHEMAS_VERSION[domain]}' if domain else ""
    )
    return parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> g {text}")


SCHEMAS_VERSION = {"ai.onnx.ml": 3, "com.microsoft": 1}


def one_node(key: tuple[str, str]) -> onnx.ModelProto:
    """One node of an operator on float inputs, as many as it must have, with its required attributes: whatever these
    mean, since it is to be refused by its name."""
    if key in DRAWN:
        return text_model(DRAWN[key], domain=key[0])
    domain, op = key
    schema = SCHEMAS[key]
    values = {"INT": 1, "INTS": [1, 1], "FLOAT": 1.0, "FLOATS": [1.0], "STRING": "a", "STRINGS": ["a"]}
    values["TENSOR"] = helper.make_tensor("t", 1, [1], [1.0])
    info = [helper.make_tensor_value_info(n, 1, [2, 2]) for n in "ef"]
    values["GRAPH"] = helper.make_graph([helper.make_node("Tanh", ["e"], ["f"])], "body", info[:1], info[1:])
    attrs = {n: values[str(a.type).rpartition(".")[2]] for n, a in schema.attributes.items() if a.required}
    inputs = [helper.make_tensor_value_info(f"x{k}", 1, [2, 2]) for k in range(max(1, schema.min_input))]
    outputs = ["z", "z2"][: max(1, schema.min_output)]
    node = helper.make_node(op, [i.name for i in inputs], outputs, name="node", domain=domain, **attrs)
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("z", 1, [2, 2])])
    opsets = [helper.make_opsetid("", 20 if domain else max(20, schema.since_version))]
    opsets += [helper.make_opsetid(domain, max(1, schema.since_version))] if domain else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("key", [k for k in of_kind("refused") if k in SCHEMAS], ids="-".join)
def test_refused_is_refused(key: tuple[str, str]) -> None:
    """By name, with the reason of the table."""
    with pytest.raises(UnsupportedOperators) as error:
        omenn_onnx.compile(one_node(key), output="z", target="seed")
    assert f": {key[0] or 'ai.onnx'}.{key[1]} " in str(error.value)
    assert REFUSED[key] in str(error.value)


WORKING = {
    "Attention": (23, "(float[1,2,3,4] x) => (float[1,2,3,4] y) { y = Attention(x, x, x) }"),
    "CausalConvWithState": (
        27,
        "(float[1,2,3] x) => (float[1,2,3] y) <float[2,1,2] w = {1,2,3,4}> { y, s = CausalConvWithState(x, w) }",
    ),
    "CenterCropPad": (20, "(float[2,4] x) => (float[2,6] y) <int64[1] s = {6}> { y = CenterCropPad<axes=[1]>(x, s) }"),
    "LinearAttention": (
        27,
        "(float[1,3,4] x) => (float[1,3,4] y) "
        '{ y, s = LinearAttention<q_num_heads=2, kv_num_heads=2, update_rule="linear">(x, x, x) }',
    ),
    "NegativeLogLikelihoodLoss": (
        20,
        '(float[2,3] x) => (float[2] y) <int64[2] t = {0,2}> { y = NegativeLogLikelihoodLoss<reduction="none">(x, t) }',
    ),
    "Range": (
        20,
        "(float[1] x) => (float[1,3] y) <float l = {3.0}, float d = {1.0}, int64[0] e = {}, int64[2] k = {1,3}> "
        "{ s = Reshape(x, e) f = Sub(s, s) r = Range(f, l, d) t = Add(r, s) y = Reshape(t, k) }",
    ),
    "RotaryEmbedding": (
        23,
        "(float[1,2,3,4] x) => (float[1,2,3,4] y) <float[1,3,2] c = {1,0,1,0,1,0}> { y = RotaryEmbedding(x, c, c) }",
    ),
    "SoftmaxCrossEntropyLoss": (
        20,
        '(float[2,3] x) => (float[2] y) <int64[2] t = {0,2}> { y = SoftmaxCrossEntropyLoss<reduction="none">(x, t) }',
    ),
    "SwiGLU": (28, "(float[2,4] x) => (float[2,4] y) { g = Neg(x) y = SwiGLU(x, g) }"),
    "Upsample": (9, "(float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { y = Upsample(x, s) }"),
    "SplitToSequence ConcatFromSequence": (
        20,
        "(float[2,3] x) => (float[2,3] y) { s = SplitToSequence<axis=1>(x) y = ConcatFromSequence<axis=1>(s) }",
    ),
    "SequenceConstruct SequenceAt": (
        20,
        "(float[2,3] x) => (float[2,3] y) <int64 k = {1}> "
        "{ n = Neg(x) s = SequenceConstruct(x, n) y = SequenceAt(s, k) }",
    ),
    "SequenceEmpty SequenceInsert SequenceErase": (
        20,
        "(float[2,3] x) => (float[2,3] y) <int64 k = {0}> "
        "{ n = Neg(x) e = SequenceEmpty() a = SequenceInsert(e, x) b = SequenceInsert(a, n) c = SequenceErase(b, k) "
        "y = SequenceAt(c, k) }",
    ),
    "SequenceMap": (
        20,
        "(float[2,3] x) => (float[2,3] y) <float c = {0.5}> { s = SplitToSequence<axis=1>(x) n = Neg(x) "
        "r = SplitToSequence<axis=1>(n) m, u = SequenceMap<body=b (float[2,1] e, float[2,1] d, float[2,3] w) "
        "=> (float[2,1] f, float[2,3] g) { t = Tanh(e) h = Mul(t, d) f = Add(h, c) g = Identity(w) }>(s, r, x) "
        "y = ConcatFromSequence<axis=1>(m) }",
    ),
    "Optional OptionalGetElement": (
        20,
        "(float[2,3] x) => (float[2,3] y) { o = Optional(x) y = OptionalGetElement(o) }",
    ),
}
"""A network of each operator that neither a rule nor a body of ours takes, by name."""


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("ops", WORKING)
def test_functions_and_passes_work(ops: str, rules: str) -> None:
    opset, text = WORKING[ops]
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("the installed onnx does not have it")
    model = text_model(text, opset)
    x = model.graph.input[0].type.tensor_type.shape.dim
    feeds = {"x": np.random.default_rng(0).normal(size=[d.dim_value for d in x]).astype(np.float32)}
    proto = omenn_onnx.compile(model, output="y", rules=rules, target="seed", channel_axis=-1)
    outcome = explain_seeded(proto, model, feeds)
    assert_complete(outcome)
    assert max(np.abs(c).max() for c in outcome.c_w) > 0


def explain_seeded(proto: onnx.ModelProto, model: onnx.ModelProto, feeds: dict[str, Any]) -> Result:
    """With a drawn seed; by onnx's reference evaluator where ONNX Runtime is older than the model."""
    try:
        y, reference = run(model, feeds)["y"], False
    except Exception:
        y, reference = evaluate(model, feeds)["y"], True
    seed = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    return explain(proto, {**feeds, "seed": seed}, reference=reference)


def test_every_function_and_pass_has_a_network() -> None:
    tried = {op for ops in WORKING for op in ops.split()} | {"EmbedLayerNormalization", "QEmbedLayerNormalization"}
    assert tried == {op for _, op in [*tool.FUNCTIONS, *tool.PASSES]}


@pytest.mark.parametrize("key", sorted(tool.NOT_FLOAT), ids="-".join)
def test_what_is_constant_by_its_types(key: tuple[str, str]) -> None:
    """No input or no output is a floating-point tensor; MelWeightMatrix is refused where its limits carry."""
    schema = SCHEMAS[key]
    inside = [floats(schema, p) for p in schema.inputs]
    outside = [floats(schema, p) for p in schema.outputs]
    assert not any(inside) or not any(outside) or key == ("", "MelWeightMatrix")


def floats(schema: Any, parameter: Any) -> set[str]:
    """The floating-point tensors among the types that an input or output may have, in sequences and optionals too."""
    constraints = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    types = constraints.get(parameter.type_str, {parameter.type_str})
    return {t for t in types if any(f"({k})" in t for k in ("float", "double", "float16", "bfloat16"))}


def test_every_body_of_microsoft_has_a_case() -> None:
    """A decomposition of com.microsoft without a case against ONNX Runtime's kernel, or numpy, fails here by name."""
    tried = {c.op for c in [*ATTENTION, *PLAIN, *NUMPY, *DECODERS, *WITHOUT_KERNEL] if c.domain == "com.microsoft"}
    for c in [*KERNELS, *(c for c, _ in QUANTISED)]:
        tried |= {n.op_type for n in c.model().graph.node if n.domain == "com.microsoft"}
    missing = (
        {op for d, op in BODIES if d == "com.microsoft"} - tried - {"GatherBlockQuantized"}
    )  # in test_quantised.py
    assert not missing, f"no case of {', '.join(sorted(missing))}"
