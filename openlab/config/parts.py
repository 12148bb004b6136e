"""Find a part of a model by the name that people use: a class, ``ConvNeXt-T``, or a zoo entry.

Published sizes need no list of their own. The shipped configs are named after them
(``convnext_tiny_300e_imagenet``), and a backbone's file has a table of the sizes that its
constructor knows; names are compared without case, hyphens and the difference of ``T`` and
``tiny``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from openlab.config.build import parameter_hints, resolve_type, signature_of
from openlab.config.errors import ConfigError
from openlab.config.load import load_config, shipped_configs
from openlab.config.nodes import ConfigDict, LazyName, clone
from openlab.config.typecheck import options
from openlab.registry import MODELS, Entry
from openlab.shipped import shipped_root

_PACKAGES = {'backbones': 'backbone', 'necks': 'neck', 'losses': 'loss', 'heads': 'head'}
_ENDINGS = {'Head': 'head', 'Loss': 'loss', 'Assigner': 'assigner', 'Sampler': 'sampler',
            'Preprocessor': 'preprocessor', 'Generator': 'anchor generator',
            'Decoder': 'decoder', 'Neck': 'neck', 'Algorithm': 'algorithm'}
_SLOTS = {'loss': 'loss', 'assigner': 'assigner', 'sampler': 'sampler', 'neck': 'neck',
          'head': 'head', 'backbone': 'backbone', 'preprocessor': 'preprocessor',
          'anchors': 'anchor generator'}
_LETTERS = {'a': 'atto', 'f': 'femto', 'p': 'pico', 'n': 'nano', 't': 'tiny', 'ti': 'tiny',
            's': 'small', 'm': 'medium', 'b': 'base', 'l': 'large', 'xl': 'xlarge', 'h': 'huge',
            'g': 'giant'}
_SCHEDULE = re.compile(r'_\d+[ek]_\w+$')
_PATCH = re.compile(r'(?P<rest>.+?)[-_/]?p?(?P<patch>\d+)$')
_SIZE_ARGUMENTS = ('size', 'depth', 'width')


@dataclass(frozen=True)
class Part:
    """A component found by name.

    Attributes:
        cfg: it, as a config writes it.
        weights: where published weights of it lie, if the name was that of weights.
        preprocessing: how these weights want images prepared, where the zoo tells it.
    """

    cfg: ConfigDict
    weights: str | None = None
    preprocessing: dict[str, Any] | None = None


def kind_of(module: str, name: str) -> str:
    """What a class is: a backbone, a neck, a loss, a head, an assigner ...

    The folder tells for parts that are grouped by kind, the end of the name for others.
    """
    folder = [*module.split('.'), ''][1] if module.startswith('openlab.') else ''
    if folder in _PACKAGES:
        return _kind_of_backbone(module, name) if folder == 'backbones' else _PACKAGES[folder]
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    return 'algorithm' if folder == 'algorithms' else 'layer' if folder == 'layers' else 'part'


def _kind_of_backbone(module: str, name: str) -> str:
    """A network of images, one of texts, or a neck that stands beside its one backbone."""
    target = getattr(importlib.import_module(module), name)
    if 'vocab_size' in signature_of(target).parameters:
        return 'text backbone'
    takes = parameter_hints(target).get('in_channels', int)
    return 'backbone' if any(option is int for option in options(takes)) else 'neck'


def kind_at(key: str, old: Any) -> str:
    """What belongs at the key of that name, where ``old`` (or nothing) stands now."""
    if isinstance(old, Mapping) and 'type' in old:
        target = resolve_type(old['type'], MODELS)
        kind = kind_of(getattr(target, '__module__', ''), getattr(target, '__name__', ''))
        if kind not in ('part', 'layer'):
            return kind
    return next((kind for word, kind in _SLOTS.items() if word in key), 'part')


def find_part(name: str, kind: str, where: str) -> Part:
    """Return the component that a name means.

    Args:
        name: class, published size or zoo entry.
        kind: what is accepted (see ``kind_of``).
        where: the edit, for messages.

    Raises:
        ConfigError: if there is none, or it is of another kind.
    """
    if name in MODELS.entries() or name in MODELS._module_dict or _is_dotted(name):
        target = resolve_type(name, MODELS)
        found = kind_of(target.__module__, target.__name__)
        if found != kind and 'part' not in (found, kind):
            raise ConfigError(
                f'{where}: {_a(kind)} belongs there (such as {", ".join(_examples(kind))}), and '
                f'{name} is {_a(found)}')
        return Part(ConfigDict(type=LazyName(f'{target.__module__}.{target.__name__}')))
    if kind == 'backbone':
        part = _zoo_backbone(name) or _published_backbone(name)
        if part is not None:
            return part
    near = _near(name, kind)
    meant = f'; did you mean {" or ".join(near)}?' if near else ''
    raise ConfigError(f'{where}: no {kind} named {name!r}{meant}')


def sizes_of(target: Any) -> tuple[str, tuple[Any, ...]]:
    """The argument that sets the size of a backbone, and its published values.

    An annotation may list them (``Literal``); otherwise it is that table in the class's file
    which knows the default.

    Returns:
        The name of the argument and its values; an empty name where a class has one size.
    """
    parameters = signature_of(target).parameters
    for argument in _SIZE_ARGUMENTS:
        if argument not in parameters:
            continue
        for option in options(parameter_hints(target).get(argument)):
            if get_origin(option) is Literal:
                return argument, get_args(option)
        default = parameters[argument].default
        for table in vars(inspect.getmodule(target)).values():
            if isinstance(table, dict) and not isinstance(default, type) and default in table:
                return argument, tuple(table)
    return '', ()


def backbone_classes() -> dict[str, Entry]:
    """Every registered backbone that takes images, by name."""
    return {name: entry for name, entry in sorted(MODELS.entries().items())
            if kind_of(entry.module, name) == 'backbone' and name != 'DenseBackbone'}


@cache
def published_names() -> dict[str, str]:
    """Names of architectures in shipped configs (``convnext_tiny``), with the best config each.

    A config of classification is better than one of another task, and ImageNet than small
    images, for which networks are changed.
    """
    found: dict[str, str] = {}

    def rank(config: str) -> tuple[bool, bool, str]:
        return not config.startswith('classification/'), not config.endswith('imagenet'), config

    for config in sorted(shipped_configs(), key=rank):
        task, _, rest = config.partition('/')
        folder, _, stem = rest.partition('/')
        if task in ('quickstart', 'language') or not _SCHEDULE.search(stem):
            continue
        stem = _SCHEDULE.sub('', stem)
        if task != 'classification':
            stem = stem.removeprefix(f'{folder}_')
        found.setdefault(stem, config)
    return found


def _published_backbone(name: str) -> Part | None:
    by_key = {_key(n): config for n, config in reversed(published_names().items())}
    patch = _PATCH.fullmatch(name)
    for spelling, extra in ((name, {}), *(
        [(patch['rest'], {'patch_size': int(patch['patch'])})] if patch else []
    )):
        for key in _spellings(spelling):
            cfg = _backbone_of(by_key[key]) if key in by_key else None
            cfg = cfg or _by_size(key, by_key)
            if cfg is None:
                continue
            known = _arguments(*cfg['type'].dotted_path.rpartition('.')[::2])
            if set(extra) <= set(known):
                cfg.update(extra)
                return Part(cfg)
    return None


def _backbone_of(config: str, overrides: tuple[str, ...] = ()) -> ConfigDict | None:
    """The backbone that a shipped config has, with its class imported lazily."""
    cfg = load_config(shipped_root() / 'configs' / f'{config.removesuffix(".py")}.py', overrides)
    backbone = clone(cfg.get('model', {}).get('backbone'))
    if not isinstance(backbone, Mapping) or 'type' not in backbone:
        return None
    target = resolve_type(backbone['type'], MODELS)
    if kind_of(target.__module__, target.__name__) != 'backbone':
        return None
    path = f'{target.__module__}.{target.__name__}'
    return ConfigDict({**backbone, 'type': LazyName(path)})


def _by_size(key: str, by_key: Mapping[str, str]) -> ConfigDict | None:
    """A size that no shipped config has: ``swinlarge`` from the family of ``swintiny``."""
    for name, entry in MODELS.entries().items():
        if key.startswith(_key(name)) and kind_of(entry.module, name) == 'backbone':
            argument, sizes = sizes_of(MODELS.get(name))
            for size in sizes:
                if key == _key(f'{name}{size}'):
                    return ConfigDict({'type': LazyName(f'{entry.module}.{name}'), argument: size})
    for relative in sorted(by_key, key=lambda k: -_common_start(k, key))[:4]:
        if _common_start(relative, key) < 3:
            break
        cfg = _backbone_of(by_key[relative])
        if cfg is None:
            continue
        argument, sizes = sizes_of(resolve_type(cfg['type'], MODELS))
        family = relative.removesuffix(_key(str(cfg.get(argument, ''))))
        for size in sizes:
            if family != relative and key == f'{family}{_key(str(size))}':
                cfg[argument] = size
                return cfg
    return None


def _zoo_backbone(name: str) -> Part | None:
    """The backbone of an entry of the zoo that was proven to fit a config of ours."""
    scheme, is_address, rest = name.rpartition('://')
    wanted = rest if scheme in ('', 'zoo') else f'{scheme}/{rest}'
    if is_address and scheme not in ('zoo', 'torchvision', 'timm'):
        return None
    record = _checks().get(wanted)
    if record is None and scheme in ('', 'zoo'):
        found = [n for n in _checks() if n.partition('/')[2] == wanted]
        if len(found) > 1:
            raise ConfigError(f'{name!r} names several entries of the zoo: {", ".join(found)}')
        record = _checks()[found[0]] if found else None
        wanted = found[0] if found else wanted
    if record is None and is_address:
        found = [n for n in _checks() if n.startswith(f'{wanted}.')]
        record = _checks()[found[0]] if found else None
        wanted = found[0] if found else wanted
    if record is None:
        return None
    cfg = _backbone_of(record['config'], tuple(record.get('overrides', ())))
    weights = f'zoo://{wanted}' if scheme in ('', 'zoo') else name
    return None if cfg is None else Part(cfg, weights, _preprocessing(wanted))


def _preprocessing(entry: str) -> dict[str, Any] | None:
    """What the zoo says of an entry's images."""
    source, _, name = entry.partition('/')
    for file in sorted((shipped_root() / 'model_zoo' / source).glob('*.json')):
        text = file.read_text('utf-8')
        if f'"name": "{name}"' in text:  # reading is fast, parsing is not
            family = json.loads(text)
            model = next(m for m in family['models'] if m['name'] == name)
            return model.get('preprocessing') or family.get('preprocessing')
    return None


