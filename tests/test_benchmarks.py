import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from openlab.structures.data_sample import DataSample

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


def test_time_can_be_taken_by_another_clock(helpers):
    common, _ = helpers
    ticks = iter(range(100))
    timings = common.interleaved({'a': lambda: None}, turns=3, clock=lambda: next(ticks))
    assert timings['a'].seconds == (1, 1, 1)


def test_peak_memory_is_the_most_that_is_held_at_once(helpers):
    common, _ = helpers

    def work():
        first = torch.empty(2**20)
        second = torch.empty(2**20)
        del first
        return second, torch.empty(2**19)

    assert common.peak_memory(work) == 8 * 2**20


def script(name):
    return importlib.import_module(f'benchmarks.{name}')


@pytest.mark.parametrize('name', ['annotation_memory', 'backbones', 'backbones_compiled',
                                  'coco_metric', 'detection', 'language'])
def test_scripts_are_known_to_the_runner_and_take_turns(helpers, name, monkeypatch, capsys):
    _, run_all = helpers
    assert name in {path.stem for path in run_all.benchmarks()}
    monkeypatch.setattr(sys, 'argv', [name, '--help'])
    with pytest.raises(SystemExit, match='0'):
        script(name).main()
    assert '--turns' in capsys.readouterr().out


def test_families_enter_by_the_proof_that_their_outputs_are_equal(monkeypatch):
    backbones = script('backbones')
    proof = {'proof': 'names, shapes and outputs'}
    checks = {
        'timm/big': {'config': 'classification/a/x.py', **proof},
        'timm/small': {'config': 'classification/a/y.py', **proof},
        'timm/unproven': {'config': 'classification/b/z.py', 'proof': 'names and shapes'},
        'timm/tower': {'config': 'classification/c/z.py', 'part': 'backbone', **proof},
        'timm/huge': {'config': 'classification/d/z.py', **proof},
        'mmpretrain/small': {'config': 'classification/e/z.py', **proof},
        'timm/tiny_part': {'config': 'classification/a/z.py', 'part': 'backbone', **proof},
        'torchvision/detector': {'config': 'detection/c/z.py', **proof},
    }
    params = {'timm/big': 10, 'timm/small': 5, 'timm/tower': 7, 'timm/huge': 10**9,
              'timm/tiny_part': 1}
    monkeypatch.setattr(backbones.index, 'checks', lambda: checks)
    monkeypatch.setattr(backbones.index, 'has', lambda name: True)
    monkeypatch.setattr(backbones.index, 'entry', lambda name: {
        'params': params.get(name), 'architecture': 'net'})
    assert backbones.proven() == {'a': ('timm/small', checks['timm/small']),
                                  'c': ('timm/tower', checks['timm/tower'])}


def test_every_proven_family_of_this_repository_is_compared():
    found = script('backbones').proven()
    assert {'resnet', 'mobilenet_v2', 'swin', 'vit'} <= set(found)


def test_limits_are_on_the_median_and_the_worst_family(helpers, capsys):
    backbones = script('backbones')
    report = backbones.Report('backbones')
    backbones.limit(report, 'eager', {'a': {'infer': 0.9}, 'b': {'infer': 0.98},
                                      'c': {'infer': 1.06}})
    assert report.finish() == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        'eager_infer_median 0.98 1 ok', 'eager_infer_worst_c 1.06 1.05 MISS']


def test_a_family_has_a_process_that_may_die():
    backbones = script('backbones')
    assert backbones.apart(os._exit, 1) is None
    assert backbones.apart(os.getpid) != os.getpid()


def test_detectors_are_compared_in_any_order_of_their_detections():
    detection = script('detection')
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20]])
    mine = [DataSample(boxes=boxes, labels=torch.tensor([2, 3]))]
    other = [{'boxes': boxes.flip(0), 'labels': torch.tensor([4, 9])}]
    pair = detection.Pair(None, None, 1, {}, lambda score: None)
    assert detection.difference(mine, other, pair.first_label) == pytest.approx(0.5)


def test_made_up_detections_are_well_formed_and_masks_fill_their_boxes():
    coco_metric = script('coco_metric')
    for prediction, truth in coco_metric.make_images(5, with_masks=True):
        prediction.validate(coco_metric.K), truth.validate(coco_metric.K)
    masks = coco_metric.ellipses(torch.tensor([[10.0, 20, 50, 40]]))
    assert masks.sum().item() == pytest.approx(3.1416 / 4 * 40 * 20, rel=0.02)
    assert not masks[:, :20].any() and not masks[:, :, 50:].any()


def test_annotation_memory_reads_the_same_content_in_both_ways(tmp_path):
    annotation_memory = script('annotation_memory')
    file = annotation_memory.write_file(tmp_path, 12)
    ours, peer = (annotation_memory.make_dataset(kind, file) for kind in ('openlab', 'list'))
    numbers = [ours[i] for i in range(12)]
    assert numbers == [peer[i] for i in range(12)]
    assert 20 < sum(numbers) / 2 < 200


def test_a_page_keeps_what_is_not_run_again(helpers, tmp_path):
    _, run_all = helpers
    page = tmp_path / 'page.md'
    first = {'loop': 'a 1 2 ok', 'startup': 'b 3 2 MISS'}
    sections = [run_all.section(Path(f'{name}.py'), 0, text) for name, text in first.items()]
    page.write_text(run_all.HEAD + '\n'.join(sections))
    found = run_all.sections_of(page)
    assert list(found) == ['loop', 'startup'] and list(found.values()) == sections
    assert run_all.sections_of(tmp_path / 'none.md') == {}
