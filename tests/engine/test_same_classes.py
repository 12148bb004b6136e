"""The same label must mean the same class in every part of the data and in the weights."""

from __future__ import annotations

import csv
import logging

import pytest
from PIL import Image

from openlab.algorithms.retrieval.image_retriever import ImageRetriever
from openlab.cli import main
from openlab.engine.checks import check_learned_classes, check_same_classes

from .test_checks import loader, model

CONFIG = '''
pipeline = [dict(type='LoadImage'), dict(type='Resize', size=8), dict(type='PackInputs')]
model = dict(
    type='ImageClassifier', preprocessor=dict(type='ImagePreprocessor'),
    backbone=dict(type='ResNet', block='basic', num_blocks=(1,), base_channels=4, stem='conv3',
                  out_stages=(2,)),
    head=dict(type='LinearHead', num_classes=3))
train_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageFolder', data_root='data', folder='train', pipeline=pipeline))
val_dataloader = dict(
    batch_size=3, num_workers=0,
    dataset=dict(type='ImageFolder', data_root='data', folder='val', pipeline=pipeline))
val_evaluator = dict(type='Accuracy')
train_cfg = dict(type='EpochTrainLoop', max_epochs=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(run_folder=None)
loggers = []
'''


@pytest.fixture
def project(tmp_path):
    for part in ('train', 'val'):
        for name in ('ant', 'bee', 'cat'):
            (tmp_path / 'data' / part / name).mkdir(parents=True)
            Image.new('RGB', (8, 8)).save(tmp_path / 'data' / part / name / '1.png')
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path


def train(project, *more):
    return main(['train', str(project / 'config.py'), '--work-dir', str(project / 'work'), *more])


def test_a_class_folder_renamed_in_validation_stops_the_training(project, capsys):
    (project / 'data' / 'val' / 'ant').rename(project / 'data' / 'val' / 'dog')
    assert train(project) == 2
    error = capsys.readouterr().err
    assert 'val_dataloader.dataset has other classes than train_dataloader.dataset' in error
    assert 'it lacks ant and has dog in addition' in error and 'classes=[...]' in error


def test_a_class_missing_in_validation_is_named_and_the_remedies_work(project, capsys):
    folder = project / 'data' / 'val' / 'ant'
    (folder / '1.png').unlink()
    folder.rmdir()
    assert train(project) == 2
    assert 'it lacks ant; give both' in capsys.readouterr().err
    assert train(project, '--set', "val_dataloader.dataset.classes=['ant', 'bee', 'cat']") == 0
    folder.mkdir()
    assert train(project) == 0


def test_weights_know_the_classes_that_they_learned(project, capsys):
    assert train(project) == 0
    weights = str(project / 'work' / 'checkpoints' / 'last')
    test = ['test', str(project / 'config.py'), weights]
    assert main(test) == 0
    (project / 'data' / 'val' / 'ant').rename(project / 'data' / 'val' / 'dog')
    capsys.readouterr()
    assert main(test) == 2
    assert ('has other classes than the loaded weights, so its labels would mean other classes: '
            'it lacks ant and has dog in addition') in capsys.readouterr().err
    (project / 'data' / 'val' / 'dog' / '1.png').unlink()
    (project / 'data' / 'val' / 'dog').rmdir()
    assert main(test) == 2
    error = capsys.readouterr().err
    assert 'it lacks ant; ' in error and 'set it to 2' not in error


def test_the_order_counts_and_a_part_without_names_is_not_guessed():
    with pytest.raises(ValueError, match='it has them in another order: b, a'):
        check_same_classes(model(2), ('a', 'b'), loader([0], ('b', 'a')), 'val', 'train')
    check_same_classes(model(2), ('a', 'b'), loader([0]), 'val', 'train')
    check_same_classes(model(2), (), loader([0], ('b', 'a')), 'val', 'train')


def test_a_retriever_may_meet_classes_that_it_was_not_trained_on():
    retriever = model(2)
    with pytest.raises(ValueError, match='it lacks a, b and has c, d in addition'):
        check_same_classes(retriever, ('a', 'b'), loader([0], ('c', 'd')), 'val', 'train')
    retriever.gives_features = ImageRetriever.gives_features
    check_same_classes(retriever, ('a', 'b'), loader([0], ('c', 'd')), 'val', 'train')


def test_another_vocabulary_of_the_weights_is_told_but_no_error(caplog):
    with caplog.at_level(logging.WARNING, 'openlab'):
        check_learned_classes(model(2), ['n01', 'n02'], loader([0], ('tench', 'carp')), 'test')
    assert 'test has not one of the class names that the weights tell' in caplog.text


def test_a_table_may_lack_items_of_a_class_that_the_config_names(project):
    from openlab.data.datasets.lists import CsvDataset

    with (project / 'val.csv').open('w', newline='') as stream:
        csv.writer(stream).writerows([('img_path', 'label'), ('1.png', 'bee'), ('2.png', 'cat')])
    dataset = CsvDataset('val.csv', project, classes=['ant', 'bee', 'cat'])
    assert list(dataset.labels()) == [1, 2]
