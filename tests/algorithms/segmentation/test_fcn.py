import pytest
import torch
from torch.nn import functional as F
from torchvision.models.segmentation import fcn_resnet50

from openlab.algorithms.segmentation.fcn import FCN
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
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=K, aux_loss=True)
    shake(theirs)
    ours = FCN(
        ResNet(50, output_stride=8, out_stages=(4, 5)),
        head=FCNHead(K, 2048), auxiliary_head=FCNHead(K, 1024, in_index=-2))  # fmt: skip
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
    assert outputs.auxiliary is None


def test_predictions_are_torchvisions_likeliest_classes_without_the_padding(pair):
    ours, theirs = pair
    images, samples, _ = make_batch(K)
    with torch.no_grad():
        predictions = ours.eval()(images, samples, mode='predict')
        expected = theirs.eval()(images)['out'].argmax(1)
    assert torch.equal(predictions[0].semantic_map, expected[0])
    height, width = samples[1].meta['img_shape']
    assert predictions[1].semantic_map.shape == (height, width) != images.shape[-2:]
    assert torch.equal(predictions[1].semantic_map, expected[1, :height, :width])


def test_logits_are_enlarged_to_an_input_of_any_size():
    model = FCN(ResNet(18, base_channels=8), head=FCNHead(K, 64)).eval()
    with torch.no_grad():
        logits = model(torch.rand(1, 3, 45, 70)).logits
        coarse = model.head(model.backbone(torch.rand(1, 3, 45, 70)))
    assert logits.shape == (1, K, 45, 70)
    assert coarse.shape == (1, K, 2, 3)
    assert F.interpolate(coarse, (45, 70)).shape == logits.shape
