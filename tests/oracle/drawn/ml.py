"""Operators of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Graph, T

ML = "ai.onnx.ml"


def floats(g: Graph, count: int) -> list[float]:
    return [float(v) for v in g.random.normal(size=count)]


def ml(g: Graph) -> T:
    x = g.explain("x", 3, 4)
    if g.flag():
        x = g.op("Add", x, g.weight(4))
    kind = g.pick("Scaler", "Normalizer", "LinearRegressor", "LinearClassifier", "FeatureVectorizer", "Imputer",
                  "ArrayFeatureExtractor", "SVMRegressor", "pipeline")  # fmt: skip

    def op(kind: str, *inputs: Any, **attributes: Any) -> Any:
        return g.op(kind, *inputs, domain=ML, **{k: v for k, v in attributes.items() if v is not None})

    if kind == "Scaler":
        return op(kind, x, offset=floats(g, 4), scale=floats(g, g.pick(4, 4)))
    if kind == "Normalizer":
        return g.op("Add", op(kind, x, norm=g.pick("MAX", "L1", "L2")), g.weight(4))
    if kind == "LinearRegressor":
        targets = g.pick(1, 2)
        after = g.pick("NONE", "LOGISTIC", "SOFTMAX") if targets > 1 else "NONE"
        return op(kind, x, targets=targets, coefficients=floats(g, 4 * targets), post_transform=after,
                  intercepts=floats(g, targets) if g.flag(0.7) else None)  # fmt: skip
    if kind == "LinearClassifier":
        rows, after = g.pick((1, "NONE"), (1, "LOGISTIC"), (3, "NONE"), (3, "LOGISTIC"), (3, "SOFTMAX"))
        labels = [0, 1] if rows == 1 else [0, 1, 2]
        return op(kind, x, outputs=2, classlabels_ints=labels, coefficients=floats(g, 4 * rows), multi_class=0,
                  intercepts=floats(g, rows), post_transform=after)[1]  # fmt: skip
    if kind == "FeatureVectorizer":
        return g.op("Add", op(kind, x, g.explain("z", 3, 2), inputdimensions=[4, 2]), g.weight(6))
    if kind == "ArrayFeatureExtractor":
        return g.op("Add", op(kind, x, g.constant(np.array([[2, 0, 3]]))), g.weight(3))
    if kind == "Imputer":
        gone = g.op("Relu", x)
        values = floats(g, g.pick(4, 1))
        return g.op("Add", op(kind, gone, imputed_value_floats=values, replaced_value_float=0.0), g.weight(4))
    if kind == "SVMRegressor":
        count = g.pick(3, 5)
        return op(kind, x, kernel_type=g.pick("LINEAR", "POLY", "RBF", "SIGMOID"), n_supports=count, rho=floats(g, 1),
                  support_vectors=floats(g, 4 * count), coefficients=floats(g, count),
                  kernel_params=[0.4, 0.3, 2.0])  # fmt: skip
    x = op("Imputer", x, imputed_value_floats=floats(g, 4), replaced_value_float=float("nan"))
    x = op("Normalizer", op("Scaler", x, offset=floats(g, 4), scale=floats(g, 4)), norm="L2")
    return op("LinearClassifier", x, outputs=2, classlabels_ints=[0, 1, 2], coefficients=floats(g, 12), multi_class=0,
              intercepts=floats(g, 3), post_transform="NONE")[1]  # fmt: skip
