"""Images are prepared as the sources of the weights prepare them, to the last step of 255."""

import json

import numpy as np
import pytest
import torch
from skimage import data

from openlab.config.build import build
from openlab.registry import TRANSFORMS
from openlab.zoo.index import checks, entry
from openlab.zoo.recipe import pipeline_of

SIZE = (400, 451)  # of no common ratio


def photograph():
    return np.ascontiguousarray(data.coffee()[: SIZE[0], : SIZE[1]])


def prepared(preprocessing):
    """What our pipeline and preprocessor make of the photograph, (3, H, W)."""
    results = {'img': photograph()}
    for step in pipeline_of(preprocessing)[1:-1]:
        results = build(step, TRANSFORMS, 'step')(results)
    image = torch.from_numpy(np.ascontiguousarray(results['img'])).permute(2, 0, 1).float()
    mean, std = (torch.tensor(preprocessing[key])[:, None, None] for key in ('mean', 'std'))
    return (image - mean) / std


def of_timm(name):
    import timm

    cfg = timm.models.get_pretrained_cfg(name).to_dict()
    return timm.data.create_transform(
        **timm.data.resolve_data_config({}, pretrained_cfg=cfg, use_test_size=True))


def of_torchvision(name):
    from torchvision import models

    architecture, _, weights = name.partition('.')
    return models.get_model_weights(architecture)[weights].transforms()


def distinct(source):
    """An entry that runs for each way to prepare images, as the index tells it."""
    found = {}
    for name in checks():
        told = entry(name).get('preprocessing') if name.startswith(f'{source}/') else None
        if told and 'crop' in told:
            found.setdefault(json.dumps(told), (name.partition('/')[2], told))
    return found.values()


@pytest.mark.slow
@pytest.mark.parametrize(('source', 'at_least', 'transform_of'), [
    ('timm', 40, of_timm), ('torchvision', 15, of_torchvision)])
def test_every_way_to_prepare_images_is_that_of_the_source(source, at_least, transform_of):
    from PIL import Image

    kinds = distinct(source)
    assert len(kinds) >= at_least
    for name, told in kinds:
        expected = transform_of(name)(Image.fromarray(photograph()))
        got = prepared(told)
        assert got.shape == expected.shape, name
        # A step of 255 is 0.014 to 0.02.
        assert (got - expected).abs().max() < 1e-3, name


@pytest.mark.parametrize(('source', 'name', 'transform_of'), [
    ('timm', 'resnet50.a1_in1k', of_timm), ('timm', 'vit_base_patch16_384.augreg_in1k', of_timm),
    ('torchvision', 'resnet50.IMAGENET1K_V2', of_torchvision)])
def test_images_are_prepared_as_by_the_source(source, name, transform_of):
    from PIL import Image

    expected = transform_of(name)(Image.fromarray(photograph()))
    got = prepared(entry(f'{source}/{name}')['preprocessing'])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
