"""Explainer: a compiled file, ready to be run many times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omenn_onnx.errors import FeedError, ModelFileError, TargetError
from omenn_onnx.runtime import feeds as fed
from omenn_onnx.runtime.contract import Contract, read_contract
from omenn_onnx.runtime.engines import Engine, Held, OrtEngine, Results, TensorInfo
from omenn_onnx.runtime.explanation import Explanation
from omenn_onnx.runtime.sessions import Model, Providers, describe
from omenn_onnx.runtime.targets import check_kind, checked_seed, find, size_of_output, target_columns


class Explainer:
    """Runs a compiled model: y = sum(C_w * X) + sum(C_b), exact for each row (OMENN).

    ``model``: a path, the bytes of a file, or the ModelProto that ``omenn_onnx.compile`` returns.
    ``providers``: None takes CUDA where it works, else the CPU with one clear line; "cpu", "cuda", or a list that ONNX
    Runtime understands. ``session_options``: ONNX Runtime's. ``engine``: what runs the model instead of ONNX Runtime.
    ``tf32``: on CUDA, round the operands of products to TF32: faster, and far from the completeness bar of float32.
    ``fixed``: for a file of fixed sizes, keep inputs and outputs in one place; on CUDA that replays a CUDA graph.

    The session is made once. On CUDA inputs and results stay on the device; results are fetched when looked at.
    Raises ModelFileError when the file cannot be loaded or was not made by omenn-compile.
    """

    def __init__(
        self,
        model: Model,
        providers: Providers = None,
        *,
        session_options: Any = None,
        engine: Engine | None = None,
        tf32: bool = False,
        fixed: bool = False,
    ) -> None:
        if engine is None:
            engine = OrtEngine(model, providers, session_options, tf32=tf32, fixed=fixed)
        self.engine: Engine = engine
        self.contract: Contract = read_contract(self.engine.metadata, describe(model))
        self._outputs = {o.name: o for o in self.engine.outputs}
        missing = (self.contract.own_names | set(self.contract.outputs)) - set(self._outputs)
        if missing:
            names = ", ".join(sorted(missing))
            raise ModelFileError(f"{describe(model)} lacks outputs that its metadata names: {names}")
        chosen = (self.contract.target_input, self.contract.seed_input)
        self.inputs: tuple[TensorInfo, ...] = tuple(i for i in self.engine.inputs if i.name not in chosen)
        self._declared = {i.name: i for i in self.engine.inputs}

    def __repr__(self) -> str:
        names = ", ".join(i.name for i in self.contract.inputs)
        return f"Explainer({names} -> {self.contract.output}, {self.contract.rules}, {self.engine.label})"

    def __call__(
        self,
        feeds: Any,
        target: Any = None,
        seed: Any = None,
        *,
        allow_nonfinite: bool = False,
        batch_size: int | None = None,
    ) -> Explanation:
        """Explain ``feeds``: a dictionary by input name, or the array of the only input.

        ``target`` (files compiled with ``--target input``): flat indices into the non-batch dimensions of Z, as an int
        for all rows, [N], or [N,K] for K targets a row. ``seed`` (``--target seed``): an array of Z's shape.
        ``batch_size`` runs so many rows at a time. ``allow_nonfinite`` turns the error for NaN or Inf into a warning.
        Raises FeedError (names, shapes, types, NaN or Inf) and TargetError.
        """
        given = fed.by_name(feeds, self.inputs)
        for name, value in ((self.contract.target_input, target), (self.contract.seed_input, seed)):
            if name is not None and name in given:
                if value is not None:
                    raise FeedError(f"{name!r} is given twice: among the feeds and as an argument")
                if name == self.contract.target_input:
                    target = given.pop(name)
                else:
                    seed = given.pop(name)
        check_kind(self.contract, target, seed)
        fed.check_names(given, self.inputs, self.engine.optional)
        if batch_size is None:
            return self._run(given, target, seed, allow_nonfinite)
        return self._run_in_parts(given, target, seed, allow_nonfinite, batch_size)

    def _run(self, given: Mapping[str, Any], target: Any, seed: Any, allow_nonfinite: bool) -> Explanation:
        infos = {i.name: i for i in (*self.inputs, *self.engine.optional)}
        ready = {name: fed.checked(value, infos[name], allow_nonfinite) for name, value in given.items()}
        contract = self.contract
        if contract.seed_input is not None:
            ready[contract.seed_input] = checked_seed(seed, find(self._declared, contract.seed_input), allow_nonfinite)
        if contract.target_input is None:
            return self._explanation(ready, self.engine.run(ready))
        info = find(self._declared, contract.target_input)
        batch = fed.batch_of(ready, self.inputs, info)
        columns, stacked = target_columns(target, info, batch, size_of_output(contract, self._outputs))
        runs = []
        for column in columns:
            results = self.engine.run({**ready, contract.target_input: column})
            self._check_range(column, results)
            runs.append(results)
        results = _stack(runs, contract) if stacked else runs[0]
        return self._explanation(ready, results)

    def _check_range(self, target: Any, results: Results) -> None:
        """Where Z is an output, its real size decides; else a score of nothing at all is told."""
        if self.contract.output not in results:
            if np.any(np.all(np.atleast_1d(results[self.contract.score] == 0), axis=0)):
                said = f"target {np.max(target)} scores exactly 0: it may lie outside {self.contract.output!r}"
                warnings.warn(said, RuntimeWarning, stacklevel=4)
            return
        value = results.held[self.contract.output]
        shape = value.ortvalue.shape() if value.ortvalue is not None else np.shape(value.numpy())
        size = int(np.prod(shape[1:], dtype=np.int64))
        if target.size and target.max() >= size:
            raise TargetError(f"target {int(target.max())} is out of range: 0 to {size - 1}")

    def _run_in_parts(
        self, given: Mapping[str, Any], target: Any, seed: Any, allow_nonfinite: bool, batch_size: int
    ) -> Explanation:
        if batch_size < 1:
            raise FeedError(f"batch_size must be at least 1, got {batch_size}")
        given = {n: v if hasattr(v, "shape") else np.asarray(v) for n, v in given.items()}
        count = fed.batch_of(given, [i for i in self.inputs if i.name in given])
        if count <= batch_size:
            return self._run(given, target, seed, allow_nonfinite)
        if not self.contract.rows:
            raise FeedError("rows of this model interact: they cannot be run in parts (leave batch_size out)")
        parts = []
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            some = fed.rows_of(given, (*self.inputs, *self.engine.optional), slice(start, stop), count)
            parts.append(
                self._run(some, _rows(target, start, stop), _rows(seed, start, stop), allow_nonfinite).fetched()
            )
        return join(parts)

    def _explanation(self, ready: Mapping[str, Any], results: Results) -> Explanation:
        held = dict(results.held)
        inputs = {n: v if isinstance(v, Held) else Held(v) for n, v in ready.items()}
        return Explanation(self.contract, Results(inputs), Results(held))


def join(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of consecutive rows as one. Raises FeedError for an output that has no batch axis."""
    contract = parts[0].contract

    def together(values: Sequence[Any], name: str, rows: Sequence[int]) -> Any:
        if all(np.ndim(v) and len(v) == n for v, n in zip(values, rows, strict=True)):
            return np.concatenate(values)
        if all(np.array_equal(v, values[0]) for v in values[1:]):
            return values[0]
        raise FeedError(f"{name!r} has no batch axis: its parts cannot be joined (leave batch_size out)")

    counts = [len(p.score) for p in parts]
    results = {n: Held(together([p.results[n] for p in parts], n, counts)) for n in parts[0].results}
    feeds = {n: Held(together([p.feeds[n] for p in parts], n, counts)) for n in parts[0].feeds}
    return Explanation(contract, Results(feeds), Results(results))


def _rows(value: Any, start: int, stop: int) -> Any:
    return value if value is None or np.ndim(value) == 0 else np.asarray(value)[start:stop]


def _stack(runs: Sequence[Results], contract: Contract) -> Results:
    """Results of runs with one target each, their targets on axis 1; the model's own outputs are those of the first."""
    shared = {i.x for i in contract.inputs}
    return Results(
        {
            name: Held(np.stack([r[name] for r in runs], axis=1)) if name in contract.own_names - shared else held
            for name, held in runs[0].held.items()
        }
    )
