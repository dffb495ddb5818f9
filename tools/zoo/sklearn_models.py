"""The scikit-learn models of the zoo: what is fitted, where, and what is to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Model:
    """data: what it is fitted to. estimator: in the words of ``sklearn_networks.estimators``.

    score: the estimator's method that the explained tensor is, for finite differences (one column is taken as its two
    signs for a classifier of two classes; "": none is). export: options of skl2onnx for the last step. zipmap: scores
    as dictionaries. rows: how many rows it is fitted to (0: all). ml: the opset of ai.onnx.ml. The rest as in Network.
    """

    data: str
    estimator: str
    score: str = ""
    opset: int = 17
    export: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    oracle: str = ""
    zipmap: bool = False
    rows: int = 0
    ml: int = 1
    quick: bool = False


DECISION = "decision_function"
RAW = {"raw_scores": True}
MODELS: dict[str, Model] = {
    # Scalers and features
    "standard": Model("cancer", "scaled(LogisticRegression())", DECISION, 11, quick=True),
    "minmax": Model("wine", "pipe(MinMaxScaler((-1, 2)), LogisticRegression())", DECISION),
    "minmax-clip": Model("wine", "pipe(MinMaxScaler(clip=True), LogisticRegression())", DECISION, rows=60),
    "maxabs": Model("wine", "pipe(MaxAbsScaler(), LogisticRegression())", DECISION),
    "robust": Model("wine", "pipe(RobustScaler(), LogisticRegression())", DECISION, 21),
    "normalizer-l1": Model("iris", 'pipe(Normalizer("l1"), LogisticRegression())', DECISION),
    "normalizer-l2": Model("iris", 'pipe(Normalizer("l2"), LogisticRegression())', DECISION),
    "normalizer-max": Model("iris", 'pipe(Normalizer("max"), LogisticRegression())', DECISION),
    "power-johnson": Model("wine", "pipe(PowerTransformer(), LogisticRegression())", DECISION),
    "power-cox": Model("wine", 'pipe(PowerTransformer("box-cox"), LogisticRegression())', DECISION),
    "power-centred": Model(
        "wine", "pipe(StandardScaler(), PowerTransformer(), LogisticRegression())", DECISION, quick=True
    ),
    "quantile": Model("iris", "pipe(QuantileTransformer(n_quantiles=20), LogisticRegression())"),
    "polynomial": Model("iris", "pipe(PolynomialFeatures(2), StandardScaler(), LogisticRegression())", DECISION),
    "polynomial-cubic": Model("iris", "pipe(PolynomialFeatures(3, interaction_only=True), Ridge())", "predict"),
    "kbins": Model("iris", 'pipe(KBinsDiscretizer(4, encode="onehot-dense"), LogisticRegression())', refused="no path"),
    "binarizer": Model("iris", "pipe(Binarizer(threshold=2.0), LogisticRegression())", refused="no path"),
    "imputer": Model("cancer", "pipe(SimpleImputer(missing_values=0.0), StandardScaler(), LogisticRegression())"),
    "imputer-knn": Model("iris", "pipe(KNNImputer(), LogisticRegression())", opset=18, refused="If"),
    "columns": Model(
        "cancer",
        'pipe(ColumnTransformer([("a", StandardScaler(), [0, 2, 4]), ("b", MinMaxScaler(), [1, 3]), ("c", '
        '"passthrough", [7, 9])]), StandardScaler(), LogisticRegression())',
        DECISION,
    ),
    "union": Model(
        "iris",
        'pipe(FeatureUnion([("pca", PCA(2)), ("best", SelectKBest(k=2)), ("all", MinMaxScaler())]), '
        "LogisticRegression())",
        DECISION,
        quick=True,
    ),
    "select": Model(
        "wine", "pipe(StandardScaler(), SelectKBest(k=5), VarianceThreshold(), LogisticRegression())", DECISION
    ),
    "function": Model("iris", "pipe(FunctionTransformer(), StandardScaler(), LogisticRegression())", DECISION),
    # Linear models
    "logistic": Model("iris", "LogisticRegression(max_iter=300)", DECISION, quick=True),
    "logistic-zipmap": Model("iris", "LogisticRegression(max_iter=300)", DECISION, zipmap=True),
    "logistic-raw": Model("iris", "LogisticRegression(max_iter=300)", DECISION, export=RAW),
    "logistic-probabilities": Model(
        "iris", "LogisticRegression(max_iter=300)", "predict_proba", options={"output": "probabilities"}
    ),
    "logistic-two-probabilities": Model(
        "cancer", "scaled(LogisticRegression())", "predict_proba", options={"output": "probabilities"}
    ),
    "logistic-ovr": Model("iris", "OneVsRestClassifier(LogisticRegression())"),
    "ovo": Model("iris", "OneVsOneClassifier(LogisticRegression())"),
    "sgd": Model("wine", 'scaled(SGDClassifier(loss="log_loss", random_state=0))'),
    "sgd-huber": Model("cancer", 'scaled(SGDClassifier(loss="modified_huber", random_state=0))'),
    "perceptron": Model("wine", "scaled(Perceptron(random_state=0))", DECISION, export=RAW),
    "passive-aggressive": Model("wine", "scaled(PassiveAggressiveClassifier(random_state=0))", DECISION, export=RAW),
    "ridge-classifier": Model("wine", "scaled(RidgeClassifier())", DECISION, export=RAW),
    "linear-svc": Model("wine", "scaled(LinearSVC())", DECISION, export={"nocl": False}),
    "linear-svr": Model("diabetes", "scaled(LinearSVR(max_iter=5000))", "predict"),
    "linear": Model("diabetes", "LinearRegression()", "predict"),
    "linear-two": Model("linnerud", "LinearRegression()", "predict"),
    "lasso": Model("diabetes", "scaled(Lasso(0.5))", "predict"),
    "elastic-net": Model("diabetes", "scaled(ElasticNet(0.1))", "predict"),
    "bayesian-ridge": Model("diabetes", "scaled(BayesianRidge())", "predict"),
    "huber": Model("diabetes", "scaled(HuberRegressor())", "predict"),
    "ransac": Model("diabetes", "scaled(RANSACRegressor(random_state=0))", "predict"),
    "poisson": Model("diabetes", "scaled(PoissonRegressor())", "predict"),
    "gamma": Model("diabetes", "scaled(GammaRegressor())", "predict"),
    "tweedie": Model("diabetes", "scaled(TweedieRegressor(power=1.5))", "predict"),
    "pls": Model("linnerud", "PLSRegression(2)", "predict"),
    "multi-output": Model("linnerud", "MultiOutputRegressor(Ridge())", "predict"),
    # Support vectors
    "svc-linear": Model("cancer", 'scaled(SVC(kernel="linear", coef0=0.5))', DECISION),
    "svc-poly": Model("cancer", 'scaled(SVC(kernel="poly", coef0=0.5))', DECISION),
    "svc-rbf": Model("cancer", 'scaled(SVC(kernel="rbf", coef0=0.5))', DECISION, quick=True),
    "svc-sigmoid": Model("cancer", 'scaled(SVC(kernel="sigmoid", coef0=0.5))', DECISION),
    "svc-three": Model("iris", "scaled(SVC())"),
    "svc-pairs": Model("iris", 'scaled(SVC(decision_function_shape="ovo"))', DECISION),
    "svc-probability": Model("cancer", "scaled(SVC(probability=True, random_state=0))"),
    "svc-probability-three": Model("iris", "scaled(SVC(probability=True, random_state=0))", refused="coupled"),
    "nusvc": Model("cancer", "scaled(NuSVC(nu=0.2))", DECISION),
    "svr-linear": Model("diabetes", 'scaled(SVR(kernel="linear", C=20))', "predict"),
    "svr-poly": Model("diabetes", 'scaled(SVR(kernel="poly", C=20))', "predict"),
    "svr-rbf": Model("diabetes", 'scaled(SVR(kernel="rbf", C=20))', "predict"),
    "svr-sigmoid": Model("diabetes", 'scaled(SVR(kernel="sigmoid", C=20))', "predict"),
    "nusvr": Model("diabetes", "scaled(NuSVR(C=20))", "predict"),
    "one-class": Model("iris", "scaled(OneClassSVM())", DECISION),
    "sgd-one-class": Model("iris", "scaled(SGDOneClassSVM(random_state=0))", DECISION),
    # Networks
    "mlp-relu": Model(
        "wine", 'scaled(MLPClassifier(hidden_layer_sizes=(8, 6), activation="relu", max_iter=60, random_state=0))'
    ),
    "mlp-tanh": Model(
        "wine",
        'scaled(MLPClassifier(hidden_layer_sizes=(8, 6), activation="tanh", max_iter=60, random_state=0))',
        quick=True,
    ),
    "mlp-logistic": Model(
        "wine", 'scaled(MLPClassifier(hidden_layer_sizes=(8, 6), activation="logistic", max_iter=60, random_state=0))'
    ),
    "mlp-identity": Model(
        "wine", 'scaled(MLPClassifier(hidden_layer_sizes=(8, 6), activation="identity", max_iter=60, random_state=0))'
    ),
    "mlp-regressor": Model(
        "diabetes",
        'scaled(MLPRegressor(hidden_layer_sizes=(8, 6), activation="relu", max_iter=60, random_state=0))',
        "predict",
    ),
    "mlp-digits": Model("digits", "scaled(MLPClassifier((16,), max_iter=30, random_state=0))", opset=13),
    # Bayes, discriminants, densities
    "naive-gauss": Model("iris", "GaussianNB()", "predict_joint_log_proba"),
    "naive-bernoulli": Model("digits", "pipe(MinMaxScaler(), BernoulliNB(binarize=None))"),
    "naive-multinomial": Model("digits", "MultinomialNB()", "predict_joint_log_proba"),
    "naive-complement": Model("digits", "ComplementNB()"),
    "lda": Model("iris", "LinearDiscriminantAnalysis()", DECISION),
    "lda-transform": Model("iris", "scaled(LinearDiscriminantAnalysis(n_components=2))", DECISION),
    "qda": Model("iris", "QuadraticDiscriminantAnalysis()"),
    "gaussian-mixture": Model("iris", "GaussianMixture(3, random_state=0)"),
    "gaussian-mixture-diagonal": Model("iris", 'GaussianMixture(3, covariance_type="diag", random_state=0)'),
    # Decompositions
    "pca": Model("wine", "pipe(StandardScaler(), PCA(4), LogisticRegression())", DECISION),
    "pca-whiten": Model("wine", "scaled(PCA(4, whiten=True))", "transform"),
    "svd": Model("wine", "scaled(TruncatedSVD(3))", "transform"),
    "incremental-pca": Model("wine", "scaled(IncrementalPCA(3))", "transform"),
    "kernel-pca-linear": Model("iris", 'KernelPCA(2, kernel="linear", gamma=0.02)', "transform"),
    "kernel-pca-poly": Model("iris", 'KernelPCA(2, kernel="poly", gamma=0.02)', "transform"),
    "kernel-pca-rbf": Model("iris", 'KernelPCA(2, kernel="rbf", gamma=0.02)', "transform"),
    "kernel-pca-sigmoid": Model("iris", 'KernelPCA(2, kernel="sigmoid", gamma=0.02)', "transform"),
    "kernel-pca-cosine": Model("iris", 'KernelPCA(2, kernel="cosine", gamma=0.02)', "transform"),
    "random-projection": Model("wine", "scaled(GaussianRandomProjection(3, random_state=0))", "transform"),
    "neighbourhood": Model("iris", "NeighborhoodComponentsAnalysis(2, random_state=0)", "transform"),
    # Gaussian processes
    "process": Model("diabetes", "scaled(GaussianProcessRegressor(RBF(5.0), alpha=1.0))", "predict", rows=60),
    "process-matern": Model(
        "diabetes", "scaled(GaussianProcessRegressor(Matern(5.0, nu=1.5), alpha=1.0))", "predict", rows=60
    ),
    "process-quadratic": Model(
        "diabetes", "scaled(GaussianProcessRegressor(RationalQuadratic(5.0), alpha=1.0))", "predict", rows=60
    ),
    "process-sum": Model(
        "diabetes",
        "scaled(GaussianProcessRegressor(DotProduct() + 2.0 * RBF(3.0) + WhiteKernel(), alpha=1.0))",
        "predict",
        rows=60,
    ),
    "process-periodic": Model(
        "diabetes", "scaled(GaussianProcessRegressor(ExpSineSquared(5.0, 9.0), alpha=1.0))", "predict", rows=40
    ),
    # Neighbours and clusters
    "neighbours": Model("iris", "KNeighborsClassifier(5)", refused="no path"),
    "neighbours-distance": Model("iris", 'KNeighborsClassifier(5, weights="distance")'),
    "neighbours-regressor": Model("diabetes", 'KNeighborsRegressor(5, weights="distance")'),
    "neighbours-uniform": Model("diabetes", "KNeighborsRegressor(5)", refused="no path"),
    "radius": Model("iris", "RadiusNeighborsClassifier(2.0)", refused="no path"),
    "k-means": Model("iris", "KMeans(3, random_state=0)", "transform", options={"output": "scores"}),
    "k-means-batch": Model("iris", "MiniBatchKMeans(3, random_state=0)", "transform", options={"output": "scores"}),
    # Ensembles of these
    "bagging": Model("wine", "scaled(BaggingClassifier(LogisticRegression(), 3, random_state=0))"),
    "bagging-regressor": Model("diabetes", "scaled(BaggingRegressor(Ridge(), 3, random_state=0))", "predict"),
    "stacking": Model(
        "wine",
        'scaled(StackingClassifier([("lr", LogisticRegression()), ("mlp", '
        "MLPClassifier((5,), max_iter=40, random_state=0))], cv=3))",
    ),
    "stacking-regressor": Model(
        "diabetes", 'scaled(StackingRegressor([("r", Ridge()), ("s", SVR(C=20))], cv=3))', "predict"
    ),
    "voting-soft": Model(
        "wine",
        'scaled(VotingClassifier([("lr", LogisticRegression()), ("nb", GaussianNB()), '
        '("lda", LinearDiscriminantAnalysis())], voting="soft", flatten_transform=False))',
    ),
    "voting-hard": Model(
        "wine",
        'scaled(VotingClassifier([("lr", LogisticRegression()), ("nb", GaussianNB()), '
        '("lda", LinearDiscriminantAnalysis())], voting="hard", flatten_transform=False))',
        refused="no path",
    ),
    "voting-regressor": Model("diabetes", 'scaled(VotingRegressor([("r", Ridge()), ("s", SVR(C=20))]))', "predict"),
    "calibrated-sigmoid": Model("wine", "scaled(CalibratedClassifierCV(LinearSVC(), cv=2))"),
    "calibrated-isotonic": Model(
        "cancer", 'scaled(CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2))', refused="no path"
    ),
    "grid": Model("wine", 'scaled(GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2))', DECISION),
    "multi-label": Model("multilabel", "MultiOutputClassifier(LogisticRegression())"),
    # Trees
    "tree": Model("iris", "DecisionTreeClassifier()", refused="piecewise constant"),
    "forest": Model("iris", "RandomForestClassifier(3)", refused="piecewise constant"),
    "boosting": Model("diabetes", "GradientBoostingRegressor(n_estimators=3)", refused="piecewise constant"),
    "isolation-forest": Model("iris", "IsolationForest(n_estimators=3)", refused="no path", ml=3),
    "boosted-trees": Model("iris", "AdaBoostClassifier(n_estimators=3)", refused="no path"),
}
