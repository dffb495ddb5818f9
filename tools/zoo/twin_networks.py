"""The same networks, with the same weights, by Keras and tf2onnx and by PyTorch: other layouts, other operators.

Weights are drawn here from a seed, as Keras lays them out: kernels [..., in, out].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo.entry import Array, Network, Sample

Weights = list[Array]
SHAPES: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {
    # the input's shape, then those of the weights in Keras' order
    "cnn": (
        (9, 8, 3),
        [
            (3, 3, 3, 6),
            (6,),
            (6,),
            (6,),
            (6,),
            (6,),
            (3, 3, 6, 1),
            (6,),
            (1, 1, 6, 8),
            (8,),
            (2, 2, 4, 8),
            (4,),
            (80, 4),
            (4,),
        ],
    ),
    "lstm": ((5, 3), [(3, 16), (4, 16), (16,), (4, 3), (3,)]),
    "gru": ((5, 3), [(3, 12), (4, 12), (2, 12), (4, 3), (3,)]),
    "transformer": (
        (5, 8),
        [
            (8,),
            (8,),
            (8, 2, 4),
            (2, 4),
            (8, 2, 4),
            (2, 4),
            (8, 2, 4),
            (2, 4),
            (2, 4, 8),
            (8,),
            (8,),
            (8,),
            (8, 16),
            (16,),
            (16, 8),
            (8,),
            (8, 3),
            (3,),
        ],
    ),
}


def drawn(name: str) -> tuple[Array, Weights]:
    """Two rows of input, and the weights; those at place 5 of the convolutional network are a variance."""
    shape, shapes = SHAPES[name]
    rng = np.random.default_rng(len(name))
    weights = [rng.normal(0, 0.4, s).astype(np.float32) for s in shapes]
    if name == "cnn":
        weights[5] = np.abs(weights[5]) + 0.5
    return rng.normal(size=(2, *shape)).astype(np.float32), weights


# ---------------------------------------------------------------------------------------------- Keras


def keras_model(name: str) -> Any:
    import keras
    from keras import layers as L

    x = keras.Input(SHAPES[name][0], name="x")
    if name == "cnn":
        h = L.BatchNormalization(epsilon=1e-3)(L.Conv2D(6, 3, 2, "same")(x))
        h = L.DepthwiseConv2D(3, padding="same", activation="swish")(h)
        h = L.MaxPooling2D(2, 1)(L.Conv2D(8, 1, activation="relu")(h))
        h = L.Conv2DTranspose(4, 2, activation="gelu")(h)
        return keras.Model(x, L.Dense(4)(L.Flatten()(h)))
    if name == "transformer":
        n = L.LayerNormalization(epsilon=1e-3)(x)
        h = x + L.MultiHeadAttention(2, 4)(n, n)
        h = h + L.Dense(8)(L.Dense(16, "relu")(L.LayerNormalization(epsilon=1e-3)(h)))
        return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(h)))
    return keras.Model(x, L.Dense(3)({"lstm": L.LSTM, "gru": L.GRU}[name](4)(x)))


def build_keras(path: Path, name: str) -> Sample:
    from zoo.keras_networks import export_tf2onnx, said

    x, weights = drawn(name)
    model = keras_model(name)
    model.set_weights(weights)
    gradients, _ = said(model, {"x": x}, "argmax")
    export_tf2onnx(model, path, 15, False)
    return Sample({"x": x}, gradients)


# ---------------------------------------------------------------------------------------------- PyTorch


def torch_cnn(w: Weights) -> Callable[[Any], Any]:
    import torch
    import torch.nn.functional as F

    t = [torch.from_numpy(a) for a in w]
    kernel = [t[0], t[6], t[8], t[10]]
    first, depthwise, point = (k.permute(3, 2, 0, 1) for k in kernel[:3])
    up = kernel[3].permute(3, 2, 0, 1)
    dense = t[12].reshape(5, 4, 4, 4).permute(2, 0, 1, 3).reshape(80, 4)  # rows in the order of [C, H, W]

    def f(x: Any) -> Any:
        h = F.conv2d(F.pad(x, (0, 1, 1, 1)), first, t[1], stride=2)  # SAME: 9 rows, 8 columns
        h = F.batch_norm(h, t[4], t[5], t[2], t[3], eps=1e-3)
        h = F.silu(F.conv2d(h, depthwise.permute(1, 0, 2, 3), t[7], padding=1, groups=6))
        h = F.max_pool2d(F.relu(F.conv2d(h, point, t[9])), 2, 1)
        h = F.gelu(F.conv_transpose2d(h, up, t[11]))
        return h.flatten(1) @ dense + t[13]

    return f


def torch_recurrent(name: str, w: Weights) -> Callable[[Any], Any]:
    import torch

    parts = 4 if name == "lstm" else 3
    order = [0, 1, 2, 3] if name == "lstm" else [1, 0, 2]  # Keras: update, reset; PyTorch: reset, update
    rows = np.concatenate([np.arange(4) + 4 * k for k in order])
    biases = w[2] if name == "gru" else np.stack([w[2], 0 * w[2]])
    net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](3, 4, batch_first=True)
    given = (w[0].T[rows], w[1].T[rows], biases[0][rows], biases[1][rows])
    assert given[0].shape[0] == 4 * parts
    with torch.no_grad():
        for p, value in zip(net.parameters(), given, strict=True):
            p.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    head, bias = torch.from_numpy(w[3]), torch.from_numpy(w[4])

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(x)[0][:, -1] @ head + bias

    return Net()


def torch_transformer(w: Weights) -> Callable[[Any], Any]:
    import torch
    import torch.nn.functional as F

    t = [torch.from_numpy(a) for a in w]

    def f(x: Any) -> Any:
        n = F.layer_norm(x, (8,), t[0], t[1], 1e-3)
        q, k, v = (
            (n @ t[i].reshape(8, 8) + t[i + 1].reshape(8)).reshape(-1, 5, 2, 4).transpose(1, 2) for i in (2, 4, 6)
        )
        h = torch.softmax(q @ k.transpose(2, 3) / 2.0, -1) @ v
        h = x + (h.transpose(1, 2).reshape(-1, 5, 8) @ t[8].reshape(8, 8) + t[9])
        n = F.layer_norm(h, (8,), t[10], t[11], 1e-3)
        h = h + (F.relu(n @ t[12] + t[13]) @ t[14] + t[15])
        return h.mean(1) @ t[16] + t[17]

    return f


def build_torch(path: Path, name: str) -> Sample:
    import torch

    x, weights = drawn(name)
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if name == "cnn" else x
    makers = {"cnn": torch_cnn, "transformer": torch_transformer}
    f = makers[name](weights) if name in makers else torch_recurrent(name, weights)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = f

        def forward(self, x: Any) -> Any:
            return self.f(x)

    given = torch.from_numpy(x)
    net = Net().eval()
    torch.onnx.export(
        net, (given,), str(path), opset_version=17, dynamo=False, input_names=["x"], output_names=["z"],
        dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    leaf = given.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf).max(dim=1).values.sum(), leaf)
    return Sample({"x": x}, [gradient.numpy()], {"z": net(given).detach().numpy()})


ACCEPTED = {"gru": {"C_b": (1.0, "an unrolled against a fused RNN")}}


def table() -> list[Network]:
    found: list[Network] = []
    for name in SHAPES:
        kind = "image" if name == "cnn" else "sequence"
        by_keras, by_torch = f"twin-{name}-keras", f"twin-{name}-torch"
        needs = ("tensorflow", "keras", "tf2onnx")
        found.append(Network(by_keras, kind, "keras, tf2onnx 15", functools.partial(build_keras, name=name), needs))
        layout = (0, 2, 3, 1) if name == "cnn" else ()
        made = functools.partial(build_torch, name=name)
        found.append(
            Network(by_torch, kind, "torchscript 17", made, ("torch",), twin=by_keras, layout=layout,
                    accepted=ACCEPTED.get(name, {}))
        )  # fmt: skip
    return found


NETWORKS = table()
