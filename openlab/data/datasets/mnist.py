"""MNIST, Fashion-MNIST and whatever else comes in the four IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from openlab.data.datasets.base import Annotations, as_labels
from openlab.data.datasets.in_memory import InMemoryImages
from openlab.data.errors import DataError
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS

_TYPES = {8: 'u1', 9: 'i1', 11: '>i2', 12: '>i4', 13: '>f4', 14: '>f8'}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file, gzipped or not: a magic number, the sizes, the values.

    Raises:
        DataError: if it is damaged or of another kind.
    """
    data = path.read_bytes()
    if data[:2] == b'\x1f\x8b':
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f'{path} is damaged or truncated ({error})') from error
    if len(data) < 4 or data[:2] != b'\0\0' or data[2] not in _TYPES:
        raise DataError(f'{path} is no IDX file: it begins with {data[:4]!r}')
    dims = np.frombuffer(data, '>u4', count=data[3], offset=4) if len(data) >= 4 + 4 * data[3] \
        else np.zeros(0)
    dtype = np.dtype(_TYPES[data[2]])
    start = 4 + 4 * data[3]
    expected = math.prod(int(d) for d in dims) * dtype.itemsize
    if not len(dims) or len(data) - start != expected:
        raise DataError(f'{path} is truncated: {tuple(map(int, dims))} values of '
                        f'{dtype.itemsize} bytes need {expected} bytes, it has '
                        f'{max(0, len(data) - start)}')
    return np.frombuffer(data, dtype, offset=start).reshape([int(d) for d in dims])


@DATASETS.register_module()
class Mnist(InMemoryImages):
    """Images of one IDX file and labels of another; nothing is downloaded.

    Args:
        split: ``train`` or ``test``.
        data_root: folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the
            two of ``t10k-``, each perhaps with ``.gz``.
        pipeline: transforms, applied in order to each item.
    """

    names: ClassVar[tuple[str, ...]] = tuple('0123456789')
    prefixes: ClassVar[dict[str, str]] = {'train': 'train', 'test': 't10k'}

    def __init__(self, split: Literal['train', 'test'] = 'train', data_root: str | Path = '',
                 pipeline: Sequence[Transform] = ()):
        super().__init__(data_root, pipeline)
        if split not in self.prefixes:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        self.split = split

    def load(self) -> Annotations:
        """Read both files."""
        prefix = self.prefixes[self.split]
        image_file = self._find(f'{prefix}-images', 'idx3-ubyte')
        label_file = self._find(f'{prefix}-labels', 'idx1-ubyte')
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(f'{image_file} has shape {images.shape} and {label_file} '
                            f'{labels.shape}; expected (N, H, W) and (N,)')
        if labels.max(initial=0) >= len(self.names):
            raise DataError(f'{label_file} has label {labels.max()} but there are only '
                            f'{len(self.names)} classes')
        self.hold(images)
        return Annotations(RecordTable({'label': as_labels(labels)}), self.names)

    def _find(self, stem: str, kind: str) -> Path:
        tried = [f'{stem}{mark}{kind}{end}' for mark in '-.' for end in ('', '.gz')]
        for name in tried:
            if (self.data_root / name).is_file():
                return self.data_root / name
        raise FileNotFoundError(f'{type(self).__name__}: {self.data_root.absolute()} has none of '
                                f'{", ".join(tried)}; nothing is downloaded by itself')

    def source(self, index: int) -> str:
        """Split and number."""
        return f'{type(self).__name__} {self.split} image {index} in {self.data_root}'


@DATASETS.register_module()
class FashionMnist(Mnist):
    """70,000 gray images of clothes, 28 x 28 pixels, https://github.com/zalandoresearch/fashion-mnist.

    Args:
        split: ``train`` (60,000) or ``test`` (10,000).
        data_root: folder with the four IDX files, gzipped or not.
        pipeline: transforms, applied in order to each item.
    """

    names = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker',
             'Bag', 'Ankle boot')
