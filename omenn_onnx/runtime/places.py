"""Inputs and outputs that keep their places from run to run: what a captured CUDA graph reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from omenn_onnx.errors import FeedError, OmennError
from omenn_onnx.runtime.sessions import runtime

if TYPE_CHECKING:
    from omenn_onnx.runtime.engines import TensorInfo


class Places:
    """A session bound once, to tensors on its device. Raises OmennError where the file leaves a size open."""

    def __init__(self, session: Any, device: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        for t in (*inputs, *outputs):
            if t.dtype in (None, np.object_) or t.dims is None or not all(isinstance(d, int) for d in t.dims):
                raise OmennError(
                    f"{t.name!r} is {t.type} {'?' if t.dims is None else list(t.dims)}: fixed places (and CUDA graphs) "
                    "need numbers of known size; export the model with fixed sizes and compile it again"
                )
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        self._inputs = {t.name: make(list(t.dims or ()), t.dtype, device, 0) for t in inputs}
        self._outputs = [make(list(t.dims or ()), t.dtype, device, 0) for t in outputs]
        self._session, self._binding = session, session.io_binding()
        for name, place in self._inputs.items():
            self._binding.bind_ortvalue_input(name, place)
        for t, place in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(t.name, place)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs, copied to the host, for inputs that are copied to their places."""
        for name, value in feeds.items():
            if name not in self._inputs:
                raise FeedError(f"{name!r} keeps its default where inputs have fixed places")
            array = value if hasattr(value, "dtype") else value.numpy()
            self._inputs[name].update_inplace(np.asarray(array, order="C"))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return [np.array(place.numpy()) for place in self._outputs]
