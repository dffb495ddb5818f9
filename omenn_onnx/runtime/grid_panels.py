"""Explained inputs with spatial axes: images, signals, volumes."""

from __future__ import annotations

from typing import Any

import numpy as np

from omenn_onnx.runtime.engines import Array
from omenn_onnx.runtime.panels import COLOURS, GREY, INK, Scene, bare, colour_bar, symmetric

MANY_CHANNELS = 6  # signals of more channels are shown as an image
KINDS = ("C_w*X", "C_b", "C")


def as_picture(x: Array) -> Array:
    """[channels, H, W] stretched to 0..1 for the eye: [H,W,3] for three channels, else [H,W], the mean of them."""
    shown = np.moveaxis(x, 0, -1) if len(x) == 3 else x.mean(axis=0, dtype=np.float64)
    shown = np.nan_to_num(shown.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = shown.min(), shown.max()
    return np.asarray((shown - low) / (high - low) if high > low else np.full(shown.shape, 0.5))


def titles(scene: Scene) -> tuple[str, str, str]:
    """What the three maps are, in the order of KINDS."""
    share = f"{scene.symbol}  (input)"
    return share, f"{scene.bias_symbol}  (biases)", f"$C$ = {scene.symbol} + {scene.bias_symbol}"


class Images:
    """Four panels a target: the input, C_w*X, C_b, C, the maps on one scale."""

    @staticmethod
    def size(scene: Scene) -> tuple[float, float]:
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
            image = ax.imshow(values, cmap=COLOURS, norm=scale, **near)
            bare(ax, title)
        colour_bar(block, image, list(axes), clipped)


class Volume:
    """Central slices across each of the three axes: a line of four panels each."""

    @staticmethod
    def size(scene: Scene) -> tuple[float, float]:
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
                image = ax.imshow(values.take(at, axis=axis), cmap=COLOURS, norm=scale, aspect="auto")
                bare(ax, title if axis == 0 else None)
        colour_bar(block, image, list(axes.flat), clipped)


class Signal:
    """The signal above three coloured strips; a long list of features has one strip, its bias is in the caption."""

    @staticmethod
    def size(scene: Scene) -> tuple[float, float]:
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
            image = ax.imshow(values[None], cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
            bare(ax)
            short = title.split("  ")[0].split(" = ")[0]
            ax.set_ylabel(short, fontsize=9, color=INK, rotation=0, ha="right", va="center")
        colour_bar(block, image, [upper, *lower], clipped)
