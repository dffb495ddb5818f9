"""A readable account of a compilation: what was explained, by which rules, at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from omenn_onnx.compiler import Compiled
from omenn_onnx.graph.ir import Dim, Node, Shape, Tensor


def summary(compiled: Compiled) -> list[str]:
    """What was found and chosen, a line each."""
    lin = compiled.linear
    lines = []
    for t in lin.sources:
        lines.append(f"explained input   {lin.name(t)} {_dims(t.shape)}, channel axis {lin.axes[t]}")
    lines.append(f"explained output  {compiled.output} {_dims(lin.output.shape)}")
    lines.append(f"target            {compiled.target.spec}")
    lines.append(f"rules             {'tangent' if lin.calculus.tangent else 'secant'}, {lin.emit.dtype.name}")
    if compiled.placement is not None:
        lines.append(f"provider          {compiled.placement.kernels.provider}, by {compiled.placement.kernels.source}")
    if lin.calculus.opaque_nodes:
        names = Counter(n.op for n in lin.calculus.opaque_nodes)
        lines.append("opaque            " + _counts(names))
    return lines


def report(compiled: Compiled, original_bytes: int, compiled_bytes: int) -> str:
    """The summary, and operators by rule, carriers and weights, nodes, FLOPs and file growth."""
    lin = compiled.linear
    lines = summary(compiled)
    lines.append("operators         " + _counts(Counter(lin.calculus.used)))
    if lin.views.recognised:
        lines.append("seen as one       " + _counts(Counter(lin.views.recognised)))
    if lin.views.decomposed:
        lines.append("decomposed        " + _counts(Counter(lin.views.decomposed)))
    reached = [t for t, pair in lin.calculus.pairs.items() if pair.value in lin.reached and t.producer is not None]
    dependent = [t for t in lin.calculus.pairs if t.producer is not None]
    lines.append(f"carriers          {len(reached)} tensors have an adjoint")
    frozen = len(dependent) - len(reached)
    lines.append(f"weights           {frozen} tensors depend on the input and are frozen or unused: no adjoint")
    lines.append(f"nodes             {compiled.original_nodes} + {len(compiled.nodes)} added")
    lines += _fallbacks(compiled)
    forward, adjoint = flops(lin.graph.nodes), flops(compiled.nodes)
    ratio = f" ({(forward + adjoint) / forward:.2f} times the forward pass)" if forward else ""
    lines.append(
        f"FLOPs             forward {_engineering(forward)}, added {_engineering(adjoint)}{ratio}; free sizes as 1"
    )
    growth = 100.0 * (compiled_bytes - original_bytes) / max(original_bytes, 1)
    lines.append(f"file              {original_bytes:,} -> {compiled_bytes:,} bytes (+{growth:.1f} %)")
    return "\n".join(lines)


def _fallbacks(compiled: Compiled) -> list[str]:
    """What runs on the CPU although the file is for another provider."""
    placed = compiled.placement
    if placed is None:
        return []
    own = Counter(f"{f.op}-{f.since}" for f in placed.own)
    told = f": {_counts(own)}" if own else ""
    lines = [f"without a kernel  {len(placed.ours)} of the nodes added, {len(placed.own)} of the model's own{told}"]
    return lines + [f"                  {f}" for f in placed.ours]


def flops(nodes: Iterable[Node]) -> float:
    """Multiplications and additions of the convolutions and products among ``nodes``; unknown sizes count as 1."""
    return sum(2.0 * _macs(n) for n in nodes if n.domain == "" and all(i is None or not i.const for i in n.inputs[:1]))


def _macs(node: Node) -> float:
    out = _size(node.outputs[0]) if node.outputs else 0.0
    inputs = [i for i in node.inputs if i is not None]
    if node.op == "Conv":
        return out * _product(_shape(inputs[1])[1:])
    if node.op == "ConvTranspose":
        return _size(inputs[0]) * _product(_shape(inputs[1])[1:])
    if node.op in ("MatMul", "Gemm"):
        inner = _shape(inputs[0])
        return out * _number(inner[0 if node.attrs.get("transA") else -1]) if inner else 0.0
    if node.op == "Einsum":
        left, _, right = _text(node.attrs["equation"]).partition("->")
        sizes: dict[str, float] = {}
        for term, t in zip(left.split(","), inputs, strict=True):
            sizes.update({c: _number(d) for c, d in zip(term.strip(), _shape(t), strict=False)})
        return _product([int(sizes[c]) for c in sizes]) if right is not None else 0.0
    return 0.0


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _shape(t: Tensor) -> Shape:
    return t.shape or ()


def _number(d: Dim) -> float:
    return float(d) if isinstance(d, int) else 1.0


def _product(dims: Iterable[Dim]) -> float:
    result = 1.0
    for d in dims:
        result *= _number(d)
    return result


def _size(t: Tensor) -> float:
    return _product(_shape(t))


def _dims(shape: Shape | None) -> str:
    return "[" + ", ".join("?" if isinstance(d, str) and "#" in d else str(d) for d in shape or ()) + "]"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{op} {n}" for op, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _engineering(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
