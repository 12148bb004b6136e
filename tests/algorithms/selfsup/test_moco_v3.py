import pytest
import torch

from openlab.algorithms.selfsup.moco_v3 import MoCoOutputs, MoCoV3, contrast_queries
from openlab.backbones.resnet import ResNet
from openlab.backbones.vit import VisionTransformer
from openlab.heads.projector import Projector
from openlab.layers.ramp import CosineRamp, Progress
from tests.algorithms.selfsup.common import losses_of_training, samples_of, views_with_shapes


def make_ours(momentum=0.9, freeze=True, backbone=None, **changes):
    torch.manual_seed(0)
    backbone = backbone or VisionTransformer(
        embed_dim=16, depth=1, num_heads=2, patch_size=8, image_size=16, with_fixed_position=True,
        drop_path=0.5)
    return MoCoV3(backbone, Projector(16, 8, 3, backbone.out_channels, last_norm='plain'),
                  Projector(16, 8, 2, 8, last_norm='plain'), momentum,
                  freeze_patch_embed=freeze, **changes)


def slow_loss(query, key, temperature):
    """Equation 1 and algorithm 1 of the paper, query by query."""
    total = 0.0
    for i, q in enumerate(query):
        similarities = torch.stack([
            torch.dot(q / q.norm(), k / k.norm()) / temperature for k in key])
        total = total - similarities[i] + similarities.exp().sum().log()
    return 2 * temperature * total / len(query)


def test_loss_and_gradients_equal_a_slow_reference():
    torch.manual_seed(0)
    queries = tuple(torch.randn(5, 6, requires_grad=True) for _ in range(2))
    keys = tuple(torch.randn(5, 6) for _ in range(2))
    loss = make_ours().loss(MoCoOutputs(queries, keys), samples_of(5))['loss_contrast']
    expected = slow_loss(queries[0], keys[1], 0.2) + slow_loss(queries[1], keys[0], 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, queries),
                            torch.autograd.grad(expected, queries)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_loss_of_equal_queries_and_keys_at_right_angles_is_known():
    # the right key has cosine 1, three others 0: log(e^(1/t) + 3) - 1/t, times 2 t
    eye = torch.eye(4)
    expected = 0.4 * (torch.tensor([5.0, 0, 0, 0]).logsumexp(0) - 5)
    torch.testing.assert_close(contrast_queries(eye, eye, 0.2), expected)


def test_queries_pass_the_predictor_and_keys_do_not():
    model = make_ours().train()
    views = [torch.randn(4, 3, 16, 16) for _ in range(2)]
    outputs = model(views)
    torch.testing.assert_close(
        outputs.keys[1], model.key_projector(model.key_backbone(views[1])[-1]))
    assert outputs.queries[0].requires_grad and not outputs.keys[0].requires_grad


def test_the_key_network_begins_as_a_copy_that_drops_nothing():
    model = make_ours(backbone=VisionTransformer(
        embed_dim=16, depth=2, num_heads=2, patch_size=8, image_size=16, drop_path=0.5,
        dropout=0.5), freeze=False)
    for key, query in ((model.key_backbone, model.backbone),
                       (model.key_projector, model.projector)):
        assert all(a.equal(b) for a, b in zip(key.parameters(), query.parameters()))
        assert not any(p.requires_grad for p in key.parameters())
    images = torch.randn(4, 3, 16, 16)
    model.train()
    assert model.key_backbone(images)[-1].equal(model.key_backbone(images)[-1])
    assert not model.backbone(images)[-1].equal(model.backbone(images)[-1])


def test_the_key_network_follows_with_the_momentum_of_the_moment():
    model = make_ours(CosineRamp(0.5, 1.0))
    before = model.key_projector.layers[0].weight.clone()
    with torch.no_grad():
        model.projector.layers[0].weight.add_(1.0)
        model.after_step()
    torch.testing.assert_close(model.key_projector.layers[0].weight, before + 0.5)
    model.momentum.progress = Progress(5, 10, 5)  # 0.75
    model.after_step()
    torch.testing.assert_close(model.key_projector.layers[0].weight, before + 0.625)
    model.momentum.progress = Progress(10, 10, 5)  # 1: it stands still
    model.after_step()
    torch.testing.assert_close(model.key_projector.layers[0].weight, before + 0.625)
    losses = model.train()([torch.randn(4, 3, 16, 16)] * 2, samples_of(4), mode='loss')
    assert losses['momentum'] == 1.0


def test_the_patch_projection_stays_random():
    model = make_ours()
    before = model.backbone.patch_embed.proj.weight.clone()
    losses_of_training(model, views_with_shapes(4, size=16), steps=2)
    assert model.backbone.patch_embed.proj.weight.equal(before)
    assert model.backbone.patch_embed.proj.weight.grad is None
    free = make_ours(freeze=False)
    losses_of_training(free, views_with_shapes(4, size=16), steps=2)
    assert not free.backbone.patch_embed.proj.weight.equal(before)


def test_batch_norms_of_the_key_network_see_the_keys_themselves():
    model = make_ours().train()
    with torch.no_grad():
        model.projector.layers[0].weight.mul_(2.0)
    model([torch.randn(4, 3, 16, 16) for _ in range(2)])
    key, query = (p.layers[1].running_mean for p in (model.key_projector, model.projector))
    assert key.abs().sum() > 0
    torch.testing.assert_close(2 * key, query)


def test_a_tiny_batch_is_learned():
    losses = losses_of_training(make_ours(0.5), views_with_shapes(8, size=16), steps=60)
    assert losses[-1] < 0.5 * losses[0]


def test_a_convolutional_network_works_as_well():
    net = ResNet(block='basic', num_blocks=(1, 1), base_channels=8, stem='conv3', out_stages=(3,))
    model = make_ours(backbone=net, freeze=False)
    assert len(set(losses_of_training(model, views_with_shapes(4, size=16), steps=2))) == 2


def test_the_loss_stays_in_single_precision_under_autocast():
    queries, keys = torch.randn(4, 8), torch.randn(4, 8)
    expected = contrast_queries(queries, keys, 0.2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert contrast_queries(queries, keys, 0.2).equal(expected)


@pytest.mark.parametrize(('use', 'message'), [
    (lambda: make_ours(backbone=ResNet(18)), 'ResNet has no patch_embed'),
    (lambda: make_ours(temperature=-1.0), 'temperature must be positive'),
    (lambda: make_ours().train()([torch.zeros(2, 3, 16, 16)]), 'compares 2 views .* got 1'),
])
def test_wrong_use_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
