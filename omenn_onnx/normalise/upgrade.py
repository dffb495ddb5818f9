"""Bring a model to the opset that the compiler works on, with the same meaning.

onnx.version_converter does not do: it fails on many operators, loses names, and needs all weights in one message.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

import onnx
from onnx import GraphProto, ModelProto, helper

from omenn_onnx.errors import CompileError, Unsupported
from omenn_onnx.graph.files import OLDEST_OPSET
from omenn_onnx.graph.walk import graphs_of
from omenn_onnx.normalise.upgrade_rules import ADAPTERS
from omenn_onnx.normalise.upgrade_site import Additions, Refused, Site, collect
from omenn_onnx.normalise.upgrade_table import COMPATIBLE

_DEFAULT_DOMAIN = ("", "ai.onnx")


def upgrade(model: ModelProto, target: int = 20) -> None:
    """Rewrite ``model`` in place from its opset of the default domain to ``target``; a newer model is left alone.

    Requires: functions are inlined, target >= 18. Ensures: every node of the default domain is valid at ``target`` and
    computes what it did; nodes and outputs keep their names; what is added has names of its own, new constants are
    initializers of the main graph; ir_version is one that knows ``target``.

    Raises CompileError, naming every node that cannot be brought over exactly; ``model`` is then half rewritten.
    """
    if model.functions:
        raise ValueError("inline the model's functions before the upgrade")
    if not 18 <= target <= onnx.defs.onnx_opset_version():
        raise ValueError(f"no target opset: {target}")
    source = max((o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAIN), default=target - 1)
    if source >= target:
        return
    if source < OLDEST_OPSET:
        raise CompileError(
            f"the model has opset {source}, and {OLDEST_OPSET} is the oldest supported: export it again, or raise it "
            f"with onnx.version_converter.convert_version(model, {OLDEST_OPSET})"
        )
    additions = Additions(model.graph, collect(model))
    graphs = list(graphs_of(model))[::-1]  # (inner before outer: an adapter may move a body)
    refused = [entry for graph in graphs for entry in _upgrade_graph(graph, source, target, additions)]
    if refused:
        raise CompileError(
            f"{len(refused)} node(s) cannot be brought exactly from opset {source} to {target}: "
            + "; ".join(str(entry) for entry in refused)
        )
    _set_versions(model, target)


def _upgrade_graph(graph: GraphProto, source: int, target: int, additions: Additions) -> list[Unsupported]:
    """Upgrade the nodes of one graph, not of its subgraphs; return those that are refused."""
    refused: list[Unsupported] = []
    for k in reversed(range(len(graph.node))):
        node = graph.node[k]
        if node.domain not in _DEFAULT_DOMAIN:
            continue
        site = Site(node, source, additions)
        try:
            _upgrade_node(site, source, target)
        except Refused as e:
            refused.append(e.entry)
        for new in reversed(site.after):
            graph.node.insert(k + 1, new)
        for new in reversed(site.before):
            graph.node.insert(k, new)
    return refused[::-1]


def _upgrade_node(site: Site, source: int, target: int) -> None:
    """Apply, version by version, what changed of the node's operator. An adapter may change which operator it is."""
    version = source
    while True:
        op = site.node.op_type
        later = _HISTORY[op][bisect_right(_HISTORY[op], version) :]
        if not later or later[0] > target:
            return
        version = later[0]
        rule = ADAPTERS.get((op, version))
        if rule is not None:
            rule(site)
        elif version > _HISTORY[op][0] and version not in COMPATIBLE.get(op, ()):
            raise site.refuse(f"how opset {version} changed it is not known here: compile with a newer omenn-onnx")


def _history() -> dict[str, list[int]]:
    """All versions of each operator of the default domain, oldest first."""
    versions: dict[str, list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions[schema.name].append(schema.since_version)
    return defaultdict(list, {op: sorted(found) for op, found in versions.items()})


_HISTORY = _history()


def _set_versions(model: ModelProto, target: int) -> None:
    """Import ``target`` once and raise ir_version.

    Before IR 4 an initializer had to be a graph input too and was a constant all the same: ONNX Runtime takes no value
    for it. From IR 4 on such an input makes the initializer a default that can be overridden, so it is removed.
    """
    if model.ir_version < 4:
        initializers = {i.name for i in model.graph.initializer} | {
            i.values.name for i in model.graph.sparse_initializer
        }
        for k in reversed(range(len(model.graph.input))):
            if model.graph.input[k].name in initializers:
                del model.graph.input[k]
    model.ir_version = max(model.ir_version, helper.OP_SET_ID_VERSION_MAP[("ai.onnx", target)])
    for k in reversed(range(len(model.opset_import))):
        if model.opset_import[k].domain in _DEFAULT_DOMAIN:
            del model.opset_import[k]
    model.opset_import.insert(0, helper.make_opsetid("", target))
