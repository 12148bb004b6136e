import json
from pathlib import Path

import numpy as np
import pytest

from openlab.data.errors import DataError
from openlab.data.layout import part_of, recognise

MASK = np.array([[0, 1, 2], [2, 3, 255]], np.uint8)


def test_coco_in_its_own_and_in_other_namings(tmp_path, files):
    content = files.coco(tmp_path / 'plain', [files.annotation(1, 11, 3, [0, 0, 5, 5])])
    layout = recognise(tmp_path / 'plain')
    assert (layout.kind, layout.classes) == ('coco', ('cat', 'dog', 'owl'))
    assert len(layout.open('train')) == 2
    for part, folder in (('train2017', 'train2017'), ('val2017', 'val2017')):
        for image in content['images']:
            files.image(tmp_path / 'official' / folder / image['file_name'])
        file = tmp_path / 'official' / 'annotations' / f'instances_{part}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        other = tmp_path / 'beside' / part.removesuffix('2017')
        for image in content['images']:
            files.image(other / image['file_name'])
        (other / '_annotations.coco.json').write_text(json.dumps(content))
    (tmp_path / 'official' / 'annotations' / 'captions_val2017.json').write_text('{}')
    for name in ('official', 'beside'):
        layout = recognise(tmp_path / name)
        assert set(layout.parts) == {'train', 'val'}, name
        dataset = layout.open('val')
        assert (dataset.data_root / dataset.get_info(0)['img_path']).is_file()


def test_images_that_cannot_be_found_are_an_error(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5])])
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    with pytest.raises(DataError, match=r"names the image 'a\.png', which is in none of"):
        recognise(tmp_path)


def test_voc_may_stand_two_folders_below(tmp_path, files):
    files.voc(tmp_path / 'VOCdevkit' / 'VOC2012', [[('dog', (1, 1, 9, 9), False)],
                                                   [('ant', (1, 1, 9, 9), False)]])
    layout = recognise(tmp_path)
    assert (layout.kind, layout.classes) == ('voc', ('ant', 'dog'))
    assert layout.root == tmp_path / 'VOCdevkit' / 'VOC2012' and list(layout.parts) == ['train']


def test_yolo_in_both_orders_of_folders(tmp_path, files):
    files.yolo(tmp_path / 'a', ['0 0.5 0.5 0.5 0.5'])
    files.yolo(tmp_path / 'b', ['0 0.5 0.5 0.5 0.5'])
    for kind in ('images', 'labels'):
        (tmp_path / 'b' / 'valid').mkdir(exist_ok=True)
        (tmp_path / 'b' / kind / 'train').rename(tmp_path / 'b' / 'valid' / kind)
    assert recognise(tmp_path / 'a').parts == {
        'train': {'img_dir': 'images/train', 'label_dir': 'labels/train'}}
    layout = recognise(tmp_path / 'b')
    assert layout.kind == 'yolo' and layout.parts['train']['img_dir'] == 'valid/images'
    assert layout.notes == ["there is no part for training; 'val' is taken"]
    assert len(layout.open('train').get_info(0)['boxes']) == 1


def test_pairs_tell_that_their_names_are_made_up(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    files.pairs(tmp_path, [MASK], 'val')
    layout = recognise(tmp_path)
    assert layout.kind == 'pairs' and layout.classes == tuple(f'class_{i}' for i in range(4))
    assert 'the values 0 to 3 occur in the first 1 masks of masks/train' in layout.notes[0]
    (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n')
    assert recognise(tmp_path).classes == ('a', 'b', 'c', 'd') and not recognise(tmp_path).notes


def test_class_folders_with_and_without_parts(tmp_path, files):
    for name in ('cat', 'dog'):
        files.image(tmp_path / 'flat' / name / '1.png')
        for part in ('train', 'test'):
            files.image(tmp_path / 'parts' / part / name / '1.png')
    assert recognise(tmp_path / 'flat').parts == {
        'train': {'folder': '', 'classes': ['cat', 'dog']}}
    layout = recognise(tmp_path / 'parts')
    assert layout.kind == 'image-folder' and set(layout.parts) == {'train', 'test'}
    assert len(layout.open('test')) == 2


@pytest.fixture
def parts(tmp_path, files):
    for part in ('train', 'val'):
        for name in ('cat', 'dog', 'owl'):
            files.image(tmp_path / part / name / '1.png')
    return tmp_path


def test_an_empty_class_folder_is_told_and_does_not_cost_the_part(parts):
    (parts / 'train' / 'dog' / '1.png').unlink()
    layout = recognise(parts)
    assert set(layout.parts) == {'train', 'val'} and layout.classes == ('cat', 'dog', 'owl')
    assert layout.notes == [f'{Path("train/dog")} has no images']
    (parts / 'train' / 'dog' / 'notes.txt').touch()
    with pytest.raises(DataError, match=r"part 'train' cannot be used: no images in train.dog;"):
        recognise(parts)


def test_images_may_lie_deeper_within_their_class(parts, files):
    (parts / 'train' / 'dog' / '1.png').unlink()
    files.image(parts / 'train' / 'dog' / 'sub' / '1.png')
    layout = recognise(parts)
    assert layout.notes == [] and len(layout.open('train')) == 3


def test_folders_of_parts_or_of_other_files_are_no_classes(tmp_path, files):
    for part in ('train', 'val'):
        files.image(tmp_path / 'single' / part / 'cat' / '1.png')
    files.image(tmp_path / 'other' / 'pictures' / '1.png')
    (tmp_path / 'other' / 'texts').mkdir()
    (tmp_path / 'other' / 'texts' / '1.txt').touch()
    for name in ('single', 'other'):
        with pytest.raises(DataError, match='not any layout that is known'):
            recognise(tmp_path / name)


def test_parts_with_other_classes_are_refused_by_name(parts, files):
    (parts / 'val' / 'dog').rename(parts / 'val' / 'dogs')
    with pytest.raises(DataError, match=r"the part 'val' has other classes than 'train': it lacks "
                                        r'dog and has dogs in addition'):
        recognise(parts)
    annotations = [files.annotation(1, 11, 3, [0, 0, 5, 5])]
    files.coco(parts / 'coco', annotations)
    files.coco(parts / 'coco', annotations, ((3, 'cat'), (7, 'cow')), name='val.json')
    with pytest.raises(DataError, match='it lacks dog, owl and has cow in addition'):
        recognise(parts / 'coco')


def test_a_kind_can_be_asked_for_and_nothing_known_says_what_was_looked_for(tmp_path, files):
    files.pairs(tmp_path, [MASK])
    files.coco(tmp_path, [files.annotation(1, 11, 3, [0, 0, 5, 5])])
    assert recognise(tmp_path).kind == 'coco' and recognise(tmp_path, 'pairs').kind == 'pairs'
    with pytest.raises(DataError, match=r'has not voc that is known; it has images, masks, train'):
        recognise(tmp_path, 'voc')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match=r'it has nothing\. Looked for: COCO'):
        recognise(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match='no such folder'):
        recognise(tmp_path / 'none')


@pytest.mark.parametrize('name, part', [
    ('instances_train2017', 'train'), ('valid/_annotations', 'val'), ('x_validation', 'val'),
    ('testing', None), ('a/test.json', 'test'), ('medieval', None)])
def test_parts_are_read_from_names(name, part):
    assert part_of(name) == part
