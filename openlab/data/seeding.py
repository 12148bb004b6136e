"""Random numbers of an item depend on (seed, epoch, position) and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Hash integers into 64 well-spread bits (the finaliser of SplitMix64, chained)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state + (value & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def reseed(seed: int, epoch: int, position: int) -> None:
    """Set the generators of ``random``, numpy and torch (CPU) for one item."""
    value = mix(seed, epoch, position)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    # The generator itself: `torch.manual_seed` would also touch every accelerator.
    torch.default_generator.manual_seed(value >> 1)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Leave the three global generators as they were: items made in the training process."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
