"""Looking at data before training does: what ``openlab data`` prints."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openlab.data.class_names import REMEDY, class_difference
from openlab.data.dataloader import DataLoader
from openlab.data.datasets.base import BaseDataset, preview
from openlab.data.datasets.wrappers import DatasetWrapper
from openlab.data.errors import DataError, Dropped
from openlab.data.seeding import reseed
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.loading import LoadImage

SPLITS = ('train', 'val', 'test')


@dataclass
class Findings:
    """What was found about one split; ``problems`` make the check fail."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """The datasets inside wrappers that read annotations."""
    if isinstance(dataset, DatasetWrapper):
        for part in dataset.parts():
            yield from base_datasets(part)
    elif isinstance(dataset, BaseDataset):
        yield dataset


def numbers_of_classes(model: Any, path: str = 'model') -> dict[str, int]:
    """Every ``num_classes`` of a model's config, by key path."""
    found: dict[str, int] = {}
    if isinstance(model, Mapping):
        for key, value in model.items():
            if key == 'num_classes' and isinstance(value, int):
                found[f'{path}.{key}'] = value
            else:
                found.update(numbers_of_classes(value, f'{path}.{key}'))
    elif isinstance(model, (list, tuple)):
        for place, value in enumerate(model):
            found.update(numbers_of_classes(value, f'{path}[{place}]'))
    return found


def check_dataset(dataset: Any, num_classes: Mapping[str, int], decode: bool = False,
                  first: int = 5, learned: Sequence[str] = ()) -> Findings:
    """Check annotations, labels and files.

    Args:
        dataset: what ``build`` made.
        num_classes: what the model expects, by key path.
        decode: read every image, not only look whether it exists.
        first: how many examples to print of each kind of problem.
        learned: classes of the training, where these are other data.
    """
    found = Findings()
    found.lines.append(f'items kept: {len(dataset)}')
    _check_dropped(getattr(dataset, 'dropped', []), found, first)
    classes = dataset.metainfo.get('classes', ()) if hasattr(dataset, 'metainfo') else ()
    if classes:
        found.lines.append(f'classes: {len(classes)}: {preview(classes, 12)}')
    difference = class_difference(learned, classes) if num_classes else ''
    if difference:
        found.problems.append(f'the classes are not those of train_dataloader.dataset: this set '
                              f'{difference}; {REMEDY}')
    # Where the training fits, a model with as many classes as here would fit nothing.
    _check_labels(dataset, classes, {k: n for k, n in num_classes.items()
                                     if not difference or n != len(learned)}, found)
    for part in base_datasets(dataset):
        _check_files(part, decode, found, first)
    return found


def _check_dropped(dropped: Sequence[Dropped], found: Findings, first: int) -> None:
    found.lines.append(f'items dropped: {len(dropped)}')
    kinds = Counter(d.reason for d in dropped)
    for reason, count in kinds.most_common(first):
        found.lines.append(f'  {count} x {reason}')
    found.lines += [f'  first: {d}' for d in dropped[:first]]


def _check_labels(dataset: Any, classes: Sequence[str], num_classes: Mapping[str, int],
                  found: Findings) -> None:
    try:
        labels = np.concatenate([np.atleast_1d(np.asarray(v, dtype=np.int64)).ravel()
                                 for v in dataset.labels()] or [np.zeros(0, np.int64)])
    except (ValueError, AttributeError):
        found.lines.append('labels: none')
        return
    if not len(labels):
        found.lines.append('labels: none')
        return
    values, counts = np.unique(labels, return_counts=True)
    found.lines.append(f'labels: {values[0]} to {values[-1]}; items of a class: {counts.min()} '
                       f'to {counts.max()}')
    unused = [c for i, c in enumerate(classes) if i not in set(values.tolist())]
    if unused:
        found.lines.append(f'  classes without items: {preview(unused)}')
    num_things = sum(getattr(dataset, 'metainfo', {}).get('is_thing', ()))
    for path, limit in num_classes.items():
        if num_things and limit == num_things:
            continue  # a head for objects: things come first, and it sees no stuff
        wrong = values[(values < 0) | (values >= limit)]
        if len(wrong):
            found.problems.append(f'label {wrong[-1]} does not fit {path}={limit}: labels must '
                                  f'be from 0 to {limit - 1}')
        elif classes and len(classes) != limit:
            found.problems.append(f'the files have {len(classes)} classes but {path}={limit}; '
                                  f'set it to {len(classes)}')
    if classes and values[-1] >= len(classes):
        found.problems.append(f'label {values[-1]} has no name: there are {len(classes)} classes')


def _check_files(dataset: BaseDataset, decode: bool, found: Findings, first: int) -> None:
    bad: list[str] = []
    load, annotate = LoadImage(), LoadAnnotations()
    has_paths = 'img_path' in dataset.table.columns
    if not decode and not has_paths:
        return
    for index in range(len(dataset)):
        problem = None
        if decode:
            try:
                annotate(load(dataset.prepare(index)))
            except (DataError, OSError) as error:
                problem = str(error)
        elif not Path(dataset.prepare(index)['img_path']).is_file():
            problem = f'image file is missing: {dataset.prepare(index)["img_path"]}'
        if problem:
            bad.append(f'{problem}; annotation: {dataset.source(index)}')
    kind = 'unreadable' if decode else 'missing'
    found.lines.append(f'{kind} images: {len(bad)} of {len(dataset)}')
    if bad:
        found.lines += [f'  {text}' for text in bad[:first]]
        found.problems.append(f'{len(bad)} {kind} images')


