"""Networks from images to dense outputs, to images and to boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_module import conv, mlp, module, parameter, unit


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear")


def fcn() -> nn.Module:
    """Fully convolutional: classifiers at two scales added, enlarged at once."""
    return module(
        lambda m, x: resize(m.near(a := m.a(x)) + F.interpolate(m.far(m.b(a)), scale_factor=2.0), x),
        a=unit(3, 8, stride=2), b=unit(8, 12, stride=2), near=conv(8, 4, 1), far=conv(12, 4, 1),
    )  # fmt: skip


def unet() -> nn.Module:
    """Skips concatenated, bilinear upsampling with corners aligned."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(F.max_pool2d(a, 2))
        c = m.c(F.max_pool2d(b, 2))
        b = m.d(torch.cat([m.up(c), b], 1))
        return m.head(m.e(torch.cat([m.up(b), a], 1)))

    return module(
        forward, a=unit(3, 6), b=unit(6, 8), c=unit(8, 8), d=unit(16, 8), e=unit(14, 6), head=conv(6, 3, 1),
        up=nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    )  # fmt: skip


def deeplab() -> nn.Module:
    """Atrous spatial pyramid pooling: dilated branches and an image-wide one; a low-level skip."""

    def forward(m: Any, x: Tensor) -> Tensor:
        low = m.low(x)
        h = m.high(low)
        parts = [b(h) for b in m.branches] + [m.image(h.mean((2, 3), keepdim=True)).expand(-1, -1, *h.shape[2:])]
        h = resize(m.merge(torch.cat(parts, 1)), low)
        return resize(m.head(torch.cat([h, m.reduce(low)], 1)), x)

    return module(
        forward, low=unit(3, 8, stride=2), high=unit(8, 12, stride=2), reduce=conv(8, 4, 1),
        branches=nn.ModuleList([unit(12, 6, 1), unit(12, 6, dilation=2), unit(12, 6, dilation=3)]),
        image=nn.Sequential(conv(12, 6, 1), nn.ReLU()), merge=unit(24, 8, 1), head=conv(12, 4),
    )  # fmt: skip


def pspnet() -> nn.Module:
    """Pyramid pooling by adaptive averages of several sizes."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        parts = [resize(c(F.adaptive_avg_pool2d(h, s)), h) for c, s in zip(m.convs, (1, 2, 4), strict=True)]
        return resize(m.head(torch.cat([h, *parts], 1)), x)

    return module(
        forward, stem=unit(3, 8, stride=2), convs=nn.ModuleList(unit(8, 3, 1) for _ in range(3)), head=conv(17, 4, 1)
    )


def hourglass() -> nn.Module:
    """Heatmaps, and keypoints as their expectation (soft argmax)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(F.max_pool2d(a, 2))
        heat = m.head(a + F.interpolate(b, scale_factor=2.0, mode="nearest"))
        p = heat.flatten(2).softmax(-1)
        return p @ m.grid

    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
    grid = torch.stack([xs, ys], -1).reshape(-1, 2)
    return module(forward, a=unit(3, 6), b=unit(6, 6), head=conv(6, 4, 1), grid=grid)