@cache
def _checks() -> dict[str, Any]:
    file = shipped_root() / 'model_zoo' / 'checks.json'
    return json.loads(file.read_text('utf-8'))['checks'] if file.is_file() else {}


def _near(name: str, kind: str) -> list[str]:
    known = {_key(n): n for n, e in MODELS.entries().items() if kind_of(e.module, n) == kind}
    if kind == 'backbone':
        known |= {_key(n): n for n in published_names()}
    keys: list[str] = []
    for key in _spellings(name):
        keys += [k for k in known if k.startswith(key)]
        keys += difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    return [known[key] for key in dict.fromkeys(keys)][:3]


def _examples(kind: str) -> list[str]:
    names = [n for n, e in sorted(MODELS.entries().items()) if kind_of(e.module, n) == kind]
    return ['ResNet-50', 'ConvNeXt-T', *names[:1]] if kind == 'backbone' else names[:4]


def _common_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _key(name: str) -> str:
    return re.sub(r'[^a-z0-9]', '', name.lower())


def _spellings(name: str) -> Iterator[str]:
    """Keys that a name may have, single letters for sizes spelled out last."""
    words = [w for w in re.split(r'[^a-z0-9.]+', name.lower()) if w]
    choices = [[w, _LETTERS[w]] if w in _LETTERS else [w] for w in words]
    yield from dict.fromkeys(_key(''.join(chosen)) for chosen in itertools.product(*choices))


def _arguments(module: str, name: str) -> tuple[str, ...]:
    return tuple(signature_of(getattr(importlib.import_module(module), name)).parameters)


def _is_dotted(name: str) -> bool:
    return re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)+', name) is not None and (
        importlib.util.find_spec(name.partition('.')[0]) is not None)


def _a(kind: str) -> str:
    return f'{"an" if kind[0] in "aeiou" else "a"} {kind}'
