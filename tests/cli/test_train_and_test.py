from __future__ import annotations

import argparse
import json

import pytest

from openlab.cli import main, train

CONFIG = '''
from torch.optim import AdamW

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.datasets.digits import Digits
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.packing import PackInputs
from openlab.engine.hooks.checkpoint import CheckpointHook
from openlab.engine.loops import EpochTrainLoop, TestLoop
from openlab.engine.optim import OptimWrapper
from openlab.heads.linear_head import LinearHead
from openlab.metrics.accuracy import Accuracy

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[78.] * 3, std=[96.] * 3),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1,), base_channels=4, stem='conv3',
                  out_stages=(2,)),
    head=dict(type=LinearHead, num_classes=10))
train_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=Digits, split='val', pipeline=[dict(type=PackInputs)]))
val_dataloader = dict(
    batch_size=64, num_workers=0,
    dataset=dict(type=Digits, split='val', pipeline=[dict(type=PackInputs)]))
val_evaluator = dict(type=Accuracy)
train_cfg = dict(type=EpochTrainLoop, max_epochs=1, max_batches=4)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=0.01))
auto_scale_lr = dict(base_batch_size=16, enable=False)
test_cfg = dict(type=TestLoop, max_batches=1)
default_hooks = dict(run_folder=None, checkpoint=dict(type=CheckpointHook, save_best='auto'))
loggers = []
'''


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Folder with a config and a short training of it."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'digits.py').write_text(CONFIG)
    code = main(['train', str(folder / 'digits.py'), '--work-dir', str(folder / 'work'),
                 '--seed', '1'])
    assert code == 0
    return folder


def test_training_ends_with_the_metric_table_and_the_files(tmp_path, run, capsys):
    assert main(['train', str(run / 'digits.py'), '--work-dir', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'metric' in out
    assert 'accuracy/top1' in out
    assert 'checkpoints/epoch_0001' in out
    assert (tmp_path / 'predictions.png').stat().st_size > 1000


def test_a_dump_evaluates_to_the_same_result_without_the_model(run, capsys, tmp_path):
    config, weights = str(run / 'digits.py'), str(run / 'work' / 'checkpoints' / 'best')
    assert main(['test', config, weights, '--dump', str(tmp_path / 'p.json'),
                 '--out', str(tmp_path / 'a.json')]) == 0
    assert main(['test', config, '--from-dump', str(tmp_path / 'p.json'),
                 '--out', str(tmp_path / 'b.json')]) == 0
    first, second = (json.loads((tmp_path / n).read_text()) for n in ('a.json', 'b.json'))
    assert first['metrics'] == second['metrics'] != {}
    assert f'accuracy/top1 | {first["metrics"]["accuracy/top1"]:.4f}' in capsys.readouterr().out


def test_test_time_augmentation_changes_what_is_predicted(run, tmp_path):
    config, weights = str(run / 'digits.py'), str(run / 'work' / 'checkpoints' / 'last')
    for name, extra in (('plain', []), ('tta', ['--tta'])):
        dump = str(tmp_path / f'{name}.json')
        assert main(['test', config, weights, '--dump', dump, *extra]) == 0
    plain, tta = (json.loads((tmp_path / f'{n}.json').read_text())['rows'][0]['prediction']
                  for n in ('plain', 'tta'))
    assert plain['label_probs']['values'] != tta['label_probs']['values']


def test_testing_needs_weights(run, capsys):
    assert main(['test', str(run / 'digits.py')]) == 2
    assert 'no weights to test' in capsys.readouterr().err


def test_a_dump_goes_with_nothing_else(run, capsys):
    assert main(['test', str(run / 'digits.py'), '--from-dump', 'p.json', '--tta']) == 2
    assert '--from-dump evaluates a file' in capsys.readouterr().err


def test_a_mistyped_key_ends_with_code_2(run, capsys):
    assert main(['train', str(run / 'digits.py'), '--set', 'train_cfg.max_epoch=3']) == 2
    assert 'did you mean max_epochs' in capsys.readouterr().err


def test_a_bad_batch_size_ends_with_code_2(run, capsys):
    assert main(['train', str(run / 'digits.py'), '--batch-size', 'many']) == 2
    assert "--batch-size takes a positive number or 'auto'" in capsys.readouterr().err


def test_each_process_of_a_launch_gets_the_same_options_but_gpus():
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = ['c.py', '--work-dir', 'w', '--seed', '0', '--amp', '--overfit-batch', '--resume',
             '--fast-dev-run', '2', '--set', 'a=1', 'b.c=2', '--compile', 'blocks']
    before = parser.parse_args([*given, '--gpus', '4'])
    after = parser.parse_args(train.relaunch_arguments(before)[1:])
    assert {**vars(before), 'gpus': None} == vars(after)


def test_a_resume_without_its_checkpoint_leaves_nothing_behind(tmp_path, run, capsys):
    (run / 'recorded.py').write_text(CONFIG.replace('run_folder=None, ', ''))
    work, config = tmp_path / 'work', str(run / 'recorded.py')
    assert main(['train', config, '--work-dir', str(work), '--resume',
                 str(tmp_path / 'nowhere')]) == 2
    assert 'no checkpoint at' in capsys.readouterr().err
    assert not work.exists()
    assert main(['train', config, '--work-dir', str(work)]) == 0
    assert len(list(work.glob('starts/*/run.json'))) == 1
