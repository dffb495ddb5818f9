"""The pictures of README.md: `python tools/make_readme_picture.py` writes docs/digit.png and docs/text.png.

They are explanations of models/, compiled, run and drawn by this package as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import omenn_onnx
from omenn_onnx import Explainer
from omenn_onnx.runtime.figures import write

ROOT = Path(__file__).resolve().parents[1]
DIGIT, SENTENCE = 1, 34
"""Rows of the held-out inputs in models/: a zero, and a sentence of two clauses."""


def explained(name: str, row: int, *inputs: str) -> tuple[Any, Any]:
    """The explanation of one held-out input of a model, and the file that the input came from."""
    with np.load(ROOT / "models" / f"{name}.npz") as file:
        data = dict(file)
    explainer = Explainer(omenn_onnx.compile(ROOT / "models" / f"{name}.onnx"), providers="cpu")
    return explainer({i: data[i][row : row + 1] for i in inputs}), data


def save(figure: Any, path: Path) -> None:
    """Write a figure, small enough for a repository."""
    path.parent.mkdir(exist_ok=True)
    write(figure, path, dpi=120)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def main() -> None:
    found, data = explained("digits_cnn", DIGIT, "image")
    figure = found.plot(labels=[str(n) for n in data["class_names"]], title="digits_cnn.onnx, a handwritten zero")
    save(figure, ROOT / "docs" / "digit.png")
    found, data = explained("grammar_text", SENTENCE, "token_ids", "attention_mask")
    words = [str(w) for w in data["vocabulary"]]
    figure = found.plot(
        labels=[str(n) for n in data["class_names"]], vocabulary=words, title="grammar_text.onnx, a sentence"
    )
    save(figure, ROOT / "docs" / "text.png")


if __name__ == "__main__":
    main()
