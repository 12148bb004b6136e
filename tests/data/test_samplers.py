import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openlab.data.dataloader import DataLoader
from openlab.data.samplers import (
    AspectRatioSampler,
    ClassAwareSampler,
    DefaultSampler,
    InfiniteSampler,
    RepeatAugSampler,
)
from openlab.structures.data_sample import DataSample


class Labelled:
    def __init__(self, counts):
        self._labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self):
        return len(self._labels)

    def labels(self):
        return self._labels


def merged(samplers, epoch=0):
    """Draws of all processes, dealt back together."""
    for s in samplers:
        s.set_epoch(epoch)
    rows = itertools.zip_longest(*samplers)
    return [d.item for row in rows for d in row if d is not None]


MAKERS = {
    'default': lambda d, **k: DefaultSampler(d, round_up=False, **k),
    'class-aware': lambda d, **k: ClassAwareSampler(d, num_items=24, **k),
    'repeated': lambda d, **k: RepeatAugSampler(d, **k),
}


@pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize('epoch', [0, 3])
def test_any_number_of_processes_sees_the_same_order(make, epoch):
    dataset = Labelled([5, 10, 9])
    whole = merged([make(dataset, seed=4)], epoch)
    for world in (2, 3):
        parts = [make(dataset, seed=4, rank=r, world_size=world) for r in range(world)]
        assert merged(parts, epoch) == whole


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), world=st.integers(1, 5), start=st.integers(0, 45),
       epoch=st.integers(0, 3))
def test_a_start_skips_exactly_what_lies_before_it(size, world, start, epoch):
    for rank in range(world):
        sampler = DefaultSampler(range(size), seed=1, rank=rank, world_size=world)
        sampler.set_epoch(epoch)
        whole = list(sampler)
        assert len(whole) == len(sampler)
        sampler.set_start(start)
        assert list(sampler) == [d for d in whole if d.position >= start]
        assert list(sampler) == whole, 'a start holds once'


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), world=st.integers(1, 5))
def test_rounding_up_gives_every_process_as_many_and_marks_the_repeats(size, world):
    parts = [list(DefaultSampler(range(size), seed=2, rank=r, world_size=world))
             for r in range(world)]
    assert len({len(p) for p in parts}) == 1
    draws = [d for p in parts for d in p]
    assert sorted(d.item for d in draws if not d.is_repeat) == list(range(size))


def test_evaluation_sees_each_item_once_in_order():
    parts = [DefaultSampler(range(7), shuffle=False, rank=r, world_size=2) for r in range(2)]
    assert merged(parts) == list(range(7))
    assert [len(p) for p in parts] == [4, 3]


def test_orders_differ_between_epochs_and_seeds():
    orders = [merged([DefaultSampler(range(30), seed=s)], e) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4


def test_an_endless_stream_continues_at_any_position():
    for world, start in itertools.product((1, 3), (0, 5, 7, 40)):
        whole = list(itertools.islice(InfiniteSampler(range(7), seed=3), 60))
        for rank in range(world):
            sampler = InfiniteSampler(range(7), seed=3, rank=rank, world_size=world)
            sampler.set_start(start)
            expected = [d for p, d in enumerate(whole) if p >= start and p % world == rank]
            found = list(itertools.islice(sampler, len(expected)))
            assert found == expected
    assert sorted(d.item for d in whole[:7]) == sorted(d.item for d in whole[7:14])
    assert [d.item for d in whole[:7]] != [d.item for d in whole[7:14]]


def test_class_aware_draws_classes_evenly_and_items_without_repeats():
    dataset = Labelled([1, 8, 31])
    order = ClassAwareSampler(dataset, num_items=30, seed=0).order(0)
    labels = dataset.labels()[order]
    assert np.bincount(labels).tolist() == [10, 10, 10]
    assert len(set(order[labels == 2])) == 10
    assert set(order[labels == 1]) == set(range(1, 9))


def test_repeated_augmentation_shows_each_item_several_times_in_a_row():
    order = RepeatAugSampler(range(12), num_repeats=3, seed=0).order(0)
    assert len(order) == 12 and len(set(order.tolist())) == 4
    assert (order.reshape(4, 3) == order.reshape(4, 3)[:, :1]).all()


def test_state_comes_back():
    sampler = DefaultSampler(range(10), seed=5)
    sampler.set_epoch(2)
    sampler.set_start(4)
    state = sampler.state_dict()
    other = DefaultSampler(range(10), seed=0)
    other.load_state_dict(state)
    assert list(other) == list(sampler)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='empty dataset'):
        DefaultSampler([])
    with pytest.raises(ValueError, match='rank must be from 0 to world_size - 1 = 1, got 2'):
        DefaultSampler(range(3), rank=2, world_size=2)
    with pytest.raises(ValueError, match='cannot be negative'):
        DefaultSampler(range(3)).set_start(-1)


class Sized_:
    """Knows only the sizes of its images."""

    def __init__(self, sizes):
        self._sizes = np.array(sizes)

    def __len__(self):
        return len(self._sizes)

    def sizes(self):
        return self._sizes


def aspect_sampler(num=37, batch_size=4, **more):
    sizes = sampler_sizes(num)
    sampler = AspectRatioSampler(Sized_(sizes), **more)
    sampler.set_batch_size(batch_size)
    return sampler, np.array([w >= h for h, w in sizes])


@pytest.mark.parametrize('world_size', [1, 2])
def test_batches_hold_one_aspect_group(world_size):
    sampler, is_wide = aspect_sampler(world_size=world_size)
    order = sampler.order(0)
    assert sorted(order) == list(range(37))
    length = 4 * world_size
    whole = sum((is_wide == g).sum() // length for g in (False, True))
    for batch in order[:whole * length].reshape(-1, length):
        assert len(set(is_wide[batch])) == 1
    assert len(order) - whole * length < 2 * length
    # What each process draws in its turn are parts of those same batches.
    own = [AspectRatioSampler(Sized_(sampler_sizes()), rank=r, world_size=world_size)
           for r in range(world_size)]
    for rank_sampler in own:
        rank_sampler.set_batch_size(4)
        drawn = [d.item for d in rank_sampler][:whole * 4]
        for batch in np.array(drawn).reshape(-1, 4):
            assert len(set(is_wide[batch])) == 1


def sampler_sizes(num=37):
    return [(10, 10 + i % 2 * 20 - i % 2) if i % 3 else (20, 10) for i in range(num)]


def test_the_order_of_aspect_groups_changes_by_epoch_and_resumes_anywhere():
    sampler, _ = aspect_sampler()
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    assert np.array_equal(sampler.order(1), aspect_sampler()[0].order(1))
    whole = [d.item for d in sampler]
    sampler.set_start(8)
    assert [d.item for d in sampler] == whole[8:]
    with pytest.raises(ValueError, match='rising order'):
        aspect_sampler(edges=(2.0, 1.0))


def test_the_loader_tells_the_sampler_its_batch_size():
    class Items(Sized_):
        def __getitem__(self, index):
            height, width = self._sizes[index]
            return {'inputs': torch.zeros(3, height, width), 'sample': DataSample()}

    dataset = Items([(4, 8), (8, 4)] * 6)
    loader = DataLoader(dataset, AspectRatioSampler(dataset), batch_size=3, num_workers=0)
    batches = [b['inputs'] for b in loader]
    assert len(batches) == 4 and all(isinstance(b, torch.Tensor) for b in batches)
