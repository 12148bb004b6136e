"""What every transform is: one step that takes the results so far and returns them changed.

The keys of ``results`` are fixed: ``img`` (H, W, 3) RGB uint8 · ``img_path`` · ``img_id`` ·
``ori_shape`` · ``img_shape`` (H, W) · ``scale_factor`` (w, h) · ``flip`` · ``label`` ·
``label_probs`` (K,) · ``boxes`` (N, 4) xyxy · ``labels`` (N,) · ``is_crowd`` (N,) · ``masks``
(N, H, W) uint8 · ``semantic_map`` (H, W) · ``keypoints`` (N, J, 3) · ``text`` · ``tokens`` ·
``views``, a list of (H, W, 3) images.

Random transforms draw from the global generators of ``random``, numpy and torch. The loader
seeds these for every item, so no transform keeps a generator of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openlab.registry import TRANSFORMS

Results = dict[str, Any]


class Transform(ABC):
    """Base of all transforms."""

    @abstractmethod
    def __call__(self, results: Results) -> Results | None:
        """Return the changed results; ``None`` asks the loader for another item instead."""

    def joined_to(self, previous: Any) -> Transform | None:
        """One transform that does ``previous`` and this one, to the same result but sooner."""
        return None

    def __repr__(self) -> str:
        arguments = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if k[0] != '_')
        return f'{type(self).__name__}({arguments})'


@TRANSFORMS.register_module()
class Compose(Transform):
    """Apply transforms in order.

    Neighbours that know how to work together do so (a crop has only that part resized which it
    keeps); the result is that of one after the other.

    Args:
        transforms: transforms, or any callables from results to results.
    """

    def __init__(self, transforms: Sequence[Callable[[Results], Results | None]]):
        self.transforms = list(transforms)
        self._steps, self._steps_of = self.transforms, self.transforms
        for position, transform in enumerate(self.transforms):
            if not callable(transform):
                raise TypeError(
                    f'pipeline[{position}] is {transform!r}, which cannot be called; write a '
                    f"transform, such as dict(type='LoadImage')"
                )

    def __call__(self, results: Results) -> Results | None:
        """Run the steps; stop where one turns the item down."""
        if self.transforms != self._steps_of or self._steps_of is self.transforms:
            # At first, and after a hook has edited the list.
            self._steps_of = list(self.transforms)
            self._steps = join_neighbours(self._steps_of)
        for transform in self._steps:
            changed = transform(results)
            if changed is None:
                return None
            results = changed
        return results


def join_neighbours(
    transforms: Sequence[Callable[[Results], Results | None]]
) -> list[Callable[[Results], Results | None]]:
    """Put one transform in the place of each two that can be joined."""
    steps: list[Callable[[Results], Results | None]] = []
    for transform in transforms:
        joined = None
        if steps and isinstance(transform, Transform):
            joined = transform.joined_to(steps[-1])
        if joined is None:
            steps.append(transform)
        else:
            steps[-1] = joined
    return steps


@TRANSFORMS.register_module()
class RandomApply(Transform):
    """Apply transforms together, or none of them.

    Args:
        transforms: what to apply, in order.
        prob: how often.
    """

    def __init__(self, transforms: Sequence[Callable[[Results], Results | None]],
                 prob: float = 0.5):
        self.transforms = Compose(transforms)
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results | None:
        """Run the steps, or do nothing."""
        return self.transforms(results) if np.random.rand() < self.prob else results


@TRANSFORMS.register_module()
class RandomChoice(Transform):
    """Apply exactly one of several transforms (each may be a ``Compose``).

    Args:
        transforms: the choices.
        probs: how often each one is taken; evenly by default.
    """

    def __init__(self, transforms: Sequence[Callable[[Results], Results | None]],
                 probs: Sequence[float] | None = None):
        self.transforms = list(transforms)
        if not self.transforms:
            raise ValueError('RandomChoice needs at least one transform')
        if probs is not None and len(probs) != len(self.transforms):
            raise ValueError(f'{len(self.transforms)} transforms but {len(probs)} probs')
        if probs is not None and (min(probs) < 0 or sum(probs) <= 0):
            raise ValueError(f'probs must be >= 0 with a positive sum, got {list(probs)}')
        self.probs = None if probs is None else np.asarray(probs, float) / np.sum(probs)

    def __call__(self, results: Results) -> Results | None:
        """Run one of the choices."""
        choice = np.random.choice(len(self.transforms), p=self.probs)
        return self.transforms[choice](results)


def check_prob(prob: float, name: str = 'prob') -> float:
    """Return ``prob`` if it is a probability.

    Raises:
        ValueError: if not.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f'{name} must be between 0 and 1, got {prob!r}')
    return prob


def draw_index(count: int) -> int:
    """A whole number drawn evenly from 0 to ``count`` - 1; sooner than numpy's ``randint``."""
    return int(np.random.random_sample() * count)


def draw_between(span: Sequence[float] | np.ndarray) -> float:
    """A number drawn evenly from (low, high)."""
    return float(np.random.uniform(span[0], span[1]))
