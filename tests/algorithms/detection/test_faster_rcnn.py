import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList

from openlab.algorithms.detection.faster_rcnn import (
    BoxHead,
    BoxOutputs,
    FasterRCNN,
    ProposalLimits,
    RPNHead,
    RPNOutputs,
)
from openlab.backbones.resnet import ResNet
from openlab.engine.loading import LoadError, load_weights
from openlab.layers.roi import to_rois
from openlab.necks.fpn import FPN
from openlab.structures.data_sample import DataSample
from tests.algorithms.detection.parity import (
    FROZEN,
    first_conv,
    in_double,
    losses_of,
    make_batch,
    relative_error,
    shake,
)

K = 5
NAMES = {
    'loss_rpn_cls': 'loss_objectness', 'loss_rpn_box': 'loss_rpn_box_reg',
    'loss_cls': 'loss_classifier', 'loss_box': 'loss_box_reg',
}  # fmt: skip


def make_ours():
    return FasterRCNN(
        ResNet(50, norm=FROZEN, out_stages=(2, 3, 4, 5)),
        FPN((256, 512, 1024, 2048), extra='pool'),
        RPNHead(256), BoxHead(K, 256),
    ).eval()  # fmt: skip


def make_second():
    """The second form, which torchvision calls v2: norms everywhere, convolutions on regions."""
    norm = {'type': nn.BatchNorm2d}
    return FasterRCNN(
        ResNet(50, norm=norm, out_stages=(2, 3, 4, 5)),
        FPN((256, 512, 1024, 2048), extra='pool', norm=norm),
        RPNHead(256, num_convs=2), BoxHead(K, 256, num_convs=4, num_hidden=1, norm=norm),
    ).eval()  # fmt: skip


@pytest.fixture(scope='module', params=['first', 'second'])
def pair(request):
    torch.manual_seed(0)
    is_first = request.param == 'first'
    theirs = (fasterrcnn_resnet50_fpn if is_first else fasterrcnn_resnet50_fpn_v2)(
        weights=None, weights_backbone=None, num_classes=K + 1, min_size=96, max_size=160,
        image_mean=[0, 0, 0], image_std=[1, 1, 1], rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=200, rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=100,
    ).eval()  # fmt: skip
    theirs.transform._skip_resize = True  # it would draw a size, and so shift all further draws
    shake(theirs)
    ours = make_ours() if is_first else make_second()
    ours.rpn_head.train_limits = ProposalLimits(candidates=300, proposals=200)
    ours.rpn_head.test_limits = ProposalLimits(candidates=200, proposals=100)
    assert load_weights(ours, theirs.state_dict()).complete
    return ours, theirs


@pytest.fixture(scope='module')
def batch():
    images, samples, targets = make_batch()
    for target in targets:
        target['labels'] = target['labels'] + 1  # 0 is the background
    return images, samples, targets


def test_raw_outputs_of_both_stages_equal_torchvision(pair, batch):
    ours, theirs = pair
    with torch.no_grad():
        outputs = ours(batch[0])
        feats = theirs.backbone(batch[0])
        logits, deltas = theirs.rpn.head(list(feats.values()))
        flat = [x.permute(0, 2, 3, 1).reshape(2, -1) for x in logits]
        assert relative_error(outputs.rpn.logits, torch.cat(flat, 1)) <= 1e-4
        flat = [x.permute(0, 2, 3, 1).reshape(2, -1, 4) for x in deltas]
        assert relative_error(outputs.rpn.deltas, torch.cat(flat, 1)) <= 1e-4

        sizes = [(96, 128)] * 2
        pooled = theirs.roi_heads.box_roi_pool(feats, list(outputs.proposals.boxes), sizes)
        hidden = theirs.roi_heads.box_head(pooled)
        scores, offsets = theirs.roi_heads.box_predictor(hidden)
    assert relative_error(outputs.box.logits, torch.cat([scores[:, 1:], scores[:, :1]], 1)) <= 1e-4
    assert relative_error(outputs.box.deltas, offsets.view(-1, K + 1, 4)[:, 1:]) <= 1e-4


def test_proposals_equal_torchvision(pair, batch):
    ours, theirs = pair
    with torch.no_grad():
        outputs = ours.outputs(batch[0])
        proposals = ours.rpn_head.predict(
            outputs.rpn, [(96, 128), (90, 100)], ours.rpn_head.test_limits)
        # the same maps for both: moving a box multiplies what little the backbones differ in
        feats = {str(level): x for level, x in enumerate(outputs.feats)}
        expected, _ = theirs.rpn(ImageList(batch[0], [(96, 128), (90, 100)]), feats)
    for mine, other in zip(proposals.of_images(), expected):
        assert len(mine) == len(other) > 10
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


def seeded_losses(pair, batch):
    """Both draw anchors and proposals in the same order, so equal seeds make equal draws."""
    ours, theirs = pair
    images, samples, targets = batch
    torch.manual_seed(7)
    losses = ours(images, samples, mode='loss')
    torch.manual_seed(7)
    return losses, losses_of(theirs, images, targets)


def test_losses_equal_torchvision(pair, batch):
    losses, expected = seeded_losses(pair, batch)
    assert set(losses) == set(NAMES)
    for mine, other in NAMES.items():
        assert losses[mine].item() == pytest.approx(expected[other].item(), rel=1e-4), mine
        assert losses[mine] > 0


