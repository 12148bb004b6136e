import numpy as np
import pytest

from openlab.data.datasets.yolo import YoloDataset
from openlab.data.errors import DataError
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

PIPELINE = [LoadImage(), LoadAnnotations(), PackInputs()]


def test_lines_are_parts_of_the_image(tmp_path, files):
    files.yolo(tmp_path, ['1 0.5 0.5 0.5 1.0\n\n0 0.1 0.2 0.1 0.2\n', None, ''])
    dataset = YoloDataset(data_root=tmp_path, pipeline=PIPELINE)
    assert dataset.metainfo['classes'] == ('cat', 'dog') and len(dataset) == 3
    sample = dataset[0]['sample']
    assert np.allclose(sample.boxes, [[5, 0, 15, 10], [1, 1, 3, 3]])
    assert sample.labels.tolist() == [1, 0] and sample.masks is None
    assert len(dataset[1]['sample']) == len(dataset[2]['sample']) == 0
    assert dataset.dropped == [] and dataset.sizes().tolist() == [[10, 20]] * 3
    assert dataset.source(0) == str(tmp_path / 'labels' / 'train' / '0.txt')


def test_outlines_become_boxes_and_masks(tmp_path, files):
    files.yolo(tmp_path, ['0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n1 0.5 0.5 0.2 0.2\n'])
    sample = YoloDataset(data_root=tmp_path, pipeline=PIPELINE)[0]['sample']
    assert np.allclose(sample.boxes, [[2, 1, 6, 5], [8, 4, 12, 6]])
    assert sample.masks.sum((1, 2)).tolist() == [16, 8]


@pytest.mark.parametrize('line, reason', [
    ('2 0.5 0.5 0.1 0.1', 'class 2 but there are 2 classes, 0 to 1'),
    ('-1 0.5 0.5 0.1 0.1', 'class -1 but there are 2 classes, 0 to 1'),
    ('cat 0.5 0.5 0.1 0.1', "not numbers: 'cat 0.5 0.5 0.1 0.1'"),
    ('0 0.5 0.5 0.1', '4 numbers; a line holds class cx cy width height'),
    ('0 10 5 4 4', 'coordinates must be parts of the image (0 to 1), not pixels'),
    ('0 0.5 0.5 0 0.2', 'box has no area'),
    ('0 nan 0.5 0.1 0.2', 'box is not four finite numbers'),
    ('0 1.4 0.5 0.2 0.2', 'box lies outside of its image'),
])
def test_bad_lines_are_told_with_their_number(tmp_path, files, line, reason):
    files.yolo(tmp_path, [f'0 0.5 0.5 0.5 0.5\n{line}\n'])
    dataset = YoloDataset(data_root=tmp_path)
    assert len(dataset.get_info(0)['boxes']) == 1
    (dropped,) = dataset.dropped
    assert dropped.reason.startswith(reason) and '0.txt, line 2' in dropped.source


def test_a_text_file_that_is_not_utf8_is_named(tmp_path, files):
    files.yolo(tmp_path, [''])
    (tmp_path / 'labels' / 'train' / '0.txt').write_bytes(b'0 0.5 0.5 0.1 0.1\n\xff\xfe')
    with pytest.raises(DataError, match=r'0\.txt is not UTF-8 text: byte 0xff in line 2'):
        len(YoloDataset(data_root=tmp_path))


def test_names_come_from_yaml_or_text_or_the_config(tmp_path, files):
    files.yolo(tmp_path, ['1 0.5 0.5 0.5 0.5'])
    yaml = tmp_path / 'data.yaml'
    yaml.write_text('names:\n  0: ant\n  1: bee\n')
    assert YoloDataset(data_root=tmp_path).metainfo['classes'] == ('ant', 'bee')
    yaml.write_text('names:\n  0: ant\n  2: bee\n')
    with pytest.raises(DataError, match='indices 0 to 1, got 0, 2'):
        len(YoloDataset(data_root=tmp_path))
    yaml.unlink()
    with pytest.raises(DataError, match=r'neither data\.yaml nor classes\.txt'):
        len(YoloDataset(data_root=tmp_path))
    assert len(YoloDataset(data_root=tmp_path, classes=['x', 'y'])) == 1
    (tmp_path / 'classes.txt').write_text('up\ndown\n')
    assert YoloDataset(data_root=tmp_path).metainfo['classes'] == ('up', 'down')
    with pytest.raises(DataError, match='but the file names up, down'):
        len(YoloDataset(data_root=tmp_path, classes=['x', 'y']))


def test_images_may_be_listed_and_labels_may_stand_elsewhere(tmp_path, files):
    files.yolo(tmp_path, ['0 0.5 0.5 0.5 0.5', '1 0.5 0.5 0.5 0.5'])
    (tmp_path / 'train.txt').write_text('./images/train/1.png\n')
    dataset = YoloDataset('train.txt', data_root=tmp_path)
    assert [v.tolist() for v in dataset.labels()] == [[1]]
    (tmp_path / 'labels').rename(tmp_path / 'texts')
    moved = YoloDataset('images/train', 'texts/train', data_root=tmp_path)
    assert [v.tolist() for v in moved.labels()] == [[0], [1]]


def test_a_damaged_image_is_told(tmp_path, files):
    files.yolo(tmp_path, ['0 0.5 0.5 0.5 0.5', ''])
    (tmp_path / 'images' / 'train' / '0.png').write_bytes(b'no image')
    dataset = YoloDataset(data_root=tmp_path)
    assert len(dataset) == 1 and 'not an image, or damaged' in files.reasons(dataset)[0]
