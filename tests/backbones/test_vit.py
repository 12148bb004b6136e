import os
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
import transformers
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from openlab.backbones.vit import VisionTransformer
from openlab.engine.loading import load_weights
from openlab.heads.distilled_head import DistilledHead
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
    ({'no_embed_class': True, 'init_values': 1e-6},  # DeiT III
     {'with_prefix_position': False, 'layer_scale': 1e-6}),
    ({'no_embed_class': True, 'reg_tokens': 4, 'init_values': 1e-5},  # DINOv2
     {'with_prefix_position': False, 'num_registers': 4, 'layer_scale': 1e-5}),
    ({'mlp_layer': SwiGLUPacked, 'mlp_ratio': 5.5, 'act_layer': torch.nn.SiLU},  # DINOv2-g
     {'with_gated_mlp': True}),
    ({'pre_norm': True}, {'with_pre_norm': True}),  # CLIP
    ({'global_pool': 'map', 'class_token': False},  # SigLIP
     {'output': 'attention_pool', 'with_class_token': False}),
])
def test_vit_equals_timm_with_the_same_weights(theirs, ours):
    peer = TimmViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=7,
                   **theirs)
    assert_equal_to_peer(
        VisionTransformer(**SMALL, **ours), peer, key_map(VisionTransformer, 'timm'))


@pytest.mark.parametrize(('size', 'name'), [
    ('tiny', 'vit_tiny_patch16_224'), ('small', 'vit_small_patch16_224'),
    ('medium', 'deit3_medium_patch16_224'), ('base', 'vit_base_patch16_224'),
    ('large', 'vit_large_patch16_224'), ('huge', 'deit3_huge_patch14_224'),
    ('giant', 'vit_giant_patch14_dinov2')])
def test_parameter_count_equals_timm(size, name):
    extra = {
        'medium': {'with_prefix_position': False, 'layer_scale': 1e-6},
        'huge': {'with_prefix_position': False, 'layer_scale': 1e-6, 'patch_size': 14},
        'giant': {'with_gated_mlp': True, 'layer_scale': 1e-5, 'patch_size': 14, 'image_size': 518},
    }
    with torch.device('meta'):
        ours = VisionTransformer(size, **extra.get(size, {}))
        peer = timm.create_model(name, num_classes=0)
    assert count(ours) == count(peer)


def test_parameter_count_equals_torchvision():
    with torch.device('meta'):
        ours = VisionTransformer('base', patch_size=32)
        peer = torchvision.models.vit_b_32()
    assert count(ours) == count(peer) - count(peer.heads)


def test_distilled_deit_equals_timm_with_the_same_weights():
    peer = VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=7)
    ours = VisionTransformer(**SMALL, with_distill_token=True)
    assert ours.out_channels == (32, 32)
    assert_equal_to_peer(ours, peer, key_map(VisionTransformer, 'timm'),
                         head=DistilledHead(7, 32))


