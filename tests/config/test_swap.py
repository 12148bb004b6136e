"""Parts by name: in overrides, and written as a config of their own."""

import re
import textwrap

import pytest
import torch

from openlab import cli
from openlab.config import ConfigError, ConfigWarning, load_config
from openlab.config.build import build
from openlab.config.parts import find_part, kind_of, published_names, sizes_of
from openlab.engine.loading import load_weights
from openlab.registry import MODELS

FCOS = 'fcos_resnet50_12e_coco'


def backbone(name):
    cfg = find_part(name, 'backbone', 'here').cfg
    return {**cfg, 'type': cfg['type'].dotted_path.rpartition('.')[2]}


@pytest.mark.parametrize(('name', 'expected'), [
    ('ConvNeXt-T', {'type': 'ConvNeXt', 'size': 'tiny'}),
    ('convnext_tiny', {'type': 'ConvNeXt', 'size': 'tiny'}),
    ('ConvNeXt', {'type': 'ConvNeXt'}),
    ('ResNet-50', {'type': 'ResNet', 'depth': 50}),
    ('Swin-T', {'type': 'SwinTransformer', 'size': 'tiny'}),
    ('Swin-L', {'type': 'SwinTransformer', 'size': 'large'}),  # no config has this size
    ('MobileNetV3-L', {'type': 'MobileNetV3', 'size': 'large'}),
    ('ViT-B/32', {'type': 'VisionTransformer', 'size': 'base', 'patch_size': 32}),
    ('MiT-B0', {'type': 'MixTransformer', 'size': 'b0'}),
    ('RegNetY-800MF', {'type': 'RegNet', 'size': 'y_800mf'}),
    ('torchvision://resnet50', {'type': 'ResNet', 'depth': 50}),
    ('timm/convnext_tiny.fb_in1k', {'type': 'ConvNeXt', 'size': 'tiny'})])
def test_backbones_are_found_by_their_names(name, expected):
    found = backbone(name)
    assert expected.items() <= found.items()


def test_weights_come_with_a_name_of_the_zoo():
    assert find_part('convnext_tiny.fb_in1k', 'backbone', '').weights == (
        'zoo://timm/convnext_tiny.fb_in1k')
    assert find_part('ConvNeXt-T', 'backbone', '').weights is None


@pytest.mark.parametrize(('edit', 'message'), [
    ('model.backbone=ConvNixt-T', 'no backbone named .* did you mean .*convnext_tiny'),
    ('model.backbone=FocalLoss', 'a backbone belongs there .*ResNet-50.* FocalLoss is a loss'),
    ('model.backbone=LlamaDecoder', 'LlamaDecoder is a text backbone'),
    ('model.neck=ResNet', 'a neck belongs there .*FPN.* ResNet is a backbone'),
    ('model.head.cls_loss=IoUAssigner', 'a loss belongs there .*Loss.* IoUAssigner is an assigner'),
    ('model.head.cls_loss=FokalLoss', 'no loss named .* did you mean FocalLoss')])
def test_a_wrong_name_says_what_is_accepted(edit, message):
    with pytest.raises(ConfigError, match=message):
        load_config(FCOS, [edit])


def test_a_backbone_keeps_the_strides_and_leaves_its_weights():
    with pytest.warns(ConfigWarning) as caught:
        cfg = load_config(FCOS, ['model.backbone=RegNetX-400MF'])
    assert cfg.model.backbone.out_stages == (3, 4, 5)
    assert (cfg.load_from, cfg.custom_hooks) == (None, [])
    told = ' '.join(str(w.message) for w in caught)
    assert 'load_from (torchvision://resnet50)' in told and 'FreezeHook' in told


def test_weights_named_beside_it_are_kept():
    with pytest.warns(ConfigWarning) as caught:
        cfg = load_config(FCOS, ['model.backbone=RegNetX-400MF', 'load_from=x.pth'])
    assert cfg.load_from == 'x.pth'
    assert len(caught) == 1 and 'FreezeHook' in str(caught[0].message)


def test_a_zoo_name_brings_its_weights():
    with pytest.warns(ConfigWarning, match='load_from is torchvision://resnet50 now'):
        cfg = load_config(FCOS, ['model.backbone=torchvision://resnet50'])
    assert cfg.load_from.source == 'torchvision://resnet50'
    assert [re.search(p, 'neck.x') and not re.search(p, 'backbone.x')
            for p in cfg.load_from.allow_missing] == [True]
    assert cfg.model.backbone.norm.type.dotted_path == 'openlab.layers.norm.FrozenBatchNorm2d'


@pytest.mark.parametrize(('config', 'path'), [
    ('quickstart/classification', 'model.backbone'),
    ('resnet50_100e_imagenet', 'model.backbone'),
    ('fitnet_resnet18_100e_imagenet', 'model.student.backbone')])
