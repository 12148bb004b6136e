"""What may stand under each top-level key: which registry, which arguments come from elsewhere.

A component's constructor is its schema; this table holds only what no signature tells: that the
runner supplies ``dataloader`` to a loop, say, or that the dict of a dataloader is the arguments
of a class although it names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from openlab.registry import (
    DATASETS,
    HOOKS,
    LOGGERS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULERS,
    TRANSFORMS,
    Registry,
)


@dataclass(frozen=True)
class Slot:
    """What stands at a key path.

    Attributes:
        path: key path, in which ``*`` stands for any one part of a name.
        registry: where a bare name in ``type`` is looked up; nothing if there is no ``type``.
        default: class or function (dotted path) whose arguments the dict holds if it has no
            ``type``; with ``registry`` unset it never has one.
        base: class that a component must be derived from, as dotted path.
        given: arguments that the engine supplies.
        known: keys that the engine takes out before it builds.
        filled: required arguments that the engine derives where they are left out.
        is_list: whether a list of such dicts may stand here too.
        is_open: whether unknown keys are for others to judge.
    """

    path: str
    registry: Registry | None = None
    default: str | None = None
    base: str | None = None
    given: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    is_list: bool = False
    is_open: bool = False


_DATASET = 'torch.utils.data.Dataset'
_MODULE = 'torch.nn.Module'
_METRIC = 'openlab.metrics.base.Metric'
_HOOK = 'mmengine.hooks.Hook'
_WINDOW = ('by_epoch', 'begin', 'end', 'param', 'monitor', 'convert_to_iter_based')
_RUN = ('runner', 'dataloader')

SLOTS = (
    Slot('model', MODELS, base=_MODULE),
    Slot('*_dataloader', default='openlab.data.dataloader.DataLoader', given=('seed',)),
    Slot('*_dataloader.dataset', DATASETS, base=_DATASET),
    Slot('*_dataloader.sampler', SAMPLERS,
         given=('dataset', 'seed', 'rank', 'world_size')),
    Slot('train_cfg', LOOPS, default='openlab.engine.loops.EpochTrainLoop', given=_RUN),
    Slot('val_cfg', LOOPS, default='openlab.engine.loops.ValLoop', given=(*_RUN, 'evaluator')),
    Slot('test_cfg', LOOPS, default='openlab.engine.loops.TestLoop',
         given=(*_RUN, 'evaluator'), filled=('tta',)),
    Slot('optim_wrapper', OPTIMIZERS, default='openlab.engine.optim.OptimWrapper',
         given=('model',)),
    Slot('optim_wrapper.optimizer', OPTIMIZERS, base='torch.optim.Optimizer', given=('params',)),
    Slot('optim_wrapper.clip_grad', default='openlab.engine.optim.Clip'),
    Slot('optim_wrapper.paramwise', default='openlab.engine.param_groups.build_param_groups',
         given=('model', 'lr', 'weight_decay')),
    Slot('param_scheduler', SCHEDULERS, given=('optimizer',), known=_WINDOW,
         filled=('T_max', 'total_iters', 'total_steps'), is_list=True),
    Slot('val_evaluator', METRICS, base=_METRIC, is_list=True),
    Slot('test_evaluator', METRICS, base=_METRIC, is_list=True),
    Slot('default_hooks.*', HOOKS, base=_HOOK),
    Slot('custom_hooks', HOOKS, base=_HOOK, is_list=True),
    Slot('loggers', LOGGERS, is_list=True),
    Slot('load_from', default='openlab.engine.loading.load_weights', given=('model',)),
    Slot('randomness', default='openlab.engine.runner.Runner._randomness', given=('self',)),
    Slot('env', default='openlab.engine.environment.setup_environment',
         given=('custom_imports',)),
    Slot('tta', default='openlab.engine.tta.TestTimeAugmentation'),
    Slot('auto_scale_lr', known=('base_batch_size', 'enable')),
    Slot('custom_imports', known=('imports', 'allow_failed_imports')),
)
# Which registry holds the components of a parameter that no annotation ties to one.
BY_NAME = {'pipeline': TRANSFORMS, 'transforms': TRANSFORMS, 'dataset': DATASETS,
           'datasets': DATASETS, 'sampler': SAMPLERS}


def find_slots(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any, Slot]]:
    """Yield (key path, value, slot) for everything in a config that the table speaks of."""
    for slot in SLOTS:
        yield from _find(cfg, slot.path.split('.'), '', slot)


def _find(node: Any, steps: list[str], path: str, slot: Slot) -> Iterator[tuple[str, Any, Slot]]:
    if not steps:
        if slot.is_list and isinstance(node, (list, tuple)):
            for i, item in enumerate(node):
                yield f'{path}[{i}]', item, slot
        else:
            yield path, node, slot
    elif isinstance(node, Mapping):
        for key in node:
            if isinstance(key, str) and fnmatchcase(key, steps[0]):
                yield from _find(node[key], steps[1:], f'{path}.{key}' if path else key, slot)


def slot_at(path: tuple[str | int, ...]) -> Slot | None:
    """Return the slot that the table has for a key path, if any."""
    names = [str(p) for p in path if not isinstance(p, int)]
    for slot in SLOTS:
        steps = slot.path.split('.')
        if len(steps) == len(names) and all(map(fnmatchcase, names, steps)):
            return slot
    return None
