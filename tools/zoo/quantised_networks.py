"""Networks as they are deployed: quantised by ONNX Runtime's tools in all their formats, integers at the ends too."""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

from zoo.entry import Network, Sample
from zoo.quantisers import RECIPES, Base, Recipe

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

TRAINED = ("digits_cnn", "digits_vit", "breast_cancer_mlp", "grammar_text")


# Float networks


def base(name: str, opset: int = 17) -> Base:
    """A network of models/, or of tests/architectures.py by the TorchScript exporter (dynamo from opset 21 on)."""
    import onnx

    if name in TRAINED:
        model = onnx.load(ROOT / "models" / f"{name}.onnx")
        with np.load(ROOT / "models" / f"{name}.npz") as data:
            given = {i.name: data[i.name] for i in model.graph.input}
        del model.graph.value_info[:]  # (the quantisers add to it, and then trip over it)
        return Base(model, {k: v[-4:] for k, v in given.items()}, {k: v[:16] for k, v in given.items()})
    if name == "lstm":
        return recurrent()
    if name == "fused_bert":
        return fused_bert()
    import architectures

    architecture = architectures.ARCHITECTURES[name]
    model = architectures.export(name, "dynamo" if opset > 20 else "torchscript", opset)
    own, other = (
        {k: t.numpy() for k, t in zip(architecture.names, architecture.inputs(rows, seed), strict=True)}
        for rows, seed in ((2, 0), (8, 1))
    )
    return Base(model, own, other)


def recurrent() -> Base:
    """A bidirectional LSTM and a classifier of its last step."""
    import architectures
    import torch
    from torch import nn

    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True)
            self.out = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(x)[0][-1])

    torch.manual_seed(0)
    module = Speech().eval()
    x = torch.randn(7, 2, 6)
    model = architectures.export_module(module, (x,), ["x"], "torchscript", 17, {})
    return Base(model, {"x": x.numpy()}, {"x": x.numpy()})


