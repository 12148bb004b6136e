"""Weights that a training began with or learned from, as its config names them.

Their licence and their training data belong to whatever was made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from openlab.zoo.index import Row, entry, find, rows

Steps = tuple[str | int, ...]
# Inside of a model, other addresses may be those of vocabularies and the like.
_OF_WEIGHTS = ('zoo', 'timm', 'torchvision', 'hf', 'http', 'https')
# What a part that loads weights by itself (``pretrained``) takes its ``name`` from.
_PRETRAINED = {'TimmBackbone': 'timm', 'TorchvisionBackbone': 'torchvision',
               'TransformersBackbone': 'hf'}


@dataclass(frozen=True)
class Base:
    """Weights that others were made from.

    Attributes:
        source: an address, or a path of the machine that trained.
        steps: keys that lead to it in the config; empty where someone told it besides.
        entry: of the zoo; None where the index does not know these weights.
    """

    source: str
    steps: Steps = ()
    entry: Mapping[str, Any] | None = None

    @property
    def setting(self) -> str:
        """The key path in the config, as the command line writes it."""
        text = ''.join(f'[{s}]' if isinstance(s, int) else f'.{s}' for s in self.steps)
        return text.removeprefix('.')

    @property
    def is_local(self) -> bool:
        """Whether only the machine that trained has it at this place."""
        return '://' not in self.source or self.source.startswith('file://')

    @property
    def name(self) -> str:
        """What to call it where others read it: of a path no more than its end."""
        if self.entry is not None:
            return str(self.entry['name'])
        return PurePath(self.source).name if self.is_local else self.source

    @property
    def role(self) -> str:
        """What it was to the training."""
        return 'taught by' if 'teacher' in self.setting else 'started from'


def base_of_entry(name: str) -> Base:
    """An entry of the zoo as a base.

    Raises:
        ValueError: if there is no such entry.
    """
    model = entry(name)
    return Base(f'zoo://{model["name"]}', (), model)


def bases_of(config: Mapping[str, Any]) -> list[Base]:
    """The weights that a config names: ``load_from``, those of teachers, pretrained parts."""
    load = config.get('load_from')
    found: list[tuple[Steps, str]] = []
    if isinstance(load, Mapping) and load.get('source'):
        found.append((('load_from', 'source'), str(load['source'])))
    elif isinstance(load, str) and load:
        found.append((('load_from',), load))
    found += _in_model(config.get('model'), ('model',))
    return [Base(source, steps, _entry_of(source)) for steps, source in found]


def _in_model(value: Any, steps: Steps) -> Iterator[tuple[Steps, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == 'pretrained' and item:
                yield (*steps, key), _pretrained(value)
            elif isinstance(item, str) and _names_weights(key, item):
                yield (*steps, key), item
            else:
                yield from _in_model(item, (*steps, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _in_model(item, (*steps, number))


def _names_weights(key: str, text: str) -> bool:
    is_address = text.partition('://')[0] in _OF_WEIGHTS and '://' in text
    return key.endswith('_weights') or (is_address and 'tokenizer' not in key)


def _pretrained(part: Mapping[str, Any]) -> str:
    kind, given = str(part.get('type')).rpartition('.')[2], part['pretrained']
    scheme = _PRETRAINED.get(kind)
    if scheme == 'torchvision' and isinstance(given, str):
        return f'torchvision://{part.get("name")}.{given}'
    if isinstance(given, str):
        return given
    return f'{scheme}://{part.get("name")}' if scheme else f'pretrained weights of {kind}'


def _entry_of(source: str) -> dict[str, Any] | None:
    """The entry of the index that an address means; None where that is not beyond doubt."""
    scheme, _, name = source.partition('://')
    if scheme == 'zoo':
        return entry(name) if _is_one(name) else None
    if scheme == 'hf':
        name = '/'.join(name.partition('@')[0].split('/')[:2])
        wanted = [f'transformers/{name}', name]
    elif scheme in ('timm', 'torchvision'):
        wanted = [f'{scheme}/{name}']
    else:
        return None
    # Without a tag it is the library that chooses; where all have the same terms, no matter which.
    meant = [row for row in rows() for full in wanted
             if row.name == full or row.name.startswith(f'{full}.')]
    exact = [row for row in meant if row.name in wanted]
    meant = exact or meant
    return entry(meant[0].name) if meant and _agree(meant) else None


def _is_one(name: str) -> bool:
    try:
        find(name)
    except ValueError:
        return False
    return True


def _agree(models: Sequence[Row]) -> bool:
    return len({(row.license, row.training_data) for row in models}) == 1
