"""Inference, training step and memory of our backbones, against torchvision's and timm's.

The families are those of ``configs/classification``; the peer of a family is the published network
that ``model_zoo/checks.json`` proves to give the same numbers, of several the smallest, first among
those with a classifier. So a family enters by the proof that its key map is right, without an edit
here. Both sides hold the same weights (ours read through the key map), and their logits (features,
where there is no classifier) are compared first. Networks above 150 million parameters or for
images above 400 pixels would take too long.

* Inference: one image (of the size that the network asks for, else 160 pixels).
* A training step: two images; forward, cross entropy, backward, one step of SGD.
* Memory: the most that tensors take during either beyond what is there before it, from torch's own
  record of every allocation.

The limits are on the median family, and on the worst one, for each of the three. One thread each,
turn by turn, in seconds of CPU: other programs on the machine disturb that least. Each family has
a process of its own. ``backbones_compiled.py`` does the same with both sides compiled.

    python benchmarks/backbones.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault('OMP_NUM_THREADS', '1')
# Read by the C library of the processes that measure: memory that tensors give back stays with the
# process. Else its pages are asked for again in some runs and not in others, by a tenth of a step.
os.environ.setdefault('MALLOC_MMAP_THRESHOLD_', str(2**31))
os.environ.setdefault('MALLOC_TRIM_THRESHOLD_', str(2**33))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._common import Report, interleaved, peak_memory
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.loading import load_weights
from openlab.zoo import index

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
SIZE, BATCH = 160, 2
PEERS = ('timm', 'torchvision')  # whose networks are built here to compare with
WRAPPERS = ('timm', 'torchvision', 'transformers')  # which hold the peer itself
FIXED_SIZE = re.compile('vit|deit|beit|eva|swin|mixer|twins|efficientformer|hiera')
MEDIAN, WORST = 1.0, 1.05
MOST_PARAMS, LARGEST_IMAGE = 150_000_000, 400


class Comparison(NamedTuple):
    """What was measured of one family."""

    lines: list[tuple[str, float, str, str]]  # name, value, unit, remark
    ratios: dict[str, float]  # ours over the peer's


def proven() -> dict[str, tuple[str, dict[str, Any]]]:
    """Smallest published network of each family with equal numbers: its name and the record."""
    best: dict[str, tuple[tuple[bool, int, str], dict[str, Any]]] = {}
    for name, record in index.checks().items():
        parts = record['config'].split('/')
        if parts[0] != 'classification' or parts[1] in WRAPPERS or not index.has(name):
            continue
        if 'outputs' not in record['proof'] or name.split('/')[0] not in PEERS:
            continue
        params = index.entry(name).get('params') or sys.maxsize
        if params > MOST_PARAMS or image_size(name) > LARGEST_IMAGE:
            continue
        rank = ('part' in record, params, name)
        if parts[1] not in best or rank < best[parts[1]][0]:
            best[parts[1]] = rank, record
    return {family: (rank[2], record) for family, (rank, record) in sorted(best.items())}


def make_peer(name: str, with_head: bool = True) -> nn.Module:
    """The published network with weights that leave no branch out."""
    entry = index.entry(name)
    source, architecture = name.split('/')[0], entry['architecture']
    classes = entry.get('num_classes', 1000) if with_head else 0
    torch.manual_seed(0)
    peer: nn.Module
    if source == 'timm':
        import timm

        peer = timm.create_model(architecture, num_classes=classes)
    else:
        from torchvision import models

        peer = models.get_model(architecture, weights=None, num_classes=classes)
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.ndim <= 1:
                parameter.uniform_(0.5, 1.0)
    return peer


def make_ours(record: dict[str, Any], peer: nn.Module) -> Any:
    """Ours with the weights of the peer; what only training recipes set is left out."""
    cfg = load_config(CONFIGS / record['config'], list(record.get('overrides', ())))
    plain = cfg.to_plain()['model']
    plain.pop('preprocessor', None)
    plain['backbone'].pop('drop_path', None)
    model = build(plain, path='model')
    ours = getattr(model, record['part']) if 'part' in record else model
    report = load_weights(ours, peer.state_dict())
    if not report.complete:
        raise RuntimeError(f'{record["config"]}: the weights do not fit: {report}')
    return ours


def image_size(name: str) -> int:
    """Pixels: those that a network asks for, if it takes no others."""
    entry = index.entry(name)
    if not FIXED_SIZE.search(entry['architecture']):
        return SIZE
    return int((entry.get('preprocessing') or {}).get('crop', 224))


def without_dropout(model: nn.Module) -> nn.Module:
    """Both sides without random numbers, which they would draw in different places."""
    for module in model.modules():
        for rate in ('p', 'prob', 'drop_prob', 'drop_rate'):
            if isinstance(getattr(module, rate, None), float) and 'Drop' in type(module).__name__:
                setattr(module, rate, 0.0)
    return model


def logits_of(outputs: Any) -> Tensor:
    """Of networks with several outputs, the first; of a map, the mean."""
    first: Tensor = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return first.mean((2, 3)) if first.ndim == 4 else first


def inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Logits of one image, as a function."""

    @torch.inference_mode()
    def run() -> None:
        model(images)

    return run


