"""In-shop clothes retrieval (DeepFashion): photographs of garments in a shop's catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from openlab.data.datasets.base import Annotations, BaseDataset, as_labels
from openlab.data.errors import DataError, Dropped
from openlab.data.reading import read_text
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS

SPLITS = {'train': ('train',), 'query': ('query',), 'gallery': ('gallery',),
          'test': ('query', 'gallery')}


@DATASETS.register_module()
class InShop(BaseDataset):
    """Garments to learn from, and others to find: a class is one garment.

    Records hold ``role`` (``'query'`` or ``'gallery'``) besides path and label; let
    ``PackInputs(meta_keys=['role'])`` hand it to the metric. Training and test share no garment.

    Paper: DeepFashion, CVPR 2016. https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html

    Args:
        split: ``train``, ``query``, ``gallery``, or ``test``, which is both of these.
        data_root: folder that paths are relative to.
        ann_file: list of images with garment and part, relative to ``data_root``.
        img_dir: folder that the paths in the list are relative to.
        pipeline: transforms, applied in order to each item.
    """

    def __init__(self, split: Literal['train', 'query', 'gallery', 'test'] = 'train',
                 data_root: str | Path = '', ann_file: str = 'Eval/list_eval_partition.txt',
                 img_dir: str = 'Img', pipeline: Sequence[Transform] = ()):
        super().__init__(data_root, pipeline)
        if split not in SPLITS:
            raise ValueError(f'split is one of {", ".join(SPLITS)}; not {split!r}')
        self.split = split
        self.ann_file = ann_file
        self.img_dir = img_dir

    def load(self) -> Annotations:
        """Read the list: a count, a line of titles, then image, garment and part in each line."""
        file = self.resolve_path(self.ann_file)
        lines = read_text(file).splitlines()
        if len(lines) < 2 or not lines[0].strip().isdigit():
            raise DataError(f'{file} must begin with the number of images and a line of titles, '
                            f'as the list of In-shop Clothes Retrieval does')
        dropped: list[Dropped] = []
        rows: list[list[str]] = []
        for number, line in enumerate(lines[2:], start=3):
            fields = line.split()
            if len(fields) == 3 and fields[2] in SPLITS:
                rows.append(fields)
            elif fields:
                dropped.append(Dropped(f'{file}, line {number}', f'not image, garment and part: '
                                                                 f'{line.strip()!r}'))
        is_test = self.split != 'train'
        # Query and gallery must number garments alike, whichever of them is read.
        classes = sorted({garment for _, garment, part in rows if (part != 'train') == is_test})
        index = {name: i for i, name in enumerate(classes)}
        chosen = [row for row in rows if row[2] in SPLITS[self.split]]
        columns: dict[str, Any] = {
            'img_path': [f'{self.img_dir}/{path}' for path, _, _ in chosen],
            'label': as_labels([index[garment] for _, garment, _ in chosen])}
        if is_test:
            columns['role'] = [part for _, _, part in chosen]
        return Annotations(RecordTable(columns), tuple(classes), dropped)

    def source(self, index: int) -> str:
        """The list and the image in it."""
        return f'{self.data_root / self.ann_file}, image {self.get_info(index)["img_path"]}'
