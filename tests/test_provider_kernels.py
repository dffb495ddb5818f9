"""The kernel tables: known facts, how versions and types are matched, and the generator on excerpts of its sources."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state

from omenn_onnx.errors import CompileError
from omenn_onnx.providers.kernels import PROVIDERS, Kernel, Kernels, kernels_of, read_table, schema_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import kernel_table  # noqa: E402

FLOAT = {"T": "float"}


def table(provider: str) -> Kernels:
    found = kernels_of(provider)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("provider", "op", "opset", "types", "there"),
    [
        ("cuda", "Conv", 20, FLOAT, True),
        ("cuda", "Conv", 22, FLOAT, True),
        ("cuda", "ConvTranspose", 22, FLOAT, True),
        ("cuda", "GlobalAveragePool", 22, FLOAT, True),
        ("cuda", "MaxPool", 21, FLOAT, True),
        ("cuda", "MaxPool", 22, FLOAT, False),  # registered from 12 on without an end, which holds 12 alone
        ("cuda", "TopK", 24, FLOAT, True),
        ("cuda", "Gelu", 20, FLOAT, True),
        ("cuda", "ScatterElements", 20, FLOAT, True),
        ("cuda", "MaxUnpool", 20, FLOAT, False),
        ("cuda", "Sinh", 20, FLOAT, False),
        ("cuda", "Atan", 20, FLOAT, False),
        ("cuda", "Mul", 20, {"T": "int64"}, True),
        ("cuda", "Round", 20, {"T": "int32"}, False),
        ("cuda", "GridSample", 20, {"T1": "float16"}, False),
        ("webgpu", "ConvTranspose", 20, FLOAT, True),
        ("webgpu", "ConvTranspose", 22, FLOAT, False),
        ("webgpu", "Mul", 20, FLOAT, True),
        ("webgpu", "Mul", 20, {"T": "int64"}, False),
        ("webgpu", "Mul", 20, {"T": "double"}, False),
        ("webgpu", "Sign", 20, FLOAT, False),
        ("webgpu", "MaxUnpool", 20, FLOAT, False),
        ("webgpu", "LayerNormalization", 20, FLOAT, True),
        ("webgpu", "Resize", 20, {"T1": "float"}, True),
    ],
)
def test_known_facts(provider: str, op: str, opset: int, types: dict[str, str], there: bool) -> None:
    schema = schema_of(op, opset)
    assert schema is not None
    assert table(provider).has(op, schema.since_version, types) is there


def test_versions_and_types_are_matched_as_the_runtime_does() -> None:
    closed = Kernel(13, 17, {"T": frozenset(["float", "double"])})
    assert [v for v in range(10, 20) if closed.serves(v, FLOAT)] == [13, 14, 15, 16, 17]
    opened = Kernel(13, None, {})
    assert [v for v in range(10, 20) if opened.serves(v, FLOAT)] == [13]
    assert not closed.serves(13, {"T": "float16"})
    assert closed.serves(13, {"T": None}), "the best is assumed of a type that is not known"
    assert closed.serves(13, {"U": "string"}), "what the kernel says nothing of may be anything"


def test_types_that_go_together_stay_together() -> None:
    """QuantizeLinear takes float with float and float16 with float16, not one with the other."""
    kernels = table("cuda")
    assert kernels.has("QuantizeLinear", 25, {"T1": "float", "T2": "float", "T3": "int8"})
    assert kernels.has("QuantizeLinear", 25, {"T1": "float16", "T2": "float16", "T3": "int8"})
    assert not kernels.has("QuantizeLinear", 25, {"T1": "float", "T2": "float16", "T3": "int8"})


def test_every_table_names_its_source_and_every_operator_is_one() -> None:
    for provider in set(PROVIDERS) - {"cpu"}:
        kernels = table(provider)
        assert "ExecutionProvider: " in kernels.source
        assert any(char.isdigit() for char in kernels.source), "no version"
        known = {op for domain, op in kernels.table if domain == "" and schema_of(op, 26) is not None}
        assert len(known) > 90, provider
        assert {"Add", "Conv", "MatMul", "Softmax", "Where", "ReduceSum"} <= known
    assert kernels_of("cpu") is None
    with pytest.raises(CompileError, match="provider 'gpu': give cpu, cuda or webgpu"):
        kernels_of("gpu")


PUBLISHED = """
## Operators implemented by CPUExecutionProvider

|**Operator Domain:** *ai.onnx*||||
|Round|*in* X:**T**|11+|**T** = tensor(double), tensor(float)|

