from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from openlab.algorithms.detection.retinanet import RetinaHead, RetinaNet
from openlab.backbones.resnet import ResNet
from openlab.engine.loading import load_weights
from openlab.necks.fpn import FPN
from openlab.structures.data_sample import DataSample
from openlab.targets.anchors import AnchorGenerator
from tests.algorithms.detection.parity import (
    FROZEN,
    losses_of,
    make_batch,
    relative_error,
    shake,
)

K = 5
# torchvision cuts the sizes to whole pixels, unlike the paper
WHOLE_SIZES = [[int(size * 2 ** (i / 3)) for i in range(3)] for size in (32, 64, 128, 256, 512)]


@pytest.fixture(scope='module', params=['first', 'second'])
def pair(request):
    torch.manual_seed(0)
    is_first = request.param == 'first'
    theirs = (retinanet_resnet50_fpn if is_first else retinanet_resnet50_fpn_v2)(
        weights=None, weights_backbone=None, num_classes=K, min_size=96, max_size=160,
        detections_per_img=100, image_mean=[0, 0, 0], image_std=[1, 1, 1],
    ).eval()  # fmt: skip
    shake(theirs)
    ours = RetinaNet(
        ResNet(50, norm=FROZEN if is_first else {'type': nn.BatchNorm2d}, out_stages=(3, 4, 5)),
        FPN((512, 1024, 2048), extra='p6p7', extra_from='p5' if is_first else 'c5'),
        RetinaHead(K, 256, norm_groups=None if is_first else 32,
                   box_loss='l1' if is_first else 'giou',
                   anchors=AnchorGenerator(WHOLE_SIZES)),
    ).eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.complete
    return ours, theirs


@pytest.fixture(scope='module')
def batch():
    return make_batch()


def test_raw_outputs_equal_torchvision(pair, batch):
    ours, theirs = pair
    with torch.no_grad():
        outputs = ours(batch[0])
        feats = list(theirs.backbone(batch[0]).values())
        expected = theirs.head(feats)
    for actual, name in ((outputs.logits, 'cls_logits'), (outputs.deltas, 'bbox_regression')):
        assert relative_error(actual, expected[name]) <= 1e-4


def test_losses_equal_torchvision(pair, batch):
    ours, theirs = pair
    images, samples, targets = batch
    losses = ours(images, samples, mode='loss')
    expected = losses_of(theirs, images, targets)
    assert losses['loss_cls'].item() == pytest.approx(expected['classification'].item(), rel=1e-4)
    assert losses['loss_box'].item() == pytest.approx(expected['bbox_regression'].item(), rel=1e-4)


def test_gradients_equal_torchvision(pair, batch):
    ours, theirs = pair
    images, samples, targets = batch
    ours.zero_grad()
    sum(ours(images, samples, mode='loss').values()).backward()
    theirs.zero_grad()
    sum(losses_of(theirs, images, targets).values()).backward()
    for mine, other in (
        (ours.head.cls_tower[0][0], theirs.head.classification_head.conv[0][0]),
        (ours.neck.p6, theirs.backbone.fpn.extra_blocks.p6),
        (ours.backbone.stages[1][0].conv1.conv, theirs.backbone.body.layer2[0].conv1),
    ):
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-3


def test_detections_equal_torchvision(pair, batch):
    ours, theirs = pair
    images, samples, _ = batch
    theirs.score_thresh = 0.01
    ours.head.limits = replace(ours.head.limits, score=0.01)
    with torch.no_grad():
        predictions = ours(images, samples, mode='predict')
        expected = theirs(list(images))
    for mine, other in zip(predictions, expected):
        assert len(mine.boxes) == len(other['boxes']) > 10
        torch.testing.assert_close(mine.scores, other['scores'], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine.boxes, other['boxes'], rtol=1e-3, atol=1e-2)
        assert torch.equal(mine.labels, other['labels'])


def test_a_sample_without_boxes_is_refused(pair):
    with pytest.raises(ValueError, match=r'sample a\.png has no boxes'):
        pair[0](torch.rand(1, 3, 64, 64), [DataSample(meta={'img_path': 'a.png'})], mode='loss')
