"""What is explained when the user does not say: inputs, the output before its tail, the channel axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from omenn_onnx.calculus.shape_ops import shape_groups
from omenn_onnx.errors import CompileError, NameNotFound, NoPath
from omenn_onnx.graph.ir import Graph, Node, Tensor

View = Callable[[Tensor], Node | None]

_TAIL = frozenset(
    "Softmax LogSoftmax Sigmoid ArgMax ArgMin TopK ZipMap Cast Equal Greater GreaterOrEqual Less LessOrEqual Identity "
    "Reshape Flatten Squeeze Unsqueeze NaNGuard".split()
)
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_AFFINE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN"})


def find_outputs(graph: Graph, view: View, name: str | None) -> list[Tensor]:
    """The tensor of that name, or what stands in front of the outputs' tails: the first that depends on the explained
    inputs is explained."""
    if name is not None:
        return [_float_tensor(graph, name, "explained output")]
    outputs = [t for output in graph.outputs for t in _elements(view, output)]
    ends = ((_before_tail(view, output), output) for output in outputs)
    found = [t for pair in ends if (t := next((t for t in pair if t.is_float), None)) is not None]
    if not found:
        raise CompileError(
            f"no floating-point tensor was found behind output {graph.outputs[0].name!r}: say --output NAME"
        )
    return found


def _elements(view: View, output: Tensor) -> list[Tensor]:
    """The tensors of a sequence that is an output, else the output itself."""
    node = view(output)
    if node is None or node.op != "SequenceConstruct" or node.domain != "":
        return [output]
    return [t for t in node.inputs if t is not None]


_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_WHOLE = frozenset({"GRU", "LSTM", "Loop", "RNN", "Scan"})
"""Operators whose steps are no tail."""


def _before_tail(view: View, t: Tensor) -> Tensor:
    """What stands in front of the tail that ends in ``t``. A shape that is changed last, so that other rows come first,
    is no tail: the rows that are explained are those of the output."""
    moved: Tensor | None = None
    while True:
        if t.producer is not None and t.producer.domain == "" and t.producer.op in _WHOLE:
            return moved or t
        source, node = _label_source(view, t), None
        if source is None:
            node = view(t)
            if node is not None and node.op == "Settled" and node.inputs[0] is not None:
                node = view(node.inputs[0])
            if node is not None and node.op in _TAIL:
                source = node.inputs[0]
            else:
                source = _quantised_source(view, t) or _turned_source(view, t)
                if source is None:
                    return moved or t
        if source is None or source.const:
            return moved or t
        if node is None or node.op not in _RESHAPES:
            moved = None
        elif moved is None and (t.shape or ())[:1] != (source.shape or ())[:1]:
            moved = t
        t = source


def _turned_source(view: View, t: Tensor) -> Tensor | None:
    """The softmax or sigmoid that a Transpose of other axes than the first puts into another layout."""
    source: Tensor | None = t
    while source is not None and (node := view(source)) is not None and node.op == "Transpose":
        if (node.attrs.get("perm") or [-1])[0] != 0:
            return None
        source = node.inputs[0]
    node = None if source is None or source is t else view(source)
    return source if node is not None and node.op in ("Softmax", "LogSoftmax", "Sigmoid") else None


def _quantised_source(view: View, t: Tensor) -> Tensor | None:
    """What quantisers that make ``t`` stand behind: a softmax or sigmoid, or the first real tensor behind integers."""
    source: Tensor | None = t
    while source is not None and (node := view(source)) is not None and node.op in QUANTISERS:
        source = node.inputs[0]
        if source is not None and source.is_float and not t.is_float:
            return source
    node = None if source is None or source is t else view(source)
    return source if node is not None and node.op in ("Softmax", "LogSoftmax", "Sigmoid") else None


def _label_source(view: View, t: Tensor) -> Tensor | None:
    """The source of ``t`` if an operator that belongs to a classifier's tail makes it: the choice of a label by its
    index, a label's mapping, scores made to sum to 1 behind their sigmoid or softmax."""
    node = t.producer
    if node is not None and node.domain == "" and node.op == "Gather" and not t.is_float:
        return node.inputs[1] if node.inputs[0] is not None and node.inputs[0].const else None
    if node is None or node.domain != "ai.onnx.ml":
        return None
    if node.op == "ArrayFeatureExtractor" and node.inputs[0] is not None and node.inputs[0].const:
        return node.input(1)
    if node.op == "LabelEncoder":
        return node.inputs[0]
    if node.op == "Normalizer" and node.inputs[0] is not None:
        before = _before_tail(view, node.inputs[0])
        return None if before is node.inputs[0] else before
    return None


