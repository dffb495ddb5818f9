"""AlexNet and VGG-11 with BatchNorm, small, on the digits as images [N,1,32,32]: the same layers, fewer channels.

The digits of `datasets.digits` are upsampled once more, to 32 x 32, as VGG halves an image five times.
"""

from __future__ import annotations

from functools import partial

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from spectral_convnets import alexnet, vgg11_bn
from spectral_networks import Networks, Trained
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from train_models import shifted

KEPT, SIDE = 32, 32
SEED, EPOCHS, BATCH, RATE, DECAY, SHIFT = 26, 25, 32, 2e-3, 1e-2, 2
SMALL = {
    "alexnet_digits": partial(
        alexnet, classes=10, channels=1, widths=(16, 32, 48, 32, 32), stem=(5, 1, 2), grid=3, hidden=128
    ),
    "vgg_digits": partial(vgg11_bn, classes=10, channels=1, width=8, grid=1, hidden=64),
}
WHAT = {"alexnet_digits": "AlexNet", "vgg_digits": "VGG-11 with BatchNorm"}


def upsampled(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """Images [N,1,16,16] at 32 x 32."""
    small = torch.from_numpy(np.asarray(images, np.float32))
    return F.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).numpy()


def train(name: str) -> Trained:
    """AdamW with a one-cycle learning rate, images moved by up to two pixels; held-out ones choose nothing."""
    digits = datasets.digits()
    images, held_out = (upsampled(part["image"]) for part in (digits.train, digits.test))
    torch.manual_seed(SEED)
    network = SMALL[name]()
    inputs, labels = torch.from_numpy(images), torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * steps)
    network.train()
    progress = tqdm(range(EPOCHS), desc=name, unit="epoch")
    for _ in progress:
        total = 0.0
        for rows in torch.randperm(len(labels))[: steps * BATCH].reshape(steps, BATCH):
            loss = F.cross_entropy(network(shifted(inputs[rows], SHIFT)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress.set_postfix(loss=f"{total / steps:.4f}")
    network.eval()
    return Trained(
        network=network,
        inputs={"image": held_out[:KEPT]},
        extras={"labels": digits.test_labels[:KEPT], "class_names": np.array(digits.class_names)},
        outputs=("logits",),
        what=f"{WHAT[name]}, small, on images of digits [N,1,32,32]",
        data="[handwritten digits](https://archive.ics.uci.edu/dataset/80), as shipped by scikit-learn",
        licence="CC BY 4.0 (UCI)",
        measured=measured(network, held_out, digits.test_labels),
        seed=SEED,
        settings={
            "split_seed": datasets.SPLIT_SEED,
            "train_samples": len(images),
            "test_samples": len(held_out),
            "epochs": EPOCHS,
            "batch": BATCH,
            "rate": RATE,
            "decay": DECAY,
            "shift": SHIFT,
        },
    )


def measured(network: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy and mean cross entropy."""
    with torch.no_grad():
        logits = network(torch.from_numpy(images))
    wanted = torch.from_numpy(labels)
    return {
        "accuracy": float((logits.argmax(dim=1) == wanted).float().mean()),
        "cross entropy": float(F.cross_entropy(logits, wanted)),
    }


NETWORKS: Networks = {name: partial(train, name) for name in SMALL}
