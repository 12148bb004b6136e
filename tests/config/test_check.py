"""Every mistake of a config is found before anything is built, and told with its place."""

import sys

import pytest

from openlab.config import ConfigError, check_config, load_config
from openlab.config.check import CheckError

GOOD = '''
from torch.optim import SGD

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.datasets.digits import Digits
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.engine.optim import OptimWrapper
from openlab.heads.linear_head import LinearHead
from openlab.metrics.accuracy import Accuracy

num_classes = 10
model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18),
    head=dict(type=LinearHead, num_classes=num_classes))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(type=Digits, pipeline=[dict(type=Resize, size=8), dict(type=PackInputs)]))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, end=3)]
val_evaluator = [dict(type=Accuracy, topk=[1, 5])]
'''


@pytest.fixture
def good(write):
    return write('good.py', GOOD)


def findings(cfg):
    with pytest.raises(CheckError) as caught:
        check_config(cfg)
    return caught.value.findings


def only(cfg):
    found = findings(cfg)
    assert len(found) == 1, '\n'.join(map(str, found))
    return found[0]


def test_a_good_config_passes(good):
    check_config(load_config(good))


def test_an_unknown_argument_is_told_with_line_signature_and_near_matches(write):
    path = write('bad.py', GOOD.replace('num_classes=num_classes', 'num_clases=num_classes'))
    found = findings(load_config(path))
    assert [f.path for f in found] == ['model.head.num_clases', 'model.head']
    assert found[0].where.endswith('bad.py:16')
    assert found[0].near == ('num_classes',)
    assert found[0].signature.startswith('LinearHead(num_classes: int')
    assert "needs 'num_classes' (int)" in found[1].problem


def test_all_findings_come_in_one_message(good):
    cfg = load_config(good)
    cfg.modle = {}
    cfg.model.backbone.depht = 3
    cfg.train_dataloader.batchsize = 2
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    text = str(caught.value)
    assert 'has 3 mistakes' in text
    for part in ('did you mean model?', 'did you mean depth?', 'did you mean batch_size?'):
        assert part in text


@pytest.mark.parametrize(('override', 'path', 'problem'), [
    ('model.backbone.depth=big', 'model.backbone.depth', "got 'big' (str)"),
    ('model.head.dropout=[1]', 'model.head.dropout', 'expected float, got [1] (list)'),
    ('model.head.num_classes=1.5', 'model.head.num_classes', 'expected int, got 1.5 (float)'),
    ('model.head=3', 'model.head', 'expected Module, got 3 (int)'),
    ('optim_wrapper.precision=fp8', 'optim_wrapper.precision', "expected 'fp32' or"),
    ('train_dataloader=4', 'train_dataloader', 'got 4'),
    ('+train_cfg.max_epoch=4', 'train_cfg.max_epoch', "no argument 'max_epoch'"),
    ('val_evaluator.0.topk=[a]', 'val_evaluator[0].topk[0]', "expected int, got 'a' (str)"),
    ('+optim_wrapper.clip_grad.maxnorm=1', 'optim_wrapper.clip_grad.maxnorm', 'no argument'),
    ('+randomness.sed=1', 'randomness.sed', "no argument 'sed'"),
    ('+param_scheduler.0.optimizer=1', 'param_scheduler[0].optimizer', 'given'),
    ('~train_cfg.max_epochs', 'train_cfg', "needs 'max_epochs' (int)"),
    ('+auto_scale_lr.base_batchsize=1', 'auto_scale_lr.base_batchsize', 'unknown key'),
    ('custom_hooks=[{}]', 'custom_hooks[0]', 'a hook needs a "type"'),
])
def test_a_wrong_value_is_named_with_what_is_expected(good, override, path, problem):
    finding = only(load_config(good, [override]))
    assert finding.path == path
    assert problem in str(finding)


def test_a_component_of_the_wrong_kind_is_refused(good):
    finding = only(load_config(good, ['model.backbone={type: openlab.data.datasets.digits.Digits}'
                                      .replace('{type: ', 'dict(type=').replace('}', ')')]))
    assert finding.path == 'model.backbone.type'
    assert 'expected a Module, got Digits, which is a dataset' in finding.problem


def test_an_unknown_component_gives_near_names(good):
    finding = only(load_config(good, ['model.backbone.type=ResNett']))
    assert finding.path == 'model.backbone.type'
    assert 'ResNet' in finding.near
    assert finding.where == '--set'


def test_a_mistyped_import_is_found_with_the_line_of_the_import(write):
    text = GOOD.replace('import ResNet', 'import ResNett').replace('type=ResNet,', 'type=ResNett,')
    finding = only(load_config(write('bad.py', text)))
    assert 'imported at' in finding.problem
    assert 'bad.py:4' in finding.problem
    assert 'ResNet' in finding.near


def test_a_top_level_name_that_nothing_reads_is_unknown(write):
    finding = only(load_config(write('bad.py', GOOD + 'num_clases = 3\n')))
    assert finding.path == 'num_clases'
    assert finding.near == ('num_classes',)


def test_text_configs_are_checked_alike(write):
    path = write('c.yaml', """
        model:
          type: ImageClassifier
          backbone: {type: ResNet, depth: 18, out_stages: [4]}
          head:
            type: LinearHead
            num_clases: 3
        """)
    found = findings(load_config(path))
    assert found[0].where.endswith('c.yaml:6')
    assert found[0].near == ('num_classes',)


def test_nothing_is_built_or_read_by_checking(good, monkeypatch):
    from openlab.backbones.resnet import ResNet

    def build_nothing(self, *args, **kwargs):
        raise AssertionError('built')

    build_nothing.__signature__ = __import__('inspect').signature(ResNet.__init__)
    build_nothing.__annotations__ = ResNet.__init__.__annotations__
    monkeypatch.setattr(ResNet, '__init__', build_nothing)
    check_config(load_config(good))


def test_custom_imports_that_cannot_be_imported_are_a_finding(good):
    cfg = load_config(good, ['custom_imports=[no_such_module_of_mine]'])
    assert only(cfg).path == 'custom_imports'
    assert 'no_such_module_of_mine' not in sys.modules