def yolo(decode: bool = True) -> nn.Module:
    """Two anchors at two scales: sigmoid offsets on a grid, exponential sizes, objectness, classes."""

    def scale(h: Tensor, anchors: Tensor, stride: int) -> Tensor:
        n, _, rows, columns = h.shape
        t = h.reshape(n, 2, 8, rows, columns).permute(0, 1, 3, 4, 2)
        ys, xs = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grid = torch.stack([xs, ys], -1).float()
        centre = (t[..., :2].sigmoid() * 2 - 0.5 + grid) * stride
        size = (t[..., 2:4] * 0.3).exp() * anchors[:, None, None, :]
        return torch.cat([centre, size, t[..., 4:].sigmoid()], -1).reshape(n, -1, 8)

    def forward(m: Any, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(a)
        a = m.merge(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1))
        heads = [m.near(a), m.far(b)]
        if not decode:
            return torch.cat([h.flatten(2).transpose(1, 2) for h in heads], 1)
        return torch.cat([scale(h, m.anchors[i], 4 * 2**i) for i, h in enumerate(heads)], 1)

    def block(a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(conv(a, b, stride=stride), nn.BatchNorm2d(b), nn.SiLU())

    return module(
        forward, a=nn.Sequential(block(3, 8, 2), block(8, 8, 2)), b=block(8, 12, 2), merge=block(20, 8, 1),
        near=conv(8, 16, 1), far=conv(12, 16, 1), anchors=torch.tensor([[[4.0, 6], [8, 5]], [[12, 9], [10, 14]]]),
    )  # fmt: skip


def retinanet() -> nn.Module:
    """A feature pyramid with heads shared by its levels: classes, and box offsets as a second output."""

    def flat(h: Tensor, width: int) -> Tensor:
        return h.reshape(h.shape[0], -1, width, *h.shape[2:]).permute(0, 3, 4, 1, 2).reshape(h.shape[0], -1, width)

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        c = [m.a(x)]
        c.append(m.b(c[0]))
        top = m.lateral[1](c[1])
        pyramid = [m.lateral[0](c[0]) + F.interpolate(top, scale_factor=2.0), top]
        classes = torch.cat([flat(m.classes(p), 3) for p in pyramid], 1)
        return classes, torch.cat([flat(m.boxes(p), 4) for p in pyramid], 1)

    lateral = nn.ModuleList([conv(8, 8, 1), conv(12, 8, 1)])
    return module(
        forward, a=nn.Sequential(unit(3, 8, stride=2), unit(8, 8, stride=2)), b=unit(8, 12, stride=2), lateral=lateral,
        classes=nn.Sequential(conv(8, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6)), boxes=conv(8, 8),
    )  # fmt: skip


def nms() -> nn.Module:
    """A detector whose file ends in NonMaxSuppression and the gathering of what it keeps."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        t = m.head(m.a(x)).flatten(2)
        centre, size = t[:, :2].sigmoid(), (t[:, 2:4] * 0.2).exp() * 0.2
        return torch.cat([centre - size, centre + size], 1).transpose(1, 2), t[:, 4:].sigmoid()

    def finish(model: ModelProto) -> ModelProto:
        graph = model.graph
        boxes, scores = (o.name for o in graph.output)
        for name, value in (("most", np.int64(3)), ("overlap", np.float32(0.5)), ("least", np.float32(0.1))):
            graph.initializer.append(numpy_helper.from_array(np.asarray([value]), name))
        graph.initializer.append(numpy_helper.from_array(np.asarray([0, 2], np.int64), "row_and_box"))
        graph.node.extend([
            helper.make_node("NonMaxSuppression", [boxes, scores, "most", "overlap", "least"], ["kept"]),
            helper.make_node("Gather", ["kept", "row_and_box"], ["where"], axis=1),
            helper.make_node("GatherND", [boxes, "where"], ["kept_boxes"]),
        ])  # fmt: skip
        kept = helper.make_tensor_value_info("kept_boxes", TensorProto.FLOAT, ["kept", 4])
        index = helper.make_tensor_value_info("kept", TensorProto.INT64, ["kept", 3])
        own = [graph.output[1], index, kept]
        del graph.output[:]
        graph.output.extend(own)
        return model

    return module(
        forward, a=nn.Sequential(unit(3, 8, stride=2), unit(8, 8, stride=2)), head=conv(8, 7, 1), finish=finish
    )


def detr() -> nn.Module:
    """Learned queries decoded against encoded image positions: classes, and boxes as a second output."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.a(x).flatten(2).transpose(1, 2) + m.places
        h = m.decoder(m.queries.expand(x.shape[0], -1, -1), m.encoder(h))
        return m.classes(h), m.boxes(h).sigmoid()

    options = {"batch_first": True, "dropout": 0.0}
    return module(
        forward, a=nn.Sequential(unit(3, 8, stride=2), unit(8, 16, stride=2)), places=parameter(1, 16, 16),
        queries=parameter(1, 5, 16), encoder=nn.TransformerEncoderLayer(16, 2, 24, **options),
        decoder=nn.TransformerDecoderLayer(16, 2, 24, **options), classes=nn.Linear(16, 4), boxes=mlp(16, 16, 4),
    )  # fmt: skip


def yolact() -> nn.Module:
    """Instance masks: prototypes times coefficients per instance, both from the image."""
    return module(
        lambda m, x: torch.einsum(
            "nkp,nphw->nkhw", m.weights(h := m.a(x)).mean((2, 3)).reshape(-1, 3, 4).tanh(), m.maps(h)
        ),
        a=unit(3, 8, stride=2),
        weights=conv(8, 12, 1),
        maps=nn.Sequential(conv(8, 4), nn.ReLU()),
    )


def super_resolution() -> nn.Module:
    """Sub-pixel convolution; the image enlarged bicubically is added."""
    return module(
        lambda m, x: m.shuffle(m.net(x)) + F.interpolate(x, scale_factor=2, mode="bicubic"),
        net=nn.Sequential(conv(3, 8, 5), nn.Tanh(), conv(8, 12)), shuffle=nn.PixelShuffle(2),
    )  # fmt: skip


def residual_denoiser() -> nn.Module:
    """Pixels unshuffled, residual blocks with scaled branches, noise subtracted, clamped to the range."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.head(F.pixel_unshuffle(x, 2))
        for block in m.blocks:
            h = h + 0.3 * block(h)
        return (x - F.pixel_shuffle(m.tail(h), 2)).clamp(-2, 2)

    blocks = nn.ModuleList(nn.Sequential(conv(8, 8), nn.PReLU(8), conv(8, 8)) for _ in range(2))
    return module(forward, head=conv(12, 8), blocks=blocks, tail=conv(8, 12))


def style() -> nn.Module:
    """Style transfer: reflection padding, InstanceNorm, nearest upsampling, tanh."""

    def block(a: int, b: int, stride: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(a, b, 3, stride)
        return nn.Sequential(nn.ReflectionPad2d(1), layer, nn.InstanceNorm2d(b, affine=True), nn.ReLU())

    layers = (block(3, 6), block(6, 8, 2), block(8, 8), nn.Upsample(scale_factor=2), block(8, 6), conv(6, 3), nn.Tanh())
    return nn.Sequential(*layers)


def generator() -> nn.Module:
    """A code to an image: transposed convolutions, BatchNorm, tanh."""
    return module(
        lambda m, x: m.up(m.start(x).reshape(-1, 8, 3, 3)),
        start=nn.Linear(10, 72),
        up=nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(6, 3, 3, 2, 1, output_padding=1), nn.Tanh(),
        ),
    )  # fmt: skip


def vae_encoder() -> nn.Module:
    """The mean of the code; the logarithm of its variance is a second output."""
    return module(
        lambda m, x: (m.mean(h := m.net(x)), m.variance(h)),
        net=nn.Sequential(conv(1, 6, stride=2), nn.ELU(), conv(6, 8, stride=2), nn.ELU(), nn.Flatten()),
        mean=nn.Linear(128, 5), variance=nn.Linear(128, 5),
    )  # fmt: skip


def vae() -> nn.Module:
    """An autoencoder whose noise is an input that is not explained: mean + noise exp(half the log variance)."""
    return module(
        lambda m, x, noise: m.decode(m.mean(h := m.encode(x)) + noise * (0.5 * m.variance(h)).exp()),
        encode=mlp(12, 16), mean=nn.Linear(16, 4), variance=nn.Linear(16, 4), decode=mlp(4, 16, 12),
    )  # fmt: skip


def vq_autoencoder() -> nn.Module:
    """A codebook: the nearest code by its distance, and half of the code itself, decoded."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.encode(x).flatten(2).transpose(1, 2)
        nearest = ((h[:, :, None] - m.codes) ** 2).sum(-1).argmin(-1)
        h = 0.5 * h + 0.5 * m.codes[nearest]
        return m.decode(h.transpose(1, 2).reshape(x.shape[0], 6, 4, 4))

    return module(forward, encode=conv(1, 6, stride=2), codes=parameter(9, 6), decode=nn.ConvTranspose2d(6, 1, 4, 2, 1))


def diffusion() -> nn.Module:
    """A denoiser's U-Net: a sinusoidal code of the time scales and shifts; attention in the middle."""

    def modulate(m: Any, norm: nn.Module, h: Tensor, code: Tensor) -> Tensor:
        scale, shift = m.film(code)[:, :, None, None].chunk(2, 1)
        return F.silu(norm(h) * (1 + scale) + shift)

    def forward(m: Any, x: Tensor, time: Tensor) -> Tensor:
        angles = time * torch.exp(-torch.arange(4) * 1.5)
        code = m.time(torch.cat([angles.sin(), angles.cos()], -1))
        a = modulate(m, m.norms[0], m.head(x), code)
        b = modulate(m, m.norms[1], m.down(a), code)
        q, k, v = m.qkv(b).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(b.shape)
        return m.tail(torch.cat([a, F.interpolate(b + mixed, scale_factor=2.0)], 1))

    return module(
        forward, head=conv(3, 8), down=conv(8, 8, stride=2), time=mlp(8, 16, 16, act=nn.SiLU), film=nn.Linear(16, 16),
        norms=nn.ModuleList([nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)]), qkv=conv(8, 24, 1), tail=conv(16, 3),
    )  # fmt: skip


