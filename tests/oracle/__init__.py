"""An independent dense oracle of the dynamic-linear calculus (semantics.md), in float64 numpy, for tests only.

    explain(model, feeds, inputs, output, seed, rules="secant", channel_axis=None) -> Result

Rules are in ``stream.RULES``, a dict (domain, operator) -> function; the modules below fill it.
"""

from . import (
    conv,
    elementwise,
    fourier,
    microsoft,
    microsoft_attention,
    ml,
    moves,
    norms,
    pooling,
    products,
    quantised,
    quantised_runtime,
    reductions,
    resample,
    scatter,
    softmax,
    sums,
)
from .engine import Result, explain
from .stream import NoCarrierPath, NotInOracle, OracleError

__all__ = ["NoCarrierPath", "NotInOracle", "OracleError", "Result", "explain"]
_ = (
    conv, elementwise, fourier, microsoft, microsoft_attention, ml, moves, norms, pooling, products, quantised,
    quantised_runtime, reductions, resample, scatter, softmax, sums,
)  # fmt: skip
