"""Writing new nodes next to a graph: constants, operators, run-time sizes; equal nodes are written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from omenn_onnx.graph.ir import Array, Dim, Graph, Node, Shape, Tensor
from omenn_onnx.graph.signs import Signs

_ELEMENTWISE = frozenset(
    "Abs Add And Atan Cast Ceil Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mul Neg Not Or Pow Reciprocal Relu "
    "Round Sigmoid Sign Sin Sinh Softmax Softplus Sqrt Sub Sum Tan Tanh Where".split()
)
_KNOWN = 4096
"""Constants up to this size are worked out: casts keep their value known, and see _FOLDED."""
_PROPAGATED = frozenset("Reshape Slice Squeeze Transpose Unsqueeze".split())
_BOOLEAN = frozenset("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or".split())

_FOLDED: dict[str, Callable[..., Array]] = {
    "Add": lambda attrs, a, b: a + b,
    "Mul": lambda attrs, a, b: a * b,
    "Reciprocal": lambda attrs, a: np.reciprocal(a),
    "Reshape": lambda attrs, a, shape: a.reshape([a.shape[i] if d == 0 else d for i, d in enumerate(shape)]),
    "Sqrt": lambda attrs, a: np.sqrt(a),
    "Sub": lambda attrs, a, b: a - b,
    "Transpose": lambda attrs, a: a.transpose(attrs["perm"]),
}
"""Operators that are worked out when all they read is small and known."""

Operand = Tensor | Array | float | Sequence[int] | None
Form = Callable[["Emitter", Sequence[Tensor | None], Mapping[str, Any], Shape | None], list[Tensor] | None]
"""Writes a node of inputs, attributes and shape in another form; None where it may stay as it is."""


def broadcast_shapes(shapes: Iterable[Shape | None]) -> Shape | None:
    """The numpy broadcast of ``shapes``; None when a rank is unknown or two different symbols meet."""
    result: list[Dim] = []
    for shape in shapes:
        if shape is None:
            return None
        result = [*[1] * (len(shape) - len(result)), *result]
        for i, d in enumerate(reversed(shape), 1):
            if result[-i] == 1:
                result[-i] = d
            elif d not in (1, result[-i]):
                return None
    return tuple(result)


def _few(shape: Shape | None) -> bool:
    sizes = [d for d in shape or () if isinstance(d, int)]
    return shape is not None and len(sizes) == len(shape) and int(np.prod(sizes, dtype=np.int64)) <= _KNOWN


def _cast(value: Array | None, dtype: np.dtype[Any]) -> Array:
    assert value is not None
    with np.errstate(over="ignore"):
        return value.astype(dtype)


class Emitter:
    """Appends nodes to ``nodes``. Float constants take the explanation's type ``dtype``.

    Every name starts with ``prefix``, which must not begin any name of the original graph. ``provider`` is where the
    file is to run, ``forms`` the operators that are written in another form there.
    """

    def __init__(
        self,
        graph: Graph,
        dtype: np.dtype[Any],
        prefix: str = "omenn",
        provider: str = "cpu",
        forms: Mapping[str, Form] | None = None,
    ) -> None:
        self.graph = graph
        self.dtype = dtype
        self.prefix = prefix
        self.provider = provider
        self.forms = forms or {}
        self.nodes: list[Node] = []
        self.constants: list[Tensor] = []
        self.signs = Signs()
        self._seen: dict[tuple[Any, ...], list[Tensor]] = {}
        self._sources: dict[str, tuple[Tensor, int]] | None = None
        self._derived: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def new_name(self, what: str) -> str:
        """A name that nothing has yet."""
        n = self._counts[what] = self._counts.get(what, 0) + 1
        return f"{self.prefix}/{what}_{n}"

    def op(
        self,
        op: str,
        *inputs: Operand,
        shape: Shape | None = None,
        dtype: np.dtype[Any] | None = None,
        **attrs: Any,
    ) -> Tensor:
        """One node with one output; numbers become constants (floats of the explanation's type, lists int64)."""
        return self.ops(op, 1, *inputs, shape=shape, dtype=dtype, **attrs)[0]

    def ops(
        self,
        op: str,
        count: int,
        *inputs: Operand,
        shape: Shape | None = None,
        dtype: np.dtype[Any] | None = None,
        **attrs: Any,
    ) -> list[Tensor]:
        """One node with ``count`` outputs, or the outputs of the equal node that already stands."""
        operands = [self._operand(i) for i in inputs]
        if op in _PROPAGATED and operands and operands[0] is not None:
            operands[0] = self._apart(operands[0])
        key = (op, count, tuple(id(t) for t in operands), tuple(sorted((k, _key(v)) for k, v in attrs.items())))
        if key in self._seen:
            for t in self._seen[key]:
                t.shape = shape if t.shape is None else t.shape
            return self._seen[key]
        made = self.forms[op](self, operands, attrs, shape) if op in self.forms else None
        if made is not None:
            self._seen[key] = made
            return made
        known = [t for t in operands if t is not None]
        value = self._folded(op, known, attrs) if count == 1 and len(known) == len(operands) else None
        if value is not None:
            self._seen[key] = [self.const(value)]
            return self._seen[key]
        if shape is None and op in _ELEMENTWISE:
            shape = broadcast_shapes(t.shape for t in known)
        if dtype is None:
            dtype = self._result_type(op, known)
        outputs = [Tensor(self.new_name(op), dtype, shape, const=all(t.const for t in known)) for _ in range(count)]
        node = Node(op, "", operands, outputs, attrs, outputs[0].name)
        for t in outputs:
            t.producer = node
        self.nodes.append(node)
        self._seen[key] = outputs
        return outputs

    def _folded(self, op: str, operands: Sequence[Tensor], attrs: Mapping[str, Any]) -> Array | None:
        """The value of a node of small known constants, which is then stored instead: each node that a runtime folds
        costs it time at load."""
        if op not in _FOLDED or any(t.load is None or not _few(t.shape) for t in operands):
            return None
        values = [t.value for t in operands]
        if any(v is None or v.dtype.kind not in "fi" or v.dtype.itemsize < 4 for v in values):
            return None
        with np.errstate(all="ignore"):
            value = _FOLDED[op](attrs, *values)
        return value if value.dtype == operands[0].dtype else None

    def further_output(self, node: Node, place: int, dtype: np.dtype[Any], shape: Shape | None) -> Tensor | None:
        """An optional output of a node of the model, which may not ask for it yet; None if the node is not of the
        model's own graph."""
        if all(n is not node for n in self.graph.nodes):
            return None
        while len(node.outputs) <= place:
            node.outputs.append(Tensor("", dtype, shape, node))
        t = node.outputs[place]
        if not t.name:
            t.name, t.dtype, t.shape = self.new_name(node.op), dtype, shape
        return t

    def _apart(self, t: Tensor) -> Tensor:
        """``t``, behind a copy if it comes from a DequantizeLinear of int8: from opset 21 on ONNX Runtime (1.31) moves
        that across what only moves elements, takes it for uint8 there, and refuses the file."""
        node = t.producer
        if self.graph.opset < 21 or t.const or node is None or node.op != "DequantizeLinear":
            return t
        source = node.inputs[0]
        return self.op("Sum", t, shape=t.shape) if source is not None and source.dtype == np.int8 else t

    @staticmethod
    def _result_type(op: str, operands: list[Tensor]) -> np.dtype[Any] | None:
        if op in _BOOLEAN:
            return np.dtype(bool)
        if op in ("Shape", "Size", "ArgMax", "NonZero"):
            return np.dtype(np.int64)
        if op == "Where":
            return operands[1].dtype
        return operands[0].dtype if operands else None

    def _operand(self, value: Operand) -> Tensor | None:
        if value is None or isinstance(value, Tensor):
            return value
        if isinstance(value, (int, float)):
            return self.const(np.asarray(value, self.dtype))
        if isinstance(value, np.ndarray):
            return self.const(value)
        return self.const(np.asarray(value, np.int64))

    def const(self, value: Array) -> Tensor:
        """A constant; equal constants are stored once."""
        value = np.ascontiguousarray(value).reshape(value.shape)
        key = ("const", value.dtype.str, value.shape, value.tobytes())
        if key not in self._seen:
            t = Tensor(self.new_name("const"), value.dtype, value.shape, const=True, load=lambda: value)
            self.constants.append(t)
            self._seen[key] = [t]
        return self._seen[key][0]

    def cast(self, t: Tensor, dtype: np.dtype[Any] | None = None) -> Tensor:
        """``t`` in the explanation's type (or ``dtype``); itself when it already is. Of a small constant the value
        stays known."""
        dtype = self.dtype if dtype is None else dtype
        if t.dtype == dtype:
            return t
        y = self.op("Cast", t, shape=t.shape, dtype=dtype, to=type_code(dtype))
        if t.load is not None and y.load is None and _few(t.shape):
            y.load = lambda: _cast(t.value, dtype)
        return y

    def finite(self, t: Tensor) -> Tensor:
        """``t`` with 0 for what is not finite; itself where that is known not to be."""
        if self.signs.finite(t):
            return t
        if t.load is not None and t.value is not None:
            return self.const(np.where(np.isfinite(t.value), t.value, np.zeros((), t.dtype)))
        real = self.op("Less", self.op("Abs", t, shape=t.shape), np.asarray(np.inf, t.dtype), shape=t.shape)
        return self.op("Where", real, t, np.zeros((), t.dtype), dtype=t.dtype, shape=t.shape)

    def scatter_add(self, indices: Tensor, x: Tensor, axis: int, shape: Shape) -> Tensor:
        """y[indices[i, j, ...], j, ...] += x[i, j, ...] (along ``axis``) from a y of zeros of ``shape``; in float32 at
        least: ONNX Runtime's ScatterElements adds no half floats."""
        wide = np.promote_types(self.dtype, np.float32)
        zeros = self.op("Expand", np.zeros((), wide), self.shape(shape), shape=shape)
        added = self.op("ScatterElements", zeros, indices, self.cast(x, wide), axis=axis, reduction="add", shape=shape)
        return self.cast(added)

    # Sizes at run time

    def _source_table(self) -> dict[str, tuple[Tensor, int]]:
        if self._sources is None:
            self._sources = {}
            produced = (o for n in self.graph.nodes for o in n.outputs)
            for t in (*self.graph.inputs, *produced):
                for axis, d in enumerate(t.shape or ()):
                    if isinstance(d, str):
                        self._sources.setdefault(d, (t, axis))
        return self._sources

    def new_dim(self, t: Tensor, axis: int) -> str:
        """A symbol for the size of an emitted tensor along an axis."""
        symbol = f"{t.name}#{axis}"
        self._source_table()[symbol] = (t, axis)
        return symbol

    def new_size(self, dims: Shape) -> Dim:
        """The number of elements of a shape as one size."""
        if all(isinstance(d, int) for d in dims):
            return int(np.prod(np.asarray(dims, np.int64)))
        product = self.op("ReduceProd", self.shape(dims), keepdims=1, shape=(1,))
        symbol = "*".join(str(d) for d in dims)
        self._derived[symbol] = product
        return symbol

    def derived_dim(self, d: str, change: int) -> str:
        """The size ``d + change``."""
        symbol = f"{d}{change:+d}"
        if symbol not in self._derived:
            self._derived[symbol] = self.op("Add", self.dim(d), [change], shape=(1,))
        return symbol

    def dim(self, d: Dim) -> Tensor:
        """One size as an int64 tensor of shape [1]."""
        if isinstance(d, int):
            return self.const(np.asarray([d], np.int64))
        if d in self._derived:
            return self._derived[d]
        tensor, axis = self._source_table()[d]
        return self.op("Shape", tensor, start=axis, end=axis + 1, shape=(1,))

    def shape(self, dims: Sequence[Dim | Tensor]) -> Tensor:
        """Sizes as one int64 vector; a part may be an int64 vector tensor itself."""
        parts: list[Tensor] = []
        pending: list[int] = []
        for d in dims:
            if isinstance(d, int):
                pending.append(d)
                continue
            if pending:
                parts.append(self.const(np.asarray(pending, np.int64)))
                pending = []
            parts.append(d if isinstance(d, Tensor) else self.dim(d))
        if pending or not parts:
            parts.append(self.const(np.asarray(pending, np.int64)))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def shape_of(self, t: Tensor) -> Tensor:
        """The shape of ``t`` as an int64 vector, a constant when it is static."""
        if t.shape is not None and all(isinstance(d, int) for d in t.shape):
            return self.const(np.asarray(t.shape, np.int64))
        return self.op("Shape", t, shape=None if t.shape is None else (len(t.shape),))

    def count(self, dims: Sequence[Dim]) -> Tensor | float:
        """The product of sizes as a number, or as a scalar tensor of the explanation's type."""
        if all(isinstance(d, int) for d in dims):
            return float(np.prod(np.asarray(dims, np.float64)))
        product = self.op("ReduceProd", self.shape(dims), keepdims=0, shape=())
        return self.cast(product)


def type_code(dtype: np.dtype[Any]) -> int:
    """The TensorProto code of a numpy type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
