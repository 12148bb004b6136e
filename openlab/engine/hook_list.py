"""Hooks in order of priority, and for each moment only those that have something to do then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from openlab.engine.hooks.base import Hook
from openlab.engine.mmengine_parts import MMEngineHook, Priority, get_priority

MOMENTS = (*MMEngineHook.stages, 'before_backward', 'before_optimizer_step',
           'after_optimizer_step', 'on_exception')
_EMPTY = {getattr(base, name) for base in (MMEngineHook, Hook) for name in MOMENTS
          if hasattr(base, name)}
# mmengine routes these moments to a common method unless a hook overrides them.
_COMMON = {
    f'{when}_{stage}_{unit}': f'_{when}_{unit}'
    for when in ('before', 'after') for stage in ('train', 'val', 'test')
    for unit in ('epoch', 'iter')
}


class HookList:
    """Registered hooks, called moment by moment.

    Most hooks care for few moments; a moment that nobody cares for costs one dict look-up.
    """

    def __init__(self) -> None:
        self.hooks: list[MMEngineHook] = []
        self._callbacks: dict[str, list[Callable[..., Any]]] = {}

    def __iter__(self) -> Iterator[MMEngineHook]:
        return iter(self.hooks)

    def __len__(self) -> int:
        return len(self.hooks)

    def add(self, hook: MMEngineHook, priority: str | int | Priority | None = None) -> None:
        """Insert behind all hooks of the same or a more urgent priority."""
        if priority is not None:
            hook.priority = priority
        rank = get_priority(hook.priority)
        place = len(self.hooks)
        while place and get_priority(self.hooks[place - 1].priority) > rank:
            place -= 1
        self.hooks.insert(place, hook)
        self.refresh()

    def refresh(self) -> None:
        """Look again at who cares for which moment."""
        self._callbacks.clear()

    def call(self, moment: str, runner: Any, **kwargs: Any) -> None:
        """Run one moment through all hooks that override it, in order."""
        callbacks = self._callbacks.get(moment)
        if callbacks is None:
            callbacks = self._callbacks[moment] = self._find(moment)
        for callback in callbacks:
            callback(runner, **kwargs)

    def _find(self, moment: str) -> list[Callable[..., Any]]:
        return [getattr(h, moment) for h in self.hooks if cares_for(h, moment)]


def cares_for(hook: Any, moment: str) -> bool:
    """Whether a hook does something at a moment."""
    method = getattr(hook, moment, None)
    if method is None:
        return False
    if getattr(method, '__func__', method) not in _EMPTY:
        return True
    common = _COMMON.get(moment)
    return common is not None and getattr(type(hook), common) is not getattr(MMEngineHook, common)

