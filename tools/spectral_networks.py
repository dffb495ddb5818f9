"""What the networks for the spectrum have in common: how a trained one is exported, checked and filed in models/.

A family of networks is one module, spectral_FAMILY.py, with a table NETWORKS: the name of a network to the function
that trains it and returns it as `Trained`. `tools/train_spectral.py` knows the families.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import logging
import platform
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import sklearn
import torch
from export_models import TOLERANCE, ExportError, quiet, strip
from networks import MODELS
from numpy.typing import NDArray
from torch import Tensor, nn

from omenn_onnx.runtime.files import save_arrays, whole_file

KEPT = 64  # held-out samples kept in models/NAME.npz
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Trained:
    """A trained network with what goes into its files.

    `inputs` (held-out, by graph input name, in the order of `forward`) and `extras` (labels, what shows an input to a
    reader) are kept in NAME.npz. `what`, `data` and `licence` are cells of the table in models/README.md, `measured`
    is what training reached, in words there and by number in NAME.json; `settings` is the rest that NAME.json tells.
    """

    network: nn.Module
    inputs: Arrays
    outputs: tuple[str, ...]
    what: str
    data: str
    licence: str
    measured: dict[str, float]
    seed: int
    settings: dict[str, object]
    extras: Arrays = field(default_factory=dict)


Networks = dict[str, Callable[[], Trained]]


def layer(inputs: int, outputs: int, bias: bool) -> nn.Sequential:
    """relu(W x + b): the tensors NAME.linear and NAME of a submodule that is called NAME."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(inputs, outputs, bias=bias), relu=nn.ReLU()))


def name_tensors(model: onnx.ModelProto) -> None:
    """Name tensors after the modules of the network: the last tensor that a module makes gets the module's name, and
    an outer module goes before an inner one. Graph inputs and outputs keep theirs. Needs the exporter's metadata."""
    fixed = {item.name for item in (*model.graph.input, *model.graph.output)}
    made: dict[str, str] = {}  # module to its last tensor
    for node in model.graph.node:
        scopes = {item.key: item.value for item in node.metadata_props}["pkg.torch.onnx.name_scopes"]
        for module in ast.literal_eval(scopes)[1:-1]:  # the network itself is first, the operator last
            made[module] = node.output[0]
    names: dict[str, str] = {}
    for module, tensor in sorted(made.items(), key=lambda item: item[0].count(".")):
        if tensor not in fixed:
            names.setdefault(tensor, module)
    if taken := fixed & set(names.values()):
        raise ExportError(f"a module within the network is called like an input or output: {', '.join(sorted(taken))}")
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        node.name = node.output[0]
    for item in model.graph.value_info:
        item.name = names.get(item.name, item.name)


def to_onnx(
    name: str, network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], free: bool, opset: int = 18
) -> onnx.ModelProto:
    """The network by PyTorch's dynamo exporter, weights inside, tensors named after the modules; of the batch size of
    `inputs`, or of a `free` one."""
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs) if free else None,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    buffer = io.BytesIO()
    program.save(buffer, external_data=False)
    model = onnx.load_from_string(buffer.getvalue())
    name_tensors(model)
    strip(model)
    model.graph.name = name
    onnx.checker.check_model(model, full_check=True)
    return model


def export(name: str, trained: Trained) -> tuple[bytes, float]:
    """The ONNX file of a trained network, batch dynamic; and its largest difference from PyTorch over all kept inputs,
    and over one alone, relative to the largest output."""
    inputs = {key: torch.from_numpy(value) for key, value in trained.inputs.items()}
    few = {key: value[:3] for key, value in inputs.items()}
    data = to_onnx(name, trained.network, few, trained.outputs, free=True).SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in (slice(None), slice(0, 1)):
        with torch.no_grad():
            expected = trained.network(*(value[rows] for value in inputs.values()))
        found = session.run(None, {key: value[rows] for key, value in trained.inputs.items()})
        for got, wanted in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
            if got.shape != wanted.shape:
                raise ExportError(f"{name}: shape {got.shape} in ONNX Runtime, {tuple(wanted.shape)} in PyTorch")
            worst = max(worst, float(np.abs(got - wanted.numpy()).max() / wanted.abs().max()))
    if worst > TOLERANCE:
        raise ExportError(f"{name}: differs from PyTorch by {worst:.1e} of the largest output")
    return data, worst


def write(name: str, family: str, trained: Trained) -> None:
    """models/NAME.onnx, NAME.npz and NAME.json of a trained network, each whole or not at all."""
    data, error = export(name, trained)
    facts = {
        "name": name,
        "what": trained.what,
        "data": trained.data,
        "licence": trained.licence,
        "measured": {key: float(f"{value:.4g}") for key, value in trained.measured.items()},
        "parameters": sum(value.numel() for value in trained.network.parameters()),
        "command": f"python tools/train_spectral.py {family}",
        "seed": trained.seed,
        "settings": trained.settings,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
        "onnx": {
            "sha256": hashlib.sha256(data).hexdigest(),
            "exporter": f"dynamo (torch {torch.__version__})",
            "opset": onnx.load_from_string(data).opset_import[0].version,
            "bytes": len(data),
            "difference": float(f"{error:.1e}"),
        },
    }
    with whole_file(MODELS / f"{name}.onnx") as file:
        file.write(data)
    save_arrays(MODELS / f"{name}.npz", {**trained.inputs, **trained.extras})
    with whole_file(MODELS / f"{name}.json") as file:
        file.write((json.dumps(facts, indent=2) + "\n").encode())


def table(names: list[str]) -> str:
    """The rows of models/README.md for the networks that have been trained."""
    rows = ["| file | what | data | held out | command that regenerates it | licence of the data |", "|" + "---|" * 6]
    for name in names:
        path = MODELS / f"{name}.json"
        if not path.exists():
            continue
        facts = json.loads(path.read_text())
        measured = ", ".join(f"{key} {value:g}" for key, value in facts["measured"].items())
        rows.append(
            f"| `{name}.onnx` | {facts['what']}; {facts['parameters']:,} parameters; {facts['onnx']['exporter']}, "
            f"opset {facts['onnx']['opset']} | {facts['data']} | {measured} | `{facts['command']}` | "
            f"{facts['licence']} |"
        )
    return "\n".join(rows)
