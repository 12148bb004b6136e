"""Batches that do not depend on how many workers or processes made them."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset

from openlab.config.build import BuildError, build
from openlab.data.collate import collate as default_collate
from openlab.data.errors import DataError, FailedItem
from openlab.data.paths import relative_to
from openlab.data.samplers import DefaultSampler, Draw, Sampler
from openlab.data.seeding import mix, preserve_random_state, reseed
from openlab.registry import DATASETS, SAMPLERS, import_object

OnError = Literal['raise', 'skip']
_MAX_TRIES = 100
YIELD = 15  # how nice workers are to training on the same cores, of 19
_logger = logging.getLogger('openlab')


class DataLoader(TorchDataLoader):
    """torch's loader, with a seed for every item, clear errors and a start inside an epoch.

    With ``on_error='skip'`` an item whose file or annotation is unusable is skipped: a shuffling
    sampler takes another item in its place (drawn from the item's own random numbers, so the
    same one in every run), any other leaves it out, so that evaluation counts nothing twice.
    ``skipped`` lists index and reason. Errors of code, as opposed to data, are always raised.

    Args:
        dataset: what ``build`` made of ``dataset=dict(...)``.
        sampler: the order; by default ``DefaultSampler`` without shuffling.
        batch_size: items in a batch, for each process.
        num_workers: processes that make items; by default one for each core this process may
            use, less one for training itself, at most 8. 0 makes them in the training process.
        collate: function from a list of items to a batch, or its dotted path.
        drop_last: leave out the last batch where it would be smaller.
        pin_memory: stage batches in page-locked memory; by default where there is an
            accelerator.
        persistent_workers: keep workers between epochs.
        prefetch_factor: batches that each worker makes ahead.
        timeout: seconds to wait for a worker before an error; 0 waits for ever.
        on_error: ``raise`` or ``skip``, see above.
        seed: start of the random numbers of all items.
        worker_threads: threads of torch inside each worker.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler | None = None, batch_size: int = 1,
                 num_workers: int | None = None,
                 collate: Callable[[list[Any]], Any] | str = default_collate,
                 drop_last: bool = False, pin_memory: bool | None = None,
                 persistent_workers: bool = True, prefetch_factor: int | None = None,
                 timeout: float = 0, on_error: OnError = 'raise', seed: int = 0,
                 worker_threads: int = 1):
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size must be a positive whole number, got {batch_size!r}')
        sized: Any = dataset
        sampler = DefaultSampler(sized, shuffle=False) if sampler is None else sampler
        if hasattr(sampler, 'set_batch_size'):
            sampler.set_batch_size(batch_size)
        workers = default_num_workers(sampler.world_size) if num_workers is None else num_workers
        if pin_memory is None:
            pin_memory = torch.accelerator.is_available()
        join = import_object(collate) if isinstance(collate, str) else collate
        items = ItemMaker(dataset, seed, on_error, replace=sampler.shuffle)
        super().__init__(
            items, batch_size=batch_size, sampler=sampler, num_workers=workers,
            collate_fn=CollateMade(join), drop_last=drop_last, pin_memory=pin_memory,
            persistent_workers=persistent_workers and workers > 0,
            prefetch_factor=prefetch_factor if workers > 0 else None,
            timeout=timeout if workers > 0 else 0, worker_init_fn=SetThreads(worker_threads),
            # Its own generator: starting an epoch must not advance that of training.
            generator=torch.Generator().manual_seed(mix(seed) >> 1),
        )
        self.skipped: dict[int, str] = {}
        self.items = items
        self.collate = join
        self.order = sampler

    @property
    def source(self) -> Dataset:
        """The dataset as configured; ``dataset`` is the wrapper that seeds each item."""
        return self.items.dataset

    @property
    def metainfo(self) -> dict[str, Any]:
        """``classes`` and more, as the dataset tells."""
        return getattr(self.source, 'metainfo', {})

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the random numbers of the next pass."""
        self.order.set_epoch(epoch)

    def set_start(self, num_batches: int) -> None:
        """Let the next pass begin after so many batches; none of their items is made.

        Args:
            num_batches: batches that this process has already seen of the epoch (for an
                endless sampler: ever).
        """
        size = self.batch_size or 1
        self.order.set_start(num_batches * size * self.order.world_size)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own class
        for batch in super().__iter__():
            for failed in batch['failed']:
                self._report(failed)
            if batch['batch'] is not None:
                yield batch['batch']

    def _report(self, failed: FailedItem) -> None:
        if failed.is_data_error and self.items.on_error == 'skip':
            if failed.index not in self.skipped:
                _logger.warning('skipped item %d: %s', failed.index, failed.message)
            self.skipped[failed.index] = failed.message
            return
        if failed.is_data_error:
            raise DataError(f"{failed.message}\n(on_error='skip' in the dataloader goes on "
                            f'without such items)')
        raise RuntimeError(f'{failed.message}\n\n{failed.traceback}')


class ItemMaker(Dataset):
    """Makes items from draws: seeds the generators, then asks the dataset.

    Args:
        dataset: makes an item from an index.
        seed: start of the random numbers of all items.
        on_error: ``raise`` or ``skip``.
        replace: put another item in the place of a skipped one.
    """

    def __init__(self, dataset: Any, seed: int = 0, on_error: OnError = 'raise',
                 replace: bool = False):
        self.dataset = dataset
        self.seed = seed
        self.on_error = on_error
        self.replace = replace

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw | int) -> tuple[Any, list[FailedItem]]:
        """One item, or ``None``, and what failed on the way to it."""
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw | int]) -> list[tuple[Any, list[FailedItem]]]:
        """The items of a batch.

        A sampler of somebody else gives plain indices: these stand for the position as well.
        """
        known = [d if isinstance(d, Draw) else Draw(0, int(d), int(d)) for d in draws]
        if torch.utils.data.get_worker_info() is not None:
            return [self._make(draw) for draw in known]
        with preserve_random_state():
            return [self._make(draw) for draw in known]

    def _make(self, draw: Draw) -> tuple[Any, list[FailedItem]]:
        failed: list[FailedItem] = []
        index = draw.item
        for attempt in range(_MAX_TRIES):
            reseed(mix(self.seed, attempt) if attempt else self.seed, draw.epoch, draw.position)
            try:
                item = self.dataset[index]
            except Exception as error:
                failed.append(describe_failure(error, index))
                if self.on_error == 'raise' or not failed[-1].is_data_error or not self.replace:
                    return None, failed
            else:
                if item is not None:
                    return _marked(item, draw), failed
            # Another item in place of an unusable one, or of one that a transform turned down.
            index = mix(self.seed, draw.epoch, draw.position, attempt + 1) % len(self.dataset)
        raise DataError(f'no usable item in {_MAX_TRIES} tries from item {draw.item} on; '
                        f'the last one failed with: {failed[-1].message}' if failed else
                        f'the pipeline turned down {_MAX_TRIES} items in a row')


def describe_failure(error: Exception, index: int) -> FailedItem:
    """What to tell the main process about an item that could not be made."""
    is_data = isinstance(error, (DataError, OSError))
    text = str(error) if isinstance(error, DataError) else f'{type(error).__name__}: {error}'
    if not is_data:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f'item {index} failed with {text} ({Path(frame.filename).name}:{frame.lineno})'
    return FailedItem(index, text, is_data, ''.join(traceback.format_exception(error)))


def _marked(item: Any, draw: Draw) -> Any:
    if draw.is_repeat and isinstance(item, dict) and hasattr(item.get('sample'), 'meta'):
        item['sample'].meta['is_repeat'] = True
    return item


class CollateMade:
    """Collates what was made, and passes failures on beside the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, made: Sequence[tuple[Any, list[FailedItem]]]) -> dict[str, Any]:
        """``{'batch': collated items or None, 'failed': list}``."""
        items = [item for item, _ in made if item is not None]
        failed = [f for _, failures in made for f in failures]
        return {'batch': self.collate(items) if items else None, 'failed': failed}


