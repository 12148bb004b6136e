"""Make a run ready to be given away: weights alone, what they are, and a card to read."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from openlab.algorithms.llm.causal_lm import CausalLM
from openlab.algorithms.llm.lora import LoRA
from openlab.config.nodes import ConfigDict
from openlab.config.resolve import build_on_meta
from openlab.engine.checkpoint_files import (
    EMA,
    FOLDER,
    META,
    WEIGHTS,
    CheckpointError,
    atomic_folder,
    read_metadata,
    read_pointer,
    resolve_checkpoint,
    write_weights,
)
from openlab.engine.loading import read_state
from openlab.utils.json_lines import is_number, read_rows
from openlab.utils.offline import OFFLINE_VARIABLE, is_offline
from openlab.zoo.bases import Base, base_of_entry, bases_of
from openlab.zoo.card import licence_chain, result_table
from openlab.zoo.download import file_hash

logger = logging.getLogger('openlab')
LOG = 'log.jsonl'
WEIGHTS_FILE = 'model.safetensors'
METAFILE = 'metafile.json'
CONFIG_FILE = 'config.json'
CARD = 'README.md'
NOT_PUBLISHED = 'not_published'  # stands for the folder of weights that stay where they are


# what a network has to say of an input
Gift = Literal['answers', 'features', 'text']


class PushError(OSError):
    """A folder could not be uploaded; it is still there."""


def publish(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    license_name: str = 'apache-2.0',
    data: Sequence[str] = (),
    base: str | None = None,
) -> Path:
    """Write the best checkpoint of a run, without the trainer's state, with metafile and card.

    Args:
        work_dir: folder of a run (its best checkpoint, else its last), a checkpoint of it, or
            weights in one.
        out: folder to write; by default ``published`` in the folder of the run. It must not
            exist.
        name: of the model; by default that of the experiment, else of the config.
        license_name: of the weights.
        data: names of the data that they learned from; by default the training data's class.
        base: entry of the zoo that the training started from, where the config does not tell: it
            names a file, say.

    Returns:
        The folder: ``model.safetensors``, ``config.json``, ``metafile.json`` and ``README.md``;
        with the tokenizer of a language model.

    Raises:
        FileExistsError: if ``out`` is there.
        CheckpointError: if the checkpoint does not say which config it was made with.
        ValueError: if the weights lie in no run, and ``out`` is not given.
    """
    checkpoint = _checkpoint(Path(work_dir))
    folder = Path(out) if out is not None else _run_of(checkpoint) / 'published'
    if folder.exists():
        raise FileExistsError(f'{folder} exists; remove it, or give another folder (--out)')
    metadata = read_metadata(checkpoint)
    config = metadata.get('config')
    if not config:
        raise CheckpointError(f'{checkpoint} does not say which config it was made with')
    bases = _bases(config, base)
    state, averaged, _ = read_state(checkpoint)
    averaged = averaged or checkpoint.name == EMA
    # where the run lay on its machine is no one's business
    config = {key: value for key, value in config.items() if key not in ('work_dir', 'resume')}
    config, not_published = _without_paths(config)
    metadata = {**metadata, 'config': config}
    with atomic_folder(folder) as temporary:
        write_weights(temporary / WEIGHTS_FILE, state, metadata)
        meta = _metafile(temporary / WEIGHTS_FILE, metadata, state, averaged, {
            'name': name or _name_of(metadata, checkpoint), 'license': license_name,
            'training_data': list(data) or _data_of(config),
            'bases': [{'name': base.name, 'setting': base.setting, 'in_zoo': bool(base.entry)}
                      for base in bases],
            'not_published': not_published,
            'results': _results(checkpoint, metadata)})
        for file in _folder_of(checkpoint).glob('tokenizer*.json'):
            shutil.copy(file, temporary)  # a language model speaks no other one's tokens
        (temporary / METAFILE).write_text(json.dumps(meta, indent=1) + '\n', 'utf-8')
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=1) + '\n', 'utf-8')
        (temporary / CARD).write_text(card_of_run(meta, bases), 'utf-8')
    return folder


def push(folder: Path, repo: str, *, is_public: bool = False) -> str:
    """Upload a published folder to a Hugging Face repository, made where it is missing.

    Returns:
        Address of the upload.

    Raises:
        ImportError: where huggingface_hub is not installed.
        PushError: if the hub does not take it, or cannot be reached; the folder stays.
    """
    later = f'hf upload {repo} {shlex.quote(str(folder))} .' + ('' if is_public else ' --private')
    kept = f'the model lies in {folder}; to upload it later: {later}'
    if is_offline():
        raise PushError(f'{repo}: not uploaded, for {OFFLINE_VARIABLE} is set; {kept}')
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError('--push needs huggingface_hub: pip install huggingface_hub; '
                          f'{kept}') from error
    api = HfApi()
    try:
        api.create_repo(repo, private=not is_public, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=str(folder),
                                     commit_message='Add the model'))
    except Exception as error:  # which library talks to the hub, and raises, changes by version
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip('.') if lines else type(error).__name__
        raise PushError(f'{repo} at {api.endpoint}: not uploaded ({reason}); {kept}') from error


def config_hash(config: Mapping[str, Any]) -> str:
    """The sha256 of a resolved config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def card_of_run(meta: Mapping[str, Any], bases: Sequence[Base] = ()) -> str:
    """The model card of a published run, as Markdown."""
    data = ''.join(f'\n  - {json.dumps(name)}' for name in meta['training_data'])
    settings = {key: meta.get(key) for key in ('openlab', 'torch', 'seed', 'git', 'config_sha256')}
    return '\n'.join([
        f'---\nlibrary_name: openlab\nlicense: {meta["license"]}'
        + (f'\ndatasets:{data}' if data else '') + '\n---\n',
        f'# {meta["name"]}\n',
        _about(meta),
        _how_to_use(meta['gives']),
        result_table(meta['results']),
        licence_chain(meta['license'], meta['training_data'], bases),
        _how_to_train(meta['not_published']),
        '\n'.join(f'* {key}: `{value}`' for key, value in settings.items() if value is not None),
        f'\n## Files\n\n* {WEIGHTS_FILE}: {meta["size"]:,} bytes, sha256 `{meta["sha256"]}`\n',
    ])


