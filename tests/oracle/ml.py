"""Operators of ai.onnx.ml as their decompositions."""

from __future__ import annotations

import numpy as np

from .bodies import Body, Name, body
from .stream import Tensor

ML = "ai.onnx.ml"


@body("Scaler", domain=ML)
def scaler(b: Body, x: Tensor) -> tuple:
    """(x - offset) scale."""
    return (b.op("Mul", b.op("Sub", b.given(0), b.const(np.array(b.attr("offset"), float))),
                 b.const(np.array(b.attr("scale"), float))),)  # fmt: skip


@body("Normalizer", domain=ML)
def normalizer(b: Body, x: Tensor) -> tuple:
    """x over the norm of its row, a weight; max (as ONNX Runtime): the largest entry, with its sign."""
    axis = x.ndim - 1
    norm = b.attr("norm", "MAX")
    if norm in ("L1", "L2"):
        return (b.op("LpNormalization", b.given(0), p=1 if norm == "L1" else 2, axis=axis),)
    return (b.op("Div", b.given(0), b.op("ReduceMax", b.given(0), b.ints(axis))),)


def transformed(b: Body, y: Name) -> Name:
    how = b.attr("post_transform", "NONE")
    if how == "NONE":
        return y
    if how == "LOGISTIC":
        return b.op("Sigmoid", y)
    if how == "SOFTMAX":
        return b.op("Softmax", y, axis=-1)
    raise b.n.refuse(f"post_transform {how}")


@body("LinearRegressor", domain=ML)
def linear_regressor(b: Body, x: Tensor) -> tuple:
    targets = b.attr("targets", 1)
    w = np.array(b.attr("coefficients"), float).reshape(targets, -1).T
    y = b.op("MatMul", b.given(0), b.const(w))
    if b.attr("intercepts"):
        y = b.op("Add", y, b.const(np.array(b.attr("intercepts"), float)))
    return (transformed(b, y),)


@body("LinearClassifier", domain=ML)
def linear_classifier(b: Body, x: Tensor) -> tuple:
    """Labels (constants), scores. One row of coefficients for two classes: the scores are (1 - s, s)."""
    labels = b.attr("classlabels_ints") or b.attr("classlabels_strings")
    intercepts = np.array(b.attr("intercepts") or [0.0], float)
    w = np.array(b.attr("coefficients"), float).reshape(len(intercepts), -1).T
    y = b.op("Add", b.op("MatMul", b.given(0), b.const(w)), b.const(intercepts))
    y = transformed(b, y)
    if len(intercepts) == 1 and len(labels) == 2:
        other = b.op("Sub", b.const(1.0), y)
        y = b.op("Concat", other, y, axis=-1)
    return b.op("ArgMax", y, axis=-1, keepdims=0), y


@body("FeatureVectorizer", domain=ML)
def feature_vectorizer(b: Body, *parts: Tensor) -> tuple:
    return (b.op("Concat", *(b.given(i) for i in range(len(parts))), axis=-1),)


@body("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(b: Body, x: Tensor, places: Tensor) -> tuple:
    y = b.op("Gather", b.given(0), b.const(places.value.reshape(-1).astype(np.int64)), axis=-1)
    return (b.reshape(y, 1, -1) if x.ndim == 1 else y,)


@body("Imputer", domain=ML)
def imputer(b: Body, x: Tensor) -> tuple:
    """Entries equal to the replaced value (NaN too) become constants."""
    values, gone = np.array(b.attr("imputed_value_floats"), float), b.attr("replaced_value_float", 0.0)
    missing = np.isnan(x.value) if np.isnan(gone) else x.value == np.float32(gone)
    return (b.op("Where", b.const(missing), b.const(values), b.given(0)),)


def kernel(b: Body, x: Tensor, vectors: np.ndarray) -> Name:
    """[N, support vectors]."""
    kind = b.attr("kernel_type", "LINEAR")
    gamma, coef0, degree = (b.attr("kernel_params") or [0.0, 0.0, 3.0])[:3]
    if kind == "RBF":
        difference = b.op("Sub", b.op("Unsqueeze", b.given(0), b.ints(1)), b.const(vectors))
        return b.op("Exp", b.scaled(b.op("ReduceSumSquare", difference, b.ints(2), keepdims=0), -gamma))
    y = b.op("MatMul", b.given(0), b.const(vectors.T))
    if kind == "LINEAR":
        return y
    y = b.op("Add", b.scaled(y, gamma), b.const(coef0))
    return b.op("Tanh", y) if kind == "SIGMOID" else b.op("Pow", y, b.const(degree))


@body("SVMRegressor", domain=ML)
def svm_regressor(b: Body, x: Tensor) -> tuple:
    count = b.attr("n_supports", 0)
    coefficients = np.array(b.attr("coefficients"), float)
    if count:
        k = kernel(b, x, np.array(b.attr("support_vectors"), float).reshape(count, -1))
        y = b.op("MatMul", k, b.const(coefficients.reshape(-1, 1)))
    else:
        y = b.op("MatMul", b.given(0), b.const(coefficients.reshape(-1, 1)))
    return (transformed(b, b.op("Add", y, b.const(np.array(b.attr("rho"), float)))),)
