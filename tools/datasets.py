"""The data behind the networks of models/: two sets that scikit-learn ships, and sentences of a small grammar."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

SPLIT_SEED = 0
HELD_OUT = 0.25


@dataclass(frozen=True)
class Dataset:
    """Inputs by graph input name (training and held-out), labels, class names, and what shows an input to a reader."""

    train: dict[str, NDArray[np.generic]]
    train_labels: NDArray[np.int64]
    test: dict[str, NDArray[np.generic]]
    test_labels: NDArray[np.int64]
    class_names: list[str]
    extras: dict[str, NDArray[np.generic]] = field(default_factory=dict)


def _split(name: str, inputs: NDArray[np.float32], labels: NDArray[np.int64], classes: list[str]) -> Dataset:
    """Stratified split with a fixed seed, `HELD_OUT` of the rows never seen in training."""
    x, x_test, y, y_test = train_test_split(
        inputs, labels, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels
    )
    return Dataset({name: x}, y, {name: x_test}, y_test, classes)


def digits() -> Dataset:
    """1,797 handwritten digits, 8x8 pixels of 0..16, scaled to 0..1 and upsampled bilinearly to [N,1,16,16]."""
    bunch = load_digits()
    small = torch.from_numpy(bunch.images.astype(np.float32) / 16)[:, None]
    images = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False).numpy()
    return _split("image", images, bunch.target.astype(np.int64), [str(digit) for digit in range(10)])


def breast_cancer() -> Dataset:
    """569 tumours, 30 raw features each; classes malignant (0) and benign (1)."""
    bunch = load_breast_cancer()
    data = _split(
        "features", bunch.data.astype(np.float32), bunch.target.astype(np.int64), [str(n) for n in bunch.target_names]
    )
    data.extras["feature_names"] = np.array([str(n) for n in bunch.feature_names])
    return data


# --- sentences ------------------------------------------------------------------------------------------------------

LONGEST = 16
PADDING = "<pad>"
CLASS_NAMES = ["negative", "neutral", "positive"]
ADJECTIVES = {
    -1: ["bad", "awful", "boring", "terrible", "dull", "weak"],
    0: ["long", "short", "old", "french", "loud"],
    1: ["good", "great", "wonderful", "brilliant", "charming", "funny"],
}
VERBS = {-1: ["hated", "disliked"], 0: ["saw", "discussed"], 1: ["loved", "liked", "enjoyed"]}
NOUNS = ["film", "plot", "music", "acting", "story", "ending", "cast", "script"]
COPULAS = ["was", "is", "seemed"]
NEGATIONS = ["not", "never", "hardly"]  # the first never before a verb
DEGREES = ["very", "really", "so", "rather"]  # the last never after a negation
PEOPLE = ["i", "we", "they"]
FUNCTION_WORDS = ["the", "and", "but", "that", "doubt", "think"]
VOCABULARY = [
    PADDING,
    *FUNCTION_WORDS,
    *PEOPLE,
    *NOUNS,
    *COPULAS,
    *NEGATIONS,
    *DEGREES,
    *(word for polarity in (-1, 0, 1) for word in ADJECTIVES[polarity] + VERBS[polarity]),
]


def _clause(rng: np.random.Generator) -> tuple[list[str], int]:
    """A clause and its polarity -1, 0 or 1: a negation turns the polarity of its adjective or verb round."""
    polarity = int(rng.integers(-1, 2))
    negated = bool(rng.random() < 0.4)
    noun = ["the", str(rng.choice(NOUNS))]
    if rng.random() < 0.65:
        negation = [str(rng.choice(NEGATIONS))] if negated else []
        degree = [str(rng.choice(DEGREES[:3] if negated else DEGREES))] if rng.random() < 0.5 else []
        words = [*noun, str(rng.choice(COPULAS)), *negation, *degree, str(rng.choice(ADJECTIVES[polarity]))]
    else:
        negation = [str(rng.choice(NEGATIONS[1:]))] if negated else []
        words = [str(rng.choice(PEOPLE)), *negation, str(rng.choice(VERBS[polarity])), *noun]
    return words, -polarity if negated else polarity


def sentence(rng: np.random.Generator) -> tuple[list[str], int]:
    """A sentence of 4..16 words and its class index.

    'X' and 'i think that X' mean X, 'i doubt that X' its opposite. 'X and Y' joins clauses of one polarity,
    'X but Y' of two, and Y decides.
    """
    while True:
        words, polarity = _clause(rng)
        if rng.random() < 0.3:
            doubt = bool(rng.random() < 0.5)
            words = [str(rng.choice(PEOPLE)), "doubt" if doubt else "think", "that", *words]
            polarity = -polarity if doubt else polarity
        if rng.random() < 0.45:
            more, second = _clause(rng)
            words = [*words, "and" if second == polarity else "but", *more]
            polarity = second
        if 4 <= len(words) <= LONGEST:
            return words, polarity + 1


def encode(sentences: list[list[str]]) -> dict[str, NDArray[np.generic]]:
    """Token ids and attention mask, int64 [N,16], padded on the right."""
    index = {word: i for i, word in enumerate(VOCABULARY)}
    ids = np.full((len(sentences), LONGEST), index[PADDING], dtype=np.int64)
    for row, words in zip(ids, sentences, strict=True):
        row[: len(words)] = [index[word] for word in words]
    return {"token_ids": ids, "attention_mask": (ids != index[PADDING]).astype(np.int64)}


def grammar(train: int = 12_000, test: int = 2_000, seed: int = 0) -> Dataset:
    """Distinct sentences of the grammar, none of the held-out ones among the training ones."""
    rng = np.random.default_rng(seed)
    known: dict[tuple[str, ...], int] = {}
    while len(known) < train + test:
        words, label = sentence(rng)
        known.setdefault(tuple(words), label)
    order = rng.permutation(train + test)
    sentences = [list(words) for words in known]
    labels = np.array(list(known.values()), dtype=np.int64)
    tokens = encode([sentences[i] for i in order])
    labels = labels[order]
    return Dataset(
        {key: value[:train] for key, value in tokens.items()},
        labels[:train],
        {key: value[train:] for key, value in tokens.items()},
        labels[train:],
        CLASS_NAMES,
        {"vocabulary": np.array(VOCABULARY), "padding_id": np.array(VOCABULARY.index(PADDING), dtype=np.int64)},
    )
