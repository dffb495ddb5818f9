"""What the network tests share: compile, run with the runtime's optimisation on or off, hold a result to the bars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

import omenn_onnx

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Model = onnx.ModelProto | Path


def compiled(model: onnx.ModelProto | str, **options: Any) -> onnx.ModelProto:
    """The compiled model, accepted by the ONNX checker."""
    proto = omenn_onnx.compile(model, **options)
    onnx.checker.check_model(proto, full_check=False)
    return proto


def run(model: Model, feeds: Feeds, optimise: bool = True) -> dict[str, Array]:
    """All outputs by name, on the CPU with one thread. The model is given by itself or as a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return outputs_of(session, feeds)


def outputs_of(session: onnxruntime.InferenceSession, feeds: Feeds) -> dict[str, Array]:
    """All outputs of a session by name."""
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def evaluate(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """All outputs by name, by onnx's reference evaluator: it has every operator in double."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


@dataclass
class Result:
    """One run of a compiled model. The maps are in the order of the explained inputs."""

    outputs: dict[str, Array]
    score: Array
    target: Array
    x: list[Array]
    c_w: list[Array]
    c_b: list[Array]

    def rows(self, a: Array) -> Array:
        """Sums over everything but the batch axis and the axis of several targets, in float64."""
        return a.astype(np.float64).reshape(*a.shape[: self.score.ndim], -1).sum(axis=-1)

    def sums(self, by_row: bool) -> tuple[Array, Array, Array, Array]:
        """score, sum(C_w*X) + sum(C_b), sum|C_w*X|, sum|C_b|: of each row, or in total."""
        total, weights, biases = np.zeros(1), np.zeros(1), np.zeros(1)

        def rows(a: Array) -> Array:
            return self.rows(a) if by_row else self.rows(a).sum(axis=0)

        for x, c_w, c_b in zip(self.x, self.c_w, self.c_b, strict=True):
            product = c_w.astype(np.float64) * (x if self.score.ndim == 1 else x[:, None])
            total = total + rows(product) + rows(c_b)
            weights, biases = weights + rows(np.abs(product)), biases + rows(np.abs(c_b))
        score = self.score.astype(np.float64)
        return score if by_row else score.sum(axis=0), total, weights, biases

    def residual(self, by_row: bool = True) -> float:
        """|score - sum| in units of max(1, |score|, sum|C_w*X|, sum|C_b|): of the worst row, or of the total."""
        score, total, weights, biases = self.sums(by_row)
        scale = np.maximum.reduce(np.broadcast_arrays(1.0, np.abs(score), weights, biases))
        return float(np.max(np.abs(score - total) / scale))

    def condition(self, by_row: bool = True) -> float:
        """The condition number: (sum|C_w*X| + sum|C_b|) / max(1, |score|), the worst row's; or that of the total."""
        score, _, weights, biases = self.sums(by_row)
        return float(np.max((weights + biases) / np.maximum(1, np.abs(score))))


def explain(
    model: Model,
    feeds: Feeds,
    optimise: bool = True,
    reference: bool = False,
    session: onnxruntime.InferenceSession | None = None,
) -> Result:
    """Run a compiled model on feeds; ``reference``: by onnx's reference evaluator instead of ONNX Runtime;
    ``session``: by this one."""
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)
    meta = {p.key: p.value for p in proto.metadata_props}
    inputs, names = json.loads(meta["omenn.inputs"]), json.loads(meta["omenn.names"])
    if session is not None:
        found = outputs_of(session, feeds)
    else:
        found = run(model, feeds, optimise) if not reference else evaluate(proto, feeds)
    own = {name: found[name] for name in json.loads(meta["omenn.outputs"])}
    given = {**feeds, **found}
    x = [given[i["x"]] for i in inputs]
    c_w, c_b = [found[i["C_w"]] for i in inputs], [found[i["C_b"]] for i in inputs]
    several = (slice(None), 0) if found[names["score"]].ndim == 2 else ()
    for a, w, b, i in zip(x, c_w, c_b, inputs, strict=True):
        reduced = tuple(1 if k == i["channel_axis"] else n for k, n in enumerate(a.shape))
        assert w[several].shape == a.shape, f"C_w has shape {w.shape}, X {a.shape}"
        assert b[several].shape == reduced, f"C_b has shape {b.shape}, X {a.shape}"
    return Result(own, found[names["score"]], found[names["target"]], x, c_w, c_b)


def assert_complete(result: Result, bar: float = 1e-5) -> None:
    """score = sum(C_w * X) + sum(C_b), row by row."""
    for a in (*result.c_w, *result.c_b, result.score):
        assert np.isfinite(a).all(), "not finite"
    assert result.residual() <= bar, f"residual {result.residual():.2e}, condition number {result.condition():.1f}"


def assert_close(actual: Array, expected: Array, bar: float, what: str) -> None:
    """|actual - expected| <= bar times the largest |expected| (at least 1e-30)."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} against {expected.shape}"
    difference = distance(actual, expected)
    assert difference <= bar, f"{what}: differs by {difference:.2e} of the largest entry, more than {bar:.0e}"


def distance(actual: Array, expected: Array) -> float:
    """The largest difference over the largest expected entry."""
    gap = np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)
    return float(gap / max(np.max(np.abs(expected), initial=0.0), 1e-30))


def assert_same_outputs(result: Result, model: Model, feeds: Feeds, optimise: bool, bar: float = 1e-5) -> None:
    """The model's own outputs are what the original gives."""
    for name, expected in run(model, feeds, optimise).items():
        got = result.outputs[name]
        if isinstance(expected, list) and not isinstance(expected[0], dict):  # a sequence of tensors
            for one, wanted in zip(got, expected, strict=True):
                assert_close(one, wanted, bar, f"output {name}")
        elif np.asarray(expected).dtype.kind == "f":
            assert_close(got, expected, bar, f"output {name}")
        else:
            np.testing.assert_array_equal(got, expected)
