import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.algorithms.selfsup.mae import MAE, MAEDecoder, cut_patches
from openlab.backbones.resnet import ResNet
from openlab.backbones.vit import VisionTransformer
from openlab.engine.loading import load_weights
from openlab.heads.linear_head import LinearHead
from openlab.layers.position import grid_position
from openlab.structures.data_sample import DataSample
from tests.algorithms.selfsup.common import images_with_shapes, losses_of_training, samples_of
from tests.backbones.parity import relative_error

ENCODER = {'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 8, 'image_size': 32,
           'with_fixed_position': True}


def make_ours(normalize=True, **changes):
    backbone = VisionTransformer(**{**ENCODER, **changes})
    return MAE(backbone, MAEDecoder(16, 2, 2, in_channels=backbone.out_channels),
               normalize_patches=normalize)


def make_theirs(normalize=True):
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        image_size=32, patch_size=8, decoder_hidden_size=16, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, layer_norm_eps=1e-6,
        norm_pix_loss=normalize))
    for parameter in model.parameters():  # zeros and ones of a fresh model would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    # A fresh model of transformers has zeros here; published weights have these waves.
    mask_token = model.decoder.mask_token.data.clone()
    model.decoder.initialize_weights(16)
    model.decoder.mask_token.data.copy_(mask_token)
    return model


@pytest.mark.parametrize('normalize', [True, False])
def test_loss_outputs_and_gradients_equal_transformers_with_the_same_weights(normalize):
    theirs, ours = make_theirs(normalize), make_ours(normalize)
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected and list(report.dropped) == [
        'decoder.decoder_pos_embed']
    assert sum(p.numel() for p in ours.parameters()) == sum(
        p.numel() for p in theirs.parameters()) - 17 * 16
    images, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)

    expected = theirs.train()(images, noise=noise)
    outputs = ours.train().reconstruct(images, noise)
    loss = ours.loss(outputs, samples_of(3))['loss_pixels']
    torch.testing.assert_close(outputs.pixels, expected.logits, rtol=1e-4, atol=1e-5)
    assert outputs.is_hidden.equal(expected.mask.bool())
    torch.testing.assert_close(loss, expected.loss, rtol=1e-4, atol=1e-5)

    ours.double(), theirs.double()
    images, noise = images.double(), noise.double()
    theirs(images, noise=noise).loss.backward()
    ours.loss(ours.reconstruct(images, noise), samples_of(3))['loss_pixels'].backward()
    grads = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    # the same table that renames weights renames their gradients
    grads['vit.embeddings.position_embeddings'] = torch.zeros(1, 17, 32)
    fresh = make_ours(normalize)
    load_weights(fresh, grads)
    renamed = dict(fresh.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert relative_error(parameter.grad.float(), renamed[name]) < 1e-4, name
            compared += 1
    assert compared == len(grads) - 1 - 2 * 2 * 4  # three matrices and biases are one of ours


def test_positions_equal_those_of_transformers():
    torch.testing.assert_close(
        grid_position((4, 4), 16, 1), make_theirs().decoder.decoder_pos_embed.data)
    backbone = make_ours().backbone
    torch.testing.assert_close(backbone.position.data, grid_position((4, 4), 32, 1))
    assert not backbone.position.requires_grad


def test_weights_of_transformers_go_straight_into_a_classifier():
    theirs = make_theirs().eval()
    backbone = VisionTransformer(**ENCODER)
    ours = ImageClassifier(backbone, head=LinearHead(5, 32)).eval()
    report = load_weights(ours, theirs.state_dict(), replace_head=True)
    assert report.missing == ['head.fc.weight', 'head.fc.bias'] and not report.unexpected
    images = torch.randn(2, 3, 32, 32)
    theirs.config.mask_ratio = 0.0
    noise = torch.arange(16.0).expand(2, 16)  # nothing is hidden and nothing moves
    expected = theirs.vit(images, noise=noise).last_hidden_state[:, 0]
    torch.testing.assert_close(backbone(images)[0], expected, rtol=1e-4, atol=1e-5)


def test_patches_are_cut_row_by_row_with_channels_together():
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = cut_patches(images, 2)
    assert patches.shape == (2, 6, 12)
    window = images[1, :, 2:4, 4:6]  # second row, third column
    assert patches[1, 5].tolist() == window.permute(1, 2, 0).flatten().tolist()


def test_the_share_that_is_hidden_is_drawn_anew_for_each_image():
    torch.manual_seed(0)
    outputs = make_ours().train()(torch.randn(8, 3, 32, 32))
    assert outputs.is_hidden.sum(1).tolist() == [12] * 8
    assert len({tuple(row.tolist()) for row in outputs.is_hidden}) > 1


def test_hidden_pixels_do_not_reach_the_encoder():
    model, noise = make_ours().train(), torch.rand(2, 16)
    images = torch.randn(2, 3, 32, 32)
    first = model.reconstruct(images, noise)
    changed = images.clone()
    hidden = first.is_hidden.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    changed[hidden[:, None].expand_as(changed)] = 7.0
    torch.testing.assert_close(model.reconstruct(changed, noise).pixels, first.pixels)


def test_visible_patches_cost_nothing():
    model = make_ours().train()
    outputs = model(torch.randn(2, 3, 32, 32))
    visible = ~outputs.is_hidden
    worse = outputs.pixels + 100 * visible[:, :, None]
    before = model.loss(outputs, [])['loss_pixels']
    assert model.loss(outputs._replace(pixels=worse), [])['loss_pixels'].equal(before)


def test_images_that_are_not_square_have_their_own_positions():
    outputs = make_ours().train()(torch.randn(2, 3, 16, 48))
    assert outputs.pixels.shape == (2, 12, 192)


def test_without_a_class_token_it_works_as_well():
    model = make_ours(with_class_token=False, output='mean').train()
    assert model(torch.randn(2, 3, 32, 32)).pixels.shape == (2, 16, 192)
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 32)


def test_in_evaluation_all_patches_are_seen_and_features_come_out():
    model = make_ours().eval()
    images = torch.randn(2, 3, 32, 32)
    feats = model(images)
    torch.testing.assert_close(feats, model.backbone.encode(images)[:, 0])
    prediction = model.predict(feats, samples_of(2))[1]
    assert prediction.meta == {'img_id': 1} and prediction.extra['feats'].equal(feats[1])


def test_a_tiny_batch_is_learned():
    torch.manual_seed(0)
    losses = losses_of_training(make_ours(), images_with_shapes(4), steps=60, lr=1e-2)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: MAE(ResNet(18), MAEDecoder(16, 1, 2, in_channels=8)), 'needs a VisionTransformer'),
    (lambda: MAE(VisionTransformer(**ENCODER), MAEDecoder(16, 1, 2, in_channels=32), 1.0),
     'mask_ratio must lie between'),
    (lambda: MAEDecoder(), 'needs in_channels'),
    (lambda: make_ours().train()([torch.zeros(1, 3, 32, 32)] * 2), 'one view of each image'),
    (lambda: make_ours().eval()(torch.zeros(1, 3, 32, 32), [DataSample()], mode='loss'),
     r'call train\(\) first'),
])
def test_wrong_use_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
