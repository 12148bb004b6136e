"""What names and shapes of OpenMMLab's weights do not tell."""

import pytest

from openlab.config import load_config
from openlab.zoo.index import entry
from openlab.zoo.openmmlab_configs import CLASSIFIERS, config_of, find_published
from openlab.zoo.recipe import config_of as config_of_entry


def model_of(name):
    row = find_published(f'configs/{name}.py')
    return load_config(config_of(row, f'configs/{name}.py'),
                       row.overrides(f'configs/{name}.py')).to_plain()['model']


@pytest.mark.parametrize(('name', 'eps', 'padding'), [
    ('efficientnet/efficientnet-b0_8xb32_in1k', 1e-3, 'same'),
    ('efficientnet_v2/efficientnetv2-s_8xb32_in21k', 1e-3, 'same'),
    ('mobilenet_v3/mobilenet-v3-large_8xb128_in1k', 1e-3, None),
    ('mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k', None, None)])
def test_epsilon_and_padding_are_those_of_the_training(name, eps, padding):
    backbone = model_of(name)['backbone']
    assert backbone.get('norm', {}).get('eps') == eps
    assert backbone.get('padding') == padding


@pytest.mark.parametrize(('name', 'mean', 'std'), [
    ('efficientnet-b0_3rdparty-ra-noisystudent_in1k', 123.675, 58.395),
    ('efficientnet-b0_3rdparty_8xb32-aa-advprop_in1k', 127.5, 127.5),
    ('efficientnetv2-b0_3rdparty_in1k', 123.675, 58.395),
    ('efficientnetv2-l_3rdparty_in21k', 127.5, 127.5),
    ('van-tiny_3rdparty_in1k', 127.5, 127.5),
    ('beit-base-p16_beit-pre_8xb128-coslr-100e_in1k', 127.5, 127.5),
    ('beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k', 123.675, 58.395),
    ('beit-l-p14_eva-pre_3rdparty_in1k-336px', 122.7709, 68.5005),
    ('resnet50_8xb16_cifar100', 129.304, 68.17),
    ('resnet50_8xb16_cifar10', 125.307, 51.5865),
    ('resnet101-csra_1xb16_voc07-448px', 0, 255),
    ('resnet50-arcface_inshop', 123.675, 58.395),
    ('regnetx-400mf_8xb128_in1k', 123.675, 58.395),
    ('inception-v3_3rdparty_8xb32_in1k', 123.675, 58.395)])
def test_images_are_normalised_as_in_the_training(name, mean, std):
    preprocessor = config_of_entry(entry(f'mmpretrain/{name}'))['model']['preprocessor']
    assert (preprocessor['mean'][0], preprocessor['std'][0]) == (mean, std)


@pytest.mark.parametrize(('name', 'steps'), [
    ('resnet50_8xb32_in1k', [
        ('Resize', {'shorter': 256, 'interpolation': 'bilinear', 'backend': 'cv2',
                    'antialias': False}), ('CenterCrop', {'size': 224})]),
    ('vit-base-p16_in21k-pre_3rdparty_in1k-384px', [
        ('Resize', {'shorter': 384, 'interpolation': 'bilinear', 'backend': 'pillow'}),
        ('CenterCrop', {'size': 384})]),
    ('efficientnet-b0_3rdparty_8xb32_in1k', [
        ('CenterSquare', {'share': 0.875}),
        ('Resize', {'size': 224, 'interpolation': 'bicubic', 'backend': 'cv2',
                    'antialias': False})]),
    ('resnet18_8xb16_cifar10', [
        ('Resize', {'size': 32, 'interpolation': 'bilinear', 'backend': 'pillow'}),
        ('CenterCrop', {'size': 32})])])
def test_images_get_the_size_of_the_evaluation(name, steps):
    pipeline = config_of_entry(entry(f'mmpretrain/{name}'))['test_dataloader']['dataset'][
        'pipeline']
    found = [(step.pop('type').rpartition('.')[2], step) for step in pipeline[1:-1]]
    assert found == steps


@pytest.mark.parametrize(('name', 'settings'), [
    ('eva/benchmarks/vit-base-p16_8xb2048-linear-coslr-100e_in1k', {'output': None}),
    ('eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k', {'output': 'mean'}),
    ('mocov3/benchmarks/vit-small-p16_8xb128-linear-coslr-90e_in1k', {'num_heads': 12}),
    ('mocov3/benchmarks/vit-base-p16_8xb64-coslr-150e_in1k', {'num_heads': None}),
    ('simmim/simmim_swin-large-w12_16xb128-amp-coslr-800e_in1k-192px',
     {'window_size': 12, 'always_shift': True}),
    ('simmim/benchmarks/swin-base-w7_8xb256-coslr-100e_in1k',
     {'window_size': 7, 'always_shift': None}),
    ('simmim/benchmarks/swin-large-w14_8xb256-coslr-100e_in1k',
     {'window_size': 14, 'always_shift': True})])
def test_what_shapes_do_not_show_is_as_in_the_training(name, settings):
    backbone = model_of(name)['backbone']
    assert {key: backbone.get(key) for key in settings} == settings


def test_every_row_leads_to_a_pattern_of_its_own():
    assert len({row.pattern for row in CLASSIFIERS}) == len(CLASSIFIERS)
