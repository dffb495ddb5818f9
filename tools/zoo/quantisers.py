"""What ONNX Runtime's quantisers make of a network, in all their formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.entry import Array

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, Array]


@dataclass
class Base:
    """A float network: its inputs, and those that its ranges are found on."""

    model: onnx.ModelProto
    feeds: Feeds
    calibration: Feeds

    def batches(self) -> Iterator[Feeds]:
        """The calibration inputs, as many at a time as ``feeds`` has."""
        size = len(next(iter(self.feeds.values())))
        count = len(next(iter(self.calibration.values())))
        return ({k: v[i : i + size] for k, v in self.calibration.items()} for i in range(0, count, size))


Recipe = Callable[[Path, Path, Base], Feeds | None]


def static(form: str, activation: str, weight: str, *, only: tuple[str, ...] = (), **options: Any) -> Recipe:
    """quantize_static; ``options`` in capitals are its extra options, ``only`` the operators that are quantised."""

    def make(start: Path, path: Path, source: Base) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        extra = {k: v for k, v in options.items() if k[0].isupper()}
        rest = {k: v for k, v in options.items() if k[0].islower()}
        if "calibrate_method" in rest:
            rest["calibrate_method"] = CalibrationMethod[rest["calibrate_method"]]
        quantize_static(
            start, path, _reader(source), quant_format=QuantFormat[form], activation_type=QuantType[activation],
            weight_type=QuantType[weight], op_types_to_quantize=list(only) or None, extra_options=extra, **rest,
        )  # fmt: skip

    return make


def _reader(source: Base) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    batches = source.batches()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feeds | None:
            return next(batches, None)

    return Reader()


def dynamic(weight: str = "QInt8", **options: Any) -> Recipe:
    """quantize_dynamic."""

    def make(start: Path, path: Path, source: Base) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(start, path, weight_type=QuantType[weight], **options)

    return make


def few_bits(bits: int, block: int, form: str = "QOperator", **options: Any) -> Recipe:
    """Weights of a few bits in blocks, activations in float."""

    def make(start: Path, path: Path, source: Base) -> None:
        import onnx
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            onnx.load(start), bits=bits, block_size=block, quant_format=QuantFormat[form], **options
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))

    return make


def saved(level: str, first: Recipe) -> Recipe:
    """Then ONNX Runtime's offline optimisation, which makes integer operators of quantisers around float ones."""

    def make(start: Path, path: Path, source: Base) -> Feeds | None:
        import onnxruntime

        between = path.with_suffix(".between.onnx")
        feeds = first(start, between, source)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(str(between), options, providers=["CPUExecutionProvider"])
        between.unlink()
        return feeds

    return make


def integer_ends(first: Recipe) -> Recipe:
    """Then without the quantiser at the input and the dequantiser at the output: integers in, integers out."""

    def make(start: Path, path: Path, source: Base) -> Feeds | None:
        import onnx

        between = path.with_suffix(".between.onnx")
        first(start, between, source)
        model = onnx.load(between)
        between.unlink()
        feeds = dict(source.feeds)
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in list(model.graph.node):
            if node.op_type == "QuantizeLinear" and node.input[0] in feeds:
                given = next(i for i in model.graph.input if i.name == node.input[0])
                scale, zero = (weights[n] for n in node.input[1:3])
                info = np.iinfo(zero.dtype)
                whole = np.rint(feeds.pop(given.name) / scale) + zero.astype(np.float32)
                feeds[node.output[0]] = np.clip(whole, info.min, info.max).astype(zero.dtype)
                given.name = node.output[0]
                given.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
                model.graph.node.remove(node)
            elif node.op_type == "DequantizeLinear" and node.output[0] == model.graph.output[0].name:
                model.graph.output[0].name = node.input[0]
                model.graph.output[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(
                    weights[node.input[2]].dtype
                )
                model.graph.node.remove(node)
        onnx.save(model, path)
        return feeds

    return make


# All of them

PRODUCTS = ("MatMul", "Gemm", "Gather", "Conv")
QDQ = static("QDQ", "QUInt8", "QInt8")
QDQ_CHANNELS = static("QDQ", "QInt8", "QInt8", per_channel=True)
QOP = static("QOperator", "QUInt8", "QInt8")
RECIPES: dict[str, Recipe] = {
    "qdq": QDQ,
    "qdq-channels": QDQ_CHANNELS,
    "qdq-symmetric": static("QDQ", "QInt8", "QInt8", ActivationSymmetric=True),
    "qdq-reduce": static("QDQ", "QUInt8", "QInt8", per_channel=True, reduce_range=True),
    "qdq-uint16": static("QDQ", "QUInt16", "QUInt8", UseQDQContribOps=True),
    "qdq-int16": static("QDQ", "QInt16", "QInt8", UseQDQContribOps=True, ActivationSymmetric=True),
    "qdq-entropy": static("QDQ", "QUInt8", "QInt8", calibrate_method="Entropy", DedicatedQDQPair=True),
    "qdq-weights": static("QDQ", "QInt8", "QInt8", AddQDQPairToWeight=True, QuantizeBias=False),
    "qop": QOP,
    "qop-channels": static("QOperator", "QUInt8", "QUInt8", per_channel=True, reduce_range=True),
    "qop-int8": static("QOperator", "QInt8", "QInt8", ActivationSymmetric=True),
    "dynamic": dynamic(),
    "dynamic-channels": dynamic("QUInt8", per_channel=True, reduce_range=True),
    "saved": saved("extended", QDQ),
    "saved-all": saved("all", QDQ_CHANNELS),
    "saved-dynamic": saved("all", dynamic()),
    "integers-qdq": integer_ends(QDQ),
    "integers-qop": integer_ends(QOP),
    "native-int16": static("QDQ", "QInt16", "QInt16"),
    "native-uint16-int4": static("QDQ", "QUInt16", "QInt4", per_channel=True),
    "products-qdq": static("QDQ", "QUInt8", "QInt8", only=PRODUCTS),
    "products-qop": static("QOperator", "QUInt8", "QInt8", only=PRODUCTS),
    "nbits-4": few_bits(4, 32),
    "nbits-4-symmetric": few_bits(4, 16, is_symmetric=True, accuracy_level=4),
    "nbits-8": few_bits(8, 32),
    "nbits-2": few_bits(2, 16),
    "nbits-qdq": few_bits(4, 16, "QDQ"),
    "nbits-qdq-saved": saved("all", few_bits(4, 16, "QDQ", is_symmetric=True)),
    "nbits-gather": few_bits(4, 16, op_types_to_quantize=("MatMul", "Gather")),
    "attention-dynamic": dynamic(extra_options={"DefaultTensorType": 1}),
}  # fmt: skip
