"""JAX networks by jax2onnx. The table needs no JAX; the builder does: jax_models.py."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from zoo.entry import Network, Sample

NEEDS = ("jax", "flax", "equinox", "jax2onnx")
TOKENS = 20


def build(path: Path, name: str, opset: int, target: str) -> Sample:
    """Write the model with a free batch size; the gradient by jax.grad, at the embedding of token ids none."""
    import jax
    import onnx
    from jax2onnx import to_onnx

    from zoo.jax_models import MODELS

    shapes, make = MODELS[name]
    f = make()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    xs, declared = [], []
    for shape in shapes:
        if shape[0] == "ids":
            xs.append(rng.integers(0, TOKENS, (2, *shape[1:])).astype(np.int32))
            declared.append(jax.ShapeDtypeStruct((2, *shape[1:]), np.int32))
        else:
            xs.append(rng.normal(size=(2, *shape)).astype(np.float32))
            declared.append((2, *shape) if name in FIXED else ("B", *shape))
    proto = to_onnx(f, declared, model_name=name, opset=opset)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    named = [i.name for i in proto.graph.input]
    outputs = {proto.graph.output[0].name: np.asarray(f(*xs))}
    gradients: list[Any] = []
    if xs[0].dtype.kind == "f":
        derivative = jax.jacfwd if name in FORWARD else jax.grad
        gradients = list(derivative(lambda *a: score(f(*a), target), tuple(range(len(xs))))(*xs))
    return Sample(dict(zip(named, xs, strict=True)), [np.asarray(g) for g in gradients], outputs)


def score(z: Any, target: str) -> Any:
    """The sum over rows of what ``target`` asks for."""
    if target.startswith("class:"):
        return z[..., int(target[6:])].sum()
    flat = z.reshape(z.shape[0], -1)
    return flat.max(1).sum() if target == "argmax" else flat[:, int(target)].sum()


FIXED = ("gpt", "loops", "unet")
"""Exported with a batch of two."""

FORWARD = ("loops",)
"""Differentiated forwards: JAX has no reverse mode for while_loop."""

TABLE = (
    # kind, networks, target
    ("image", "resnet mobile vit eqx_cnn", "argmax"),
    ("autoencoder", "autoencoder", "37"),
    ("dense output", "unet", "class:1"),
    ("language model", "gpt", "last"),
    ("table", "mlp eqx_mlp", "argmax"),
    ("signal", "linen_cnn", "argmax"),
    ("sequence", "linen_transformer eqx_attention rotary_attention nnx_recurrent eqx_gru scan", "argmax"),
    ("function", "loops einsums activations elementwise reductions moves", "argmax"),
)
CHANNELS_SAID = {"einsums": {"channel_axis": {"in_1": 2}}}
"""Both axes are contracted: which one holds channels is the user's to say."""
AGAIN = {"resnet": 21, "vit": 18, "mlp": 18, "activations": 21, "scan": 20, "linen_transformer": 24}
"""Once more, at another opset."""


def table() -> list[Network]:
    found: list[Network] = []
    for kind, names, target in TABLE:
        for name in names.split():
            for opset in (23, AGAIN.get(name, 0)):
                if opset:
                    found.append(
                        Network(
                            name=f"jax-{name}-{opset}",
                            kind=kind,
                            exporter=f"jax2onnx {opset}",
                            build=functools.partial(build, name=name, opset=opset, target=target),
                            needs=NEEDS,
                            options={"target": target} | CHANNELS_SAID.get(name, {}),
                            twin="" if opset == 23 else f"jax-{name}-23",
                        )
                    )
    return found


NETWORKS = table()
