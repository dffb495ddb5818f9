"""The networks of the benchmark at their published sizes, as torch modules with seeded random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

Layer = type[nn.Module]


def conv(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, act: Layer | None = nn.ReLU) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layers = [nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Bottleneck(nn.Module):
    """ResNet's block: 1x1, 3x3, 1x1, and a shortcut."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(a, b // 4, 1), conv(b // 4, b // 4, 3, stride), conv(b // 4, b, 1, act=None))
        self.shortcut = conv(a, b, 1, stride, act=None) if a != b or stride > 1 else nn.Identity()
        self.relu = nn.ReLU()  # (modules, not functions: SHAP's DeepExplainer sees modules alone)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, (wide, count) in enumerate([(256, 3), (512, 4), (1024, 6), (2048, 3)]):
        for i in range(count):
            layers.append(Bottleneck(width, wide, 2 if stage and not i else 1))
            width = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


def vgg16() -> nn.Module:
    """VGG-16."""
    layers: list[nn.Module] = []
    width = 3
    for wide, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(count):
            layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU()]
            width = wide
        layers.append(nn.MaxPool2d(2, 2))
    head = [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Dropout(), nn.Linear(4096, 1000))


class SqueezeExcite(nn.Module):
    """x * sigmoid(expand(silu(reduce(mean x))))."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, narrow, 1), nn.SiLU(), nn.Conv2d(narrow, wide, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Inverted(nn.Module):
    """Inverted residual: expand, depthwise, (squeeze-excite,) project."""

    def __init__(self, a: int, b: int, ratio: int, kernel: int, stride: int, act: Layer, excite: bool) -> None:
        super().__init__()
        wide = a * ratio
        layers = [conv(a, wide, 1, act=act)] if ratio > 1 else []
        layers.append(conv(wide, wide, kernel, stride, wide, act))
        if excite:
            layers.append(SqueezeExcite(wide, max(1, a // 4)))
        self.body = nn.Sequential(*layers, conv(wide, b, 1, act=None))
        self.skip = a == b and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


def _inverted_stages(rows: list[tuple[int, int, int, int, int]], width: int, act: Layer, excite: bool) -> nn.Sequential:
    """Stages of (ratio, channels, blocks, stride, kernel)."""
    layers = []
    for ratio, wide, count, stride, kernel in rows:
        for i in range(count):
            layers.append(Inverted(width, wide, ratio, kernel, 1 if i else stride, act, excite))
            width = wide
    return nn.Sequential(*layers)


def _inverted_head(act: Layer) -> list[nn.Module]:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()]
    return [conv(320, 1280, 1, act=act), *pooled, nn.Linear(1280, 1000)]


def mobilenet_v2() -> nn.Module:
    """MobileNetV2."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    stages = _inverted_stages([(*r, 3) for r in rows], 32, nn.ReLU6, False)
    return nn.Sequential(conv(3, 32, 3, 2, act=nn.ReLU6), stages, *_inverted_head(nn.ReLU6))


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0."""
    rows = [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]  # fmt: skip
    stages = _inverted_stages(rows, 32, nn.SiLU, True)
    return nn.Sequential(conv(3, 32, 3, 2, act=nn.SiLU), stages, *_inverted_head(nn.SiLU))


class DenseLayer(nn.Module):
    """x and conv3x3(relu(BN(conv1x1(relu(BN x))))), concatenated."""

    def __init__(self, a: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    """DenseNet-121."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            layers.append(DenseLayer(width, 32))
            width += 32
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if stage < 3:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            width //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + scale * MLP(LayerNorm(depthwise7x7(x))), the MLP with channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        wide = 4 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width, 1e-6), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.mlp(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_t() -> nn.Module:
    """ConvNeXt-T."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, 1e-6)]
    width = 96
    for stage, (wide, count) in enumerate([(96, 3), (192, 3), (384, 9), (768, 3)]):
        if stage:
            layers += [ChannelNorm(width, 1e-6), nn.Conv2d(width, wide, 2, 2)]
            width = wide
        layers += [ConvNeXtBlock(width) for _ in range(count)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)]
    return nn.Sequential(*layers, *head)


class Logits(nn.Module):
    """A model of the transformers library that gives its logits alone; ``last``: those of the last token."""

    def __init__(self, model: nn.Module, name: str = "pixel_values", last: bool = False) -> None:
        super().__init__()
        self.model, self.name, self.last = model, name, last

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(**{self.name: x}).logits
        return z[:, -1] if self.last else z


class Tokens(Logits):
    """The same from embeddings on: what torch takes the gradient of."""

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def from_embeddings(self, x: Tensor) -> Tensor:
        z = self.model(inputs_embeds=x).logits
        return z[:, -1] if self.last else z


def vit_b16() -> nn.Module:
    """ViT-B/16."""
    from transformers import ViTConfig, ViTForImageClassification

    return Logits(ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="sdpa")))


def swin_t() -> nn.Module:
    """Swin-T."""
    from transformers import SwinConfig, SwinForImageClassification

    return Logits(SwinForImageClassification(SwinConfig(num_labels=1000, window_size=7, attn_implementation="eager")))


def bert_base() -> nn.Module:
    """BERT-base with a head of two classes."""
    from transformers import BertConfig, BertForSequenceClassification

    return Tokens(BertForSequenceClassification(BertConfig(attn_implementation="sdpa")), "input_ids")


def gpt2_small() -> nn.Module:
    """GPT-2 small, the logits of the last token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return Tokens(GPT2LMHeadModel(GPT2Config(attn_implementation="sdpa", use_cache=False)), "input_ids", last=True)


