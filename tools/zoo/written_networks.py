"""Networks of the zoo: to be filled."""

from __future__ import annotations

from zoo.entry import Network

NETWORKS: list[Network] = []
