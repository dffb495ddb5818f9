"""Random small ONNX graphs, drawn by hypothesis: every operator is applied to what is there, whatever its shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]
BATCH = 3

UNARY = (
    "Relu Gelu Sigmoid Tanh Softplus Elu LeakyRelu HardSwish Mish Erf Abs Neg Sin Cos Softsign HardSigmoid Selu Celu "
    "Atan Identity ThresholdedRelu Sinh Floor Sign"
).split()


@dataclass(frozen=True)
class T:
    """A tensor of the graph: its name and its shape, the batch in front."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class RandomGraph:
    """The nodes and weights drawn so far."""

    draw: Draw
    dynamic: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(st.integers(0, 2**16)))

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def weight(self, shape: Shape, scale: float = 1.0, shift: float = 0.0) -> str:
        return self.constant((self.random.standard_normal(shape) * scale + shift).astype(np.float32))

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, *inputs: T | str, shape: Shape, outputs: int = 1, which: int = 0, **attributes: Any) -> T:
        names = [f"t{len(self.nodes)}" + (f".{i}" if i else "") for i in range(outputs)]
        given = [i.name if isinstance(i, T) else i for i in inputs]
        self.nodes.append(helper.make_node(kind, given, names, name=f"n{len(self.nodes)}", **attributes))
        return T(names[which], shape)


Step = Callable[[RandomGraph, list[T]], "T | None"]


def choose(g: RandomGraph, found: list[T], ranks: tuple[int, ...] = (2, 3, 4)) -> T | None:
    """One of the tensors of these ranks, later ones first."""
    fitting = [t for t in reversed(found) if t.rank in ranks]
    return g.pick(*fitting) if fitting else None


