"""Files from the network into a cache that processes share, whole and checked or not at all.

A file arrives in ``CACHE/zoo/.partial``, from where an interrupted download goes on; only when
its size and hash are right is it renamed to its place. Processes that want the same file wait
for the first one.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import http.client
import json
import logging
import os
import random
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import openlab
from openlab.utils.folders import CACHE_VARIABLE, cache_folder
from openlab.utils.offline import OFFLINE_VARIABLE, is_offline

logger = logging.getLogger('openlab')

MIRROR_VARIABLE = 'OPENLAB_ZOO_MIRROR'
TIMEOUT_VARIABLE = 'OPENLAB_ZOO_TIMEOUT'
# Hosts that are known to be gone: one short attempt, then the way out.
SILENT_HOSTS = {'download.openmmlab.com': 'the host of OpenMMLab no longer answers'}
CHUNK = 1 << 18
# A connection that brings less than this in one timeout is as good as hung.
LEAST_BYTES = 1024
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HASH_IN_NAME = re.compile(r'[-_.]([0-9a-f]{8})\.(?:pth|pt|tar|bin|safetensors|npz|onnx|zip|pkl)')
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')


class DownloadError(OSError):
    """A file could not be had, or is not what it should be; nothing was left in its place.

    Attributes:
        dead_hosts: those that could not be reached, or hung: other files of theirs will not come
            either.
    """

    def __init__(self, message: str, dead_hosts: Iterable[str] = ()):
        super().__init__(message)
        self.dead_hosts = frozenset(dead_hosts)


class _Transient(Exception):
    """Worth another try; ``is_dead`` where there was no connection, or it hung."""

    def __init__(self, message: str, wait: float | None = None, is_dead: bool = False):
        super().__init__(message)
        self.wait = wait
        self.is_dead = is_dead


@dataclass(frozen=True)
class Patience:
    """How long to insist.

    Attributes:
        timeout: seconds without an answer, or nearly without data, that count as hung.
        retries: further attempts at one address after a failure that may pass.
        backoff: seconds before the first of them; it doubles each time, to one minute at most.
    """

    timeout: float = 30.0
    retries: int = 4
    backoff: float = 1.0



def hash_in_name(url: str) -> str | None:
    """The first 8 digits of the sha256 that file names such as ``resnet-0676ba61.pth`` carry."""
    found = _HASH_IN_NAME.search(Path(urlparse(url).path).name)
    return None if found is None or _DATE.fullmatch(found[1]) else found[1]


def download(
    urls: str | Sequence[str],
    *,
    size: int | None = None,
    sha256: str | None = None,
    patience: Patience | None = None,
    progress: bool | None = None,
    with_check: bool = False,
    skip_hosts: Collection[str] = (),
) -> Path:
    """Return the file of the first address that has it, from the cache where it lies already.

    Args:
        urls: ``http(s)://`` addresses of the same file, tried in order. A folder or address in
            ``OPENLAB_ZOO_MIRROR`` is tried before them.
        size: bytes that the file must have.
        sha256: its hash in hex, whole or the first digits; by default the 8 digits in its name.
        patience: timeouts and retries.
        progress: show a bar; by default on a terminal.
        with_check: compare what lies in the cache with its hash, and download it again where it
            differs; without, only its size counts, for a hash takes seconds.
        skip_hosts: hosts that are not asked, as they were dead before.

    Raises:
        DownloadError: with the reason for each address; nothing is left half-written.
        ValueError: for a hash or an ``OPENLAB_ZOO_TIMEOUT`` that is none.
    """
    addresses = [urls] if isinstance(urls, str) else list(urls)
    if not addresses:
        raise DownloadError('no address to download from')
    wanted = sha256.lower() if sha256 else hash_in_name(addresses[0])
    check = Check(size, _checked_hex(wanted))
    patience = patience or Patience(timeout=_timeout())
    targets = [cached_path(url) for url in addresses]
    problems = {t: _problem_in_cache(t, check, with_check) for t in targets if t.is_file()}
    for path, problem in problems.items():
        if problem is None:
            return path
        logger.warning('%s in the cache is bad: %s; it is downloaded again', path, problem)
    if is_offline() and not _local_mirror():
        state = 'bad' if targets[0] in problems else 'not'
        raise DownloadError(f'{addresses[0]} is {state} in the cache ({targets[0]}) and '
                            f'{OFFLINE_VARIABLE} is set; {_offline_advice(addresses)}')
    target = targets[0]
    with _locked(target):
        # Another process may have been first.
        if target.is_file() and _problem_in_cache(target, check, with_check) is None:
            return target
        _from_anywhere(addresses, target, check, patience, progress, skip_hosts)
    return target


@dataclass(frozen=True)
class Check:
    """What is known of a file before it is there.

    Attributes:
        size: bytes.
        sha256: first digits of the hash in hex, 64 for the whole.
    """

    size: int | None = None
    sha256: str | None = None

    def size_problem(self, size: int) -> str | None:
        """Why this cannot be the file; None if it can."""
        if self.size is not None and size != self.size:
            return f'it has {size:,} bytes instead of {self.size:,}'
        return None

    def hash_problem(self, digest: str) -> str | None:
        """Why this is not the file; None if it may be."""
        if self.sha256 and not digest.startswith(self.sha256):
            return (f'its sha256 starts with {digest[:max(8, len(self.sha256))]} instead of '
                    f'{self.sha256}')
        return None


def cached_path(url: str) -> Path:
    """Where the file of an address lies in the cache, or will.

    Raises:
        DownloadError: if the address names no file, or leads out of the cache.
    """
    parts = urlparse(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise DownloadError(f'{url} is no http:// or https:// address')
    names = [unquote(name) for name in parts.path.split('/') if name]
    host = parts.hostname if parts.port is None else f'{parts.hostname}_{parts.port}'
    if not names or parts.path.endswith('/'):
        raise DownloadError(f'{url} names no file')
    if parts.query:  # another file, for all we know
        names[-1] = f'{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}-{names[-1]}'
    root = cache_folder() / 'zoo'
    for name in names:
        if name in ('.', '..') or re.search(r'[\\/:\0]', name) or name.startswith('.partial'):
            raise DownloadError(f'{url} leads out of the cache folder {root} ({name!r} in its '
                                'path); it is not downloaded')
    path = root.joinpath(host, *names)
    if not path.resolve().is_relative_to(root.resolve()):
        raise DownloadError(f'{url} leads out of the cache folder {root}, by a link in it; '
                            'it is not downloaded')
    return path


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def note_of(path: Path) -> dict[str, Any]:
    """What was noted when a file of the cache landed: url, size, sha256; empty if nothing."""
    try:
        return json.loads(_note_path(path).read_text('utf-8'))
    except (OSError, ValueError):
        return {}


def content_problem(path: Path, known: Check) -> str | None:
    """Why a file is neither what it should be nor what it was when it landed; None if it is."""
    digest, size, note = file_hash(path), _size(path), note_of(path)
    then = Check(note.get('size'), note.get('sha256'))
    return (known.size_problem(size) or known.hash_problem(digest)
            or then.size_problem(size) or then.hash_problem(digest))


def is_cached(path: Path) -> bool:
    """Whether a file lies in the cache, and not in a package or elsewhere."""
    return path.parent.resolve().is_relative_to((cache_folder() / 'zoo').resolve())


def discard(path: Path) -> None:
    """Remove a file of the cache with its note, so that its next use downloads it again.

    Raises:
        ValueError: if it does not lie in the cache.
    """
    if not is_cached(path):
        raise ValueError(f'{path} is no file of the cache {cache_folder() / "zoo"}')
    with _locked(path):
        path.unlink(missing_ok=True)
        _note_path(path).unlink(missing_ok=True)


def _problem_in_cache(path: Path, check: Check, with_content: bool) -> str | None:
    return content_problem(path, check) if with_content else check.size_problem(_size(path))


def _from_anywhere(urls: Sequence[str], target: Path, check: Check, patience: Patience,
                   progress: bool | None, skip_hosts: Collection[str]) -> None:
    partial = _partial_path(target)
    reasons: list[str] = []
    dead_hosts: set[str] = set()
    for url, source in _with_mirror(urls):
        if not isinstance(url, Path) and urlparse(url).netloc in skip_hosts:
            reasons.append(f'{url}: its host did not answer before')
            continue
        silent = _dead(source)
        try:
            if isinstance(url, Path):
                _copy(url, partial)
                digest = _checked(partial, source, check)
            else:
                insist = Patience(min(patience.timeout, 5.0), 0) if silent else patience
                digest = _insistently(url, partial, check, insist, progress)
        except _DiskFull as error:
            raise DownloadError(str(error)) from error
        except DownloadError as error:
            reasons.append(f'{silent} ({error})' if silent else str(error))
            dead_hosts |= error.dead_hosts
            continue
        _land(partial, target, source, digest)
        return
    raise DownloadError(_refusal(urls, reasons), dead_hosts)


def _refusal(urls: Sequence[str], reasons: Sequence[str]) -> str:
    reasons = [*_mirror_problem(urls), *reasons]
    if is_offline():
        reasons.insert(0, f'{urls[0]} is not in the cache ({cached_path(urls[0])}), and '
                          f'{OFFLINE_VARIABLE} is set')
    head = f'none of {len(urls)} addresses gave' if len(urls) > 1 else 'nothing gave'
    text = reasons[0] if len(reasons) == 1 else (
        f'{head} the file:\n' + '\n'.join(f'  {reason}' for reason in reasons))
    mirror = _local_mirror()
    is_told = mirror is not None and mirror.is_dir()
    return text if is_told or not any(map(_dead, urls)) else f'{text}\n{_advice(urls)}'


def _mirror_problem(urls: Sequence[str]) -> list[str]:
    """Why the user's own folder was of no help, if there is one."""
    folder = _local_mirror()
    if folder is None:
        return []
    named, places = f'{MIRROR_VARIABLE}={os.environ[MIRROR_VARIABLE]}', _places(urls)
    if not folder.is_dir():
        return [f'{named}: there is no such folder']
    if any((folder / place).is_file() for place in places):
        return []
    return [f'{named}: the folder has no {" and no ".join(places)}']


