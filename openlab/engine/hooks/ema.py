"""A running average of the weights, which validation, test and inference use.

The average is kept as plain tensors beside the model, not as a second model: it works the same
for a bare model, one wrapped by DDP or sharded by FSDP2, and an update is one fused call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

Ramp = Literal['none', 'inverse', 'exponential']
HALF = (torch.float16, torch.bfloat16)


class WeightAverage:
    """Averaged copies of a model's parameters and buffers, by name.

    Averages of half-precision tensors are kept in float32: in bfloat16 a step of 0.0002 would
    round to nothing.

    Args:
        model: the bare model; its tensors are read at each update and replaced by ``swap_in``.
        buffers: ``'copy'`` the model's buffers at each update (counts, and statistics that are
            averages already), or ``'average'`` the floating-point ones like parameters.
    """

    def __init__(self, model: nn.Module, buffers: Literal['copy', 'average'] = 'copy'):
        self.steps = 0
        self._model = model
        # A module may replace a buffer by assignment; its dict always has the one in use.
        self._places = dict(_places(model))
        self.shadow = {name: _widened(self._live(name)) for name in self._places}
        self._averaged = [
            name
            for name, (tensors, key) in self._places.items()
            if tensors[key].is_floating_point()
            and (isinstance(tensors[key], nn.Parameter) or buffers == 'average')
        ]
        self._copied = [name for name in self._places if name not in set(self._averaged)]
        self._own: dict[str, Tensor] | None = None

    @property
    def swapped(self) -> bool:
        """Whether the model holds the average at the moment."""
        return self._own is not None

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Take in the model as it is now.

        Args:
            weight: share of the model in the new average, in (0, 1].
        """
        average = get_ema_multi_avg_fn(1 - weight)
        for names, shadows in self._groups:
            lives = [_local(self._live(name)) for name in names]
            if lives[0].dtype != shadows[0].dtype:
                lives = [live.to(shadows[0].dtype) for live in lives]
            average(shadows, lives, self.steps)
        if self._copied:
            copies = [_local(self.shadow[name]) for name in self._copied]
            torch._foreach_copy_(copies, [_local(self._live(name)) for name in self._copied])
        self.steps += 1

    @cached_property
    def _groups(self) -> list[tuple[list[str], list[Tensor]]]:
        """Averaged names and tensors by device and type, as one fused call wants them."""
        groups: dict[tuple[Any, ...], tuple[list[str], list[Tensor]]] = {}
        for name in self._averaged:
            shadow, live = _local(self.shadow[name]), self._live(name)
            names, shadows = groups.setdefault((shadow.device, shadow.dtype, live.dtype), ([], []))
            names.append(name)
            shadows.append(shadow)
        return list(groups.values())

    @torch.no_grad()
    def swap_in(self) -> None:
        """Put the average into the model, in place, and remember the model's own values.

        In place, so that wrappers, optimizers and compiled code keep the tensors they hold.
        """
        if self._own is None:
            self._own = {name: self._live(name).detach().clone() for name in self._places}
            for name, shadow in self.shadow.items():
                self._live(name).copy_(shadow)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Give the model its own values back, bit by bit; nothing to do if it has them."""
        if self._own is not None:
            for name, own in self._own.items():
                self._live(name).copy_(own)
            self._own = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model holds the average within this context."""
        self.swap_in()
        try:
            yield
        finally:
            self.swap_out()

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Take an average back as it was saved.

        Raises:
            ValueError: if the names are not those of the model.
        """
        missing = self.shadow.keys() - weights.keys()
        unexpected = weights.keys() - self.shadow.keys()
        if missing or unexpected:
            raise ValueError(
                f'the saved average does not fit the model: it lacks {sorted(missing)[:5]} and '
                f'has {sorted(unexpected)[:5]} besides; was the model changed since?'
            )
        for name, tensor in weights.items():
            self.shadow[name].copy_(_like(tensor, self.shadow[name]))
        self.steps = steps

    def as_state_dict(self) -> dict[str, Tensor]:
        """The averages under all names of the model's state dict (shared ones have several)."""
        by_tensor = {id(self._live(name)): name for name in self._places}
        state = self._model.state_dict(keep_vars=True)
        return {
            name: _full(self.shadow[by_tensor[id(tensor)]])
            for name, tensor in state.items()
            if id(tensor) in by_tensor
        }

    def _live(self, name: str) -> Tensor:
        tensors, key = self._places[name]
        return tensors[key]


