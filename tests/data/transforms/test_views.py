"""Several views of one image, and the colour transforms that their recipes use."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from openlab.config.build import build
from openlab.data.collate import collate
from openlab.data.dataloader import DataLoader
from openlab.data.inspect import draw_items
from openlab.data.preprocessors import ImagePreprocessor, MixUp
from openlab.data.seeding import reseed
from openlab.data.transforms.base import Compose
from openlab.data.transforms.color import GaussianBlur, RandomGrayscale, Solarize, gaussian_blur
from openlab.data.transforms.crop import RandomResizedCrop
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.views import MultiView
from openlab.registry import TRANSFORMS


def results(seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return {'img': image, 'img_id': seed, 'label': 3, 'img_shape': (40, 48), 'ori_shape': (40, 48)}


def two_and_three(last=()):
    return [MultiView([[RandomResizedCrop(16)], [RandomResizedCrop(8), *last]], counts=[2, 3]),
            PackInputs()]


def test_each_pipeline_makes_as_many_views_as_asked_for():
    item = Compose(two_and_three())(results())
    assert [tuple(view.shape) for view in item['inputs']] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * 3
    assert all(view.dtype == torch.uint8 for view in item['inputs'])
    assert item['sample'].label == 3
    assert item['sample'].meta['img_shape'] == (40, 48)


def test_views_differ_and_follow_the_seed_of_the_item():
    def draw(seed):
        reseed(seed, 0, 0)
        return Compose(two_and_three())(results())['inputs']

    first, again, other = draw(1), draw(1), draw(2)
    assert all(a.equal(b) for a, b in zip(first, again))
    assert not first[0].equal(other[0])
    assert not first[0].equal(first[1]) and not first[2].equal(first[3])


def test_a_view_does_not_change_what_the_next_one_sees():
    def paint(given):
        given['img'][:] = 0
        return given

    image = results()['img']
    views = MultiView([[paint], []])(results())['views']
    assert not views[0].any()
    assert np.array_equal(views[1], image)


def test_views_of_a_batch_are_joined_and_prepared_one_by_one():
    items = [Compose(two_and_three())(results(seed)) for seed in range(4)]
    batch = collate(items)
    assert [tuple(view.shape) for view in batch['inputs']] == [(4, 3, 16, 16)] * 2 + [
        (4, 3, 8, 8)] * 3
    assert batch['inputs'][1][2].equal(items[2]['inputs'][1])
    prepared = ImagePreprocessor(mean=[10.0] * 3, std=[2.0] * 3)(batch, training=True)
    for view, raw in zip(prepared['inputs'], batch['inputs'], strict=True):
        torch.testing.assert_close(view, (raw.float() - 10) / 2)
    assert len(prepared['samples']) == 4


def test_an_image_that_a_view_turns_down_is_turned_down():
    assert Compose(two_and_three(last=[lambda given: None]))(results()) is None


def test_the_config_form_builds_nested_pipelines():
    built = build({'type': 'MultiView', 'counts': [2, 1], 'pipelines': [
        [{'type': 'RandomResizedCrop', 'size': 16}],
        [{'type': 'RandomResizedCrop', 'size': 8}, {'type': 'RandomGrayscale', 'prob': 1.0}]]},
        TRANSFORMS)
    views = built(results())['views']
    assert [view.shape for view in views] == [(16, 16, 3)] * 2 + [(8, 8, 3)]
    assert np.array_equal(views[2][..., 0], views[2][..., 1])


@pytest.mark.parametrize(('pipelines', 'counts'), [([], None), ([[]], [1, 2]), ([[]], [0])])
def test_a_count_for_each_pipeline_is_needed(pipelines, counts):
    with pytest.raises(ValueError, match='a positive count for each pipeline'):
        MultiView(pipelines, counts)


def test_views_of_uneven_size_are_refused():
    items = [Compose([MultiView([[]]), PackInputs()])(given)
             for given in (results(), {**results(), 'img': results()['img'][:30]})]
    with pytest.raises(ValueError, match='view 0 must have one size'):
        collate(items)


def test_mixing_labels_of_views_is_refused():
    batch = collate([Compose(two_and_three())(results())])
    with pytest.raises(ValueError, match='several views'):
        ImagePreprocessor(batch_augments=[MixUp(10)])(batch, training=True)


@pytest.mark.parametrize('sigma', [0.3, 1.0, 2.0])
def test_blur_agrees_with_torchvision(sigma):
    image = results()['img']
    theirs = tv.gaussian_blur(torch.from_numpy(image).permute(2, 0, 1), 23, sigma)
    ours = gaussian_blur(image, sigma, 23)
    assert np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_solarize_and_gray_of_the_recipes_agree_with_pillow():
    image = results()['img']
    solarized = Solarize(threshold=128, prob=1.0)({'img': image})['img']
    assert np.array_equal(solarized, np.asarray(tv.solarize(Image.fromarray(image), 128)))
    gray = RandomGrayscale(prob=1.0)({'img': image})['img']
    theirs = np.asarray(Image.fromarray(image).convert('L').convert('RGB'))
    assert np.abs(gray.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize('transform', [
    GaussianBlur(prob=0.5), Solarize(prob=0.2), RandomGrayscale(prob=0.2)])
def test_colour_transforms_happen_as_often_as_they_say(transform):
    reseed(0, 0, 0)
    image = results()['img']
    changed = sum(not np.array_equal(transform({'img': image})['img'], image) for _ in range(400))
    assert abs(changed / 400 - transform.prob) < 0.08


def test_views_are_shown_side_by_side():
    class Photos(torch.utils.data.Dataset):
        metainfo: ClassVar = {'classes': None}

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Compose(two_and_three())(results(index))

    one = draw_items(DataLoader(Photos(), num_workers=0), 1)
    assert one.ndim == 3 and one.dtype == np.uint8
    assert one.shape[1] >= 5 * 16  # five cells as wide as the largest view
