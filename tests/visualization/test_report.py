import base64
import json
import re

import cv2
import numpy as np
import pytest
import torch

from openlab.metrics.item_errors import find_errors
from openlab.structures.data_sample import DataSample
from openlab.visualization.report import (
    ReportOptions,
    ReportPage,
    format_metric,
    json_in_html,
    mask_runs,
    picture_address,
    report_item,
    shrink,
    write_report,
)

IMAGE = np.full((40, 60, 3), 90, np.uint8)


def sample(*rows, labels, scores=None, **fields):
    return DataSample(boxes=torch.tensor(rows, dtype=torch.float).reshape(-1, 4),
                      labels=torch.tensor(labels, dtype=torch.int64),
                      scores=None if scores is None else torch.tensor(scores), **fields)


def item(prediction, truth, name='a.jpg', image=IMAGE, **options):
    return report_item(image, prediction, truth, find_errors(prediction, truth), name,
                       ReportOptions(**options))


def mask_of(text, size):
    """The mask again: LEB128 numbers are the lengths of runs of 0 and 1."""
    runs, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            runs.append(value)
            value = shift = 0
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(size).astype(bool)


@pytest.mark.parametrize('seed', range(4))
def test_masks_come_back_from_their_runs(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(30, 40, generator=generator) > (0.5, 0.99, 0, 1)[seed]
    assert np.array_equal(mask_of(mask_runs(mask, (30, 40)), (30, 40)), mask.numpy())


def test_the_runs_of_a_small_mask_by_hand():
    # 300 zeros are 0b10_0101100: the low seven bits first, with the sign that more follow.
    mask = torch.zeros(1, 302)
    mask[0, 300:] = 1
    assert base64.b64decode(mask_runs(mask, (1, 302))) == bytes([0b10101100, 0b10, 2])
    assert base64.b64decode(mask_runs(torch.ones(1, 2), (1, 2))) == bytes([0, 2])


def test_large_images_are_stored_small_and_their_masks_with_them():
    masks = torch.zeros(1, 400, 600, dtype=torch.bool)
    masks[0, 100:200, 300:450] = True
    truth = sample([300, 100, 450, 200], labels=[1], masks=masks)
    found = item(truth, truth, image=np.zeros((400, 600, 3), np.uint8), image_size=150)
    record = found.record
    assert [record[k] for k in ('w', 'h', 'rw', 'rh')] == [600, 400, 150, 100]
    small = mask_of(record['t'][0]['m'], (100, 150))
    assert small[25:50, 75:112].all()
    assert small.sum() == pytest.approx(25 * 37.5, rel=0.03)
    assert record['t'][0]['b'] == [300, 100, 450, 200]  # boxes stay in pixels of the image
    assert found.picture.startswith('data:image/jpeg;base64,')


def test_tiny_images_are_stored_without_loss():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    address = picture_address(image)
    assert address.startswith('data:image/png;base64,')
    data = np.frombuffer(base64.b64decode(address.split(',')[1]), np.uint8)
    assert np.array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], image)
    assert shrink(image, 640) is image


def test_predictions_are_listed_best_first_and_partners_point_to_their_new_places():
    truth = sample([0, 0, 10, 10], [20, 20, 30, 30], labels=[0, 1])
    prediction = sample([20, 20, 30, 30], [50, 0, 60, 10], [0, 0, 10, 10], labels=[1, 0, 0],
                        scores=[0.6, 0.01, 0.9])
    record = item(prediction, truth).record
    assert [p['s'] for p in record['p']] == pytest.approx([0.9, 0.6])  # 0.01 is left out
    assert [p['o'] for p in record['p']] == [0, 1]
    assert [t['o'] for t in record['t']] == [0, 1]
    only_best = item(prediction, truth, max_objects=1).record
    assert [t['o'] for t in only_best['t']] == [0, -1]


def test_scores_keep_the_digits_that_a_threshold_needs():
    just_below = np.nextafter(np.float32(0.3), np.float32(0))
    record = item(sample([0, 0, 9, 9], labels=[0], scores=[float(just_below)]),
                  sample([0, 0, 9, 9], labels=[0])).record
    assert record['p'][0]['s'] == pytest.approx(float(just_below), abs=1e-9)
    assert record['t'][0]['f'] < 0.3


def test_the_true_class_is_listed_even_where_it_is_not_likely():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    record = item(DataSample(label_probs=probs), DataSample(label=torch.tensor(3)), topk=2).record
    assert record['l']['top'] == [[0, 0.5], [1, 0.3], [3, 0.05]]
    assert (record['l']['t'], record['l']['p'], record['l']['k']) == (3, 0, 'mistake')


def test_numbers_that_json_does_not_know_do_not_stop_the_report(tmp_path):
    prediction = DataSample(label_probs=torch.tensor([float('nan')] * 3))
    broken = item(prediction, DataSample(label=torch.tensor(1)))
    page = ReportPage('t', 'classification', metrics={'a/loss': float('nan')})
    assert '"nan"' in write_report(tmp_path / 'r.html', [broken], page).read_text('utf-8')


HOSTILE = '</script><script>alert(1)</script>"\'&{{script}}.jpg'


def report(tmp_path, count=3, title='Digits'):
    truth = sample([0, 0, 10, 10], labels=[0])
    items = [item(sample([0, 0, 10, 10], labels=[1], scores=[0.9]), truth, HOSTILE)] * count
    page = ReportPage(title, 'detection', ['<b>cat</b>', 'dog\u2028'], 'three', {'coco/AP': 0.5})
    return write_report(tmp_path / 'new' / 'report.html', items, page).read_text('utf-8')


def test_names_cannot_become_markup(tmp_path):
    text = report(tmp_path, title='<img src=x onerror=alert(1)>')
    assert '<script>alert(1)' not in text
    assert '<img src=x' not in text
    assert '<b>cat' not in text
    # Only the scripts of the page itself: data, three images, the program.
    assert text.count('<script') == text.count('</script>') == 5
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data['items'][0]['n'] == HOSTILE
    assert data['classes'] == ['<b>cat</b>', 'dog\u2028']


def test_the_file_asks_nothing_of_the_network_and_runs_its_own_program_only(tmp_path):
    text = report(tmp_path)
    addresses = set(re.findall(r'[a-z]+://[^\s"\'`)]+', text)) - {'http://www.w3.org/2000/svg'}
    assert not addresses
    assert 'src="' not in text
    assert '<link' not in text
    assert "default-src &#x27;none&#x27;" in text
    assert re.search(r"script-src &#x27;sha256-[\w+/]{43}=&#x27;", text)
    assert '{{' not in text.replace('{{script}}.jpg', '')


def test_json_in_html_is_the_same_json():
    value = {'a': '<!--<script>&amp;', 'b': [1, 2.5, None], 'c': 'é\u2028'}
    text = json_in_html(value)
    assert not set(text) & set('<>&')
    assert json.loads(text) == value
    assert '\\udcff' in json_in_html('\udcff')  # a file name that is no UTF-8


@pytest.mark.parametrize(('value', 'text'), [
    (0.123456, '0.1235'), (11.0, '11'), (-1.0, '–'), (1.0, '1.0000'), (float('nan'), 'nan')])
def test_metrics_are_written_with_four_digits(value, text):
    assert format_metric(value) == text


def test_an_image_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match='at least 16 pixels, got 0'):
        ReportOptions(image_size=0)
