"""Time of a training iteration: our runner with its default hooks, bare torch, mmengine's runner.

All three train the same network on the same batch in one process, taking turns of a few
iterations. Peers hold what users of them have: the bare loop reads its loss every 50 iterations,
mmengine's runner has its default hooks. Checkpoints are not part of it (see ``checkpoint.py``).
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner as MMEngineRunner
from torch import Tensor, nn

from benchmarks._common import Report, interleaved
from openlab.algorithms.base import Algorithm
from openlab.engine.runner import Runner
from openlab.structures.data_sample import DataSample

MANY = 100_000
LOG_INTERVAL = 50


class Ours(Algorithm):
    """The network as an algorithm."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Logits."""
        return self.net(inputs)

    def loss(self, outputs: Tensor, samples: Any) -> dict[str, Tensor]:
        """Cross entropy; the labels stand in for samples, to time the loop alone."""
        return {'loss': nn.functional.cross_entropy(outputs, samples)}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """Not timed."""
        raise NotImplementedError


class Theirs(BaseModel):
    """The network as mmengine's model."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, samples: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        """Cross entropy."""
        return {'loss': nn.functional.cross_entropy(self.net(inputs), samples)}


class SameBatch:
    """A dataloader that costs nothing."""

    def __init__(self, batch: dict[str, Tensor], length: int = 10_000_000):
        self.batch = batch
        self.length = length
        self.batch_size = len(batch['inputs'])
        self.dataset = self.sampler = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch


def bare_loop(net: nn.Module, batch: dict[str, Tensor]) -> Callable[[int], None]:
    """What one would write by hand."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    loader = iter(SameBatch(batch))
    done = 0

    def run(count: int) -> None:
        nonlocal done
        net.train()
        for _ in range(count):
            data = next(loader)
            loss = nn.functional.cross_entropy(net(data['inputs']), data['samples'])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done % LOG_INTERVAL == 0:
                loss.item()

    return run


def our_loop(net: nn.Module, batch: dict[str, Tensor], folder: str) -> Callable[[int], None]:
    """Our runner with default hooks."""
    runner = Runner.from_config({
        'model': Ours(net), 'work_dir': folder, 'log_level': 'WARNING',
        'train_dataloader': SameBatch(batch), 'train_cfg': {'max_iters': 10**9},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1e-4, 'momentum': 0.9}},
        'default_hooks': {'checkpoint': {'interval': 0}, 'run_folder': {'curves': False}},
        'randomness': {'seed': 0},
    })
    runner.prepare_training()
    for moment in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(moment)
    runner.model.train()
    loop = runner.train_loop
    stream = loop._endless()

    def run(count: int) -> None:
        # The body of IterTrainLoop.run, which cannot be left and entered again.
        for _ in range(count):
            if loop._is_validation_due() or loop.iter >= loop.max_iters:
                raise AssertionError
            loop.run_iter(next(stream), is_last=loop.iter + 1 >= loop.max_iters)

    return run


def their_loop(net: nn.Module, batch: dict[str, Tensor], folder: str) -> Callable[[int], None]:
    """Mmengine's runner with its default hooks."""
    runner = MMEngineRunner(
        model=Theirs(net), work_dir=folder, log_level='ERROR', experiment_name=Path(folder).name,
        train_dataloader=torch.utils.data.DataLoader([0] * 10),
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 10**9},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1e-4, 'momentum': 0.9}},
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': LOG_INTERVAL}},
    )
    # What Runner.train does before its loop runs.
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    loop = runner.train_loop
    runner.optim_wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
    for moment in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(moment)
    runner.model.train()
    stream = iter(SameBatch(batch))

    def run(count: int) -> None:
        # The body of IterBasedTrainLoop.run.
        for _ in range(count):
            runner.model.train()
            loop.run_iter(next(stream))

    return run


def contenders(net: nn.Module, batch: dict[str, Tensor], folder: Path,
               names: tuple[str, ...] = ('bare', 'openlab', 'mmengine')) -> dict[str, Any]:
    """Loops over copies of one network."""
    made: dict[str, Any] = {}
    for name in names:
        own = copy.deepcopy(net)
        target = str(folder / f'{name}_{len(list(folder.iterdir()))}')
        made[name] = {
            'bare': lambda n=own: bare_loop(n, batch),
            'openlab': lambda n=own, t=target: our_loop(n, batch, t),
            'mmengine': lambda n=own, t=target: their_loop(n, batch, t),
        }[name]()
    return made


def turn(run: Callable[[int], None], count: int) -> Callable[[], None]:
    """One turn of so many iterations."""
    return lambda: run(count)


def large(report: Report, folder: Path, turns: int) -> None:
    """ResNet-18: the loop must vanish beside the network."""
    from torchvision.models import resnet18

    batch = {'inputs': torch.randn(16, 3, 128, 128), 'samples': torch.randint(10, (16,))}
    loops = contenders(resnet18(num_classes=10), batch, folder)
    times = interleaved({n: turn(r, 2) for n, r in loops.items()}, turns=turns, warmup=2)
    report.timings({f'resnet18 {n}': t for n, t in times.items()}, per=2)
    report.at_most('resnet18_openlab_over_bare', times['openlab'].median / times['bare'].median,
                   1.02)


def small(report: Report, folder: Path, turns: int, many: int) -> None:
    """A tiny MLP: what the loop itself costs, at the beginning and after many iterations."""
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    batch = {'inputs': torch.randn(16, 16), 'samples': torch.randint(10, (16,))}
    loops = contenders(net, batch, folder)
    for run in loops.values():
        run(100)
    times = interleaved({n: turn(r, 100) for n, r in loops.items()}, turns=turns)
    report.timings({f'mlp {n}': t for n, t in times.items()}, per=100)
    added = {n: (times[n].median - times['bare'].median) / 100 * 1e3
             for n in ('openlab', 'mmengine')}
    report.measured('mlp mmengine adds', added['mmengine'], 'ms')
    report.at_most('mlp_added_ms', added['openlab'], 0.3)
    report.at_most('mlp_added_over_mmengine', added['openlab'] / added['mmengine'], 0.5)

    aged = loops['openlab']
    aged(many)
    young = contenders(net, batch, folder, ('openlab',))['openlab']
    young(100)
    pair = interleaved({'young': turn(young, 100), 'aged': turn(aged, 100)}, turns=turns)
    report.timings({f'mlp openlab {n}': t for n, t in pair.items()}, per=100)
    # 5 %: what two runs of the same code differ by on a quiet machine
    report.at_most(f'mlp_after_{many}_over_100', pair['aged'].median / pair['young'].median, 1.05)


def main() -> int:
    """Run both and print the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='few turns, to see that it runs')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    report = Report('time of a training iteration')
    with tempfile.TemporaryDirectory() as folder:
        small(report, Path(folder), *((5, 1000) if args.quick else (41, MANY)))
        large(report, Path(folder), 3 if args.quick else 25)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
