import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlab.data.samplers import (
    ClassAwareSampler,
    DefaultSampler,
    InfiniteSampler,
    RepeatAugSampler,
)


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
