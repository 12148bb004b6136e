import json
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import psutil
import pytest
import torch
import torch.multiprocessing  # registers how tensors travel

from openlab.data.dataloader import DataLoader
from openlab.data.datasets.base import Annotations, BaseDataset
from openlab.data.records import RecordTable
from openlab.structures.data_sample import DataSample


def test_records_come_back_as_they_went_in():
    rows = [
        {'path': 'ä.jpg', 'label': 3, 'weight': 0.5, 'boxes': np.ones((2, 4), np.float32),
         'mixed': [1, 'x'], 'maybe': None},
        {'path': '', 'label': -1, 'weight': 2.0, 'boxes': np.zeros((0, 4), np.float32),
         'mixed': {'a': [1.5]}, 'maybe': 7},
    ]
    table = RecordTable.from_records(rows)
    assert len(table) == 2
    for found, row in zip((table[0], table[-1]), rows):
        assert np.array_equal(found.pop('boxes'), row.pop('boxes'))
        assert found == row
    assert {n: c.kind for n, c in table.columns.items()} == {
        'path': 'text', 'label': 'number', 'weight': 'number', 'boxes': 'array', 'mixed': 'json',
        'maybe': 'json'}
    assert table.column('label').tolist() == [3, -1] and table.column('path') == ['ä.jpg', '']


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(TypeError, match='not object'):
        RecordTable.from_records([{'a': object()}])
    with pytest.raises(ValueError, match='equally long'):
        RecordTable({'a': [1], 'b': [1, 2]})
    with pytest.raises(IndexError, match='index 1 is outside a table of 1'):
        RecordTable({'a': [1]})[1]


def test_an_array_taken_out_is_a_copy():
    table = RecordTable({'boxes': [np.ones((1, 4), np.float32)]})
    table[0]['boxes'][:] = 5
    assert table[0]['boxes'].max() == 1


def test_a_table_is_sent_to_a_spawned_worker_as_handles_not_as_bytes():
    table = RecordTable({'values': np.zeros(50_000), 'text': ['x' * 9] * 50_000})
    sent = bytes(ForkingPickler.dumps(table))  # torch's reductions are registered with it
    assert len(sent) < 10_000 < table.num_bytes
    back = pickle.loads(sent)
    table.columns['values'].values[0] = 7
    assert back[0]['values'] == 7, 'both see the same memory'


class Large(BaseDataset):
    """A record set of some 40 MB whose records are read in full by every worker."""

    def load(self):
        count = 200_000
        return Annotations(RecordTable({
            'label': np.arange(count), 'text': [f'{i:0200d}' for i in range(count)]}))

    def __getitem__(self, index):
        for i in range(index, len(self), 64):
            self.get_info(i)
        process = psutil.Process().memory_full_info()
        return {'inputs': torch.tensor([process.uss]), 'sample': DataSample()}


@pytest.mark.slow
def test_memory_does_not_grow_with_workers():
    dataset = Large()
    assert dataset.table.num_bytes > 40e6
    loader = DataLoader(dataset, batch_size=1, num_workers=2)
    found = iter(loader)
    own = [next(found)['inputs'].item() / 1e6 for _ in range(12)]
    # Private memory of each worker, MB: what reading all records adds stays small against 42 MB.
    assert max(own) - min(own) < 15, own


def test_json_columns_hold_no_objects():
    table = RecordTable({'a': [{'x': i} for i in range(10)]})
    column = table.columns['a']
    assert column.values.dtype == torch.uint8
    assert json.loads(column.values[: int(column.offsets[1])].numpy().tobytes()) == {'x': 0}
