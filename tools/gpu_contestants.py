"""What tools/gpu.py runs: models in ONNX Runtime with everything bound on the device, and PyTorch's gradient there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
_WHOLE = ("int64", "int32", "bool")


def bound(path: Path, x: Array, provider: str, tf32: bool, graph: bool, profile: str = "") -> Callable[[], Any]:
    """Runs a model on inputs that lie on the device, into outputs that stay there; ``graph``: as a CUDA graph.

    ``profile``: a file name's beginning; the session writes its profile after the first run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    own = {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(graph))} if provider == "cuda" else {}
    providers = [(NAMES[provider], own)] + ([NAMES["cpu"]] if provider != "cpu" else [])
    session = ort.InferenceSession(str(path), options, providers=providers)
    binding = session.io_binding()
    (given,) = session.get_inputs()
    held = [ort.OrtValue.ortvalue_from_numpy(x, provider, 0)]  # (a binding keeps no tensor alive)
    binding.bind_ortvalue_input(given.name, held[0])
    for o in session.get_outputs():
        dtype = {"tensor(float16)": np.float16, "tensor(int64)": np.int64}.get(o.type, np.float32)
        held.append(ort.OrtValue.ortvalue_from_shape_and_type(o.shape, dtype, provider, 0))
        binding.bind_ortvalue_output(o.name, held[-1])

    def run() -> Any:
        session.run_with_iobinding(binding)
        return session.end_profiling() if profile else held

    return run


def placement(profile: Path, provider: str) -> dict[str, Any]:
    """What a run's profile says of where nodes ran: nodes on the provider, operators on another one that touch more
    than integers, and copies between devices."""
    return placed(json.loads(profile.read_text()), NAMES[provider])


def placed(events: Iterable[Mapping[str, Any]], provider: str) -> dict[str, Any]:
    """The same of the profile's events."""
    there, elsewhere, copies = 0, Counter[str](), Counter[str]()
    for event in events:
        about = event.get("args", {})
        if event.get("cat") != "Node" or not str(event["name"]).endswith("_kernel_time"):
            continue
        if about["op_name"] in _COPIES:
            copies[about["op_name"]] += 1
        elif about["provider"] == provider:
            there += 1
        else:
            kinds = {k for part in ("input_type_shape", "output_type_shape") for t in about.get(part, ()) for k in t}
            if not kinds or kinds - set(_WHOLE):
                elsewhere[about["op_name"]] += 1
    return {"there": there, "elsewhere": dict(elsewhere), "copies": dict(copies)}


def gradients(name: str, batch: int, device: str, tf32: bool) -> dict[str, Callable[[], Any]]:
    """PyTorch, eager and compiled: forward and the gradient of the best score of each row, inputs on the device."""
    import torch
    from bench_networks import NETWORKS, network

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    module, inputs = network(name).to(device), NETWORKS[name].inputs(batch).to(device)
    forward: Callable[[Any], Any] = module
    x = inputs
    if NETWORKS[name].tokens:
        forward, x = module.from_embeddings, module.embed(inputs)
    x = x.detach().clone().requires_grad_()

    def contestant(call: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> Any:
            (found,) = torch.autograd.grad(call(x).max(dim=1).values.sum(), x)
            if device == "cuda":
                torch.cuda.synchronize()
            return found

        return run

    if device == "cpu":
        return {"torch": contestant(forward)}
    return {"torch": contestant(forward), "torch.compile": contestant(torch.compile(forward))}


def checked(path: Path, x: Array, provider: str, tf32: bool) -> dict[str, float]:
    """The completeness residual of the worst row, and how far the maps are from those of the CPU provider, in units of
    the row's largest entry there: the worst row that both explain by the same class."""
    import omenn_onnx

    here = omenn_onnx.Explainer(path, providers=provider, tf32=tf32)(x)
    there = omenn_onnx.Explainer(path, providers="cpu")(x)
    same = here.target == there.target
    found = {"residual": float(np.max(here.relative_residual)), "same class": float(np.mean(same))}
    for name in ("C_w", "C_b"):
        a, b = (np.asarray(getattr(e, name), np.float64).reshape(len(e.score), -1) for e in (here, there))
        apart = np.max(np.abs(a - b), axis=1) / np.maximum(np.max(np.abs(b), axis=1), 1e-30)
        found[name] = float(np.max(apart[same], initial=0.0 if same.any() else np.inf))
    return found