def _how_to_use(gives: Gift) -> str:
    if gives == 'text':
        return f'\n## Use\n\n```\nopenlab generate {WEIGHTS_FILE} PROMPT\n```\n'
    if gives == 'answers':
        return f'\n## Use\n\n```\nopenlab infer {WEIGHTS_FILE} IMAGE\n```\n'
    return (
        '\n## Use\n\nThe network gives features and no answer. Train a head on them, measure what '
        'they know, or search for like images:\n\n```\n'
        f'openlab train CONFIG --load-from {WEIGHTS_FILE} --replace-head\n'
        f'openlab probe {CONFIG_FILE} {WEIGHTS_FILE}\n'
        f'openlab infer {WEIGHTS_FILE} IMAGE --gallery FOLDER\n```\n')


def _how_to_train(not_published: Mapping[str, str]) -> str:
    """The command that trains again, and what it needs that was not given away."""
    edits, note = '', ''
    if not_published:
        edits = ' --set ' + ' '.join(f"'{key}=WEIGHTS'" for key in not_published)
        names = ', '.join(f'`{name}` (`{key}`)' for key, name in not_published.items())
        note = (f'\nThis needs weights that lay on the machine of the training and are not in this '
                f'folder: {names}. Without them nothing can be trained as these weights were, so '
                'that the config stops where none are given.\n')
    return f'\n## Reproduce\n\n```\nopenlab train {CONFIG_FILE}{edits}\n```\n{note}'


