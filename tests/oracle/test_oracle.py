"""The oracle against itself, against ONNX Runtime's values, and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import Case, all_cases
from .engine import explain, forward_values

CASES = all_cases()


def directional(case: Case, seed: np.ndarray, step: float = 1e-5) -> tuple[dict, float]:
    """Central difference of <seed, y> along a random direction in all explained inputs."""
    r = np.random.default_rng(5)
    direction = {k: r.normal(size=case.feeds[k].shape) for k in case.inputs}

    def score(t: float) -> float:
        feeds = {k: v.astype(np.float64) + t * direction[k] if k in direction else v for k, v in case.feeds.items()}
        return float((seed * forward_values(case.model, feeds, ["y"])["y"]).sum())

    return direction, (score(step) - score(-step)) / (2 * step)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Case) -> None:
    """Completeness and all-ones (checked at every node), values as ONNX Runtime's, tangent = derivative."""
    value = forward_values(case.model, case.feeds, ["y"])["y"]
    seed = np.random.default_rng(1).normal(size=value.shape)
    for rules in case.rules:
        r = explain(case.model, case.feeds, case.inputs, "y", seed, rules)
        size = sum(np.abs(r.C_w[k] * r.values[k]).sum() + np.abs(r.C_b[k]).sum() for k in case.inputs)
        assert abs(r.residual) <= 1e-9 * max(1, abs(r.score), size)
        np.testing.assert_allclose(r.values["y"], value, rtol=1e-9, atol=1e-12)
        if rules == "tangent" and case.smooth:
            direction, expected = directional(case, seed)
            got = sum((r.C_w[k] * direction[k]).sum() for k in case.inputs)
            assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if case.runtime:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options)
        expected = session.run(None, case.feeds)[0]
        assert expected.shape == value.shape
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-5)
