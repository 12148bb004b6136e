"""What every dataset is: annotations in flat arrays, read once, and a pipeline to make items."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from openlab.data.errors import DataError, Dropped
from openlab.data.paths import resolve_root
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Compose, Results, Transform

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm',
                  '.gif', '.jp2')


@dataclass
class Annotations:
    """What ``BaseDataset.load`` returns.

    Attributes:
        table: one record for each item.
        classes: names in the order of their indices, as the files give them.
        dropped: annotations that were left out, and why.
        metainfo: anything else about the dataset, such as ``palette``.
    """

    table: RecordTable
    classes: tuple[str, ...] = ()
    dropped: list[Dropped] = field(default_factory=list)
    metainfo: dict[str, Any] = field(default_factory=dict)


class BaseDataset(TorchDataset, ABC):
    """Base of all datasets that read annotations.

    Nothing is read before it is needed. Records must be plain values (see ``RecordTable``).

    Args:
        data_root: folder that all paths are relative to. A relative ``data_root`` is looked for
            in the current folder, then beside the config.
        pipeline: transforms, applied in order to each item.
        classes: names, to fix their order or take a subset; by default read from the files.
        make: called with ``data_root`` before anything is read; makes the data if they are not
            there yet.
    """

    def __init__(self, data_root: str | Path = '', pipeline: Sequence[Transform] = (),
                 classes: Sequence[str] | None = None,
                 make: Callable[[Path], Any] | None = None):
        self.make = make
        self.data_root = resolve_root(data_root)
        self.pipeline = Compose(pipeline)
        self.given_classes = None if classes is None else tuple(classes)
        if self.given_classes and len(set(self.given_classes)) < len(self.given_classes):
            raise ValueError(f'classes has repeated names: {list(self.given_classes)}')
        self._annotations: Annotations | None = None

    @abstractmethod
    def load(self) -> Annotations:
        """Read the annotations from disk."""

    @property
    def annotations(self) -> Annotations:
        """The annotations, read on first use.

        Raises:
            DataError: if no item is left.
        """
        if self._annotations is None:
            if self.make is not None:
                self.make(self.data_root)
            found = self.load()
            if not len(found.table):
                raise DataError(self._why_empty(found.dropped))
            self._annotations = found
        return self._annotations

    @property
    def table(self) -> RecordTable:
        """The records."""
        return self.annotations.table

    @property
    def dropped(self) -> list[Dropped]:
        """Annotations that were left out, and why."""
        return self.annotations.dropped

    @property
    def metainfo(self) -> dict[str, Any]:
        """``classes`` (tuple of names) and what else the files say about the whole set."""
        return {'classes': self.annotations.classes, **self.annotations.metainfo}

    def __len__(self) -> int:
        return len(self.table)

    def get_info(self, index: int) -> dict[str, Any]:
        """Return the annotation of an item; no image is read."""
        return self.table[index]

    def source(self, index: int) -> str:
        """Say which file, and which record of it, the annotation of an item comes from."""
        return f'{type(self).__name__} item {index}'

    def labels(self) -> Sequence[Any] | np.ndarray:
        """Class index (or list of indices) of each item, for samplers and statistics."""
        for name in ('label', 'labels'):
            if name in self.table.columns:
                return self.table.column(name)
        raise ValueError(f'{type(self).__name__} has no labels; its records hold '
                         f'{list(self.table.columns)}')

    def sizes(self) -> np.ndarray:
        """(H, W) of every image as the annotations tell, (N, 2), for batches of one shape.

        Raises:
            ValueError: if the annotations do not tell.
        """
        if 'height' not in self.table.columns or 'width' not in self.table.columns:
            raise ValueError(f'{type(self).__name__} does not know the sizes of its images; its '
                             f'records hold {list(self.table.columns)}')
        return np.stack([self.table.column('height'), self.table.column('width')], axis=1)

    def prepare(self, index: int) -> Results:
        """Results that the pipeline starts from."""
        results = self.get_info(index)
        results.setdefault('img_id', index)
        if isinstance(results.get('img_path'), str):
            results['img_path'] = str(self.data_root / results['img_path'])
        return results

    def __getitem__(self, index: int) -> Any:
        try:
            return self.pipeline(self.prepare(index))
        except DataError as error:
            raise DataError(f'{error}; annotation: {self.source(index)}') from error

    def resolve_path(self, path: str | Path) -> Path:
        """A file that the config names, relative to ``data_root``.

        Raises:
            FileNotFoundError: if it does not exist; the message lists near names.
        """
        full = self.data_root / path
        if not full.exists():
            raise FileNotFoundError(f'{type(self).__name__}: no such file or folder: {full}'
                                    f'{_near_names(full)}')
        return full

    def class_index(self, classes: Sequence[str]) -> dict[str, int]:
        """Index of each class: as the config orders them, or as ``classes`` from the files does.

        A class without items is no mistake where the config names all that the files have.

        Raises:
            DataError: if the config names a class that the files do not have, while they have
                others, for then it may be misspelt.
        """
        if self.given_classes is None:
            return {name: i for i, name in enumerate(classes)}
        others = set(classes) - set(self.given_classes)
        for name in self.given_classes:
            if name not in classes and others:
                near = difflib.get_close_matches(name, classes, n=3)
                hint = f'; did you mean {" or ".join(near)}?' if near else ''
                raise DataError(
                    f'{type(self).__name__}: classes names {name!r}, which the files do not '
                    f'have{hint} They have {preview(classes)}'
                )
        return {name: i for i, name in enumerate(self.given_classes)}

    def _why_empty(self, dropped: list[Dropped]) -> str:
        text = f'{type(self).__name__} has no items in {self.data_root}'
        if dropped:
            first = '\n  '.join(str(d) for d in dropped[:5])
            text += f'; all {len(dropped)} annotations were dropped, the first ones:\n  {first}'
        return text


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES,
                on_other: Callable[[Path], None] | None = None) -> list[Path]:
    """All image files under ``folder``, sorted by path; hidden files are passed over.

    Args:
        folder: where to look, at any depth.
        suffixes: what image files end with, in lower case.
        on_other: called with each other file.
    """
    found = []
    for path in sorted(folder.rglob('*')):
        if path.name.startswith('.') or path.is_dir():
            continue
        if path.suffix.lower() in suffixes:
            found.append(path)
        elif on_other is not None:
            on_other(path)
    return found


def preview(names: Sequence[Any], limit: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    text = ', '.join(map(str, names[:limit]))
    return text if len(names) <= limit else f'{text} ... ({len(names)} in all)'


def _near_names(path: Path) -> str:
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        return f'; {parent} has {", ".join(near)}'
    return f'; {parent} has {preview(sorted(names))}' if names else f'; {parent} is empty'


def as_labels(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Labels as the int64 array that ``RecordTable`` keeps without a copy for each item."""
    return np.asarray(values, dtype=np.int64)
