"""The walk: nodes in order, each linearised by its rule, from the explained tensors to Z."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from .bodies import BODIES, written_body
from .canonical import canonical
from .control import loop, scan
from .functions import function_body
from .stream import RULES, Array, Columns, NoCarrierPath, Node, NotInOracle, OracleError, Tensor, carrier
from .values import BY_BODY, constant_node, evaluate, widen

MOST_STEPS = 1000
HOPS = 8  # streams are kept until everything this many nodes downstream has run: canonical forms look back


@dataclass
class Result:
    """y = <seed, Z> = sum(C_w * X) + sum(C_b), and what led there."""

    score: float
    C_w: dict[str, Array]
    C_b: dict[str, Array]
    values: dict[str, Array]
    tensors: dict[str, Tensor] = field(repr=False)
    _rerun: object = field(repr=False, default=None)

    @property
    def residual(self) -> float:
        return self.score - sum((self.C_w[k] * self.values[k]).sum() + self.C_b[k].sum() for k in self.C_w)

    @property
    def condition(self) -> float:
        size = sum(np.abs(self.C_w[k] * self.values[k]).sum() + np.abs(self.C_b[k]).sum() for k in self.C_w)
        return float(size / max(1.0, abs(self.score)))

    @cached_property
    def bias_by_node(self) -> dict[str, dict[str, Array]]:
        """Owner (node name, or its first output if unnamed) -> explained input -> its share of C_b."""
        return self._rerun()  # type: ignore[operator]


@dataclass
class Walk:
    """One forward pass with a given column layout."""

    model: onnx.ModelProto
    feeds: dict[str, Array]
    inputs: list[str]
    output: str
    tangent: bool
    channel_axis: dict[str, int]
    blocks: dict[str, int] | None = None
    check: bool = True
    keep_streams: bool = False
    known: dict[str, Array] = field(default_factory=dict)  # values of explained tensors inside the graph

    def __post_init__(self) -> None:
        self.env: dict[str, Tensor] = {}
        self.producers: dict[str, Node] = {}
        self.owners: list[str] = []
        self.x: Array = np.zeros(0)

    # -- explained tensors ---------------------------------------------------------------------------------------

    def ones_shape(self, name: str, value: Array) -> tuple[int, ...]:
        """X's shape with the channel axis reduced to 1."""
        shape = list(value.shape)
        if shape:
            default = 1 if value.ndim >= 4 else value.ndim - 1
            shape[self.channel_axis.get(name, default)] = 1
        return tuple(shape)

    def set_columns(self, explained: dict[str, Array]) -> None:
        """Columns: all entries of all X (none when biases are split by owner), then blocks of all their ones."""
        self.slices: dict[str, tuple[slice, slice]] = {}
        v = o = 0
        for name in self.inputs:
            size, ones = explained[name].size, int(np.prod(self.ones_shape(name, explained[name])))
            self.slices[name] = slice(v, v + size), slice(o, o + ones)
            v, o = v + size, o + ones
        self.x = np.concatenate([explained[name].reshape(-1) for name in self.inputs])
        self.columns = Columns(v if self.blocks is None else 0, o, self.blocks)

    def explained(self, name: str, value: Array) -> Tensor:
        """X: the identity on its own columns, and its own ones."""
        if value.dtype.kind != "f":
            raise NotInOracle(f"explained tensor {name!r} is not floating point")
        values, ones = self.slices[name]
        lin = np.zeros((value.size, self.columns.width))
        if self.blocks is None:
            lin[:, values] = np.eye(value.size)
        ones_shape = self.ones_shape(name, value)
        index = np.arange(int(np.prod(ones_shape))).reshape(ones_shape)
        o = np.zeros((value.size, self.columns.n_ones))
        o[np.arange(value.size), ones.start + np.broadcast_to(index, value.shape).reshape(-1)] = 1
        return carrier(value, lin.reshape(*value.shape, lin.shape[-1]), o.reshape(*value.shape, o.shape[-1]))

    # -- nodes ---------------------------------------------------------------------------------------------------

    def node(self, proto: onnx.NodeProto, opsets: dict[str, int], owner: str = "", inside: str = "") -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        name = proto.name or next(o for o in proto.output if o)
        version = opsets.get(domain, opsets.get("", 1))
        attrs = attribute_defaults(proto.op_type, domain, version)
        attrs |= {a.name: attribute(a) for a in proto.attribute}
        return Node(
            proto.op_type, domain, name, owner or name, list(proto.input), list(proto.output), attrs,
            version, self.tangent, self.columns, self.env.__getitem__,
            lambda t: None if t in self.inputs else self.producers.get(t), proto, inside,
        )  # fmt: skip

    def run_node(self, n: Node) -> list[Tensor] | list[Node]:
        """The outputs of a node, or the nodes that take its place."""
        inputs = [self.env[i] if i else None for i in n.inputs]
        if n.op == "If" and n.domain == "":
            return self.branch(n, inputs[0])
        if n.op in ("Loop", "Scan") and n.domain == "":
            return self.unrolled(n, inputs)
        if not any(t is not None and t.is_carrier for t in inputs):
            expand = n.op in BY_BODY or (n.domain, n.op) in BODIES
            return self.inlined(n, inputs) if expand else constant_node(n, inputs)
        whole = canonical(n)
        if whole is not None:
            return [replace(whole)]
        rule = RULES.get((n.domain, n.op))
        if rule is not None:
            y = rule(n, *inputs)
            return y if isinstance(y, list) else [y]
        nodes = self.inlined(n, inputs)
        if nodes is not None:
            return nodes
        values = evaluate(n, [None if t is None else t.value for t in inputs])
        why = str(n.refuse("no rule in the oracle"))
        return [Tensor(v, refused=why) if v.dtype.kind == "f" else Tensor(v) for v in values]

    def inlined(self, n: Node, inputs: list[Tensor | None]) -> list[Node] | None:
        body = written_body(n, inputs) or function_body(n, inputs)
        return None if body is None else [self.node(p, body[1], n.owner, n.inside or n.op) for p in body[0]]

    def branch(self, n: Node, condition: Tensor) -> list[Node]:
        """The branch taken, its outputs renamed."""
        taken = n.attrs["then_branch" if bool(np.ravel(condition.value)[0]) else "else_branch"]
        for init in taken.initializer:
            self.env[init.name] = Tensor(widen(numpy_helper.to_array(init)))
        opsets = {n.domain: n.opset}
        nodes = [self.node(p, opsets) for p in taken.node]
        for inner, outer in zip(taken.output, n.outputs, strict=True):
            proto = helper.make_node("Identity", [inner.name], [outer], name=n.name)
            nodes.append(self.node(proto, opsets))
        return nodes

    def unrolled(self, n: Node, inputs: list[Tensor | None]) -> list[Node]:
        """All passes of a Loop (its condition stays true) or Scan."""
        opsets = {n.domain: n.opset, "com.microsoft": 1, "ai.onnx.ml": 3}
        if n.op == "Scan":
            protos = scan(n.proto, n.attrs, [t.shape for t in inputs], n.opset)
        elif inputs[0] is None or int(np.ravel(inputs[0].value)[0]) > MOST_STEPS:
            raise NotInOracle("a Loop that nothing but its condition ends")
        else:
            protos = loop(n.proto, n.attrs, int(np.ravel(inputs[0].value)[0]))
        return [self.node(p, opsets) for p in protos]

    def verify(self, n: Node, t: Tensor) -> None:
        """value = A x + B 1 and ones 1 = 1."""
        if not self.check or not t.is_carrier or t.refused is not None:
            return
        ones_sum = t.ones.sum(axis=-1)
        if ones_sum.size and np.abs(ones_sum - 1).max() > 1e-9:
            raise OracleError(f"ones of {n.op} {n.name!r} are not all ones: {ones_sum.min()}..{ones_sum.max()}")
        weights = np.concatenate([self.x, np.ones(self.columns.n_ones)])
        got, size = t.lin @ weights, np.abs(t.lin) @ np.abs(weights)
        gap = np.abs(got - t.value) / np.maximum(1, np.maximum(size, np.abs(t.value)))
        gap = gap[np.isfinite(t.value) & np.isfinite(gap)]  # masks, 1/0 on the way to a weight
        if gap.size and gap.max() > 1e-9:
            raise OracleError(f"value of {n.op} {n.name!r} is not its linear image: off by {gap.max()}")

    # -- the pass ------------------------------------------------------------------------------------------------

    def run(self) -> Tensor:
        """The explained tensor Z, and everything before it in ``env``."""
        with np.errstate(all="ignore"):
            self.load()
            self.set_columns({n: self.env[n].value if n in self.env else self.known[n] for n in self.inputs})
            for name in self.inputs:
                if name in self.env:
                    self.env[name] = self.explained(name, self.env[name].value)
            self.walk([self.output, *self.inputs])
        return self.env[self.output]

    def load(self) -> None:
        """Initializers, then feeds (which may override them)."""
        for init in self.model.graph.initializer:
            self.env[init.name] = Tensor(widen(numpy_helper.to_array(init)))
        for name, value in self.feeds.items():
            self.env[name] = Tensor(widen(value))

    def walk(self, targets: list[str]) -> None:
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in self.model.opset_import}
        protos = needed(self.model.graph.node, targets)
        last_use = last_uses(protos)
        for position, proto in enumerate(protos):
            queue = deque([self.node(proto, opsets)])
            while queue:
                n = queue.popleft()
                results = self.run_node(n)
                if results and isinstance(results[0], Node):
                    queue.extendleft(reversed(results))
                else:
                    self.store(n, results)
            if not self.keep_streams:
                for name in last_use.get(position, []):
                    if name in self.env and name not in targets:
                        self.env[name].release()

    def store(self, n: Node, results: Iterable[Tensor]) -> None:
        for name, t in zip(n.outputs, results, strict=False):
            if not name:
                continue
            self.env[name] = t
            self.producers[name] = n
            if t.is_carrier:
                self.verify(n, t)
            if name in self.inputs:
                self.env[name] = self.explained(name, t.value)
        self.owners.append(n.owner)


