"""Stand-ins for the operators of ONNX Runtime's own domains: what shape inference needs to know of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from omenn_onnx.graph.standins import Stand, stands_for

_DOMAIN = "com.microsoft"
_NHWC = "com.ms.internal.nhwc"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "p", "pads", "strides")
_TO_FRONT, _TO_BACK = [0, 3, 1, 2], [0, 2, 3, 1]


def _put(s: Stand, op: str, inputs: list[str], output: str, **attrs: Any) -> str:
    s.nodes.append(helper.make_node(op, inputs, [output], **attrs))
    return output


def _number(s: Stand, value: list[int]) -> str:
    name = f"{s.node.output[0]}/number{len(s.nodes)}"
    return _put(s, "Constant", [], name, value=numpy_helper.from_array(np.asarray(value, np.int64)))


def _kept(attrs: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in attrs.items() if k in names}


def _input(s: Stand, k: int) -> str:
    return s.node.input[k] if k < len(s.node.input) else ""


def _ranked(s: Stand, k: int, like: str, rank: int) -> None:
    """Output k has the type of ``like``; of its shape only the rank is known."""
    if k < len(s.node.output) and s.node.output[k]:
        out = s.node.output[k]
        sizes = f"{out}/sizes"
        s.weights.append(helper.make_tensor_value_info(sizes, 7, [rank]))
        _put(s, "CastLike", [_put(s, "ConstantOfShape", [sizes], f"{out}/any"), like], out)


@stands_for("SimplifiedLayerNormalization", domain="")
@stands_for(
    *("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "ScaledSiLU", "BiasAdd", "BiasSoftmax", "BiasDropout"),
    *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "GroupNorm", "SkipGroupNorm", "GatedRMSNorm"),
    *("RotaryEmbedding", "Inverse", "Trilu", "GatedAdd", "ComplexMul", "ComplexMulConj", "MRotaryEmbedding"),
    *("BitmaskDropout", "BitmaskBiasDropout", "BranchwiseRMSNorm", "HyperConnectionPostMix", "EngramGate"),
    *("MoE", "QMoE"),
    domain=_DOMAIN,
)
def _like_first(s: Stand, attrs: dict[str, Any]) -> None:
    s.like(0, s.node.input[0])
    sums = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1, "EngramGate": 1}
    for k, output in enumerate(s.node.output):
        if output and sums.get(s.node.op_type) == k:
            s.like(k, s.node.input[0])


@stands_for("BiasSplitGelu", domain=_DOMAIN)
def _half(s: Stand, attrs: dict[str, Any]) -> None:
    out = s.node.output[0]
    s.nodes.append(helper.make_node("Split", [s.node.input[0]], [out, f"{out}/rest"], axis=-1, num_outputs=2))


@stands_for("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "GemmFastGelu", domain=_DOMAIN)
def _product(s: Stand, attrs: dict[str, Any]) -> None:
    terms = []
    for k, letter, plain in ((0, "A", "ik"), (1, "B", "kj")):
        term = plain[::-1] if attrs.get(f"trans{letter}") else plain
        batch = "" if s.declared_rank(s.node.input[k]) == 2 else "..."  # (inference wants as many axes on both sides)
        terms.append(f"{term[0]}{batch}{term[1]}" if attrs.get(f"transBatch{letter}") else f"{batch}{term}")
    if not any(attrs.get(f"trans{part}") for part in ("A", "B", "BatchA", "BatchB")):
        _put(s, "MatMul", list(s.node.input[:2]), s.node.output[0])
    else:
        equation = ",".join(terms)
        equation += "->...ij" if "..." in equation else "->ij"
        _put(s, "Einsum", list(s.node.input[:2]), s.node.output[0], equation=equation)


@stands_for("FusedGemm", domain=_DOMAIN)
def _gemm(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "Gemm", list(s.node.input[:2]), s.node.output[0], **_kept(attrs, ("transA", "transB")))


@stands_for("FusedConv", domain=_DOMAIN)
def _conv(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "Conv", list(s.node.input[:2]), s.node.output[0], **_kept(attrs, _CONV))


@stands_for("NhwcConv", "NhwcFusedConv", "NhwcMaxPool", domain=_DOMAIN)
@stands_for(
    *(
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalMaxPool",
        "GlobalAveragePool",
        "GlobalLpPool",
    ),
    *("BatchNormalization", "InstanceNormalization", "LRN"),
    domain=_NHWC,
)
def _channels_last(s: Stand, attrs: dict[str, Any]) -> None:
    op = {"NhwcConv": "Conv", "NhwcFusedConv": "Conv", "NhwcMaxPool": "MaxPool"}.get(s.node.op_type, s.node.op_type)
    x, y = s.node.input[0], s.node.output[0]
    if op in ("BatchNormalization", "InstanceNormalization", "LRN"):
        s.like(0, x)
        return
    wanted = (*_CONV, "output_padding", "output_shape") if op in ("Conv", "ConvTranspose") else _POOL
    weights = [s.node.input[1]] if op in ("Conv", "ConvTranspose") else []
    front = _put(s, "Transpose", [x], f"{y}/front", perm=_TO_FRONT)
    inner = _put(s, op, [front, *weights], f"{y}/inner", **_kept(attrs, wanted))
    _put(s, "Transpose", [inner], y, perm=_TO_BACK)


@stands_for("Attention", domain=_DOMAIN)
def _attention(s: Stand, attrs: dict[str, Any]) -> None:
    x, w, y = s.node.input[0], s.node.input[1], s.node.output[0]
    parts = [f"{y}/{p}" for p in "qkv"]
    sizes = attrs.get("qkv_hidden_sizes")
    if sizes:
        s.nodes.append(helper.make_node("Split", [w, _number(s, list(sizes))], parts, axis=1))
    else:
        s.nodes.append(helper.make_node("Split", [w], parts, axis=1, num_outputs=3))
    _put(s, "MatMul", [x, parts[2]], y)
    _ranked(s, 1, x, 5)


@stands_for("MultiHeadAttention", domain=_DOMAIN)
def _multi_head(s: Stand, attrs: dict[str, Any]) -> None:
    query, key, value, y = s.node.input[0], _input(s, 1), _input(s, 2), s.node.output[0]
    heads = f"{y}/heads"
    if not key:
        _put(s, "Reshape", [_put(s, "Einsum", [query], heads, equation="blnch->blnh"), _number(s, [0, 0, -1])], y)
    elif not value:
        _put(s, "Einsum", [query, key], heads, equation="bsd,blnch->bsnh")
        _put(s, "Reshape", [heads, _number(s, [0, 0, -1])], y)
    elif s.declared_rank(value) == 4:  # [batch, heads, length, size]: as wide as the query
        s.like(0, query)
    else:
        _put(s, "Einsum", [query, value], y, equation="bsd,ble->bse")
    for k, rank in ((1, 4), (2, 4), (3, 4)):
        _ranked(s, k, query, rank)


@stands_for("GroupQueryAttention", domain=_DOMAIN)
def _grouped(s: Stand, attrs: dict[str, Any]) -> None:
    query, y = s.node.input[0], s.node.output[0]
    if _input(s, 1):
        s.like(0, query)
    else:
        n, all_heads = attrs["num_heads"], attrs["num_heads"] + 2 * attrs["kv_num_heads"]
        heads = _put(s, "Reshape", [query, _number(s, [0, 0, all_heads, -1])], f"{y}/heads")
        own = _put(s, "Slice", [heads, _number(s, [0]), _number(s, [n]), _number(s, [2])], f"{y}/own")
        _put(s, "Reshape", [own, _number(s, [0, 0, -1])], y)
    for k in (1, 2, 3):
        _ranked(s, k, query, 4)


@stands_for("RelativePositionBias", domain=_DOMAIN)
def _positions(s: Stand, attrs: dict[str, Any]) -> None:
    _ranked(s, 0, s.node.input[0], 4)


@stands_for("GatedRelativePositionBias", domain=_DOMAIN)
def _gated_positions(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "Einsum", [s.node.input[0], s.node.input[2]], s.node.output[0], equation="bsd,anst->bnst")


@stands_for("GridSample", domain=_DOMAIN)
def _grid_sample(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "GridSample", list(s.node.input[:2]), s.node.output[0])


@stands_for("Pad", "GatherND", domain=_DOMAIN)
def _namesake(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, s.node.op_type, list(s.node.input[:2]), s.node.output[0])


@stands_for("ExpandDims", domain=_DOMAIN)
def _expand_dims(s: Stand, attrs: dict[str, Any]) -> None:
    axis = _put(s, "Cast", [s.node.input[1]], f"{s.node.output[0]}/axis", to=7)
    axes = _put(s, "Reshape", [axis, _number(s, [1])], f"{s.node.output[0]}/axes")
    _put(s, "Unsqueeze", [s.node.input[0], axes], s.node.output[0])


@stands_for("ConvTransposeWithDynamicPads", domain=_DOMAIN)
def _transposed(s: Stand, attrs: dict[str, Any]) -> None:
    _ranked(s, 0, s.node.input[0], 4)


@stands_for("CDist", domain=_DOMAIN)
def _distances(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "Einsum", list(s.node.input[:2]), s.node.output[0], equation="mn,kn->mk")


# Recurrent decoders, several streams


@stands_for("SwiGLU", domain=_DOMAIN)
def _gated_half(s: Stand, attrs: dict[str, Any]) -> None:
    if _input(s, 1):
        s.like(0, s.node.input[0])
    else:
        _half(s, attrs)


@stands_for("LinearAttentionGate", "GemmaRotaryEmbedding", domain=_DOMAIN)
def _each_like(s: Stand, attrs: dict[str, Any]) -> None:
    sources = {"LinearAttentionGate": (0, 3), "GemmaRotaryEmbedding": (1, 3)}[s.node.op_type]
    for k, source in enumerate(sources):
        if k < len(s.node.output) and s.node.output[k]:
            s.like(k, s.node.input[source])


@stands_for("HyperConnectionPreMix", domain=_DOMAIN)
def _mixed(s: Stand, attrs: dict[str, Any]) -> None:
    x, y, count = s.node.input[0], s.node.output[0], attrs.get("num_branches", 0)
    if count:
        s.nodes.append(helper.make_node("Split", [x], [y, *(f"{y}/{k}" for k in range(1, count))], axis=-1,
                                        num_outputs=count))  # fmt: skip
    else:
        _put(s, "ReduceSum", [x, _number(s, [-2])], y, keepdims=0)


@stands_for("CausalConvWithState", domain=_DOMAIN)
def _causal(s: Stand, attrs: dict[str, Any]) -> None:
    s.like(0, s.node.input[0])
    if len(s.node.output) > 1 and s.node.output[1]:
        if _input(s, 3):
            s.like(1, s.node.input[3])
        else:
            _ranked(s, 1, s.node.input[0], 3)


@stands_for("LinearAttention", domain=_DOMAIN)
def _linear_attention(s: Stand, attrs: dict[str, Any]) -> None:
    query, value, y = s.node.input[0], s.node.input[2], s.node.output[0]
    q, k = attrs["q_num_heads"], attrs["kv_num_heads"]
    heads = _put(s, "Reshape", [value, _number(s, [0, 0, k, 1, -1])], f"{y}/heads")
    several = _put(s, "Expand", [heads, _number(s, [1, 1, 1, q // k, 1])], f"{y}/several")
    _put(s, "Reshape", [several, _number(s, [0, 0, -1])], y)
    _ranked(s, 1, query, 4)


# Moves


@stands_for("UnfoldTensor", domain=_DOMAIN)
def _windows(s: Stand, attrs: dict[str, Any]) -> None:
    x, y, axis, size = s.node.input[0], s.node.output[0], attrs.get("dim", -1), attrs["size"]
    end = 2**62 if size == 1 else 1 - size
    parts = [_number(s, [n]) for n in (0, end, axis, attrs.get("step", 1))]
    kept = _put(s, "Slice", [x, *parts], f"{y}/kept")
    wide = _put(s, "Unsqueeze", [kept, _number(s, [-1])], f"{y}/wide")
    _put(s, "Expand", [wide, _number(s, [size])], y)


@stands_for("TorchEmbedding", domain=_DOMAIN)
def _rows(s: Stand, attrs: dict[str, Any]) -> None:
    _put(s, "Gather", list(s.node.input[:2]), s.node.output[0], axis=0)


@stands_for("Tokenizer", domain=_DOMAIN)
def _tokens(s: Stand, attrs: dict[str, Any]) -> None:
    """[N, C] or [C] as [N, C, count] or [C, count]."""
    y = s.node.output[0]
    alone = _put(s, "Unsqueeze", [s.node.input[0], _number(s, [-1])], f"{y}/alone")
    count = f"{y}/count"
    s.weights.append(helper.make_tensor_value_info(count, 7, [1]))
    _put(s, "Expand", [alone, count], y)


@stands_for("Unique", domain=_DOMAIN)
def _unique(s: Stand, attrs: dict[str, Any]) -> None:
    own = [*s.node.output, "", ""][:3]
    _put(s, "Unique", [s.node.input[0]], own[0])
    s.nodes[-1].output.extend(["", *own[1:]])


@stands_for("Range", domain=_DOMAIN)
def _numbers(s: Stand, attrs: dict[str, Any]) -> None:
    _ranked(s, 0, s.node.input[0], 1)


@stands_for("Rfft", domain=_DOMAIN)
def _fourier(s: Stand, attrs: dict[str, Any]) -> None:
    y = s.node.output[0]
    signal = _put(s, "Unsqueeze", [s.node.input[0], _number(s, [-1])], f"{y}/signal")
    _put(s, "DFT", [signal, "", _put(s, "Squeeze", [_number(s, [-2])], f"{y}/axis")], y, onesided=1)


@stands_for("Irfft", domain=_DOMAIN)
def _signal(s: Stand, attrs: dict[str, Any]) -> None:
    x, y = s.node.input[0], s.node.output[0]
    inner = _put(s, "Slice", [x, _number(s, [1]), _number(s, [-1]), _number(s, [-2])], f"{y}/inner")
    both = _put(s, "Concat", [x, inner], f"{y}/both", axis=-2)
    _put(s, "ReduceSum", [both, _number(s, [-1])], y, keepdims=0)


@stands_for("MatMulNBitsMlp", "MatMulNBitsQLoRA", domain=_DOMAIN)
def _mlp(s: Stand, attrs: dict[str, Any]) -> None:
    s.columns(0, s.node.input[0], attrs["N"])
    if len(s.node.output) > 1 and s.node.output[1]:
        s.like(1, s.node.input[0])


@stands_for("MatMulNBitsQkv", domain=_DOMAIN)
def _qkv(s: Stand, attrs: dict[str, Any]) -> None:
    for k, size in enumerate((attrs["Nq"], attrs["Nkv"], attrs["Nkv"])):
        if k < len(s.node.output) and s.node.output[k]:
            s.columns(k, s.node.input[0], size)
    if len(s.node.output) > 3 and s.node.output[3]:
        s.like(3, s.node.input[0])
