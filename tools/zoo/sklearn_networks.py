"""Fitted scikit-learn models by skl2onnx, on scikit-learn's own data."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from zoo.entry import Array, Network, Sample
from zoo.sklearn_models import MODELS

ROWS = 4
STEP = 1e-4
"""Of a feature's spread: for differences."""


@functools.cache
def estimators() -> dict[str, Any]:
    """All of scikit-learn's estimators and the kernels of its Gaussian processes by name; ``pipe`` and ``scaled``."""
    from sklearn.gaussian_process import kernels
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import all_estimators

    words = {name: getattr(kernels, name) for name in dir(kernels) if name[0].isupper()} | dict(all_estimators())
    return words | {"pipe": make_pipeline, "scaled": lambda model: make_pipeline(StandardScaler(), model)}


@functools.cache
def data(name: str) -> tuple[Array, Array]:
    """Features as float32, and what is to be found."""
    from sklearn import datasets

    if name == "multilabel":
        x, y = datasets.make_multilabel_classification(200, 8, n_classes=3, random_state=0)
        return x.astype(np.float32), y
    load = {"cancer": "load_breast_cancer"}.get(name, f"load_{name}")
    x, y = getattr(datasets, load)(return_X_y=True)
    return x.astype(np.float32), y


def build(path: Path, name: str) -> Sample:
    """Fit, export, and save; a model with classes gives its scores as an array unless ``zipmap``."""
    import onnx
    from skl2onnx import to_onnx

    model = MODELS[name]
    x, y = data(model.data)
    if model.rows:
        x, y = x[:: len(x) // model.rows], y[:: len(x) // model.rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = eval(model.estimator, estimators()).fit(x, y)
        last = fitted[-1] if hasattr(fitted, "steps") else fitted
        options: dict[Any, Any] = {}
        if hasattr(last, "classes_") and hasattr(last, "predict") and type(last).__name__ != "LinearSVC":
            options[id(fitted)] = {"zipmap": model.zipmap}
        options.setdefault(id(last), {}).update(model.export)
        opsets = {"": model.opset, "ai.onnx.ml": model.ml}
        proto = to_onnx(fitted, x[:1], target_opset=opsets, options={k: v for k, v in options.items() if v})
    onnx.save(proto, path)
    every = data(model.data)[0]
    rows = every[1 :: len(every) // ROWS][:ROWS]  # (kernels of distances have a kink at rows that were fitted to)
    sample = Sample({"X": rows})
    if model.score:
        sample.gradients = [gradient(fitted, model.score, rows.astype(np.float64), x.std(axis=0))]
    return sample


def gradient(fitted: Any, score: str, x: Array, spread: Array) -> Array:
    """Of each row's largest score by its features, by central differences in double."""

    def scores(rows: Array) -> Array:
        s = np.asarray(getattr(fitted, score)(rows), np.float64)
        s = s if s.ndim == 2 else s[:, None]
        two = score == "decision_function" and s.shape[1] == 1 and hasattr(fitted, "classes_")
        return np.concatenate([-s, s], axis=1) if two else s

    best = scores(x).argmax(axis=1)
    result = np.zeros_like(x)
    for k, step in enumerate(STEP * np.where(spread > 0, spread, 1.0)):
        if step:
            ends = [scores(x + sign * step * np.eye(x.shape[1])[k]) for sign in (1, -1)]
            result[:, k] = ((ends[0] - ends[1]) / (2 * step))[np.arange(len(x)), best]
    return result


NETWORKS: list[Network] = [
    Network(
        f"sklearn-{name}",
        "features",
        f"skl2onnx {model.opset}",
        functools.partial(build, name=name),
        needs=("sklearn", "skl2onnx"),
        options=model.options,
        oracle=model.oracle,
        refused=dict.fromkeys(("secant", "tangent"), model.refused) if model.refused else {},
        quick=model.quick,
    )
    for name, model in MODELS.items()
]
