"""Operators of ai.onnx.ml, as skl2onnx writes them, in ONNX. Where the specification is silent (a classifier of one
score, a Normalizer by the maximum) ONNX Runtime's kernels are followed."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from omenn_onnx.calculus.base import constant
from omenn_onnx.graph.ir import Array
from omenn_onnx.normalise.bodies.base import Body, body, refuse

_DOMAIN = "ai.onnx.ml"

constant(
    "Binarizer",
    "CastMap",
    "CategoryMapper",
    "DictVectorizer",
    "LabelEncoder",
    "OneHotEncoder",
    "ZipMap",
    domain=_DOMAIN,
)

refuse(
    *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
    domain=_DOMAIN,
    why="a tree ensemble is piecewise constant: its exact local affine map is the constant itself, which says nothing "
    "of the features. Explain it with SHAP's TreeExplainer, or train a network, a linear model or an SVM instead",
)

_COUPLED = (
    "the probabilities of an SVM of several classes are coupled by an iteration, which has no linear form; explain its "
    "decision function (skl2onnx: options={'raw_scores': True}, or probability=False)"
)


@body("Scaler", domain=_DOMAIN)
def scaler(b: Body) -> None:
    """(x - offset) scale."""
    x = _float(b, 0)
    offset, scale = _floats(b, "offset"), _floats(b, "scale")
    if offset.any():
        x = b.op("Sub", x, offset)
    b.give(0, b.op("Mul", x, scale) if scale.size else x)


@body("Normalizer", domain=_DOMAIN)
def normalizer(b: Body) -> None:
    """x / |x| over the last axis, |x| its largest entry, L1 or L2 norm; x itself where that is 0."""
    x, axis = _float(b, 0), [-1]
    norm = str(b.attr("norm", "MAX"))
    size = b.op("ReduceMax" if norm == "MAX" else f"Reduce{norm}", x, axis, keepdims=1)
    zero = b.op("Equal", size, _number(0.0))
    b.give(0, b.op("Div", x, b.op("Where", zero, _number(1.0), size)))


@body("Imputer", domain=_DOMAIN)
def imputer(b: Body) -> None:
    """The value of its column where x is missing."""
    floats = _floats(b, "imputed_value_floats")
    if not floats.size:
        raise b.refuse("it imputes integers")
    missing = float(b.attr("replaced_value_float", 0.0))
    x = str(b.operand(0))
    test = b.op("IsNaN", x) if np.isnan(missing) else b.op("Equal", x, _number(missing))
    b.give(0, b.op("Where", test, floats, x))


@body("FeatureVectorizer", domain=_DOMAIN)
def feature_vectorizer(b: Body) -> None:
    """Columns side by side, each operand cut or padded with zeros to its number of columns."""
    parts = []
    for k, wanted in enumerate(b.attr("inputdimensions", [])):
        x = _float(b, k)
        have = b.shape(k)[-1]
        if len(b.shape(k)) == 1:
            x, have = b.op("Unsqueeze", x, [1]), 1
        if isinstance(have, str):
            raise b.refuse(f"the number of columns of its operand {k} is not known")
        if have > wanted:
            x = b.op("Slice", x, [0], [wanted], [1])
        if have < wanted:
            x = b.op("Pad", x, [0, 0, 0, wanted - have])
        parts.append(x)
    b.give(0, b.op("Concat", *parts, axis=1))


@body("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(b: Body) -> None:
    """Columns of x."""
    if len(b.shape(0)) == 1:
        raise b.refuse("it reads a vector, of which ONNX Runtime makes a matrix of one row, against the specification")
    b.give(0, b.op("Gather", b.operand(0), b.op("Reshape", b.operand(1), [-1]), axis=-1))


# Linear models


@body("LinearRegressor", domain=_DOMAIN)
def linear_regressor(b: Body) -> None:
    """x W' + c; several targets may be transformed."""
    targets = int(b.attr("targets", 1))
    y = _affine(b, _float(b, 0), _floats(b, "coefficients").reshape(targets, -1))
    b.give(0, y if targets == 1 and b.attr("post_transform") != "PROBIT" else transformed(b, y))


@body("LinearClassifier", domain=_DOMAIN)
def linear_classifier(b: Body) -> None:
    """x W' + c, transformed. The label is a constant."""
    rows = b.shape(0)
    count = len(b.attr("intercepts", [])) or _classes(b)
    if isinstance(rows[-1], int):
        count = len(b.attr("coefficients", [])) // rows[-1]
    x = _float(b, 0)
    if len(rows) == 1:
        x = b.op("Unsqueeze", x, [0])
    scores = _affine(b, x, _floats(b, "coefficients").reshape(count, -1))
    if count == 1 and _classes(b) == 2:
        b.give(1, one_score(b, scores, b.attr("post_transform", "NONE") == "LOGISTIC"))
    else:
        b.give(1, transformed(b, scores))


def _affine(b: Body, x: str, weights: Array) -> str:
    """x W' + c with the node's intercepts."""
    intercepts = _floats(b, "intercepts")
    if len(b.shape(0)) == 1 and b.node.op == "LinearRegressor":
        x = b.op("Unsqueeze", x, [0])
    y = b.op("MatMul", x, np.ascontiguousarray(weights.T))
    return b.op("Add", y, intercepts) if intercepts.size else y


