"""Pairs of an image and a mask of class indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openlab.data.datasets.base import Annotations, BaseDataset, list_images, preview
from openlab.data.errors import DataError, Dropped
from openlab.data.reading import read_text
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Results, Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class SegmentationDataset(BaseDataset):
    """``images/train/NAME.jpg`` with ``masks/train/NAME.png``; ``LoadAnnotations`` reads both.

    Args:
        img_dir: folder of images, at any depth, relative to ``data_root``.
        mask_dir: folder of masks with the same names below it; ``None`` for images without.
        data_root: folder that all paths are relative to.
        pipeline: transforms, applied in order to each item.
        classes: names of the classes in the order of their indices; read from ``classes.txt``
            in ``data_root`` where it exists. With names, a mask with a class beyond them is an
            error.
        img_suffix: what the names of images end with (``_leftImg8bit.png``); any image file by
            default.
        mask_suffix: what masks have in its place (``_gtFine_labelTrainIds.png``).
        ann_file: a list of names without suffix, one on each line, to use only these.
        ignore_index: values in the masks, besides 255, that are ignored.
        reduce_zero_label: 0 means "none": ignore it, and lower the others by 1.
        palette: RGB colour of each class, for drawings.
        colour_masks: masks hold these colours instead of indices.
        make: called with ``data_root`` before anything is read, to make the data.
    """

    def __init__(self, img_dir: str = 'images/train', mask_dir: str | None = 'masks/train',
                 data_root: str | Path = '', pipeline: Sequence[Transform] = (),
                 classes: Sequence[str] | None = None, img_suffix: str | None = None,
                 mask_suffix: str = '.png', ann_file: str | None = None,
                 ignore_index: int | Sequence[int] = (), reduce_zero_label: bool = False,
                 palette: Sequence[Sequence[int]] | None = None, colour_masks: bool = False,
                 make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, classes, make)
        if colour_masks and palette is None:
            raise ValueError('colour_masks=True needs palette, the colour of each class')
        if palette is not None and classes is not None and len(palette) != len(classes):
            raise ValueError(f'{len(classes)} classes but {len(palette)} colours in palette')
        self.img_dir, self.mask_dir = img_dir, mask_dir
        self.img_suffix, self.mask_suffix = img_suffix, mask_suffix
        self.ann_file = ann_file
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.palette = None if palette is None else [tuple(c) for c in palette]
        self.colour_masks = colour_masks

    def load(self) -> Annotations:
        """Match names; images without a mask and masks without an image are told as dropped."""
        images = self._named(self.resolve_path(self.img_dir), self.img_suffix)
        dropped: list[Dropped] = []
        masks: dict[str, Path] = {}
        if self.mask_dir is not None:
            masks = self._named(self.resolve_path(self.mask_dir), self.mask_suffix)
            dropped += [Dropped(str(images[n]), f'no mask {n}{self.mask_suffix} in '
                                                f'{self.mask_dir}')
                        for n in images if n not in masks]
            dropped += [Dropped(str(masks[n]), f'mask without an image in {self.img_dir}')
                        for n in masks if n not in images]
        names = [n for n in images if self.mask_dir is None or n in masks]
        if self.ann_file is not None:
            names = self._listed(names, dropped)
        columns = {'img_path': [self._relative(images[n]) for n in names]}
        if self.mask_dir is not None:
            columns['seg_path'] = [self._relative(masks[n]) for n in names]
        metainfo: dict[str, Any] = {'ignore_index': 255}
        if self.palette is not None:
            metainfo['palette'] = self.palette
        return Annotations(RecordTable(columns), self._class_names(), dropped, metainfo)

    def labels(self) -> list[list[int]]:
        """None for any item: what a mask holds is known only once it is read."""
        return [[] for _ in range(len(self))]

    def prepare(self, index: int) -> Results:
        """Record, and how its mask is to be read."""
        results = super().prepare(index)
        if 'seg_path' in results:
            results['seg_path'] = str(self.data_root / results['seg_path'])
            results['map_format'] = {
                'ignore_index': self.ignore_index, 'reduce_zero_label': self.reduce_zero_label,
                'palette': self.palette if self.colour_masks else None,
                'num_classes': len(self.metainfo['classes']) or None}
        return results

    def _named(self, folder: Path, suffix: str | None) -> dict[str, Path]:
        """Files by their path below the folder, without the suffix."""
        files = list_images(folder)
        if suffix is None:
            return {p.relative_to(folder).with_suffix('').as_posix(): p for p in files}
        found = {p.relative_to(folder).as_posix()[:-len(suffix)]: p for p in files
                 if p.name.endswith(suffix)}
        if files and not found:
            raise DataError(f'{type(self).__name__}: no file in {folder} ends with {suffix!r}; '
                            f'it has {preview([p.name for p in files], 3)}')
        return found

    def _listed(self, names: list[str], dropped: list[Dropped]) -> list[str]:
        assert self.ann_file is not None
        file = self.resolve_path(self.ann_file)
        known = set(names)
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        dropped += [Dropped(f'{file}, {name!r}', 'no such image and mask')
                    for name in lines if name not in known]
        return [name for name in lines if name in known]

    def _class_names(self) -> tuple[str, ...]:
        if self.given_classes is not None:
            return self.given_classes
        file = self.data_root / 'classes.txt'
        if not file.is_file():
            return ()
        return tuple(line.strip() for line in read_text(file).splitlines() if line.strip())

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.data_root).as_posix()

    def source(self, index: int) -> str:
        """The mask."""
        record = self.get_info(index)
        return str(self.data_root / record.get('seg_path', record['img_path']))
