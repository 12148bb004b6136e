import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from openlab.structures import masks as M


def blobs(seed=0, size=(9, 13)):
    return (np.random.default_rng(seed).random(size) > 0.6).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_run_lengths_round_trip(seed, height, width):
    mask = blobs(seed, (height, width))
    assert np.array_equal(M.rle_to_mask(M.mask_to_rle(mask)), mask)


@pytest.mark.parametrize('seed', range(4))
def test_compressed_run_lengths_read_as_pycocotools_does(seed):
    mask = blobs(seed, (31, 67))
    rle = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(M.rle_to_mask(rle), mask)
    ours = coco.frPyObjects(M.mask_to_rle(mask), *mask.shape)
    assert ours['counts'] == rle['counts']


def test_run_lengths_that_do_not_fill_the_size_are_an_error():
    with pytest.raises(ValueError, match='add up to 5, but the mask has 2 x 3 = 6 pixels'):
        M.rle_to_mask({'size': [2, 3], 'counts': [5]})


def test_a_rectangle_fills_exactly_its_pixels_and_polygons_unite():
    mask = M.polygons_to_mask([[1, 2, 4, 2, 4, 5, 1, 5], [6, 0, 8, 0, 8, 1, 6, 1]], (6, 9))
    expected = np.zeros((6, 9), np.uint8)
    expected[2:5, 1:4] = 1
    expected[0, 6:8] = 1
    assert np.array_equal(mask, expected)


def test_polygons_agree_with_a_fine_drawing():
    points = np.array([[2.3, 1.1], [11.7, 4.2], [7.9, 8.6], [3.1, 7.7]])
    mask = M.polygons_to_mask([points.ravel().tolist()], (10, 14))
    fine = np.zeros((1000, 1400), np.uint8)
    cv2.fillPoly(fine, [np.round(points * 100).astype(np.int32)], 1)
    assert np.array_equal(mask, fine[50::100, 50::100])


def test_a_polygon_of_two_points_is_an_error():
    with pytest.raises(ValueError, match='at least three points'):
        M.polygons_to_mask([[0, 0, 1, 1]], (4, 4))


def test_flip_crop_resize_and_boxes_of_masks():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    assert M.masks_to_boxes(masks).tolist() == [[2, 1, 5, 3], [0, 0, 0, 0]]
    assert M.masks_to_boxes(M.flip_masks(masks)).tolist()[0] == [1, 1, 4, 3]
    assert M.masks_to_boxes(M.flip_masks(masks, 'both')).tolist()[0] == [1, 1, 4, 3]
    assert M.masks_to_boxes(M.crop_masks(masks, (-1, 1, 4, 8))).tolist()[0] == [1, 2, 4, 4]
    assert M.crop_masks(masks, (-1, 1, 4, 8)).shape == (2, 4, 8)
    assert M.masks_to_boxes(M.resize_masks(masks, (8, 12))).tolist()[0] == [4, 2, 10, 6]
    assert M.resize_masks(masks[:0], (8, 12)).shape == (0, 8, 12)


@pytest.mark.parametrize('seed', range(6))
def test_outlines_fill_to_the_same_mask(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((9, 11)) < (0.25, 0.5)[seed % 2]).astype(np.uint8)
    polygons = M.mask_to_polygons(mask)
    background = np.pad(mask, 1) == 0
    _, labels = cv2.connectedComponents(background.astype(np.uint8), connectivity=8)
    has_hole = len(np.unique(labels[background])) > 1
    assert (polygons is None) == has_hole
    if polygons is not None:
        assert np.array_equal(M.polygons_to_mask(polygons, mask.shape), mask)


def test_outlines_of_special_masks():
    square = np.zeros((4, 5), np.uint8)
    assert M.mask_to_polygons(square) == []
    square[1:3, 1:4] = 1
    assert M.mask_to_polygons(square) == [[1, 1, 4, 1, 4, 3, 1, 3]]
    corners = np.eye(3, dtype=np.uint8)  # parts that touch in a corner stay apart
    assert len(M.mask_to_polygons(corners)) == 3
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    assert M.mask_to_polygons(ring) is None


def test_short_text_of_run_lengths_reads_back():
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (120, 90)):
        mask = (rng.random(shape) < 0.4).astype(np.uint8)
        text = M.compress_rle(M.mask_to_rle(mask))
        assert isinstance(text['counts'], str)
        assert np.array_equal(M.rle_to_mask(text), mask)
    expected = coco.encode(np.asfortranarray(mask))['counts'].decode()
    assert text['counts'] == expected
