"""What names and shapes of OpenMMLab's weights do not tell."""

import pytest

from openlab.config import load_config
from openlab.zoo.openmmlab_configs import CLASSIFIERS, config_of, find_published


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
    ('efficientnet/efficientnet-b0_8xb32-01norm_in1k', 127.5, 127.5),
    ('efficientnet/efficientnet-b0_8xb32_in1k', 123.675, 58.395),
    ('efficientnet_v2/efficientnetv2-b0_8xb32_in1k', 123.675, 58.395),
    ('efficientnet_v2/efficientnetv2-l_8xb32_in21k', 127.5, 127.5),
    ('van/van-tiny_8xb128_in1k', 127.5, 127.5),
    ('beit/benchmarks/beit-base-p16_8xb64_in1k', 127.5, 127.5),
    ('beitv2/benchmarks/beit-base-p16_8xb64_in1k', 123.675, 58.395),
    ('eva/eva-l-p14_8xb16_in1k-336px', 122.7709383, 68.5005327),
    ('eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k', 123.675, 58.395),
    ('resnet/resnet50_8xb16_cifar100', 129.304, 68.17),
    ('resnet/resnet50_8xb16_cifar10', 125.307, 51.5865),
    ('arcface/resnet50-arcface_8xb32_inshop', 123.675, 58.395),
    ('inception_v3/inception-v3_8xb32_in1k', 123.675, 58.395)])
def test_images_are_normalised_as_in_the_training(name, mean, std):
    preprocessor = model_of(name)['preprocessor']
    assert (preprocessor['mean'][0], preprocessor['std'][0]) == (mean, std)


@pytest.mark.parametrize(('name', 'settings'), [
    ('eva/benchmarks/vit-base-p16_8xb2048-linear-coslr-100e_in1k', {'output': None}),
    ('eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k', {'output': 'mean'}),
    ('mocov3/benchmarks/vit-small-p16_8xb128-linear-coslr-90e_in1k', {'num_heads': 12}),
    ('mocov3/benchmarks/vit-base-p16_8xb64-coslr-150e_in1k', {'num_heads': None}),
    ('simmim/benchmarks/swin-large-w14_8xb256-coslr-100e_in1k',
     {'window_size': 14, 'always_shift': True})])
def test_what_shapes_do_not_show_is_as_in_the_training(name, settings):
    backbone = model_of(name)['backbone']
    assert {key: backbone.get(key) for key in settings} == settings


def test_every_row_leads_to_a_pattern_of_its_own():
    assert len({row.pattern for row in CLASSIFIERS}) == len(CLASSIFIERS)
