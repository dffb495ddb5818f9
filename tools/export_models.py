"""Export the trained networks of models/ to ONNX: `python tools/export_models.py NAME...` or `all`.

Reads the weights in models/NAME.state.npz, never trains. Writes models/NAME.onnx, its facts into models/NAME.json,
the same network from every exporter and opset that works into models/exports/, what failed into
models/exports/index.json, and the tables of models/README.md. Every file is compared with PyTorch in ONNX Runtime, on
several batch sizes and sequence lengths, before it is written; stack traces and doc strings are removed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import networks
import numpy as np
import onnx
import onnxruntime
import torch
from networks import INPUT_NAMES, MODELS
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from torch import Tensor, nn

EXPORTS = MODELS / "exports"
INDEX = EXPORTS / "index.json"
TOLERANCE = 1e-4  # of the largest absolute output


@dataclass(frozen=True)
class Variant:
    """One way to export a network; `tag` is part of the file name."""

    exporter: str  # "torchscript", "dynamo" or "skl2onnx"
    opset: int
    note: str = ""

    @property
    def tag(self) -> str:
        short = {"torchscript": "ts", "dynamo": "dyn", "skl2onnx": "skl"}[self.exporter]
        return f"{short}{self.opset}" + (f"-{self.note}" if self.note else "")


TORCH_VARIANTS = [
    *(Variant("torchscript", opset) for opset in (11, 13, 14, 17)),
    *(Variant("dynamo", opset) for opset in (18, 20, 21, 23)),
]
EXPLICIT_VARIANTS = [Variant("torchscript", opset, "explicit") for opset in (11, 13)]
MORE_VARIANTS = {
    "digits_vit": EXPLICIT_VARIANTS,
    "grammar_text": [*EXPLICIT_VARIANTS, Variant("dynamo", 23, "expanded")],
}
SKLEARN_VARIANTS = [  # skl2onnx declares the lowest opset that its operators need: 14, whatever is asked above it
    Variant("skl2onnx", 14),
    Variant("skl2onnx", 14, "div"),
    Variant("skl2onnx", 14, "zipmap"),
    Variant("skl2onnx", 14, "plain"),
]
MAIN = {name: Variant("dynamo", 18) for name in INPUT_NAMES} | {"breast_cancer_sklearn": SKLEARN_VARIANTS[-1]}
MAIN["digits_vit"] = Variant("dynamo", 20)
OUTPUT_NAMES = {"breast_cancer_mlp": "probabilities"}  # "logits" otherwise


class ExportError(Exception):
    """An exporter wrote something other than what was asked for."""


def first_line(error: BaseException) -> str:
    """The first line that says something, without addresses or paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    if "ONNXRuntimeError" in line:
        line = "ONNX Runtime cannot run it: " + line.rsplit(" was false. ", 1)[-1]
    return re.sub(r"(/[\w.+-]+){2,}", "PATH", line)[:200]


# --- exporters ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stdout and stderr: on a failure, PyTorch prints the whole graph from C++."""
    sys.stdout.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


def axis_names(name: str) -> dict[str, dict[int, str]]:
    """The dynamic axes of each input."""
    axes = {0: "batch", 1: "length"} if name == "grammar_text" else {0: "batch"}
    return dict.fromkeys(INPUT_NAMES[name], axes)


def export_torch(name: str, network: nn.Module, inputs: list[Tensor], variant: Variant) -> onnx.ModelProto:
    """Export by either PyTorch exporter, weights inside, dynamic axes named."""
    output = OUTPUT_NAMES.get(name, "logits")
    axes = axis_names(name)
    for module in network.modules():
        if isinstance(module, networks.TransformerBlock):
            module.explicit = variant.note == "explicit"
            module.expand_mask = variant.note == "expanded"
    buffer = io.BytesIO()
    common = {"input_names": INPUT_NAMES[name], "output_names": [output], "opset_version": variant.opset}
    args = tuple(inputs)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        if variant.exporter == "torchscript":
            dynamic = {**axes, output: {0: "batch"}}
            torch.onnx.export(network, args, buffer, dynamo=False, dynamic_axes=dynamic, **common)
        else:
            largest = {"length": 16}
            dims = {dim: torch.export.Dim(dim, max=largest.get(dim)) for dim in ("batch", "length")}
            shapes = tuple({axis: dims[dim] for axis, dim in axes[key].items()} for key in INPUT_NAMES[name])
            program = torch.onnx.export(
                network, args, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **common
            )
            program.save(buffer, external_data=False)
    return onnx.load_from_string(buffer.getvalue())


