"""Save a training so that it can go on bit for bit, and find the newest intact save.

The way of a save: ``collect`` takes everything from a runner (all ranks take part), ``snapshot``
copies it to host memory, ``write`` puts it on disk. An asynchronous save returns after the
snapshot; the training may then change its tensors while a thread writes.
"""

from __future__ import annotations

import functools
import logging
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import openlab
from openlab import device as chips
from openlab.engine import distributed
from openlab.engine import strategy as strategies
from openlab.engine.checkpoint_files import (
    EMA,
    SHARDED,
    TRAINER,
    WEIGHTS,
    CheckpointError,
    atomic_folder,
    checkpoint_folders,
    checkpoints_in,
    plain,
    read_meta,
    read_metadata,
    recover_interrupted,
    resolve_checkpoint,
    split_shared,
    verify_checkpoint,
    write_meta,
    write_pointer,
    write_trainer_state,
    write_weights,
)
from openlab.engine.checks import metainfo_of
from openlab.engine.loading import LoadReport, load_weights, tensors_of

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

__all__ = [
    'AsyncSaver', 'CheckpointError', 'CheckpointParts', 'LoadReport', 'collect', 'find_resumable',
    'load_trainer_state', 'load_weights', 'read_metadata', 'resolve_checkpoint', 'resume',
    'save_checkpoint', 'verify_checkpoint', 'write_pointer',
]
logger = logging.getLogger('openlab')


@dataclass
class CheckpointParts:
    """Everything that goes into one checkpoint.

    Attributes:
        model: weights by name.
        trainer: state that resuming needs, tensors and plain types; ``None`` for weights alone.
        ema: averaged weights by name.
        metadata: plain data for the header of the weights: config, classes, versions ...
        position: ``{'epoch': ..., 'iter': ...}``, finished ones.
        assets: files that the weights are of no use without, such as a tokenizer's, by the name
            they get in the checkpoint.
        write_shards: on several sharded ranks, what each rank runs to write its part.
    """

    model: Mapping[str, Tensor]
    trainer: Mapping[str, Any] | None = None
    ema: Mapping[str, Tensor] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    position: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
    write_shards: Callable[[Path], None] | None = None


class HostBuffers:
    """Memory into which snapshots are copied, kept from one save to the next.

    Fresh memory costs more (page by page) than the copy itself, so the buffers stay: as much host
    memory as weights, averaged weights and optimizer state together.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def snapshot(self, parts: CheckpointParts) -> CheckpointParts:
        """Copy all tensors of ``parts`` to host memory; returns when the copies are complete."""
        model, shared = split_shared(parts.model)
        copied = self._copy(model, 'model')
        copied.update({alias: copied[name] for alias, name in shared.items()})
        ema = None
        if parts.ema is not None:
            unique, shared = split_shared(parts.ema)
            ema = self._copy(unique, 'ema')
            ema.update({alias: ema[name] for alias, name in shared.items()})
        trainer = None if parts.trainer is None else self._copy(plain(parts.trainer), 'trainer')
        chips.synchronize()
        return replace(parts, model=copied, ema=ema, trainer=trainer)

    def _copy(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value, path)
        if isinstance(value, Mapping):
            return {key: self._copy(item, f'{path}.{key}') for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copy(v, f'{path}[{i}]') for i, v in enumerate(value))
        return value

    def _copy_tensor(self, tensor: Tensor, path: str) -> Tensor:
        tensor = tensor.detach()
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type != 'cpu' and chips.supports_pin_memory(tensor.device)
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[path] = buffer
        return buffer.copy_(tensor, non_blocking=True)


class AsyncSaver:
    """Writes in a thread, one save at a time; an error surfaces at the next call.

    The thread is not a daemon: a process that exits normally, by an exception or by
    ``sys.exit`` first finishes the save it has begun.
    """

    def __init__(self) -> None:
        self.buffers = HostBuffers()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Run ``write`` in the background, after waiting for the one before."""
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(write,), name='openlab-checkpoint', daemon=False)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: if the last save failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error of a save that failed since the last call, without waiting."""
        error, self._error = self._error, None
        if error is not None:
            raise CheckpointError(f'saving a checkpoint failed: {error}') from error

    @property
    def busy(self) -> bool:
        """Whether a save is being written now."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error


_saver = AsyncSaver()


