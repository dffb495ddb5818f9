"""Train and export the networks for the spectrum: `python tools/train_spectral.py FAMILY...` or `all`.

Writes, for each network of a family, models/NAME.onnx, NAME.npz (held-out inputs) and NAME.json (what was measured, and
how), and the table of these networks in models/README.md. Seeded and single-threaded: the same versions on the same
machine give the same weights.
"""

from __future__ import annotations

import argparse
import time

import spectral_digits
import spectral_shapes
import spectral_squares
import spectral_tsne
import torch
from export_models import fill_tables
from spectral_networks import Networks, table, write

FAMILIES: dict[str, Networks] = {
    "squares": spectral_squares.NETWORKS,
    "tsne": spectral_tsne.NETWORKS,
    "shapes": spectral_shapes.NETWORKS,
    "digits": spectral_digits.NETWORKS,
}
NAMES = [name for family in FAMILIES.values() for name in family]


def main() -> None:
    """Read the families, train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "families", nargs="+", choices=[*FAMILIES, "all"], metavar="FAMILY", help=", ".join([*FAMILIES, "all"])
    )
    chosen = parser.parse_args().families
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for family in FAMILIES if "all" in chosen else chosen:
        for name, train in FAMILIES[family].items():
            start = time.perf_counter()
            trained = train()
            write(name, family, trained)
            measured = ", ".join(f"{key} {value:.4g}" for key, value in trained.measured.items())
            print(f"{name}: {measured} on held-out samples; {time.perf_counter() - start:.0f} s")
    fill_tables({"spectral": table(NAMES)})


if __name__ == "__main__":
    main()
