"""Name the rank that hangs or died, and say where each one stood.

Every rank keeps a small heartbeat file, mapped into memory so that it is cheap to write and
survives any death: its step, what it is doing, since when, and the line of code. A thread of each
rank watches its own progress; when there is none for too long it reads all heartbeats, names the
ranks that the others wait for, prints its own stacks, and ends the process, so that no job hangs
for ever.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

FOLDER_VARIABLE = 'OPENLAB_HEARTBEATS'
EXIT_CODE = 75
_SIZE = 1024  # bytes of a heartbeat
# In the order of one iteration: of two ranks at one step, the one in the earlier phase lags.
PHASES = ('starting', 'resuming', 'waiting for data', 'forward and backward', 'optimizer step',
          'after the step', 'validation', 'done')


@dataclass
class Heartbeat:
    """Where one rank stands.

    Attributes:
        rank: its number.
        step: iterations completed.
        phase: what it is doing, one of ``PHASES``.
        since: when it last made progress, seconds since the epoch.
        beat: when this was written.
        pid: its process.
        host: its machine.
        where: the line of code its main thread was in when last looked at.
        in_torch: whether that line is torch's: it computes, or waits for other ranks.
    """

    rank: int
    step: int = 0
    phase: str = 'starting'
    since: float = 0.0
    beat: float = 0.0
    pid: int = 0
    host: str = ''
    where: str = ''
    in_torch: bool = False

    def order(self) -> tuple[int, int, bool]:
        """Sorts ranks by how far they are.

        At the same place the rank that is not inside torch is the one that others wait for.
        """
        phase = PHASES.index(self.phase) if self.phase in PHASES else 0
        return self.step, phase, self.in_torch

    def is_alive(self, now: float, beat_s: float) -> bool:
        """Whether the process still exists, as far as one can tell from here."""
        if self.host == socket.gethostname():
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                return True
            return not _is_zombie(self.pid)
        return now - self.beat < 10 * beat_s + 5

    def line(self, now: float, alive: bool) -> str:
        """The row of this rank in a report."""
        state = 'alive' if alive else 'DEAD'
        return (f'  rank {self.rank} ({self.host}, process {self.pid}, {state}): step {self.step}, '
                f'{self.phase}, for {now - self.since:.0f} s{self.place()}')

    def place(self) -> str:
        """The line of code, as the end of a sentence."""
        return f', in {self.where}' if self.where else ''


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()[
            0] == 'Z'
    except (OSError, IndexError):
        return False


class Watchdog:
    """Writes this rank's heartbeat and watches for a standstill.

    Args:
        folder: where heartbeats of all ranks are; a folder they all see.
        rank: number of this process.
        world_size: number of processes.
        timeout_s: standstill after which to report.
        beat_s: seconds between two looks.
        end_process: end the process (exit code 75) after the report.
        stream: where the report goes; by default standard error.
    """

    def __init__(self, folder: str | Path, rank: int, world_size: int, timeout_s: float = 1800.0,
                 beat_s: float = 1.0, end_process: bool = True, stream: TextIO | None = None):
        if timeout_s <= 0 or beat_s <= 0:
            raise ValueError(f'timeout_s={timeout_s}, beat_s={beat_s}; both must be positive')
        self.folder = Path(folder)
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.beat_s = min(beat_s, timeout_s / 4)
        self.end_process = end_process
        self.stream = stream
        self.mine = Heartbeat(rank, since=time.time(), pid=os.getpid(), host=socket.gethostname())
        self.reported = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write and to watch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f'rank_{self.mine.rank}.json').open('w+b') as file:
            file.truncate(_SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self._write()
        self._thread = threading.Thread(target=self._run, name='openlab-watchdog', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End watching; the last heartbeat stays."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def progress(self, step: int, phase: str) -> None:
        """Say where the main thread is; costs some microseconds."""
        mine = self.mine
        mine.step = step
        mine.phase = phase
        mine.since = time.time()
        mine.where, mine.in_torch = '', False
        self._write()

    def _run(self) -> None:
        while not self._stopping.wait(self.beat_s):
            self.mine.where, self.mine.in_torch = _main_thread()
            self._write()
            # Others that wait for a lagging rank stand still as long as it does; a moment more
            # lets every rank write what it knows before the first one ends.
            if time.time() - self.mine.since > self.timeout_s and not self.reported:
                self.reported = True
                self.report()
                if self.end_process:
                    time.sleep(2 * self.beat_s)
                    os._exit(EXIT_CODE)

    def report(self) -> None:
        """Print which ranks lag behind and where each stands, and the stacks of this process."""
        stream = self.stream or sys.stderr
        text = describe(read_heartbeats(self.folder), self.world_size, self.beat_s)
        print(f'rank {self.mine.rank}: no progress for {self.timeout_s:g} s\n{text}\n'
              f'stacks of rank {self.mine.rank}:', file=stream, flush=True)
        faulthandler.dump_traceback(file=stream, all_threads=True)
        stream.flush()

    def _write(self) -> None:
        with self._lock:
            self.mine.beat = time.time()
            text = json.dumps(vars(self.mine)).encode()
            if self._memory is not None and len(text) <= _SIZE:
                self._memory[:] = text.ljust(_SIZE)


def _main_thread() -> tuple[str, bool]:
    """The line that the main thread is in, and whether it belongs to torch."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return '', False
    file = Path(frame.f_code.co_filename)
    where = f'{file.parent.name}/{file.name}:{frame.f_lineno} ({frame.f_code.co_name})'
    return where, 'torch' in file.parts


