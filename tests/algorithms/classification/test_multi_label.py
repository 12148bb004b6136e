"""From a list of images with several labels each to a trained classifier."""

import csv
import json

import cv2
import numpy as np
import pytest

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.config.build import build
from openlab.data.datasets.lists import CsvDataset, JsonDataset
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.engine.runner import Runner
from openlab.heads.multi_label_head import MultiLabelHead
from openlab.metrics.average_precision import MultiLabelAveragePrecision
from openlab.metrics.multi_label import MultiLabelF1
from openlab.registry import DATASETS

CLASSES = ['blue', 'green', 'red']


@pytest.fixture
def folder(tmp_path):
    """32 images: a class is there where its colour is bright."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(32):
        image = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        present = [c for c in range(3) if rng.random() < 0.5]
        for c in present:
            image[..., c] += 150
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
        rows.append({'img_path': f'{i}.png', 'label': [CLASSES[c] for c in present]})
    with (tmp_path / 'list.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['img_path', 'label'])
        writer.writerows([[r['img_path'], '|'.join(r['label'])] for r in rows])
    (tmp_path / 'list.json').write_text(json.dumps({'classes': CLASSES, 'items': rows}))
    return tmp_path


def dataset_cfg(kind, folder):
    file = 'list.csv' if kind is CsvDataset else 'list.json'
    return {'type': kind, 'ann_file': file, 'data_root': str(folder), 'multi_label': True,
            'classes': CLASSES, 'pipeline': [{'type': LoadImage}, {'type': PackInputs}]}


def test_csv_and_json_lists_give_the_same_several_labels(folder):
    first, second = (build(dataset_cfg(k, folder), DATASETS) for k in (CsvDataset, JsonDataset))
    rows = [first[i]['sample'].label_probs.tolist() for i in range(32)]
    assert rows == [second[i]['sample'].label_probs.tolist() for i in range(32)]
    assert [sum(r) for r in rows].count(0) > 0  # images without any label are items too
    assert [list(r) for r in first.labels()] == [[i for i, v in enumerate(r) if v] for r in rows]


def test_a_run_learns_several_labels_of_an_image(folder):
    loader = {'batch_size': 8, 'num_workers': 0, 'dataset': dataset_cfg(JsonDataset, folder)}
    runner = Runner.from_config({
        'work_dir': str(folder / 'run'), 'loggers': [], 'randomness': {'seed': 0},
        'model': {'type': ImageClassifier,
                  'preprocessor': {'type': 'ImagePreprocessor', 'mean': [128.0] * 3,
                                   'std': [64.0] * 3},
                  'backbone': {'type': ResNet, 'block': 'basic', 'num_blocks': (1, 1),
                               'base_channels': 8, 'stem': 'conv3', 'out_stages': (3,)},
                  'head': {'type': MultiLabelHead, 'num_classes': 3}},
        'train_dataloader': loader, 'val_dataloader': loader,
        'train_cfg': {'max_epochs': 12, 'val_begin': 12},
        'optim_wrapper': {'optimizer': {'type': 'Adam', 'lr': 0.01}},
        'val_evaluator': [{'type': MultiLabelAveragePrecision, 'per_class': True},
                          {'type': MultiLabelF1}],
        'default_hooks': {'checkpoint': None, 'run_folder': None}})
    runner.train()
    assert runner.last_metrics['multilabel/mAP'] > 0.98
    assert runner.last_metrics['multilabel/AP_green'] > 0.98
    assert runner.last_metrics['multilabel/OF1'] > 0.9
