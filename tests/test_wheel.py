"""The wheel holds all that a user needs, away from any checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ALL = """
import importlib, json, sys
import openlab
from openlab.registry import REGISTRIES
from openlab.shipped import shipped_root
report = {'file': openlab.__file__, 'root': str(shipped_root()), 'failed': [], 'names': []}
for kind, registry in REGISTRIES.items():
    for name, entry in registry.entries().items():
        try:
            registry.get(name)
            report['names'].append(name)
        except Exception as error:
            report['failed'].append(f'{kind} {name} ({entry.module}): {error!r}')
print(json.dumps(report))
"""


def run(*command, cwd, path=None):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    if path:
        env['PYTHONPATH'] = str(path)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout, because a build leaves folders behind."""
    copy = tmp_path_factory.mktemp('source') / 'openlab-checkout'
    ignored = shutil.ignore_patterns(
        '.git', '.venv', 'build', 'dist', 'site', 'work_dirs', '__pycache__', '*.egg-info',
        '.*_cache',
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    stale = source / 'build' / 'lib' / 'openlab' / 'removed_long_ago.py'
    stale.parent.mkdir(parents=True)
    stale.write_text('')
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
        '--wheel-dir', str(folder), str(source), cwd=folder)
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp('installed')
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(folder),
        str(wheel), cwd=folder)
    return folder


def test_wheel_is_pure_python(wheel):
    assert wheel.name.endswith('-py3-none-any.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if n.endswith(('.so', '.pyd', '.dll', '.dylib'))]


def test_wheel_holds_the_package_and_the_shipped_files_and_nothing_else(wheel):
    names = [n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n]
    expected = {
        f.relative_to(ROOT).as_posix() for f in (ROOT / 'openlab').rglob('*.py')
    } | {'openlab/py.typed'} | {
        f'openlab/_shipped/{f.relative_to(ROOT).as_posix()}'
        for part in ('configs', 'model_zoo') for f in (ROOT / part).rglob('*')
        if f.is_file() and '__pycache__' not in f.parts
    }
    data = {n for n in names if not n.endswith('.py') and not n.startswith('openlab/_shipped/')}
    assert set(names) - data == expected - data
    assert 'openlab/py.typed' in names


def test_every_registered_component_imports_from_the_wheel(installed, tmp_path):
    report = json.loads(run(sys.executable, '-c', IMPORT_ALL, cwd=tmp_path, path=installed))
    assert Path(report['file']).is_relative_to(installed)
    assert Path(report['root']) == installed / 'openlab' / '_shipped'
    assert report['failed'] == []
    assert report['names']


def test_zoo_index_is_in_the_wheel(installed):
    index = json.loads((installed / 'openlab/_shipped/model_zoo/index.json').read_text('utf-8'))
    assert isinstance(index['models'], list)


def test_shipped_config_loads_by_name_from_any_folder(installed, tmp_path):
    out = run(sys.executable, '-m', 'openlab', 'config', 'show', 'quickstart/classification',
              cwd=tmp_path, path=installed)
    assert 'train_dataloader' in out


def test_console_script_is_declared(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith('entry_points.txt'))
    assert 'openlab = openlab.cli:main' in archive.read(name).decode()


def test_source_archive_can_be_built_again(source, tmp_path):
    code = ('import sys, setuptools.build_meta as b\n'
            f'print(b.build_sdist({str(tmp_path)!r}))')
    name = run(sys.executable, '-c', code, cwd=source).splitlines()[-1]
    with tarfile.open(tmp_path / name) as archive:
        archive.extractall(tmp_path, filter='data')
    unpacked = tmp_path / name.removesuffix('.tar.gz')
    for needed in ('configs/README.md', 'model_zoo/index.json', 'LICENSE', 'Makefile', 'setup.py'):
        assert (unpacked / needed).is_file(), needed
    code = ('import setuptools.build_meta as b\n'
            f'print(b.build_wheel({str(tmp_path)!r}))')
    built = run(sys.executable, '-c', code, cwd=unpacked).splitlines()[-1]
    names = zipfile.ZipFile(tmp_path / built).namelist()
    assert 'openlab/_shipped/model_zoo/index.json' in names


def test_checkout_finds_its_own_shipped_files():
    from openlab.shipped import shipped_root

    assert shipped_root() == ROOT


def test_a_broken_installation_says_what_is_missing(monkeypatch, tmp_path):
    from openlab import shipped

    monkeypatch.setattr(shipped, '__file__', str(tmp_path / 'openlab' / 'shipped.py'))
    with pytest.raises(FileNotFoundError, match='install openlab again'):
        shipped.shipped_root()
