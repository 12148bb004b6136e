import os

import numpy as np
import pytest
import torch

from openlab.config.build import BuildError
from openlab.data.dataloader import DataLoader, build_dataloader
from openlab.data.datasets.base import Annotations, BaseDataset
from openlab.data.errors import DataError
from openlab.data.records import RecordTable
from openlab.data.samplers import DefaultSampler, InfiniteSampler
from openlab.structures.data_sample import DataSample


class Noise(BaseDataset):
    """Items that are nothing but random numbers, so that seeding shows."""

    def __init__(self, size=12, broken=(), error=None):
        super().__init__()
        self.size = size
        self.broken = broken
        self.error = error or DataError('cannot read it')

    def load(self):
        return Annotations(RecordTable({'label': np.arange(self.size)}))

    def __getitem__(self, index):
        if index in self.broken:
            raise self.error
        noise = torch.tensor([np.random.rand(), torch.rand(()).item(), index])
        return {'inputs': noise, 'sample': DataSample(meta={'img_id': index})}


def batches(loader):
    return [b['inputs'].clone() for b in loader]


def indices(loader):
    return [int(row[2]) for b in loader for row in b['inputs']]


def loader_of(dataset, workers=0, shuffle=True, rank=0, world_size=1, **kwargs):
    sampler = DefaultSampler(dataset, shuffle, seed=3, rank=rank, world_size=world_size)
    kwargs.setdefault('batch_size', 4)
    return DataLoader(dataset, sampler, num_workers=workers, seed=3, **kwargs)


def test_items_do_not_depend_on_the_number_of_workers():
    expected = torch.cat(batches(loader_of(Noise())))
    for workers in (1, 2):
        got = torch.cat(batches(loader_of(Noise(), workers, persistent_workers=False)))
        assert torch.equal(got, expected)


def test_two_processes_see_together_what_one_sees():
    whole = batches(loader_of(Noise(16), batch_size=8))
    parts = [batches(loader_of(Noise(16), rank=r, world_size=2)) for r in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch[0::2], parts[0][step])
        assert torch.equal(batch[1::2], parts[1][step])


def test_every_epoch_has_its_own_random_numbers_and_repeats_them():
    loader = loader_of(Noise())
    first = torch.cat(batches(loader))
    loader.set_epoch(1)
    second = torch.cat(batches(loader))
    assert not torch.equal(first, second)
    loader.set_epoch(0)
    assert torch.equal(torch.cat(batches(loader)), first)


def test_a_start_inside_the_epoch_continues_exactly_there():
    loader = loader_of(Noise(), workers=1)
    loader.set_epoch(5)
    whole = batches(loader)
    loader.set_epoch(5)
    loader.set_start(2)
    assert len(loader) == 3
    rest = batches(loader)
    assert len(rest) == 1 and torch.equal(rest[0], whole[2])
    assert len(batches(loader)) == 3, 'a start holds for one pass only'


def test_an_endless_stream_resumes_across_passes():
    def stream(start, count):
        dataset = Noise(10)
        loader = DataLoader(dataset, InfiniteSampler(dataset, seed=1), batch_size=4, num_workers=0)
        loader.set_start(start)
        found = iter(loader)
        return [next(found)['inputs'] for _ in range(count)]

    whole = stream(0, 8)
    assert all(torch.equal(a, b) for a, b in zip(stream(5, 3), whole[5:]))


def test_items_made_in_the_training_process_leave_its_random_numbers_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    batches(loader_of(Noise()))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


@pytest.mark.parametrize('workers', [0, 1])
def test_unusable_data_is_one_clear_error(workers):
    with pytest.raises(DataError) as caught:
        batches(loader_of(Noise(broken=(7,)), workers))
    assert str(caught.value).startswith('cannot read it')
    assert 'Traceback' not in str(caught.value)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_of_code_is_never_skipped_and_keeps_its_traceback(workers):
    dataset = Noise(broken=(7,), error=TypeError('a bug'))
    with pytest.raises(RuntimeError, match=r'item 7 failed with TypeError: a bug \(test_data'):
        batches(loader_of(dataset, workers, on_error='skip'))


def test_training_puts_the_same_other_item_in_the_place_of_a_skipped_one():
    results = []
    for workers in (0, 2):
        loader = loader_of(Noise(broken=(7,)), workers, on_error='skip')
        results.append(torch.cat(batches(loader)))
        assert loader.skipped == {7: 'cannot read it'}
    assert torch.equal(*results)
    assert len(results[0]) == 12 and 7 not in results[0][:, 2]


def test_evaluation_leaves_a_skipped_item_out():
    loader = loader_of(Noise(broken=(4, 5, 6, 7, 9)), shuffle=False, on_error='skip')
    assert indices(loader) == [0, 1, 2, 3, 8, 10, 11]
    assert sorted(loader.skipped) == [4, 5, 6, 7, 9]


def test_a_dataset_without_any_usable_item_is_an_error():
    with pytest.raises(DataError, match='no usable item in 100 tries'):
        batches(loader_of(Noise(2, broken=(0, 1)), on_error='skip'))


def test_workers_use_one_thread():
    class Threads(Noise):
        def __getitem__(self, index):
            import cv2
            counts = torch.tensor([torch.get_num_threads(), cv2.getNumThreads(), index])
            return {'inputs': counts, 'sample': DataSample()}

    (batch,) = batches(loader_of(Threads(4), workers=1))
    assert (batch[:, :2] == 1).all()


@pytest.mark.skipif(torch.accelerator.is_available() or not hasattr(os, 'nice'),
                    reason='only where the network is trained on the cores of the workers')
def test_workers_give_way_to_training_on_the_same_cores():
    class Niceness(Noise):
        def __getitem__(self, index):
            return {'inputs': torch.tensor(os.nice(0)), 'sample': DataSample()}

    own = os.nice(0)
    (batch,) = batches(loader_of(Niceness(4), workers=1))
    assert (batch == min(own + 15, 19)).all()
    assert os.nice(0) == own


def test_digits_are_built_from_a_config():
    loader = build_dataloader(
        {'batch_size': 8, 'num_workers': 0,
         'dataset': {'type': 'Digits', 'split': 'val', 'pipeline': [
            {'type': 'Resize', 'size': 12}, {'type': 'PackInputs'}]},
         'sampler': {'type': 'DefaultSampler', 'shuffle': True}}, seed=0, path='val_dataloader')
    batch = next(iter(loader))
    assert batch['inputs'].shape == (8, 3, 12, 12) and batch['inputs'].dtype == torch.uint8
    assert len(batch['samples']) == 8
    assert loader.metainfo['classes'] == tuple('0123456789')


def test_an_unknown_key_of_a_dataloader_lists_near_ones():
    with pytest.raises(BuildError, match=r'train_dataloader.batchsize.*did you mean batch_size'):
        build_dataloader({'batchsize': 2, 'dataset': {'type': 'Digits'}}, seed=0,
                         path='train_dataloader')
