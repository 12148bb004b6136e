"""Text for language models: documents become one long row of tokens, cut into equal windows.

Every document begins with the end-of-text token, which so also marks the end of the one before.
A window's targets are its tokens moved by one, hence each byte of the text is predicted exactly
once; ``document_ids`` keep packed documents from seeing each other.

T tokens in a window
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from openlab.data.tokenizer import Tokenizer
from openlab.registry import DATASETS
from openlab.structures.data_sample import DataSample

PYTHON_LIBRARY = 'python-library'
_LIBRARY_SKIPS = {'site-packages', 'dist-packages', 'test', 'tests', 'idlelib', 'lib2to3'}


@DATASETS.register_module()
class PackedTextDataset(Dataset):
    """Windows of tokens from a folder of text files.

    On first use the tokenizer is trained (on the training part, if its folder does not exist yet)
    and all text is encoded into a file under ``cache_dir``, which later runs and all workers map
    into memory. Another source, tokenizer or share makes another file.

    Args:
        source: folder of text files, or ``'python-library'``: the modules of the running
            Python's standard library, which every machine has.
        context_length: T.
        split: ``'train'`` or ``'val'``; files are dealt to them by a hash of their path.
        pattern: which files of the folder are documents.
        val_share: share of the files that make up ``'val'``.
        tokenizer: folder of a tokenizer (see ``Tokenizer.load``); where it does not exist,
            one with ``vocab_size`` tokens is trained and saved there.
        vocab_size: see ``tokenizer``.
        cache_dir: where encoded text is kept.

    Raises:
        FileNotFoundError: if the source has no matching file, or no tokenizer can be had.
        ValueError: for a file that is not UTF-8 (named, with the offset of the bad byte), or too
            little text for one window.
    """

    def __init__(
        self,
        source: str,
        context_length: int,
        split: str = 'train',
        pattern: str = '**/*.py',
        val_share: float = 0.05,
        tokenizer: str = 'data/text/tokenizer',
        vocab_size: int | None = None,
        cache_dir: str = 'data/text',
    ):
        if split not in ('train', 'val'):
            raise ValueError(f"split must be 'train' or 'val', not {split!r}")
        if not 0 < val_share < 1:
            raise ValueError(f'val_share must lie between 0 and 1, not {val_share}')
        self.source, self.pattern = source, pattern
        self.context_length, self.split, self.val_share = context_length, split, val_share
        self.tokenizer_dir, self.vocab_size = Path(tokenizer), vocab_size
        self.cache_dir = Path(cache_dir)
        self._tokenizer: Tokenizer | None = None
        self._tokens: np.ndarray | None = None
        self._token_bytes: np.ndarray | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained first where there is none."""
        if self._tokenizer is None:
            if not (self.tokenizer_dir / 'tokenizer.json').exists():
                self._train_tokenizer()
            self._tokenizer = Tokenizer.load(self.tokenizer_dir)
        return self._tokenizer

    @property
    def tokens(self) -> np.ndarray:
        """All tokens of this split, (N,) uint16 or uint32, mapped from disk."""
        if self._tokens is None:
            file = self._cache_file()
            if not file.exists():
                self._encode(file)
            self._tokens = np.load(file, mmap_mode='r')
            if len(self._tokens) <= self.context_length:
                raise ValueError(
                    f'{self.source!r} has only {len(self._tokens)} tokens in its {self.split} '
                    f'part, too few for one window of context_length={self.context_length}'
                )
        return self._tokens

    @property
    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each token id stands for, (V,) int64; 0 for special ones."""
        if self._token_bytes is None:
            core = self.tokenizer.core
            special = {i for i, t in core.get_added_tokens_decoder().items() if t.special}
            # In byte-level BPE each character of a token's text stands for one byte.
            self._token_bytes = np.array(
                [
                    0 if i in special else len(core.id_to_token(i))
                    for i in range(self.tokenizer.vocab_size)
                ]
            )
        return self._token_bytes

    @property
    def metainfo(self) -> dict[str, Any]:
        """Size of the vocabulary, and the tokenizer's files, which every checkpoint takes along."""
        return {
            'vocab_size': self.tokenizer.vocab_size,
            'classes': (),
            'asset_files': {file.name: str(file) for file in self.tokenizer_dir.glob('*.json')},
        }

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context_length

    def get_info(self, index: int) -> dict[str, Any]:
        """Place of a window in the row of tokens."""
        begin = index * self.context_length
        return {'first_token': begin, 'num_tokens': self.context_length}

    def __getitem__(self, index: int) -> dict[str, Any]:
        begin = index * self.context_length
        window = self.tokens[begin : begin + self.context_length + 1].astype(np.int64)
        tokens = torch.from_numpy(window[:-1])
        separator = self.tokenizer.stop_ids[0]
        num_bytes = int(self.token_bytes[window[1:]].sum())
        sample = DataSample(
            meta={'img_id': index, 'first_token': begin, 'num_bytes': num_bytes},
            tokens=tokens,
            target_tokens=torch.from_numpy(window[1:]),
            document_ids=(tokens == separator).cumsum(0),
        )
        return {'inputs': tokens, 'sample': sample}

    def files(self, split: str) -> list[Path]:
        """Documents of one part, in a fixed order.

        Raises:
            FileNotFoundError: if there are none.
        """
        root, skips = Path(self.source), set()
        if self.source == PYTHON_LIBRARY:
            root, skips = Path(sysconfig.get_paths()['stdlib']), _LIBRARY_SKIPS
        if not root.is_dir():
            raise FileNotFoundError(
                f'no folder {root}; source is a folder of text files or {PYTHON_LIBRARY!r}'
            )
        chosen = []
        for file in sorted(root.glob(self.pattern)):
            name = file.relative_to(root).as_posix()
            if file.is_file() and not skips & set(file.relative_to(root).parts):
                is_val = zlib.crc32(name.encode()) / 2**32 < self.val_share
                if is_val == (split == 'val'):
                    chosen.append(file)
        if not chosen:
            raise FileNotFoundError(f'no file in {root} matches {self.pattern!r} for {split!r}')
        return chosen

    def _documents(self, split: str) -> Iterator[str]:
        for file in self.files(split):
            try:
                text = file.read_text(encoding='utf-8')
            except UnicodeDecodeError as error:
                raise ValueError(
                    f'{file} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset '
                    f'{error.start}; convert it or leave it out by pattern={self.pattern!r}'
                ) from error
            if text:
                yield text

    def _train_tokenizer(self) -> None:
        if self.vocab_size is None:
            raise FileNotFoundError(
                f'no tokenizer in {self.tokenizer_dir}; give vocab_size to train one there'
            )
        Tokenizer.train(self._documents('train'), self.vocab_size).save(self.tokenizer_dir)

    def _cache_file(self) -> Path:
        stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in self.files(self.split)]
        _ = self.tokenizer  # trains it where needed
        vocabulary = (self.tokenizer_dir / 'tokenizer.json').read_bytes()
        key = json.dumps([self.source, self.pattern, self.val_share, stamps]).encode() + vocabulary
        return self.cache_dir / f'{self.split}_{hashlib.sha256(key).hexdigest()[:16]}.npy'

    def _encode(self, file: Path) -> None:
        separator = self.tokenizer.stop_ids[0]
        kind = np.uint16 if self.tokenizer.vocab_size <= 2**16 else np.uint32
        pieces = []
        for ids in self.tokenizer.encode_many(list(self._documents(self.split))):
            pieces.append(np.array([separator, *ids], dtype=kind))
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f'.{os.getpid()}.partial')
        with partial.open('wb') as handle:
            np.save(handle, np.concatenate(pieces))
        partial.replace(file)
