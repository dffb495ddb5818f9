"""Conv, ConvTranspose, pooling."""

from __future__ import annotations

from collections.abc import Iterator

from .base import Case, case, ints, pos, w


def conv() -> Iterator[Case]:
    f, b = w(4, 2, 3, 2), w(4)
    plain = "y = Conv (x, w, b)"
    yield case("Conv", plain, x=(2, 2, 6, 5), w=f, b=b, dyn="n.hk")
    yield case("Conv-no-bias", "y = Conv (x, w)", x=(2, 2, 5, 5), w=w(3, 2, 1, 1), dyn="n.hk")
    yield case(
        "Conv-1x1-stride", "y = Conv <strides=[2, 2]> (x, w, b)", x=(1, 2, 5, 6), w=w(3, 2, 1, 1), b=w(3), dyn="n.hk"
    )
    odd = "y = Conv <pads=[2, 0, 1, 3], strides=[2, 1], dilations=[2, 2]> (x, w, b)"
    yield case("Conv-odd", odd, x=(1, 2, 7, 6), w=f, b=b, dyn="n.hk")
    yield case(
        "Conv-pads", "y = Conv <pads=[1, 1, 1, 1]> (x, w, b)", x=(2, 2, 4, 4), w=w(3, 2, 3, 3), b=w(3), dyn="n.hk"
    )
    wide = "y = Conv <pads=[3, 2, 2, 2]> (x, w)"
    yield case("Conv-pads-past-the-kernel", wide, x=(1, 2, 3, 3), w=w(2, 2, 2, 2), dyn="n.hk")
    yield case(
        "Conv-windows-in-the-padding",
        "y = Conv <pads=[1, 1, 1, 1]> (x, w, b)",
        x=(1, 2, 3, 3),
        w=w(2, 2, 1, 1),
        b=w(2),
        dyn="n.hk",
    )
    holes = "y = Conv <pads=[2, 2], dilations=[4]> (x, w, b)"
    yield case("Conv-dilation-past-the-input", holes, x=(2, 2, 5), w=w(3, 2, 2), b=w(3), dyn="n.h")
    patch = "y = Conv <strides=[2, 3]> (x, w, b)"
    yield case("Conv-patches", patch, x=(2, 2, 4, 6), w=w(3, 2, 2, 3), b=w(3), dyn="n.hk", other={"h": 6, "k": 9})
    yield case(
        "Conv-stride-drops-the-rest",
        "y = Conv <strides=[3, 3]> (x, w, b)",
        x=(1, 2, 7, 6),
        w=w(3, 2, 2, 2),
        b=w(3),
        dyn="n.hk",
    )
    halved = "y = Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (x, w, b)"
    yield case("Conv-stride-2-many-channels", halved, x=(2, 16, 4, 3), w=w(3, 16, 3, 3), b=w(3), dyn="n...")
    halved = "y = Conv <strides=[2, 2], pads=[1, 1, 1, 1], group=4> (x, w, b)"
    yield case("Conv-stride-2-depthwise", halved, x=(2, 4, 4, 5), w=w(4, 1, 3, 3), b=w(4), dyn="n...")
    halved = "y = Conv <strides=[2, 2]> (x, w, b)"
    yield case("Conv-1x1-stride-2-many-channels", halved, x=(2, 16, 4, 3), w=w(3, 16, 1, 1), b=w(3), dyn="n...")
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        text = f'y = Conv <auto_pad="{auto}", strides=[2, 2]> (x, w, b)'
        yield case(f"Conv-{auto}", text, x=(1, 2, 6, 5), w=f, b=b, dyn="n.hk")
        text = f'y = Conv <auto_pad="{auto}"> (x, w, b)'
        yield case(f"Conv-{auto}-stride-1", text, x=(1, 2, 5, 4), w=w(3, 2, 2, 4), b=w(3), dyn="n.hk")
    text = 'y = Conv <auto_pad="SAME_UPPER", strides=[2, 1], dilations=[2, 2], kernel_shape=[2, 2]> (x, w)'
    yield case("Conv-SAME-dilated", text, x=(1, 2, 7, 5), w=w(2, 2, 2, 2), runtime=False)
    groups = "y = Conv <group=2, pads=[1, 1, 1, 1]> (x, w, b)"
    yield case("Conv-groups", groups, x=(1, 4, 4, 5), w=w(6, 2, 3, 3), b=w(6), dyn="n.hk")
    yield case(
        "Conv-groups-stride",
        "y = Conv <group=2, strides=[2, 2]> (x, w, b)",
        x=(1, 4, 5, 6),
        w=w(4, 2, 3, 3),
        b=w(4),
        dyn="n.hk",
    )
    yield case(
        "Conv-depthwise",
        "y = Conv <group=3, pads=[1, 1, 1, 1]> (x, w, b)",
        x=(1, 3, 4, 4),
        w=w(3, 1, 3, 3),
        b=w(3),
        dyn="n.hk",
    )
    yield case(
        "Conv-depthwise-multiplier",
        "y = Conv <group=2, pads=[1, 0, 1, 0]> (x, w)",
        x=(1, 2, 4, 4),
        w=w(6, 1, 3, 2),
        dyn="n.hk",
    )
    yield case("Conv-1d", "y = Conv <pads=[1, 2], strides=[2]> (x, w)", x=(2, 3, 8), w=w(2, 3, 3), dyn="n.h")
    yield case(
        "Conv-3d",
        "y = Conv <pads=[1, 0, 0, 0, 1, 0], strides=[2, 1, 1]> (x, w)",
        x=(1, 2, 4, 3, 3),
        w=w(2, 2, 2, 2, 2),
        dyn="n.dhk",
    )
    yield case("Conv-7", plain, opset=7, x=(1, 2, 4, 4), w=f, b=b)
    yield case("Conv-22", plain, opset=22, x=(1, 2, 4, 4), w=f, b=b)
    yield case(
        "Conv-bias-map",
        "h = Relu (x); y = Conv <pads=[1, 1, 1, 1]> (h, w, b)",
        x=(1, 2, 4, 3),
        w=w(3, 2, 3, 3),
        b=w(3),
        dyn="n.hk",
    )
    filters = "f = Reshape (z, s); y = Conv <pads=[1, 0]> (x, f)"
    yield case(
        "Conv-filter-is-a-weight", filters, x=(1, 2, 5), z=(1, 12), s=ints(3, 2, 2), rules=("secant",), dyn={"x": "n.h"}
    )