def _about(meta: Mapping[str, Any]) -> str:
    parts = [f'{meta["params"]:,} parameters'] if meta['params'] is not None else []
    parts += ['averaged weights'] if meta['averaged'] else []
    text = ', '.join([*parts, 'trained with openlab.'])
    return text[0].upper() + text[1:]


def _checkpoint(source: Path) -> Path:
    for parent in (source / 'checkpoints', source):
        if (parent / 'best.json').is_file():
            return resolve_checkpoint(parent / 'best')
    found = resolve_checkpoint(source)
    if found.is_file() and found.suffix != '.safetensors':
        raise CheckpointError(f'{found} is no checkpoint of openlab; openlab convert reads others')
    return found


def _bases(config: Mapping[str, Any], told: str | None) -> list[Base]:
    """What the weights were made from: by the config, and by whoever publishes them."""
    found = _with_ancestors(bases_of(config))
    if told is not None:
        base = base_of_entry(told)
        # It says what the file is that the training started from.
        found = [b for b in found if b.entry is not None or b.role != base.role]
        if base.name not in [b.name for b in found]:
            found.append(base)
    for unknown in (b for b in found if b.entry is None):
        logger.warning(
            '%s names %s, whose licence and training data the zoo does not know; so the card '
            'cannot say yes to commercial use. --base NAME says which entry the training started '
            'from', unknown.setting, unknown.source)
    return found


def _with_ancestors(bases: Sequence[Base], seen: frozenset[str] = frozenset()) -> list[Base]:
    """The bases, each followed by those of its own training as far as its checkpoint is here."""
    found: list[Base] = []
    for base in bases:
        found.append(base)
        if not base.is_local or base.source in seen:
            continue
        try:
            checkpoint = resolve_checkpoint(base.source.removeprefix('file://'))
        except FileNotFoundError:
            continue  # it is unknown all the same, which the card says
        if checkpoint.is_dir() or checkpoint.suffix == '.safetensors':
            inner = bases_of(read_metadata(checkpoint).get('config') or {})
            found += _with_ancestors([replace(b, steps=base.steps) for b in inner],
                                     seen | {base.source})
    return found


