import subprocess
import sys
from pathlib import Path

import pytest

from openlab.engine.mmengine_parts import OPTIONAL, without

ROOT = Path(__file__).resolve().parents[2]


def test_hidden_modules_look_absent_and_come_back():
    with without('this_is_no_module'), pytest.raises(ImportError):
        import this_is_no_module  # noqa: F401
    assert 'this_is_no_module' not in sys.modules


def test_modules_that_are_loaded_stay_visible():
    with without('pathlib'):
        assert sys.modules['pathlib'] is not None


def test_the_runner_starts_without_optional_libraries():
    code = ('import sys, openlab.engine.runner\n'
            f'print([n for n in {OPTIONAL!r} if n in sys.modules])')
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == '[]\n', done.stderr
