"""Parametric t-SNE of the digits: a network that puts an image on the plane, without and with biases.

The network is trained with the loss of t-SNE: KL(P || Q) over the pairs of a batch, P from Gaussians around the images
whose widths give every image the same perplexity, made symmetric, and Q from Student's t with one degree of freedom
around the points. A batch is a random third of the training images, drawn anew each epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import datasets
import numpy as np
import torch
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier
from spectral_networks import KEPT, Networks, Trained, layer
from torch import Tensor, nn
from tqdm import tqdm

WIDTHS = (128, 64)
SEED, PERPLEXITY = 22, 15.0
EPOCHS, BATCHES, RATE, DECAY = 150, 3, 5e-3, 1e-3
NEIGHBOURS = 5


def squared_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 for the rows of x [N,D]."""
    norms = (x * x).sum(dim=1)
    return (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp_min(0.0)


def affinities(x: Tensor, perplexity: float, steps: int = 40) -> Tensor:
    """P [N,N] of the rows of x [N,D], float64: p_ij = (p_j|i + p_i|j) / 2N, where p_j|i is proportional to
    exp(-beta_i |x_i - x_j|^2), without i itself, and bisection finds the beta_i at which row i has entropy
    log(perplexity). Raises ValueError for a perplexity that N - 1 neighbours cannot have."""
    count = len(x)
    if not 1 < perplexity < count - 1:
        raise ValueError(f"a perplexity of {perplexity:g} needs more than {perplexity + 1:.0f} rows, not {count}")
    distances = squared_distances(x.double())
    distances.fill_diagonal_(torch.inf)
    distances -= distances.min(dim=1, keepdim=True).values
    scale = distances[distances.isfinite()].mean()
    low = torch.full((count, 1), -15.0, dtype=torch.float64)  # log(beta * scale)
    high = -low
    for _ in range(steps):
        middle = (low + high) / 2
        conditional = torch.softmax(-distances * (middle.exp() / scale), dim=1)
        entropy = torch.special.entr(conditional).sum(dim=1, keepdim=True)
        wide = entropy > np.log(perplexity)
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return (conditional + conditional.T) / (2 * count)


def divergence(p: Tensor, points: Tensor) -> Tensor:
    """KL(P || Q) with q_ij proportional to 1 / (1 + |z_i - z_j|^2) over the pairs i != j of points z [N,2]."""
    kernel = 1 / (1 + squared_distances(points))
    kernel = kernel - torch.diag(kernel.diagonal())
    total = kernel.sum()
    apart = p > 0
    return (p[apart] * (p[apart].log() - kernel[apart].log() + total.log())).sum()


def embedding(bias: bool) -> nn.Sequential:
    """256 - 128 - 64 - 2, ReLU behind the hidden layers."""
    wide, narrow = WIDTHS
    return nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            hidden_1=layer(256, wide, bias),
            hidden_2=layer(wide, narrow, bias),
            point=nn.Linear(narrow, 2, bias=bias),
        )
    )


def train(bias: bool) -> Trained:
    """Adam with a one-cycle learning rate; labels are used to measure alone."""
    digits = datasets.digits()
    images, held_out = (torch.from_numpy(part["image"]) for part in (digits.train, digits.test))
    torch.manual_seed(SEED)
    network = embedding(bias)
    optimiser = torch.optim.Adam(network.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * BATCHES)
    progress = tqdm(range(EPOCHS), desc="tsne_bias" if bias else "tsne", unit="epoch")
    for _ in progress:
        total = 0.0
        for rows in torch.randperm(len(images)).chunk(BATCHES):
            batch = images[rows]
            p = affinities(batch.flatten(1), PERPLEXITY).float()
            loss = divergence(p, network(batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress.set_postfix(loss=f"{total / BATCHES:.3f}")
    network.eval()
    with torch.no_grad():
        known, points = network(images), network(held_out)
        loss = divergence(affinities(held_out.flatten(1), PERPLEXITY).float(), points)
    voters = KNeighborsClassifier(NEIGHBOURS).fit(known.numpy(), digits.train_labels)
    return Trained(
        network=network,
        inputs={"image": digits.test["image"][:KEPT]},
        extras={"labels": digits.test_labels[:KEPT], "class_names": np.array(digits.class_names)},
        outputs=("point",),
        what="Parametric t-SNE of images of digits [N,1,16,16] to the plane: fully connected, ReLU, "
        + ("with biases" if bias else "without biases"),
        data="[handwritten digits](https://archive.ics.uci.edu/dataset/80), as shipped by scikit-learn",
        licence="CC BY 4.0 (UCI)",
        measured={
            "Kullback-Leibler divergence": float(loss),
            f"accuracy of the {NEIGHBOURS} nearest training points": float(
                voters.score(points.numpy(), digits.test_labels)
            ),
            "trustworthiness": float(
                trustworthiness(held_out.flatten(1).numpy(), points.numpy(), n_neighbors=NEIGHBOURS)
            ),
        },
        seed=SEED,
        settings={
            "split_seed": datasets.SPLIT_SEED,
            "train_samples": len(images),
            "test_samples": len(held_out),
            "perplexity": PERPLEXITY,
            "epochs": EPOCHS,
            "batches": BATCHES,
            "rate": RATE,
            "decay": DECAY,
        },
    )


NETWORKS: Networks = {"tsne": partial(train, bias=False), "tsne_bias": partial(train, bias=True)}