def draw_items(loader: DataLoader, num: int, seed: int = 0) -> np.ndarray:
    """A grid of items as the pipeline makes them, with their labels, (H, W, 3) RGB.

    Items of text are drawn as the text of their tokens.
    """
    from openlab.visualization.draw import draw_grid, draw_sample

    dataset: Any = loader.source
    pictures = []
    size = len(dataset)
    for number in range(num):
        # Spread over the set, so that a sorted one shows several classes.
        index = number * size // num if num <= size else number % size
        reseed(seed, 0, number)
        item = dataset[index]
        if item is None:
            continue
        if not isinstance(item, dict) or 'inputs' not in item or 'sample' not in item:
            raise DataError("the pipeline must end with dict(type='PackInputs') to be shown")
        if hasattr(dataset, 'tokenizer') and getattr(item['inputs'], 'ndim', 0) == 1:
            pictures.append(draw_tokens(dataset.tokenizer.decode(item['inputs'].tolist())))
            continue
        views = item['inputs'] if isinstance(item['inputs'], list) else [item['inputs']]
        if views[0].dtype != torch.uint8:
            raise DataError(f'images are shown before they are normalised, but the pipeline '
                            f'gives {views[0].dtype}; normalise in the preprocessor')
        classes = dataset.metainfo.get('classes')
        drawn = [draw_sample(view, item['sample'], classes,
                             palette=dataset.metainfo.get('palette')) for view in views]
        pictures.append(draw_grid(drawn, columns=len(drawn), pad=2) if len(drawn) > 1 else drawn[0])
    return draw_grid(pictures)


def draw_tokens(text: str, width: int = 560, size: int = 14) -> np.ndarray:
    """A text as a picture, (H, width, 3) RGB; its line breaks are kept, long lines wrapped."""
    from openlab.visualization.text import Pen, line_height, wrap

    margin, lines = size // 2, []
    for line in text.expandtabs(4).splitlines() or ['']:
        words = line.lstrip()
        indent = (len(line) - len(words)) * size // 2
        lines += [(indent, part) for part in wrap(words, width - 2 * margin - indent, size)]
    height = line_height(size) * len(lines) + 2 * margin
    pen = Pen(np.full((height, width, 3), 255, np.uint8))
    for number, (indent, line) in enumerate(lines):
        pen.write(line, margin + indent, margin + number * line_height(size), size)
    return pen.result()


@dataclass
class StageTimes:
    """Seconds by stage for ``num_images``, in one thread."""

    num_images: int
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Count time for a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def table(self) -> str:
        """Milliseconds and share of each stage, images per second of all."""
        total = sum(self.seconds.values())
        lines = [f'{"stage":32} {"ms/image":>9} {"share":>6}']
        for name, seconds in self.seconds.items():
            lines.append(f'{name:32} {seconds / self.num_images * 1e3:9.3f} '
                         f'{seconds / total:6.1%}')
        rate = self.num_images / total
        lines.append(f'{"all, one core":32} {total / self.num_images * 1e3:9.3f} '
                     f'{rate:8.0f} images/s per core')
        return '\n'.join(lines)


def time_stages(loader: DataLoader, num_images: int) -> StageTimes:
    """Run the pipeline step by step in this process and time each step."""
    import cv2

    dataset: Any = loader.source
    times = StageTimes(num_images)
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        for _ in range(2):  # the first round warms up caches and lazy imports
            times = StageTimes(num_images)
            _time_round(loader, dataset, num_images, times)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    return times


def _time_round(loader: DataLoader, dataset: Any, num_images: int, times: StageTimes) -> None:
    items: list[Any] = []
    for number in range(num_images):
        reseed(0, 0, number)
        item = _time_item(dataset, number % len(dataset), times)
        if item is not None:
            items.append(item)
        if len(items) == loader.batch_size or (items and number == num_images - 1):
            start = time.perf_counter()
            loader.collate(items)
            times.add('collate', time.perf_counter() - start)
            items = []


def _time_item(dataset: Any, index: int, times: StageTimes) -> Any:
    while isinstance(dataset, DatasetWrapper) and not hasattr(dataset, 'pipeline'):
        dataset, index = dataset.locate(index)
    start = time.perf_counter()
    if not isinstance(dataset, BaseDataset):
        item = dataset[index]
        times.add(type(dataset).__name__, time.perf_counter() - start)
        return item
    results: Any = dataset.prepare(index)
    times.add('annotation', time.perf_counter() - start)
    try:
        for place, transform in enumerate(dataset.pipeline.transforms):
            start = time.perf_counter()
            results = transform(results)
            name = getattr(transform, '__name__', type(transform).__name__)
            times.add(f'{place} {name}', time.perf_counter() - start)
            if results is None:
                break
    except DataError as error:
        raise DataError(f'{error}; annotation: {dataset.source(index)}') from error
    return results


def time_loader(loader: DataLoader, num_batches: int) -> float:
    """Images per second of the loader as configured, its start not counted."""
    stream = iter(loader)
    count, start = 0, 0.0
    for number, batch in enumerate(stream):
        if number == 0:
            start = time.perf_counter()
            continue
        count += len(batch['samples'])
        if number >= num_batches:
            break
    del stream
    if not count:
        raise DataError('the set has one batch only; give a smaller batch_size to time it')
    return count / (time.perf_counter() - start)


