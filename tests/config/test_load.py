"""Loading configs: references, inheritance, overrides, records of writers."""

import copy
import pickle
import subprocess
import sys
import textwrap

import pytest

from openlab.config import Config, ConfigDict, ConfigError, ConfigWarning, LazyName, load_config

BASE = '''
"""A config."""
import math

import torch.optim
from openlab.backbones.resnet import ResNet
from torch import nn

num_classes = 10
train_pipeline = [dict(type='Resize', scale=8), dict(type='RandomFlip', prob=0.5)]
model = dict(
    type=ResNet,
    backbone=dict(depth=18, act=nn.ReLU),
    head=dict(
        num_classes=num_classes,
        angle=math.pi))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=1)
test_dataloader = val_dataloader
optim_wrapper = {'optimizer': dict(type=torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99))}
'''
CHILD = '''
from openlab.config import read_base

with read_base():
    from .base import *
'''


@pytest.fixture
def base(write):
    return write('base.py', BASE)


@pytest.fixture
def child(write, base):
    return lambda text: write('child.py', CHILD + text)


def test_a_python_config_keeps_real_classes_as_lazy_names(base):
    cfg = load_config(base)
    assert cfg.model.type == LazyName('openlab.backbones.resnet.ResNet')
    assert cfg.model.backbone.act.dotted_path == 'torch.nn.ReLU'
    assert cfg.optim_wrapper.optimizer.type.dotted_path == 'torch.optim.AdamW'


def test_the_standard_library_is_imported_for_real(base):
    assert load_config(base).model.head.angle == pytest.approx(3.14159265)


def test_a_project_beside_its_environment_under_a_common_prefix_stays_lazy(write, monkeypatch):
    # mmengine tells built-in modules by a prefix of the interpreter's folder: /x/env and
    # /x/env_project share one, so the project's classes counted as built-in.
    write('env_project/mine.py', 'class Net: pass\n')
    path = write('env_project/cfg.py', 'import os\nfrom mine import Net\nmodel = dict(type=Net)\n')
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, 'base_prefix', str(path.parent.parent / 'env'))
    monkeypatch.setattr(sys, 'prefix', str(path.parent.parent / 'env'))
    cfg = load_config(path)
    assert cfg.model.type == LazyName('mine.Net')
    assert 'mine' not in sys.modules


def test_a_call_of_a_lazy_name_in_a_config_says_what_to_write(write):
    path = write('a.py', 'from torch import nn\nmodel = nn.Linear(1, 2)\n')
    with pytest.raises(ConfigError, match=r'a\.py:2: .*write dict\(type=Linear, ...\)'):
        load_config(path)


def test_variables_are_no_keys_but_stay_known(base):
    cfg = load_config(base)
    assert 'num_classes' not in cfg
    assert cfg.variables.num_classes == 10


def test_an_override_reaches_every_place_that_refers_to_the_variable(base):
    cfg = load_config(base, ['num_classes=20', 'train_pipeline.0.scale=64'])
    assert cfg.model.head.num_classes == 20
    assert cfg.train_dataloader.dataset.pipeline[0].scale == 64


def test_a_childs_new_value_of_a_variable_reaches_the_bases_references(child):
    cfg = load_config(child('num_classes = 20\n'))
    assert cfg.model.head.num_classes == 20


def test_a_childs_edit_of_a_shared_pipeline_reaches_the_dataloader(child):
    cfg = load_config(child(
        "train_pipeline[0].scale = 32\ntrain_pipeline.append(dict(type='Pad'))\n"))
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [t.type for t in pipeline] == ['Resize', 'RandomFlip', 'Pad']
    assert pipeline[0].scale == 32


def test_a_childs_edit_does_not_flow_back_to_what_it_was_copied_from(child):
    cfg = load_config(child('test_dataloader.batch_size = 9\n'))
    assert (cfg.val_dataloader.batch_size, cfg.test_dataloader.batch_size) == (1, 9)


def test_an_override_does_not_flow_back_either_but_flows_forward(base):
    cfg = load_config(base, ['test_dataloader.batch_size=9'])
    assert (cfg.val_dataloader.batch_size, cfg.test_dataloader.batch_size) == (1, 9)
    cfg = load_config(base, ['val_dataloader.batch_size=9'])
    assert (cfg.val_dataloader.batch_size, cfg.test_dataloader.batch_size) == (9, 9)


