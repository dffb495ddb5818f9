"""Random linear programs, each run as it is and rewritten, side by side in one ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from omenn_onnx.graph.emit import Emitter
from omenn_onnx.graph.ir import Dim, Shape, Tensor
from omenn_onnx.graph.read import read_graph
from omenn_onnx.graph.write import append_nodes, live_nodes
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.build import Builder
from omenn_onnx.linear.program import Equation, Primitive, Var, Window
from omenn_onnx.lowering import Lowering
from omenn_onnx.lowering.base import Lowered

SIZES = {"N": 3, "T": 5, "K": 2}
"""What the symbols are at run time."""


@dataclass
class Program:
    """Equations, the variables that they give, and the leaves."""

    text: str
    equations: list[Equation]
    wanted: list[Var]
    leaves: list[Var]
    lead: Dim | None = None


Rewrite = Callable[[Sequence[Equation], list[Var], Emitter], list[Equation]]


@dataclass
class Model:
    """One ONNX model that many programs are written into."""

    rng: np.random.Generator
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[tuple[Tensor, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        dims = [helper.make_tensor_value_info("dims", TensorProto.FLOAT, list(SIZES))]
        out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, list(SIZES))]
        graph = helper.make_graph([helper.make_node("Identity", ["dims"], ["out"])], "g", dims, out)
        self.proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        self.emit = Emitter(read_graph(self.proto, ""), np.dtype(np.float32))
        self.feeds["dims"] = np.zeros(list(SIZES.values()), np.float32)
        self.sizes: dict[str, int] = dict(SIZES)
        self.merged: dict[str, Shape] = {}

    def number(self, d: Dim) -> int:
        """A size at run time."""
        return d if isinstance(d, int) else self.sizes[d]

    def numbers(self, shape: Shape) -> list[int]:
        return [self.number(d) for d in shape]

    def product(self, dims: Shape) -> Dim:
        """Some sizes as one."""
        d = self.emit.new_size(dims)
        if isinstance(d, str):
            self.sizes[d] = int(np.prod(self.numbers(dims)))
            self.merged[d] = dims
        return d

    def given(self, shape: Shape, value: np.ndarray) -> Tensor:
        """A new input of the model."""
        t = Tensor(f"in_{len(self.inputs)}", value.dtype, shape)
        self.inputs.append(t)
        self.feeds[t.name] = value
        return t

    def values(self, shape: Shape) -> np.ndarray:
        return self.rng.normal(size=self.numbers(shape)).astype(np.float32)

    def coefficient(self, shape: Shape, const: bool, value: np.ndarray | None = None) -> Tensor:
        """Constant where its sizes allow that, or an input."""
        value = self.values(shape) if value is None else value
        if const and all(isinstance(d, int) for d in shape):
            return self.emit.const(value)
        return self.given(shape, value)

    def add(self, program: Program, rewrite: Rewrite) -> list[Equation]:
        """Write a program as it is and rewritten; the rewritten equations."""
        bound = {}
        for v in program.leaves:
            shape = v.shape if program.lead is None else (program.lead, *v.shape)
            bound[v] = Lowered(self.given(shape, self.values(shape)), v.shape)
        place = len(self.outputs) // 2
        before = self._lowered(program, program.equations, bound)
        equations = rewrite(program.equations, program.wanted, self.emit)
        after = self._lowered(program, equations, bound)
        for k, (a, b) in enumerate(zip(before, after, strict=True)):
            self.outputs += [(a, f"a{place + k} {program.text}"), (b, f"b{place + k} {program.text}")]
        return equations

    def _lowered(self, program: Program, equations: Sequence[Equation], bound: dict[Var, Lowered]) -> list[Tensor]:
        low = Lowering(self.emit, bound, program.lead)
        low.run(equations)
        return [low.full(v) for v in program.wanted]

    def check(self) -> None:
        """Run, and compare each pair of outputs."""
        tensors = [t for t, _ in self.outputs]
        names = [f"y{i}" for i in range(len(tensors))]
        wanted = list(zip(tensors, names, strict=True))
        append_nodes(self.proto, live_nodes(self.emit.nodes, tensors), self.inputs, wanted)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(names, self.feeds)
        for i in range(0, len(found), 2):
            a, b, text = found[i], found[i + 1], self.outputs[i][1]
            assert a.shape == b.shape, f"{text}: {a.shape} against {b.shape}"
            gap = np.max(np.abs(a - b), initial=0.0)
            assert gap <= 1e-4 * np.max(np.abs(a), initial=0.0) + 1e-5, f"{text}: differs by {gap:.2e}"


class Maker:
    """Grows one program. ``pool`` are the variables so far."""

    def __init__(self, model: Model) -> None:
        self.model, self.rng, self.build = model, model.rng, Builder(model.emit)
        self.leaves: list[Var] = []
        self.pool: list[Var] = []
        self.said: list[str] = []

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def leaf(self, shape: Shape) -> Var:
        v = Var(tuple(shape))
        self.leaves.append(v)
        return v

    def put(self, p: Primitive, inputs: Sequence[Var], shape: Shape) -> Var:
        y = self.build.apply(p, inputs, tuple(shape))
        self.said.append(f"{type(p).__name__}{[list(x.shape) for x in inputs]}->{list(shape)}".replace(" ", ""))
        self.pool.append(y)
        return y

    def begin(self, room: int) -> int | Tensor:
        """0..room, as a number or known at run time only."""
        at = 0 if self.chance(0.3) else int(self.rng.integers(room + 1))
        return at if self.chance(0.6) else self.model.given((1,), np.asarray([at], np.int64))

    def box(self, whole: Shape, alike: Equation | None = None) -> Var:
        """A new leaf in zeros."""
        if alike is not None and self.chance(0.7):
            assert isinstance(alike.primitive, lp.Embed)
            inner = list(alike.inputs[0].shape)
            for i, (a, b) in enumerate(zip(alike.primitive.begin, whole, strict=True)):
                if a == 0 and inner[i] != b and self.chance(0.3):  # (at the same place, of another size)
                    inner[i] = int(self.rng.integers(1, self.model.number(b)))
            return self.put(alike.primitive, [self.leaf(inner)], whole)
        inner, begin = list(whole), [0] * len(whole)
        for i in self.rng.permutation(len(whole))[: int(self.rng.integers(1, 3))]:
            n = self.model.number(whole[i])
            if n > 1:
                inner[i] = int(self.rng.integers(1, max(2, n // 2 + 1)))
                begin[i] = self.begin(n - inner[i])
        if tuple(inner) == tuple(whole):
            return self.leaf(whole)
        return self.put(lp.Embed(tuple(begin)), [self.leaf(inner)], whole)

    def partial(self, shape: Shape) -> Shape:
        """Sizes that broadcast to ``shape``."""
        sizes = tuple(d if self.chance() else 1 for d in shape)
        return sizes[int(self.rng.integers(len(sizes) + 1)) :] if self.chance(0.4) else sizes

    KINDS: Sequence[str] = ()
    ONWARD = 0.6
    """How often the last variable is what the next equation reads."""

    def start(self) -> None:
        """The first variables."""
        raise NotImplementedError

    def grow(self, steps: int) -> Program | None:
        """The program: its last variable is wanted, sometimes further ones too. None if it came to nothing."""
        self.start()
        for _ in range(int(self.rng.integers(2, steps))):
            x = self.pool[-1] if self.chance(self.ONWARD) else self.pick(self.pool)
            getattr(self, self.pick(self.KINDS))(x, x.shape, x.rank)  # (leaves no trace where x does not fit)
        equations = self.build.equations
        if not equations:
            return None
        given = {e.out for e in equations}
        more = [v for v in dict.fromkeys(self.pool) if v in given and v is not equations[-1].out and self.chance(0.15)]
        lead = self.pick([None, None, 2, "K"])
        return Program("; ".join(self.said), equations, [*more, equations[-1].out], self.leaves, lead)

    # Elementwise

    def scale(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.Scale(self.model.coefficient(self.partial(s), self.chance())), [x], s)

    def select(self, x: Var, s: Shape, rank: int) -> None:
        c = self.model.coefficient(self.partial(s), self.chance())
        self.put(lp.Select(self.model.emit.op("Greater", c, 0.0, shape=c.shape)), [x], s)

    def add(self, x: Var, s: Shape, rank: int) -> None:
        same = [v for v in self.pool if v.shape == s]
        parts = [x, *(same[int(i)] for i in self.rng.integers(len(same), size=2))]
        if self.chance(0.3):
            parts.append(self.leaf(s) if self.chance() else self.box(s))
        self.put(lp.Add(), [parts[int(i)] for i in self.rng.permutation(len(parts))], s)

    def twin(self, x: Var, s: Shape, rank: int) -> None:
        """The same variable scaled twice, added up."""
        a, b = (self.put(lp.Scale(self.model.coefficient(self.partial(s), self.chance())), [x], s) for _ in range(2))
        self.put(lp.Add(), [a, b], s)

    # Sums and repeats

    def broadcast(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.Broadcast(), [x], tuple(self.pick([1, 4, "N"]) if d == 1 else d for d in s))

    def sum(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.Sum(), [x], tuple(1 if self.chance(0.4) else d for d in s))

    def centre(self, x: Var, s: Shape, rank: int) -> None:
        axes = tuple(i for i in range(rank) if self.chance(0.4)) or (rank - 1,)
        self.put(lp.Centre(axes), [x], s)

    # Moves

    def reshape(self, x: Var, s: Shape, rank: int) -> None:
        """Axes merged, split, ones put in or taken out."""
        t = list(s)
        for _ in range(int(self.rng.integers(1, 4))):
            i = int(self.rng.integers(len(t)))
            d, kind = t[i], int(self.rng.integers(4))
            if kind == 0 and len(t) < 5:
                t.insert(i, 1)
            elif kind == 1 and 1 in t and len(t) > 1:
                t.remove(1)
            elif kind == 2 and i + 1 < len(t):
                t[i : i + 2] = [self.model.product((t[i], t[i + 1]))]
            elif isinstance(d, str) and d in self.model.merged:
                t[i : i + 1] = self.model.merged[d]
            elif isinstance(d, int) and d > 3 and len(t) < 5:
                f = next(f for f in (2, 3, 5, d) if d % f == 0)
                t[i : i + 1] = [f, d // f] if self.chance() else [d // f, f]
        if sum(isinstance(d, str) for d in t) <= 2 and len(t) <= 5:
            self.put(lp.Reshape(), [x], tuple(t))

    def permute(self, x: Var, s: Shape, rank: int) -> None:
        perm = tuple(int(i) for i in self.rng.permutation(rank))
        self.put(lp.Permute(perm), [x], tuple(s[i] for i in perm))

    def slice(self, x: Var, s: Shape, rank: int) -> None:
        shape, begin = list(s), [0] * rank
        d = x.definition
        if d is not None and isinstance(d.primitive, lp.Embed) and self.chance():
            self.put(lp.Slice(d.primitive.begin), [x], d.inputs[0].shape)
            return
        for i in range(rank):
            n = self.model.number(s[i])
            if n > 1 and self.chance():
                shape[i] = int(self.rng.integers(max(1, n // 2), n))
                begin[i] = self.begin(n - shape[i])
        self.put(lp.Slice(tuple(begin)), [x], shape)

    def embed(self, x: Var, s: Shape, rank: int) -> None:
        whole, begin = list(s), [0] * rank
        for i in range(rank):
            if isinstance(s[i], int) and self.chance(0.4) and s[i] < 9:
                whole[i] = int(s[i]) + int(self.rng.integers(1, 4))
                begin[i] = self.begin(whole[i] - s[i])
        self.put(lp.Embed(tuple(begin)), [x], whole)

    def concat(self, x: Var, s: Shape, rank: int) -> None:
        axes = [i for i, d in enumerate(s) if isinstance(d, int) and d < 9]
        if not axes:
            return
        axis = int(self.pick(axes))
        fits = [v for v in self.pool if v.rank == rank and v.shape[:axis] == s[:axis] and v.shape[axis + 1 :] ==
                s[axis + 1 :] and isinstance(v.shape[axis], int)]  # fmt: skip
        parts = [x, self.pick(fits)]
        if self.chance(0.3):
            parts.append(self.leaf(s) if self.chance() else self.box(s))
        size = sum(v.shape[axis] for v in parts)
        if size < 20:
            self.put(lp.Concat(axis), parts, (*s[:axis], size, *s[axis + 1 :]))

    # Contractions

    def matmul(self, x: Var, s: Shape, rank: int) -> None:
        left, transposed = self.chance(0.3), self.chance()
        if rank < 2:
            return
        inside, out = s[-2 if left else -1], int(self.rng.integers(2, 6))
        front: Shape = self.partial(s[:-2]) if self.chance(0.3) else ()
        pair = (out, inside) if left != transposed else (inside, out)
        w = self.model.coefficient((*front, *pair), self.chance(0.7))
        self.put(lp.MatMul(w, left, transposed), [x], (*s[:-2], out, s[-1]) if left else (*s[:-1], out))

    def einsum(self, x: Var, s: Shape, rank: int) -> None:
        labels = "abcde"[:rank]
        met = [i for i in range(rank) if self.chance()]
        gone = [i for i in met if self.chance()]
        w = [labels[i] for i in met] + ["z"]
        out = [c for i, c in enumerate(labels) if i not in gone] + ["z"]
        w, out = ([v[int(i)] for i in self.rng.permutation(len(v))] for v in (w, out))
        sizes: dict[str, Dim] = {**dict(zip(labels, s, strict=True)), "z": 2}
        weight = self.model.coefficient(tuple(sizes[c] for c in w), self.chance())
        if len(out) < 6:
            shape = tuple(sizes[c] for c in out)
            self.put(lp.Einsum(weight, labels, "".join(w), "".join(out)), [x], shape)

    def conv(self, x: Var, s: Shape, rank: int, const: float = 0.7) -> None:
        if rank not in (3, 4, 5) or not isinstance(s[1], int) or any(isinstance(d, str) for d in s[2:]):
            return
        n, channels = rank - 2, s[1]
        group = int(self.pick([g for g in (1, 1, 2, channels) if channels % g == 0]))
        adjoint = self.chance(0.4)
        out = group * int(self.rng.integers(1, 4))
        kernel = tuple(int(self.rng.integers(1, 4)) for _ in range(n))
        strides = tuple(int(self.rng.integers(1, 3)) for _ in range(n))
        pads = tuple(int(self.rng.integers(k)) for k in kernel) * 2
        window = Window(kernel, strides, pads, (1,) * n)
        sizes = []
        for d, k, t, p in zip(s[2:], kernel, strides, pads, strict=False):
            sizes.append((d - 1) * t + k - 2 * p if adjoint else (d + 2 * p - k) // t + 1)
        if min(sizes) < 1:
            return
        front = (channels, out // group) if adjoint else (out, channels // group)
        w = self.model.coefficient((*front, *kernel), self.chance(const))
        self.put(lp.Conv(w, window, group, adjoint), [x], (s[0], out, *sizes))

    def window_sum(self, x: Var, s: Shape, rank: int) -> None:
        n = int(self.rng.integers(1, 3))
        if rank <= n or any(isinstance(d, str) or d < 2 for d in s[-n:]):
            return
        window = Window((2,) * n, (1,) * n, (1,) * (2 * n), (1,) * n)
        adjoint = self.chance(0.4)
        self.put(lp.WindowSum(window, adjoint), [x], (*s[:-n], *(d + (-1 if adjoint else 1) for d in s[-n:])))

    # Picks

    def gather(self, x: Var, s: Shape, rank: int) -> None:
        axis, count = int(self.rng.integers(rank)), int(self.rng.integers(1, 6))
        line = self.rng.integers(self.model.number(s[axis]), size=count)
        places = self.model.coefficient((count,), self.chance(), line)
        self.put(lp.Gather(axis, places), [x], (*s[:axis], count, *s[axis + 1 :]))

    def scatter_add(self, x: Var, s: Shape, rank: int) -> None:
        axis, size = int(self.rng.integers(rank)), int(self.rng.integers(1, 6))
        places = self.model.coefficient(
            (s[axis],), self.chance(), self.rng.integers(size, size=self.model.number(s[axis]))
        )
        self.put(lp.ScatterAdd(axis, places), [x], (*s[:axis], size, *s[axis + 1 :]))

    def cumsum(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.CumSum(int(self.rng.integers(rank)), self.chance(), self.chance()), [x], s)
