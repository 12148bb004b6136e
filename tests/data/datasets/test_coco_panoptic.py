import json

import numpy as np
import pytest

from openlab.data.datasets.coco_panoptic import CocoPanopticDataset
from openlab.data.errors import DataError
from openlab.data.generate.digit_scenes import make_digit_scenes
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.crop import Crop
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs


@pytest.fixture
def folder(tmp_path):
    make_digit_scenes(tmp_path / 'd', train=3, val=1, size=64, say=lambda text: None)
    return tmp_path / 'd'


def dataset_of(folder, *steps):
    return CocoPanopticDataset('annotations/panoptic_train.json', 'panoptic/train', folder,
                               'images/train', [LoadImage(), LoadAnnotations(), *steps,
                                                PackInputs()])


def test_things_come_before_stuff_and_all_maps_agree(folder):
    dataset = dataset_of(folder)
    meta = dataset.metainfo
    assert meta['classes'] == (*map(str, range(10)), 'background')
    assert meta['category_ids'] == tuple(range(1, 12)) and len(meta['palette']) == 11
    assert meta['is_thing'] == (True,) * 10 + (False,)
    for index in range(3):
        sample = dataset[index]['sample'].validate(num_classes=11)
        assert sample.panoptic_map.max() == len(sample.segments) == len(sample) + 1
        for segment in sample.segments:
            inside = sample.panoptic_map == segment['id']
            assert (sample.semantic_map[inside] == segment['label']).all()
        things = [s for s in sample.segments if s['is_thing']]
        assert [s['label'] for s in things] == sample.labels.tolist()
        for thing, mask, box in zip(things, sample.masks, sample.boxes):
            assert np.array_equal(mask, sample.panoptic_map == thing['id'])
            rows, columns = np.nonzero(mask.numpy())
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_segments_that_a_crop_takes_away_are_forgotten(folder):
    whole, part = dataset_of(folder)[0]['sample'], dataset_of(folder, Crop(0, 0, 4, 4))[0]['sample']
    present = set(part.panoptic_map.unique().tolist()) - {0}
    assert {s['id'] for s in part.segments} == present and len(present) < len(whole.segments)


def test_an_id_that_is_not_listed_is_an_error(folder):
    file = folder / 'annotations' / 'panoptic_train.json'
    content = json.loads(file.read_text())
    gone = content['annotations'][0]['segments_info'].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f'000000.png has the id {gone["id"]} in {gone["area"]} '
                                        'pixels, which segments_info does not list'):
        dataset_of(folder)[0]


def test_unknown_categories_and_images_are_told(folder):
    file = folder / 'annotations' / 'panoptic_train.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['image_id'] = 99
    file.write_text(json.dumps(content))
    dataset = dataset_of(folder)
    assert len(dataset) == 2
    assert [d.reason for d in dataset.dropped] == ['image_id is not one of images',
                                                   'image has no annotation']
    content['annotations'][1]['segments_info'][0]['category_id'] = 40
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match='category_id 40, which is not one of categories'):
        len(dataset_of(folder))
