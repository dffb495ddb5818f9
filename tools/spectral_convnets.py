"""AlexNet and VGG-11 with BatchNorm: at their published sizes with seeded random weights, or as small as one asks.

The layers that the spectrum is about have names: `last_conv`, what the convolutions give to the fully connected layers
(AlexNet at 224: 256 x 6 x 6 = 9216), and `penultimate`, what the last layer reads (4096). Nothing large is stored:
`built(NAME)` makes the network, `model(NAME)` its ONNX file, of hundreds of MB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image
from spectral_networks import layer, to_onnx
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that these networks are made for
SEED = 25


def stage(conv: nn.Conv2d, pool: nn.Module | None, norm: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, pool; with all of them it is the tensors STAGE.conv, STAGE.norm, STAGE.relu and
    STAGE."""
    parts: dict[str, nn.Module | None] = {
        "conv": conv,
        "norm": nn.BatchNorm2d(conv.out_channels) if norm else None,
        "relu": nn.ReLU(),
        "pool": pool,
    }
    return nn.Sequential(OrderedDict((key, part) for key, part in parts.items() if part is not None))


def head(features: int, hidden: int, classes: int) -> dict[str, nn.Module]:
    """Two hidden layers with dropout in front of the classes."""
    return {
        "flat": nn.Flatten(),
        "dropout_1": nn.Dropout(),
        "hidden": layer(features, hidden, True),
        "dropout_2": nn.Dropout(),
        "penultimate": layer(hidden, hidden, True),
        "logits": nn.Linear(hidden, classes),
    }


def alexnet(
    classes: int = 1000,
    channels: int = 3,
    widths: tuple[int, ...] = (64, 192, 384, 256, 256),
    stem: tuple[int, int, int] = (11, 4, 2),
    grid: int = 6,
    hidden: int = 4096,
) -> nn.Sequential:
    """AlexNet in its form for one device; `stem`: kernel, stride and padding of the first convolution."""
    a, b, c, d, e = widths
    kernel, stride, padding = stem
    return nn.Sequential(
        OrderedDict(
            conv1=stage(nn.Conv2d(channels, a, kernel, stride, padding), nn.MaxPool2d(3, 2)),
            conv2=stage(nn.Conv2d(a, b, 5, padding=2), nn.MaxPool2d(3, 2)),
            conv3=stage(nn.Conv2d(b, c, 3, padding=1), None),
            conv4=stage(nn.Conv2d(c, d, 3, padding=1), None),
            conv5=stage(nn.Conv2d(d, e, 3, padding=1), nn.MaxPool2d(3, 2)),
            last_conv=nn.AdaptiveAvgPool2d(grid),
            **head(e * grid**2, hidden, classes),
        )
    )


def vgg11_bn(
    classes: int = 1000, channels: int = 3, width: int = 64, grid: int = 7, hidden: int = 4096
) -> nn.Sequential:
    """VGG-11 with BatchNorm; the stages have `width` times 1, 2, 4, 4, 8, 8, 8, 8 channels."""
    widths = [width * m for m in (1, 2, 4, 4, 8, 8, 8, 8)]
    layers: dict[str, nn.Module] = {}
    for i, (a, b) in enumerate(zip([channels, *widths], widths, strict=False), start=1):
        pool = nn.MaxPool2d(2, 2) if i in (1, 2, 4, 6, 8) else None
        layers[f"conv{i}"] = stage(nn.Conv2d(a, b, 3, padding=1), pool, norm=True)
    layers["last_conv"] = nn.AdaptiveAvgPool2d(grid)
    return nn.Sequential(OrderedDict(**layers, **head(widths[-1] * grid**2, hidden, classes)))


ARCHITECTURES: dict[str, Callable[[], nn.Sequential]] = {"alexnet": alexnet, "vgg11_bn": vgg11_bn}


def photographs() -> NDArray[np.float32]:
    """The two photographs that scikit-learn ships, a temple and a flower, [2,3,224,224] in 0..1, cut square."""
    found = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 255
        edge = (image.shape[3] - image.shape[2]) // 2
        square = image[..., edge : edge + image.shape[2]]
        found.append(F.interpolate(square, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(found).clamp(0, 1).numpy()


def inputs() -> NDArray[np.float32]:
    """The photographs as these networks take them: less the mean, divided by the deviation of each channel."""
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    return (photographs() - mean) / deviation


def initialise(network: nn.Module, images: Tensor, seed: int = SEED) -> None:
    """Seeded random weights: He's for ReLU, small biases; BatchNorms know the statistics of `images`."""
    random = torch.Generator().manual_seed(seed)
    norms = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
            nn.init.normal_(module.bias, std=0.05, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            norms.append(module)
    if norms:
        with torch.no_grad():
            network.train()(images)


def built(name: str) -> nn.Sequential:
    """The network of that name at its published size, in eval mode, its weights taking no gradient."""
    network = ARCHITECTURES[name]()
    initialise(network, torch.from_numpy(inputs()))
    return network.eval().requires_grad_(False)


def model(name: str) -> onnx.ModelProto:
    """Its ONNX file for one image [1,3,224,224]."""
    return to_onnx(name, built(name), {"image": torch.from_numpy(inputs()[:1])}, ("logits",), free=False)
