"""Memory that the annotations of 100,000 images take, with one worker and with eight.

A file as COCO's is made (7.3 objects in an image, polygons of ten points) and read by
``CocoDataset``; a loader then goes twice over all annotations in random order, without images, so
that every worker touches them as training does. What counts is the proportional memory (PSS: each
shared page divided among those who share it) of the process and all its workers, less that of the
same with twenty images: interpreter, torch and buffers of a worker are no annotations.

The peer is what a dataset usually holds, a list of dicts: counting references writes to its pages,
and workers end up with copies.

    python benchmarks/annotation_memory.py
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._common import Report

FEW = 20


def write_file(folder: Path, count: int) -> Path:
    """A COCO file of so many images."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = [{'id': i, 'file_name': f'{i:012d}.jpg', 'height': 480, 'width': 640}
              for i in range(1, count + 1)]
    owners = np.repeat(np.arange(1, count + 1), rng.poisson(7.3, count)).tolist()
    corners = np.round(rng.uniform(0, 300, (len(owners), 2)), 2)
    sides = np.round(rng.uniform(8, 170, (len(owners), 2)), 2)
    points = np.round(corners[:, None] + rng.random((len(owners), 10, 2)) * sides[:, None], 2)
    classes = rng.integers(1, 81, len(owners)).tolist()
    rows = [{'id': n, 'image_id': image, 'category_id': c, 'bbox': [*corner, *side],
             'area': side[0] * side[1], 'iscrowd': 0, 'segmentation': [polygon]}
            for n, (image, c, corner, side, polygon) in enumerate(zip(
                owners, classes, corners.tolist(), sides.tolist(),
                points.reshape(len(owners), -1).tolist(), strict=True), start=1)]
    file = folder / f'{count}.json'
    names = [{'id': i, 'name': f'class {i}'} for i in range(1, 81)]
    file.write_text(json.dumps({'images': images, 'annotations': rows, 'categories': names}))
    return file


def make_dataset(kind: str, file: Path) -> Any:
    """Ours, or a list of dicts with the same content."""
    from openlab.data.datasets.coco import CocoDataset

    dataset = CocoDataset(str(file), pipeline=[count_boxes])
    dataset.annotations  # noqa: B018 - reads the file
    if kind == 'openlab':
        return dataset
    return ListOfDicts([dataset.get_info(i) for i in range(len(dataset))])


def count_boxes(results: dict[str, Any]) -> int:
    """A transform that looks at an annotation and leaves almost nothing of it."""
    return len(results['boxes']) + len(results['segmentation'] or ())


class ListOfDicts:
    """What a dataset usually holds."""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> int:
        return count_boxes(self.records[index])


def measure(kind: str, file: Path, workers: int) -> float:
    """MiB of this process and its workers after two passes."""
    import psutil
    import torch

    from openlab.data.dataloader import DataLoader
    from openlab.data.samplers import DefaultSampler

    torch.set_num_threads(1)
    warnings.simplefilter('ignore')  # of more workers than cores: here their number matters
    dataset = make_dataset(kind, file)
    gc.collect()
    # What reading the file has left free within the heap would count as annotations.
    ctypes.CDLL(None).malloc_trim(0)
    loader = DataLoader(dataset, DefaultSampler(dataset, shuffle=True), batch_size=64,
                        num_workers=workers, collate=sum_up, persistent_workers=True)
    total = 0
    for _ in range(2):
        for number in loader:
            total += number
    assert total
    here = psutil.Process()
    return sum(p.memory_full_info().pss for p in (here, *here.children(recursive=True))) / 2**20


def sum_up(items: list[int]) -> int:
    """Collate to one number."""
    return sum(items)


def in_own_process(kind: str, file: Path, workers: int) -> float:
    """``measure`` in a fresh process."""
    command = [sys.executable, __file__, '--measure', kind, str(file), str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> int:
    """Compare one worker with many."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--images', type=int, default=100_000)
    parser.add_argument('--workers', type=int, default=8)
    parser.add_argument('--turns', type=int, default=1, help='memory repeats itself: one will do')
    parser.add_argument('--measure', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, file, workers = args.measure
        print(measure(kind, Path(file), int(workers)))
        return 0
    report = Report(f'memory of the annotations of {args.images} images')
    with tempfile.TemporaryDirectory() as folder:
        many, few = (write_file(Path(folder), n) for n in (args.images, FEW))
        ratios = {}
        for kind in ('openlab', 'list of dicts'):
            taken = {}
            for workers in (1, args.workers):
                turns = [in_own_process(kind, many, workers) - in_own_process(kind, few, workers)
                         for _ in range(args.turns)]
                taken[workers] = sorted(turns)[len(turns) // 2]
                report.measured(f'{kind}, {workers} workers', taken[workers], 'MiB',
                                'annotations alone')
            ratios[kind] = taken[args.workers] / taken[1]
        report.measured('list of dicts, ratio', ratios['list of dicts'], '')
        report.at_most(f'{args.workers}_workers_over_one', ratios['openlab'], 1.2)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
