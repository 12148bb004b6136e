import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / 'benchmarks'


@pytest.fixture
def helpers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _common
    import run_all

    yield _common, run_all
    for name in ('_common', 'run_all'):
        sys.modules.pop(name)


def test_contenders_take_turns_and_warm_up_is_not_timed(helpers):
    common, _ = helpers
    calls = []
    timings = common.interleaved(
        {name: lambda name=name: calls.append(name) for name in 'abc'}, turns=4, warmup=1)
    assert ''.join(calls) == 'cab' + 'abc' + 'bca' + 'cab' + 'abc'
    assert {len(t.seconds) for t in timings.values()} == {4}


def test_median_and_spread_are_those_of_the_turns(helpers):
    common, _ = helpers
    timing = common.Timing((1.0, 2.0, 4.0))
    assert timing.median == 2.0
    assert timing.spread == 1.5
    assert common.Timing((1.0, 1.0, 1.0, 1.0, 9.0)).median == 1.0


@pytest.mark.parametrize(('value', 'code', 'word'), [(0.2, 0, 'ok'), (0.4, 1, 'MISS')])
def test_report_ends_with_the_limits_and_fails_on_a_miss(helpers, capsys, value, code, word):
    common, run_all = helpers
    report = common.Report('start-up')
    report.measured('something', 12.0, 'ms')
    report.at_most('help_s', value, 0.3)
    report.at_least('speed', 2.0, 1.3)
    assert report.finish() == code
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [f'help_s {value} 0.3 {word}', 'speed 2 1.3 ok']
    assert run_all.limits(out) == [['help_s', str(value), '0.3', word], ['speed', '2', '1.3', 'ok']]


def test_runner_knows_every_benchmark_and_writes_what_each_printed(helpers, tmp_path):
    _, run_all = helpers
    assert 'startup' in {script.stem for script in run_all.benchmarks()}
    script = tmp_path / 'quick.py'
    script.write_text('print("speed 2 3 MISS"); raise SystemExit(1)')
    code, text = run_all.run(script)
    page = run_all.section(script, code, text)
    assert code == 1
    assert '| speed | 2 | 3 | MISS |' in page
    assert 'It ended with exit code 1.' in page
    assert '`python benchmarks/quick.py`' in page
