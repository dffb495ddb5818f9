"""A graph under construction: draws, constants, nodes. Each node is computed as it is drawn: shapes are known,
and values stay finite and moderate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
OPSET = 21
LARGEST = 60
"""Entries of one tensor: the oracle is dense."""


class Unfit(Exception):
    """A draw that does not fit: another one is made."""


@dataclass(frozen=True)
class T:
    name: str
    value: Array = field(repr=False, hash=False, compare=False)
    carries: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.ndim


def run_node(node: onnx.NodeProto, values: dict[str, Array]) -> list[Array]:
    """One node by ONNX Runtime."""
    feeds = {i: values[i] for i in node.input if i}
    graph = helper.make_graph([node], "one", [], [onnx.ValueInfoProto(name=o) for o in node.output if o])
    graph.input.extend(info(name, v.dtype, v.shape) for name, v in feeds.items())
    model = helper.make_model(graph, opset_imports=opset_imports(), ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, feeds)
    except Exception as error:
        raise Unfit(str(error)) from error


def info(name: str, dtype: np.dtype, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(d, v) for d, v in (("", OPSET), ("com.microsoft", 1), ("ai.onnx.ml", 3))]


class Graph:
    """The nodes drawn so far and what they give at the drawn input."""

    def __init__(self, seed: int, dynamic: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.dynamic = dynamic
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values: dict[str, Array] = {}
        self.found: list[T] = []
        self.explained: list[str] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self.largest = LARGEST

    def explain(self, name: str, *shape: int, scale: float = 1.0, fed: bool = False) -> T:
        """A graph input of random normal entries, which is explained (but where it is only fed)."""
        value = (self.random.normal(size=shape) * scale).astype(np.float32)
        self.values[name] = value
        self.infos.append(info(name, value.dtype, ["N", *shape[1:]] if self.dynamic else shape))
        if not fed:
            self.explained.append(name)
        return T(name, value)

    def model(self, last: T) -> onnx.ModelProto:
        """What ``last`` needs, as "y"."""
        wanted, kept = {last.name}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= set(node.input)
        nodes = [*kept[::-1], helper.make_node("Identity", [last.name], ["y"], name="out")]
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        weights = [w for w in self.weights if w.name in wanted]
        graph = helper.make_graph(nodes, "random", self.infos, [y], weights)
        return helper.make_model(graph, opset_imports=opset_imports(), ir_version=10)

    @property
    def feeds(self) -> dict[str, Array]:
        return {i.name: self.values[i.name] for i in self.infos}

    # -- draws ---------------------------------------------------------------------------------------------------

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def flag(self, chance: float = 0.5) -> bool:
        return bool(self.random.random() < chance)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def any(self, *ranks: int) -> T:
        """A tensor, later ones more often."""
        fitting = [t for t in self.found if not ranks or t.rank in ranks]
        if not fitting:
            raise Unfit
        k = len(fitting)
        return fitting[min(k - 1, int(k * self.random.random() ** 0.6))]

    def like(self, x: T, same: bool = False) -> T:
        """A tensor that broadcasts with x; `same`: of its shape."""
        fitting = [t for t in self.found if t.shape == x.shape or (not same and broadcasts(t.shape, x.shape))]
        return self.pick(*fitting)

    def first_axis(self) -> int:
        """Axes that may be worked on: not the batch of a dynamic graph."""
        return 1 if self.dynamic else 0

    def axis(self, x: T) -> int:
        if x.rank <= self.first_axis():
            raise Unfit
        return self.integer(self.first_axis(), x.rank - 1)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: Any = None) -> str:
        array = np.asarray(value, dtype)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        self.values[name] = array
        return name

    def weight(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        return self.constant(self.random.normal(size=shape) * scale + shift)

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def small(self, x: T) -> str:
        """A constant that broadcasts to x."""
        shape = tuple(1 if self.flag(0.4) else d for d in x.shape)
        if self.dynamic and shape:
            shape = (1, *shape[1:])
        if self.flag(0.3):
            return self.constant(np.float32(self.pick(0.7, -1.3, 2.0, 1.0, 0.0, 0.3)))
        return self.weight(*shape[self.integer(0, len(shape)) :])

    def op(
        self, kind: str, *inputs: T | str, outputs: int | tuple[int, ...] = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """A node; ``outputs``: how many it has, or which ones are asked for."""
        asked = range(outputs) if isinstance(outputs, int) else outputs
        base = f"t{len(self.nodes)}"
        names = [(base + (f"_{i}" if i else "") if i in asked else "") for i in range(max(asked) + 1)]
        given = [i.name if isinstance(i, T) else i for i in inputs]
        node = helper.make_node(kind, given, names, name=f"n{len(self.nodes)}", domain=domain, **attributes)
        results = run_node(node, self.values)
        for r in results:
            if r.dtype.kind == "f" and (not np.isfinite(r).all() or np.abs(r).max(initial=0) > 300):
                raise Unfit
            if r.size > self.largest or r.size == 0 or r.ndim > 5:
                raise Unfit
        self.nodes.append(node)
        made = [T(n, r) for n, r in zip((n for n in names if n), results, strict=True)]
        self.values |= {t.name: t.value for t in made}
        return made[0] if outputs == 1 else made


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return math.prod(np.broadcast_shapes(a, b)) <= LARGEST
    except ValueError:
        return False


Step = Callable[[Graph], T]