def one_score(b: Body, score: str, opposite: bool) -> str:
    """The scores of two classes from the second one's, s: (-s, s) if opposite, else (1 - s, s)."""
    if not opposite:
        return b.op("Concat", b.op("Sub", _number(1.0), score), score, axis=-1)
    return transformed(b, b.op("MatMul", score, np.asarray([[-1.0, 1.0]], np.float32)))


def transformed(b: Body, scores: str) -> str:
    """The scores behind the node's post_transform."""
    kind = b.attr("post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return b.op("Sigmoid", scores)
    if kind == "SOFTMAX":
        return b.op("Softmax", scores, axis=-1)
    if kind == "SOFTMAX_ZERO":  # only scores that are not 0 take part
        shown = b.op("Greater", b.op("Abs", scores), _number(1e-7))
        return b.op("Softmax", b.op("Where", shown, scores, _number(-np.inf)), axis=-1)
    raise b.refuse(f"post_transform {kind!r} has no ONNX form; export the raw scores")


# Support vector machines


@body("SVMRegressor", domain=_DOMAIN)
def svm_regressor(b: Body) -> None:
    """k(x, v) a + rho over the support vectors v."""
    if b.attr("one_class", 0):
        raise b.refuse("a one-class SVM gives a sign, which is piecewise constant; explain its decision function")
    coefficients = _floats(b, "coefficients").reshape(-1, 1)
    count = int(b.attr("n_supports", 0))
    x = _float(b, 0)
    values = kernel(b, x, _floats(b, "support_vectors").reshape(count, -1)) if count else x
    b.give(0, b.op("Add", b.op("MatMul", values, coefficients), _floats(b, "rho")))


@body("SVMClassifier", domain=_DOMAIN)
def svm_classifier(b: Body) -> None:
    """One score k(x, v) a + rho for each pair of classes (for each class where there are no support vectors), their
    probabilities behind the logits if there are two classes. The label is a constant.

    The scores of two classes come as ONNX Runtime gives them: the first column is the second class's."""
    sizes = [int(n) for n in b.attr("vectors_per_class", [])]
    rho, classes = _floats(b, "rho"), _classes(b)
    x = _float(b, 0)
    if not sum(sizes):
        weights = _floats(b, "coefficients").reshape(max(classes, 1), -1)
        b.give(1, transformed(b, b.op("Add", b.op("MatMul", x, np.ascontiguousarray(weights.T)), rho[:1])))
        return
    coefficients = _floats(b, "coefficients").reshape(-1, sum(sizes))
    values = kernel(b, x, _floats(b, "support_vectors").reshape(sum(sizes), -1))
    scores = b.op("Add", b.op("MatMul", values, _pairs(coefficients, sizes)), rho)
    slope, shift = _floats(b, "prob_a"), _floats(b, "prob_b")
    if slope.size:
        if rho.size > 1:
            raise b.refuse(_COUPLED)
        both = np.concatenate([-slope, slope]).reshape(1, 2)
        logits = b.op("Add", b.op("MatMul", scores, both), np.concatenate([-shift, shift]))
        # The iteration that couples two probabilities stops within 1e-3 of this: what it leaves belongs to the bias.
        b.into(1, "Settled", transformed(b, b.op("Sigmoid", logits)), domain="omenn", exact=0)
    elif rho.size == 1:
        b.give(1, one_score(b, scores, b.attr("post_transform", "NONE") in ("NONE", "LOGISTIC")))
    else:
        b.give(1, transformed(b, scores))


def kernel(b: Body, x: str, vectors: Array) -> str:
    """k(x, v) of every row and every support vector: [rows, vectors]."""
    kind = b.attr("kernel_type", "LINEAR")
    gamma, shift, degree = (float(p) for p in [*b.attr("kernel_params", []), 0.0, 0.0, 0.0][:3])
    if kind == "RBF":
        apart = b.op("Sub", b.op("Unsqueeze", x, [1]), vectors[None])
        return b.op("Exp", b.op("Mul", b.op("ReduceSumSquare", apart, [2], keepdims=0), _number(-gamma)))
    products = b.op("MatMul", x, np.ascontiguousarray(vectors.T))
    if kind == "LINEAR":
        return products
    moved = b.op("Add", b.op("Mul", products, _number(gamma)), _number(shift))
    if kind == "POLY":
        return b.op("Pow", moved, _number(int(degree)))
    if kind == "SIGMOID":
        return b.op("Tanh", moved)
    raise b.refuse(f"kernel {kind!r} is not known")


def _pairs(coefficients: Array, sizes: list[int]) -> Array:
    """[vectors, pairs]: the weights of the vectors of both classes of each pair i < j."""
    starts = np.cumsum([0, *sizes])
    columns = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            column = np.zeros(coefficients.shape[1], np.float32)
            column[starts[i] : starts[i + 1]] = coefficients[j - 1, starts[i] : starts[i + 1]]
            column[starts[j] : starts[j + 1]] = coefficients[i, starts[j] : starts[j + 1]]
            columns.append(column)
    return np.stack(columns, axis=1)


# Operands


def _float(b: Body, k: int) -> str:
    """Operand k as float32, which these operators compute in."""
    t, name = b.tensor(k), str(b.operand(k))
    return name if t is not None and t.dtype == np.float32 else b.op("Cast", name, to=TensorProto.FLOAT)


def _floats(b: Body, name: str) -> Array:
    return np.asarray(b.attr(name, []), np.float32)


def _number(value: float) -> Array:
    return np.asarray(value, np.float32)


def _classes(b: Body) -> int:
    """How many class labels there are."""
    return len(b.attr("classlabels_strings", []) or b.attr("classlabels_ints", []))
