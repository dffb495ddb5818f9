"""Bodies in space whose volume and moment of inertia are known in closed form, and the network that reads them.

Two families inside the cube [-1, 1]^3, each moved along x by an offset t, so that every body is symmetric under the
reflections of y and z, and the distribution of bodies (not each body) under that of x:

    superellipsoid   |(x-t)/a|^p + |y/b|^q + |z/c|^r <= 1     (ellipsoids, and nearly octahedra, cylinders and boxes)
    torus            |(rho-R)/a|^p + |z/c|^q <= 1             rho^2 = (x-t)^2 + y^2, a < R

A body is given to the network as its occupancy [1,16,16,16]: the share of each voxel that lies inside, counted on
SUB^3 points. The quantities are volume and moment of inertia about the z axis, int (x^2 + y^2), density one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma
from spectral_networks import KEPT, Networks, Trained, layer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

SIDE = 16
SUB = 4  # points along each edge of a voxel
FAMILIES = ["superellipsoid", "torus"]
QUANTITIES = ["volume", "inertia_z"]
LATENT, WIDTH = 8, 32
DATA_SEED, SEED = 23, 24
TRAIN, TEST = 3000, 500
EPOCHS, BATCH, RATE, DECAY = 80, 50, 5e-3, 0.3

Array = NDArray[np.float64]
Floats = NDArray[np.float32]


def dirichlet(alphas: Array, exponents: Array, half_axes: Array) -> float:
    """int of prod |x_i|^(alpha_i - 1) over sum |x_i/a_i|^p_i <= 1 in any number of dimensions.

    Dirichlet's integral: 2^n prod (a_i^alpha_i / p_i) prod G(alpha_i/p_i) / G(1 + sum alpha_i/p_i), G the gamma
    function; a torus of any cross section follows from it by integrating 2 pi rho.
    """
    ratios = alphas / exponents
    scale = np.prod(2 * half_axes**alphas / exponents)
    return float(scale * np.prod(gamma(ratios)) / gamma(1 + ratios.sum()))


@dataclass(frozen=True)
class Superellipsoid:
    """|(x-t)/a|^p + |y/b|^q + |z/c|^r <= 1."""

    half_axes: Array  # a, b, c
    exponents: Array  # p, q, r
    offset: float = 0.0

    def inside(self, x: Array, y: Array, z: Array) -> NDArray[np.bool_]:
        """Which points lie inside; the coordinates broadcast."""
        (a, b, c), (p, q, r) = self.half_axes, self.exponents
        return np.abs((x - self.offset) / a) ** p + np.abs(y / b) ** q + np.abs(z / c) ** r <= 1

    def quantities(self) -> tuple[float, float]:
        """Volume V, and int (x^2 + y^2) = int ((x-t)^2 + y^2) + t^2 V."""
        volume, xx, yy = (
            dirichlet(np.array(alphas), self.exponents, self.half_axes) for alphas in ((1, 1, 1), (3, 1, 1), (1, 3, 1))
        )
        return volume, xx + yy + self.offset**2 * volume


@dataclass(frozen=True)
class Torus:
    """|(rho-R)/a|^p + |z/c|^q <= 1 with rho^2 = (x-t)^2 + y^2 and a < R."""

    radius: float
    half_axes: Array  # a, c
    exponents: Array  # p, q
    offset: float = 0.0

    def inside(self, x: Array, y: Array, z: Array) -> NDArray[np.bool_]:
        """Which points lie inside; the coordinates broadcast."""
        (a, c), (p, q) = self.half_axes, self.exponents
        rho = np.sqrt((x - self.offset) ** 2 + y**2)
        return np.abs((rho - self.radius) / a) ** p + np.abs(z / c) ** q <= 1

    def quantities(self) -> tuple[float, float]:
        """With A the area of the cross section and M its second moment about rho = R: V = 2 pi R A (Pappus), and
        int rho^2 = 2 pi int rho^3 drho dz = 2 pi (R^3 A + 3 R M), since the odd moments vanish."""
        area, second = (dirichlet(np.array(alphas), self.exponents, self.half_axes) for alphas in ((1, 1), (3, 1)))
        volume = 2 * np.pi * self.radius * area
        inertia = 2 * np.pi * (self.radius**3 * area + 3 * self.radius * second)
        return volume, inertia + self.offset**2 * volume


Body = Superellipsoid | Torus


def coordinates(count: int) -> tuple[Array, Array, Array]:
    """Midpoints of `count` cells along each edge of the cube, shaped to broadcast to [count, count, count]."""
    line = (np.arange(count) + 0.5) * (2 / count) - 1
    return line[:, None, None], line[:, None], line


def occupancy(body: Body, side: int = SIDE, sub: int = SUB) -> Floats:
    """The share of each voxel that lies inside, [side, side, side] over x, y, z, from sub^3 points a voxel."""
    points = body.inside(*coordinates(side * sub))
    return points.reshape(side, sub, side, sub, side, sub).mean(axis=(1, 3, 5), dtype=np.float32)


def random_body(rng: np.random.Generator, family: int) -> Body:
    """A body of that family that stays inside the cube."""
    offset = float(rng.uniform(-0.2, 0.2))
    if FAMILIES[family] == "superellipsoid":
        exponents = np.exp(rng.uniform(np.log(1.2), np.log(8.0), 3))
        return Superellipsoid(rng.uniform(0.3, 0.75, 3), exponents, offset)
    tube = rng.uniform(0.15, 0.3)
    radius = float(rng.uniform(tube + 0.1, 0.75 - tube))
    exponents = np.exp(rng.uniform(np.log(1.5), np.log(8.0), 2))
    return Torus(radius, np.array([tube, rng.uniform(0.15, 0.7)]), exponents, offset)


def bodies(count: int, seed: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Occupancies [N,1,16,16,16], quantities [N,2] and families [N] of random bodies, half of each family."""
    rng = np.random.default_rng(seed)
    families = rng.permutation(np.arange(count) % len(FAMILIES))
    made = [random_body(rng, family) for family in families]
    occupied = np.stack([occupancy(body) for body in made])[:, None]
    return occupied, np.array([body.quantities() for body in made], dtype=np.float32), families.astype(np.int64)


