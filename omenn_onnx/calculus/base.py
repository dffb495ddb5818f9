"""What every rule works with: pairs of streams, operands, and the registry.

Every tensor that depends on the explained input has a value stream v (equal to the tensor) and a ones stream o (equal
to one everywhere); a bias b is the linear term b * o. A rule takes the operands of a node and returns the pairs of its
outputs, or None for an output that is constant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omenn_onnx.errors import CompileError, Unsupported
from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Array, Graph, Node, Shape, Tensor
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder, join_shapes
from omenn_onnx.linear.program import Var


@dataclass(eq=False, slots=True)
class Pair:
    """Value and ones stream of a carrier, and its gate rank (semantics: who is the weight in a product)."""

    value: Var
    ones: Var
    rank: int = 0


@dataclass(eq=False, slots=True)
class Operand:
    """An input of a node: its forward tensor ``t`` (in the explanation's type if it is a float), and its pair if it
    carries."""

    t: Tensor
    pair: Pair | None

    @property
    def shape(self) -> Shape:
        if self.t.shape is None:
            raise CompileError(
                f"tensor {self.t.name!r}: not even its rank is known. Run shape inference on the model, or declare the "
                "shapes of its inputs"
            )
        return self.t.shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def value(self) -> Array | None:
        """The value when it is known at compile time."""
        return self.t.value


Result = Pair | Sequence[Pair | None] | None
Rule = Callable[..., Result]
RULES: dict[tuple[str, str], Rule] = {}
"""Rules by (domain, operator)."""
CONSTANTS: set[tuple[str, str]] = set()
"""Operators whose outputs are constants whatever their inputs: integers, booleans, shapes, random numbers."""


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers a rule. It is called as rule(p, node, *operands, **attributes): a parameter of the rule that is keyword
    only takes the attribute of that name."""

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[domain, op] = function
        return function

    return register


def constant(*ops: str, domain: str = "") -> None:
    """Declares operators whose outputs are constants."""
    CONSTANTS.update((domain, op) for op in ops)


def knows(node: Node) -> bool:
    """Whether the calculus has something to say of an operator by itself."""
    key = (node.domain, node.op)
    return key in RULES or key in CONSTANTS


QUANTISERS = frozenset(
    {("", "QuantizeLinear"), ("com.microsoft", "QuantizeLinear"), ("", "DynamicQuantizeLinear"), ("omenn", "Settled")}
)
"""Operators that make carriers of integers."""
KEEP_INTEGERS = frozenset(
    "Add Cast Clip Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalMaxPool Identity "
    "MatMul Max MaxPool Min Mul Neg Pad ReduceMax ReduceMin ReduceSum Relu Reshape Resize ScatterElements ScatterND "
    "Slice SpaceToDepth Split Squeeze Sub Sum Tile TopK Transpose Trilu Unsqueeze Where".split()
)
"""Operators whose rule holds for integers as it does for real numbers."""
_ALIKE = frozenset("Add Clip Concat MatMul Max Min Mul Sub Sum Where".split())
"""Operators none of whose operands of the carrier's type is an index or a size."""


def _gives_integers(node: Node) -> bool:
    return any(t.dtype is not None and not t.is_float and t.dtype.kind != "b" for t in node.outputs if t.name)


class OutsideCalculus(Exception):
    """Raised by a rule that cannot handle this node; turned into a refusal that counts only on a carrier path."""


class Calculus:
    """The state of linearising one graph: pairs found so far, the builder of equations, the emitter of coefficients."""

    def __init__(
        self,
        graph: Graph,
        emit: Emitter,
        tangent: bool,
        opaque: frozenset[str] = frozenset(),
        view: Callable[[Tensor], Node | None] = lambda t: t.producer,
    ) -> None:
        self.graph = graph
        self.view = view
        self.emit = emit
        self.tangent = tangent
        self.opaque = opaque
        self.build = Builder(emit)
        self.pairs: dict[Tensor, Pair] = {}
        self.used: dict[str, int] = {}
        self.opaque_nodes: list[Node] = []
        self.centred: dict[Var, tuple[Var, Tensor]] = {}  # of quantisers: what they give less the zero point, and that
        self._unknown: dict[Tensor, Unsupported] = {}  # without type or rank, because of an operator that was refused
        self._node: Node | None = None

    # Linearising

    def source(self, t: Tensor, value: Var, ones: Var) -> None:
        """Make ``t`` an explained tensor."""
        self.pairs[t] = Pair(value, ones)

    def linearise(self, node: Node) -> None:
        """Find the pairs of the outputs of ``node``. Explained tensors keep theirs: paths into them are cut."""
        carriers = [t for t in (*node.inputs, *node.captured) if t is not None and t in self.pairs]
        if all(0 in (t.shape or ()) for t in carriers):  # (what has no elements carries nothing)
            return
        key = (node.domain, node.op)
        if key in CONSTANTS:
            return
        if all(o.dtype is not None and not self._may_carry(node, o) for o in node.outputs if o.name):
            return
        self._node, self.build.owner = node, node.origin
        before = len(self.build.equations)
        try:
            results = self._apply(node, key)
        except OutsideCalculus as e:
            self.build.rewind(before)
            results = self.refused(node, str(e))
        except Exception as e:  # an error only if a carrier path needs this node
            self.build.rewind(before)
            results = self.refused(node, f"its rule failed ({type(e).__name__}: {e}): a defect, please report it")
        for t, pair in zip(node.outputs, results, strict=False):
            if pair is not None and t.name and t not in self.pairs:
                self.pairs[t] = pair

    def _apply(self, node: Node, key: tuple[str, str]) -> Sequence[Pair | None]:
        if node.op in self.opaque:
            self.opaque_nodes.append(node)
            return self._opaque(node)
        function = RULES.get(key)
        if function is None or (node.captured and node.step is None):
            raise OutsideCalculus(node.refusal or "no rule for this operator")
        cause = next((self._unknown[t] for t in node.inputs if t is not None and t in self._unknown), None)
        if cause is not None:
            return self._refused(node, cause)
        linear = node.op in KEEP_INTEGERS or key in QUANTISERS
        if not linear and self._carries_integers(node) and _gives_integers(node):
            raise OutsideCalculus("its integer arithmetic is not linear: dequantise in front of it")
        self.used[node.op] = self.used.get(node.op, 0) + 1
        kinds = {t.dtype for t in node.inputs if t is not None and t in self.pairs}
        beside = {k for k in kinds if k is not None and (node.op in _ALIKE or k.name not in ("int32", "int64"))}
        operands = [None if t is None else self.operand(t, t.dtype in beside) for t in node.inputs]
        wanted = inspect.signature(function).parameters
        attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in node.attrs.items()}
        attrs = {k: v for k, v in attrs.items() if k in wanted and wanted[k].kind is inspect.Parameter.KEYWORD_ONLY}
        result = function(self, node, *operands, **attrs)
        return [result] if result is None or isinstance(result, Pair) else result

    def _may_carry(self, node: Node, output: Tensor) -> bool:
        """Whether an output is a carrier by its type: a float, or integers that a quantiser made."""
        if output.is_float:
            return True
        if (node.domain, node.op) in QUANTISERS:
            return output is node.outputs[0]
        return output.dtype is not None and output.dtype.kind != "b" and self._carries_integers(node)

    def _carries_integers(self, node: Node) -> bool:
        return any(t in self.pairs and t.dtype is not None and not t.is_float for t in node.inputs if t is not None)

    def refused(self, node: Node, why: str) -> list[Pair | None]:
        """Pairs of the outputs that are an error when a cotangent reaches them."""
        advice = (
            f"{why}; rewrite it with operators of the table in the README, choose --input behind it or --output before "
            f"it, or accept it as a constant with --opaque {node.op}"
        )
        opset = self.graph.domains.get(node.domain, self.graph.opset if not node.domain else 1)
        return self._refused(node, Unsupported(node.origin, node.op, node.domain, opset, advice))

    def _refused(self, node: Node, reason: Unsupported) -> list[Pair | None]:
        primitive = lp.Refused(reason)
        carriers = [self.pairs[t] for t in node.inputs if t is not None and t in self.pairs]
        carriers += [self.pairs[t] for t in node.captured if t in self.pairs]
        self._unknown.update({t: reason for t in node.outputs if t.dtype is None or t.shape is None})
        results: list[Pair | None] = []
        for t in node.outputs:
            if t.dtype is None or self._may_carry(node, t):
                shape = t.shape or ()
                inputs = [c.value for c in carriers] + [c.ones for c in carriers]
                results.append(
                    Pair(self.build.apply(primitive, inputs, shape), self.build.apply(primitive, inputs, shape))
                )
            else:
                results.append(None)
        return results

    def _opaque(self, node: Node) -> list[Pair | None]:
        """value * o, with o the mean of the carriers' ones over all positions (row by row where batch rows stay)."""
        carriers = [self.pairs[t] for t in node.inputs if t is not None and t in self.pairs]
        results: list[Pair | None] = []
        for t in node.outputs:
            if not t.name or not self._may_carry(node, t):
                results.append(None)
                continue
            y = self.out(node, node.outputs.index(t))
            ones = self.average([self.everywhere(c, y.shape) for c in carriers])
            results.append(Pair(self.bias(None, y.t, ones, y.shape), ones))
        return results

    def everywhere(self, carrier: Pair, shape: Shape) -> Var:
        """The mean of a carrier's ones over all positions, for an output of ``shape``."""
        rows = bool(shape) and carrier.value.rank > 0 and carrier.value.shape[0] == shape[0]
        mean = self.build.mean(carrier.ones, range(1 if rows else 0, carrier.ones.rank))
        return self.build.reshape(mean, (mean.shape[0] if rows else 1, *[1] * (len(shape) - 1)) if shape else ())

    # What rules use

    def operand(self, t: Tensor, beside: bool = False) -> Operand:
        """The operand that is tensor ``t``. Integers that carry are taken in the explanation's type, and so are
        constants of their type ``beside`` them."""
        number = t.is_float or t in self.pairs or beside
        return Operand(self.emit.cast(t) if number else t, self.pairs.get(t))

    def out(self, node: Node, i: int = 0) -> Operand:
        """The forward value of an output."""
        t = node.outputs[i]
        return Operand(self.emit.cast(t), None)

    def bias(self, value: Var | None, c: Tensor | float, ones: Var, shape: Shape) -> Var:
        """v + c * o: a constant term of the node at hand."""
        term = self.build.scale(ones, c, shape, bias=True)
        return term if value is None else self.build.add([value, term], shape)

    def average(self, ones: Sequence[Var], whole: Shape | None = None) -> Var:
        """The mean of several ones streams, at their common shape in a tensor of shape ``whole``."""
        distinct = {id(o): o for o in ones}
        if len(distinct) == 1:
            return ones[0]
        rank = max(o.rank for o in ones)
        ones = [self.build.reshape(o, (1,) * (rank - o.rank) + o.shape) for o in ones]
        joint = join_shapes([o.shape for o in ones], whole)
        return self.build.add([self.build.scale(o, 1.0 / len(ones)) for o in ones], joint)

    def to_rank(self, v: Var, rank: int) -> Var:
        """``v`` with leading axes of size 1 up to ``rank``."""
        return self.build.reshape(v, (1,) * (rank - v.rank) + v.shape)

    def number(self, o: Operand | None, what: str, default: Any = None) -> Any:
        """A small constant operand as numpy; refused when it is computed at run time."""
        if o is None:
            return default
        if o.value is None:
            raise OutsideCalculus(f"its {what} must be known at compile time")
        return o.value


def is_scalar(o: Operand) -> bool:
    """Whether ``o`` is a single number of known value."""
    return o.pair is None and o.value is not None and o.value.size == 1


__all__ = [
    "CONSTANTS",
    "RULES",
    "Calculus",
    "Operand",
    "OutsideCalculus",
    "Pair",
    "constant",
    "is_scalar",
    "join_shapes",
    "rule",
]
