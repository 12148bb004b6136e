"""Predictions beside their truth as one HTML file, to filter, sort and look into.

The file holds everything: styles, program, pictures. It asks nothing of the network (a content
security policy forbids it to), and names of files and classes enter it as data, never as markup.
Each image is stored once; boxes and masks lie over it as layers, so that filters act on objects.

P predicted objects · T true objects · H, W image height and width
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from openlab import __version__
from openlab.structures.data_sample import DataSample
from openlab.structures.item_errors import KIND_COLOURS, KINDS, ItemErrors, Task, Verdict
from openlab.structures.masks import masks_to_boxes
from openlab.structures.objects import classes_as_objects, segments_as_objects
from openlab.visualization.draw import Colours, as_rgb, class_name, label_of

LARGEST_REPORT = 150_000_000
"""Bytes of pictures and objects after which a report takes no more images."""
_TINY = 96  # an image this small is kept without loss: JPEG would blur it
_JPEG_QUALITY = 85
_QUALITY_NAMES: Mapping[Task, str] = {
    'classification': 'p(true)', 'detection': 'F1', 'instance': 'F1', 'semantic': 'mIoU',
    'panoptic': 'quality'}


@dataclass
class ReportItem:
    """One image of a report.

    Attributes:
        record: what the page knows of it, as JSON data.
        picture: its image as a ``data:`` address.
    """

    record: dict[str, Any]
    picture: str

    @property
    def size(self) -> int:
        """About how many bytes it takes in the file."""
        return len(self.picture) + len(json.dumps(self.record))


@dataclass
class ReportOptions:
    """What goes into a report.

    Attributes:
        image_size: longest side of the stored images, in pixels.
        max_objects: most predicted objects of an image, best scores first.
        min_score: predicted objects below it are left out.
        topk: class probabilities to list.
    """

    image_size: int = 640
    max_objects: int = 100
    min_score: float = 0.05
    topk: int = 5

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise ValueError(f'image_size must be at least 16 pixels, got {self.image_size}')


@dataclass
class ReportPage:
    """What stands around the images of a report.

    Attributes:
        title: of the page.
        task: of all its images.
        classes: names, as far as they are known.
        scope: a sentence about which images these are.
        metrics: results over all images that were evaluated.
        threshold: score from which on objects count at first.
        palette: colour of each class.
        min_score: least score that objects of the page have.
    """

    title: str
    task: Task
    classes: Sequence[str] | None = None
    scope: str = ''
    metrics: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.3
    palette: Sequence[Sequence[int]] | None = None
    min_score: float = 0.0


def report_item(image: np.ndarray | Tensor, prediction: DataSample, truth: DataSample,
                errors: ItemErrors, name: str,
                options: ReportOptions | None = None) -> ReportItem:
    """Take down one image for a report.

    Args:
        image: the pixels that boxes, masks and maps refer to.
        prediction: what the model says.
        truth: what it should say.
        errors: what ``find_errors`` says of the two.
        name: what to call the image.
        options: what to keep.
    """
    options = options or ReportOptions()
    rgb = as_rgb(image)
    height, width = rgb.shape[:2]
    small = shrink(rgb, options.image_size)
    rows, columns = small.shape[:2]
    record: dict[str, Any] = {
        'n': name, 'w': width, 'h': height, 'rw': columns, 'rh': rows,
        'sev': round(errors.severity, 5), 'q': round(errors.quality, 5), 't': [], 'p': [], 'e': []}
    if errors.task == 'classification':
        record['l'] = _label_record(prediction, truth, errors, options.topk)
        return ReportItem(record, picture_address(small))
    size = (rows, columns)
    sides = {'t': _as_objects(truth, errors.task), 'p': _as_objects(prediction, errors.task)}
    record['t'] = [_object(sides['t'], i, v, size) for i, v in enumerate(errors.truths)]
    for row, verdict in zip(record['t'], errors.truths):
        row |= {'f': _exact(verdict.found_at), 'v': _exact(verdict.covered_at)}
        row.pop('s', None)
    record['p'] = _predicted_records(sides['p'], errors.predicted, size, options, record['t'])
    record['e'] = [{'k': r.kind, 't': r.true, 'p': r.predicted, 'n': r.pixels,
                    'b': masks_to_boxes(r.mask[None])[0].tolist(), 'm': mask_runs(r.mask, size)}
                   for r in errors.regions]
    return ReportItem(record, picture_address(small))


def _as_objects(sample: DataSample, task: Task) -> DataSample:
    if task == 'semantic':
        return classes_as_objects(sample)
    return segments_as_objects(sample) if task == 'panoptic' else sample


def _predicted_records(sample: DataSample, verdicts: Sequence[Verdict], size: tuple[int, int],
                       options: ReportOptions, truths: list[dict[str, Any]]
                       ) -> list[dict[str, Any]]:
    """Predicted objects, best first; the partners of true objects are renumbered."""
    order = list(range(len(verdicts)))
    if sample.scores is not None:
        order = sample.scores.argsort(descending=True, stable=True).tolist()
        order = [i for i in order if float(sample.scores[i]) >= options.min_score]
        order = order[:options.max_objects]
    place = {i: n for n, i in enumerate(order)}
    for row in truths:
        row['o'] = place.get(row['o'], -1)
    return [_object(sample, i, verdicts[i], size) for i in order]


def _object(sample: DataSample, index: int, verdict: Verdict,
            size: tuple[int, int]) -> dict[str, Any]:
    assert sample.labels is not None
    row: dict[str, Any] = {'c': int(sample.labels[index]), 'k': verdict.kind, 'o': verdict.partner,
                           'u': round(verdict.iou, 3)}
    if sample.scores is not None:
        row['s'] = _exact(sample.scores[index])
    if sample.masks is not None:
        mask = sample.masks[index]
        row['m'], row['a'] = mask_runs(mask, size), int(np.count_nonzero(mask.numpy()))
        box = masks_to_boxes(mask[None])[0] if sample.boxes is None else sample.boxes[index]
    else:
        assert sample.boxes is not None
        box = sample.boxes[index]
    row['b'] = [_finite(v, 1) for v in box]
    return row


def _label_record(prediction: DataSample, truth: DataSample, errors: ItemErrors,
                  topk: int) -> dict[str, Any]:
    predicted, true = label_of(prediction), label_of(truth)
    assert predicted is not None and true is not None
    top: list[list[float]] = []
    probs = prediction.label_probs
    if probs is not None and probs.ndim == 1:
        values, indices = probs.float().topk(min(topk, len(probs)))
        listed = dict(zip(indices.tolist(), values.tolist()))
        if 0 <= true[0] < len(probs):
            listed.setdefault(true[0], float(probs[true[0]]))
        top = [[k, _finite(v, 5)] for k, v in listed.items()]
    return {'t': true[0], 'p': predicted[0], 'k': errors.predicted[0].kind, 'top': top}


def _finite(value: Any, digits: int) -> float:
    """A rounded number; 0 for what JSON has no word for (of a training that diverged)."""
    number = float(value)
    return round(number, digits) if math.isfinite(number) else 0.0


def _exact(score: Any) -> float:
    """All digits of a float32: a threshold must cut the same objects as it does in Python."""
    number = float(score)
    return float(f'{number:.9g}') if math.isfinite(number) else 0.0


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """Make an image smaller until its longer side has ``longest`` pixels."""
    factor = longest / max(image.shape[:2])
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def picture_address(image: np.ndarray) -> str:
    """An RGB image as a ``data:`` address: JPEG, or PNG where it is tiny."""
    is_tiny = max(image.shape[:2]) <= _TINY
    kind, options = ('png', []) if is_tiny else ('jpeg', [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    done, encoded = cv2.imencode(f'.{kind}', image[..., ::-1], options)
    if not done:
        raise OSError(f'an image of shape {image.shape} cannot be encoded')
    return f'data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}'


def mask_runs(mask: Tensor, size: tuple[int, int]) -> str:
    """A mask in another size (H, W) as runs of 0 and 1 in reading order.

    The first run is of 0. Each is written as LEB128 (seven bits a byte, the lowest first, the
    eighth says that more follow), the whole as base64.
    """
    values = mask.detach().cpu().to(torch.uint8).numpy()
    if values.shape != size:
        values = cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)
    flat = values.ravel() > 0
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat.size and flat[0]:
        runs = [0, *runs]
    data = bytearray()
    for run in runs:
        while run > 127:
            data.append(run & 127 | 128)
            run >>= 7
        data.append(run)
    return base64.b64encode(bytes(data)).decode()


def write_report(path: str | Path, items: Sequence[ReportItem], page: ReportPage) -> Path:
    """Write the page.

    Args:
        path: HTML file to write; its folder is made.
        items: the images, worst first.
        page: what stands around them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    style, script = _part('page.css'), _part('page.js')
    policy = (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
              f"script-src 'sha256-{_digest(script)}'; base-uri 'none'; form-action 'none'")
    data = _data(items, page)
    fields = {'title': html.escape(page.title), 'version': html.escape(__version__),
              'policy': html.escape(policy), 'style': style, 'data': data, 'script': script}
    head, tail = _part('page.html').split('{{images}}')
    partial = path.with_name(f'.{path.name}.partial')
    with partial.open('w', encoding='utf-8', errors='replace', newline='\n') as file:
        file.write(_fill(head, fields))
        for number, item in enumerate(items):
            file.write(f'<script type="text/plain" id="image-{number}">{item.picture}</script>\n')
        file.write(_fill(tail, fields))
    partial.replace(path)
    return path


