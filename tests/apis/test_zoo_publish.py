import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from openlab.apis.inference import Inferencer
from openlab.apis.zoo_publish import PushError, config_hash, publish, push
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
            metadata={'config': cfg, 'config_name': 'classification', 'openlab': '0.0.7',
                      'classes': [str(i) for i in range(10)], 'iter': epoch,
                      'metrics': {'accuracy/top1': 0.1, 'iter': 0}, 'seed': 3},
            position={'epoch': epoch, 'iter': epoch})
        folder = save_checkpoint(parts, work_dir / 'checkpoints' / f'epoch_000{epoch}')
        torch.nn.init.normal_(next(model.parameters()))
        if epoch == 1:
            write_pointer(folder.parent, 'best', folder, metric='accuracy/top1', value=0.875)
    rows = [{'iter': 1, 'train/loss': 2.0}, {'iter': 1, 'val/accuracy/top5': 0.95},
            {'iter': 2, 'val/accuracy/top1': 0.5, 'val/accuracy/top5': 0.75}]
    (work_dir / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
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
    assert {r['metric']: r['value'] for r in meta['results']} == {
        'accuracy/top1': 0.875, 'accuracy/top5': 0.95}
    assert meta['openlab'] == '0.0.7'
    assert meta['seed'] == 3 and meta['classes'][9] == '9'


def test_parameters_are_those_of_the_network_without_its_statistics(run, published):
    meta = json.loads((published / 'metafile.json').read_text())
    network = build(a_config()['model'], MODELS, 'model')
    assert meta['params'] == sum(p.numel() for p in network.parameters())
    assert meta['params'] < sum(t.numel() for t in network.state_dict().values())


def results_of(source, out):
    meta = json.loads((publish(source, out) / 'metafile.json').read_text())
    return {(r['dataset'], r['metric']): r['value'] for r in meta['results']}


def test_a_checkpoint_saved_before_its_validation_has_the_results_of_the_log(run, tmp_path):
    assert results_of(run / 'checkpoints' / 'epoch_0002', tmp_path / 'out') == {
        ('validation', 'accuracy/top1'): 0.5, ('validation', 'accuracy/top5'): 0.75}


def test_weights_beside_their_average_have_no_results_for_validation_saw_the_average(
        run, tmp_path):
    work_dir = shutil.copytree(run, tmp_path / 'run')
    folder = work_dir / 'checkpoints' / 'epoch_0002'
    shutil.copy(folder / 'model.safetensors', folder / 'ema.safetensors')
    assert results_of(folder / 'model.safetensors', tmp_path / 'plain') == {}
    assert results_of(folder / 'ema.safetensors', tmp_path / 'averaged')
    assert 'Averaged' not in (tmp_path / 'plain' / 'README.md').read_text()
    assert 'averaged weights' in (tmp_path / 'averaged' / 'README.md').read_text()


def test_checkpoints_that_were_set_aside_have_nothing_of_the_log_of_a_later_training(
        run, tmp_path):
    work_dir = shutil.copytree(run, tmp_path / 'run')
    aside = (work_dir / 'checkpoints').rename(work_dir / 'checkpoints.1')
    assert results_of(aside / 'epoch_0002', tmp_path / 'out') == {}


def test_a_model_is_called_as_its_config_unless_that_has_no_name(run, tmp_path):
    def title(folder):
        return json.loads((folder / 'metafile.json').read_text())['name']

    assert title(publish(run, tmp_path / 'first')) == 'classification'
    metadata = read_metadata(run / 'checkpoints' / 'epoch_0001')
    state = read_weights(run / 'checkpoints' / 'epoch_0001' / 'model.safetensors')
    for number, (change, name) in enumerate([
            ({'config_name': 'config'}, 'digits'), ({'config_name': None}, 'digits'),
            ({'config': {**metadata['config'], 'experiment_name': 'ours'}}, 'ours')]):
        work_dir = tmp_path / str(number) / 'digits'
        save_checkpoint(
            CheckpointParts(model=state, trainer={}, metadata=metadata | change,
                            position={'iter': 1}), work_dir / 'checkpoints' / 'iter_00000001')
        assert title(publish(work_dir / 'checkpoints' / 'iter_00000001')) == name


def test_a_network_that_cannot_be_built_is_given_away_without_a_count(run, tmp_path, caplog):
    metadata = read_metadata(run / 'checkpoints' / 'epoch_0001')
    config = {**metadata['config'], 'model': {'type': 'nowhere.Network'}}
    save_checkpoint(
        CheckpointParts(model={'a': torch.ones(1)}, trainer={}, position={'iter': 1},
                        metadata={**metadata, 'config': config}),
        tmp_path / 'checkpoints' / 'iter_00000001')
    card = (publish(tmp_path / 'checkpoints' / 'iter_00000001') / 'README.md').read_text()
    assert 'Trained with openlab.' in card and 'parameters,' not in card
    assert 'parameters are not counted' in caplog.text and 'nowhere' in caplog.text


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


@pytest.fixture
def run_from(run, tmp_path):
    """Makes a run whose config is changed."""
    def make(**changes):
        folder = run / 'checkpoints' / 'epoch_0001'
        metadata = read_metadata(folder)
        parts = CheckpointParts(
            model=read_weights(folder / 'model.safetensors'), trainer={}, position={'iter': 1},
            metadata={**metadata, 'config': {**metadata['config'], **changes}})
        return save_checkpoint(parts, tmp_path / 'from' / 'checkpoints' / 'iter_00000001')

    return make


def test_what_a_config_started_from_is_in_the_chain_without_being_told(run_from):
    folder = publish(run_from(load_from={'source': 'zoo://mobilenet-v2'}), data=['Fashion-MNIST'])
    card = (folder / 'README.md').read_text()
    assert 'started from openlab/mobilenet-v2' in card and 'ImageNet-1k' in card
    assert 'whole: **no**' in card
    assert json.loads((folder / 'metafile.json').read_text())['bases'] == [
        {'name': 'openlab/mobilenet-v2', 'setting': 'load_from.source', 'in_zoo': True}]


def test_a_path_of_the_machine_that_trained_is_not_published_and_the_card_says_what_is_missing(
        run_from, capsys):
    folder = publish(run_from(
        load_from={'source': '/data/someone/wd/checkpoints/best', 'replace_head': True}))
    config = json.loads((folder / 'config.json').read_text())
    assert config['load_from'] == {'source': 'not_published/best', 'replace_head': True}
    assert read_metadata(folder / 'model.safetensors')['config'] == config
    assert 'someone' not in (folder / 'metafile.json').read_text()
    card = (folder / 'README.md').read_text()
    assert "openlab train config.json --set 'load_from.source=WEIGHTS'" in card
    assert '`best` (`load_from.source`)' in card and 'someone' not in card
    # it does not train something else from random values
    assert main(['train', str(folder / 'config.json'), '--work-dir', str(folder / 'again')]) == 2
    assert 'no checkpoint at not_published/best' in capsys.readouterr().err


def test_what_a_checkpoint_here_started_from_in_turn_is_in_the_chain(run_from, tmp_path):
    first = run_from(load_from='zoo://mobilenet-v2').rename(tmp_path / 'iter_00000007')
    folder = publish(run_from(load_from=str(first)), data=['Fashion-MNIST'])
    card = (folder / 'README.md').read_text()
    assert 'started from iter_00000007 | not known' in card
    assert 'started from openlab/mobilenet-v2' in card and 'whole: **no**' in card
    # and only the path itself is taken out of the config
    assert "--set 'load_from=WEIGHTS'" in card


def test_weights_that_anyone_can_fetch_stay_in_the_config(run_from):
    folder = publish(run_from(load_from='zoo://mobilenet-v2'))
    assert json.loads((folder / 'config.json').read_text())['load_from'] == 'zoo://mobilenet-v2'
    assert '```\nopenlab train config.json\n```' in (folder / 'README.md').read_text()


def test_weights_of_unknown_origin_make_the_whole_unclear_unless_someone_tells(
        run_from, tmp_path, caplog):
    source = run_from(load_from={'source': 'wd/pre/checkpoints/best'})
    card = (publish(source, tmp_path / 'a', data=['Fashion-MNIST']) / 'README.md').read_text()
    assert 'started from best | not known | unclear' in card and 'whole: **unclear**' in card
    assert 'load_from.source names wd/pre/checkpoints/best' in caplog.text
    assert '--base' in caplog.text
    told = publish(source, tmp_path / 'b', data=['Fashion-MNIST'], base='mobilenet-v2')
    card = (told / 'README.md').read_text()
    assert 'not known' not in card and 'whole: **no**' in card


def test_the_card_of_a_network_of_features_recommends_what_works(tmp_path, monkeypatch):
    cfg = load_config('quickstart/selfsup', ['train_cfg.max_batches=1']).to_plain()
    parts = CheckpointParts(
        model=build(cfg['model'], MODELS, 'model').state_dict(), trainer={},
        metadata={'config': cfg}, position={'iter': 1})
    folder = publish(save_checkpoint(parts, tmp_path / 'run' / 'checkpoints' / 'iter_00000001'))
    card = (folder / 'README.md').read_text()
    commands = [line.split()[1:] for line in card.splitlines() if line.startswith('openlab ')]
    assert [words[0] for words in commands] == ['train', 'probe', 'infer', 'train']
    monkeypatch.chdir(folder)
    cv2.imwrite('image.png', np.zeros((8, 8, 3), np.uint8))
    names = {'CONFIG': 'quickstart/classification', 'IMAGE': 'image.png', 'FOLDER': 'image.png'}
    short = {'probe': ['--max-batches', '1'], 'train': [
        '--work-dir', str(tmp_path / 'more'), '--fast-dev-run', '1']}
    for words in commands:
        words = [names.get(word, word) for word in words]
        assert main([*words, *short.get(words[0], [])]) == 0, words


def test_a_language_model_comes_with_its_tokenizer_and_the_command_that_makes_it_speak(
        tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text').mkdir()
    for i in range(12):
        (tmp_path / 'text' / f'{i}.py').write_text(f'def add_{i}(a, b):\n    return a + b\n\n' * 40)
    assert main(['train', 'quickstart/language_model', '--work-dir', 'work', '--set',
                 'dataset.source=text', 'dataset.val_share=0.4', 'vocab_size=300',
                 'context_length=32', 'model.backbone.num_layers=1', 'max_iters=52',
                 'model.backbone.embed_dim=24', 'train_dataloader.batch_size=2',
                 'val_dataloader.batch_size=2']) == 0
    folder = publish('work')
    card = (folder / 'README.md').read_text()
    assert '# language_model' in card  # training tells the config's name
    assert 'openlab generate model.safetensors PROMPT' in card and 'openlab infer' not in card
    capsys.readouterr()
    assert main(['generate', str(folder / 'model.safetensors'), 'def',
                 '--max-new-tokens', '4']) == 0
    assert capsys.readouterr().out


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


def test_a_hub_that_does_not_answer_is_one_message_and_nothing_is_lost(
        run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('OPENLAB_OFFLINE', raising=False)
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    folder = tmp_path / 'out'
    assert main(['zoo', 'publish', str(run), '--out', str(folder), '--push', 'a/b']) == 2
    message = capsys.readouterr().err
    assert 'a/b at http://127.0.0.1:9: not uploaded' in message and message.count('\n') == 1
    assert f'hf upload a/b {folder} . --private' in message
    assert (folder / 'README.md').is_file()


def test_a_name_that_no_repository_can_have_is_told_with_what_is_wrong(published, monkeypatch):
    monkeypatch.delenv('OPENLAB_OFFLINE', raising=False)
    with pytest.raises(PushError, match=r'a/b/c at .*Repo id must'):
        push(published, 'a/b/c')


def test_nothing_is_uploaded_where_the_network_is_forbidden(published, monkeypatch):
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    with pytest.raises(PushError, match='OPENLAB_OFFLINE is set; the model lies in'):
        push(published, 'a/b', is_public=True)
