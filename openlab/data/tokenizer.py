"""Text to token ids and back, with the chat template that belongs to them.

A tokenizer is one folder of files in the Hugging Face layout (``tokenizer.json`` and
``tokenizer_config.json``), so that every stage from pre-training to serving reads the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

INSTALL = "pip install 'openlab[llm]'"
END_OF_TEXT = '<|endoftext|>'


class Tokenizer:
    """Byte-pair tokens over the bytes of UTF-8, so that every text has tokens.

    Args:
        core: a ``tokenizers.Tokenizer``.
        stop_tokens: texts of the special tokens that end a generated answer.
        chat_template: Jinja2 template that turns messages into a prompt.
    """

    def __init__(
        self, core: Any, stop_tokens: Sequence[str] = (END_OF_TEXT,), chat_template: str = ''
    ):
        self.core = core
        self.chat_template = chat_template
        self.stop_tokens = tuple(stop_tokens)
        missing = [t for t in self.stop_tokens if core.token_to_id(t) is None]
        if missing:
            raise ValueError(f'the vocabulary has no token {missing[0]!r} to stop at')

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn byte-level BPE from texts; no byte is ever unknown.

        Paper: Neural Machine Translation of Rare Words with Subword Units,
        https://arxiv.org/abs/1508.07909, on bytes as in GPT-2.

        Args:
            texts: documents, read once.
            vocab_size: number of tokens, at least 257 (256 bytes and the end of text).
        """
        tokenizers = _library()
        if vocab_size < 257:
            raise ValueError(f'vocab_size must be at least 257 (256 bytes + 1), not {vocab_size}')
        core = tokenizers.Tokenizer(tokenizers.models.BPE())
        core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator(texts, trainer)
        return cls(core)

    @classmethod
    def from_merges(
        cls,
        tokens: Sequence[str],
        merges: Sequence[str],
        special_tokens: Sequence[str],
        stop_tokens: Sequence[str],
        chat_template: str = '',
        split_digits: bool = False,
    ) -> Tokenizer:
        """Assemble a byte-level BPE tokenizer from its tables.

        Args:
            tokens: texts of all tokens, in the order of their ids.
            merges: pairs to join, most urgent first, each ``'left right'``.
            special_tokens: tokens that are matched before any splitting.
            stop_tokens: see the class.
            chat_template: see the class.
            split_digits: make every digit a piece of its own.
        """
        tokenizers = _library()
        vocab = {token: index for index, token in enumerate(tokens)}
        pairs = [tuple(merge.split(' ')) for merge in merges]
        core = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=pairs))
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.pre_tokenizer = byte_level
        if split_digits:
            digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
            core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level])
        core.decoder = tokenizers.decoders.ByteLevel()
        core.add_special_tokens(list(special_tokens))
        return cls(core, stop_tokens, chat_template)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Read ``tokenizer.json`` and, where present, ``tokenizer_config.json``.

        Raises:
            FileNotFoundError: if the folder holds no tokenizer.
        """
        file = Path(folder) / 'tokenizer.json'
        if not file.exists():
            raise FileNotFoundError(f'no tokenizer.json in {folder}')
        core = _library().Tokenizer.from_file(str(file))
        settings_file = file.with_name('tokenizer_config.json')
        settings: dict[str, Any] = {}
        if settings_file.exists():
            settings = json.loads(settings_file.read_text(encoding='utf-8'))
        stop = settings.get('eos_token') or END_OF_TEXT
        stop = stop['content'] if isinstance(stop, Mapping) else stop
        extra = settings.get('stop_tokens', [stop])
        return cls(core, extra, settings.get('chat_template') or '')

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write both files; transformers' ``AutoTokenizer`` reads them too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.core.save(str(folder / 'tokenizer.json'))
        settings = {
            'tokenizer_class': 'PreTrainedTokenizerFast',
            'eos_token': self.stop_tokens[0],
            'stop_tokens': list(self.stop_tokens),
            'chat_template': self.chat_template or None,
        }
        text = json.dumps({k: v for k, v in settings.items() if v is not None}, indent=2) + '\n'
        (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.core.get_vocab_size()

    @property
    def stop_ids(self) -> list[int]:
        """Ids of the tokens that end a document or an answer; the first separates documents."""
        return [self.core.token_to_id(token) for token in self.stop_tokens]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any token added."""
        return self.core.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        return [e.ids for e in self.core.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become the replacement character."""
        return self.core.decode(list(tokens), skip_special_tokens=skip_special_tokens)

    def chat_prompt(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render messages (``role``, ``content``) by the chat template.

        Raises:
            ValueError: if the tokenizer has none, or the template refuses the messages.
        """
        if not self.chat_template:
            raise ValueError('this tokenizer has no chat template; use a model tuned for chat')
        try:
            from jinja2.exceptions import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise ImportError(f'chat templates need jinja2: {INSTALL}') from error

        # Templates come with downloaded weights: the sandbox keeps them from touching Python.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment.globals['raise_exception'] = refuse
        try:
            return environment.from_string(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                eos_token=self.stop_tokens[0],
            )
        except TemplateError as error:
            raise ValueError(f'the chat template refuses these messages: {error}') from error


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError(f'language models need tokenizers: {INSTALL}') from error
    return tokenizers
