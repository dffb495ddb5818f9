"""Files that ONNX Runtime wrote itself: offline-optimised networks, and those of its transformer optimiser."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from zoo import decoder_files, torch_networks
from zoo.entry import Network, Sample
from zoo.quantised_networks import TRAINED, base, kind_of
from zoo.transformer_exports import KINDS, export, optimise

NORMS = {"C_b tangent": (1e-2, "the source has its norms written out (opset 12), the optimised file has them whole")}


# Offline optimisation


def offline(path: Path, name: str, exporter: str, opset: int, level: str) -> Sample:
    """The file that ONNX Runtime saves at an optimisation level."""
    import onnx
    import onnxruntime

    if name in TRAINED:
        source = base(name)
        model, sample = source.model, Sample(source.feeds)
    else:
        plain = path.with_suffix(".plain.onnx")
        sample = torch_networks.build(plain, name, exporter, opset)
        model = onnx.load(plain)
        plain.unlink()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sample


OFFLINE = [
    ("digits_cnn", "", 0, "all"), ("digits_vit", "", 0, "extended"), ("grammar_text", "", 0, "all"),
    ("breast_cancer_mlp", "", 0, "all"),
    *(("resnet_basic", "torchscript", 11, level) for level in ("basic", "extended", "all")),
    ("resnet_bottleneck", "dynamo", 20, "all"), ("densenet", "torchscript", 13, "all"),
    ("mobilenet_v3", "dynamo", 20, "all"), ("mobilenet_v3", "torchscript", 11, "extended"),
    ("efficientnet", "torchscript", 12, "all"), ("convnext", "torchscript", 17, "all"),
    ("convnext", "dynamo", 20, "extended"), ("vit", "torchscript", 14, "all"), ("vit", "dynamo", 20, "all"),
    ("swin", "torchscript", 12, "extended"), ("mixer", "torchscript", 17, "all"), ("unet", "torchscript", 11, "all"),
    ("unet", "dynamo", 20, "extended"), ("autoencoder", "torchscript", 17, "all"), ("conv1d", "torchscript", 17, "all"),
    ("conv3d", "torchscript", 11, "all"), ("squeezenet", "dynamo", 20, "all"), ("vgg", "torchscript", 13, "all"),
    ("fully_convolutional", "torchscript", 17, "all"), ("bert_eager", "torchscript", 12, "all"),
    ("bert_eager", "dynamo", 20, "extended"), ("bert_sdpa", "dynamo", 23, "all"),
    ("gpt2_eager", "torchscript", 17, "all"),
    ("gpt2_sdpa", "dynamo", 20, "extended"), ("llama_eager", "dynamo", 20, "all"),
    ("llama_sdpa", "torchscript", 17, "all"),
]  # fmt: skip


def offline_networks() -> list[Network]:
    """Twins of the files that they were made from."""
    plain = {n.name: n for n in torch_networks.NETWORKS}
    found = []
    for name, exporter, opset, level in OFFLINE:
        twin = f"{name}-float" if name in TRAINED else f"{name}-{exporter}{opset}"
        if name not in TRAINED and twin not in plain:
            raise ValueError(f"no network {twin}")
        found.append(
            Network(
                name=f"{name}-{level}" if name in TRAINED else f"{twin}-{level}",
                kind=plain[twin].kind if twin in plain else kind_of(name),
                exporter=f"onnxruntime {level}",
                build=functools.partial(offline, name=name, exporter=exporter, opset=opset, level=level),
                needs=("onnxruntime",) if name in TRAINED else ("torch", "onnxruntime"),
                options=plain[twin].options if twin in plain else {},
                twin=twin,
                accepted=NORMS if opset == 12 and name in torch_networks.LAYER_NORMS else {},
                oracle="" if name == "breast_cancer_mlp" else "it is asked about the twin",
                quick=name == "breast_cancer_mlp",
            )
        )
    return found


# The transformer optimiser


def transformer(path: Path, name: str, exporter: str, attention: str = "eager", **options: bool) -> Sample:
    """A transformer through onnxruntime.transformers.optimizer, or as it was exported if there are no ``options``."""
    import onnx

    model, feeds = export(name, exporter, attention)
    onnx.save(model, path)
    if options:
        onnx.save(optimise(str(path), KINDS[name], **{k: v for k, v in options.items() if k != "fused"}), path)
    return Sample(feeds)


FUSED: dict[str, dict[str, bool]] = {
    "fused": {"fused": True}, "apart": {"apart": True}, "ends": {"ends": True}, "half": {"half": True},
}  # fmt: skip
"""How the optimiser is asked; ``fused``: as it is."""
HALF = dict.fromkeys(("C_w", "C_b"), (2e-2, "float16 between float32 ends: values and coefficients are rounded"))
CHOSEN: list[tuple[str, str, tuple[str, ...]]] = [
    ("bert", "torchscript", ("fused", "apart", "ends", "half")),
    ("bert", "dynamo", ("fused",)),
    ("gpt2", "torchscript", ("fused", "half")),
    ("gpt2", "dynamo", ("fused", "apart")),
    ("llama", "torchscript", ("fused", "half")),
    ("llama", "dynamo", ("fused",)),
    ("qwen3", "dynamo", ("fused",)),
    ("vit", "torchscript", ("fused", "half")),
    ("vit", "dynamo", ("fused",)),
    ("swin", "torchscript", ("fused",)),
    ("clip_text", "torchscript", ("fused",)),
    ("clip_text", "dynamo", ("apart",)),
    ("clip_vision", "torchscript", ("fused", "apart")),
    ("t5", "torchscript", ("fused",)),
    ("t5_encoder", "torchscript", ("fused", "apart")),
    ("bart", "torchscript", ("fused", "apart")),
]
TARGETS = dict.fromkeys(("gpt2", "llama", "qwen3"), "last")


def transformers() -> list[Network]:
    """Each export as it is, and its fused twins."""
    found = []
    for name, exporter, ways in CHOSEN:
        for way in ("plain", *ways):
            options = FUSED.get(way, {})
            plain = f"tiny_{name}-{exporter}"
            found.append(
                Network(
                    name=plain if way == "plain" else f"{plain}-{way}",
                    kind="image" if name in ("vit", "swin", "clip_vision") else "text",
                    exporter=exporter if way == "plain" else f"transformer optimiser, {way}",
                    build=functools.partial(transformer, name=name, exporter=exporter, **options),
                    needs=("torch", "transformers", "onnxruntime"),
                    options={"target": TARGETS.get(name, "argmax")},
                    twin="" if way == "plain" else plain,
                    accepted=HALF if way == "half" else {},
                    bar=5e-3 if way == "half" else 1e-5,
                    oracle="images are large for it; text is asked" if name in ("swin", "vit", "clip_vision") else "",
                    quick=plain == "tiny_bert-torchscript" and way in ("plain", "fused"),
                )
            )
    return found


# Decoders as they are deployed


def decoders() -> list[Network]:
    """A Llama by PyTorch's exporter, and with ONNX Runtime's operators: a prompt, and later tokens behind a cache."""
    common: dict[str, Any] = {"kind": "text", "needs": ("torch", "transformers", "onnxruntime")}
    last = {"target": "last"}
    return [
        Network("decoder-plain", exporter="dynamo 20", build=decoder_files.plain, options=last, **common),
        Network(
            "decoder-fused", exporter="GroupQueryAttention", build=functools.partial(decoder_files.write, past=0),
            options=last, twin="decoder-plain", **common,
        ),
        Network(
            "decoder-cached", exporter="GroupQueryAttention", build=functools.partial(decoder_files.write, past=6),
            options=last, **common,
        ),
    ]  # fmt: skip


NETWORKS = offline_networks() + transformers() + decoders()