def spatial_transformer() -> nn.Module:
    """The image is resampled on a grid that a small network chooses."""

    def forward(m: Any, x: Tensor) -> Tensor:
        theta = (m.place(x) * 0.1 + m.identity).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return m.net(F.grid_sample(x, grid, align_corners=False))

    return module(
        forward,
        place=nn.Sequential(conv(1, 4, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)),
        identity=torch.tensor([1.0, 0, 0, 0, 1, 0]),
        net=nn.Sequential(unit(1, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)),
    )


def optical_flow() -> nn.Module:
    """Two frames: the second is warped by a flow from both; the residual is the output."""

    def forward(m: Any, a: Tensor, b: Tensor) -> Tensor:
        flow = 0.2 * m.flow(torch.cat([a, b], 1)).permute(0, 2, 3, 1)
        return m.refine(torch.cat([a, F.grid_sample(b, m.grid + flow, padding_mode="border", align_corners=True)], 1))

    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    flow = nn.Sequential(conv(4, 6), nn.Tanh(), conv(6, 2))
    return module(forward, flow=flow, refine=conv(4, 2), grid=torch.stack([xs, ys], -1)[None])


def cost_volume() -> nn.Module:
    """Stereo: correlation over shifts, and the disparity as an expectation over them."""

    def forward(m: Any, left: Tensor, right: Tensor) -> Tensor:
        a, b = m.features(left), m.features(right)
        shifted = [F.pad(b, (s, 0))[..., : b.shape[-1]] for s in range(4)]
        cost = torch.stack([(a * s).mean(1) for s in shifted], 1)
        return (m.aggregate(cost).softmax(1) * m.shifts).sum(1)

    shifts = torch.arange(4.0).reshape(4, 1, 1)
    return module(forward, features=unit(1, 6), aggregate=conv(4, 4), shifts=shifts)


