"""Save a model without ever leaving half a file, and its external data where the runtime finds it."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

from onnx import ModelProto, TensorProto
from tqdm import tqdm

from omenn_onnx.errors import ModelFileError, OutputExists
from omenn_onnx.graph.walk import tensor_bytes, tensors_of

AnyPath = str | os.PathLike[str]

PROTOBUF_LIMIT = 2**31 - 1
"""No protobuf message can be larger; protobuf neither writes nor reads one."""

_COPY_CHUNK = 1 << 24
_COPY_BAR_FROM = 1 << 28


def save_model(proto: ModelProto, out_path: AnyPath, source_folder: AnyPath | None, force: bool = False) -> None:
    """Write ``proto`` to ``out_path`` in one step: the file is complete, or it is not there.

    External tensors stay external. ONNX Runtime and onnx refuse data outside of the model's folder, so that data is
    copied when the output lies in another folder than ``source_folder`` (never linked: onnx refuses hard links and
    symbolic links too, and would then refuse the original as well). A file of that name with other content is never
    overwritten, with ``force`` neither: it may hold the weights of another model.

    Equal protos give equal bytes. Raises OutputExists, or ModelFileError when the file cannot be written.
    """
    out = Path(out_path)
    check_target(out, force)
    payload = _serialise(proto, out)
    new_files: list[Path] = []
    try:
        for name in _locations(proto):
            if source_folder is None:
                raise ModelFileError(f"{out}: the weights are in external data, but it is not known in which folder")
            if not os.path.samefile(source_folder, out.parent):
                copied = _copy_data(Path(source_folder) / name, out.parent / os.path.normpath(name))
                new_files.extend(copied)
        _write_atomically(out, payload)
    except OSError as e:
        _remove(new_files)
        raise ModelFileError(f"{out}: cannot be written: {e.strerror or e}") from e
    except BaseException:
        _remove(new_files)
        raise


def check_target(out: Path, force: bool) -> None:
    if out.is_dir():
        raise ModelFileError(f"{out}: is a directory; give a file name")
    if not out.parent.is_dir():
        raise ModelFileError(f"{out}: cannot be written: there is no folder {str(out.parent)!r}")
    if out.exists() and not out.is_file():
        raise ModelFileError(f"{out}: is not a regular file; give another name")
    if os.path.lexists(out) and not force:
        raise OutputExists(f"{out}: exists already; give another name, or --force to overwrite it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ModelFileError(f"{out}: cannot be written: no permission in folder {str(out.parent)!r}")


def _serialise(proto: ModelProto, out: Path) -> bytes:
    embedded = sum(tensor_bytes(t) for t in tensors_of(proto) if t.data_location != TensorProto.EXTERNAL)
    try:
        payload = b"" if embedded > PROTOBUF_LIMIT else proto.SerializeToString(deterministic=True)
    except Exception:  # the only cause is the size; the class of the error depends on the protobuf in use
        payload = b""
    if not payload or len(payload) > PROTOBUF_LIMIT:
        raise ModelFileError(
            f"{out}: cannot be written: the result has {embedded / 1e9:.2f} GB of weights, and an ONNX file "
            "holds 2 GB; store the model's weights as external data (onnx.save with save_as_external_data=True) first"
        )
    return payload


def _locations(proto: ModelProto) -> list[str]:
    """The external data files that ``proto`` refers to, once each, sorted."""
    external = (t for t in tensors_of(proto) if t.data_location == TensorProto.EXTERNAL)
    return sorted({e.value for t in external for e in t.external_data if e.key == "location"})


def _copy_data(source: Path, target: Path) -> list[Path]:
    """Copy an external data file, with a progress bar when it is large; return what was newly made, files first."""
    if os.path.lexists(target):
        if target.is_file() and (os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)):
            return []
        raise OutputExists(
            f"{target}: exists already and is not this model's external data; it is not overwritten: "
            "remove it, or write to another folder"
        )
    made: list[Path] = []
    folder = target.parent
    while not folder.is_dir():
        made.append(folder)
        folder = folder.parent
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_name(target)
    total = source.stat().st_size
    try:
        with (
            open(source, "rb") as read,
            open(part, "xb") as write,
            tqdm(
                total=total,
                desc=f"copying {target.name}",
                unit="B",
                unit_scale=True,
                disable=None if total >= _COPY_BAR_FROM else True,
            ) as bar,
        ):
            while chunk := read.read(_COPY_CHUNK):
                write.write(chunk)
                bar.update(len(chunk))
            write.flush()
            os.fsync(write.fileno())
        os.replace(part, target)
    except BaseException:
        _remove([part, *made])
        raise
    return [target, *made]


def _write_atomically(out: Path, payload: bytes) -> None:
    part = _part_name(out)
    try:
        with open(part, "xb") as write:
            write.write(payload)
            write.flush()
            os.fsync(write.fileno())
        os.replace(part, out)
    except BaseException:
        _remove([part])
        raise


def _part_name(path: Path) -> Path:
    """A name beside ``path`` that no other process uses, for the file while it is being written."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _remove(made: list[Path]) -> None:
    """Undo: remove files and (then empty) folders that this call made."""
    for path in made:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
