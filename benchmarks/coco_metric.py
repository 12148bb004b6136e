"""CocoMetric against pycocotools on 5,000 synthetic images, boxes and masks.

Images have 80 classes and as many objects as those of COCO (7.3 in the mean, some in crowds); a
made-up detector finds most of them a little beside their place, some under a wrong class, and
adds wrong ones with low scores: 36 detections in the mean. Masks are ellipses of 120 x 160
pixels.

Timed is what follows once all predictions are collected: ours ``CocoMetric.compute``, theirs the
truth's index, ``loadRes``, ``evaluate``, ``accumulate`` and ``summarize``. What collecting costs
ours is printed beside it (turning masks into run lengths is the same work in both). The twelve
lines that either prints must be the same, digit by digit.

    python benchmarks/coco_metric.py
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from benchmarks._common import Report, interleaved
from openlab.metrics.coco import CocoMetric, Kind
from openlab.structures.data_sample import DataSample

SIZE = (120, 160)
K, MEAN_OBJECTS, MEAN_WRONG = 80, 7.3, 30.0
IOU_TYPES: dict[Kind, str] = {'box': 'bbox', 'mask': 'segm'}


def make_images(count: int, with_masks: bool) -> list[tuple[DataSample, DataSample]]:
    """Prediction and truth of each image."""
    draw = torch.Generator().manual_seed(0)
    numbers = torch.poisson(torch.full((2, count), 1.0) * torch.tensor(
        [[MEAN_OBJECTS], [MEAN_WRONG]]), generator=draw).long()  # fmt: skip
    images = []
    for image_id, (num, wrong) in enumerate(numbers.T.tolist(), start=1):
        truth_boxes, labels = boxes_of(num, draw), torch.randint(K, (num,), generator=draw)
        seen = torch.rand(num, generator=draw) < 0.8
        moved = truth_boxes + torch.randn(num, 4, generator=draw) * 2
        moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
        confused = torch.rand(num, generator=draw) < 0.1
        guess = labels.where(~confused, torch.randint(K, (num,), generator=draw))
        boxes = torch.cat([moved[seen], boxes_of(wrong, draw)])
        found = torch.cat([guess[seen], torch.randint(K, (wrong,), generator=draw)])
        scores = torch.rand(len(boxes), generator=draw)
        scores[int(seen.sum()):] *= 0.6
        meta = {'img_id': image_id, 'ori_shape': SIZE, 'img_shape': SIZE}
        truth = DataSample(meta=meta, boxes=truth_boxes, labels=labels,
                           is_crowd=torch.rand(num, generator=draw) < 0.01)
        prediction = DataSample(meta=meta, boxes=boxes, labels=found, scores=scores)
        if with_masks:
            truth.masks, prediction.masks = ellipses(truth_boxes), ellipses(boxes)
        images.append((prediction, truth))
    return images


def boxes_of(num: int, draw: torch.Generator) -> Tensor:
    """Boxes of small, medium and large objects, inside the image."""
    height, width = SIZE
    side = torch.exp(torch.rand(num, 2, generator=draw) * 3) * 6
    side = torch.minimum(side, torch.tensor([width - 1.0, height - 1.0]))
    corner = torch.rand(num, 2, generator=draw) * (torch.tensor([width, height]) - side)
    return torch.cat([corner, corner + side], dim=1)


def ellipses(boxes: Tensor) -> Tensor:
    """Ellipses inside of boxes, (N, H, W)."""
    y, x = torch.arange(SIZE[0])[:, None] + 0.5, torch.arange(SIZE[1]) + 0.5
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1


def their_lines(kind: Kind, truth: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """What pycocotools prints at the end."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(rows), IOU_TYPES[kind])
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return out.getvalue().splitlines()[-12:]


def compare(report: Report, kind: Kind, count: int, turns: int) -> None:
    """Check and time one kind."""
    images = make_images(count, kind == 'mask')
    metric = CocoMetric([kind])
    metric.dataset_meta = {'classes': [f'class {i}' for i in range(K)]}
    start = time.process_time()
    for prediction, truth in images:
        metric.update([prediction], [truth])
    report.measured(f'{kind}: collecting', (time.process_time() - start) / count * 1e3, 'ms',
                    'for each image')
    num_found = sum(len(p) for p, _ in images)
    num_true = sum(len(t) for _, t in images)
    report.measured(f'{kind}: detections', num_found, '', f'of {num_true} objects')
    del images

    rows = metric.detections(kind)
    data = metric._truth(metric._categories())
    if kind == 'box':  # which loadRes takes for the outline if there is none
        data['annotations'] = [{'segmentation': [], **row} for row in data['annotations']]
    lines: dict[str, list[str]] = {}

    def our_way() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            metric.compute()
        lines['openlab'] = metric.results[kind].table.splitlines()

    def their_way(fresh: list[Any]) -> None:
        # Their evaluation writes into the rows; the copy is made outside of the measurement.
        lines['pycocotools'] = their_lines(kind, *fresh.pop())

    copies = [copy.deepcopy((data, rows)) for _ in range(turns)]
    times = interleaved({'openlab': our_way, 'pycocotools': lambda: their_way(copies)},
                        turns=turns, warmup=0, clock=time.process_time)
    report.timings({f'{kind} {side}': t for side, t in times.items()})
    for line in lines['openlab']:
        print(line)
    differ = sum(a.split() != b.split()
                 for a, b in zip(lines['openlab'], lines['pycocotools'], strict=True))
    report.at_most(f'{kind}_lines_that_differ', differ, 0)
    report.at_least(f'{kind}_speed_over_pycocotools',
                    times['pycocotools'].median / times['openlab'].median, 3)


def main() -> int:
    """Compare both kinds."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--turns', type=int, default=2)
    parser.add_argument('--images', type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(f'COCO metric, {args.images} images')
    for kind in IOU_TYPES:
        compare(report, kind, args.images, args.turns)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
