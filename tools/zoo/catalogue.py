"""All networks of the zoo: one module a family, each with a table ``NETWORKS``."""

from __future__ import annotations

import importlib

from zoo.entry import Network

FAMILIES = [
    "torch_networks",
    "dense_networks",
    "sequence_networks",
    "graph_networks",
    "mixing_networks",
    "layer_networks",
    "transformers_networks",
    "perception_networks",
    "sklearn_networks",
    "quantised_networks",
    "optimised_networks",
    "keras_networks",
    "jax_networks",
    "twin_networks",
]


def networks(families: list[str] | None = None) -> list[Network]:
    """Every network, in the order of the families."""
    found: list[Network] = []
    for family in families or FAMILIES:
        found += importlib.import_module(f"zoo.{family}").NETWORKS
    names = [n.name for n in found]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise ValueError(f"two networks of the zoo have the same name: {', '.join(repeated)}")
    return found
