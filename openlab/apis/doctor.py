"""What this machine offers to openlab, and what it lacks.

Every check says what is there; only what stops openlab from working is a problem.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openlab.utils.folders import CACHE_VARIABLE, cache_folder
from openlab.utils.machine import processor

# Import name, names of distributions that bring it, least version.
REQUIRED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ('torch', ('torch',), '2.6'),
    ('torchvision', ('torchvision',), '0.21'),
    ('mmengine', ('mmengine', 'mmengine-lite'), '0.10.7'),
    ('numpy', ('numpy',), '1.26'),
    ('cv2', ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python',
             'opencv-contrib-python-headless'), '4.8'),
    ('safetensors', ('safetensors',), '0'),
    ('rich', ('rich',), '0'),
    ('matplotlib', ('matplotlib',), '0'),
)
# Import name, what it is for, what to install.
OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ('tensorboard', 'TensorBoard logs', 'tensorboard'),
    ('wandb', 'logs to Weights & Biases', 'wandb'),
    ('mlflow', 'logs to MLflow', 'mlflow'),
    ('albumentations', 'transforms of albumentations', 'albumentations'),
    ('sklearn', 'the digits of the quickstart, t-SNE', 'scikit-learn'),
    ('faster_coco_eval', 'COCO metrics', 'faster-coco-eval'),
    ('timm', 'networks and weights of timm', 'timm'),
    ('transformers', 'networks, tokenizers and weights of Hugging Face', 'transformers'),
)


def examine() -> dict[str, Any]:
    """Look at everything; ``problems`` lists what has to be cured, with the cure."""
    problems: list[str] = []
    report: dict[str, Any] = {
        'system': {
            'python': platform.python_version(),
            'executable': sys.executable,
            'platform': platform.platform(),
            'cpu': f'{processor()}, {usable_cores()} of {os.cpu_count()} cores usable',
        },
        'packages': required_packages(problems),
    }
    is_usable = not problems
    checks: list[tuple[str, Callable[[list[str]], Any]]] = [
        ('devices', devices), ('threads', threads), ('ops', op_implementations)]
    for name, check in checks if is_usable else []:
        report[name] = check(problems)
    report['optional'] = optional_packages()
    report['folders'] = folders(problems)
    report['problems'] = problems
    return report


def required_packages(problems: list[str]) -> dict[str, str]:
    """Version of each package that openlab needs; missing and old ones are problems."""
    import openlab

    found = {'openlab': f'{openlab.__version__} in {Path(openlab.__file__).parent}'}
    for module, names, least in REQUIRED:
        version = installed_version(names)
        if importlib.util.find_spec(module) is None:
            found[names[0]] = 'missing'
            problems.append(f'{names[0]} is missing; install it with: pip install {names[0]}')
            continue
        found[names[0]] = version or 'present'
        if version is not None and as_numbers(version) < as_numbers(least):
            problems.append(f"{names[0]} {version} is older than {least}; "
                            f"install a newer one with: pip install '{names[0]}>={least}'")
    if importlib.util.find_spec('cv2') is not None:
        check_opencv_loads(problems)
    return found


def check_opencv_loads(problems: list[str]) -> None:
    """OpenCV may be installed and not load: its build with windows wants a desktop's libraries."""
    try:
        importlib.import_module('cv2')
    except ImportError as error:
        problems.append(
            f'OpenCV does not load ({error}); install its build without windows: pip install '
            '--force-reinstall --no-deps opencv-python-headless, or the libraries it wants: '
            'apt-get install libgl1 libglib2.0-0')


def optional_packages() -> dict[str, str]:
    """Version of each optional package, or what it is for and the line that installs it."""
    found = {}
    for module, purpose, name in OPTIONAL:
        if importlib.util.find_spec(module) is None:
            found[name] = f'not installed; for {purpose}: pip install {name}'
        else:
            found[name] = installed_version((name,)) or 'present'
    return found


def devices(problems: list[str]) -> dict[str, Any]:
    """The chosen device, whether it computes, and what it can do."""
    import torch

    from openlab import device as chips
    from openlab.engine.run_folder import devices as accelerators

    chosen = chips.get_device()
    found: dict[str, Any] = {
        'chosen': str(chosen), 'accelerators': accelerators() or 'none'}
    try:
        ones = torch.ones(8, 8, device=chosen)
        works = float((ones @ ones).sum()) == 512
    except RuntimeError as error:
        works = False
        found['error'] = str(error).splitlines()[0]
    found['computes'] = works
    if not works:
        problems.append(f'{chosen} does not compute: {found.get("error", "a wrong result")}; '
                        'OPENLAB_DEVICE=cpu uses the processor instead')
    can = chips.capabilities(chosen)
    found['bf16'], found['fp16'] = can.bf16, can.fp16
    found['torch.compile'] = can.compile
    found['processes talk through'] = can.backend
    return found


def threads(problems: list[str]) -> dict[str, int]:
    """Threads that each library starts in this process."""
    import cv2
    import torch

    return {'torch': torch.get_num_threads(), 'OpenCV': cv2.getNumThreads(),
            'OpenCV in data workers': 0}


def op_implementations(problems: list[str]) -> dict[str, str]:
    """Which code runs when an op is called on the chosen device."""
    import torch

    from openlab.device import get_device

    kind = get_device().type
    found = {'scaled dot product attention': attention_kernels(kind)}
    try:
        import torchvision

        for name in ('nms', 'roi_align', 'deform_conv2d'):
            has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(
                f'torchvision::{name}', 'CPU' if kind == 'cpu' else kind.upper())
            found[name] = f'torchvision {torchvision.__version__} on {kind}' if has_kernel else (
                'torchvision on the CPU only')
    except (ImportError, RuntimeError, AttributeError) as error:
        problems.append(f'the ops of torchvision do not load ({error}); install the torchvision '
                        f'that belongs to torch {torch.__version__}')
    if importlib.util.find_spec('openlab.ops') is not None:
        implementations = getattr(importlib.import_module('openlab.ops'), 'implementations', None)
        found |= implementations() if implementations is not None else {}
    return found


def attention_kernels(kind: str) -> str:
    """Kernels that torch may choose from for attention."""
    from openlab.device import attention_kernel_names

    names = attention_kernel_names(kind)
    return f'torch: {", ".join(names)}'


def folders(problems: list[str]) -> dict[str, str]:
    """Folders that openlab writes to, and whether it can."""
    found = {}
    for name, folder in (('cache', cache_folder()), ('here', Path.cwd())):
        reason = why_not_writeable(folder)
        found[name] = f'{folder}' + (f': {reason}' if reason else ' (writeable)')
        if reason and name == 'cache':
            problems.append(f'the cache folder {folder} cannot be written ({reason}); '
                            f'set {CACHE_VARIABLE} to another folder')
    return found


def why_not_writeable(folder: Path) -> str | None:
    """Try to write into a folder (or the nearest one above it); the reason if that fails."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(names: tuple[str, ...]) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def as_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing."""
    return tuple(int(n) for n in re.findall(r'\d+', version.split('+')[0])[:3])


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines: list[str] = []
    for title, content in report.items():
        if title == 'problems':
            continue
        lines.append(title)
        width = max(map(len, content), default=0)
        for name, value in content.items():
            if isinstance(value, bool):
                value = 'yes' if value else 'no'
            elif isinstance(value, list):
                value = f'\n{" " * (width + 4)}'.join(map(str, value))
            lines.append(f'  {name:{width}}  {value}')
        lines.append('')
    problems = report['problems']
    lines.append('no problems' if not problems else f'{len(problems)} to cure:')
    return lines + [f'  {p}' for p in problems]
