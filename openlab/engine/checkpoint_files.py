"""The files of a checkpoint: written whole or not at all, checked before they are trusted.

A checkpoint is a folder::

    iter_00000100/
      model.safetensors     weights; resolved config, classes, versions ... in its header
      ema.safetensors       averaged weights, if any
      trainer.pt            what resuming needs; loads with weights_only=True
      sharded/              parts of FSDP2 ranks (torch.distributed.checkpoint), if any
      meta.json             position in training; size and sha256 of every other file

``meta.json`` is written last, all files are synced, and the folder gets its name by one rename:
whatever moment a process dies at, a folder with a proper name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS = 'model.safetensors'
EMA = 'ema.safetensors'
TRAINER = 'trainer.pt'
SHARDED = 'sharded'
META = 'meta.json'
FOLDER = 'checkpoints'
FORMAT = 1
_LOADABLE = ('.safetensors', '.safetensors.index.json', '.pth', '.pt')
_TEMPORARY, _REPLACED, _TRASH = '.tmp-', '.old-', '.trash-'


class CheckpointError(ValueError):
    """A checkpoint cannot be written or trusted; the message names the file."""


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the name ``final`` when the block ends without error.

    Everything is on the disk before the rename and the rename before the return; after an error
    nothing is left. An existing ``final`` is replaced.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(_TEMPORARY + final.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob('*'):
            sync(file)
        sync(temporary)
        _take_place(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(temporary: Path, final: Path) -> None:
    old = final.with_name(_REPLACED + final.name)
    if final.exists():
        # A folder cannot be replaced in one step; recover_interrupted undoes a half-done one.
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    temporary.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a checkpoint so that it never looks like one that is merely damaged."""
    trash = folder.with_name(_TRASH + folder.name)
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash)


def recover_interrupted(parent: Path) -> None:
    """Clear away what a killed process left half done among the checkpoints in ``parent``."""
    for leftover in sorted(parent.glob('.*-*')) if parent.is_dir() else ():
        if leftover.name.startswith(_REPLACED):
            named = leftover.with_name(leftover.name.removeprefix(_REPLACED))
            if not named.exists():
                leftover.rename(named)
                continue
        if leftover.name.startswith((_REPLACED, _TEMPORARY, _TRASH)):
            shutil.rmtree(leftover, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the system put a file, or the entries of a folder, on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a small JSON file in one step: readers see the old text or the new one."""
    temporary = path.with_name(f'{_TEMPORARY}{path.name}')
    with temporary.open('w', encoding='utf-8') as file:
        json.dump(data, file, indent=1)
        file.write('\n')
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def digest(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    result = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def write_meta(folder: Path, position: Mapping[str, Any]) -> None:
    """Write ``meta.json``: the position and the size and sha256 of all files in ``folder``."""
    files = {
        str(file.relative_to(folder)): {'size': file.stat().st_size, 'sha256': digest(file)}
        for file in sorted(folder.rglob('*')) if file.is_file()
    }
    write_json(folder / META, {'format': FORMAT, **position, 'files': files})


def read_meta(folder: Path) -> dict[str, Any]:
    """Read ``meta.json``.

    Raises:
        CheckpointError: if it is missing or not what ``write_meta`` wrote.
    """
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(f'{path} is missing') from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    if not isinstance(meta, dict) or not isinstance(meta.get('files'), dict):
        raise CheckpointError(f'{path} lists no files')
    if meta.get('format', 0) > FORMAT:
        raise CheckpointError(
            f'{path} has format {meta["format"]}, this openlab reads up to {FORMAT}; update it')
    return meta


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against ``meta.json`` and return the latter.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or altered.
    """
    meta = read_meta(folder)
    for name, expected in meta['files'].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f'{file} is missing')
        size = file.stat().st_size
        if size != expected['size']:
            raise CheckpointError(f'{file} has {size} bytes instead of {expected["size"]}')
        if digest(file) != expected['sha256']:
            raise CheckpointError(f'{file} was altered: its sha256 is not the recorded one')
    return meta