def read_heartbeats(folder: str | Path) -> dict[int, Heartbeat]:
    """Heartbeats in a folder by rank; unreadable ones are left out."""
    found = {}
    for file in sorted(Path(folder).glob('rank_*.json')):
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding='utf-8'))
            found[int(content['rank'])] = Heartbeat(**content)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def describe(beats: dict[int, Heartbeat], world_size: int, beat_s: float = 1.0) -> str:
    """Say which ranks the others wait for, and where every rank stands."""
    now = time.time()
    alive = {r: b.is_alive(now, beat_s) for r, b in beats.items()}
    lines = []
    for number in range(world_size):
        if number not in beats:
            lines.append(f'rank {number} is missing: it never reported')
    dead = [r for r in beats if not alive[r]]
    for number in dead:
        beat = beats[number]
        lines.append(f'rank {number} is missing: it died at step {beat.step} ({beat.phase})')
    orders = {r: b.order() for r, b in beats.items() if alive[r]}
    if orders and len(set(orders.values())) > 1 and not dead:
        behind = min(orders.values())
        for number in (r for r, order in orders.items() if order == behind):
            beat = beats[number]
            lines.append(f'rank {number} is the one the others wait for: at step {beat.step} '
                         f'({beat.phase}) for {now - beat.since:.0f} s{beat.place()}')
    if not lines:
        lines.append('all ranks stand at the same place')
    lines += [beats[r].line(now, alive[r]) for r in sorted(beats)]
    return '\n'.join(lines)


def obituary(rank: int, exitcode: int, folder: str | Path) -> str:
    """What the launcher prints when a rank has failed."""
    if exitcode < 0:
        how = f'was ended by {signal.Signals(-exitcode).name}'
    elif exitcode == EXIT_CODE:
        how = 'was ended by its watchdog (report above)'
    else:
        how = f'ended with exit code {exitcode}'
    beats = read_heartbeats(folder)
    beat = beats.get(rank)
    place = ' before its first step' if beat is None else f' at step {beat.step} ({beat.phase})'
    now = time.time()
    others = [b.line(now, b.is_alive(now, 1.0)) for r, b in sorted(beats.items()) if r != rank]
    tail = '\nthe others, which were then stopped:\n' + '\n'.join(others) if others else ''
    return f'rank {rank} {how}{place}{tail}'
