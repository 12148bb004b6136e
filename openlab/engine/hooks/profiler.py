"""Where the time of an iteration goes: a trace and a table by torch.profiler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import profiler

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class ProfilerHook(Hook):
    """Profile some iterations of training into ``<run folder>/profile``.

    Writes ``rank0_iter12.json.gz`` (for chrome://tracing or ui.perfetto.dev) and
    ``rank0_iter12.txt`` (operators by time). Iterations outside the window run at full speed.

    Args:
        wait: iterations to leave alone first.
        warmup: iterations that are profiled and thrown away, because the first ones are slow.
        active: iterations that are recorded.
        repeat: how many such windows.
        with_stack: record the source line of each operator.
        with_shapes: record the shapes of inputs, and tell operators apart by them.
        with_memory: record what each operator allocates.
        rows: rows of the table.
        sort_by: column of the table; by default the device's own time.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        wait: int = 5,
        warmup: int = 2,
        active: int = 3,
        repeat: int = 1,
        with_stack: bool = False,
        with_shapes: bool = False,
        with_memory: bool = False,
        rows: int = 30,
        sort_by: str | None = None,
    ):
        if min(wait, warmup) < 0 or min(active, repeat) < 1:
            raise ValueError(
                'wait and warmup must be at least 0, active and repeat at least 1, not '
                f'wait={wait}, warmup={warmup}, active={active}, repeat={repeat}'
            )
        self.schedule = profiler.schedule(wait=wait, warmup=warmup, active=active, repeat=repeat)
        self.with_stack = with_stack
        self.with_shapes = with_shapes
        self.with_memory = with_memory
        self.rows = rows
        self.sort_by = sort_by
        self.written: list[Path] = []
        self._last = (wait + warmup + active) * repeat
        self._done = 0
        self._profile: profiler.profile | None = None

    def before_train(self, runner: Runner) -> None:
        """Start the profiler; it idles until its window."""
        folder = Path(runner.work_dir) / 'profile'

        def write(profile: profiler.profile) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            stem = folder / f'rank{runner.rank}_iter{runner.iter + 1}'
            profile.export_chrome_trace(f'{stem}.json.gz')
            averages = profile.key_averages(group_by_input_shape=self.with_shapes)
            on_chip = runner.device.type != 'cpu'
            sort_by = self.sort_by or (
                'self_device_time_total' if on_chip else 'self_cpu_time_total')
            table = averages.table(sort_by=sort_by, row_limit=self.rows)
            Path(f'{stem}.txt').write_text(table + '\n', encoding='utf-8')
            self.written += [Path(f'{stem}.json.gz'), Path(f'{stem}.txt')]
            runner.logger.info('profile written: %s.txt and .json.gz', stem)

        self._profile = profiler.profile(
            schedule=self.schedule,
            on_trace_ready=write,
            with_stack=self.with_stack,
            record_shapes=self.with_shapes,
            profile_memory=self.with_memory,
        )
        self._profile.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """One step of the schedule; the profiler goes away after its last window."""
        if self._profile is not None:
            self._profile.step()
            self._done += 1
            if self._done >= self._last:
                self._stop()

    def after_train(self, runner: Runner) -> None:
        """Write what an unfinished window has."""
        self._stop()

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Leave no profiler running."""
        self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
