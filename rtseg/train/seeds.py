"""Random numbers that repeat, and that nobody else's disturb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed(*parts: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded, for as long as the `with` lasts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
