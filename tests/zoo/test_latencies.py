import json

import pytest

from openlab.apis.latency import latency_of
from openlab.cli import main
from openlab.zoo import index, latencies
from openlab.zoo.index import Wanted, select

SMALL = 'timm/mobilenetv3_small_050.lamb_in1k'
OTHER = 'torchvision/mobilenet_v2.IMAGENET1K_V1'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_CACHE', str(tmp_path))
    return tmp_path


def test_what_was_measured_last_counts_of_this_machine_and_device_alone(monkeypatch):
    latencies.remember('a', 5.0, 'cuda', (3, 8, 8))
    latencies.remember('a', 90.0, 'cpu', (3, 8, 8))
    latencies.remember('a', 30.00004, 'cpu', (3, 8, 8))
    assert latencies.measured() == {'a': latencies.Latency(30.0, 'cpu', (3, 8, 8))}
    assert latencies.measured('cuda')['a'].milliseconds == 5
    monkeypatch.setattr(latencies, 'processor', lambda: 'another one')
    assert latencies.measured() == {}


def test_a_line_cut_off_by_a_kill_costs_that_line_alone():
    latencies.remember('a', 5.0, 'cpu', (3, 8, 8))
    with latencies.file().open('a') as file:
        file.write('{"name": "b", "m')
    latencies.remember('c', 7.0, 'cpu', (3, 8, 8))
    assert set(latencies.measured()) == {'a', 'c'}


def test_lists_filter_by_latency_and_count_what_nobody_measured():
    latencies.remember(SMALL, 12.0, 'cpu', (3, 224, 224))
    latencies.remember(OTHER, 25.0, 'cpu', (3, 224, 224))
    rows = [index.find(SMALL), index.find(OTHER), index.find('torchvision/vgg11.IMAGENET1K_V1')]
    for bounds, names in (('<20', [SMALL]), ('>20', [OTHER]), ('10-30', [SMALL, OTHER])):
        found = select(Wanted(latency=bounds), rows)
        assert [row.name for row in found.rows] == names
        assert [row.name for row in found.unmeasured] == ['torchvision/vgg11.IMAGENET1K_V1']
    with pytest.raises(ValueError, match="latency 'fast' is no range; accepted: '<30'"):
        select(Wanted(latency='fast'), rows)


def test_a_network_is_timed_without_its_weights_and_remembered():
    found = latency_of(SMALL, 'cpu', seconds=0.01)
    assert found.milliseconds > 0.1 and found.device == 'cpu' and found.input_shape[0] == 3
    kept = latencies.measured()[SMALL]
    assert kept.milliseconds == pytest.approx(found.milliseconds, abs=1e-3)
    assert kept.input_shape == found.input_shape


def test_the_command_measures_and_lists(capsys):
    assert main(['zoo', 'measure', SMALL, '--device', 'cpu']) == 0
    assert SMALL in capsys.readouterr().out
    assert main(['zoo', 'measure', SMALL, '--device', 'cpu']) == 0
    again = capsys.readouterr()
    assert not again.out and '1 were measured before' in again.err
    assert main(['zoo', 'ls', '--latency', '<100000', '--sort', 'latency']) == 0
    told = capsys.readouterr()
    head, row = told.out.splitlines()
    assert 'on cpu' in head and row.startswith(SMALL) and ' ms ' in row
    assert 'nobody measured' in told.err
    assert main(['zoo', 'ls', '--latency', '<100000', '--json']) == 0
    [data] = json.loads(capsys.readouterr().out)
    assert data['latency_ms'] == latencies.measured()[SMALL].milliseconds


def test_the_command_refuses_what_cannot_be_built(capsys):
    assert main(['zoo', 'measure', 'timm/xcit_nano_12_p8_224.fb_in1k']) == 2
    assert 'listed, but not proven' in capsys.readouterr().err