def attribute(proto: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else value


@cache
def _schema_defaults(op: str, domain: str, version: int) -> tuple[tuple[str, object], ...]:
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return ()
    present = {k: a.default_value for k, a in schema.attributes.items() if a.default_value.type}
    return tuple((k, attribute(v)) for k, v in present.items())


def attribute_defaults(op: str, domain: str, version: int) -> dict:
    """Defaults as the operator's schema has them (float32). Clip-6 bounds nothing by default."""
    return {} if op == "Clip" else dict(_schema_defaults(op, domain, version))


def needed(nodes: Iterable[onnx.NodeProto], targets: list[str]) -> list[onnx.NodeProto]:
    """The nodes that the targets depend on, in order."""
    wanted, kept = set(targets), []
    for proto in reversed(list(nodes)):
        if wanted & set(proto.output):
            kept.append(proto)
            wanted.update(i for i in all_inputs(proto) if i)
    return kept[::-1]


def all_inputs(proto: onnx.NodeProto) -> list[str]:
    """Inputs, and everything that subgraphs take from outside."""
    names = list(proto.input)
    for attribute in proto.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names += all_inputs(inner)
            names += [o.name for o in graph.output]
    return names


def last_uses(protos: list[onnx.NodeProto]) -> dict[int, list[str]]:
    """Position of a node -> the tensors whose streams nobody asks for after it."""
    consumers: dict[str, list[int]] = {}
    for position, proto in enumerate(protos):
        for name in all_inputs(proto):
            consumers.setdefault(name, []).append(position)
    reach = {name: max(positions) for name, positions in consumers.items()}
    for _ in range(HOPS):
        reach = {
            name: max([reach[name], *(reach.get(o, 0) for p in positions for o in protos[p].output)])
            for name, positions in consumers.items()
        }
    table: dict[int, list[str]] = {}
    for name, position in reach.items():
        table.setdefault(position, []).append(name)
    return table


def forward_values(model: onnx.ModelProto, feeds: dict[str, Array], names: list[str]) -> dict[str, Array]:
    """Values of intermediate tensors: a walk on which nothing is explained."""
    walk = Walk(model, feeds, [], names[0], False, {})
    walk.columns = Columns(0, 0)
    with np.errstate(all="ignore"):
        walk.load()
        walk.walk(names)
    return {name: walk.env[name].value for name in names}


def explain(
    model: onnx.ModelProto,
    feeds: dict[str, Array],
    inputs: list[str],
    output: str,
    seed: Array,
    rules: str = "secant",
    channel_axis: dict[str, int] | None = None,
    check: bool = True,
    keep_streams: bool = False,
) -> Result:
    """The calculus, densely: C_w and C_b of <seed, output> with respect to the explained ``inputs``.

    ``check``: verify at every node that the streams reproduce its value and that ones stay ones.
    ``keep_streams``: leave the streams of all tensors in ``Result.tensors``.
    """
    if rules not in ("secant", "tangent"):
        raise ValueError(f"rules: secant or tangent, not {rules!r}")
    model = inliner.inline_local_functions(model) if model.functions else model
    intermediate = [name for name in inputs if name not in feeds]
    known = forward_values(model, feeds, intermediate) if intermediate else {}

    def walk(blocks: dict[str, int] | None) -> tuple[Walk, Tensor]:
        verify = check and blocks is None
        tangent, axes = rules == "tangent", channel_axis or {}
        w = Walk(model, feeds, inputs, output, tangent, axes, blocks, verify, keep_streams, known)
        return w, w.run()

    w, z = walk(None)
    if not z.is_carrier:
        raise NoCarrierPath(f"{output!r} does not depend on {inputs} by a carrier path")
    weights = np.asarray(seed, dtype=np.float64)
    if weights.shape != z.shape:
        raise ValueError(f"seed has shape {weights.shape}, {output!r} has {z.shape}")
    flat = weights.reshape(-1)
    row = flat @ z.lin.reshape(flat.size, -1)
    c_w, c_b = {}, {}
    for name in inputs:
        values, ones = w.slices[name]
        x = w.env[name].value
        c_w[name] = row[values].reshape(x.shape)
        c_b[name] = row[w.columns.n_values :][ones].reshape(w.ones_shape(name, x))

    def by_node(chunk: int = 16) -> dict[str, dict[str, Array]]:
        owners, table = list(dict.fromkeys(w.owners)), {}
        for start in range(0, len(owners), chunk):
            group = owners[start : start + chunk]
            v, z2 = walk({owner: k for k, owner in enumerate(group)})
            shares = (flat @ z2.lin.reshape(flat.size, -1)).reshape(len(group), -1)
            for owner, share in zip(group, shares, strict=True):
                if np.any(share):
                    table[owner] = {
                        name: share[v.slices[name][1]].reshape(v.ones_shape(name, v.env[name].value)) for name in inputs
                    }
        return table

    score = float((weights * z.value).sum())
    return Result(score, c_w, c_b, {name: t.value for name, t in w.env.items()}, w.env, by_node)
