import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from openlab.apis.prediction_report import (
    Pair,
    PredictionReport,
    collect,
    dumped_pairs,
    in_original_pixels,
)
from openlab.apis.summary import print_summary
from openlab.data.dataloader import DataLoader
from openlab.engine.predictions import plain_sample, write
from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import RIGHT, WRONG
from openlab.visualization.report import ReportOptions

IMAGE = np.full((40, 60, 3), 90, np.uint8)


def boxes(*rows, labels, scores=None, **meta):
    return DataSample(meta=meta, boxes=torch.tensor(rows, dtype=torch.float).reshape(-1, 4),
                      labels=torch.tensor(labels, dtype=torch.int64),
                      scores=None if scores is None else torch.tensor(scores))


TRUTH = boxes([0, 0, 10, 10], labels=[0])


def pairs(*mistakes):
    """Pairs with so many false alarms each."""
    for number, count in enumerate(mistakes):
        rows = [[30, 10, 40, 20]] * count + [[0, 0, 10, 10]]
        prediction = boxes(*rows, labels=[1] * count + [0], scores=[0.9] * (count + 1))
        yield Pair(IMAGE, prediction, TRUTH, f'{number}.jpg')


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text('utf-8'), re.S)[1])


def test_the_worst_are_kept_and_what_is_left_out_is_told(tmp_path):
    report = collect(pairs(0, 3, 1, 3, 2, 0), PredictionReport(limit=3, sheet_items=2))
    data = data_of(report.write_page(tmp_path / 'r.html', 'T', {'coco/AP': 0.25}))
    assert [i['n'] for i in data['items']] == ['1.jpg', '3.jpg', '4.jpg']
    assert data['metrics'] == [['coco/AP', '0.2500']]
    assert report.notes() == ['the page holds the worst 3 of 6 images; --limit changes that']
    assert report.scope() == 'the worst 3 of 6 images · 2 without an error · 9 background'
    sheet = report.sheet('T')
    assert (sheet == np.array(WRONG)).all(-1).sum() > 500
    assert not (sheet == np.array(RIGHT)).all(-1).any()


def test_a_limit_of_none_keeps_all(tmp_path):
    report = collect(pairs(0, 1, 0), PredictionReport(limit=None))
    assert len(data_of(report.write_page(tmp_path / 'r.html', 'T'))['items']) == 3
    assert report.notes() == []


def test_a_page_that_grows_too_large_loses_its_least_bad_images(monkeypatch, tmp_path):
    monkeypatch.setattr('openlab.apis.prediction_report.LARGEST_REPORT', 1500)
    report = collect(pairs(1, 0, 2, 0, 0, 0), PredictionReport(limit=None))
    names = [i['n'] for i in data_of(report.write_page(tmp_path / 'r.html', 'T'))['items']]
    assert names[:2] == ['2.jpg', '0.jpg']
    assert len(names) < 6
    assert f'the worst {len(names)} of 6 images: more would exceed' in report.notes()[0]


def test_the_sheet_shows_large_images_small_with_their_objects_in_place():
    image = np.full((720, 1440, 3), 90, np.uint8)
    masks = torch.zeros(1, 720, 1440, dtype=torch.bool)
    masks[0, 200:400, 400:800] = True
    sample = DataSample(boxes=torch.tensor([[400.0, 200, 800, 400]]), labels=torch.tensor([2]),
                        scores=torch.tensor([0.9]), masks=masks)
    report = collect([Pair(image, sample, sample, 'a')], PredictionReport())
    assert report.task == 'instance'
    pair, _ = report._sheet[0][2]
    assert pair.image.shape[:2] == (180, 360)
    assert pair.prediction.boxes.tolist() == [[100, 50, 200, 100]]
    assert pair.prediction.masks[0, 50:100, 100:200].all()
    assert pair.prediction.masks.sum() == 50 * 100
    assert report.sheet('T').shape[1] < 900


