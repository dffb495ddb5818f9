"""Explainer with the operators of its instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omenn_onnx.runtime import explainer as runtime
from omenn_onnx.runtime.sessions import Model, Providers

if TYPE_CHECKING:
    from omenn_onnx.spectral.instances import Linearization
    from omenn_onnx.spectral.operators import InstanceOperator


class Explainer(runtime.Explainer):
    __doc__ = runtime.Explainer.__doc__

    def __init__(self, model: Model, providers: Providers = None, **options: Any) -> None:
        super().__init__(model, providers, **options)
        self._model, self._providers = model, providers
        self._linearizations: dict[str, Linearization] = {}

    def operator(
        self, x: Any, source: str | None = None, target: str | None = None, *, rules: str = "tangent"
    ) -> InstanceOperator:
        """The model at ``x`` as a linear operator between two of its tensors:  target = R source + bias.

        ``x``: as for a call. ``source``, ``target``: names of tensors; default: the explained input and output.
        ``rules``: "tangent" (SpecXAI) or "secant" (OMENN), whatever the file was compiled with.
        Returns a scipy LinearOperator [elements of target, elements of source] with ``bias``, ``x`` and ``y``, all
        flat. Made from the model inside the compiled file; the graphs once, the coefficients once for each x.
        Raises FeedError, NameNotFound, NoPath.
        """
        from omenn_onnx.spectral.instances import Linearization

        if rules not in self._linearizations:
            self._linearizations[rules] = Linearization(self._model, rules=rules, providers=self._providers)
        return self._linearizations[rules].at(x).operator(source, target)
