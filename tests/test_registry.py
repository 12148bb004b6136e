"""Components are found by reading source, in openlab and outside of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from openlab import registry
from openlab.config import ConfigError, check_config, load_config
from openlab.registry import (
    MODELS,
    REGISTRIES,
    UnknownComponentError,
    import_custom,
    import_object,
    scan_package,
)

PACKAGE = '''
from torch import nn

from openlab.registry import MODELS


@MODELS.register_module()
class {name}(nn.Module):
    """A module."""

    def __init__(self, width: int = 1):
        super().__init__()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write an importable package; its modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, **modules: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / '__init__.py').write_text('')
        for module, text in modules.items():
            (folder / f'{module}.py').write_text(text)
        return name

    before = set(sys.modules)
    registered = dict(MODELS._module_dict)
    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
    MODELS._module_dict.clear()
    MODELS._module_dict.update(registered)


def test_every_registry_is_a_child_of_mmengines_root_in_our_scope():
    for ours in REGISTRIES.values():
        assert ours.scope == 'openlab'
        assert ours.parent.scope == 'mmengine'


def test_listing_components_imports_none_of_them():
    code = (
        'import sys; from openlab.registry import REGISTRIES; '
        'n = sum(len(r.entries()) for r in REGISTRIES.values()); '
        'print(n > 20, "torch" in sys.modules)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ['True', 'False']


def test_every_entry_points_at_its_line():
    entry = MODELS.entries()['ResNet']
    line = Path(entry.file).read_text().splitlines()[entry.line - 1]
    assert line.startswith('class ResNet')


@pytest.mark.parametrize('name', sorted(REGISTRIES))
def test_every_registered_name_is_found_and_is_the_class_name(name):
    for key in REGISTRIES[name].entries():
        try:
            assert REGISTRIES[name].get(key).__name__ == key
        except ModuleNotFoundError as error:  # an optional library
            assert not (error.name or '').startswith('openlab')


def test_the_same_name_twice_is_an_error_naming_both_files(package, monkeypatch):
    name = package('twice', a=PACKAGE.format(name='Same'), b=PACKAGE.format(name='Same'))
    monkeypatch.setattr(MODELS, 'packages', (name,))
    with pytest.raises(ValueError, match=r'two models are named Same: .*a\.py:8 and .*b\.py:8'):
        MODELS.entries()


def test_a_module_without_a_package_is_scanned_too(package):
    name = package('single', inner=PACKAGE.format(name='Inner'))
    assert [e.name for e in scan_package(f'{name}.inner')] == ['Inner']
    assert [e.module for e in scan_package(name)] == ['single.inner']


def test_an_outside_component_is_found_by_custom_imports(package, write_config):
    name = package('outside_a', net=PACKAGE.format(name='OutsideNet'))
    cfg = load_config(write_config(
        f"custom_imports = ['{name}.net']\nmodel = dict(type='OutsideNet', width=3)\n"))
    check_config(cfg)
    assert MODELS.get('OutsideNet').__module__ == 'outside_a.net'


def test_an_outside_component_is_found_by_its_dotted_path(package, write_config):
    name = package('outside_b', net=PACKAGE.format(name='DottedNet'))
    check_config(load_config(write_config(f"model = dict(type='{name}.net.DottedNet')\n")))
    assert MODELS.get(f'{name}.net:DottedNet').__name__ == 'DottedNet'


def test_an_outside_package_is_found_through_its_entry_point(package, monkeypatch):
    name = package('outside_c', net=PACKAGE.format(name='OfferedNet'))
    monkeypatch.setattr(registry, 'outside_packages', lambda: (name,))
    assert MODELS.entries()['OfferedNet'].module == 'outside_c.net'
    assert 'outside_c.net' not in sys.modules
    assert MODELS.get('OfferedNet').__name__ == 'OfferedNet'


def test_custom_imports_that_fail_say_what_to_do():
    with pytest.raises(ImportError, match=r'no module named .*PYTHONPATH'):
        import_custom(['no_such_module_at_all'])
    import_custom({'imports': ['no_such_module_at_all'], 'allow_failed_imports': True})


def test_an_unknown_name_gives_near_matches():
    with pytest.raises(UnknownComponentError, match='did you mean ResNet') as caught:
        MODELS.get('ResNett')
    assert caught.value.near[0] == 'ResNet'


def test_a_dotted_path_that_does_not_exist_gives_near_names():
    with pytest.raises(UnknownComponentError, match='did you mean ResNet'):
        import_object('openlab.backbones.resnet.ResNett')
    with pytest.raises(UnknownComponentError, match='no module named'):
        import_object('no_such_package.Thing')


def test_a_module_that_fails_on_its_own_import_says_so(package):
    name = package('broken', net='import no_such_library_inside\n')
    with pytest.raises(ModuleNotFoundError, match='no_such_library_inside'):
        import_object(f'{name}.net.Thing')


def test_an_unknown_component_of_a_text_config_is_a_config_error(write_config):
    with pytest.raises(ConfigError, match=r'model\.type \(.*did you mean ResNet'):
        check_config(load_config(write_config("model = dict(type='ResNett')\n")))


@pytest.fixture
def write_config(tmp_path):
    def write(text: str):
        path = tmp_path / 'config.py'
        path.write_text(text)
        return path

    return write
