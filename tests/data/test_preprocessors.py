import pytest
import torch

from openlab.data.preprocessors import CutMix, ImagePreprocessor, MixUp, RandomBatchAugment
from openlab.structures.data_sample import DataSample

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]


def samples_of(labels):
    return [DataSample(label=torch.tensor(label)) for label in labels]


def test_a_batch_is_normalised_as_by_hand():
    inputs = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    found = ImagePreprocessor(MEAN, STD)({'inputs': inputs, 'samples': samples_of([0, 1])})
    expected = (inputs.float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(found['inputs'], expected)
    assert 'pad_shape' not in found['samples'][0].meta
    assert ImagePreprocessor(to_float=False)({'inputs': inputs})['inputs'].dtype == torch.uint8


def test_float_inputs_are_not_changed_in_place():
    inputs = torch.rand(1, 3, 2, 2)
    before = inputs.clone()
    ImagePreprocessor(MEAN, STD)({'inputs': inputs})
    assert torch.equal(inputs, before)


def test_images_of_different_size_are_padded_below_and_right():
    images = [torch.full((3, 4, 9), 50, dtype=torch.uint8),
              torch.full((3, 7, 5), 60, dtype=torch.uint8)]
    given = samples_of([0, 1])
    found = ImagePreprocessor([10.5] * 3, STD, pad_divisor=8)({'inputs': images, 'samples': given})
    assert found['inputs'].shape == (2, 3, 8, 16)
    assert (found['inputs'][0, 0, :4, :9] == (50 - 10.5) / 2).all()
    assert (found['inputs'][0, :, 4:] == 0).all() and (found['inputs'][1, :, :, 5:] == 0).all()
    assert [s.meta['pad_shape'] for s in found['samples']] == [(8, 16)] * 2
    assert given[0].meta == {}, 'the samples of the loader stay as they were'
    padded = ImagePreprocessor(MEAN, STD, pad_value=0)({'inputs': images})['inputs']
    assert padded[0, 0, 6, 0] == -5


def test_a_batch_that_is_no_multiple_is_padded_too():
    found = ImagePreprocessor(pad_divisor=4)({'inputs': torch.ones(2, 3, 5, 8)})['inputs']
    assert found.shape == (2, 3, 8, 8) and found[:, :, 5:].abs().sum() == 0
    assert (found[:, :, :5] == 1).all()


def test_the_constants_are_metadata_and_not_weights():
    preprocessor = ImagePreprocessor(MEAN, STD, pad_divisor=32)
    assert preprocessor.state_dict() == {}
    assert preprocessor.preprocessing()['mean'] == MEAN
    assert preprocessor.preprocessing()['pad_divisor'] == 32
    assert preprocessor.to('meta').mean.device.type == 'meta'
    with pytest.raises(ValueError, match='std positive'):
        ImagePreprocessor(MEAN, [0, 1, 1])


def test_mixup_mixes_images_and_labels_by_one_weight():
    torch.manual_seed(0)
    inputs = torch.eye(4).view(4, 1, 2, 2).repeat(1, 3, 1, 1)  # image i is a one-hot code of i
    mixed, samples = MixUp(4, alpha=1.0)(inputs, samples_of([0, 1, 2, 3]))
    for image, sample in zip(mixed, samples):
        assert torch.allclose(image[0].flatten(), sample.label_probs)
        assert sample.label_probs.sum().item() == pytest.approx(1)
    assert not torch.equal(mixed, inputs)


def test_cutmix_pastes_a_rectangle_and_weighs_by_its_area():
    torch.manual_seed(1)
    inputs = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 20).clone()
    for _ in range(10):
        mixed, samples = CutMix(4)(inputs, samples_of([0, 1, 2, 3]))
        for own, (image, sample) in enumerate(zip(mixed, samples)):
            share = (image[0] == own).float().mean().item()
            assert sample.label_probs[own].item() == pytest.approx(share, abs=1e-5)
    assert torch.equal(inputs[:, 0, 0, 0], torch.arange(4.0))


def test_mixing_happens_in_training_only_and_as_often_as_asked():
    torch.manual_seed(0)
    mix = RandomBatchAugment([MixUp(2), CutMix(2)], probs=[0.3, 0.3])
    preprocessor = ImagePreprocessor(batch_augments=[mix])
    changed = 0
    for _ in range(200):
        batch = {'inputs': torch.rand(2, 3, 4, 4), 'samples': samples_of([0, 1])}
        assert preprocessor(batch)['samples'][0].label_probs is None
        changed += preprocessor(batch, True)['samples'][0].label_probs is not None
    assert 95 < changed < 145


def test_soft_labels_are_mixed_again_and_wrong_labels_named():
    soft = [DataSample(label_probs=torch.tensor([0.5, 0.5])),
            DataSample(label_probs=torch.tensor([0.0, 1.0]))]
    _, mixed = MixUp(2)(torch.rand(2, 3, 2, 2), soft)
    assert mixed[0].label_probs.sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r'label 5 .* num_classes - 1 = 1'):
        MixUp(2)(torch.rand(2, 3, 2, 2), samples_of([0, 5]))


@pytest.mark.parametrize(('asked', 'training', 'expected'), [
    (True, True, True), (False, False, False), (None, False, True), (None, True, False)])
def test_channels_last_changes_the_layout_and_no_value(asked, training, expected):
    inputs = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    plain = ImagePreprocessor(MEAN, STD, channels_last=False)({'inputs': inputs})['inputs']
    found = ImagePreprocessor(MEAN, STD, channels_last=asked)(
        {'inputs': inputs}, training)['inputs']
    assert torch.equal(found, plain)
    assert found.is_contiguous(memory_format=torch.channels_last) is expected