def tiny() -> nn.Module:
    """For the benchmark's own test: two blocks of ResNet on small images, twelve classes."""
    layers = [conv(3, 8, 3, 2), Bottleneck(8, 16, 2), Bottleneck(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 12))


@dataclass(frozen=True)
class Bench:
    """A network of the benchmark and its bars: compiled / forward at most, times faster than torch at least."""

    build: Callable[[], nn.Module]
    forward: float
    torch: tuple[float, float]  # at batch 1 and at batch 8
    tokens: int = 0
    targets: dict[int, float] = field(default_factory=dict)  # K -> forwards at most, at batch 1
    side: int = 224
    listed: bool = True  # among those that are run when none is named

    def inputs(self, rows: int) -> Tensor:
        """Random images, or token ids."""
        random = torch.Generator().manual_seed(rows)
        if self.tokens:
            return torch.randint(1, 20000, (rows, self.tokens), generator=random)
        return torch.randn(rows, 3, self.side, self.side, generator=random)


NETWORKS = {
    "vit_b16": Bench(vit_b16, 1.70, (1.5, 1.2), targets={10: 7.0, 1000: 650.0}),
    "resnet50": Bench(resnet50, 2.20, (1.9, 1.9), targets={10: 11.0, 1000: 1000.0}),
    "vgg16": Bench(vgg16, 2.20, (1.5, 1.5)),
    "convnext_t": Bench(convnext_t, 2.10, (1.5, 1.5)),
    "mobilenet_v2": Bench(mobilenet_v2, 2.90, (2.2, 2.2)),
    "efficientnet_b0": Bench(efficientnet_b0, 2.90, (2.0, 2.0)),
    "densenet121": Bench(densenet121, 2.60, (1.8, 1.8)),
    "swin_t": Bench(swin_t, 2.00, (1.3, 1.3)),
    "bert_base": Bench(bert_base, 1.75, (1.3, 1.3), tokens=128),
    "gpt2_small": Bench(gpt2_small, 1.75, (1.3, 1.3), tokens=128),
    "tiny": Bench(tiny, 1000.0, (0.0, 0.0), targets={10: 10000.0}, side=16, listed=False),
}


def network(name: str, statistics: bool = True) -> nn.Module:
    """The network with seeded weights, which take no gradient; norms know the ``statistics`` of a random batch, so that
    nothing blows up."""
    torch.manual_seed(list(NETWORKS).index(name))
    module = NETWORKS[name].build()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for m in norms:
            m.momentum = 1.0
            nn.init.normal_(m.bias, std=0.1)
        if norms and statistics:
            module.train()
            module(NETWORKS[name].inputs(4))
    return module.eval().requires_grad_(False)


def export(name: str, batch: int, path: Path) -> None:
    """The network at ``path``, by the dynamo exporter at opset 18; of a fixed batch size, as it does by default, or
    of a free one (0)."""
    module, bench = network(name), NETWORKS[name]
    program = torch.onnx.export(
        module, (bench.inputs(batch or 2),), input_names=["x"], output_names=["z"], opset_version=18, dynamo=True,
        dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)
