import contextlib
import io
import json
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from openlab.metrics.coco import CocoMetric
from openlab.structures.data_sample import DataSample

CLASSES = ('cell', 'never there', 'disc', 'never found')
CATEGORY_IDS = (3, 7, 8, 90)
H, W = 120, 160


def random_pairs(rng, num_images=12, empty_truth=(), empty_found=(), crowd=0.1):
    """Predictions that are often near a true object, in rough order of their scores."""
    predictions, samples = [], []
    for image_id in range(num_images):
        count = 0 if image_id in empty_truth else int(rng.integers(1, 9))
        boxes = random_boxes(rng, count)
        labels = rng.choice([0, 2, 3], count)
        masks = np.stack([ellipse(box) for box in boxes]) if count else np.zeros((0, H, W), bool)
        samples.append(DataSample(
            meta={'img_id': 100 - image_id, 'ori_shape': (H, W)},
            boxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels),
            masks=torch.from_numpy(masks), is_crowd=torch.from_numpy(rng.random(count) < crowd)))
        near = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        found = np.concatenate([near, near[:2] + 2, random_boxes(rng, 3)])
        found = np.concatenate([np.minimum(found[:, :2], found[:, 2:] - 1), found[:, 2:]], axis=1)
        found = found.clip(0, (W, H, W, H)).astype(np.float32)
        if image_id in empty_found:
            found = found[:0]
        guesses = np.concatenate([labels, labels[:2], rng.choice([0, 1, 2], 3)])[:len(found)]
        guesses[guesses == 3] = 0
        # two digits: many scores are equal
        scores = rng.random(len(found)).round(2).astype(np.float32)
        shapes = np.stack([ellipse(b) for b in found]) if len(found) else np.zeros((0, H, W), bool)
        predictions.append(DataSample(
            meta=samples[-1].meta, boxes=torch.from_numpy(found),
            labels=torch.from_numpy(guesses.astype(np.int64)), scores=torch.from_numpy(scores),
            masks=torch.from_numpy(shapes)))
    return predictions, samples


def random_boxes(rng, count):
    size = np.exp(rng.uniform(np.log(6), np.log(115), (count, 2)))
    start = rng.random((count, 2)) * (np.array([W, H]) - size).clip(0)
    return np.concatenate([start, start + size], axis=1).clip(0, (W, H, W, H)).astype(np.float32)


def ellipse(box):
    y, x = np.mgrid[:H, :W] + 0.5
    x0, y0, x1, y1 = box
    rx, ry = max(x1 - x0, 1e-3) / 2, max(y1 - y0, 1e-3) / 2
    return ((x - x0 - rx) / rx) ** 2 + ((y - y0 - ry) / ry) ** 2 <= 1


def truth_file(samples, tmp_path):
    """The samples as a COCO file, with areas of the masks as COCO has them."""
    rows, images = [], []
    for sample in samples:
        images.append({'id': sample.meta['img_id'], 'height': H, 'width': W})
        for box, label, mask, crowd in zip(
                sample.boxes.tolist(), sample.labels.tolist(), sample.masks.numpy(),
                sample.is_crowd.tolist()):
            rle = reference_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            x0, y0, x1, y1 = box
            rows.append({
                'id': len(rows) + 1, 'image_id': sample.meta['img_id'], 'iscrowd': int(crowd),
                'category_id': CATEGORY_IDS[label], 'bbox': [x0, y0, x1 - x0, y1 - y0],
                'area': float(mask.sum()),
                'segmentation': {'size': [H, W], 'counts': rle['counts'].decode()}})
    path = tmp_path / 'truth.json'
    categories = [{'id': i, 'name': n} for i, n in zip(CATEGORY_IDS, CLASSES)]
    path.write_text(json.dumps(
        {'info': {}, 'images': images, 'annotations': rows, 'categories': categories}))
    return path


