"""Several inputs, embeddings, tables, ways of mixing: modules_inputs.py and modules_mixing.py."""

from __future__ import annotations

import functools

from zoo.entry import Network
from zoo.torch_build import BOTH, ids, networks_of, normal

several = functools.partial(networks_of, "inputs")
entry = functools.partial(networks_of, "mixing")
PICTURE = normal(1, 8, 8)
SEED = {"target": "seed"}

NETWORKS: list[Network] = [
    *several("two-tower", "several inputs", (normal(6), normal(5)), BOTH, quick=True),
    *several("clip", "multimodal", (PICTURE, ids(30, 6)), BOTH, options={"target": "0,1"}, embeddings=("words",)),
    *several("multimodal", "multimodal", (PICTURE, normal(2, 10), normal(5)), BOTH),
    *several("visual-question", "multimodal", (PICTURE, ids(30, 5)), embeddings=("words",)),
    *several("film", "multimodal", (PICTURE, normal(5)), BOTH),
    *several("siamese", "several inputs", (PICTURE, PICTURE), BOTH),
    *several("triplet", "several inputs", (normal(6), normal(6), normal(6)), BOTH),
    *several("embedding", "embedding", normal(3, 12, 12), BOTH, options=SEED),
    *several("prototypes", "distance", normal(6), BOTH),
    *several("radial-basis", "distance", normal(5), BOTH),
    *several("regressor", "regression", normal(7), BOTH),
    *several("poisson", "regression", normal(4), BOTH),
    *several("reconstruction-error", "autoencoder", normal(8), ("dynamo 18", "torchscript 11")),
    *several("ensemble", "ensemble", normal(6), BOTH),
    *several("multitask", "several outputs", normal(6), BOTH, gradient=False),
    *several("ft-transformer", "table", normal(6), BOTH),
    *several("tabnet", "table", normal(6), BOTH),
    *several("deepfm", "table", (normal(3), ids(9, 2), ids(9, 1)), BOTH, embeddings=("a", "b")),
    *several("cross-network", "table", normal(6), BOTH),
    *several("soft-tree", "table", normal(5), BOTH),
    *several("kan", "table", normal(4), BOTH),
    *entry("mixture", "mixture of experts", normal(6), BOTH),
    *entry("sparse-mixture", "mixture of experts", normal(3, 5), BOTH),
    *entry("squeeze-excitation", "image", normal(3, 12, 12), BOTH),
    *entry("perceiver", "set", normal(12, 4), BOTH),
    *entry("gmlp", "sequence", normal(7, 6), BOTH),
    *entry("linear-attention", "sequence", normal(6, 5), BOTH),
    *entry("performer", "sequence", normal(6, 5), BOTH, options={"target": "last"}),
    *entry("linformer", "sequence", normal(8, 5), BOTH),
    *entry("mamba", "sequence", normal(5, 4), BOTH, options={"target": "last"}),
    *entry("state-space", "sequence", normal(8, 4), BOTH, options={"channel_axis": 2}),
    *entry("rwkv", "sequence", normal(5, 4), BOTH, options={"target": "last"}),
    *entry("capsules", "image", normal(1, 6, 6), BOTH),
    *entry("flow", "density", normal(6), BOTH),
    *entry("hypernetwork", "several inputs", (normal(5), normal(3)), BOTH),
    *entry(
        "dynamic-filter", "image", normal(3, 6, 6), ("dynamo 20",), batch=False, refused={"tangent": "kernel depends"}
    ),
    *entry("fourier-operator", "operator", normal(2, 12), ("dynamo 20",), options=SEED),
    *entry("fnet", "sequence", normal(6, 4), ("dynamo 20",)),
    *entry("nerf", "rays", normal(4, 3), BOTH),
    *entry("siren", "coordinates", normal(2), BOTH),
    *entry("hopfield", "retrieval", normal(5), BOTH),
    *entry("attention-pooling", "bag of instances", normal(6, 5), BOTH),
    *entry("logic", "table", normal(5), BOTH),
]
