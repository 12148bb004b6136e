import pytest
import torch

from openlab.structures.data_sample import DataSample


def good():
    return DataSample(
        meta={'img_path': 'a.jpg'}, label=torch.tensor(2), boxes=torch.rand(2, 4),
        labels=torch.tensor([0, 1]), masks=torch.zeros(2, 5, 6, dtype=torch.bool),
        keypoints=torch.rand(2, 3, 3), semantic_map=torch.zeros(5, 6, dtype=torch.long))


def test_a_good_sample_is_valid_and_prints_its_shapes():
    sample = good().validate(num_classes=3)
    text = repr(sample)
    assert "'img_path': 'a.jpg'" in text and 'label=2' in text and 'boxes=(2, 4) float32' in text
    assert 'tokens' not in text
    assert len(sample) == 2


@pytest.mark.parametrize('change, error, message', [
    ({'boxes': torch.rand(2, 5)}, ValueError, r'boxes of a\.jpg must have shape \(N, 4\)'),
    ({'boxes': torch.rand(3, 4)}, ValueError, r"a\.jpg: numbers of objects differ: {'boxes': 3"),
    ({'boxes': [[0, 0, 1, 1]]}, TypeError, 'boxes .* must be a tensor, got list'),
    ({'labels': torch.rand(2)}, TypeError, 'labels .* must hold integer values, got torch.float32'),
    ({'masks': torch.zeros(2, 5, 6)}, TypeError, 'masks .* must hold bool values'),
    ({'label': torch.tensor(3)}, ValueError, 'label .* from 0 to num_classes - 1 = 2, got 3'),
    ({'labels': torch.tensor([0, -1])}, ValueError, 'labels .* got -1'),
])
def test_a_wrong_field_is_named_with_its_item(change, error, message):
    sample = good()
    for name, value in change.items():
        setattr(sample, name, value)
    with pytest.raises(error, match=message):
        sample.validate(num_classes=3)


def test_moving_a_sample_keeps_the_original_and_takes_extra_tensors_along():
    sample = DataSample(label=torch.tensor(1), extra={'depth': torch.rand(2), 'note': 'x'})
    moved = sample.to('meta')
    assert moved.label.device.type == moved.extra['depth'].device.type == 'meta'
    assert moved.extra['note'] == 'x' and sample.label.device.type == 'cpu'