def split() -> tuple[Floats, Floats, Floats, Floats, NDArray[np.int64]]:
    """Training bodies and their quantities; held-out bodies, their quantities and families."""
    occupied, quantities, families = bodies(TRAIN + TEST, DATA_SEED)
    return occupied[:TRAIN], quantities[:TRAIN], occupied[TRAIN:], quantities[TRAIN:], families[TRAIN:]


class Shapes(nn.Module):
    """Autoencoder of bodies [N,1,16,16,16], fully connected, and a regressor on its latent space [N,8].

    Returns the quantities [N,2] and the reconstruction [N,1,16,16,16]: one file with two outputs, because both read the
    same encoder, whose weights are then stored once, and every operator between body, latent and either output can be
    asked for by name. Fully connected, because nothing in its structure knows what a reflection is: whatever symmetry
    its singular vectors show, they have from the bodies.
    """

    def __init__(self) -> None:
        super().__init__()
        voxels, wide = SIDE**3, WIDTH
        self.flat = nn.Flatten()
        self.encoder_1 = layer(voxels, wide, True)
        self.encoder_2 = layer(wide, wide, True)
        self.latent = nn.Linear(wide, LATENT)
        self.decoder_1 = layer(LATENT, wide, True)
        self.decoder_2 = layer(wide, wide, True)
        self.voxels = nn.Linear(wide, voxels)
        self.reconstruction = nn.Unflatten(1, (1, SIDE, SIDE, SIDE))
        self.regressor_1 = layer(LATENT, wide, True)
        self.penultimate = layer(wide, wide, True)
        self.quantities = nn.Linear(wide, len(QUANTITIES))

    def encoder(self) -> nn.Sequential:
        """Body to latent."""
        return nn.Sequential(self.flat, self.encoder_1, self.encoder_2, self.latent)

    def decoder(self) -> nn.Sequential:
        """Latent to reconstruction."""
        return nn.Sequential(self.decoder_1, self.decoder_2, self.voxels, self.reconstruction)

    def regressor(self) -> nn.Sequential:
        """Latent to quantities."""
        return nn.Sequential(self.regressor_1, self.penultimate, self.quantities)

    def forward(self, body: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(self.encoder_2(self.encoder_1(self.flat(body))))
        quantities = self.quantities(self.penultimate(self.regressor_1(latent)))
        return quantities, self.reconstruction(self.voxels(self.decoder_2(self.decoder_1(latent))))


def fit(desc: str, network: nn.Module, inputs: Tensor, wanted: Tensor, epochs: int, decay: float) -> None:
    """AdamW with a one-cycle learning rate on the mean squared error."""
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=decay)
    steps = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * steps)
    progress = tqdm(range(epochs), desc=desc, unit="epoch")
    for _ in progress:
        total = 0.0
        for rows in torch.randperm(len(inputs))[: steps * BATCH].reshape(steps, BATCH):
            loss = F.mse_loss(network(inputs[rows]), wanted[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress.set_postfix(loss=f"{total / steps:.2e}")


def train() -> Trained:
    """First the autoencoder, then the regressor on the latent points of the encoder as it then stands.

    The regressor learns standardised quantities; its last layer takes mean and deviation in afterwards. Weight decay on
    the autoencoder is strong: no gradient ever touches the part of the first layer that is odd under a reflection which
    leaves every body as it is, so only decay takes away what chance put there.
    """
    data, quantities, held_out, known, families = split()
    torch.manual_seed(SEED)
    network = Shapes()
    inputs = torch.from_numpy(data)
    fit("shapes: autoencoder", nn.Sequential(network.encoder(), network.decoder()), inputs, inputs, EPOCHS, DECAY)
    with torch.no_grad():
        latent = network.encoder()(inputs)
    wanted = torch.from_numpy(quantities)
    mean, deviation = wanted.mean(dim=0), wanted.std(dim=0)
    fit("shapes: regressor", network.regressor(), latent, (wanted - mean) / deviation, EPOCHS, 1e-2)
    with torch.no_grad():
        network.quantities.weight.mul_(deviation[:, None])
        network.quantities.bias.mul_(deviation).add_(mean)
        found, rebuilt = (value.numpy() for value in network.eval()(torch.from_numpy(held_out)))
    around = ((held_out - data.mean(axis=0)) ** 2).sum()
    unexplained = ((found - known) ** 2).sum(axis=0) / ((known - quantities.mean(axis=0)) ** 2).sum(axis=0)
    return Trained(
        network=network,
        inputs={"body": held_out[:KEPT]},
        extras={
            "quantities": known[:KEPT],
            "class_names": np.array(QUANTITIES),
            "families": families[:KEPT],
            "family_names": np.array(FAMILIES),
        },
        outputs=("quantities", "reconstruction"),
        what="Autoencoder of bodies [N,1,16,16,16], the share of each voxel that is inside: fully connected, ReLU; and "
        "a regressor on its latent space of 8: volume and moment of inertia about z [N,2]",
        data="superellipsoids and tori made by `tools/spectral_shapes.py`, their quantities in closed form",
        licence="generated here, MIT",
        measured={
            "reconstruction: variance left unexplained": float(((rebuilt - held_out) ** 2).sum() / around),
            **{f"{name}: variance left unexplained": float(u) for name, u in zip(QUANTITIES, unexplained, strict=True)},
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


NETWORKS: Networks = {"shapes": train}
