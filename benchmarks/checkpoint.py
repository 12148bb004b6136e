"""How long a save holds training up: asynchronous against synchronous, and against torch.save.

The stall of a save is the time until the call returns and training can step again. The state is
that of ResNet-50 with AdamW: weights and two moments, about 300 MB. Written to the folder given
(default: a temporary one), so that the disk of interest can be measured.

    python benchmarks/checkpoint.py [FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torchvision
from torch import nn

from benchmarks._common import Report, Timing
from openlab import device as chips
from openlab.engine.checkpoint import AsyncSaver, CheckpointParts, save_checkpoint
from openlab.engine.checkpoint_files import sync

LIMIT = 0.10  # of the stall of a synchronous save


def make_parts() -> tuple[nn.Module, CheckpointParts]:
    """A model whose optimizer has stepped once, and all that is saved of both."""
    model = torchvision.models.resnet50().to(chips.get_device())
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, CheckpointParts(model.state_dict(), {'optimizer': optimizer.state_dict()})


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of a call, work on the device included."""
    chips.synchronize()
    start = time.perf_counter()
    call()
    chips.synchronize()
    return time.perf_counter() - start


def step_seconds(until: Callable[[], bool], least: int = 20) -> float:
    """Mean time of a small step of computation, repeated until a condition holds."""
    a = torch.randn(384, 384, device=chips.get_device())
    start, count = time.perf_counter(), 0
    while count < least or not until():
        (a @ a).sum().item()
        count += 1
    return (time.perf_counter() - start) / count


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', nargs='?', help='where to write')
    parser.add_argument('--turns', type=int, default=5)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=args.folder, prefix='checkpoint-benchmark-'))
    report = Report('Stall of a save')
    torch.set_num_threads(1)
    _, parts = make_parts()
    saver = AsyncSaver()
    seconds: dict[str, list[float]] = {'asynchronous': [], 'synchronous': [], 'torch.save': []}
    busy: list[float] = []
    quiet: list[float] = []

    def torch_save() -> None:
        torch.save({'model': parts.model, 'trainer': parts.trainer}, root / 'plain.pt')
        sync(root / 'plain.pt')

    try:
        first = seconds_of(lambda: save_checkpoint(parts, root / 'a', blocking=False, saver=saver))
        saver.wait()
        for _ in range(args.turns):
            seconds['asynchronous'].append(seconds_of(
                lambda: save_checkpoint(parts, root / 'a', blocking=False, saver=saver)))
            busy.append(step_seconds(lambda: not saver.busy))
            saver.wait()
            quiet.append(step_seconds(lambda: True))
            seconds['synchronous'].append(seconds_of(
                lambda: save_checkpoint(parts, root / 's', saver=saver)))
            seconds['torch.save'].append(seconds_of(torch_save))
        size = sum(f.stat().st_size for f in (root / 's').rglob('*') if f.is_file())
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report.measured('size of the checkpoint', size / 2**20, 'MiB')
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    report.timings(timings)
    report.measured('asynchronous, the first (allocates memory)', first * 1e3, 'ms')
    slower = sorted(b / q for b, q in zip(busy, quiet))[len(busy) // 2]
    report.measured('a step while a save is written', slower, 'x', 'of a step without')
    share = timings['asynchronous'].median / timings['synchronous'].median
    report.at_most('checkpoint.async_stall_over_sync', share, LIMIT)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
