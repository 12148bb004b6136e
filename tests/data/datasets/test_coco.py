import json
import pickle

import numpy as np
import pytest
import torch

from openlab.data.datasets.coco import CocoDataset
from openlab.data.errors import DataError
from openlab.data.generate.digit_scenes import DigitScenes
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.structures.masks import compress_rle, mask_to_rle

PIPELINE = [LoadImage(), LoadAnnotations(), PackInputs()]
SQUARE = [[2, 1, 6, 1, 6, 5, 2, 5]]


def dataset_of(folder, **more):
    return CocoDataset('train.json', folder, 'images', **{'pipeline': PIPELINE, **more})


def test_objects_come_with_labels_without_gaps_and_the_ids_lead_back(tmp_path, files):
    files.coco(tmp_path, [files.annotation(5, 12, 90, [1, 2, 3, 4]),
                          files.annotation(6, 11, 3, [2, 1, 4, 4], area=13.5),
                          files.annotation(9, 12, 7, [0, 0, 20, 10], iscrowd=1)])
    dataset = dataset_of(tmp_path)
    assert dataset.metainfo['classes'] == ('cat', 'dog', 'owl')
    assert dataset.metainfo['category_ids'] == (3, 7, 90)
    assert dataset.metainfo['ann_file'] == str(tmp_path / 'train.json')
    assert [v.tolist() for v in dataset.labels()] == [[0], [2, 1]]
    assert dataset.sizes().tolist() == [[10, 20], [10, 20]]
    sample = dataset[1]['sample']
    assert sample.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 20, 10]]
    assert sample.is_crowd.tolist() == [False, True] and sample.meta['img_id'] == 12
    assert sample.extra['ann_ids'].tolist() == [5, 9]
    assert dataset[0]['sample'].extra['areas'].tolist() == [13.5]
    assert dataset.dropped == [] and dataset.source(1).startswith('image 12 of ')
    assert len(pickle.loads(pickle.dumps(dataset))[0]['sample']) == 1


def test_polygons_and_both_kinds_of_run_lengths_become_masks(tmp_path, files):
    mask = np.zeros(files.size, np.uint8)
    mask[1:5, 2:6] = 1
    runs = mask_to_rle(mask)
    forms = [SQUARE, runs, compress_rle(runs)]
    files.coco(tmp_path, [files.annotation(i, 11, 3, [2, 1, 4, 4], segmentation=form)
                          for i, form in enumerate(forms)])
    sample = dataset_of(tmp_path)[0]['sample']
    assert sample.masks.shape == (3, 10, 20)
    assert all(np.array_equal(m.numpy(), mask) for m in sample.masks)
    assert dataset_of(tmp_path, with_masks=False)[0]['sample'].masks is None
    assert len(dataset_of(tmp_path)[1]['sample'].masks) == 0  # an image without objects
    original = dataset_of(tmp_path).original(0)
    assert original.extra['segmentation'] == forms and original.meta['ori_shape'] == (10, 20)


def test_fields_of_an_object_are_dropped_together_and_areas_stay_original(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5], area=1),
                          files.annotation(2, 11, 7, [10, 5, 5, 5], area=2)])
    dataset = dataset_of(tmp_path, pipeline=[
        LoadImage(), LoadAnnotations(), RandomFlip(1.0), Half(), PackInputs()])
    sample = dataset[0]['sample']
    assert sample.labels.tolist() == [1] and sample.extra['areas'].tolist() == [2]
    assert sample.extra['ann_ids'].tolist() == [2] and sample.boxes.tolist() == [[5, 5, 10, 10]]


def Half():
    from openlab.data.transforms.crop import Crop
    return Crop(0, 0, 10, 10)


@pytest.mark.parametrize('box, reason', [
    ([3, 3, 0, 4], 'box has no area'), ([3, 3, -2, 4], 'box has no area'),
    ([30, 3, 5, 4], 'box lies outside of its image'),
    ([-9, 3, 5, 4], 'box lies outside of its image'),
    ([float('nan'), 3, 5, 4], 'box is not four finite numbers'),
    ([1, 2, 3, float('inf')], 'box is not four finite numbers'),
    ([1, 2, 3], 'box is not four finite numbers'), (None, 'box is not four finite numbers'),
    ([3, 3, 0.5, 4], 'box is smaller than min_size=1 pixels'),
    ([19.5, 3, 5, 4], 'box is smaller than min_size=1 pixels'),
])
def test_boxes_that_cannot_be_learnt_from_are_dropped_and_told(tmp_path, files, box, reason):
    bad = {**files.annotation(77, 11, 3, [0, 0, 1, 1]), 'bbox': box}
    files.coco(tmp_path, [bad, files.annotation(2, 11, 7, [15, 5, 50, 50])])
    dataset = dataset_of(tmp_path)
    assert files.reasons(dataset) == [reason]
    assert 'annotation 77, image images/a.png of 20 x 10, box [' in dataset.dropped[0].source
    assert dataset[0]['sample'].boxes.tolist() == [[15, 5, 20, 10]]  # cut at the border


