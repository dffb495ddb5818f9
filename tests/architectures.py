"""The architectures that the tests explain: builders with seeded random weights, inputs, and both PyTorch exporters."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import architectures_attention as attention
import architectures_conv as convolution
import onnx
import torch
from torch import Tensor, nn

torch.set_num_threads(1)

Axes = dict[int, str]


@dataclass(frozen=True)
class Architecture:
    """A network: `build` makes the module, `shape` is that of one input row; texts have a length instead."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = ()
    length: int = 0
    target: str = "argmax"
    dynamic: Axes = field(default_factory=lambda: {0: "batch"})

    @property
    def text(self) -> bool:
        return self.length > 0

    @property
    def names(self) -> list[str]:
        return ["token_ids", "attention_mask"] if self.text else ["x"]

    def inputs(self, rows: int, seed: int = 0, size: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """Random inputs; the last row of several texts is padded at its end. `size`: other spatial sizes or length."""
        random = torch.Generator().manual_seed(1000 + seed)
        if not self.text:
            shape = (*self.shape[: len(self.shape) - len(size)], *size)
            return (torch.randn(rows, *shape, generator=random),)
        length = size[0] if size else self.length
        ids = torch.randint(1, 60, (rows, length), generator=random)
        mask = torch.ones(rows, length, dtype=torch.int64)
        if rows > 1:
            mask[-1, -2:] = 0
        return ids, mask


ARCHITECTURES = {
    a.name: a
    for a in [
        Architecture("resnet_basic", lambda: convolution.ResNet(False), (3, 32, 32)),
        Architecture("resnet_bottleneck", lambda: convolution.ResNet(True), (3, 32, 32)),
        Architecture("densenet", convolution.DenseNet, (3, 32, 32)),
        Architecture("mobilenet_v3", convolution.MobileNetV3, (3, 32, 32)),
        Architecture("efficientnet", convolution.EfficientNet, (3, 24, 24)),
        Architecture("convnext", convolution.ConvNeXt, (3, 32, 32)),
        Architecture("vit", attention.ViT, (3, 16, 16)),
        Architecture("swin", attention.Swin, (3, 32, 32)),
        Architecture("mixer", attention.Mixer, (3, 16, 16)),
        Architecture("unet", convolution.UNet, (3, 16, 16), target="class:2"),
        Architecture("autoencoder", convolution.Autoencoder, (1, 16, 16), target="100"),
        Architecture("conv1d", convolution.Conv1d, (2, 64)),
        Architecture("conv3d", convolution.Conv3d, (1, 8, 16, 16)),
        Architecture("squeezenet", convolution.SqueezeNet, (3, 33, 33)),
        Architecture("vgg", convolution.VGG, (3, 32, 32)),
        Architecture(
            "fully_convolutional",
            convolution.FullyConvolutional,
            (3, 18, 22),
            dynamic={0: "batch", 2: "height", 3: "width"},
        ),
        *(
            Architecture(f"{name}_{kind}", functools.partial(build, kind), (), 8, target, {0: "batch", 1: "length"})
            for name, build, target in (
                ("bert", attention.bert, "argmax"),
                ("gpt2", attention.gpt2, "last"),
                ("llama", attention.llama, "argmax"),
            )
            for kind in ("eager", "sdpa")
        ),
    ]
}


@functools.cache
def network(name: str) -> nn.Module:
    """The network of that name in eval mode with random weights (the seed is the name's place in the table)."""
    seed = list(ARCHITECTURES).index(name)
    torch.manual_seed(seed)
    module = ARCHITECTURES[name].build()
    randomise(module, torch.Generator().manual_seed(seed))
    return module.eval()


@torch.no_grad()
def randomise(module: nn.Module, random: torch.Generator) -> None:
    """He-scaled weights, biases that are not zero, norms and running statistics that do something."""

    def normal(t: Tensor, scale: float, mean: float = 0.0) -> None:
        t.copy_(torch.randn(t.shape, generator=random) * scale + mean)

    seen: set[int] = set()
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            if isinstance(part, nn.Embedding) or (p.dim() > 1 and name not in ("weight", "in_proj_weight")):
                normal(p, 0.5)
            elif p.dim() > 1:
                transposed = isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
                fan = p[0].numel() if not transposed else p.shape[0] * p[0, 0].numel() // 4
                fan = p.shape[0] if type(part).__name__ == "Conv1D" else fan
                normal(p, (1.6 / fan) ** 0.5)
            elif name == "weight" and not isinstance(part, nn.PReLU):
                normal(p, 0.2, 1.0)
            elif not isinstance(part, nn.PReLU):
                normal(p, 0.2)
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            normal(part.running_mean, 0.3)
            part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=random))


@functools.cache
def export(name: str, exporter: str, opset: int, dynamic: bool = True, rows: int = 2) -> onnx.ModelProto:
    """The network as `dynamo` or `torchscript` export it, with dynamic axes named or every size fixed."""
    architecture = ARCHITECTURES[name]
    return export_module(
        network(name), architecture.inputs(rows), architecture.names, exporter, opset,
        architecture.dynamic if dynamic else {}, limits={"length": 32} if architecture.text else {},
    )  # fmt: skip


def export_module(
    module: nn.Module, args: tuple[Tensor, ...], names: list[str], exporter: str, opset: int, axes: Axes,
    limits: dict[str, int] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """One export of a module; the same dynamic axes for all its inputs."""
    common = {"input_names": names, "output_names": ["z"], "opset_version": opset}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            dynamic = dict.fromkeys(names, axes) | {"z": {0: axes[0]}} if axes else None
            torch.onnx.export(module, args, buffer, dynamo=False, dynamic_axes=dynamic, **common)
        else:
            dims = {d: torch.export.Dim(d, max=(limits or {}).get(d)) for d in axes.values()}
            shapes = tuple({a: dims[d] for a, d in axes.items()} for _ in names) if axes else None
            program = torch.onnx.export(
                module, args, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **common
            )
            program.save(buffer, external_data=False)
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stdout and stderr, not even what C++ prints."""
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
