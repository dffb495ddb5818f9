"""One kind of layer at a time: modules_layers.py by the PyTorch exporters."""

from __future__ import annotations

import functools
from typing import Any

from zoo.entry import Network
from zoo.torch_build import BOTH, Input, networks_of, normal

entry = functools.partial(networks_of, "layers")
ROW, PLANE = normal(6), normal(2, 9, 9)
LERP = {"C_b": (0.2, "a Resize written out by the exporter: a + (b - a) w is a sum, whose ones are a mean")}
UNROLLED = {"C_b": (0.2, "an unrolled against a fused RNN")}
DYNAMO, SCRIPT = ("dynamo 20",), ("torchscript 17",)
ACTIVATIONS = (
    "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU6 SELU SiLU "
    "Softplus Softshrink Softsign Tanhshrink Softmin:-1 Softmax:-1 LogSoftmax:-1 GELU:tanh"
).split()
FUNCTIONS = "exp log sqrt rsqrt reciprocal sin cos tan atan log1p erf square log2 sigmoid".split()
NEWER = "asinh acosh sinh cosh expm1 exp2".split()


def number(text: str) -> Any:
    """An argument in a table: a number, True, False, or a word."""
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def each(
    function: str,
    kind: str,
    inputs: Input,
    *calls: str,
    exporters: tuple[str, ...] = DYNAMO,
    head: str = "",
    **fields: Any,
) -> list[Network]:
    """One network for each call, an argument list as words between colons."""
    return [
        n
        for call in calls
        for n in entry(
            f"{head or function}-{call}".replace(":", "-").replace(".", "").replace("--", "-minus-").lower(),
            kind,
            inputs,
            exporters,
            module=function,
            args=tuple(number(a) for a in call.split(":")),
            **fields,
        )
    ]


def einsums(function: str, *calls: tuple[Any, ...]) -> list[Network]:
    """One network for each equation with the shapes of its constant operands."""
    made = enumerate(calls)
    return [
        n
        for i, c in made
        for n in entry(f"{function}-{i}".replace("_", "-"), "einsum", normal(3, 4), BOTH, module=function, args=c)
    ]


