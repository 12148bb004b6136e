import json

import numpy as np
import pytest

from openlab.cli import main
from openlab.data.convert import convert
from openlab.data.errors import DataError
from openlab.data.generate.digit_scenes import make_digit_scenes
from openlab.data.layout import recognise

KINDS = ('coco', 'voc', 'yolo')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('convert') / 'scenes'
    make_digit_scenes(folder, train=3, val=2, size=64, say=lambda text: None)
    return folder


def contents(folder):
    """Boxes, labels and crowds of each image of each part, whatever the layout."""
    layout = recognise(folder)
    found = {}
    for part in layout.parts:
        dataset = layout.open(part)
        for index in range(len(dataset)):
            info = dataset.get_info(index)
            data = (dataset.data_root / info['img_path']).read_bytes()
            found[part, data] = (info['boxes'], info['labels'].tolist(), info['is_crowd'].tolist(),
                                 (info['height'], info['width']))
    return layout.classes, found


@pytest.mark.parametrize('path', [('voc', 'yolo', 'coco'), ('yolo', 'voc', 'coco'),
                                  ('coco', 'yolo', 'voc')])
def test_boxes_survive_every_way_round(scenes, tmp_path, path):
    classes, expected = contents(scenes)
    source = scenes
    for kind in path:
        report = convert(source, tmp_path / kind, kind, say=lambda text: None)
        source = tmp_path / kind
        assert recognise(source).kind == kind and report.num_images == {'train': 3, 'val': 2}
        assert report.dropped == []
    found_classes, found = contents(source)
    assert found_classes == classes and found.keys() == expected.keys()
    for key, (boxes, *rest) in expected.items():
        assert np.abs(found[key][0] - boxes).max() < 1e-2
        assert list(found[key][1:]) == rest


def test_masks_go_along_where_the_layout_can_hold_them(scenes, tmp_path):
    convert(scenes, tmp_path / 'coco', 'coco', say=lambda text: None)
    before = json.loads((scenes / 'annotations' / 'instances_val.json').read_text())
    after = json.loads((tmp_path / 'coco' / 'annotations' / 'instances_val.json').read_text())
    keys = ('segmentation', 'bbox', 'area', 'category_id', 'iscrowd', 'image_id')
    assert [[a[k] for k in keys] for a in after['annotations']] == \
        [[a[k] for k in keys] for a in before['annotations']]
    report = convert(scenes, tmp_path / 'voc', 'voc', say=lambda text: None)
    assert any('VOC files have no masks' in note for note in report.notes)
    report = convert(scenes, tmp_path / 'yolo', 'yolo', say=lambda text: None)
    assert any('holes or several parts' in note for note in report.notes)


def test_outlines_reach_yolo_files(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 7, [2, 1, 4, 4],
                                           segmentation=[[2, 1, 6, 1, 6, 5, 2, 5]])])
    convert(tmp_path, tmp_path / 'out', 'yolo', say=lambda text: None)
    line = (tmp_path / 'out' / 'labels' / 'train' / 'a.txt').read_text().split()
    assert line == ['1', '0.1', '0.1', '0.3', '0.1', '0.3', '0.5', '0.1', '0.5']


def test_crowds_become_difficult_and_yolo_files_lose_them(tmp_path, files):
    files.coco(tmp_path, [files.annotation(1, 11, 3, [2, 1, 4, 4], iscrowd=1)])
    convert(tmp_path, tmp_path / 'voc', 'voc', say=lambda text: None)
    assert '<difficult>1</difficult>' in (tmp_path / 'voc' / 'Annotations' / 'a.xml').read_text()
    report = convert(tmp_path, tmp_path / 'yolo', 'yolo', say=lambda text: None)
    assert [d.reason for d in report.dropped] == ['YOLO files have no crowds']


def test_the_command_says_what_was_left_out(tmp_path, files, capsys):
    files.voc(tmp_path / 'in', [[('dog', (1, 1, 20, 10), False), ('dog', (5, 5, 5, 5), False)],
                                []])
    command = ['data', 'convert', str(tmp_path / 'in'), str(tmp_path / 'out'), '--to', 'coco']
    assert main(command) == 0
    text = capsys.readouterr().out
    assert 'train: 2 images, 1 objects' in text
    assert 'left out: 1' in text and 'a.xml, object 2' in text
    assert main(command) == 0 and 'is complete already' in capsys.readouterr().out


def test_what_has_no_boxes_cannot_be_converted(tmp_path, files):
    files.pairs(tmp_path, [np.zeros((4, 5), np.uint8)])
    with pytest.raises(DataError, match="of the kind 'pairs', which has no boxes"):
        convert(tmp_path, tmp_path / 'out', 'coco')
    with pytest.raises(ValueError, match='target must be one of coco, voc, yolo'):
        convert(tmp_path, tmp_path / 'out', 'csv')