def _offline_advice(urls: Sequence[str]) -> str:
    """What to do where only the network could have the file, and is forbidden."""
    if all(map(_dead, urls)) and not os.environ.get(MIRROR_VARIABLE):
        return f'the network would not help: {_dead(urls[0])}; {_advice(urls)}'
    return 'unset it once to download the file'


def _advice(urls: Sequence[str]) -> str:
    return (f'set {MIRROR_VARIABLE} to a folder or address that has a copy: the file is looked '
            f'for as {" and as ".join(_places(urls))} in it')


def _dead(url: str) -> str | None:
    """What is known of a host that answers no more."""
    return SILENT_HOSTS.get(urlparse(url).hostname or '')


def _places(urls: Sequence[str]) -> list[str]:
    """Where a mirror may have the file: under its whole path, or flat under its name."""
    paths = [unquote(urlparse(url).path).lstrip('/') for url in urls]
    return list(dict.fromkeys([*paths, *(Path(path).name for path in paths)]))


def _with_mirror(urls: Sequence[str]) -> Iterator[tuple[str | Path, str]]:
    """Pairs of where to read and what to call it: the mirror's places, then the addresses."""
    base, folder = os.environ.get(MIRROR_VARIABLE, '').rstrip('/'), _local_mirror()
    for place in _places(urls) if base else ():
        if folder is None:
            if not is_offline():
                yield f'{base}/{place}', f'{base}/{place}'
        elif (folder / place).is_file():
            yield folder / place, str(folder / place)
    if not is_offline():
        yield from ((url, url) for url in urls)


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, '30')
    if not re.fullmatch(r'\d+\.?\d*|\.\d+', text) or not float(text) > 0:
        raise ValueError(f'{TIMEOUT_VARIABLE}={text}; accepted: a number of seconds above 0, '
                         'such as 30')
    return float(text)


