import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openlab.algorithms.segmentation.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusHead
from openlab.algorithms.segmentation.fcn import FCN
from openlab.algorithms.segmentation.segformer import SegFormerHead
from openlab.algorithms.segmentation.semantic import window_places
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.backbones.resnet import ResNet
from openlab.engine.tta import TestTimeAugmentation
from openlab.heads.decode_head import DecodeHead, resize_map, resize_map_thinly
from openlab.heads.fcn_head import FCNHead
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.losses.dice import DiceLoss
from openlab.structures.data_sample import DataSample

K = 3


class Pixels(nn.Module):
    """A backbone that gives the image itself, and remembers the sizes it has seen."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[-2:]))
        return (x,)


class FirstPixels(DecodeHead):
    """Logits that tell where in its input a head believes to be, so that windows differ."""

    def forward(self, feats):
        return feats[0] * torch.arange(1, feats[0].shape[-1] + 1)


def tiny(**kwargs):
    backbone = ResNet(18, base_channels=8, num_blocks=(1, 1), out_stages=(3,))
    return FCN(backbone, head=FCNHead(K, 16), **kwargs)


def test_windows_cover_every_pixel_and_the_last_ends_with_the_image():
    assert window_places(10, 4, 3) == [0, 3, 6]
    assert window_places(11, 4, 3) == [0, 3, 6, 7]
    assert window_places(4, 4, 3) == [0]


def test_overlapping_windows_are_averaged():
    model = FCN(Pixels(), head=FirstPixels(K), window=(2, 4), stride=(2, 2)).eval()
    logits = model(torch.ones(1, 3, 2, 6)).logits
    # columns 2 and 3 are seen as 3, 4 by the first window and as 1, 2 by the second
    assert logits[0, 0].tolist() == [[1, 2, 2, 3, 3, 4]] * 2
    assert model.backbone.sizes == [(2, 4)] * 2


def test_a_window_that_fits_the_image_equals_the_whole_image():
    torch.manual_seed(0)
    model, images = tiny().eval(), torch.rand(2, 3, 24, 32)
    with torch.no_grad():
        whole = model(images).logits
        model.window, model.stride = (64, 64), (32, 32)
        assert torch.equal(model(images).logits, whole)


def test_training_sees_the_whole_image_in_spite_of_a_window():
    model = FCN(Pixels(), head=FirstPixels(K), window=2)
    model.train()(torch.ones(1, 3, 4, 4))
    assert model.backbone.sizes == [(4, 4)]


@pytest.mark.parametrize(('window', 'stride', 'message'), [
    (None, 4, 'needs a window'), ((8, 8), (9, 8), 'larger than window'), ((8,), None, 'window'),
    (0, None, 'positive whole number'),
])  # fmt: skip
def test_windows_that_make_no_sense_are_refused(window, stride, message):
    with pytest.raises(ValueError, match=message):
        tiny(window=window, stride=stride)


def test_a_sample_without_a_map_is_refused_by_name():
    with pytest.raises(ValueError, match=r'sample a\.png has no semantic_map'):
        tiny().eval()(torch.rand(1, 3, 8, 8), [DataSample(meta={'img_path': 'a.png'})], mode='loss')


def test_a_class_that_the_head_does_not_have_is_refused():
    sample = DataSample(meta={'img_id': 7}, semantic_map=torch.full((8, 8), 3))
    with pytest.raises(ValueError, match=r'sample 7 holds class 3, but the head has num_classes=3'):
        tiny().eval()(torch.rand(1, 3, 8, 8), [sample], mode='loss')


def test_a_map_larger_than_the_input_is_refused():
    sample = DataSample(meta={'img_id': 7}, semantic_map=torch.zeros(8, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r'sample 7 is \(8, 9\), larger than the input \(8, 8\)'):
        tiny().eval()(torch.rand(1, 3, 8, 8), [sample], mode='loss')


def test_any_ignore_index_of_the_loss_means_the_pixels_that_are_255():
    torch.manual_seed(0)
    truth = torch.randint(K, (8, 8))
    truth[:3] = 255
    logits, samples = torch.randn(1, K, 8, 8), [DataSample(semantic_map=truth)]
    expected = nn.functional.cross_entropy(logits[:, :, 3:], truth[None, 3:])
    for index in (255, -100):
        losses = FCNHead(K, 8, loss=CrossEntropyLoss(ignore_index=index)).loss(logits, samples)
        torch.testing.assert_close(losses['loss_seg'], expected)
        assert losses['num_items'] == 5 * 8


def test_a_batch_without_a_pixel_to_learn_from_costs_nothing():
    model = tiny()
    sample = DataSample(semantic_map=torch.full((8, 8), 255))
    losses = model(torch.rand(2, 3, 8, 8), [sample] * 2, mode='loss')
    assert losses['loss_seg'] == 0
    assert losses['num_items'] == 0


def test_extra_losses_are_reported_by_their_names():
    head = FCNHead(K, 8, extra_losses={'dice': DiceLoss(loss_weight=2.0)})
    logits = torch.randn(1, K, 4, 4)
    truth = torch.randint(K, (4, 4))
    losses = head.loss(logits, [DataSample(semantic_map=truth)])
    assert list(losses) == ['loss_seg', 'loss_dice', 'num_items']
    torch.testing.assert_close(losses['loss_dice'], 2 * DiceLoss()(logits, truth[None]))
    with pytest.raises(ValueError, match="name 'seg'"):
        FCNHead(K, 8, extra_losses={'seg': DiceLoss()})


def test_deeplabv3plus_decodes_at_the_size_of_its_first_map():
    model = DeepLabV3Plus(
        MobileNetV2(width=0.25, output_stride=16, out_stages=(2, 5), last_channels=0),
        head=DeepLabV3PlusHead(K, (8, 80), channels=16, low_channels=4)).eval()  # fmt: skip
    feats = model.backbone(torch.rand(1, 3, 64, 96))
    assert [f.shape[-2:] for f in feats] == [(16, 24), (4, 6)]
    assert model.head(feats).shape == (1, K, 16, 24)
    assert model(torch.rand(1, 3, 64, 96)).logits.shape == (1, K, 64, 96)


def test_heads_say_which_maps_they_lack():
    with pytest.raises(ValueError, match='takes feature map -2 but only 1 come'):
        FCNHead(K, (64,), in_index=-2)
    with pytest.raises(ValueError, match='joins a fine and a coarse feature map'):
        DeepLabV3PlusHead(K, (64,))
    with pytest.raises(ValueError, match='SegFormerHead needs in_channels'):
        SegFormerHead(K)
    with pytest.raises(ValueError, match='got 1 feature maps but in_channels names 2'):
        SegFormerHead(K, (4, 8), channels=4)((torch.rand(1, 4, 2, 2),))


def test_views_are_merged_by_the_mean_of_their_probabilities():
    torch.manual_seed(0)
    model = FCN(ResNet(18, base_channels=8, out_stages=(3,)), head=FCNHead(3, 16)).eval()
    nn.init.normal_(model.head.out.weight, std=5.0)  # else all pixels get the same class
    images = torch.randn(2, 3, 32, 48)
    samples = [DataSample(meta={'img_shape': (32, 40)}) for _ in images]
    tta = TestTimeAugmentation(flip=True, scales=(1.0, 1.5))
    with torch.no_grad():
        found = tta.predict(model, {'inputs': images, 'samples': samples})
        mean = torch.zeros(2, 3, 32, 48)
        for size in ((32, 48), (48, 72)):
            scaled = F.interpolate(images, size, mode='bilinear')
            for turned, back in ((scaled, lambda p: p), (scaled.flip(-1), lambda p: p.flip(-1))):
                probs = back(model(turned).logits.softmax(1))
                mean += F.interpolate(probs, (32, 48), mode='bilinear') / 4
        plain = model.predict(model(images), samples)
    for sample, expected in zip(found, mean.argmax(1)):
        assert torch.equal(sample.semantic_map, expected[:, :40])
    assert any(not torch.equal(a.semantic_map, b.semantic_map) for a, b in zip(found, plain))


def test_views_without_the_images_own_size_are_refused():
    model = FCN(ResNet(18, base_channels=8, out_stages=(3,)), head=FCNHead(3, 16)).eval()
    batch = {'inputs': torch.randn(1, 3, 32, 32), 'samples': [DataSample()]}
    with pytest.raises(ValueError, match=r'tta.scales must hold 1.0 for segmentation'):
        TestTimeAugmentation(flip=False, scales=(0.5,)).predict(model, batch)


def test_losses_of_every_second_pixel_are_on_average_those_of_all():
    torch.manual_seed(0)
    model = tiny(loss_step=2, auxiliary_head=FCNHead(K, 16, dropout=0.0)).train()
    model.head.dropout.p = 0.0
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # so that one pass is like the other
    images = torch.randn(2, 3, 32, 48)
    samples = [DataSample(meta={}, semantic_map=torch.randint(3, (32, 48))) for _ in range(2)]
    samples[0].semantic_map[:2] = 255
    kept = [s.semantic_map.clone() for s in samples]
    model.loss_step = 1
    whole = model(images)
    all_losses = model.loss(whole, samples)
    model.loss_step = 2
    found, counts, weighed = set(), 0, 0.0
    while len(found) < 4:
        thin = model(images)
        if thin.place in found:
            continue
        found.add(thin.place)
        top, left = thin.place
        for actual, expected in ((thin.logits, whole.logits), (thin.auxiliary, whole.auxiliary)):
            torch.testing.assert_close(actual, expected[..., top::2, left::2])
        losses = model.loss(thin, samples)
        weighed += losses['loss_seg'] * losses['num_items']
        counts += losses['num_items']
    assert found == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert counts == all_losses['num_items']
    torch.testing.assert_close(weighed / counts, all_losses['loss_seg'])
    assert all(s.semantic_map.equal(b) for s, b in zip(samples, kept))
    assert model.eval()(images).logits.shape == (2, K, 32, 48)


@pytest.mark.parametrize(('small', 'large', 'step'), [
    ((6, 5), (13, 20), 3), ((16, 16), (8, 8), 2), ((7, 7), (7, 7), 2)])
def test_thin_resizing_is_a_part_of_resizing(small, large, step):
    torch.manual_seed(0)
    with torch.device('meta'):  # nothing of which may be kept for the tensors below
        assert resize_map_thinly(torch.zeros(1, 3, *small), large, step, (0, 0)).is_meta
    with torch.inference_mode():
        resize_map_thinly(torch.zeros(1, 3, *small), large, step, (0, 0))
    x = torch.randn(2, 3, *small, requires_grad=True)
    for place in ((0, 0), (0, 1), (1, 0)):
        whole = resize_map(x, large)[..., place[0]::step, place[1]::step]
        thin = resize_map_thinly(x, large, step, place)
        torch.testing.assert_close(thin, whole)
        weight = torch.randn_like(whole)
        torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x, retain_graph=True)
                                     for y in (thin, whole)))


def test_loss_step_is_what_the_model_is_told():
    torch.manual_seed(0)
    model = tiny(loss_step=4).train()
    samples = [DataSample(meta={}, semantic_map=torch.randint(3, (32, 32)))]
    losses = model(torch.randn(1, 3, 32, 32), samples, mode='loss')
    assert losses['num_items'] == 64
    with pytest.raises(ValueError, match='loss_step must be at least 1'):
        tiny(loss_step=0)
