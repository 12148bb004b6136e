"""Start one process for each device, through torchrun's own machinery.

On several machines start ``torchrun --nnodes ... -m openlab train CONFIG`` on each instead; a
process that finds torchrun's variables joins the group, however it was started.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from openlab import device as chips
from openlab.engine import watchdog

logger = logging.getLogger('openlab')


def launch(
    argv: Sequence[str], num_processes: int, module: str = 'openlab', script: str | None = None
) -> int:
    """Run ``python -m openlab ARGV`` in several processes and wait for them.

    Args:
        argv: command line of each process, without the option that asked for several.
        num_processes: how many; at most one for each accelerator, any number on the CPU.
        module: what to run with ``python -m``.
        script: a file to run instead.

    Returns:
        0, or the exit code of the first process that failed; which one that was, and where each
        one stood, is printed.

    Raises:
        ValueError: if there are fewer devices than processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check(num_processes)
    heartbeats = Path(tempfile.mkdtemp(prefix='openlab-heartbeats-'))
    os.environ[watchdog.FOLDER_VARIABLE] = str(heartbeats)
    # Each process would otherwise take all cores for itself.
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=uuid.uuid4().hex,
        rdzv_backend='c10d', rdzv_endpoint='localhost:0', max_restarts=0, monitor_interval=0.1,
        local_addr='localhost')
    target = [script] if script is not None else ['-m', module]
    try:
        elastic_launch(config, sys.executable)(*target, *argv)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        print(watchdog.obituary(number, failure.exitcode, heartbeats), file=sys.stderr, flush=True)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        # The processes were sent the same signal and have saved and left.
        name = signal.Signals(error.sigval).name
        print(f'stopped by {name}', file=sys.stderr, flush=True)
        return 128 + int(error.sigval)
    finally:
        os.environ.pop(watchdog.FOLDER_VARIABLE, None)
        shutil.rmtree(heartbeats, ignore_errors=True)
    return 0


def _check(num_processes: int) -> None:
    if num_processes < 1:
        raise ValueError(f'--gpus {num_processes}: at least 1 process is needed')
    count = chips.device_count()
    if count and num_processes > count:
        raise ValueError(
            f'--gpus {num_processes}: this machine has {count} {chips.accelerator_type()} '
            f'device(s); for that many processes on the CPU set {chips.ENVIRONMENT_VARIABLE}=cpu')
