"""ai.onnx.ml as skl2onnx writes it: fitted scikit-learn models, exported, explained on their own data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from explaining import Result, assert_close, assert_complete, assert_same_outputs, compiled, explain, run
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA, KernelPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import BaggingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM

import omenn_onnx
from omenn_onnx.errors import UnsupportedOperators

Array = np.ndarray[Any, Any]
RULES = ("secant", "tangent")
ROWS = 12


def scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def columns() -> Any:
    parts = [("a", StandardScaler(), [0, 2, 4]), ("b", MinMaxScaler(), [1, 3]), ("c", "passthrough", [7, 9])]
    return make_pipeline(ColumnTransformer(parts), StandardScaler(), LogisticRegression())


def union() -> Any:
    parts = [("pca", PCA(2)), ("best", SelectKBest(k=2)), ("all", MinMaxScaler())]
    return make_pipeline(FeatureUnion(parts), LogisticRegression())


def process() -> Any:
    return scaled(GaussianProcessRegressor(RBF(3.0), alpha=1.0, optimizer=None))


def missing() -> Any:
    return make_pipeline(SimpleImputer(missing_values=0.0), StandardScaler(), LogisticRegression())


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "logistic": ("cancer", lambda: scaled(LogisticRegression())),
    "logistic of three": ("iris", lambda: scaled(LogisticRegression())),
    "one against the rest": ("iris", lambda: OneVsRestClassifier(LogisticRegression())),
    "discriminant": ("iris", LinearDiscriminantAnalysis),
    "network": ("cancer", lambda: scaled(MLPClassifier((8,), max_iter=20, random_state=0))),
    "network, tanh": ("iris", lambda: scaled(MLPClassifier((8,), "tanh", max_iter=20, random_state=0))),
    "linear svc": ("cancer", lambda: scaled(LinearSVC())),
    "linear svc of three": ("iris", lambda: scaled(LinearSVC())),
    "svc rbf": ("cancer", lambda: scaled(SVC(kernel="rbf"))),
    "svc poly": ("cancer", lambda: scaled(SVC(kernel="poly", coef0=1.0))),
    "svc linear": ("cancer", lambda: scaled(SVC(kernel="linear"))),
    "svc sigmoid": ("cancer", lambda: scaled(SVC(kernel="sigmoid"))),
    "svc of three": ("iris", lambda: scaled(SVC())),
    "svc of three, pairs": ("iris", lambda: scaled(SVC(decision_function_shape="ovo"))),
    "svc with probabilities": ("cancer", lambda: scaled(SVC(probability=True, random_state=0))),
    "svr": ("length", lambda: scaled(SVR())),
    "one-class svm": ("length", lambda: scaled(OneClassSVM())),
    "regression": ("length", LinearRegression),
    "regression of two": ("sizes", LinearRegression),
    "ridge": ("length", lambda: scaled(Ridge())),
    "norm l1": ("iris", lambda: make_pipeline(Normalizer("l1"), LogisticRegression())),
    "norm l2": ("iris", lambda: make_pipeline(Normalizer("l2"), LogisticRegression())),
    "norm max": ("iris", lambda: make_pipeline(Normalizer("max"), LogisticRegression())),
    "missing values": ("cancer", missing),
    "power": ("iris", lambda: make_pipeline(StandardScaler(), PowerTransformer(), LogisticRegression())),
    "quantiles": ("iris", lambda: make_pipeline(QuantileTransformer(n_quantiles=20), LogisticRegression())),
    "polynomial": ("iris", lambda: make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression())),
    "union": ("iris", union),
    "naive bayes": ("iris", GaussianNB),
    "quadratic discriminant": ("iris", QuadraticDiscriminantAnalysis),
    "descent": ("iris", lambda: scaled(SGDClassifier(loss="log_loss", random_state=0))),
    "calibrated": ("iris", lambda: scaled(CalibratedClassifierCV(LinearSVC(), cv=2))),
    "bagging": ("iris", lambda: scaled(BaggingClassifier(LogisticRegression(), 3, random_state=0))),
    "kernel pca": ("iris", lambda: KernelPCA(2, kernel="cosine")),
    "process": ("length", process),
    "process of few": ("few", process),
    "poisson": ("length", lambda: scaled(PoissonRegressor())),
    "partial least squares": ("sizes", lambda: PLSRegression(2)),
    "several labels": ("labels", lambda: MultiOutputClassifier(LogisticRegression())),
    "columns": ("cancer", columns),
}
LINEAR = (
    "logistic",
    "logistic of three",
    "linear svc",
    "linear svc of three",
    "svc linear",
    "ridge",
    "regression",
    "regression of two",
)


@functools.cache
def data(name: str) -> tuple[Array, Array]:
    if name == "cancer":
        x, y = load_breast_cancer(return_X_y=True)
    else:
        x, y = load_iris(return_X_y=True)
        if name in ("length", "few"):
            x, y = x[:, :3], x[:, 3]
            x, y = (x[::3], y[::3]) if name == "few" else (x, y)
        elif name == "labels":
            y = np.stack([y == 0, y == 1], axis=1).astype(np.int64)
        elif name == "sizes":
            x, y = x[:, :2], x[:, 2:]
    return x.astype(np.float32), y


@functools.cache
def exported(name: str, zipmap: bool) -> tuple[Any, onnx.ModelProto]:
    """A fitted model and its file."""
    source, make = MODELS[name]
    x, y = data(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().fit(x, y)
        options: dict[Any, Any] | None = {id(model): {"zipmap": zipmap}} if hasattr(model, "classes_") else None
        if "linear svc" in name:
            options = {LinearSVC: {"nocl": False}}
        return model, to_onnx(model, x[:1], target_opset=17, options=options)


def feeds(name: str) -> dict[str, Array]:
    x = data(MODELS[name][0])[0]
    return {"X": x[1 :: len(x) // ROWS][:ROWS]}


@functools.cache
def explained(name: str, rules: str, zipmap: bool = False) -> Result:
    return explain(compiled(exported(name, zipmap)[1], rules=rules), feeds(name))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_complete(name: str, rules: str) -> None:
    """Compiled with its defaults, a model is explained completely and keeps its outputs."""
    model = exported(name, False)[1]
    for optimise in (True, False):
        result = explain(compiled(model, rules=rules), feeds(name), optimise)
        assert_complete(result)
        assert_same_outputs(result, model, feeds(name), optimise)
        assert max(np.abs(c).max() for c in result.c_w) > 0


@pytest.mark.parametrize("name", ["logistic", "network", "svc of three"])
def test_zipmap(name: str) -> None:
    """Scores as a list of dictionaries: the same explanation, and the dictionaries stay."""
    with_map, without = explained(name, "secant", True), explained(name, "secant")
    assert_close(with_map.c_w[0], without.c_w[0], 1e-6, "C_w")
    assert_close(with_map.c_b[0], without.c_b[0], 1e-6, "C_b")
    expected = run(exported(name, True)[1], feeds(name))["output_probability"]
    assert with_map.outputs["output_probability"] == expected


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_models(name: str, rules: str) -> None:
    """C_w of a linear model is its coefficients over the scales of its features."""
    model, result = exported(name, False)[0], explained(name, rules)
    scaler, last = (model[0], model[-1]) if hasattr(model, "steps") else (None, model)
    coefficients = np.atleast_2d(last.coef_)
    if scaler is not None:
        coefficients = coefficients / scaler.scale_
    chosen = np.asarray(result.target).reshape(-1)
    if name in ("logistic", "svc linear"):  # (an SVC's columns are the other way round)
        expected = np.where(chosen[:, None] == (0 if name == "svc linear" else 1), 1, -1) * coefficients
    else:
        expected = coefficients[chosen]
    assert_close(result.c_w[0], np.broadcast_to(expected, result.c_w[0].shape), 1e-5, "C_w")


@pytest.mark.parametrize("name", ["svc rbf", "svc poly", "svc sigmoid", "svr"])
def test_kernel_gradients(name: str) -> None:
    """C_w in tangent is the gradient of sum_v a_v k(x, v): its closed form, kernel by kernel."""
    model, result = exported(name, False)[0], explained(name, "tangent")
    scale, svm = model[0].scale_, model[-1]
    x = model[0].transform(feeds(name)["X"].astype(np.float64))
    v, a = svm.support_vectors_, svm.dual_coef_[0]
    gamma, shift = svm._gamma, svm.coef0
    inner = gamma * x @ v.T + shift
    if svm.kernel == "rbf":
        weights = np.exp(-gamma * ((x[:, None] - v) ** 2).sum(-1)) * a
        gradient = -2 * gamma * (weights.sum(1, keepdims=True) * x - weights @ v)
    else:
        slope = 3 * inner**2 if svm.kernel == "poly" else 1 - np.tanh(inner) ** 2
        gradient = gamma * (slope * a) @ v
    sign = np.where(result.target == 0, 1, -1)[:, None] if name != "svr" else 1
    assert_close(result.c_w[0], sign * gradient / scale, 1e-4, "C_w")


def test_missing_values_have_no_weight() -> None:
    """The weight of a value that counts as missing is 0: what it was does not matter."""
    x = feeds("missing values")["X"].copy()
    x[:, 3] = 0.0
    result = explain(compiled(exported("missing values", False)[1]), {"X": x})
    assert_complete(result)
    assert not result.c_w[0][x == 0.0].any()
    assert result.c_w[0][x != 0.0].all()


@pytest.mark.parametrize("rules", RULES)
def test_integer_features(rules: str) -> None:
    """Integers that a Scaler reads are explained as floats, as if the input were a float."""
    x, y = np.round(data("iris")[0] * 10), data("iris")[1]
    model = scaled(LogisticRegression()).fit(x, y)
    kinds = {"options": {id(model): {"zipmap": False}}, "target_opset": 17}
    integers, floats = (to_onnx(model, x[:1].astype(kind), **kinds) for kind in (np.int64, np.float32))
    found = explain(compiled(integers, rules=rules), {"X": x[::40].astype(np.int64)})
    wanted = explain(compiled(floats, rules=rules), {"X": x[::40]})
    assert_complete(found)
    assert_same_outputs(found, integers, {"X": x[::40].astype(np.int64)}, True)
    np.testing.assert_array_equal(found.c_w[0], wanted.c_w[0])
    np.testing.assert_array_equal(found.c_b[0], wanted.c_b[0])


def test_words() -> None:
    """Text is explained at the features that are made of it: a weight for every word of the vocabulary."""
    words = ["the cat sat", "a dog ran far", "the dog sat down", "a cat ran", "no animal here", "the cat ran"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, [0, 1, 0, 1, 0, 1])
    options = {id(model): {"zipmap": False}, TfidfVectorizer: {"locale": "C"}}
    kind = [("text", StringTensorType([None, 1]))]
    result = explain(
        compiled(to_onnx(model, initial_types=kind, target_opset=17, options=options)),
        {"text": np.array(words)[:, None]},
    )
    assert_complete(result)
    counts = CountVectorizer(vocabulary=model[0].vocabulary_).transform(words).toarray()
    np.testing.assert_array_equal(result.x[0], counts)
    assert result.c_w[0].shape == counts.shape


@pytest.mark.parametrize("make", [lambda: RandomForestClassifier(3), lambda: GradientBoostingRegressor(n_estimators=2)])
def test_trees_are_refused(make: Callable[[], Any]) -> None:
    x, y = data("iris")
    with pytest.raises(UnsupportedOperators, match=r"piecewise constant.*TreeExplainer"):
        omenn_onnx.compile(to_onnx(make().fit(x, y), x[:1], target_opset=17))


def test_coupled_probabilities() -> None:
    """Those of two classes are explained before the coupling, and can be explained themselves; more are refused."""
    two, seed = exported("svc with probabilities", False)[1], np.full((ROWS, 2), 0.5, np.float32)
    for rules in RULES:
        program = compiled(two, output="probabilities", target="seed", rules=rules)
        assert_complete(explain(program, {**feeds("svc with probabilities"), "seed": seed}))
    x, y = data("iris")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = to_onnx(SVC(probability=True).fit(x, y), x[:1], target_opset=17)
    with pytest.raises(UnsupportedOperators, match=r"coupled by an iteration.*raw_scores"):
        omenn_onnx.compile(model)


# Operators by themselves, in every form

KERNEL = {
    "kernel_params": [0.1, 0.2, 3.0],
    "coefficients": [1.0, 2.0, -3.0, 0.1, 0.2, 0.3],
    "support_vectors": [1.0, 2, 3, 4, 1, 1, 1, 1, 0, 0, 1, 1],
}
TWO, THREE = [5, 7], [1, 2, 4]
PAIR = {**KERNEL, "coefficients": [1.0, -2.0, 3.0], "vectors_per_class": [2, 1], "rho": [0.3], "classlabels_ints": TWO}
MANY = {**KERNEL, "vectors_per_class": [1, 1, 1], "rho": [0.3, 0.1, -0.2], "classlabels_ints": THREE}
POSTS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
W, C = [1.0, 2, 3, 4, -1, -2, 0.3, 0], [0.1, 0.2]
SINGLE: list[tuple[str, dict[str, Any]]] = [
    *(
        ("LinearClassifier", {"coefficients": W[:4], "intercepts": C[:1], "classlabels_ints": TWO, "post_transform": p})
        for p in POSTS
    ),
    *(
        (
            "LinearClassifier",
            {"coefficients": W, "intercepts": C, "classlabels_strings": ["a", "b"], "post_transform": p},
        )
        for p in POSTS
    ),
    *(("LinearRegressor", {"coefficients": W, "intercepts": C, "targets": 2, "post_transform": p}) for p in POSTS),
    ("LinearRegressor", {"coefficients": W[:4], "intercepts": C[:1], "post_transform": "LOGISTIC"}),
    ("LinearRegressor", {"coefficients": W[:4]}),
    *(("SVMClassifier", {**PAIR, "kernel_type": "RBF", "post_transform": p}) for p in POSTS),
    *(("SVMClassifier", {**PAIR, "kernel_type": "POLY", "post_transform": p}) for p in POSTS),
    *(("SVMClassifier", {**MANY, "kernel_type": "SIGMOID", "post_transform": p}) for p in POSTS),
    *(
        ("SVMRegressor", {**KERNEL, "coefficients": [1.0, 2, 3], "n_supports": 3, "rho": [0.3], "kernel_type": k})
        for k in ("LINEAR", "POLY", "RBF")
    ),
    *(("Normalizer", {"norm": n}) for n in ("MAX", "L1", "L2")),
    ("SVMClassifier", {**PAIR, "kernel_type": "POLY", "prob_a": [-1.3], "prob_b": [0.2], "post_transform": "SOFTMAX"}),
    ("Scaler", {"scale": [2.0], "offset": [1.0]}),
    ("Scaler", {"scale": [2.0, 1.0, -1.0, 0.0], "offset": [0.0, 1.0, 2.0, 3.0]}),
    ("Imputer", {"imputed_value_floats": [7.0], "replaced_value_float": 2.0}),
    ("Imputer", {"imputed_value_floats": [7.0, 1.0, 2.0, 3.0], "replaced_value_float": 2.0}),
    ("FeatureVectorizer", {"inputdimensions": [3]}),
    ("FeatureVectorizer", {"inputdimensions": [6]}),
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("op", "attrs"), SINGLE, ids=[f"{op} {i}" for i, (op, _) in enumerate(SINGLE)])
def test_operator(op: str, attrs: dict[str, Any], rules: str) -> None:
    """One operator, its own output explained: the score is ONNX Runtime's, the sum this project's."""
    count = 2 if op.endswith("Classifier") else 1
    names = ["label", "y"][-count:]
    node = helper.make_node(op, ["x"], names, name=op, domain="ai.onnx.ml", **attrs)
    label = TensorProto.STRING if "classlabels_strings" in attrs else TensorProto.INT64
    infos = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])]
    infos = [helper.make_tensor_value_info("label", label, ["N"]), *infos][-count:]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(helper.make_graph([node], op, [x], infos), opset_imports=opsets, ir_version=8)
    value = np.array([[1, -2, 3, 0.5], [-1, 2, 0.3, 0.4], [0, 0, 0, 0], [-1, -2, -3, -0.5]], np.float32)
    program = compiled(model, output="y", target="seed", rules=rules)
    seed = np.random.default_rng(0).normal(size=run(model, {"x": value})["y"].shape).astype(np.float32)
    assert_complete(explain(program, {"x": value, "seed": seed}))


def test_array_feature_extractor() -> None:
    """C_w is the seed where the columns came from."""
    node = helper.make_node("ArrayFeatureExtractor", ["x", "columns"], ["y"], domain="ai.onnx.ml")
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])
    columns = helper.make_tensor("columns", TensorProto.INT64, [1, 2], [3, 1])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = helper.make_graph([node], "columns", infos, [y], [columns])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    result = explain(compiled(model, target="seed"), {"x": x, "seed": np.array([[2.0, 5.0]] * 3, np.float32)})
    np.testing.assert_array_equal(result.c_w[0], [[0.0, 5.0, 0.0, 2.0]] * 3)
    assert not result.c_b[0].any()