def test_a_zoo_name_brings_its_weights_also_where_none_were_loaded_before(config, path):
    with pytest.warns(ConfigWarning, match='load_from is zoo://openlab/mobilenet-v2 now'):
        cfg = load_config(config, [f'{path}=openlab/mobilenet-v2'])
    place = path.partition('.')[2]
    assert cfg.load_from.source == 'zoo://openlab/mobilenet-v2' and cfg.load_from.replace_head
    allowed, = cfg.load_from.allow_missing
    assert re.search(allowed, 'head.fc.weight') and not re.search(allowed, f'{place}.stem.weight')


def test_a_pyramid_around_published_weights_may_be_new():
    with pytest.warns(ConfigWarning):
        cfg = load_config(FCOS, ['model.backbone=timm/vit_small_patch14_dinov2.lvd142m'])
    allowed, = cfg.load_from.allow_missing
    assert 'norm' not in cfg.model.backbone.backbone, 'frozen batch norms are for batch norms'
    assert re.search(allowed, 'backbone.neck.x')
    assert not re.search(allowed, 'backbone.backbone.x')


@pytest.mark.filterwarnings('ignore::openlab.config.ConfigWarning')
@pytest.mark.parametrize('name', [
    'hiera_base_224.mae', 'poolformer_m36.sail_in1k', 'tiny_vit_11m_224.dist_in22k',
    'convnext_tiny.fb_in1k', 'swin_tiny_patch4_window7_224.ms_in1k', 'resnet50.a1_in1k'])
def test_weights_of_any_kind_of_network_go_under_a_detector(name):
    cfg = load_config(FCOS, [f'model.backbone=timm/{name}'])
    assert cfg.load_from.source == f'zoo://timm/{name}'


@pytest.mark.filterwarnings('ignore::openlab.config.ConfigWarning')
@pytest.mark.parametrize('name', [
    'convnext_atto.d2_in1k', 'hiera_tiny_224.mae_in1k_ft_in1k', 'mobilenetv3_small_050.lamb_in1k',
    'swin_tiny_patch4_window7_224.ms_in1k', 'vit_tiny_patch16_224.augreg_in21k_ft_in1k'])
def test_published_weights_fill_the_backbone_of_a_detector(name):
    timm = pytest.importorskip('timm')
    cfg = load_config(FCOS, [f'model.backbone=timm/{name}']).to_plain()
    model = build(cfg['model'], path='model')
    how = {key: value for key, value in cfg['load_from'].items() if key != 'source'}
    report = load_weights(model, timm.create_model(name.partition('.')[0]).state_dict(), **how)
    new = [n for n in report.missing if n.startswith('backbone.')]
    assert all('.norms.' in n or n.startswith('backbone.neck.') for n in new), new
    assert len(report.matched) > 100


@pytest.mark.filterwarnings('ignore::openlab.config.ConfigWarning')
def test_images_are_normalised_as_swapped_weights_want_it(tmp_path):
    name = 'zoo://efficientnet-lite0'
    with pytest.warns(ConfigWarning, match=r'preprocessor\.mean is \[127\.5'):
        cfg = load_config('csra_resnet101_30e_voc', [f'model.backbone={name}'])
    assert cfg.model.preprocessor.mean == cfg.model.preprocessor.std == [127.5] * 3
    out = tmp_path / 'swapped.py'
    assert cli.main(['config', 'swap', 'csra_resnet101_30e_voc', f'model.backbone={name}',
                     '-o', str(out)]) == 0
    assert load_config(out).model.preprocessor.mean == [127.5] * 3
    with pytest.warns(ConfigWarning):
        cfg = load_config('csra_resnet101_30e_voc', [
            f'model.backbone={name}', 'model.preprocessor.mean=[1.0, 2.0, 3.0]'])
    assert cfg.model.preprocessor.mean == [1.0, 2.0, 3.0]
    assert cfg.model.preprocessor.std == [127.5] * 3


def test_later_edits_reach_into_the_new_part():
    cfg = load_config('quickstart/segmentation',
                      ['model.backbone=ResNet-18', 'model.backbone.base_channels=8'])
    assert (cfg.model.backbone.depth, cfg.model.backbone.base_channels) == (18, 8)
    assert cfg.model.backbone.out_stages == (1, 2, 3, 4)  # strides 2 to 16, as before


def test_what_is_no_part_stays_an_ordinary_edit():
    cfg = load_config(FCOS, ['model.neck.extra=pool'])
    assert cfg.model.neck.extra == 'pool'


def test_a_plain_transformer_gets_a_pyramid():
    cfg = load_config('quickstart/detection', ['model.backbone=ViT-Ti/16'])
    shell = cfg.model.backbone
    assert shell.type.dotted_path.endswith('.DenseBackbone')
    assert shell.backbone.output == 'maps'
    assert shell.neck.strides == (4, 8, 16)


def test_a_classifier_takes_a_backbone_as_it_was_published():
    cfg = load_config('quickstart/classification', ['model.backbone=ViT-Ti/16'])
    assert cfg.model.backbone.type.dotted_path.endswith('.VisionTransformer')
    assert 'output' not in cfg.model.backbone


