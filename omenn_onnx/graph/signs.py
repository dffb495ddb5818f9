"""Which signs the elements of a tensor may have, and whether they may be infinite or not a number.

A set of kinds (-inf, negative, zero, positive, +inf, NaN) follows each tensor through the graph: an operator's set is
what its numpy form makes of some numbers of each kind. ``x * x + 1e-5`` is positive, so its root and the reciprocal of
that are finite; ``Log`` of anything is not, but is behind ``Where(x > 0, Log(x), 0)``: each branch of a Where is
judged by the numbers that its condition leaves.

It tells which coefficients need a guard (a coefficient that is not finite counts as 0, since whatever looks at it is
not finite either, and what does not look at it multiplies it by 0). Where it cannot tell, it says that they do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import numpy_helper

from omenn_onnx.graph.ir import Array, Node, Tensor

MINUS_INF, NEGATIVE, ZERO, POSITIVE, PLUS_INF, NAN = (1 << k for k in range(6))
FINITE = NEGATIVE | ZERO | POSITIVE
ANY = 63
_NUMBERS = {
    MINUS_INF: [-math.inf],
    NEGATIVE: [-50.0, -2.0, -1.0, -0.5, -1e-3],  # (Exp of them is positive; what underflows is not looked for)
    ZERO: [0.0],
    POSITIVE: [1e-3, 0.5, 1.0, 2.0, 1e3],  # (Exp of the last one overflows)
    PLUS_INF: [math.inf],
    NAN: [math.nan],
}
_READ = 1 << 24
"""Constants with more elements are taken to be finite: they are not read."""

Function = Callable[[Array], Array]
Env = Mapping[Tensor, int]

_UNARY: dict[str, Function] = {
    **{op: getattr(np, op.lower()) for op in "Abs Ceil Cos Cosh Exp Floor Log Sign Sin Sinh Sqrt Tan Tanh".split()},
    **{op: getattr(np, f"arc{op[1:].lower()}") for op in "Acos Acosh Asin Asinh Atan Atanh".split()},
    "Erf": np.tanh,  # (of equal signs)
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.round,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x),
}
_BINARY = {"Add": np.add, "Div": np.divide, "Max": np.maximum, "Min": np.minimum, "Mul": np.multiply, "Pow": np.power,
           "Sub": np.subtract, "Sum": np.add}  # fmt: skip
_COMPARISONS = {"Equal": np.equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less,
                "LessOrEqual": np.less_equal}  # fmt: skip
_KEEPS = frozenset(
    "Cast CastLike Compress DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalMaxPool Identity "
    "MaxPool ReduceMax ReduceMin Reshape ReverseSequence Slice SpaceToDepth Split Squeeze Tile TopK Transpose "
    "Unsqueeze".split()
)
_SUMS = frozenset("AveragePool CumSum GlobalAveragePool ReduceMean ReduceSum".split())
_PRODUCTS = frozenset("BatchNormalization Conv ConvTranspose Einsum Gemm MatMul".split())
_NORMS = frozenset("GroupNormalization InstanceNormalization LayerNormalization RMSNormalization "
                   "SimplifiedLayerNormalization".split())  # fmt: skip


def _numbers(kinds: int) -> Array:
    return np.asarray([x for kind, some in _NUMBERS.items() if kinds & kind for x in some])


def _kinds_of(x: Array) -> int:
    found = [x == -math.inf, np.isfinite(x) & (x < 0), x == 0, np.isfinite(x) & (x > 0), x == math.inf, np.isnan(x)]
    return sum(1 << k for k, there in enumerate(found) if there.any())


class Signs:
    """The kinds of tensors, each found once."""

    def __init__(self) -> None:
        self.unbounded: set[Tensor] = set()  # inputs that may hold -inf: masks
        self._known: dict[Tensor, int] = {}

    def finite(self, t: Tensor) -> bool:
        """Whether every element is known to be finite."""
        return not self(t) & ~FINITE

    def __call__(self, t: Tensor) -> int:
        """The kinds that elements of ``t`` may be of."""
        pending = [t]
        while pending:
            t = pending[-1]
            if t not in self._known and (kinds := _stored(t)) is not None:
                self._known[t] = kinds | (MINUS_INF if t in self.unbounded and t.is_float else 0)
            if t in self._known:
                pending.pop()
                continue
            node = t.producer
            missing = [] if node is None else [i for i in _operands(node) if i not in self._known]
            if missing:
                pending.extend(missing)
                continue
            self._known[t] = self._of(node, t, {}, 0)
        return self._known[t]

    def _under(self, t: Tensor, env: Env, depth: int) -> int:
        """The kinds of ``t`` where tensors of ``env`` are only of the kinds that it says."""
        if t in env:
            return env[t] & self(t)
        if depth == 0 or not env or t.producer is None or _stored(t) is not None:
            return self(t)
        return self._of(t.producer, t, env, depth - 1) & self(t)

    def _of(self, node: Node | None, t: Tensor, env: Env, depth: int) -> int:
        if t.dtype is not None and t.dtype.kind == "b":
            return ZERO | POSITIVE
        if node is None:
            return FINITE
        inputs = _operands(node)
        kinds = [self._under(i, env, depth) for i in inputs]
        if node.domain not in ("", "com.microsoft"):
            return ANY if any(k & ~FINITE for k in kinds) else FINITE
        op, whole = node.op, t.dtype is not None and t.dtype.kind in "iu"
        if whole and op in ("Cast", "Div"):  # they cut to 0
            return FINITE
        if op == "Where" and len(inputs) == 3:
            return self._where(inputs, env, depth)
        with np.errstate(all="ignore"):
            if op in _UNARY and len(inputs) == 1:
                return _kinds_of(_UNARY[op](_numbers(kinds[0]))) if kinds[0] else 0
            if op in _BINARY and inputs:
                return self._binary(op, inputs, kinds)
            if op == "Clip":
                return self._clip(node, kinds[0])
        if op in _KEEPS and kinds:
            return kinds[0]
        if op in _SUMS and kinds:
            return _summed(kinds[0]) | (ZERO if op == "CumSum" else 0)
        return self._other(node, kinds)

    def _other(self, node: Node, kinds: list[int]) -> int:
        """Operators whose kinds follow no function of numbers."""
        op, first = node.op, kinds[0] if kinds else 0
        bad = any(k & ~FINITE for k in kinds)
        if op in ("Shape", "Size"):
            return POSITIVE
        if op in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
            return _summed(_kinds_of(np.abs(_numbers(first))))
        if op == "ReduceProd" and not bad:
            return first if first in (0, POSITIVE) else FINITE
        if op == "Concat":
            return int(np.bitwise_or.reduce(kinds))
        if op == "Trilu":
            return first | ZERO
        if op == "Pad":
            return first | (kinds[2] if len(kinds) > 2 else ZERO)
        if op == "ConstantOfShape":
            fill = node.attrs.get("value")
            return ZERO if fill is None else _kinds_of(numpy_helper.to_array(fill).astype(np.float64))
        if op in ("Softmax", "LogSoftmax", "ReduceLogSumExp"):
            return self._over_an_axis(node, first)
        if op in _NORMS and float(node.attrs.get("epsilon", 1e-5)) <= 0:
            return ANY
        return ANY if bad else FINITE

    def _binary(self, op: str, inputs: list[Tensor], kinds: list[int]) -> int:
        if op == "Sub" and self._from_maximum(inputs):
            return (NEGATIVE | ZERO) if not kinds[0] & ~FINITE else ANY
        if len(inputs) == 2 and inputs[0] is inputs[1]:
            x = self._values(inputs[0], kinds[0])
            return _kinds_of(_BINARY[op](x, x))
        total, found = self._values(inputs[0], kinds[0]), kinds[0]
        for t, kind in zip(inputs[1:], kinds[1:], strict=True):
            found = _kinds_of(_BINARY[op](total[:, None], self._values(t, kind)))
            total = _numbers(found)
        return found

    @staticmethod
    def _from_maximum(inputs: list[Tensor]) -> bool:
        """x - max(x)."""
        node = inputs[1].producer if len(inputs) == 2 else None
        return node is not None and node.op == "ReduceMax" and node.inputs[0] is inputs[0]

    def _clip(self, node: Node, kinds: int) -> int:
        x = _numbers(kinds)
        for bound, limit in zip(node.inputs[1:], (np.maximum, np.minimum), strict=False):
            if bound is not None and len(x):
                x = limit(x[:, None], self._values(bound, self(bound))).reshape(-1)
        return _kinds_of(x)

    @staticmethod
    def _values(t: Tensor, kinds: int) -> Array:
        """Numbers to try for ``t``: its own, if it is a known scalar."""
        if t.load is not None and _size(t) == 1:
            return np.asarray(t.load(), np.float64).reshape(-1)
        return _numbers(kinds)

    def _over_an_axis(self, node: Node, kinds: int) -> int:
        if kinds & (PLUS_INF | NAN):
            return ANY
        dead = kinds & MINUS_INF and not self._row_alive(node)
        if node.op == "ReduceLogSumExp":
            return FINITE | (MINUS_INF if dead else 0)
        usual = ZERO | POSITIVE if node.op == "Softmax" else NEGATIVE | ZERO | (kinds & MINUS_INF)
        return usual | (NAN if dead else 0)

    def _row_alive(self, node: Node) -> bool:
        """Whether the axis of a Softmax is masked by a constant that leaves something of every row."""
        masked = node.inputs[0]
        add = None if masked is None else masked.producer
        if add is None or add.op != "Add" or node.attrs.get("axis", -1) != -1 or node.op == "ReduceLogSumExp":
            return False
        for mask, other in itertools.permutations(add.inputs):
            if mask is None or other is None or _size(mask) > _READ or not mask.shape:
                continue
            value = mask.value
            if value is not None and self.finite(other):
                return bool(np.isfinite(value).any(axis=-1).all() and not np.isnan(value).any())
        return False

    # Conditions

    def _where(self, inputs: list[Tensor], env: Env, depth: int) -> int:
        condition, a, b = inputs
        found = 0
        for branch, holds in ((a, True), (b, False)):
            inside = {**env, **self._narrowed(condition, holds)}
            found |= self._under(branch, inside, depth or 6)
        return found

    def _narrowed(self, condition: Tensor, holds: bool) -> dict[Tensor, int]:
        """What a condition that holds, or does not, leaves of the tensors that it tests."""
        node = condition.producer
        if node is None or node.domain or node.inputs[0] is None:
            return {}
        first = node.inputs[0]
        if node.op in ("Identity", "Cast", "Expand", "Unsqueeze", "Squeeze", "Reshape"):
            return self._narrowed(first, holds)
        if node.op == "Not":
            return self._narrowed(first, not holds)
        if node.op == ("And" if holds else "Or"):
            both: dict[Tensor, int] = {}
            for part in node.inputs:
                for t, kinds in ({} if part is None else self._narrowed(part, holds)).items():
                    both[t] = both.get(t, ANY) & kinds
            return both
        if node.op in ("IsNaN", "IsInf") and not node.attrs:
            kinds = NAN if node.op == "IsNaN" else MINUS_INF | PLUS_INF
            return {first: kinds if holds else ANY & ~kinds}
        second = node.input(1)
        if node.op not in _COMPARISONS or second is None:
            return {}
        compare = _COMPARISONS[node.op]
        if second.load is not None and _size(second) == 1:
            c = float(np.asarray(second.load()).reshape(()))
            return self._tested(first, lambda x: compare(x, c) == holds)
        if first.load is not None and _size(first) == 1:
            c = float(np.asarray(first.load()).reshape(()))
            return self._tested(second, lambda x: compare(c, x) == holds)
        return {}

    def _tested(self, t: Tensor, test: Function) -> dict[Tensor, int]:
        """The kinds that pass a test of ``t``, for it and for what it is a function of."""
        found: dict[Tensor, int] = {}
        function: Function = lambda x: x  # noqa: E731
        with np.errstate(all="ignore"):
            while True:
                x = _numbers(self(t))
                found[t] = _kinds_of(x[test(function(x))])
                node = t.producer
                if node is None or node.op not in (*_UNARY, "Cast", "Identity") or node.inputs[0] is None:
                    return found
                inner, outer = _UNARY.get(node.op, lambda x: x), function
                function = _composed(outer, inner)
                t = node.inputs[0]


def _operands(node: Node) -> list[Tensor]:
    """The inputs that the kinds of the outputs depend on. Stored weights of products are finite: they are not read."""
    products = node.op in _PRODUCTS
    return [i for i in node.inputs if i is not None and not (products and i.load is not None)]


def _composed(outer: Function, inner: Function) -> Function:
    return lambda x: outer(inner(x))


def _summed(kinds: int) -> int:
    """The kinds of sums."""
    if kinds & NEGATIVE and kinds & POSITIVE:
        kinds |= ZERO
    return kinds | NAN if kinds & MINUS_INF and kinds & PLUS_INF else kinds


def _size(t: Tensor) -> int:
    """The number of elements; beyond all limits if it is not known."""
    if t.shape is None or any(isinstance(d, str) for d in t.shape):
        return _READ + 1
    return math.prod(d for d in t.shape if isinstance(d, int))


def _stored(t: Tensor) -> int | None:
    """The kinds of a tensor of known value, of an input, of what is no number; None if they are to be found out."""
    if t.load is not None:
        if t.dtype is not None and t.dtype.kind not in "biu" and not t.is_float:
            return FINITE
        if _size(t) > _READ:
            return FINITE
        value: Any = t.load()
        return _kinds_of(np.asarray(value).astype(np.float64)) if value.dtype.kind not in "OUS" else FINITE
    return FINITE if t.producer is None else None