@pytest.mark.parametrize(('settings', 'message'), [
    ({'limit': 0}, 'limit must be at least 1'), ({'sheet_items': 0}, 'at least 1 image'),
    ({'score_threshold': 2.0}, 'from 0 to 1, got 2.0')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictionReport(**settings)


def test_nothing_to_report_on_is_an_error():
    with pytest.raises(ValueError, match='no prediction to report on'):
        collect([], PredictionReport())
    alone = Pair(IMAGE, TRUTH, DataSample(), 'a.jpg')
    with pytest.raises(ValueError, match=r"nothing to compare for a.jpg: .*'boxes', 'labels'"):
        PredictionReport().add(alone)


def test_predictions_come_back_to_the_original_image():
    matrix = np.diag([0.5, 0.5, 1])  # the network saw half the size
    meta = {'ori_shape': (40, 60), 'img_shape': (20, 30), 'matrix': matrix}
    small = boxes([5, 5, 10, 10], labels=[0], scores=[0.9], **meta)
    pair = in_original_pixels(small, small, 'a', IMAGE, np.zeros((20, 30, 3), np.uint8))
    assert pair.image is IMAGE
    assert pair.prediction.boxes.tolist() == [[10, 10, 20, 20]]
    # Without the original, over the network's input and in its pixels.
    other = in_original_pixels(small, small, 'a', None, np.zeros((20, 30, 3), np.uint8))
    assert other.image.shape == (20, 30, 3)
    assert other.truth.boxes.tolist() == [[5, 5, 10, 10]]


def test_an_untouched_map_is_the_truth_where_the_pipeline_kept_one():
    kept = torch.zeros(40, 60, dtype=torch.int64)
    kept[0, 0] = 7
    meta = {'ori_shape': (40, 60), 'matrix': np.diag([0.5, 0.5, 1])}
    truth = DataSample(meta=meta, semantic_map=torch.zeros(20, 30).long(),
                       extra={'original_map': kept})
    pair = in_original_pixels(DataSample(meta=meta, semantic_map=torch.zeros(20, 30).long()), truth,
                              'a', IMAGE)
    assert pair.truth.semantic_map[0, 0] == 7
    assert pair.prediction.semantic_map.shape == (40, 60)


@pytest.fixture
def dump(tmp_path):
    (tmp_path / 'old').mkdir()
    rows = []
    for name in ('b.png', 'a.png'):
        path = tmp_path / 'old' / name
        cv2.imwrite(str(path), IMAGE)
        meta = {'img_path': str(path), 'img_id': name, 'ori_shape': (40, 60)}
        rows.append({'prediction': plain_sample(boxes([0, 0, 9, 9], labels=[0], scores=[0.9])),
                     'sample': plain_sample(boxes([0, 0, 9, 9], labels=[0], **meta))})
    rows[0]['prediction']['meta'] = rows[0]['sample']['meta']
    rows[1]['prediction']['meta'] = rows[1]['sample']['meta']
    write(tmp_path / 'dump.pt', rows, {'classes': ['cat']})
    return tmp_path / 'dump.pt'


def test_a_dump_finds_its_images_where_they_are_or_in_a_folder(dump, tmp_path):
    found, meta = dumped_pairs(dump)
    assert [(p.name, p.image.shape) for p in found] == [('b.png', (40, 60, 3)),
                                                        ('a.png', (40, 60, 3))]
    assert meta['classes'] == ['cat']
    (tmp_path / 'old').rename(tmp_path / 'new')
    moved, _ = dumped_pairs(dump, tmp_path / 'new')
    assert all(p.image is not None for p in moved)
    lost, _ = dumped_pairs(dump)
    report = collect(lost, PredictionReport(limit=5, options=ReportOptions(image_size=32)))
    assert report.notes() == ['2 of 2 images could not be read and are grey; --images names the '
                              'folder they are in']
    assert report.total == report.num_right == 2


class Scenes(torch.utils.data.Dataset):
    """Item i is grey with one object of class i."""

    metainfo = {'classes': ('cat', 'dog', 'cow')}  # noqa: RUF012

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image = torch.full((3, 64, 64), 60 + 20 * index, dtype=torch.uint8)
        return {'inputs': image, 'sample': boxes([10, 10, 40, 40], labels=[index])}


class SayCat(torch.nn.Module):
    def forward(self, inputs, samples, mode):
        return [boxes([10, 10, 40, 40], labels=[0], scores=[0.9]) for _ in samples]


def test_the_end_of_a_detectors_training_draws_its_sheet(tmp_path, capsys):
    runner = SimpleNamespace(
        rank=0, work_dir=str(tmp_path), metrics_history=[], cfg={}, iter=3,
        val_dataloader=DataLoader(Scenes(), batch_size=2, num_workers=0),
        unwrapped_model=SayCat(), stop_request=SimpleNamespace(signal=None, name=''))
    files = print_summary(runner)
    sheet = cv2.imread(str(files['predictions']))[..., ::-1]
    assert (sheet == np.array(WRONG)).all(-1).sum() > 500  # dog and cow
    assert (sheet == np.array(RIGHT)).all(-1).sum() > 200  # cat
    assert str(tmp_path / 'predictions.png') in capsys.readouterr().out
