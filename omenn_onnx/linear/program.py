"""Variables, equations and the primitives of a linear program.

A program is a list of equations ``out = P(inputs)``, each P linear in its inputs. Coefficients are tensors of the
forward graph and are held fixed. Shapes exclude the axis of several cotangents, which only the lowering knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omenn_onnx.errors import Unsupported
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.graph.step import Branch, Step


@dataclass(eq=False, slots=True)
class Var:
    """A linear variable: a value stream, a ones stream, or a cotangent of one of them."""

    shape: Shape
    definition: Equation | None = field(default=None, repr=False)

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(eq=False, slots=True)
class Bundle(Var):
    """Several variables as one: what a :class:`Recurrence` or a :class:`Choice` gives, or the cotangents of that (None:
    zero)."""

    shapes: tuple[Shape, ...] = ()
    parts: tuple[Var | None, ...] = ()


class Primitive:
    """A linear map. Subclasses hold its coefficients; the transposes stand in :mod:`omenn_onnx.linear.transpose`."""

    __slots__: ClassVar[tuple[str, ...]] = ()


@dataclass(eq=False, slots=True)
class Equation:
    """``out = primitive(inputs)``. ``owner`` is the node that causes it; ``bias`` marks a constant term of that node,
    written as a multiple of a ones stream."""

    primitive: Primitive
    inputs: tuple[Var, ...]
    out: Var
    owner: str = ""
    bias: bool = False


def needed(equations: Sequence[Equation], wanted: Iterable[Var]) -> list[Equation]:
    """The equations on which ``wanted`` depend, in order."""
    live = set(wanted)
    kept = []
    for equation in reversed(equations):
        if equation.out in live:
            kept.append(equation)
            live.update(equation.inputs)
    return kept[::-1]


@dataclass(eq=False, slots=True)
class Scale(Primitive):
    """y = c x, elementwise; c broadcasts to x's shape."""

    coefficient: Tensor


@dataclass(eq=False, slots=True)
class Select(Primitive):
    """y = x where the mask holds, else 0; the mask broadcasts to x's shape."""

    mask: Tensor


@dataclass(eq=False, slots=True)
class Add(Primitive):
    """y = sum of the inputs, all of y's shape."""


@dataclass(eq=False, slots=True)
class Broadcast(Primitive):
    """y = x repeated along axes where x has size 1; equal rank."""


@dataclass(eq=False, slots=True)
class Sum(Primitive):
    """y = x summed over the axes where y has size 1, which are kept; equal rank."""


@dataclass(eq=False, slots=True)
class Centre(Primitive):
    """y = x less its mean over ``axes``: its own transpose."""

    axes: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Reshape(Primitive):
    """y = x in another shape, elements in the same order."""


@dataclass(eq=False, slots=True)
class Permute(Primitive):
    """y's axis i is x's axis perm[i]."""

    perm: tuple[int, ...]


@dataclass(eq=False, slots=True)
class MatMul(Primitive):
    """y = x W (``left`` False) or W x (``left`` True) over the last two axes; W is ``weight``, transposed if asked."""

    weight: Tensor
    left: bool = False
    transposed: bool = False


@dataclass(eq=False, slots=True)
class Einsum(Primitive):
    """y[out] = sum of x[x_labels] w[w_labels] over labels that are not in out. Every label of x is in w or out."""

    weight: Tensor
    x_labels: str
    w_labels: str
    out_labels: str


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a sliding window over the trailing spatial axes; ``pads`` are all begins, then all ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """Extent of the dilated kernel along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def trivial(self) -> bool:
        """Whether it holds one element, each in its turn."""
        return set(self.kernel) == set(self.strides) == {1} and set(self.pads) == {0}


@dataclass(eq=False, slots=True)
class Conv(Primitive):
    """Convolution of [N, C, spatial] by ``weight`` [M, C/group, kernel]; ``adjoint`` is its transpose, to y's shape."""

    weight: Tensor
    window: Window
    group: int = 1
    adjoint: bool = False


@dataclass(eq=False, slots=True)
class WindowSum(Primitive):
    """Sums over windows along the trailing axes, zeros in the padding; ``adjoint`` spreads a value over its window."""

    window: Window
    adjoint: bool = False