def find_inputs(graph: Graph, names: Sequence[str]) -> list[Tensor]:
    """The tensors of those names, or the default: the float inputs, for token ids the output of the word embedding, for
    an integer image its first Cast, for text and categories the features that are made of them."""
    if names:
        chosen = [_float_tensor(graph, n, "explained input") for n in dict.fromkeys(names)]
        for t in chosen:
            if t.const:
                raise CompileError(
                    f"explained input {t.name!r} is a constant: it does not depend on the model's inputs"
                )
        return chosen
    rounded = {t: made for t in graph.inputs if t.is_float and (made := _as_integers(graph, t))}
    found = [t for t in graph.inputs if t.is_float and t.rank != 0 and t not in rounded]
    integers = [t for t in graph.inputs if t.dtype is not None and t.dtype.kind in "iu" and not t.const]
    integers += [t for made in rounded.values() for t in made]
    embeddings = _word_embeddings(graph, integers)
    found += embeddings
    images = [_first_cast(graph, t) for t in integers if (t.rank or 0) >= 3]
    found += [t for t in images if t is not None]
    if not found:
        casts = [_first_cast(graph, t) for t in integers]
        found = [t for t in casts if t is not None]
    if not found:
        found = [n.outputs[0] for n in graph.nodes if n.op in _ENCODERS and n.outputs[0].is_float]
    if not found:
        raise NoPath(
            "the model has no floating-point input, embedding, cast or encoded feature to explain: say --input NAME of "
            "a float tensor"
        )
    return found


_ENCODERS = frozenset({"DictVectorizer", "OneHotEncoder", "TfIdfVectorizer"})
"""Operators that make features of text and categories."""


def _as_integers(graph: Graph, t: Tensor) -> list[Tensor]:
    """The integers that a float input is cast to, if nothing reads it as a float: token ids given as floats."""
    readers = [n for n in graph.nodes if t in n.inputs or t in n.captured]
    kinds = [o.dtype.kind if o.dtype is not None else "" for n in readers for o in n.outputs if o.name]
    if any(n.op not in ("Cast", "Equal", "Shape") for n in readers) or not set(kinds) <= set("iub"):
        return []
    return [n.outputs[0] for n, kind in zip(readers, kinds, strict=True) if n.op == "Cast" and kind in "iu"]


def _float_tensor(graph: Graph, name: str, what: str) -> Tensor:
    if name not in graph.tensors:
        raise NameNotFound(what, name, graph.tensors)
    t = graph.tensors[name]
    if not t.is_float:
        kind = "of unknown type" if t.dtype is None else str(t.dtype)
        raise CompileError(f"{what} {name!r} is {kind}; only floating-point tensors can be explained")
    return t


