"""Train the networks of models/: `python tools/train_models.py NAME...` or `all`.

Writes, for each, models/NAME.state.npz (weights), NAME.npz (held-out inputs, labels, names) and NAME.json (what was
measured). Seeded and single-threaded: the same versions on the same machine give the same weights.
`tools/export_models.py` makes the ONNX files from these weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import datasets
import networks
import numpy as np
import sklearn
import torch
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

KEPT = 64  # held-out samples kept in models/NAME.npz


@dataclass(frozen=True)
class Recipe:
    """What a network is trained on and how: AdamW with a one-cycle learning rate."""

    data: Callable[[], datasets.Dataset]
    seed: int
    least_accuracy: float
    epochs: int = 0
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-2
    smoothing: float = 0.0
    shift: int = 0


RECIPES = {
    "digits_cnn": Recipe(datasets.digits, seed=1, least_accuracy=0.97, epochs=30, rate=5e-3, shift=1),
    "breast_cancer_mlp": Recipe(
        datasets.breast_cancer, seed=2, least_accuracy=0.95, epochs=60, batch=32, rate=3e-3, decay=1.0, smoothing=0.05
    ),
    "breast_cancer_sklearn": Recipe(datasets.breast_cancer, seed=3, least_accuracy=0.95),
    "digits_vit": Recipe(datasets.digits, seed=4, least_accuracy=0.94, epochs=60, rate=2e-3, decay=0.05, shift=1),
    "grammar_text": Recipe(datasets.grammar, seed=5, least_accuracy=0.97, epochs=15, batch=128, rate=3e-3),
}


def shifted(images: Tensor, most: int) -> Tensor:
    """Each image moved by up to `most` pixels in both directions, zeros moving in."""
    padded = F.pad(images, (most,) * 4)
    height, width = images.shape[2:]
    dy, dx = torch.randint(0, 2 * most + 1, (2, len(images))).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, y, x in zip(padded, dy, dx, strict=True)])


def accuracy(network: nn.Module, data: datasets.Dataset) -> float:
    """Share of the held-out samples whose largest probability or logit is the label's."""
    with torch.no_grad():
        output = network(*(torch.from_numpy(value) for value in data.test.values()))
    return float((output.argmax(dim=1).numpy() == data.test_labels).mean())


def train_torch(name: str, recipe: Recipe, data: datasets.Dataset) -> nn.Module:
    """Train for a fixed number of epochs; the held-out samples choose nothing."""
    torch.manual_seed(recipe.seed)
    network = networks.NETWORKS[name]()
    inputs = [torch.from_numpy(value) for value in data.train.values()]
    labels = torch.from_numpy(data.train_labels)
    if isinstance(network, networks.BreastCancerMLP):
        network.mean.copy_(inputs[0].double().mean(dim=0))
        network.scale.copy_(inputs[0].double().std(dim=0, correction=0))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.decay)
    steps = len(labels) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps * recipe.epochs)
    network.train()
    progress = tqdm(range(recipe.epochs), desc=name, unit="epoch")
    for _ in progress:
        order = torch.randperm(len(labels))[: steps * recipe.batch].reshape(steps, recipe.batch)
        total = 0.0
        for rows in order:
            batch = [value[rows] for value in inputs]
            if recipe.shift:
                batch[0] = shifted(batch[0], recipe.shift)
            loss = F.cross_entropy(network.logits(*batch), labels[rows], label_smoothing=recipe.smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress.set_postfix(loss=f"{total / steps:.4f}")
    return network.eval()


def train_sklearn(recipe: Recipe, data: datasets.Dataset) -> nn.Module:
    """Fit StandardScaler and MLPClassifier, and hand their numbers to the PyTorch twin."""
    scaler = StandardScaler().fit(data.train["features"].astype(np.float64))
    classifier = MLPClassifier((24, 12), alpha=0.1, max_iter=300, random_state=recipe.seed)
    classifier.fit(scaler.transform(data.train["features"].astype(np.float64)), data.train_labels)
    twin = networks.BreastCancerSklearn()
    state = {"mean": scaler.mean_, "scale": scaler.scale_}
    for layer, (weight, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        state[f"layers.{2 * layer}.weight"] = weight.T
        state[f"layers.{2 * layer}.bias"] = bias
    twin.load_state_dict({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()})
    return twin.eval()


def train(name: str) -> None:
    """Train one network, write its files, and refuse one that is less accurate than it must be."""
    recipe = RECIPES[name]
    data = recipe.data()
    start = time.perf_counter()
    network = train_sklearn(recipe, data) if name.endswith("_sklearn") else train_torch(name, recipe, data)
    seconds = time.perf_counter() - start
    measured = accuracy(network, data)
    parameters = sum(value.numel() for value in network.parameters())
    print(
        f"{name}: accuracy {measured:.4f} on {len(data.test_labels)} held-out samples, "
        f"{parameters:,} parameters, {seconds:.0f} s"
    )
    if measured < recipe.least_accuracy:
        raise SystemExit(f"{name}: {measured:.4f} is below {recipe.least_accuracy}; nothing written")
    networks.save_state(name, network)
    kept = {key: value[:KEPT] for key, value in data.test.items()}
    np.savez_compressed(
        networks.MODELS / f"{name}.npz",
        **kept,
        labels=data.test_labels[:KEPT],
        class_names=np.array(data.class_names),
        **data.extras,
    )
    facts = {
        "name": name,
        "test_accuracy": round(measured, 6),
        "test_samples": len(data.test_labels),
        "train_samples": len(data.train_labels),
        "parameters": parameters,
        "command": f"python tools/train_models.py {name} && python tools/export_models.py {name}",
        "seed": recipe.seed,
        "split_seed": datasets.SPLIT_SEED,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
    }
    (networks.MODELS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    """Read the names and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*RECIPES, "all"], metavar="NAME", help=", ".join(RECIPES))
    names = parser.parse_args().names
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in RECIPES if "all" in names else names:
        train(name)


if __name__ == "__main__":
    main()
