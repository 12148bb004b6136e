"""Pre-training in a run: resumed to the last digit, the same in two processes as in one."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from openlab.config import load_config
from openlab.data.transforms.base import Compose
from openlab.data.transforms.crop import RandomResizedCrop
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.views import MultiView
from openlab.engine.hooks.base import Hook
from openlab.engine.runner import Runner
from openlab.layers.gather import gather_batches, mean_over_processes
from tests.algorithms.selfsup.test_transfer import METHODS, RESNET
from tests.algorithms.selfsup.two_processes import train
from tests.engine.helpers import NO_HOOKS

ROOT = Path(__file__).resolve().parents[3]
SCHEDULED = {'type': 'CosineRamp', 'start': 0.5, 'end': 1.0}
CHANGES = {
    'MoCoV3': {'momentum': SCHEDULED},
    'DINO': {'momentum': SCHEDULED, 'teacher_temperature': {
        'type': 'LinearRamp', 'start': 0.04, 'end': 0.07, 'epochs': 2}},
}
SMALL = {**RESNET, 'num_blocks': [1, 1], 'out_stages': [3]}


class Photos(torch.utils.data.Dataset):
    """Noise, cropped at random as the loader seeds it."""

    def __init__(self, num_views):
        crop = RandomResizedCrop(32)
        self.pipeline = Compose(
            [MultiView([[crop]], [num_views]) if num_views > 1 else crop, PackInputs()])
        self.images = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.pipeline({'img': self.images[index].copy(), 'img_id': index})


class Record(Hook):
    """All numbers of every iteration, and the weight decay that it used."""

    def __init__(self):
        self.rows = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        decay = runner.optim_wrapper.optimizer.param_groups[0]['weight_decay']
        self.rows[runner.iter] = {k: v.item() for k, v in outputs.items()} | {'decay': decay}


class Stop(Exception):
    pass


class StopAfter(Hook):
    """Break off as a crash would: nothing more is saved."""

    priority = 'VERY_LOW'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise Stop


def make_runner(method, folder, *hooks):
    parts = {k: SMALL if v is RESNET else v for k, v in METHODS[method].items()}
    freeze = [{'type': 'FreezeHook', 'patterns': ['student_head.last'], 'unfreeze_epoch': 1}]
    return Runner.from_config({
        'model': {'type': method, **parts, **CHANGES.get(method, {}), 'preprocessor': {
            'type': 'ImagePreprocessor', 'mean': [127.0] * 3, 'std': [70.0] * 3}},
        'work_dir': str(folder),
        'train_dataloader': {
            'dataset': Photos(1 if method == 'MAE' else 2), 'batch_size': 4, 'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': True}},
        'train_cfg': {'type': 'EpochTrainLoop', 'max_epochs': 3},
        'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.01, 'weight_decay': 0.04}},
        'param_scheduler': [
            {'type': 'CosineAnnealingLR', 'by_epoch': False},
            {'type': 'CosineAnnealingLR', 'by_epoch': False, 'param': 'weight_decay',
             'eta_min': 0.4}],
        'default_hooks': {**NO_HOOKS, 'checkpoint': {
            'type': 'CheckpointHook', 'interval': 2, 'by_epoch': False}},
        'custom_hooks': [*hooks, *(freeze if method == 'DINO' else [])],
        'loggers': [], 'randomness': {'seed': 0}, 'resume': True})


@pytest.mark.parametrize('method', list(METHODS))
def test_a_broken_off_pre_training_continues_digit_for_digit(method, tmp_path):
    whole = Record()
    expected = make_runner(method, tmp_path / 'whole', whole).train().state_dict()
    parts = Record()
    with pytest.raises(Stop):
        make_runner(method, tmp_path / 'parts', parts, StopAfter(5)).train()
    found = make_runner(method, tmp_path / 'parts', parts).train().state_dict()
    assert len(whole.rows) == 9
    assert parts.rows == whole.rows
    assert all(found[name].equal(value) for name, value in expected.items())


def test_schedules_run_over_the_whole_pre_training(tmp_path):
    record = Record()
    model = make_runner('DINO', tmp_path, record).train()
    waves = [(1 - math.cos(math.pi * i / 9)) / 2 for i in range(9)]
    rows = [record.rows[i] for i in range(9)]
    assert [r['momentum'] for r in rows] == pytest.approx([0.5 + 0.5 * w for w in waves])
    assert [r['decay'] for r in rows] == pytest.approx([0.04 + 0.36 * w for w in waves])
    lines = [min(i / 6, 1) for i in range(9)]
    assert [r['teacher_temperature'] for r in rows] == pytest.approx(
        [0.04 + 0.03 * x for x in lines])
    assert model.center.abs().sum() > 0


def test_the_last_layer_of_dino_stays_frozen_in_the_first_epoch(tmp_path):
    class Watch(Hook):
        def __init__(self):
            self.values = []

        def after_optimizer_step(self, runner):
            self.values.append(runner.unwrapped_model.student_head.last.direction.clone())

    watch = Watch()
    make_runner('DINO', tmp_path, watch).train()
    assert all(value.equal(watch.values[0]) for value in watch.values[:3])
    assert not watch.values[3].equal(watch.values[2])


def test_alone_nothing_is_gathered():
    x = torch.randn(2, 3, requires_grad=True)
    assert gather_batches(x) is x
    mean = mean_over_processes(x)
    assert mean.equal(x) and not mean.requires_grad and mean is not x


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
               '-m', 'tests.algorithms.selfsup.two_processes', str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENLAB_DEVICE': 'cpu'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f'rank{rank}.pt', weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize('method', ['simclr', 'moco_v3', 'dino'])
def test_two_processes_equal_one_with_twice_the_batch(ranks, method):
    alone = train(method)
    first, second = (rank[method] for rank in ranks)
    assert first.keys() == second.keys() == alone.keys()
    assert len([name for name in alone if name.startswith('grad.')]) > 10
    for name, expected in alone.items():
        assert first[name].equal(second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=name)
    if method == 'dino':
        assert first['center'].abs().sum() > 0


@pytest.mark.slow
def test_features_learned_without_labels_beat_random_ones_on_digits(tmp_path):
    cfg = load_config(ROOT / 'configs/quickstart/selfsup.py', [
        'max_epochs=4', f'work_dir={tmp_path}', 'val_dataloader.num_workers=0'])
    cfg['default_hooks'], cfg['loggers'] = NO_HOOKS, []
    runner = Runner.from_config(cfg)
    random = runner.val()['knn/top1_k1']
    runner.train()
    learned = runner.val()['knn/top1_k1']
    assert random < 0.7
    assert learned > random + 0.2
