import io
import logging

import pytest
from rich.console import Console

from openlab.engine.hooks.progress import (
    PlainDisplay,
    Progress,
    RichDisplay,
    better,
    describe,
    format_bytes,
    format_duration,
    format_value,
    make_display,
    position,
)

PROGRESS = Progress(step=50, max_steps=1000, epoch=2, max_epochs=10,
                    losses={'loss': 1.5, 'loss_box': 0.5, 'loss_cls': 1.0}, lr=0.01,
                    data_share=0.1, items_per_second=1234.5, device_bytes=3 * 2**30,
                    rss_bytes=512 * 2**20, eta_seconds=3725)


def test_a_line_tells_position_losses_speed_memory_and_time_left():
    assert position(PROGRESS) == 'epoch  2/10  iter   50/1000'
    assert describe(PROGRESS) == [
        'loss 1.5', 'loss_box 0.5', 'loss_cls 1', 'lr 0.01', '1,234 img/s', 'data 10%',
        'device 3.0 GiB', 'RAM 512 MiB', 'ETA 1:02:05']


def test_iteration_based_training_has_no_epoch():
    assert position(Progress(step=5, max_steps=10)) == 'iter  5/10'


def test_the_only_part_of_a_loss_is_not_repeated():
    parts = describe(Progress(1, 2, losses={'loss': 2.0, 'loss_cls': 2.0}))
    assert 'loss 2' in parts
    assert not any('loss_cls' in p for p in parts)


def test_a_slow_loader_is_pointed_out_on_the_line():
    assert any('loader is slow' in p for p in describe(Progress(1, 2, data_share=0.6)))
    assert not any('loader is slow' in p for p in describe(Progress(1, 2, data_share=0.2)))


@pytest.mark.parametrize('seconds,text', [
    (0, '0:00:00'), (59.6, '0:01:00'), (90061, '1 d 1:01:01'), (-5, '0:00:00')])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_numbers_for_people():
    assert format_value(0.97351) == '0.9735'
    assert format_value(1e-5) == '1e-05'
    assert format_value(12) == '12'
    assert format_bytes(2**20) == '1 MiB'


def test_better_knows_the_direction():
    assert better('accuracy/top1', 0.9, 0.8)
    assert better('loss', 0.8, 0.9)
    assert not better('accuracy/top1', 0.8, 0.9)
    assert better('x', 0.1, None)
    assert better('x', 0.1, float('nan'))


def test_a_plain_display_writes_lines_and_spares_the_log_while_validating():
    lines = []
    display = PlainDisplay(lines.append, every_seconds=1000)
    display.update(PROGRESS)
    for i in range(100):
        display.validating(i, 100)
    display.metrics('val epoch 2', {'acc': 0.9, 'loss': 0.5}, {'acc': 0.9, 'loss': 0.4})
    assert len(lines) == 2
    assert lines[0].startswith('epoch  2/10  iter   50/1000  loss 1.5')
    assert lines[1] == 'val epoch 2:  acc 0.9000*  loss 0.5000'


def test_a_long_validation_is_heard_of():
    lines = []
    display = PlainDisplay(lines.append, every_seconds=0)
    display.validating(7, 9)
    assert lines == ['validating: batch 7/9']


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_a_live_bar_shows_progress_and_metrics_above_it():
    console = terminal()
    display = RichDisplay(console)
    display.start()
    display.update(PROGRESS)
    display.metrics('val epoch 2', {'accuracy/top1': 0.91}, {})
    display.stop()
    text = console.file.getvalue()
    assert 'epoch  2/10' in text
    assert 'ETA 1:02:05' in text
    assert 'accuracy/top1 0.9100' in text


def test_messages_of_a_logger_go_above_the_bar_and_the_stream_comes_back():
    console, stream = terminal(), io.StringIO()
    logger = logging.Logger('test')
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    display = RichDisplay(console, (logger,))
    display.start()
    logger.warning('saved a checkpoint')
    display.stop()
    assert 'saved a checkpoint' in console.file.getvalue()
    assert stream.getvalue() == ''
    assert handler.stream is stream
    logger.warning('after')
    assert stream.getvalue() == 'after\n'


def test_the_display_is_plain_where_output_is_no_terminal(capsys):
    assert isinstance(make_display('auto'), PlainDisplay)
    assert isinstance(make_display('rich'), RichDisplay)
    with pytest.raises(ValueError, match="not 'neither'"):
        make_display('neither')
