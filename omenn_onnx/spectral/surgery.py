"""Spectral surgery: what a network gives without some of the components of a layer, at one input.

R maps the input x to the layer, h = R x + b, and L the layer to the output, y = L h + c. Components k of
R = sum s_k u_k v_k^T are taken out in one of two ways, which differ where what follows the layer is not linear:

    linear   y' = y - sum over k of L u_k (u_k^T R x)    the affine model of this instance, R' = R - sum s_k u_k v_k^T
    rerun    h' = h - sum over k of u_k (u_k^T R x)      and the network itself from there on, anew

The second says what the prediction would be without the components, the first what they add to it as it is (SpecXAI's
contributions, eq. 20). That there are two, and both by u_k u_k^T R rather than s_k u_k v_k^T (no division by s_k, and
exact for the subspace even where the triplets are not), is this project's own choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from onnx import ModelProto

from omenn_onnx.errors import NameNotFound, SpectrumError
from omenn_onnx.graph.saving import save_model
from omenn_onnx.spectral.contributions import contributions
from omenn_onnx.spectral.full import Spectrum
from omenn_onnx.spectral.functionals import functional
from omenn_onnx.spectral.instances import Instance
from omenn_onnx.spectral.operators import Array
from omenn_onnx.spectral.pruned import pruned_model
from omenn_onnx.spectral.svd import Triplets


@dataclass(frozen=True)
class Component:
    """A singular triplet of R at a layer, and what it adds.

    ``s``: singular value; ``projection``: u_k^T R x; ``contribution``: alpha_k = (L u_k)(u_k^T R x) for a seed, without
    one the length of that vector; ``share``: |contribution| in units of the sum over all components at hand.
    """

    index: int
    s: float
    projection: float
    contribution: float
    share: float


Choice = int | Iterable[int] | Callable[[Component], bool]
"""Components by index, or by a predicate."""


class Surgery:
    """The components of one layer at one instance, ready to be dropped or kept.

    ``found``: singular triplets of ``instance.operator(source, layer)``, any number of them, or its full spectrum.
    ``seed``: the functional of the target that contributions and shares refer to, a flat index or weights of its shape;
    None: the whole target, by lengths. ``contributions``: alpha of every element of the target. Raises NameNotFound,
    NoPath, TargetError, and SpectrumError where the triplets belong to another operator.
    """

    def __init__(
        self,
        instance: Instance,
        layer: str,
        found: Triplets | Spectrum,
        *,
        source: str | None = None,
        target: str | None = None,
        seed: Any = None,
    ) -> None:
        self.instance = instance
        self.right, self.left = instance.operator(source, layer), instance.operator(layer, target)
        self.whole = instance.operator(source, target)
        self.triplets = triplets = found.triplets() if isinstance(found, Spectrum) else found
        sides = triplets.u.shape[0], triplets.v.shape[0]
        if sides != self.right.shape:
            raise SpectrumError(
                f"the triplets are those of a {sides[0]} x {sides[1]} operator; {self.right.source!r} -> {layer!r} is "
                f"{self.right.shape[0]} x {self.right.shape[1]}"
            )
        if not (np.isfinite(triplets.u).all() and np.isfinite(triplets.s).all()):
            raise SpectrumError("the triplets hold NaN or infinite values")
        self.u = triplets.u.astype(np.float64)
        self.image = self.right.matvec(self.right.x).astype(np.float64)
        self.contributions = contributions(triplets, self.left, self.image)
        self.projections = self.contributions.coordinates
        if seed is None:
            sizes = np.linalg.norm(self.contributions.alpha, axis=0)
        else:
            sizes = functional(seed, self.left.target, self.left.target_shape, np.float64) @ self.contributions.alpha
        total = float(np.abs(sizes).sum()) or 1.0
        self.components = tuple(
            Component(k, float(s), float(p), float(size), float(abs(size) / total))
            for k, (s, p, size) in enumerate(zip(triplets.s, self.projections, sizes, strict=True))
        )

    def leading(self, share: float) -> tuple[int, ...]:
        """The fewest components that together hold this part (0 to 1) of sum |contribution|, largest first."""
        if not 0 <= share <= 1:
            raise SpectrumError(f"a share lies between 0 and 1, not {share}")
        shares = np.asarray([c.share for c in self.components])
        order = np.argsort(-shares, kind="stable")
        count = int(np.searchsorted(np.cumsum(shares[order]), share - 1e-12)) + 1 if share > 0 else 0
        return tuple(int(k) for k in order[:count])

    def drop(self, which: Choice) -> Pruned:
        """Without these components; what the triplets at hand leave of R stays."""
        return Pruned(self, self._chosen(which), dropping=True)

    def keep(self, which: Choice) -> Pruned:
        """With these components alone; what the triplets at hand leave of R goes too."""
        return Pruned(self, self._chosen(which), dropping=False)

    def _chosen(self, which: Choice) -> tuple[int, ...]:
        count = len(self.components)
        if callable(which):
            return tuple(c.index for c in self.components if which(c))
        asked = [which] if isinstance(which, int | np.integer) else list(which)
        for k in asked:
            if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or not 0 <= k < count:
                raise SpectrumError(f"component {k!r} is not there: {count} are at hand, 0 to {count - 1}")
        return tuple(sorted({int(k) for k in asked}))


class Pruned:
    """A network with some components of a layer dropped, or kept alone.

    ``indices``: those named; ``dropping``: whether they go (else all others do). ``linear`` [*target shape]: the affine
    model of the instance without what went. ``edited`` [*layer shape]: h', the layer's values without it.
    ``y`` [*target shape]: the target as it is.
    """

    def __init__(self, surgery: Surgery, indices: tuple[int, ...], dropping: bool) -> None:
        self.surgery, self.indices, self.dropping = surgery, indices, dropping
        chosen = list(indices)
        left, right, parts = surgery.left, surgery.right, surgery.contributions
        self._basis = surgery.u[:, chosen]
        named = self._basis @ surgery.projections[chosen]
        gone = named if dropping else surgery.image - named
        added = parts.alpha[:, chosen].sum(axis=1)
        lost = added if dropping else parts.linear - added
        self.y = left.y.reshape(left.target_shape)
        self.linear = (left.y - lost).astype(left.dtype).reshape(left.target_shape)
        self.edited = (right.y - gone).astype(right.dtype).reshape(right.target_shape)

    def rerun(self, *names: str) -> Any:
        """The target, or the tensors of these names (the model's outputs too), when the network goes on from h'. What
        reaches them past the layer is as it was. One array, or a dictionary where several names are given."""
        asked = names or (self.surgery.left.target,)
        found = rerun_from(self.surgery.instance, self.surgery.right.target, self.edited, asked)
        return found if len(asked) > 1 else found[asked[0]]

    def model(self) -> ModelProto:
        """A plain ONNX model of the affine map without what went: source -> target, frozen at this instance.

        It equals the network minus what went at this input and, where the network is piecewise linear, in the linear
        region around it (which the metadata say).
        """
        s = self.surgery
        return pruned_model(
            s.instance, s.right, s.left, s.whole, self._basis, self.dropping, self.linear, self._described()
        )

    def export(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write :meth:`model`, checked, as a whole file. Raises OutputExists (not with ``force``), ModelFileError."""
        save_model(self.model(), path, None, force)

    def _described(self) -> dict[str, Any]:
        chosen = [self.surgery.components[k] for k in self.indices]
        return {
            "layer": self.surgery.right.target,
            "dropped" if self.dropping else "kept": list(self.indices),
            "components": len(self.surgery.components),
            "singular_values": [c.s for c in chosen],
            "shares": [c.share for c in chosen],
        }


def rerun_from(instance: Instance, layer: str, values: Array, names: Sequence[str]) -> dict[str, Array]:
    """Tensors of the model, its outputs too, with the values of one tensor replaced and all else as at the instance.
    Raises NameNotFound."""
    sized = instance.sized
    given = sized.carrier(layer, "layer")
    inside = {}
    for name in names:
        t = sized.lin.graph.tensors.get(name) or sized.lin.graph.tensors.get(f"{name}/own")
        if t is None:
            raise NameNotFound("tensor", name, (o.name for o in sized.lin.graph.outputs))
        inside[name] = t
    found = {name: values for name, t in inside.items() if t is given}
    found |= {name: np.asarray(instance.feeds[t.name]) for name, t in inside.items() if t.name in instance.feeds}
    rest = {name: t.name for name, t in inside.items() if name not in found}
    if rest:
        engine = sized.values(tuple(dict.fromkeys(rest.values())), given.name)
        held = {i.name: instance.feeds[i.name] for i in engine.inputs if i.name != given.name}
        kind = next(i.dtype for i in engine.inputs if i.name == given.name)
        results = engine.run({**held, given.name: np.asarray(values, kind, order="C")})
        found |= {name: np.asarray(results[n]) for name, n in rest.items()}
    return {name: found[name] for name in names}
