import time

import pytest

from openlab.engine.hooks.time_limit import TimeLimitHook, parse_duration
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [('1h30m', 5400), ('2d', 172800), ('45s', 45), ('1.5h', 5400), ('01:30:00', 5400),
     ('10:30', 37800), ('1h 30m 5s', 5405), (90, 90), ('90', 90), (0.25, 0.25)],
)
def test_durations_are_read_in_all_usual_forms(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize('text', ['soon', '1y', '', '-5s', '0', 0, '1h30', 'm5'])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match='1h30m'):
        parse_duration(text)


def test_training_stops_when_the_time_less_the_margin_is_over():
    hook = TimeLimitHook('10.2s', margin='10s', interval=2)
    runner = SmallRunner(SmallModel(), [hook], make_batches(100))
    hook.before_backward = lambda runner, outputs: time.sleep(0.02)
    runner.train()
    assert runner.train_loop.stop_training
    assert 2 <= runner.iter <= 14
    assert runner.iter % 2 == 0


def test_a_limit_shorter_than_its_margin_is_refused():
    with pytest.raises(ValueError, match='no time to train'):
        TimeLimitHook('20s')