def save_checkpoint(
    source: Runner | CheckpointParts,
    folder: str | Path,
    *,
    blocking: bool = True,
    saver: AsyncSaver | None = None,
    then: Callable[[Path], None] | None = None,
) -> Path:
    """Write a checkpoint; on several ranks every rank must call this.

    Args:
        source: a runner, or the parts to save.
        folder: name of the checkpoint's folder, such as ``work_dir/checkpoints/iter_00000100``;
            an existing one is replaced.
        blocking: return when it is on disk; otherwise once its tensors are copied.
        saver: runs the background save and keeps its buffers; by default one for the process.
        then: called with the folder once it is complete (pointers, clearing of old ones), on
            rank 0, in the thread that wrote.

    Returns:
        ``folder``.

    Raises:
        CheckpointError: if an earlier asynchronous save failed.
        TypeError: if the state of something is not plain; the message names its key path.
    """
    folder = Path(folder)
    saver = saver or _saver
    saver.wait()
    parts = source if isinstance(source, CheckpointParts) else collect(source)
    if parts.write_shards is not None:
        _write_sharded(parts, folder, then)
        return folder
    if not distributed.is_main_process():
        return folder
    if blocking:
        _write(parts, folder, then)
    else:
        snapshot = saver.buffers.snapshot(parts)
        saver.submit(lambda: _write(snapshot, folder, then))
    return folder


def _write(
    parts: CheckpointParts, folder: Path, then: Callable[[Path], None] | None
) -> None:
    with atomic_folder(folder) as temporary:
        _write_files(parts, temporary)
    if then is not None:
        then(folder)


def _write_files(parts: CheckpointParts, folder: Path) -> None:
    write_weights(folder / WEIGHTS, parts.model, parts.metadata)
    if parts.ema is not None:
        write_weights(folder / EMA, parts.ema, parts.metadata)
    if parts.trainer is not None:
        write_trainer_state(folder / TRAINER, parts.trainer)
    for name, file in parts.assets.items():
        shutil.copyfile(file, folder / name)
    write_meta(folder, parts.position)


def _write_sharded(
    parts: CheckpointParts, folder: Path, then: Callable[[Path], None] | None
) -> None:
    """All ranks write their shards into the folder that rank 0 makes, completes and names."""
    assert parts.write_shards is not None
    if distributed.is_main_process():
        with atomic_folder(folder) as temporary:
            distributed.broadcast_object(str(temporary))
            parts.write_shards(temporary)
            distributed.barrier()
            _write_files(parts, temporary)
        if then is not None:
            then(folder)
    else:
        parts.write_shards(Path(distributed.broadcast_object('')))
        distributed.barrier()
    distributed.barrier()


def find_resumable(work_dir: str | Path) -> Path | None:
    """Return the newest intact checkpoint of a run, or ``None`` if there is none.

    Damaged ones are named in a warning and passed over; leftovers of a killed save are cleared.

    Args:
        work_dir: folder of the run, or its ``checkpoints`` folder.
    """
    # One rank reads and checks every byte; the others take its word.
    found: str | None = None
    if distributed.is_main_process():
        newest = _newest_intact(checkpoints_in(Path(work_dir)))
        found = None if newest is None else str(newest)
    found = distributed.broadcast_object(found)
    return None if found is None else Path(found)


def _newest_intact(parent: Path) -> Path | None:
    recover_interrupted(parent)
    positions: list[tuple[int, Path]] = []
    for folder in checkpoint_folders(parent):
        try:
            positions.append((int(read_meta(folder).get('iter', 0)), folder))
        except CheckpointError as error:
            logger.warning('skipping the damaged checkpoint %s: %s', folder.name, error)
    for _, folder in sorted(positions, reverse=True):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            logger.warning('skipping the damaged checkpoint %s: %s', folder.name, error)
            continue
        if (folder / TRAINER).exists():
            return folder
    return None


def load_trainer_state(path: str | Path) -> dict[str, Any]:
    """Read what resuming needs from a checkpoint folder, onto the CPU; runs no code from it.

    Raises:
        CheckpointError: if the checkpoint holds no such state or the file is damaged.
    """
    file = resolve_checkpoint(path) / TRAINER
    if not file.is_file():
        raise CheckpointError(
            f'{file} is missing: this checkpoint holds weights only; to start a new training from '
            'them use load_from instead of resume')
    try:
        state = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:
        raise CheckpointError(f'{file} cannot be read: {error}') from error
    return dict(state)


