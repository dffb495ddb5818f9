"""LSTM with quantised weights (com.microsoft): what enters its products is quantised as it comes, x as a whole and the
state at every step."""

from __future__ import annotations

from omenn_onnx.normalise.bodies.base import Body, body
from omenn_onnx.normalise.bodies.quantised import as_float, settle
from omenn_onnx.normalise.bodies.recurrent import CELLS, LSTM, write_recurrent


@body("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_quantize_lstm(b: Body) -> None:
    """LSTM with W = (W' - zero) scale and R alike. What the kernel rounds differently is a bias of each output."""
    write_recurrent(b, lambda b, k, y: settle(b, y, exact=False, output=k))


class _Quantised(LSTM):
    """W and R are stored as [D, columns, 4 H], their scales as [D] or [D, 4 H]."""

    hidden_axis = 1

    def matrix(self, b: Body, k: int) -> str:
        scale, zero = (8, 9) if k == 1 else (10, 11)
        wide = [0, 1, 1] if len(b.shape(scale)) == 1 else [0, 1, -1]
        shift, factor = (b.op("Reshape", name, wide) for name in (as_float(b, b.operand(zero)), b.operand(scale)))
        real = b.op("Mul", b.op("Sub", as_float(b, b.operand(k)), shift), factor)
        return b.op("Transpose", real, perm=[0, 2, 1])

    def read(self, b: Body, x: str) -> str:
        return b.op("DequantizeLinear", *b.ops("DynamicQuantizeLinear", 3, x))


CELLS["DynamicQuantizeLSTM"] = _Quantised
