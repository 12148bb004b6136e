"""Predictions beside their truth, worst first: where they come from, and the files they become.

Pairs come from a model and a split of its data, or from a dump of ``openlab test``; they go one by
one into a ``PredictionReport``, which keeps no more than it will show.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openlab.apis import visualization as source
from openlab.data.errors import DataError
from openlab.data.transforms.loading import decode_image, read_file
from openlab.engine.evaluator import Evaluator
from openlab.engine.predictions import read
from openlab.metrics.item_errors import find_errors, missing_fields, task_of
from openlab.structures.boxes import scale_boxes
from openlab.structures.data_sample import DataSample
from openlab.structures.geometry import to_original
from openlab.structures.item_errors import KINDS, ItemErrors, Task
from openlab.structures.masks import resize_masks
from openlab.structures.objects import fields_of_task
from openlab.visualization.draw import as_rgb
from openlab.visualization.predictions import prediction_sheet
from openlab.visualization.report import (
    LARGEST_REPORT,
    ReportItem,
    ReportOptions,
    ReportPage,
    report_item,
    shrink,
    write_report,
)

SHEET, REPORT = 'sheet.png', 'report.html'
SHEET_SIDE = 360  # longest side of an image on the sheet, in pixels


@dataclass
class Pair:
    """A prediction and its truth over the same pixels.

    Attributes:
        image: (H, W, 3) RGB uint8; ``None`` where it cannot be read.
        prediction: what the model says.
        truth: what it should say.
        name: of the image.
    """

    image: np.ndarray | None
    prediction: DataSample
    truth: DataSample
    name: str


class PredictionReport:
    """Compares pairs and keeps the worst of them for a sheet and a page.

    Args:
        classes: names of the classes.
        palette: colour of each class.
        task: what to compare; by default the richest that the first pair allows.
        score_threshold: objects with a smaller score count as not predicted; by default 0.3, and
            0 for panoptic maps, whose segments have been chosen already.
        limit: most images of the page; ``None`` for all.
        sheet_items: most images of the sheet; by default 48 with labels, 24 with objects or maps.
        options: what the page keeps of an image.
        ignore_index: value of true semantic maps, besides 255, that counts for nothing.

    Attributes:
        total: pairs compared.
        num_right: those without an error.
        counts: errors by kind; of semantic maps, images that have such pixels.
        num_without_image: pairs whose image could not be read; they lie on grey.
    """

    def __init__(self, classes: Sequence[str] | None = None,
                 palette: Sequence[Sequence[int]] | None = None, task: Task | None = None, *,
                 score_threshold: float | None = None, limit: int | None = 200,
                 sheet_items: int | None = None, options: ReportOptions | None = None,
                 ignore_index: int = 255):
        if limit is not None and limit < 1:
            raise ValueError(f'limit must be at least 1 image, got {limit}')
        if sheet_items is not None and sheet_items < 1:
            raise ValueError(f'a sheet needs at least 1 image, got {sheet_items}')
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f'score_threshold must be from 0 to 1, got {score_threshold}')
        self.classes, self.palette, self.task = classes, palette, task
        self._threshold, self.limit, self._sheet_items = score_threshold, limit, sheet_items
        self.options, self.ignore_index = options or ReportOptions(), ignore_index
        self.total = self.num_right = self.num_without_image = self._bytes = 0
        self.counts: Counter[str] = Counter()
        self.is_cut_by_size = False
        self._page: list[tuple[float, int, ReportItem]] = []
        self._sheet: list[tuple[float, int, tuple[Pair, ItemErrors]]] = []

    @property
    def threshold(self) -> float:
        """Score from which on objects count."""
        if self._threshold is not None:
            return self._threshold
        return 0.0 if self.task == 'panoptic' else 0.3

    @property
    def sheet_items(self) -> int:
        """Most images of the sheet."""
        if self._sheet_items is not None:
            return self._sheet_items
        return 48 if self.task == 'classification' else 24

    def add(self, pair: Pair) -> None:
        """Compare a pair.

        Raises:
            ValueError: if it has not what the task compares.
        """
        if self.task is None:
            self.task = task_of(pair.prediction, pair.truth)
            if self.task is None:
                raise ValueError(_nothing_in_common(pair))
        errors = find_errors(pair.prediction, pair.truth, self.task, self.threshold,
                             self.ignore_index)
        assert errors is not None
        self.total += 1
        self.num_right += errors.is_right
        self.counts.update(dict.fromkeys(errors.counts, 1) if self.task == 'semantic'
                           else errors.counts)
        if pair.image is None:
            self.num_without_image += 1
            pair = replace(pair, image=_grey(pair, self.task))
        assert pair.image is not None
        # Heaps whose first entry is the least bad one; of equals, the last one that came.
        key = errors.severity, -self.total
        if self.limit is None or len(self._page) < self.limit or key > self._page[0][:2]:
            item = report_item(pair.image, pair.prediction, pair.truth, errors, pair.name,
                               self.options)
            heapq.heappush(self._page, (*key, item))
            self._bytes += item.size
        while self.limit is not None and len(self._page) > self.limit:
            self._bytes -= heapq.heappop(self._page)[2].size
        while self._bytes > LARGEST_REPORT and len(self._page) > 1:
            self._bytes -= heapq.heappop(self._page)[2].size
            self.is_cut_by_size = True
        if len(self._sheet) < self.sheet_items or key > self._sheet[0][:2]:
            heapq.heappush(self._sheet, (*key, _for_sheet(pair, errors, self.threshold)))
            if len(self._sheet) > self.sheet_items:
                heapq.heappop(self._sheet)

    def sheet(self, title: str) -> np.ndarray:
        """Draw the worst as a picture, (H, W, 3).

        Raises:
            ValueError: if there is no pair.
        """
        kept = [entry for *_, entry in sorted(self._sheet, key=lambda e: e[:2], reverse=True)]
        return prediction_sheet(
            [p.image for p, _ in kept if p.image is not None], [p.prediction for p, _ in kept],
            [p.truth for p, _ in kept], [e for _, e in kept], self.classes, title=title,
            max_items=self.sheet_items, score_threshold=self.threshold, palette=self.palette,
            total=self.total, num_right=self.num_right)

    def write_page(self, path: str | Path, title: str,
                   metrics: Mapping[str, float] | None = None) -> Path:
        """Write the HTML page.

        Raises:
            ValueError: if there is no pair.
        """
        if self.task is None:
            raise ValueError('a report needs at least one prediction, got none')
        items = [item for *_, item in sorted(self._page, key=lambda e: e[:2], reverse=True)]
        page = ReportPage(title, self.task, self.classes, self.scope(), metrics or {},
                          self.threshold, self.palette, self.options.min_score)
        return write_report(path, items, page)

    def scope(self) -> str:
        """In a sentence: how many images were compared and are shown, with which errors."""
        shown = len(self._page)
        text = (f'{self.total} images compared' if shown == self.total
                else f'the worst {shown} of {self.total} images')
        return f'{text} · {self.num_right} without an error · {self.words()}'

    def words(self) -> str:
        """Numbers of errors by kind, over all pairs."""
        assert self.task is not None
        unit = 'images with pixels: ' if self.task == 'semantic' else ''
        words = [f'{self.counts[kind]} {name.lower()}'
                 for kind, (name, _) in KINDS[self.task].items() if self.counts[kind]]
        return unit + ' · '.join(words) if words else 'no errors'

    def notes(self) -> list[str]:
        """What a reader should know about what is not shown, and which option changes it."""
        notes = []
        shown = len(self._page)
        if self.is_cut_by_size:
            notes.append(f'the page holds the worst {shown} of {self.total} images: more would '
                         f'exceed {LARGEST_REPORT // 1_000_000} MB; a smaller --image-size makes '
                         'room for more')
        elif shown < self.total:
            notes.append(f'the page holds the worst {shown} of {self.total} images; --limit '
                         'changes that')
        if self.num_without_image:
            notes.append(f'{self.num_without_image} of {self.total} images could not be read and '
                         'are grey; --images names the folder they are in')
        return notes


def _nothing_in_common(pair: Pair) -> str:
    has = {side: sorted(name for name, _ in sample.tensors()) for side, sample in
           (('prediction', pair.prediction), ('truth', pair.truth))}
    lacking = {task: missing_fields(pair.truth, task) for task in KINDS}
    return (f'nothing to compare for {pair.name}: the prediction has {has["prediction"]}, the '
            f'truth {has["truth"]}; what the truth lacks, by task: {lacking}')


def _grey(pair: Pair, task: Task) -> np.ndarray:
    """A canvas in place of an image that cannot be read."""
    for sample in (pair.truth, pair.prediction):
        for value in (sample.semantic_map, sample.panoptic_map, sample.masks):
            if value is not None and value.ndim >= 2:
                return np.full((*value.shape[-2:], 3), 128, np.uint8)
    shape = pair.truth.meta.get('ori_shape') or (64, 64)
    return np.full((int(shape[0]), int(shape[1]), 3), 128, np.uint8)


def _for_sheet(pair: Pair, errors: ItemErrors, threshold: float) -> tuple[Pair, ItemErrors]:
    """The part of a pair that the sheet draws, at the size at which it does."""
    task = errors.task
    prediction, truth = (fields_of_task(s, task) for s in (pair.prediction, pair.truth))
    if prediction.scores is not None and task in ('detection', 'instance'):
        keep = prediction.scores >= threshold
        prediction = replace(prediction, **{
            name: value[keep] for name in ('boxes', 'masks', 'labels', 'scores')
            if (value := getattr(prediction, name)) is not None}, is_crowd=None)
        errors = replace(errors, predicted=[v for v, k in zip(errors.predicted, keep) if k])
    assert pair.image is not None
    image = shrink(pair.image, SHEET_SIDE)
    size = image.shape[0], image.shape[1]
    if size == pair.image.shape[:2]:
        return replace(pair, prediction=prediction, truth=truth), errors
    before = pair.image.shape
    factor = size[1] / before[1], size[0] / before[0]
    regions = [replace(r, mask=resize_masks(r.mask[None], size)[0]) for r in errors.regions]
    return (Pair(image, _resized(prediction, size, factor), _resized(truth, size, factor),
                 pair.name), replace(errors, regions=regions))


def _resized(sample: DataSample, size: tuple[int, int], factor: tuple[float, float]) -> DataSample:
    changed: dict[str, Any] = {}
    if sample.boxes is not None:
        changed['boxes'] = scale_boxes(sample.boxes, factor)
    if sample.masks is not None:
        changed['masks'] = resize_masks(sample.masks, size)
    for name in ('semantic_map', 'panoptic_map'):
        value = getattr(sample, name)
        if value is not None:
            changed[name] = resize_masks(value[None].int(), size)[0]
    return replace(sample, **changed)


@dataclass
class ModelPairs:
    """Pairs of a model and a split.

    Attributes:
        model: ready to predict.
        loader: by ``build_loader``.
        indices: which items.
        batch_size: items that go through the network together.
        evaluator: metrics to feed on the way.
    """

    model: nn.Module
    loader: Any
    indices: Sequence[int]
    batch_size: int = 16
    evaluator: Any = None
    classes: Sequence[str] | None = field(init=False)

    def __post_init__(self) -> None:
        self.classes = self.loader.metainfo.get('classes') or None

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self.indices), self.batch_size):
            part = list(self.indices[start:start + self.batch_size])
            items = source.read_items(self.loader, part, self.batch_size)
            predictions = source.predict(self.model, items)
            if self.evaluator is not None:
                self.evaluator.update(predictions, items.truths)
            # Where an item failed, which one is missing is not known.
            numbers = part if len(part) == len(items.truths) else [None] * len(items.truths)
            for image, prediction, truth, number in zip(items.images, predictions, items.truths,
                                                        numbers):
                yield in_original_pixels(
                    prediction, truth, _name(truth, f'item {number}'),
                    _original(self.loader.source, truth, number), image)


def evaluator_of(cfg: Mapping[str, Any], split: str, loader: Any) -> Evaluator | None:
    """The metrics that a config has for a split; ``None`` if it has none.

    Args:
        cfg: the whole config.
        split: ``train`` is measured by the metrics of ``val``.
        loader: tells them about the dataset.
    """
    metrics = cfg.get('test_evaluator') if split == 'test' else None
    metrics = metrics or cfg.get('val_evaluator')
    if not metrics:
        return None
    evaluator = Evaluator.from_config(metrics, f'{split}_evaluator')
    evaluator.dataset_meta = loader.metainfo
    return evaluator


def dumped_pairs(file: str | Path, images: str | Path | None = None,
                 dataset: Callable[[], Any] | None = None) -> tuple[Iterator[Pair], dict[str, Any]]:
    """Pairs of a file that ``openlab test --dump`` wrote, and what is known about the dataset.

    Args:
        file: the dump.
        images: folder with the images, where they are not at the paths of the dump.
        dataset: makes the dataset, for images that are in no file of their own.
    """
    rows, meta = read(file)
    held: list[Any] = []

    def original(truth: DataSample) -> np.ndarray | None:
        path = truth.meta.get('img_path')
        if isinstance(path, str):
            return _read_image(_find_image(path, images))
        if not held:
            held.append(dataset() if dataset is not None else None)
        return _by_id(held[0], truth)

    def pairs() -> Iterator[Pair]:
        for number, (prediction, truth) in enumerate(rows):
            yield in_original_pixels(prediction, truth, _name(truth, f'row {number}'),
                                     original(truth))

    return pairs(), meta


def in_original_pixels(prediction: DataSample, truth: DataSample, name: str,
                       original: np.ndarray | None,
                       image: np.ndarray | None = None) -> Pair:
    """A pair over the original image where it is at hand, else over the network's input.

    Args:
        prediction: in pixels of the network's input.
        truth: the same.
        name: of the image.
        original: the original image, ``None`` where that is not to be had.
        image: the network's input to look at.
    """
    shape = truth.meta.get('ori_shape')
    fits = original is not None and (
        shape is None or tuple(original.shape[:2]) == (int(shape[0]), int(shape[1])))
    if shape is None:  # nothing tells the way back: for a label that does not matter
        has_place = any(getattr(s, n) is not None for s in (prediction, truth)
                        for n in ('boxes', 'masks', 'semantic_map', 'panoptic_map'))
        return Pair(image if has_place or original is None else original, prediction, truth,
                    name)
    if not fits and image is not None:
        return Pair(image, prediction, truth, name)
    back, true = to_original(prediction), to_original(truth)
    kept = truth.extra.get('original_map')
    if kept is not None and true.semantic_map is not None:
        true = replace(true, semantic_map=torch.as_tensor(kept).to(torch.int64))
    return Pair(original if fits else None, back, true, name)


def collect(pairs: Iterable[Pair], report: PredictionReport) -> PredictionReport:
    """Put all pairs into a report.

    Raises:
        ValueError: if there is none.
    """
    for pair in pairs:
        report.add(pair)
    if not report.total:
        raise ValueError('there is no prediction to report on: the split or the dump is empty')
    return report


def _original(dataset: Any, truth: DataSample, number: int | None) -> np.ndarray | None:
    path = truth.meta.get('img_path')
    if isinstance(path, str):
        return _read_image(Path(path))
    return None if number is None else source.original_image(dataset, number)


def _find_image(path: str, folder: str | Path | None) -> Path:
    """The file at a path of the dump, or of the same name (and as much of its path) in a folder."""
    if folder is None:
        return Path(path)
    parts = Path(path).parts
    candidates = [Path(folder, *parts[i:]) for i in range(1, len(parts))] or [Path(folder, path)]
    return next((c for c in candidates if c.is_file()), candidates[-1])


def _read_image(path: Path) -> np.ndarray | None:
    try:
        return as_rgb(decode_image(read_file(path), str(path)))
    except (OSError, DataError):
        return None  # counted and told by ``PredictionReport.notes``


def _by_id(dataset: Any, truth: DataSample) -> np.ndarray | None:
    """The original image of a dataset whose images are in no files, by its id."""
    wanted = truth.meta.get('img_id')
    if dataset is None or wanted is None or not hasattr(dataset, 'table'):
        return None
    if 'img_id' not in dataset.table.columns:
        return source.original_image(dataset, int(wanted)) if int(wanted) < len(dataset) else None
    places = np.flatnonzero(np.asarray(dataset.table.column('img_id')) == wanted)
    return source.original_image(dataset, int(places[0])) if len(places) else None


def _name(truth: DataSample, otherwise: str) -> str:
    path = truth.meta.get('img_path')
    if isinstance(path, str):
        return Path(path).name
    number = truth.meta.get('img_id')
    return otherwise if number is None else f'image {_plain(number)}'


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (Tensor, np.generic)) else value