def test_a_child_that_doubles_its_bases_value_doubles_it_once(write):
    write('base.py', 'lr = 0.1\noptim_wrapper = dict(optimizer=dict(lr=lr))\n')
    write('mid.py', CHILD + 'lr = lr * 2\n')
    top = write('top.py', CHILD.replace('.base', '.mid') + 'lr = lr * 2\n')
    assert load_config(top).optim_wrapper.optimizer.lr == pytest.approx(0.4)
    assert load_config(top, ['lr=1']).optim_wrapper.optimizer.lr == 1


def test_a_chain_of_derived_variables_settles(write):
    write('base.py', """
        width = 1
        depth = width * 2
        model = dict(width=width, depth=depth, size=depth * 10)
        """)
    top = write('top.py', CHILD + 'width = 3\ndepth = depth + 1\n')
    assert load_config(top).model == {'width': 3, 'depth': 7, 'size': 70}


def test_a_value_computed_from_its_own_consequence_is_an_error(write):
    write('base.py', 'lr = 1\nscaled = lr * 10\nmodel = dict(lr=scaled)\n')
    with pytest.raises(ConfigError, match='lr is computed from values that its base computes'):
        load_config(write('top.py', CHILD + 'lr = scaled * 2\n'))


def test_two_bases_that_disagree_are_an_error_unless_the_child_decides(write):
    write('a.py', 'num_classes = 1\nmodel = dict(n=num_classes)\n')
    write('b.py', 'num_classes = 2\ntrain_cfg = dict(n=num_classes)\n')
    head = """
        from mmengine.config import read_base
        with read_base():
            from .a import *
            from .b import *
        """
    with pytest.raises(ConfigError, match='num_classes is set by two bases'):
        load_config(write('c.py', head))
    cfg = load_config(write('d.py', textwrap.dedent(head) + 'num_classes = 3\n'))
    assert (cfg.model.n, cfg.train_cfg.n) == (3, 3)


def test_overrides_reach_what_a_loop_over_settings_wrote(write):
    write('a.py', 'val_dataloader = dict(pipeline=[1])\ntest_dataloader = dict(pipeline=[2])\n')
    b = write('b.py', """
        from mmengine.config import read_base
        with read_base():
            from .a import *
        for loader in (val_dataloader, test_dataloader):
            loader.pipeline = [dict(size=3), dict(size=4)]
        del loader
        """)
    cfg = load_config(b, ['val_dataloader.pipeline.1.size=5'])
    assert cfg.to_plain()['val_dataloader'] == {'pipeline': [{'size': 3}, {'size': 5}]}
    assert cfg.to_plain()['test_dataloader'] == {'pipeline': [{'size': 3}, {'size': 4}]}
    c = write('c.py', """
        from mmengine.config import read_base
        with read_base():
            from .b import *
        test_dataloader.pipeline[0].size = 6
        """)
    assert load_config(c).to_plain()['test_dataloader'] == {'pipeline': [{'size': 6}, {'size': 4}]}


def test_configs_in_a_circle_are_named(write):
    write('a.py', CHILD.replace('.base', '.b'))
    write('b.py', CHILD.replace('.base', '.a'))
    with pytest.raises(ConfigError, match=r'circle: a\.py -> b\.py -> a\.py'):
        load_config(write('a.py', CHILD.replace('.base', '.b')))


def test_a_missing_base_lists_near_files(write, base):
    with pytest.raises(ConfigError, match=r'c\.py:4: no base config .*did you mean base\?'):
        load_config(write('c.py', CHILD.replace('.base', '.bse').lstrip('\n')))


def test_an_error_in_a_config_names_its_line_and_near_names(base, child):
    with pytest.raises(ConfigError, match=r"child\.py:5: NameError: .*did you mean num_classes\?"):
        load_config(child('model.head.num_classes = num_clases\n'))


