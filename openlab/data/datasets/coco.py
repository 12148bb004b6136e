"""COCO's JSON: boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openlab.data.datasets.base import Annotations, preview
from openlab.data.datasets.detection import DetectionDataset, Images, Objects
from openlab.data.errors import DataError, Dropped
from openlab.data.reading import read_json
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class CocoDataset(DetectionDataset):
    """Objects of a COCO file (``instances_train2017.json``).

    Category ids may have gaps: labels are 0 to K - 1 in the order of the ids (or of
    ``classes``), and ``metainfo['category_ids']`` leads back. Boxes ``[x, y, width, height]``
    become xyxy; polygons, run lengths and COCO's compressed run lengths are read, by
    ``LoadAnnotations``, as masks. Crowds are kept with ``is_crowd``.

    Args:
        ann_file: the JSON, relative to ``data_root``.
        data_root: folder that all paths are relative to.
        img_dir: folder that ``file_name`` is relative to.
        pipeline: transforms, applied in order to each item.
        classes: names, to fix their order or take a subset.
        with_masks: keep polygons and run lengths.
        keep_empty: keep images without objects.
        min_size: boxes with a shorter side, in pixels, are dropped.
        make: called with ``data_root`` before anything is read, to make the data.
    """

    def __init__(self, ann_file: str, data_root: str | Path = '', img_dir: str = '',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 with_masks: bool = True, keep_empty: bool = True, min_size: float = 1.0,
                 make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, classes, keep_empty, min_size, make)
        self.ann_file = ann_file
        self.img_dir = img_dir
        self.with_masks = with_masks

    def load(self) -> Annotations:
        """Read the file."""
        file = self.resolve_path(self.ann_file)
        content = read_coco(file, ('images', 'categories'))
        dropped: list[Dropped] = []
        names = categories_of(content, file)
        index = self.class_index(list(names.values()))
        label_of = {i: index[name] for i, name in names.items() if name in index}
        images = images_of(content, file, self.img_dir)
        place_of = {image_id: place for place, image_id in enumerate(images.ids)}
        rows = self._usable(content.get('annotations') or [], file, names, label_of, place_of,
                            dropped)
        boxes = boxes_of(rows, file)
        boxes[:, 2:] += boxes[:, :2]
        areas = [a['area'] if isinstance(a.get('area'), (int, float)) else np.nan for a in rows]
        box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        objects = Objects(
            image=np.array([place_of[a['image_id']] for a in rows], dtype=np.int64), boxes=boxes,
            labels=np.array([label_of[a['category_id']] for a in rows], dtype=np.int64),
            sources=lambda i: f'{file}, annotation {rows[i].get("id", i)}',
            is_crowd=np.array([bool(a.get('iscrowd')) for a in rows], dtype=bool),
            areas=np.where(np.isfinite(areas), areas, box_areas),
            ids=np.array([a.get('id', i) for i, a in enumerate(rows)], dtype=np.int64),
            segmentation=self._segmentation(rows))
        ids = sorted(label_of, key=lambda i: label_of[i])
        return self.assemble(images, objects, tuple(index), dropped, category_ids=tuple(ids),
                             ann_file=str(file))

    def _usable(self, rows: list[dict[str, Any]], file: Path, names: Mapping[int, str],
                label_of: Mapping[int, int], place_of: Mapping[int, int],
                dropped: list[Dropped]) -> list[dict[str, Any]]:
        """Annotations of chosen classes that belong to an image of the file."""
        kept, others = [], dict.fromkeys(names, 0)
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise DataError(f'{file}: annotations[{number}] must be an object, got {row!r}')
            source = f'{file}, annotation {row.get("id", number)}'
            category = row.get('category_id')
            if category not in names:
                dropped.append(Dropped(source, f'category_id {category!r} is not one of '
                                               f'categories ({preview(list(names))})'))
            elif category not in label_of:
                others[row['category_id']] += 1
            elif row.get('image_id') not in place_of:
                dropped.append(Dropped(source, f'image_id {row.get("image_id")!r} is not one of '
                                               f'images'))
            else:
                kept.append(row)
        dropped += [Dropped(f'{file}, {count} annotations of {names[i]!r}',
                            'class is not in classes of the config')
                    for i, count in others.items() if count]
        return kept

    def _segmentation(self, rows: list[dict[str, Any]]) -> list[Any] | None:
        if not self.with_masks or not any(a.get('segmentation') for a in rows):
            return None
        return [a.get('segmentation') for a in rows]

    def source(self, index: int) -> str:
        """The image's id in the file."""
        return f'image {self.table.columns["img_id"][index]} of {self.data_root / self.ann_file}'


def read_coco(file: Path, needed: Sequence[str]) -> dict[str, Any]:
    """A JSON file of COCO's kind.

    Raises:
        DataError: if a list that is needed is missing.
    """
    content = read_json(file)
    for name in needed:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            found = preview(list(content)) if isinstance(content, dict) else type(content).__name__
            raise DataError(f'{file} is not a COCO file: it needs a list {name!r}, and has {found}')
    return content


def categories_of(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Names by category id, in the order of the ids.

    Raises:
        DataError: if an id or a name occurs twice.
    """
    names: dict[int, str] = {}
    for category in content['categories']:
        if 'id' not in category or 'name' not in category:
            raise DataError(f'{file}: a category needs id and name, got {category}')
        if category['id'] in names or category['name'] in names.values():
            raise DataError(f'{file}: two categories have the id {category["id"]} or the name '
                            f'{category["name"]!r}')
        names[category['id']] = str(category['name'])
    if not names:
        raise DataError(f'{file} has no categories')
    return dict(sorted(names.items()))


def images_of(content: Mapping[str, Any], file: Path, img_dir: str) -> Images:
    """Paths, ids and sizes of all images.

    Raises:
        DataError: if an image lacks one of them, or an id occurs twice.
    """
    images = Images()
    for number, image in enumerate(content['images']):
        missing = [k for k in ('id', 'file_name', 'height', 'width') if k not in image]
        if missing:
            raise DataError(f'{file}: images[{number}] has no {missing[0]!r}: {image}')
        images.add(str(Path(img_dir, image['file_name']).as_posix()), image['id'],
                   (image['height'], image['width']))
    seen: set[int] = set()
    for image_id in images.ids:
        if image_id in seen:
            raise DataError(f'{file}: two images have the id {image_id}')
        seen.add(image_id)
    return images


def boxes_of(rows: Sequence[Mapping[str, Any]], file: Path) -> np.ndarray:
    """All ``bbox`` values as they are, (M, 4); what is no box becomes NaN."""
    try:
        boxes = np.array([row['bbox'] for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        boxes = np.array([_box_or_nan(row.get('bbox')) for row in rows], dtype=np.float64)
    boxes = boxes.reshape(-1, 4) if not boxes.size else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f'{file}: bbox must be [x, y, width, height], got {rows[0]["bbox"]}')
    return boxes


def _box_or_nan(box: Any) -> list[float]:
    try:
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError):
        return [np.nan] * 4
    return [x, y, width, height]
