"""Networks of tests/architectures.py by both PyTorch exporters, from opset 11 on."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from zoo.entry import Network, Sample

TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

NAMES = (
    "resnet_basic resnet_bottleneck densenet mobilenet_v3 efficientnet convnext vit swin mixer unet autoencoder conv1d "
    "conv3d squeezenet vgg fully_convolutional bert_eager bert_sdpa gpt2_eager gpt2_sdpa llama_eager llama_sdpa"
).split()


def build(path: Path, name: str, exporter: str, opset: int) -> Sample:
    """The network with its input gradient by torch.autograd (images), or none (token ids)."""
    import architectures
    import onnx
    import torch

    architecture = architectures.ARCHITECTURES[name]
    inputs = architecture.inputs(2)
    onnx.save(architectures.export(name, exporter, opset), path)
    feeds = {k: t.numpy() for k, t in zip(architecture.names, inputs, strict=True)}
    if architecture.text:
        return Sample(feeds)
    x = inputs[0].clone().requires_grad_()
    z = architectures.network(name)(x)
    if architecture.target.startswith("class:"):
        y = z[:, int(architecture.target[6:])].sum()
    elif architecture.target == "argmax":
        y = z.flatten(1).max(dim=1).values.sum()
    else:
        y = z.flatten(1)[:, int(architecture.target)].sum()
    (gradient,) = torch.autograd.grad(y, x)
    return Sample(feeds, [gradient.numpy()], {"z": z.detach().numpy()})


TARGETS = {"unet": "class:2", "autoencoder": "100", "gpt2_eager": "last", "gpt2_sdpa": "last"}

ATTENTION = ("vit", "bert_sdpa", "gpt2_sdpa", "llama_sdpa")
"""scaled_dot_product_attention: the TorchScript exporter knows it from opset 14 on."""
LAYER_NORMS = ("convnext", "vit", "swin", "mixer", "bert_eager", "bert_sdpa", "gpt2_eager", "gpt2_sdpa")
WRITTEN_OUT = {"C_b tangent": (1.0, "a norm written out, below opset 17 (C_b of norms in other forms)")}
REFUSED_AT_23 = ("llama_sdpa",)
"""What ONNX Runtime 1.32 does not run itself: the exporter's RotaryEmbedding."""
QUICK = ("vit", "bert_sdpa")


def table() -> list[Network]:
    """Each network by dynamo at opset 20, and twins: TorchScript at an old opset and at 17, dynamo at 18 or 23."""
    found = []
    for i, name in enumerate(NAMES):
        kind = "text" if name.startswith(("bert", "gpt2", "llama")) else "dense output" if name == "unet" else "image"
        kind = {"conv1d": "signal", "conv3d": "volume", "autoencoder": "autoencoder"}.get(name, kind)
        old = 14 if name in ATTENTION else 13 if name == "autoencoder" else (11, 12, 13)[i % 3]
        options = {"target": TARGETS.get(name, "argmax")}
        new = 18 if name in REFUSED_AT_23 else (18, 23)[i % 2]
        for exporter, opset in (("dynamo", 20), ("torchscript", old), ("torchscript", 17), ("dynamo", new)):
            first = (exporter, opset) == ("dynamo", 20)
            found.append(
                Network(
                    name=f"{name}-{exporter}{opset}",
                    kind=kind,
                    exporter=f"{exporter} {opset}",
                    build=functools.partial(build, name=name, exporter=exporter, opset=opset),
                    needs=("torch",),
                    options=options,
                    twin="" if first else f"{name}-dynamo20",
                    oracle="" if first else "it is asked about the twin",
                    accepted=WRITTEN_OUT if opset < 17 and name in LAYER_NORMS else {},
                    quick=name in QUICK and opset in (20, 17),
                )
            )
    return found


NETWORKS = table()