## Operators implemented by CUDAExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|MaxPool|*in* X:**T**<br> *out* Y:**T**|12+|**I** = tensor(int64)<br/> **T** = tensor(double), tensor(float)|
|||[8, 11]|**T** = tensor(float)|
|||7|**T** = tensor(float)|
|Not|*in* X:**T**<br> *out* Y:**T**|1+|**T** = tensor(bool)|
| |
|**Operator Domain:** *com.microsoft*||||
|Gelu|*in* X:**T**|1+|**T** = tensor(float)|
|**Operator Domain:** *com.ms.internal.nhwc*||||
|Conv|*in* X:**T**|1+|**T** = tensor(float)|

## Operators implemented by DmlExecutionProvider

|**Operator Domain:** *ai.onnx*||||
|Sinh|*in* X:**T**|9+|**T** = tensor(float)|
"""


def test_the_published_list_is_read() -> None:
    text = kernel_table.write(kernel_table.published(PUBLISHED, "CUDAExecutionProvider"), "CUDA: an excerpt, 1.0")
    assert text.splitlines() == [
        "# CUDA: an excerpt, 1.0",
        "ai.onnx\tMaxPool\t7-7\tT=float",
        "ai.onnx\tMaxPool\t8-11\tT=float",
        "ai.onnx\tMaxPool\t12\tI=int64 T=double,float",
        "ai.onnx\tNot\t1\tT=bool",
        "com.microsoft\tGelu\t1\tT=float",
    ]
    kernels = read_table("cuda", text)
    assert kernels.source == "CUDA: an excerpt, 1.0"
    assert kernels.has("MaxPool", 12, {"T": "double", "I": "int64"})
    assert not kernels.has("MaxPool", 22, FLOAT)
    assert kernels.has("Gelu", 1, FLOAT, "com.microsoft")
    assert not kernels.has("Sinh", 9, FLOAT)


def test_the_published_list_of_the_web_is_read() -> None:
    text = """| Operator | Opset | Comments |
|:--------:|:-------------:|-----|
| Add | ai.onnx(7-12,13,14+) |  |
| Conv | ai.onnx(1-10,11+); com.ms.internal.nhwc(11+) | conv3d is not supported |
| Gelu | com.microsoft(1+) |  |
"""
    written = kernel_table.write(kernel_table.published_web(text), "web").splitlines()[1:]
    assert [line.split("\t")[:3] for line in written] == [
        ["ai.onnx", "Add", "7-12"],
        ["ai.onnx", "Add", "13-13"],
        ["ai.onnx", "Add", "14"],
        ["ai.onnx", "Conv", "1-10"],
        ["ai.onnx", "Conv", "11"],
        ["com.microsoft", "Gelu", "1"],
    ]


def test_the_tables_are_as_the_generator_writes_them(tmp_path: Path) -> None:
    """Read, written again and read again they are the same; and the command writes such a file."""
    for provider in ("cuda", "webgpu"):
        text = (ROOT / "omenn_onnx" / "providers" / f"{provider}.tsv").read_text(encoding="utf-8")
        rows = [
            (domain or "ai.onnx", op, k.first, k.last, dict(k.types))
            for (domain, op), kernels in table(provider).table.items()
            for k in kernels
        ]
        assert kernel_table.write(rows, text.splitlines()[0].removeprefix("# ")) == text
    source, out = tmp_path / "OperatorKernels.md", tmp_path / "table.tsv"
    source.write_text(PUBLISHED, encoding="utf-8")
    assert kernel_table.main(["cuda", str(source), "--says", "an excerpt, 1.0", "-o", str(out)]) == 0
    again = kernel_table.published(PUBLISHED, "CUDAExecutionProvider")
    assert out.read_text() == kernel_table.write(again, "CUDAExecutionProvider: an excerpt, 1.0")


@pytest.mark.skipif(
    not hasattr(state, "get_all_opkernel_def") or len(onnxruntime.get_available_providers()) > 2,
    reason="this onnxruntime does not tell its kernels, or would load CUDA's libraries for it",
)
def test_the_installed_runtime_is_asked_for_its_registry() -> None:
    """What onnxruntime itself registers, by its CPU provider, which is always there."""
    rows, source = kernel_table.registered("CPUExecutionProvider", None)
    kernels = read_table("cpu", kernel_table.write(rows, source))
    assert kernels.has("Sinh", 9, FLOAT)
    assert not kernels.has("Erf", 13, {"T": "double"})
