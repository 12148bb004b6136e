"""The only file that knows chips.

Everything goes through ``torch.accelerator`` (torch >= 2.6) and, for what it did not offer at
first, through the module that torch itself names for a device type. Without an accelerator all
functions work on the CPU. ``OPENLAB_DEVICE=cpu`` (or ``cuda:1``, ``mps`` ...) overrides the choice.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

CPU = torch.device('cpu')
ENVIRONMENT_VARIABLE = 'OPENLAB_DEVICE'
# Backends whose tensors a process group can exchange; gloo serves all others through the CPU.
_BACKENDS = {'cuda': 'nccl', 'xpu': 'xccl', 'npu': 'hccl', 'mlu': 'cncl', 'hpu': 'hccl'}


@dataclass(frozen=True)
class Capabilities:
    """What a device can do.

    Attributes:
        bf16: autocast to bfloat16 gives correct results at useful speed or memory.
        fp16: autocast to float16 is useful; needs loss scaling.
        pin_memory: copies from pinned host memory are asynchronous.
        streams: work can be queued on several streams.
        memory_stats: allocated and peak memory can be asked for.
        compile: ``torch.compile`` generates code for it.
        backend: name of the ``torch.distributed`` backend.
    """

    bf16: bool
    fp16: bool
    pin_memory: bool
    streams: bool
    memory_stats: bool
    compile: bool
    backend: str


def get_device(index: int | None = None) -> torch.device:
    """Return the device this process computes on.

    Args:
        index: number of the accelerator; by default ``LOCAL_RANK`` of a launched process, else
            the current one.

    Raises:
        ValueError: if ``OPENLAB_DEVICE`` names a device that is not there.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        return check_device(wanted, f'{ENVIRONMENT_VARIABLE}=')
    if not is_available():
        return CPU
    if index is None:
        index = int(os.environ.get('LOCAL_RANK', torch.accelerator.current_device_index()))
    kind = accelerator_type()
    if index >= device_count():
        raise ValueError(
            f'{kind}:{index} does not exist: this machine has {device_count()} {kind} '
            f'device(s); start at most that many processes, or set {ENVIRONMENT_VARIABLE}=cpu')
    return torch.device(kind, index)


def check_device(name: str | torch.device, what: str = 'device ') -> torch.device:
    """Return the device of a name, with its number, if this machine has it.

    Args:
        name: such as ``cpu``, ``cuda`` or ``cuda:1``.
        what: what the user set to ``name``; errors begin with it.

    Raises:
        ValueError: if it is no device, or not on this machine; with those that are.
    """
    kind = accelerator_type()
    accepted = 'cpu' + (f', {kind}, {kind}:0 to {kind}:{_raw_count() - 1}' if kind != 'cpu' else '')
    wanted = str(name)
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f'{what}{wanted!r} is no device; accepted here: {accepted}') from error
    if device.type not in ('cpu', kind) or (device.index or 0) >= max(_raw_count(), 1):
        raise ValueError(f'{what}{wanted!r} is not on this machine; accepted: {accepted}')
    if device.type != 'cpu' and device.index is None:
        device = torch.device(device.type, int(os.environ.get('LOCAL_RANK', 0)))
    return device


def accelerator_type() -> str:
    """Return ``'cuda'``, ``'mps'``, ``'xpu'`` ..., or ``'cpu'`` where there is no accelerator."""
    current = torch.accelerator.current_accelerator() if is_available() else None
    return 'cpu' if current is None else current.type


def is_available() -> bool:
    """Whether an accelerator can be used, whatever ``OPENLAB_DEVICE`` says."""
    return bool(torch.accelerator.is_available())


def device_count() -> int:
    """Number of accelerators that processes may take; 0 where the CPU is used."""
    if os.environ.get(ENVIRONMENT_VARIABLE, '').startswith('cpu'):
        return 0
    return _raw_count()


def _raw_count() -> int:
    return torch.accelerator.device_count() if is_available() else 0


def set_current(device: torch.device) -> None:
    """Make ``device`` the one that unnumbered allocations of this process use."""
    if device.type != 'cpu' and device.index is not None:
        torch.accelerator.set_device_index(device.index)


def synchronize(device: torch.device | None = None) -> None:
    """Wait until all queued work of the device is done."""
    device = device or get_device()
    if device.type != 'cpu':
        torch.accelerator.synchronize(device)


def empty_cache() -> None:
    """Give cached, unused memory back to the driver."""
    call = _function('empty_cache')
    if call is not None:
        call()


def memory_allocated(device: torch.device | None = None) -> int:
    """Bytes that tensors occupy: on the accelerator, or of this process on the CPU."""
    device = device or get_device()
    call = _function('memory_allocated', device)
    if call is not None:
        return int(call(device))
    call = _function('current_allocated_memory', device)
    return int(call()) if call is not None else resident_memory()


def max_memory_allocated(device: torch.device | None = None) -> int:
    """Highest value of ``memory_allocated`` so far, in bytes."""
    device = device or get_device()
    call = _function('max_memory_allocated', device)
    if call is not None:
        return int(call(device))
    if device.type != 'cpu':
        return memory_allocated(device)
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if os.uname().sysname == 'Darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device | None = None) -> None:
    """Start ``max_memory_allocated`` anew (on the CPU: where the kernel allows it, Linux)."""
    device = device or get_device()
    call = _function('reset_peak_memory_stats', device)
    if call is not None:
        call(device)
    elif device.type == 'cpu':
        # 5 resets the peak of resident memory; other systems have no such file.
        with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w') as file:  # noqa: PTH123
            file.write('5')


