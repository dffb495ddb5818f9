"""The model at one input as a linear operator between two of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from omenn_onnx.errors import OperatorError
from omenn_onnx.runtime.progress import progress

Array = NDArray[Any]
Shape = tuple[int, ...]
Apply = Callable[[Array], Array]

MEMORY_LIMIT = 4 * 10**9
"""Bytes that a dense matrix may take unless the user says otherwise."""
_BLOCK = 1 << 22
"""Numbers of source and target that go through the graphs at a time, and at most so many vectors:"""
_VECTORS = 64
_SIGNS = 16
"""Vectors of random signs that the residual's scale is estimated with."""


class TensorOperator(LinearOperator):  # type: ignore[misc]  # (scipy has no types)
    """A linear map between two named tensors, which it takes flattened: [M, D] for M elements of the target and D of
    the source. ``matmat`` and ``rmatmat`` take ``batch`` vectors at a time."""

    def __init__(
        self, source: str, target: str, source_shape: Shape, target_shape: Shape, dtype: Any, batch: int | None = None
    ) -> None:
        self.source, self.target = source, target
        self.source_shape, self.target_shape = source_shape, target_shape
        rows, columns = _size(target_shape), _size(source_shape)
        self.batch = batch or max(1, min(_VECTORS, _BLOCK // max(1, rows + columns)))
        super().__init__(np.dtype(dtype), (rows, columns))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r} -> {self.target!r}, {self.shape[0]} x {self.shape[1]})"

    def _images(self, vectors: Array) -> Array:
        """R v for each row v of ``vectors`` [K, D], as [K, M]."""
        raise NotImplementedError

    def _cotangents(self, vectors: Array) -> Array:
        """R^T u for each row u of ``vectors`` [K, M], as [K, D]."""
        raise NotImplementedError

    def _in_batches(self, apply: Apply, x: Array, width: int) -> Array:
        vectors = np.ascontiguousarray(x.T.reshape(-1, x.shape[0]), self.dtype)
        found = np.empty((len(vectors), width), self.dtype)
        for start in range(0, len(vectors), self.batch):
            found[start : start + self.batch] = apply(vectors[start : start + self.batch])
        return found

    def _matmat(self, x: Array) -> Array:
        return self._in_batches(self._images, _real(x), self.shape[0]).T

    def _rmatmat(self, x: Array) -> Array:
        return self._in_batches(self._cotangents, _real(x), self.shape[1]).T

    def _matvec(self, x: Array) -> Array:
        return self._matmat(x.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, x: Array) -> Array:
        return self._rmatmat(x.reshape(-1, 1)).reshape(-1)

    def _transpose(self) -> TensorOperator:
        return TransposedOperator(self)

    _adjoint = _transpose

    @property
    def dense_bytes(self) -> int:
        """What the dense matrix takes."""
        return int(self.shape[0] * self.shape[1] * self.dtype.itemsize)

    def dense(self, memory_limit: int = MEMORY_LIMIT, show: bool | None = None) -> Array:
        """The matrix [M, D], by rows through the adjoint or by columns through the operator, whichever are fewer.

        ``show``: whether to say where it is (None: when it takes long). Raises OperatorError where the matrix takes
        more than ``memory_limit`` bytes.
        """
        need = self.dense_bytes
        if need > memory_limit:
            raise OperatorError(
                f"the matrix of {self.source!r} -> {self.target!r} is {self.shape[0]} x {self.shape[1]} and takes "
                f"{need / 1e9:.3g} GB, the limit is {memory_limit / 1e9:.3g} GB: raise memory_limit, or use the "
                "operator as it is"
            )
        matrix = np.empty(self.shape, self.dtype)
        by_rows = self.shape[0] <= self.shape[1]
        count = min(self.shape)
        with progress(f"matrix {self.shape[0]} x {self.shape[1]}, {need / 1e6:.0f} MB", count, show=show) as done:
            for start in range(0, count, self.batch):
                units = _units(start, self.batch, count, self.dtype)
                block = slice(start, start + len(units))
                if by_rows:
                    matrix[block] = self._cotangents(units)
                else:
                    matrix[:, block] = self._images(units).T
                done(len(units))
        return matrix


class TransposedOperator(TensorOperator):
    """R^T: from the target's cotangents to the source's."""

    def __init__(self, of: TensorOperator) -> None:
        super().__init__(of.target, of.source, of.target_shape, of.source_shape, of.dtype, of.batch)
        self._of = of

    def _images(self, vectors: Array) -> Array:
        return self._of._cotangents(vectors)

    def _cotangents(self, vectors: Array) -> Array:
        return self._of._images(vectors)

    def _transpose(self) -> TensorOperator:
        return self._of

    _adjoint = _transpose


