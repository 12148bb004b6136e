"""Making a data folder whole or not at all, once, also when several processes want it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openlab.data.errors import DataError

_logger = logging.getLogger('openlab')
RECORD = 'made.json'


def announce(text: str) -> None:
    """Tell the user: in the log of a training, else on stderr."""
    if _logger.hasHandlers() and _logger.isEnabledFor(logging.INFO):
        _logger.info('%s', text)
    else:
        print(text, file=sys.stderr, flush=True)


def make_folder(folder: str | Path, settings: dict[str, Any], title: str,
                fill: Callable[[Path], None], say: Callable[[str], None] = announce) -> bool:
    """Fill a folder unless it is complete already.

    Everything is written to a hidden folder beside it, which takes its name when it is
    complete. Other processes that want the same folder wait.

    Args:
        folder: where the data go.
        settings: what decides the content; kept in ``made.json``.
        title: what is made, for messages.
        fill: writes the content into the folder that it is given.
        say: takes messages for the user.

    Returns:
        Whether the data were made; ``False`` if they were there.

    Raises:
        DataError: if the folder holds something else.
    """
    folder = Path(folder).expanduser()
    if _is_made(folder, settings):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / f'.{folder.name}.lock'):
        if _is_made(folder, settings):
            return False
        _check_free(folder)
        draft = folder.parent / f'.{folder.name}.partial'
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was stopped
        draft.mkdir()
        say(f'making {title} in {folder}')
        start = time.perf_counter()
        try:
            fill(draft)
            (draft / RECORD).write_text(json.dumps(settings, indent=1) + '\n', encoding='utf-8')
            if folder.exists():
                folder.rmdir()
            draft.replace(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        say(f'made {folder} in {time.perf_counter() - start:.0f} s')
    return True


def _is_made(folder: Path, settings: dict[str, Any]) -> bool:
    record = folder / RECORD
    if not record.is_file():
        return False
    try:
        found = json.loads(record.read_text(encoding='utf-8'))
    except ValueError:
        found = {}
    if found == json.loads(json.dumps(settings)):
        return True
    different = {k: (found.get(k), v) for k, v in settings.items() if found.get(k) != v}
    text = ', '.join(f'{k}={old} (wanted: {new})' for k, (old, new) in different.items())
    raise DataError(f'{folder} was made with other settings: {text}; remove it, or choose '
                    f'another folder')


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f'{folder} exists and was not made here (it has no {RECORD}); remove it, '
                        f'or choose another folder')


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows; renaming stays atomic there
        yield
        return
    while True:
        with path.open('w') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it before has removed it: somebody may lock a new file of that name.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                path.unlink()
            return
