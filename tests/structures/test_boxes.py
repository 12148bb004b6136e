import pytest
import torch
from torchvision.ops import box_iou as reference_iou

from openlab.structures import boxes as B


def random_boxes(count, seed=0):
    low = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 10
    return torch.cat([low, low + torch.rand(count, 2) * 5], dim=1)


def test_conversions_are_inverse_and_match_a_hand_value():
    boxes = torch.tensor([[1.0, 2, 5, 10]])
    assert B.xyxy_to_cxcywh(boxes).tolist() == [[3, 6, 4, 8]]
    assert B.xyxy_to_xywh(boxes).tolist() == [[1, 2, 4, 8]]
    assert torch.equal(B.cxcywh_to_xyxy(B.xyxy_to_cxcywh(boxes)), boxes)
    assert torch.equal(B.xywh_to_xyxy(B.xyxy_to_xywh(boxes)), boxes)


def test_iou_matches_torchvision_and_is_zero_without_area():
    first, second = random_boxes(5), random_boxes(7, seed=1)
    assert torch.allclose(B.box_iou(first, second), reference_iou(first, second))
    empty = torch.zeros(1, 4)
    assert B.box_iou(empty, empty).item() == 0
    assert B.box_iou(torch.zeros(0, 4), second).shape == (0, 7)


def test_clipping_and_area():
    boxes = torch.tensor([[-2.0, -1, 5, 30], [9, 9, 8, 8]])
    assert B.clip_boxes(boxes, (20, 4)).tolist() == [[0, 0, 4, 20], [4, 9, 4, 8]]
    assert B.box_area(boxes).tolist() == [7 * 31, 0]


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'both'])
def test_flipping_twice_is_nothing(direction):
    boxes = random_boxes(3)
    once = B.flip_boxes(boxes, (20, 30), direction)
    assert not torch.allclose(once, boxes)
    assert (once[:, 2:] >= once[:, :2]).all()
    assert torch.allclose(B.flip_boxes(once, (20, 30), direction), boxes)
    with pytest.raises(ValueError, match='direction'):
        B.flip_boxes(boxes, (20, 30), 'up')


def test_scaling_multiplies_x_and_y_apart():
    assert B.scale_boxes(torch.tensor([[1.0, 1, 2, 2]]), (2, 3)).tolist() == [[2, 3, 4, 6]]