def aware(path: Path) -> Sample:
    """A network of quantisation-aware training: quantisers per tensor, and per channel with scales computed in it."""
    import architectures
    import onnx
    import torch
    from torch import nn

    class Aware(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
            self.last = nn.Linear(8, 5)

        def weight(self, w: torch.Tensor) -> torch.Tensor:
            scale = w.detach().abs().flatten(1).amax(1) / 127
            zero = torch.zeros(len(w), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(w, scale, zero, 0, -128, 127)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fake, conv = torch.fake_quantize_per_tensor_affine, nn.functional.conv2d
            x = conv(fake(x, 0.03, 128, 0, 255), self.weight(self.first.weight), self.first.bias, padding=1)
            x = conv(fake(torch.relu(x), 0.02, 0, 0, 255), self.weight(self.second.weight), self.second.bias, stride=2)
            x = fake(torch.relu(x), 0.03, 0, 0, 127).mean((2, 3))
            return fake(nn.functional.linear(x, self.weight(self.last.weight), self.last.bias), 0.02, 3, -128, 127)

    torch.manual_seed(0)
    module = Aware().eval()
    architectures.randomise(module, torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    onnx.save(architectures.export_module(module, (x,), ["x"], "torchscript", 13, {0: "batch"}), path)
    return Sample({"x": x.numpy()}, outputs={"z": module(x).detach().numpy()})


def fused_bert() -> Base:
    """BERT as the transformer optimiser leaves it: Attention, EmbedLayerNormalization, SkipLayerNormalization."""
    import onnx

    from zoo.transformer_exports import export, optimise

    model, feeds = export("bert", "torchscript")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bert.onnx"
        onnx.save(model, path)
        return Base(optimise(str(path), "bert"), feeds, feeds)


def plain(path: Path, name: str) -> Sample:
    """A trained network as it is, for the others to be compared with."""
    import onnx

    found = base(name)
    onnx.save(found.model, path)
    return Sample(found.feeds)


# The table


def quantised(path: Path, name: str, recipe: Recipe, opset: int = 17) -> Sample:
    """A network after ``recipe``, which may change its inputs too."""
    import onnx

    source = base(name, opset)
    start = path.with_suffix(".float.onnx")
    onnx.save(source.model, start)
    logging.disable(logging.WARNING)
    try:
        feeds = recipe(start, path, source) or source.feeds
    finally:
        logging.disable(logging.NOTSET)
        start.unlink()
    return Sample(feeds)


IMAGES = "qdq qdq-channels qdq-reduce qdq-uint16 qop qop-channels dynamic saved-all".split()
CHOSEN: dict[str, list[str]] = {
    "digits_cnn": [*IMAGES, "qdq-symmetric", "qdq-int16", "qdq-entropy", "qdq-weights", "qop-int8", "saved",
                   "saved-dynamic", "integers-qdq", "integers-qop"],
    "digits_vit": ["qdq", "qop", "dynamic", "dynamic-channels", "saved", "saved-dynamic", "nbits-4", "nbits-8"],
    "breast_cancer_mlp": ["qdq", "qop", "dynamic", "saved-all", "saved-dynamic", "integers-qop"],
    "grammar_text": ["products-qdq", "products-qop", "qdq", "dynamic", "nbits-gather"],
    "resnet_basic": IMAGES,
    "mobilenet_v3": ["qdq", "qop", "dynamic", "saved-all"],
    "densenet": ["qop", "saved-all"],
    "unet": ["qdq", "qop", "saved-all"],
    "squeezenet": ["qop", "integers-qop"],
    "convnext": ["qdq-channels", "dynamic"],
    "fully_convolutional": ["qop"],
    "conv1d": ["qdq", "dynamic"],
    "swin": ["qdq", "saved-dynamic"],
    "bert_eager": ["qdq", "products-qop", "dynamic", "saved-dynamic", "nbits-4-symmetric"],
    "fused_bert": ["attention-dynamic"],
    "gpt2_eager": ["qdq", "qop", "products-qdq", "dynamic", "nbits-4"],
    "llama_eager": ["qdq-channels", "qop", "dynamic", "nbits-4", "nbits-2"],
    "bert_sdpa": ["qdq", "qop"],
    "lstm": ["dynamic"],
}  # fmt: skip
AT_21 = {
    "resnet_basic": ["native-int16", "native-uint16-int4"], "vit": ["native-uint16-int4"],
    "llama_eager": ["nbits-qdq", "nbits-qdq-saved", "nbits-gather"],
}  # fmt: skip
TARGETS = {"unet": "class:2", "gpt2_eager": "last"}
QUICK = tuple(f"breast_cancer_mlp-{recipe}" for recipe in ("qdq", "qop", "dynamic", "integers-qop"))
ASKED = ("digits_cnn-qdq-channels", "digits_cnn-qop", "digits_cnn-dynamic", "digits_cnn-saved", "digits_vit-qop")
"""Images that the dense oracle is asked about."""
PLAIN = (*TRAINED, "lstm", "fused_bert")
"""Float networks that no other table has."""


def kind_of(name: str) -> str:
    text = name.startswith(("bert", "gpt2", "llama", "grammar"))
    return {"breast_cancer_mlp": "table", "unet": "dense output", "lstm": "signal", "conv1d": "signal"}.get(
        name, "text" if text else "image"
    )


def _oracle(name: str, recipe: str) -> str:
    """Why the dense oracle is not asked."""
    if kind_of(name) == "text" and recipe.startswith(("qdq", "qop")):
        return "a mask of -3.4e38 is quantised: no digit of the scores is left"
    if kind_of(name) in ("image", "dense output") and f"{name}-{recipe}" not in ASKED:
        return "images are large for it; some are asked"
    return ""


def table() -> list[Network]:
    """Trained networks as they are; then each network by the recipes chosen for it."""
    found = [
        Network(
            f"{name}-float", kind_of(name), "as it was", functools.partial(plain, name=name),
            quick=name == "breast_cancer_mlp",
        )
        for name in PLAIN
    ]  # fmt: skip
    for opset, chosen in ((17, CHOSEN), (21, AT_21)):
        source = "torchscript17" if opset == 17 else "dynamo20"
        for name, recipes in chosen.items():
            for recipe in recipes:
                found.append(
                    Network(
                        name=f"{name}-{recipe}",
                        kind=kind_of(name),
                        exporter=f"quantised {recipe}",
                        build=functools.partial(quantised, name=name, recipe=RECIPES[recipe], opset=opset),
                        needs=("onnxruntime",) if name in TRAINED else ("torch", "onnxruntime"),
                        options={"target": TARGETS.get(name, "argmax")},
                        quantised=True,
                        float_twin=f"{name}-float" if name in PLAIN else f"{name}-{source}",
                        oracle=_oracle(name, recipe),
                        quick=f"{name}-{recipe}" in QUICK,
                    )
                )
    qat = "quantisation-aware, torchscript 13"
    return [*found, Network("cnn-aware", "image", qat, aware, ("torch",), quantised=True)]


NETWORKS = table()
