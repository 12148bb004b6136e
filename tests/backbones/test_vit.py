import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from openlab.backbones.vit import VisionTransformer
from tests.backbones.parity import assert_equal_to_peer, count, key_map

SMALL = {'embed_dim': 32, 'depth': 3, 'num_heads': 2, 'patch_size': 8, 'image_size': 32}


def test_vit_equals_torchvision_with_the_same_weights():
    peer = TorchvisionViT(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=32,
                          mlp_dim=128, num_classes=7)
    assert_equal_to_peer(
        VisionTransformer(**SMALL), peer, key_map(VisionTransformer, 'torchvision'))


@pytest.mark.parametrize(('theirs', 'ours'), [
    ({}, {}),
    ({'global_pool': 'avg'}, {'output': 'mean'}),
    ({'global_pool': 'avg', 'class_token': False}, {'output': 'mean', 'with_class_token': False}),
    ({'init_values': 0.1, 'qkv_bias': False}, {'layer_scale': 0.1, 'qkv_bias': False}),
])
def test_vit_equals_timm_with_the_same_weights(theirs, ours):
    peer = TimmViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=7,
                   **theirs)
    assert_equal_to_peer(
        VisionTransformer(**SMALL, **ours), peer, key_map(VisionTransformer, 'timm'))


@pytest.mark.parametrize(('size', 'name'), [
    ('tiny', 'vit_tiny_patch16_224'), ('small', 'vit_small_patch16_224'),
    ('base', 'vit_base_patch16_224'), ('large', 'vit_large_patch16_224')])
def test_parameter_count_equals_timm(size, name):
    with torch.device('meta'):
        ours = VisionTransformer(size)
        peer = timm.create_model(name, num_classes=0)
    assert count(ours) == count(peer)


def test_parameter_count_equals_torchvision():
    with torch.device('meta'):
        ours = VisionTransformer('base', patch_size=32)
        peer = torchvision.models.vit_b_32()
    assert count(ours) == count(peer) - count(peer.heads)


def test_intermediate_maps_equal_timm():
    torch.manual_seed(0)
    peer = TimmViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    ours = VisionTransformer(**SMALL, output='maps', out_stages=(1, 3))
    ours.load_state_dict(key_map(VisionTransformer, 'timm').apply(peer.state_dict()))
    images = torch.randn(2, 3, 32, 32)
    last = peer.forward_intermediates(images, [2], norm=True, intermediates_only=True)
    first = peer.forward_intermediates(images, [0], norm=False, intermediates_only=True)
    maps = ours(images)
    torch.testing.assert_close(maps[0], first[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[1], last[0], rtol=1e-4, atol=1e-5)
    assert ours.out_channels == (32, 32)
    assert ours.strides == (8, 8)


def test_images_of_another_size_equal_timm_with_interpolated_positions():
    torch.manual_seed(0)
    peer = TimmViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0,
                   dynamic_img_size=True)
    ours = VisionTransformer(**SMALL)
    ours.load_state_dict(key_map(VisionTransformer, 'timm').apply(peer.state_dict()))
    images = torch.randn(2, 3, 48, 24)
    torch.testing.assert_close(ours(images)[0], peer(images), rtol=1e-4, atol=1e-5)


def test_weights_of_another_image_size_load_with_interpolated_positions():
    small, large = VisionTransformer(**SMALL), VisionTransformer(**{**SMALL, 'image_size': 64})
    large.load_state_dict(small.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(large(images)[0], small(images)[0])


def test_blocks_after_the_last_wanted_one_are_not_built():
    net = VisionTransformer(**SMALL, output='maps', out_stages=(1, 2))
    assert len(net.blocks) == 2


def test_positions_and_class_token_are_kept_out_of_weight_decay():
    assert VisionTransformer(**SMALL).no_weight_decay() == {'position', 'class_token'}
    assert VisionTransformer(**SMALL, output='mean', with_class_token=False).no_weight_decay() == {
        'position'}


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'nano'}, "not 'nano'"),
    ({'image_size': 30}, 'image_size=30 must be a multiple of patch_size=16'),
    ({'output': 'token'}, "not 'token'"),
    ({'with_class_token': False}, 'needs with_class_token=True'),
    ({'out_stages': (3,)}, "out_stages needs output='maps'"),
    ({'embed_dim': 50, 'num_heads': 3}, 'cannot be split'),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**arguments)


def test_an_image_that_patches_do_not_cover_is_refused():
    with pytest.raises(ValueError, match='multiples of patch_size=8, not 30 x 32'):
        VisionTransformer(**SMALL)(torch.zeros(1, 3, 30, 32))
