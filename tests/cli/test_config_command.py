"""``openlab config`` and ``openlab model``, as typed."""

import json
import subprocess
import sys
import textwrap

import pytest

from openlab import cli
from openlab.config import load_config

CONFIG = textwrap.dedent('''
    num_classes = 10
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, out_stages=(5,)),
        head=dict(type='LinearHead', num_classes=num_classes))
    test_dataloader = dict(dataset=dict(
        type='Digits', pipeline=[dict(type='Resize', size=32), dict(type='PackInputs')]))
    ''')


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize('form', ['py', 'yaml', 'json'])
def test_show_prints_what_loads_again(config, tmp_path, capsys, form):
    assert cli.main(['config', 'show', config, '--format', form]) == 0
    out = tmp_path / f'b.{form}'
    out.write_text(capsys.readouterr().out)
    assert load_config(out).model.head.in_channels == 512
    assert cli.main(['config', 'show', str(out), '--format', form]) == 0
    assert capsys.readouterr().out == out.read_text()


def test_show_without_resolving_leaves_out_what_is_derived(config, tmp_path):
    out = tmp_path / 'b.json'
    assert cli.main(['config', 'show', config, '--no-resolve', '--format', 'json', '--out',
                     str(out)]) == 0
    assert 'in_channels' not in json.loads(out.read_text())['model']['head']


def test_explain_prints_the_writers(config, capsys):
    assert cli.main(['config', 'explain', config, 'model.head.num_classes', '--set',
                     'num_classes=4']) == 0
    out = capsys.readouterr().out
    assert 'model.head.num_classes = 4' in out
    assert 'a.py:6' in out
    assert '* --set' in out


def test_diff_names_the_keys_and_exits_with_1(config, tmp_path, capsys):
    other = tmp_path / 'b.py'
    other.write_text(CONFIG.replace('depth=18', 'depth=50').replace('size=32', 'height=32'))
    assert cli.main(['config', 'diff', config, str(other)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index('model.backbone.depth')
    assert lines[at + 1:at + 3] == ['  - 18', '  + 50']
    assert 'test_dataloader.dataset.pipeline[0].height' in lines
    assert cli.main(['config', 'diff', config, config]) == 0


def test_check_prints_costs_by_module(config, capsys):
    assert cli.main(['config', 'check', config]) == 0
    out = capsys.readouterr().out
    assert '11,181,642' in out
    assert 'one forward pass of 1x3x32x32' in out
    assert 'no mistakes' in out


def test_check_of_a_typo_is_one_message_and_exit_code_2(config, capsys):
    assert cli.main(['config', 'check', config, '--set', '+model.head.num_clases=3']) == 2
    err = capsys.readouterr().err
    assert 'model.head.num_clases (--set)' in err
    assert 'did you mean num_classes?' in err
    assert 'LinearHead(num_classes: int' in err
    assert 'Traceback' not in err


def test_schema_knows_keys_components_and_their_arguments(capsys):
    assert cli.main(['config', 'schema']) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {'model', 'train_dataloader', 'optim_wrapper'} <= set(schema['properties'])
    head = schema['$defs']['model.LinearHead']
    assert head['properties']['num_classes'] == {
        'type': 'integer', 'description': 'number of classes.'}
    assert head['additionalProperties'] is False
    assert {'$ref': '#/$defs/model.ResNet'} in schema['$defs']['model']['anyOf']
    assert schema['properties']['train_dataloader']['properties']['dataset'] == {
        '$ref': '#/$defs/dataset'}


def test_flops_take_a_shape(config, capsys):
    assert cli.main(['model', 'flops', config, '--shape', '3', '64', '64', '--depth', '0']) == 0
    assert 'one forward pass of 1x3x64x64' in capsys.readouterr().out


@pytest.mark.parametrize(('what', 'option', 'value', 'message'), [
    ('throughput', '--batch-size', '0', '--batch-size must be at least 1, not 0'),
    ('throughput', '--seconds', 'nan', '--seconds must be above 0, not nan'),
    ('latency', '--seconds', '-1', '--seconds must be above 0, not -1'),
    ('params', '--depth', '-1', '--depth must be at least 0, not -1'),
    ('flops', '--shape', '0', '--shape takes sizes of at least 1'),
])
def test_numbers_that_would_measure_nothing_are_refused(config, capsys, what, option, value,
                                                        message):
    assert cli.main(['model', what, config, option, value]) == 2
    out, err = capsys.readouterr()
    assert message in err and not out


def test_latency_and_throughput_are_measured(config, capsys):
    assert cli.main(['model', 'latency', config, '--seconds', '0.05', '--device', 'cpu']) == 0
    assert cli.main(['model', 'throughput', config, '--seconds', '0.05', '--device', 'cpu',
                     '--batch-size', '2']) == 0
    out = capsys.readouterr().out
    assert 'ms median' in out
    assert 'inputs/s of 3x32x32 in batches of 2' in out


def test_notes_on_a_config_are_plain_lines_without_a_place_in_our_source():
    done = subprocess.run(
        [sys.executable, '-m', 'openlab', 'config', 'show', 'retinanet_resnet50_12e_coco',
         '--set', 'model.backbone=RegNetX-400MF'], capture_output=True, text=True, check=True)
    notes = [line for line in done.stderr.splitlines() if 'load_from' in line]
    assert notes and all(line.startswith('note: ') for line in notes)
    assert 'ConfigWarning' not in done.stderr