def test_masks_that_do_not_fit_are_dropped_and_told(tmp_path, files):
    other = mask_to_rle(np.ones((4, 6), np.uint8))
    files.coco(tmp_path, [
        files.annotation(i, 11, 3, [0, 0, 5, 5], segmentation=form) for i, form in enumerate(
            [SQUARE, other, [[1, 2, 3, 4]], [], {'counts': [3]}])])
    dataset = dataset_of(tmp_path)
    assert files.reasons(dataset) == [
        'a polygon needs at least three points (six numbers)', 'mask is 6 x 4 but its image is '
        '20 x 10', 'object has no mask', 'run lengths need size and counts']
    assert len(dataset[0]['sample'].masks) == 1


def test_runs_that_do_not_add_up_name_the_image(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5], segmentation={
        'size': [10, 20], 'counts': [5, 6]})])
    with pytest.raises(DataError, match=r'run lengths add up to 11.*image 11 of'):
        dataset_of(tmp_path)[0]


def test_classes_can_be_chosen_and_ordered(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5]),
                          files.annotation(2, 11, 90, [1, 0, 5, 5]),
                          files.annotation(3, 12, 7, [1, 0, 5, 5])])
    dataset = dataset_of(tmp_path, classes=['owl', 'cat'])
    assert dataset.metainfo['category_ids'] == (90, 3)
    assert [v.tolist() for v in dataset.labels()] == [[1, 0], []]
    assert files.reasons(dataset) == ['class is not in classes of the config']
    assert "1 annotations of 'dog'" in dataset.dropped[0].source
    assert len(dataset_of(tmp_path, classes=['owl'], keep_empty=False)) == 1
    with pytest.raises(DataError, match="'cow', which the files do not have"):
        len(dataset_of(tmp_path, classes=['cow']))


def test_annotations_without_image_or_category_are_told(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 99, 3, [0, 0, 5, 5]),
                          files.annotation(2, 11, 4, [1, 0, 5, 5])])
    assert files.reasons(dataset_of(tmp_path)) == [
        'category_id 4 is not one of categories (3, 7, 90)', 'image_id 99 is not one of images']


def test_empty_annotations_keep_the_images_or_say_why_nothing_is_left(tmp_path, files):
    files.coco(tmp_path, [])
    dataset = dataset_of(tmp_path)
    assert len(dataset) == 2 and dataset[0]['sample'].boxes.shape == (0, 4)
    assert dataset[0]['sample'].labels.dtype == torch.int64
    with pytest.raises(DataError, match=r'no items.*all 2 annotations were dropped(.|\n)*'
                                        r'a\.png: image has no objects'):
        len(dataset_of(tmp_path, keep_empty=False))


@pytest.mark.parametrize('change, message', [
    (lambda text: '', r'train\.json is empty'),
    (lambda text: text[:40], r'train\.json is not JSON: .* in line 1'),
    (lambda text: '[]', r"is not a COCO file: it needs a list 'images', and has list"),
    (lambda text: '{"images": []}', r"it needs a list 'categories', and has images"),
    (lambda text: text.replace('"id": 12', '"id": 11'), 'two images have the id 11'),
    (lambda text: text.replace('"id": 7', '"id": 3'), "two categories have the id 3"),
    (lambda text: text.replace('"width"', '"w"'), r"images\[0\] has no 'width'"),
])
def test_files_that_are_no_coco_files_say_what_is_wrong(tmp_path, files, change, message):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5])])
    file = tmp_path / 'train.json'
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=message):
        len(dataset_of(tmp_path))


def test_a_file_that_is_not_utf8_names_line_and_byte(tmp_path, files):
    (tmp_path / 'train.json').write_bytes(b'{"images":\n ["caf\xe9"]}')
    with pytest.raises(DataError, match=r'train\.json is not UTF-8 text: byte 0xe9 in line 2'):
        len(dataset_of(tmp_path))


def test_a_missing_file_lists_near_names(tmp_path, files):
    files.coco(tmp_path, [])
    with pytest.raises(FileNotFoundError, match=r'trian\.json; .* has train\.json'):
        len(CocoDataset('trian.json', tmp_path))


def test_a_dataset_makes_its_data_once_and_says_so(tmp_path, capsys):
    def make():
        return CocoDataset('annotations/instances_val.json', tmp_path / 'd', 'images/val',
                           PIPELINE, make=DigitScenes(train=1, val=3, size=64))

    first = make()
    assert not (tmp_path / 'd').exists()  # nothing happens before the data are needed
    assert len(first) == 3
    assert 'making digit scenes' in capsys.readouterr().err
    assert len(make()) == 3 and capsys.readouterr().err == ''
    record = json.loads((tmp_path / 'd' / 'annotations' / 'instances_val.json').read_text())
    expected = {a['id']: a['area'] for a in record['annotations']}
    for item in (first[i]['sample'] for i in range(3)):
        found = dict(zip(item.extra['ann_ids'].tolist(), item.masks.sum((1, 2)).tolist()))
        assert found and all(expected[i] == area for i, area in found.items())
