"""How long a user waits: for the package, for a help text, for the first iteration.

Every number is the median over fresh processes. Torch's own import is measured in between, and
the wait for the first iteration is what comes on top of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import Report, interleaved

ROOT = Path(__file__).resolve().parents[1]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / 'benchmarks')])
ENV = {**os.environ, 'PYTHONPATH': PATHS, 'PYTHONDONTWRITEBYTECODE': ''}
HOOKS = "custom_hooks=[dict(type='_first_iteration.StopHook')]"


def python(*arguments: str) -> None:
    """Run Python in a fresh process from another folder; its output matters only if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], env=ENV, cwd=tempfile.gettempdir(), capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f'{" ".join(arguments)[:200]} failed:\n{done.stdout}{done.stderr}')


def seconds_of_import(module: str, absent: str = '') -> float:
    """Time of one import inside a fresh process, without the start of Python itself."""
    check = f'assert {absent!r} not in sys.modules' if absent else 'pass'
    code = (f'import sys, time; t = time.perf_counter(); import {module}; '
            f'print(time.perf_counter() - t); {check}')
    done = subprocess.run(
        [sys.executable, '-c', code], env=ENV, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def first_iteration() -> None:
    """From the start of the process to the end of the demo's first iteration."""
    with tempfile.TemporaryDirectory() as folder:
        python('-m', 'openlab', 'train', 'quickstart/classification', '--work-dir', folder,
               '--set', HOOKS)


def main() -> int:
    """Measure and report."""
    report = Report('start-up')
    imports = sorted(seconds_of_import('openlab', absent='torch') for _ in range(9))
    report.measured('import openlab', imports[4] * 1e3, 'ms', 'without the start of Python')
    times = interleaved({
        'python -c pass': lambda: python('-c', 'pass'),
        'openlab --help': lambda: python('-m', 'openlab', '--help'),
        'openlab train --help': lambda: python('-m', 'openlab', 'train', '--help'),
    }, turns=9)
    report.timings(times)
    slow = interleaved({
        'python -c "import torch"': lambda: python('-c', 'import torch'),
        'process start to first iteration': first_iteration,
    }, turns=5)
    report.timings(slow)
    torch_import, first = (timing.median for timing in slow.values())
    report.at_most('import_openlab_s', imports[4], 0.1)
    report.at_most('train_help_s', times['openlab train --help'].median, 0.3)
    report.at_most('first_iteration_minus_torch_import_s', first - torch_import, 2.0)
    return report.finish()


if __name__ == '__main__':
    begin = time.perf_counter()
    code = main()
    print(f'# took {time.perf_counter() - begin:.0f} s', file=sys.stderr)
    sys.exit(code)
