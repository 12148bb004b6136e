import importlib.util
import json
import sys

import pytest

from openlab import cli
from openlab.apis import doctor


def test_the_report_names_versions_devices_ops_and_threads(capsys):
    assert cli.main(['doctor']) == 0
    out = capsys.readouterr().out
    for word in ('torch ', 'torchvision', 'chosen', 'nms', 'scaled dot product', 'OpenCV',
                 'cache', 'no problems'):
        assert word in out


def test_the_same_report_as_json(capsys):
    assert cli.main(['doctor', '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['problems'] == []
    assert report['devices']['computes'] is True
    assert report['packages']['torch'].startswith('2.')


def test_an_optional_package_that_is_absent_comes_with_its_pip_line(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name, *a: None if name == 'wandb' else find(name, *a))
    assert cli.main(['doctor']) == 0
    assert 'pip install wandb' in capsys.readouterr().out


def test_a_missing_package_is_a_problem_with_its_cure(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name, *a: None if name == 'safetensors' else find(name, *a))
    assert cli.main(['doctor']) == 1
    out = capsys.readouterr().out
    assert 'safetensors is missing; install it with: pip install safetensors' in out


def test_an_old_package_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, 'installed_version', lambda names: '2.5.1+cpu')
    problems = []
    doctor.required_packages(problems)
    assert any('torch 2.5.1+cpu is older than 2.6' in p for p in problems)


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    monkeypatch.setenv('OPENLAB_CACHE', str(file))
    problems = []
    doctor.folders(problems)
    assert any(str(file) in p and 'OPENLAB_CACHE' in p for p in problems)


def test_a_device_that_miscomputes_is_a_problem(monkeypatch):
    import torch

    def broken(*shape, **kwargs):
        raise RuntimeError('no kernel image is available\nmore')

    monkeypatch.setattr(torch, 'ones', broken)
    problems = []
    assert doctor.devices(problems)['computes'] is False
    assert 'no kernel image is available' in problems[0]


@pytest.mark.parametrize('version,numbers', [
    ('2.6.0+cu124', (2, 6, 0)), ('0.10.7', (0, 10, 7)), ('5.0.0.93', (5, 0, 0))])
def test_versions_compare_as_numbers(version, numbers):
    assert doctor.as_numbers(version) == numbers
    assert doctor.as_numbers('2.10') > doctor.as_numbers('2.6')


def test_an_opencv_that_does_not_load_is_a_problem_with_a_cure(monkeypatch, tmp_path):
    (tmp_path / 'cv2.py').write_text('raise ImportError("libGL.so.1: cannot open shared object")')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'cv2', raising=False)
    problems = []
    doctor.check_opencv_loads(problems)
    assert 'libGL.so.1' in problems[0]
    assert 'opencv-python-headless' in problems[0]
