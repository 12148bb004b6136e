"""Conversations to learn to answer from: only the assistant's words are targets.

T tokens of a conversation
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import Dataset

from openlab.data.tokenizer import Tokenizer
from openlab.registry import DATASETS
from openlab.structures.data_sample import DataSample

IGNORED = -100
ROLES = ('system', 'user', 'assistant')


@DATASETS.register_module()
class ChatDataset(Dataset):
    """A file of conversations, one JSON object a line: ``{"messages": [{"role", "content"}]}``.

    Each is rendered by the tokenizer's chat template, as it will be when the model is used; what
    the template adds, and what others say, is read but not learned.

    Args:
        file: the JSON-lines file.
        tokenizer: has a chat template; ``dict(type=load_tokenizer, source=...)`` in a config.
        context_length: longer conversations are cut at the end.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a line that is no conversation; it is named with its number.
    """

    def __init__(self, file: str, tokenizer: Tokenizer, context_length: int = 1024):
        self.file = Path(file)
        self.tokenizer = tokenizer
        self.context_length = context_length

    @cached_property
    def conversations(self) -> list[list[dict[str, str]]]:
        """All conversations, checked."""
        found = []
        with self.file.open(encoding='utf-8') as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    found.append(self._checked(line, f'{self.file}:{number}'))
        if not found:
            raise ValueError(f'{self.file} holds no conversation')
        return found

    def _checked(self, line: str, where: str) -> list[dict[str, str]]:
        try:
            messages = json.loads(line)['messages']
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{where}: expected an object with "messages", got {line.strip()[:60]!r}'
            ) from error
        for message in messages:
            if not isinstance(message, Mapping) or message.get('role') not in ROLES:
                raise ValueError(f'{where}: a message needs a role of {ROLES}, got {message!r}')
            if not isinstance(message.get('content'), str):
                raise ValueError(f'{where}: a message needs a text as its content: {message!r}')
        if not any(m['role'] == 'assistant' for m in messages):
            raise ValueError(f'{where}: no message is from the assistant: nothing to learn')
        return messages

    @property
    def metainfo(self) -> dict[str, Any]:
        """Size of the vocabulary, and the tokenizer's files, which every checkpoint takes along."""
        folder = Path(self._tokenizer_folder.name)
        return {
            'vocab_size': self.tokenizer.vocab_size,
            'classes': (),
            'asset_files': {file.name: str(file) for file in folder.glob('*.json')},
        }

    @cached_property
    def _tokenizer_folder(self) -> TemporaryDirectory[str]:
        folder = TemporaryDirectory(prefix='openlab-tokenizer-')
        self.tokenizer.save(folder.name)
        return folder

    def __len__(self) -> int:
        return len(self.conversations)

    def get_info(self, index: int) -> dict[str, Any]:
        """The messages of a conversation."""
        return {'messages': self.conversations[index]}

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, learned = self._tokens(self.conversations[index])
        tokens = torch.tensor(ids[: self.context_length + 1])
        targets = torch.where(torch.tensor(learned[: self.context_length + 1]), tokens, IGNORED)
        text = self.tokenizer.decode([t for t in targets[1:].tolist() if t != IGNORED])
        sample = DataSample(
            meta={'img_id': index, 'num_bytes': len(text.encode())},
            tokens=tokens[:-1], target_tokens=targets[1:],
        )  # fmt: skip
        return {'inputs': sample.tokens, 'sample': sample}

    def _tokens(self, messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
        """Ids of a rendered conversation, and which of them the assistant said."""
        ids: list[int] = []
        learned: list[bool] = []
        done = ''
        for number, message in enumerate(messages):
            if message['role'] != 'assistant':
                continue
            before = self.tokenizer.chat_prompt(messages[:number], add_generation_prompt=True)
            after = self.tokenizer.chat_prompt(messages[: number + 1], add_generation_prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise ValueError(
                    'the chat template renders earlier messages otherwise once later ones follow; '
                    'such a template cannot be trained on turn by turn'
                )
            for text, is_learned in ((before[len(done) :], False), (after[len(before) :], True)):
                piece = self.tokenizer.encode(text)
                ids += piece
                learned += [is_learned] * len(piece)
            done = after
        return ids, learned
