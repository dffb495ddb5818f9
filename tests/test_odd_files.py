"""Files that are right but unusual: old ones, odd names, nested functions, sparse and text constants, strange ends.

Each compiles, gives the outputs of the original, and sums to its score; where it has a plain twin it explains as that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from explaining import Array, assert_same_outputs, compiled, explain, run
from onnx import TensorProto, helper, numpy_helper

import omenn_onnx
from omenn_onnx.errors import CompileError

F = np.float32
RANDOM = np.random.default_rng(0)
W = RANDOM.normal(size=(4, 3)).astype(F)
B = RANDOM.normal(size=3).astype(F)
CASES: dict[str, Callable[[], onnx.ModelProto]] = {}


def case(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    CASES[build.__name__.strip("_")] = build
    return build


def node(op: str, inputs: str, outputs: str, domain: str = "", name: str = "", **attrs: object) -> onnx.NodeProto:
    """A node; an underscore stands for an operand that is left out."""
    names = [["" if i == "_" else i for i in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name, domain=domain, **attrs)


def info(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 17,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    **stored: Array,
) -> onnx.ModelProto:
    """y of x, both of known shape; W and B where the nodes read them."""
    weights = {"W": W, "B": B, **stored}
    read = {i for n in nodes for i in n.input} | set(stored)
    read |= {i for n in nodes for a in n.attribute for inner in a.g.node for i in inner.input}
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [info("x", [2, 4])],
        outputs or [info("y", [2, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items() if k in read],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def function(
    name: str,
    inputs: str,
    outputs: str,
    nodes: Sequence[onnx.NodeProto],
    domains: Sequence[str] = (),
    **options: object,
) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_function("mine", name, inputs.split(), outputs.split(), nodes, imports, **options)


def plain() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "m"), node("Add", "m B", "a"), node("Tanh", "a", "y")])


# --- old files, and initializers that are inputs ---------------------------------------------------------------------


@case
def _initializers_as_inputs() -> onnx.ModelProto:
    ends = [info("W", [4, 3]), info("B", [3]), info("x", [2, 4])]  # weights first, as some exporters wrote them
    proto = model([node("MatMul", "x W", "m"), node("Add", "m B", "a"), node("Tanh", "a", "y")], ends, opset=8)
    proto.ir_version = 3
    return proto


@case
def _one_weight_may_be_fed() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "m"), node("Add", "m B", "y")], [info("x", [2, 4]), info("W", [4, 3])])


@case
def _domain_spelt_out() -> onnx.ModelProto:
    proto = plain()
    for part in (*proto.graph.node, *proto.opset_import):
        part.domain = "ai.onnx"
    return proto


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    "colons": ("x:0", "W:0", "m:1", "y:0"),
    "semicolons": ("x;y", "W;1", "m/n;o", "y,z"),
    "slashes": ("/x", "/W/", "//m", "/y/"),
    "spaces": ("my input", "my W", " m ", "the output"),
    "unicode": ("входð", "重み", "m😀", "é"),
    "ours": ("omenn/x", "omenn/const_1", "omenn/MatMul_1", "omenn/y"),
    "like-sizes": ("x#0", "N", "batch*2", "y+1"),
    "suffixes": ("x.1", "W.weight", "m.weight", "y.X"),
    "public": ("x", "score", "C_w", "y"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names(names):
    x, w, m, y = names
    nodes = [helper.make_node("MatMul", [x, w], [m], name=x), helper.make_node("Tanh", [m], [y], name=w)]
    proto = model(nodes, [info(x, [2, 4])], [info(y, [2, 3])], **{w: W})
    feeds = {x: RANDOM.normal(size=(2, 4)).astype(F)}
    program = compiled(proto)
    explained = omenn_onnx.Explainer(program)(feeds)
    assert explained.complete
    np.testing.assert_array_equal(explained.outputs[y], run(proto, feeds)[y])
    twin = omenn_onnx.Explainer(compiled(model([node("MatMul", "x W", "m"), node("Tanh", "m", "y")])))({"x": feeds[x]})
    np.testing.assert_array_equal(explained.C_w, twin.C_w)


@pytest.mark.parametrize("name", ["C_w", "C_b", "score", "target"])
def test_an_output_with_a_public_name_asks_for_a_prefix(name):
    proto = model([node("MatMul", "x W", name)], outputs=[info(name, [2, 3])])
    with pytest.raises(CompileError, match="--prefix"):
        compiled(proto)
    assert name in {o.name for o in compiled(proto, prefix="why_").graph.output}


# --- ends ------------------------------------------------------------------------------------------------------------


@case
def _unused_input_and_weight() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "y")], [info("x", [2, 4]), info("nobody", ["k"], TensorProto.INT64)], spare=B)


@case
def _dead_node() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "y"), node("Softmax", "y", "dead")])


@case
def _output_is_the_input() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "y")], outputs=[info("y", [2, 3]), info("x", [2, 4])])


@case
def _output_is_a_weight() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "y")], outputs=[info("W", [4, 3]), info("y", [2, 3])])


@case
def _output_twice() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "y")], outputs=[info("y", [2, 3]), info("y", [2, 3])])


@case
def _constant_output_first() -> onnx.ModelProto:
    nodes = [node("MatMul", "x W", "y"), node("Identity", "W", "copy")]
    return model(nodes, outputs=[info("copy", [4, 3]), info("y", [2, 3])])


@case
def _scalar_output() -> onnx.ModelProto:
    return model([node("MatMul", "x W", "m"), node("ReduceSum", "m", "y", keepdims=0)], outputs=[info("y", [])])


@case
def _label_by_name() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x W", "z"),
        node("ArgMax", "z", "i", axis=1, keepdims=0),
        node("Gather", "names i", "label"),
    ]
    names = np.array(["a", "b", "c"], object)
    return model(nodes, outputs=[info("label", [2], TensorProto.STRING)], names=names)


@case
def _text_constant() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x W", "y"),
        node("Constant", "", "s", value_strings=[b"a", b"b"]),
        node("Identity", "s", "t"),
    ]
    return model(nodes, outputs=[info("y", [2, 3]), info("t", [2], TensorProto.STRING)])


# --- operands left out, shapes missing or wrong ----------------------------------------------------------------------


@case
def _operands_left_out() -> onnx.ModelProto:
    nodes = [
        node("Clip", "x _ high", "c"),
        node("Clip", "c low _", "d"),
        node("Gemm", "d W _", "e"),
        node("Dropout", "e", "y _"),
    ]
    return model(nodes, high=F(0.5), low=F(-0.5))


@case
def _wrong_rank_declared() -> onnx.ModelProto:
    proto = plain()
    proto.graph.value_info.append(info("m", ["a", "b", "c"]))
    return proto


@case
def _wrong_size_declared() -> onnx.ModelProto:
    proto = plain()
    proto.graph.value_info.append(info("m", [2, 7]))
    return proto


@case
def _wrong_symbols_declared() -> onnx.ModelProto:
    nodes = [node("MatMul", "x W", "m"), node("Transpose", "m", "t"), node("Tanh", "t", "y")]
    return model(nodes, [info("x", ["N", 4])], [info("y", ["N", "N"])])


@case
def _several_domains() -> onnx.ModelProto:
    nodes = [node("MatMul", "x W", "m"), node("Gelu", "m", "g", "com.microsoft"),
             node("Scaler", "g", "y", "ai.onnx.ml", offset=[0.1, 0.2, 0.3], scale=[1.0, 2.0, 3.0])]  # fmt: skip
    return model(nodes, domains=["com.microsoft", "ai.onnx.ml", "never.used"])


# --- sparse weights --------------------------------------------------------------------------------------------------

PLACES = np.array([[0, 0], [1, 1], [3, 2]])
SPARSE = np.zeros((4, 3), F)
SPARSE[tuple(PLACES.T)] = [1, 2, 3]


def sparse(indices: Array) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(F([1, 2, 3]), "S")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.asarray(indices, np.int64)), [4, 3])


def _of_sparse(indices: Array) -> onnx.ModelProto:
    proto = model([node("MatMul", "x S", "m"), node("Add", "m B", "a"), node("Tanh", "a", "y")])
    proto.graph.sparse_initializer.append(sparse(indices))
    return proto


TWINS = {
    "initializers_as_inputs": plain,
    "domain_spelt_out": plain,
    "wrong_rank_declared": plain,
    "wrong_size_declared": plain,
    "sparse_positions": lambda: model(
        [node("MatMul", "x S", "m"), node("Add", "m B", "a"), node("Tanh", "a", "y")], S=SPARSE
    ),
}


@case
def _sparse_positions() -> onnx.ModelProto:
    return _of_sparse(PLACES)


@case
def _sparse_places() -> onnx.ModelProto:
    return _of_sparse(np.ravel_multi_index(tuple(PLACES.T), (4, 3)))


@case
def _sparse_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["S"], sparse_value=sparse(PLACES))
    return model([constant, node("MatMul", "x S", "m"), node("Add", "m B", "a"), node("Tanh", "a", "y")])


@case
def _sparse_scale() -> onnx.ModelProto:
    proto = model([node("MatMul", "x W", "m"), node("Mul", "m S", "a"), node("Add", "a B", "y")])
    values = numpy_helper.from_array(F([1, 2]), "S")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 2])), [3])
    )
    return proto


TWINS |= {"sparse_places": TWINS["sparse_positions"], "sparse_constant": TWINS["sparse_positions"]}

# --- functions -------------------------------------------------------------------------------------------------------


def _if(then: Sequence[onnx.NodeProto], other: Sequence[onnx.NodeProto], shape: Sequence[int]) -> onnx.NodeProto:
    """b of the branch that c takes; each branch ends in a tensor of its own."""
    branches = [helper.make_graph(n, "branch", [], [info(n[-1].output[0], shape)]) for n in (then, other)]
    return helper.make_node("If", ["c"], ["b"], then_branch=branches[0], else_branch=branches[1])


POSITIVE = [
    node("ReduceSum", "x", "s", keepdims=0),
    node("Constant", "", "z", value_float=0.0),
    node("Greater", "s z", "c"),
]


@case
def _functions_in_functions() -> onnx.ModelProto:
    twice = [node("Constant", "", "k", value_float=2.0), node("Mul", "a k", "c"), node("Tanh", "c", "b")]
    inner = function("Inner", "a", "b", twice)
    outer = [node("Inner", "a", "t", "mine"), node("MatMul", "t w", "u"), node("Inner", "u", "b", "mine")]
    call = node("Outer", "x W", "y", "mine")
    return model([call], domains=["mine"], functions=[inner, function("Outer", "a w", "b", outer, ["mine"])])


TWINS["functions_in_functions"] = lambda: model(
    [
        node("Mul", "x k", "a"),
        node("Tanh", "a", "b"),
        node("MatMul", "b W", "c"),
        node("Mul", "c k", "d"),
        node("Tanh", "d", "y"),
    ],
    k=F(2),
)


@case
def _function_attributes() -> onnx.ModelProto:
    """One is required, one has a default, which the first call takes and the second does not."""
    leaky, turned = node("LeakyRelu", "a", "c"), node("Transpose", "c", "b")
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    turned.attribute.add(name="perm", ref_attr_name="order", type=onnx.AttributeProto.INTS)
    slope = helper.make_attribute("slope", 0.3)
    f = function("F", "a", "b", [leaky, turned], attributes=["order"], attribute_protos=[slope])
    calls = [node("F", "x", "t", "mine", order=[1, 0]), node("F", "t", "u", "mine", order=[1, 0], slope=0.5)]
    return model([*calls, node("MatMul", "u W", "y")], domains=["mine"], functions=[f])


TWINS["function_attributes"] = lambda: model(
    [node("LeakyRelu", "x", "a", alpha=0.3), node("LeakyRelu", "a", "b", alpha=0.5), node("MatMul", "b W", "y")]
)


@case
def _overloads() -> onnx.ModelProto:
    calls, functions = [], []
    for op, ends in (("Tanh", "x t"), ("Sigmoid", "t u")):
        call, f = node("F", *ends.split(), "mine"), function("F", "a", "b", [node(op, "a", "b")])
        call.overload = f.overload = op
        calls.append(call)
        functions.append(f)
    return model([*calls, node("MatMul", "u W", "y")], domains=["mine"], functions=functions)


TWINS["overloads"] = lambda: model([node("Tanh", "x", "t"), node("Sigmoid", "t", "u"), node("MatMul", "u W", "y")])


@case
def _function_called_with_less() -> onnx.ModelProto:
    f = function("F", "a w b", "c", [node("Gemm", "a w b", "c")])
    return model([node("F", "x W", "y", "mine")], domains=["mine"], functions=[f])


TWINS["function_called_with_less"] = lambda: model([node("Gemm", "x W", "y")])


@case
def _function_with_branches() -> onnx.ModelProto:
    f = function("F", "x", "b", [*POSITIVE, _if([node("Tanh", "x", "p")], [node("Sigmoid", "x", "q")], [2, 4])])
    return model([node("F", "x", "t", "mine"), node("MatMul", "t W", "y")], domains=["mine"], functions=[f])


@case
def _function_with_a_loop() -> onnx.ModelProto:
    steps = [node("Mul", "s k", "m"), node("Tanh", "m", "next"), node("Identity", "go", "on")]
    ends = [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("s", [2, 4])]
    body = helper.make_graph(steps, "body", ends, [info("on", [], TensorProto.BOOL), info("next", [2, 4])])
    true = helper.make_tensor("", TensorProto.BOOL, [], [True])
    nodes = [node("Constant", "", "k", value_float=1.5), node("Constant", "", "n", value_int=3),
             node("Constant", "", "go", value=true), node("Loop", "n go a", "b", body=body)]  # fmt: skip
    call = node("F", "x", "t", "mine")
    return model([call, node("MatMul", "t W", "y")], domains=["mine"], functions=[function("F", "a", "b", nodes)])


@case
def _branches_that_see_far() -> onnx.ModelProto:
    """Outer tensors two graphs up, and the same inner name in both branches."""
    inner = _if([node("MatMul", "h W", "o")], [node("MatMul", "x W", "o")], [2, 3])
    outer = _if([inner], [node("MatMul", "h W", "q"), node("Tanh", "q", "b")], [2, 3])
    return model([node("Relu", "x", "h"), *POSITIVE, outer, node("Identity", "b", "y")], W=W)


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["secant", "tangent"])
@pytest.mark.parametrize("name", CASES)
def test_case(name, rules):
    proto = CASES[name]()
    program = compiled(proto, rules=rules)
    twin = compiled(TWINS[name](), rules=rules) if name in TWINS else None
    for sign in (1, -1):  # either branch
        feeds = {"x": sign * np.abs(np.random.default_rng(1).normal(size=(2, 4))).astype(F)}
        if "nobody" in {v.name for v in proto.graph.input}:
            feeds["nobody"] = np.arange(3)
        explained = omenn_onnx.Explainer(program)(feeds)
        assert explained.complete
        for key, expected in run(proto, feeds).items():
            np.testing.assert_array_equal(explained.outputs[key], expected)
        if twin is not None:
            expected = explain(twin, feeds)
            np.testing.assert_allclose(explained.C_w, expected.c_w[0], atol=1e-6)
            np.testing.assert_allclose(explained.C_b, expected.c_b[0], atol=1e-6)
            assert_same_outputs(expected, proto, feeds, True)
