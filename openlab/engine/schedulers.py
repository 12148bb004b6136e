"""Learning rate, momentum, weight decay over time: every scheduler of torch, in windows, chained.

A config names a scheduler and adds ``by_epoch``, ``begin``, ``end`` and ``param``:
``[dict(type='LinearWarmup', by_epoch=False, end=500), dict(type='CosineAnnealingLR')]``.
A torch scheduler is created when its window begins and steps until its window ends; what it then
left stays, unless a later one takes over.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from openlab.config.build import build, resolve_type
from openlab.registry import SCHEDULERS

# Lengths that a window can answer: the parameter is filled in where the config leaves it out.
_LENGTHS = ('T_max', 'total_iters', 'total_steps')
# Parameters counted in the unit of the scheduler, converted along with its window.
_IN_UNITS = (*_LENGTHS, 'step_size', 'milestones', 'T_0')


@SCHEDULERS.register_module()
class LinearWarmup(LinearLR):
    """Rise linearly from a fraction of the lr to all of it, a little after every iteration.

    A window in epochs is converted: a warm-up in steps of whole epochs would be none.

    Args:
        optimizer: given by the runner.
        start_factor: fraction at the beginning.
        total_iters: length; that of the window (``end - begin``) by default.
        last_epoch: index of the last step, -1 at the beginning.
    """

    is_smooth = True

    def __init__(self, optimizer: Optimizer, start_factor: float = 0.001,
                 total_iters: int = 500, last_epoch: int = -1):
        super().__init__(optimizer, start_factor, 1.0, total_iters, last_epoch)


class Schedule:
    """One scheduler in its window.

    Args:
        optimizer: whose param groups are changed.
        cfg: config of the torch scheduler (``type`` and arguments, without ``optimizer``).
        path: key path of the config, for messages.
        by_epoch: count epochs instead of iterations.
        begin: first step of the window.
        end: last step of the window; to the end of training by default.
        param: what is scheduled. Where ``paramwise`` multiplies the weight decay of a group, it
            multiplies the scheduled one: what is without decay stays so.
        monitor: result that ``ReduceLROnPlateau`` watches, such as ``accuracy/top1``.
    """

    def __init__(self, optimizer: Optimizer, cfg: Mapping[str, Any], path: str = '',
                 by_epoch: bool = True, begin: int = 0, end: float = float('inf'),
                 param: Literal['lr', 'momentum', 'weight_decay'] = 'lr',
                 monitor: str | None = None):
        if param not in ('lr', 'momentum', 'weight_decay'):
            raise ValueError(
                f"{path}.param={param!r}; accepted: 'lr', 'momentum', 'weight_decay'")
        if not 0 <= begin <= end:
            raise ValueError(f'{path}: the window must have 0 <= begin <= end, got {begin}, {end}')
        self.by_epoch = by_epoch
        self.begin, self.end = begin, end
        self.monitor = monitor
        self._cfg, self._path = cfg, path
        self._target = optimizer
        self._optimizer = optimizer if param == 'lr' else _as_lr(optimizer, param)
        self._factors = _decay_factors(optimizer, path) if param == 'weight_decay' else []
        self._param = param
        self._count = 0
        self._scheduler: LRScheduler | None = None
        if begin == 0 < end:
            self._create()

    @property
    def scheduler(self) -> LRScheduler | None:
        """The torch scheduler; ``None`` before its window."""
        return self._scheduler

    @property
    def need_val_args(self) -> bool:
        """Whether it steps on results of the validation."""
        return isinstance(self._scheduler, ReduceLROnPlateau)

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count one epoch or iteration (or, on a plateau, one validation)."""
        self._count += 1
        if self._count == self.begin < self.end:
            self._create()
        elif self._scheduler is not None and self._count <= self.end:
            if self.need_val_args:
                self._scheduler.step(self._watched(metrics or {}))  # type: ignore[arg-type]
            else:
                self._scheduler.step()
            self._publish()

    def get_last_value(self) -> list[float]:
        """What is set now, for each param group."""
        return [_get(g, self._param) for g in self._target.param_groups]

    def _watched(self, metrics: Mapping[str, float]) -> float:
        if self.monitor is not None and self.monitor in metrics:
            return metrics[self.monitor]
        raise ValueError(f'{self._path}.monitor={self.monitor!r} is no result of the validation; '
                         f'there are {", ".join(metrics) or "none"}')

    def _create(self) -> None:
        self._scheduler = build(dict(self._cfg), SCHEDULERS, self._path,
                                optimizer=self._optimizer)
        # Else torch warns where the first optimizer step comes later: accumulation, fp16.
        self._optimizer._opt_called = True  # type: ignore[attr-defined]
        self._publish()

    def _publish(self) -> None:
        if self._param == 'momentum':
            for group, source in zip(self._target.param_groups, self._optimizer.param_groups):
                _set_momentum(group, source['lr'])
        for group, source, factor in zip(
                self._target.param_groups, self._optimizer.param_groups, self._factors):
            group['weight_decay'] = source['lr'] * factor

    def state_dict(self) -> dict[str, Any]:
        """Counter, and the state of the torch scheduler once its window has begun."""
        state: dict[str, Any] = {'count': self._count}
        if self._scheduler is not None:
            state['scheduler'] = _plain(self._scheduler.state_dict())
        if self._param != 'lr':
            state['values'] = [
                {k: g[k] for k in ('lr', 'initial_lr') if k in g}
                for g in self._optimizer.param_groups]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; lr itself comes back with the optimizer."""
        self._count = state['count']
        if 'scheduler' in state:
            if self._scheduler is None:
                self._create()
            assert self._scheduler is not None
            self._scheduler.load_state_dict(state['scheduler'])
        if 'values' in state:
            for group, values in zip(self._optimizer.param_groups, state['values']):
                group.update(values)
            self._publish()


def build_schedules(
    cfgs: Any, optimizer: Optimizer, max_epochs: int, max_iters: int, iters_per_epoch: int,
    counts_epochs: bool = True, path: str = 'param_scheduler',
) -> list[Any]:
    """Build all schedulers of a config.

    Args:
        cfgs: one config, or a list of them.
        optimizer: whose param groups are changed.
        max_epochs: length of the training, for windows without ``end``.
        max_iters: the same in iterations.
        iters_per_epoch: for ``convert_to_iter_based``.
        counts_epochs: whether the loop has epochs to count.
        path: key path, for messages.

    Raises:
        ValueError: if a window or a unit cannot be.
    """
    items = cfgs if isinstance(cfgs, (list, tuple)) else [cfgs]
    schedules = []
    for i, item in enumerate(items):
        if not (isinstance(item, Mapping) and 'type' in item):
            schedules.append(item)  # built by hand
            continue
        cfg = dict(item)
        here = f'{path}[{i}]'
        target = resolve_type(cfg['type'], SCHEDULERS)
        if target.__module__.startswith('mmengine.'):
            schedules.append(build(cfg, SCHEDULERS, here, optimizer=optimizer))
            continue
        window = {k: cfg.pop(k) for k in ('by_epoch', 'begin', 'end', 'param', 'monitor')
                  if k in cfg}
        by_epoch = window.setdefault('by_epoch', counts_epochs)
        if by_epoch and not counts_epochs:
            raise ValueError(f'{here}.by_epoch=True, but an IterTrainLoop counts iterations; '
                             'set by_epoch=False')
        if cfg.pop('convert_to_iter_based', by_epoch and getattr(target, 'is_smooth', False)):
            _convert(cfg, window, iters_per_epoch)
            by_epoch = False
        _fill_length(cfg, window, target, max_epochs if by_epoch else max_iters)
        schedules.append(Schedule(optimizer, cfg, here, **window))
    return schedules


def _fill_length(cfg: dict[str, Any], window: dict[str, Any], target: Any, total: int) -> None:
    """Let the window answer how long the scheduler lasts, where the config does not say."""
    parameters = inspect.signature(target).parameters
    if window.get('end') is None:
        window.pop('end', None)
    for name in _LENGTHS:
        if name not in parameters or name in cfg:
            continue
        default = parameters[name].default
        open_ended = default is inspect.Parameter.empty or default is None
        if open_ended or 'end' in window:
            cfg[name] = max(int(window.get('end', total)) - window.get('begin', 0), 1)


def _convert(cfg: dict[str, Any], window: dict[str, Any], iters_per_epoch: int) -> None:
    for mapping, names in ((cfg, _IN_UNITS), (window, ('begin', 'end'))):
        for name in names:
            value = mapping.get(name)
            if isinstance(value, (list, tuple)):
                mapping[name] = [v * iters_per_epoch for v in value]
            elif value is not None:
                mapping[name] = value * iters_per_epoch
    window['by_epoch'] = False


def _as_lr(optimizer: Optimizer, param: str) -> Optimizer:
    """A stand-in whose ``lr`` is the momentum or weight decay: schedulers know lr only."""
    common = optimizer.defaults.get('weight_decay', 0.0) if param == 'weight_decay' else None
    groups = [{'params': [torch.zeros(1)], 'lr': _get(g, param) if common is None else common}
              for g in optimizer.param_groups]
    return torch.optim.SGD(groups, lr=0.0)


def _decay_factors(optimizer: Optimizer, path: str) -> list[float]:
    """Weight decay of each group over that of the optimizer."""
    common = optimizer.defaults.get('weight_decay', 0.0)
    if not common:
        raise ValueError(f"{path}.param='weight_decay' starts from the weight_decay of the "
                         f'optimizer, which must be positive, not {common}')
    return [float(group['weight_decay']) / common for group in optimizer.param_groups]


def _get(group: dict[str, Any], param: str) -> float:
    if param in ('lr', 'weight_decay'):
        return float(group[param])
    if 'momentum' in group:
        return float(group['momentum'])
    if 'betas' in group:
        return float(group['betas'][0])
    raise ValueError("param='momentum': the optimizer has neither momentum nor betas")


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if 'momentum' in group:
        group['momentum'] = value
    else:
        group['betas'] = (value, *group['betas'][1:])


def _plain(value: Any) -> Any:
    """State of a torch scheduler without what its constructor brings (functions, milestones)."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()
                if not callable(v) and not isinstance(v, Counter)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
