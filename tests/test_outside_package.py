"""The worked example of a package outside of openlab installs, is found and trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openlab.config import ConfigError, check_config, load_config
from openlab.config.resolve import build_on_meta
from openlab.registry import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / 'docs' / 'examples' / 'outside_package'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder into which the example is installed, without any network."""
    folder = tmp_path_factory.mktemp('outside')
    shutil.copytree(EXAMPLE, folder / 'source')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
         '--no-build-isolation', '--disable-pip-version-check', '--target', str(folder / 'site'),
         str(folder / 'source')], check=True, capture_output=True, text=True)
    return folder / 'site'


def openlab(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, 'PYTHONPATH': f'{path}{os.pathsep}{ROOT}', 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, '-m', 'openlab', *arguments], capture_output=True,
                          text=True, env=env, cwd=cwd, timeout=300)


def test_an_installed_package_is_found_by_its_bare_names(site, tmp_path):
    done = openlab('registry', 'find', 'DepthwiseNet', path=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'shapes/backbone.py' in done.stdout


@pytest.fixture
def on_path(monkeypatch):
    """The bare folder on the path: there is no metadata, so no entry point."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    kept = [(r, dict(r._module_dict)) for r in REGISTRIES.values()]
    yield
    for registry, before in kept:
        registry._module_dict.clear()
        registry._module_dict.update(before)
    for name in [n for n in sys.modules if n.partition('.')[0] == 'shapes']:
        del sys.modules[name]


@pytest.mark.parametrize('overrides', [
    [],
    ['model.backbone.type=shapes.backbone.DepthwiseNet'],
    ['model.backbone.type=DepthwiseNet', 'custom_imports=[shapes.backbone]'],
])
def test_a_package_on_the_path_is_found_by_class_by_dotted_path_and_by_custom_imports(
    overrides, on_path
):
    cfg = load_config(EXAMPLE / 'configs' / 'shapes.py', overrides)
    check_config(cfg)
    assert type(build_on_meta(cfg).backbone).__module__ == 'shapes.backbone'
    assert cfg.model.head.in_channels == 32


def test_without_any_of_the_three_the_name_is_unknown(on_path):
    cfg = load_config(EXAMPLE / 'configs' / 'shapes.py', ['model.backbone.type=DepthwiseNet'])
    with pytest.raises(ConfigError, match="no model named 'DepthwiseNet'"):
        check_config(cfg)


def test_the_installed_example_trains_by_bare_names_to_better_than_chance(site, tmp_path):
    config = str(EXAMPLE / 'configs' / 'shapes_by_name.yaml')
    done = openlab('train', config, '--work-dir', 'run', path=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for file in (tmp_path / 'run').rglob('*.jsonl')
            for line in file.read_text().splitlines()]
    scores = [row['val/accuracy/top1'] for row in rows if 'val/accuracy/top1' in row]
    assert len(scores) == 12
    assert scores[-1] > 0.8
