"""Where the configs and the zoo index that come with openlab are, installed or not."""

from __future__ import annotations

import json
from pathlib import Path

PARTS = ('configs', 'model_zoo')


def shipped_root() -> Path:
    """Return the folder that holds ``configs/`` and ``model_zoo/``.

    In an installed package they lie in ``openlab/_shipped``; in a checkout (or an editable
    install of one) at the top of the repository.

    Raises:
        FileNotFoundError: if neither is there, which only a broken installation explains.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '_shipped', package.parent):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise FileNotFoundError(
        f'the shipped {" and ".join(PARTS)} are neither in {package / "_shipped"} nor in '
        f'{package.parent}; install openlab again'
    )


def zoo_names() -> list[str]:
    """Return the names of all entries of the zoo, ``SOURCE/NAME``."""
    data = json.loads((shipped_root() / 'model_zoo' / 'index.json').read_text('utf-8'))
    column = data['columns'].index('name')
    return [values[column] for values in data['models']]
