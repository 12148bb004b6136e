import pytest
import torch
from torchvision.models.segmentation import deeplabv3_resnet50

from openlab.algorithms.segmentation.deeplabv3 import DeepLabV3, DeepLabV3Head
from openlab.backbones.resnet import ResNet
from openlab.engine.loading import load_weights
from openlab.heads.fcn_head import FCNHead
from tests.algorithms.detection.parity import shake
from tests.algorithms.segmentation.parity import (
    assert_equal_to_torchvision,
    make_batch,
    relative_error,
    without_dropout,
)

K = 5


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=K, aux_loss=True)
    shake(theirs)
    ours = DeepLabV3(
        ResNet(50, output_stride=8, out_stages=(4, 5)),
        head=DeepLabV3Head(K, 2048), auxiliary_head=FCNHead(K, 1024, in_index=-2))  # fmt: skip
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected
    return without_dropout(ours), without_dropout(theirs)


def test_main_and_auxiliary_outputs_losses_and_gradients_equal_torchvision(pair):
    assert_equal_to_torchvision(*pair, K)


def test_outputs_in_evaluation_equal_torchvision(pair):
    ours, theirs = pair
    images, _, _ = make_batch(K)
    with torch.no_grad():
        outputs, expected = ours.eval()(images), theirs.eval()(images)
    assert relative_error(outputs.logits, expected['out']) <= 1e-4