def test_text_configs_merge_delete_and_refer_to_their_base(write, base):
    path = write('c.yaml', """
        _base_: base.py
        model:
          backbone: {depth: 50}
          head: {_delete_: true, num_classes: '{{_base_.num_classes}}'}
        optim_wrapper: {optimizer: {lr: 1e-4}}
        train_pipeline: {0: {scale: 16}, '+': [{type: Pad}]}
        work_dir: '{{fileDirname}}/runs'
        """)
    cfg = load_config(path, ['num_classes=5'])
    assert cfg.model.backbone.depth == 50
    assert cfg.model.head == {'num_classes': 5}
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [t.type for t in pipeline] == ['Resize', 'RandomFlip', 'Pad']
    assert cfg.work_dir == f'{path.parent}/runs'


def test_old_python_configs_with_string_types_load(write, base, monkeypatch):
    monkeypatch.setenv('OPENLAB_TEST_BATCH', '7')
    path = write('c.py', """
        _base_ = ['./base.py']
        model = dict(type='ResNet', head=dict(_delete_=True, num_classes={{_base_.num_classes}}))
        train_dataloader = dict(batch_size={{'$OPENLAB_TEST_BATCH:2'}})
        val_dataloader = dict(batch_size=_base_.num_classes)
        work_dir = '{{$ENV:OPENLAB_TEST_ROOT:/tmp}}/{{fileBasenameNoExtension}}'
        """)
    cfg = load_config(path)
    assert cfg.model.type == 'ResNet'
    assert cfg.model.head == {'num_classes': 10}
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.val_dataloader.batch_size == 10
    assert cfg.test_dataloader.batch_size == 10
    assert cfg.work_dir == '/tmp/c'


def test_json_configs_load_with_lines(write):
    cfg = load_config(write('c.json', '{\n "model": {\n  "depth": 18}\n}\n'))
    assert cfg.model.depth == 18
    assert [w.line for w in cfg.writers('model.depth')] == [3]


@pytest.mark.parametrize(('name', 'text', 'message'), [
    ('a.yaml', 'model: {a: 1\nb: 2\n', r'a\.yaml:\d'),
    ('a.json', '{"a": }', r'a\.json:1: Expecting value'),
    ('a.yaml', '- 1\n', 'a config is a mapping'),
    ('a.py', 'model = dict(\n', r'a\.py:1: .*never closed'),
    ('a.py', 'from .b import x\n', 'only inside "with read_base'),
    ('a.py', 'from torch.nn import *\n', 'name it'),
])
def test_broken_files_are_named_with_their_line(write, name, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(name, text))


