"""Graphs and point clouds: modules_graphs.py by the PyTorch exporters."""

from __future__ import annotations

import functools

from zoo.entry import Network
from zoo.torch_build import BOTH, Input, ids, networks_of, normal

entry = functools.partial(networks_of, "graphs")
NODES = normal(6, 5)
LINKED = Input((6, 6), "graph")
EDGES = Input((2, 12), "ids", 7, alone=True)
FLAT = normal(7, 4, alone=True)
X = {"inputs": ["x"]}

NETWORKS: list[Network] = [
    *entry("gcn", "graph", (NODES, LINKED), BOTH, options={**X, "target": "class:1"}),
    *entry("gat", "graph", (NODES, LINKED), BOTH, options=X, quick=True),
    *entry("gin", "graph", (NODES, LINKED), BOTH, options=X),
    *entry("relational", "graph", (NODES, normal(3, 6, 6)), BOTH, options=X),
    *entry("chebyshev", "graph", (normal(6, 4), normal(6, 6)), BOTH, options={"target": "class:0"}),
    *entry("graphormer", "graph", (NODES, ids(4, 6, 6)), BOTH, options=X),
    *entry("message-passing", "graph", (FLAT, EDGES, normal(12, 3, alone=True)), batch=False, options={"target": "1"}),
    *entry("scatter-mean", "graph", (FLAT, EDGES, Input((7,), "ids", 2, alone=True)), BOTH, batch=False),
    *entry("edge-softmax", "graph", (FLAT, EDGES), batch=False, quick=True),
    *entry("scatter-max", "graph", (FLAT, EDGES), batch=False),
    *entry("knowledge-graph", "graph", (ids(20), ids(20), ids(20)), BOTH, gradient=False),
    *entry("pointnet", "point cloud", normal(3, 12), BOTH),
    *entry("pointnet-segments", "point cloud", normal(12, 3), BOTH, options={"target": "class:1"}),
    *entry("dgcnn", "point cloud", normal(8, 3), BOTH),
    *entry("set-transformer", "point cloud", normal(8, 3), BOTH),
    *entry("equivariant", "point cloud", (normal(6, 4), normal(6, 3)), BOTH),
    *entry("schnet", "molecule", (ids(8, 5), normal(5, 3)), BOTH, gradient=False),
]
