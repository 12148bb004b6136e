"""Catch a loss that is no number, or far too large, before it reaches the weights.

The loss is read once a step, before the optimizer moves: the weights that made it are still
there, so the batch can be run again to find the module. On an accelerator the read waits for the
forward pass only, while the backward pass keeps the chip busy.
"""

from __future__ import annotations

import bisect
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from openlab.device import supports_pin_memory
from openlab.engine.distributed import all_gather_object, is_distributed, rank, world_size
from openlab.engine.hooks.base import Hook
from openlab.engine.hooks.param_stats import grad_norms
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

MAD_TO_SIGMA = 1.4826  # of a normal distribution
SHOWN = 8


class NonFiniteError(ValueError):
    """A loss, gradient or weight is not finite; the message says where it began."""


class SpikeError(ValueError):
    """The loss jumped far beyond what the steps before gave."""


@dataclass
class Diagnosis:
    """What running a bad batch again has shown.

    Attributes:
        losses: each loss of the rerun by name.
        parameters: names of weights that were bad before this batch.
        module: first module whose output is not finite, with its class; ``None`` if none.
        module_detail: how many of its values are bad, and whether its inputs were.
        images: positions in the batch where that output is bad.
        grads: names of parameters with bad gradients.
        paths: ``img_path`` (or id) of the batch's samples.
    """

    losses: dict[str, float] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    module: str | None = None
    module_detail: str = ''
    images: list[int] = field(default_factory=list)
    grads: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was bad in the rerun."""
        losses_fine = all(map(math.isfinite, self.losses.values()))
        return losses_fine and not (self.parameters or self.module or self.grads)

    def __str__(self) -> str:
        lines = []
        if self.parameters:
            lines.append(
                f'weights that were bad before this batch: {_some(self.parameters)}; an earlier '
                'step damaged them (grad_interval=1 checks the gradients of every step)'
            )
        if self.module is not None:
            lines.append(f'first module with a bad output: {self.module}: {self.module_detail}')
        elif not all(map(math.isfinite, self.losses.values())):
            bad = [name for name, value in self.losses.items() if not math.isfinite(value)]
            lines.append(
                f'the outputs of all modules are finite, the loss computed from them is not: '
                f'{_some(bad)}'
            )
        else:
            lines.append('the forward pass is finite when it is run again')
        if self.grads:
            lines.append(f'parameters with bad gradients: {_some(self.grads)}')
        lines.append('losses: ' + ', '.join(f'{n}={v:g}' for n, v in self.losses.items()))
        if self.images and len(self.images) < len(self.paths):
            lines.append(f'bad images: {_some([self.paths[i] for i in self.images])}')
        elif self.paths:
            lines.append(f'images of the batch: {_some(self.paths)}')
        return '\n  '.join(lines)


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Stop at the first loss or gradient that is not finite, and say where it came from.

    Args:
        action: what to do: ``'raise'`` an error; ``'skip'`` this optimizer step and put back the
            buffers that the batch may have spoilt; or ``'stop'`` training cleanly, without the
            step.
        max_skips: raise after so many skipped steps in a row.
        grad_interval: look at the gradients (their norm) every n-th step, 0 for never. A bad
            gradient under a finite loss is rare; without this look it shows one step later, as
            weights that are not finite. With clipping the norm is known anyway, and on the CPU
            it is checked every step.
    """

    # After hooks that change gradients, before those that measure or save.
    priority = 'HIGH'

    def __init__(
        self,
        action: Literal['raise', 'skip', 'stop'] = 'raise',
        max_skips: int = 10,
        grad_interval: int = 50,
    ):
        if action not in ('raise', 'skip', 'stop'):
            raise ValueError(f"action must be 'raise', 'skip' or 'stop', not {action!r}")
        self.action = action
        self.max_skips = max_skips
        self.grad_interval = grad_interval
        self.skipped = 0
        self._skips_in_a_row = 0
        self._steps = 0
        self._window = _LossWindow()
        self._batches: list[Any] = []
        self._random: list[Any] = []
        self._outputs: Mapping[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember what is needed to run this batch again."""
        if not self._batches and self.action == 'skip':
            self._keep_buffers(runner.unwrapped_model)
        self._batches.append(data_batch)
        self._random.append(_random_state(runner.device, self._augments(runner)))

    @staticmethod
    def _augments(runner: Runner) -> bool:
        """Whether batches are augmented here, by the generators of Python and numpy."""
        preprocessor = getattr(runner.unwrapped_model, 'preprocessor', None)
        return bool(getattr(preprocessor, 'batch_augments', ()))

    def before_backward(self, runner: Runner, outputs: Mapping[str, Tensor]) -> None:
        """Begin to read the loss; the accelerator goes on."""
        self._outputs = outputs
        self._window.begin(outputs['loss'])

    def before_optimizer_step(self, runner: Runner) -> None:
        """Look at the losses of this (accumulated) step before it is taken."""
        losses = self._window.finish()
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        self._steps += 1
        if bad is None and self._are_grads_bad(runner):
            bad = len(losses) - 1
        if bad is None:
            self._skips_in_a_row = 0
        else:
            self._act(runner, bad)
        self._batches, self._random = [], []

    def _act(self, runner: Runner, bad: int) -> None:
        with torch_state_restored(runner.unwrapped_model, self._buffers):
            diagnosis = diagnose(runner, self._batches[bad], self._random[bad])
        message = (
            f'non-finite numbers at iteration {runner.iter + 1}:\n  ' + _from_all_ranks(diagnosis)
        )
        self._skips_in_a_row += 1
        if self.action == 'raise':
            raise NonFiniteError(message)
        if self._skips_in_a_row > self.max_skips:
            raise NonFiniteError(f'{self._skips_in_a_row} bad steps in a row; {message}')
        runner.optim_wrapper.skip()
        self.skipped += 1
        if self.action == 'stop':
            runner.train_loop.stop_training = True
        word = 'step skipped' if self.action == 'skip' else 'stopping'
        runner.logger.warning('%s: %s', word, message)

    def _are_grads_bad(self, runner: Runner) -> bool:
        if self.grad_interval == 0 or _has_scaler(runner):  # fp16: the scaler deals with them
            return False
        norm = self._outputs.get('grad_norm')
        due = self._steps % self.grad_interval == 0
        if norm is not None and (due or norm.device.type == 'cpu'):
            return not math.isfinite(float(norm))
        if not due:
            return False
        grads = [p.grad for p in runner.unwrapped_model.parameters() if p.grad is not None]
        return bool(grads) and not math.isfinite(float(_full(nn.utils.get_total_norm(grads))))

    def _keep_buffers(self, model: nn.Module) -> None:
        live = dict(model.named_buffers())
        if self._buffers.keys() != live.keys():
            self._buffers = {name: b.detach().clone() for name, b in live.items()}
        elif live:
            torch._foreach_copy_(list(self._buffers.values()), list(live.values()))

    def state_dict(self) -> dict[str, Any]:
        """Counts, so that a resumed run looks and gives up at the same steps."""
        return {'steps': self._steps, 'skipped': self.skipped, 'in_a_row': self._skips_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._steps = int(state.get('steps', 0))
        self.skipped = int(state.get('skipped', 0))
        self._skips_in_a_row = int(state.get('in_a_row', 0))


@HOOKS.register_module()
class SpikeGuardHook(Hook):
    """Notice a loss far above what is usual, and act before the optimizer does.

    A step is a spike if its loss exceeds the running median by ``threshold`` robust standard
    deviations (1.4826 times the median absolute deviation). It is reported with all losses and
    the gradient norm of each part of the model.

    Args:
        threshold: how many deviations; training noise stays below 6.
        window: how many steps the median looks back.
        warmup: steps before judging, at least 2.
        action: ``'warn'`` only; ``'skip'`` the step; ``'stop'`` training cleanly; or ``'raise'``.
        depth: levels of module names in the report of gradients.
    """

    priority = 'HIGH'

    def __init__(
        self,
        threshold: float = 10.0,
        window: int = 100,
        warmup: int = 50,
        action: Literal['warn', 'skip', 'stop', 'raise'] = 'warn',
        depth: int = 2,
    ):
        if action not in ('warn', 'skip', 'stop', 'raise'):
            raise ValueError(f"action must be 'warn', 'skip', 'stop' or 'raise', not {action!r}")
        if threshold <= 0 or warmup < 2 or window < warmup:
            raise ValueError(
                'threshold must be positive and 2 <= warmup <= window, not '
                f'threshold={threshold}, warmup={warmup}, window={window}'
            )
        self.threshold = threshold
        self.warmup = warmup
        self.action = action
        self.depth = depth
        self.spikes = 0
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._pending = _LossWindow()
        self._outputs: Mapping[str, Tensor] = {}
        self._paths: list[str] = []
        self._batches: list[Any] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember whose loss this will be."""
        self._batches.append(data_batch)

    def before_backward(self, runner: Runner, outputs: Mapping[str, Tensor]) -> None:
        """Begin to read the loss."""
        self._outputs = outputs
        self._pending.begin(outputs['loss'])

    def before_optimizer_step(self, runner: Runner) -> None:
        """Judge the mean loss of this (accumulated) step."""
        losses = self._pending.finish()
        loss = sum(losses) / max(len(losses), 1)
        if losses and math.isfinite(loss):
            limit = self.limit_for(loss)
            if limit is None or loss <= limit:
                self._take(loss)
            else:
                self._act(runner, loss, limit)
        self._batches = []

    def limit_for(self, loss: float) -> float | None:
        """Above which a loss counts as a spike; ``None`` where that need not be computed."""
        count = len(self._sorted)
        # Most steps end here: a loss inside the upper tenth of the window is no spike.
        if count < self.warmup or loss <= self._sorted[count * 9 // 10]:
            return None
        median = statistics.median(self._sorted)
        deviation = statistics.median(abs(x - median) for x in self._sorted)
        # A constant loss has no deviation; rounding noise must not count as a spike then.
        sigma = max(MAD_TO_SIGMA * deviation, 1e-3 * abs(median), 1e-12)
        return median + self.threshold * sigma

    def _take(self, loss: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(loss)
        bisect.insort(self._sorted, loss)

    def _act(self, runner: Runner, loss: float, limit: float) -> None:
        self.spikes += 1
        norms = grad_norms(runner.unwrapped_model, self.depth)
        largest = sorted(norms.items(), key=lambda item: -item[1])[:SHOWN]
        paths = [path for batch in self._batches for path in image_paths(batch)]
        message = (
            f'loss spike at iteration {runner.iter + 1}: {loss:g} > {limit:g} = median '
            f'{statistics.median(self._sorted):g} + {self.threshold:g} robust sigma\n  losses: '
            + ', '.join(f'{n}={float(v):g}' for n, v in self._outputs.items())
            + '\n  gradient norms: ' + ', '.join(f'{n}={v:.3g}' for n, v in largest)
            + f'\n  images of the batch: {_some(paths)}'
        )
        if self.action == 'raise':
            raise SpikeError(message)
        runner.logger.warning('%s', message)
        if self.action == 'warn':
            self._take(loss)
            return
        runner.optim_wrapper.skip()
        if self.action == 'stop':
            runner.train_loop.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """The window, so that a resumed run judges as the whole one would."""
        return {'recent': list(self._recent), 'spikes': self.spikes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._recent.clear()
        self._sorted.clear()
        for loss in state.get('recent', []):
            self._take(float(loss))
        self.spikes = int(state.get('spikes', 0))


class _LossWindow:
    """The losses of one accumulated step, on their way from the device.

    The mean over processes is taken, so that all of them decide alike; a loss that is not
    finite anywhere makes the mean not finite everywhere.
    """

    def __init__(self) -> None:
        self._values: list[tuple[Tensor, Any, Any]] = []

    def begin(self, loss: Tensor) -> None:
        """Start to move one loss to the host; waits for nothing."""
        loss = loss.detach().float()
        work = None
        if is_distributed():
            loss = loss.clone()
            work = dist.all_reduce(loss, async_op=True)
        event = None
        if loss.device.type != 'cpu' and work is None and supports_pin_memory(loss.device):
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            host.copy_(loss, non_blocking=True)
            event = torch.Event(device=loss.device)
            event.record()
            loss = host
        self._values.append((loss, work, event))

    def finish(self) -> list[float]:
        """All losses begun since the last call."""
        losses = []
        for loss, work, event in self._values:
            if work is not None:
                work.wait()
            if event is not None:
                event.synchronize()
            losses.append(float(loss) / (world_size() if work is not None else 1))
        self._values = []
        return losses


def diagnose(runner: Runner, data_batch: Any, random_state: Any = None) -> Diagnosis:
    """Run a batch again, with the same random numbers, and see where it goes wrong.

    Gradients are replaced by those of this batch alone. The caller keeps buffers and random
    generators (see ``torch_state_restored``).

    Args:
        runner: at the weights with which the batch was bad.
        data_batch: as the dataloader gave it.
        random_state: of the generators before it was first run.
    """
    model = runner.unwrapped_model
    found = Diagnosis(paths=image_paths(data_batch))
    found.parameters = [n for n, p in model.named_parameters() if not _is_finite(p)]
    model.zero_grad(set_to_none=True)
    if random_state is not None:
        _set_random_state(random_state, runner.device)
    # Compiled code would not call the hooks that look at each module.
    with _first_bad_output(model, found), torch.compiler.set_stance('force_eager'):
        batch = runner.preprocess(data_batch, training=True)
        with runner.optim_wrapper.forward_context(model, True):
            losses = model(**batch, mode='loss')
    terms = {n: v for n, v in losses.items() if isinstance(v, Tensor) and v.numel() == 1}
    found.losses = {name: float(value.detach()) for name, value in terms.items()}
    total: Any = sum(v for n, v in terms.items() if n.startswith('loss'))
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    found.grads = [
        n for n, p in model.named_parameters() if p.grad is not None and not _is_finite(p.grad)
    ]
    return found


def _from_all_ranks(diagnosis: Diagnosis) -> str:
    """What the processes found; all of them are here, as they decide by the same mean loss."""
    if not is_distributed():
        return str(diagnosis)
    found = all_gather_object(None if diagnosis.is_clean else str(diagnosis))
    bad = [f'rank {number}: {text}' for number, text in enumerate(found) if text]
    return '\n  '.join(bad) or f'no rank finds them again; rank {rank()}: {diagnosis}'


@contextmanager
def torch_state_restored(model: nn.Module, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Put random generators and the given buffers back at the end."""
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    state = _random_state(device)
    try:
        yield
    finally:
        _set_random_state(state, device)
        with torch.no_grad():
            for name, live in model.named_buffers():
                if name in buffers:
                    live.copy_(buffers[name])


@contextmanager
def _first_bad_output(model: nn.Module, found: Diagnosis) -> Iterator[None]:
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def look(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            bad = [t for t in _tensors(output) if not _is_finite(t)]
            if found.module is None and bad:
                _describe(found, name, module, (args, kwargs), bad[0])

        handles.append(module.register_forward_hook(look, with_kwargs=True))

    for name, module in model.named_modules():
        if name:
            watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _describe(found: Diagnosis, name: str, module: nn.Module, inputs: Any, bad: Tensor) -> None:
    wrong = ~torch.isfinite(bad)
    found.module = f'{name} ({type(module).__name__})'
    found.module_detail = f'{int(wrong.sum())} of {bad.numel()} values'
    if any(not _is_finite(t) for t in _tensors(inputs)):
        found.module_detail += ', and its input is bad already'
    if any(not _is_finite(p) for p in module.parameters()):
        found.module_detail += ', and its weights are bad'
    if bad.ndim and bad.shape[0] == len(found.paths):
        found.images = wrong.flatten(1).any(1).nonzero().flatten().tolist() if bad.ndim > 1 else []


def image_paths(data_batch: Any) -> list[str]:
    """Where the samples of a batch came from: path, else id, else position."""
    samples = data_batch.get('samples', []) if isinstance(data_batch, Mapping) else []
    names = []
    for i, sample in enumerate(samples):
        meta = getattr(sample, 'meta', {})
        names.append(str(meta.get('img_path', meta.get('img_id', f'number {i}'))))
    return names


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _is_finite(tensor: Tensor) -> bool:
    tensor = tensor.detach()
    if hasattr(tensor, 'to_local'):
        tensor = tensor.to_local()
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor


def _has_scaler(runner: Runner) -> bool:
    scaler = getattr(runner.optim_wrapper, 'scaler', None)
    return scaler is not None and scaler.is_enabled()


def _random_state(device: torch.device, everything: bool = True) -> tuple[Any, ...]:
    """States of torch's generators, and of those of Python and numpy, which are slow to copy."""
    chip = None if device.type == 'cpu' else torch.get_device_module(device).get_rng_state()
    others = (random.getstate(), np.random.get_state()) if everything else (None, None)
    return torch.get_rng_state(), chip, *others


def _set_random_state(state: tuple[Any, ...], device: torch.device) -> None:
    torch_state, chip, python, numpy = state
    torch.set_rng_state(torch_state)
    if chip is not None:
        torch.get_device_module(device).set_rng_state(chip)
    if python is not None:
        random.setstate(python)
        np.random.set_state(numpy)


def _some(names: Sequence[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
