import cv2
import numpy as np
import pytest
import torchvision.transforms as T
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from openlab.data.transforms import color
from openlab.data.transforms.policies import AutoAugment, RandAugment, TrivialAugmentWide


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 5, 240, cv2.NORM_MINMAX)


def difference(ours, theirs):
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.parametrize('factor', [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize('ours, theirs, tolerance', [
    (color.adjust_brightness, F.adjust_brightness, 0),
    (color.adjust_contrast, F.adjust_contrast, 1),
    (color.adjust_saturation, F.adjust_saturation, 1),
    (color.adjust_sharpness, F.adjust_sharpness, 1),
])
def test_blends_equal_pillow(image, ours, theirs, tolerance, factor):
    expected = theirs(Image.fromarray(image), factor)
    assert difference(ours(image, factor), expected).max() <= tolerance


@pytest.mark.parametrize('ours, theirs', [
    (color.equalize, F.equalize), (color.auto_contrast, F.autocontrast), (color.invert, F.invert),
    (lambda x: color.posterize(x, 3), lambda x: F.posterize(x, 3)),
    (lambda x: color.solarize(x, 100), lambda x: F.solarize(x, 100)),
])
def test_other_operations_equal_pillow_to_the_last_bit(image, ours, theirs):
    for one in (image, np.full_like(image, 9)):
        assert np.array_equal(ours(one), np.asarray(theirs(Image.fromarray(one))))


def test_gray_agrees_with_pillow_within_rounding(image):
    assert difference(color.to_gray(image), F.to_grayscale(Image.fromarray(image), 3)).max() <= 1


def test_hue_agrees_with_pillow_within_its_own_rounding(image):
    # Both round hues to 8 bits, at different places.
    for shift in (0.1, -0.3, 0.5):
        theirs = F.adjust_hue(Image.fromarray(image), shift)
        found = difference(color.adjust_hue(image, shift), theirs)
        assert found.mean() < 1 and found.max() <= 12
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    green = color.adjust_hue(red, 1 / 3)
    assert green[0, 0, 1] >= 198 and green[0, 0, 0] <= 3


def test_jitter_keeps_within_its_ranges_and_differs():
    gray = {'img': np.full((4, 4, 3), 100, np.uint8)}
    np.random.seed(0)
    jitter = color.ColorJitter(brightness=0.2)
    values = [jitter(dict(gray))['img'][0, 0, 0] for _ in range(50)]
    assert 80 <= min(values) < 85 and 115 < max(values) <= 120
    with pytest.raises(ValueError, match='hue'):
        color.ColorJitter(hue=0.7)


@pytest.mark.parametrize('make', [
    lambda: color.ColorJitter(0.4, 0.4, 0.4, 0.1), lambda: color.RandomHSV(),
    lambda: color.RandomGrayscale(1.0), lambda: color.GaussianBlur(prob=1.0),
    lambda: color.Solarize(prob=1.0), lambda: color.Posterize(prob=1.0),
    lambda: color.Equalize(prob=1.0), lambda: color.AutoContrast(prob=1.0),
    lambda: color.Invert(prob=1.0), lambda: color.RandomSharpness(prob=1.0),
    lambda: RandAugment(), lambda: TrivialAugmentWide(), lambda: AutoAugment('cifar'),
])
def test_color_transforms_change_pixels_and_nothing_else(image, make):
    np.random.seed(1)
    transform = make()
    changed = 0
    for _ in range(5):
        before = image.copy()
        results = transform({'img': before, 'label': 3})
        assert results['img'].shape == image.shape and results['img'].dtype == np.uint8
        assert results['label'] == 3
        assert np.array_equal(before, image), 'the input array must not change'
        changed += not np.array_equal(results['img'], image)
    assert changed >= 2


def test_policies_are_those_of_torchvision():
    for name, theirs in (('imagenet', 'imagenet'), ('cifar', 'cifar10')):
        reference = T.AutoAugment(T.AutoAugmentPolicy(theirs)).policies
        assert AutoAugment(name).policies == reference
    with pytest.raises(ValueError, match='no operation named'):
        AutoAugment([[('Twirl', 0.5, 3)]])


@pytest.mark.parametrize('ours, space, bins', [
    (RandAugment(), lambda: T.RandAugment()._augmentation_space(31, (40, 56)), 31),
    (TrivialAugmentWide(), lambda: T.TrivialAugmentWide()._augmentation_space(31), 31),
    (AutoAugment(), lambda: T.AutoAugment()._augmentation_space(10, (40, 56)), 10),
])
def test_strengths_are_those_of_torchvision(ours, space, bins):
    checked = 0
    for name, (values, _) in space().items():
        if values.ndim:
            found = [ours.magnitude(name, i / (bins - 1), 40, 56) for i in range(bins)]
            assert np.allclose(found, values.numpy()), name
            checked += 1
    assert checked == 11


@pytest.mark.parametrize('name, magnitude', [
    ('Rotate', 17), ('Rotate', -29), ('ShearX', 0.17), ('ShearY', -0.23), ('TranslateX', 7),
    ('TranslateY', -5)])
def test_geometric_operations_equal_torchvision(image, name, magnitude):
    policy = RandAugment(interpolation='nearest', fill=0)
    ours = policy.apply_magnitude({'img': image}, name, magnitude)['img']
    theirs = T.autoaugment._apply_op(Image.fromarray(image), name, magnitude,
                                     InterpolationMode.NEAREST, None)
    # OpenCV rounds source coordinates to 1/1024, which decides a few nearest pixels otherwise.
    assert (difference(ours, theirs) > 0).any(axis=-1).mean() < 0.06
    assert np.median(difference(ours, theirs)) == 0 and difference(ours, theirs).mean() < 1


def test_each_operation_of_rand_augment_is_left_out_as_often_as_asked(monkeypatch):
    policy = RandAugment(num_ops=2, prob=0.25)
    calls = []
    monkeypatch.setattr(policy, 'apply', lambda results, *_: calls.append(1) or results)
    np.random.seed(0)
    for _ in range(2000):
        policy({'img': np.zeros((2, 2, 3), np.uint8)})
    assert 0.22 < len(calls) / 4000 < 0.28
    with pytest.raises(ValueError, match='prob must be between 0 and 1'):
        RandAugment(prob=1.5)
