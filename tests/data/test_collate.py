import numpy as np
import pytest
import torch

from openlab.data.collate import collate
from openlab.data.transforms.packing import PackInputs


def packed(*shapes, dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3)).astype(dtype) for shape in shapes]
    return images, [PackInputs()({'img': image, 'label': 1}) for image in images]


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('shape', [(5, 7), (1, 4), (4, 1), (1, 1)])
def test_images_of_one_size_become_one_contiguous_batch(shape, dtype):
    images, items = packed(shape, shape, shape, dtype=dtype)
    batch = collate(items)['inputs']
    assert batch.shape == (3, 3, *shape) and batch.is_contiguous()
    assert np.array_equal(batch.numpy(), np.stack(images).transpose(0, 3, 1, 2))


def test_images_of_different_size_become_contiguous_planes():
    images, items = packed((5, 7), (6, 7))
    inputs = collate(items)['inputs']
    assert [tuple(x.shape) for x in inputs] == [(3, 5, 7), (3, 6, 7)]
    for image, found in zip(images, inputs):
        assert found.is_contiguous()
        assert np.array_equal(found.numpy(), image.transpose(2, 0, 1))


def test_a_crop_does_not_keep_the_whole_image_alive():
    whole = np.zeros((100, 100, 3), np.uint8)
    inputs = PackInputs()({'img': whole[10:20, 30:40]})['inputs']
    assert inputs.untyped_storage().nbytes() == 300


def test_interleaved_and_plain_tensors_mix():
    _, items = packed((4, 6), (4, 6))
    items[1]['inputs'] = items[1]['inputs'].contiguous()
    batch = collate(items)['inputs']
    for place, item in zip(batch, items):
        assert torch.equal(place, item['inputs'])


def test_an_item_without_inputs_is_an_error():
    with pytest.raises(ValueError, match="end the pipeline with dict\\(type='PackInputs'\\)"):
        collate([{'img': 1}])
    with pytest.raises(ValueError, match='empty batch'):
        collate([])