def _without_paths(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A config without the paths of weights on the machine that trained.

    Left out, the same command would silently train from random values, and a student without its
    teacher; so a name stands there that is found nowhere.

    Returns:
        The config, and the key paths that were changed with what the files are called.
    """
    changed = copy.deepcopy(dict(config))
    # a part reads its ``pretrained`` whenever it is built, for using these weights too
    local = [base for base in bases_of(config) if base.is_local and base.steps[-1] != 'pretrained']
    for base in local:
        node: Any = changed
        for step in base.steps[:-1]:
            node = node[step]
        node[base.steps[-1]] = f'{NOT_PUBLISHED}/{base.name}'
    return changed, {base.setting: base.name for base in local}


def _run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint, or weights in one, lies in.

    Raises:
        ValueError: if it lies in none.
    """
    parent = _folder_of(checkpoint).resolve().parent
    # trainings that began anew in the same folder set their predecessors aside as checkpoints.1
    if (_folder_of(checkpoint) / META).is_file() and parent.name.partition('.')[0] == FOLDER:
        return parent.parent
    raise ValueError(f'{checkpoint} lies in no run (WORK_DIR/{FOLDER}/...), whose folder could '
                     'take the result; say where to write it (--out)')


def _folder_of(checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def _results(checkpoint: Path, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measurements of these weights, by whatever recorded them: the log, the header, the best.

    Those of other iterations, or of averages that these weights are not, do not count.
    """
    folder = _folder_of(checkpoint)
    if checkpoint.name == WEIGHTS and (folder / EMA).is_file():
        return []  # validations saw the averaged weights beside them
    found = {('validation', key): value for key, value in _logged(folder, metadata).items()}
    metrics = metadata.get('metrics') or {}
    if metrics.get('iter', -1) == metadata.get('iter'):
        stage = 'test' if metrics.get('stage') == 'test' else 'validation'
        found |= {(stage, key): value for key, value in metrics.items()
                  if key not in ('stage', 'epoch', 'iter') and is_number(value)}
    best = read_pointer(folder.parent, 'best')
    if best and best['checkpoint'] == folder.name and 'value' in best:
        found['validation', best['metric']] = best['value']
    return [{'dataset': stage, 'metric': key, 'value': value}
            for (stage, key), value in found.items()]


def _logged(folder: Path, metadata: Mapping[str, Any]) -> dict[str, float]:
    """What validation of a checkpoint wrote into the log of its run, after it was saved."""
    log = folder.resolve().parent.parent / LOG
    # The log beside checkpoints that were set aside is that of a later training.
    if folder.resolve().parent.name != FOLDER or not log.is_file():
        return {}
    found: dict[str, float] = {}
    for row in read_rows(log):
        if row.get('iter') == metadata.get('iter'):
            found |= {key.removeprefix('val/'): value for key, value in row.items()
                      if key.startswith('val/') and is_number(value)}
    return found


def _metafile(file: Path, metadata: Mapping[str, Any], state: Mapping[str, Any], averaged: bool,
              given: Mapping[str, Any]) -> dict[str, Any]:
    config = metadata['config']
    versions = metadata.get('versions') or {}
    network = _network(config)
    return {
        **given,
        'params': None if network is None else _num_parameters(network, state),
        'gives': _gift_of(network),
        'averaged': averaged,
        'weights': [WEIGHTS_FILE], 'size': file.stat().st_size, 'sha256': file_hash(file),
        'classes': list(metadata.get('classes') or ()),
        'preprocessing': metadata.get('preprocessing'),
        'openlab': metadata.get('openlab'), 'torch': versions.get('torch'),
        'seed': metadata.get('seed'), 'git': metadata.get('git'),
        'config': CONFIG_FILE, 'config_sha256': config_hash(config),
    }


def _network(config: Mapping[str, Any]) -> nn.Module | None:
    """The network of a config without memory or weights, which tells what no state dict does.

    It is None, with a warning, where that cannot be built: the weights are worth giving away all
    the same.
    """
    try:
        return build_on_meta(ConfigDict(_without_downloads(config)))
    except Exception as error:  # whatever the parts of someone else's network raise
        logger.warning('parameters are not counted, for the network cannot be built on the meta '
                       'device: %s', error)
        return None


def _gift_of(network: nn.Module | None) -> Gift:
    if isinstance(network.base if isinstance(network, LoRA) else network, CausalLM):
        return 'text'
    return 'features' if getattr(network, 'gives_features', False) else 'answers'


def _num_parameters(network: nn.Module, state: Mapping[str, Any]) -> int:
    """Numbers that training learned; statistics and tables of the network are none."""
    return sum(state[name].numel() for name, _ in network.named_parameters() if name in state)


def _without_downloads(value: Any) -> Any:
    """A copy of a config whose parts fetch no weights."""
    if isinstance(value, Mapping):
        return {key: _without_downloads(item) for key, item in value.items()
                if key != 'pretrained'}
    return [_without_downloads(item) for item in value] if isinstance(value, list) else value


def _name_of(metadata: Mapping[str, Any], checkpoint: Path) -> str:
    """The experiment's name, else the config's, else that of the folder of the run."""
    # A config that a run or a publication saved is called config, which names nothing.
    stem = metadata.get('config_name')
    named = metadata['config'].get('experiment_name') or (stem if stem != 'config' else None)
    folder = _folder_of(checkpoint).resolve()
    return str(named or (_run_of(checkpoint) if (folder / META).is_file() else folder).name)


def _data_of(config: Mapping[str, Any]) -> list[str]:
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    kind = dataset.get('type') if isinstance(dataset, Mapping) else None
    return [str(kind).rpartition('.')[2]] if kind else []
