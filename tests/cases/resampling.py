"""Resize, GridSample, Col2Im, DFT, STFT."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .base import F32, Case, case, floats, i0, ints, w

THREE = {"x": (2, 3, 4)}


def resampling() -> Iterator[Case]:
    modes = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    scales = floats(1, 1, 1.7, 0.6)
    for mode in ("nearest", "linear", "cubic"):
        for transform in modes:
            runtime = True
            text = f'y = Resize <mode="{mode}", coordinate_transformation_mode="{transform}"> (x, , s)'
            yield case(f"Resize-{mode}-{transform}", text, s=scales, x=(1, 2, 4, 5), runtime=runtime, dyn="n...")
        yield case(f"Resize-{mode}-sizes", f'y = Resize <mode="{mode}"> (x, , , s)', s=ints(1, 2, 7, 3), x=(1, 2, 4, 5))
        yield case(
            f"Resize-{mode}-twice",
            f'y = Resize <mode="{mode}"> (x, , s)',
            s=floats(1, 1, 2, 2),
            x=(1, 2, 3, 4),
            dyn="n.hk",
        )
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for transform in ("half_pixel", "asymmetric", "align_corners"):
            attrs = f'nearest_mode="{nearest}", coordinate_transformation_mode="{transform}"'
            yield case(
                f"Resize-{nearest}-{transform}",
                f"y = Resize <{attrs}> (x, , s)",
                s=floats(1, 1, 2, 1.5),
                x=(1, 2, 3, 4),
                dyn="n...",
            )
    yield case(
        "Resize-exclude-outside", 'y = Resize <mode="cubic", exclude_outside=1> (x, , s)', s=scales, x=(1, 2, 4, 5)
    )
    yield case("Resize-cubic-a", 'y = Resize <mode="cubic", cubic_coeff_a=-0.5> (x, , s)', s=scales, x=(1, 2, 4, 5))
    for mode in ("linear", "cubic"):
        yield case(
            f"Resize-antialias-{mode}",
            f'y = Resize <mode="{mode}", antialias=1> (x, , s)',
            s=floats(1, 1, 0.5, 0.6),
            x=(1, 1, 6, 7),
        )
    yield case("Resize-axes", 'y = Resize <mode="linear", axes=[3, 2]> (x, , s)', s=floats(0.6, 2), x=(1, 2, 4, 5))
    policy = 'y = Resize <axes=[2, 3], mode="MODE", keep_aspect_ratio_policy="POLICY"> (x, , , s)'
    for mode in ("nearest", "linear", "cubic"):
        for keep in ("not_larger", "not_smaller"):
            text = policy.replace("MODE", mode).replace("POLICY", keep)
            yield case(f"Resize-{keep}-{mode}", text, s=ints(7, 8), x=(1, 1, 4, 6), dyn="n...")
    box = 'mode="MODE", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.7'
    crop = f"y = Resize <{box}> (x, r, , s)"
    boxes = {"": (0.2, 0.1, 0.7, 0.87), "-outside": (0.2, -0.3, 0.7, 1.23), "-flipped": (0.9, 1.17, -0.1, 0.23)}
    for mode in ("nearest", "linear"):
        for name, (top, left, bottom, right) in boxes.items():
            roi = floats(0, 0, top, left, 1, 1, bottom, right)
            yield case(
                f"Resize-crop{name}-{mode}", crop.replace("MODE", mode), s=ints(1, 1, 3, 6), r=roi, x=(1, 1, 4, 5)
            )
    one = crop.replace("MODE", "linear").replace('tf_crop_and_resize"', 'tf_crop_and_resize", axes=[2, 3]')
    yield case("Resize-crop-axes", one, s=ints(1, 4), r=floats(-0.4, 0, 0.2, 1.5), x=(2, 1, 4, 5), dyn="n...")
    yield case("Resize-1d", 'y = Resize <mode="linear"> (x, , s)', s=floats(1, 1, 2.5), x=(2, 2, 4), dyn="n..")
    yield case("Resize-3d", 'y = Resize <mode="linear"> (x, , s)', s=floats(1, 1, 2, 1, 0.5), x=(1, 1, 2, 3, 4))
    yield case("Resize-10", 'y = Resize <mode="linear"> (x, s)', opset=10, s=floats(1, 1, 2, 1.5), x=(1, 1, 4, 5))
    yield case(
        "Resize-11",
        'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (x, r, s)',
        opset=11,
        r=np.zeros(0, F32),
        s=floats(1, 1, 2, 2),
        x=(1, 1, 4, 5),
    )
    yield case("Upsample-7", "y = Upsample <scales=[1.0, 1.0, 2.0, 3.0]> (x)", opset=7, x=(1, 1, 2, 3))
    yield case("Upsample-9", 'y = Upsample <mode="linear"> (x, s)', opset=9, s=floats(1, 1, 2, 3), x=(1, 1, 2, 3))
    grid = np.random.default_rng(3).uniform(-1.6, 1.6, (2, 3, 4, 2)).astype(F32)
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                text = f'y = GridSample <mode="{mode}", padding_mode="{padding}", align_corners={align}> (x, g)'
                yield case(f"GridSample-{mode}-{padding}-{align}", text, g=grid, x=(2, 2, 4, 5), dyn="..hk")
    yield case("GridSample-16", 'y = GridSample <mode="bilinear"> (x, g)', opset=16, g=grid, x=(2, 2, 4, 5))
    yield case("GridSample-batch-of-one", "y = GridSample (x, g)", g=grid[:1], x=(1, 2, 4, 5), dyn="..hk")
    yield case(
        "GridSample-grid-carries",
        "t = Tanh (z); y = GridSample (x, t)",
        x=(2, 2, 4, 5),
        z=(2, 3, 4, 2),
        channel=0,
        rules=("secant",),
    )
    for name, attrs, image, blocks in (
        ("", "", (5, 4), 12),
        ("-odd", "<pads=[0, 1, 0, 0], strides=[2, 1]>", (5, 4), 8),
        ("-apart", "<strides=[3, 3]>", (5, 5), 4),
        ("-dilated", "<dilations=[2, 1]>", (5, 4), 9),
        ("-patches", "<strides=[2, 2]>", (4, 4), 4),
    ):
        yield case(
            f"Col2Im{name}", f"y = Col2Im {attrs} (x, i, b)", i=ints(*image), b=ints(2, 2), x=(2, 8, blocks), dyn="n.."
        )
    yield case("Col2Im-1d", "y = Col2Im (x, i, b)", i=ints(6), b=ints(3), x=(1, 6, 4))


def fourier() -> Iterator[Case]:
    real, both = (2, 6, 1), (2, 5, 2)
    yield case("DFT-real", "y = DFT (x, , a)", a=i0(1), x=real, dyn="n..")
    yield case("DFT-dynamic", "y = DFT (x, , a)", a=i0(1), x=real, dyn="nl.")
    yield case("DFT-complex", "y = DFT (x, , a)", a=i0(1), x=both, dyn="n..")
    yield case("DFT-inverse", "y = DFT <inverse=1> (x, , a)", a=i0(-2), x=both, dyn="n..")
    yield case("DFT-onesided", "y = DFT <onesided=1> (x, l, a)", l=i0(8), a=i0(-2), x=real, dyn="n..")
    yield case("DFT-shorter", "y = DFT (x, l, a)", l=i0(4), a=i0(1), x=real)
    yield case("DFT-front", "y = DFT (x, , a)", a=i0(0), x=(3, 4, 2))
    yield case("DFT-default", "y = DFT (x)", x=(2, 3, 4, 1))
    yield case("DFT-17", "y = DFT <axis=1> (x)", opset=17, x=real)
    stft = {"h": i0(4), "l": i0(6), "g": np.abs(w(6))}
    yield case("STFT", "y = STFT <onesided=1> (x, h, g, l)", x=(1, 16, 1), **stft)
    yield case("STFT-two-sided", "y = STFT <onesided=0> (x, h, g, l)", x=(2, 14, 1), **stft)
    yield case("STFT-no-length", "y = STFT <onesided=1> (x, h, g)", x=(2, 16, 1), h=i0(4), g=stft["g"])
    yield case("STFT-no-window", "y = STFT <onesided=1> (x, h, , l)", x=(2, 16, 1), h=i0(3), l=i0(6))
    yield case("STFT-onesided-by-default", "y = STFT (x, h, g, l)", x=(1, 16, 1), **stft)
    power = """s = STFT <onesided=1> (x, h, g, l); q = Mul (s, s); e = ReduceSum <keepdims=0> (q, a); m = MatMul (e, f)
        c = Clip (m, lo); y = Log (c)"""
    yield case("log-mel", power, x=(1, 16, 1), a=ints(-1), f=np.abs(w(4, 3)), lo=F32(1e-5), **stft)


CASES = [*resampling(), *fourier()]
