"""Images sorted into one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openlab.data.datasets.base import (
    IMAGE_SUFFIXES,
    Annotations,
    BaseDataset,
    as_labels,
    list_images,
)
from openlab.data.errors import DataError, Dropped
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """``folder/CLASS/**/image.jpg``; classes are the folder names in alphabetical order.

    Args:
        folder: the folder of class folders, relative to ``data_root``.
        data_root: folder that paths are relative to.
        pipeline: transforms, applied in order to each item.
        classes: class folders to use, in the order of their indices; all by default.
        suffixes: what image files end with.
    """

    def __init__(self, folder: str = '', data_root: str | Path = '',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 suffixes: Sequence[str] = IMAGE_SUFFIXES):
        super().__init__(data_root, pipeline, classes)
        self.folder = folder
        self.suffixes = tuple(s.lower() for s in suffixes)

    def load(self) -> Annotations:
        """List the files; files of other kinds and empty class folders are reported as dropped."""
        root = self.resolve_path(self.folder)
        found = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != '.')
        if not found:
            raise DataError(f'{root} has no class folders; ImageFolder expects '
                            f'{root}/CLASS/image.jpg')
        index = self.class_index(found)
        paths: list[str] = []
        labels: list[int] = []
        dropped: list[Dropped] = []
        for name in found:
            if name not in index:
                dropped.append(Dropped(f'{root / name}', 'class is not in classes of the config'))
                continue
            files = list_images(root / name, self.suffixes, lambda p: dropped.append(
                Dropped(str(p), f'suffix {p.suffix!r} is not one of an image')))
            if not files:
                dropped.append(Dropped(f'{root / name}', 'class folder has no images'))
            paths += [p.relative_to(self.data_root).as_posix() for p in files]
            labels += [index[name]] * len(files)
        table = RecordTable({'img_path': paths, 'label': as_labels(labels)})
        return Annotations(table, tuple(index), dropped)

    def source(self, index: int) -> str:
        """The class folder that gave the label."""
        info = self.get_info(index)
        name = self.metainfo['classes'][info['label']]
        return f'item {index}, class folder {name!r} of {self.data_root / self.folder}'
