import numpy as np
import pytest
from PIL import Image

from openlab.data.datasets.base import Annotations, BaseDataset
from openlab.data.datasets.lists import CsvDataset
from openlab.data.datasets.wrappers import (
    CacheDataset,
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
    SubsetDataset,
    decode_results,
    encode_results,
)
from openlab.data.errors import DataError
from openlab.data.records import RecordTable
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize


class Numbers(BaseDataset):
    def __init__(self, labels, classes=('a', 'b', 'c')):
        super().__init__()
        self.given, self.names = labels, classes

    def load(self):
        return Annotations(RecordTable({'label': np.array(self.given)}), self.names)

    def __getitem__(self, index):
        return f'{self.names[0]}{index}'


def items(dataset):
    return [dataset[i] for i in range(len(dataset))]


def test_repeat_shows_everything_again():
    dataset = RepeatDataset(Numbers([0, 1]), 2)
    assert items(dataset) == ['a0', 'a1'] * 2
    assert list(dataset.labels()) == [0, 1, 0, 1]
    with pytest.raises(IndexError):
        dataset[4]


def test_concat_needs_equal_classes():
    first, second = Numbers([0]), Numbers([1, 2])
    dataset = ConcatDataset([first, second])
    assert items(dataset) == ['a0', 'a0', 'a1'] and list(dataset.labels()) == [0, 1, 2]
    assert dataset.get_info(2)['label'] == 2
    other = Numbers([0], ('b', 'a', 'c'))
    with pytest.raises(DataError, match='the same index would mean two things'):
        len(ConcatDataset([first, other]))
    assert items(ConcatDataset([first, other], ignore_classes=True)) == ['a0', 'b0']


def test_subset_takes_or_draws():
    dataset = Numbers([0] * 6 + [1] * 3 + [2])
    assert items(SubsetDataset(dataset, indices=[3, 1])) == ['a3', 'a1']
    drawn = SubsetDataset(dataset, num_items=4, seed=1).indices.tolist()
    assert len(set(drawn)) == 4 and drawn == sorted(drawn)
    assert drawn == SubsetDataset(dataset, num_items=4, seed=1).indices.tolist()
    assert len(SubsetDataset(dataset, share=0.5)) == 5
    assert list(SubsetDataset(dataset, per_class=2).labels()) == [0, 0, 1, 1, 2]
    with pytest.raises(DataError, match='from 0 to 9'):
        len(SubsetDataset(dataset, indices=[10]))
    with pytest.raises(ValueError, match='exactly one of'):
        SubsetDataset(dataset, num_items=1, share=0.5)


def test_class_balance_repeats_rare_classes_by_the_formula():
    dataset = Numbers([0] * 90 + [1] * 9 + [2])
    counts = np.bincount(ClassBalancedDataset(dataset, threshold=0.36).labels())
    assert counts[0] == 90
    assert counts[1] == 18  # sqrt(0.36 / 0.09) = 2
    assert counts[2] == 6  # sqrt(0.36 / 0.01) = 6


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        Image.new('RGB', (8, 6), (i * 50, 0, 0)).save(tmp_path / f'{i}.png')
    (tmp_path / 'a.csv').write_text('img_path,label\n0.png,x\n1.png,y\n2.png,x\n')
    return tmp_path


@pytest.mark.parametrize('on_disk', [False, True])
def test_a_cache_decodes_once_and_gives_the_same(images, on_disk, tmp_path):
    inner = CsvDataset('a.csv', images, pipeline=[LoadImage(), Resize(4)])
    plain = CsvDataset('a.csv', images, pipeline=[LoadImage(), Resize(4), PackInputs()])
    folder = tmp_path / 'cache' if on_disk else None
    expected = items(plain)
    cached = CacheDataset(inner, [PackInputs()], folder)
    items(cached)
    if not on_disk:
        (images / '0.png').unlink()
    else:
        assert len(list(folder.rglob('*.npz'))) == 3
    for found, want in zip(items(cached), expected):
        assert (found['inputs'] == want['inputs']).all()
        assert found['sample'].label == want['sample'].label
        assert found['sample'].meta['ori_shape'] == want['sample'].meta['ori_shape'] == (6, 8)


def test_a_changed_image_is_not_taken_from_the_cache(images, tmp_path):
    inner = CsvDataset('a.csv', images, pipeline=[LoadImage()])
    cached = CacheDataset(inner, [PackInputs()], tmp_path / 'cache')
    assert cached[0]['inputs'][1].max() == 0
    Image.new('RGB', (8, 6), (0, 99, 0)).save(images / '0.png')
    assert cached[0]['inputs'][1].max() == 99


def test_errors_behind_a_cache_still_name_the_annotation(images, tmp_path):
    (images / '1.png').unlink()
    inner = CsvDataset('a.csv', images, pipeline=[LoadImage()])
    cached = CacheDataset(inner, [PackInputs()], tmp_path / 'cache')
    with pytest.raises(DataError, match=r'missing: .*1\.png; annotation: .*a\.csv, line 3$'):
        cached[1]


def test_cached_results_round_trip_without_pickle():
    results = {'img': np.arange(6, dtype=np.uint8), 'img_shape': (2, 3), 'label': np.int64(4),
               'flip': False, 'text': 'ä', 'img_path': None}
    found = decode_results(encode_results(results))
    assert np.array_equal(found.pop('img'), results['img'])
    assert found == {'img_shape': (2, 3), 'label': 4, 'flip': False, 'text': 'ä', 'img_path': None}


def test_a_draw_and_its_rest_make_the_whole():
    class Ten:
        def __len__(self):
            return 10

    drawn, rest = (SubsetDataset(Ten(), share=0.2, rest=r) for r in (False, True))
    assert len(drawn) == 2 and len(rest) == 8
    assert sorted([*drawn.indices.tolist(), *rest.indices.tolist()]) == list(range(10))
    assert len(SubsetDataset(Ten(), share=0.01)) == 1
    with pytest.raises(DataError, match='the draw leaves no item'):
        len(SubsetDataset(Ten(), share=1.0, rest=True))
