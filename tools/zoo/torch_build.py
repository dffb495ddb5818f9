"""Modules of tools/zoo/modules_*.py as entries of the zoo: named without importing PyTorch, exported when built."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from zoo.entry import Network, Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

TESTS = str(Path(__file__).resolve().parents[2] / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

ROWS = 2
BOTH = ("dynamo 20", "torchscript 17")


@dataclass(frozen=True)
class Input:
    """One input. ``shape`` is that of one row, or of all where the input has no rows (``alone``).

    kind: "normal", "positive" (0.1 to 1.1), "bytes" (uint8), "ids" (int64 below ``high``), "mask" (int64: the last row
    ends in two zeros), "graph" (adjacency of 0 and 1 with loops), "lengths" (int64: the shape itself is what is given),
    "steps" (int64, 3).
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    high: int = 0
    alone: bool = False

    def draw(self, random: Any) -> Tensor:
        import torch

        shape = self.shape if self.alone else (ROWS, *self.shape)
        if self.kind == "steps":
            return torch.tensor(3)
        if self.kind == "lengths":
            return torch.tensor(self.shape)
        if self.kind == "ids":
            return torch.randint(0, self.high, shape, generator=random)
        if self.kind == "bytes":
            return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        if self.kind == "mask":
            mask = torch.ones(shape, dtype=torch.int64)
            mask[-1, -2:] = 0
            return mask
        if self.kind == "positive":
            return torch.rand(shape, generator=random) + 0.1
        values = torch.randn(shape, generator=random)
        if self.kind == "graph":
            linked = (values + values.transpose(-1, -2) > 0.5).float()
            return torch.maximum(linked, torch.eye(shape[-1]))
        return values


def normal(*shape: int, alone: bool = False) -> Input:
    return Input(shape, alone=alone)


def ids(high: int, *shape: int) -> Input:
    return Input(shape, "ids", high)


def networks_of(
    family: str,
    name: str,
    kind: str,
    inputs: Input | tuple[Input, ...],
    exporters: tuple[str, ...] = ("dynamo 20",),
    *,
    module: str = "",
    args: tuple[Any, ...] = (),
    batch: bool = True,
    gradient: bool = True,
    embeddings: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    **fields: Any,
) -> list[Network]:
    """One network by one or several exporters; the first is the twin of the others.

    Args:
        family: the module file zoo/modules_FAMILY.py.
        name: of the function there ("-" for "_"), unless ``module`` says another; called with ``args``.
        batch: the first axis has a free size.
        gradient: the maps in tangent are compared with torch.autograd.
        embeddings: paths of the nn.Embedding modules that are explained (token ids), after the float inputs; an
            attribute ``tables`` of the module says it too.
        names: of the inputs; x, x1, x2, ...
        fields: of ``Network``.
    """
    inputs = (inputs,) if isinstance(inputs, Input) else inputs
    names = names or tuple(f"x{i or ''}" for i in range(len(inputs)))
    recipe = Recipe(family, (module or name).replace("-", "_"), args, inputs, names, batch, gradient, embeddings)
    found: list[Network] = []
    for exporter in exporters:
        options = fields.get("options", {})
        entry = Network(
            name=f"{name}-{exporter.replace(' ', '')}",
            kind=kind,
            exporter=exporter,
            build=functools.partial(build, recipe=recipe, exporter=exporter, options=options),
            **{"needs": ("torch",), "twin": found[0].name if found else "", **fields},
        )
        found.append(entry)
    return found


