"""Fill the run folder: how the run was made when it starts, its curves while it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import openlab
from openlab.engine.hooks.base import Hook
from openlab.engine.run_folder import git_state, write_run_folder
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

_PATIENCE = 90  # seconds to wait for a picture


@HOOKS.register_module()
class RunFolderHook(Hook):
    """Write ``run.json``, the resolved config and ``curves.png`` (see ``engine.run_folder``).

    Curves are drawn by a process of its own, never two at a time, and in the middle of training
    at low priority and only as long as drawing took less than ``share`` of the run: training
    does not wait for them. The last picture is drawn when training ends.

    Args:
        curves: whether to draw curves.
        share: largest share of the wall time that drawing may take before training has ended.
    """

    priority = 'LOW'

    def __init__(self, curves: bool = True, share: float = 0.05):
        self.curves = curves
        self.share = share
        self._is_recorded = False
        self._thread: threading.Thread | None = None
        self._drawing: subprocess.Popen[bytes] | None = None
        self._drawing_since = 0.0
        self._drawing_seconds = 0.0
        self._started = 0.0

    def before_run(self, runner: Runner) -> None:
        """Look at the clock; nothing is written yet: resuming may fail, and nothing start."""
        self._started = perf_counter()

    def before_train(self, runner: Runner) -> None:
        """Put the config of the training beside its checkpoints; a test must not replace it."""
        self._record(runner)
        if runner.rank == 0:
            save_config(getattr(runner, 'cfg', None), Path(runner.work_dir))

    def before_val(self, runner: Runner) -> None:
        """Record a start that only validates."""
        self._record(runner)

    def before_test(self, runner: Runner) -> None:
        """Record a start that only tests."""
        self._record(runner)

    def _record(self, runner: Runner) -> None:
        """Write the config now, and what takes asking (git, versions) beside the training."""
        if runner.rank != 0 or self._is_recorded:
            return
        self._is_recorded = True
        cfg = getattr(runner, 'cfg', None)
        start = Path(runner.work_dir) / 'starts' / runner.timestamp
        start.mkdir(parents=True, exist_ok=True)
        save_config(cfg, start)
        randomness = (cfg.get('randomness') if isinstance(cfg, dict) else None) or {}
        git = git_state(Path.cwd(), start / 'git_diff.patch')
        self._thread = threading.Thread(
            target=write_run_folder, args=(start, git), daemon=True,
            kwargs={'seed': getattr(runner, 'seed', randomness.get('seed')),
                    'overrides': [str(o) for o in getattr(cfg, 'overrides', None) or ()],
                    'world_size': runner.world_size})
        self._thread.start()

    def after_val(self, runner: Runner) -> None:
        """Redraw the curves, unless that would take too much of the time."""
        self._poll()
        elapsed = perf_counter() - self._started
        if self._drawing is None and self._drawing_seconds <= self.share * elapsed:
            self._draw(runner, niceness=15)

    def after_train(self, runner: Runner) -> None:
        """Start the last picture, in the place of one that is not ready yet."""
        if self._drawing is not None:
            self._drawing.kill()
            self._drawing.communicate()
            self._drawing = None
        # At low priority a busy machine might never finish it, and the run would end with an
        # older picture.
        self._draw(runner, niceness=0)

    def after_run(self, runner: Runner) -> None:
        """Wait for what is still being written."""
        self._finish()

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Leave curves of what was trained."""
        self.after_train(runner)
        self._finish()

    def _draw(self, runner: Runner, niceness: int) -> None:
        log = Path(runner.work_dir) / 'log.jsonl'
        if not self.curves or runner.rank != 0 or not log.exists():
            return
        package = str(Path(openlab.__file__).resolve().parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])
        self._drawing_since = perf_counter()
        self._drawing = subprocess.Popen(
            [sys.executable, '-m', 'openlab.visualization.curves', str(log),
             str(log.with_name('curves.png'))],
            env={**os.environ, 'PYTHONPATH': path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if niceness and hasattr(os, 'setpriority'):
            os.setpriority(os.PRIO_PROCESS, self._drawing.pid, niceness)

    def _poll(self) -> None:
        if self._drawing is not None and self._drawing.poll() is not None:
            self._reap()

    def _finish(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=60)
            self._thread = None
        if self._drawing is not None:
            self._reap()

    def _reap(self) -> None:
        drawing, self._drawing = self._drawing, None
        assert drawing is not None
        try:
            _, error = drawing.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            drawing.kill()
            drawing.communicate()
            error = f'no picture after {_PATIENCE} s'.encode()
        self._drawing_seconds += perf_counter() - self._drawing_since
        if drawing.returncode:
            text = error.decode(errors='replace').strip().splitlines()
            if text and 'nothing to draw' in text[-1]:
                return  # the run ended before it could log anything
            print(f'curves.png could not be drawn: {text[-1] if text else "killed"}',
                  file=sys.stderr)


def save_config(cfg: Any, folder: Path) -> Path | None:
    """Write the resolved config as ``config.py``; as JSON where it is a plain dict."""
    if cfg is None:
        return None
    if hasattr(cfg, 'dump'):
        file = folder / 'config.py'
        cfg.dump(file)
        return file
    file = folder / 'config.json'
    file.write_text(json.dumps(cfg, indent=2, ensure_ascii=False, default=str) + '\n',
                    encoding='utf-8')
    return file
