"""Load a model, with one clear line for everything that can be wrong with its file.

Weights in external data files are never read here: they stay where they are, and what is checked of them is that they
exist inside the model's folder and are long enough.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from omenn_onnx.errors import ModelFileError
from omenn_onnx.graph.saving import PROTOBUF_LIMIT, AnyPath, save_model
from omenn_onnx.graph.skeleton import skeleton
from omenn_onnx.graph.walk import captured_names, graphs_of, nodes_of, tensor_bytes, tensors_of

__all__ = ["OLDEST_OPSET", "LoadedModel", "load_model", "save_model", "skeleton"]

OLDEST_OPSET = 7

_RUNTIME_OPERATORS = frozenset(
    {
        *("Affine", "Crop", "DynamicSlice", "GivenTensorFill", "GroupNormalization", "ImageScaler"),
        *("LayerNormalization", "MeanVarianceNormalization", "ParametricSoftplus", "Scale", "ScaledTanh"),
        *("SimplifiedLayerNormalization", "ThresholdedRelu"),
    }
)
"""Operators that ONNX Runtime runs in the default domain at opsets where ONNX has none of that name (its optimiser
writes some) or has deprecated it (GroupNormalization-18); the ONNX checker must not refuse a model for them."""


@dataclass
class LoadedModel:
    """A checked model. External data is not loaded: ``folder`` is what its locations are relative to.

    ``path`` and ``folder`` are None for a model given in memory. ``weight_bytes`` counts all initializers and
    constants, external ones included.
    """

    proto: ModelProto
    path: Path | None
    folder: Path | None
    weight_bytes: int


def load_model(source: AnyPath | bytes | ModelProto, folder: AnyPath | None = None) -> LoadedModel:
    """Read and check a model from a path, from its bytes, or from a ModelProto (which is copied, never changed).

    ``folder`` says where the external data of a model given in memory lies; for a path it is the file's own folder.
    What ONNX Runtime accepts though the ONNX checker does not is put right in the loaded copy: a graph without a name,
    nodes out of order, missing imports of operator domains, the default domain spelt out, repeated metadata keys.

    Raises ModelFileError, whose message is one line that names the file.
    """
    path: Path | None = None
    base = None if folder is None else Path(folder)
    if isinstance(source, ModelProto):
        label, proto = "the given model", ModelProto()
        proto.CopyFrom(source)
    elif isinstance(source, bytes):
        label, proto = "the given bytes", _parse(source, "the given bytes")
    else:
        path = Path(source)
        label, base = str(path), path.parent
        proto = _parse(_read(path), label)
    _check_versions(proto, label)
    if not proto.graph.node:
        raise ModelFileError(f"{label}: the graph is empty: it has no nodes")
    if not proto.graph.output:
        raise ModelFileError(f"{label}: the graph is empty: it has no outputs")
    _tolerate(proto, label)
    weight_bytes = 0
    for tensor in tensors_of(proto):
        weight_bytes += _check_tensor(tensor, base, label)
    _run_checker(proto, label)
    return LoadedModel(proto, path, base, weight_bytes)


def _read(path: Path) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise ModelFileError(f"{path}: is a directory, not a model file")
        if not stat.S_ISREG(info.st_mode):
            raise ModelFileError(f"{path}: is not a regular file")
        if info.st_size == 0:
            raise ModelFileError(f"{path}: the file is empty")
        if info.st_size > PROTOBUF_LIMIT:
            raise _too_large(str(path), info.st_size)
        return path.read_bytes()
    except FileNotFoundError as e:
        raise ModelFileError(f"{path}: no such file") from e
    except (OSError, ValueError) as e:
        raise ModelFileError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e


def _too_large(label: str, size: int) -> ModelFileError:
    return ModelFileError(
        f"{label}: has {size / 1e9:.1f} GB, but no ONNX file is larger than 2 GB: "
        "it is damaged or something else (larger models keep their weights in external data)"
    )


def _parse(data: bytes, label: str) -> ModelProto:
    if not data:
        raise ModelFileError(f"{label}: the file is empty")
    if len(data) > PROTOBUF_LIMIT:
        raise _too_large(label, len(data))
    known = {
        b"PK\x03\x04": "it is a zip archive (a PyTorch checkpoint? export the model with torch.onnx.export)",
        b"version https://git-lfs": "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'",
        b"\x89HDF": "it is an HDF5 file (a Keras model? convert it with tf2onnx)",
    }
    for start, what in known.items():
        if data.startswith(start):
            raise ModelFileError(f"{label}: is not an ONNX file: {what}")
    if data[4:8] == b"ORTM":
        raise ModelFileError(f"{label}: is in ONNX Runtime's own format; give the .onnx file that it was made from")
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as e:  # the parser failed; the class of its error depends on the protobuf in use
        if _is_cut_off(data):
            raise ModelFileError(f"{label}: the file is truncated: it ends in the middle of the model") from e
        raise ModelFileError(f"{label}: is not an ONNX file") from e
    if not proto.HasField("graph"):
        if proto.ir_version and (proto.producer_name or proto.opset_import):
            raise ModelFileError(f"{label}: the file is truncated or has no graph")
        raise ModelFileError(f"{label}: is not an ONNX file")
    return proto


def _is_cut_off(data: bytes) -> bool:
    """Whether ``data`` reads as fields of a ModelProto of which the last one promises more bytes than there are."""
    position = fields = 0
    known = {f.number for f in ModelProto.DESCRIPTOR.fields}
    while position < len(data):
        key, position = _varint(data, position)
        if key is None:
            return fields > 0
        number, wire = key >> 3, key & 7
        if number not in known or wire not in (0, 2) or (fields == 0 and number != 1):
            return False
        value, position = _varint(data, position)
        if value is None:
            return fields > 0
        if wire == 2:
            position += value
        fields += 1
    return position > len(data)


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    """The protobuf varint at ``position`` and the position after it; None when the data ends inside or it is none."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None, position
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return None, position


