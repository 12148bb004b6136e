"""When to save, which saves to keep, and which one is the best."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openlab.engine import distributed
from openlab.engine.checkpoint import AsyncSaver, CheckpointError, save_checkpoint
from openlab.engine.checkpoint_files import (
    FOLDER,
    checkpoint_folders,
    read_meta,
    read_pointer,
    recover_interrupted,
    remove_folder,
    write_pointer,
)
from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

Rule = Literal['greater', 'less']
# Words in the last part of a metric's name that decide what is better.
_LESS = re.compile(
    r'loss|error|perplexity|ppl|nll|brier|\b(ece|mce|mae|mse|rmse|epe|fid|kid|wer|cer|nme)\b')
_GREATER = re.compile(
    r'acc|top\d|precision|recall|f1|auc|dice|iou|map|psnr|ssim|kappa|hmean|bleu|pck|mcc|r2'
    r'|(?<![a-z])(ap|ar|pq|score|oks)(\d+|_\w+)?\b')


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Save every so often, at the end and when asked to stop; remember the last and the best.

    Checkpoints are folders in ``work_dir/checkpoints``; ``last.json`` and ``best.json`` there name
    two of them, and ``.../checkpoints/best`` works wherever a checkpoint is asked for.

    Args:
        interval: save after so many epochs or iterations; 0 saves only at the end.
        by_epoch: count epochs; by default what the training loop counts.
        keep: how many of the newest to keep besides the last and the best; -1 keeps all.
        save_best: metric that decides which one is best, such as ``'accuracy/top1'``;
            ``'auto'`` takes the first metric that validation gives.
        rule: whether ``'greater'`` or ``'less'`` is better; by default known from the name.
        save_last: save at the end of the training too.
        asynchronous: copy the tensors, then write in the background while training goes on. Takes
            host memory for one copy.

    Raises:
        ValueError: if the name of the metric does not tell what is better and ``rule`` is open.
    """

    # after every hook that changes weights or state in the same moment
    priority = 'VERY_LOW'

    def __init__(
        self,
        interval: int | None = None,
        by_epoch: bool | None = None,
        keep: int = 3,
        save_best: str | None = None,
        rule: Rule | None = None,
        save_last: bool = True,
        asynchronous: bool = True,
    ):
        if interval is not None and interval < 0:
            raise ValueError(f'interval={interval}; accepted: 0 (only at the end) or more')
        if keep < 1 and keep != -1:
            raise ValueError(f'keep={keep}; accepted: 1 or more, or -1 for all')
        if rule not in (None, 'greater', 'less'):
            raise ValueError(f"rule={rule!r}; accepted: 'greater', 'less'")
        self.interval = interval
        self.by_epoch = by_epoch
        self.keep = keep
        self.save_best = save_best
        self.save_last = save_last
        self.asynchronous = asynchronous
        self.rule: Rule | None = rule
        if save_best not in (None, 'auto') and rule is None:
            self.rule = rule_of(str(save_best))
        self.best: dict[str, Any] | None = None
        self._saved_iter = -1
        self._is_due = False
        self._saver = AsyncSaver()

    def before_train(self, runner: Runner) -> None:
        """Clear leftovers; set checkpoints of an earlier training in this folder aside."""
        if self.save_best is not None and runner.val_loop is None:
            raise ValueError(
                f'save_best={self.save_best!r} needs validation, but there is none; give '
                'val_dataloader, val_cfg and val_evaluator, or leave save_best out')
        if self.by_epoch is None:
            self.by_epoch = getattr(runner.train_loop, 'counts_epochs', True)
        if self.interval is None:
            self.interval = 1 if self.by_epoch else 1000
        self._saved_iter = int(runner.iter)  # just resumed, or nothing to save yet
        if distributed.is_main_process():
            recover_interrupted(self._folder(runner))
            if runner.iter == 0:
                self._set_aside(runner)

    def _set_aside(self, runner: Runner) -> None:
        # Two trainings in one folder would resume from, and delete, each other's checkpoints.
        folder = self._folder(runner)
        if not checkpoint_folders(folder):
            return
        number = 1
        while (aside := folder.with_name(f'{FOLDER}.{number}')).exists():
            number += 1
        folder.rename(aside)
        runner.logger.warning(
            f'{folder} held the checkpoints of an earlier training; they are now in {aside.name} '
            '(to continue that training give resume=True)')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save if an interval of iterations is full."""
        self._saver.raise_error()
        if self.by_epoch or not self.interval or (runner.iter + 1) % self.interval:
            return
        # At the end of an epoch schedules have yet to step: after_train_epoch saves.
        self._is_due = self._ends_epoch(runner)
        if not self._is_due:
            self._save(runner, f'iter_{runner.iter + 1:08d}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Save if an interval of epochs is full, or one of iterations just was."""
        if self._is_due:
            self._is_due = False
            self._save(runner, self._name(runner))
        elif self.by_epoch and self.interval and (runner.epoch + 1) % self.interval == 0:
            self._save(runner, f'epoch_{runner.epoch + 1:04d}')

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Mark (and save) the checkpoint if its metric is the best so far."""
        if self.save_best is None or runner.iter == 0:
            return
        name, value = self._metric(metrics or {})
        if not self._is_better(value):
            return
        self._save(runner, self._name(runner))
        self._saver.wait()
        pointer = read_pointer(self._folder(runner), 'last')
        if pointer is None:
            return
        self.best = {'checkpoint': pointer['checkpoint'], 'metric': name, 'value': value,
                     'rule': self.rule}
        if distributed.is_main_process():
            folder = self._folder(runner)
            write_pointer(folder, 'best', folder / pointer['checkpoint'], metric=name,
                          value=value, rule=self.rule)
            self._remove_old(folder)
            runner.logger.info(f'best {name} so far: {value:.4f} ({pointer["checkpoint"]})')

    def save_now(self, runner: Runner) -> None:
        """Save where training stands, unless that is saved, and wait until it is on disk."""
        self._save(runner, self._name(runner))
        self._saver.wait()

    def after_train(self, runner: Runner) -> None:
        """Save the end of the training; return when all is on disk."""
        if self.save_last or runner.iter < runner.max_iters:  # the latter: asked to stop
            self._save(runner, self._name(runner))
        self._saver.wait()

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Let a save that is being written come to its end.

        Nothing new is saved: in the middle of an iteration the state is no longer the one that
        the log describes.
        """
        try:
            self._saver.wait()
        except CheckpointError as failure:
            runner.logger.error(str(failure))

    def state_dict(self) -> dict[str, Any]:
        """The best checkpoint so far."""
        return {'best': self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the best checkpoint so far."""
        self.best = state.get('best')
        if self.best is not None and self.rule is None:
            self.rule = self.best['rule']

    def _save(self, runner: Runner, name: str) -> None:
        position = runner.train_loop.state_dict()['iter']
        if position == self._saved_iter:
            return
        self._saved_iter = position
        folder = self._folder(runner) / name
        save_checkpoint(
            runner, folder, blocking=not self.asynchronous, saver=self._saver,
            then=self._finish(runner.logger.info))

    def _finish(self, say: Callable[[str], None]) -> Callable[[Path], None]:
        def finish(folder: Path) -> None:
            write_pointer(folder.parent, 'last', folder)
            self._remove_old(folder.parent)
            say(f'saved {folder}')

        return finish

    def _remove_old(self, parent: Path) -> None:
        if self.keep == -1:
            return
        named = [read_pointer(parent, 'last'), read_pointer(parent, 'best')]
        kept = {pointer['checkpoint'] for pointer in named if pointer is not None}
        for folder in sorted(checkpoint_folders(parent), key=_iteration)[:-self.keep]:
            if folder.name not in kept:
                remove_folder(folder)

    def _name(self, runner: Runner) -> str:
        state = runner.train_loop.state_dict()
        if self.by_epoch and state.get('batches', 0) == 0:
            return f'epoch_{state["epoch"]:04d}'
        return f'iter_{state["iter"]:08d}'

    def _ends_epoch(self, runner: Runner) -> bool:
        loop = runner.train_loop
        return getattr(loop, 'counts_epochs', True) and loop.state_dict()['batches'] == 0

    def _folder(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / FOLDER

    def _metric(self, metrics: dict[str, float]) -> tuple[str, float]:
        name = str(self.save_best)
        if name == 'auto' and metrics:
            name = self.best['metric'] if self.best else next(iter(metrics))
            self.rule = self.rule or rule_of(name)
        if name not in metrics:
            near = difflib.get_close_matches(name, metrics, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise KeyError(
                f'save_best={name!r} is not among the results of validation: '
                f'{", ".join(sorted(metrics)) or "there are none"}{hint}')
        return name, float(metrics[name])

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        best = self.best['value']
        return value > best if self.rule == 'greater' else value < best


def _iteration(folder: Path) -> int:
    try:
        return int(read_meta(folder).get('iter', 0))
    except CheckpointError:
        return -1


def rule_of(metric: str) -> Rule:
    """Whether greater or less is better, from a metric's name.

    Raises:
        ValueError: if the name does not tell.
    """
    for part in (metric.split('/')[-1].lower(), metric.lower()):
        if _LESS.search(part):
            return 'less'
        if _GREATER.search(part):
            return 'greater'
    raise ValueError(
        f'the name {metric!r} does not tell whether greater or less is better; give '
        "rule='greater' or rule='less' beside save_best")
