"""How sure a measured share is."""

from __future__ import annotations

import math


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share of successes, Wilson's score interval.

    It stays inside 0 and 1 and holds for few trials and for shares near the ends.
    Paper: Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Args:
        successes: how many of the trials succeeded.
        total: number of trials.
        z: quantile of the normal distribution; by default that of 95 %.

    Raises:
        ValueError: without trials, or for more successes than trials.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f'need 0 <= successes <= total and a trial, got {successes} of {total}')
    share = successes / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)
