"""How a case of an operator of com.microsoft is written: one node, its operands as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from omenn_onnx.graph.read import read_graph
from omenn_onnx.normalise.bodies import BODIES, Body
from omenn_onnx.normalise.fragment import fragment_model

Array = np.ndarray[Any, Any]
F32, I32 = np.float32, np.int32
MICROSOFT = "com.microsoft"


def a(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal numbers."""
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(F32)


def i(*values: Any) -> Array:
    return np.array(values, I32)


@dataclass(frozen=True)
class Case:
    """One node. ``operands`` are arrays or None; those whose places are in ``explained`` are explained inputs, those in
    ``fed`` other inputs, the rest constants. ``expected``: what it computes where ONNX Runtime has no kernel."""

    name: str
    op: str
    operands: tuple[Array | None, ...]
    explained: tuple[int, ...] = (0,)
    fed: tuple[int, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)
    domain: str = MICROSOFT
    expected: Callable[..., Array] | None = None
    free: tuple[int, ...] = ()
    integers: tuple[str, ...] = ()

    def model(self, op: str = "") -> onnx.ModelProto:
        """The node by itself; of the inputs in ``free`` no sizes are fixed but those of channels and heads."""
        names = [f"x{k}" if v is not None else "" for k, v in enumerate(self.operands)]
        outputs = [f"y{k}" if k in self.outputs else "" for k in range(max(self.outputs) + 1)]
        node = helper.make_node(self.op, names, outputs, name="node", domain=self.domain, **self.attrs)
        inputs, weights = [], []
        for k, v in enumerate(self.operands):
            if v is None:
                continue
            if k in (*self.explained, *self.fed):
                fixed = {v.ndim - 1} | ({1} if v.ndim == 4 else set())
                dims = [n if k not in self.free or axis in fixed else f"d{n}" for axis, n in enumerate(v.shape)]
                inputs.append(helper.make_tensor_value_info(f"x{k}", helper.np_dtype_to_tensor_dtype(v.dtype), dims))
            else:
                weights.append(numpy_helper.from_array(v, f"x{k}"))
        results = [helper.make_tensor_value_info(o, 6 if o in self.integers else 1, None) for o in outputs if o]
        graph = helper.make_graph([node], "one", inputs, results, weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(self.domain, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def feeds(self) -> dict[str, Array]:
        return {f"x{k}": v for k in (*self.explained, *self.fed) if (v := self.operands[k]) is not None}

    def plain(self) -> onnx.ModelProto:
        """The decomposition as a model."""
        graph = read_graph(self.model())
        node = graph.nodes[0]
        body = Body(node)
        BODIES[self.domain, self.op](body)
        given = {f"i{k}": t for k, t in enumerate(node.inputs) if t is not None}
        made = {f"o{k}": t for k, t in enumerate(node.outputs) if t.name}
        model = fragment_model(body.nodes, body.constants, given, made, {"": 20})
        model.ir_version = 9
        return model

    def plain_feeds(self) -> dict[str, Array]:
        return {"i" + name[1:]: v for name, v in self.feeds().items()}


def case(name: str, op: str, *operands: Array | None, **options: Any) -> Case:
    own = {k: options.pop(k) for k in list(options) if k in Case.__dataclass_fields__}
    return Case(name, op, operands, attrs=options, **own)