def _local_mirror() -> Path | None:
    base = os.environ.get(MIRROR_VARIABLE, '')
    if not base or base.startswith(('http://', 'https://')):
        return None
    if '://' in base and not base.startswith('file://'):
        raise DownloadError(f'{MIRROR_VARIABLE}={base}; accepted: a folder, file:///folder, or an '
                            'http(s):// address')
    return Path(unquote(urlparse(base).path) if base.startswith('file://') else base).expanduser()


def _insistently(url: str, partial: Path, check: Check, patience: Patience,
                 progress: bool | None) -> str:
    for attempt in range(patience.retries + 1):
        try:
            is_resumed = _receive(url, partial, check, patience.timeout, progress)
            try:
                return _checked(partial, url, check)
            except DownloadError as error:
                if not is_resumed:
                    raise
                raise _Transient('what an earlier attempt left did not fit', 0) from error
        except _Transient as error:
            if attempt == patience.retries:
                tried = f' ({attempt + 1} attempts)' if attempt else ''
                dead = [urlparse(url).netloc] if error.is_dead else []
                raise DownloadError(f'{url}: {error}{tried}', dead) from error
            wait = min(patience.backoff * 2 ** attempt, 60.0) * random.uniform(0.8, 1.2)
            wait = error.wait if error.wait is not None else wait
            logger.warning('%s: %s; again in %.1f s', url, error, wait)
            time.sleep(wait)
    raise AssertionError('the loop returns or raises')


