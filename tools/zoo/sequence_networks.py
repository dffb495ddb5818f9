"""Tokens, time series, waveforms, states: modules_sequence.py by the PyTorch exporters."""

from __future__ import annotations

import functools

from zoo.entry import Network
from zoo.torch_build import BOTH, Input, ids, networks_of, normal

entry = functools.partial(networks_of, "sequence")
WORDS = {"embeddings": ("words",)}
TWICE = {"embeddings": (), "gradient": False}
LAST, SEED = {"target": "last"}, {"target": "seed"}
STATES = {"names": ("x", "h", "c")}

PADDED = (
    "the ones of Y past a row's length are the kept state's here, the skipped step's in the oracle: not in semantics.md"
)

NETWORKS: list[Network] = [
    *entry("bag-of-words", "text", (ids(30, 6), Input((6,), "mask")), BOTH, **WORDS),
    *entry("text-cnn", "text", ids(30, 8), BOTH, **WORDS),
    *entry("tagger", "token labels", ids(30, 6), BOTH, options={"target": "class:2"}, **WORDS),
    *entry(
        "packed",
        "time series",
        (normal(6, 5), Input((6, 4), "lengths")),
        ("torchscript 17",),
        oracle=PADDED,
        quick=True,
    ),
    *entry("language-model", "language model", ids(40, 6), BOTH, options=LAST, **WORDS),
    *entry("translator", "encoder-decoder", (ids(30, 6), ids(30, 5)), BOTH, options=LAST, **TWICE),
    *entry("seq2seq", "encoder-decoder", (normal(6, 4), normal(5, 3)), BOTH, options=LAST),
    *entry("pointer", "set to sequence", normal(7, 3), BOTH),
    *entry("sentence-pair", "several inputs", (ids(30, 6), ids(30, 5)), BOTH, **TWICE),
    *entry("lstm-step", "states", (normal(5), normal(6), normal(6)), BOTH, **STATES),
    *entry("lstm-states", "states", (normal(4, 5), normal(2, 6), normal(2, 6)), ("torchscript 17",), **STATES),
    *entry("streaming", "states", (normal(3, 5), normal(3, 2), normal(6, 4)), BOTH, options={"target": "input"}),
    *entry(
        "cached-attention", "states", (normal(1, 8), normal(4, 8), normal(4, 8)), BOTH, options={"inputs": ["x", "x1"]}
    ),
    *entry("tcn", "time series", normal(3, 16), BOTH),
    *entry("wavenet", "time series", normal(4, 12), BOTH, options={"target": "top:2"}),
    *entry("n-beats", "forecast", normal(12), BOTH, options={"target": "0,1,2,3"}),
    *entry("informer", "time series", normal(12, 3), BOTH),
    *entry("autoformer", "forecast", normal(16), BOTH, options={"target": "3"}),
    *entry("patch-tst", "forecast", normal(2, 16), options={"target": "top:2"}),
    *entry("neural-ode", "time series", normal(5), BOTH),
    *entry("echo-state", "time series", normal(6, 3), BOTH),
    *entry("wav2vec", "speech", normal(64), BOTH, options={"target": "class:3"}),
    *entry("spectrogram", "speech", normal(64), BOTH),
    *entry("stft", "speech", normal(48), ("torchscript 17", "dynamo 20")),
    *entry("enhancer", "speech", normal(40), BOTH, options={"target": "17"}),
    *entry("speaker", "embedding", normal(6, 12), BOTH, options=SEED),
]