def train_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of SGD, as a function."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(logits_of(model(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compare(family: str, name: str, record: dict[str, Any], turns: int,
            compiled: bool) -> Comparison:
    """Measure both sides."""
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    sides = {'peer': without_dropout(make_peer(name, 'part' not in record))}
    sides['openlab'] = without_dropout(make_ours(record, sides['peer']))
    size = image_size(name)
    torch.manual_seed(1)
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(10, (BATCH,))
    with torch.inference_mode():
        mine, other = (logits_of(sides[k].eval()(images)) for k in ('openlab', 'peer'))
    gap = ((mine - other).abs().max() / other.abs().max()).item()
    if not gap < 1e-3:
        raise RuntimeError(f'{family}: the logits of {name} differ by {gap:.2g}')
    run = {k: torch.compile(m, dynamic=False) for k, m in sides.items()} if compiled else sides
    kind = 'compiled' if compiled else 'eager'
    lines, ratios = [], {}
    for phase in ('infer', 'train'):
        is_training = phase == 'train'
        for model in sides.values():
            model.train(is_training)
        calls = {k: train_step(m, images, labels) if is_training else inference(m, images[:1])
                 for k, m in run.items()}
        for call in calls.values():
            call()
        for model in sides.values():
            model.zero_grad()  # torch's record does not know what was allocated before it
        memory = {k: peak_memory(call) for k, call in calls.items()}
        num = turns if is_training else 4 * turns
        times = interleaved(calls, turns=num, clock=time.process_time)
        for side, timing in times.items():
            remark = f'{memory[side] / 2**20:.1f} MiB' + (f', {name}' if side == 'peer' else '')
            lines.append((f'{family} {kind} {phase} {side}', timing.median * 1e3, 'ms', remark))
        ratios[phase] = times['openlab'].over(times['peer'])
        ratios[f'memory_{phase}'] = memory['openlab'] / memory['peer']
    return Comparison(lines, ratios)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own; ``None`` if that dies."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def peer_alone(name: str, with_head: bool, compiled: bool) -> bool:
    """One image and one step through the peer, to see whether these work at all."""
    torch.set_num_threads(1)
    peer, size = make_peer(name, with_head), image_size(name)
    run = torch.compile(peer, dynamic=False) if compiled else peer
    images = torch.randn(BATCH, 3, size, size)
    inference(run.eval(), images[:1])()
    step = train_step(run.train(), images, torch.randint(10, (BATCH,)))
    for _ in range(5):  # memory that was written over shows a while later
        step()
    return True


def limit(report: Report, kind: str, ratios: dict[str, dict[str, float]]) -> None:
    """Promise the median and the worst family of each measurement."""
    for what in next(iter(ratios.values())):
        values = {family: found[what] for family, found in ratios.items()}
        worst = max(values, key=lambda family: values[family])
        report.at_most(f'{kind}_{what}_median', statistics.median(values.values()), MEDIAN)
        report.at_most(f'{kind}_{what}_worst_{worst}', values[worst], WORST)


def main(compiled: bool = False) -> int:
    """Compare all families, or the named ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('names', nargs='*', help='families, by default all')
    parser.add_argument('--turns', type=int, default=7,
                        help='of training; four times as many others')
    args = parser.parse_args()
    peers = proven()
    unknown = sorted(set(args.names) - set(peers))
    if unknown:
        parser.error(f'{", ".join(unknown)}: no such family; there are {", ".join(peers)}')
    kind = 'compiled' if compiled else 'eager'
    report = Report(f'backbones, {kind}: one image forward, {BATCH} to train, one thread')
    found, died = {}, []
    for family in args.names or peers:
        result = apart(compare, family, *peers[family], args.turns, compiled)
        with_head = 'part' not in peers[family][1]
        if result is None and apart(peer_alone, peers[family][0], with_head, compiled) is None:
            print(f'  {family} {kind}: not compared, {peers[family][0]} alone dies as well',
                  flush=True)
            continue
        if result is None:
            died.append(family)
            print(f'  {family} {kind}: the process died', flush=True)
            continue
        for line in result.lines:
            report.measured(*line)
        found[family] = result.ratios
        print(f'  {family} {kind}: ' + ', '.join(
            f'{what} {value:.3f}' for what, value in result.ratios.items()), flush=True)
    if found:
        limit(report, kind, found)
    report.at_most(f'{kind}_died', len(died), 0)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