def test_gradients_equal_torchvision(pair, batch):
    pair, batch = in_double(pair, batch)
    ours, theirs = pair
    ours.zero_grad()
    theirs.zero_grad()
    losses, expected = seeded_losses(pair, batch)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, other in (
        (ours.rpn_head.convs[0], theirs.rpn.head.conv[0][0]),
        (ours.box_head.hidden[0], next(
            m for m in theirs.roi_heads.box_head.modules() if isinstance(m, nn.Linear))),
        (first_conv(ours.neck.smooth[0]), theirs.backbone.fpn.layer_blocks[0][0]),
        (ours.backbone.stages[1][0].conv1.conv, theirs.backbone.body.layer2[0].conv1),
    ):
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-6
    background_last = torch.roll(theirs.roi_heads.box_predictor.cls_score.weight.grad, -1, 0)
    assert relative_error(ours.box_head.cls_out.weight.grad, background_last) <= 1e-6


def test_detections_equal_torchvision(pair, batch):
    ours, theirs = pair
    images, samples, _ = batch
    with torch.no_grad():
        predictions = ours(images, samples, mode='predict')
        expected = theirs(list(images))
    for mine, other in zip(predictions, expected):
        assert len(mine.boxes) == len(other['boxes']) > 10
        torch.testing.assert_close(mine.scores, other['scores'], rtol=5e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes, other['boxes'], rtol=1e-3, atol=1e-2)
        assert torch.equal(mine.labels, other['labels'] - 1)


@pytest.mark.parametrize('pair', ['first'], indirect=True)
def test_names_in_older_weight_files_are_known(pair):
    ours, theirs = pair
    old = {}
    for name, tensor in theirs.state_dict().items():
        name = re.sub(r'(inner_blocks\.\d|layer_blocks\.\d)\.0\.', r'\1.', name)
        old[name.replace('rpn.head.conv.0.0.', 'rpn.head.conv.')] = tensor
    other = make_ours()
    assert load_weights(other, old).complete
    assert torch.equal(other.rpn_head.convs[0].weight, ours.rpn_head.convs[0].weight)


def test_weights_of_a_classifier_fill_the_backbone():
    classifier = resnet50(weights=None).state_dict()
    ours = make_ours()
    with pytest.raises(LoadError):
        load_weights(ours, classifier)
    report = load_weights(ours, classifier, allow_missing=[r'^neck\.', r'^\w+_head\.'])
    assert not [name for name in report.missing if name.startswith('backbone.')]
    last = ours.backbone.stages[3][2].conv3
    assert torch.equal(last.conv.weight, classifier['layer4.2.conv3.weight'])
    assert torch.equal(last.norm.running_var, classifier['layer4.2.bn3.running_var'])


def test_padded_images_keep_boxes_inside(pair, batch):
    ours, _ = pair
    samples = [DataSample(meta={'img_id': i, 'img_shape': (70, 90)}) for i in range(2)]
    with torch.no_grad():
        predictions = ours(batch[0], samples, mode='predict')
    for prediction, sample in zip(predictions, samples):
        assert prediction.meta == sample.meta
        assert prediction.boxes[:, 2].max() <= 90 and prediction.boxes[:, 3].max() <= 70


def test_a_better_box_suppresses_an_overlapping_one_of_its_level_only():
    boxes = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 38], [60, 60, 90, 90], [0, 0, 40, 40]])
    outputs = RPNOutputs(
        torch.tensor([[1.0, 2.0, 0.0, 0.5]]), torch.zeros(1, 4, 4), boxes, (3, 1), (100, 100))
    head = RPNHead(8)
    proposals = head.predict(outputs, [(100, 80)], ProposalLimits(candidates=9, proposals=9))
    assert proposals.boxes.shape == (1, 4, 4)
    expected = torch.tensor([[0.0, 0, 40, 38], [0, 0, 40, 40], [60, 60, 80, 90]])
    assert torch.equal(proposals.of_images()[0], expected)


def test_true_boxes_join_the_proposals_and_crowds_do_not():
    head = BoxHead(3, 8, hidden=4)
    sample = DataSample(
        boxes=torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), labels=torch.tensor([2, 1]),
        is_crowd=torch.tensor([False, True]))
    targets = head.draw([torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60]])], [sample])[0]
    assert targets.boxes.tolist() == [[0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert targets.labels.tolist() == [2, 3, 2]
    assert targets.matched.tolist() == [0, -1, 0]


def test_every_class_moves_a_box_in_its_own_way():
    head = BoxHead(2, 8, hidden=4)
    head.limits = replace(head.limits, score=0.2)
    deltas = torch.zeros(1, 2, 4)
    deltas[0, 1, 0] = 10 * 0.5  # half a width to the right
    outputs = BoxOutputs(torch.tensor([[1.0, 1.0, 0.0]]), deltas)
    box = torch.tensor([[10.0, 10, 30, 30]])
    found = head.predict(outputs, box, DataSample(), (100, 100))
    boxes = dict(zip(found.labels.tolist(), found.boxes.tolist()))
    assert boxes == {0: [10, 10, 30, 30], 1: [20, 10, 40, 30]}


def test_a_sample_without_boxes_is_refused(pair):
    with pytest.raises(ValueError, match=r'sample a\.png has no boxes'):
        pair[0](torch.rand(1, 3, 64, 64), [DataSample(meta={'img_path': 'a.png'})], mode='loss')


def test_images_without_proposals_give_no_detections(pair):
    ours, _ = pair
    rois = to_rois([torch.zeros(0, 4), torch.zeros(0, 4)])
    assert rois.shape == (0, 5)
    feats = [torch.rand(2, 256, 2**(6 - i), 2**(6 - i)) for i in range(5)]
    with torch.no_grad():
        outputs = ours.box_head(feats, rois, (256, 256))
    found = ours.box_head.predict(outputs, torch.zeros(0, 4), DataSample(), (256, 256))
    assert found.boxes.shape == (0, 4) and len(found.scores) == 0
