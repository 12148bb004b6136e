"""A folder to write configs into."""

import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a config file below a temporary folder; return its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip('\n'), encoding='utf-8')
        return path

    return write_file
