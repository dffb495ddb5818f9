"""Tiny models for the oracle's own tests: one or a few nodes each, x -> y."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray
F32 = np.float32


@dataclass
class Case:
    name: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    smooth: bool = True  # tangent C_w is the derivative (no rounding)
    runtime: bool = True  # ONNX Runtime has a float32 kernel and is right
    rules: tuple[str, ...] = ("secant", "tangent")
    inputs: list[str] = field(default_factory=lambda: ["x"])


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, name)))


def model(
    nodes: list, feeds: dict[str, Array], constants: dict[str, Array], opset: int, outputs=("y",)
) -> onnx.ModelProto:
    def info(name: str, value: Array) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    graph = helper.make_graph(
        nodes,
        "case",
        [info(k, v) for k, v in feeds.items()],
        [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, 3 + opset // 2))


def node(op: str, inputs: str, output: str = "y", **attrs) -> onnx.NodeProto:
    names = [i if i != "_" else "" for i in inputs.split()]
    return helper.make_node(op, names, output.split(), name=f"n_{op}_{output.split()[0]}", **attrs)


def one(
    name: str,
    op: str,
    shape,
    opset: int = 17,
    inputs: str = "x",
    low: float = -2,
    high: float = 2,
    constants=None,
    **kw,
) -> Case:
    """One node on a random x; ``inputs`` may name constants, or z: a second explained input of x's shape."""
    r = rng(name + op)
    flags = {k: kw.pop(k) for k in ("smooth", "runtime", "rules") if k in kw}
    x = r.uniform(low, high, shape).astype(F32)
    feeds = {"x": x}
    if "z" in inputs.split():
        feeds["z"] = r.uniform(low, high, shape).astype(F32)
    constants = {k: np.asarray(v) for k, v in (constants or {}).items()}
    case = Case(
        f"{op}-{opset}{'-' + name if name else ''}", model([node(op, inputs, **kw)], feeds, constants, opset), feeds
    )
    case.inputs = list(feeds)
    return Case(case.name, case.model, feeds, inputs=list(feeds), **flags)


def w(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + 17).normal(size=shape).astype(F32)


