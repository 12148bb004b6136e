import math

import pytest
import torch

from openlab.config.build import build
from openlab.layers.ramp import CosineRamp, LinearRamp, Progress, as_ramp


def values(ramp, iters, max_iters=10, iters_per_epoch=5):
    found = []
    for number in iters:
        ramp.progress = Progress(number, max_iters, iters_per_epoch)
        found.append(ramp.value)
    return found


def test_a_straight_line_over_the_whole_training():
    assert values(LinearRamp(1.0, 3.0), (0, 5, 10)) == pytest.approx([1.0, 2.0, 3.0])


def test_half_a_wave_is_flat_at_both_ends():
    ramp = CosineRamp(0.996, 1.0)
    assert values(ramp, (0, 5, 10)) == pytest.approx([0.996, 0.998, 1.0])
    # as DINO and MoCo v3 write it
    for i in range(11):
        expected = 1.0 + 0.5 * (0.996 - 1.0) * (1 + math.cos(math.pi * i / 10))
        assert values(ramp, [i])[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('length', [{'epochs': 0.8}, {'iters': 4}])
def test_after_a_shorter_ramp_the_value_stays(length):
    assert values(LinearRamp(0.0, 1.0, **length), (0, 2, 4, 9)) == pytest.approx([0, 0.5, 1, 1])


def test_before_any_progress_a_ramp_has_its_first_value():
    assert LinearRamp(0.5, 2.0).value == CosineRamp(0.5, 2.0).value == 0.5


def test_a_number_is_a_ramp_that_stays():
    ramp = as_ramp(0.3)
    assert values(ramp, (0, 7)) == [0.3, 0.3]
    assert as_ramp(ramp) is ramp


def test_a_ramp_is_found_in_a_model_and_adds_nothing_to_its_weights():
    model = torch.nn.Module()
    model.momentum = build({'type': 'CosineRamp', 'start': 0.9, 'end': 1, 'epochs': 3})
    assert [m for m in model.modules() if isinstance(m, CosineRamp)] == [model.momentum]
    assert not model.state_dict()
    assert '0.9 -> 1, epochs=3' in repr(model)


@pytest.mark.parametrize('length', [{'epochs': 1, 'iters': 1}, {'epochs': 0}, {'iters': -1}])
def test_a_length_that_cannot_be_is_refused(length):
    with pytest.raises(ValueError, match='ramp'):
        LinearRamp(0, 1, **length)
