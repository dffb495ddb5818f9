"""Explained inputs with spatial axes: images, signals, volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.panels import COLOURS, GREY, INK, Scene, bare, colour_bar, magnification, magnified, symmetric

SMALL = 4  # maps whose support is this many times smaller than the image are zoomed
MANY_CHANNELS = 6  # signals of more channels are shown as an image
KINDS = ("C_w*X", "C_b", "C")


def as_picture(x: Array) -> Array:
    """[channels, H, W] stretched to 0..1 for the eye: [H,W,3] for three channels, else [H,W], the mean of them."""
    shown = np.moveaxis(x, 0, -1) if len(x) == 3 else x.mean(axis=0, dtype=np.float64)
    shown = np.nan_to_num(shown.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = shown.min(), shown.max()
    return np.asarray((shown - low) / (high - low) if high > low else np.full(shown.shape, 0.5))


def support(values: Array) -> tuple[int, int, int, int] | None:
    """The window (top, bottom, left, right) around all that is not zero, where it is small; None where it is not."""
    found = np.argwhere(np.abs(values) > 1e-6 * np.max(np.abs(values), initial=0.0))
    if not len(found):
        return None
    low, high = found.min(axis=0), found.max(axis=0) + 1
    if np.any((high - low) * SMALL > values.shape):
        return None
    margin = np.maximum(high - low, 4) // 2
    (top, left), (bottom, right) = np.maximum(low - margin, 0), np.minimum(high + margin, values.shape)
    return int(top), int(bottom), int(left), int(right)


def titles(scene: Scene) -> tuple[str, str, str]:
    """What the three maps are, in the order of KINDS."""
    share = f"{scene.symbol}  (input)"
    return share, f"{scene.bias_symbol}  (biases)", f"$C$ = {scene.symbol} + {scene.bias_symbol}"


class Images:
    """Four panels a target: the input, C_w*X, C_b, C, the maps on one scale."""

    @staticmethod
    def size(scene: Scene, names: Any) -> tuple[float, float]:
        """Panels of some 2.6 inches, as high as the image is."""
        height, width = scene.x.shape[1:]
        return 11.6, (2.5 * float(np.clip(height / width, 0.35, 2.2)) + 1.0) * scene.targets + 0.25

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Any, picture: Array | None) -> None:
        """One line of panels."""
        axes = block.subplots(1, 4)
        shown = as_picture(scene.x) if picture is None else picture
        near = {"interpolation": "nearest" if max(scene.x.shape[1:]) < 200 else "antialiased"}
        axes[0].imshow(shown, cmap="gray", **near)
        bare(axes[0], "input $X$")
        maps = [scene.map(kind, k) for kind in KINDS]
        scale, clipped = symmetric(*maps)
        for ax, values, title in zip(axes[1:], maps, titles(scene), strict=True):
            factor = magnification(values, scale)
            image = ax.imshow(values * factor, cmap=COLOURS, norm=scale, **near)
            bare(ax, magnified(title, factor))
        window = support(maps[-1])
        if window is not None:
            top, bottom, left, right = window
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            axes[0].add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ff9900", lw=1.2))
            for ax in axes[1:]:
                ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
                ax.set_xlabel("zoomed to the frame", fontsize=8, color=GREY)
        colour_bar(block, image, list(axes), clipped)


class Volume:
    """Central slices across each of the three axes: a line of four panels each."""

    @staticmethod
    def size(scene: Scene, names: Any) -> tuple[float, float]:
        """Three lines a target."""
        return 11.6, 8.4 * scene.targets + 0.25

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Any, picture: Array | None) -> None:
        """Three lines of panels."""
        axes = block.subplots(3, 4)
        maps = [scene.map(kind, k) for kind in KINDS]
        scale, clipped = symmetric(*maps)
        for axis, line in enumerate(axes):
            at = scene.x.shape[axis + 1] // 2
            line[0].imshow(as_picture(scene.x.take(at, axis=axis + 1)), cmap="gray", aspect="auto")
            bare(line[0], "input $X$" if axis == 0 else None)
            line[0].set_ylabel(f"axis {axis}, slice {at}", fontsize=9, color=GREY)
            for ax, values, title in zip(line[1:], maps, titles(scene), strict=True):
                factor = magnification(values, scale)
                image = ax.imshow(values.take(at, axis=axis) * factor, cmap=COLOURS, norm=scale, aspect="auto")
                bare(ax, magnified(title, factor) if axis == 0 else None)
        colour_bar(block, image, list(axes.flat), clipped)


class Signal:
    """The signal above three coloured strips; a long list of features has one strip, its bias is in the caption."""

    @staticmethod
    def size(scene: Scene, names: Any) -> tuple[float, float]:
        """One line and its strips a target."""
        return 11.0, 3.6 * scene.targets + 0.25

    @staticmethod
    def block(block: Any, scene: Scene, k: int, names: Any, picture: Array | None) -> None:
        """A line plot, then the strips below it on the same axis."""
        spatial = scene.x.ndim == 2
        maps = [scene.map(kind, k) for kind in KINDS] if spatial else [scene.product(k)]
        rows = titles(scene) if spatial else (scene.symbol,)
        upper, *lower = block.subplots(1 + len(maps), 1, sharex=True, height_ratios=[3.2, *[0.8] * len(maps)])
        x = scene.x if spatial else scene.x[None]
        if len(x) > MANY_CHANNELS:
            upper.imshow(x, cmap="gray", aspect="auto", interpolation="nearest")
            upper.set_ylabel("channel", fontsize=9, color=GREY)
        else:
            for number, channel in enumerate(x):
                upper.plot(channel, lw=1.0, color=INK if len(x) == 1 else f"C{number}", label=f"channel {number}")
            upper.axhline(0, lw=0.6, color=GREY)
            if len(x) > 1:
                upper.legend(fontsize=7, loc="upper right", frameon=False)
            upper.set_ylabel("input $X$", fontsize=9, color=GREY)
        upper.tick_params(labelsize=8, colors=GREY)
        upper.spines[["top", "right"]].set_visible(False)
        scale, clipped = symmetric(*maps)
        for ax, values, title in zip(lower, maps, rows, strict=True):
            factor = magnification(values, scale)
            image = ax.imshow(values[None] * factor, cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
            bare(ax)
            short = magnified(title.split("  ")[0].split(" = ")[0], factor).replace(", colours", "\n")
            ax.set_ylabel(short, fontsize=9, color=INK, rotation=0, ha="right", va="center")
        colour_bar(block, image, [upper, *lower], clipped)