@pytest.mark.parametrize('backbone', ['ViT-Tiny', 'ConvNeXt-T', 'Swin-T', 'HRNet'])
@pytest.mark.parametrize('config', [
    'csra/csra_resnet101_30e_voc', 'deit/deit_tiny_distilled_300e_imagenet',
    'hrnet/hrnet_w18_100e_imagenet', 'vgg/vgg16_100e_imagenet',
    'mobilenet_v3/mobilenet_v3_large_300e_imagenet',
    'arcface/arcface_resnet18_20e_digits'])
@pytest.mark.filterwarnings('ignore::openlab.config.ConfigWarning')
def test_a_classifier_of_any_head_and_neck_runs_on_any_backbone(config, backbone):
    model = load_config(f'classification/{config}', [f'model.backbone={backbone}']).to_plain()[
        'model']
    with torch.device('meta'):
        logits = build(model, path='model').eval().outputs(torch.zeros(2, 3, 224, 224))
    assert logits.shape == (2, model['head']['num_classes'])


def test_a_neck_makes_the_levels_of_the_one_before():
    cfg = load_config('retinanet_resnet50_12e_coco', ['model.neck=SimplePyramid'])
    assert cfg.model.neck.in_stride == 32
    assert cfg.model.neck.strides == (8, 16, 32, 64, 128)
    assert cfg.model.neck.out_channels == 256


def test_swap_writes_a_config_that_loads_and_inherits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['config', 'swap', FCOS, 'model.backbone=ShuffleNetV2-0.5',
                     'model.head.cls_loss=FocalLoss']) == 0
    file = tmp_path / 'fcos_resnet50_12e_coco_shufflenetv2_0_5_focalloss.py'
    text = file.read_text('utf-8')
    assert 'from openlab.configs.detection.fcos.fcos_resnet50_12e_coco import *' in text
    assert 'model.backbone = dict(type=ShuffleNetV2, width=0.5, out_stages=(3, 4, 5))' in text
    assert f'written to {file.name}' in capsys.readouterr().out
    assert load_config(file).model.head.num_classes == 80
    assert cli.main(['config', 'swap', FCOS, 'model.backbone=ShuffleNetV2-0.5',
                     'model.head.cls_loss=FocalLoss']) == 2
    assert 'exists already' in capsys.readouterr().err


def test_swap_of_a_written_config_inherits_it_by_its_place(tmp_path, capsys):
    base = tmp_path / 'a.py'
    base.write_text(textwrap.dedent('''
        model = dict(
            type='ImageClassifier', backbone=dict(type='ResNet', depth=18),
            head=dict(type='LinearHead', num_classes=3))
        test_dataloader = dict(dataset=dict(
            type='Digits', pipeline=[dict(type='Resize', size=32), dict(type='PackInputs')]))
        '''))
    out = tmp_path / 'deep' / 'b.py'
    assert cli.main(['config', 'swap', str(base), 'model.backbone=ResNet-34', '-o', str(out)]) == 0
    assert 'from ..a import *' in out.read_text('utf-8')
    assert load_config(out).model.backbone.depth == 34
    assert cli.main(['config', 'swap', str(base), 'model.backbone=DiceLoss']) == 2
    assert 'DiceLoss is a loss' in capsys.readouterr().err


def test_parts_that_do_not_go_together_are_told_before_a_file_is_written(tmp_path, capsys):
    out = tmp_path / 'b.py'
    assert cli.main(['config', 'swap', 'retinanet_resnet50_12e_coco',
                     'model.neck=dict(type=FPN)', '-o', str(out)]) == 2
    assert 'level' in capsys.readouterr().err
    assert not out.exists()


def test_every_published_name_is_a_backbone_of_its_config():
    names = published_names()
    assert names['resnet18'].endswith('resnet18_100e_imagenet')
    assert names['mit_b1'].startswith('segmentation/segformer/')


def test_sizes_are_read_off_annotations_and_tables():
    assert sizes_of(MODELS.get('MobileNetV3')) == ('size', ('large', 'small'))
    assert sizes_of(MODELS.get('ResNet')) == ('depth', (18, 34, 50, 101, 152))


def test_kinds_of_parts():
    entries = MODELS.entries()
    kinds = {n: kind_of(entries[n].module, n) for n in (
        'ResNet', 'FPN', 'DiceLoss', 'FCOSHead', 'LinearHead', 'IoUAssigner', 'BalancedSampler',
        'TextTransformer', 'ImagePreprocessor', 'AnchorGenerator', 'FCOS', 'HRMerge')}
    assert kinds == {
        'ResNet': 'backbone', 'FPN': 'neck', 'DiceLoss': 'loss', 'FCOSHead': 'head',
        'LinearHead': 'head', 'IoUAssigner': 'assigner', 'BalancedSampler': 'sampler',
        'TextTransformer': 'text backbone', 'ImagePreprocessor': 'preprocessor',
        'AnchorGenerator': 'anchor generator', 'FCOS': 'algorithm', 'HRMerge': 'neck'}
