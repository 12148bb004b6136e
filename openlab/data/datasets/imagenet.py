"""ImageNet-1k as it is unpacked: a folder of class folders, and a list for the flat val split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from openlab.data.datasets.base import Annotations, as_labels, preview
from openlab.data.datasets.image_folder import ImageFolder
from openlab.data.errors import DataError, Dropped
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """``data_root/train/WNID/*.JPEG`` and ``data_root/val``, in class folders or flat.

    Args:
        split: ``train`` or ``val``.
        data_root: folder of both.
        pipeline: transforms, applied in order to each item.
        val_list: for a flat ``val``: a text file, relative to ``data_root``, with a file name
            and a class (WNID, or index in the order of sorted WNIDs) on each line.
        name_file: text file with ``WNID name, other name`` on each line
            (``LOC_synset_mapping.txt``); its first names become ``classes``.
    """

    def __init__(self, split: Literal['train', 'val'] = 'train', data_root: str | Path = '',
                 pipeline: Sequence[Transform] = (), val_list: str | None = None,
                 name_file: str | None = None):
        if split not in ('train', 'val'):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        super().__init__(split, data_root, pipeline)
        self.split = split
        self.val_list = val_list
        self.name_file = name_file

    def load(self) -> Annotations:
        """List class folders, or read the list."""
        found = self._from_list() if self.split == 'val' and self.val_list else super().load()
        found.metainfo['wnids'] = found.classes
        if self.name_file:
            found.classes = self._names(found.classes)
        return found

    def _from_list(self) -> Annotations:
        assert self.val_list is not None
        file = self.resolve_path(self.val_list)
        train = self.resolve_path('train')
        wnids = sorted(p.name for p in train.iterdir() if p.is_dir())
        index = {name: i for i, name in enumerate(wnids)}
        paths, labels, dropped = [], [], []
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            name, _, label = line.strip().rpartition(' ')
            value = int(label) if label.isdigit() else index.get(label)
            if not name or value is None or value >= len(wnids):
                dropped.append(Dropped(f'{file}, line {number}',
                                       f'not "file class" with a class of {train}: {line!r}'))
                continue
            paths.append(f'{self.split}/{name}')
            labels.append(value)
        table = RecordTable({'img_path': paths, 'label': as_labels(labels)})
        return Annotations(table, tuple(wnids), dropped)

    def _names(self, wnids: Sequence[str]) -> tuple[str, ...]:
        assert self.name_file is not None
        file = self.resolve_path(self.name_file)
        names = dict(line.split(' ', 1) for line in file.read_text().splitlines() if ' ' in line)
        missing = [w for w in wnids if w not in names]
        if missing:
            raise DataError(f'{file} does not name {preview(missing)}')
        return tuple(names[w].split(',')[0].strip() for w in wnids)

    def source(self, index: int) -> str:
        """Class folder, or list."""
        if self.split == 'val' and self.val_list:
            info = self.get_info(index)
            return f'{info["img_path"]} in {self.data_root / self.val_list}'
        info = self.get_info(index)
        return f'item {index}, {info["img_path"]} in {self.data_root}'