def _check_versions(proto: ModelProto, label: str) -> None:
    if proto.ir_version == 0:
        raise ModelFileError(f"{label}: is not a valid ONNX model: ir_version is missing")
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelFileError(
            f"{label}: ir_version {proto.ir_version} is newer than the installed onnx {onnx.__version__} knows "
            f"({onnx.IR_VERSION}); upgrade onnx"
        )
    opsets = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not proto.opset_import and proto.ir_version >= 3:
        raise ModelFileError(f"{label}: the file is truncated or not a valid ONNX model: it imports no operator set")
    if not opsets and any(n.domain in ("", "ai.onnx") for g in graphs_of(proto) for n in g.node):
        opsets = [1]  # what ONNX means by a missing import
    newest = onnx.defs.onnx_opset_version()
    if opsets and max(opsets) > newest:
        raise ModelFileError(
            f"{label}: opset {max(opsets)} is newer than the installed onnx {onnx.__version__} knows ({newest}); "
            "upgrade onnx"
        )
    if opsets and min(opsets) < OLDEST_OPSET:
        raise ModelFileError(
            f"{label}: opset {min(opsets)} is too old; {OLDEST_OPSET} is the oldest supported: export the model again, "
            f"or raise it with onnx.version_converter.convert_version(model, {OLDEST_OPSET})"
        )


def _tolerate(proto: ModelProto, label: str) -> None:
    """Put right what ONNX Runtime accepts but the ONNX checker, rightly, does not."""
    if not proto.graph.name:
        proto.graph.name = "graph"
    for node in nodes_of(proto):
        if node.domain == "ai.onnx":
            node.domain = ""
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        for o in imports:
            o.domain = "" if o.domain == "ai.onnx" else o.domain
    imported = {o.domain or "ai.onnx" for o in proto.opset_import}
    used = {n.domain or "ai.onnx" for g in graphs_of(proto) for n in g.node}
    for domain in sorted(used - imported):
        proto.opset_import.add(domain="" if domain == "ai.onnx" else domain, version=1)
    metadata = {p.key: p.value for p in proto.metadata_props}
    if len(metadata) < len(proto.metadata_props):
        del proto.metadata_props[:]
        for key, value in metadata.items():
            proto.metadata_props.add(key=key, value=value)
    for graph in graphs_of(proto):
        _sort_nodes(graph, label)


