"""Small faithful convolutional networks as torch modules: the blocks of the papers, few channels, random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Module:
    """Convolution, BatchNorm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(b),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Block(nn.Module):
    """ResNet block, basic or bottleneck: relu(shortcut(x) + body(x))."""

    def __init__(self, a: int, b: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.body = nn.Sequential(conv(a, b // 4, 1), conv(b // 4, b // 4, 3, stride), conv(b // 4, b, 1, act=None))
        else:
            self.body = nn.Sequential(conv(a, b, 3, stride), conv(b, b, 3, act=None))
        self.shortcut = conv(a, b, 1, stride, act=None) if a != b or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet: 7x7 stem, max pooling, two stages, global average pooling."""

    def __init__(self, bottleneck: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(
            Block(16, 16, 1, bottleneck), Block(16, 32, 2, bottleneck), Block(32, 32, 1, bottleneck)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.stages(self.stem(x)), 1).flatten(1))


class DenseLayer(nn.Module):
    """DenseNet layer: concatenates conv3x3(relu(BN(conv1x1(relu(BN(x)))))) to x."""

    def __init__(self, a: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class DenseNet(nn.Module):
    """DenseNet: stem, two dense blocks with a transition that halves channels and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1), DenseLayer(16, 8), DenseLayer(24, 8),
            nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2, 2),
            DenseLayer(16, 8), DenseLayer(24, 8), nn.BatchNorm2d(32),
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(F.relu(self.features(x)), (1, 1)).flatten(1))


class SqueezeExcite(nn.Module):
    """x * gate(expand(act(reduce(mean x))))."""

    def __init__(self, channels: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """Inverted residual of MobileNetV3 and EfficientNet: expand, depthwise, squeeze-excite, project."""

    def __init__(
        self, a: int, b: int, wide: int, kernel: int, stride: int, act: type[nn.Module], se: nn.Module
    ) -> None:
        super().__init__()
        expand = [conv(a, wide, 1, act=act)] if wide != a else []
        self.body = nn.Sequential(*expand, conv(wide, wide, kernel, stride, wide, act), se, conv(wide, b, 1, act=None))
        self.skip = a == b and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class MobileNetV3(nn.Module):
    """MobileNetV3: HardSwish, ReLU, squeeze-excite with HardSigmoid gates."""

    def __init__(self) -> None:
        super().__init__()
        swish = nn.Hardswish
        self.features = nn.Sequential(
            conv(3, 16, 3, 2, act=swish),
            Inverted(16, 16, 16, 3, 2, nn.ReLU, SqueezeExcite(16, nn.ReLU, nn.Hardsigmoid)),
            Inverted(16, 24, 48, 3, 1, nn.ReLU, nn.Identity()),
            Inverted(24, 24, 64, 5, 1, swish, SqueezeExcite(64, nn.ReLU, nn.Hardsigmoid)),
            conv(24, 64, 1, act=swish),
        )
        self.head = nn.Sequential(nn.Linear(64, 48), swish(), nn.Dropout(0.2), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class EfficientNet(nn.Module):
    """EfficientNet: SiLU, squeeze-excite with Sigmoid gates."""

    def __init__(self) -> None:
        super().__init__()

        def block(a: int, b: int, ratio: int, kernel: int, stride: int) -> nn.Module:
            return Inverted(a, b, a * ratio, kernel, stride, nn.SiLU, SqueezeExcite(a * ratio, nn.SiLU, nn.Sigmoid))

        self.features = nn.Sequential(
            conv(3, 16, 3, 2, act=nn.SiLU), block(16, 16, 1, 3, 1), block(16, 24, 4, 5, 2), block(24, 24, 4, 3, 1),
            conv(24, 64, 1, act=nn.SiLU),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + scale * MLP(LayerNorm(depthwise7x7(x))), the MLP with channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.mlp(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt: patch stem, two stages, a norm and a strided convolution between them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), ChannelNorm(16), ConvNeXtBlock(16), ConvNeXtBlock(16),
            ChannelNorm(16), nn.Conv2d(16, 32, 2, 2), ConvNeXtBlock(32),
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean([-2, -1])))


class UNet(nn.Module):
    """U-Net: two levels down, one up by ConvTranspose, one by bilinear upsampling, skips concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.deep = conv(3, 8, 3), conv(8, 16, 3), conv(16, 32, 3)
        self.up2, self.mix2 = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16, 3)
        self.up1, self.mix1 = nn.Upsample(scale_factor=2, mode="bilinear"), conv(24, 8, 3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.mix2(torch.cat([self.up2(self.deep(F.max_pool2d(b, 2))), b], 1))
        return self.head(self.mix1(torch.cat([self.up1(c), a], 1)))


class Autoencoder(nn.Module):
    """Convolutional autoencoder with a dense code; strided convolutions down, ConvTranspose with output padding up."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(256, 12),
        )
        self.decode = nn.Sequential(
            nn.Linear(12, 256), nn.Softplus(), nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.PReLU(8),
            nn.ConvTranspose2d(8, 1, 3, 2, 1, output_padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Conv1d(nn.Module):
    """1-D network for signals: dilated and strided convolutions, gated units, InstanceNorm, both kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.Mish(), nn.MaxPool1d(3, 2))
        self.value, self.gate = nn.Conv1d(16, 16, 3, padding=2, dilation=2), nn.Conv1d(16, 16, 3, padding=2, dilation=2)
        self.norm, self.pool = nn.InstanceNorm1d(16, affine=True), nn.AvgPool1d(3, 2, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
        x = self.pool(self.norm(x))
        return self.head(torch.cat([x.mean(-1), x.amax(-1)], -1))


class Conv3d(nn.Module):
    """3-D network for volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(8, 16, 3, stride=(1, 2, 2), padding=1), nn.GroupNorm(4, 16), nn.SiLU(),
            nn.AvgPool3d((2, 2, 2)), nn.Conv3d(16, 16, 1), nn.ReLU6(),
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3, 4)))


class Fire(nn.Module):
    """SqueezeNet's fire module."""

    def __init__(self, a: int, squeeze: int, b: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(a, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, b, 1), nn.Conv2d(squeeze, b, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet: fire modules, pools that round sizes up, classes by a 1x1 convolution and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 4, 8), Fire(16, 4, 8),
            nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 8, 16), nn.AvgPool2d(2, 2, ceil_mode=True),
            nn.Dropout(0.5), nn.Conv2d(32, 10, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)


class VGG(nn.Module):
    """VGG: plain 3x3 convolutions and pools, dense head."""

    def __init__(self) -> None:
        super().__init__()

        def stage(a: int, b: int) -> list[nn.Module]:
            return [
                nn.Conv2d(a, b, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, 2),
            ]

        self.features = nn.Sequential(*stage(3, 8), *stage(8, 16), *stage(16, 16))
        self.head = nn.Sequential(
            nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.features(x), (4, 4)), 1))


class FullyConvolutional(nn.Module):
    """Segmentation without any fixed size: strided stem, dilated convolution, resized back to the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 8, 3, 2), conv(8, 16, 3), nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.ReLU()
        )
        self.context = nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        context = F.relu(self.context(y.mean((2, 3), keepdim=True)))
        y = self.head(torch.cat([y, context.expand_as(y)], 1))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
