"""Token ids of captions, as the text towers of CLIP and SigLIP read them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openlab.backbones.outside import import_library
from openlab.zoo.sources import fetch


class CaptionTokenizer:
    """Texts to token ids of one length. Its file is only read, or downloaded, for the first text.

    Args:
        source: path or address (see ``zoo.sources``) of a ``tokenizer.json``, which also says what
            begins and ends a text.
        length: tokens of a text; longer texts are cut.
        pad_id: fills up shorter ones.
        lowercase: no capitals and no punctuation, as SigLIP was trained.
    """

    def __init__(self, source: str, length: int, pad_id: int, lowercase: bool = False):
        self.source, self.length, self.pad_id = source, length, pad_id
        self.lowercase = lowercase

    @cached_property
    def core(self) -> Any:
        """The tokenizer of the library ``tokenizers``."""
        core = import_library('tokenizers', 'CaptionTokenizer').Tokenizer.from_file(
            str(fetch(self.source)))
        core.enable_truncation(self.length)
        core.enable_padding(length=self.length, pad_id=self.pad_id)
        return core

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids (P, length) of P texts."""
        if self.lowercase:
            texts = [''.join(c for c in t.lower() if c.isalnum() or c.isspace()) for t in texts]
        return torch.tensor([encoding.ids for encoding in self.core.encode_batch(list(texts))])