def fitted_pipeline(network: nn.Module) -> Pipeline:
    """The scikit-learn pipeline whose numbers the twin holds, in a fitted state."""
    state = {key: value.double().numpy() for key, value in network.state_dict().items()}
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_ = state["mean"], state["scale"]
    scaler.var_, scaler.n_features_in_ = scaler.scale_**2, len(scaler.mean_)
    layers = sorted({key.split(".")[1] for key in state if key.startswith("layers.")}, key=int)
    classifier = MLPClassifier(tuple(len(state[f"layers.{i}.bias"]) for i in layers[:-1]))
    classifier.coefs_ = [state[f"layers.{i}.weight"].T for i in layers]
    classifier.intercepts_ = [state[f"layers.{i}.bias"] for i in layers]
    classifier.n_layers_, classifier.n_outputs_, classifier.out_activation_ = len(layers) + 1, 1, "logistic"
    classifier.n_features_in_ = scaler.n_features_in_
    classifier.classes_ = np.array([0, 1])
    classifier._label_binarizer = LabelBinarizer().fit(classifier.classes_)
    return make_pipeline(scaler, classifier)


def export_sklearn(network: nn.Module, variant: Variant) -> onnx.ModelProto:
    """Export by skl2onnx; `plain` divides instead of using ml.Scaler and returns the probabilities alone."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    pipeline = fitted_pipeline(network)
    scaler, classifier = (step for _, step in pipeline.steps)
    options: dict[int, dict[str, object]] = {id(classifier): {"zipmap": variant.note == "zipmap"}}
    if variant.note in ("div", "plain"):
        options[id(scaler)] = {"div": "div"}
    model = convert_sklearn(
        pipeline,
        name="breast_cancer_sklearn",
        initial_types=[("features", FloatTensorType([None, 30]))],
        target_opset={"": variant.opset, "ai.onnx.ml": 3},
        options=options,
    )
    if variant.note == "plain":
        kept = [item for item in model.graph.output if item.name == "probabilities"]
        model = select_model_inputs_outputs(model, ["probabilities"])
        model.graph.output[0].CopyFrom(kept[0])  # the selection drops its type
        read = {key for node in model.graph.node for key in node.input}
        for item in [item for item in model.graph.initializer if item.name not in read]:
            model.graph.initializer.remove(item)
        for opset in [opset for opset in model.opset_import if opset.domain]:
            model.opset_import.remove(opset)
    return model


# --- what every file has in common ----------------------------------------------------------------------------------


def strip(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata (stack traces and paths of this machine), at every level."""

    def clear(items: Iterable[object]) -> None:
        for item in items:
            for field in ("doc_string", "metadata_props"):
                with contextlib.suppress(ValueError):
                    item.ClearField(field)

    def clear_graph(graph: onnx.GraphProto) -> None:
        clear([graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer])
        clear_nodes(graph.node)

    def clear_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            clear([node])
            for attribute in node.attribute:
                clear([attribute])
                for graph in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
                    clear_graph(graph)

    clear([model])
    clear_graph(model.graph)
    for function in model.functions:
        clear([function, *function.value_info])
        clear_nodes(function.node)


def feeds_to_try(name: str) -> list[dict[str, Tensor]]:
    """All held-out inputs; one alone; and for text, the same sentences cut short."""
    inputs = networks.test_inputs(name)
    feeds = [inputs, {key: value[:1] for key, value in inputs.items()}]
    if "attention_mask" in inputs:
        for length in (4, 9):
            feeds.append({key: value[:, :length] for key, value in inputs.items()})
    return feeds


