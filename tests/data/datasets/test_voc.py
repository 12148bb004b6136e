from pathlib import Path

import pytest

from openlab.data.datasets.voc import VocDataset
from openlab.data.errors import DataError
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

BLOOD_CELLS = Path(__file__).parents[4] / 'shared' / 'data' / 'blood-cells' / 'BCCD'
OBJECTS = [[('dog', (1, 1, 20, 10), False), ('cat', (3, 2, 4, 3), True)], []]


def dataset_of(folder, **more):
    return VocDataset('ImageSets/Main/train.txt', folder, **{
        'pipeline': [LoadImage(), LoadAnnotations(), PackInputs()], **more})


def test_pixels_count_from_one_and_both_corners_belong_to_the_object(tmp_path, files):
    files.voc(tmp_path, OBJECTS)
    dataset = dataset_of(tmp_path)
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    sample = dataset[0]['sample']
    assert sample.boxes.tolist() == [[0, 0, 20, 10], [2, 1, 4, 3]]
    assert sample.labels.tolist() == [1, 0] and len(dataset[1]['sample']) == 0
    zero_based = dataset_of(tmp_path, one_based=False)
    assert zero_based.get_info(0)['boxes'].tolist() == [[1, 1, 20, 10]]
    assert files.reasons(zero_based) == ['box is smaller than min_size=2 pixels']
    assert dataset.source(1) == str(tmp_path / 'Annotations' / 'b.xml')


def test_difficult_objects_are_ignored_kept_or_dropped(tmp_path, files):
    files.voc(tmp_path, OBJECTS)
    assert dataset_of(tmp_path).get_info(0)['is_crowd'].tolist() == [False, True]
    kept = dataset_of(tmp_path, difficult='keep')
    assert kept.get_info(0)['is_crowd'].tolist() == [False, False]
    dropped = dataset_of(tmp_path, difficult='drop', classes=['cat', 'dog'])
    assert dropped.get_info(0)['labels'].tolist() == [1]
    assert files.reasons(dropped) == ['object is difficult']
    with pytest.raises(ValueError, match="'ignore', 'keep' or 'drop', got 'never'"):
        dataset_of(tmp_path, difficult='never')


def test_classes_of_the_config_fix_the_order_even_if_some_do_not_occur(tmp_path, files):
    files.voc(tmp_path, OBJECTS)
    dataset = dataset_of(tmp_path, classes=['owl', 'dog'])
    assert dataset.metainfo['classes'] == ('owl', 'dog')
    assert dataset.get_info(0)['labels'].tolist() == [1]
    assert "1 objects 'cat'" in dataset.dropped[0].source


def test_damaged_and_missing_files_are_told(tmp_path, files):
    files.voc(tmp_path, OBJECTS)
    names = tmp_path / 'ImageSets' / 'Main' / 'train.txt'
    names.write_text('a  1\nnone -1\nlost\n')
    files.image(tmp_path / 'JPEGImages' / 'lost.jpg')
    dataset = dataset_of(tmp_path)
    assert len(dataset) == 1
    assert files.reasons(dataset) == ['JPEGImages has no image of this name',
                                      'annotation file is missing']
    (tmp_path / 'Annotations' / 'a.xml').write_text('<annotation><object>')
    with pytest.raises(DataError, match=r'a\.xml is not XML: .*line 1'):
        len(dataset_of(tmp_path))
    names.write_bytes(b'a\nb\xff\n')
    with pytest.raises(DataError, match='not UTF-8 text: byte 0xff in line 2'):
        len(dataset_of(tmp_path))


def test_objects_without_name_or_numbers_are_told(tmp_path, files):
    files.voc(tmp_path, [[('', (1, 1, 5, 5), False), ('dog', ('x', 1, 5, 5), False),
                          ('dog', (30, 1, 35, 5), False)], []])
    dataset = dataset_of(tmp_path)
    assert files.reasons(dataset) == ['box is not four finite numbers',
                                      'box lies outside of its image', 'object has no name']
    assert 'a.xml, object 2, image JPEGImages/a.jpg of 20 x 10' in str(dataset.dropped[1])


def test_sizes_that_the_file_does_not_tell_are_read_from_the_image(tmp_path, files):
    files.voc(tmp_path, OBJECTS)
    xml = tmp_path / 'Annotations' / 'a.xml'
    xml.write_text(xml.read_text().replace('<width>20</width>', '<width>0</width>'))
    assert dataset_of(tmp_path).sizes().tolist() == [[10, 20], [10, 20]]
    assert len(VocDataset(None, tmp_path)) == 2  # without a list: every XML file


@pytest.mark.skipif(not BLOOD_CELLS.is_dir(), reason='the blood cells are not here')
def test_the_blood_cells_lose_exactly_their_two_invalid_boxes():
    found = {part: VocDataset(f'ImageSets/Main/{part}.txt', BLOOD_CELLS)
             for part in ('train', 'val', 'test')}
    assert [len(d) for d in found.values()] == [205, 87, 72]
    assert {d.metainfo['classes'] for d in found.values()} == {('Platelets', 'RBC', 'WBC')}
    dropped = [d for dataset in found.values() for d in dataset.dropped]
    assert sorted(Path(d.source.split(',')[0]).stem for d in dropped) == [
        'BloodImage_00338', 'BloodImage_00343']
    counts = [sum(int((labels == k).sum()) for d in found.values() for labels in d.labels())
              for k in range(3)]
    assert sum(counts) + 2 == 4155 + 372 + 361