def _receive(url: str, partial: Path, check: Check, timeout: float,
             progress: bool | None) -> bool:
    """Append to ``partial`` what it lacks of ``url``; whether something was there already."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    have, request = _request(url, partial, check)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            _explain(error, url, partial, have)
        raise AssertionError('explaining raises') from error
    except (OSError, http.client.HTTPException) as error:
        raise _Transient(_network_reason(error, timeout), is_dead=True) from error
    with answer:
        if answer.status != 206:
            have = 0
        elif not (answer.headers.get('Content-Range') or '').startswith(f'bytes {have}-'):
            _forget(partial)
            raise _Transient('it answered with another part of the file than asked for', 0)
        total = _announced(answer, have)
        problem = check.size_problem(total) if total is not None else None
        problem = problem or _page_problem(answer.headers.get_content_type(), url)
        if problem:
            _forget(partial)
            raise DownloadError(f'{url}: {problem}')
        _check_room(partial, url, None if total is None else total - have)
        _partial_note(partial).write_text(json.dumps(
            {'url': url, 'etag': answer.headers.get('ETag'),
             'modified': answer.headers.get('Last-Modified')}), 'utf-8')
        got = _write(answer, partial, url, have, total, timeout, progress)
        if total is not None and got < total:
            raise _Transient(f'the connection ended after {got:,} of {total:,} bytes')
        if total is not None and got > total:
            _forget(partial)
            raise _Transient(f'it sent {got:,} bytes and had announced {total:,}')
    return have > 0


def _request(url: str, partial: Path, check: Check) -> tuple[int, urllib.request.Request]:
    """Bytes that need not come again, and the request for the rest."""
    headers = {'User-Agent': f'openlab/{openlab.__version__}', 'Accept-Encoding': 'identity'}
    have = _size(partial) if partial.is_file() else 0
    try:
        note = json.loads(_partial_note(partial).read_text('utf-8'))
    except (OSError, ValueError):
        note = {}
    validator = note.get('etag') or note.get('modified')
    if (validator or '').startswith('W/'):
        validator = note.get('modified')
    is_same = note.get('url') == url and validator
    if have and (is_same or check.sha256) and (check.size is None or have < check.size):
        headers['Range'] = f'bytes={have}-'
        if is_same:
            headers['If-Range'] = str(validator)
        return have, urllib.request.Request(url, headers=headers)
    return 0, urllib.request.Request(url, headers=headers)


def _explain(error: urllib.error.HTTPError, url: str, partial: Path, have: int) -> None:
    if error.code == 416 and have:  # what is here is longer than the file: start anew
        _forget(partial)
        raise _Transient('it has no more of the file', 0) from error
    text = f'{error.code} {error.reason}'
    if error.code in _RETRIED:
        raise _Transient(text, _retry_after(error.headers.get('Retry-After'))) from error
    known = {401: 'it asks for a login', 403: 'it refuses access', 404: 'there is no such file',
             410: 'the file was removed'}
    raise DownloadError(f'{url}: {known.get(error.code, "it refuses")} ({text})') from error


def _write(answer: Any, partial: Path, url: str, have: int, total: int | None, timeout: float,
           progress: bool | None) -> int:
    got, window_start, window_bytes, is_first = have, time.monotonic(), 0, have == 0
    with _bar(Path(urlparse(url).path).name, have, total, progress) as advance, \
            _disk(partial, url), partial.open('ab' if have else 'wb') as file:
        while True:
            try:
                block = answer.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Transient(_network_reason(error, timeout), is_dead=True) from error
            if not block:
                break
            if is_first and _looks_like_page(block) and not url.endswith(('.html', '.htm')):
                raise _Page(url)
            is_first = False
            file.write(block)
            got += len(block)
            advance(len(block))
            window_bytes += len(block)
            if time.monotonic() - window_start > timeout:
                if window_bytes < LEAST_BYTES:
                    raise _Transient(f'only {window_bytes} bytes came in {timeout:g} s',
                                     is_dead=True)
                window_start, window_bytes = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())
    return got


class _DiskFull(DownloadError):
    """No other mirror will cure this."""


class _Page(DownloadError):
    def __init__(self, url: str):
        super().__init__(f'{url}: a web page came instead of the file; the address has moved, or '
                         'something on the way (a login page, a proxy) answered')


@contextmanager
def _disk(partial: Path, url: str) -> Iterator[None]:
    """Turn errors of writing into words, and leave nothing that is of no use."""
    try:
        yield
    except _Page:
        _forget(partial)
        raise
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            _forget(partial)
            raise _DiskFull(_no_room(partial, url)) from error
        raise DownloadError(f'{partial} cannot be written: {error.strerror or error}') from error


def _no_room(partial: Path, url: str) -> str:
    return (f'no room on the disk of {partial.parent} for {url}; free some, or set '
            f'{CACHE_VARIABLE} to a folder on another disk')


def _check_room(partial: Path, url: str, needed: int | None) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed is not None and needed > free:
        _forget(partial)
        raise _DiskFull(f'{_no_room(partial, url)} ({needed:,} bytes needed, {free:,} free)')


def _announced(answer: Any, have: int) -> int | None:
    length = answer.headers.get('Content-Length')
    return have + int(length) if length and length.isdigit() else None


def _page_problem(content_type: str, url: str) -> str | None:
    if content_type in ('text/html', 'application/xhtml+xml') and not url.endswith('.html'):
        return str(_Page(url)).partition(': ')[2]
    return None


def _looks_like_page(block: bytes) -> bool:
    start = block[:256].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    return start.startswith((b'<!doctype html', b'<html'))


def _checked(partial: Path, source: str, check: Check) -> str:
    """The hash of what arrived; it is thrown away where it is not what was wanted."""
    digest = file_hash(partial)
    problem = check.size_problem(_size(partial)) or check.hash_problem(digest)
    if problem:
        _forget(partial)
        raise DownloadError(f'{source}: {problem}; the file was thrown away')
    return digest


def _copy(source: Path, partial: Path) -> None:
    _forget(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _disk(partial, str(source)):
        shutil.copyfile(source, partial)


def _land(partial: Path, target: Path, source: str, digest: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    note = _note_path(target)
    temporary = note.with_name(f'{note.name}.{os.getpid()}')
    temporary.write_text(json.dumps(
        {'url': source, 'size': _size(partial), 'sha256': digest,
         'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}), 'utf-8')
    temporary.replace(note)
    partial.replace(target)
    _forget(partial)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock

    partial = _partial_path(target)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f'the cache folder {cache_folder()} cannot be written '
                            f'({error.strerror}); set {CACHE_VARIABLE} to another') from error
    with FileLock(str(partial.with_suffix('.lock'))):
        yield


@contextmanager
def _bar(name: str, have: int, total: int | None,
         wanted: bool | None) -> Iterator[Callable[[int], None]]:
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        yield lambda num: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=have)
        yield lambda num: bar.advance(task, num)


def _network_reason(error: BaseException, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f'the server hung: nothing came in {timeout:g} s'
    return f'no connection ({cause})' if str(cause) else f'no connection ({type(cause).__name__})'


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    if value.strip().isdigit():
        return min(float(value), 60.0)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return min(max(moment.timestamp() - time.time(), 0.0), 60.0)


def _checked_hex(digits: str | None) -> str | None:
    if digits is not None and not re.fullmatch(r'[0-9a-f]{8,64}', digits):
        raise ValueError(f'sha256={digits!r}; accepted: 8 to 64 hexadecimal digits')
    return digits


def _partial_path(target: Path) -> Path:
    name = hashlib.sha256(str(target).encode()).hexdigest()[:16]
    return cache_folder() / 'zoo' / '.partial' / f'{name}.part'


def _partial_note(partial: Path) -> Path:
    return partial.with_suffix('.json')


def _note_path(target: Path) -> Path:
    return target.with_name(f'.{target.name}.json')


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _partial_note(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size
