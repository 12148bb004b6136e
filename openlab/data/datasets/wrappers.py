"""Datasets made of other datasets."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from openlab.data.errors import DataError, Dropped
from openlab.data.samplers import items_of_class
from openlab.data.transforms.base import Compose, Results
from openlab.registry import DATASETS


class DatasetWrapper(TorchDataset, ABC):
    """Base of wrappers that show items of other datasets under other indices."""

    @abstractmethod
    def locate(self, index: int) -> tuple[Any, int]:
        """The dataset that has this item, and its index there."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items shown."""

    @abstractmethod
    def parts(self) -> list[Any]:
        """The datasets inside."""

    def __getitem__(self, index: int) -> Any:
        dataset, inner = self.locate(self._checked(index))
        return dataset[inner]

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} is outside a dataset of {len(self)} items')
        return index

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of the first dataset."""
        return self.parts()[0].metainfo

    @property
    def dropped(self) -> list[Dropped]:
        """What the datasets inside left out."""
        return [d for part in self.parts() for d in getattr(part, 'dropped', [])]

    def get_info(self, index: int) -> dict[str, Any]:
        """Return the annotation of an item; no image is read."""
        dataset, inner = self.locate(self._checked(index))
        return dataset.get_info(inner)

    def source(self, index: int) -> str:
        """Say where the annotation of an item comes from."""
        dataset, inner = self.locate(self._checked(index))
        return dataset.source(inner)

    def labels(self) -> Sequence[Any] | np.ndarray:
        """Labels of all items."""
        columns = {id(part): part.labels() for part in self.parts()}
        places = [self.locate(i) for i in range(len(self))]
        return [columns[id(dataset)][inner] for dataset, inner in places]

    def sizes(self) -> np.ndarray:
        """(H, W) of all images, (N, 2)."""
        columns = {id(part): part.sizes() for part in self.parts()}
        places = [self.locate(i) for i in range(len(self))]
        return np.array([columns[id(dataset)][inner] for dataset, inner in places])


@DATASETS.register_module()
class RepeatDataset(DatasetWrapper):
    """The same items several times an epoch, which makes epochs of tiny sets longer.

    Args:
        dataset: what is repeated.
        times: how often.
    """

    def __init__(self, dataset: Any, times: int):
        if times < 1:
            raise ValueError(f'times must be at least 1, got {times}')
        self.dataset = dataset
        self.times = times

    def __len__(self) -> int:
        return self.times * len(self.dataset)

    def locate(self, index: int) -> tuple[Any, int]:
        """Modulo the length."""
        return self.dataset, index % len(self.dataset)

    def parts(self) -> list[Any]:
        """The one dataset."""
        return [self.dataset]


@DATASETS.register_module()
class ConcatDataset(DatasetWrapper):
    """One dataset after the other; all must have the same classes in the same order.

    Args:
        datasets: what is joined.
        ignore_classes: take the classes of the first one without comparing.
    """

    def __init__(self, datasets: Sequence[Any], ignore_classes: bool = False):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError('ConcatDataset needs at least one dataset')
        self.ignore_classes = ignore_classes
        self._ends: list[int] | None = None

    def ends(self) -> list[int]:
        """Where each dataset ends.

        Raises:
            DataError: if their classes differ.
        """
        if self._ends is None:
            first = self.datasets[0].metainfo.get('classes')
            for place, other in enumerate(self.datasets[1:], start=1):
                classes = other.metainfo.get('classes')
                if classes != first and not self.ignore_classes:
                    raise DataError(
                        f'ConcatDataset: datasets[0] has classes {first} but '
                        f'datasets[{place}] has {classes}, so the same index would mean two '
                        f'things; give all of them the same classes=[...]')
            self._ends = np.cumsum([len(d) for d in self.datasets]).tolist()
        return self._ends

    def __len__(self) -> int:
        return self.ends()[-1]

    def locate(self, index: int) -> tuple[Any, int]:
        """By bisection."""
        ends = self.ends()
        place = int(np.searchsorted(ends, index, side='right'))
        return self.datasets[place], index - (ends[place - 1] if place else 0)

    def parts(self) -> list[Any]:
        """All datasets."""
        return self.datasets


class _Selection(DatasetWrapper):
    """Shows chosen items; the choice is made on first use and kept as one array."""

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self._indices: Tensor | None = None

    @abstractmethod
    def choose(self) -> np.ndarray:
        """Indices of the items to show."""

    @property
    def indices(self) -> Tensor:
        """Indices of the items shown."""
        if self._indices is None:
            self._indices = torch.from_numpy(np.asarray(self.choose(), dtype=np.int64))
        return self._indices

    def __len__(self) -> int:
        return len(self.indices)

    def locate(self, index: int) -> tuple[Any, int]:
        """By the table of indices."""
        return self.dataset, int(self.indices[index])

    def parts(self) -> list[Any]:
        """The one dataset."""
        return [self.dataset]


@DATASETS.register_module()
class SubsetDataset(_Selection):
    """Some of the items.

    Exactly one of ``indices``, ``num_items``, ``share`` and ``per_class`` is given.

    Args:
        dataset: what is chosen from.
        indices: these items, in this order.
        num_items: so many, drawn at random.
        share: this part (one item at least), drawn at random.
        per_class: so many of each class, drawn at random.
        seed: of the draw.
        rest: show all other items instead: those that the same draw leaves.
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | None = None,
                 num_items: int | None = None, share: float | None = None,
                 per_class: int | None = None, seed: int = 0, rest: bool = False):
        super().__init__(dataset)
        given = [v for v in (indices, num_items, share, per_class) if v is not None]
        if len(given) != 1:
            raise ValueError(f'SubsetDataset needs exactly one of indices, num_items, share and '
                             f'per_class, got {len(given)} of them')
        if share is not None and not 0 < share <= 1:
            raise ValueError(f'share must be in (0, 1], got {share}')
        self.given = None if indices is None else np.asarray(indices, dtype=np.int64)
        self.num_items = num_items
        self.share = share
        self.per_class = per_class
        self.seed = seed
        self.rest = rest

    def choose(self) -> np.ndarray:
        """Take or draw the indices; drawn ones are sorted."""
        chosen = self._drawn()
        if not self.rest:
            return chosen
        left = np.setdiff1d(np.arange(len(self.dataset)), chosen)
        if not len(left):
            raise DataError('SubsetDataset: rest=True, but the draw leaves no item')
        return left

    def _drawn(self) -> np.ndarray:
        size = len(self.dataset)
        rng = np.random.default_rng(self.seed)
        if self.given is not None:
            if len(self.given) and not 0 <= self.given.min() <= self.given.max() < size:
                raise DataError(f'SubsetDataset: indices must be from 0 to {size - 1}, got '
                                f'{self.given.min()} to {self.given.max()}')
            return self.given
        if self.per_class is not None:
            members = items_of_class(self.dataset.labels()).values()
            return np.unique(np.concatenate([rng.permutation(m)[: self.per_class]
                                             for m in members]))
        count = self.num_items if self.num_items is not None \
            else max(1, round(size * (self.share or 0)))
        if not 0 < count <= size:
            raise DataError(f'SubsetDataset: {count} of {size} items asked for')
        return np.sort(rng.permutation(size)[:count])