def _data(items: Sequence[ReportItem], page: ReportPage) -> str:
    records = [{**item.record, 'img': number} for number, item in enumerate(items)]
    present = sorted({k for r in records for k in _classes_in(r) if k >= 0})
    count = max([len(page.classes or ()), *(k + 1 for k in present)], default=0)
    colours = Colours(page.palette)
    return json_in_html({
        'task': page.task, 'title': page.title, 'scope': page.scope,
        'threshold': page.threshold if any('s' in p for r in records for p in r['p']) else 0,
        'least': page.min_score,
        'scored': any('s' in p for r in records for p in r['p']),
        'quality': _QUALITY_NAMES[page.task],
        'classes': [class_name(k, page.classes) for k in range(count)],
        'colours': ['#{:02x}{:02x}{:02x}'.format(*colours[k]) for k in range(count)],
        'present': present,
        'kinds': {kind: {'name': name, 'text': text, 'colour': KIND_COLOURS[kind]}
                  for kind, (name, text) in KINDS[page.task].items()},
        'metrics': [[name, format_metric(value)] for name, value in page.metrics.items()],
        'items': records,
    })


def _classes_in(record: Mapping[str, Any]) -> set[int]:
    found = {o['c'] for side in 'tp' for o in record[side]}
    return found | ({record['l']['t'], record['l']['p']} if 'l' in record else set())


def format_metric(value: float) -> str:
    """A result with four digits, whole numbers as they are; -1 is COCO's word for "none"."""
    if value == -1:
        return '–'
    return str(int(value)) if float(value).is_integer() and abs(value) > 1 else f'{value:.4f}'


def json_in_html(value: Any) -> str:
    """JSON that can stand in a script element: no character in it can end the element."""
    text = json.dumps(value, separators=(',', ':'), allow_nan=False)
    escapes = {'<': '\\u003c', '>': '\\u003e', '&': '\\u0026'}
    return text.translate({ord(k): v for k, v in escapes.items()})


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """Replace each ``{{name}}`` once, in one pass: what is filled in is not searched again."""
    parts = template.split('{{')
    pieces = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split('}}', 1)
        pieces += [fields[name], rest]
    return ''.join(pieces)


def _digest(script: str) -> str:
    return base64.b64encode(sha256(script.encode()).digest()).decode()


def _part(name: str) -> str:
    return (files('openlab.visualization') / 'report_page' / name).read_text('utf-8')