def i64(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def elementwise_cases() -> Iterator[Case]:
    plain = "Abs Asinh Atan Cos Cosh Elu Erf Exp HardSigmoid HardSwish LeakyRelu Neg Relu Selu Shrink Sigmoid Sin Sinh"
    for op in [*plain.split(), "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Celu"]:
        yield one("", op, (2, 5), low=-1.5, high=1.5)
    for op in ("Acos", "Asin", "Atanh"):
        yield one("", op, (2, 5), low=-0.9, high=0.9)
    for op, low in (("Acosh", 1.1), ("Log", 0.2), ("Sqrt", 0.2), ("Reciprocal", 0.3)):
        yield one("", op, (2, 5), low=low, high=3)
    yield one("none", "Gelu", (2, 5), 20)
    yield one("tanh", "Gelu", (2, 5), 20, approximate="tanh")
    yield one("", "Mish", (2, 5), 18)
    yield one("", "Swish", (2, 5), 24, alpha=1.3, runtime=False)
    yield one("alpha", "LeakyRelu", (2, 5), alpha=-0.3)
    yield one("alpha", "HardSigmoid", (2, 5), alpha=0.4, beta=0.3)
    yield one("bias", "Shrink", (2, 5), lambd=0.3, bias=0.2)
    yield one("", "PRelu", (2, 3, 4), 16, "x s", constants={"s": w(3, 1)})
    yield one("2", "Pow", (2, 5), 15, "x c", constants={"c": F32(2)})
    yield one("half", "Pow", (2, 5), 15, "x c", 0.2, 3, {"c": F32(0.5)})
    yield one("vector", "Pow", (2, 3), 15, "x c", 0.2, 3, {"c": np.array([[[-1, 0, 3]], [[1, 2, 0.3]]], F32)})
    yield one("base", "Pow", (2, 3), 15, "c x", -1, 2, {"c": F32(1.7)})
    yield one("both", "Clip", (2, 5), 13, "x a b", constants={"a": F32(-0.5), "b": F32(1)})
    yield one("attr", "Clip", (2, 5), 7, min=-0.5, max=1.0)
    yield one("low", "Clip", (2, 5), 13, "x a", constants={"a": F32(0.5)})
    for op in ("Floor", "Ceil", "Round"):
        yield one("", op, (2, 5), rules=("secant",))
    yield one("", "Mod", (2, 5), 13, "x c", constants={"c": F32(0.7)}, fmod=1)


def sum_cases() -> Iterator[Case]:
    c = {"c": w(3, 1, 4)}
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        yield one("const", op, (2, 4), 14 if op not in ("Max", "Min") else 13, "x c", 0.3, 2, c)
        yield one("two", op, (2, 4), 14 if op not in ("Max", "Min") else 13, "x z", 0.3, 2)
        yield one("right", op, (2, 4), 14 if op not in ("Max", "Min") else 13, "c x", 0.3, 2, c)
    for op in ("Sum", "Mean"):
        yield one("three", op, (2, 4), 13, "x c z", constants={"c": w(2, 4)})
    yield one("three", "Max", (2, 4), 13, "x c z", constants={"c": w(2, 4)})
    yield one("same", "Mul", (2, 4), 14, "x x")
    cond = np.array([[True], [False]])
    yield one("both", "Where", (2, 4), 16, "q x z", constants={"q": cond})
    yield one("const", "Where", (2, 4), 16, "q x c", constants={"q": cond, "c": w(2, 4)})
    yield one("lower", "Trilu", (2, 4, 4), 14, upper=0)


def product_cases() -> Iterator[Case]:
    yield one("weight", "MatMul", (2, 3, 4), 13, "x w", constants={"w": w(4, 5)})
    yield one("left", "MatMul", (2, 3, 4), 13, "w x", constants={"w": w(2, 1, 5, 3)})
    yield one("vector", "MatMul", (2, 3, 4), 13, "x w", constants={"w": w(4)})
    yield one("two", "MatMul", (2, 3, 3), 13, "x z")
    yield one("bias", "Gemm", (3, 4), 13, "x w b", constants={"w": w(5, 4), "b": w(5)}, transB=1, alpha=0.5, beta=2.0)
    yield one("transA", "Gemm", (4, 3), 13, "x w", constants={"w": w(4, 5)}, transA=1)
    yield one("carrier", "Gemm", (4, 4), 13, "x w z", constants={"w": w(4, 4)})
    yield one("two", "Einsum", (2, 3, 3), 12, "x z", equation="bij,bkj->bik")
    yield one("dots", "Einsum", (2, 3, 4), 12, "x w", constants={"w": w(4, 2)}, equation="...j,jk->...k")
    yield one("three", "Einsum", (3, 3), 12, "x z x", equation="ij,jk,kl->il")
    yield one("diagonal", "Einsum", (3, 3), 12, "x", equation="ii->i")
    yield one("sum", "Einsum", (3, 4), 12, "x w", constants={"w": w(4)}, equation="ij,j")


def conv_cases() -> Iterator[Case]:
    f = {"f": w(4, 2, 3, 2), "b": w(4)}
    yield one("plain", "Conv", (2, 2, 6, 5), 11, "x f b", constants=f)
    yield one(
        "odd", "Conv", (1, 2, 7, 6), 11, "x f b", constants=f, pads=[2, 0, 1, 3], strides=[2, 1], dilations=[2, 2]
    )
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield one(auto, "Conv", (1, 2, 6, 5), 11, "x f", constants=f, auto_pad=auto, strides=[2, 2])
    yield one("groups", "Conv", (1, 4, 5, 5), 11, "x f b", constants=f, group=2, pads=[1, 1, 1, 1])
    yield one("1d", "Conv", (2, 3, 8), 11, "x f", constants={"f": w(2, 3, 3)}, pads=[1, 2], strides=[2])
    yield one("3d", "Conv", (1, 2, 4, 3, 3), 11, "x f", constants={"f": w(2, 2, 2, 2, 2)}, pads=[1, 0, 0, 0, 1, 0])
    yield one("far", "Conv", (1, 2, 3, 3), 11, "x f", constants={"f": w(2, 2, 1, 1)}, pads=[1, 1, 1, 1])
    t = {"f": w(2, 3, 3, 2), "b": w(3)}
    yield one("plain", "ConvTranspose", (2, 2, 4, 3), 11, "x f b", constants=t)
    yield one("odd", "ConvTranspose", (1, 2, 4, 3), 11, "x f b", constants=t, strides=[3, 2], pads=[1, 0, 2, 1],
              output_padding=[1, 1], dilations=[1, 2])  # fmt: skip
    yield one("gaps", "ConvTranspose", (1, 2, 3, 3), 11, "x f", constants={"f": w(2, 2, 1, 1)}, strides=[3, 2])
    yield one(
        "groups", "ConvTranspose", (1, 4, 3, 3), 11, "x f", constants={"f": w(4, 2, 2, 2)}, group=2, strides=[2, 2]
    )
    yield one("shape", "ConvTranspose", (1, 2, 4, 3), 11, "x f", constants=t, strides=[3, 2], output_shape=[12, 5])
    for auto in ("SAME_UPPER", "SAME_LOWER"):
        yield one(auto, "ConvTranspose", (1, 2, 4, 3), 11, "x f", constants=t, strides=[2, 3], auto_pad=auto,
                  runtime=False)  # fmt: skip
    yield one("1d", "ConvTranspose", (1, 2, 5), 11, "x f", constants={"f": w(2, 3, 4)}, strides=[2], pads=[1, 1])


def pool_cases() -> Iterator[Case]:
    for op, opset in (("MaxPool", 12), ("AveragePool", 11), ("LpPool", 18)):
        yield one("plain", op, (1, 2, 6, 5), opset, kernel_shape=[2, 3])
        yield one("odd", op, (2, 2, 7, 6), opset, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 2, 1])
        yield one("same", op, (1, 2, 7, 6), opset, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        yield one("lower", op, (1, 2, 6, 5), opset, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")
        yield one("1d", op, (1, 2, 9), opset, kernel_shape=[3], strides=[2])
    for op, opset in (("MaxPool", 12), ("AveragePool", 19)):
        yield one("ceil", op, (1, 2, 7, 6), opset, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)
        yield one("ceil2", op, (1, 1, 5, 5), opset, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1)
        yield one("dilated", op, (1, 2, 7, 6), opset, kernel_shape=[2, 3], dilations=[2, 2])
    yield one("include", "AveragePool", (1, 2, 6, 5), 11, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    yield one("ceil3", "AveragePool", (1, 1, 6, 6), 19, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
              ceil_mode=1, count_include_pad=1)  # fmt: skip
    yield one("3d", "MaxPool", (1, 1, 4, 4, 4), 12, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    yield one("p3", "LpPool", (1, 2, 6, 5), 18, kernel_shape=[2, 2], p=3)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield one("", op, (2, 3, 4, 3), 11)


def reduce_cases() -> Iterator[Case]:
    names = "Sum Mean L1 L2 SumSquare LogSum LogSumExp Prod Max Min"
    for op in names.split():
        yield one("axes", f"Reduce{op}", (2, 3, 4), 11, low=0.3, axes=[0, -1], keepdims=0)
        yield one("all", f"Reduce{op}", (2, 3), 11, low=0.3)
        yield one("input", f"Reduce{op}", (2, 3, 4), 18, "x a", 0.3, constants={"a": i64(1)})


def norm_cases() -> Iterator[Case]:
    four = {"s": w(4), "b": w(4, seed=1), "m": w(4, seed=2), "v": np.abs(w(4, seed=3)) + 0.5}
    for opset in (7, 9, 15):
        yield one("", "BatchNormalization", (2, 4, 3, 2), opset, "x s b m v", constants=four, epsilon=1e-3)
    yield one("2d", "BatchNormalization", (3, 4), 15, "x s b m v", constants=four)
    yield one("", "LayerNormalization", (2, 3, 4), 17, "x s b", constants=four)
    yield one("axis", "LayerNormalization", (2, 3, 4), 17, "x s", constants={"s": w(3, 4)}, axis=1, epsilon=1e-2)
    yield one("", "InstanceNormalization", (2, 4, 3, 2), 11, "x s b", constants=four)
    yield one(
        "groups", "GroupNormalization", (2, 4, 3), 18, "x s b", constants={"s": w(2), "b": w(2, seed=1)}, num_groups=2
    )
    yield one("", "GroupNormalization", (2, 4, 3), 21, "x s b", constants=four, num_groups=2)
    yield one("", "RMSNormalization", (2, 3, 4), 23, "x s", constants=four)
    for p in (1, 2):
        yield one(f"p{p}", "LpNormalization", (2, 3, 4), 11, p=p, axis=1)
    for size in (3, 4):
        yield one(f"{size}", "LRN", (2, 5, 2, 2), 13, size=size, alpha=0.5, beta=0.6, bias=1.5, runtime=size == 3)
    yield one("", "MeanVarianceNormalization", (2, 3, 4, 2), 13)
    for op in ("Softmax", "LogSoftmax"):
        yield one("13", op, (2, 3, 4), 13, axis=1)
        yield one("11", op, (2, 3, 4), 11, axis=1)
        yield one("7", op, (2, 6), 7)


def move_cases() -> Iterator[Case]:
    yield one("", "Reshape", (2, 3, 4), 13, "x s", constants={"s": i64(0, -1, 2)})
    yield one("", "Transpose", (2, 3, 4), 13, perm=[2, 0, 1])
    yield one("", "Flatten", (2, 3, 4), 13, axis=2)
    slices = {"a": i64(2, -1), "b": i64(-9, 1000), "c": i64(1, -1), "d": i64(-1, 1)}
    yield one("back", "Slice", (2, 3, 4), 13, "x a b c d", constants=slices)
    yield one("attr", "Slice", (2, 3, 4), 7, starts=[0, 1], ends=[1, 3], axes=[0, 2])
    yield one("", "Squeeze", (2, 1, 4), 13, "x a", constants={"a": i64(1)})
    yield one("attr", "Unsqueeze", (2, 4), 11, axes=[0, -1])
    yield one("", "Expand", (2, 1, 4), 13, "x s", constants={"s": i64(3, 1)})
    yield one("", "Tile", (2, 3), 13, "x s", constants={"s": i64(2, 3)})
    yield one("", "Gather", (2, 3, 4), 13, "x i", constants={"i": np.array([[0, -1], [2, 2]])}, axis=1)
    yield one("", "GatherElements", (3, 3), 13, "x i", constants={"i": np.array([[0, -1, 2], [2, 0, 1]])}, axis=0)
    yield one("", "GatherND", (2, 3, 4), 13, "x i", constants={"i": np.array([[[1], [0]], [[2], [-1]]])}, batch_dims=1)
    yield one("", "DepthToSpace", (1, 8, 2, 3), 13, blocksize=2)
    yield one("CRD", "DepthToSpace", (1, 8, 2, 3), 13, blocksize=2, mode="CRD")
    yield one("", "SpaceToDepth", (1, 2, 4, 6), 13, blocksize=2)
    yield one("", "Concat", (2, 3), 13, "x c z", constants={"c": w(2, 3)}, axis=-1)
    yield one("", "Compress", (2, 3), 11, "x c", constants={"c": np.array([True, False, True])}, axis=1)
    yield one("", "ReverseSequence", (4, 3, 2), 10, "x l", constants={"l": i64(4, 2, 1)})
    yield one("", "Identity", (2, 3), 14)
    yield one("", "Cast", (2, 3), 13, to=1)
    yield one("", "Dropout", (2, 3), 13)
    for mode in ("constant", "reflect", "edge", "wrap"):
        opset = 19 if mode == "wrap" else 13
        yield one(mode, "Pad", (2, 3, 4), opset, "x p", constants={"p": i64(0, 1, 2, 0, 2, 3)}, mode=mode)
    crop = {"p": i64(-1, 1, 1, -1), "c": F32(1.5), "a": i64(2, -2)}
    yield one("crop", "Pad", (2, 3, 4), 18, "x p c a", constants=crop)
    yield one("attr", "Pad", (2, 3), 7, pads=[0, 1, 1, 0], value=0.5)
    for k in range(4):
        yield one(f"{k}", "CumSum", (2, 4), 14, "x a", constants={"a": i64(1)[0]}, exclusive=k % 2, reverse=k // 2)


def other_cases() -> Iterator[Case]:
    shape = {"s": np.array([1, 1, 1.7, 0.6], F32)}
    for mode in ("nearest", "linear", "cubic"):
        for transform in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            yield one(f"{mode}-{transform}", "Resize", (1, 2, 4, 5), 19, "x _ s", constants=shape, mode=mode,
                      coordinate_transformation_mode=transform)  # fmt: skip
    yield one("exclude", "Resize", (1, 2, 4, 5), 13, "x _ s", constants=shape, mode="cubic", exclude_outside=1)
    yield one("sym", "Resize", (1, 2, 4, 5), 19, "x _ s", constants=shape, mode="linear",
              coordinate_transformation_mode="half_pixel_symmetric")  # fmt: skip
    crop = {"s": i64(1, 1, 3, 6), "r": np.array([0, 0, 0.2, -0.3, 1, 1, 0.8, 1.2], F32)}
    yield one("crop", "Resize", (1, 1, 4, 5), 13, "x r _ s", constants=crop, mode="linear", extrapolation_value=0.7,
              coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
    for mode in ("linear", "cubic"):
        down = {"s": np.array([1, 1, 0.5, 0.6], F32)}
        yield one(f"anti-{mode}", "Resize", (1, 1, 6, 7), 18, "x _ s", constants=down, mode=mode, antialias=1)
    yield one("policy", "Resize", (1, 1, 4, 6), 18, "x _ _ s", constants={"s": i64(7, 8)}, axes=[2, 3], mode="linear",
              keep_aspect_ratio_policy="not_larger")  # fmt: skip
    yield one("10", "Resize", (1, 1, 4, 5), 10, "x s", constants={"s": np.array([1, 1, 2, 1.5], F32)}, mode="linear")
    yield one("7", "Upsample", (1, 1, 2, 3), 7, scales=[1.0, 1.0, 2.0, 3.0])
    yield one("9", "Upsample", (1, 1, 2, 3), 9, "x s", constants={"s": np.array([1, 1, 2, 3], F32)}, mode="linear")
    grid = {"g": np.random.default_rng(3).uniform(-1.6, 1.6, (2, 3, 4, 2)).astype(F32)}
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                yield one(f"{mode}-{padding}-{align}", "GridSample", (2, 2, 4, 5), 16, "x g", constants=grid, mode=mode,
                          padding_mode=padding, align_corners=align)  # fmt: skip
    yield one(
        "",
        "Col2Im",
        (1, 12, 6),
        18,
        "x i b",
        constants={"i": i64(5, 4), "b": i64(2, 3)},
        pads=[0, 1, 0, 0],
        strides=[2, 1],
    )
    yield one("real", "DFT", (2, 6, 1), 17, axis=1)
    yield one("onesided", "DFT", (2, 6, 1), 20, "x l a", constants={"l": i64(8)[0], "a": i64(-2)[0]}, onesided=1)
    yield one("inverse", "DFT", (2, 6, 2), 17, axis=1, inverse=1)
    yield one("", "STFT", (1, 16, 1), 17, "x h g l", constants={"h": i64(4)[0], "g": w(6), "l": i64(6)[0]})
    yield one("", "TopK", (2, 5), 11, "x k", output="y i", constants={"k": i64(3)}, axis=1)
    yield one("", "Split", (2, 5), 18, output="y y2", num_outputs=2, axis=1)
    yield one("", "CastLike", (2, 3), 15, "x c", constants={"c": F32(1)})
    yield one("", "OneHot", (2,), 11, "i d x", constants={"i": i64(1, -1, 2), "d": i64(3)})
    start = {"c": w(2, 5, 3), "t": i64(1, 2)}
    yield one("", "TensorScatter", (2, 2, 3), 24, "c x t", constants=start, runtime=False, axis=1)
    yield one("", "SwiGLU", (2, 3), 28, "x z", runtime=False)
    cache = {"c": w(4, 2), "s": w(4, 2, seed=1), "p": np.array([[0, 2, 3]])}
    yield one("", "RotaryEmbedding", (1, 2, 3, 4), 23, "x c s p", constants=cache, runtime=False)
    index = np.array([[0, 2, 1], [1, 0, 1]])
    for data, upd in (("x", "u"), ("c", "z"), ("x", "z")):
        feeds = {"x": w(4, 3, seed=5), "z": w(2, 3, seed=6)}
        for reduction in ("none", "add"):
            at = np.array([[0, 2, 1], [1, 0, 3]]) if reduction == "none" else index
            n = node("ScatterElements", f"{data} i {upd}", axis=0, reduction=reduction)
            consts = {"i": at, "u": w(2, 3, seed=7), "c": w(4, 3, seed=8)}
            used = {k: v for k, v in feeds.items() if k in (data, upd)}
            yield Case(
                f"ScatterElements-{data}-{upd}-{reduction}", model([n], used, consts, 18), used, inputs=list(used)
            )
            n = node("ScatterND", f"{data} i {upd}", reduction=reduction)
            consts["i"] = np.array([[2], [0]]) if reduction == "none" else np.array([[2], [2]])
            yield Case(f"ScatterND-{data}-{upd}-{reduction}", model([n], used, consts, 18), used, inputs=list(used))


def all_cases() -> list[Case]:
    families = (
        elementwise_cases, sum_cases, product_cases, conv_cases, pool_cases, reduce_cases, norm_cases, move_cases,
        other_cases,
    )  # fmt: skip
    return [case for family in families for case in family()]