def _sort_nodes(graph: GraphProto, label: str) -> None:
    """Bring producers before consumers; nodes that are in order already keep their order."""
    producer = {name: k for k, n in enumerate(graph.node) for name in n.output if name}
    needs = [{producer[name] for name in (*n.input, *captured_names(n)) if name in producer} for n in graph.node]
    if all(not wanted or max(wanted) < k for k, wanted in enumerate(needs)):
        return
    order: list[int] = []
    state = [0] * len(needs)  # 0 new, 1 being visited, 2 done
    for root in range(len(needs)):
        stack = [root]
        while stack:
            k = stack[-1]
            if state[k] == 0:
                state[k] = 1
                waiting = sorted((p for p in needs[k] if state[p] != 2), reverse=True)
                if any(state[p] == 1 for p in waiting):
                    name = graph.node[k].name or graph.node[k].output[0]
                    raise ModelFileError(f"{label}: is not a valid ONNX model: node {name!r} is part of a cycle")
                stack.extend(waiting)
            else:
                stack.pop()
                if state[k] == 1:
                    state[k] = 2
                    order.append(k)
    place = {k: position for position, k in enumerate(order)}
    places = (place[k] for k in range(len(order)))
    graph.node.sort(key=lambda _: next(places))  # sort asks for the keys in order, once each


def _check_tensor(tensor: TensorProto, folder: Path | None, label: str) -> int:
    """Check that the bytes of ``tensor`` are all there, in the file or outside; return how many they are."""
    what = f"{label}: tensor {tensor.name!r}" if tensor.name else f"{label}: a constant"
    if any(d < 0 for d in tensor.dims):
        raise ModelFileError(f"{what} has a negative dimension: {list(tensor.dims)}")
    expected = tensor_bytes(tensor)
    if tensor.data_location != TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
            raise ModelFileError(f"{what} has {len(tensor.raw_data)} bytes where its shape asks for {expected}")
        return expected
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise ModelFileError(f"{what} has external data without a location")
    if folder is None:
        raise ModelFileError(f"{what} is in external data ({location!r}): give the model as a path, or name its folder")
    file = _inside(folder, location, what)
    try:
        info = file.stat()
    except OSError as e:
        missing = "is missing" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
        raise ModelFileError(f"{what}: its external data file {str(file)!r} {missing}") from e
    if not stat.S_ISREG(info.st_mode):
        raise ModelFileError(f"{what}: its external data {str(file)!r} is not a regular file")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError as e:
        raise ModelFileError(f"{what}: offset or length of its external data is not a number") from e
    if offset < 0 or length < expected:
        raise ModelFileError(f"{what}: its external data has {length} bytes at {offset}, its shape asks for {expected}")
    if offset + length > info.st_size:
        raise ModelFileError(
            f"{what}: its external data ends at byte {offset + length}, but {str(file)!r} has {info.st_size} bytes: "
            "the file is truncated or belongs to another model"
        )
    return expected


def _inside(folder: Path, location: str, what: str) -> Path:
    """``folder/location``, refused when that lies outside of the folder, by its name or through a symbolic link."""
    outside = ModelFileError(
        f"{what}: its external data {location!r} lies outside of the model's folder {str(folder)!r}, which is refused"
    )
    if Path(location).is_absolute() or os.path.normpath(location).split(os.sep)[0] == "..":
        raise outside
    file = folder / location
    try:
        real, root = file.resolve(), folder.resolve()
    except (OSError, RuntimeError) as e:
        raise ModelFileError(f"{what}: its external data {str(file)!r} cannot be found: {e}") from e
    if not real.is_relative_to(root):
        raise ModelFileError(f"{outside} (it is a symbolic link: copy the model with its links resolved, cp -rL)")
    return file


def _run_checker(proto: ModelProto, label: str) -> None:
    """The ONNX checker on the model without its large weights, blind to what ONNX Runtime accepts."""
    bare = skeleton(proto)
    bare.ir_version = max(bare.ir_version, 4)  # before 4 each initializer had to be an input; runtimes never asked
    opset = max((o.version for o in bare.opset_import if o.domain in ("", "ai.onnx")), default=1)
    for graph in graphs_of(bare):
        for node in graph.node:
            if node.op_type in _RUNTIME_OPERATORS and node.domain in ("", "ai.onnx"):
                node.domain = "" if _in_onnx(node.op_type, opset) else "com.microsoft"
    if all(o.domain != "com.microsoft" for o in bare.opset_import):
        bare.opset_import.add(domain="com.microsoft", version=1)
    for value in [*bare.graph.input, *bare.graph.output]:
        known = value.type.WhichOneof("value")
        if known is None and value in bare.graph.output:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        if known is None or known == "tensor_type":
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as e:
        message = " ".join(str(e).split()).replace("==> Context:", "in:")
        raise ModelFileError(f"{label}: is not a valid ONNX model: {message}") from e


def _in_onnx(op: str, opset: int) -> bool:
    """Whether the ONNX checker takes ``op`` of the default domain at ``opset`` (it refuses deprecated operators)."""
    try:
        return not onnx.defs.get_schema(op, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False
