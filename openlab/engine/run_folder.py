"""What a run leaves behind, and where.

    work_dir/
        config.py            resolved config of the training; trains again as it is
        log.jsonl            every scalar, one JSON object a line (``openlab log`` reads it)
        curves.png           losses, learning rate and metrics; redrawn at validations
        predictions.png      validation items with truth and prediction, errors first
        tensorboard/         event files
        checkpoints/         see ``openlab.engine.checkpoint``
        starts/<timestamp>/  one folder for each start (first, resumed, tested)
            config.py        resolved config of this start
            run.json         command line, overrides, seed, git commit, versions, devices
            git_diff.patch   what was not committed; only if there was something

``run.json`` and the config together answer "how exactly was this made"; the patch makes an
uncommitted experiment repeatable.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openlab.utils.machine import processor

PACKAGES = ('openlab', 'torch', 'torchvision', 'numpy', 'opencv-python',
            'opencv-python-headless', 'mmengine', 'safetensors', 'timm', 'albumentations')
VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'PYTHONHASHSEED',
             'NCCL_DEBUG', 'TORCH_LOGS', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'SLURM_JOB_ID')
MAX_PATCH_BYTES = 20 * 2**20


def write_run_folder(folder: str | Path, git: dict[str, Any] | None, seed: int | None = None,
                     overrides: Sequence[str] = (), **more: Any) -> Path:
    """Write ``run.json`` into the folder of this start.

    No process is started here, so that it may be done by a thread. A process that the workers of
    a loader are forked beside would wait for them: they hold the other end of its pipe.

    Args:
        folder: the folder of this start; made if need be.
        git: what ``git_state`` gave.
        seed: seed of the run.
        overrides: what the command line changed in the config.
        **more: further plain values for ``run.json``.

    Returns:
        The path of ``run.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        'command': getattr(sys, 'orig_argv', sys.argv),
        'folder': str(Path.cwd()),
        'overrides': list(overrides),
        'seed': seed,
        'git': git,
        'environment': environment(),
        **more,
    }
    file = folder / 'run.json'
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + '\n',
                    encoding='utf-8')
    return file


def environment() -> dict[str, Any]:
    """Versions, processor, devices and the variables that change how a run behaves."""
    return {
        'python': platform.python_version(),
        'packages': package_versions(PACKAGES),
        'platform': platform_name(),
        'cpu': processor(),
        'cpu_count': os.cpu_count(),
        'devices': devices(),
        'variables': {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def platform_name() -> str:
    """System, release and kind of processor; ``platform.platform`` starts a process for them."""
    return f'{platform.system()}-{platform.release()}-{platform.machine()}'


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Version of each package that is installed; nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if 'openlab' in names and 'openlab' not in found:
        import openlab

        found['openlab'] = openlab.__version__
    return found


def devices() -> list[str]:
    """One line for each accelerator; empty on a machine without."""
    import torch

    if not hasattr(torch, 'accelerator') or not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator()
    module = torch.get_device_module(kind)
    name = getattr(module, 'get_device_name', lambda index: str(kind))
    return [f'{kind}:{i} {name(i)}' for i in range(torch.accelerator.device_count())]


def git_state(folder: Path, patch: Path | None = None) -> dict[str, Any] | None:
    """Commit and cleanliness of the repository around ``folder``; ``None`` outside of any.

    Args:
        folder: where to look.
        patch: file for the uncommitted changes to tracked files, written if there are any.
    """
    commit = _git(folder, 'rev-parse', 'HEAD')
    if commit is None:
        return None
    status = (_git(folder, 'status', '--porcelain') or b'').decode(errors='replace')
    changed = [line[3:] for line in status.splitlines() if not line.startswith('??')]
    untracked = [line[3:] for line in status.splitlines() if line.startswith('??')]
    state: dict[str, Any] = {
        'commit': commit.decode().strip(),
        'branch': (_git(folder, 'rev-parse', '--abbrev-ref', 'HEAD') or b'').decode().strip(),
        'changed': changed,
        'untracked': untracked[:100],
    }
    if patch is not None and changed:
        diff = _git(folder, 'diff', 'HEAD', '--binary') or b''
        if len(diff) <= MAX_PATCH_BYTES:
            patch.write_bytes(diff)
            state['patch'] = patch.name
        else:
            state['patch'] = f'left out: {len(diff)} bytes'
    return state


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(['git', *arguments], cwd=folder, capture_output=True, timeout=20,
                              env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'}, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