@pytest.mark.parametrize('gated', [False, True])
def test_dinov2_with_registers_equals_transformers(gated):
    torch.manual_seed(0)
    peer = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        use_swiglu_ffn=gated)).eval()
    ours = VisionTransformer(embed_dim=32, depth=2, num_heads=2, image_size=28, patch_size=14,
                             num_registers=4, layer_scale=1.0, with_gated_mlp=gated).eval()
    for p in peer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    source = key_map(VisionTransformer, 'transformers')
    assert source.matches(peer.state_dict())
    ours.load_state_dict(source.apply(peer.state_dict()))
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(
        ours(images)[0], peer(images).pooler_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('arguments', 'extra'), [
    ({}, {}),
    ({'with_distill_token': True}, {'dist_token': (1, 1, 32)}),
    ({'layer_scale': 0.1}, {'layers.0.attn.gamma1.weight': (32,),
                            'layers.0.ffn.gamma2.weight': (32,)}),
    ({'with_pre_norm': True}, {'pre_norm.weight': (32,), 'pre_norm.bias': (32,)}),
])
def test_names_of_openmmlab_are_all_accounted_for(arguments, extra):
    ours = VisionTransformer(embed_dim=32, depth=1, num_heads=2, image_size=32, patch_size=8,
                             **arguments)
    block = {'ln1.weight': (32,), 'ln1.bias': (32,), 'attn.qkv.weight': (96, 32),
             'attn.qkv.bias': (96,), 'attn.proj.weight': (32, 32), 'attn.proj.bias': (32,),
             'ln2.weight': (32,), 'ln2.bias': (32,), 'ffn.layers.0.0.weight': (128, 32),
             'ffn.layers.0.0.bias': (128,), 'ffn.layers.1.weight': (32, 128),
             'ffn.layers.1.bias': (32,)}
    theirs = {'cls_token': (1, 1, 32), 'pos_embed': (1, 17 + ('dist_token' in extra), 32),
              'patch_embed.projection.weight': (32, 3, 8, 8), 'ln1.weight': (32,),
              'ln1.bias': (32,), **{f'layers.0.{k}': v for k, v in block.items()}, **extra}
    if 'with_pre_norm' not in arguments:
        theirs['patch_embed.projection.bias'] = (32,)
    ours.load_state_dict(key_map(VisionTransformer, 'openmmlab').apply(
        {name: torch.zeros(shape) for name, shape in theirs.items()}))


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
    ({'image_size': 15}, 'image_size=15 holds no patch of patch_size=16'),
    ({'output': 'token'}, "not 'token'"),
    ({'with_class_token': False}, 'needs with_class_token=True'),
    ({'with_distill_token': True, 'output': 'mean'}, "needs output='class_token'"),
    ({'out_stages': (3,)}, "out_stages needs output='maps'"),
    ({'embed_dim': 50, 'num_heads': 3}, 'cannot be split'),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**arguments)


def test_an_image_that_patches_do_not_cover_is_refused():
    with pytest.raises(ValueError, match='multiples of patch_size=8, not 30 x 32'):
        VisionTransformer(**SMALL)(torch.zeros(1, 3, 30, 32))


def test_what_fills_no_patch_of_an_image_of_the_size_of_training_is_cut_off_as_in_timm():
    torch.manual_seed(0)
    reference = TimmViT(
        img_size=30, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0).eval()
    backbone = VisionTransformer(
        embed_dim=32, depth=2, num_heads=2, image_size=30, patch_size=8).eval()
    load_weights(backbone, reference.state_dict())
    images = torch.randn(2, 3, 30, 30)
    torch.testing.assert_close(backbone(images)[0], reference(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='multiples of patch_size=8, not 30 x 32'):
        backbone(torch.zeros(1, 3, 30, 32))


def test_a_network_without_distillation_token_takes_the_weights_of_one_that_has_it():
    torch.manual_seed(0)
    distilled = VisionTransformer(**SMALL, with_distill_token=True)
    torch.nn.init.normal_(distilled.position)
    plain = VisionTransformer(**SMALL)
    report = load_weights(plain, distilled.state_dict())
    assert report.complete and report.unexpected == ['distill_token']
    torch.testing.assert_close(plain.position[:, 1:], distilled.position[:, 2:])
    torch.testing.assert_close(plain.position[:, 0], distilled.position[:, 0])


def test_class_token_and_mean_are_those_that_transformers_classifies_dinov2_by():
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        num_labels=3)
    torch.manual_seed(0)
    reference = transformers.Dinov2ForImageClassification(config).eval()
    backbone = VisionTransformer(
        embed_dim=32, depth=2, num_heads=2, image_size=32, patch_size=8, layer_scale=1.0,
        output='class_and_mean').eval()
    assert backbone.out_channels == (64,)
    load_weights(backbone, reference.dinov2.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(reference.classifier(backbone(x)[0]), reference(x).logits,
                                   rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='needs with_class_token'):
        VisionTransformer(output='class_and_mean', with_class_token=False)


def test_the_seed_alone_decides_on_the_first_weights():
    script = ('import torch; from openlab.backbones.vit import VisionTransformer as V; '
              'torch.manual_seed(0); model = V(embed_dim=8, depth=1, num_heads=2, image_size=32, '
              'with_distill_token=True, num_registers=2); '
              'print([p.double().sum().item() for p in model.parameters()])')
    found = {subprocess.run([sys.executable, '-c', script], env={**os.environ, 'PYTHONHASHSEED': s},
                            capture_output=True, text=True, check=True).stdout
             for s in ('0', '1')}
    assert len(found) == 1