@dataclass(eq=False, slots=True)
class Winners(Primitive):
    """y = x where the first maximum of ``pooled`` stands in each window: ``best`` is MaxPool of it with ``attributes``.
    ``window`` is None where only the run tells the padding. ``adjoint`` adds values up there, zeros elsewhere."""

    pooled: Tensor
    best: Tensor
    attributes: dict[str, Any]
    window: Window | None
    adjoint: bool = False


@dataclass(eq=False, slots=True)
class Slice(Primitive):
    """y[i] = x[begin + i] along every axis, for y's shape."""

    begin: tuple[Dim | Tensor, ...]


@dataclass(eq=False, slots=True)
class Embed(Primitive):
    """y[begin + i] = x[i], zeros elsewhere: the transpose of Slice."""

    begin: tuple[Dim | Tensor, ...]


@dataclass(eq=False, slots=True)
class Concat(Primitive):
    """y = the inputs joined along an axis."""

    axis: int


@dataclass(eq=False, slots=True)
class Gather(Primitive):
    """y = x[..., indices, ...] along an axis, with one index vector. ``within_rows``: the axis holds whole batch rows
    one after the other, and no index leads from one into another."""

    axis: int
    indices: Tensor
    within_rows: bool = False


@dataclass(eq=False, slots=True)
class ScatterAdd(Primitive):
    """y[..., indices[i], ...] += x[..., i, ...]: the transpose of Gather."""

    axis: int
    indices: Tensor
    within_rows: bool = False


@dataclass(eq=False, slots=True)
class GatherElements(Primitive):
    """y[i, j, ...] = x[indices[i, j, ...], j, ...] (along ``axis``)."""

    axis: int
    indices: Tensor


@dataclass(eq=False, slots=True)
class ScatterElements(Primitive):
    """y[indices[i, j, ...], j, ...] += x[i, j, ...]: the transpose of GatherElements."""

    axis: int
    indices: Tensor


@dataclass(eq=False, slots=True)
class CumSum(Primitive):
    """Running sums along an axis, as ONNX defines its two flags."""

    axis: int
    exclusive: bool = False
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A sequence that a :class:`Recurrence` reads or writes: the variable of one step, and along which axis its
    elements stand, from the end if ``backwards``."""

    var: Var
    axis: int
    backwards: bool


@dataclass(eq=False, slots=True)
class Recurrence(Primitive):
    """(s', y_t) = P_t (s, x_t, k) step by step: a bundle of the final states and the sequences y.

    ``equations`` are P over variables of one step; ``before`` and ``behind`` are s and s' (None: zero), ``shared`` is
    k, the same at every step. The inputs are s, x and k in this order, without those that are not ``present``: zeros;
    ``shapes`` are those of the states outside. Coefficients are computed in the body of ``step``, whose steps are taken
    from the last to the first if ``reverse``.
    """

    step: Step
    equations: tuple[Equation, ...]
    before: tuple[Var, ...]
    behind: tuple[Var | None, ...]
    inputs: tuple[Lane, ...]
    shared: tuple[Var, ...]
    outputs: tuple[Lane, ...]
    shapes: tuple[Shape, ...]
    present: tuple[bool, ...]
    reverse: bool = False


@dataclass(eq=False, slots=True)
class Arm:
    """y = P x in one branch of a :class:`Choice`: ``equations`` are P over variables of its own, with coefficients that
    are computed in the branch. Outputs that are None are zero."""

    branch: Branch
    equations: tuple[Equation, ...]
    inputs: tuple[Var, ...]
    outputs: tuple[Var | None, ...]


@dataclass(eq=False, slots=True)
class Choice(Primitive):
    """y = P x with the P of the branch that ``condition`` takes, the first where it holds: a bundle. The other branch
    is not run."""

    condition: Tensor
    arms: tuple[Arm, Arm]


@dataclass(eq=False, slots=True)
class Part(Primitive):
    """One variable of a bundle."""

    index: int


@dataclass(eq=False, slots=True)
class Refused(Primitive):
    """Stands where no linear form exists. It is an error only if a cotangent reaches it."""

    reason: Unsupported