def reference(truth, rows, iou_type):
    """What pycocotools prints, and the AP of each class."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        found = coco.loadRes(rows) if rows else COCO()
        if not rows:
            found.dataset = {**coco.dataset, 'annotations': []}
            found.createIndex()
        run = COCOeval(coco, found, iou_type)
        run.evaluate()
        run.accumulate()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run.summarize()
    precision = run.eval['precision'][:, :, :, 0, -1]
    per_class = [p[p > -1].mean() if (p > -1).any() else -1.0 for p in np.moveaxis(precision, 2, 0)]
    return printed.getvalue().rstrip('\n'), per_class, run.stats


def make_metric(**kwargs):
    metric = CocoMetric(kinds=('box', 'mask'), per_class=True, **kwargs)
    metric.dataset_meta = {'classes': CLASSES, 'category_ids': CATEGORY_IDS}
    return metric


CASES = {
    'usual': {},
    'no crowd': {'crowd': 0.0},
    'all crowd': {'crowd': 1.0},
    'some images without truth': {'empty_truth': (0, 3, 4)},
    'some images without detections': {'empty_found': (1, 3)},
    'no truth at all': {'empty_truth': range(12)},
    'no detections at all': {'empty_found': range(12)},
    'nothing at all': {'empty_found': range(12), 'empty_truth': range(12)},
}


@pytest.mark.parametrize('from_file', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_table_and_classes_equal_pycocotools(case, from_file, tmp_path):
    predictions, samples = random_pairs(np.random.default_rng(0), **CASES[case])
    truth = truth_file(samples, tmp_path)
    metric = make_metric(ann_file=str(truth) if from_file else None)
    for i in range(0, 12, 5):
        metric.update(predictions[i:i + 5], samples[i:i + 5])
    numbers = metric.compute()
    for kind, iou_type in (('box', 'bbox'), ('mask', 'segm')):
        table, per_class, stats = reference(truth, metric.detections(kind), iou_type)
        result = metric.results[kind]
        assert result.table == table
        assert list(result.numbers.values()) == pytest.approx(stats, abs=1e-9)
        assert list(result.per_class) == list(CLASSES)
        assert list(result.per_class.values()) == pytest.approx(per_class, abs=1e-9)
        assert numbers[f'{kind}_AP50'] == result.numbers['AP50']
        assert numbers[f'{kind}_AP_never there'] == -1
    if case == 'usual':
        assert 0.1 < numbers['box_AP'] < numbers['box_AP50'] < 0.9


def test_a_perfect_prediction_has_precision_one():
    _, samples = random_pairs(np.random.default_rng(1), crowd=0.0)
    metric = make_metric()
    metric.update([perfect(s) for s in samples], samples)
    numbers = metric.compute()
    assert numbers['box_AP'] == numbers['mask_AP'] == pytest.approx(1)
    assert numbers['box_AP_never there'] == -1


def perfect(sample):
    return DataSample(
        meta=sample.meta, boxes=sample.boxes, labels=sample.labels, masks=sample.masks,
        scores=torch.ones(len(sample.labels)))


def test_processes_together_give_what_one_gives():
    predictions, samples = random_pairs(np.random.default_rng(2))
    alone = make_metric()
    alone.update(predictions, samples)
    parts = [make_metric(), make_metric()]
    for rank, part in enumerate(parts):
        part.update(predictions[rank::2], samples[rank::2])
    parts[1].update(predictions[:1], samples[:1])  # an item repeated to fill up a process
    states = [pickle.loads(pickle.dumps(part.state())) for part in parts]
    parts[0].merge(states)
    assert parts[0].compute() == alone.compute()


def test_predictions_are_brought_back_to_the_original_image():
    """The network saw the image at half size, mirrored."""
    matrix = np.array([[-0.5, 0, W / 2], [0, 0.5, 0], [0, 0, 1]])
    meta = {'img_id': 1, 'ori_shape': (H, W), 'img_shape': (H // 2, W // 2), 'matrix': matrix}
    small = torch.zeros(1, H // 2, W // 2, dtype=torch.bool)
    small[0, 10:30, 50:70] = True
    sample = DataSample(
        meta=meta, boxes=torch.tensor([[50.0, 10, 70, 30]]), labels=torch.tensor([2]), masks=small)
    metric = make_metric()
    metric.update([perfect(sample)], [sample])
    row = metric.detections('box')[0]
    assert row == {'image_id': 1, 'category_id': 8, 'score': 1.0, 'bbox': [20, 20, 40, 40]}
    expected = np.zeros((H, W), bool)
    expected[20:60, 20:60] = True
    decoded = reference_masks.decode(metric.detections('mask')[0]['segmentation'])
    assert (decoded == expected).all()


def test_more_than_a_hundred_detections_of_a_class_are_cut_as_coco_cuts_them(tmp_path):
    rng = np.random.default_rng(3)
    _, samples = random_pairs(rng, num_images=2)
    predictions = []
    for sample in samples:
        boxes = random_boxes(rng, 150)
        boxes[:len(sample.boxes)] = sample.boxes
        predictions.append(DataSample(
            meta=sample.meta, boxes=torch.from_numpy(boxes),
            labels=torch.full((150,), 0), scores=torch.from_numpy(rng.random(150)).float(),
            masks=torch.from_numpy(np.stack([ellipse(b) for b in boxes]))))
    metric = make_metric()
    metric.update(predictions, samples)
    rows = [
        {'image_id': p.meta['img_id'], 'category_id': 3, 'score': s,
         'bbox': [x0, y0, x1 - x0, y1 - y0]}
        for p in predictions for s, (x0, y0, x1, y1) in zip(p.scores.tolist(), p.boxes.tolist())]
    metric.compute()
    assert len(metric.detections('box')) == 200
    assert metric.results['box'].table == reference(truth_file(samples, tmp_path), rows, 'bbox')[0]


def test_detections_are_written_for_coco(tmp_path):
    predictions, samples = random_pairs(np.random.default_rng(4), num_images=2)
    metric = make_metric(out_prefix=str(tmp_path / 'new' / 'digits'))
    metric.update(predictions, samples)
    metric.compute()
    boxes = json.loads((tmp_path / 'new' / 'digits.bbox.json').read_text())
    masks = json.loads((tmp_path / 'new' / 'digits.segm.json').read_text())
    assert boxes == metric.detections('box')
    assert masks == metric.detections('mask')
    assert {row['category_id'] for row in boxes} <= set(CATEGORY_IDS)


def test_images_may_be_named_by_text():
    predictions, samples = random_pairs(np.random.default_rng(5), num_images=3, crowd=0.0)
    for p, s in zip(predictions, samples):
        p.meta = s.meta = {**s.meta, 'img_id': f'img_{s.meta["img_id"]}'}
    metric = make_metric()
    metric.update([perfect(s) for s in samples], samples)
    assert metric.compute()['box_AP'] == pytest.approx(1)
    assert metric.detections()[0]['image_id'] == 'img_100'


def test_areas_of_the_files_decide_about_sizes():
    sample = DataSample(
        meta={'img_id': 1, 'ori_shape': (H, W)}, boxes=torch.tensor([[0.0, 0, 50, 50]]),
        labels=torch.tensor([0]), extra={'areas': torch.tensor([100.0])})
    metric = CocoMetric()
    metric.dataset_meta = {'classes': CLASSES}
    prediction = DataSample(
        meta=sample.meta, boxes=sample.boxes, labels=sample.labels, scores=torch.ones(1))
    metric.update([prediction], [sample])
    numbers = metric.compute()
    assert (numbers['box_AP_small'], numbers['box_AP_medium']) == (pytest.approx(1), -1)


def test_mistakes_are_named(tmp_path):
    predictions, samples = random_pairs(np.random.default_rng(6), num_images=1)
    with pytest.raises(ValueError, match=r"some of 'box' and 'mask', got \['segm'\]"):
        CocoMetric(kinds=('segm',))
    with pytest.raises(ValueError, match='has seen no image'):
        CocoMetric().compute()
    with pytest.raises(ValueError, match='has no boxes, scores or labels'):
        CocoMetric().update([DataSample(meta=samples[0].meta)], samples)
    samples[0].masks = None
    with pytest.raises(ValueError, match='image 100 has no masks'):
        make_metric().update(predictions, samples)
    metric = CocoMetric()
    metric.dataset_meta = {'classes': ('only',)}
    metric.update(predictions, samples)
    with pytest.raises(ValueError, match='of image 100 is not below the number of classes, 1'):
        metric.compute()
    wrong = tmp_path / 'truth.json'
    wrong.write_text(json.dumps({'images': [{'id': 5}], 'annotations': [], 'categories': []}))
    metric = make_metric(ann_file=str(wrong))
    metric.update(random_pairs(np.random.default_rng(6), num_images=1)[0], samples)
    with pytest.raises(ValueError, match=r'image 100 is not in .*is it the file of this split'):
        metric.compute()
