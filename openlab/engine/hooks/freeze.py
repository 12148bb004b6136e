"""Hold parts of a model still while the rest is trained."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from openlab.engine.hooks.base import Hook
from openlab.engine.param_groups import innermost_backbone
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


def match_names(patterns: Iterable[str], names: Sequence[str], where: str) -> set[str]:
    """Names that fit any pattern: shell wildcards, or a prefix that ends at a dot.

    ``backbone`` and ``backbone.*`` both mean everything below ``backbone``.

    Raises:
        ValueError: if a pattern fits nothing; the message has near names.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = {
            name
            for name in names
            if name.startswith(f'{pattern}.') or fnmatch.fnmatchcase(name, pattern)
        }
        if not hits:
            prefixes = {n.rsplit('.', i)[0] for n in names for i in range(n.count('.') + 1)}
            near = difflib.get_close_matches(pattern, sorted(prefixes), n=3, cutoff=0.4)
            hint = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
            tops = ', '.join(sorted({n.split('.')[0] for n in names}))
            raise ValueError(
                f'{where}: {pattern!r} matches no parameter{hint} (the model has {tops})'
            )
        found |= hits
    return found


def stage_patterns(model: nn.Module, num_stages: int) -> list[str]:
    """Patterns for the first stages of a model's backbone, its stem being the first.

    A stage is a child of the backbone that has parameters, in order of definition; each member
    of a list of modules (``stages``, ``blocks``) counts by itself. Parameters that belong to the
    backbone directly, such as a class token, go with the stem.

    Raises:
        ValueError: if the backbone has fewer.
    """
    if num_stages == 0:
        return []
    backbone, prefix = innermost_backbone(model)
    stages = []
    for name, child in backbone.named_children():
        parts = child.named_children() if isinstance(child, nn.ModuleList) else [('', child)]
        stages += [
            f'{name}.{n}'.rstrip('.') for n, m in parts if any(True for _ in m.parameters())
        ]
    if num_stages > len(stages):
        raise ValueError(
            f'FreezeHook.num_stages={num_stages}, but {type(backbone).__name__} has only '
            f'{len(stages)}: {", ".join(stages)}'
        )
    own = [name for name, _ in backbone.named_parameters(recurse=False)]
    return [prefix + name for name in (*own, *stages[:num_stages])]


@HOOKS.register_module()
class FreezeHook(Hook):
    """Freeze parameters by name, and keep their batch norms in evaluation mode.

    A frozen parameter gets no gradient, no weight decay and no step.

    Args:
        patterns: names with wildcards (``'backbone.layer1.*'``) or prefixes (``'backbone'``);
            one that matches nothing is an error.
        num_stages: freeze the first n stages of the backbone besides.
        except_for: patterns that stay trainable although others match them.
        norm_eval: batch norms all of whose parameters are frozen use, and keep, their running
            statistics.
        unfreeze_epoch: set everything free again at the start of this epoch (counted from 0).
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        patterns: Sequence[str] = (),
        num_stages: int = 0,
        except_for: Sequence[str] = (),
        norm_eval: bool = True,
        unfreeze_epoch: int | None = None,
    ):
        patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not patterns and num_stages < 1:
            raise ValueError('FreezeHook freezes nothing: give patterns, or num_stages >= 1')
        self.patterns = patterns
        self.num_stages = num_stages
        self.except_for = (except_for,) if isinstance(except_for, str) else tuple(except_for)
        self.norm_eval = norm_eval
        self.unfreeze_epoch = unfreeze_epoch
        self.frozen: set[str] = set()
        self._norms: list[nn.Module] = []

    def freeze(self, model: nn.Module) -> list[str]:
        """Freeze what the patterns name in a bare model; returns the parameters' names."""
        names = [name for name, _ in model.named_parameters()]
        patterns = [*self.patterns, *stage_patterns(model, self.num_stages)]
        frozen = match_names(patterns, names, 'FreezeHook.patterns')
        if self.except_for:
            frozen -= match_names(self.except_for, names, 'FreezeHook.except_for')
        self.frozen = {
            n for n, p in model.named_parameters() if n in frozen and p.requires_grad
        } | (self.frozen & frozen)
        for name, parameter in model.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)
        self._norms = list(self._frozen_norms(model, patterns)) if self.norm_eval else []
        return sorted(self.frozen)

    def unfreeze(self, model: nn.Module) -> None:
        """Undo ``freeze``; what was frozen before it stays frozen."""
        for name, parameter in model.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(True)
        for norm in self._norms:
            norm.train()
        self.frozen, self._norms = set(), []

    def _frozen_norms(self, model: nn.Module, patterns: list[str]) -> Iterable[nn.Module]:
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                own = [f'{name}.{n}' for n, _ in module.named_parameters(recurse=False)]
                below = any(
                    name == p or name.startswith(f'{p}.') or fnmatch.fnmatchcase(f'{name}.x', p)
                    for p in patterns
                )
                if all(n in self.frozen for n in own) if own else below:
                    yield module

    def before_train(self, runner: Runner) -> None:
        """Freeze after loading and resuming, unless its time is over."""
        over = self.unfreeze_epoch is not None and runner.epoch >= self.unfreeze_epoch
        if not over:
            self._freeze(runner)
            _rewrap(runner)

    def _freeze(self, runner: Runner) -> None:
        model = runner.unwrapped_model
        names = self.freeze(model)
        runner.logger.info(
            'frozen: %d of %d parameter tensors%s', len(names), sum(1 for _ in model.parameters()),
            '' if self.unfreeze_epoch is None else f' until epoch {self.unfreeze_epoch}',
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Unfreeze when it is time."""
        end = self.unfreeze_epoch
        if self.frozen and end is not None and runner.epoch >= end:
            self.unfreeze(runner.unwrapped_model)
            runner.logger.info('epoch %d: all parameters are free again', runner.epoch)
            _rewrap(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Loops switch the whole model to training; frozen norms go back."""
        for norm in self._norms:
            if norm.training:
                norm.eval()


def _rewrap(runner: Runner) -> None:
    """Let DistributedDataParallel see which parameters have gradients now.

    It counts on the gradients that existed when it was made: frozen ones would be waited for
    and freed ones never summed.
    """
    if isinstance(runner.model, DistributedDataParallel):
        runner.model = runner.unwrapped_model  # the old one must let go of the gradients first
        runner.model = runner.strategy.wrap(runner.unwrapped_model, runner.device)
