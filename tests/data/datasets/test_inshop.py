import cv2
import numpy as np
import pytest

from openlab.data.datasets.inshop import InShop
from openlab.data.errors import DataError
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

LIST = """7
image_name item_id evaluation_status
img/a.jpg   id_7  train
img/b.jpg   id_2  train
img/c.jpg   id_9  query
img/d.jpg   id_9  gallery
img/e.jpg   id_4  gallery
broken line
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'Eval').mkdir()
    (tmp_path / 'Img' / 'img').mkdir(parents=True)
    (tmp_path / 'Eval' / 'list_eval_partition.txt').write_text(LIST)
    for name in 'abcde':
        cv2.imwrite(str(tmp_path / 'Img' / 'img' / f'{name}.jpg'), np.zeros((8, 6, 3), np.uint8))
    return tmp_path


def test_training_numbers_its_own_garments(folder):
    train = InShop('train', folder)
    assert train.metainfo['classes'] == ('id_2', 'id_7')
    assert train.labels().tolist() == [1, 0]
    assert [d.reason for d in train.dropped] == ["not image, garment and part: 'broken line'"]


def test_query_and_gallery_number_garments_alike_and_tell_their_role(folder):
    pipeline = [LoadImage(), PackInputs(meta_keys=['role'])]
    both = InShop('test', folder, pipeline=pipeline)
    samples = [both[i]['sample'] for i in range(len(both))]
    assert [s.meta['role'] for s in samples] == ['query', 'gallery', 'gallery']
    assert [s.label.item() for s in samples] == [1, 1, 0]
    assert InShop('query', folder).labels().tolist() == [1]
    assert InShop('gallery', folder).labels().tolist() == [1, 0]
    assert 'Img/img/c.jpg' in both.source(0)


def test_other_lists_and_splits_are_refused(folder):
    with pytest.raises(ValueError, match='split is one of train, query'):
        InShop('val', folder)
    (folder / 'Eval' / 'list_eval_partition.txt').write_text('img/a.jpg id_1 train\n')
    with pytest.raises(DataError, match='must begin with the number of images'):
        len(InShop('train', folder))
