import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from openlab.zoo import index
from openlab.zoo.index import Result, Row, Wanted, check_known, find, rows, select

ROOT = Path(__file__).resolve().parents[2]
COCO = (Result('COCO', 'box AP', 40.0),)
ROWS = (
    Row('a/net-s', 'a', 'Net', 'a/net.json', ('image classification',), 5_000_000, None,
        (Result('ImageNet-1k', 'top1', 70.0), Result('CIFAR-10', 'top1', 95.0)), 'mit',
        ('ImageNet-1k',), 1),
    Row('a/det', 'a', 'Det', 'a/det.json', ('object detection',), None, None, COCO, 'mit',
        ('COCO',), 1),
    Row('b/free', 'b', 'Net', 'b/net.json', ('image classification',), 30_000_000, None, (),
        'apache-2.0', ('Fashion-MNIST',), 1),
    Row('b/research', 'b', 'Net', 'b/net.json', ('image classification',), 9_000, None, (),
        'cc-by-nc-4.0', ('Fashion-MNIST',), 1),
)


def names(**wanted):
    return [row.name for row in select(Wanted(**wanted), ROWS).rows]


def script(name):
    """A module of tools/zoo, which is no package."""
    folder = ROOT / 'tools' / 'zoo'
    spec = importlib.util.spec_from_file_location(name, folder / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    sys.path.insert(0, str(folder))  # a script replaces the first one by the root
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_the_compact_index_is_in_step_with_the_families():
    text = script('build_index').index_text()
    assert (ROOT / 'model_zoo/index.json').read_text('utf-8') == text, \
        'run python tools/zoo/build_index.py'


def test_the_zoo_is_large_and_its_names_are_unique():
    counts = Counter(row.name for row in rows())
    assert len(rows()) >= 5000
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_file_names_its_source_and_is_as_the_scripts_write_it():
    writer = script('family_files')
    for file in sorted((ROOT / 'model_zoo').glob('*/*.json'))[::20]:
        if file.parent.name == 'classes':
            continue
        family = json.loads(file.read_text('utf-8'))
        assert family['source'] == file.parent.name
        assert writer.family_text(family) == file.read_text('utf-8'), file


def test_every_address_is_of_a_known_kind():
    kinds = re.compile(r'(https?|hf|pypi|torchvision|timm)://\S+')
    for file in sorted((ROOT / 'model_zoo').glob('*/*.json')):
        if file.parent.name == 'classes':
            continue
        for model in index.entries(json.loads(file.read_text('utf-8'))):
            for found in index.files_of(model):
                assert found['weights']
                assert all(kinds.fullmatch(a) for a in found['weights']), model['name']


def test_every_list_of_classes_that_an_entry_names_is_there():
    for file in sorted((ROOT / 'model_zoo').glob('*/*.json')):
        if file.parent.name == 'classes':
            continue
        for model in index.entries(json.loads(file.read_text('utf-8'))):
            if model.get('classes'):
                assert (ROOT / 'model_zoo/classes' / f'{model["classes"]}.json').is_file()


def test_an_entry_has_its_own_fields_and_those_of_its_family():
    model = index.entry('torchvision/mobilenet_v2.IMAGENET1K_V1')
    assert model['params'] == 3504872 and model['license'] == 'bsd-3-clause'
    assert {'dataset': 'ImageNet-1K', 'metric': 'top1', 'value': 71.878} in model['results']


def test_a_name_may_lack_its_source_where_that_leaves_no_doubt():
    assert find('mobilenet-v2').name == 'openlab/mobilenet-v2'
    assert find('resnet50.a1_in1k').name == 'timm/resnet50.a1_in1k'
    doubtful = next(n for n, c in Counter(row.bare for row in rows()).items() if c > 1)
    with pytest.raises(ValueError, match='several sources'):
        find(doubtful)
    with pytest.raises(ValueError, match='did you mean openlab/mobilenet-v2'):
        find('mobilenet_v2')


def test_names_of_tasks_and_data_need_not_be_whole():
    assert names(task='classif') == ['a/net-s', 'b/free', 'b/research']
    assert names(dataset='coco') == ['a/det']
    assert names(words=['NET', 'imagenet']) == ['a/net-s']
    assert names(source='b', family='net') == ['b/free', 'b/research']


def test_words_of_a_search_may_be_spelled_as_one_likes():
    for word in ('Net-S', 'net_s', 'nets', 'image-net', 'imagenet1k', 'Image Classification'):
        assert 'a/net-s' in names(words=[word]), word
    assert names(words=['nets', 'cifar10']) == ['a/net-s']
    assert names(words=['netb']) == []


def test_a_published_name_is_found_with_and_without_its_hyphen():
    found = [{row.name for row in select(Wanted(words=[word], status='runs')).rows}
             for word in ('ResNet-18', 'resnet18', 'resnet_18')]
    assert found[0] == found[1] == found[2] and len(found[0]) > 5


def test_a_bound_holds_for_the_metric_of_the_same_data():
    assert names(metric='top1>=90') == ['a/net-s']
    assert names(metric='top1>=90', dataset='imagenet') == []
    assert names(metric='box_AP > 39.9') == ['a/det']
    assert names(metric='box AP<40') == []
    with pytest.raises(ValueError, match='accepted'):
        names(metric='top1=>90')


@pytest.mark.parametrize(('key', 'value', 'near'), [
    ('task', 'detektion', 'detection'),
    ('task', 'imageclasification', 'image classification'),
    ('family', 'resnett', 'resnet'),
    ('dataset', 'COCOO', 'COCO'),
    ('metric', 'topone>=80', 'top1'),
    ('license', 'comercial', 'commercial'),
])
def test_a_filter_that_nothing_could_pass_is_answered_with_the_nearest(key, value, near):
    wanted = Wanted(**{key: value})
    with pytest.raises(ValueError, match=f'no entry has a {key} .*did you mean .*{near}'):
        check_known(wanted)


def test_filters_that_are_known_alone_may_leave_nothing_together():
    wanted = Wanted(task='detection', family='resnet', dataset='cifar', metric='acc@1>=101',
                    license='commercial')
    check_known(wanted)
    assert select(wanted).rows == []


def test_where_nothing_is_near_the_commonest_names_are_listed():
    with pytest.raises(ValueError, match='there are image classification, object detection, '):
        check_known(Wanted(task='zzz'))


def test_the_name_of_a_licence_need_not_be_whole():
    assert names(license='Apache') == ['b/free']
    assert names(license='cc-by') == ['b/research']


def test_a_range_of_parameters_leaves_out_what_no_one_counted():
    assert names(params='<10M') == ['a/net-s', 'b/research']
    assert names(params='5M-30M') == ['a/net-s', 'b/free']
    assert names(params='>1G') == []
    with pytest.raises(ValueError, match='5M-30M'):
        names(params='10M')


def test_commercial_use_excludes_licences_and_data_and_says_why():
    found = select(Wanted(license='commercial'), ROWS)
    assert [row.name for row in found.rows] == ['b/free']
    why = {row.name: verdict.reasons for row, verdict in found.excluded}
    assert 'ImageNet-1k' in why['a/net-s'][0] and 'non-commercial' in why['a/net-s'][0]
    assert 'cc-by-nc-4.0' in why['b/research'][0]
    assert 'Flickr' in why['a/det'][0]
    assert names(license='commercial', with_unclear=True) == ['a/det', 'b/free']
    assert names(license='cc-by-nc-4.0') == ['b/research']


def test_what_other_filters_exclude_is_not_blamed_on_terms():
    excluded = select(Wanted(license='commercial', task='detection'), ROWS).excluded
    assert [row.name for row, _ in excluded] == ['a/det']
    assert select(Wanted(license='commercial', task='pose'), ROWS).excluded == []


def test_an_entry_runs_only_while_its_config_is_there(monkeypatch):
    row = ROWS[0]
    present = 'classification/mobilenet_v2/mobilenet_v2_150e_imagenet.py'
    for config, expected in ((present, 'runs'), ('classification/gone.py', 'listed')):
        monkeypatch.setattr(index, 'checks', lambda c=config: {row.name: {'config': c}})
        assert index.status(row) == expected
    assert index.status(ROWS[1]) == 'listed'


def test_shares_count_what_runs(monkeypatch):
    monkeypatch.setattr(index, 'rows', lambda: ROWS)
    monkeypatch.setattr(index, 'status', lambda row: 'runs' if row.source == 'a' else 'listed')
    assert index.shares('source') == {'a': (2, 2), 'b': (0, 2)}
    assert index.shares('task') == {'image classification': (1, 3), 'object detection': (1, 1)}