def conv_transpose() -> Iterator[Case]:
    f, b = w(2, 3, 3, 2), w(3)
    yield case("ConvTranspose", "y = ConvTranspose (x, w, b)", x=(2, 2, 4, 3), w=f, b=b, dyn="n.hk")
    odd = "y = ConvTranspose <strides=[3, 2], pads=[1, 0, 2, 1], output_padding=[1, 1], dilations=[1, 2]> (x, w, b)"
    yield case("ConvTranspose-odd", odd, x=(1, 2, 4, 3), w=f, b=b, dyn="n.hk")
    yield case(
        "ConvTranspose-upsampling",
        "y = ConvTranspose <strides=[2, 2]> (x, w, b)",
        x=(1, 2, 3, 3),
        w=w(2, 3, 2, 2),
        b=b,
        dyn="n.hk",
    )
    yield case(
        "ConvTranspose-gaps",
        "y = ConvTranspose <strides=[3, 2]> (x, w, b)",
        x=(1, 2, 3, 3),
        w=w(2, 3, 1, 1),
        b=b,
        dyn="n.hk",
    )
    yield case(
        "ConvTranspose-groups",
        "y = ConvTranspose <group=2, strides=[2, 2]> (x, w)",
        x=(1, 4, 3, 3),
        w=w(4, 3, 2, 2),
        dyn="n.hk",
    )
    yield case(
        "ConvTranspose-depthwise",
        "y = ConvTranspose <group=3, pads=[1, 1, 0, 0]> (x, w)",
        x=(1, 3, 3, 3),
        w=w(3, 1, 2, 2),
        dyn="n.hk",
    )
    shape = "y = ConvTranspose <strides=[3, 2], output_shape=[12, 5]> (x, w)"
    yield case("ConvTranspose-output-shape", shape, x=(1, 2, 4, 3), w=f, dyn="n...")
    yield case(
        "ConvTranspose-output-shape-odd",
        "y = ConvTranspose <strides=[3, 2], output_shape=[10, 6]> (x, w)",
        x=(1, 2, 4, 3),
        w=f,
    )
    for auto in ("SAME_UPPER", "SAME_LOWER"):
        text = f'y = ConvTranspose <strides=[2, 3], auto_pad="{auto}"> (x, w)'
        yield case(f"ConvTranspose-{auto}", text, x=(1, 2, 4, 3), w=w(2, 3, 4, 5), dyn="n.hk")
    yield case(
        "ConvTranspose-1d",
        "y = ConvTranspose <strides=[2], pads=[1, 1]> (x, w, b)",
        x=(1, 2, 5),
        w=w(2, 3, 4),
        b=b,
        dyn="n.h",
    )
    yield case(
        "ConvTranspose-3d",
        "y = ConvTranspose <strides=[2, 1, 1]> (x, w)",
        x=(1, 2, 2, 2, 3),
        w=w(2, 2, 2, 2, 2),
        dyn="n.dhk",
    )
    yield case(
        "ConvTranspose-11",
        "y = ConvTranspose <pads=[1, 1, 1, 1]> (x, w, b)",
        opset=11,
        x=(1, 2, 4, 3),
        w=w(2, 3, 3, 3),
        b=b,
    )


