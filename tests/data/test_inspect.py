"""``openlab data``: what it says of good and of damaged data."""

import cv2
import numpy as np
import pytest
from PIL import Image

from openlab.cli import main
from openlab.data.inspect import draw_tokens

CONFIG = '''
model = dict(type='ImageClassifier', head=dict(type='LinearHead', num_classes={num_classes}))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='{kind}', data_root='images', {options} pipeline=[
        dict(type='LoadImage'), dict(type='Resize', size=(12, 16)), dict(type='RandomFlip'),
        dict(type='PackInputs')]))
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, color in (('cat/1', 'red'), ('cat/2', 'red'), ('cat/3', 'red'), ('dog/1', 'blue'),
                        ('dog/2', 'blue'), ('dog/3', 'blue')):
        file = tmp_path / 'images' / f'{name}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 15), color).save(file)
    monkeypatch.chdir('/')

    def write(num_classes=2, kind='ImageFolder', options=''):
        config = tmp_path / 'config.py'
        config.write_text(CONFIG.format(num_classes=num_classes, kind=kind, options=options))
        return config

    return tmp_path, write


def test_good_data_pass_from_any_folder(project, capsys):
    _, write = project
    assert main(['data', 'check', str(write()), '--decode']) == 0
    text = capsys.readouterr().out
    assert 'items kept: 6' in text and 'classes: 2: cat, dog' in text
    assert 'labels: 0 to 1; items of a class: 3 to 3' in text
    assert 'unreadable images: 0 of 6' in text and text.endswith('no problems\n')


@pytest.mark.parametrize('num_classes, message', [
    (1, 'label 1 does not fit model.head.num_classes=1: labels must be from 0 to 0'),
    (5, 'the files have 2 classes but model.head.num_classes=5; set it to 2')])
def test_labels_are_held_against_the_model(project, capsys, num_classes, message):
    _, write = project
    assert main(['data', 'check', str(write(num_classes))]) == 1
    assert message in capsys.readouterr().out


def test_validation_is_told_what_it_lacks_and_not_to_shrink_the_model(project, capsys):
    root, write = project
    config = write()
    (root / 'val' / 'dog').mkdir(parents=True)
    (root / 'images' / 'dog' / '1.png').rename(root / 'val' / 'dog' / '1.png')
    config.write_text(config.read_text() + "val_dataloader = dict(batch_size=2, num_workers=0, "
                      "dataset=dict(type='ImageFolder', data_root='val'))")
    assert main(['data', 'check', str(config), '--split', 'val']) == 1
    text = capsys.readouterr().out
    assert ('PROBLEM: the classes are not those of train_dataloader.dataset: this set lacks cat; '
            'give both') in text
    assert 'set it to' not in text and text.endswith('\n1 problems\n')


def test_dropped_missing_and_unreadable_items_are_listed_with_reasons(project, capsys):
    root, write = project
    (root / 'images' / 'list.csv').write_text(
        'img_path,label\ncat/1.png,cat\n,cat\ndog/1.png,dog\ngone.png,dog\n')
    config = str(write(kind='CsvDataset', options="ann_file='list.csv',"))
    assert main(['data', 'check', config]) == 1
    text = capsys.readouterr().out
    assert 'items kept: 3' in text and 'items dropped: 1' in text
    assert "list.csv, line 3: no 'img_path'" in text
    assert 'missing images: 1 of 3' in text and 'list.csv, line 5' in text
    (root / 'images' / 'cat' / '1.png').write_bytes(b'no image')
    assert main(['data', 'check', config, '--decode']) == 1
    text = capsys.readouterr().out
    assert 'unreadable images: 2 of 3' in text and 'not an image, or damaged' in text


def test_an_empty_set_is_a_problem(project, capsys):
    root, write = project
    for file in (root / 'images').rglob('*.png'):
        file.unlink()
    assert main(['data', 'check', str(write())]) == 1
    assert 'PROBLEM: ImageFolder has no items' in capsys.readouterr().out


def test_show_draws_items_with_their_labels(project, tmp_path):
    _, write = project
    out = tmp_path / 'new' / 'items.png'
    assert main(['data', 'show', str(write()), '--num', '4', '--out', str(out)]) == 0
    picture = cv2.imread(str(out))
    assert picture.shape[0] > 100
    colors = {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0)}
    assert {(0, 0, 255), (255, 0, 0)} <= colors


def test_bench_times_every_stage(project, capsys):
    _, write = project
    assert main(['data', 'bench', str(write()), '--num', '8']) == 0
    text = capsys.readouterr().out
    for stage in ('annotation', '0 LoadImage', '1 Resize', '3 PackInputs', 'collate'):
        assert stage in text
    assert 'images/s per core' in text and 'loader, 0 workers' in text


def test_a_missing_split_is_named(project, capsys):
    _, write = project
    assert main(['data', 'show', str(write()), '--split', 'val']) == 2
    assert 'no val_dataloader; it has train_dataloader' in capsys.readouterr().err


def test_text_is_drawn_line_by_line_with_its_indents():
    one = draw_tokens('def add(a, b):')
    two = draw_tokens('def add(a, b):\n        return a + b')
    wrapped = draw_tokens('word ' * 60)
    assert len(one) < len(two) < len(wrapped) and one.shape[1] == two.shape[1]
    ink = np.flatnonzero((two[len(one):] < 128).any((0, 2)))
    assert ink.min() > np.flatnonzero((one < 128).any((0, 2))).min() + 30
    assert len(draw_tokens('')) == len(one)