@HOOKS.register_module()
class EMAHook(Hook):
    """Keep an exponential moving average of the weights and evaluate with it.

    The average moves after each optimizer step (so with accumulation once per accumulated step):
    ``average += momentum * (weights - average)``. Validation and test run on the average, a
    checkpoint holds both, and resuming continues bit by bit.

    Args:
        momentum: share of the new weights, small: 0.0002 averages over about 5,000 steps.
        ramp: how the share falls to ``momentum`` from the first step on, so that the average
            forgets the random start: ``'inverse'`` max(momentum, r / (r + t)),
            ``'exponential'`` 1 - (1 - momentum)(1 - exp(-t / r)) with r = ``ramp_steps``, or
            ``'none'``.
        ramp_steps: length r of the ramp, in optimizer steps.
        interval: average every n-th optimizer step.
        begin: optimizer steps before averaging begins; until then the average is the model.
        buffers: ``'copy'`` buffers such as batch-norm statistics, or ``'average'`` them too.
        evaluate: run validation and test on the average.
    """

    # Before hooks that save, so that they see the model's own weights again.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        momentum: float = 0.0002,
        ramp: Ramp = 'exponential',
        ramp_steps: int = 2000,
        interval: int = 1,
        begin: int = 0,
        buffers: Literal['copy', 'average'] = 'copy',
        evaluate: bool = True,
    ):
        if not 0 < momentum <= 0.5:
            raise ValueError(
                f'momentum is the share of the new weights and lies in (0, 0.5], not {momentum}'
                + (f'; did you mean {1 - momentum:.6g}?' if 0.5 < momentum < 1 else '')
            )
        if ramp not in ('none', 'inverse', 'exponential'):
            raise ValueError(f"ramp must be 'none', 'inverse' or 'exponential', not {ramp!r}")
        if buffers not in ('copy', 'average'):
            raise ValueError(f"buffers must be 'copy' or 'average', not {buffers!r}")
        if interval < 1 or ramp_steps < 1 or begin < 0:
            raise ValueError(
                f'interval and ramp_steps must be at least 1 and begin at least 0, not '
                f'{interval}, {ramp_steps} and {begin}'
            )
        self.momentum = momentum
        self.ramp = ramp
        self.ramp_steps = ramp_steps
        self.interval = interval
        self.begin = begin
        self.buffers = buffers
        self.evaluate = evaluate
        self.average: WeightAverage | None = None
        self._steps = 0
        self._loaded: dict[str, Any] | None = None

    def weight_at(self, update: int) -> float:
        """Share of the new weights at the ``update``-th averaging (0 for the first)."""
        if self.ramp == 'inverse':
            return max(self.momentum, self.ramp_steps / (self.ramp_steps + update))
        if self.ramp == 'exponential':
            return 1 - (1 - self.momentum) * (1 - math.exp(-update / self.ramp_steps))
        return self.momentum

    def before_train(self, runner: Runner) -> None:
        """Start from the weights as they are (after loading), or from the resumed average."""
        self.average = WeightAverage(runner.unwrapped_model, self.buffers)
        if self._loaded is not None:
            self.load_state_dict(self._loaded)
            self._loaded = None

    def after_optimizer_step(self, runner: Runner) -> None:
        """Move the average."""
        if self.average is None:
            return
        self._steps += 1
        if self._steps <= self.begin:
            self.average.update(1.0)
            self.average.steps = 0
        elif (self._steps - self.begin) % self.interval == 0:
            self.average.update(self.weight_at(self.average.steps))

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluate the average."""
        if self.average is not None and self.evaluate:
            self.average.swap_in()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Back to the weights in training."""
        if self.average is not None:
            self.average.swap_out()

    def before_test_epoch(self, runner: Runner) -> None:
        """Evaluate the average."""
        self.before_val_epoch(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Back to the weights in training."""
        self.after_val_epoch(runner, metrics)

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """An error in the middle of validation must not leave the average in the model."""
        if self.average is not None:
            self.average.swap_out()

    def averaged_state_dict(self, runner: Runner) -> dict[str, Tensor] | None:
        """The model's state dict with averaged values; ``None`` before training.

        Sharded values are gathered, so every process must call this.
        """
        return None if self.average is None else self.average.as_state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The average in its own precision, and how far it is."""
        if self.average is None:
            return {}
        return {
            'steps': self._steps,
            'updates': self.average.steps,
            'weights': {n: _full(t) for n, t in self.average.shadow.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved average; kept until training begins where it has not yet."""
        if not state:
            return
        self._steps = int(state['steps'])
        if self.average is None:
            self._loaded = state
        else:
            self.average.load(state['weights'], int(state['updates']))


@HOOKS.register_module()
class SWAHook(EMAHook):
    """Stochastic weight averaging: the equal mean of the weights from ``begin`` on.

    Paper: Averaging Weights Leads to Wider Optima and Better Generalization (UAI 2018).

    Batch-norm statistics are those of the last model unless ``buffers='average'``.

    Args:
        begin: optimizer steps before averaging begins.
        interval: take in every n-th optimizer step, for instance one epoch's worth.
        buffers: ``'copy'`` or ``'average'``.
        evaluate: run validation and test on the average.
    """

    def __init__(
        self,
        begin: int,
        interval: int = 1,
        buffers: Literal['copy', 'average'] = 'average',
        evaluate: bool = True,
    ):
        super().__init__(
            ramp='none', begin=begin, interval=interval, buffers=buffers, evaluate=evaluate
        )

    def weight_at(self, update: int) -> float:
        """1, 1/2, 1/3 ...: the mean over all that was seen."""
        return 1 / (update + 1)


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    """Name of each parameter and buffer (once, where shared), and the dict that holds it."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f'{prefix}.{key}'.lstrip('.'), (tensors, key)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().to(torch.float32 if tensor.dtype in HALF else tensor.dtype)


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; averaging is per element, so that is enough."""
    to_local = getattr(tensor, 'to_local', None)
    return tensor.detach() if to_local is None else to_local().detach()


def _full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; a plain one as a copy."""
    gather = getattr(tensor, 'full_tensor', None)
    return tensor.detach().clone() if gather is None else gather()


def _like(tensor: Tensor, other: Any) -> Tensor:
    """``tensor``, sharded as ``other`` is."""
    if not hasattr(other, 'device_mesh') or hasattr(tensor, 'device_mesh'):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
