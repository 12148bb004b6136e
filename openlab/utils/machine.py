"""What the machine is, without a library that takes long to import."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Name of the processor where the system tells it, else its architecture."""
    try:
        for line in Path('/proc/cpuinfo').read_text('utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:  # no Linux
        pass
    # ``platform.processor`` may start a process, which a file of the kernel makes needless.
    return platform.machine()
