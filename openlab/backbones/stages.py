"""What all backbones with stages check alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def check_out_stages(out_stages: Sequence[int], first: int, last: int) -> tuple[int, ...]:
    """Return ``out_stages`` as a tuple if they rise within [first, last].

    Raises:
        ValueError: if they do not.
    """
    stages = tuple(out_stages)
    if not stages or list(stages) != sorted(set(stages)) or not (
            first <= stages[0] and stages[-1] <= last):
        raise ValueError(f'out_stages must rise within {first} to {last}, not {stages}')
    return stages


def block_places(num_blocks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(stage, place in the stage, place in the network) of each block, all counted from 0."""
    number = 0
    for stage, count in enumerate(num_blocks):
        for place in range(count):
            yield stage, place, number
            number += 1