@DATASETS.register_module()
class ClassBalancedDataset(_Selection):
    """Items of rare classes several times.

    A class that a share f of the items has is repeated sqrt(threshold / f) times, at least once;
    an item as often as its rarest class.
    Paper: LVIS, https://arxiv.org/abs/1908.03195, section 5.

    Args:
        dataset: what is repeated; it needs ``labels()``.
        threshold: classes with a larger share are not repeated.
        seed: decides which items the fractional repeats go to.
    """

    def __init__(self, dataset: Any, threshold: float, seed: int = 0):
        super().__init__(dataset)
        if not 0 < threshold <= 1:
            raise ValueError(f'threshold must be in (0, 1], got {threshold}')
        self.threshold = threshold
        self.seed = seed

    def choose(self) -> np.ndarray:
        """Indices with repeats, in order."""
        size = len(self.dataset)
        repeats = np.ones(size)
        for members in items_of_class(self.dataset.labels()).values():
            factor = max(1.0, math.sqrt(self.threshold / (len(members) / size)))
            repeats[members] = np.maximum(repeats[members], factor)
        whole = np.floor(repeats)
        extra = np.random.default_rng(self.seed).random(size) < repeats - whole
        return np.repeat(np.arange(size), (whole + extra).astype(int))


@DATASETS.register_module()
class CacheDataset(_Selection):
    """Do the slow, fixed first steps of a pipeline (load, decode, resize) only once.

    The pipeline of the inner dataset is what is cached, so it must not draw random numbers; the
    random steps belong into the pipeline here.

    Args:
        dataset: the dataset with the fixed steps; its results must not be packed yet.
        pipeline: the remaining steps.
        folder: keep results in files there, made as they are first needed; changed images or
            pipelines get new files. Without it everything is made at the start and kept in
            memory, one buffer that all workers share.
    """

    def __init__(self, dataset: Any, pipeline: Sequence[Callable[[Results], Any]] = (),
                 folder: str | Path | None = None):
        super().__init__(dataset)
        self.pipeline = Compose(pipeline)
        self.folder = None if folder is None else Path(folder).expanduser()
        self._buffer: Tensor | None = None
        self._offsets: Tensor | None = None

    def choose(self) -> np.ndarray:
        """All items; fills the memory where there is no folder."""
        if self.folder is None:
            pieces = [np.frombuffer(encode_results(self._make(i)), np.uint8)
                      for i in range(len(self.dataset))]
            self._buffer = torch.from_numpy(np.concatenate(pieces))
            self._offsets = torch.from_numpy(np.cumsum([0, *map(len, pieces)]))
        return np.arange(len(self.dataset))

    def __getitem__(self, index: int) -> Any:
        try:
            return self.pipeline(self.cached(self._checked(index)))
        except DataError as error:
            text = str(error)
            where = '' if 'annotation:' in text else f'; annotation: {self.source(index)}'
            raise DataError(f'{text}{where}') from error

    def cached(self, index: int) -> Results:
        """Results after the fixed steps."""
        if self._buffer is not None and self._offsets is not None:
            start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
            return decode_results(self._buffer[start:stop].numpy().tobytes())
        file = self._file(index)
        if file.exists():
            return decode_results(file.read_bytes())
        results = self._make(index)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f'.{os.getpid()}')
        draft.write_bytes(encode_results(results))
        draft.replace(file)
        return results

    def _make(self, index: int) -> Results:
        results = self.dataset[index]
        if not isinstance(results, dict) or 'sample' in results:
            raise TypeError('the dataset inside a CacheDataset must give plain results; move '
                            'PackInputs to the pipeline of the CacheDataset')
        return results

    def _file(self, index: int) -> Path:
        assert self.folder is not None
        results = self.dataset.prepare(index) if hasattr(self.dataset, 'prepare') \
            else self.dataset.get_info(index)
        results = {k: v for k, v in results.items() if not isinstance(v, np.ndarray)}
        path = results.get('img_path')
        stat = Path(path).stat() if path and Path(path).exists() else None
        key = json.dumps([results, repr(getattr(self.dataset, 'pipeline', '')), index,
                          [stat.st_size, stat.st_mtime_ns] if stat else None],
                         default=str, sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f'{digest[2:34]}.npz'


def encode_results(results: Results) -> bytes:
    """Pack results of arrays and plain values; nothing is pickled."""
    arrays = {k: v for k, v in results.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in results.items() if not isinstance(v, np.ndarray)}
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(plain, default=_plain_number).encode(), np.uint8)
    np.savez(stream, allow_pickle=False, **arrays, **{'plain values': text})
    return stream.getvalue()


def decode_results(data: bytes) -> Results:
    """Undo ``encode_results``; lists of two numbers come back as tuples (sizes)."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    plain = json.loads(arrays.pop('plain values').tobytes())
    sizes = ('ori_shape', 'img_shape', 'scale_factor')
    return {**{k: tuple(v) if k in sizes else v for k, v in plain.items()}, **arrays}


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f'cannot cache a value of type {type(value).__name__}')
