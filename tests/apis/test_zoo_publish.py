import json
import shutil

import pytest
import torch

from openlab.apis.inference import Inferencer
from openlab.apis.zoo_publish import config_hash, publish
from openlab.cli import main
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.checkpoint import CheckpointParts, save_checkpoint
from openlab.engine.checkpoint_files import (
    CheckpointError,
    read_metadata,
    read_weights,
    write_pointer,
)
from openlab.registry import MODELS
from openlab.zoo.download import file_hash


def a_config():
    cfg = load_config('quickstart/classification').to_plain()
    return {**cfg, 'work_dir': '/data/someone/run'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a run with a best and a last checkpoint, with the state of its trainer."""
    work_dir = tmp_path_factory.mktemp('runs') / 'digits'
    cfg = a_config()
    model = build(cfg['model'], MODELS, 'model')
    for epoch in (1, 2):
        parts = CheckpointParts(
            model=model.state_dict(), trainer={'optimizer': {'momentum': torch.ones(3)}},
            metadata={'config': cfg, 'classes': [str(i) for i in range(10)], 'iter': epoch,
                      'metrics': {'accuracy/top1': 0.1, 'iter': 0}, 'seed': 3},
            position={'epoch': epoch, 'iter': epoch})
        folder = save_checkpoint(parts, work_dir / 'checkpoints' / f'epoch_000{epoch}')
        torch.nn.init.normal_(next(model.parameters()))
        if epoch == 1:
            write_pointer(folder.parent, 'best', folder, metric='accuracy/top1', value=0.875)
    return work_dir


@pytest.fixture(scope='module')
def published(run, tmp_path_factory):
    return publish(run, tmp_path_factory.mktemp('out') / 'digits', name='digits',
                   data=['handwritten digits (UCI)'])


def test_only_weights_and_words_are_given_away(published):
    assert sorted(file.name for file in published.iterdir()) == [
        'README.md', 'config.json', 'metafile.json', 'model.safetensors']
    state = read_weights(published / 'model.safetensors')
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    config = read_metadata(published / 'model.safetensors')['config']
    assert 'work_dir' not in config and 'model' in config


def test_the_metafile_is_true(published):
    meta = json.loads((published / 'metafile.json').read_text())
    file = published / 'model.safetensors'
    assert meta['sha256'] == file_hash(file) and meta['size'] == file.stat().st_size
    assert meta['config_sha256'] == config_hash(json.loads((published / 'config.json').read_text()))
    # that of the best checkpoint; the number in its header is of an older validation
    assert meta['results'] == [
        {'dataset': 'validation', 'metric': 'accuracy/top1', 'value': 0.875}]
    assert meta['seed'] == 3 and meta['classes'][9] == '9'


def test_the_card_tells_results_licences_and_the_command(published):
    card = (published / 'README.md').read_text()
    meta = json.loads((published / 'metafile.json').read_text())
    assert '| training data | handwritten digits (UCI) | yes |' in card
    assert 'whole: **yes**' in card
    assert 'openlab train config.json' in card and meta['config_sha256'] in card
    assert f'{meta["results"][0]["value"]:g}' in card


def test_what_was_published_predicts_as_the_run_does(run, published):
    images = [torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8) for _ in range(3)]
    first, second = (Inferencer(source, device='cpu') for source in
                     (run, published / 'model.safetensors'))
    for a, b in zip(first(images), second(images)):
        torch.testing.assert_close(a.label_probs, b.label_probs)


def test_the_terms_of_what_it_started_from_are_in_the_chain(run, tmp_path):
    folder = publish(run, tmp_path / 'out', base='mobilenet-v2', license_name='mit',
                     data=['Fashion-MNIST'])
    card = (folder / 'README.md').read_text()
    assert 'started from openlab/mobilenet-v2' in card and 'whole: **no**' in card


def test_a_folder_that_is_there_is_not_replaced(run, published):
    with pytest.raises(FileExistsError, match='--out'):
        publish(run, published)


@pytest.mark.parametrize('part', [
    'checkpoints', 'checkpoints/best', 'checkpoints/epoch_0001',
    'checkpoints/epoch_0001/model.safetensors'])
def test_whatever_of_a_run_is_named_the_result_lies_in_its_folder(run, part):
    folder = publish(run / part)
    try:
        assert folder == run.resolve() / 'published'
        assert file_hash(folder / 'model.safetensors') == json.loads(
            (folder / 'metafile.json').read_text())['sha256']
    finally:
        shutil.rmtree(folder)


def test_weights_outside_of_any_run_need_a_folder_for_the_result(published, capsys):
    assert main(['zoo', 'publish', str(published / 'model.safetensors')]) == 2
    assert 'lies in no run' in (message := capsys.readouterr().err) and '--out' in message
    assert not (published / 'published').exists()


def test_weights_without_a_config_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({'a': torch.ones(1)}, tmp_path / 'a.safetensors')
    with pytest.raises(CheckpointError, match='which config'):
        publish(tmp_path / 'a.safetensors', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_command_publishes(run, tmp_path, capsys):
    assert main(['zoo', 'publish', str(run), '--out', str(tmp_path / 'out')]) == 0
    assert 'model.safetensors' in capsys.readouterr().out
