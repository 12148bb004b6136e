from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openlab.data.datasets.segmentation import SegmentationDataset
from openlab.data.errors import DataError
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

STREETS = Path(__file__).parents[4] / 'shared' / 'data' / 'street-scenes'
PIPELINE = [LoadImage(), LoadAnnotations(), PackInputs()]
MASK = np.array([[0, 1, 2], [2, 11, 255]], np.uint8)


def dataset_of(folder, **more):
    return SegmentationDataset(data_root=folder, pipeline=PIPELINE, **more)


def map_of(folder, **more):
    return dataset_of(folder, **more)[0]['sample'].semantic_map.tolist()


def test_pairs_are_matched_by_name_and_the_rest_is_told(tmp_path, files):
    files.pairs(tmp_path, [MASK, MASK, MASK])
    (tmp_path / 'images' / 'train' / '1.jpg').unlink()
    (tmp_path / 'masks' / 'train' / '2.png').unlink()
    dataset = dataset_of(tmp_path)
    assert len(dataset) == 1 and dataset.metainfo['classes'] == ()
    assert dataset.labels() == [[]]
    assert files.reasons(dataset) == ['mask without an image in images/train',
                                      'no mask 2.png in masks/train']
    item = dataset[0]
    assert item['inputs'].shape == (3, 2, 3) and item['sample'].semantic_map.tolist() == \
        MASK.tolist()
    assert dataset.source(0) == str(tmp_path / 'masks' / 'train' / '0.png')


def test_values_are_ignored_or_shifted_as_the_config_says(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    assert map_of(tmp_path, ignore_index=11) == [[0, 1, 2], [2, 255, 255]]
    assert map_of(tmp_path, ignore_index=[11, 0]) == [[255, 1, 2], [2, 255, 255]]
    assert map_of(tmp_path, reduce_zero_label=True) == [[255, 0, 1], [1, 10, 255]]
    assert map_of(tmp_path, reduce_zero_label=True, ignore_index=11, classes=['a', 'b']) == [
        [255, 0, 1], [1, 255, 255]]


def test_a_class_beyond_the_names_is_an_error_with_its_place(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    with pytest.raises(DataError, match=r'0\.png has class 11 at x=1, y=1, but there are 3 '
                                        r'classes, 0 to 2.*annotation: .*0\.png'):
        map_of(tmp_path, classes=['a', 'b', 'c'])
    assert map_of(tmp_path, classes=['a', 'b', 'c'], ignore_index=11)[1] == [2, 255, 255]
    with pytest.raises(DataError, match='has class 11 at x=1, y=1, but there are 10 classes from '
                                        '1 on'):
        map_of(tmp_path, classes=[str(i) for i in range(10)], reduce_zero_label=True)


def test_masks_of_colours_are_looked_up_in_the_palette(tmp_path, files):
    colours = np.array([[[0, 0, 0], [9, 8, 7]], [[9, 8, 7], [1, 1, 1]]], np.uint8)
    files.pairs(tmp_path, [colours[..., 0]])
    Image.fromarray(colours).save(tmp_path / 'masks' / 'train' / '0.png')
    palette = [[9, 8, 7], [0, 0, 0]]
    assert map_of(tmp_path, palette=palette, colour_masks=True) == [[1, 0], [0, 255]]
    with pytest.raises(DataError, match=r'no colour of the palette; its first pixel is \[0, 0, 0'):
        map_of(tmp_path, palette=[[3, 3, 3]], colour_masks=True)
    with pytest.raises(DataError, match='must have one channel'):
        map_of(tmp_path)
    with pytest.raises(ValueError, match='colour_masks=True needs palette'):
        dataset_of(tmp_path, colour_masks=True)


def test_a_palette_image_keeps_its_indices(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    image = Image.fromarray(MASK, mode='P')
    image.putpalette([i for i in range(256) for _ in range(3)])
    image.save(tmp_path / 'masks' / 'train' / '0.png')
    assert map_of(tmp_path) == MASK.tolist()


def test_a_mask_of_another_size_is_an_error(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    files.image(tmp_path / 'images' / 'train' / '0.jpg', size=(5, 4))
    with pytest.raises(DataError, match=r'0\.png is \(2, 3\) but its image is \(4, 5\)'):
        map_of(tmp_path)


def test_suffixes_lists_and_names_from_files(tmp_path, files):
    files.pairs(tmp_path, [MASK, MASK])
    for number in range(2):
        (tmp_path / 'images' / 'train' / f'{number}.jpg').rename(
            tmp_path / 'images' / 'train' / f'{number}_photo.jpg')
    with pytest.raises(DataError, match='no items'):
        len(dataset_of(tmp_path))
    with pytest.raises(DataError, match=r"ends with '_foto\.jpg'; it has 0_photo\.jpg"):
        len(dataset_of(tmp_path, img_suffix='_foto.jpg'))
    (tmp_path / 'list.txt').write_text('1\n7\n')
    (tmp_path / 'classes.txt').write_text('x\ny\n')
    dataset = dataset_of(tmp_path, img_suffix='_photo.jpg', ann_file='list.txt')
    assert [dataset.get_info(i)['seg_path'] for i in range(len(dataset))] == ['masks/train/1.png']
    assert files.reasons(dataset) == ['no such image and mask']
    assert dataset.metainfo['classes'] == ('x', 'y')


def test_images_without_masks_can_be_predicted(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    assert dataset_of(tmp_path, mask_dir=None)[0]['sample'].semantic_map is None


@pytest.mark.skipif(not STREETS.is_dir(), reason='the street scenes are not here')
def test_the_street_scenes_are_read():
    found = {part: SegmentationDataset(f'images/{part}', f'masks/{part}', STREETS, PIPELINE,
                                       classes=[str(i) for i in range(11)], ignore_index=11)
             for part in ('train', 'val', 'test')}
    assert [len(d) for d in found.values()] == [367, 101, 233]
    values = found['val'][0]['sample'].semantic_map.unique().tolist()
    assert values[-1] in (10, 255) and 11 not in values and len(values) > 5
