import numpy as np
import pytest
import torch

from openlab.data.transforms.adapters import AlbumentationsTransform, TorchvisionTransform


@pytest.mark.parametrize('transforms', [
    [{'type': 'RandomHorizontalFlip', 'p': 1.0}], [{'type': 'Resize', 'size': [80, 60]}],
    [{'type': 'CenterCrop', 'size': [40, 50]}],
    [{'type': 'Compose', 'transforms': [{'type': 'RandomVerticalFlip', 'p': 1.0}]}],
])
def test_targets_follow_torchvision(transforms, marked, assert_all_follow):
    assert_all_follow(TorchvisionTransform(transforms)(marked()))


def test_objects_that_torchvision_drops_disappear_everywhere(marked):
    results = TorchvisionTransform([{'type': 'CenterCrop', 'size': [12, 14]},
                                    {'type': 'SanitizeBoundingBoxes', 'min_size': 4}])(marked())
    assert results['labels'].tolist() == [3]
    assert len(results['masks']) == len(results['keypoints']) == len(results['boxes']) == 1


def test_torchvision_draws_from_the_generator_of_the_item(marked):
    jitter = TorchvisionTransform([{'type': 'ColorJitter', 'brightness': 0.5}])
    images = []
    for _ in range(2):
        torch.manual_seed(3)
        images.append(jitter(marked())['img'])
    assert np.array_equal(*images)


@pytest.mark.parametrize('transforms', [
    [{'type': 'HorizontalFlip', 'p': 1.0}], [{'type': 'Resize', 'height': 96, 'width': 64}],
    [{'type': 'CenterCrop', 'height': 40, 'width': 50}],
])
def test_targets_follow_albumentations(transforms, marked, assert_all_follow):
    pytest.importorskip('albumentations')
    assert_all_follow(AlbumentationsTransform(transforms)(marked()))


def test_albumentations_drops_objects_everywhere_and_follows_the_seed(marked):
    pytest.importorskip('albumentations')
    crop = AlbumentationsTransform([{'type': 'Crop', 'x_max': 30, 'y_max': 21}])
    results = crop(marked())
    assert results['labels'].tolist() == [7]
    assert len(results['masks']) == len(results['keypoints']) == len(results['boxes']) == 1
    images = []
    for _ in range(2):
        np.random.seed(3)
        images.append(AlbumentationsTransform([{'type': 'ColorJitter', 'p': 1.0}])(marked())['img'])
    assert np.array_equal(*images)


def test_a_plain_image_needs_no_boxes(marked):
    pytest.importorskip('albumentations')
    image = marked()['img']
    for adapter in (TorchvisionTransform([{'type': 'RandomHorizontalFlip', 'p': 1.0}]),
                    AlbumentationsTransform([{'type': 'HorizontalFlip', 'p': 1.0}])):
        assert np.array_equal(adapter({'img': image.copy()})['img'], image[:, ::-1])
