import pytest
import torch

from openlab.structures import keypoints as K

POINTS = torch.tensor([[[1.0, 2, 2], [5, 6, 1], [9, 9, 0]]])


def test_flipping_swaps_the_pairs():
    flipped = K.flip_keypoints(POINTS, 10, [(0, 1)])
    assert flipped.tolist() == [[[5, 6, 1], [9, 2, 2], [1, 9, 0]]]
    assert torch.equal(K.flip_keypoints(flipped, 10, [(0, 1)]), POINTS)


def test_points_outside_are_not_visible():
    assert K.clip_visibility(POINTS, (6, 4))[0, :, 2].tolist() == [2, 0, 0]


def test_boxes_surround_labelled_points_only():
    assert K.keypoints_to_boxes(POINTS).tolist() == [[1, 2, 5, 6]]
    assert K.keypoints_to_boxes(POINTS * torch.tensor([1, 1, 0])).tolist() == [[0, 0, 0, 0]]


def test_similarity_is_one_for_equal_points_and_matches_the_formula():
    areas, sigmas = torch.tensor([50.0]), torch.tensor([0.1, 0.2, 0.3])
    assert K.keypoint_similarity(POINTS, POINTS, areas, sigmas).item() == 1
    moved = POINTS + torch.tensor([3.0, 4, 0])
    # exp(-25 / (2 * 50 * (2 s)^2)) for s = 0.1 and 0.2; the third point is not labelled
    expected = (torch.exp(torch.tensor(-6.25)) + torch.exp(torch.tensor(-1.5625))) / 2
    found = K.keypoint_similarity(moved, POINTS, areas, sigmas)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
