"""What may be fed: names, shapes, types and finiteness, checked before the model runs and said in the user's words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omenn_onnx.errors import FeedError, NameNotFound
from omenn_onnx.runtime.engines import Array, TensorInfo


def by_name(feeds: Any, inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """``feeds`` as a dictionary; a single array stands for the only input. Raises FeedError where it is ambiguous."""
    if isinstance(feeds, Mapping):
        return dict(feeds)
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        raise FeedError(f"one array was given, but the model has {len(inputs)} inputs ({names}): give a dictionary")
    return {inputs[0].name: feeds}


def check_names(feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], optional: Sequence[TensorInfo] = ()) -> None:
    """Raises FeedError, with near matches, for names that the model does not know and for missing ones."""
    needed = [i.name for i in inputs]
    known = [*needed, *(i.name for i in optional)]
    for name in feeds:
        if name not in known:
            raise FeedError(str(NameNotFound("input", str(name), known)))
    missing = [repr(n) for n in needed if n not in feeds]
    if missing:
        raise FeedError(f"missing input{'s' if len(missing) > 1 else ''} {', '.join(missing)}")


def checked(value: Any, info: TensorInfo, allow_nonfinite: bool | None = False) -> Any:
    """``value`` as the array that input ``info`` wants.

    Only casts that keep every value are made (integers to floats, wider to narrower where nothing is lost, plain Python
    floats to the model's type). Values that lie on a device (OrtValue) pass as they are. Raises FeedError otherwise,
    and for NaN or Inf unless ``allow_nonfinite``, which turns the error into a warning (None: nothing can allow them).
    """
    if hasattr(value, "ortvalue_from_numpy"):
        check_shape(tuple(value.shape()), info)
        return value
    array = as_dtype(value, info)
    check_shape(array.shape, info)
    if array.dtype.kind == "f":
        check_finite(array, info.name, allow_nonfinite)
    return array


def as_dtype(value: Any, info: TensorInfo) -> Array:
    """``value`` in the declared type of ``info``, by casts that keep every value. Raises FeedError."""
    wanted = info.dtype
    plain = not hasattr(value, "dtype")  # Python numbers and lists have no precision of their own
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise FeedError(f"input {info.name!r}: not an array ({error})") from error
    if wanted is None or array.dtype == wanted:
        return array
    have, want = array.dtype.kind, wanted.kind
    told = f"input {info.name!r} wants {wanted}, got {array.dtype}"
    if want == "O" and have in "OUS":
        return array.astype(object)
    if have not in "biuf" or want not in "biuf":
        raise FeedError(told)
    if have == "f" and want != "f":
        raise FeedError(f"{told}: floats are not cast to {'booleans' if want == 'b' else 'integers'}")
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
        back = cast.astype(array.dtype)
        lost = ~((back == array) | (np.isnan(array) & np.isnan(back)) if have == "f" else back == array)
        if have in "iu" and want in "iu":  # a wrapped sign survives the round trip
            lost |= (cast < 0) != (array < 0)
    if not lost.any() or (plain and want == "f" and np.isfinite(cast[lost]).all()):
        return cast
    if want == "f":
        raise FeedError(f"{told}, and the cast would round it: convert it yourself, with astype({wanted.name!r})")
    raise FeedError(f"{told}, and value {array[lost].flat[0]} does not fit")


def check_shape(shape: Sequence[int], info: TensorInfo) -> None:
    """Raises FeedError where ``shape`` contradicts the declared dimensions."""
    dims = info.dims
    if dims is None:
        return
    told = f"input {info.name!r} wants shape {spell(dims)}, got {spell(shape)}"
    if len(shape) == len(dims) - 1 and fits(shape, dims[1:]):
        raise FeedError(f"{told}: the batch axis is missing (x[None] adds it)")
    if not fits(shape, dims):
        fixed = len(shape) == len(dims) and isinstance(dims[0], int) and fits(shape[1:], dims[1:])
        raise FeedError(told + (f": the model takes {dims[0]} row(s) a time (batch_size={dims[0]})" if fixed else ""))
    if 0 in shape and 0 not in dims:
        raise FeedError(f"input {info.name!r} is empty: shape {spell(shape)}")


def fits(shape: Sequence[int], dims: Sequence[Any]) -> bool:
    """True where every fixed dimension agrees."""
    pairs = zip(shape, dims, strict=False)
    return len(shape) == len(dims) and all(not isinstance(d, int) or d == n for n, d in pairs)


def spell(dims: Sequence[Any]) -> str:
    """Dimensions as [N,3,224,224]; ? for a dimension without a name."""
    return "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"


def check_finite(array: Array, name: str, allow: bool | None) -> None:
    """NaN and Inf are said, not hidden: FeedError, or a warning where they are allowed."""
    finite = np.isfinite(array)
    if finite.all():
        return
    first = [int(i) for i in np.argwhere(~finite)[0]]
    told = f"input {name!r} has {int((~finite).sum())} NaN or Inf value(s), the first at {first}"
    if not allow:
        hint = "" if allow is None else " (allow_nonfinite=True runs it anyway)"
        raise FeedError(f"{told}: an explanation of them would mean nothing{hint}")
    warnings.warn(told, RuntimeWarning, stacklevel=4)


def batch_of(feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], like: TensorInfo | None = None) -> int:
    """Number of rows: the dimension that is named like the first of ``like``, else the first input's axis 0."""
    if like is not None and like.dims:
        first = like.dims[0]
        if isinstance(first, int):
            return first
        for info in inputs:
            if first is not None and info.dims and first in info.dims and info.name in feeds:
                return _size(feeds, info, first)
    for info in inputs:
        if info.name in feeds and len(_shape(feeds[info.name])):
            return int(_shape(feeds[info.name])[0])
    return 1


def rows_of(feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], chosen: Any, count: int) -> dict[str, Any]:
    """Rows ``chosen`` (a slice or indices) of every input that has ``count`` rows; what all rows share stays whole."""
    first = next((i.dims[0] for i in inputs if i.dims), None)
    taken = {}
    for info in inputs:
        if info.name not in feeds:
            continue
        value = feeds[info.name]
        dims = info.dims or (None,)
        batched = len(_shape(value)) > 0 and _shape(value)[0] == count and (dims[0] is None or dims[0] == first)
        taken[info.name] = value[chosen] if batched else value
    return taken


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "ortvalue_from_numpy"):
        return tuple(value.shape())
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _size(feeds: Mapping[str, Any], info: TensorInfo, dim: Any) -> int:
    return int(_shape(feeds[info.name])[(info.dims or ()).index(dim)])