NETWORKS: list[Network] = [
    *each("activation", "activation", ROW, *ACTIVATIONS[::2], head="act", exporters=BOTH),
    *each("activation", "activation", ROW, *ACTIVATIONS[1::2], head="act"),
    *each("activation", "activation", ROW, "RReLU", head="act", exporters=SCRIPT),
    *each("activation", "activation", ROW, "Threshold:0.1:0.3", head="act"),
    *each("function", "activation", ROW, *FUNCTIONS, head="fun", exporters=SCRIPT),
    *each("function", "activation", ROW, *NEWER, head="fun"),
    *each(
        "pooling",
        "pooling",
        PLANE,
        "LPPool2d:2:3:2",
        "AdaptiveAvgPool2d:1",
        "AdaptiveAvgPool2d:3",
        "AdaptiveMaxPool2d:1",
        head="pool",
        exporters=BOTH,
    ),
    *each(
        "average_pooling",
        "pooling",
        PLANE,
        "2:1:True:True",
        "2:1:True:False",
        "3:0:True:True",
        "2:1:False:False",
        head="average",
        exporters=BOTH,
    ),
    *each("max_pooling", "pooling", PLANE, "2:1:1:True", "1:1:2:False", "3:0:1:True", head="max", exporters=BOTH),
    *entry("unpooling", "pooling", normal(1, 8, 8), BOTH, options={"target": "class:1"}),
    *each(
        "padded", "padding", normal(2, 7, 7), "reflect", "replicate", "circular", "zeros", head="padded", exporters=BOTH
    ),
    *each(
        "pad_layer",
        "padding",
        normal(2, 7, 7),
        "ReflectionPad2d:2",
        "ReplicationPad2d:2",
        "ConstantPad2d:1:0.7",
        "ZeroPad2d:-1",
        "CircularPad2d:2",
        head="pad",
    ),
    *each(
        "transposed",
        "transposed convolution",
        normal(2, 5, 5),
        "2:1:1:1:True:1",
        "3:0:0:2:False:1",
        "2:2:1:4:True:2",
        "1:0:0:1:True:2",
        head="transposed",
        exporters=BOTH,
        options={"target": "17"},
    ),
    *each("convolved", "convolution", normal(4, 9), "1:1:2:1", "1:8:1:2", head="convolved"),
    *each("convolved", "convolution", normal(4, 6, 6), "2:2:2:2", "2:4:1:1", head="convolved"),
    *each("convolved", "convolution", normal(4, 4, 4, 4), "3:2:2:1", head="convolved"),
    *each(
        "resized",
        "resizing",
        normal(2, 6, 6),
        "nearest:2.0:None",
        "nearest:0.5:None",
        "bilinear:1.5:True",
        "bilinear:2.0:False",
        "bilinear:0.5:False",
        "bicubic:2.0:False",
        "bicubic:0.5:True",
        head="resized",
        exporters=BOTH,
        options={"target": "class:1"},
    ),
    *each(
        "resized",
        "resizing",
        normal(2, 6, 6),
        "nearest-exact:2.0:None",
        "area:0.5:None",
        head="resized",
        options={"target": "class:1"},
    ),
    *each(
        "resized",
        "resizing",
        normal(2, 8, 8),
        "bilinear:0.5:False:True",
        "bicubic:0.5:False:True",
        head="antialias",
        options={"target": "class:1"},
    ),
    *each("resized_line", "resizing", normal(2, 9), "linear:2.0:False", head="resized", exporters=BOTH, accepted=LERP),
    *each(
        "normalised",
        "norm",
        normal(2, 6, 6),
        "BatchNorm2d:6",
        "GroupNorm:3:6",
        "InstanceNorm2d:6",
        "LocalResponseNorm:3",
        head="norm",
        exporters=BOTH,
    ),
    *each("reparametrised", "norm", ROW, "weight_norm", "spectral_norm", head="norm"),
    *entry("standardised", "norm", normal(2, 6, 6), BOTH),
    *each(
        "recurrent",
        "recurrent",
        normal(5, 4),
        "LSTM:1:False",
        "LSTM:2:True",
        "GRU:1:True",
        "GRU:2:False",
        head="torch",
        exporters=BOTH,
    ),
    *each("recurrent", "recurrent", normal(5, 4), "RNN:1:False", head="torch", exporters=BOTH, accepted=UNROLLED),
    *entry("projected-lstm", "recurrent", normal(4, 4), BOTH),
    *einsums(
        "einsum", ("nij,jk->nik", (4, 3)), ("nij,kj->nki", (3, 4)), ("n...j,j->n...", (4,)), ("nij,ijk->nk", (3, 4, 2))
    ),
    *einsums("einsum_self", ("nid,njd->nij",), ("nid,nje->nde",), ("nij,nij->n",), ("nij,nik->njk",)),
    *entry("einsum-diagonal", "einsum", normal(4, 4), BOTH, module="einsum", args=("nii->ni",)),
    *entry("reductions", "reductions", normal(5, 4), BOTH),
    *entry("moves", "shape operators", normal(6, 4), BOTH),
    *entry("folded", "shape operators", normal(2, 6, 6), ("dynamo 20", "torchscript 18"), options={"target": "50"}),
    *entry(
        "scripted-loop", "control flow", (normal(4), Input((), "steps", alone=True)), SCRIPT, batch=False, quick=True
    ),
    *entry("scripted-steps", "control flow", normal(4, 3), SCRIPT),
    *entry("scanned", "control flow", normal(4, 4), DYNAMO, batch=False),
    *entry("branch", "control flow", normal(4), DYNAMO, batch=False),
    *entry("half", "half precision", ROW, BOTH, bar=5e-3),
    *entry("dense-block", "image", normal(2, 8, 8), BOTH),
]
