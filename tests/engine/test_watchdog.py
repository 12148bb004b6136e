import io
import os
import subprocess
import sys
import threading
import time

import pytest

from openlab.engine.watchdog import (
    EXIT_CODE,
    Heartbeat,
    Watchdog,
    describe,
    obituary,
    read_heartbeats,
)


def beats(*rows):
    now = time.time()
    host = os.uname().nodename
    return {i: Heartbeat(i, step, phase, now - 9, now, os.getpid(), host, where, in_torch)
            for i, (step, phase, where, in_torch) in enumerate(rows)}


def test_the_rank_with_the_fewest_steps_is_named():
    text = describe(beats((7, 'forward and backward', 'graph.py:9 (run)', True),
                          (6, 'waiting for data', 'queue.py:7 (get)', False)), 2)
    assert text.splitlines()[0] == ('rank 1 is the one the others wait for: at step 6 (waiting '
                                    'for data) for 9 s, in queue.py:7 (get)')
    assert 'rank 0' in text


def test_at_the_same_place_the_rank_that_is_not_in_torch_is_named():
    text = describe(beats((5, 'forward and backward', 'my_hook.py:3 (sleep)', False),
                          (5, 'forward and backward', 'graph.py:9 (run)', True)), 2)
    assert text.startswith('rank 0 is the one the others wait for')
    assert 'in my_hook.py:3 (sleep)' in text


def test_a_rank_that_never_reported_and_one_that_died_are_missing():
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    known = beats((5, 'validation', '', False), (4, 'optimizer step', '', False))
    known[1].pid = child.pid
    text = describe(known, 3)
    assert 'rank 2 is missing: it never reported' in text
    assert 'rank 1 is missing: it died at step 4 (optimizer step)' in text
    assert 'rank 0 is' not in text


def test_a_heartbeat_is_on_disk_at_once_and_readable(tmp_path):
    watchdog = Watchdog(tmp_path, 3, 4, timeout_s=100, beat_s=10)
    watchdog.start()
    watchdog.progress(12, 'optimizer step')
    found = read_heartbeats(tmp_path)[3]
    watchdog.stop()
    assert (found.step, found.phase, found.pid) == (12, 'optimizer step', os.getpid())
    (tmp_path / 'rank_1.json').write_text('half a hea')
    assert list(read_heartbeats(tmp_path)) == [3]


def test_a_standstill_is_reported_with_the_stacks_of_this_process(tmp_path):
    file = (tmp_path / 'report').open('w+')
    watchdog = Watchdog(tmp_path, 0, 1, timeout_s=0.1, beat_s=0.02, end_process=False, stream=file)
    watchdog.start()
    deadline = time.monotonic() + 5
    while not watchdog.reported and time.monotonic() < deadline:
        time.sleep(0.02)
    watchdog.stop()
    text = (tmp_path / 'report').read_text()
    assert 'no progress for 0.1 s' in text
    assert 'test_a_standstill_is_reported' in text


def test_progress_keeps_the_watchdog_quiet(tmp_path):
    stream = io.StringIO()
    watchdog = Watchdog(tmp_path, 0, 1, timeout_s=0.4, beat_s=0.02, stream=stream)
    watchdog.start()
    for step in range(12):
        watchdog.progress(step, 'waiting for data')
        time.sleep(0.05)
    watchdog.stop()
    assert not watchdog.reported and stream.getvalue() == ''
    assert all(t.name != 'openlab-watchdog' for t in threading.enumerate())


def test_the_launcher_says_how_a_rank_ended_and_where(tmp_path):
    watchdog = Watchdog(tmp_path, 1, 2, beat_s=10)
    watchdog.start()
    watchdog.progress(41, 'forward and backward')
    watchdog.stop()
    assert obituary(1, -9, tmp_path).startswith(
        'rank 1 was ended by SIGKILL at step 41 (forward and backward)')
    assert 'exit code 3 before its first step' in obituary(0, 3, tmp_path)
    assert 'watchdog' in obituary(1, EXIT_CODE, tmp_path)


@pytest.mark.parametrize('arguments', [{'timeout_s': 0}, {'beat_s': -1}])
def test_times_must_be_positive(tmp_path, arguments):
    with pytest.raises(ValueError, match='must be positive'):
        Watchdog(tmp_path, 0, 1, **arguments)
