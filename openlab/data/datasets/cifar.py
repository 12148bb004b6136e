"""CIFAR-10 and CIFAR-100 as their authors publish them.

https://www.cs.toronto.edu/~kriz/cifar.html. Nothing is downloaded: put one of the archives, or the
folder inside it, into ``data_root``. The binary version is preferred: it needs no pickle.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from openlab.data.datasets.base import Annotations, as_labels, preview
from openlab.data.datasets.in_memory import InMemoryImages
from openlab.data.errors import DataError
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS

_PIXELS = 3 * 32 * 32


class _Files:
    """Files of a published archive, unpacked or not.

    Args:
        root: folder that has the archive, or the folder in it, or is that folder.
        folder: name of the folder in the archive.
        archive: name of the archive.
    """

    def __init__(self, root: Path, folder: str, archive: str):
        self.root = root
        self.folder = folder
        self.archive = root / archive

    def probe(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._path(name) is not None or self.archive.is_file()

    def read(self, name: str) -> bytes:
        """Bytes of a file."""
        path = self._path(name)
        if path is not None:
            return path.read_bytes()
        try:
            with tarfile.open(self.archive) as archive:
                member = archive.extractfile(f'{self.folder}/{name}')
                assert member is not None
                return member.read()
        except (KeyError, tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f'{self.archive} is damaged or has no {self.folder}/{name} '
                            f'({error})') from error

    def _path(self, name: str) -> Path | None:
        for folder in (self.root / self.folder, self.root):
            if (folder / name).is_file():
                return folder / name
        return None


class _Cifar(InMemoryImages):
    binary: ClassVar[tuple[str, str]]
    python: ClassVar[tuple[str, str]]
    binary_files: ClassVar[dict[str, list[str]]]
    python_files: ClassVar[dict[str, list[str]]]
    name_file: ClassVar[str]
    meta_file: ClassVar[str]
    meta_key: ClassVar[bytes]
    label_bytes: ClassVar[int]
    label_key: ClassVar[bytes]

    def __init__(self, split: Literal['train', 'test'] = 'train', data_root: str | Path = '',
                 pipeline: Sequence[Transform] = ()):
        super().__init__(data_root, pipeline)
        if split not in ('train', 'test'):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        self.split = split

    def load(self) -> Annotations:
        """Read all images of the split."""
        binary = _Files(self.data_root, *self.binary)
        python = _Files(self.data_root, *self.python)
        if binary.probe(self.binary_files[self.split][0]):
            parts = [self._from_binary(name, binary.read(name))
                     for name in self.binary_files[self.split]]
            names = binary.read(self.name_file).decode().split()
        elif python.probe(self.python_files[self.split][0]):
            parts = [self._from_python(name, python.read(name))
                     for name in self.python_files[self.split]]
            names = [n.decode() for n in load_plain_pickle(python.read(self.meta_file))[
                self.meta_key]]
        else:
            raise FileNotFoundError(
                f'{type(self).__name__}: {self.data_root.absolute()} has neither '
                f'{self.binary[0]}/ nor {self.binary[1]} nor {self.python[0]}/ nor '
                f'{self.python[1]}; nothing is downloaded by itself, get the archive from '
                f'https://www.cs.toronto.edu/~kriz/cifar.html')
        labels = np.concatenate([p[0] for p in parts])
        if labels.max(initial=0) >= len(names):
            raise DataError(f'{type(self).__name__}: label {labels.max()} but only '
                            f'{len(names)} classes ({preview(names)})')
        pixels = np.concatenate([p[1] for p in parts]).reshape(-1, 3, 32, 32)
        self.hold(pixels.transpose(0, 2, 3, 1))
        return Annotations(RecordTable({'label': as_labels(labels)}), tuple(names))

    def _from_binary(self, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        length = self.label_bytes + _PIXELS
        if len(data) % length:
            raise DataError(f'{name} is truncated: {len(data)} bytes are no multiple of {length}')
        rows = np.frombuffer(data, np.uint8).reshape(-1, length)
        return rows[:, self.label_bytes - 1], rows[:, self.label_bytes:]

    def _from_python(self, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        content = load_plain_pickle(data)
        if self.label_key not in content or b'data' not in content:
            raise DataError(f'{name} has {sorted(content)}, expected {self.label_key!r} and '
                            f"b'data'")
        return np.asarray(content[self.label_key]), np.asarray(content[b'data'])

    def source(self, index: int) -> str:
        """Split and number."""
        return f'{type(self).__name__} {self.split} image {index} in {self.data_root}'


@DATASETS.register_module()
class Cifar10(_Cifar):
    """60,000 images of 32 x 32 pixels in ten classes.

    Args:
        split: ``train`` (50,000) or ``test`` (10,000).
        data_root: folder with the archive or what is in it.
        pipeline: transforms, applied in order to each item.
    """

    binary = ('cifar-10-batches-bin', 'cifar-10-binary.tar.gz')
    python = ('cifar-10-batches-py', 'cifar-10-python.tar.gz')
    binary_files: ClassVar = {'train': [f'data_batch_{i}.bin' for i in range(1, 6)],
                              'test': ['test_batch.bin']}
    python_files: ClassVar = {'train': [f'data_batch_{i}' for i in range(1, 6)],
                              'test': ['test_batch']}
    name_file = 'batches.meta.txt'
    meta_file = 'batches.meta'
    meta_key = b'label_names'
    label_bytes = 1
    label_key = b'labels'


@DATASETS.register_module()
class Cifar100(_Cifar):
    """60,000 images of 32 x 32 pixels in a hundred (fine) classes.

    Args:
        split: ``train`` (50,000) or ``test`` (10,000).
        data_root: folder with the archive or what is in it.
        pipeline: transforms, applied in order to each item.
    """

    binary = ('cifar-100-binary', 'cifar-100-binary.tar.gz')
    python = ('cifar-100-python', 'cifar-100-python.tar.gz')
    binary_files: ClassVar = {'train': ['train.bin'], 'test': ['test.bin']}
    python_files: ClassVar = {'train': ['train'], 'test': ['test']}
    name_file = 'fine_label_names.txt'
    meta_file = 'meta'
    meta_key = b'fine_label_names'
    label_bytes = 2  # the coarse class comes first
    label_key = b'fine_labels'


_ALLOWED = {
    ('numpy.core.multiarray', '_reconstruct'), ('numpy._core.multiarray', '_reconstruct'),
    ('numpy', 'ndarray'), ('numpy', 'dtype'), ('_codecs', 'encode'),
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows plain values and numpy arrays, and refuses any other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f'the pickle asks for {module}.{name}; only numpy arrays and plain '
                            f'values are read, this may be an attack')
        module = module.replace('numpy.core', 'numpy._core') \
            if np.lib.NumpyVersion(np.__version__) >= '2.0.0' else module
        return super().find_class(module, name)


def load_plain_pickle(data: bytes) -> Any:
    """Read a pickle that holds nothing but plain values and numpy arrays.

    Raises:
        DataError: if it asks for anything else, or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding='bytes').load()
    except (pickle.UnpicklingError, EOFError, IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'not a pickle, or a damaged one ({error})') from error
