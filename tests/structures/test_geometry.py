import numpy as np
import pytest
import torch

from openlab.data.transforms.affine import RandomAffine
from openlab.data.transforms.crop import Pad, RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.structures.data_sample import DataSample
from openlab.structures.geometry import move_pixels, to_original

HEIGHT, WIDTH = 40, 56
BOXES = np.array([[8, 6, 24, 18], [30, 20, 50, 36]], np.float32)


def make_results():
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, BOXES.astype(int)):
        mask[y1:y2, x1:x2] = 1
    points = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, [[2], [2]]], axis=1)
    return {'img': masks[0][..., None].repeat(3, 2) * 255, 'img_path': 'a.png',
            'ori_shape': (HEIGHT, WIDTH), 'img_shape': (HEIGHT, WIDTH), 'boxes': BOXES.copy(),
            'labels': np.array([1, 0]), 'masks': masks,
            'keypoints': points[:, None].astype(np.float32),
            'semantic_map': (masks[0] + 2 * masks[1]).astype(np.int64),
            'panoptic_map': (masks[0] * 7 + masks[1] * 9).astype(np.int64)}


def pack(*transforms):
    np.random.seed(3)
    results = make_results()
    for transform in transforms:
        results = transform(results)
    return PackInputs()(results)['sample']


@pytest.mark.parametrize('transforms', [
    [Resize((80, 112))], [Resize((97, 131))], [RandomFlip(1.0), Resize(shorter=90)],
    [RandomFlip(1.0, 'both'), Pad(size=(64, 80))], [Resize((80, 112)), RandomFlip(1.0, 'vertical')],
])
def test_everything_comes_back_where_it_was(transforms):
    back = to_original(pack(*transforms))
    truth = make_results()
    assert torch.allclose(back.boxes, torch.from_numpy(truth['boxes']), atol=1e-3)
    assert torch.allclose(back.keypoints, torch.from_numpy(truth['keypoints']), atol=1e-3)
    for name in ('masks', 'semantic_map', 'panoptic_map'):
        assert np.array_equal(getattr(back, name).numpy(), truth[name]), name
    assert back.meta['img_shape'] == (HEIGHT, WIDTH) and back.meta['img_path'] == 'a.png'
    assert np.array_equal(back.meta['matrix'], np.eye(3))
    assert to_original(back).masks is back.masks  # nothing left to undo


def test_rotated_masks_come_back_up_to_their_borders():
    back = to_original(pack(RandomAffine(degrees=(20, 20), scale=(1.5, 1.5))))
    truth = make_results()
    points = torch.from_numpy(truth['keypoints'])
    assert torch.allclose(back.keypoints[..., :2], points[..., :2], atol=1e-3)
    seen = back.semantic_map != 255
    assert 0.3 < seen.float().mean() < 1
    wrong = (back.semantic_map.numpy() != truth['semantic_map']) & seen.numpy()
    assert wrong.mean() < 0.03


def test_what_a_crop_does_not_show_is_unknown():
    sample = pack(RandomCrop(20))
    back = to_original(sample)
    shown = np.linalg.inv(sample.meta['matrix'])[:2, 2].round().astype(int)
    x, y = shown
    assert (back.semantic_map != 255).sum() == 400
    assert (back.semantic_map[y:y + 20, x:x + 20] != 255).all()
    assert not back.masks.flatten(1)[:, (back.semantic_map == 255).flatten()].any()


def test_boxes_are_clipped_to_the_original_only_if_wanted():
    meta = {'ori_shape': (10, 10), 'matrix': np.diag([2.0, 2, 1])}
    sample = DataSample(meta=meta, boxes=torch.tensor([[-4.0, 2, 30, 10]]))
    assert to_original(sample).boxes.tolist() == [[0, 1, 10, 5]]
    assert to_original(sample, clip=False).boxes.tolist() == [[-2, 1, 15, 5]]


def test_predictions_of_a_padded_input_lose_only_the_padding():
    masks = torch.ones(1, 32, 64, dtype=torch.bool)
    sample = DataSample(meta={'ori_shape': (15, 20), 'matrix': np.diag([2.0, 2, 1]),
                              'pad_shape': (32, 64)}, masks=masks)
    back = to_original(sample)
    assert back.masks.shape == (1, 15, 20) and back.masks.all() and 'pad_shape' not in back.meta


def test_no_objects_are_no_problem():
    sample = DataSample(meta={'ori_shape': (4, 6), 'matrix': np.diag([2.0, 2, 1])},
                        boxes=torch.zeros(0, 4), masks=torch.zeros(0, 8, 12, dtype=torch.bool))
    back = to_original(sample)
    assert back.boxes.shape == (0, 4) and back.masks.shape == (0, 4, 6)


def test_pixels_of_a_perspective_view_are_looked_up_one_by_one():
    values = torch.arange(12).view(3, 4)
    quarter = np.array([[0.0, -1, 4], [1, 0, 0], [0, 0, 1]])  # turns by 90 degrees
    assert move_pixels(values, quarter, (4, 3), -1).tolist() == values.rot90(1).tolist()


def test_missing_or_unusable_meta_is_named():
    with pytest.raises(ValueError, match=r"to_original needs meta\['ori_shape'\].*b\.png"):
        to_original(DataSample(meta={'img_path': 'b.png'}))
    with pytest.raises(ValueError, match='cannot be inverted'):
        to_original(DataSample(meta={'ori_shape': (2, 2), 'matrix': np.zeros((3, 3))}))
    with pytest.raises(ValueError, match='3, 3'):
        to_original(DataSample(meta={'ori_shape': (2, 2), 'matrix': np.zeros((2, 3))}))
