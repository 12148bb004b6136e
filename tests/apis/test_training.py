from __future__ import annotations

import json

import pytest

from openlab.apis.evaluation import evaluate, evaluate_dump, use_test_stage, write_record
from openlab.apis.training import TrainOptions, aligned, prepare, train
from tests.engine.helpers import NO_HOOKS, Error, Line, points_loader


def config(**changes):
    cfg = {
        'model': {'type': Line}, 'train_dataloader': points_loader(),
        'train_cfg': {'type': 'EpochTrainLoop', 'max_epochs': 9},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}},
        'default_hooks': dict(NO_HOOKS), 'loggers': [],
        'val_dataloader': points_loader(), 'val_evaluator': {'type': Error},
    }
    cfg.update(changes)
    return cfg


def test_options_are_written_into_the_config():
    cfg = prepare(config(train_dataloader={'batch_size': 4}), TrainOptions(
        work_dir='w', seed=3, precision='bf16', batch_size=8, compile='blocks', max_time='1h',
        load_from='best', replace_head=True, resume=True))
    assert cfg['work_dir'] == 'w'
    assert cfg['randomness'] == {'seed': 3}
    assert cfg['optim_wrapper']['precision'] == 'bf16'
    assert cfg['train_dataloader'] == {'batch_size': 8}
    assert cfg['compile'] == {'target': 'blocks'}
    assert cfg['custom_hooks'] == [{'type': 'TimeLimitHook', 'max_time': '1h'}]
    assert cfg['load_from'] == {'source': 'best', 'replace_head': True}
    assert cfg['resume'] is True


def test_a_run_without_a_folder_is_named_after_its_config():
    assert prepare(config(), TrainOptions())['work_dir'] == 'work_dirs/run'


def test_scaling_lr_needs_the_batch_size_it_was_tuned_for():
    with pytest.raises(ValueError, match='needs auto_scale_lr=dict'):
        prepare(config(), TrainOptions(auto_scale_lr=True))
    cfg = prepare(config(auto_scale_lr={'base_batch_size': 4}), TrainOptions(auto_scale_lr=True))
    assert cfg['auto_scale_lr']['enable'] is True


@pytest.mark.parametrize('loop', [{'max_epochs': 9}, {'max_iters': 99}])
def test_a_fast_dev_run_sees_few_batches_of_each_stage(tmp_path, loop):
    cfg = config(train_cfg=loop, test_dataloader=points_loader(), work_dir=str(tmp_path),
                 test_evaluator={'type': Error})
    runner = train(cfg, TrainOptions(fast_dev_run=2))
    assert runner.iter == 2
    assert [row['stage'] for row in runner.metrics_history] == ['val', 'test']
    assert runner.metrics_history[0]['error/count'] == 8
    assert runner.work_dir == str(tmp_path / 'fast_dev_run')


def test_overfitting_trains_on_one_batch_without_validation(tmp_path):
    cfg = config(work_dir=str(tmp_path),
                 default_hooks={**NO_HOOKS, 'checkpoint': {'save_best': 'auto', 'interval': 0}})
    runner = train(cfg, TrainOptions(overfit_batch=True))
    assert runner.iter == 27
    assert runner.metrics_history == []


def test_tables_are_aligned():
    assert aligned([('a', 'bb'), ('ccc', 'd')]) == ['a   | bb', '----+---', 'ccc | d']


def test_the_validation_stands_in_for_a_test():
    cfg = config()
    use_test_stage(cfg)
    assert cfg['test_dataloader'] is cfg['val_dataloader']
    with pytest.raises(ValueError, match='neither test_dataloader nor val_dataloader'):
        use_test_stage({})


def test_evaluating_a_dump_equals_evaluating_the_model(tmp_path):
    runner = train(config(work_dir=str(tmp_path), train_cfg={'max_epochs': 1}))
    runner.save_checkpoint(tmp_path / 'weights')
    file = tmp_path / 'p.pt'
    direct = evaluate(config(work_dir=str(tmp_path)), str(tmp_path / 'weights'), dump=file)
    assert direct == evaluate_dump(config(), file)
    assert direct['error/count'] == 12


def test_records_hold_what_was_measured(tmp_path):
    write_record(tmp_path / 'sub' / 'r.json', {'a/b': 1.0}, config='c.py')
    assert json.loads((tmp_path / 'sub' / 'r.json').read_text()) == {
        'metrics': {'a/b': 1.0}, 'config': 'c.py'}
