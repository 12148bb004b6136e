"""Prove which entries of the zoo fit our configs, and record it in ``model_zoo/checks.json``.

    python tools/zoo/check_runs.py [--contracts mmpretrain.json.gz] [--only timm/resnet]

torchvision and timm: the published network is built, on the meta device to compare names and
shapes through our key maps, then with random numbers in every weight to compare what comes out.
OpenMMLab: names and shapes from a file of contracts (see ``check_contracts.py``). Entries that
``--only`` leaves out keep their record; records of others are only removed by a run over all
families, with the contracts, that comes to its end. ``openlab zoo status`` counts what stands
there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import time
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from family_files import ROOT, ZOO
from mmpretrain_peer import NOT_COMPARED, Peer, zero_what_was_not_trained
from torch import Tensor, nn

import openlab
from openlab.apis.contracts import check_contract, misfit, read_contracts
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.loading import load_weights
from openlab.registry import TRANSFORMS
from openlab.zoo.index import entries, files_of
from openlab.zoo.recipe import pipeline_of

CONFIGS = ROOT / 'configs'
FILE = ZOO / 'checks.json'
NAMES, OUTPUTS = 'names and shapes', 'names, shapes and outputs'  # what a record may prove
TOLERANCE = 1e-4  # of the largest output
LARGEST = 700_000_000  # parameters of a network whose outputs are compared
_EFFICIENTNETS = ('b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'lite0', 'lite1',
                  'lite2', 'lite3', 'lite4', 'v2_s', 'v2_m', 'v2_l', 'v2_xl', 'v2_b0', 'v2_b1',
                  'v2_b2', 'v2_b3')
_VIT_SIZES = ('tiny', 'small', 'medium', 'base', 'large', 'huge', 'giant')
_VIT_SHAPE = ('embed_dim', 'depth', 'num_heads', 'mlp_ratio')
_MEAN = {('output', 'with_class_token'): (('mean', False),)}
_NORMED_MEAN = {('output', 'with_class_token'): (('normed_mean', False),)}
_GROUPS = {('groups', 'width_per_group'): ((32, 4), (32, 8), (32, 16), (32, 32), (64, 4))}
# What the backbone of a config may be set to, besides what the config says: by the start of the
# config's path, the options that are combined. Settings that go together are named together.
VARIANTS: dict[str, tuple[dict[str | tuple[str, ...], tuple[Any, ...]], ...]] = {
    'resnet/resnet': (
        {'depth': (18, 34, 50, 101, 152)},
        {('block', 'num_blocks'): (('bottleneck', (2, 2, 2, 2)), ('bottleneck', (3, 24, 36, 3)))},
        {'norm': ({'type': 'torch.nn.GroupNorm', 'num_groups': 32},)}),
    'resnet/resnetv1c': ({'depth': (50, 101, 152), 'stem_channels': (128,)},),
    'resnet/wide_resnet': ({'depth': (50, 101)},),
    'resnext/': ({'depth': (50, 101), **_GROUPS, ('stem', 'avg_down'): (('conv7', False),
                                                                        ('deep', True))},),
    'seresnet/seresnet50': (
        {'depth': (18, 34, 50, 101, 152), ('stem', 'avg_down'): (('conv7', False), ('deep', True))},
        {'depth': (50, 101, 152), ('stride_in_conv1', 'pool_ceil'): ((True, True),)}),
    'seresnet/seresnext': (
        {'depth': (50, 101), **_GROUPS, ('stem', 'avg_down'): (('conv7', False), ('deep', True))},
        {('block', 'num_blocks'): (('bottleneck', (2, 2, 2, 2)),),
         ('stem', 'avg_down'): (('conv7', False), ('deep', True))},
        {'depth': (50, 101), 'pool_ceil': (True,)},
        {('block', 'num_blocks'): (('bottleneck', (2, 2, 2, 2)),), 'pool_ceil': (True,)}),
    'res2net/': (
        {'depth': (50, 101),
         ('slice_width', 'num_slices'): ((26, 4), (14, 8), (26, 6), (26, 8), (48, 2)),
         ('stem', 'avg_down'): (('conv7', False), ('deep', True))},),
    'repvgg/': ({'size': ('a0', 'a1', 'a2', 'b0', 'b1', 'b1g2', 'b1g4', 'b2', 'b2g4', 'b3',
                          'b3g4', 'd2se')},),
    'vgg/': ({'depth': (11, 13, 16, 19), 'with_norm': (True, False)},),
    'densenet/': ({'depth': (121, 161, 169, 201)},),
    'efficientnet/': ({'size': _EFFICIENTNETS, 'padding': ('symmetric', 'same')},),
    'regnet/': ({'size': tuple(f'{kind}_{size}' for kind in 'xy' for size in (
        '200mf', '400mf', '600mf', '800mf', '1.6gf', '3.2gf', '4.0gf', '4gf', '6.4gf', '8gf',
        '8.0gf', '12gf', '16gf', '32gf', '64gf', '128gf', '256gf')),
        'round_half_up': (False, True)},),
    'vit/vit_': (
        {'size': _VIT_SIZES, 'patch_size': (8, 14, 16, 32), 'image_size': (224, 384, 448, 512)},
        {_VIT_SHAPE: ((512, 12, 8, 4.0), (640, 12, 10, 4.0), (320, 14, 5, 5.6), (512, 20, 8, 4.0),
                      (256, 14, 4, 5.0)),
         'image_size': (240, 256, 384), 'num_registers': (0, 1, 4), 'layer_scale': (None, 1e-5),
         **_MEAN},
        {_VIT_SHAPE: ((512, 12, 8, 4.0),), 'image_size': (240, 256, 384), 'layer_scale': (1e-5,),
         'qkv_bias': (False,), **_NORMED_MEAN},
        {_VIT_SHAPE: ((896, 18, 14, 2.572),), 'image_size': (256, 384), 'num_registers': (4,),
         **_NORMED_MEAN},
        {_VIT_SHAPE: ((832, 21, 13, 34 / 13),), 'image_size': (256, 384, 448),
         'layer_scale': (1e-5,), 'num_registers': (1,), 'qkv_bias': (False,), **_MEAN},
        {'size': ('base', 'large', 'huge'), 'patch_size': (14, 16), 'image_size': (224, 448),
         **_NORMED_MEAN},
        {'size': ('base', 'large', 'huge'), 'patch_size': (14, 16), 'output': ('mean',),
         'image_size': (196, 224, 336, 448)},
        {'size': ('small', 'base', 'large'), 'image_size': (240,),
         'with_prefix_position': (False,)},
        {'size': ('base',), 'qkv_bias': (False,)}),
    'deit/': ({'size': ('tiny', 'small', 'base'), 'image_size': (224, 384)},),
    'deit3/': ({'size': _VIT_SIZES, 'image_size': (224, 384), 'patch_size': (14, 16)},),
    'dinov2/': (
        {'size': ('small', 'base', 'large'), 'image_size': (518,),
         ('num_registers', 'with_prefix_position'): ((0, True), (4, False))},
        {'size': ('giant',), 'image_size': (518,), 'with_gated_mlp': (True,),
         ('num_registers', 'with_prefix_position'): ((0, True), (4, False))}),
    'clip/': (
        {'size': ('base', 'large', 'huge'), 'patch_size': (14, 16, 32),
         'image_size': (224, 256, 336, 378, 384, 448)},
        {_VIT_SHAPE: ((256, 10, 4, 4.0), (512, 12, 8, 4.0), (640, 12, 10, 4.0), (896, 12, 14, 4.0),
                      (1408, 40, 16, 48 / 11), (1664, 48, 16, 64 / 13)),
         'patch_size': (14, 16, 32), 'image_size': (224, 240, 378)}),
    'siglip/': (
        {'size': ('base', 'large'), 'patch_size': (16, 32), 'image_size': (224, 256, 384, 512),
         'output': ('attention_pool', 'normed_mean')},
        {_VIT_SHAPE: ((1536, 40, 16, 4.0),), 'image_size': (256, 384),
         'output': ('attention_pool', 'normed_mean')},
        {_VIT_SHAPE: ((1152, 27, 16, 3.7362),), 'patch_size': (14, 16),
         'image_size': (224, 256, 384, 448, 512, 896),
         'output': ('attention_pool', 'normed_mean')}),
    'beit/': (
        {'size': ('base', 'large'), 'image_size': (224, 384, 512)},
        {'size': ('giant',), 'patch_size': (14,), 'image_size': (224, 336, 560),
         'output': ('mean', 'class_token'),
         ('layer_scale', 'with_relative_bias', 'with_position'): ((None, False, True),)}),
    'eva02/': (
        {'size': ('tiny', 'small', 'base', 'large'), 'image_size': (224, 336, 448)},
        {('size', 'patch_size'): (('base', 16), ('large', 14)), 'image_size': (224, 336),
         'with_attention_norm': (True,), 'output': ('class_token',)}),
    'swin/': ({'size': ('tiny', 'small', 'base', 'large'), 'window_size': (7, 12)},),
    'swin_v2/': (
        {'size': ('tiny', 'small', 'base', 'large'), ('window_size', 'trained_window'): (
            (8, None), ((12, 12, 12, 6), None), ((16, 16, 16, 8), None),
            ((16, 16, 16, 8), (12, 12, 12, 6)), ((24, 24, 24, 12), (12, 12, 12, 6)))},),
    'convnext/': (
        {'size': ('atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base', 'large', 'xlarge',
                  'huge')},
        {'size': ('xxlarge',), 'norm_eps': (1e-5,)},
        {'size': ('large',), ('head.type', 'head.hidden_channels', 'head.act'): (
            ('openlab.heads.mlp_head.MLPHead', (1536,), {'type': 'torch.nn.GELU'}),)}),
    'mlp_mixer/': ({'size': ('small', 'base', 'large'), 'patch_size': (16, 32)},),
    'twins/': ({'size': ('pcpvt_small', 'pcpvt_base', 'pcpvt_large', 'svt_small', 'svt_base',
                         'svt_large')},),
    'poolformer/': ({'output': ('mean',)},),
    'fastvit/': ({'size': ('mci0', 'mci1', 'mci2', 'mci3', 'mci4')},),
    'pvt_v2/': ({'size': ('b0', 'b1', 'b2', 'b3', 'b4', 'b5'), 'is_linear': (False, True)},),
    'mobilenet_v2/': ({'width': (0.5, 0.75, 1.0, 1.1, 1.4)},),
    'mobilenet_v3/': ({'width': (0.5, 0.75, 1.0), 'scaling': ('table', 'ratio'),
                       'padding': ('symmetric', 'same')},),
    'mobilenet_v4/': ({'width': (0.35, 0.5, 0.75, 1.0), 'pool': (None, 'mean', 'blur')},),
    'hrnet/': ({'size': ('w18_small', 'w18_small_v2',
                         *(f'w{n}' for n in (18, 30, 32, 40, 44, 48, 64))),
                'neck.bias': (True, False)},),
    'resnest/': ({'depth': (14, 26, 50, 101, 200, 269)},),
    'cspnet/': ({'size': ('darknet53', 'resnet50', 'resnet50d', 'resnext50')},),
}
# Parameters of auxiliary classifiers, which only training uses and key maps drop.
AUXILIARY = {('torchvision', 'inception_v3'): 3_326_696,
             # Biases of keys, which Swin v2 has none of: there they are held at zero.
             ('torchvision', 'swin_v2_t'): 4416, ('torchvision', 'swin_v2_s'): 9024,
             ('torchvision', 'swin_v2_b'): 12_032}
# Detectors and segmentors of torchvision: our config, its overrides, and how many of the names of
# classes come before our first one (torchvision counts the background, where ours does not).
_COCO91 = 'model.head.num_classes=91'
_WHOLE_ANCHORS = ("model.head.anchors={'type': 'openlab.targets.anchors.AnchorGenerator', 'sizes': "
                  '[[32, 40, 50], [64, 80, 101], [128, 161, 203], [256, 322, 406], '
                  '[512, 645, 812]]}')
DENSE: dict[str, tuple[str, tuple[str, ...], int]] = {
    'fasterrcnn_resnet50_fpn': ('detection/faster_rcnn/faster_rcnn_resnet50_12e_coco.py',
                                ('model.box_head.num_classes=90',), 1),
    'maskrcnn_resnet50_fpn': (
        'detection/mask_rcnn/mask_rcnn_resnet50_12e_coco.py',
        ('model.box_head.num_classes=90', 'model.mask_head.num_classes=90'), 1),
    'fasterrcnn_resnet50_fpn_v2': ('detection/faster_rcnn/faster_rcnn_v2_resnet50_12e_coco.py',
                                   ('model.box_head.num_classes=90',), 1),
    'maskrcnn_resnet50_fpn_v2': (
        'detection/mask_rcnn/mask_rcnn_v2_resnet50_12e_coco.py',
        ('model.box_head.num_classes=90', 'model.mask_head.num_classes=90'), 1),
    'retinanet_resnet50_fpn': ('detection/retinanet/retinanet_resnet50_12e_coco.py',
                               (_COCO91, "model.neck.extra_from='p5'", _WHOLE_ANCHORS), 0),
    'retinanet_resnet50_fpn_v2': ('detection/retinanet/retinanet_v2_resnet50_12e_coco.py',
                                  (_COCO91, _WHOLE_ANCHORS), 0),
    'fcos_resnet50_fpn': ('detection/fcos/fcos_resnet50_12e_coco.py', (_COCO91,), 0),
    'fcn_resnet50': ('segmentation/fcn/fcn_resnet50_40k_voc.py', (), 0),
    'fcn_resnet101': ('segmentation/fcn/fcn_resnet50_40k_voc.py', ('model.backbone.depth=101',), 0),
    'deeplabv3_resnet50': ('segmentation/deeplabv3/deeplabv3_resnet50_40k_voc.py', (), 0),
    'deeplabv3_resnet101': ('segmentation/deeplabv3/deeplabv3_resnet50_40k_voc.py',
                            ('model.backbone.depth=101',), 0),
}
# Checkpoints of transformers: class, settings beyond its defaults, our config, its overrides.
_FINE_NORM = "model.backbone.norm={'type': 'torch.nn.LayerNorm', 'eps': 1e-12}"
_FINE_BATCH_NORM = "model.backbone.norm={'type': 'torch.nn.BatchNorm2d', 'eps': 0.001}"
_VIT = 'classification/vit/vit_base_300e_imagenet.py'
_SWIN_SMALL = ("model.backbone={'type': 'openlab.backbones.swin.SwinTransformer', 'size': 'small', "
               "'out_stages': [2, 3, 4, 5]}")
TWO_TOWERS = ('CLIPModel', 'SiglipModel')
HEADLESS = ('Model', 'ForMaskedImageModeling', 'HieraForPreTraining')
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    'google/vit-base-patch16-224': (
        'ViTForImageClassification', {'num_labels': 1000}, _VIT,
        (_FINE_NORM,)),
    'google/vit-base-patch16-224-in21k': ('ViTModel', {}, _VIT, (_FINE_NORM,)),
    'facebook/vit-mae-base': (
        'ViTMAEForPreTraining', {}, 'selfsup/mae/mae_vit_base_800e_imagenet.py', ()),
    'facebook/deit-base-distilled-patch16-224': (
        'DeiTForImageClassificationWithTeacher', {'num_labels': 1000},
        'classification/deit/deit_tiny_distilled_300e_imagenet.py',
        ("model.backbone.size='base'", _FINE_NORM)),
    'facebook/dinov2-base': (
        'Dinov2Model', {'image_size': 518},
        'classification/dinov2/dinov2_small_reg4_30e_imagenet.py',
        ("model.backbone.size='base'", 'model.backbone.image_size=518',
         'model.backbone.num_registers=0', 'model.backbone.with_prefix_position=True')),
    'facebook/hiera-tiny-224-hf': (
        'HieraForImageClassification', {'num_labels': 1000, 'depths': [1, 2, 7, 2]},
        'classification/hiera/hiera_tiny_100e_imagenet.py', ()),
    'facebook/hiera-base-224': (
        'HieraForImageClassification', {'num_labels': 1000, 'depths': [2, 3, 16, 3]},
        'classification/hiera/hiera_tiny_100e_imagenet.py', ("model.backbone.size='base'",)),
    'facebook/hiera-tiny-224-mae-hf': (
        'HieraForPreTraining', {'depths': [1, 2, 7, 2], 'decoder_hidden_size': 384,
                                'decoder_depth': 8, 'decoder_num_heads': 16},
        'classification/hiera/hiera_tiny_100e_imagenet.py', ()),
    'facebook/levit-128S': (
        'LevitForImageClassificationWithTeacher',
        {'num_labels': 1000, 'depths': [2, 3, 4], 'num_attention_heads': [4, 6, 8]},
        'classification/levit/levit_128s_1000e_imagenet.py', ()),
    'microsoft/resnet-50': ('ResNetForImageClassification', {'num_labels': 1000},
                            'classification/resnet/resnet50_100e_imagenet.py', ()),
    'openai/clip-vit-base-patch32': (
        'CLIPModel', {}, 'classification/clip/clip_base_p32_zero_shot.py', ()),
    'google/siglip-base-patch16-224': (
        'SiglipModel', {}, 'classification/siglip/siglip_base_zero_shot.py', ()),
    'facebook/detr-resnet-50': ('DetrForObjectDetection', {'num_labels': 91},
                                'detection/detr/detr_resnet50_150e_coco.py', (_COCO91,)),
    'microsoft/beit-base-patch16-224': (
        # transformers adds 1e-12 in its norms, but the training before the conversion 1e-6.
        'BeitForImageClassification',
        {'num_labels': 1000, 'use_relative_position_bias': True, 'layer_norm_eps': 1e-6},
        'classification/beit/beit_base_100e_imagenet.py', ()),
    'microsoft/beit-base-patch16-224-pt22k': (
        'BeitForMaskedImageModeling', {'use_shared_relative_position_bias': True},
        'classification/beit/beit_base_100e_imagenet.py',
        ("model.backbone.output='class_token'",)),
    'facebook/convnext-tiny-224': (
        'ConvNextForImageClassification', {'num_labels': 1000},
        'classification/convnext/convnext_tiny_300e_imagenet.py', ()),
    'facebook/convnextv2-tiny-1k-224': (
        'ConvNextV2ForImageClassification', {'num_labels': 1000},
        'classification/convnext/convnext_v2_tiny_300e_imagenet.py', ()),
    'google/efficientnet-b7': (
        'EfficientNetForImageClassification', {'num_labels': 1000},
        'classification/efficientnet/efficientnet_b0_350e_imagenet.py',
        ("model.backbone.size='b7'", "model.backbone.padding='same'", _FINE_BATCH_NORM)),
    'google/mobilenet_v2_1.0_224': (
        'MobileNetV2ForImageClassification', {'num_labels': 1001},
        'classification/mobilenet_v2/mobilenet_v2_150e_imagenet.py',
        ('model.head.num_classes=1001', "model.backbone.padding='same'", _FINE_BATCH_NORM)),
    'sail/poolformer_s12': (
        'PoolFormerForImageClassification', {'num_labels': 1000},
        'classification/poolformer/poolformer_s12_300e_imagenet.py',
        ("model.backbone.output='maps'",)),
    'OpenGVLab/pvt_v2_b0': ('PvtV2ForImageClassification', {'num_labels': 1000},
                            'classification/pvt_v2/pvt_v2_b2_300e_imagenet.py',
                            ("model.backbone.size='b0'",)),
    'facebook/regnet-y-040': ('RegNetForImageClassification', {'num_labels': 1000},
                              'classification/regnet/regnety_400mf_100e_imagenet.py',
                              ("model.backbone.size='y_4gf'",)),
    'microsoft/swin-tiny-patch4-window7-224': (
        'SwinForImageClassification', {'num_labels': 1000},
        'classification/swin/swin_tiny_300e_imagenet.py', ()),
    'microsoft/swin-base-simmim-window6-192': (
        'SwinForMaskedImageModeling',
        {'image_size': 192, 'window_size': 6, 'embed_dim': 128, 'depths': [2, 2, 18, 2],
         'num_heads': [4, 8, 16, 32]},
        'classification/swin/swin_base_300e_imagenet.py', ('model.backbone.window_size=6',)),
    'microsoft/swinv2-tiny-patch4-window8-256': (
        'Swinv2ForImageClassification', {'num_labels': 1000, 'image_size': 256, 'window_size': 8},
        'classification/swin_v2/swin_v2_tiny_w8_300e_imagenet_256.py', ()),
    'facebook/mask2former-swin-small-coco-instance': (
        'Mask2FormerForUniversalSegmentation', {'num_labels': 80},
        'segmentation/mask2former/mask2former_resnet50_50e_coco_instance.py', (_SWIN_SMALL,)),
    'facebook/mask2former-swin-small-cityscapes-panoptic': (
        'Mask2FormerForUniversalSegmentation', {'num_labels': 19},
        'segmentation/mask2former/mask2former_resnet50_50e_coco_panoptic.py',
        (_SWIN_SMALL, 'model.head.num_classes=19', f'model.head.stuff={[*range(11)]}')),
    'facebook/mask2former-swin-small-ade-semantic': (
        'Mask2FormerForUniversalSegmentation', {'num_labels': 150},
        'segmentation/mask2former/mask2former_resnet50_50e_coco_instance.py',
        (_SWIN_SMALL, 'model.head.num_classes=150', "model.head.task='semantic'")),
    'nvidia/segformer-b0-finetuned-ade-512-512': (
        'SegformerForSemanticSegmentation', {'num_labels': 150},
        'segmentation/segformer/segformer_mit_b0_160k_ade20k.py', ()),
}
_BATCH_NORM = "model.backbone.norm={'type': 'torch.nn.BatchNorm2d', 'eps': 0.001}"
_LAYER_NORM = "model.backbone.norm={'type': 'torch.nn.LayerNorm', 'eps': 1e-05}"
EXTRA: dict[str, tuple[tuple[str, ...], ...]] = {  # what shows in the outputs alone
    'EfficientNet': ((_BATCH_NORM,),),
    'MobileNetV3': ((_BATCH_NORM,),),
    'VisionTransformer': (
        ("model.backbone.act={'type': 'torch.nn.GELU'}",), (_LAYER_NORM,),
        ("model.backbone.act={'type': 'torch.nn.GELU', 'approximate': 'tanh'}",)),
}


class Variant(NamedTuple):
    """One network of ours."""

    config: str
    overrides: tuple[str, ...]
    params: int = 0
    kind: str = ''
    per_class: int = 0  # parameters that one more class costs
    with_head: bool = True  # else only the backbone is meant


def main() -> None:
    """Check, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--contracts', type=Path, help='names and shapes of OpenMMLab')
    parser.add_argument('--outputs', action='store_true',
                        help='with --contracts: compare outputs with mmpretrain as well')
    parser.add_argument('--only', default='', help='start of the names to check')
    parser.add_argument('--families', nargs='*', default=[''],
                        help='folders of configs/classification to compare with; by default all')
    parser.add_argument('--missing', action='store_true',
                        help='of torchvision and timm, check only entries without a record')
    parser.add_argument('--minutes', type=float, default=60, help='stop after this time')
    args = parser.parse_args()
    torch.manual_seed(0)
    old = json.loads(FILE.read_text('utf-8'))['checks'] if FILE.is_file() else {}
    records, found = dict(old), set()
    end = time.monotonic() + 60 * args.minutes
    for name, record in itertools.chain(
            check_own(args.only), check_dense(args.only),
            check_transformers(args.only),
            check_published(args.only, end, args.families, old if args.missing else ()),
            check_openmmlab(args.contracts, args.only, args.outputs) if args.contracts else (),
            same_files(args.only, records)):
        records[name] = stronger(old.get(name), record)
        found.add(name)
        write(records)
    is_whole = args.families == [''] and args.contracts and not args.missing
    if time.monotonic() < end and is_whole:
        records = {name: record for name, record in records.items()
                   if name in found or not name.startswith(args.only)}
        write(records)
    print(f'{len(records)} entries run')