def memory_info(device: torch.device | None = None) -> tuple[int, int]:
    """Free and total bytes of the device's memory."""
    device = device or get_device()
    for name in ('get_memory_info', 'mem_get_info'):
        call = _function(name, device)
        if call is not None:
            free, total = call(device)
            return int(free), int(total)
    page = os.sysconf('SC_PAGE_SIZE')
    total = os.sysconf('SC_PHYS_PAGES') * page
    free = os.sysconf('SC_AVPHYS_PAGES') * page if 'SC_AVPHYS_PAGES' in os.sysconf_names else total
    return free, total


def resident_memory() -> int:
    """Bytes of main memory that this process holds (RSS)."""
    try:
        with open('/proc/self/statm', encoding='ascii') as file:  # noqa: PTH123 (hot path)
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except FileNotFoundError:
        return max_memory_allocated(CPU)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the device (or the host) ran out of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        'out of memory' in text or "can't allocate memory" in text)


def backend_for(device: torch.device | None = None) -> str:
    """Name of the ``torch.distributed`` backend for tensors of ``device``."""
    device = device or get_device()
    return _BACKENDS.get(device.type, 'gloo')


def supports_bf16(device: torch.device | None = None) -> bool:
    """Whether bfloat16 is worth using on ``device``."""
    device = device or get_device()
    if device.type == 'cpu':
        return True
    if device.type == 'mps':
        return False
    call = _function('is_bf16_supported', device)
    return bool(call()) if call is not None else True


def computes_bf16(device: torch.device | None = None) -> bool:
    """Whether ``device`` has arithmetic of its own for bfloat16, which makes it the faster one.

    Every CPU takes bfloat16, but one without such instructions computes more slowly with it.
    """
    device = device or get_device()
    if device.type != 'cpu':
        return supports_bf16(device)
    flags: Any = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return any(flags.get(name, False) for name in ('avx512_bf16', 'amx_bf16', 'bf16'))


def capabilities(device: torch.device | None = None) -> Capabilities:
    """The row of the capability table for ``device``."""
    device = device or get_device()
    on_chip = device.type != 'cpu'
    return Capabilities(
        bf16=supports_bf16(device),
        fp16=on_chip,
        pin_memory=device.type in _BACKENDS,
        streams=device.type in _BACKENDS,
        memory_stats=on_chip,
        compile=device.type in ('cpu', 'cuda', 'xpu', 'mps'),
        backend=backend_for(device),
    )


def supports_pin_memory(device: torch.device | None = None) -> bool:
    """Whether pinned host memory speeds up copies to ``device``."""
    return capabilities(device).pin_memory


def describe() -> dict[str, Any]:
    """Name, memory and capabilities of the device in use, as plain data for reports."""
    device = get_device()
    name = _function('get_device_name', device)
    free, total = memory_info(device)
    return {
        'device': str(device),
        'name': str(name(device)) if name is not None else device.type,
        'count': device_count(),
        'memory_total': total,
        'memory_free': free,
        **asdict(capabilities(device)),
    }


def set_deterministic(on: bool) -> None:
    """Ask every library for repeatable results; slower. Operations without such a form warn."""
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = on
    if on:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


def set_autotune(on: bool) -> None:
    """Let convolution libraries try algorithms at the first use of each shape."""
    torch.backends.cudnn.benchmark = on


def attention_kernel_names(kind: str) -> list[str]:
    """Kernels that torch may choose from for attention on devices of a type."""
    flags = torch.backends.cuda  # the switches carry this name for all devices
    return [name for name, is_on in (
        ('flash', flags.flash_sdp_enabled()),
        ('memory efficient', flags.mem_efficient_sdp_enabled() and kind != 'cpu'),
        ('plain', flags.math_sdp_enabled())) if is_on]


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy, torch and all accelerators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """State of all global generators of this process, as tensors and plain types."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        'python': [version, list(numbers), gauss],
        'numpy': [str(name), torch.from_numpy(keys.astype(np.int64)), int(position),
                  int(has_gauss), float(cached)],
        'torch': torch.get_rng_state(),
    }
    device = get_device()
    if device.type != 'cpu':
        state['device_type'] = device.type
        state['device'] = torch.get_device_module(device).get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` gave; an accelerator of another kind keeps its own state."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state['torch'].cpu())
    device = get_device()
    if state.get('device_type') == device.type:
        torch.get_device_module(device).set_rng_state(state['device'].cpu())


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave all global generators as they were found."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def _function(name: str, device: torch.device | None = None) -> Any:
    """``name`` from torch.accelerator or, in an older torch, from the device's own module."""
    device = device or get_device()
    if device.type == 'cpu':
        return None
    found = getattr(torch.accelerator, name, None)
    # MPS is an accelerator without allocator statistics in torch.accelerator.
    if found is not None and device.type != 'mps':
        return found
    module: ModuleType = torch.get_device_module(device)
    return getattr(module, name, None)
