"""COCO's panoptic format: one PNG of segment ids for each image, and a JSON about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openlab.data.datasets.base import Annotations, BaseDataset
from openlab.data.datasets.coco import categories_of, images_of, read_coco
from openlab.data.errors import DataError, Dropped
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Results, Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class CocoPanopticDataset(BaseDataset):
    """Things and stuff of a COCO panoptic file (``panoptic_train2017.json``).

    Labels are 0 to K - 1: things first, then stuff, each in the order of their category ids.
    ``metainfo`` has ``category_ids``, ``is_thing`` and ``palette`` in the order of the labels.
    ``LoadAnnotations`` makes ``panoptic_map`` (n for ``segments[n - 1]``), ``segments`` (``id``,
    ``label``, ``is_thing``, ``is_crowd``), ``semantic_map``, and boxes, labels and masks of the
    things.

    Args:
        ann_file: the JSON, relative to ``data_root``.
        panoptic_dir: folder of the PNGs.
        data_root: folder that all paths are relative to.
        img_dir: folder that ``file_name`` of images is relative to.
        pipeline: transforms, applied in order to each item.
        make: called with ``data_root`` before anything is read, to make the data.
    """

    def __init__(self, ann_file: str, panoptic_dir: str, data_root: str | Path = '',
                 img_dir: str = '', pipeline: Sequence[Transform] = (),
                 make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, None, make)
        self.ann_file = ann_file
        self.panoptic_dir = panoptic_dir
        self.img_dir = img_dir

    def load(self) -> Annotations:
        """Read the file."""
        file = self.resolve_path(self.ann_file)
        content = read_coco(file, ('images', 'categories', 'annotations'))
        names = categories_of(content, file)
        about = {c['id']: c for c in content['categories']}
        ids = sorted(names, key=lambda i: (not about[i].get('isthing', 1), i))
        label_of = {category: label for label, category in enumerate(ids)}
        images = images_of(content, file, self.img_dir)
        place_of = {image_id: place for place, image_id in enumerate(images.ids)}
        dropped: list[Dropped] = []
        rows: dict[int, dict[str, Any]] = {}
        for row in content['annotations']:
            if row.get('image_id') not in place_of:
                dropped.append(Dropped(f'{file}, annotation of image {row.get("image_id")!r}',
                                       'image_id is not one of images'))
                continue
            rows[place_of[row['image_id']]] = row
        dropped += [Dropped(f'{file}, image {path}', 'image has no annotation')
                    for place, path in enumerate(images.paths) if place not in rows]
        chosen = sorted(rows)
        sizes = np.array(images.sizes, dtype=np.int64).reshape(-1, 2)[chosen]
        table = RecordTable({
            'img_path': [images.paths[i] for i in chosen],
            'img_id': np.array([images.ids[i] for i in chosen], dtype=np.int64),
            'height': sizes[:, 0], 'width': sizes[:, 1],
            'panoptic_path': [Path(self.panoptic_dir, rows[i]['file_name']).as_posix()
                              for i in chosen],
            'segments_info': [[self._segment(s, label_of, about, file)
                               for s in rows[i]['segments_info']] for i in chosen]})
        return Annotations(table, tuple(names[i] for i in ids), dropped, {
            'category_ids': tuple(ids), 'ann_file': str(file),
            'is_thing': tuple(bool(about[i].get('isthing', 1)) for i in ids),
            **self._palette(ids, about)})

    def _segment(self, row: dict[str, Any], label_of: dict[int, int],
                 about: dict[int, dict[str, Any]], file: Path) -> dict[str, Any]:
        category = row.get('category_id')
        if category not in label_of:
            raise DataError(f'{file}: segment {row.get("id")} has category_id {category!r}, which '
                            f'is not one of categories')
        return {'id': row['id'], 'label': label_of[category], 'bbox': row.get('bbox'),
                'is_thing': bool(about[category].get('isthing', 1)),
                'is_crowd': bool(row.get('iscrowd')), 'area': row.get('area')}

    def _palette(self, ids: Sequence[int], about: dict[int, dict[str, Any]]) -> dict[str, Any]:
        if all('color' in about[i] for i in ids):
            return {'palette': [tuple(about[i]['color']) for i in ids]}
        return {}

    def prepare(self, index: int) -> Results:
        """Record with full paths."""
        results = super().prepare(index)
        results['panoptic_path'] = str(self.data_root / results['panoptic_path'])
        return results

    def labels(self) -> Sequence[Any]:
        """Labels of the segments of each image."""
        return [[s['label'] for s in found] for found in self.table.column('segments_info')]

    def source(self, index: int) -> str:
        """The PNG."""
        return str(self.data_root / self.get_info(index)['panoptic_path'])