@dataclass(frozen=True)
class Recipe:
    """How a module is made and fed: the arguments of ``networks_of``."""

    family: str
    function: str
    args: tuple[Any, ...]
    inputs: tuple[Input, ...]
    names: tuple[str, ...]
    batch: bool
    gradient: bool
    embeddings: tuple[str, ...]

    def make(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The module in eval mode with random weights, and its inputs; the seed is made of the name."""
        import architectures
        import torch

        seed = zlib.crc32(repr((self.function, self.args)).encode())
        torch.manual_seed(seed)
        module = getattr(importlib.import_module(f"zoo.modules_{self.family}"), self.function)(*self.args)
        random = torch.Generator().manual_seed(seed)
        architectures.randomise(module, random)
        return module.eval(), tuple(i.draw(random) for i in self.inputs)


def build(path: Path, recipe: Recipe, exporter: str, options: Mapping[str, Any]) -> Sample:
    """Export a module. Its first output is Z."""
    import architectures
    import onnx

    module, inputs = recipe.make()
    how, opset = exporter.split()
    axes = {0: "batch"} if recipe.batch else {}
    names = list(recipe.names)
    model = architectures.export_module(module, inputs, names, how, int(opset), axes)
    finish = getattr(module, "finish", None)  # what no exporter writes: nodes behind the exported graph
    onnx.save(finish(model) if finish else model, path)
    return sample_of(module, inputs, names, recipe, options)


def sample_of(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], recipe: Recipe, options: Mapping[str, Any]
) -> Sample:
    """Feeds (with a seed or chosen classes, where the target is an input), and gradients by torch.autograd."""
    import torch

    feeds = {k: t.numpy() for k, t in zip(names, inputs, strict=True)}
    target = str(options.get("target", "argmax"))
    with torch.no_grad():
        z = first(module(*inputs))
    if target == "seed":
        feeds["seed"] = torch.randn(z.shape, generator=torch.Generator().manual_seed(5)).numpy()
    if target == "input":
        feeds["target"] = (torch.arange(len(z)) + 1).numpy()
    if not recipe.gradient:
        return Sample(feeds)
    wanted = options.get("inputs") or [n for n, t in zip(names, inputs, strict=True) if t.is_floating_point()]
    leaves = [t.clone().requires_grad_(n in wanted) for n, t in zip(names, inputs, strict=True)]
    tables = [module.get_submodule(e).weight for e in recipe.embeddings]
    if hasattr(module, "tables"):
        tables.append(module.tables().weight)
    with rows_of(tables) as rows:
        score = score_of(first(module(*leaves)), target, feeds)
    explained = [t for t in leaves if t.requires_grad] + rows
    gradients = torch.autograd.grad(score, explained, materialize_grads=True)
    return Sample(feeds, [g.numpy() for g in gradients])


@contextlib.contextmanager
def rows_of(tables: list[Any]) -> Iterator[list[Tensor]]:
    """What is looked up in the tables meanwhile: each becomes a tensor to differentiate with respect to."""
    from torch.nn import functional

    lookup, rows = functional.embedding, []

    def embedding(indices: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
        found = lookup(indices, weight, *args, **options)
        if any(weight is t for t in tables):
            found = found.detach().requires_grad_()
            rows.append(found)
        return found

    with mock.patch.object(functional, "embedding", embedding):
        yield rows


def first(outputs: Any) -> Tensor:
    """The first output of a module."""
    while not hasattr(outputs, "detach"):
        outputs = outputs[0]
    found: Tensor = outputs
    return found


def score_of(z: Tensor, target: str, feeds: Mapping[str, Any]) -> Tensor:
    """y for a target, summed over rows and targets."""
    import torch

    flat = z.reshape(z.shape[0], -1) if z.ndim else z.reshape(1, 1)
    if target == "seed":
        return (torch.from_numpy(feeds["seed"]) * z).sum()
    if target == "input":
        return flat.gather(1, torch.from_numpy(feeds["target"])[:, None]).sum()
    if target == "argmax":
        return flat.max(dim=1).values.sum()
    if target == "last":
        return z[:, -1].max(dim=1).values.sum()
    if target.startswith("top:"):
        return flat.topk(int(target[4:]), dim=1).values.sum()
    if target.startswith("class:"):
        axis = z.ndim - 1 if z.ndim == 3 else 1
        return z.select(axis, int(target[6:])).sum()
    total = z.new_zeros(())
    for part in target.split(","):
        plus, _, minus = part.partition("-")
        total = total + flat[:, int(plus)].sum() - (flat[:, int(minus)].sum() if minus else 0)
    return total
