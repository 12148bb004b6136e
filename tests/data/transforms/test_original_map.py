import numpy as np
import pytest

from openlab.data.errors import DataError
from openlab.data.transforms.base import Compose
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize


def test_the_map_is_kept_while_what_the_network_sees_is_resized():
    semantic_map = np.arange(16, dtype=np.uint8).reshape(4, 4)
    pipeline = Compose([KeepOriginalMap(), Resize(2), PackInputs(extra_keys=('original_map',))])
    item = pipeline({'img': np.zeros((4, 4, 3), np.uint8), 'semantic_map': semantic_map})
    assert item['sample'].semantic_map.shape == (2, 2)
    assert np.array_equal(item['sample'].extra['original_map'], semantic_map)


def test_before_the_map_is_read_it_says_where_it_belongs():
    with pytest.raises(DataError, match='after LoadAnnotations'):
        KeepOriginalMap()({'img': np.zeros((4, 4, 3), np.uint8), 'seg_path': 'a.png'})


def test_an_image_without_truth_passes_through():
    results = {'img': np.zeros((4, 4, 3), np.uint8)}
    assert KeepOriginalMap()(results).keys() == {'img'}
