"""Pascal VOC: one XML file for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from openlab.data.datasets.base import IMAGE_SUFFIXES, Annotations
from openlab.data.datasets.detection import DetectionDataset, Images, Objects
from openlab.data.errors import DataError, Dropped
from openlab.data.reading import image_size, read_text
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class VocDataset(DetectionDataset):
    """``Annotations/NAME.xml`` and ``JPEGImages/NAME.jpg`` for each name of a list.

    VOC counts pixels from 1 and its corners both belong to the object: a box from ``xmin`` 1 to
    ``xmax`` W covers the whole width. Here it becomes ``xmin - 1`` to ``xmax``. Files of others
    often count from 0 all the same (a box at 0 is cut at the border); ``one_based=False`` takes
    the numbers as they are.

    Args:
        ann_file: list of names, one on each line (``ImageSets/Main/train.txt``), relative to
            ``data_root``; without it every XML file.
        data_root: folder that all paths are relative to.
        ann_dir: folder of XML files.
        img_dir: folder of images.
        pipeline: transforms, applied in order to each item.
        classes: names, to fix their order or take a subset; all that occur, in alphabetical
            order, by default. Give them where the parts of a set may differ.
        difficult: what becomes of objects marked so: ``ignore`` (neither trained on nor
            counted by metrics: they get ``is_crowd``), ``keep`` or ``drop``.
        one_based: whether pixels count from 1.
        keep_empty: keep images without objects.
        min_size: boxes with a shorter side, in pixels, are dropped; by default also a single
            pixel, which a slip of the mouse makes.
        make: called with ``data_root`` before anything is read, to make the data.
    """

    def __init__(self, ann_file: str | None = None, data_root: str | Path = '',
                 ann_dir: str = 'Annotations', img_dir: str = 'JPEGImages',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 difficult: Literal['ignore', 'keep', 'drop'] = 'ignore', one_based: bool = True,
                 keep_empty: bool = True, min_size: float = 2.0,
                 make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, classes, keep_empty, min_size, make)
        if difficult not in ('ignore', 'keep', 'drop'):
            raise ValueError(f"difficult must be 'ignore', 'keep' or 'drop', got {difficult!r}")
        self.ann_file = ann_file
        self.ann_dir = ann_dir
        self.img_dir = img_dir
        self.difficult = difficult
        self.one_based = one_based

    def load(self) -> Annotations:
        """Read every XML file."""
        folder = self.resolve_path(self.ann_dir)
        files = {p.stem: p.name for p in sorted(self.resolve_path(self.img_dir).iterdir())
                 if p.suffix.lower() in IMAGE_SUFFIXES}
        dropped: list[Dropped] = []
        images, rows = Images(), _Rows()
        for name in self._names(folder):
            xml = folder / f'{name}.xml'
            if name not in files:
                dropped.append(Dropped(str(xml), f'{self.img_dir} has no image of this name'))
                continue
            path = f'{self.img_dir}/{files[name]}'
            root = _parse(xml, dropped)
            if root is None:
                continue
            size = _size_of(root) or image_size(self.data_root / path)
            for number, found in enumerate(root.iter('object'), start=1):
                self._add(found, f'{xml}, object {number}', len(images.paths), rows, dropped)
            images.add(path, len(images.paths), size)
        index = self.class_index(sorted(set(rows.names) | set(self.given_classes or ())))
        self._drop_others(rows, index, dropped)
        boxes = np.array(rows.boxes, dtype=np.float64).reshape(-1, 4)
        if self.one_based:
            boxes[:, :2] -= 1
        objects = Objects(
            image=np.array(rows.image, dtype=np.int64), boxes=boxes,
            labels=np.array([index[n] for n in rows.names], dtype=np.int64),
            is_crowd=np.array(rows.ignored, dtype=bool), sources=lambda i: rows.sources[i])
        return self.assemble(images, objects, tuple(index), dropped)

    def _names(self, folder: Path) -> list[str]:
        if self.ann_file is None:
            return sorted(p.stem for p in folder.glob('*.xml'))
        lines = read_text(self.resolve_path(self.ann_file)).splitlines()
        # Lists of one class have a second column: 1, 0 or -1.
        return [line.split()[0] for line in lines if line.strip()]

    def _add(self, found: ElementTree.Element, source: str, image: int, rows: _Rows,
             dropped: list[Dropped]) -> None:
        name = (found.findtext('name') or '').strip()
        is_difficult = (found.findtext('difficult') or '0').strip() == '1'
        if not name:
            dropped.append(Dropped(source, 'object has no name'))
            return
        if is_difficult and self.difficult == 'drop':
            dropped.append(Dropped(source, 'object is difficult'))
            return
        corners = [found.findtext(f'bndbox/{k}') for k in ('xmin', 'ymin', 'xmax', 'ymax')]
        try:
            box = [float(v) if v is not None else np.nan for v in corners]
        except ValueError:
            box = [np.nan] * 4
        rows.add(image, box, name, is_difficult and self.difficult == 'ignore', source)

    def _drop_others(self, rows: _Rows, index: dict[str, int], dropped: list[Dropped]) -> None:
        for name in sorted(set(rows.names) - set(index)):
            count = rows.names.count(name)
            dropped.append(Dropped(f'{self.data_root / self.ann_dir}, {count} objects {name!r}',
                                   'class is not in classes of the config'))
        rows.keep([name in index for name in rows.names])

    def source(self, index: int) -> str:
        """The XML file."""
        name = Path(self.get_info(index)['img_path']).stem
        return str(self.data_root / self.ann_dir / f'{name}.xml')


class _Rows:
    """Objects while files are being read."""

    def __init__(self) -> None:
        self.image: list[int] = []
        self.boxes: list[list[float]] = []
        self.names: list[str] = []
        self.ignored: list[bool] = []
        self.sources: list[str] = []

    def add(self, image: int, box: list[float], name: str, ignored: bool, source: str) -> None:
        """Note one more object."""
        self.image.append(image)
        self.boxes.append(box)
        self.names.append(name)
        self.ignored.append(ignored)
        self.sources.append(source)

    def keep(self, chosen: Sequence[bool]) -> None:
        """Forget those that are not chosen."""
        for field in ('image', 'boxes', 'names', 'ignored', 'sources'):
            values = getattr(self, field)
            setattr(self, field, [v for v, wanted in zip(values, chosen) if wanted])


def _parse(file: Path, dropped: list[Dropped]) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError:
        dropped.append(Dropped(str(file), 'annotation file is missing'))
    except ElementTree.ParseError as error:
        raise DataError(f'{file} is not XML: {error}') from None
    return None


def _size_of(root: ElementTree.Element) -> tuple[int, int] | None:
    """(H, W) as the file tells, if it does (some write 0)."""
    try:
        height = int(float(root.findtext('size/height') or 0))
        width = int(float(root.findtext('size/width') or 0))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None
