"""Running on other providers, as far as a machine without a GPU can tell: fixed places, TF32, and the GPU script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import omenn_onnx
from omenn_onnx import Explainer
from omenn_onnx.errors import FeedError, OmennError
from omenn_onnx.runtime import sessions

ROOT = Path(__file__).resolve().parents[1]
MODELS, TOOLS = ROOT / "models", ROOT / "tools"
sys.path.insert(0, str(TOOLS))

from gpu_contestants import placed  # noqa: E402


def fixed_batch(rows: int) -> onnx.ModelProto:
    """The digits network with a batch size that the file states."""
    model = onnx.load(MODELS / "digits_cnn.onnx")
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    return model


@pytest.mark.parametrize("target", ["argmax", "input", "top:2"])
def test_fixed_places_give_the_same_again_and_again(target: str) -> None:
    """Every call has its own results, although all are computed in one place."""
    data = np.load(MODELS / "digits_cnn.npz")["image"]
    file = omenn_onnx.compile(fixed_batch(4), target=target, provider="cuda")
    fixed, plain = Explainer(file, providers="cpu", fixed=True), Explainer(file, providers="cpu")
    chosen = {"target": [3, 1, 4, 1]} if target == "input" else {}
    given = [data[:4], data[4:8], data[:4]]
    found = [fixed(x, **chosen) for x in given]
    for x, here in zip(given, found, strict=True):
        there = plain(x, **chosen)
        assert here.complete
        for name in ("C_w", "C_b", "score", "target"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
        np.testing.assert_array_equal(here.outputs["logits"], there.outputs["logits"])
    assert not np.array_equal(found[0].C_w, found[1].C_w)


def test_fixed_places_take_tensors_that_lie_on_a_device() -> None:
    data = np.load(MODELS / "digits_cnn.npz")["image"][:2]
    file = omenn_onnx.compile(fixed_batch(2))
    value = onnxruntime.OrtValue.ortvalue_from_numpy(data)
    found, wanted = Explainer(file, providers="cpu", fixed=True)(value), Explainer(file, providers="cpu")(data)
    np.testing.assert_array_equal(found.C_w, wanted.C_w)


def test_fixed_places_need_fixed_sizes() -> None:
    free = omenn_onnx.compile(MODELS / "digits_cnn.onnx")
    with pytest.raises(
        OmennError, match=r"'image' is tensor\(float\) \['batch', 1, 16, 16\]: .* need numbers of known"
    ):
        Explainer(free, providers="cpu", fixed=True)
    explainer = Explainer(omenn_onnx.compile(fixed_batch(2)), providers="cpu", fixed=True)
    with pytest.raises(FeedError, match="image"):
        explainer(np.zeros((3, 1, 16, 16), np.float32))


class Recorder:
    """The runtime as it would be with CUDA: sessions are made on the CPU, and what they were asked for is kept."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [sessions.CUDA, sessions.CPU]

    def InferenceSession(self, model: Any, options: Any, providers: list[Any]) -> Any:
        self.asked.append(providers[0])
        return onnxruntime.InferenceSession(model, options, providers=[sessions.CPU])


def test_options_reach_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Recorder()
    monkeypatch.setattr(sessions, "runtime", lambda: runtime)
    monkeypatch.setattr(sessions, "cuda_failure", lambda: None)
    model = fixed_batch(2).SerializeToString()
    for providers in (None, "cuda"):
        for tf32 in (False, True):
            for graph in (False, True):
                sessions.open_session(model, providers, tf32=tf32, graph=graph)
                wanted = {"use_tf32": "1" if tf32 else "0"} | ({"enable_cuda_graph": "1"} if graph else {})
                assert runtime.asked[-1] == (sessions.CUDA, wanted)
    own = ("CUDAExecutionProvider", {"device_id": "1"})
    sessions.open_session(model, [own], tf32=True)
    assert runtime.asked[-1] == own, "a list goes to the runtime as it is"


# The GPU script


def node(op: str, provider: str, *kinds: str, name: str = "n_kernel_time") -> dict[str, Any]:
    args = {"op_name": op, "provider": provider, "input_type_shape": [{k: [2]} for k in kinds], "output_type_shape": []}
    return {"cat": "Node", "name": name, "args": args}


def test_a_profile_tells_what_fell_back() -> None:
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [
        {"cat": "Session", "name": "model_run"},
        node("Conv", gpu, "float"),
        node("Conv", gpu, "float", name="n_fence_before"),
        node("Mul", gpu, "float"),
        node("Concat", cpu, "int64"),
        node("MaxPool", cpu, "float"),
        node("MemcpyToHost", gpu, "float"),
        node("MemcpyFromHost", gpu, "float"),
    ]
    found = placed(events, gpu)
    assert found == {"there": 2, "elsewhere": {"MaxPool": 1}, "copies": {"MemcpyToHost": 1, "MemcpyFromHost": 1}}


def run_script(*arguments: str, script: str = "gpu.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_gpu_script_runs_dry_on_the_cpu(tmp_path: Path) -> None:
    told = tmp_path / "gpu.json"
    done = run_script("tiny", "--provider", "cpu", "--batch", "2", "--runs", "2", "--json", str(told))
    assert done.returncode == 0, done.stderr
    assert "tiny, batch 2: " in done.stdout
    assert "dry run on the CPU" in done.stdout
    (row,) = json.loads(told.read_text())["rows"]
    assert set(row["seconds"]) == {"forward", "compiled", "torch"}
    assert row["residual"] <= 1e-5
    assert row["compiled placement"]["there"] > row["forward placement"]["there"] > 10
    assert row["compiled placement"]["elsewhere"] == row["compiled placement"]["copies"] == {}
    assert row["missed"] == row["warned"] == []
    assert "compiling for CUDA" in done.stderr, "long work shows its progress"


@pytest.mark.skipif(sessions.CUDA in onnxruntime.get_available_providers(), reason="there is CUDA here")
def test_the_gpu_script_says_what_is_missing() -> None:
    done = run_script("tiny")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu.py: CUDA does not work here: the installed onnxruntime ")
    assert "--provider cpu" in line


CUDA_LIBRARY = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


@pytest.mark.skipif(CUDA_LIBRARY.exists(), reason="onnxruntime-gpu is installed")
def test_the_placement_script_says_what_is_missing() -> None:
    done = run_script("model.onnx", script="placement.py")
    assert done.returncode == 2
    assert done.stderr == "placement.py: no libonnxruntime_providers_cuda.so in the installed onnxruntime; " \
                          "onnxruntime-gpu has it\n"  # fmt: skip


@pytest.mark.skipif(not CUDA_LIBRARY.exists() or not shutil.which("gcc"), reason="needs onnxruntime-gpu and gcc")
def test_cuda_itself_places_our_nodes_as_the_tables_say(tmp_path: Path) -> None:
    """ONNX Runtime's own partitioner, which takes no GPU: all on CUDA, but for an operator that the tables lack."""
    acos = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 20]> g (float[N] x) => (float[N] y) {y=Acos(x)}')
    models = {name: onnx.load(MODELS / f"{name}.onnx") for name in ("digits_cnn", "digits_vit", "grammar_text")}
    for name, model in {**models, "acos": acos}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            onnx.save(omenn_onnx.compile(model, provider="cuda"), tmp_path / f"{name}.onnx")
    done = run_script(*(str(tmp_path / f"{name}.onnx") for name in models), script="placement.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ours among them none") == len(models)
    done = run_script(str(tmp_path / "acos.onnx"), script="placement.py")
    assert done.returncode == 1
    assert "ours among them ['Asin omenn/Asin_1']" in done.stdout