def unary(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    return x and g.op(g.pick(*UNARY), x, shape=x.shape)


def guarded(g: RandomGraph, found: list[T]) -> T | None:
    """Functions with a domain, behind something that keeps them inside it."""
    x = choose(g, found)
    assert x is not None
    bounded, positive = g.op("Tanh", x, shape=x.shape), g.op("Softplus", x, shape=x.shape)
    above = g.op("Add", positive, g.constant(np.float32(0.5)), shape=x.shape)
    kind = g.pick("Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Clip", "Square", "Div")
    if kind == "Exp":
        return g.op(kind, bounded, shape=x.shape)
    if kind == "Clip":
        return g.op(kind, x, g.constant(np.float32(-0.7)), g.constant(np.float32(1.1)), shape=x.shape)
    if kind == "Square":
        return g.op("Mul", bounded, bounded, shape=x.shape)
    if kind == "Pow":
        return g.op(kind, above, g.constant(np.float32(g.pick(2.0, 0.5, -1.0, 1.5))), shape=x.shape)
    if kind == "Div":
        return g.op(kind, x, above, shape=x.shape)
    return g.op(kind, above, shape=x.shape)


def with_constant(g: RandomGraph, found: list[T]) -> T | None:
    """x and a constant that broadcasts, in either order."""
    x = choose(g, found)
    assert x is not None
    small = tuple(1 if g.flag() else d for d in x.shape[1:])
    c = g.weight(small[g.integer(0, len(small)) :])
    kind = g.pick("Add", "Sub", "Mul", "Max", "Min")
    return g.op(kind, *((x, c) if g.flag() else (c, x)), shape=x.shape)


def two(g: RandomGraph, found: list[T]) -> T | None:
    """Two carriers that broadcast."""
    x = choose(g, found)
    assert x is not None
    fitting = [
        t
        for t in found
        if t.rank == x.rank and all(a == b or 1 in (a, b) for a, b in zip(t.shape, x.shape, strict=True))
    ]
    y = g.pick(*fitting)
    shape = tuple(max(a, b) for a, b in zip(x.shape, y.shape, strict=True))
    kind = g.pick("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Gate", "Where")
    if kind == "Gate":
        return g.op("Mul", x, g.op("Sigmoid", y, shape=y.shape), shape=shape)
    if kind == "Where":
        zero = g.constant(np.float32(0.0))
        holds = g.op("Greater", x, zero, shape=x.shape)
        return g.op("Where", holds, x, y, shape=shape)
    more = [x] if kind in ("Max", "Min", "Sum", "Mean") and g.flag() else []
    return g.op(kind, x, y, *more, shape=shape)


def matmul(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    assert x is not None
    out, width = g.integer(2, 4), x.shape[-1]
    if x.rank == 2 and g.flag():
        turned = g.flag()
        w = g.weight((out, width) if turned else (width, out), width**-0.5)
        return g.op("Gemm", x, w, g.weight((out,)), shape=(BATCH, out), transB=int(turned), alpha=0.7, beta=1.3)
    if x.rank > 2 and g.flag():
        w = g.weight((out, x.shape[-2]), x.shape[-2] ** -0.5)
        return g.op("MatMul", w, x, shape=(*x.shape[:-2], out, width))
    return g.op("MatMul", x, g.weight((width, out), width**-0.5), shape=(*x.shape[:-1], out))


def attention(g: RandomGraph, found: list[T]) -> T | None:
    """softmax(x W x^T) x, or the products without the softmax, or as an Einsum."""
    x = choose(g, found, (3, 4))
    if x is None:
        return None
    width = x.shape[-1]
    q = g.op("MatMul", x, g.weight((width, width), width**-0.5), shape=x.shape)
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    square = (*x.shape[:-1], x.shape[-2])
    s = g.op("MatMul", q, g.op("Transpose", x, perm=perm, shape=(*x.shape[:-2], width, x.shape[-2])), shape=square)
    kind = g.pick("softmax", "linear", "einsum")
    if kind == "linear":
        return g.op("MatMul", g.op("Mul", s, g.constant(np.float32(0.3)), shape=square), x, shape=x.shape)
    p = g.op("Softmax", s, axis=-1, shape=square)
    if kind == "einsum":
        return g.op("Einsum", p, x, equation="...ij,...jk->...ik", shape=x.shape)
    return g.op("MatMul", p, x, shape=x.shape)


def window(g: RandomGraph, spatial: Shape) -> tuple[dict[str, list[int]], Shape] | None:
    """Kernel, strides, pads and dilations that leave something."""
    n = len(spatial)
    kernel, strides = [g.integer(1, min(3, s)) for s in spatial], [g.integer(1, 2) for _ in spatial]
    dilations = [g.integer(1, 2) if k > 1 else 1 for k in kernel]
    pads = [g.integer(0, k - 1) for k in kernel] + [g.integer(0, k - 1) for k in kernel]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(s + pads[i] + pads[i + n] - reach[i]) // strides[i] + 1 for i, s in enumerate(spatial)]
    if any(o < 1 for o in out):
        return None
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}, tuple(out)


def convolution(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found, (3, 4))
    made = x and window(g, x.shape[2:])
    if x is None or made is None:
        return None
    attributes, spatial = made
    kernel, a = attributes["kernel_shape"], x.shape[1]
    group = a if a > 1 and g.flag() else 1
    m = group * g.integer(1, 2) if group > 1 else g.integer(1, 4)
    scale = (a // group * math.prod(kernel)) ** -0.5
    if g.flag():
        w = g.weight((m, a // group, *kernel), scale)
        return g.op("Conv", x, w, g.weight((m,), 0.5), group=group, shape=(BATCH, m, *spatial), **attributes)
    strides, pads, dilations, n = attributes["strides"], attributes["pads"], attributes["dilations"], len(kernel)
    extra = [g.integer(0, s - 1) for s in strides]
    size = tuple(
        (x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + n] + extra[i]
        for i in range(n)
    )
    if any(not 1 <= s <= 9 for s in size):
        return None
    w = g.weight((a, m // group, *kernel), scale)
    return g.op(
        "ConvTranspose",
        x,
        w,
        g.weight((m,), 0.5),
        group=group,
        output_padding=extra,
        shape=(BATCH, m, *size),
        **attributes,
    )


def pool(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found, (3, 4))
    made = x and window(g, x.shape[2:])
    if x is None or made is None:
        return None
    attributes, spatial = made
    kind = g.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")
    if kind.startswith("Global"):
        return g.op(kind, x, shape=(*x.shape[:2], *(1 for _ in spatial)))
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(g.flag())  # type: ignore[assignment]
    return g.op(kind, x, shape=(*x.shape[:2], *spatial), **attributes)


def norm(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    assert x is not None
    width, channels = x.shape[-1], x.shape[1]
    kinds = ["LayerNormalization", "BatchNormalization", "Softmax", "LogSoftmax", "LpNormalization"]
    kinds += ["InstanceNormalization", "GroupNormalization"] if x.rank > 2 else []
    kinds += ["LRN", "MeanVarianceNormalization"] if x.rank == 4 else []
    kind = g.pick(*kinds)
    if kind == "LayerNormalization":
        scale = g.weight((width,), 0.2, 1.0)
        return g.op(kind, x, scale, g.weight((width,), 0.3), axis=-1, epsilon=1e-2, shape=x.shape)
    scale, bias = g.weight((channels,), 0.2, 1.0), g.weight((channels,), 0.3)
    if kind == "BatchNormalization":
        variance = g.constant(uniform(g, (channels,)))
        return g.op(kind, x, scale, bias, g.weight((channels,), 0.3), variance, shape=x.shape)
    if kind == "InstanceNormalization":
        return g.op(kind, x, scale, bias, epsilon=1e-2, shape=x.shape)
    if kind == "GroupNormalization":
        return g.op(kind, x, scale, bias, num_groups=g.pick(1, channels), epsilon=1e-2, shape=x.shape)
    if kind == "LRN":
        return g.op(kind, x, size=3, alpha=0.3, beta=0.6, bias=1.0, shape=x.shape)
    if kind == "MeanVarianceNormalization":
        return g.op(kind, x, axes=[1, 2, 3], shape=x.shape)
    if kind == "LpNormalization":
        return g.op(kind, x, axis=x.rank - 1, p=g.pick(1, 2), shape=x.shape)
    return g.op(kind, x, axis=g.integer(1, x.rank - 1), shape=x.shape)


def uniform(g: RandomGraph, shape: Shape) -> np.ndarray:
    return g.random.uniform(0.5, 1.5, shape).astype(np.float32)


def reduction(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    assert x is not None
    axis = g.integer(1, x.rank - 1)
    axes = sorted({axis, x.rank - 1}) if g.flag() else [axis]
    keep = x.rank - len(axes) < 2 or g.flag()
    kinds = (
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare ReduceProd CumSum"
    )
    kind = g.pick(*kinds.split())
    if kind == "CumSum":
        at = g.constant(np.int64(axis))
        return g.op(kind, x, at, exclusive=int(g.flag()), reverse=int(g.flag()), shape=x.shape)
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes)
    signs = [a - x.rank if g.flag() else a for a in axes]
    return g.op(kind, x, g.ints(*signs), keepdims=int(keep), shape=shape)


def reshape(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    assert x is not None
    size = math.prod(x.shape[1:])
    factors = [d for d in range(1, size + 1) if size % d == 0]
    a = g.pick(*factors)
    b = g.pick(*[d for d in factors if (size // a) % d == 0])
    shape = g.pick((size,), (a, size // a), (a, b, size // a // b))
    target = [0 if g.flag() else -1, *shape]
    return g.op("Reshape", x, g.ints(*target), shape=(BATCH, *shape))


def transpose(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found, (3, 4))
    if x is None:
        return None
    perm = [0, *g.draw(st.permutations(range(1, x.rank)))]
    return g.op("Transpose", x, perm=perm, shape=tuple(x.shape[p] for p in perm))


def part(g: RandomGraph, found: list[T]) -> T | None:
    """Slice with any step, Gather, GatherElements, Split, TopK."""
    x = choose(g, found)
    assert x is not None
    axis = g.integer(1, x.rank - 1)
    n = x.shape[axis]
    kind = g.pick("Slice", "Reverse", "Gather", "Split", "TopK", *([] if g.dynamic else ["GatherElements"]))

    def resized(size: int) -> Shape:
        return (*x.shape[:axis], size, *x.shape[axis + 1 :])

    if kind == "Slice":
        start, step = g.integer(0, n - 1), g.integer(1, 2)
        return g.op(
            "Slice", x, g.ints(start), g.ints(2**40), g.ints(axis), g.ints(step), shape=resized(-(-(n - start) // step))
        )
    if kind == "Reverse":
        return g.op("Slice", x, g.ints(-1), g.ints(-(2**40)), g.ints(axis), g.ints(-1), shape=x.shape)
    if kind == "Gather":
        chosen = [g.integer(-n, n - 1) for _ in range(g.integer(1, 4))]
        return g.op("Gather", x, g.ints(*chosen), axis=axis, shape=resized(len(chosen)))
    if kind == "GatherElements":
        last = x.shape[-1]
        chosen = g.random.integers(0, last, x.shape)
        return g.op("GatherElements", x, g.constant(chosen), axis=x.rank - 1, shape=x.shape)
    if kind == "TopK":
        k = g.integer(1, n)
        return g.op("TopK", x, g.ints(k), axis=axis, outputs=2, shape=resized(k))
    if n < 2:
        return None
    first, which = g.integer(1, n - 1), g.integer(0, 1)
    size = (first, n - first)[which]
    return g.op("Split", x, g.ints(first, n - first), axis=axis, outputs=2, which=which, shape=resized(size))


def joined(g: RandomGraph, found: list[T]) -> T | None:
    """Concat of carriers and constants."""
    x = choose(g, found)
    assert x is not None
    axis = g.integer(1, x.rank - 1)

    def fits(t: T) -> bool:
        return t.rank == x.rank and all(
            a == b for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=True)) if i != axis
        )

    y: T | str = g.pick(*[t for t in found if fits(t)])
    width = y.shape[axis]
    parts: list[T | str] = [x, y] if g.flag() else [y, x]
    size = x.shape[axis] + width
    if size > 12:
        return None
    return g.op("Concat", *parts, axis=axis, shape=(*x.shape[:axis], size, *x.shape[axis + 1 :]))


def padded(g: RandomGraph, found: list[T]) -> T | None:
    x = choose(g, found)
    assert x is not None
    mode = g.pick("constant", "reflect", "edge", "wrap")
    limit = [0, *(min(2, d - 1) if mode == "reflect" else 2 for d in x.shape[1:])]
    ends = [g.integer(0, m) if m else 0 for m in limit], [g.integer(0, m) if m else 0 for m in limit]
    shape = tuple(d + a + b for d, a, b in zip(x.shape, *ends, strict=True))
    if math.prod(shape) > 400:
        return None
    value = [g.constant(np.float32(0.4))] if mode == "constant" and g.flag() else []
    return g.op("Pad", x, g.ints(*ends[0], *ends[1]), *value, mode=mode, shape=shape)


def repeated(g: RandomGraph, found: list[T]) -> T | None:
    """Tile, Expand, Resize, DepthToSpace, SpaceToDepth, Where with a constant, Cast to double and back."""
    x = choose(g, found)
    assert x is not None
    kind = g.pick("Tile", "Expand", "Resize", "DepthToSpace", "SpaceToDepth", "Where", "Cast")
    if kind == "Tile":
        times = [1, *(g.integer(1, 2) if d < 5 else 1 for d in x.shape[1:])]
        return g.op(kind, x, g.ints(*times), shape=tuple(a * b for a, b in zip(x.shape, times, strict=True)))
    if kind == "Expand":
        shape = tuple(3 if d == 1 and i else d for i, d in enumerate(x.shape))
        return g.op(kind, x, g.ints(1, *shape[1:]), shape=shape)
    if kind == "Where":
        mask = g.constant(g.random.integers(0, 2, x.shape[1:]).astype(bool))
        other = g.weight(x.shape[-1:])
        return g.op(kind, mask, *((x, other) if g.flag() else (other, x)), shape=x.shape)
    if kind == "Cast":
        return g.op("Cast", g.op("Cast", x, to=TensorProto.DOUBLE, shape=x.shape), to=TensorProto.FLOAT, shape=x.shape)
    if x.rank != 4:
        return None
    n, c, h, w = x.shape
    if kind == "Resize":
        if max(h, w) > 5:
            return None
        mode = g.pick("nearest", "linear", "cubic")
        how = g.pick("half_pixel", "align_corners", "asymmetric")
        scales = g.constant(np.array([1, 1, 2, 1.5], np.float32))
        return g.op(
            kind, x, "", scales, mode=mode, coordinate_transformation_mode=how, shape=(n, c, 2 * h, int(1.5 * w))
        )
    if kind == "DepthToSpace":
        return None if c % 4 else g.op(kind, x, blocksize=2, mode=g.pick("DCR", "CRD"), shape=(n, c // 4, 2 * h, 2 * w))
    return None if h % 2 or w % 2 or c > 4 else g.op(kind, x, blocksize=2, shape=(n, 4 * c, h // 2, w // 2))


STEPS: tuple[Step, ...] = (
    unary, unary, guarded, with_constant, two, two, matmul, attention, convolution, convolution, pool, norm, norm,
    reduction, reshape, transpose, part, joined, padded, repeated,
)  # fmt: skip


def random_model(draw: Draw, dynamic: str, longest: int = 9) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A graph of up to ``longest`` steps on an input x of rank 2 to 4 with BATCH rows, which never meet; and
    feeds for it.  ``dynamic``: which sizes of x are symbols: "none", "batch" or "all".
    """
    g = RandomGraph(draw, dynamic != "none")
    shape = (BATCH, *draw(st.lists(st.integers(2, 5), min_size=1, max_size=3)))
    found = [T("x", shape)]
    for _ in range(g.integer(2, longest)):
        made = g.pick(*STEPS)(g, found)
        if made is not None and math.prod(made.shape) <= 400:
            found.append(made)
    last = found[-1]
    z = g.op("Identity", last, shape=last.shape)
    batch = BATCH if dynamic == "none" else "N"
    sizes = [f"d{i}" for i in range(1, len(shape))] if dynamic == "all" else shape[1:]
    last_sizes = [None] * (last.rank - 1) if dynamic == "all" else last.shape[1:]
    graph = helper.make_graph(
        g.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *sizes])],
        [helper.make_tensor_value_info(z.name, TensorProto.FLOAT, [batch, *last_sizes])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": g.random.standard_normal(shape).astype(np.float32)}