def write(records: Mapping[str, Any]) -> None:
    """Write the records, one a line."""
    lines = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(records[name])}'
                       for name in sorted(records))
    FILE.write_text('{\n "checks": {\n' + lines + '\n }\n}\n', 'utf-8')


def record_of(variant: Variant, proof: str, tensors: int) -> dict[str, Any]:
    """What is noted of a proof."""
    found = {'config': variant.config, 'proof': proof, 'tensors': tensors,
             'openlab': openlab.__version__}
    if variant.overrides:
        found['overrides'] = list(variant.overrides)
    if not variant.with_head:
        found['part'] = 'backbone'
    return found


def our_variants(families: Sequence[str] = ('',)) -> Iterator[Variant]:
    """Our classifiers of 1,000 classes: each config and the sizes that it may be set to."""
    seen = set()
    files = sorted(file for family in families
                   for file in (CONFIGS / 'classification' / family).rglob('*_imagenet*.py'))
    models = {file: load_config(file).to_plain()['model'] for file in files}
    models = {file: model for file, model in models.items() if 'backbone' in model}
    files = list(models)
    plain: list[tuple[Path, dict[str, Any]]] = [(file, {}) for file in files]  # as it is, first
    edited = [(file, edits) for file in files
              for edits in edits_of(file.relative_to(CONFIGS / 'classification').as_posix())]
    for file, changes in plain + edited:
        network = edited_model(models[file], changes)
        used = {k: v for k, v in network['backbone'].items() if k != 'drop_path'}
        key = json.dumps([used, network.get('neck'), network['head']['type']], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        try:
            with torch.device('meta'):
                built = build(network, path='model')
        except (ValueError, KeyError, TypeError):
            continue  # a size that this backbone does not have
        ends = [m.in_features for m in built.modules()
                if isinstance(m, nn.Linear) and m.out_features == 1000]
        yield Variant(
            file.relative_to(CONFIGS).as_posix(),
            tuple(f'model.{place(name)}={value!r}' for name, value in changes.items()),
            sum(p.numel() for p in built.parameters()),
            network['backbone']['type'].rpartition('.')[2], sum(n + 1 for n in ends))


def place(name: str) -> str:
    """Where a setting of ``VARIANTS`` stands in a model."""
    return name if '.' in name else f'backbone.{name}'


def edited_model(model: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model with other settings."""
    result = dict(model)
    for name, value in changes.items():
        part, _, key = place(name).partition('.')
        result[part] = {**result[part], key: value}
    return result


def edits_of(config: str) -> Iterator[dict[str, Any]]:
    """Combinations of what the backbone of a config may be set to."""
    for start, groups in VARIANTS.items():
        for options in groups if config.startswith(start) else ():
            for values in itertools.product(*options.values()):
                edits: dict[str, Any] = {}
                for names, value in zip(options, values, strict=True):
                    together = isinstance(names, tuple)
                    edits.update(zip(names, value, strict=True) if together else {names: value})
                yield edits


def with_classes(variant: Variant, classes: int) -> Variant:
    """The same network with another number of classes; of none, its backbone."""
    if classes == 1000:
        return variant
    return variant._replace(
        overrides=(*variant.overrides, f'model.head.num_classes={classes}') if classes else
        variant.overrides, with_head=bool(classes),
        params=variant.params + (classes - 1000) * variant.per_class)


def our_model(config: str | Path, overrides: tuple[str, ...]) -> nn.Module:
    """Build a network of ours."""
    cfg = load_config(CONFIGS / config, list(overrides))
    return build(cfg.to_plain()['model'], path='model')


def our_network(variant: Variant) -> nn.Module:
    """A network of ours, without its head where that is not meant."""
    model = our_model(variant.config, variant.overrides)
    return model if variant.with_head else model.backbone


def check_own(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of ours whose weights are on this machine: they are loaded."""
    from openlab.zoo.sources import fetch

    for model in models_of('openlab'):
        if not model['name'].startswith(only) or not model.get('config'):
            continue
        overrides = tuple(model.get('overrides', ()))
        ours = our_model(model['config'], overrides)
        try:
            report = load_weights(ours, fetch(model['weights'][0]))
        except FileNotFoundError as error:
            print(f'{model["name"]}: not checked, {error}')
            continue
        variant = Variant(model['config'], overrides)
        yield model['name'], record_of(variant, 'its weights load', len(report.matched))


def check_dense(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Detectors and segmentors of torchvision: names and shapes (tests compare what comes out)."""
    from torchvision import models

    for model in models_of('torchvision'):
        if model['architecture'] not in DENSE or not model['name'].startswith(only):
            continue
        config, overrides, first_class = DENSE[model['architecture']]
        is_segmentor = config.startswith('segmentation/')
        with torch.device('meta'):
            shapes = models.get_model(model['architecture'], weights=None, weights_backbone=None,
                                      **({'aux_loss': True} if is_segmentor else {})).state_dict()
            problem = misfit(our_model(config, overrides), shapes)
        print(f'{model["name"]}: {problem or config}', flush=True)
        if not problem:
            record = record_of(Variant(config, overrides), NAMES, len(shapes))
            yield model['name'], {**record, **({'first_class': first_class} if first_class else {})}


def check_transformers(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoints of transformers: names and shapes, and of classifiers what comes out."""
    import transformers

    for name, (kind, settings, config, overrides) in TRANSFORMERS.items():
        name = f'transformers/{name}'
        if not name.startswith(only):
            continue
        make = getattr(transformers, kind)
        with torch.device('meta'):
            shapes = make(make.config_class(**settings)).state_dict()
            has_head = kind in TWO_TOWERS or not kind.endswith(HEADLESS)
            variant = Variant(config, overrides, with_head=has_head)
            problem = misfit(our_network(variant), shapes)
        is_classifier = 'ForImageClassification' in kind
        if is_classifier and not problem:
            problem = logits_differ(make(make.config_class(**settings)), variant)
        print(f'{name}: {problem or config}', flush=True)
        if not problem:
            yield name, record_of(variant, OUTPUTS if is_classifier else NAMES, len(shapes))


@torch.no_grad()
def logits_differ(whole: Any, variant: Variant) -> str:
    """By how much a classifier of transformers gives other logits than ours, if by too much."""
    randomise(whole.eval())
    ours: Any = our_network(variant).eval()
    load_weights(ours, whole.state_dict())
    size = getattr(whole.config, 'image_size', 224)
    images = torch.randn(1, 3, *((size, size) if isinstance(size, int) else size))
    return difference(ours.outputs(images), whole(images).logits)


def check_published(only: str, end: float, families: Sequence[str] = ('',),
                    known: Container[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of torchvision and timm with as many parameters as a network of ours."""
    wanted = [model for source in ('torchvision', 'timm') for model in models_of(source)
              if model.get('params') and model['name'].startswith(only)
              and model['name'] not in known]
    if not wanted:
        return
    done: dict[tuple[str, str, int, int], dict[str, Any] | None] = {}
    variants = list(our_variants(families))
    print(f'{len(variants)} networks of ours', flush=True)
    for model in wanted:
        classes = model.get('num_classes', 1000)
        if model['name'].startswith('torchvision/quantized_'):
            continue
        params = model['params'] - AUXILIARY.get((model['source'], model['architecture']), 0)
        same = [v for v in (with_classes(v, classes) for v in variants) if v.params == params]
        key = (model['source'], model['architecture'], classes, model['params'])
        if key not in done and same and time.monotonic() < end:
            done[key] = first_fit(model, classes, same)
            print(f'{key}: {done[key] or "does not fit"}', flush=True)
        record = done.get(key)
        if record:
            yield model['name'], of_features(record) if is_embedding(model) else record


def is_embedding(model: Mapping[str, Any]) -> bool:
    """Whether the last layer of a network projects to an embedding and knows no classes."""
    return 'representation learning' in model['tasks'] and bool(model.get('num_classes'))


def of_features(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record for what comes before a layer that knows no classes."""
    overrides = [o for o in record.get('overrides', ()) if 'head.num_classes' not in o]
    plain = {key: value for key, value in record.items() if key != 'overrides'}
    return {**plain, **({'overrides': overrides} if overrides else {}), 'part': 'backbone'}


def models_of(source: str) -> Iterator[dict[str, Any]]:
    """Every entry of a source."""
    for file in sorted((ZOO / source).glob('*.json')):
        yield from entries(json.loads(file.read_text('utf-8')))


def first_fit(model: Mapping[str, Any], classes: int,
              variants: list[Variant]) -> dict[str, Any] | None:
    """The record of the first variant that gives the same numbers."""
    whole: nn.Module | None = None
    try:
        with torch.device('meta'):
            shapes = reference(model, classes).state_dict()
    except NotImplementedError:  # some networks compute their widths with tensors
        shapes = reference(model, classes).state_dict()
    for variant in variants:
        try:
            with torch.device('meta'):
                problem = misfit(our_network(variant), shapes)
        except ValueError as error:  # a map makes one name of two
            problem = str(error)
        if problem:
            continue
        if variant.params > LARGEST:
            return record_of(variant, NAMES, len(shapes))
        if whole is None:
            whole = reference(model, classes).eval()
            randomise(whole)
        tries = [variant] + [variant._replace(overrides=(*variant.overrides, *extra))
                             for extra in EXTRA.get(variant.kind, ())]
        for attempt in tries:
            if same_numbers(whole, attempt, image_size(model)):
                return record_of(attempt, OUTPUTS, len(shapes))
    return None


def reference(model: Mapping[str, Any], classes: int) -> nn.Module:
    """The published network with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if model['source'] == 'timm':
            import timm

            return timm.create_model(model['architecture'], num_classes=classes)
        from torchvision import models

        sized = {'image_size': image_size(model)} if 'vit_' in model['architecture'] else {}
        return models.get_model(model['architecture'], weights=None, **sized)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Numbers that leave no branch out: fresh networks scale some of them by zero."""
    published = model.state_dict()  # what else a network keeps is none of its weights
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if name not in published or not tensor.is_floating_point():
            continue
        if name.endswith('running_var'):
            tensor.uniform_(0.8, 1.2)
        elif tensor.ndim <= 1 and 'relative' not in name:
            is_scale = name.endswith(('weight', 'gamma'))
            tensor.uniform_(0.5, 1.0) if is_scale else tensor.normal_(0, 0.05)


def image_size(model: Mapping[str, Any]) -> int:
    """Pixels for the comparison: few, except where a network takes only its own size."""
    if model['source'] == 'timm':
        from timm.models import get_pretrained_cfg

        cfg = get_pretrained_cfg(model['name'].partition('/')[2])
        is_fixed = cfg.fixed_input_size or re.search('vit|swin|beit|eva', model['architecture'])
        return cfg.input_size[-1] if is_fixed else 96
    if re.search('vit|swin', model['architecture']):
        return (model.get('preprocessing') or {}).get('crop', 224)
    return 96


@torch.no_grad()
def same_numbers(whole: nn.Module, variant: Variant, size: int) -> bool:
    """Whether our network gives the logits of the published one, with its weights."""
    ours = our_network(variant).eval()
    try:
        load_weights(ours, whole.state_dict())
        image = torch.randn(1, 3, size, size)
        expected = whole(image)
        got = ours.outputs(image) if variant.with_head else ours(image)
    except (ValueError, RuntimeError, AssertionError) as error:
        print(f'  {variant.config} {variant.overrides}: {str(error).splitlines()[0][:150]}')
        return False
    got = got[0] if isinstance(got, (tuple, list)) else got
    if not variant.with_head and got.ndim == 4:
        got = got.mean((2, 3))
    if getattr(got, 'shape', None) != expected.shape or not expected.isfinite().all():
        return False
    error = ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    if error > TOLERANCE:
        print(f'  {variant.config} {variant.overrides}: outputs differ by {error:.1e}')
    return error <= TOLERANCE


def check_openmmlab(file: Path, only: str = '',
                    with_outputs: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of mmpretrain whose contract fits."""
    contracts = read_contracts(file)
    fits: dict[str, dict[str, Any] | None] = {}
    compared: dict[str, bool] = {}
    for model in models_of('mmpretrain'):
        config = model.get('source_config')
        if config not in contracts or not model['name'].startswith(only):
            continue
        if config not in fits:
            fits[config] = contract_record(config, contracts[config])
            params = sum(math.prod(shape) for shape, _ in contracts[config].values())
            if fits[config] and with_outputs and params <= LARGEST:
                fits[config] = with_same_outputs(config, fits[config], compared)
        if fits[config]:
            yield model['name'], fits[config]  # type: ignore[misc]


def same_files(only: str, records: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of mmselfsup whose file mmpretrain lists as well, by its name with the hash."""
    known = {file: records[model['name']] for model in models_of('mmpretrain')
             if model['name'] in records for file in hashed_files(model)}
    for model in models_of('mmselfsup'):
        files = known.keys() & hashed_files(model)
        if files and model['name'].startswith(only):
            yield model['name'], known[files.pop()]


def hashed_files(model: Mapping[str, Any]) -> set[str]:
    """Names of an entry's files that end with a part of their hash."""
    names = {mirror.rpartition('/')[2] for file in files_of(model) for mirror in file['weights']}
    return {name for name in names if re.search(r'-[0-9a-f]{8}\.pth$', name)}


def contract_record(name: str, contract: Any) -> dict[str, Any] | None:
    """The record for one published config of OpenMMLab; None if it does not fit."""
    from openlab.zoo.openmmlab_configs import find_published

    result, published = check_contract(name, contract), find_published(name)
    if not result.loads or published is None:
        return None
    variant = Variant(result.config.removeprefix('configs/'), tuple(published.overrides(name)),
                      with_head=not (published.part or name.endswith('_headless.py')))
    return record_of(variant, NAMES, len(contract))


def with_same_outputs(name: str, record: dict[str, Any],
                      compared: dict[str, bool]) -> dict[str, Any] | None:
    """The record after a comparison with mmpretrain's network; None if they differ."""
    peer = Peer(name)
    problem = preparation_differs(peer)
    if problem:
        print(f'{name}: {problem}', flush=True)
        return None
    if re.search(NOT_COMPARED, name):
        return record
    key = json.dumps([record, peer.model_cfg.backbone.to_dict()], default=str)
    if key not in compared:
        problem = outputs_differ(peer, record)
        print(f'{name}: {problem or "same outputs"}', flush=True)
        compared[key] = not problem
    return {**record, 'proof': OUTPUTS} if compared[key] else None


def preparation_differs(peer: Peer) -> str:
    """Whether an image comes out otherwise than of mmpretrain's own steps, before normalising."""
    told = peer.preprocessing or {}
    if 'resize' not in told:
        return ''
    size = (32, 32) if 'cifar' in peer.name else (400, 451)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    results: dict[str, Any] = {'img': image.copy()}
    for step in pipeline_of(told)[1:-1]:
        results = build(step, TRANSFORMS, 'step')(results)
    expected = peer.prepare(image)
    return '' if np.array_equal(results['img'], expected) else (
        f'images are prepared otherwise: {results["img"].shape}, there {expected.shape}')


def outputs_differ(peer: Peer, record: Mapping[str, Any]) -> str:
    """By how much outputs of the same weights differ, if by more than the tolerance."""
    whole = peer.build()
    randomise(whole)
    zero_what_was_not_trained(whole)
    is_backbone = 'part' in record
    ours: Any = our_network(Variant(record['config'], tuple(record.get('overrides', ())),
                                    with_head=not is_backbone)).eval()
    state = whole.state_dict()
    if is_backbone:
        state = {name.removeprefix('backbone.'): value for name, value in state.items()
                 if name.startswith('backbone.')}
    load_weights(ours, state)
    images = torch.randn(2, 3, peer.image_size, peer.image_size)
    expected = peer.outputs(whole, images, is_backbone)
    with torch.no_grad():
        got = ours(images)[-1] if is_backbone else ours.outputs(images)
    return difference(got, expected)


def difference(got: Tensor, expected: Tensor) -> str:
    """By how much outputs differ, relative to the largest, if by more than the tolerance."""
    if got.shape != expected.shape:
        return f'outputs have shape {tuple(got.shape)}, not {tuple(expected.shape)}'
    error = ((got - expected).abs().max() / expected.abs().max()).item()
    return '' if error <= TOLERANCE else f'outputs differ by {error:.1e}'


def stronger(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The new record, with the proof of an earlier one of the same network if that says more."""
    same = old is not None and all(old.get(key) == new.get(key) for key in (
        'config', 'overrides', 'tensors', 'part'))
    return {**new, 'proof': OUTPUTS} if same and old and old['proof'] == OUTPUTS else new


if __name__ == '__main__':
    main()
