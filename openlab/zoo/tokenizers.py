"""Tokenizers from wherever their model lies."""

from __future__ import annotations

from pathlib import Path

from openlab.data.tokenizer import Tokenizer
from openlab.zoo.sources import fetch


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        source: a folder in the Hugging Face layout or a ``.gguf`` file, as a path or an address
            (see ``zoo.sources``).

    Raises:
        FileNotFoundError: if there is none.
    """
    path = fetch(source)
    if path.suffix == '.gguf':
        from openlab.zoo.gguf_llama import read_gguf_tokenizer

        return read_gguf_tokenizer(path)
    return Tokenizer.load(path)