def uint8_image() -> nn.Module:
    """Bytes, rows by columns by channels: cast, scaled, standardised, resized, transposed inside the graph."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = (x.float() / 255.0 - m.mean) / m.deviation
        h = F.interpolate(h.permute(0, 3, 1, 2), (8, 8), mode="bilinear")
        return m.net(h)

    net = nn.Sequential(unit(3, 8), nn.MaxPool2d(2), unit(8, 8), nn.Flatten(), nn.Linear(128, 5))
    return module(forward, mean=torch.tensor([0.48, 0.45, 0.41]), deviation=torch.tensor([0.23, 0.22, 0.22]), net=net)


def bgr_image() -> nn.Module:
    """Bytes with channels first: cropped, channels turned round, brought to -1 .. 1."""
    net = nn.Sequential(unit(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return module(lambda m, x: m.net(x[:, :, 1:9, 1:9].flip(1).float() * (2 / 255) - 1), net=net)


def greyscale() -> nn.Module:
    """Colours weighted to grey, a fixed edge filter, thresholded by a steep sigmoid."""
    kernel = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])
    return module(
        lambda m, x: m.net(torch.sigmoid(4 * F.conv2d((x * m.luma).sum(1, keepdim=True), m.kernel, padding=1).abs())),
        luma=torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1),
        kernel=kernel,
        net=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    )


def crnn() -> nn.Module:
    """Text lines: convolutions, columns as steps of a bidirectional LSTM, log probabilities of each step."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.net(x)
        h, _ = m.lstm(h.permute(0, 3, 1, 2).flatten(2))
        return m.head(h).log_softmax(-1)

    net = nn.Sequential(unit(1, 6), nn.MaxPool2d(2), unit(6, 8), nn.MaxPool2d((2, 1)))
    return module(forward, net=net, lstm=nn.LSTM(16, 8, batch_first=True, bidirectional=True), head=nn.Linear(16, 6))


def captioner() -> nn.Module:
    """An image's features open the state of a GRU over given words; logits of each word."""

    def forward(m: Any, x: Tensor, words: Tensor) -> Tensor:
        h, _ = m.gru(m.words(words), m.net(x)[None].tanh())
        return m.head(h)

    net = nn.Sequential(unit(1, 6, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8))
    return module(
        forward, net=net, words=nn.Embedding(20, 6), gru=nn.GRU(6, 8, batch_first=True), head=nn.Linear(8, 20)
    )