_MOVES = frozenset(
    "DepthToSpace Expand Flatten Gather Identity Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)


def _first_cast(graph: Graph, t: Tensor) -> Tensor | None:
    """The first float tensor that integers are cast or dequantised to, perhaps after they were moved."""
    moved = {t}
    for node in graph.nodes:
        if node.domain == "" and node.inputs and node.inputs[0] in moved:
            if node.op in ("Cast", "DequantizeLinear") and node.outputs[0].is_float:
                return node.outputs[0]
            if node.op in _MOVES or node.op == "Cast":
                moved.update(node.outputs)
    return None


_GATHERS = frozenset({"Gather", "GatherBlockQuantized"})
_ID_MOVES = (_MOVES | {"Cast"}) - _GATHERS
_ID_ARITHMETIC = frozenset({"Add", "Clip", "Concat", "Max", "Min", "Mod", "Mul", "Sub", "Where"})
"""Ids made positive, kept within their table, or shifted behind a start token."""


def _word_embeddings(graph: Graph, integers: list[Tensor]) -> list[Tensor]:
    """Outputs of Gathers that look token ids, or what arithmetic makes of them, up in a constant table: for each input
    its largest table; of several inputs those whose tables are the largest (token types and positions have small
    ones)."""
    ids: dict[Tensor, Tensor] = {t: t for t in integers}
    candidates: list[tuple[int, Tensor]] = []
    for node in graph.nodes:
        if node.op in _ID_MOVES or node.op in _ID_ARITHMETIC:
            read = next((t for t in node.inputs[: 1 if node.op in _ID_MOVES else None] if t in ids), None)
            if read is not None:
                ids.update((t, ids[read]) for t in node.outputs if not t.is_float)
        elif node.op in _GATHERS and node.inputs[1] in ids and node.inputs[0] is not None and node.inputs[0].const:
            table, out = node.inputs[0], node.outputs[0]
            found = out if out.is_float else _first_cast(graph, out)
            if found is not None and table.rank == 2 and table.shape is not None and isinstance(table.shape[0], int):
                candidates.append((table.shape[0], found))
    largest = max((rows for rows, _ in candidates), default=0)
    return [t for rows, t in candidates if rows == largest]


# The channel axis

AxisMap = tuple[frozenset[int], ...]


def channel_axes(nodes: Sequence[Node], sources: Sequence[Tensor], given: Mapping[str, int]) -> dict[Tensor, int]:
    """For each explained tensor the axis along which the ones channel is appended."""
    axes: dict[Tensor, int] = {}
    for name in given:
        if name and all(name != t.name for t in sources):
            raise NameNotFound("--channel-axis: explained input", name, (t.name for t in sources))
    for t in sources:
        rank = t.rank
        if rank is None:
            raise CompileError(f"the rank of the explained tensor {t.name!r} is not known; declare its shape")
        if rank == 0:
            raise CompileError(f"the explained tensor {t.name!r} is a scalar; choose another --input")
        said = given.get(t.name, given.get(""))
        if said is not None:
            if not -rank <= said < rank:
                raise CompileError(f"--channel-axis {said}: {t.name!r} has {rank} axes")
            axes[t] = said % rank
            continue
        found = _contracted_axes(nodes, t, [s for s in sources if s is not t])
        fallback = 1 if rank >= 4 else rank - 1
        wanted = {min(s) if len(s) == 1 else fallback for s in found}
        if len(wanted) > 1:
            raise CompileError(
                f"the channel axis of {t.name!r} is not clear: the operators that read it contract axes "
                f"{sorted(wanted)}; say --channel-axis {t.name}=N"
            )
        axes[t] = wanted.pop() if wanted else fallback
    return axes


def _contracted_axes(nodes: Sequence[Node], source: Tensor, others: Sequence[Tensor]) -> list[frozenset[int]]:
    """The axes of ``source`` that each first affine operator behind it contracts; of products those with a constant
    matrix count before those with a computed one (an adjacency, attention), which may mix places."""
    assert source.rank is not None
    maps: dict[Tensor, AxisMap] = {source: tuple(frozenset({i}) for i in range(source.rank))}
    found: list[tuple[frozenset[int], bool]] = []
    for node in nodes:
        inputs = [(i, t) for i, t in enumerate(node.inputs) if t is not None and t in maps]
        if not inputs or any(o is source or o in others for o in node.outputs):
            continue
        if node.op in _AFFINE and node.domain == "":
            for i, t in inputs:
                axes = _contracts(node, i, t)
                union = frozenset().union(*(maps[t][a] for a in axes if a < len(maps[t])))
                if union:
                    found.append((union, all(o is t or o is None or o.const for o in node.inputs)))
            continue
        for o in node.outputs:
            moved = [m for _, t in inputs if (m := _moved(node, t, maps[t], o)) is not None]
            if moved and o.name:
                maps[o] = tuple(frozenset().union(*axes) for axes in zip(*moved, strict=True))
    by_constants = [axes for axes, constant in found if constant]
    return by_constants or [axes for axes, _ in found]


def _contracts(node: Node, i: int, t: Tensor) -> list[int]:
    rank = t.rank or 0
    if node.op in ("Conv", "ConvTranspose"):
        return [1] if i == 0 else []
    if node.op == "MatMul":
        return [rank - 1] if i == 0 or rank == 1 else [rank - 2]
    if node.op == "Gemm":
        if i == 0:
            return [0 if node.attrs.get("transA") else 1]
        return [1 if node.attrs.get("transB") else 0] if i == 1 else []
    if node.op == "Einsum":
        left, _, out = node.attrs["equation"].decode().replace(" ", "").partition("->")
        term = left.split(",")[i]
        behind = term.partition("...")[2] if "..." in term else term
        front = term.partition("...")[0] if "..." in term else ""
        labels: list[str | None] = [*front, *[None] * (rank - len(front) - len(behind)), *behind]
        return [a for a, c in enumerate(labels) if c is not None and c not in out]
    return [2] if i == 0 else []


def _moved(node: Node, t: Tensor, axes: AxisMap, out: Tensor) -> AxisMap | None:
    """Where the axes of ``t`` stand in an output of a node that is not affine."""
    if t.shape is None or out.shape is None or not (out.is_float or _is_quantised(node, t, out)):
        return None
    if node.op == "Transpose":
        perm = node.attrs.get("perm", list(range(len(axes)))[::-1])
        return tuple(axes[a] for a in perm)
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        result: dict[int, frozenset[int]] = {}
        for left, right in shape_groups(t.shape, out.shape):
            union = frozenset().union(*(axes[a] for a in left if t.shape[a] != 1))
            for a in right:
                result[a] = frozenset() if out.shape[a] == 1 and len(right) > 1 else union
        return tuple(result.get(a, frozenset()) for a in range(len(out.shape)))
    if node.op == "SpaceToDepth":
        return (axes[0], axes[1] | axes[2] | axes[3], axes[2], axes[3])
    if node.op == "DepthToSpace":
        return (axes[0], axes[1], axes[1] | axes[2], axes[1] | axes[3])
    if node.op == "Gather" and node.inputs[0] is t:
        a = int(node.attrs.get("axis", 0)) % len(axes)
        spread = len(out.shape) - len(axes) + 1
        return (*axes[:a], *(axes[a] for _ in range(spread)), *axes[a + 1 :])
    if node.op == "STFT":  # samples are places: frames and frequencies come of them
        return (axes[0], frozenset(), frozenset(), frozenset())
    if node.op.startswith("Reduce") and len(out.shape) < len(axes):
        which = node.attrs.get("axes")
        if which is None and node.input(1) is not None:
            value = node.inputs[1].value if node.inputs[1] is not None else None
            which = None if value is None else [int(a) for a in value.reshape(-1)]
        if which is None:
            return None
        gone = {a % len(axes) for a in which}
        return tuple(s for a, s in enumerate(axes) if a not in gone)
    if len(out.shape) >= len(axes):
        return (frozenset(),) * (len(out.shape) - len(axes)) + axes
    return None


def _is_quantised(node: Node, t: Tensor, out: Tensor) -> bool:
    """Whether integers are those of a quantiser in front or further back."""
    return node.op in QUANTISERS or (out is node.outputs[0] and t.dtype == out.dtype)


def class_axis(view: View, z: Tensor) -> int:
    """The axis of the classes of a dense output: where the operator that made it put its output channels."""
    rank = z.rank or 1
    t: Tensor | None = z
    axis: int | None = None
    trail: list[Sequence[int]] = []
    while t is not None and (node := view(t)) is not None:
        if node.op in ("Conv", "ConvTranspose", "BatchNormalization", "Resize"):
            axis = 1
            break
        if node.op in ("MatMul", "Gemm") or (node.op == "Einsum" and t.rank is not None and t.rank < 4):
            axis = (t.rank or 1) - 1
            break
        if node.op == "Transpose":
            trail.append(node.attrs.get("perm", list(range(t.rank or 0))[::-1]))
        elif node.op not in ("Add", "Sub", "Mul", "Div", "Identity", "Cast", "Relu", "Sigmoid", *QUANTISERS):
            break
        t = next((i for i in node.inputs if i is not None and not i.const), None)
    if axis is None:
        return 1 if rank >= 4 else rank - 1
    for perm in reversed(trail):
        axis = list(perm).index(axis)
    return axis