def difference(name: str, network: nn.Module, data: bytes) -> float:
    """The largest difference from PyTorch over all feeds, relative to the largest output of PyTorch."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    output = "probabilities" if name.startswith("breast_cancer") else "logits"
    if output not in [item.name for item in session.get_outputs()]:
        output = "output_probability"  # skl2onnx with ZipMap
    worst = 0.0
    for feed in feeds_to_try(name):
        with torch.no_grad():
            expected = network(*feed.values()).numpy()
        (got,) = session.run([output], {key: value.numpy() for key, value in feed.items()})
        if isinstance(got, list):
            got = np.array([[row[key] for key in sorted(row)] for row in got], dtype=np.float32)
        if got.shape != expected.shape:
            raise ExportError(f"shape {got.shape} in ONNX Runtime, {expected.shape} in PyTorch")
        worst = max(worst, float(np.abs(got - expected).max() / np.abs(expected).max()))
    return worst


def export(name: str, variant: Variant) -> tuple[bytes, float]:
    """One ONNX file, checked: opset, embedded weights, ONNX checker, equal to PyTorch. Returns it and its error."""
    network = networks.load(name)
    if variant.exporter == "skl2onnx":
        model = export_sklearn(network, variant)
    else:
        inputs = [value[:3] for value in networks.test_inputs(name).values()]
        model = export_torch(name, network, inputs, variant)
    strip(model)
    model.graph.name = name
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset != variant.opset:
        raise ExportError(f"the exporter wrote opset {opset} instead")
    if any(item.data_location == onnx.TensorProto.EXTERNAL for item in model.graph.initializer):
        raise ExportError("weights are external")
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    error = difference(name, network, data)
    if error > TOLERANCE:
        raise ExportError(f"differs from PyTorch by {error:.1e} of the largest output")
    return data, error


def variants(name: str) -> list[Variant]:
    """Every way to export a network that is tried."""
    if name.endswith("_sklearn"):
        return SKLEARN_VARIANTS
    return TORCH_VARIANTS + MORE_VARIANTS.get(name, [])


def export_all(name: str) -> None:
    """The main file of a network with its facts, and every variant with the index."""
    facts_path = MODELS / f"{name}.json"
    facts = json.loads(facts_path.read_text())
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    index[name] = {"files": {}, "failed": {}}
    for variant in variants(name):
        file = f"{name}.{variant.tag}.onnx"
        is_main = variant == MAIN[name]
        path = MODELS / f"{name}.onnx" if is_main and variant.note == "plain" else EXPORTS / file
        path.unlink(missing_ok=True)
        try:
            data, error = export(name, variant)
        except Exception as problem:  # exporters raise anything; what failed is recorded and shown
            if is_main:
                raise
            index[name]["failed"][variant.tag] = first_line(problem)
            print(f"{file}: failed: {first_line(problem)}")
            continue
        path.write_bytes(data)
        nodes = len(onnx.load_from_string(data).graph.node)
        entry = {
            "exporter": variant.exporter,
            "opset": variant.opset,
            "nodes": nodes,
            "bytes": len(data),
            "difference": float(f"{error:.1e}"),
        }
        if path.parent == EXPORTS:
            index[name]["files"][file] = entry
        if is_main:
            (MODELS / f"{name}.onnx").write_bytes(data)
            package = "skl2onnx" if variant.exporter == "skl2onnx" else "torch"
            facts["onnx"] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                **entry,
                "exporter": f"{variant.exporter} ({package} {version(package)})",
            }
        print(f"{file}: {nodes} nodes, {len(data):,} bytes, within {error:.1e} of PyTorch")
    facts_path.write_text(json.dumps(facts, indent=2) + "\n")
    INDEX.write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n")


# --- the tables of models/README.md ---------------------------------------------------------------------------------

DATA = {
    "digits": "[handwritten digits](https://archive.ics.uci.edu/dataset/80), as shipped by scikit-learn",
    "breast": "[breast cancer Wisconsin](https://archive.ics.uci.edu/dataset/17), as shipped by scikit-learn",
    "grammar": "sentences of the grammar in `tools/datasets.py`",
}
LICENCE = {"digits": "CC BY 4.0 (UCI)", "breast": "CC BY 4.0 (UCI)", "grammar": "generated here, MIT"}


def tables() -> dict[str, str]:
    """The generated parts of the README, by marker name."""
    rows = [
        "| file | what | data | held-out accuracy | command that regenerates it | licence of the data |",
        "|---|---|---|---|---|---|",
    ]
    files = ["| file | exporter | opset | nodes | bytes | difference from PyTorch |", "|---|---|---|---|---|---|"]
    failed = ["| network | export | why it is not here |", "|---|---|---|"]
    index = json.loads(INDEX.read_text())
    for name, network in networks.NETWORKS.items():
        if not (MODELS / f"{name}.onnx").exists():
            continue
        facts = json.loads((MODELS / f"{name}.json").read_text())
        what = (network.__doc__ or "").split("\n")[0].split(";")[0].rstrip(".")
        kind = name.split("_")[0]
        rows.append(
            f"| `{name}.onnx` | {what}; {facts['parameters']:,} parameters; {facts['onnx']['exporter']}, opset "
            f"{facts['onnx']['opset']} | {DATA[kind]} | {100 * facts['test_accuracy']:.2f} % of "
            f"{facts['test_samples']:,} | `{facts['command']}` | {LICENCE[kind]} |"
        )
        for file, entry in index[name]["files"].items():
            files.append(
                f"| `exports/{file}` | {entry['exporter']} | {entry['opset']} | {entry['nodes']} | "
                f"{entry['bytes']:,} | {entry['difference']:.1e} |"
            )
        failed += [f"| {name} | {tag} | {why} |" for tag, why in index[name]["failed"].items()]
    if len(failed) == 2:
        failed = ["None."]
    return {"networks": "\n".join(rows), "exports": "\n".join(files), "failed": "\n".join(failed)}


def fill_tables(made: dict[str, str]) -> None:
    """Put each table between its markers in models/README.md."""
    path = MODELS / "README.md"
    text = path.read_text()
    for name, table in made.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{path}: the markers of {name!r} are gone")
        text = pattern.sub(lambda match, table=table: match[1] + table + match[2], text)
    path.write_text(text)


def main() -> None:
    """Read the names and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(networks.NETWORKS)
    parser.add_argument("names", nargs="+", choices=[*names, "all"], metavar="NAME", help=", ".join(names))
    chosen = parser.parse_args().names
    torch.set_num_threads(1)
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    EXPORTS.mkdir(exist_ok=True)
    for name in names if "all" in chosen else chosen:
        export_all(name)
    fill_tables(tables())


if __name__ == "__main__":
    main()