def collect(runner: Runner) -> CheckpointParts:
    """Take everything a checkpoint holds from a runner; every rank must call this."""
    model = runner.unwrapped_model
    weights: Mapping[str, Any] = model.state_dict()
    averaged = _averaged_weights(runner)
    state = dict(runner.state_dict())
    write_shards = None
    if _is_sharded(runner):
        optimizer = runner.optim_wrapper.optimizer
        weights = strategies.full_state(weights)
        averaged = None if averaged is None else strategies.full_state(averaged)
        # its tensors are in the shards
        state['optim_wrapper'] = {**state['optim_wrapper'], 'optimizer': None}
        write_shards = functools.partial(strategies.write_shards, model=model, optimizer=optimizer)
    position = {key: state['loop'][key] for key in ('epoch', 'iter')}
    return CheckpointParts(
        model=tensors_of(weights),
        trainer={**position, 'world_size': distributed.world_size(), 'runner': state},
        ema=averaged,
        metadata={**describe_run(runner), **position},
        position=position,
        assets={k: Path(v) for k, v in _dataset_meta(runner).get('asset_files', {}).items()},
        write_shards=write_shards,
    )


def _is_sharded(runner: Runner) -> bool:
    return bool(getattr(getattr(runner, 'strategy', None), 'sharded', False))


def resume(runner: Runner, source: str | Path) -> Path:
    """Put a runner, built and ready to train, where a checkpoint stands.

    Args:
        runner: its model and everything that ``runner.state_dict`` covers are overwritten.
        source: a checkpoint folder, a pointer or a work_dir.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: if the checkpoint is damaged or holds weights only.
        LoadError: if its weights are not those of this model.
    """
    folder = resolve_checkpoint(source)
    if not folder.is_dir():
        raise CheckpointError(
            f'{folder} holds weights only; give it as load_from to start a training from it')
    if distributed.is_main_process():
        verify_checkpoint(folder)
    state = dict(load_trainer_state(folder)['runner'])
    load_weights(runner.unwrapped_model, folder, ema=False)
    _resume_optimizer(runner, folder, state)
    runner.load_state_dict(state)
    return folder


def _resume_optimizer(runner: Runner, folder: Path, state: dict[str, Any]) -> None:
    """Where shards are read or written, let ``state`` hold this rank's part of the optimizer."""
    model, optimizer = runner.unwrapped_model, runner.optim_wrapper.optimizer
    if (folder / SHARDED).is_dir():
        strategies.read_shards(folder, model, optimizer)
    elif _is_sharded(runner):
        strategies.spread_optimizer_state(model, optimizer, state['optim_wrapper']['optimizer'])
    else:
        return
    state['optim_wrapper'] = {**state['optim_wrapper'], 'optimizer': optimizer.state_dict()}


def _averaged_weights(runner: Runner) -> Mapping[str, Tensor] | None:
    for hook in runner.hooks:
        give = getattr(hook, 'averaged_state_dict', None)
        if give is not None:
            return give(runner)
    return None


def describe_run(runner: Runner) -> dict[str, Any]:
    """Plain data that makes weights usable on their own: config, classes, versions ..."""
    cfg: Any = getattr(runner, 'cfg', None)
    config = cfg.to_plain() if hasattr(cfg, 'to_plain') else None
    meta = _dataset_meta(runner)
    return {
        'openlab': openlab.__version__,
        'config': config,
        'config_name': Path(getattr(cfg, 'filename', None) or '').stem or None,
        'classes': list(meta.get('classes', ())),
        'category_ids': meta.get('category_ids'),
        'preprocessing': _preprocessing(config),
        'versions': versions(),
        'git': git_state(),
        # of the last validation, which may be older than these weights: see its 'iter'
        'metrics': next(iter(getattr(runner, 'metrics_history', [])[-1:]), None),
        'seed': getattr(runner, 'seed', None),
        'saved_at': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    }


def _dataset_meta(runner: Runner) -> Mapping[str, Any]:
    return metainfo_of(getattr(runner, 'train_dataloader', None))


def _preprocessing(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an image goes through before the network: transforms of evaluation, preprocessor."""
    if not config:
        return None
    loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return {
        'pipeline': dataset.get('pipeline'),
        'preprocessor': (config.get('model') or {}).get('preprocessor'),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {'python': platform.python_version()}
    for name in ('torch', 'torchvision', 'numpy', 'mmengine', 'safetensors'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit of the current folder's repository and whether files differ from it."""
    try:
        commit = _git('rev-parse', 'HEAD')
        return {'commit': commit, 'dirty': bool(_git('status', '--porcelain', '-uno'))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ['git', *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