def write_weights(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata as safetensors; a tensor with several names is stored once.

    Args:
        file: where to.
        state: contiguous or not, on any device.
        metadata: plain data; each value is stored as JSON in the header.
    """
    unique, shared = split_shared(state)
    tensors = {name: t.detach().cpu().contiguous() for name, t in unique.items()}
    header = {key: json.dumps(value) for key, value in metadata.items()}
    # 'format' is what other readers of safetensors look for, so it is no JSON.
    save_file(tensors, file, {**header, 'shared': json.dumps(shared), 'format': 'pt'})


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read tensors of a safetensors file; names that shared one tensor share it again.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        with safe_open(file, framework='pt') as content:
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            header = content.metadata() or {}
    except FileNotFoundError:
        raise
    except Exception as error:  # the library raises a type of its own for each kind of damage
        raise CheckpointError(f'{file} is no readable safetensors file: {error}') from error
    for alias, name in json.loads(header.get('shared', '{}')).items():
        state[alias] = state[name]
    return state


def read_metadata(source: Path) -> dict[str, Any]:
    """Metadata in the header of a safetensors file, or of the weights in a checkpoint folder."""
    file = source / WEIGHTS if source.is_dir() else source
    with safe_open(file, framework='pt') as content:
        header = content.metadata() or {}
    result = {}
    for key, text in header.items():
        try:
            result[key] = json.loads(text)
        except ValueError:  # files of other projects hold bare text
            result[key] = text
    return result


def split_shared(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Separate names of one and the same tensor, and copy tensors that merely overlap.

    Returns:
        The tensors to store, and the name under which each left-out name is found.
    """
    first: dict[tuple[Any, ...], str] = {}
    storages: set[tuple[str, int]] = set()
    unique: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        local = tensor.to_local() if hasattr(tensor, 'to_local') else tensor  # one of FSDP2
        if local.numel() == 0 or local.device.type == 'meta':
            unique[name] = tensor
            continue
        identity = (str(local.device), local.data_ptr(), local.dtype, tuple(tensor.shape),
                    local.stride())
        if identity in first:
            shared[name] = first[identity]
            continue
        first[identity] = name
        storage = (str(local.device), local.untyped_storage().data_ptr())
        unique[name] = tensor.detach().clone() if storage in storages else tensor
        storages.add(storage)
    return unique, shared


def write_trainer_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write what resuming needs, in a form that ``weights_only=True`` loads.

    Raises:
        TypeError: naming the key path of a value that is neither plain nor a tensor.
    """
    torch.save(plain(state), file)


def plain(value: Any, path: str = '') -> Any:
    """Copy nested plain data; dicts of any kind become ``dict``, tensors lose their graph.

    Raises:
        TypeError: naming the key path of anything else.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        result = {}
        for key, item in value.items():
            if type(key) not in (str, int, float, bool, tuple):
                raise TypeError(_not_plain(f'{path}: the key {key!r}', key))
            result[key] = plain(item, f'{path}.{key}' if path else str(key))
        return result
    if type(value) in (list, tuple, torch.Size):
        items = [plain(item, f'{path}[{i}]') for i, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    raise TypeError(_not_plain(path or 'the state', value))


def _not_plain(where: str, value: Any) -> str:
    kind = f'{type(value).__module__}.{type(value).__qualname__}'
    return (
        f'{where} is a {kind}: a checkpoint holds only tensors and plain types (None, bool, int, '
        'float, str, bytes, list, tuple, dict), so that loading it can run no code; change the '
        'state_dict() it comes from, for instance to float(x), x.tolist() or torch.as_tensor(x)')


def write_pointer(parent: Path, name: str, target: Path, **info: Any) -> None:
    """Let ``parent/name`` (``last``, ``best``) stand for the checkpoint ``target``."""
    write_json(parent / f'{name}.json', {'checkpoint': target.name, **info})


def read_pointer(parent: Path, name: str) -> dict[str, Any] | None:
    """What ``write_pointer`` wrote, or ``None``."""
    try:
        found = json.loads((parent / f'{name}.json').read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and 'checkpoint' in found else None


def checkpoint_folders(parent: Path) -> list[Path]:
    """Folders of ``parent`` that have the name of a checkpoint, in no particular order."""
    if not parent.is_dir():
        return []
    return [
        path for path in sorted(parent.iterdir())
        if path.is_dir() and path.name.startswith(('iter_', 'epoch_'))
    ]


def resolve_checkpoint(source: str | Path) -> Path:
    """Return the folder or file that ``source`` names.

    Args:
        source: a checkpoint folder, a file, a pointer (``work_dir/checkpoints/best``,
            ``.../last``), a work_dir (its last checkpoint).

    Raises:
        FileNotFoundError: saying what is there instead.
    """
    path = Path(source)
    if path.is_file() and path.suffix != '.json':
        return path
    if (path / META).exists() or (path / WEIGHTS).exists():
        return path
    name = path.stem if path.suffix == '.json' else path.name
    pointer = read_pointer(path.parent, name)
    if pointer is not None:
        return path.parent / pointer['checkpoint']
    if path.is_dir():
        parent = checkpoints_in(path)
        pointer = read_pointer(parent, 'last')
        if pointer is not None:
            return parent / pointer['checkpoint']
    raise FileNotFoundError(f'no checkpoint at {path}; {_zoo_hint(path)}{_what_is_near(path)}')


def _zoo_hint(path: Path) -> str:
    from openlab.zoo.index import has

    return f'the zoo has an entry of that name: zoo://{path}; ' if has(str(path)) else ''


def _what_is_near(path: Path) -> str:
    parent = path if path.is_dir() else path.parent
    parent = checkpoints_in(parent)
    names = [folder.name for folder in checkpoint_folders(parent)]
    names += [file.stem for file in sorted(parent.glob('*.json'))
              if read_pointer(parent, file.stem) is not None]
    if names:
        return f'{parent} holds {", ".join(names)}'
    accepted = (
        'give a checkpoint folder, a .safetensors, .pth or .pt file, or the work_dir of a run')
    if not path.is_dir():
        return accepted
    weights = sorted(file.name for file in path.iterdir() if file.name.endswith(_LOADABLE))
    found = f'in it is {weights[0]}, which can be given; ' if weights else ''
    return (f'the folder is there but has no {WEIGHTS} and no checkpoints of a run; '
            f'{found}{accepted}')


def checkpoints_in(work_dir: Path) -> Path:
    """The folder that holds the checkpoints of a run; itself where it is that folder."""
    return work_dir / FOLDER if (work_dir / FOLDER).is_dir() else work_dir
