import pytest

from openlab.engine.hooks.early_stop import EarlyStopHook, default_mode
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


def epochs_until_stop(hook, values, name='accuracy/top1'):
    values = list(values)
    runner = SmallRunner(SmallModel(), [hook], make_batches(1), max_epochs=len(values))
    runner.validate = lambda runner: {name: values[runner.epoch], 'accuracy/top5': 1.0}
    runner.train()
    return runner.epoch


def test_training_ends_after_patience_validations_without_gain():
    hook = EarlyStopHook('accuracy/top1', patience=2)
    assert epochs_until_stop(hook, [0.1, 0.5, 0.4, 0.5, 0.9]) == 4
    assert hook.best == 0.5


def test_a_gain_below_min_delta_does_not_count():
    hook = EarlyStopHook('accuracy/top1', patience=2, min_delta=0.1)
    assert epochs_until_stop(hook, [0.50, 0.55, 0.59, 0.9]) == 3


def test_losses_and_errors_are_better_when_lower():
    hook = EarlyStopHook('val/loss', patience=1)
    assert hook.mode == 'min'
    assert epochs_until_stop(hook, [3.0, 2.0, 2.5, 1.0], 'val/loss') == 3
    assert default_mode('calibration/ece') == 'min'
    assert default_mode('closest/recall') == 'max'


def test_a_value_that_is_no_number_is_no_gain():
    hook = EarlyStopHook('accuracy/top1', patience=2)
    assert epochs_until_stop(hook, [float('nan'), float('nan'), 0.5]) == 2


def test_reaching_the_target_ends_training():
    hook = EarlyStopHook('accuracy/top1', patience=9, target=0.9)
    assert epochs_until_stop(hook, [0.5, 0.95, 0.99]) == 2


def test_an_unknown_metric_lists_those_that_exist_and_the_nearest():
    hook = EarlyStopHook('acuracy/top1')
    with pytest.raises(ValueError) as caught:
        epochs_until_stop(hook, [0.5])
    assert 'accuracy/top1, accuracy/top5' in str(caught.value)
    assert "did you mean 'accuracy/top1'?" in str(caught.value)


def test_a_resumed_run_stops_where_the_whole_one_does():
    first, second = EarlyStopHook('accuracy/top1', 3), EarlyStopHook('accuracy/top1', 3)
    epochs_until_stop(first, [0.9, 0.1])
    second.load_state_dict(first.state_dict())
    assert epochs_until_stop(second, [0.2, 0.3, 0.4]) == 2
