"""ONNX Runtime sessions: which provider, made how, and what its failures mean to the user."""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from omenn_onnx.errors import ModelFileError, OmennError

#: What a session can be made from.
Model = str | os.PathLike[str] | bytes | onnx.ModelProto
Providers = str | Sequence[Any] | None

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_OPTIONS = {"use_tf32": "0"}
"""TF32 keeps 10 bits of the mantissa: far from the completeness bar of float32."""
PROTOBUF_LIMIT = 2**31 - 1
_ROOM = 1 << 26  # for nodes and names; protobuf cannot even tell the size of a message beyond its limit


@functools.cache
def runtime() -> Any:
    """The onnxruntime module, imported on first use. Raises OmennError with the line that installs it."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise OmennError(
            'onnxruntime is not installed: run pip install "omenn-onnx[cpu]", or "omenn-onnx[gpu]" for CUDA '
            f"({one_line(error)})"
        ) from error


def one_line(error: BaseException) -> str:
    """The first telling line of an exception, without the runtime's code prefix."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text if len(text) <= 400 else text[:397] + "..."


def describe(model: Model) -> str:
    """How messages call the model."""
    return "the model" if isinstance(model, bytes | onnx.ModelProto) else repr(os.fspath(model))


def open_session(
    model: Model,
    providers: Providers = None,
    options: Any = None,
    *,
    tf32: bool = False,
    graph: bool = False,
    spinning: bool = True,
) -> Any:
    """An InferenceSession on ``model`` (path, bytes or ModelProto).

    ``providers``: None takes CUDA where the installed runtime offers it and it works, else CPU with one warning line;
    "cpu" or "cuda" decide; a list goes to ONNX Runtime as it is. A path keeps external data where it lies.
    On CUDA ``tf32`` lets products round their operands to TF32, ``graph`` captures the run as a CUDA graph. Where runs
    take turns with other work on the same cores, ``spinning=False`` keeps the runtime's threads from waiting busily.
    Raises ModelFileError when the model cannot be loaded, OmennError when the asked provider does not work.
    """
    ort = runtime()
    cuda = (CUDA, CUDA_OPTIONS | {"use_tf32": str(int(tf32))} | ({"enable_cuda_graph": "1"} if graph else {}))
    if providers is None:
        if CUDA not in ort.get_available_providers():
            return _make(model, [CPU], options, spinning)
        reason = cuda_failure()
        if reason is None:
            try:
                return _make(model, [cuda, CPU], options, spinning)
            except ModelFileError as error:
                reason = one_line(error)
        _say_fallback(reason)
        return _make(model, [CPU], options, spinning)
    if isinstance(providers, str):
        providers = [providers]
    return _make(model, [_named(p, cuda) for p in providers], options, spinning)


def on_cuda(providers: Providers) -> bool:
    """Whether sessions of these providers run on CUDA, as far as can be told before one is made."""
    if providers is None:
        return CUDA in runtime().get_available_providers() and cuda_failure() is None
    asked = [providers] if isinstance(providers, str) else providers
    names = (p if isinstance(p, str) else p[0] for p in asked)
    return any(n.lower().removesuffix("executionprovider") == "cuda" for n in names)


def _named(provider: Any, cuda: Any) -> Any:
    """A provider as ONNX Runtime wants it: short names are resolved, and ``cuda`` is tried before it is promised."""
    if not isinstance(provider, str):
        return provider
    available = runtime().get_available_providers()
    short = {p.removesuffix("ExecutionProvider").lower(): p for p in available}
    name = provider if provider in available else short.get(provider.lower())
    if name is None:
        extra = '; "omenn-onnx[gpu]" installs it' if provider.lower() in ("cuda", "gpu", CUDA.lower()) else ""
        raise OmennError(
            f"provider {provider!r} is not in the installed onnxruntime (it has {', '.join(sorted(short))}){extra}"
        )
    if name != CUDA:
        return name
    reason = cuda_failure()
    if reason is not None:
        raise OmennError(f"CUDA does not work here: {reason}")
    return cuda


@functools.cache
def cuda_failure() -> str | None:
    """None when a session really runs on CUDA here, else the reason. Tried once a process with a one-node model."""
    ort = runtime()
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    ort.set_default_logger_severity(4)  # the runtime's own lines about missing libraries; ours says it once
    try:
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        session = ort.InferenceSession(_tiny(), quiet, providers=[(CUDA, CUDA_OPTIONS), CPU])
        if CUDA not in session.get_providers():
            return "its libraries could not be loaded (CUDA and cuDNN of the versions that onnxruntime-gpu asks for)"
        session.run(None, {"x": [1.0]})
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        return one_line(error)
    finally:
        ort.set_default_logger_severity(2)
    return None


@functools.cache
def _say_fallback(reason: str) -> None:
    """One line a process and reason."""
    warnings.warn(f"CUDA is offered but does not work ({reason}); running on the CPU", RuntimeWarning, stacklevel=4)


def _tiny() -> bytes:
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _make(model: Model, providers: list[Any], options: Any, spinning: bool = True) -> Any:
    ort = runtime()
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Planned from the first run, the second's memory stands beside it: 1.1 instead of 0.76 GB (ResNet-50 at batch
        # 8), and no time is gained.
        options.enable_mem_pattern = providers != [CPU]
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(model, onnx.ModelProto):
        return _make_from_proto(model, providers, options)
    if not isinstance(model, bytes):
        model = _existing(model)
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        told = f"{describe(model)} cannot be loaded: {one_line(error)}"
        if "Could not find an implementation" in told:
            told += " (a float64 file that ONNX Runtime has no kernels for? omenn-verify --exact runs it)"
        raise ModelFileError(told) from error


def _existing(path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ModelFileError(f"{os.fspath(path)!r} {what}")
    with open(path, "rb"):  # a PermissionError speaks for itself
        return os.fspath(path)


def _make_from_proto(model: onnx.ModelProto, providers: list[Any], options: Any) -> Any:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelFileError(
                f"initializer {tensor.name!r} lies in external data that is not loaded: save the model beside its data "
                "and give the path (omenn-compile does)"
            )
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) <= PROTOBUF_LIMIT - _ROOM:
        return _make(bytes(model.SerializeToString()), providers, options)
    with tempfile.TemporaryDirectory(prefix="omenn-") as folder:  # beyond protobuf's limit only files will do
        path = os.path.join(folder, "model.onnx")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        return _make(path, providers, options)
