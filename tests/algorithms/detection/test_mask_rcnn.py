import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.roi_heads import paste_masks_in_image

from openlab.algorithms.detection.faster_rcnn import BoxHead, ProposalLimits, RPNHead
from openlab.algorithms.detection.mask_rcnn import MaskHead, MaskRCNN, paste_masks
from openlab.backbones.resnet import ResNet
from openlab.engine.loading import load_weights
from openlab.necks.fpn import FPN
from openlab.structures.data_sample import DataSample
from openlab.targets.nms import DetectionLimits
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


@pytest.fixture(scope='module', params=['first', 'second'])
def pair(request):
    torch.manual_seed(0)
    is_first = request.param == 'first'
    theirs = (maskrcnn_resnet50_fpn if is_first else maskrcnn_resnet50_fpn_v2)(
        weights=None, weights_backbone=None, num_classes=K + 1, min_size=96, max_size=160,
        image_mean=[0, 0, 0], image_std=[1, 1, 1], rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=200, rpn_pre_nms_top_n_test=100, rpn_post_nms_top_n_test=50,
        box_detections_per_img=20,
    ).eval()  # fmt: skip
    theirs.transform._skip_resize = True  # it would draw a size, and so shift all further draws
    shake(theirs)
    norm = None if is_first else {'type': nn.BatchNorm2d}
    regions = {} if is_first else {'num_convs': 4, 'num_hidden': 1, 'norm': norm}
    ours = MaskRCNN(
        ResNet(50, norm=norm or FROZEN, out_stages=(2, 3, 4, 5)),
        FPN((256, 512, 1024, 2048), extra='pool', norm=norm),
        RPNHead(
            256, num_convs=1 if is_first else 2,
            train_limits=ProposalLimits(candidates=300, proposals=200),
            test_limits=ProposalLimits(candidates=100, proposals=50)),
        BoxHead(K, 256, limits=DetectionLimits(candidates=10_000, detections=20), **regions),
        MaskHead(K, 256, norm=norm),
    ).eval()  # fmt: skip
    assert load_weights(ours, theirs.state_dict()).complete
    return ours, theirs


@pytest.fixture(scope='module')
def batch():
    images, samples, targets = make_batch()
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing='ij')
    for sample, target in zip(samples, targets):
        target['labels'] = target['labels'] + 1  # 0 is the background
        sample.masks = torch.zeros(len(sample.boxes), 96, 128, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes.tolist()):
            mask[:] = (x >= x0) & (x < x1) & (y >= y0) & (y < y1) & ((x + y) % 40 < 30)
        target['masks'] = sample.masks.to(torch.uint8)
    return images, samples, targets


def seeded_losses(pair, batch):
    ours, theirs = pair
    images, samples, targets = batch
    torch.manual_seed(7)
    losses = ours(images, samples, mode='loss')
    torch.manual_seed(7)
    return losses, losses_of(theirs, images, targets)


def test_raw_masks_equal_torchvision(pair, batch):
    ours, theirs = pair
    with torch.no_grad():
        outputs = ours(batch[0])
        feats = theirs.backbone(batch[0])
        pooled = theirs.roi_heads.mask_roi_pool(
            feats, list(outputs.proposals.boxes), [(96, 128)] * 2)
        expected = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(pooled))[:, 1:]
    assert outputs.mask_logits.shape == (2 * 50, K, 28, 28)
    assert relative_error(outputs.mask_logits, expected) <= 1e-4


def test_losses_and_gradients_equal_torchvision(pair, batch):
    pair, batch = in_double(pair, batch)
    ours, theirs = pair
    ours.zero_grad()
    theirs.zero_grad()
    losses, expected = seeded_losses(pair, batch)
    assert losses['loss_mask'].item() == pytest.approx(expected['loss_mask'].item(), rel=1e-4)
    assert losses['loss_box'].item() == pytest.approx(expected['loss_box_reg'].item(), rel=1e-4)
    losses['loss_mask'].backward()
    expected['loss_mask'].backward()
    for mine, other in (
        (first_conv(ours.mask_head.convs[0]), theirs.roi_heads.mask_head[0][0]),
        (ours.mask_head.enlarge, theirs.roi_heads.mask_predictor.conv5_mask),
        (first_conv(ours.neck.smooth[0]), theirs.backbone.fpn.layer_blocks[0][0]),
    ):
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-6
    theirs_out = theirs.roi_heads.mask_predictor.mask_fcn_logits.weight.grad[1:]
    assert relative_error(ours.mask_head.mask_out.weight.grad, theirs_out) <= 1e-6


def test_detections_and_masks_equal_torchvision(pair, batch):
    ours, theirs = pair
    images, samples, _ = batch
    with torch.no_grad():
        predictions = ours(images, samples, mode='predict')
        expected = theirs(list(images))
    for mine, other in zip(predictions, expected):
        assert len(mine.boxes) == len(other['boxes']) > 5
        torch.testing.assert_close(mine.boxes, other['boxes'], rtol=1e-3, atol=1e-2)
        assert torch.equal(mine.labels, other['labels'] - 1)
        assert mine.masks.shape == (len(mine.boxes), 96, 128)
        differ = mine.masks != (other['masks'][:, 0] > 0.5)
        assert differ.float().mean() < 1e-4
        assert mine.masks.any() and not mine.masks.all()


def test_masks_are_pasted_as_torchvision_pastes_them():
    probs = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.2, 5.7, 40.1, 20.9], [-10, -4, 30, 90], [20, 20, 20.3, 20.4]])
    expected = paste_masks_in_image(probs[:, None], boxes, (50, 60))[:, 0]
    torch.testing.assert_close(paste_masks(probs, boxes, (50, 60)), expected)
    assert paste_masks(probs[:0], boxes[:0], (50, 60)).shape == (0, 50, 60)


def test_images_without_objects_give_no_mask_loss_but_keep_the_graph(pair, batch):
    ours, _ = pair
    ours.zero_grad()
    images, samples, _ = batch
    losses = ours(images[1:], samples[1:], mode='loss')
    assert losses['loss_mask'] == 0
    losses['loss_mask'].backward()
    assert not first_conv(ours.mask_head.convs[0]).weight.grad.any()


def test_crowds_are_left_out_of_masks(pair, batch):
    ours, _ = pair
    images, samples, _ = batch
    crowd = torch.tensor([False, False, True])
    with_crowd = DataSample(boxes=samples[0].boxes, labels=samples[0].labels,
                            masks=samples[0].masks, is_crowd=crowd)
    without = DataSample(boxes=samples[0].boxes[:2], labels=samples[0].labels[:2],
                         masks=samples[0].masks[:2])
    found = []
    for sample in (with_crowd, without):
        torch.manual_seed(0)
        found.append(ours(images[:1], [sample], mode='loss')['loss_mask'].item())
    assert found[0] == found[1] > 0


def test_a_sample_without_masks_is_refused(pair, batch):
    with pytest.raises(ValueError, match=r'sample a\.png has no masks'):
        sample = batch[1][0]
        bare = DataSample(meta={'img_path': 'a.png'}, boxes=sample.boxes, labels=sample.labels)
        pair[0](batch[0][:1], [bare], mode='loss')