@pytest.mark.parametrize(('override', 'message'), [
    ('num_clases=3', "no key 'num_clases'; did you mean num_classes"),
    ('model.head.num_clases=3', 'did you mean num_classes'),
    ('train_pipeline.7=1', 'has only 2 items'),
    ('train_pipeline.scale=1', r'use an index such as train_pipeline\[0\]'),
    ('num_classes.x=1', "num_classes is 10, so it has no 'x'"),
    ('~model.hed', 'did you mean head'),
    ('num_classes+=[1]', 'is 10, not a list'),
    ('train_pipeline+=1', r'\+= takes a list'),
    ('num_classes', 'cannot read the override'),
])
def test_a_wrong_override_is_an_error_with_near_matches(base, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(base, [override])


def test_overrides_edit_lists_add_and_delete_keys(base):
    cfg = load_config(base, [
        'train_pipeline[-1].prob=1', 'train_pipeline+=[dict(type=Pad)]',
        'train_pipeline.append=dict(type=Crop, size=8)', '~model.head.angle',
        '+model.head.temperature.value=2', 'optim_wrapper.optimizer.betas.0=0.5',
        'work_dir=out', 'randomness.seed=3',
    ])
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [t.type for t in pipeline] == ['Resize', 'RandomFlip', 'Pad', 'Crop']
    assert pipeline[1].prob == 1
    assert cfg.model.head == {'num_classes': 10, 'temperature': {'value': 2}}
    assert cfg.optim_wrapper.optimizer.betas == (0.5, 0.99)
    assert cfg.work_dir == 'out'
    assert cfg.randomness == {'seed': 3}


def test_an_override_may_set_an_argument_that_the_signature_knows(base):
    cfg = load_config(base, ['optim_wrapper.optimizer.weight_decay=0.1'])
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.1
    with pytest.raises(ConfigError, match='weight_deca'):
        load_config(base, ['optim_wrapper.optimizer.weight_deca=0.1'])


def test_an_override_may_set_what_the_engine_declares(base):
    cfg = load_config(base, ['train_dataloader.num_workers=0', 'randomness.deterministic=true'])
    assert cfg.train_dataloader.num_workers == 0
    assert cfg.randomness.deterministic is True
    with pytest.raises(ConfigError, match='num_worker'):
        load_config(base, ['train_dataloader.num_worker=0'])


def test_an_override_of_what_nothing_reads_is_an_error(write):
    path = write('a.py', 'work_dir = "x"\nlearning_rate = 1\n')
    with pytest.raises(ConfigError, match="nothing in the config reads 'learning_rate'"):
        load_config(path, ['learning_rate=2'])


def test_an_override_whose_readers_were_replaced_warns(child):
    path = child('model = dict(depth=3)\n')
    with pytest.warns(ConfigWarning, match='num_classes=7 changes nothing'):
        load_config(path, ['num_classes=7'])


def test_every_writer_of_a_key_is_recorded_in_order_with_its_line(base, child):
    path = child('model.head.num_classes = 20\n')
    cfg = load_config(path, ['model.head.num_classes=30'])
    assert [(w.file.rpartition('/')[2], w.line) for w in cfg.writers('model.head.num_classes')] == [
        ('base.py', 14), ('child.py', 5), ('--set', 0)]
    assert cfg.model.head.num_classes == 30


def test_a_dict_that_replaces_another_keeps_the_record_of_its_keys(base, child):
    cfg = load_config(child('model = dict(head=dict(num_classes=4))\n'))
    writers = cfg.writers('model.head.num_classes')
    assert [(w.file.rpartition('/')[2], w.line) for w in writers] == [
        ('base.py', 14), ('child.py', 5)]


def test_explain_marks_the_winner_and_follows_variables(base):
    text = load_config(base, ['num_classes=20']).explain('model.head.num_classes')
    assert 'model.head.num_classes = 20' in text
    assert 'which refers to num_classes:' in text
    assert any(line.strip().startswith('* --set') for line in text.splitlines())
    assert load_config(base, ['~model.head.angle']).explain('model.head.angle').startswith(
        'model.head.angle was deleted')


def test_explain_of_an_unknown_key_gives_near_keys(base):
    with pytest.raises(ConfigError, match='did you mean num_classes'):
        load_config(base).explain('model.head.num_clases')


def test_configs_copy_and_pickle_with_their_records(base):
    cfg = load_config(base, ['num_classes=20'])
    for twin in (pickle.loads(pickle.dumps(cfg)), copy.deepcopy(cfg), cfg.copy()):
        assert isinstance(twin, Config)
        assert isinstance(twin.model, ConfigDict)
        assert twin == cfg
        assert twin.explain('model.head.num_classes') == cfg.explain('model.head.num_classes')
    twin = copy.deepcopy(cfg)
    twin.model.head.num_classes = 1
    assert cfg.model.head.num_classes == 20


def test_attribute_access_suggests_near_keys(base):
    with pytest.raises(AttributeError, match='did you mean model'):
        _ = load_config(base).modle


def test_an_unknown_config_name_suggests_shipped_ones_or_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='no config file'):
        load_config('quickstart/clasification')


@pytest.mark.parametrize(('name', 'words'), [
    ('mobilenet-v3', 'the zoo has openlab/mobilenet-v2'),
    ('mobilenet-v2', 'mobilenet-v2 is an entry of the zoo: openlab zoo show mobilenet-v2'),
    ('openlab/mobilenet-v2', 'zoo://openlab/mobilenet-v2 names its weights'),
])
def test_a_name_that_is_no_configs_is_looked_for_in_the_zoo(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert words in str(caught.value) and f'no config file {name!r}' in str(caught.value)


def test_a_name_that_is_near_nothing_is_not_said_to_be_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config('zzzzzzzz')
    assert 'zoo' not in str(caught.value)


def test_loading_imports_neither_torch_nor_mmengine(base):
    code = (
        'import sys; from openlab.config import load_config; '
        f'load_config({str(base)!r}, ["num_classes=3"]); '
        'print([m for m in ("torch", "mmengine", "numpy") if m in sys.modules])'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
