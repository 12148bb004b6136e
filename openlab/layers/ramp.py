"""Numbers that change in the course of a training, as arguments of the parts that use them.

A momentum, a temperature or a weight of a loss that is not the same from beginning to end stands
in the config where the number would stand: ``momentum=dict(type=CosineRamp, start=0.996, end=1)``.
The training loop tells every ramp in the model where it stands before each iteration. The value
depends on that alone, so it is right after a resume without being saved.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from openlab.registry import MODELS


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        iter: iterations done.
        max_iters: iterations of the whole training.
        iters_per_epoch: iterations of one pass over the data.
    """

    iter: int = 0
    max_iters: int = 1
    iters_per_epoch: int = 1


class Ramp(nn.Module, ABC):
    """From one value to another over a part of a training, then constant.

    A module without parameters, so that the loop finds it inside a model and the printed model
    shows it. Before it has been told of any progress it has its first value.

    Args:
        start: value at the beginning.
        end: value at the end of the ramp, and after it.
        epochs: length of the ramp in epochs; by default it lasts as long as the training.
        iters: the same in iterations.
    """

    def __init__(self, start: float, end: float, epochs: float | None = None,
                 iters: int | None = None):
        super().__init__()
        if epochs is not None and iters is not None:
            raise ValueError(f'a ramp is as long as epochs or iters say, not both: got '
                             f'epochs={epochs} and iters={iters}')
        if min(1 if epochs is None else epochs, 1 if iters is None else iters) <= 0:
            raise ValueError(f'the length of a ramp must be positive, got epochs={epochs}, '
                             f'iters={iters}')
        self.start, self.end = start, end
        self.epochs, self.iters = epochs, iters
        self.progress = Progress()

    @property
    def value(self) -> float:
        """The number as it is now."""
        return self.start + (self.end - self.start) * self.shape(self.share)

    @property
    def share(self) -> float:
        """How much of the ramp lies behind, from 0 to 1."""
        length: float = self.progress.max_iters
        if self.iters is not None:
            length = self.iters
        elif self.epochs is not None:
            length = self.epochs * self.progress.iters_per_epoch
        return min(self.progress.iter / max(length, 1), 1.0)

    @abstractmethod
    def shape(self, share: float) -> float:
        """How far the value has come, from 0 to 1, when ``share`` of the ramp lies behind."""

    def extra_repr(self) -> str:
        """Show where the ramp leads in the printed model."""
        length = f', epochs={self.epochs:g}' if self.epochs else ''
        length += f', iters={self.iters}' if self.iters else ''
        return f'{self.start:g} -> {self.end:g}{length}'


@MODELS.register_module()
class LinearRamp(Ramp):
    """A straight line.

    Args:
        start: value at the beginning.
        end: value at the end of the ramp, and after it.
        epochs: length of the ramp in epochs; by default it lasts as long as the training.
        iters: the same in iterations.
    """

    def shape(self, share: float) -> float:
        """The share itself."""
        return share


@MODELS.register_module()
class CosineRamp(Ramp):
    """Half a wave: flat at both ends.

    Args:
        start: value at the beginning.
        end: value at the end of the ramp, and after it.
        epochs: length of the ramp in epochs; by default it lasts as long as the training.
        iters: the same in iterations.
    """

    def shape(self, share: float) -> float:
        """(1 - cos(pi share)) / 2."""
        return (1 - math.cos(math.pi * share)) / 2


def as_ramp(value: float | Ramp) -> Ramp:
    """A ramp as it is; a number as one that stays."""
    return value if isinstance(value, Ramp) else LinearRamp(value, value)