class AffineOperator(TensorOperator):
    """A linear map with what it leaves out:  y = R x + bias  at the instance that it was made of.

    ``x`` [D] and ``y`` [M] are the values of source and target there, ``bias`` [M] what reaches the target otherwise:
    through biases and, where the source does not separate it from the explained inputs, past the source.

    ``a @ b`` with an operator of the same instance that begins where the other ends is the operator over both, in
    either order of writing. Raises OperatorError where a path leads past the tensor between them.
    """

    x: Array
    y: Array
    bias: Array
    instance: Any

    def __matmul__(self, other: Any) -> Any:
        if not isinstance(other, AffineOperator):
            return super().__matmul__(other)
        if self.target == other.source:
            return ChainedOperator(self, other)
        if other.target == self.source:
            return ChainedOperator(other, self)
        raise OperatorError(f"{self!r} and {other!r} do not meet: one has to begin at the tensor where the other ends")

    @property
    def residual(self) -> float:
        """The largest |y_k - (R x)_k - bias_k| / max(1, |y_k|, |bias_k|, s_k): rounding and nothing else.

        s_k^2 is the mean of (R e x)_k^2 over random signs e, about sum_j (R_kj x_j)^2: not more than the square of the
        completeness bar's sum_j |R_kj x_j|, and found without the matrix. Elements of masks do not count.
        """
        signs = np.random.default_rng(0).choice(np.array([-1, 1], self.dtype), (_SIGNS, self.shape[1]))
        signs[0] = 1
        images = np.concatenate(
            [self._images(signs[k : k + self.batch] * _unmasked(self.x)) for k in range(0, _SIGNS, self.batch)]
        )
        size = np.sqrt(np.mean(np.square(images, dtype=np.float64), axis=0))
        size = np.maximum.reduce([np.ones_like(size), np.abs(self.y), np.abs(self.bias), np.abs(images[0]), size])
        known = ~np.isinf(self.y)
        off = np.abs(self.y[known].astype(np.float64) - images[0][known] - self.bias[known])
        return float((off / size[known]).max(initial=0.0))


class ChainedOperator(AffineOperator):
    """The operator over two that meet."""

    def __init__(self, first: AffineOperator, second: AffineOperator) -> None:
        past = first.instance.bypass(first.source, second, second.instance)
        if past is not None:
            way = "straight to the end" if past == second.target else f"through {past!r}"
            raise OperatorError(
                f"{first.target!r} does not separate {first.source!r} from {second.target!r}: a path leads past it, "
                f"{way} (a residual connection?); take operator(x, {first.source!r}, {second.target!r})"
            )
        super().__init__(first.source, second.target, first.source_shape, second.target_shape, first.dtype)
        self._first, self._second, self.instance = first, second, first.instance
        self.x, self.y = first.x, second.y
        self.bias = second._images(_unmasked(first.bias)[None])[0] + second.bias

    def _images(self, vectors: Array) -> Array:
        return self._second._images(self._first._images(vectors))

    def _cotangents(self, vectors: Array) -> Array:
        return self._first._cotangents(self._second._cotangents(vectors))


class InstanceOperator(AffineOperator):
    """The operator of one instance, run by its two graphs with coefficients that are computed once."""

    def __init__(self, instance: Any, segment: Any, coefficients: Mapping[str, Any]) -> None:
        g = segment.graphs
        start, end = segment.shapes(coefficients)
        super().__init__(segment.source, segment.target, start, end, segment.dtype)
        self.instance, self.segment, self._coefficients = instance, segment, coefficients
        self.x, self.y, bias = (segment.flat(coefficients, n) for n in (g.source, g.target, g.bias))
        self.bias = np.where(np.abs(self.y) >= masked(self.y.dtype), self.y, bias)

    @property
    def coefficients(self) -> Mapping[str, Any]:
        """What the graphs take, by name: arrays, or OrtValues where they lie on a device."""
        return self._coefficients

    def _images(self, vectors: Array) -> Array:
        return images(self.segment, self._coefficients, vectors.reshape(-1, *self.source_shape))

    def _cotangents(self, vectors: Array) -> Array:
        return cotangents(self.segment, self._coefficients, vectors.reshape(-1, *self.target_shape))


def images(segment: Any, coefficients: Mapping[str, Any], vectors: Array) -> Array:
    """R v [K, M] for each v of ``vectors`` [K, *shape of the source], by the forward graph of a segment."""
    return _run(segment.forward, coefficients, segment.graphs.forward_input, vectors, segment.graphs.forward_output)


def cotangents(segment: Any, coefficients: Mapping[str, Any], vectors: Array) -> Array:
    """R^T u [K, D] for each u of ``vectors`` [K, *shape of the target], by the adjoint graph of a segment."""
    return _run(segment.adjoint, coefficients, segment.graphs.adjoint_input, vectors, segment.graphs.adjoint_output)


def _run(engine: Any, coefficients: Mapping[str, Any], given: str, vectors: Array, result: str) -> Array:
    feeds = {i.name: coefficients[i.name] for i in engine.inputs if i.name != given}
    feeds[given] = vectors
    found: Array = engine.run(feeds)[result]
    return found.reshape(len(vectors), -1)


def masked(dtype: Any) -> float:
    """What is at least as large is a mask's: it stands for infinity, and no weight passes it on."""
    limit: float = float(np.finfo(dtype).max) ** 0.8
    return limit


def _unmasked(x: Array) -> Array:
    """Elements of masks as 0."""
    return np.where(np.abs(x) >= masked(x.dtype), x.dtype.type(0), x)


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _units(start: int, batch: int, count: int, dtype: Any) -> Array:
    """Unit vectors start, start + 1, ... of ``count``, as rows."""
    return np.eye(min(batch, count - start), count, start, dtype)


def _real(x: Array) -> Array:
    if np.iscomplexobj(x):
        raise OperatorError("the operator is real: give real vectors")
    return x
