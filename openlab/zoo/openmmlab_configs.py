r"""Which config of ours is the network of which published OpenMMLab classifier.

A row is a pattern of published config names, the config of ours, and what is changed in it
(as on the command line); changes may use what the pattern captured (``\1``). The first row whose
pattern is found counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedConfig:
    """One row.

    Attributes:
        pattern: regular expression that is searched in the published name, in lower case.
        config: config of ours, from ``configs/classification`` unless it names another folder of
            ``configs`` (``selfsup/...``).
        changes: overrides, such as ``'model.backbone.depth=50'``.
        part: what of our network is there, where the published one was pre-trained in a way that
            we do not have, or is published without a head.
    """

    pattern: str
    config: str
    changes: Sequence[str] = ()
    part: str | None = None

    def overrides(self, name: str) -> list[str]:
        """The changes for one published name."""
        found = re.search(self.pattern, name.lower())
        return [found.expand(change) for change in self.changes] if found else []


# What these networks are built with there, which names and shapes do not tell.
_EPS = "model.backbone.norm={'type': 'torch.nn.BatchNorm2d', 'eps': 0.001}"
_SAME = "model.backbone.padding='same'"


_CIFAR10 = 'model.head.num_classes=10'
_IN21K = 'model.head.num_classes=21841'
_RESNET = 'resnet/resnet50_100e_imagenet'

_VIT = 'vit/vit_base_300e_imagenet'
_PATCHES = (r"model.backbone.size='\1'", r'model.backbone.patch_size=\2')
_MEAN = (*_PATCHES, "model.backbone.output='mean'")
_IMAGE = r'model.backbone.image_size=\3'
# A linear probe normalises its features, without weights of its own.
_PROBE = "model.head.norm={'type': 'BatchNorm1d', 'affine': False, 'eps': 1e-6}"
_DINOV2 = ('model.backbone.image_size=518', 'model.backbone.num_registers=0',
           'model.backbone.with_prefix_position=True')
_EVA_G = ("model.backbone.size='giant'", 'model.backbone.layer_scale=None',
          'model.backbone.with_relative_bias=False', 'model.backbone.with_position=True')

TRANSFORMERS: tuple[PublishedConfig, ...] = (
    PublishedConfig(r'vision_transformer/vit-(\w+)-p(\d+)_.*in1k-(\d+)px', _VIT,
                    (*_PATCHES, _IMAGE)),
    PublishedConfig(r'vision_transformer/vit-(\w+)-p(\d+)_', _VIT, _PATCHES),
    PublishedConfig(r'mocov3/benchmarks/vit-small-p16_', _VIT,
                    # MoCo v3 has twice as many heads as others of this size.
                    ("model.backbone.size='small'", 'model.backbone.num_heads=12')),
    PublishedConfig(r'mocov3/benchmarks/vit-(\w+)-p(\d+)_', _VIT, _PATCHES),
    PublishedConfig(r'mae/benchmarks/vit-(\w+)-p(\d+)_.*in1k-(\d+)px', _VIT, (*_MEAN, _IMAGE)),
    PublishedConfig(r'(?:eva|milan)/benchmarks/vit-(\w+)-p(\d+)_.*linear', _VIT,
                    (*_PATCHES, _PROBE)),
    PublishedConfig(r'(?:mae|eva|milan|maskfeat)/benchmarks/vit-(\w+)-p(\d+)_(?!.*linear)', _VIT,
                    _MEAN),
    PublishedConfig(r'/clip/vit-(\w+)-p(\d+)_headless', _VIT,
                    # Its name says 14, but the network has patches of 16.
                    (_PATCHES[0], 'model.backbone.with_pre_norm=True')),
    PublishedConfig(r'/clip/vit-(\w+)-p(\d+)_', _VIT,
                    (*_PATCHES, 'model.backbone.with_pre_norm=True')),
    PublishedConfig(r'/eva-l-p14_headless', _VIT,
                    ("model.backbone.size='large'", 'model.backbone.patch_size=14',
                     "model.backbone.output='mean'")),
    PublishedConfig(r'/eva-l-p14_.*in1k-(\d+)px', _VIT,
                    ("model.backbone.size='large'", 'model.backbone.patch_size=14',
                     r'model.backbone.image_size=\1', "model.backbone.output='mean'")),
    PublishedConfig(r'/eva-g-p(\d+)_headless', 'beit/beit_base_100e_imagenet',
                    (*_EVA_G, r'model.backbone.patch_size=\1')),
    PublishedConfig(r'/eva-g-p(\d+)_.*in1k-(\d+)px', 'beit/beit_base_100e_imagenet',
                    (*_EVA_G, r'model.backbone.patch_size=\1', r'model.backbone.image_size=\2')),
    PublishedConfig(r'/eva02-(tiny|small)-p14_in1k', 'eva02/eva02_tiny_100e_imagenet',
                    (r"model.backbone.size='\1'", 'model.backbone.image_size=336')),
    PublishedConfig(r'/eva02-(base|large)-p14_in1k', 'eva02/eva02_tiny_100e_imagenet',
                    (r"model.backbone.size='\1'", 'model.backbone.image_size=448')),
    PublishedConfig(r'/eva02-(\w+)-p14_headless', 'eva02/eva02_tiny_100e_imagenet',
                    (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/vit-giant-p14_dinov2', 'dinov2/dinov2_small_reg4_30e_imagenet',
                    (*_DINOV2, "model.backbone.size='giant'",
                     'model.backbone.with_gated_mlp=True')),
    PublishedConfig(r'/vit-(\w+)-p14_dinov2', 'dinov2/dinov2_small_reg4_30e_imagenet',
                    (*_DINOV2, r"model.backbone.size='\1'")),
    PublishedConfig(r'/deit-(tiny|small|base)-distilled_.*in1k-(\d+)px',
                    'deit/deit_tiny_distilled_300e_imagenet',
                    (r"model.backbone.size='\1'", r'model.backbone.image_size=\2')),
    PublishedConfig(r'/deit-(tiny|small|base)-distilled_',
                    'deit/deit_tiny_distilled_300e_imagenet',
                    (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/deit-(tiny|small|base)_.*in1k-(\d+)px', _VIT,
                    (r"model.backbone.size='\1'", r'model.backbone.image_size=\2')),
    PublishedConfig(r'/deit-(tiny|small|base)_', _VIT, (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/deit3-(\w+)-p(\d+)_.*in1k-(\d+)px', 'deit3/deit3_small_300e_imagenet',
                    (*_PATCHES, _IMAGE)),
    PublishedConfig(r'/deit3-(\w+)-p(\d+)_', 'deit3/deit3_small_300e_imagenet', _PATCHES),
    PublishedConfig(r'simmim/benchmarks/swin-large-w14_', 'swin/swin_tiny_300e_imagenet',
                    ("model.backbone.size='large'", 'model.backbone.window_size=14',
                     'model.backbone.always_shift=True')),
    PublishedConfig(r'simmim/benchmarks/swin-(tiny|small|base|large)-w(\d+)_',
                    'swin/swin_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'", r'model.backbone.window_size=\2')),
    PublishedConfig(r'/swin-(tiny|small|base|large)_.*cub-384px', 'swin/swin_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'", 'model.backbone.window_size=12',
                     'model.head.num_classes=200')),
    PublishedConfig(r'swin_transformer/swin-(tiny|small|base|large)_.*-384px',
                    'swin/swin_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'", 'model.backbone.window_size=12')),
    PublishedConfig(r'swin_transformer/swin-(tiny|small|base|large)_',
                    'swin/swin_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'",)),
    *(PublishedConfig(
        rf'/swinv2-(tiny|small|base|large)-w{window}_{trained}16x',
        'swin_v2/swin_v2_tiny_w8_300e_imagenet_256',
        (r"model.backbone.size='\1'",
         f'model.backbone.window_size=[{window}, {window}, {window}, {max(window // 2, 8)}]',
         *(['model.backbone.trained_window=[12, 12, 12, 6]'] if trained else [])))
      for window in (8, 16, 24) for trained in ('', 'in21k-pre_')),
    PublishedConfig(r'/twins-(pcpvt|svt)-(\w+)_\d+x', 'twins/twins_pcpvt_small_300e_imagenet',
                    (r"model.backbone.size='\1_\2'",)),
    PublishedConfig(r'/mlp-mixer-(\w+)-p(\d+)_', 'mlp_mixer/mlp_mixer_base_300e_imagenet',
                    _PATCHES),
    PublishedConfig(r'/levit-(\d+s?)_', 'levit/levit_256_1000e_imagenet',
                    (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/efficientformer-(l\d)_', 'efficientformer/efficientformer_l1_300e_imagenet',
                    (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/mvitv2-(\w+?)_', 'mvit/mvit_v2_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'",)),
    PublishedConfig(r'/tinyvit-21m-distill_.*-(384|512)px',
                    r'tinyvit/tinyvit_21m_30e_imagenet_\1'),
    PublishedConfig(r'/tinyvit-(\d+m)(?:-distill)?_', r'tinyvit/tinyvit_\1_300e_imagenet'),
    PublishedConfig(r'beit(?:v2)?/benchmarks/beit-base', 'beit/beit_base_100e_imagenet'),
    PublishedConfig(r'cae/benchmarks/beit-base', 'beit/beit_base_100e_imagenet',
                    ('model.backbone.with_position=True',)),
)

SELF_SUPERVISED: tuple[PublishedConfig, ...] = (
    PublishedConfig(r'/mae_vit-(base|large)-p16_', r'selfsup/mae/mae_vit_\1_800e_imagenet'),
    PublishedConfig(r'/mae_vit-huge-p14_', 'selfsup/mae/mae_vit_large_800e_imagenet',
                    ("model.backbone.size='huge'", 'model.backbone.patch_size=14')),
    PublishedConfig(r'/mocov3_resnet50_', 'selfsup/moco_v3/moco_v3_resnet50_100e_imagenet'),
    PublishedConfig(r'/mocov3_vit-(small|base)-p16_',
                    r'selfsup/moco_v3/moco_v3_vit_\1_300e_imagenet'),
    PublishedConfig(r'/mocov3_vit-large-p16_', 'selfsup/moco_v3/moco_v3_vit_base_300e_imagenet',
                    ("model.backbone.size='large'", 'model.backbone.num_heads=16')),
    PublishedConfig(r'/simclr_resnet50_', 'selfsup/simclr/simclr_resnet50_100e_imagenet'),
)

# Pre-training of which the backbone is what everybody takes.
_R50 = r'/(?:barlowtwins|byol|densecl|mocov2|simsiam|spark_sparse|swav)[-_]resnet50_'
PRETRAINED: tuple[PublishedConfig, ...] = (
    PublishedConfig(_R50, _RESNET, part='backbone'),
    # Without the last norm of BEiT v2 and of SparK's ConvNeXt these are no whole backbones.
    PublishedConfig(r'/beit_beit-base-p16_', 'beit/beit_base_100e_imagenet',
                    ("model.backbone.output='class_token'",), part='backbone'),
    PublishedConfig(r'/(?:maskfeat|milan)_vit-(\w+)-p(\d+)_', _VIT, _PATCHES, part='backbone'),
    PublishedConfig(r'/simmim_swin-large-w12_', 'swin/swin_tiny_300e_imagenet',
                    ("model.backbone.size='large'", 'model.backbone.window_size=12',
                     'model.backbone.always_shift=True'), part='backbone'),
    PublishedConfig(r'/simmim_swin-(base|large)-w(\d+)_', 'swin/swin_tiny_300e_imagenet',
                    (r"model.backbone.size='\1'", r'model.backbone.window_size=\2'),
                    part='backbone'),
)

_PLAIN_HEAD = ('model.head.embed_dim=None', "model.head.pool={'type': 'GlobalPool'}")
CLASSIFIERS: tuple[PublishedConfig, ...] = (
    *SELF_SUPERVISED,
    *PRETRAINED,
    PublishedConfig(r'/resnet101-csra_', 'csra/csra_resnet101_30e_voc'),
    PublishedConfig(r'/resnet50-arcface_', 'arcface/arcface_resnet18_20e_digits',
                    ("model.backbone={'type': 'ResNet', 'depth': 50}",
                     'model.head.num_classes=3997', *_PLAIN_HEAD)),
    PublishedConfig(r'/vgg(\d+)bn_', 'vgg/vgg16_100e_imagenet', [r'model.backbone.depth=\1']),
    PublishedConfig(r'/vgg(\d+)_', 'vgg/vgg16_100e_imagenet',
                    [r'model.backbone.depth=\1', 'model.backbone.with_norm=False']),
    PublishedConfig(r'/resnet(\d+)_.*cifar100', _RESNET,
                    [r'model.backbone.depth=\1', "model.backbone.stem='conv3'",
                     'model.head.num_classes=100']),
    PublishedConfig(r'/resnet(\d+)_.*cifar10', _RESNET,
                    [r'model.backbone.depth=\1', "model.backbone.stem='conv3'", _CIFAR10]),
    PublishedConfig(r'/resnet(\d+)_.*cub', _RESNET,
                    [r'model.backbone.depth=\1', 'model.head.num_classes=200']),
    PublishedConfig(r'/resnet(\d+)_.*in1k', _RESNET, [r'model.backbone.depth=\1']),
    PublishedConfig(r'/resnetv1([cd])(\d+)_', r'resnet/resnetv1\1_50_100e_imagenet',
                    [r'model.backbone.depth=\2']),
    PublishedConfig(r'/resnext(\d+)-32x(\d)d_', 'resnext/resnext50_32x4d_100e_imagenet',
                    [r'model.backbone.depth=\1', r'model.backbone.width_per_group=\2']),
    PublishedConfig(r'/seresnet(\d+)_', 'seresnet/seresnet50_100e_imagenet',
                    [r'model.backbone.depth=\1']),
    PublishedConfig(r'/wide-resnet(\d+)_', 'resnet/wide_resnet50_2_100e_imagenet',
                    [r'model.backbone.depth=\1']),
    PublishedConfig(r'/mobilenet-v2_', 'mobilenet_v2/mobilenet_v2_150e_imagenet'),
    PublishedConfig(r'/efficientnet-(\w\w)_', 'efficientnet/efficientnet_b0_350e_imagenet',
                    [r"model.backbone.size='\1'", _EPS, _SAME]),
    PublishedConfig(r'/efficientnetv2-(s|m|l|xl)_.*in21k',
                    'efficientnet/efficientnet_b0_350e_imagenet',
                    [r"model.backbone.size='v2_\1'", 'model.head.num_classes=21843', _EPS,
                     _SAME]),
    PublishedConfig(r'/efficientnetv2-(b\d|s|m|l|xl)_',
                    'efficientnet/efficientnet_b0_350e_imagenet',
                    [r"model.backbone.size='v2_\1'", _EPS, _SAME]),
    PublishedConfig(r'/mobilenet-v3-(large|small)_', r'mobilenet_v3/mobilenet_v3_\1_300e_imagenet',
                    [_EPS]),
    PublishedConfig(r'/mobilenet-v3-small-(\d)(\d\d)_',
                    'mobilenet_v3/mobilenet_v3_small_300e_imagenet',
                    [r'model.backbone.width=\1.\2', "model.backbone.scaling='ratio'"]),
    PublishedConfig(r'/regnetx-(\d+)mf_', 'regnet/regnetx_400mf_100e_imagenet',
                    [r"model.backbone.size='x_\1mf'"]),
    PublishedConfig(r'/regnetx-(\d+)(?:\.0)?gf_', 'regnet/regnetx_400mf_100e_imagenet',
                    [r"model.backbone.size='x_\1gf'"]),
    PublishedConfig(r'/regnetx-(\d+\.\d)gf_', 'regnet/regnetx_400mf_100e_imagenet',
                    [r"model.backbone.size='x_\1gf'"]),
    PublishedConfig(r'/densenet(\d+)_', 'densenet/densenet121_90e_imagenet',
                    [r'model.backbone.depth=\1']),
    PublishedConfig(r'/shufflenet-v2-1x_', 'shufflenet_v2/shufflenet_v2_x1_300e_imagenet'),
    PublishedConfig(r'/res2net(\d+)-w(\d+)-s(\d)_', 'res2net/res2net50_26w_4s_100e_imagenet',
                    [r'model.backbone.depth=\1', r'model.backbone.slice_width=\2',
                     r'model.backbone.num_slices=\3']),
    PublishedConfig(r'/hrnet-(w\d+)_', 'hrnet/hrnet_w18_100e_imagenet',
                    [r"model.backbone.size='\1'", 'model.neck.bias=False']),
    PublishedConfig(r'/resnest(\d+)_', 'resnest/resnest50_270e_imagenet',
                    [r'model.backbone.depth=\1']),
    PublishedConfig(r'/csp(resnet|resnext)50_', r'cspnet/csp\g<1>50_100e_imagenet'),
    # Its name says 50, but the network has 53 layers.
    PublishedConfig(r'/cspdarknet50_', 'cspnet/cspdarknet53_100e_imagenet'),
    *(PublishedConfig(rf'/van-{theirs}_', f'van/van_{ours}_300e_imagenet')
      for theirs, ours in zip(('tiny', 'small', 'base', 'large', 'b4', 'b5', 'b6'),
                              ('b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6'))),
    PublishedConfig(r'/inception-v3_', 'inception_v3/inception_v3_100e_imagenet'),
    PublishedConfig(r'/poolformer-([sm]\d\d)_', 'poolformer/poolformer_s12_300e_imagenet',
                    [r"model.backbone.size='\1'"]),
    PublishedConfig(r'/convnext-([a-z]+)_.*in21k', 'convnext/convnext_tiny_300e_imagenet',
                    [r"model.backbone.size='\1'", _IN21K]),
    PublishedConfig(r'/convnext-([a-z]+)_', 'convnext/convnext_tiny_300e_imagenet',
                    [r"model.backbone.size='\1'"]),
    PublishedConfig(r'/convnext-?v2-([a-z]+)_', 'convnext/convnext_v2_tiny_300e_imagenet',
                    [r"model.backbone.size='\1'"]),
    PublishedConfig(r'/repvgg-([abd]\d)(g\d|se|)_', 'repvgg/repvgg_a0_120e_imagenet',
                    [r"model.backbone.size='\1\2'"]),
    *TRANSFORMERS,
)


def find_published(name: str) -> PublishedConfig | None:
    """The row of a published config name, such as ``configs/resnet/resnet50_8xb32_in1k.py``."""
    return next((row for row in CLASSIFIERS if re.search(row.pattern, name.lower())), None)


def config_of(row: PublishedConfig, name: str) -> str:
    """Name of our config for a published one that ``row`` stands for."""
    found = re.search(row.pattern, name.lower())
    assert found is not None
    place = found.expand(row.config)
    folder = '' if place.startswith('selfsup/') else 'classification/'
    return f'configs/{folder}{place}.py'