class SetThreads:
    """Keeps a worker from using more cores than its own: workers already fill the machine.

    Where the network is trained on the same cores, workers also give way to it. All threads of a
    layer wait for the last one, so that a worker in the place of one of them halts them all.
    """

    def __init__(self, torch_threads: int = 1):
        self.torch_threads = torch_threads

    def __call__(self, worker_id: int) -> None:
        """Run in a worker as it starts."""
        import cv2

        cv2.setNumThreads(0)
        torch.set_num_threads(self.torch_threads)
        if hasattr(os, 'nice') and not torch.accelerator.is_available():
            os.nice(YIELD)


def default_num_workers(world_size: int = 1) -> int:
    """One for each core that this process may use, less one for training; at most 8."""
    affinity = getattr(os, 'sched_getaffinity', None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    local = int(os.environ.get('LOCAL_WORLD_SIZE', world_size))
    return min(8, max(0, cores // max(1, local) - 1))


def build_dataloader(cfg: Mapping[str, Any], *, seed: int, path: str, rank: int = 0,
                     world_size: int = 1, config_file: str | Path | None = None) -> DataLoader:
    """Build dataset, sampler and loader.

    Args:
        cfg: the arguments of ``DataLoader``, with ``dataset`` and ``sampler`` as dicts.
        seed: of the order and of the random numbers of all items.
        path: key path of ``cfg`` in its config, for messages.
        rank: number of this process.
        world_size: how many processes share the data.
        config_file: relative data folders are also looked for beside it.

    Raises:
        BuildError: on an unknown or missing key.
        DataError: if the dataset is empty.
    """
    accepted = [n for n in inspect.signature(DataLoader).parameters if n != 'seed']
    for key in cfg:
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=3)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise BuildError(f'{path}.{key}: unknown key{hint} A dataloader accepts '
                             f'{", ".join(accepted)}')
    if 'dataset' not in cfg:
        raise BuildError(f'{path}: a dataloader needs dataset=dict(type=...)')
    with relative_to(config_file):
        dataset = build(cfg['dataset'], DATASETS, f'{path}.dataset')
    # Read the annotations here, once, before any worker exists.
    if len(dataset) == 0:
        raise DataError(f'{path}.dataset is empty')
    sampler = build(cfg.get('sampler') or {'type': DefaultSampler, 'shuffle': False}, SAMPLERS,
                    f'{path}.sampler', dataset=dataset, seed=seed, rank=rank,
                    world_size=world_size)
    rest = {k: v for k, v in cfg.items() if k not in ('dataset', 'sampler')}
    return DataLoader(dataset, sampler, seed=seed, **rest)
