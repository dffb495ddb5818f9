"""What is known of every tensor at compile time: type, shape, and the value of small constants.

ONNX's own shape inference does the work. It cannot see values that nodes compute from constants and static shapes
(the reshape targets that exporters write out), so those are evaluated here and inference is run again with them in
place, until nothing new is learnt. The graph itself is not changed: the model's own nodes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from omenn_onnx.graph import standins_microsoft, standins_quantised  # noqa: F401  (they register their stand-ins)
from omenn_onnx.graph.files import skeleton
from omenn_onnx.graph.flatten import branch_of, flatten
from omenn_onnx.graph.ir import Array, Dim, Shape
from omenn_onnx.graph.loop_shapes import tell_loops
from omenn_onnx.graph.sizes import MADE_UP, follow_sizes, follow_vectors
from omenn_onnx.graph.standins import put_stand_ins

_FOLDED = frozenset(
    "Abs Add And Cast Ceil Concat Constant ConstantOfShape Cos Div Equal Exp Expand Flatten Floor Gather Greater "
    "GreaterOrEqual Identity Less LessOrEqual Log Max Min Mod Mul Neg Not Or Pow Range Reciprocal ReduceMax ReduceMin "
    "ReduceProd ReduceSum Reshape Sin Slice Split Sqrt Squeeze Sub Tile Transpose Trilu Unsqueeze Where".split()
)
_FOLD_LIMIT = 4096
_UNTRUSTED = frozenset({"", "?", "None", "none", "unk", "-1"})
_MAX_ROUNDS = 6
_VECTOR_TYPES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_GIVEN = "given:"


@dataclass
class Facts:
    """Types (TensorProto codes), shapes and known values of the tensors of a main graph, by name."""

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)


def collect_facts(proto: onnx.ModelProto) -> Facts:
    """Types, shapes and small constant values of every tensor of ``proto``; unknown sizes get a symbol of their own."""
    bare = skeleton(proto, limit=_FOLD_LIMIT)
    put_stand_ins(bare)
    _set_apart(bare)
    declared = {v.name: v for v in bare.graph.value_info}
    for v in bare.graph.output:  # (the originals lose their shapes below)
        if v.name in declared and not v.type.tensor_type.HasField("shape"):
            continue
        declared[v.name] = onnx.ValueInfoProto.FromString(v.SerializeToString())
    static = all(d.HasField("dim_value") for v in proto.graph.input for d in v.type.tensor_type.shape.dim)
    _keep_unknown(bare)
    handed = {v.name for v in (*bare.graph.input, *bare.graph.initializer)}  # inference reads such an output's shape
    for output in bare.graph.output:
        if output.type.HasField("tensor_type") and output.name not in handed:
            output.type.tensor_type.ClearField("shape")
    for given in bare.graph.input:
        for i, d in enumerate(given.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") and d.dim_param in _UNTRUSTED:
                d.dim_param = f"{given.name}#{i}"
    values = {i.name: onnx.numpy_helper.to_array(i) for i in bare.graph.initializer if _small(i.dims)}
    overridable = {v.name for v in proto.graph.input}
    # An initializer that is listed as an input may be overridden; nobody does so to axes and shapes.
    values = {k: v for k, v in values.items() if k not in overridable or v.dtype.kind in "iub"}
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    for _ in range(_MAX_ROUNDS):
        fresh = _fold(bare, _raw_shapes(inferred), values)
        fresh |= _followed(inferred, values | fresh)
        values.update(fresh)
        _substitute(bare, fresh)
        told = tell_loops(bare, inferred, values) | _doubt_resizes(bare, _raw_shapes(inferred), values)
        if not (_take_branches(bare, values) or fresh or told):
            break
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    return _gather(proto, inferred, declared, values, static)


def _set_apart(bare: onnx.ModelProto) -> None:
    """Declared symbols that look as if inference had made them up must not meet those that it is about to make up:
    those of the inputs get a prefix, the others, left in the file by an earlier inference, are forgotten."""
    given = {d.dim_param for v in bare.graph.input for d in v.type.tensor_type.shape.dim}
    for group in (bare.graph.input, bare.graph.value_info, bare.graph.output):
        for v in group:
            for d in v.type.tensor_type.shape.dim:
                if d.dim_param.startswith(MADE_UP):
                    d.dim_param = f"{_GIVEN}{d.dim_param}" if d.dim_param in given else ""


def _keep_unknown(bare: onnx.ModelProto) -> None:
    """Of the declared shapes keep those of operators that onnx does not know: nothing else can tell them."""
    opsets = {o.domain: o.version for o in bare.opset_import}
    unknown = {
        name
        for n in bare.graph.node
        if n.domain not in ("", "ai.onnx") and not onnx.defs.has(n.op_type, opsets.get(n.domain, 1), n.domain)
        for name in n.output
    }
    kept = [v for v in bare.graph.value_info if v.name in unknown]
    del bare.graph.value_info[:]
    bare.graph.value_info.extend(kept)


def _small(dims: Any) -> bool:
    return int(np.prod(list(dims), dtype=np.int64)) <= _FOLD_LIMIT


def _raw_shapes(model: onnx.ModelProto) -> dict[str, list[Dim | None]]:
    shapes: dict[str, list[Dim | None]] = {}
    for group in (model.graph.value_info, model.graph.input, model.graph.output):
        for v in group:
            if v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape"):
                shapes[v.name] = [
                    d.dim_value if d.HasField("dim_value") else (d.dim_param if d.dim_param not in _UNTRUSTED else None)
                    for d in v.type.tensor_type.shape.dim
                ]
    return shapes


def _fold(model: onnx.ModelProto, shapes: dict[str, list[Dim | None]], known: dict[str, Array]) -> dict[str, Array]:
    """Values of nodes whose inputs are known and small, or that read a static part of a shape."""
    fresh: dict[str, Array] = {}
    shapes = {**shapes, **{k: list(v.shape) for k, v in known.items()}}
    partial: dict[str, list[Dim | None]] = {}
    opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _FOLDED | {"Shape", "Size"}:
            continue
        if all(o in known for o in node.output):
            continue
        if node.op_type == "Shape":
            dims = shapes.get(node.input[0])
            if dims is not None:
                attrs = {a.name: a.i for a in node.attribute}
                partial[node.output[0]] = dims[attrs.get("start", 0) : attrs.get("end", len(dims))]
                _note_static(node.output[0], partial, fresh)
            continue
        if node.op_type == "Size":
            dims = shapes.get(node.input[0])
            if dims is not None and all(isinstance(d, int) for d in dims):
                fresh[node.output[0]] = np.asarray(np.prod(np.asarray(dims, np.int64), dtype=np.int64))
            continue
        if _fold_partial(node, partial, known | fresh if partial else known, fresh):
            continue
        inputs = [known.get(i, fresh.get(i)) if i else None for i in node.input]
        if any(v is None and i for v, i in zip(inputs, node.input, strict=True)):
            continue
        shape = shapes.get(node.output[0])
        if shape is not None and all(isinstance(d, int) for d in shape) and not _small(shape):
            continue
        result = _evaluate(node, {i: v for i, v in zip(node.input, inputs, strict=True) if v is not None}, opsets)
        fresh.update({n: v for n, v in result.items() if v.size <= _FOLD_LIMIT})
    return fresh


def _followed(inferred: onnx.ModelProto, values: dict[str, Array]) -> dict[str, Array]:
    """Values of integer vectors that come from shapes which are known in part."""
    raw = _raw_shapes(inferred)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    found: dict[str, Array] = {}
    for name, vector in follow_vectors(inferred.graph.node, raw, values).items():
        rank, kind = raw.get(name), types.get(name, 0)
        if name not in values and rank is not None and len(rank) <= 1 and kind in _VECTOR_TYPES:
            value = np.asarray(vector, onnx.helper.tensor_dtype_to_np_dtype(kind))
            found[name] = value.reshape(()) if not rank else value
    return found


def _doubt_resizes(model: onnx.ModelProto, shapes: dict[str, list[Dim | None]], values: dict[str, Array]) -> bool:
    """Runtimes disagree where the size times a scale is a whole number but for rounding (5 * 1.8): that size is left to
    the run. Whether there was such a Resize."""
    found = False
    for node in model.graph.node:
        if node.op_type != "Resize" or node.domain not in ("", "ai.onnx") or len(node.input) < 3:
            continue
        scales, sizes = values.get(node.input[2]), shapes.get(node.input[0])
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if scales is None or sizes is None or not scales.size:
            continue
        known = [(s, sizes[a]) for s, a in zip(scales, range(len(sizes)) if axes is None else axes, strict=True)]
        products = [(float(s) * n, float(np.float32(s) * np.float32(n))) for s, n in known if isinstance(n, int)]
        if all(int(exact) == int(rounded) for exact, rounded in products):
            continue
        name = f"{node.output[0]}: its scales"
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, scales.shape))
        node.input[2] = name
        found = True
    return found


def _note_static(name: str, partial: dict[str, list[Dim | None]], fresh: dict[str, Array]) -> None:
    if all(isinstance(d, int) for d in partial[name]):
        fresh[name] = np.asarray(partial[name], np.int64)


def _fold_partial(
    node: onnx.NodeProto, partial: dict[str, list[Dim | None]], known: dict[str, Array], fresh: dict[str, Array]
) -> bool:
    """Gather with a constant index from a shape that is known only in part."""
    if node.op_type != "Gather" or node.input[0] not in partial or node.input[1] not in known:
        return False
    index = known[node.input[1]]
    dims = partial[node.input[0]]
    picked = [dims[int(i)] for i in index.reshape(-1) if -len(dims) <= int(i) < len(dims)]
    if len(picked) == index.size and all(isinstance(d, int) for d in picked):
        fresh[node.output[0]] = np.asarray(picked, np.int64).reshape(index.shape)
    return True


def _evaluate(node: onnx.NodeProto, inputs: dict[str, Array], opsets: list[Any]) -> dict[str, Array]:
    if node.op_type == "ConstantOfShape" and int(np.prod(next(iter(inputs.values())), dtype=np.int64)) > _FOLD_LIMIT:
        return {}
    outputs = [o for o in node.output if o]
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [onnx.ValueInfoProto(name=o) for o in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, inputs)
    except Exception:  # not known at compile time, then; a runtime will say what is wrong with the node, if anything is
        return {}
    return {n: np.asarray(v) for n, v in zip(outputs, results, strict=True)}


def _substitute(model: onnx.ModelProto, fresh: dict[str, Array]) -> None:
    kept = [n for n in model.graph.node if not all(o in fresh for o in n.output if o)]
    made = {o for n in model.graph.node for o in n.output} - {o for n in kept for o in n.output}
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    outputs = {o.name for o in model.graph.output}
    for name, value in fresh.items():
        if name in made and name not in outputs:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))


def _take_branches(model: onnx.ModelProto, values: dict[str, Array]) -> bool:
    """An If of known condition is the branch that it takes, for what its outputs are. Whether there was one."""
    if not any(n.op_type == "If" and n.input[0] in values for n in model.graph.node):
        return False
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "If" or node.input[0] not in values:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        flat = flatten(branch_of(node, bool(values[node.input[0]].any())), f"branch of {node.output[0]}: ")
        model.graph.initializer.extend(flat.initializers)
        model.graph.sparse_initializer.extend(flat.sparse)
        values.update({i.name: onnx.numpy_helper.to_array(i) for i in flat.initializers if _small(i.dims)})
        nodes += flat.nodes
        nodes += [onnx.helper.make_node("Identity", [a], [b]) for a, b in zip(flat.outputs, node.output, strict=True)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _gather(
    proto: onnx.ModelProto,
    inferred: onnx.ModelProto,
    declared: dict[str, onnx.ValueInfoProto],
    values: dict[str, Array],
    static: bool,
) -> Facts:
    facts = Facts(values=values)
    raw = _raw_shapes(inferred)
    for group in (inferred.graph.value_info, inferred.graph.input, inferred.graph.output):
        for v in group:
            if v.type.HasField("tensor_type") and v.type.tensor_type.elem_type:
                facts.types[v.name] = v.type.tensor_type.elem_type
    for i in proto.graph.initializer:
        facts.types[i.name] = i.data_type
        raw[i.name] = list(i.dims)
    for name, value in values.items():
        raw[name] = list(value.shape)
        facts.types.setdefault(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
    known_as: dict[str, Dim] = {}
    for name, v in declared.items():
        if name not in facts.types and v.type.tensor_type.elem_type:
            facts.types[name] = v.type.tensor_type.elem_type
        _merge_declared(raw, name, v, static, known_as)
    for _ in range(_MAX_ROUNDS):
        for name, dims in raw.items():
            raw[name] = [_resolve(d, known_as) for d in dims]
        if not _learn(raw, known_as, follow_sizes(proto.graph.node, raw, values)):
            break
    for name, dims in raw.items():
        facts.shapes[name] = tuple(_symbol(name, i, d) for i, d in enumerate(dims))
    return facts


def _symbol(name: str, axis: int, d: Dim | None) -> Dim:
    """A size, or a symbol; one with # in it is nobody's name for anything, and no user sees it."""
    if d is None:
        return f"{name}#{axis}"
    if isinstance(d, str):
        return f"{d}#" if d.startswith(MADE_UP) else d.removeprefix(_GIVEN)
    return d


