"""The printed config is plain data, and loading it gives the same config and model."""

import json

import pytest
import torch

from openlab.config import ConfigDict, ConfigError, load_config, resolve_config, shipped_configs
from openlab.config.build import build
from openlab.config.plain import FORMATS, dump_text, to_plain
from openlab.registry import MODELS

CONFIG = '''
import torch
from torch import nn
from torch.optim import SGD

width = (4, 8)
model = dict(
    type=nn.Sequential,
    _ignored=None)
optim_wrapper = dict(optimizer=dict(type=SGD, lr=1e-4, betas=(0.9, 1e-8)), dtype=torch.float16)
param_scheduler = [dict(type='X', end=float('inf')), dict(type='Y', name='a: b # c', on=None)]
work_dir = 'it\\'s "quoted"\\n{{ no placeholder }'
'''


@pytest.mark.parametrize('form', FORMATS)
def test_every_format_loads_to_the_same_plain_data(write, tmp_path, form):
    cfg = load_config(write('a.py', CONFIG))
    twin = load_config(write(f'out.{form}', dump_text(cfg, form)))
    assert twin.to_plain() == cfg.to_plain()
    cfg.dump(tmp_path / f'again.{form}')
    assert (tmp_path / f'again.{form}').read_text() == dump_text(twin, form)


def test_plain_data_is_json_with_dotted_paths_and_lists(write):
    plain = load_config(write('a.py', CONFIG)).to_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain['optim_wrapper']['optimizer']['type'] == 'torch.optim.SGD'
    assert plain['optim_wrapper']['optimizer']['betas'] == [0.9, 1e-8]


def test_a_class_that_is_a_value_builds_to_itself_again():
    cfg = to_plain(ConfigDict(type=torch.nn.Identity, unused=torch.nn.ReLU))
    assert cfg['type'] == 'torch.nn.modules.linear.Identity'
    assert build(cfg['unused']) is torch.nn.ReLU


@pytest.mark.parametrize('value', [lambda: 1, {1: 2}, object()])
def test_what_has_no_plain_form_is_an_error_with_its_path(value):
    with pytest.raises(ConfigError, match=r'model\.x'):
        to_plain({'model': {'x': value}})


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(ConfigError, match='py, yaml, json'):
        dump_text({}, 'toml')


@pytest.mark.parametrize('name', shipped_configs())
def test_every_shipped_config_resolves_and_round_trips(name, tmp_path):
    cfg = resolve_config(load_config(name))
    for form in FORMATS:
        path = tmp_path / f'printed.{form}'
        cfg.dump(path)
        twin = load_config(path)
        assert twin.to_plain() == cfg.to_plain(), form
        assert resolve_config(twin).to_plain() == cfg.to_plain(), form
    with torch.device('meta'):
        ours, theirs = (build(c.model, MODELS, 'model') for c in (load_config(name), twin))
    assert str(ours) == str(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()}


def test_resolving_writes_what_is_derived_with_its_writer(write):
    cfg = load_config(write('c.yaml', """
        model:
          type: ImageClassifier
          backbone: {type: ResNet, depth: 18}
          head: {type: LinearHead, num_classes: 3}
        """))
    assert resolve_config(cfg) is cfg
    assert cfg.model.head.in_channels == 512
    assert 'derived' in cfg.explain('model.head.in_channels')
