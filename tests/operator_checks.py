"""What holds of every operator of an instance: adjoint identity, completeness, agreement with the dense oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from oracle import explain as dense

from omenn_onnx.errors import NoPath
from omenn_onnx.runtime import sessions
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.operators import AffineOperator, TensorOperator

Array = np.ndarray[Any, Any]
BAR = 1e-5
"""Of the adjoint identity, relative to |u| |R v|, and of completeness."""
MAPS = 1e-4
"""Of a matrix, relative to the oracle's largest entry."""


def on_one_thread(model: Any, providers: Any = None, options: Any = None, **more: Any) -> Any:
    """``sessions.open_session`` with sessions of one thread: many small networks, checked side by side."""
    if options is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
    return sessions.open_session(model, providers, options, **more)


def adjoint_gap(op: TensorOperator, seed: int = 0, count: int = 2, cancelling: bool = False) -> float:
    """max |<u, R v> - <R^T u, v>| / (|u| |R v|) over ``count`` pairs of random vectors, sums in float64. With
    ``cancelling`` over the larger of that and |R^T u| |v|: where R v is what large terms leave, as both sides round."""
    random = np.random.default_rng(seed)
    v = random.standard_normal((op.shape[1], count)).astype(op.dtype)
    u = random.standard_normal((op.shape[0], count)).astype(op.dtype)
    image, cotangent = op.matmat(v).astype(np.float64), op.rmatmat(u).astype(np.float64)
    assert np.isfinite(image).all(), "R v is not finite"
    assert np.isfinite(cotangent).all(), "R^T u is not finite"
    gap = np.abs((u * image).sum(axis=0) - (cotangent * v).sum(axis=0))
    scale = np.linalg.norm(u.astype(np.float64), axis=0) * np.linalg.norm(image, axis=0)
    if cancelling:
        scale = np.maximum(scale, np.linalg.norm(cotangent, axis=0) * np.linalg.norm(v.astype(np.float64), axis=0))
    return float(np.max(np.where(gap == 0, 0.0, gap / np.maximum(scale, 1e-30)), initial=0.0))


def incomplete(op: AffineOperator, matrix: Array) -> float:
    """max |y - R x - b| of the rows in units of max(1, |y|, sum_j|R_kj x_j|, |b|), as semantics.md has it. Rows that a
    mask makes infinite do not count."""
    rows = np.isfinite(op.y)
    x, y, bias, matrix = (t.astype(np.float64) for t in (op.x, op.y[rows], op.bias[rows], matrix[rows]))
    image, size = matrix @ x, np.abs(matrix) @ np.abs(x)
    scale = np.maximum.reduce([np.ones_like(y), np.abs(y), size, np.abs(bias)])
    return float(np.max(np.abs(y - image - bias) / scale, initial=0.0))


def assert_operator(op: AffineOperator) -> None:
    """The adjoint identity and completeness, without the matrix."""
    gap, off = adjoint_gap(op), op.residual
    assert gap <= BAR, f"{op}: <u, R v> and <R^T u, v> differ by {gap:.1e}"
    assert off <= BAR, f"{op}: residual {off:.1e}"


def pairs(instance: Instance, most: int = 12, seed: int = 0) -> list[tuple[str, str]]:
    """X to Z, X to layers, layers to Z, and layers to layers behind them: ``most`` of each kind, drawn where there are
    more."""
    names, random = instance.carriers(), np.random.default_rng(seed)
    sources = [n for n in names if n in instance.sources]
    inner = [n for n in names if n not in instance.sources and n != instance.target]
    found = [(s, instance.target) for s in sources]
    found += [(str(random.choice(sources)), n) for n in _some(inner, most, random)]
    found += [(n, instance.target) for n in _some(inner, most, random)]
    found += _some([(a, b) for i, a in enumerate(inner) for b in inner[i + 1 :]], most, random)
    return list(dict.fromkeys(found))


def operators(instance: Instance, most: int = 12, seed: int = 0) -> Iterator[AffineOperator]:
    """The operators of ``pairs`` where a path leads."""
    for source, target in pairs(instance, most, seed):
        try:
            yield instance.operator(source, target)
        except NoPath as e:
            if "no linear path leads" not in str(e):
                raise


def _some(of: Sequence[Any], most: int, random: np.random.Generator) -> list[Any]:
    if len(of) <= most:
        return list(of)
    return [of[i] for i in sorted(random.choice(len(of), most, replace=False))]


def assert_as_oracle(
    instance: Instance, model: onnx.ModelProto, feeds: Mapping[str, Array], rules: str, axes: Mapping[str, int]
) -> int:
    """R and bias of the operators from X to tensors that the oracle carries (at most 8, Z among them); how many."""
    sources, z = instance.sources, instance.value(instance.target)
    found = dense(model, dict(feeds), sources, instance.target, np.zeros(z.shape), rules, dict(axes), keep_streams=True)
    x = {s: instance.value(s).astype(np.float64).reshape(-1) for s in sources}
    ends = np.cumsum([0, *(v.size for v in x.values())])
    inner = [n for n in instance.carriers() if n not in x and n in found.tensors and found.tensors[n].is_carrier]
    names = [*_some([n for n in inner if n != instance.target], 7, np.random.default_rng(1)), instance.target]
    compared = 0
    for name in (n for n in names if n in found.tensors):
        whole = found.tensors[name].lin.reshape(instance.value(name).size, -1)
        parts = {s: whole[:, a:b] for s, a, b in zip(x, ends[:-1], ends[1:], strict=True)}
        ones = whole[:, ends[-1] :]
        size = np.abs(ones).sum(axis=1) + sum(np.abs(p) @ np.abs(x[s]) for s, p in parts.items())
        for s, part in parts.items():
            try:
                op = instance.operator(s, name)
            except NoPath:
                assert not part.any(), f"{s!r} -> {name!r}: the oracle has a path"
                continue
            matrix = op.dense()
            gap = np.abs(matrix - part).max(initial=0) / max(np.abs(part).max(initial=0), 1e-2)
            assert gap <= MAPS, f"{op}: the matrix differs from the oracle's by {gap:.1e}"
            bias = ones.sum(axis=1) + sum(p @ x[o] for o, p in parts.items() if o != s)
            known = np.isfinite(op.y)
            off = (np.abs(op.bias - bias) / np.maximum(1, size))[known].max(initial=0)
            assert off <= BAR, f"{op}: the bias differs from the oracle's by {off:.1e}"
            assert incomplete(op, matrix) <= BAR
            compared += 1
    return compared
