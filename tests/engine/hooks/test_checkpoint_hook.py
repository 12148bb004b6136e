import json
from pathlib import Path

import pytest

from openlab.engine.checkpoint import find_resumable, read_metadata
from openlab.engine.hooks.checkpoint import CheckpointHook, rule_of

from ..training_program import make_runner


def names(work_dir):
    return sorted(p.name for p in (Path(work_dir) / 'checkpoints').iterdir())


def pointer(work_dir, name):
    return json.loads((Path(work_dir) / 'checkpoints' / f'{name}.json').read_text())


def train(work_dir, **options):
    runner = make_runner(str(work_dir), **{'workers': 0, 'resume': False, **options})
    runner.train()
    return runner


@pytest.mark.parametrize(('name', 'rule'), [
    ('accuracy/top1', 'greater'), ('bbox/mAP_50', 'greater'), ('coco/AP', 'greater'),
    ('coco/box_AP50', 'greater'),
    ('miou/mIoU', 'greater'), ('f1/macro', 'greater'), ('loss', 'less'), ('val/loss_cls', 'less'),
    ('calibration/ece', 'less'), ('depth/rmse', 'less'), ('lm/perplexity', 'less'),
    ('image/psnr', 'greater'), ('quality/fid', 'less')])
def test_the_name_of_a_metric_tells_what_is_better(name, rule):
    assert rule_of(name) == rule
    assert CheckpointHook(save_best=name).rule == rule


def test_a_name_that_does_not_tell_needs_a_rule():
    with pytest.raises(ValueError, match=r"'mine/wobble' does not tell.*rule='greater'"):
        CheckpointHook(save_best='mine/wobble')
    assert CheckpointHook(save_best='mine/wobble', rule='less').rule == 'less'


@pytest.mark.parametrize('arguments', [{'interval': -1}, {'keep': 0}, {'rule': 'up'}])
def test_impossible_arguments_are_refused_with_what_is_accepted(arguments):
    with pytest.raises(ValueError, match='accepted'):
        CheckpointHook(**arguments)


def test_the_newest_are_kept_and_the_best_is_never_deleted(tmp_path):
    def worse_each_time(metrics):
        worse_each_time.calls += 1
        return {'error/mean': float(worse_each_time.calls)}

    worse_each_time.calls = 0
    runner = make_runner(str(tmp_path), workers=0, resume=False, by_epoch=True, interval=1, keep=1)
    real = runner.call_hook

    def call_hook(name, **given):
        if name == 'after_val_epoch':
            given['metrics'] = worse_each_time(given['metrics'])
        real(name, **given)

    runner.call_hook = call_hook
    runner.train()
    assert names(tmp_path) == ['best.json', 'epoch_0001', 'epoch_0004', 'last.json']
    assert pointer(tmp_path, 'best') == {
        'checkpoint': 'epoch_0001', 'metric': 'error/mean', 'value': 1.0, 'rule': 'less'}
    assert pointer(tmp_path, 'last') == {'checkpoint': 'epoch_0004'}


def test_every_second_epoch_and_the_end_are_saved(tmp_path):
    train(tmp_path, by_epoch=True, interval=2, epochs=3, keep=-1, validate=False)
    assert names(tmp_path) == ['epoch_0002', 'epoch_0003', 'last.json']


def test_an_interval_counts_iterations_where_asked(tmp_path):
    train(tmp_path, by_epoch=False, interval=10, epochs=3, keep=-1, validate=False)
    assert names(tmp_path) == ['iter_00000010', 'iter_00000020', 'iter_00000021', 'last.json']


def test_a_metric_that_validation_does_not_give_is_an_error_with_those_it_does(tmp_path):
    runner = make_runner(str(tmp_path), workers=0)
    hook = next(h for h in runner.hooks if isinstance(h, CheckpointHook))
    hook.save_best = 'error/maen'
    with pytest.raises(KeyError, match=r"error/count, error/mean; did you mean 'error/mean'"):
        runner.train()


def test_asking_for_the_best_without_validation_is_an_error_before_training(tmp_path):
    runner = make_runner(str(tmp_path), workers=0, validate=False)
    next(h for h in runner.hooks if isinstance(h, CheckpointHook)).save_best = 'accuracy/top1'
    with pytest.raises(ValueError, match=r'needs validation.*val_dataloader'):
        runner.train()
    assert runner.iter == 0


def test_checkpoints_of_an_earlier_training_are_set_aside_not_mixed_in(tmp_path):
    train(tmp_path, epochs=3)
    old = find_resumable(tmp_path).name
    train(tmp_path, epochs=1, interval=4)
    assert old in [p.name for p in (tmp_path / 'checkpoints.1').iterdir()]
    assert find_resumable(tmp_path).name == 'iter_00000007'
    assert old not in names(tmp_path)


def test_weights_carry_what_is_needed_to_use_them(tmp_path):
    train(tmp_path, epochs=2)
    folder = find_resumable(tmp_path)
    found = read_metadata(folder)
    assert (found['epoch'], found['iter'], found['seed']) == (2, 14, 0)
    assert found['metrics']['stage'] == 'val' and found['metrics']['error/count'] == 6
    assert 'torch' in found['versions'] and len(found['git']['commit']) == 40
    assert (folder / 'ema.safetensors').is_file()
    meta = json.loads((folder / 'meta.json').read_text())
    assert set(meta['files']) == {'model.safetensors', 'ema.safetensors', 'trainer.pt'}


def test_a_failing_save_stops_the_training_and_says_why(tmp_path):
    (tmp_path / 'checkpoints').write_text('a file where the folder should be')
    with pytest.raises(Exception, match='checkpoints'):
        train(tmp_path, interval=1)