def _merge_declared(
    raw: dict[str, list[Dim | None]], name: str, v: onnx.ValueInfoProto, static: bool, known_as: dict[str, Dim]
) -> None:
    """Take what the file declares where inference knows nothing. Declared numbers of a model with dynamic inputs may be
    stale (a batch size edited afterwards), so only its rank and symbols are trusted there. ``known_as`` collects the
    declared names of the symbols that inference made up."""
    if not v.type.tensor_type.HasField("shape"):
        return
    dims: list[Dim | None] = []
    for d in v.type.tensor_type.shape.dim:
        if d.HasField("dim_value"):
            dims.append(d.dim_value if static else None)
        else:
            dims.append(d.dim_param if d.dim_param and d.dim_param not in _UNTRUSTED else None)
    if name not in raw:
        raw[name] = dims
    elif len(dims) == len(raw[name]):
        for i, (ours, theirs) in enumerate(zip(raw[name], dims, strict=True)):
            if theirs is None or ours == theirs:
                continue
            if ours is None:
                raw[name][i] = theirs
            elif isinstance(ours, str) and ours.startswith(MADE_UP):
                known_as.setdefault(ours, theirs)


def _learn(raw: dict[str, list[Dim | None]], known_as: dict[str, Dim], found: dict[str, list[Dim | None]]) -> bool:
    """Take sizes that were followed through the graph where inference made a symbol up or knows nothing."""
    learnt = False
    for name, dims in found.items():
        ours = raw.get(name)
        if ours is None:
            raw[name], learnt = dims, True
        elif len(ours) == len(dims):
            for i, (a, b) in enumerate(zip(ours, dims, strict=True)):
                if b is None or a == b:
                    continue
                if a is None:
                    ours[i], learnt = b, True
                elif isinstance(a, str) and a.startswith(MADE_UP) and a not in known_as:
                    known_as[a], learnt = b, True
    return learnt


def _resolve(d: Dim | None, known_as: dict[str, Dim]) -> Dim | None:
    seen: set[Dim] = set()
    while isinstance(d, str) and d in known_as and d not in seen:
        seen.add(d)
        d = known_as[d]
    return d
