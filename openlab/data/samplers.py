"""Which item comes when: one global order, dealt out to the processes like cards.

Position p of the order of an epoch goes to process p mod world_size. The order depends on
(seed, epoch) alone, so any number of processes sees the same one, and a run resumes at a position
without reading what lies before it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler as TorchSampler

from openlab.data.seeding import mix
from openlab.registry import SAMPLERS


class Draw(NamedTuple):
    """One item to be made: its index, and the place that decides its random numbers."""

    epoch: int
    position: int
    item: int
    is_repeat: bool = False


class Sampler(TorchSampler, ABC):
    """Base of all samplers.

    Args:
        dataset: what is sampled; its length is enough for most samplers.
        seed: start of all random orders.
        rank: number of this process.
        world_size: how many processes share the order.
    """

    shuffle = True

    def __init__(self, dataset: Sized, seed: int = 0, rank: int = 0, world_size: int = 1):
        if not 0 <= rank < world_size:
            raise ValueError(f'rank must be from 0 to world_size - 1 = {world_size - 1}, '
                             f'got {rank}')
        self.size = len(dataset)
        if self.size == 0:
            raise ValueError('cannot sample from an empty dataset')
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    @abstractmethod
    def order(self, epoch: int) -> np.ndarray:
        """Indices of a whole epoch over all processes, the same in every process."""

    def generator(self, epoch: int) -> np.random.Generator:
        """Random numbers for the order of an epoch."""
        return np.random.default_rng(mix(self.seed, epoch))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; takes effect with the next ``iter``, from its beginning."""
        self.epoch = epoch
        self.start = 0

    def set_start(self, position: int) -> None:
        """Let the next ``iter`` (only that one) begin at a position of the global order."""
        if position < 0:
            raise ValueError(f'a start position cannot be negative, got {position}')
        self.start = position

    def state_dict(self) -> dict[str, Any]:
        """Epoch and start as set; how far an iterator went is known to the loop."""
        return {'epoch': self.epoch, 'start': self.start, 'seed': self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.seed = state['seed']
        self.set_epoch(state['epoch'])
        self.set_start(state['start'])

    def __iter__(self) -> Iterator[Draw]:
        start, self.start = self.start, 0
        return self._draws(self.epoch, start)

    def _draws(self, epoch: int, start: int) -> Iterator[Draw]:
        order = self.order(epoch)
        whole = self.size_of_epoch()
        first = start + (self.rank - start) % self.world_size
        for position in range(first, whole, self.world_size):
            repeat = position >= len(order)
            yield Draw(epoch, position, int(order[position % len(order)]), repeat)

    def size_of_epoch(self) -> int:
        """Length of the global order, repeats included."""
        return -(-len(self.order(0)) // self.world_size) * self.world_size

    def __len__(self) -> int:
        """Items of a whole epoch for this process."""
        return len(range(self.rank, self.size_of_epoch(), self.world_size))


@SAMPLERS.register_module()
class DefaultSampler(Sampler):
    """Each item once an epoch.

    Args:
        dataset: what is sampled.
        shuffle: another random order every epoch, or the order of the dataset.
        round_up: repeat the first items until every process has equally many; repeats carry
            ``is_repeat`` in the ``meta`` of their sample. By default only with ``shuffle``:
            evaluation must see each item once.
        seed: start of all random orders.
        rank: number of this process.
        world_size: how many processes share the order.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, round_up: bool | None = None,
                 seed: int = 0, rank: int = 0, world_size: int = 1):
        super().__init__(dataset, seed, rank, world_size)
        self.shuffle = shuffle
        self.round_up = shuffle if round_up is None else round_up

    def order(self, epoch: int) -> np.ndarray:
        """A permutation, or the order of the dataset."""
        if self.shuffle:
            return self.generator(epoch).permutation(self.size)
        return np.arange(self.size)

    def size_of_epoch(self) -> int:
        """Length of the global order, repeats included."""
        if not self.round_up:
            return self.size
        return -(-self.size // self.world_size) * self.world_size


@SAMPLERS.register_module()
class AspectRatioSampler(Sampler):
    """Each item once an epoch, in batches of similar aspect ratio, which need little padding.

    The order is made of whole batches of all processes, so it resumes at any position as every
    other does. Only the last batches of an epoch, of what is left of each group, may mix groups.

    Args:
        dataset: what is sampled; it needs ``sizes()``.
        edges: ratios of width to height that part the groups.
        shuffle: another random order every epoch, or the order of the dataset within groups.
        seed: start of all random orders.
        rank: number of this process.
        world_size: how many processes share the order.
    """

    def __init__(self, dataset: Any, edges: Sequence[float] = (1.0,), shuffle: bool = True,
                 seed: int = 0, rank: int = 0, world_size: int = 1):
        super().__init__(dataset, seed, rank, world_size)
        if list(edges) != sorted(set(edges)) or not edges:
            raise ValueError(f'edges must be ratios in rising order, got {list(edges)}')
        self.shuffle = shuffle
        sizes = np.asarray(dataset.sizes(), dtype=np.float64)
        self.ratios = sizes[:, 1] / sizes[:, 0]
        self.groups = np.searchsorted(np.asarray(edges), self.ratios, side='right')
        self.batch_size = 1

    def set_batch_size(self, batch_size: int) -> None:
        """Called by the loader: items in a batch of one process."""
        self.batch_size = batch_size

    def order(self, epoch: int) -> np.ndarray:
        """Whole batches of one group in random order, then what is left, sorted by ratio."""
        rng = self.generator(epoch)
        items = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        length = self.batch_size * self.world_size
        batches: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for group in np.unique(self.groups):
            members = items[self.groups[items] == group]
            whole = len(members) // length * length
            batches += list(members[:whole].reshape(-1, length))
            rest.append(members[whole:])
        left = np.concatenate(rest)
        left = left[np.argsort(self.ratios[left], kind='stable')]
        places = rng.permutation(len(batches)) if self.shuffle else np.arange(len(batches))
        return np.concatenate([*(batches[i] for i in places), left])

    def size_of_epoch(self) -> int:
        """Length of the global order, repeats included."""
        return -(-self.size // self.world_size) * self.world_size


@SAMPLERS.register_module()
class InfiniteSampler(Sampler):
    """An endless stream, for loops that count iterations: one order after the other.

    ``set_start`` counts positions from the beginning of the stream; ``len`` is one pass.

    Args:
        dataset: what is sampled.
        shuffle: another random order every pass, or the order of the dataset.
        seed: start of all random orders.
        rank: number of this process.
        world_size: how many processes share the stream.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int = 0, rank: int = 0,
                 world_size: int = 1):
        super().__init__(dataset, seed, rank, world_size)
        self.shuffle = shuffle

    def order(self, epoch: int) -> np.ndarray:
        """Indices of pass number ``epoch``."""
        if self.shuffle:
            return self.generator(epoch).permutation(self.size)
        return np.arange(self.size)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: a stream knows no epochs, and calling ``iter`` again must not rewind it."""

    def _draws(self, epoch: int, start: int) -> Iterator[Draw]:
        first = start + (self.rank - start) % self.world_size
        current, order = -1, np.empty(0)
        for position in itertools.count(first, self.world_size):
            lap, place = divmod(position, self.size)
            if lap != current:
                current, order = lap, self.order(lap)
            yield Draw(lap, place, int(order[place]))


@SAMPLERS.register_module()
class ClassAwareSampler(Sampler):
    """Draw a class evenly, then an item of it, so that rare classes are seen as often.

    Within a class items come in random order without repeats until all were seen.

    Args:
        dataset: what is sampled; it needs ``labels()``.
        num_items: length of an epoch; by default that of the dataset.
        seed: start of all random orders.
        rank: number of this process.
        world_size: how many processes share the order.
    """

    def __init__(self, dataset: Any, num_items: int | None = None, seed: int = 0, rank: int = 0,
                 world_size: int = 1):
        super().__init__(dataset, seed, rank, world_size)
        self.num_items = num_items or self.size
        self.members = list(items_of_class(dataset.labels()).values())

    def order(self, epoch: int) -> np.ndarray:
        """Classes in rounds of random order; the next unseen item of each."""
        rng = self.generator(epoch)
        rounds = -(-self.num_items // len(self.members))
        classes = np.concatenate([rng.permutation(len(self.members)) for _ in range(rounds)])
        streams = [_endless(rng.spawn(1)[0], m) for m in self.members]
        return np.array([next(streams[c]) for c in classes[: self.num_items]])

    def size_of_epoch(self) -> int:
        """Length of the global order, repeats included."""
        return -(-self.num_items // self.world_size) * self.world_size


@SAMPLERS.register_module()
class RepeatAugSampler(Sampler):
    """Repeated augmentation: each item several times in a row, each time augmented anew.

    An epoch is as long as without repeats, so it sees 1 / ``num_repeats`` of the items.
    Paper: Augment your batch, https://arxiv.org/abs/1901.09335 (as DeiT uses it).

    Args:
        dataset: what is sampled.
        num_repeats: how often each item is seen.
        seed: start of all random orders.
        rank: number of this process; neighbours in the order go to different processes.
        world_size: how many processes share the order.
    """

    def __init__(self, dataset: Sized, num_repeats: int = 3, seed: int = 0, rank: int = 0,
                 world_size: int = 1):
        super().__init__(dataset, seed, rank, world_size)
        if num_repeats < 1:
            raise ValueError(f'num_repeats must be at least 1, got {num_repeats}')
        self.num_repeats = num_repeats

    def order(self, epoch: int) -> np.ndarray:
        """The first items of a permutation, each repeated."""
        num_items = -(-self.size // self.num_repeats)
        items = self.generator(epoch).permutation(self.size)[:num_items]
        return np.repeat(items, self.num_repeats)[: self.size]

    def size_of_epoch(self) -> int:
        """Length of the global order, repeats included."""
        return -(-self.size // self.world_size) * self.world_size


def items_of_class(labels: Sequence[Any] | np.ndarray) -> dict[int, np.ndarray]:
    """Indices of the items of each class that occurs; an item may have several classes."""
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        for one in np.atleast_1d(label):
            members.setdefault(int(one), []).append(index)
    if not members:
        raise ValueError('no item has a label')
    return {label: np.array(members[label]) for label in sorted(members)}


def _endless(rng: np.random.Generator, items: np.ndarray) -> Iterator[int]:
    while True:
        yield from rng.permutation(items)
