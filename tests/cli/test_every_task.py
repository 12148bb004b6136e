"""The tools on every task: the same commands, no flag of a task's own."""

import json

import pytest

from openlab.cli import main

# Few and small items: what is tested is whether a command works.
SCENES = ['make.train=8', 'make.val=4', 'make.size=64', 'data_root=data',
          'train_dataloader.batch_size=2', 'val_dataloader.batch_size=2',
          'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
RESIZED = [*SCENES, 'image_size=64', 'model.backbone.base_channels=8']
DETECTION = [*RESIZED, 'model.neck.out_channels=16', 'model.box_head.hidden=32']
TASKS = {
    'detection': DETECTION,
    'segmentation': [*SCENES, 'crop_size=64', 'test_size=64', 'model.backbone.base_channels=8'],
    'panoptic': [*SCENES, 'model.backbone.base_channels=8', 'model.head.num_queries=5',
                 'model.head.num_layers=1', 'model.head.num_points=64'],
    'multitask': RESIZED,
    'language_model': [
        'dataset.source=text', 'dataset.val_share=0.4', 'vocab_size=300', 'context_length=32',
        'model.backbone.num_layers=1',
        'model.backbone.embed_dim=24', 'train_dataloader.batch_size=2',
        'val_dataloader.batch_size=2'],
}
LENGTH = {'language_model': ('max_iters=52', 'max_iters=54')}  # its warm-up takes 50
CORPUS = 'def add(a, b):\n    """Return the sum of two numbers."""\n    return a + b\n\n\n'


def openlab(*words):
    assert main([str(w) for w in words]) == 0, words


@pytest.fixture(scope='module', params=list(TASKS))
def run(request, tmp_path_factory):
    """A short training of the quickstart of a task, in a folder of its own."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    first, second = LENGTH.get(task, (
        'train_cfg.max_batches=2', 'train_cfg.max_batches=2'))
    epochs = [] if task in LENGTH else ['max_epochs=1'], [] if task in LENGTH else ['max_epochs=2']
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if task == 'language_model':
            (folder / 'text').mkdir()
            for i in range(12):
                (folder / 'text' / f'{i}.py').write_text(CORPUS.replace('add', f'add_{i}') * 20)
        config, edits = f'quickstart/{task}', TASKS[task]
        openlab('train', config, '--work-dir', 'work', '--set', *edits, first, *epochs[0])
        yield task, config, edits, folder, [second, *epochs[1]]


@pytest.mark.slow
def test_fast_dev_run_and_resume_train(run):
    _, config, edits, folder, longer = run
    openlab('train', config, '--work-dir', 'dev', '--fast-dev-run', '1', '--set', *edits)
    before = (folder / 'work' / 'log.jsonl').read_text()
    openlab('train', config, '--work-dir', 'work', '--resume', '--set', *edits, *longer)
    after = (folder / 'work' / 'log.jsonl').read_text()
    assert after.startswith(before) and len(after) > len(before)


@pytest.mark.slow
def test_a_trained_model_is_tested_and_used(run, capsys):
    task, config, edits, folder, _ = run
    weights = folder / 'work' / 'checkpoints' / 'last'
    openlab('test', config, weights, '--out', 'result.json', '--set', *edits)
    metrics = json.loads((folder / 'result.json').read_text())['metrics']
    names = {k.partition('/')[0] for k in metrics}
    assert names == {'detection': {'coco'}, 'segmentation': {'segmentation'},
                     'panoptic': {'panoptic', 'coco', 'segmentation'},
                     'multitask': {'coco', 'segmentation'}, 'language_model': {'text'}}[task]
    capsys.readouterr()
    if task == 'language_model':
        openlab('generate', 'work', 'def add', '--echo', '--max-new-tokens', '3')
        assert capsys.readouterr().out.startswith('def add')
        return
    openlab('infer', config, 'data/images/val', '--weights', weights, '--out', 'found', '--set',
            *edits)
    assert len(list((folder / 'found').rglob('*.*'))) == 5  # four drawings and results.json
    openlab('visualize', 'predictions', config, '--weights', weights, '--num', '2', '--out',
            'worst.png', '--set', *edits)
    assert (folder / 'worst.png').stat().st_size > 1000


@pytest.mark.slow
def test_data_config_log_and_schedule_know_the_task(run, capsys):
    _, config, edits, folder, _ = run
    openlab('config', 'check', config, '--set', *edits)
    openlab('data', 'check', config, '--set', *edits)
    assert 'no mistakes' in capsys.readouterr().out
    openlab('log', 'plot', 'work', '--out', 'curves.png')
    openlab('visualize', 'schedule', config, '--out', 'lr.png', '--set', *edits)
    openlab('data', 'show', config, '--out', 'shown.png', '--num', '2', '--set', *edits)
    for name in ('curves.png', 'lr.png', 'shown.png'):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.slow
def test_two_processes_train_a_detector(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    openlab('train', 'quickstart/detection', '--gpus', '2', '--work-dir', 'work', '--set',
            *DETECTION, 'sync_bn=True', 'train_cfg.max_batches=2', 'max_epochs=1')
    assert (tmp_path / 'work' / 'checkpoints' / 'epoch_0001' / 'model.safetensors').exists()
