"""Every picture of the command, from a config of sixteen pixels and initial weights."""

import cv2
import pytest

from openlab import cli
from openlab.apis.visualization import schedule_values
from openlab.cli.visualize import class_index
from openlab.config import load_config

CONFIG = """
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.datasets.digits import Digits
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.heads.linear_head import LinearHead

model = dict(
    type=ImageClassifier, preprocessor=dict(type=ImagePreprocessor),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1), base_channels=4, stem='conv3',
                  out_stages=(3,)),
    head=dict(type=LinearHead, num_classes=10))
train_dataloader = dict(
    batch_size=64, num_workers=0, dataset=dict(
        type=Digits, split='train',
        pipeline=[dict(type=Resize, size=16), dict(type=RandomFlip, prob=0.5),
                  dict(type=PackInputs)]))
val_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(
        type=Digits, split='val', pipeline=[dict(type=Resize, size=16), dict(type=PackInputs)]))
train_cfg = dict(type=EpochTrainLoop, max_epochs=4)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.8, momentum=0.9))
param_scheduler = dict(type=StepLR, step_size=2, gamma=0.5)
"""


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.py').write_text(CONFIG)
    return tmp_path / 'tiny.py'


@pytest.mark.parametrize('arguments,least_width', [
    (['features', '--channels', '3'], 500),
    (['features', '--layers', 'backbone', '--indices', '5'], 500),
    (['cam', '--num', '2'], 600),
    (['cam', '--num', '2', '--target', '3'], 600),
    (['augment', '--num', '5'], 400),
    (['predictions', '--num', '9', '--max-shown', '4'], 250),
    (['confusion', '--num', '20'], 400),
    (['tsne', '--num', '12'], 500),
    (['schedule', '--iters-per-epoch', '5'], 500),
])
def test_each_picture_is_drawn_and_its_path_printed(arguments, least_width, tmp_path, capsys):
    name, *rest = arguments
    assert cli.main(['visualize', name, 'tiny.py', '--out', 'sub/p.png', *rest]) == 0
    assert capsys.readouterr().out.strip() == 'sub/p.png'
    picture = cv2.imread(str(tmp_path / 'sub' / 'p.png'))
    assert picture.shape[1] >= least_width
    assert picture.std() > 10  # something is on it


def test_predictions_become_a_sheet_and_a_page(tmp_path, capsys):
    assert cli.main(['visualize', 'predictions', 'tiny.py', '--num', '9', '--limit', '4',
                     '--out', 'sub']) == 0
    said = capsys.readouterr()
    assert said.out.split() == ['sub/sheet.png', 'sub/report.html']
    assert 'the page holds the worst 4 of 9 images; --limit changes that' in said.err
    page = (tmp_path / 'sub' / 'report.html').read_text('utf-8')
    assert 'tiny: predictions on 9 of 449 items of val' in page
    assert page.count('data:image/png') == 4
    assert cv2.imread(str(tmp_path / 'sub' / 'sheet.png')).shape[1] > 250


def test_a_dump_is_reported_on_without_a_model(tmp_path, capsys):
    """Images of digits are in no files: they come from the dataset, by their ids."""
    from openlab.apis import visualization as source
    from openlab.engine.predictions import plain_sample, write

    loader = source.build_loader(load_config('tiny.py'), 'val')
    items = source.read_items(loader, [0, 5, 9])
    rows = [{'prediction': plain_sample(t), 'sample': plain_sample(t)} for t in items.truths]
    write('dump.json', rows, loader.metainfo)
    assert cli.main(['visualize', 'predictions', 'tiny.py', '--from-dump', 'dump.json',
                     '--no-metrics', '--out', 'r.html']) == 0
    assert capsys.readouterr().out.split() == ['r.html']
    page = (tmp_path / 'r.html').read_text('utf-8')
    import base64
    import re

    import numpy as np

    stored = [cv2.imdecode(np.frombuffer(base64.b64decode(m), np.uint8), cv2.IMREAD_COLOR)
              for m in re.findall(r'data:image/png;base64,([^<]+)', page)]
    assert np.array_equal(stored[1], source.original_image(loader.source, 5))


def test_predictions_refuse_what_does_not_go_together(capsys):
    def refused(*arguments):
        assert cli.main(['visualize', 'predictions', 'tiny.py', *arguments]) == 2
        return capsys.readouterr().err

    assert 'given twice' in refused('a', '--weights', 'b')
    assert 'goes with neither weights nor' in refused('a', '--from-dump', 'd.pt')
    assert '--images goes with --from-dump' in refused('--images', 'x')
    assert '--limit must be 0 or more' in refused('--limit', '-1')
    assert 'no such file of predictions' in refused('--from-dump', 'nowhere.pt')
    assert 'from 0 to 1' in refused('--score-threshold', '3', '--num', '1')
    assert "has no boxes and no labels, which the task 'detection' compares" in refused(
        '--task', 'detection', '--num', '1')


def test_augmented_views_differ_and_come_back_the_same():
    import numpy as np

    from openlab.apis.visualization import augmented_views, build_loader, original_image

    loader = build_loader(load_config('tiny.py'), 'train')
    views = [image for image, _ in augmented_views(loader, 3, 8)]
    again = [image for image, _ in augmented_views(loader, 3, 8)]
    assert all(np.array_equal(a, b) for a, b in zip(views, again))
    assert len({v.tobytes() for v in views}) == 2  # as it is, and flipped
    assert original_image(loader.source, 3).shape == (8, 8, 3)


def test_a_schedule_is_that_of_the_training():
    values, per_epoch = schedule_values(load_config('tiny.py'), iters_per_epoch=3)
    assert values == {'learning rate': [0.8] * 6 + [0.4] * 6}
    assert per_epoch == 3


def test_the_length_of_an_epoch_comes_from_the_data():
    _, per_epoch = schedule_values(load_config('tiny.py'))
    assert per_epoch == -(-1348 // 64)


def test_mistakes_are_answered_with_what_there_is(capsys):
    assert cli.main(['visualize', 'cam', 'tiny.py', '--target', '11']) == 2
    assert "no class '11'" in capsys.readouterr().err
    assert cli.main(['visualize', 'cam', 'tiny.py', '--split', 'test']) == 2
    assert 'no test_dataloader; splits it has: train, val' in capsys.readouterr().err
    assert cli.main(['visualize', 'features', 'tiny.py', '--layers', 'backbon']) == 2
    assert 'did you mean backbone' in capsys.readouterr().err
    assert cli.main(['visualize', 'predictions', 'tiny.py', '--num', '0']) == 2
    assert cli.main(['visualize', 'predictions', 'tiny.py', '--weights', 'nowhere']) == 2


def test_classes_are_found_by_name_and_number():
    assert class_index('cat', ['dog', 'cat']) == 1
    assert class_index('0', ['dog', 'cat']) == 0
    assert class_index('7', ['7', '5']) == 0  # a name that is a number
    with pytest.raises(ValueError, match='did you mean cat'):
        class_index('cats', ['dog', 'cat'])
