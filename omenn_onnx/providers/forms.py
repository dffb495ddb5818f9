"""Operators of the explanation in another form, equal to the last digits, for providers without a kernel for them.

A node that falls back to the CPU stops the device, and its tensors are copied there and back; every form here is a few
kernels on the device. Which operators need one is told by the kernel tables, and by what a provider refuses although
its table has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from omenn_onnx.graph.emit import Emitter, Form
from omenn_onnx.graph.ir import Shape, Tensor
from omenn_onnx.providers.kernels import Attributes, kernels_of, schema_of
from omenn_onnx.providers.winners import winners


def forms_of(provider: str, opset: int) -> dict[str, Form]:
    """The forms that a file of an opset needs on a provider."""
    kernels = kernels_of(provider)
    if kernels is None:
        return {}
    forms = dict(_OWN.get(provider, {}))
    for op, form in _FORMS.items():
        schema = schema_of(op, opset)
        if schema is not None and not kernels.has(op, schema.since_version, {"T": "float"}):
            forms[op] = form
    return forms


def refused(provider: str, op: str, attrs: Attributes, outputs: int) -> str:
    """Why a provider does not run a node although its table has the operator; nothing where it does."""
    if provider == "cuda" and op == "ConvTranspose" and _uneven(attrs):
        return "uneven padding"
    if provider == "webgpu" and op == "MaxPool" and outputs > 1:
        return "its Indices: fails when it runs"
    if provider == "webgpu" and op == "ConvTranspose" and len(attrs.get("kernel_shape", ())) > 2:
        return "three axes: fails when it runs"
    return ""


def _one(make: Callable[..., Tensor]) -> Form:
    """A form with one output, from the node's inputs alone."""

    def form(e: Emitter, inputs: Sequence[Tensor | None], attrs: Attributes, shape: Shape | None) -> list[Tensor]:
        return [make(e, *inputs)]

    return form


def _exponential(e: Emitter, x: Tensor) -> Tensor:
    """cosh(x) = h h / 2 + 1 / (2 h h) with h = exp(|x| / 2): it overflows where cosh does, not before."""
    h = e.op("Exp", e.op("Mul", e.op("Abs", x), np.asarray(0.5, x.dtype)))
    half = np.asarray(0.5, x.dtype)
    return e.op("Add", e.op("Mul", e.op("Mul", h, half), h), e.op("Div", e.op("Div", half, h), h))


def _sinh(e: Emitter, x: Tensor) -> Tensor:
    """tanh(x) cosh(x): the difference of two exponentials would lose the digits of a small x."""
    return e.op("Mul", e.op("Tanh", x), _exponential(e, x))


def _sign(e: Emitter, x: Tensor) -> Tensor:
    """[x > 0] - [x < 0]."""
    assert x.dtype is not None
    zero = np.asarray(0, x.dtype)
    return e.op("Sub", e.cast(e.op("Greater", x, zero), x.dtype), e.cast(e.op("Less", x, zero), x.dtype))


def _or(e: Emitter, a: Tensor, b: Tensor) -> Tensor:
    return e.op("Not", e.op("And", e.op("Not", a), e.op("Not", b)))


def _sum(e: Emitter, first: Tensor, *others: Tensor) -> Tensor:
    """Added one after the other; a sum of one tensor is a copy."""
    total = first
    for x in others:
        total = e.op("Add", total, x)
    return total if others else e.op("Identity", first)


_FORMS: dict[str, Form] = {
    "Cosh": _one(_exponential),
    "IsNaN": _one(lambda e, x: e.op("Not", e.op("Equal", x, x))),
    "MaxPool": winners,
    "Or": _one(_or),
    "Sign": _one(_sign),
    "Sinh": _one(_sinh),
    "Sum": _one(_sum),
}


def _uneven(attrs: Attributes) -> bool:
    """Whether a window's padding differs before and behind, or is left to the runtime."""
    pads = list(attrs.get("pads", ()))
    half = len(pads) // 2
    return pads[:half] != pads[half:] or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET")


def _even_padding(
    e: Emitter, inputs: Sequence[Tensor | None], attrs: Attributes, shape: Shape | None
) -> list[Tensor] | None:
    """CUDA's ConvTranspose takes equal padding before and behind only. The smaller of the two is kept; the rest is
    taken out of the output's extra size, or cut off."""
    if not _uneven(attrs):
        return None
    pads, extra = list(attrs["pads"]), list(attrs["output_padding"])
    n = len(pads) // 2
    even = [min(a, b) for a, b in zip(pads[:n], pads[n:], strict=True)]
    front = [a - m for a, m in zip(pads[:n], even, strict=True)]
    back = [b - m for b, m in zip(pads[n:], even, strict=True)]
    taken = [min(o, b) for o, b in zip(extra, back, strict=True)]
    behind = [b - t for b, t in zip(back, taken, strict=True)]
    changed = {"pads": even * 2, "output_padding": [o - t for o, t in zip(extra, taken, strict=True)]}
    cut = any(front) or any(behind)
    y = e.op("ConvTranspose", *inputs, **{**attrs, **changed}, shape=None if cut else shape)
    if not cut:
        return [y]
    far = np.iinfo(np.int64).max
    axes = [i for i in range(n) if front[i] or behind[i]]
    ends = [-behind[i] if behind[i] else far for i in axes]
    return [e.op("Slice", y, [front[i] for i in axes], ends, [i + 2 for i in axes], shape=shape)]


def _by_halves(op: str) -> Form:
    """WebGPU's kernels move 32-bit numbers alone: what is moved is what an int64 tensor was cast from."""

    def form(
        e: Emitter, inputs: Sequence[Tensor | None], attrs: Attributes, shape: Shape | None
    ) -> list[Tensor] | None:
        moved, *others = inputs
        maker = None if moved is None else moved.producer
        source = None if maker is None or maker.op != "Cast" else maker.inputs[0]
        if moved is None or moved.dtype != np.dtype(np.int64) or source is None or source.dtype != np.dtype(np.int32):
            return None
        return [e.cast(e.op(op, source, *others, **attrs, shape=shape), np.dtype(np.int64))]

    return form


def _choice_alone(
    e: Emitter, inputs: Sequence[Tensor | None], attrs: Attributes, shape: Shape | None
) -> list[Tensor] | None:
    """WebGPU cannot drop an axis of an int64 tensor, but ArgMax need not keep it."""
    index, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
    maker = None if index is None else index.producer
    if maker is None or maker.op != "ArgMax" or maker.domain or axes is None or axes.value is None:
        return None
    if maker.attrs.get("keepdims", 1) != 1 or list(axes.value) != [maker.attrs.get("axis", 0)]:
        return None
    return [e.op("ArgMax", *maker.inputs, **{**maker.attrs, "keepdims": 0}, shape=shape)]


_OWN: dict[str, dict[str, Form]] = {
    "cuda": {"ConvTranspose": _even_padding},
    "webgpu": {
        "Expand": _by_halves("Expand"),
        "MaxPool": winners,
        "Reshape": _by_halves("Reshape"),
        "Squeeze": _choice_alone,
    },
}
"""What a provider needs although its table has the operator."""
