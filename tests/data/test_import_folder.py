import numpy as np
import pytest

from openlab.cli import main
from openlab.config import check_config, load_config
from openlab.data.dataloader import build_dataloader
from openlab.data.generate.digit_scenes import make_digit_scenes
from openlab.data.layout import recognise


def make_coco(folder, files):
    files.coco(folder, [files.annotation(i, 11 + i % 2, 3, [i, 1, 4, 4]) for i in range(4)])


def make_voc(folder, files):
    files.voc(folder, [[('dog', (1, 1, 9, 9), False)], [('ant', (1, 1, 9, 9), False)]])


def make_yolo(folder, files):
    files.yolo(folder, ['0 0.5 0.5 0.5 0.5', '1 0.5 0.5 0.5 0.5'])


def make_pairs(folder, files):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    for part in ('train', 'val', 'test'):
        files.pairs(folder, [mask, mask], part)


def make_classes(folder, files):
    for name in ('cat', 'dog'):
        for number in range(3):
            files.image(folder / name / f'{number}.png')


@pytest.mark.parametrize('make', [make_coco, make_voc, make_yolo, make_pairs, make_classes])
def test_an_imported_folder_gives_a_config_without_mistakes(tmp_path, files, capsys, make):
    folder, out = tmp_path / 'set', tmp_path / 'cfg' / 'set.py'
    folder.mkdir()
    make(folder, files)
    assert main(['data', 'import', str(folder), '--out', str(out)]) == 0
    kind = recognise(folder).kind
    assert f'{folder}: {kind}' in capsys.readouterr().out
    lines = [line for line in out.read_text().splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 100
    cfg = load_config(str(out))
    check_config(cfg)
    parts = [build_dataloader(cfg[f'{p}_dataloader'], seed=0, path=p) for p in ('train', 'val')]
    train, val = (loader.source for loader in parts)
    assert train.metainfo['classes'] == val.metainfo['classes'] == recognise(folder).classes
    item = next(iter(train[i] for i in range(len(train))))
    assert item['inputs'].shape[0] == 3 and item['sample'] is not None
    if kind != 'pairs':  # nothing to validate on: a part of train is held out
        names = [{d.get_info(i)['img_path'] for i in range(len(d))} for d in (train, val)]
        assert names[0] and names[1] and not names[0] & names[1]
        assert 'training items are held out' in out.read_text()
    assert main(['data', 'check', str(out), '--decode']) == 0
    assert main(['data', 'show', str(out), '--num', '2', '--out', str(tmp_path / 'a.png')]) == 0
    assert main(['data', 'import', str(folder), '--out', str(out)]) == 2
    assert 'exists already' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['coco', 'pairs'])
def test_an_imported_folder_trains(tmp_path, kind, capsys):
    make_digit_scenes(tmp_path / 'set', train=8, val=2, size=64, say=lambda text: None)
    if kind == 'pairs':
        (tmp_path / 'set' / 'semantic').rename(tmp_path / 'set' / 'masks')
    out = tmp_path / 'set.py'
    assert main(['data', 'import', str(tmp_path / 'set'), '--out', str(out), '--as', kind]) == 0
    tiny = ['max_epochs=1', 'image_size=64', 'model.backbone.base_channels=8',
            'model.backbone.num_blocks=[1,1,1,1]', 'train_dataloader.batch_size=4',
            'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
    assert main(['train', str(out), '--work-dir', str(tmp_path / 'run'), '--set', *tiny]) == 0
    key = {'coco': 'coco/box_AP', 'pairs': 'segmentation/miou'}[kind]
    assert key in (tmp_path / 'run' / 'log.jsonl').read_text()
