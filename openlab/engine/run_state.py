"""Where a run stands, as tensors and plain types: what a resume needs besides the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from openlab import device as chips
from openlab.engine import distributed

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


def collect(runner: Runner) -> dict[str, Any]:
    """Position, optimizer, schedules, hooks, generators; every process must call this."""
    window = runner.optim_wrapper.grads_in_window()
    return {
        'loop': runner.train_loop.state_dict(),
        'optim_wrapper': runner.optim_wrapper.state_dict(),
        # Processes differ in the gradients of an open window, but agree whether one is open.
        'windows': None if window is None else distributed.all_gather_object(window),
        'schedulers': [s.state_dict() for s in runner.param_schedulers],
        'hooks': {name: hook.state_dict() for name, hook in _named_hooks(runner)
                  if hasattr(hook, 'state_dict')},
        'metrics_history': [dict(m) for m in runner.metrics_history],
        'rng': distributed.all_gather_object(chips.rng_state()),
    }


def restore(runner: Runner, state: Mapping[str, Any]) -> None:
    """Take back what ``collect`` gave.

    Generators and half-gathered gradients belong to a process: with another number of processes
    they are left out, and the run goes on correctly, but not digit for digit.

    Raises:
        ValueError: if the number of schedules is another than that of the run.
    """
    runner.train_loop.load_state_dict(state['loop'])
    # Schedules first: those whose window has begun touch the lr, which the optimizer corrects.
    if len(state['schedulers']) != len(runner.param_schedulers):
        raise ValueError(
            f'cannot resume: the run had {len(state["schedulers"])} entries in param_scheduler, '
            f'the config has {len(runner.param_schedulers)}; start anew with load_from')
    for schedule, saved in zip(runner.param_schedulers, state['schedulers']):
        schedule.load_state_dict(saved)
    runner.optim_wrapper.load_state_dict(state['optim_wrapper'])
    for name, hook in _named_hooks(runner):
        saved = state['hooks'].get(name)
        if saved and hasattr(hook, 'load_state_dict'):
            hook.load_state_dict(saved)
    runner.metrics_history = [dict(m) for m in state['metrics_history']]
    if len(state['rng']) != runner.world_size:
        runner.logger.warning('resumed with %d processes instead of %d: random numbers differ',
                              runner.world_size, len(state['rng']))
        return
    runner.train_loop.rng_state = state['rng'][runner.rank]
    if state['windows'] is not None:
        runner.optim_wrapper.load_window(state['windows'][runner.rank])


def _named_hooks(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Hooks by class name, numbered where a class repeats."""
    counts: dict[str, int] = {}
    for hook in runner.hooks:
        base = type(hook).__name__
        counts[base] = counts.get(base, 0) + 1
        yield base if counts[base] == 1 else f'{base}_{counts[base]}', hook
