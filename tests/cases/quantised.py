"""Quantisers against the oracle: in the secant rules DQ(Q(x)) is s Round(Clip(x / s, lo - z, hi - z)).

The tangent rules, integers on the way, dynamic scales and operators of quantised files are in tests/test_quantised.py.
"""

import numpy as np

from .base import Case, case, floats

_U8, _S8 = np.uint8, np.int8
_SECANT = ("secant",)


def _quantised(name: str, zero: np.ndarray | None, scale: np.ndarray, low: object, high: object, **kw: object) -> Case:
    """x quantised and back; the float twin divides by ``s`` and clips to [lo, hi] in units of it."""
    attrs = kw.pop("attrs", "")
    domain = kw.pop("domain", "")
    z = ", z" if zero is not None else ""
    twin = kw.pop("twin", scale)
    extra = {} if zero is None else {"z": zero}
    return case(
        name,
        f"q = {domain}QuantizeLinear{attrs}(x, s{z}); y = {domain}DequantizeLinear{attrs}(q, s{z})",
        s=scale,
        t=np.asarray(twin),
        lo=np.asarray(low, np.float32),
        hi=np.asarray(high, np.float32),
        same_as="u = Div(x, t); c = Clip(u, lo, hi); r = Round(c); y = Mul(r, t)",
        rules=_SECANT,
        **extra,
        **kw,
    )


CASES = [
    _quantised(
        "QuantizeLinear-uint8",
        _U8(100),
        np.float32(0.01),
        -100,
        155,
        x=(2, 3, 4),
        dyn="N..",
        covers=("DynamicQuantizeLinear", "Settled"),
    ),
    _quantised("QuantizeLinear-int8", _S8(-5), np.float32(0.013), -123, 132, x=(2, 3, 4), dyn="NC."),
    _quantised("QuantizeLinear-no-zero-point", None, np.float32(0.006), 0, 255, x=(2, 3), dyn="N."),
    _quantised("QuantizeLinear-relu-by-saturation", _U8(0), np.float32(0.01), 0, 255, x=(2, 3, 4)),
    _quantised("QuantizeLinear-ties", _S8(3), np.float32(2.0), -131, 124, x=(2, 3, 4), draw="ties"),
    _quantised(
        "QuantizeLinear-per-axis",
        np.array([7, 7, 7], _S8),
        floats(0.01, 0.02, 0.005),
        -135,
        120,
        x=(2, 3, 4),
        dyn="N..",
        attrs="<axis=1>",
        twin=floats(0.01, 0.02, 0.005).reshape(3, 1),
    ),
    _quantised(
        "QuantizeLinear-last-axis",
        np.zeros(4, _S8),
        floats(0.01, 0.02, 0.005, 0.03),
        -128,
        127,
        x=(2, 3, 4),
        attrs="<axis=-1>",
    ),
    _quantised(
        "QuantizeLinear-blocked",
        np.zeros((2, 2), _S8),
        floats(0.01, 0.02, 0.005, 0.03).reshape(2, 2),
        -128,
        127,
        x=(2, 5),
        attrs="<axis=1, block_size=3>",
        opset=21,
        channel=1,
        twin=floats(0.01, 0.01, 0.01, 0.02, 0.02, 0.005, 0.005, 0.005, 0.03, 0.03).reshape(2, 5),
    ),
    _quantised(
        "QuantizeLinear-uint16",
        np.uint16(30000),
        np.float32(5e-5),
        -30000,
        35535,
        x=(2, 3),
        opset=21,
    ),
    _quantised(
        "QuantizeLinear-microsoft", np.uint16(30000), np.float32(5e-5), -30000, 35535, x=(2, 3), domain="com.microsoft."
    ),
]
