import math

import pytest
import torch
from torch import nn

from openlab.algorithms.selfsup.simclr import SimCLR, SimCLROutputs, contrast_views
from openlab.backbones.resnet import ResNet
from openlab.backbones.vit import VisionTransformer
from openlab.heads.projector import Projector
from openlab.structures.data_sample import DataSample
from tests.algorithms.selfsup.common import losses_of_training, samples_of, views_with_shapes


def make_ours(temperature=0.1):
    torch.manual_seed(0)
    backbone = ResNet(block='basic', num_blocks=(1, 1), base_channels=8, stem='conv3',
                      out_stages=(3,))
    return SimCLR(backbone, Projector(16, 8, in_channels=backbone.out_channels), temperature)


def slow_loss(first, second, temperature):
    """Equation 1 of the paper, pair by pair."""
    views = [*first, *second]
    count = len(first)

    def similarity(i, j):
        return torch.dot(views[i], views[j]) / (views[i].norm() * views[j].norm()) / temperature

    total = 0.0
    for i in range(2 * count):
        match = (i + count) % (2 * count)
        others = sum(similarity(i, k).exp() for k in range(2 * count) if k != i)
        total = total - (similarity(i, match).exp() / others).log()
    return total / (2 * count)


def test_loss_equals_a_value_worked_out_by_hand():
    # Two images; views of one are equal, those of different images at right angles: each view has
    # its match at cosine 1 and two others at cosine 0.
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    logits, target = contrast_views(first, 3 * first, 0.5)
    loss = nn.functional.cross_entropy(logits, target)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 2) - 2, rel=1e-5)
    assert target.tolist() == [2, 3, 0, 1]
    assert logits.diagonal().tolist() == [-math.inf] * 4


@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_loss_and_gradients_equal_a_slow_reference(temperature):
    torch.manual_seed(0)
    first, second = (torch.randn(5, 6, dtype=torch.float32, requires_grad=True) for _ in range(2))
    model = make_ours(temperature)
    loss = model.loss(SimCLROutputs(first, second), samples_of(5))['loss_contrast']
    expected = slow_loss(first, second, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(loss, (first, second))
    theirs = torch.autograd.grad(expected, (first, second))
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_share_of_right_matches_is_reported():
    views = torch.eye(4)
    losses = make_ours().loss(SimCLROutputs(views, views), samples_of(4))
    assert losses['contrast_accuracy'] == 1
    losses = make_ours().loss(SimCLROutputs(views, views.roll(1, 0)), samples_of(4))
    assert losses['contrast_accuracy'] == 0


def test_the_loss_stays_in_single_precision_under_autocast():
    views = torch.randn(4, 8)
    model = make_ours()
    expected = model.loss(SimCLROutputs(views, views + 0.1), samples_of(4))['loss_contrast']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = model.loss(SimCLROutputs(views, views + 0.1), samples_of(4))['loss_contrast']
    assert loss.equal(expected)


def test_the_projector_is_that_of_the_paper():
    layers = Projector(16, 8, in_channels=(4, 32)).layers
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in layers] == kinds
    assert [tuple(layers[i].weight.shape) for i in (0, 3)] == [(16, 32), (8, 16)]
    assert layers[0].bias is None and layers[3].bias is None


def test_other_projectors_have_the_norms_they_ask_for():
    plain = Projector(16, 8, 3, 32, last_norm='plain').layers
    assert len(plain) == 8 and plain[-1].weight is None
    assert isinstance(Projector(16, 8, 1, 32, last_norm=None).layers[-1], nn.Linear)
    norms = Projector(16, 8, 2, 32, norm={'type': nn.LayerNorm}).layers
    assert sum(isinstance(m, nn.LayerNorm) for m in norms) == 2


def test_in_evaluation_features_before_the_projector_come_out():
    model = make_ours().eval()
    images = torch.randn(3, 3, 16, 16)
    feats = model(images)
    torch.testing.assert_close(feats, model.backbone(images)[-1].mean((2, 3)))
    assert model([images, -images]).equal(feats)
    assert model(images, samples_of(3), mode='predict')[2].extra['feats'].equal(feats[2])


def test_vectors_of_a_transformer_are_features_as_they_are():
    model = SimCLR(VisionTransformer(embed_dim=16, depth=1, num_heads=2, patch_size=8,
                                     image_size=16), Projector(8, 8, in_channels=16))
    assert model.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 16)


def test_a_tiny_batch_is_learned():
    losses = losses_of_training(make_ours(), views_with_shapes(8, size=16), steps=40)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(('use', 'message'), [
    (lambda: make_ours().train()(torch.zeros(2, 3, 16, 16)), 'put a MultiView before PackInputs'),
    (lambda: make_ours().train()([torch.zeros(2, 3, 16, 16)] * 3), 'compares 2 views .* got 3'),
    (lambda: make_ours().eval()(torch.zeros(2, 3, 16, 16), [DataSample()] * 2, mode='loss'),
     r'call train\(\) first'),
    (lambda: make_ours(0.0), 'temperature must be positive'),
    (lambda: Projector(8, 8), 'needs in_channels'),
    (lambda: Projector(8, 8, in_channels=4, last_norm='batch'), "not 'batch'"),
    (lambda: Projector(8, 8, 0, 4), 'at least 1'),
])
def test_wrong_use_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