def pools() -> Iterator[Case]:
    for op in ("MaxPool", "AveragePool", "LpPool"):

        def text(attrs: str, op: str = op) -> str:
            return f"y = {op} <{attrs}> (x)"

        yield case(f"{op}", text("kernel_shape=[2, 3]"), x=(1, 2, 6, 5), dyn="n.hk")
        yield case(f"{op}-stride", text("kernel_shape=[2, 2], strides=[2, 2]"), x=(2, 2, 5, 4), dyn="n.hk")
        yield case(
            f"{op}-pads", text("kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 2, 1]"), x=(2, 2, 7, 6), dyn="n.hk"
        )
        yield case(
            f"{op}-overlap", text("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]"), x=(1, 2, 6, 6), dyn="n.hk"
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            same = text(f'kernel_shape=[3, 2], strides=[2, 2], auto_pad="{auto}"')
            yield case(f"{op}-{auto}", same, x=(1, 2, 6, 5), dyn="n.hk")
        yield case(
            f"{op}-SAME-stride-1", text('kernel_shape=[3, 2], auto_pad="SAME_LOWER"'), x=(1, 2, 4, 4), dyn="n.hk"
        )
        yield case(f"{op}-1d", text("kernel_shape=[3], strides=[2]"), x=(1, 2, 9), dyn="n.h")
        yield case(f"{op}-3d", text("kernel_shape=[2, 2, 2], strides=[2, 2, 1]"), x=(1, 1, 4, 4, 3), dyn="n.dhk")
        yield case(f"{op}-ceil", text("kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1"), x=(1, 2, 7, 6), dyn="n.hk")
        ceil = text("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1")
        yield case(f"{op}-ceil-pads", ceil, x=(1, 1, 6, 6), dyn="n.hk")
        yield case(f"{op}-dilated", text("kernel_shape=[2, 3], dilations=[2, 2]"), x=(1, 2, 7, 6), dyn="n.hk")
        yield case(f"{op}-22", text("kernel_shape=[2, 2]"), opset=22, x=(1, 1, 4, 4))
    for op, opset in (("MaxPool", 8), ("MaxPool", 11), ("AveragePool", 7), ("AveragePool", 11), ("LpPool", 11)):
        yield case(f"{op}-{opset}", f"y = {op} <kernel_shape=[2, 2], strides=[2, 1]> (x)", opset=opset, x=(1, 2, 4, 4))
    ties = "y = MaxPool <kernel_shape=[2, 2]> (x)"
    yield case("MaxPool-ties", ties, draw="ties", x=(2, 2, 5, 5), dyn="n.hk")
    yield case("MaxPool-storage-order", "y, i = MaxPool <kernel_shape=[2, 2], storage_order=1> (x)", x=(1, 2, 3, 4))
    yield case("MaxPool-indices", "y, i = MaxPool <kernel_shape=[2, 2]> (x)", draw="ties", x=(1, 2, 3, 4))
    yield case(
        "MaxPool-after-Relu",
        "h = Relu (x); y = MaxPool <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (h)",
        x=(1, 2, 4, 4),
        dyn="n.hk",
    )
    for pads, name in (("1, 1, 1, 1", ""), ("0, 1, 2, 0", "-odd")):
        include = f"y = AveragePool <kernel_shape=[3, 3], pads=[{pads}], count_include_pad=1> (x)"
        yield case(f"AveragePool-include{name}", include, x=(1, 2, 6, 5), dyn="n.hk")
    include = (
        "y = AveragePool <kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1> (x)"
    )
    yield case("AveragePool-include-ceil", include, x=(1, 1, 6, 6), dyn="n.hk")
    include = 'y = AveragePool <kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1> (x)'
    yield case("AveragePool-include-SAME", include, x=(1, 1, 6, 5), dyn="n.hk")
    include = "y = AveragePool <kernel_shape=[2, 2], dilations=[2, 1], pads=[1, 0, 1, 0], count_include_pad=1> (x)"
    yield case("AveragePool-include-dilated", include, x=(1, 1, 5, 5), dyn="n.hk")
    for p in (1, 3):
        yield case(f"LpPool-p{p}", f"y = LpPool <kernel_shape=[2, 2], p={p}> (x)", x=(1, 2, 4, 5), dyn="n.hk")
        yield case(f"GlobalLpPool-p{p}", f"y = GlobalLpPool <p={p}> (x)", x=(2, 3, 3, 2), dyn="n.hk")
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield case(op, f"y = {op} (x)", x=(2, 3, 4, 3), dyn="n.hk")
        yield case(f"{op}-1d", f"y = {op} (x)", x=(2, 3, 4), dyn="n.h")
    yield case("GlobalMaxPool-ties", "y = GlobalMaxPool (x)", draw="ties", x=(2, 3, 4, 3), dyn="n.hk")


def networks() -> Iterator[Case]:
    cnn = """h = Conv <pads=[1, 1, 1, 1]> (x, w, b)
        n = BatchNormalization (h, s, t, m, v)
        r = Relu (n)
        p = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (r)
        q = Conv <pads=[1, 1, 1, 1]> (p, u, t)
        a = Add (q, p)
        c = Relu (a)
        g = GlobalAveragePool (c)
        f = Flatten (g)
        y = Gemm <transB=1> (f, k, l)"""
    c = {"s": w(4), "t": w(4, seed=1), "m": w(4, seed=2), "v": pos(4), "u": w(4, 4, 3, 3), "k": w(5, 4), "l": w(5)}
    yield case(
        "cnn-residual", cnn, x=(2, 2, 6, 6), w=w(4, 2, 3, 3), b=w(4, seed=9), dyn="n.hk", other={"h": 8, "k": 5}, **c
    )
    squeeze = """g = GlobalAveragePool (x); c = Conv (g, w, b); r = Relu (c); d = Conv (r, u, t); s = Sigmoid (d)
        y = Mul (x, s)"""
    se = {"w": w(2, 3, 1, 1), "b": w(2), "u": w(3, 2, 1, 1), "t": w(3)}
    yield case("squeeze-excitation", squeeze, x=(2, 3, 3, 4), dyn="n.hk", **se)
    yield case("squeeze-excitation-hard", squeeze.replace("Sigmoid", "HardSigmoid"), x=(2, 3, 3, 4), dyn="n.hk", **se)
    glu = "a, b = Split <axis=1, num_outputs=2> (x); s = Sigmoid (b); y = Mul (a, s)"
    yield case("glu", glu, x=(2, 4, 3), dyn="n.h")
    unet = """h = Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (x, w); r = Relu (h)
        u = ConvTranspose <strides=[2, 2]> (r, v, b)
        y = Concat <axis=1> (x, u)"""
    yield case(
        "skip-concat",
        unet,
        x=(1, 2, 4, 4),
        w=w(3, 2, 3, 3),
        v=w(3, 2, 2, 2),
        b=w(2),
        dyn="n.hk",
        other={"h": 6, "k": 8},
    )


CASES = [*conv(), *conv_transpose(), *pools(), *networks()]
