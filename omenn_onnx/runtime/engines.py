"""What runs a compiled file: ONNX Runtime through I/O binding, or onnx's reference evaluator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference

from omenn_onnx.errors import FeedError, ModelFileError
from omenn_onnx.runtime.places import Places
from omenn_onnx.runtime.sessions import CUDA, Model, Providers, describe, one_line, open_session, runtime

Array = npt.NDArray[Any]
Dim = int | str | None

_NUMPY_OF = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_, "string": np.object_,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output as declared: ``type`` in ONNX Runtime's spelling, ``dims`` with names where dynamic."""

    name: str
    type: str
    dims: tuple[Dim, ...] | None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """NumPy's dtype, or None for what NumPy has not (bfloat16, sequences, maps)."""
        kind = _NUMPY_OF.get(self.type.removeprefix("tensor(").removesuffix(")"))
        return None if kind is None else np.dtype(kind)


class Held:
    """A result where it lies; ``numpy()`` fetches it, once."""

    def __init__(self, value: Any) -> None:
        self._value = value

    @property
    def ortvalue(self) -> Any:
        """The OrtValue on its device, or None once fetched or when it never was on one."""
        return None if isinstance(self._value, np.ndarray | list | np.generic) else self._value

    def numpy(self) -> Any:
        """The array on the host (a list for sequence outputs)."""
        if not isinstance(self._value, np.ndarray | list):
            self._value = self._value.numpy() if hasattr(self._value, "numpy") else np.asarray(self._value)
        return self._value


class Results(Mapping[str, Any]):
    """Results by name, fetched to the host when they are asked for; ``held`` has them where they lie."""

    def __init__(self, held: Mapping[str, Held]) -> None:
        self.held = dict(held)

    def __getitem__(self, name: str) -> Any:
        return self.held[name].numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __repr__(self) -> str:
        return f"Results({', '.join(self.held)})"


class Engine(Protocol):
    """Runs one model. ``label`` is how the user is told what ran it."""

    label: str
    inputs: tuple[TensorInfo, ...]
    optional: tuple[TensorInfo, ...]  # inputs with a default in the file
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    def run(self, feeds: Mapping[str, Any]) -> Results:
        """All outputs for the given inputs. Raises FeedError when the model refuses them."""


class OrtEngine:
    """ONNX Runtime. The session is made once; inputs and results stay on the provider's device.

    ``fixed``: inputs and outputs keep their places from run to run, which sizes that the file states allow; on CUDA
    the run is captured as a graph and replayed. Results are then fetched at once: the next run overwrites them.
    ``spinning``: see :func:`.sessions.open_session`.
    """

    def __init__(
        self,
        model: Model,
        providers: Providers = None,
        options: Any = None,
        *,
        tf32: bool = False,
        fixed: bool = False,
        spinning: bool = True,
    ) -> None:
        self.session = open_session(model, providers, options, tf32=tf32, graph=fixed, spinning=spinning)
        self.device = "cuda" if CUDA in self.session.get_providers() else "cpu"
        self.label = f"onnxruntime {runtime().__version__} on {self.device.upper()}"
        self.inputs = tuple(_info(i) for i in self.session.get_inputs())
        self.optional = tuple(_info(i) for i in self.session.get_overridable_initializers())
        self.outputs = tuple({o.name: _info(o) for o in self.session.get_outputs()}.values())  # (one may stand twice)
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self._places = Places(self.session, self.device, self.inputs, self.outputs) if fixed else None

    def run(self, feeds: Mapping[str, Any]) -> Results:
        """All outputs; OrtValues among the feeds are used where they lie."""
        plain = [t for t in (*self.inputs, *self.outputs) if not t.type.startswith("tensor(") or "string" in t.type]
        values: Sequence[Any]
        try:
            if self._places is not None:
                values = self._places.run(feeds)
            elif plain:  # strings, sequences and maps cannot be bound
                host = {n: v.numpy() if hasattr(v, "numpy") else v for n, v in feeds.items()}
                values = self.session.run([o.name for o in self.outputs], host)
            else:
                values = self._run_bound(feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            shapes = ", ".join(f"{n} {list(_shape(v))}" for n, v in feeds.items())
            raise FeedError(f"the model refused its inputs ({shapes}): {one_line(error)}") from error
        # An output that is an input too (`target`) lies where it was fed from, and lives no longer than that.
        kept = {o.name: feeds.get(o.name, v) for o, v in zip(self.outputs, values, strict=True)}
        return Results({n: Held(v) for n, v in kept.items()})

    def _run_bound(self, feeds: Mapping[str, Any]) -> Sequence[Any]:
        ort_value = runtime().OrtValue
        binding = self.session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                value = ort_value.ortvalue_from_numpy(np.asarray(value, order="C"), self.device, 0)
            binding.bind_ortvalue_input(name, value)
        for output in self.outputs:
            binding.bind_output(output.name, self.device)
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding.get_outputs()  # type: ignore[no-any-return]


class ReferenceEngine:
    """onnx's reference evaluator: slow, plain NumPy, and it has every operator in double."""

    def __init__(self, model: Model) -> None:
        proto = load_proto(model)
        try:
            self._evaluator = onnx.reference.ReferenceEvaluator(proto)
        except Exception as error:  # it raises whatever its operators raise
            told = f"onnx's reference evaluator cannot load {describe(model)}: {one_line(error)}"
            raise ModelFileError(told) from error
        self.label = f"onnx {onnx.__version__} reference evaluator"
        self.inputs, self.optional = infos_of(proto)
        self.outputs = tuple({v.name: _proto_info(v) for v in proto.graph.output}.values())
        self.metadata: Mapping[str, str] = {p.key: p.value for p in proto.metadata_props}

    def run(self, feeds: Mapping[str, Any]) -> Results:
        """All outputs."""
        try:
            values: Any = self._evaluator.run(None, dict(feeds))
        except Exception as error:  # it raises whatever its operators raise
            raise FeedError(f"onnx's reference evaluator failed: {type(error).__name__}: {one_line(error)}") from error
        return Results({name: Held(v) for name, v in zip(self._evaluator.output_names, values, strict=True)})


def load_proto(model: Model, weights: bool = True) -> onnx.ModelProto:
    """The model as a ModelProto, without its external data where ``weights`` is False."""
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model)
        return onnx.load(os.fspath(model), load_external_data=weights)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError
        raise ModelFileError(f"{describe(model)} cannot be loaded: {one_line(error)}") from error


def _info(node: Any) -> TensorInfo:
    return TensorInfo(node.name, node.type, None if node.shape is None else tuple(node.shape))


def infos_of(proto: onnx.ModelProto) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs that a model needs, and those that it has a default for."""
    stored = {i.name for i in proto.graph.initializer}
    infos = [_proto_info(v) for v in proto.graph.input]
    return tuple(i for i in infos if i.name not in stored), tuple(i for i in infos if i.name in stored)


def _proto_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    names = {"float32": "float", "float64": "double", "object": "string", "bool": "bool"}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return TensorInfo(value.name, f"tensor({names.get(dtype, dtype)})", dims if tensor.HasField("shape") else None)


def _shape(value: Any) -> Sequence[int]:
    shape: Any = value.shape
    return shape() if callable(shape) else shape  # type: ignore[no-any-return]
