"""Scatter*: linear in data and updates. Every update entry has one place in the flattened data."""

from __future__ import annotations

import numpy as np

from .stream import Array, Node, Tensor, carrier, lowest_rank, plus_bias, rule, times


def scatter(n: Node, data: Tensor, updates: Tensor, places: Array) -> Tensor:
    """places: for each update entry (flattened) its flat index in data.

    none: replace (the last update wins). add: what adds up, data included, in equal parts for the ones.
    A constant update or base is constant * o. Ones at a place: the carriers' that are there; where only a constant
    base shows, the mean of all updates' ones; where only constant updates show, the base's ones of that place.
    """
    reduction = n.attrs.get("reduction", "none")
    if reduction == "mul" and data.is_carrier and not updates.is_carrier:
        return _multiply(data, updates, places)
    if reduction in ("max", "min"):
        return _extremum(n, data, updates, places, np.maximum if reduction == "max" else np.minimum)
    if reduction not in ("none", "add"):
        raise n.refuse(f"reduction {reduction!r} of carriers")
    size, width, n_ones = data.value.size, n.columns.width, n.columns.n_ones
    value = data.value.reshape(-1).copy()
    lin, total, count, bias = np.zeros((size, width)), np.zeros((size, n_ones)), np.zeros(size), np.zeros(size)
    base_ones = data.ones.reshape(size, n_ones) if data.is_carrier else np.zeros((size, n_ones))
    if data.is_carrier:
        lin, total, count = data.lin.reshape(size, width).copy(), base_ones.copy(), np.ones(size)
        fallback = base_ones
    else:
        bias = value.copy()
        fallback = np.broadcast_to(updates.ones.reshape(-1, n_ones).mean(axis=0), (size, n_ones))
    for k, place in enumerate(places):
        if reduction == "none":
            value[place], lin[place], total[place], count[place], bias[place] = 0, 0, 0, 0, 0
        v = updates.value.reshape(-1)[k]
        value[place] += v
        if updates.is_carrier:
            lin[place] += updates.lin.reshape(-1, width)[k] if width else 0
            total[place] += updates.ones.reshape(-1, n_ones)[k] if n_ones else 0
            count[place] += 1
        else:
            bias[place] += v
    ones = np.where((count == 0)[:, None], fallback, total / np.maximum(count, 1)[:, None])
    lin = plus_bias(n, lin, ones, bias)
    shape = data.shape
    rank = lowest_rank([data, updates])
    return carrier(value.reshape(shape), lin.reshape(*shape, width), ones.reshape(*shape, n_ones), rank)


def _extremum(n: Node, data: Tensor, updates: Tensor, places: Array, best) -> Tensor:
    """As Max or Min of all that meets at a place: the winners in equal shares, ones of the winning carriers; where a
    constant base wins, it shows (the mean of all updates' ones); where constant updates win, the base's ones."""
    width, n_ones = n.columns.width, n.columns.n_ones
    value = data.value.reshape(-1).copy()
    best.at(value, places, updates.value.reshape(-1))
    sources = [(data, np.arange(value.size)), (updates, places)]
    winners = np.zeros(value.size)
    lin, ones = np.zeros((value.size, width)), np.zeros((value.size, n_ones))
    carried, bias = np.zeros(value.size), np.zeros(value.size)
    for t, at in sources:
        wins = (t.value.reshape(-1) == value[at]).astype(float)
        np.add.at(winners, at, wins)
        if t.is_carrier:
            np.add.at(lin, at, times(wins, t.lin.reshape(-1, width)))
            np.add.at(ones, at, times(wins, t.ones.reshape(-1, n_ones)))
            np.add.at(carried, at, wins)
        else:
            np.add.at(bias, at, wins * t.value.reshape(-1))
    fallback = data.ones.reshape(-1, n_ones) if data.is_carrier else updates.ones.reshape(-1, n_ones).mean(axis=0)
    ones = np.where((carried == 0)[:, None], fallback, ones / np.maximum(carried, 1)[:, None])
    lin = plus_bias(n, lin / winners[:, None], ones, bias / winners)
    shape = data.shape
    return carrier(value.reshape(shape), lin.reshape(*shape, width), ones.reshape(*shape, n_ones),
                   lowest_rank([data, updates]))  # fmt: skip


def _multiply(data: Tensor, updates: Tensor, places: Array) -> Tensor:
    """A carrier times constants at some places."""
    factor = np.ones(data.value.size)
    np.multiply.at(factor, places, updates.value.reshape(-1))
    factor = factor.reshape(data.shape)
    return carrier(data.value * factor, times(factor, data.lin), data.ones, data.rank)


@rule("ScatterElements", "Scatter")
def scatter_elements(n: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = n.attrs.get("axis", 0) % data.ndim
    grid = list(np.indices(indices.shape))
    grid[axis] = indices.value.astype(np.int64) % data.shape[axis]
    places = np.ravel_multi_index([g.reshape(-1) for g in grid], data.shape)
    return scatter(n, data, updates, places)


@rule("ScatterND")
def scatter_nd(n: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    index, depth = indices.value.astype(np.int64), indices.shape[-1]
    flat = np.arange(data.value.size).reshape(data.shape)
    places = [np.ravel(flat[tuple(index[at])]) for at in np.ndindex(*index.shape[:-1])]
    assert depth <= data.ndim
    return scatter(n, data, updates, np.concatenate(places) if places else np.zeros(0, dtype=np.int64))


@rule("TensorScatter")
def tensor_scatter(n: Node, data: Tensor, updates: Tensor, start: Tensor | None = None) -> Tensor:
    """Writes updates along one axis from a per-batch start, linear or circular."""
    axis = n.attrs.get("axis", -2) % data.ndim
    begin = np.zeros(data.shape[0], dtype=np.int64) if start is None else start.value.astype(np.int64)
    grid = list(np.indices(updates.shape))
    grid[axis] = grid[axis] + begin[grid[0]]
    if n.attrs.get("mode", "linear") == "circular":
        grid[axis] = grid[axis] % data.shape[axis]
    places = np.ravel_multi_index([g.reshape(-1) for g in grid], data.shape)
    return scatter(n, data, updates, places)
