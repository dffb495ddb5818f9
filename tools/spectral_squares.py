"""Rotated squares (after SpecXAI): autoencoders with ReLU and a bottleneck of 8, without and with biases.

A bright square of 32 x 32 pixels in the middle of a dark image of 64 x 64, turned by a random angle. The input is the
image [N,1,64,64], not its flat vector, so that maps of inputs and outputs are images wherever they are drawn. Two
networks end in a linear layer: their reconstruction is a piecewise linear function of the image, pixel by pixel. The
third has biases and a sigmoid at the end: its logits are piecewise linear, and its reconstruction is explained through
the sigmoid by its tangent. The bottleneck has no ReLU, as a dead unit would narrow it. A little weight decay: it lowers
the held-out error, and without it weights of pixels that never change stay as random as they began. Sizes, data and
training are this project's own choice beyond what is known of the paper's (image, square, bottleneck, ReLU, biases).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from spectral_networks import KEPT, Networks, Trained, layer
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

SIZE, SIDE, BOTTLENECK = 64, 32, 8
WIDTHS = (64, 32)
DATA_SEED, SEED = 20, 21
TRAIN, TEST = 2048, 512
EPOCHS, BATCH, RATE, DECAY = 80, 64, 5e-3, 1e-5


def squares(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Squares turned by `angles` (degrees): images [N,1,64,64] in 0..1. Each side fades over the width of a pixel
    (anti-aliased edges), so that every angle has an image of its own."""
    places = np.arange(SIZE) + 0.5 - SIZE / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    images = np.empty((len(angles), 1, SIZE, SIZE), np.float32)
    for image, angle in zip(images, np.deg2rad(angles), strict=True):
        along = np.abs(x * np.cos(angle) + y * np.sin(angle))
        across = np.abs(y * np.cos(angle) - x * np.sin(angle))
        image[0] = np.clip(SIDE / 2 + 0.5 - along, 0, 1) * np.clip(SIDE / 2 + 0.5 - across, 0, 1)
    return images


def data() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Training images, held-out images and the angles of the latter, uniform in 0..90 degrees (a square's period)."""
    angles = np.random.default_rng(DATA_SEED).uniform(0, 90, TRAIN + TEST)
    images = squares(angles)
    return images[:TRAIN], images[TRAIN:], angles[TRAIN:]


def autoencoder(bias: bool, sigmoid: bool = False) -> nn.Sequential:
    """4096 - 64 - 32 - 8 - 32 - 64 - 4096, ReLU behind all layers but the bottleneck and the last one."""
    wide, narrow = WIDTHS
    image = nn.Unflatten(1, (1, SIZE, SIZE))
    ends = OrderedDict(logits=image, reconstruction=nn.Sigmoid()) if sigmoid else OrderedDict(reconstruction=image)
    return nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            encoder_1=layer(SIZE * SIZE, wide, bias),
            encoder_2=layer(wide, narrow, bias),
            bottleneck=nn.Linear(narrow, BOTTLENECK, bias=bias),
            decoder_1=layer(BOTTLENECK, narrow, bias),
            decoder_2=layer(narrow, wide, bias),
            pixels=nn.Linear(wide, SIZE * SIZE, bias=bias),
            **ends,
        )
    )


def train(name: str, bias: bool, sigmoid: bool = False) -> Trained:
    """Adam with a one-cycle learning rate on the mean squared error, behind a sigmoid on the cross-entropy."""
    images, held_out, angles = data()
    torch.manual_seed(SEED)
    network = autoencoder(bias, sigmoid)
    inputs = torch.from_numpy(images)
    optimiser = torch.optim.Adam(network.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * (TRAIN // BATCH))
    progress = tqdm(range(EPOCHS), desc=name, unit="epoch")
    for _ in progress:
        total = 0.0
        for rows in torch.randperm(TRAIN).reshape(-1, BATCH):
            batch = inputs[rows]
            if sigmoid:
                loss = F.binary_cross_entropy_with_logits(network[:-1](batch), batch)
            else:
                loss = F.mse_loss(network(batch), batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress.set_postfix(loss=f"{total * BATCH / TRAIN:.2e}")
    network.eval()
    with torch.no_grad():
        error = network(torch.from_numpy(held_out)).numpy() - held_out
    around = held_out - images.mean(axis=0)
    return Trained(
        network=network,
        inputs={"image": held_out[:KEPT]},
        extras={"angles": angles[:KEPT]},
        outputs=("reconstruction",),
        what="Autoencoder of rotated squares [N,1,64,64], values 0..1: fully connected, ReLU, bottleneck 8, "
        + ("with biases" if bias else "without biases")
        + (", sigmoid at the end" if sigmoid else ""),
        data="squares of 32 x 32 drawn by `tools/spectral_squares.py`",
        licence="generated here, MIT",
        measured={
            "mean squared error": float((error**2).mean()),
            "variance left unexplained": float((error**2).sum() / (around**2).sum()),
        },
        seed=SEED,
        settings={
            "data_seed": DATA_SEED,
            "train_samples": TRAIN,
            "test_samples": TEST,
            "epochs": EPOCHS,
            "batch": BATCH,
            "rate": RATE,
            "decay": DECAY,
        },
    )


NETWORKS: Networks = {
    "squares": partial(train, "squares", bias=False),
    "squares_bias": partial(train, "squares_bias", bias=True),
    "squares_sigmoid": partial(train, "squares_sigmoid", bias=True, sigmoid=True),
}
