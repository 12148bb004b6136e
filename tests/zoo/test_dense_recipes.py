"""Detectors and segmentors of the zoo see an image as their own library does."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import get_model

from openlab.apis.inference import Inferencer
from openlab.zoo.index import entry
from openlab.zoo.recipe import classes_of, config_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def photo(request, tmp_path_factory):
    """Coloured blobs of the given height and width, as a file without loss and as RGB."""
    height, width = request.param
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8), (width, height))
    file = tmp_path_factory.mktemp('photo') / 'photo.png'
    cv2.imwrite(str(file), image)
    return file, torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)


def judge_of(name, peer):
    model = entry(name)
    return Inferencer(config_of(model), peer.state_dict(), classes=classes_of(model))


# Fresh weights score all anchors about alike: what is kept hangs on the last digit, so that this
# image has the size which resizing would give it.
@pytest.mark.parametrize('photo', [(800, 864)], indirect=True)
def test_a_detector_finds_the_boxes_and_names_that_torchvision_finds(photo):
    file, image = photo
    torch.manual_seed(0)
    peer = get_model('fasterrcnn_resnet50_fpn', weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        peer.roi_heads.box_predictor.cls_score.weight *= 20
        peer.roi_heads.box_predictor.bbox_pred.weight *= 20
        (expected,) = peer([image / 255])
    name = 'torchvision/fasterrcnn_resnet50_fpn.COCO_V1'
    (found,) = judge_of(name, peer)([file])
    assert len(found.boxes) == len(expected['boxes']) > 5
    torch.testing.assert_close(found.scores, expected['scores'], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected['boxes'], rtol=1e-3, atol=0.05)
    names = ['__background__', *classes_of(entry(name))]
    assert len(names) == 91 and names[1] == 'person'
    assert found.meta['class_names'] == [names[i] for i in expected['labels']]


@pytest.mark.parametrize('photo', [(150, 200)], indirect=True)
def test_a_segmentor_gives_each_pixel_the_class_that_torchvision_gives_it(photo):
    file, image = photo
    torch.manual_seed(0)
    peer = get_model('fcn_resnet50', weights=None, weights_backbone=None, aux_loss=True).eval()
    with torch.no_grad():
        peer.classifier[4].weight *= 20
        small = cv2.resize(image.permute(1, 2, 0).numpy(), (693, 520))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = ((torch.from_numpy(small) / 255 - mean) / std).permute(2, 0, 1)
        expected = peer(pixels[None])['out'].argmax(1)[0]
    judge = judge_of('torchvision/fcn_resnet50.COCO_WITH_VOC_LABELS_V1', peer)
    (found,) = judge([file])
    assert found.semantic_map.shape == (150, 200) and expected.unique().numel() > 1
    whole = torch.nn.functional.interpolate(expected[None, None].float(), (150, 200))[0, 0]
    assert (found.semantic_map == whole).float().mean() > 0.97
    assert judge.classes[15] == 'person'
